"""Which revocation lists the key signs: every rule of `mtc.signer.crl`, and lists over the socket."""

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtc.cert import SerialRanges
from mtc.cert.crl import TBSCRL, RevokedSerial, encode_tbs_crl
from mtc.crypto import generate_key, parse_public_key, parse_signature_algorithm
from mtc.errors import ConflictError, Error, FormatError, Reason, Rejected, StorageError
from mtc.ids import TrustAnchorID, encode_ca_name, parse_revision
from mtc.kernel import active_kernel
from mtc.signer import CRLKind, CRLLine, CRLView, SignerRules, plan_crl
from mtc.signer.service import Journal, KeyHolder, SignerClient, ThreadSigner, read_journal, serve_signer
from mtc.testing import FailingRegister, Failure, FakeClock

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
RULES = SignerRules(ca_id=TrustAnchorID.parse("32473.1"))
ALGORITHM = parse_signature_algorithm("ml-dsa-44").identifier


PLAIN = TBSCRL(
    issuer=encode_ca_name(RULES.ca_id, RULES.revision),
    algorithm=ALGORITHM,
    this_update=NOW,
    next_update=NOW + timedelta(days=7),
    number=1,
)
RANGES = replace(PLAIN, ranges=SerialRanges([(10, 20), (30, 31)]), min_serial=5)


def listing(ranges: Iterable[Sequence[int]], min_serial: int, number: int = 1) -> TBSCRL:
    """Return a list of ranges; what lies below the minimum serial needs none and may have none."""
    kept = [(max(start, min_serial), end) for start, end in ranges if end > max(start, min_serial)]
    return replace(RANGES, number=number, ranges=SerialRanges(kept), min_serial=min_serial)


def sign(crl: TBSCRL, *before: TBSCRL, now: datetime = NOW, rules: SignerRules = RULES) -> dict[CRLKind, CRLView]:
    """Have lists signed in turn; return the views afterwards, each after a journey through its bytes."""
    views: dict[CRLKind, CRLView] = {}
    for item in (*before, crl):
        tbs = encode_tbs_crl(item)
        plan = plan_crl(rules, ALGORITHM, views, tbs, int(now.timestamp()))
        assert plan.message == tbs
        views[plan.view.kind] = CRLView.parse(plan.view.encode())
        assert views[plan.view.kind] == plan.view
    return views


def refusal(crl: TBSCRL, *before: TBSCRL, now: datetime = NOW) -> Error:
    """Return the error that a list meets, after others were signed."""
    if before:
        sign(before[-1], *before[:-1])
    with pytest.raises(Error) as caught:
        sign(crl, *before, now=now)
    return caught.value


def test_rule_1_own_name_and_algorithm() -> None:
    """A list of another CA, of this one in another draft, or under another algorithm is refused."""
    other = encode_ca_name(TrustAnchorID.parse("32473.2"), RULES.revision)
    for issuer in (other, encode_ca_name(RULES.ca_id, parse_revision("plants-04"))):
        assert refusal(replace(PLAIN, issuer=issuer)).reason is Reason.UNKNOWN_CA
    identifier = parse_signature_algorithm("ed25519").identifier
    assert refusal(replace(PLAIN, algorithm=identifier)).reason is Reason.ALGORITHM_MISMATCH


def test_rule_2_same_bytes_again() -> None:
    """The last list is signed again whenever it comes, also long after; an earlier one is not."""
    views = sign(PLAIN)
    late = int((NOW + timedelta(days=30)).timestamp())
    assert plan_crl(RULES, ALGORITHM, views, encode_tbs_crl(PLAIN), late).view == views[CRLKind.PLAIN]
    second = replace(PLAIN, number=2)
    assert isinstance(refusal(PLAIN, PLAIN, second), ConflictError)


def test_rule_3_numbers_grow_per_kind() -> None:
    """A number that is not greater than the last one of its kind is refused; the kinds do not hinder each other."""
    for number in (1, 0):
        error = refusal(replace(PLAIN, number=number, next_update=NOW + timedelta(days=1)), PLAIN)
        assert isinstance(error, ConflictError)
    views = sign(replace(PLAIN, number=9), PLAIN, replace(RANGES, number=3))
    assert {kind: view.number for kind, view in views.items()} == {CRLKind.PLAIN: 9, CRLKind.RANGES: 3}


@pytest.mark.parametrize(
    ("begin", "end", "reason"),
    [
        (timedelta(seconds=301), timedelta(days=7), Reason.NOT_YET_VALID),
        (timedelta(seconds=-301), timedelta(days=7), Reason.NOT_YET_VALID),
        (timedelta(0), timedelta(days=32, seconds=1), Reason.EXPIRED),
    ],
)
def test_rule_3_times(begin: timedelta, end: timedelta, reason: Reason) -> None:
    """A list begins within the allowed skew of now, and is not valid for too long."""
    error = refusal(replace(PLAIN, this_update=NOW + begin, next_update=NOW + begin + end))
    assert isinstance(error, Rejected)
    assert error.reason is reason


def test_rule_3_beginnings_do_not_go_back() -> None:
    """A list that begins before the last one is refused although both begin near now."""
    error = refusal(replace(PLAIN, number=2, this_update=NOW - timedelta(seconds=1)), PLAIN)
    assert isinstance(error, ConflictError)
    sign(replace(PLAIN, number=2), PLAIN)


@pytest.mark.parametrize(
    ("ranges", "min_serial", "is_signed"),
    [
        ([(10, 20), (30, 31)], 5, True),
        ([(10, 20), (30, 31)], 4, False),
        ([(10, 20)], 5, False),
        ([(10, 20)], 31, True),
        ([(11, 20), (30, 31)], 5, False),
        ([(11, 20), (30, 31)], 11, True),
        ([(10, 31)], 5, True),
        ([], 31, True),
        ([], 30, False),
        ([(0, 2**64)], 5, True),
        ([(0, 2**64)], 0, False),
    ],
)
def test_rule_4_nothing_shrinks(ranges: list[tuple[int, int]], min_serial: int, *, is_signed: bool) -> None:
    """What a list of ranges revoked, the next one revokes by a range or by its minimum serial, which never falls."""
    after = listing(ranges, min_serial, number=2)
    if is_signed:
        sign(after, RANGES)
    else:
        assert isinstance(refusal(after, RANGES), ConflictError)


SMALL = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)).map(sorted), max_size=4)


@given(SMALL, st.integers(0, 12), SMALL, st.integers(0, 12))
def test_rule_4_is_that_of_sets(first: list[list[int]], low: int, second: list[list[int]], high: int) -> None:
    """A second list is signed exactly when its minimum does not fall and its serials hold all those of the first."""

    def serials(ranges: list[list[int]], minimum: int) -> set[int]:
        return set(range(minimum)) | {serial for start, end in ranges for serial in range(start, end)}

    before, after = listing(first, low), listing(second, high, number=2)
    if high >= low and serials(second, high) >= serials(first, low):
        sign(after, before)
    else:
        assert isinstance(refusal(after, before), ConflictError)


@given(
    st.builds(
        CRLView,
        kind=st.sampled_from(CRLKind),
        number=st.integers(0, 2**160 - 1),
        digest=st.binary(min_size=32, max_size=32),
        this_update=st.integers(0, 2**63),
        min_serial=st.integers(0, 2**64 - 1),
        ranges=st.lists(st.tuples(st.integers(0, 2**64), st.integers(0, 2**64)).map(sorted)).map(
            lambda pairs: SerialRanges([(start, end) for start, end in pairs])
        ),
    )
)
def test_view_survives_its_bytes(view: CRLView) -> None:
    """A view that is written and read is the same one; cut off or with a byte behind it is refused."""
    data = view.encode()
    assert CRLView.parse(data) == view
    for changed in (data + b"\0", data[:-1], b"\2" + data[1:]):
        with pytest.raises(FormatError):
            CRLView.parse(changed)


@given(st.binary(max_size=80))
def test_hostile_views_raise_only_our_errors(data: bytes) -> None:
    """Any bytes are a view that encodes to itself, or are refused."""
    start = b"\1\6ranges\1\1" + bytes(32) + bytes(8)
    for whole in (data, start + data):
        try:
            view = CRLView.parse(whole)
        except FormatError:
            continue
        assert view.encode() == whole


def test_view_of_many_ranges_is_small() -> None:
    """A hundred thousand ranges of one log, single serials 700 apart, fit the register's mebibyte."""
    base = 1 << 48
    ranges = SerialRanges([(base + 700 * number, base + 700 * number + 1) for number in range(100_000)])
    view = CRLView(kind=CRLKind.RANGES, number=1, digest=bytes(32), this_update=0, ranges=ranges)
    assert len(view.encode()) < 1 << 20
    assert CRLView.parse(view.encode()) == view


def test_lists_over_the_socket(tmp_path: Path) -> None:
    """Both kinds of list are signed over the socket, and stand whole in the journal."""
    key = generate_key(parse_signature_algorithm("ml-dsa-44"))
    serials = (RevokedSerial(7, FakeClock().now(), None),)
    plain = replace(PLAIN, serials=serials)

    async def run() -> None:
        register, journal = FailingRegister(), Journal(tmp_path / "journal")
        holder = KeyHolder(active_kernel().hasher("sha256"), RULES, ThreadSigner(key), register, journal, FakeClock())
        async with serve_signer(holder, tmp_path / "signer.sock"):
            client = SignerClient(tmp_path / "signer.sock")
            for crl in (plain, RANGES, plain):
                tbs = encode_tbs_crl(crl)
                parse_public_key(key.public_key, key.algorithm).verify(tbs, await client.sign_crl(tbs))
            with pytest.raises(ConflictError, match="number 1 is not greater"):
                await client.sign_crl(encode_tbs_crl(PLAIN))
            with pytest.raises(FormatError):
                await client.sign_crl(tbs[:-1])
            client.close()
        journal.close()

    asyncio.run(run())
    lines = [line for line in read_journal(tmp_path / "journal") if isinstance(line, CRLLine)]
    assert [line.tbs for line in lines] == [encode_tbs_crl(crl) for crl in (plain, RANGES, plain)]
    assert [(line.kind, line.number) for line in lines] == [
        (CRLKind.PLAIN, 1),
        (CRLKind.RANGES, 1),
        (CRLKind.PLAIN, 1),
    ]


@pytest.mark.parametrize("failure", Failure, ids=lambda failure: failure.value)
def test_no_list_is_signed_before_its_record_is_durable(tmp_path: Path, failure: Failure) -> None:
    """When the record of a list cannot be kept there is no signature; the same list is then signed by a retry."""
    key = generate_key(parse_signature_algorithm("ml-dsa-44"))

    async def run() -> None:
        register, journal = FailingRegister(), Journal(tmp_path / "journal")
        register.plan.fail_write(0, failure)
        holder = KeyHolder(active_kernel().hasher("sha256"), RULES, key, register, journal, FakeClock())
        tbs = encode_tbs_crl(PLAIN)
        with pytest.raises(StorageError):
            await holder.sign_crl(tbs)
        parse_public_key(key.public_key, key.algorithm).verify(tbs, await holder.sign_crl(tbs))
        journal.close()

    asyncio.run(run())


def test_scattered_ranges_that_cannot_be_remembered_are_refused(tmp_path: Path) -> None:
    """A list whose ranges lie so far apart that the register cannot hold them is refused before it is signed."""
    key = generate_key(parse_signature_algorithm("ml-dsa-44"))
    ranges = SerialRanges([(number << 47, (number << 47) + (1 << 46)) for number in range(1, 90_000)])

    async def run() -> None:
        register, journal = FailingRegister(), Journal(tmp_path / "journal")
        holder = KeyHolder(active_kernel().hasher("sha256"), RULES, key, register, journal, FakeClock())
        with pytest.raises(Rejected, match="join ranges"):
            await holder.sign_crl(encode_tbs_crl(replace(RANGES, ranges=ranges, min_serial=0)))
        assert register.plan.writes == 0
        journal.close()

    asyncio.run(run())
