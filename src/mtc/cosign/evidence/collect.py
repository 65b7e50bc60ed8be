"""Finding evidence: what can be proven from two checkpoints, from a refused request, or with the tree at hand.

Whatever is returned here was verified, so that it convinces others as well. None means that nothing can be proven with
what is at hand, and never that all is well: two views whose sizes differ contradict each other only for who has the
larger tree.
"""

from mtc.cosign.evidence.kinds import (
    BadSignature,
    EmptyRoot,
    Evidence,
    Exhibit,
    ForeignSubtree,
    Inconsistent,
    SignedSubtree,
    SplitView,
    WentBack,
    only_lines_of,
)
from mtc.cosign.evidence.verify import verify_evidence
from mtc.cosign.logs import KnownLog
from mtc.cosign.machine import CosignerView
from mtc.cosign.requests import AddCheckpoint
from mtc.errors import Error, FormatError, ProofError
from mtc.merkle import (
    Hasher,
    HashReader,
    Subtree,
    evaluate_consistency,
    prove_consistency,
    subtree_hash,
)
from mtc.note import Checkpoint, Note, VerifierKey, parse_note


def find_evidence(hasher: Hasher, log: KnownLog, view: CosignerView | None, request: AddCheckpoint) -> Evidence | None:
    """Return what a cosigner can prove by a request that `plan_checkpoint` refused, None when that is nothing.

    view: of this log, None when nothing was accepted yet. Two roots at one size, a tree of no entries with another
    root, a smaller tree signed later than the larger one that is known, a proof that leads to the new root from another
    tree than the one that is known; or a signature of the log that fails, which is testimony only.

    A proof that leads nowhere is no evidence, because anybody can send one. Nor can a request prove anything against a
    view whose size is a power of two: its root is then itself the first hash of the proof.
    """
    if request.checkpoint.origin != log.origin:
        return None
    known = None if view is None else parse_note(view.note)
    proof: list[Evidence | None] = []
    testimony: list[Evidence | None] = []
    for key in log.keys:
        if not _has_line_of(request.note, key):
            continue
        proof.append(compare_checkpoints(hasher, key, request.note, known))
        if view is not None and known is not None:
            proof.append(_compare_by_proof(hasher, key, view, known, request))
        testimony.append(_check(hasher, key, log.origin, BadSignature(_only(request.note, key))))
    return next((found for found in (*proof, *testimony) if found is not None), None)


def compare_checkpoints(hasher: Hasher, key: VerifierKey, one: Note, other: Note | None = None) -> Evidence | None:
    """Return what two checkpoints prove against a key without any tree, or one of them alone. Order does not matter."""
    for note in (one, other):
        if note is not None and not Checkpoint.parse(note.text).tree_size:
            found = _check(hasher, key, Checkpoint.parse(note.text).origin, EmptyRoot(_only(note, key)))
            if found is not None:
                return found
    if other is None:
        return None
    first, second = Checkpoint.parse(one.text), Checkpoint.parse(other.text)
    if first.origin != second.origin:
        return None
    if first.tree_size == second.tree_size:
        if first.root_hash == second.root_hash:
            return None
        return _check(hasher, key, first.origin, SplitView(_only(one, key), _only(other, key)))
    larger, smaller = (one, other) if first.tree_size > second.tree_size else (other, one)
    return _check(hasher, key, first.origin, WentBack(_only(larger, key), _only(smaller, key)))


def compare_trees(hasher: Hasher, reader: HashReader, key: VerifierKey, older: Note, newer: Note) -> Evidence | None:
    """Return the proof that a larger checkpoint does not continue a smaller one, None when it does.

    reader: the tree of the newer one; who holds its tiles can always tell. Raises ProofError when the reader's tree is
    another one or the sizes do not fit, SignatureError or Rejected when the key did not sign both.
    """
    first, second = Checkpoint.parse(older.text), Checkpoint.parse(newer.text)
    tree = Subtree(0, first.tree_size)
    proof = tuple(prove_consistency(hasher, reader, tree, second.tree_size))
    held = subtree_hash(hasher, reader, tree)
    if first.origin != second.origin or held == first.root_hash:
        return None
    exhibit = Inconsistent(_only(older, key), _only(newer, key), held, proof)
    evidence = Evidence(key, first.origin, exhibit, hasher.name)
    verify_evidence(evidence)
    return evidence


def compare_subtree(
    hasher: Hasher, reader: HashReader, key: VerifierKey, signed: SignedSubtree, checkpoint: Note
) -> Evidence | None:
    """Return the proof that a signed subtree is not of a signed checkpoint's tree, None when it is.

    reader: the tree of the checkpoint. Raises what `compare_trees` raises.
    """
    tree = Checkpoint.parse(checkpoint.text)
    proof = tuple(prove_consistency(hasher, reader, signed.subtree, tree.tree_size))
    held = subtree_hash(hasher, reader, signed.subtree)
    if held == signed.subtree_hash:
        return None
    exhibit = ForeignSubtree(signed, _only(checkpoint, key), held, proof)
    evidence = Evidence(key, tree.origin, exhibit, hasher.name)
    verify_evidence(evidence)
    return evidence


def _compare_by_proof(
    hasher: Hasher, key: VerifierKey, view: CosignerView, known: Note, request: AddCheckpoint
) -> Evidence | None:
    """Return what the request's proof itself shows: where it leads to the new root, but not from the known one."""
    new = request.checkpoint
    if not 0 < view.tree_size < new.tree_size:
        return None
    try:
        held, root = evaluate_consistency(
            hasher, Subtree(0, view.tree_size), new.tree_size, view.root_hash, request.proof
        )
    except (ProofError, FormatError):
        return None
    # Most proofs end here; the signatures are looked at only when there is something to prove.
    if root != new.root_hash or held == view.root_hash:
        return None
    exhibit = Inconsistent(_only(known, key), _only(request.note, key), held, request.proof)
    return _check(hasher, key, new.origin, exhibit)


def _check(hasher: Hasher, key: VerifierKey, origin: str, exhibit: Exhibit) -> Evidence | None:
    """Return evidence that verifies, None when it does not."""
    evidence = Evidence(key, origin, exhibit, hasher.name)
    try:
        verify_evidence(evidence)
    except Error:
        return None
    return evidence


def _has_line_of(note: Note, key: VerifierKey) -> bool:
    """Tell whether a note has a line in the name of a key."""
    return any((line.name, line.key_id) == (key.name, key.key_id) for line in note.signatures)


def _only(note: Note, key: VerifierKey) -> Note:
    """Return a note with the lines of a key alone; as it is when there is none, which verification then says."""
    return only_lines_of(note, key) if _has_line_of(note, key) else note
