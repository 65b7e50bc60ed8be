"""Trust anchor IDs, patterns, ranges, names, serial numbers and the table of draft revisions."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import entry_indices, log_numbers, trust_anchor_ids, trust_anchor_patterns

from mtc.errors import Error, FormatError, Reason, UsageError
from mtc.ids import (
    DEFAULT_REVISION,
    MAX_ID_BYTES,
    MAX_INDEX,
    MAX_LOG_NUMBER,
    REVISIONS,
    SERIAL_LIMIT,
    DraftRevision,
    TrustAnchorID,
    TrustAnchorPattern,
    TrustAnchorRange,
    encode_ca_name,
    landmark_group,
    landmark_id,
    landmark_pattern,
    log_id,
    parse_ca_name,
    parse_revision,
    revision_of,
    serial_number,
    split_serial,
    standalone_pattern,
)
from mtc.ids.anchor import MAX_PATTERN_BYTES
from mtc.wire import (
    DERReader,
    Reader,
    Tag,
    encode_oid,
    encode_sequence,
    encode_set,
    encode_tlv,
    encode_utf8_string,
)

LoadVectors = Callable[[str], Any]

CA_ID = TrustAnchorID.parse("32473.1")
BAD_ID = (FormatError, Reason.BAD_TRUST_ANCHOR_ID)


def fault_of(call: Callable[[], object]) -> tuple[type[Error], Reason]:
    """Return type and reason of the error that `call` must raise."""
    with pytest.raises(Error) as caught:
        call()
    return type(caught.value), caught.value.reason


# The vectors of the drafts; one test for each field of the file.


def test_id_encodings(load_vectors: LoadVectors) -> None:
    """Each published ID has its published binary form, both ways."""
    for case in load_vectors("trust_anchor_ids.json")["encodings"]:
        anchor = TrustAnchorID.parse(case["id"])
        assert anchor.binary.hex() == case["binary"], case
        assert anchor == TrustAnchorID(bytes.fromhex(case["binary"]))
        assert str(anchor) == case["id"]
        assert anchor.components == tuple(map(int, case["id"].split(".")))


def test_invalid_ascii_ids(load_vectors: LoadVectors) -> None:
    """Published texts that are no ID are refused."""
    for text in load_vectors("trust_anchor_ids.json")["invalid_ascii"]:
        assert fault_of(lambda: TrustAnchorID.parse(text)) == BAD_ID, text  # noqa: B023 - called at once


def test_components_have_no_limit_of_32_bits(load_vectors: LoadVectors) -> None:
    """A component above 2^32 - 1 is read: the draft lets implementations refuse it, and this one has no reason to."""
    for text in load_vectors("trust_anchor_ids.json")["implementation_limit_ascii"]:
        anchor = TrustAnchorID.parse(text)
        assert str(anchor) == text
        assert anchor.components[-1] >= 2**32
        assert TrustAnchorID(anchor.binary) == anchor


def test_invalid_binary_ids(load_vectors: LoadVectors) -> None:
    """Published bytes that are no ID are refused."""
    for text in load_vectors("trust_anchor_ids.json")["invalid_binary"]:
        assert fault_of(lambda: TrustAnchorID(bytes.fromhex(text))) == BAD_ID, text  # noqa: B023 - called at once


def test_oid_names(load_vectors: LoadVectors) -> None:
    """An ID's name in signed notes is its whole object identifier behind `oid/`."""
    for case in load_vectors("trust_anchor_ids.json")["full_oid_text"]:
        anchor = TrustAnchorID.parse(case["id"])
        assert anchor.oid_name == case["tlog_name"]
        assert f"oid/{anchor.oid}" == case["tlog_name"]
        assert TrustAnchorID.parse_oid_name(case["tlog_name"]) == anchor


def test_distinguished_names(load_vectors: LoadVectors) -> None:
    """Each revision's name of a CA has the published bytes, and is read back."""
    cases = load_vectors("trust_anchor_ids.json")["distinguished_names"]
    assert [case["version"] for case in cases] == list(REVISIONS)
    for case in cases:
        revision, anchor = REVISIONS[case["version"]], TrustAnchorID.parse(case["id"])
        name = encode_ca_name(anchor, revision)
        assert name.hex() == case["name_der"], case
        assert parse_ca_name(name) == (anchor, case["oid"])
        assert revision.name_oid == case["oid"]
        attribute = DERReader(name, "the name").enter(Tag.SEQUENCE).enter(Tag.SET).enter(Tag.SEQUENCE)
        assert attribute.read_oid() == case["oid"]
        assert attribute.read_tlv().hex() == case["attribute_value"]


def test_pattern_matches(load_vectors: LoadVectors) -> None:
    """Published patterns contain the published IDs and no others; malformed patterns and IDs are refused."""
    malformed_patterns, malformed_ids = set(), set()
    for case in load_vectors("trust_anchor_ids.json")["patterns"]:
        pattern, anchor = bytes.fromhex(case["pattern"]), bytes.fromhex(case["id"])
        try:
            parsed = TrustAnchorPattern.parse_binary(pattern)
        except FormatError:
            malformed_patterns.add(case["pattern"])
            assert not case["contains"], case
            continue
        try:
            parsed_id = TrustAnchorID(anchor)
        except FormatError:
            malformed_ids.add(case["id"])
            assert not case["contains"], case
            continue
        assert parsed.contains(parsed_id) == case["contains"], case
    assert malformed_patterns == {"81fd59", "81fd", "81fd5981ffff", "8042"}
    assert malformed_ids == {"8081fd597b8615", "81fd597b8695"}


def test_pattern_texts(load_vectors: LoadVectors) -> None:
    """Published patterns have their published text and bytes, both ways."""
    for case in load_vectors("trust_anchor_ids.json")["pattern_text"]:
        pattern = TrustAnchorPattern.parse(case["text"])
        assert pattern.encode().hex() == case["binary"], case
        assert TrustAnchorPattern.parse_binary(bytes.fromhex(case["binary"])) == pattern
        assert str(pattern) == case["text"]


# IDs.


@given(trust_anchor_ids() | trust_anchor_ids(MAX_ID_BYTES))
def test_ids_return(anchor: TrustAnchorID) -> None:
    """Every ID is read as it was written, in binary, in text, and in the name of a note."""
    assert TrustAnchorID.parse(str(anchor)) == anchor
    assert TrustAnchorID.parse_oid_name(anchor.oid_name) == anchor
    assert ".".join(map(str, anchor.components)) == str(anchor)
    assert DERReader(encode_oid(anchor.oid), "the OID").read(Tag.OID).endswith(anchor.binary)
    assert hash(TrustAnchorID(bytes(anchor.binary))) == hash(anchor)


@given(st.lists(trust_anchor_ids(6)))
def test_ids_order_by_length_then_bytes(anchors: list[TrustAnchorID]) -> None:
    """IDs sort as cosigners in an MTCProof do: the shorter first, then by bytes."""
    expected = sorted((len(anchor.binary), anchor.binary) for anchor in anchors)
    assert [anchor.binary for anchor in sorted(anchors)] == [binary for _, binary in expected]


@given(st.binary(max_size=20))
def test_any_bytes_are_an_id_or_refused(binary: bytes) -> None:
    """Bytes are an ID exactly when their components are whole and minimal."""
    starts = [0, *(place + 1 for place, byte in enumerate(binary) if byte < 0x80)]
    whole = bool(binary) and starts[-1] == len(binary)
    if whole and all(binary[start] != 0x80 for start in starts[:-1]):
        assert len(TrustAnchorID(binary).components) == len(starts) - 1
    else:
        assert fault_of(lambda: TrustAnchorID(binary)) == BAD_ID


def test_every_truncation_of_an_id() -> None:
    """An ID that is cut off inside a component is refused; between components another ID is left."""
    binary = TrustAnchorID.parse("32473.1.2.300").binary
    for size in range(len(binary)):
        if size and binary[size - 1] < 0x80:
            assert str(TrustAnchorID(binary[:size])) in {"32473", "32473.1", "32473.1.2"}
        else:
            assert fault_of(lambda: TrustAnchorID(binary[:size])) == BAD_ID  # noqa: B023 - called at once


def test_longest_ids() -> None:
    """An ID may have 255 bytes, in one component or in many, and no more."""
    one = TrustAnchorID(b"\xff" * 254 + b"\x7f")
    many = TrustAnchorID(b"\x7f" * 255)
    assert TrustAnchorID.parse(str(one)) == one
    assert TrustAnchorID.parse(str(many)) == many
    for binary in (b"\x01" * 256, b"\xff" * 255 + b"\x7f"):
        assert fault_of(lambda: TrustAnchorID(binary)) == BAD_ID  # noqa: B023 - called at once
    assert fault_of(lambda: TrustAnchorID.parse(".".join(["1"] * 256))) == BAD_ID
    assert fault_of(lambda: TrustAnchorID.parse("9" * 538)) == BAD_ID
    assert fault_of(lambda: TrustAnchorID.parse("1" * 100_000)) == BAD_ID
    assert fault_of(lambda: CA_ID.child(2**1800)) == BAD_ID


@pytest.mark.parametrize(
    "text", ["", ".", "01", "1.01", "1.2\n", " 1", "1 ", "+1", "1_0", "٣", "1.²", "0x1", "1,2", "1.-1", "1.2.", "1e3"]
)
def test_other_texts_are_no_ids(text: str) -> None:
    """Leading zeros, signs, spaces, digits of other scripts and line ends make a text no ID."""
    assert fault_of(lambda: TrustAnchorID.parse(text)) == BAD_ID


@pytest.mark.parametrize(
    "name", ["", "32473.1", "oid/32473.1", "oid/1.3.6.1.4.1.", "oid/1.3.6.1.4.1", "OID/1.3.6.1.4.1.1"]
)
def test_other_names_are_no_oid_names(name: str) -> None:
    """A name in a note is that of an ID only with the whole prefix and an ID behind it."""
    assert fault_of(lambda: TrustAnchorID.parse_oid_name(name)) == BAD_ID


@given(trust_anchor_ids(20), log_numbers, st.integers(0, 2**48))
def test_ca_owns_its_arc(ca_id: TrustAnchorID, log_number: int, landmark: int) -> None:
    """Logs, landmarks and landmark groups have IDs below the CA's: .0.N, .1.N.L and .2.N.L."""
    assert str(log_id(ca_id, log_number)) == f"{ca_id}.0.{log_number}"
    assert str(landmark_id(ca_id, log_number, landmark)) == f"{ca_id}.1.{log_number}.{landmark}"
    assert str(landmark_group(ca_id, log_number, landmark)) == f"{ca_id}.2.{log_number}.{landmark}"
    assert ca_id.child(1, 2, 3) == ca_id.child(1).child(2, 3)


def test_published_arc(load_vectors: LoadVectors) -> None:
    """The published IDs of a log and of a landmark are those of their CA."""
    texts = {case["id"] for case in load_vectors("trust_anchor_ids.json")["encodings"]}
    assert {"32473.1.0.1", "32473.1.1.8.42", "32473.1.2.8.42"} <= texts
    assert str(log_id(CA_ID, 1)) == "32473.1.0.1"
    assert str(landmark_id(CA_ID, 8, 42)) == "32473.1.1.8.42"
    assert str(landmark_group(CA_ID, 8, 42)) == "32473.1.2.8.42"


@pytest.mark.parametrize("number", [-1, 0, 65536, 2**48])
def test_log_numbers_are_checked(number: int) -> None:
    """Log 0 and logs above 65535 do not exist, in no kind of ID and in no serial number."""
    usage = (UsageError, Reason.USAGE)
    assert fault_of(lambda: log_id(CA_ID, number)) == usage
    assert fault_of(lambda: landmark_id(CA_ID, number, 0)) == usage
    assert fault_of(lambda: landmark_group(CA_ID, number, 0)) == usage
    assert fault_of(lambda: landmark_pattern(CA_ID, number, 0)) == usage
    assert fault_of(lambda: serial_number(number, 0)) == usage


def test_negative_components_are_refused() -> None:
    """A negative landmark or component is our caller's mistake, and never an endless loop."""
    for call in (
        lambda: landmark_id(CA_ID, 1, -1),
        lambda: landmark_group(CA_ID, 1, -1),
        lambda: landmark_pattern(CA_ID, 1, -1),
        lambda: CA_ID.child(-5),
    ):
        assert fault_of(call) == (UsageError, Reason.USAGE)


# Patterns and ranges.


@given(trust_anchor_patterns)
def test_patterns_return(pattern: TrustAnchorPattern) -> None:
    """Every pattern is read as it was written, in binary and in text."""
    assert TrustAnchorPattern.parse_binary(pattern.encode()) == pattern
    assert TrustAnchorPattern.parse(str(pattern)) == pattern


@given(trust_anchor_patterns, st.data())
def test_patterns_contain_their_intervals(pattern: TrustAnchorPattern, data: st.DataObject) -> None:
    """An ID is in a pattern when each component lies in its interval, and when there are as many."""
    inside = [data.draw(st.integers(least, most)) for least, most in pattern.components]
    anchor = TrustAnchorID.parse(".".join(map(str, inside)))
    assert pattern.contains(anchor)
    assert not pattern.contains(anchor.child(0))
    at = data.draw(st.integers(0, len(inside) - 1))
    least, most = pattern.components[at]
    outside = [least - 1] if least else []
    outside += [] if most is None else [most + 1]
    for value in outside:
        other = [*inside[:at], value, *inside[at + 1 :]]
        assert not pattern.contains(TrustAnchorID.parse(".".join(map(str, other))))


def test_every_truncation_of_a_pattern() -> None:
    """A pattern that is cut off inside a number or between the bounds of a component is refused."""
    binary = TrustAnchorPattern.parse("32473.{123-456}.{789-}").encode()
    ends = {6, 9, len(binary)}
    for size in range(len(binary) + 1):
        if size in ends:
            assert TrustAnchorPattern.parse_binary(binary[:size]).encode() == binary[:size]
        else:
            assert fault_of(lambda: TrustAnchorPattern.parse_binary(binary[:size])) == BAD_ID  # noqa: B023 - at once


@pytest.mark.parametrize("data", ["", "8001", "018001", "0100", "018101" + "80", "0101" * 128])
def test_bad_binary_patterns(data: str) -> None:
    """Numbers that are not minimal, bounds that run backwards, nothing at all and more than 255 bytes are refused."""
    assert fault_of(lambda: TrustAnchorPattern.parse_binary(bytes.fromhex(data))) == BAD_ID
    assert MAX_PATTERN_BYTES == 255


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "1.",
        "{1}",
        "{-1}",
        "{2-1}",
        "{1-2",
        "1-2",
        "{01-2}",
        "{1-2}.",
        "{1-2}{3-4}",
        "{ 1-2}",
        "x",
        "1." * 2000,
    ],
)
def test_bad_text_patterns(text: str) -> None:
    """What is no pattern, or runs backwards, is refused."""
    assert fault_of(lambda: TrustAnchorPattern.parse(text)) == BAD_ID


def test_bad_pattern_components() -> None:
    """A pattern needs a component, and none starts below 0."""
    assert fault_of(lambda: TrustAnchorPattern(())) == BAD_ID
    assert fault_of(lambda: TrustAnchorPattern(((-1, None),))) == BAD_ID
    assert fault_of(lambda: TrustAnchorPattern(((3, 2),))) == BAD_ID


def test_group_patterns_contain_groups() -> None:
    """A relying party's group is in a landmark's pattern when it is as new, and always in the standalone pattern."""
    standalone, tenth = standalone_pattern(CA_ID), landmark_pattern(CA_ID, 3, 10)
    assert str(standalone) == "32473.1.2.{0-}.{0-}"
    assert str(tenth) == "32473.1.2.3.{10-}"
    for landmark, inside in ((0, False), (9, False), (10, True), (2**48, True)):
        assert tenth.contains(landmark_group(CA_ID, 3, landmark)) == inside
        assert standalone.contains(landmark_group(CA_ID, 3, landmark))
    assert not tenth.contains(landmark_group(CA_ID, 4, 10))
    assert not tenth.contains(landmark_id(CA_ID, 3, 10))
    assert not standalone.contains(CA_ID)
    assert not standalone.contains(landmark_group(TrustAnchorID.parse("32473.2"), 3, 10))


@given(trust_anchor_ids(20), st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1), st.integers(0, 2**65))
def test_ranges_return(base: TrustAnchorID, first: int, second: int, value: int) -> None:
    """Every range is read as it was written, and contains its base with one component inside the bounds."""
    least, most = sorted((first, second))
    interval = TrustAnchorRange(base, least, most)
    reader = Reader(interval.encode() + b"behind", "the range")
    assert TrustAnchorRange.read(reader) == interval
    assert reader.read_rest() == b"behind"
    assert interval.contains(base.child(value)) == (least <= value <= most)
    assert not interval.contains(base)
    assert not interval.contains(base.child(least, least))
    assert str(interval) == f"{base}.{{{least}-{most}}}"
    data = interval.encode()
    for size in range(len(data)):
        fault = fault_of(lambda: TrustAnchorRange.read(Reader(data[:size], "the range")))  # noqa: B023 - called at once
        assert fault == (FormatError, Reason.TRUNCATED)


def test_bad_ranges() -> None:
    """A range runs forwards, within 64 bits, below an ID."""
    for least, most in ((1, 0), (-1, 0), (0, 2**64)):
        assert fault_of(lambda: TrustAnchorRange(CA_ID, least, most)) == BAD_ID  # noqa: B023 - called at once
    empty = fault_of(lambda: TrustAnchorRange.read(Reader(b"\x00" + bytes(16), "the range")))
    assert empty == (FormatError, Reason.BAD_LENGTH)
    assert fault_of(lambda: TrustAnchorRange.read(Reader(b"\x01\x80" + bytes(16), "the range"))) == BAD_ID


# Serial numbers.


@given(log_numbers, entry_indices)
def test_serials_return(log_number: int, index: int) -> None:
    """A serial number names one entry of one log."""
    serial = serial_number(log_number, index)
    assert serial == log_number * 2**48 + index
    assert 2**48 <= serial < SERIAL_LIMIT
    assert split_serial(serial) == (log_number, index)


def test_serial_bounds() -> None:
    """Serial numbers have 64 bits, log numbers 16 and indices 48."""
    assert (MAX_LOG_NUMBER, MAX_INDEX, SERIAL_LIMIT) == (2**16 - 1, 2**48 - 1, 2**64)
    assert split_serial(SERIAL_LIMIT - 1) == (MAX_LOG_NUMBER, MAX_INDEX)
    assert split_serial(2**48) == (1, 0)
    for index in (-1, 2**48):
        assert fault_of(lambda: serial_number(1, index)) == (UsageError, Reason.USAGE)  # noqa: B023 - called at once


@pytest.mark.parametrize("exponent", [64, 65, 160, 20_000])
def test_serials_out_of_range(exponent: int) -> None:
    """Serial numbers beyond 64 bits, however large, and below 0 have their reason; those of log 0 another."""
    for serial in (2**exponent, -(2**exponent), -1):
        assert fault_of(lambda: split_serial(serial)) == (FormatError, Reason.SERIAL_OUT_OF_RANGE)  # noqa: B023 - at once
    for serial in (0, 1, 2**48 - 1):
        assert fault_of(lambda: split_serial(serial)) == (FormatError, Reason.LOG_NUMBER_ZERO)  # noqa: B023 - at once


# Draft revisions.

# Our digest of the drafts, sections 14 and 15; the OIDs of one column belong together.
TABLE: dict[str, dict[str, object]] = {
    "plants-04": {
        "proof_oid": "1.3.6.1.4.1.44363.47.0",
        "name_oid": "1.3.6.1.4.1.44363.47.1",
        "has_relative_oid_name": False,
        "ca_extension_oid": "1.3.6.1.4.1.44363.47.2",
        "ca_extension_has_hash": True,
        "ca_extension_has_max_serial": False,
        "least_ca_serial": 0,
        "signatures_width": 2,
        "allows_empty_subtree": False,
        "id_limit": 255,
        "entry_limit_is_must": False,
        "landmarks_have_expiry": False,
        "groups_are_patterns": False,
        "has_optional_alternate": False,
    },
    "plants-05": {
        "proof_oid": "1.3.6.1.4.1.44363.47.0",
        "name_oid": "1.3.6.1.4.1.44363.47.1",
        "has_relative_oid_name": False,
        "ca_extension_oid": "1.3.6.1.4.1.44363.47.2",
        "ca_extension_has_hash": True,
        "ca_extension_has_max_serial": True,
        "least_ca_serial": 0,
        "signatures_width": 2,
        "allows_empty_subtree": False,
        "id_limit": 255,
        "entry_limit_is_must": False,
        "landmarks_have_expiry": False,
        "groups_are_patterns": False,
        "has_optional_alternate": True,
    },
    "plants-06": {
        "proof_oid": "1.3.6.1.4.1.44363.47.0",
        "name_oid": "1.3.6.1.4.1.44363.47.3",
        "has_relative_oid_name": True,
        "ca_extension_oid": "1.3.6.1.4.1.44363.47.4",
        "ca_extension_has_hash": False,
        "ca_extension_has_max_serial": True,
        "least_ca_serial": 0,
        "signatures_width": 3,
        "allows_empty_subtree": True,
        "id_limit": 255,
        "entry_limit_is_must": True,
        "landmarks_have_expiry": True,
        "groups_are_patterns": True,
        "has_optional_alternate": True,
    },
    "plants-07": {
        "proof_oid": "1.3.6.1.5.5.7.6.67",
        "name_oid": "1.3.6.1.5.5.7.25.3",
        "has_relative_oid_name": True,
        "ca_extension_oid": "1.3.6.1.5.5.7.1.38",
        "ca_extension_has_hash": False,
        "ca_extension_has_max_serial": True,
        "least_ca_serial": 2**48,
        "signatures_width": 3,
        "allows_empty_subtree": True,
        "id_limit": 32,
        "entry_limit_is_must": True,
        "landmarks_have_expiry": True,
        "groups_are_patterns": True,
        "has_optional_alternate": True,
    },
}


def test_revisions_are_the_drafts() -> None:
    """The table of revisions holds what the drafts' change logs and registries say."""
    assert {
        name: {key: value for key, value in dataclasses.asdict(revision).items() if key != "name"}
        for name, revision in REVISIONS.items()
    } == TABLE
    assert all(revision.name == str(revision) == name for name, revision in REVISIONS.items())
    assert DEFAULT_REVISION is REVISIONS["plants-07"]


def test_proof_algorithm_has_no_parameters() -> None:
    """id-alg-mtcProof of -07 has the published bytes, with absent parameters."""
    assert DEFAULT_REVISION.proof_algorithm.hex() == "300a06082b06010505070643"
    assert REVISIONS["plants-05"].proof_algorithm.hex() == "300c060a2b0601040182da4b2f00"


def test_revisions_are_told_apart() -> None:
    """Algorithm and name together tell the revisions whose bytes are alike; a mix of two drafts is none."""
    for revision in REVISIONS.values():
        found = revision_of(revision.proof_oid, revision.name_oid)
        assert revision in found
        assert len({(other.signatures_width, other.id_limit) for other in found}) == 1
    assert revision_of("1.3.6.1.4.1.44363.47.0", "1.3.6.1.4.1.44363.47.1") == (
        REVISIONS["plants-04"],
        REVISIONS["plants-05"],
    )
    assert revision_of("1.3.6.1.5.5.7.6.67", "1.3.6.1.4.1.44363.47.3") == ()
    assert revision_of("1.3.6.1.4.1.44363.47.5", "1.3.6.1.4.1.44363.47.3") == ()


def test_revisions_have_names() -> None:
    """A revision is found by its name, and an unknown one is refused with the names there are."""
    assert parse_revision("plants-06") is REVISIONS["plants-06"]
    with pytest.raises(UsageError, match="plants-04, plants-05, plants-06, plants-07") as caught:
        parse_revision("plants-03")
    assert caught.value.reason is Reason.USAGE


# Names of CAs.


@given(st.sampled_from(list(REVISIONS.values())), trust_anchor_ids())
def test_names_return(revision: DraftRevision, anchor: TrustAnchorID) -> None:
    """Every CA's name is read as it was written, in each revision."""
    assert parse_ca_name(encode_ca_name(anchor, revision)) == (anchor, revision.name_oid)


def test_names_are_limited() -> None:
    """An ID of 33 bytes names a CA up to -06, and none in -07, where it is neither written nor read."""
    long = TrustAnchorID(bytes([1] * 33))
    for older in ("plants-04", "plants-05", "plants-06"):
        assert parse_ca_name(encode_ca_name(long, REVISIONS[older]))[0] == long
    assert fault_of(lambda: encode_ca_name(long, DEFAULT_REVISION)) == (UsageError, Reason.BAD_TRUST_ANCHOR_ID)
    name = encode_sequence(
        encode_set(encode_sequence(encode_oid(DEFAULT_REVISION.name_oid), encode_tlv(Tag.RELATIVE_OID, long.binary)))
    )
    assert fault_of(lambda: parse_ca_name(name)) == BAD_ID


OLD = encode_oid("1.3.6.1.4.1.44363.47.1")
NEW = encode_oid("1.3.6.1.5.5.7.25.3")
VALUE = encode_tlv(Tag.RELATIVE_OID, CA_ID.binary)
ATTRIBUTE = encode_sequence(NEW, VALUE)
COMMON = encode_sequence(encode_oid("2.5.4.3"), encode_utf8_string("32473.1"))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (b"", Reason.TRUNCATED),
        (encode_sequence(), Reason.BAD_NAME),
        (encode_sequence(encode_set(COMMON)), Reason.BAD_NAME),
        (encode_sequence(encode_set(ATTRIBUTE), encode_set(COMMON)), Reason.BAD_NAME),
        (encode_sequence(encode_set(COMMON), encode_set(ATTRIBUTE)), Reason.BAD_NAME),
        (encode_sequence(encode_set(COMMON, ATTRIBUTE)), Reason.BAD_NAME),
        (encode_sequence(encode_set(ATTRIBUTE, ATTRIBUTE)), Reason.BAD_NAME),
        (encode_sequence(encode_set(ATTRIBUTE), encode_set(ATTRIBUTE)), Reason.BAD_NAME),
        (encode_sequence(encode_set(encode_sequence(NEW, encode_utf8_string("32473.1")))), Reason.BAD_TAG),
        (encode_sequence(encode_set(encode_sequence(OLD, VALUE))), Reason.BAD_TAG),
        (encode_sequence(encode_set(encode_sequence(NEW, VALUE, VALUE))), Reason.TRAILING_DATA),
        (encode_sequence(encode_set(encode_sequence(NEW))), Reason.TRUNCATED),
        (encode_sequence(encode_set()), Reason.TRUNCATED),
        (encode_sequence(encode_sequence(ATTRIBUTE)), Reason.BAD_TAG),
        (encode_sequence(encode_set(ATTRIBUTE)) + b"\x00", Reason.TRAILING_DATA),
        (encode_sequence(encode_set(encode_sequence(OLD, encode_utf8_string("32473.01")))), Reason.BAD_TRUST_ANCHOR_ID),
        (
            encode_sequence(encode_set(encode_sequence(OLD, encode_utf8_string("32473.\N{ARABIC-INDIC DIGIT ONE}")))),
            Reason.BAD_NAME,
        ),
        (encode_sequence(encode_set(encode_sequence(OLD, b"\x0c\x01\xff"))), Reason.BAD_NAME),
        (encode_sequence(encode_set(encode_sequence(NEW, b"\x0d\x00"))), Reason.BAD_TRUST_ANCHOR_ID),
        (encode_sequence(encode_set(encode_sequence(NEW, b"\x0d\x02\x80\x01"))), Reason.BAD_TRUST_ANCHOR_ID),
    ],
)
def test_other_names_are_no_cas(name: bytes, reason: Reason) -> None:
    """A name with more than the one attribute, another one, or another type of value is no CA's."""
    assert fault_of(lambda: parse_ca_name(name)) == (FormatError, reason)


def test_every_truncation_of_a_name() -> None:
    """A CA's name that is cut off at any byte is truncated."""
    name = encode_ca_name(CA_ID, DEFAULT_REVISION)
    for size in range(len(name)):
        assert fault_of(lambda: parse_ca_name(name[:size])) == (FormatError, Reason.TRUNCATED)  # noqa: B023 - at once
