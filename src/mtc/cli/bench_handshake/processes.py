"""The two processes of a measurement, seen from the parent: started, told what to do, ended."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from mtc.cli.bench_handshake.client import Batch, Order
from mtc.errors import PeerError, Reason

_STOP_S = 10.0


@dataclass(frozen=True, slots=True)
class ServerUse:
    """What the server has done so far. cpu_s: seconds of a processor."""

    handshakes: int
    failures: int
    cpu_s: float


class Pair:
    """A client and a server. Owned by one thread, which gives orders one after the other."""

    def __init__(self, client: "_Process", server: "_Process", address: str) -> None:
        """Wait until both are there."""
        self._client, self._server, self._address = client, server, address
        self._ports: dict[str, int] = json.loads(server.read())["ports"]
        client.read()

    def shake(self, row: str, count: int, *, lanes: int = 1, rtt_s: float = 0.0) -> tuple[Batch, float]:
        """Make handshakes; return how they went, and the server's seconds of a processor. Raises PeerError."""
        before = self._use()
        order = Order(row, self._address, self._ports[row], count, lanes, rtt_s)
        self._client.write(json.dumps(asdict(order)))
        batch = Batch.parse(self._client.read())
        after = self._use()
        if after.failures > before.failures:
            raise PeerError(Reason.PEER, f"{row}: the server saw {after.failures - before.failures} handshakes fail")
        return batch, after.cpu_s - before.cpu_s

    def _use(self) -> ServerUse:
        """Ask the server what it has done."""
        self._server.write("?")
        return ServerUse(**json.loads(self._server.read()))


class _Process:
    """A child that is told one line at a time, and answers with one."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        """Take a process whose standard input and output are pipes."""
        self._process = process

    def write(self, line: str) -> None:
        """Send a line."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._lost() from None

    def read(self) -> bytes:
        """Receive a line. Raises PeerError when the process has ended."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._lost()
        return line

    def _lost(self) -> PeerError:
        """Make the error for a process that is gone; what it said stands on standard error already."""
        return PeerError(Reason.PEER, f"{self._process.args!r} ended early; what it said stands above")


@contextlib.contextmanager
def running_pair(
    cases: Path, address: str, *, client_prefix: Sequence[str] = (), server_prefix: Sequence[str] = ()
) -> Iterator[Pair]:
    """Start server and client; they end with this context. Prefixes: what stands in front of each command."""
    module = f"{__package__}."
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(_started((*server_prefix, *_python(f"{module}server"), str(cases), address)))
        client = stack.enter_context(_started((*client_prefix, *_python(f"{module}client"), str(cases))))
        yield Pair(client, server, address)


def _python(module: str) -> tuple[str, ...]:
    """Return the command that runs a module."""
    return (sys.executable, "-m", module)


@contextlib.contextmanager
def _started(command: Sequence[str]) -> Iterator[_Process]:
    """Start a process, and end it by the end of its input."""
    # In a session of its own: ctrl-C is the parent's, and a child hears of it by the end of its input.
    process = subprocess.Popen(  # noqa: S603 - our own words
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    try:
        yield _Process(process)
    finally:
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        assert process.stdout is not None
        process.stdout.close()
