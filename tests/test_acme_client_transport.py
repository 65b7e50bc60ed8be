"""Requests of the ACME client to servers that are slow, broken, greedy or full: everything has a bound."""

import asyncio
import json
from base64 import urlsafe_b64decode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from mtc.acme.client import AccountKey, ACMEClient, ACMERefusal, TransportLimits, connect, open_transport
from mtc.acme.client.documents import OrderState
from mtc.acme.machine.identifiers import Identifier
from mtc.acme.machine.orders import OrderStatus
from mtc.acme.machine.problems import ERROR_NAMESPACE
from mtc.errors import FormatError, PeerError, Reason

LIMITS = TransportLimits(answer_bytes=10_000, deadline_s=5, attempt_s=0.3, attempts=3, nonce_attempts=4, pause_s=0.1)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """What the handler of a test makes of `/thing`; the rest is an honest directory. pauses: what the client waited."""

    def __init__(self, handler: Handler, client: ACMEClient, base: str) -> None:
        self.handler, self.client, self.url = handler, client, f"{base}/thing"
        self.pauses: list[float] = []


@asynccontextmanager
async def serving(handler: Handler, *, has_nonces: bool = True) -> AsyncIterator[Server]:
    """Serve, and connect a client whose account is registered."""
    count = 0
    pauses: list[float] = []

    async def answer(request: web.Request) -> web.StreamResponse:
        nonlocal count
        base = f"http://{request.host}"
        names = {"newNonce": "nonce", "newAccount": "account", "newOrder": "order"}
        if request.path == "/directory":
            return web.json_response({name: f"{base}/{path}" for name, path in names.items()})
        response = await handler(request) if request.path == "/thing" else web.Response()
        count += 1
        if has_nonces and not response.prepared:
            response.headers["Replay-Nonce"] = f"nonce-{count}"
        return response

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await asyncio.sleep(0)

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", answer)
    # A server that hangs is not waited for.
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with open_transport(is_local=True, limits=LIMITS, pause=pause, chance=lambda: 0.5) as transport:
            client = await connect(transport, f"{base}/directory", AccountKey.generate())
            client.account_url = f"{base}/account/1"
            server = Server(handler, client, base)
            server.pauses = pauses
            yield server
    finally:
        await runner.cleanup()


def problem(kind: str, status: int, **headers: str) -> web.Response:
    """Return a problem document."""
    document = {"type": ERROR_NAMESPACE + kind, "detail": "so it is"}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return web.json_response(document, status=status, headers=named, content_type="application/problem+json")


def run(handler: Handler, test: Callable[[Server], Awaitable[None]], *, has_nonces: bool = True) -> None:
    """Run a test against a handler."""

    async def both() -> None:
        async with serving(handler, has_nonces=has_nonces) as server:
            await test(server)

    asyncio.run(both())


def test_no_nonce_is_used_twice() -> None:
    """Of many tasks at once each takes its own nonce, and fresh ones come back with the answers."""
    seen: list[str] = []

    async def handler(request: web.Request) -> web.StreamResponse:
        header = json.loads(await request.read())["protected"]
        seen.append(json.loads(urlsafe_b64decode(header + "=="))["nonce"])
        return web.json_response({})

    async def test(server: Server) -> None:
        async def work() -> None:
            for _ in range(5):
                await server.client.post(server.url, {})

        await asyncio.gather(*(work() for _ in range(40)))
        assert len(seen) == 200
        assert len(set(seen)) == 200
        assert server.client.transport.counts.requests <= 200 + 40 + 1, "one new nonce per task at most"

    run(handler, test)


def test_bad_nonces_end() -> None:
    """A server that calls every nonce bad is believed in the end."""

    async def handler(_: web.Request) -> web.StreamResponse:
        return problem("badNonce", 400)

    async def test(server: Server) -> None:
        with pytest.raises(ACMERefusal, match="badNonce"):
            await server.client.post(server.url, {})
        assert server.client.transport.counts.bad_nonces == LIMITS.nonce_attempts

    run(handler, test)


def test_server_without_nonces_is_none() -> None:
    """Without a nonce nothing is signed."""

    async def handler(_: web.Request) -> web.StreamResponse:
        raise AssertionError

    async def test(server: Server) -> None:
        with pytest.raises(PeerError, match="gave no nonce"):
            await server.client.post(server.url, {})

    run(handler, test, has_nonces=False)


def test_large_answers_are_not_read() -> None:
    """An answer beyond the bound is refused at once, and not asked for again."""
    calls = 0

    async def handler(_: web.Request) -> web.StreamResponse:
        nonlocal calls
        calls += 1
        return web.Response(body=b" " * 10_001)

    async def test(server: Server) -> None:
        with pytest.raises(PeerError) as caught:
            await server.client.post(server.url, {})
        assert (caught.value.reason, calls) == (Reason.TOO_LARGE, 1)

    run(handler, test)


@pytest.mark.parametrize("is_trickling", [False, True])
def test_slow_servers_are_given_up(is_trickling: bool) -> None:  # noqa: FBT001 - a parameter of the test
    """Silence and single bytes both end with the attempt's time, as many attempts as there may be."""
    calls = 0

    async def handler(request: web.Request) -> web.StreamResponse:
        nonlocal calls
        calls += 1
        response = web.StreamResponse()
        if is_trickling:
            await response.prepare(request)
        for _ in range(100):
            await asyncio.sleep(0.05)
            if is_trickling:
                await response.write(b" ")
        return response

    async def test(server: Server) -> None:
        with pytest.raises(PeerError, match="gave no answer"):
            await server.client.post(server.url, {})
        assert calls == LIMITS.attempts

    run(handler, test)


def test_redirects_are_not_followed() -> None:
    """A signature is for one URL; the error says where the server wanted us to go."""

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(status=302, headers={"Location": "http://169.254.169.254/"})

    async def test(server: Server) -> None:
        with pytest.raises(PeerError, match=r"169\.254\.169\.254"):
            await server.client.post(server.url, {})

    run(handler, test)


def test_full_servers_are_asked_again_when_they_say() -> None:
    """After 503 and 429 with Retry-After the request is sent again, not earlier, and at most so often."""
    calls = 0

    async def handler(_: web.Request) -> web.StreamResponse:
        nonlocal calls
        calls += 1
        return problem("rateLimited", 429, Retry_After="3") if calls < 3 else web.json_response({})

    async def test(server: Server) -> None:
        await server.client.post(server.url, {})
        assert server.pauses == [3.0, 3.0]

    run(handler, test)


@pytest.mark.parametrize(
    ("status", "headers"), [(429, {"Retry_After": "86400"}), (429, {}), (503, {"Retry_After": "86400"})]
)
def test_long_waits_are_told(status: int, headers: dict[str, str]) -> None:
    """Who is to wait for longer than the deadline, or not told how long, learns it at once."""

    async def handler(_: web.Request) -> web.StreamResponse:
        return problem("rateLimited", status, **headers)

    async def test(server: Server) -> None:
        with pytest.raises(ACMERefusal) as caught:
            await server.client.post(server.url, {})
        assert caught.value.reason is Reason.BUSY
        assert caught.value.facts.get("retry_after_s") == (86400.0 if headers else None)
        assert server.pauses == []

    run(handler, test)


@pytest.mark.parametrize("body", [b"", b"<html>", b"[1, 2]", b'{"status": "surprised"}', b"\xff\xfe", b"[" * 9000])
def test_garbage_is_an_error_of_the_server(body: bytes) -> None:
    """What is no order is said so, never an exception of ours."""

    async def handler(_: web.Request) -> web.StreamResponse:
        return web.Response(body=body)

    async def test(server: Server) -> None:
        with pytest.raises(FormatError):
            await server.client.fetch_order(server.url)

    run(handler, test)


def test_polling_waits_as_long_as_the_server_says() -> None:
    """Retry-After of each answer counts, up to a minute; without one the pauses grow."""
    waits = ["5", "0", "7200", None, None]

    async def handler(request: web.Request) -> web.StreamResponse:
        base = f"http://{request.host}"
        document = {
            "status": "processing" if waits else "valid",
            "identifiers": [{"type": "dns", "value": "a.example.com"}],
            "authorizations": [],
            "finalize": f"{base}/finalize",
        }
        wait = waits.pop(0) if waits else None
        return web.json_response(document, headers={} if wait is None else {"Retry-After": wait})

    async def test(server: Server) -> None:
        order = OrderState(
            url=server.url,
            status=OrderStatus.PROCESSING,
            identifiers=(Identifier.dns("a.example.com"),),
            authorizations=(),
            finalize=server.url,
        )
        assert (await server.client.wait_for_order(order, 10)).status is OrderStatus.VALID
        first, *asked = server.pauses
        assert asked[:3] == [5.0, 0.1, 60.0]
        assert first < asked[3] < asked[4]

    run(handler, test)


def test_polling_ends_with_its_deadline() -> None:
    """An order that never gets on is given up, and the error says that it is kept."""

    async def handler(request: web.Request) -> web.StreamResponse:
        base = f"http://{request.host}"
        document = {"status": "processing", "identifiers": [], "authorizations": [], "finalize": f"{base}/finalize"}
        return web.json_response(document)

    async def test(server: Server) -> None:
        order = await server.client.fetch_order(server.url)
        with pytest.raises(PeerError, match="the next run goes on with it"):
            await server.client.wait_for_order(order, 0.3)

    run(handler, test)
