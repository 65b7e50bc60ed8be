"""Evidence of misbehaviour: bundles that anybody can verify, with nothing but themselves.

A log, a witness or a mirror that signs two things which cannot both be true leaves its own conviction behind. Whoever
holds both statements keeps them as an `Evidence`, with the proof that they contradict each other; `verify_evidence`
says what is proven and what is only somebody's word. `service` keeps bundles in an object store, a bounded number.

Spec: C2SP tlog-witness, "add-checkpoint"; tlog-cosignature; Merkle Tree Certificates, "Cosigners". The format of the
documents is this project's own.
"""

from mtc.cosign.evidence.collect import compare_checkpoints, compare_subtree, compare_trees, find_evidence
from mtc.cosign.evidence.document import FORMAT, MAX_EVIDENCE_BYTES, encode_evidence, parse_evidence
from mtc.cosign.evidence.kinds import (
    KINDS,
    BadEntries,
    BadSignature,
    EmptyRoot,
    Evidence,
    Exhibit,
    ForeignSubtree,
    HeldSubtree,
    Inconsistent,
    RolledBack,
    SignedSubtree,
    SplitSubtree,
    SplitTrees,
    SplitView,
    WentBack,
    only_lines_of,
)
from mtc.cosign.evidence.verify import Finding, Side, verify_evidence

__all__ = [
    "FORMAT",
    "KINDS",
    "MAX_EVIDENCE_BYTES",
    "BadEntries",
    "BadSignature",
    "EmptyRoot",
    "Evidence",
    "Exhibit",
    "Finding",
    "ForeignSubtree",
    "HeldSubtree",
    "Inconsistent",
    "RolledBack",
    "Side",
    "SignedSubtree",
    "SplitSubtree",
    "SplitTrees",
    "SplitView",
    "WentBack",
    "compare_checkpoints",
    "compare_subtree",
    "compare_trees",
    "encode_evidence",
    "find_evidence",
    "only_lines_of",
    "parse_evidence",
    "verify_evidence",
]
