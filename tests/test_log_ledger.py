"""The ledger: one request key is one entry, however large the log is and whenever its process dies."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mtc.cert import SubtreeSignature
from mtc.errors import ConflictError, FormatError, Reason, StorageError, UsageError
from mtc.kernel import FINGERPRINT_BYTES, RECORD_BYTES
from mtc.kernel._python import PythonKernel
from mtc.log.ledger import LedgerLimits, Manifest, SignedRound, ledger_prefix
from mtc.log.ledger.formats import open_object, protect
from mtc.log.ledger.memory import ObjectCache
from mtc.log.ledger.pages import KeyTable, Page, manifest_key
from mtc.log.ledger.service import Ledger
from mtc.merkle import Subtree
from mtc.store import MemoryStore
from mtc.testing import FailingStore, Failure

SMALL = LedgerLimits(page_entries=8, page_rounds=3, fan_out=2, bucket_records=4, backlog=1, cached_bytes=600)
LOG = 7


def key_of(index: int) -> bytes:
    """Return the request key of an entry."""
    return b"request %d" % index


def make_round(old: int, new: int, keyed: Callable[[int], bool] = lambda _: True, version: int = 0) -> SignedRound:
    """Return a round whose entries have their usual request keys, in an order that is not that of the indices."""
    indices = {key_of(index): index for index in reversed(range(old, new)) if keyed(index)}
    signature = SubtreeSignature(b"\x01", b"signature %d" % version)
    signatures = {Subtree(new - 1, new): (signature,) * (1 + version)}
    return SignedRound(old, new, b"%032d" % new, 1000 + new, b"checkpoint %d" % new, indices, signatures)


async def record_all(ledger: Ledger, sizes: Sequence[int]) -> None:
    """Record rounds that lead from each size to the next, and wait for the sealing after each."""
    for old, new in pairwise(sizes):
        await ledger.record(make_round(old, new))
        await ledger.settle()


async def collect(rounds: AsyncIterator[SignedRound]) -> list[SignedRound]:
    """Return what an iterator yields."""
    return [round_ async for round_ in rounds]


async def check_all(ledger: Ledger, size: int) -> None:
    """Check that a ledger knows exactly the usual requests below `size`, and all their rounds."""
    wanted = {key_of(index): index for index in range(size)}
    asked = [*wanted, *(key_of(index) for index in range(size, size + 40)), b""]
    assert await ledger.find(asked) == wanted
    assert ledger.tree_size == size
    rounds = await collect(ledger.rounds(0, size, has_keys=True))
    assert [make_round(round_.old_size, round_.new_size) for round_ in rounds] == rounds
    assert [round_.old_size for round_ in rounds] + [size] == [0] + [round_.new_size for round_ in rounds]


# Laws.


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


def _kill_others() -> None:
    """Let the background of a process die with it."""
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        task.cancel()


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
                _kill_others()
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

    async def fetch(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the objects as they were before the hook, or after it."""
        found = await super().fetch(keys)
        hook = self.hook
        if hook is not None and any(self.kind in key for key in keys):
            self.hook = None
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
        assert store.hook is None
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
        assert store.hook is None
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


# Crashes.

SIZES = [0, 3, 8, 9, 10, 11, 20, 28, 31, 36, 40, 48, 50, 51, 52]


async def _story(store: MemoryStore, crash: Callable[[], bool]) -> int:
    """Record rounds with one renewal and one pruning between; every step is tried until it succeeds.

    crash: whether the process dies when a step fails. Returns how many steps failed.
    """
    failures, size = 0, 0
    ledger: Ledger | None = None

    async def attempt(step: Callable[[Ledger], Awaitable[None]]) -> None:
        nonlocal ledger, failures
        while True:
            try:
                if ledger is None:
                    # The register may be ahead by the round that is recorded next.
                    ledger = await Ledger.open(store, LOG, SIZES[-1], limits=SMALL)
                await step(ledger)
            except StorageError:
                failures += 1
                assert failures < 3, "one failure costs one attempt"
                if crash():
                    ledger = None
                continue
            return

    for old, new in pairwise(SIZES):
        await attempt(lambda ledger, old=old, new=new: ledger.record(make_round(old, new)))  # type: ignore[misc]
        size = new
        assert ledger is not None
        assert await ledger.find([key_of(index) for index in range(size)]) == {
            key_of(index): index for index in range(ledger.manifest.keys_from, size)
        }
        await attempt(lambda ledger: ledger.settle())
        if new == 31:
            await attempt(lambda ledger: ledger.replace_rounds([make_round(20, 28, version=1), make_round(28, 31)]))
        if new == 48:
            await attempt(lambda ledger: ledger.prune(11))
    await attempt(lambda ledger: ledger.settle())
    return failures


def _count_writes() -> int:
    """Return how many writes the story takes."""
    store = FailingStore()
    assert asyncio.run(_story(store, lambda: False)) == 0
    return store.plan.writes


@pytest.mark.parametrize("failure", Failure, ids=lambda failure: failure.value)
@pytest.mark.parametrize("is_crash", [True, False], ids=["crash", "retry"])
def test_every_write_may_fail(failure: Failure, *, is_crash: bool) -> None:
    """Whichever write fails, lost or kept, crash or not: the same requests are known, and the same objects are left."""

    async def run(number: int) -> None:
        store = FailingStore()
        store.plan.fail_write(number, failure)
        failed = await _story(store, lambda: is_crash)
        ledger = await Ledger.open(store, LOG, SIZES[-1], limits=SMALL)
        await ledger.settle()
        assert failed <= 1
        assert await ledger.find([key_of(index) for index in range(60)]) == {
            key_of(index): index for index in range(ledger.manifest.keys_from, SIZES[-1])
        }
        assert [round_.new_size for round_ in await collect(ledger.rounds(0, 60))] == SIZES[1:]
        assert len((await collect(ledger.rounds(20, 28)))[0].signatures[Subtree(27, 28)]) == 2
        assert store.objects == expected

    undisturbed = MemoryStore()
    asyncio.run(_story(undisturbed, lambda: False))
    expected = undisturbed.objects
    writes = _count_writes()
    assert writes > 60
    for number in range(writes):
        asyncio.run(run(number))


def test_background_failure_is_tried_again() -> None:
    """Storage that fails while a page is sealed in the background costs nothing: it is sealed after the next round."""

    async def run(number: int) -> None:
        store = FailingStore()
        ledger = await Ledger.open(store, LOG, 0, limits=SMALL)
        store.plan.fail_write(number, Failure.LOST)
        await ledger.record(make_round(0, 8))
        await ledger.close()
        assert ledger.manifest.generation == 0
        await ledger.record(make_round(8, 9))
        await ledger.close()
        assert list(ledger.manifest.page_ends) == [8]
        await check_all(ledger, 9)

    for number in (1, 2):
        asyncio.run(run(number))


class FrozenStore(MemoryStore):
    """A store that yields to others before each write, and lets nothing happen after the chosen one."""

    def __init__(self, left: int) -> None:
        super().__init__()
        self.left = left
        self.frozen = asyncio.Event()

    async def _tick(self) -> None:
        await asyncio.sleep(0)
        if not self.left:
            self.frozen.set()
            await asyncio.Event().wait()
        self.left -= 1

    async def put(self, objects: Mapping[str, bytes]) -> None:
        """Store immutable objects."""
        await self._tick()
        await super().put(objects)

    async def replace(self, objects: Mapping[str, bytes]) -> None:
        """Store objects over others."""
        await self._tick()
        await super().replace(objects)

    async def discard(self, keys: Sequence[str]) -> None:
        """Remove objects."""
        await self._tick()
        await super().discard(keys)


def test_restart_at_every_point_of_the_background() -> None:
    """A process that dies at any moment of sealing and merging leaves a ledger that is whole."""

    async def run(left: int) -> bool:
        store = FrozenStore(left)
        done: list[int] = [0]

        async def live() -> None:
            ledger = await Ledger.open(store, LOG, 0, limits=SMALL)
            for old, new in pairwise(SIZES):
                await ledger.record(make_round(old, new))
                done.append(new)
            await ledger.settle()
            done.append(-1)

        task = asyncio.create_task(live())
        frozen = asyncio.create_task(store.frozen.wait())
        await asyncio.wait([task, frozen], return_when=asyncio.FIRST_COMPLETED)
        _kill_others()
        after = MemoryStore()
        after.objects = dict(store.objects)
        is_over = done[-1] == -1
        recorded = max(done)
        again = await Ledger.open(after, LOG, SIZES[-1], limits=SMALL)
        assert again.tree_size >= recorded
        await again.settle()
        await check_all(again, again.tree_size)
        return is_over

    left = 0
    while not asyncio.run(run(left)):
        left += 1
    assert left > 30


# Others.


def test_of_two_writers_one_stops_and_nothing_is_lost() -> None:
    """A writer that stood still while another went on stops before it discards anything."""

    async def run() -> None:
        store = MemoryStore()
        old = await Ledger.open(store, LOG, 0, limits=SMALL)
        await record_all(old, [0, 4, 8])
        stale = await Ledger.open(store, LOG, 8, limits=SMALL)
        await record_all(old, [8, 12, 15])
        await stale.record(make_round(8, 12))
        await record_all(old, [15, 16, 20, 24, 30, 33, 40, 42])
        await stale.record(make_round(12, 15))
        await stale.record(make_round(15, 16))
        with pytest.raises(ConflictError, match="another writer"):
            await stale.settle()
        with pytest.raises(ConflictError, match="another writer"):
            await stale.record(make_round(16, 20))
        await check_all(old, 42)
        await check_all(await Ledger.open(store, LOG, 42, limits=SMALL), 42)

    asyncio.run(run())


def test_holes_and_an_old_register_are_refused() -> None:
    """Rounds must follow each other, recorded or read, and not lead beyond the register."""

    async def run() -> None:
        store = MemoryStore()
        ledger = await Ledger.open(store, LOG, 0, limits=SMALL)
        with pytest.raises(ConflictError, match="ends at 0 entries"):
            await ledger.record(make_round(1, 2))
        await record_all(ledger, [0, 2, 4, 6])
        await record_all(ledger, [6, 7, 9])
        with pytest.raises(ConflictError, match="its register 8"):
            await Ledger.open(store, LOG, 8, limits=SMALL)
        with pytest.raises(ConflictError, match="its register 5"):
            await Ledger.open(store, LOG, 5, limits=SMALL)
        for changed in ({"root_hash": bytes(32)}, {"old_size": 5, "indices": {}}, {"indices": {b"other": 8}}):
            with pytest.raises(ConflictError):
                await ledger.replace_rounds([replace(make_round(7, 9), **changed)])
        with pytest.raises(ConflictError, match="another tree"):
            await ledger.replace_rounds([replace(make_round(0, 2), root_hash=bytes(32))])
        for size in (3, 5, 8, 10):
            with pytest.raises(ConflictError, match="no round"):
                await ledger.replace_rounds([make_round(size - 1, size)] if size != 8 else [make_round(9, 10)])
        await store.discard([SignedRound.key_of(LOG, 7)])
        with pytest.raises(ConflictError, match="ends at 6 entries") as caught:
            await Ledger.open(store, LOG, 9, limits=SMALL)
        assert caught.value.facts == {"log": LOG, "expected": 6, "got": 7}

    asyncio.run(run())


def test_a_ledger_may_begin_late() -> None:
    """A log that begins at a large size has a ledger that begins there, up to the last entry there can be."""

    async def run() -> None:
        store, start = MemoryStore(), 2**48 - 20
        await Ledger.create(store, LOG, start)
        with pytest.raises(ConflictError):
            await Ledger.create(store, LOG, start - 1)
        ledger = await Ledger.open(store, LOG, start, limits=SMALL)
        sizes = [*range(start, 2**48, 3), 2**48 - 1]
        await record_all(ledger, sizes)
        again = await Ledger.open(store, LOG, 2**48 - 1, limits=SMALL)
        assert await again.find([key_of(start), key_of(2**48 - 2)]) == {
            key_of(start): start,
            key_of(2**48 - 2): 2**48 - 2,
        }
        assert [round_.new_size for round_ in await collect(again.rounds(0, 2**48))] == sizes[1:]
        assert await again.round_of(start - 1) is None
        await again.prune(2**48)
        assert await again.find([key_of(start)]) == {}

    asyncio.run(run())


# Damage.


def test_every_flipped_bit_is_found() -> None:
    """A flipped bit in any object of the ledger is found by whoever reads it, and the error names the object."""

    async def run() -> None:
        store = MemoryStore()
        ledger = await Ledger.open(store, LOG, 0, limits=SMALL)
        await record_all(ledger, range(0, 56, 5))
        assert {key.split("/")[3] for key in store.objects} == {"page", "keys", "run", "manifest", "round"}
        for key, data in dict(store.objects).items():
            for at in {0, len(data) // 3, len(data) - 40, len(data) - 1} - {-1}:
                flipped = bytearray(data)
                flipped[max(at, 0)] ^= 4
                for broken in (bytes(flipped), data[:at], data + b"\0"):
                    store.objects[key] = broken
                    with pytest.raises(FormatError) as caught:
                        await read_everything(store, 55)
                    assert caught.value.facts["key"] == key
                    assert caught.value.reason is Reason.DAMAGED
            store.objects[key] = data
        await read_everything(store, 55)

    asyncio.run(run())


async def read_everything(store: MemoryStore, size: int) -> None:
    """Open a ledger, and raise the first fault that is found in it."""
    ledger = await Ledger.open(store, LOG, size, least_size=size, limits=replace(SMALL, cached_bytes=0))
    async for fault in ledger.find_faults():
        raise fault


def test_a_lost_object_is_named() -> None:
    """Without one of its sealed objects the ledger gives no answer that might be wrong; it names what is missing."""

    async def run() -> None:
        store = MemoryStore()
        ledger = await Ledger.open(store, LOG, 0, limits=SMALL)
        await record_all(ledger, range(0, 51, 5))
        for key, data in dict(store.objects).items():
            del store.objects[key]
            with pytest.raises(ConflictError) as caught:
                await read_everything(store, 50)
            assert key in caught.value.message or "manifest" in key
            store.objects[key] = data

    asyncio.run(run())


def test_a_wrong_answer_is_never_given() -> None:
    """With any one bucket, table or page damaged or lost, a look-up answers rightly or raises."""

    async def run() -> None:
        store = MemoryStore()
        ledger = await Ledger.open(store, LOG, 0, limits=SMALL)
        await record_all(ledger, range(0, 56, 5))
        for key, data in dict(store.objects).items():
            if key.split("/")[3] == "manifest" or key.endswith("filter") or key.split("/")[3] == "round":
                continue
            named: set[object] = set()
            for broken in (None, data[:-1], b"\0" + data[1:]):
                if broken is None:
                    del store.objects[key]
                else:
                    store.objects[key] = broken
                ledger = await Ledger.open(store, LOG, 55, limits=replace(SMALL, cached_bytes=0))
                for index in range(60):
                    try:
                        found = await ledger.find([key_of(index)])
                        round_ = await ledger.round_of(index)
                    except (ConflictError, FormatError) as error:
                        named.add(error.facts["key"])
                        continue
                    assert found == ({key_of(index): index} if index < 55 else {})
                    assert (round_ is not None) == (index < 55)
            # Nothing is ever looked up in an empty bucket.
            assert named == {key} or ("/run/" in key and len(data) == 32)
            store.objects[key] = data

    asyncio.run(run())


def test_what_does_not_fit_is_found() -> None:
    """An index that was written whole but with other records, or without one, does not fit its pages."""

    async def run() -> None:
        store = MemoryStore()
        ledger = await Ledger.open(store, LOG, 0, limits=SMALL)
        await record_all(ledger, range(0, 41, 4))
        key, body = next(
            (key, data[:-32]) for key, data in store.objects.items() if "/run/" in key and len(data) > 32 + 28
        )
        for wrong in (body[14:], body[14:28] + body[:14] + body[28:], body[:13] + bytes((body[13] ^ 1,)) + body[14:]):
            store.objects[key] = protect(key, wrong)
            ledger = await Ledger.open(store, LOG, 40, limits=SMALL)
            assert [fault.reason async for fault in ledger.find_faults()] != []
        store.objects[key] = protect(key, body)
        assert [fault async for fault in ledger.find_faults()] == []

    asyncio.run(run())


def test_the_index_is_rebuilt_from_pages() -> None:
    """Runs and manifest, damaged or lost, are made anew from pages and tables; without those nothing is rebuilt."""

    async def run() -> None:
        store = MemoryStore()
        ledger = await Ledger.open(store, LOG, 0, limits=SMALL)
        await record_all(ledger, range(0, 96, 5))
        await ledger.prune(20)
        whole = dict(store.objects)
        known = {key_of(index): index for index in range(ledger.manifest.keys_from, 95)}
        for kind in ("run", "manifest", "page", "keys"):
            names = [key for key in whole if key.split("/")[3] == kind]
            lost = names if kind in ("run", "manifest") else names[1:2]
            store.objects = {key: data for key, data in whole.items() if key not in lost}
            if kind in ("page", "keys"):
                with pytest.raises(ConflictError):
                    await Ledger.rebuild(store, LOG, limits=SMALL)
                continue
            await Ledger.rebuild(store, LOG, limits=SMALL)
            ledger = await Ledger.open(store, LOG, 95, least_size=95, limits=SMALL)
            assert await ledger.find([key_of(index) for index in range(100)]) == known
            await ledger.settle()
            assert await ledger.find([key_of(index) for index in range(100)]) == known
            assert [fault async for fault in ledger.find_faults()] == []
            live = {key for run in ledger.manifest.runs for key in run.keys(LOG)}
            assert {key for key in store.objects if "/run/" in key} == live
            await Ledger.rebuild(store, LOG, limits=SMALL)
            await read_everything(store, 95)

    asyncio.run(run())


def test_a_swapped_object_is_found() -> None:
    """An object under the key of another one is damaged, even though its bytes are whole."""
    assert open_object("a", protect("a", b"body")) == b"body"
    for key, data in (("b", protect("a", b"body")), ("a", b""), ("a", protect("a", b"body") + b"\0")):
        with pytest.raises(FormatError):
            open_object(key, data)


# Formats.

ROUNDS = [make_round(0, 5), make_round(5, 9, lambda index: index == 7), make_round(9, 30, lambda _: False, version=1)]


@pytest.mark.parametrize(
    ("parse", "data"),
    [
        *((SignedRound.parse, round_.encode()) for round_ in ROUNDS),
        (Page.parse, Page.encode(ROUNDS)),
        (KeyTable.parse, KeyTable.encode(3, [b"a", b"", b"bcd"])),
        (Manifest.parse, Manifest(1, 5, keys_from=5, dead_from=5).encode()),
    ],
)
def test_every_truncation_is_refused(parse: Callable[[bytes], object], data: bytes) -> None:
    """Each format is read whole, and refused with an end cut off, with a byte too many, or in another version."""
    parse(data)
    for length in range(len(data)):
        with pytest.raises(FormatError):
            parse(data[:length])
    for broken in (data + b"\0", bytes((data[0] + 1,)) + data[1:]):
        with pytest.raises(FormatError):
            parse(broken)


def test_rounds_and_pages_round_trip() -> None:
    """What is encoded is parsed again as it was; a page has the rounds without their keys, a table has the keys."""
    for round_ in ROUNDS:
        assert SignedRound.parse(round_.encode()) == round_
        assert SignedRound.parse(round_.encode(has_keys=False)) == replace(round_, indices={})
    page = Page.parse(Page.encode(ROUNDS))
    assert page.rounds() == [replace(round_, indices={}) for round_ in ROUNDS]
    table = KeyTable.parse(KeyTable.encode(3, [b"a", b"", b"bcd"]))
    assert [table.key_at(index) for index in range(2, 8)] == [b"", b"a", b"", b"bcd", b"", b""]
    assert table.keys_of(4, 6) == [b"", b"bcd"]


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 300])
def test_few_and_many_candidates_are_confirmed_alike(count: int) -> None:
    """However many are asked for, exactly those keys match that are the keys of their entries."""
    keys = [key_of(index) if index % 3 else b"" for index in range(100, 500)]
    table = KeyTable.parse(KeyTable.encode(100, keys))
    wrong = [(key_of(101), 102), (key_of(50), 50), (key_of(600), 600), (b"other", 101), (key_of(102), 2)]
    right = [(key_of(index), index) for index in range(100, 100 + count) if index % 3]
    assert table.matches([*right, *wrong[: max(count, 1)]]) == dict(right)


def test_a_cache_keeps_what_was_asked_for_last() -> None:
    """A cache never holds more bytes than it may; what was not asked for longest goes first."""
    cache = ObjectCache(10)
    for name in "abc":
        cache.keep(name, name, 4)
    assert [cache.find(name) for name in "abc"] == [None, "b", "c"]
    cache.find("b")
    cache.keep("d", "d", 4)
    assert [cache.find(name) for name in "bcd"] == ["b", None, "d"]
    cache.keep("b", "larger", 11)
    assert [cache.find(name) for name in "bd"] == [None, "d"]


def test_rounds_that_cannot_be_are_refused() -> None:
    """A round has no key outside of its entries, no two keys of one entry, no empty and no long key."""
    for indices in ({b"a": 4}, {b"a": 10}, {b"a": 5, b"b": 5}, {b"": 5}, {b"a" * 256: 5}):
        with pytest.raises(FormatError):
            replace(ROUNDS[1], indices=indices)
    with pytest.raises(FormatError):
        SignedRound(5, 4, b"", 0, b"", {}, {})
    with pytest.raises(UsageError):
        _ = SignedRound(0, 1 << 25, b"", 0, b"", {b"a": 1}, {}).keys


def test_manifests_that_contradict_themselves_are_refused() -> None:
    """Damage that the digest cannot show, because it was written so, is refused as well."""

    async def run() -> None:
        store = MemoryStore()
        ledger = await Ledger.open(store, LOG, 0, limits=SMALL)
        await record_all(ledger, range(0, 41, 4))
        good = ledger.manifest
        key = manifest_key(LOG, good.generation + 3)
        store.objects[key] = protect(key, good.encode())
        with pytest.raises(FormatError, match="another manifest"):
            await Ledger.open(store, LOG, 40, limits=SMALL)
        name = SignedRound.key_of(LOG, 41)
        store.objects = {name: protect(name, make_round(0, 4).encode())}
        with pytest.raises(FormatError, match="another round"):
            await Ledger.open(store, LOG, 44, limits=SMALL)
        ends = good.page_ends
        for changes in (
            {"page_ends": ends[::-1]},
            {"start": 9},
            {"keys_from": 1000},
            {"dead_from": 8},
            {"runs": good.runs[::-1]},
            {"runs": (*good.runs, replace(good.runs[-1], start=40, end=48))},
        ):
            with pytest.raises(FormatError):
                replace(good, **changes)

    asyncio.run(run())
