"""Revocation by a CA, decided: nothing is ever un-revoked, lists follow from the state, the minimum from expiry."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.makers import make_key

from mtc.ca.revocation import (
    MAX_RANGE_SERIALS,
    MAX_SERIALS,
    MAX_STATE_BYTES,
    RevocationRequest,
    RevocationRules,
    advance_minimum,
    is_due,
    lists_of,
    minimum_serial,
    plan_publication,
    plan_revocation,
)
from mtc.ca.revocation_state import (
    RevocationState,
    RevokedRun,
    RunKind,
    check_covers,
    difference,
    intersection,
)
from mtc.cert import (
    RevocationList,
    RevocationReason,
    SerialRanges,
    verify_successor,
)
from mtc.errors import ConflictError, FormatError, Reason, UsageError
from mtc.ids import DEFAULT_REVISION, MAX_INDEX, SERIAL_LIMIT, TrustAnchorID, encode_ca_name
from mtc.log import LogRecord
from mtc.log.pruning import ExpiryMark
from mtc.profile import PROFILES
from mtc.store import MAX_REGISTER_BYTES
from mtc.testing import FakeClock

CA_ID = TrustAnchorID.parse("32473.1")
KEY = make_key("ml-dsa-44")
NAME = encode_ca_name(CA_ID, DEFAULT_REVISION)
ALGORITHM = KEY.algorithm.identifier
NOW = int(FakeClock().now().timestamp())
DAY = 86400
FIRST, SECOND = 1 << 48, 2 << 48
RULES = RevocationRules()
EMPTY = RevocationState(min_serial=FIRST)
SIZES = {1: 1000, 2: 500}


def singles(*serials: int) -> SerialRanges:
    """Return single serial numbers as a set."""
    return SerialRanges([(serial, serial + 1) for serial in serials])


def revoke(state: RevocationState, *serials: int, now: int = NOW, **fields: object) -> RevocationState:
    """Revoke serial numbers one by one."""
    request = RevocationRequest(serials=singles(*serials), **fields)  # type: ignore[arg-type]  # the request's own
    return plan_revocation(state, request, now, SIZES)


def revoke_range(
    state: RevocationState, start: int, end: int, now: int = NOW, *, is_future: bool = False
) -> RevocationState:
    """Revoke a half-open range."""
    request = RevocationRequest(ranges=SerialRanges([(start, end)]), is_future=is_future)
    return plan_revocation(state, request, now, SIZES)


def publish(
    state: RevocationState, now: int = NOW, sizes: dict[int, int] | None = None, minimum: int = 0
) -> RevocationState:
    """Plan the next lists."""
    return plan_publication(state, now, sizes or SIZES, minimum, RULES)


def listed(state: RevocationState, rules: RevocationRules = RULES) -> list[int]:
    """Return the serial numbers in the plain CRL of a state."""
    shown = state if state.number else publish(state)
    plain, _ = lists_of(shown, NAME, ALGORITHM, rules)
    return [line.serial for line in plain.serials]


# Sets of serial numbers.

small_sets = st.lists(st.tuples(st.integers(0, 15), st.integers(0, 15)).map(sorted), max_size=4).map(
    lambda pairs: SerialRanges([(start, end) for start, end in pairs])
)


def members(ranges: SerialRanges) -> set[int]:
    """Return the serial numbers of a small set."""
    return {serial for start, end in ranges for serial in range(start, end)}


@given(small_sets, small_sets)
def test_difference_and_intersection_are_those_of_sets(one: SerialRanges, other: SerialRanges) -> None:
    """Ranges subtract and intersect as the sets do that they stand for."""
    assert members(difference(one, other)) == members(one) - members(other)
    assert members(intersection(one, other)) == members(one) & members(other)


# The register's value.

runs = st.lists(
    st.tuples(
        st.integers(0, 2**40),
        st.integers(1, 2**40),
        st.integers(0, 2**35),
        st.none() | st.sampled_from(RevocationReason),
        st.sampled_from(RunKind),
    ),
    max_size=8,
)


@st.composite
def states(draw: st.DrawFn) -> RevocationState:
    """Draw any state."""
    least = draw(st.integers(0, 2**63))
    made, at = [], least
    for gap, length, time, reason, kind in draw(runs):
        made.append(RevokedRun(at + gap, at + gap + length, time, reason, kind))
        at += gap + length
    return RevocationState(
        number=draw(st.integers(0, 2**64 - 1)),
        this_update=draw(st.integers(0, 2**40)),
        next_update=draw(st.integers(0, 2**40)),
        min_serial=least,
        runs=tuple(made),
    )


@given(states())
def test_state_survives_its_bytes(state: RevocationState) -> None:
    """What is written to the register is read back; cut, lengthened or of another version it is refused."""
    data = state.encode()
    assert RevocationState.parse(data) == state
    for end in range(0, len(data), max(1, len(data) // 40)):
        with pytest.raises(FormatError):
            RevocationState.parse(data[:end])
    for changed in (data + b"\0", b"\2" + data[1:]):
        with pytest.raises(FormatError):
            RevocationState.parse(changed)


@given(st.binary(max_size=60))
def test_hostile_states_raise_only_our_errors(tail: bytes) -> None:
    """Any bytes are a state that encodes to itself, or are refused."""
    head = EMPTY.encode()[:-4]
    for data in (tail, head + tail, head + (len(tail) // 4).to_bytes(4, "big") + tail):
        try:
            state = RevocationState.parse(data)
        except FormatError:
            continue
        assert state.encode() == data


def test_states_that_cannot_be_are_not_built() -> None:
    """Runs neither overlap, go back, are empty, nor lie below the minimum or above 2^64."""
    run = RevokedRun(FIRST + 5, FIRST + 7, NOW, None, RunKind.RANGE)
    for bad in (
        [run, run],
        [run, replace(run, start=FIRST + 6, end=FIRST + 8)],
        [replace(run, end=FIRST + 5)],
        [replace(run, start=FIRST - 1)],
        [replace(run, end=SERIAL_LIMIT + 1)],
    ):
        with pytest.raises(FormatError):
            replace(EMPTY, runs=tuple(bad))
    with pytest.raises(FormatError):
        RevocationState(min_serial=SERIAL_LIMIT)


def test_check_covers_notices_every_loss() -> None:
    """A state that revokes less, or one with a smaller number or minimum, does not follow."""
    state = replace(revoke(EMPTY, FIRST + 5), number=2)
    for less in (replace(state, runs=()), replace(state, number=1), replace(state, min_serial=FIRST - 1)):
        with pytest.raises(ConflictError) as caught:
            check_covers(less, state)
        assert caught.value.reason is Reason.REVOCATION_SHRUNK


# Decisions.


def test_a_serial_is_revoked_once() -> None:
    """The first revocation decides time and reason; the same one again gives the very same state."""
    state = revoke(EMPTY, FIRST + 5, reason=RevocationReason.KEY_COMPROMISE)
    assert revoke(state, FIRST + 5, now=NOW + 9, reason=RevocationReason.SUPERSEDED) is state
    after = revoke(state, FIRST + 5, FIRST + 6, now=NOW + 9)
    assert [(run.start, run.time, run.reason) for run in after.runs] == [
        (FIRST + 5, NOW, RevocationReason.KEY_COMPROMISE),
        (FIRST + 6, NOW + 9, None),
    ]
    assert revoke(advance_minimum(state, FIRST + 100), FIRST + 50).runs == (), "what expired is revoked already"


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (RevocationRequest(serials=singles(7)), "log 0"),
        (RevocationRequest(ranges=SerialRanges([(FIRST - 1, FIRST + 5)]), is_future=True), "log 0"),
        (RevocationRequest(serials=singles(3 << 48), is_future=True), "log 3 does not exist"),
        (RevocationRequest(serials=singles(FIRST + 1000)), "log 1 has 1000 entries"),
        (RevocationRequest(serials=singles(SECOND + 500)), "log 2 has 500 entries"),
        (RevocationRequest(ranges=SerialRanges([(SECOND + 499, SECOND + 501)])), "log 2 has 500 entries"),
        (RevocationRequest(ranges=SerialRanges([(5 << 48, SERIAL_LIMIT)])), "log 5 has 0 entries"),
    ],
)
def test_what_is_not_logged_is_not_revoked_by_mistake(request_: RevocationRequest, text: str) -> None:
    """A serial number that no entry has is refused, and where it may be meant, the text names the flag."""
    with pytest.raises(UsageError, match=text) as caught:
        plan_revocation(EMPTY, request_, NOW, SIZES)
    assert caught.value.reason is Reason.SERIAL_OUT_OF_RANGE
    if request_.serials.bounds[:1] < (3 << 48,) and "log 0" not in text:
        assert "--future" in caught.value.message


def test_what_lies_ahead_is_revoked_when_it_is_said() -> None:
    """With the flag, single numbers of a log that exists and ranges of any log are revoked before they are in use."""
    state = revoke(EMPTY, SECOND + 500, is_future=True)
    state = revoke_range(state, SECOND + 600, SERIAL_LIMIT, is_future=True)
    assert SECOND + 500 in state.revoked
    assert SERIAL_LIMIT - 1 in state.revoked
    # The end of a log that was closed needs no flag: nothing lies ahead there.
    assert revoke_range(EMPTY, FIRST + 900, SECOND + 10).revoked == SerialRanges(
        [(0, FIRST), (FIRST + 900, SECOND + 10)]
    )


def test_empty_requests_are_refused() -> None:
    """Asking to revoke nothing is a mistake, and so are more single numbers than lists hold."""
    with pytest.raises(UsageError):
        RevocationRequest()
    with pytest.raises(UsageError, match="as ranges"):
        RevocationRequest(serials=SerialRanges([(FIRST, FIRST + MAX_SERIALS + 1)]))


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["serials", "range", "minimum", "publish"]),
            st.integers(0, 30),
            st.integers(0, 30),
            st.integers(0, 99),
        ),
        max_size=25,
    )
)
def test_every_history_covers_itself(steps: list[tuple[str, int, int, int]]) -> None:
    """Whatever is done in whatever order, each state covers the one before, and holds exactly what was asked for."""
    state, revoked, least, sizes, now = EMPTY, set[int](), 0, {1: 10}, NOW
    lists: list[RevocationList] = []
    for kind, one, other, seconds in steps:
        now += seconds
        before = state
        low, high = FIRST + min(one, other), FIRST + max(one, other) + 1
        if kind == "serials":
            request = RevocationRequest(serials=singles(low, high), is_future=True)
            state, added = plan_revocation(state, request, now, sizes), {low - FIRST, high - FIRST}
        elif kind == "range":
            request = RevocationRequest(ranges=SerialRanges([(low, high)]), is_future=True)
            state, added = plan_revocation(state, request, now, sizes), set(range(low - FIRST, high - FIRST))
        elif kind == "minimum":
            state, added, least = advance_minimum(state, low), set(), max(least, low - FIRST)
        else:
            sizes = {1: max(sizes[1], one)}
            state, added = plan_publication(state, now, sizes, 0, RULES), set()
        revoked |= added
        check_covers(state, before)
        assert members_above(state) == revoked | set(range(least))
        assert RevocationState.parse(state.encode()) == state
        _, crl = lists_of(publish(state, now, sizes), NAME, ALGORITHM, RULES)
        assert crl.ranges is not None
        assert crl.min_serial is not None
        lists.append(RevocationList(crl, len(lists), crl.min_serial, state.revoked))
        if len(lists) > 1:
            verify_successor(lists[-2], lists[-1])


def members_above(state: RevocationState) -> set[int]:
    """Return the indices of log 1 that a state revokes."""
    return {max(at, FIRST) - FIRST for start, end in state.revoked for at in range(max(start, FIRST), end)}


def test_minimum_never_falls_and_cuts_runs() -> None:
    """A higher minimum drops runs below it and cuts the one it meets; a lower one changes nothing."""
    state = revoke_range(revoke(EMPTY, FIRST + 1), FIRST + 10, FIRST + 20)
    after = advance_minimum(state, FIRST + 15)
    assert [(run.start, run.end) for run in after.runs] == [(FIRST + 15, FIRST + 20)]
    assert advance_minimum(after, FIRST + 14) is after
    assert advance_minimum(after, SERIAL_LIMIT).min_serial == SERIAL_LIMIT - 1


def test_lists_are_made_anew_at_the_interval() -> None:
    """The first lists are due at once, later ones one interval after the last; each has the next number."""
    assert is_due(EMPTY, NOW, RULES)
    state = publish(EMPTY)
    assert (state.number, state.this_update, state.next_update) == (1, NOW, NOW + 7 * DAY)
    assert not is_due(state, NOW + DAY - 1, RULES)
    assert is_due(state, NOW + DAY, RULES)
    again = publish(state, NOW - 5)
    assert (again.number, again.this_update) == (2, NOW), "a list never begins before the last one"


@pytest.mark.parametrize("profile", PROFILES.values(), ids=lambda profile: profile.name)
def test_profiles_have_rules(profile: object) -> None:
    """The lists of every profile are made anew before they expire."""
    rules = RevocationRules.of_profile(profile)  # type: ignore[arg-type]  # a profile
    assert rules.interval <= rules.lifetime
    with pytest.raises(UsageError):
        replace(rules, interval=rules.lifetime * 2)


# The plain CRL.


def test_plain_crl_names_singles_and_the_first_of_each_range() -> None:
    """Single numbers are always in it; of a range the first ones that were logged, so many and no more."""
    rules = replace(RULES, listed_per_range=3)
    state = revoke_range(revoke(EMPTY, FIRST + 2, FIRST + 3), FIRST + 10, FIRST + 100)
    assert listed(state, rules) == [FIRST + 2, FIRST + 3, FIRST + 10, FIRST + 11, FIRST + 12]
    ahead = revoke_range(EMPTY, SECOND + 498, 3 << 48, is_future=True)
    assert listed(ahead) == [SECOND + 498, SECOND + 499], "what is not logged is not in it"
    grown = publish(publish(ahead), NOW + DAY, {1: 1000, 2: 502})
    assert listed(grown) == [SECOND + 498 + number for number in range(4)], "once it is logged it comes in"
    assert grown.revoked == ahead.revoked


def test_many_single_numbers_in_a_row_stay_in_the_plain_crl() -> None:
    """Numbers that were named one by one are in the CRL, also where so many neighbours would be a range too large."""
    state = plan_revocation(EMPTY, RevocationRequest(serials=SerialRanges([(FIRST, FIRST + 900)])), NOW, SIZES)
    assert len(state.runs) == 1
    assert len(listed(state, replace(RULES, listed_per_range=10))) == 900


def test_earlier_ranges_keep_their_place_in_the_plain_crl() -> None:
    """When the CRL is full, a range that is revoked later gets no lines, wherever it lies."""
    sizes = {1: 10 * MAX_RANGE_SERIALS}
    rules = replace(RULES, listed_per_range=MAX_RANGE_SERIALS // 2)
    state = EMPTY
    for number, start in enumerate((8, 6, 1)):
        at = FIRST + start * MAX_RANGE_SERIALS
        request = RevocationRequest(ranges=SerialRanges([(at, at + MAX_RANGE_SERIALS)]))
        state = plan_revocation(state, request, NOW + number, sizes)
    lines = listed(plan_publication(state, NOW, sizes, 0, RULES), rules)
    assert len(lines) == MAX_RANGE_SERIALS
    assert lines[0] == FIRST + 6 * MAX_RANGE_SERIALS


def test_the_state_fits_the_register_and_says_so_in_time() -> None:
    """Scattered numbers fill the lists before the register; what would not fit is refused, but one range takes all."""
    sizes = {1: 2**47}
    scattered = [(FIRST + (number << 30), FIRST + (number << 30) + 1) for number in range(MAX_SERIALS)]
    state = plan_revocation(EMPTY, RevocationRequest(serials=SerialRanges(scattered)), NOW, sizes)
    assert len(state.encode()) < MAX_STATE_BYTES < MAX_REGISTER_BYTES
    with pytest.raises(UsageError, match="revoke ranges"):
        plan_revocation(state, RevocationRequest(serials=singles(FIRST + 7)), NOW, sizes)
    between = [(start + 2, start + 3) for start, _ in scattered]
    state = plan_revocation(state, RevocationRequest(ranges=SerialRanges(between)), NOW + 1, sizes)
    with pytest.raises(UsageError, match="larger ranges") as caught:
        plan_revocation(state, RevocationRequest(ranges=singles(FIRST + 7)), NOW + 2, sizes)
    assert caught.value.reason is Reason.TOO_LARGE
    whole = RevocationRequest(ranges=SerialRanges([(FIRST, FIRST + 2**47)]))
    after = plan_revocation(state, whole, NOW + 3, sizes)
    check_covers(after, state)
    assert [(run.start, run.end) for run in after.runs] == [(FIRST, FIRST + 2**47)]


# The minimum serial number.


def record(number: int, size: int, latest: int = 0, *, is_closed: bool = False) -> LogRecord:
    """Return the record of a log."""
    return LogRecord(
        log_number=number,
        tree_size=size,
        root_hash=bytes(32),
        timestamp=NOW,
        latest_not_after=latest,
        is_closed=is_closed,
    )


@pytest.mark.parametrize(
    ("logs", "serial"),
    [
        ([], 0),
        ([(record(1, 0), ())], FIRST),
        ([(record(1, 100, NOW), ())], FIRST),
        ([(record(1, 100, NOW - DAY), ())], FIRST),
        ([(record(1, 100, NOW - DAY - 1), ())], FIRST + 100),
        ([(record(1, 100, NOW), (ExpiryMark(40, NOW - 9 * DAY), ExpiryMark(60, NOW - DAY)))], FIRST + 40),
        ([(record(1, 100, NOW - 2 * DAY), ()), (record(2, 5, NOW), ())], FIRST + 100),
        ([(record(1, 100, NOW - 2 * DAY, is_closed=True), ()), (record(2, 5, NOW), ())], SECOND),
        ([(record(1, 100, NOW, is_closed=True), ()), (record(2, 5, NOW - 2 * DAY), ())], FIRST),
        ([(record(1, 100, NOW - 2 * DAY, is_closed=True), ()), (record(2, 5, NOW - 2 * DAY), ())], SECOND + 5),
        ([(record(1, MAX_INDEX, NOW - 2 * DAY, is_closed=True), ())], SECOND - 1),
    ],
)
def test_minimum_serial_follows_expiry(logs: list[tuple[LogRecord, tuple[ExpiryMark, ...]]], serial: int) -> None:
    """It stands below the first entry that may be valid or has not been expired for the grace; open logs hold it."""
    assert minimum_serial(logs, datetime.fromtimestamp(NOW, UTC), timedelta(days=1)) == serial


@given(
    st.lists(st.tuples(st.integers(0, 20), st.booleans()), min_size=1, max_size=40),
    st.integers(0, 30),
    st.integers(0, 5),
)
def test_minimum_serial_never_excludes_what_is_valid(entries: list[tuple[int, bool]], late: int, grace: int) -> None:
    """With marks at any sizes, no entry below it has a notAfter that is less than the grace ago."""
    ends = [NOW + offset for offset, _ in entries]
    marks = [ExpiryMark(size, max(ends[:size])) for size, (_, is_marked) in enumerate(entries, 1) if is_marked]
    moment = datetime.fromtimestamp(NOW + late, UTC)
    serial = minimum_serial([(record(1, len(ends), max(ends)), marks)], moment, timedelta(seconds=grace))
    assert all(end < NOW + late - grace for end in ends[: serial - FIRST])
    if late - grace > 20:
        assert serial == FIRST + len(ends)
