"""The rest of X.509 that a TLS client needs: names, usages, basic constraints, critical extensions; on both kernels."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.makers import ANY_PURPOSE, CLIENT_AUTH, HOST, NOW, SERVER_AUTH, Leaf, certify, leaf_extensions

from mtc.cert import (
    Extension,
    encode_basic_constraints,
    encode_extended_key_usage,
    encode_key_usage,
    encode_name,
    encode_subject_alt_name,
)
from mtc.errors import Error, FormatError, Reason, Rejected, UsageError
from mtc.kernel import Kernel
from mtc.trust import Form, Purpose, ServerName, verify_certificate, verify_signature
from mtc.wire import encode_oid, encode_sequence, encode_tlv

IP4, IP6 = "192.0.2.7", "2001:db8::7"


def judge(
    kernel: Kernel,
    *extensions: Extension,
    name: str | None = None,
    purpose: Purpose = Purpose.SERVER_AUTH,
    subject: bytes = encode_name(),
) -> Reason | None:
    """Return why a certificate with these extensions alone is refused, or None; its signature always verifies."""
    der, store = certify(Leaf(extensions=extensions, subject=subject), kernel)
    verify_signature(der, store, NOW)
    error: Error | None = None
    try:
        verified = verify_certificate(der, store, NOW, name=name, purpose=purpose)
    except (Rejected, FormatError) as caught:
        error = caught
    if error is not None:
        if isinstance(error, Rejected):
            assert (error.facts["ca"], error.facts["log"], error.facts["index"]) == ("32473.1", 1, 0)
        return error.reason
    assert verified.form is Form.LANDMARK_RELATIVE
    assert verified.purpose is purpose
    assert verified.name == (None if name is None else ServerName.parse(name))
    return None


def names(*dns: str, ips: tuple[str, ...] = (), is_critical: bool = False) -> Extension:
    """Return a subjectAltName."""
    return encode_subject_alt_name(dns, ips, is_critical=is_critical)


def test_a_usual_certificate_is_accepted(kernel: Kernel) -> None:
    """Key usage, server authentication and the name asked for: all is well, and what was asked is told."""
    assert judge(kernel, *leaf_extensions(), name=HOST) is None
    assert judge(kernel, *leaf_extensions()) is None


@pytest.mark.parametrize(
    ("presented", "asked", "is_match"),
    [
        ("www.example.com", "www.example.com", True),
        ("www.example.com", "WWW.Example.COM", True),
        ("WWW.EXAMPLE.com", "www.example.com", True),
        ("www.example.com", "www.example.com.", True),
        ("www.example.com", "example.com", False),
        ("example.com", "www.example.com", False),
        ("www.example.com", "www.example.com.example.com", False),
        ("www.example.com", "xwww.example.com", False),
        ("www.example.com.", "www.example.com", False),
        ("*.example.com", "www.example.com", True),
        ("*.EXAMPLE.com", "www.example.COM", True),
        ("*.example.com", "www.example.com.", True),
        ("*.example.com", "xn--bcher-kva.example.com", True),
        ("*.example.com", "example.com", False),
        ("*.example.com", "a.b.example.com", False),
        ("*.b.example.com", "a.b.example.com", True),
        ("*.com", "example.com", False),
        ("*", "example", False),
        ("*", "example.com", False),
        ("*.", "example", False),
        ("*.*.com", "www.example.com", False),
        ("w*.example.com", "www.example.com", False),
        ("*w.example.com", "www.example.com", False),
        ("www.*.com", "www.example.com", False),
        ("www.example.*", "www.example.com", False),
        ("**.example.com", "www.example.com", False),
        ("*example.com", "wwwexample.com", False),
        ("*xexample.com", "www.example.com", False),
        ("*..example.com", "www.example.com", False),
        (".example.com", "www.example.com", False),
        ("localhost", "localhost", True),
        ("_dmarc.example.com", "_dmarc.example.com", True),
        ("*.example.com", "_dmarc.example.com", True),
    ],
)
def test_dns_names_match_by_label(
    kernel: Kernel,
    presented: str,
    asked: str,
    is_match: bool,  # noqa: FBT001 - a row
) -> None:
    """Names compare without case; a wildcard is the whole leftmost label, one label, with two labels behind it."""
    expected = None if is_match else Reason.NAME_MISMATCH
    assert judge(kernel, names(presented), name=asked) is expected
    assert judge(kernel, names("other.example", presented, "another.example"), name=asked) is expected


@pytest.mark.parametrize(
    ("presented", "asked", "is_match"),
    [
        (IP4, IP4, True),
        (IP6, IP6, True),
        (IP6, "2001:0DB8:0:0:0:0:0:7", True),
        (IP6, f"[{IP6}]", True),
        (IP4, "192.0.2.8", False),
        (IP6, "2001:db8::8", False),
        (IP4, f"::ffff:{IP4}", False),
        (f"::ffff:{IP4}", IP4, False),
        ("0.0.0.0", "::", False),  # noqa: S104 - an address to compare, nobody listens on it
    ],
)
def test_ip_addresses_match_byte_for_byte(
    kernel: Kernel,
    presented: str,
    asked: str,
    is_match: bool,  # noqa: FBT001 - a row
) -> None:
    """IPv4 and IPv6 addresses compare as bytes of the same length, however they are written."""
    expected = None if is_match else Reason.NAME_MISMATCH
    assert judge(kernel, names(ips=("198.51.100.1", presented)), name=asked) is expected


def test_an_ip_address_is_never_a_dns_name(kernel: Kernel) -> None:
    """A dNSName that looks like an address, or a wildcard, does not match it; nor an iPAddress a host name."""
    assert judge(kernel, names(IP4), name=IP4) is Reason.NAME_MISMATCH
    assert judge(kernel, names("*.0.2.7"), name=IP4) is Reason.NAME_MISMATCH
    assert judge(kernel, names(IP4, ips=(IP4,)), name=IP4) is None
    raw = Extension("2.5.29.17", encode_sequence(encode_tlv(0x87, b"a.bc")))
    assert judge(kernel, raw, name="a.bc") is Reason.NAME_MISMATCH
    assert judge(kernel, raw, name=str(ip_address(b"a.bc"))) is None


def test_the_common_name_never_counts(kernel: Kernel) -> None:
    """Without a subjectAltName a name is not found, whatever the subject says; without a name nobody asks."""
    subject = encode_name(CN=HOST)
    assert judge(kernel, subject=subject, name=HOST) is Reason.NO_SUBJECT_ALT_NAME
    assert judge(kernel, encode_key_usage("digitalSignature"), subject=subject, name=HOST) is Reason.NO_SUBJECT_ALT_NAME
    assert judge(kernel, subject=subject) is None
    assert judge(kernel, names("other.example"), subject=subject, name=HOST) is Reason.NAME_MISMATCH
    assert judge(kernel, subject=encode_name(CN=IP4), name=IP4) is Reason.NO_SUBJECT_ALT_NAME


def test_a_subject_alt_name_of_other_names_has_no_match(kernel: Kernel) -> None:
    """Mail addresses, URIs and directory names are stepped over and match nothing."""
    others = encode_sequence(
        encode_tlv(0x81, b"someone@www.example.com"),
        encode_tlv(0x86, b"https://www.example.com/"),
        encode_tlv(0xA4, encode_name(CN=HOST)),
    )
    extension = Extension("2.5.29.17", others)
    assert judge(kernel, extension, name=HOST) is Reason.NAME_MISMATCH
    assert judge(kernel, extension) is None


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"", Reason.TRUNCATED),
        (b"\x30\x00", Reason.BAD_EXTENSION),
        (encode_sequence(encode_tlv(0x82, HOST.encode())) + b"\x00", Reason.TRAILING_DATA),
        (encode_sequence(encode_tlv(0x82, b"www.ex\xe4mple.com")), Reason.BAD_STRING),
        (encode_sequence(encode_tlv(0x82, HOST.encode()), encode_tlv(0x87, bytes(5))), Reason.BAD_EXTENSION),
        (encode_sequence(encode_tlv(0x82, HOST.encode()), encode_tlv(0x0C, b"x")), Reason.BAD_TAG),
    ],
)
def test_a_malformed_subject_alt_name_is_refused(kernel: Kernel, value: bytes, reason: Reason) -> None:
    """A subjectAltName that does not parse refuses the certificate, whether or not a name is asked for."""
    for name in (None, HOST):
        assert judge(kernel, Extension("2.5.29.17", value), name=name) is reason


def test_a_name_is_exact_about_nul_bytes(kernel: Kernel) -> None:
    """A NUL inside a presented name is a character like any other and ends nothing."""
    extension = Extension("2.5.29.17", encode_sequence(encode_tlv(0x82, HOST.encode() + b"\x00.evil.example")))
    assert judge(kernel, extension, name=HOST) is Reason.NAME_MISMATCH


USAGE_ROWS = [
    (None, True, True),
    ((SERVER_AUTH,), True, False),
    ((CLIENT_AUTH,), False, True),
    ((CLIENT_AUTH, SERVER_AUTH), True, True),
    ((ANY_PURPOSE,), True, True),
    (("1.3.6.1.5.5.7.3.9",), False, False),
    (("1.2.3", SERVER_AUTH), True, False),
    (("1.2.3", ANY_PURPOSE), True, True),
]


@pytest.mark.parametrize(("purposes", "server", "client"), USAGE_ROWS)
@pytest.mark.parametrize("is_critical", [False, True])
def test_extended_key_usage_restricts(
    kernel: Kernel,
    purposes: tuple[str, ...] | None,
    server: bool,  # noqa: FBT001 - a row
    client: bool,  # noqa: FBT001 - a row
    is_critical: bool,  # noqa: FBT001 - a row
) -> None:
    """An absent extKeyUsage restricts nothing; otherwise the purpose, or any purpose, must stand in it."""
    extensions = () if purposes is None else (encode_extended_key_usage(*purposes, is_critical=is_critical),)
    for purpose, is_fine in ((Purpose.SERVER_AUTH, server), (Purpose.CLIENT_AUTH, client)):
        found = judge(kernel, *extensions, purpose=purpose)
        assert found is (None if is_fine else Reason.WRONG_EXTENDED_KEY_USAGE)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (b"\x30\x00", Reason.BAD_EXTENSION),
        (b"", Reason.TRUNCATED),
        (encode_sequence(b"\x05\x00"), Reason.BAD_TAG),
        (encode_sequence(encode_oid(SERVER_AUTH)) + b"\x00", Reason.TRAILING_DATA),
    ],
)
def test_a_malformed_extended_key_usage_is_refused(kernel: Kernel, value: bytes, reason: Reason) -> None:
    """An extKeyUsage that does not parse allows nothing."""
    assert judge(kernel, Extension("2.5.29.37", value)) is reason


@pytest.mark.parametrize(
    ("usages", "is_fine"),
    [
        (("digitalSignature",), True),
        (("digitalSignature", "keyEncipherment"), True),
        (("digitalSignature", "keyCertSign"), True),
        (("keyEncipherment",), False),
        (("nonRepudiation", "keyAgreement"), False),
        (("keyCertSign",), False),
        (("decipherOnly",), False),
    ],
)
@pytest.mark.parametrize("is_critical", [False, True])
def test_key_usage_must_allow_signing(
    kernel: Kernel,
    usages: tuple[str, ...],
    is_fine: bool,  # noqa: FBT001 - a row
    is_critical: bool,  # noqa: FBT001 - a row
) -> None:
    """An absent keyUsage restricts nothing; one that is there needs digitalSignature, which TLS 1.3 uses."""
    found = judge(kernel, encode_key_usage(*usages, is_critical=is_critical))
    assert found is (None if is_fine else Reason.WRONG_KEY_USAGE)


@pytest.mark.parametrize("value", ["0301", "03010703", "0302ff80", "03020781", "030507800000", "0401", "030100"])
def test_a_malformed_key_usage_is_refused(kernel: Kernel, value: str) -> None:
    """A keyUsage that is no BIT STRING in DER, or has no bits, refuses the certificate."""
    assert judge(kernel, Extension("2.5.29.15", bytes.fromhex(value))) is not None


def test_a_ca_is_no_end_entity(kernel: Kernel) -> None:
    """An MTC leaf with cA TRUE is refused, critical or not, with or without a path length; cA FALSE is fine."""
    for is_critical in (False, True):
        for length in (None, 0, 7):
            ca = encode_basic_constraints(is_ca=True, path_length=length, is_critical=is_critical)
            assert judge(kernel, *leaf_extensions(), ca, name=HOST) is Reason.IS_A_CA
        leaf = encode_basic_constraints(is_ca=False, is_critical=is_critical)
        assert judge(kernel, *leaf_extensions(), leaf, name=HOST) is None


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", Reason.TRUNCATED),
        ("30030101ff00", Reason.TRAILING_DATA),
        ("3003010100", Reason.BAD_BOOLEAN),
        ("3003010101", Reason.BAD_BOOLEAN),
        ("3003020100", Reason.TRAILING_DATA),
        ("30060101ff0201ff", Reason.BAD_INTEGER),
        ("30050101ff0200", Reason.BAD_INTEGER),
    ],
)
def test_malformed_basic_constraints_are_refused(kernel: Kernel, value: str, reason: Reason) -> None:
    """Basic constraints that do not parse refuse the certificate: they might have said cA."""
    assert judge(kernel, Extension("2.5.29.19", bytes.fromhex(value))) is reason


def test_critical_extensions_must_be_known(kernel: Kernel) -> None:
    """A critical extension that is not known here refuses; the same one not critical is ignored."""
    for oid in ("1.2.3.4", "2.5.29.30", "2.5.29.36", "2.5.29.54", "1.3.6.1.5.5.7.1.24", "2.5.29.14", "2.5.29.18"):
        assert judge(kernel, Extension(oid, b"any", is_critical=True)) is Reason.UNKNOWN_CRITICAL_EXTENSION
        assert judge(kernel, Extension(oid, b"any")) is None


def test_the_unknown_critical_extension_is_named(kernel: Kernel) -> None:
    """The error names the first critical extension that is not known."""
    unknown = Extension("1.2.840.113556.99", b"", is_critical=True)
    der, store = certify(Leaf(extensions=(*leaf_extensions(), unknown)), kernel)
    with pytest.raises(Rejected) as caught:
        verify_certificate(der, store, NOW, name=HOST)
    assert caught.value.facts["oid"] == "1.2.840.113556.99"
    assert "1.2.840.113556.99" in caught.value.message


def test_critical_extensions_that_are_known_are_fine(kernel: Kernel) -> None:
    """Names, usages, basic constraints and certificate policies may be critical, all at once."""
    policies = Extension("2.5.29.32", encode_sequence(encode_sequence(encode_oid("2.23.140.1.2.1"))), is_critical=True)
    extensions = (
        names(HOST, is_critical=True),
        encode_key_usage("digitalSignature"),
        encode_extended_key_usage(SERVER_AUTH, is_critical=True),
        encode_basic_constraints(is_ca=False),
        policies,
    )
    assert judge(kernel, *extensions, name=HOST) is None


def test_absent_extensions_restrict_nothing(kernel: Kernel) -> None:
    """A certificate without any extensions serves and asks for any purpose, as long as no name is asked for."""
    for purpose in Purpose:
        assert judge(kernel, purpose=purpose) is None
    assert judge(kernel, names(HOST), name=HOST) is None


def test_client_certificates(kernel: Kernel) -> None:
    """For client authentication a name is rarely asked for; the purpose is."""
    client = (encode_key_usage("digitalSignature"), encode_extended_key_usage(CLIENT_AUTH))
    assert judge(kernel, *client, purpose=Purpose.CLIENT_AUTH) is None
    assert judge(kernel, *client) is Reason.WRONG_EXTENDED_KEY_USAGE
    assert (
        judge(kernel, *client, names("device-7.example"), purpose=Purpose.CLIENT_AUTH, name="device-7.example") is None
    )


def test_a_parsed_name_is_as_good_as_its_text(kernel: Kernel) -> None:
    """`name` may be a ServerName that was parsed before."""
    der, store = certify(Leaf(), kernel)
    assert verify_certificate(der, store, NOW, name=ServerName.parse(HOST)).name == ServerName.parse(HOST)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "*.example.com",
        "a..example",
        ".example.com",
        "example.com..",
        "-a.example",
        "a-.example",
        "a b.example",
        "a/b",
        "a:443",
        "https://a.example",
        "a.example\n",
        "a.example\x00",
        "a" * 64 + ".example",
        ".".join(["a" * 49] * 5) + ".abcd",
        "1.2.3",
        "1.2.3.4.5",
        "256.1.1.1",
        "01.02.03.04",
        "0x7f.1",
        "a.0x7f",
        "a.1",
        "127.1",
        "1",
        "fe80::1%eth0",
        "[fe80::1%eth0]",
        "[192.0.2.7]",
        "[::1",
        "::1]",
        "[]",
        "::g",
    ],
)
def test_what_is_no_name_is_refused(kernel: Kernel, text: str) -> None:
    """A reference name that is neither a host name nor an address is the caller's fault, and matches nothing."""
    with pytest.raises(UsageError):
        ServerName.parse(text)
    der, store = certify(Leaf(), kernel)
    with pytest.raises(UsageError):
        verify_certificate(der, store, NOW, name=text)


@pytest.mark.parametrize(
    "text", ["b\xfccher.example", "\u212aey.example", "ex\u0130mple.com", "\uff11.example", "a\u3002b"]
)
def test_international_names_are_asked_for_as_a_labels(text: str) -> None:
    """A name beyond ASCII is refused with the cure, also where its lower case would be ASCII."""
    with pytest.raises(UsageError, match="A-labels"):
        ServerName.parse(text)


def test_the_longest_name_has_253_characters() -> None:
    """A host name has at most 253 characters, and one more for a last dot."""
    longest = ".".join(["a" * 49] * 5) + ".abc"
    assert len(longest) == 253
    assert ServerName.parse(longest) == ServerName.parse(longest + ".")
    assert str(ServerName.parse(longest.upper() + ".")) == longest


@pytest.mark.parametrize("text", [IP4, IP6, "::", "255.255.255.255"])
def test_addresses_are_shown_as_written(text: str) -> None:
    """The text of an address is its canonical form."""
    assert str(ServerName.parse(text)) == text


labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,5}[a-z0-9])?", fullmatch=True)
hosts = st.lists(labels, min_size=1, max_size=4).map(lambda parts: ".".join((*parts, "test")))
patterns = st.tuples(st.sampled_from(("", "*.", "a*.", "*.*.", "x.*.")), hosts).map("".join)


@given(hosts, st.lists(patterns | hosts, max_size=5))
def test_matching_agrees_with_the_rule_as_written(host: str, presented: list[str]) -> None:
    """A name matches iff one presented name is equal, or is `*.` and all but the first of at least three labels."""
    first, *rest = host.split(".")
    assert first
    expected = host in presented or (len(rest) >= 2 and ".".join(["*", *rest]) in presented)
    asked = ServerName.parse(host)
    assert asked.is_in([name.encode() for name in presented], []) is expected
    assert asked.is_in([name.upper().encode() for name in presented], []) is expected


@given(st.text(max_size=40))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    """Parsing ends with one of host and address, in a form that parses to itself again, or with a UsageError."""
    try:
        found = ServerName.parse(text)
    except UsageError:
        return
    assert (found.host is None) != (found.address is None)
    assert ServerName.parse(str(found)) == found
