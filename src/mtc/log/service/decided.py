"""The round that the register has decided and that is not finished yet, in memory."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from mtc.log.formats import LogRecord, StagedRound
from mtc.log.ledger import SignedRound
from mtc.log.owed import KeptRound, OwedRound
from mtc.log.seams import SignedTree, TreeToSign
from mtc.log.service.pool import Waiting


@dataclass(slots=True)
class DecidedRound:
    """A decided round on its way. Owned by the sequencer.

    record: that decides it. entries: encoded. items: who waits for them, in order; nobody where a crash lies between.
    is_kept: it may be among the owed rounds in storage. signed: once the key has signed it and its objects are
    published, at `since`, steady seconds. why: which cosigners were missing when they were asked last, empty before.
    """

    record: LogRecord
    round_: StagedRound
    entries: tuple[bytes, ...] = ()
    items: list[Waiting] = field(default_factory=list)
    is_kept: bool = False
    signed: SignedTree | None = None
    since: float = 0.0
    why: str = ""

    @property
    def has_entries(self) -> bool:
        """Whether the tree grows; otherwise only its time moves, or it is published again."""
        return self.round_.new_size > self.round_.old_size

    @property
    def places(self) -> Iterable[tuple[int, Waiting]]:
        """Who waits, by index."""
        return enumerate(self.items, self.round_.old_size)

    @property
    def tree(self) -> TreeToSign:
        """The tree that the key signs."""
        record, round_ = self.record, self.round_
        return TreeToSign(
            record.log_number,
            record.tree_size,
            record.root_hash,
            record.timestamp,
            round_.subtrees,
            round_.old_size,
            self.entries,
            # Where nothing is added, the tree was signed before.
            record.evidence_until if self.has_entries else 0,
        )

    def ledger_round(self, signed: SignedTree) -> SignedRound:
        """Return what the ledger keeps of the round, with the signatures of its own subtrees."""
        own = {subtree for subtree, _ in self.round_.subtrees}
        return SignedRound(
            self.round_.old_size,
            self.round_.new_size,
            self.record.root_hash,
            self.record.timestamp,
            signed.checkpoint,
            self.round_.indices,
            {subtree: signatures for subtree, signatures in signed.signatures.items() if subtree in own},
        )

    def keep(self, signed: SignedTree, why: str) -> KeptRound:
        """Return the round as one that is owed; with its request keys, because no ledger may hold them."""
        return KeptRound(self.ledger_round(signed), self.round_.subtrees, why)

    def describe(self) -> OwedRound:
        """Return the round for people."""
        record, round_ = self.record, self.round_
        return OwedRound(record.log_number, round_.old_size, round_.new_size, record.timestamp, self.why)
