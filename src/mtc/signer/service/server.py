"""The signer's socket: whoever may open it may ask, and nobody gets more than the rules allow."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from mtc.errors import Error, PeerError, Reason, StorageError
from mtc.signer.machine import TreeRequest
from mtc.signer.protocol import Answer, CRLRequest, Request, encode_answer, parse_request
from mtc.signer.service.frames import new_socket, receive_frame, send_frame, socket_address
from mtc.signer.service.keyholder import KeyHolder

MAX_CONNECTIONS = 16
"""A CA keeps one open; the others are for people who look."""

Report = Callable[[str, dict[str, object]], None]
"""Takes an event's name and its facts, for the log of the process."""


def _report_nothing(event: str, facts: dict[str, object]) -> None:
    """Drop an event."""


class _Server:
    """Connections to one key holder. tasks: one per connection. idle: those that wait for a request."""

    def __init__(self, holder: KeyHolder, listener: socket.socket, report: Report) -> None:
        """Take who answers and where requests come in."""
        self._holder = holder
        self._listener = listener
        self._report = report
        self._tasks: set[asyncio.Task[None]] = set()
        self._idle: set[asyncio.Task[None]] = set()
        self._is_stopping = False

    async def accept(self) -> None:
        """Take connections, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self._listener)
            if len(self._tasks) >= MAX_CONNECTIONS:
                connection.close()
                self._report("connection-refused", {"open": len(self._tasks)})
                continue
            task = loop.create_task(self._serve(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def stop(self) -> None:
        """Let requests in hand end, and close every connection."""
        self._is_stopping = True
        for task in self._idle:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, connection: socket.socket) -> None:
        """Answer one connection's requests in turn."""
        task = asyncio.current_task()
        assert task is not None
        try:
            while not self._is_stopping:
                self._idle.add(task)
                data = await receive_frame(connection)
                self._idle.discard(task)
                if data is None:
                    return
                await send_frame(connection, encode_answer(await self._answer(data)))
        except (PeerError, OSError) as error:
            self._report("connection-lost", {"error": str(error)})
        finally:
            self._idle.discard(task)
            connection.close()

    async def _answer(self, data: bytes) -> Answer | Error:
        """Return the answer to a request's bytes."""
        request: Request | None = None
        try:
            request = parse_request(data)
            return await self._holder.answer(request)
        except Error as error:
            self._report("refused", {**_facts(request), "reason": str(error.reason), "message": error.message})
            return error


def _facts(request: Request | None) -> dict[str, object]:
    """Return what a log line says about a request."""
    match request:
        case TreeRequest():
            return {"request": "tree", "log": request.log_number, "size": request.tree_size}
        case CRLRequest(tbs):
            return {"request": "crl", "bytes": len(tbs)}
        case _:
            return {"request": "unreadable"}


@contextlib.asynccontextmanager
async def serve_signer(holder: KeyHolder, path: Path, report: Report = _report_nothing) -> AsyncIterator[None]:
    """Serve a key holder on a Unix socket that only its owner may open, until the context ends.

    A socket that lies there is replaced: exclusion is the folder's lock. At the end the request in hand is answered,
    and the socket removed. Raises StorageError when the socket cannot be made.
    """
    listener = _listen(path)
    made = _identify(path)
    server = _Server(holder, listener, report)
    accepting = asyncio.create_task(server.accept())
    try:
        yield
    finally:
        accepting.cancel()
        await asyncio.gather(accepting, return_exceptions=True)
        listener.close()
        if _identify(path) == made:
            _remove(path)
        await server.stop()


def _identify(path: Path) -> int | None:
    """Return what tells this socket from another one that took its place; None when there is none."""
    try:
        return path.stat().st_ino
    except OSError:
        return None


def _remove(path: Path) -> None:
    """Remove a socket's name, if it is there."""
    with contextlib.suppress(OSError):
        path.unlink()


def _listen(path: Path) -> socket.socket:
    """Bind a socket with mode 0600 and listen."""
    listener = new_socket()
    try:
        with socket_address(path) as address:
            if path.is_socket():
                path.unlink()
            before = os.umask(0o177)
            try:
                listener.bind(address)
            finally:
                os.umask(before)
        listener.listen(MAX_CONNECTIONS)
    except OSError as error:
        listener.close()
        raise StorageError(
            Reason.STORAGE, f"the socket {path} cannot be made: {error.strerror or error}", path=str(path)
        ) from None
    except Error:
        listener.close()
        raise
    return listener
