"""Sealing: full segments become pages, neighbouring runs become larger ones, what is replaced is discarded.

The order of a step, and what a crash means after each part, stand in `mtc.log.ledger`.
"""

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from mtc.errors import ConflictError, Error, FormatError, Reason, StorageError
from mtc.kernel import RECORD_BYTES, Kernel, KeyFilter
from mtc.log.ledger.formats import SignedRound, ledger_prefix, open_object, protect
from mtc.log.ledger.machine import (
    LedgerLimits,
    Step,
    after_merge,
    merge_records,
    merged_run,
    order_rounds,
    plan_merge,
    plan_prune,
    plan_seal,
    slice_bucket,
)
from mtc.log.ledger.memory import Segment, View
from mtc.log.ledger.pages import Manifest, Run, manifest_key, manifest_prefix, table_key
from mtc.log.ledger.service.objects import LedgerObjects

_FETCHED_AT_ONCE = 16


class Sealer:
    """What is sealed and what is not yet, and the one who moves rounds from here to there.

    view: what is sealed. segments: the rounds that are not, oldest first; only the last one takes more. turn: held by
    whoever changes sealed objects. Owned by the ledger.
    """

    def __init__(self, objects: LedgerObjects, limits: LedgerLimits, kernel: Kernel) -> None:
        """Start empty; `open` reads what there is."""
        self._objects = objects
        self._limits = limits
        self._kernel = kernel
        self.view = View(Manifest())
        self.segments: deque[Segment] = deque()
        self.turn = asyncio.Lock()
        # A step whose manifest may be stored, because the answer was lost.
        self._doubtful: Step | None = None
        # Set whenever a step is done.
        self._progress = asyncio.Event()
        # Keys of objects that are no longer needed.
        self._litter: list[str] = []
        self._task: asyncio.Task[None] | None = None
        self._stopped: Error | None = None

    async def open(self, tree_size: int) -> None:
        """Read the newest manifest, the filters of its runs, and the rounds that are not sealed."""
        objects, number = self._objects, self._objects.log_number
        manifests = await objects.store.list_keys(manifest_prefix(number))
        if manifests:
            newest = manifests[-1]
            manifest = Manifest.parse(await objects.read(newest))
            if manifest_key(number, manifest.generation) != newest:
                raise FormatError(Reason.DAMAGED, f"{newest} holds another manifest", key=newest)
            filters: list[tuple[Run, KeyFilter]] = []
            for run in reversed(manifest.runs):
                data = await objects.read(run.filter_key(number))
                filters.append((run, self._kernel.parse_key_filter(data)))
            self.view = View(manifest, tuple(filters))
            self._litter += [*manifests[:-1], *_dead_keys(number, manifest)]
        end = self.view.manifest.end
        keys = await objects.store.list_keys(f"{ledger_prefix(number)}round/")
        sealed = SignedRound.key_of(number, end)
        self._litter += [key for key in keys if key <= sealed]
        for round_ in order_rounds(number, end, tree_size, await self._fetch_rounds([k for k in keys if k > sealed])):
            self.append(round_)

    async def _fetch_rounds(self, keys: Sequence[str]) -> list[SignedRound]:
        """Return single rounds."""
        objects, rounds = self._objects, []
        for at in range(0, len(keys), _FETCHED_AT_ONCE):
            chosen = keys[at : at + _FETCHED_AT_ONCE]
            for key, data in zip(chosen, await objects.store.fetch(chosen), strict=True):
                if data is None:
                    continue
                round_ = SignedRound.parse(open_object(key, data))
                if SignedRound.key_of(objects.log_number, round_.new_size) != key:
                    raise FormatError(Reason.DAMAGED, f"{key} holds another round", key=key)
                rounds.append(round_)
        return rounds

    @property
    def tree_size(self) -> int:
        """How many entries the recorded rounds lead to."""
        return self.segments[-1].end if self.segments else self.view.manifest.end

    def append(self, round_: SignedRound) -> None:
        """Take a recorded round into memory."""
        if self.segments and not self.segments[-1].is_full(self._limits):
            self.segments[-1].append(round_)
        else:
            self.segments.append(Segment(round_))

    def segment_of(self, index: int) -> Segment | None:
        """Return the segment that holds entry `index`."""
        return next((segment for segment in self.segments if segment.start <= index < segment.end), None)

    def check_running(self) -> None:
        """Raise what stopped the sealer for good."""
        if self._stopped is not None:
            raise self._stopped

    def start(self) -> None:
        """Begin to seal in the background if there is something to seal."""
        if (self._task is None or self._task.done()) and self._full_segment() is not None:
            self._task = asyncio.create_task(self._work_quietly())

    async def wait(self) -> None:
        """Wait until nothing happens in the background."""
        if self._task is not None and not self._task.done():
            await asyncio.wait([self._task])

    async def _work_quietly(self) -> None:
        """Work in the background. Storage that fails is tried again after the next round."""
        try:
            await self.work()
        except StorageError:
            return
        except Error as error:
            self._stopped = error

    async def relieve(self) -> None:
        """Wait until no more full segments wait for sealing than may."""
        while len(self.segments) > self._limits.backlog + 1:
            self.check_running()
            if self._task is None or self._task.done():
                await self.work(may_merge=False)
                continue
            self._progress.clear()
            progress = asyncio.create_task(self._progress.wait())
            await asyncio.wait([self._task, progress], return_when=asyncio.FIRST_COMPLETED)
            progress.cancel()

    async def work(self, *, may_merge: bool = True) -> None:
        """Seal while segments are full, and merge while there are runs to merge."""
        while True:
            async with self.turn:
                await self.resolve()
                await self._discard_litter()
                await self._seal_full()
                sources = plan_merge(self.view.manifest, self._limits) if may_merge else ()
                if not sources:
                    return
                await self._merge(sources)

    async def prune(self, below: int) -> None:
        """Forget the request keys of whole pages that end at or below an index."""
        async with self.turn:
            await self.resolve()
            await self._discard_litter()
            manifest = plan_prune(self.view.manifest, below)
            if manifest is not None:
                await self._publish(Step(manifest, {}, {}))
                await self._discard_litter()

    def _full_segment(self) -> Segment | None:
        """Return the oldest segment if it is full."""
        return self.segments[0] if self.segments and self.segments[0].is_full(self._limits) else None

    async def _seal_full(self) -> None:
        """Pack each full segment into a page."""
        while (segment := self._full_segment()) is not None:
            number, manifest, rounds = self._objects.log_number, self.view.manifest, tuple(segment.rounds)
            step = await asyncio.to_thread(plan_seal, self._kernel, self._limits, number, manifest, rounds)
            await self._publish(step)
            await self._discard_litter()

    async def _merge(self, sources: Sequence[Run]) -> None:
        """Merge runs, bucket by bucket, so that only one bucket of each is in memory."""
        objects, number, keys_from = self._objects, self._objects.log_number, self.view.manifest.keys_from
        merged = merged_run(sources, self._limits)
        if sources[0].start >= keys_from:
            keys_from = 0
        key_filter = self._kernel.key_filter(merged.count)
        loaded: dict[Run, tuple[int, bytes]] = {}
        count = 0
        for bucket in range(1 << merged.bucket_bits):
            rows = []
            for run in sources:
                theirs = bucket >> (merged.bucket_bits - run.bucket_bits)
                if run not in loaded or loaded[run][0] != theirs:
                    loaded[run] = theirs, await objects.read(run.bucket_key(number, theirs))
                rows.append(slice_bucket(loaded[run][1], bucket, merged.bucket_bits))
            row = await asyncio.to_thread(merge_records, self._kernel, rows, keys_from)
            await asyncio.to_thread(key_filter.add_many, row)
            count += len(row) // RECORD_BYTES
            await objects.write({merged.bucket_key(number, bucket): row})
            # Rounds come in meanwhile; their runs are younger, and change nothing here.
            await self._seal_full()
        merged = replace(merged, count=count)
        filters = {merged: key_filter} if count else {}
        made = {merged.filter_key(number): key_filter.encode()}
        await self._publish(Step(after_merge(self.view.manifest, sources, merged), made, filters))
        await self._discard_litter()

    async def _publish(self, step: Step) -> None:
        """Store what a step needs, then its manifest; from then on it is done."""
        if step.objects:
            await self._objects.write(step.objects)
        key = manifest_key(self._objects.log_number, step.manifest.generation)
        self._doubtful = step
        try:
            await self._objects.store.put({key: protect(key, step.manifest.encode())})
        except ConflictError:
            raise self._overtaken() from None
        self._apply(step)

    async def resolve(self) -> None:
        """Find out whether a step whose answer was lost is done. The caller has the turn."""
        step = self._doubtful
        if step is None:
            return
        key = manifest_key(self._objects.log_number, step.manifest.generation)
        (data,) = await self._objects.store.fetch([key])
        if data is None:
            self._doubtful = None
        elif data == protect(key, step.manifest.encode()):
            self._apply(step)
        else:
            raise self._overtaken()

    def _apply(self, step: Step) -> None:
        """Go over to what a step made; readers see the one or the other."""
        number, before = self._objects.log_number, self.view.manifest
        self.view = self.view.after(step)
        self._doubtful = None
        while self.segments and self.segments[0].start < step.manifest.end:
            self._litter += [SignedRound.key_of(number, item.new_size) for item in self.segments.popleft().rounds]
        if before.generation:
            self._litter.append(manifest_key(number, before.generation))
        self._litter += _dead_keys(number, step.manifest)
        self._progress.set()

    async def _discard_litter(self) -> None:
        """Discard what is no longer needed, unless another writer has gone on: then it is not ours to decide."""
        if not self._litter:
            return
        store, number = self._objects.store, self._objects.log_number
        newest = manifest_key(number, self.view.manifest.generation)
        if max(await store.list_keys(manifest_prefix(number)), default="") > newest:
            raise self._overtaken()
        await store.discard(self._litter)
        self._litter = []

    def _overtaken(self) -> ConflictError:
        """Make and keep the error for a ledger that somebody else writes."""
        number = self._objects.log_number
        error = ConflictError(
            Reason.CONFLICT,
            f"another writer has taken over the ledger of log {number}; this one stops, exactly one may run",
            log=number,
        )
        self._stopped = error
        return error


def _dead_keys(log_number: int, manifest: Manifest) -> list[str]:
    """Return the keys of what a manifest no longer needs."""
    keys = [key for run in manifest.dead_runs for key in run.keys(log_number)]
    keys += [table_key(log_number, *span) for span in manifest.pages(manifest.dead_from, manifest.keys_from)]
    return keys
