"""The only sequencer of a log: it plans rounds, decides them in the register, and finishes what is decided."""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace

from mtc.errors import ConflictError, Error, PeerError, Reason, Rejected, StorageError
from mtc.ids import DEFAULT_REVISION, DraftRevision
from mtc.log.formats import LogRecord, StagedRound, staging_prefix
from mtc.log.ledger.service import Ledger
from mtc.log.machine import LogState, PendingEntry, plan_batch, start_log
from mtc.log.owed import KeptRound, OwedRound
from mtc.log.seams import CosignatureSource, SignedTree, TreeSigner, find_contradiction
from mtc.log.service.decided import DecidedRound
from mtc.log.service.known import KnownRequests
from mtc.log.service.limits import RoundLimits
from mtc.log.service.owed import OwedRounds, fetch_owed, late, no_quorum
from mtc.log.service.pool import Appended, Pool, Waiting
from mtc.log.service.published import entries_of, fetch_hash, fetch_state, is_published, storage_refused
from mtc.log.service.writer import RoundWriter
from mtc.merkle import MAX_TREE_SIZE, Hasher, Subtree
from mtc.store import ObjectStore, Register
from mtc.web.clock import ClockGuard

# What holds a round up without being anybody's lie: the entries stay in the pool.
_PASSING = frozenset({Reason.CLOCK, Reason.LOG_FULL})


class IssuanceLog:
    """One issuance log and its only sequencer.

    `submit` waits until the entries' rounds are published; `run_round` does one round. A second sequencer of the same
    log loses the swap, and then this or that one stops: `submit` and `run_round` raise the ConflictError from then on.
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
        revision: DraftRevision,
        cosigners: CosignatureSource | None,
        limits: RoundLimits,
        earlier: Mapping[int, Ledger],
        owed: Sequence[KeptRound],
        given_up: Mapping[int, Sequence[KeptRound]],
    ) -> None:
        """Use `open`."""
        self._hasher = hasher
        self._ledger = ledger
        self._store = store
        self._clock = clock
        self._revision = revision
        self._cosigners = cosigners
        self._limits = limits
        self._pool = Pool()
        number = state.record.log_number
        debts = OwedRounds(store, number, self._pool, owed, clock.steady())
        self._known = KnownRequests(number, ledger, debts, earlier, given_up)
        self._writer = RoundWriter(
            hasher, state, ledger, store, register, signer, clock, cosigners, limits, self._pool, debts
        )
        self._stopped: Error | None = None
        self._turn = asyncio.Lock()
        # Steady seconds of the last time when the cosigners' views were found in order; None before the first.
        self._checked_at: float | None = None

    @staticmethod
    async def open(  # noqa: PLR0913 - the seams of a sequencer
        hasher: Hasher,
        log_number: int,
        store: ObjectStore,
        register: Register,
        signer: TreeSigner,
        clock: ClockGuard,
        *,
        has_counter: bool = False,
        revision: DraftRevision = DEFAULT_REVISION,
        cosigners: CosignatureSource | None = None,
        limits: RoundLimits | None = None,
        earlier: Mapping[int, Ledger] | None = None,
    ) -> "IssuanceLog":
        """Open a log, made if the register does not know it, and finish what a crash left unfinished.

        A new log gets its checkpoint of an empty tree. has_counter: for a new log; an old one keeps what it was made
        with. earlier: ledgers of the logs that this one follows, by number: a request key keeps its entry across logs.
        A quorum that does not come stops nobody from opening: `run_round` tries again. Raises ConflictError when
        storage or a cosigner contradicts the register, or is ahead of it; PeerError when the signer does not answer,
        or no cosigner says what it has seen where one must; StorageError.
        """
        name = f"log-{log_number}"
        data = await register.read(name)
        if data is None:
            state = start_log(hasher, log_number, clock.seconds(), has_counter=has_counter)
            await register.create(name, state.record.encode())
            data = state.record.encode()
        record = LogRecord.parse(data)
        staged = None
        if record.staged_digest:
            key = StagedRound.key_of(log_number, record.tree_size, record.staged_digest)
            (staged,) = await store.fetch([key])
        state, unfinished = await fetch_state(hasher, store, record, staged)
        if not record.staged_digest:
            # A log of which nothing was ever decided: its empty tree is signed.
            unfinished = StagedRound(0, 0, {})
        # What the ledger lacks up to here, nobody can tell any more who asked for it.
        least = record.tree_size if unfinished is None else unfinished.old_size
        ledger = await Ledger.open(store, log_number, record.tree_size, least_size=least)
        kept = await fetch_owed(store, log_number)
        if kept and kept[-1].signed.new_size > record.tree_size:
            raise storage_refused(record, "more of them are signed and owed, so the register is too old")
        # A round that is kept and not recorded is the unfinished one.
        owed = [item for item in kept if item.signed.new_size <= least]
        log = IssuanceLog(
            hasher,
            state,
            ledger,
            store,
            register,
            signer,
            clock,
            revision,
            cosigners,
            limits or RoundLimits(),
            earlier or {},
            owed,
            {number: await fetch_owed(store, number) for number in earlier or {}},
        )
        # The ledger says that the register's tree was published: if it is not there, it is signed and published again.
        if not await is_published(hasher, store, record) and unfinished is None:
            unfinished = StagedRound(record.tree_size, record.tree_size, {})
        if unfinished is not None:
            entries = entries_of(unfinished, log_number)
            log._writer.decided = DecidedRound(record, unfinished, entries, is_kept=len(owed) < len(kept))
        async with log._turn:
            await log._check_cosigners()
            await log._finish_opening()
            await log._collect()
        return log

    async def _finish_opening(self) -> None:
        """Finish what was decided, if the quorum comes at once; otherwise it is tried again later."""
        try:
            await self._writer.finish()
        except PeerError:
            if self._writer.decided is None or self._writer.decided.signed is None:
                raise

    @property
    def record(self) -> LogRecord:
        """The tree that the register holds as far as this sequencer knows."""
        return self._writer.record

    @property
    def ledger(self) -> Ledger:
        """Which request became which entry, and how each round was signed."""
        return self._ledger

    def ledger_of(self, log_number: int) -> Ledger:
        """Return the ledger of this log, or of one that it follows. Raises ConflictError for another one."""
        return self._known.ledger_of(log_number)

    async def find(self, request_keys: Sequence[bytes]) -> dict[bytes, Appended | Error]:
        """Return what may be said of those request keys that have an entry, decided in this log or one before it."""
        places = await self._known.find(request_keys)
        found: dict[bytes, Appended | Error] = {key: self._known.outcome(*place) for key, place in places.items()}
        current = self._writer.decided
        if current is not None:
            missing, indices = current.describe(), current.round_.indices
            found |= {key: late(indices[key], missing) for key in request_keys if key in indices and key not in found}
        return found

    def outcome_of(self, log_number: int, index: int) -> Appended | Error:
        """Return what may be said of a recorded entry: its place, or why no certificate leaves for it."""
        return self._known.outcome(log_number, index)

    @property
    def published(self) -> SignedTree | None:
        """What was published last by this sequencer, with the cosignatures that the policy asks for."""
        return self._writer.published

    @property
    def waiting(self) -> int:
        """How many entries wait for a round."""
        return len(self._pool)

    @property
    def stopped(self) -> Error | None:
        """What stopped the log for good, None while it runs."""
        return self._stopped

    @property
    def owed(self) -> tuple[OwedRound, ...]:
        """The rounds whose tree is signed and whose quorum has not come, of this log and those before; oldest first."""
        current = self._writer.decided
        last = (current.describe(),) if current is not None and current.has_entries and current.why else ()
        return self._known.given_up + self._writer.owed.listing + last

    @property
    def quorum_trouble(self) -> tuple[int, str] | None:
        """Since when (POSIX seconds, of the checkpoint) this log lacks a quorum, and who is missing; None in order."""
        return self._writer.trouble

    async def _check_cosigners(self) -> None:
        """Ask the cosigners what they have seen of this log, and refuse to go on if it is more or something else.

        A disk that was restored from an older copy is consistent with itself; only others remember.
        """
        if self._cosigners is None:
            return
        record = self.record
        views = await self._cosigners.fetch_views(record.log_number)
        if not views and self._limits.needs_view:
            raise PeerError(
                Reason.PEER,
                f"no cosigner says what it has seen of log {record.log_number}; nothing is signed before one does",
                log=record.log_number,
            )
        sizes = {view.tree_size for view in views if view.tree_size <= record.tree_size}
        roots = {size: await self.root_at(size) for size in sizes}
        contradiction = find_contradiction(views, record.tree_size, roots)
        if contradiction is not None:
            raise ConflictError(
                Reason.CONFLICT,
                f"log {record.log_number}: {contradiction}. Nothing is signed; bring the newest storage back, or "
                "follow this log with the next one",
                log=record.log_number,
            )
        self._clock.check_others([view.timestamp for view in views])
        self._checked_at = self._clock.steady()

    async def root_at(self, tree_size: int) -> bytes:
        """Return the root hash that the log had at a size, from tiles proven against the present one."""
        record = self.record
        if tree_size == record.tree_size:
            return record.root_hash
        return await self.hash_of(Subtree(0, tree_size)) if tree_size else self._hasher.empty

    async def hash_of(self, subtree: Subtree) -> bytes:
        """Return the hash of a subtree of the published tree, from tiles proven against its root."""
        decided = self._writer.decided
        staged = None if decided is None else decided.round_.objects
        return await fetch_hash(self._hasher, self._store, self.record, subtree, staged)

    async def _collect(self) -> None:
        """Discard staged rounds that nobody can decide any more, because the log has outgrown them.

        Only those: a round that would make the log larger than it is may be another sequencer's, about to be decided.
        """
        prefix = staging_prefix(self.record.log_number)
        keys = await self._store.list_keys(prefix)
        dead = [key for key in keys if int(key.removeprefix(prefix).partition("-")[0]) < self.record.tree_size]
        if dead:
            await self._store.discard(dead)

    async def append(self, entry: PendingEntry) -> Appended:
        """Put one entry into the pool and wait until its round is published; see `submit`. Raises its error."""
        (place,) = await self.submit([entry])
        if isinstance(place, Error):
            raise place
        return place

    async def submit(self, entries: Sequence[PendingEntry]) -> list[Appended | Error]:
        """Put entries into the pool and wait until all their rounds are published. Returns what became of each.

        That is its place; Rejected (STALE_EVIDENCE) when the validation behind it ended before it could be signed;
        PeerError (NO_QUORUM; facts `log`, `index`) when it is in the log and its quorum has not come for long; Rejected
        (NO_QUORUM) when it is not, because nothing new is taken before that quorum comes; Rejected (ABANDONED) when it
        is in an earlier log that was given up before its quorum came.

        A request key that has an entry already gives that entry, also after a restart. Cancelling the wait does not
        take entries out of the pool. Raises the error that stopped the log; Rejected (BUSY) when the pool is full,
        and then none of the entries is in it.
        """
        if self._stopped is not None:
            raise self._stopped
        if not entries:
            return []
        if self._writer.is_blocked:
            return await self._answer_without_round(entries)
        if len(self._pool) + len(entries) > self._limits.max_pool:
            raise Rejected(
                Reason.BUSY,
                f"{len(self._pool)} entries wait already, at most {self._limits.max_pool} may; come again later",
                waiting=len(self._pool),
            )
        return await asyncio.shield(self._pool.add(entries).done)

    async def _answer_without_round(self, entries: Sequence[PendingEntry]) -> list[Appended | Error]:
        """Say what is known of requests while nothing new is taken."""
        places = await self._known.find([entry.request_key for entry in entries if entry.request_key])
        current = self._writer.decided
        if current is None:
            # It was finished meanwhile.
            return await self.submit(entries)
        if self._stopped is not None:
            raise self._stopped
        missing = current.describe()
        refusal = no_quorum(missing)
        outcomes: list[Appended | Error] = []
        for entry in entries:
            place, index = places.get(entry.request_key), current.round_.indices.get(entry.request_key)
            if place is not None:
                outcomes.append(self._known.outcome(*place))
            elif index is not None:
                outcomes.append(late(index, missing))
            else:
                outcomes.append(refusal)
        return outcomes

    async def run_round(self, *, is_refresh: bool = False) -> SignedTree | None:
        """Do one round with all that waits, or finish the one before. Returns what was signed, None with nothing to do.

        is_refresh: also without entries, so that the checkpoint says a newer time. Raises StorageError or PeerError
        when storage, the signer or the cosigners do not answer, ConflictError (CLOCK) while the time is in doubt or
        (LOG_FULL) when the log has no room: the entries stay, call again. Any other error stops the log.
        """
        async with self._turn:
            if self._stopped is not None:
                raise self._stopped
            try:
                self._writer.owed.tell_late(self._clock.steady(), self._limits.quorum_wait_s)
                signed = await self._advance(is_refresh=is_refresh)
                if signed is None:
                    await self._writer.ask_for_owed()
            except (StorageError, PeerError):
                raise
            except Error as error:
                if error.reason not in _PASSING:
                    self._stop(error)
                raise
            return signed

    async def _advance(self, *, is_refresh: bool) -> SignedTree | None:
        """Finish the unfinished round, or do the next one."""
        signed = await self._writer.finish()
        if signed is not None or not (self._pool or is_refresh) or self.record.is_closed:
            return signed
        if self._checked_at is None or self._clock.steady() - self._checked_at > self._limits.pause_s:
            await self._check_cosigners()
        return await self._sequence(is_refresh=is_refresh)

    async def _sequence(self, *, is_refresh: bool) -> SignedTree | None:
        """Plan, stage and decide a round, and finish it."""
        now = self._clock.seconds()
        await self._answer_known()
        taken = self._take(now)
        if not (taken or is_refresh):
            return None
        try:
            batch = await asyncio.to_thread(
                plan_batch, self._hasher, self._writer.state, [item.entry for item in taken], now, self._revision
            )
            await self._store.put({batch.staged_key: batch.staged})
            await self._writer.decide(batch, taken)
        except BaseException:
            # Not decided: the entries go back to where they were, and another round is planned for them.
            self._pool.put_back(taken)
            raise
        self._checked_at = self._clock.steady()
        return await self._writer.finish()

    async def _answer_known(self) -> None:
        """Answer those in the pool whose request key has an entry since long."""
        known, owed = await self._known.find(self._pool.keys), self._writer.owed
        for item in self._pool.pull(known) if known else ():
            number, index = known[item.entry.request_key]
            if number == self.record.log_number and owed.find(index) is not None:
                owed.join(item, index)
            else:
                self._pool.settle(item, self._known.outcome(number, index))

    def _take(self, now: int) -> list[Waiting]:
        """Take from the pool what fits into one round."""
        most = min(self._limits.max_entries, MAX_TREE_SIZE - self.record.tree_size)
        if self._pool and not most:
            raise ConflictError(
                Reason.LOG_FULL,
                f"log {self.record.log_number} is full; the next one must follow, with mtc ca rollover",
                log=self.record.log_number,
            )
        return self._pool.take(most, self._limits.max_bytes, now)

    def _stop(self, error: Error) -> None:
        """Remember what stopped the log and tell everybody who waits."""
        self._stopped = error
        self._pool.fail([*self._take_in_flight(), *self._writer.owed.waiting], error)

    def _take_in_flight(self) -> list[Waiting]:
        """Return who waits for the unfinished round, which tells them nothing any more."""
        current = self._writer.decided
        if current is None:
            return []
        items, current.items = current.items, []
        return items

    async def close_for_good(self, *, is_abandoned: bool = False) -> None:
        """Close the log: it takes no more entries, ever, and stays served. A decided round is finished first.

        Raises what `run_round` raises, and PeerError (NO_QUORUM) while rounds are owed. Those who wait keep waiting,
        for `hand_over`.

        is_abandoned: leave a decided round unfinished, because it cannot be finished, and owed rounds owed. The key is
        asked whether it has signed the decided one. If so, its entries are issued: the round is kept for good, listed
        in `owed`, and those who wait for it are told Rejected (ABANDONED), as everybody is who asks the next log with
        one of its request keys. If not, nothing was issued, and they go to the next log. Raises PeerError when the
        signer does not answer, ConflictError when another sequencer has moved the log on, StorageError; do it again.
        """
        async with self._turn:
            if is_abandoned:
                await self._writer.keep_signed()
            else:
                await self._writer.finish()
                await self._writer.ask_for_owed(is_urgent=True)
                self._check_nothing_owed()
            await self._writer.change_record(replace(self.record, is_closed=True))
            self._writer.owed.give_up()

    def _check_nothing_owed(self) -> None:
        """Raise PeerError while rounds are owed."""
        owed = self._writer.owed.listing
        if owed:
            raise PeerError(
                Reason.NO_QUORUM,
                f"{len(owed)} rounds of log {self.record.log_number} lack cosignatures: {owed[-1].why}. Wait for them, "
                "or abandon the log, and their entries stay without certificates",
                log=self.record.log_number,
                since=owed[0].signed_at,
            )

    async def set_minimum_index(self, minimum_index: int) -> None:
        """Remember that entries below `minimum_index` are no longer published. It never falls."""
        async with self._turn:
            await self._writer.finish()
            if minimum_index > self.record.minimum_index:
                await self._writer.change_record(replace(self.record, minimum_index=minimum_index))

    def hand_over(self, successor: "IssuanceLog") -> int:
        """Give everybody who still waits to the next log. Returns how many entries."""
        moved = [*self._take_in_flight(), *self._pool.drain()]
        successor.adopt(moved)
        return len(moved)

    def adopt(self, waiting: Sequence[Waiting]) -> None:
        """Take over entries that waited for another log."""
        self._pool.adopt(waiting)

    async def close(self) -> None:
        """Let background work of the ledger end. Nothing is lost without it."""
        await self._ledger.close()
