"""What stays of a round after it was published, and how objects of the ledger are protected.

Nothing signs these objects, and a request whose key is lost would be certified twice. So each object ends in a digest
of its key and its bytes: a flipped bit, or a file under another's name, is found when it is read.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate, pairwise

from mtc.cert import SubtreeSignature
from mtc.errors import FormatError, Reason, UsageError
from mtc.log.formats import MAX_REQUEST_KEY_BYTES
from mtc.merkle import MAX_TREE_SIZE, Subtree
from mtc.wire import Reader, Writer

MAX_ROUND_KEYS = 1 << 24
"""Most entries of a round with request keys, so that no table of keys outgrows memory; a round holds 50,000."""
SIZE_DIGITS = 15
"""Decimal digits of a tree size in a key, padded, so that keys sort as sizes do."""

_VERSION = 2
_DIGEST_BYTES = 32


def ledger_prefix(log_number: int) -> str:
    """Return what the keys of a log's ledger begin with."""
    return f"private/ledger/{log_number}/"


def protect(key: str, body: bytes) -> bytes:
    """Return the object that is stored under `key` for `body`."""
    return body + _digest(key, body)


def open_object(key: str, data: bytes) -> bytes:
    """Return the body of an object that was stored under `key`. Raises FormatError (DAMAGED) that names the key."""
    body = data[:-_DIGEST_BYTES]
    if len(data) < _DIGEST_BYTES or data[-_DIGEST_BYTES:] != _digest(key, body):
        raise FormatError(
            Reason.DAMAGED,
            f"{key} does not hold what was written under this key; bring a copy of it back from a backup",
            key=key,
        )
    return body


def _digest(key: str, body: bytes) -> bytes:
    """Return the digest that protects an object."""
    digest = hashlib.sha256(key.encode("ascii") + b"\0")
    digest.update(body)
    return digest.digest()


@dataclass(frozen=True, slots=True)
class SignedRound:
    """What stays of a round after it was published: its tree, requests with their indices, cosignatures by subtree.

    A certificate can be made from it and the tiles at any later time. More cosignatures may come later. old_size,
    new_size: entries before and after. timestamp: POSIX seconds. checkpoint: the signed note, as it was published.
    indices: entry index by request key; keys have 1 to 255 bytes, and no two have one index.
    """

    old_size: int
    new_size: int
    root_hash: bytes
    timestamp: int
    checkpoint: bytes
    indices: Mapping[bytes, int]
    signatures: Mapping[Subtree, tuple[SubtreeSignature, ...]]

    def __post_init__(self) -> None:
        """Refuse a round that cannot be."""
        old, new, indices = self.old_size, self.new_size, self.indices
        if not 0 <= old <= new <= MAX_TREE_SIZE:
            raise FormatError(Reason.BAD_NUMBER, f"no round leads from {old} to {new} entries")
        if indices:
            values = set(indices.values())
            lengths = set(map(len, indices))
            if len(values) != len(indices) or min(values) < old or max(values) >= new:
                raise FormatError(
                    Reason.BAD_NUMBER, f"the request keys of the round from {old} to {new} do not fit its entries"
                )
            if min(lengths) < 1 or max(lengths) > MAX_REQUEST_KEY_BYTES:
                raise FormatError(Reason.BAD_LENGTH, f"a request key has 1 to {MAX_REQUEST_KEY_BYTES} bytes")

    @property
    def keys(self) -> list[bytes]:
        """The request key of each entry in order, empty for none; an empty list when no entry has one."""
        if not self.indices:
            return []
        if self.new_size - self.old_size > MAX_ROUND_KEYS:
            raise UsageError(Reason.TOO_LARGE, f"a round with request keys has at most {MAX_ROUND_KEYS} entries")
        keys = [b""] * (self.new_size - self.old_size)
        old = self.old_size
        for key, index in self.indices.items():
            keys[index - old] = key
        return keys

    def encode(self, *, has_keys: bool = True) -> bytes:
        """Return the round's bytes. has_keys: with its request keys."""
        writer = Writer().uint(_VERSION, 1).uint(self.old_size, 6).uint(self.new_size, 6)
        writer.vector(self.root_hash, 1).uint(self.timestamp, 8).vector(self.checkpoint, 4)
        writer.uint(len(self.signatures), 1)
        for subtree in sorted(self.signatures):
            writer.uint(subtree.start, 6).uint(subtree.end, 6).uint(len(self.signatures[subtree]), 1)
            for signature in self.signatures[subtree]:
                writer.vector(signature.cosigner_id, 1).vector(signature.signature, 2)
        return writer.bytes(encode_keys(self.keys if has_keys else [])).encode()

    @staticmethod
    def parse(data: bytes) -> "SignedRound":
        """Read a round, which must fill `data`. Raises FormatError."""
        reader = Reader(data, "the signed round")
        if (version := reader.read_uint(1)) != _VERSION:
            raise FormatError(
                Reason.BAD_VERSION,
                f"the signed round has version {version}, this program knows {_VERSION}; use the program that wrote it",
            )
        old_size, new_size = reader.read_uint(6), reader.read_uint(6)
        root_hash, timestamp, checkpoint = reader.read_vector(1), reader.read_uint(8), reader.read_vector(4)
        signatures: dict[Subtree, tuple[SubtreeSignature, ...]] = {}
        for _ in range(reader.read_uint(1)):
            subtree = Subtree(reader.read_uint(6), reader.read_uint(6))
            signatures[subtree] = tuple(
                SubtreeSignature(reader.read_vector(1), reader.read_vector(2)) for _ in range(reader.read_uint(1))
            )
        keys = read_keys(reader)
        reader.finish()
        if keys and len(keys) != new_size - old_size:
            raise FormatError(
                Reason.BAD_NUMBER, f"the round from {old_size} to {new_size} has {len(keys)} places for request keys"
            )
        indices = {key: index for index, key in enumerate(keys, old_size) if key}
        return SignedRound(old_size, new_size, root_hash, timestamp, checkpoint, indices, signatures)

    @staticmethod
    def key_of(log_number: int, new_size: int) -> str:
        """Return the key under which the round that led to `new_size` entries is kept."""
        return f"{ledger_prefix(log_number)}round/{new_size:0{SIZE_DIGITS}d}"


def encode_keys(keys: list[bytes]) -> bytes:
    """Return a table of request keys: how many places, the length of each key in a byte, the keys.

    The lengths stand together, so that one key is found without reading the others.
    """
    return Writer().uint(len(keys), 4).bytes(bytes(map(len, keys))).bytes(b"".join(keys)).encode()


def read_keys(reader: Reader) -> list[bytes]:
    """Read a table of request keys. Raises FormatError."""
    lengths = reader.read_bytes(reader.read_uint(4))
    joined = reader.read_bytes(sum(lengths))
    return [joined[start:end] for start, end in pairwise(accumulate(lengths, initial=0))]
