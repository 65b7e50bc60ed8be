"""Names and extensions, with another implementation as the judge of what we write; serial ranges; profiles."""

import ipaddress
import warnings
from collections.abc import Callable
from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from tests.makers import ANY_PURPOSE, CLIENT_AUTH, SERVER_AUTH, Leaf, SmallCA
from tests.outcomes import alike

from mtc.cert import (
    Certificate,
    Extension,
    SerialRanges,
    encode_basic_constraints,
    encode_extended_key_usage,
    encode_extensions,
    encode_key_usage,
    encode_name,
    encode_subject_alt_name,
    format_name,
    parse_extensions,
)
from mtc.cert.x509 import KEY_USAGES
from mtc.errors import FormatError, Reason, UsageError
from mtc.ids import DEFAULT_REVISION, REVISIONS, SERIAL_LIMIT, TrustAnchorID, encode_ca_name
from mtc.kernel import Kernel
from mtc.profile import PROFILES, WEB_PKI, parse_profile
from mtc.wire import encode_oid, encode_sequence, encode_set, encode_tlv, encode_utf8_string

LoadVectors = Callable[[str], Any]
OLD = REVISIONS["plants-05"]

labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
dns_names = st.lists(labels, min_size=1, max_size=4).map(".".join)
addresses = st.ip_addresses().map(str)


def foreign(*extensions: Extension) -> x509.Extensions:
    """Return what pyca/cryptography reads in a certificate of ours (-05, whose names it can read) with extensions."""
    der = SmallCA((Leaf(extensions=extensions),), revision=OLD).certificate(0)
    with warnings.catch_warnings():
        # It warns of DNS names that are no A-labels, and of our certificate's oddities; its reading is what counts.
        warnings.simplefilter("ignore")
        return x509.load_der_x509_certificate(der).extensions


def scanned(kernel: Kernel, *extensions: Extension) -> tuple[object, ...]:
    """Return what the kernel reads in extensions."""
    contents = b"".join(extension.encode() for extension in extensions)
    return kernel.scan_extensions(contents, 0, len(contents))


def test_foreign_parsers_read_our_certificates() -> None:
    """pyca/cryptography reads issuer, serial number, times and extensions of a -05 certificate as we meant them."""
    ca = SmallCA(revision=OLD, log_number=300)
    der = ca.certificate(5)
    theirs = x509.load_der_x509_certificate(der)
    assert theirs.serial_number == 300 << 48 | 5
    (attribute,) = theirs.issuer
    assert (attribute.oid.dotted_string, attribute.value) == (OLD.name_oid, "32473.1")
    ours = Certificate.parse(der)
    assert theirs.not_valid_before_utc == ours.not_before
    assert theirs.not_valid_after_utc == ours.not_after
    assert theirs.signature_algorithm_oid.dotted_string == OLD.proof_oid
    assert theirs.signature == ours.proof.encode(OLD)
    assert theirs.tbs_certificate_bytes == ours.tbs
    assert [(item.oid.dotted_string, item.critical) for item in theirs.extensions] == [
        (item.oid, item.is_critical) for item in ours.extensions
    ]


def test_foreign_parsers_read_our_newer_certificates_without_names() -> None:
    """pyca/cryptography reads the extensions of -07 certificates too, though not their issuer."""
    theirs = x509.load_der_x509_certificate(SmallCA().certificate(0))
    names = theirs.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["www.example.com", "entry-0.example"]
    with pytest.raises(ValueError, match="error parsing asn1"):
        _ = theirs.issuer


@given(st.sets(st.sampled_from(KEY_USAGES), min_size=1), st.booleans())
def test_key_usages_mean_what_they_say(names: set[str], is_critical: bool) -> None:  # noqa: FBT001 - drawn
    """Every combination of key usages is read back by a foreign parser, which wants keyAgreement beside two of them."""
    if names & {"encipherOnly", "decipherOnly"}:
        names = names | {"keyAgreement"}
    found = foreign(encode_key_usage(*names, is_critical=is_critical)).get_extension_for_class(x509.KeyUsage)
    assert found.critical is is_critical
    usage = found.value
    theirs = {
        "digitalSignature": usage.digital_signature,
        "nonRepudiation": usage.content_commitment,
        "keyEncipherment": usage.key_encipherment,
        "dataEncipherment": usage.data_encipherment,
        "keyAgreement": usage.key_agreement,
        "keyCertSign": usage.key_cert_sign,
        "cRLSign": usage.crl_sign,
        "encipherOnly": usage.key_agreement and usage.encipher_only,
        "decipherOnly": usage.key_agreement and usage.decipher_only,
    }
    assert {name for name, is_set in theirs.items() if is_set} == names


@given(st.sets(st.sampled_from(KEY_USAGES), min_size=1))
def test_kernels_read_key_usages(twins: tuple[Kernel, Kernel], names: set[str]) -> None:
    """Both kernels set one bit per key usage, the first as 1."""
    for kernel in twins:
        found = scanned(kernel, encode_key_usage(*names))
        assert found[1] == sum(1 << KEY_USAGES.index(name) for name in names)


@pytest.mark.parametrize(
    ("names", "value"),
    [
        (["digitalSignature"], "03020780"),
        (["keyCertSign"], "03020204"),
        (["keyCertSign", "cRLSign"], "03020106"),
        (["encipherOnly"], "03020001"),
        (["decipherOnly"], "0303070080"),
        (["digitalSignature", "decipherOnly"], "0303078080"),
    ],
)
def test_key_usage_bytes(names: list[str], value: str) -> None:
    """Trailing zero bits of a KeyUsage are not written."""
    assert encode_key_usage(*names).value.hex() == value


def test_key_usages_have_names() -> None:
    """An unknown key usage is refused with the names there are, and so is a keyUsage without any."""
    with pytest.raises(UsageError, match="digitalSignature"):
        encode_key_usage("signing")
    with pytest.raises(UsageError):
        encode_key_usage()


def test_purposes_are_read_by_others(twins: tuple[Kernel, Kernel]) -> None:
    """An extKeyUsage names its purposes in order; both kernels tell the ones that TLS knows apart from others."""
    for oids, flags in (
        ((SERVER_AUTH,), 1),
        ((CLIENT_AUTH, SERVER_AUTH), 3),
        ((ANY_PURPOSE,), 4),
        (("1.3.6.1.5.5.7.3.9",), 8),
        ((SERVER_AUTH, "1.2.3"), 9),
    ):
        extension = encode_extended_key_usage(*oids, is_critical=True)
        found = foreign(extension).get_extension_for_class(x509.ExtendedKeyUsage)
        assert found.critical
        assert [purpose.dotted_string for purpose in found.value] == list(oids)
        assert alike(twins, lambda kernel, item=extension: scanned(kernel, item)[2]) == flags  # type: ignore[misc]  # lambda
    with pytest.raises(UsageError):
        encode_extended_key_usage()


@pytest.mark.parametrize("path_length", [None, 0, 3, 300])
@pytest.mark.parametrize("is_ca", [True, False])
def test_basic_constraints_are_read_by_others(
    kernel: Kernel,
    path_length: int | None,
    is_ca: bool,  # noqa: FBT001 - a row
) -> None:
    """A path length is written for a CA only; cA FALSE is the default and leaves an empty SEQUENCE."""
    extension = encode_basic_constraints(is_ca=is_ca, path_length=path_length)
    found = foreign(extension).get_extension_for_class(x509.BasicConstraints)
    assert found.critical
    assert found.value == x509.BasicConstraints(is_ca, path_length if is_ca else None)
    assert scanned(kernel, extension)[0] is is_ca
    assert is_ca or extension.value == b"\x30\x00"


@given(st.lists(dns_names, max_size=5), st.lists(addresses, max_size=5))
def test_alternative_names_are_read_by_others(twins: tuple[Kernel, Kernel], names: list[str], ips: list[str]) -> None:
    """DNS names and IP addresses are read back in order, by a foreign parser and by both kernels."""
    if not names and not ips:
        return
    extension = encode_subject_alt_name(names, ips)
    found = foreign(extension).get_extension_for_class(x509.SubjectAlternativeName)
    assert not found.critical
    assert found.value.get_values_for_type(x509.DNSName) == names
    expected = [ipaddress.ip_address(text) for text in ips]
    assert found.value.get_values_for_type(x509.IPAddress) == expected
    read = alike(twins, lambda kernel: scanned(kernel, extension)[3:5])
    assert read == ([name.encode() for name in names], [address.packed for address in expected])


@pytest.mark.parametrize(
    ("names", "ips"), [([""], []), (["b\xfccher.example"], []), ([], ["1.2.3"]), ([], ["::g"]), ([], [])]
)
def test_alternative_names_that_are_none_are_refused(names: list[str], ips: list[str]) -> None:
    """Empty and international names, and what is no address, are refused with a cure."""
    with pytest.raises(UsageError):
        encode_subject_alt_name(names, ips)


def test_extensions_are_read_as_written() -> None:
    """A list of extensions survives a round trip, criticality included; an extension twice is not written."""
    extensions = (Extension("1.2.3", b"a", is_critical=True), Extension("2.5.29.99", b""))
    data = encode_extensions(extensions)
    assert parse_extensions(data, 2, len(data)) == extensions
    with pytest.raises(UsageError) as caught:
        encode_extensions((*extensions, Extension("1.2.3", b"b")))
    assert caught.value.reason is Reason.DUPLICATE_EXTENSION


def test_malformed_extensions_are_refused() -> None:
    """A criticality other than TRUE, bytes behind the value and an identifier beyond the limit have their reasons."""
    oid, value = encode_oid("1.2.3"), b"\x04\x00"
    for parts, reason in (
        ((oid, b"\x01\x01\x00", value), Reason.BAD_BOOLEAN),
        ((oid, b"\x01\x01\x01", value), Reason.BAD_BOOLEAN),
        ((oid, value, b"\x05\x00"), Reason.TRAILING_DATA),
        ((oid,), Reason.TRUNCATED),
        ((encode_tlv(0x06, b"\x80\x01"), value), Reason.BAD_OID),
        ((encode_tlv(0x06, b"\x2a" * 513), value), Reason.TOO_LARGE),
    ):
        data = encode_sequence(*parts)
        with pytest.raises(FormatError) as caught:
            parse_extensions(data, 0, len(data))
        assert caught.value.reason is reason


def test_names_are_read_by_others() -> None:
    """Attributes become one RDN each, in order, and a foreign parser reads them."""
    subject = encode_name(C="DE", O="Exämple, Inc.", CN="www.example.com")
    der = SmallCA((Leaf(subject=subject),), revision=OLD).certificate(0)
    theirs = x509.load_der_x509_certificate(der).subject
    assert [(item.oid, item.value) for item in theirs] == [
        (NameOID.COUNTRY_NAME, "DE"),
        (NameOID.ORGANIZATION_NAME, "Exämple, Inc."),
        (NameOID.COMMON_NAME, "www.example.com"),
    ]
    assert len(theirs.rdns) == 3
    assert format_name(subject) == "C=DE, O=Exämple\\, Inc., CN=www.example.com"
    with pytest.raises(UsageError, match="CN"):
        encode_name(commonName="x")


def test_an_empty_name_is_empty() -> None:
    """A subject may be empty; then its text is too."""
    assert encode_name() == b"\x30\x00"
    assert format_name(encode_name()) == ""


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=REVISIONS)
def test_ca_names_are_shown_by_their_id(revision: Any) -> None:  # noqa: ANN401 - a DraftRevision
    """The name of a CA shows its trust anchor ID in every revision."""
    assert format_name(encode_ca_name(TrustAnchorID.parse("32473.1"), revision)) == "trustAnchorID=32473.1"


def attribute(value: bytes, oid: str = "2.5.4.3") -> bytes:
    """Return a name with one attribute of any value."""
    return encode_sequence(encode_set(encode_sequence(encode_oid(oid), value)))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (attribute(encode_tlv(0x13, b"printable")), "CN=printable"),
        (attribute(encode_tlv(0x16, b"a+b=c;d")), "CN=a\\+b\\=c\\;d"),
        (attribute(encode_tlv(0x0C, b"\x1b[31mred")), "CN=#1b5b33316d726564"),
        (attribute(encode_tlv(0x1E, b"\x00a")), "CN=#0061"),
        (attribute(encode_utf8_string("x"), "1.2.3.4"), "1.2.3.4=x"),
        (attribute(encode_tlv(0x0D, b"\x80"), DEFAULT_REVISION.name_oid), "trustAnchorID=#80"),
        (
            encode_sequence(
                encode_set(
                    encode_sequence(encode_oid("2.5.4.3"), encode_utf8_string("a")),
                    encode_sequence(encode_oid("2.5.4.10"), encode_utf8_string("b")),
                )
            ),
            "CN=a+O=b",
        ),
    ],
)
def test_names_are_shown_safely(name: bytes, text: str) -> None:
    """What is not printable text is shown in hex, special characters are escaped, unknown types by their OID."""
    assert format_name(name) == text


@given(st.binary(max_size=60))
def test_any_bytes_are_a_name_or_refused(data: bytes) -> None:
    """Showing a name ends with printable text or with a FormatError."""
    for name in (data, encode_sequence(data), attribute(data)):
        try:
            text = format_name(name)
        except FormatError:
            continue
        assert text.isprintable()


ranges = st.lists(
    st.tuples(st.integers(0, 60), st.integers(0, 60)).map(lambda pair: (min(pair), max(pair))), max_size=8
)


def naive(pairs: list[tuple[int, int]]) -> set[int]:
    """Return the serial numbers of ranges one by one."""
    return {serial for start, end in pairs for serial in range(start, end)}


@given(ranges)
def test_serial_ranges_are_sets(pairs: list[tuple[int, int]]) -> None:
    """Membership is that of the plain set; the ranges come out sorted, apart from each other and not empty."""
    found = SerialRanges(pairs)
    assert {serial for serial in range(-1, 62) if serial in found} == naive(pairs)
    listed = list(found)
    assert len(found) == len(listed)
    assert naive(listed) == naive(pairs)
    assert all(start < end for start, end in listed)
    assert all(end < start for (_, end), (start, _) in pairwise(listed))


@given(ranges, ranges)
def test_serial_ranges_obey_the_laws_of_sets(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> None:
    """Union is union; equality and hash depend on the numbers alone, however they were written."""
    left, right = SerialRanges(one), SerialRanges(other)
    assert left | right == right | left == SerialRanges([*one, *other])
    assert left | left == left | SerialRanges() == left
    assert (left == right) == (naive(one) == naive(other))
    assert left != right or hash(left) == hash(right)
    assert SerialRanges(reversed(one)) == left
    assert SerialRanges(left) == left
    assert eval(repr(left)) == left  # noqa: S307 - the repr is ours


def test_serial_ranges_reach_to_2_to_the_64() -> None:
    """Bounds lie from 0 to 2^64; ranges are half-open and empty ones vanish."""
    everything = SerialRanges([(0, SERIAL_LIMIT)])
    assert 0 in everything
    assert SERIAL_LIMIT - 1 in everything
    assert SERIAL_LIMIT not in everything
    assert SerialRanges([(0, 0), (7, 7), (SERIAL_LIMIT, SERIAL_LIMIT)]) == SerialRanges()
    assert list(SerialRanges([(5, 9), (9, 12)])) == [(5, 12)]
    assert SerialRanges([(1, 2)]) != {1}


@pytest.mark.parametrize("pair", [(-1, 0), (2, 1), (0, SERIAL_LIMIT + 1), (SERIAL_LIMIT + 1, SERIAL_LIMIT + 1)])
def test_serial_ranges_out_of_range_are_refused(pair: tuple[int, int]) -> None:
    """A range that runs backwards or leaves 0 to 2^64 is refused."""
    with pytest.raises(FormatError) as caught:
        SerialRanges([(1, 5), pair])
    assert caught.value.reason is Reason.BAD_NUMBER


def test_profiles_are_found_by_name() -> None:
    """Each profile is found under its own name; an unknown one is refused with the names there are."""
    for name, profile in PROFILES.items():
        assert parse_profile(name) is profile
        assert profile.name == name
    with pytest.raises(UsageError, match="web-pki"):
        parse_profile("web")


def test_profiles_keep_the_formula_for_active_landmarks() -> None:
    """At most ceil(lifetime / interval) + 1 landmarks are active; no profile's cap is below that."""
    for profile in PROFILES.values():
        needed = -(-profile.max_lifetime // profile.landmark_interval) + 1
        assert profile.max_active_landmarks >= needed
        assert 1 <= profile.min_log <= profile.max_log <= 65535
    assert -(-WEB_PKI.max_lifetime // timedelta(hours=1)) + 1 == 169


def test_only_sha256_with_ml_dsa_44_may_claim_mtc_tlog() -> None:
    """The C2SP profile fixes SHA-256; the SM profile cannot claim it."""
    for profile in PROFILES.values():
        assert not profile.is_mtc_tlog or (profile.hash_name == "sha256" and "ml-dsa-44" in profile.signatures)
    assert not PROFILES["china-sm"].is_mtc_tlog
