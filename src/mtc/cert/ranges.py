"""Half-open ranges of serial numbers.

Spec: Merkle Tree Certificates, "Revoked Ranges".
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator

from mtc.errors import FormatError, Reason
from mtc.ids import SERIAL_LIMIT


class SerialRanges:
    """An immutable set of serial numbers as sorted, disjoint ranges [start, end); made from any ranges in any order.

    0 <= start <= end <= 2^64; empty ranges are legal and vanish. Raises FormatError (BAD_NUMBER) otherwise.
    """

    __slots__ = ("bounds",)

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        """Sort and merge the ranges."""
        bounds: list[int] = []
        for start, end in sorted(ranges):
            if not 0 <= start <= end <= SERIAL_LIMIT:
                raise FormatError(
                    Reason.BAD_NUMBER, f"[{start}, {end}) is not a range of serial numbers from 0 to 2^64", start=start
                )
            if start == end:
                continue
            if bounds and start <= bounds[-1]:
                bounds[-1] = max(bounds[-1], end)
            else:
                bounds += (start, end)
        self.bounds: tuple[int, ...] = tuple(bounds)
        """Starts and ends in turn, strictly ascending: a serial is inside iff an odd number of bounds are <= it."""

    def __contains__(self, serial: int) -> bool:
        """Tell whether a serial number is in one of the ranges."""
        return bisect_right(self.bounds, serial) & 1 == 1

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Yield the ranges in order."""
        return zip(self.bounds[::2], self.bounds[1::2], strict=True)

    def __len__(self) -> int:
        """Count the ranges."""
        return len(self.bounds) // 2

    def __or__(self, other: "SerialRanges") -> "SerialRanges":
        """Return the union."""
        return SerialRanges([*self, *other])

    def __eq__(self, other: object) -> bool:
        """Two sets are equal when they hold the same serial numbers."""
        return isinstance(other, SerialRanges) and self.bounds == other.bounds

    def __hash__(self) -> int:
        """Hash by the serial numbers held."""
        return hash(self.bounds)

    def __repr__(self) -> str:
        """Return the ranges as Python would write them."""
        return f"SerialRanges({list(self)})"
