"""The scan of a certificate: foreign ones, and ones made for a purpose, each fault with its reason, on both kernels."""

import hashlib
import random
from calendar import timegm
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from tests.certificates import (
    ALGORITHM,
    CA_ID,
    CA_NAME,
    FOREIGN,
    FORMATS,
    MADE,
    SPKI_ALGORITHM,
    TRUE,
    V2,
    V3,
    Parts,
    encode_proof,
    encode_signatures,
    extension,
    extensions_of_a_leaf,
    foreign_certificates,
    issuer_format,
    serial,
)
from tests.outcomes import outcome, outcome_of
from tests.strategies import HASH_SIZE

from mtc.cert import MAX_ENTRY_BYTES, Certificate
from mtc.errors import Error, FormatError, ProofError, Reason, Rejected
from mtc.ids import REVISIONS, TrustAnchorID, encode_ca_name
from mtc.kernel import (
    MAX_CERTIFICATE_BYTES,
    ExtensionScan,
    IssuerFormat,
    Kernel,
    Scan,
    parse_layout,
    python_kernel,
)
from mtc.kernel._faults import scan_fault
from mtc.merkle import RowReader, Subtree, prove_inclusion, subtree_hash
from mtc.wire import (
    encode_explicit,
    encode_integer,
    encode_octet_string,
    encode_oid,
    encode_sequence,
    encode_time,
    encode_tlv,
    parse_pem,
)

LoadVectors = Callable[[str], Any]


def reason_of(kernel: Kernel, der: bytes) -> tuple[type[Error], Reason, object]:
    """Return family, reason and offset of the error in which a scan of `der` ends; both ways to scan give the same."""
    scanner = kernel.scanner(MADE)
    with pytest.raises(Error) as caught:
        scanner.scan(der)
    (listed,) = scanner.scan_many([der])
    assert outcome(listed) == outcome(caught.value)
    return type(caught.value), caught.value.reason, caught.value.facts["offset"]


def scan(kernel: Kernel, der: bytes, issuers: dict[bytes, IssuerFormat] | None = None) -> Scan:
    """Return what a scan of `der` yields; both ways to scan give the same."""
    scanner = kernel.scanner(MADE if issuers is None else issuers)
    value = scanner.scan(der)
    assert scanner.scan_many([der, der]) == [value, value]
    return Scan(*value)


# Foreign certificates.


def test_foreign_certificates_scan(load_vectors: LoadVectors, kernel: Kernel) -> None:
    """Certificates of BoringSSL and of the demo yield the log entry and subtree hashes published with them."""
    scanner = kernel.scanner(FORMATS)
    counts: Counter[tuple[int | None, int | None, bool]] = Counter()
    for case, der in foreign_certificates(load_vectors):
        info = case["info"]
        if not info:
            continue
        found = Scan(*scanner.scan(der))
        assert found.entry_hash.hex() == info["entry_hash"], case["name"]
        assert found.root.hex() == info["subtree_hash"], case["name"]
        assert (found.start, found.end) == (info["start"], info["end"])
        assert found.serial == info["log"] << 48 | info["index"]
        assert (found.signatures_start == len(der)) == (not info["cosigners"])
        assert found.not_before < found.not_after
        read = ExtensionScan(*kernel.scan_extensions(der, found.extensions_start, found.extensions_end))
        assert read.unknown_critical is None
        counts[read.key_usage, read.purposes, bool(read.dns_names)] += 1
    # The entry at index 32 has no extensions.
    assert counts == {(1, 1, True): 11, (None, None, False): 2}


@pytest.mark.parametrize(
    ("file", "name", "family", "reason"),
    [
        (FOREIGN[0], "mtc-leaf-standalone-cosigner_wrong_order", FormatError, Reason.BAD_ORDER),
        (FOREIGN[2], "cert_33_5", FormatError, Reason.BAD_ORDER),
        (FOREIGN[2], "cert_33_8", FormatError, Reason.ALGORITHM_MISMATCH),
    ],
)
def test_foreign_malformed_certificates(  # noqa: PLR0913 - two fixtures, four columns
    load_vectors: LoadVectors, kernel: Kernel, file: str, name: str, family: type[Error], reason: Reason
) -> None:
    """Foreign certificates with misordered cosigners or two different algorithms are refused for that."""
    case = next(case for case in load_vectors(file)["certificates"] if case["name"] == name)
    with pytest.raises(family) as caught:
        kernel.scanner(FORMATS).scan(parse_pem(case["pem"].encode())[-1].data)
    assert caught.value.reason is reason


def test_other_issuers_are_unknown(load_vectors: LoadVectors, kernel: Kernel) -> None:
    """Without their CA in the table, foreign certificates are of an unknown CA; with another draft they are no MTC."""
    name = encode_ca_name(CA_ID, REVISIONS["plants-04"])
    other = {name: FORMATS[name]._replace(signature_algorithm=ALGORITHM)}
    for case, der in foreign_certificates(load_vectors):
        unknown = outcome_of(lambda: kernel.scanner({}).scan(der))  # noqa: B023 - called at once
        assert isinstance(unknown, tuple)
        assert unknown[:2] == (Rejected, Reason.UNKNOWN_CA), case["name"]
        mixed = outcome_of(lambda: kernel.scanner(other).scan(der))  # noqa: B023 - called at once
        assert isinstance(mixed, tuple)
        assert mixed[1] in {Reason.NOT_MTC, Reason.UNKNOWN_CA}


# Certificates made for a purpose.


@pytest.mark.parametrize("hash_name", ["sha256", "sm3"])
@pytest.mark.parametrize(
    "parts",
    [
        Parts(),
        Parts(version=b"", extensions=None),
        Parts(version=V2, extensions=None),
        Parts(version=V3, extensions=None),
        Parts(version=V2, extensions=None, unique_ids=b"\x81\x02\x00a\x82\x02\x00b"),
        Parts(unique_ids=b"\x81\x02\x00a"),
        Parts(unique_ids=b"\x82\x02\x07\x80"),
        Parts(serial=serial(1, 5)),
        Parts(serial=serial(0x7FFF, 5)),
        Parts(serial=serial(0x8000, 5)),
        Parts(serial=serial(65535, 5)),
        Parts(subject=encode_sequence(encode_tlv(0x31, encode_sequence(encode_oid("2.5.4.3"), b"\x0c\x01x")))),
        Parts(extensions=tuple(extension(f"1.2.{number}", bytes(number)) for number in range(40))),
        Parts(extensions=tuple(extension(f"1.2.{number}", b"") for number in range(256))),
        Parts(extensions=(extension("2.5.29.17", b"not looked at by the scan", critical=True),)),
        Parts(spki_algorithm=encode_sequence(encode_oid("1.2.840.113549.1.1.1"), b"\x05\x00")),
        Parts(key=encode_tlv(0x03, b"\x07\x80")),
        Parts(not_before=encode_time(datetime(1950, 1, 1, tzinfo=UTC))),
    ],
)
def test_made_certificates_scan(kernel: Kernel, parts: Parts, hash_name: str) -> None:
    """Every legal shape of certificate yields its entry hash, put together here from the draft's text."""
    if hash_name not in hashlib.algorithms_available:
        pytest.skip(f"this Python's OpenSSL has no {hash_name}")
    owner = object()
    der = parts.encode()
    found = scan(kernel, der, {CA_NAME: issuer_format(hash_name, owner)})
    assert found.owner is owner
    assert found.entry_hash == found.root == parts.entry_hash(hash_name)
    assert (found.start, found.end) == (5, 6)
    assert encode_integer(found.serial) == parts.serial
    assert found.signatures_start == len(der)
    if parts.extensions is None:
        assert (found.extensions_start, found.extensions_end) == (0, 0)
    else:
        assert der[found.extensions_start : found.extensions_end] == b"".join(parts.extensions)


def test_serials_name_log_and_index(kernel: Kernel) -> None:
    """Serial numbers run from entry 0 of log 1 to entry 2^48 - 2 of log 65535."""
    for log_number, index in ((1, 0), (1, 5), (2, 2**48 - 2), (65535, 0), (65535, 2**48 - 2)):
        parts = Parts(serial=serial(log_number, index), proof=encode_proof(index, index + 1))
        assert scan(kernel, parts.encode()).serial == log_number << 48 | index


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (0, Reason.LOG_NUMBER_ZERO),
        (1, Reason.LOG_NUMBER_ZERO),
        (2**48 - 1, Reason.LOG_NUMBER_ZERO),
        (-1, Reason.SERIAL_OUT_OF_RANGE),
        (-(2**63), Reason.SERIAL_OUT_OF_RANGE),
        (-(2**64), Reason.SERIAL_OUT_OF_RANGE),
        (2**64, Reason.SERIAL_OUT_OF_RANGE),
        (2**64 + (1 << 48), Reason.SERIAL_OUT_OF_RANGE),
        (2**72, Reason.SERIAL_OUT_OF_RANGE),
        (2**160, Reason.SERIAL_OUT_OF_RANGE),
        (2**12_000, Reason.SERIAL_OUT_OF_RANGE),
    ],
)
def test_serials_out_of_range(kernel: Kernel, number: int, reason: Reason) -> None:
    """Serial numbers that are negative, above 2^64 - 1 or of log 0 are refused, of whatever size."""
    der = Parts(serial=encode_integer(number)).encode()
    assert reason_of(kernel, der) == (FormatError, reason, parse_layout(der).serial_start)


def offset_in(der: bytes, part: bytes) -> int:
    """Return where `part` stands in `der`; it must stand there once."""
    assert der.count(part) == 1, part.hex()
    return der.index(part)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("UTC 500101000000Z", (1950, 1, 1, 0, 0, 0)),
        ("UTC 991231235959Z", (1999, 12, 31, 23, 59, 59)),
        ("UTC 000229235959Z", (2000, 2, 29, 23, 59, 59)),
        ("UTC 240229000000Z", (2024, 2, 29, 0, 0, 0)),
        ("UTC 491231235959Z", (2049, 12, 31, 23, 59, 59)),
        ("GEN 20500101000000Z", (2050, 1, 1, 0, 0, 0)),
        ("GEN 19491231235959Z", (1949, 12, 31, 23, 59, 59)),
        ("GEN 20260101000000Z", (2026, 1, 1, 0, 0, 0)),
        ("GEN 19700101000000Z", (1970, 1, 1, 0, 0, 0)),
        ("GEN 20000229000000Z", (2000, 2, 29, 0, 0, 0)),
        ("GEN 24000229000000Z", (2400, 2, 29, 0, 0, 0)),
        ("GEN 00010101000000Z", (1, 1, 1, 0, 0, 0)),
        ("GEN 00040229120000Z", (4, 2, 29, 12, 0, 0)),
        ("GEN 99991231235959Z", (9999, 12, 31, 23, 59, 59)),
    ],
)
def test_times_are_posix_seconds(kernel: Kernel, text: str, expected: tuple[int, ...]) -> None:
    """Both types of time, in every century, are read as POSIX seconds of the proleptic Gregorian calendar."""
    tag = 0x17 if text.startswith("UTC") else 0x18
    moment = encode_tlv(tag, text[4:].encode())
    found = scan(kernel, Parts(not_before=moment, not_after=moment).encode())
    assert found.not_before == found.not_after == timegm(expected)


def test_days_of_all_centuries_are_posix_seconds(kernel: Kernel) -> None:
    """First and last days of months, and days that no month has, are what the calendar says, from year 1 to 9999."""
    years, months, places = range(1, 10_000), range(1, 13), (1, 28, 29, 30, 31)
    days = random.Random(1).sample([(year, month, day) for year in years for month in months for day in places], 4000)
    ders = [Parts(not_after=encode_tlv(0x18, b"%04d%02d%02d123456Z" % day)).encode() for day in days]
    for day, found in zip(days, kernel.scanner(MADE).scan_many(ders), strict=True):
        try:
            moment = datetime(*day, 12, 34, 56, tzinfo=UTC)
        except ValueError:
            assert isinstance(found, FormatError)
            assert found.reason is Reason.BAD_TIME
        else:
            assert isinstance(found, tuple)
            assert found[3] == (moment - datetime(1970, 1, 1, tzinfo=UTC)).total_seconds()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"Z",
        b"2601010000Z",
        b"260101000000",
        b"260101000000z",
        b"260101000000+",
        b"260101000000+0000",
        b"26010100000 Z",
        b"2601010000-1Z",
        b"260101\xb2\xb20000Z",
        b"260001000000Z",
        b"261301000000Z",
        b"260100000000Z",
        b"260132000000Z",
        b"260431000000Z",
        b"260229000000Z",
        b"260230000000Z",
        b"260101240000Z",
        b"260101006000Z",
        b"260101000060Z",
        b"19000229000000Z",
        b"21000229000000Z",
        b"00000101000000Z",
        b"20260101000000.0Z",
        b"20260101000000.Z",
    ],
)
def test_bad_times(kernel: Kernel, text: bytes) -> None:
    """Times without seconds, zone Z or a place in the calendar are refused in both fields and both types."""
    good = Parts()
    for tag in (0x17, 0x18):
        bad = encode_tlv(tag, text)
        first, second = replace(good, not_before=bad).encode(), replace(good, not_after=bad).encode()
        at = parse_layout(good.encode()).issuer_end + 2
        # A longer time moves nothing in front of it, as long as no length around it grows.
        shift = parse_header_shift(good.encode(), first)
        assert reason_of(kernel, first) == (FormatError, Reason.BAD_TIME, at + shift)
        assert reason_of(kernel, second) == (FormatError, Reason.BAD_TIME, at + shift + len(good.not_before))


def parse_header_shift(before: bytes, after: bytes) -> int:
    """Return by how many bytes the fields of a changed certificate moved, because the headers around them grew."""
    return after.index(ALGORITHM) - before.index(ALGORITHM)


NAME = encode_sequence(encode_tlv(0x31, encode_sequence(encode_oid("2.5.4.3"), b"\x0c\x01x")))
LEAF_HASHES = b"".join(bytes((number,)) * HASH_SIZE for number in range(1, 10))


@pytest.mark.parametrize(
    ("parts", "family", "reason"),
    [
        # Frame and fields of the TBSCertificate.
        (Parts(outer_tail=b"\x05\x00"), FormatError, Reason.TRAILING_DATA),
        (Parts(version=encode_explicit(0, encode_integer(0))), FormatError, Reason.BAD_VERSION),
        (Parts(version=encode_explicit(0, encode_integer(3))), FormatError, Reason.BAD_VERSION),
        (Parts(version=encode_explicit(0, encode_integer(-1))), FormatError, Reason.BAD_VERSION),
        (Parts(version=encode_explicit(0, encode_integer(256))), FormatError, Reason.BAD_VERSION),
        (Parts(version=encode_explicit(0, b"\x02\x00")), FormatError, Reason.BAD_VERSION),
        (Parts(version=encode_explicit(0, encode_integer(2) * 2)), FormatError, Reason.TRAILING_DATA),
        (Parts(version=encode_explicit(0, b"")), FormatError, Reason.TRUNCATED),
        (Parts(version=encode_explicit(0, b"\x04\x01\x02")), FormatError, Reason.BAD_TAG),
        (Parts(version=b""), FormatError, Reason.BAD_VERSION),
        (Parts(version=V2), FormatError, Reason.BAD_VERSION),
        (Parts(version=b"", extensions=None, unique_ids=b"\x81\x02\x00a"), FormatError, Reason.BAD_VERSION),
        (Parts(serial=b"\x02\x00"), FormatError, Reason.BAD_INTEGER),
        (Parts(serial=b"\x02\x02\x00\x05"), FormatError, Reason.BAD_INTEGER),
        (Parts(serial=b"\x02\x02\xff\x85"), FormatError, Reason.BAD_INTEGER),
        (Parts(serial=b"\x04\x01\x05"), FormatError, Reason.BAD_TAG),
        (Parts(serial=b""), FormatError, Reason.BAD_TAG),
        (Parts(signature=b"\x06\x01\x2a"), FormatError, Reason.BAD_TAG),
        (Parts(issuer=b"\x31\x00"), FormatError, Reason.BAD_TAG),
        (Parts(not_before=b"\x19\x00"), FormatError, Reason.BAD_TAG),
        (Parts(not_before=b"", not_after=b""), FormatError, Reason.TRUNCATED),
        (Parts(not_after=b""), FormatError, Reason.TRUNCATED),
        (Parts(not_after=b"\x17"), FormatError, Reason.TRUNCATED),
        (Parts(validity_tail=b"\x05\x00"), FormatError, Reason.TRAILING_DATA),
        (Parts(subject=b"\x0c\x00"), FormatError, Reason.BAD_TAG),
        (Parts(spki_algorithm=b"\x06\x01\x2a"), FormatError, Reason.BAD_TAG),
        (Parts(key=b"\x04\x01\x00"), FormatError, Reason.BAD_TAG),
        (Parts(key=b"\x03\x00"), FormatError, Reason.BAD_BIT_STRING),
        (Parts(key=b"\x03\x02\x08\x00"), FormatError, Reason.BAD_BIT_STRING),
        (Parts(key=b"\x03\x01\x00\x05\x00"), FormatError, Reason.TRAILING_DATA),
        (Parts(unique_ids=b"\x81\x00"), FormatError, Reason.BAD_BIT_STRING),
        (Parts(unique_ids=b"\x82\x02\x08a"), FormatError, Reason.BAD_BIT_STRING),
        (Parts(unique_ids=b"\x82\x02\x00b\x81\x02\x00a"), FormatError, Reason.TRAILING_DATA),
        (Parts(unique_ids=b"\x81\x02\x00a" * 2), FormatError, Reason.TRAILING_DATA),
        (Parts(tail=b"\x05\x00"), FormatError, Reason.TRAILING_DATA),
        # Extensions.
        (Parts(extensions=()), FormatError, Reason.BAD_EXTENSION),
        (Parts(extensions=None, tail=encode_explicit(3, b"")), FormatError, Reason.TRUNCATED),
        (Parts(extensions=None, tail=encode_explicit(3, b"\x31\x00")), FormatError, Reason.BAD_TAG),
        (
            Parts(extensions=None, tail=encode_explicit(3, encode_sequence(extension("1.2", b"")) + b"\x05\x00")),
            FormatError,
            Reason.TRAILING_DATA,
        ),
        (Parts(extensions=(extension("1.2", b""),) * 2), FormatError, Reason.DUPLICATE_EXTENSION),
        (
            Parts(extensions=(extension("1.2", b""), extension("1.3", b""), extension("1.2", b"x", critical=True))),
            FormatError,
            Reason.DUPLICATE_EXTENSION,
        ),
        (
            Parts(extensions=tuple(extension(f"1.2.{number}", b"") for number in range(257))),
            FormatError,
            Reason.TOO_LARGE,
        ),
        (Parts(extensions=(b"\x30\x00",)), FormatError, Reason.TRUNCATED),
        (Parts(extensions=(b"\x31\x00",)), FormatError, Reason.BAD_TAG),
        (Parts(extensions=(encode_sequence(encode_oid("1.2")),)), FormatError, Reason.TRUNCATED),
        (Parts(extensions=(encode_sequence(b"\x06\x00\x04\x00"),)), FormatError, Reason.BAD_OID),
        (Parts(extensions=(encode_sequence(b"\x06\x01\x80\x04\x00"),)), FormatError, Reason.BAD_OID),
        (Parts(extensions=(encode_sequence(b"\x06\x02\x80\x01\x04\x00"),)), FormatError, Reason.BAD_OID),
        (Parts(extensions=(encode_sequence(b"\x06\x03\x2a\x80\x01\x04\x00"),)), FormatError, Reason.BAD_OID),
        (
            Parts(extensions=(encode_sequence(encode_oid("1.2"), b"\x01\x01\x00", encode_octet_string(b"")),)),
            FormatError,
            Reason.BAD_BOOLEAN,
        ),
        (
            Parts(extensions=(encode_sequence(encode_oid("1.2"), b"\x01\x00", encode_octet_string(b"")),)),
            FormatError,
            Reason.BAD_BOOLEAN,
        ),
        (
            Parts(extensions=(encode_sequence(encode_oid("1.2"), TRUE, TRUE, encode_octet_string(b"")),)),
            FormatError,
            Reason.BAD_TAG,
        ),
        (
            Parts(extensions=(encode_sequence(encode_oid("1.2"), encode_octet_string(b""), b"\x05\x00"),)),
            FormatError,
            Reason.TRAILING_DATA,
        ),
        # Issuer and algorithms.
        (Parts(issuer=NAME), Rejected, Reason.UNKNOWN_CA),
        (Parts(signature=SPKI_ALGORITHM), Rejected, Reason.NOT_MTC),
        (
            Parts(signature=encode_sequence(encode_oid("1.3.6.1.5.5.7.6.67"), b"\x05\x00")),
            Rejected,
            Reason.NOT_MTC,
        ),
        (Parts(outer_signature=SPKI_ALGORITHM), FormatError, Reason.ALGORITHM_MISMATCH),
        # The MTCProof.
        (Parts(unused_bits=b"", proof=b""), FormatError, Reason.BAD_BIT_STRING),
        (Parts(unused_bits=b"\x01"), FormatError, Reason.BAD_BIT_STRING),
        (Parts(proof=b""), FormatError, Reason.TRUNCATED),
        (Parts(proof=encode_proof()[:-1]), FormatError, Reason.TRUNCATED),
        (Parts(proof=encode_proof() + b"\x00"), FormatError, Reason.TRAILING_DATA),
        (Parts(proof=encode_proof(extensions=b"\x00\x01\x00")), FormatError, Reason.TRUNCATED),
        (Parts(proof=encode_proof(extensions=b"\x00\x01\x00\x01")), FormatError, Reason.TRUNCATED),
        (Parts(proof=encode_proof(extensions=b"\x00\x01\x00\x00" * 2)), FormatError, Reason.DUPLICATE),
        (
            Parts(proof=encode_proof(extensions=b"\x00\x02\x00\x00\x00\x01\x00\x00")),
            FormatError,
            Reason.BAD_ORDER,
        ),
        (Parts(proof=encode_proof(proof=bytes(31))), FormatError, Reason.BAD_PROOF_LENGTH),
        (Parts(proof=encode_proof(proof=bytes(33))), FormatError, Reason.BAD_PROOF_LENGTH),
        (Parts(proof=encode_proof(signatures=encode_signatures([b""]))), FormatError, Reason.BAD_TRUST_ANCHOR_ID),
        (
            Parts(proof=encode_proof(signatures=encode_signatures([bytes(33)]))),
            FormatError,
            Reason.BAD_TRUST_ANCHOR_ID,
        ),
        (Parts(proof=encode_proof(signatures=encode_signatures([b"a", b"a"]))), FormatError, Reason.DUPLICATE),
        (Parts(proof=encode_proof(signatures=encode_signatures([b"b", b"a"]))), FormatError, Reason.BAD_ORDER),
        (Parts(proof=encode_proof(signatures=encode_signatures([b"aa", b"b"]))), FormatError, Reason.BAD_ORDER),
        (Parts(proof=encode_proof(signatures=b"\x01a\x00")), FormatError, Reason.TRUNCATED),
        (Parts(proof=encode_proof(signatures=b"\x00\x00")), FormatError, Reason.TRUNCATED),
        (Parts(proof=encode_proof(signatures=b"\x01a\x00\x01")), FormatError, Reason.TRUNCATED),
        (Parts(proof=encode_proof(signatures=b"\x05a\x00\x01")), FormatError, Reason.TRUNCATED),
        # Subtree and inclusion proof.
        (Parts(proof=encode_proof(6, 5)), FormatError, Reason.BAD_SUBTREE),
        (Parts(proof=encode_proof(1, 9)), FormatError, Reason.BAD_SUBTREE),
        (Parts(proof=encode_proof(2, 2**48 - 1)), FormatError, Reason.BAD_SUBTREE),
        (Parts(proof=encode_proof(5, 5)), ProofError, Reason.INDEX_NOT_IN_SUBTREE),
        (Parts(proof=encode_proof(6, 7)), ProofError, Reason.INDEX_NOT_IN_SUBTREE),
        (Parts(proof=encode_proof(0, 5)), ProofError, Reason.INDEX_NOT_IN_SUBTREE),
        (Parts(proof=encode_proof(5, 6, LEAF_HASHES[:32])), ProofError, Reason.PROOF_TOO_LONG),
        (Parts(proof=encode_proof(4, 8, LEAF_HASHES[:32])), ProofError, Reason.PROOF_TOO_SHORT),
        (Parts(proof=encode_proof(4, 8, LEAF_HASHES[:96])), ProofError, Reason.PROOF_TOO_LONG),
        (Parts(proof=encode_proof(0, 2**48 - 1, LEAF_HASHES)), ProofError, Reason.PROOF_TOO_SHORT),
    ],
)
def test_each_fault_has_its_reason(kernel: Kernel, parts: Parts, family: type[Error], reason: Reason) -> None:
    """A certificate with one fault is refused for that fault, at the same place by both kernels."""
    der = parts.encode()
    found = reason_of(kernel, der)
    assert found == reason_of(python_kernel(), der)
    assert found[:2] == (family, reason)
    assert isinstance(found[2], int)
    assert 0 < found[2] <= len(der)


def test_faults_are_located(kernel: Kernel) -> None:
    """The offset in the error is that of the faulty TLV, vector or field."""
    twice = Parts(extensions=(extension("1.2", b"first"), extension("1.2", b"again")))
    der = twice.encode()
    at = offset_in(der, extension("1.2", b"again"))
    assert reason_of(kernel, der) == (FormatError, Reason.DUPLICATE_EXTENSION, at)
    der = Parts(proof=encode_proof(signatures=encode_signatures([b"bb", b"aa"]))).encode()
    assert reason_of(kernel, der) == (FormatError, Reason.BAD_ORDER, offset_in(der, encode_signatures([b"aa"])))
    der = Parts(issuer=NAME).encode()
    assert reason_of(kernel, der) == (Rejected, Reason.UNKNOWN_CA, offset_in(der, NAME))
    der = Parts(outer_signature=SPKI_ALGORITHM, spki_algorithm=encode_sequence()).encode()
    assert reason_of(kernel, der) == (FormatError, Reason.ALGORITHM_MISMATCH, offset_in(der, SPKI_ALGORITHM))
    der = Parts(proof=encode_proof(1, 9)).encode()
    place = offset_in(der, encode_proof(1, 9)) + 2
    assert reason_of(kernel, der) == (FormatError, Reason.BAD_SUBTREE, place)
    der = Parts(proof=encode_proof(4, 8, LEAF_HASHES[:32])).encode()
    assert reason_of(kernel, der) == (ProofError, Reason.PROOF_TOO_SHORT, offset_in(der, LEAF_HASHES[:32]))


def test_first_fault_wins(kernel: Kernel) -> None:
    """Of several faults the promised order decides: layout, issuer, algorithms, proof, serial number, subtree, path."""
    parts = Parts(
        extensions=(),
        issuer=NAME,
        signature=SPKI_ALGORITHM,
        outer_signature=ALGORITHM,
        proof=encode_proof(6, 5, bytes(31)),
        serial=encode_integer(0),
    )
    steps: list[tuple[dict[str, Any], Reason]] = [
        ({}, Reason.BAD_EXTENSION),
        ({"extensions": None}, Reason.UNKNOWN_CA),
        ({"issuer": CA_NAME}, Reason.NOT_MTC),
        ({"signature": ALGORITHM, "outer_signature": SPKI_ALGORITHM}, Reason.ALGORITHM_MISMATCH),
        ({"outer_signature": None}, Reason.BAD_PROOF_LENGTH),
        ({"proof": encode_proof(6, 5, bytes(32))}, Reason.LOG_NUMBER_ZERO),
        ({"serial": serial(1, 5)}, Reason.BAD_SUBTREE),
        ({"proof": encode_proof(6, 7, bytes(32))}, Reason.INDEX_NOT_IN_SUBTREE),
        ({"proof": encode_proof(5, 6, bytes(32))}, Reason.PROOF_TOO_LONG),
    ]
    for change, reason in steps:
        parts = replace(parts, **change)
        assert reason_of(kernel, parts.encode())[1] is reason


def test_largest_certificates(kernel: Kernel) -> None:
    """A certificate of the largest size is read whole, and one byte more is not."""
    frame = len(Parts(subject=encode_tlv(0x30, bytes(1 << 23))).encode()) - (1 << 23)
    rest = MAX_CERTIFICATE_BYTES - frame
    largest = Parts(subject=encode_tlv(0x30, bytes(rest))).encode()
    assert len(largest) == MAX_CERTIFICATE_BYTES
    unlimited = {CA_NAME: issuer_format()._replace(entry_limit=MAX_CERTIFICATE_BYTES)}
    assert scan(kernel, largest, unlimited).end == 6
    beyond = Parts(subject=encode_tlv(0x30, bytes(rest + 1))).encode()
    assert reason_of(kernel, beyond) == (FormatError, Reason.TOO_LARGE, 0)


def test_entries_up_to_the_limit(kernel: Kernel) -> None:
    """A certificate whose log entry has 65,535 bytes is read; one byte more is too large where the draft says MUST."""
    small = Parts(subject=encode_tlv(0x30, bytes(1 << 15)))
    rest = MAX_ENTRY_BYTES - len(small.log_entry()) + (1 << 15)
    largest = Parts(subject=encode_tlv(0x30, bytes(rest)))
    assert len(largest.log_entry()) == MAX_ENTRY_BYTES
    assert scan(kernel, largest.encode()).entry_hash == largest.entry_hash()
    beyond = Parts(subject=encode_tlv(0x30, bytes(rest + 1))).encode()
    assert reason_of(kernel, beyond)[:2] == (FormatError, Reason.TOO_LARGE)
    with pytest.raises(FormatError) as caught:
        Certificate.parse(beyond)
    assert caught.value.reason is Reason.TOO_LARGE


def test_proof_of_another_revision_does_not_fit(kernel: Kernel) -> None:
    """A signatures vector with a length of 2 bytes, as before -06, is malformed where 3 are expected, and 3 where 2."""
    older = {CA_NAME: issuer_format()._replace(signatures_width=2)}
    der = Parts().encode()
    with pytest.raises(FormatError) as caught:
        kernel.scanner(older).scan(der)
    assert caught.value.reason is Reason.TRAILING_DATA
    short = Parts(proof=encode_proof()[:-1])
    assert scan(kernel, short.encode(), older).entry_hash == short.entry_hash()
    assert reason_of(kernel, short.encode())[1] is Reason.TRUNCATED


def test_cosigner_ids_up_to_the_limit(kernel: Kernel) -> None:
    """Cosigner IDs may be as long as the revision allows, and no longer; they ascend by length, then bytes."""
    cosigners = [b"\x01", b"\x7f", b"\x81\x00", b"\x81\x01", bytes(31), bytes(32)]
    der = Parts(proof=encode_proof(signatures=encode_signatures(cosigners))).encode()
    found = scan(kernel, der)
    assert der[found.signatures_start :] == encode_signatures(cosigners)
    longer = Parts(proof=encode_proof(signatures=encode_signatures([bytes(255)]))).encode()
    assert reason_of(kernel, longer)[1] is Reason.BAD_TRUST_ANCHOR_ID
    assert scan(kernel, longer, {CA_NAME: issuer_format()._replace(id_limit=255)}).serial == 1 << 48 | 5


def test_entry_extensions_are_hashed(kernel: Kernel) -> None:
    """Entry extensions of any type are hashed as they stand, with their length."""
    extensions = b"\x00\x00\x00\x03abc" + b"\xf0\x00\x00\x00" + b"\xff\xff\x00\x01x"
    parts = Parts(proof=encode_proof(extensions=extensions))
    assert scan(kernel, parts.encode()).entry_hash == parts.entry_hash(extensions=extensions)
    assert parts.entry_hash() != parts.entry_hash(extensions=extensions)


def test_scans_lead_to_the_root(kernel: Kernel) -> None:
    """The root of a scan is the subtree hash of a tree that holds the entry, at every place in it."""
    hasher = kernel.hasher("sha256")
    parts = Parts(extensions=tuple(extensions_of_a_leaf()))
    for index in range(13):
        row = hasher.leaves([bytes((number,)) for number in range(13)])
        row = row[: 32 * index] + parts.entry_hash() + row[32 * index + 32 :]
        reader = RowReader(hasher, row)
        for subtree in (Subtree(0, 13), Subtree(8, 13), Subtree(index, index + 1)):
            if subtree.contains(index):
                proof = b"".join(prove_inclusion(hasher, reader, subtree, index))
                made = replace(parts, serial=serial(3, index), proof=encode_proof(subtree.start, subtree.end, proof))
                assert scan(kernel, made.encode()).root == subtree_hash(hasher, reader, subtree)


def test_scan_many_keeps_order_and_errors(kernel: Kernel) -> None:
    """Many certificates are scanned in order, and an error takes the place of its certificate."""
    good, bad = Parts().encode(), Parts(issuer=NAME).encode()
    scanner = kernel.scanner(MADE)
    results = scanner.scan_many([good, b"", bad, good])
    assert results[0] == results[3] == scanner.scan(good)
    assert [error.reason for error in results if isinstance(error, Error)] == [Reason.TRUNCATED, Reason.UNKNOWN_CA]
    assert scanner.scan_many([]) == []


def test_fault_table_is_closed() -> None:
    """A scan can only raise what the table holds: a reason outside it is a programming error."""
    fault = scan_fault("bad-order", 7)
    assert (type(fault), fault.reason, fault.facts) == (FormatError, Reason.BAD_ORDER, {"offset": 7})
    assert "byte 7" in str(fault)
    with pytest.raises(KeyError):
        scan_fault(Reason.CONFLICT, 0)


def test_other_cas_are_other_issuers(kernel: Kernel) -> None:
    """A scanner tells its issuers apart by the bytes of their names, and returns each one's owner."""
    other_name = encode_ca_name(TrustAnchorID.parse("32473.2"), REVISIONS["plants-07"])
    issuers = {CA_NAME: issuer_format(owner=1), other_name: issuer_format(owner=2)}
    assert scan(kernel, Parts().encode(), issuers).owner == 1
    assert scan(kernel, Parts(issuer=other_name).encode(), issuers).owner == 2
