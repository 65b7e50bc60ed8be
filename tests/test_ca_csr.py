"""Certificate requests and public key files: what is taken from them, and what is refused with which advice."""

from ipaddress import ip_address
from itertools import count
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from tests.lint_cases import PRIVATE, make_entry
from tests.makers import LEAF_SPKI, NOW, make_key

from mtc.ca.csr import CSR, MAX_CSR_BYTES, MAX_CSR_NAMES, parse_csr, parse_public_key_file
from mtc.cert import Extension, encode_extensions
from mtc.errors import Error, FormatError, Reason, SignatureError
from mtc.lint import LintCode, Severity, lint_entry
from mtc.wire import (
    PEMBlock,
    encode_bit_string,
    encode_integer,
    encode_oid,
    encode_pem,
    encode_sequence,
    encode_set,
    encode_tlv,
    parse_pem,
)

# Made with OpenSSL 3.0.19: openssl req -new -subj /CN=www.example.com -addext "subjectAltName=DNS:www.example.com,
# DNS:*.example.com,IP:192.0.2.1,email:a@example.com" -addext "basicConstraints=CA:TRUE"; its private key is lost.
OPENSSL_REQUEST = b"""\
-----BEGIN CERTIFICATE REQUEST-----
MIIBNDCB2wIBADAaMRgwFgYDVQQDDA93d3cuZXhhbXBsZS5jb20wWTATBgcqhkjO
PQIBBggqhkjOPQMBBwNCAAR4V3snRO/1nuIy52pISB5ZTfPRGuLwcKDJ1OBj4VSS
WKZLpDDElXrEXAOTj9jG7yeIy+4p0e7P0loIbUNi9IQEoF8wXQYJKoZIhvcNAQkO
MVAwTjA+BgNVHREENzA1gg93d3cuZXhhbXBsZS5jb22CDSouZXhhbXBsZS5jb22H
BMAAAgGBDWFAZXhhbXBsZS5jb20wDAYDVR0TBAUwAwEB/zAKBggqhkjOPQQDAgNI
ADBFAiBlCt/nA3IPC2GWLXNkubq3vioB9bfvx7RisH9XD53B5AIhAL6QCro5SUIs
iP9fdvJxnDf4wesJJhpzFOxwd44E+Puo
-----END CERTIFICATE REQUEST-----
"""
# csr05.pem of the tests of the ROCA detector (github.com/crocs-muni/roca, MIT licence): 2,049 bits, and factored.
ROCA_REQUEST = b"""\
-----BEGIN CERTIFICATE REQUEST-----
MIIC0jCCAbkCAQAwgYsxCzAJBgNVBAYTAkNaMQ0wCwYDVQQIDARCcm5vMQ0wCwYD
VQQHDARCcm5vMRswGQYDVQQKDBJNYXNhcnlrIFVuaXZlcnNpdHkxJjAkBgNVBAsM
HUZhY3VsdHkgb2YgSW5mb3JtYXRpY3MsIENSb0NTMRkwFwYDVQQDDBBjcm9jcy5m
aS5tdW5pLmN6MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEBqcWmh9uP
sqMPgt/43aFUwpHvJ7BLJeGFuKsgxMal9gSFn+We3lSgr3wOcoiACtcZO7cxpb8e
EXDXocZpMNQeo+sh3t97ivXUKpHDT3IEW5bv1XyxgjAd3MJpZ+VQjpq4iZhtV+g3
3+cPmfw3xJj0PBfDubBkz3BEQ9egM+A6ghaXqr8w+ynufTOzdnllqJBY47OXVL06
HAB9KKI7DPp5+dcRrG5MS093sGNLHs1oWRrwPH1TtipfLZEWPU70+PJoMa5GHthe
xfeIxRI//BLIdCD9z+odG0pSw1IYJPs5mDSHObYqmG2OdrIom8Lri8BtE4FHhRuD
oHGD0hBVn5BjIQIDAQABoAAwDQYJKoZIhvcNAQELBQADggECAABFbW5YQEdkFcXw
FCkNKvr7Xtnnihn+bsQgAFfHySK8oNxsviSoGbkz5SVjaldrHklFADoW1z58FDHW
7zx7YLA73aRHYZJ4BE8vys8oMqZFutS3lPJgN5GPcEiPYsBlgNWldTGe5h2JdbBp
K+pz9h2NnaY4/1+z6iONieox+AhqljL0XHZYxIxrhu5LaJj0ufd3EMLC8Nudye61
5xLWhO2YrXuyhdoaoO5M6meDpMq+FjHjKN2NfyDg4FCdOs7AgyLKJHbjQFeNPIRj
cbu4jtfN/vk1uVEc1M9WlcibklbikV1eO7dtmG9Td/HD8KQFyI08ytlN8YZJ7IMf
d/I4QXTy
-----END CERTIFICATE REQUEST-----
"""

RSA_KEY = rsa.generate_private_key(65537, 2048)
KEYS: dict[str, Any] = {
    "rsa": RSA_KEY,
    "p-256": ec.derive_private_key(7, ec.SECP256R1()),
    "p-384": ec.derive_private_key(7, ec.SECP384R1()),
    "p-521": ec.derive_private_key(7, ec.SECP521R1()),
    "ed25519": ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)),
    "ml-dsa-44": mldsa.MLDSA44PrivateKey.from_seed_bytes(bytes(32)),
    "ml-dsa-65": mldsa.MLDSA65PrivateKey.from_seed_bytes(bytes(32)),
    "ml-dsa-87": mldsa.MLDSA87PrivateKey.from_seed_bytes(bytes(32)),
}
DER, PEM = serialization.Encoding.DER, serialization.Encoding.PEM
PKCS8, NO_PASSPHRASE = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()


def request(name: str = "p-256", *names: x509.GeneralName, subject: str | None = None, **more: Any) -> bytes:  # noqa: ANN401 - library's
    """Return a certificate request in DER that pyca/cryptography makes."""
    attributes = [] if subject is None else [x509.NameAttribute(NameOID.COMMON_NAME, subject)]
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name(attributes))
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    for extension in more.get("extensions", ()):
        builder = builder.add_extension(extension, critical=False)
    if more.get("challenge"):
        builder = builder.add_attribute(x509.oid.AttributeOID.CHALLENGE_PASSWORD, b"secret")
    digest = None if name.startswith(("ed", "ml")) else more.get("digest", hashes.SHA256())
    return builder.sign(KEYS[name], digest).public_bytes(DER)


def signed(*extensions: Extension, version: int = 0) -> bytes:
    """Return a certificate request with any extensions in two attributes, signed by hand."""
    requests = (
        encode_sequence(encode_oid("1.2.840.113549.1.9.14"), encode_set(encode_extensions([extension])))
        for extension in extensions
    )
    attributes = encode_tlv(0xA0, b"".join(requests)) if extensions else b""
    info = encode_sequence(encode_integer(version), encode_sequence(), public_key("p-256"), attributes)
    signature = KEYS["p-256"].sign(info, ec.ECDSA(hashes.SHA256()))
    return encode_sequence(info, encode_sequence(encode_oid("1.2.840.10045.4.3.2")), encode_bit_string(signature))


def public_key(name: str) -> bytes:
    """Return the SubjectPublicKeyInfo of a key of these tests."""
    spki: bytes = KEYS[name].public_key().public_bytes(DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return spki


def test_a_request_of_openssl_is_read() -> None:
    """Key, DNS names and address are taken; the extension and the mail address are left out with a warning each."""
    csr = parse_csr(OPENSSL_REQUEST)
    assert csr.dns_names == ("www.example.com", "*.example.com")
    assert csr.ip_addresses == ("192.0.2.1",)
    assert csr.subject_cns == ("www.example.com",)
    assert (csr.extension_oids, csr.other_names) == (("2.5.29.19",), 1)
    assert [(finding.code, finding.severity) for finding in csr.findings] == [
        (LintCode.CSR_EXTENSION_IGNORED, Severity.WARNING),
        (LintCode.CSR_NAME_IGNORED, Severity.WARNING),
    ]
    assert "2.5.29.19" in csr.findings[0].message
    assert parse_public_key_file(csr.spki) == csr.spki


def test_a_request_with_a_broken_key_is_read_and_then_refused_by_the_lint() -> None:
    """The detector's sample of a request verifies, and its key has the fingerprint and an odd size."""
    csr = parse_csr(ROCA_REQUEST)
    assert (csr.subject_cns, csr.dns_names, csr.findings) == (("crocs.fi.muni.cz",), (), ())
    found = lint_entry(make_entry(key=csr.spki), csr.spki, PRIVATE, NOW)
    assert [finding.code for finding in found] == [LintCode.RSA_SIZE, LintCode.RSA_ROCA]


@pytest.mark.parametrize("name", KEYS)
def test_requests_of_all_key_types_prove_possession(name: str) -> None:
    """A request by each type of key is read, in DER and PEM, with text around it and under its older label."""
    der = request(name, x509.DNSName("a.example.com"), x509.IPAddress(ip_address("2001:db8::1")))
    expected = CSR(public_key(name), ("a.example.com",), ("2001:db8::1",))
    pem = encode_pem([PEMBlock("CERTIFICATE REQUEST", der)])
    older = encode_pem([PEMBlock("NEW CERTIFICATE REQUEST", der)])
    for form in (der, pem, older, b"0 is how this text begins\n" + pem, pem.replace(b"\n", b"\r\n")):
        assert parse_csr(form) == expected
    assert lint_entry(make_entry(key=expected.spki), expected.spki, PRIVATE, NOW) == ()


@pytest.mark.parametrize("name", KEYS)
def test_a_request_signed_by_another_key_is_refused(name: str) -> None:
    """A changed bit in what is signed, or in the signature, is a bad signature or no request; never one that passes."""
    der = request(name, x509.DNSName("a.example.com"))
    changed = der.replace(b"a.example.com", b"b.example.com")
    with pytest.raises(SignatureError) as caught:
        parse_csr(changed)
    assert caught.value.reason is Reason.BAD_SIGNATURE
    for at in (-1, -20):
        broken = bytearray(der)
        broken[at] ^= 1
        with pytest.raises((SignatureError, FormatError)):
            parse_csr(bytes(broken))


def test_what_a_request_has_beside_names_is_passed_over() -> None:
    """Attributes other than extensions, and a request without any, are fine; the password is not looked at."""
    assert parse_csr(request(challenge=True)) == CSR(public_key("p-256"))
    usage = x509.ExtendedKeyUsage([x509.oid.ExtendedKeyUsageOID.CODE_SIGNING])
    csr = parse_csr(request("p-256", x509.RFC822Name("a@example.com"), subject="B\u00fccher", extensions=[usage]))
    assert (csr.subject_cns, csr.dns_names, csr.other_names) == (("B\u00fccher",), (), 1)
    assert csr.extension_oids == ("2.5.29.37",)


@pytest.mark.parametrize("last", [1, 9])
def test_a_signature_of_another_algorithm_proves_nothing(last: int) -> None:
    """ECDSA with SHA-1, and an algorithm that nobody knows, are refused with the algorithms that are accepted."""
    der = request("p-256", x509.DNSName("a.example.com"))
    changed = der.replace(bytes.fromhex("06082a8648ce3d040302"), bytes.fromhex("06082a8648ce3d0403") + bytes((last,)))
    assert changed != der
    with pytest.raises(SignatureError) as caught:
        parse_csr(changed)
    assert caught.value.reason is Reason.UNSUPPORTED
    assert "SHA-256" in caught.value.message


def san(*names: tuple[int, bytes]) -> Extension:
    """Return a subjectAltName with any names, by tag and contents."""
    return Extension("2.5.29.17", encode_sequence(*(encode_tlv(*name) for name in names)))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (signed(version=1), Reason.BAD_VERSION),
        (signed(), Reason.TRUNCATED),
        (signed(san((0x82, b"a.example")), san((0x82, b"b.example"))), Reason.DUPLICATE_EXTENSION),
        (signed(san((0x82, b"b\xfccher.example"))), Reason.BAD_STRING),
        (signed(san((0x87, bytes(5)))), Reason.BAD_LENGTH),
        (signed(Extension("2.5.29.17", b"\x30\x01\x82")), Reason.TRUNCATED),
    ],
    ids=count(),
)
def test_a_signed_request_that_is_malformed_is_refused(data: bytes, reason: Reason) -> None:
    """Another version, no attributes, an extension twice, names that are none: each has its reason."""
    with pytest.raises(FormatError) as caught:
        parse_csr(data)
    assert caught.value.reason is reason


def test_limits_of_a_request() -> None:
    """64 KiB and a thousand names are the limits."""
    with pytest.raises(FormatError) as caught:
        parse_csr(bytes(MAX_CSR_BYTES + 1))
    assert caught.value.reason is Reason.TOO_LARGE
    names = [x509.DNSName(f"a{number}.example.com") for number in range(MAX_CSR_NAMES + 1)]
    assert len(parse_csr(request("p-256", *names[:-1])).dns_names) == MAX_CSR_NAMES
    with pytest.raises(FormatError) as caught:
        parse_csr(request("p-256", *names))
    assert caught.value.reason is Reason.TOO_LARGE


def test_a_request_cut_off_or_with_more_behind_it_is_refused() -> None:
    """Every truncation, and a trailing byte, is a format error."""
    der = request("p-256", x509.DNSName("a.example.com"))
    for end in range(len(der)):
        with pytest.raises(FormatError):
            parse_csr(der[:end])
    with pytest.raises(FormatError):
        parse_csr(der + b"\x00")


@given(st.data())
def test_a_changed_byte_in_a_request_is_an_error_of_ours(data: st.DataObject) -> None:
    """A byte changed anywhere makes a format or signature error; no request with a changed byte is taken for good."""
    changed = bytearray(parse_pem(OPENSSL_REQUEST)[0].data)
    changed[data.draw(st.integers(0, len(changed) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(Error):
        parse_csr(bytes(changed))


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(data: bytes) -> None:
    """Whatever is handed in, the error is a format error."""
    for read in (parse_csr, parse_public_key_file):
        with pytest.raises(FormatError):
            read(data)


@pytest.mark.parametrize("name", KEYS)
def test_public_key_files_are_read(name: str) -> None:
    """PEM and DER of each type of key give the same SubjectPublicKeyInfo."""
    key = KEYS[name].public_key()
    spki = public_key(name)
    assert parse_public_key_file(spki) == spki
    assert parse_public_key_file(key.public_bytes(PEM, serialization.PublicFormat.SubjectPublicKeyInfo)) == spki


@pytest.mark.parametrize(
    "data",
    [
        *(
            KEYS[name].private_bytes(encoding, PKCS8, protection)
            for name in ("rsa", "p-256", "ed25519", "ml-dsa-44")
            for encoding in (PEM, DER)
            for protection in (NO_PASSPHRASE, serialization.BestAvailableEncryption(b"secret"))
        ),
        *(
            KEYS[name].private_bytes(encoding, serialization.PrivateFormat.TraditionalOpenSSL, NO_PASSPHRASE)
            for name in ("rsa", "p-256")
            for encoding in (PEM, DER)
        ),
        KEYS["ed25519"].private_bytes(PEM, serialization.PrivateFormat.OpenSSH, NO_PASSPHRASE),
    ],
    ids=count(),
)
def test_a_private_key_is_refused_and_not_repeated(data: bytes) -> None:
    """A private key handed in by mistake, encrypted or not, is called that, and nothing of it is in the error."""
    for read in (parse_public_key_file, parse_csr):
        with pytest.raises(FormatError) as caught:
            read(data)
        assert caught.value.reason is Reason.BAD_KEY
        assert "private key" in caught.value.message
        assert caught.value.facts == {}
        body = data.split(b"-----")[2].split()[0] if data.startswith(b"-----") else data[20:30]
        assert body not in caught.value.message.encode()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", Reason.BAD_PEM),
        (b"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA== me", Reason.BAD_PEM),
        (OPENSSL_REQUEST, Reason.BAD_PEM),
        (encode_pem([PEMBlock("PUBLIC KEY", LEAF_SPKI)] * 2), Reason.BAD_PEM),
        (encode_pem([PEMBlock("RSA PUBLIC KEY", LEAF_SPKI)]), Reason.BAD_PEM),
        (encode_pem([PEMBlock("CERTIFICATE", LEAF_SPKI)]), Reason.BAD_PEM),
        (b"-----BEGIN PUBLIC KEY-----\n!\n-----END PUBLIC KEY-----\n", Reason.BAD_BASE64),
        (LEAF_SPKI + b"\x00", Reason.TRAILING_DATA),
        (encode_sequence(LEAF_SPKI), Reason.TRUNCATED),
    ],
    ids=count(),
)
def test_other_files_are_no_public_keys(data: bytes, reason: Reason) -> None:
    """What is no public key is refused, and the message says how to get one where it can."""
    with pytest.raises(FormatError) as caught:
        parse_public_key_file(data)
    assert caught.value.reason is reason
    if reason is Reason.BAD_PEM:
        assert "-pubout" in caught.value.message


def test_a_public_key_is_no_request() -> None:
    """A public key handed in as a request is refused with advice."""
    for data in (LEAF_SPKI, encode_pem([PEMBlock("PUBLIC KEY", make_key("ed25519").public_key)])):
        with pytest.raises(FormatError):
            parse_csr(data)
