"""Re-verifies a log from what it serves: every entry, every tile, the checkpoint, the landmarks, every stray file.

The log is walked from left to right, so that memory stays small however long it is: entries are hashed and compared
with their tile, tiles are folded and compared with the tile above, and the top is compared with the signed root. It
reads and never repairs.

Spec: C2SP tlog-tiles; Merkle Tree Certificates, "Log Entries", "Landmarks".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol

from mtc.cert import EntryType, LogEntry
from mtc.errors import Error, FormatError, Reason
from mtc.ids import DraftRevision, TrustAnchorID, encode_ca_name, log_id
from mtc.landmark import ActiveLandmarks
from mtc.log.fsck.findings import Findings
from mtc.log.machine import ACCUMULATED_COUNT, ACCUMULATED_ENTRY, accumulated_count
from mtc.merkle import Frontier, Hasher, Subtree, subtree_hash
from mtc.note import Checkpoint, VerifierKey, parse_note
from mtc.note.opening import verify_note
from mtc.tiles import (
    TILE_HEIGHT,
    TILE_WIDTH,
    EntriesTile,
    EntryBundle,
    NodeRecorder,
    Tile,
    is_prunable,
    parse_tile_path,
    tiles_for_nodes,
    verify_tiles,
    width_in_tree,
)
from mtc.wire import posix_seconds

_CHUNK = 64
"""Bundles read at a time."""
_MAX_SKEW_S = 300
_SUBTREES_AT_ONCE = 256


class LogFiles(Protocol):
    """The files of one log. Nothing that comes from here is believed."""

    async def fetch(self, paths: Sequence[str]) -> list[bytes | None]:
        """Return files by their paths below the log's prefix, None for one that is not there."""

    async def list_paths(self) -> list[str] | None:
        """Return the paths of all files, None where nobody can tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRules:
    """What a log must be. keys: of the CA cosigner first. minimum_index: entries below it may be gone.

    allows_strangers: the checkpoint may carry signatures of cosigners that are not known here.
    """

    ca_id: TrustAnchorID
    log_number: int
    revision: DraftRevision
    hasher: Hasher
    keys: Sequence[VerifierKey]
    minimum_index: int = 0
    allows_strangers: bool = False


@dataclass(slots=True)
class CheckedLog:
    """What was read of a log. latest_not_after: POSIX seconds. landmark_ends: latest notAfter below each size asked."""

    tree_size: int = 0
    root_hash: bytes = b""
    timestamp: int = 0
    accumulated: int = 0
    latest_not_after: int = 0
    has_counter: bool = False
    landmarks: ActiveLandmarks | None = None
    checkpoint: bytes = b""
    ends_by_size: dict[int, int] = field(default_factory=dict)


class LogChecker:
    """Checks one log. tell: hears how many entries of how many were read."""

    def __init__(
        self,
        files: LogFiles,
        rules: LogRules,
        findings: Findings,
        now: datetime,
        tell: Callable[[int, int], None] = lambda _done, _all: None,
    ) -> None:
        """Take the log and where findings go."""
        self._files = files
        self._rules = rules
        self._findings = findings
        self._now = now
        self._tell = tell
        self._issuer = encode_ca_name(rules.ca_id, rules.revision)
        self.log = CheckedLog()

    def _path(self, path: str) -> str:
        """Name a file of this log in findings."""
        return f"{self._rules.log_number}/{path}"

    async def check(self) -> CheckedLog | None:
        """Check everything. Returns what was read, None when there is no checkpoint that could be believed."""
        if not await self._check_checkpoint():
            return None
        await self._read_landmarks()
        await self._check_tree()
        self._check_landmark_ends()
        await self._check_strays()
        return self.log

    async def _check_checkpoint(self) -> bool:
        """Check the signed note."""
        (data,) = await self._files.fetch(["checkpoint"])
        path = self._path("checkpoint")
        if data is None:
            self._findings.add(path, "is missing")
            return False
        try:
            written = parse_note(data)
            note = verify_note(written, self._rules.keys)
            checkpoint = Checkpoint.parse(note.text, self._rules.hasher.size)
        except Error as error:
            self._findings.add(path, error.message)
            return False
        own = [item for item in note.verified if item.key == self._rules.keys[0]]
        if written.encode() != data:
            self._findings.add(path, "is not written as a note is")
        if not own:
            self._findings.add(path, "is not signed by the CA")
            return False
        if note.unverified and not self._rules.allows_strangers:
            self._findings.add(path, "has a signature line that nobody known here made")
        origin = log_id(self._rules.ca_id, self._rules.log_number).oid_name
        if checkpoint.origin != origin:
            self._findings.add(path, f"is of {checkpoint.origin[:80]!r}, not of {origin}")
            return False
        timestamp = own[0].timestamp or 0
        if timestamp > posix_seconds(self._now) + _MAX_SKEW_S:
            self._findings.add(path, f"was signed in the future, at {datetime.fromtimestamp(timestamp, UTC):%FT%TZ}")
        self._findings.count("signatures", len(own))
        self.log.tree_size, self.log.root_hash = checkpoint.tree_size, checkpoint.root_hash
        self.log.timestamp, self.log.checkpoint = timestamp, data
        return True

    async def _read_landmarks(self) -> None:
        """Read the landmarks file, and note at which sizes the latest notAfter is wanted."""
        (data,) = await self._files.fetch(["landmarks"])
        path = self._path("landmarks")
        if data is None:
            self._findings.add(path, "is missing")
            return
        try:
            landmarks = ActiveLandmarks.parse(data, self._now, self._rules.revision)
        except Error as error:
            self._findings.add(path, error.message)
            return
        if landmarks.encode() != data:
            self._findings.add(path, "is not written as its format asks")
        if landmarks.latest.tree_size > self.log.tree_size:
            self._findings.add(path, f"has a landmark at {landmarks.latest.tree_size} entries, behind the checkpoint")
        self.log.landmarks = landmarks
        self._findings.count("landmarks", len(landmarks.landmarks))

    async def _check_tree(self) -> None:
        """Walk the entries and the tiles of every level."""
        size, hasher = self.log.tree_size, self._rules.hasher
        frontier, above = Frontier(), bytearray()
        sizes = sorted({mark.tree_size for mark in (self.log.landmarks.landmarks if self.log.landmarks else ())})
        count = -(-size // TILE_WIDTH)
        for first in range(0, count, _CHUNK):
            numbers = range(first, min(first + _CHUNK, count))
            for row in await self._check_bundles(numbers, sizes):
                if len(row) == TILE_WIDTH * hasher.size:
                    above += _fold(hasher, row)
                frontier = frontier.extended(hasher, row)
            self._tell(min((first + _CHUNK) * TILE_WIDTH, size), size)
        if frontier.root(hasher) != self.log.root_hash:
            self._findings.add(self._path("checkpoint"), "the entries do not hash to the signed root")
        await self._check_levels(bytes(above))

    async def _check_bundles(self, numbers: range, sizes: Sequence[int]) -> list[bytes]:
        """Check some bundles against their tiles; return the row of each, as its entries hash, or the tile says."""
        size, hasher = self.log.tree_size, self._rules.hasher
        places = [EntriesTile(number, min(TILE_WIDTH, size - number * TILE_WIDTH)) for number in numbers]
        tiles = [Tile(0, place.index, place.width) for place in places]
        found = await self._files.fetch([*(place.path for place in places), *(tile.path for tile in tiles)])
        rows = []
        for place, tile, bundle, content in zip(places, tiles, found[: len(places)], found[len(places) :], strict=True):
            is_pruned = is_prunable(place, self._rules.minimum_index)
            row = content or b""
            if content is None and not is_pruned:
                self._findings.add(self._path(tile.path), "is missing")
            if bundle is not None:
                row = self._check_entries(place, bundle, sizes) or row
                if content is not None and row != content:
                    self._findings.add(self._path(tile.path), "holds other hashes than its entries have")
                    self._findings.add(self._path(place.path), "holds other entries than its tile has hashes of")
            elif not is_pruned:
                self._findings.add(self._path(place.path), "is missing")
            self._findings.count("bundles", bundle is not None)
            self._findings.count("tiles", content is not None)
            rows.append(row if len(row) == place.width * hasher.size else bytes(place.width * hasher.size))
        return rows

    def _check_entries(self, place: EntriesTile, bundle: bytes, sizes: Sequence[int]) -> bytes | None:
        """Check the entries of a bundle; return the row of their hashes, None when it is no bundle."""
        path = self._path(place.path)
        try:
            entries = EntryBundle.parse(bundle, place.width).entries
        except Error as error:
            self._findings.add(path, error.message)
            return None
        for index, entry in enumerate(entries, place.index * TILE_WIDTH):
            if index in sizes:
                self.log.ends_by_size[index] = self.log.latest_not_after
            try:
                self._check_entry(index, entry)
            except Error as error:
                self._findings.add(path, f"entry {index}: {error.message}")
        self._findings.count("entries", len(entries))
        return self._rules.hasher.leaves(entries)

    def _check_entry(self, index: int, data: bytes) -> None:
        """Check one entry: its form, its issuer, its counter. Raises Error."""
        entry = LogEntry.parse(data)
        if entry.encode(self._rules.revision) != data:
            raise _fault("is not written as its format asks")
        log = self.log
        is_accumulated = entry.type == ACCUMULATED_ENTRY
        counter = accumulated_count(entry)
        if index == 0:
            log.has_counter = counter is not None
        if entry.type not in (EntryType.NULL, EntryType.TBS_CERT) and not (is_accumulated and log.has_counter):
            raise _fault(f"has type 0x{entry.type:04x}, which nobody knows")
        if any(extension.type != ACCUMULATED_COUNT or not log.has_counter for extension in entry.extensions):
            raise _fault("has an extension that nobody knows")
        log.accumulated += is_accumulated
        if log.has_counter and counter != log.accumulated:
            raise _fault(f"carries counter {counter} where {log.accumulated} should be")
        certified = entry.tbs_certificate
        if certified is not None:
            if certified.issuer != self._issuer:
                raise _fault("is issued by another CA")
            log.latest_not_after = max(log.latest_not_after, posix_seconds(certified.not_after))

    async def _check_levels(self, row: bytes) -> None:
        """Check the tiles above the lowest level. row: hashes of the full tiles below."""
        hasher, level = self._rules.hasher, 1
        full = TILE_WIDTH * hasher.size
        while row:
            above = bytearray()
            for number in range(-(-len(row) // full)):
                expected = row[number * full : (number + 1) * full]
                tile = Tile(level, number, len(expected) // hasher.size)
                (content,) = await self._files.fetch([tile.path])
                if content is None and not is_prunable(tile, self._rules.minimum_index):
                    self._findings.add(self._path(tile.path), "is missing")
                elif content is not None and content != expected:
                    self._findings.add(self._path(tile.path), "holds other hashes than the tiles below it")
                self._findings.count("tiles", content is not None)
                if tile.is_full:
                    above += _fold(hasher, expected)
            row, level = bytes(above), level + 1

    def _check_landmark_ends(self) -> None:
        """Check that no entry outlives a landmark that covers it."""
        ends = self.log.ends_by_size | {self.log.tree_size: self.log.latest_not_after}
        for landmark in self.log.landmarks.landmarks if self.log.landmarks else ():
            end = ends.get(landmark.tree_size, 0)
            if landmark.number and landmark.expiry is not None and landmark.expiry < end:
                text = f"landmark {landmark.number} expires before an entry below it"
                self._findings.add(self._path("landmarks"), text)

    async def _check_strays(self) -> None:
        """Check files that the present tree does not need: superseded partial tiles, and what does not belong here."""
        paths = await self._files.list_paths()
        for path in paths or ():
            if path in ("checkpoint", "landmarks"):
                continue
            try:
                place = parse_tile_path(path)
            except FormatError:
                self._findings.add(self._path(path), "does not belong here")
                continue
            width = width_in_tree(place.full, self.log.tree_size)
            if width == place.width:
                continue
            if width < place.width:
                self._findings.add(self._path(path), "lies beyond the checkpoint")
                continue
            await self._check_superseded(place, width)

    async def _check_superseded(self, place: Tile | EntriesTile, width: int) -> None:
        """Check that a partial tile or bundle is the beginning of the one that took its place."""
        later = replace(place, width=width)
        data, whole = await self._files.fetch([place.path, later.path])
        self._findings.count("superseded")
        if data is None or whole is None:
            return
        if isinstance(place, Tile):
            expected = whole[: place.width * self._rules.hasher.size]
        else:
            try:
                expected = EntryBundle(EntryBundle.parse(whole, width).entries[: place.width]).encode()
            except Error:
                return
        if data != expected:
            self._findings.add(self._path(place.path), f"is not the beginning of {later.path}")

    async def subtree_hashes(self, subtrees: Sequence[Subtree]) -> dict[Subtree, bytes]:
        """Return the hashes of subtrees of the checked tree, from tiles that are proven again."""
        hasher, size = self._rules.hasher, self.log.tree_size
        hashes: dict[Subtree, bytes] = {}
        wanted = [subtree for subtree in dict.fromkeys(subtrees) if not subtree.is_empty and subtree.end <= size]
        for at in range(0, len(wanted), _SUBTREES_AT_ONCE):
            some = wanted[at : at + _SUBTREES_AT_ONCE]
            recorder = NodeRecorder(hasher)
            for subtree in some:
                subtree_hash(hasher, recorder, subtree)
            tiles = tiles_for_nodes(size, recorder.nodes)
            contents = await self._files.fetch([tile.path for tile in tiles])
            found = {tile: content for tile, content in zip(tiles, contents, strict=True) if content is not None}
            try:
                proven = verify_tiles(hasher, size, self.log.root_hash, found)
                hashes |= {subtree: subtree_hash(hasher, proven, subtree) for subtree in some}
            except Error as error:
                self._findings.add(self._path("tile"), f"hashes of earlier trees cannot be computed: {error.message}")
        return hashes


def _fold(hasher: Hasher, row: bytes) -> bytes:
    """Return the hash that a full tile has in the tile above."""
    for _ in range(TILE_HEIGHT):
        row = hasher.fold(row)
    return row


def _fault(what: str) -> Error:
    """Make the error for an entry that must not be there."""
    return FormatError(Reason.BAD_ENTRY_TYPE, what)
