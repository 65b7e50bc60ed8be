"""Fuzz targets of TLS: what clients and servers send before anybody is verified."""

from contextlib import suppress
from functools import cache

from fuzz import corpora
from fuzz.registry import target

from mtc.cert import Certificate
from mtc.errors import FormatError, Rejected, UsageError
from mtc.ids import TrustAnchorID
from mtc.tls import (
    Match,
    TrustAnchorsExtension,
    check_acknowledgement,
    find_client_hello,
    is_merkle_tree_certificate,
    match_path,
    parse_client_hello,
    parse_paths,
    parse_server_name,
)
from mtc.wire import Writer

_IDS = ("32473.1", "32473.1.1.1.5", "32473.1.2.1.9", "32473.44363.47")


def extension_seeds() -> list[bytes]:
    """Return lists of several lengths, and one with an entry that is no ID."""
    ids = [TrustAnchorID.parse(text) for text in _IDS]
    return [
        *(TrustAnchorsExtension(tuple(ids[:count])).encode() for count in range(len(ids) + 1)),
        b"\x00\x04\x01\x80\x01\x01",
    ]


@target(extension_seeds)
def check_trust_anchors(data: bytes) -> None:
    """A list that parses has one form that parses to the same, and its IDs are well formed; GREASE is left out."""
    try:
        check_acknowledgement(data)
    except FormatError:
        assert data
    try:
        extension = TrustAnchorsExtension.parse_request(data)
    except FormatError:
        return
    assert TrustAnchorsExtension.parse_request(extension.encode()) == extension
    assert len(extension.encode()) <= len(data)
    assert extension.cut_to_fit() == extension
    try:
        assert TrustAnchorsExtension.parse_available(data) == extension
    except FormatError:
        assert not extension.anchors


@cache
def hello_seeds() -> tuple[bytes, ...]:
    """Return first flights: bare, with every extension that is read, and in small records."""
    name = b"www.example.com"
    known = (
        (0, Writer().vector(Writer().uint(0, 1).vector(name, 2).encode(), 2).encode()),
        (10, b"\x00\x04\x00\x1d\x11\xec"),
        (13, b"\x00\x04\x04\x03\x09\x04"),
        (16, b"\x00\x0c\x02h2\x08http/1.1"),
        (43, b"\x04\x03\x04\x03\x03"),
        (0xCA34, extension_seeds()[3]),
        (0x1A1A, b""),
    )
    extensions = Writer()
    for kind, data in known:
        extensions.uint(kind, 2).vector(data, 2)
    start = Writer().uint(0x0303, 2).bytes(bytes(32)).vector(bytes(32), 1).vector(b"\x13\x01\x1a\x1a", 2)
    bare = start.vector(b"\x00", 1).encode()
    flights = []
    for body in (bare, bare + Writer().vector(extensions.encode(), 2).encode()):
        message = Writer().uint(1, 1).vector(body, 3).encode()
        for size in (len(message), 50):
            parts = (message[at : at + size] for at in range(0, len(message), size))
            flights.append(b"".join(b"\x16\x03\x01" + Writer().vector(part, 2).encode() for part in parts))
    return tuple(flights)


@target(hello_seeds)
def check_client_hello(data: bytes) -> None:
    """A first flight that holds a ClientHello holds it whatever follows; no beginning of it is refused."""
    try:
        body = find_client_hello(data)
    except FormatError:
        return
    if body is None:
        return
    assert find_client_hello(data + b"\x17") == body
    assert find_client_hello(data[: 5 + len(body) // 2]) is None
    try:
        hello = parse_client_hello(body)
    except FormatError:
        return
    assert len(set(hello.extension_types)) == len(hello.extension_types)
    parse_server_name(hello.server_name)


@target(corpora.certificate_seeds, is_certificate=True)
def check_certificate_kind(data: bytes) -> None:
    """Whatever a peer sends as its certificate is ours or not, and what our reader takes is ours."""
    is_ours = is_merkle_tree_certificate(data)
    with suppress(FormatError, Rejected):
        Certificate.parse(data)
        assert is_ours


@target(corpora.chain_seeds)
def check_certification_paths(data: bytes) -> None:
    """Paths that are read hold a certificate, and no landmark-relative one goes to a client that lists nothing."""
    try:
        paths = parse_paths(data, b"key")
    except (FormatError, UsageError):
        return
    for path in paths:
        assert path.certificates
        assert match_path(path, ()) is Match.FALLBACK
        assert path.needs_negotiation or not path.is_landmark_relative
        match_path(path, [TrustAnchorID.parse(text) for text in _IDS])
