"""`mtc simulate landmarks`: how landmarks reach relying parties, in bytes, staleness and kinds of handshakes."""

import csv
import io
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from math import ceil
from pathlib import Path

from rich.table import Table
from rich.text import Text

from mtc.cli.output import console, read_input, shown, table, write_new_file
from mtc.cli.simulate_scenario import format_scenario, parse_outage, parse_scenario, scale
from mtc.errors import Reason, UsageError
from mtc.simulate import Outcome, Scenario, Shares, Staleness, simulate, web_scenario
from mtc.simulate.picture import draw_outcome

_COLUMNS = 60
_BLOCKS = " ▁▂▃▄▅▆▇█"
_RATES = ("egress_bits_per_s", "updates_per_s", "landmarks")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateOptions:
    """The command's arguments; None leaves what the scenario says. clients, cas: totals, in its proportions."""

    scenario: str | None = None
    clients: int | None = None
    cas: int | None = None
    days: int | None = None
    landmark_bytes: int | None = None
    proof_bytes: int | None = None
    outages: tuple[str, ...] = ()
    csv: str | None = None
    plot: str | None = None
    as_json: bool = False
    example: bool = False


def run_simulate(options: SimulateOptions) -> None:
    """Simulate and print. Raises UsageError for what cannot be simulated, read or written."""
    scenario = _scenario(options)
    if options.example:
        sys.stdout.write(format_scenario(scenario))
        return
    outcome = simulate(scenario)
    if options.csv is not None:
        write_new_file(Path(options.csv), series_csv(outcome).encode())
    if options.plot is not None:
        write_new_file(Path(options.plot), draw_outcome(outcome).encode())
    if options.as_json:
        sys.stdout.write(json.dumps(outcome.to_json()) + "\n")
        return
    _print(scenario, outcome)


def _scenario(options: SimulateOptions) -> Scenario:
    """Return the scenario of the file, or the default, with what the options change."""
    if options.scenario is None:
        scenario = web_scenario()
    else:
        try:
            text = read_input(options.scenario).decode()
        except UnicodeDecodeError:
            raise UsageError(Reason.BAD_TEXT, f"{options.scenario} is no UTF-8 text") from None
        scenario = parse_scenario(text, options.scenario)
    if options.clients is not None:
        counts = scale([one.count for one in scenario.classes], options.clients)
        classes = tuple(replace(one, count=count) for one, count in zip(scenario.classes, counts, strict=True))
        scenario = replace(scenario, classes=classes)
    if options.cas is not None:
        counts = scale([one.count for one in scenario.groups], options.cas)
        groups = tuple(replace(one, count=count) for one, count in zip(scenario.groups, counts, strict=True))
        scenario = replace(scenario, groups=groups)
    if options.days is not None:
        scenario = replace(scenario, duration=timedelta(days=options.days))
    service = scenario.service
    if options.landmark_bytes is not None:
        service = replace(service, landmark_bytes=options.landmark_bytes)
    if options.proof_bytes is not None:
        service = replace(service, proof_bytes=options.proof_bytes)
    outages = tuple(parse_outage(text) for text in options.outages)
    return replace(scenario, service=service, outages=scenario.outages + outages)


def series_csv(outcome: Outcome) -> str:
    """Return the time series with one line for each moment, and a header."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ("at_s", "landmark_relative", "standalone", "fallback", "staleness_p50_s", "staleness_p99_s", *_RATES)
    )
    for one in outcome.series:
        shares = one.shares
        writer.writerow(
            [
                f"{one.at_s:g}",
                *(f"{part:.6f}" for part in (shares.landmark_relative, shares.standalone, shares.fallback)),
                *("" if age is None else f"{age:.0f}" for age in (one.staleness_p50_s, one.staleness_p99_s)),
                *(f"{getattr(one, name):.6g}" for name in _RATES),
            ]
        )
    return out.getvalue()


def _print(scenario: Scenario, outcome: Outcome) -> None:
    """Print the outcome for people."""
    out = console()
    out.print(f"[bold]{outcome.clients:,} clients, {outcome.cas:,} CAs, {outcome.days:g} days[/]")
    for outage in scenario.outages:
        of = f" of {outage.group}" if outage.group else ""
        out.print(f"[yellow]outage:[/] {outage.failure}{shown(of)} at {_days(outage.start)} for {_days(outage.length)}")
    out.print(_summary(outcome))
    out.print(_classes(outcome))
    out.print(_staleness(outcome))
    series = outcome.series
    out.print("\n[bold]Over time[/]  [dim]one column is the highest of its part[/]")
    plot = table("", f"0 to {outcome.days:g} days", "highest", numeric=(2,))
    for label, values, style, text in (
        ("standalone", [one.shares.standalone * 100 for one in series], "yellow", "{:.2f} %"),
        ("fall back", [one.shares.fallback * 100 for one in series], "red", "{:.2f} %"),
        ("staleness, 99 %", [(one.staleness_p99_s or 0) / 3600 for one in series], "cyan", "{:.1f} h"),
        ("egress", [one.egress_bits_per_s / 1e9 for one in series], "blue", "{:,.3g} Gbit/s"),
    ):
        plot.add_row(label, sparkline(values, style), text.format(max(values)))
    out.print(plot)


def sparkline(values: Sequence[float], style: str = "") -> Text:
    """Draw values as bars, the highest of each column's part; the scale is from zero to the highest of all."""
    columns = min(_COLUMNS, len(values))
    parts = [
        max(values[number * len(values) // columns : (number + 1) * len(values) // columns])
        for number in range(columns)
    ]
    highest = max(parts) or 1.0
    # What is above zero is seen, however small.
    return Text("".join(_BLOCKS[ceil(value / highest * 8)] for value in parts), style)


def _summary(outcome: Outcome) -> Table:
    """Return the totals."""
    rows = table("what", "figure", numeric=(1,), title="\nDistribution")
    egress, sizes = outcome.egress, outcome.handshake_bytes
    rows.add_row("active landmarks at the end", f"{outcome.landmarks:,.0f}")
    rows.add_row("full state", _bytes(outcome.full_state_bytes))
    rows.add_row("updates, one client and day", _bytes(outcome.bytes_per_client_day))
    rows.add_row("  of it deltas", _bytes(outcome.delta_bytes_per_client_day))
    rows.add_row("  of it full states", _bytes(outcome.full_bytes_per_client_day))
    rows.add_row("egress, all clients, a day", _bytes(egress.bytes_per_day))
    rows.add_row("egress, mean / peak", f"{_bits(egress.mean_bits_per_s)} / {_bits(egress.peak_bits_per_s)}")
    rows.add_row(
        "updates a second, mean / peak", f"{egress.mean_updates_per_s:,.0f} / {egress.peak_updates_per_s:,.0f}"
    )
    rows.add_row("handshakes a day", f"{outcome.handshakes_per_day:.3g}")
    rows.add_row("bytes of a handshake: certificates", f"{sizes.certificates:,.0f}")
    rows.add_row("  its part of the updates", f"{sizes.updates:,.0f}")
    rows.add_row("  certificates if there were no landmarks", f"{sizes.without_landmarks:,.0f}")
    return rows


def _classes(outcome: Outcome) -> Table:
    """Return the classes of clients, and all together."""
    rows = table(
        "clients",
        "landmark-relative",
        "standalone",
        "fall back",
        "updates/day",
        "bytes/day",
        numeric=range(1, 6),
        title="\nHandshakes",
    )

    def add(name: str, shares: Shares, updates: str, size: float) -> None:
        parts = (shares.landmark_relative, shares.standalone, shares.fallback)
        rows.add_row(name, *(f"{part * 100:.2f} %" for part in parts), updates, _bytes(size))

    for one in outcome.classes:
        add(shown(f"{one.name} ({one.clients:,})"), one.shares, f"{one.updates_per_day:.2f}", one.bytes_per_day)
    add("all, by handshakes", outcome.shares, "", outcome.bytes_per_client_day)
    return rows


def _staleness(outcome: Outcome) -> Table:
    """Return how old states are at handshakes."""
    names = list(outcome.staleness.percentiles_s)
    titles = ("clients", "mean", *(f"{name} %" for name in names))
    rows = table(*titles, numeric=range(1, len(titles)), title="\nStaleness at handshakes, hours")

    def add(name: str, ages: Staleness) -> None:
        percentiles = (ages.percentiles_s[one] for one in names)
        rows.add_row(name, f"{ages.mean_s / 3600:.2f}", *("∞" if p is None else f"{p / 3600:.2f}" for p in percentiles))

    for one in outcome.classes:
        add(shown(one.name), one.staleness)
    add("all, by handshakes", outcome.staleness)
    return rows


def _bytes(size: float) -> str:
    """Return a number of bytes in a unit that reads well."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} PB"


def _bits(rate: float) -> str:
    """Return bits a second in a unit that reads well."""
    for unit in ("bit/s", "kbit/s", "Mbit/s", "Gbit/s"):
        if rate < 1000:
            return f"{rate:.3g} {unit}"
        rate /= 1000
    return f"{rate:,.3g} Tbit/s"


def _days(duration: timedelta) -> str:
    """Return a duration in days."""
    return f"{duration / timedelta(days=1):g} days"
