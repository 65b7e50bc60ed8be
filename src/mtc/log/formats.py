"""The two values that make a log crash-safe: the record in the register, and the staged round beside it.

The record decides which tree is true. It is swapped before anything is signed or published, and it names the staged
round, by digest, from which everything that the tree needs can be published again. Both are private to one CA and carry
a version.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from mtc.errors import FormatError, Reason
from mtc.ids import MAX_LOG_NUMBER
from mtc.merkle import MAX_TREE_SIZE, Subtree
from mtc.wire import Reader, Writer

MAX_REQUEST_KEY_BYTES = 255
"""Longest idempotency key of a request."""

_RECORD_VERSION, _EVIDENCE_VERSION = 1, 2
_STAGED_VERSION = 1
_MAX_TIME = 2**63 - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRecord:
    """What the register holds for one log: the intended tree and what must never go backwards.

    log_number: 1 to 65535. tree_size: entries. root_hash: of that tree. timestamp: POSIX seconds of the checkpoint.
    accumulated_count: how many accumulated entries there are. latest_not_after: POSIX seconds, of all entries, 0
    without one. staged_digest: SHA-256 of the staged round that leads to this tree; empty for a new log. has_counter:
    entries carry the accumulated counter, chosen when the log is created. minimum_index: entries below it are pruned, 0
    without pruning. is_closed: the next log took over, and this one takes no more entries.

    evidence_until: POSIX seconds until which the validation behind the newest round's entries may be used to sign its
    tree; 0 when it never ends. before: the encoded record to go back to when that moment passes first; only with
    `evidence_until`. They stand here and not in the staged round, because whoever goes back swaps this record.
    """

    log_number: int
    tree_size: int
    root_hash: bytes
    timestamp: int
    accumulated_count: int = 0
    latest_not_after: int = 0
    staged_digest: bytes = b""
    has_counter: bool = False
    minimum_index: int = 0
    is_closed: bool = False
    evidence_until: int = 0
    before: bytes = b""

    def __post_init__(self) -> None:
        """Refuse a record that no log can have."""
        if not 1 <= self.log_number <= MAX_LOG_NUMBER or not 0 <= self.tree_size <= MAX_TREE_SIZE:
            raise FormatError(
                Reason.BAD_NUMBER, f"log {self.log_number} with {self.tree_size} entries cannot be", log=self.log_number
            )
        if not 0 <= self.accumulated_count <= self.tree_size:
            raise FormatError(Reason.BAD_NUMBER, f"{self.accumulated_count} is no count of accumulated entries")
        if not 0 <= self.minimum_index <= self.tree_size:
            raise FormatError(Reason.BAD_NUMBER, f"{self.minimum_index} is no minimum index of this log")
        if not 0 <= self.timestamp <= _MAX_TIME or not 0 <= self.latest_not_after <= _MAX_TIME:
            raise FormatError(Reason.BAD_TIME, "a time of the log record is out of range")
        if not 0 <= self.evidence_until <= _MAX_TIME or bool(self.evidence_until) != bool(self.before):
            raise FormatError(Reason.BAD_TIME, "the log record's end of evidence has no way back, or the reverse")

    @property
    def settled(self) -> "LogRecord":
        """The record without a way back, once its tree is signed."""
        return replace(self, evidence_until=0, before=b"")

    def encode(self) -> bytes:
        """Return the record's bytes; those of a round without evidence are as they were before there was any."""
        writer = (
            Writer()
            .uint(_EVIDENCE_VERSION if self.evidence_until else _RECORD_VERSION, 1)
            .uint(self.log_number, 2)
            .uint(self.tree_size, 6)
            .vector(self.root_hash, 1)
            .uint(self.timestamp, 8)
            .uint(self.accumulated_count, 6)
            .uint(self.latest_not_after, 8)
            .vector(self.staged_digest, 1)
            .uint(self.has_counter, 1)
            .uint(self.minimum_index, 6)
            .uint(self.is_closed, 1)
        )
        if self.evidence_until:
            writer.uint(self.evidence_until, 8).vector(self.before, 2)
        return writer.encode()

    @staticmethod
    def parse(data: bytes) -> "LogRecord":
        """Read a record, which must fill `data`. Raises FormatError."""
        reader = Reader(data, "the log record")
        version = reader.read_uint(1)
        if version != _EVIDENCE_VERSION:
            _check_version(version, _RECORD_VERSION, "the log record")
        record = LogRecord(
            log_number=reader.read_uint(2),
            tree_size=reader.read_uint(6),
            root_hash=reader.read_vector(1, least=1),
            timestamp=reader.read_uint(8),
            accumulated_count=reader.read_uint(6),
            latest_not_after=reader.read_uint(8),
            staged_digest=reader.read_vector(1, most=32),
            has_counter=_read_flag(reader),
            minimum_index=reader.read_uint(6),
            is_closed=_read_flag(reader),
        )
        if version == _EVIDENCE_VERSION:
            # One record has one encoding, because the register compares bytes.
            until, before = reader.read_uint(8), reader.read_vector(2, least=1)
            record = replace(record, evidence_until=until, before=before)
        reader.finish()
        return record


@dataclass(frozen=True, slots=True)
class StagedRound:
    """Everything that a round publishes, in one object, and which request became which entry.

    old_size, new_size: entries before and after. objects: by key, what must be served before the checkpoint may be.
    indices: entry index by the request's idempotency key, so that a repeated request finds its entry after any crash.
    subtrees: the covering subtrees of the new entries with their hashes, to be signed.
    """

    old_size: int
    new_size: int
    objects: Mapping[str, bytes]
    indices: Mapping[bytes, int] = field(default_factory=dict)
    subtrees: tuple[tuple[Subtree, bytes], ...] = ()

    def encode(self) -> bytes:
        """Return the round's bytes; objects and indices in the order of their keys."""
        writer = Writer().uint(_STAGED_VERSION, 1).uint(self.old_size, 6).uint(self.new_size, 6)
        writer.uint(len(self.objects), 4)
        for key in sorted(self.objects):
            writer.vector(key.encode("ascii"), 2).vector(self.objects[key], 4)
        writer.uint(len(self.indices), 4)
        # One join for all of them: a round may hold fifty thousand.
        writer.bytes(
            b"".join(
                [
                    b"%c%b%b" % (len(request), request, index.to_bytes(6, "big"))
                    for request, index in sorted(self.indices.items())
                ]
            )
        )
        writer.uint(len(self.subtrees), 1)
        for subtree, value in self.subtrees:
            writer.uint(subtree.start, 6).uint(subtree.end, 6).vector(value, 1)
        return writer.encode()

    @staticmethod
    def parse(data: bytes) -> "StagedRound":
        """Read a round, which must fill `data`. Raises FormatError."""
        reader = Reader(data, "the staged round")
        _check_version(reader.read_uint(1), _STAGED_VERSION, "the staged round")
        old_size, new_size = reader.read_uint(6), reader.read_uint(6)
        objects: dict[str, bytes] = {}
        for _ in range(reader.read_uint(4)):
            try:
                key = reader.read_vector(2).decode("ascii")
            except UnicodeDecodeError:
                raise FormatError(Reason.BAD_TEXT, "the staged round has a key that is not ASCII") from None
            objects[key] = reader.read_vector(4)
        indices: dict[bytes, int] = {}
        for _ in range(reader.read_uint(4)):
            request = reader.read_vector(1)
            indices[request] = reader.read_uint(6)
        subtrees = tuple(
            (Subtree(reader.read_uint(6), reader.read_uint(6)), reader.read_vector(1))
            for _ in range(reader.read_uint(1))
        )
        reader.finish()
        if old_size > new_size or any(not old_size <= index < new_size for index in indices.values()):
            raise FormatError(Reason.BAD_NUMBER, f"the staged round from {old_size} to {new_size} contradicts itself")
        return StagedRound(old_size, new_size, objects, indices, subtrees)

    @staticmethod
    def key_of(log_number: int, new_size: int, digest: bytes) -> str:
        """Return the key under which a round is staged; rounds that differ have different keys."""
        return f"{staging_prefix(log_number)}{new_size}-{digest.hex()}"


def public_prefix(log_number: int) -> str:
    """Return what the keys of a log's served objects begin with; behind it stands the path that clients ask for."""
    return f"public/{log_number}/"


def owed_prefix(log_number: int) -> str:
    """Return what the keys of a log's rounds begin with that are signed and lack their quorum."""
    return f"private/owed/{log_number}/"


def staging_prefix(log_number: int) -> str:
    """Return what the keys of a log's staged rounds begin with."""
    return f"private/staging/{log_number}/"


def digest_of(staged: bytes) -> bytes:
    """Return the digest of an encoded staged round, as the record names it."""
    return hashlib.sha256(staged).digest()


def _read_flag(reader: Reader) -> bool:
    """Read a byte that is 0 or 1."""
    value = reader.read_uint(1)
    if value > 1:
        raise FormatError(Reason.BAD_BOOLEAN, f"a flag of the log record is {value}", got=value)
    return value == 1


def _check_version(got: int, expected: int, what: str) -> None:
    """Raise FormatError for a version that this program did not write."""
    if got != expected:
        raise FormatError(
            Reason.BAD_VERSION,
            f"{what} has version {got}, this program knows {expected}; use the program that wrote it",
        )
