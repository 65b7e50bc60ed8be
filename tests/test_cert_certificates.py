"""MTCProofs and certificates: foreign ones byte for byte, each malformation with its reason, never a surprise."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.certificates import FOREIGN, foreign_certificates
from tests.makers import GREASE_ID, HOST, LEAF_SPKI, NOT_AFTER, NOT_BEFORE, Leaf, RawProof, SmallCA

from mtc.cert import (
    Certificate,
    EntryExtension,
    MTCProof,
    SubtreeSignature,
    encode_name,
    entry_hash,
    identify_certificate,
)
from mtc.errors import Error, FormatError, Reason, Rejected, UsageError
from mtc.ids import DEFAULT_REVISION, REVISIONS, DraftRevision, TrustAnchorID, encode_ca_name, serial_number
from mtc.kernel import Kernel
from mtc.merkle import MAX_TREE_SIZE, Subtree, evaluate_inclusion
from mtc.wire import encode_integer, encode_oid, encode_sequence, find_pem_block

LoadVectors = Callable[[str], Any]

WIDTHS = {name: revision.signatures_width for name, revision in REVISIONS.items()}
BROKEN = {
    "cert_33_5": Reason.BAD_ORDER,
    "cert_33_8": Reason.ALGORITHM_MISMATCH,
    "mtc-leaf-standalone-cosigner_wrong_order": Reason.BAD_ORDER,
}
"""The foreign certificates that are no certificates of ours, and why."""

cosigner_ids = st.binary(min_size=1, max_size=32)
signature_lists = st.dictionaries(cosigner_ids, st.binary(max_size=50), max_size=6).map(
    lambda found: tuple(SubtreeSignature(key, found[key]) for key in sorted(found, key=lambda key: (len(key), key)))
)


def proof_of(subtree: Subtree = Subtree(0, 8), **changes: Any) -> MTCProof:  # noqa: ANN401, B008 - fields; immutable
    """Return a proof with three hashes and some fields changed."""
    return replace(MTCProof(subtree, (b"a" * 32, b"b" * 32, b"c" * 32)), **changes)


def test_the_signatures_vector_is_2_bytes_wide_before_06() -> None:
    """-04 and -05 count the signatures vector with 2 bytes, -06 and -07 with 3; all else is alike."""
    proof = proof_of(extensions=(EntryExtension(1, b"x"),), signatures=(SubtreeSignature(b"\x01", b"sig"),))
    head = "0005" + "0001000178" + "000000000000" + "000000000008" + "0060" + "61" * 32 + "62" * 32 + "63" * 32
    tail = "01" + "01" + "0003" + b"sig".hex()
    assert WIDTHS == {"plants-04": 2, "plants-05": 2, "plants-06": 3, "plants-07": 3}
    for revision in REVISIONS.values():
        width = revision.signatures_width
        assert proof.encode(revision).hex() == head + "0" * (2 * width - 1) + "7" + tail
        assert MTCProof.parse(proof.encode(revision), revision) == proof


@given(st.sampled_from(sorted(REVISIONS)), signature_lists, st.integers(0, 20))
def test_proofs_are_read_as_written(name: str, signatures: tuple[SubtreeSignature, ...], hashes: int) -> None:
    """Any ordered cosigners, known or not, well formed or not, survive a round trip in every revision."""
    proof = MTCProof(Subtree(16, 24), tuple(bytes((at,)) * 32 for at in range(hashes)), signatures)
    assert MTCProof.parse(proof.encode(REVISIONS[name]), REVISIONS[name]) == proof


def test_a_proof_may_be_empty() -> None:
    """A subtree of one entry needs no hashes, and nobody needs to have signed."""
    proof = MTCProof(Subtree(5, 6), ())
    assert proof.encode().hex() == "0000" + "000000000005" + "000000000006" + "0000" + "000000"
    assert MTCProof.parse(proof.encode()) == proof


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=REVISIONS)
def test_every_truncation_of_a_proof_is_refused(revision: DraftRevision) -> None:
    """No proper prefix of an MTCProof is one."""
    signatures = (SubtreeSignature(b"\x01", b"one"), SubtreeSignature(b"\x81\x01", b""))
    data = proof_of(signatures=signatures, extensions=(EntryExtension(3, b"abc"),)).encode(revision)
    for end in range(len(data)):
        with pytest.raises(FormatError) as caught:
            MTCProof.parse(data[:end], revision)
        assert caught.value.reason in {Reason.TRUNCATED, Reason.BAD_PROOF_LENGTH}


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=REVISIONS)
def test_trailing_bytes_behind_a_proof_are_refused(revision: DraftRevision) -> None:
    """The signatures vector is the end."""
    for tail in (b"\x00", bytes(40)):
        with pytest.raises(FormatError) as caught:
            MTCProof.parse(proof_of().encode(revision) + tail, revision)
        assert caught.value.reason is Reason.TRAILING_DATA


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["02", "01"], Reason.BAD_ORDER),
        (["8101", "02"], Reason.BAD_ORDER),
        (["01", "01"], Reason.DUPLICATE),
        (["01", "02", "01"], Reason.BAD_ORDER),
        (["8101", "8101"], Reason.DUPLICATE),
        ([""], Reason.BAD_TRUST_ANCHOR_ID),
        (["81" * 32 + "01"], Reason.BAD_TRUST_ANCHOR_ID),
    ],
)
def test_cosigners_strictly_ascend_by_length_and_bytes(names: list[str], reason: Reason) -> None:
    """Misordered, repeated, empty and oversized cosigner IDs are refused when read and not written."""
    ids = [bytes.fromhex(name) for name in names]
    raw = RawProof(start=0, end=8, signatures=tuple((name, b"s") for name in ids))
    with pytest.raises(FormatError) as caught:
        MTCProof.parse(raw.encode())
    assert caught.value.reason is reason
    proof = proof_of(signatures=tuple(SubtreeSignature(name, b"s") for name in ids))
    with pytest.raises(UsageError) as refused:
        proof.encode()
    assert refused.value.reason in {Reason.BAD_ORDER, Reason.BAD_TRUST_ANCHOR_ID}


def test_longer_cosigner_ids_stand_behind_shorter_ones() -> None:
    """The order is by length first: 02 stands before 01 01."""
    raw = RawProof(start=0, end=8, signatures=((b"\x02", b""), (b"\x01\x01", b""), (b"\x01\x02", b"")))
    assert [item.cosigner_id for item in MTCProof.parse(raw.encode()).signatures] == [b"\x02", b"\x01\x01", b"\x01\x02"]


@pytest.mark.parametrize(
    ("name", "limit"), [("plants-04", 255), ("plants-05", 255), ("plants-06", 255), ("plants-07", 32)]
)
def test_a_cosigner_id_is_as_long_as_its_revision_allows(name: str, limit: int) -> None:
    """-07 follows the 32 bytes of the newer trust anchor IDs draft, the older revisions the 255 before."""
    revision = REVISIONS[name]
    longest = proof_of(signatures=(SubtreeSignature(b"\x01" * limit, b"s"),))
    assert MTCProof.parse(longest.encode(revision), revision) == longest
    if limit < 255:
        longer = RawProof(start=0, end=8, signatures=((b"\x01" * (limit + 1), b"s"),), width=revision.signatures_width)
        with pytest.raises(FormatError) as caught:
            MTCProof.parse(longer.encode(), revision)
        assert caught.value.reason is Reason.BAD_TRUST_ANCHOR_ID


def test_a_proof_holds_whole_hashes() -> None:
    """An inclusion proof that is no multiple of the hash size is refused."""
    for count in (1, 31, 33, 63):
        with pytest.raises(FormatError) as caught:
            MTCProof.parse(RawProof(start=0, end=8, inclusion_proof=bytes(count)).encode())
        assert caught.value.reason is Reason.BAD_PROOF_LENGTH


@pytest.mark.parametrize(("start", "end"), [(1, 3), (8, 7), (4, 9), (2**48 - 1, 0)])
def test_a_proof_names_a_subtree(start: int, end: int) -> None:
    """An interval that is no subtree is refused."""
    with pytest.raises(FormatError) as caught:
        MTCProof.parse(RawProof(start=start, end=end).encode())
    assert caught.value.reason is Reason.BAD_SUBTREE


def test_a_subtree_in_a_proof_ends_within_48_bits() -> None:
    """The end of a subtree has 48 bits; what lies beyond is not written."""
    edge = proof_of(Subtree(0, MAX_TREE_SIZE))
    assert MTCProof.parse(edge.encode()) == edge
    with pytest.raises(UsageError):
        proof_of(Subtree(0, MAX_TREE_SIZE + 1)).encode()


def test_entry_extensions_in_a_proof_are_checked() -> None:
    """The extensions vector in a proof follows the same order rule as in an entry."""
    for extensions, reason in (("00010000" * 2, Reason.DUPLICATE), ("0002000000010000", Reason.BAD_ORDER)):
        with pytest.raises(FormatError) as caught:
            MTCProof.parse(RawProof(start=0, end=8, extensions=bytes.fromhex(extensions)).encode())
        assert caught.value.reason is reason


def test_signatures_that_do_not_fit_their_vector_are_not_written() -> None:
    """A signature has at most 65,535 bytes, and -04's signatures vector too."""
    fits = proof_of(signatures=(SubtreeSignature(b"\x01", bytes(65535)),))
    assert MTCProof.parse(fits.encode()) == fits
    for proof, revision in (
        (fits, REVISIONS["plants-04"]),
        (proof_of(signatures=(SubtreeSignature(b"\x01", bytes(65536)),)), DEFAULT_REVISION),
    ):
        with pytest.raises(UsageError) as caught:
            proof.encode(revision)
        assert caught.value.reason is Reason.TOO_LARGE


def test_added_signatures_are_sorted_in() -> None:
    """`with_signatures` keeps the order, GREASE included, and refuses a cosigner that is there already."""
    first = proof_of().with_signatures(SubtreeSignature(GREASE_ID, b"grease"), SubtreeSignature(b"\x05", b"five"))
    second = first.with_signatures(SubtreeSignature(b"\x02", b"two"))
    assert [item.cosigner_id for item in second.signatures] == [b"\x02", b"\x05", GREASE_ID]
    assert MTCProof.parse(second.encode()) == second
    with pytest.raises(UsageError) as caught:
        second.with_signatures(SubtreeSignature(b"\x05", b"other"))
    assert caught.value.reason is Reason.DUPLICATE


def test_cosigners_are_named_for_people() -> None:
    """A well-formed ID is shown in ASCII, any other bytes in hex."""
    assert SubtreeSignature(TrustAnchorID.parse("32473.9.1").binary, b"").name == "32473.9.1"
    assert SubtreeSignature(b"\x81", b"").name == "#81"


def test_foreign_certificates_are_read_and_written_byte_for_byte(load_vectors: LoadVectors, kernel: Kernel) -> None:
    """Every sound foreign certificate parses to the published facts, and is rebuilt from its parts byte for byte."""
    hasher = kernel.hasher("sha256")
    seen = set()
    for case, der in foreign_certificates(load_vectors):
        if case["name"] in BROKEN:
            continue
        seen.add(case["name"])
        info = case["info"]
        certificate = Certificate.parse(der)
        assert certificate.ca_id == TrustAnchorID.parse("32473.1")
        assert (certificate.log_number, certificate.index) == (info["log"], info["index"])
        assert certificate.proof.subtree == Subtree(info["start"], info["end"])
        assert len(certificate.proof.inclusion_proof) == info["n_proof"]
        assert [signature.name for signature in certificate.proof.signatures] == info["cosigners"]
        entry = certificate.log_entry(hasher)
        digest = entry_hash(hasher, entry, certificate.revision)
        assert digest.hex() == info["entry_hash"]
        root = evaluate_inclusion(
            hasher, certificate.proof.subtree, certificate.index, digest, certificate.proof.inclusion_proof
        )
        assert root.hex() == info["subtree_hash"]
        tbs = entry.tbs_certificate
        assert tbs is not None
        rebuilt = Certificate.build(tbs, certificate.spki, certificate.serial, certificate.proof, certificate.revision)
        assert rebuilt == der
        assert certificate.with_proof(certificate.proof) == der
        assert certificate.not_before == tbs.not_before
        assert certificate.not_after == tbs.not_after
        assert certificate.extensions == tbs.extensions
        assert certificate.subject == tbs.subject
    assert len(seen) == 12


def test_foreign_certificates_belong_to_their_revision(load_vectors: LoadVectors) -> None:
    """What BoringSSL wrote is -04 or -05, which look alike; what the demo wrote is -07."""
    for file in FOREIGN:
        data = load_vectors(file)
        expected = {"plants-07"} if data["version"] == "plants-07" else {"plants-04", "plants-05"}
        for case in data["certificates"]:
            if case["name"] not in BROKEN:
                der = find_pem_block(case["pem"].encode(), "CERTIFICATE")
                assert {revision.name for revision in Certificate.parse(der).revisions} == expected


def test_broken_foreign_certificates_are_refused(load_vectors: LoadVectors) -> None:
    """Misordered cosigners and a second algorithm that is not id-alg-mtcProof are no certificate of ours."""
    found = {}
    for case, der in foreign_certificates(load_vectors):
        if case["name"] in BROKEN:
            with pytest.raises(FormatError) as caught:
                Certificate.parse(der)
            found[case["name"]] = caught.value.reason
    assert found == BROKEN


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=REVISIONS)
@pytest.mark.parametrize("hash_name", ["sha256", "sm3"])
def test_own_certificates_are_read_as_written(revision: DraftRevision, hash_name: str, kernel: Kernel) -> None:
    """A certificate of every revision and hash parses to the fields, the entry and the proof that it was made from."""
    leaf = Leaf(subject=encode_name(O="Example", CN=HOST), entry_extensions=(EntryExtension(0xF001, b"e"),))
    ca = SmallCA((Leaf(), leaf), revision=revision, hash_name=hash_name, log_number=65535)
    proof = ca.proof(1, cosigners=["32473.1", "32473.9.1"])
    certificate = Certificate.parse(ca.certificate(1, proof=proof))
    assert certificate.proof == proof
    assert certificate.log_entry(kernel.hasher(hash_name)) == ca.log_entries[1]
    assert certificate.serial == serial_number(65535, 1)
    assert (certificate.log_number, certificate.index) == (65535, 1)
    assert certificate.issuer == ca.name
    assert certificate.subject == leaf.subject
    assert certificate.spki == LEAF_SPKI
    assert (certificate.not_before, certificate.not_after) == (NOT_BEFORE, NOT_AFTER)
    assert certificate.extensions == leaf.extensions
    assert revision in certificate.revisions
    assert certificate.revision.name == ("plants-05" if revision.name == "plants-04" else revision.name)


@pytest.mark.parametrize("version", [0, 1, 2])
def test_certificates_of_every_version_keep_their_fields(version: int, kernel: Kernel) -> None:
    """v1, v2 with unique IDs and v3 without extensions lead to the entries that they were made from."""
    unique_ids = b"" if version == 0 else b"\x81\x02\x00a\x82\x02\x00b"
    ca = SmallCA((Leaf(version=version, extensions=(), unique_ids=unique_ids),))
    certificate = Certificate.parse(ca.certificate(0))
    entry = certificate.log_entry(kernel.hasher("sha256"))
    assert entry == ca.log_entries[0]
    assert certificate.extensions == ()
    assert entry.tbs_certificate is not None
    assert entry.tbs_certificate.version == version


def test_an_sm3_certificate_has_a_proof_of_32_byte_hashes() -> None:
    """`hash_size` says how the proof is cut; another size does not fit."""
    der = SmallCA().certificate(0)
    with pytest.raises(FormatError) as caught:
        Certificate.parse(der, hash_size=48)
    assert caught.value.reason is Reason.BAD_PROOF_LENGTH


def test_a_certificate_is_identified_by_what_was_certified() -> None:
    """`tbs` stays the same when the proof changes, and `with_proof` changes nothing else."""
    ca = SmallCA()
    plain = Certificate.parse(ca.certificate(2, Subtree(0, 4)))
    other = Certificate.parse(plain.with_proof(ca.proof(2, Subtree(0, 13), ["32473.1"])))
    assert other.tbs == plain.tbs
    assert other.der == ca.certificate(2, Subtree(0, 13), ["32473.1"])


ALGORITHM_WITH_NULL = encode_sequence(encode_oid(DEFAULT_REVISION.proof_oid), b"\x05\x00")
ECDSA = encode_sequence(encode_oid("1.2.840.10045.4.3.2"))


@pytest.mark.parametrize(
    ("changes", "family", "reason"),
    [
        ({"signature": ECDSA}, Rejected, Reason.NOT_MTC),
        ({"signature": REVISIONS["plants-06"].proof_algorithm}, Rejected, Reason.DRAFT_MISMATCH),
        ({"signature": ALGORITHM_WITH_NULL}, Rejected, Reason.NOT_MTC),
        ({"outer_signature": ECDSA}, FormatError, Reason.ALGORITHM_MISMATCH),
        ({"outer_signature": ALGORITHM_WITH_NULL}, FormatError, Reason.ALGORITHM_MISMATCH),
        ({"issuer": encode_name(CN="Example")}, Rejected, Reason.NOT_MTC),
        ({"issuer": encode_sequence()}, Rejected, Reason.NOT_MTC),
        (
            {"issuer": encode_ca_name(TrustAnchorID.parse("32473.1"), REVISIONS["plants-06"])},
            Rejected,
            Reason.DRAFT_MISMATCH,
        ),
        (
            {"issuer": encode_ca_name(TrustAnchorID.parse("32473.1"), REVISIONS["plants-04"])},
            Rejected,
            Reason.DRAFT_MISMATCH,
        ),
        ({"unused_bits": b"\x01"}, FormatError, Reason.BAD_BIT_STRING),
        ({"unused_bits": b"", "proof": b""}, FormatError, Reason.BAD_BIT_STRING),
        ({"proof": b""}, FormatError, Reason.TRUNCATED),
        ({"serial": encode_integer(0)}, FormatError, Reason.LOG_NUMBER_ZERO),
        ({"serial": encode_integer((1 << 48) - 1)}, FormatError, Reason.LOG_NUMBER_ZERO),
        ({"serial": encode_integer(-1)}, FormatError, Reason.SERIAL_OUT_OF_RANGE),
        ({"serial": encode_integer(1 << 64)}, FormatError, Reason.SERIAL_OUT_OF_RANGE),
        ({"serial": encode_integer(1 << 40000)}, FormatError, Reason.SERIAL_OUT_OF_RANGE),
        ({"serial": b"\x02\x08\x00\x01\x00\x00\x00\x00\x00\x00"}, FormatError, Reason.BAD_INTEGER),
        ({"outer_tail": b"\x05\x00"}, FormatError, Reason.TRAILING_DATA),
    ],
)
def test_a_malformed_certificate_is_refused(changes: dict[str, Any], family: type[Error], reason: Reason) -> None:
    """Each damage to a sound certificate has its family and reason."""
    parts = SmallCA().parts(3)
    assert Certificate.parse(parts.encode()).index == 3
    with pytest.raises(family) as caught:
        Certificate.parse(replace(parts, **changes).encode())
    assert caught.value.reason is reason


def test_a_serial_number_above_2_to_the_63_is_positive() -> None:
    """A log number of 0x8000 or more needs a leading zero byte; without it the serial number is negative."""
    der = SmallCA((Leaf(),), log_number=0x8000).certificate(0)
    assert bytes.fromhex("0209008000000000000000") in der
    assert Certificate.parse(der).log_number == 0x8000
    parts = replace(SmallCA((Leaf(),)).parts(0), serial=bytes.fromhex("02088000000000000000"))
    with pytest.raises(FormatError) as caught:
        Certificate.parse(parts.encode())
    assert caught.value.reason is Reason.SERIAL_OUT_OF_RANGE


def test_every_truncation_of_a_certificate_is_refused() -> None:
    """No proper prefix of a certificate is one, and nothing may follow."""
    der = SmallCA().certificate(3, cosigners=["32473.1"])
    for end in range(len(der)):
        with pytest.raises(FormatError):
            Certificate.parse(der[:end])
        facts = identify_certificate(der[:end])
        assert (facts.ca_id, facts.log_number, facts.index) == (None, None, None)
    with pytest.raises(FormatError) as caught:
        Certificate.parse(der + b"\x00")
    assert caught.value.reason is Reason.TRAILING_DATA


def test_an_ordinary_certificate_is_no_mtc() -> None:
    """A CA certificate, which has an ordinary issuer, is rejected as no Merkle Tree certificate."""
    parts = replace(SmallCA().parts(0), issuer=encode_name(O="Example"), signature=ECDSA, proof=b"")
    with pytest.raises(Rejected) as caught:
        Certificate.parse(parts.encode())
    assert caught.value.reason is Reason.NOT_MTC


def test_identification_says_what_can_be_read() -> None:
    """Issuer and serial number are told apart from each other: what cannot be read is None, the rest is told."""
    parts = SmallCA().parts(3)
    tell = [
        (parts, ("32473.1", 1, 3)),
        (replace(parts, serial=encode_integer(5)), ("32473.1", None, None)),
        (replace(parts, serial=encode_integer(1 << 64)), ("32473.1", None, None)),
        (replace(parts, issuer=encode_name(CN="x")), (None, None, None)),
        (replace(parts, proof=b"no proof at all", signature=ECDSA), ("32473.1", 1, 3)),
        (replace(parts, issuer=encode_ca_name(TrustAnchorID.parse("1.2"), REVISIONS["plants-04"])), ("1.2", 1, 3)),
    ]
    for certificate, expected in tell:
        facts = identify_certificate(certificate.encode())
        ca = None if facts.ca_id is None else str(facts.ca_id)
        assert (ca, facts.log_number, facts.index) == expected


@given(st.binary(max_size=200))
def test_identification_never_raises_on_any_bytes(data: bytes) -> None:
    """Arbitrary bytes are identified as nothing, and parsed with an error of ours."""
    assert identify_certificate(data).log_number is None
    with pytest.raises(Error):
        Certificate.parse(data)


@given(st.data())
def test_identification_never_raises_on_damaged_names(data: st.DataObject) -> None:
    """Any bytes in place of the issuer or of the serial number end in facts or in None."""
    parts = SmallCA().parts(0)
    name = data.draw(st.binary(max_size=60))
    number = data.draw(st.binary(min_size=1, max_size=40))
    for damaged in (
        replace(parts, issuer=encode_sequence(name)),
        replace(parts, serial=b"\x02" + bytes((len(number),)) + number),
    ):
        der = damaged.encode()
        facts = identify_certificate(der)
        assert facts.index is None or facts.log_number is not None
        for parse in (Certificate.parse, partial(Certificate.parse, hash_size=64)):
            try:
                parse(der)
            except Error:
                continue


@given(st.data())
def test_damaged_certificates_are_read_consistently_or_refused(data: st.DataObject) -> None:
    """A certificate with a few bytes changed encodes to itself again, or is refused with an error of ours."""
    sound = SmallCA().certificate(3, Subtree(0, 8), ["32473.1"])
    damaged = bytearray(sound)
    for at in data.draw(st.lists(st.integers(0, len(sound) - 1), min_size=1, max_size=3)):
        damaged[at] = data.draw(st.integers(0, 255))
    der = bytes(damaged)
    identify_certificate(der)
    try:
        certificate = Certificate.parse(der)
    except Error:
        return
    assert certificate.with_proof(certificate.proof) == der


def test_times_of_a_certificate_are_aware(kernel: Kernel) -> None:
    """Times are read as aware UTC datetimes from year 1 to year 9999, in UTCTime and GeneralizedTime."""
    for year in (1, 1950, 2049, 2050, 9999):
        leaf = Leaf(
            not_before=datetime(year, 1, 1, tzinfo=UTC), not_after=datetime(year, 12, 31, 23, 59, 59, tzinfo=UTC)
        )
        certificate = Certificate.parse(SmallCA((leaf,)).certificate(0))
        assert (certificate.not_before, certificate.not_after) == (leaf.not_before, leaf.not_after)
        assert certificate.log_entry(kernel.hasher("sha256")).tbs_certificate == leaf.entry(SmallCA())
