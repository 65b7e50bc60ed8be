"""Signed requests: a JSON Web Signature in the one form that ACME allows. Unverified it is bytes, verified a type.

joserfc verifies; what is checked here is what ACME adds: one flattened signature, nothing unprotected, `url` and
`nonce` in the header, either `jwk` or `kid`.

Spec: RFC 8555, "Request Authentication", "Key Change", "External Account Binding"; RFC 7515; RFC 7638 (thumbprints);
RFC 8037 (EdDSA).
"""

import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from joserfc import jws
from joserfc.errors import JoseError, UnsupportedAlgorithmError
from joserfc.jwk import ECKey, JWKRegistry, Key, OctKey, OKPKey, RSAKey
from joserfc.registry import HeaderParameter

from mtc.acme.machine.problems import Problem, ProblemType
from mtc.errors import Error, FormatError, Reason, SignatureError

ALGORITHMS = ("ES256", "ES384", "EdDSA", "RS256")
"""Signature algorithms of account keys and certificate keys."""
MAC_ALGORITHMS = ("HS256", "HS384", "HS512")
"""Algorithms of external account bindings."""
MAX_JWS_BYTES = 128 << 10
"""Largest signed request: a CSR with an ML-DSA-87 key is a tenth of it."""
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
MIN_MAC_KEY_BYTES = 32

_BASE64URL = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)
_MEMBERS = frozenset({"protected", "payload", "signature"})
_PUBLIC_MEMBERS = {
    "RSA": ("e", "kty", "n"),
    "EC": ("crv", "kty", "x", "y"),
    "OKP": ("crv", "kty", "x"),
}
_CURVES = {"P-256": "ES256", "P-384": "ES384", "Ed25519": "EdDSA"}
"""Curves, and the algorithm of each."""
_COORDINATE_BYTES = {"P-256": 32, "P-384": 48, "Ed25519": 32}


class _Registry(jws.JWSRegistry):
    """joserfc's rules for headers, with room for a large RSA key, and no header that ACME does not know."""

    max_header_length = 8 << 10
    max_payload_length = MAX_JWS_BYTES
    max_signature_length = 2048

    def get_alg(self, name: str) -> Any:  # noqa: ANN401 - joserfc does not export the type of an algorithm
        """Return an algorithm that is allowed, without joserfc's warning that the name EdDSA is an old one."""
        if name not in (self.allowed or ()):
            raise UnsupportedAlgorithmError(f"{name} is not served here")
        return self.algorithms[name]


_HEADERS = {"nonce": HeaderParameter("Nonce", "str"), "url": HeaderParameter("URL", "str")}
# A header parameter that is not known and not critical is passed over (RFC 7515, "JOSE Header").
_REGISTRY = _Registry(header_registry=_HEADERS, algorithms=ALGORITHMS, strict_check_header=False)
_MAC_REGISTRY = _Registry(header_registry=_HEADERS, algorithms=MAC_ALGORITHMS, strict_check_header=False)


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key that signs requests. jwk: canonical JSON text. thumbprint: base64url of SHA-256, RFC 7638."""

    jwk: str
    thumbprint: str
    key: Key

    @staticmethod
    def parse(document: object) -> "PublicKey":
        """Read a JSON Web Key. Raises FormatError (BAD_KEY, UNKNOWN_ALGORITHM) for one that cannot be used here."""
        if not isinstance(document, dict):
            raise FormatError(Reason.BAD_KEY, "jwk must be a JSON object")
        kind = document.get("kty")
        names = _PUBLIC_MEMBERS.get(kind) if isinstance(kind, str) else None
        if names is None:
            raise FormatError(Reason.UNKNOWN_ALGORITHM, f"keys of type {str(kind)[:40]!r} cannot sign requests here")
        if any(not isinstance(document.get(name), str) for name in names):
            raise FormatError(Reason.BAD_KEY, f"a key of type {kind} needs {', '.join(names)}")
        if "d" in document:
            raise FormatError(
                Reason.BAD_KEY, "the request carries a private key; it is no secret any more, make another"
            )
        if kind != "RSA" and document["crv"] not in _CURVES:
            raise FormatError(Reason.UNKNOWN_ALGORITHM, f"the curve {document['crv'][:40]!r} is not served here")
        public: dict[str, Any] = {name: document[name] for name in names}
        _check_members(public)
        try:
            key: Key = JWKRegistry.import_key(public)
            thumbprint = key.thumbprint()
        except (JoseError, ValueError, TypeError) as error:
            raise FormatError(Reason.BAD_KEY, f"jwk is no usable key: {str(error)[:200]}") from None
        return PublicKey(json.dumps(public, sort_keys=True, separators=(",", ":")), thumbprint, key)

    @staticmethod
    @lru_cache(maxsize=4096)
    def of_text(jwk: str) -> "PublicKey":
        """Return the key whose canonical JSON text this is, as `parse` made it. Raises FormatError."""
        return PublicKey.parse(parse_object(jwk.encode(), "the key"))

    @staticmethod
    def thumbprint_of(spki: bytes) -> str | None:
        """Return the thumbprint of a public key, DER; None when it is of a kind that cannot sign requests here."""
        for kind in (ECKey, OKPKey, RSAKey):
            with suppress(JoseError, ValueError, TypeError, UnsupportedAlgorithm):
                return kind.import_key(spki).thumbprint()
        return None

    @property
    def algorithm(self) -> str:
        """The one algorithm that the key signs with."""
        document = self.key.as_dict(private=False)
        return "RS256" if document["kty"] == "RSA" else _CURVES[str(document["crv"])]

    @property
    def spki(self) -> bytes:
        """The SubjectPublicKeyInfo, DER."""
        assert isinstance(self.key, RSAKey | ECKey | OKPKey)
        return self.key.as_der(private=False)


def _check_members(public: Mapping[str, str]) -> None:
    """Refuse a key that is not written in its one form, and RSA keys that are too weak, or cost too much.

    A key in two forms would have two thumbprints, and could have two accounts. Raises FormatError.
    """
    try:
        values = {name: decode_base64url(text, name) for name, text in public.items() if name not in ("crv", "kty")}
    except FormatError as error:
        raise FormatError(Reason.BAD_KEY, f"jwk is no usable key: {error.message}") from None
    if any(encode_base64url(value) != public[name] for name, value in values.items()):
        raise FormatError(Reason.BAD_KEY, "the base64url in jwk has bits behind its end")
    if public["kty"] != "RSA":
        size = _COORDINATE_BYTES[public["crv"]]
        if any(len(value) != size for value in values.values()):
            raise FormatError(Reason.BAD_KEY, f"the coordinates of a key on {public['crv']} have {size} bytes")
        return
    if any(not value or value[0] == 0 for value in values.values()):
        raise FormatError(Reason.BAD_KEY, "n and e of an RSA key are numbers without leading zeros")
    bits = int.from_bytes(values["n"], "big").bit_length()
    if not MIN_RSA_BITS <= bits <= MAX_RSA_BITS:
        raise FormatError(Reason.BAD_KEY, f"an RSA key has {MIN_RSA_BITS} to {MAX_RSA_BITS} bits here, not {bits}")
    if int.from_bytes(values["e"], "big") < 3:
        raise FormatError(Reason.BAD_KEY, "the exponent of the RSA key is too small")


@dataclass(frozen=True, slots=True)
class SignedRequest:
    """A signed request whose signature nobody has verified yet.

    algorithm, url, nonce, kid, jwk: of its header, as claimed. kid and jwk: one of them is None. Use `verify`.
    """

    algorithm: str
    url: str | None
    nonce: str | None
    kid: str | None
    jwk: Mapping[str, Any] | None
    _document: Mapping[str, str]

    @staticmethod
    def parse(data: bytes) -> "SignedRequest":
        """Read the body of a request. Raises FormatError that says what is wrong."""
        if len(data) > MAX_JWS_BYTES:
            raise FormatError(Reason.TOO_LARGE, f"a signed request has at most {MAX_JWS_BYTES} bytes")
        return SignedRequest.of_json(parse_object(data, "the request"))

    @staticmethod
    def of_json(document: object) -> "SignedRequest":
        """Read a JSON Web Signature, for example one inside another. Raises FormatError."""
        if not isinstance(document, dict):
            raise FormatError(Reason.BAD_DOCUMENT, "a JSON Web Signature is a JSON object")
        if "signatures" in document or "header" in document:
            raise FormatError(
                Reason.BAD_DOCUMENT, "a request has one signature, in the flattened form, and no unprotected header"
            )
        if document.keys() != _MEMBERS or not all(isinstance(value, str) for value in document.values()):
            raise FormatError(Reason.BAD_DOCUMENT, "a request has protected, payload and signature, all base64url")
        header = parse_object(decode_base64url(document["protected"], "protected"), "the protected header")
        for name in _MEMBERS:
            decode_base64url(document[name], name)
        texts = _header_texts(header)
        jwk, kid, algorithm = header.get("jwk"), texts["kid"], texts["alg"]
        if (jwk is None) == (kid is None):
            raise FormatError(Reason.BAD_DOCUMENT, "the protected header has either jwk or kid")
        if jwk is not None and not isinstance(jwk, dict):
            raise FormatError(Reason.BAD_KEY, "jwk must be a JSON object")
        if algorithm is None:
            raise FormatError(Reason.BAD_DOCUMENT, "the protected header has no alg")
        return SignedRequest(algorithm, texts["url"], texts["nonce"], kid, jwk, document)

    def check_algorithm(self) -> None:
        """Raise SignatureError (UNKNOWN_ALGORITHM) for an algorithm that no key may use here."""
        if self.algorithm not in ALGORITHMS:
            raise SignatureError(
                Reason.UNKNOWN_ALGORITHM,
                f"requests are signed with {', '.join(ALGORITHMS)} here, not with {self.algorithm[:40]!r}",
            )

    def verify(self, key: PublicKey) -> bytes:
        """Return the payload, which the holder of the key has signed.

        Raises SignatureError; FormatError (BAD_KEY) when the algorithm is another one than the key's.
        """
        self.check_algorithm()
        if self.algorithm != key.algorithm:
            raise FormatError(Reason.BAD_KEY, f"the key signs with {key.algorithm}, not with {self.algorithm}")
        return self._verify(key.key, _REGISTRY)

    def verify_mac(self, secret: bytes) -> bytes:
        """Return the payload, which somebody who has the secret has authenticated. Raises SignatureError."""
        if self.algorithm not in MAC_ALGORITHMS:
            raise SignatureError(
                Reason.UNKNOWN_ALGORITHM, f"external accounts are bound with {', '.join(MAC_ALGORITHMS)}"
            )
        return self._verify(OctKey.import_key(secret), _MAC_REGISTRY)

    def _verify(self, key: Key, registry: jws.JWSRegistry) -> bytes:
        """Have joserfc verify the signature."""
        document: Any = dict(self._document)
        try:
            payload: bytes = jws.deserialize_json(document, key, registry=registry).payload
        except (JoseError, ValueError, TypeError):
            raise SignatureError(
                Reason.BAD_SIGNATURE, "the signature does not verify with the key that it names"
            ) from None
        return payload


def _header_texts(header: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the strings of a protected header that matter, None where one is not there. Raises FormatError."""
    if "crit" in header or "b64" in header:
        raise FormatError(Reason.BAD_DOCUMENT, "no critical header is known here, and the payload is base64url")
    texts = {name: header.get(name) for name in ("alg", "url", "nonce", "kid")}
    for name, value in texts.items():
        if value is not None and not isinstance(value, str):
            raise FormatError(Reason.BAD_DOCUMENT, f"{name} in the protected header must be a string")
    nonce = texts["nonce"]
    if nonce is not None and not (nonce and _BASE64URL.fullmatch(nonce)):
        raise FormatError(Reason.BAD_BASE64, "nonce in the protected header is no base64url without padding")
    return texts


def parse_object(data: bytes, what: str) -> dict[str, Any]:
    """Return a JSON object, UTF-8, without repeated names and without what is no text or number. Raises FormatError."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a name stands there twice")
        return found

    def refuse(word: str) -> None:
        raise ValueError(f"{word} is no number")

    try:
        document = json.loads(data.decode("utf-8"), object_pairs_hook=unique, parse_constant=refuse)
        if b"\\u" in data:
            # Half a surrogate pair is no text: neither a database nor an answer could hold it.
            json.dumps(document, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError) as error:
        raise FormatError(Reason.BAD_DOCUMENT, f"{what} is no JSON: {str(error)[:200]}") from None
    if not isinstance(document, dict):
        raise FormatError(Reason.BAD_DOCUMENT, f"{what} is no JSON object")
    return document


def decode_base64url(text: str, what: str) -> bytes:
    """Decode base64url without padding, as ACME wants it. Raises FormatError."""
    if _BASE64URL.fullmatch(text) and len(text) % 4 != 1:
        return urlsafe_b64decode(text + "=" * (-len(text) % 4))
    raise FormatError(Reason.BAD_BASE64, f"{what} is no base64url without padding")


def encode_base64url(data: bytes) -> str:
    """Encode base64url without padding."""
    return urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def problem_of(error: Error) -> Problem:
    """Return the problem document for an error about a signed request."""
    if error.reason is Reason.UNKNOWN_ALGORITHM and isinstance(error, SignatureError):
        return Problem(
            type=ProblemType.BAD_SIGNATURE_ALGORITHM, detail=error.message, members={"algorithms": list(ALGORITHMS)}
        )
    if error.reason in (Reason.BAD_KEY, Reason.UNKNOWN_ALGORITHM):
        return Problem(type=ProblemType.BAD_PUBLIC_KEY, detail=error.message)
    if isinstance(error, SignatureError):
        return Problem(type=ProblemType.UNAUTHORIZED, detail=error.message)
    status = 413 if error.reason is Reason.TOO_LARGE else None
    return Problem(type=ProblemType.MALFORMED, detail=error.message, status=status)
