"""The frame of HTTP servers and the HTTP client, over real sockets of this machine."""

import asyncio
import gc
import gzip
import io
import json
import logging
import socket
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import structlog
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from tests.asgi import ask_now

from mtc.errors import (
    ConflictError,
    Error,
    FormatError,
    PeerError,
    ProofError,
    Reason,
    Rejected,
    SignatureError,
    StorageError,
    UsageError,
)
from mtc.web.client import ClientLimits, HTTPClient
from mtc.web.frame import SECURITY_HEADERS, Exchange, FrameChoices, Limits, create_app, name_endpoint
from mtc.web.logs import configure_logs, open_logger
from mtc.web.memory import rare_collections
from mtc.web.problems import STATUS_OF_FAMILY, status_of
from mtc.web.server import MAX_HEAD_BYTES, ServerLimits, loop_factory, serve
from mtc.web.unix import MAX_PATH_BYTES

PATIENCE_S = 60.0
"""How long a test waits for what comes at once."""
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
Handler = Callable[[Request], Awaitable[Response]]


@pytest.fixture(autouse=True)
def quiet_logs() -> Iterator[list[MutableMapping[str, Any]]]:
    """Keep log events instead of printing them, whatever an earlier test configured."""
    structlog.reset_defaults()
    with structlog.testing.capture_logs() as events:
        yield events


def at(path: str, handler: Handler, *methods: str) -> Route:
    """Return a route."""
    return Route(path, handler, methods=list(methods) or ["GET", "POST"])


async def hello(_request: Request) -> Response:
    """Answer with a word."""
    return PlainTextResponse("hello")


def failing(error: Exception) -> Route:
    """Return a route whose handler fails."""

    async def fail(_request: Request) -> Response:
        raise error

    return at("/", fail)


async def exchange_raw(address: tuple[str, int], data: bytes) -> bytes:
    """Send bytes to a server and return what comes until it closes."""
    reader, writer = await asyncio.open_connection(*address)
    writer.write(data)
    try:
        return await reader.read()
    finally:
        writer.close()


# --- the frame


@pytest.mark.parametrize("family", STATUS_OF_FAMILY)
def test_every_family_has_its_status(family: type[Error]) -> None:
    """An error of each family becomes a problem with its status and its reason."""
    reply = ask_now(create_app([failing(family(Reason.UNSUPPORTED, "not today"))]), "/")
    assert reply.status == STATUS_OF_FAMILY[family]
    assert reply.headers["content-type"] == "application/problem+json"
    found = json.loads(reply.body)
    assert (found["status"], found["reason"]) == (reply.status, "unsupported")
    assert ("not today" in found["detail"]) == (family not in {PeerError, StorageError})


def test_table_of_statuses_is_whole() -> None:
    """Each family of errors stands in the table, and size, load and clock have statuses of their own."""
    assert set(STATUS_OF_FAMILY) == set(Error.__subclasses__())
    assert status_of(FormatError(Reason.TOO_LARGE, "")) == 413
    assert status_of(PeerError(Reason.TOO_LARGE, "")) == 503
    assert status_of(Rejected(Reason.BUSY, "")) == 503
    assert status_of(ConflictError(Reason.CLOCK, "")) == 503
    assert (status_of(ProofError(Reason.PEER, "")), status_of(SignatureError(Reason.PEER, ""))) == (422, 403)


def test_missing_token_is_asked_for() -> None:
    """Who is not authorised gets 401 and is told how to be; a 503 says when to come again."""
    reply = ask_now(create_app([failing(Rejected(Reason.UNAUTHORIZED, "a token is needed"))]), "/")
    assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")
    assert ask_now(create_app([failing(Rejected(Reason.BUSY, "full"))]), "/").headers["retry-after"] == "1"


def test_an_unexpected_error_says_nothing_of_itself(quiet_logs: list[MutableMapping[str, Any]]) -> None:
    """A bug answers 500 without text, type or traceback; the log has them."""
    reply = ask_now(create_app([failing(KeyError("secret-name"))]), "/")
    assert reply.status == 500
    assert b"secret-name" not in reply.body
    assert b"KeyError" not in reply.body
    assert b"Traceback" not in reply.body
    assert "secret-name" in quiet_logs[0]["error"]


def test_path_without_route_and_other_method() -> None:
    """A path without a route is 404, another method 405 with `Allow`; both are problems with security headers."""
    app = create_app([at("/", hello, "GET")])
    assert ask_now(app, "/").status == 200
    missing, wrong = ask_now(app, "/other"), ask_now(app, "/", method="DELETE")
    assert (missing.status, wrong.status) == (404, 405)
    assert set(wrong.headers["allow"].split(", ")) == {"GET", "HEAD"}
    assert {missing.headers["content-type"], wrong.headers["content-type"]} == {"application/problem+json"}
    for reply in (missing, wrong, ask_now(app, "/")):
        for name, value in SECURITY_HEADERS.items():
            assert reply.headers[name.lower()] == value
    assert ask_now(create_app([at("/a", hello)]), "/a/").status == 404


def test_content_security_policy_allows_no_script() -> None:
    """The policy starts from nothing and names no source of scripts."""
    policy = SECURITY_HEADERS["Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    assert "script" not in policy
    assert "unsafe" not in policy


def test_log_and_observer_see_each_exchange(quiet_logs: list[MutableMapping[str, Any]]) -> None:
    """One line and one call per request, with endpoint, status and size; the query string is in neither."""

    async def named(request: Request) -> Response:
        name_endpoint(request, "greeting")
        return PlainTextResponse("hello")

    seen: list[Exchange] = []
    app = create_app([at("/x", named)], FrameChoices(observe=seen.append))
    ask_now(app, "/x?token=hush")
    ask_now(app, "/y")
    assert [(item.endpoint, item.status, item.path) for item in seen] == [
        ("greeting", 200, "/x"),
        ("unknown", 404, "/y"),
    ]
    assert seen[0].bytes == 5
    line = quiet_logs[0]
    assert (line["event"], line["endpoint"], line["status"], line["client"]) == (
        "request",
        "greeting",
        200,
        "192.0.2.1",
    )
    assert "hush" not in repr(quiet_logs)


def test_success_may_be_logged_only_when_debugging(quiet_logs: list[MutableMapping[str, Any]]) -> None:
    """Where there are many answers, those that went well have lines of the debug level; failures keep theirs."""
    app = create_app([at("/x", hello)], FrameChoices(logs_success=False))
    ask_now(app, "/x")
    ask_now(app, "/y")
    assert [(line["status"], line["log_level"]) for line in quiet_logs] == [(200, "debug"), (404, "info")]


def test_logs_are_json_for_machines_and_text_for_people() -> None:
    """A stream that is no terminal gets one JSON object per line, those of libraries included."""
    old = structlog.get_config()
    root, handlers, level = logging.getLogger(), logging.getLogger().handlers[:], logging.getLogger().level
    try:
        stream = io.StringIO()
        configure_logs(stream)
        open_logger("web").info("request", status=200)
        logging.getLogger("somebody").warning("careful")
        lines = [json.loads(line) for line in stream.getvalue().splitlines()]
        assert [line["event"] for line in lines] == ["request", "careful"]
        assert (lines[0]["room"], lines[0]["level"], lines[0]["time"][-1]) == ("web", "info", "Z")
        people = io.StringIO()
        configure_logs(people, is_json=False)
        open_logger("web").info("request", status=200)
        assert "request" in people.getvalue()
        assert not people.getvalue().startswith("{")
    finally:
        structlog.configure(**old)
        root.handlers[:] = handlers
        root.setLevel(level)


# --- the server


@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, loop_factory()], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("kind", ["tcp", "unix", "long unix"])
def test_server_and_client_meet(tmp_path: Path, make_loop: Any, kind: str) -> None:  # noqa: ANN401 - a loop factory
    """On both event loops, over TCP, a Unix socket, and one whose path is too long for a socket's address."""

    async def tell(request: Request) -> Response:
        return PlainTextResponse(request.state.listener + " " + (await request.body()).decode())

    async def run() -> None:
        folder = tmp_path / ("x" * 120 if kind == "long unix" else "s")
        folder.mkdir()
        path = folder / "ca.sock"
        assert (len(str(path)) > MAX_PATH_BYTES) == (kind == "long unix")
        place = ("127.0.0.1", 0) if kind == "tcp" else path
        async with serve(create_app([at("/", tell)]), place) as listening:
            if isinstance(listening.address, Path):
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
            else:
                assert listening.address[1] > 0
            async with HTTPClient(socket_path=path if kind != "tcp" else None) as client:
                answer = await client.request("POST", f"{listening.url}/", body=b"there")
        assert answer.body == (b"tcp there" if kind == "tcp" else b"unix there")
        assert not path.exists()

    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.run(run())


def test_body_over_the_limit_is_refused() -> None:
    """A body that announces too much, or brings it unannounced, is 413; a path may have a larger limit."""

    async def size(request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    async def run() -> None:
        choices = FrameChoices(limits=Limits(body_bytes=100), limits_by_prefix={"/large": Limits(body_bytes=10**6)})
        app = create_app([at("/", size), at("/large", size)], choices)
        async with serve(app, ("127.0.0.1", 0)) as listening, HTTPClient() as client:
            for path, length, status in [("/", 100, 200), ("/", 101, 413), ("/large", 500_000, 200)]:
                assert (await client.request("POST", listening.url + path, body=bytes(length))).status == status
            assert isinstance(listening.address, tuple)
            chunks = b"".join(b"10\r\n%b\r\n" % bytes(16) for _ in range(10)) + b"0\r\n\r\n"
            head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
            assert b" 413 " in (await exchange_raw(listening.address, head + chunks)).split(b"\r\n")[0]
            # The body never comes: the head alone decides.
            head = b"POST / HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: 101\r\n\r\n"
            async with asyncio.timeout(PATIENCE_S):
                assert b" 413 " in (await exchange_raw(listening.address, head)).split(b"\r\n")[0]

    asyncio.run(run())


def test_answer_that_takes_too_long_is_a_503() -> None:
    """A handler that waits for ever is stopped; one that had begun its answer leaves it cut off."""

    async def forever(_request: Request) -> Response:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    async def begun(_request: Request) -> Response:
        async def parts() -> Any:  # noqa: ANN401 - a generator
            yield b"begin"
            await asyncio.get_running_loop().create_future()

        return StreamingResponse(parts())

    async def run() -> None:
        app = create_app([at("/", forever), at("/begun", begun)], FrameChoices(limits=Limits(time_s=0.05)))
        async with serve(app, ("127.0.0.1", 0)) as listening, HTTPClient(ClientLimits(attempts=1)) as client:
            answer = await client.fetch(f"{listening.url}/")
            assert (answer.status, answer.headers["retry-after"]) == (503, "1")
            with pytest.raises(PeerError, match="does not answer"):
                await client.fetch(f"{listening.url}/begun")

    asyncio.run(run())


def test_stop_finishes_running_answers() -> None:
    """An answer that is under way when the server stops is sent whole; new connections are refused."""

    async def run() -> None:
        entered, go = asyncio.Event(), asyncio.Event()

        async def slow(_request: Request) -> Response:
            entered.set()
            await go.wait()
            return PlainTextResponse("whole")

        async with HTTPClient(ClientLimits(attempts=1)) as client:
            async with serve(create_app([at("/", slow)]), ("127.0.0.1", 0)) as listening:
                asked = asyncio.create_task(client.fetch(f"{listening.url}/"))
                await entered.wait()
                asyncio.get_running_loop().call_later(0.15, go.set)
            assert (await asked).body == b"whole"
            with pytest.raises(PeerError):
                await client.fetch(f"{listening.url}/")

    asyncio.run(run())


def test_stop_has_a_deadline() -> None:
    """An answer that never comes does not hold the server longer than `stop_s`."""

    async def run() -> None:
        entered = asyncio.Event()

        async def never(_request: Request) -> Response:
            entered.set()
            await asyncio.get_running_loop().create_future()
            raise AssertionError

        async with HTTPClient(ClientLimits(attempts=1)) as client:
            async with asyncio.timeout(PATIENCE_S):
                async with serve(create_app([at("/", never)]), ("127.0.0.1", 0), ServerLimits(stop_s=0)) as listening:
                    asked = asyncio.create_task(client.fetch(f"{listening.url}/"))
                    await entered.wait()
            assert (await asked).status == 503

    asyncio.run(run())


def test_head_without_end_is_cut_off() -> None:
    """A request whose head grows beyond its limit is refused and the connection closed."""

    async def run() -> None:
        async with serve(create_app([at("/", hello)]), ("127.0.0.1", 0)) as listening:
            assert isinstance(listening.address, tuple)
            endless = b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * (MAX_HEAD_BYTES + 1000)
            answer = await exchange_raw(listening.address, endless)
            assert b" 400 " in answer.split(b"\r\n")[0]
            pair = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
            assert (await exchange_raw(listening.address, pair)).count(b"hello") == 2

    asyncio.run(run())


def test_addresses_that_cannot_be_used(tmp_path: Path) -> None:
    """A port or socket in use, a file in the way, and a folder that is not there are said plainly."""

    async def refused(place: tuple[str, int] | Path, match: str) -> None:
        with pytest.raises(UsageError, match=match):
            async with serve(create_app([at("/", hello)]), place):
                raise AssertionError

    async def run() -> None:
        path = tmp_path / "ca.sock"
        async with serve(create_app([at("/", hello)]), ("127.0.0.1", 0)) as listening:
            assert isinstance(listening.address, tuple)
            await refused(listening.address, "choose another port")
        async with serve(create_app([at("/", hello)]), path):
            await refused(path, "serves .* already")
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        async with serve(create_app([at("/", hello)]), path), HTTPClient(socket_path=path) as client:
            assert (await client.fetch("http://unix/")).status == 200
        (tmp_path / "file").write_text("mine")
        await refused(tmp_path / "file", "is no socket")
        assert (tmp_path / "file").read_text() == "mine"
        await refused(tmp_path / "nowhere" / "ca.sock", "cannot be made")
        await refused(tmp_path / "nowhere" / ("x" * 120) / "ca.sock", "cannot be opened")

    asyncio.run(run())


# --- the client


@contextmanager
def counted(*answers: Response) -> Iterator[tuple[Route, list[int]]]:
    """Give a route that answers in order, the last one for ever, and a list that grows with each request."""
    calls: list[int] = []

    async def answer(_request: Request) -> Response:
        calls.append(len(calls))
        return answers[min(len(calls), len(answers)) - 1]

    yield at("/", answer), calls


def run_client(
    route: Route,
    method: str = "GET",
    **choices: Any,  # noqa: ANN401 - of HTTPClient
) -> tuple[Any, list[float], HTTPClient]:
    """Send one request to a server with one route; return the answer or error, the pauses, and the client."""

    async def run() -> tuple[Any, list[float], HTTPClient]:
        pauses: list[float] = []

        async def pause(seconds: float) -> None:
            pauses.append(seconds)

        async with (
            serve(create_app([route]), ("127.0.0.1", 0)) as listening,
            HTTPClient(pause=pause, chance=lambda: 0.5, now=lambda: NOW, **choices) as client,
        ):
            try:
                found: Any = await client.request(method, f"{listening.url}/")
            except PeerError as error:
                found = error
        return found, pauses, client

    return asyncio.run(run())


@pytest.mark.parametrize(
    ("retry_after", "expected"),
    [
        (None, 0.2),
        ("7", 7.0),
        (format_datetime(NOW + timedelta(seconds=30), usegmt=True), 30.0),
        (format_datetime(NOW - timedelta(seconds=30), usegmt=True), 0.2),
        ("soon", 0.2),
        ("-1", 0.2),
    ],
)
@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_temporary_refusal_is_tried_again(status: int, retry_after: str | None, expected: float) -> None:
    """After a pause, or what `Retry-After` asks in seconds or as a date, the request is sent again."""
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    with counted(Response("later", status, headers), Response("now")) as (route, calls):
        answer, pauses, client = run_client(route)
    assert (answer.status, answer.body, len(calls)) == (200, b"now", 2)
    assert pauses == [pytest.approx(expected)]
    assert (client.counts.requests, client.counts.retries, client.counts.failures) == (2, 1, 0)


def test_pauses_double_and_end() -> None:
    """Each pause is twice the one before, and the last refusal is returned as it is."""
    with counted(Response("no", 503)) as (route, calls):
        answer, pauses, _ = run_client(route, limits=ClientLimits(attempts=4))
    assert (answer.status, len(calls)) == (503, 4)
    assert pauses == [pytest.approx(value) for value in (0.2, 0.4, 0.8)]


def test_asked_to_wait_longer_than_the_deadline() -> None:
    """A peer that asks for more time than there is gets no wait at all."""
    with counted(Response("no", 503, {"Retry-After": "3600"})) as (route, _):
        error, pauses, client = run_client(route)
    assert isinstance(error, PeerError)
    assert (error.reason, error.facts["retry_after_s"], pauses) == (Reason.BUSY, 3600.0, [])
    assert client.counts.failures == 1


def test_what_may_change_something_is_sent_once() -> None:
    """A POST is not sent again, unless the caller says that it is idempotent; other statuses never are."""
    with counted(Response("no", 503), Response("yes")) as (route, calls):
        answer, _, _ = run_client(route, "POST")
        assert (answer.status, len(calls)) == (503, 1)
    with counted(Response("no", 500), Response("yes")) as (route, calls):
        answer, _, _ = run_client(route)
        assert (answer.status, len(calls)) == (500, 1)


def test_connection_that_fails_is_tried_again() -> None:
    """A refused connection is tried as often as allowed and then named, without the path."""

    async def run() -> None:
        async with serve(create_app([at("/", hello)]), ("127.0.0.1", 0)) as listening:
            pass

        async def pause(_seconds: float) -> None:
            pass

        async with HTTPClient(ClientLimits(attempts=3), pause=pause) as client:
            with pytest.raises(PeerError, match="does not answer") as caught:
                await client.fetch(f"{listening.url}/path?token=hush")
        assert "hush" not in caught.value.message
        assert (client.counts.requests, client.counts.retries, client.counts.failures) == (3, 2, 1)

    asyncio.run(run())


def test_deadline_ends_all_attempts() -> None:
    """The deadline holds for a call with all its retries."""

    async def run() -> None:
        async def forever(_seconds: float) -> None:
            await asyncio.get_running_loop().create_future()

        with counted(Response("no", 503)) as (route, _):
            async with (
                serve(create_app([route]), ("127.0.0.1", 0)) as listening,
                HTTPClient(ClientLimits(deadline_s=0.1), pause=forever) as client,
            ):
                with pytest.raises(PeerError, match=r"gave no answer in 0\.1 s"):
                    await client.fetch(f"{listening.url}/")

    asyncio.run(run())


@pytest.mark.parametrize(
    ("body", "encoding", "reason"),
    [
        (bytes(1001), None, Reason.TOO_LARGE),
        (gzip.compress(bytes(50_000_000)), "gzip", Reason.TOO_LARGE),
        (gzip.compress(bytes(1001)), "gzip", Reason.TOO_LARGE),
        (gzip.compress(b"text")[:-3], "gzip", Reason.TRUNCATED),
        (b"no gzip", "gzip", Reason.PEER),
        (b"text", "br", Reason.PEER),
    ],
    ids=["plain", "bomb", "one too many", "cut off", "no gzip", "not asked for"],
)
def test_answers_that_are_refused(body: bytes, encoding: str | None, reason: Reason) -> None:
    """An answer too large, before or after decompression, cut off, or in another encoding is the peer's fault."""
    with counted(Response(body, headers={"Content-Encoding": encoding} if encoding else {})) as (route, _):
        error, _, client = run_client(route, limits=ClientLimits(answer_bytes=1000))
    assert isinstance(error, PeerError)
    assert error.reason is reason
    assert client.counts.failures == 1


def test_small_answer_cannot_fill_the_memory() -> None:
    """Of a bomb no more is unpacked than is allowed."""
    bomb = gzip.compress(bytes(50_000_000))
    with counted(Response(bomb, headers={"Content-Encoding": "gzip"})) as (route, _):
        tracemalloc.start()
        try:
            error, _, _ = run_client(route, limits=ClientLimits(answer_bytes=1000))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert error.reason is Reason.TOO_LARGE
    assert peak < 10_000_000


def test_compressed_answer_of_the_largest_size() -> None:
    """Exactly as many bytes as allowed come through, compressed or not."""
    for body, headers in [(bytes(1000), {}), (gzip.compress(bytes(1000)), {"Content-Encoding": "gzip"})]:
        with counted(Response(body, headers=headers)) as (route, _):
            answer, _, _ = run_client(route, limits=ClientLimits(answer_bytes=1000))
        assert answer.body == bytes(1000)


def test_redirects_stay_with_their_origin() -> None:
    """A redirect within the origin is followed, one to another origin or without end is refused."""

    async def run() -> None:
        async def other(_request: Request) -> Response:
            return RedirectResponse("http://192.0.2.1/elsewhere")

        async def near(_request: Request) -> Response:
            return RedirectResponse("/hello")

        async def circle(_request: Request) -> Response:
            return RedirectResponse("/circle")

        routes = [at("/other", other), at("/near", near), at("/circle", circle), at("/hello", hello)]
        async with serve(create_app(routes), ("127.0.0.1", 0)) as listening, HTTPClient() as client:
            assert (await client.fetch(f"{listening.url}/near")).body == b"hello"
            for path, match in (("/other", "another origin"), ("/circle", "more than 3 times")):
                with pytest.raises(PeerError, match=match):
                    await client.fetch(listening.url + path)

    asyncio.run(run())


def test_clock_does_not_load_a_web_server() -> None:
    """A sequencer that imports the clock loads neither Starlette nor aiohttp."""
    code = "import mtc.log.service, sys; print([m for m in ('starlette', 'uvicorn', 'aiohttp') if m in sys.modules])"
    done = subprocess.run(  # noqa: S603 - our own interpreter
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_collector_is_as_before_afterwards() -> None:
    """A server has the collector look less often, and leaves it as it was, also after an error."""
    before = gc.get_threshold()
    seen = []

    def fail() -> None:
        with rare_collections():
            seen.append(gc.get_threshold())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert seen == [(50_000, *before[1:])]
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0
