"""The sequencer: entries come in one by one, and leave in rounds with an index, signed and published.

The order of a round and what a crash means after each step stand in `mtc.log.machine`. Two rules keep it true here: a
round that is decided is finished before another is planned, and finishing is the same function that start-up uses.

Keys in the object store: `<N>/tile/…` and `<N>/checkpoint` are served as they are; `staging/<N>/…` and `rounds/<N>/…`
are private.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from mtc.cert import SubtreeSignature
from mtc.errors import ConflictError, Error, PeerError, Reason, StorageError
from mtc.ids import DEFAULT_REVISION, DraftRevision
from mtc.log.formats import LogRecord, SignedRound, StagedRound
from mtc.log.machine import Batch, LogState, PendingEntry, plan_batch, plan_recovery, recovery_keys, start_log
from mtc.merkle import Hasher, Subtree
from mtc.store import ObjectStore, Register
from mtc.tiles import TILE_WIDTH, EntryBundle, bundles_for_growth
from mtc.web.clock import ClockGuard


@dataclass(frozen=True, slots=True)
class TreeToSign:
    """Exactly one tree, decided by the register.

    subtrees: those that cover its newest round, with their hashes. start, entries: of that round, encoded.
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
class Appended:
    """An entry's place, acknowledged: its tree is signed and published."""

    log_number: int
    index: int


@dataclass(slots=True)
class _Waiting:
    """An entry in the pool and who waits for it."""

    entry: PendingEntry
    done: asyncio.Future[Appended]


class IssuanceLog:
    """One issuance log and its only sequencer.

    `append` waits until the entry's round is published; `run_round` does one round. A second sequencer of the same log
    loses the swap, and then this or that one stops: `append` and `run_round` raise the ConflictError from then on.
    """

    def __init__(  # noqa: PLR0913 - the seams of a sequencer
        self,
        hasher: Hasher,
        state: LogState,
        store: ObjectStore,
        register: Register,
        signer: TreeSigner,
        clock: ClockGuard,
        revision: DraftRevision,
    ) -> None:
        """Use `open`."""
        self._hasher = hasher
        self._state = state
        self._store = store
        self._register = register
        self._signer = signer
        self._clock = clock
        self._revision = revision
        self._pool: list[_Waiting] = []
        self._known: dict[bytes, int] = {}
        self._rounds: dict[int, SignedRound] = {}
        self._unfinished: StagedRound | None = None
        self._in_flight: list[_Waiting] = []
        # Everybody in the pool or in flight who has a request key, so that a request that comes twice waits once.
        self._waiting: dict[bytes, _Waiting] = {}
        self._stopped: Error | None = None
        self._turn = asyncio.Lock()

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
    ) -> "IssuanceLog":
        """Open a log, made if the register does not know it, and finish what a crash left unfinished.

        has_counter: for a new log; an old one keeps what it was made with. Raises ConflictError when storage
        contradicts the register, StorageError.
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
        log = IssuanceLog(hasher, state, store, register, signer, clock, revision)
        await log._load_rounds()
        log._unfinished = unfinished
        async with log._turn:
            await log._finish()
            await log._collect()
        return log

    @property
    def record(self) -> LogRecord:
        """The tree that the register holds as far as this sequencer knows."""
        return self._state.record

    async def _load_rounds(self) -> None:
        """Read which requests became which entries in earlier rounds, and how those were signed."""
        keys = await self._store.list_keys(f"rounds/{self.record.log_number}/")
        for data in await self._store.fetch(keys):
            if data is not None:
                round_ = SignedRound.parse(data)
                self._known.update(round_.indices)
                self._rounds[round_.new_size] = round_

    def round_of(self, index: int) -> SignedRound | None:
        """Return the signed round that holds entry `index`, None when it is not known (any more, or yet)."""
        sizes = sorted(self._rounds)
        place = bisect_right(sizes, index)
        if place == len(sizes) or self._rounds[sizes[place]].old_size > index:
            return None
        return self._rounds[sizes[place]]

    async def _collect(self) -> None:
        """Discard staged rounds that nobody can decide any more, because the log has outgrown them.

        Only those: a round that would make the log larger than it is may be another sequencer's, about to be decided.
        """
        prefix = f"staging/{self.record.log_number}/"
        keys = await self._store.list_keys(prefix)
        dead = [key for key in keys if int(key.removeprefix(prefix).partition("-")[0]) < self.record.tree_size]
        if dead:
            await self._store.discard(dead)

    async def append(self, entry: PendingEntry) -> Appended:
        """Put an entry into the pool and wait until its round is published.

        A request key that has an entry already gives that entry, also after a restart. Cancelling the wait does not
        take the entry out of the pool. Raises the error that stopped the log.
        """
        if self._stopped is not None:
            raise self._stopped
        if entry.request_key in self._known:
            return Appended(self.record.log_number, self._known[entry.request_key])
        waiting = self._waiting.get(entry.request_key)
        if waiting is None:
            waiting = _Waiting(entry, asyncio.get_running_loop().create_future())
            self._pool.append(waiting)
            if entry.request_key:
                self._waiting[entry.request_key] = waiting
        return await asyncio.shield(waiting.done)

    async def run_round(self) -> SignedTree | None:
        """Do one round with all that waits, or finish the one before. Returns what was signed, None with nothing to do.

        Raises StorageError or PeerError when storage or the signer does not answer: the entries stay, call again. Any
        other error stops the log.
        """
        async with self._turn:
            if self._stopped is not None:
                raise self._stopped
            try:
                if self._unfinished is not None:
                    return await self._finish()
                if not self._pool:
                    return None
                return await self._sequence()
            except (StorageError, PeerError):
                raise
            except Error as error:
                self._stop(error)
                raise

    async def _sequence(self) -> SignedTree | None:
        """Plan, stage and decide a round, and finish it."""
        taken = list(self._pool)
        batch = plan_batch(
            self._hasher, self._state, [item.entry for item in taken], self._clock.seconds(), self._revision
        )
        await self._store.put({batch.staged_key: batch.staged})
        await self._decide(batch)
        # The round is decided: its entries leave the pool, and nothing else is planned before it is finished.
        del self._pool[: len(taken)]
        self._in_flight = taken
        self._state = batch.state
        self._unfinished = StagedRound.parse(batch.staged)
        return await self._finish()

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
        prefix = str(record.log_number)
        await self._store.put(round_.objects)
        signed = await self._signer.sign_tree(
            TreeToSign(
                record.log_number,
                record.tree_size,
                record.root_hash,
                record.timestamp,
                round_.subtrees,
                round_.old_size,
                _entries_of(round_, prefix),
            )
        )
        await self._store.replace({f"{prefix}/checkpoint": signed.checkpoint})
        if round_.new_size > round_.old_size:
            kept = SignedRound(round_.old_size, round_.new_size, round_.indices, signed.signatures)
            await self._store.replace({SignedRound.key_of(record.log_number, round_.new_size): kept.encode()})
            self._rounds[round_.new_size] = kept
        await self._store.discard([StagedRound.key_of(record.log_number, record.tree_size, record.staged_digest)])
        self._unfinished = None
        self._known.update(round_.indices)
        for request in round_.indices:
            self._waiting.pop(request, None)
        for index, waiting in enumerate(self._in_flight, round_.old_size):
            if not waiting.done.done():
                waiting.done.set_result(Appended(record.log_number, index))
        self._in_flight = []
        return signed

    def _stop(self, error: Error) -> None:
        """Remember what stopped the log and tell everybody who waits."""
        self._stopped = error
        for waiting in (*self._in_flight, *self._pool):
            if not waiting.done.done():
                waiting.done.set_exception(error)
                # Whoever cancelled its wait does not ask any more.
                waiting.done.exception()
        self._pool, self._in_flight, self._waiting = [], [], {}


def _entries_of(round_: StagedRound, prefix: str) -> tuple[bytes, ...]:
    """Return the encoded entries that a staged round appends."""
    places = bundles_for_growth(round_.old_size, round_.new_size)
    entries = [
        entry
        for place in places
        for entry in EntryBundle.parse(round_.objects[f"{prefix}/{place.path}"], place.width).entries
    ]
    return tuple(entries[round_.old_size % TILE_WIDTH :] if places else ())


def _overtaken(record: LogRecord) -> ConflictError:
    """Make the error for a register that somebody else moved."""
    return ConflictError(
        Reason.CONFLICT,
        f"another sequencer moved log {record.log_number} on; this one stops, exactly one may run",
        log=record.log_number,
    )
