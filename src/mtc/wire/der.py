"""Strict DER: what an MTC certificate, a CA certificate or a key needs, and no more.

Only definite, minimal lengths and single-byte tags exist here; everything else raises FormatError with its offset.

Spec: ITU-T X.690, "Distinguished Encoding Rules"; RFC 5280 for times.
"""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from enum import IntEnum
from functools import lru_cache

from mtc.errors import FormatError, Reason, UsageError

MAX_LENGTH_BYTES = 4
"""Longest length field read; a DER value above 4 GiB is no certificate."""
MAX_OID_BYTES = 512
"""Longest object identifier read. Its decimal form costs quadratic time, and Python refuses it above 4,300 digits."""


class Tag(IntEnum):
    """The tags in use, as their identifier octet."""

    BOOLEAN = 0x01
    INTEGER = 0x02
    BIT_STRING = 0x03
    OCTET_STRING = 0x04
    NULL = 0x05
    OID = 0x06
    UTF8_STRING = 0x0C
    RELATIVE_OID = 0x0D
    PRINTABLE_STRING = 0x13
    IA5_STRING = 0x16
    UTC_TIME = 0x17
    GENERALIZED_TIME = 0x18
    SEQUENCE = 0x30
    SET = 0x31


def context(number: int, *, constructed: bool = True) -> int:
    """Return the identifier octet of the context-specific tag [number], 0 to 30."""
    return (0xA0 if constructed else 0x80) | number


class DERReader:
    """Reads consecutive TLVs from `data[start:end]`; offsets in errors count from the start of `data`."""

    __slots__ = ("data", "end", "offset", "what")

    def __init__(self, data: bytes, what: str, start: int = 0, end: int | None = None) -> None:
        """Read `data[start:end]`; `what` names the structure in error messages."""
        self.data = data
        self.offset = start
        self.end = len(data) if end is None else end
        self.what = what

    @property
    def is_empty(self) -> bool:
        """True when nothing is left."""
        return self.offset == self.end

    def peek_tag(self) -> int | None:
        """Return the next identifier octet, or None at the end."""
        return None if self.offset == self.end else self.data[self.offset]

    def _fail(self, reason: Reason, message: str, **facts: object) -> FormatError:
        """Make the error for a fault at the current offset."""
        return FormatError(reason, f"{self.what}: {message} at byte {self.offset}", **{"offset": self.offset, **facts})

    def read_header(self, tag: int | None = None) -> tuple[int, int, int]:
        """Read one identifier and length; return (tag, start of contents, end of contents) and step behind the TLV.

        tag: the identifier octet that must stand here, or None for any single-byte one.
        """
        data, at, end = self.data, self.offset, self.end
        if at == end:
            raise self._fail(Reason.TRUNCATED, f"ends where {_tag_name(tag)} should be")
        got = data[at]
        if tag is not None and got != tag:
            raise self._fail(
                Reason.BAD_TAG, f"has tag 0x{got:02x} where {_tag_name(tag)} should be", expected=tag, got=got
            )
        if got & 0x1F == 0x1F:
            raise self._fail(Reason.BAD_TAG, "has a tag of more than one byte", got=got)
        if at + 2 > end:
            raise self._fail(Reason.TRUNCATED, "ends inside a header")
        length = data[at + 1]
        start = at + 2
        if length >= 0x80:
            count = length & 0x7F
            if count == 0 or count > MAX_LENGTH_BYTES:
                raise self._fail(Reason.BAD_LENGTH, "has an indefinite or oversized length")
            start += count
            if start > end:
                raise self._fail(Reason.TRUNCATED, "ends inside a header")
            length = int.from_bytes(data[at + 2 : start], "big")
            if length < 0x80 or length >> 8 * (count - 1) == 0:
                raise self._fail(Reason.BAD_LENGTH, "has a length that is not minimal")
        if start + length > end:
            raise self._fail(
                Reason.TRUNCATED, f"ends inside a value of {length} bytes", expected=length, got=end - start
            )
        self.offset = start + length
        return got, start, start + length

    def read(self, tag: int) -> bytes:
        """Return the contents of the next TLV, which must have `tag`."""
        _, start, end = self.read_header(tag)
        return self.data[start:end]

    def read_tlv(self, tag: int | None = None) -> bytes:
        """Return the next TLV whole, header included; it must have `tag` if one is given."""
        at = self.offset
        _, _, end = self.read_header(tag)
        return self.data[at:end]

    def enter(self, tag: int) -> "DERReader":
        """Step over the next TLV, which must have `tag`, and return a reader of its contents."""
        _, start, end = self.read_header(tag)
        return DERReader(self.data, self.what, start, end)

    def items(self) -> Iterator["DERReader"]:
        """Yield a reader for each remaining TLV, standing in front of its header."""
        while not self.is_empty:
            at = self.offset
            _, _, end = self.read_header()
            yield DERReader(self.data, self.what, at, end)

    def finish(self) -> None:
        """Raise FormatError (TRAILING_DATA) when bytes are left."""
        if self.offset != self.end:
            raise self._fail(Reason.TRAILING_DATA, f"has {self.end - self.offset} bytes too many")

    def read_integer(self) -> int:
        """Return the next INTEGER, of any size and sign; minimal encoding only."""
        at = self.offset
        contents = self.read(Tag.INTEGER)
        if not contents or (len(contents) > 1 and contents[0] in (0x00, 0xFF) and contents[0] >> 7 == contents[1] >> 7):
            self.offset = at
            raise self._fail(Reason.BAD_INTEGER, "has an integer that is empty or not minimal")
        return int.from_bytes(contents, "big", signed=True)

    def read_boolean(self) -> bool:
        """Return the next BOOLEAN; DER knows only 00 and FF."""
        at = self.offset
        contents = self.read(Tag.BOOLEAN)
        if contents not in (b"\x00", b"\xff"):
            self.offset = at
            raise self._fail(Reason.BAD_BOOLEAN, "has a boolean that is neither 00 nor FF")
        return contents == b"\xff"

    def read_oid(self) -> str:
        """Return the next OBJECT IDENTIFIER in dotted form."""
        at = self.offset
        contents = self.read(Tag.OID)
        try:
            return decode_oid(contents)
        except FormatError as error:
            self.offset = at
            raise self._fail(error.reason, error.message) from None

    def read_bit_string(self) -> bytes:
        """Return the bytes of the next BIT STRING, which must have no unused bits."""
        at = self.offset
        contents = self.read(Tag.BIT_STRING)
        if not contents or contents[0]:
            self.offset = at
            raise self._fail(Reason.BAD_BIT_STRING, "has a bit string with unused bits, or none at all")
        return contents[1:]

    def read_time(self) -> datetime:
        """Return the next UTCTime or GeneralizedTime as an aware UTC datetime with whole seconds."""
        at = self.offset
        tag, start, end = self.read_header()
        text = self.data[start:end]
        width = {Tag.UTC_TIME: 13, Tag.GENERALIZED_TIME: 15}.get(tag)  # type: ignore[call-overload]  # int is no Tag
        if width is None:
            self.offset = at
            raise self._fail(Reason.BAD_TAG, f"has tag 0x{tag:02x} where a time should be", got=tag)
        digits = text[:-1]
        if len(text) != width or text[-1:] != b"Z" or not digits.isdigit():
            self.offset = at
            raise self._fail(Reason.BAD_TIME, "has a time that is not YYMMDDHHMMSSZ or YYYYMMDDHHMMSSZ")
        if tag == Tag.UTC_TIME:
            digits = (b"19" if digits >= b"50" else b"20") + digits
        try:
            month, day, hour, minute, second = (int(digits[i : i + 2]) for i in (4, 6, 8, 10, 12))
            return datetime(int(digits[:4]), month, day, hour, minute, second, tzinfo=UTC)
        except ValueError:
            self.offset = at
            raise self._fail(Reason.BAD_TIME, "has a time that no calendar knows") from None


def _tag_name(tag: int | None) -> str:
    """Name a tag for an error message."""
    if tag is None:
        return "a value"
    try:
        return Tag(tag).name.replace("_", " ")
    except ValueError:
        return f"tag 0x{tag:02x}"


@lru_cache(maxsize=1024)
def decode_oid(contents: bytes) -> str:
    """Return the dotted form of an OBJECT IDENTIFIER's content octets. Raises FormatError (BAD_OID, TOO_LARGE)."""
    if len(contents) > MAX_OID_BYTES:
        raise FormatError(Reason.TOO_LARGE, f"has an object identifier of more than {MAX_OID_BYTES} bytes")
    if not contents or contents[-1] & 0x80:
        raise FormatError(Reason.BAD_OID, "has an object identifier that is empty or truncated")
    components = []
    value = 0
    fresh = True
    for byte in contents:
        if fresh and byte == 0x80:
            raise FormatError(Reason.BAD_OID, "has an object identifier component that is not minimal")
        value = value << 7 | byte & 0x7F
        fresh = not byte & 0x80
        if fresh:
            components.append(value)
            value = 0
    first = min(components[0] // 40, 2)
    return ".".join(map(str, (first, components[0] - 40 * first, *components[1:])))


def encode_base128(value: int) -> bytes:
    """Return one object identifier component: base 128, most significant first, minimal.

    Raises UsageError below 0.
    """
    if value < 0:
        raise UsageError(Reason.USAGE, f"{value} cannot be a component of an object identifier", got=value)
    out = [value & 0x7F]
    while value := value >> 7:
        out.append(value & 0x7F | 0x80)
    return bytes(reversed(out))


def encode_tlv(tag: int, contents: bytes) -> bytes:
    """Return one TLV with a minimal length."""
    length = len(contents)
    if length < 0x80:
        return bytes((tag, length)) + contents
    size = (length.bit_length() + 7) // 8
    if size > MAX_LENGTH_BYTES:
        raise UsageError(Reason.TOO_LARGE, f"{length} bytes are too long for a DER value here")
    return bytes((tag, 0x80 | size)) + length.to_bytes(size, "big") + contents


def encode_sequence(*parts: bytes) -> bytes:
    """Return a SEQUENCE of encoded parts."""
    return encode_tlv(Tag.SEQUENCE, b"".join(parts))


def encode_set(*parts: bytes) -> bytes:
    """Return a SET OF encoded parts, sorted as DER asks."""
    return encode_tlv(Tag.SET, b"".join(sorted(parts)))


def encode_explicit(number: int, contents: bytes) -> bytes:
    """Return `contents` inside the constructed context-specific tag [number]."""
    return encode_tlv(context(number), contents)


def encode_integer(value: int) -> bytes:
    """Return an INTEGER of any size and sign."""
    size = (value if value >= 0 else ~value).bit_length() // 8 + 1
    return encode_tlv(Tag.INTEGER, value.to_bytes(size, "big", signed=True))


def encode_octet_string(value: bytes) -> bytes:
    """Return an OCTET STRING."""
    return encode_tlv(Tag.OCTET_STRING, value)


def encode_bit_string(value: bytes) -> bytes:
    """Return a BIT STRING without unused bits."""
    return encode_tlv(Tag.BIT_STRING, b"\x00" + value)


def encode_utf8_string(value: str) -> bytes:
    """Return a UTF8String."""
    return encode_tlv(Tag.UTF8_STRING, value.encode())


@lru_cache(maxsize=1024)
def encode_oid(dotted: str) -> bytes:
    """Return an OBJECT IDENTIFIER. Raises UsageError when `dotted` is not one."""
    parts = dotted.split(".")
    if len(parts) < 2 or not all(part.isascii() and part.isdigit() for part in parts):
        raise UsageError(Reason.USAGE, f"{dotted!r} is not an object identifier")
    first, second, *rest = map(int, parts)
    if first > 2 or (first < 2 and second >= 40):
        raise UsageError(Reason.USAGE, f"{dotted!r} is not an object identifier")
    return encode_tlv(Tag.OID, b"".join(map(encode_base128, (40 * first + second, *rest))))


@lru_cache(maxsize=256)
def encode_time(moment: datetime) -> bytes:
    """Return a UTCTime for years 1950 to 2049, a GeneralizedTime otherwise, as RFC 5280 asks.

    moment: an aware datetime with whole seconds. Raises UsageError otherwise.
    """
    if moment.tzinfo is None or moment.microsecond:
        raise UsageError(Reason.USAGE, f"{moment!r} is not an aware datetime with whole seconds")
    moment = moment.astimezone(UTC)
    text = f"{moment.year:04d}{moment:%m%d%H%M%S}Z"
    if 1950 <= moment.year < 2050:
        return encode_tlv(Tag.UTC_TIME, text[2:].encode())
    return encode_tlv(Tag.GENERALIZED_TIME, text.encode())


def posix_seconds(moment: datetime) -> int:
    """Return whole POSIX seconds of an aware datetime, rounded down. Raises UsageError for one without a time zone."""
    if moment.tzinfo is None:
        raise UsageError(Reason.USAGE, f"{moment!r} has no time zone")
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
