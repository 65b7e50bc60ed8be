"""`mtc bench acme`: complete ACME orders a second, from real clients' requests to downloaded certificates.

Server, its signer and whatever else takes part are processes of their own on the same machine as the clients; HTTPS,
validation over http-01 and DNS, CAA, evidence and every write that must be durable are there. The same clients are then
run against Pebble, which keeps everything in memory and signs classical certificates.
"""

import asyncio
import shutil
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography.x509 import DNSName, SubjectAlternativeName, load_pem_x509_certificate

from mtc.acme.load.answering import AnsweringServer
from mtc.acme.load.crowd import Crowd, Load, run_crowd
from mtc.acme.load.orders import Ordered
from mtc.cli.bench_acme_servers import (
    Surroundings,
    Target,
    has_pebble,
    running_mocked,
    running_own,
    running_pebble,
)
from mtc.cli.bench_acme_web import running_web
from mtc.cli.bench_ca import machine_name, print_figures, progress
from mtc.cli.output import error_console
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

PARTS: dict[str, Opener] = {
    "own": running_own,
    "mocked_validation": running_mocked,
    "web_profile": running_web,
    "pebble": running_pebble,
}
"""The servers, in the order in which they are measured."""


def run_bench_acme(options: ACMEBenchOptions) -> None:
    """Measure, and print the figures."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        print_figures(runner.run(_measure(options)), as_json=options.as_json)


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
    if "pebble" in wanted and not has_pebble():
        error_console().print("pebble is not installed (Debian's package pebble), so there is no ratio to it")
        wanted.remove("pebble")
    path = Path(tempfile.mkdtemp(prefix="mtc-bench-", dir=options.folder))
    results: dict[str, Measured] = {}
    try:
        async with AnsweringServer.listen() as answering, NameServer() as names:
            names.set(f"*.{ZONE}", "A", "127.0.0.1")
            surroundings = Surroundings(answering.port, names.server)
            for name in wanted:
                async with PARTS[name](path / name, surroundings) as target:
                    results[name] = await _measure_server(name, target, answering, options)
    finally:
        shutil.rmtree(path, ignore_errors=True)
    return _figures(results, options)


async def _measure_server(name: str, target: Target, answering: AnsweringServer, options: ACMEBenchOptions) -> Measured:
    """Run the clients against one server. Raises PeerError when an order failed, or a certificate has other names."""
    warm_up_s = min(WARM_UP_S, options.seconds / 4)
    crowd = Crowd(
        directory_url=target.directory_url,
        zone=ZONE,
        tls=target.tls,
        clients=options.clients,
        new_orders=target.new_orders,
    )
    with progress(f"ordering ({name})", warm_up_s + options.seconds) as advance:
        server_s, client_s = target.cpu_s(), time.process_time()
        load = await run_crowd(
            crowd, answering, warm_up_s=warm_up_s, seconds=options.seconds, tell=lambda _, passed: advance(passed)
        )
        server_s, client_s = target.cpu_s() - server_s, time.process_time() - client_s
    for problem, count in load.problems.most_common(1):
        raise PeerError(Reason.PEER, f"{name}: {count} of {len(load.orders)} orders failed, for example: {problem}")
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


def _figures(results: dict[str, Measured], options: ACMEBenchOptions) -> dict[str, object]:
    """Put the figures together; those of our own server come without a prefix."""
    figures: dict[str, object] = {}
    for name, measured in results.items():
        prefix = "" if name == "own" else f"{name}_"
        load = measured.load
        figures |= {
            f"{prefix}orders_per_s": round(load.orders_per_s, 1),
            f"{prefix}finalize_p50_ms": round(load.finalize_s(50) * 1000, 1),
            f"{prefix}finalize_p99_ms": round(load.finalize_s(99) * 1000, 1),
            f"{prefix}order_p50_ms": round(load.order_s(50) * 1000, 1),
            f"{prefix}order_p99_ms": round(load.order_s(99) * 1000, 1),
            f"{prefix}requests_per_order": round(load.requests_per_order, 1),
            f"{prefix}server_cpu_ms_per_order": round(measured.server_ms, 2),
            f"{prefix}client_cpu_ms_per_order": round(measured.client_ms, 2),
        }
        if measured.round_interval is not None:
            figures[f"{prefix}round_interval_ms"] = round(measured.round_interval.total_seconds() * 1000)
    if {"own", "pebble"} <= results.keys():
        figures["ratio_to_pebble"] = round(results["own"].load.orders_per_s / results["pebble"].load.orders_per_s, 3)
    return {
        **figures,
        "clients": options.clients,
        "seconds": options.seconds,
        "kernel": active_kernel().name,
        "machine": machine_name(),
    }
