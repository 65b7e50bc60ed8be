"""What a sequencer asks of others: the key's signatures, and the cosignatures and views of independent cosigners."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from mtc.cert import SubtreeSignature
from mtc.merkle import Subtree


@dataclass(frozen=True, slots=True)
class TreeToSign:
    """Exactly one tree, decided by the register.

    subtrees: those that cover its newest round, with their hashes. start, entries: of that round, encoded; an empty
    round moves only the timestamp.
    """

    log_number: int
    tree_size: int
    root_hash: bytes
    timestamp: int
    subtrees: tuple[tuple[Subtree, bytes], ...]
    start: int = 0
    entries: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class SignedTree:
    """What signing gave. checkpoint: the signed note to publish. signatures: cosignatures by subtree."""

    checkpoint: bytes
    signatures: Mapping[Subtree, tuple[SubtreeSignature, ...]]


class TreeSigner(Protocol):
    """Who holds the CA cosigner's key. It may refuse, which stops the log for good; PeerError means no answer."""

    async def sign_tree(self, tree: TreeToSign) -> SignedTree:
        """Sign the checkpoint and the subtrees; asked again for the same tree after a crash, never for another one."""


@dataclass(frozen=True, slots=True)
class CosignerView:
    """What one cosigner says about a log, its signature verified. name: of the cosigner, for people.

    tree_size, root_hash: of the largest tree it cosigned. timestamp: POSIX seconds of that cosignature.
    """

    name: str
    tree_size: int
    root_hash: bytes
    timestamp: int


class CosignatureSource(Protocol):
    """The independent cosigners of a CA, and the policy that says when they suffice.

    Deadlines are the source's: every call ends by itself. A cosigner that is slow, away or lying is left out of the
    answer. Calls for one log never overlap. Everything that it returns has been verified.
    """

    async def fetch_views(self, log_number: int) -> Sequence[CosignerView]:
        """Return the views of those who answer; none may."""

    async def cosign(self, tree: TreeToSign, signed: SignedTree) -> SignedTree:
        """Return the tree with cosignatures that satisfy the policy, added to those it has.

        The objects of the tree are published; its checkpoint is not yet. Asked again for the same tree after a crash.
        Raises PeerError when the policy is not satisfied in time, which costs time and nothing else; ConflictError when
        a cosigner has seen more than the register, which stops the log.
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
