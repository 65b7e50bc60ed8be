"""What a CA says about itself: the status as values, its health, and a view of its logs for the pages.

A `CAStatus` is put together by the running program; the pages and `/health` only show it. Hashes and entries come from
the same public objects that everybody reads, proven against the published checkpoint.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Protocol

from mtc.errors import Error, FormatError, ProofError, Reason, StorageError
from mtc.ids import DraftRevision, TrustAnchorID, log_id
from mtc.landmark import ActiveLandmarks, Landmark
from mtc.log.formats import LogRecord, public_prefix
from mtc.merkle import Hasher, Node
from mtc.note import Checkpoint, parse_note
from mtc.note.cosignature import Cosignature
from mtc.store import ObjectStore, Register
from mtc.tiles import (
    TILE_HEIGHT,
    TILE_WIDTH,
    EntriesTile,
    EntryBundle,
    is_prunable,
    tiles_for_nodes,
    verify_tiles,
    width_in_tree,
)


class Health(StrEnum):
    """How a CA is. degraded: it works, but somebody should look. stopped: it issues nothing."""

    OK = "ok"
    DEGRADED = "degraded"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True, kw_only=True)
class LandmarkStatus:
    """A landmark as the pages show it. allocated, expires: None where that is not known, or the draft has none."""

    number: int
    tree_size: int
    allocated: datetime | None = None
    expires: datetime | None = None
    is_active: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class LogStatus:
    """One log of the CA, as it is published.

    checkpoint: when the published checkpoint was signed. minimum_index: entries below it are pruned. last_round: the
    entries [start, end) of the newest round, if it is known. landmarks: consecutive, oldest first, expired ones may
    lead. rates: entries a second in equal steps of time, oldest first; empty when nobody counted. rate_1min, rate_1h:
    entries a second.
    """

    number: int
    tree_size: int
    root_hash: bytes
    checkpoint: datetime
    is_closed: bool = False
    minimum_index: int = 0
    last_round: tuple[int, int] | None = None
    landmarks: tuple[LandmarkStatus, ...] = ()
    rates: tuple[float, ...] = ()
    rate_1min: float | None = None
    rate_1h: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class CosignerStatus:
    """An independent cosigner. role: mirror or witness. tree_size: the largest it cosigned of the current log.

    seen: when it last answered. is_up: whether it did the last time. latency_s: of its last round. note: what is wrong,
    for people.
    """

    name: str
    role: str
    tree_size: int | None = None
    seen: datetime | None = None
    is_up: bool = True
    latency_s: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuorumStatus:
    """Which cosigners a round needs, and whether they come. rule: for people.

    trouble: since when there is no quorum, and who is missing; None when all is well. is_blocked: nothing new is taken
    because of that. owed: entries that are signed and lack their quorum, `[start, end)` by log number.
    """

    rule: str
    trouble: tuple[datetime, str] | None = None
    is_blocked: bool = False
    owed: tuple[tuple[int, int, int], ...] = ()

    @property
    def owed_entries(self) -> int:
        """How many entries are owed."""
        return sum(end - start for _, start, end in self.owed)


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentStatus:
    """Something that an operator or an auditor should know of. link: to more, on this site or elsewhere."""

    moment: datetime
    title: str
    detail: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CAStatus:
    """Everything that the status page shows, at one moment.

    prefix: path under which the logs are served, without a slash at its end. started: when this process did. logs: by
    number, the current one last. pool: entries that wait for a round. quorum: None for a CA without cosigners.
    signer_is_up, signer_note: the process that holds the key. stopped_by: what stopped issuance, None while it runs.
    max_lifetime: of certificates. checkpoint_due: an older checkpoint of the current log is a warning.
    """

    ca_id: TrustAnchorID
    profile: str
    revision: DraftRevision
    kernel: str
    version: str
    started: datetime
    now: datetime
    name: str = ""
    prefix: str = ""
    prefix_url: str | None = None
    logs: tuple[LogStatus, ...] = ()
    pool: int = 0
    cosigners: tuple[CosignerStatus, ...] = ()
    quorum: QuorumStatus | None = None
    incidents: tuple[IncidentStatus, ...] = ()
    signer_is_up: bool = True
    signer_note: str = ""
    stopped_by: str | None = None
    warnings: tuple[str, ...] = ()
    max_lifetime: timedelta = timedelta(days=7)
    checkpoint_due: timedelta = timedelta(hours=2)

    @property
    def current(self) -> LogStatus | None:
        """The log that takes entries, or the last one."""
        return self.logs[-1] if self.logs else None

    def log(self, number: int) -> LogStatus | None:
        """Return the log with this number, None when there is none."""
        return next((item for item in self.logs if item.number == number), None)


def judge_health(status: CAStatus) -> tuple[Health, tuple[str, ...]]:
    """Tell how the CA is, with every reason for not being well; the worst decides."""
    stopped, degraded = [], list(status.warnings)
    log = status.current
    if status.stopped_by is not None:
        stopped.append(status.stopped_by)
    if log is None:
        stopped.append("no log is open")
    else:
        if log.is_closed:
            stopped.append(f"log {log.number} is closed and no other log is open")
        age = status.now - log.checkpoint
        if age > status.checkpoint_due:
            degraded.append(f"the checkpoint of log {log.number} is {age // timedelta(seconds=1)} s old")
        if age < -timedelta(minutes=1):
            degraded.append(f"the checkpoint of log {log.number} is from the future; check the clock")
    if not status.signer_is_up:
        degraded.append(f"the signer does not answer{': ' if status.signer_note else ''}{status.signer_note}")
    degraded.extend(_judge_cosigner(item) for item in status.cosigners if not item.is_up)
    quorum = status.quorum
    if quorum is not None and quorum.trouble is not None:
        since, text = quorum.trouble
        words = f"cosignatures are missing since {since:%Y-%m-%d %H:%M:%SZ}: {text}"
        (stopped if quorum.is_blocked else degraded).append(words)
    if quorum is not None and quorum.owed:
        degraded.append(f"{quorum.owed_entries} issued entries still lack their quorum")
    if stopped:
        return Health.STOPPED, (*stopped, *degraded)
    return (Health.DEGRADED, tuple(degraded)) if degraded else (Health.OK, ())


def _judge_cosigner(item: CosignerStatus) -> str:
    """Say what is wrong with a cosigner."""
    return f"cosigner {item.name} does not answer{': ' if item.note else ''}{item.note}"


def describe_health(status: CAStatus) -> dict[str, object]:
    """Return what `/health` says, as a JSON object."""
    health, reasons = judge_health(status)
    log = status.current
    seconds = timedelta(seconds=1)
    return {
        "status": str(health),
        "reasons": list(reasons),
        "ca_id": str(status.ca_id),
        "log": None if log is None else log.number,
        "tree_size": None if log is None else log.tree_size,
        "checkpoint_age_s": None if log is None else max((status.now - log.checkpoint) // seconds, 0),
        "pool_entries": status.pool,
        "signer_up": status.signer_is_up,
        **_describe_quorum(status),
        "uptime_s": (status.now - status.started) // seconds,
        "version": status.version,
    }


def _describe_quorum(status: CAStatus) -> dict[str, object]:
    """Return what a CA with cosigners says of them, nothing for one without."""
    quorum = status.quorum
    if quorum is None:
        return {}
    return {
        "quorum": quorum.rule,
        "owed_entries": quorum.owed_entries,
        "cosigners": {item.name: "up" if item.is_up else "away" for item in status.cosigners},
    }


class RateMeter:
    """Counts entries in slots of time and tells the rate of the last minute and hour. Owned by one event loop.

    Time is steady seconds, given by the caller. slot_s: length of a slot; slots: how many are kept.
    """

    def __init__(self, slot_s: float = 10.0, slots: int = 360) -> None:
        """Start with nothing counted."""
        self._slot_s = slot_s
        self._slots = slots
        self._counts: dict[int, int] = {}
        self._began: float | None = None

    def note(self, entries: int, seconds: float) -> None:
        """Count entries that were published now."""
        if self._began is None:
            self._began = seconds
        slot = int(seconds // self._slot_s)
        self._counts[slot] = self._counts.get(slot, 0) + entries
        for old in [item for item in self._counts if item <= slot - self._slots]:
            del self._counts[old]

    def rate(self, window_s: float, seconds: float) -> float:
        """Return entries a second over the last `window_s` seconds, or since the first count if that is less."""
        if self._began is None:
            return 0.0
        first = int((seconds - window_s) // self._slot_s)
        total = sum(count for slot, count in self._counts.items() if slot > first)
        return total / min(max(seconds - self._began, self._slot_s), window_s)

    def history(self, seconds: float, points: int = 60) -> tuple[float, ...]:
        """Return the rates of all slots kept, in `points` equal steps, oldest first."""
        per_point = max(self._slots // points, 1)
        last = int(seconds // self._slot_s)
        sums = [0] * points
        for slot, count in self._counts.items():
            place = points - 1 - (last - slot) // per_point
            if 0 <= place < points:
                sums[place] += count
        return tuple(total / (per_point * self._slot_s) for total in sums)


class CAView(Protocol):
    """Where the pages read. Every call may raise StorageError; a log that does not exist is None."""

    async def status(self) -> CAStatus:
        """Return the status of this moment."""

    async def entry(self, log_number: int, index: int) -> bytes | None:
        """Return a published entry, proven to be in the tree; None when it is not there, or pruned."""

    async def hashes(self, log_number: int, nodes: Sequence[Node]) -> list[bytes]:
        """Return the hashes of complete subtrees of the published tree, in one call, proven against its checkpoint.

        Raises ProofError (MISSING_HASH) for a node that the published tree does not have, StorageError when the tiles
        do not lead to its root.
        """


class PublishedLogs:
    """The logs of a CA as they are published, over its objects and its register; `entry`, `hashes` as of `CAView`."""

    def __init__(  # noqa: PLR0913 - the seams of a view
        self,
        store: ObjectStore,
        register: Register,
        hasher: Hasher,
        revision: DraftRevision,
        ca_id: TrustAnchorID,
        *,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Take the parts."""
        self._store = store
        self._register = register
        self._hasher = hasher
        self._revision = revision
        self._ca_id = ca_id
        self._now = now

    async def entry(self, log_number: int, index: int) -> bytes | None:
        """Return a published entry."""
        log = await self.log(log_number)
        if log is None or not 0 <= index < log.tree_size:
            return None
        place = EntriesTile(index >> TILE_HEIGHT)
        if is_prunable(place, log.minimum_index):
            return None
        place = EntriesTile(place.index, width_in_tree(place, log.tree_size))
        data = await self._fetch_either(f"{public_prefix(log_number)}{place.path}", place.full, log_number)
        if data is None:
            return None
        try:
            entries = EntryBundle.parse(data).entries
        except FormatError as error:
            raise _damaged(log_number, error.message) from None
        position = index % TILE_WIDTH
        if position >= len(entries):
            raise _damaged(log_number, f"the bundle of entry {index} has only {len(entries)} entries")
        (expected,) = await self.hashes(log_number, [Node(0, index)])
        if self._hasher.leaf(entries[position]) != expected:
            raise _damaged(log_number, f"entry {index} does not hash to its leaf")
        return entries[position]

    async def hashes(self, log_number: int, nodes: Sequence[Node]) -> list[bytes]:
        """Return the hashes of complete subtrees of the published tree."""
        log = await self.log(log_number)
        if log is None or not nodes:
            return []
        tiles = tiles_for_nodes(log.tree_size, nodes)
        prefix = public_prefix(log_number)
        contents = await self._store.fetch([f"{prefix}{tile.path}" for tile in tiles])
        found = {tile: content for tile, content in zip(tiles, contents, strict=True) if content is not None}
        if len(found) != len(tiles):
            raise _damaged(log_number, "tiles are missing")
        try:
            return verify_tiles(self._hasher, log.tree_size, log.root_hash, found).read(nodes)
        except (FormatError, ProofError) as error:
            raise _damaged(log_number, error.message) from None

    async def _fetch_either(self, key: str, full: EntriesTile, log_number: int) -> bytes | None:
        """Return a bundle, or the full one that has taken its place."""
        found = await self._store.fetch([key, f"{public_prefix(log_number)}{full.path}"])
        return next((item for item in found if item is not None), None)

    async def log(self, number: int) -> LogStatus | None:
        """Read what is published of a log; None when nothing is."""
        prefix = public_prefix(number)
        note, landmarks = await self._store.fetch([f"{prefix}checkpoint", f"{prefix}landmarks"])
        data = await self._register.read(f"log-{number}")
        if note is None or data is None:
            return None
        record = LogRecord.parse(data)
        checkpoint, signed = read_checkpoint(note, self._hasher.size, self._ca_id.oid_name)
        if checkpoint.origin != log_id(self._ca_id, number).oid_name:
            raise StorageError(Reason.STORAGE, f"log {number} serves a checkpoint of {checkpoint.origin[:80]}")
        return LogStatus(
            number=number,
            tree_size=checkpoint.tree_size,
            root_hash=checkpoint.root_hash,
            checkpoint=signed or datetime.fromtimestamp(record.timestamp, UTC),
            is_closed=record.is_closed,
            minimum_index=min(record.minimum_index, checkpoint.tree_size),
            landmarks=() if landmarks is None else self._landmarks(landmarks),
        )

    def _landmarks(self, data: bytes) -> tuple[LandmarkStatus, ...]:
        """Read a landmarks file; nothing is shown of one that cannot be read."""
        now = self._now()
        try:
            active = ActiveLandmarks.parse(data, now, self._revision)
        except Error:
            return ()
        live = set(active.active(now))
        return tuple(_landmark_status(item, is_active=item in live) for item in active.landmarks if item.number)


class StoreView:
    """`CAView` over what a CA publishes.

    describe: puts the status together from the logs as they are published; what the store does not know (rates, pool,
    cosigners) it adds itself. log_numbers: of all logs, ascending, the current one last.
    """

    def __init__(
        self,
        logs: PublishedLogs,
        describe: Callable[[tuple[LogStatus, ...]], Awaitable[CAStatus]],
        log_numbers: Callable[[], Sequence[int]],
    ) -> None:
        """Take the parts."""
        self._logs = logs
        self._describe = describe
        self._log_numbers = log_numbers
        self.entry = logs.entry
        self.hashes = logs.hashes

    async def status(self) -> CAStatus:
        """Return the status of this moment."""
        found = [await self._logs.log(number) for number in self._log_numbers()]
        return await self._describe(tuple(item for item in found if item is not None))


def _damaged(log_number: int, what: str) -> StorageError:
    """Make the error for public objects that do not lead to the published root."""
    return StorageError(Reason.STORAGE, f"log {log_number}: {what}; check it with mtc fsck", log=log_number)


def _landmark_status(landmark: Landmark, *, is_active: bool) -> LandmarkStatus:
    """Show a landmark."""
    expires = None if landmark.expiry is None else datetime.fromtimestamp(landmark.expiry, UTC)
    return LandmarkStatus(number=landmark.number, tree_size=landmark.tree_size, expires=expires, is_active=is_active)


def read_checkpoint(note: bytes, hash_size: int, signer: str) -> tuple[Checkpoint, datetime | None]:
    """Return the checkpoint of a CA's own note, and when the CA signed it; None when it does not say.

    signer: name of the CA's key. Nothing is verified: the note is our own. Lines of others are not looked at.
    """
    parsed = parse_note(note)
    checkpoint = Checkpoint.parse(parsed.text, hash_size)
    for line in parsed.signatures:
        if line.name == signer:
            return checkpoint, datetime.fromtimestamp(Cosignature.parse(line.signature).timestamp, UTC)
    return checkpoint, None
