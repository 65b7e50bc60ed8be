"""Documents with signatures beside them: what a publisher signs as bytes, and readers keep as bytes.

The signature covers a label and the payload, so that a document of one kind is none of another. A key is named by the
SHA-256 of its SubjectPublicKeyInfo, whatever its algorithm.

Spec: none; the format is this project's own (docs/updates.md). The label is in the manner of C2SP tlog-cosignature.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mtc.crypto import Verifier
from mtc.errors import FormatError, Reason, Rejected
from mtc.wire import Reader, Writer

POLICY_LABEL = b"mtc-policy/v1\n\0"
UPDATE_LABEL = b"mtc-update/v1\n\0"
MAX_DOCUMENT_BYTES = 64 << 20
"""Largest document read; as for trust stores."""
MAX_DOCUMENT_SIGNATURES = 16
"""Most signatures beside one document: a few keys that overlap while one replaces the other."""

_KEY_ID_BYTES = 32


class DocumentSignature(NamedTuple):
    """One signature. key_id: of the key that made it, 32 bytes; see `document_key_id`."""

    key_id: bytes
    signature: bytes


def document_key_id(spki: bytes) -> bytes:
    """Return the ID of a key, SHA-256 of its SubjectPublicKeyInfo (DER)."""
    return hashlib.sha256(spki).digest()


@dataclass(frozen=True, slots=True)
class SignedDocument:
    """A payload of one kind and the signatures beside it; nothing is verified before `verify`.

    label: the kind, for example `POLICY_LABEL`. Encoded: label, payload<0..2^32-1>, and a count of one byte of
    signatures, each key_id[32] and signature<1..2^16-1>.
    """

    label: bytes
    payload: bytes
    signatures: tuple[DocumentSignature, ...] = ()

    @staticmethod
    def parse(data: bytes, label: bytes) -> "SignedDocument":
        """Read a document of one kind, which must fill `data`. Raises FormatError."""
        if len(data) > MAX_DOCUMENT_BYTES:
            raise FormatError(
                Reason.TOO_LARGE, f"a signed document has at most {MAX_DOCUMENT_BYTES} bytes", got=len(data)
            )
        kind = label.partition(b"\n")[0].decode()
        reader = Reader(data, f"the {kind} document")
        if data[: len(label)] != label:
            raise FormatError(Reason.UNKNOWN_FORMAT, f"the document does not start as {kind}", offset=0)
        reader.read_bytes(len(label))
        payload = reader.read_vector(4)
        count = reader.read_uint(1)
        if count > MAX_DOCUMENT_SIGNATURES:
            raise FormatError(
                Reason.TOO_LARGE, f"a document has at most {MAX_DOCUMENT_SIGNATURES} signatures, this one {count}"
            )
        signatures = tuple(
            DocumentSignature(reader.read_bytes(_KEY_ID_BYTES), reader.read_vector(2, least=1)) for _ in range(count)
        )
        reader.finish()
        return SignedDocument(label, payload, signatures)

    @property
    def message(self) -> bytes:
        """The bytes that each signature covers."""
        return self.label + self.payload

    @property
    def digest(self) -> bytes:
        """SHA-256 of the payload: which document it is, whoever signed it."""
        return hashlib.sha256(self.payload).digest()

    def with_signature(self, spki: bytes, signature: bytes) -> "SignedDocument":
        """Return the document with one more signature, made over `message` by the key with that SPKI."""
        return SignedDocument(
            self.label, self.payload, (*self.signatures, DocumentSignature(document_key_id(spki), signature))
        )

    def verify(self, keys: Sequence[Verifier]) -> None:
        """Raise unless one of the keys signed; signatures of other keys are ignored, a failing one of these is fatal.

        Raises Rejected (UNKNOWN_SIGNER) or SignatureError.
        """
        known = {document_key_id(key.public_key): key for key in keys}
        found = [(known[item.key_id], item.signature) for item in self.signatures if item.key_id in known]
        if not found:
            kind = self.label.partition(b"\n")[0].decode()
            raise Rejected(
                Reason.UNKNOWN_SIGNER, f"no key that is trusted for it signed the {kind} document; is the key right?"
            )
        for key, signature in found:
            key.verify(self.message, signature)

    def encode(self) -> bytes:
        """Return the document as it is published."""
        writer = Writer().bytes(self.label).vector(self.payload, 4).uint(len(self.signatures), 1)
        for item in self.signatures:
            writer.bytes(item.key_id).vector(item.signature, 2)
        return writer.encode()
