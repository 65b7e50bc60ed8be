"""The growing edge of a tree: all that is needed to append and to name the root."""

from dataclasses import dataclass

from mtc.errors import FormatError, Reason
from mtc.merkle.hashing import Hasher, split_row
from mtc.merkle.subtree import Subtree, cover


@dataclass(frozen=True, slots=True)
class Frontier:
    """The complete subtrees along the right edge of a tree with `tree_size` entries.

    hashes: one per set bit of `tree_size`, largest subtree first. Raises FormatError when the count does not fit.
    Spec: RFC 9162, "Definition of the Merkle Tree".
    """

    tree_size: int = 0
    hashes: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a frontier whose hashes do not match its size."""
        if self.tree_size < 0 or len(self.hashes) != self.tree_size.bit_count():
            raise FormatError(
                Reason.BAD_PROOF_LENGTH,
                f"a frontier of {self.tree_size} entries holds {max(self.tree_size, 0).bit_count()} hashes, "
                f"not {len(self.hashes)}",
                tree_size=self.tree_size,
                got=len(self.hashes),
            )

    def extended(self, hasher: Hasher, row: bytes) -> "Frontier":
        """Return the frontier after appending a row of leaf hashes. Cost: one hash per entry, folded row by row."""
        size = hasher.size
        split_row(row[: len(row) % size], size)  # Raises on a row that does not hold whole hashes.
        new_size = self.tree_size + len(row) // size
        pending = list(self.hashes)
        above: list[bytes] = []
        position = self.tree_size
        while row:
            # `row` holds the new nodes of this level, the first of them at `position`. A left neighbour from the old
            # edge completes the first pair; a last node without a sibling joins the new edge.
            if position & 1:
                row = pending.pop() + row
                position -= 1
            if len(row) // size & 1:
                above.append(row[-size:])
                row = row[:-size]
            row = hasher.fold(row) if row else b""
            position >>= 1
        return Frontier(new_size, tuple(pending) + tuple(reversed(above)))

    def cover_growth(self, hasher: Hasher, row: bytes) -> tuple[tuple[Subtree, bytes], ...]:
        """Return the subtrees, with their hashes, that cover the entries which a row of leaf hashes would append.

        One or two, none for an empty row; they are `cover(tree_size, new size)` without empty ones.
        Spec: Merkle Tree Certificates, "Issuing Standalone Certificates".
        """
        start, end = self.tree_size, self.tree_size + len(row) // hasher.size
        return tuple(
            (subtree, self._subtree_hash(hasher, subtree, row)) for subtree in cover(start, end) if not subtree.is_empty
        )

    def _subtree_hash(self, hasher: Hasher, subtree: Subtree, row: bytes) -> bytes:
        """Return the hash of a subtree that begins at a node of the edge, or behind it, and ends in the row."""
        below = max(subtree.start, self.tree_size)
        # What lies before the new entries are nodes of the edge: a covering subtree begins where one of them does.
        nodes = []
        position = 0
        for bit, value in zip(_set_bits(self.tree_size), self.hashes, strict=True):
            if position >= subtree.start:
                nodes.append(value)
            position += 1 << bit
        edge = Frontier(below - subtree.start, tuple(nodes)) if below > subtree.start else Frontier()
        size, start = hasher.size, self.tree_size
        return edge.extended(hasher, row[(below - start) * size : (subtree.end - start) * size]).root(hasher)

    def root(self, hasher: Hasher) -> bytes:
        """Return the root hash of the tree; HASH("") when it is empty."""
        if not self.hashes:
            return hasher.empty
        root = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            root = hasher.node(left, root)
        return root


def _set_bits(number: int) -> list[int]:
    """Return the positions of the set bits, highest first."""
    return [bit for bit in range(number.bit_length() - 1, -1, -1) if number >> bit & 1]
