"""Subtrees, proofs and the growing edge of a Merkle tree; any hash, no I/O, no X.509.

Nodes are named by `Node(level, index)`: the complete subtree over entries [index << level, (index + 1) << level).
Hashes travel as `bytes`; many hashes travel as one *row*, their plain concatenation. A proof is a sequence of hashes.

Spec: Merkle Tree Certificates, "Subtrees" (tree shapes, proofs, covers); RFC 9162, "Merkle Trees" (hashing).
"""

from mtc.merkle.frontier import Frontier
from mtc.merkle.hashing import Hasher, root_hash, split_row
from mtc.merkle.proofs import (
    MAX_PROOF_HASHES,
    HashReader,
    Node,
    RowReader,
    consistency_parts,
    evaluate_consistency,
    evaluate_inclusion,
    prove_consistency,
    prove_inclusion,
    subtree_hash,
    verify_consistency,
    verify_inclusion,
)
from mtc.merkle.subtree import MAX_TREE_SIZE, Subtree, bit_ceil, cover

__all__ = [
    "MAX_PROOF_HASHES",
    "MAX_TREE_SIZE",
    "Frontier",
    "HashReader",
    "Hasher",
    "Node",
    "RowReader",
    "Subtree",
    "bit_ceil",
    "consistency_parts",
    "cover",
    "evaluate_consistency",
    "evaluate_inclusion",
    "prove_consistency",
    "prove_inclusion",
    "root_hash",
    "split_row",
    "subtree_hash",
    "verify_consistency",
    "verify_inclusion",
]
