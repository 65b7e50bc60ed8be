"""DER, the TLS presentation language and PEM: what is written is read, and each malformation has its own reason."""

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.strategies import moments, object_identifiers

from mtc.errors import Error, FormatError, Reason, UsageError
from mtc.wire import (
    DERReader,
    PEMBlock,
    Reader,
    Tag,
    Writer,
    decode_base64,
    decode_decimal,
    decode_oid,
    encode_base64,
    encode_bit_string,
    encode_explicit,
    encode_integer,
    encode_octet_string,
    encode_oid,
    encode_pem,
    encode_sequence,
    encode_set,
    encode_time,
    encode_tlv,
    encode_utf8_string,
    find_pem_block,
    parse_pem,
)
from mtc.wire import der as der_module
from mtc.wire import pem as pem_module
from mtc.wire.der import MAX_OID_BYTES, context, encode_base128, posix_seconds


def reader_of(data: bytes) -> DERReader:
    """Return a reader of `data`."""
    return DERReader(data, "the test")


def fault_of(call: Callable[[], object]) -> tuple[Reason, object]:
    """Return reason and offset of the FormatError that `call` must raise."""
    with pytest.raises(FormatError) as caught:
        call()
    return caught.value.reason, caught.value.facts.get("offset")


def usage_of(call: Callable[[], object]) -> Reason:
    """Return the reason of the UsageError that `call` must raise."""
    with pytest.raises(UsageError) as caught:
        call()
    return caught.value.reason


# DER: what is written is read.


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (0, "020100"),
        (1, "020101"),
        (127, "02017f"),
        (128, "02020080"),
        (255, "020200ff"),
        (256, "02020100"),
        (-1, "0201ff"),
        (-128, "020180"),
        (-129, "0202ff7f"),
        (-32768, "02028000"),
        (2**63, "0209008000000000000000"),
        (2**64 - 1, "020900ffffffffffffffff"),
        (2**64, "0209010000000000000000"),
    ],
)
def test_integer_examples(value: int, encoded: str) -> None:
    """An INTEGER is written in the fewest bytes of two's complement, and read back."""
    assert encode_integer(value).hex() == encoded
    assert reader_of(bytes.fromhex(encoded)).read_integer() == value


@pytest.mark.parametrize(
    ("dotted", "encoded"),
    [
        ("0.0", "060100"),
        ("0.39", "060127"),
        ("1.0", "060128"),
        ("1.39", "06014f"),
        ("2.0", "060150"),
        ("2.40", "060178"),
        ("2.47", "06017f"),
        ("2.48", "06028100"),
        ("2.999.1", "0603883701"),
        ("1.3.6.1.5.5.7.6.67", "06082b06010505070643"),
        ("1.3.6.1.4.1.44363.47.0", "060a2b0601040182da4b2f00"),
        ("2.16.840.1.101.3.4.3.17", "0609608648016503040311"),
    ],
)
def test_oid_examples(dotted: str, encoded: str) -> None:
    """An OBJECT IDENTIFIER is written and read, below all three roots."""
    assert encode_oid(dotted).hex() == encoded
    assert reader_of(bytes.fromhex(encoded)).read_oid() == dotted


@pytest.mark.parametrize(
    ("moment", "encoded"),
    [
        (datetime(1, 1, 1, tzinfo=UTC), b"\x18\x0f00010101000000Z"),
        (datetime(1949, 12, 31, 23, 59, 59, tzinfo=UTC), b"\x18\x0f19491231235959Z"),
        (datetime(1950, 1, 1, tzinfo=UTC), b"\x17\x0d500101000000Z"),
        (datetime(1999, 12, 31, 23, 59, 59, tzinfo=UTC), b"\x17\x0d991231235959Z"),
        (datetime(2000, 2, 29, tzinfo=UTC), b"\x17\x0d000229000000Z"),
        (datetime(2049, 12, 31, 23, 59, 59, tzinfo=UTC), b"\x17\x0d491231235959Z"),
        (datetime(2050, 1, 1, tzinfo=UTC), b"\x18\x0f20500101000000Z"),
        (datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC), b"\x18\x0f99991231235959Z"),
        (datetime(2026, 10, 7, 2, tzinfo=timezone(timedelta(hours=2))), b"\x17\x0d261007000000Z"),
    ],
)
def test_time_examples(moment: datetime, encoded: bytes) -> None:
    """Years 1950 to 2049 are written as UTCTime, all others as GeneralizedTime, always in UTC."""
    assert encode_time(moment) == encoded
    assert reader_of(encoded).read_time() == moment


@pytest.mark.parametrize(("length", "header"), [(0, "0400"), (127, "047f"), (128, "048180"), (255, "0481ff")])
def test_short_lengths(length: int, header: str) -> None:
    """Lengths below 128 take one byte, the next ones two."""
    assert encode_octet_string(bytes(length)) == bytes.fromhex(header) + bytes(length)


@pytest.mark.parametrize(("length", "header"), [(256, "04820100"), (65535, "0482ffff"), (65536, "0483010000")])
def test_long_lengths(length: int, header: str) -> None:
    """Longer lengths take as many bytes as they need, and are read."""
    encoded = encode_octet_string(bytes(length))
    assert encoded == bytes.fromhex(header) + bytes(length)
    assert reader_of(encoded).read(Tag.OCTET_STRING) == bytes(length)


@given(st.integers())
@example(-(2**4000))
def test_integers_return(value: int) -> None:
    """Every integer is read as it was written."""
    reader = reader_of(encode_integer(value))
    assert reader.read_integer() == value
    reader.finish()


@given(object_identifiers())
def test_oids_return(dotted: str) -> None:
    """Every object identifier is read as it was written."""
    reader = reader_of(encode_oid(dotted))
    assert reader.read_oid() == dotted
    reader.finish()


@given(moments)
def test_times_return(moment: datetime) -> None:
    """Every time with whole seconds is read as it was written."""
    reader = reader_of(encode_time(moment))
    assert reader.read_time() == moment
    reader.finish()


@given(st.integers(0, 2**200))
def test_base128_is_minimal(value: int) -> None:
    """A base-128 number has no leading zero group, and continues up to its last byte."""
    encoded = encode_base128(value)
    assert encoded[0] != 0x80
    assert all(byte & 0x80 for byte in encoded[:-1])
    assert not encoded[-1] & 0x80
    assert sum((byte & 0x7F) << 7 * place for place, byte in enumerate(reversed(encoded))) == value


@given(moments)
def test_posix_seconds(moment: datetime) -> None:
    """POSIX seconds count from 1970, without leap seconds, rounded down."""
    assert datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=posix_seconds(moment)) == moment
    assert posix_seconds(moment.replace(microsecond=999_999)) == posix_seconds(moment)


def test_structures_are_entered() -> None:
    """SEQUENCE, SET, explicit tags and strings are written in DER, and a reader goes in and comes out."""
    inner = encode_set(encode_utf8_string("b"), encode_utf8_string("a"), encode_bit_string(b"\xf0"))
    data = encode_sequence(encode_explicit(3, inner), encode_tlv(Tag.BOOLEAN, b"\xff"), encode_tlv(Tag.NULL, b""))
    assert data.hex() == "3013a30c310a" + "030200f0" + "0c0161" + "0c0162" + "0101ff" + "0500"
    outer = reader_of(data)
    assert outer.peek_tag() == Tag.SEQUENCE
    sequence = outer.enter(Tag.SEQUENCE)
    outer.finish()
    assert outer.is_empty
    assert outer.peek_tag() is None
    explicit = sequence.enter(context(3))
    members = list(explicit.enter(Tag.SET).items())
    assert [member.peek_tag() for member in members] == [Tag.BIT_STRING, Tag.UTF8_STRING, Tag.UTF8_STRING]
    assert members[0].read_bit_string() == b"\xf0"
    assert members[2].read_tlv(Tag.UTF8_STRING) == b"\x0c\x01b"
    assert fault_of(lambda: members[1].read_tlv(Tag.SET)) == (Reason.BAD_TAG, 10)
    assert sequence.read_boolean() is True
    assert sequence.read_tlv() == b"\x05\x00"
    sequence.finish()
    assert reader_of(b"\x01\x01\x00").read_boolean() is False


def test_offsets_count_from_the_start() -> None:
    """The offset in an error counts from the start of the bytes, however deep the reader stands."""
    data = encode_sequence(encode_sequence(encode_integer(1), b"\x02\x02\x00\x01"))
    inner = reader_of(data).enter(Tag.SEQUENCE).enter(Tag.SEQUENCE)
    assert inner.read_integer() == 1
    assert fault_of(inner.read_integer) == (Reason.BAD_INTEGER, 7)
    assert inner.offset == 7


# DER: what is malformed is refused.


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        ("", Reason.TRUNCATED),
        ("04", Reason.TRUNCATED),
        ("0401", Reason.TRUNCATED),
        ("0402aa", Reason.TRUNCATED),
        ("0481", Reason.TRUNCATED),
        ("048201", Reason.TRUNCATED),
        ("0484ffffffff", Reason.TRUNCATED),
        ("048180", Reason.TRUNCATED),
        ("0480", Reason.BAD_LENGTH),
        ("0480aa0000", Reason.BAD_LENGTH),
        ("0485000000000100", Reason.BAD_LENGTH),
        ("04850100000000", Reason.BAD_LENGTH),
        ("04ff", Reason.BAD_LENGTH),
        ("048100", Reason.BAD_LENGTH),
        ("04817f" + "00" * 127, Reason.BAD_LENGTH),
        ("04820080" + "00" * 128, Reason.BAD_LENGTH),
        ("0483000100" + "00" * 256, Reason.BAD_LENGTH),
        ("0484000000ff" + "00" * 255, Reason.BAD_LENGTH),
        ("1f0100", Reason.BAD_TAG),
        ("bf8101020100", Reason.BAD_TAG),
    ],
)
def test_bad_headers(data: str, reason: Reason) -> None:
    """Indefinite, oversized and non-minimal lengths, long tags and cut-off values each have their reason."""
    assert fault_of(lambda: reader_of(bytes.fromhex(data)).read_tlv()) == (reason, 0)


@pytest.mark.parametrize(
    ("read", "data", "reason"),
    [
        (DERReader.read_integer, "0200", Reason.BAD_INTEGER),
        (DERReader.read_integer, "02020001", Reason.BAD_INTEGER),
        (DERReader.read_integer, "0202007f", Reason.BAD_INTEGER),
        (DERReader.read_integer, "0202ff80", Reason.BAD_INTEGER),
        (DERReader.read_integer, "0202ffff", Reason.BAD_INTEGER),
        (DERReader.read_integer, "02020000", Reason.BAD_INTEGER),
        (DERReader.read_integer, "040100", Reason.BAD_TAG),
        (DERReader.read_boolean, "0100", Reason.BAD_BOOLEAN),
        (DERReader.read_boolean, "010101", Reason.BAD_BOOLEAN),
        (DERReader.read_boolean, "0102ffff", Reason.BAD_BOOLEAN),
        (DERReader.read_boolean, "0201ff", Reason.BAD_TAG),
        (DERReader.read_oid, "0600", Reason.BAD_OID),
        (DERReader.read_oid, "060180", Reason.BAD_OID),
        (DERReader.read_oid, "06028001", Reason.BAD_OID),
        (DERReader.read_oid, "0603558001", Reason.BAD_OID),
        (DERReader.read_oid, "06025581", Reason.BAD_OID),
        (DERReader.read_oid, "0d0101", Reason.BAD_TAG),
        (DERReader.read_bit_string, "0300", Reason.BAD_BIT_STRING),
        (DERReader.read_bit_string, "03020180", Reason.BAD_BIT_STRING),
        (DERReader.read_bit_string, "03020800", Reason.BAD_BIT_STRING),
        (DERReader.read_bit_string, "040100", Reason.BAD_TAG),
        (DERReader.read_time, "1600", Reason.BAD_TAG),
        (DERReader.read_time, "1700", Reason.BAD_TIME),
        (DERReader.read_time, "1800", Reason.BAD_TIME),
    ],
)
def test_bad_values(read: Callable[[DERReader], object], data: str, reason: Reason) -> None:
    """A value that DER does not allow has the reason of its type, and the reader stays in front of it."""
    reader = reader_of(bytes.fromhex(data))
    assert fault_of(lambda: read(reader)) == (reason, 0)
    assert reader.offset == 0


BAD_TIMES = [
    b"2601010000Z",
    b"260101000000",
    b"260101000000+0000",
    b"2601010000000",
    b"26010100000aZ",
    b"-60101000000Z",
    b"26 101000000Z",
    b"260001000000Z",
    b"261301000000Z",
    b"260100000000Z",
    b"260132000000Z",
    b"260431000000Z",
    b"260229000000Z",
    b"260230000000Z",
    b"260101240000Z",
    b"260101006000Z",
    b"260101000060Z",
]


@pytest.mark.parametrize("text", BAD_TIMES)
def test_bad_times(text: bytes) -> None:
    """A time without seconds or Z, with a sign, a letter or a date that no calendar knows is refused, in both types."""
    for tag, value in ((Tag.UTC_TIME, text), (Tag.GENERALIZED_TIME, b"20" + text), (Tag.GENERALIZED_TIME, text)):
        assert fault_of(reader_of(encode_tlv(tag, value)).read_time) == (Reason.BAD_TIME, 0)


@pytest.mark.parametrize("text", [b"00000101000000Z", b"19000229000000Z", b"21000229000000Z", b"20260101000000.5Z"])
def test_bad_generalized_times(text: bytes) -> None:
    """There is no year 0, 1900 and 2100 have no leap day, and DER times in certificates have no fractions."""
    assert fault_of(reader_of(encode_tlv(Tag.GENERALIZED_TIME, text)).read_time) == (Reason.BAD_TIME, 0)


def test_every_truncation_is_refused() -> None:
    """A value that is cut off at any byte is truncated, and one with a byte more has trailing data."""
    value = encode_sequence(encode_octet_string(bytes(200)), encode_sequence(encode_integer(2**80)))
    for size in range(len(value)):
        assert fault_of(lambda: reader_of(value[:size]).read_tlv()) == (Reason.TRUNCATED, 0)  # noqa: B023 - at once
    reader = reader_of(value + b"\x00")
    reader.read_tlv()
    assert fault_of(reader.finish) == (Reason.TRAILING_DATA, len(value))


def test_a_value_ends_with_its_container() -> None:
    """A value inside a structure cannot reach beyond it, though bytes follow."""
    data = encode_sequence(b"\x04\x05abc") + b"defgh"
    assert fault_of(lambda: reader_of(data).enter(Tag.SEQUENCE).read(Tag.OCTET_STRING)) == (Reason.TRUNCATED, 2)
    assert fault_of(lambda: list(reader_of(data).enter(Tag.SEQUENCE).items())) == (Reason.TRUNCATED, 2)
    assert fault_of(lambda: DERReader(b"\x04\x01a", "the test", 0, 1).read_tlv()) == (Reason.TRUNCATED, 0)


def test_wrong_tags_are_named() -> None:
    """The error for a wrong tag says which stands there and which should."""
    with pytest.raises(FormatError, match="0x04 where SEQUENCE should be") as caught:
        reader_of(b"\x04\x00").enter(Tag.SEQUENCE)
    assert caught.value.facts == {"offset": 0, "expected": 0x30, "got": 0x04}
    with pytest.raises(FormatError, match="ends where tag 0xa3 should be"):
        reader_of(b"").read(context(3))
    with pytest.raises(FormatError, match="ends where a value should be"):
        reader_of(b"").read_tlv()
    assert context(0, constructed=False) == 0x80


def test_endless_oids_are_refused() -> None:
    """An object identifier that would take Python's decimal limit, or quadratic time, is too large."""
    assert decode_oid(b"\x55" + b"\xff" * (MAX_OID_BYTES - 2) + b"\x7f").startswith("2.5.")
    with pytest.raises(FormatError) as caught:
        decode_oid(b"\xff" * 100_000 + b"\x7f")
    assert caught.value.reason is Reason.TOO_LARGE
    assert fault_of(reader_of(encode_tlv(Tag.OID, b"\x55" * (MAX_OID_BYTES + 1))).read_oid) == (Reason.TOO_LARGE, 0)


@given(st.binary(max_size=60))
def test_der_reader_only_raises_format_errors(data: bytes) -> None:
    """Whatever the bytes are, a reader returns a value that is written back the same, or raises FormatError."""
    writers: list[tuple[Callable[[DERReader], object], Callable[..., bytes]]] = [
        (DERReader.read_integer, encode_integer),
        (DERReader.read_oid, encode_oid),
        (DERReader.read_bit_string, encode_bit_string),
    ]
    for read, write in writers:
        for tag in (data[:1], b"\x02", b"\x03", b"\x06"):
            reader = reader_of(tag + data[1:])
            try:
                value = read(reader)
            except FormatError:
                assert reader.offset in {0, len(data)} or reader.offset <= len(data)
            else:
                assert write(value) == (tag + data[1:])[: reader.offset]


@pytest.mark.parametrize(
    "dotted", ["", "1", "1.", ".1", "1..2", "3.1", "0.40", "1.40", "1.-2", "a.b", "1.2.x", "1.2²", "1.2. 3"]
)
def test_bad_oids_are_not_written(dotted: str) -> None:
    """What is no object identifier is our caller's mistake."""
    assert usage_of(lambda: encode_oid(dotted)) is Reason.USAGE


def test_what_der_cannot_hold_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """Naive times, fractions of a second, negative components and endless values are our caller's mistake."""
    assert usage_of(lambda: encode_time(datetime(2026, 1, 1))) is Reason.USAGE  # noqa: DTZ001 - the point
    assert usage_of(lambda: encode_time(datetime(2026, 1, 1, microsecond=1, tzinfo=UTC))) is Reason.USAGE
    for value in (-1, -(2**70)):
        assert usage_of(lambda: encode_base128(value)) is Reason.USAGE  # noqa: B023 - called at once
    monkeypatch.setattr(der_module, "MAX_LENGTH_BYTES", 1)
    assert usage_of(lambda: encode_octet_string(bytes(256))) is Reason.TOO_LARGE


# The TLS presentation language.


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("uint"), st.integers(1, 8), st.binary(min_size=8, max_size=8)),
            st.tuples(st.just("vector"), st.integers(1, 4), st.binary(max_size=255)),
            st.tuples(st.just("bytes"), st.just(0), st.binary(max_size=9)),
        ),
        max_size=8,
    )
)
def test_tls_structures_return(fields: list[tuple[str, int, bytes]]) -> None:
    """What a writer appended, a reader returns in order; each shorter piece is truncated and each longer one trails."""
    writer = Writer()
    for kind, width, value in fields:
        if kind == "uint":
            assert writer.uint(int.from_bytes(value[:width], "big"), width) is writer
        elif kind == "vector":
            assert writer.vector(value, width) is writer
        else:
            assert writer.bytes(value) is writer
    data = writer.encode()

    def read(data: bytes) -> Reader:
        reader = Reader(data, "the test")
        for kind, width, value in fields:
            if kind == "uint":
                assert reader.read_uint(width) == int.from_bytes(value[:width], "big")
            elif kind == "vector":
                assert reader.read_vector(width) == value
            else:
                assert reader.read_bytes(len(value)) == value
        return reader

    reader = read(data)
    reader.finish()
    assert reader.offset == len(data)
    assert reader.remaining == 0
    assert reader.read_rest() == b""
    for size in range(len(data)):
        assert fault_of(lambda: read(data[:size]))[0] is Reason.TRUNCATED  # noqa: B023 - called at once
    assert fault_of(read(data + b"\x00").finish) == (Reason.TRAILING_DATA, len(data))


def test_tls_vectors_are_bounded() -> None:
    """A vector outside its bounds is refused before its contents are read, and the error says where."""
    reader = Reader(b"\xaa\x00\x03abc", "the test")
    assert reader.read_uint(1) == 0xAA
    for bounds in ({"least": 4}, {"most": 2}, {"least": 4, "most": 9}):
        inner = Reader(b"\xaa\x00\x03abc", "the test")
        inner.read_uint(1)
        assert fault_of(lambda: inner.read_vector(2, **bounds)) == (Reason.BAD_LENGTH, 1)  # noqa: B023 - called at once
    assert reader.read_vector(2, least=3, most=3) == b"abc"
    assert fault_of(lambda: reader.read_uint(1)) == (Reason.TRUNCATED, 6)
    assert fault_of(lambda: Reader(b"\x00", "the test").read_vector(1, least=1)) == (Reason.BAD_LENGTH, 0)
    assert fault_of(lambda: Reader(b"\x05ab", "the test").read_vector(1)) == (Reason.TRUNCATED, 1)


def test_tls_writer_refuses_what_does_not_fit() -> None:
    """An integer or a vector that does not fit its width is our caller's mistake."""
    assert Writer().uint(255, 1).uint(0, 6).encode() == b"\xff" + bytes(6)
    for value in (-1, 256):
        assert usage_of(lambda: Writer().uint(value, 1)) is Reason.USAGE  # noqa: B023 - called at once
    assert len(Writer().vector(bytes(255), 1).encode()) == 256
    assert usage_of(lambda: Writer().vector(bytes(256), 1)) is Reason.TOO_LARGE


# Numbers and bytes in lines of text.


@given(st.binary(max_size=100))
def test_base64_returns(data: bytes) -> None:
    """Bytes are read as they were written, on one line, and any cut-off text is another value or refused."""
    text = encode_base64(data)
    assert "\n" not in text
    assert decode_base64(text, "the test") == data
    for size in range(len(text)):
        if size % 4:
            assert fault_of(lambda: decode_base64(text[:size], "the test"))[0] is Reason.BAD_BASE64  # noqa: B023
        else:
            assert data.startswith(decode_base64(text[:size], "the test"))


@pytest.mark.parametrize(
    "text",
    ["A", "AA", "AAA", "A===", "AA=", "AA==\n", " AA==", "AA ==", "AB==", "AAB=", "AA-_", "=AAA", "\xc4AAA"],
)
def test_bad_base64(text: str) -> None:
    """Text that is cut off, spaced, in another alphabet or not canonical is refused."""
    assert fault_of(lambda: decode_base64(text, "the test"))[0] is Reason.BAD_BASE64


@given(st.integers(0, 2**70), st.integers(0, 2**70))
def test_decimals_return(value: int, most: int) -> None:
    """A number is read as it was written when it is at most the limit, and refused above."""
    if value <= most:
        assert decode_decimal(str(value), most, "the test") == value
    else:
        assert fault_of(lambda: decode_decimal(str(value), most, "the test"))[0] is Reason.BAD_NUMBER


@pytest.mark.parametrize(
    "text", ["", "00", "01", "+1", "-1", " 1", "1 ", "1\n", "1_0", "0x1", "1.", "\u0661", "9" * 9999]
)
def test_bad_decimals(text: str) -> None:
    """Leading zeros, signs, spaces, other digits and endless numbers are refused."""
    assert fault_of(lambda: decode_decimal(text, 2**64, "the test"))[0] is Reason.BAD_NUMBER


# PEM.

CERTIFICATE = b"-----BEGIN CERTIFICATE-----\nAAECAwQ=\n-----END CERTIFICATE-----\n"


@given(
    st.lists(
        st.builds(PEMBlock, st.text("ABCXYZ019 #._", min_size=1, max_size=64), st.binary(max_size=200)), max_size=4
    )
)
def test_pem_returns(blocks: list[PEMBlock]) -> None:
    """Blocks are read as they were written, strictly or not, also with CRLF or between explanations."""
    text = encode_pem(blocks)
    assert parse_pem(text, strict=True) == parse_pem(text) == blocks
    assert all(len(line) <= 64 or line.startswith(b"-----") for line in text.split(b"\n"))
    crlf = text.replace(b"\n", b"\r\n")
    assert parse_pem(crlf, strict=True) == blocks
    assert parse_pem(b"Explanation:\n\n" + text + b"behind\n") == blocks


def test_pem_example() -> None:
    """A block is written with its label, 64 characters a line, and LF."""
    assert encode_pem([PEMBlock("CERTIFICATE", bytes(range(5)))]) == CERTIFICATE
    lines = encode_pem([PEMBlock("X", bytes(49))]).split(b"\n")
    assert [len(line) for line in lines] == [17, 64, 4, 15, 0]
    assert parse_pem(b"") == parse_pem(b"nothing here\n") == parse_pem(b"\n\n", strict=True) == []
    assert parse_pem(b"-----BEGIN X-----\n-----END X-----") == [PEMBlock("X", b"")]


@pytest.mark.parametrize(
    ("text", "reason", "line"),
    [
        (b"text\n" + CERTIFICATE, Reason.BAD_PEM, 1),
        (CERTIFICATE + b"text", Reason.BAD_PEM, 4),
        (CERTIFICATE + b"-", Reason.BAD_PEM, 4),
        (b"\xef\xbb\xbf" + CERTIFICATE, Reason.BAD_PEM, 1),
    ],
)
def test_strict_pem_allows_no_text(text: bytes, reason: Reason, line: int) -> None:
    """In a strict file nothing but blocks may stand; the error names the line."""
    with pytest.raises(FormatError) as caught:
        parse_pem(text, strict=True)
    assert (caught.value.reason, caught.value.facts) == (reason, {"line": line})


@pytest.mark.parametrize(
    ("text", "reason", "line"),
    [
        (b"-----BEGIN X-----\nAAAA\n", Reason.BAD_PEM, 1),
        (b"\n-----BEGIN X-----", Reason.BAD_PEM, 2),
        (b"-----BEGIN X-----\nAAAA\n-----END Y-----\n", Reason.BAD_PEM, 3),
        (b"-----BEGIN X-----\n-----BEGIN X-----\n-----END X-----\n", Reason.BAD_PEM, 2),
        (b"-----BEGIN X-----\nAAAA\n-----END X----\n", Reason.BAD_PEM, 3),
        (b"-----END X-----\n", Reason.BAD_PEM, 1),
        (b"-----BEGIN x-----\nAAAA\n-----END x-----\n", Reason.BAD_PEM, 1),
        (b"-----BEGIN -----\n", Reason.BAD_PEM, 1),
        (b"-----BEGIN X----\n", Reason.BAD_PEM, 1),
        (b"-----BEGIN X-----\nAAA\n-----END X-----\n", Reason.BAD_BASE64, 1),
        (b"-----BEGIN X-----\nA===\n-----END X-----\n", Reason.BAD_BASE64, 1),
        (b"-----BEGIN X-----\nAA=A\n-----END X-----\n", Reason.BAD_BASE64, 1),
        (b"-----BEGIN X-----\nAA==\nAAAA\n-----END X-----\n", Reason.BAD_BASE64, 1),
        (b"-----BEGIN X-----\nAA AA\n-----END X-----\n", Reason.BAD_BASE64, 1),
        (b"-----BEGIN X-----\n AAAA\n-----END X-----\n", Reason.BAD_BASE64, 1),
        (b"-----BEGIN X-----\nAA-_\n-----END X-----\n", Reason.BAD_BASE64, 1),
        (b"-----BEGIN X-----\nProc-Type: 4,ENCRYPTED\n\nAAAA\n-----END X-----\n", Reason.BAD_BASE64, 1),
        (b"-----BEGIN X-----\nAB==\n-----END X-----\n", Reason.BAD_BASE64, 1),
        (b"-----BEGIN X-----\nAAB=\n-----END X-----\n", Reason.BAD_BASE64, 1),
    ],
)
def test_bad_pem(text: bytes, reason: Reason, line: int) -> None:
    """Open blocks, other labels, and base64 that is cut off, commented or not canonical are refused with their line."""
    for strict in (False, True):
        with pytest.raises(FormatError) as caught:
            parse_pem(text, strict=strict)
        assert (caught.value.reason, caught.value.facts) == (reason, {"line": line})


def test_truncated_pem_is_refused_or_shorter() -> None:
    """A text that is cut off at any byte inside its block is refused; only the last newline may be missing."""
    for size in range(1, len(CERTIFICATE) - 1):
        with pytest.raises(FormatError) as caught:
            parse_pem(CERTIFICATE[:size], strict=True)
        assert caught.value.reason is Reason.BAD_PEM
    assert parse_pem(CERTIFICATE[:-1], strict=True) == parse_pem(CERTIFICATE)


def test_pem_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """A text with too many bytes or blocks is not read on."""
    monkeypatch.setattr(pem_module, "MAX_PEM_BLOCKS", 2)
    assert len(parse_pem(CERTIFICATE * 2)) == 2
    with pytest.raises(FormatError) as caught:
        parse_pem(CERTIFICATE * 3)
    assert caught.value.reason is Reason.TOO_LARGE
    monkeypatch.setattr(pem_module, "MAX_PEM_BYTES", len(CERTIFICATE))
    assert len(parse_pem(CERTIFICATE)) == 1
    with pytest.raises(FormatError) as caught:
        parse_pem(CERTIFICATE + b"\n")
    assert caught.value.reason is Reason.TOO_LARGE


def test_first_block_of_a_label_is_found() -> None:
    """The first block with a label is found, whatever stands behind it, but nothing malformed in front of it."""
    text = encode_pem([PEMBlock("X", b"1"), PEMBlock("Y", b"2"), PEMBlock("Y", b"3")])
    assert find_pem_block(text + b"-----BEGIN", "Y") == b"2"
    for bad in (b"", text, b"-----END X-----\n" + text):
        with pytest.raises(FormatError) as caught:
            find_pem_block(bad, "Z" if bad == text else "Y")
        assert caught.value.reason is Reason.BAD_PEM


@pytest.mark.parametrize("label", ["", "lower", "A\nB", "A-B", "Ä", "X" * 65])
def test_bad_labels_are_not_written(label: str) -> None:
    """What is no PEM label is our caller's mistake."""
    assert usage_of(lambda: encode_pem([PEMBlock(label, b"")])) is Reason.USAGE


@given(st.lists(st.sampled_from([*CERTIFICATE.split(b"\n"), b"AAAA", b"text", b"=", b"-----"]), max_size=8))
def test_pem_only_raises_format_errors(lines: list[bytes]) -> None:
    """Whatever the lines are, blocks come out that are written back to the same blocks, or FormatError."""
    for strict in (False, True):
        try:
            blocks = parse_pem(b"\n".join(lines), strict=strict)
        except Error as error:
            assert isinstance(error, FormatError)  # noqa: PT017 - both outcomes are allowed
        else:
            assert parse_pem(encode_pem(blocks), strict=True) == blocks
            assert b"".join(base64.b64encode(block.data) for block in blocks) in b"".join(lines).replace(b"-", b"")
