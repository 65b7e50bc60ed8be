"""ClientHello messages, read as OpenSSL writes them and as nobody should."""

import ssl

import pytest
from tests.makers import HOST
from tests.tls_pairs import CLOCK, tls_ca

from mtc.errors import FormatError, Reason
from mtc.tls import ClientHello, client_context, find_client_hello, parse_client_hello
from mtc.tls.hello import MAX_HELLO_BYTES
from mtc.wire import Writer


def flight(context: ssl.SSLContext, host: str | None = HOST) -> bytes:
    """Return the first bytes that a client sends."""
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=host).do_handshake()
    return outgoing.read()


def our_flight() -> bytes:
    """Return the first bytes of a client of ours that speaks HTTP."""
    context = client_context(tls_ca().store(), clock=CLOCK)
    context.set_alpn_protocols(["h2", "http/1.1"])
    return flight(context)


def body_with(*extensions: tuple[int, bytes]) -> bytes:
    """Return a ClientHello of our own."""
    writer = Writer()
    for kind, data in extensions:
        writer.uint(kind, 2).vector(data, 2)
    return (
        Writer()
        .uint(0x0303, 2)
        .bytes(bytes(32))
        .vector(b"", 1)
        .vector(b"\x13\x01", 2)
        .vector(b"\x00", 1)
        .vector(writer.encode(), 2)
        .encode()
    )


def records(message: bytes, size: int) -> bytes:
    """Return a handshake message in records of at most `size` bytes."""
    parts = [message[at : at + size] for at in range(0, len(message), size)]
    return b"".join(b"\x16\x03\x01" + len(part).to_bytes(2, "big") + part for part in parts)


def parse_flight(data: bytes) -> ClientHello:
    """Return the ClientHello of a first flight."""
    body = find_client_hello(data)
    assert body is not None
    return parse_client_hello(body)


def test_hello_of_openssl_is_read() -> None:
    """Name, trust anchors, schemes, groups, versions and protocols of OpenSSL's message are found."""
    hello = parse_flight(our_flight())
    assert hello.server_name == HOST
    assert hello.trust_anchors is not None
    assert [str(anchor) for anchor in hello.trust_anchors.anchors] == ["32473.1"]
    assert 0x0403 in hello.signature_algorithms
    assert 0x001D in hello.groups
    assert hello.offers_tls13
    assert hello.application_protocols == (b"h2", b"http/1.1")
    assert 0x1301 in hello.cipher_suites
    assert 0xCA34 in hello.extension_types


def test_hello_without_our_extension() -> None:
    """What was not sent is None or empty."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    hello = parse_flight(flight(context, None))
    assert hello.server_name is None
    assert hello.trust_anchors is None
    assert hello.application_protocols == ()
    assert not hello.offers_tls13


@pytest.mark.parametrize("size", [1, 3, 4, 5, 100, 16384])
def test_hello_may_span_records(size: int) -> None:
    """However the message is cut into records, it is found as soon as its last byte is there, and not before."""
    data = our_flight()
    body = find_client_hello(data)
    assert body is not None
    split = records(data[5:], size)
    assert find_client_hello(split) == body
    assert find_client_hello(split + b"\x16\x03\x03\x00\x01\x02") == body
    for end in (*range(0, len(split), 1 + len(split) // 400), len(split) - 1):
        assert find_client_hello(split[:end]) is None


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"GET / HTTP/1.1\r\n", Reason.BAD_TAG),
        (b"\x15\x03\x01\x00\x02\x02\x28", Reason.BAD_TAG),
        (b"\x16\x02\x00\x00\x05hello", Reason.BAD_LENGTH),
        (b"\x16\x03\x01\x00\x00", Reason.BAD_LENGTH),
        (b"\x16\x03\x01\x40\x01", Reason.BAD_LENGTH),
        (b"\x16\x03\x01\x00\x01\x02", Reason.BAD_TAG),
        (b"\x16\x03\x01\x00\x04\x01" + (MAX_HELLO_BYTES + 1).to_bytes(3, "big"), Reason.TOO_LARGE),
        (b"\x16\x03\x01\x00\x01\x01\x17", Reason.BAD_TAG),
    ],
)
def test_what_cannot_become_a_hello_is_refused_at_once(data: bytes, reason: Reason) -> None:
    """No server waits for the rest of what is no ClientHello, or too long."""
    with pytest.raises(FormatError) as caught:
        find_client_hello(data)
    assert caught.value.reason is reason


def test_truncated_hellos_are_refused() -> None:
    """Every beginning of the body is refused, except the one that ends before the extensions; so is a byte more."""
    body = find_client_hello(our_flight())
    assert body is not None
    readable = []
    for size in range(len(body)):
        try:
            parse_client_hello(body[:size])
        except FormatError:
            continue
        readable.append(size)
    assert len(readable) == 1
    with pytest.raises(FormatError):
        parse_client_hello(body + b"\x00")


@pytest.mark.parametrize(
    "extension",
    [
        (0, b""),
        (0, b"\x00\x00"),
        (0, b"\x00\x04\x01\x00\x01a"),
        (0, b"\x00\x04\x00\x00\x01\xff"),
        (0, b"\x00\x04\x00\x00\x01\x00"),
        (0, b"\x00\x03\x00\x00\x00"),
        (0, b"\x00\x08\x00\x00\x01a\x00\x00\x01b"),
        (10, b"\x00\x03\x00\x1d\x00"),
        (10, b"\x00\x00"),
        (13, b"\x00\x02\x04\x03\x00"),
        (16, b"\x00\x02\x00\x00"),
        (43, b"\x02\x03"),
        (0xCA34, b"\x00\x01\x00"),
    ],
)
def test_malformed_extensions_are_refused(extension: tuple[int, bytes]) -> None:
    """An extension that is read must be sound; one that is not is stepped over."""
    with pytest.raises(FormatError):
        parse_client_hello(body_with(extension))
    assert parse_client_hello(body_with((0x1A1A, extension[1]))).extension_types == (0x1A1A,)


def test_an_extension_stands_once() -> None:
    """A second extension of the same type is refused."""
    with pytest.raises(FormatError) as caught:
        parse_client_hello(body_with((0x1A1A, b""), (0x1A1A, b"")))
    assert caught.value.reason is Reason.DUPLICATE_EXTENSION
