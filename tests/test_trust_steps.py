"""Verification step by step, steps 1 to 10: each has the tests that it alone can fail, on both kernels.

The steps are those of the draft's "Verifying Certificate Signatures".
"""

from dataclasses import replace
from typing import Any

import pytest
from tests.judging import (
    CA,
    FIRST_8,
    WITNESS,
    accepted,
    cosigned,
    landmark_der,
    raw,
    refused,
    small_ca,
    standalone_der,
    trusting,
)
from tests.makers import (
    NOT_AFTER,
    NOT_BEFORE,
    NOW,
    Leaf,
    SmallCA,
    certify,
    cosigned_message,
)

from mtc.cert import EntryExtension, LogEntry, SerialRanges, SubtreeSignature
from mtc.errors import Error, FormatError, ProofError, Reason, Rejected
from mtc.ids import DEFAULT_REVISION, REVISIONS, SERIAL_LIMIT, DraftRevision, TrustAnchorID, encode_ca_name
from mtc.kernel import Kernel
from mtc.merkle import Subtree
from mtc.trust import (
    Form,
    VerifiedSignature,
    verify_certificate,
    verify_signatures,
)
from mtc.wire import encode_integer, encode_oid, encode_sequence


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=REVISIONS)
@pytest.mark.parametrize("hash_name", ["sha256", "sm3"])
@pytest.mark.parametrize("log_number", [1, 2, 0x8000, 65535])
def test_both_forms_verify(kernel: Kernel, revision: DraftRevision, hash_name: str, log_number: int) -> None:
    """Every revision, hash and log number: both forms verify, and say what was verified."""
    ca = SmallCA(revision=revision, hash_name=hash_name, log_number=log_number)
    store = ca.store(kernel, subtrees=[ca.trusted_subtree(0, 8)])
    for der, form, subtree in (
        (ca.certificate(3, FIRST_8), Form.LANDMARK_RELATIVE, FIRST_8),
        (ca.certificate(10, Subtree(8, 13), [CA]), Form.STANDALONE, Subtree(8, 13)),
    ):
        verified = accepted(der, store, form)
        assert verified.der == der
        assert verified.ca.ca_id == ca.anchor
        assert verified.log_number == log_number
        assert verified.index == (3 if form is Form.LANDMARK_RELATIVE else 10)
        assert verified.serial == log_number << 48 | verified.index
        assert verified.subtree == subtree
        assert verified.subtree_hash == ca.subtree_hash(subtree)
        assert verified.entry_hash == ca.hasher.leaf(ca.log_entries[verified.index].encode(revision))
        assert (verified.not_before, verified.not_after) == (NOT_BEFORE, NOT_AFTER)
        assert verified.certificate.der == der
        assert f"index={verified.index}" in repr(verified)
        assert [cosigner.name for cosigner in verified.cosigners] == ([CA] if form is Form.STANDALONE else [])
        assert (verified.trusted_subtree is None) == (form is Form.STANDALONE)


# Step 1: the signature algorithm is id-alg-mtcProof without parameters, inside and outside.


@pytest.mark.parametrize(
    ("algorithm", "reason"),
    [
        (encode_sequence(encode_oid("1.2.840.10045.4.3.2")), Reason.NOT_MTC),
        (encode_sequence(encode_oid(DEFAULT_REVISION.proof_oid), b"\x05\x00"), Reason.NOT_MTC),
        (REVISIONS["plants-06"].proof_algorithm, Reason.NOT_MTC),
        (encode_sequence(), Reason.NOT_MTC),
    ],
)
def test_step_1_the_algorithm_is_mtc_proof(kernel: Kernel, algorithm: bytes, reason: Reason) -> None:
    """Step 1: another algorithm, another draft's, or one with parameters is refused."""
    parts = replace(small_ca().parts(3, FIRST_8), signature=algorithm)
    refused(parts.encode(), trusting(kernel), reason, Rejected)


def test_step_1_both_algorithms_are_equal(kernel: Kernel) -> None:
    """Step 1, with RFC 5280: the outer algorithm is the inner one."""
    for outer in (encode_sequence(encode_oid("1.2.3")), REVISIONS["plants-06"].proof_algorithm):
        parts = replace(small_ca().parts(3, FIRST_8), outer_signature=outer)
        refused(parts.encode(), trusting(kernel), Reason.ALGORITHM_MISMATCH, FormatError)


# Step 2: the signature value is an MTCProof.


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"tail": b"\x00"}, Reason.TRAILING_DATA),
        ({"width": 2}, Reason.TRUNCATED),
        ({"inclusion_proof": bytes(95)}, Reason.BAD_PROOF_LENGTH),
        ({"extensions": b"\x00"}, Reason.TRUNCATED),
        ({"signatures": ((b"\x02", b""), (b"\x01", b""))}, Reason.BAD_ORDER),
        ({"signatures": ((b"\x01\x01", b""), (b"\x02", b""))}, Reason.BAD_ORDER),
        ({"signatures": ((b"\x02", b"a"), (b"\x02", b"b"))}, Reason.DUPLICATE),
        ({"signatures": ((b"", b"a"),)}, Reason.BAD_TRUST_ANCHOR_ID),
        ({"signatures": ((b"\x01" * 33, b"a"),)}, Reason.BAD_TRUST_ANCHOR_ID),
    ],
)
def test_step_2_the_proof_parses(kernel: Kernel, changes: dict[str, Any], reason: Reason) -> None:
    """Step 2: trailing bytes, a wrong width, part of a hash, misorder and repetition are refused."""
    refused(raw(**changes), trusting(kernel), reason, FormatError)


def test_step_2_the_bit_string_is_whole(kernel: Kernel) -> None:
    """Step 2: the signature value has no unused bits, and is there."""
    parts = small_ca().parts(3, FIRST_8)
    for damaged, reason in (
        (replace(parts, unused_bits=b"\x01"), Reason.BAD_BIT_STRING),
        (replace(parts, unused_bits=b"\x07"), Reason.BAD_BIT_STRING),
        (replace(parts, unused_bits=b"", proof=b""), Reason.BAD_BIT_STRING),
        (replace(parts, proof=b""), Reason.TRUNCATED),
        (replace(parts, proof=parts.proof + b"\x00"), Reason.TRAILING_DATA),
        (replace(parts, proof=parts.proof[:-1]), Reason.TRUNCATED),
    ):
        refused(damaged.encode(), trusting(kernel), reason, FormatError)


# Steps 3 to 6: the serial number.


@pytest.mark.parametrize(
    ("serial", "reason"),
    [
        (1 << 64, Reason.SERIAL_OUT_OF_RANGE),
        (1 << 64 | 1 << 48 | 3, Reason.SERIAL_OUT_OF_RANGE),
        (-1, Reason.SERIAL_OUT_OF_RANGE),
        (-(1 << 63), Reason.SERIAL_OUT_OF_RANGE),
        (1 << 14000, Reason.SERIAL_OUT_OF_RANGE),
    ],
)
def test_step_3_the_serial_number_has_64_bits(kernel: Kernel, serial: int, reason: Reason) -> None:
    """Step 3: a serial number below 0 or from 2^64 on is refused, however long it is."""
    parts = replace(small_ca().parts(3, FIRST_8), serial=encode_integer(serial))
    refused(parts.encode(), trusting(kernel), reason, FormatError)


SERIAL = 1 << 48 | 3


@pytest.mark.parametrize(
    ("revoked", "is_revoked"),
    [
        ([(SERIAL, SERIAL + 1)], True),
        ([(SERIAL, SERIAL)], False),
        ([(SERIAL + 1, SERIAL + 1)], False),
        ([(0, SERIAL)], False),
        ([(0, SERIAL + 1)], True),
        ([(SERIAL + 1, SERIAL_LIMIT)], False),
        ([(0, SERIAL_LIMIT)], True),
        ([(0, SERIAL), (SERIAL + 1, SERIAL_LIMIT)], False),
        ([(0, 1), (2, SERIAL), (SERIAL, SERIAL + 5)], True),
        ([(2 << 48, SERIAL_LIMIT), (0, 1 << 48)], False),
        ([], False),
    ],
)
def test_step_4_revoked_ranges_are_half_open(
    kernel: Kernel,
    revoked: list[tuple[int, int]],
    is_revoked: bool,  # noqa: FBT001 - a row
) -> None:
    """Step 4: a serial number in [start, end) is refused in both forms; the end is not in it."""
    ranges = SerialRanges(revoked)
    for der, store, form in (
        (landmark_der(), trusting(kernel, revoked=ranges), Form.LANDMARK_RELATIVE),
        (standalone_der(), cosigned(kernel, revoked=ranges), Form.STANDALONE),
    ):
        if is_revoked:
            error = refused(der, store, Reason.REVOKED, Rejected)
            assert (error.facts["ca"], error.facts["log"], error.facts["index"]) == (CA, 1, 3)
        else:
            accepted(der, store, form)


def test_step_4_comes_before_signatures_and_subtrees(kernel: Kernel) -> None:
    """Step 4: what is revoked is refused as revoked, whatever else is wrong with it."""
    everything = SerialRanges([(0, SERIAL_LIMIT)])
    refused(raw(inclusion_proof=bytes(96)), trusting(kernel, revoked=everything), Reason.REVOKED, Rejected)
    refused(raw(inclusion_proof=bytes(96)), cosigned(kernel, revoked=everything), Reason.REVOKED, Rejected)


@pytest.mark.parametrize("serial", [0, 3, (1 << 48) - 1])
def test_step_5_there_is_no_log_0(kernel: Kernel, serial: int) -> None:
    """Step 5: a serial number below 2^48 names log 0."""
    parts = replace(small_ca().parts(3, FIRST_8), serial=encode_integer(serial))
    refused(parts.encode(), trusting(kernel), Reason.LOG_NUMBER_ZERO, FormatError)


def test_step_6_the_log_is_part_of_the_trust(kernel: Kernel) -> None:
    """Step 6: the same entry under the serial number of another log is in no trusted subtree and not cosigned."""
    ca = small_ca()
    moved = replace(ca.parts(3, FIRST_8, [CA, WITNESS]), serial=encode_integer(2 << 48 | 3)).encode()
    refused(moved, trusting(kernel), Reason.POLICY_NOT_MET, Rejected)
    # With the right message for log 2 it would count: the log ID is part of what is signed.
    message = cosigned_message(CA, "32473.1.0.2", FIRST_8, ca.subtree_hash(FIRST_8))
    signature = SubtreeSignature(ca.anchor.binary, ca.key(CA).sign_now(message))
    signed = replace(
        ca.parts(3, proof=ca.proof(3, FIRST_8).with_signatures(signature)), serial=encode_integer(2 << 48 | 3)
    )
    assert accepted(signed.encode(), cosigned(kernel), Form.STANDALONE).log_number == 2


def test_step_6_the_ca_is_part_of_the_trust(kernel: Kernel) -> None:
    """Step 6: a CA's name that merely resembles a trusted one, or is another draft's, is of no CA here."""
    parts = small_ca().parts(3, FIRST_8)
    for issuer in (
        encode_ca_name(TrustAnchorID.parse("32473.2"), DEFAULT_REVISION),
        encode_ca_name(TrustAnchorID.parse("32473.1.1"), DEFAULT_REVISION),
        encode_ca_name(TrustAnchorID.parse(CA), REVISIONS["plants-06"]),
        encode_ca_name(TrustAnchorID.parse(CA), REVISIONS["plants-04"]),
        encode_sequence(),
    ):
        refused(replace(parts, issuer=issuer).encode(), trusting(kernel), Reason.UNKNOWN_CA, Rejected)


# Steps 7 to 9: the log entry that the certificate claims.


@pytest.mark.parametrize(
    "changes",
    [
        {"not_after": b"\x17\x0d261128120000Z"},
        {"not_before": b"\x17\x0d261120120001Z"},
        {"subject": encode_sequence(b"\x31\x00")},
        {"key": b"\x03\x42\x00\x04" + bytes(64)},
        {"spki_algorithm": encode_sequence(encode_oid("1.3.101.112"))},
        {"version": b"\xa0\x03\x02\x01\x01", "tail": b""},
        {"version": b"", "tail": b""},
        {"tail": b""},
        {"unique_ids": b"\x81\x02\x00a"},
        {"serial": encode_integer(1 << 48 | 2)},
        {"serial": encode_integer(1 << 48)},
    ],
)
def test_steps_7_to_9_the_entry_is_rebuilt(kernel: Kernel, changes: dict[str, Any]) -> None:
    """Steps 7 to 9: a change of any field, or of the place in the log, leads to another entry and so elsewhere."""
    parts = replace(small_ca().parts(3, FIRST_8, [CA]), **changes)
    refused(parts.encode(), trusting(kernel), Reason.TRUSTED_SUBTREE_MISMATCH, Rejected)
    refused(parts.encode(), cosigned(kernel), Reason.POLICY_NOT_MET, Rejected)


def test_steps_7_to_9_extensions_of_the_entry_come_from_the_proof(kernel: Kernel) -> None:
    """Steps 7 to 9: unknown entry extensions are hashed as they stand and otherwise ignored; others lead elsewhere."""
    extensions = (EntryExtension(0, b""), EntryExtension(0x1234, bytes(300)), EntryExtension(0xFFFF, b"private"))
    ca = SmallCA((Leaf(entry_extensions=extensions), Leaf()))
    store = ca.store(kernel, subtrees=[ca.trusted_subtree(0, 2)])
    proof = ca.proof(0)
    assert accepted(ca.certificate(0), store, Form.LANDMARK_RELATIVE).certificate.proof.extensions == extensions
    for other in (extensions[:2], (), (*extensions[:2], EntryExtension(0xFFFE, b"private"))):
        damaged = ca.certificate(0, proof=replace(proof, extensions=other))
        refused(damaged, store, Reason.TRUSTED_SUBTREE_MISMATCH, Rejected)
    invented = ca.certificate(1, proof=replace(ca.proof(1), extensions=extensions))
    refused(invented, store, Reason.TRUSTED_SUBTREE_MISMATCH, Rejected)


@pytest.mark.parametrize(
    "leaf",
    [
        Leaf(version=0, extensions=()),
        Leaf(version=1, extensions=(), unique_ids=b"\x81\x02\x00a"),
        Leaf(version=1, extensions=()),
        Leaf(version=2, extensions=()),
        Leaf(version=2, unique_ids=b"\x81\x02\x00a\x82\x03\x04b\xf0"),
    ],
    ids=["v1", "v2 with a unique ID", "v2", "v3 without extensions", "v3 with both unique IDs"],
)
def test_steps_7_to_9_every_shape_of_certificate_is_fine(kernel: Kernel, leaf: Leaf) -> None:
    """Steps 7 to 9: v1, v2, unique IDs and a v3 certificate without extensions verify, as signature and as path."""
    der, store = certify(leaf, kernel)
    accepted(der, store, Form.LANDMARK_RELATIVE)
    assert verify_certificate(der, store, NOW).form is Form.LANDMARK_RELATIVE


def test_steps_7_to_9_null_entries_certify_nothing(kernel: Kernel) -> None:
    """Steps 7 to 9: null entries and unknown types may stand anywhere in the log; no certificate leads to them."""
    ca = SmallCA((LogEntry(), Leaf(), LogEntry(77, b"new"), LogEntry(), Leaf()))
    store = ca.store(kernel, subtrees=[ca.trusted_subtree(0, 5)])
    for index in (1, 4):
        accepted(ca.certificate(index), store, Form.LANDMARK_RELATIVE)
    for index in (0, 2, 3):
        parts = replace(ca.parts(1, proof=ca.proof(index)), serial=encode_integer(1 << 48 | index))
        refused(parts.encode(), store, Reason.TRUSTED_SUBTREE_MISMATCH, Rejected)


# Step 10: the inclusion proof.


@pytest.mark.parametrize(
    ("changes", "reason", "family"),
    [
        ({"start": 1, "end": 3}, Reason.BAD_SUBTREE, FormatError),
        ({"start": 8, "end": 4}, Reason.BAD_SUBTREE, FormatError),
        ({"start": 8, "end": 16}, Reason.INDEX_NOT_IN_SUBTREE, ProofError),
        ({"start": 0, "end": 3}, Reason.INDEX_NOT_IN_SUBTREE, ProofError),
        ({"start": 3, "end": 3}, Reason.INDEX_NOT_IN_SUBTREE, ProofError),
        ({"start": 0, "end": 16}, Reason.PROOF_TOO_SHORT, ProofError),
        ({"start": 0, "end": 4}, Reason.PROOF_TOO_LONG, ProofError),
        ({"inclusion_proof": bytes(64)}, Reason.PROOF_TOO_SHORT, ProofError),
        ({"inclusion_proof": bytes(128)}, Reason.PROOF_TOO_LONG, ProofError),
        ({"inclusion_proof": b""}, Reason.PROOF_TOO_SHORT, ProofError),
        ({"start": 3, "end": 4}, Reason.PROOF_TOO_LONG, ProofError),
    ],
)
def test_step_10_the_proof_fits(kernel: Kernel, changes: dict[str, Any], reason: Reason, family: type[Error]) -> None:
    """Step 10: the interval is a subtree, the index lies in it, and the proof has as many hashes as it has levels."""
    refused(raw(**changes), trusting(kernel), reason, family)
    refused(raw(**changes), cosigned(kernel), reason, family)


def test_step_10_the_subtree_of_one_entry_is_legal(kernel: Kernel) -> None:
    """Step 10: a subtree that holds the entry alone needs no hashes."""
    ca = small_ca()
    der = ca.certificate(5, Subtree(5, 6), [CA])
    accepted(der, ca.store(kernel), Form.STANDALONE)
    accepted(der, ca.store(kernel, subtrees=[ca.trusted_subtree(5, 6)]), Form.LANDMARK_RELATIVE)


def test_step_10_every_entry_in_every_subtree(kernel: Kernel) -> None:
    """Step 10: each entry of a log of 13 verifies in each subtree that holds it, and in no other of the same size."""
    ca = small_ca()
    subtrees = [
        Subtree(start, end) for start in range(13) for end in range(start + 1, 14) if Subtree.is_valid(start, end)
    ]
    store = ca.store(kernel, subtrees=[ca.trusted_subtree(item.start, item.end) for item in subtrees])
    ders = [ca.certificate(index, item) for item in subtrees for index in range(item.start, item.end)]
    assert len(ders) > 100
    results = verify_signatures(ders, store, NOW)
    assert all(isinstance(item, VerifiedSignature) and item.form is Form.LANDMARK_RELATIVE for item in results)
