"""What evidence there is: one exhibit per kind of misbehaviour, and the bundle that names who, which log, and when.

Nothing is verified here; `verify_evidence` does that. An exhibit holds what its subject signed, and no more than the
proof needs. Exhibits whose contradiction stands in signatures of the subject alone convict it; the others need
somebody's word, and say so.
"""

import hashlib
from dataclasses import dataclass, replace
from typing import assert_never

from mtc.errors import FormatError, Reason
from mtc.merkle import Subtree
from mtc.note import Note, VerifierKey
from mtc.tiles import MAX_BUNDLE_BYTES, EntriesTile, Tile
from mtc.wire import encode_base64

MAX_SERVED = 64
"""Most files in an exhibit of served ones: the partial tiles of a tree, those above one entry bundle, and it."""
MAX_REMARK_CHARACTERS = 200
"""Longest text about when and by whom evidence was collected."""


@dataclass(frozen=True, slots=True)
class SignedSubtree:
    """A subtree, its hash and a raw ML-DSA-44 signature with timestamp 0, as certificates carry them.

    A subtree with a time of its own is a checkpoint, and stands in a note. Raises FormatError (BAD_SUBTREE) for an
    empty subtree, about which there is nothing to say.
    """

    subtree: Subtree
    subtree_hash: bytes
    signature: bytes

    def __post_init__(self) -> None:
        """Refuse an empty subtree."""
        if self.subtree.is_empty:
            raise FormatError(Reason.BAD_SUBTREE, f"{self.subtree} holds no entry")


@dataclass(frozen=True, slots=True)
class SplitView:
    """Two checkpoints of one size with different roots, both signed by the subject."""

    first: Note
    second: Note


@dataclass(frozen=True, slots=True)
class Inconsistent:
    """A checkpoint of m entries and a larger one of n, both signed by the subject, that are not one history.

    held: the hash of [0, m) in the tree of n entries, which differs from the older root. proof: that it is, the
    consistency proof from m to n with which an honest log would have proven `held`.
    """

    older: Note
    newer: Note
    held: bytes
    proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class EmptyRoot:
    """A checkpoint of no entries whose root is not the hash of the empty string, signed by the subject."""

    checkpoint: Note


@dataclass(frozen=True, slots=True)
class SplitSubtree:
    """Two hashes for one subtree, both signed by the subject."""

    first: SignedSubtree
    second: SignedSubtree


@dataclass(frozen=True, slots=True)
class ForeignSubtree:
    """A subtree and a checkpoint, both signed by the subject; the checkpoint's tree holds another subtree there.

    held: the hash of the subtree in the checkpoint's tree. proof: subtree consistency proof of `held`.
    """

    signed: SignedSubtree
    checkpoint: Note
    held: bytes
    proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class HeldSubtree:
    """A checkpoint that the subject signed, and the hash that its tree holds for a subtree.

    proof: subtree consistency proof of `held`.
    """

    checkpoint: Note
    held: bytes
    proof: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class SplitTrees:
    """Two checkpoints, both signed by the subject, whose trees hold different hashes for one subtree.

    Who knows landmarks and no tiles proves so that two trees, of whatever sizes, are not one history.
    """

    subtree: Subtree
    first: HeldSubtree
    second: HeldSubtree


@dataclass(frozen=True, slots=True)
class WentBack:
    """Two checkpoints of the subject with times: the later one is smaller, though both say to be the largest known."""

    larger: Note
    later: Note


@dataclass(frozen=True, slots=True)
class RolledBack:
    """A checkpoint that the subject signed and a cosigner has, beyond what the subject's own register knows.

    register_size, register_root: the tree of the register's record, on the word of who runs it.
    """

    checkpoint: Note
    cosigner: VerifierKey
    register_size: int
    register_root: bytes


@dataclass(frozen=True, slots=True)
class BadEntries:
    """A checkpoint that the subject signed, and files that were served for its tree and are not of it.

    served: tiles as `verify_tiles` wants them for the checkpoint's size, and entry bundles whose level-0 tiles are
    among them, as they came. That the subject served them is the word of who keeps this.
    """

    checkpoint: Note
    served: tuple[tuple[Tile | EntriesTile, bytes], ...]

    def __post_init__(self) -> None:
        """Refuse more than any proof needs, and a file twice."""
        if not 1 <= len(self.served) <= MAX_SERVED or len({place for place, _ in self.served}) != len(self.served):
            raise FormatError(
                Reason.BAD_DOCUMENT, f"evidence holds 1 to {MAX_SERVED} different served files", got=len(self.served)
            )
        if any(len(content) > MAX_BUNDLE_BYTES for _, content in self.served):
            raise FormatError(Reason.TOO_LARGE, f"a served file has at most {MAX_BUNDLE_BYTES} bytes")


@dataclass(frozen=True, slots=True)
class BadSignature:
    """A statement with a signature in the subject's name that fails. Anybody can write one."""

    statement: Note | SignedSubtree


Exhibit = (
    SplitView
    | Inconsistent
    | EmptyRoot
    | SplitSubtree
    | ForeignSubtree
    | SplitTrees
    | WentBack
    | RolledBack
    | BadEntries
    | BadSignature
)
"""What is shown."""

KINDS: dict[str, type[Exhibit]] = {
    "split-view": SplitView,
    "inconsistent": Inconsistent,
    "empty-root": EmptyRoot,
    "split-subtree": SplitSubtree,
    "subtree": ForeignSubtree,
    "split-trees": SplitTrees,
    "bad-timestamp": WentBack,
    "rolled-back": RolledBack,
    "bad-entries": BadEntries,
    "bad-signature": BadSignature,
}
"""The kinds by the names that documents use."""

_TESTIMONY = frozenset({"rolled-back", "bad-entries", "bad-signature"})
_NAMES = {exhibit: name for name, exhibit in KINDS.items()}


@dataclass(frozen=True, slots=True)
class Evidence:
    """One bundle: whom it is about, which log, and what is shown. It verifies with nothing but itself.

    subject: the key of the party at fault. origin: of the log. hash_name: the log's tree hash, `sha256` or another of
    32 bytes. collected_at, collected_by: free text that nothing authenticates, empty when not known.
    Raises FormatError (TOO_LARGE) for longer texts than `MAX_REMARK_CHARACTERS`.
    """

    subject: VerifierKey
    origin: str
    exhibit: Exhibit
    hash_name: str = "sha256"
    collected_at: str = ""
    collected_by: str = ""

    def __post_init__(self) -> None:
        """Refuse long remarks."""
        if max(len(self.collected_at), len(self.collected_by)) > MAX_REMARK_CHARACTERS:
            raise FormatError(
                Reason.TOO_LARGE, f"who collected evidence, and when, has at most {MAX_REMARK_CHARACTERS} characters"
            )

    @property
    def kind(self) -> str:
        """The name of the kind, a key of `KINDS`."""
        return _NAMES[type(self.exhibit)]

    @property
    def is_testimony(self) -> bool:
        """True for kinds that rest on somebody's word and convict nobody by themselves."""
        return self.kind in _TESTIMONY

    @property
    def name(self) -> str:
        """What tells bundles apart: the kind and a hash of the claim.

        The same claim with other signatures, at another time or kept by others has the same name, so that a party
        that says the same contradiction again and again is kept once.
        """
        facts = (self.kind, self.subject.encode(), self.origin, *_facts(self.exhibit))
        return f"{self.kind}-{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}"

    def collected(self, at: str, by: str) -> "Evidence":
        """Return the evidence with a remark on when and by whom it was collected."""
        return replace(self, collected_at=at, collected_by=by)


def _facts(exhibit: Exhibit) -> tuple[str, ...]:  # noqa: PLR0911 - one case per kind
    """Return what an exhibit claims, without signatures, times and proofs; pairs in an order of their own."""
    match exhibit:
        case SplitView(first, second) | WentBack(first, second):
            return tuple(sorted((_body(first), _body(second))))
        case Inconsistent(older, newer):
            return (_body(older), _body(newer))
        case EmptyRoot(checkpoint):
            return (_body(checkpoint),)
        case SplitSubtree(first, second):
            return tuple(sorted((_subtree(first), _subtree(second))))
        case ForeignSubtree(signed, checkpoint):
            return (_subtree(signed), _body(checkpoint))
        case SplitTrees(subtree, first, second):
            return (str(subtree), *sorted((_body(first.checkpoint), _body(second.checkpoint))))
        case RolledBack(checkpoint, cosigner, size, root):
            return (_body(checkpoint), cosigner.encode(), str(size), root.hex())
        case BadEntries(checkpoint, served):
            digests = sorted(f"{place.path} {hashlib.sha256(content).hexdigest()}" for place, content in served)
            return (_body(checkpoint), *digests)
        case BadSignature(statement):
            return (_subtree(statement) if isinstance(statement, SignedSubtree) else _body(statement),)
        case _:
            assert_never(exhibit)


def _body(note: Note) -> str:
    """Return the first three lines of a note: extension lines may differ each time."""
    return "\n".join(note.text.decode("utf-8", errors="replace").split("\n")[:3])


def _subtree(signed: SignedSubtree) -> str:
    """Return bounds and hash."""
    return f"{signed.subtree} {encode_base64(signed.subtree_hash)}"


def only_lines_of(note: Note, *keys: VerifierKey) -> Note:
    """Return a note without the lines of others. Raises FormatError (BAD_NOTE) when none is left."""
    names = {(key.name, key.key_id) for key in keys}
    return Note(note.text, tuple(line for line in note.signatures if (line.name, line.key_id) in names))
