"""The two requests whose bodies are text: add-checkpoint and sign-subtree. Nothing is verified here.

Both are a line, 0 to 63 proof hashes in base64, an empty line, and a checkpoint as a signed note.

Spec: C2SP tlog-witness, "add-checkpoint" and "sign-subtree".
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mtc.errors import FormatError, Reason
from mtc.merkle import Subtree
from mtc.note import MAX_CHECKPOINT_SIZE, MAX_NOTE_BYTES, Checkpoint, Note, parse_note
from mtc.wire import decode_base64, decode_decimal, encode_base64

MAX_PROOF_LINES = 63
"""Most hashes of a proof in a request."""
MAX_TEXT_BYTES = MAX_NOTE_BYTES + 64 * 128
"""Largest body of both requests: a note, and the lines before it."""

_MAX_END = 2**63 - 1


@dataclass(frozen=True, slots=True)
class AddCheckpoint:
    """Asks a cosigner to take a larger checkpoint: from `old_size`, by `proof`, to the checkpoint in `note`.

    checkpoint: what the note says, unverified. proof: RFC 6962 consistency proof, hashes of 32 bytes.
    """

    old_size: int
    proof: tuple[bytes, ...]
    note: Note
    checkpoint: Checkpoint

    @staticmethod
    def parse(body: bytes) -> "AddCheckpoint":
        """Read the body of a request, strictly. Raises FormatError."""
        (word, *values), proof, note = _split(body, "add-checkpoint")
        if word != "old" or len(values) != 1:
            raise FormatError(Reason.BAD_TEXT, "the first line of add-checkpoint is: old <size>")
        old_size = decode_decimal(values[0], MAX_CHECKPOINT_SIZE, "the old size")
        return AddCheckpoint(old_size, proof, note, Checkpoint.parse(note.text))

    @staticmethod
    def encode(old_size: int, proof: Sequence[bytes], note: bytes) -> bytes:
        """Return the body of a request. note: a signed checkpoint."""
        return _join(f"old {old_size}", proof, note)


@dataclass(frozen=True, slots=True)
class SignSubtree:
    """Asks for a cosignature over a subtree, because the tree of a cosigned checkpoint contains it.

    subtree_hash: 32 bytes. proof: subtree consistency proof. note: the checkpoint, with the asked cosigner's own
    signature. checkpoint: what it says, unverified.
    """

    subtree: Subtree
    subtree_hash: bytes
    proof: tuple[bytes, ...]
    note: Note
    checkpoint: Checkpoint

    @staticmethod
    def parse(body: bytes) -> "SignSubtree":
        """Read the body of a request, strictly. Raises FormatError."""
        (word, *values), (value, *proof), note = _split(body, "sign-subtree", least=1)
        if word != "subtree" or len(values) != 2:
            raise FormatError(Reason.BAD_TEXT, "the first line of sign-subtree is: subtree <start> <end>")
        start, end = (decode_decimal(item, _MAX_END, "a bound of the subtree") for item in values)
        checkpoint = Checkpoint.parse(note.text)
        subtree = Subtree(start, end)
        if end > checkpoint.tree_size:
            raise FormatError(
                Reason.BAD_SUBTREE, f"{subtree} ends after the checkpoint of {checkpoint.tree_size} entries", end=end
            )
        return SignSubtree(subtree, value, tuple(proof), note, checkpoint)

    @staticmethod
    def encode(subtree: Subtree, subtree_hash: bytes, proof: Sequence[bytes], note: bytes) -> bytes:
        """Return the body of a request. note: a checkpoint with the asked cosigner's signature."""
        return _join(f"subtree {subtree.start} {subtree.end}", (subtree_hash, *proof), note)


def _split(body: bytes, what: str, least: int = 0) -> tuple[list[str], tuple[bytes, ...], Note]:
    """Return the words of the first line, the hashes, and the note. least: hashes that must be there."""
    if len(body) > MAX_TEXT_BYTES:
        raise FormatError(Reason.TOO_LARGE, f"{what} has at most {MAX_TEXT_BYTES} bytes", got=len(body))
    head, gap, note = body.partition(b"\n\n")
    if not gap:
        raise FormatError(Reason.BAD_TEXT, f"{what} has no empty line before its checkpoint")
    try:
        first, *lines = head.decode("ascii").split("\n")
    except UnicodeDecodeError:
        raise FormatError(Reason.BAD_TEXT, f"the lines of {what} before its checkpoint are ASCII") from None
    if not least <= len(lines) <= MAX_PROOF_LINES + least:
        raise FormatError(
            Reason.BAD_PROOF_LENGTH, f"{what} has {least} to {MAX_PROOF_LINES + least} hashes", got=len(lines)
        )
    hashes = tuple(decode_base64(line, f"a hash of {what}") for line in lines)
    if any(len(value) != 32 for value in hashes):
        raise FormatError(Reason.BAD_HASH_SIZE, f"the hashes of {what} have 32 bytes")
    return first.split(" "), hashes, parse_note(note)


def _join(first: str, hashes: Sequence[bytes], note: bytes) -> bytes:
    """Return the body made of a first line, hashes and a note."""
    return "".join(f"{line}\n" for line in (first, *map(encode_base64, hashes), "")).encode() + note
