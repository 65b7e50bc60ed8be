"""What is simulated: classes of clients, groups of CAs, one update service, and what fails when.

Every number is a parameter; those that are not given are the defaults here, each with where it comes from. Durations
are timedeltas. The model counts in steps: durations are rounded up to whole ones, except where they are means.
"""

from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from math import ceil, log2

from mtc.errors import Reason, UsageError

MAX_CLIENTS = 10**12
"""Most clients of a class; a hundred times those that there are."""
MAX_CAS = 100_000
"""Most CAs of a group. A group is computed once, however many it has."""
MAX_STEPS = 200_000
"""Most steps of a run: four years in steps of ten minutes."""

_ZERO = timedelta(0)
_MINUTE = timedelta(minutes=1)
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientClass:
    """Clients that update alike and connect alike.

    count: how many. update_interval: between two updates of a client that is online, counted from its last successful
    one; None for clients that never update. online, offline: mean lengths of the stretches in which a client is
    reachable and is not, both exponential; an `offline` of zero means always online. A client that comes online with
    an update overdue makes it at once. retry: mean time, exponential, between two attempts while the service fails.
    handshakes_per_hour: of one client while it is online, to servers with Merkle Tree Certificates.
    """

    name: str
    count: int
    update_interval: timedelta | None = 6 * _HOUR
    online: timedelta = 8 * _HOUR
    offline: timedelta = _ZERO
    retry: timedelta = _HOUR
    handshakes_per_hour: float = 10.0

    def __post_init__(self) -> None:
        """Refuse what no clients do."""
        _check(0 <= self.count <= MAX_CLIENTS, self.name, f"count is from 0 to {MAX_CLIENTS:,}")
        _check(self.update_interval is None or self.update_interval > _ZERO, self.name, "update_interval is positive")
        _check(self.online > _ZERO and self.offline >= _ZERO, self.name, "online is positive, offline not negative")
        _check(self.retry > _ZERO, self.name, "retry is positive")
        _check(0 <= self.handshakes_per_hour <= 1e6, self.name, "handshakes_per_hour is from 0 to a million")

    @property
    def share_online(self) -> float:
        """The share of these clients that is online at any time."""
        return self.online / (self.online + self.offline)

    @property
    def handshakes_per_day(self) -> float:
        """Handshakes of one of these clients a day, on average over online and offline."""
        return self.handshakes_per_hour * 24 * self.share_online


@dataclass(frozen=True, slots=True, kw_only=True)
class CAGroup:
    """CAs that issue alike.

    count: how many. landmark_interval: between two landmarks, at multiples of it from the start. lifetime: of a
    certificate, and so of a landmark. renew_at: the part of its lifetime after which a certificate is renewed; at
    any time those in use have ages evenly spread below that. certificates: in use, of each CA. renewal_retry: mean
    time, exponential, after which a subscriber whom the CA did not answer asks again. upgrade_delay: from the landmark
    until servers have fetched and present the landmark-relative certificate. round: between two checkpoints. traffic:
    handshakes with servers of one such CA relative to those of others; without it as its certificates.
    """

    name: str
    count: int
    landmark_interval: timedelta = _HOUR
    lifetime: timedelta = 7 * _DAY
    renew_at: float = 0.75
    certificates: int = 1_000_000
    renewal_retry: timedelta = 6 * _HOUR
    upgrade_delay: timedelta = 30 * _MINUTE
    round: timedelta = timedelta(seconds=1)
    traffic: float | None = None

    def __post_init__(self) -> None:
        """Refuse what no CA does."""
        _check(0 <= self.count <= MAX_CAS, self.name, f"count is from 0 to {MAX_CAS:,}")
        _check(_ZERO < self.landmark_interval <= self.lifetime, self.name, "landmark_interval lies within the lifetime")
        _check(0 < self.renew_at <= 1, self.name, "renew_at is above 0 and at most 1")
        _check(0 <= self.certificates <= 10**12, self.name, "certificates are from 0 to a million million")
        _check(self.renewal_retry > _ZERO, self.name, "renewal_retry is positive")
        _check(self.upgrade_delay >= _ZERO, self.name, "upgrade_delay is not negative")
        _check(self.round > _ZERO, self.name, "round is positive")
        _check(self.traffic is None or 0 <= self.traffic < 1e18, self.name, "traffic is not negative")

    @property
    def issued_per_day(self) -> float:
        """Certificates that one CA issues a day while nothing fails."""
        return self.certificates / (self.lifetime * self.renew_at / _DAY)

    @property
    def weight(self) -> float:
        """Handshakes with servers of the whole group, in an arbitrary unit."""
        return self.count * (self.certificates if self.traffic is None else self.traffic)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateService:
    """What clients fetch, and how large it is.

    publish_delay: from the allocation of a landmark until clients can fetch it. delta_window: how old a client's state
    may be for a delta; older ones, and those whose delta would be larger, get the full state. policy_lifetime: how long
    a client goes on with its state without news; a staler one asks for no Merkle Tree Certificates at all, and gets the
    classical chain. landmark_bytes: of one landmark in full states and deltas, by default two hashes; with a proof
    where clients verify. ca_bytes: of one CA in a full state beside its landmarks. proof_bytes: of one CA with new
    landmarks, in every update: a checkpoint with its cosignatures where clients do not trust the service, nothing where
    its signature suffices. base_bytes: of every answer: head, signature of the policy, HTTP.
    """

    publish_delay: timedelta = 30 * _MINUTE
    delta_window: timedelta = 7 * _DAY
    policy_lifetime: timedelta = 14 * _DAY
    landmark_bytes: int = 64
    ca_bytes: int = 64
    proof_bytes: int = 0
    base_bytes: int = 3000

    def __post_init__(self) -> None:
        """Refuse what no service does."""
        _check(self.publish_delay >= _ZERO, "service", "publish_delay is not negative")
        _check(self.delta_window >= _ZERO, "service", "delta_window is not negative")
        _check(self.policy_lifetime > _ZERO, "service", "policy_lifetime is positive")
        sizes = (self.landmark_bytes, self.ca_bytes, self.proof_bytes, self.base_bytes)
        _check(all(0 <= size < 1 << 40 for size in sizes), "service", "sizes are bytes, not negative")


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakeSizes:
    """Bytes that authenticate the server in one handshake, without the handshake's own signature.

    body: of an end-entity certificate with a P-256 key, all but the hashes of its proof and its cosignatures.
    cosignatures: of a standalone one, two of ML-DSA-44; both as `mtc bench core` makes them. hash: of each hash of a
    proof. fallback: a classical P-256 chain of leaf and intermediate with two SCTs, an estimate.
    """

    body: int = 302
    cosignatures: int = 4855
    hash: int = 32
    fallback: int = 2400

    def __post_init__(self) -> None:
        """Refuse negative sizes."""
        sizes = (self.body, self.cosignatures, self.hash, self.fallback)
        _check(all(0 <= size < 1 << 32 for size in sizes), "handshake sizes", "sizes are bytes, not negative")

    def landmark_relative(self, group: "CAGroup") -> int:
        """Return the size of a landmark-relative certificate, whose proof is as deep as a landmark has entries."""
        return self.body + self.hash * _proof_hashes(group.issued_per_day * (group.landmark_interval / _DAY))

    def standalone(self, group: "CAGroup") -> int:
        """Return the size of a standalone certificate, whose proof is as deep as a round has entries."""
        return self.body + self.cosignatures + self.hash * _proof_hashes(group.issued_per_day * (group.round / _DAY))


class Failure(StrEnum):
    """What can be out of order."""

    SERVICE = "service"
    """Clients reach no update service, and it learns nothing."""
    PUBLISHER = "publisher"
    """The service learns nothing; what it has is still served, as by caches."""
    CA = "ca"
    """CAs neither issue nor allocate landmarks, and nothing of them can be read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """Something is out of order from `start`, counted from the start of the run, for `length`.

    group: name of the CAs that are, all without it; only for `Failure.CA`.
    """

    failure: Failure
    start: timedelta
    length: timedelta
    group: str | None = None

    def __post_init__(self) -> None:
        """Refuse what happens before the run, and groups of things that have none."""
        _check(self.start >= _ZERO and self.length >= _ZERO, "outage", "start and length are not negative")
        _check(self.group is None or self.failure is Failure.CA, "outage", "only CAs come in groups")


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Everything that a run depends on; equal scenarios have equal outcomes, for nothing is drawn by lot.

    duration: of the run; before it everything has run without failures for ever. step: of the model; events within one
    are spread evenly over it. report_interval: between two moments of the time series. Raises UsageError.
    """

    classes: tuple[ClientClass, ...]
    groups: tuple[CAGroup, ...]
    service: UpdateService = field(default_factory=UpdateService)
    outages: tuple[Outage, ...] = ()
    sizes: HandshakeSizes = field(default_factory=HandshakeSizes)
    duration: timedelta = 30 * _DAY
    step: timedelta = 30 * _MINUTE
    report_interval: timedelta = _HOUR

    def __post_init__(self) -> None:
        """Refuse what cannot be simulated."""
        _check(bool(self.classes) and bool(self.groups), "scenario", "it has clients and CAs")
        for names in ([one.name for one in self.classes], [one.name for one in self.groups]):
            _check(len(set(names)) == len(names), "scenario", "classes and groups have names of their own")
        _check(self.step > _ZERO and self.duration >= self.step, "scenario", "it lasts at least one step")
        _check(self.duration / self.step <= MAX_STEPS, "scenario", f"it has at most {MAX_STEPS:,} steps")
        _check(self.report_interval >= self.step, "scenario", "report_interval is at least one step")
        for one in self.classes:
            fits = one.update_interval is None or one.update_interval >= self.step
            _check(fits, one.name, "update_interval is at least one step; choose a smaller step")
        for group in self.groups:
            _check(not group.landmark_interval % self.step, group.name, "landmark_interval is a multiple of the step")
        known = {group.name for group in self.groups}
        for outage in self.outages:
            _check(outage.group is None or outage.group in known, "outage", f"there is no CA group {outage.group!r}")

    def steps(self, duration: timedelta) -> int:
        """Return a duration in whole steps, rounded up."""
        return -(-duration // self.step)

    @property
    def clients(self) -> int:
        """How many clients there are."""
        return sum(one.count for one in self.classes)

    @property
    def cas(self) -> int:
        """How many CAs there are."""
        return sum(group.count for group in self.groups)


def web_scenario(clients: int = 10**9, cas: int = 100) -> Scenario:
    """Return a scenario in the image of the Web PKI: an assumption to start from, measured nowhere.

    Half of the CAs, rounded up, issue for 7 days with a landmark every hour, the others for 47 days with one every four
    hours, as the draft Chrome policy has its two classes of keys.
    """
    parts = {"phone": 0.60, "desktop": 0.30, "rare": 0.08}
    counts = {name: int(clients * part) for name, part in parts.items()}
    counts["always-on"] = clients - sum(counts.values())
    habits: dict[str, tuple[timedelta, timedelta, timedelta, float]] = {
        "phone": (6 * _HOUR, 2 * _HOUR, 4 * _HOUR, 20.0),
        "desktop": (6 * _HOUR, 8 * _HOUR, 16 * _HOUR, 40.0),
        "rare": (6 * _HOUR, 2 * _HOUR, 5 * _DAY, 40.0),
        "always-on": (_HOUR, _DAY, _ZERO, 60.0),
    }
    classes = tuple(
        ClientClass(
            name=name, count=counts[name], update_interval=every, online=on, offline=off, handshakes_per_hour=rate
        )
        for name, (every, on, off, rate) in habits.items()
    )
    short = CAGroup(name="7-day", count=cas - cas // 2)
    long = CAGroup(name="47-day", count=cas // 2, landmark_interval=4 * _HOUR, lifetime=47 * _DAY)
    return Scenario(classes=classes, groups=(short, long))


def _proof_hashes(entries: float) -> int:
    """Return how many hashes lead from an entry to the root of a subtree with so many."""
    return ceil(log2(entries)) if entries > 1 else 0


def _check(holds: bool, name: str, rule: str) -> None:  # noqa: FBT001 - reads like an assertion
    """Raise UsageError with the rule unless it holds."""
    if not holds:
        raise UsageError(Reason.USAGE, f"{name}: this cannot be simulated; {rule}", name=name)
