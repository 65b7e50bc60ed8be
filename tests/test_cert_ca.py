"""CA certificates: foreign ones are read, our own are read as written, and what is no MTC CA is refused."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st
from tests.makers import ALGORITHMS, make_key

from mtc.cert import (
    PREFIX_URL_OID,
    CACertificate,
    Extension,
    SerialRanges,
    encode_basic_constraints,
    encode_ca_certificate,
    encode_extensions,
    encode_key_usage,
    encode_name,
)
from mtc.crypto import HASH_ALGORITHMS, Verifier, parse_public_key
from mtc.errors import Error, FormatError, Reason, Rejected, UsageError
from mtc.ids import DEFAULT_REVISION, REVISIONS, SERIAL_LIMIT, DraftRevision, TrustAnchorID, encode_ca_name
from mtc.trust import TrustStore, parse_trust_store, trusted_ca_from_certificate
from mtc.wire import (
    encode_bit_string,
    encode_explicit,
    encode_integer,
    encode_oid,
    encode_sequence,
    encode_time,
    encode_tlv,
    parse_pem,
)

LoadVectors = Callable[[str], Any]

CA_ID = TrustAnchorID.parse("32473.1")
FROM = datetime(2020, 1, 1, tzinfo=UTC)
TO = datetime(2030, 12, 31, 23, 59, 59, tzinfo=UTC)
UNSIGNED = encode_sequence(encode_oid("1.3.6.1.5.5.7.6.36"))
FIRST, LAST = 1 << 48, SERIAL_LIMIT - 1


def public_key(algorithm: str = "ml-dsa-44") -> Verifier:
    """Return the verifier of a CA cosigner."""
    key = make_key(algorithm)
    return parse_public_key(key.public_key, key.algorithm)


def authority(revision: DraftRevision = DEFAULT_REVISION, *serials: int, head: bytes | None = None) -> Extension:
    """Return an MTC CA extension; head: everything before minSerial."""
    if head is None:
        head = HASH_ALGORITHMS["sha256"].identifier if revision.ca_extension_has_hash else b""
        head += make_key("ml-dsa-44").algorithm.identifier
    value = encode_sequence(head, *map(encode_integer, serials or (FIRST, LAST)))
    return Extension(revision.ca_extension_oid, value, is_critical=True)


def ca_certificate(  # noqa: PLR0913 - each part can be damaged
    *extensions: Extension,
    revision: DraftRevision = DEFAULT_REVISION,
    usual: tuple[Extension, ...] = (encode_key_usage("keyCertSign"), encode_basic_constraints(is_ca=True)),
    subject: bytes | None = None,
    issuer: bytes | None = None,
    algorithm: bytes = UNSIGNED,
    outer: bytes | None = None,
    signature: bytes = b"",
    spki: bytes | None = None,
) -> bytes:
    """Return a CA certificate in parts that may contradict each other."""
    name = encode_ca_name(CA_ID, revision) if subject is None else subject
    tbs = encode_sequence(
        encode_explicit(0, encode_integer(2)),
        encode_integer(1),
        algorithm,
        encode_name(unsigned="") if issuer is None else issuer,
        encode_sequence(encode_time(FROM), encode_time(TO)),
        name,
        public_key().public_key if spki is None else spki,
        encode_explicit(3, encode_extensions((*usual, *extensions))),
    )
    return encode_sequence(tbs, algorithm if outer is None else outer, encode_bit_string(signature))


def refused(der: bytes, reason: Reason, family: type[Error]) -> None:
    """Assert that a CA certificate is refused with a reason."""
    with pytest.raises(family) as caught:
        CACertificate.parse(der)
    assert caught.value.reason is reason


@pytest.mark.parametrize(
    ("name", "min_serial", "max_serial", "size"),
    [
        ("certs_boringssl_x509_plants05.json", 281474976710664, 281474976714752, 1556),
        ("certs_demo_plants07.json", 1 << 48, (5 << 48) + (1 << 48) - 1, 1536),
    ],
)
def test_foreign_ca_certificates_are_read(
    load_vectors: LoadVectors, name: str, min_serial: int, max_serial: int, size: int
) -> None:
    """The unsigned CA certificates of BoringSSL (-05) and of the demo (-07) parse to what they are published to say."""
    data = load_vectors(name)
    (block,) = parse_pem(data["ca_certificate_pem"].encode())
    assert len(block.data) == size
    ca = CACertificate.parse(block.data)
    assert ca.der == block.data
    assert ca.ca_id == CA_ID
    assert ca.revision.name == data["version"]
    assert (ca.hash.name, ca.algorithm.name) == ("sha256", "ml-dsa-44")
    assert (ca.min_serial, ca.max_serial) == (min_serial, max_serial)
    assert ca.revoked == SerialRanges([(0, min_serial), (max_serial + 1, SERIAL_LIMIT)])
    assert (ca.not_before, ca.not_after) == (FROM, TO)
    assert ca.is_unsigned
    assert not ca.is_self_signed
    assert ca.prefix_url is None
    (spki,) = (item["spki_der"] for item in data["cosigners"] if item["id"] == "32473.1")
    document = TrustStore([trusted_ca_from_certificate(ca)]).cas[0].cosigners[0].key.public_key
    assert document == parse_public_key(document, ca.algorithm).public_key
    assert (
        parse_trust_store(
            b'{"version":1,"cas":[{"id":"32473.1","cosigners":[{"id":"32473.1","algorithm":"ml-dsa-44","public_key":"%s"}],'
            b'"policy":{"require":["32473.1"]}}]}' % spki.encode()
        )
        .cas[0]
        .cosigners[0]
        .key.public_key
        == document
    )


@pytest.mark.parametrize("name", ["certs_boringssl_x509_plants05.json", "certs_demo_plants07.json"])
def test_our_encoding_of_a_foreign_ca_says_the_same(load_vectors: LoadVectors, name: str) -> None:
    """A CA certificate that we write for a foreign CA parses to the same facts."""
    (block,) = parse_pem(load_vectors(name)["ca_certificate_pem"].encode())
    theirs = CACertificate.parse(block.data)
    ours = CACertificate.parse(
        encode_ca_certificate(
            ca_id=theirs.ca_id,
            public_key=theirs.public_key,
            not_before=theirs.not_before,
            not_after=theirs.not_after,
            min_serial=theirs.min_serial,
            max_serial=theirs.max_serial,
            hash_name=theirs.hash.name,
            revision=theirs.revision,
        )
    )
    for fact in ("ca_id", "revision", "hash", "algorithm", "revoked", "not_before", "not_after", "is_unsigned"):
        assert getattr(ours, fact) == getattr(theirs, fact)
    assert ours.public_key.public_key == theirs.public_key.public_key


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=REVISIONS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_own_ca_certificates_are_read_as_written(revision: DraftRevision, algorithm: str) -> None:
    """Every revision and algorithm: what is written is read back, unsigned, with another issuer than subject."""
    max_serial = (3 << 48) - 1 if revision.ca_extension_has_max_serial else LAST
    der = encode_ca_certificate(
        ca_id=CA_ID,
        public_key=public_key(algorithm),
        not_before=FROM,
        not_after=TO,
        min_serial=FIRST + 5,
        max_serial=max_serial,
        prefix_url="https://ca.example/1",
        can_sign_crls=True,
        revision=revision,
    )
    ca = CACertificate.parse(der)
    assert (ca.ca_id, ca.revision, ca.algorithm.name) == (CA_ID, revision, algorithm)
    assert (ca.min_serial, ca.max_serial) == (FIRST + 5, max_serial)
    assert ca.prefix_url == "https://ca.example/1"
    assert ca.is_unsigned
    assert not ca.is_self_signed
    assert FIRST + 4 in ca.revoked
    assert FIRST + 5 not in ca.revoked
    assert max_serial not in ca.revoked
    assert (max_serial + 1 in ca.revoked) == (max_serial != LAST)


def test_another_implementation_reads_our_extensions() -> None:
    """pyca/cryptography finds keyUsage, basicConstraints, the key ID and the critical MTC CA extension."""
    for revision in (REVISIONS["plants-04"], REVISIONS["plants-05"]):
        der = encode_ca_certificate(
            ca_id=CA_ID, public_key=public_key(), not_before=FROM, not_after=TO, can_sign_crls=True, revision=revision
        )
        theirs = x509.load_der_x509_certificate(der)
        usage = theirs.extensions.get_extension_for_class(x509.KeyUsage)
        assert usage.critical
        assert usage.value.key_cert_sign
        assert usage.value.crl_sign
        assert not usage.value.digital_signature
        constraints = theirs.extensions.get_extension_for_class(x509.BasicConstraints)
        assert constraints.critical
        assert constraints.value.ca
        key_id = theirs.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.key_identifier
        assert key_id == CA_ID.binary
        assert theirs.extensions.get_extension_for_oid(x509.ObjectIdentifier(revision.ca_extension_oid)).critical
        (attribute,) = theirs.subject
        assert (attribute.oid.dotted_string, attribute.value) == (revision.name_oid, "32473.1")
        assert theirs.not_valid_before_utc == FROM


def test_an_sm3_hash_needs_an_extension_that_names_it() -> None:
    """-04 and -05 name the log hash; in -06 and -07 the extension's OID means SHA-256, and SM3 cannot be asked for."""
    for revision in REVISIONS.values():
        fields = {"ca_id": CA_ID, "public_key": public_key(), "not_before": FROM, "not_after": TO}
        if revision.ca_extension_has_hash:
            der = encode_ca_certificate(**fields, hash_name="sm3", revision=revision)  # type: ignore[arg-type]  # a dict
            assert CACertificate.parse(der).hash.name == "sm3"
            continue
        with pytest.raises(UsageError):
            encode_ca_certificate(**fields, hash_name="sm3", revision=revision)  # type: ignore[arg-type]  # a dict


def test_04_has_no_max_serial() -> None:
    """-04 revokes nothing at the upper end, cannot be asked to, and is told from -05 by the missing number."""
    der = ca_certificate(authority(REVISIONS["plants-04"], 7), revision=REVISIONS["plants-04"])
    ca = CACertificate.parse(der)
    assert ca.revision.name == "plants-04"
    assert ca.max_serial == LAST
    assert ca.revoked == SerialRanges([(0, 7)])
    assert CACertificate.parse(
        ca_certificate(authority(REVISIONS["plants-05"], 7, 9), revision=REVISIONS["plants-05"])
    ).revoked == SerialRanges([(0, 7), (10, SERIAL_LIMIT)])
    with pytest.raises(UsageError):
        encode_ca_certificate(
            ca_id=CA_ID,
            public_key=public_key(),
            not_before=FROM,
            not_after=TO,
            max_serial=LAST - 1,
            revision=REVISIONS["plants-04"],
        )


@pytest.mark.parametrize("name", ["plants-06", "plants-07"])
def test_06_and_07_have_a_max_serial(name: str) -> None:
    """Without maxSerial an extension of -06 or -07 is cut off."""
    refused(ca_certificate(authority(REVISIONS[name], FIRST), revision=REVISIONS[name]), Reason.TRUNCATED, FormatError)


@pytest.mark.parametrize(
    ("name", "serials", "is_fine"),
    [
        ("plants-07", (FIRST, LAST), True),
        ("plants-07", (FIRST, FIRST), True),
        ("plants-07", (FIRST - 1, LAST), False),
        ("plants-07", (FIRST, FIRST - 1), False),
        ("plants-07", (FIRST, LAST + 1), False),
        ("plants-07", (LAST + 1, LAST + 1), False),
        ("plants-07", (1 << 40000, LAST), False),
        ("plants-07", (FIRST, 1 << 40000), False),
        ("plants-07", (-1, LAST), False),
        ("plants-06", (0, LAST), True),
        ("plants-06", (-1, LAST), False),
        ("plants-05", (0, 0), True),
        ("plants-05", (0, LAST + 1), False),
        ("plants-04", (LAST,), True),
        ("plants-04", (LAST + 1,), False),
    ],
)
def test_serial_bounds_lie_in_range(name: str, serials: tuple[int, ...], is_fine: bool) -> None:  # noqa: FBT001 - a row
    """-07 keeps both bounds between 2^48 and 2^64 - 1, the older revisions between 0 and 2^64 - 1."""
    revision = REVISIONS[name]
    der = ca_certificate(authority(revision, *serials), revision=revision)
    if is_fine:
        assert CACertificate.parse(der).min_serial == serials[0]
        return
    refused(der, Reason.SERIAL_OUT_OF_RANGE, FormatError)
    with pytest.raises(UsageError) as caught:
        encode_ca_certificate(
            ca_id=CA_ID,
            public_key=public_key(),
            not_before=FROM,
            not_after=TO,
            min_serial=serials[0],
            max_serial=serials[-1] if len(serials) > 1 else LAST,
            revision=revision,
        )
    assert caught.value.reason is Reason.SERIAL_OUT_OF_RANGE


def test_bounds_in_the_wrong_order_revoke_everything() -> None:
    """A minSerial above maxSerial leaves no serial number."""
    ca = CACertificate.parse(ca_certificate(authority(DEFAULT_REVISION, 5 << 48, 3 << 48)))
    assert ca.revoked == SerialRanges([(0, SERIAL_LIMIT)])


def test_a_certificate_without_the_extension_is_no_mtc_ca() -> None:
    """Without the MTC CA extension, or without any, a certificate describes no MTC CA."""
    refused(ca_certificate(), Reason.NOT_MTC, Rejected)
    without = encode_sequence(
        encode_integer(1),
        UNSIGNED,
        encode_name(unsigned=""),
        encode_sequence(encode_time(FROM), encode_time(TO)),
        encode_ca_name(CA_ID, DEFAULT_REVISION),
        public_key().public_key,
    )
    refused(encode_sequence(without, UNSIGNED, encode_bit_string(b"")), Reason.NOT_MTC, Rejected)


@pytest.mark.parametrize("named", REVISIONS)
@pytest.mark.parametrize("extended", REVISIONS)
def test_a_mix_of_drafts_is_refused(named: str, extended: str) -> None:
    """The name of one revision with the extension of another describes no CA; -04 and -05 share both."""
    der = ca_certificate(
        authority(REVISIONS[extended], *((FIRST,) if extended == "plants-04" else (FIRST, LAST))),
        revision=REVISIONS[named],
    )
    if named == extended or {named, extended} == {"plants-04", "plants-05"}:
        assert CACertificate.parse(der).revision.name == extended
    else:
        refused(der, Reason.DRAFT_MISMATCH, Rejected)


def test_two_ca_extensions_are_a_mix() -> None:
    """A certificate with the extensions of two revisions is refused, whatever its name says."""
    for revision in (REVISIONS["plants-06"], DEFAULT_REVISION):
        der = ca_certificate(authority(REVISIONS["plants-06"]), authority(), revision=revision)
        refused(der, Reason.DRAFT_MISMATCH, Rejected)


@pytest.mark.parametrize(
    ("usual", "family", "reason"),
    [
        ((encode_basic_constraints(is_ca=True),), Rejected, Reason.WRONG_KEY_USAGE),
        (
            (encode_key_usage("digitalSignature", "cRLSign"), encode_basic_constraints(is_ca=True)),
            Rejected,
            Reason.WRONG_KEY_USAGE,
        ),
        ((encode_key_usage("keyCertSign"),), Rejected, Reason.WRONG_KEY_USAGE),
        ((encode_key_usage("keyCertSign"), encode_basic_constraints(is_ca=False)), Rejected, Reason.WRONG_KEY_USAGE),
        (
            (Extension("2.5.29.15", b"\x04\x00"), encode_basic_constraints(is_ca=True)),
            FormatError,
            Reason.BAD_TAG,
        ),
        ((encode_key_usage("keyCertSign"), Extension("2.5.29.19", b"")), FormatError, Reason.TRUNCATED),
    ],
)
def test_a_ca_needs_key_usage_and_basic_constraints(
    usual: tuple[Extension, ...], family: type[Error], reason: Reason
) -> None:
    """Both keyUsage with keyCertSign and basicConstraints with cA TRUE must be there and well formed."""
    refused(ca_certificate(authority(), usual=usual), reason, family)


@pytest.mark.parametrize(
    ("extension", "reason"),
    [
        (Extension(DEFAULT_REVISION.ca_extension_oid, authority().value), Reason.BAD_EXTENSION),
        (Extension(DEFAULT_REVISION.ca_extension_oid, b"", is_critical=True), Reason.TRUNCATED),
        (
            Extension(DEFAULT_REVISION.ca_extension_oid, authority().value + b"\x05\x00", is_critical=True),
            Reason.TRAILING_DATA,
        ),
        (authority(DEFAULT_REVISION, FIRST, LAST, LAST), Reason.TRAILING_DATA),
        (authority(head=encode_sequence(encode_oid("1.2.3"))), Reason.UNKNOWN_ALGORITHM),
        (authority(head=encode_sequence(encode_oid("1.2.840.10045.4.3.2"), b"\x05\x00")), Reason.UNKNOWN_ALGORITHM),
        (authority(head=encode_sequence(encode_oid("1.2.840.10045.4.3.2"))), Reason.ALGORITHM_MISMATCH),
        (
            authority(head=HASH_ALGORITHMS["sha256"].identifier + make_key("ml-dsa-44").algorithm.identifier),
            Reason.UNKNOWN_ALGORITHM,
        ),
        (authority(head=b""), Reason.BAD_TAG),
    ],
)
def test_a_malformed_ca_extension_is_refused(extension: Extension, reason: Reason) -> None:
    """The extension must be critical, whole, and name the algorithm that the key is of."""
    refused(ca_certificate(extension), reason, FormatError)


def test_an_unknown_log_hash_is_refused() -> None:
    """-05 names the log hash; one that is not known here, or with parameters, is refused."""
    algorithm = make_key("ml-dsa-44").algorithm.identifier
    for identifier in (
        encode_sequence(encode_oid("2.16.840.1.101.3.4.2.2")),
        encode_sequence(encode_oid("2.16.840.1.101.3.4.2.1"), b"\x05\x00"),
    ):
        extension = authority(REVISIONS["plants-05"], head=identifier + algorithm)
        refused(ca_certificate(extension, revision=REVISIONS["plants-05"]), Reason.UNKNOWN_ALGORITHM, FormatError)


def test_an_unsigned_certificate_has_an_empty_signature() -> None:
    """id-alg-unsigned goes with an empty BIT STRING, and both algorithm fields agree."""
    refused(ca_certificate(authority(), signature=b"x"), Reason.BAD_BIT_STRING, FormatError)
    other = encode_sequence(encode_oid("1.3.101.112"))
    refused(ca_certificate(authority(), outer=other), Reason.ALGORITHM_MISMATCH, FormatError)


def test_signed_ca_certificates_are_told_by_their_issuer() -> None:
    """A signed certificate is self-signed when issuer and subject are equal; its signature is not checked here."""
    signed = encode_sequence(encode_oid("1.3.101.112"))
    own = encode_ca_name(CA_ID, DEFAULT_REVISION)
    for issuer, is_self_signed in ((own, True), (encode_name(CN="Root"), False)):
        ca = CACertificate.parse(ca_certificate(authority(), issuer=issuer, algorithm=signed, signature=bytes(64)))
        assert not ca.is_unsigned
        assert ca.is_self_signed is is_self_signed
    assert not CACertificate.parse(ca_certificate(authority(), issuer=own)).is_self_signed


@pytest.mark.parametrize(
    ("subject", "reason"),
    [
        (encode_name(), Reason.BAD_NAME),
        (encode_name(CN="Example CA"), Reason.BAD_NAME),
        (encode_name(CN="Example CA", O="Example"), Reason.BAD_NAME),
    ],
)
def test_the_subject_of_a_ca_is_its_id(subject: bytes, reason: Reason) -> None:
    """A subject that holds no trust anchor ID, or more than that, is refused."""
    refused(ca_certificate(authority(), subject=subject), reason, FormatError)


@pytest.mark.parametrize(
    "spki",
    [
        encode_sequence(encode_sequence(encode_oid("1.3.101.112")), encode_bit_string(b"short")),
        make_key("ed25519").public_key,
    ],
)
def test_the_key_of_a_ca_is_of_its_algorithm(spki: bytes) -> None:
    """A key that cannot be read, or is of another algorithm, is refused."""
    with pytest.raises(FormatError) as caught:
        CACertificate.parse(ca_certificate(authority(), spki=spki))
    assert caught.value.reason in {Reason.BAD_KEY, Reason.ALGORITHM_MISMATCH}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", Reason.TRUNCATED),
        (encode_tlv(0x0C, b"https://a.example"), Reason.BAD_TAG),
        (encode_tlv(0x16, b"https://a.example\xe4"), Reason.BAD_STRING),
        (encode_tlv(0x16, b"https://a.example\x1b[31m"), Reason.BAD_STRING),
        (encode_tlv(0x16, b"https://a.example") + b"\x00", Reason.TRAILING_DATA),
    ],
)
def test_a_malformed_prefix_url_is_refused(value: bytes, reason: Reason) -> None:
    """The prefix URL is one IA5String of printable characters."""
    refused(ca_certificate(authority(), Extension(PREFIX_URL_OID, value)), reason, FormatError)


@pytest.mark.parametrize("url", ["https://b\xfccher.example", "https://a.example/\n"])
def test_a_prefix_url_beyond_ascii_is_not_written(url: str) -> None:
    """A URL with other characters than printable ASCII is refused by the writer."""
    with pytest.raises(UsageError):
        encode_ca_certificate(ca_id=CA_ID, public_key=public_key(), not_before=FROM, not_after=TO, prefix_url=url)


def test_every_truncation_of_a_ca_certificate_is_refused() -> None:
    """No proper prefix of a CA certificate is one."""
    der = encode_ca_certificate(ca_id=CA_ID, public_key=public_key("ed25519"), not_before=FROM, not_after=TO)
    for end in range(len(der)):
        with pytest.raises(FormatError):
            CACertificate.parse(der[:end])


@given(st.data())
def test_damaged_ca_certificates_are_refused_politely(data: st.DataObject) -> None:
    """Whatever bytes change, parsing ends with a CA certificate or with an error of ours."""
    der = bytearray(encode_ca_certificate(ca_id=CA_ID, public_key=public_key("ed25519"), not_before=FROM, not_after=TO))
    for at in data.draw(st.lists(st.integers(0, len(der) - 1), min_size=1, max_size=3)):
        der[at] = data.draw(st.integers(0, 255))
    try:
        ca = CACertificate.parse(bytes(der))
    except Error:
        return
    assert ca.der == bytes(der)
    assert len(ca.revoked) <= 2
