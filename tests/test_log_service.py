"""The sequencer under failing storage: nothing acknowledged is lost, no index given twice, one tree signed per size."""

import asyncio
from collections.abc import Iterator
from itertools import count

import pytest

from mtc.errors import ConflictError, StorageError
from mtc.kernel import active_kernel
from mtc.log import PendingEntry
from mtc.log.service import Appended, IssuanceLog, SignedTree, TreeToSign
from mtc.merkle import root_hash
from mtc.note import Checkpoint, Note, NoteSignature, parse_note
from mtc.testing import FailingRegister, FailingStore, Failure, FakeClock
from mtc.tiles import EntryBundle, bundles_for_growth
from mtc.web import ClockGuard

HASHER = active_kernel().hasher("sha256")


class RecordingSigner:
    """A signer that signs nothing and remembers everything; it refuses what a real one must refuse."""

    def __init__(self) -> None:
        self.trees: list[TreeToSign] = []

    async def sign_tree(self, tree: TreeToSign) -> SignedTree:
        """Remember the tree. Two roots of one size, or a size that goes back, are a failure of the log."""
        for earlier in self.trees:
            assert earlier.tree_size <= tree.tree_size, "a signed tree never shrinks"
            assert earlier.timestamp <= tree.timestamp, "timestamps never go back"
            if earlier.tree_size == tree.tree_size:
                assert earlier.root_hash == tree.root_hash, "no two trees of one size are signed"
        self.trees.append(tree)
        text = Checkpoint("log", tree.tree_size, tree.root_hash).encode()
        return SignedTree(Note(text, (NoteSignature("signer", bytes(4), b"none"),)).encode(), {})


class World:
    """What survives a crash of the sequencer: storage, register, the signer's memory, and the time."""

    def __init__(self) -> None:
        self.store, self.register = FailingStore(), FailingRegister()
        self.signer, self.clock = RecordingSigner(), FakeClock()

    async def open(self) -> IssuanceLog:
        """Start a sequencer."""
        return await IssuanceLog.open(HASHER, 1, self.store, self.register, self.signer, ClockGuard(self.clock))

    def entries(self) -> list[bytes]:
        """Return all entries of the published checkpoint's tree, from the served bundles, checked against its root."""
        checkpoint = Checkpoint.parse(parse_note(self.store.objects["public/1/checkpoint"]).text)
        entries: list[bytes] = []
        for place in bundles_for_growth(0, checkpoint.tree_size):
            entries += EntryBundle.parse(self.store.objects[f"public/1/{place.path}"], place.width).entries
        assert root_hash(HASHER, HASHER.leaves(entries)) == checkpoint.root_hash, "what is served hashes to the root"
        return entries


def entry(number: int) -> PendingEntry:
    """Return an entry with a request key of its own."""
    return PendingEntry(0xF000, b"entry %d" % number, 0, b"request %d" % number)


async def append_round(log: IssuanceLog, numbers: range) -> list[Appended]:
    """Append entries and do one round."""
    tasks = [asyncio.create_task(log.append(entry(number))) for number in numbers]
    await asyncio.sleep(0)
    await log.run_round()
    return [await task for task in tasks]


def test_entries_get_indices_in_order_and_are_served() -> None:
    """Appended entries are acknowledged with consecutive indices when their checkpoint is published."""

    async def run() -> None:
        world = World()
        log = await world.open()
        first = await append_round(log, range(3))
        second = await append_round(log, range(3, 300))
        assert [item.index for item in first + second] == list(range(300))
        assert [data[4:] for data in world.entries()] == [b"entry %d" % number for number in range(300)]
        assert [tree.tree_size for tree in world.signer.trees] == [0, 3, 300]
        assert await log.run_round() is None

    asyncio.run(run())


def test_repeated_requests_get_the_same_entry_also_after_a_restart() -> None:
    """One request key is one entry, in the pool, after its round, and after a restart."""

    async def run() -> None:
        world = World()
        log = await world.open()
        tasks = [asyncio.create_task(log.append(entry(7))) for _ in range(3)]
        await asyncio.sleep(0)
        await log.run_round()
        assert {(await task).index for task in tasks} == {0}
        (place,) = await append_round(log, range(7, 8))
        assert (place.index, place.round_) == (0, None)
        again = await world.open()
        (place,) = await append_round(again, range(7, 8))
        assert (place.index, place.round_) == (0, None)
        assert len(world.entries()) == 1

    asyncio.run(run())


def _story_writes() -> Iterator[tuple[str, int]]:
    """Name each write of a story of three rounds: which storage, which number."""

    async def run() -> tuple[int, int]:
        world = World()
        log = await world.open()
        for start in (0, 2, 260):
            await append_round(log, range(start, start + 2 if start != 2 else 260))
        return world.store.plan.writes, world.register.plan.writes

    stores, registers = asyncio.run(run())
    yield from (("store", number) for number in range(stores))
    yield from (("register", number) for number in range(registers))


@pytest.mark.parametrize("failure", Failure, ids=lambda failure: failure.value)
@pytest.mark.parametrize(("where", "number"), list(_story_writes()), ids=str)
@pytest.mark.parametrize("is_crash", [True, False], ids=["crash", "retry"])
def test_every_write_may_fail(where: str, number: int, failure: Failure, *, is_crash: bool) -> None:
    """Whichever write fails, lost or kept, and whether the process dies or tries again: every request has one entry."""

    async def run() -> None:
        world = World()
        (world.store if where == "store" else world.register).plan.fail_write(number, failure)
        acknowledged: dict[int, int] = {}
        log: IssuanceLog | None = None
        for numbers in (range(2), range(2, 260), range(260, 262)):
            for attempt in count():
                assert attempt < 3, "one failure costs one attempt"
                world.clock.advance(1)
                try:
                    if log is None:
                        log = await world.open()
                    tasks = [asyncio.create_task(log.append(entry(item))) for item in numbers]
                    await asyncio.sleep(0)
                    await log.run_round()
                    places = await asyncio.gather(*tasks)
                except StorageError:
                    if is_crash or log is None:
                        log = None
                    for task in asyncio.all_tasks() - {asyncio.current_task()}:
                        task.cancel()
                    await asyncio.sleep(0)
                    continue
                acknowledged |= {item: place.index for item, place in zip(numbers, places, strict=True)}
                break
        served = [data[4:] for data in world.entries()]
        assert sorted(served) == sorted(b"entry %d" % item for item in range(262)), (
            "every request has exactly one entry"
        )
        assert all(served[index] == b"entry %d" % item for item, index in acknowledged.items()), (
            "and it is where we said"
        )
        recovered = await world.open()
        assert recovered.record.tree_size == 262
        staged = [key for key in world.store.objects if key.startswith("private/staging/")]
        assert not staged, "and nothing staged is left"

    asyncio.run(run())


def test_second_sequencer_stops() -> None:
    """Of two sequencers the one that loses the swap stops, tells those who wait, and never reaches the key."""

    async def run() -> None:
        world = World()
        first, second = await world.open(), await world.open()
        await append_round(first, range(2))
        signed = len(world.signer.trees)
        waiting = asyncio.create_task(second.append(entry(9)))
        await asyncio.sleep(0)
        with pytest.raises(ConflictError, match="another sequencer"):
            await second.run_round()
        with pytest.raises(ConflictError):
            await waiting
        with pytest.raises(ConflictError):
            await second.append(entry(10))
        assert len(world.signer.trees) == signed
        assert len(await append_round(first, range(2, 4))) == 2

    asyncio.run(run())


def test_clock_that_jumps_holds_the_log_before_the_key() -> None:
    """When the time of day leaves the steady clock, nothing is signed until it is right again."""

    async def run() -> None:
        world = World()
        log = await world.open()
        await append_round(log, range(1))
        world.clock.jump(3600)
        waiting = asyncio.create_task(log.append(entry(1)))
        await asyncio.sleep(0)
        with pytest.raises(ConflictError, match="the clock jumped"):
            await log.run_round()
        assert [tree.tree_size for tree in world.signer.trees] == [0, 1]
        world.clock.jump(-3600)
        await log.run_round()
        assert (await waiting).index == 1

    asyncio.run(run())


def test_restored_storage_behind_the_register_is_refused() -> None:
    """An older copy of the objects under a newer register is a conflict, and nothing is signed."""

    async def run() -> None:
        world = World()
        log = await world.open()
        await append_round(log, range(2))
        older = dict(world.store.objects)
        await append_round(log, range(2, 5))
        world.store.objects = older
        signed = len(world.signer.trees)
        with pytest.raises(ConflictError, match="Do not sign"):
            await world.open()
        assert len(world.signer.trees) == signed

    asyncio.run(run())


def test_costs_of_a_round() -> None:
    """A round of one entry is five writes to the store and one swap; a round without entries is none."""

    async def run() -> None:
        world = World()
        log = await world.open()
        before = (world.store.plan.writes, world.register.plan.writes)
        await log.run_round()
        assert (world.store.plan.writes, world.register.plan.writes) == before
        await append_round(log, range(1))
        assert world.store.plan.writes - before[0] == 5
        assert world.register.plan.writes - before[1] == 1

    asyncio.run(run())
