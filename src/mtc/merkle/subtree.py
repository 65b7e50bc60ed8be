"""Subtree intervals: which are valid, how they split, and which two cover an interval.

Spec: Merkle Tree Certificates, "Subtrees" and "Arbitrary Intervals".
"""

from dataclasses import dataclass

from mtc.errors import FormatError, Reason, UsageError

MAX_TREE_SIZE = 2**48 - 1
"""Most entries that one issuance log may hold, so that every interval end fits 48 bits."""


def bit_ceil(n: int) -> int:
    """Return the smallest power of two that is at least `n`; 1 for 0 and 1."""
    return 1 << (n - 1).bit_length() if n > 1 else 1


@dataclass(frozen=True, slots=True, order=True)
class Subtree:
    """The Merkle tree over log entries [start, end); it never changes as the log grows.

    start, end: entry indices, 0 <= start <= end, `start` a multiple of bit_ceil(end - start). An empty subtree
    [x, x) is valid here; draft revisions before -06 forbid it where they read one. There is no upper bound in this
    type: a log's own bound is `MAX_TREE_SIZE`. Raises FormatError (BAD_SUBTREE) otherwise.
    Spec: Merkle Tree Certificates, "Definition of a Subtree".
    """

    start: int
    end: int

    def __post_init__(self) -> None:
        """Refuse an interval that is not a subtree."""
        if not Subtree.is_valid(self.start, self.end):
            raise FormatError(
                Reason.BAD_SUBTREE,
                f"[{self.start}, {self.end}) is not a subtree: start must be a multiple of the smallest power of two "
                "that is at least the number of entries",
                start=self.start,
                end=self.end,
            )

    @staticmethod
    def is_valid(start: int, end: int) -> bool:
        """Tell whether [start, end) is a subtree."""
        return 0 <= start <= end and start & (bit_ceil(end - start) - 1) == 0

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.end - self.start

    @property
    def is_empty(self) -> bool:
        """True for [x, x)."""
        return self.start == self.end

    def contains(self, index: int) -> bool:
        """Tell whether the entry `index` lies in the subtree."""
        return self.start <= index < self.end

    def split(self) -> int:
        """Return the entry index at which the two children meet. Raises UsageError below two entries."""
        if self.size < 2:
            raise UsageError(Reason.USAGE, f"{self} has no children", start=self.start, end=self.end)
        return self.start + bit_ceil(self.size) // 2

    def __str__(self) -> str:
        """Return the draft's notation, `[start, end)`."""
        return f"[{self.start}, {self.end})"


def cover(start: int, end: int) -> tuple[Subtree, Subtree]:
    """Return the two subtrees that cover the interval [start, end); the second may be empty.

    start, end: entry indices, 0 <= start <= end. Nothing after `end` is covered, and less than half of the left
    subtree lies before `start`. Raises UsageError otherwise.
    Spec: Merkle Tree Certificates, "Arbitrary Intervals".
    """
    if not 0 <= start <= end:
        raise UsageError(Reason.USAGE, f"[{start}, {end}) is not an interval", start=start, end=end)
    if end - start <= 1:
        return Subtree(start, end), Subtree(end, end)
    last = end - 1
    split = (start ^ last).bit_length() - 1
    mid = last & ~((1 << split) - 1)
    # The left subtree must end at mid, so it starts below the highest zero among start's low bits.
    left_split = (~start & ((1 << split) - 1)).bit_length()
    return Subtree(start & ~((1 << left_split) - 1), mid), Subtree(mid, end)
