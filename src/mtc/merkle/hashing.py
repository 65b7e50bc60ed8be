"""The seam to a hash function, and the root of a row of leaf hashes."""

from collections.abc import Iterable
from typing import Protocol

from mtc.errors import Reason, UsageError


class Hasher(Protocol):
    """One tree hash. Implementations live in `mtc.kernel`; they are stateless and safe to share between threads.

    A row is `k * size` bytes, k hashes in order. Spec: RFC 9162, "Definition of the Merkle Tree".
    """

    @property
    def name(self) -> str:
        """The hash's name in this project, for example `sha256`."""

    @property
    def size(self) -> int:
        """Bytes per hash."""

    @property
    def empty(self) -> bytes:
        """HASH(""), the root of the tree without entries."""

    def digest(self, data: bytes) -> bytes:
        """HASH(data), without a prefix."""

    def leaf(self, data: bytes) -> bytes:
        """HASH(0x00 || data)."""

    def node(self, left: bytes, right: bytes) -> bytes:
        """HASH(0x01 || left || right)."""

    def leaves(self, items: Iterable[bytes]) -> bytes:
        """Return the row of leaf hashes of `items`."""

    def fold(self, row: bytes) -> bytes:
        """Hash a row of 2k nodes pairwise into the row of k nodes above it. Raises UsageError on an odd count."""


def split_row(row: bytes, size: int) -> list[bytes]:
    """Cut a row into its hashes of `size` bytes. Raises UsageError when it does not divide evenly."""
    if len(row) % size:
        raise UsageError(Reason.USAGE, f"a row of {len(row)} bytes does not hold whole hashes of {size} bytes")
    return [row[at : at + size] for at in range(0, len(row), size)]


def root_hash(hasher: Hasher, row: bytes) -> bytes:
    """Return the Merkle tree hash over a row of leaf hashes; HASH("") for an empty row.

    A last node without a sibling rises unchanged, which is the same tree as splitting at the largest power of two
    below the size. Spec: RFC 9162, "Definition of the Merkle Tree".
    """
    size = hasher.size
    if not row:
        return hasher.empty
    if len(row) % size:
        raise UsageError(Reason.USAGE, f"a row of {len(row)} bytes does not hold whole hashes of {size} bytes")
    while len(row) > size:
        if len(row) // size & 1:
            row = hasher.fold(row[:-size]) + row[-size:]
        else:
            row = hasher.fold(row)
    return row
