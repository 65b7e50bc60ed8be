"""What the certificates that servers hold ask of clients, for all CAs together and moment after moment.

A landmark-relative certificate needs a client that has updated since its landmark became visible. Between two moments
only the oldest and the newest landmarks of a CA change, so that hundreds of different CAs cost no more than these.
"""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

from mtc.simulate.timeline import Timeline


@dataclass(slots=True)
class _Window:
    """The landmarks of one CA of which every certificate is in use and presented: numbers [low, high)."""

    low: int = 0
    high: int = 0


class Needs:
    """The needs of all certificates in use, weighted by the handshakes that their servers see."""

    def __init__(self, timelines: Sequence[tuple[Timeline, float]]) -> None:
        """Begin. timelines: each with its weight; the weights of all are taken as a whole."""
        whole = sum(weight for _, weight in timelines) or 1.0
        self._parts = [
            # The part of all handshakes that one certificate of the group has.
            (timeline, weight / whole / (timeline.group.certificates or 1), _Window())
            for timeline, weight in timelines
        ]
        # By the step at which a landmark became visible: the part of all handshakes, and how many landmarks make it up.
        self._settled: dict[int, tuple[float, int]] = {}

    def at(self, step: int) -> tuple[dict[int, float], float]:
        """Return what is needed at `step`, not before the step asked for last.

        First, by age: the part of all handshakes whose landmark is known to clients that updated at most so many steps
        ago; those whose landmark nobody can know, or whose server does not present it yet, are in none. Second, the
        part whose certificate has expired because the CA did not renew it.
        """
        loose: dict[int, float] = {}
        expired = 0.0
        for timeline, each, window in self._parts:
            self._move(timeline, each, window, step)
            seen, amount = timeline.oldest(step)
            if seen is not None:
                loose[seen] = loose.get(seen, 0.0) + amount * each
            if step in timeline.held:
                expired += each * self._held(timeline, each, step, loose)
        needed = {step - seen: part for seen, (part, _) in self._settled.items()}
        for seen, part in loose.items():
            needed[step - seen] = needed.get(step - seen, 0.0) + part
        return needed, expired

    def _move(self, timeline: Timeline, each: float, window: _Window, step: int) -> None:
        """Let landmarks in that are presented now, and out that have certificates which are renewed."""
        marks = timeline.landmarks
        low, high = timeline.whole(step)
        for number in range(max(window.high, low), high):
            part, users = self._settled.get(marks.visible[number], (0.0, 0))
            self._settled[marks.visible[number]] = (part + marks.amounts[number] * each, users + 1)
        for number in range(window.low, min(low, window.high)):
            part, users = self._settled[marks.visible[number]]
            if users == 1:
                # Removed and not subtracted, so that rounding leaves nothing behind.
                del self._settled[marks.visible[number]]
            else:
                self._settled[marks.visible[number]] = (part - marks.amounts[number] * each, users - 1)
        window.low, window.high = low, max(high, low)

    @staticmethod
    def _held(timeline: Timeline, each: float, step: int, loose: dict[int, float]) -> float:
        """Add the certificates whose renewal the CA did not answer; return how many of them have expired."""
        expired = 0.0
        marks = timeline.landmarks
        for issued_at, amount in timeline.held[step].amounts:
            number = bisect_right(marks.allocated, issued_at)
            if step - issued_at >= timeline.lifetime:
                expired += amount
            elif timeline.is_presented(number, step):
                seen = marks.visible[number]
                loose[seen] = loose.get(seen, 0.0) + amount * each
        return expired
