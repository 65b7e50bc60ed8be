"""Validation evidence has an age, and the key judges it: nothing is issued on stale evidence, and nothing is lost."""

import asyncio
from collections.abc import Iterator, Sequence
from itertools import count

import pytest
from tests.rule_signer import HASHER, RuleSigner

from mtc.errors import ConflictError, Error, PeerError, Reason, Rejected, StorageError
from mtc.log import LogRecord, PendingEntry
from mtc.log.service import Appended, IssuanceLog
from mtc.merkle import root_hash
from mtc.note import Checkpoint, parse_note
from mtc.testing import FailingRegister, FailingStore, Failure, FakeClock
from mtc.tiles import EntryBundle, bundles_for_growth
from mtc.web import ClockGuard

NOW = int(FakeClock().now().timestamp())


class World:
    """What survives a crash of the sequencer."""

    def __init__(self) -> None:
        self.store, self.register, self.clock = FailingStore(), FailingRegister(), FakeClock()
        self.signer = RuleSigner(self.clock)

    async def open(self) -> IssuanceLog:
        """Start a sequencer."""
        return await IssuanceLog.open(HASHER, 1, self.store, self.register, self.signer, ClockGuard(self.clock))

    @property
    def record(self) -> LogRecord:
        """What the register says."""
        return LogRecord.parse(self.register.values["log-1"])

    def bodies(self) -> list[bytes]:
        """Return the bodies of the published entries, checked against the checkpoint's root."""
        checkpoint = Checkpoint.parse(parse_note(self.store.objects["public/1/checkpoint"]).text)
        entries: list[bytes] = []
        for place in bundles_for_growth(0, checkpoint.tree_size):
            entries += EntryBundle.parse(self.store.objects[f"public/1/{place.path}"], place.width).entries
        assert root_hash(HASHER, HASHER.leaves(entries)) == checkpoint.root_hash
        return [data[4:] for data in entries]

    def public(self) -> set[str]:
        """Return the keys of everything that is served."""
        return {key for key in self.store.objects if key.startswith("public/")}

    def staged(self) -> list[str]:
        """Return the keys of the staged rounds."""
        return [key for key in self.store.objects if key.startswith("private/staging/")]


def entry(name: str, until: int = 0) -> PendingEntry:
    """Return an entry with a request key, whose evidence ends so many seconds after the start; 0: never."""
    return PendingEntry(0xF000, name.encode(), 0, b"key " + name.encode(), NOW + until if until else 0)


async def hand_in(log: IssuanceLog, *entries: PendingEntry) -> "list[asyncio.Task[Appended]]":
    """Put entries into the pool."""
    tasks = [asyncio.create_task(log.append(item)) for item in entries]
    await asyncio.sleep(0)
    return tasks


async def outcomes(tasks: "list[asyncio.Task[Appended]]") -> list[object]:
    """Return the index, or the reason of the error, of each."""
    results = await asyncio.gather(*tasks, return_exceptions=True)
    return [
        item.reason if isinstance(item, Error) else item.index if isinstance(item, Appended) else item
        for item in results
    ]


def test_planning_leaves_stale_entries_out() -> None:
    """An entry whose evidence ended while it waited is told so and gets no index; at its last second it is signed."""

    async def run() -> None:
        world = World()
        log = await world.open()
        tasks = await hand_in(log, entry("a", 9), entry("b", 10), entry("c"))
        world.clock.advance(10)
        await log.run_round()
        assert await outcomes(tasks) == [Reason.STALE_EVIDENCE, 0, 1]
        assert world.bodies() == [b"b", b"c"]
        with pytest.raises(Rejected, match="validate again"):
            await tasks[0]
        only = await hand_in(log, entry("d", 9))
        assert await log.run_round() is None
        assert await outcomes(only) == [Reason.STALE_EVIDENCE]

    asyncio.run(run())


def test_only_the_stale_entry_of_a_group_is_refused() -> None:
    """Of entries that are handed in together, each has its own answer."""

    async def run() -> None:
        world = World()
        log = await world.open()
        waiting = asyncio.create_task(log.submit([entry("a", 9), entry("b"), entry("c", 20)]))
        await asyncio.sleep(0)
        world.clock.advance(10)
        await log.run_round()
        first, second, third = await waiting
        assert isinstance(first, Rejected)
        assert isinstance(second, Appended)
        assert isinstance(third, Appended)
        assert (second.index, third.index) == (0, 1)

    asyncio.run(run())


def test_stale_at_signing_undoes_the_round() -> None:
    """A round that waited for its signer too long is undone: nothing of it was public, the fresh ones go on at once."""

    async def run() -> None:
        world = World()
        log = await world.open()
        first = await hand_in(log, entry("z"))
        await log.run_round()
        before, public = world.record, world.public()
        tasks = await hand_in(log, entry("a", 10), entry("b"), entry("c", 1000))
        world.signer.is_away = True
        for _ in range(3):
            with pytest.raises(PeerError):
                await log.run_round()
        assert world.record.tree_size == 4
        assert world.record.evidence_until == NOW + 10
        assert LogRecord.parse(world.record.before) == before.settled
        assert world.public() == public, "nothing is published before it is signed"
        world.clock.advance(11)
        world.signer.is_away = False
        await log.run_round()
        assert await outcomes(first + tasks) == [0, Reason.STALE_EVIDENCE, 1, 2]
        assert world.bodies() == [b"z", b"b", b"c"]
        assert [tree.tree_size for tree in world.signer.trees] == [0, 1, 3]
        assert not world.staged()

    asyncio.run(run())


def test_without_fresh_entries_the_log_is_as_before() -> None:
    """After an undone round the register holds the record before it, byte by byte, and goes on from there."""

    async def run() -> None:
        world = World()
        log = await world.open()
        await hand_in(log, entry("z", 5))
        await log.run_round()
        before = world.record.settled.encode()
        tasks = await hand_in(log, entry("a", 10))
        world.signer.is_away = True
        with pytest.raises(PeerError):
            await log.run_round()
        world.clock.advance(60)
        world.signer.is_away = False
        assert await log.run_round() is None
        assert await outcomes(tasks) == [Reason.STALE_EVIDENCE]
        assert world.register.values["log-1"] == before
        again = await world.open()
        assert again.record.tree_size == 1
        tasks = await hand_in(again, entry("a", 100))
        await again.run_round()
        assert await outcomes(tasks) == [1]

    asyncio.run(run())


def test_stale_in_recovery_after_a_long_stop() -> None:
    """A round that was staged before a long stop is not signed on old evidence; nobody waits, requests come again."""

    async def run() -> None:
        world = World()
        log = await world.open()
        await hand_in(log, entry("a", 10), entry("b"))
        world.signer.is_away = True
        with pytest.raises(PeerError):
            await log.run_round()
        world.clock.advance(86400 * 30)
        world.signer.is_away = False
        log = await world.open()
        assert (log.record.tree_size, world.staged(), world.bodies()) == (0, [], [])
        tasks = await hand_in(log, entry("b"), entry("a", 86400 * 31))
        await log.run_round()
        assert await outcomes(tasks) == [0, 1]

    asyncio.run(run())


@pytest.mark.parametrize("is_crash", [True, False], ids=["crash", "retry"])
def test_signed_before_is_finished_whatever_its_age(*, is_crash: bool) -> None:
    """An entry is issued when the key signs: a round whose answer was lost is finished, however long it took."""

    async def run() -> None:
        world = World()
        log = await world.open()
        tasks = await hand_in(log, entry("a", 10), entry("b"))
        world.signer.answers_lost = 1
        with pytest.raises(PeerError):
            await log.run_round()
        world.clock.advance(86400)
        if is_crash:
            log = await world.open()
        else:
            await log.run_round()
            assert await outcomes(tasks) == [0, 1]
        assert world.bodies() == [b"a", b"b"]
        tasks = await hand_in(log, entry("a", 10))
        await log.run_round()
        assert await outcomes(tasks) == [0]

    asyncio.run(run())


def test_refusal_holds_when_the_clock_goes_back() -> None:
    """What was refused as stale stays refused, so that two sequencers never disagree about what was undone."""

    async def run() -> None:
        world = World()
        slow = await world.open()
        await hand_in(slow, entry("a", 10))
        world.signer.is_away = True
        with pytest.raises(PeerError):
            await slow.run_round()
        world.clock.advance(60)
        world.signer.is_away = False
        fast = await world.open()
        assert world.record.tree_size == 0
        world.clock.advance(-60)
        tasks = await hand_in(fast, entry("b", 20))
        await fast.run_round()
        assert await outcomes(tasks) == [Reason.STALE_EVIDENCE]
        tasks = await hand_in(fast, entry("b", 100))
        await fast.run_round()
        assert await outcomes(tasks) == [0]
        with pytest.raises(ConflictError):
            await slow.run_round()
        assert {(tree.tree_size, tree.root_hash) for tree in world.signer.trees} == {
            (0, HASHER.empty),
            (1, world.record.root_hash),
        }

    asyncio.run(run())


def test_other_sequencer_may_have_gone_back_already() -> None:
    """Two sequencers that undo the same round agree; the next swap decides between them."""

    async def run() -> None:
        world = World()
        slow = await world.open()
        tasks = await hand_in(slow, entry("a", 10), entry("b"))
        world.signer.is_away = True
        with pytest.raises(PeerError):
            await slow.run_round()
        world.clock.advance(60)
        world.signer.is_away = False
        fast = await world.open()
        await slow.run_round()
        assert await outcomes(tasks) == [Reason.STALE_EVIDENCE, 0]
        await hand_in(fast, entry("c"))
        with pytest.raises(ConflictError, match="another sequencer"):
            await fast.run_round()
        assert world.bodies() == [b"b"]

    asyncio.run(run())


def test_published_round_is_never_undone() -> None:
    """A key that has forgotten a tree of which something is public is a conflict, and the register stays."""

    async def run() -> None:
        world = World()
        log = await world.open()
        older = dict(world.signer.views)
        await hand_in(log, entry("a", 10))
        world.store.plan.fail_write(world.store.plan.writes + 1, Failure.KEPT)
        with pytest.raises(StorageError):
            await log.run_round()
        world.signer.views = older
        world.clock.advance(60)
        with pytest.raises(ConflictError, match="older copy of its record"):
            await world.open()
        assert world.record.tree_size == 1

    asyncio.run(run())


def test_signer_whose_clock_is_ahead_ends_no_request_in_a_circle() -> None:
    """A key that says stale when the log's clock does not is obeyed: the entries that it is about are told."""

    async def run() -> None:
        world = World()
        world.signer.clock = FakeClock()
        log = await world.open()
        world.signer.clock.advance(200)
        tasks = await hand_in(log, entry("a", 100), entry("b", 150), entry("c", 250), entry("d"))
        for _ in range(3):
            await log.run_round()
        assert await outcomes(tasks) == [Reason.STALE_EVIDENCE, Reason.STALE_EVIDENCE, 0, 1]

    asyncio.run(run())


async def try_step(
    world: World,
    log: IssuanceLog | None,
    entries: Sequence[PendingEntry],
    answers: dict[str, object],
    *,
    is_away: bool,
) -> IssuanceLog:
    """Open the log if it is not, ask, do two rounds, and note the answers. Raises what fails."""
    world.signer.is_away = is_away and log is not None
    if log is None:
        log = await world.open()
    world.signer.is_away = is_away
    tasks = await hand_in(log, *entries)
    try:
        await log.run_round()
        await log.run_round()
        for item, outcome in zip(entries, await outcomes(tasks), strict=True):
            assert answers.setdefault(item.body.decode(), outcome) == outcome, "one request, one answer"
    finally:
        for task in tasks:
            task.cancel()
    return log


async def play(world: World, *, is_crash: bool) -> dict[str, object]:
    """Play the story in which a round goes stale between staging and signing; whoever is not answered asks again."""
    answers: dict[str, object] = {}
    log: IssuanceLog | None = None
    steps = (
        (0, False, (entry("z"), entry("y", 5))),
        (1, True, (entry("a", 30), entry("b"), entry("c", 500))),
        (60, False, (entry("a", 30), entry("b"), entry("c", 500))),
        (1, False, (entry("d", 500),)),
    )
    for seconds, is_away, entries in steps:
        world.clock.advance(seconds)
        for attempt in count():
            assert attempt < 4, "one failure costs one attempt"
            try:
                log = await try_step(world, log, entries, answers, is_away=is_away)
            except StorageError:
                log = None if is_crash else log
                continue
            except PeerError:
                assert is_away
                log = None if is_crash else log
            break
    return answers


def _writes() -> Iterator[tuple[str, int]]:
    """Name each write of the story: which storage, which number."""
    world = World()
    asyncio.run(play(world, is_crash=False))
    yield from (("store", number) for number in range(world.store.plan.writes))
    yield from (("register", number) for number in range(world.register.plan.writes))


@pytest.mark.parametrize("failure", Failure, ids=lambda failure: failure.value)
@pytest.mark.parametrize(("where", "number"), list(_writes()), ids=str)
@pytest.mark.parametrize("is_crash", [True, False], ids=["crash", "retry"])
def test_every_write_may_fail(where: str, number: int, failure: Failure, *, is_crash: bool) -> None:
    """Whichever write fails, lost or kept: the stale entry is never in the log, every other one is, once."""

    async def run() -> None:
        world = World()
        (world.store if where == "store" else world.register).plan.fail_write(number, failure)
        answers = await play(world, is_crash=is_crash)
        assert sorted(world.bodies()) == [b"b", b"c", b"d", b"y", b"z"]
        assert answers.pop("a") is Reason.STALE_EVIDENCE
        for name, index in answers.items():
            assert isinstance(index, int)
            assert world.bodies()[index] == name.encode()
        roots = {(tree.tree_size, tree.root_hash) for tree in world.signer.trees}
        assert len(roots) == len({size for size, _ in roots}), "one tree per size is signed"
        world.clock.advance(1)
        again = await world.open()
        assert again.record.tree_size == 5

    asyncio.run(run())


def test_costs_are_those_of_a_round_without_evidence() -> None:
    """Evidence that holds costs no write more: five to the store and one swap."""

    async def run() -> None:
        world = World()
        log = await world.open()
        before = (world.store.plan.writes, world.register.plan.writes)
        await hand_in(log, entry("a", 10))
        await log.run_round()
        assert (world.store.plan.writes - before[0], world.register.plan.writes - before[1]) == (5, 1)

    asyncio.run(run())
