"""The client program of `mtc bench handshake`: makes as many handshakes as it is told, and says how each one went.

Run as `python -m mtc.cli.bench_handshake.client CASES`. A line on its standard input is an order as JSON (`Order`), and
is answered with one line (`Batch`); at the end of input it ends. One thread makes several connections at once where
the way is long, so that a batch does not take the sum of all round trips.
"""

import errno
import json
import os
import selectors
import socket
import ssl
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from mtc.cli.bench_handshake.cases import Stopwatch, client_of, read_cases
from mtc.cli.bench_handshake.connections import Connection, prepare
from mtc.cli.bench_handshake.kinds import HOST
from mtc.cli.bench_handshake.server import cpu_s, tell
from mtc.errors import PeerError, Reason


@dataclass(frozen=True, slots=True)
class Order:
    """What to do. row: `Row.name`. count: handshakes. lanes: how many at once. rtt_s: to count round trips with."""

    row: str
    address: str
    port: int
    count: int
    lanes: int = 1
    rtt_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Shake:
    """One handshake. seconds: from the first byte of the ClientHello until the client is done. verify_s: within it."""

    seconds: float
    verify_s: float
    sent_bytes: int
    received_bytes: int
    round_trips: int


@dataclass(frozen=True, slots=True)
class Batch:
    """What came of an order. cpu_s: of this process. sent, received: packets and bytes of the network interface."""

    shakes: tuple[Shake, ...]
    elapsed_s: float
    cpu_s: float
    sent_packets: int
    sent_wire_bytes: int
    received_packets: int
    received_wire_bytes: int

    @staticmethod
    def parse(line: bytes) -> "Batch":
        """Read an answer."""
        found = json.loads(line)
        found["shakes"] = tuple(Shake(*one) for one in found["shakes"])
        return Batch(**found)


def main() -> None:
    """Follow orders until standard input ends."""
    stopwatch = Stopwatch()
    contexts = {case.row.name: client_of(case, stopwatch) for case in read_cases(Path(sys.argv[1]))}
    tell({"ready": os.getpid()})
    for line in sys.stdin:
        order = Order(**json.loads(line))
        with selectors.DefaultSelector() as selector:
            before = _interface()
            began, used = time.perf_counter(), cpu_s()
            shakes = _Lanes(order, contexts[order.row], stopwatch, selector).run()
            elapsed_s, used = time.perf_counter() - began, cpu_s() - used
            wire = [after - earlier for after, earlier in zip(_interface(), before, strict=True)]
        batch = asdict(Batch((), elapsed_s, used, *wire))
        batch["shakes"] = [(s.seconds, s.verify_s, s.sent_bytes, s.received_bytes, s.round_trips) for s in shakes]
        tell(batch)


class _Lanes:
    """Connections under way at once. A new one begins when one is over, which is when the server has closed it."""

    def __init__(
        self, order: Order, context: ssl.SSLContext, stopwatch: Stopwatch, selector: selectors.BaseSelector
    ) -> None:
        """Take an order."""
        self._order, self._context, self._stopwatch, self._selector = order, context, stopwatch, selector
        self._left = order.count
        self._underway = 0
        self._verify_s: dict[Connection, float] = {}
        self._shakes: list[Shake] = []

    def run(self) -> list[Shake]:
        """Make all handshakes. Raises OSError when one fails: then nothing that is measured means anything."""
        for _ in range(min(self._order.lanes, self._order.count)):
            self._connect()
        while self._underway:
            for key, _ in self._selector.select():
                if isinstance(key.fileobj, Connection):
                    self._read(key.fileobj)
                elif isinstance(key.fileobj, socket.socket):
                    self._begin(key.fileobj)
        return self._shakes

    def _connect(self) -> None:
        """Begin a connection, if one is wanted."""
        if not self._left:
            return
        self._left -= 1
        self._underway += 1
        sock = socket.socket()
        prepare(sock)
        sock.settimeout(0)
        code = sock.connect_ex((self._order.address, self._order.port))
        if code not in {0, errno.EINPROGRESS}:
            raise OSError(code, os.strerror(code))
        self._selector.register(sock, selectors.EVENT_WRITE)

    def _begin(self, sock: socket.socket) -> None:
        """Begin the handshake on a connection that has come about."""
        self._selector.unregister(sock)
        code = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if code:
            raise OSError(code, os.strerror(code))
        connection = Connection(sock, self._context, server_name=HOST)
        self._verify_s[connection] = 0.0
        connection.advance()
        self._selector.register(connection, selectors.EVENT_READ)

    def _read(self, connection: Connection) -> None:
        """Go on with a handshake, or see the end of a connection."""
        is_open = connection.read()
        counters = connection.counters
        if is_open and counters.finished is None:
            self._stopwatch.seconds = 0.0
            connection.advance()
            self._verify_s[connection] += self._stopwatch.seconds
        elif not is_open:
            self._selector.unregister(connection)
            connection.sock.close()
            self._underway -= 1
            verify_s = self._verify_s.pop(connection)
            if counters.finished is None:
                raise PeerError(Reason.PEER, "the server ended a connection before the handshake was done")
            self._shakes.append(
                Shake(
                    counters.finished - counters.began,
                    verify_s,
                    counters.sent_bytes,
                    counters.received_bytes,
                    counters.round_trips(self._order.rtt_s),
                )
            )
            self._connect()


def _interface() -> tuple[int, int, int, int]:
    """Return packets and bytes sent, packets and bytes received by the interfaces of this namespace, but for `lo`."""
    totals = [0, 0, 0, 0]
    counters = Path("/proc/net/dev")
    # Other systems have none, nor namespaces in which they would be asked for.
    for line in (counters.read_text() if counters.exists() else "").splitlines()[2:]:
        name, _, text = line.partition(":")
        if name.strip() != "lo":
            numbers = [int(word) for word in text.split()]
            for place, number in enumerate((numbers[9], numbers[8], numbers[1], numbers[0])):
                totals[place] += number
    return totals[0], totals[1], totals[2], totals[3]


if __name__ == "__main__":
    main()
