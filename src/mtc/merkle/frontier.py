"""The growing edge of a tree: all that is needed to append and to name the root."""

from dataclasses import dataclass

from mtc.errors import FormatError, Reason
from mtc.merkle.hashing import Hasher, split_row


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

    def root(self, hasher: Hasher) -> bytes:
        """Return the root hash of the tree; HASH("") when it is empty."""
        if not self.hashes:
            return hasher.empty
        root = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            root = hasher.node(left, root)
        return root
