"""What a bundle of evidence proves, from its own bytes alone: no network, no trust store, no clock.

A finding says in one sentence what is proven, and apart from it what rests on somebody's word. The proof of a
contradiction never starts from a hash that only the collector vouches for: each hash is signed by the subject, or a
proof leads from it to one that is. A proof leads from one hash only to a given root, so an honest log cannot be
convicted by a made-up one, whatever tree hash the bundle names.

Spec: C2SP tlog-cosignature, "Format"; Merkle Tree Certificates, "Cosigners".
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import assert_never

from mtc.cosign.evidence.kinds import (
    BadEntries,
    BadSignature,
    EmptyRoot,
    Evidence,
    ForeignSubtree,
    Inconsistent,
    RolledBack,
    SignedSubtree,
    SplitSubtree,
    SplitTrees,
    SplitView,
    WentBack,
)
from mtc.errors import FormatError, ProofError, Reason, Rejected, SignatureError, UsageError
from mtc.kernel import HASH_SIZES, Kernel, active_kernel
from mtc.merkle import Hasher, Subtree, verify_consistency
from mtc.note import (
    Checkpoint,
    CosignedMessage,
    Note,
    SignatureType,
    VerifierKey,
    verify_note,
    verify_note_signature,
)
from mtc.tiles import EntriesTile, EntryBundle, Tile, verify_tiles


@dataclass(frozen=True, slots=True)
class Side:
    """One of the statements of a finding, to be shown beside the others.

    what: a tree or subtree, in words. digest: its hash. signed_at: POSIX seconds of its signature, None without.
    is_signed: by the subject; otherwise it is what a proof leads to, or what somebody says. contradicts: it should be
    the hash of the first side.
    """

    label: str
    what: str
    digest: bytes
    signed_at: int | None = None
    is_signed: bool = True
    contradicts: bool = False


@dataclass(frozen=True, slots=True)
class Finding:
    """What verified evidence says. is_proof: signatures of the subject alone convict it.

    proven: one sentence that everybody can check. testimony: what rests on the word of who collected it, empty for
    nothing. limits: what the evidence does not show, empty for nothing worth saying. sides: the statements.
    """

    evidence: Evidence
    is_proof: bool
    proven: str
    testimony: str
    limits: str
    sides: tuple[Side, ...]


@dataclass(frozen=True, slots=True)
class _Signed:
    """A checkpoint that a key signed, now proven. times: those of its signatures that say one, sorted."""

    checkpoint: Checkpoint
    times: tuple[int, ...]

    def side(self, label: str, time: int | None = None, *, contradicts: bool = False) -> Side:
        """Return the checkpoint to be shown."""
        shown = time if time is not None else (self.times[-1] if self.times else None)
        return Side(label, f"tree of {_count(self.size)}", self.checkpoint.root_hash, shown, contradicts=contradicts)

    @property
    def size(self) -> int:
        """Number of entries."""
        return self.checkpoint.tree_size


def verify_evidence(  # noqa: C901, PLR0911 - one case per kind
    evidence: Evidence, kernel: Kernel | None = None
) -> Finding:
    """Return what a bundle proves. kernel: for tests; the active one is the default.

    Raises SignatureError or Rejected (UNKNOWN_SIGNER) when the subject did not sign what it is said to have, ProofError
    when a proof does not lead where it must, FormatError, and Rejected (NOT_EVIDENCE) when nothing contradicts.
    """
    kernel = kernel or active_kernel()
    hasher = kernel.hasher(evidence.hash_name)
    match evidence.exhibit:
        case SplitView() as exhibit:
            return _split_view(evidence, exhibit)
        case Inconsistent() as exhibit:
            return _inconsistent(evidence, exhibit, hasher)
        case EmptyRoot() as exhibit:
            return _empty_root(evidence, exhibit, kernel)
        case SplitSubtree() as exhibit:
            return _split_subtree(evidence, exhibit)
        case ForeignSubtree() as exhibit:
            return _foreign_subtree(evidence, exhibit, hasher)
        case SplitTrees() as exhibit:
            return _split_trees(evidence, exhibit, hasher)
        case WentBack() as exhibit:
            return _went_back(evidence, exhibit)
        case RolledBack() as exhibit:
            return _rolled_back(evidence, exhibit)
        case BadEntries() as exhibit:
            return _bad_entries(evidence, exhibit, hasher)
        case BadSignature() as exhibit:
            return _bad_signature(evidence, exhibit)
        case _:
            assert_never(evidence.exhibit)


def _split_view(evidence: Evidence, exhibit: SplitView) -> Finding:
    """Judge two checkpoints of one size."""
    first, second = _signed(evidence, exhibit.first), _signed(evidence, exhibit.second)
    if first.size != second.size:
        raise _none(f"the checkpoints have {first.size} and {second.size} entries, which is no split view")
    if first.checkpoint.root_hash == second.checkpoint.root_hash:
        raise _none("both checkpoints have the same root")
    proven = f"{_who(evidence)} signed two different roots for one tree of {_count(first.size)} of {evidence.origin}."
    return _proof(evidence, proven, (first.side("first"), second.side("second", contradicts=True)))


def _inconsistent(evidence: Evidence, exhibit: Inconsistent, hasher: Hasher) -> Finding:
    """Judge a smaller and a larger checkpoint."""
    older, newer = _signed(evidence, exhibit.older), _signed(evidence, exhibit.newer)
    if not 0 < older.size < newer.size:
        raise _none(f"{_count(older.size)} and {newer.size} are not a smaller and a larger tree")
    tree = Subtree(0, older.size)
    verify_consistency(hasher, tree, newer.size, exhibit.held, newer.checkpoint.root_hash, exhibit.proof)
    if exhibit.held == older.checkpoint.root_hash:
        raise _none("the larger tree continues the smaller one")
    proven = (
        f"{_who(evidence)} signed a tree of {_count(older.size)} and one of {_count(newer.size)} of {evidence.origin} "
        "that does not continue it."
    )
    held = Side("in the newer", f"first {_count(older.size)}", exhibit.held, is_signed=False, contradicts=True)
    return _proof(evidence, proven, (older.side("older"), held, newer.side("newer")))


def _empty_root(evidence: Evidence, exhibit: EmptyRoot, kernel: Kernel) -> Finding:
    """Judge a checkpoint of no entries."""
    signed = _signed(evidence, exhibit.checkpoint)
    if signed.size:
        raise _none(f"the checkpoint has {_count(signed.size)}, not none")
    # A bundle that names another hash than the log's must not convict it.
    if signed.checkpoint.root_hash in {kernel.hasher(name).empty for name in HASH_SIZES}:
        raise _none("the root is that of a tree without entries")
    proven = f"{_who(evidence)} signed a tree without entries of {evidence.origin} whose root is not that of one."
    empty = Side(
        "must be", "tree of 0 entries", kernel.hasher(evidence.hash_name).empty, is_signed=False, contradicts=True
    )
    return _proof(evidence, proven, (signed.side("signed"), empty))


def _split_subtree(evidence: Evidence, exhibit: SplitSubtree) -> Finding:
    """Judge two hashes of one subtree."""
    for signed in (exhibit.first, exhibit.second):
        _verify_subtree(evidence, signed)
    first, second = exhibit.first, exhibit.second
    if first.subtree != second.subtree:
        raise _none(f"{first.subtree} and {second.subtree} are different subtrees")
    if first.subtree_hash == second.subtree_hash:
        raise _none("both signatures are over the same hash")
    proven = f"{_who(evidence)} signed two different hashes for the subtree {first.subtree} of {evidence.origin}."
    return _proof(evidence, proven, (_side("first", first), _side("second", second, contradicts=True)))


def _foreign_subtree(evidence: Evidence, exhibit: ForeignSubtree, hasher: Hasher) -> Finding:
    """Judge a subtree and a checkpoint."""
    signed, tree = exhibit.signed, _signed(evidence, exhibit.checkpoint)
    _verify_subtree(evidence, signed)
    verify_consistency(hasher, signed.subtree, tree.size, exhibit.held, tree.checkpoint.root_hash, exhibit.proof)
    if exhibit.held == signed.subtree_hash:
        raise _none("the checkpoint's tree holds the subtree that was signed")
    proven = (
        f"{_who(evidence)} signed for the subtree {signed.subtree} of {evidence.origin} another hash than the tree of "
        f"{_count(tree.size)} holds that it signed as well."
    )
    held = Side("in the tree", f"subtree {signed.subtree}", exhibit.held, is_signed=False, contradicts=True)
    return _proof(evidence, proven, (_side("signed", signed), held, tree.side("tree")))


def _split_trees(evidence: Evidence, exhibit: SplitTrees, hasher: Hasher) -> Finding:
    """Judge two checkpoints and what their trees hold for one subtree."""
    subtree, sides = exhibit.subtree, (exhibit.first, exhibit.second)
    first, second = (_signed(evidence, side.checkpoint) for side in sides)
    for tree, side in zip((first, second), sides, strict=True):
        verify_consistency(hasher, subtree, tree.size, side.held, tree.checkpoint.root_hash, side.proof)
    if exhibit.first.held == exhibit.second.held:
        raise _none("both trees hold the same subtree")
    proven = (
        f"{_who(evidence)} signed a tree of {_count(first.size)} and one of {_count(second.size)} of "
        f"{evidence.origin} that hold different hashes for the subtree {subtree}."
    )
    held = f"subtree {subtree}"
    one = Side("in the first", held, exhibit.first.held, is_signed=False)
    other = Side("in the second", held, exhibit.second.held, is_signed=False, contradicts=True)
    return _proof(evidence, proven, (one, other, first.side("first"), second.side("second")))


def _went_back(evidence: Evidence, exhibit: WentBack) -> Finding:
    """Judge two checkpoints with times."""
    larger, later = _signed(evidence, exhibit.larger), _signed(evidence, exhibit.later)
    if larger.size <= later.size:
        raise _none(f"the tree of {_count(later.size)} is not smaller than that of {_count(larger.size)}")
    if not larger.times or not later.times or larger.times[0] >= later.times[-1]:
        raise _none("the smaller tree was not signed at a later time than the larger one")
    proven = (
        f"{_who(evidence)} said of a tree of {_count(larger.size)} of {evidence.origin}, and at a later time of one of "
        f"{_count(later.size)}, that it is the largest it knows; one of the two is not true."
    )
    return Finding(
        evidence,
        is_proof=True,
        proven=proven + _name_remark(evidence),
        testimony="",
        limits="It does not show two views: a clock that was set back, or a state that was, looks the same.",
        sides=(larger.side("larger", larger.times[0]), later.side("later", later.times[-1])),
    )


def _rolled_back(evidence: Evidence, exhibit: RolledBack) -> Finding:
    """Judge a checkpoint beyond a register."""
    own = _signed(evidence, exhibit.checkpoint)
    theirs = _signed(evidence, exhibit.checkpoint, exhibit.cosigner)
    if exhibit.cosigner == evidence.subject:
        raise _none("the cosigner is the subject itself")
    size = exhibit.register_size
    if own.size < size or (own.size == size and own.checkpoint.root_hash == exhibit.register_root):
        raise _none(f"the register knows the tree of {_count(own.size)}")
    return Finding(
        evidence,
        is_proof=False,
        proven=f"{_who(evidence)} signed a tree of {_count(own.size)} of {evidence.origin}, and "
        f"{exhibit.cosigner} has cosigned it." + _name_remark(evidence),
        testimony=f"That the register of the log knew a tree of {_count(size)} then is the word of who runs it.",
        limits="It shows that the log forgot what it had signed, not who is to blame.",
        sides=(
            own.side("signed"),
            theirs.side("cosigned"),
            Side("register", f"tree of {_count(size)}", exhibit.register_root, is_signed=False),
        ),
    )


def _bad_entries(evidence: Evidence, exhibit: BadEntries, hasher: Hasher) -> Finding:
    """Judge files against a checkpoint."""
    signed = _signed(evidence, exhibit.checkpoint)
    fault = _find_mismatch(hasher, signed, exhibit.served)
    if fault is None:
        raise _none("the files are of the tree that was signed")
    return Finding(
        evidence,
        is_proof=False,
        proven=f"{_who(evidence)} signed a tree of {_count(signed.size)} of {evidence.origin}, and the files here are "
        f"not of it: {fault}." + _name_remark(evidence),
        testimony="That these files were served for this tree, and by whom, is the word of who collected them.",
        limits="",
        sides=(signed.side("signed"),),
    )


def _find_mismatch(hasher: Hasher, signed: _Signed, served: Iterable[tuple[Tile | EntriesTile, bytes]]) -> str | None:
    """Return in words why files are not of a tree, None when they are. Raises FormatError when too few are there."""
    files = dict(served)
    tiles = {place: content for place, content in files.items() if isinstance(place, Tile)}
    try:
        verify_tiles(hasher, signed.size, signed.checkpoint.root_hash, tiles)
    except (ProofError, FormatError) as error:
        return error.message
    except UsageError as error:
        raise FormatError(Reason.BAD_DOCUMENT, f"the served files cannot be judged: {error.message}") from None
    for place, content in files.items():
        if isinstance(place, Tile):
            continue
        if (hashes := tiles.get(Tile(0, place.index, place.width))) is None:
            raise FormatError(Reason.BAD_DOCUMENT, f"{place} is there without its level-0 tile")
        try:
            entries = EntryBundle.parse(content, place.width).entries
        except FormatError as error:
            return f"{place} is no entry bundle: {error.message}"
        if hasher.leaves(entries) != hashes:
            return f"{place} holds other entries than its level-0 tile, which is of the tree"
    return None


def _bad_signature(evidence: Evidence, exhibit: BadSignature) -> Finding:
    """Judge a signature that is said to fail."""
    statement, subject = exhibit.statement, evidence.subject
    if isinstance(statement, SignedSubtree):
        what, digest = f"subtree {statement.subtree}", statement.subtree_hash
        _check_signs_subtrees(subject)
        fails = [_is_bad(lambda: _verify_subtree(evidence, statement))]
    else:
        checkpoint = _checkpoint(evidence, statement)
        what, digest = f"tree of {_count(checkpoint.tree_size)}", checkpoint.root_hash
        lines = [line for line in statement.signatures if (line.name, line.key_id) == (subject.name, subject.key_id)]
        if not lines:
            raise Rejected(Reason.UNKNOWN_SIGNER, f"no line of the note is in the name of {subject}")
        fails = [_is_bad(partial(verify_note_signature, subject, statement.text, line.signature)) for line in lines]
    if not any(fails):
        raise _none("every signature in the subject's name verifies")
    return Finding(
        evidence,
        is_proof=False,
        proven=f"A signature in the name of {subject} over a statement about {evidence.origin} does not verify.",
        testimony="Who sent it is the word of who collected it.",
        limits=f"Anybody can write such a line; it does not show that {subject.name} did.",
        sides=(Side("claimed", what, digest, is_signed=False),),
    )


def _is_bad(verify: Callable[[], object]) -> bool:
    """Tell whether a signature fails, or has no form that could verify."""
    try:
        verify()
    except (SignatureError, FormatError):
        return True
    return False


def _checkpoint(evidence: Evidence, note: Note) -> Checkpoint:
    """Return the checkpoint of a note, which must be of the log in question."""
    checkpoint = Checkpoint.parse(note.text)
    if checkpoint.origin != evidence.origin:
        raise _none(f"the checkpoint is of {checkpoint.origin[:80]!r} and not of {evidence.origin[:80]!r}")
    return checkpoint


def _signed(evidence: Evidence, note: Note, key: VerifierKey | None = None) -> _Signed:
    """Return a checkpoint that the subject, or another key, is now proven to have signed."""
    checkpoint = _checkpoint(evidence, note)
    opened = verify_note(note, [key or evidence.subject])
    return _Signed(checkpoint, tuple(sorted(item.timestamp for item in opened.verified if item.timestamp)))


def _verify_subtree(evidence: Evidence, signed: SignedSubtree) -> None:
    """Raise unless the subject signed a subtree."""
    _check_signs_subtrees(evidence.subject)
    message = CosignedMessage(evidence.subject.name, evidence.origin, signed.subtree, signed.subtree_hash)
    evidence.subject.verifier.verify(message.encode(), signed.signature)


def _check_signs_subtrees(key: VerifierKey) -> None:
    """Raise FormatError (BAD_KEY) for a key whose signatures cover no subtrees."""
    if key.type != SignatureType.COSIGNATURE_MLDSA44:
        raise FormatError(Reason.BAD_KEY, f"{key} is of a type that signs no subtrees")


def _proof(evidence: Evidence, proven: str, sides: tuple[Side, ...]) -> Finding:
    """Return the finding of a contradiction between signatures of the subject."""
    return Finding(
        evidence, is_proof=True, proven=proven + _name_remark(evidence), testimony="", limits="", sides=sides
    )


def _who(evidence: Evidence) -> str:
    """Return the subject as the subject of a sentence."""
    return f"The key {evidence.subject}"


def _name_remark(evidence: Evidence) -> str:
    """Return a sentence about the name of a key whose signatures do not cover it."""
    if evidence.subject.type == SignatureType.COSIGNATURE_MLDSA44:
        return ""
    return " (Its signatures do not cover its name: whose key it is must be known from elsewhere.)"


def _side(label: str, signed: SignedSubtree, *, contradicts: bool = False) -> Side:
    """Return a signed subtree to be shown."""
    return Side(label, f"subtree {signed.subtree}", signed.subtree_hash, contradicts=contradicts)


def _count(entries: int) -> str:
    """Return a number of entries in words."""
    return "1 entry" if entries == 1 else f"{entries} entries"


def _none(why: str) -> Rejected:
    """Return the error for a bundle that contradicts nothing."""
    return Rejected(Reason.NOT_EVIDENCE, f"this is no evidence: {why}")
