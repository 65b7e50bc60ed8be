"""The way between client and server: two namespaces, with delay and loss between them.

Where the kernel has netem, it delays and loses packets between a pair of veth interfaces; where it does not, packets
pass through a switch of our own (`mtc.testing.network`). Both have MTU 1500 and the same TCP: an initial window of ten
segments, cubic, and no memory of earlier connections, which after a loss would begin more slowly.
"""

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from mtc.errors import Reason, UsageError
from mtc.testing.network import (
    NoNetworkError,
    SwitchedNetwork,
    namespace_of,
    open_namespaces,
    open_network,
    run_tool,
)

MTU = 1500
INITIAL_WINDOW = 10
"""Segments that TCP sends before the first acknowledgement. Spec: RFC 6928."""
CLIENT, SERVER = "client", "server"
CONGESTION_CONTROL = "cubic"
_SETTINGS = {
    "net/ipv4/tcp_no_metrics_save": "1",
    # What IPv6 says to its neighbours would be counted with the handshakes.
    "net/ipv6/conf/all/disable_ipv6": "1",
}
_NETEM_NET = "198.18.0"
_ETHERNET_BYTES = 14


@dataclass(frozen=True, slots=True)
class Weather:
    """What a way is like. rtt_s: round trip, half of it each way. loss: share of packets lost by chance, each way."""

    rtt_s: float
    loss: float

    @property
    def label(self) -> str:
        """The weather for people and as a key of JSON."""
        return f"{self.rtt_s * 1000:g} ms, {self.loss * 100:g} %"


class Link(Protocol):
    """A way with weather. `set_weather` holds from the next packet on, and is called while nothing is under way."""

    @property
    def description(self) -> str:
        """What the way is made of, for reports."""
        ...

    @property
    def address(self) -> str:
        """The server's address."""
        ...

    @property
    def header_bytes(self) -> int:
        """Bytes below IP that the interfaces count with each packet."""
        ...

    def set_weather(self, weather: Weather) -> None:
        """Let packets take so long, and lose so many."""
        ...

    def prefix(self, name: str) -> tuple[str, ...]:
        """Return what stands in front of a command that runs at one end."""
        ...


@dataclass(frozen=True, slots=True)
class SwitchLink:
    """A link through a switch of our own."""

    network: SwitchedNetwork
    description = "a userspace switch between TUN interfaces (this kernel has no netem)"
    header_bytes = 0

    @property
    def address(self) -> str:
        """The server's address."""
        return self.network.address(SERVER)

    def set_weather(self, weather: Weather) -> None:
        """Set the ports: each packet passes both, and is lost at the first."""
        for name in (CLIENT, SERVER):
            port = self.network.ports[name]
            port.delay_s, port.loss = weather.rtt_s / 4, weather.loss

    def prefix(self, name: str) -> tuple[str, ...]:
        """Return what enters a namespace."""
        return self.network.prefix(name)


@dataclass(frozen=True, slots=True)
class NetemLink:
    """A link of veth interfaces with netem."""

    description = "netem on veth interfaces"
    address = f"{_NETEM_NET}.2"
    header_bytes = _ETHERNET_BYTES

    def set_weather(self, weather: Weather) -> None:
        """Change both queueing disciplines."""
        for name in (CLIENT, SERVER):
            run_tool(*netem_command(namespace_of(name), weather))

    def prefix(self, name: str) -> tuple[str, ...]:
        """Return what enters a namespace."""
        return ("ip", "netns", "exec", namespace_of(name))


def describe_way(link: Link) -> str:
    """Return what a way is made of, and how TCP begins on it, for reports."""
    return f"{link.description}; MTU {MTU}, initcwnd {INITIAL_WINDOW}, {CONGESTION_CONTROL}"


def netem_command(namespace: str, weather: Weather) -> tuple[str, ...]:
    """Return the command that gives one end its half of the delay, and its loss."""
    return (
        *("tc", "-n", namespace, "qdisc", "replace", "dev", "eth0", "root", "netem", "limit", "100000"),
        *("delay", f"{weather.rtt_s / 2 * 1e6:.0f}us", "loss", f"{weather.loss * 100:g}%"),
    )


@contextlib.contextmanager
def open_link(seed: int) -> Iterator[Link]:
    """Give the best link of this machine. seed: of what is lost; netem has its own. Raises UsageError without any."""
    with contextlib.ExitStack() as stack:
        try:
            try:
                link: Link = stack.enter_context(_open_netem())
            except NoNetworkError:
                link = stack.enter_context(_open_switch(seed))
        except NoNetworkError as error:
            who = "" if os.geteuid() == 0 else ", which needs root"
            raise UsageError(
                Reason.UNSUPPORTED,
                f"network namespaces cannot be made here{who} ({error}); --loopback measures without them",
            ) from None
        yield link


@contextlib.contextmanager
def _open_switch(seed: int) -> Iterator[SwitchLink]:
    """Give two namespaces with a switch of our own between them."""
    with open_network([CLIENT, SERVER], mtu=MTU, seed=seed) as network:
        for name in (CLIENT, SERVER):
            _settle(namespace_of(name), network.route(name))
        yield SwitchLink(network)


@contextlib.contextmanager
def _open_netem() -> Iterator[NetemLink]:
    """Give two namespaces with a pair of veth interfaces and netem. Raises NoNetworkError where there is none."""
    with open_namespaces([CLIENT, SERVER]):
        ends = [(namespace_of(CLIENT), f"{_NETEM_NET}.1"), (namespace_of(SERVER), f"{_NETEM_NET}.2")]
        client, server = ends[0][0], ends[1][0]
        run_tool("ip", "-n", client, "link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", server)
        for namespace, address in ends:
            run_tool("ip", "-n", namespace, "address", "add", f"{address}/24", "dev", "eth0")
            run_tool("ip", "-n", namespace, "link", "set", "eth0", "mtu", str(MTU), "up")
            # Segments that the kernel puts together would be counted, delayed and lost as one packet.
            for limit, value in (("gso_max_segs", "1"), ("gro_max_size", "0")):
                with contextlib.suppress(NoNetworkError):
                    run_tool("ip", "-n", namespace, "link", "set", "eth0", limit, value)
            run_tool(*netem_command(namespace, Weather(0.0, 0.0)))
            route = (f"{_NETEM_NET}.0/24", "dev", "eth0", "proto", "kernel", "scope", "link", "src", address)
            _settle(namespace, route)
        yield NetemLink()


def _settle(namespace: str, route: Sequence[str]) -> None:
    """Set one end's TCP. Raises NoNetworkError where it cannot be set."""
    words = "; ".join(f"echo {value} > /proc/sys/{name}" for name, value in _SETTINGS.items())
    run_tool("ip", "netns", "exec", namespace, "sh", "-ec", words)
    tcp = ("initcwnd", str(INITIAL_WINDOW), "congctl", CONGESTION_CONTROL)
    run_tool("ip", "-n", namespace, "route", "change", *route, *tcp)
