"""Re-verifying a whole log from the bytes that it serves. It reads and never repairs.

A log is true when its entries hash to the signed root, every tile holds the hashes that the entries give, landmarks and
counters follow their rules, and nothing lies about that does not belong there. Where two files contradict each other,
the hashes above them, up to the signed root, say which one is damaged.

`findings` are the values that come out, `entries` and `machine` decide, `service` reads.

Spec: C2SP tlog-tiles, tlog-checkpoint and mtc-tlog; Merkle Tree Certificates, "Issuance Logs".
"""

from mtc.log.fsck.entries import EntryRules, EntryWatch, SizeFacts
from mtc.log.fsck.findings import MAX_FINDINGS, Finding, Findings, Severity

__all__ = [
    "MAX_FINDINGS",
    "EntryRules",
    "EntryWatch",
    "Finding",
    "Findings",
    "Severity",
    "SizeFacts",
]
