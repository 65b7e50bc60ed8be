"""Frames over a Unix socket: a 4-byte length and that many bytes, read straight into their place.

The socket is used without streams, which would copy a round of many megabytes several times.
"""

import asyncio
import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from mtc.errors import PeerError, Reason, UsageError
from mtc.signer.protocol import MAX_FRAME_BYTES

MAX_ADDRESS_BYTES = 107
"""Longest path that a Unix socket's address holds on Linux."""
_BUFFER_BYTES = 4 << 20


def new_socket() -> socket.socket:
    """Return a Unix socket that does not block and holds as much of a frame as the system allows."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.settimeout(0)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
    return made


@contextlib.contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """Give an address for a socket's path, to be used inside the context only.

    A path longer than an address may be is reached through its folder's open handle, on Linux. Raises UsageError where
    that cannot be, OSError when there is no such folder.
    """
    if len(os.fsencode(path)) <= MAX_ADDRESS_BYTES:
        yield str(path)
        return
    handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        address = f"/proc/self/fd/{handle}/{path.name}"
        if len(os.fsencode(address)) > MAX_ADDRESS_BYTES or not Path(f"/proc/self/fd/{handle}").exists():
            raise UsageError(
                Reason.TOO_LARGE,
                f"the socket {path} has a path of more than {MAX_ADDRESS_BYTES} bytes; choose a shorter one",
            )
        yield address
    finally:
        os.close(handle)


async def send_frame(connection: socket.socket, data: bytes) -> None:
    """Send one frame. Raises OSError."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(connection, len(data).to_bytes(4, "big"))
    await loop.sock_sendall(connection, data)


async def receive_frame(connection: socket.socket) -> bytes | None:
    """Return the next frame, None at the end. Raises PeerError for one that is too large or cut off, OSError."""
    head = await _receive(connection, 4, at_start=True)
    if head is None:
        return None
    size = int.from_bytes(head, "big")
    if size > MAX_FRAME_BYTES:
        raise PeerError(Reason.TOO_LARGE, f"a frame of {size} bytes is larger than {MAX_FRAME_BYTES}")
    return await _receive(connection, size)


async def _receive(connection: socket.socket, count: int, *, at_start: bool = False) -> bytes | None:
    """Return exactly `count` bytes; None when the connection ends before the first one and `at_start` allows it."""
    loop = asyncio.get_running_loop()
    data = bytearray(count)
    view = memoryview(data)
    filled = 0
    while filled < count:
        got = await loop.sock_recv_into(connection, view[filled:])
        if not got:
            if at_start and not filled:
                return None
            raise PeerError(Reason.TRUNCATED, "the connection ended inside a frame")
        filled += got
    return bytes(data)
