"""A reader of ClientHello messages, for whoever must know what a client offers before a TLS library looks at it.

Spec: RFC 8446, "Record Layer", "Handshake Protocol", "Client Hello" and "Extensions"; RFC 6066, "Server Name
Indication"; RFC 7301 for ALPN.
"""

from dataclasses import dataclass

from mtc.errors import FormatError, Reason
from mtc.tls.extension import CODE_POINT, TrustAnchorsExtension
from mtc.wire import Reader

MAX_HELLO_BYTES = 1 << 17
"""Longest ClientHello read: its extensions have at most 64 KiB. Post-quantum key shares take 1.2 kB of it each."""
MAX_RECORD_BYTES = 1 << 14
"""Longest plaintext fragment of one record."""
TLS_13 = 0x0304

_HANDSHAKE = 22
_CLIENT_HELLO = 1
_SERVER_NAME = 0
_GROUPS = 10
_SIGNATURE_ALGORITHMS = 13
_ALPN = 16
_SUPPORTED_VERSIONS = 43
_HOST_NAME = 0


@dataclass(frozen=True, slots=True)
class ClientHello:
    """What a client offers. Code points are integers; those that we do not know (GREASE) stand among them.

    server_name: as sent, in ASCII, None when it was not. trust_anchors: None when the extension was not sent.
    extension_types: all of them, in order.
    """

    version: int
    random: bytes
    session_id: bytes
    cipher_suites: tuple[int, ...]
    extension_types: tuple[int, ...] = ()
    server_name: str | None = None
    trust_anchors: TrustAnchorsExtension | None = None
    signature_algorithms: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()
    supported_versions: tuple[int, ...] = ()
    application_protocols: tuple[bytes, ...] = ()

    @property
    def offers_tls13(self) -> bool:
        """Whether TLS 1.3 is among the versions."""
        return TLS_13 in self.supported_versions


def find_client_hello(data: bytes) -> bytes | None:
    """Return the body of the ClientHello with which a connection starts, or None while bytes are missing.

    data: everything received so far; the message may span several records, and more may follow it. Raises FormatError
    as soon as it cannot become a ClientHello any more, also when it would be longer than `MAX_HELLO_BYTES`.
    """
    message = b""
    at = 0
    while True:
        if message[:1] and message[0] != _CLIENT_HELLO:
            raise FormatError(
                Reason.BAD_TAG, f"the connection starts with handshake message {message[0]}", got=message[0]
            )
        if len(message) >= 4:
            length = int.from_bytes(message[1:4], "big")
            if length > MAX_HELLO_BYTES:
                raise FormatError(
                    Reason.TOO_LARGE, f"a ClientHello of {length} bytes is longer than {MAX_HELLO_BYTES}", got=length
                )
            if len(message) >= 4 + length:
                return message[4 : 4 + length]
        header = data[at : at + 5]
        if header[:1] and header[0] != _HANDSHAKE:
            raise FormatError(
                Reason.BAD_TAG,
                f"the peer does not speak TLS: its record has type {header[0]}",
                offset=at,
                got=header[0],
            )
        if len(header) < 5:
            return None
        length = int.from_bytes(header[3:5], "big")
        if header[1] != 3 or not 0 < length <= MAX_RECORD_BYTES:
            raise FormatError(
                Reason.BAD_LENGTH, f"{header.hex()} is no header of a TLS record with a ClientHello", offset=at
            )
        if len(data) < at + 5 + length:
            return None
        message += data[at + 5 : at + 5 + length]
        at += 5 + length


def parse_client_hello(body: bytes) -> ClientHello:
    """Read the body of a ClientHello, without its type and length. Raises FormatError.

    Extensions that are not read here are stepped over; one that stands twice is refused.
    """
    reader = Reader(body, "the ClientHello")
    version, random = reader.read_uint(2), reader.read_bytes(32)
    session_id = reader.read_vector(1, most=32)
    suites = _code_points(reader.read_vector(2, least=2), "the cipher suites")
    reader.read_vector(1, least=1)
    found: dict[int, bytes] = {}
    if reader.remaining:
        extensions = Reader(reader.read_vector(2), "the ClientHello's extensions")
        while extensions.remaining:
            kind, data = extensions.read_uint(2), extensions.read_vector(2)
            if kind in found:
                raise FormatError(Reason.DUPLICATE_EXTENSION, f"extension {kind} of the ClientHello stands twice")
            found[kind] = data
    reader.finish()
    anchors = found.get(CODE_POINT)
    return ClientHello(
        version,
        random,
        session_id,
        suites,
        tuple(found),
        _parse_server_name(found.get(_SERVER_NAME)),
        None if anchors is None else TrustAnchorsExtension.parse_request(anchors),
        _listed(found.get(_SIGNATURE_ALGORITHMS), 2, "signature_algorithms"),
        _listed(found.get(_GROUPS), 2, "supported_groups"),
        _listed(found.get(_SUPPORTED_VERSIONS), 1, "supported_versions"),
        _parse_protocols(found.get(_ALPN)),
    )


def _listed(data: bytes | None, width: int, name: str) -> tuple[int, ...]:
    """Return the code points of an extension that is one list with a length of `width` bytes; none when absent."""
    if data is None:
        return ()
    reader = Reader(data, f"the {name} extension")
    points = _code_points(reader.read_vector(width, least=2), f"the {name} extension")
    reader.finish()
    return points


def _code_points(data: bytes, what: str) -> tuple[int, ...]:
    """Return integers of two bytes each."""
    if len(data) % 2:
        raise FormatError(Reason.BAD_LENGTH, f"{what} have an odd number of bytes, {len(data)}", got=len(data))
    return tuple(int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2))


def _parse_server_name(data: bytes | None) -> str | None:
    """Return the host name of the server_name extension. There is one of each type, and one type."""
    if data is None:
        return None
    outer = Reader(data, "the server_name extension")
    reader = Reader(outer.read_vector(2, least=1), "the server_name extension")
    outer.finish()
    kind, name = reader.read_uint(1), reader.read_vector(2, least=1)
    reader.finish()
    if kind != _HOST_NAME or not name.isascii() or b"\x00" in name:
        raise FormatError(Reason.BAD_NAME, "the server_name extension holds no host name in ASCII", got=kind)
    return name.decode("ascii")


def _parse_protocols(data: bytes | None) -> tuple[bytes, ...]:
    """Return the names of the ALPN extension."""
    if data is None:
        return ()
    outer = Reader(data, "the ALPN extension")
    reader = Reader(outer.read_vector(2, least=2), "the ALPN extension")
    outer.finish()
    names: list[bytes] = []
    while reader.remaining:
        names.append(reader.read_vector(1, least=1))
    return tuple(names)
