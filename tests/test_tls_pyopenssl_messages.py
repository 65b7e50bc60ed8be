"""Handshake messages as the pyOpenSSL back end reads them: RFC 8446, section "Handshake Protocol"."""

from collections.abc import Callable

import pytest

from mtc.errors import FormatError, Reason
from mtc.tls.adapters.pyopenssl.messages import (
    is_final_server_hello,
    parse_certificate,
    parse_certificate_request,
    parse_encrypted_extensions,
)

LIST = b"\x00\x05\x04\x81\xfd\x59\x01"
SCHEMES = b"\x00\x04\x04\x03\x09\x04"


def vector(data: bytes, width: int) -> bytes:
    """Return a vector."""
    return len(data).to_bytes(width, "big") + data


def extensions(*found: tuple[int, bytes]) -> bytes:
    """Return a list of extensions."""
    return vector(b"".join(kind.to_bytes(2, "big") + vector(data, 2) for kind, data in found), 2)


def message(kind: int, body: bytes) -> bytes:
    """Return a handshake message."""
    return bytes([kind]) + vector(body, 3)


OTHER = (0x0A0A, b"grease")
ENCRYPTED = message(8, extensions(OTHER, (0xCA34, LIST)))
CERTIFICATE = message(
    11,
    vector(b"", 1)
    + vector(vector(b"leaf", 3) + extensions((0xCA34, b"")) + vector(b"next", 3) + extensions((0xCA34, b"ignored")), 3),
)
REQUEST = message(13, vector(b"context", 1) + extensions((13, SCHEMES), (0xCA34, LIST)))
PARSERS: list[tuple[Callable[[bytes], object], bytes]] = [
    (parse_encrypted_extensions, ENCRYPTED),
    (parse_certificate, CERTIFICATE),
    (parse_certificate_request, REQUEST),
]


def test_what_is_said_of_trust_anchors_is_found() -> None:
    """The extension is found among others, beside the first certificate only, and missed where it is not."""
    assert parse_encrypted_extensions(ENCRYPTED) == LIST
    assert parse_encrypted_extensions(message(8, extensions(OTHER))) is None
    assert parse_certificate(CERTIFICATE) == b""
    assert parse_certificate(message(11, vector(b"", 1) + vector(vector(b"leaf", 3) + extensions(), 3))) is None
    assert parse_certificate(message(11, vector(b"", 1) + vector(b"", 3))) is None
    assert parse_certificate_request(REQUEST) == (LIST, frozenset({0x0403, 0x0904}))
    assert parse_certificate_request(message(13, vector(b"", 1) + extensions())) == (None, None)


@pytest.mark.parametrize(("parse", "sound"), PARSERS, ids=["encrypted", "certificate", "request"])
def test_damaged_messages_are_refused(parse: Callable[[bytes], object], sound: bytes) -> None:
    """Every truncation and every byte too many is a FormatError."""
    for end in range(4, len(sound)):
        with pytest.raises(FormatError):
            parse(sound[:end])
    with pytest.raises(FormatError):
        parse(sound + b"\x00")


def test_extensions_stand_once() -> None:
    """A message with an extension twice is refused, as is a list of schemes with half of one."""
    with pytest.raises(FormatError) as caught:
        parse_encrypted_extensions(message(8, extensions((0xCA34, LIST), (0xCA34, LIST))))
    assert caught.value.reason is Reason.DUPLICATE_EXTENSION
    with pytest.raises(FormatError):
        parse_certificate_request(message(13, vector(b"", 1) + extensions((13, b"\x00\x03\x04\x03\x09"))))


def test_hello_retry_request_is_no_server_hello() -> None:
    """A ServerHello with the random of RFC 8446, "Server Hello", asks for another ClientHello."""
    retry = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")
    assert is_final_server_hello(message(2, b"\x03\x03" + bytes(32) + b"\x00"))
    assert not is_final_server_hello(message(2, b"\x03\x03" + retry + b"\x00"))
    assert not is_final_server_hello(ENCRYPTED)
