"""What a trust store refuses to be; validity and the time of verification; batches."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from functools import lru_cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.certificates import Parts
from tests.judging import (
    CA,
    FIRST_8,
    MIRROR,
    WITNESS,
    accepted,
    by,
    cosigned,
    landmark_der,
    raw,
    refused,
    small_ca,
    standalone_der,
    trusting,
)
from tests.makers import (
    HOST,
    NOT_AFTER,
    NOT_BEFORE,
    NOW,
    Leaf,
    SmallCA,
    certify,
    policy,
)

from mtc.cert import MTCProof
from mtc.errors import Error, FormatError, Reason, Rejected, UsageError
from mtc.ids import REVISIONS, TrustAnchorID
from mtc.kernel import Kernel
from mtc.merkle import Subtree
from mtc.trust import (
    CosignerPolicy,
    CosignerState,
    Form,
    FreezePoint,
    TrustedSubtree,
    TrustStore,
    verify_certificate,
    verify_signature,
    verify_signatures,
)
from mtc.wire import encode_integer, encode_sequence

# What a store refuses to be.


@pytest.mark.parametrize(
    "make",
    [
        policy,
        lambda: policy(of=[CA, WITNESS]),
        lambda: policy(of=[CA], at_least=2),
        lambda: policy(of=[], at_least=1),
        lambda: policy(CA, of=[WITNESS], at_least=2),
        lambda: policy(CA, of=[WITNESS], at_least=-1),
        lambda: policy(CA, CA),
        lambda: policy(CA, of=[WITNESS, WITNESS], at_least=1),
    ],
)
def test_policies_that_nobody_or_anybody_meets_are_refused(make: Callable[[], CosignerPolicy]) -> None:
    """A policy that requires nobody, cannot be met, or names somebody twice is refused."""
    with pytest.raises(FormatError) as caught:
        make()
    assert caught.value.reason is Reason.BAD_POLICY


@pytest.mark.parametrize(
    "wanted", [policy("32473.77"), policy(CA, "32473.77"), policy(CA, of=[WITNESS, "32473.77"], at_least=1)]
)
def test_a_policy_names_known_cosigners(wanted: CosignerPolicy) -> None:
    """A cosigner without a key is refused, even where the policy could be met without it."""
    with pytest.raises(FormatError) as caught:
        small_ca().trusted_ca(policy=wanted)
    assert caught.value.reason is Reason.BAD_POLICY
    assert "32473.77" in caught.value.message


def test_cosigners_and_subtrees_do_not_contradict_each_other() -> None:
    """A cosigner twice, a subtree with two hashes, a hash of another size and an empty subtree of -05 are refused."""
    ca, old = small_ca(), SmallCA(revision=REVISIONS["plants-05"])
    for make, reason in (
        (lambda: ca.trusted_ca(cosigners=[ca.cosigner(CA), ca.cosigner(CA)]), Reason.DUPLICATE),
        (
            lambda: ca.trusted_ca(subtrees=[ca.trusted_subtree(0, 8), TrustedSubtree(1, FIRST_8, bytes(32))]),
            Reason.DUPLICATE,
        ),
        (lambda: ca.trusted_ca(subtrees=[TrustedSubtree(1, FIRST_8, bytes(48))]), Reason.BAD_HASH_SIZE),
        (lambda: ca.trusted_ca(subtrees=[TrustedSubtree(1, FIRST_8, b"")]), Reason.BAD_HASH_SIZE),
        (lambda: old.trusted_ca(subtrees=[TrustedSubtree(1, Subtree(8, 8), bytes(32))]), Reason.BAD_SUBTREE),
        (lambda: TrustedSubtree(0, FIRST_8, bytes(32)), Reason.BAD_NUMBER),
        (lambda: TrustedSubtree(65536, FIRST_8, bytes(32)), Reason.BAD_NUMBER),
        (lambda: TrustedSubtree(1, Subtree(0, 1 << 48), bytes(32)), Reason.BAD_SUBTREE),
        (lambda: replace(ca.cosigner(CA), state=CosignerState.FROZEN), Reason.BAD_POLICY),
        (lambda: replace(ca.cosigner(CA), frozen_at=FreezePoint(1, 1)), Reason.BAD_POLICY),
        (
            lambda: replace(ca.cosigner(CA), cosigner_id=TrustAnchorID.parse(".".join("1" * 121))),
            Reason.BAD_TRUST_ANCHOR_ID,
        ),
    ):
        with pytest.raises(FormatError) as caught:
            make()
        assert caught.value.reason is reason
    assert replace(ca.cosigner(CA), cosigner_id=TrustAnchorID.parse(".".join("1" * 120))).name
    assert ca.trusted_ca(subtrees=[TrustedSubtree(1, Subtree(8, 8), bytes(32))]).subtree_index
    assert len(ca.trusted_ca(subtrees=[ca.trusted_subtree(0, 8)] * 2).subtree_index) == 1


def test_one_ca_speaks_one_draft(kernel: Kernel) -> None:
    """A store refuses a CA twice, also under two draft revisions."""
    new, old = (SmallCA(revision=REVISIONS[name]).trusted_ca() for name in ("plants-07", "plants-05"))
    for cas in ([new, old], [new, new]):
        with pytest.raises(FormatError) as caught:
            TrustStore(cas, kernel)
        assert caught.value.reason is Reason.DUPLICATE


def test_a_ca_id_is_as_long_as_its_draft_allows() -> None:
    """A CA ID of more than 32 bytes has no name in -07, and is refused as a trusted CA; -05 allows it."""
    long_id = ".".join(["268435455"] * 9)
    assert len(TrustAnchorID.parse(long_id).binary) == 36
    assert SmallCA(ca_id=long_id, revision=REVISIONS["plants-05"]).trusted_ca().name
    with pytest.raises(FormatError) as caught:
        SmallCA(ca_id=long_id).trusted_ca()
    assert caught.value.reason is Reason.BAD_TRUST_ANCHOR_ID


def test_many_cas_in_one_store(kernel: Kernel) -> None:
    """Each certificate is judged by its own CA's trust: revisions and hashes may differ from CA to CA."""
    cas = [
        SmallCA((Leaf(),) * 5, ca_id=f"32473.{number}", revision=revision, hash_name=hash_name)
        for number, (revision, hash_name) in enumerate(
            [(revision, name) for revision in REVISIONS.values() for name in ("sha256", "sm3")], 1
        )
    ]
    store = TrustStore([ca.trusted_ca() for ca in cas], kernel)
    for ca in cas:
        der = ca.certificate(2, cosigners=[ca.ca_id])
        verified = accepted(der, store, Form.STANDALONE)
        assert verified.ca is store.find_ca(ca.anchor)
        others = TrustStore([other.trusted_ca() for other in cas if other is not ca], kernel)
        refused(der, others, Reason.UNKNOWN_CA, Rejected)
    assert store.find_ca(TrustAnchorID.parse("1")) is None
    assert [str(ca.ca_id) for ca in store.cas] == [ca.ca_id for ca in cas]


def test_an_empty_store_trusts_nobody(kernel: Kernel) -> None:
    """A store without CAs refuses everything."""
    for der in (landmark_der(), standalone_der()):
        refused(der, TrustStore([], kernel), Reason.UNKNOWN_CA, Rejected)


# Validity, and the time of verification.


@pytest.mark.parametrize(
    ("now", "reason"),
    [
        (NOT_BEFORE - timedelta(days=400), Reason.NOT_YET_VALID),
        (NOT_BEFORE - timedelta(seconds=1), Reason.NOT_YET_VALID),
        (NOT_BEFORE - timedelta(microseconds=1), Reason.NOT_YET_VALID),
        (NOT_BEFORE, None),
        (NOT_BEFORE + timedelta(microseconds=1), None),
        (NOT_AFTER, None),
        (NOT_AFTER + timedelta(microseconds=1), None),
        (NOT_AFTER + timedelta(microseconds=999_999), None),
        (NOT_AFTER + timedelta(seconds=1), Reason.EXPIRED),
        (NOT_AFTER + timedelta(days=4000), Reason.EXPIRED),
    ],
)
def test_validity_is_inclusive_at_both_ends(kernel: Kernel, now: datetime, reason: Reason | None) -> None:
    """A certificate is valid from the start of its first second to the end of its last one, in both forms."""
    for der, store, form in (
        (landmark_der(), trusting(kernel), Form.LANDMARK_RELATIVE),
        (standalone_der(), cosigned(kernel), Form.STANDALONE),
    ):
        if reason is None:
            accepted(der, store, form, now)
        else:
            refused(der, store, reason, Rejected, now)


@pytest.mark.parametrize("hours", [-14, -5, 0, 9, 14])
def test_any_time_zone_is_the_same_moment(kernel: Kernel, hours: int) -> None:
    """`now` may come in any time zone."""
    zone = timezone(timedelta(hours=hours))
    accepted(landmark_der(), trusting(kernel), Form.LANDMARK_RELATIVE, NOT_AFTER.astimezone(zone))
    late = (NOT_AFTER + timedelta(seconds=1)).astimezone(zone)
    refused(landmark_der(), trusting(kernel), Reason.EXPIRED, Rejected, late)


def test_a_naive_now_is_refused(kernel: Kernel) -> None:
    """A time without a time zone would mean another moment on each machine."""
    naive = NOW.replace(tzinfo=None)
    store = trusting(kernel)
    for call in (
        lambda: verify_signature(landmark_der(), store, naive),
        lambda: verify_signatures([landmark_der()], store, naive),
        lambda: verify_certificate(landmark_der(), store, naive, name=HOST),
    ):
        with pytest.raises(UsageError) as caught:
            call()
        assert caught.value.reason is Reason.USAGE


@pytest.mark.parametrize("year", [1, 1949, 1950, 1969, 2049, 2050, 9999])
def test_validity_reaches_from_year_1_to_9999(kernel: Kernel, year: int) -> None:
    """Years before 1970 and after 2049 are judged like any other."""
    first, last = datetime(year, 1, 1, tzinfo=UTC), datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC)
    der, store = certify(Leaf(not_before=first, not_after=last), kernel)
    for now in (first, last):
        accepted(der, store, Form.LANDMARK_RELATIVE, now)
    if year > 1:
        refused(der, store, Reason.NOT_YET_VALID, Rejected, first - timedelta(seconds=1))
    if year < 9999:
        refused(der, store, Reason.EXPIRED, Rejected, last + timedelta(seconds=1))


def test_the_signature_is_judged_before_validity(kernel: Kernel) -> None:
    """An expired certificate that nobody signed is refused for that: times of strangers mean nothing."""
    late = NOT_AFTER + timedelta(days=1)
    refused(landmark_der(), cosigned(kernel), Reason.POLICY_NOT_MET, Rejected, late)


# Batches.


@lru_cache
def assortment() -> tuple[bytes, ...]:
    """Return certificates of all kinds, good and bad."""
    ca = small_ca()
    sound = [landmark_der(), standalone_der(), by(CA, WITNESS, MIRROR), by(WITNESS), ca.certificate(9, Subtree(8, 13))]
    parts = ca.parts(3, FIRST_8)
    bad = [
        raw(inclusion_proof=bytes(96)),
        raw(start=0, end=16),
        raw(signatures=((b"\x02", b""), (b"\x01", b""))),
        replace(parts, serial=encode_integer(5)).encode(),
        replace(parts, serial=encode_integer(1 << 80)).encode(),
        replace(parts, issuer=encode_sequence()).encode(),
        landmark_der()[:-1],
        b"",
        Parts().encode(),
    ]
    return (*sound, *bad)


@given(st.lists(st.sampled_from(range(14)), max_size=20), st.booleans(), st.booleans())
def test_a_batch_is_judged_one_by_one(
    twins: tuple[Kernel, Kernel],
    picks: list[int],
    has_subtree: bool,  # noqa: FBT001 - drawn
    is_late: bool,  # noqa: FBT001 - drawn
) -> None:
    """`verify_signatures` gives, in order, what `verify_signature` gives or raises for each certificate."""
    ders = [assortment()[pick] for pick in picks]
    now = NOT_AFTER + timedelta(days=1) if is_late else NOW
    everything = []
    for kernel in twins:
        store = trusting(kernel) if has_subtree else cosigned(kernel)
        one_by_one: list[object] = []
        for der in ders:
            try:
                verified = verify_signature(der, store, now)
            except Error as error:
                one_by_one.append((type(error), error.reason, error.message, error.facts))
            else:
                one_by_one.append((verified.form, verified.serial, verified.cosigners))
        batch = [
            (type(item), item.reason, item.message, item.facts)
            if isinstance(item, Error)
            else (item.form, item.serial, item.cosigners)
            for item in verify_signatures(ders, store, now)
        ]
        assert batch == one_by_one
        everything.append([item[:2] for item in batch])
    assert everything[0] == everything[1]


def test_the_proof_alone_changes_with_the_subtree(kernel: Kernel) -> None:
    """The same entry under many proofs is the same TBSCertificate: identity comes from there."""
    ca = small_ca()
    ders = [ca.certificate(3, Subtree(0, end), [CA]) for end in (4, 8, 13)]
    found = {accepted(der, ca.store(kernel), Form.STANDALONE).certificate.tbs for der in ders}
    assert len(found) == 1
    assert isinstance(ca.proof(3), MTCProof)
