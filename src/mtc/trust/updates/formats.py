"""Updates: the landmarks of many logs in one version, whole or as the difference to a version before.

An update carries a policy document where that changed, and per log a run of landmarks with either the hashes of their
subtrees, for readers that trust the service, or what proves these hashes to everybody: a cosigned tree and one bulk
proof. Everything is binary, in the TLS presentation language; `varint` is base 128, most significant first, minimal.

Spec: none; the format is this project's own (docs/updates.md).
"""

from dataclasses import dataclass
from itertools import pairwise

from mtc.errors import FormatError, Reason
from mtc.ids import MAX_ID_BYTES, MAX_LOG_NUMBER, TrustAnchorID
from mtc.landmark import Landmark
from mtc.merkle import MAX_TREE_SIZE, Subtree, cover, split_row
from mtc.wire import Reader, Writer
from mtc.wire.der import encode_base128

HASH_BYTES = 32
"""Bytes of every hash here: all tree hashes of the project have 256 bits."""
MAX_LANDMARKS = 40_000
"""Most landmarks in one run, about as many as the largest landmarks file holds."""
MAX_TREES = 64
"""Most cosigned trees of one log: one per cosigner is the worst case."""
NO_POLICY = b""

_MAX_VARINT_BYTES = 10


@dataclass(frozen=True, slots=True)
class TreeSignature:
    """One cosignature of a tree. timestamp: POSIX seconds that it states; 0 states nothing."""

    cosigner_id: TrustAnchorID
    timestamp: int
    signature: bytes


@dataclass(frozen=True, slots=True)
class CosignedTree:
    """A tree of a log and who signed it; nothing is verified.

    proof: consistency proof from the first tree of the list to this one; empty in the first.
    """

    tree_size: int
    root_hash: bytes
    signatures: tuple[TreeSignature, ...]
    proof: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class LogUpdate:
    """What an update says about one log.

    landmarks: consecutive, oldest first; the first one is known or expired and only says where the second begins.
    oldest: number of the landmark from which on the reader keeps what it has; its own subtrees are gone. trees, hashes:
    with trees, cosigned ones, hashes is a bulk proof in the first of them; without, the hashes of the subtrees in
    the order of `landmark_subtrees`.
    """

    ca_id: TrustAnchorID
    log_number: int
    oldest: int
    landmarks: tuple[Landmark, ...]
    hashes: tuple[bytes, ...]
    trees: tuple[CosignedTree, ...] = ()

    @property
    def key(self) -> tuple[bytes, int]:
        """Binary CA ID and log number."""
        return self.ca_id.binary, self.log_number


@dataclass(frozen=True, slots=True)
class Update:
    """One version of everything, or what changed since `base`.

    version: the POSIX second at which it was made, so that versions grow, and nobody can name one far ahead. base: 0 in
    a whole one; otherwise the version that a reader must hold. policy_digest: SHA-256 of the policy's payload that it
    belongs to. policy: that document as signed, `NO_POLICY` in a delta whose base belongs to the same.
    Raises FormatError (DUPLICATE, BAD_VERSION).
    """

    version: int
    base: int
    policy_digest: bytes
    policy: bytes
    logs: tuple[LogUpdate, ...]

    def __post_init__(self) -> None:
        """Refuse a log that stands twice, and a base that is not older."""
        if len({log.key for log in self.logs}) != len(self.logs):
            raise FormatError(Reason.DUPLICATE, "a log stands twice in one update")
        if self.version <= self.base:
            raise FormatError(Reason.BAD_VERSION, f"version {self.version} cannot follow {self.base}")
        if not self.base and not self.policy:
            raise FormatError(Reason.BAD_DOCUMENT, "a whole update carries its policy document")

    @staticmethod
    def parse(data: bytes) -> "Update":
        """Read an update, which must fill `data`. Raises FormatError."""
        reader = Reader(data, "the update")
        version, base = reader.read_uint(8), reader.read_uint(8)
        digest = reader.read_bytes(HASH_BYTES)
        policy = reader.read_vector(4)
        logs = tuple(_read_log(reader) for _ in range(reader.read_uint(4)))
        reader.finish()
        return Update(version, base, digest, policy, logs)

    def encode(self) -> bytes:
        """Return the bytes."""
        writer = Writer().uint(self.version, 8).uint(self.base, 8).bytes(self.policy_digest).vector(self.policy, 4)
        writer.uint(len(self.logs), 4)
        for log in self.logs:
            _write_log(writer, log)
        return writer.encode()


def landmark_subtrees(landmarks: tuple[Landmark, ...]) -> list[tuple[Landmark, Subtree]]:
    """Return the subtrees that are not empty of all landmarks but the first, oldest first, each with its landmark."""
    return [
        (after, subtree)
        for before, after in pairwise(landmarks)
        for subtree in cover(before.tree_size, after.tree_size)
        if not subtree.is_empty
    ]


def write_landmarks(writer: Writer, landmarks: tuple[Landmark, ...]) -> None:
    """Append a run of consecutive landmarks: the first in full, of the others what they add."""
    first = landmarks[0]
    has_expiry = first.expiry is not None
    writer.uint(has_expiry, 1).bytes(encode_base128(len(landmarks))).bytes(encode_base128(first.number))
    tree_size, expiry = 0, 0
    for landmark in landmarks:
        writer.bytes(encode_base128(landmark.tree_size - tree_size))
        tree_size = landmark.tree_size
        if landmark.expiry is not None:
            writer.bytes(encode_base128(landmark.expiry - expiry))
            expiry = landmark.expiry


def read_landmarks(reader: Reader) -> tuple[Landmark, ...]:
    """Read what `write_landmarks` wrote. Raises FormatError; whether the order is one, `check_run` tells."""
    has_expiry = reader.read_uint(1)
    if has_expiry > 1:
        raise FormatError(Reason.BAD_BOOLEAN, f"a run of landmarks starts with 0 or 1, not {has_expiry}")
    count, number = read_varint(reader), read_varint(reader)
    if not 1 <= count <= MAX_LANDMARKS:
        raise FormatError(Reason.TOO_LARGE, f"a run has 1 to {MAX_LANDMARKS} landmarks, this one {count}", got=count)
    landmarks = []
    tree_size, expiry = 0, 0
    for offset in range(count):
        tree_size += read_varint(reader)
        if has_expiry:
            expiry += read_varint(reader)
        landmarks.append(Landmark(number + offset, tree_size, expiry if has_expiry else None))
    return tuple(landmarks)


def read_varint(reader: Reader) -> int:
    """Read a number in base 128, below 2^63. Raises FormatError (BAD_INTEGER, TRUNCATED)."""
    value = 0
    for position in range(_MAX_VARINT_BYTES):
        byte = reader.read_uint(1)
        if position == 0 and byte == 0x80:
            raise FormatError(Reason.BAD_INTEGER, "a number has a leading zero", offset=reader.offset - 1)
        value = value << 7 | byte & 0x7F
        if byte < 0x80:
            if value >> 63:
                break
            return value
    raise FormatError(Reason.BAD_INTEGER, "a number does not fit 63 bits", offset=reader.offset)


def write_hashes(writer: Writer, hashes: tuple[bytes, ...]) -> None:
    """Append hashes as one row behind its length."""
    writer.vector(b"".join(hashes), 4)


def read_hashes(reader: Reader) -> tuple[bytes, ...]:
    """Read a row of hashes. Raises FormatError."""
    row = reader.read_vector(4)
    if len(row) % HASH_BYTES:
        raise FormatError(Reason.BAD_HASH_SIZE, f"{len(row)} bytes are no whole hashes", offset=reader.offset)
    return tuple(split_row(row, HASH_BYTES))


def write_tree(writer: Writer, tree: CosignedTree) -> None:
    """Append a cosigned tree."""
    writer.bytes(encode_base128(tree.tree_size)).bytes(tree.root_hash)
    write_hashes(writer, tree.proof)
    writer.uint(len(tree.signatures), 1)
    for item in tree.signatures:
        writer.vector(item.cosigner_id.binary, 1).uint(item.timestamp, 8).vector(item.signature, 2)


def read_log_key(reader: Reader) -> tuple[TrustAnchorID, int]:
    """Read the ID of a CA and the number of one of its logs. Raises FormatError."""
    ca_id = TrustAnchorID(reader.read_vector(1, least=1, most=MAX_ID_BYTES))
    log_number = reader.read_uint(2)
    if not 1 <= log_number <= MAX_LOG_NUMBER:
        raise FormatError(Reason.BAD_NUMBER, f"{log_number} is not a log number from 1 to {MAX_LOG_NUMBER}")
    return ca_id, log_number


def _write_log(writer: Writer, log: LogUpdate) -> None:
    """Append one log."""
    writer.vector(log.ca_id.binary, 1).uint(log.log_number, 2).bytes(encode_base128(log.oldest))
    write_landmarks(writer, log.landmarks)
    write_hashes(writer, log.hashes)
    writer.uint(len(log.trees), 1)
    for tree in log.trees:
        write_tree(writer, tree)


def _read_log(reader: Reader) -> LogUpdate:
    """Read one log."""
    ca_id, log_number = read_log_key(reader)
    oldest = read_varint(reader)
    landmarks = read_landmarks(reader)
    hashes = read_hashes(reader)
    count = reader.read_uint(1)
    if count > MAX_TREES:
        raise FormatError(Reason.TOO_LARGE, f"a log has at most {MAX_TREES} trees in an update, this one {count}")
    trees = tuple(read_tree(reader) for _ in range(count))
    return LogUpdate(ca_id, log_number, oldest, landmarks, hashes, trees)


def read_tree(reader: Reader) -> CosignedTree:
    """Read what `write_tree` wrote. Raises FormatError."""
    tree_size = read_varint(reader)
    if tree_size > MAX_TREE_SIZE:
        raise FormatError(Reason.BAD_CHECKPOINT, f"{tree_size} is no size of a tree", got=tree_size)
    root = reader.read_bytes(HASH_BYTES)
    proof = read_hashes(reader)
    signatures = tuple(
        TreeSignature(
            TrustAnchorID(reader.read_vector(1, least=1)), reader.read_uint(8), reader.read_vector(2, least=1)
        )
        for _ in range(reader.read_uint(1))
    )
    return CosignedTree(tree_size, root, signatures, proof)
