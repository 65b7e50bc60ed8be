"""How large updates are: what is new since the state that a client has, or everything, whichever is smaller.

Landmarks count by expectation: a CA that issues rarely has no landmark in an interval without entries.
"""

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

from mtc.simulate.cohort import Polls
from mtc.simulate.scenario import Scenario
from mtc.simulate.timeline import Timeline

_NEGLIGIBLE = 1e-9


@dataclass(frozen=True, slots=True)
class UpdateSizes:
    """Bytes of the answers in one step. deltas: by age of the client's state, from 0; older states get `full`."""

    deltas: list[float]
    full: float

    def cost(self, polls: Polls) -> tuple[float, float, float]:
        """Return bytes in deltas, bytes in full states, and how many full states these updates take."""
        count = max(0, len(self.deltas) - polls.youngest)
        deltas = sum(map(float.__mul__, polls.shares[:count], self.deltas[polls.youngest :]))
        whole = sum(polls.shares[count:])
        return deltas, whole * self.full, whole


class SizeTable:
    """The sizes of all steps of a run, one after the other."""

    def __init__(self, scenario: Scenario, timelines: Sequence[tuple[Timeline, int]]) -> None:
        """Add up the landmarks of all CAs. timelines: each with how many CAs do so."""
        self._service = scenario.service
        self._history = history = max(timeline.history for timeline, _ in timelines)
        self._window = scenario.steps(scenario.service.delta_window)
        self._total = scenario.steps(scenario.duration)
        self._cas = sum(count for _, count in timelines)
        self._timelines = timelines
        appearing = [0.0] * (history + self._total + 1)
        active = [0.0] * (history + self._total + 1)
        for timeline, count in timelines:
            marks = timeline.landmarks
            for start, seen, grown in zip(marks.allocated, marks.visible, marks.grown, strict=True):
                place, end = seen + history, start + timeline.lifetime + history
                if place < len(appearing):
                    appearing[place] += count * grown
                if place < min(end, len(active)):
                    active[place] += count * grown
                    if end < len(active):
                        active[end] -= count * grown
        # Landmarks that were to be had at step s or before stand at s + history.
        self._known = list(accumulate(appearing))
        self._active = list(accumulate(active))

    def active(self, step: int) -> float:
        """Return how many landmarks of all CAs are active and to be had."""
        return self._active[step + self._history]

    def full_bytes(self, step: int) -> float:
        """Return the size of a full state, without what surrounds it on the wire."""
        return self._cas * self._service.ca_bytes + self._service.landmark_bytes * self.active(step)

    def steps(self) -> Iterator[UpdateSizes]:
        """Yield the sizes in each step of the run."""
        service = self._service
        recent = _Recent(self._timelines, self._history) if service.proof_bytes else None
        for step in range(self._total):
            now = step + self._history
            full = service.base_bytes + self.full_bytes(step) + service.proof_bytes * self._cas
            latest = self._known[now]
            known = self._known[now - self._window : now + 1]
            known.reverse()
            deltas = [service.base_bytes + service.landmark_bytes * (latest - before) for before in known]
            if recent is not None:
                proofs = recent.changed(step, self._window)
                deltas = [size + service.proof_bytes * count for size, count in zip(deltas, proofs, strict=True)]
            # Sizes grow with the age, so that from one age on the full state is smaller.
            yield UpdateSizes(deltas[: bisect_right(deltas, full)], full)


class _Recent:
    """How many CAs have a landmark that clients of a given age do not know; asked for step after step."""

    def __init__(self, timelines: Sequence[tuple[Timeline, int]], history: int) -> None:
        """Begin before the run."""
        # Each CA's newest landmark: the probability, times the CAs that do the same, that it became visible at a step.
        self._newest: list[dict[int, float]] = [{} for _ in timelines]
        self._at = -history
        self._events: list[dict[int, list[float]]] = []
        for timeline, count in timelines:
            events: dict[int, list[float]] = {}
            for seen, grown in zip(timeline.landmarks.visible, timeline.landmarks.grown, strict=True):
                events.setdefault(seen, []).append(grown)
            self._events.append(events)
            self._newest[len(self._events) - 1][-history - 1] = float(count)

    def changed(self, step: int, window: int) -> list[float]:
        """Return for each age from 0 to `window` the expected number of CAs with news in so many steps."""
        for now in range(self._at, step + 1):
            for number, events in enumerate(self._events):
                for grown in events.get(now, ()):
                    self._newest[number] = _renewed(self._newest[number], now, grown)
        self._at = step + 1
        by_age = [0.0] * (window + 1)
        for newest in self._newest:
            for seen, amount in newest.items():
                # A state of age a was made when landmarks up to step - a were visible.
                if step - seen + 1 <= window:
                    by_age[step - seen + 1] += amount
        return list(accumulate(by_age))


def _renewed(newest: dict[int, float], now: int, grown: float) -> dict[int, float]:
    """Return the distribution after a landmark that is there with probability `grown`."""
    total = sum(newest.values())
    left = {seen: amount * (1 - grown) for seen, amount in newest.items() if amount * (1 - grown) > _NEGLIGIBLE}
    left[now] = left.get(now, 0.0) + total - sum(left.values())
    return left
