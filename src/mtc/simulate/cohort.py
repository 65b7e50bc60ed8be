"""A class of clients as a distribution: which share of them is online, and how long ago they last updated.

Clients of a class are alike but for chance, so the expected number in each condition is all there is to know of a
billion of them. A condition is the age of the last update in steps, and whether the client is online, offline, or
waiting: online with an update overdue because the service failed. Coming and going is a Markov chain with two
conditions, exact at the ends of steps. The shares are expectations and not samples: no chance is left in them.
"""

from dataclasses import dataclass
from itertools import accumulate
from math import ceil, exp, log

from mtc.simulate.scenario import ClientClass, Scenario

_TAIL = 1e-7
"""The share of clients that may be older than the oldest age kept; they count as that old, and none is lost."""
_FORGOTTEN = 1e-13
"""Below this share nobody waits any more."""


@dataclass(frozen=True, slots=True)
class Polls:
    """Who updates in one step: `shares[i]` of the class with a state that is `youngest + i` steps old."""

    youngest: int
    shares: list[float]

    @property
    def total(self) -> float:
        """The share of the class that updates in this step."""
        return sum(self.shares)


class Cohort:
    """The distribution of one class, moved on step by step; it starts as it is after running for ever."""

    def __init__(self, clients: ClientClass, scenario: Scenario, outage_steps: int) -> None:
        """Start. outage_steps: of all outages of the service together; as much older ages may become."""
        step = scenario.step
        assert clients.update_interval is not None
        self.interval = scenario.steps(clients.update_interval)
        leaving, coming = step / clients.online, step / clients.offline if clients.offline else 0.0
        moved = 1 - exp(-(leaving + coming)) if coming else 0.0
        self.leave = moved * leaving / (leaving + coming)
        self.come = moved * coming / (leaving + coming)
        # Those with an overdue update make it as soon as they come, even if they are gone again at the end of the step.
        self.wake = 1 - exp(-coming)
        self.retry = 1 - exp(-step / clients.retry)
        tail = ceil(log(_TAIL) / log(1 - self.wake)) if 0 < self.wake < 1 else 0
        patience = ceil(log(_TAIL) / log(1 - self.retry)) if outage_steps and self.retry < 1 else 0
        self.max_age = self.interval + max(tail, 1) + outage_steps + patience
        # What waits since an outage; None when nobody does, which is nearly always.
        self.waiting: list[float] | None = None
        self._start()

    def _start(self) -> None:
        """Fill in the stationary distribution, in which one client in a number updates in each step.

        The part of them that were overdue is the part that is offline when the interval ends: the one unknown of a
        linear equation.
        """
        _, none = self._life(0.0)
        _, every = self._life(1.0)
        overdue = none[-1] / (1 - every[-1] + none[-1])
        online, offline = self._life(overdue)
        online.pop()
        older = self.max_age - self.interval
        offline.extend([offline[-1] * (1 - self.wake) ** age for age in range(1, older + 1)])
        if self.wake:
            # The oldest age stands for all beyond it.
            offline[-1] /= self.wake
        total = sum(online) + sum(offline)
        self.online = [share / total for share in online]
        self.offline = [share / total for share in offline]

    def _life(self, overdue: float) -> tuple[list[float], list[float]]:
        """Return who is online and offline of one client that updates, by age up to the interval.

        overdue: the part of it that came online for the update.
        """
        first, second = self._placed([overdue])
        online, offline = [1 - overdue + first[0]], [first[1]]
        for age in range(1, self.interval + 1):
            on, off = online[-1], offline[-1]
            online.append(on * (1 - self.leave) + off * self.come + (second[0] if age == 1 else 0.0))
            offline.append(off * (1 - self.come) + on * self.leave + (second[1] if age == 1 else 0.0))
        return online, offline

    def _placed(self, woken: list[float]) -> tuple[tuple[float, float], tuple[float, float]]:
        """Return where those stand who came in this step and updated: online and offline at age 0, and at age 1.

        They came at any time of the step, so that their states are half a step old. woken: by age.
        """
        came = sum(woken) / self.wake if self.wake else 0.0
        here, gone = came * self.come, came * (self.wake - self.come)
        if self.interval == 1:
            return (here, gone), (0.0, 0.0)
        return (here / 2, gone / 2), (here / 2, gone / 2)

    def advance(self, *, is_up: bool) -> tuple[Polls, list[float]]:
        """Move on by one step; return who updates, and who is online by the age of the state, from 0 to `max_age`.

        is_up: whether the service answers. The second is the mean of the moments before and after the updates that are
        due in this step, so that handshakes and updates are spread evenly over it; those who come online with an
        overdue update make it before any handshake.
        """
        come, leave, size = self.come, self.leave, self.interval
        young = list(zip(self.online, self.offline, strict=False))
        online = [on * (1 - leave) + off * come for on, off in young]
        offline = [0.0, *(off * (1 - come) + on * leave for on, off in young)]
        old = _aged(self.offline[size:])
        woken = [share * (self.wake if is_up else come) for share in old]
        kept = [share - part for share, part in zip(old, woken, strict=True)]
        waiting = self.waiting
        if waiting is not None:
            waiting = _aged(waiting)
            kept = [share + gone * leave for share, gone in zip(kept, waiting, strict=True)]
            waiting = [share * (1 - leave) for share in waiting]
        # The age at which updates fall due belongs to both halves: its offline clients stand in `offline` already.
        kept[0] += offline.pop()
        due = online.pop()
        if is_up:
            return self._serve(online, offline, kept, due, woken, waiting)
        waiting = woken if waiting is None else [a + b for a, b in zip(waiting, woken, strict=True)]
        waiting[0] += due
        self.online, self.offline, self.waiting = [0.0, *online], offline + kept, waiting
        return Polls(size, []), self.ages()

    def ages(self) -> list[float]:
        """Return who is online by the age of the state, after the updates of this step."""
        return [*self.online, *(self.waiting or ())]

    def _serve(  # noqa: PLR0913 - the parts of a distribution
        self,
        online: list[float],
        offline: list[float],
        kept: list[float],
        due: float,
        woken: list[float],
        waiting: list[float] | None,
    ) -> tuple[Polls, list[float]]:
        """Let those update who are there to do so. online, offline: from age 1 and 0 on, below the interval."""
        polls, stale, retrying = list(woken), [0.0] * len(woken), 0.0
        if waiting is not None:
            # When nearly nobody waits, all update, so that none is lost.
            part = self.retry if sum(waiting) > _FORGOTTEN else 1.0
            retried = [share * part for share in waiting]
            retrying = sum(retried)
            polls = [a + b for a, b in zip(woken, retried, strict=True)]
            stale = [whole - half / 2 for whole, half in zip(waiting, retried, strict=True)]
            waiting = [a - b for a, b in zip(waiting, retried, strict=True)] if part < 1 else None
        polls[0] += due
        stale[0] += due / 2
        (now, gone), (lately, lately_gone) = self._placed(woken)
        offline[0] += gone
        if online:
            online[0] += lately
            offline[1] += lately_gone
        self.online = [now + due + retrying, *online]
        self.offline, self.waiting = offline + kept, waiting
        return Polls(self.interval, polls), [now + (due + retrying) / 2, *online, *stale]


def _aged(shares: list[float]) -> list[float]:
    """Return the shares one step later; the last one stands for all that are older."""
    return [0.0, *shares[:-2], shares[-2] + shares[-1]]


def cumulated(shares: list[float]) -> list[float]:
    """Return the share of those online whose state is at most so old, for every age; the last one is 1."""
    sums = list(accumulate(shares))
    return [value / sums[-1] for value in sums]
