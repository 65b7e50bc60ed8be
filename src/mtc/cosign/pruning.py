"""How far a mirror may forget: by when the certificates of entries ended, and by what the log itself has pruned.

An entry may go `retention` after its end when the log has pruned it, and `retention_alone` after it anyway. What is no
certificate's entry never ends, so nothing behind it goes either.

Spec: C2SP tlog-mirror, "Pruning and Retention Policies"; tlog-tiles, "Pruning".
"""

from collections.abc import Sequence
from datetime import datetime, timedelta

from mtc.cert import LogEntry
from mtc.errors import FormatError


def end_of(entry: bytes) -> datetime | None:
    """Return notAfter of a certificate's log entry, None for an entry that has none."""
    try:
        certificate = LogEntry.parse(entry).tbs_certificate
    except FormatError:
        return None
    return None if certificate is None else certificate.not_after


def may_forget(
    entries: Sequence[bytes],
    now: datetime,
    retention: timedelta,
    retention_alone: timedelta,
    *,
    is_pruned_by_log: bool,
) -> bool:
    """Tell whether all entries of a bundle may go."""
    wait = min(retention, retention_alone) if is_pruned_by_log else retention_alone
    ends = [end_of(entry) for entry in entries]
    return all(end is not None and end + wait < now for end in ends)
