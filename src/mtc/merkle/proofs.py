"""Inclusion and consistency proofs of subtrees: prove, evaluate, verify.

Provers name every node they need first and read them in one call, so that a reader over a network or a disk can fetch
them together. Verifiers raise; none returns a boolean.

Spec: Merkle Tree Certificates, "Subtree Inclusion Proofs" and "Subtree Consistency Proofs".
"""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

from mtc.errors import FormatError, ProofError, Reason, UsageError
from mtc.merkle.hashing import Hasher, split_row
from mtc.merkle.subtree import Subtree, bit_ceil

MAX_PROOF_HASHES = 64
"""Most hashes in one proof that a reader accepts; a 48-bit log needs at most 48 (tlog-witness allows 63)."""


class Node(NamedTuple):
    """A complete subtree: entries [index << level, (index + 1) << level)."""

    level: int
    index: int  # type: ignore[assignment]  # the draft's word; nobody searches a node with tuple.index


class HashReader(Protocol):
    """Where a prover reads the hashes of complete subtrees."""

    def read(self, nodes: Sequence[Node]) -> list[bytes]:
        """Return the hash of each node, in the order asked; one call per proof. Raises ProofError (MISSING_HASH)."""


class RowReader:
    """A `HashReader` over all leaf hashes in memory; keeps every level, so a read costs nothing."""

    def __init__(self, hasher: Hasher, row: bytes = b"") -> None:
        """Take the leaf hashes of entries 0, 1, … as one row."""
        self._hasher = hasher
        self._levels = [bytearray()]
        self.extend(row)

    @property
    def tree_size(self) -> int:
        """Number of entries held."""
        return len(self._levels[0]) // self._hasher.size

    def extend(self, row: bytes) -> None:
        """Append leaf hashes and complete what can be completed above them. Raises UsageError on a cut-off hash."""
        size = self._hasher.size
        split_row(row[: len(row) % size], size)
        level = 0
        while True:
            self._levels[level] += row
            have_above = len(self._levels[level + 1]) // size if level + 1 < len(self._levels) else 0
            complete = len(self._levels[level]) // size // 2
            if complete == have_above:
                return
            if level + 1 == len(self._levels):
                self._levels.append(bytearray())
            row = self._hasher.fold(bytes(self._levels[level][have_above * 2 * size : complete * 2 * size]))
            level += 1

    def read(self, nodes: Sequence[Node]) -> list[bytes]:
        """Return the hashes of the nodes. Raises ProofError (MISSING_HASH) for a node that is not complete yet."""
        size = self._hasher.size
        hashes = []
        for node in nodes:
            at = node.index * size
            if node.level >= len(self._levels) or at + size > len(self._levels[node.level]):
                raise ProofError(Reason.MISSING_HASH, f"the tree has no complete node {node}", node=node)
            hashes.append(bytes(self._levels[node.level][at : at + size]))
        return hashes


def _nodes_of(start: int, end: int) -> list[Node]:
    """Name the complete subtrees that make up the subtree [start, end), left to right (largest first)."""
    nodes = []
    while start < end:
        level = (end - start).bit_length() - 1
        nodes.append(Node(level, start >> level))
        start += 1 << level
    return nodes


def _read_hashes(hasher: Hasher, reader: HashReader, intervals: Sequence[tuple[int, int]]) -> list[bytes]:
    """Return the hash of each non-empty subtree in `intervals`, reading all their nodes in one call."""
    wanted = [_nodes_of(start, end) for start, end in intervals]
    flat = [node for nodes in wanted for node in nodes]
    hashes = iter(reader.read(flat) if flat else [])
    result = []
    for nodes in wanted:
        parts = [next(hashes) for _ in nodes]
        value = parts.pop()
        while parts:
            value = hasher.node(parts.pop(), value)
        result.append(value)
    return result


def subtree_hash(hasher: Hasher, reader: HashReader, subtree: Subtree) -> bytes:
    """Return the hash of a subtree from the log's nodes; HASH("") for an empty one."""
    if subtree.is_empty:
        return hasher.empty
    return _read_hashes(hasher, reader, [(subtree.start, subtree.end)])[0]


def prove_inclusion(hasher: Hasher, reader: HashReader, subtree: Subtree, index: int) -> list[bytes]:
    """Return the inclusion proof of entry `index` in `subtree`: sibling hashes, leaf upwards.

    Raises ProofError when the index lies outside, or when the reader lacks a node.
    Spec: Merkle Tree Certificates, "Subtree Inclusion Proofs".
    """
    if not subtree.contains(index):
        raise ProofError(Reason.INDEX_NOT_IN_SUBTREE, f"entry {index} is not in {subtree}", index=index)
    siblings = []
    start, end = subtree.start, subtree.end
    while end - start > 1:
        middle = start + bit_ceil(end - start) // 2
        if index < middle:
            siblings.append((middle, end))
            end = middle
        else:
            siblings.append((start, middle))
            start = middle
    return _read_hashes(hasher, reader, siblings[::-1])


def evaluate_inclusion(
    hasher: Hasher, subtree: Subtree, index: int, entry_hash: bytes, proof: Sequence[bytes]
) -> bytes:
    """Compute the subtree hash that `proof` leads to; the caller compares it with a hash it trusts.

    index: entry index in the log, in [subtree.start, subtree.end). entry_hash: `hasher.size` bytes.
    proof: sibling hashes, leaf upwards, at most `MAX_PROOF_HASHES`. Returns `hasher.size` bytes.
    Raises ProofError if the index is outside or the proof is too long or too short, FormatError for a hash of another
    size. Spec: Merkle Tree Certificates, "Evaluating a Subtree Inclusion Proof".
    """
    _check_sizes(hasher, proof, entry_hash)
    if not subtree.contains(index):
        raise ProofError(Reason.INDEX_NOT_IN_SUBTREE, f"entry {index} is not in {subtree}", index=index)
    fn, sn = index - subtree.start, subtree.end - subtree.start - 1
    node = hasher.node
    value = entry_hash
    for sibling in proof:
        if sn == 0:
            raise ProofError(Reason.PROOF_TOO_LONG, "the inclusion proof has more hashes than the subtree has levels")
        if fn & 1 or fn == sn:
            value = node(sibling, value)
            while not fn & 1:
                fn >>= 1
                sn >>= 1
        else:
            value = node(value, sibling)
        fn >>= 1
        sn >>= 1
    if sn:
        raise ProofError(Reason.PROOF_TOO_SHORT, "the inclusion proof ends before the top of the subtree")
    return value


def verify_inclusion(  # noqa: PLR0913 - these are the procedure's inputs in the draft
    hasher: Hasher, subtree: Subtree, index: int, entry_hash: bytes, proof: Sequence[bytes], expected: bytes
) -> None:
    """Raise ProofError unless `proof` leads from the entry to the subtree hash `expected`."""
    got = evaluate_inclusion(hasher, subtree, index, entry_hash, proof)
    if got != expected:
        raise ProofError(
            Reason.HASH_MISMATCH,
            f"the inclusion proof of entry {index} leads to another hash of {subtree}",
            expected=expected.hex(),
            got=got.hex(),
        )


def prove_consistency(hasher: Hasher, reader: HashReader, subtree: Subtree, tree_size: int) -> list[bytes]:
    """Return the proof that `subtree` is contained in the tree of `tree_size` entries.

    For [0, x) it is the RFC 9162 consistency proof, for one entry its inclusion proof; empty for an empty subtree.
    Raises ProofError when the subtree ends after the tree.
    Spec: Merkle Tree Certificates, "Subtree Consistency Proofs".
    """
    _check_in_tree(subtree, tree_size)
    return _read_hashes(hasher, reader, consistency_parts(subtree, tree_size))


def consistency_parts(subtree: Subtree, tree_size: int) -> list[tuple[int, int]]:
    """Return the subtrees [start, end) whose hashes are the consistency proof of `subtree`, in the proof's order.

    tree_size: at least the subtree's end. Spec: Merkle Tree Certificates, "Subtree Consistency Proofs".
    """
    if subtree.is_empty:
        return []
    parts: list[tuple[int, int]] = []
    low, high, known = 0, tree_size, True
    start, end = subtree.start, subtree.end
    while (start, end) != (low, high):
        middle = low + bit_ceil(high - low) // 2
        if end <= middle:
            parts.append((middle, high))
            high = middle
        elif start >= middle:
            parts.append((low, middle))
            low = middle
        else:
            # The subtree straddles the split, so it starts where the window does: its left part is a node of both.
            parts.append((low, middle))
            start, low, known = middle, middle, False
    if not known:
        parts.append((low, high))
    return parts[::-1]


def verify_consistency(  # noqa: PLR0913 - these are the procedure's inputs in the draft
    hasher: Hasher,
    subtree: Subtree,
    tree_size: int,
    node_hash: bytes,
    root: bytes,
    proof: Sequence[bytes],
) -> None:
    """Raise ProofError unless `subtree` with `node_hash` is contained in the tree of `tree_size` with `root`.

    proof: at most `MAX_PROOF_HASHES` hashes of `hasher.size` bytes, in the order of the draft.
    Spec: Merkle Tree Certificates, "Verifying a Subtree Consistency Proof".
    """
    _check_sizes(hasher, proof, node_hash, root)
    _check_in_tree(subtree, tree_size)
    if subtree.is_empty:
        if proof:
            raise ProofError(Reason.PROOF_TOO_LONG, "the consistency proof of an empty subtree must be empty")
        _check_hash(node_hash, hasher.empty, Reason.HASH_MISMATCH, "an empty subtree has the hash of the empty string")
        return
    first, second = evaluate_consistency(hasher, subtree, tree_size, node_hash, proof)
    _check_hash(first, node_hash, Reason.HASH_MISMATCH, "the consistency proof leads to another subtree hash")
    _check_hash(second, root, Reason.ROOT_MISMATCH, "the consistency proof leads to another root hash")


def evaluate_consistency(
    hasher: Hasher, subtree: Subtree, tree_size: int, node_hash: bytes, proof: Sequence[bytes]
) -> tuple[bytes, bytes]:
    """Compute the subtree hash and the root hash that `proof` leads to; see `verify_consistency`.

    subtree: not empty. node_hash: the proof starts from it when the subtree is a node of the tree; otherwise it does
    not matter, and the first hash that is returned tells what the prover's log holds there. Raises ProofError when the
    proof does not fit, FormatError for hashes of another size.
    """
    _check_sizes(hasher, proof, node_hash)
    _check_in_tree(subtree, tree_size)
    fn, sn, tn = subtree.start, subtree.end - 1, tree_size - 1
    if sn == tn:
        shift = (fn ^ sn).bit_length()
    else:
        # Skip the levels at which the subtree's right edge is a right child and its left edge differs from it.
        shift = min((fn ^ sn).bit_length(), (~sn & (sn + 1)).bit_length() - 1)
    fn, sn, tn = fn >> shift, sn >> shift, tn >> shift
    rest = list(proof)
    if fn == sn:
        first = second = node_hash
    elif rest:
        first = second = rest.pop(0)
    else:
        raise ProofError(Reason.PROOF_TOO_SHORT, "the consistency proof has no hash to start from")
    node = hasher.node
    for sibling in rest:
        if tn == 0:
            raise ProofError(Reason.PROOF_TOO_LONG, "the consistency proof has more hashes than the tree has levels")
        if sn & 1 or sn == tn:
            if fn < sn:
                first = node(sibling, first)
            second = node(sibling, second)
            while not sn & 1:
                fn >>= 1
                sn >>= 1
                tn >>= 1
        else:
            second = node(second, sibling)
        fn >>= 1
        sn >>= 1
        tn >>= 1
    if tn:
        raise ProofError(Reason.PROOF_TOO_SHORT, "the consistency proof ends before the root of the tree")
    return first, second


def _check_sizes(hasher: Hasher, proof: Sequence[bytes], *hashes: bytes) -> None:
    """Refuse hashes of another size and proofs beyond the limit."""
    if len(proof) > MAX_PROOF_HASHES:
        raise FormatError(
            Reason.TOO_LARGE, f"a proof holds at most {MAX_PROOF_HASHES} hashes, this one {len(proof)}", got=len(proof)
        )
    size = hasher.size
    for value in (*hashes, *proof):
        if len(value) != size:
            raise FormatError(
                Reason.BAD_HASH_SIZE,
                f"a {hasher.name} hash has {size} bytes, this one {len(value)}",
                expected=size,
                got=len(value),
            )


def _check_in_tree(subtree: Subtree, tree_size: int) -> None:
    """Refuse a subtree that ends after the tree."""
    if tree_size < 0:
        raise UsageError(Reason.USAGE, f"a tree cannot hold {tree_size} entries")
    if subtree.end > tree_size:
        raise ProofError(
            Reason.SUBTREE_NOT_IN_TREE,
            f"{subtree} ends after the tree of {tree_size} entries",
            end=subtree.end,
            tree_size=tree_size,
        )


def _check_hash(got: bytes, expected: bytes, reason: Reason, message: str) -> None:
    """Raise ProofError with both hashes unless they are equal."""
    if got != expected:
        raise ProofError(reason, message, expected=expected.hex(), got=got.hex())
