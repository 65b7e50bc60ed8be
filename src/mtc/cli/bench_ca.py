"""`mtc bench log` and `mtc bench issue`: a CA on files and SQLite with every write synced, its key in its own process.

Nothing is taken away for the measurement: entries are sequenced, staged, decided, published, signed, and served from
the folder when they count; certificates are made as the API makes them, lint included.
"""

import asyncio
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from mtc.ca.authority import Issued
from mtc.ca.certificates import LogContext, Wanted, landmark_relative_certificates
from mtc.ca.config import CAConfig
from mtc.ca.folder import create_folder
from mtc.ca.proofs import LogReader
from mtc.ca.requests import IssuanceRequest
from mtc.ca.service import RunningCA, open_ca
from mtc.cert import EntryType
from mtc.cli.output import console, error_console, shown, table
from mtc.errors import Error, Reason, UsageError
from mtc.ids import TrustAnchorID
from mtc.kernel import active_kernel
from mtc.log import PendingEntry
from mtc.log.formats import public_prefix
from mtc.web.memory import rare_collections

CHUNK = 2500
"""Entries handed in together."""
ROUND_ENTRIES = 25_000
"""Entries that are let into the pool before the next round begins."""
ISSUE_CHUNK = 500
KEYS = 100
"""A divisor of `ISSUE_CHUNK`, so that the entry with index i has key i modulo it, whichever chunk came first."""
_MARKS = (10_000, 100_000, 1_000_000, 10_000_000)
_MEBIBYTE = 1024


@dataclass(slots=True)
class LogFigures:
    """What `mtc bench log` measured. segments: entries a second between marks of the tree size."""

    entries: int = 0
    seconds: float = 0.0
    rounds: list[float] = field(default_factory=list)
    segments: dict[str, float] = field(default_factory=dict)
    _began: float = 0.0
    _mark: tuple[int, float] = (0, 0.0)

    def start(self, now: float) -> None:
        """Begin to count."""
        self._began, self._mark = now, (0, now)

    def note(self, tree_size: int, start: float, end: float) -> None:
        """Count a round."""
        self.rounds.append(end - start)
        if any(self._mark[0] < bound <= tree_size for bound in _MARKS):
            self._end_segment(tree_size, end)

    def finish(self, tree_size: int, now: float) -> None:
        """Count no more."""
        self.entries, self.seconds = tree_size, now - self._began
        if self._mark[0] < tree_size:
            self._end_segment(tree_size, now)

    def _end_segment(self, tree_size: int, now: float) -> None:
        size, since = self._mark
        self.segments[f"{size}-{tree_size}"] = (tree_size - size) / (now - since)
        self._mark = (tree_size, now)


@asynccontextmanager
async def bench_ca(folder: str | None) -> AsyncIterator[RunningCA]:
    """Make a CA in a temporary folder, and remove it at the end. folder: where, so that the disk can be chosen."""
    try:
        path = Path(tempfile.mkdtemp(prefix="mtc-bench-", dir=folder))
    except OSError as error:
        raise UsageError(Reason.UNREADABLE, f"no folder can be made in {folder}: {error.strerror}") from None
    try:
        config = CAConfig(ca_id=TrustAnchorID.parse("32473.1"), listen=None)
        create_folder(path, config, None, datetime.now(UTC))
        # As in `mtc ca serve`.
        with rare_collections():
            async with open_ca(path) as ca:
                yield ca
    finally:
        shutil.rmtree(path, ignore_errors=True)


def peak_rss_mb(pid: int | str = "self") -> float | None:
    """Return the largest resident set of a process so far, MiB; None where the system does not tell."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) / _MEBIBYTE, 1)
    except OSError:
        pass
    return None


def make_entries(count: int, chance: random.Random) -> list[PendingEntry]:
    """Make entries as large as those of usual certificates, each with a request key. Costs about 1 µs each."""
    noise = chance.randbytes(48 * count)
    head, tail = b"\xa0\x03\x02\x01\x02" + bytes(115), bytes(80)
    return [
        PendingEntry(EntryType.TBS_CERT, head + noise[at : at + 32] + tail, 0, noise[at + 32 : at + 48])
        for at in range(0, 48 * count, 48)
    ]


async def measure_log(
    ca: RunningCA, seconds: float, most: int | None, tell: Callable[[int, float], None]
) -> LogFigures:
    """Sequence entries, round after round, for a time or up to a number. tell: hears entries and seconds so far."""
    log, figures, chance = ca.log, LogFigures(), random.Random(1)  # noqa: S311 - made-up entries
    waiting: set[asyncio.Task[object]] = set()
    began = time.perf_counter()

    def is_over() -> bool:
        done = log.record.tree_size
        return done >= most if most is not None else time.perf_counter() - began >= seconds

    async def feed() -> None:
        while not is_over():
            if log.waiting < ROUND_ENTRIES and (most is None or log.record.tree_size + log.waiting < most):
                task = asyncio.create_task(log.submit(make_entries(CHUNK, chance)))
                waiting.add(task)
                task.add_done_callback(waiting.discard)
                await asyncio.sleep(0)
            else:
                await asyncio.sleep(0.002)

    feeder = asyncio.create_task(feed())
    figures.start(began)
    while not feeder.done() or log.waiting:
        start = time.perf_counter()
        if await log.run_round() is None:
            await asyncio.sleep(0.001)
            continue
        now = time.perf_counter()
        figures.note(log.record.tree_size, start, now)
        tell(log.record.tree_size, now - began)
    await feeder
    await asyncio.gather(*waiting)
    await log.ledger.settle()
    figures.finish(log.record.tree_size, time.perf_counter())
    return figures


def run_bench_log(*, as_json: bool, seconds: float, entries: int | None, folder: str | None) -> None:
    """Measure the sequencer, and print the figures."""

    async def work() -> dict[str, object]:
        async with bench_ca(folder) as ca:
            with progress("sequencing", entries or seconds) as advance:
                figures = await measure_log(
                    ca, seconds, entries, lambda size, passed: advance(size if entries else passed)
                )
            signer = next(iter(_children(os.getpid())), None)
            return {
                "entries_per_s": round(figures.entries / figures.seconds),
                "peak_rss_mb": peak_rss_mb(),
                "signer_peak_rss_mb": None if signer is None else peak_rss_mb(signer),
                "entries": figures.entries,
                "seconds": round(figures.seconds, 2),
                "rounds": len(figures.rounds),
                "round_ms_median": round(statistics.median(figures.rounds) * 1000, 1),
                "entries_per_s_by_tree_size": {name: round(rate) for name, rate in figures.segments.items()},
                "kernel": active_kernel().name,
                "machine": machine_name(),
            }

    print_figures(asyncio.run(work()), as_json=as_json)


def make_requests(count: int, keys: Sequence[bytes], start: int) -> list[IssuanceRequest]:
    """Make requests with two names each, all different."""
    return [
        IssuanceRequest(
            spki=keys[number % len(keys)],
            dns_names=(f"host-{number}.example.com", f"www.host-{number}.example.com"),
            request_key=b"bench-%d" % number,
        )
        for number in range(start, start + count)
    ]


async def measure_standalone(
    ca: RunningCA, seconds: float, keys: Sequence[bytes], tell: Callable[[int, float], None]
) -> tuple[int, float]:
    """Issue standalone certificates for a time; return how many, and the seconds."""
    began = time.perf_counter()
    issued = 0
    number = 0
    waiting: set[asyncio.Task[Sequence[Issued | Error]]] = set()

    def count(task: asyncio.Task[Sequence[Issued | Error]]) -> None:
        nonlocal issued
        waiting.discard(task)
        results = task.result()
        errors = [item for item in results if isinstance(item, Error)]
        if errors:
            raise errors[0]
        issued += len(results)

    while time.perf_counter() - began < seconds:
        while len(waiting) < 8:
            task = asyncio.create_task(ca.issue(make_requests(ISSUE_CHUNK, keys, number)))
            number += ISSUE_CHUNK
            waiting.add(task)
            task.add_done_callback(count)
        await asyncio.sleep(0.005)
        await ca.log.run_round()
        tell(issued, time.perf_counter() - began)
    while waiting:
        await ca.log.run_round()
        await asyncio.sleep(0.002)
    return issued, time.perf_counter() - began


async def measure_landmark_relative(
    ca: RunningCA, seconds: float, keys: Sequence[bytes], tell: Callable[[int, float], None], *, is_random: bool
) -> tuple[int, float]:
    """Make landmark-relative certificates from the tiles for a time; return how many, and the seconds."""
    view = await ca.landmarks_of(ca.log.record.log_number)
    record = ca.log.record
    config = ca.parts.folder.config
    reader = LogReader(ca.parts.hasher, ca.parts.storage.objects, public_prefix(record.log_number))
    context = LogContext(record.log_number, view.head, reader, config.revision)
    order = list(range(view.sequence.latest.tree_size))
    if is_random:
        random.Random(1).shuffle(order)  # noqa: S311 - an order
    made, now = 0, ca.parts.clock.now()
    began = time.perf_counter()
    while time.perf_counter() - began < seconds:
        at = made % len(order)
        wanted = [Wanted(index, keys[index % len(keys)]) for index in order[at : at + 4 * ISSUE_CHUNK]]
        made += len(await landmark_relative_certificates(context, view.sequence, wanted, now))
        tell(made, time.perf_counter() - began)
    return made, time.perf_counter() - began


def run_bench_issue(*, as_json: bool, seconds: float, folder: str | None) -> None:
    """Measure issuance, and print the figures."""

    async def work() -> dict[str, object]:
        keys = [
            generate_private_key(SECP256R1()).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
            for _ in range(KEYS)
        ]
        async with bench_ca(folder) as ca:
            with progress("issuing", 3 * seconds) as advance:
                standalone = await measure_standalone(ca, seconds, keys, lambda _, passed: advance(passed))
                await ca.landmarks.tick()
                results = {}
                for number, name in enumerate(("sequential", "random"), 1):
                    results[name] = await measure_landmark_relative(
                        ca,
                        seconds,
                        keys,
                        lambda _, passed, number=number: advance(number * seconds + passed),  # type: ignore[misc]
                        is_random=name == "random",
                    )
            return {
                "standalone_per_s": round(standalone[0] / standalone[1]),
                "landmark_relative_per_s": round(results["sequential"][0] / results["sequential"][1]),
                "landmark_relative_random_per_s": round(results["random"][0] / results["random"][1]),
                "peak_rss_mb": peak_rss_mb(),
                "standalone": standalone[0],
                "tree_size": ca.log.record.tree_size,
                "kernel": active_kernel().name,
                "machine": machine_name(),
            }

    print_figures(asyncio.run(work()), as_json=as_json)


def _children(pid: int) -> Iterator[int]:
    """Yield the children of a process."""
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            yield from map(int, (task / "children").read_text().split())
    except OSError:
        return


def machine_name() -> str:
    """Name the machine in a few words."""
    model = "unknown processor"
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    return f"{os.cpu_count()} cores of {model}, Python {sys.version.split()[0]}"


@contextmanager
def progress(text: str, total: float) -> Iterator[Callable[[float], None]]:
    """Show a bar on a terminal; `advance` takes how much is done."""
    bar = Progress(TextColumn(text), BarColumn(), TimeElapsedColumn(), console=error_console(), transient=True)
    bar.disable = not error_console().is_terminal
    with bar:
        task = bar.add_task(text, total=total)
        yield lambda done: bar.update(task, completed=done)


def print_figures(figures: Mapping[str, object], *, as_json: bool) -> None:
    """Print figures as JSON or as a table."""
    if as_json:
        sys.stdout.write(json.dumps(figures) + "\n")
        return
    rows = table("figure", "value", numeric=(1,))
    for name, value in figures.items():
        if isinstance(value, dict):
            for part, number in value.items():
                shown_number = f"{number:,}" if isinstance(number, int | float) else shown(str(number))
                rows.add_row(f"{name.replace('_', ' ')} {shown(part)}", shown_number)
        else:
            shown_value = f"{value:,}" if isinstance(value, int | float) else str(value)
            rows.add_row(name.replace("_", " "), shown_value)
    console().print(rows)
