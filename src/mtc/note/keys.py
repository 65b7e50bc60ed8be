"""Keys that verify note signatures, and their one-line text form.

Spec: C2SP signed-note, "Signatures", "Signature types" and "Verifier keys"; tlog-cosignature, "Format".
"""

import hashlib
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from mtc.crypto import Verifier, parse_public_key, parse_signature_algorithm
from mtc.errors import FormatError, Reason
from mtc.note.cosigned_message import MAX_NAME_BYTES
from mtc.note.note import KEY_ID_BYTES, check_key_name
from mtc.wire import DERReader, Tag, decode_base64, encode_base64, encode_bit_string, encode_sequence

MAX_VKEY_CHARACTERS = 4096
"""Longest text of a verifier key; one of ML-DSA-44 has about 1,800 characters and its name."""


class SignatureType(IntEnum):
    """The type byte of a key: what its signatures are and what they cover."""

    ED25519 = 0x01
    """Ed25519 over the text of the note."""
    ECDSA = 0x02
    """ECDSA as one witness implementation has it; recognised, not supported."""
    COSIGNATURE_ED25519 = 0x04
    """Ed25519 over a checkpoint with a time in front, `cosignature/v1`."""
    TREE_HEAD = 0x05
    """A tree head of Certificate Transparency; recognised, not supported."""
    COSIGNATURE_MLDSA44 = 0x06
    """ML-DSA-44 over a `CosignedMessage`: a subtree, or a checkpoint with a time."""
    UNASSIGNED = 0xFF
    """A longer identifier follows; recognised, not supported."""


class _Form(NamedTuple):
    """How a usable type is verified."""

    algorithm: str
    key_bytes: int
    signature_bytes: int


_FORMS = {
    SignatureType.ED25519: _Form("ed25519", 32, 64),
    SignatureType.COSIGNATURE_ED25519: _Form("ed25519", 32, 64),
    SignatureType.COSIGNATURE_MLDSA44: _Form("ml-dsa-44", 1312, 2420),
}
_WHY_NOT = {
    SignatureType.ECDSA: "ECDSA note signatures have no specification",
    SignatureType.TREE_HEAD: "tree heads of Certificate Transparency cover no note",
    SignatureType.UNASSIGNED: "signature types without an assigned byte are not known here",
}


def compute_key_id(name: str, signature_type: SignatureType, public_key: bytes) -> bytes:
    """Return the 4 bytes that tell keys of one name apart; they identify a key and prove nothing."""
    return hashlib.sha256(name.encode() + bytes((0x0A, signature_type)) + public_key).digest()[:KEY_ID_BYTES]


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """A public key with the name and type under which it signs notes.

    name: a key name; at most 255 bytes for ML-DSA-44, whose signed message carries it. type: ED25519,
    COSIGNATURE_ED25519 or COSIGNATURE_MLDSA44. public_key: raw, 32 or 1312 bytes.
    Raises FormatError: BAD_NAME, BAD_KEY, UNSUPPORTED for a type that is recognised but not usable.
    """

    name: str
    type: SignatureType
    public_key: bytes = field(repr=False)
    key_id: bytes = field(init=False, compare=False)
    verifier: Verifier = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse a key that cannot verify, and compute what follows from it."""
        check_key_name(self.name)
        if self.type not in _FORMS:
            raise FormatError(
                Reason.UNSUPPORTED,
                f"key {self.name} is of type 0x{self.type:02x}: {_WHY_NOT[self.type]}; use 0x01, 0x04 or 0x06",
                got=int(self.type),
            )
        form = _FORMS[self.type]
        if self.type == SignatureType.COSIGNATURE_MLDSA44 and len(self.name.encode()) > MAX_NAME_BYTES:
            raise FormatError(
                Reason.BAD_NAME, f"{self.name[:80]!r}… is too long for a cosigner; {MAX_NAME_BYTES} bytes are allowed"
            )
        if len(self.public_key) != form.key_bytes:
            raise FormatError(
                Reason.BAD_KEY,
                f"key {self.name} of type 0x{self.type:02x} has {len(self.public_key)} bytes, not {form.key_bytes}",
                expected=form.key_bytes,
                got=len(self.public_key),
            )
        algorithm = parse_signature_algorithm(form.algorithm)
        spki = encode_sequence(algorithm.identifier, encode_bit_string(self.public_key))
        object.__setattr__(self, "key_id", compute_key_id(self.name, self.type, self.public_key))
        object.__setattr__(self, "verifier", parse_public_key(spki, algorithm))

    @staticmethod
    def from_spki(name: str, signature_type: SignatureType, spki: bytes) -> "VerifierKey":
        """Make the key of a `Signer` or `Verifier` from its SubjectPublicKeyInfo. Raises FormatError."""
        reader = DERReader(spki, "the public key").enter(Tag.SEQUENCE)
        identifier = reader.read_tlv(Tag.SEQUENCE)
        key = VerifierKey(name, signature_type, reader.read_bit_string())
        if identifier != key.verifier.algorithm.identifier or spki != key.verifier.public_key:
            raise FormatError(
                Reason.ALGORITHM_MISMATCH,
                f"a key of type 0x{signature_type:02x} is of {key.verifier.algorithm.name}, this one is not",
            )
        return key

    @staticmethod
    def parse(text: str) -> "VerifierKey":
        """Read `<name>+<key ID in hex>+<base64>`, strictly; the key ID must be the one that follows from the rest.

        Raises FormatError: BAD_KEY, BAD_NAME, BAD_BASE64, TOO_LARGE, UNSUPPORTED or UNKNOWN_ALGORITHM for a type byte
        that is recognised but not usable, or not known at all.
        """
        if len(text) > MAX_VKEY_CHARACTERS:
            raise FormatError(Reason.TOO_LARGE, f"a verifier key has at most {MAX_VKEY_CHARACTERS} characters")
        name, *rest = text.split("+", 2)
        if len(rest) != 2:
            raise FormatError(
                Reason.BAD_KEY, f"{text[:80]!r} is no verifier key: name, plus, key ID in hex, plus, base64"
            )
        check_key_name(name)
        data = decode_base64(rest[1], f"verifier key {name}")
        if not data:
            raise FormatError(Reason.BAD_KEY, f"verifier key {name} is empty")
        try:
            signature_type = SignatureType(data[0])
        except ValueError:
            raise FormatError(
                Reason.UNKNOWN_ALGORITHM, f"verifier key {name} has unknown type 0x{data[0]:02x}", got=data[0]
            ) from None
        key = VerifierKey(name, signature_type, data[1:])
        if rest[0] != key.key_id.hex():
            raise FormatError(
                Reason.BAD_KEY,
                f"verifier key {name} names key ID {rest[0][:16]!r}, but the key has {key.key_id.hex()}",
                expected=key.key_id.hex(),
                got=rest[0][:16],
            )
        return key

    def encode(self) -> str:
        """Return the text form."""
        return f"{self.name}+{self.key_id.hex()}+{encode_base64(bytes((self.type,)) + self.public_key)}"

    @property
    def is_cosigner(self) -> bool:
        """True when its signatures carry a timestamp and cover checkpoints only."""
        return self.type != SignatureType.ED25519

    @property
    def signature_bytes(self) -> int:
        """Bytes of a raw signature, without timestamp."""
        return _FORMS[self.type].signature_bytes

    def __str__(self) -> str:
        """Return name and key ID."""
        return f"{self.name}+{self.key_id.hex()}"
