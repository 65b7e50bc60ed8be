"""Checkpoints: which log, how large, which root. The text of a note.

Spec: C2SP tlog-checkpoint, "Note text".
"""

import re
from dataclasses import dataclass

from mtc.errors import FormatError, Reason
from mtc.note.note import decode_text
from mtc.wire import decode_base64, decode_decimal, encode_base64

MAX_CHECKPOINT_SIZE = 2**63 - 1
"""Largest tree size read, as in implementations that count in signed 64-bit integers; an issuance log has 48 bits."""

_LINE = re.compile(r"[^\x00-\x1f\ud800-\udfff]+")


def check_origin(origin: str) -> None:
    """Raise FormatError (BAD_NAME) for an origin that cannot be a line of a note."""
    if not _LINE.fullmatch(origin):
        raise FormatError(Reason.BAD_NAME, f"{origin[:80]!r} is no log origin: it is empty or has a control character")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a log: its origin, its size and its root hash.

    origin: a non-empty line; for an issuance log `TrustAnchorID.oid_name` of the log ID. tree_size: number of entries,
    at most `MAX_CHECKPOINT_SIZE`. extensions: further non-empty lines, discouraged, and not covered by ML-DSA-44
    cosignatures. Raises FormatError (BAD_NAME, BAD_CHECKPOINT).
    """

    origin: str
    tree_size: int
    root_hash: bytes
    extensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be written as a checkpoint."""
        check_origin(self.origin)
        if not 0 <= self.tree_size <= MAX_CHECKPOINT_SIZE:
            raise FormatError(Reason.BAD_CHECKPOINT, f"{self.tree_size} is no size of a tree", got=self.tree_size)
        if not self.root_hash:
            raise FormatError(Reason.BAD_CHECKPOINT, "a checkpoint has a root hash")
        if not all(map(_LINE.fullmatch, self.extensions)):
            raise FormatError(
                Reason.BAD_CHECKPOINT, "an extension line of a checkpoint is not empty and has no control characters"
            )

    @staticmethod
    def parse(text: bytes, hash_size: int = 32) -> "Checkpoint":
        """Read the text of a note, strictly; the root must have `hash_size` bytes. Nothing is verified.

        Raises FormatError: BAD_TEXT, BAD_CHECKPOINT (lines), BAD_NAME, BAD_NUMBER, BAD_BASE64, BAD_HASH_SIZE.
        """
        lines = decode_text(text).split("\n")
        if len(lines) < 4 or lines.pop():
            raise FormatError(
                Reason.BAD_CHECKPOINT,
                "a checkpoint has three lines, origin, tree size and root hash, each with a newline",
            )
        origin, size, root, *extensions = lines
        root_hash = decode_base64(root, "the root hash of the checkpoint")
        if len(root_hash) != hash_size:
            raise FormatError(
                Reason.BAD_HASH_SIZE,
                f"the root hash of the checkpoint has {len(root_hash)} bytes, not {hash_size}",
                expected=hash_size,
                got=len(root_hash),
            )
        tree_size = decode_decimal(size, MAX_CHECKPOINT_SIZE, "the tree size of the checkpoint")
        return Checkpoint(origin, tree_size, root_hash, tuple(extensions))

    def encode(self) -> bytes:
        """Return the text to be signed as a note."""
        lines = (self.origin, str(self.tree_size), encode_base64(self.root_hash), *self.extensions, "")
        return "\n".join(lines).encode()
