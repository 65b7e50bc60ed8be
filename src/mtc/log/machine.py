"""Sequencing: entries and a log's state give a batch, and a record with its staged round give the state back.

The order of a round, and what a crash means after each step:

1. *Stage* one object with everything the new tree needs. Crash: nobody refers to it; it is collected later.
2. *Swap* the register from the old record to the new one. Lost: another sequencer was faster; stop. Crash: the tree is
   decided, and recovery goes on with step 3.
3. *Publish* tiles and entry bundles from the staged object, and meanwhile *sign* exactly the tree of the record. Crash:
   the same bytes are published and the same tree is signed again; nothing else ever is.
4. Ask other cosigners, where there are any. Crash: they are asked again.
5. *Publish* the checkpoint. Crash: it is published again.
6. *Record* the round: which request became which entry, the checkpoint, the cosignatures. From here on the entries are
   acknowledged. Crash: it is recorded again from the staged object.
7. Discard the staged object. Crash: it is collected later.

A round whose entries rest on *evidence that ends* (validation of names, for example) is signed first and published
after, and a key that finds the evidence out of date refuses. An entry is issued when the key signs, so such a round was
never issued, nothing of it was ever published, and it is undone:

3a. *Sign*. Refused as stale: go on with 3b. No answer: nothing is undone, the key is asked again. Crash: it is asked
    again; a tree that it has signed it signs again, whatever the age.
3b. *Swap* the register back to the record before. Lost: another sequencer was faster; stop. Crash before: the key is
    asked again, and refuses again, because it remembers. Crash after: the log is what it was before the round.
3c. Discard the staged object. Crash: it is collected when the log has outgrown it.

A round whose tree is signed and whose *quorum of cosigners does not come* is waited for between 4 and 5. Where the log
may run ahead, it becomes a round that is owed instead:

4a. *Keep* it among the owed rounds. Crash: the round is still staged and is finished, with the quorum or again without.
5., 6. as above, with the signatures that there are. Crash: as above; requests are not acknowledged while it is owed.
    Later the cosignatures come:
6a. *Record* the round again, with all signatures. Crash: the cosigners are asked once more.
6b. Acknowledge, and discard it from the owed rounds. Crash: as after 6a.

An entry's index, and what depends on it, is assigned in `plan_batch` and nowhere else. A batch is never changed after
it was staged: a sequencer that fails before step 2 plans anew, one that fails after it recovers.

Spec: Merkle Tree Certificates, "Issuance Logs", "Issuing Standalone Certificates".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mtc.cert import MAX_ENTRY_BYTES, EntryExtension, LogEntry
from mtc.errors import ConflictError, FormatError, ProofError, Reason, UsageError
from mtc.ids import DEFAULT_REVISION, DraftRevision
from mtc.log.formats import MAX_REQUEST_KEY_BYTES, LogRecord, StagedRound, digest_of, public_prefix
from mtc.merkle import MAX_TREE_SIZE, Hasher
from mtc.tiles import (
    EntriesTile,
    EntryBundle,
    Tile,
    TileEdge,
    build_bundles,
    build_tiles,
    bundles_for_growth,
    partial_tiles,
    verify_edge,
)

ACCUMULATED_COUNT = 0xFF01
"""Provisional entry extension type of the counter of accumulated entries."""
ACCUMULATED_ENTRY = 0xFF01
"""Provisional entry type of an accumulated entry."""


@dataclass(frozen=True, slots=True)
class PendingEntry:
    """An entry that waits for its index. type, body: of the log entry. not_after: POSIX seconds, 0 without validity.

    request_key: idempotency key of the request, empty for none; at most 255 bytes. evidence_until: POSIX seconds up to
    and including which the validation behind the entry may be used to sign it, 0 when it never ends.
    """

    type: int
    body: bytes
    not_after: int = 0
    request_key: bytes = b""
    evidence_until: int = 0

    def __post_init__(self) -> None:
        """Refuse a key that no staged round holds."""
        if len(self.request_key) > MAX_REQUEST_KEY_BYTES:
            raise UsageError(Reason.TOO_LARGE, f"an idempotency key has at most {MAX_REQUEST_KEY_BYTES} bytes")

    def is_stale(self, now: int) -> bool:
        """Tell whether the evidence behind the entry may no longer be used at `now`, POSIX seconds."""
        return 0 < self.evidence_until < now


@dataclass(frozen=True, slots=True)
class LogState:
    """A log as its sequencer holds it between rounds.

    record: what the register says. edge: the partial tiles. bundle: the bytes of the partial entry bundle, empty when
    the last one is full.
    """

    record: LogRecord
    edge: TileEdge
    bundle: bytes = b""

    @property
    def tree_size(self) -> int:
        """Number of entries."""
        return self.record.tree_size


@dataclass(frozen=True, slots=True)
class Batch:
    """What one round will do. Nothing of it has happened yet.

    state: the log afterwards. staged: the encoded `round_`, for `staged_key`. entries: encoded, in the order of their
    indices.
    """

    state: LogState
    staged_key: str
    staged: bytes
    round_: StagedRound
    entries: tuple[bytes, ...]


def encode_accumulated_count(count: int) -> EntryExtension:
    """Return the entry extension that carries the counter, a 48-bit integer."""
    return EntryExtension(ACCUMULATED_COUNT, count.to_bytes(6, "big"))


def accumulated_count(entry: LogEntry) -> int | None:
    """Return the counter that an entry carries, None without one. Raises FormatError when it has not 6 bytes."""
    for extension in entry.extensions:
        if extension.type == ACCUMULATED_COUNT:
            if len(extension.data) != 6:
                raise FormatError(Reason.BAD_LENGTH, "the accumulated counter of an entry has 6 bytes")
            return int.from_bytes(extension.data, "big")
    return None


def start_log(hasher: Hasher, log_number: int, now: int, *, has_counter: bool = False) -> LogState:
    """Return the state of a new, empty log. now: POSIX seconds. has_counter: entries carry the accumulated counter."""
    record = LogRecord(
        log_number=log_number, tree_size=0, root_hash=hasher.empty, timestamp=now, has_counter=has_counter
    )
    return LogState(record, TileEdge(hasher.size))


def plan_batch(
    hasher: Hasher,
    state: LogState,
    pending: Sequence[PendingEntry],
    now: int,
    revision: DraftRevision = DEFAULT_REVISION,
) -> Batch:
    """Give indices to the pending entries and plan the round that appends them; an empty one only moves the time.

    now: POSIX seconds. Raises ConflictError when it lies before the last checkpoint, because timestamps never go back;
    UsageError when the log has no room for all entries (a log holds 2^48 - 1), when an entry is too large, or when two
    requests have one key.
    """
    record = state.record
    if now < record.timestamp:
        raise ConflictError(
            Reason.CLOCK,
            f"the clock says {now}, before the last checkpoint at {record.timestamp}; set the clock, or wait",
            expected=record.timestamp,
            got=now,
        )
    if record.is_closed:
        raise ConflictError(
            Reason.CONFLICT, f"log {record.log_number} is closed; the next one takes its entries", log=record.log_number
        )
    start, end = record.tree_size, record.tree_size + len(pending)
    if end > MAX_TREE_SIZE:
        raise UsageError(
            Reason.TOO_LARGE,
            f"log {record.log_number} has room for {MAX_TREE_SIZE - start} more entries, not for {len(pending)}; it "
            "must be followed by the next log",
            room=MAX_TREE_SIZE - start,
        )
    count, entries = _encode_entries(record, pending, revision)
    indices = {item.request_key: index for index, item in enumerate(pending, start) if item.request_key}
    if len(indices) != sum(1 for item in pending if item.request_key):
        raise UsageError(Reason.DUPLICATE, "two requests of one round have the same idempotency key")
    row = hasher.leaves(entries)
    edge, tiles = build_tiles(hasher, state.edge, row)
    bundles = build_bundles(start, state.bundle, entries)
    prefix = public_prefix(record.log_number)
    objects = {f"{prefix}{tile.path}": data for tile, data in tiles.items()}
    objects |= {f"{prefix}{place.path}": data for place, data in bundles.items()}
    subtrees = state.edge.frontier(hasher).cover_growth(hasher, row)
    round_ = StagedRound(start, end, objects, indices, subtrees)
    staged = round_.encode()
    digest = digest_of(staged)
    evidence_until = min((item.evidence_until for item in pending if item.evidence_until), default=0)
    after = replace(
        record,
        tree_size=end,
        root_hash=edge.root(hasher),
        timestamp=now,
        accumulated_count=count,
        latest_not_after=max(record.latest_not_after, max((item.not_after for item in pending), default=0)),
        staged_digest=digest,
        evidence_until=evidence_until,
        before=record.settled.encode() if evidence_until else b"",
    )
    bundle = _partial_bundle(end, bundles, state.bundle)
    key = StagedRound.key_of(record.log_number, end, digest)
    return Batch(LogState(after, edge, bundle), key, staged, round_, tuple(entries))


def _encode_entries(
    record: LogRecord, pending: Sequence[PendingEntry], revision: DraftRevision
) -> tuple[int, list[bytes]]:
    """Return the number of accumulated entries afterwards, and the encoded entries with what depends on their place."""
    count = record.accumulated_count
    entries: list[bytes] = []
    # Almost all entries of a round begin with the same bytes.
    heads: dict[tuple[int, int], bytes] = {}
    for item in pending:
        kind = item.type
        count += kind == ACCUMULATED_ENTRY
        head = heads.get((kind, count))
        if head is None:
            extensions = (encode_accumulated_count(count),) if record.has_counter else ()
            head = heads[kind, count] = LogEntry(kind, b"", extensions).encode(revision)
        entry = head + item.body
        if len(entry) > MAX_ENTRY_BYTES:
            raise UsageError(
                Reason.TOO_LARGE,
                f"a log entry has at most {MAX_ENTRY_BYTES} bytes, this one {len(entry)}",
                got=len(entry),
            )
        entries.append(entry)
    return count, entries


def _partial_bundle(tree_size: int, bundles: Mapping[EntriesTile, bytes], before: bytes) -> bytes:
    """Return the partial entry bundle of a tree, empty when there is none."""
    if not tree_size % 256:
        return b""
    last = EntriesTile(tree_size // 256, tree_size % 256)
    return bundles.get(last, before)


def plan_recovery(
    hasher: Hasher, record: LogRecord, staged: bytes | None, published: Mapping[str, bytes]
) -> tuple[LogState, StagedRound | None]:
    """Return the state that a record stands for, and the round to publish again if it is still staged.

    staged: the object that the record names, None when it was collected after its publication. published: by key, at
    least what `recovery_keys` names, as far as it is there; staged objects take precedence. Everything is proven
    against the record's root before it is believed. Raises ConflictError when storage contradicts or lacks what the
    register decided, with what to do; nothing is signed then.
    """
    round_: StagedRound | None = None
    if staged is not None:
        if digest_of(staged) != record.staged_digest:
            raise _contradiction(record, "the staged round is not the one that the register names")
        round_ = StagedRound.parse(staged)
        if round_.new_size != record.tree_size:
            raise _contradiction(record, "the staged round leads to another size")
    available = {**published, **(round_.objects if round_ is not None else {})}
    prefix = public_prefix(record.log_number)
    contents = []
    for tile in partial_tiles(record.tree_size):
        content = available.get(f"{prefix}{tile.path}")
        if content is None:
            raise _contradiction(record, f"{tile} is missing")
        contents.append(content)
    try:
        edge = verify_edge(hasher, record.tree_size, contents, record.root_hash)
        bundle = _recover_bundle(hasher, record, edge, available)
    except (FormatError, ProofError) as error:
        raise _contradiction(record, error.message) from None
    return LogState(record, edge, bundle), round_


def recovery_keys(record: LogRecord) -> list[str]:
    """Return the keys of the published objects that `plan_recovery` needs when nothing is staged."""
    places: list[Tile | EntriesTile] = list(partial_tiles(record.tree_size))
    if record.tree_size % 256:
        places += bundles_for_growth(record.tree_size - 1, record.tree_size)
    return [f"{public_prefix(record.log_number)}{place.path}" for place in places]


def _recover_bundle(hasher: Hasher, record: LogRecord, edge: TileEdge, available: Mapping[str, bytes]) -> bytes:
    """Return the partial entry bundle, its entries proven against the partial tile of their hashes."""
    width = record.tree_size % 256
    if not width:
        return b""
    place = EntriesTile(record.tree_size // 256, width)
    data = available.get(f"{public_prefix(record.log_number)}{place.path}")
    if data is None:
        raise FormatError(Reason.BAD_TILE, f"{place} is missing")
    entries = EntryBundle.parse(data, width).entries
    if hasher.leaves(entries) != edge.rows[0]:
        raise ProofError(Reason.HASH_MISMATCH, f"{place} holds other entries than its tile")
    return data


def _contradiction(record: LogRecord, what: str) -> ConflictError:
    """Make the error for storage that does not fit the register."""
    return ConflictError(
        Reason.CONFLICT,
        f"the storage of log {record.log_number} does not fit its register at {record.tree_size} entries: {what}. Do "
        "not sign; bring the storage of the same moment as the register back, or follow this log with the next one",
        log=record.log_number,
        tree_size=record.tree_size,
    )
