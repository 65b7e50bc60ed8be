"""How a run looks while it lasts, and its report at the end."""

import asyncio
import json
import sys
import time
from collections.abc import Mapping

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from mtc.cli.hammer.figures import Figures, KindFigures, Latencies, Outcome
from mtc.cli.hammer.load import Load
from mtc.cli.output import console, error_console, shown, table

TICK_S = 1.0
_MEGABYTE = 1_000_000
_BUSY_CLIENT = 0.9


class LiveView:
    """Shows a run once a second: a table on a terminal, a line in a pipe."""

    def __init__(self, load: Load, title: str, *, as_json: bool) -> None:
        """Take the run. as_json: standard output is kept for the report."""
        self._load = load
        self._title = title
        self._out = error_console() if as_json else console()
        self._cpu = time.process_time()
        self._last: dict[str, tuple[int, int, int]] = {}
        self._last_s = 0.0

    @property
    def client_cpu(self) -> float:
        """The share of one core that this process used since the view was made or asked to begin."""
        return (time.process_time() - self._cpu) / max(self._load.seconds, 1e-9)

    def begin(self) -> None:
        """Start to measure, together with the run."""
        self._cpu = time.process_time()

    async def run(self) -> None:
        """Show until cancelled."""
        if not self._out.is_terminal:
            while True:
                await asyncio.sleep(TICK_S)
                self._out.print(self._line(), markup=False)
        with Live(console=self._out, auto_refresh=False, transient=True) as live:
            while True:
                live.update(self.picture(), refresh=True)
                await asyncio.sleep(TICK_S)

    def _line(self) -> str:
        """Return the last second as one line."""
        figures = self._load.figures
        requests, received, sent, latencies = 0, 0, 0, Latencies()
        seconds = self._tick()
        for name, kind in figures.kinds.items():
            since = self._advance(name, kind)
            requests, received, sent = requests + since[0], received + since[1], sent + since[2]
            latencies.add_all(kind.recent)
            kind.recent = Latencies()
        return (
            f"{self._load.seconds:6.1f} s  {requests / seconds:,.0f} requests/s  p50 {_ms(latencies.percentile(0.5))}  "
            f"p99 {_ms(latencies.percentile(0.99))}  max {_ms(latencies.most_s)}  "
            f"{received / seconds / _MEGABYTE:,.1f} MB/s in  {sent / seconds / _MEGABYTE:,.1f} MB/s out  "
            + "  ".join(f"{figures.total(outcome):,} {outcome}" for outcome in Outcome if outcome != Outcome.RIGHT)
        )

    def picture(self) -> RenderableType:
        """Return the last second as a table, by kind."""
        figures = self._load.figures
        rows = _columns("requests/s", "MB/s in", "MB/s out")
        seconds = self._tick()
        for name, kind in sorted(figures.kinds.items()):
            requests, received, sent = self._advance(name, kind)
            rows.add_row(
                shown(name),
                *_outcomes(kind),
                *_latencies(kind.recent if kind.recent.count else kind.latencies),
                f"{requests / seconds:,.0f}",
                f"{received / seconds / _MEGABYTE:,.1f}",
                f"{sent / seconds / _MEGABYTE:,.1f}",
            )
            kind.recent = Latencies()
        progress = self._load.progress
        done = "" if progress is None else f", {progress:.0%}"
        head = Text(f"{self._title}  {self._load.seconds:.0f} s{done}; ctrl-C ends with the report", style="bold")
        return Group(head, rows, *(Text(line, style="red") for line in _first_words(figures)))

    def _tick(self) -> float:
        """Return the seconds since the last look."""
        now = self._load.seconds
        passed, self._last_s = now - self._last_s, now
        return max(passed, 1e-3)

    def _advance(self, name: str, kind: KindFigures) -> tuple[int, int, int]:
        """Return requests, bytes received and bytes sent of a kind since the last look."""
        old = self._last.get(name, (0, 0, 0))
        new = (kind.requests, kind.bytes_received, kind.bytes_sent)
        self._last[name] = new
        return new[0] - old[0], new[1] - old[1], new[2] - old[2]


def print_report(document: Mapping[str, object], figures: Figures, seconds: float, *, as_json: bool) -> None:
    """Print what a run found."""
    if as_json:
        sys.stdout.write(json.dumps(document) + "\n")
        return
    out = console()
    rows = _columns("requests/s")
    for name, kind in sorted(figures.kinds.items()):
        row = (*_outcomes(kind), *_latencies(kind.latencies), f"{kind.requests / seconds:,.0f}")
        rows.add_row(shown(name), *row)
    out.print(rows)
    amounts = ", ".join(f"{value:,} {name} ({value / seconds:,.0f}/s)" for name, value in figures.amounts.items())
    if amounts:
        out.print(f"checked: {amounts}")
    _print_faults(out, figures)
    client = document.get("client_cpu")
    if isinstance(client, float) and client > _BUSY_CLIENT:
        out.print("[yellow]note:[/] this process used a whole core: the hammer was the limit, not the target")
    if figures.total(Outcome.WRONG):
        verdict = "[bold red]not every answer was right[/]"
    elif figures.total(Outcome.UNANSWERED):
        verdict = "[bold red]not every request was answered[/]; every answer was right"
    elif not figures.is_clean:
        verdict = "[bold red]nothing was answered[/]"
    else:
        verdict = "[bold green]every answer was right[/]"
    out.print(f"{verdict}  [dim]{figures.requests:,} requests in {seconds:,.1f} s; ended by {document['ended']}[/]")


def _print_faults(out: Console, figures: Figures) -> None:
    """Print what was wrong, the first few in words."""
    for fault in figures.faults.values():
        out.print(f"[bold red]{fault.outcome}[/] {fault.count:,} of {shown(fault.kind)} [dim]({fault.reason})[/]")
        for message in fault.messages:
            out.print(f"  {shown(message)}")
        if fault.count > len(fault.messages):
            out.print(f"  [dim]and {fault.count - len(fault.messages):,} more[/]")


def _columns(*more: str) -> Table:
    """Return an empty table of kinds."""
    columns = ("request", *(str(outcome) for outcome in Outcome), "p50", "p99", "max", *more)
    return table(*columns, numeric=range(1, len(columns)))


def _outcomes(kind: KindFigures) -> list[str]:
    """Return the counts of a kind."""
    return [f"{kind.outcomes[outcome]:,}" for outcome in Outcome]


def _latencies(latencies: Latencies) -> list[str]:
    """Return p50, p99 and the largest latency as text."""
    return [_ms(latencies.percentile(0.5)), _ms(latencies.percentile(0.99)), _ms(latencies.most_s)]


def _first_words(figures: Figures) -> list[str]:
    """Return the first words about each fault."""
    return [
        f"{fault.outcome} {fault.count:,} of {fault.kind}: {shown(fault.messages[0])[:200]}"
        for fault in list(figures.faults.values())[:5]
        if fault.messages
    ]


def _ms(seconds: float) -> str:
    """Return a latency as text."""
    return f"{seconds * 1000:,.1f} ms"
