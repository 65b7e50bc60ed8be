"""Damage: no changed bit of a certificate verifies, unless it lies in a signature that nobody needs."""

import random
from collections.abc import Callable, Iterator
from functools import lru_cache

import pytest
from tests.judging import CA, FIRST_8, MIRROR, WITNESS, small_ca
from tests.makers import GREASE_ID, HOST, NOW, SmallCA, policy
from tests.mutation import grown_mutants, mutants

from mtc.cert import Certificate, SubtreeSignature
from mtc.errors import Error
from mtc.ids import REVISIONS, DraftRevision, TrustAnchorID
from mtc.kernel import Kernel
from mtc.merkle import Subtree
from mtc.trust import TrustStore, VerifiedSignature, verify_certificate, verify_signature, verify_signatures


@pytest.fixture(params=["some", pytest.param("all", marks=pytest.mark.slow)])
def bits(request: pytest.FixtureRequest) -> int:
    """Return how many bits of each byte are flipped, one at a time: another one in each byte, or all."""
    return 1 if request.param == "some" else 8


def flips(der: bytes, bits: int) -> Iterator[tuple[int, bytes]]:
    """Yield (byte, damaged certificate) for some bits of each byte, and for each byte all of its bits at once."""
    for at, byte in enumerate(der):
        for mask in (*(1 << (at + number) % 8 for number in range(bits)), 255):
            yield at, b"".join((der[:at], bytes((byte ^ mask,)), der[at + 1 :]))


def survivors(der: bytes, store: TrustStore, bits: int) -> dict[int, int]:
    """Return how many flips of each byte still verify; no flip may end in anything but a verdict of ours."""
    damaged = list(flips(der, bits))
    found: dict[int, int] = {}
    for (at, _), result in zip(damaged, verify_signatures([item for _, item in damaged], store, NOW), strict=True):
        if isinstance(result, VerifiedSignature):
            assert result.certificate.tbs == Certificate.parse(der).tbs
            found[at] = found.get(at, 0) + 1
    return found


def place_of(der: bytes, *parts: bytes) -> range:
    """Return the bytes of `parts`, which stand one behind the other, once in the certificate."""
    whole = b"".join(parts)
    assert der.count(whole) == 1
    return range(der.index(whole), der.index(whole) + len(whole))


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=REVISIONS)
@pytest.mark.parametrize("hash_name", ["sha256", "sm3"])
def test_no_bit_of_a_landmark_relative_certificate_can_change(
    kernel: Kernel, revision: DraftRevision, hash_name: str, bits: int
) -> None:
    """Every byte of a signatureless certificate is covered: nothing of it may change, in any revision."""
    ca = SmallCA(revision=revision, hash_name=hash_name)
    store = ca.store(kernel, subtrees=[ca.trusted_subtree(0, 8), ca.trusted_subtree(8, 13)])
    der = ca.certificate(3, FIRST_8)
    assert verify_signature(der, store, NOW).index == 3
    assert survivors(der, store, bits) == {}


def test_no_bit_can_change_where_everything_is_trusted(kernel: Kernel, bits: int) -> None:
    """Even with every subtree of the log trusted, and every entry in it, no flip leads to another certificate."""
    ca = small_ca()
    every = [
        ca.trusted_subtree(start, end)
        for start in range(13)
        for end in range(start + 1, 14)
        if Subtree.is_valid(start, end)
    ]
    store = ca.store(kernel, subtrees=every)
    for der in (ca.certificate(3, FIRST_8), ca.certificate(12, Subtree(12, 13)), ca.certificate(0)):
        assert survivors(der, store, bits) == {}


def test_the_path_check_covers_no_less(kernel: Kernel, bits: int) -> None:
    """`verify_certificate` refuses every flip too, with an error of ours."""
    ca = small_ca()
    store = ca.store(kernel, subtrees=[ca.trusted_subtree(0, 8)])
    der = ca.certificate(3, FIRST_8)
    verify_certificate(der, store, NOW, name=HOST)
    for _, damaged in flips(der, bits):
        with pytest.raises(Error):
            verify_certificate(damaged, store, NOW, name=HOST)


def test_grease_is_outside_of_what_is_covered(kernel: Kernel, bits: int) -> None:
    """Of a landmark-relative certificate with GREASE only the GREASE may change: its ID and its bytes."""
    ca = small_ca()
    grease = SubtreeSignature(GREASE_ID, b"any bytes at all")
    der = ca.certificate(3, proof=ca.proof(3, FIRST_8).with_signatures(grease))
    found = survivors(der, ca.store(kernel, subtrees=[ca.trusted_subtree(0, 8)]), bits)
    name = place_of(der, bytes((len(GREASE_ID),)), GREASE_ID)[1:]
    body = place_of(der, len(grease.signature).to_bytes(2, "big"), grease.signature)[2:]
    assert set(found) == {*name, *body}
    assert set(found.values()) == {bits + 1}


def signature_places(der: bytes, proof_signatures: tuple[SubtreeSignature, ...], cosigner: str) -> set[int]:
    """Return the bytes of a cosigner's ID and signature."""
    (item,) = (item for item in proof_signatures if item.cosigner_id == TrustAnchorID.parse(cosigner).binary)
    entry = place_of(
        der, bytes((len(item.cosigner_id),)), item.cosigner_id, len(item.signature).to_bytes(2, "big"), item.signature
    )
    size = len(item.cosigner_id)
    return {*entry[1 : 1 + size], *entry[3 + size :]}


@lru_cache
def cosigned(algorithm: str) -> tuple[SmallCA, bytes, tuple[SubtreeSignature, ...]]:
    """Return a CA whose cosigners all have one algorithm, and a certificate cosigned by two of them, with its proof."""
    ca = SmallCA(algorithm=algorithm, cosigners={WITNESS: algorithm, MIRROR: algorithm})
    proof = ca.proof(3, FIRST_8, [CA, WITNESS])
    return ca, ca.certificate(3, proof=proof), proof.signatures


@pytest.mark.parametrize("algorithm", ["ed25519", "ecdsa-p256-sha256"])
def test_only_signatures_that_nobody_needs_can_change(kernel: Kernel, algorithm: str, bits: int) -> None:
    """Where the CA's cosignature suffices, only the witness's ID and signature may change; both required: nothing."""
    ca, der, signatures = cosigned(algorithm)
    unneeded = signature_places(der, signatures, WITNESS)
    found = survivors(der, ca.store(kernel), bits)
    assert set(found) <= unneeded
    assert len(found) > len(unneeded) - 4
    assert survivors(der, ca.store(kernel, policy=policy(CA, WITNESS)), bits) == {}


def test_every_byte_of_ml_dsa_signatures_is_covered(kernel: Kernel) -> None:
    """Both ML-DSA-44 cosignatures required: one flip in each byte of the certificate, none verifies."""
    ca, der, _ = cosigned("ml-dsa-44")
    store = ca.store(kernel, policy=policy(CA, WITNESS))
    verify_signature(der, store, NOW)
    damaged = [der[:at] + bytes((byte ^ 1 << at % 8,)) + der[at + 1 :] for at, byte in enumerate(der)]
    assert all(isinstance(result, Error) for result in verify_signatures(damaged, store, NOW))


def test_a_quorum_survives_what_it_does_not_need(kernel: Kernel, bits: int) -> None:
    """One of two required: damage to either signature is survived, damage to anything else is not."""
    ca, der, signatures = cosigned("ed25519")
    store = ca.store(kernel, policy=policy(of=[CA, WITNESS], at_least=1))
    found = survivors(der, store, bits)
    assert set(found) <= signature_places(der, signatures, WITNESS) | signature_places(der, signatures, CA)
    assert set(found) & signature_places(der, signatures, CA)
    assert set(found) & signature_places(der, signatures, WITNESS)


@pytest.mark.parametrize("damage", [mutants, grown_mutants], ids=["bytes", "structure"])
def test_larger_damage_never_makes_another_certificate(
    kernel: Kernel, damage: Callable[[bytes, random.Random, int], Iterator[bytes]]
) -> None:
    """Cuts, copies and changed structure: what verifies nevertheless is the same TBSCertificate."""
    ca, der, _ = cosigned("ed25519")
    store = ca.store(kernel, subtrees=[ca.trusted_subtree(0, 4), ca.trusted_subtree(8, 13)])
    chance = random.Random(7)
    sound = [der, ca.certificate(3, Subtree(0, 4)), ca.certificate(9, Subtree(8, 13))]
    identities = {Certificate.parse(item).tbs for item in sound}
    damaged = [item for origin in sound for item in damage(origin, chance, 1500)]
    survived = 0
    for item, result in zip(damaged, verify_signatures(damaged, store, NOW), strict=True):
        if isinstance(result, VerifiedSignature):
            assert Certificate.parse(item).tbs in identities
            survived += 1
    assert survived < len(damaged) // 4
