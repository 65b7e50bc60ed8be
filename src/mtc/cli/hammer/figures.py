"""What a run counted: outcomes, latencies and bytes by kind of request, and the first wrong answers in words."""

import math
from collections import Counter
from dataclasses import dataclass, field
from enum import StrEnum

from mtc.errors import Error

_STEPS = 64
"""Buckets between a latency and its double: a percentile is at most 1.1 % too large."""
_LEAST_S = 1e-6
SHOWN_PER_FAULT = 3
"""Messages kept of each kind of fault; the rest is counted."""


class Outcome(StrEnum):
    """How a request ended. BUSY: refused for now (429, 503), which is no fault."""

    RIGHT = "right"
    WRONG = "wrong"
    UNANSWERED = "unanswered"
    BUSY = "busy"


@dataclass(slots=True)
class Latencies:
    """A histogram of latencies in seconds; its size does not grow with their number. buckets: on a scale of powers."""

    count: int = 0
    total_s: float = 0.0
    most_s: float = 0.0
    buckets: Counter[int] = field(default_factory=Counter)

    def add(self, seconds: float) -> None:
        """Count one."""
        self.count += 1
        self.total_s += seconds
        self.most_s = max(self.most_s, seconds)
        self.buckets[math.ceil(math.log2(max(seconds, _LEAST_S)) * _STEPS)] += 1

    def add_all(self, other: "Latencies") -> None:
        """Count all of another histogram."""
        self.count += other.count
        self.total_s += other.total_s
        self.most_s = max(self.most_s, other.most_s)
        self.buckets.update(other.buckets)

    def percentile(self, share: float) -> float:
        """Return the latency that this share (0 to 1) does not exceed; 0 without any."""
        left = math.ceil(share * self.count)
        for bucket in sorted(self.buckets):
            left -= self.buckets[bucket]
            if left <= 0:
                return min(math.exp2(bucket / _STEPS), self.most_s)
        return 0.0

    def to_json(self) -> dict[str, float]:
        """Return the usual numbers in milliseconds."""
        mean = self.total_s / self.count if self.count else 0.0
        numbers = {"p50": self.percentile(0.5), "p99": self.percentile(0.99), "max": self.most_s, "mean": mean}
        return {name: round(value * 1000, 3) for name, value in numbers.items()}


@dataclass(slots=True)
class KindFigures:
    """One kind of request. recent: latencies since the live view looked last."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    latencies: Latencies = field(default_factory=Latencies)
    recent: Latencies = field(default_factory=Latencies)
    bytes_received: int = 0
    bytes_sent: int = 0

    @property
    def requests(self) -> int:
        """Requests that ended."""
        return self.outcomes.total()

    def to_json(self, seconds: float) -> dict[str, object]:
        """Return the figures for scripts."""
        return {
            "requests": self.requests,
            "requests_per_s": round(self.requests / seconds, 1),
            **{str(outcome): self.outcomes[outcome] for outcome in Outcome},
            "latency_ms": self.latencies.to_json(),
            "bytes_received": self.bytes_received,
            "bytes_sent": self.bytes_sent,
        }


@dataclass(slots=True)
class Fault:
    """Answers that were wrong in the same way. messages: of the first ones. since_s: when the first came."""

    kind: str
    outcome: Outcome
    reason: str
    since_s: float
    count: int = 0
    messages: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, object]:
        """Return the fault for scripts."""
        return {
            "kind": self.kind,
            "outcome": str(self.outcome),
            "reason": self.reason,
            "count": self.count,
            "first_after_s": round(self.since_s, 3),
            "messages": self.messages,
        }


@dataclass(slots=True)
class Figures:
    """All that a run counted. amounts: what went through, by name (entries, tiles, certificates, …)."""

    kinds: dict[str, KindFigures] = field(default_factory=dict)
    faults: dict[tuple[str, str], Fault] = field(default_factory=dict)
    amounts: Counter[str] = field(default_factory=Counter)

    def kind(self, name: str) -> KindFigures:
        """Return the figures of a kind of request."""
        return self.kinds.setdefault(name, KindFigures())

    def count(self, kind: str, outcome: Outcome, seconds: float) -> None:
        """Count a request that ended."""
        figures = self.kind(kind)
        figures.outcomes[outcome] += 1
        if outcome is not Outcome.UNANSWERED:
            figures.latencies.add(seconds)
            figures.recent.add(seconds)

    def blame(self, kind: str, outcome: Outcome, error: Error, since_s: float) -> None:
        """Count a fault, and keep its words if they are among the first."""
        if outcome is Outcome.UNANSWERED:
            # A server that is away leaves all kinds unanswered; once is enough to say so.
            kind = "request"
        key = (kind, str(error.reason))
        fault = self.faults.setdefault(key, Fault(kind, outcome, str(error.reason), since_s))
        fault.count += 1
        if len(fault.messages) < SHOWN_PER_FAULT and error.message not in fault.messages:
            fault.messages.append(error.message)

    def total(self, outcome: Outcome) -> int:
        """Return how many requests ended so."""
        return sum(kind.outcomes[outcome] for kind in self.kinds.values())

    @property
    def requests(self) -> int:
        """Requests that ended."""
        return sum(kind.requests for kind in self.kinds.values())

    @property
    def errors(self) -> int:
        """Requests that ended wrongly or not at all."""
        return self.total(Outcome.WRONG) + self.total(Outcome.UNANSWERED)

    @property
    def is_clean(self) -> bool:
        """True when something was answered and nothing was wrong or left unanswered."""
        return not self.errors and not self.faults and self.total(Outcome.RIGHT) > 0

    def latencies(self) -> Latencies:
        """Return the latencies of all kinds together."""
        result = Latencies()
        for kind in self.kinds.values():
            result.add_all(kind.latencies)
        return result

    def to_json(self, seconds: float) -> dict[str, object]:
        """Return the figures of a run that took `seconds`, for scripts."""
        return {
            "seconds": round(seconds, 3),
            "requests": self.requests,
            "requests_per_s": round(self.requests / seconds, 1),
            **{str(outcome): self.total(outcome) for outcome in Outcome},
            "latency_ms": self.latencies().to_json(),
            "bytes_received": sum(kind.bytes_received for kind in self.kinds.values()),
            "bytes_sent": sum(kind.bytes_sent for kind in self.kinds.values()),
            "amounts": dict(self.amounts),
            "amounts_per_s": {name: round(value / seconds, 1) for name, value in self.amounts.items()},
            "kinds": {name: kind.to_json(seconds) for name, kind in sorted(self.kinds.items())},
            "faults": [fault.to_json() for fault in self.faults.values()],
        }
