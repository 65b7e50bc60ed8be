"""Landmarks, the sequence that a CA appends to, and which subtree of which landmark holds an entry.

Spec: Merkle Tree Certificates, "Landmark-Relative Certificates".
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import pairwise

from mtc.errors import FormatError, Reason, Rejected, UsageError
from mtc.ids import DEFAULT_REVISION, DraftRevision
from mtc.merkle import MAX_TREE_SIZE, Subtree, cover
from mtc.wire import posix_seconds

MAX_LANDMARK_NUMBER = 2**48 - 1
"""Largest number of a landmark."""
MAX_EXPIRY = 2**63 - 1
"""Largest expiry, POSIX seconds; the limit of timestamps elsewhere in transparency logs."""

_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Landmark:
    """A point that the whole ecosystem refers to: a number, the log's size there, and how long it is of use.

    number: from 0, at most 2^48 - 1. tree_size: at most 2^48 - 1, at least `number`, because sizes strictly increase.
    expiry: POSIX seconds; None in revisions whose landmarks do not expire one by one. Landmark 0 has size 0 and expiry
    0. Raises FormatError (BAD_LANDMARKS).
    """

    number: int
    tree_size: int
    expiry: int | None

    def __post_init__(self) -> None:
        """Refuse what no sequence can hold."""
        if not 0 <= self.number <= MAX_LANDMARK_NUMBER:
            raise FormatError(Reason.BAD_LANDMARKS, f"{self.number} is no landmark number", got=self.number)
        if not self.number <= self.tree_size <= MAX_TREE_SIZE or (self.number == 0 and self.tree_size):
            raise FormatError(
                Reason.BAD_LANDMARKS,
                f"landmark {self.number} cannot have tree size {self.tree_size}",
                number=self.number,
                got=self.tree_size,
            )
        if self.expiry is not None and (not 0 <= self.expiry <= MAX_EXPIRY or (self.number == 0 and self.expiry)):
            raise FormatError(
                Reason.BAD_LANDMARKS,
                f"landmark {self.number} cannot have expiry {self.expiry}",
                number=self.number,
                got=self.expiry,
            )

    def is_active(self, now: datetime) -> bool:
        """Tell whether the landmark has not expired at `now`: up to and with its expiry, as notAfter is inclusive.

        Landmark 0 never is active. A landmark without expiry is not judged here but by its place in the window: True.
        """
        if self.number == 0:
            return False
        return self.expiry is None or posix_seconds(now) <= self.expiry


@dataclass(frozen=True, slots=True)
class LandmarkPlace:
    """Where an entry's landmark-relative certificate points: a landmark, and the one of its subtrees with the entry."""

    landmark: Landmark
    subtree: Subtree


@dataclass(frozen=True, slots=True)
class LandmarkSequence:
    """The landmarks of one log in order, append-only: consecutive numbers, growing sizes, expiries that never sink.

    landmarks: at least one; from landmark 0, or a run that ends with the latest, when older ones are forgotten.
    allocated_at: POSIX seconds of the last allocation, so that there is at most one per interval; None before it.
    Raises FormatError (BAD_LANDMARKS, BAD_ORDER).
    """

    landmarks: tuple[Landmark, ...]
    revision: DraftRevision = DEFAULT_REVISION
    allocated_at: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is no sequence."""
        check_run(self.landmarks, self.revision)

    @staticmethod
    def start(revision: DraftRevision = DEFAULT_REVISION) -> "LandmarkSequence":
        """Return the sequence of a new log: landmark 0."""
        return LandmarkSequence((Landmark(0, 0, 0 if revision.landmarks_have_expiry else None),), revision)

    @property
    def latest(self) -> Landmark:
        """The landmark with the largest number."""
        return self.landmarks[-1]

    def allocate(
        self,
        tree_size: int,
        now: datetime,
        *,
        max_lifetime: timedelta,
        interval: timedelta,
        latest_not_after: datetime | None = None,
    ) -> "LandmarkSequence":
        """Return the sequence with a landmark at `tree_size` appended, or itself when none is due.

        One is due when the log grew since the latest landmark and none was allocated in the interval of `now`;
        intervals are counted from the epoch, and a clock that runs backwards allocates nothing. tree_size: of the
        newest checkpoint. max_lifetime: of certificates. latest_not_after: the latest one below tree_size, if any lies
        later than now + max_lifetime. The expiry is the latest of these two and the expiry before. Raises UsageError.
        Spec: Merkle Tree Certificates, "Allocating Landmarks".
        """
        if tree_size < self.latest.tree_size:
            raise UsageError(
                Reason.USAGE, f"the log has {tree_size} entries, fewer than its latest landmark", tree_size=tree_size
            )
        _check_durations(max_lifetime, interval)
        seconds = posix_seconds(now)
        was_allocated = (
            self.allocated_at is not None and seconds * _SECOND // interval <= self.allocated_at * _SECOND // interval
        )
        if was_allocated or tree_size == self.latest.tree_size:
            return self
        expiry = None
        if self.revision.landmarks_have_expiry:
            ends = [now + max_lifetime] if latest_not_after is None else [now + max_lifetime, latest_not_after]
            # Rounded up, because an expiry must not lie before a notAfter.
            seconds_up = [posix_seconds(end + _SECOND - timedelta(microseconds=1)) for end in ends]
            expiry = max(self.latest.expiry or 0, *seconds_up)
        landmark = Landmark(self.latest.number + 1, tree_size, expiry)
        return replace(self, landmarks=(*self.landmarks, landmark), allocated_at=seconds)

    def subtrees(self, number: int) -> tuple[Subtree, ...]:
        """Return the subtrees of landmark `number`. Raises UsageError when it, or the one before, is not held."""
        return subtrees_of(self.landmarks, number, self.revision)

    def landmark_for(self, index: int) -> LandmarkPlace | None:
        """Return where entry `index` is found, None when no landmark covers it yet; see `landmark_for`."""
        return landmark_for(self.landmarks, index)


def landmark_for(landmarks: Sequence[Landmark], index: int) -> LandmarkPlace | None:
    """Return the lowest landmark above entry `index`, and the one of its subtrees that holds the entry.

    landmarks: a run of consecutive ones, oldest first. None: no landmark covers the entry yet, so wait. Raises Rejected
    (EXPIRED) when the entry lies before the run, so that its landmark is no longer known.
    Spec: Merkle Tree Certificates, "Constructing Landmark-Relative Certificates".
    """
    position = bisect_right(landmarks, index, key=lambda landmark: landmark.tree_size)
    if position == len(landmarks):
        return None
    if position == 0 or index < 0:
        raise Rejected(
            Reason.EXPIRED, f"entry {index} lies before the landmarks that are known; its own is gone", index=index
        )
    landmark = landmarks[position]
    left, right = cover(landmarks[position - 1].tree_size, landmark.tree_size)
    return LandmarkPlace(landmark, left if left.contains(index) else right)


def subtrees_of(landmarks: Sequence[Landmark], number: int, revision: DraftRevision) -> tuple[Subtree, ...]:
    """Return the subtrees of landmark `number` in a run of consecutive landmarks, oldest first.

    Two that cover the entries since the landmark before; empty ones are left out where the revision forbids them, so
    that landmark 0 has two empty ones or none. Raises UsageError when the run does not hold it and the one before.
    Spec: Merkle Tree Certificates, "Landmark-Relative Certificates".
    """
    position = number - landmarks[0].number
    if number == 0 == position:
        covered = cover(0, 0)
    elif 1 <= position < len(landmarks):
        covered = cover(landmarks[position - 1].tree_size, landmarks[position].tree_size)
    else:
        raise UsageError(
            Reason.USAGE,
            f"the subtrees of landmark {number} do not follow from landmarks {landmarks[0].number} to "
            f"{landmarks[-1].number}",
            number=number,
        )
    return tuple(subtree for subtree in covered if revision.allows_empty_subtree or not subtree.is_empty)


def max_active(max_lifetime: timedelta, interval: timedelta) -> int:
    """Return how many landmarks are active at most, when one is allocated per interval and none outlives a certificate.

    One more than the intervals in a lifetime, because a landmark may be allocated late in its interval.
    Spec: Merkle Tree Certificates, "Allocating Landmarks".
    """
    _check_durations(max_lifetime, interval)
    return -(-max_lifetime // interval) + 1


def check_run(landmarks: Sequence[Landmark], revision: DraftRevision) -> None:
    """Raise FormatError unless these are consecutive landmarks of a sequence, oldest first, at least one."""
    if not landmarks:
        raise FormatError(Reason.BAD_LANDMARKS, "a landmark sequence has at least landmark 0")
    for landmark in landmarks:
        if (landmark.expiry is not None) != revision.landmarks_have_expiry:
            raise FormatError(
                Reason.BAD_LANDMARKS,
                f"landmark {landmark.number} has expiry {landmark.expiry}, which is not the form of {revision}",
                number=landmark.number,
            )
    for before, after in pairwise(landmarks):
        if (
            after.number != before.number + 1
            or after.tree_size <= before.tree_size
            or (after.expiry or 0) < (before.expiry or 0)
        ):
            raise FormatError(
                Reason.BAD_ORDER,
                f"landmark {after.number} cannot follow landmark {before.number}: numbers are consecutive, tree sizes "
                "strictly increase, expiries never decrease",
                number=after.number,
            )


def _check_durations(max_lifetime: timedelta, interval: timedelta) -> None:
    """Refuse durations that do not last."""
    if max_lifetime <= timedelta(0) or interval <= timedelta(0):
        raise UsageError(Reason.USAGE, "a certificate lifetime and the time between landmarks are positive")
