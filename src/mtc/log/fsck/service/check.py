"""Checking one log: its checkpoint, what lies about, every entry and tile, its landmarks."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from mtc.cert import CACertificate
from mtc.errors import Error, FormatError, Reason, Rejected
from mtc.ids import encode_ca_name, log_id
from mtc.kernel import active_kernel
from mtc.landmark import ActiveLandmarks
from mtc.log.formats import LogRecord
from mtc.log.fsck.entries import EntryRules, EntryWatch, SizeFacts
from mtc.log.fsck.findings import Findings, Severity
from mtc.log.fsck.service.sources import LogFiles
from mtc.log.fsck.service.tree import TreeHashes
from mtc.log.fsck.service.walk import Progress, Walk, partial_widths
from mtc.merkle import MAX_TREE_SIZE, Hasher
from mtc.note import Checkpoint, SignatureType, VerifierKey, open_note
from mtc.tiles import TILE_HEIGHT, EntriesTile, Tile, is_prunable, parse_tile_path, width_in_tree
from mtc.wire import posix_seconds

MAX_SKEW_S = 300
"""How far the clock that signed may be ahead of this machine's; a signer allows as much."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTask:
    """What to check. log_number: 1 to 65535. now: aware. record: what the register says, None when nobody can tell.

    minimum_index: entries below it need not be there. sizes: tree sizes for which `CheckedLog.facts` are wanted.
    cosigners: known keys beside the CA's; with a record, lines of other keys are findings.
    """

    log_number: int
    ca: CACertificate
    now: datetime
    record: LogRecord | None = None
    minimum_index: int = 0
    sizes: Sequence[int] = ()
    cosigners: Sequence[VerifierKey] = ()
    progress: Progress | None = None

    @property
    def prefix(self) -> str:
        """What the log's paths begin with."""
        return f"{self.log_number}/"

    @property
    def hasher(self) -> Hasher:
        """The log's hash."""
        return active_kernel().hasher(self.ca.hash.name)

    @property
    def key(self) -> VerifierKey:
        """The CA cosigner's key. Raises FormatError for an algorithm that signs no checkpoints."""
        spki = self.ca.public_key.public_key
        return VerifierKey.from_spki(self.ca.ca_id.oid_name, SignatureType.COSIGNATURE_MLDSA44, spki)


@dataclass(slots=True)
class CheckedLog:
    """What is now known of a log. checkpoint, timestamp: None when the published one does not verify.

    tree_size, root_hash: of the tree that was checked. first_index: first entry that was read. facts: by size.
    ahead: paths of tiles and bundles of a larger tree. landmarks: what the file says, None without a readable one.
    tree: its hashes, None when the tree could not be rebuilt.
    """

    log_number: int
    tree_size: int
    root_hash: bytes
    checkpoint: Checkpoint | None = None
    timestamp: int | None = None
    note: bytes = b""
    first_index: int = 0
    facts: dict[int, SizeFacts] = field(default_factory=dict)
    end: SizeFacts = field(default_factory=SizeFacts)
    ahead: list[str] = field(default_factory=list)
    landmarks: ActiveLandmarks | None = None
    tree: TreeHashes | None = None


async def check_log(files: LogFiles, task: LogTask, findings: Findings) -> CheckedLog | None:
    """Check one log from what is served of it. Returns None when there is no tree to check, which is a finding.

    The log may grow meanwhile: the checkpoint is read first, and what it does not cover is left alone. Raises
    StorageError or PeerError when the files cannot be read.
    """
    findings.count("logs")
    path, landmarks_path = f"{task.prefix}checkpoint", f"{task.prefix}landmarks"
    # The landmarks first: they never lie beyond a checkpoint that is read after them.
    (landmarks,) = await files.fetch([landmarks_path])
    (data,) = await files.fetch([path])
    checked = _open_checkpoint(data, files.name(path), task, findings)
    if checked is None:
        return None
    checked.landmarks = _open_landmarks(landmarks, files.name(landmarks_path), task, findings)
    listed = await files.list_paths(task.prefix)
    places = _sort_places(listed, files, task, checked, findings)
    await _walk(files, task, checked, places, findings)
    _check_landmarks(files.name(landmarks_path), checked, findings)
    return checked


def _open_checkpoint(data: bytes | None, name: str, task: LogTask, findings: Findings) -> CheckedLog | None:
    """Verify the checkpoint. One that does not verify is a finding, and the register's tree takes its place."""
    record = task.record
    try:
        if data is not None:
            findings.count("bytes", len(data))
            return _verify_checkpoint(data, name, task, findings)
        findings.add(name, "is missing")
    except Error as error:
        findings.add_error(name, error)
    return None if record is None else CheckedLog(task.log_number, record.tree_size, record.root_hash, note=data or b"")


def _verify_checkpoint(data: bytes, name: str, task: LogTask, findings: Findings) -> CheckedLog:
    """Return what the CA's signature covers. Raises FormatError, SignatureError, Rejected."""
    note = open_note(data, [task.key, *task.cosigners])
    checkpoint = Checkpoint.parse(note.text, task.hasher.size)
    findings.count("signatures", len(note.verified))
    times = [signature.timestamp or 0 for signature in note.verified if signature.key == task.key]
    if not times:
        raise Rejected(Reason.UNKNOWN_SIGNER, "is not signed by the CA")
    if checkpoint.tree_size > MAX_TREE_SIZE:
        raise FormatError(Reason.BAD_CHECKPOINT, f"has {checkpoint.tree_size} entries, a log at most 2^48 - 1")
    origin, timestamp = log_id(task.ca.ca_id, task.log_number).oid_name, max(times)
    if checkpoint.origin != origin:
        findings.add(name, f"is of {checkpoint.origin[:80]!r}, not of {origin}", offset=0)
    if checkpoint.extensions:
        findings.add(name, "has extension lines, which no ML-DSA-44 signature covers")
    if note.unverified and task.record is not None:
        findings.add(name, "has a signature line that nobody known here made")
    if not timestamp:
        findings.add(name, "has a signature of the CA without a time")
    if timestamp > posix_seconds(task.now) + MAX_SKEW_S:
        findings.add(name, f"is from the future, {timestamp}; is this machine's clock right?")
    return CheckedLog(task.log_number, checkpoint.tree_size, checkpoint.root_hash, checkpoint, timestamp, data)


def _open_landmarks(data: bytes | None, name: str, task: LogTask, findings: Findings) -> ActiveLandmarks | None:
    """Read the landmarks file; a log may have none."""
    if data is None:
        if task.record is not None:
            findings.add(name, "is missing")
        return None
    findings.count("bytes", len(data))
    try:
        return ActiveLandmarks.parse(data, task.now, task.ca.revision)
    except Error as error:
        findings.add_error(name, error)
        return None


@dataclass(slots=True)
class _Places:
    """What the listing of a log says. partials: see `Walk`. full: places of full bundles that may be pruned."""

    partials: dict[str, list[int]]
    full: set[int] | None


def _sort_places(
    listed: list[str] | None, files: LogFiles, task: LogTask, checked: CheckedLog, findings: Findings
) -> _Places:
    """Tell tiles and bundles of the tree from those of a larger one, and from what does not belong there."""
    if listed is None:
        return _Places({}, None)
    partial: list[Tile | EntriesTile] = []
    full: set[int] = set()
    for path in listed:
        inner = path.removeprefix(task.prefix)
        if inner in ("checkpoint", "landmarks"):
            continue
        try:
            place = parse_tile_path(inner)
        except FormatError:
            findings.add(files.name(path), "does not belong here", severity=Severity.WARNING)
            continue
        if width_in_tree(place, checked.tree_size) < place.width:
            checked.ahead.append(path)
        elif not place.is_full:
            partial.append(place)
        elif isinstance(place, EntriesTile) and is_prunable(place, task.minimum_index):
            full.add(place.index)
    return _Places(partial_widths(partial), full)


def _first_bundle(task: LogTask, places: _Places, *, is_first_there: bool) -> int:
    """Return the first bundle to read: all from there on are there, or should be."""
    least = task.minimum_index >> TILE_HEIGHT
    if places.full is None:
        return 0 if is_first_there else least
    while least and least - 1 in places.full:
        least -= 1
    return least


async def _walk(files: LogFiles, task: LogTask, checked: CheckedLog, places: _Places, findings: Findings) -> None:
    """Check every entry and tile."""
    is_first_there = True
    if task.minimum_index >> TILE_HEIGHT and places.full is None:
        is_first_there = (await files.fetch([f"{task.prefix}{EntriesTile(0).path}"]))[0] is not None
    begin = _first_bundle(task, places, is_first_there=is_first_there)
    record = task.record
    rules = EntryRules(
        issuer=encode_ca_name(task.ca.ca_id, task.ca.revision),
        hash_size=task.hasher.size,
        has_counter=None if record is None else record.has_counter,
    )
    sizes = [*task.sizes, *_landmark_sizes(checked)]
    watch = EntryWatch(rules, findings, sizes, begin << TILE_HEIGHT)
    walk = Walk(
        files=files,
        prefix=task.prefix,
        hasher=task.hasher,
        tree_size=checked.tree_size,
        root=checked.root_hash,
        watch=watch,
        findings=findings,
        begin=begin,
        partials=places.partials,
        progress=task.progress,
    )
    edge = await walk.run()
    checked.first_index = begin << TILE_HEIGHT
    checked.facts, checked.end = watch.facts, watch.now
    if edge is not None:
        checked.tree = TreeHashes(files, task.hasher, task.prefix, edge, walk.corrections)


def _landmark_sizes(checked: CheckedLog) -> Iterable[int]:
    """Return the sizes at which the landmarks file wants to know the latest notAfter."""
    return () if checked.landmarks is None else [mark.tree_size for mark in checked.landmarks.landmarks]


def _check_landmarks(name: str, checked: CheckedLog, findings: Findings) -> None:
    """Compare the landmarks with the tree and its entries; their order among each other was read strictly."""
    if checked.landmarks is None:
        return
    for mark in checked.landmarks.landmarks:
        findings.count("landmarks")
        if mark.tree_size > checked.tree_size:
            findings.add(name, f"has landmark {mark.number} at {mark.tree_size} entries, behind the checkpoint")
            continue
        if not mark.number and (mark.tree_size or mark.expiry):
            findings.add(name, "has a landmark 0 that is not that of the empty tree")
        facts = checked.facts.get(mark.tree_size)
        if facts is not None and mark.expiry is not None and mark.expiry < facts.latest_not_after:
            findings.add(
                name,
                f"has landmark {mark.number}, which expires at {mark.expiry}, before an entry below it, valid until "
                f"{facts.latest_not_after}",
            )
