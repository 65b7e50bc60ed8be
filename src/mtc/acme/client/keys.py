"""Keys of an ACME client: the account's, which signs requests, and those that certificates are asked for.

Signatures are joserfc's, keys pyca/cryptography's.

Spec: RFC 8555, "Request Authentication", "External Account Binding"; RFC 7638 (thumbprints); RFC 8037 (EdDSA).
"""

import json
from base64 import urlsafe_b64decode
from collections.abc import Callable, Mapping, Sequence
from ipaddress import ip_address
from typing import Any, cast

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from joserfc import jws
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey
from joserfc.registry import HeaderParameter

from mtc.acme.machine.identifiers import Identifier, IdentifierType
from mtc.errors import FormatError, Reason, UsageError

CertificateKey = CertificateIssuerPrivateKeyTypes
"""A private key that a certificate is asked for."""

_GENERATORS: dict[str, Callable[[], CertificateKey]] = {
    "ecdsa-p256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ecdsa-p384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "rsa-2048": lambda: rsa.generate_private_key(65537, 2048),
    "rsa-3072": lambda: rsa.generate_private_key(65537, 3072),
    "rsa-4096": lambda: rsa.generate_private_key(65537, 4096),
    "ed25519": ed25519.Ed25519PrivateKey.generate,
    "ml-dsa-44": mldsa.MLDSA44PrivateKey.generate,
    "ml-dsa-65": mldsa.MLDSA65PrivateKey.generate,
    "ml-dsa-87": mldsa.MLDSA87PrivateKey.generate,
}
KEY_TYPES = tuple(_GENERATORS)
"""What a certificate's key may be."""
ACCOUNT_KEY_TYPES = ("ecdsa-p256", "ecdsa-p384", "rsa-2048", "rsa-3072", "rsa-4096", "ed25519")
"""What an account's key may be: what has an algorithm in JSON Web Signatures that servers know."""
DEFAULT_KEY_TYPE = "ecdsa-p256"

_MIN_MAC_KEY_BYTES = 16


class _Registry(jws.JWSRegistry):
    """joserfc's rules for headers, without its warning that EdDSA, ACME's name of the algorithm, is an old one."""

    max_header_length = 16 << 10
    max_payload_length = 1 << 20

    def get_alg(self, name: str) -> Any:  # noqa: ANN401 - joserfc does not export the type of an algorithm
        """Return an algorithm."""
        return self.algorithms[name]


_REGISTRY = _Registry(
    header_registry={"nonce": HeaderParameter("Nonce", "str"), "url": HeaderParameter("URL", "str")},
    algorithms=["ES256", "ES384", "EdDSA", "RS256", "HS256"],
)


class AccountKey:
    """The private key of an account. jwk: its public half. thumbprint: of that, base64url. algorithm: of its JWS."""

    __slots__ = ("_key", "_private", "algorithm", "jwk", "thumbprint")

    def __init__(self, private: object) -> None:
        """Take a private key of pyca/cryptography. Raises UsageError (UNKNOWN_ALGORITHM) when it cannot sign here."""
        key: Key
        if isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name == "secp256r1":
            self.algorithm, key = "ES256", ECKey.import_key(private)
        elif isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name == "secp384r1":
            self.algorithm, key = "ES384", ECKey.import_key(private)
        elif isinstance(private, ed25519.Ed25519PrivateKey):
            self.algorithm, key = "EdDSA", OKPKey.import_key(private)
        elif isinstance(private, rsa.RSAPrivateKey):
            self.algorithm, key = "RS256", RSAKey.import_key(private)
        else:
            raise UsageError(
                Reason.UNKNOWN_ALGORITHM, f"this key cannot sign ACME requests; use {', '.join(ACCOUNT_KEY_TYPES)}"
            )
        self._private = private
        self._key = key
        public = key.as_dict(private=False)
        self.jwk: Mapping[str, str] = {
            name: str(public[name]) for name in ("kty", "crv", "x", "y", "n", "e") if name in public
        }
        self.thumbprint = key.thumbprint()

    @staticmethod
    def generate(key_type: str = DEFAULT_KEY_TYPE) -> "AccountKey":
        """Make a new key."""
        if key_type not in ACCOUNT_KEY_TYPES:
            raise UsageError(
                Reason.UNKNOWN_ALGORITHM,
                f"an account's key is one of {', '.join(ACCOUNT_KEY_TYPES)}, not {key_type[:40]!r}",
            )
        return AccountKey(generate_key(key_type))

    @staticmethod
    def parse(pem: bytes) -> "AccountKey":
        """Read a private key, PEM. Raises FormatError (BAD_KEY), UsageError (UNKNOWN_ALGORITHM)."""
        return AccountKey(parse_key(pem))

    def encode_pem(self) -> bytes:
        """Return the private key, PKCS#8 PEM, not encrypted."""
        return encode_key(self._private)

    def sign(self, header: Mapping[str, object], payload: bytes) -> bytes:
        """Return a request's body: header, payload and signature, flattened JSON. header: without `alg`."""
        return _flatten(
            jws.serialize_compact({"alg": self.algorithm, **header}, payload, self._key, registry=_REGISTRY)
        )

    def __repr__(self) -> str:
        """Name the key by what is public."""
        return f"<AccountKey {self.algorithm} {self.thumbprint}>"


def bind_external_account(kid: str, secret: bytes, key: AccountKey, url: str) -> Mapping[str, str]:
    """Return the binding of an account to one elsewhere. url: of newAccount. secret: the HMAC key.

    Spec: RFC 8555, "External Account Binding".
    """
    header = {"alg": "HS256", "kid": kid, "url": url}
    payload = json.dumps(dict(key.jwk)).encode()
    compact = jws.serialize_compact(header, payload, OctKey.import_key(secret), registry=_REGISTRY)
    binding: Mapping[str, str] = json.loads(_flatten(compact))
    return binding


def parse_mac_key(text: bytes) -> bytes:
    """Read the HMAC key of an external account, base64url as CAs hand it out. Raises UsageError (BAD_KEY)."""
    stripped = text.strip()
    try:
        secret = urlsafe_b64decode(stripped.rstrip(b"=") + b"=" * (-len(stripped.rstrip(b"=")) % 4))
    except ValueError:
        secret = b""
    if len(secret) < _MIN_MAC_KEY_BYTES:
        raise UsageError(Reason.BAD_KEY, "the external account's key must be base64url, of 16 bytes or more")
    return secret


def generate_key(key_type: str) -> CertificateKey:
    """Make a key of one of `KEY_TYPES`. Raises UsageError (UNKNOWN_ALGORITHM)."""
    if key_type not in _GENERATORS:
        raise UsageError(
            Reason.UNKNOWN_ALGORITHM, f"{key_type[:40]!r} is no type of key; there are {', '.join(KEY_TYPES)}"
        )
    try:
        return _GENERATORS[key_type]()
    except UnsupportedAlgorithm:
        raise UsageError(Reason.UNSUPPORTED, f"the installed cryptography library has no {key_type}") from None


def parse_key(pem: bytes) -> CertificateKey:
    """Read a private key, PEM, not encrypted. Raises FormatError (BAD_KEY); its text never quotes the key."""
    try:
        return cast("CertificateKey", serialization.load_pem_private_key(pem, None))
    except Exception:  # noqa: BLE001 - the library raises various types; its text may quote the input, so it is dropped
        raise FormatError(Reason.BAD_KEY, "the private key cannot be read; it must be PEM and not encrypted") from None


def encode_key(key: object) -> bytes:
    """Return a private key as PKCS#8 PEM, not encrypted."""
    private = cast("CertificateKey", key)
    return private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def encode_spki(key: CertificateKey) -> bytes:
    """Return the public half, SubjectPublicKeyInfo DER."""
    return key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def build_csr(key: CertificateKey, identifiers: Sequence[Identifier]) -> bytes:
    """Return a certificate request, DER, for exactly these identifiers. The subject is empty: only names count.

    Spec: RFC 8555, "Applying for Certificate Issuance"; RFC 8738 for addresses.
    """
    names: list[x509.GeneralName] = [
        x509.DNSName(item.value) if item.type is IdentifierType.DNS else x509.IPAddress(ip_address(item.value))
        for item in identifiers
    ]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    # Ed25519 and ML-DSA bring their hash along, as the library wants to be told.
    digest = hashes.SHA256() if isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) else None
    return builder.sign(key, digest).public_bytes(serialization.Encoding.DER)


def _flatten(compact: str) -> bytes:
    """Turn the compact form into flattened JSON: three base64url texts, which need no escaping."""
    header, payload, signature = compact.split(".")
    return f'{{"protected":"{header}","payload":"{payload}","signature":"{signature}"}}'.encode("ascii")
