"""The registry of algorithms: names, object identifiers, and how each makes and checks signatures.

Open on purpose: `register_algorithm` adds one (a national profile does), and everything above finds it by name.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa

from mtc.crypto.keys import LocalSigner, LocalVerifier, PrivateKey, PublicKey
from mtc.errors import FormatError, Reason, UsageError
from mtc.kernel import hash_size
from mtc.wire import DERReader, Tag, encode_oid, encode_sequence, parse_pem


class Verifier(Protocol):
    """Checks signatures of one key. Pure: no state, no waiting."""

    @property
    def algorithm(self) -> "SignatureAlgorithm":
        """The one algorithm that this key verifies."""

    @property
    def public_key(self) -> bytes:
        """SubjectPublicKeyInfo, DER."""

    def verify(self, message: bytes, signature: bytes) -> None:
        """Raise SignatureError unless `signature` is this key's over `message`."""


class Signer(Protocol):
    """Makes signatures of one key, which may lie in hardware or elsewhere: signing is awaitable."""

    @property
    def algorithm(self) -> "SignatureAlgorithm":
        """The one algorithm that this key signs with."""

    @property
    def public_key(self) -> bytes:
        """SubjectPublicKeyInfo, DER."""

    async def sign(self, message: bytes) -> bytes:
        """Return a signature over `message`. Only shells call this, after the state it covers is durable."""


@dataclass(frozen=True, slots=True)
class HashAlgorithm:
    """A tree hash as protocols name it."""

    name: str
    oid: str

    @property
    def size(self) -> int:
        """Bytes per hash."""
        return hash_size(self.name)

    @property
    def identifier(self) -> bytes:
        """The AlgorithmIdentifier without parameters, DER."""
        return encode_sequence(encode_oid(self.oid))


HASH_ALGORITHMS: dict[str, HashAlgorithm] = {
    "sha256": HashAlgorithm("sha256", "2.16.840.1.101.3.4.2.1"),
    "sm3": HashAlgorithm("sm3", "1.2.156.10197.1.401"),
}


def parse_hash_algorithm(name: str) -> HashAlgorithm:
    """Return the tree hash called `name`. Raises UsageError with the names there are."""
    if name not in HASH_ALGORITHMS:
        raise UsageError(
            Reason.UNKNOWN_ALGORITHM, f"{name!r} is no tree hash here; there are {', '.join(HASH_ALGORITHMS)}"
        )
    return HASH_ALGORITHMS[name]


@dataclass(frozen=True, slots=True)
class SignatureAlgorithm:
    """A fully specified signature algorithm: key type, hash and parameters.

    oid: of the AlgorithmIdentifier, whose parameters are absent. signature_size: largest signature in bytes.
    generate, accepts, bind_signer, bind_verifier: how the library does it; `accepts` tells whether a loaded public key
    is of this algorithm.
    """

    name: str
    oid: str
    signature_size: int
    generate: Callable[[], PrivateKey] = field(repr=False, compare=False)
    accepts: Callable[[object], bool] = field(repr=False, compare=False)
    bind_signer: Callable[[Any], Callable[[bytes], bytes]] = field(repr=False, compare=False)
    bind_verifier: Callable[[Any], Callable[[bytes, bytes], None]] = field(repr=False, compare=False)

    @property
    def identifier(self) -> bytes:
        """The AlgorithmIdentifier without parameters, DER."""
        return encode_sequence(encode_oid(self.oid))


_ALGORITHMS: dict[str, SignatureAlgorithm] = {}


def register_algorithm(algorithm: SignatureAlgorithm) -> None:
    """Add an algorithm to the registry. Raises UsageError when its name or OID is taken by another."""
    for known in _ALGORITHMS.values():
        if known != algorithm and (known.name == algorithm.name or known.oid == algorithm.oid):
            raise UsageError(Reason.USAGE, f"signature algorithm {algorithm.name} ({algorithm.oid}) is taken")
    _ALGORITHMS[algorithm.name] = algorithm


def algorithm_names() -> tuple[str, ...]:
    """Return the names of all registered signature algorithms."""
    return tuple(_ALGORITHMS)


def parse_signature_algorithm(name: str) -> SignatureAlgorithm:
    """Return the signature algorithm called `name`. Raises UsageError with the names there are."""
    if name not in _ALGORITHMS:
        raise UsageError(
            Reason.UNKNOWN_ALGORITHM,
            f"{name!r} is no signature algorithm here; there are {', '.join(_ALGORITHMS)}",
        )
    return _ALGORITHMS[name]


def signature_algorithm_of(identifier: bytes) -> SignatureAlgorithm:
    """Return the algorithm of an AlgorithmIdentifier (DER), which must have no parameters.

    Raises FormatError (UNKNOWN_ALGORITHM).
    """
    for algorithm in _ALGORITHMS.values():
        if algorithm.identifier == identifier:
            return algorithm
    reader = DERReader(identifier, "the signature algorithm").enter(Tag.SEQUENCE)
    oid = reader.read_oid()
    raise FormatError(
        Reason.UNKNOWN_ALGORITHM,
        f"signature algorithm {oid}{'' if reader.is_empty else ' with parameters'} is not known here",
        oid=oid,
    )


def parse_public_key(spki: bytes, algorithm: SignatureAlgorithm) -> Verifier:
    """Return the verifier for a SubjectPublicKeyInfo (DER).

    Raises FormatError (BAD_KEY) when it cannot be read, or (ALGORITHM_MISMATCH) when it is a key of another algorithm.
    """
    try:
        with warnings.catch_warnings():
            # The library warns of key types that it will drop; none of them is an algorithm here.
            warnings.simplefilter("ignore")
            key = serialization.load_der_public_key(spki)
    except Exception as error:  # noqa: BLE001 - the library raises various types for bad and for unsupported keys
        raise FormatError(Reason.BAD_KEY, f"the public key cannot be read: {error}") from None
    if not algorithm.accepts(key):
        raise FormatError(Reason.ALGORITHM_MISMATCH, f"the public key is not of {algorithm.name}")
    canonical = cast("PublicKey", key).public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    if canonical != spki:
        raise FormatError(Reason.BAD_KEY, "the public key is not in its canonical DER encoding")
    return LocalVerifier(algorithm, spki, algorithm.bind_verifier(key))


def parse_public_key_pem(text: bytes, algorithm: SignatureAlgorithm) -> Verifier:
    """Return the verifier for a PEM text with one PUBLIC KEY block."""
    blocks = parse_pem(text)
    if [block.label for block in blocks] != ["PUBLIC KEY"]:
        raise FormatError(Reason.BAD_PEM, "a public key file holds exactly one PUBLIC KEY block")
    return parse_public_key(blocks[0].data, algorithm)


def generate_key(algorithm: SignatureAlgorithm) -> LocalSigner:
    """Make a new key; the one place on the lower floors that draws randomness, through the library."""
    key = algorithm.generate()
    return LocalSigner(algorithm, key, algorithm.bind_signer(key))


def parse_private_key(data: bytes, passphrase: bytes | None = None) -> LocalSigner:
    """Return the signer for a PKCS#8 private key, PEM or DER; the algorithm follows from the key.

    Raises FormatError (BAD_KEY) when it cannot be read, UsageError when the passphrase is missing, wrong or not needed.
    """
    is_pem = data.lstrip().startswith(b"-----")
    label = data.lstrip().removeprefix(b"-----BEGIN ").partition(b"-----")[0]
    if is_pem and label and label not in (b"PRIVATE KEY", b"ENCRYPTED PRIVATE KEY"):
        raise FormatError(
            Reason.BAD_KEY, "the PEM text is no PKCS#8 private key; convert it with openssl pkcs8 -topk8"
        ) from None
    load = serialization.load_pem_private_key if is_pem else serialization.load_der_private_key
    try:
        key = load(data, passphrase)
    except TypeError:
        raise UsageError(
            Reason.USAGE, "the private key is encrypted and needs its passphrase, or has one and needs none"
        ) from None
    except Exception:  # noqa: BLE001 - the library raises various types; its text may quote the input, so it is dropped
        if passphrase:
            raise UsageError(Reason.BAD_KEY, "the private key cannot be read with this passphrase") from None
        raise FormatError(Reason.BAD_KEY, "the private key cannot be read; it must be PKCS#8, PEM or DER") from None
    public = key.public_key()
    for algorithm in _ALGORITHMS.values():
        if algorithm.accepts(public):
            private = cast("PrivateKey", key)
            return LocalSigner(algorithm, private, algorithm.bind_signer(private))
    raise FormatError(Reason.UNKNOWN_ALGORITHM, "the private key is of no algorithm that is known here")


def _mldsa(name: str, oid: str, size: int, private: Any, public: Any) -> SignatureAlgorithm:  # noqa: ANN401 - library types
    """Describe a parameter set of ML-DSA, pure mode, empty context."""
    return SignatureAlgorithm(
        name=name,
        oid=oid,
        signature_size=size,
        generate=private.generate,
        accepts=lambda key: isinstance(key, public),
        bind_signer=lambda key: key.sign,
        bind_verifier=lambda key: key.verify,
    )


def _ecdsa(name: str, oid: str, size: int, curve: ec.EllipticCurve, digest: hashes.HashAlgorithm) -> SignatureAlgorithm:
    """Describe ECDSA on one curve with one hash; signatures are DER."""
    method = ec.ECDSA(digest)
    return SignatureAlgorithm(
        name=name,
        oid=oid,
        signature_size=size,
        generate=lambda: ec.generate_private_key(curve),
        accepts=lambda key: isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == curve.name,
        bind_signer=lambda key: lambda message: key.sign(message, method),
        bind_verifier=lambda key: lambda signature, message: key.verify(signature, message, method),
    )


for _algorithm in (
    _mldsa("ml-dsa-44", "2.16.840.1.101.3.4.3.17", 2420, mldsa.MLDSA44PrivateKey, mldsa.MLDSA44PublicKey),
    _mldsa("ml-dsa-65", "2.16.840.1.101.3.4.3.18", 3309, mldsa.MLDSA65PrivateKey, mldsa.MLDSA65PublicKey),
    _mldsa("ml-dsa-87", "2.16.840.1.101.3.4.3.19", 4627, mldsa.MLDSA87PrivateKey, mldsa.MLDSA87PublicKey),
    _ecdsa("ecdsa-p256-sha256", "1.2.840.10045.4.3.2", 72, ec.SECP256R1(), hashes.SHA256()),
    _ecdsa("ecdsa-p384-sha384", "1.2.840.10045.4.3.3", 104, ec.SECP384R1(), hashes.SHA384()),
    SignatureAlgorithm(
        name="ed25519",
        oid="1.3.101.112",
        signature_size=64,
        generate=ed25519.Ed25519PrivateKey.generate,
        accepts=lambda key: isinstance(key, ed25519.Ed25519PublicKey),
        bind_signer=lambda key: key.sign,
        bind_verifier=lambda key: key.verify,
    ),
):
    register_algorithm(_algorithm)
