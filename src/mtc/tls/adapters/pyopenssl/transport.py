"""Where a connection's bytes come from and go to: memory, or a socket with its timeout.

`receive` returns some of the bytes asked for, b"" at the end, and raises `ssl.SSLWantReadError` when there are none
yet. `send` takes everything; what a socket does not take at once waits, `ssl.SSLWantWriteError` is raised, and `flush`
goes on.
"""

import socket
import ssl
import weakref
from typing import Protocol


class Transport(Protocol):
    """Both ways of a connection. Not for two threads at once."""

    def receive(self, count: int) -> bytes:
        """Return up to `count` bytes of the peer."""

    def send(self, data: bytes) -> None:
        """Send bytes to the peer."""

    def flush(self) -> None:
        """Send what waits."""


class MemoryTransport:
    """Two memory BIOs of `ssl`."""

    def __init__(self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO) -> None:
        """Take both."""
        self._incoming, self._outgoing = incoming, outgoing

    def receive(self, count: int) -> bytes:
        """Return what has come in."""
        data = self._incoming.read(count)
        if not data and not self._incoming.eof:
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "The operation did not complete (read)")
        return data

    def send(self, data: bytes) -> None:
        """Let the owner of the memory fetch it."""
        self._outgoing.write(data)

    def flush(self) -> None:
        """Nothing waits in memory."""


class SocketTransport:
    """A socket. It belongs to its `ssl.SSLSocket`, which holds the connection, so that it is referred to weakly."""

    def __init__(self, owner: socket.socket) -> None:
        """Take the socket."""
        self._owner = weakref.ref(owner)
        self._waiting = b""

    def _socket(self) -> socket.socket:
        """Return the socket."""
        owner = self._owner()
        if owner is None:
            raise OSError("the socket is gone")
        return owner

    def receive(self, count: int) -> bytes:
        """Return what has come in; waits as long as the socket's timeout says."""
        try:
            # Past the methods of `ssl.SSLSocket`, which would read what is decrypted.
            return socket.socket.recv(self._socket(), count)
        except BlockingIOError:
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "The operation did not complete (read)") from None

    def send(self, data: bytes) -> None:
        """Send behind what waits."""
        self._waiting += data
        self.flush()

    def flush(self) -> None:
        """Send what waits, as long as the socket's timeout says."""
        while self._waiting:
            try:
                sent = socket.socket.send(self._socket(), self._waiting)
            except BlockingIOError:
                raise ssl.SSLWantWriteError(
                    ssl.SSL_ERROR_WANT_WRITE, "The operation did not complete (write)"
                ) from None
            self._waiting = self._waiting[sent:]
