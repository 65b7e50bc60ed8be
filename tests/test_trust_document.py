"""The trust store document: what it says is what is trusted, every fault has its place, and the schema agrees."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from tests.documents import (
    BAD,
    BEYOND_SCHEMA,
    CA,
    COSIGNER,
    FIRST,
    GOOD,
    MIRROR,
    POLICY,
    QUORUM,
    SUBTREE,
    WITNESS,
    at,
    dump,
    edited,
    issue_document,
    key_text,
    least_document,
)
from tests.makers import ALGORITHMS, make_key

from mtc.cert import SerialRanges
from mtc.errors import FormatError, Reason
from mtc.ids import REVISIONS, TrustAnchorID
from mtc.kernel import Kernel
from mtc.merkle import Subtree
from mtc.trust import (
    TRUST_STORE_SCHEMA,
    CosignerState,
    FreezePoint,
    TrustStore,
    format_trust_store,
    parse_trust_store,
)
from mtc.trust.document import MAX_DOCUMENT_BYTES


def refused(data: bytes, place: str, reason: Reason) -> FormatError:
    """Assert that a document is refused, and that the message names the place."""
    with pytest.raises(FormatError) as caught:
        parse_trust_store(data)
    assert caught.value.reason is reason
    assert place in caught.value.message
    return caught.value


@pytest.fixture(scope="module")
def schema() -> Draft202012Validator:
    """Return the published schema, ready to judge documents."""
    Draft202012Validator.check_schema(TRUST_STORE_SCHEMA)
    return Draft202012Validator(TRUST_STORE_SCHEMA)


def test_the_example_says_what_is_trusted(kernel: Kernel) -> None:
    """The issue's example parses to the CA, its cosigners, policy, subtree and revoked range."""
    store = parse_trust_store(dump(issue_document()), kernel)
    (ca,) = store.cas
    assert store.kernel is kernel
    assert store.find_ca(TrustAnchorID.parse(CA)) is ca
    assert (str(ca.ca_id), ca.revision, ca.hash.name) == (CA, REVISIONS["plants-07"], "sha256")
    assert [cosigner.name for cosigner in ca.cosigners] == [CA, WITNESS, MIRROR]
    assert [cosigner.key.public_key for cosigner in ca.cosigners] == [
        make_key("ml-dsa-44", seed).public_key for seed in (1, 2, 3)
    ]
    assert all(cosigner.state is CosignerState.USABLE for cosigner in ca.cosigners)
    assert list(map(str, ca.policy.require)) == [CA]
    assert (list(map(str, ca.policy.of)), ca.policy.at_least) == ([WITNESS, MIRROR], 1)
    (trusted,) = ca.trusted_subtrees
    assert (trusted.log_number, trusted.subtree) == (1, Subtree(0, 1024))
    assert trusted.subtree_hash == b"\xab" * 32
    assert (trusted.landmark, trusted.expiry) == (None, None)
    assert ca.revoked == SerialRanges([(0, 1 << 48)])


def test_what_is_left_out_has_its_default() -> None:
    """Draft -07 and SHA-256 are the defaults; no subtree is trusted, nothing revoked, `require` asks for all."""
    (ca,) = parse_trust_store(dump(least_document())).cas
    assert (ca.revision.name, ca.hash.name) == ("plants-07", "sha256")
    assert ca.trusted_subtrees == ()
    assert ca.revoked == SerialRanges()
    assert (ca.policy.of, ca.policy.at_least) == ((), 0)


def test_optional_members_are_read() -> None:
    """Landmark, expiry, states and the freeze point arrive; a freeze point without a log is of log 1."""
    document = issue_document()
    at(*SUBTREE, landmark=17, expiry=1790000000)(document)
    at(*COSIGNER, state="frozen", tree_size=900, log=4)(document)
    at("cas", 0, "cosigners", 2, state="removed")(document)
    (ca,) = parse_trust_store(dump(document)).cas
    assert (ca.trusted_subtrees[0].landmark, ca.trusted_subtrees[0].expiry) == (17, 1790000000)
    assert ca.cosigners[1].frozen_at == FreezePoint(4, 900)
    assert [cosigner.state.value for cosigner in ca.cosigners] == ["usable", "frozen", "removed"]
    at(*COSIGNER, log=...)(document)
    assert parse_trust_store(dump(document)).cas[0].cosigners[1].frozen_at == FreezePoint(1, 900)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_every_algorithm_has_its_name(algorithm: str) -> None:
    """Each listed algorithm is read, and refuses the key of another."""
    document = least_document()
    at("cas", 0, "cosigners", 0, algorithm=algorithm, public_key=key_text(algorithm))(document)
    (ca,) = parse_trust_store(dump(document)).cas
    assert ca.cosigners[0].key.algorithm.name == algorithm
    other = "ed25519" if algorithm != "ed25519" else "ecdsa-p256-sha256"
    at("cas", 0, "cosigners", 0, public_key=key_text(other))(document)
    refused(dump(document), "cas[0].cosigners[0]", Reason.ALGORITHM_MISMATCH)


@pytest.mark.parametrize("name", GOOD)
def test_good_documents_are_read_written_and_fit_the_schema(name: str, schema: Draft202012Validator) -> None:
    """A good document fits the schema, and what is written for it is read to the same store, and fits too."""
    document = edited(GOOD[name])
    schema.validate(document)
    written = format_trust_store(parse_trust_store(dump(document)))
    assert format_trust_store(parse_trust_store(written)) == written
    schema.validate(json.loads(written))


@pytest.mark.parametrize("name", BAD)
def test_bad_documents_are_refused_with_their_place(name: str, schema: Draft202012Validator) -> None:
    """Each malformed member is refused by the parser, which names its place, and by the schema."""
    edit, place, reason = BAD[name]
    document = edited(edit)
    refused(dump(document), place, reason)
    assert not schema.is_valid(document)


@pytest.mark.parametrize("name", BEYOND_SCHEMA)
def test_what_a_schema_cannot_see_is_refused(name: str, schema: Draft202012Validator) -> None:
    """Contradictions between members, and what is inside of texts, are found by the parser alone."""
    edit, place, reason = BEYOND_SCHEMA[name]
    document = edited(edit)
    refused(dump(document), place, reason)
    assert schema.is_valid(document)


def test_a_written_document_keeps_everything() -> None:
    """Writing and reading keeps order, states, freeze points, landmarks, expiries and ranges."""
    document = issue_document()
    at(*COSIGNER, state="frozen", tree_size=900, log=4)(document)
    at("cas", 0, "cosigners", 2, state="removed")(document)
    at(*SUBTREE, landmark=17, expiry=1790000000)(document)
    assert json.loads(format_trust_store(parse_trust_store(dump(document)))) == document


def test_written_ranges_are_merged() -> None:
    """Overlapping and empty ranges come out sorted, apart and not empty."""
    document = edited(at(*FIRST, revoked=[[9, 12], [5, 9], [3, 3], [20, 2**64]]))
    written = json.loads(format_trust_store(parse_trust_store(dump(document))))
    assert written["cas"][0]["revoked"] == [[5, 12], [20, 2**64]]


def test_an_empty_store_is_a_document() -> None:
    """A store without CAs is legal; it trusts nobody."""
    assert parse_trust_store(b'{"version": 1, "cas": []}').cas == ()
    assert json.loads(format_trust_store(TrustStore())) == {"version": 1, "cas": []}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b" ",
        b"{",
        b"null",
        b"[]",
        b"1",
        b'"text"',
        b"\xff\xfe",
        b'{"version": 1, "cas": []} x',
        b'{"version": 1, "cas": [],}',
        b"{'version': 1, 'cas': []}",
        b'{"version": 1, "cas": [] /* none */}',
        b'\xef\xbb\xbf{"version": 1, "cas": []}',
        b'{"version": NaN, "cas": []}',
        b'{"version": Infinity, "cas": []}',
        b'{"version": 1, "cas": [-Infinity]}',
        b'{"version": 1e999, "cas": []}',
        b'{"version": ' + b"1" * 5000 + b', "cas": []}',
        b'{"version": 1, "cas": "\\ud800"}',
        b'{"version": 1, "cas": [], "\\ud800": 1}',
        b'{"version": 1, "cas": ["\x00"]}',
        '{"version": 1, "cas": []}'.encode("utf-16"),
    ],
)
def test_what_is_no_document_is_refused(data: bytes) -> None:
    """Anything but one JSON object in UTF-8 is refused, with a message that can be shown."""
    error = refused(data, "", Reason.BAD_DOCUMENT)
    assert error.message.encode()


@pytest.mark.parametrize("name", ["NaN", "Infinity", "-Infinity"])
def test_what_is_no_json_number_is_named(name: str) -> None:
    """The constants that Python would read, and JSON does not have, are told by their name."""
    refused(f'{{"version": {name}, "cas": []}}'.encode(), f"{name} is no JSON number", Reason.BAD_DOCUMENT)


def test_the_line_of_a_json_fault_is_named() -> None:
    """A syntax error names line and column."""
    error = refused(b'{\n "version": 1,\n "cas": [}\n', "line 3, column 10", Reason.BAD_DOCUMENT)
    assert error.facts["line"] == 3


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ('{"version": 1, "version": 1, "cas": []}', "version"),
        ('{"version": 1, "cas": [], "cas": []}', "cas"),
        ('{"version": 1, "cas": [{"policy": {"require": ["1"], "require": ["2"]}}]}', "require"),
    ],
)
def test_a_member_stands_once(text: str, name: str) -> None:
    """A member that stands twice is refused, at any depth: the last one must not win silently."""
    refused(text.encode(), f"'{name}' stands twice", Reason.BAD_DOCUMENT)


def test_many_members_take_linear_time() -> None:
    """A million members in one object are read and refused without comparing each with each."""
    members = ",".join(f'"{number}":0' for number in range(200_000))
    refused(f'{{{members},"0":0}}'.encode(), "'0' stands twice", Reason.BAD_DOCUMENT)
    refused(f"{{{members}}}".encode(), "version", Reason.BAD_DOCUMENT)


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
@pytest.mark.parametrize("depth", [*range(300, 1300, 100), 100_000])
@pytest.mark.parametrize("place", [b'{"version":%s', b'{"version":1,"cas":%s', b'{"version":1,"cas":[],"x":%s', b"%s"])
def test_deep_nesting_is_refused(opening: bytes, depth: int, place: bytes) -> None:
    """However deep a document nests, closed or not, it ends in an error of ours."""
    closing = b"".join({b"[": b"]", b"{": b"}"}[bytes((byte,))] for byte in reversed(opening) if byte in b"[{")
    brace = b"}" if place.startswith(b"{") else b""
    for text in (opening * depth, opening * depth + b"0" + closing * depth):
        with pytest.raises(FormatError) as caught:
            parse_trust_store(place % text + brace)
        assert caught.value.reason in {Reason.BAD_DOCUMENT, Reason.TOO_DEEP}
        assert len(caught.value.message) < 500


def test_a_huge_document_is_not_read() -> None:
    """A document above the limit is refused by its size alone."""
    refused(bytes(MAX_DOCUMENT_BYTES + 1), str(MAX_DOCUMENT_BYTES), Reason.TOO_LARGE)


def test_long_texts_stay_out_of_messages() -> None:
    """A member name or an ID of a megabyte is not repeated in full."""
    long = "x" * 1_000_000
    for document in (
        edited(at(*FIRST, **{long: 1})),
        edited(at(*FIRST, id=long)),
        edited(at(version=long)),
    ):
        with pytest.raises(FormatError) as caught:
            parse_trust_store(dump(document))
        assert len(caught.value.message) < 1000


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 2**65) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)

PLACES: list[tuple[tuple[str | int, ...], str]] = [
    ((), "version"),
    ((), "cas"),
    *((FIRST, name) for name in ("id", "draft", "hash", "cosigners", "policy", "trusted_subtrees", "revoked")),
    *((COSIGNER, name) for name in ("id", "algorithm", "public_key", "state", "tree_size", "log")),
    *((POLICY, name) for name in ("require", "quorum")),
    *((QUORUM, name) for name in ("of", "at_least")),
    *((SUBTREE, name) for name in ("log", "start", "end", "hash", "landmark", "expiry")),
]


@given(st.sampled_from(PLACES), json_values)
def test_any_value_in_any_place_is_read_or_refused(place: tuple[tuple[str | int, ...], str], value: object) -> None:
    """Whatever stands in the place of a member, the answer is a store that is written and read again, or a FormatError.

    Whatever the parser takes the schema takes too.
    """
    path, name = place
    document = edited(at(*path, **{name: value}))
    try:
        store = parse_trust_store(dump(document))
    except FormatError:
        return
    written = format_trust_store(store)
    assert format_trust_store(parse_trust_store(written)) == written
    assert Draft202012Validator(TRUST_STORE_SCHEMA).is_valid(document)


@given(st.binary(max_size=60), st.integers(0, 400), st.integers(0, 20))
def test_damaged_documents_are_read_or_refused(piece: bytes, start: int, length: int) -> None:
    """Any bytes in the place of some of a document end in a store or in a FormatError."""
    data = dump(least_document())
    try:
        parse_trust_store(data[:start] + piece + data[start + length :])
    except FormatError:
        return
