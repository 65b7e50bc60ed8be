"""One proof for many subtrees of a tree: the fewest hashes from which the root and all of them follow.

The tree is cut at the edges of the subtrees, and nowhere else: the pieces are the largest nodes of the tree with no
edge inside, left to right. Their hashes are the proof. Whoever knows the tree size and the subtrees knows the pieces,
folds them to the root, compares it with one that it trusts, and then has every subtree's hash. Proofs of single
subtrees would repeat what neighbours share: for the landmarks of a week the hashes here are a third to a fifth.

Spec: Merkle Tree Certificates, "Subtree Consistency Proofs" for one subtree; this form is the project's own
(docs/updates.md).
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import islice

from mtc.errors import FormatError, ProofError, Reason
from mtc.merkle import Hasher, HashReader, Node, Subtree, bit_ceil, consistency_parts, subtree_hash


def bulk_parts(tree_size: int, subtrees: Sequence[Subtree], most: int | None = None) -> list[Subtree]:
    """Return the pieces whose hashes prove the subtrees, left to right; none for a tree without entries.

    Empty subtrees cut nothing. most: how many are wanted at most, so that a short proof costs little. Raises
    ProofError (SUBTREE_NOT_IN_TREE).
    """
    edges: set[int] = set()
    for subtree in subtrees:
        if subtree.end > tree_size:
            raise ProofError(
                Reason.SUBTREE_NOT_IN_TREE,
                f"{subtree} ends after the tree of {tree_size} entries",
                end=subtree.end,
                tree_size=tree_size,
            )
        if not subtree.is_empty:
            edges.update((subtree.start, subtree.end))
    return list(islice(_cut(0, tree_size, sorted(edges)), most)) if tree_size else []


def _cut(start: int, end: int, edges: Sequence[int]) -> Iterator[Subtree]:
    """Yield the largest nodes of [start, end) that have no edge inside."""
    position = bisect_right(edges, start)
    if position == len(edges) or edges[position] >= end:
        yield Subtree(start, end)
        return
    middle = start + _left_size(end - start)
    yield from _cut(start, middle, edges)
    yield from _cut(middle, end, edges)


def prove_bulk(hasher: Hasher, reader: HashReader, tree_size: int, subtrees: Sequence[Subtree]) -> list[bytes]:
    """Return the proof of the subtrees. Raises ProofError for one that is not in the tree, or a missing hash."""
    return [subtree_hash(hasher, reader, part) for part in bulk_parts(tree_size, subtrees)]


class BulkProof:
    """A proof that was folded once: the root it leads to, and the hashes that hold if that root is trusted."""

    __slots__ = ("_hasher", "_known", "tree_size")

    def __init__(self, hasher: Hasher, tree_size: int, subtrees: Sequence[Subtree], proof: Sequence[bytes]) -> None:
        """Put the hashes in their places. Raises ProofError (PROOF_TOO_SHORT, PROOF_TOO_LONG) or FormatError."""
        parts = bulk_parts(tree_size, subtrees, len(proof) + 1)
        if len(parts) != len(proof):
            reason = Reason.PROOF_TOO_SHORT if len(proof) < len(parts) else Reason.PROOF_TOO_LONG
            raise ProofError(
                reason,
                f"the proof of {len(subtrees)} subtrees of a tree of {tree_size} entries has "
                f"{'not enough' if len(proof) < len(parts) else 'too many'} hashes, {len(proof)}",
                got=len(proof),
            )
        for value in proof:
            if len(value) != hasher.size:
                raise FormatError(Reason.BAD_HASH_SIZE, f"a {hasher.name} hash has {hasher.size} bytes", got=len(value))
        self.tree_size = tree_size
        self._hasher = hasher
        self._known = {(part.start, part.end): value for part, value in zip(parts, proof, strict=True)}

    @property
    def hasher(self) -> Hasher:
        """The log's hash."""
        return self._hasher

    @property
    def root(self) -> bytes:
        """The root hash that the proof leads to; compare it with a trusted one before anything else is used."""
        return self.hash_of(Subtree(0, self.tree_size))

    def hash_of(self, subtree: Subtree) -> bytes:
        """Return the hash of one of the subtrees, or of anything that consists of whole pieces.

        Raises ProofError (MISSING_HASH) for what the proof does not tell.
        """
        return self._hasher.empty if subtree.is_empty else self._fold(subtree.start, subtree.end)

    def find(self, node: Node) -> bytes | None:
        """Return the hash of a complete node, None when the proof does not tell it."""
        start, end = node.index << node.level, node.index + 1 << node.level
        if end > self.tree_size:
            return None
        try:
            return self._fold(start, end)
        except ProofError:
            return None

    def consistency_of(self, subtree: Subtree) -> list[bytes]:
        """Return the draft's consistency proof of a subtree in the tree, as `prove_consistency` does from tiles.

        Raises ProofError (MISSING_HASH) when the edges of the subtree are not among those that were proven.
        """
        return [self._fold(*part) for part in consistency_parts(subtree, self.tree_size)]

    def proof_for(self, subtrees: Sequence[Subtree]) -> list[bytes]:
        """Return the smaller proof of some of the subtrees in the same tree."""
        return [self.hash_of(part) for part in bulk_parts(self.tree_size, subtrees)]

    def _fold(self, start: int, end: int) -> bytes:
        """Return the hash of a node from the pieces below it."""
        known = self._known.get((start, end))
        if known is not None:
            return known
        if end - start == 1:
            raise ProofError(Reason.MISSING_HASH, f"the proof does not tell the hash of entry {start}", index=start)
        middle = start + _left_size(end - start)
        value = self._known[start, end] = self._hasher.node(self._fold(start, middle), self._fold(middle, end))
        return value


def verify_bulk(
    hasher: Hasher, tree_size: int, root: bytes, subtrees: Sequence[Subtree], proof: Sequence[bytes]
) -> BulkProof:
    """Return the proof, whose hashes are now as trusted as `root`. Raises ProofError (ROOT_MISMATCH and others)."""
    bulk = BulkProof(hasher, tree_size, subtrees, proof)
    got = bulk.root
    if got != root:
        raise ProofError(
            Reason.ROOT_MISMATCH,
            f"the proof of {len(subtrees)} subtrees leads to another root hash of {tree_size} entries",
            expected=root.hex(),
            got=got.hex(),
        )
    return bulk


def _left_size(size: int) -> int:
    """Return the largest power of two below a size of at least 2."""
    return bit_ceil(size) // 2
