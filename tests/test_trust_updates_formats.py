"""Bulk proofs, documents and the formats of updates: laws, round trips, every truncation, and what they cost."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import subtrees_in_trees
from tests.updating import (
    HASHER,
    NOW,
    POLICY_KEY,
    SECONDS,
    TRUSTING,
    LandmarkLog,
    base_of,
    policy_of,
    take,
    update_of,
    verifier,
)

from mtc.errors import Error, FormatError, ProofError, Reason
from mtc.landmark import Landmark
from mtc.merkle import RowReader, Subtree, prove_consistency, subtree_hash, verify_consistency
from mtc.trust.updates import (
    POLICY_LABEL,
    UPDATE_LABEL,
    BulkProof,
    PolicyDocument,
    SignedDocument,
    Update,
    UpdateState,
    bulk_parts,
    encode_anchors,
    prove_bulk,
    verify_bulk,
)
from mtc.trust.updates.formats import read_landmarks, read_varint, write_landmarks
from mtc.wire import Reader, Writer
from mtc.wire.der import encode_base128

READER = RowReader(HASHER, HASHER.leaves([b"entry %d" % at for at in range(300)]))


def hash_of(start: int, end: int) -> bytes:
    """Return the hash of a subtree of the log that all these tests share."""
    return subtree_hash(HASHER, READER, Subtree(start, end))


@given(st.data())
def test_a_bulk_proof_tells_all_subtrees(data: st.DataObject) -> None:
    """The proof leads to the root and to each subtree's hash, and gives the proof of every selection."""
    size = data.draw(st.integers(1, 300))
    parts = data.draw(st.lists(subtrees_in_trees(size).map(lambda pair: pair[0]), max_size=6))
    proof = prove_bulk(HASHER, READER, size, parts)
    bulk = verify_bulk(HASHER, size, hash_of(0, size), parts, proof)
    assert [bulk.hash_of(part) for part in parts] == [hash_of(part.start, part.end) for part in parts]
    some = data.draw(st.lists(st.sampled_from(parts))) if parts else []
    assert bulk.proof_for(some) == prove_bulk(HASHER, READER, size, some)


def test_one_subtree_is_proven_as_the_draft_does() -> None:
    """For each subtree of each small tree, the bulk proof's hash passes the draft's own consistency proof."""
    for size in range(1, 20):
        for start in range(size):
            for end in range(start + 1, size + 1):
                if not Subtree.is_valid(start, end):
                    continue
                part = Subtree(start, end)
                bulk = verify_bulk(HASHER, size, hash_of(0, size), [part], prove_bulk(HASHER, READER, size, [part]))
                proof = prove_consistency(HASHER, READER, part, size)
                verify_consistency(HASHER, part, size, bulk.hash_of(part), hash_of(0, size), proof)


@given(st.data())
def test_no_hash_of_a_bulk_proof_can_be_changed(data: st.DataObject) -> None:
    """Each hash counts: with another one in its place the proof leads to another root."""
    size = data.draw(st.integers(1, 300))
    parts = data.draw(st.lists(subtrees_in_trees(size).map(lambda pair: pair[0]), max_size=6))
    proof = prove_bulk(HASHER, READER, size, parts)
    position = data.draw(st.integers(0, len(proof) - 1))
    proof[position] = bytes(32)
    with pytest.raises(ProofError) as caught:
        verify_bulk(HASHER, size, hash_of(0, size), parts, proof)
    assert caught.value.reason is Reason.ROOT_MISMATCH


@given(subtrees_in_trees())
def test_pieces_cover_the_tree_once(pair: tuple[Subtree, int]) -> None:
    """The pieces are the tree, left to right without gap or overlap, and none has an edge inside."""
    part, size = pair
    pieces = bulk_parts(size, [part])
    assert [piece.start for piece in pieces] + [size] * bool(size) == [0] * bool(size) + [p.end for p in pieces]
    if not part.is_empty:
        for edge in (part.start, part.end):
            assert not any(piece.start < edge < piece.end for piece in pieces)


def test_a_bulk_proof_has_exactly_its_hashes() -> None:
    """One hash more or less, one of another length, a subtree outside of the tree and one that was not asked for."""
    parts = [Subtree(0, 4), Subtree(8, 11)]
    proof = prove_bulk(HASHER, READER, 20, parts)
    faults = [
        (proof[:-1], parts, Reason.PROOF_TOO_SHORT),
        ([*proof, bytes(32)], parts, Reason.PROOF_TOO_LONG),
        ([*proof[:-1], bytes(31)], parts, Reason.BAD_HASH_SIZE),
        (proof, [Subtree(16, 21)], Reason.SUBTREE_NOT_IN_TREE),
    ]
    for hashes, wanted, reason in faults:
        with pytest.raises(Error) as caught:
            BulkProof(HASHER, 20, wanted, hashes)
        assert caught.value.reason is reason
    with pytest.raises(ProofError) as missing:
        BulkProof(HASHER, 20, parts, proof).hash_of(Subtree(0, 1))
    assert missing.value.reason is Reason.MISSING_HASH


@given(st.integers(0, 2**63 - 1))
def test_numbers_round_trip(value: int) -> None:
    """Every number below 2^63 is read back."""
    assert read_varint(Reader(encode_base128(value), "a number")) == value


@pytest.mark.parametrize("data", [b"\x80\x01", b"\x81" * 10, encode_base128(2**63), b"\x81"])
def test_bad_numbers_are_refused(data: bytes) -> None:
    """A leading zero, a number without an end and one beyond 63 bits are refused."""
    with pytest.raises(FormatError):
        read_varint(Reader(data, "a number"))


@given(
    st.integers(0, 2**40),
    st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 2**20)), min_size=1, max_size=20),
    st.booleans(),
)
def test_landmarks_round_trip(number: int, steps: list[tuple[int, int]], has_expiry: bool) -> None:  # noqa: FBT001 - drawn
    """Runs with and without expiry are read back."""
    size, expiry, run = number, 0, []
    for offset, (growth, time) in enumerate(steps):
        size, expiry = size + growth + 1, expiry + time
        mark_number = number + offset
        run.append(
            Landmark(mark_number, size if mark_number else 0, (expiry if mark_number else 0) if has_expiry else None)
        )
        size, expiry = (size, expiry) if mark_number else (0, 0)
    writer = Writer()
    write_landmarks(writer, tuple(run))
    reader = Reader(writer.encode(), "landmarks")
    assert read_landmarks(reader) == tuple(run)
    reader.finish()


def two_landmarks() -> LandmarkLog:
    """Return a small log."""
    log = LandmarkLog(cosigners=())
    log.mark(5)
    log.mark(3)
    return log


def test_documents_round_trip_and_no_truncation_is_one() -> None:
    """Update, policy and state are read back; no beginning of one is one, and nothing may follow."""
    log = two_landmarks()
    policy = policy_of(log.trusted(at_least=0))
    update = update_of(policy, log.proven())
    signed = SignedDocument.parse(update, UPDATE_LABEL)
    assert signed.encode() == update
    assert Update.parse(signed.payload).encode() == signed.payload
    state = take(update).state.encode()
    assert UpdateState.parse(state).encode() == state
    for cut in range(len(state)):
        with pytest.raises(FormatError):
            UpdateState.parse(state[:cut])
    with pytest.raises(FormatError):
        SignedDocument.parse(update + b"\0", UPDATE_LABEL)
    for cut in range(len(update)):
        with pytest.raises(FormatError):
            SignedDocument.parse(update[:cut], UPDATE_LABEL)
    for cut in range(len(signed.payload)):
        with pytest.raises(FormatError):
            Update.parse(signed.payload[:cut])


@given(st.data())
def test_damaged_updates_raise_only_our_errors(data: st.DataObject) -> None:
    """Whatever bytes come, an update is taken, refused with one of our errors, or a finding."""
    log = two_landmarks()
    policy = policy_of(log.trusted(at_least=0))
    payload = bytearray(SignedDocument.parse(update_of(policy, log.proven()), UPDATE_LABEL).payload)
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] = data.draw(st.integers(0, 255))
    try:
        planned = take(SignedDocument(UPDATE_LABEL, bytes(payload)).encode())
    except Error:
        return
    assert all(isinstance(item.error, Error) for item in planned.findings)


def test_policy_documents_are_read_strictly() -> None:
    """An unknown or missing member, a wrong type, a CA that is trusted and removed, or twice: all are refused."""
    log = two_landmarks()
    payload = policy_of(log.trusted(at_least=0)).payload
    assert PolicyDocument.parse(payload).payload == payload
    changes = [
        (b'"format":1', b'"format":2'),
        (b'"format":1', b'"format":true'),
        (b'"version":1,"issued"', b'"issued"'),
        (b'"version":1,"issued"', b'"version":1.5,"issued"'),
        (b'"version":1,"issued"', b'"version":1,"version":1,"issued"'),
        (b'"floor":0', b'"flor":0'),
        (b'"floor":0', b'"floor":-1'),
        (b'"floor":0', b'"floor":NaN'),
        (b'"removed":[]', b'"removed":["32473.1"]'),
        (b'"removed":[]', b'"removed":["32473.7","32473.7"]'),
        (b'"removed":[]', b'"removed":{}'),
        (b'"removed":[]', b'"removed":["x"]'),
        (b'"landmarks":[]', b'"landmarks":[{"ca":"32473.1"},{"ca":"32473.1"}]'),
        (b'"landmarks":[]', b'"landmarks":[{"ca":"32473.1","max_active":-1}]'),
        (b'"landmarks":[]', b'"landmarks":[{"ca":"32473.1","floors":[{"log":0,"landmark":1}]}]'),
        (b'"cas":[', b'"cas":[1,'),
        (b'"trusted_subtrees":[]', b'"trusted_subtrees":[{"log":1,"start":0,"end":1,"hash":"%s"}]' % (b"00" * 32)),
        (b'{"format"', b'["format"'),
    ]
    for old, new in changes:
        assert old in payload
        with pytest.raises(FormatError):
            PolicyDocument.parse(payload.replace(old, new, 1))


def test_signatures_are_over_kind_and_payload() -> None:
    """A signature under one label verifies under no other, and unknown signatures beside it do not matter."""
    log = two_landmarks()
    policy = policy_of(log.trusted(at_least=0))
    key = verifier(POLICY_KEY)
    policy.verify([key])
    replace(policy, signatures=(policy.signatures[0]._replace(key_id=bytes(32)), *policy.signatures)).verify([key])
    with pytest.raises(Error) as caught:
        replace(policy, label=UPDATE_LABEL).verify([key])
    assert (caught.value.reason, policy.label) == (Reason.BAD_SIGNATURE, POLICY_LABEL)


def test_what_a_week_of_hours_costs() -> None:
    """169 landmarks are held in about 11.7 kB; a signed delta is two hashes and a signature, a proven one 6 kB."""
    log = LandmarkLog(cosigners=LandmarkLog().cosigners[:1])
    for hour in range(169):
        log.mark(1000, NOW + timedelta(hours=hour))
    policy = policy_of(log.trusted())
    before = log.proven(last=169)
    held = take(update_of(policy, before, version=SECONDS - 3600, is_proven=False), trust=TRUSTING).state
    log.mark(1000, NOW + timedelta(hours=169))
    log.grow(37)
    after = log.proven(first=1)
    base = base_of(SECONDS - 3600, policy, before)
    signed, proven = (update_of(policy, after, base=base, is_proven=kind) for kind in (False, True))
    signatures = 2420 + 2 + 32
    assert len(signed) - signatures < 2 * 32 + 120
    assert len(proven) - 3 * signatures < 24 * 32 + 200
    state = take(signed, held, trust=TRUSTING).state
    landmarks = len(state.encode()) - len(policy.encode())
    assert 169 * 2 * 32 < landmarks < 11_900
    # What would convict the log stands beside the state: one tree with two cosignatures, and one proof.
    asked = take(update_of(policy, log.proven(), version=SECONDS)).state
    (anchor,) = asked.anchors
    assert len(anchor.proof) < 24
    assert len(encode_anchors([anchor])) - 2 * signatures < 900
    whole = update_of(policy, after)
    assert len(whole) - len(policy.encode()) < 70_000
