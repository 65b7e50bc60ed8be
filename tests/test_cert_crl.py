"""The two revocation lists: one encoding each, foreign software reads them as meant, and a successor never shrinks."""

import ssl
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import mldsa
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.makers import make_key

from mtc.cert import (
    REVOCATION_RANGES_OID,
    TBSCRL,
    CertificateRevocationList,
    Extension,
    RevocationList,
    RevocationReason,
    RevokedSerial,
    SerialRanges,
    VerifiedCRL,
    assemble_crl,
    encode_authority_key_identifier,
    encode_basic_constraints,
    encode_crl_distribution_points,
    encode_extensions,
    encode_key_usage,
    encode_name,
    encode_subject_alt_name,
    encode_tbs_crl,
    parse_tbs_crl,
    verify_successor,
)
from mtc.cert.crl import CRL_NUMBER_OID, MAX_CRL_BYTES, MAX_CRL_NUMBER, MAX_RANGES, REASON_CODE_OID
from mtc.cert.x509 import SUBJECT_KEY_ID_OID, assemble_certificate
from mtc.crypto import LocalSigner, Verifier, parse_public_key
from mtc.errors import Error, FormatError, Reason, Rejected, SignatureError, UsageError
from mtc.ids import DEFAULT_REVISION, REVISIONS, SERIAL_LIMIT, DraftRevision, TrustAnchorID, encode_ca_name
from mtc.wire import (
    PEMBlock,
    encode_explicit,
    encode_integer,
    encode_octet_string,
    encode_oid,
    encode_pem,
    encode_sequence,
    encode_time,
    encode_tlv,
)

CA_ID = TrustAnchorID.parse("32473.1")
NAME = encode_ca_name(CA_ID, DEFAULT_REVISION)
KEY = make_key("ml-dsa-44")
ALGORITHM = KEY.algorithm.identifier
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
WEEK = timedelta(days=7)
FIRST = 1 << 48
PLAIN = TBSCRL(
    issuer=NAME,
    algorithm=ALGORITHM,
    this_update=NOW,
    next_update=NOW + WEEK,
    number=7,
    serials=(
        RevokedSerial(FIRST + 1, NOW - WEEK),
        RevokedSerial(FIRST + 2, NOW - WEEK, RevocationReason.KEY_COMPROMISE),
    ),
)
RANGES = replace(
    PLAIN, serials=(), ranges=SerialRanges([(FIRST + 5, FIRST + 9), (FIRST + 20, FIRST + 21)]), min_serial=FIRST
)


def verifier(key: LocalSigner = KEY) -> Verifier:
    """Return the public half of a key."""
    return parse_public_key(key.public_key, key.algorithm)


def signed(crl: TBSCRL, key: LocalSigner = KEY) -> CertificateRevocationList:
    """Return a list that was signed, after a journey through its bytes."""
    tbs = encode_tbs_crl(crl)
    return CertificateRevocationList.parse(assemble_crl(tbs, crl.algorithm, key.sign_now(tbs)))


def proven(crl: TBSCRL) -> RevocationList:
    """Return what a list of ranges proves."""
    result = signed(crl).verify(verifier(), NAME, crl.this_update)
    assert isinstance(result, RevocationList)
    return result


moments = st.datetimes(datetime(1950, 1, 1), datetime(2100, 1, 1)).map(  # noqa: DTZ001 - the zone comes next
    lambda moment: moment.replace(microsecond=0, tzinfo=UTC)
)
serials = st.integers(1, SERIAL_LIMIT - 1) | st.integers(FIRST, FIRST + 20)
lines = st.lists(
    st.builds(RevokedSerial, serials, moments, st.none() | st.sampled_from(RevocationReason)),
    max_size=6,
    unique_by=lambda line: line.serial,
).map(lambda items: tuple(sorted(items, key=lambda line: line.serial)))
pairs = st.tuples(st.integers(0, SERIAL_LIMIT), st.integers(0, SERIAL_LIMIT)).map(sorted)


@st.composite
def lists(draw: st.DrawFn) -> TBSCRL:
    """Draw a list of either kind."""
    begin = draw(moments)
    revision = draw(st.sampled_from(list(REVISIONS.values())))
    crl = TBSCRL(
        issuer=encode_ca_name(draw(st.sampled_from([CA_ID, TrustAnchorID.parse("1.2.3")])), revision),
        algorithm=make_key(draw(st.sampled_from(["ml-dsa-44", "ed25519"]))).algorithm.identifier,
        this_update=begin,
        next_update=begin + timedelta(seconds=draw(st.integers(1, 10**8))),
        number=draw(st.integers(0, MAX_CRL_NUMBER)),
    )
    if draw(st.booleans()):
        return replace(crl, serials=draw(lines))
    least = draw(st.integers(0, SERIAL_LIMIT - 1) | st.just(0))
    ranges = [(max(start, least), max(end, least)) for start, end in draw(st.lists(pairs, max_size=5))]
    return replace(crl, ranges=SerialRanges(ranges), min_serial=least)


@given(lists())
def test_a_list_survives_its_bytes(crl: TBSCRL) -> None:
    """What is encoded parses to the same list, of either kind, in every revision."""
    assert parse_tbs_crl(encode_tbs_crl(crl)) == crl


@pytest.mark.parametrize("crl", [PLAIN, RANGES], ids=["plain", "ranges"])
def test_cut_or_lengthened_lists_are_refused(crl: TBSCRL) -> None:
    """Every truncation of a list, signed or not, and every list with a byte behind it raises FormatError."""
    der, tbs = signed(crl).der, encode_tbs_crl(crl)
    for end in (*range(len(tbs) + 40), len(der) - 1):
        with pytest.raises(FormatError):
            CertificateRevocationList.parse(der[:end])
    for end in range(len(tbs)):
        with pytest.raises(FormatError):
            parse_tbs_crl(tbs[:end])
    with pytest.raises(FormatError):
        parse_tbs_crl(tbs + b"\0")
    with pytest.raises(FormatError):
        CertificateRevocationList.parse(der + b"\0")


@pytest.mark.parametrize("crl", [PLAIN, RANGES], ids=["plain", "ranges"])
def test_no_bit_is_free(crl: TBSCRL) -> None:
    """A list with any bit of its TBSCertList turned is refused, or has other content and a signature that fails."""
    good = signed(crl)
    at = good.der.index(good.message)
    for position in range(at, at + len(good.message)):
        for bit in range(8):
            der = bytearray(good.der)
            der[position] ^= 1 << bit
            with pytest.raises(Error):
                CertificateRevocationList.parse(bytes(der)).verify_signature(verifier(), NAME)


def ranges_extension(
    *numbers: tuple[int, int], version: int = 1, least: int = FIRST, critical: bool = True
) -> Extension:
    """Return the extension of the MTC revocation list, right or wrong."""
    items = [encode_sequence(encode_integer(first), encode_integer(last)) for first, last in numbers]
    value = encode_sequence(encode_integer(version), encode_integer(least), encode_sequence(*items))
    return Extension(REVOCATION_RANGES_OID, value, critical)


def reason(value: bytes, *, is_critical: bool = False) -> Extension:
    """Return a reason code with any content."""
    return Extension(REASON_CODE_OID, value, is_critical)


def line(serial: int, *extensions: Extension) -> bytes:
    """Return a line of a plain CRL."""
    tail = encode_sequence(*(item.encode() for item in extensions)) if extensions else b""
    return encode_sequence(encode_integer(serial), encode_time(NOW), tail)


KEY_ID = encode_authority_key_identifier(CA_ID.binary)
NUMBER = Extension(CRL_NUMBER_OID, encode_integer(7))


def raw(
    *extensions: Extension,
    version: bytes = encode_integer(1),
    issuer: bytes = NAME,
    begin: bytes = encode_time(NOW),
    end: bytes = encode_time(NOW + WEEK),
    revoked: bytes = b"",
) -> bytes:
    """Return a TBSCertList in parts that may be wrong."""
    block = encode_explicit(0, encode_extensions(extensions or (KEY_ID, NUMBER)))
    return encode_sequence(version, ALGORITHM, issuer, begin, end, revoked, block)


GOOD = raw(KEY_ID, NUMBER, ranges_extension((FIRST + 5, FIRST + 8), (FIRST + 20, FIRST + 20)))
GENERALIZED = encode_tlv(0x18, b"20261121120000Z")
KEY_COMPROMISE = reason(encode_tlv(0x0A, b"\1"))


def test_the_format_is_as_it_is_written_down() -> None:
    """A list put together by hand is the one that is encoded, byte for byte."""
    assert encode_tbs_crl(RANGES) == GOOD
    older = encode_time(NOW - WEEK)
    revoked = encode_sequence(
        encode_sequence(encode_integer(FIRST + 1), older),
        encode_sequence(encode_integer(FIRST + 2), older, encode_sequence(KEY_COMPROMISE.encode())),
    )
    assert encode_tbs_crl(PLAIN) == raw(revoked=revoked)


def test_the_documented_example_is_what_is_written() -> None:
    """The bytes in docs/revocation.md are those of the list that it describes, and its OID's are right."""
    text = (Path(__file__).parents[1] / "docs" / "revocation.md").read_text("utf-8")
    ranges = SerialRanges([(FIRST + 7, FIRST + 8), (FIRST + 16, FIRST + 32), (5 * FIRST, SERIAL_LIMIT)])
    tbs = encode_tbs_crl(replace(RANGES, ranges=ranges, min_serial=FIRST + 5))
    blocks = [block.replace("\n", "") for block in text.split("```")[1::2]]
    (value,) = (bytes.fromhex(block) for block in blocks if block.startswith("304"))
    assert Extension(REVOCATION_RANGES_OID, value, is_critical=True).encode() in tbs
    assert encode_oid(REVOCATION_RANGES_OID).hex() in text
    assert f"2 25 {REVOCATION_RANGES_OID.removeprefix('2.25.')} " in text


@pytest.mark.parametrize(
    ("tbs", "cause"),
    [
        (raw(version=encode_integer(0)), Reason.BAD_VERSION),
        (raw(version=b""), Reason.BAD_TAG),
        (raw(issuer=encode_name(CN="a CA")), Reason.BAD_NAME),
        (raw(begin=GENERALIZED), Reason.BAD_EXTENSION),
        (raw(end=b""), Reason.BAD_TAG),
        (raw(end=encode_time(NOW)), Reason.BAD_TIME),
        (raw(revoked=encode_sequence()), Reason.BAD_EXTENSION),
        (raw(revoked=encode_sequence(line(2), line(1))), Reason.BAD_ORDER),
        (raw(revoked=encode_sequence(line(2), line(2))), Reason.BAD_ORDER),
        (raw(revoked=encode_sequence(line(0))), Reason.BAD_ORDER),
        (raw(revoked=encode_sequence(line(-1))), Reason.BAD_ORDER),
        (raw(revoked=encode_sequence(line(SERIAL_LIMIT))), Reason.BAD_ORDER),
        (raw(revoked=encode_sequence(line(1, NUMBER))), Reason.BAD_EXTENSION),
        (raw(revoked=encode_sequence(line(1, KEY_COMPROMISE, NUMBER))), Reason.BAD_EXTENSION),
        (
            raw(revoked=encode_sequence(line(1, reason(encode_tlv(0x0A, b"\1"), is_critical=True)))),
            Reason.BAD_EXTENSION,
        ),
        (raw(revoked=encode_sequence(line(1, reason(encode_tlv(0x0A, b"\0"))))), Reason.BAD_NUMBER),
        (raw(revoked=encode_sequence(line(1, reason(encode_tlv(0x0A, b"\6"))))), Reason.BAD_NUMBER),
        (raw(revoked=encode_sequence(line(1, reason(encode_tlv(0x0A, b"\0\1"))))), Reason.BAD_NUMBER),
        (raw(revoked=encode_sequence(line(1, reason(encode_tlv(0x0A, b""))))), Reason.BAD_NUMBER),
        (raw(revoked=encode_sequence(line(1, reason(encode_integer(1))))), Reason.BAD_TAG),
        (raw(revoked=encode_sequence(encode_sequence(encode_integer(1), GENERALIZED))), Reason.BAD_EXTENSION),
        (raw(NUMBER, KEY_ID), Reason.BAD_EXTENSION),
        (raw(KEY_ID), Reason.BAD_EXTENSION),
        (raw(KEY_ID, NUMBER, Extension("2.5.29.28", b"0\0", is_critical=True)), Reason.BAD_EXTENSION),
        (raw(encode_authority_key_identifier(b"other"), NUMBER), Reason.BAD_EXTENSION),
        (raw(KEY_ID, replace(NUMBER, is_critical=True)), Reason.BAD_EXTENSION),
        (raw(KEY_ID, Extension(CRL_NUMBER_OID, encode_integer(-1))), Reason.BAD_NUMBER),
        (raw(KEY_ID, Extension(CRL_NUMBER_OID, encode_integer(1 << 159))), Reason.BAD_NUMBER),
        (raw(KEY_ID, Extension(CRL_NUMBER_OID, encode_integer(7) + b"\0")), Reason.TRAILING_DATA),
        (raw(KEY_ID, NUMBER, ranges_extension((FIRST, FIRST), critical=False)), Reason.BAD_EXTENSION),
        (raw(KEY_ID, NUMBER, ranges_extension(version=2)), Reason.BAD_VERSION),
        (raw(KEY_ID, NUMBER, ranges_extension(least=-1)), Reason.SERIAL_OUT_OF_RANGE),
        (raw(KEY_ID, NUMBER, ranges_extension(least=SERIAL_LIMIT)), Reason.SERIAL_OUT_OF_RANGE),
        (raw(KEY_ID, NUMBER, ranges_extension((FIRST - 1, FIRST + 1))), Reason.BAD_ORDER),
        (raw(KEY_ID, NUMBER, ranges_extension((FIRST + 5, FIRST + 4))), Reason.BAD_ORDER),
        (raw(KEY_ID, NUMBER, ranges_extension((FIRST + 5, FIRST + 8), (FIRST + 9, FIRST + 9))), Reason.BAD_ORDER),
        (raw(KEY_ID, NUMBER, ranges_extension((FIRST + 5, FIRST + 8), (FIRST + 2, FIRST + 3))), Reason.BAD_ORDER),
        (raw(KEY_ID, NUMBER, ranges_extension((FIRST, SERIAL_LIMIT))), Reason.BAD_ORDER),
        (raw(KEY_ID, NUMBER, ranges_extension((-5, -4), least=0)), Reason.BAD_ORDER),
        (raw(KEY_ID, NUMBER, ranges_extension(), revoked=encode_sequence(line(1))), Reason.BAD_EXTENSION),
    ],
)
def test_another_form_is_refused(tbs: bytes, cause: Reason) -> None:
    """One value has one encoding, and what a list of ours never says is not read."""
    with pytest.raises(FormatError) as caught:
        parse_tbs_crl(tbs)
    assert caught.value.reason is cause


def test_limits() -> None:
    """A list holds 100,000 ranges or serial numbers, not one more, and a file above 16 MiB is not looked at."""
    numbers = [(FIRST + 2 * number, FIRST + 2 * number) for number in range(MAX_RANGES)]
    tbs = raw(KEY_ID, NUMBER, ranges_extension(*numbers))
    most = parse_tbs_crl(tbs).ranges
    assert most is not None
    assert len(most) == MAX_RANGES
    crowd = [line(number) for number in range(1, MAX_RANGES + 2)]
    assert len(parse_tbs_crl(raw(revoked=encode_sequence(*crowd[:-1]))).serials) == MAX_RANGES
    too_many = raw(KEY_ID, NUMBER, ranges_extension(*numbers, (FIRST << 1, FIRST << 1)))
    for data in (too_many, raw(revoked=encode_sequence(*crowd)), bytes(MAX_CRL_BYTES + 1)):
        with pytest.raises(FormatError) as caught:
            parse_tbs_crl(data)
        assert caught.value.reason is Reason.TOO_LARGE
    with pytest.raises(FormatError, match="at most"):
        CertificateRevocationList.parse(bytes(MAX_CRL_BYTES + 1))


def test_values_that_cannot_be_are_not_built() -> None:
    """Ranges come with a minimum serial number and without single ones."""
    for change in ({"ranges": SerialRanges()}, {"min_serial": 1}, {"ranges": SerialRanges(), "min_serial": 0}):
        with pytest.raises(FormatError):
            replace(PLAIN, **change)


def refusal(crl: CertificateRevocationList, key: Verifier, name: bytes, now: datetime) -> Error:
    """Return the error that a list meets."""
    with pytest.raises(Error) as caught:
        crl.verify(key, name, now)
    return caught.value


@pytest.mark.parametrize("crl", [PLAIN, RANGES], ids=["plain", "ranges"])
def test_a_list_is_believed_from_its_ca_in_its_time(crl: TBSCRL) -> None:
    """Both ends of the validity are inside; another CA, draft, key, algorithm or moment is refused, each by reason."""
    good = signed(crl)
    for moment in (NOW, NOW + WEEK):
        assert good.verify(verifier(), NAME, moment).tbs == crl
    second = timedelta(seconds=1)
    assert refusal(good, verifier(), NAME, NOW - second).reason is Reason.NOT_YET_VALID
    assert refusal(good, verifier(), NAME, NOW + WEEK + second).reason is Reason.EXPIRED
    assert good.verify_signature(verifier(), NAME).tbs == crl
    for name in (
        encode_ca_name(TrustAnchorID.parse("32473.2"), DEFAULT_REVISION),
        encode_ca_name(CA_ID, REVISIONS["plants-05"]),
    ):
        assert refusal(good, verifier(), name, NOW).reason is Reason.UNKNOWN_CA
    assert refusal(good, verifier(make_key("ed25519")), NAME, NOW).reason is Reason.ALGORITHM_MISMATCH
    assert isinstance(refusal(good, verifier(make_key("ml-dsa-44", 2)), NAME, NOW), SignatureError)
    assert isinstance(refusal(replace(good, signature=b""), verifier(), NAME, NOW), SignatureError)


def test_the_outer_algorithm_is_the_inner_one() -> None:
    """A list whose two signature algorithms differ does not parse."""
    tbs = encode_tbs_crl(PLAIN)
    with pytest.raises(FormatError) as caught:
        CertificateRevocationList.parse(assemble_crl(tbs, make_key("ed25519").algorithm.identifier, b"signature"))
    assert caught.value.reason is Reason.ALGORITHM_MISMATCH


def test_what_a_verified_list_says() -> None:
    """A plain CRL answers for one serial number; a list of ranges holds them and all below its minimum."""
    plain = signed(PLAIN).verify(verifier(), NAME, NOW)
    assert isinstance(plain, VerifiedCRL)
    assert plain.find(FIRST + 2) == PLAIN.serials[1]
    assert [plain.find(serial) for serial in (0, FIRST, FIRST + 3)] == [None] * 3
    ranges = proven(RANGES)
    assert (ranges.number, ranges.min_serial) == (7, FIRST)
    inside = [0, FIRST - 1, FIRST + 5, FIRST + 8, FIRST + 20]
    assert all(serial in ranges.revoked for serial in inside)
    assert not any(serial in ranges.revoked for serial in (FIRST, FIRST + 4, FIRST + 9, FIRST + 21, SERIAL_LIMIT - 1))


SMALL = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)).map(sorted), max_size=3)


def small_list(number: int, ranges: Sequence[Sequence[int]], least: int) -> RevocationList:
    """Return a verified list of few serial numbers."""
    clipped = SerialRanges([(max(start, least), max(end, least)) for start, end in ranges])
    crl = replace(RANGES, number=number, ranges=clipped, min_serial=least)
    return RevocationList(crl, number, least, clipped | SerialRanges([(0, least)]))


@given(SMALL, st.integers(0, 9), SMALL, st.integers(0, 9))
def test_a_successor_revokes_no_less(one: list[list[int]], low: int, two: list[list[int]], high: int) -> None:
    """A newer list is taken exactly when its minimum does not fall and it holds all that the older one holds."""

    def held(ranges: list[list[int]], least: int) -> set[int]:
        return set(range(least)) | {serial for start, end in ranges for serial in range(start, end)}

    old, new = small_list(1, one, low), small_list(2, two, high)
    if high >= low and held(two, high) >= held(one, low):
        assert verify_successor(old, new) is new
    else:
        with pytest.raises(Rejected) as caught:
            verify_successor(old, new)
        assert caught.value.reason is Reason.REVOCATION_SHRUNK


def test_older_and_double_lists_are_refused() -> None:
    """A replayed list, a second one with the same number, one that begins earlier or of another CA is refused."""
    old = proven(RANGES)
    assert verify_successor(old, proven(RANGES)) == old
    other = encode_ca_name(TrustAnchorID.parse("32473.2"), DEFAULT_REVISION)
    early = replace(RANGES, number=8, this_update=NOW - timedelta(seconds=1))
    for crl, cause in (
        (replace(RANGES, number=6), Reason.SUPERSEDED),
        (replace(RANGES, ranges=SerialRanges([(FIRST, FIRST + 100)])), Reason.EQUIVOCATION),
        (early, Reason.SUPERSEDED),
    ):
        with pytest.raises(Rejected) as caught:
            verify_successor(old, proven(crl))
        assert caught.value.reason is cause
    with pytest.raises(Rejected) as caught:
        verify_successor(old, replace(old, tbs=replace(old.tbs, issuer=other), number=9))
    assert caught.value.reason is Reason.UNKNOWN_CA


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=str)
@pytest.mark.parametrize("algorithm", ["ml-dsa-44", "ecdsa-p256-sha256"])
def test_pyca_reads_and_verifies_both_lists(revision: DraftRevision, algorithm: str) -> None:
    """pyca/cryptography reads every field and verifies the signature, also where it cannot read the CA's name."""
    key = make_key(algorithm)
    foreign_key = serialization.load_der_public_key(key.public_key)
    for crl in (PLAIN, RANGES):
        here = replace(crl, issuer=encode_ca_name(CA_ID, revision), algorithm=key.algorithm.identifier)
        ours = signed(here, key)
        theirs = x509.load_der_x509_crl(ours.der)
        assert theirs.tbs_certlist_bytes == ours.message
        if isinstance(foreign_key, mldsa.MLDSA44PublicKey):
            foreign_key.verify(theirs.signature, theirs.tbs_certlist_bytes)
        else:
            assert theirs.is_signature_valid(foreign_key)  # type: ignore[arg-type]  # a key that it takes
        assert (theirs.last_update_utc, theirs.next_update_utc) == (NOW, NOW + WEEK)
        assert theirs.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number == 7
        key_id = theirs.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
        assert key_id == CA_ID.binary
        unknown = [item.oid.dotted_string for item in theirs.extensions if item.critical]
        assert unknown == ([] if crl is PLAIN else [REVOCATION_RANGES_OID])
        assert [item.serial_number for item in theirs] == [item.serial for item in crl.serials]
        if not revision.has_relative_oid_name:
            assert theirs.issuer.rdns[0].rfc4514_string() == f"{revision.name_oid}=32473.1"
    line_ = x509.load_der_x509_crl(signed(PLAIN).der).get_revoked_certificate_by_serial_number(FIRST + 2)
    assert line_ is not None
    assert line_.revocation_date_utc == NOW - WEEK
    assert line_.extensions.get_extension_for_class(x509.CRLReason).value.reason is x509.ReasonFlags.key_compromise


def test_reasons_have_the_names_of_rfc_5280() -> None:
    """Each reason is called what pyca/cryptography calls it, and stands for the same code in a CRL."""
    for item in RevocationReason:
        crl = signed(replace(PLAIN, serials=(RevokedSerial(1, NOW, item),)))
        (line_,) = x509.load_der_x509_crl(crl.der)
        assert line_.extensions.get_extension_for_class(x509.CRLReason).value.reason.value == item.label


def test_pointers_are_read_by_pyca() -> None:
    """A leaf's cRLDistributionPoints and authorityKeyIdentifier are what pyca/cryptography understands by them."""
    url = "https://ca.example/log/ca.crl"
    der = server_certificate(
        make_key("ecdsa-p256-sha256"), FIRST + 1, DEFAULT_REVISION, encode_crl_distribution_points(url)
    )
    read = x509.load_der_x509_certificate(der).extensions
    (point,) = read.get_extension_for_class(x509.CRLDistributionPoints).value
    assert point.full_name is not None
    assert [name.value for name in point.full_name] == [url]
    assert point.reasons is point.crl_issuer is point.relative_name is None
    assert read.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier == CA_ID.binary
    for urls in ((), ("https://ä.example",), ("https://a\n",)):
        with pytest.raises(UsageError):
            encode_crl_distribution_points(*urls)


BEGIN, END = datetime(2020, 1, 1, tzinfo=UTC), datetime(2099, 1, 1, tzinfo=UTC)
"""OpenSSL is asked at whatever time it is."""


def certificate(
    key: LocalSigner, serial: int, revision: DraftRevision, subject: bytes, spki: bytes, *extensions: Extension
) -> bytes:
    """Return a conventional certificate that the CA's key signed; only tests make such a thing."""
    identifier = key.algorithm.identifier
    validity = encode_sequence(encode_time(BEGIN), encode_time(END))
    tbs = encode_sequence(
        encode_explicit(0, encode_integer(2)),
        encode_integer(serial),
        identifier,
        encode_ca_name(CA_ID, revision),
        validity,
        subject,
        spki,
        encode_explicit(3, encode_extensions(extensions)),
    )
    return assemble_certificate(tbs, identifier, key.sign_now(tbs))


LEAF_KEY = make_key("ecdsa-p256-sha256", 7)


def server_certificate(key: LocalSigner, serial: int, revision: DraftRevision, *extensions: Extension) -> bytes:
    """Return a server's conventional certificate."""
    usual = (encode_authority_key_identifier(CA_ID.binary), encode_subject_alt_name(["a.example"]))
    return certificate(key, serial, revision, encode_name(CN="a.example"), LEAF_KEY.public_key, *usual, *extensions)


def shake_hands(folder: Path, leaf: bytes, ca: bytes, crl: bytes) -> None:
    """Have OpenSSL's TLS client verify a server against a CA and a CRL. Raises ssl.SSLError when it refuses."""
    (folder / "leaf.pem").write_bytes(encode_pem([PEMBlock("CERTIFICATE", leaf)]) + LEAF_KEY.encode_pem())
    (folder / "ca.pem").write_bytes(encode_pem([PEMBlock("CERTIFICATE", ca), PEMBlock("X509 CRL", crl)]))
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.load_cert_chain(folder / "leaf.pem")
    client.load_verify_locations(folder / "ca.pem")
    client.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [server.wrap_bio(up, down, server_side=True), client.wrap_bio(down, up, server_hostname="a.example")]
    while ends:
        for end in reversed(ends):
            try:
                end.do_handshake()
            except ssl.SSLWantReadError:
                continue
            ends = [other for other in ends if other is not end]


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=str)
def test_openssl_obeys_the_plain_crl_and_refuses_the_other(tmp_path: Path, revision: DraftRevision) -> None:
    """OpenSSL lets in what the plain CRL does not name, refuses what it names, and never takes ranges for a CRL."""
    key = make_key("ecdsa-p256-sha256")
    ca = certificate(
        key,
        1,
        revision,
        encode_ca_name(CA_ID, revision),
        key.public_key,
        encode_basic_constraints(is_ca=True),
        encode_key_usage("keyCertSign", "cRLSign"),
        Extension(SUBJECT_KEY_ID_OID, encode_octet_string(CA_ID.binary)),
    )
    mine = {"issuer": encode_ca_name(CA_ID, revision), "algorithm": key.algorithm.identifier}
    plain, ranges = (
        signed(replace(crl, this_update=BEGIN, next_update=END, **mine), key).der  # type: ignore[arg-type]  # bytes
        for crl in (PLAIN, RANGES)
    )
    for serial, crl, answer in (
        (FIRST + 3, plain, None),
        (FIRST + 2, plain, "certificate revoked"),
        (FIRST + 3, ranges, "unhandled critical CRL extension"),
    ):
        leaf = server_certificate(key, serial, revision)
        if answer is None:
            shake_hands(tmp_path, leaf, ca, crl)
        else:
            with pytest.raises(ssl.SSLCertVerificationError, match=answer):
                shake_hands(tmp_path, leaf, ca, crl)


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_hostile_bytes_raise_only_our_errors(data: bytes) -> None:
    """Any bytes are refused with FormatError, alone and behind the head of a list."""
    for whole in (data, encode_sequence(data), encode_sequence(encode_integer(1), ALGORITHM, NAME, data)):
        with pytest.raises(FormatError):
            parse_tbs_crl(whole)
