"""Decisions of both sides, as tables and laws."""

from dataclasses import replace
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.makers import HOST, NOW, SmallCA, leaf_extensions
from tests.tls_pairs import LANDMARK, classical, landmark, leaf_key, standalone, tls_ca

from mtc.cert import CertificateChain, PropertyList
from mtc.errors import FormatError, Reason, Rejected, UsageError
from mtc.ids import REVISIONS, DraftRevision, TrustAnchorID, landmark_group, landmark_id, log_id
from mtc.tls import (
    CertificationPath,
    Match,
    Offer,
    TrustAnchorsExtension,
    available_anchors,
    is_merkle_tree_certificate,
    match_path,
    parse_paths,
    parse_server_name,
    plan_retry,
    requested_anchors,
    select_path,
)
from mtc.trust import ServerName, TrustStore

CA = tls_ca()
NAME = ServerName.parse(HOST)


def asking(*anchors: str | TrustAnchorID) -> TrustAnchorsExtension:
    """Return a client's list."""
    return TrustAnchorsExtension(
        tuple(TrustAnchorID.parse(anchor) if isinstance(anchor, str) else anchor for anchor in anchors)
    )


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=str)
def test_landmark_paths_match_their_landmark_and_newer_groups(revision: DraftRevision) -> None:
    """A landmark-relative path matches its own landmark, and the groups from its landmark on, of its log."""
    ca = tls_ca(revision)
    path = landmark(ca)
    for number in range(LANDMARK + 5):
        expected = Match.LANDMARK_GROUP if number >= LANDMARK else Match.FALLBACK
        assert match_path(path, [landmark_group(ca.anchor, 1, number)]) is expected
        exact = Match.LANDMARK if number == LANDMARK else Match.FALLBACK
        assert match_path(path, [landmark_id(ca.anchor, 1, number)]) is exact
        assert match_path(path, [landmark_group(ca.anchor, 2, number)]) is Match.FALLBACK
    assert match_path(path, [ca.anchor, log_id(ca.anchor, 1)]) is Match.FALLBACK


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=str)
def test_standalone_paths_match_the_ca_and_its_groups(revision: DraftRevision) -> None:
    """A standalone path matches the CA ID and every group of the CA, and no landmark."""
    ca = tls_ca(revision)
    path = standalone(ca)
    assert match_path(path, [ca.anchor]) is Match.ID
    assert match_path(path, [ca.anchor, landmark_group(ca.anchor, 1, 0)]) is Match.GROUP
    assert match_path(path, [landmark_group(ca.anchor, 1, 1 << 40)]) is Match.GROUP
    assert match_path(path, [landmark_id(ca.anchor, 1, LANDMARK)]) is Match.FALLBACK
    assert match_path(path, [TrustAnchorID.parse("32473.2"), TrustAnchorID.parse("32473")]) is Match.FALLBACK


@pytest.mark.parametrize("revision", [REVISIONS["plants-04"], REVISIONS["plants-05"]], ids=str)
def test_ranges_forget_old_landmarks(revision: DraftRevision) -> None:
    """Before -06 a landmark leaves the groups again, when it is none of the last max_active_landmarks."""
    path = landmark(tls_ca(revision))
    assert match_path(path, [landmark_group(CA.anchor, 1, LANDMARK + 9)]) is Match.LANDMARK_GROUP
    assert match_path(path, [landmark_group(CA.anchor, 1, LANDMARK + 10)]) is Match.FALLBACK


PATHS = (classical(), standalone(CA), landmark(CA))

ids = st.sampled_from(
    [
        CA.anchor,
        landmark_id(CA.anchor, 1, LANDMARK),
        landmark_id(CA.anchor, 1, LANDMARK + 1),
        landmark_group(CA.anchor, 1, LANDMARK),
        landmark_group(CA.anchor, 1, LANDMARK - 1),
        landmark_group(CA.anchor, 2, LANDMARK),
        TrustAnchorID.parse("32473.2"),
        TrustAnchorID(b"\x01"),
    ]
)
offers = st.builds(
    Offer,
    st.sampled_from([None, NAME]),
    st.none() | st.lists(ids, max_size=6).map(lambda anchors: TrustAnchorsExtension(tuple(anchors))),
    st.sampled_from([None, frozenset({0x0403, 0x0804}), frozenset({0x0403})]),
    st.booleans(),
)


@given(st.permutations(PATHS), offers)
def test_laws_of_selection(paths: list[CertificationPath], offer: Offer) -> None:
    """Whatever is asked: nothing unasked that needs asking, nothing better left over, no MTC in TLS 1.2."""
    chosen = select_path(paths, offer, NOW)
    requested = () if offer.requested is None else offer.requested.anchors
    assert chosen.path is paths[chosen.index]
    assert chosen.match is match_path(chosen.path, requested)
    assert chosen.match.is_acknowledged or not chosen.path.needs_negotiation
    assert offer.is_tls13 or not chosen.path.is_mtc
    if offer.is_tls13:
        assert chosen.match is min(match_path(path, requested) for path in paths)
    if chosen.match is Match.FALLBACK:
        assert not chosen.path.is_mtc
    elif landmark_group(CA.anchor, 1, LANDMARK) in requested:
        assert chosen.path.is_landmark_relative


@given(st.permutations(PATHS), st.lists(ids, max_size=6))
def test_order_and_repetition_of_a_clients_list_mean_nothing(
    paths: list[CertificationPath], anchors: list[TrustAnchorID]
) -> None:
    """The list is a set."""
    one = select_path(paths, Offer(requested=TrustAnchorsExtension(tuple(anchors))), NOW)
    again = TrustAnchorsExtension(tuple(reversed(anchors * 2)))
    assert select_path(paths, Offer(requested=again), NOW) == one


def test_order_of_the_configuration_decides_among_equals() -> None:
    """Of two paths with the same rank the first one is sent."""
    one, other = standalone(CA, 3), standalone(CA, 4)
    offer = Offer(NAME, asking(CA.anchor))
    assert select_path([one, other], offer, NOW).path is one
    assert select_path([other, one], offer, NOW).path is other


def test_expired_paths_are_sent_only_when_all_are() -> None:
    """A path that is not valid gives way to any that is; when none is, the client will say so."""
    old = replace(landmark(CA), not_after=NOW - timedelta(seconds=1))
    offer = Offer(NAME, asking(landmark_group(CA.anchor, 1, LANDMARK)))
    assert not select_path([old, standalone(CA)], offer, NOW).path.is_landmark_relative
    assert select_path([old], offer, NOW).path is old
    edge = replace(landmark(CA), not_after=NOW - timedelta(microseconds=999_999))
    assert select_path([edge, standalone(CA)], offer, NOW).path is edge


def test_paths_that_the_client_cannot_check_are_not_sent() -> None:
    """A key whose signature schemes the client does not know is passed over; an unknown kind of key is tried."""
    offer = Offer(NAME, asking(CA.anchor), frozenset({0x0804}))
    with pytest.raises(Rejected) as caught:
        select_path([standalone(CA)], offer, NOW)
    assert caught.value.reason is Reason.NO_PATH
    odd = replace(standalone(CA), signature_schemes=())
    assert select_path([standalone(CA), odd], offer, NOW).path is odd
    assert standalone(CA).signature_schemes == (0x0403,)


def test_names_decide_first() -> None:
    """A path without the name is never selected, not even when nothing else is there."""
    with pytest.raises(Rejected) as caught:
        select_path(PATHS, Offer(ServerName.parse("www.example.org"), asking(CA.anchor)), NOW)
    assert caught.value.reason is Reason.NAME_MISMATCH
    only = select_path(PATHS, Offer(ServerName.parse("entry-3.example")), NOW)
    assert only.path is PATHS[1]


def test_server_lists_the_ids_of_a_name() -> None:
    """The list holds each ID once, landmarks first, and nothing for a name without paths."""
    listed = available_anchors([*PATHS, standalone(CA, 4)], NAME, NOW)
    assert listed == asking(landmark_id(CA.anchor, 1, LANDMARK), CA.anchor)
    assert available_anchors([classical()], NAME, NOW).anchors == ()
    assert available_anchors(PATHS, ServerName.parse("www.example.org"), NOW).anchors == ()


def test_clients_ask_for_the_newest_landmark_of_each_log() -> None:
    """Per log the group of the newest landmark that has not expired; a CA without one by its ID."""
    seconds = int(NOW.timestamp())
    second_log = replace(CA, log_number=2)
    other = SmallCA(ca_id="32473.7")
    store = TrustStore(
        [
            CA.trusted_ca(
                subtrees=[
                    CA.trusted_subtree(0, 8, landmark=3, expiry=seconds),
                    CA.trusted_subtree(8, 12, landmark=4, expiry=seconds),
                    CA.trusted_subtree(12, 13, landmark=5, expiry=seconds - 1),
                    CA.trusted_subtree(4, 8),
                    second_log.trusted_subtree(0, 8, landmark=9),
                ]
            ),
            other.trusted_ca(subtrees=[other.trusted_subtree(0, 8, landmark=1, expiry=seconds - 1)]),
        ]
    )
    assert requested_anchors(store, NOW) == asking("32473.1.2.1.4", "32473.1.2.2.9", "32473.7")
    assert requested_anchors(store, NOW + timedelta(seconds=1)) == asking("32473.1.2.2.9", "32473.7")
    assert requested_anchors(TrustStore(), NOW).anchors == ()


def test_retry_takes_the_first_that_is_trusted() -> None:
    """One retry, for one ID of the server's list that the client could verify by, first one that it had not covered."""
    store = CA.store(subtrees=[CA.trusted_subtree(0, 8, landmark=5, expiry=int(NOW.timestamp()))])
    listed = asking("32473.2", "32473.1.1.1.4", "32473.1.1.1.5", "32473.1")
    assert plan_retry(store, NOW, listed, is_retry=False) == CA.anchor
    covered = asking("32473.1.1.1.4", "32473.1.1.1.5")
    assert plan_retry(store, NOW, covered, is_retry=False) == TrustAnchorID.parse("32473.1.1.1.5")
    late = NOW + timedelta(seconds=1)
    assert plan_retry(store, late, listed, is_retry=False) == CA.anchor
    assert plan_retry(store, NOW, listed, is_retry=True) is None
    assert plan_retry(store, NOW, None, is_retry=False) is None
    assert plan_retry(store, NOW, asking("32473.2"), is_retry=False) is None


def test_paths_are_read_from_files() -> None:
    """A PEM file with properties gives paths that know their kind; without properties standalone ones still work."""
    text = b"".join(
        CertificateChain(path.properties, path.certificates).encode() for path in (landmark(CA), standalone(CA))
    )
    assert parse_paths(text, leaf_key()) == (landmark(CA), standalone(CA))
    (bare,) = parse_paths(CertificateChain(None, standalone(CA).certificates).encode(), leaf_key())
    assert bare.is_mtc
    assert not bare.needs_negotiation
    assert match_path(bare, [CA.anchor]) is Match.FALLBACK
    with pytest.raises(UsageError):
        parse_paths(CertificateChain(None, landmark(CA).certificates).encode(), leaf_key())
    with pytest.raises(FormatError):
        parse_paths(b"", leaf_key())
    for key in (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", b"-----BEGIN NOTHING"):
        with pytest.raises((UsageError, FormatError)):
            parse_paths(text, key)
    encrypted = b"-----BEGIN ENCRYPTED PRIVATE KEY-----\nAAAA\n-----END ENCRYPTED PRIVATE KEY-----\n"
    with pytest.raises(UsageError, match="encrypted"):
        parse_paths(text, encrypted)
    assert leaf_key().hex() not in repr(landmark(CA))


def test_properties_of_a_landmark_need_negotiation_in_every_draft() -> None:
    """Without the property of -06 too, a landmark-relative path goes to nobody who did not ask, GREASE or not."""
    for revision in REVISIONS.values():
        path = landmark(tls_ca(revision))
        assert path.needs_negotiation
        assert path.properties.needs_negotiation is revision.groups_are_patterns
    own = landmark(CA).properties
    disguised = CertificationPath.build(CertificateChain(own, standalone(CA).certificates), leaf_key())
    assert disguised.is_landmark_relative
    unnamed = PropertyList(CA.anchor)
    signed_by_nobody = CertificationPath.build(CertificateChain(unnamed, landmark(CA).certificates), leaf_key())
    assert signed_by_nobody.needs_negotiation


def test_certificates_tell_their_kind() -> None:
    """Certificates of every draft are ours; a classical one, and what is none, are not."""
    for revision in REVISIONS.values():
        assert is_merkle_tree_certificate(standalone(tls_ca(revision)).certificates[0])
    assert not is_merkle_tree_certificate(classical().certificates[0])
    for data in (b"", b"\x30\x00", b"\x30\x03\x02\x01\x01", standalone(CA).certificates[0][:-1]):
        assert not is_merkle_tree_certificate(data)


def test_names_of_clients_that_are_none() -> None:
    """What is no host name selects as none does."""
    assert parse_server_name(None) is None
    assert parse_server_name("not a name") is None
    assert parse_server_name("WWW.example.com.") == NAME
    assert len(leaf_extensions()) == 3
