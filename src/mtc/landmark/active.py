"""The landmarks file: the active landmarks of a log as a CA publishes them.

Two shapes, chosen by `DraftRevision.landmarks_have_expiry`. Both begin with the latest landmark and end with the one
before the oldest active landmark, whose size bounds the oldest one's subtrees.

Spec: Merkle Tree Certificates, "Publishing Landmarks".
"""

import re
from dataclasses import dataclass
from datetime import datetime

from mtc.errors import FormatError, Reason, UsageError
from mtc.ids import DEFAULT_REVISION, DraftRevision
from mtc.landmark.sequence import (
    Landmark,
    LandmarkPlace,
    LandmarkSequence,
    check_run,
    landmark_for,
    subtrees_of,
)
from mtc.merkle import Subtree

MAX_LANDMARKS_BYTES = 1 << 20
"""Largest landmarks file read, about 40,000 landmarks; 169 are the usual week of hours, in about 4,500 bytes."""

_NUMBER = "(0|[1-9][0-9]{0,18})"
_ONE = re.compile(_NUMBER, re.ASCII)
_TWO = re.compile(f"{_NUMBER} {_NUMBER}", re.ASCII)


@dataclass(frozen=True, slots=True)
class ActiveLandmarks:
    """What a landmarks file says.

    landmarks: consecutive, oldest first. The last is the latest; the first is the terminator, which is not active
    itself: expired when the file was read or, in revisions without expiry, just outside of the window. Whether the log
    is as large as the latest landmark says, its checkpoint tells. Raises FormatError (BAD_LANDMARKS, BAD_ORDER).
    """

    landmarks: tuple[Landmark, ...]
    revision: DraftRevision = DEFAULT_REVISION

    def __post_init__(self) -> None:
        """Refuse what is no run of landmarks."""
        check_run(self.landmarks, self.revision)

    @staticmethod
    def of_sequence(
        sequence: LandmarkSequence, now: datetime, max_active_landmarks: int | None = None
    ) -> "ActiveLandmarks":
        """Return what to publish at `now`: the active landmarks and the one before them.

        max_active_landmarks: for revisions without expiry, and only for them; see `max_active`. Raises UsageError when
        the sequence has forgotten the landmark before the oldest active one.
        """
        if sequence.revision.landmarks_have_expiry != (max_active_landmarks is None):
            raise UsageError(
                Reason.USAGE,
                f"max_active_landmarks is a parameter of revisions without expiry; this is {sequence.revision}",
            )
        first = sequence.latest.number
        if max_active_landmarks is not None:
            first = max(first - max_active_landmarks, 0)
        else:
            # Expiries never decrease, so that the first inactive one from the end has only inactive ones before it.
            first = max((mark.number for mark in sequence.landmarks if not mark.is_active(now)), default=-1)
        offset = first - sequence.landmarks[0].number
        if first < 0 or offset < 0:
            raise UsageError(Reason.USAGE, "the sequence does not hold the landmark before the oldest active one")
        return ActiveLandmarks(sequence.landmarks[offset:], sequence.revision)

    @staticmethod
    def parse(
        data: bytes,
        now: datetime,
        revision: DraftRevision = DEFAULT_REVISION,
        *,
        max_active_landmarks: int | None = None,
        prefix: bool = False,
    ) -> "ActiveLandmarks":
        """Read a landmarks file, strictly.

        now: one of its landmarks must have expired by then (revisions with expiry). max_active_landmarks: most that the
        reader accepts as active. prefix: read only as far as the first expired landmark and look at nothing behind it,
        so that the start of a long file is enough; for revisions with expiry.
        Raises FormatError: TOO_LARGE, TRUNCATED, BAD_LANDMARKS, BAD_ORDER; UsageError for `prefix` without expiry.
        """
        if len(data) > MAX_LANDMARKS_BYTES and not prefix:
            raise FormatError(Reason.TOO_LARGE, f"a landmarks file has at most {MAX_LANDMARKS_BYTES} bytes")
        if prefix and not revision.landmarks_have_expiry:
            raise UsageError(Reason.USAGE, f"{revision} has no landmarks that expire, so no prefix that ends with one")
        *lines, rest = data[:MAX_LANDMARKS_BYTES].decode("latin-1").split("\n")
        if not lines or (rest and not prefix):
            raise FormatError(Reason.TRUNCATED, "the last line of the landmarks file has no newline")
        if revision.landmarks_have_expiry:
            landmarks = _parse_expiring(lines, now, prefix=prefix)
        else:
            landmarks = _parse_counted(lines)
        active = ActiveLandmarks(tuple(reversed(landmarks)), revision)
        if max_active_landmarks is not None and len(active.active(now)) > max_active_landmarks:
            raise FormatError(
                Reason.TOO_LARGE,
                f"{len(active.active(now))} landmarks are active, at most {max_active_landmarks} are accepted",
                expected=max_active_landmarks,
                got=len(active.active(now)),
            )
        return active

    def encode(self) -> bytes:
        """Return the landmarks file."""
        if self.revision.landmarks_have_expiry:
            lines = [f"{self.latest.number}", *(f"{mark.tree_size} {mark.expiry}" for mark in reversed(self.landmarks))]
        else:
            lines = [
                f"{self.latest.number} {len(self.landmarks) - 1}",
                *(f"{mark.tree_size}" for mark in reversed(self.landmarks)),
            ]
        return "".join(f"{line}\n" for line in lines).encode("ascii")

    @property
    def latest(self) -> Landmark:
        """The landmark with the largest number; not active if it has expired, or is landmark 0."""
        return self.landmarks[-1]

    def active(self, now: datetime) -> tuple[Landmark, ...]:
        """Return the landmarks that are active at `now`, oldest first; `now` decides only where landmarks expire."""
        return tuple(mark for mark in self.landmarks[1:] if mark.is_active(now))

    def active_subtrees(self, now: datetime) -> tuple[Subtree, ...]:
        """Return the subtrees of the active landmarks, oldest first: what relying parties trust once it is proven."""
        return tuple(subtree for mark in self.active(now) for subtree in self.subtrees(mark.number))

    def subtrees(self, number: int) -> tuple[Subtree, ...]:
        """Return the subtrees of landmark `number`. Raises UsageError when the file lacks it or the one before."""
        return subtrees_of(self.landmarks, number, self.revision)

    def landmark_for(self, index: int) -> LandmarkPlace | None:
        """Return where entry `index` is found, None when no landmark covers it yet; see `landmark_for`."""
        return landmark_for(self.landmarks, index)


def _parse_expiring(lines: list[str], now: datetime, *, prefix: bool) -> list[Landmark]:
    """Read the shape with expiries, the latest landmark first; the last one read has expired."""
    (latest,) = _numbers(lines[0], _ONE, 1)
    landmarks: list[Landmark] = []
    for position, line in enumerate(lines[1:]):
        tree_size, expiry = _numbers(line, _TWO, position + 2)
        landmarks.append(Landmark(latest - position, tree_size, expiry))
        if prefix and not landmarks[-1].is_active(now):
            break
    if not landmarks or landmarks[-1].is_active(now):
        raise FormatError(Reason.BAD_LANDMARKS, "the landmarks file does not end with an expired landmark")
    return landmarks


def _parse_counted(lines: list[str]) -> list[Landmark]:
    """Read the shape with a count, the latest landmark first."""
    latest, active = _numbers(lines[0], _TWO, 1)
    if active > latest or active != len(lines) - 2:
        raise FormatError(
            Reason.BAD_LANDMARKS,
            f"the landmarks file has {len(lines) - 1} sizes for {active} active landmarks up to number {latest}",
            expected=active + 1,
            got=len(lines) - 1,
        )
    sizes = [_numbers(line, _ONE, number)[0] for number, line in enumerate(lines[1:], 2)]
    return [Landmark(latest - position, size, None) for position, size in enumerate(sizes)]


def _numbers(line: str, form: re.Pattern[str], number: int) -> tuple[int, ...]:
    """Return the decimals of one line."""
    match = form.fullmatch(line)
    if match is None:
        raise FormatError(
            Reason.BAD_LANDMARKS,
            f"line {number} of the landmarks file is {line[:40]!r}, not decimals with one space between them",
            line=number,
        )
    return tuple(map(int, match.groups()))
