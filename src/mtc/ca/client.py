"""Asks a CA that runs elsewhere: over the Unix socket in its folder, or over HTTP with a token."""

import contextlib
import json
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from mtc.errors import FormatError, PeerError, Reason, Rejected
from mtc.web.unix import socket_address

TIMEOUT_S = 400.0
"""Longest wait for an answer; an issuance waits for its round and for the cosigners."""
MAX_ANSWER_BYTES = 256 << 20


class CAClient:
    """One connection to a CA's API. Raises PeerError when it does not answer, Rejected with its reason when it says no.

    Use `connect`.
    """

    def __init__(self, session: aiohttp.ClientSession, base: str) -> None:
        """Take the session and what stands in front of the paths."""
        self._session = session
        self._base = base

    @staticmethod
    @asynccontextmanager
    async def connect(target: str, token: str | None = None) -> AsyncIterator["CAClient"]:
        """Open a session with the CA at a URL, or behind a Unix socket given by its path."""
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        connector: aiohttp.BaseConnector | None = None
        base = target.rstrip("/")
        with contextlib.ExitStack() as stack:
            if "://" not in target:
                address = stack.enter_context(socket_address(Path(target)))
                connector, base = aiohttp.UnixConnector(address), "http://ca"
            timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
            async with aiohttp.ClientSession(connector=connector, headers=headers, timeout=timeout) as session:
                yield CAClient(session, base)

    async def request(
        self, method: str, path: str, document: Mapping[str, object] | None = None
    ) -> tuple[int, dict[str, object]]:
        """Return status and JSON answer of a call of the API."""
        status, data = await self._send(method, path, None if document is None else json.dumps(document).encode())
        try:
            answer = json.loads(data)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise FormatError(Reason.BAD_DOCUMENT, f"{self._base} answered {status} with something else than JSON")
        if status >= 400:
            raise _refusal(status, answer)
        return status, answer

    async def issue_lines(self, lines: Sequence[bytes]) -> list[dict[str, object]]:
        """Have many requests issued; return an answer per line, in order."""
        status, data = await self._send("POST", "certificates/bulk", b"\n".join(lines))
        try:
            answers = [json.loads(line) for line in data.split(b"\n") if line]
        except ValueError:
            raise FormatError(Reason.BAD_DOCUMENT, f"{self._base} answered {status} with broken JSON lines") from None
        if status >= 400:
            raise _refusal(status, answers[0] if answers and isinstance(answers[0], dict) else {})
        if len(answers) != len(lines):
            raise PeerError(Reason.TRUNCATED, f"{self._base} answered {len(answers)} of {len(lines)} requests")
        return answers

    async def _send(self, method: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        """Send a request and read the whole answer."""
        try:
            async with self._session.request(method, f"{self._base}/api/v1/{path}", data=body) as response:
                data = await response.content.read(MAX_ANSWER_BYTES + 1)
                while not response.content.at_eof() and len(data) <= MAX_ANSWER_BYTES:
                    data += await response.content.read(MAX_ANSWER_BYTES + 1 - len(data))
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            text = str(error) or "time is up"
            raise PeerError(Reason.PEER, f"the CA at {self._base} does not answer: {text}; is it running?") from None
        if len(data) > MAX_ANSWER_BYTES:
            raise PeerError(Reason.TOO_LARGE, f"the answer of {self._base} is larger than {MAX_ANSWER_BYTES} bytes")
        return response.status, data


def is_served(path: Path) -> bool:
    """Tell whether somebody answers behind a Unix socket."""
    with socket_address(path) as address, socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(address)
        except OSError:
            return False
    return True


def _refusal(status: int, answer: Mapping[str, object]) -> Rejected:
    """Return the error for an answer that says no; its reason is the CA's where it gives one."""
    reason = answer.get("reason")
    detail = answer.get("detail") or answer.get("error") or f"status {status}"
    known = Reason(reason) if isinstance(reason, str) and reason in list(Reason) else Reason.PEER
    return Rejected(known, f"the CA refused: {detail}", status=status)
