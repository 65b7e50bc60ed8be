"""`mtc bench acme`: complete ACME orders a second, from real clients' requests to downloaded certificates.

Server, its signer and whatever else takes part are processes of their own on the same machine as the clients; HTTPS,
validation over http-01 and DNS, CAA, evidence and every write that must be durable are there. The same clients are then
run against Pebble, which keeps everything in memory and signs classical certificates.
"""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography.x509 import DNSName, SubjectAlternativeName, load_pem_x509_certificate
from rich.markup import escape

from mtc.acme.load.answering import AnsweringServer
from mtc.acme.load.crowd import Crowd, Load, run_crowd
from mtc.acme.load.orders import Ordered
from mtc.cli.bench_acme_servers import (
    PEBBLE,
    Surroundings,
    Target,
    has_pebble,
    running_mocked,
    running_own,
    running_pebble,
)
from mtc.cli.bench_acme_web import running_web
from mtc.cli.bench_ca import machine_name, print_figures, progress
from mtc.cli.output import console, error_console, named, table
from mtc.errors import PeerError, Reason, UsageError
from mtc.kernel import active_kernel
from mtc.testing.names import NameServer
from mtc.web.server import loop_factory

ZONE = "mtc-bench.net"
"""Below it lie all names that are ordered. Public CAs certify no reserved names; only our own name server is asked."""
WARM_UP_S = 1.0
"""At most so long, and at most a quarter of the measured time, orders are not counted yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ACMEBenchOptions:
    """What is measured. clients: at once. seconds: for each figure. folder: where everything lies, to choose the disk.

    parts: of `PARTS`, which servers.
    """

    clients: int = 64
    seconds: float = 20.0
    folder: str | None = None
    parts: tuple[str, ...] = ()
    as_json: bool = False


Opener = Callable[[Path, Surroundings], AbstractAsyncContextManager[Target]]

OWN = "own"
PARTS: dict[str, Opener] = {
    OWN: running_own,
    "mocked_validation": running_mocked,
    "web_profile": running_web,
    PEBBLE: running_pebble,
}
"""The servers, in the order in which they are measured."""
_ROWS = (
    "orders_per_s",
    "finalize_p50_ms",
    "finalize_p99_ms",
    "round_interval_ms",
    "order_p50_ms",
    "order_p99_ms",
    "requests_per_order",
    "server_cpu_ms_per_order",
    "client_cpu_ms_per_order",
)
_TRIES = {name: 3 if name == PEBBLE else 1 for name in PARTS}


def run_bench_acme(options: ACMEBenchOptions) -> None:
    """Measure, and print the figures."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        figures = runner.run(_measure(options))
    if options.as_json:
        print_figures(figures, as_json=True)
    else:
        _print_table(figures)


@dataclass(frozen=True, slots=True)
class Measured:
    """What one server did. server_ms, client_ms: processor time of all its processes, and of the clients, per order."""

    load: Load
    server_ms: float
    client_ms: float
    round_interval: timedelta | None


async def _measure(options: ACMEBenchOptions) -> dict[str, object]:
    """Measure every server; return the figures."""
    unknown = [name for name in options.parts if name not in PARTS]
    if unknown:
        raise UsageError(Reason.USAGE, f"{unknown[0]!r} is no part of this benchmark; there are {', '.join(PARTS)}")
    wanted = [name for name in PARTS if not options.parts or name in options.parts]
    if PEBBLE in wanted and not has_pebble():
        error_console().print("pebble is not installed (Debian's package pebble), so there is no ratio to it")
        wanted.remove(PEBBLE)
    path = Path(tempfile.mkdtemp(prefix="mtc-bench-", dir=options.folder))
    results: dict[str, Measured] = {}
    failures: dict[str, object] = {}
    try:
        async with AnsweringServer.listen() as answering, NameServer() as names:
            names.set(f"*.{ZONE}", "A", "127.0.0.1")
            surroundings = Surroundings(answering.port, names.server)
            for name in wanted:
                try:
                    results[name] = await _measure_part(name, path / name, surroundings, answering, options)
                except PeerError as error:
                    # What another program cannot do costs its own figure only.
                    if name != PEBBLE:
                        raise named(error, name) from None
                    failures[f"{name}_failure"] = error.message
    finally:
        shutil.rmtree(path, ignore_errors=True)
    return {**_figures(results, options), **failures}


async def _measure_part(
    name: str, path: Path, surroundings: Surroundings, answering: AnsweringServer, options: ACMEBenchOptions
) -> Measured:
    """Start a server and measure it; start it again when it stands still, as often as it may."""
    for tries_left in reversed(range(_TRIES[name])):
        try:
            async with PARTS[name](path, surroundings) as target:
                return await _measure_server(name, target, answering, options)
        except PeerError:
            if not tries_left:
                raise
    raise AssertionError("every server may try once")


async def _measure_server(name: str, target: Target, answering: AnsweringServer, options: ACMEBenchOptions) -> Measured:
    """Run the clients against one server. Raises PeerError when an order failed, or a certificate has other names."""
    warm_up_s = min(WARM_UP_S, options.seconds / 4)
    crowd = Crowd(
        directory_url=target.directory_url,
        zone=ZONE,
        tls=target.tls,
        clients=options.clients,
        new_orders=target.new_orders,
        request_s=target.request_s,
    )
    with progress(f"ordering ({name})", warm_up_s + options.seconds) as advance:
        server_s, client_s = target.cpu_s(), time.process_time()
        load = await run_crowd(
            crowd, answering, warm_up_s=warm_up_s, seconds=options.seconds, tell=lambda _, passed: advance(passed)
        )
        server_s, client_s = target.cpu_s() - server_s, time.process_time() - client_s
    for problem, count in load.problems.most_common(1):
        raise PeerError(Reason.PEER, f"{count} of {len(load.orders)} orders failed, for example: {problem}")
    for ordered in load.orders:
        check_names(ordered)
    per_order = 1000 / max(len(load.orders), 1)
    return Measured(load, server_s * per_order, client_s * per_order, target.round_interval)


def check_names(ordered: Ordered) -> None:
    """Raise PeerError unless a certificate is for exactly the name that was ordered."""
    certificate = load_pem_x509_certificate(ordered.pem)
    names = certificate.extensions.get_extension_for_class(SubjectAlternativeName).value.get_values_for_type(DNSName)
    if names != [ordered.name]:
        raise PeerError(Reason.PEER, f"a certificate for {ordered.name} is one for {', '.join(names)}")


def _figures(results: Mapping[str, Measured], options: ACMEBenchOptions) -> dict[str, object]:
    """Put the figures together; those of our own server come without a prefix."""
    figures: dict[str, object] = {}
    for name, measured in results.items():
        prefix = "" if name == OWN else f"{name}_"
        figures |= {f"{prefix}{figure}": value for figure, value in _figures_of(measured).items()}
    if {OWN, PEBBLE} <= results.keys():
        figures["ratio_to_pebble"] = round(results[OWN].load.orders_per_s / results[PEBBLE].load.orders_per_s, 3)
    return {
        **figures,
        "clients": options.clients,
        "seconds": options.seconds,
        "kernel": active_kernel().name,
        "machine": machine_name(),
    }


def _figures_of(measured: Measured) -> dict[str, float]:
    """Return the figures of one server."""
    load = measured.load
    figures = {
        "orders_per_s": round(load.orders_per_s, 1),
        "finalize_p50_ms": round(load.finalize_s(50) * 1000, 1),
        "finalize_p99_ms": round(load.finalize_s(99) * 1000, 1),
        "order_p50_ms": round(load.order_s(50) * 1000, 1),
        "order_p99_ms": round(load.order_s(99) * 1000, 1),
        "requests_per_order": round(load.requests_per_order, 1),
        "server_cpu_ms_per_order": round(measured.server_ms, 2),
        "client_cpu_ms_per_order": round(measured.client_ms, 2),
    }
    if measured.round_interval is not None:
        figures["round_interval_ms"] = round(measured.round_interval.total_seconds() * 1000)
    return figures


def _print_table(figures: Mapping[str, object]) -> None:
    """Print the servers side by side, and below what is true of all."""
    servers = [name for name in PARTS if f"{'' if name == OWN else f'{name}_'}orders_per_s" in figures]
    rows = table("", *(name.replace("_", " ") for name in servers), numeric=range(1, len(servers) + 1))
    shown: set[str] = set()
    for figure in _ROWS:
        names = [figure if name == OWN else f"{name}_{figure}" for name in servers]
        shown.update(names)
        rows.add_row(
            figure.replace("_", " "), *(f"{figures.get(name, ''):,}" if name in figures else "" for name in names)
        )
    out = console()
    out.print(rows)
    for name, value in figures.items():
        if name not in shown:
            out.print(f"[dim]{name.replace('_', ' ')}[/] {escape(str(value))}")
