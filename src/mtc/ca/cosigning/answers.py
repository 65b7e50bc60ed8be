"""What the cosigners have answered about one tree, and whether it is enough. Nothing here asks anybody.

A quorum counts names. For the checkpoint a cosigner is there when it cosigned it; for a subtree when it signed that, or
when it is one that cosigns checkpoints only and did so.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from mtc.ca.cosigning.published import PublishedTree
from mtc.cert import SubtreeSignature
from mtc.cosign.service.client import CosignerPeer
from mtc.errors import ConflictError, Error
from mtc.log.seams import SignedTree, TreeToSign
from mtc.merkle import Subtree
from mtc.note import Checkpoint, Note, NoteSignature, Quorum, parse_note

SignedHash = tuple[Subtree, bytes]
"""A subtree and its hash."""


class SubtreeAnswers:
    """Raw signatures over subtrees of one log, by subtree and cosigner's name: kept as long as somebody wants them."""

    def __init__(self) -> None:
        """Start with nothing."""
        self._found: dict[SignedHash, dict[str, bytes]] = {}

    def keep_only(self, wanted: Sequence[SignedHash]) -> None:
        """Forget the subtrees that nobody wants any more, and begin with those that are new."""
        self._found = {item: self._found.get(item, {}) for item in wanted}

    def add(self, item: SignedHash, name: str, signature: bytes) -> None:
        """Keep a verified signature; one that comes too late goes."""
        if item in self._found:
            self._found[item][name] = signature

    def of(self, item: SignedHash) -> dict[str, bytes]:
        """Return the signatures over a subtree by the cosigners' names."""
        return self._found.get(item, {})


@dataclass(slots=True, eq=False)
class TreeAnswers:
    """One tree and what was answered about it. Owned by the pool's event loop; changed by its workers.

    note: the checkpoint with the CA's line alone. lines: verified lines over the checkpoint, by cosigner. failures: the
    newest, by cosigner. fault: of our own storage. conflict: what stops the log. finished_at: steady seconds of the
    moment when it was enough.
    """

    tree: TreeToSign
    note: Note
    published: PublishedTree
    subtrees: SubtreeAnswers
    lines: dict[str, tuple[NoteSignature, ...]] = field(default_factory=dict)
    failures: dict[str, Error] = field(default_factory=dict)
    fault: Error | None = None
    conflict: ConflictError | None = None
    finished_at: float | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def checkpoint(self) -> Checkpoint:
        """What the note says."""
        return Checkpoint.parse(self.note.text)

    def is_about(self, tree: TreeToSign) -> bool:
        """Tell whether this is the same tree, signed at the same time."""
        mine = self.tree
        return (mine.log_number, mine.tree_size, mine.root_hash, mine.timestamp) == (
            tree.log_number,
            tree.tree_size,
            tree.root_hash,
            tree.timestamp,
        )

    def wanted_of(self, peer: CosignerPeer) -> list[SignedHash]:
        """Return the subtrees that a cosigner has not signed; the newest round's first."""
        if peer.cosigner_id is None:
            return []
        wanted = dict.fromkeys((*self.tree.subtrees, *self.tree.owed))
        return [item for item in wanted if peer.name not in self.subtrees.of(item)]

    def lacks(self, peer: CosignerPeer) -> bool:
        """Tell whether there is anything to ask a cosigner for."""
        return peer.name not in self.lines or bool(self.wanted_of(peer))


@dataclass(frozen=True, slots=True)
class Policy:
    """Who can cosign, in the order in which certificates list them, and who is enough."""

    peers: tuple[CosignerPeer, ...]
    quorum: Quorum

    def is_met(self, answers: TreeAnswers) -> bool:
        """Tell whether checkpoint and subtrees of the round have their quorum."""
        return all(map(self.quorum.is_satisfied, self._presences(answers)))

    def is_owed_met(self, answers: TreeAnswers) -> bool:
        """Tell whether all subtrees of earlier rounds have it, too."""
        return all(self._is_met_for(answers, item) for item in answers.tree.owed)

    def can_be_met(self, answers: TreeAnswers, asked: Sequence[str]) -> bool:
        """Tell whether it would be enough if all those answer who are asked now."""
        return all(self.quorum.is_satisfied(present.union(asked)) for present in self._presences(answers))

    def missing(self, answers: TreeAnswers) -> str:
        """Say who is missing; empty when nobody is."""
        return next(filter(None, map(self.quorum.missing, self._presences(answers))), "")

    def counted(self, answers: TreeAnswers) -> frozenset[str]:
        """Return the names that count for the checkpoint and for every subtree of the round."""
        return frozenset.intersection(*self._presences(answers))

    def assemble(self, answers: TreeAnswers, signed: SignedTree) -> SignedTree:
        """Return a tree with everything that was answered about it; of owed subtrees only what is enough."""
        note = parse_note(signed.checkpoint)
        there = {(line.name, line.key_id) for line in note.signatures}
        lines = [line for peer in self.peers for line in answers.lines.get(peer.name, ())]
        note = note.with_signatures(*(line for line in lines if (line.name, line.key_id) not in there))
        signatures = dict(signed.signatures)
        owed = [item for item in answers.tree.owed if self._is_met_for(answers, item)]
        for subtree, value in (*answers.tree.subtrees, *owed):
            own = signatures.get(subtree, ())
            known = {item.cosigner_id for item in own}
            others = self._signatures(answers.subtrees.of((subtree, value)))
            signatures[subtree] = (*own, *(item for item in others if item.cosigner_id not in known))
        return SignedTree(note.encode(), signatures)

    def _signatures(self, found: dict[str, bytes]) -> list[SubtreeSignature]:
        """Return signatures as certificates carry them."""
        return [
            SubtreeSignature(peer.cosigner_id.binary, found[peer.name])
            for peer in self.peers
            if peer.cosigner_id is not None and peer.name in found
        ]

    def _presences(self, answers: TreeAnswers) -> list[frozenset[str]]:
        """Return who is there, for the checkpoint and for each subtree of the round."""
        return [frozenset(answers.lines), *(self._present(answers, item) for item in answers.tree.subtrees)]

    def _present(self, answers: TreeAnswers, item: SignedHash) -> frozenset[str]:
        """Return who is there for a subtree."""
        plain = {peer.name for peer in self.peers if peer.cosigner_id is None and peer.name in answers.lines}
        return frozenset(answers.subtrees.of(item)) | plain

    def _is_met_for(self, answers: TreeAnswers, item: SignedHash) -> bool:
        """Tell whether a subtree has its quorum."""
        return self.quorum.is_satisfied(self._present(answers, item))
