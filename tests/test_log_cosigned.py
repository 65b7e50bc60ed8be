"""A log that waits for its cosigners, or runs ahead: no place is told before the quorum, and nothing is forgotten."""

import asyncio
from collections.abc import Iterator, Sequence
from itertools import count

import pytest
from tests.rule_signer import CA_ID, HASHER, RuleSigner

from mtc.cert import SubtreeSignature
from mtc.errors import Error, FormatError, PeerError, Reason, Rejected, StorageError
from mtc.log import PendingEntry
from mtc.log.ledger.service import Ledger
from mtc.log.owed import KeptRound, complete_signatures
from mtc.log.service import (
    Appended,
    CosignerView,
    IssuanceLog,
    NoQuorumError,
    OwedRound,
    RoundLimits,
    SignedTree,
    TreeToSign,
    close_abandoned_log,
)
from mtc.log.service.owed import fetch_owed
from mtc.merkle import Subtree
from mtc.store import MemoryStore
from mtc.testing import FailingRegister, FailingStore, Failure, FakeClock
from mtc.web import ClockGuard

WEB = RoundLimits()
AHEAD = RoundLimits(may_run_ahead=True, max_owed_rounds=3)
MIRROR = b"m1"
BOTH = [CA_ID.binary, MIRROR]


class Mirror:
    """A source of one mirror. is_away: it does not answer. calls: the trees that it was asked for.

    answers_owed: it signs owed subtrees when asked; partial: what comes without the quorum is handed back.
    """

    def __init__(self) -> None:
        self.is_away = False
        self.answers_owed = True
        self.partial = False
        self.calls: list[TreeToSign] = []
        self.signed: list[TreeToSign] = []

    async def fetch_views(self, log_number: int) -> Sequence[CosignerView]:
        """Return what it has signed last of the log."""
        seen = [tree for tree in self.signed if tree.log_number == log_number]
        return [CosignerView("m1", tree.tree_size, tree.root_hash, tree.timestamp) for tree in seen[-1:]]

    async def cosign(self, tree: TreeToSign, signed: SignedTree) -> SignedTree:
        """Add the mirror's line and its subtree signatures, or none."""
        self.calls.append(tree)
        if self.is_away:
            # A witness answered, which is not enough by itself.
            witness = SubtreeSignature(b"m0", b"witness")
            signatures = {subtree: (*signed.signatures.get(subtree, ()), witness) for subtree, _ in tree.subtrees}
            half = SignedTree(signed.checkpoint + "— m0 AAAAAAA=\n".encode(), signatures)
            raise NoQuorumError(message="m1 is away", signed=half if self.partial else None)
        self.signed.append(tree)
        signature = SubtreeSignature(MIRROR, b"mirror")
        own = {subtree: (*signed.signatures.get(subtree, ()), signature) for subtree, _ in tree.subtrees}
        owed = {subtree: (signature,) for subtree, _ in tree.owed} if self.answers_owed else {}
        line = "— m1 AAAAAAA=\n".encode()
        return SignedTree(signed.checkpoint.removesuffix(line) + line, own | owed)


class World:
    """What survives a crash of the sequencer."""

    def __init__(self, limits: RoundLimits) -> None:
        self.limits = limits
        self.store, self.register, self.clock = FailingStore(), FailingRegister(), FakeClock()
        self.signer, self.mirror = RuleSigner(self.clock), Mirror()

    async def open(self, number: int = 1) -> IssuanceLog:
        """Start a sequencer."""
        earlier = {1: await Ledger.open(self.store, 1, 1 << 40)} if number == 2 else {}
        guard = ClockGuard(self.clock)
        return await IssuanceLog.open(
            HASHER,
            number,
            self.store,
            self.register,
            self.signer,
            guard,
            cosigners=self.mirror,
            limits=self.limits,
            earlier=earlier,
        )

    def keys(self, prefix: str) -> list[str]:
        """Return the keys of the objects below a prefix."""
        return sorted(key for key in self.store.objects if key.startswith(prefix))


def entry(name: str) -> PendingEntry:
    """Return an entry with a request key."""
    return PendingEntry(0xF000, name.encode(), 0, b"key " + name.encode())


async def hand_in(log: IssuanceLog, *names: str) -> "list[asyncio.Task[Appended]]":
    """Put entries into the pool."""
    tasks = [asyncio.create_task(log.append(entry(name))) for name in names]
    for _ in range(5):
        await asyncio.sleep(0)
    return tasks


async def settle() -> None:
    """Let everybody who can go on do so."""
    for _ in range(5):
        await asyncio.sleep(0)


def outcome_of(task: "asyncio.Task[Appended]") -> object:
    """Return the index, or family and reason of the error, or None while it waits."""
    if not task.done():
        return None
    error = task.exception()
    if isinstance(error, Error):
        return type(error), error.reason
    return task.result().index if error is None else error


def owed_of(log: IssuanceLog) -> list[OwedRound]:
    """Return the owed rounds of this moment."""
    return list(log.owed)


def trouble_of(log: IssuanceLog) -> tuple[int, str] | None:
    """Return the trouble of this moment."""
    return log.quorum_trouble


async def signers_of(log: IssuanceLog, index: int) -> list[list[bytes]]:
    """Return who signed each subtree of an entry's round, as the ledger says."""
    signed = await log.ledger.round_of(index)
    assert signed is not None
    return [[item.cosigner_id for item in signatures] for signatures in signed.signatures.values()]


IS_LATE, IS_REFUSED = (PeerError, Reason.NO_QUORUM), (Rejected, Reason.NO_QUORUM)


def test_web_log_waits_for_its_quorum() -> None:
    """Without the quorum a round stays unfinished: nothing is told, published or recorded, and nothing newer signed."""

    async def run() -> None:
        world = World(WEB)
        log = await world.open()
        checkpoint = world.store.objects["public/1/checkpoint"]
        world.mirror.is_away = True
        first = await hand_in(log, "a", "b")
        with pytest.raises(PeerError, match="m1 is away"):
            await log.run_round()
        later = await hand_in(log, "c")
        for _ in range(3):
            with pytest.raises(PeerError):
                await log.run_round()
        assert [tree.tree_size for tree in world.signer.trees] == [0, 2], "signed once"
        assert world.store.objects["public/1/checkpoint"] == checkpoint
        assert log.ledger.tree_size == 0
        assert [outcome_of(task) for task in first + later] == [None] * 3
        (owed,) = owed_of(log)
        assert (owed.log_number, owed.start, owed.end, owed.why) == (1, 0, 2, "m1 is away")
        assert trouble_of(log) == (owed.signed_at, "m1 is away")
        world.mirror.is_away = False
        await log.run_round()
        await log.run_round()
        await settle()
        assert [outcome_of(task) for task in first + later] == [0, 1, 2]
        assert owed_of(log) == []
        assert trouble_of(log) is None
        assert await signers_of(log, 0) == [BOTH] * 2

    asyncio.run(run())


def test_web_log_refuses_after_the_wait_and_resumes_by_itself() -> None:
    """After the wait those in the log are told where, those who are not that they are not; nothing new is taken."""

    async def run() -> None:
        world = World(WEB)
        log = await world.open()
        done = await hand_in(log, "z")
        await log.run_round()
        world.mirror.is_away = True
        inside = await hand_in(log, "a", "b")
        with pytest.raises(PeerError):
            await log.run_round()
        outside = await hand_in(log, "c")
        world.clock.advance(WEB.quorum_wait_s)
        with pytest.raises(PeerError):
            await log.run_round()
        await settle()
        assert [outcome_of(task) for task in inside + outside] == [None] * 3
        world.clock.advance(1)
        with pytest.raises(PeerError):
            await log.run_round()
        await settle()
        assert [outcome_of(task) for task in inside + outside] == [IS_LATE, IS_LATE, IS_REFUSED]
        error = inside[1].exception()
        assert isinstance(error, Error)
        assert error.facts == {"log": 1, "index": 2}
        assert "m1 is away" in error.message
        again = await hand_in(log, "a", "z", "c", "new")
        await settle()
        assert [outcome_of(task) for task in [*done, *again]] == [0, IS_LATE, 0, IS_REFUSED, IS_REFUSED]
        refusal = again[3].exception()
        assert isinstance(refusal, Rejected)
        assert "m1 is away" in refusal.message
        assert "12:00:00Z" in refusal.message
        world.mirror.is_away = False
        await log.run_round()
        again = await hand_in(log, "a", "b", "c")
        await log.run_round()
        assert [(await task).index for task in again] == [1, 2, 3]

    asyncio.run(run())


def test_web_log_opens_without_its_quorum() -> None:
    """A restart while the mirror is away serves what is published and finishes the round when the mirror is back."""

    async def run() -> None:
        world = World(WEB)
        log = await world.open()
        await hand_in(log, "z")
        await log.run_round()
        world.mirror.is_away = True
        await hand_in(log, "a")
        with pytest.raises(PeerError):
            await log.run_round()
        log = await world.open()
        assert [(item.start, item.end) for item in owed_of(log)] == [(1, 2)]
        assert trouble_of(log) is not None
        world.clock.advance(301)
        tasks = await hand_in(log, "a", "b", "z")
        await settle()
        assert [outcome_of(task) for task in tasks] == [IS_LATE, IS_REFUSED, 0]
        world.mirror.is_away = False
        await log.run_round()
        tasks = await hand_in(log, "a", "b")
        await log.run_round()
        assert [(await task).index for task in tasks] == [1, 2]

    asyncio.run(run())


def test_web_log_starts_before_its_mirror() -> None:
    """A new log opens while its mirror is away, and publishes its first checkpoint when it is there."""

    async def run() -> None:
        world = World(WEB)
        world.mirror.is_away = True
        log = await world.open()
        assert "public/1/checkpoint" not in world.store.objects
        assert owed_of(log) == []
        assert trouble_of(log) is not None
        world.mirror.is_away = False
        await log.run_round()
        assert "public/1/checkpoint" in world.store.objects
        assert trouble_of(log) is None

    asyncio.run(run())


@pytest.mark.parametrize("partial", [False, True], ids=["nothing", "partial"])
def test_private_log_runs_ahead(*, partial: bool) -> None:
    """Where the log may run ahead, rounds follow each other; each place is told when its own quorum came."""

    async def run() -> None:
        world = World(AHEAD)
        world.mirror.partial = partial
        log = await world.open()
        world.mirror.is_away = True
        first = await hand_in(log, "a", "b", "c")
        assert await log.run_round() is not None
        second = await hand_in(log, "d")
        await log.run_round()
        await settle()
        assert [outcome_of(task) for task in first + second] == [None] * 4
        assert [(item.start, item.end) for item in owed_of(log)] == [(0, 3), (3, 4)]
        assert b"\n4\n" in world.store.objects["public/1/checkpoint"], "the checkpoint is published all the same"
        assert (b"m0" in world.store.objects["public/1/checkpoint"]) is partial
        alone = [CA_ID.binary, b"m0"] if partial else [CA_ID.binary]
        assert await signers_of(log, 0) == [alone] * 2
        world.mirror.is_away = False
        third = await hand_in(log, "e")
        await log.run_round()
        await settle()
        assert [outcome_of(task) for task in first + second + third] == [0, 1, 2, 3, 4]
        owed = dict(world.mirror.calls[-1].owed)
        assert set(owed) == {Subtree(0, 2), Subtree(2, 3), Subtree(3, 4)}
        assert [await log.hash_of(subtree) for subtree in owed] == list(owed.values())
        assert owed_of(log) == []
        assert world.keys("private/owed/") == []
        assert trouble_of(log) is None
        for index in range(5):
            expected = [*alone, MIRROR] if index < 4 else BOTH
            assert all(ids == expected for ids in await signers_of(log, index))
        place = await first[0]
        assert place.round_ is not None
        assert place.round_.entries[0].endswith(b"a")
        assert all(len(item) == len(alone) + 1 for item in place.round_.signed.signatures.values())

    asyncio.run(run())


def test_owed_rounds_are_asked_for_while_the_log_is_idle() -> None:
    """Without new entries the cosigners are asked again after a pause, and their lines come to the checkpoint."""

    async def run() -> None:
        world = World(AHEAD)
        log = await world.open()
        world.mirror.is_away = True
        tasks = await hand_in(log, "a")
        await log.run_round()
        calls = len(world.mirror.calls)
        assert await log.run_round() is None
        assert len(world.mirror.calls) == calls, "not at once"
        world.clock.advance(AHEAD.owed_retry_s)
        await log.run_round()
        assert len(world.mirror.calls) == calls + 1
        world.clock.advance(AHEAD.owed_retry_s)
        world.mirror.is_away = False
        await log.run_round()
        assert (await tasks[0]).index == 0
        assert b"m1" in world.store.objects["public/1/checkpoint"]
        assert world.mirror.calls[-1].subtrees == ()
        assert world.mirror.calls[-1].entries == ()

    asyncio.run(run())


def test_owed_rounds_survive_a_restart() -> None:
    """After a restart a repeated request waits for the quorum of its round, and the ledger keeps it completed."""

    async def run() -> None:
        world = World(AHEAD)
        log = await world.open()
        world.mirror.is_away = True
        await hand_in(log, "a", "b")
        await log.run_round()
        log = await world.open()
        assert [(item.start, item.end, item.why) for item in owed_of(log)] == [(0, 2, "m1 is away")]
        tasks = await hand_in(log, "a", "c")
        await log.run_round()
        await settle()
        assert [outcome_of(task) for task in tasks] == [None, None]
        world.mirror.is_away = False
        world.clock.advance(10)
        await log.run_round()
        places = [await task for task in tasks]
        assert [place.index for place in places] == [0, 2]
        assert places[0].round_ is None
        log = await world.open()
        assert owed_of(log) == []
        assert await signers_of(log, 0) == [BOTH] * 2

    asyncio.run(run())


def test_who_waits_for_an_owed_round_is_told_in_time() -> None:
    """After the wait a requester is told that its entry is in the log; its key gives the place when the quorum came."""

    async def run() -> None:
        world = World(AHEAD)
        log = await world.open()
        world.mirror.is_away = True
        tasks = await hand_in(log, "a")
        await log.run_round()
        world.clock.advance(AHEAD.quorum_wait_s + 1)
        await log.run_round()
        await settle()
        assert outcome_of(tasks[0]) == IS_LATE
        tasks = await hand_in(log, "a", "b")
        await log.run_round()
        await settle()
        assert [outcome_of(task) for task in tasks] == [IS_LATE, None]
        world.mirror.is_away = False
        world.clock.advance(10)
        await log.run_round()
        again = await hand_in(log, "a")
        await log.run_round()
        await settle()
        assert [outcome_of(task) for task in [*tasks, *again]] == [IS_LATE, 1, 0]

    asyncio.run(run())


def test_bound_of_owed_rounds() -> None:
    """At the bound the next round waits as in a log that may not run ahead, and everything resumes by itself."""

    async def run() -> None:
        world = World(AHEAD)
        log = await world.open()
        world.mirror.is_away = True
        tasks = []
        for name in "abc":
            tasks += await hand_in(log, name)
            await log.run_round()
        tasks += await hand_in(log, "d")
        for _ in range(2):
            with pytest.raises(PeerError):
                await log.run_round()
        assert len(owed_of(log)) == 4
        world.clock.advance(AHEAD.quorum_wait_s + 1)
        with pytest.raises(PeerError):
            await log.run_round()
        tasks += await hand_in(log, "e", "a")
        await settle()
        assert [outcome_of(task) for task in tasks] == [IS_LATE] * 4 + [IS_REFUSED, IS_LATE]
        world.mirror.is_away = False
        await log.run_round()
        assert owed_of(log) == []
        tasks = await hand_in(log, *"abcde")
        await log.run_round()
        assert [(await task).index for task in tasks] == list(range(5))

    asyncio.run(run())


def test_answer_without_owed_subtrees_completes_nothing() -> None:
    """A source that satisfies the policy for the newest tree only leaves the older rounds owed."""

    async def run() -> None:
        world = World(AHEAD)
        log = await world.open()
        world.mirror.is_away, world.mirror.answers_owed = True, False
        first = await hand_in(log, "a")
        await log.run_round()
        world.mirror.is_away = False
        second = await hand_in(log, "b")
        await log.run_round()
        await settle()
        assert [outcome_of(task) for task in first + second] == [None, 1]
        assert [(item.start, item.end) for item in owed_of(log)] == [(0, 1)]
        world.mirror.answers_owed = True
        world.clock.advance(AHEAD.owed_retry_s)
        await log.run_round()
        assert (await first[0]).index == 0

    asyncio.run(run())


@pytest.mark.parametrize("limits", [WEB, AHEAD], ids=["web", "ahead"])
def test_costs_with_a_happy_source(limits: RoundLimits) -> None:
    """With the quorum at once a round costs what it costs without cosigners: five writes, one swap, one question."""

    async def run() -> None:
        world = World(limits)
        log = await world.open()
        before = (world.store.plan.writes, world.register.plan.writes, len(world.mirror.calls))
        await hand_in(log, "a")
        await log.run_round()
        await log.run_round()
        after = (world.store.plan.writes, world.register.plan.writes, len(world.mirror.calls))
        assert [b - a for a, b in zip(before, after, strict=True)] == [5, 1, 1]

    asyncio.run(run())


async def try_round(world: World, log: IssuanceLog | None, names: str, told: dict[str, int]) -> IssuanceLog:
    """Open the log if it is not, ask, do two rounds, and note the places that were told. Raises what fails."""
    if log is None:
        log = await world.open()
    tasks = await hand_in(log, *names)
    try:
        for _ in range(2):
            try:
                await log.run_round()
            except PeerError:
                assert world.mirror.is_away
            await settle()
            for name, task in zip(names, tasks, strict=True):
                index = outcome_of(task)
                if isinstance(index, int):
                    assert told.setdefault(name, index) == index, "one request, one place"
                    assert all(ids == BOTH for ids in await signers_of(log, index)), "told before the quorum"
    finally:
        for task in tasks:
            task.cancel()
    return log


async def play(world: World, *, is_crash: bool) -> dict[str, int]:
    """Play a story in which the mirror comes and goes; whoever is not answered asks again. Returns what was told."""
    told: dict[str, int] = {}
    log: IssuanceLog | None = None
    for is_away, names in ((False, "ab"), (True, "cde"), (True, "f"), (False, "g"), (True, "h"), (False, "abcdefgh")):
        world.mirror.is_away = is_away
        for attempt in count():
            assert attempt < 4, "one failure costs one attempt"
            world.clock.advance(6)
            try:
                log = await try_round(world, log, names, told)
            except StorageError:
                log = None if is_crash else log
            else:
                break
    return told


def _writes(limits: RoundLimits) -> Iterator[tuple[str, int]]:
    """Name each write of the story: which storage, which number."""
    world = World(limits)
    asyncio.run(play(world, is_crash=False))
    yield from (("store", number) for number in range(world.store.plan.writes))
    yield from (("register", number) for number in range(world.register.plan.writes))


@pytest.mark.parametrize("failure", Failure, ids=lambda failure: failure.value)
@pytest.mark.parametrize("is_crash", [True, False], ids=["crash", "retry"])
@pytest.mark.parametrize("limits", [WEB, AHEAD], ids=["web", "ahead"])
def test_every_write_may_fail(limits: RoundLimits, failure: Failure, *, is_crash: bool) -> None:
    """Whichever write fails, lost or kept: no place is told before its quorum, and in the end every request has one."""

    async def run(where: str, number: int) -> None:
        world = World(limits)
        (world.store if where == "store" else world.register).plan.fail_write(number, failure)
        told = await play(world, is_crash=is_crash)
        assert sorted(told) == list("abcdefgh"), (where, number)
        assert sorted(told.values()) == list(range(8))
        log = await world.open()
        assert log.record.tree_size == 8
        assert owed_of(log) == []
        assert world.keys("private/owed/") == []
        assert world.keys("private/staging/") == []
        for index in range(8):
            assert all(ids == BOTH for ids in await signers_of(log, index))

    for where, number in _writes(limits):
        asyncio.run(run(where, number))


@pytest.mark.parametrize("failure", Failure, ids=lambda failure: failure.value)
@pytest.mark.parametrize("is_crash", [True, False], ids=["crash", "retry"])
@pytest.mark.parametrize("number", range(6), ids=["stage", "publish", "keep", "checkpoint", "record", "discard"])
def test_quorum_that_comes_while_a_round_becomes_owed(number: int, failure: Failure, *, is_crash: bool) -> None:
    """A write fails on the way to an owed round, and then the mirror is there: nothing is owed."""

    async def run() -> None:
        world = World(AHEAD)
        log = await world.open()
        world.mirror.is_away = True
        await hand_in(log, "a", "b")
        world.store.plan.fail_write(world.store.plan.writes + number, failure)
        with pytest.raises(StorageError):
            await log.run_round()
        world.mirror.is_away = False
        log = await world.open() if is_crash else log
        world.clock.advance(10)
        tasks = await hand_in(log, "a", "b")
        for _ in range(2):
            await log.run_round()
        assert sorted([(await task).index for task in tasks]) == [0, 1]
        assert world.keys("private/owed/") == []
        assert (owed_of(log), trouble_of(log)) == ([], None)
        for index in range(2):
            assert await signers_of(log, index) == [BOTH] * 2

    asyncio.run(run())


def test_closing_waits_for_what_is_owed() -> None:
    """A log that owes rounds is not closed in good order before their quorum came."""

    async def run() -> None:
        world = World(AHEAD)
        log = await world.open()
        world.mirror.is_away = True
        tasks = await hand_in(log, "a")
        await log.run_round()
        with pytest.raises(PeerError, match="lack cosignatures"):
            await log.close_for_good()
        world.mirror.is_away = False
        await log.close_for_good()
        assert log.record.is_closed
        assert (await tasks[0]).index == 0

    asyncio.run(run())


@pytest.mark.parametrize("limits", [WEB, AHEAD], ids=["web", "ahead"])
def test_abandoned_round_that_was_signed_stays_on_record(limits: RoundLimits) -> None:
    """What the key signed is not certified a second time in the next log: it stays listed, with its signatures."""

    async def run() -> None:
        world = World(limits)
        old = await world.open()
        await hand_in(old, "z")
        await old.run_round()
        world.mirror.is_away = True
        signed = await hand_in(old, "a", "b")
        try:
            await old.run_round()
        except PeerError:
            assert limits is WEB
        waiting = await hand_in(old, "c")
        await old.close_for_good(is_abandoned=True)
        world.mirror.is_away = False
        new = await world.open(2)
        assert old.hand_over(new) == 1
        again = await hand_in(new, "a", "z")
        await new.run_round()
        await settle()
        gone = (Rejected, Reason.ABANDONED)
        assert [outcome_of(task) for task in signed + waiting + again] == [gone, gone, 0, gone, 0]
        assert (await waiting[0]).log_number == 2
        assert (await again[1]).log_number == 1
        error = signed[1].exception()
        assert isinstance(error, Error)
        assert error.facts == {"log": 1, "index": 2}
        (owed,) = new.owed
        assert (owed.log_number, owed.start, owed.end, owed.is_abandoned) == (1, 1, 3, True)
        (kept,) = await fetch_owed(world.store, 1)
        assert [[item.cosigner_id for item in of] for of in kept.signed.signatures.values()] == [[CA_ID.binary]] * 2
        restarted = await world.open(2)
        assert restarted.owed == (owed,)

    asyncio.run(run())


@pytest.mark.parametrize("has_opened", [True, False], ids=["open", "closed"])
@pytest.mark.parametrize("is_signed", [True, False], ids=["signed", "not signed"])
def test_abandoned_round_asks_the_key(*, is_signed: bool, has_opened: bool) -> None:
    """Whether the key signed the round that is left behind, the key says; if not, its requests go to the next log."""

    async def run() -> None:
        world = World(WEB)
        old = await world.open()
        tasks = await hand_in(old, "a")
        world.signer.is_away, world.signer.answers_lost = not is_signed, int(is_signed)
        with pytest.raises(PeerError):
            await old.run_round()
        if not is_signed:
            with pytest.raises(PeerError):
                await old.close_for_good(is_abandoned=True)
            assert not old.record.is_closed
        world.signer.is_away = False
        if has_opened:
            await old.close_for_good(is_abandoned=True)
        else:
            record = await close_abandoned_log(world.store, world.register, world.signer, 1)
            assert record.is_closed
            assert await close_abandoned_log(world.store, world.register, world.signer, 1) == record
        new = await world.open(2)
        if has_opened:
            old.hand_over(new)
        else:
            tasks = await hand_in(new, "a")
        await new.run_round()
        await settle()
        assert outcome_of(tasks[0]) == ((Rejected, Reason.ABANDONED) if is_signed else 0)
        assert [(item.start, item.end) for item in new.owed] == ([(0, 1)] if is_signed else [])
        sizes = {(tree.log_number, tree.tree_size) for tree in world.signer.trees}
        assert ((1, 1) in sizes) is is_signed, "the question signs nothing new"

    asyncio.run(run())


def test_owed_register_that_is_too_old_is_refused() -> None:
    """An owed round beyond the register means that the register was restored from an older copy."""

    async def run() -> None:
        world = World(AHEAD)
        log = await world.open()
        older = dict(world.register.values)
        world.mirror.is_away = True
        await hand_in(log, "a")
        await log.run_round()
        world.register.values = older
        world.store.objects = {key: data for key, data in world.store.objects.items() if "checkpoint" not in key}
        with pytest.raises(Error) as caught:
            await world.open()
        assert caught.value.reason is Reason.CONFLICT

    asyncio.run(run())


def test_kept_round_refuses_truncation_and_damage() -> None:
    """The object of an owed round is refused when cut off, followed by a byte, changed, or under another key."""

    async def run() -> tuple[str, bytes]:
        world = World(AHEAD)
        log = await world.open()
        world.mirror.is_away = True
        await hand_in(log, "a", "b", "c")
        await log.run_round()
        ((key, data),) = [(key, world.store.objects[key]) for key in world.keys("private/owed/")]
        return key, data

    key, data = asyncio.run(run())
    body = data[:-32]
    kept = KeptRound.parse(body)
    assert kept.encode() == body
    for changed in (*(body[:at] for at in range(len(body))), body + b"\0", b"\2" + body[1:]):
        with pytest.raises(FormatError):
            KeptRound.parse(changed)
    for name, content in ((key, bytes([data[0] ^ 1]) + data[1:]), (KeptRound.key_of(1, 4), data)):
        store = MemoryStore()
        store.objects[name] = content
        with pytest.raises(FormatError) as caught:
            asyncio.run(fetch_owed(store, 1))
        assert caught.value.reason is Reason.DAMAGED


def test_signatures_are_merged_once_with_the_own_first() -> None:
    """The CA's own signature stands first and as it was, others follow once; the CA's alone completes nothing."""

    async def run() -> KeptRound:
        world = World(AHEAD)
        log = await world.open()
        world.mirror.is_away = True
        await hand_in(log, "a")
        await log.run_round()
        (kept,) = await fetch_owed(world.store, 1)
        return kept

    kept = asyncio.run(run())
    own, mirror = SubtreeSignature(CA_ID.binary, b"again"), SubtreeSignature(MIRROR, b"mirror")
    (subtree,) = kept.signed.signatures
    for answer in ({}, {subtree: ()}, {subtree: (own,)}, {Subtree(0, 2): (mirror,)}):
        assert complete_signatures(kept, answer) is None
    for more in ((mirror,), (own, mirror), (mirror, own)):
        complete = complete_signatures(kept, {subtree: more})
        assert complete == {subtree: (SubtreeSignature(CA_ID.binary, b"ca"), mirror)}
