"""The sequencer: entries come in one by one, and leave in rounds with an index, signed and published.

The order of a round and what a crash means after each step stand in `mtc.log.machine`. Two rules keep it true here: a
round that is decided is finished before another is planned, and finishing is the same function that start-up uses.

Keys in the object store: `public/<N>/…` is served as it is; `private/staging/<N>/…` and `private/ledger/<N>/…` are
not.
"""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mtc.errors import ConflictError, Error, FormatError, PeerError, Reason, Rejected, StorageError
from mtc.ids import DEFAULT_REVISION, DraftRevision
from mtc.log.formats import LogRecord, StagedRound, public_prefix, staging_prefix
from mtc.log.ledger import SignedRound
from mtc.log.ledger.service import Ledger
from mtc.log.machine import Batch, LogState, PendingEntry, plan_batch, plan_recovery, recovery_keys, start_log
from mtc.log.seams import CosignatureSource, CosignerView, SignedTree, TreeSigner, TreeToSign, find_contradiction
from mtc.merkle import MAX_TREE_SIZE, Hasher, Subtree, subtree_hash
from mtc.note import Checkpoint, parse_note
from mtc.store import ObjectStore, Register
from mtc.tiles import TILE_WIDTH, EntryBundle, NodeRecorder, bundles_for_growth, tiles_for_nodes, verify_tiles
from mtc.web.clock import ClockGuard

__all__ = [
    "Appended",
    "CosignatureSource",
    "CosignerView",
    "IssuanceLog",
    "PublishedRound",
    "RoundLimits",
    "SignedTree",
    "TreeSigner",
    "TreeToSign",
]


# What holds a round up without being anybody's lie: the entries stay in the pool.
_PASSING = frozenset({Reason.CLOCK, Reason.LOG_FULL})


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundLimits:
    """Numbers of a sequencer.

    max_entries, max_bytes: of one round, so that a staged round and a request to the signer stay small. max_pool:
    entries that may wait; more are refused until the next round. pause_s: steady seconds without a round after which
    cosigners are asked for their views again. needs_view: refuse to sign when none answers.
    """

    max_entries: int = 50_000
    max_bytes: int = 64 << 20
    max_pool: int = 500_000
    pause_s: float = 600.0
    needs_view: bool = False


@dataclass(frozen=True, slots=True)
class PublishedRound:
    """A round that was just published, with its entries: enough to make certificates without reading them again.

    entries: encoded, the first with index `signed.old_size`.
    """

    log_number: int
    entries: tuple[bytes, ...]
    signed: SignedRound


@dataclass(frozen=True, slots=True)
class Appended:
    """An entry's place, acknowledged: its tree is signed and published.

    round_: the round that published it just now; None when the request key had its entry before.
    """

    log_number: int
    index: int
    round_: PublishedRound | None = None


class _Group:
    """Entries that were handed in together, and who waits for all of them. Owned by the sequencer's event loop."""

    __slots__ = ("done", "left", "places")

    def __init__(self, count: int) -> None:
        self.places: list[Appended | None] = [None] * count
        self.left = count
        self.done: asyncio.Future[list[Appended]] = asyncio.get_running_loop().create_future()

    def acknowledge(self, position: int, place: Appended) -> None:
        """Note one entry's place; wake the waiter after the last one."""
        self.places[position] = place
        self.left -= 1
        if not self.left and not self.done.done():
            self.done.set_result([item for item in self.places if item is not None])

    def fail(self, error: Error) -> None:
        """Tell the waiter that there will be no answer."""
        if not self.done.done():
            self.done.set_exception(error)
            # Whoever cancelled its wait does not ask any more.
            self.done.exception()


class _Waiting:
    """An entry in the pool or in flight, and everybody who asked for it."""

    __slots__ = ("askers", "entry")

    def __init__(self, entry: PendingEntry, group: _Group, position: int) -> None:
        self.entry = entry
        self.askers = [(group, position)]


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
    ) -> None:
        """Use `open`."""
        self._hasher = hasher
        self._state = state
        self._ledger = ledger
        self._store = store
        self._register = register
        self._signer = signer
        self._clock = clock
        self._revision = revision
        self._cosigners = cosigners
        self._limits = limits
        self._earlier = earlier
        self._pool: deque[_Waiting] = deque()
        self._unfinished: StagedRound | None = None
        # The entries of the unfinished round, when this process planned it.
        self._entries: tuple[bytes, ...] | None = None
        self._in_flight: list[_Waiting] = []
        # Everybody in the pool or in flight who has a request key, so that a request that comes twice waits once.
        self._waiting: dict[bytes, _Waiting] = {}
        self._stopped: Error | None = None
        self._turn = asyncio.Lock()
        # Steady seconds of the last time when the cosigners' views were found in order; None before the first.
        self._checked_at: float | None = None
        self._published: SignedTree | None = None

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
        Raises ConflictError when storage or a cosigner contradicts the register, or is ahead of it; PeerError when the
        signer or the cosigners do not answer; StorageError.
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
        keys = recovery_keys(record)
        found = zip(keys, await store.fetch(keys), strict=True)
        state, unfinished = plan_recovery(
            hasher, record, staged, {key: content for key, content in found if content is not None}
        )
        if not record.staged_digest:
            # A log of which nothing was ever decided: its empty tree is signed.
            unfinished = StagedRound(0, 0, {})
        # What the ledger lacks up to here, nobody can tell any more who asked for it.
        least = record.tree_size if unfinished is None else unfinished.old_size
        ledger = await Ledger.open(store, log_number, record.tree_size, least_size=least)
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
        )
        log._unfinished = unfinished
        await log._check_published()
        async with log._turn:
            await log._check_cosigners()
            await log._finish()
            await log._collect()
        return log

    @property
    def record(self) -> LogRecord:
        """The tree that the register holds as far as this sequencer knows."""
        return self._state.record

    @property
    def ledger(self) -> Ledger:
        """Which request became which entry, and how each round was signed."""
        return self._ledger

    def ledger_of(self, log_number: int) -> Ledger:
        """Return the ledger of this log, or of one that it follows. Raises ConflictError for another one."""
        ledger = self._ledger if log_number == self.record.log_number else self._earlier.get(log_number)
        if ledger is None:
            raise ConflictError(Reason.CONFLICT, f"log {log_number} has no ledger here", log=log_number)
        return ledger

    @property
    def published(self) -> SignedTree | None:
        """What was published last by this sequencer, with the cosignatures that the policy asks for."""
        return self._published

    @property
    def waiting(self) -> int:
        """How many entries wait for a round."""
        return len(self._pool)

    @property
    def stopped(self) -> Error | None:
        """What stopped the log for good, None while it runs."""
        return self._stopped

    async def _check_published(self) -> None:
        """Refuse to start when what is published is ahead of the register or contradicts it.

        A checkpoint behind the register is normal while a round is unfinished: it is about to be published. Otherwise a
        sequencer that stood still between its last look at the register and its write has put an older one back, or
        the file is lost. The ledger says that the register's tree was published, so it is signed and published again.
        """
        record = self.record
        (data,) = await self._store.fetch([f"{public_prefix(record.log_number)}checkpoint"])
        if data is None:
            self._publish_again()
            return
        try:
            checkpoint = Checkpoint.parse(parse_note(data).text, self._hasher.size)
        except FormatError as error:
            raise _storage_refused(record, f"the checkpoint cannot be read: {error.message}") from None
        size = checkpoint.tree_size
        if size > record.tree_size:
            raise _storage_refused(record, f"a checkpoint of {size} entries is published, so the register is too old")
        if size == record.tree_size and checkpoint.root_hash != record.root_hash:
            raise _storage_refused(record, "a checkpoint with another root hash is published")
        if size < record.tree_size:
            self._publish_again()

    def _publish_again(self) -> None:
        """Have the register's tree signed and published again, unless a round is unfinished anyway."""
        if self._unfinished is None:
            size = self.record.tree_size
            self._unfinished = StagedRound(size, size, {})

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
        record = self.record
        recorder = NodeRecorder(self._hasher)
        subtree_hash(self._hasher, recorder, subtree)
        tiles = tiles_for_nodes(record.tree_size, recorder.nodes)
        contents = await self._store.fetch([f"{public_prefix(record.log_number)}{tile.path}" for tile in tiles])
        found = {tile: content for tile, content in zip(tiles, contents, strict=True) if content is not None}
        proven = verify_tiles(self._hasher, record.tree_size, record.root_hash, found)
        return subtree_hash(self._hasher, proven, subtree)

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
        """Put one entry into the pool and wait until its round is published; see `submit`."""
        (place,) = await self.submit([entry])
        return place

    async def submit(self, entries: Sequence[PendingEntry]) -> list[Appended]:
        """Put entries into the pool and wait until all their rounds are published. Returns their places, in order.

        A request key that has an entry already gives that entry, also after a restart. Cancelling the wait does not
        take entries out of the pool. Raises the error that stopped the log; Rejected (BUSY) when the pool is full,
        and then none of the entries is in it.
        """
        if self._stopped is not None:
            raise self._stopped
        if not entries:
            return []
        if len(self._pool) + len(entries) > self._limits.max_pool:
            raise Rejected(
                Reason.BUSY,
                f"{len(self._pool)} entries wait already, at most {self._limits.max_pool} may; come again later",
                waiting=len(self._pool),
            )
        group = _Group(len(entries))
        pool, waiting = self._pool, self._waiting
        for position, entry in enumerate(entries):
            key = entry.request_key
            known = waiting.get(key) if key else None
            if known is not None:
                known.askers.append((group, position))
                continue
            item = _Waiting(entry, group, position)
            pool.append(item)
            if key:
                waiting[key] = item
        return await asyncio.shield(group.done)

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
                if self._unfinished is not None:
                    return await self._finish()
                if not (self._pool or is_refresh) or self.record.is_closed:
                    return None
                if self._checked_at is None or self._clock.steady() - self._checked_at > self._limits.pause_s:
                    await self._check_cosigners()
                return await self._sequence(is_refresh=is_refresh)
            except (StorageError, PeerError):
                raise
            except Error as error:
                if error.reason not in _PASSING:
                    self._stop(error)
                raise

    async def _sequence(self, *, is_refresh: bool) -> SignedTree | None:
        """Plan, stage and decide a round, and finish it."""
        now = self._clock.seconds()
        await self._answer_known()
        taken = self._take()
        if not (taken or is_refresh):
            return None
        try:
            batch = await asyncio.to_thread(
                plan_batch, self._hasher, self._state, [item.entry for item in taken], now, self._revision
            )
            await self._store.put({batch.staged_key: batch.staged})
            await self._decide(batch)
        except BaseException:
            # Not decided: the entries go back to where they were, and another round is planned for them.
            self._pool.extendleft(reversed(taken))
            raise
        # The round is decided, and nothing else is planned before it is finished.
        self._in_flight = taken
        self._state = batch.state
        self._unfinished, self._entries = batch.round_, batch.entries
        self._checked_at = self._clock.steady()
        return await self._finish()

    async def _answer_known(self) -> None:
        """Acknowledge those in the pool whose request key has an entry since long."""
        keys = [item.entry.request_key for item in self._pool if item.entry.request_key]
        known: dict[bytes, tuple[int, int]] = {}
        for number, ledger in (*self._earlier.items(), (self.record.log_number, self._ledger)):
            known |= {key: (number, index) for key, index in (await ledger.find(keys)).items() if key not in known}
        if not known:
            return
        rest: deque[_Waiting] = deque()
        for item in self._pool:
            place = known.get(item.entry.request_key)
            if place is None:
                rest.append(item)
                continue
            del self._waiting[item.entry.request_key]
            for group, position in item.askers:
                group.acknowledge(position, Appended(*place))
        self._pool = rest

    def _take(self) -> list[_Waiting]:
        """Take from the pool what fits into one round."""
        taken: list[_Waiting] = []
        size, limits, pool = 0, self._limits, self._pool
        most = min(limits.max_entries, MAX_TREE_SIZE - self.record.tree_size)
        if pool and not most:
            raise ConflictError(
                Reason.LOG_FULL,
                f"log {self.record.log_number} is full; the next one must follow, with mtc ca rollover",
                log=self.record.log_number,
            )
        while pool and len(taken) < most and size < limits.max_bytes:
            item = pool.popleft()
            size += len(item.entry.body)
            taken.append(item)
        return taken

    async def _decide(self, batch: Batch) -> None:
        """Swap the register. When the answer was lost, read what is true."""
        name = f"log-{self.record.log_number}"
        old, new = self._state.record.encode(), batch.state.record.encode()
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

    async def _finish(self) -> SignedTree | None:
        """Publish, sign and acknowledge the decided round; start-up and every round end here. None without one."""
        round_ = self._unfinished
        if round_ is None:
            return None
        record = self._state.record
        entries = self._entries if self._entries is not None else _entries_of(round_, record.log_number)
        tree = TreeToSign(
            record.log_number,
            record.tree_size,
            record.root_hash,
            record.timestamp,
            round_.subtrees,
            round_.old_size,
            entries,
        )
        signed = await self._publish_and_sign(round_, tree)
        if self._cosigners is not None:
            signed = await self._cosigners.cosign(tree, signed)
        await self._check_still_ours()
        await self._store.replace({f"{public_prefix(record.log_number)}checkpoint": signed.checkpoint})
        kept = SignedRound(
            round_.old_size,
            round_.new_size,
            record.root_hash,
            record.timestamp,
            signed.checkpoint,
            round_.indices,
            signed.signatures,
        )
        if round_.new_size > round_.old_size:
            await self._ledger.record(kept)
        if record.staged_digest:
            await self._store.discard([StagedRound.key_of(record.log_number, record.tree_size, record.staged_digest)])
        self._unfinished, self._entries, self._published = None, None, signed
        self._acknowledge(PublishedRound(record.log_number, entries, kept))
        return signed

    async def _publish_and_sign(self, round_: StagedRound, tree: TreeToSign) -> SignedTree:
        """Publish the objects of the tree while it is signed; both are done when this returns."""
        published, signed = await asyncio.gather(
            self._store.put(round_.objects), self._signer.sign_tree(tree), return_exceptions=True
        )
        for result in (signed, published):
            if isinstance(result, BaseException):
                raise result
        assert isinstance(signed, SignedTree)
        return signed

    async def _check_still_ours(self) -> None:
        """Refuse to publish a checkpoint that another sequencer has left behind while this one stood still."""
        if await self._register.read(f"log-{self.record.log_number}") != self.record.encode():
            raise _overtaken(self.record)

    def _acknowledge(self, round_: PublishedRound) -> None:
        """Tell everybody in flight where their entries are."""
        number, waiting = round_.log_number, self._waiting
        for index, item in enumerate(self._in_flight, round_.signed.old_size):
            if item.entry.request_key:
                waiting.pop(item.entry.request_key, None)
            place = Appended(number, index, round_)
            for group, position in item.askers:
                group.acknowledge(position, place)
        self._in_flight = []

    def _stop(self, error: Error) -> None:
        """Remember what stopped the log and tell everybody who waits."""
        self._stopped = error
        for item in (*self._in_flight, *self._pool):
            for group, _ in item.askers:
                group.fail(error)
        self._pool.clear()
        self._in_flight, self._waiting = [], {}

    async def close_for_good(self, *, is_abandoned: bool = False) -> None:
        """Close the log: it takes no more entries, ever, and stays served. A decided round is finished first.

        is_abandoned: leave a decided round unfinished, because it cannot be finished; its entries, which nobody was
        told about, go to the next log. Those who wait keep waiting, for `hand_over`. Raises what `run_round` raises.
        """
        async with self._turn:
            if not is_abandoned:
                await self._finish()
            await self._swap_record(replace(self.record, is_closed=True))

    async def set_minimum_index(self, minimum_index: int) -> None:
        """Remember that entries below `minimum_index` are no longer published. It never falls."""
        async with self._turn:
            await self._finish()
            if minimum_index > self.record.minimum_index:
                await self._swap_record(replace(self.record, minimum_index=minimum_index))

    async def _swap_record(self, record: LogRecord) -> None:
        """Change the record without a round."""
        name = f"log-{record.log_number}"
        try:
            await self._register.swap(name, self.record.encode(), record.encode())
        except StorageError:
            if await self._register.read(name) != record.encode():
                raise
        except ConflictError:
            raise _overtaken(self.record) from None
        self._state = LogState(record, self._state.edge, self._state.bundle)

    def hand_over(self, successor: "IssuanceLog") -> int:
        """Give everybody who still waits to the next log. Returns how many entries."""
        moved = [*self._in_flight, *self._pool]
        self._in_flight, self._waiting = [], {}
        self._pool.clear()
        successor.adopt(moved)
        return len(moved)

    def adopt(self, waiting: Sequence[_Waiting]) -> None:
        """Take over entries that waited for another log."""
        self._pool.extend(waiting)
        self._waiting |= {item.entry.request_key: item for item in waiting if item.entry.request_key}

    async def close(self) -> None:
        """Let background work of the ledger end. Nothing is lost without it."""
        await self._ledger.close()


def _entries_of(round_: StagedRound, log_number: int) -> tuple[bytes, ...]:
    """Return the encoded entries that a staged round appends."""
    places = bundles_for_growth(round_.old_size, round_.new_size)
    entries = [
        entry
        for place in places
        for entry in EntryBundle.parse(round_.objects[f"{public_prefix(log_number)}{place.path}"], place.width).entries
    ]
    return tuple(entries[round_.old_size % TILE_WIDTH :] if places else ())


def _storage_refused(record: LogRecord, what: str) -> ConflictError:
    """Make the error for published objects that do not fit the register."""
    return ConflictError(
        Reason.CONFLICT,
        f"log {record.log_number} has {record.tree_size} entries in its register, but {what}. Nothing is signed; bring "
        "storage and register of the same moment back, or follow this log with the next one",
        log=record.log_number,
        tree_size=record.tree_size,
    )


def _overtaken(record: LogRecord) -> ConflictError:
    """Make the error for a register that somebody else moved."""
    return ConflictError(
        Reason.CONFLICT,
        f"another sequencer moved log {record.log_number} on; this one stops, exactly one may run",
        log=record.log_number,
    )
