"""The filter of request keys in Python, and what both twins check before they begin."""

from collections.abc import Iterator

from mtc.errors import FormatError, Reason, UsageError
from mtc.kernel._protocol import FINGERPRINT_BYTES, RECORD_BYTES

MAX_CAPACITY = 1 << 40
"""Most keys that a filter is made for; it would take three terabytes."""
BITS_PER_KEY = 23
PROBES = 14
_MIX = 0x9E37_79B9_7F4A_7C15
"""An odd number without pattern: 2^64 divided by the golden ratio."""
_MASK = 2**64 - 1


class PythonKeyFilter:
    """`KeyFilter` on a bytearray."""

    __slots__ = ("_bits",)

    def __init__(self, bits: bytes) -> None:
        """Take the bits, whose length was checked."""
        self._bits = bytearray(bits)

    def add_many(self, records: bytes) -> None:
        """Add the fingerprints of a row of records."""
        check_row(records, RECORD_BYTES)
        bits = self._bits
        for at in range(0, len(records), RECORD_BYTES):
            for place in _probes(records[at : at + FINGERPRINT_BYTES], 8 * len(bits)):
                bits[place >> 3] |= 1 << (place & 7)

    def contains_many(self, fingerprints: bytes) -> list[int]:
        """Return the positions of those that may have been added."""
        check_row(fingerprints, FINGERPRINT_BYTES)
        bits = self._bits
        return [
            at // FINGERPRINT_BYTES
            for at in range(0, len(fingerprints), FINGERPRINT_BYTES)
            if all(
                bits[place >> 3] >> (place & 7) & 1
                for place in _probes(fingerprints[at : at + FINGERPRINT_BYTES], 8 * len(bits))
            )
        ]

    def encode(self) -> bytes:
        """Return the bits."""
        return bytes(self._bits)


def _probes(fingerprint: bytes, bits: int) -> Iterator[int]:
    """Yield the bits that stand for a fingerprint in a filter of so many bits."""
    spread = int.from_bytes(fingerprint, "big")
    mixed = spread * _MIX & _MASK
    step = (mixed << 32 & _MASK | mixed >> 32) | 1
    for _ in range(PROBES):
        yield spread * bits >> 64
        spread = spread + step & _MASK


def filter_bytes(capacity: int) -> int:
    """Return how many bytes a filter for so many keys has: a multiple of eight."""
    return max(-(-capacity * BITS_PER_KEY // 64), 1) * 8


def check_capacity(capacity: int) -> None:
    """Refuse a filter that nobody needs."""
    if not 0 <= capacity <= MAX_CAPACITY:
        raise UsageError(Reason.USAGE, f"a filter is made for 0 to {MAX_CAPACITY} keys, not for {capacity}")


def check_filter(data: bytes) -> None:
    """Raise FormatError when no filter has so many bytes."""
    if not data or len(data) % 8:
        raise FormatError(Reason.BAD_LENGTH, f"a filter of request keys has no {len(data)} bytes", got=len(data))


def check_first(first: int, count: int) -> None:
    """Refuse indices that do not fit into records."""
    if not 0 <= first <= first + count <= 1 << 48:
        raise UsageError(Reason.USAGE, f"{count} keys from index {first} on have no indices of 48 bits")


def check_row(row: bytes, width: int) -> None:
    """Refuse a row that does not hold whole items of `width` bytes."""
    if len(row) % width:
        raise UsageError(Reason.USAGE, f"a row of {len(row)} bytes does not hold items of {width} bytes")
