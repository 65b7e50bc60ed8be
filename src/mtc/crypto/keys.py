"""Keys that lie in this process, on pyca/cryptography."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa

from mtc.errors import Reason, SignatureError, UsageError

if TYPE_CHECKING:
    from mtc.crypto.algorithms import SignatureAlgorithm

PrivateKey = (
    ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | mldsa.MLDSA44PrivateKey
    | mldsa.MLDSA65PrivateKey
    | mldsa.MLDSA87PrivateKey
)
PublicKey = (
    ec.EllipticCurvePublicKey
    | ed25519.Ed25519PublicKey
    | mldsa.MLDSA44PublicKey
    | mldsa.MLDSA65PublicKey
    | mldsa.MLDSA87PublicKey
)


class LocalVerifier:
    """`Verifier` for a public key in memory."""

    __slots__ = ("_verify", "algorithm", "public_key")

    def __init__(
        self, algorithm: "SignatureAlgorithm", public_key: bytes, verify: Callable[[bytes, bytes], None]
    ) -> None:
        """Take the SPKI DER and the library's verification call (signature, message)."""
        self.algorithm = algorithm
        self.public_key = public_key
        self._verify = verify

    def verify(self, message: bytes, signature: bytes) -> None:
        """Raise SignatureError unless `signature` is this key's over `message`."""
        try:
            self._verify(signature, message)
        except InvalidSignature:
            raise SignatureError(
                Reason.BAD_SIGNATURE, f"the {self.algorithm.name} signature does not verify", got=len(signature)
            ) from None


class LocalSigner:
    """`Signer` for a private key in memory; tests, demonstrations and small deployments use it."""

    __slots__ = ("_key", "_sign", "algorithm", "public_key")

    def __init__(self, algorithm: "SignatureAlgorithm", key: PrivateKey, sign: Callable[[bytes], bytes]) -> None:
        """Take the library's key and its signing call."""
        self.algorithm = algorithm
        self.public_key = key.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        self._key = key
        self._sign = sign

    async def sign(self, message: bytes) -> bytes:
        """Return a signature over `message`; hedged or random where the algorithm is."""
        return self._sign(message)

    def sign_now(self, message: bytes) -> bytes:
        """`sign` for callers without an event loop: the key is here, so nothing is waited for."""
        return self._sign(message)

    def encode_pem(self, passphrase: bytes | None = None) -> bytes:
        """Return the key as PKCS#8 PEM, encrypted under `passphrase` if one is given. Write it with mode 0600.

        Raises UsageError for an empty passphrase: whoever gives one does not want a bare key.
        """
        if passphrase == b"":
            raise UsageError(Reason.USAGE, "an empty passphrase protects nothing; give a longer one, or none")
        protection: Any = (
            serialization.NoEncryption() if passphrase is None else serialization.BestAvailableEncryption(passphrase)
        )
        return self._key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)

    def __repr__(self) -> str:
        """Name the algorithm, never the key."""
        return f"LocalSigner({self.algorithm.name})"
