"""The document of evidence: read strictly, written in one form, and bounded."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from tests.note_keys import CA, LOG
from tests.split_views import ORIGIN, SIGNERS, SplitViewCA, every_kind, signed

from mtc.cosign.evidence import (
    MAX_EVIDENCE_BYTES,
    BadEntries,
    Evidence,
    SplitView,
    encode_evidence,
    parse_evidence,
    verify_evidence,
)
from mtc.cosign.evidence.kinds import MAX_REMARK_CHARACTERS
from mtc.errors import FormatError, Reason
from mtc.tiles import MAX_BUNDLE_BYTES, EntriesTile

ALL = [evidence for signer in SIGNERS for evidence in every_kind(signer)]
NAMES = [f"{evidence.kind}-{evidence.subject.type.name}" for evidence in ALL]


class TestDocument:
    """The JSON document."""

    @pytest.mark.parametrize("evidence", ALL, ids=NAMES)
    def test_round_trip(self, evidence: Evidence) -> None:
        """A document is read back to the same evidence, and written to the same bytes."""
        data = encode_evidence(evidence)
        assert parse_evidence(data) == evidence
        assert encode_evidence(parse_evidence(data)) == data

    @pytest.mark.parametrize("evidence", every_kind(LOG), ids=lambda item: item.kind)
    def test_every_truncation_and_trailing_bytes(self, evidence: Evidence) -> None:
        """A document that is cut off anywhere, or goes on, is refused."""
        data = encode_evidence(evidence).rstrip()
        for cut in range(len(data)):
            with pytest.raises(FormatError):
                parse_evidence(data[:cut])
        for tail in (b"x", b"{}", b"\0"):
            with pytest.raises(FormatError):
                parse_evidence(data + tail)

    @pytest.mark.parametrize("evidence", ALL, ids=NAMES)
    def test_each_member_is_needed_and_typed(self, evidence: Evidence) -> None:
        """A member that is missing, of another type, or not known is refused with its place."""
        document = json.loads(encode_evidence(evidence))
        for path in _paths(document):
            if path[0] != "collected":
                self.refuse(_changed(document, path, ...))
            values: tuple[object, ...] = (None, True, -1, 1.5, {}, [], [1], "", "\ud800", "é", 2**70, ["x"] * 99)
            for value in values:
                if type(value) is type(_value(document, path)) and value != "\ud800":
                    continue
                self.refuse(_changed(document, path, value))
        for path in [(), *(path for path in _paths(document) if isinstance(_value(document, path), dict))]:
            self.refuse(_changed(document, (*path, "extra"), "x"))

    def refuse(self, document: object) -> FormatError:
        """Return why a document is refused."""
        with pytest.raises(FormatError) as caught:
            parse_evidence(json.dumps(document).encode())
        return caught.value

    def test_place_of_a_fault(self) -> None:
        """The error names where the fault stands."""
        by_kind = {item.kind: json.loads(encode_evidence(item)) for item in every_kind()}
        by_kind["subtree"]["exhibit"]["signed"]["start"] = 5
        assert self.refuse(by_kind["subtree"]).facts["place"] == "exhibit.signed"
        by_kind["bad-entries"]["exhibit"]["served"] *= 2
        assert self.refuse(by_kind["bad-entries"]).message.startswith("exhibit: ")
        document = json.loads(encode_evidence(every_kind()[1]))
        document["exhibit"]["proof"][1] = "?"
        assert self.refuse(document).facts["place"] == "exhibit.proof[1]"
        document["exhibit"]["proof"] = []
        document["exhibit"]["newer"] = "x"
        assert self.refuse(document).facts["place"] == "exhibit.newer"

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (b"", Reason.BAD_DOCUMENT),
            (b"[]", Reason.BAD_DOCUMENT),
            (b"\xff", Reason.BAD_DOCUMENT),
            (b'{"format":"mtc-evidence/v2"}', Reason.UNKNOWN_FORMAT),
            (b"{}", Reason.UNKNOWN_FORMAT),
            (b'{"format":"mtc-evidence/v1","format":"mtc-evidence/v1"}', Reason.BAD_DOCUMENT),
            (b'{"format":"mtc-evidence/v1","kind":"x"}', Reason.BAD_DOCUMENT),
            (b'{"format":NaN}', Reason.BAD_DOCUMENT),
            (b'{"format":' + b"9" * 5000 + b"}", Reason.BAD_DOCUMENT),
            (b'{"format":' + b"[" * 4000, Reason.TOO_DEEP),
            (b'{"format":[' + b"{}," * 5000, Reason.TOO_LARGE),
            (b'{"format":[' + b'"",' * 50000, Reason.TOO_LARGE),
            (b" " * (MAX_EVIDENCE_BYTES + 1), Reason.TOO_LARGE),
        ],
        # Ids are not made of the documents: one has 32 MiB, and pytest-xdist sends each id to and fro.
        ids=range(13),
    )
    def test_hostile_documents(self, data: bytes, reason: Reason) -> None:
        """What is no document of this format is refused early, with its reason."""
        with pytest.raises(FormatError) as caught:
            parse_evidence(data)
        assert caught.value.reason is reason

    def test_member_that_stands_twice(self) -> None:
        """A document in which a member stands twice, with the same value even, is refused."""
        data = encode_evidence(ALL[0])
        for line in (b' "kind": "split-view",\n', f' "origin": "{ORIGIN}",\n'.encode()):
            assert line in data
            with pytest.raises(FormatError) as caught:
                parse_evidence(data.replace(line, line * 2))
            assert "twice" in caught.value.message

    def test_log_cannot_sign_itself_out_of_evidence(self) -> None:
        """A checkpoint with long extension lines of brackets, quotes and commas is evidence like any other."""
        ca = SplitViewCA(5)
        lines = ('{["\\' * 20_000, ',"\\\\"' * 20_000, '"' * 20_000)
        notes = [signed(replace(ca.checkpoint(view, 9), extensions=lines), CA, at=1) for view in "AB"]
        evidence = Evidence(CA.key, ORIGIN, SplitView(*notes))
        assert verify_evidence(parse_evidence(encode_evidence(evidence))).is_proof

    def test_largest_bundle_fits(self) -> None:
        """A bundle of 256 of the largest entries that was served falsely can be kept."""
        ca = SplitViewCA(256, length=256)
        (tile, hashes), (place, _) = ca.tiles("A", 256).items()
        content = (b"\xff\xff" + bytes(65535)) * 256
        evidence = Evidence(CA.key, ORIGIN, BadEntries(ca.note("A", 256), ((tile, hashes), (place, content))))
        assert verify_evidence(parse_evidence(encode_evidence(evidence))).testimony

    def test_what_could_not_be_read_is_not_written(self) -> None:
        """Evidence that is larger than a reader takes is refused when it is written."""
        content = bytes(MAX_BUNDLE_BYTES)
        served = tuple((EntriesTile(at), content) for at in range(2))
        with pytest.raises(FormatError) as caught:
            encode_evidence(Evidence(CA.key, ORIGIN, BadEntries(SplitViewCA(5).note("A", 9), served)))
        assert caught.value.reason is Reason.TOO_LARGE

    def test_remarks_are_bounded(self) -> None:
        """Who collected evidence has a bounded name."""
        with pytest.raises(FormatError):
            ALL[0].collected("", "x" * (MAX_REMARK_CHARACTERS + 1))


def _paths(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the places of everything in a JSON value."""
    items: list[tuple[Any, object]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list):
        items = list(enumerate(value))[:1]
    for name, item in items:
        if isinstance(name, str):
            yield (*path, name)
        yield from _paths(item, (*path, name))


def _value(document: Any, path: tuple[Any, ...]) -> Any:  # noqa: ANN401 - JSON
    """Return what stands at a place."""
    for name in path:
        document = document[name]
    return document


def _changed(document: object, path: tuple[Any, ...], value: object) -> object:
    """Return a copy of a document with another value at a place; `...` leaves it out."""
    copy = json.loads(json.dumps(document))
    parent = _value(copy, path[:-1])
    if value is ...:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return copy
