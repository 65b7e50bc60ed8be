"""What a CA has revoked, and what it publishes about that. Pure: times and what the log holds are arguments.

The rules:

1. Nothing is ever un-revoked. A range stays, or is swallowed by the minimum serial number, which never falls.
2. A serial number that the log has not given yet is revoked only when that is asked for in so many words.
3. The plain CRL names single serial numbers while their certificates are valid. A range is named serial by serial as
   long as it holds few entries; of a larger one existing software learns nothing.
4. Every change makes a new version of both lists. What a version says depends on the state alone, so that a list whose
   signing was interrupted is made again with the same bytes.

Spec: Merkle Tree Certificates, "Revoked Ranges"; docs/revocation.md.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from mtc.cert import SerialRanges
from mtc.cert.crl import MAX_RANGES, TBSCRL, RevocationReason, RevokedSerial
from mtc.errors import FormatError, Reason, UsageError
from mtc.ids import MAX_INDEX, SERIAL_LIMIT
from mtc.log.pruning import ExpiryMark, expired_below
from mtc.wire import Reader, Writer, posix_seconds

STATE_NAME = "revocations"
"""Name of the register value."""
MAX_SINGLES = 20_000
"""Serial numbers of valid certificates that the plain CRL names; more do not fit into the register."""
MAX_STATE_RANGES = 20_000
MAX_EXPANDED = 1000
"""Largest range, in logged entries, that the plain CRL names serial by serial."""
EXPIRY_GRACE = timedelta(days=1)
"""How long after expiry the minimum serial number stays below, for relying parties whose clocks are slow."""
_VERSION = 1


@dataclass(frozen=True, slots=True)
class SingleRevocation:
    """A revoked certificate that the plain CRL names until it expires. Times are POSIX seconds."""

    serial: int
    moment: int
    reason: RevocationReason | None
    not_after: int


@dataclass(frozen=True, slots=True)
class RevocationState:
    """What the register value `revocations` holds.

    version: of the lists. issued_at: POSIX seconds at which that version begins. min_serial: everything below is
    revoked. ranges: everything else that is. singles: ascending by serial; a part of ranges.
    """

    version: int = 0
    issued_at: int = 0
    min_serial: int = 1 << 48
    ranges: SerialRanges = SerialRanges()  # noqa: RUF009 - immutable
    singles: tuple[SingleRevocation, ...] = ()

    @property
    def revoked(self) -> SerialRanges:
        """Every revoked serial number."""
        return self.ranges | SerialRanges([(0, self.min_serial)])

    def encode(self) -> bytes:
        """Return the register's bytes."""
        writer = Writer().uint(_VERSION, 1).uint(self.version, 8).uint(self.issued_at, 8).uint(self.min_serial, 9)
        writer.uint(len(self.ranges), 4)
        for start, end in self.ranges:
            writer.uint(start, 9).uint(end, 9)
        writer.uint(len(self.singles), 4)
        for single in self.singles:
            writer.uint(single.serial, 8).uint(single.moment, 8).uint(single.reason or 0, 1).uint(single.not_after, 8)
        return writer.encode()

    @staticmethod
    def parse(data: bytes) -> "RevocationState":
        """Read the register's bytes, whole. Raises FormatError."""
        reader = Reader(data, "the revocation state")
        if (version := reader.read_uint(1)) != _VERSION:
            raise FormatError(Reason.BAD_VERSION, f"the revocation state has version {version}, known is {_VERSION}")
        number, issued_at, min_serial = reader.read_uint(8), reader.read_uint(8), reader.read_uint(9)
        ranges = SerialRanges([(reader.read_uint(9), reader.read_uint(9)) for _ in range(reader.read_uint(4))])
        singles = []
        for _ in range(reader.read_uint(4)):
            serial, moment, code, not_after = (reader.read_uint(size) for size in (8, 8, 1, 8))
            if code and code not in list(RevocationReason):
                raise FormatError(Reason.BAD_NUMBER, f"{code} is no reason of a revocation")
            singles.append(SingleRevocation(serial, moment, RevocationReason(code) if code else None, not_after))
        reader.finish()
        return RevocationState(number, issued_at, min_serial, ranges, tuple(singles))


@dataclass(frozen=True, slots=True)
class RevocationRequest:
    """What an operator wants revoked: ranges [first, last], both inclusive; a single serial number is one of length 1.

    is_future: serial numbers that no log has given yet may be revoked too.
    """

    ranges: tuple[tuple[int, int], ...]
    reason: RevocationReason | None = None
    is_future: bool = False


def logged_serials(first: int, last: int, sizes: Mapping[int, int]) -> Iterable[int]:
    """Yield the serial numbers in [first, last] that logs have given. sizes: entries by log number."""
    for number in sorted(sizes):
        base = number << 48
        yield from range(max(first, base), min(last, base + sizes[number] - 1) + 1)


def count_logged(first: int, last: int, sizes: Mapping[int, int]) -> int:
    """Return how many serial numbers in [first, last] logs have given."""
    total = 0
    for number, size in sizes.items():
        base = number << 48
        total += max(min(last, base + size - 1) - max(first, base) + 1, 0)
    return total


def check_request(request: RevocationRequest, sizes: Mapping[int, int]) -> None:
    """Raise UsageError for ranges that are none, and for serial numbers that do not exist unless that is wanted."""
    if not request.ranges:
        raise UsageError(Reason.USAGE, "name at least one serial number or range to revoke")
    for first, last in request.ranges:
        if not 0 <= first <= last < SERIAL_LIMIT:
            raise UsageError(Reason.USAGE, f"{first}-{last} is no range of serial numbers from 0 to 2^64 - 1")
        if not request.is_future and count_logged(first, last, sizes) != last - first + 1:
            raise UsageError(
                Reason.USAGE,
                f"no log has given all serial numbers of {first}-{last} yet; --future revokes them all the same",
            )


def plan_revocation(
    state: RevocationState, request: RevocationRequest, not_after: Mapping[int, int], now: int
) -> RevocationState:
    """Return the state after a revocation, of the next version; the same state when everything was revoked before.

    not_after: POSIX seconds of the certificates that the plain CRL shall name, by serial number. Raises UsageError when
    the state would become too large.
    """
    added = SerialRanges([(first, last + 1) for first, last in request.ranges])
    if (state.revoked | added) == state.revoked:
        return state
    known = {single.serial: single for single in state.singles if single.not_after >= now}
    for serial, end in not_after.items():
        if end >= now and serial not in known:
            known[serial] = SingleRevocation(serial, now, request.reason, end)
    after = replace(
        state,
        version=state.version + 1,
        issued_at=now,
        ranges=_above(state.ranges | added, state.min_serial),
        singles=tuple(known[serial] for serial in sorted(known)),
    )
    if len(after.ranges) > min(MAX_STATE_RANGES, MAX_RANGES) or len(after.singles) > MAX_SINGLES:
        raise UsageError(
            Reason.TOO_LARGE,
            f"{len(after.ranges)} ranges and {len(after.singles)} single serial numbers do not fit into the lists; "
            "revoke a larger range that covers them",
        )
    assert covers(after, state), "nothing is un-revoked"
    return after


def plan_refresh(state: RevocationState, min_serial: int, now: int) -> RevocationState:
    """Return the next version with a later beginning, a minimum serial that may have risen, and without the expired."""
    minimum = max(state.min_serial, min_serial)
    after = replace(
        state,
        version=state.version + 1,
        issued_at=max(now, state.issued_at),
        min_serial=minimum,
        ranges=_above(state.ranges, minimum),
        singles=tuple(single for single in state.singles if single.not_after >= now and single.serial >= minimum),
    )
    assert covers(after, state), "nothing is un-revoked"
    return after


def covers(new: RevocationState, old: RevocationState) -> bool:
    """Tell whether everything that was revoked still is."""
    return (new.revoked | old.revoked) == new.revoked


def _above(ranges: SerialRanges, minimum: int) -> SerialRanges:
    """Return the ranges without what lies below the minimum serial number, which revokes it anyway."""
    return SerialRanges((max(start, minimum), end) for start, end in ranges if end > minimum)


def minimum_serial(logs: Sequence[tuple[int, int, bool, Sequence[ExpiryMark]]], now: datetime) -> int:
    """Return the smallest serial number whose certificate may still be valid.

    logs: number, tree size, whether it is closed, and expiry marks of each log, ascending. A later log counts only
    when everything in the earlier ones has expired.
    """
    for number, size, is_closed, marks in logs:
        index = expired_below(marks, now, EXPIRY_GRACE)
        if index < size or not is_closed:
            return number << 48 | min(index, MAX_INDEX)
    return (logs[-1][0] + 1) << 48 if logs else 1 << 48


def plan_lists(state: RevocationState, issuer: bytes, algorithm: bytes, lifetime: timedelta) -> tuple[TBSCRL, TBSCRL]:
    """Return the plain CRL and the MTC revocation list of a state; the same state gives the same lists."""
    begin = datetime.fromtimestamp(state.issued_at, UTC)
    plain = TBSCRL(
        issuer=issuer,
        algorithm=algorithm,
        this_update=begin,
        next_update=begin + lifetime,
        number=state.version,
        serials=tuple(
            RevokedSerial(single.serial, datetime.fromtimestamp(single.moment, UTC), single.reason)
            for single in state.singles
        ),
    )
    return plain, replace(plain, serials=(), ranges=state.ranges, min_serial=state.min_serial)


def describe_state(state: RevocationState) -> dict[str, object]:
    """Return a state for scripts and people."""
    return {
        "version": state.version,
        "min_serial": str(state.min_serial),
        "ranges": len(state.ranges),
        "in_crl": len(state.singles),
    }


def is_due(state: RevocationState, now: datetime, interval: timedelta) -> bool:
    """Tell whether the lists are to be signed anew."""
    return not state.version or posix_seconds(now) - state.issued_at >= interval.total_seconds()
