"""The ledger under failing storage, dying processes and second writers: nothing that was recorded is lost."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from tests.ledgers import LOG, SMALL, check_all, collect, key_of, kill_others, make_round, record_all

from mtc.errors import ConflictError, StorageError
from mtc.log.ledger import SignedRound
from mtc.log.ledger.service import Ledger
from mtc.merkle import Subtree
from mtc.store import MemoryStore
from mtc.testing import FailingStore, Failure

SIZES = [0, 3, 8, 9, 10, 11, 20, 28, 31, 36, 40, 48, 50, 51, 52]


async def _story(store: MemoryStore, crash: Callable[[], bool]) -> int:
    """Record rounds with one renewal and one pruning between; every step is tried until it succeeds.

    crash: whether the process dies now; asked when a step failed, and when one is over with what it began behind it.
    Returns how many steps failed.
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
            await ledger.close()
            if crash():
                # A write failed in the background, and the process dies before it is tried again.
                ledger = None
            return

    for old, new in pairwise(SIZES):
        await attempt(lambda ledger, old=old, new=new: ledger.record(make_round(old, new)))  # type: ignore[misc]
        size = new
        ledger = ledger or await Ledger.open(store, LOG, SIZES[-1], limits=SMALL)
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
        deaths = 0

        def dies() -> bool:
            nonlocal deaths
            is_due = is_crash and not deaths and store.plan.writes > number
            deaths += is_due
            return is_due

        failed = await _story(store, dies)
        assert deaths == is_crash
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
        kill_others()
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
