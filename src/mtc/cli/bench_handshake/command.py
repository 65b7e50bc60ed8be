"""`mtc bench handshake`: measures, prints, and writes the document."""

import itertools
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from mtc.cli.bench_ca import machine_name, progress
from mtc.cli.bench_handshake.cases import Row
from mtc.cli.bench_handshake.figures import by_kind
from mtc.cli.bench_handshake.link import Weather, describe_way, open_link
from mtc.cli.bench_handshake.measure import (
    Updates,
    choose_rows,
    loopback_turns,
    measure_loopback,
    measure_network,
    network_ticks,
    prepared,
)
from mtc.cli.bench_handshake.plot import draw_run
from mtc.cli.bench_handshake.report import Run, document_part, grids_of, replace_part
from mtc.cli.output import console, write_new_file
from mtc.errors import Reason, UsageError
from mtc.tls import describe_back_ends

RTTS_MS = (20.0, 100.0, 300.0)
LOSSES_PERCENT = (0.0, 1.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakeBenchOptions:
    """What is measured. handshakes: of each row over loopback; half as many along a way that loses packets.

    is_loopback: without namespaces. write: the document whose measured part is replaced; its picture lies beside it.
    """

    handshakes: int = 400
    is_loopback: bool = False
    rtts_ms: tuple[float, ...] = RTTS_MS
    losses_percent: tuple[float, ...] = LOSSES_PERCENT
    back_ends: tuple[str, ...] = ()
    seed: int = 1
    write: str | None = None
    as_json: bool = False


def run_bench_handshake(options: HandshakeBenchOptions) -> None:
    """Measure, print, and write what is wanted. Raises UsageError, before anything is measured, where it cannot be."""
    if options.write is not None and options.is_loopback:
        raise UsageError(Reason.USAGE, "--write needs the network's figures; leave out --loopback")
    run = _measure_loopback(options) if options.is_loopback else _measure_all(options)
    if options.write is not None:
        _write(Path(options.write), run, options)
    if options.as_json:
        sys.stdout.write(json.dumps(figures_of(run)) + "\n")
        return
    out = console()
    for grid in grids_of(run):
        grid.print(out)
    if run.link is not None:
        out.print(f"\n[dim]way: {run.link}[/]")


def figures_of(run: Run) -> dict[str, object]:
    """Return a run as JSON values. By kind: of the first back end, with a P-256 leaf; all rows stand in `rows`."""
    kinds = by_kind(run.rows)
    result: dict[str, object] = {
        "mode": "loopback" if run.link is None else "network",
        "verify_overhead_percent": {kind: round(one.verify_overhead_percent, 2) for kind, one in kinds.items()},
        "handshakes_per_s": {kind: round(one.handshakes_per_s, 1) for kind, one in kinds.items()},
        "server_bytes": {kind: one.server_bytes for kind, one in kinds.items()},
        "client_bytes": {kind: one.client_bytes for kind, one in kinds.items()},
        "back_end": run.rows[0].row.back_end,
        "leaf_key": str(run.rows[0].row.leaf_key),
        "rows": [one.to_json() for one in run.rows],
        "libraries": dict(run.libraries),
        "machine": run.machine,
    }
    if run.link is not None:
        result["link"] = run.link
    if run.updates is not None:
        result["update_bytes_per_handshake"] = {
            "signed": round(run.updates.signed),
            "proven": round(run.updates.proven),
        }
    return result


def command_of(options: HandshakeBenchOptions) -> str:
    """Return the command that measures the same again."""
    usual = HandshakeBenchOptions()
    words = ["mtc bench handshake"]
    if options.handshakes != usual.handshakes:
        words.append(f"--handshakes {options.handshakes}")
    if options.rtts_ms != usual.rtts_ms:
        words += [f"--rtt {rtt:g}" for rtt in options.rtts_ms]
    if options.losses_percent != usual.losses_percent:
        words += [f"--loss {loss:g}" for loss in options.losses_percent]
    words += [f"--back-end {name}" for name in options.back_ends]
    if options.seed != usual.seed:
        words.append(f"--seed {options.seed}")
    if options.write is not None:
        words.append(f"--write {options.write}")
    return " ".join(words)


def _measure_loopback(options: HandshakeBenchOptions) -> Run:
    """Measure over loopback alone."""
    rows = choose_rows(options.back_ends)
    with (
        prepared(rows) as (credentials, cases),
        progress("handshakes", loopback_turns(options.handshakes) * len(rows)) as advance,
    ):
        done = itertools.count(1)
        found = measure_loopback(credentials, cases, options.handshakes, lambda: advance(next(done)))
    return Run(tuple(found.values()), machine_name(), _libraries(rows))


def _measure_all(options: HandshakeBenchOptions) -> Run:
    """Measure over loopback, and through namespaces."""
    rows = choose_rows(options.back_ends)
    weathers = [Weather(rtt / 1000, loss / 100) for rtt in options.rtts_ms for loss in options.losses_percent]
    steps = loopback_turns(options.handshakes) * len(rows) + network_ticks(len(rows), len(weathers))
    with open_link(options.seed) as link, prepared(rows) as (credentials, cases):
        with progress("handshakes", steps) as advance:
            done = itertools.count(1)

            def tick() -> None:
                advance(next(done))

            local = measure_loopback(credentials, cases, options.handshakes, tick)
            found = measure_network(local, cases, link, weathers, options.handshakes, tick)
        run = Run(tuple(found.values()), machine_name(), _libraries(rows), describe_way(link))
    return replace(run, updates=Updates.simulated())


def _libraries(rows: Sequence[Row]) -> dict[str, str]:
    """Return the TLS library of each back end that is measured."""
    measured = {row.back_end for row in rows}
    return {one.name: one.library for one in describe_back_ends() if one.name in measured}


def _write(path: Path, run: Run, options: HandshakeBenchOptions) -> None:
    """Write the document and its picture."""
    picture = path.with_suffix(".svg")
    part = document_part(run, picture.name, command_of(options), f"{datetime.now(UTC):%Y-%m-%d}")
    try:
        before = path.read_text() if path.exists() else "# Handshakes\n"
    except OSError as error:
        raise UsageError(Reason.UNREADABLE, f"{path} cannot be read: {error.strerror}") from None
    write_new_file(path, replace_part(before, part).encode())
    write_new_file(picture, draw_run(run).encode())
