"""The issuance log: what a round of entries does to it, and what a crash leaves to be done.

`mtc.log.machine` decides and touches nothing; the shell that stores, signs and publishes comes on top of it.

Spec: Merkle Tree Certificates, "Issuance Logs" and "Issuing Standalone Certificates"; C2SP tlog-tiles and mtc-tlog.
"""

from mtc.log.formats import LogRecord, StagedRound
from mtc.log.ledger.formats import SignedRound
from mtc.log.machine import (
    Batch,
    LogState,
    PendingEntry,
    accumulated_count,
    encode_accumulated_count,
    plan_batch,
    plan_recovery,
    start_log,
)

__all__ = [
    "Batch",
    "LogRecord",
    "LogState",
    "PendingEntry",
    "SignedRound",
    "StagedRound",
    "accumulated_count",
    "encode_accumulated_count",
    "plan_batch",
    "plan_recovery",
    "start_log",
]
