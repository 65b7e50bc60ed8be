"""Re-verifying a whole log from the bytes that it serves. It reads and never repairs.

`findings` are the values that come out, `service` reads and compares.

Spec: C2SP tlog-tiles; Merkle Tree Certificates, "Issuance Logs".
"""

from mtc.log.fsck.findings import MAX_FINDINGS, Finding, Findings

__all__ = ["MAX_FINDINGS", "Finding", "Findings"]
