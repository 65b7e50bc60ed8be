"""Landmarks of a CA: when one is allocated, what is remembered, and what is published, also when writes fail."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.makers import make_key

from mtc.ca.landmark_service import LandmarkClock, LandmarkLog
from mtc.ca.landmarks import (
    MAX_LANDMARKS,
    MAX_MARKS,
    Hold,
    LandmarkHold,
    LandmarkRules,
    LandmarkState,
    PublishedTree,
    next_interval,
    plan_landmark,
)
from mtc.errors import ConflictError, FormatError, Reason, Rejected, StorageError, UsageError
from mtc.ids import REVISIONS, DraftRevision, TrustAnchorID, log_id
from mtc.kernel import active_kernel
from mtc.landmark import ActiveLandmarks, Landmark, LandmarkSequence
from mtc.log import LogRecord
from mtc.log.pruning import ExpiryMark, expired_below
from mtc.note import Checkpoint, Note, SignatureType, VerifierKey, checkpoint_message, note_signature
from mtc.profile import PROFILES, WEB_PKI
from mtc.store.contract import MAX_REGISTER_BYTES
from mtc.testing import FailingRegister, FailingStore, Failure, FakeClock
from mtc.web.clock import ClockGuard

HASHER = active_kernel().hasher("sha256")
CA_ID = TrustAnchorID.parse("32473.1")
NOW = int(datetime(2026, 11, 21, 12, tzinfo=UTC).timestamp())
HOUR = 3600
RULES = LandmarkRules(
    interval=timedelta(hours=1),
    max_lifetime=timedelta(days=7),
    window=timedelta(days=7),
    most_in_window=220,
    retention=timedelta(days=35),
)
revisions = st.sampled_from(list(REVISIONS.values()))


def tree(size: int, timestamp: int = NOW, latest_not_after: int = 0) -> PublishedTree:
    """Return a published tree."""
    return PublishedTree(size, timestamp, latest_not_after)


def allocate(state: LandmarkState, size: int, now: int, rules: LandmarkRules = RULES) -> LandmarkState:
    """Allocate a landmark, which must be possible."""
    planned = plan_landmark(state, (), tree(size, now), now, rules)
    assert isinstance(planned, LandmarkState), planned
    return planned


def hold(planned: LandmarkState | LandmarkHold) -> LandmarkHold:
    """Expect that there is no landmark."""
    assert isinstance(planned, LandmarkHold)
    return planned


@st.composite
def states(draw: st.DrawFn) -> LandmarkState:
    """Draw a state after some allocations, with the rules of any revision."""
    revision = draw(revisions)
    state = LandmarkState.start(draw(st.integers(1, 65535)), revision)
    rules = replace(RULES, revision=revision)
    now, size = NOW, 0
    for _ in range(draw(st.integers(0, 12))):
        now += draw(st.integers(HOUR, 40 * HOUR))
        size += draw(st.integers(1, 2**40))
        planned = plan_landmark(state, (), tree(size, now, draw(st.integers(0, 2 * now))), now, rules)
        state = planned if isinstance(planned, LandmarkState) else state
    return state


@given(states())
def test_state_round_trips(state: LandmarkState) -> None:
    """What is written to the register is read back, with no byte less or more."""
    data, revision = state.encode(), state.sequence.revision
    assert LandmarkState.parse(data, revision) == state
    for end in range(0, len(data), max(1, len(data) // 50)):
        with pytest.raises(FormatError):
            LandmarkState.parse(data[:end], revision)
    with pytest.raises(FormatError):
        LandmarkState.parse(data + b"\0", revision)


def test_state_of_another_form_is_refused() -> None:
    """A state of another version, of landmarks with the other form, or of log 0 is not read."""
    data = LandmarkState.start(1).encode()
    with pytest.raises(FormatError, match="version 9"):
        LandmarkState.parse(b"\x09" + data[1:])
    with pytest.raises(FormatError, match="not of plants-05"):
        LandmarkState.parse(data, REVISIONS["plants-05"])
    with pytest.raises(FormatError, match="log 0"):
        LandmarkState.parse(data[:1] + bytes(2) + data[3:])
    with pytest.raises(FormatError, match="go back"):
        LandmarkState(1, LandmarkSequence.start(), (2, 1))


@given(st.lists(st.tuples(st.integers(0, 3 * HOUR), st.integers(0, 50), st.integers(0, 9 * 24 * HOUR)), max_size=60))
def test_landmarks_only_go_forward(steps: list[tuple[int, int, int]]) -> None:
    """However time and log go on: one per interval, growing sizes, and no expiry before one of its notAfters."""
    state, now, size, latest = LandmarkState.start(1), NOW, 0, 0
    history: list[tuple[int, Landmark]] = []
    for seconds, entries, lifetime in steps:
        now, size = now + seconds, size + entries
        latest = max(latest, now + lifetime) if entries else latest
        planned = plan_landmark(state, (), tree(size, now, latest), now, RULES)
        before = state.sequence.latest
        if isinstance(planned, LandmarkHold):
            assert planned.until > now
            assert planned.why in (Hold.NOT_DUE, Hold.NO_GROWTH)
            continue
        state = planned
        mark = state.sequence.latest
        assert (mark.number, mark.tree_size) == (before.number + 1, size)
        assert mark.expiry == max(now + 7 * 24 * HOUR, latest, before.expiry or 0)
        history.append((now, mark))
    assert len({moment // HOUR for moment, _ in history}) == len(history)
    data = state.active(datetime.fromtimestamp(now, UTC), RULES).encode()
    read = ActiveLandmarks.parse(data, datetime.fromtimestamp(now, UTC))
    active = [mark for _, mark in history if mark.is_active(datetime.fromtimestamp(now, UTC))]
    assert list(read.active(datetime.fromtimestamp(now, UTC))) == active


def test_no_landmark_without_growth_before_its_time_or_from_the_future() -> None:
    """Each reason why there is no landmark is told apart, with the moment from which asking again makes sense."""
    state = LandmarkState.start(1)
    assert hold(plan_landmark(state, (), tree(0), NOW, RULES)) == LandmarkHold(Hold.NO_GROWTH, NOW + 1)
    assert hold(plan_landmark(state, (), tree(5, NOW + 1), NOW, RULES)) == LandmarkHold(Hold.CLOCK, NOW + 1)
    state = allocate(state, 5, NOW + 1800)
    assert next_interval(state, RULES) == NOW + HOUR
    held = plan_landmark(state, (), tree(6, NOW), NOW + HOUR - 1, RULES)
    assert hold(held) == LandmarkHold(Hold.NOT_DUE, NOW + HOUR)
    assert allocate(state, 6, NOW + HOUR).sequence.latest.number == 2
    with pytest.raises(ConflictError, match="older than its register"):
        plan_landmark(state, (), tree(4), NOW + HOUR, RULES)


@given(
    st.integers(1, 5),
    st.integers(1, 30),
    st.lists(st.tuples(st.integers(1, 12), st.integers(0, 1)), min_size=1, max_size=60),
)
def test_cap_holds_in_every_window_over_all_logs(most: int, window: int, steps: list[tuple[int, int]]) -> None:
    """No window of any position holds more allocations than the cap, whichever logs they are for."""
    rules = replace(RULES, interval=timedelta(seconds=1), window=timedelta(seconds=window), most_in_window=most)
    logs = [LandmarkState.start(1), LandmarkState.start(2)]
    moments: list[int] = []
    now = NOW
    for size, (seconds, which) in enumerate(steps, 1):
        now += seconds
        others = logs[1 - which].allocations
        planned = plan_landmark(logs[which], others, tree(size, now), now, rules)
        if isinstance(planned, LandmarkState):
            logs[which] = planned
            moments.append(now)
            continue
        assert planned.why is Hold.CAP
        early = plan_landmark(logs[which], others, tree(size, now), planned.until - 1, rules)
        assert isinstance(early, LandmarkHold), "one second before, the cap still holds"
        on_time = plan_landmark(logs[which], others, tree(size, now), planned.until, rules)
        assert isinstance(on_time, LandmarkState), "then it does not"
    for start in moments:
        assert sum(1 for moment in moments if start <= moment <= start + window) <= most


def test_web_profile_allows_220_landmarks_in_7_days() -> None:
    """With the numbers of Chrome's draft policy, landmark 221 waits until the first one is more than a week old."""
    rules = replace(LandmarkRules.of_profile(WEB_PKI), interval=timedelta(minutes=1))
    state = LandmarkState.start(1)
    for number in range(220):
        state = allocate(state, number + 1, NOW + 60 * number, rules)
    late = NOW + 60 * 220
    assert hold(plan_landmark(state, (), tree(500, late), late, rules)) == LandmarkHold(
        Hold.CAP, NOW + 7 * 24 * HOUR + 1
    )
    fresh = LandmarkState.start(2)
    assert hold(plan_landmark(fresh, state.allocations, tree(1, late), late, rules)).why is Hold.CAP


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=str)
def test_state_stays_small(revision: DraftRevision) -> None:
    """After months of hourly landmarks the state holds what is active, about a day more, and the window."""
    rules = replace(LandmarkRules.of_profile(WEB_PKI, revision), retention=timedelta(days=2))
    state = LandmarkState.start(1, revision)
    for number in range(1500):
        now = NOW + HOUR * number
        planned = plan_landmark(state, (), tree(number + 1, now, now + 6 * 24 * HOUR), now, rules)
        assert isinstance(planned, LandmarkState)
        state = planned
        moment = datetime.fromtimestamp(now, UTC)
        published = ActiveLandmarks.parse(state.active(moment, rules).encode(), moment, revision)
        assert len(published.active(moment)) <= 169
    assert len(state.sequence.landmarks) <= 169 + 26
    assert len(state.allocations) == 169
    assert len(state.marks) <= 24 * 8 + 2
    assert len(state.encode()) < 10_000
    early = datetime.fromtimestamp(now - HOUR * 20, UTC)
    assert state.active(early, rules).latest == state.sequence.latest, "a clock set back finds a terminator"


def test_largest_state_fits_the_register() -> None:
    """As many landmarks, allocations and marks as there may be are written in one register value and one file."""
    landmarks = tuple(
        Landmark(number, number * 9_000_000_000, number * 8_000_000) for number in range(MAX_LANDMARKS + 1)
    )
    state = LandmarkState(1, LandmarkSequence(landmarks), tuple(range(MAX_LANDMARKS)))
    assert len(state.encode()) + MAX_MARKS * 14 <= MAX_REGISTER_BYTES
    ActiveLandmarks.parse(ActiveLandmarks(landmarks).encode(), datetime.fromtimestamp(1, UTC))
    later = landmarks[-1].tree_size + 1
    full = replace(state, allocations=())
    rules = replace(RULES, most_in_window=MAX_LANDMARKS)
    assert hold(plan_landmark(full, (), tree(later, 1), 1, rules)).why is Hold.TOO_MANY


def test_marks_tell_what_has_expired() -> None:
    """Marks never say that a valid entry has expired, and stay within their bound, also with many landmarks."""
    rules = replace(RULES, interval=timedelta(seconds=1), most_in_window=MAX_LANDMARKS, retention=timedelta(hours=1))
    marks = tuple(ExpiryMark(number, NOW + number + 10 * HOUR) for number in range(1, MAX_MARKS + 1))
    state = LandmarkState(1, LandmarkSequence.start(), (), marks)
    for number in range(MAX_MARKS + 1, MAX_MARKS + 60):
        now = NOW + number
        planned = plan_landmark(state, (), tree(number, now, now + 10 * HOUR), now, rules)
        assert isinstance(planned, LandmarkState)
        state = planned
    assert len(state.marks) <= MAX_MARKS
    assert state.marks[-1].tree_size == MAX_MARKS + 59
    for late in (0, 5 * HOUR, 11 * HOUR, 11 * HOUR + 600, 30 * HOUR):
        bound = expired_below(state.marks, datetime.fromtimestamp(NOW + late, UTC), timedelta(hours=1))
        truth = min(max(late - 11 * HOUR - 1, 0), MAX_MARKS + 59)
        assert bound <= truth <= bound + 2
    late = NOW + 100 * HOUR
    planned = plan_landmark(state, (), tree(9999, late, late), late, rules)
    assert isinstance(planned, LandmarkState)
    assert [mark.tree_size for mark in planned.marks] == [MAX_MARKS + 59, 9999]


def test_rules_come_from_profiles() -> None:
    """Every profile's numbers are usable, and numbers that cannot be followed are refused."""
    for profile in PROFILES.values():
        for revision in REVISIONS.values():
            rules = LandmarkRules.of_profile(profile, revision)
            assert (rules.max_active is None) == revision.landmarks_have_expiry
    assert LandmarkRules.of_profile(WEB_PKI, REVISIONS["plants-05"]).max_active == 169
    for change in ({"interval": timedelta(0)}, {"most_in_window": 0}, {"most_in_window": 10**6}):
        with pytest.raises(UsageError):
            replace(RULES, **change)
    with pytest.raises(UsageError, match="longer interval"):
        replace(RULES, interval=timedelta(seconds=1), revision=REVISIONS["plants-04"])


SIGNER = make_key("ml-dsa-44", 100)
KEY = VerifierKey.from_spki(CA_ID.oid_name, SignatureType.COSIGNATURE_MLDSA44, SIGNER.public_key)
MIRROR = make_key("ml-dsa-44", 101)
MIRROR_KEY = VerifierKey.from_spki("oid/1.3.6.1.4.1.32473.9", SignatureType.COSIGNATURE_MLDSA44, MIRROR.public_key)


class World:
    """What survives a crash: storage, register and time. The log is only its record and its checkpoint."""

    def __init__(self, rules: LandmarkRules = RULES) -> None:
        self.store, self.register, self.clock = FailingStore(), FailingRegister(), FakeClock()
        self.rules = rules
        self.keys = [KEY]
        # Every file that was ever published.
        self.files: list[bytes] = []

    async def open(self, number: int = 1, others: tuple[int, ...] = ()) -> LandmarkClock:
        """Start the landmarks of a log."""
        log = LandmarkLog(
            log_number=number, origin=log_id(CA_ID, number).oid_name, hasher=HASHER, keys=self.keys, others=others
        )
        return await LandmarkClock.open(log, self.store, self.register, ClockGuard(self.clock), self.rules)

    @property
    def now(self) -> int:
        """POSIX seconds."""
        return int(self.clock.now().timestamp())

    def decide(self, size: int, number: int = 1, latest_not_after: int = 0) -> LogRecord:
        """Let the register decide a tree, which is not published yet."""
        record = LogRecord(
            log_number=number,
            tree_size=size,
            root_hash=HASHER.digest(b"%d" % size),
            timestamp=self.now,
            latest_not_after=latest_not_after,
        )
        self.register.values[f"log-{number}"] = record.encode()
        return record

    def publish(self, record: LogRecord, *, mirror_ahead_s: int | None = None, origin: str | None = None) -> None:
        """Publish the checkpoint of a decided tree."""
        origin = origin or log_id(CA_ID, record.log_number).oid_name
        checkpoint = Checkpoint(origin, record.tree_size, record.root_hash)
        signers = [(KEY, SIGNER, record.timestamp)]
        if mirror_ahead_s is not None:
            signers.append((MIRROR_KEY, MIRROR, record.timestamp + mirror_ahead_s))
        lines = tuple(
            note_signature(key, signer.sign_now(checkpoint_message(key, checkpoint, time)), time)
            for key, signer, time in signers
        )
        key = f"public/{record.log_number}/checkpoint"
        self.store.objects[key] = Note(checkpoint.encode(), lines).encode()

    def grow(self, size: int, number: int = 1, latest_not_after: int = 0) -> None:
        """Decide and publish a tree."""
        self.publish(self.decide(size, number, latest_not_after))

    def file(self, number: int = 1) -> bytes:
        """Return the landmarks file."""
        return self.store.objects[f"public/{number}/landmarks"]

    def published(self, number: int = 1) -> ActiveLandmarks:
        """Return what the landmarks file says now."""
        return ActiveLandmarks.parse(self.file(number), self.clock.now(), self.rules.revision)


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=str)
def test_empty_log_has_landmark_0(revision: DraftRevision) -> None:
    """A new log's file names landmark 0 in the form of its draft; the first entries get landmark 1."""

    async def run() -> None:
        world = World(LandmarkRules.of_profile(WEB_PKI, revision))
        clock = await world.open()
        assert world.file() == (b"0\n0 0\n" if revision.landmarks_have_expiry else b"0 0\n0\n")
        assert hold(await clock.tick()).why is Hold.NOT_PUBLISHED
        world.grow(0)
        assert hold(await clock.tick()).why is Hold.NO_GROWTH
        world.grow(7)
        await clock.tick()
        expiry = world.now + 7 * 24 * HOUR
        assert world.file() == (b"1\n7 %d\n0 0\n" % expiry if revision.landmarks_have_expiry else b"1 1\n7\n0\n")
        assert clock.head is not None
        assert clock.head.tree_size == 7

    asyncio.run(run())


def test_only_a_published_tree_gets_a_landmark() -> None:
    """A tree that the register decided and nobody has cosigned yet gets no landmark; the published one gets it."""

    async def run() -> None:
        world = World()
        clock = await world.open()
        world.grow(5)
        world.decide(9, latest_not_after=world.now + 90 * 24 * HOUR)
        await clock.tick()
        assert world.published().latest == Landmark(1, 5, world.now + 90 * 24 * HOUR)

    asyncio.run(run())


def test_checkpoint_that_is_not_ours_gets_no_landmark() -> None:
    """A checkpoint without our signature, of another log, or that contradicts the register stops the allocation."""

    async def run() -> None:
        world = World()
        clock = await world.open()
        world.publish(world.decide(5), origin=log_id(CA_ID, 2).oid_name)
        with pytest.raises(ConflictError, match="not of this log"):
            await clock.tick()
        world.publish(replace(world.decide(5), root_hash=bytes(32)))
        with pytest.raises(ConflictError, match="not of this log"):
            await clock.tick()
        world.publish(replace(world.decide(5), tree_size=6))
        with pytest.raises(ConflictError, match="ahead of its register"):
            await clock.tick()
        world.keys = [MIRROR_KEY]
        other = await world.open()
        world.grow(5)
        with pytest.raises(Rejected) as caught:
            await other.tick()
        assert caught.value.reason is Reason.UNKNOWN_SIGNER
        assert world.published().latest.number == 0

    asyncio.run(run())


def test_jumped_clock_and_cosigners_ahead_stop_the_allocation() -> None:
    """While the time of day is in doubt there is no landmark; afterwards there is one with the expiry it must have."""

    async def run() -> None:
        world = World()
        world.keys = [KEY, MIRROR_KEY]
        clock = await world.open()
        world.grow(5)
        for jump in (400 * 24 * HOUR, -800 * 24 * HOUR):
            world.clock.jump(jump)
            with pytest.raises(ConflictError) as caught:
                await clock.tick()
            assert caught.value.reason is Reason.CLOCK
        world.clock.jump(400 * 24 * HOUR)
        world.publish(world.decide(6), mirror_ahead_s=600)
        with pytest.raises(ConflictError, match="cosigners signed"):
            await clock.tick()
        assert world.published().latest.number == 0
        world.publish(world.decide(6), mirror_ahead_s=2)
        await clock.tick()
        assert world.published().latest == Landmark(1, 6, world.now + 7 * 24 * HOUR)

    asyncio.run(run())


def test_file_is_published_again_when_a_landmark_expires() -> None:
    """Without any new entry the file loses landmarks as they expire, down to the last one."""

    async def run() -> None:
        world = World()
        clock = await world.open()
        for size in (5, 9):
            world.grow(size)
            await clock.tick()
            world.clock.advance(HOUR)
        assert [mark.number for mark in world.published().landmarks] == [0, 1, 2]
        writes = world.store.plan.writes
        await clock.tick()
        assert world.store.plan.writes == writes, "nothing changed, nothing is written"
        world.clock.advance(7 * 24 * HOUR - 2 * HOUR + 1)
        await clock.tick()
        assert [mark.number for mark in world.published().landmarks] == [1, 2]
        world.clock.advance(HOUR)
        await clock.tick()
        assert [mark.number for mark in world.published().landmarks] == [2]

    asyncio.run(run())


def test_caps_count_across_logs() -> None:
    """After a change of the log, the landmarks of the old one count until they leave the window."""

    async def run() -> None:
        world = World(replace(RULES, most_in_window=2))
        old = await world.open(1)
        for size in (5, 9):
            world.grow(size)
            await old.tick()
            world.clock.advance(HOUR)
        new = await world.open(2, others=(1,))
        world.grow(3, number=2)
        held = hold(await new.tick())
        assert (held.why, held.until) == (Hold.CAP, new.next_due())
        assert held.until == int(datetime(2026, 11, 28, 12, 0, 1, tzinfo=UTC).timestamp())
        world.grow(12)
        restarted = await world.open(1)
        assert hold(await restarted.tick()).why is Hold.CAP
        assert restarted.next_due() == held.until
        world.clock.advance(held.until - world.now)
        await new.tick()
        assert world.published(2).latest.number == 1

    asyncio.run(run())


def test_second_process_loses() -> None:
    """Of two processes for one log the slower one learns that it is not alone, and changes nothing."""

    async def run() -> None:
        world = World()
        first, second = await world.open(), await world.open()
        world.grow(5)
        await first.tick()
        with pytest.raises(ConflictError, match="another process"):
            await second.tick()
        assert world.published().latest.tree_size == 5

    asyncio.run(run())


def test_next_due_follows_interval() -> None:
    """Before the first landmark the next one may come at once, afterwards with the next interval."""

    async def run() -> None:
        world = World()
        clock = await world.open()
        assert clock.next_due() <= world.now
        world.grow(5)
        world.clock.advance(600)
        await clock.tick()
        assert clock.next_due() == world.now - 600 + HOUR

    asyncio.run(run())


async def _story(world: World, *, is_crash: bool) -> None:
    """Grow a log over some hours with a clock that ticks; on a failure tick again, or start again."""
    clock: LandmarkClock | None = None
    for hour in range(5):
        world.clock.advance(HOUR if hour < 4 else 8 * 24 * HOUR)
        world.grow(10 * (hour + 1), latest_not_after=world.now + (9 if hour == 1 else 1) * 24 * HOUR)
        for _ in range(3):
            world.clock.advance(1)
            try:
                if clock is None:
                    clock = await world.open()
                await clock.tick()
            except StorageError:
                clock = None if is_crash else clock
            if "public/1/landmarks" in world.store.objects:
                world.files.append(world.file())


def _story_writes() -> Iterator[tuple[str, int]]:
    """Name each write of the story."""
    world = World()
    asyncio.run(_story(world, is_crash=False))
    yield from (("store", number) for number in range(world.store.plan.writes))
    yield from (("register", number) for number in range(world.register.plan.writes))


@pytest.mark.parametrize("failure", Failure, ids=lambda failure: failure.value)
@pytest.mark.parametrize(("where", "number"), list(_story_writes()), ids=str)
@pytest.mark.parametrize("is_crash", [True, False], ids=["crash", "retry"])
def test_every_write_may_fail(where: str, number: int, failure: Failure, *, is_crash: bool) -> None:
    """Whichever write fails, lost or kept: a landmark once published never changes, and the file catches up."""
    world = World()
    (world.store if where == "store" else world.register).plan.fail_write(number, failure)
    asyncio.run(_story(world, is_crash=is_crash))
    seen: dict[int, Landmark] = {}
    for data in world.files:
        landmarks = ActiveLandmarks.parse(data, datetime(2100, 1, 1, tzinfo=UTC)).landmarks
        for mark in landmarks:
            assert seen.setdefault(mark.number, mark) == mark
        numbers = sorted(seen)
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
    state = LandmarkState.parse(world.register.values["landmarks-1"])
    assert world.file() == state.active(world.clock.now(), RULES).encode()
    assert seen[5].tree_size == 50
    assert [mark.tree_size for mark in seen.values()] == [0, 10, 20, 30, 40, 50]
