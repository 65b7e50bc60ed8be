"""The bytes that every cosignature over a subtree covers, in certificates and in signed notes.

Spec: Merkle Tree Certificates, "Signature Format"; C2SP tlog-cosignature, "ML-DSA-44 signed message".
"""

from dataclasses import dataclass
from functools import lru_cache

from mtc.errors import FormatError, Reason
from mtc.ids import TrustAnchorID
from mtc.merkle import Subtree
from mtc.note.checkpoint import Checkpoint, check_origin
from mtc.note.note import check_key_name
from mtc.wire import Reader

MAX_TIMESTAMP = 2**63 - 1
"""Largest timestamp of a cosignature, POSIX seconds."""
MAX_NAME_BYTES = 255
"""Longest cosigner name and log origin: their length has one byte."""

_LABEL = b"subtree/v1\n\0"
_NO_TIME = bytes(8)


@dataclass(frozen=True, slots=True)
class CosignedMessage:
    """One cosigner's statement about one subtree of one log.

    cosigner_name: a key name. log_origin: a checkpoint's first line. Both have 1 to 255 bytes; in certificates they are
    `TrustAnchorID.oid_name` (`for_subtree`). subtree: any valid one, its end below 2^64. subtree_hash: of the log's
    hash size. timestamp: POSIX seconds, 0 in certificates; if it is not 0, the subtree starts at 0 and is the largest
    consistent tree that the cosigner has seen. Raises FormatError (BAD_NAME, BAD_TIME, BAD_SUBTREE, BAD_HASH_SIZE).
    """

    cosigner_name: str
    log_origin: str
    subtree: Subtree
    subtree_hash: bytes
    timestamp: int = 0

    def __post_init__(self) -> None:
        """Refuse a statement that no cosigner may make."""
        check_key_name(self.cosigner_name)
        check_origin(self.log_origin)
        # A character takes up to four bytes; shorter names, which is all that occur, need not be measured.
        for name in (self.cosigner_name, self.log_origin):
            if len(name) > MAX_NAME_BYTES // 4:
                _encode_name(name)
        if self.timestamp:
            check_timestamp(self.timestamp)
            if self.subtree.start:
                raise FormatError(
                    Reason.BAD_TIME, f"a statement about {self.subtree}, which does not start at 0, has timestamp 0"
                )
        if self.subtree.end >> 64:
            raise FormatError(Reason.BAD_SUBTREE, f"{self.subtree} does not fit 64 bits")
        if not self.subtree_hash:
            raise FormatError(Reason.BAD_HASH_SIZE, "a signed subtree has a hash")

    @staticmethod
    def for_subtree(
        cosigner_id: TrustAnchorID, log_id: TrustAnchorID, subtree: Subtree, subtree_hash: bytes, timestamp: int = 0
    ) -> "CosignedMessage":
        """Return the message that a cosignature in a certificate covers; log_id: caID.0.N."""
        return CosignedMessage(cosigner_id.oid_name, log_id.oid_name, subtree, subtree_hash, timestamp)

    @staticmethod
    def for_checkpoint(cosigner_name: str, checkpoint: Checkpoint, timestamp: int) -> "CosignedMessage":
        """Return the message that an ML-DSA-44 cosignature of a checkpoint covers; extension lines are not in it."""
        tree = Subtree(0, checkpoint.tree_size)
        return CosignedMessage(cosigner_name, checkpoint.origin, tree, checkpoint.root_hash, timestamp)

    @staticmethod
    def parse(data: bytes, hash_size: int = 32) -> "CosignedMessage":
        """Read a message, which must fill `data`. Raises FormatError with reason and offset."""
        reader = Reader(data, "the cosigned message")
        if reader.read_bytes(len(_LABEL)) != _LABEL:
            raise FormatError(Reason.UNKNOWN_FORMAT, "the cosigned message does not start with its label", offset=0)
        cosigner_name = _decode_name(reader)
        timestamp = reader.read_uint(8)
        log_origin = _decode_name(reader)
        start, end = reader.read_uint(8), reader.read_uint(8)
        subtree_hash = reader.read_bytes(hash_size)
        reader.finish()
        return CosignedMessage(cosigner_name, log_origin, Subtree(start, end), subtree_hash, timestamp)

    def encode(self) -> bytes:
        """Return the bytes to be signed."""
        return b"".join(
            (
                _LABEL,
                _encode_name(self.cosigner_name),
                self.timestamp.to_bytes(8, "big"),
                _encode_name(self.log_origin),
                self.subtree.start.to_bytes(8, "big"),
                self.subtree.end.to_bytes(8, "big"),
                self.subtree_hash,
            )
        )


def encode_subtree_message(
    cosigner_id: TrustAnchorID, log_id: TrustAnchorID, subtree: Subtree, subtree_hash: bytes
) -> bytes:
    """Return `CosignedMessage.for_subtree(…).encode()` without making the value: a verifier's hot path.

    IDs make valid names by construction, of at most 255 bytes where a certificate can carry the ID at all; a longer one
    raises FormatError (BAD_NAME). subtree_hash: of the log's hash size.
    """
    return b"".join(
        (
            _LABEL,
            _encode_id(cosigner_id),
            _NO_TIME,
            _encode_id(log_id),
            subtree.start.to_bytes(8, "big"),
            subtree.end.to_bytes(8, "big"),
            subtree_hash,
        )
    )


@lru_cache(maxsize=1024)
def _encode_id(anchor: TrustAnchorID) -> bytes:
    """Return the name of an ID behind its length."""
    return _encode_name(anchor.oid_name)


def check_timestamp(timestamp: int) -> None:
    """Raise FormatError (BAD_TIME) for a timestamp that no cosignature may have."""
    if not 0 <= timestamp <= MAX_TIMESTAMP:
        raise FormatError(Reason.BAD_TIME, f"{timestamp} is no timestamp of a cosignature", got=timestamp)


def _encode_name(name: str) -> bytes:
    """Return a name behind its length in one byte."""
    data = name.encode()
    if len(data) > MAX_NAME_BYTES:
        raise FormatError(
            Reason.BAD_NAME, f"{name[:80]!r}… has {len(data)} bytes, a signed message holds {MAX_NAME_BYTES}"
        )
    return bytes((len(data),)) + data


def _decode_name(reader: Reader) -> str:
    """Read a name behind its length."""
    at = reader.offset
    data = reader.read_vector(1, least=1)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise FormatError(
            Reason.BAD_TEXT, f"the cosigned message has a name that is not UTF-8 at byte {at}", offset=at
        ) from None
