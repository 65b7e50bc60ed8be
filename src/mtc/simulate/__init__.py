"""How landmarks reach relying parties, by calculation: bytes, staleness, and which certificate each handshake gets.

A scenario names classes of clients, groups of CAs, an update service and what fails; `simulate` returns the outcome.
Pure and without chance: equal scenarios have equal outcomes. docs/simulation.md describes the model and its limits.
"""

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
from mtc.simulate.run import simulate
from mtc.simulate.scenario import (
    CAGroup,
    ClientClass,
    Failure,
    HandshakeSizes,
    Outage,
    Scenario,
    UpdateService,
    web_scenario,
)

__all__ = [
    "PERCENTILES",
    "CAGroup",
    "ClassOutcome",
    "ClientClass",
    "Egress",
    "Failure",
    "HandshakeBytes",
    "HandshakeSizes",
    "Moment",
    "Outage",
    "Outcome",
    "Scenario",
    "Shares",
    "Staleness",
    "UpdateService",
    "simulate",
    "web_scenario",
]
