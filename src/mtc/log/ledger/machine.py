"""What the ledger decides: when rounds are sealed, which runs are merged, and what pruning forgets.

Runs are merged as in a log-structured merge tree: as soon as `fan_out` neighbours of one level are there, they become
one run of the next level. So there are few runs, and each key is merged a few times only, however large the log is.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from mtc.errors import ConflictError, Reason
from mtc.kernel import FINGERPRINT_BYTES, RECORD_BYTES, Kernel, KeyFilter
from mtc.log.ledger.formats import SignedRound
from mtc.log.ledger.pages import MAX_BUCKET_BITS, KeyTable, Manifest, Page, Run, page_key, table_key


@dataclass(frozen=True, slots=True, kw_only=True)
class LedgerLimits:
    """Numbers of a ledger; a ledger written with others is read all the same.

    page_entries, page_rounds: a page is sealed when it has so many of one or the other. fan_out: runs of one level that
    are merged into one, at least 2. bucket_records: how many a bucket has at most, about; 14 bytes each. backlog: how
    many full pages may wait for sealing before a round has to wait. cached_bytes: of sealed objects kept in memory.
    """

    page_entries: int = 32_768
    page_rounds: int = 512
    fan_out: int = 8
    bucket_records: int = 65_536
    backlog: int = 2
    cached_bytes: int = 8 << 20


@dataclass(frozen=True, slots=True)
class Step:
    """One step of sealing: once `objects` are stored, `manifest` may be. filters: of its new runs.

    objects: bodies by key.
    """

    manifest: Manifest
    objects: Mapping[str, bytes]
    filters: Mapping[Run, KeyFilter]


def plan_seal(
    kernel: Kernel, limits: LedgerLimits, log_number: int, manifest: Manifest, rounds: Sequence[SignedRound]
) -> Step:
    """Plan to pack rounds, the first that are not sealed, into a page, its table of keys, and a run of level 0."""
    start, end = rounds[0].old_size, rounds[-1].new_size
    keys: list[bytes] = []
    if any(round_.indices for round_ in rounds):
        for round_ in rounds:
            keys += round_.keys or [b""] * (round_.new_size - round_.old_size)
    objects = {
        page_key(log_number, start, end): Page.encode(rounds),
        table_key(log_number, start, end): KeyTable.encode(start, keys),
    }
    run, key_filter, made = index_keys(kernel, limits, log_number, start, end, keys)
    runs, filters = manifest.runs, {}
    if run.count:
        runs, filters = (*runs, run), {run: key_filter}
        objects |= made
    following = replace(_next(manifest), page_ends=manifest.page_ends + array("Q", [end]), runs=runs)
    return Step(following, objects, filters)


def index_keys(  # noqa: PLR0913 - a page and where it belongs
    kernel: Kernel, limits: LedgerLimits, log_number: int, start: int, end: int, keys: Sequence[bytes]
) -> tuple[Run, KeyFilter, dict[str, bytes]]:
    """Return the run of level 0 over the keys of the page [start, end), its filter, and its objects by key."""
    records = kernel.key_records(keys, start)
    count = len(records) // RECORD_BYTES
    run = Run(start, end, 0, count, bucket_bits(count, limits))
    key_filter = kernel.key_filter(count)
    key_filter.add_many(records)
    objects = {
        run.bucket_key(log_number, bucket): slice_bucket(records, bucket, run.bucket_bits)
        for bucket in range(1 << run.bucket_bits)
    }
    objects[run.filter_key(log_number)] = key_filter.encode()
    return run, key_filter, objects


def plan_merge(manifest: Manifest, limits: LedgerLimits) -> tuple[Run, ...]:
    """Return the runs to be merged next, oldest first; empty when there are no `fan_out` neighbours of one level."""
    for _, group in groupby(reversed(manifest.runs), key=lambda run: run.level):
        neighbours = tuple(group)[::-1]
        if len(neighbours) >= limits.fan_out:
            return neighbours[: limits.fan_out]
    return ()


def merged_run(sources: Sequence[Run], limits: LedgerLimits) -> Run:
    """Return the run that the sources become, as large as it may get: pruned keys may yet be left out."""
    count = sum(run.count for run in sources)
    bits = max(bucket_bits(count, limits), *(run.bucket_bits for run in sources))
    return Run(sources[0].start, sources[-1].end, sources[0].level + 1, count, bits)


def after_merge(manifest: Manifest, sources: Sequence[Run], merged: Run) -> Manifest:
    """Return the manifest with `merged` in the place of its sources; without a record it has no place."""
    at = manifest.runs.index(sources[0])
    place = (merged,) if merged.count else ()
    runs = (*manifest.runs[:at], *place, *manifest.runs[at + len(sources) :])
    return replace(_next(manifest), runs=runs, dead_runs=tuple(sources))


def plan_prune(manifest: Manifest, below: int) -> Manifest | None:
    """Return the manifest that forgets the keys of whole pages below an index; None when it forgets nothing more."""
    place = bisect_right(manifest.page_ends, below)
    cut = manifest.page_ends[place - 1] if place else manifest.start
    if cut <= manifest.keys_from:
        return None
    return replace(
        _next(manifest),
        runs=tuple(run for run in manifest.runs if run.end > cut),
        dead_runs=tuple(run for run in manifest.runs if run.end <= cut),
        keys_from=cut,
    )


def _next(manifest: Manifest) -> Manifest:
    """Return the next generation, with nothing to be discarded."""
    return replace(manifest, generation=manifest.generation + 1, dead_runs=(), dead_from=manifest.keys_from)


def bucket_bits(count: int, limits: LedgerLimits) -> int:
    """Return how many bits choose the bucket in a run of `count` records."""
    return min(max(-(-count // limits.bucket_records) - 1, 0).bit_length(), MAX_BUCKET_BITS)


def bucket_of(fingerprint: bytes, bits: int) -> int:
    """Return the bucket of a fingerprint among 2^bits."""
    return int.from_bytes(fingerprint[:2], "big") >> (16 - bits)


def slice_bucket(records: bytes, bucket: int, bits: int) -> bytes:
    """Return those of sorted records that belong to a bucket among 2^bits."""
    places = range(len(records) // RECORD_BYTES)

    def bucket_at(place: int) -> int:
        return bucket_of(records[place * RECORD_BYTES : place * RECORD_BYTES + 2], bits)

    if not bits:
        return records
    first = bisect_left(places, bucket, key=bucket_at)
    last = bisect_right(places, bucket, key=bucket_at)
    return records[first * RECORD_BYTES : last * RECORD_BYTES]


def indices_of(records: bytes, fingerprint: bytes) -> list[int]:
    """Return the indices that sorted records have for a fingerprint; usually one or none."""

    def fingerprint_at(place: int) -> bytes:
        at = place * RECORD_BYTES
        return records[at : at + FINGERPRINT_BYTES]

    found = []
    for place in range(
        bisect_left(range(len(records) // RECORD_BYTES), fingerprint, key=fingerprint_at), len(records) // RECORD_BYTES
    ):
        if fingerprint_at(place) != fingerprint:
            break
        found.append(int.from_bytes(records[place * RECORD_BYTES + FINGERPRINT_BYTES : (place + 1) * RECORD_BYTES]))
    return found


def merge_records(kernel: Kernel, rows: Iterable[bytes], keys_from: int) -> bytes:
    """Merge sorted rows of records, and leave out those of entries below `keys_from`."""
    merged = kernel.sort_key_records(b"".join(rows))
    if not keys_from:
        return merged
    least = keys_from.to_bytes(RECORD_BYTES - FINGERPRINT_BYTES, "big")
    return b"".join(
        [
            merged[at : at + RECORD_BYTES]
            for at in range(0, len(merged), RECORD_BYTES)
            if merged[at + FINGERPRINT_BYTES : at + RECORD_BYTES] >= least
        ]
    )


def order_rounds(log_number: int, start: int, tree_size: int, rounds: Iterable[SignedRound]) -> list[SignedRound]:
    """Return the rounds in order, which must follow each other from `start` on and not lead beyond `tree_size`.

    Raises ConflictError for a hole, because the requests in it would be certified twice, and for rounds that the
    register does not know.
    """
    ordered = sorted(rounds, key=lambda round_: round_.new_size)
    at = start
    for round_ in ordered:
        if round_.old_size != at:
            raise hole(log_number, at, round_.old_size)
        at = round_.new_size
    if at > tree_size:
        raise beyond(log_number, at, tree_size)
    return ordered


def chain_pages(log_number: int, spans: Iterable[tuple[int, int]], tables: Collection[int]) -> tuple[list[int], int]:
    """Return the sizes from the start of the first page to the end of the last one, and where the keys begin.

    spans: [start, end) of the pages that were found; of two with one start the longer one counts. tables: the starts of
    the tables of keys that were found; only those of the first pages may be missing, because they were pruned. Raises
    ConflictError for pages that do not follow each other and for missing tables.
    """
    sizes: list[int] = []
    keys_from = 0
    for start, end in sorted(dict(sorted(spans)).items()):
        if not sizes:
            sizes = [start]
            keys_from = start
        if start != sizes[-1]:
            raise hole(log_number, sizes[-1], start)
        if start in tables:
            sizes.append(end)
            continue
        if keys_from != start:
            raise hole(log_number, start, end)
        sizes.append(end)
        keys_from = end
    return sizes, keys_from


def beyond(log_number: int, at: int, tree_size: int) -> ConflictError:
    """Make the error for a ledger that leads to entry `at`, beyond what the register knows."""
    return ConflictError(
        Reason.CONFLICT,
        f"the ledger of log {log_number} knows {at} entries, its register {tree_size}: the register is too old. "
        "Bring storage and register of the same moment back, or follow this log with the next one",
        log=log_number,
        expected=tree_size,
        got=at,
    )


def hole(log_number: int, at: int, found: int) -> ConflictError:
    """Make the error for rounds that do not follow each other."""
    return ConflictError(
        Reason.CONFLICT,
        f"the ledger of log {log_number} ends at {at} entries, and the next round begins at {found}; without the "
        "rounds between, their requests would be certified twice. Bring the ledger of this moment back, or follow this "
        "log with the next one",
        log=log_number,
        expected=at,
        got=found,
    )
