"""How the figures come about: batches of every row in turns, over loopback first, then along the ways.

Turns are short, so that whatever else the machine does meets all rows alike, and ratios within a run mean something.
"""

import contextlib
import statistics
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from mtc.cli.bench_handshake.cases import BACK_ENDS, Row, make_credentials, rows_of, write_cases
from mtc.cli.bench_handshake.figures import RowFigures, Tally, Times, Wire, compress
from mtc.cli.bench_handshake.kinds import Credential
from mtc.cli.bench_handshake.link import CLIENT, SERVER, Link, Weather
from mtc.cli.bench_handshake.processes import Pair, running_pair
from mtc.errors import Reason, UsageError
from mtc.simulate import simulate, web_scenario
from mtc.tls import describe_back_ends

LOOPBACK = "127.0.0.1"
LANES = 4
"""Connections at once where throughput is measured: client and server always have something to do."""
_TURN_HANDSHAKES = 20
"""Handshakes of a row before the next row's turn over loopback."""
_WAY_TURNS = 4
_WARM_UP = 10
_LANE_S = 0.020
"""A way with a longer round trip than this takes more connections at once, so that processors stay equally idle."""
_LEAST_HANDSHAKES = 5
_LOSSY_PART, _LOSSLESS_PART = 2, 8
"""Handshakes along a way take longer than over loopback, so that there are fewer; without loss they hardly differ."""

SIMULATED_CAS = 100
_PROVEN = {"landmark_bytes": 675, "proof_bytes": 4900}
"""Bytes of updates for clients that verify proofs themselves, as docs/simulation.md has them."""


@dataclass(frozen=True, slots=True)
class Updates:
    """Bytes of landmark updates for each handshake of a client, by `mtc simulate landmarks` and its default scenario.

    signed: from a service that is trusted by choice. proven: with proofs that the client verifies.
    """

    signed: float
    proven: float

    @staticmethod
    def simulated() -> "Updates":
        """Calculate them; takes seconds."""
        scenario = web_scenario(cas=SIMULATED_CAS)
        proven = replace(scenario, service=replace(scenario.service, **_PROVEN))  # type: ignore[arg-type]  # its fields
        return Updates(simulate(scenario).handshake_bytes.updates, simulate(proven).handshake_bytes.updates)


def choose_rows(back_ends: Sequence[str]) -> tuple[Row, ...]:
    """Return the rows of the back ends that are named, or of all that work here. Raises UsageError for another one."""
    found = {one.name: one for one in describe_back_ends() if one.name in BACK_ENDS}
    for name in back_ends:
        if name not in found:
            raise UsageError(Reason.USAGE, f"there is no TLS back end {name!r}; there are {', '.join(found)}")
        if not found[name].is_usable:
            raise UsageError(Reason.UNSUPPORTED, f"TLS back end {name} does not work here: {found[name].why}")
    chosen = [
        name for name in BACK_ENDS if name in found and found[name].is_usable and (name in back_ends or not back_ends)
    ]
    rows = tuple(row for name in chosen for row in rows_of(BACK_ENDS[name], has_ml_dsa=found[name].has_ml_dsa))
    if not rows:
        raise UsageError(Reason.UNSUPPORTED, "no TLS back end works here; mtc doctor says why")
    return rows


@contextlib.contextmanager
def prepared(rows: Sequence[Row]) -> Iterator[tuple[dict[Row, Credential], Path]]:
    """Make credentials and the file of them, which is gone afterwards."""
    credentials = make_credentials(rows)
    with tempfile.TemporaryDirectory(prefix="mtc-bench-") as folder:
        path = Path(folder) / "cases.json"
        write_cases(path, credentials)
        yield credentials, path


def measure_loopback(
    credentials: Mapping[Row, Credential], cases: Path, handshakes: int, tick: Callable[[], None]
) -> dict[Row, RowFigures]:
    """Measure all rows over loopback. handshakes: of each row, and as many again for throughput."""
    single: dict[Row, Tally] = {row: Tally() for row in credentials}
    crowded: dict[Row, Tally] = {row: Tally() for row in credentials}
    turns = loopback_turns(handshakes)
    with running_pair(cases, LOOPBACK) as pair:
        _warm_up(pair, credentials, handshakes)
        for turn in range(turns):
            # Every other turn runs backwards: a row's neighbours, and a drift of the machine, cancel.
            for row in list(credentials)[:: -1 if turn % 2 else 1]:
                single[row].add(*pair.shake(row.name, handshakes // turns))
                crowded[row].add(*pair.shake(row.name, handshakes // turns, lanes=LANES))
                tick()
    return {row: _figures(row, credentials[row], single[row], crowded[row]) for row in credentials}


def loopback_turns(handshakes: int) -> int:
    """Return how many turns each row has over loopback."""
    return max(handshakes // _TURN_HANDSHAKES, 1)


def _warm_up(pair: Pair, rows: Iterable[Row], handshakes: int) -> None:
    """Shake hands with every row before anything counts."""
    for row in rows:
        pair.shake(row.name, min(_WARM_UP, handshakes))


def _figures(row: Row, credential: Credential, single: Tally, crowded: Tally) -> RowFigures:
    """Put the loopback's figures together."""
    # The server of pyOpenSSL has no way to acknowledge.
    message = credential.certificate_message(is_acknowledged=row.kind.is_mtc and row.back_end == "stdlib")
    return RowFigures(
        row=row,
        client_bytes=round(statistics.median(one.sent_bytes for one in single.shakes)),
        server_bytes=round(statistics.median(one.received_bytes for one in single.shakes)),
        certificate_bytes=len(message),
        compressed_bytes=compress(message),
        loopback=Times.of(single),
        verify_us=statistics.median(one.verify_s for one in single.shakes) * 1e6,
        handshakes_per_s=statistics.median(crowded.rates),
    )


def measure_network(  # noqa: PLR0913 - what is measured, and along which way
    figures: Mapping[Row, RowFigures],
    cases: Path,
    link: Link,
    weathers: Sequence[Weather],
    handshakes: int,
    tick: Callable[[], None],
) -> dict[Row, RowFigures]:
    """Measure all rows along a link in every weather. handshakes: of each row half as many where packets are lost."""
    results: dict[Row, dict[Weather, Tally]] = {row: {weather: Tally() for weather in weathers} for row in figures}
    with running_pair(
        cases, link.address, client_prefix=link.prefix(CLIENT), server_prefix=link.prefix(SERVER)
    ) as pair:
        link.set_weather(Weather(0.0, 0.0))
        _warm_up(pair, figures, handshakes)
        for weather in weathers:
            link.set_weather(weather)
            part = handshakes // (_LOSSY_PART if weather.loss else _LOSSLESS_PART)
            turns = min(_WAY_TURNS, max(part // _LEAST_HANDSHAKES, 1))
            lanes = max(round(weather.rtt_s / _LANE_S), 1)
            for _ in range(turns):
                for row in figures:
                    count = max(part // turns, 1)
                    batch = pair.shake(row.name, count, lanes=min(lanes, count), rtt_s=weather.rtt_s)
                    results[row][weather].add(*batch)
                    tick()
    return {row: _along(figures[row], tallies, link.header_bytes) for row, tallies in results.items()}


def network_ticks(rows: int, weathers: int) -> int:
    """Return at most how often `measure_network` ticks."""
    return rows * weathers * _WAY_TURNS


def _along(figures: RowFigures, tallies: Mapping[Weather, Tally], header_bytes: int) -> RowFigures:
    """Add what was measured along a link: bytes and round trips where nothing was lost, by the longest round trip."""
    calm = [weather for weather in tallies if not weather.loss]
    wire, round_trips = None, None
    if calm:
        longest = max(calm, key=lambda weather: weather.rtt_s)
        wire = Wire.of(tallies[longest], header_bytes)
        round_trips = round(statistics.median(one.round_trips for one in tallies[longest].shakes))
    return replace(
        figures,
        wire=wire,
        round_trips=round_trips,
        network={weather: Times.of(tally) for weather, tally in tallies.items()},
    )
