"""The ledger: one request key is one entry, however large the log is."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.ledgers import LOG, SMALL, check_all, collect, key_of, kill_others, make_round, record_all

from mtc.kernel import FINGERPRINT_BYTES, RECORD_BYTES
from mtc.kernel._python import PythonKernel
from mtc.log.ledger import SignedRound, ledger_prefix
from mtc.log.ledger.service import Ledger
from mtc.store import MemoryStore
from mtc.testing import FailingStore, Failure


class _Model:
    """What a ledger should know, in dicts."""

    def __init__(self) -> None:
        self.size = 0
        self.indices: dict[bytes, int] = {}
        self.rounds: list[SignedRound] = []


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("record"), st.integers(1, 20), st.integers(1, 4)),
        st.tuples(st.just("restart"), st.just(0), st.just(0)),
        st.tuples(st.just("settle"), st.just(0), st.just(0)),
        st.tuples(st.just("renew"), st.integers(0, 30), st.integers(0, 30)),
        st.tuples(st.just("prune"), st.integers(0, 60), st.just(0)),
    ),
    min_size=5,
    max_size=60,
)


async def _apply(ledger: Ledger, model: _Model, name: str, first: int, second: int) -> None:
    """Do one step to the ledger and to the model."""
    if name == "record":
        round_ = make_round(model.size, model.size + first, lambda index: not index % second)
        await ledger.record(round_)
        model.size = round_.new_size
        model.indices |= round_.indices
        model.rounds.append(round_)
    elif name == "settle":
        await ledger.settle()
    elif name == "renew" and model.rounds:
        places = {first % len(model.rounds), second % len(model.rounds)}
        for place in places:
            old = model.rounds[place]
            fresh = make_round(old.old_size, old.new_size, lambda _: False, version=1)
            model.rounds[place] = replace(fresh, indices=old.indices)
        await ledger.replace_rounds([replace(model.rounds[place], indices={}) for place in places])
    elif name == "prune":
        before = ledger.manifest.keys_from
        await ledger.prune(first)
        cut = ledger.manifest.keys_from
        assert before <= cut <= max(first, before)
        assert [end for end in ledger.manifest.page_ends if cut < end <= first] == []
        model.indices = {key: index for key, index in model.indices.items() if index >= cut}


@settings(max_examples=200)
@given(STEPS)
def test_a_ledger_is_a_dict(steps: list[tuple[str, int, int]]) -> None:
    """Whatever happens between, a ledger answers as a dict of all unpruned keys and a list of all rounds would."""

    async def run() -> None:
        store, model = MemoryStore(), _Model()
        ledger = await Ledger.open(store, LOG, 0, limits=SMALL)
        for name, first, second in steps:
            if name == "restart":
                kill_others()
                ledger = await Ledger.open(store, LOG, model.size, limits=SMALL)
            await _apply(ledger, model, name, first, second)
            keys = [key_of(index) for index in range(model.size + 5)]
            assert await ledger.find(keys) == model.indices
            for key in keys[::7]:
                assert (await ledger.find([key])).get(key) == model.indices.get(key)
        found = await collect(ledger.rounds(0, model.size, has_keys=True))
        pruned = ledger.manifest.keys_from
        expected = [round_ if round_.old_size >= pruned else replace(round_, indices={}) for round_ in model.rounds]
        assert found == expected
        for round_ in expected:
            assert await ledger.round_of(round_.old_size, has_keys=True) == round_
            assert (await collect(ledger.rounds(round_.old_size, round_.new_size)))[0].new_size == round_.new_size
        assert await ledger.round_of(model.size) is None
        assert [fault async for fault in ledger.find_faults()] == []

    asyncio.run(run())


class PoorKernel(PythonKernel):
    """A kernel whose fingerprints have two bits, so that almost all of them collide."""

    def fingerprints(self, keys: Sequence[bytes]) -> bytes:
        """Return fingerprints of two bits."""
        row = super().fingerprints(keys)
        return b"".join(self._poor(row[at]) for at in range(0, len(row), FINGERPRINT_BYTES))

    def key_records(self, keys: Sequence[bytes], first: int) -> bytes:
        """Return records with fingerprints of two bits."""
        row = super().key_records(keys, first)
        records = [
            self._poor(row[at]) + row[at + FINGERPRINT_BYTES : at + RECORD_BYTES]
            for at in range(0, len(row), RECORD_BYTES)
        ]
        return b"".join(sorted(records))

    @staticmethod
    def _poor(byte: int) -> bytes:
        return bytes((byte & 0xC0,)) + bytes(FINGERPRINT_BYTES - 1)


def test_colliding_fingerprints_are_never_an_answer() -> None:
    """With fingerprints that nearly all collide, every key still finds its own entry, and no other key finds any."""

    async def run() -> None:
        store = MemoryStore()
        ledger = await Ledger.open(store, LOG, 0, limits=SMALL, kernel=PoorKernel())
        await record_all(ledger, range(0, 200, 5))
        await check_all(ledger, 195)

    asyncio.run(run())


def test_keys_are_found_while_runs_are_merged() -> None:
    """Requests that come while pages are sealed and runs merged are answered as before and after."""

    async def run() -> None:
        store = MemoryStore()
        ledger = await Ledger.open(store, LOG, 0, limits=SMALL)
        for old in range(0, 400, 8):
            await ledger.record(make_round(old, old + 8))
            for _ in range(3):
                await asyncio.sleep(0)
                keys = [key_of(index) for index in range(0, old + 16, 3)]
                assert await ledger.find(keys) == {key_of(index): index for index in range(0, old + 8, 3)}
        await ledger.settle()
        await check_all(ledger, 400)

    asyncio.run(run())


class HookedStore(MemoryStore):
    """A store in which something happens while the next object of a kind is fetched, after its bytes were read."""

    def __init__(self) -> None:
        super().__init__()
        self.kind = ""
        self.hook: Callable[[], Awaitable[None]] | None = None
        self.is_late = True
        self.fired = 0

    async def fetch(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the objects as they were before the hook, or after it."""
        found = await super().fetch(keys)
        hook = self.hook
        if hook is not None and any(self.kind in key for key in keys):
            self.hook = None
            self.fired += 1
            await hook()
            if not self.is_late:
                found = await super().fetch(keys)
        return found


def test_a_bucket_that_is_merged_while_it_is_wanted() -> None:
    """A look-up whose run is merged and discarded under its hands finds the key in the merged run."""

    async def run() -> None:
        store = HookedStore()
        await record_all(await Ledger.open(store, LOG, 0, limits=replace(SMALL, fan_out=99)), range(0, 81, 8))
        ledger = await Ledger.open(store, LOG, 80, limits=SMALL)
        store.kind, store.hook, store.is_late = "/run/", ledger.settle, False
        assert await ledger.find([key_of(3), key_of(77), b"new"]) == {key_of(3): 3, key_of(77): 77}
        assert store.fired == 1
        assert len(ledger.manifest.runs) == 2

    asyncio.run(run())


def test_a_page_that_is_renewed_while_it_is_read_is_not_kept() -> None:
    """Who reads a page while it is written again may get the old rounds once, and the new ones from then on."""

    async def run() -> None:
        store = HookedStore()
        ledger = await Ledger.open(store, LOG, 0, limits=replace(SMALL, cached_bytes=1 << 20))
        await record_all(ledger, [0, 8])
        fresh = make_round(0, 8, version=1)
        reader = await Ledger.open(store, LOG, 8, limits=replace(SMALL, cached_bytes=1 << 20))
        store.kind, store.hook = "/page/", lambda: reader.replace_rounds([fresh])
        await reader.round_of(0)
        assert store.fired == 1
        assert await reader.round_of(0, has_keys=True) == fresh

    asyncio.run(run())


def test_what_is_renewed_while_a_page_is_in_doubt_is_in_the_page() -> None:
    """A round that is renewed after the answer about its page was lost is renewed in the page."""

    async def run() -> None:
        store = FailingStore()
        ledger = await Ledger.open(store, LOG, 0, limits=SMALL)
        # Writes: the round, the objects of the page, its manifest.
        store.plan.fail_write(2, Failure.KEPT)
        await ledger.record(make_round(0, 8))
        await ledger.close()
        fresh = make_round(0, 8, version=1)
        await ledger.replace_rounds([fresh])
        await ledger.settle()
        again = await Ledger.open(store, LOG, 8, limits=SMALL)
        assert await again.round_of(0, has_keys=True) == fresh

    asyncio.run(run())


def test_a_round_waits_while_too_many_pages_wait() -> None:
    """However fast rounds come, only so many full pages wait in memory for sealing."""

    async def run() -> None:
        ledger = await Ledger.open(MemoryStore(), LOG, 0, limits=SMALL)
        for old in range(0, 800, 8):
            await ledger.record(make_round(old, old + 8))
            assert ledger.tree_size - ledger.manifest.end <= 8 * (SMALL.backlog + 2)
        await ledger.settle()
        await check_all(ledger, 800)

    asyncio.run(run())


@pytest.mark.parametrize("below", [0, 7, 8, 9, 39, 40, 41, 72, 80, 999])
def test_pruning_forgets_whole_pages_only(below: int) -> None:
    """Keys of pages that end at or below the index are forgotten, all others stay, also when runs are merged later."""

    async def run() -> None:
        store = MemoryStore()
        ledger = await Ledger.open(store, LOG, 0, limits=SMALL)
        await record_all(ledger, range(0, 81, 8))
        await ledger.prune(below)
        cut = min(below // 8 * 8, 80)
        for size in (80, 88, 160, 400):
            if size > 80:
                await record_all(ledger, range(ledger.tree_size, size + 1, 8))
            known = {key_of(index): index for index in range(cut, size)}
            assert await ledger.find([key_of(index) for index in range(size)]) == known
        assert sum(run.count for run in ledger.manifest.runs) <= 400 - cut + 32
        assert [fault async for fault in ledger.find_faults()] == []
        assert [key for key in store.objects if "/keys/" in key and int(key.rpartition("-")[2]) <= cut] == []

    asyncio.run(run())


# What lies in the store.


def test_sealed_rounds_leave_few_objects() -> None:
    """What is sealed lies in pages and runs; single rounds, merged runs and old manifests are gone."""

    async def run() -> None:
        store = MemoryStore()
        ledger = await Ledger.open(store, LOG, 0, limits=SMALL)
        await record_all(ledger, range(0, 8 * 64 + 5, 4))
        kinds: dict[str, int] = {}
        for key in store.objects:
            kind = key.removeprefix(ledger_prefix(LOG)).split("/")[0]
            kinds[kind] = kinds.get(kind, 0) + 1
        (run,) = ledger.manifest.runs
        assert (run.level, run.count) == (6, 512)
        assert kinds == {"page": 64, "keys": 64, "manifest": 1, "run": 2**run.bucket_bits + 1, "round": 1}

    asyncio.run(run())


class ReadCounter(MemoryStore):
    """A store that counts what is fetched."""

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []

    async def fetch(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the objects."""
        self.fetched += keys
        return await super().fetch(keys)


def test_a_new_key_reads_nothing_and_an_old_one_two_objects() -> None:
    """A request that was never seen costs no access; one that was seen reads one bucket and one table of keys."""

    async def run() -> None:
        store = ReadCounter()
        limits = replace(SMALL, page_entries=1024, page_rounds=1024, bucket_records=512, cached_bytes=0)
        ledger = await Ledger.open(store, LOG, 0, limits=limits)
        await record_all(ledger, range(0, 8193, 1024))
        store.fetched.clear()
        assert await ledger.find([b"new %d" % number for number in range(500)]) == {}
        assert store.fetched == []
        assert await ledger.find([key_of(3000)]) == {key_of(3000): 3000}
        assert len(store.fetched) == 2

    asyncio.run(run())


def test_starting_reads_no_page() -> None:
    """Opening reads the manifest, one filter for each run, and the rounds that are not sealed."""

    async def run() -> None:
        store = ReadCounter()
        ledger = await Ledger.open(store, LOG, 0, limits=SMALL)
        await record_all(ledger, range(0, 413, 4))
        store.fetched.clear()
        again = await Ledger.open(store, LOG, 412, limits=SMALL)
        assert len(store.fetched) == 1 + len(again.manifest.runs) + 1
        await check_all(again, 412)

    asyncio.run(run())
