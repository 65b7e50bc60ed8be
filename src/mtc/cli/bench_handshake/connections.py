"""One TLS connection over a socket, with its bytes and times counted: the same for client and server.

TLS happens in memory and its bytes are passed to the socket here, so that any back end whose connections behave like
`ssl.SSLObject` can be measured, and what went each way is known to the byte.
"""

import socket
import ssl
import time
from dataclasses import dataclass, field

CHUNK_BYTES = 64 << 10
_TIMEOUT_S = 60.0
_BUFFER_BYTES = 1 << 20


def prepare(sock: socket.socket) -> None:
    """Set what both ends set: small packets go out at once, and a whole flight fits into the buffer."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)


@dataclass(slots=True)
class Counters:
    """What one end saw of a handshake. Times are `time.perf_counter` seconds.

    began: when it began to speak. finished: when the handshake was done, None before. arrivals: when bytes came.
    """

    began: float
    finished: float | None = None
    sent_bytes: int = 0
    received_bytes: int = 0
    arrivals: list[float] = field(default_factory=list)

    def round_trips(self, rtt_s: float) -> int:
        """Return for how many round trips this end waited: silences of more than half of one.

        Only without loss: a packet that is sent again makes a silence too. rtt_s: 0 counts every arrival.
        """
        before, count = self.began, 0
        for moment in self.arrivals:
            count += moment - before > rtt_s / 2
            before = moment
        return count


class Connection:
    """A handshake under way. `advance` whenever the socket has bytes."""

    def __init__(self, sock: socket.socket, context: ssl.SSLContext, *, server_name: str | None) -> None:
        """Wrap a connected socket. server_name: None makes it a server."""
        sock.settimeout(_TIMEOUT_S)
        self.sock = sock
        self.counters = Counters(time.perf_counter())
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_name is None, server_hostname=server_name
        )

    def fileno(self) -> int:
        """Return the socket's descriptor."""
        return self.sock.fileno()

    def read(self) -> bool:
        """Take what has arrived; False at the end. Raises OSError."""
        data = self.sock.recv(CHUNK_BYTES)
        if data and self.counters.finished is None:
            self.counters.arrivals.append(time.perf_counter())
            self.counters.received_bytes += len(data)
            self._incoming.write(data)
        return bool(data)

    def advance(self) -> bool:
        """Go on with the handshake as far as bytes are there; True when it is done. Raises OSError."""
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            self._flush()
            return False
        except ssl.SSLError:
            # The peer shall hear of it.
            self._flush()
            raise
        self._flush()
        self.counters.finished = time.perf_counter()
        return True

    def _flush(self) -> None:
        """Send what TLS has made."""
        data = self._outgoing.read()
        if data:
            self.sock.sendall(data)
            self.counters.sent_bytes += len(data)
