"""Proof files: that an entry is in a log, checkable without a network.

Spec: C2SP tlog-proof.
"""

from dataclasses import dataclass

from mtc.errors import FormatError, Reason
from mtc.merkle import MAX_PROOF_HASHES, Hasher, Subtree, verify_inclusion
from mtc.note.checkpoint import MAX_CHECKPOINT_SIZE, Checkpoint
from mtc.note.note import MAX_NOTE_BYTES, Note, decode_text, parse_note
from mtc.note.policy import AcceptedCheckpoint, QuorumPolicy
from mtc.wire import decode_base64, decode_decimal, encode_base64

MAX_TLOG_PROOF_BYTES = 2 * MAX_NOTE_BYTES
"""Largest proof file read: a note, and as much again for hashes and extra data."""

_MAGIC = "c2sp.org/tlog-proof@v1"


@dataclass(frozen=True, slots=True)
class TLogProof:
    """A tlog-proof file: an entry's index, its inclusion proof, and the log's checkpoint.

    index: at most `MAX_CHECKPOINT_SIZE`. inclusion_proof: sibling hashes, leaf upwards, at most `MAX_PROOF_HASHES`.
    note: the checkpoint with its signatures. extra: opaque bytes that nothing authenticates, empty for none.
    Raises FormatError (BAD_NUMBER, TOO_LARGE, BAD_HASH_SIZE, and what `Checkpoint.parse` raises).
    """

    index: int
    inclusion_proof: tuple[bytes, ...]
    note: Note
    extra: bytes = b""

    def __post_init__(self) -> None:
        """Refuse what cannot be written as a proof file."""
        if not 0 <= self.index <= MAX_CHECKPOINT_SIZE:
            raise FormatError(Reason.BAD_NUMBER, f"{self.index} is no entry index", got=self.index)
        if len(self.inclusion_proof) > MAX_PROOF_HASHES:
            raise FormatError(Reason.TOO_LARGE, f"a proof holds at most {MAX_PROOF_HASHES} hashes")
        size = len(Checkpoint.parse(self.note.text).root_hash)
        if any(len(value) != size for value in self.inclusion_proof):
            raise FormatError(Reason.BAD_HASH_SIZE, f"the hashes of the proof have {size} bytes like the root")

    @staticmethod
    def parse(data: bytes) -> "TLogProof":
        """Read a proof file, strictly. Nothing is verified. Raises FormatError."""
        if len(data) > MAX_TLOG_PROOF_BYTES:
            raise FormatError(
                Reason.TOO_LARGE, f"a log proof has at most {MAX_TLOG_PROOF_BYTES} bytes, this one {len(data)}"
            )
        head, separator, note = data.partition(b"\n\n")
        magic, *lines = decode_text(head).split("\n")
        if magic != _MAGIC:
            raise FormatError(Reason.UNKNOWN_FORMAT, f"a log proof starts with the line {_MAGIC}")
        extra = b""
        if lines and lines[0].startswith("extra "):
            extra = decode_base64(lines.pop(0).removeprefix("extra "), "the extra data of the log proof")
            if not extra:
                raise FormatError(Reason.BAD_DOCUMENT, "a log proof without extra data has no extra line")
        if not lines or not lines[0].startswith("index "):
            raise FormatError(Reason.BAD_DOCUMENT, "the log proof has no index line where it should be")
        index = decode_decimal(lines.pop(0).removeprefix("index "), MAX_CHECKPOINT_SIZE, "the index of the log proof")
        if not separator:
            raise FormatError(Reason.TRUNCATED, "the log proof ends before its checkpoint")
        proof = tuple(decode_base64(line, "a hash of the log proof") for line in lines)
        return TLogProof(index, proof, parse_note(note), extra)

    def encode(self) -> bytes:
        """Return the proof file."""
        lines = [_MAGIC]
        if self.extra:
            lines.append(f"extra {encode_base64(self.extra)}")
        lines += [f"index {self.index}", *map(encode_base64, self.inclusion_proof), "", ""]
        return "\n".join(lines).encode() + self.note.encode()


def verify_tlog_proof(hasher: Hasher, proof: TLogProof, entry_hash: bytes, policy: QuorumPolicy) -> AcceptedCheckpoint:
    """Return the checkpoint that the entry with `entry_hash` is now proven to be in, accepted by the policy.

    entry_hash: the leaf hash, which the caller computes from the entry it asks about; its index is `proof.index`.
    Timestamps of cosignatures are returned, not judged. Raises what `QuorumPolicy.verify_checkpoint` raises, and
    ProofError when the inclusion proof does not lead to the root.
    Spec: C2SP tlog-proof, "Verifying a tlog proof".
    """
    accepted = policy.verify_checkpoint(proof.note)
    tree = Subtree(0, accepted.checkpoint.tree_size)
    root = accepted.checkpoint.root_hash
    verify_inclusion(hasher, tree, proof.index, entry_hash, proof.inclusion_proof, root)
    return accepted
