"""Asks the process that holds the key, over its socket."""

import asyncio
import contextlib
import socket
import weakref
from pathlib import Path

from mtc.errors import PeerError, Reason
from mtc.signer.machine import TreeRequest
from mtc.signer.protocol import (
    Answer,
    CRLRequest,
    KeyAnswer,
    KeyQuery,
    Request,
    SignedCRL,
    SignedMessages,
    encode_request,
    parse_answer,
)
from mtc.signer.service.frames import new_socket, receive_frame, send_frame, socket_address

DEFAULT_TIMEOUT_S = 60.0


class SignerClient:
    """Asks the process that holds the key; one request at a time, over a connection that stays open.

    A connection that ended meanwhile is opened again once per request: every request may be repeated. timeout_s: how
    long a request may take altogether.
    """

    def __init__(self, path: Path, timeout_s: float = DEFAULT_TIMEOUT_S) -> None:
        """Take the socket's path; nothing is opened before the first request."""
        self._path = path
        self._timeout_s = timeout_s
        self._turn = asyncio.Lock()
        self._connection: socket.socket | None = None
        self._finalizer: weakref.finalize[[], SignerClient] | None = None

    async def sign(self, request: TreeRequest) -> SignedMessages:
        """Return the signatures over a tree. Raises the signer's refusal, PeerError when it does not answer."""
        answer = await self._ask(request)
        if not isinstance(answer, SignedMessages):
            raise self._strange()
        return answer

    async def sign_crl(self, tbs: bytes) -> bytes:
        """Return the signature over a revocation list (TBSCertList, DER). Raises as `sign` does."""
        answer = await self._ask(CRLRequest(tbs))
        if not isinstance(answer, SignedCRL):
            raise self._strange()
        return answer.signature

    async def fetch_public_key(self) -> bytes:
        """Return the signer's public key (SPKI DER). Raises PeerError when it does not answer."""
        answer = await self._ask(KeyQuery())
        if not isinstance(answer, KeyAnswer):
            raise self._strange()
        return answer.public_key

    def close(self) -> None:
        """Close the connection; the next request opens one again."""
        if self._finalizer is not None:
            self._finalizer()
        self._connection, self._finalizer = None, None

    async def _ask(self, request: Request) -> Answer:
        """Send a request and return its answer."""
        data = encode_request(request)
        async with self._turn:
            try:
                async with asyncio.timeout(self._timeout_s):
                    answer = await self._exchange(data)
            except (OSError, TimeoutError) as error:
                self.close()
                raise PeerError(
                    Reason.PEER,
                    f"the signer at {self._path} does not answer: {str(error) or 'time is up'}; is it running?",
                ) from None
            except BaseException:
                # An answer that nobody read must not be taken for the next request's.
                self.close()
                raise
        return parse_answer(answer)

    async def _exchange(self, data: bytes) -> bytes:
        """Send a frame and return the one that answers it; a connection from before may have ended meanwhile."""
        if self._connection is not None:
            with contextlib.suppress(OSError, PeerError):
                answer = await self._try(self._connection, data)
                if answer is not None:
                    return answer
            self.close()
        connection = await self._connect()
        answer = await self._try(connection, data)
        if answer is None:
            raise PeerError(Reason.PEER, f"the signer at {self._path} closed the connection without an answer")
        return answer

    async def _try(self, connection: socket.socket, data: bytes) -> bytes | None:
        """Send a frame over a connection and return the answer, None when the connection ends instead."""
        await send_frame(connection, data)
        return await receive_frame(connection)

    async def _connect(self) -> socket.socket:
        """Open a connection, which is closed at the latest when nobody holds this client any more."""
        connection = new_socket()
        self._connection = connection
        self._finalizer = weakref.finalize(self, connection.close)
        with socket_address(self._path) as address:
            await asyncio.get_running_loop().sock_connect(connection, address)
        return connection

    def _strange(self) -> PeerError:
        """Make the error for an answer to another question."""
        return PeerError(Reason.PEER, f"the signer at {self._path} answered another question than it was asked")
