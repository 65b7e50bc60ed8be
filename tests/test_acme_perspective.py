"""A CA and its remote perspectives over real TLS on loopback: who is let in, what is believed, what is bounded."""

import asyncio
import gzip
import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Route
from tests.perspectives import (
    NO_CONTROL,
    TASK,
    FakePerspective,
    make_folder,
    make_identity,
    never,
    now,
    peer_of,
    report,
    running_agent,
    until,
)

import mtc.acme.perspective.running
from mtc.acme.machine.validation import MAX_REPORT_BYTES, Report, ValidationTask
from mtc.acme.perspective.agent import MAX_TASK_BYTES, parse_task
from mtc.acme.perspective.client import open_perspectives
from mtc.acme.perspective.config import PerspectivePeer
from mtc.acme.perspective.folder import (
    CONFIG_NAME,
    allow_client,
    open_own_identity,
    own_fingerprint,
    read_perspective_config,
)
from mtc.acme.perspective.pinning import pinned_context
from mtc.errors import FormatError, PeerError, Reason, UsageError
from mtc.web.clock import SystemClock
from mtc.web.frame import create_app
from mtc.web.server import loop_factory, serve
from mtc.web.tls import ServerTLS, TLSFiles, ensure_identity

LOOPBACK = ("127.0.0.1", 0)
Handler = Callable[[Request], Awaitable[Response]]


@pytest.fixture(autouse=True)
def quiet_logs() -> Iterator[list[MutableMapping[str, Any]]]:
    """Keep log events instead of printing them."""
    structlog.reset_defaults()
    with structlog.testing.capture_logs() as events:
        yield events


@pytest.fixture(params=["server", "asyncio"])
def run(request: pytest.FixtureRequest) -> Callable[[Callable[[], Awaitable[None]]], None]:
    """Run on the event loop of servers, and on asyncio's own: their TLS is not the same code."""
    factory = loop_factory() if request.param == "server" else asyncio.new_event_loop

    def go(work: Callable[[], Awaitable[None]]) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(30):
                await work()

        with asyncio.Runner(loop_factory=factory) as runner:
            runner.run(bounded())

    return go


Run = Callable[[Callable[[], Awaitable[None]]], None]


async def ask(peer: PerspectivePeer, identity: TLSFiles, deadline_s: float = 10.0) -> Report:
    """Send one task, with a client of its own."""
    async with open_perspectives([peer], identity, deadline_s=deadline_s) as (client,):
        return await client.examine(TASK)


async def refused(peer: PerspectivePeer, identity: TLSFiles, reason: Reason, *texts: str) -> None:
    """Check that there is no report, and that the error says why, and who."""
    with pytest.raises(PeerError) as caught:
        await ask(peer, identity)
    assert caught.value.reason is reason, caught.value
    for text in (peer.name, peer.url, *texts):
        assert text in caught.value.message
    assert caught.value.facts["perspective"] == peer.name


def test_known_ca_gets_the_report(tmp_path: Path, run: Run) -> None:
    """What an agent saw arrives whole at the CA that it knows, and the agent got the very task."""
    folder = make_folder(tmp_path / "agent")
    identity = make_identity(tmp_path / "ca", folder)

    async def work() -> None:
        fake = FakePerspective("eu-1", "ripe")
        made = report("eu-1", "ripe")

        async def look(_task: ValidationTask) -> Report:
            return made

        fake.look = look
        async with running_agent(folder, fake) as (_, peer):
            assert await ask(peer, identity) == made
            made = replace(made, problem=NO_CONTROL)
            got = (await ask(peer, identity)).problem
            assert got is not None
            assert (got.type, got.detail) == (NO_CONTROL.type, NO_CONTROL.detail)
        assert fake.seen == [TASK, TASK]

    run(work)


def test_others_are_not_let_in(tmp_path: Path, run: Run) -> None:
    """A CA that is not on the list, or whose certificate ended, gets no report, and reads what to do."""
    folder = make_folder(tmp_path / "agent")
    stranger = make_identity(tmp_path / "stranger")
    old = TLSFiles(tmp_path / "perspective-client.pem", tmp_path / "perspective-client-key.pem")
    ensure_identity(old, "old", now() - timedelta(days=9), timedelta(days=1))
    known = make_identity(tmp_path / "ca", folder)
    allow_client(folder, old.certificate.read_bytes(), "old")

    async def work() -> None:
        fake = FakePerspective("eu-1", "ripe")
        async with running_agent(folder, fake) as (_, peer):
            for identity in (stranger, old):
                await refused(peer, identity, Reason.UNAUTHORIZED, "mtc perspective allow")
            assert not fake.seen
            await ask(peer, known)

    run(work)


def test_client_without_certificate_is_not_let_in(tmp_path: Path, run: Run) -> None:
    """Who shows no certificate learns nothing, not even the health of an agent."""
    folder = make_folder(tmp_path / "agent")
    make_identity(tmp_path / "ca", folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    async def work() -> None:
        async with running_agent(folder, FakePerspective("eu-1", "ripe")) as (_, peer):
            for path in ("/examine", "/health", "/metrics", "/"):
                with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
                    async with aiohttp.ClientSession() as session, session.get(peer.url + path, ssl=context):
                        pass

    run(work)


def test_agents_speak_the_newest_tls_only(tmp_path: Path, run: Run) -> None:
    """A known CA that would speak TLS 1.2, in which its certificate crosses in the clear, is not answered."""
    folder = make_folder(tmp_path / "agent")
    identity = make_identity(tmp_path / "ca", folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(identity.certificate, identity.key)

    async def work() -> None:
        async with running_agent(folder, FakePerspective("eu-1", "ripe")) as (_, peer):
            async with aiohttp.ClientSession() as session, session.get(peer.url + "/health", ssl=context) as response:
                assert response.status == 200
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            with pytest.raises((aiohttp.ClientError, ssl.SSLError)):
                async with aiohttp.ClientSession() as session, session.get(peer.url + "/health", ssl=context):
                    pass

    run(work)


def test_only_the_pinned_key_is_believed(tmp_path: Path, run: Run) -> None:
    """Who answers with another key is refused before a task is sent, though it calls itself the same."""
    folder, other = make_folder(tmp_path / "agent"), make_folder(tmp_path / "other")
    identity = make_identity(tmp_path / "ca", folder, other)

    async def work() -> None:
        fake = FakePerspective("eu-1", "ripe")
        async with running_agent(other, fake) as (_, wrong):
            peer = replace(wrong, fingerprint=own_fingerprint(folder))
            await refused(peer, identity, Reason.BAD_KEY, "cannot be trusted", peer.fingerprint, wrong.fingerprint)
            assert not fake.seen

    run(work)


def test_expired_pin_is_refused(tmp_path: Path, run: Run) -> None:
    """The right key in a certificate that ended, or is not valid yet, is refused; renewed with its key it is not."""
    folder = make_folder(tmp_path / "agent")
    identity = make_identity(tmp_path / "ca", folder)
    (folder / "tls.pem").unlink()
    files = TLSFiles(folder / "tls.pem", folder / "tls-key.pem")

    async def work() -> None:
        for begin in (now() - timedelta(days=9), now() + timedelta(days=9)):
            ensure_identity(files, "eu-1", begin, timedelta(days=1))
            client = read_perspective_config(folder).clients[0].encoded
            async with serve(create_app([]), LOOPBACK, tls=ServerTLS(files, clients=[client]).context) as listening:
                peer = peer_of(folder, FakePerspective("eu-1", "ripe"), listening.url)
                await refused(peer, identity, Reason.EXPIRED, "cannot be trusted", "valid from")
            files.certificate.unlink()
        async with running_agent(folder, FakePerspective("eu-1", "ripe")) as (_, renewed):
            assert renewed.fingerprint == peer.fingerprint
            await ask(renewed, identity)

    run(work)


def test_agent_renews_its_certificate_with_its_key(tmp_path: Path) -> None:
    """An agent's certificate is renewed when 90 days are left, and the pin stays."""
    folder = make_folder(tmp_path / "agent")
    before, pin = (folder / "tls.pem").read_bytes(), own_fingerprint(folder)
    open_own_identity(folder, "eu-1", now() + timedelta(days=1700))
    assert (folder / "tls.pem").read_bytes() == before
    open_own_identity(folder, "eu-1", now() + timedelta(days=1800))
    assert (folder / "tls.pem").read_bytes() != before
    assert own_fingerprint(folder) == pin


def test_list_of_cas_is_followed(tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """A CA that is added is let in without a restart; one taken off is refused also on connections that it has."""
    monkeypatch.setattr(mtc.acme.perspective.running, "RELOAD_S", 0.01)

    async def work() -> None:
        with tempfile.TemporaryDirectory(dir=tmp_path) as name:
            folder = make_folder(Path(name) / "agent")
            identity = make_identity(Path(name) / "ca")
            empty = (folder / CONFIG_NAME).read_bytes()
            async with running_agent(folder, FakePerspective("eu-1", "ripe")) as (running, peer):
                await refused(peer, identity, Reason.UNAUTHORIZED)
                async with open_perspectives([peer], identity) as (client,):
                    make_identity(Path(name) / "ca", folder)
                    await until(lambda: len(running.allowed.clients) == 1)
                    await client.examine(TASK)
                    (folder / CONFIG_NAME).write_bytes(b"broken")
                    await until(lambda: "configuration" in running.troubles)
                    await client.examine(TASK)
                    (folder / CONFIG_NAME).write_bytes(empty)
                    await until(lambda: not running.allowed.clients)
                    assert not running.troubles
                    with pytest.raises(PeerError) as caught:
                        await client.examine(TASK)
                    assert caught.value.reason is Reason.UNAUTHORIZED

    run(work)


def test_agent_bounds_its_work(tmp_path: Path, run: Run) -> None:
    """More examinations than an agent is set to are refused at once, and those under way go on."""
    folder = make_folder(tmp_path / "agent", examinations=2)
    identity = make_identity(tmp_path / "ca", folder)

    async def work() -> None:
        fake, gate = FakePerspective("eu-1", "ripe"), asyncio.Event()

        async def look(_task: ValidationTask) -> Report:
            await gate.wait()
            return report("eu-1", "ripe")

        fake.look = look
        async with running_agent(folder, fake) as (_, peer), open_perspectives([peer], identity) as (client,):
            first = [asyncio.create_task(client.examine(TASK)) for _ in range(2)]
            await until(lambda: len(fake.seen) == 2)
            with pytest.raises(PeerError) as caught:
                await client.examine(TASK)
            assert caught.value.reason is Reason.BUSY
            gate.set()
            assert all([(await item).problem is None for item in first])
            await client.examine(TASK)

    run(work)


def test_agent_that_takes_too_long(tmp_path: Path, run: Run) -> None:
    """The CA waits no longer than its deadline, and the agent stops to look for somebody who left."""
    folder = make_folder(tmp_path / "agent")
    identity = make_identity(tmp_path / "ca", folder)

    async def work() -> None:
        fake = FakePerspective("eu-1", "ripe", look=never)
        async with running_agent(folder, fake) as (_, peer):
            with pytest.raises(PeerError, match=r"perspective eu-1 at .* does not answer in 0\.3 s"):
                await ask(peer, identity, deadline_s=0.3)
            assert fake.seen == [TASK]
            async with asyncio.timeout(60):
                await until(lambda: fake.ended == 1)

    run(work)


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400),
        (b"null", 400),
        (b"[" * 10000, 400),
        (b"x" * (MAX_TASK_BYTES + 1), 413),
        (json.dumps(TASK.to_json() | {"token": "../../latest/meta-data"}).encode(), 400),
        (json.dumps(TASK.to_json() | {"token": ""}).encode(), 400),
        (json.dumps(TASK.to_json() | {"key_authorization": "a b"}).encode(), 400),
        (json.dumps(TASK.to_json() | {"caa_domains": ["ca.example"] * 21}).encode(), 400),
        (json.dumps(TASK.to_json() | {"account": "x" * 2000}).encode(), 400),
        (json.dumps(TASK.to_json() | {"identifier": {"type": "dns", "value": "a b"}}).encode(), 400),
        (json.dumps(TASK.to_json()).encode(), 200),
    ],
)
def test_agent_takes_only_tasks(tmp_path: Path, body: bytes, status: int) -> None:
    """What is no task is refused before anybody looks, also when a known CA sends it."""
    folder = make_folder(tmp_path / "agent")
    identity = make_identity(tmp_path / "ca", folder)

    async def work() -> None:
        fake = FakePerspective("eu-1", "ripe")
        async with running_agent(folder, fake) as (_, peer), aiohttp.ClientSession() as session:
            context = pinned_context(identity, peer.fingerprint, SystemClock().now)
            async with session.post(peer.url + "/examine", data=body, ssl=context) as response:
                assert response.status == status
            assert len(fake.seen) == (status == 200)

    asyncio.run(work())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(sorted(TASK.to_json())), JSON)
def test_any_other_task_is_a_format_error(key: str, value: object) -> None:
    """Whatever stands in one place of a task, it is a task that can be sent again, or a FormatError."""
    try:
        task = parse_task(json.dumps(TASK.to_json() | {key: value}).encode())
    except FormatError:
        return
    assert parse_task(json.dumps(task.to_json()).encode()) == task


@given(st.sampled_from(sorted(report("eu-1", "ripe").to_json())), JSON)
def test_any_other_report_is_a_format_error(key: str, value: object) -> None:
    """Whatever stands in one place of a report, it is a report that can be kept, or a FormatError."""
    document = json.loads(json.dumps(report("eu-1", "ripe").to_json() | {key: value}))
    try:
        made = Report.of_json(document)
    except FormatError:
        return
    assert Report.of_json(made.to_json()) == made


@asynccontextmanager
async def lying_agent(folder: Path, handler: Handler) -> AsyncIterator[PerspectivePeer]:
    """Run an agent that has the right key, knows its CA, and answers as it likes."""
    config = read_perspective_config(folder)
    files = open_own_identity(folder, config.name, now())
    tls = ServerTLS(files, clients=[client.encoded for client in config.clients])
    app = create_app([Route("/{path:path}", handler, methods=["GET", "POST"])])
    async with serve(app, LOOPBACK, tls=tls.context) as listening:
        yield peer_of(folder, FakePerspective(config.name, config.region), listening.url)


def as_json(value: object) -> bytes:
    """Return JSON."""
    return json.dumps(value).encode()


GOOD = report("eu-1", "ripe").to_json()
ANSWERS: dict[str, tuple[int, bytes, Reason]] = {
    "nothing": (200, b"", Reason.BAD_DOCUMENT),
    "no JSON": (200, b"<html>", Reason.BAD_DOCUMENT),
    "deep JSON": (200, b"[" * 100_000, Reason.BAD_DOCUMENT),
    "no Unicode": (200, b"\xff\xfe\xff", Reason.BAD_DOCUMENT),
    "half a character": (200, as_json(GOOD | {"caa_name": "\ud800"}), Reason.BAD_DOCUMENT),
    "a list": (200, b"[]", Reason.BAD_DOCUMENT),
    "another object": (200, b"{}", Reason.BAD_DOCUMENT),
    "a wrong problem": (200, as_json(GOOD | {"problem": {"type": "strange"}}), Reason.BAD_DOCUMENT),
    "too many lookups": (200, as_json(GOOD | {"lookups": [{}] * 101}), Reason.BAD_DOCUMENT),
    "a long number": (200, b'{"started":' + b"9" * 50_000 + b"}", Reason.BAD_DOCUMENT),
    "too much": (200, b" " * (MAX_REPORT_BYTES + 1), Reason.TOO_LARGE),
    "an error": (500, b"", Reason.PEER),
    "no such page": (404, b"", Reason.PEER),
    "too busy": (503, b"", Reason.BUSY),
    "not known": (403, b"", Reason.UNAUTHORIZED),
    "success of another kind": (204, b"", Reason.PEER),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_what_is_no_report_is_refused(tmp_path: Path, name: str) -> None:
    """Whatever an agent answers, the CA gets a report or a PeerError that names the agent."""
    status, body, reason = ANSWERS[name]
    folder = make_folder(tmp_path / "agent")
    identity = make_identity(tmp_path / "ca", folder)

    async def answer(_request: Request) -> Response:
        return Response(body, status)

    async def work() -> None:
        async with lying_agent(folder, answer) as peer:
            await refused(peer, identity, reason)

    asyncio.run(work())


def test_endless_answer_is_cut(tmp_path: Path) -> None:
    """An answer without an end is read no further than a report may be long."""
    folder = make_folder(tmp_path / "agent")
    identity = make_identity(tmp_path / "ca", folder)
    sent = 0

    async def flood() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1 << 16
            yield b" " * (1 << 16)
            await asyncio.sleep(0)

    async def answer(_request: Request) -> Response:
        return StreamingResponse(flood())

    async def work() -> None:
        async with lying_agent(folder, answer) as peer:
            await refused(peer, identity, Reason.TOO_LARGE)
        assert sent < 100 * MAX_REPORT_BYTES

    asyncio.run(asyncio.wait_for(work(), 30))


def test_compressed_answer_is_no_report(tmp_path: Path) -> None:
    """A small answer that would become a large one is not unpacked."""
    folder = make_folder(tmp_path / "agent")
    identity = make_identity(tmp_path / "ca", folder)

    async def answer(_request: Request) -> Response:
        return Response(gzip.compress(b" " * (64 << 20)), headers={"Content-Encoding": "gzip"})

    async def work() -> None:
        async with lying_agent(folder, answer) as peer:
            await refused(peer, identity, Reason.BAD_DOCUMENT)

    asyncio.run(work())


def test_redirect_is_not_followed(tmp_path: Path) -> None:
    """An agent cannot send its CA elsewhere."""
    folder = make_folder(tmp_path / "agent")
    identity = make_identity(tmp_path / "ca", folder)
    paths: list[str] = []

    async def answer(request: Request) -> Response:
        paths.append(request.url.path)
        return RedirectResponse("/other", 307)

    async def work() -> None:
        async with lying_agent(folder, answer) as peer:
            await refused(peer, identity, Reason.PEER, "307")

    asyncio.run(work())
    assert paths == ["/examine"]


@pytest.mark.parametrize(
    ("started", "finished", "is_good"),
    [(-3600, -3600, False), (3600, 3600, False), (0, -1, False), (-3600, 0, False), (-60, 0, True), (200, 200, True)],
    ids=["past", "future", "back", "long", "slow", "a little ahead"],
)
def test_report_from_another_time_is_refused(tmp_path: Path, started: int, finished: int, is_good: bool) -> None:  # noqa: FBT001 - a case
    """A report says when something was seen; one by a clock that is more than five minutes off is no evidence."""
    folder = make_folder(tmp_path / "agent")
    identity = make_identity(tmp_path / "ca", folder)

    async def answer(_request: Request) -> Response:
        moment = now()
        times = [moment + timedelta(seconds=seconds) for seconds in (started, finished)]
        return Response(as_json(replace(report("eu-1", "ripe"), started=times[0], finished=times[1]).to_json()))

    async def work() -> None:
        async with lying_agent(folder, answer) as peer:
            if is_good:
                await ask(peer, identity)
            else:
                await refused(peer, identity, Reason.CLOCK, "clock")

    asyncio.run(work())


def test_connection_that_ended_meanwhile_is_made_again(tmp_path: Path) -> None:
    """An agent that closes an idle connection just when it is used again is asked once more, on a new one."""
    folder = make_folder(tmp_path / "agent")
    identity = make_identity(tmp_path / "ca", folder)
    files = open_own_identity(folder, "eu-1", now())
    context = ServerTLS(files, clients=[read_perspective_config(folder).clients[0].encoded]).context
    connections, requests = 0, 0

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections, requests
        connections += 1
        for is_first in (True, False):
            await reader.readuntil(b"\r\n\r\n")
            requests += 1
            if is_first:
                body = as_json(report("eu-1", "ripe").to_json())
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                await writer.drain()
                await reader.readexactly(len(as_json(TASK.to_json())))
        writer.close()

    async def work() -> None:
        async with await asyncio.start_server(once, *LOOPBACK, ssl=context) as server:
            port = server.sockets[0].getsockname()[1]
            peer = peer_of(folder, FakePerspective("eu-1", "ripe"), f"https://127.0.0.1:{port}")
            async with open_perspectives([peer], identity) as (client,):
                await client.examine(TASK)
                await client.examine(TASK)
        assert (connections, requests) == (2, 3)

    asyncio.run(asyncio.wait_for(work(), 30))


def test_agent_that_is_not_there(tmp_path: Path, run: Run) -> None:
    """A closed port, one without TLS, one that cuts off and one that stays silent are told apart from a wrong key."""
    folder = make_folder(tmp_path / "agent")
    identity = make_identity(tmp_path / "ca", folder)

    async def hang_up(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    async def work() -> None:
        fake = FakePerspective("eu-1", "ripe")
        async with await asyncio.start_server(hang_up, *LOOPBACK) as server:
            port = server.sockets[0].getsockname()[1]
            peer = peer_of(folder, fake, f"https://127.0.0.1:{port}")
            await refused(peer, identity, Reason.PEER)
        await refused(peer, identity, Reason.PEER, "refused")
        async with serve(create_app([]), LOOPBACK) as listening:
            plain = replace(peer, url=listening.url.replace("http:", "https:"))
            await refused(plain, identity, Reason.PEER)
        held: list[asyncio.StreamWriter] = []
        async with await asyncio.start_server(lambda _, writer: held.append(writer), *LOOPBACK) as server:
            port = server.sockets[0].getsockname()[1]
            with pytest.raises(PeerError, match="does not answer in"):
                await ask(replace(peer, url=f"https://127.0.0.1:{port}"), identity, deadline_s=0.3)
            for writer in held:
                writer.close()

    run(work)


def test_peers_must_be_distinct(tmp_path: Path) -> None:
    """Two names for one agent, or one key at two places, would count twice and are refused."""
    folder = make_folder(tmp_path / "agent")
    identity = make_identity(tmp_path / "ca", folder)
    peer = peer_of(folder, FakePerspective("eu-1", "ripe"), "https://127.0.0.1:1")
    others = [
        replace(peer, url="https://127.0.0.1:2", fingerprint=f"sha256:{'0' * 64}"),
        replace(peer, name="eu-2", fingerprint=f"sha256:{'0' * 64}"),
        replace(peer, name="eu-2", url="https://127.0.0.1:2"),
    ]

    async def work() -> None:
        for other in others:
            with pytest.raises(UsageError) as caught:
                async with open_perspectives([peer, other], identity):
                    pass
            assert caught.value.reason is Reason.DUPLICATE

    asyncio.run(work())


def test_health_and_metrics(tmp_path: Path) -> None:
    """Operators see on a plain address how an agent is, and nobody can have it look there."""
    folder = make_folder(tmp_path / "agent")

    async def fetch(url: str) -> tuple[int, str]:
        async with aiohttp.ClientSession() as session, session.get(url) as response:
            return response.status, await response.text()

    async def work() -> None:
        fake = FakePerspective("eu-1", "ripe")
        async with running_agent(folder, fake) as (running, _):
            assert running.monitoring is not None
            status, text = await fetch(running.monitoring.url + "/health")
            assert (status, json.loads(text)["troubles"]) == (
                503,
                ["nobody may ask yet; mtc perspective allow lets a CA in"],
            )
        identity = make_identity(tmp_path / "ca", folder)
        async with running_agent(folder, fake) as (running, peer):
            assert running.monitoring is not None
            await ask(peer, identity)
            status, text = await fetch(running.monitoring.url + "/health")
            assert (status, json.loads(text)["name"], json.loads(text)["clients"]) == (200, "eu-1", 1)
            _, text = await fetch(running.monitoring.url + "/metrics")
            for line in (
                'mtc_perspective_examinations_total{method="http-01",result="agrees"} 1.0',
                "mtc_perspective_clients 1.0",
                "mtc_perspective_running 0.0",
            ):
                assert line in text
            assert (await fetch(running.monitoring.url + "/examine"))[0] == 404

    asyncio.run(work())
