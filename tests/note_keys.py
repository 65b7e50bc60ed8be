"""Keys for tests of signed notes. They are made from public seeds and must never sign anything real."""

from mtc.crypto import LocalSigner, parse_private_key
from mtc.note import Checkpoint, NoteSignature, SignatureType, VerifierKey, checkpoint_message, note_signature

_PKCS8 = {
    SignatureType.ED25519: bytes.fromhex("302e020100300506032b657004220420"),
    SignatureType.COSIGNATURE_ED25519: bytes.fromhex("302e020100300506032b657004220420"),
    SignatureType.COSIGNATURE_MLDSA44: bytes.fromhex("3034020100300b060960864801650304031104228020"),
}


class TestSigner:
    """A named key of one type with its private half."""

    __test__ = False

    def __init__(self, name: str, signature_type: SignatureType, seed: int = 0) -> None:
        """Make the key from a one-byte seed."""
        self.signer: LocalSigner = parse_private_key(_PKCS8[signature_type] + bytes((seed,)) * 32)
        self.key = VerifierKey.from_spki(name, signature_type, self.signer.public_key)

    def cosign(self, checkpoint: Checkpoint, timestamp: int = 0) -> NoteSignature:
        """Return the signature line of this key under a checkpoint."""
        raw = self.signer.sign_now(checkpoint_message(self.key, checkpoint, timestamp))
        return note_signature(self.key, raw, timestamp)


LOG = TestSigner("log.example/7", SignatureType.ED25519, 1)
WITNESS = TestSigner("witness.example/w1", SignatureType.COSIGNATURE_ED25519, 2)
MIRROR = TestSigner("oid/1.3.6.1.4.1.32473.9", SignatureType.COSIGNATURE_MLDSA44, 3)
CA = TestSigner("oid/1.3.6.1.4.1.32473.1", SignatureType.COSIGNATURE_MLDSA44, 4)
