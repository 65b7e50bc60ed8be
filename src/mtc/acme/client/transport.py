"""Requests to an ACME server: HTTPS with bounds, nonces, and the retries that RFC 8555 asks for.

Everything that the server sends is bounded in size and in time. Redirects are not followed, because a signature covers
the URL that it was made for.

Spec: RFC 8555, "Request Authentication", "Replay Protection", "Rate Limits"; RFC 9110, "Retry-After".
"""

import asyncio
import json
import os
import random
import ssl
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp

from mtc.acme.client.documents import (
    ACMERefusal,
    ServerProblem,
    parse_document,
    parse_links,
    parse_retry_after,
)
from mtc.acme.client.keys import AccountKey
from mtc.errors import FormatError, PeerError, Reason, UsageError

_JOSE = {"Content-Type": "application/jose+json"}
_TEMPORARY = frozenset({429, 500, 502, 503, 504})
_MAX_NONCES = 256
_CHUNK_BYTES = 64 << 10
_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportLimits:
    """Numbers of a client. answer_bytes: of a body. deadline_s: of a call, retries included. attempt_s: of one attempt.

    attempts: at most, after failures of the network or of the server. nonce_attempts: at most, while the server calls
    nonces bad. pause_s: before the first retry, doubled for each further one. connections: open at once.
    """

    answer_bytes: int = 4 << 20
    deadline_s: float = 120.0
    attempt_s: float = 60.0
    attempts: int = 4
    nonce_attempts: int = 15
    pause_s: float = 0.5
    connections: int = 32


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer. headers: names in lower case. links: targets by relation. retry_after_s: what it asks to wait."""

    url: str
    status: int
    headers: Mapping[str, str]
    links: Mapping[str, list[str]]
    body: bytes
    retry_after_s: float | None = None

    def json(self, what: str) -> object:
        """Return the body as JSON. Raises FormatError."""
        return parse_document(self.body, what)


@dataclass(slots=True)
class TransportCounts:
    """What a transport has done so far. bad_nonces: requests that were sent again with a fresh nonce."""

    requests: int = 0
    retries: int = 0
    bad_nonces: int = 0


@dataclass(frozen=True, slots=True)
class Signature:
    """Who signs a request: a key, and the account that it belongs to, None where the key itself is sent."""

    key: AccountKey
    kid: str | None

    def header(self) -> dict[str, object]:
        """Return its part of the protected header."""
        return {"jwk": self.key.jwk} if self.kid is None else {"kid": self.kid}


@dataclass(slots=True)
class Transport:
    """Sends requests to one server; use `open_transport`. counts: for tests and reports.

    Any number of tasks may use it at once; each takes its own nonce. now, pause, chance: the seams of time and chance.
    new_nonce, allows_http: as the directory says; HTTP is for servers of this machine.
    """

    session: aiohttp.ClientSession
    limits: TransportLimits
    now: Callable[[], datetime]
    pause: Callable[[float], Awaitable[object]]
    chance: Callable[[], float]
    new_nonce: str = ""
    allows_http: bool = False
    counts: TransportCounts = field(default_factory=TransportCounts)
    # Unused nonces, newest last; old ones are the first that a server forgets, so they are used last and dropped first.
    _nonces: deque[str] = field(default_factory=lambda: deque(maxlen=_MAX_NONCES))

    async def fetch(self, url: str, *, headers: Mapping[str, str] | None = None) -> Reply:
        """Send a GET, which is not signed: the directory and renewal information. Raises as `post`."""
        return await self._until_answered("GET", url, lambda: _nothing(headers or {}), waits=True)

    async def post(  # noqa: PLR0913 - the parts of a request
        self,
        url: str,
        payload: object,
        signature: Signature,
        *,
        headers: Mapping[str, str] | None = None,
        waits: bool = True,
        statuses: frozenset[int] = frozenset(),
    ) -> Reply:
        """Send a signed request, and return the answer when its status is 2xx or one of `statuses`.

        payload: JSON, or None for POST-as-GET. waits: after 429 and 503 the request is sent again, when the server says
        how long to wait and it is not longer than the deadline. Raises ACMERefusal for a problem document, PeerError
        when there is no answer in time or it is none of ACME's.
        """
        body = b"" if payload is None else json.dumps(payload).encode()

        async def sign() -> tuple[bytes, Mapping[str, str]]:
            header: dict[str, object] = {"nonce": await self.take_nonce(), "url": url, **signature.header()}
            return signature.key.sign(header, body), {**_JOSE, **(headers or {})}

        return await self._until_answered("POST", url, sign, waits=waits, statuses=statuses)

    async def take_nonce(self) -> str:
        """Return a nonce that nobody used yet, from an earlier answer or from the server."""
        if self._nonces:
            return self._nonces.pop()
        reply = await self._until_answered("HEAD", self.new_nonce, lambda: _nothing({}), waits=True)
        if not self._nonces:
            raise PeerError(Reason.PEER, f"{_host(reply.url)} gave no nonce")
        return self._nonces.pop()

    async def _until_answered(
        self,
        method: str,
        url: str,
        prepare: Callable[[], Awaitable[tuple[bytes, Mapping[str, str]]]],
        *,
        waits: bool,
        statuses: frozenset[int] = frozenset(),
    ) -> Reply:
        """Send, and send again where that may help. prepare: makes body and headers anew for each attempt."""
        check_url(url, allows_http=self.allows_http)
        failures = nonces = 0
        try:
            async with asyncio.timeout(self.limits.deadline_s):
                while True:
                    body, headers = await prepare()
                    try:
                        reply = await self.send(method, url, body, headers)
                    except PeerError as error:
                        failures += 1
                        # A server that is not trusted, or that sends too much, does so again.
                        if failures >= self.limits.attempts or error.reason is not Reason.PEER:
                            raise
                        await self._back_off(failures, None)
                        continue
                    if 200 <= reply.status < 300 or reply.status in statuses:
                        return reply
                    problem = _problem(reply)
                    if problem.kind == "badNonce" and nonces < self.limits.nonce_attempts:
                        nonces += 1
                        self.counts.bad_nonces += 1
                        # What is left in the pool is older than what was just refused.
                        while len(self._nonces) > 1:
                            self._nonces.popleft()
                        continue
                    failures += 1
                    if not self._may_retry(reply, problem, failures, waits=waits):
                        raise _refusal(reply, problem)
                    await self._back_off(failures, reply.retry_after_s)
        except TimeoutError:
            raise PeerError(Reason.PEER, f"{_host(url)} gave no answer in {self.limits.deadline_s:g} s") from None

    def _may_retry(self, reply: Reply, problem: ServerProblem, failures: int, *, waits: bool) -> bool:
        """Tell whether a temporary refusal is worth another attempt."""
        if reply.status not in _TEMPORARY or failures >= self.limits.attempts or not waits:
            return False
        if reply.status == 429 and reply.retry_after_s is None:
            return False
        if problem.kind and problem.kind not in ("rateLimited", "serverInternal"):
            return False
        return (reply.retry_after_s or 0.0) < self.limits.deadline_s

    async def _back_off(self, failures: int, asked_s: float | None) -> None:
        """Wait before the next attempt."""
        self.counts.retries += 1
        pause = self.limits.pause_s * 2 ** (failures - 1) * (0.5 + self.chance())
        await self.pause(max(pause, asked_s or 0.0))

    async def send(self, method: str, url: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Send one request once, and keep the nonce of its answer. Raises PeerError."""
        self.counts.requests += 1
        try:
            async with (
                asyncio.timeout(self.limits.attempt_s),
                self.session.request(
                    method, url, data=body or None, headers=headers, allow_redirects=False
                ) as response,
            ):
                content = b"" if method == "HEAD" else await _read(response, self.limits.answer_bytes, url)
                nonce = response.headers.get("Replay-Nonce")
                if nonce:
                    self._nonces.append(nonce)
                return Reply(
                    url,
                    response.status,
                    {name.lower(): value for name, value in response.headers.items()},
                    parse_links(response.headers.getall("Link", []), url),
                    content,
                    parse_retry_after(response.headers.get("Retry-After"), self.now()),
                )
        except aiohttp.ClientConnectorCertificateError as error:
            raise _untrusted(url, error) from None
        except TimeoutError:
            raise PeerError(Reason.PEER, f"{_host(url)} gave no answer in {self.limits.attempt_s:g} s") from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise PeerError(Reason.PEER, f"{_host(url)} does not answer: {_describe(error)}") from None


@asynccontextmanager
async def open_transport(  # noqa: PLR0913 - the seams of time and chance
    *,
    ca_file: Path | None = None,
    is_local: bool = False,
    limits: TransportLimits | None = None,
    user_agent: str = "mtc",
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
    pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    chance: Callable[[], float] = random.random,
) -> AsyncIterator[Transport]:
    """Open connections to a server; they are closed in the end.

    ca_file: certificates to trust in place of the system's, PEM: a private root, or the server's own certificate.
    is_local: the server is spoken to over plain HTTP, so that nothing need be loaded to judge certificates by.
    """
    limits = limits or TransportLimits()
    # `True` is the library's own context: of system roots as well, loaded once.
    context = True if is_local and ca_file is None else make_tls_context(ca_file)
    connector = aiohttp.TCPConnector(limit=limits.connections, ssl=context, ttl_dns_cache=60)
    async with aiohttp.ClientSession(
        connector=connector,
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={"User-Agent": user_agent, "Accept-Encoding": "identity"},
        timeout=aiohttp.ClientTimeout(),
    ) as session:
        yield Transport(session, limits, now, pause, chance)


def make_tls_context(ca_file: Path | None) -> ssl.SSLContext:
    """Return what decides which servers are believed. Raises UsageError (UNREADABLE, BAD_PEM)."""
    if ca_file is None:
        return ssl.create_default_context()
    try:
        context = ssl.create_default_context(cafile=str(ca_file))
    except ssl.SSLError:
        raise UsageError(Reason.BAD_PEM, f"{ca_file} holds no certificates, PEM") from None
    except OSError as error:
        raise UsageError(
            Reason.UNREADABLE, f"{ca_file} cannot be read: {(error.strerror or str(error)).lower()}", file=str(ca_file)
        ) from None
    # The server's own certificate may be the trust anchor, whether or not it signed itself.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    return context


def check_url(url: str, *, allows_http: bool = False) -> None:
    """Refuse what is neither HTTPS nor, if that is allowed, HTTP on this machine. Raises PeerError (FORBIDDEN).

    A server elsewhere must not lead us to services of this machine.

    Spec: RFC 8555, "HTTPS Requests": clients MUST use HTTPS.
    """
    parts = urlsplit(url)
    if parts.scheme == "https" and parts.hostname:
        return
    if allows_http and parts.scheme == "http" and parts.hostname in _LOOPBACK:
        return
    raise PeerError(Reason.FORBIDDEN, f"{url[:200]!r} is no https URL; only on this machine http will do")


async def _nothing(headers: Mapping[str, str]) -> tuple[bytes, Mapping[str, str]]:
    """Prepare a request without a body."""
    return b"", headers


async def _read(response: aiohttp.ClientResponse, most: int, url: str) -> bytes:
    """Read a body of at most `most` bytes."""
    parts: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        size += len(chunk)
        if size > most:
            raise PeerError(Reason.TOO_LARGE, f"the answer of {_host(url)} is larger than {most} bytes")
        parts.append(chunk)
    return b"".join(parts)


def _problem(reply: Reply) -> ServerProblem:
    """Return the problem document of an answer; one without text when there is none."""
    if "json" not in reply.headers.get("content-type", ""):
        return ServerProblem(kind="", detail="", status=reply.status)
    try:
        return ServerProblem.of_json(reply.json("the problem"), reply.status)
    except FormatError:
        return ServerProblem(kind="", detail="", status=reply.status)


def _refusal(reply: Reply, problem: ServerProblem) -> PeerError | ACMERefusal:
    """Make the error of an answer that is no success."""
    host = _host(reply.url)
    if problem.kind or problem.detail:
        return ACMERefusal.of(f"{host} refused", problem, reply.retry_after_s)
    where = f" to {reply.headers['location'][:200]!r}" if "location" in reply.headers and reply.status < 400 else ""
    what = f"redirects{where}; is this the URL of an ACME directory" if where else "is this an ACME server"
    return PeerError(Reason.PEER, f"{host} answered {reply.status}: {what}?", status=reply.status, url=reply.url[:200])


def _untrusted(url: str, error: aiohttp.ClientConnectorCertificateError) -> PeerError:
    """Make the error for a server whose certificate is not believed."""
    cause = error.certificate_error
    text = getattr(cause, "verify_message", "") or str(cause)
    return PeerError(
        Reason.UNAUTHORIZED,
        f"the certificate of {_host(url)} is not trusted: {text}; --ca-file names a file with its root",
    )


def _describe(error: Exception) -> str:
    """Say why there is no answer."""
    if isinstance(error, aiohttp.ClientConnectorError):
        number = error.os_error.errno
        return (os.strerror(number) if number else str(error.os_error)).lower()
    return str(error) or type(error).__name__


def _host(url: str) -> str:
    """Name the server: without path and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"
