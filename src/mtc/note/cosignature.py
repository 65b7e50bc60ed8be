"""What each type of key signs, and how a raw signature becomes a line under a note, or part of a certificate.

Only shells sign: these functions give the bytes to sign and take the raw signature back.

Spec: C2SP signed-note, "Ed25519 signatures"; tlog-cosignature, "Format" and the two signed messages.
"""

from dataclasses import dataclass

from mtc.errors import FormatError, Reason, Rejected, UsageError
from mtc.merkle import Subtree
from mtc.note.checkpoint import Checkpoint
from mtc.note.cosigned_message import CosignedMessage, check_timestamp
from mtc.note.keys import SignatureType, VerifierKey
from mtc.note.note import NoteSignature, parse_signature_lines

TIMESTAMP_BYTES = 8
"""Bytes of the timestamp in front of a cosignature."""


@dataclass(frozen=True, slots=True)
class Cosignature:
    """What follows the key ID on the signature line of a cosigner: when, and the raw signature.

    timestamp: POSIX seconds, at most 2^63 - 1; 0 says nothing about time. Raises FormatError (BAD_TIME, BAD_LENGTH).
    """

    timestamp: int
    signature: bytes

    def __post_init__(self) -> None:
        """Refuse a timestamp beyond the limit, and nothing behind it."""
        check_timestamp(self.timestamp)
        if not self.signature:
            raise FormatError(Reason.BAD_LENGTH, "a cosignature is a timestamp of 8 bytes and a signature")

    @staticmethod
    def parse(data: bytes) -> "Cosignature":
        """Read `NoteSignature.signature` of a cosigner. Nothing is verified."""
        if len(data) <= TIMESTAMP_BYTES:
            raise FormatError(
                Reason.TRUNCATED, "a cosignature is a timestamp of 8 bytes and a signature", got=len(data)
            )
        return Cosignature(int.from_bytes(data[:TIMESTAMP_BYTES], "big"), data[TIMESTAMP_BYTES:])

    def encode(self) -> bytes:
        """Return timestamp and signature."""
        return self.timestamp.to_bytes(TIMESTAMP_BYTES, "big") + self.signature


def checkpoint_message(key: VerifierKey, checkpoint: Checkpoint, timestamp: int = 0) -> bytes:
    """Return the bytes that `key` signs for a checkpoint.

    timestamp: POSIX seconds; 0 for a plain Ed25519 key, not 0 for an Ed25519 cosigner, either for ML-DSA-44 (not 0
    states that this is the largest tree seen). `note_signature` takes the raw signature and the same timestamp.
    Raises UsageError for a timestamp that the type does not have, FormatError for a name or hash that does not fit.
    """
    if (key.type == SignatureType.ED25519 and timestamp) or (
        key.type == SignatureType.COSIGNATURE_ED25519 and not timestamp
    ):
        raise UsageError(Reason.USAGE, f"timestamp {timestamp} does not go with a key of type 0x{key.type:02x}")
    check_timestamp(timestamp)
    return _signed_bytes(key, checkpoint.encode(), checkpoint, timestamp)


def note_signature(key: VerifierKey, raw: bytes, timestamp: int = 0) -> NoteSignature:
    """Return the line that carries the raw signature of `key`. Raises UsageError when it has another length."""
    if len(raw) != key.signature_bytes:
        raise UsageError(
            Reason.BAD_LENGTH, f"a signature of {key} has {key.signature_bytes} bytes, not {len(raw)}", got=len(raw)
        )
    if not key.is_cosigner:
        if timestamp:
            raise UsageError(Reason.USAGE, f"a signature of {key} has no timestamp")
        return NoteSignature(key.name, key.key_id, raw)
    return NoteSignature(key.name, key.key_id, Cosignature(timestamp, raw).encode())


def verify_note_signature(key: VerifierKey, text: bytes, signature: bytes) -> int | None:
    """Return the timestamp of a signature over the text of a note, None for a type without one, now proven.

    signature: `NoteSignature.signature`. The text must be a checkpoint if the key is a cosigner.
    Raises SignatureError when it does not verify, FormatError when text or signature do not fit the key's type.
    """
    if not key.is_cosigner:
        key.verifier.verify(text, signature)
        return None
    cosignature = Cosignature.parse(signature)
    message = _signed_bytes(key, text, Checkpoint.parse(text), cosignature.timestamp)
    key.verifier.verify(message, cosignature.signature)
    return cosignature.timestamp


def certificate_signature(line: NoteSignature) -> bytes:
    """Return the raw signature that a certificate carries, from a line that a cosigner answered for a subtree.

    The timestamp goes; it must be 0, because the message in certificates has timestamp 0. The signature is not
    verified: see `verify_subtree_answer`. Raises FormatError (BAD_TIME).
    """
    cosignature = Cosignature.parse(line.signature)
    if cosignature.timestamp:
        raise FormatError(
            Reason.BAD_TIME,
            f"{line.name} signed with timestamp {cosignature.timestamp}; a certificate needs timestamp 0",
            got=cosignature.timestamp,
        )
    return cosignature.signature


def verify_subtree_answer(
    answer: bytes, key: VerifierKey, log_origin: str, subtree: Subtree, subtree_hash: bytes
) -> bytes:
    """Return the raw signature for certificates from a cosigner's answer to sign-subtree, now proven.

    answer: signature lines; those of other keys are ignored, every one of `key` must verify. key: of ML-DSA-44.
    Raises FormatError, SignatureError, Rejected (UNKNOWN_SIGNER) when there is no line of `key`.
    """
    if key.type != SignatureType.COSIGNATURE_MLDSA44:
        raise UsageError(Reason.USAGE, f"{key} is of a type that signs no subtrees")
    message = CosignedMessage(key.name, log_origin, subtree, subtree_hash).encode()
    signatures = [
        certificate_signature(line)
        for line in parse_signature_lines(answer)
        if (line.name, line.key_id) == (key.name, key.key_id)
    ]
    for signature in signatures:
        key.verifier.verify(message, signature)
    if not signatures:
        raise Rejected(Reason.UNKNOWN_SIGNER, f"the answer holds no signature of {key}", key=str(key))
    return signatures[0]


def _signed_bytes(key: VerifierKey, text: bytes, checkpoint: Checkpoint, timestamp: int) -> bytes:
    """Return what a key of any type signs for a checkpoint with this text."""
    match key.type:
        case SignatureType.COSIGNATURE_MLDSA44:
            return CosignedMessage.for_checkpoint(key.name, checkpoint, timestamp).encode()
        case SignatureType.COSIGNATURE_ED25519:
            return f"cosignature/v1\ntime {timestamp}\n".encode() + text
        case _:
            return text
