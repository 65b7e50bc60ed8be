"""Trees that a log's parties show: which cosignatures verify, which tree is cosigned enough, and what convicts whom.

Pure. Signed notes go in; what is used later are the cosignatures, because these and nothing else go
into updates. A contradiction between two trees is returned as evidence against each cosigner that signed both.

Spec: C2SP tlog-cosignature; Merkle Tree Certificates, "Cosigners".
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from mtc.cosign.evidence import Evidence, Exhibit, Inconsistent, SplitView
from mtc.errors import FormatError, Reason, Rejected, SignatureError
from mtc.ids import TrustAnchorID, log_id
from mtc.note import Checkpoint, Cosignature, CosignedMessage, Note, VerifierKey, parse_note
from mtc.trust import TrustedCA
from mtc.trust.updates import CosignedTree, TreeSignature
from mtc.trust.updates.contradiction import cosigner_key, note_of


@dataclass(slots=True)
class ShownTree:
    """A tree and whoever signed it, verified."""

    root_hash: bytes
    signatures: dict[TrustAnchorID, TreeSignature] = field(default_factory=dict)

    def cosigned(self, size: int, proof: tuple[bytes, ...] = ()) -> CosignedTree:
        """Return it as updates carry it."""
        return CosignedTree(size, self.root_hash, tuple(self.signatures.values()), proof)


class TwoViews(Exception):  # noqa: N818 - it is a finding, and ends as `Rejected` with the evidence beside it
    """Two trees that cannot both be were signed. evidence: empty when no cosigner signed both."""

    def __init__(self, text: str, evidence: list[Evidence]) -> None:
        """Take what to say and what to keep."""
        super().__init__(text)
        self.evidence = evidence

    @property
    def rejected(self) -> Rejected:
        """What is wrong, for people."""
        about = "evidence is kept" if self.evidence else "no cosigner signed both, so that nobody is convicted"
        return Rejected(Reason.EQUIVOCATION, f"{self}; {about}")


@dataclass(frozen=True, slots=True)
class LogView:
    """What there is to know of one log for judging trees."""

    ca: TrustedCA
    number: int

    @property
    def origin(self) -> str:
        """The log's name in checkpoints."""
        return log_id(self.ca.ca_id, self.number).oid_name

    def read_note(self, data: bytes, place: str) -> tuple[Checkpoint, dict[TrustAnchorID, TreeSignature]]:
        """Return a checkpoint and the cosignatures of it that verify and count. Raises FormatError."""
        note = parse_note(data)
        checkpoint = Checkpoint.parse(note.text, self.ca.hash.size)
        if checkpoint.origin != self.origin:
            raise FormatError(Reason.BAD_NAME, f"{place} shows a checkpoint of {checkpoint.origin[:120]!r}")
        signatures: dict[TrustAnchorID, TreeSignature] = {}
        for line in note.signatures:
            try:
                who = TrustAnchorID.parse_oid_name(line.name)
                cosignature = Cosignature.parse(line.signature)
                cosigner = self.ca.cosigner_index.get(who.binary)
                if cosigner is None or not cosigner.counts_for(self.number, checkpoint.tree_size):
                    continue
                message = CosignedMessage.for_checkpoint(line.name, checkpoint, cosignature.timestamp)
                cosigner.key.verify(message.encode(), cosignature.signature)
            except (FormatError, SignatureError):
                # A line of another key, or of another kind of key with the same name.
                continue
            signatures[who] = TreeSignature(who, cosignature.timestamp, cosignature.signature)
        return checkpoint, signatures

    def compare(self, tree: CosignedTree, earlier: Iterable[CosignedTree]) -> None:
        """Raise TwoViews when a tree has another root than one of the same size."""
        for other in earlier:
            if other.tree_size == tree.tree_size and other.root_hash != tree.root_hash:
                raise TwoViews(
                    f"two root hashes of {tree.tree_size} entries are signed",
                    self._convict(other, tree, SplitView),
                )

    def inconsistent(self, older: CosignedTree, newer: CosignedTree, held: bytes, proof: tuple[bytes, ...]) -> TwoViews:
        """Return the finding that a tree does not continue a smaller one: it holds `held` in its place."""
        return TwoViews(
            f"the signed tree of {newer.tree_size} entries does not continue that of {older.tree_size}",
            self._convict(older, newer, lambda one, other: Inconsistent(one, other, held, proof)),
        )

    def _convict(self, one: CosignedTree, other: CosignedTree, show: Callable[[Note, Note], Exhibit]) -> list[Evidence]:
        """Return evidence against everybody who signed both trees."""
        found = []
        mine = {item.cosigner_id: item for item in one.signatures}
        for item in other.signatures:
            key = self._key(item.cosigner_id)
            if item.cosigner_id in mine and key is not None:
                first = note_of(self.origin, one, key, mine[item.cosigner_id])
                exhibit = show(first, note_of(self.origin, other, key, item))
                found.append(Evidence(key, self.origin, exhibit, self.ca.hash.name))
        return found

    def _key(self, who: TrustAnchorID) -> VerifierKey | None:
        """Return the key of a cosigner as notes name it."""
        cosigner = self.ca.cosigner_index.get(who.binary)
        return None if cosigner is None else cosigner_key(cosigner)

    def choose(self, trees: dict[int, ShownTree]) -> int:
        """Return the largest size that is cosigned to the policy, by signatures on it and on larger trees.

        Raises Rejected (POLICY_NOT_MET).
        """
        present: set[str] = set()
        for size in sorted(trees, reverse=True):
            present |= {str(who) for who in trees[size].signatures}
            if self.ca.policy.quorum.is_satisfied(present):
                return size
        missing = self.ca.policy.quorum.missing(present)
        raise Rejected(Reason.POLICY_NOT_MET, f"no tree of log {self.number} is cosigned enough; missing is {missing}")

    def needed(self, trees: list[CosignedTree]) -> tuple[CosignedTree, ...]:
        """Return the trees with just enough signatures, so that updates stay small; earlier trees come first."""
        quorum = self.ca.policy.quorum
        needed = {str(item.cosigner_id) for tree in trees for item in tree.signatures}
        for name in sorted(needed):
            if quorum.is_satisfied(needed - {name}):
                needed.discard(name)
        kept: list[CosignedTree] = []
        for tree in trees:
            signatures = tuple(item for item in tree.signatures if str(item.cosigner_id) in needed)
            needed -= {str(item.cosigner_id) for item in signatures}
            if signatures or not kept:
                kept.append(replace(tree, signatures=signatures))
        return tuple(kept)
