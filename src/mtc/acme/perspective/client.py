"""The CA's side of a remote perspective: one request for each task, to an agent that is known by its key.

Both sides are known to each other by self-signed certificates, so that no other authority can put itself between them.
"""

import asyncio
import contextlib
import json
import os
import ssl
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

import aiohttp

from mtc.acme.machine.validation import MAX_REPORT_BYTES, Report, ValidationTask
from mtc.acme.perspective.config import PerspectivePeer, check_peers
from mtc.acme.perspective.pinning import PinError, PinnedContext, pinned_context
from mtc.errors import FormatError, PeerError, Reason
from mtc.web.clock import Clock, SystemClock
from mtc.web.tls import TLSFiles, ensure_identity

EXAMINE_PATH = "/examine"
"""Where an agent takes tasks, below its URL."""
DEADLINE_S = 30.0
"""How long one task may take, from the connection to the end of the report."""
CONNECT_S = 5.0
CLOCK_TOLERANCE = timedelta(minutes=5)
"""How far an agent's clock may be from ours; evidence says when something was seen."""
CONNECTIONS = 200
"""Most connections to one agent, one for each task at that time."""
CERTIFICATE_NAME, KEY_NAME = "perspective-client.pem", "perspective-client-key.pem"
_IDENTITY_LIFETIME = timedelta(days=3653)
_IDLE_S = 30.0
_REFUSALS = (
    "CERTIFICATE_REQUIRED",
    "CERTIFICATE_EXPIRED",
    "CERTIFICATE_UNKNOWN",
    "UNKNOWN_CA",
    "BAD_CERTIFICATE",
    "ACCESS_DENIED",
)
_UNKNOWN = f"does not let this CA in; give it our {CERTIFICATE_NAME}, if it is still valid: mtc perspective allow"


def open_identity(folder: Path, name: str, now: datetime) -> TLSFiles:
    """Return how a CA shows agents who it is; made the first time, valid for ten years, and then never changed.

    folder: where key (0600) and certificate lie; the certificate is what agents allow. name: of the CA, for people.
    Raises StorageError, UsageError.
    """
    files = TLSFiles(folder / CERTIFICATE_NAME, folder / KEY_NAME)
    ensure_identity(files, name, now, _IDENTITY_LIFETIME)
    return files


class PerspectiveClient:
    """`Perspective` of an agent elsewhere; make them with `open_perspectives`. May be used by many tasks at once."""

    def __init__(
        self, peer: PerspectivePeer, session: aiohttp.ClientSession, context: PinnedContext, deadline_s: float
    ) -> None:
        """Take the agent and the connections to it."""
        self._peer, self._session, self._context, self._deadline_s = peer, session, context, deadline_s

    @property
    def name(self) -> str:
        """Its name in evidence."""
        return self._peer.name

    @property
    def region(self) -> str:
        """Where it stands, as configured."""
        return self._peer.region

    async def examine(self, task: ValidationTask) -> Report:
        """Have the agent look. Raises PeerError that says what is wrong with the agent or the way to it."""
        body = json.dumps(task.to_json()).encode()
        try:
            async with asyncio.timeout(self._deadline_s):
                data = await self._send(body)
        except TimeoutError:
            raise self._fault(Reason.PEER, f"does not answer in {self._deadline_s:g} s") from None
        except (aiohttp.ClientError, OSError, ssl.SSLError) as error:
            raise self._explain(error) from None
        return self._read(data)

    async def _send(self, body: bytes) -> bytes:
        """Send a task and return the body of the answer; once more where an idle connection had ended meanwhile."""
        try:
            return await self._send_once(body)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            if _refusal(error):
                raise
        return await self._send_once(body)

    async def _send_once(self, body: bytes) -> bytes:
        """Send a task and return the body of the answer."""
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        url = self._peer.url + EXAMINE_PATH
        async with self._session.post(
            url, data=body, headers=headers, ssl=self._context, allow_redirects=False
        ) as response:
            if response.status != 200:
                raise self._refused(response.status)
            parts, size = [], 0
            async for chunk in response.content.iter_any():
                size += len(chunk)
                if size > MAX_REPORT_BYTES:
                    raise self._fault(Reason.TOO_LARGE, f"sends more than {MAX_REPORT_BYTES} bytes")
                parts.append(chunk)
            return b"".join(parts)

    def _refused(self, status: int) -> PeerError:
        """Say what an answer without a report means."""
        if status in (401, 403):
            return self._fault(Reason.UNAUTHORIZED, _UNKNOWN)
        if status == 503:
            return self._fault(Reason.BUSY, "has too much to do, or is not well; see its /health")
        return self._fault(Reason.PEER, f"answers {status} to a task; is it a perspective of this version?")

    def _read(self, data: bytes) -> Report:
        """Return the report that an agent sent."""
        try:
            document = json.loads(data)
            # What is no Unicode could be written neither to the journal nor to the database.
            json.dumps(document, ensure_ascii=False).encode()
            report = Report.of_json(document)
        except (ValueError, RecursionError):
            raise self._fault(Reason.BAD_DOCUMENT, "sends something else than JSON") from None
        except FormatError as error:
            raise self._fault(error.reason, f"sends no report: {error.message}") from None
        now = self._context.now()
        is_now = max(abs(now - report.started), abs(now - report.finished)) <= CLOCK_TOLERANCE
        if report.finished < report.started or not is_now:
            raise self._fault(
                Reason.CLOCK,
                f"says that it looked from {report.started.isoformat()} to {report.finished.isoformat()}; compare its "
                "clock with ours",
            )
        return report

    def _explain(self, error: Exception) -> PeerError:
        """Say why there is no answer, and what to do."""
        for cause in _causes(error):
            if isinstance(cause, PinError):
                return self._fault(cause.fault.reason, f"cannot be trusted: {cause.fault.message}")
        if _refusal(error):
            return self._fault(Reason.UNAUTHORIZED, _UNKNOWN)
        if isinstance(error, aiohttp.ServerDisconnectedError | ConnectionResetError):
            return self._fault(Reason.PEER, "closed the connection without an answer")
        causes = [cause for cause in _causes(error) if isinstance(cause, OSError) and cause.errno is not None]
        text = _text(causes[-1]) if causes else str(error) or type(error).__name__
        return self._fault(Reason.PEER, f"does not answer: {text.lower()}")

    def _fault(self, reason: Reason, what: str) -> PeerError:
        """Make an error that names the agent."""
        return PeerError(reason, f"perspective {self.name} at {self._peer.url} {what}", perspective=self.name)


def _text(error: OSError) -> str:
    """Return the text of an error: the system's where it has one, because asyncio puts the address in its place."""
    is_of_system = not isinstance(error, ssl.SSLError) and (error.errno or 0) > 0
    return os.strerror(error.errno or 0) if is_of_system else error.strerror or str(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and what it came from, outermost first."""
    seen: set[int] = set()
    waiting = [error]
    while waiting:
        item = waiting.pop(0)
        if id(item) in seen:
            continue
        seen.add(id(item))
        yield item
        inner = (item.__cause__, item.__context__, getattr(item, "os_error", None), *item.args)
        waiting += [cause for cause in inner if isinstance(cause, BaseException)]


def _refusal(error: BaseException) -> bool:
    """Tell whether the agent refused our certificate; in TLS 1.3 that is said after the handshake."""
    texts = [f"{getattr(cause, 'reason', '')} {cause}" for cause in _causes(error) if isinstance(cause, ssl.SSLError)]
    texts += [str(cause) for cause in _causes(error) if isinstance(cause, aiohttp.ClientOSError)]
    return any(f"ALERT_{word}" in text for text in texts for word in _REFUSALS)


@asynccontextmanager
async def open_perspectives(
    peers: Sequence[PerspectivePeer],
    identity: TLSFiles,
    *,
    clock: Clock | None = None,
    deadline_s: float = DEADLINE_S,
) -> AsyncIterator[tuple[PerspectiveClient, ...]]:
    """Open the way to agents, in the order given; connections are made when they are needed, kept, and shared.

    identity: from `open_identity`. Raises UsageError for peers that are not distinct, and for an identity that cannot
    be used. Agents that do not answer are no error here.
    """
    check_peers(tuple(peers))
    now = (clock or SystemClock()).now
    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for peer in peers:
            connector = aiohttp.TCPConnector(limit=CONNECTIONS, keepalive_timeout=_IDLE_S)
            session = aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": "mtc"},
                # Compression was not asked for, and a small answer must not become a large one.
                auto_decompress=False,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
                trust_env=False,
            )
            await stack.enter_async_context(session)
            clients.append(
                PerspectiveClient(peer, session, pinned_context(identity, peer.fingerprint, now), deadline_s)
            )
        yield tuple(clients)
