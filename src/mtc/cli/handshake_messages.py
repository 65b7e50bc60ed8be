"""The messages of a TLS handshake as the library tells of them, and what the larger ones consist of.

Spec: RFC 8446, "Handshake Protocol"; Merkle Tree Certificates, "Certificate Format".
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from mtc.cert import Certificate
from mtc.errors import Error
from mtc.tls import CODE_POINT, ClientContext
from mtc.wire import Reader

_HANDSHAKE, _ALERT = 22, 21
_CLIENT_HELLO, _SERVER_HELLO, _CERTIFICATE = 1, 2, 11
_KEY_SHARE, _PADDING = 51, 21
_PIECES = {CODE_POINT: "trust_anchors", _KEY_SHARE: "key share", _PADDING: "padding"}
_MESSAGES = {
    0: "HelloRequest",
    1: "ClientHello",
    2: "ServerHello",
    4: "NewSessionTicket",
    8: "EncryptedExtensions",
    11: "Certificate",
    12: "ServerKeyExchange",
    13: "CertificateRequest",
    14: "ServerHelloDone",
    15: "CertificateVerify",
    16: "ClientKeyExchange",
    20: "Finished",
    22: "CertificateStatus",
    24: "KeyUpdate",
    25: "CompressedCertificate",
}
_GROUPS = {
    0x0017: "secp256r1",
    0x0018: "secp384r1",
    0x0019: "secp521r1",
    0x001D: "x25519",
    0x001E: "x448",
    0x11EB: "SecP256r1MLKEM768",
    0x11EC: "X25519MLKEM768",
    0x11ED: "SecP384r1MLKEM1024",
}
# SHA-256 of "HelloRetryRequest", the random of a ServerHello that asks for another ClientHello.
_RETRY_RANDOM = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")


@dataclass(frozen=True, slots=True)
class Message:
    """A message. byte_count: of its type, its length and its body, without records and their encryption.

    parts: names and sizes of pieces that matter, in the order in which they are shown; the rest is the message's own.
    """

    sender: str
    name: str
    byte_count: int
    parts: tuple[tuple[str, int], ...] = ()


class Recorder:
    """Notes the messages of the handshakes that begin while it listens."""

    def __init__(self) -> None:
        """Begin with none."""
        self.messages: list[Message] = []
        self.certificates: tuple[bytes, ...] = ()
        self.group = ""

    @contextlib.contextmanager
    def listening(self, context: ClientContext) -> Iterator[None]:
        """Listen to the connections of a context. It is a private hook of `ssl`; without it there are no messages."""
        try:
            context._msg_callback = self._note  # type: ignore[attr-defined]  # noqa: SLF001 - there is no public one
        except AttributeError:
            yield
            return
        try:
            yield
        finally:
            context._msg_callback = None  # type: ignore[attr-defined]  # noqa: SLF001 - as above

    def _note(self, _connection: object, direction: str, _version: int, content: int, kind: int, data: bytes) -> None:
        """Take a message. Called by `ssl`, so it must not raise."""
        sender = "client" if direction == "write" else "server"
        if content == _ALERT:
            self.messages.append(Message(sender, "Alert", len(data)))
        if content != _HANDSHAKE:
            return
        name = _MESSAGES.get(int(kind), f"message {int(kind)}")
        parts: tuple[tuple[str, int], ...] = ()
        with contextlib.suppress(Error):
            if kind == _CLIENT_HELLO:
                parts = _describe_hello(data)
            elif kind == _SERVER_HELLO:
                name = self._read_hello(data)
            elif kind == _CERTIFICATE and sender == "server":
                self.certificates = _read_certificates(data)
                parts = _describe_chain(self.certificates)
        self.messages.append(Message(sender, name, len(data), parts))

    def _read_hello(self, data: bytes) -> str:
        """Note the group that the server chose; return the message's name."""
        reader = Reader(data[4:], "the ServerHello")
        reader.read_uint(2)
        name = "HelloRetryRequest" if reader.read_bytes(32) == _RETRY_RANDOM else "ServerHello"
        reader.read_vector(1)
        reader.read_bytes(3)
        extensions = Reader(reader.read_vector(2), "its extensions") if reader.remaining else reader
        while extensions.remaining:
            kind, body = extensions.read_uint(2), extensions.read_vector(2)
            if kind == _KEY_SHARE:
                number = int.from_bytes(body[:2], "big")
                self.group = _GROUPS.get(number, f"group 0x{number:04x}")
        return name


def _read_certificates(data: bytes) -> tuple[bytes, ...]:
    """Return the certificates of a Certificate message of TLS 1.3, or of TLS 1.2, which has neither context nor more.

    Raises FormatError.
    """
    body = data[4:]
    is_new = body[:1] == b"\x00" and len(body) >= 4 and int.from_bytes(body[1:4], "big") == len(body) - 4
    reader = Reader(body[4:] if is_new else body[3:], "the certificates")
    found = []
    while reader.remaining:
        found.append(reader.read_vector(3))
        if is_new:
            reader.read_vector(2)
    return tuple(found)


def _describe_hello(data: bytes) -> tuple[tuple[str, int], ...]:
    """Return the extensions of a ClientHello that matter here, with their sizes. Raises FormatError."""
    reader = Reader(data[38:], "the ClientHello")
    reader.read_vector(1)
    reader.read_vector(2)
    reader.read_vector(1)
    extensions = Reader(reader.read_vector(2), "its extensions")
    found = {}
    while extensions.remaining:
        kind, body = extensions.read_uint(2), extensions.read_vector(2)
        found[kind] = 4 + len(body)
    return tuple((name, found[kind]) for kind, name in _PIECES.items() if kind in found)


def _describe_chain(certificates: tuple[bytes, ...]) -> tuple[tuple[str, int], ...]:
    """Return the parts of a Certificate message. Raises FormatError, Rejected."""
    if not certificates:
        return ()
    others = sum(map(len, certificates[1:]))
    rest = (("other certificates", others),) if others else ()
    try:
        return (*_describe_certificate(certificates[0]), *rest)
    except Error:
        return (("the end entity's certificate", len(certificates[0])), *rest)


def _describe_certificate(der: bytes) -> tuple[tuple[str, int], ...]:
    """Return the parts of a Merkle Tree certificate with their sizes in bytes. Raises FormatError, Rejected."""
    certificate = Certificate.parse(der)
    proof = certificate.proof
    parts = [
        ("key", len(certificate.spki)),
        ("inclusion proof", sum(map(len, proof.inclusion_proof))),
        *((f"cosignature of {item.name}", len(item.signature)) for item in proof.signatures),
    ]
    rest = len(der) - sum(count for _, count in parts)
    return ("names, validity, extensions", rest), *(part for part in parts if part[1])
