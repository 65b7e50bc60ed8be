"""Trust anchor IDs: object identifiers below 1.3.6.1.4.1, and the patterns and ranges that name many of them.

Spec: TLS Trust Anchor Identifiers, "Trust Anchor Identifiers", "Trust Anchor Groups" (patterns, -05 and later) and the
ranges of revisions before; Merkle Tree Certificates, "Certification Authority Identifiers".
"""

import re
from dataclasses import dataclass
from functools import cached_property, lru_cache

from mtc.errors import FormatError, Reason, UsageError
from mtc.ids.serial import check_log_number
from mtc.wire import Reader, Writer
from mtc.wire.der import encode_base128

MAX_ID_BYTES = 255
"""Longest binary ID that any revision allows; -06 of the trust anchor IDs draft lowers it to 32."""
MAX_PATTERN_BYTES = 255
"""Longest binary ID pattern: its length takes one byte wherever one stands."""

# A component of MAX_ID_BYTES bytes has at most 538 digits.
_NUMBER = r"(0|[1-9][0-9]{0,537})"
_TEXT = re.compile(rf"{_NUMBER}(\.{_NUMBER}){{0,254}}")
_PATTERN_PART = re.compile(rf"{_NUMBER}|\{{{_NUMBER}-{_NUMBER}?\}}")
_OID_PREFIX = "1.3.6.1.4.1."
_INFINITY = 0x80


def _decode_components(binary: bytes, what: str) -> list[int]:
    """Return the base-128 components of `binary`. Raises FormatError when it is empty, cut off or not minimal."""
    components = []
    value, fresh = 0, True
    for byte in binary:
        if fresh and byte == 0x80:
            raise FormatError(Reason.BAD_TRUST_ANCHOR_ID, f"{what} {binary.hex()} has a component that is not minimal")
        value = value << 7 | byte & 0x7F
        fresh = byte < 0x80
        if fresh:
            components.append(value)
            value = 0
    if not fresh or not components:
        raise FormatError(Reason.BAD_TRUST_ANCHOR_ID, f"{what} {binary.hex() or '(empty)'} is empty or cut off")
    return components


@dataclass(frozen=True)
class TrustAnchorID:
    """An object identifier under 1.3.6.1.4.1, written relative to that arc: `32473.1`.

    binary: its RELATIVE-OID content octets, 1 to `MAX_ID_BYTES`, minimal. Components may be of any size that fits.
    IDs order by (length, bytes), as cosigners in an MTCProof do. Raises FormatError (BAD_TRUST_ANCHOR_ID).
    Spec: TLS Trust Anchor Identifiers, "Trust Anchor Identifiers".
    """

    binary: bytes

    def __post_init__(self) -> None:
        """Refuse what is no trust anchor ID."""
        if len(self.binary) > MAX_ID_BYTES:
            raise FormatError(
                Reason.BAD_TRUST_ANCHOR_ID,
                f"a trust anchor ID has at most {MAX_ID_BYTES} bytes, this one {len(self.binary)}",
            )
        _decode_components(self.binary, "the trust anchor ID")

    @staticmethod
    def parse(text: str) -> "TrustAnchorID":
        """Read the ASCII form: decimal components without leading zeros, separated by dots."""
        if len(text) > 1024 or not _TEXT.fullmatch(text):
            raise FormatError(
                Reason.BAD_TRUST_ANCHOR_ID,
                f"{text[:80]!r} is not a trust anchor ID; write numbers with dots, relative to 1.3.6.1.4.1, "
                "for example 32473.1",
            )
        return TrustAnchorID(b"".join(encode_base128(int(part)) for part in text.split(".")))

    @staticmethod
    def parse_oid_name(name: str) -> "TrustAnchorID":
        """Read the name of a log or cosigner in signed notes, `oid/1.3.6.1.4.1.…`."""
        prefix = "oid/" + _OID_PREFIX
        if not name.startswith(prefix):
            raise FormatError(Reason.BAD_TRUST_ANCHOR_ID, f"{name[:80]!r} does not start with {prefix}")
        return TrustAnchorID.parse(name.removeprefix(prefix))

    @cached_property
    def components(self) -> tuple[int, ...]:
        """The components below 1.3.6.1.4.1."""
        return tuple(_decode_components(self.binary, "the trust anchor ID"))

    @property
    def oid(self) -> str:
        """The whole object identifier, dotted."""
        return f"{_OID_PREFIX}{self}"

    @cached_property
    def oid_name(self) -> str:
        """The name in signed notes and signed messages: `oid/1.3.6.1.4.1.32473.1`."""
        return f"oid/{self.oid}"

    def child(self, *components: int) -> "TrustAnchorID":
        """Return the ID with more components behind."""
        return TrustAnchorID(self.binary + b"".join(map(encode_base128, components)))

    def __str__(self) -> str:
        """Return the ASCII form."""
        return ".".join(map(str, self.components))

    def __lt__(self, other: "TrustAnchorID") -> bool:
        """Order by (length, bytes)."""
        return (len(self.binary), self.binary) < (len(other.binary), other.binary)


@lru_cache(maxsize=1024)
def log_id(ca_id: TrustAnchorID, log_number: int) -> TrustAnchorID:
    """Return caID.0.N, the ID of issuance log N (1 to 65535)."""
    check_log_number(log_number)
    return ca_id.child(0, log_number)


def landmark_id(ca_id: TrustAnchorID, log_number: int, landmark: int) -> TrustAnchorID:
    """Return caID.1.N.L, the ID of landmark L of log N."""
    check_log_number(log_number)
    return ca_id.child(1, log_number, landmark)


def landmark_group(ca_id: TrustAnchorID, log_number: int, landmark: int) -> TrustAnchorID:
    """Return caID.2.N.L, the group of landmarks up to L of log N and of the CA's standalone certificates."""
    check_log_number(log_number)
    return ca_id.child(2, log_number, landmark)


@dataclass(frozen=True, slots=True)
class TrustAnchorPattern:
    """A set of trust anchor IDs: per component the least and the greatest value, None for no upper bound.

    Text form `32473.{123-456}.{789-}`. Raises FormatError (BAD_TRUST_ANCHOR_ID).
    Spec: TLS Trust Anchor Identifiers -05 and later, "Trust Anchor Groups".
    """

    components: tuple[tuple[int, int | None], ...]

    def __post_init__(self) -> None:
        """Refuse an empty pattern and an interval that runs backwards."""
        if not self.components:
            raise FormatError(Reason.BAD_TRUST_ANCHOR_ID, "an ID pattern has at least one component")
        for least, most in self.components:
            if least < 0 or (most is not None and most < least):
                raise FormatError(Reason.BAD_TRUST_ANCHOR_ID, f"{{{least}-{most}}} in an ID pattern runs backwards")

    @staticmethod
    def parse_binary(data: bytes) -> "TrustAnchorPattern":
        """Read pairs of base-128 numbers; 0x80 in the place of an upper bound means none. At most 255 bytes."""
        if len(data) > MAX_PATTERN_BYTES:
            raise FormatError(
                Reason.BAD_TRUST_ANCHOR_ID,
                f"an ID pattern has at most {MAX_PATTERN_BYTES} bytes, this one {len(data)}",
            )
        values: list[int | None] = []
        value, fresh = 0, True
        for byte in data:
            if fresh and byte == _INFINITY and len(values) & 1:
                values.append(None)
                continue
            if fresh and byte == _INFINITY:
                raise FormatError(
                    Reason.BAD_TRUST_ANCHOR_ID, f"ID pattern {data.hex()} has a number that is not minimal"
                )
            value = value << 7 | byte & 0x7F
            fresh = byte < 0x80
            if fresh:
                values.append(value)
                value = 0
        if not fresh or len(values) & 1:
            raise FormatError(Reason.BAD_TRUST_ANCHOR_ID, f"ID pattern {data.hex()} is cut off")
        pairs = zip(values[::2], values[1::2], strict=True)
        return TrustAnchorPattern(tuple((least or 0, most) for least, most in pairs))

    @staticmethod
    def parse(text: str) -> "TrustAnchorPattern":
        """Read the text form."""
        components: list[tuple[int, int | None]] = []
        for part in text.split(".") if len(text) <= 2048 else [""]:
            match = _PATTERN_PART.fullmatch(part)
            if match is None:
                raise FormatError(
                    Reason.BAD_TRUST_ANCHOR_ID, f"{text[:80]!r} is not an ID pattern such as 32473.{{1-9}}.{{0-}}"
                )
            if match[1] is not None:
                components.append((int(match[1]), int(match[1])))
            else:
                components.append((int(match[2]), int(match[3]) if match[3] else None))
        return TrustAnchorPattern(tuple(components))

    def encode(self) -> bytes:
        """Return the binary form."""
        return b"".join(
            encode_base128(least) + (bytes((_INFINITY,)) if most is None else encode_base128(most))
            for least, most in self.components
        )

    def contains(self, anchor: TrustAnchorID) -> bool:
        """Tell whether the ID has as many components as the pattern, each in its interval."""
        return len(anchor.components) == len(self.components) and all(
            least <= value and (most is None or value <= most)
            for value, (least, most) in zip(anchor.components, self.components, strict=True)
        )

    def __str__(self) -> str:
        """Return the text form."""
        return ".".join(
            str(least) if least == most else f"{{{least}-{'' if most is None else most}}}"
            for least, most in self.components
        )


@dataclass(frozen=True, slots=True)
class TrustAnchorRange:
    """The IDs `base.n` with least <= n <= most, as trust anchor ID drafts before -05 wrote groups.

    least, most: unsigned 64-bit integers.
    """

    base: TrustAnchorID
    least: int
    most: int

    def __post_init__(self) -> None:
        """Refuse a range that runs backwards or beyond 64 bits."""
        if not 0 <= self.least <= self.most < 1 << 64:
            raise FormatError(
                Reason.BAD_TRUST_ANCHOR_ID, f"[{self.least}, {self.most}] is not a range of 64-bit integers"
            )

    @staticmethod
    def read(reader: Reader) -> "TrustAnchorRange":
        """Read one range: base ID with its length in a byte, then both bounds in 8 bytes each."""
        base = TrustAnchorID(reader.read_vector(1, least=1))
        return TrustAnchorRange(base, reader.read_uint(8), reader.read_uint(8))

    def encode(self) -> bytes:
        """Return the binary form that `read` takes."""
        return Writer().vector(self.base.binary, 1).uint(self.least, 8).uint(self.most, 8).encode()

    def contains(self, anchor: TrustAnchorID) -> bool:
        """Tell whether the ID is the base with one more component in the range."""
        *base, last = anchor.components
        return tuple(base) == self.base.components and self.least <= last <= self.most

    def __str__(self) -> str:
        """Return `base.{least-most}`."""
        return f"{self.base}.{{{self.least}-{self.most}}}"


def standalone_pattern(ca_id: TrustAnchorID) -> TrustAnchorPattern:
    """Return the groups that a CA's standalone certificates belong to: caID.2.{0-}.{0-}."""
    return TrustAnchorPattern((*((part, part) for part in ca_id.components), (2, 2), (0, None), (0, None)))


def landmark_pattern(ca_id: TrustAnchorID, log_number: int, landmark: int) -> TrustAnchorPattern:
    """Return the groups that certificates in landmark L of log N belong to: caID.2.N.{L-}."""
    check_log_number(log_number)
    if landmark < 0:
        raise UsageError(Reason.USAGE, f"{landmark} is not a landmark number")
    return TrustAnchorPattern(
        (*((part, part) for part in ca_id.components), (2, 2), (log_number, log_number), (landmark, None))
    )
