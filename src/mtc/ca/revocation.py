"""What a CA revokes and when its lists are made anew. Pure: the time is an argument.

1. Nothing is ever un-revoked, and the minimum serial number never falls: each state covers the one before.
2. Only what is logged is revoked, except ranges and serial numbers of which the operator says that they lie ahead.
3. What is revoked stays with the time and the reason of the first revocation.
4. Each change makes new lists at once, with the next number; without one they are made anew at an interval.
5. The minimum serial number follows expiry, when new lists are made, and swallows the runs below it.

How the CA knows what expired, without reading its logs: each landmark leaves a mark, so many entries, none of them
valid after that time. The log's own record is the last such mark. What lies below a mark has expired when its time has
passed; a log that is closed and expired whole gives way to the next one.

Spec: Merkle Tree Certificates, "Revoked Ranges"; RFC 5280, "CRL Fields".
"""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

from mtc.ca.revocation_state import (
    RevocationState,
    RevokedRun,
    RunKind,
    check_covers,
    count_serials,
    difference,
    intersection,
    merge_runs,
)
from mtc.cert import TBSCRL, RevocationReason, RevokedSerial, SerialRanges
from mtc.cert.crl import MAX_RANGES
from mtc.errors import Reason, UsageError
from mtc.ids import MAX_INDEX, SERIAL_LIMIT
from mtc.log import LogRecord
from mtc.log.pruning import ExpiryMark, expired_below
from mtc.profile import Profile
from mtc.store import MAX_REGISTER_BYTES

MAX_SERIALS = 50_000
"""Most serial numbers that are revoked one by one and have not expired; a range has no such limit."""
MAX_RANGE_SERIALS = 50_000
"""Most serial numbers of ranges that the plain CRL names, over all ranges; with `MAX_SERIALS` about 5 MB."""
MAX_STATE_BYTES = MAX_REGISTER_BYTES - (64 << 10)
"""Largest state after a revocation. The rest of the register's room is for runs that are cut when a log grows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationRules:
    """The numbers. lifetime: of a list. interval: after which it is made anew, before it expires.

    grace: how long after it expired a serial number passes below the minimum; a relying party whose clock is slow, and
    the rule of RFC 5280 that a CRL names a certificate once more after it expired, ask for some. listed_per_range: how
    many serial numbers of one range the plain CRL names, its first ones.
    """

    lifetime: timedelta = timedelta(days=7)
    interval: timedelta = timedelta(days=1)
    grace: timedelta = timedelta(days=1)
    listed_per_range: int = 10_000

    def __post_init__(self) -> None:
        """Refuse numbers with which lists would expire."""
        if not timedelta(0) < self.interval <= self.lifetime or self.grace < timedelta(0) or self.listed_per_range < 0:
            raise UsageError(Reason.USAGE, "a revocation list is made anew before it expires")

    @staticmethod
    def of_profile(profile: Profile) -> "RevocationRules":
        """Return a profile's numbers. The grace is one interval, so that the next plain list still has the entry."""
        return RevocationRules(lifetime=profile.crl_lifetime, interval=profile.crl_interval, grace=profile.crl_interval)


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationRequest:
    """What is to be revoked. serials: one by one. ranges: many at once. is_future: also what is not logged yet."""

    serials: SerialRanges = SerialRanges()  # noqa: RUF009 - immutable
    ranges: SerialRanges = SerialRanges()  # noqa: RUF009 - immutable
    reason: RevocationReason | None = None
    is_future: bool = False

    def __post_init__(self) -> None:
        """Refuse a request for nothing, or for too much at once."""
        if not self.serials and not self.ranges:
            raise UsageError(Reason.USAGE, "name at least one serial number or range to revoke")
        if count_serials(self.serials) > MAX_SERIALS:
            raise UsageError(Reason.TOO_LARGE, f"more than {MAX_SERIALS} serial numbers; revoke them as ranges")


def logged_serials(sizes: Mapping[int, int]) -> SerialRanges:
    """Return the serial numbers of all entries. sizes: tree size by log number."""
    return SerialRanges([(number << 48, (number << 48) + size) for number, size in sizes.items()])


def fresh_serials(state: RevocationState, request: RevocationRequest) -> SerialRanges:
    """Return what of a request is not revoked yet."""
    return difference(request.serials | request.ranges, state.revoked)


def plan_revocation(
    state: RevocationState, request: RevocationRequest, now: int, sizes: Mapping[int, int]
) -> RevocationState:
    """Return the state in which a request is revoked; the very same state when all of it was before.

    now: POSIX seconds. sizes: tree size by log number. Raises UsageError: SERIAL_OUT_OF_RANGE for what is not logged,
    TOO_LARGE when the register or the lists would hold no more.
    """
    _check_logged(request, sizes)
    fresh = fresh_serials(state, request)
    if not fresh:
        return state
    after = replace(state, runs=merge_runs([*state.runs, *_runs_of(fresh, request, now, sizes)]))
    if _lacks_room(after):
        # A large range must always be possible, however scattered the runs inside are: they become part of it and
        # lose what was known of each, their lines in the plain CRL included.
        outside = [run for run in state.runs if not _is_inside(run, request.ranges)]
        others = SerialRanges([(0, state.min_serial), *((run.start, run.end) for run in outside)])
        fresh = difference(request.serials | request.ranges, others)
        after = replace(state, runs=merge_runs([*outside, *_runs_of(fresh, request, now, sizes)]))
    if text := _lacks_room(after):
        raise UsageError(Reason.TOO_LARGE, text)
    return check_covers(after, state)


def advance_minimum(state: RevocationState, serial: int) -> RevocationState:
    """Return the state with a minimum serial number of at least `serial`; runs below are part of it then."""
    least = min(serial, SERIAL_LIMIT - 1)
    if least <= state.min_serial:
        return state
    runs = tuple(replace(run, start=max(run.start, least)) for run in state.runs if run.end > least)
    return check_covers(replace(state, min_serial=least, runs=runs), state)


def is_due(state: RevocationState, now: int, rules: RevocationRules) -> bool:
    """Tell whether the lists are to be made anew although nothing changed. now: POSIX seconds."""
    return not state.number or now >= state.this_update + rules.interval.total_seconds()


def plan_publication(
    state: RevocationState, now: int, sizes: Mapping[int, int], minimum: int, rules: RevocationRules
) -> RevocationState:
    """Return the state of the next lists, which begin at `now`, POSIX seconds, and never before the last ones.

    sizes: tree size by log number. minimum: what `minimum_serial` says.
    """
    after = _note_logged(advance_minimum(state, minimum), logged_serials(sizes))
    begin = max(now, state.this_update)
    end = begin + int(rules.lifetime.total_seconds())
    return check_covers(replace(after, number=state.number + 1, this_update=begin, next_update=end), state)


def minimum_serial(logs: Sequence[tuple[LogRecord, Sequence[ExpiryMark]]], now: datetime, grace: timedelta) -> int:
    """Return the serial number below which everything expired longer than `grace` ago, as far as the marks tell.

    logs: the record and the landmarks' marks of every log, from the first one on. Returns 0 without any.
    """
    least = 0
    for record, marks in logs:
        whole = ExpiryMark(record.tree_size, record.latest_not_after)
        index = expired_below((*marks, whole), now, grace)
        least = (record.log_number << 48) + min(index, MAX_INDEX)
        # A log that takes entries keeps the minimum, and so does one of which something is valid.
        if index < record.tree_size or not record.is_closed:
            break
    return least


def lists_of(state: RevocationState, issuer: bytes, algorithm: bytes, rules: RevocationRules) -> tuple[TBSCRL, TBSCRL]:
    """Return the plain CRL and the MTC revocation list of a state; the same state gives the same lists.

    issuer: the CA's name, DER. algorithm: AlgorithmIdentifier of its key, DER.
    """
    begin, end = datetime.fromtimestamp(state.this_update, UTC), datetime.fromtimestamp(state.next_update, UTC)

    def make(
        serials: tuple[RevokedSerial, ...], ranges: SerialRanges | None = None, min_serial: int | None = None
    ) -> TBSCRL:
        return TBSCRL(
            issuer=issuer,
            algorithm=algorithm,
            this_update=begin,
            next_update=end,
            number=state.number,
            serials=serials,
            ranges=ranges,
            min_serial=min_serial,
        )

    return make(_list_serials(state, rules)), make((), state.ranges, state.min_serial)


def _check_logged(request: RevocationRequest, sizes: Mapping[int, int]) -> None:
    """Refuse what no certificate has, which is a slip of the pen, or must be said."""
    for start, _ in (*request.serials, *request.ranges):
        if start < 1 << 48:
            raise UsageError(
                Reason.SERIAL_OUT_OF_RANGE, f"serial number {start} names log 0, which does not exist", serial=start
            )
    current = max(sizes, default=0)
    frontier = (current << 48) + sizes.get(current, 0)
    for start, end in request.serials:
        missing = next((number for number in range(start >> 48, (end - 1 >> 48) + 1) if number not in sizes), None)
        if missing is not None:
            raise UsageError(
                Reason.SERIAL_OUT_OF_RANGE,
                f"log {missing} does not exist yet; revoke a range with --future if you mean it",
                log=missing,
            )
    unlogged = difference(request.serials, logged_serials(sizes))
    ahead = difference(request.ranges, SerialRanges([(0, frontier)]))
    for serials in (unlogged, ahead):
        if serials and not request.is_future:
            serial = serials.bounds[0]
            raise UsageError(
                Reason.SERIAL_OUT_OF_RANGE,
                f"serial number {serial} is not in use: log {serial >> 48} has {sizes.get(serial >> 48, 0)} entries; "
                "add --future if you mean it",
                serial=serial,
            )


def _runs_of(fresh: SerialRanges, request: RevocationRequest, now: int, sizes: Mapping[int, int]) -> list[RevokedRun]:
    """Return the runs of what a request revokes in addition."""
    logged = logged_serials(sizes)
    as_range = difference(fresh, request.serials)
    kinds = (
        (intersection(fresh, request.serials), RunKind.SERIAL),
        (intersection(as_range, logged), RunKind.RANGE),
        (difference(as_range, logged), RunKind.UNLOGGED),
    )
    return [RevokedRun(start, end, now, request.reason, kind) for serials, kind in kinds for start, end in serials]


def _is_inside(run: RevokedRun, ranges: SerialRanges) -> bool:
    """Tell whether a run lies within one of the ranges."""
    at = bisect_right(ranges.bounds, run.start)
    return at & 1 == 1 and run.end <= ranges.bounds[at]


def _lacks_room(state: RevocationState) -> str:
    """Return why a state would not fit, nothing when it does."""
    serials = sum(run.end - run.start for run in state.runs if run.kind is RunKind.SERIAL)
    if serials > MAX_SERIALS:
        return f"{serials} serial numbers would be revoked one by one, at most {MAX_SERIALS} can be; revoke ranges"
    size = len(state.encode())
    if len(state.ranges) > MAX_RANGES or size > MAX_STATE_BYTES:
        return (
            f"what is revoked would be {len(state.ranges)} ranges in {size} bytes, at most {MAX_RANGES} in "
            f"{MAX_STATE_BYTES} can be; revoke larger ranges, which take in smaller ones"
        )
    return ""


def _note_logged(state: RevocationState, logged: SerialRanges) -> RevocationState:
    """Return the state in which runs ahead of a log are cut where its entries now end."""
    runs: list[RevokedRun] = []
    for run in state.runs:
        if run.kind is RunKind.UNLOGGED:
            whole = SerialRanges([(run.start, run.end)])
            for part, kind in (
                (intersection(whole, logged), RunKind.RANGE),
                (difference(whole, logged), RunKind.UNLOGGED),
            ):
                runs += [RevokedRun(start, end, run.time, run.reason, kind) for start, end in part]
        else:
            runs.append(run)
    merged = merge_runs(runs)
    return state if merged == state.runs else replace(state, runs=merged)


def _list_serials(state: RevocationState, rules: RevocationRules) -> tuple[RevokedSerial, ...]:
    """Return the lines of the plain CRL: single serial numbers, and the first ones of each range.

    Ranges that were revoked earlier come first, so that a later one pushes no line out of the CRL.
    """
    listed = [(run, run.end) for run in state.runs if run.kind is RunKind.SERIAL]
    left = MAX_RANGE_SERIALS
    for run in sorted((run for run in state.runs if run.kind is RunKind.RANGE), key=lambda run: (run.time, run.start)):
        count = min(run.end - run.start, rules.listed_per_range, left)
        listed.append((run, run.start + count))
        left -= count
    lines: list[RevokedSerial] = []
    for run, end in sorted(listed, key=lambda item: item[0].start):
        time = datetime.fromtimestamp(run.time, UTC)
        lines += [RevokedSerial(serial, time, run.reason) for serial in range(run.start, end)]
    return tuple(lines)
