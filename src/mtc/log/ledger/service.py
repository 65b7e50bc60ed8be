"""The ledger of one log over an object store. What it stores, and in which order, stands in `mtc.log.ledger`."""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mtc.errors import ConflictError, Error, FormatError, Reason, StorageError, UsageError
from mtc.kernel import FINGERPRINT_BYTES, RECORD_BYTES, Kernel, KeyFilter, active_kernel
from mtc.log.ledger.formats import MAX_ROUND_KEYS, SignedRound, ledger_prefix, open_object, protect
from mtc.log.ledger.machine import (
    LedgerLimits,
    Step,
    after_merge,
    bucket_of,
    hole,
    indices_of,
    merge_records,
    merged_run,
    order_rounds,
    plan_merge,
    plan_prune,
    plan_seal,
    slice_bucket,
)
from mtc.log.ledger.memory import ObjectCache, Segment, renewed
from mtc.log.ledger.pages import KeyTable, Manifest, Page, Run, manifest_key, manifest_prefix, page_key, table_key
from mtc.store import ObjectStore

_MANY_KEYS = 1024
"""So many keys are looked up in a thread, so that the event loop goes on."""
_FETCHED_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class _View:
    """What is sealed, at one moment. filters: of all runs, the newest first."""

    manifest: Manifest
    filters: tuple[tuple[Run, KeyFilter], ...] = ()

    def after(self, step: Step) -> "_View":
        """Return the view once the step is done."""
        known = dict(self.filters) | dict(step.filters)
        return _View(step.manifest, tuple((run, known[run]) for run in reversed(step.manifest.runs)))


class _MissingError(Exception):
    """A sealed object is not there: it was merged or pruned meanwhile, or lost."""


class Ledger:
    """Which request became which entry, and how each round was signed. Use `open`.

    One writer per log: `record`, `replace_rounds` and `prune` are its sequencer's. Reading may overlap with everything.
    In memory stay the rounds that are not sealed, 23 bits for each sealed key, and a few objects read lately.
    """

    def __init__(self, store: ObjectStore, log_number: int, limits: LedgerLimits, kernel: Kernel) -> None:
        """Use `open`."""
        self._store = store
        self._log_number = log_number
        self._limits = limits
        self._kernel = kernel
        self._view = _View(Manifest())
        # Rounds that are not sealed, oldest first; only the last segment takes more.
        self._segments: deque[Segment] = deque()
        self._cache = ObjectCache(limits.cached_bytes)
        # One step of sealing, pruning or replacing at a time.
        self._turn = asyncio.Lock()
        # A step whose manifest may be stored, because the answer was lost.
        self._doubtful: Step | None = None
        # Keys of objects that are no longer needed.
        self._litter: list[str] = []
        self._task: asyncio.Task[None] | None = None
        self._stopped: Error | None = None

    @staticmethod
    async def open(
        store: ObjectStore,
        log_number: int,
        tree_size: int,
        *,
        limits: LedgerLimits | None = None,
        kernel: Kernel | None = None,
    ) -> "Ledger":
        """Read the ledger of a log of `tree_size` entries; writes nothing.

        Reads the manifest, the filters, and the rounds that are not sealed. Raises FormatError (DAMAGED, …) that names
        the object; ConflictError when rounds are missing between others, or lead beyond `tree_size`; StorageError.
        """
        ledger = Ledger(store, log_number, limits or LedgerLimits(), kernel or active_kernel())
        await ledger._open_manifest()
        await ledger._open_rounds(tree_size)
        return ledger

    @staticmethod
    async def create(store: ObjectStore, log_number: int, start: int) -> None:
        """Make the ledger of a log whose first entries it need not know. A ledger from entry 0 on needs no making."""
        key = manifest_key(log_number, 1)
        await store.put({key: protect(key, Manifest(1, start, keys_from=start, dead_from=start).encode())})

    @property
    def tree_size(self) -> int:
        """How many entries the rounds lead to that were recorded."""
        return self._segments[-1].end if self._segments else self._view.manifest.end

    @property
    def manifest(self) -> Manifest:
        """What is sealed."""
        return self._view.manifest

    # Opening.

    async def _open_manifest(self) -> None:
        """Read the newest manifest, and the filters of its runs."""
        number = self._log_number
        keys = await self._store.list_keys(manifest_prefix(number))
        if not keys:
            return
        self._litter += keys[:-1]
        manifest = Manifest.parse(await self._read(keys[-1]))
        if manifest_key(number, manifest.generation) != keys[-1]:
            raise FormatError(Reason.DAMAGED, f"{keys[-1]} holds another manifest", key=keys[-1])
        filters: list[tuple[Run, KeyFilter]] = []
        for run in reversed(manifest.runs):
            key = run.filter_key(number)
            filters.append((run, self._kernel.parse_key_filter(await self._read(key))))
        self._view = _View(manifest, tuple(filters))
        self._litter += _dead_keys(number, manifest)

    async def _open_rounds(self, tree_size: int) -> None:
        """Read the rounds that are not sealed."""
        number, end = self._log_number, self._view.manifest.end
        keys = await self._store.list_keys(f"{ledger_prefix(number)}round/")
        sealed = SignedRound.key_of(number, end)
        self._litter += [key for key in keys if key <= sealed]
        fresh = [key for key in keys if key > sealed]
        rounds = []
        for at in range(0, len(fresh), _FETCHED_AT_ONCE):
            chosen = fresh[at : at + _FETCHED_AT_ONCE]
            for key, data in zip(chosen, await self._store.fetch(chosen), strict=True):
                if data is None:
                    continue
                round_ = SignedRound.parse(open_object(key, data))
                if SignedRound.key_of(number, round_.new_size) != key:
                    raise FormatError(Reason.DAMAGED, f"{key} holds another round", key=key)
                rounds.append(round_)
        for round_ in order_rounds(number, end, tree_size, rounds):
            self._append(round_)

    async def _read(self, key: str) -> bytes:
        """Read one object that must be there."""
        (data,) = await self._store.fetch([key])
        if data is None:
            raise _lost(key)
        return open_object(key, data)

    # Rounds.

    def _append(self, round_: SignedRound) -> None:
        """Take a recorded round into memory."""
        if self._segments and not self._segments[-1].is_full(self._limits):
            self._segments[-1].append(round_)
        else:
            self._segments.append(Segment(round_))

    async def record(self, round_: SignedRound) -> None:
        """Keep a round, durable on return; sealing may go on in the background.

        The round follows the last one, or is one that is known already, which then is replaced. Raises ConflictError
        when rounds are missing before it, or when another writer has taken over this ledger; StorageError.
        """
        self._check_running()
        if round_.new_size <= self.tree_size:
            await self.replace_rounds([round_])
            return
        if round_.old_size != self.tree_size:
            raise hole(self._log_number, self.tree_size, round_.old_size)
        if round_.new_size - round_.old_size > MAX_ROUND_KEYS:
            raise UsageError(Reason.TOO_LARGE, f"a round that is recorded has at most {MAX_ROUND_KEYS} entries")
        if len(self._segments) > self._limits.backlog:
            await self.settle()
        key = SignedRound.key_of(self._log_number, round_.new_size)
        await self._store.replace({key: protect(key, round_.encode())})
        self._append(round_)
        if (self._task is None or self._task.done()) and self._next_segment() is not None:
            self._task = asyncio.create_task(self._work_quietly())

    async def replace_rounds(self, rounds: Sequence[SignedRound]) -> None:
        """Keep rounds that are known already with other signatures or a newer checkpoint; request keys stay.

        Durable on return. Raises ConflictError for a round that is not known, or known with another tree.
        """
        async with self._turn:
            await self._resolve()
            pages: defaultdict[tuple[int, int], list[SignedRound]] = defaultdict(list)
            for round_ in rounds:
                page = self._view.manifest.page_of(round_.new_size - 1)
                segment = self._segment_of(round_.new_size - 1)
                if page is not None:
                    pages[page].append(round_)
                elif segment is not None:
                    fresh = segment.renew(round_)
                    key = SignedRound.key_of(self._log_number, fresh.new_size)
                    await self._store.replace({key: protect(key, fresh.encode())})
                    segment.substitute(fresh)
                else:
                    raise ConflictError(Reason.CONFLICT, f"no round leads to {round_.new_size} entries")
            for page, changed in pages.items():
                await self._replace_in_page(page, changed)

    async def _replace_in_page(self, page: tuple[int, int], changed: Sequence[SignedRound]) -> None:
        """Write a page again with some of its rounds renewed."""
        key = page_key(self._log_number, *page)
        by_size = {round_.new_size: round_ for round_ in Page.parse(await self._read(key)).rounds()}
        for round_ in changed:
            known = by_size.get(round_.new_size)
            if known is None:
                raise ConflictError(Reason.CONFLICT, f"no round leads to {round_.new_size} entries")
            by_size[round_.new_size] = renewed(known, round_)
        body = await asyncio.to_thread(Page.encode, list(by_size.values()))
        await self._store.replace({key: protect(key, body)})
        self._cache.drop(key)

    def _segment_of(self, index: int) -> Segment | None:
        """Return the segment that holds entry `index`."""
        return next((segment for segment in self._segments if segment.start <= index < segment.end), None)

    async def round_of(self, index: int, *, has_keys: bool = False) -> SignedRound | None:
        """Return the signed round that holds entry `index`, None when it is not known.

        has_keys: also with the request keys of a sealed round, which costs another object; pruned ones stay away.
        """
        segment = self._segment_of(index)
        if segment is not None:
            return segment.round_of(index)
        span = self._view.manifest.page_of(index)
        if span is None:
            return None
        round_ = (await self._page(span)).round_of(index)
        if round_ is None or round_.old_size > index:
            raise _lost(page_key(self._log_number, *span))
        if not has_keys:
            return round_
        table = await self._table(span)
        return round_ if table is None else _with_keys(round_, table)

    async def rounds(self, start: int, end: int, *, has_keys: bool = False) -> AsyncIterator[SignedRound]:
        """Yield the rounds that lead to sizes above `start` and up to `end`, in order.

        has_keys: see `round_of`. Sealing may go on meanwhile.
        """
        at = max(start, self._view.manifest.start)
        while at < min(end, self.tree_size):
            segment = self._segment_of(at)
            if segment is not None:
                rounds = list(segment.rounds)
            else:
                span = self._view.manifest.page_of(at)
                assert span is not None, "segments begin where pages end"
                rounds = (await self._page(span)).rounds()
                table = await self._table(span) if has_keys else None
                if table is not None:
                    rounds = [_with_keys(round_, table) for round_ in rounds]
            for round_ in rounds:
                if start < round_.new_size <= end:
                    yield round_
            at = rounds[-1].new_size

    async def _page(self, span: tuple[int, int]) -> Page:
        """Return a page."""
        key = page_key(self._log_number, *span)
        found = self._cache.find(key)
        if not isinstance(found, Page):
            data = await self._read(key)
            found = Page.parse(data)
            self._cache.keep(key, found, len(data))
        return found

    async def _table(self, span: tuple[int, int]) -> KeyTable | None:
        """Return the keys of a page, None when they are pruned."""
        key = table_key(self._log_number, *span)
        found = self._cache.find(key)
        if not isinstance(found, KeyTable):
            (data,) = await self._store.fetch([key])
            if data is None or span[0] < self._view.manifest.keys_from:
                if span[0] < self._view.manifest.keys_from:
                    return None
                raise _lost(key)
            body = open_object(key, data)
            found = KeyTable.parse(body)
            self._cache.keep(key, found, len(body))
        return found

    # Request keys.

    async def find(self, keys: Sequence[bytes]) -> dict[bytes, int]:
        """Return the entry indices of those request keys that have an entry. Keys of pruned entries are forgotten."""
        found: dict[bytes, int] = {}
        fresh = [key for key in keys if key]
        for segment in self._segments:
            indices = segment.indices
            hits = [key for key in fresh if key in indices]
            if hits:
                found |= {key: indices[key] for key in hits}
                fresh = [key for key in fresh if key not in indices]
        while fresh and self._view.filters:
            view = self._view
            try:
                return found | await self._find_sealed(view, fresh)
            except _MissingError as missing:
                # A run that was merged while we looked: what it knew is in the new view.
                if view is self._view:
                    raise _lost(str(missing)) from None
        return found

    async def _find_sealed(self, view: _View, keys: Sequence[bytes]) -> dict[bytes, int]:
        """Look keys up in the runs, and confirm each hit with the whole key."""
        if len(keys) < _MANY_KEYS:
            maybe = _ask_filters(self._kernel, view, keys)
        else:
            maybe = await asyncio.to_thread(_ask_filters, self._kernel, view, keys)
        wanted: defaultdict[tuple[int, int], list[tuple[bytes, int]]] = defaultdict(list)
        for run, hits in maybe:
            buckets: defaultdict[int, list[tuple[bytes, bytes]]] = defaultdict(list)
            for key, fingerprint in hits:
                buckets[bucket_of(fingerprint, run.bucket_bits)].append((key, fingerprint))
            for bucket, members in buckets.items():
                records = await self._bucket(run, bucket)
                for key, fingerprint in members:
                    for index in indices_of(records, fingerprint):
                        span = view.manifest.page_of(index)
                        if span is not None and index >= view.manifest.keys_from:
                            wanted[span].append((key, index))
        found: dict[bytes, int] = {}
        for span, candidates in wanted.items():
            table = await self._table(span)
            if table is None:
                continue
            found |= {key: index for key, index in candidates if table.key_at(index) == key}
        return found

    async def _bucket(self, run: Run, bucket: int) -> bytes:
        """Return the records of a bucket."""
        key = run.bucket_key(self._log_number, bucket)
        found = self._cache.find(key)
        if not isinstance(found, bytes):
            (data,) = await self._store.fetch([key])
            if data is None:
                raise _MissingError(key)
            found = open_object(key, data)
            if len(found) % RECORD_BYTES:
                raise FormatError(Reason.BAD_LENGTH, f"{key} does not hold whole records", key=key)
            self._cache.keep(key, found, len(found))
        return found

    # Sealing.

    async def settle(self) -> None:
        """Wait until all that can be sealed and merged is, and nothing is left to discard."""
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task])
        self._check_running()
        await self._work()

    async def close(self) -> None:
        """Let work in the background end. Nothing is lost without it."""
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    async def prune(self, below: int) -> None:
        """Forget the request keys of all whole pages that end at or below an index. Rounds and checkpoints stay."""
        async with self._turn:
            await self._resolve()
            await self._discard_litter()
            manifest = plan_prune(self._view.manifest, below)
            if manifest is not None:
                await self._publish(Step(manifest, {}, {}))
                await self._discard_litter()

    def _check_running(self) -> None:
        """Raise what stopped the ledger for good."""
        if self._stopped is not None:
            raise self._stopped

    async def _work_quietly(self) -> None:
        """Seal and merge in the background. Storage that fails is tried again after the next round."""
        try:
            await self._work()
        except StorageError:
            return
        except Error as error:
            self._stopped = error

    async def _work(self) -> None:
        """Seal and merge while there is something to do."""
        while True:
            async with self._turn:
                await self._resolve()
                await self._discard_litter()
                segment = self._next_segment()
                sources = plan_merge(self._view.manifest, self._limits)
                if segment is not None:
                    await self._seal(segment)
                elif sources:
                    await self._merge(sources)
                else:
                    return

    def _next_segment(self) -> Segment | None:
        """Return the oldest segment if it is full."""
        first = self._segments[0] if self._segments else None
        return first if first is not None and first.is_full(self._limits) else None

    async def _seal(self, segment: Segment) -> None:
        """Pack a segment into a page."""
        step = await asyncio.to_thread(
            plan_seal, self._kernel, self._limits, self._log_number, self._view.manifest, tuple(segment.rounds)
        )
        await self._publish(step)

    async def _merge(self, sources: Sequence[Run]) -> None:
        """Merge runs, bucket by bucket, so that only one bucket of each is in memory."""
        number, kernel, manifest = self._log_number, self._kernel, self._view.manifest
        merged = merged_run(sources, self._limits)
        keys_from = manifest.keys_from if sources[0].start < manifest.keys_from else 0
        key_filter = kernel.key_filter(merged.count)
        loaded: dict[Run, tuple[int, bytes]] = {}
        count = 0
        for bucket in range(1 << merged.bucket_bits):
            rows = []
            for run in sources:
                theirs = bucket >> (merged.bucket_bits - run.bucket_bits)
                if run not in loaded or loaded[run][0] != theirs:
                    loaded[run] = theirs, await self._read(run.bucket_key(number, theirs))
                rows.append(slice_bucket(loaded[run][1], bucket, merged.bucket_bits))
            row = await asyncio.to_thread(merge_records, kernel, rows, keys_from)
            await asyncio.to_thread(key_filter.add_many, row)
            count += len(row) // RECORD_BYTES
            key = merged.bucket_key(number, bucket)
            await self._store.replace({key: protect(key, row)})
        merged = replace(merged, count=count)
        filters = {merged: key_filter} if count else {}
        objects = {merged.filter_key(number): key_filter.encode()}
        await self._publish(Step(after_merge(manifest, sources, merged), objects, filters))

    async def _publish(self, step: Step) -> None:
        """Store what a step needs, then its manifest; from then on it is done."""
        if step.objects:
            objects = step.objects
            await self._store.replace(
                await asyncio.to_thread(lambda: {key: protect(key, body) for key, body in objects.items()})
            )
        key = manifest_key(self._log_number, step.manifest.generation)
        self._doubtful = step
        try:
            await self._store.put({key: protect(key, step.manifest.encode())})
        except ConflictError:
            raise self._overtaken() from None
        self._apply(step)

    async def _resolve(self) -> None:
        """Find out whether a step whose answer was lost is done."""
        step = self._doubtful
        if step is None:
            return
        key = manifest_key(self._log_number, step.manifest.generation)
        (data,) = await self._store.fetch([key])
        if data is None:
            self._doubtful = None
        elif data == protect(key, step.manifest.encode()):
            self._apply(step)
        else:
            raise self._overtaken()

    def _apply(self, step: Step) -> None:
        """Go over to what a step made; readers see the one or the other."""
        number, before = self._log_number, self._view.manifest
        self._view = self._view.after(step)
        self._doubtful = None
        while self._segments and self._segments[0].start < step.manifest.end:
            self._litter += [SignedRound.key_of(number, item.new_size) for item in self._segments.popleft().rounds]
        if before.generation:
            self._litter.append(manifest_key(number, before.generation))
        self._litter += _dead_keys(number, step.manifest)

    async def _discard_litter(self) -> None:
        """Discard what is no longer needed, unless another writer has gone on: then it is his to decide."""
        if not self._litter:
            return
        newest = manifest_key(self._log_number, self._view.manifest.generation)
        if max(await self._store.list_keys(manifest_prefix(self._log_number)), default="") > newest:
            raise self._overtaken()
        litter = self._litter
        await self._store.discard(litter)
        self._litter = self._litter[len(litter) :]

    def _overtaken(self) -> ConflictError:
        """Make and keep the error for a ledger that somebody else writes."""
        error = ConflictError(
            Reason.CONFLICT,
            f"another writer has taken over the ledger of log {self._log_number}; this one stops, exactly one may run",
            log=self._log_number,
        )
        self._stopped = error
        return error


def _dead_keys(log_number: int, manifest: Manifest) -> list[str]:
    """Return the keys of what a manifest no longer needs."""
    keys = [key for run in manifest.dead_runs for key in run.keys(log_number)]
    keys += [table_key(log_number, *span) for span in manifest.pages(manifest.dead_from, manifest.keys_from)]
    return keys


def _ask_filters(kernel: Kernel, view: _View, keys: Sequence[bytes]) -> list[tuple[Run, list[tuple[bytes, bytes]]]]:
    """Return, by run, the keys that it may know, with their fingerprints."""
    row = kernel.fingerprints(keys)
    maybe = []
    for run, key_filter in view.filters:
        places = key_filter.contains_many(row)
        if places:
            width = FINGERPRINT_BYTES
            maybe.append((run, [(keys[place], row[place * width : (place + 1) * width]) for place in places]))
    return maybe


def _with_keys(round_: SignedRound, table: KeyTable) -> SignedRound:
    """Return a sealed round with its request keys."""
    found = ((index, table.key_at(index)) for index in range(round_.old_size, round_.new_size))
    return replace(round_, indices={key: index for index, key in found if key})


def _lost(key: str) -> ConflictError:
    """Make the error for an object that the ledger needs."""
    return ConflictError(
        Reason.CONFLICT,
        f"{key} is missing; without it requests would be certified twice. Bring the ledger of this moment back, or "
        "follow this log with the next one",
        key=key,
    )


_ = Mapping
