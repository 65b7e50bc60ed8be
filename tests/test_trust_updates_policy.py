"""Policies, floors, rollbacks and staleness: what a relying party refuses whatever the landmarks say."""

from dataclasses import replace
from datetime import timedelta

from tests.makers import make_key
from tests.updating import (
    NOW,
    SECONDS,
    SERVICE_KEY,
    TRUSTING,
    UNTRUSTED,
    WEEK,
    base_of,
    hourly,
    numbers,
    policy_of,
    reasons,
    refused,
    sign,
    take,
    update_of,
    verifier,
)

from mtc.errors import FormatError, Reason, SignatureError, UsageError
from mtc.ids import TrustAnchorID
from mtc.trust.updates import (
    UPDATE_LABEL,
    LandmarkRules,
    SignedDocument,
    Staleness,
    Update,
    UpdateState,
    UpdateTrust,
    freshness_of,
    plan_rollback,
    trust_store_of,
    unsigned_update,
)

HOUR = 3600
OTHER_CA = TrustAnchorID.parse("32473.2")


def test_the_policy_needs_a_pinned_key() -> None:
    """A policy document that another key signed is refused, also from a service that is trusted."""
    log = hourly()
    policy = policy_of(log.trusted())
    forged = sign(replace(policy, signatures=()), SERVICE_KEY)
    for trust in (UNTRUSTED, TRUSTING):
        refused(lambda trust=trust: take(update_of(forged, log.proven()), trust=trust), Reason.UNKNOWN_SIGNER)  # type: ignore[misc]


def test_a_changed_policy_is_refused() -> None:
    """Not one byte of the policy can be changed."""
    log = hourly()
    policy = policy_of(log.trusted())
    changed = replace(policy, payload=policy.payload.replace(b'"version":1,', b'"version":2,', 1))
    refused(lambda: take(update_of(changed, log.proven())), Reason.BAD_SIGNATURE, SignatureError)


def test_a_trusted_service_must_sign() -> None:
    """Who trusts a service asks for its signature; who does not needs none."""
    log = hourly()
    policy = policy_of(log.trusted())
    unsigned = update_of(policy, log.proven(), signer=None)
    refused(lambda: take(unsigned, trust=TRUSTING), Reason.UNKNOWN_SIGNER)
    foreign = UpdateTrust(TRUSTING.policy_keys, (verifier(make_key("ml-dsa-44", 99)),))
    refused(lambda: take(update_of(policy, log.proven()), trust=foreign), Reason.UNKNOWN_SIGNER)
    assert take(unsigned).findings == ()


def test_without_a_policy_key_nothing_is_believed() -> None:
    """Pinning no key is a mistake and no choice."""
    refused(lambda: UpdateTrust(()), Reason.USAGE, UsageError)


def test_an_expired_policy_is_refused() -> None:
    """A policy document is taken up to the second in which it ends: who keeps back news is found out."""
    log = hourly()
    policy = policy_of(log.trusted(), issued=SECONDS - HOUR, lifetime=timedelta(hours=1))
    data = update_of(policy, log.proven())
    state = take(data).state
    later = NOW + timedelta(seconds=1)
    refused(lambda: take(data, now=later), Reason.EXPIRED)
    trust_store_of(state, NOW)
    refused(lambda: trust_store_of(state, later), Reason.EXPIRED)


def test_a_policy_of_the_future_is_refused() -> None:
    """A policy document begins at its issue, with some grace for clocks."""
    log = hourly()
    refused(lambda: take(update_of(policy_of(log.trusted(), issued=SECONDS + 301), log.proven())), Reason.NOT_YET_VALID)


def test_policies_do_not_go_back() -> None:
    """An older policy document is refused, and another one with the same version is a contradiction."""
    log = hourly()
    held = take(update_of(policy_of(log.trusted(), version=2), log.proven(), version=SECONDS - 1)).state
    refused(lambda: take(update_of(policy_of(log.trusted()), log.proven()), held), Reason.SUPERSEDED)
    other = policy_of(log.trusted(revoked=[(1, 2)]), version=2)
    refused(lambda: take(update_of(other, log.proven()), held), Reason.EQUIVOCATION)


def test_no_revocation_is_taken_back() -> None:
    """A later policy revokes as much or more of each CA; one that revokes less is refused, and the old one stays."""
    log = hourly()
    held = take(update_of(policy_of(log.trusted(revoked=[(10, 20)])), log.proven(), version=SECONDS - 1)).state
    less = policy_of(log.trusted(revoked=[(10, 19)]), version=2)
    refused(lambda: take(update_of(less, log.proven()), held), Reason.REVOCATION_SHRUNK)
    more = policy_of(log.trusted(revoked=[(9, 21)]), version=2)
    assert list(trust_store_of(take(update_of(more, log.proven()), held).state, NOW).cas[0].revoked) == [(9, 21)]


def test_a_ca_leaves_only_by_removal_and_for_ever() -> None:
    """A CA that vanishes would take its revocations along; a removed one is trusted no more and cannot come back."""
    log, other = hourly(), hourly(ca_id=OTHER_CA)
    both = policy_of(log.trusted(), other.trusted())
    held = take(update_of(both, log.proven(), other.proven(), version=SECONDS - 2)).state
    vanished = policy_of(log.trusted(), version=2)
    refused(lambda: take(update_of(vanished, log.proven()), held), Reason.REVOCATION_SHRUNK)
    removed = policy_of(log.trusted(), version=2, removed=[OTHER_CA])
    after = take(update_of(removed, log.proven(), other.proven(), version=SECONDS - 1), held).state
    assert [ca.ca_id for ca in trust_store_of(after, NOW).cas] == [log.ca_id]
    assert numbers(after, other) == []
    back = policy_of(log.trusted(), other.trusted(), version=3)
    refused(lambda: take(update_of(back, log.proven(), other.proven()), after), Reason.REVOCATION_SHRUNK)


def test_revocations_and_landmarks_come_together() -> None:
    """One delta brings the new landmark and the new policy; where the policy is refused, the landmark stays away."""
    log = hourly()
    first = policy_of(log.trusted(revoked=[(1, 5)]))
    before = log.proven()
    held = take(update_of(first, before, version=SECONDS - HOUR)).state
    log.mark(4)
    base = base_of(SECONDS - HOUR, first, before)
    good = policy_of(log.trusted(revoked=[(1, 6)]), version=2)
    after = take(update_of(good, log.proven(), base=base), held).state
    assert (numbers(after, log), list(trust_store_of(after, NOW).cas[0].revoked)) == ([1, 2, 3, 4], [(1, 6)])
    bad = policy_of(log.trusted(), version=2)
    refused(lambda: take(update_of(bad, log.proven(), base=base), held), Reason.REVOCATION_SHRUNK)


def test_who_is_kept_behind_finds_out() -> None:
    """A landmark that the policy names and the update lacks is a finding; the state is stale until it comes."""
    log = hourly()
    rules = [LandmarkRules(log.ca_id, floors=((1, 3),))]
    policy = policy_of(log.trusted(), rules=rules)
    planned = take(update_of(policy, log.proven(last=2), version=SECONDS - 1))
    assert reasons(planned) == [Reason.STALE_LANDMARKS]
    freshness = freshness_of(planned.state, NOW, HOUR)
    assert (freshness.staleness, freshness.behind) == (Staleness.STALE, ("32473.1 log 1",))
    after = take(update_of(policy, log.proven()), planned.state)
    assert after.findings == ()
    assert freshness_of(after.state, NOW, HOUR).staleness is Staleness.FRESH
    assert reasons(take(update_of(policy))) == [Reason.STALE_LANDMARKS]


def test_no_subtree_outlives_the_policy() -> None:
    """A snapshot that nobody replaces stops trusting its subtrees when its policy document ends."""
    log = hourly()
    state = take(update_of(policy_of(log.trusted(), issued=SECONDS, lifetime=timedelta(days=1)), log.proven())).state
    (ca,) = trust_store_of(state, NOW).cas
    assert {trusted.expiry for trusted in ca.trusted_subtrees} == {SECONDS + 24 * HOUR}


def test_staleness_grows_with_age() -> None:
    """A state is fresh, then stale, then expired; one without an update was never good."""
    log = hourly()
    state = take(update_of(policy_of(log.trusted(), issued=SECONDS), log.proven())).state
    ages = [timedelta(), timedelta(hours=2), WEEK, WEEK + timedelta(seconds=1)]
    found = [freshness_of(state, NOW + age, HOUR).staleness for age in ages]
    assert found == [Staleness.FRESH, Staleness.STALE, Staleness.STALE, Staleness.EXPIRED]
    assert freshness_of(UpdateState(), NOW, HOUR).staleness is Staleness.EXPIRED
    refused(lambda: trust_store_of(UpdateState(), NOW), Reason.NO_LANDMARK)


def test_rollback_brings_back_landmarks_and_no_revoked_certificate() -> None:
    """Rolled back, the older landmarks count under today's policy, and the update that was left does not come again."""
    log = hourly()
    old = take(update_of(policy_of(log.trusted()), log.proven(last=2), version=SECONDS - HOUR)).state
    newer = policy_of(log.trusted(revoked=[(3, 4)]), version=2)
    data = update_of(newer, log.proven())
    new = take(data, old).state
    back = plan_rollback(new, old)
    assert (back.version, numbers(back, log)) == (SECONDS - HOUR, [1, 2])
    assert list(trust_store_of(back, NOW).cas[0].revoked) == [(3, 4)]
    again = take(data, back).state
    assert (again.version, numbers(again, log)) == (SECONDS - HOUR, [1, 2])
    log.mark(3)
    assert numbers(take(update_of(newer, log.proven(), version=SECONDS + 1), again).state, log) == [1, 2, 3, 4]
    assert UpdateState.parse(back.encode()).encode() == back.encode()


def test_rollback_stops_at_the_floor() -> None:
    """No rollback goes below the floor of today's policy, forward, or back to before the first update."""
    log = hourly()
    old = take(update_of(policy_of(log.trusted()), log.proven(), version=SECONDS - HOUR)).state
    new = take(update_of(policy_of(log.trusted(), version=2, floor=SECONDS - HOUR + 1), log.proven()), old).state
    refused(lambda: plan_rollback(new, old), Reason.SUPERSEDED)
    refused(lambda: plan_rollback(old, new), Reason.SUPERSEDED)
    refused(lambda: plan_rollback(new, UpdateState()), Reason.SUPERSEDED)


def test_a_later_floor_ends_a_rollback() -> None:
    """When a floor comes above what was rolled back to, those landmarks go."""
    log = hourly()
    old = take(update_of(policy_of(log.trusted()), log.proven(), version=SECONDS - HOUR)).state
    new = take(update_of(policy_of(log.trusted(), version=2), log.proven()), old).state
    back = plan_rollback(new, old)
    floor = policy_of(log.trusted(), version=3, floor=SECONDS)
    assert numbers(take(update_of(floor, log.proven()), back).state, log) == []


def test_an_update_below_the_floor_is_refused() -> None:
    """The policy's floor bounds updates as it bounds rollbacks, and never sinks."""
    log = hourly()
    floor = policy_of(log.trusted(), floor=SECONDS)
    refused(lambda: take(update_of(floor, log.proven(), version=SECONDS - 1)), Reason.SUPERSEDED)
    held = take(update_of(floor, log.proven())).state
    lower = policy_of(log.trusted(), version=2, floor=SECONDS - 1)
    refused(lambda: take(update_of(lower, log.proven()), held), Reason.REVOCATION_SHRUNK)


def test_a_document_of_one_kind_is_none_of_another() -> None:
    """A signed policy is no update, and the other way round."""
    log = hourly()
    refused(lambda: take(policy_of(log.trusted()).encode()), Reason.UNKNOWN_FORMAT, FormatError)
    policy = SignedDocument.parse(update_of(policy_of(log.trusted())), UPDATE_LABEL)
    refused(lambda: take(update_of(policy)), Reason.UNKNOWN_FORMAT, FormatError)


def test_an_update_names_the_policy_that_it_brings() -> None:
    """The digest in an update is that of the policy document in it."""
    log = hourly()
    policy, other = policy_of(log.trusted()), policy_of(log.trusted(), version=2)
    update = Update(SECONDS, 0, other.digest, policy.encode(), ())
    refused(lambda: take(unsigned_update(update).encode()), Reason.BAD_DOCUMENT, FormatError)


def test_later_policies_are_issued_later() -> None:
    """A higher version with an earlier time of issue is a document from another history."""
    log = hourly()
    held = take(update_of(policy_of(log.trusted()), log.proven(), version=SECONDS - 1)).state
    earlier = policy_of(log.trusted(), version=2, issued=SECONDS - 61)
    refused(lambda: take(update_of(earlier, log.proven()), held), Reason.SUPERSEDED)
