"""Log entries that break one rule of the lint each, and the usual entry that breaks none."""

import hashlib
import math
from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from tests.makers import LEAF_SPKI, NOW, SERVER_AUTH, make_key

from mtc.cert import (
    Extension,
    TBSCertificateLogEntry,
    encode_basic_constraints,
    encode_extended_key_usage,
    encode_key_usage,
    encode_name,
    encode_subject_alt_name,
)
from mtc.cert.x509 import (
    AUTHORITY_KEY_ID_OID,
    BASIC_CONSTRAINTS_OID,
    CERTIFICATE_POLICIES_OID,
    CRL_DISTRIBUTION_POINTS_OID,
    EXTENDED_KEY_USAGE_OID,
    KEY_USAGE_OID,
    SUBJECT_ALT_NAME_OID,
    SUBJECT_KEY_ID_OID,
    encode_certificate_policies,
)
from mtc.ids import DEFAULT_REVISION, REVISIONS, TrustAnchorID, encode_ca_name
from mtc.kernel import active_kernel
from mtc.lint import LintCode, LintRules
from mtc.lint.rules import ISSUER_ALT_NAME_OID, SCT_LIST_OID
from mtc.wire import (
    encode_bit_string,
    encode_integer,
    encode_octet_string,
    encode_oid,
    encode_sequence,
    encode_set,
    encode_time,
    encode_tlv,
    encode_utf8_string,
)

CA = TrustAnchorID.parse("32473.1")
WEB = LintRules.web_pki(CA)
PRIVATE = LintRules.private(CA)
BEGIN = NOW - timedelta(minutes=5)
WEEK = timedelta(days=7)
SECOND = timedelta(seconds=1)
HASHER = active_kernel().hasher("sha256")
DOMAIN_VALIDATED = "2.23.140.1.2.1"

# A modulus of a generator with the ROCA flaw, and one that is sound: mod03.txt and mod05.txt of the tests of the
# detector by the flaw's discoverers (github.com/crocs-muni/roca, MIT licence).
ROCA_MODULUS = int(
    "9dcd7420e420c270a68060eb8b5aa7457a9f6648f86fafed2775cc1f79ae962f1e63f1b9e51c55f9ea6fdc7332e9b0058c9ff2eb1fc89855"
    "029cf6aafe21e689feb38ac9ffb12f1ce371bb5d0e9aae64161abce74b4244bf68f1edb4411f756a097c8929c14740245ea355f8332d1aa3"
    "6bb50c7dcb4505da8de02e4e53d38f8df06097da7524df0df93db48eac8cc4af2d3a16257eb2b2adca6ba464e5974fa92550d31b1babf161"
    "e7692d00b86e3dd886ecab4abfbe1a8f8cc263ff4af55cdb45f4249a5193925f5e983d762f0b6800943eb0267b08f42ed311ce1f5c86eacb"
    "c8ce4d3cb7a2fee1ef5641423a1cf4114e5ecf50034a60a412523af9e6f4aa11",
    16,
)
SOUND_MODULUS = int(
    "ba68fc5fbb606c4d428ab98b355d66214db4f7e475b5f7ffddc349c73f7d659965121ab16a4014e6c465c111d850205853d113f712127e4a"
    "230aa97f481eed6410f6c345f48e25fb81c42ec6815dc35cdd839e0de91fb2bec848d0910fa77e2c31f99ec9bcc7ed167812bd724318b0ad"
    "f492d6b47c5ce050184e877ea64045f9501bf70569cffd102db7299f49e9c00222af9115d0aada967dfe759b7e4576e85c3a4ff594039231"
    "b90b448b90c3236083bcf819bc318d53a2018ec9b401f102ba9ee13dde592a42b032df136689d9c5619db55d519853a422d3100624d2d9e4"
    "78218375f460c26930eda8cd0d947e58ffe9b7be2445356deaed988223e3ed1d",
    16,
)
P256_IDENTIFIER = bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107")
RSA_IDENTIFIER = bytes.fromhex("300d06092a864886f70d0101010500")
ED25519_IDENTIFIER = bytes.fromhex("300506032b6570")


class Case(NamedTuple):
    """An entry with its key, judged by rules, and the codes that must be found, in order."""

    codes: tuple[LintCode, ...]
    entry: TBSCertificateLogEntry
    rules: LintRules
    key: bytes


def spki(identifier: bytes, key: bytes) -> bytes:
    """Return a SubjectPublicKeyInfo."""
    return encode_sequence(identifier, encode_bit_string(key))


def rsa_spki(modulus: int, exponent: int = 65537) -> bytes:
    """Return the SubjectPublicKeyInfo of an RSA key with any numbers."""
    return spki(RSA_IDENTIFIER, encode_sequence(encode_integer(modulus), encode_integer(exponent)))


def rough(number: int) -> int:
    """Return the first odd number from `number` on that no number below 752 divides."""
    number |= 1
    while math.gcd(number, math.factorial(751)) != 1:
        number += 2
    return number


def san(*dns: str, ip: Iterable[str] = (), is_critical: bool = True) -> Extension:
    """Return a subjectAltName."""
    return encode_subject_alt_name(dns, ip, is_critical=is_critical)


def raw_san(*names: tuple[int, bytes]) -> Extension:
    """Return a subjectAltName with any names, by tag and contents."""
    return Extension(SUBJECT_ALT_NAME_OID, encode_sequence(*(encode_tlv(*name) for name in names)), is_critical=True)


def crl_pointer(*urls: bytes, more: bytes = b"") -> Extension:
    """Return a cRLDistributionPoints with one point; `more`: further fields of it."""
    names = b"".join(encode_tlv(0x86, url) for url in urls)
    point = encode_sequence(encode_tlv(0xA0, encode_tlv(0xA0, names)), more)
    return Extension(CRL_DISTRIBUTION_POINTS_OID, encode_sequence(point))


def display_name(*rdns: bytes) -> Extension:
    """Return an issuerAltName with one directoryName."""
    return Extension(ISSUER_ALT_NAME_OID, encode_sequence(encode_tlv(0xA4, encode_sequence(*rdns))))


def attribute(text: str) -> bytes:
    """Return one organizationName attribute."""
    return encode_sequence(encode_oid("2.5.4.10"), encode_utf8_string(text))


def make_entry(
    *extensions: Extension,
    without: str = "",
    key: bytes = LEAF_SPKI,
    rules: LintRules = WEB,
    begin: datetime = BEGIN,
    lifetime: timedelta = WEEK,
    **fields: Any,  # noqa: ANN401 - any field of an entry
) -> TBSCertificateLogEntry:
    """Return the usual entry of the CA with extensions replaced or added, one left out, and fields replaced."""
    usual = (
        encode_key_usage("digitalSignature"),
        encode_extended_key_usage(SERVER_AUTH),
        san("www.example.com", "example.com"),
        Extension(AUTHORITY_KEY_ID_OID, encode_sequence(encode_tlv(0x80, rules.ca_id.binary))),
        encode_certificate_policies(DOMAIN_VALIDATED),
    )
    every = {extension.oid: extension for extension in (*usual, *extensions) if extension.oid != without}
    entry = TBSCertificateLogEntry.build(
        hasher=HASHER,
        issuer=encode_ca_name(rules.ca_id, rules.revision),
        subject=encode_name(),
        spki=key,
        not_before=begin,
        not_after=begin + lifetime - SECOND,
        extensions=tuple(every.values()),
    )
    return replace(entry, **fields)


def case(
    *codes: LintCode,
    entry: TBSCertificateLogEntry | None = None,
    rules: LintRules = WEB,
    key: bytes = LEAF_SPKI,
) -> Case:
    """Return a case; the usual entry for the key where none is given."""
    return Case(codes, entry or make_entry(key=key), rules, key)


def entry_cases() -> Iterator[Case]:
    """Yield the rules for the entry's frame."""
    many = [f"{'a' * 60}{number:03}.example.com" for number in range(999)]
    tail = make_entry().tail
    yield case(LintCode.ENTRY_TOO_LARGE, entry=make_entry(san(*many)), rules=PRIVATE)
    yield case(LintCode.NOT_V3, LintCode.EXTENSIONS_MALFORMED, entry=make_entry(version=1))
    yield case(LintCode.EXTENSIONS_MALFORMED, entry=make_entry(tail=tail + b"\x00"))
    other = encode_ca_name(TrustAnchorID.parse("32473.2"), DEFAULT_REVISION)
    for name in (other, encode_ca_name(CA, REVISIONS["plants-04"])):
        yield case(LintCode.ISSUER, entry=make_entry(issuer=name))
    for tag in (b"\x81", b"\x82"):
        yield case(LintCode.UNIQUE_ID, entry=make_entry(tail=tag + b"\x02\x00\x01" + tail))


def validity_cases() -> Iterator[Case]:
    """Yield the rules for the times."""
    generalized = (encode_tlv(0x18, f"{time:%Y%m%d%H%M%SZ}".encode()) for time in (BEGIN, BEGIN + SECOND))
    swapped = encode_sequence(encode_time(BEGIN + SECOND), encode_time(BEGIN))
    days = timedelta(days=2)
    yield case(LintCode.VALIDITY_MALFORMED, entry=make_entry(validity=b"\x30\x00"))
    late = make_entry(validity=encode_sequence(*generalized))
    yield case(LintCode.VALIDITY_MALFORMED, LintCode.VALIDITY_OVER, entry=late)
    yield case(LintCode.VALIDITY_INVERTED, entry=make_entry(validity=swapped))
    long = make_entry(lifetime=WEEK + SECOND)
    yield case(LintCode.VALIDITY_TOO_LONG, entry=long, rules=replace(WEB, crl_pointer_above=None))
    yield case(LintCode.CRL_POINTER_MISSING, entry=long, rules=replace(WEB, max_lifetime=2 * WEEK))
    yield case(LintCode.VALIDITY_BACKDATED, entry=make_entry(begin=NOW - days - SECOND))
    yield case(LintCode.VALIDITY_FUTURE, entry=make_entry(begin=NOW + days + SECOND))
    yield case(LintCode.VALIDITY_OVER, entry=make_entry(begin=NOW - 10 * SECOND, lifetime=10 * SECOND))


def subject_cases() -> Iterator[Case]:
    """Yield the rules for the subject."""
    soft = san("www.example.com", ip=["192.0.2.1"], is_critical=False)
    common = encode_name(CN="www.example.com")
    yield case(LintCode.SUBJECT_NOT_EMPTY, entry=make_entry(san("www.example.com", is_critical=False), subject=common))
    number = encode_sequence(encode_set(encode_sequence(encode_oid("2.5.4.3"), encode_integer(1))))
    for code, subject in (
        (LintCode.SUBJECT_MALFORMED, b"\x30\x02\x31\x00"),
        (LintCode.SUBJECT_MALFORMED, b"\x30\x01\x31"),
        (LintCode.CN_MALFORMED, encode_sequence(common[2:], common[2:])),
        (LintCode.CN_MALFORMED, encode_name(CN="a" * 65)),
        (LintCode.CN_MALFORMED, encode_name(CN="")),
        (LintCode.CN_MALFORMED, number),
        (LintCode.CN_MALFORMED, encode_name(CN="aa").replace(b"aa", b"\xff\xff")),
        (LintCode.CN_NOT_IN_SAN, encode_name(CN="other.example.com")),
        (LintCode.CN_NOT_IN_SAN, encode_name(CN="192.0.2.2")),
    ):
        yield case(code, entry=make_entry(soft, subject=subject), rules=PRIVATE)


def key_cases() -> Iterator[Case]:
    """Yield the rules for public keys."""
    point = LEAF_SPKI[-65:]
    ec = encode_oid("1.2.840.10045.2.1")
    numbers = encode_sequence(encode_integer(SOUND_MODULUS), encode_integer(65537))
    ml_dsa = make_key("ml-dsa-44").public_key
    edwards = (bytes(32), b"\x01" + bytes(31), b"\xed" + b"\xff" * 30 + b"\x7f", b"\x02" + bytes(31))
    # Of order 8: RFC 7748, 7 and the known list of small-order points of edwards25519.
    small = bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05")
    yield case(LintCode.KEY_HASH, entry=make_entry(), key=make_key("ecdsa-p256-sha256", 8).public_key)
    yield case(LintCode.KEY_ALGORITHM, entry=make_entry(spki_algorithm=ED25519_IDENTIFIER))
    digest = hashlib.sha256(LEAF_SPKI).digest()
    yield case(LintCode.KEY_BLOCKED, rules=replace(WEB, blocked_keys=frozenset({digest})))
    yield case(LintCode.KEY_HASH, LintCode.KEY_MALFORMED, entry=make_entry(), key=LEAF_SPKI + b"\x00")
    yield case(LintCode.KEY_MALFORMED, key=spki(RSA_IDENTIFIER, b"\x30\x00"))
    yield case(LintCode.KEY_MALFORMED, key=rsa_spki(-SOUND_MODULUS))
    for key in (
        make_key("ed25519").public_key,
        spki(encode_sequence(ec, encode_oid("1.3.132.0.10")), point),
        spki(encode_sequence(ec, encode_sequence(encode_integer(1))), point),
        spki(encode_sequence(encode_oid("1.2.840.113549.1.1.10")), numbers),
        spki(encode_sequence(encode_oid("1.2.840.113549.1.1.1")), numbers),
        spki(encode_sequence(encode_oid("2.16.840.1.101.3.4.3.17"), b"\x05\x00"), bytes(1312)),
        spki(b"\x30\x00", point),
    ):
        yield case(LintCode.KEY_TYPE, key=key)
    compressed = bytes((2 + point[-1] % 2,)) + point[1:33]
    for key in (compressed, b"\x00", point + b"\x00"):
        yield case(LintCode.KEY_LENGTH, key=spki(P256_IDENTIFIER, key))
    yield case(LintCode.KEY_LENGTH, key=spki(ml_dsa[4:17], bytes(1311)))
    for key in (b"\x06" + point[1:], point[:-1] + bytes((point[-1] ^ 1,)), b"\x04" + bytes(64)):
        yield case(LintCode.KEY_POINT, key=spki(P256_IDENTIFIER, key))
    for key in (*edwards, small):
        entry = make_entry(key=spki(ED25519_IDENTIFIER, key))
        yield case(LintCode.KEY_POINT, entry=entry, rules=PRIVATE, key=spki(ED25519_IDENTIFIER, key))


def rsa_cases() -> Iterator[Case]:
    """Yield the rules for RSA."""
    half = rough(math.isqrt(SOUND_MODULUS))
    for modulus in (SOUND_MODULUS >> 1, SOUND_MODULUS >> 8, SOUND_MODULUS << 8, SOUND_MODULUS << 7000):
        rules = replace(WEB, max_rsa_bits=2048) if modulus.bit_length() == 2056 else WEB
        yield case(LintCode.RSA_SIZE, key=rsa_spki(rough(modulus)), rules=rules)
    for exponent in (1, 3, 65535, 65538, 2**256 + 1):
        yield case(LintCode.RSA_EXPONENT, key=rsa_spki(SOUND_MODULUS, exponent))
    for factor in (2, 3, 751):
        yield case(LintCode.RSA_SMALL_FACTOR, key=rsa_spki(SOUND_MODULUS // factor * factor))
    cube = rough(7 << 677)
    yield case(LintCode.RSA_POWER, key=rsa_spki(half * half))
    yield case(LintCode.RSA_POWER, key=rsa_spki(cube**3), rules=replace(WEB, min_rsa_bits=2040))
    yield case(LintCode.RSA_CLOSE_PRIMES, key=rsa_spki(half * rough(half + 2)))
    yield case(LintCode.RSA_ROCA, key=rsa_spki(ROCA_MODULUS))


def extension_cases() -> Iterator[Case]:
    """Yield the rules for extensions other than subjectAltName."""
    usages = {
        (LintCode.IS_A_CA,): encode_key_usage("digitalSignature", "keyCertSign"),
        (LintCode.IS_A_CA, LintCode.KEY_USAGE_SIGNATURE): encode_key_usage("cRLSign"),
        (LintCode.KEY_USAGE_SIGNATURE, LintCode.KEY_USAGE_DISCOURAGED): encode_key_usage("keyAgreement"),
        (LintCode.KEY_USAGE_DISCOURAGED,): encode_key_usage("digitalSignature", "keyAgreement"),
        (LintCode.KEY_USAGE_BITS,): encode_key_usage("digitalSignature", "keyEncipherment"),
        (LintCode.EXTENSION_CRITICALITY,): encode_key_usage("digitalSignature", is_critical=False),
    }
    for codes, usage in usages.items():
        yield case(*codes, entry=make_entry(usage))
    for value in ("0303078000", "03020080", "030100", "030307000080", "0304060000c0", "0500", "03020780ff"):
        extension = Extension(KEY_USAGE_OID, bytes.fromhex(value), is_critical=True)
        yield case(LintCode.KEY_USAGE_MALFORMED, entry=make_entry(extension))
    for code, extension in (
        (LintCode.EXTENSION_NOT_ALLOWED, Extension("1.3.6.1.5.5.7.1.24", bytes.fromhex("3003020105"))),
        (LintCode.EXTENSION_NOT_ALLOWED, Extension("2.5.29.30", b"\x30\x00", is_critical=True)),
        (LintCode.EXTENSION_NOT_ALLOWED, Extension(SUBJECT_KEY_ID_OID, encode_octet_string(b"key"))),
        (LintCode.SCT_LIST, Extension(SCT_LIST_OID, encode_octet_string(b"\x00\x00"))),
        (LintCode.IS_A_CA, Extension(DEFAULT_REVISION.ca_extension_oid, b"\x30\x00", is_critical=True)),
        (LintCode.IS_A_CA, encode_basic_constraints(is_ca=True)),
        (
            LintCode.BASIC_CONSTRAINTS_MALFORMED,
            Extension(BASIC_CONSTRAINTS_OID, bytes.fromhex("3003010100"), is_critical=True),
        ),
        (
            LintCode.BASIC_CONSTRAINTS_MALFORMED,
            Extension(BASIC_CONSTRAINTS_OID, bytes.fromhex("3003020100"), is_critical=True),
        ),
        (LintCode.BASIC_CONSTRAINTS_MALFORMED, Extension(BASIC_CONSTRAINTS_OID, b"\x05\x00", is_critical=True)),
        (LintCode.EXTENSION_CRITICALITY, encode_basic_constraints(is_ca=False, is_critical=False)),
        (LintCode.EXTENSION_CRITICALITY, encode_extended_key_usage(SERVER_AUTH, is_critical=True)),
        (LintCode.EKU_PURPOSE, encode_extended_key_usage(SERVER_AUTH, "1.3.6.1.5.5.7.3.2")),
        (LintCode.EKU_PURPOSE, encode_extended_key_usage("2.5.29.37.0")),
        (LintCode.EKU_MALFORMED, encode_extended_key_usage(SERVER_AUTH, SERVER_AUTH)),
        (LintCode.EKU_MALFORMED, Extension(EXTENDED_KEY_USAGE_OID, b"\x30\x00")),
        (LintCode.EKU_MALFORMED, Extension(EXTENDED_KEY_USAGE_OID, b"\x30\x01\x06")),
        (LintCode.POLICIES_OTHER, encode_certificate_policies(DOMAIN_VALIDATED, "2.23.140.1.2.2")),
        (LintCode.POLICIES_OTHER, encode_certificate_policies("2.5.29.32.0")),
        (LintCode.POLICIES_OTHER, _qualified_policy()),
        (LintCode.POLICIES_MALFORMED, encode_certificate_policies(DOMAIN_VALIDATED, DOMAIN_VALIDATED)),
        (LintCode.POLICIES_MALFORMED, Extension(CERTIFICATE_POLICIES_OID, b"\x30\x00")),
        (LintCode.AKI_OTHER, Extension(AUTHORITY_KEY_ID_OID, b"\x30\x00")),
        (LintCode.CRL_POINTER_MALFORMED, crl_pointer()),
        (LintCode.CRL_POINTER_MALFORMED, crl_pointer(b"ldap://ca.example/")),
        (LintCode.CRL_POINTER_MALFORMED, crl_pointer(b"http:///ca.crl")),
        (LintCode.CRL_POINTER_MALFORMED, crl_pointer(b"http://ca.example/a b")),
        (LintCode.CRL_POINTER_MALFORMED, crl_pointer(b"http://[ca.example/")),
        (LintCode.CRL_POINTER_MALFORMED, crl_pointer(b"http://ca.example/", more=bytes.fromhex("81020640"))),
        (LintCode.CRL_POINTER_SCHEME, crl_pointer(b"https://ca.example/ca.crl")),
        (LintCode.ISSUER_ALT_NAME, display_name()),
        (LintCode.ISSUER_ALT_NAME, display_name(encode_set(attribute("a"), attribute("b")))),
        (LintCode.ISSUER_ALT_NAME, Extension(ISSUER_ALT_NAME_OID, encode_sequence(encode_tlv(0x82, b"ca.example")))),
    ):
        yield case(code, entry=make_entry(extension))
    empty = Extension(SUBJECT_KEY_ID_OID, encode_octet_string(b""))
    yield case(LintCode.EXTENSIONS_MALFORMED, entry=make_entry(empty), rules=PRIVATE)
    own = replace(PRIVATE, allowed_extensions=PRIVATE.allowed_extensions | {"1.3.6.1.4.1.32473.9"})
    unknown = Extension("1.3.6.1.4.1.32473.9", b"\x05\x00", is_critical=True)
    yield case(LintCode.EXTENSION_UNKNOWN_CRITICAL, entry=make_entry(unknown), rules=own)
    for oid, code in (
        (KEY_USAGE_OID, LintCode.KEY_USAGE_MISSING),
        (EXTENDED_KEY_USAGE_OID, LintCode.EKU_MISSING),
        (SUBJECT_ALT_NAME_OID, LintCode.SAN_MISSING),
        (CERTIFICATE_POLICIES_OID, LintCode.POLICIES_MISSING),
        (AUTHORITY_KEY_ID_OID, LintCode.AKI_MISSING),
    ):
        yield case(code, entry=make_entry(without=oid))


def _qualified_policy() -> Extension:
    """Return a certificatePolicies with a qualifier."""
    qualifier = encode_sequence(encode_oid("1.3.6.1.5.5.7.2.1"), encode_tlv(0x16, b"http://ca.example/cps"))
    policy = encode_sequence(encode_oid(DOMAIN_VALIDATED), encode_sequence(qualifier))
    return Extension(CERTIFICATE_POLICIES_OID, encode_sequence(policy))


def san_cases() -> Iterator[Case]:
    """Yield the rules for subjectAltName as a whole, and for addresses."""
    dns = (0x82, b"www.example.com")
    yield case(LintCode.SAN_MISSING, entry=make_entry(raw_san()))
    yield case(
        LintCode.SAN_MALFORMED, entry=make_entry(Extension(SUBJECT_ALT_NAME_OID, b"\x30\x01\x82", is_critical=True))
    )
    yield case(LintCode.SAN_CRITICALITY, entry=make_entry(san("www.example.com", is_critical=False)))
    critical = make_entry(san("www.example.com"), subject=encode_name(O="Example"))
    yield case(LintCode.SAN_CRITICALITY, entry=critical, rules=PRIVATE)
    for tag in (0xA0, 0x81, 0xA4, 0x86, 0x88, 0xA2, 0x30):
        yield case(LintCode.SAN_KIND, entry=make_entry(raw_san(dns, (tag, b""))))
    yield case(LintCode.SAN_DUPLICATE, entry=make_entry(raw_san(dns, dns)))
    yield case(LintCode.SAN_DUPLICATE, entry=make_entry(san(ip=["8.8.8.8", "8.8.8.8"])))
    yield case(LintCode.SAN_TOO_MANY, entry=make_entry(san(*(f"a{number}.example.com" for number in range(101)))))
    for size in (0, 3, 5, 8, 15, 17, 32):
        yield case(LintCode.IP_LENGTH, entry=make_entry(raw_san((0x87, bytes(size)))))


ALL_CASES = (
    *entry_cases(),
    *validity_cases(),
    *subject_cases(),
    *key_cases(),
    *rsa_cases(),
    *extension_cases(),
    *san_cases(),
)
