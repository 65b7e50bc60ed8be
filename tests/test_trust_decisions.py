"""Verification step by step, steps 11 and 12: trusted subtrees, cosignatures and policy, on both kernels."""

from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import pytest
from tests.judging import (
    CA,
    EXPIRY,
    FIRST_8,
    MIRROR,
    WITNESS,
    accepted,
    by,
    cosigned,
    landmark_der,
    refused,
    small_ca,
    standalone_der,
    trusting,
)
from tests.makers import (
    ALGORITHMS,
    GREASE_ID,
    NOW,
    SmallCA,
    cosigned_message,
    make_key,
    policy,
)

from mtc.cert import SubtreeSignature
from mtc.errors import Reason, Rejected
from mtc.ids import TrustAnchorID
from mtc.kernel import Kernel
from mtc.merkle import Subtree
from mtc.trust import (
    Cosigner,
    CosignerPolicy,
    CosignerState,
    Form,
    FreezePoint,
    TrustedSubtree,
)

# Step 11: trusted subtrees.


def test_step_11_a_mismatch_never_falls_back(kernel: Kernel) -> None:
    """Step 11: when the hash of a trusted subtree is another, signatures of everybody cannot mend it."""
    ca = small_ca()
    wrong = TrustedSubtree(1, FIRST_8, bytes(32))
    der = ca.certificate(3, FIRST_8, [CA, WITNESS, MIRROR])
    accepted(der, ca.store(kernel), Form.STANDALONE)
    error = refused(der, ca.store(kernel, subtrees=[wrong]), Reason.TRUSTED_SUBTREE_MISMATCH, Rejected)
    assert error.facts["expected"] == "00" * 32
    assert error.facts["got"] == ca.subtree_hash(FIRST_8).hex()


def test_step_11_the_form_is_how_it_succeeded(kernel: Kernel) -> None:
    """Step 11: a certificate with signatures in a trusted subtree is landmark-relative, and they are not looked at."""
    ca = small_ca()
    rubbish = SubtreeSignature(ca.anchor.binary, b"rubbish")
    der = ca.certificate(3, proof=ca.proof(3, FIRST_8).with_signatures(rubbish))
    assert accepted(der, trusting(kernel), Form.LANDMARK_RELATIVE).cosigners == ()
    accepted(standalone_der(), trusting(kernel), Form.LANDMARK_RELATIVE)
    refused(der, cosigned(kernel), Reason.POLICY_NOT_MET, Rejected)


def test_step_11_grease_may_accompany_a_landmark_proof(kernel: Kernel) -> None:
    """Step 11: an entry of a cosigner that never was changes nothing in either form."""
    ca = small_ca()
    grease = SubtreeSignature(GREASE_ID, bytes(17))
    accepted(
        ca.certificate(3, proof=ca.proof(3, FIRST_8).with_signatures(grease)), trusting(kernel), Form.LANDMARK_RELATIVE
    )
    accepted(
        ca.certificate(3, proof=ca.proof(3, FIRST_8, [CA]).with_signatures(grease)), cosigned(kernel), Form.STANDALONE
    )
    refused(
        ca.certificate(3, proof=ca.proof(3, FIRST_8).with_signatures(grease)),
        cosigned(kernel),
        Reason.POLICY_NOT_MET,
        Rejected,
    )


@pytest.mark.parametrize("trusted", [(0, 4), (0, 13), (8, 13), (3, 4)])
def test_step_11_only_the_same_range_counts(kernel: Kernel, trusted: tuple[int, int]) -> None:
    """Step 11: a trusted subtree of another range says nothing, even if it holds the entry."""
    store = small_ca().store(kernel, subtrees=[small_ca().trusted_subtree(*trusted)])
    refused(landmark_der(), store, Reason.POLICY_NOT_MET, Rejected)
    accepted(standalone_der(), store, Form.STANDALONE)


def test_step_11_the_log_of_a_trusted_subtree_counts(kernel: Kernel) -> None:
    """Step 11: a trusted subtree belongs to one log of the CA."""
    ca = small_ca()
    other = TrustedSubtree(2, FIRST_8, bytes(32))
    refused(landmark_der(), ca.store(kernel, subtrees=[other]), Reason.POLICY_NOT_MET, Rejected)
    accepted(landmark_der(), ca.store(kernel, subtrees=[other, ca.trusted_subtree(0, 8)]), Form.LANDMARK_RELATIVE)


@pytest.mark.parametrize(
    ("now", "is_trusted"),
    [
        (NOW - timedelta(days=1), True),
        (NOW, True),
        (NOW + timedelta(microseconds=1), True),
        (NOW + timedelta(microseconds=999_999), True),
        (NOW + timedelta(seconds=1), False),
        (NOW + timedelta(days=2), False),
    ],
)
def test_step_11_a_trusted_subtree_expires(
    kernel: Kernel,
    now: datetime,
    is_trusted: bool,  # noqa: FBT001 - a row
) -> None:
    """Step 11: a subtree is trusted through the second of its expiry; afterwards it is as if it were not there."""
    ca = small_ca()
    store = ca.store(kernel, subtrees=[ca.trusted_subtree(0, 8, landmark=4, expiry=EXPIRY)])
    if is_trusted:
        verified = accepted(landmark_der(), store, Form.LANDMARK_RELATIVE, now)
        assert verified.trusted_subtree is not None
        assert (verified.trusted_subtree.landmark, verified.trusted_subtree.expiry) == (4, EXPIRY)
    else:
        refused(landmark_der(), store, Reason.POLICY_NOT_MET, Rejected, now)
        accepted(standalone_der(), store, Form.STANDALONE, now)


def test_step_11_an_expired_wrong_hash_does_no_harm(kernel: Kernel) -> None:
    """Step 11: an expired subtree with another hash does not refuse what is cosigned."""
    wrong = TrustedSubtree(1, FIRST_8, bytes(32), expiry=EXPIRY - 1)
    accepted(standalone_der(), small_ca().store(kernel, subtrees=[wrong]), Form.STANDALONE)
    refused(
        standalone_der(),
        small_ca().store(kernel, subtrees=[replace(wrong, expiry=EXPIRY)]),
        Reason.TRUSTED_SUBTREE_MISMATCH,
        Rejected,
    )


def test_step_11_a_subtree_of_two_landmarks_is_trusted_as_long_as_either(kernel: Kernel) -> None:
    """Step 11: the later expiry counts, in any order; no expiry is later than any."""
    ca = small_ca()
    early, late = (ca.trusted_subtree(0, 8, expiry=EXPIRY + days * 86400) for days in (-1, 1))
    never = ca.trusted_subtree(0, 8)
    for subtrees in ([early, late], [late, early], [early, never], [never, early]):
        accepted(landmark_der(), ca.store(kernel, subtrees=subtrees), Form.LANDMARK_RELATIVE)
    refused(landmark_der(), ca.store(kernel, subtrees=[early]), Reason.POLICY_NOT_MET, Rejected)


def test_step_11_many_landmarks(kernel: Kernel) -> None:
    """Step 11: among many trusted subtrees the right one is found."""
    ca = small_ca()
    subtrees = [TrustedSubtree(log, Subtree(at, at + 1), bytes(32)) for log in (1, 2) for at in range(20, 190)]
    accepted(landmark_der(), ca.store(kernel, subtrees=[*subtrees, ca.trusted_subtree(0, 8)]), Form.LANDMARK_RELATIVE)


# Step 12: cosignatures and policy.


@pytest.mark.parametrize(
    ("wanted", "signed", "is_met"),
    [
        (policy(CA), [CA], True),
        (policy(CA), [WITNESS, MIRROR], False),
        (policy(CA, WITNESS), [CA, WITNESS], True),
        (policy(CA, WITNESS), [CA, MIRROR], False),
        (policy(CA, of=[WITNESS, MIRROR], at_least=1), [CA, MIRROR], True),
        (policy(CA, of=[WITNESS, MIRROR], at_least=1), [CA, WITNESS, MIRROR], True),
        (policy(CA, of=[WITNESS, MIRROR], at_least=1), [CA], False),
        (policy(CA, of=[WITNESS, MIRROR], at_least=1), [WITNESS, MIRROR], False),
        (policy(CA, of=[WITNESS, MIRROR], at_least=2), [CA, MIRROR], False),
        (policy(CA, of=[WITNESS, MIRROR], at_least=2), [CA, WITNESS, MIRROR], True),
        (policy(CA, of=[WITNESS, MIRROR]), [CA], True),
        (policy(of=[CA, WITNESS, MIRROR], at_least=2), [WITNESS, MIRROR], True),
        (policy(of=[CA, WITNESS, MIRROR], at_least=2), [WITNESS], False),
        (policy(CA, of=[CA, WITNESS], at_least=1), [CA], True),
        (policy(CA, of=[CA, WITNESS], at_least=2), [CA], False),
    ],
)
def test_step_12_the_policy_decides(
    kernel: Kernel,
    wanted: CosignerPolicy,
    signed: list[str],
    is_met: bool,  # noqa: FBT001 - a row
) -> None:
    """Step 12: all of `require`, and `at_least` of the quorum; a cosigner may stand in both."""
    store = cosigned(kernel, policy=wanted)
    if is_met:
        verified = accepted(by(*signed), store, Form.STANDALONE)
        assert {cosigner.name for cosigner in verified.cosigners} <= set(signed)
    else:
        error = refused(by(*signed), store, Reason.POLICY_NOT_MET, Rejected)
        assert (error.facts["ca"], error.facts["log"], error.facts["index"]) == (CA, 1, 3)


def test_step_12_nobody_signed(kernel: Kernel) -> None:
    """Step 12: a certificate without signatures and without a trusted subtree is refused; it says who is missing."""
    error = refused(landmark_der(), cosigned(kernel, policy=policy(CA, WITNESS)), Reason.POLICY_NOT_MET, Rejected)
    assert CA in error.message
    assert WITNESS in error.message


def test_step_12_unknown_cosigners_are_ignored(kernel: Kernel) -> None:
    """Step 12: signatures of cosigners that the store does not know neither help nor harm."""
    ca = small_ca()
    only_ca = [ca.cosigner(CA)]
    accepted(by(CA, WITNESS, MIRROR), cosigned(kernel, cosigners=only_ca), Form.STANDALONE)
    refused(by(WITNESS, MIRROR), cosigned(kernel, cosigners=only_ca), Reason.POLICY_NOT_MET, Rejected)
    for grease in (b"\x00", b"\x80\x80", b"\xff" * 32, GREASE_ID):
        proof = ca.proof(3, FIRST_8, [CA]).with_signatures(SubtreeSignature(grease, b""))
        accepted(ca.certificate(3, proof=proof), cosigned(kernel), Form.STANDALONE)


def test_step_12_a_signature_that_fails_is_not_there(kernel: Kernel) -> None:
    """Step 12: a known cosigner's bad signature does not spoil what others meet, and does not count itself."""
    ca = small_ca()
    bad = ca.sign(WITNESS, FIRST_8, signer=make_key("ed25519", 999))
    proof = ca.proof(3, FIRST_8, [CA, MIRROR]).with_signatures(bad)
    der = ca.certificate(3, proof=proof)
    accepted(der, cosigned(kernel), Form.STANDALONE)
    quorum = policy(CA, of=[WITNESS, MIRROR], at_least=1)
    verified = accepted(der, cosigned(kernel, policy=quorum), Form.STANDALONE)
    assert [cosigner.name for cosigner in verified.cosigners] == [CA, MIRROR]
    error = refused(der, cosigned(kernel, policy=policy(CA, WITNESS)), Reason.POLICY_NOT_MET, Rejected)
    assert error.facts["failed"] == (WITNESS,)


@pytest.mark.parametrize("signature", [b"", b"x", bytes(64), bytes(65535)])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_step_12_rubbish_is_no_signature(kernel: Kernel, signature: bytes, algorithm: str) -> None:
    """Step 12: any bytes in the place of a signature of any algorithm are refused politely."""
    ca = SmallCA(algorithm=algorithm)
    proof = ca.proof(3, FIRST_8).with_signatures(SubtreeSignature(ca.anchor.binary, signature))
    refused(ca.certificate(3, proof=proof), ca.store(kernel), Reason.POLICY_NOT_MET, Rejected)


def message_with(kernel: Kernel, **changes: Any) -> None:  # noqa: ANN401 - arguments of the message
    """Assert that a CA cosignature over a message with one part changed is refused."""
    ca = small_ca()
    fields: dict[str, Any] = {
        "cosigner": CA,
        "log": "32473.1.0.1",
        "subtree": FIRST_8,
        "digest": ca.subtree_hash(FIRST_8),
        "timestamp": 0,
    }
    sound = fields == fields | changes
    signature = ca.key(CA).sign_now(cosigned_message(**(fields | changes)))
    proof = ca.proof(3, FIRST_8).with_signatures(SubtreeSignature(ca.anchor.binary, signature))
    der = ca.certificate(3, proof=proof)
    if sound:
        accepted(der, cosigned(kernel), Form.STANDALONE)
    else:
        refused(der, cosigned(kernel), Reason.POLICY_NOT_MET, Rejected)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"cosigner": WITNESS},
        {"cosigner": "32473.10"},
        {"log": "32473.1.0.2"},
        {"log": "32473.1"},
        {"log": "32473.1.1.1"},
        {"subtree": Subtree(0, 13)},
        {"subtree": Subtree(8, 16)},
        {"digest": bytes(32)},
        {"timestamp": 1},
        {"timestamp": EXPIRY},
    ],
    ids=lambda changes: "+".join(changes) or "sound",
)
def test_step_12_signatures_cover_the_whole_message(kernel: Kernel, changes: dict[str, Any]) -> None:
    """Step 12: cosigner, log, interval, hash and the timestamp 0 are all covered; a signature for another is none."""
    message_with(kernel, **changes)


def test_step_12_a_signature_of_one_cosigner_is_not_anothers(kernel: Kernel) -> None:
    """Step 12: a good signature under another cosigner's ID does not count for it, with the same key either."""
    ca = small_ca()
    stolen = SubtreeSignature(TrustAnchorID.parse(WITNESS).binary, ca.sign(MIRROR, FIRST_8).signature)
    der = ca.certificate(3, proof=ca.proof(3, FIRST_8, [CA]).with_signatures(stolen))
    refused(der, cosigned(kernel, policy=policy(CA, WITNESS)), Reason.POLICY_NOT_MET, Rejected)
    twins = [ca.cosigner(CA), ca.cosigner(MIRROR), Cosigner(TrustAnchorID.parse(WITNESS), ca.cosigner(MIRROR).key)]
    refused(der, cosigned(kernel, cosigners=twins, policy=policy(CA, WITNESS)), Reason.POLICY_NOT_MET, Rejected)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("hash_name", ["sha256", "sm3"])
def test_step_12_every_algorithm_cosigns(kernel: Kernel, algorithm: str, hash_name: str) -> None:
    """Step 12: each listed algorithm works as the CA cosigner's and as another's, over both hashes."""
    ca = SmallCA(algorithm=algorithm, cosigners={WITNESS: algorithm}, hash_name=hash_name)
    store = ca.store(kernel, policy=policy(CA, WITNESS))
    verified = accepted(ca.certificate(3, FIRST_8, [CA, WITNESS]), store, Form.STANDALONE)
    assert {cosigner.key.algorithm.name for cosigner in verified.cosigners} == {algorithm}
    refused(ca.certificate(3, FIRST_8, [CA]), store, Reason.POLICY_NOT_MET, Rejected)


def test_step_12_all_algorithms_in_one_certificate(kernel: Kernel) -> None:
    """Step 12: cosigners of all algorithms may sign the same subtree."""
    others = {f"32473.9.{number}": algorithm for number, algorithm in enumerate(ALGORITHMS, 1)}
    ca = SmallCA(cosigners=others)
    der = ca.certificate(3, FIRST_8, [CA, *others])
    verified = accepted(der, ca.store(kernel, policy=policy(CA, *others)), Form.STANDALONE)
    assert len(verified.cosigners) == 7


def with_state(state: CosignerState, frozen_at: FreezePoint | None = None) -> list[Cosigner]:
    """Return the cosigners with the witness in a state."""
    ca = small_ca()
    witness = replace(ca.cosigner(WITNESS), state=state, frozen_at=frozen_at)
    return [ca.cosigner(CA), witness, ca.cosigner(MIRROR)]


@pytest.mark.parametrize(
    ("state", "frozen_at", "counts"),
    [
        (CosignerState.USABLE, None, True),
        (CosignerState.REMOVED, None, False),
        (CosignerState.FROZEN, FreezePoint(1, 8), True),
        (CosignerState.FROZEN, FreezePoint(1, 9), True),
        (CosignerState.FROZEN, FreezePoint(1, 7), False),
        (CosignerState.FROZEN, FreezePoint(1, 0), False),
        (CosignerState.FROZEN, FreezePoint(2, 0), True),
        (CosignerState.FROZEN, FreezePoint(65535, 0), True),
    ],
)
def test_step_12_cosigners_have_a_state(
    kernel: Kernel,
    state: CosignerState,
    frozen_at: FreezePoint | None,
    counts: bool,  # noqa: FBT001 - a row
) -> None:
    """Step 12: a removed cosigner never counts, a frozen one up to its tree size and for the logs before."""
    cosigners = with_state(state, frozen_at)
    store = cosigned(kernel, cosigners=cosigners, policy=policy(CA, WITNESS))
    if counts:
        accepted(by(CA, WITNESS), store, Form.STANDALONE)
    else:
        refused(by(CA, WITNESS), store, Reason.POLICY_NOT_MET, Rejected)
    optional = cosigned(kernel, cosigners=cosigners)
    accepted(by(CA, WITNESS), optional, Form.STANDALONE)
    quorum = cosigned(kernel, cosigners=cosigners, policy=policy(CA, of=[WITNESS, MIRROR], at_least=1))
    accepted(by(CA, WITNESS, MIRROR), quorum, Form.STANDALONE)


def test_step_12_a_freeze_point_is_of_a_log(kernel: Kernel) -> None:
    """Step 12: a cosigner frozen in log 2 counts for log 1 whole, for log 2 up to the size, for log 3 not."""
    frozen = with_state(CosignerState.FROZEN, FreezePoint(2, 8))
    for log_number, end, counts in ((1, 13, True), (2, 8, True), (2, 13, False), (3, 1, False)):
        ca = SmallCA(log_number=log_number)
        der = ca.certificate(0, Subtree(0, end), [CA, WITNESS])
        store = ca.store(kernel, cosigners=frozen, policy=policy(CA, WITNESS))
        if counts:
            accepted(der, store, Form.STANDALONE)
        else:
            refused(der, store, Reason.POLICY_NOT_MET, Rejected)


def test_step_12_states_do_not_touch_trusted_subtrees(kernel: Kernel) -> None:
    """Step 12: a removed CA cosigner refuses standalone certificates; what matches a trusted subtree still verifies."""
    ca = small_ca()
    removed = [replace(ca.cosigner(CA), state=CosignerState.REMOVED)]
    accepted(standalone_der(), trusting(kernel, cosigners=removed), Form.LANDMARK_RELATIVE)
    refused(standalone_der(), cosigned(kernel, cosigners=removed), Reason.POLICY_NOT_MET, Rejected)
