"""The figures as tables, for a terminal and for a document: the same rows in both."""

from collections.abc import Mapping
from dataclasses import dataclass

from rich.console import Console

from mtc.cli.bench_handshake.cases import Row
from mtc.cli.bench_handshake.figures import RowFigures, Times
from mtc.cli.bench_handshake.kinds import Kind, LeafKey
from mtc.cli.bench_handshake.link import Weather
from mtc.cli.bench_handshake.measure import LANES, SIMULATED_CAS, Updates
from mtc.cli.output import shown, table

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
"""Between these lines of a document `mtc bench handshake --write` puts what it measured."""


@dataclass(frozen=True, slots=True)
class Run:
    """Everything that one run found. link: None when only loopback was measured."""

    rows: tuple[RowFigures, ...]
    machine: str
    libraries: Mapping[str, str]
    link: str | None = None
    updates: Updates | None = None

    @property
    def weathers(self) -> tuple[Weather, ...]:
        """The weathers of the network, in order."""
        return tuple(self.rows[0].network)


@dataclass(frozen=True, slots=True)
class Grid:
    """One table: a title, columns of which the first are words, rows, and sentences below."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()
    words: int = 3

    def print(self, out: Console) -> None:
        """Show it in a terminal."""
        rows = table(*self.columns, title=f"\n{self.title}", numeric=range(self.words, len(self.columns)))
        for row in self.rows:
            rows.add_row(*map(shown, row))
        out.print(rows)
        for note in self.notes:
            out.print(f"[dim]{shown(note)}[/]")

    def markdown(self) -> str:
        """Return it as a section of a document."""
        rule = ("---",) * self.words + ("---:",) * (len(self.columns) - self.words)
        lines = [f"### {self.title}", ""]
        lines += [f"| {' | '.join(cells)} |" for cells in (self.columns, rule, *self.rows)]
        return "\n".join([*lines, "", *(f"{note}\n" for note in self.notes)]).rstrip() + "\n"


def grids_of(run: Run) -> tuple[Grid, ...]:
    """Return all tables of a run."""
    found = [_bytes(run), _compression(run), _processors(run)]
    if run.weathers:
        found.insert(2, _times(run))
    return tuple(found)


def document_part(run: Run, picture: str, command: str, day: str) -> str:
    """Return what goes between `BEGIN` and `END`. picture: the name of its file. day: when it was measured."""
    libraries = "; ".join(f"{name}: {library}" for name, library in run.libraries.items())
    way = "" if run.link is None else f" Way between the namespaces: {run.link}."
    opening = f"Measured on {day} with `{command}`: {run.machine}. Back ends: {libraries}.{way}"
    parts = [BEGIN, opening, f"![Bytes and times of handshakes by kind of certificate]({picture})"]
    parts += [grid.markdown().rstrip() for grid in grids_of(run)]
    return "\n\n".join([*parts, END])


def replace_part(document: str, part: str) -> str:
    """Return the document with its measured part replaced, or with one at its end if it had none."""
    begin, end = document.find(BEGIN), document.find(END)
    if begin < 0 or end < begin:
        return document.rstrip() + "\n\n" + part + "\n"
    return document[:begin] + part + document[end + len(END) :]


def _named(row: Row) -> tuple[str, str, str]:
    """Return the words in front of a row."""
    return row.back_end, "P-256" if row.leaf_key is LeafKey.P256 else "ML-DSA-44", row.kind.label


_NAMES = ("back end", "leaf key", "certificate")


def _bytes(run: Run) -> Grid:
    """Return the table of bytes and round trips."""
    columns = [*_NAMES, "client sends", "server sends", "of it certificates"]
    notes = ["Bytes of TLS records until the client is done."]
    if run.updates is not None:
        columns += ["with updates, signed", "with updates, proven"]
        notes.append(
            "With updates: the server's bytes and this handshake's part of the landmark updates that the client "
            f"fetched before, {run.updates.signed:,.0f} bytes from a service that it trusts, "
            f"{run.updates.proven:,.0f} when it verifies the proofs itself. Assumption: the default scenario of `mtc "
            f"simulate landmarks`, with {SIMULATED_CAS} CAs."
        )
    has_wire = all(one.wire is not None for one in run.rows)
    if has_wire:
        columns += ["client, with TCP/IP", "server, with TCP/IP", "round trips"]
        notes.append(
            "With TCP/IP: all packets of the connection from SYN to FIN as the client's interface counts them, means "
            "without loss. Round trips: until the client is done, without the one for TCP."
        )
    rows = []
    for one in run.rows:
        cells = [
            *_named(one.row),
            *(f"{size:,}" for size in (one.client_bytes, one.server_bytes, one.certificate_bytes)),
        ]
        if run.updates is not None:
            is_relative = one.row.kind is Kind.LANDMARK_RELATIVE
            sizes = [one.server_bytes + size for size in (run.updates.signed, run.updates.proven)]
            cells += [f"{size:,.0f}" if is_relative else "" for size in sizes]
        if has_wire and one.wire is not None:
            cells += [f"{one.wire.client_bytes:,.0f}", f"{one.wire.server_bytes:,.0f}", str(one.round_trips)]
        rows.append(tuple(cells))
    return Grid("Bytes", tuple(columns), tuple(rows), tuple(notes))


def _compression(run: Run) -> Grid:
    """Return the table of what compression would save."""
    algorithms = tuple(run.rows[0].compressed_bytes)
    rows = []
    for one in run.rows:
        cells = [*_named(one.row), f"{one.server_bytes:,}"]
        for name in algorithms:
            size = one.server_bytes_with(name)
            cells.append(f"{size:,} ({(size / one.server_bytes - 1) * 100:+.1f} %)")
        rows.append(tuple(cells))
    note = (
        "Calculated, not negotiated: no back end here speaks RFC 8879. The body of the Certificate message is "
        "compressed alone and 8 bytes are added; what gets longer is left as it is."
    )
    columns = (*_NAMES, "server sends", *(f"with {name}" for name in algorithms))
    return Grid("Certificate compression", columns, tuple(rows), (note,))


def _times(run: Run) -> Grid:
    """Return the table of times along the ways."""
    rows = [(*_named(one.row), *(_percentiles(one.network[at]) for at in run.weathers)) for one in run.rows]
    counts = {f"{at.loss * 100:g} %": run.rows[0].network[at].handshakes for at in run.weathers}
    note = (
        "Milliseconds from the first byte of the ClientHello until the client is done, median / p90 / p99; the "
        "connection of TCP takes one round trip before. Columns: round trip time, packets lost each way. Handshakes of "
        f"each row: {', '.join(f'{count} at {loss} loss' for loss, count in counts.items())}."
    )
    return Grid("Time to handshake", (*_NAMES, *(at.label for at in run.weathers)), tuple(rows), (note,))


def _percentiles(times: Times) -> str:
    """Write times."""
    return f"{times.median_ms:,.0f} / {times.p90_ms:,.0f} / {times.p99_ms:,.0f}"


def _processors(run: Run) -> Grid:
    """Return the table of what happens on loopback."""
    columns = ("median", "p90", "verify", "of the handshake", "handshakes/s", "client CPU", "server CPU")
    rows = [
        (
            *_named(one.row),
            f"{one.loopback.median_ms * 1000:,.0f}",
            f"{one.loopback.p90_ms * 1000:,.0f}",
            f"{one.verify_us:,.0f}",
            f"{one.verify_overhead_percent:.2f} %",
            f"{one.handshakes_per_s:,.0f}",
            f"{one.loopback.client_cpu_us:,.0f}",
            f"{one.loopback.server_cpu_us:,.0f}",
        )
        for one in run.rows
    ]
    note = (
        f"TCP over loopback, µs; {run.rows[0].loopback.handshakes} handshakes of each row one after the other, in "
        "turns. Verify: median inside the callback that judges the server's certificates. Handshakes a second: with "
        f"{LANES} connections at once, one process for each side. CPU: of a whole process for one handshake, Python's "
        "share included. With pyopenssl OpenSSL verifies first and calls for each step, so that its own verification "
        "of chains is not within the callback."
    )
    return Grid("Processors", (*_NAMES, *columns), tuple(rows), (note,))
