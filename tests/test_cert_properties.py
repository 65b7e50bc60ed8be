"""Certificate property lists and the PEM chains that carry them."""

import base64
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import trust_anchor_ids, trust_anchor_patterns

from mtc.cert import Certificate, CertificateChain, PropertyList, parse_certificate_chains
from mtc.cert.properties import MAX_CHAIN_CERTIFICATES, MAX_PROPERTY_LIST_BYTES
from mtc.errors import FormatError, Reason, UsageError
from mtc.ids import (
    REVISIONS,
    TrustAnchorID,
    TrustAnchorPattern,
    TrustAnchorRange,
    landmark_group,
    landmark_id,
    landmark_pattern,
    standalone_pattern,
)
from mtc.wire import PEMBlock, Writer, encode_pem

LoadVectors = Callable[[str], Any]

CA_ID = TrustAnchorID.parse("32473.1")
PROPERTIES = "CERTIFICATE PROPERTIES"


def expected_list(decoded: dict[str, Any]) -> PropertyList:
    """Return the property list that a published case describes."""
    anchor = decoded.get("trust_anchor_id")
    groups: Any = tuple(map(TrustAnchorPattern.parse, decoded.get("groups", ())))
    if "group_inclusions" in decoded:
        groups = tuple(
            TrustAnchorRange(TrustAnchorID.parse(item["base"]), int(item["min"]), int(item["max"]))
            for item in decoded["group_inclusions"]
        )
    return PropertyList(
        None if anchor is None else TrustAnchorID.parse(anchor), groups, decoded.get("negotiation", False)
    )


def raw_list(*properties: tuple[int, bytes]) -> bytes:
    """Return a property list of any types in any order."""
    writer = Writer()
    for kind, value in properties:
        writer.uint(kind, 2).vector(value, 2)
    return Writer().vector(writer.encode(), 2).encode()


def test_published_property_lists_are_read_and_written(load_vectors: LoadVectors) -> None:
    """Each published list parses to what it says, in its own form and in the form found out, and encodes again."""
    cases = load_vectors("certificate_properties.json")["cases"]
    assert len(cases) == 5
    for case in cases:
        data = base64.b64decode(case["base64"])
        expected = expected_list(case["decoded"])
        has_ranges = "group_inclusions" in case["decoded"]
        assert PropertyList.parse(data) == expected
        assert PropertyList.parse(data, groups_are_patterns=not has_ranges) == expected
        assert expected.encode() == data


def test_published_malformed_lists_are_refused(load_vectors: LoadVectors) -> None:
    """Each list that must be rejected is, with its own reason."""
    reasons = {
        "unsorted types": Reason.BAD_ORDER,
        "duplicate type": Reason.DUPLICATE,
        "trailing byte": Reason.TRAILING_DATA,
        "truncated": Reason.TRUNCATED,
        "negotiation not empty": Reason.BAD_PROPERTY,
    }
    found = {}
    for case in load_vectors("certificate_properties.json")["must_reject"]:
        for form in (False, True, None):
            with pytest.raises(FormatError) as caught:
                PropertyList.parse(bytes.fromhex(case["hex"]), groups_are_patterns=form)
            found[case["name"]] = caught.value.reason
    assert found == reasons


property_lists = st.builds(
    PropertyList,
    st.none() | trust_anchor_ids(),
    st.lists(trust_anchor_patterns, max_size=4).map(tuple)
    | st.lists(
        st.builds(
            lambda base, bounds: TrustAnchorRange(base, min(bounds), max(bounds)),
            trust_anchor_ids(),
            st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
        ),
        max_size=4,
    ).map(tuple),
    st.booleans(),
)


@given(property_lists)
def test_property_lists_are_read_as_written(properties: PropertyList) -> None:
    """Any list of either form survives a round trip when its form is known."""
    is_pattern = not any(isinstance(group, TrustAnchorRange) for group in properties.groups)
    assert PropertyList.parse(properties.encode(), groups_are_patterns=is_pattern) == properties


@given(property_lists)
def test_every_truncation_of_a_list_is_refused(properties: PropertyList) -> None:
    """No proper prefix of a list is one, and nothing may follow."""
    data = properties.encode()
    for end in range(len(data)):
        with pytest.raises(FormatError):
            PropertyList.parse(data[:end])
    with pytest.raises(FormatError) as caught:
        PropertyList.parse(data + b"\x00")
    assert caught.value.reason is Reason.TRAILING_DATA


def test_unknown_properties_are_ignored() -> None:
    """Properties of other types, before and behind the known ones, are stepped over."""
    data = raw_list((0, CA_ID.binary), (3, b"new"), (0xFFFF, b""))
    assert PropertyList.parse(data) == PropertyList(CA_ID)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", Reason.TRUNCATED),
        (b"\x00\x00", Reason.BAD_LENGTH),
        (b"\x00\x01\x00", Reason.BAD_LENGTH),
        (b"\x00\x03\x02\x01\x01\x00", Reason.TRAILING_DATA),
        (b"\x00\x02\x01\x01", Reason.BAD_TRUST_ANCHOR_ID),
        (b"\x00\x03\x02\x02\x01", Reason.BAD_TRUST_ANCHOR_ID),
        (b"\x00\x03\x03\x01\x01", Reason.TRUNCATED),
    ],
)
def test_malformed_groups_are_refused(value: bytes, reason: Reason) -> None:
    """A groups property holds at least one pattern, each whole and well formed."""
    for form in (True, None):
        with pytest.raises(FormatError) as caught:
            PropertyList.parse(raw_list((1, value)), groups_are_patterns=form)
        assert caught.value.reason is reason


def test_the_form_of_groups_is_the_readers_choice() -> None:
    """A list of ranges is refused where patterns are read, and the other way round."""
    ranges = PropertyList(groups=(TrustAnchorRange(CA_ID, 1, 2),)).encode()
    patterns = PropertyList(groups=(landmark_pattern(CA_ID, 1, 1),)).encode()
    assert PropertyList.parse(ranges) == PropertyList.parse(ranges, groups_are_patterns=False)
    for data, form in ((ranges, True), (patterns, False)):
        with pytest.raises(FormatError):
            PropertyList.parse(data, groups_are_patterns=form)


def test_a_property_list_fits_its_vector() -> None:
    """A list is at most as long as its own 2-byte length says."""
    whole = raw_list((9, bytes(65531)))
    assert len(whole) == MAX_PROPERTY_LIST_BYTES
    assert PropertyList.parse(whole) == PropertyList()
    with pytest.raises(FormatError) as caught:
        PropertyList.parse(whole + b"\x00")
    assert caught.value.reason is Reason.TOO_LARGE


def test_a_path_is_selected_by_its_id_or_by_a_group() -> None:
    """A client that sends the CA ID, a landmark or a group gets the paths that the draft says."""
    standalone = PropertyList(CA_ID, (standalone_pattern(CA_ID),))
    relative = PropertyList(landmark_id(CA_ID, 1, 5), (landmark_pattern(CA_ID, 1, 5),), needs_negotiation=True)
    older, newer = landmark_group(CA_ID, 1, 4), landmark_group(CA_ID, 1, 6)
    assert standalone.is_selected_by([CA_ID])
    assert standalone.is_selected_by([older])
    assert not standalone.is_selected_by([landmark_id(CA_ID, 1, 5)])
    assert relative.is_selected_by([landmark_id(CA_ID, 1, 5)])
    assert relative.is_selected_by([TrustAnchorID.parse("1.2.3"), newer])
    assert relative.is_selected_by([landmark_group(CA_ID, 1, 5)])
    assert not relative.is_selected_by([older, CA_ID, landmark_group(CA_ID, 2, 6)])
    assert not relative.is_selected_by([])


def test_the_demos_path_is_read(load_vectors: LoadVectors) -> None:
    """The demo's PEM with properties is one path: landmark 1 of log 1, to be negotiated, and written again."""
    text = load_vectors("certs_demo_plants07.json")["certificates"][0]["pem"].encode()
    (chain,) = parse_certificate_chains(text)
    assert chain.properties == PropertyList(
        landmark_id(CA_ID, 1, 1), (landmark_pattern(CA_ID, 1, 1),), needs_negotiation=True
    )
    assert [Certificate.parse(der).index for der in chain.certificates] == [32]
    assert chain.encode() == text
    assert parse_certificate_chains(text, None) == [chain]


def test_groups_of_older_revisions_are_ranges() -> None:
    """The revision says which form of groups a file has; a -05 file has ranges."""
    chain = CertificateChain(PropertyList(CA_ID, (TrustAnchorRange(CA_ID.child(2, 1), 1, 9),)), (b"one",))
    assert parse_certificate_chains(chain.encode(), REVISIONS["plants-05"]) == [chain]
    assert parse_certificate_chains(chain.encode(), None) == [chain]
    with pytest.raises(FormatError):
        parse_certificate_chains(chain.encode())


def test_several_paths_stand_in_one_file() -> None:
    """Each path starts with its properties, which may be empty (AAA=)."""
    first = CertificateChain(PropertyList(CA_ID), (b"leaf", b"intermediate"))
    second = CertificateChain(PropertyList(), (b"leaf 2",))
    third = CertificateChain(PropertyList(needs_negotiation=True), (b"leaf 3", b"more", b"most"))
    text = first.encode() + second.encode() + third.encode()
    assert b"\nAAA=\n" in second.encode()
    assert parse_certificate_chains(text) == [first, second, third]


def test_a_file_without_properties_is_one_path() -> None:
    """A plain chain has no properties; an empty file has no path."""
    chain = CertificateChain(None, (b"leaf", b"intermediate"))
    assert parse_certificate_chains(chain.encode()) == [chain]
    assert parse_certificate_chains(b"") == []


@pytest.mark.parametrize(
    "blocks",
    [
        [(PROPERTIES, b"\0\0")],
        [(PROPERTIES, b"\0\0"), (PROPERTIES, b"\0\0"), ("CERTIFICATE", b"x")],
        [("CERTIFICATE", b"x"), (PROPERTIES, b"\0\0")],
        [("CERTIFICATE", b"x"), (PROPERTIES, b"\0\0"), ("CERTIFICATE", b"y")],
        [("PRIVATE KEY", b"x"), ("CERTIFICATE", b"x")],
        [("CERTIFICATE", b"x"), ("TRUSTED CERTIFICATE", b"x")],
        [("CERTIFICATE", b"x")] * (MAX_CHAIN_CERTIFICATES + 1),
    ],
)
def test_blocks_in_another_order_are_no_chain(blocks: list[tuple[str, bytes]]) -> None:
    """Properties without certificates or behind them, foreign blocks and endless chains are refused."""
    with pytest.raises(FormatError) as caught:
        parse_certificate_chains(encode_pem(PEMBlock(*block) for block in blocks))
    assert caught.value.reason is Reason.BAD_PEM


def test_a_malformed_property_block_is_refused() -> None:
    """The properties of a chain must parse."""
    with pytest.raises(FormatError) as caught:
        parse_certificate_chains(encode_pem([PEMBlock(PROPERTIES, b"\x00"), PEMBlock("CERTIFICATE", b"x")]))
    assert caught.value.reason is Reason.TRUNCATED


def test_text_outside_the_blocks_is_refused() -> None:
    """Chains with properties are strict PEM; explanatory text is read only on request."""
    chain = CertificateChain(PropertyList(), (b"leaf",))
    text = b"subject=a.example\n" + chain.encode()
    with pytest.raises(FormatError) as caught:
        parse_certificate_chains(text)
    assert caught.value.reason is Reason.BAD_PEM
    assert parse_certificate_chains(text, strict=False) == [chain]


def test_an_empty_chain_is_not_written() -> None:
    """A chain without certificates has no PEM."""
    with pytest.raises(UsageError):
        CertificateChain(PropertyList(), ()).encode()


@given(st.binary(max_size=120))
def test_any_bytes_are_a_list_or_refused(data: bytes) -> None:
    """The parser answers with a list or with a FormatError."""
    for form in (None, True, False):
        try:
            PropertyList.parse(data, groups_are_patterns=form)
        except FormatError:
            continue
