"""What stays of a round after it was published."""

from collections.abc import Mapping
from dataclasses import dataclass

from mtc.cert import SubtreeSignature
from mtc.errors import FormatError, Reason
from mtc.merkle import Subtree
from mtc.wire import Reader, Writer

_VERSION = 1


def ledger_prefix(log_number: int) -> str:
    """Return what the keys of a log's ledger begin with."""
    return f"private/ledger/{log_number}/"


@dataclass(frozen=True, slots=True)
class SignedRound:
    """What stays of a round after it was published: its tree, requests with their indices, cosignatures by subtree.

    A certificate can be made from it and the tiles at any later time. More cosignatures may come later. timestamp:
    POSIX seconds. checkpoint: the signed note, as it was published.
    """

    old_size: int
    new_size: int
    root_hash: bytes
    timestamp: int
    checkpoint: bytes
    indices: Mapping[bytes, int]
    signatures: Mapping[Subtree, tuple[SubtreeSignature, ...]]

    def encode(self) -> bytes:
        """Return the round's bytes."""
        writer = Writer().uint(_VERSION, 1).uint(self.old_size, 6).uint(self.new_size, 6)
        writer.vector(self.root_hash, 1).uint(self.timestamp, 8).vector(self.checkpoint, 4)
        writer.uint(len(self.indices), 4)
        writer.bytes(
            b"".join(
                [
                    b"%c%b%b" % (len(request), request, index.to_bytes(6, "big"))
                    for request, index in sorted(self.indices.items())
                ]
            )
        )
        writer.uint(len(self.signatures), 1)
        for subtree in sorted(self.signatures):
            writer.uint(subtree.start, 6).uint(subtree.end, 6).uint(len(self.signatures[subtree]), 1)
            for signature in self.signatures[subtree]:
                writer.vector(signature.cosigner_id, 1).vector(signature.signature, 2)
        return writer.encode()

    @staticmethod
    def parse(data: bytes) -> "SignedRound":
        """Read a round, which must fill `data`. Raises FormatError."""
        reader = Reader(data, "the signed round")
        if (version := reader.read_uint(1)) != _VERSION:
            raise FormatError(Reason.BAD_VERSION, f"the signed round has version {version}, known is {_VERSION}")
        old_size, new_size = reader.read_uint(6), reader.read_uint(6)
        root_hash, timestamp, checkpoint = reader.read_vector(1), reader.read_uint(8), reader.read_vector(4)
        indices: dict[bytes, int] = {}
        for _ in range(reader.read_uint(4)):
            request = reader.read_vector(1)
            indices[request] = reader.read_uint(6)
        signatures: dict[Subtree, tuple[SubtreeSignature, ...]] = {}
        for _ in range(reader.read_uint(1)):
            subtree = Subtree(reader.read_uint(6), reader.read_uint(6))
            signatures[subtree] = tuple(
                SubtreeSignature(reader.read_vector(1), reader.read_vector(2)) for _ in range(reader.read_uint(1))
            )
        reader.finish()
        if old_size > new_size or any(not old_size <= index < new_size for index in indices.values()):
            raise FormatError(Reason.BAD_NUMBER, f"the signed round from {old_size} to {new_size} contradicts itself")
        return SignedRound(old_size, new_size, root_hash, timestamp, checkpoint, indices, signatures)

    @staticmethod
    def key_of(log_number: int, new_size: int) -> str:
        """Return the key under which the round that led to `new_size` entries is kept."""
        return f"{ledger_prefix(log_number)}round/{new_size:015d}"
