"""Moves a log's register, and finishes what it decides: signs, publishes, has it cosigned, records, undoes."""

import asyncio
from dataclasses import replace

from mtc.errors import ConflictError, PeerError, Reason, Rejected, StorageError
from mtc.log.formats import LogRecord, StagedRound, public_prefix
from mtc.log.ledger.service import Ledger
from mtc.log.machine import Batch, LogState
from mtc.log.owed import KeptRound
from mtc.log.seams import CosignatureSource, NoQuorumError, SignedTree, TreeSigner, TreeToSign
from mtc.log.service.abandoning import GIVEN_UP, fetch_if_signed
from mtc.log.service.decided import DecidedRound
from mtc.log.service.limits import RoundLimits
from mtc.log.service.owed import OwedRounds, abandoned, late, no_quorum
from mtc.log.service.pool import Appended, Pool, PublishedRound, Waiting, stale_evidence
from mtc.log.service.published import check_never_signed, fetch_state, storage_refused
from mtc.merkle import Hasher
from mtc.store import ObjectStore, Register
from mtc.web.clock import ClockGuard


class RoundWriter:
    """The one that writes a log: one decided round at a time. Owned by its sequencer; calls never overlap.

    state: the log as the register holds it. decided: the round that is decided and not finished, None without one.
    owed: rounds that are finished without their quorum. published: what was published last by this process. pool: who
    waits; the writer tells those whose round it finishes.
    """

    def __init__(  # noqa: PLR0913 - the seams of a sequencer
        self,
        hasher: Hasher,
        state: LogState,
        ledger: Ledger,
        store: ObjectStore,
        register: Register,
        signer: TreeSigner,
        clock: ClockGuard,
        cosigners: CosignatureSource | None,
        limits: RoundLimits,
        pool: Pool,
        owed: OwedRounds,
    ) -> None:
        """Take the log as it was recovered."""
        self.state = state
        self.decided: DecidedRound | None = None
        self.owed = owed
        self.published: SignedTree | None = None
        self._hasher = hasher
        self._ledger = ledger
        self._store = store
        self._register = register
        self._signer = signer
        self._clock = clock
        self._cosigners = cosigners
        self._limits = limits
        self._pool = pool
        # Steady seconds before which cosigners are not asked for owed rounds alone.
        self._retry_at = 0.0
        # Since when, POSIX seconds, no answer of the cosigners was the quorum, and the last one's text.
        self._trouble: tuple[int, str] | None = None

    @property
    def record(self) -> LogRecord:
        """The record that the register holds as far as this writer knows."""
        return self.state.record

    @property
    def trouble(self) -> tuple[int, str] | None:
        """Since when (POSIX seconds, of the checkpoint) a quorum is missing, and who; None in order."""
        owed = self.owed.listing
        if not owed:
            return self._trouble
        return owed[0].signed_at, owed[-1].why if self._trouble is None else self._trouble[1]

    @property
    def is_blocked(self) -> bool:
        """Tell whether the unfinished round has waited for its quorum for so long that nothing new is taken."""
        current = self.decided
        if current is None or not current.why:
            return False
        return self._clock.steady() - current.since > self._limits.quorum_wait_s

    async def decide(self, batch: Batch, items: list[Waiting]) -> None:
        """Swap the register, for a batch that is staged. Raises ConflictError when somebody else was faster.

        StorageError: it is not decided. items: who waits for the batch's entries, in order.
        """
        await self._swap_to(batch.state.record)
        # Nothing else is planned before this round is finished.
        self.state = batch.state
        self.decided = DecidedRound(batch.state.record, batch.round_, batch.entries, items)

    async def _swap_to(self, record: LogRecord) -> None:
        """Swap the register from the present record to another one. When the answer was lost, read what is true."""
        name = f"log-{self.record.log_number}"
        old, new = self.record.encode(), record.encode()
        try:
            await self._register.swap(name, old, new)
        except StorageError:
            current = await self._register.read(name)
            if current == new:
                return
            if current != old:
                raise _overtaken(self.record) from None
            raise
        except ConflictError:
            raise _overtaken(self.record) from None

    async def finish(self) -> SignedTree | None:
        """Publish, sign and acknowledge the decided round; start-up and every round end here.

        None without one, and when it was undone because its evidence was out of date.
        """
        current = self.decided
        if current is None:
            return None
        if current.signed is None:
            try:
                current.signed = await self._publish_and_sign(current.round_, current.tree)
            except Rejected as refusal:
                if refusal.reason is not Reason.STALE_EVIDENCE or not current.tree.evidence_until:
                    raise
                await self._undo(current)
                return None
            current.since = self._clock.steady()
        signed, is_complete = await self._cosign(current, current.signed)
        await self._conclude(current, signed, is_owed=current.has_entries and not is_complete)
        if not is_complete:
            # What came for the round itself is not enough, and must not pass for the answer that completes it.
            own = {subtree for subtree, _ in current.round_.subtrees}
            others = {subtree: value for subtree, value in signed.signatures.items() if subtree not in own}
            await self._complete_owed(replace(signed, signatures=others))
            return signed
        await self._complete_owed(signed)
        return signed

    async def _publish_and_sign(self, round_: StagedRound, tree: TreeToSign) -> SignedTree:
        """Publish the objects of the tree while it is signed; both are done when this returns.

        A tree that the key may refuse, because its evidence has ended, is signed before anything of it is published.
        """
        if tree.evidence_until:
            refusable = await self._signer.sign_tree(tree)
            await self._store.put(round_.objects)
            return refusable
        published, signed = await asyncio.gather(
            self._store.put(round_.objects), self._signer.sign_tree(tree), return_exceptions=True
        )
        for result in (signed, published):
            if isinstance(result, BaseException):
                raise result
        assert isinstance(signed, SignedTree)
        return signed

    async def _undo(self, current: DecidedRound) -> None:
        """Go back to the record before a round whose tree the key has never signed, and never will.

        Nothing of it was published. Those whose evidence ended are told; the others go back to the pool.
        """
        record = self.record
        before = LogRecord.parse(record.before)
        await check_never_signed(self._hasher, self._store, before, current.round_)
        state, _ = await fetch_state(self._hasher, self._store, before, None)
        name = f"log-{record.log_number}"
        try:
            await self._register.swap(name, record.encode(), before.encode())
        except (StorageError, ConflictError) as error:
            present = await self._register.read(name)
            if present == record.encode():
                raise
            # Another attempt has gone back already, of this sequencer or of another one; the next swap decides.
            if present != before.encode():
                raise _overtaken(record) from error
        self.state, self.decided = state, None
        fresh = []
        for item in current.items:
            # By the end of the round's evidence and not by our clock, which may be behind the key's.
            if 0 < item.entry.evidence_until <= record.evidence_until:
                self._pool.settle(item, stale_evidence(item.entry))
            else:
                fresh.append(item)
        self._pool.put_back(fresh)
        await self._store.discard([StagedRound.key_of(record.log_number, record.tree_size, record.staged_digest)])

    async def _cosign(self, current: DecidedRound, signed: SignedTree) -> tuple[SignedTree, bool]:
        """Ask the cosigners. Returns the tree with what they gave, and whether that is the quorum.

        Raises PeerError when it is not and this log may not run ahead.
        """
        if self._cosigners is None:
            return signed, True
        try:
            answer = await self._cosigners.cosign(replace(current.tree, owed=self.owed.subtrees), signed)
        except PeerError as error:
            current.why = error.message
            missing = error
        else:
            self._trouble = None
            return answer, True
        self._note_missing(missing.message)
        partial = missing.signed if isinstance(missing, NoQuorumError) else None
        limits = self._limits
        if limits.may_run_ahead and (not current.has_entries or len(self.owed) < limits.max_owed_rounds):
            return partial or signed, False
        self._tell_blocked(current)
        if partial is not None:
            await self._complete_owed(partial)
        raise missing

    async def _conclude(self, current: DecidedRound, signed: SignedTree, *, is_owed: bool) -> None:
        """Publish and record the round with the signatures that there are. is_owed: they are not the quorum."""
        record, round_ = current.record, current.round_
        made = current.ledger_round(signed)
        # The ledger holds the request keys.
        kept = KeptRound(replace(made, indices={}), round_.subtrees, current.why)
        if is_owed:
            # Said first: the object may be there although keeping it fails.
            current.is_kept = True
            await self.owed.keep(kept)
        await self._publish(signed.checkpoint)
        if current.has_entries:
            await self._ledger.record(made)
        litter = []
        if record.staged_digest:
            litter.append(StagedRound.key_of(record.log_number, record.tree_size, record.staged_digest))
        if current.is_kept and not is_owed:
            litter.append(KeptRound.key_of(record.log_number, round_.new_size))
        if litter:
            await self._store.discard(litter)
        self.decided, self.published = None, signed
        published = PublishedRound(record.log_number, current.entries, made)
        if is_owed:
            self.owed.add(kept, published, current.items, current.since)
        else:
            self._pool.acknowledge(current.places, published)

    def _note_missing(self, why: str) -> None:
        """Remember who is missing, and do not ask for owed rounds alone for a while."""
        self.owed.note(why)
        self._trouble = (self.record.timestamp if self._trouble is None else self._trouble[0]), why
        self._retry_at = self._clock.steady() + self._limits.owed_retry_s

    def _tell_blocked(self, current: DecidedRound) -> None:
        """Tell everybody who has waited too long for the quorum: where the entry is, or that it is not in the log."""
        if not self.is_blocked:
            return
        missing = current.describe()
        for index, item in current.places:
            item.tell(late(index, missing))
        self._pool.refuse(no_quorum(missing))

    async def ask_for_owed(self, *, is_urgent: bool = False) -> None:
        """Ask the cosigners for owed rounds while there is nothing else to ask them. is_urgent: without a pause."""
        if self._cosigners is None or not self.owed or self.decided is not None:
            return
        if self.record.is_closed or (self._clock.steady() < self._retry_at and not is_urgent):
            return
        signed = await self._fetch_published()
        record = self.record
        size = record.tree_size
        tree = TreeToSign(record.log_number, size, record.root_hash, record.timestamp, (), size)
        try:
            answer = await self._cosigners.cosign(replace(tree, owed=self.owed.subtrees), signed)
        except PeerError as error:
            self._note_missing(error.message)
            answer = error.signed if isinstance(error, NoQuorumError) and error.signed is not None else signed
        else:
            self._trouble, self._retry_at = None, self._clock.steady() + self._limits.owed_retry_s
        if answer.checkpoint != signed.checkpoint:
            await self._publish(answer.checkpoint)
            self.published = answer
        else:
            await self._check_ours()
        await self._complete_owed(answer)

    async def _fetch_published(self) -> SignedTree:
        """Return the published checkpoint, without subtrees."""
        if self.published is not None:
            return replace(self.published, signatures={})
        record = self.record
        (data,) = await self._store.fetch([f"{public_prefix(record.log_number)}checkpoint"])
        if data is None:
            raise storage_refused(record, "its checkpoint is missing")
        return SignedTree(data, {})

    async def _complete_owed(self, answer: SignedTree) -> None:
        """Complete the owed rounds that an answer completes."""
        if self.owed:
            await self.owed.complete(self._ledger, answer.signatures)

    async def _publish(self, checkpoint: bytes) -> None:
        """Publish a checkpoint, unless another sequencer has left it behind while this one stood still."""
        await self._check_ours()
        await self._store.replace({f"{public_prefix(self.record.log_number)}checkpoint": checkpoint})

    async def _check_ours(self) -> None:
        """Raise ConflictError when another sequencer has moved the log on."""
        if await self._register.read(f"log-{self.record.log_number}") != self.record.encode():
            raise _overtaken(self.record)

    async def keep_signed(self) -> None:
        """Keep the decided round for good if the key has signed it, and tell those who wait for it."""
        current, number = self.decided, self.record.log_number
        if current is None or not current.has_entries:
            return
        is_recorded = self._ledger.tree_size >= current.round_.new_size
        if not is_recorded:
            # Not kept in `current`, whose objects are perhaps not published.
            signed = current.signed or await fetch_if_signed(self._signer, current.tree)
            if signed is None:
                return
            current.is_kept = True
            await self.owed.keep(current.keep(signed, current.why or GIVEN_UP))
        for index, item in current.places:
            # A round that is recorded, and not kept as owed, has its quorum.
            is_complete = is_recorded and not current.is_kept
            self._pool.settle(item, Appended(number, index) if is_complete else abandoned(number, index))
        current.items = []

    async def change_record(self, record: LogRecord) -> None:
        """Change the record without a round."""
        await self._swap_to(record)
        self.state = replace(self.state, record=record)


def _overtaken(record: LogRecord) -> ConflictError:
    """Make the error for a register that somebody else moved."""
    return ConflictError(
        Reason.CONFLICT,
        f"another sequencer moved log {record.log_number} on; this one stops, exactly one may run",
        log=record.log_number,
    )
