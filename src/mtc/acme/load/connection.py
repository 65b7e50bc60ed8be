"""One kept-alive HTTP/1.1 connection with one request at a time: as little as a load generator needs.

httptools parses, the event loop carries; there is no pool, no redirect and no retry.
"""

import asyncio
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from urllib.parse import urlsplit

import httptools

from mtc.errors import PeerError, Reason, UsageError

MAX_BODY_BYTES = 1 << 20
"""Largest answer that is read."""
_NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. headers: names in lower case; of repeated ones the last."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True)
class _Arriving:
    """The answer that is being read; the protocol owns it until it is whole."""

    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)


class KeptConnection:
    """A connection to one origin, opened when it is first needed and again after it was lost.

    One request at a time. Every failure of the transport is PeerError (PEER); whether the server acted is then unknown.
    """

    def __init__(self, origin: str, tls: ssl.SSLContext | None, timeout_s: float = 30.0) -> None:
        """Take where to connect to. origin: `https://host:port`, or the same of http. timeout_s: of a whole request."""
        parts = urlsplit(origin)
        if parts.hostname is None or parts.scheme not in ("http", "https"):
            raise UsageError(Reason.USAGE, f"{origin[:80]!r} is no URL of an HTTP server")
        self._host, self._port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
        self._tls = (tls or ssl.create_default_context()) if parts.scheme == "https" else None
        self._authority = parts.netloc.encode()
        self._timeout_s = timeout_s
        self._protocol: _Protocol | None = None

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = _NO_HEADERS
    ) -> Answer:
        """Send a request and return the whole answer. Raises PeerError.

        method: not HEAD, whose answers announce a body that never comes.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                if self._protocol is None or not self._protocol.is_open:
                    self._protocol = await self._open()
                return await self._protocol.exchange(self._encode(method, path, body, headers))
        except (OSError, TimeoutError, httptools.HttpParserError) as error:
            self.close()
            text = str(error) or "time is up"
            raise PeerError(Reason.PEER, f"{self._host}, port {self._port}: {text}") from None
        except asyncio.CancelledError:
            # The answer may still come, and would be taken for that of the next request.
            self.close()
            raise

    def close(self) -> None:
        """Close it; the next request opens another."""
        if self._protocol is not None:
            self._protocol.abort()
            self._protocol = None

    async def _open(self) -> "_Protocol":
        loop = asyncio.get_running_loop()
        name = self._host if self._tls is not None else None
        _, protocol = await loop.create_connection(
            _Protocol, self._host, self._port, ssl=self._tls, server_hostname=name
        )
        return protocol

    def _encode(self, method: str, path: str, body: bytes, headers: Mapping[str, str]) -> bytes:
        lines = [b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (method.encode(), path.encode(), self._authority)]
        lines += [f"{name}: {value}\r\n".encode() for name, value in headers.items()]
        if body:
            lines.append(b"Content-Length: %d\r\n" % len(body))
        return b"".join([*lines, b"User-Agent: mtc-load\r\n\r\n", body])


class _Protocol(asyncio.Protocol):
    """The connection's bytes; the parser calls the methods that begin with `on_`."""

    def __init__(self) -> None:
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._arriving = _Arriving()
        self._waiting: asyncio.Future[Answer] | None = None
        self._is_last = False

    @property
    def is_open(self) -> bool:
        """True while another request may be sent."""
        return self._transport is not None and not self._transport.is_closing() and not self._is_last

    async def exchange(self, request: bytes) -> Answer:
        """Send a request and wait for its answer."""
        assert self._transport is not None
        assert self._waiting is None, "one request at a time"
        self._arriving = _Arriving()
        self._parser = httptools.HttpResponseParser(self)
        self._waiting = asyncio.get_running_loop().create_future()
        try:
            self._transport.write(request)
            return await self._waiting
        finally:
            self._waiting = None

    def abort(self) -> None:
        """Close at once."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport."""
        self._transport = transport  # type: ignore[assignment]  # that of uvloop is no subclass

    def data_received(self, data: bytes) -> None:
        """Parse what came."""
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(error)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell who waits."""
        self._fail(exc or ConnectionResetError("the connection was closed before the answer"))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header."""
        self._arriving.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, data: bytes) -> None:
        """Take a part of the body."""
        self._arriving.body += data
        if len(self._arriving.body) > MAX_BODY_BYTES:
            self._fail(ConnectionError(f"the answer is larger than {MAX_BODY_BYTES} bytes"))
            self.abort()

    def on_message_complete(self) -> None:
        """Hand the answer over."""
        self._is_last = not self._parser.should_keep_alive()
        if self._waiting is not None and not self._waiting.done():
            arriving = self._arriving
            self._waiting.set_result(Answer(self._parser.get_status_code(), arriving.headers, bytes(arriving.body)))

    def _fail(self, error: Exception) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)
