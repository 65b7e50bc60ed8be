"""What a group of CAs does in the course of time: certificates issued, landmarks, and when clients can know them.

All CAs of a group do the same, so one is computed. Certificates are a continuous amount: as many as are expected. The
time before the run is filled in far enough back that nothing refers to what lies before it.
"""

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate
from math import exp

from mtc.simulate.scenario import CAGroup, Failure, Scenario


@dataclass(frozen=True, slots=True)
class Calendar:
    """Which steps of the run what is out of order; step 0 is the first of the run.

    service, publisher: steps in which clients reach no service, and in which it learns nothing. cas: by group.
    """

    service: frozenset[int]
    publisher: frozenset[int]
    cas: dict[str, frozenset[int]]

    @staticmethod
    def of(scenario: Scenario) -> "Calendar":
        """Read the outages of a scenario; each lasts whole steps."""
        total = scenario.steps(scenario.duration)
        service: set[int] = set()
        publisher: set[int] = set()
        cas: dict[str, set[int]] = {group.name: set() for group in scenario.groups}
        for outage in scenario.outages:
            start = min(outage.start // scenario.step, total)
            steps = range(start, min(start + scenario.steps(outage.length), total))
            match outage.failure:
                case Failure.SERVICE:
                    service.update(steps)
                case Failure.PUBLISHER:
                    publisher.update(steps)
                case Failure.CA:
                    for name in cas if outage.group is None else [outage.group]:
                        cas[name].update(steps)
        return Calendar(
            frozenset(service),
            frozenset(publisher | service),
            {name: frozenset(steps) for name, steps in cas.items()},
        )


@dataclass(frozen=True, slots=True)
class Held:
    """Certificates whose renewal the CA did not answer: in use though due, by the step they were issued in."""

    amounts: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True)
class Landmarks:
    """The landmarks of a CA, oldest first, by parallel lists.

    allocated, visible: the steps at whose start each is allocated, and is first to be had by clients; a landmark
    that becomes visible only after the run has a `visible` past its end. amounts: certificates issued in the steps
    since the landmark before. grown: the probability that the log has grown since, without which there is no landmark.
    """

    allocated: tuple[int, ...]
    visible: tuple[int, ...]
    amounts: tuple[float, ...]
    grown: tuple[float, ...]


class Timeline:
    """One CA of a group, from `history` steps before the run to its end.

    period: steps from a certificate to the one that renews it. issued: in each step, the first one at `-history`. held:
    by step, where there are any.
    """

    def __init__(self, group: CAGroup, scenario: Scenario, calendar: Calendar) -> None:
        """Compute it, from far enough back that a delta, and a certificate, at the start finds its landmark."""
        self.group = group
        self.total = scenario.steps(scenario.duration)
        self.lifetime = scenario.steps(group.lifetime)
        interval = scenario.steps(group.landmark_interval)
        self.history = max(2 * self.lifetime, scenario.steps(scenario.service.delta_window)) + interval + 2
        # At least two steps, so that a certificate's first and last step differ.
        self.period = max(2, round(group.lifetime * group.renew_at / scenario.step))
        self.upgrade_delay = scenario.steps(group.upgrade_delay)
        down = calendar.cas[group.name]
        self._retry = 1 - exp(-scenario.step / group.renewal_retry)
        self.held: dict[int, Held] = {}
        self.issued = self._issue(down)
        # Certificates issued before step s stand at `sums[s + history]`.
        self._sums = [0.0, *accumulate(self.issued)]
        blocked = down | calendar.publisher
        self.landmarks = self._allocate(interval, scenario.steps(scenario.service.publish_delay), down, blocked)

    def _issue(self, down: frozenset[int]) -> list[float]:
        """Return the certificates issued in each step from `-history` on; keep those that are held."""
        steady = self.group.certificates / self.period
        issued = [steady] * (self.history + self.total)
        if not down:
            return issued
        held: dict[int, float] = {}
        for step in range(min(down), self.total):
            due_at = step - self.period
            due = issued[due_at + self.history]
            before = held
            if step in down:
                held = {**before, due_at: due} if due else dict(before)
                issued[step + self.history] = 0.0
            else:
                released = sum(before.values()) * self._retry
                held = {at: amount * (1 - self._retry) for at, amount in before.items()}
                if sum(held.values()) < steady * 1e-9:
                    released, held = sum(before.values()), {}
                issued[step + self.history] = due + released
            if before or held:
                # The mean of before and after the renewals of this step, as everywhere in the model.
                both = {**before, **held}
                self.held[step] = Held(
                    tuple((at, (before.get(at, 0.0) + held.get(at, 0.0)) / 2) for at in both),
                )
        return issued

    def _allocate(self, interval: int, delay: int, down: frozenset[int], blocked: frozenset[int]) -> Landmarks:
        """Allocate a landmark at each multiple of the interval at which the CA works."""
        first = -(self.history // interval) * interval
        allocated = [step for step in range(first, self.total, interval) if step not in down]
        visible = []
        for step in allocated:
            seen = step + delay
            while seen in blocked:
                seen += 1
            visible.append(seen)
        amounts, before = [], -self.history
        for step in allocated:
            amounts.append(self.issued_between(before, step))
            before = step
        grown = tuple(1 - exp(-amount) for amount in amounts)
        return Landmarks(tuple(allocated), tuple(visible), tuple(amounts), grown)

    def issued_between(self, start: int, end: int) -> float:
        """Return the certificates issued in steps [start, end)."""
        return self._sums[end + self.history] - self._sums[start + self.history]

    def is_presented(self, number: int, step: int) -> bool:
        """Tell whether servers present, and clients may know, the certificates of a landmark at `step`."""
        marks = self.landmarks
        return (
            number < len(marks.allocated)
            and marks.visible[number] <= step
            and marks.allocated[number] + self.upgrade_delay <= step
        )

    def whole(self, step: int) -> tuple[int, int]:
        """Return the landmarks, by number [low, high), that are presented and have no renewed certificate yet."""
        marks = self.landmarks
        low = bisect_right(marks.allocated, step - self.period) + 1
        high = min(bisect_right(marks.allocated, step - self.upgrade_delay), bisect_right(marks.visible, step))
        return low, max(low, high)

    def oldest(self, step: int) -> tuple[int | None, float]:
        """Return when the oldest landmark in use became visible, and how many of its certificates are not yet renewed.

        Those due in this step are half gone. None when it is not presented.
        """
        marks = self.landmarks
        due_at = step - self.period
        number = bisect_right(marks.allocated, due_at)
        if not self.is_presented(number, step):
            return None, 0.0
        left = self.issued_between(due_at + 1, marks.allocated[number])
        return marks.visible[number], left + self.issued[due_at + self.history] / 2
