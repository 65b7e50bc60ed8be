"""The rules by which a relying party takes an update, each from the outside: what is taken, and what is refused."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.updating import (
    HASHER,
    MIRRORS,
    NOW,
    SECONDS,
    TRUSTING,
    UNTRUSTED,
    WEEK,
    LandmarkLog,
    base_of,
    hourly,
    numbers,
    policy_of,
    reasons,
    refused,
    take,
    update_of,
)

from mtc.errors import Reason
from mtc.ids import REVISIONS, TrustAnchorID
from mtc.landmark import Landmark
from mtc.merkle import subtree_hash
from mtc.trust import CosignerState, FreezePoint
from mtc.trust.updates import (
    CosignedTree,
    LandmarkRules,
    LogUpdate,
    SignedDocument,
    Update,
    UpdateState,
    make_update,
    trust_store_of,
    unsigned_update,
)

HOUR = 3600
OTHER_CA = TrustAnchorID.parse("32473.2")


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=str)
@pytest.mark.parametrize("is_proven", [True, False], ids=["proven", "signed"])
def test_a_whole_update_gives_the_subtrees_of_all_landmarks(revision: object, *, is_proven: bool) -> None:
    """From nothing, an update gives a trust store with each landmark's subtrees and their hashes in the log."""
    log = hourly(revision=revision)
    data = update_of(policy_of(log.trusted(revoked=[(7, 9)])), log.proven(), is_proven=is_proven)
    planned = take(data, trust=UNTRUSTED if is_proven else TRUSTING)
    assert planned.findings == ()
    (ca,) = trust_store_of(planned.state, NOW).cas
    assert list(ca.revoked) == [(7, 9)]
    assert {trusted.landmark for trusted in ca.trusted_subtrees} == {1, 2, 3}
    for trusted in ca.trusted_subtrees:
        assert trusted.subtree_hash == subtree_hash(HASHER, log.reader, trusted.subtree)
    assert UpdateState.parse(planned.state.encode()).encode() == planned.state.encode()


def test_a_delta_gives_what_the_whole_update_gives() -> None:
    """Whoever holds the base and takes the delta holds what somebody holds who takes the whole version."""
    log = hourly()
    policy = policy_of(log.trusted())
    before = log.proven()
    held = take(update_of(policy, before, version=SECONDS - HOUR)).state
    log.mark(17)
    log.grow(2)
    after = log.proven()
    whole = update_of(policy, after)
    delta = update_of(policy, after, base=base_of(SECONDS - HOUR, policy, before))
    planned = take(delta, held)
    assert planned.findings == ()
    assert planned.state.encode() == take(whole, held).state.encode()
    assert numbers(planned.state, log) == [1, 2, 3, 4]
    assert len(delta) < len(whole)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 3), st.booleans()), min_size=1, max_size=8))
def test_whoever_comes_often_holds_what_latecomers_hold(steps: list[tuple[int, int, bool]]) -> None:
    """By deltas over any versions a reader comes to the same landmarks as by the last whole update."""
    log = LandmarkLog(cosigners=())
    policy = policy_of(log.trusted(at_least=0))
    log.mark(3)
    held, known = take(update_of(policy, log.proven())).state, log.proven()
    for number, (growth, more, looks) in enumerate(steps, 1):
        log.mark(growth, NOW + WEEK + timedelta(hours=number))
        log.grow(more)
        if looks:
            base = base_of(held.version, policy, known)
            planned = take(update_of(policy, log.proven(), version=SECONDS + number, base=base), held)
            assert planned.findings == ()
            held, known = planned.state, log.proven()
            late = take(update_of(policy, log.proven(), version=SECONDS + number)).state
            assert held.logs == late.logs


def test_a_delta_names_its_base() -> None:
    """A delta to another version than the one held is refused, and asks for a whole update."""
    log = hourly()
    policy = policy_of(log.trusted())
    before = log.proven()
    held = take(update_of(policy, before, version=SECONDS - 2 * HOUR)).state
    log.mark(4)
    delta = update_of(policy, log.proven(), base=base_of(SECONDS - HOUR, policy, before))
    refused(lambda: take(delta, held), Reason.WRONG_BASE)
    refused(lambda: take(delta), Reason.WRONG_BASE)


def test_a_delta_without_its_policy_is_for_the_same_policy() -> None:
    """A delta that brings no policy document counts only beside the document that it names."""
    log = hourly()
    policy, other = policy_of(log.trusted()), policy_of(log.trusted(), version=2)
    before = log.proven()
    held = take(update_of(policy, before, version=SECONDS - HOUR)).state
    log.mark(4)
    delta = update_of(other, log.proven(), base=base_of(SECONDS - HOUR, other, before))
    refused(lambda: take(delta, held), Reason.WRONG_BASE)


def test_a_delta_after_a_gap_asks_for_the_whole() -> None:
    """Landmarks that do not continue those held are a finding; the log keeps what was proven."""
    log = hourly()
    policy = policy_of(log.trusted())
    held = take(update_of(policy, log.proven(last=2), version=SECONDS - HOUR)).state
    before = log.proven()
    log.mark(4)
    planned = take(update_of(policy, log.proven(), base=base_of(SECONDS - HOUR, policy, before)), held)
    assert reasons(planned) == [Reason.WRONG_BASE]
    assert planned.needs_whole
    assert numbers(planned.state, log) == [1, 2]


def test_an_update_of_the_past_is_refused() -> None:
    """Versions never go back."""
    log = hourly()
    policy = policy_of(log.trusted())
    held = take(update_of(policy, log.proven())).state
    refused(lambda: take(update_of(policy, log.proven(), version=SECONDS - 1), held), Reason.SUPERSEDED)


def test_an_update_of_the_future_is_refused() -> None:
    """A version ahead of the clock is refused, so that nobody can block all later ones with a large number."""
    log = hourly()
    data = update_of(policy_of(log.trusted()), log.proven(), version=SECONDS + 301)
    refused(lambda: take(data), Reason.NOT_YET_VALID)
    take(data, now=NOW + timedelta(seconds=1))


@pytest.mark.parametrize("by", [(), MIRRORS, (TrustAnchorID.parse("32473.1"),)], ids=["nobody", "mirrors", "CA alone"])
def test_a_tree_without_its_quorum_proves_nothing(by: tuple[TrustAnchorID, ...]) -> None:
    """Landmarks need the CA's cosignature and a mirror's; until then the log has none, and the policy counts."""
    log = hourly()
    planned = take(update_of(policy_of(log.trusted()), log.proven(log.tree(by=by))))
    assert reasons(planned) == [Reason.POLICY_NOT_MET]
    assert numbers(planned.state, log) == []
    assert planned.state.policy is not None


def test_a_service_that_is_trusted_needs_no_quorum_a_stranger_needs_proofs() -> None:
    """Hashes without proof count from a service that is trusted, and from nobody else."""
    log = hourly()
    plain = update_of(policy_of(log.trusted()), log.proven(), is_proven=False)
    assert numbers(take(plain, trust=TRUSTING).state, log) == [1, 2, 3]
    planned = take(plain)
    assert (reasons(planned), numbers(planned.state, log)) == ([Reason.NO_CHECKPOINT], [])


def test_a_forged_cosignature_does_not_count() -> None:
    """A signature over another tree is no signature."""
    log = hourly()
    tree = log.tree()
    wrong = replace(tree, signatures=tuple(replace(item, timestamp=item.timestamp + 1) for item in tree.signatures))
    assert reasons(take(update_of(policy_of(log.trusted()), log.proven(wrong)))) == [Reason.POLICY_NOT_MET]


def test_cosigners_may_have_signed_later_trees() -> None:
    """A mirror's signature over a later tree counts for the first one, which is proven to be its beginning."""
    log = hourly()
    first = log.tree(by=(log.ca_id,))
    size = log.size
    log.grow(9)
    later = log.tree(by=MIRRORS[:1], after=size)
    policy = policy_of(log.trusted())
    assert numbers(take(update_of(policy, log.proven(first, later))).state, log) == [1, 2, 3]
    unproven = replace(later, proof=(*later.proof[:-1], bytes(32)))
    planned = take(update_of(policy, log.proven(first, unproven)))
    assert (reasons(planned), numbers(planned.state, log)) == ([Reason.ROOT_MISMATCH], [])


def test_a_frozen_cosigner_counts_up_to_its_freeze_point() -> None:
    """A cosigner's state in the policy decides whether its signature counts."""
    log = hourly()

    def policy(tree_size: int) -> SignedDocument:
        ca = log.trusted()
        frozen = [
            replace(item, state=CosignerState.FROZEN, frozen_at=FreezePoint(1, tree_size))
            if item.cosigner_id in MIRRORS
            else item
            for item in ca.cosigners
        ]
        return policy_of(replace(ca, cosigners=tuple(frozen)))

    assert take(update_of(policy(log.size), log.proven())).findings == ()
    assert reasons(take(update_of(policy(log.size - 1), log.proven()))) == [Reason.POLICY_NOT_MET]


def test_landmarks_beyond_the_cosigned_tree_are_dropped() -> None:
    """When the newest landmark is larger than the cosigned tree, it and all newer ones are dropped, the others stay."""
    log = hourly()
    size = log.landmarks[2].tree_size
    proven = replace(log.proven(log.tree(size), last=2), landmarks=tuple(log.landmarks))
    update = proven_update(log, proven.landmarks, log.proven(log.tree(size), last=2).nodes, proven.trees)
    planned = take(update)
    assert reasons(planned) == [Reason.SUPERSEDED]
    assert numbers(planned.state, log) == [1, 2]


def proven_update(
    log: LandmarkLog, landmarks: tuple[Landmark, ...], nodes: tuple[bytes, ...], trees: tuple[CosignedTree, ...]
) -> bytes:
    """Return an update with these parts, whether they fit or not."""
    policy = policy_of(log.trusted())
    item = LogUpdate(log.ca_id, log.number, landmarks[0].number, landmarks, nodes, trees)
    return unsigned_update(Update(SECONDS, 0, policy.digest, policy.encode(), (item,))).encode()


def test_a_changed_hash_leads_to_another_root() -> None:
    """No hash of a proof can be changed, and no landmark moved."""
    log = hourly()
    proven = log.proven()
    for position in range(len(proven.nodes)):
        nodes = (*proven.nodes[:position], bytes(32), *proven.nodes[position + 1 :])
        assert reasons(take(proven_update(log, proven.landmarks, nodes, proven.trees))) == [Reason.ROOT_MISMATCH]
    moved = (*proven.landmarks[:2], replace(proven.landmarks[2], tree_size=9), proven.landmarks[3])
    assert len(reasons(take(proven_update(log, moved, proven.nodes, proven.trees)))) == 1


def test_a_proof_of_another_log_proves_nothing() -> None:
    """What another CA's log has does not count, although everybody signed it."""
    log, other = hourly(), hourly(ca_id=OTHER_CA, label="other")
    mixed = replace(other.proven(), ca_id=log.ca_id)
    planned = take(update_of(policy_of(log.trusted(), other.trusted()), mixed))
    assert (reasons(planned), numbers(planned.state, log)) == ([Reason.POLICY_NOT_MET], [])


def test_a_lying_log_does_not_hinder_others() -> None:
    """What is wrong with one log is a finding; all other logs are taken."""
    log, liar = hourly(), hourly(ca_id=OTHER_CA)
    policy = policy_of(log.trusted(), liar.trusted())
    planned = take(update_of(policy, liar.proven(liar.tree(by=())), log.proven()))
    assert [(item.ca_id, item.error.reason) for item in planned.findings] == [(OTHER_CA, Reason.POLICY_NOT_MET)]
    assert numbers(planned.state, log) == [1, 2, 3]


def test_an_unknown_ca_is_passed_over() -> None:
    """A service may serve CAs that this relying party does not trust."""
    log, other = hourly(), hourly(ca_id=OTHER_CA)
    planned = take(update_of(policy_of(log.trusted()), log.proven(), other.proven()))
    assert planned.findings == ()
    assert [held.ca_id for held in planned.state.logs] == [log.ca_id]


def test_a_log_never_goes_back() -> None:
    """A newer version with older landmarks is a finding, and what is held stays."""
    log = hourly()
    policy = policy_of(log.trusted())
    held = take(update_of(policy, log.proven(), version=SECONDS - 1)).state
    planned = take(update_of(policy, log.proven(last=2)), held)
    assert (reasons(planned), numbers(planned.state, log)) == ([Reason.SUPERSEDED], [1, 2, 3])


def test_what_was_proven_never_changes() -> None:
    """Two cosigned views of one log are a contradiction, although each of them is proven."""
    log, other = hourly(), hourly(label="other")
    policy = policy_of(log.trusted())
    held = take(update_of(policy, log.proven(), version=SECONDS - 1)).state
    planned = take(update_of(policy, other.proven()), held)
    assert (reasons(planned), planned.state.logs) == ([Reason.EQUIVOCATION], held.logs)


def test_of_too_many_landmarks_the_newest_are_dropped() -> None:
    """The bound holds over all logs of a CA, and what goes is the newest of the newest log."""
    log = hourly(4)
    second = hourly(3, number=2)
    rules = [LandmarkRules(log.ca_id, max_active=5)]
    planned = take(update_of(policy_of(log.trusted(), rules=rules), second.proven(), log.proven()))
    assert reasons(planned) == [Reason.TOO_LARGE]
    assert (numbers(planned.state, log), numbers(planned.state, second)) == ([1, 2, 3, 4], [1])
    rules = [LandmarkRules(log.ca_id, max_active=2)]
    planned = take(update_of(policy_of(log.trusted(), rules=rules), second.proven(), log.proven()))
    assert (numbers(planned.state, log), numbers(planned.state, second)) == ([1, 2], [])


def test_a_new_cosigner_policy_asks_for_new_proofs() -> None:
    """When a CA's cosigners change, its landmarks are proven anew: a delta is refused, a whole update counts."""
    log = hourly()
    before = log.proven()
    first, strict = policy_of(log.trusted()), policy_of(log.trusted(at_least=2), version=2)
    held = take(update_of(first, before, version=SECONDS - HOUR)).state
    base = base_of(SECONDS - HOUR, first, before)
    refused(lambda: take(update_of(strict, base=base), held), Reason.WRONG_BASE)
    short = log.proven(log.tree(by=(log.ca_id, MIRRORS[0])))
    planned = take(update_of(strict, short), held)
    assert (reasons(planned), numbers(planned.state, log)) == ([Reason.POLICY_NOT_MET], [])
    assert numbers(take(update_of(strict, log.proven()), held).state, log) == [1, 2, 3]


def test_expiry_is_judged_when_it_matters() -> None:
    """An expired landmark leaves with the next update; until then its expiry stands in the store and decides."""
    log = LandmarkLog()
    log.mark(5, NOW + timedelta(hours=1))
    log.mark(6, NOW + timedelta(hours=2))
    policy = policy_of(log.trusted())
    state = take(update_of(policy, log.proven())).state
    expiries = {trusted.landmark: trusted.expiry for trusted in trust_store_of(state, NOW).cas[0].trusted_subtrees}
    assert expiries == {1: SECONDS + HOUR, 2: SECONDS + 2 * HOUR}
    later = NOW + timedelta(hours=1, seconds=1)
    again = take(update_of(policy, log.proven(), version=SECONDS + 9), state, now=later)
    assert numbers(again.state, log) == [2]


def test_landmarks_are_a_run_of_their_draft() -> None:
    """Landmarks that would never expire, or do not grow, are a finding where the CA's draft has others."""
    log = hourly()
    proven = log.proven()
    endless = tuple(replace(mark, expiry=None) for mark in proven.landmarks)
    planned = take(proven_update(log, endless, proven.nodes, proven.trees))
    assert (reasons(planned), numbers(planned.state, log)) == ([Reason.BAD_LANDMARKS], [])
    twice = (*proven.landmarks, replace(proven.landmarks[-1], number=4))
    planned = take(proven_update(log, twice, proven.nodes, proven.trees))
    assert (reasons(planned), numbers(planned.state, log)) == ([Reason.BAD_ORDER], [])


def test_a_log_that_is_not_held_cannot_be_continued() -> None:
    """A run that continues what nobody holds is a finding, and asks for the whole update."""
    log = hourly()
    policy = policy_of(log.trusted())
    held = take(update_of(policy, version=SECONDS - HOUR)).state
    item = replace(make_update(SECONDS, policy, [(log.proven(), log.proven().folded(HASHER))]).logs[0], oldest=1)
    update = Update(SECONDS, SECONDS - HOUR, policy.digest, b"", (item,))
    planned = take(unsigned_update(update).encode(), held)
    assert (reasons(planned), planned.needs_whole, numbers(planned.state, log)) == ([Reason.WRONG_BASE], True, [])
