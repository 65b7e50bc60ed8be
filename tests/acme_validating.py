"""What the tests of validation share: applicants' servers on loopback, and an internet that is not there."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from mtc.acme.machine.identifiers import Identifier
from mtc.acme.machine.validation import Method, Report, ValidationTask
from mtc.acme.validation import LocalPerspective, ValidationSettings, connect_directly
from mtc.acme.validation.addresses import Address, parse_address
from mtc.testing.names import NameServer

CA_DOMAIN = "ca.test"
ACCOUNT = "https://ca.test/acme/account/1"
TOKEN = "evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA"  # noqa: S105 - the example of RFC 8555
KEY_AUTHORIZATION = f"{TOKEN}.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
PATH = f"/.well-known/acme-challenge/{TOKEN}"
QUICK = ValidationSettings(
    servers=("127.0.0.1:1",),
    dns_timeout_s=0.25,
    dns_attempts=2,
    connect_timeout_s=10.0,
    control_timeout_s=30.0,
    total_timeout_s=60.0,
    allows_private=True,
)
"""Settings that give up soon; the servers are to be replaced."""


def task(name: str, method: Method = Method.HTTP_01, *, wildcard: bool = False, control: bool = True) -> ValidationTask:
    """Return a task about a name or an address."""
    identifier = Identifier.dns(name) if parse_address(name) is None else Identifier.ip(name)
    return ValidationTask(
        identifier=identifier,
        is_wildcard=wildcard,
        method=method,
        account_url=ACCOUNT,
        caa_domains=(CA_DOMAIN,),
        proves_control=control,
        token=TOKEN if control else "",
        key_authorization=KEY_AUTHORIZATION if control else "",
    )


def problem_of(report: Report) -> tuple[str, str]:
    """Return type and text of a report's problem, which there is."""
    assert report.problem is not None
    return str(report.problem.type), report.problem.detail


def run(
    work: Callable[[NameServer], Coroutine[Any, Any, None]],
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> None:
    """Run one test with a name server. factory: of the event loop."""

    async def main() -> None:
        async with asyncio.timeout(30), NameServer() as names:
            await work(names)

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(main())


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def listening(handler: Handler, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """Listen with a handler for each connection; yields the port. What a handler is doing at the end is cancelled."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        current = asyncio.current_task()
        assert current is not None
        tasks.add(current)
        try:
            await handler(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            writer.transport.abort()
            tasks.discard(current)

    server = await asyncio.start_server(serve, host, 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for item in tasks:
            item.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


@dataclass(slots=True)
class Site:
    """A web server: answers every request with bytes that a function makes of its path. requests: what came."""

    answer: Callable[[str], bytes]
    requests: list[str] = field(default_factory=list)

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection."""
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        self.requests.append(request)
        writer.write(self.answer(request.split(" ")[1]))
        await writer.drain()
        writer.write_eof() if writer.can_write_eof() else writer.close()
        await reader.read()


def response(body: bytes = KEY_AUTHORIZATION.encode(), status: str = "200 OK", *headers: str) -> bytes:
    """Return an HTTP answer."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def redirect(location: str, status: str = "302 Found") -> bytes:
    """Return an HTTP answer that redirects."""
    return response(b"", status, f"Location: {location}")


@dataclass(slots=True)
class Internet:
    """Stands in for the public network: what is reached at which address and port. Elsewhere nobody listens.

    dialed: every address and port that was connected to.
    """

    routes: dict[tuple[str, int], int] = field(default_factory=dict)
    dialed: list[tuple[str, int]] = field(default_factory=list)

    async def __call__(self, address: Address, port: int) -> Any:  # noqa: ANN401 - a socket
        """Connect to where the route leads."""
        self.dialed.append((str(address), port))
        if (str(address), port) not in self.routes:
            raise ConnectionRefusedError(111, "Connection refused")
        loopback = parse_address("127.0.0.1")
        assert loopback is not None
        return await connect_directly(loopback, self.routes[str(address), port])


def perspective(names: NameServer, internet: Internet | None = None, **changes: Any) -> LocalPerspective:  # noqa: ANN401
    """Return a perspective that asks a name server; with an internet it allows public addresses only."""
    values = {name: getattr(QUICK, name) for name in QUICK.__dataclass_fields__}
    values |= {"servers": (names.server,), "allows_private": internet is None, **changes}
    settings = ValidationSettings(**values)
    return LocalPerspective(settings) if internet is None else LocalPerspective(settings, connect=internet)
