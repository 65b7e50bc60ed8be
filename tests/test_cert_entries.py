"""Log entries: the published bytes both ways, their hashes, what is carried unread, and what is refused."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.makers import HOST, LEAF_SPKI, Leaf, SmallCA

from mtc.cert import (
    MAX_ENTRY_BYTES,
    Certificate,
    EntryExtension,
    LogEntry,
    MTCProof,
    TBSCertificateLogEntry,
    encode_name,
    entry_hash,
)
from mtc.cert.entry import encode_entry_extensions, parse_entry_extensions
from mtc.errors import FormatError, Reason, UsageError
from mtc.ids import REVISIONS, TrustAnchorID
from mtc.kernel import Kernel
from mtc.merkle import Subtree
from mtc.wire import (
    DERReader,
    Tag,
    encode_explicit,
    encode_integer,
    encode_octet_string,
    encode_sequence,
    encode_time,
    encode_tlv,
)

LoadVectors = Callable[[str], Any]

entry_extensions = st.dictionaries(st.integers(0, 0xFFFF), st.binary(max_size=40), max_size=5).map(
    lambda found: tuple(EntryExtension(kind, found[kind]) for kind in sorted(found))
)


def entry_of(**changes: Any) -> TBSCertificateLogEntry:  # noqa: ANN401 - any field
    """Return a sound entry with some fields changed."""
    return replace(Leaf().entry(SmallCA()), **changes)


def spki_of(tbs: bytes) -> bytes:
    """Return the SubjectPublicKeyInfo of a TBSCertificate."""
    fields = DERReader(tbs, "the TBSCertificate").enter(Tag.SEQUENCE)
    for _ in range(6):
        fields.read_tlv()
    return fields.read_tlv(Tag.SEQUENCE)


@pytest.mark.parametrize("version", REVISIONS)
def test_published_log_entries_are_read_and_written_byte_for_byte(load_vectors: LoadVectors, version: str) -> None:
    """Each published log entry parses, and encodes to the same bytes again."""
    cases = [case for case in load_vectors("log_entries.json")["cases"] if case["version"] == version]
    assert len(cases) == 4
    for case in cases:
        data = bytes.fromhex(case["log_entry"])
        entry = LogEntry.parse(data)
        assert entry.encode(REVISIONS[version]) == data
        tbs = entry.tbs_certificate
        assert (tbs is None) == (case["name"] == "null entry")
        if tbs is not None:
            assert tbs.encode() == entry.body
            assert tbs.ca_id == TrustAnchorID.parse(case["ca_id"])
            assert tbs.not_before == datetime.fromisoformat(case["fields"]["NotBefore"])
            assert tbs.not_after == datetime.fromisoformat(case["fields"]["NotAfter"])
            assert LogEntry.of_certificate(tbs) == entry


def test_published_leaf_hashes_are_reproduced(load_vectors: LoadVectors, kernel: Kernel) -> None:
    """The leaf hash of each published entry is HASH(0x00 || entry)."""
    hasher = kernel.hasher("sha256")
    hashes = 0
    for case in load_vectors("log_entries.json")["cases"]:
        if "leaf_hash" in case:
            entry = LogEntry.parse(bytes.fromhex(case["log_entry"]))
            assert entry_hash(hasher, entry, REVISIONS[case["version"]]).hex() == case["leaf_hash"]
            hashes += 1
    assert hashes == 12


def test_published_certificates_and_entries_lead_to_each_other(load_vectors: LoadVectors, kernel: Kernel) -> None:
    """From each published entry the published TBSCertificate is built, and from that the entry is rebuilt."""
    hasher = kernel.hasher("sha256")
    for case in load_vectors("log_entries.json")["cases"]:
        if "tbs_certificate" not in case:
            continue
        data, tbs = bytes.fromhex(case["log_entry"]), bytes.fromhex(case["tbs_certificate"])
        revision = REVISIONS[case["version"]]
        entry = LogEntry.parse(data).tbs_certificate
        assert entry is not None
        spki = spki_of(tbs)
        assert entry.spki_hash == hasher.digest(spki)
        proof = MTCProof(Subtree(0, 1), ())
        certificate = Certificate.build(entry, spki, int(case["serial"]), proof, revision)
        assert tbs in certificate
        # The published serial number, 1234, names log 0; the certificate parses with one that names an entry.
        sound = Certificate.parse(Certificate.build(entry, spki, 1 << 48 | 1234, proof, revision))
        assert sound.log_entry(hasher).encode(revision) == data
        assert revision in sound.revisions


@pytest.mark.parametrize(
    ("name", "places"),
    [("log_boringssl_x509_plants05.json", "entry_samples"), ("log_demo.json", "entry_samples_plants07")],
)
def test_entries_of_other_logs_are_read_and_written_byte_for_byte(
    load_vectors: LoadVectors, name: str, places: str
) -> None:
    """Sampled entries of the BoringSSL log and of the working group's demo parse and encode to the same bytes."""
    samples = load_vectors(name)[places]
    assert samples
    for sample in samples:
        data = bytes.fromhex(sample["entry"])
        assert LogEntry.parse(data).encode() == data


def test_a_null_entry_is_four_zero_bytes() -> None:
    """The null entry has no extensions, type 0 and no body, and certifies nothing."""
    assert LogEntry().encode() == bytes(4)
    assert LogEntry.parse(bytes(4)) == LogEntry()
    assert LogEntry().tbs_certificate is None


def test_a_null_entry_has_no_body() -> None:
    """Bytes behind the type of a null entry are refused."""
    with pytest.raises(FormatError) as caught:
        LogEntry.parse(bytes(5))
    assert caught.value.reason is Reason.TRAILING_DATA


def test_a_null_entry_may_have_extensions() -> None:
    """The extensions of a null entry are carried like those of any other."""
    entry = LogEntry(extensions=(EntryExtension(0xF000, b"x"),))
    assert entry.encode().hex() == "0005f0000001780000"
    assert LogEntry.parse(entry.encode()) == entry


@given(st.integers(2, 0xFFFF), st.binary(max_size=60), entry_extensions)
def test_unknown_entry_types_are_carried_as_they_are(
    kind: int, body: bytes, extensions: tuple[EntryExtension, ...]
) -> None:
    """An entry of an unknown type keeps its body and extensions, and certifies nothing that we can read."""
    entry = LogEntry(kind, body, extensions)
    assert LogEntry.parse(entry.encode()) == entry
    assert entry.tbs_certificate is None


@given(entry_extensions)
def test_entry_extensions_are_read_as_written(extensions: tuple[EntryExtension, ...]) -> None:
    """Extensions of any type and content are read back, whether or not anybody knows them."""
    vector = encode_entry_extensions(extensions)
    assert int.from_bytes(vector[:2], "big") == len(vector) - 2
    assert parse_entry_extensions(vector[2:]) == extensions


@pytest.mark.parametrize(
    ("vector", "reason"),
    [
        ("0001000000010000", Reason.DUPLICATE),
        ("0002000000010000", Reason.BAD_ORDER),
        ("000100", Reason.TRUNCATED),
        ("0001000278", Reason.TRUNCATED),
        ("000100000000", Reason.TRUNCATED),
    ],
)
def test_entry_extensions_out_of_form_are_refused(vector: str, reason: Reason) -> None:
    """Types must strictly ascend, and each extension must be whole."""
    with pytest.raises(FormatError) as caught:
        parse_entry_extensions(bytes.fromhex(vector))
    assert caught.value.reason is reason
    with pytest.raises(FormatError) as caught:
        LogEntry.parse((len(vector) // 2).to_bytes(2, "big") + bytes.fromhex(vector) + bytes(2))
    assert caught.value.reason is reason


@pytest.mark.parametrize("kinds", [(1, 1), (2, 1), (0xFFFF, 0)])
def test_entry_extensions_out_of_order_are_not_written(kinds: tuple[int, int]) -> None:
    """The writer refuses extensions whose types do not strictly ascend."""
    with pytest.raises(UsageError) as caught:
        encode_entry_extensions(tuple(EntryExtension(kind, b"") for kind in kinds))
    assert caught.value.reason is Reason.BAD_ORDER


def test_the_extensions_vector_ends_at_65535_bytes() -> None:
    """Extensions that do not fit their vector are not written."""
    assert len(encode_entry_extensions((EntryExtension(1, bytes(65531)),))) == 65537
    with pytest.raises(UsageError) as caught:
        encode_entry_extensions((EntryExtension(1, bytes(65532)),))
    assert caught.value.reason is Reason.TOO_LARGE


def test_an_entry_has_at_most_65535_bytes() -> None:
    """From -06 on a larger entry is not written; the older revisions only advise against it. None is read."""
    largest = LogEntry(2, bytes(MAX_ENTRY_BYTES - 4))
    larger = LogEntry(2, bytes(MAX_ENTRY_BYTES - 3))
    assert LogEntry.parse(largest.encode()) == largest
    for name, revision in REVISIONS.items():
        if name in {"plants-04", "plants-05"}:
            assert len(larger.encode(revision)) == MAX_ENTRY_BYTES + 1
            continue
        with pytest.raises(UsageError) as caught:
            larger.encode(revision)
        assert caught.value.reason is Reason.TOO_LARGE
    with pytest.raises(FormatError) as refused:
        LogEntry.parse(larger.encode(REVISIONS["plants-05"]))
    assert refused.value.reason is Reason.TOO_LARGE


def test_every_truncation_of_an_entry_is_refused() -> None:
    """No proper prefix of a certificate entry is an entry, except where only optional fields are missing."""
    ca = SmallCA((Leaf(entry_extensions=(EntryExtension(7, b"seven"),)),))
    data = ca.log_entries[0].encode()
    entry = ca.log_entries[0].tbs_certificate
    assert entry is not None
    without_extensions = len(data) - len(entry.tail)
    for end in range(len(data)):
        if end == without_extensions:
            LogEntry.parse(data[:end])
            continue
        with pytest.raises(FormatError):
            LogEntry.parse(data[:end])


def test_trailing_bytes_behind_a_certificate_entry_are_refused() -> None:
    """Nothing may follow the last field."""
    data = SmallCA().log_entries[0].encode()
    for tail in (b"\x00", b"\x05\x00", b"\xa3\x00", b"\x81\x01\x00"):
        with pytest.raises(FormatError) as caught:
            LogEntry.parse(data + tail)
        assert caught.value.reason is Reason.TRAILING_DATA


def test_a_v1_entry_has_no_version_field() -> None:
    """Version 1 is the default and is not written; unique IDs and extensions need a later version."""
    entry = entry_of(version=0, tail=b"")
    assert entry.encode().startswith(entry.issuer)
    assert TBSCertificateLogEntry.parse(entry.encode()) == entry
    assert entry.extensions == ()
    assert entry.unique_ids == (None, None)


def test_a_v3_entry_without_extensions_is_fine() -> None:
    """A v3 certificate may have no extensions field at all."""
    entry = entry_of(tail=b"")
    assert TBSCertificateLogEntry.parse(entry.encode()) == entry
    assert entry.extensions == ()


def test_unique_ids_are_read() -> None:
    """Both unique IDs, either of them and extensions behind them are read as they stand."""
    both = b"\x81\x02\x00a\x82\x03\x07b\x80"
    for version, tail, expected in (
        (1, both, (b"\x00a", b"\x07b\x80")),
        (2, both[:4], (b"\x00a", None)),
        (2, both[4:], (None, b"\x07b\x80")),
        (2, both + entry_of().tail, (b"\x00a", b"\x07b\x80")),
    ):
        entry = TBSCertificateLogEntry.parse(entry_of(version=version, tail=tail).encode())
        assert entry.unique_ids == expected
        assert bool(entry.extensions) == tail.endswith(entry_of().tail)


EMPTY_EXTENSION = encode_sequence(b"\x06\x01\x2a", encode_octet_string(b""))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": 1}, Reason.BAD_VERSION),
        ({"version": 0}, Reason.BAD_VERSION),
        ({"version": 0, "tail": b"\x81\x01\x00"}, Reason.BAD_VERSION),
        ({"version": 0, "tail": b"\x82\x01\x00"}, Reason.BAD_VERSION),
        ({"version": 3, "tail": b""}, Reason.BAD_VERSION),
        ({"version": 1 << 40000, "tail": b""}, Reason.BAD_VERSION),
        ({"tail": b"\x81\x00"}, Reason.BAD_BIT_STRING),
        ({"tail": b"\x82\x00"}, Reason.BAD_BIT_STRING),
        ({"version": 0, "tail": b"\x81\x00"}, Reason.BAD_BIT_STRING),
        ({"tail": b"\x82\x01\x08"}, Reason.BAD_BIT_STRING),
        ({"tail": b"\x82\x01\x00\x81\x01\x00"}, Reason.TRAILING_DATA),
        ({"tail": encode_explicit(3, encode_sequence())}, Reason.BAD_EXTENSION),
        ({"tail": encode_explicit(3, b"")}, Reason.TRUNCATED),
        ({"tail": encode_explicit(3, encode_sequence(EMPTY_EXTENSION) + b"\x05\x00")}, Reason.TRAILING_DATA),
        ({"tail": encode_explicit(3, encode_sequence(EMPTY_EXTENSION, EMPTY_EXTENSION))}, Reason.DUPLICATE_EXTENSION),
        ({"tail": encode_explicit(3, encode_sequence(b"\x30\x00"))}, Reason.TRUNCATED),
        ({"validity": encode_sequence(encode_time(datetime(2026, 1, 1, tzinfo=UTC)))}, Reason.TRUNCATED),
        ({"validity": encode_sequence(b"\x17\x0d261321120000Z" * 2)}, Reason.BAD_TIME),
        ({"validity": encode_sequence(b"\x0c\x0d261121120000Z" * 2)}, Reason.BAD_TAG),
        ({"validity": encode_sequence(b"\x17\x0d261121120000Z" * 3)}, Reason.TRAILING_DATA),
        ({"issuer": encode_tlv(Tag.SET, b"")}, Reason.BAD_TAG),
        ({"subject": b"\x30\x80\x00\x00"}, Reason.BAD_LENGTH),
        ({"spki_algorithm": b""}, Reason.BAD_TAG),
    ],
)
def test_a_malformed_certificate_entry_is_refused(changes: dict[str, Any], reason: Reason) -> None:
    """Each malformation of a field has its reason, in the entry and in the fields alone."""
    body = entry_of(**changes).encode()
    for call in (lambda: TBSCertificateLogEntry.parse(body), lambda: LogEntry.parse(b"\x00\x00\x00\x01" + body)):
        with pytest.raises(FormatError) as caught:
            call()
        assert caught.value.reason is reason


def test_an_explicit_version_1_is_refused() -> None:
    """DER leaves the default out: a version field that says v1 is refused."""
    body = encode_explicit(0, encode_integer(0)) + entry_of(version=0, tail=b"").encode()
    with pytest.raises(FormatError) as caught:
        TBSCertificateLogEntry.parse(body)
    assert caught.value.reason is Reason.BAD_VERSION


def test_the_issuer_of_an_entry_names_its_ca() -> None:
    """`ca_id` reads the issuer and refuses one that is no CA's name."""
    assert entry_of().ca_id == TrustAnchorID.parse("32473.1")
    with pytest.raises(FormatError) as caught:
        _ = entry_of(issuer=encode_name(CN="somebody")).ca_id
    assert caught.value.reason is Reason.BAD_NAME


def test_the_key_of_an_entry_is_hashed_with_the_logs_hash(kernel: Kernel) -> None:
    """The entry holds HASH(SPKI) and the algorithm inside the SPKI byte for byte, for both hashes."""
    for name in ("sha256", "sm3"):
        ca = SmallCA((Leaf(),), hash_name=name, revision=REVISIONS["plants-05"])
        entry = ca.log_entries[0].tbs_certificate
        assert entry is not None
        assert entry.spki_hash == kernel.hasher(name).digest(LEAF_SPKI)
        assert entry.spki_algorithm in LEAF_SPKI
        assert HOST.encode() in entry.encode()


@pytest.mark.parametrize("spki", [b"", b"\x30\x00", LEAF_SPKI + b"\x00", b"\x30\x02\x05\x00"])
def test_an_entry_is_not_built_for_what_is_no_key(spki: bytes) -> None:
    """A public key that has no SubjectPublicKeyInfo frame is refused."""
    with pytest.raises(FormatError):
        Leaf(spki=spki).entry(SmallCA())


@given(st.binary(max_size=80))
def test_any_bytes_are_an_entry_or_refused(data: bytes) -> None:
    """The parser answers with an entry that encodes to the same bytes, or with a FormatError; nothing else."""
    try:
        entry = LogEntry.parse(data)
    except FormatError:
        return
    assert entry.encode() == data


@given(st.data())
def test_damaged_entries_are_entries_or_refused(data: st.DataObject) -> None:
    """An entry with one byte changed encodes to its own bytes again, or is refused with a FormatError."""
    sound = SmallCA((Leaf(entry_extensions=(EntryExtension(7, b"seven"),)),)).log_entries[0].encode()
    at = data.draw(st.integers(0, len(sound) - 1))
    damaged = sound[:at] + bytes((data.draw(st.integers(0, 255)),)) + sound[at + 1 :]
    try:
        entry = LogEntry.parse(damaged)
    except FormatError:
        return
    assert entry.encode() == damaged
