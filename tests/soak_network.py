"""A small network of its own for a test: one namespace per party, and a switch in this process between them.

Each namespace has one TUN interface whose packets come to this process, which passes them on by their destination,
delays them, or loses them. So parties can be slow, cut off, or heard by nobody, without a queueing discipline, a bridge
or a firewall of the kernel, and the interfaces of the machine are never touched. The TUN interfaces vanish with this
process, the namespaces are deleted at the end; what a killed run left behind goes when the next one starts.
"""

import contextlib
import fcntl
import heapq
import os
import selectors
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

_TUNSETIFF = 0x400454CA
_TUN_WITHOUT_HEADER = 0x0001 | 0x1000
_PACKET_BYTES = 65_536
_NET = f"198.{18 + os.getpid() % 512 // 256}.{os.getpid() % 256}"
"""Of the block that RFC 2544 sets apart for measurements, which nobody routes; runs at once have different ones."""
_HOME = 254
"""The last number of this process's own address."""
_PREFIX = "mtc-soak-"


class NoNetworkError(Exception):
    """Namespaces cannot be made here; the text says why."""


@dataclass(slots=True)
class _Port:
    """One party's end of its cable. Numbers are last bytes of addresses.

    delay_s: of each packet from or to it. is_silent: what it sends is lost, what others send arrives. is_cut: nothing
    comes through.
    """

    number: int
    fd: int
    delay_s: float = 0.0
    is_silent: bool = False
    is_cut: bool = False


@dataclass(slots=True)
class SoakNetwork:
    """Namespaces by the names of their parties. Use `open_network`.

    The switch runs in a thread; faults are plain fields of a port, which one thread sets and the other reads.
    """

    ports: dict[str, _Port] = field(default_factory=dict)
    lost: int = 0
    passed: int = 0
    _is_over: threading.Event = field(default_factory=threading.Event)

    def prefix(self, name: str) -> tuple[str, ...]:
        """Return what stands in front of a command that runs in a party's namespace."""
        return ("ip", "netns", "exec", _namespace(name))

    def address(self, name: str) -> str:
        """Return a party's address."""
        return f"{_NET}.{self.ports[name].number}"

    def heal(self) -> None:
        """Let everything through at once."""
        for port in self.ports.values():
            port.delay_s, port.is_silent, port.is_cut = 0.0, False, False

    def run(self) -> None:
        """Pass packets on until the end."""
        by_number = {port.number: port for port in self.ports.values()}
        waiting: list[tuple[float, int, int, bytes]] = []
        count = 0
        with selectors.DefaultSelector() as selector:
            for port in self.ports.values():
                selector.register(port.fd, selectors.EVENT_READ, port)
            while not self._is_over.is_set():
                timeout = 0.1 if not waiting else min(max(waiting[0][0] - time.monotonic(), 0.0), 0.1)
                for key, _ in selector.select(timeout):
                    source: _Port = key.data
                    for packet in _read_all(source.fd):
                        target = _target(packet, by_number)
                        if target is None:
                            continue
                        if source.is_cut or target.is_cut or source.is_silent:
                            self.lost += 1
                            continue
                        count += 1
                        due = time.monotonic() + source.delay_s + target.delay_s
                        heapq.heappush(waiting, (due, count, target.fd, packet))
                while waiting and waiting[0][0] <= time.monotonic():
                    _, _, fd, packet = heapq.heappop(waiting)
                    # An interface that is gone or full loses packets, as networks do.
                    with contextlib.suppress(OSError):
                        os.write(fd, packet)
                        self.passed += 1

    def stop(self) -> None:
        """End the switch."""
        self._is_over.set()


def _read_all(fd: int) -> Iterator[bytes]:
    """Yield the packets that are there, at most some, so that timers are looked at in between."""
    for _ in range(64):
        try:
            yield os.read(fd, _PACKET_BYTES)
        except OSError:
            return


def _target(packet: bytes, by_number: dict[int, _Port]) -> _Port | None:
    """Return to whom an IPv4 packet goes."""
    return by_number.get(packet[19]) if len(packet) >= 20 and packet[0] >> 4 == 4 else None


def _namespace(name: str) -> str:
    """Return the name of a party's namespace, which names this process."""
    return f"{_PREFIX}{os.getpid()}-{name}"


def _ip(*arguments: str) -> None:
    """Run `ip`. Raises NoNetworkError with what it says."""
    try:
        done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False, timeout=20)  # noqa: S603, S607
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoNetworkError(f"ip {' '.join(arguments[:2])}: {error}") from None
    if done.returncode:
        raise NoNetworkError(f"ip {' '.join(arguments[:2])}: {done.stderr.strip()}")


def _open_tun(name: str) -> int:
    """Make a TUN interface that lives as long as its descriptor, and return that."""
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise NoNetworkError(f"/dev/net/tun: {error.strerror}") from None
    try:
        fcntl.ioctl(fd, _TUNSETIFF, struct.pack("16sH22x", name.encode(), _TUN_WITHOUT_HEADER))
    except OSError as error:
        os.close(fd)
        raise NoNetworkError(f"a TUN interface cannot be made: {error.strerror}") from None
    return fd


def _connect(number: int, namespace: str | None) -> _Port:
    """Make an interface, in a namespace or at home, with its address."""
    device = f"soak{os.getpid() % 100_000}-{number}"
    port = _Port(number, _open_tun(device))
    try:
        where: Sequence[str] = ()
        if namespace is not None:
            _ip("link", "set", device, "netns", namespace)
            where = ("-n", namespace)
            _ip(*where, "link", "set", "lo", "up")
        _ip(*where, "address", "add", f"{_NET}.{number}/24", "dev", device)
        _ip(*where, "link", "set", device, "mtu", "16000", "up")
    except NoNetworkError:
        os.close(port.fd)
        raise
    return port


def _sweep() -> None:
    """Delete the namespaces of runs that were killed."""
    with contextlib.suppress(OSError):
        for path in Path("/run/netns").iterdir():
            pid = path.name.removeprefix(_PREFIX).partition("-")[0]
            if path.name.startswith(_PREFIX) and pid.isdecimal() and not Path(f"/proc/{pid}").exists():
                with contextlib.suppress(NoNetworkError):
                    _ip("netns", "delete", path.name)


@contextlib.contextmanager
def open_network(names: Sequence[str]) -> Iterator[SoakNetwork]:
    """Give a network with a namespace for each party, reachable from here; it is gone afterwards in any case.

    Raises NoNetworkError where that is not permitted.
    """
    _sweep()
    network = SoakNetwork()
    made: list[str] = []
    switch: threading.Thread | None = None
    try:
        network.ports[""] = _connect(_HOME, None)
        for number, name in enumerate(names, 1):
            _ip("netns", "add", _namespace(name))
            made.append(name)
            network.ports[name] = _connect(number, _namespace(name))
        switch = threading.Thread(target=network.run, name="soak network", daemon=True)
        switch.start()
        yield network
    finally:
        network.stop()
        if switch is not None:
            switch.join()
        for port in network.ports.values():
            os.close(port.fd)
        for name in made:
            with contextlib.suppress(NoNetworkError):
                _ip("netns", "delete", _namespace(name))
