"""Landmarks: the sequence, its subtrees, the file that publishes it, and where an entry is found."""

from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtc.errors import FormatError, Reason, Rejected, UsageError
from mtc.ids import REVISIONS, DraftRevision
from mtc.landmark import (
    MAX_EXPIRY,
    MAX_LANDMARK_NUMBER,
    MAX_LANDMARKS_BYTES,
    ActiveLandmarks,
    Landmark,
    LandmarkPlace,
    LandmarkSequence,
    landmark_for,
    max_active,
)
from mtc.merkle import MAX_TREE_SIZE, Subtree, cover

OLD, NEW = REVISIONS["plants-05"], REVISIONS["plants-07"]
HOUR, WEEK = timedelta(hours=1), timedelta(days=7)


def _at(seconds: float) -> datetime:
    """Return the moment so many seconds after the epoch."""
    return datetime.fromtimestamp(seconds, UTC)


def _sequence(revision: DraftRevision, *sizes: int, expiries: tuple[int, ...] = ()) -> LandmarkSequence:
    """Return a sequence with these sizes behind landmark 0; expiries are 100, 200, … unless given."""
    marks = [Landmark(0, 0, 0 if revision.landmarks_have_expiry else None)]
    for number, size in enumerate(sizes, 1):
        expiry = (expiries[number - 1] if expiries else 100 * number) if revision.landmarks_have_expiry else None
        marks.append(Landmark(number, size, expiry))
    return LandmarkSequence(tuple(marks), revision)


SIZES = st.lists(st.integers(1, 2000), min_size=1, max_size=12, unique=True).map(sorted)


class TestSubtrees:
    """Which subtrees a landmark has."""

    def test_covers_of_others(self, load_vectors: Callable[[str], Any]) -> None:
        """The subtrees of a landmark are the published cover of the entries since the landmark before."""
        vectors = load_vectors("covering_subtrees.json")
        checked = 0
        for case in vectors["published"] + vectors["derived"]:
            start, end = map(int, case["interval"])
            if start == end or not 1 <= start <= end <= MAX_TREE_SIZE:
                continue
            pair = [Subtree(*map(int, case[side])) for side in ("left", "right")]
            for revision in (NEW, OLD):
                sequence = _sequence(revision, start, end)
                expected = [part for part in pair if revision.allows_empty_subtree or not part.is_empty]
                assert sequence.subtrees(2) == tuple(expected)
            checked += 1
        assert checked > 100

    def test_demonstration(self, load_vectors: Callable[[str], Any]) -> None:
        """Landmarks at 34 and 2036 have the subtrees that relying parties of the demonstration trust."""
        trusted = load_vectors("certs_demo_plants07.json")["trusted_subtrees"]
        expected = [Subtree(int(found["start"]), int(found["end"])) for found in trusted]
        sequence = _sequence(NEW, 34, 2036)
        assert [*sequence.subtrees(1), *sequence.subtrees(2)] == expected

    def test_landmark_zero(self) -> None:
        """Landmark 0 has two empty subtrees, and none where empty subtrees are forbidden."""
        assert _sequence(NEW, 5).subtrees(0) == (Subtree(0, 0), Subtree(0, 0))
        assert _sequence(OLD, 5).subtrees(0) == ()

    def test_one_entry(self) -> None:
        """A landmark with one new entry has one subtree with it, and an empty one where that is allowed."""
        assert _sequence(NEW, 5, 6).subtrees(2) == (Subtree(5, 6), Subtree(6, 6))
        assert _sequence(OLD, 5, 6).subtrees(2) == (Subtree(5, 6),)

    @pytest.mark.parametrize("number", [-1, 3, 4])
    def test_unknown_landmarks(self, number: int) -> None:
        """Subtrees of a landmark that is not there are our caller's fault."""
        with pytest.raises(UsageError):
            _sequence(NEW, 5, 6).subtrees(number)

    def test_first_of_a_run_has_no_subtrees(self) -> None:
        """Of the first landmark in a run the one before is not known, so its subtrees are not either."""
        run = LandmarkSequence(_sequence(NEW, 5, 6).landmarks[1:])
        assert run.subtrees(2) == (Subtree(5, 6), Subtree(6, 6))
        with pytest.raises(UsageError):
            run.subtrees(1)


class TestPlaces:
    """Where an entry is found."""

    @given(SIZES, st.sampled_from([OLD, NEW]))
    def test_every_entry(self, sizes: list[int], revision: DraftRevision) -> None:
        """Each entry below the latest landmark lies in exactly one subtree of the lowest landmark above it."""
        sequence = _sequence(revision, *sizes)
        for index in range(0, sizes[-1], max(1, sizes[-1] // 97)):
            number = next(n for n, size in enumerate(sizes, 1) if size > index)
            place = sequence.landmark_for(index)
            assert place is not None
            assert place.landmark.number == number
            assert [part for part in sequence.subtrees(number) if part.contains(index)] == [place.subtree]
        assert sequence.landmark_for(sizes[-1]) is None

    def test_boundaries(self) -> None:
        """A landmark covers the entries up to its size and not its size itself."""
        sequence = _sequence(NEW, 34, 2036)
        assert sequence.landmark_for(33) == LandmarkPlace(sequence.landmarks[1], Subtree(32, 34))
        assert sequence.landmark_for(34) == LandmarkPlace(sequence.landmarks[2], Subtree(0, 1024))
        assert sequence.landmark_for(2035) == LandmarkPlace(sequence.landmarks[2], Subtree(1024, 2036))
        assert sequence.landmark_for(2036) is None

    def test_forgotten_landmarks(self) -> None:
        """An entry before the landmarks that are known is rejected: its landmark cannot be told any more."""
        run = _sequence(NEW, 34, 2036).landmarks[1:]
        assert landmark_for(run, 34) is not None
        for index in (33, 0, -1):
            with pytest.raises(Rejected) as caught:
                landmark_for(run, index)
            assert caught.value.reason == Reason.EXPIRED
        with pytest.raises(Rejected):
            _sequence(NEW, 34).landmark_for(-1)


class TestActivity:
    """When a landmark is active."""

    def test_expiry_is_inclusive(self) -> None:
        """A landmark is active up to and with the second of its expiry, because notAfter is inclusive."""
        mark = Landmark(1, 5, 1000)
        assert [mark.is_active(_at(moment)) for moment in (0, 999, 1000, 1000.9, 1001)] == [True] * 4 + [False]

    def test_landmark_zero_is_never_active(self) -> None:
        """Landmark 0 is never active, not even at the epoch."""
        assert not Landmark(0, 0, 0).is_active(_at(0))
        assert not Landmark(0, 0, None).is_active(_at(0))

    def test_now_has_a_zone(self) -> None:
        """A moment without a time zone is our caller's fault; any zone will do."""
        with pytest.raises(UsageError):
            Landmark(1, 5, 1000).is_active(datetime(2026, 1, 1))  # noqa: DTZ001 - on purpose
        east = timezone(timedelta(hours=9))
        assert Landmark(1, 5, 1000).is_active(_at(1000).astimezone(east))
        assert not Landmark(1, 5, 1000).is_active(_at(1001).astimezone(east))

    @pytest.mark.parametrize(
        ("lifetime", "interval", "expected"),
        [
            # Provenance: "Landmark-Relative Certificates" of the draft computes 169 for a week of hours.
            (WEEK, HOUR, 169),
            (HOUR, WEEK, 2),
            (HOUR, HOUR, 2),
            (HOUR + timedelta(seconds=1), HOUR, 3),
            (timedelta(days=47), timedelta(hours=6), 189),
        ],
    )
    def test_most_active_landmarks(self, lifetime: timedelta, interval: timedelta, expected: int) -> None:
        """One landmark per started interval of a lifetime, and one more, is the most that is active."""
        assert max_active(lifetime, interval) == expected

    @pytest.mark.parametrize(("lifetime", "interval"), [(WEEK, timedelta(0)), (timedelta(0), HOUR), (WEEK, -HOUR)])
    def test_durations_last(self, lifetime: timedelta, interval: timedelta) -> None:
        """A lifetime and an interval are positive."""
        with pytest.raises(UsageError):
            max_active(lifetime, interval)
        with pytest.raises(UsageError):
            LandmarkSequence.start().allocate(1, _at(0), max_lifetime=lifetime, interval=interval)


class TestAllocation:
    """How a CA appends landmarks."""

    def test_once_per_interval(self) -> None:
        """A grown log gets one landmark in each interval, at most; the sequence is returned as it is otherwise."""
        sequence = LandmarkSequence.start()
        assert sequence.allocate(0, _at(3600), max_lifetime=WEEK, interval=HOUR) is sequence
        first = sequence.allocate(10, _at(3700), max_lifetime=WEEK, interval=HOUR)
        assert first.latest == Landmark(1, 10, 3700 + 604800)
        assert first.allocated_at == 3700
        assert first.allocate(20, _at(7199), max_lifetime=WEEK, interval=HOUR) is first
        assert first.allocate(10, _at(7200), max_lifetime=WEEK, interval=HOUR) is first
        second = first.allocate(20, _at(7200), max_lifetime=WEEK, interval=HOUR)
        assert second.landmarks == (*first.landmarks, Landmark(2, 20, 7200 + 604800))

    def test_clock_that_runs_backwards(self) -> None:
        """A clock that went back allocates nothing until it has caught up."""
        sequence = LandmarkSequence.start().allocate(10, _at(7200), max_lifetime=WEEK, interval=HOUR)
        assert sequence.allocate(20, _at(3000), max_lifetime=WEEK, interval=HOUR) is sequence
        assert sequence.allocate(20, _at(10800), max_lifetime=WEEK, interval=HOUR) is not sequence

    def test_expiry_is_the_latest(self) -> None:
        """The expiry is the latest of now + lifetime, the latest notAfter, and the expiry before, rounded up."""
        start = LandmarkSequence.start()
        later = start.allocate(1, _at(10.5), max_lifetime=HOUR, interval=HOUR, latest_not_after=_at(9000))
        assert later.latest.expiry == 9000
        sooner = start.allocate(1, _at(10.5), max_lifetime=HOUR, interval=HOUR, latest_not_after=_at(5))
        assert sooner.latest.expiry == 3611
        assert later.allocate(2, _at(3600), max_lifetime=HOUR, interval=HOUR).latest.expiry == 9000

    def test_log_does_not_shrink(self) -> None:
        """A log smaller than its latest landmark is our caller's fault."""
        sequence = _sequence(NEW, 10)
        with pytest.raises(UsageError):
            sequence.allocate(9, _at(0), max_lifetime=WEEK, interval=HOUR)

    def test_revisions_without_expiry(self) -> None:
        """Where landmarks do not expire one by one, none gets an expiry."""
        sequence = LandmarkSequence.start(OLD).allocate(10, _at(0), max_lifetime=WEEK, interval=HOUR)
        assert sequence.landmarks == (Landmark(0, 0, None), Landmark(1, 10, None))

    @given(
        st.lists(st.tuples(st.integers(0, 7200), st.integers(0, 50)), min_size=1, max_size=60),
        st.sampled_from([OLD, NEW]),
    )
    def test_promises_hold_over_time(self, steps: list[tuple[int, int]], revision: DraftRevision) -> None:
        """Whenever a CA asks, at most `max_active` landmarks are active, and every live certificate is below one."""
        lifetime = timedelta(hours=5)
        limit = max_active(lifetime, HOUR)
        sequence, now, size = LandmarkSequence.start(revision), 0, 0
        issued: list[tuple[int, int]] = []
        for wait, entries in steps:
            now += wait
            issued += [(index, now + 18000) for index in range(size, size + entries)]
            size += entries
            before = sequence
            sequence = sequence.allocate(size, _at(now), max_lifetime=lifetime, interval=HOUR)
            assert sequence.landmarks[: len(before.landmarks)] == before.landmarks
            published = ActiveLandmarks.of_sequence(
                sequence, _at(now), None if revision.landmarks_have_expiry else limit
            )
            assert len(published.active(_at(now))) <= limit
            for index, not_after in issued:
                if not_after < now or index >= sequence.latest.tree_size:
                    continue
                place = published.landmark_for(index)
                assert place is not None
                assert place.landmark in published.active(_at(now))


class TestValidity:
    """What is no landmark and no sequence."""

    @pytest.mark.parametrize(
        ("number", "size", "expiry"),
        [
            (-1, 0, 0),
            (0, 1, 0),
            (0, 0, 1),
            (1, 0, 0),
            (5, 4, 0),
            (1, MAX_TREE_SIZE + 1, 0),
            (MAX_LANDMARK_NUMBER + 1, MAX_TREE_SIZE, 0),
            (1, 1, -1),
            (1, 1, MAX_EXPIRY + 1),
        ],
    )
    def test_landmark(self, number: int, size: int, expiry: int) -> None:
        """Landmark 0 has size 0 and expiry 0; all have 48-bit sizes of at least their number."""
        with pytest.raises(FormatError) as caught:
            Landmark(number, size, expiry)
        assert caught.value.reason == Reason.BAD_LANDMARKS

    @pytest.mark.parametrize(
        ("marks", "reason"),
        [
            ((), Reason.BAD_LANDMARKS),
            ((Landmark(0, 0, None),), Reason.BAD_LANDMARKS),
            ((Landmark(0, 0, 0), Landmark(2, 5, 5)), Reason.BAD_ORDER),
            ((Landmark(1, 5, 5), Landmark(2, 5, 5)), Reason.BAD_ORDER),
            ((Landmark(1, 5, 5), Landmark(2, 4, 5)), Reason.BAD_ORDER),
            ((Landmark(1, 5, 5), Landmark(2, 6, 4)), Reason.BAD_ORDER),
        ],
    )
    def test_sequence(self, marks: tuple[Landmark, ...], reason: Reason) -> None:
        """Numbers are consecutive, sizes grow, expiries never sink, and are there when the revision has them."""
        for build in (LandmarkSequence, ActiveLandmarks):
            with pytest.raises(FormatError) as caught:
                build(marks, NEW)
            assert caught.value.reason == reason
        with pytest.raises(FormatError):
            LandmarkSequence((Landmark(0, 0, 0),), OLD)


class TestPublication:
    """Which landmarks a CA publishes."""

    def test_active_ones_and_the_one_before(self) -> None:
        """Published are the active landmarks and one expired one behind them."""
        sequence = _sequence(NEW, 10, 20, 30)
        for now, first in [(0, 0), (100, 0), (101, 1), (200, 1), (201, 2), (300, 2), (301, 3)]:
            published = ActiveLandmarks.of_sequence(sequence, _at(now))
            assert [mark.number for mark in published.landmarks] == list(range(first, 4))
            assert [mark.number for mark in published.active(_at(now))] == list(range(first + 1, 4))
            assert ActiveLandmarks.parse(published.encode(), _at(now)) == published

    def test_window_without_expiry(self) -> None:
        """Where landmarks do not expire, the last `max_active_landmarks` and the one before are published."""
        sequence = _sequence(OLD, 10, 20, 30)
        for window, first in [(1, 2), (2, 1), (3, 0), (9, 0)]:
            published = ActiveLandmarks.of_sequence(sequence, _at(0), window)
            assert [mark.number for mark in published.landmarks] == list(range(first, 4))
            assert ActiveLandmarks.parse(published.encode(), _at(0), OLD) == published

    def test_parameters_go_with_the_revision(self) -> None:
        """The size of the window is a parameter of the revisions that have one."""
        with pytest.raises(UsageError):
            ActiveLandmarks.of_sequence(_sequence(NEW, 10), _at(0), 5)
        with pytest.raises(UsageError):
            ActiveLandmarks.of_sequence(_sequence(OLD, 10), _at(0))

    def test_history_must_reach_back(self) -> None:
        """A sequence that forgot the landmark before the oldest active one cannot be published."""
        run = LandmarkSequence(_sequence(NEW, 10, 20, 30).landmarks[2:])
        assert ActiveLandmarks.of_sequence(run, _at(201)).landmarks == run.landmarks
        with pytest.raises(UsageError):
            ActiveLandmarks.of_sequence(run, _at(200))
        with pytest.raises(UsageError):
            ActiveLandmarks.of_sequence(LandmarkSequence(_sequence(OLD, 10, 20).landmarks[1:], OLD), _at(0), 2)

    def test_active_subtrees(self) -> None:
        """Relying parties trust the subtrees of active landmarks, and of no other."""
        published = ActiveLandmarks.of_sequence(_sequence(NEW, 10, 20, 30), _at(150))
        assert published.active_subtrees(_at(150)) == (*cover(10, 20), *cover(20, 30))
        assert published.active_subtrees(_at(250)) == cover(20, 30)
        assert published.active_subtrees(_at(301)) == ()
        assert published.latest.number == 3

    def test_usual_week(self) -> None:
        """A week of hourly landmarks takes 169 active ones, 338 subtrees and less than 5,000 bytes of file."""
        sequence = LandmarkSequence.start()
        for hour in range(400):
            now = _at(3600 * (497_222 + hour) + (3599 - 9 * hour) % 3600)  # At another minute of each hour.
            sequence = sequence.allocate(10**9 + 1000 * hour, now, max_lifetime=WEEK, interval=HOUR)
        assert sequence.latest.number == 400
        published = ActiveLandmarks.of_sequence(sequence, now)
        assert 168 <= len(published.active(now)) <= max_active(WEEK, HOUR)
        assert len(published.active_subtrees(now)) == 2 * len(published.active(now))
        assert len(published.encode()) < 5000


class TestFileWithExpiries:
    """The shape of -06 and -07."""

    FILE = b"3\n30 300\n20 200\n10 100\n"

    def test_layout(self) -> None:
        """The file is the latest number and then size and expiry of one landmark per line, latest first."""
        parsed = ActiveLandmarks.parse(self.FILE, _at(150))
        assert parsed.landmarks == (Landmark(1, 10, 100), Landmark(2, 20, 200), Landmark(3, 30, 300))
        assert parsed.encode() == self.FILE
        fresh = ActiveLandmarks.parse(b"0\n0 0\n", _at(0))
        assert fresh == ActiveLandmarks.of_sequence(LandmarkSequence.start(), _at(0))
        assert fresh.active(_at(0)) == ()

    def test_several_may_have_expired(self) -> None:
        """A file that is not the newest ends with more than one expired landmark, and is still good."""
        parsed = ActiveLandmarks.parse(self.FILE, _at(250))
        assert [mark.number for mark in parsed.active(_at(250))] == [3]
        assert ActiveLandmarks.parse(self.FILE, _at(1000)).active(_at(1000)) == ()

    def test_terminator_must_have_expired(self) -> None:
        """A file whose last landmark has not expired is refused: more may have been cut off."""
        for now in (0, 100):
            with pytest.raises(FormatError) as caught:
                ActiveLandmarks.parse(self.FILE, _at(now))
            assert caught.value.reason == Reason.BAD_LANDMARKS
        ActiveLandmarks.parse(self.FILE, _at(101))

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", Reason.TRUNCATED),
            (b"3", Reason.TRUNCATED),
            (b"3\n30 300", Reason.TRUNCATED),
            (b"3\n", Reason.BAD_LANDMARKS),
            (b"\n", Reason.BAD_LANDMARKS),
            (b"3\n30 300\n20 200\n10 100\n\n", Reason.BAD_LANDMARKS),
            (b"3 2\n30 300\n20 200\n10 100\n", Reason.BAD_LANDMARKS),
            (b"03\n30 300\n20 200\n10 100\n", Reason.BAD_LANDMARKS),
            (b" 3\n30 300\n", Reason.BAD_LANDMARKS),
            (b"+3\n30 300\n", Reason.BAD_LANDMARKS),
            (b"3\n30  300\n20 200\n10 100\n", Reason.BAD_LANDMARKS),
            (b"3\n30 300 \n20 200\n10 100\n", Reason.BAD_LANDMARKS),
            (b"3\n 30 300\n20 200\n10 100\n", Reason.BAD_LANDMARKS),
            (b"3\n30\t300\n20 200\n10 100\n", Reason.BAD_LANDMARKS),
            (b"3\r\n30 300\r\n", Reason.BAD_LANDMARKS),
            (b"3\n30\n20\n10\n", Reason.BAD_LANDMARKS),
            (b"3\n30 300\n20 0200\n10 100\n", Reason.BAD_LANDMARKS),
            (b"3\n30 300\n20 -2\n", Reason.BAD_LANDMARKS),
            (b"3\n30 300\n20 200\n10 100\n0 0\n0 0\n", Reason.BAD_LANDMARKS),
            (b"1\n5 300\n0 1\n", Reason.BAD_LANDMARKS),
            (b"1\n5 300\n1 0\n", Reason.BAD_LANDMARKS),
            (b"0\n0 0\n0 0\n", Reason.BAD_LANDMARKS),
            (b"3\n2 1\n", Reason.BAD_LANDMARKS),
            (b"281474976710656\n281474976710655 1\n", Reason.BAD_LANDMARKS),
            (b"3\n281474976710656 1\n", Reason.BAD_LANDMARKS),
            (b"3\n30 9223372036854775808\n10 1\n", Reason.BAD_LANDMARKS),
            (b"3\n30 99999999999999999999\n10 1\n", Reason.BAD_LANDMARKS),
            ("3\n30 3٠\n20 1\n".encode(), Reason.BAD_LANDMARKS),  # noqa: RUF001 - a digit that is not ASCII
            (b"3\n30 300\n30 200\n10 100\n", Reason.BAD_ORDER),
            (b"3\n30 300\n31 200\n10 100\n", Reason.BAD_ORDER),
            (b"3\n30 300\n20 301\n10 100\n", Reason.BAD_ORDER),
            (b"1\n" * 600_000, Reason.TOO_LARGE),
        ],
    )
    def test_other_forms_are_refused(self, data: bytes, reason: Reason) -> None:
        """Each deviation is refused with its reason."""
        with pytest.raises(FormatError) as caught:
            ActiveLandmarks.parse(data, _at(150))
        assert caught.value.reason == reason

    def test_largest_numbers(self) -> None:
        """Numbers and sizes up to 2^48 - 1 are read."""
        data = b"281474976710655\n281474976710655 9223372036854775807\n281474976710654 1\n"
        assert ActiveLandmarks.parse(data, _at(150)).encode() == data

    def test_every_truncation(self) -> None:
        """A file cut off anywhere is refused, because its terminator or a newline is missing."""
        for cut in range(len(self.FILE)):
            with pytest.raises(FormatError):
                ActiveLandmarks.parse(self.FILE[:cut], _at(150))

    def test_prefix(self) -> None:
        """A prefix is enough when it reaches an expired landmark; nothing behind that is looked at."""
        full = ActiveLandmarks.parse(self.FILE, _at(150))
        for tail in (b"", b"0 0\n", b"nonsense", b"99 99\n", b"\xff\n\n", b"x" * MAX_LANDMARKS_BYTES):
            assert ActiveLandmarks.parse(self.FILE + tail, _at(150), prefix=True) == full
        shorter = ActiveLandmarks.parse(self.FILE, _at(250), prefix=True)
        assert [mark.number for mark in shorter.landmarks] == [2, 3]
        for cut in range(len(self.FILE)):
            with pytest.raises(FormatError):
                ActiveLandmarks.parse(self.FILE[:cut], _at(150), prefix=True)

    def test_bound_of_the_reader(self) -> None:
        """A reader may bound how many active landmarks it accepts; expired ones do not count."""
        ActiveLandmarks.parse(self.FILE, _at(150), max_active_landmarks=2)
        with pytest.raises(FormatError) as caught:
            ActiveLandmarks.parse(self.FILE, _at(150), max_active_landmarks=1)
        assert caught.value.reason == Reason.TOO_LARGE

    @given(SIZES, st.data())
    def test_round_trip_and_mutations(self, sizes: list[int], data: st.DataObject) -> None:
        """Every file is read back; with a byte changed it is refused, or is another file with exactly these bytes."""
        now = _at(data.draw(st.integers(0, 1300)))
        published = ActiveLandmarks.of_sequence(_sequence(NEW, *sizes), now)
        encoded = published.encode()
        assert ActiveLandmarks.parse(encoded, now) == published
        changed = bytearray(encoded)
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.sampled_from(b"0123456789 \n-x"))
        with suppress(FormatError):
            assert ActiveLandmarks.parse(bytes(changed), now).encode() == bytes(changed)


class TestFileWithCount:
    """The shape of -04 and -05."""

    FILE = b"3 2\n30\n20\n10\n"

    def test_layout(self) -> None:
        """The file is the latest number, the number of active landmarks, and one size more than that."""
        parsed = ActiveLandmarks.parse(self.FILE, _at(0), OLD)
        assert parsed.landmarks == (Landmark(1, 10, None), Landmark(2, 20, None), Landmark(3, 30, None))
        assert [mark.number for mark in parsed.active(_at(0))] == [2, 3]
        assert parsed.encode() == self.FILE
        assert ActiveLandmarks.parse(b"0 0\n0\n", _at(0), OLD).active(_at(0)) == ()
        assert parsed.active_subtrees(_at(0)) == (*cover(10, 20), *cover(20, 30))

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", Reason.TRUNCATED),
            (b"3 2\n30\n20\n10", Reason.TRUNCATED),
            (b"3\n30\n", Reason.BAD_LANDMARKS),
            (b"3 2\n", Reason.BAD_LANDMARKS),
            (b"3 2\n30\n20\n", Reason.BAD_LANDMARKS),
            (b"3 2\n30\n20\n10\n5\n", Reason.BAD_LANDMARKS),
            (b"3 2\n30\n20\n10\n\n", Reason.BAD_LANDMARKS),
            (b"3 4\n30\n20\n10\n5\n0\n", Reason.BAD_LANDMARKS),
            (b"3 02\n30\n20\n10\n", Reason.BAD_LANDMARKS),
            (b"3  2\n30\n20\n10\n", Reason.BAD_LANDMARKS),
            (b"3 2\n30\n20 1\n10\n", Reason.BAD_LANDMARKS),
            (b"3 2\n30\n020\n10\n", Reason.BAD_LANDMARKS),
            (b"3 3\n30\n20\n10\n1\n", Reason.BAD_LANDMARKS),
            (b"3 2\n30\n30\n10\n", Reason.BAD_ORDER),
            (b"3 2\n20\n30\n10\n", Reason.BAD_ORDER),
        ],
    )
    def test_other_forms_are_refused(self, data: bytes, reason: Reason) -> None:
        """Each deviation is refused with its reason."""
        with pytest.raises(FormatError) as caught:
            ActiveLandmarks.parse(data, _at(0), OLD)
        assert caught.value.reason == reason

    def test_every_truncation(self) -> None:
        """A file cut off anywhere is refused."""
        for cut in range(len(self.FILE)):
            with pytest.raises(FormatError):
                ActiveLandmarks.parse(self.FILE[:cut], _at(0), OLD)

    def test_bound_of_the_reader(self) -> None:
        """A file with more active landmarks than the CA's parameter allows is refused."""
        ActiveLandmarks.parse(self.FILE, _at(0), OLD, max_active_landmarks=2)
        with pytest.raises(FormatError) as caught:
            ActiveLandmarks.parse(self.FILE, _at(0), OLD, max_active_landmarks=1)
        assert caught.value.reason == Reason.TOO_LARGE

    def test_no_prefix(self) -> None:
        """Without expiries no prefix says that it is enough."""
        with pytest.raises(UsageError):
            ActiveLandmarks.parse(self.FILE, _at(0), OLD, prefix=True)

    def test_shapes_are_not_mixed(self) -> None:
        """A file of one shape is none of the other."""
        with pytest.raises(FormatError):
            ActiveLandmarks.parse(self.FILE, _at(1000), NEW)
        with pytest.raises(FormatError):
            ActiveLandmarks.parse(TestFileWithExpiries.FILE, _at(1000), OLD)
