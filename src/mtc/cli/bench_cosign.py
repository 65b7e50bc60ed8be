"""`mtc bench cosign`: what cosigners cost a round, and what they take themselves, each in a process of its own.

A round is measured from the first entry that waits to the published checkpoint with all cosignatures; with a quorum of
n local mirrors all n must have stored its entries durably, and have signed checkpoint and subtrees.
"""

import asyncio
import itertools
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random

from mtc.ca.config import CONFIG_NAME, CAConfig, format_config
from mtc.ca.cosigning.config import CosignerTable, CosigningConfig, QuorumTable
from mtc.ca.folder import create_folder
from mtc.ca.service import RunningCA, open_ca
from mtc.cert import CACertificate
from mtc.cli.bench_ca import machine_name, make_entries, print_figures, progress
from mtc.cli.bench_processes import (
    REQUEST_ENTRIES,
    Target,
    make_cosigner,
    measure_mirror,
    measure_witness,
    running_cosigner,
)
from mtc.cli.hammer.synthetic import SyntheticLog
from mtc.cli.hammer.throwaway import read_logs
from mtc.cli.verify import find_certificate
from mtc.cosign.config import Role
from mtc.cosign.logs import KnownCA, KnownLog
from mtc.crypto import generate_key, parse_signature_algorithm
from mtc.errors import Error, FormatError, PeerError, Reason, UsageError
from mtc.ids import TrustAnchorID
from mtc.kernel import active_kernel
from mtc.log.formats import public_prefix
from mtc.note import SignatureType, VerifierKey, open_note
from mtc.web.memory import rare_collections
from mtc.web.server import loop_factory

QUORUMS = (0, 1, 3, 5)
ROUND_ENTRIES = 100
ENTRY_BYTES = 250
WITNESS_LOGS = 8
MIRROR_LOGS = 2
_WARM_UP = 5
_TURN_ROUNDS = 5
_LEAST_ROUNDS = 20
_ROUND_TICKS = 10
_MOST_CHECKPOINTS_PER_S = 3000
_REQUESTS_PER_S = 6
_TURNS = 3
_FIGURES = {Role.WITNESS: "witness_checkpoints_per_s", Role.MIRROR: "mirror_entries_per_s"}
_OWN_NUMBERS = {Role.WITNESS: 300, Role.MIRROR: 301}
_YARDSTICK_S = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class CosignBenchOptions:
    """What is measured. seconds: about, for each figure. folder: where everything lies, to choose the disk.

    quorums: numbers of mirrors that a round needs; 0 is the base. foreign_witnesses, foreign_mirrors: `URL,vkey`, which
    know the logs of `log_key`.
    """

    seconds: float = 5.0
    quorums: tuple[int, ...] = QUORUMS
    folder: str | None = None
    log_key: str | None = None
    foreign_witnesses: tuple[str, ...] = ()
    foreign_mirrors: tuple[str, ...] = ()
    as_json: bool = False


def run_bench_cosign(options: CosignBenchOptions) -> None:
    """Measure, and print the figures."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        print_figures(runner.run(_measure(options)), as_json=options.as_json)


async def _measure(options: CosignBenchOptions) -> dict[str, object]:
    """Measure everything; return the figures."""
    foreign = {
        Role.WITNESS: [parse_target(text) for text in options.foreign_witnesses],
        Role.MIRROR: [parse_target(text) for text in options.foreign_mirrors],
    }
    if any(foreign.values()) and options.log_key is None:
        raise UsageError(
            Reason.USAGE, "foreign cosigners must know the logs: make them with mtc hammer --make-log, and --log-key"
        )
    path = Path(tempfile.mkdtemp(prefix="mtc-bench-", dir=options.folder))
    try:
        # The cosigners' start, the rounds, and the turns of each role.
        steps = 1 + _ROUND_TICKS + _TURNS * len(foreign)
        with progress("cosigning", steps) as advance:
            done = itertools.count(1)

            def tick() -> None:
                advance(next(done))

            rounds = await measure_rounds(path, options.quorums, options.seconds, tick)
            rates: dict[str, object] = {}
            for role, others in foreign.items():
                rates |= await _measure_role(path, role, options, others, tick)
    finally:
        shutil.rmtree(path, ignore_errors=True)
    return {
        "round_p50_ms": {str(number): _ms(_percentile(times, 50)) for number, times in rounds.items()},
        "round_p99_ms": {str(number): _ms(_percentile(times, 99)) for number, times in rounds.items()},
        "round_added_p50_ms": {
            str(number): _ms(_percentile(times, 50) - _percentile(rounds[0], 50))
            for number, times in rounds.items()
            if number
        },
        **rates,
        "rounds": {str(number): len(times) for number, times in rounds.items()},
        "entries_per_round": ROUND_ENTRIES,
        "entry_bytes": ENTRY_BYTES,
        **yardsticks(),
        "kernel": active_kernel().name,
        "machine": machine_name(),
    }


# Rounds with a quorum.


async def measure_rounds(
    path: Path, quorums: Sequence[int], seconds: float, tick: Callable[[], None]
) -> dict[int, list[float]]:
    """Return the seconds that each round took, by the number of mirrors that it needed."""
    numbers = range(1, max(quorums) + 1)
    cas = {number: CAConfig(ca_id=TrustAnchorID.parse(f"32473.{100 + number}"), listen=None) for number in quorums}
    for number, config in cas.items():
        create_folder(path / f"ca-{number}", config, None, datetime.now(UTC))
    known = [KnownCA(key=_key_of(path / f"ca-{number}")) for number in quorums if number]
    keys = {number: make_cosigner(path / f"mirror-{number}", Role.MIRROR, 200 + number, known) for number in numbers}
    async with AsyncExitStack() as stack:
        tables = []
        for number in numbers:
            url = await stack.enter_async_context(running_cosigner(path / f"mirror-{number}", Role.MIRROR))
            tables.append(CosignerTable(name=f"mirror-{number}", role=Role.MIRROR, key=keys[number][0], url=url))
        tick()
        # As in `mtc ca serve`.
        stack.enter_context(rare_collections())
        running = {
            number: await stack.enter_async_context(
                open_ca(_configured(path / f"ca-{number}", cas[number], number, tables))
            )
            for number in quorums
        }
        results = await _take_turns(running, seconds * len(quorums), tick)
        for number, ca in running.items():
            await _check_cosigned(ca, [table.key for table in tables[:number] if table.key is not None])
    return results


def _configured(folder: Path, config: CAConfig, quorum: int, tables: Sequence[CosignerTable]) -> Path:
    """Write a CA's configuration with as many cosigners as it needs, all of them; return its folder."""
    if quorum:
        cosigning = CosigningConfig(tables=tuple(tables[:quorum]), rule=QuorumTable(at_least=quorum))
        (folder / CONFIG_NAME).write_text(format_config(replace(config, cosigning=cosigning)))
    return folder


async def _take_turns(
    running: Mapping[int, RunningCA], seconds: float, tick: Callable[[], None]
) -> dict[int, list[float]]:
    """Time rounds of each CA in turns, so that whatever else the machine does meets all of them alike."""
    results: dict[int, list[float]] = {number: [] for number in running}
    chance, began, ticks = Random(1), time.perf_counter(), 0  # noqa: S311 - made-up entries
    for ca in running.values():
        for _ in range(_WARM_UP):
            await _time_round(ca, chance)
    while (passed := time.perf_counter() - began) < seconds or min(map(len, results.values())) < _LEAST_ROUNDS:
        for number, ca in running.items():
            results[number] += [await _time_round(ca, chance) for _ in range(_TURN_ROUNDS)]
        while ticks < min(int(passed / seconds * _ROUND_TICKS), _ROUND_TICKS):
            ticks += 1
            tick()
    return results


async def _time_round(ca: RunningCA, chance: Random) -> float:
    """Return the seconds that a round took, from the moment when its entries wait."""
    waiting = asyncio.create_task(ca.log.submit(make_entries(ROUND_ENTRIES, chance)))
    await asyncio.sleep(0)
    start = time.perf_counter()
    while not waiting.done():
        await ca.log.run_round()
        await asyncio.sleep(0)
    passed = time.perf_counter() - start
    await waiting
    return passed


def _key_of(folder: Path) -> VerifierKey:
    """Return the key of the CA in a folder."""
    certificate = CACertificate.parse(find_certificate((folder / "ca.pem").read_bytes()))
    key = certificate.public_key.public_key
    return VerifierKey.from_spki(certificate.ca_id.oid_name, SignatureType.COSIGNATURE_MLDSA44, key)


async def _check_cosigned(ca: RunningCA, keys: Sequence[VerifierKey]) -> None:
    """Raise PeerError unless the published checkpoint carries the signatures of all."""
    (data,) = await ca.parts.storage.objects.fetch([f"{public_prefix(ca.log.record.log_number)}checkpoint"])
    opened = open_note(data or b"", [ca.parts.key, *keys])
    missing = [str(key) for key in (ca.parts.key, *keys) if not opened.is_signed_by(key)]
    if missing:
        raise PeerError(Reason.POLICY_NOT_MET, f"the last round is not signed by {', '.join(missing)}")


# What cosigners take.


async def _measure_role(
    path: Path, role: Role, options: CosignBenchOptions, others: Sequence[Target], tick: Callable[[], None]
) -> dict[str, object]:
    """Measure our witness or our mirror and those of others, in turns; return the medians."""
    logs = make_logs(options)
    folder, seconds = path / f"own-{role}", options.seconds / _TURNS
    keys = make_cosigner(folder, role, _OWN_NUMBERS[role], [KnownLog(log.origin, (log.key,)) for log in logs])
    results: dict[str, list[float]] = {}
    failures: dict[str, str] = {}
    async with running_cosigner(folder, role) as url:
        own = Target("", url, keys)
        for _ in range(_TURNS):
            for target in (own, *others):
                try:
                    rate = await _measure_once(role, target, logs, seconds)
                except Error as error:
                    # What another program cannot do costs its own figure only.
                    if target is own:
                        raise
                    failures[target.name] = error.message
                else:
                    results.setdefault(target.name, []).append(rate)
            tick()
    name = _FIGURES[role]
    medians = {name: round(statistics.median(rates)) for name, rates in results.items()}
    figures: dict[str, object] = {name: medians.pop("")}
    if medians:
        figures[f"foreign_{name}"] = medians
    if failures:
        figures[f"foreign_{role}_failures"] = failures
    return figures


async def _measure_once(role: Role, target: Target, logs: Sequence[SyntheticLog], seconds: float) -> float:
    """Return what a cosigner takes a second."""
    if role is Role.WITNESS:
        return await measure_witness(target, logs, seconds, _MOST_CHECKPOINTS_PER_S)
    return await measure_mirror(target, logs[:MIRROR_LOGS], max(int(seconds * _REQUESTS_PER_S), 2))


def make_logs(options: CosignBenchOptions) -> list[SyntheticLog]:
    """Return the logs whose checkpoints and entries are sent: those of `log_key`, or new ones."""
    if options.log_key is not None:
        return read_logs(options.log_key, [], None)
    signer = generate_key(parse_signature_algorithm("ml-dsa-44"))
    return [SyntheticLog(f"bench.invalid/{number}", signer, ENTRY_BYTES) for number in range(1, WITNESS_LOGS + 1)]


def parse_target(text: str) -> Target:
    """Read `URL,vkey`. Raises UsageError."""
    url, comma, vkey = text.partition(",")
    try:
        key = VerifierKey.parse(vkey)
    except FormatError as error:
        raise UsageError(error.reason, f"{text[:80]!r}: write URL,vkey; {error.message}") from None
    if not comma or not url.startswith(("http://", "https://")):
        raise UsageError(Reason.USAGE, f"{text[:80]!r}: write URL,vkey")
    return Target(key.name, url.rstrip("/"), (key,))


# Yardsticks, and figures.


def yardsticks() -> dict[str, int]:
    """Return what one core of this machine does, in the same run: what a checkpoint and an entry cost at least."""
    signer = generate_key(parse_signature_algorithm("ml-dsa-44"))
    key = VerifierKey.from_spki("bench.invalid", SignatureType.COSIGNATURE_MLDSA44, signer.public_key)
    hasher, entries = active_kernel().hasher("sha256"), [bytes(ENTRY_BYTES)] * REQUEST_ENTRIES

    def verify_and_sign() -> None:
        key.verifier.verify(b"message", signer.sign_now(b"message"))

    return {
        "mldsa44_sign_and_verify_per_s": round(_rate(verify_and_sign)),
        "leaf_hashes_per_s": round(_rate(lambda: hasher.leaves(entries)) * len(entries)),
    }


def _rate(work: Callable[[], object]) -> float:
    """Return how often a second something can be done."""
    began, count = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < _YARDSTICK_S or not count:
        work()
        count += 1
    return count / passed


def _percentile(times: Sequence[float], percent: int) -> float:
    """Return a percentile of at least two values."""
    return statistics.quantiles(times, n=100, method="inclusive")[percent - 1]


def _ms(seconds: float) -> float:
    """Return milliseconds."""
    return round(seconds * 1000, 2)
