"""A small network of one's own: a namespace per party, and a switch in this process between them.

Each namespace has one TUN interface whose packets come to this process, which passes them on by their destination,
delays them, or loses them. So parties can be far apart, cut off, or heard by nobody, without a queueing discipline, a
bridge or a firewall of the kernel, and the interfaces of the machine are never touched. The TUN interfaces vanish with
this process, the namespaces are deleted at the end; what a killed run left behind goes when the next one starts.
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
from random import Random

_TUNSETIFF = 0x400454CA
_TUN_WITHOUT_HEADER = 0x0001 | 0x1000
_PACKET_BYTES = 65_536
_NET = f"198.{18 + os.getpid() % 512 // 256}.{os.getpid() % 256}"
"""Of the block that RFC 2544 sets apart for measurements, which nobody routes; runs at once have different ones."""
_HOME = 254
"""The last number of this process's own address."""
_PREFIX = "mtc-net-"
_LARGE_MTU = 16_000


class NoNetworkError(Exception):
    """Namespaces cannot be made here; the text says why."""


@dataclass(slots=True)
class Port:
    """One party's end of its cable. Numbers are last bytes of addresses.

    delay_s: of each packet from or to it. loss: share of the packets that it sends and that are lost, by chance.
    is_silent: what it sends is lost, what others send arrives. is_cut: nothing comes through.
    """

    number: int
    fd: int
    delay_s: float = 0.0
    loss: float = 0.0
    is_silent: bool = False
    is_cut: bool = False


class Underway:
    """Packets between two ports: when each arrives, and whether it ever does. Knows no clock; times are seconds.

    chance: what is lost by chance is lost by this one, so that a seed tells which packets.
    """

    def __init__(self, chance: Random) -> None:
        """Begin without packets."""
        self._chance = chance
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._count = 0

    def send(self, source: Port, target: Port, packet: bytes, now: float) -> bool:
        """Take a packet; False when it is lost on the way."""
        if source.is_cut or target.is_cut or source.is_silent:
            return False
        if source.loss and self._chance.random() < source.loss:
            return False
        self._count += 1
        # The count keeps packets that are due at the same time in the order in which they were sent.
        heapq.heappush(self._waiting, (now + source.delay_s + target.delay_s, self._count, target.fd, packet))
        return True

    def next_s(self, now: float) -> float | None:
        """Return how long it takes until the next packet arrives, None when there is none under way."""
        return max(self._waiting[0][0] - now, 0.0) if self._waiting else None

    def take(self, now: float) -> Iterator[tuple[int, bytes]]:
        """Yield the packets that have arrived, each with the descriptor of its port, in order."""
        while self._waiting and self._waiting[0][0] <= now:
            _, _, fd, packet = heapq.heappop(self._waiting)
            yield fd, packet


@dataclass(slots=True)
class SwitchedNetwork:
    """Namespaces by the names of their parties. Use `open_network`.

    The switch runs in a thread; faults are plain fields of a port, which one thread sets and the other reads.
    """

    chance: Random
    ports: dict[str, Port] = field(default_factory=dict)
    lost: int = 0
    passed: int = 0
    _is_over: threading.Event = field(default_factory=threading.Event)

    def prefix(self, name: str) -> tuple[str, ...]:
        """Return what stands in front of a command that runs in a party's namespace."""
        return ("ip", "netns", "exec", namespace_of(name))

    def address(self, name: str) -> str:
        """Return a party's address."""
        return f"{_NET}.{self.ports[name].number}"

    def route(self, name: str) -> tuple[str, ...]:
        """Return the words by which `ip route change` names the way from a party to all others."""
        number = self.ports[name].number
        return (f"{_NET}.0/24", "dev", _device(number), "proto", "kernel", "scope", "link", "src", f"{_NET}.{number}")

    def heal(self) -> None:
        """Let everything through at once."""
        for port in self.ports.values():
            port.delay_s, port.loss, port.is_silent, port.is_cut = 0.0, 0.0, False, False

    def run(self) -> None:
        """Pass packets on until the end."""
        by_number = {port.number: port for port in self.ports.values()}
        underway = Underway(self.chance)
        # Of all selectors this one alone waits for less than a millisecond.
        with selectors.SelectSelector() as selector:
            for port in self.ports.values():
                selector.register(port.fd, selectors.EVENT_READ, port)
            while not self._is_over.is_set():
                next_s = underway.next_s(time.monotonic())
                for key, _ in selector.select(0.1 if next_s is None else min(next_s, 0.1)):
                    source: Port = key.data
                    for packet in _read_all(source.fd):
                        target = _target(packet, by_number)
                        if target is not None and not underway.send(source, target, packet, time.monotonic()):
                            self.lost += 1
                for fd, packet in underway.take(time.monotonic()):
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


def _target(packet: bytes, by_number: dict[int, Port]) -> Port | None:
    """Return to whom an IPv4 packet goes."""
    return by_number.get(packet[19]) if len(packet) >= 20 and packet[0] >> 4 == 4 else None


def namespace_of(name: str) -> str:
    """Return the name of a party's namespace, which names this process."""
    return f"{_PREFIX}{os.getpid()}-{name}"


def _device(number: int) -> str:
    """Return the name of a party's interface."""
    return f"mtc{os.getpid() % 100_000}-{number}"


def run_tool(*command: str) -> str:
    """Run a program of the system that makes networks, and return what it prints. Raises NoNetworkError."""
    words = " ".join(command[:3])
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)  # noqa: S603 - our own words
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoNetworkError(f"{words}: {error}") from None
    if done.returncode:
        raise NoNetworkError(f"{words}: {done.stderr.strip()}")
    return done.stdout


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


def _connect(number: int, namespace: str | None, mtu: int) -> Port:
    """Make an interface, in a namespace or at home, with its address."""
    device = _device(number)
    port = Port(number, _open_tun(device))
    try:
        where: Sequence[str] = ("ip",)
        if namespace is not None:
            run_tool("ip", "link", "set", device, "netns", namespace)
            where = ("ip", "-n", namespace)
            run_tool(*where, "link", "set", "lo", "up")
        run_tool(*where, "address", "add", f"{_NET}.{number}/24", "dev", device)
        run_tool(*where, "link", "set", device, "mtu", str(mtu), "up")
    except NoNetworkError:
        os.close(port.fd)
        raise
    return port


def sweep_namespaces() -> None:
    """Delete the namespaces of runs that were killed."""
    with contextlib.suppress(OSError):
        for path in Path("/run/netns").iterdir():
            pid = path.name.removeprefix(_PREFIX).partition("-")[0]
            if path.name.startswith(_PREFIX) and pid.isdecimal() and not Path(f"/proc/{pid}").exists():
                with contextlib.suppress(NoNetworkError):
                    run_tool("ip", "netns", "delete", path.name)


@contextlib.contextmanager
def open_namespaces(names: Sequence[str]) -> Iterator[None]:
    """Make a namespace for each name, `namespace_of` it, that is gone afterwards in any case. Raises NoNetworkError."""
    sweep_namespaces()
    made: list[str] = []
    try:
        for name in names:
            run_tool("ip", "netns", "add", namespace_of(name))
            made.append(name)
        yield
    finally:
        for name in made:
            with contextlib.suppress(NoNetworkError):
                run_tool("ip", "netns", "delete", namespace_of(name))


@contextlib.contextmanager
def open_network(names: Sequence[str], *, mtu: int = _LARGE_MTU, seed: int = 1) -> Iterator[SwitchedNetwork]:
    """Give a network with a namespace for each party, reachable from here; it is gone afterwards in any case.

    mtu: bytes of the largest packet. seed: of what is lost by chance. Raises NoNetworkError where it is not permitted.
    """
    network = SwitchedNetwork(Random(seed))  # noqa: S311 - packets that get lost guard no secret
    switch: threading.Thread | None = None
    with open_namespaces(names):
        try:
            network.ports[""] = _connect(_HOME, None, mtu)
            for number, name in enumerate(names, 1):
                network.ports[name] = _connect(number, namespace_of(name), mtu)
            switch = threading.Thread(target=network.run, name="network switch", daemon=True)
            switch.start()
            yield network
        finally:
            network.stop()
            if switch is not None:
                switch.join()
            for port in network.ports.values():
                os.close(port.fd)
