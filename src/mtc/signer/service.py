"""The process that holds the key: a Unix socket, a record of its own, a journal, and nothing else.

The order of one answer, each step durable before the next: decide, write the journal, move the record, sign, answer. A
crash after the journal leaves a message that was perhaps never signed, and never a signature that the journal does not
name.
"""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path

from mtc.crypto import Signer
from mtc.errors import Error, PeerError, Reason, StorageError
from mtc.merkle import Hasher
from mtc.note import CosignedMessage
from mtc.signer.machine import SignerRules, SignerView, SigningPlan, TreeRequest, plan_signing
from mtc.signer.protocol import (
    MAX_FRAME_BYTES,
    SignedMessages,
    encode_answer,
    encode_request,
    parse_answer,
    parse_request,
)
from mtc.store import Register
from mtc.web.clock import Clock

_REGISTER_NAME = "signer-log"
_TIMEOUT_S = 60.0


class Journal:
    """An append-only file of every message that was about to be signed, one JSON object a line, synced line by line."""

    def __init__(self, path: Path) -> None:
        """Open the file, made with mode 0600 if it is not there. Raises StorageError."""
        try:
            self._handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StorageError(Reason.STORAGE, f"the journal {path} cannot be opened: {error.strerror}") from None

    def append(self, moment: str, messages: tuple[CosignedMessage, ...]) -> None:
        """Write the messages, durable on return. Raises StorageError."""
        line = json.dumps({"time": moment, "messages": [message.encode().hex() for message in messages]})
        try:
            os.write(self._handle, line.encode() + b"\n")
            os.fsync(self._handle)
        except OSError as error:
            raise StorageError(Reason.STORAGE, f"the journal failed: {error.strerror}") from None

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)


class KeyHolder:
    """Answers requests one at a time: decides, makes durable, signs."""

    def __init__(  # noqa: PLR0913 - the seams of a signer
        self, hasher: Hasher, rules: SignerRules, key: Signer, register: Register, journal: Journal, clock: Clock
    ) -> None:
        """Take the key and where its record and journal are."""
        self._hasher = hasher
        self._rules = rules
        self._key = key
        self._register = register
        self._journal = journal
        self._clock = clock
        self._turn = asyncio.Lock()

    async def sign(self, request: TreeRequest) -> SignedMessages:
        """Sign a tree, or raise what `plan_signing` raises. StorageError: nothing was signed."""
        async with self._turn:
            now = self._clock.now()
            views, known = await self._read_views(request.log_number)
            plan = plan_signing(self._hasher, self._rules, views, request, int(now.timestamp()))
            await asyncio.to_thread(self._journal.append, now.isoformat(), (plan.checkpoint, *plan.subtrees))
            await self._keep(plan.view, known)
            return await self._sign(plan)

    async def _read_views(self, number: int) -> tuple[dict[int, SignerView], bytes | None]:
        """Return the views that a decision needs, this log's and its followers', and this log's as it is stored."""
        views: dict[int, SignerView] = {}
        own = await self._register.read(f"{_REGISTER_NAME}-{number}")
        if own is not None:
            views[number] = SignerView.parse(own)
        # Logs are numbered without gaps, so the first one that was never signed ends the search.
        for later in range(number + 1, self._rules.highest_log + 1):
            data = await self._register.read(f"{_REGISTER_NAME}-{later}")
            if data is None:
                break
            views[later] = SignerView.parse(data)
        return views, own

    async def _keep(self, view: SignerView, known: bytes | None) -> None:
        """Make the view durable; a lost swap means that another process holds this key, and nothing is signed."""
        name = f"{_REGISTER_NAME}-{view.log_number}"
        if known is None:
            await self._register.create(name, view.encode())
        else:
            await self._register.swap(name, known, view.encode())

    async def _sign(self, plan: SigningPlan) -> SignedMessages:
        """Sign the messages of a plan that is durable."""
        checkpoint = await self._key.sign(plan.checkpoint.encode())
        subtrees = [
            (message.subtree, message.subtree_hash, await self._key.sign(message.encode())) for message in plan.subtrees
        ]
        return SignedMessages(checkpoint, tuple(subtrees))


@contextlib.asynccontextmanager
async def serve_signer(holder: KeyHolder, path: Path) -> AsyncIterator[None]:
    """Serve a key holder on a Unix socket that only its owner may open, until the context ends."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await _read_frame(reader):
                try:
                    result: SignedMessages | Error = await holder.sign(parse_request(data))
                except Error as error:
                    result = error
                await _write_frame(writer, encode_answer(result))
        except (PeerError, ConnectionError):
            pass
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()

    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108 - one system call before the loop has anything to do
    before = os.umask(0o177)
    try:
        server = await asyncio.start_unix_server(answer, path)
    finally:
        os.umask(before)
    async with server:
        yield


class SignerClient:
    """Asks the process that holds the key, over its socket."""

    def __init__(self, path: Path) -> None:
        """Take the socket's path; each request opens a connection."""
        self._path = path

    async def sign(self, request: TreeRequest) -> SignedMessages:
        """Return the signatures. Raises the signer's refusal, PeerError when it does not answer."""
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                reader, writer = await asyncio.open_unix_connection(self._path)
                try:
                    await _write_frame(writer, encode_request(request))
                    data = await _read_frame(reader)
                finally:
                    writer.close()
                    with contextlib.suppress(ConnectionError):
                        await writer.wait_closed()
        except (OSError, TimeoutError) as error:
            raise PeerError(
                Reason.PEER, f"the signer at {self._path} does not answer: {str(error) or 'time is up'}; is it running?"
            ) from None
        if data is None:
            raise PeerError(Reason.PEER, f"the signer at {self._path} closed the connection without an answer")
        return parse_answer(data)


async def _read_frame(reader: asyncio.StreamReader) -> bytes | None:
    """Return the next frame, None at the end. Raises PeerError for one that is too large or cut off."""
    head = await reader.read(4)
    if not head:
        return None
    try:
        head += await reader.readexactly(4 - len(head)) if len(head) < 4 else b""
        size = int.from_bytes(head, "big")
        if size > MAX_FRAME_BYTES:
            raise PeerError(Reason.TOO_LARGE, f"a frame of {size} bytes is larger than {MAX_FRAME_BYTES}")
        return await reader.readexactly(size)
    except asyncio.IncompleteReadError:
        raise PeerError(Reason.TRUNCATED, "the connection ended inside a frame") from None


async def _write_frame(writer: asyncio.StreamWriter, data: bytes) -> None:
    """Send one frame."""
    writer.write(len(data).to_bytes(4, "big") + data)
    await writer.drain()
