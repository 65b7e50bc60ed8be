"""Runs a scenario: moves the clients on step by step, and joins what they know with what servers hold.

What a client knows depends on when it last updated, and on nothing else; what a server's certificate needs is that the
client updated recently enough. So clients and CAs are computed apart, and a billion of the ones with hundreds of the
others cost as much as their classes and groups.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from mtc.simulate.cohort import Cohort, cumulated
from mtc.simulate.needs import Needs
from mtc.simulate.outcome import (
    PERCENTILES,
    ClassOutcome,
    Egress,
    HandshakeBytes,
    Moment,
    Outcome,
    Shares,
    Staleness,
)
from mtc.simulate.scenario import CAGroup, ClientClass, Scenario
from mtc.simulate.sizes import SizeTable, UpdateSizes
from mtc.simulate.timeline import Calendar, Timeline

_DAY = timedelta(days=1)
_SECOND = timedelta(seconds=1)


def simulate(scenario: Scenario) -> Outcome:
    """Run a scenario. It takes about a second for a month of the defaults; nothing is drawn by lot."""
    return _Run(scenario).outcome()


@dataclass(slots=True)
class _Account:
    """One class on its way. cohort: None for clients that never update. Amounts are per client of the class.

    by_age: who is online by the age of the state, summed over the moments of the time series.
    """

    clients: ClientClass
    cohort: Cohort | None
    updates: float = 0.0
    full_states: float = 0.0
    delta_bytes: float = 0.0
    full_bytes: float = 0.0
    by_age: list[float] = field(default_factory=list)
    shares: list[Shares] = field(default_factory=list)

    def advance(self, sizes: UpdateSizes, *, is_up: bool) -> tuple[float, float, list[float]]:
        """Move on by a step; return updates and bytes of one client, and who is online by age."""
        if self.cohort is None:
            return 0.0, 0.0, []
        polls, online = self.cohort.advance(is_up=is_up)
        deltas, full, full_states = sizes.cost(polls)
        updates = polls.total
        self.updates += updates
        self.delta_bytes += deltas
        self.full_bytes += full
        self.full_states += full_states
        return updates, deltas + full, online

    def ages(self) -> list[float]:
        """Return who is online, by age; nobody for those who never update."""
        return [] if self.cohort is None else self.cohort.ages()


class _Run:
    """One run, from its scenario to its outcome."""

    def __init__(self, scenario: Scenario) -> None:
        """Compute what the CAs do, and put the clients at their start."""
        self.scenario = scenario
        self.calendar = Calendar.of(scenario)
        self.total = scenario.steps(scenario.duration)
        self.days = scenario.duration / _DAY
        courses: dict[tuple[object, ...], tuple[Timeline, int, float]] = {}
        for group in scenario.groups:
            key = self._course(group)
            known = courses.get(key)
            timeline = Timeline(group, scenario, self.calendar) if known is None else known[0]
            count, weight = (0, 0.0) if known is None else known[1:]
            courses[key] = (timeline, count + group.count, weight + group.weight)
        self.needs = Needs([(timeline, weight) for timeline, _, weight in courses.values()])
        self.sizes = SizeTable(scenario, [(timeline, count) for timeline, count, _ in courses.values()])
        self.accounts = [
            _Account(one, None if one.update_interval is None else Cohort(one, scenario, len(self.calendar.service)))
            for one in scenario.classes
        ]

    def _course(self, group: CAGroup) -> tuple[object, ...]:
        """Return what decides what a group does; groups that differ in names and weights only share a timeline."""
        return (
            group.landmark_interval,
            group.lifetime,
            group.renew_at,
            group.certificates,
            group.renewal_retry,
            group.upgrade_delay,
            self.calendar.cas[group.name],
        )

    def outcome(self) -> Outcome:
        """Run to the end."""
        scenario, every = self.scenario, self.scenario.report_interval // self.scenario.step
        step_s = scenario.step / _SECOND
        series: list[Moment] = []
        sent: list[tuple[float, float]] = []
        for step, sizes in enumerate(self.sizes.steps()):
            is_up = step not in self.calendar.service
            steps = [account.advance(sizes, is_up=is_up) for account in self.accounts]
            counts = [account.clients.count for account in self.accounts]
            sent.append(
                (
                    sum(count * updates for count, (updates, _, _) in zip(counts, steps, strict=True)),
                    sum(count * size for count, (_, size, _) in zip(counts, steps, strict=True)),
                )
            )
            if not step % every:
                series.append(self._report(step, [online for _, _, online in steps]))
        return self._sum_up(_with_traffic(series, sent, every, step_s), sent, step_s)

    def _report(self, step: int, online: Sequence[list[float]]) -> Moment:
        """Take down one moment; its traffic is filled in when the interval is over."""
        needed, expired = self.needs.at(step)
        patience = self.scenario.steps(self.scenario.service.policy_lifetime)
        mixed: list[tuple[float, list[float]]] = []
        for account, seen in zip(self.accounts, online, strict=True):
            account.shares.append(_shares(seen, needed, expired, patience))
            ages = account.ages()
            account.by_age = _added(account.by_age, ages, 1.0)
            mixed.append((_handshakes(account.clients), ages))
        shares = _mean_shares(
            [(_handshakes(account.clients), account.shares[-1]) for account in self.accounts],
        )
        staleness = self._staleness(mixed)
        return Moment(
            at_s=step * self.scenario.step / _SECOND,
            shares=shares,
            staleness_p50_s=staleness.percentiles_s["50"],
            staleness_p99_s=staleness.percentiles_s["99"],
            egress_bits_per_s=0.0,
            updates_per_s=0.0,
            landmarks=self.sizes.active(step),
        )

    def _staleness(self, mixed: Sequence[tuple[float, list[float]]]) -> Staleness:
        """Return the staleness at handshakes of classes that count by weight; an empty list is of those without any."""
        by_age: list[float] = []
        whole = sum(weight for weight, _ in mixed) or 1.0
        for weight, ages in mixed:
            by_age = _added(by_age, ages, weight / whole / (sum(ages) or 1.0))
        step_s = self.scenario.step / _SECOND
        total = sum(by_age)
        mean = sum((age + 0.5) * share for age, share in enumerate(by_age)) * step_s / total if total else 0.0
        return Staleness(
            mean_s=mean,
            percentiles_s={f"{percent:g}": _percentile(by_age, percent / 100, step_s) for percent in PERCENTILES},
        )

    def _sum_up(self, series: tuple[Moment, ...], sent: Sequence[tuple[float, float]], step_s: float) -> Outcome:
        """Return the outcome of the whole run."""
        scenario = self.scenario
        clients, run_s = scenario.clients or 1, self.total * step_s
        classes = tuple(self._class_outcome(account) for account in self.accounts)
        shares = _mean_shares([(_handshakes(one.clients), self._shares_of(one)) for one in self.accounts])
        handshakes = sum(_handshakes(one) for one in scenario.classes)
        deltas = sum(one.clients * one.delta_bytes_per_day for one in classes)
        full = sum(one.clients * one.full_bytes_per_day for one in classes)
        return Outcome(
            clients=scenario.clients,
            cas=scenario.cas,
            days=self.days,
            landmarks=self.sizes.active(self.total - 1),
            full_state_bytes=self.sizes.full_bytes(self.total - 1),
            bytes_per_client_day=(deltas + full) / clients,
            delta_bytes_per_client_day=deltas / clients,
            full_bytes_per_client_day=full / clients,
            egress=Egress(
                bytes_per_day=deltas + full,
                mean_bits_per_s=sum(size for _, size in sent) * 8 / run_s,
                peak_bits_per_s=max(size for _, size in sent) * 8 / step_s,
                mean_updates_per_s=sum(count for count, _ in sent) / run_s,
                peak_updates_per_s=max(count for count, _ in sent) / step_s,
            ),
            handshakes_per_day=handshakes,
            handshake_bytes=_handshake_bytes(scenario, shares, (deltas + full) / handshakes if handshakes else 0.0),
            shares=shares,
            staleness=self._staleness([(_handshakes(one.clients), one.by_age) for one in self.accounts]),
            classes=classes,
            series=series,
        )

    def _shares_of(self, account: _Account) -> Shares:
        """Return the mean of a class over the run."""
        return _mean_shares([(1.0, shares) for shares in account.shares])

    def _class_outcome(self, account: _Account) -> ClassOutcome:
        """Return what became of one class."""
        return ClassOutcome(
            name=account.clients.name,
            clients=account.clients.count,
            handshakes_per_day=account.clients.handshakes_per_day,
            updates_per_day=account.updates / self.days,
            full_states_per_day=account.full_states / self.days,
            delta_bytes_per_day=account.delta_bytes / self.days,
            full_bytes_per_day=account.full_bytes / self.days,
            shares=self._shares_of(account),
            staleness=self._staleness([(1.0, account.by_age)]),
        )


def _handshakes(clients: ClientClass) -> float:
    """Return the handshakes of a whole class a day."""
    return clients.count * clients.handshakes_per_day


def _shares(online: list[float], needed: dict[int, float], expired: float, patience: int) -> Shares:
    """Return how the handshakes of a class at one moment end. online: by age; nobody when they never update."""
    if not online:
        return Shares(landmark_relative=0.0, standalone=0.0, fallback=1.0)
    known = cumulated(online)
    oldest = min(patience, len(known) - 1)
    fresh = known[oldest]
    landmark = sum(share * known[min(age, oldest)] for age, share in needed.items())
    fallback = 1 - fresh + fresh * expired
    return Shares(landmark_relative=landmark, standalone=max(0.0, 1 - landmark - fallback), fallback=fallback)


def _handshake_bytes(scenario: Scenario, shares: Shares, updates: float) -> HandshakeBytes:
    """Return what a handshake costs. updates: bytes of them for each handshake."""
    sizes, groups = scenario.sizes, scenario.groups
    weights = [group.weight for group in groups] if any(group.weight for group in groups) else [1.0] * len(groups)
    whole = sum(weights)
    landmark = sum(weight * sizes.landmark_relative(one) for weight, one in zip(weights, groups, strict=True)) / whole
    standalone = sum(weight * sizes.standalone(one) for weight, one in zip(weights, groups, strict=True)) / whole
    others = shares.standalone * standalone + shares.fallback * sizes.fallback
    return HandshakeBytes(
        landmark_relative=landmark,
        standalone=standalone,
        fallback=sizes.fallback,
        certificates=shares.landmark_relative * landmark + others,
        updates=updates,
        without_landmarks=shares.landmark_relative * standalone + others,
    )


def _mean_shares(weighted: Sequence[tuple[float, Shares]]) -> Shares:
    """Return the weighted mean; of equal weights where all are zero."""
    whole = sum(weight for weight, _ in weighted)
    if not whole:
        weighted, whole = [(1.0, shares) for _, shares in weighted], len(weighted)
    return Shares(
        landmark_relative=sum(weight * shares.landmark_relative for weight, shares in weighted) / whole,
        standalone=sum(weight * shares.standalone for weight, shares in weighted) / whole,
        fallback=sum(weight * shares.fallback for weight, shares in weighted) / whole,
    )


def _added(one: list[float], other: list[float], weight: float) -> list[float]:
    """Return `one` plus `weight` times `other`, as long as the longer of them."""
    short = min(len(one), len(other))
    both = [a + weight * b for a, b in zip(one, other, strict=False)]
    return both + one[short:] + [weight * b for b in other[short:]]


def _percentile(by_age: list[float], part: float, step_s: float) -> float | None:
    """Return the staleness that `part` of the handshakes do not exceed; None when more than the others have no state.

    An age stands for the step that begins with it.
    """
    below = 0.0
    for age, share in enumerate(by_age):
        if share and below + share >= part * (1 - 1e-12):
            return (age + (part - below) / share) * step_s
        below += share
    return None


def _with_traffic(
    series: Sequence[Moment], sent: Sequence[tuple[float, float]], every: int, step_s: float
) -> tuple[Moment, ...]:
    """Fill in what was sent in the interval that begins with each moment."""
    filled = []
    for number, moment in enumerate(series):
        part = sent[number * every : (number + 1) * every]
        seconds = len(part) * step_s
        filled.append(
            replace(
                moment,
                egress_bits_per_s=sum(size for _, size in part) * 8 / seconds,
                updates_per_s=sum(count for count, _ in part) / seconds,
            )
        )
    return tuple(filled)
