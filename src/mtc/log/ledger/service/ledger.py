"""The ledger: what its log and the authority ask of it."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace

from mtc.errors import ConflictError, Error, Reason, UsageError
from mtc.kernel import FINGERPRINT_BYTES, Kernel, active_kernel
from mtc.log.ledger.formats import MAX_ROUND_KEYS, SignedRound, protect
from mtc.log.ledger.machine import LedgerLimits, bucket_of, hole, indices_of
from mtc.log.ledger.memory import View, renewed
from mtc.log.ledger.pages import KeyTable, Manifest, Run, manifest_key, page_key, table_key
from mtc.log.ledger.service.checking import find_faults
from mtc.log.ledger.service.objects import LedgerObjects, MissingError, lost
from mtc.log.ledger.service.rebuilding import rebuild_index
from mtc.log.ledger.service.sealing import Sealer
from mtc.store import ObjectStore

_MANY_KEYS = 1024
"""So many keys are looked up in a thread, so that the event loop goes on."""


class Ledger:
    """Which request became which entry, and how each round was signed. Use `open`.

    One writer per log: `record`, `replace_rounds` and `prune` are its sequencer's. Reading may overlap with everything.
    In memory stay the rounds that are not sealed, 23 bits for each sealed key, and a few objects read lately.
    """

    def __init__(self, objects: LedgerObjects, limits: LedgerLimits, kernel: Kernel) -> None:
        """Use `open`."""
        self._objects = objects
        self._limits = limits
        self._kernel = kernel
        self._sealer = Sealer(objects, limits, kernel)

    @staticmethod
    async def open(  # noqa: PLR0913 - what a log knows about itself, and two choices of tests
        store: ObjectStore,
        log_number: int,
        tree_size: int,
        *,
        least_size: int = 0,
        limits: LedgerLimits | None = None,
        kernel: Kernel | None = None,
    ) -> "Ledger":
        """Read the ledger of a log of `tree_size` entries. Nothing is written, so that a reader may open it as well.

        Reads the manifest, the filters, and the rounds that are not sealed. least_size: entries that must have been
        recorded: all of them, or those before the round that a crash left unfinished. Raises FormatError (DAMAGED, …)
        that names the object; ConflictError when rounds are missing or lead beyond `tree_size`; StorageError.
        """
        limits = limits or LedgerLimits()
        objects = LedgerObjects(store, log_number, limits.cached_bytes)
        ledger = Ledger(objects, limits, kernel or active_kernel())
        await ledger._sealer.open(tree_size)
        if ledger.tree_size < least_size:
            raise hole(log_number, ledger.tree_size, least_size)
        return ledger

    @staticmethod
    async def create(store: ObjectStore, log_number: int, start: int) -> None:
        """Make the ledger of a log whose entries below `start` it need not know. One from entry 0 on needs no making.

        Raises ConflictError when there is one already.
        """
        key = manifest_key(log_number, 1)
        await store.put({key: protect(key, Manifest(1, start, keys_from=start, dead_from=start).encode())})

    @staticmethod
    async def rebuild(
        store: ObjectStore, log_number: int, *, limits: LedgerLimits | None = None, kernel: Kernel | None = None
    ) -> None:
        """Make the index and the manifest anew, after one of their objects was damaged or lost. Nobody may write.

        Raises FormatError for a table of keys that is damaged, ConflictError where pages or tables are missing: nothing
        replaces those but a backup.
        """
        limits = limits or LedgerLimits()
        objects = LedgerObjects(store, log_number, limits.cached_bytes)
        await rebuild_index(objects, limits, kernel or active_kernel())

    @property
    def tree_size(self) -> int:
        """How many entries the recorded rounds lead to; less than the log's when a round is missing at the end."""
        return self._sealer.tree_size

    @property
    def manifest(self) -> Manifest:
        """What is sealed."""
        return self._sealer.view.manifest

    async def record(self, round_: SignedRound) -> None:
        """Keep a round, durable on return; sealing may go on in the background.

        The round follows the last one, or is one that is known already, which then is replaced. Raises ConflictError
        when rounds are missing before it, or when another writer has taken over this ledger; StorageError.
        """
        sealer, number = self._sealer, self._objects.log_number
        sealer.check_running()
        if round_.new_size <= sealer.tree_size:
            await self.replace_rounds([round_])
            return
        if round_.old_size != sealer.tree_size:
            raise hole(number, sealer.tree_size, round_.old_size)
        if round_.new_size - round_.old_size > MAX_ROUND_KEYS:
            raise UsageError(Reason.TOO_LARGE, f"a round that is recorded has at most {MAX_ROUND_KEYS} entries")
        await sealer.relieve()
        await self._objects.write_rounds([round_])
        sealer.append(round_)
        sealer.start()

    async def replace_rounds(self, rounds: Sequence[SignedRound]) -> None:
        """Keep rounds that are known already with other signatures or a newer checkpoint; request keys stay.

        Durable on return. Raises ConflictError for a round that is not known, or known with another tree; then none is
        replaced.
        """
        sealer = self._sealer
        async with sealer.turn:
            await sealer.resolve()
            single: list[SignedRound] = []
            sealed: defaultdict[tuple[int, int], list[SignedRound]] = defaultdict(list)
            for round_ in rounds:
                segment = sealer.segment_of(round_.new_size - 1)
                page = sealer.view.manifest.page_of(round_.new_size - 1)
                if segment is not None:
                    single.append(segment.renew(round_))
                elif page is not None:
                    sealed[page].append(round_)
                else:
                    raise ConflictError(Reason.CONFLICT, f"no round leads to {round_.new_size} entries")
            pages = {span: await self._renew_in_page(span, changed) for span, changed in sealed.items()}
            if single:
                await self._objects.write_rounds(single)
            for round_ in single:
                segment = sealer.segment_of(round_.old_size)
                assert segment is not None, "nothing is sealed while the turn is ours"
                segment.substitute(round_)
            for span, renewed_rounds in pages.items():
                await self._objects.write_page(span, renewed_rounds)

    async def _renew_in_page(self, span: tuple[int, int], changed: Sequence[SignedRound]) -> list[SignedRound]:
        """Return the rounds of a page, some of them renewed."""
        rounds = {round_.new_size: round_ for round_ in (await self._objects.page(span)).rounds()}
        for round_ in changed:
            known = rounds.get(round_.new_size)
            if known is None:
                raise ConflictError(Reason.CONFLICT, f"no round leads to {round_.new_size} entries")
            rounds[round_.new_size] = renewed(known, round_)
        return list(rounds.values())

    async def round_of(self, index: int, *, has_keys: bool = False) -> SignedRound | None:
        """Return the signed round that holds entry `index`, None when it is not known.

        has_keys: also with the request keys of a sealed round, which costs another object; pruned ones stay away.
        """
        segment = self._sealer.segment_of(index)
        if segment is not None:
            return segment.round_of(index)
        span = self.manifest.page_of(index)
        if span is None:
            return None
        round_ = (await self._objects.page(span)).round_of(index)
        if round_ is None or round_.old_size > index:
            raise lost(page_key(self._objects.log_number, *span))
        table = await self._table(span) if has_keys else None
        return round_ if table is None else _with_keys(round_, table)

    async def rounds(self, start: int, end: int, *, has_keys: bool = False) -> AsyncIterator[SignedRound]:
        """Yield the rounds that lead to sizes above `start` and up to `end`, in order.

        has_keys: see `round_of`. Sealing may go on meanwhile.
        """
        at = max(start, self.manifest.start)
        while at < min(end, self.tree_size):
            segment = self._sealer.segment_of(at)
            span = self.manifest.page_of(at)
            if segment is not None:
                rounds = list(segment.rounds)
            else:
                assert span is not None, "segments begin where pages end"
                rounds = (await self._objects.page(span)).rounds()
                table = await self._table(span) if has_keys else None
                if table is not None:
                    rounds = [_with_keys(round_, table) for round_ in rounds]
            for round_ in rounds:
                if start < round_.new_size <= end:
                    yield round_
            at = rounds[-1].new_size

    async def _table(self, span: tuple[int, int]) -> KeyTable | None:
        """Return the keys of a page, None when they are pruned."""
        if span[0] < self.manifest.keys_from:
            return None
        table = await self._objects.table(span)
        # It may have been pruned while it was read.
        if table is None and span[0] >= self.manifest.keys_from:
            raise lost(table_key(self._objects.log_number, *span))
        return table

    async def find(self, keys: Sequence[bytes]) -> dict[bytes, int]:
        """Return the entry indices of those request keys that have an entry. Keys of pruned entries are forgotten."""
        found: dict[bytes, int] = {}
        fresh = [key for key in keys if key]
        for segment in self._sealer.segments:
            indices = segment.indices
            hits = {key: indices[key] for key in fresh if key in indices}
            if hits:
                found |= hits
                fresh = [key for key in fresh if key not in hits]
        while fresh and self._sealer.view.filters:
            view = self._sealer.view
            try:
                return found | await self._find_sealed(view, fresh)
            except MissingError as missing:
                # A run that was merged while we looked: what it knew is in the new view.
                if view is self._sealer.view:
                    raise lost(str(missing)) from None
        return found

    async def _find_sealed(self, view: View, keys: Sequence[bytes]) -> dict[bytes, int]:
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
                records = await self._objects.bucket(run, bucket)
                for key, fingerprint in members:
                    for index in indices_of(records, fingerprint):
                        span = view.manifest.page_of(index)
                        if span is not None:
                            wanted[span].append((key, index))
        found: dict[bytes, int] = {}
        for span, candidates in wanted.items():
            table = await self._table(span)
            if table is not None:
                found |= table.matches(candidates)
        return found

    async def prune(self, below: int) -> None:
        """Forget the request keys of all whole pages that end at or below an index. Rounds and checkpoints stay."""
        await self._sealer.prune(below)

    async def find_faults(self) -> AsyncIterator[Error]:
        """Read all that is sealed, and yield an error for each object that is damaged, missing, or does not fit.

        The ledger must not be written meanwhile. Opening it has read the rounds that are not sealed.
        """
        async for fault in find_faults(self._objects, self.manifest, self._kernel):
            yield fault

    async def settle(self) -> None:
        """Wait until all that can be sealed and merged is, and nothing is left to discard.

        Raises what went wrong in the background.
        """
        await self._sealer.wait()
        self._sealer.check_running()
        await self._sealer.work()

    async def close(self) -> None:
        """Let work in the background end. Nothing is lost without it."""
        await self._sealer.wait()


def _ask_filters(kernel: Kernel, view: View, keys: Sequence[bytes]) -> list[tuple[Run, list[tuple[bytes, bytes]]]]:
    """Return, by run, the keys that it may know, with their fingerprints."""
    row = kernel.fingerprints(keys)
    maybe = []
    for run, key_filter in view.filters:
        places = key_filter.contains_many(row)
        if places:
            cuts = [place * FINGERPRINT_BYTES for place in places]
            hits = [(keys[at // FINGERPRINT_BYTES], row[at : at + FINGERPRINT_BYTES]) for at in cuts]
            maybe.append((run, hits))
    return maybe


def _with_keys(round_: SignedRound, table: KeyTable) -> SignedRound:
    """Return a sealed round with its request keys."""
    keys = table.keys_of(round_.old_size, round_.new_size)
    return replace(round_, indices={key: index for index, key in enumerate(keys, round_.old_size) if key})
