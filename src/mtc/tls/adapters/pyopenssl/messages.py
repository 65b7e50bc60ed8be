"""What a TLS 1.3 peer says of trust anchors, read from its handshake messages as they arrive.

Only what concerns us is read; whether a message is sound is for the TLS library to say, which reads it after us.

Spec: RFC 8446, "Handshake Protocol", "Server Hello", "Encrypted Extensions", "Certificate Request", "Certificate".
"""

from enum import IntEnum

from mtc.errors import FormatError, Reason
from mtc.tls.extension import CODE_POINT
from mtc.wire import Reader

_HELLO_RETRY_REQUEST = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
_SIGNATURE_ALGORITHMS = 13


class Kind(IntEnum):
    """HandshakeType of the messages that are read here."""

    SERVER_HELLO = 2
    ENCRYPTED_EXTENSIONS = 8
    CERTIFICATE = 11
    CERTIFICATE_REQUEST = 13


def is_final_server_hello(message: bytes) -> bool:
    """Tell whether a message is the ServerHello after which the server speaks encrypted: no HelloRetryRequest."""
    return message[:1] == bytes([Kind.SERVER_HELLO]) and message[6:38] != _HELLO_RETRY_REQUEST


def parse_encrypted_extensions(message: bytes) -> bytes | None:
    """Return the body of `trust_anchors` in EncryptedExtensions, None without it. Raises FormatError."""
    reader = _open(message, "EncryptedExtensions")
    found = _extensions(reader, "EncryptedExtensions").get(CODE_POINT)
    reader.finish()
    return found


def parse_certificate(message: bytes) -> bytes | None:
    """Return the body of `trust_anchors` beside the first certificate, None without it. Raises FormatError."""
    reader = _open(message, "the Certificate message")
    reader.read_vector(1)
    entries = Reader(reader.read_vector(3), "the Certificate message")
    reader.finish()
    if not entries.remaining:
        return None
    entries.read_vector(3)
    return _extensions(entries, "the Certificate message").get(CODE_POINT)


def parse_certificate_request(message: bytes) -> tuple[bytes | None, frozenset[int] | None]:
    """Return what a server that wants a certificate says: the body of `trust_anchors` and its signature schemes.

    Each is None where it was not sent. Raises FormatError.
    """
    reader = _open(message, "CertificateRequest")
    reader.read_vector(1)
    found = _extensions(reader, "CertificateRequest")
    reader.finish()
    listed = found.get(_SIGNATURE_ALGORITHMS)
    if listed is None:
        return found.get(CODE_POINT), None
    outer = Reader(listed, "the signature_algorithms of CertificateRequest")
    schemes = Reader(outer.read_vector(2, least=2), "the signature_algorithms of CertificateRequest")
    outer.finish()
    known: set[int] = set()
    while schemes.remaining:
        known.add(schemes.read_uint(2))
    return found.get(CODE_POINT), frozenset(known)


def _open(message: bytes, what: str) -> Reader:
    """Return a reader of a message behind its type and length."""
    return Reader(message[4:], what)


def _extensions(reader: Reader, what: str) -> dict[int, bytes]:
    """Read a list of extensions; one that stands twice is refused."""
    listed = Reader(reader.read_vector(2), f"the extensions of {what}")
    found: dict[int, bytes] = {}
    while listed.remaining:
        kind, data = listed.read_uint(2), listed.read_vector(2)
        if kind in found:
            raise FormatError(Reason.DUPLICATE_EXTENSION, f"extension {kind} of {what} stands twice")
        found[kind] = data
    return found
