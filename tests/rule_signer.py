"""A tree signer for tests of the log: the real rules of the key over a memory that survives, without signatures."""

from dataclasses import replace

from mtc.cert import SubtreeSignature
from mtc.errors import PeerError, Reason, Rejected
from mtc.ids import TrustAnchorID
from mtc.kernel import active_kernel
from mtc.log.service import SignedTree, TreeToSign
from mtc.note import Checkpoint, Note, NoteSignature
from mtc.signer import SignerRules, SignerView, TreeRequest, plan_refusal, plan_signing
from mtc.testing import FakeClock

HASHER = active_kernel().hasher("sha256")
CA_ID = TrustAnchorID.parse("32473.1")
RULES = SignerRules(ca_id=CA_ID, known_entry_types=frozenset({0, 1, 0xF000}))


class RuleSigner:
    """Signs as the key holder does. views: its record. trees: everything that it signed. clock: its own.

    is_away: it gives no answer. answers_lost: it signs, and so many answers get lost.
    """

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.views: dict[int, SignerView] = {}
        self.trees: list[TreeToSign] = []
        self.is_away = False
        self.answers_lost = 0

    async def sign_tree(self, tree: TreeToSign) -> SignedTree:
        """Sign, or raise what the rules raise."""
        if self.is_away:
            raise PeerError(Reason.PEER, "the signer is away")
        request = TreeRequest(
            log_number=tree.log_number,
            tree_size=tree.tree_size,
            root_hash=tree.root_hash,
            timestamp=tree.timestamp,
            start=tree.start,
            entries=tree.entries,
            with_subtrees=bool(tree.subtrees),
            evidence_until=tree.evidence_until,
        )
        now = int(self.clock.now().timestamp())
        try:
            plan = plan_signing(HASHER, RULES, self.views, request, now)
        except Rejected as refusal:
            if refusal.reason is Reason.STALE_EVIDENCE:
                self.views[tree.log_number] = plan_refusal(self.views, request, now)
            raise
        assert plan.checkpoint.subtree_hash == tree.root_hash
        self.views[tree.log_number] = plan.view
        self.trees.append(replace(tree, owed=()))
        if self.answers_lost:
            self.answers_lost -= 1
            raise PeerError(Reason.PEER, "the answer was lost")
        text = Checkpoint(f"log {tree.log_number}", tree.tree_size, tree.root_hash).encode()
        note = Note(text, (NoteSignature("key", bytes(4), b"ca"),)).encode()
        return SignedTree(note, {subtree: (SubtreeSignature(CA_ID.binary, b"ca"),) for subtree, _ in tree.subtrees})
