"""What a sequencer asks of others: the key's signatures, and the cosignatures and views of independent cosigners."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mtc.cert import SubtreeSignature
from mtc.errors import PeerError, Reason
from mtc.merkle import Subtree


@dataclass(frozen=True, slots=True)
class TreeToSign:
    """Exactly one tree, decided by the register.

    subtrees: those that cover its newest round, with their hashes. start, entries: of that round, encoded; an empty
    round moves only the timestamp. evidence_until: POSIX seconds after which the key does not sign the tree for the
    first time, 0 for no end. owed: subtrees of earlier rounds, with their hashes, which the key has signed and other
    cosigners have not; for cosigners only.
    """

    log_number: int
    tree_size: int
    root_hash: bytes
    timestamp: int
    subtrees: tuple[tuple[Subtree, bytes], ...]
    start: int = 0
    entries: tuple[bytes, ...] = ()
    evidence_until: int = 0
    owed: tuple[tuple[Subtree, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class SignedTree:
    """What signing gave. checkpoint: the signed note to publish.

    signatures: cosignatures by subtree, the CA's own first and then others; certificates carry them in this order.
    """

    checkpoint: bytes
    signatures: Mapping[Subtree, tuple[SubtreeSignature, ...]]


class TreeSigner(Protocol):
    """Who holds the CA cosigner's key. It may refuse, which stops the log for good; PeerError means no answer."""

    async def sign_tree(self, tree: TreeToSign) -> SignedTree:
        """Sign the checkpoint and the subtrees; asked again for the same tree after a crash, never for another one.

        One refusal stops nothing: Rejected (STALE_EVIDENCE), for a tree with `evidence_until` that the key has never
        signed and now never will, whatever a clock says later. The round is undone. A tree that it did sign it signs
        again, whatever `evidence_until` says.
        """


@dataclass(frozen=True, slots=True)
class CosignerView:
    """What one cosigner says about a log, its signature verified. name: of the cosigner, for people.

    tree_size, root_hash: of the largest tree it cosigned. timestamp: POSIX seconds of that cosignature.
    """

    name: str
    tree_size: int
    root_hash: bytes
    timestamp: int


class NoQuorumError(PeerError):
    """The cosigners do not satisfy the policy in time; nobody is to blame yet, and the source may be asked again.

    signed: the tree with the cosignatures that did come, added to those it had; None when none came.
    """

    def __init__(
        self, reason: Reason = Reason.NO_QUORUM, message: str = "", *, signed: SignedTree | None = None, **facts: object
    ) -> None:
        """Take who is missing and why, for people, and what there is."""
        super().__init__(reason, message, **facts)
        self.signed = signed


class CosignatureSource(Protocol):
    """The independent cosigners of a CA, and the policy that says when they suffice.

    Deadlines are the source's: every call ends by itself. A cosigner that is slow, away or lying is left out of the
    answer. Calls for one log never overlap. Everything that it returns has been verified. It keeps what a cosigner
    answered for a tree or a subtree: it is asked for the same ones again until the policy is satisfied, and must not
    trouble those who have answered.
    """

    async def fetch_views(self, log_number: int) -> Sequence[CosignerView]:
        """Return the views of those who answer; none may."""

    async def cosign(self, tree: TreeToSign, signed: SignedTree) -> SignedTree:
        """Return the tree with cosignatures that satisfy the policy, added to those it has.

        The objects of the tree are published; its checkpoint is not yet. Asked again for the same tree after a crash,
        while the policy is not satisfied, and, where the log runs ahead, with the tree that was published last and no
        subtrees of its own, for the sake of `tree.owed`; `signed.checkpoint` may be another one then. Of `tree.owed`,
        the answer holds just those subtrees whose cosignatures now satisfy the policy, without or with the CA's own in
        front; they are no condition for an answer.

        Raises NoQuorumError, or another PeerError, when the policy is not satisfied in time for the checkpoint and
        `tree.subtrees`, which costs time and nothing else; ConflictError when a cosigner has seen more than the
        register, which stops the log.
        """


def find_contradiction(views: Sequence[CosignerView], tree_size: int, roots: Mapping[int, bytes]) -> str | None:
    """Return what contradicts a log of `tree_size` entries in the views, None when nothing does.

    roots: of the log, at least for the sizes of the views that are not larger than it. A cosigner that is ahead has
    seen a tree that this log has forgotten: its disk was restored from an older copy.
    """
    for view in views:
        if view.tree_size > tree_size:
            return f"{view.name} cosigned {view.tree_size} entries, this log knows {tree_size}: an old copy of it runs"
        if roots[view.tree_size] != view.root_hash:
            return f"{view.name} cosigned another root hash at {view.tree_size} entries"
    return None
