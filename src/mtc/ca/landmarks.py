"""When a CA allocates a landmark, and what it remembers of the landmarks of one log. Pure: the time is an argument.

The rules, in the order they are applied:

1. Only at the size of a checkpoint that is published, with the cosignatures that the CA's policy asks for.
2. Not while the time is in doubt: the checkpoint is never from the future. (The shell's clock guard sees the rest.)
3. At most one per interval, and only when the log grew since the last one.
4. At most so many within any window, counted over all logs of the CA; `Profile.max_active_landmarks`.
5. The expiry is the latest of now + the longest lifetime, the last notAfter in the log, and the expiry before.

Spec: Merkle Tree Certificates, "Allocating Landmarks" and "Publishing Landmarks"; Chrome's draft Quantum-resistant Root
Program policy 0.3.0, "Keys", for the window.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum

from mtc.errors import ConflictError, FormatError, Reason, UsageError
from mtc.ids import DEFAULT_REVISION, DraftRevision
from mtc.ids.serial import check_log_number
from mtc.landmark import ActiveLandmarks, Landmark, LandmarkSequence, max_active
from mtc.log.pruning import ExpiryMark
from mtc.profile import Profile
from mtc.wire import Reader, Writer

MAX_LANDMARKS = 30_000
"""Most landmarks of one log that are held, and most allocations of one window: the file and the register stay below
their limits of 1 MiB. A CA of the Web has about 170."""
MAX_MARKS = 4096
"""Most expiry marks that are held; above, every second one goes, which makes pruning later and never wrong."""

_VERSION = 1
_LATEST_TIME = int(datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC).timestamp())
"""No certificate can say a later time."""
_SECOND = timedelta(seconds=1)
_MEMORY = timedelta(days=1)
"""How long an expired landmark is remembered, so that a clock that is set back a little finds its terminator."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LandmarkRules:
    """The numbers. interval: between two landmarks. max_lifetime: of certificates. window, most_in_window: of the cap.

    retention: how long marks of expired entries are kept for pruning. Raises UsageError.
    """

    interval: timedelta
    max_lifetime: timedelta
    window: timedelta
    most_in_window: int
    retention: timedelta = timedelta(0)
    revision: DraftRevision = DEFAULT_REVISION

    def __post_init__(self) -> None:
        """Refuse numbers that no sequence of landmarks can follow."""
        if min(self.interval, self.max_lifetime, self.window) <= timedelta(0) or self.retention < timedelta(0):
            raise UsageError(Reason.USAGE, "a landmark interval, a lifetime and a landmark window are positive")
        if not 1 <= self.most_in_window <= MAX_LANDMARKS or (self.max_active or 0) > MAX_LANDMARKS:
            raise UsageError(
                Reason.USAGE,
                f"at most {MAX_LANDMARKS} landmarks can be active or allocated within a window; take a longer interval "
                "or shorter lifetimes",
            )

    @staticmethod
    def of_profile(profile: Profile, revision: DraftRevision = DEFAULT_REVISION) -> "LandmarkRules":
        """Take the numbers of a profile."""
        return LandmarkRules(
            interval=profile.landmark_interval,
            max_lifetime=profile.max_lifetime,
            window=profile.landmark_window,
            most_in_window=profile.max_active_landmarks,
            retention=profile.retention,
            revision=revision,
        )

    @property
    def max_active(self) -> int | None:
        """The parameter max_active_landmarks of revisions without expiry, None in the others."""
        return None if self.revision.landmarks_have_expiry else max_active(self.max_lifetime, self.interval)


@dataclass(frozen=True, slots=True)
class LandmarkState:
    """What the register value `landmarks-<N>` holds for one log.

    sequence: its active landmarks, the one before them, and a few that expired lately. allocations: POSIX seconds of
    all allocations within the last window, oldest first. marks: for pruning, how far the log has expired by when.
    """

    log_number: int
    sequence: LandmarkSequence
    allocations: tuple[int, ...] = ()
    marks: tuple[ExpiryMark, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a state that cannot be."""
        check_log_number(self.log_number)
        if list(self.allocations) != sorted(self.allocations):
            raise FormatError(Reason.BAD_ORDER, "the times of landmark allocations go back")

    @staticmethod
    def start(log_number: int, revision: DraftRevision = DEFAULT_REVISION) -> "LandmarkState":
        """Return the state of a new log: landmark 0."""
        return LandmarkState(log_number, LandmarkSequence.start(revision))

    @staticmethod
    def name_of(log_number: int) -> str:
        """Return the name of a log's value in the register."""
        return f"landmarks-{log_number}"

    def encode(self) -> bytes:
        """Return the register's bytes."""
        sequence = self.sequence
        has_expiry = sequence.revision.landmarks_have_expiry
        writer = Writer().uint(_VERSION, 1).uint(self.log_number, 2).uint(has_expiry, 1)
        writer.uint(sequence.allocated_at is not None, 1).uint(sequence.allocated_at or 0, 8)
        writer.uint(sequence.landmarks[0].number, 6).uint(len(sequence.landmarks), 4)
        for landmark in sequence.landmarks:
            writer.uint(landmark.tree_size, 6)
            if has_expiry:
                writer.uint(landmark.expiry or 0, 8)
        writer.uint(len(self.allocations), 4)
        for moment in self.allocations:
            writer.uint(moment, 8)
        writer.uint(len(self.marks), 4)
        for mark in self.marks:
            writer.uint(mark.tree_size, 6).uint(mark.latest_not_after, 8)
        return writer.encode()

    @staticmethod
    def parse(data: bytes, revision: DraftRevision = DEFAULT_REVISION) -> "LandmarkState":
        """Read the register's bytes, whole. Raises FormatError, also for a state of another form of landmarks."""
        reader = Reader(data, "the landmark state")
        if (version := reader.read_uint(1)) != _VERSION:
            raise FormatError(
                Reason.BAD_VERSION, f"the landmark state has version {version}, this program knows {_VERSION}"
            )
        log_number, has_expiry, was_allocated = reader.read_uint(2), reader.read_uint(1), reader.read_uint(1)
        if has_expiry != revision.landmarks_have_expiry or was_allocated > 1 or not log_number:
            raise FormatError(Reason.BAD_LANDMARKS, f"the landmark state of log {log_number} is not of {revision}")
        allocated_at = reader.read_uint(8)
        first, count = reader.read_uint(6), reader.read_uint(4)
        landmarks = tuple(
            Landmark(number, reader.read_uint(6), reader.read_uint(8) if has_expiry else None)
            for number in range(first, first + count)
        )
        allocations = tuple(reader.read_uint(8) for _ in range(reader.read_uint(4)))
        marks = tuple(ExpiryMark(reader.read_uint(6), reader.read_uint(8)) for _ in range(reader.read_uint(4)))
        reader.finish()
        sequence = LandmarkSequence(landmarks, revision, allocated_at if was_allocated else None)
        return LandmarkState(log_number, sequence, allocations, marks)

    def active(self, now: datetime, rules: LandmarkRules) -> ActiveLandmarks:
        """Return what the landmarks file says at `now`."""
        return ActiveLandmarks.of_sequence(self.sequence, now, rules.max_active)


class Hold(StrEnum):
    """Why no landmark is allocated."""

    NOT_DUE = "not-due"
    """The interval of the last one is not over."""
    NO_GROWTH = "no-growth"
    """The log is as large as its last landmark."""
    NOT_PUBLISHED = "not-published"
    """There is no checkpoint yet."""
    CLOCK = "clock"
    """The checkpoint is from the future, so the clock is wrong."""
    CAP = "cap"
    """The window holds as many as it may."""
    TOO_MANY = "too-many"
    """More are active than a landmarks file holds."""


@dataclass(frozen=True, slots=True)
class LandmarkHold:
    """No landmark now. until: POSIX seconds before which asking again is in vain."""

    why: Hold
    until: int


@dataclass(frozen=True, slots=True)
class PublishedTree:
    """A checkpoint that is published with its quorum. timestamp: POSIX seconds.

    latest_not_after: POSIX seconds, not before the notAfter of any of its entries; 0 without one.
    """

    tree_size: int
    timestamp: int
    latest_not_after: int


def plan_landmark(
    state: LandmarkState, others: Iterable[int], tree: PublishedTree, now: int, rules: LandmarkRules
) -> LandmarkState | LandmarkHold:
    """Decide about a landmark at the published tree.

    others: POSIX seconds of allocations for other logs of the CA. now: POSIX seconds. Returns the state after the
    allocation, or why there is none. Raises ConflictError when the tree is smaller than the last landmark.
    """
    latest = state.sequence.latest
    if tree.tree_size < latest.tree_size:
        raise ConflictError(
            Reason.CONFLICT,
            f"log {state.log_number} has {tree.tree_size} entries published, fewer than its landmark {latest.number}; "
            "its storage is older than its register",
            log=state.log_number,
            tree_size=tree.tree_size,
        )
    if tree.timestamp > now:
        return LandmarkHold(Hold.CLOCK, tree.timestamp)
    due = next_interval(state, rules)
    if now < due:
        return LandmarkHold(Hold.NOT_DUE, due)
    if tree.tree_size == latest.tree_size:
        return LandmarkHold(Hold.NO_GROWTH, now + 1)
    free = next_free(state, others, now, rules)
    if free > now:
        return LandmarkHold(Hold.CAP, free)
    moment = datetime.fromtimestamp(now, UTC)
    if len(state.active(moment, rules).active(moment)) >= MAX_LANDMARKS:
        return LandmarkHold(Hold.TOO_MANY, (state.sequence.landmarks[0].expiry or now) + 1)
    sequence = state.sequence.allocate(
        tree.tree_size,
        moment,
        max_lifetime=rules.max_lifetime,
        interval=rules.interval,
        latest_not_after=datetime.fromtimestamp(min(tree.latest_not_after, _LATEST_TIME), UTC),
    )
    return LandmarkState(
        state.log_number,
        _forget_landmarks(sequence, moment, rules),
        tuple(at for at in (*state.allocations, now) if _is_in_window(at, now, rules)),
        _forget_marks((*state.marks, ExpiryMark(tree.tree_size, tree.latest_not_after)), now, rules),
    )


def next_interval(state: LandmarkState, rules: LandmarkRules) -> int:
    """Return POSIX seconds from which the interval rule allows the next landmark; 0 before the first one."""
    allocated_at = state.sequence.allocated_at
    if allocated_at is None:
        return 0
    intervals = allocated_at * _SECOND // rules.interval + 1
    return -(-intervals * rules.interval // _SECOND)


def next_free(state: LandmarkState, others: Iterable[int], now: int, rules: LandmarkRules) -> int:
    """Return POSIX seconds from which the cap allows the next landmark; `now` when it does at once."""
    recent = sorted(at for at in (*state.allocations, *others) if _is_in_window(at, now, rules))
    if len(recent) < rules.most_in_window:
        return now
    # So many of the oldest must have left the window that there is room for one more.
    leaves = recent[len(recent) - rules.most_in_window]
    return leaves - (-rules.window // _SECOND) + 1


def _is_in_window(moment: int, now: int, rules: LandmarkRules) -> bool:
    """Tell whether an allocation counts: both ends belong to a window, and what seems to lie ahead counts as well."""
    return (now - moment) * _SECOND <= rules.window


def _forget_landmarks(sequence: LandmarkSequence, now: datetime, rules: LandmarkRules) -> LandmarkSequence:
    """Drop landmarks that nobody needs any more: all before the last one that expired a while ago."""
    landmarks = sequence.landmarks
    if rules.max_active is not None:
        return replace(sequence, landmarks=landmarks[-rules.max_active - 1 :])
    first = 0
    for position, landmark in enumerate(landmarks):
        if landmark.is_active(now - _MEMORY):
            break
        first = position
    return replace(sequence, landmarks=landmarks[first:])


def _forget_marks(marks: tuple[ExpiryMark, ...], now: int, rules: LandmarkRules) -> tuple[ExpiryMark, ...]:
    """Drop marks that say no more than a later one does, and thin them out where there are too many."""
    horizon = now - -(-rules.retention // _SECOND)
    kept: list[ExpiryMark] = []
    for mark in marks:
        if kept and (kept[-1].latest_not_after == mark.latest_not_after or mark.latest_not_after < horizon):
            kept.pop()
        kept.append(mark)
    return tuple(kept[-1 - (len(kept) - 1) // 2 * 2 :: 2]) if len(kept) > MAX_MARKS else tuple(kept)
