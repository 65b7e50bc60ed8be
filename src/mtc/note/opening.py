"""Opening a note: from bytes that anybody may have written to a text that a known key signed.

Spec: C2SP signed-note, "Signatures".
"""

from collections.abc import Iterable
from dataclasses import dataclass

from mtc.errors import Reason, Rejected, UsageError
from mtc.note.cosignature import verify_note_signature
from mtc.note.keys import VerifierKey
from mtc.note.note import Note, NoteSignature, parse_note


@dataclass(frozen=True, slots=True)
class VerifiedSignature:
    """A signature line that verified under a known key. timestamp: POSIX seconds, None for keys that sign none."""

    key: VerifierKey
    signature: NoteSignature
    timestamp: int | None


@dataclass(frozen=True, slots=True)
class OpenedNote:
    """A note with at least one verified signature. `unverified` are lines of unknown keys: they say nothing."""

    text: bytes
    verified: tuple[VerifiedSignature, ...]
    unverified: tuple[NoteSignature, ...]

    def is_signed_by(self, key: VerifierKey) -> bool:
        """Tell whether a signature of `key` was verified."""
        return any(signature.key == key for signature in self.verified)


def open_note(data: bytes, keys: Iterable[VerifierKey]) -> OpenedNote:
    """Read and verify a note. Raises what `parse_note` and `verify_note` raise."""
    return verify_note(parse_note(data), keys)


def verify_note(note: Note, keys: Iterable[VerifierKey]) -> OpenedNote:
    """Verify the signatures of the known keys; what is returned is signed by at least one of them.

    Lines of unknown keys are ignored, also when they share only a name or only a key ID with a known one. A line of a
    known key that fails rejects the note. Raises SignatureError or FormatError for such a line, Rejected
    (UNKNOWN_SIGNER) when no known key signed, UsageError when two different keys have the same name and ID.
    """
    known: dict[tuple[str, bytes], VerifierKey] = {}
    for key in keys:
        if known.setdefault((key.name, key.key_id), key) != key:
            raise UsageError(Reason.DUPLICATE, f"two different keys are called {key}", key=str(key))
    verified = []
    unverified = []
    for line in note.signatures:
        signer = known.get((line.name, line.key_id))
        if signer is None:
            unverified.append(line)
        else:
            timestamp = verify_note_signature(signer, note.text, line.signature)
            verified.append(VerifiedSignature(signer, line, timestamp))
    if not verified:
        names = ", ".join(f"{line.name}+{line.key_id.hex()}" for line in unverified)
        raise Rejected(Reason.UNKNOWN_SIGNER, f"no known key signed the note; its signatures are of {names[:400]}")
    return OpenedNote(note.text, tuple(verified), tuple(unverified))
