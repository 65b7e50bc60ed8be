"""The HTTP client: everything that another party sends is bounded in size, in time and in origin.

Spec: RFC 9110, "Retry-After", "Idempotent Methods"; RFC 9111 is left to the callers.
"""

import asyncio
import contextlib
import io
import random
import zlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from types import TracebackType
from typing import Self

import aiohttp
from yarl import URL

from mtc.errors import PeerError, Reason, UsageError
from mtc.web.unix import socket_address

_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
_TEMPORARY = frozenset({429, 502, 503, 504})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CHUNK_BYTES = 64 << 10


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientLimits:
    """Numbers of a client. answer_bytes: of a body, after decompression. deadline_s: of a call, retries included.

    attempt_s: of one attempt. attempts: at most. pause_s: before the first retry, doubled for each further one, times a
    random number from 0.5 to 1.5. redirects: followed, within the same origin only. connections: open at once.
    """

    answer_bytes: int = 17 << 20
    deadline_s: float = 60.0
    attempt_s: float = 20.0
    attempts: int = 5
    pause_s: float = 0.2
    redirects: int = 3
    connections: int = 32


@dataclass(slots=True)
class ClientCounts:
    """What a client has done so far. bytes: of bodies as they came, compressed ones compressed."""

    requests: int = 0
    retries: int = 0
    failures: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, whole. headers: names in lower case; the last one of equal names."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class HTTPClient:
    """Sends requests; use as an async context manager. counts: for metrics.

    Not redirected to other origins, because a log's answers are its own. chance, pause, now: for tests.
    """

    def __init__(  # noqa: PLR0913 - the seams of time and chance
        self,
        limits: ClientLimits | None = None,
        *,
        socket_path: Path | None = None,
        user_agent: str = "mtc",
        chance: Callable[[], float] = random.random,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Take the choices. socket_path: send everything to this Unix socket, whatever the host in the URL."""
        self._limits = limits or ClientLimits()
        self._socket_path = socket_path
        self._user_agent = user_agent
        self._chance = chance
        self._pause = pause
        self._now = now
        self._resources = contextlib.AsyncExitStack()
        self._session: aiohttp.ClientSession | None = None
        self.counts = ClientCounts()

    async def __aenter__(self) -> Self:
        """Open the pool of connections."""
        connector: aiohttp.BaseConnector
        if self._socket_path is None:
            connector = aiohttp.TCPConnector(limit=self._limits.connections)
        else:
            address = self._resources.enter_context(socket_address(self._socket_path))
            connector = aiohttp.UnixConnector(address, limit=self._limits.connections)
        # Decompression is done here, step by step, so that a small answer cannot fill the memory.
        self._session = await self._resources.enter_async_context(
            aiohttp.ClientSession(
                connector=connector,
                auto_decompress=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": self._user_agent, "Accept-Encoding": "gzip"},
                trust_env=False,
            )
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close all connections."""
        self._session = None
        await self._resources.aclose()

    async def fetch(self, url: str, *, headers: Mapping[str, str] | None = None, most: int | None = None) -> Answer:
        """Send a GET; see `request`."""
        return await self.request("GET", url, headers=headers, most=most)

    async def request(  # noqa: PLR0913 - the parts of a request
        self,
        method: str,
        url: str,
        *,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        most: int | None = None,
        deadline_s: float | None = None,
        is_idempotent: bool | None = None,
    ) -> Answer:
        """Send a request and return the answer, whatever its status, unless it stays a temporary refusal.

        most: bytes of the body after decompression, instead of the client's limit. is_idempotent: may be sent again
        after a failure; by default as the method says. Retried: connection errors, time-outs, 429, 502, 503, 504, after
        what `Retry-After` says. Raises PeerError (PEER, TOO_LARGE) when there is no answer in time, the answer is too
        large or broken, or leads to another origin.
        """
        may_retry = method in _IDEMPOTENT if is_idempotent is None else is_idempotent
        deadline_s = self._limits.deadline_s if deadline_s is None else deadline_s
        most = self._limits.answer_bytes if most is None else most
        attempt = 0
        try:
            async with asyncio.timeout(deadline_s):
                while True:
                    attempt += 1
                    is_last = not may_retry or attempt >= self._limits.attempts
                    answer = await self._attempt(method, url, body, headers or {}, most, is_last=is_last)
                    if answer is not None and (is_last or answer.status not in _TEMPORARY):
                        return answer
                    await self._wait(answer, attempt, deadline_s, url)
        except TimeoutError:
            self.counts.failures += 1
            raise PeerError(
                Reason.PEER, f"{_origin(URL(url))} gave no answer in {deadline_s:g} s", attempts=attempt
            ) from None
        except PeerError:
            self.counts.failures += 1
            raise

    async def _attempt(  # noqa: PLR0913 - the parts of a request
        self, method: str, url: str, body: bytes, headers: Mapping[str, str], most: int, *, is_last: bool
    ) -> Answer | None:
        """Send once. None: no answer, and it may be tried again."""
        self.counts.requests += 1
        try:
            async with asyncio.timeout(self._limits.attempt_s):
                return await self._follow(method, url, body, headers, most)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            if is_last:
                what = _describe(error)
                raise PeerError(Reason.PEER, f"{_origin(URL(url))} does not answer: {what}") from None
            return None

    async def _follow(self, method: str, url: str, body: bytes, headers: Mapping[str, str], most: int) -> Answer:
        """Send one request and follow redirects within its origin."""
        if self._session is None:
            raise UsageError(Reason.USAGE, "an HTTP client is used inside `async with`")
        place = URL(url)
        for _ in range(self._limits.redirects + 1):
            async with self._session.request(
                method, place, data=_payload(body), headers=headers, allow_redirects=False
            ) as response:
                target = response.headers.get("Location")
                if response.status not in _REDIRECTS or target is None:
                    content = b"" if method == "HEAD" else await self._read(response, most)
                    fields = {name.lower(): value for name, value in response.headers.items()}
                    return Answer(response.status, fields, content)
                old, place = place, place.join(URL(target))
                if place.origin() != old.origin():
                    raise PeerError(Reason.PEER, f"{_origin(old)} redirects to another origin, {_origin(place)}")
                if response.status in {301, 302, 303} and method not in {"GET", "HEAD"}:
                    method, body = "GET", b""
        raise PeerError(Reason.PEER, f"{_origin(place)} redirects more than {self._limits.redirects} times")

    async def _read(self, response: aiohttp.ClientResponse, most: int) -> bytes:
        """Read a body, decompressed, of at most `most` bytes."""
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        if encoding not in {"identity", "gzip", "x-gzip"}:
            raise PeerError(Reason.PEER, f"the answer is encoded with {encoding[:40]!r}, which was not asked for")
        # 31 bits: a gzip header and trailer, checked by the library.
        unpack = zlib.decompressobj(31) if encoding != "identity" else None
        parts: list[bytes] = []
        size = 0
        async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
            self.counts.bytes += len(chunk)
            try:
                data = unpack.decompress(chunk, most - size + 1) if unpack else chunk
            except zlib.error as error:
                raise PeerError(Reason.PEER, f"the answer is no gzip: {error}") from None
            size += len(data)
            if size > most:
                raise PeerError(Reason.TOO_LARGE, f"the answer is larger than {most} bytes", expected=most)
            parts.append(data)
        if unpack and not unpack.eof:
            raise PeerError(Reason.TRUNCATED, "the answer's gzip ends too early")
        return b"".join(parts)

    async def _wait(self, answer: Answer | None, attempt: int, deadline_s: float, url: str) -> None:
        """Wait before the next attempt, as long as the peer asks for."""
        self.counts.retries += 1
        pause = self._limits.pause_s * 2 ** (attempt - 1) * (0.5 + self._chance())
        asked = _retry_after(answer, self._now()) if answer is not None else 0.0
        if asked > deadline_s:
            raise PeerError(
                Reason.BUSY, f"{_origin(URL(url))} asks to come again in {asked:.0f} s", retry_after_s=asked
            )
        await self._pause(max(pause, asked))


def _describe(error: Exception) -> str:
    """Say why there is no answer, without what the library adds about TLS that was not asked for."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return (error.os_error.strerror or str(error.os_error)).lower()
    return str(error) or "time is up"


def _payload(body: bytes) -> bytes | io.BytesIO | None:
    """Return what the library sends; a large body as a stream, because as bytes it would hold up the event loop."""
    return body or None if len(body) <= _CHUNK_BYTES else io.BytesIO(body)


def _retry_after(answer: Answer, now: datetime) -> float:
    """Return the seconds that an answer asks to wait, 0 when it does not say."""
    text = answer.headers.get("retry-after", "").strip()
    if text.isascii() and text.isdecimal():
        return float(int(text[:10]))
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    # RFC 9110 allows only GMT here; a date without a zone is meant so.
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max((moment - now).total_seconds(), 0.0)


def _origin(url: URL) -> str:
    """Name the other party: never with the path or query, which may hold secrets."""
    return str(url.origin()) if url.is_absolute() else "the peer"
