"""The whole sequencer, ledger included, on a disk that forgets what was not synced; and a log at its bound."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from tests.test_log_cosigned import Mirror

from mtc.cert import LogEntry
from mtc.errors import ConflictError, Error, Reason
from mtc.kernel import active_kernel
from mtc.log import LogRecord, PendingEntry
from mtc.log.ledger.service import Ledger
from mtc.log.machine import recovery_keys
from mtc.log.service import Appended, IssuanceLog, RoundLimits, SignedTree, TreeToSign
from mtc.merkle import MAX_TREE_SIZE, Subtree, root_hash
from mtc.note import Checkpoint, Note, NoteSignature, parse_note
from mtc.store import FileStore, MemoryRegister, MemoryStore
from mtc.testing import Crash, FakeClock, ModelDisk
from mtc.tiles import (
    EntriesTile,
    EntryBundle,
    TileEdge,
    bundles_for_growth,
    partial_tiles,
)
from mtc.web import ClockGuard

HASHER = active_kernel().hasher("sha256")
ROUNDS = (("a", "b"), ("b", "c"), ("d",))
STATES = 6
MANY_STATES = pytest.param(24, marks=pytest.mark.slow, id="many")
Story = Callable[[FileStore, object, FakeClock, list[TreeToSign], dict[str, int]], Awaitable[None]]
"""Disks looked at per crash; the emptiest, the fullest, and others drawn by chance."""


class Signer:
    """A signer that signs nothing, remembers everything, and refuses what a real one must refuse."""

    def __init__(self, trees: list[TreeToSign]) -> None:
        self.trees = trees

    async def sign_tree(self, tree: TreeToSign) -> SignedTree:
        """Remember the tree; two roots of one size, or a size that goes back, are a failure of the log."""
        for earlier in self.trees:
            assert earlier.tree_size <= tree.tree_size, "a signed tree never shrinks"
            assert earlier.tree_size < tree.tree_size or earlier.root_hash == tree.root_hash, "one tree per size"
        self.trees.append(tree)
        text = Checkpoint("log", tree.tree_size, tree.root_hash).encode()
        return SignedTree(Note(text, (NoteSignature("signer", bytes(4), b"none"),)).encode(), {})


def entry(name: str) -> PendingEntry:
    """Return an entry with a request key of its own."""
    return PendingEntry(0xF000, b"entry " + name.encode(), 0, name.encode())


async def live(
    store: FileStore, register: object, clock: FakeClock, trees: list[TreeToSign], told: dict[str, int]
) -> None:
    """Run a sequencer through all rounds; note every acknowledgement when it comes."""
    log = await IssuanceLog.open(HASHER, 1, store, register, Signer(trees), ClockGuard(clock))  # type: ignore[arg-type]
    for names in ROUNDS:
        clock.advance(1)
        tasks = {name: asyncio.ensure_future(log.append(entry(name))) for name in names}
        try:
            await asyncio.sleep(0)
            await log.run_round()
            for name, task in tasks.items():
                index = (await task).index
                assert told.setdefault(name, index) == index, "one request, one answer"
        finally:
            for task in tasks.values():
                task.cancel()


async def live_ahead(
    store: FileStore, register: object, clock: FakeClock, trees: list[TreeToSign], told: dict[str, int]
) -> None:
    """The same, ahead of a mirror that is away for a while; in the end everybody asks once more."""
    mirror = Mirror()
    signer, guard = Signer(trees), ClockGuard(clock)
    log = await IssuanceLog.open(
        HASHER,
        1,
        store,
        register,  # type: ignore[arg-type]
        signer,
        guard,
        cosigners=mirror,
        limits=RoundLimits(may_run_ahead=True),
    )
    for is_away, names in ((True, ("a", "b")), (True, ("b", "c")), (False, ("d",)), (False, ("a", "b", "c", "d"))):
        mirror.is_away = is_away
        clock.advance(10)
        tasks = {name: asyncio.ensure_future(log.append(entry(name))) for name in names}
        try:
            await asyncio.sleep(0)
            for _ in range(2):
                await log.run_round()
                for _ in range(5):
                    await asyncio.sleep(0)
            for name, task in tasks.items():
                if task.done():
                    index = task.result().index
                    assert not any(item.start <= index < item.end for item in log.owed), "told before the quorum"
                    assert told.setdefault(name, index) == index, "one request, one answer"
                else:
                    assert is_away
        finally:
            for task in tasks.values():
                task.cancel()
    assert not await store.list_keys("private/owed/"), "nothing is owed in the end"


async def published(store: FileStore) -> list[bytes]:
    """Return the bodies of the published entries, checked against the checkpoint's root."""
    (data,) = await store.fetch(["public/1/checkpoint"])
    assert data is not None
    checkpoint = Checkpoint.parse(parse_note(data).text)
    entries: list[bytes] = []
    for place in bundles_for_growth(0, checkpoint.tree_size):
        (content,) = await store.fetch([f"public/1/{place.path}"])
        assert content is not None
        entries += EntryBundle.parse(content, place.width).entries
    assert root_hash(HASHER, HASHER.leaves(entries)) == checkpoint.root_hash
    return entries


async def crash_at(  # noqa: PLR0913 - what makes one crash unlike another
    number: int,
    *,
    keeps_last: bool = False,
    seed: int = 0,
    new_disk: Callable[[], ModelDisk] = ModelDisk,
    story: Story = live,
    limit: int = STATES,
) -> tuple[bool, int]:
    """Stop the machine at a system call, and go on from each disk that may be left. Returns whether it was reached."""
    disk, clock = new_disk(), FakeClock()
    trees: list[TreeToSign] = []
    told: dict[str, int] = {}
    disk.crash_at(number)
    register = disk.register()
    register.keeps_last = keeps_last
    try:
        await story(disk.store(), register, clock, trees, told)
    except Crash:
        pass
    else:
        return False, 0
    states = 0
    for left in disk.crash_states(limit if story is live else limit // 2, seed=seed):
        after, again = list(trees), dict(told)
        later = FakeClock()
        later.advance((clock.now() - later.now()).total_seconds() + 1)
        await story(left.store(), left.register(), later, after, again)
        entries = await published(left.store())
        assert len(entries) == len(again) == 4, "every request has one entry"
        for name, index in again.items():
            assert entries[index].endswith(name.encode()), "an acknowledged entry stays where it was said to be"
        assert not [key for key in await left.store().list_keys() if key.startswith("private/staging/")]
        states += 1
    return True, states


@pytest.fixture(autouse=True)
def _inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the store's threads in place, so that the number of a system call means the same in every play."""

    async def in_place(call, /, *arguments):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN002, ANN202
        return call(*arguments)

    monkeypatch.setattr(asyncio, "to_thread", in_place)


@pytest.mark.parametrize("limit", [pytest.param(STATES, id="few"), MANY_STATES])
@pytest.mark.parametrize("keeps_last", [False, True], ids=["lost", "kept"])
def test_every_crash_of_the_sequencer(keeps_last: bool, limit: int) -> None:  # noqa: FBT001
    """At every system call of three rounds the machine stops; from what is left all goes on, and nothing is lost."""

    async def run() -> None:
        total = 0
        for number in range(10_000):
            is_reached, states = await crash_at(number, keeps_last=keeps_last, seed=number, limit=limit)
            total += states
            if not is_reached:
                break
        assert number > 60, "the story has fewer system calls than expected"
        assert total > 40 * limit

    asyncio.run(run())


@pytest.mark.parametrize("limit", [pytest.param(STATES, id="few"), MANY_STATES])
def test_every_crash_of_a_sequencer_that_runs_ahead(limit: int) -> None:
    """The same with rounds that are owed in between: none is forgotten, and no place is told before its quorum."""

    async def run() -> None:
        for number in range(10_000):
            is_reached, _ = await crash_at(number, seed=number, story=live_ahead, limit=limit)
            if not is_reached:
                break
        assert number > 90, "the story has fewer system calls than expected"

    asyncio.run(run())


class FilesUnsynced(ModelDisk):
    """A disk whose user never syncs a file."""

    def sync_file(self, path: Path) -> None:  # noqa: ARG002 - it forgets
        """Do nothing."""
        self.count_call()


class FoldersUnsynced(ModelDisk):
    """A disk whose user never syncs a folder."""

    def sync_folder(self, path: Path) -> None:  # noqa: ARG002 - it forgets
        """Do nothing."""
        self.count_call()


@pytest.mark.parametrize("new_disk", [FilesUnsynced, FoldersUnsynced])
def test_missing_sync_is_found(new_disk: Callable[[], ModelDisk]) -> None:
    """The check above can fail: without one kind of sync a log is lost, or refuses to start."""

    async def run() -> None:
        for number in range(10_000):
            is_reached, _ = await crash_at(number, new_disk=new_disk)
            assert is_reached, "every crash was survived"

    with pytest.raises((AssertionError, Error)) as caught:
        asyncio.run(run())
    assert "every crash was survived" not in str(caught.value)


def _nearly_full(room: int) -> tuple[LogRecord, dict[str, bytes]]:
    """Return the record and the published objects that a log of 2^48 - 1 - room entries needs to go on."""
    size = MAX_TREE_SIZE - room
    data = LogEntry().encode()
    rows = [
        b"".join(HASHER.digest(b"%d %d" % (tile.level, position)) for position in range(tile.width))
        for tile in partial_tiles(size)
    ]
    rows[0] = HASHER.leaf(data) * (size % 256)
    edge = TileEdge(HASHER.size, size, tuple(rows))
    record = LogRecord(
        log_number=1, tree_size=size, root_hash=edge.root(HASHER), timestamp=int(FakeClock().now().timestamp())
    )
    objects = {f"public/1/{tile.path}": row for tile, row in zip(partial_tiles(size), rows, strict=True)}
    objects[f"public/1/{EntriesTile(size // 256, size % 256).path}"] = EntryBundle((data,) * (size % 256)).encode()
    assert set(objects) == set(recovery_keys(record))
    text = Checkpoint("log", size, record.root_hash).encode()
    objects["public/1/checkpoint"] = Note(text, (NoteSignature("signer", bytes(4), b"none"),)).encode()
    return record, objects


def test_log_that_starts_at_two_to_the_48_minus_3_ends_cleanly() -> None:
    """The last places are filled and served; what is beyond waits, is told so, and moves to the next log."""

    async def run() -> None:
        store, register, clock = MemoryStore(), MemoryRegister(), FakeClock()
        record, objects = _nearly_full(2)
        assert record.tree_size == 2**48 - 3
        store.objects.update(objects)
        register.values["log-1"] = record.encode()
        await Ledger.create(store, 1, record.tree_size)
        trees: list[TreeToSign] = []
        log = await IssuanceLog.open(HASHER, 1, store, register, Signer(trees), ClockGuard(clock))
        clock.advance(1)
        tasks = [asyncio.ensure_future(log.append(entry(name))) for name in "abc"]
        await asyncio.sleep(0)
        await log.run_round()
        assert [await task for task in tasks[:2]] == [
            replace(await task, index=record.tree_size + position) for position, task in enumerate(tasks[:2])
        ]
        assert trees[-1].tree_size == MAX_TREE_SIZE == 2**48 - 1
        checkpoint = Checkpoint.parse(parse_note(store.objects["public/1/checkpoint"]).text)
        assert (checkpoint.tree_size, checkpoint.root_hash) == (MAX_TREE_SIZE, trees[-1].root_hash)
        last = EntriesTile(MAX_TREE_SIZE // 256, MAX_TREE_SIZE % 256)
        served = EntryBundle.parse(store.objects[f"public/1/{last.path}"], last.width).entries[-1]
        assert served.endswith(b"entry b")
        assert await log.hash_of(Subtree(MAX_TREE_SIZE - 1, MAX_TREE_SIZE)) == HASHER.leaf(served)
        for _ in range(2):
            with pytest.raises(ConflictError, match="mtc ca rollover") as caught:
                await log.run_round()
            assert caught.value.reason is Reason.LOG_FULL
        assert log.stopped is None
        assert log.waiting == 1
        # A start at the bound changes nothing, and answers those who ask again.
        again = await IssuanceLog.open(HASHER, 1, store, register, Signer(trees), ClockGuard(clock))
        task = asyncio.ensure_future(again.append(entry("b")))
        await asyncio.sleep(0)
        await again.run_round()
        assert await task == Appended(1, record.tree_size + 1)
        assert trees[-1].tree_size == MAX_TREE_SIZE
        for waiting in tasks:
            waiting.cancel()

    asyncio.run(run())
