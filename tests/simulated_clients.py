"""Every client and every certificate one by one, in continuous time and by lot: what the cohort model is held against.

It shares nothing with the model but the description of the scenario. Chance is seeded.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from datetime import timedelta
from random import Random

from mtc.simulate import CAGroup, ClientClass, Failure, Scenario

HOUR = timedelta(hours=1)
_BURN_IN_H = 24.0 * 10


@dataclass(frozen=True, slots=True)
class Trajectory:
    """One client. switches: hours at which it goes online and offline in turn, first online. updates: hours, sorted."""

    switches: list[float]
    updates: list[float]
    polled: list[tuple[float, float]]

    def is_online(self, hour: float) -> bool:
        """Tell whether the client is online."""
        return bisect_right(self.switches, hour) % 2 == 1

    def state_at(self, hour: float) -> float:
        """Return when it last updated."""
        return self.updates[bisect_right(self.updates, hour) - 1]


def outages_h(scenario: Scenario, *kinds: Failure, group: str | None = None) -> list[tuple[float, float]]:
    """Return the outages of some kinds in hours; those of CAs that concern a group."""
    return [
        (outage.start / HOUR, (outage.start + outage.length) / HOUR)
        for outage in scenario.outages
        if outage.failure in kinds and (outage.failure is not Failure.CA or outage.group in {None, group})
    ]


def end_of_outage(outages: list[tuple[float, float]], hour: float) -> float:
    """Return `hour`, or the end of the outages that it falls into."""
    moved = True
    while moved:
        moved = False
        for start, end in outages:
            if start <= hour < end:
                hour, moved = end, True
    return hour


def walk(random: Random, clients: ClientClass, down: list[tuple[float, float]], end_h: float) -> Trajectory:
    """Live one client's life."""
    assert clients.update_interval is not None
    every, hour = clients.update_interval / HOUR, -_BURN_IN_H
    on_h, off_h, retry_h = clients.online / HOUR, clients.offline / HOUR, clients.retry / HOUR
    switches: list[float] = [hour]
    if random.random() < clients.share_online:
        switches.append(hour + random.expovariate(1 / on_h) if off_h else end_h + 1)
    else:
        switches = []
        hour += random.expovariate(1 / off_h)
    updates = [-_BURN_IN_H - random.random() * every]
    polled = []
    while True:
        if len(switches) % 2 == 0 and not (switches and hour < switches[-1]):
            if switches:
                hour = switches[-1] + random.expovariate(1 / off_h)
            switches += [hour, hour + random.expovariate(1 / on_h) if off_h else end_h + 1]
        # Here it is online from `hour` until the last switch.
        due = max(hour, updates[-1] + every)
        while due < switches[-1] and due < end_h:
            if end_of_outage(down, due) == due:
                polled.append((updates[-1], due))
                updates.append(due)
                due += every
            else:
                due += random.expovariate(1 / retry_h)
        if switches[-1] >= end_h:
            return Trajectory(switches, updates, polled)
        hour = switches[-1]


def issue(random: Random, group: CAGroup, down: list[tuple[float, float]], end_h: float) -> list[float]:
    """Return the hours at which one subscriber's certificates were issued."""
    period, retry_h = group.lifetime / HOUR * group.renew_at, group.renewal_retry / HOUR
    times = [-period - random.random() * period]
    while times[-1] < end_h:
        due = times[-1] + period
        while end_of_outage(down, due) != due:
            due += random.expovariate(1 / retry_h)
        times.append(due)
    return times


class Town:
    """All clients of one class and the servers of one group of CAs."""

    def __init__(self, scenario: Scenario, seed: int, *, clients: int, servers: int) -> None:
        """Live through the whole run."""
        (self.clients,), (self.group,) = scenario.classes, scenario.groups
        self.scenario, self.random = scenario, Random(seed)
        self.end_h = scenario.duration / HOUR
        service = outages_h(scenario, Failure.SERVICE)
        self.ca_down = outages_h(scenario, Failure.CA, group=self.group.name)
        self.blocked = [*service, *outages_h(scenario, Failure.PUBLISHER), *self.ca_down]
        self.walks = [walk(self.random, self.clients, service, self.end_h) for _ in range(clients)]
        self.servers = [issue(self.random, self.group, self.ca_down, self.end_h) for _ in range(servers)]
        interval = self.group.landmark_interval / HOUR
        marks = [number * interval for number in range(int(-400 * 24 / interval), int(self.end_h / interval) + 1)]
        self.marks = [mark for mark in marks if end_of_outage(self.ca_down, mark) == mark]
        delay = scenario.service.publish_delay / HOUR
        self.visible = [end_of_outage(self.blocked, mark + delay) for mark in self.marks]

    def kind(self, hour: float, state_h: float, issued_h: float) -> str:
        """Return how a handshake ends."""
        if hour - state_h > self.scenario.service.policy_lifetime / HOUR:
            return "fallback"
        if hour - issued_h >= self.group.lifetime / HOUR:
            return "fallback"
        number = bisect_right(self.marks, issued_h)
        if number == len(self.marks) or self.marks[number] + self.group.upgrade_delay / HOUR > hour:
            return "standalone"
        return "landmark_relative" if self.visible[number] <= state_h else "standalone"

    def shares(self, start_h: float, end_h: float, tries: int) -> dict[str, float]:
        """Return the shares of handshakes at random hours of an interval, and their mean staleness in hours."""
        counts = {"landmark_relative": 0, "standalone": 0, "fallback": 0}
        stale = 0.0
        done = 0
        while done < tries:
            hour = start_h + self.random.random() * (end_h - start_h)
            walked = self.walks[int(self.random.random() * len(self.walks))]
            if not walked.is_online(hour):
                continue
            issued = self.servers[int(self.random.random() * len(self.servers))]
            state = walked.state_at(hour)
            counts[self.kind(hour, state, issued[bisect_right(issued, hour) - 1])] += 1
            stale += hour - state
            done += 1
        return {name: count / done for name, count in counts.items()} | {"staleness_h": stale / done}

    def traffic(self) -> tuple[float, float]:
        """Return updates, and their bytes, of one client a day."""
        service, count, size = self.scenario.service, 0, 0.0
        lifetime = self.group.lifetime / HOUR
        for walked in self.walks:
            for before, now in walked.polled:
                if now < 0:
                    continue
                count += 1
                known, latest = bisect_right(self.visible, before), bisect_right(self.visible, now)
                active = latest - bisect_left(self.marks, now - lifetime)
                cas = self.group.count
                full = cas * (service.ca_bytes + service.proof_bytes + service.landmark_bytes * active)
                delta = cas * (service.landmark_bytes * (latest - known) + service.proof_bytes * (latest > known))
                late = now - before > service.delta_window / HOUR
                size += service.base_bytes + (full if late else min(full, delta))
        client_days = len(self.walks) * self.end_h / 24
        return count / client_days, size / client_days
