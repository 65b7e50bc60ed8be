"""The lint: what keeps an entry out of the log, by which rule, and that nothing makes it fail or take long."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st
from tests.certificates import LoadVectors, foreign_certificates
from tests.makers import CLIENT_AUTH, LEAF_SPKI, NOW, SERVER_AUTH, make_key

from mtc.cert import (
    Certificate,
    Extension,
    LogEntry,
    TBSCertificateLogEntry,
    encode_basic_constraints,
    encode_extended_key_usage,
    encode_extensions,
    encode_key_usage,
    encode_name,
    encode_subject_alt_name,
)
from mtc.cert.x509 import (
    AUTHORITY_KEY_ID_OID,
    BASIC_CONSTRAINTS_OID,
    CRL_DISTRIBUTION_POINTS_OID,
    EXTENDED_KEY_USAGE_OID,
    KEY_USAGE_OID,
    SUBJECT_ALT_NAME_OID,
    SUBJECT_KEY_ID_OID,
    encode_certificate_policies,
    encode_crl_distribution_points,
)
from mtc.crypto.strength import KeyType
from mtc.errors import FormatError, Reason, Rejected, UsageError
from mtc.ids import PLANTS_04, REVISIONS, TrustAnchorID, encode_ca_name
from mtc.kernel import active_kernel
from mtc.lint import LINT_RULES, LintCode, LintFinding, LintRules, Severity, check_lint, format_lint_table, lint_entry
from mtc.lint.rules import ISSUER_ALT_NAME_OID, SCT_LIST_OID
from mtc.wire import (
    encode_bit_string,
    encode_explicit,
    encode_integer,
    encode_octet_string,
    encode_oid,
    encode_sequence,
    encode_set,
    encode_time,
    encode_tlv,
    encode_utf8_string,
)

DOCUMENT = Path(__file__).parents[1] / "docs" / "lint.md"
CA = TrustAnchorID.parse("32473.1")
WEB = LintRules.web_pki(CA)
PRIVATE = LintRules.private(CA)
BEGIN = NOW - timedelta(minutes=5)
WEEK = timedelta(days=7)
SECOND = timedelta(seconds=1)
HASHER = active_kernel().hasher("sha256")
CSR_CODES = frozenset({LintCode.CSR_EXTENSION_IGNORED, LintCode.CSR_NAME_IGNORED})

# A modulus made by a flawed generator, and one that was not: mod03.txt and mod05.txt of the tests of the ROCA detector
# by its discoverers (github.com/crocs-muni/roca, MIT licence).
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
RSA_IDENTIFIER = bytes.fromhex("300d06092a864886f70d0101010500")
P256_IDENTIFIER = bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107")
ED25519_IDENTIFIER = bytes.fromhex("300506032b6570")
# The first primes above 2^1023.5, found by search; `test_moduli_of_the_tests_are_what_they_seem` checks them.
PRIME = 2**1023 + 2**1022 + 643


def spki(identifier: bytes, key: bytes) -> bytes:
    """Return a SubjectPublicKeyInfo."""
    return encode_sequence(identifier, encode_bit_string(key))


def rsa_spki(modulus: int, exponent: int = 65537) -> bytes:
    """Return the SubjectPublicKeyInfo of an RSA key with any numbers."""
    return spki(RSA_IDENTIFIER, encode_sequence(encode_integer(modulus), encode_integer(exponent)))


def aki(ca_id: TrustAnchorID = CA) -> Extension:
    """Return the authorityKeyIdentifier of a CA."""
    return Extension(AUTHORITY_KEY_ID_OID, encode_sequence(encode_tlv(0x80, ca_id.binary)))


def san(*dns: str, ip: Iterable[str] = (), is_critical: bool = True) -> Extension:
    """Return a subjectAltName."""
    return encode_subject_alt_name(dns, ip, is_critical=is_critical)


def raw_san(*names: tuple[int, bytes]) -> Extension:
    """Return a subjectAltName with any names, by tag and contents."""
    return Extension(SUBJECT_ALT_NAME_OID, encode_sequence(*(encode_tlv(*name) for name in names)), is_critical=True)


def usual() -> dict[str, Extension]:
    """Return the extensions that the CA writes, by OID."""
    extensions = (
        encode_key_usage("digitalSignature"),
        encode_extended_key_usage(SERVER_AUTH),
        san("www.example.com", "example.com"),
        aki(),
        encode_certificate_policies("2.23.140.1.2.1"),
    )
    return {extension.oid: extension for extension in extensions}


def make_entry(
    *extensions: Extension,
    without: str = "",
    key: bytes = LEAF_SPKI,
    begin: datetime = BEGIN,
    lifetime: timedelta = WEEK,
    **fields: Any,  # noqa: ANN401 - any field of an entry
) -> TBSCertificateLogEntry:
    """Return the usual entry with some extensions replaced or added, one left out, and fields replaced."""
    every = {**usual(), **{extension.oid: extension for extension in extensions}}
    every.pop(without, None)
    entry = TBSCertificateLogEntry.build(
        hasher=HASHER,
        issuer=WEB.issuer,
        subject=encode_name(),
        spki=key,
        not_before=begin,
        not_after=begin + lifetime - SECOND,
        extensions=tuple(every.values()),
    )
    return replace(entry, **fields)


def codes(
    entry: TBSCertificateLogEntry, rules: LintRules = WEB, key: bytes = LEAF_SPKI, now: datetime = NOW
) -> list[LintCode]:
    """Return the codes of what the lint finds."""
    return [finding.code for finding in lint_entry(entry, key, rules, now)]


def of_key(key: bytes) -> tuple[TBSCertificateLogEntry, bytes]:
    """Return the usual entry for another key, and the key."""
    return make_entry(key=key), key


def name_codes(*dns: str, rules: LintRules = WEB) -> list[LintCode]:
    """Return what is found when these are the DNS names."""
    return codes(make_entry(raw_san(*((0x82, name.encode("latin-1")) for name in dns))), rules)


def address_codes(*addresses: str, rules: LintRules = WEB) -> list[LintCode]:
    """Return what is found when these are the IP addresses."""
    return codes(make_entry(san(ip=addresses)), rules)


Case = tuple[LintCode, Callable[[], list[LintCode]]]


def _entries() -> Iterable[Case]:
    """Yield the rules for the frame, the times and the subject, each with an entry that breaks it and no other."""
    common = encode_name(CN="www.example.com")
    soft = san("www.example.com", is_critical=False)
    v1 = bytes.fromhex("3000")
    swapped = encode_sequence(encode_time(BEGIN + SECOND), encode_time(BEGIN))
    general = encode_sequence(
        encode_tlv(0x18, f"{BEGIN:%Y%m%d%H%M%SZ}".encode()), encode_tlv(0x18, f"{BEGIN + WEEK:%Y%m%d%H%M%SZ}".encode())
    )
    many = [f"{'a' * 60}{number}.example.com" for number in range(999)]
    yield LintCode.ENTRY_TOO_LARGE, lambda: codes(make_entry(san(*many)), PRIVATE)
    yield LintCode.NOT_V3, lambda: codes(make_entry(version=1))[:1]
    yield LintCode.ISSUER, lambda: codes(make_entry(issuer=encode_ca_name(TrustAnchorID.parse("32473.2"), WEB.revision)))
    yield LintCode.ISSUER, lambda: codes(make_entry(issuer=encode_ca_name(CA, PLANTS_04)))
    yield LintCode.UNIQUE_ID, lambda: codes(make_entry(tail=b"\x81\x02\x00\x01" + make_entry().tail))
    yield LintCode.UNIQUE_ID, lambda: codes(make_entry(tail=b"\x82\x02\x00\x01" + make_entry().tail))
    yield LintCode.VALIDITY_MALFORMED, lambda: codes(make_entry(validity=v1))
    yield LintCode.VALIDITY_MALFORMED, lambda: codes(make_entry(validity=general), replace(WEB, max_lifetime=2 * WEEK))[:1]
    yield LintCode.VALIDITY_INVERTED, lambda: codes(make_entry(validity=swapped))
    yield LintCode.VALIDITY_TOO_LONG, lambda: codes(make_entry(lifetime=WEEK + SECOND), replace(WEB, crl_pointer_above=None))
    yield LintCode.VALIDITY_BACKDATED, lambda: codes(make_entry(begin=NOW - timedelta(days=2) - SECOND))
    yield LintCode.VALIDITY_FUTURE, lambda: codes(make_entry(begin=NOW + timedelta(days=2) + SECOND))
    yield LintCode.VALIDITY_OVER, lambda: codes(make_entry(begin=NOW - timedelta(seconds=10), lifetime=timedelta(seconds=9)))
    yield LintCode.SUBJECT_MALFORMED, lambda: codes(make_entry(soft, subject=b"\x30\x02\x31\x00"), PRIVATE)
    yield LintCode.SUBJECT_MALFORMED, lambda: codes(make_entry(soft, subject=b"\x30\x01\x31"), PRIVATE)
    yield LintCode.SUBJECT_NOT_EMPTY, lambda: codes(make_entry(soft, subject=common))
    two = encode_sequence(common[2:], common[2:])
    yield LintCode.CN_MALFORMED, lambda: codes(make_entry(soft, subject=two), PRIVATE)
    yield LintCode.CN_MALFORMED, lambda: codes(make_entry(soft, subject=encode_name(CN="a" * 65)), PRIVATE)
    yield LintCode.CN_NOT_IN_SAN, lambda: codes(make_entry(soft, subject=encode_name(CN="other.example.com")), PRIVATE)


def _keys() -> Iterable[Case]:
    """Yield the rules for public keys."""
    p256 = bytearray(LEAF_SPKI)
    p256[-1] ^= 1
    off_curve = bytes(p256)
    point = LEAF_SPKI[-65:]
    compressed = spki(P256_IDENTIFIER, bytes((2 + point[-1] % 2,)) + point[1:33])
    explicit = spki(bytes.fromhex("301406072a8648ce3d02013009020101300406000500"), point)
    secp256k1 = spki(encode_sequence(encode_oid("1.2.840.10045.2.1"), encode_oid("1.3.132.0.10")), point)
    pss = spki(encode_sequence(encode_oid("1.2.840.113549.1.1.10")), b"\x30\x00")
    blocked = replace(WEB, blocked_keys=frozenset({hashlib.sha256(LEAF_SPKI).digest()}))
    sound = rsa_spki(SOUND_MODULUS)
    yield LintCode.KEY_HASH, lambda: codes(make_entry(), key=make_key("ecdsa-p256-sha256", 8).public_key)
    yield LintCode.KEY_MALFORMED, lambda: codes(make_entry(spki_hash=HASHER.digest(LEAF_SPKI + b"\0")), key=LEAF_SPKI + b"\0")
    yield LintCode.KEY_MALFORMED, lambda: codes(*_swap(spki(RSA_IDENTIFIER, b"\x30\x00")))
    yield LintCode.KEY_MALFORMED, lambda: codes(*_swap(rsa_spki(-SOUND_MODULUS)))
    yield LintCode.KEY_ALGORITHM, lambda: codes(make_entry(spki_algorithm=ED25519_IDENTIFIER))
    for key in (explicit, secp256k1, pss, make_key("ed25519").public_key):
        yield LintCode.KEY_TYPE, lambda key=key: codes(*_swap(key))  # type: ignore[misc]  # binds the loop's key
    no_null = spki(encode_sequence(encode_oid("1.2.840.113549.1.1.1")), sound[24:])
    with_null = spki(encode_sequence(encode_oid("2.16.840.1.101.3.4.3.17"), b"\x05\x00"), bytes(1312))
    yield LintCode.KEY_TYPE, lambda: codes(*_swap(no_null))
    yield LintCode.KEY_TYPE, lambda: codes(*_swap(with_null))
    yield LintCode.KEY_LENGTH, lambda: codes(*_swap(compressed))
    yield LintCode.KEY_LENGTH, lambda: codes(*_swap(spki(P256_IDENTIFIER, b"\x00")))
    yield LintCode.KEY_POINT, lambda: codes(*_swap(off_curve))
    yield LintCode.KEY_POINT, lambda: codes(*_swap(spki(P256_IDENTIFIER, b"\x06" + point[1:])))
    yield LintCode.KEY_BLOCKED, lambda: codes(make_entry(), blocked)
    yield LintCode.RSA_SIZE, lambda: codes(*_swap(rsa_spki(2**2039 + 1015)))
    yield LintCode.RSA_SIZE, lambda: codes(*_swap(rsa_spki(ROUGH << 4 | 1)))
    yield LintCode.RSA_SIZE, lambda: codes(*_swap(rsa_spki(2**8200 - 1)))
    for exponent in (3, 65535, 65538, 2**256 + 1):
        yield LintCode.RSA_EXPONENT, lambda e=exponent: codes(*_swap(rsa_spki(SOUND_MODULUS, e)))  # type: ignore[misc]
    yield LintCode.RSA_SMALL_FACTOR, lambda: codes(*_swap(rsa_spki(2**2047)))
    yield LintCode.RSA_SMALL_FACTOR, lambda: codes(*_swap(rsa_spki(751 * (2**2047 // 751 + 2))))
    yield LintCode.RSA_POWER, lambda: codes(*_swap(rsa_spki(PRIME * PRIME)))
    yield LintCode.RSA_CLOSE_PRIMES, lambda: codes(*_swap(rsa_spki(PRIME * (PRIME + 1578))))
    yield LintCode.RSA_ROCA, lambda: codes(*_swap(rsa_spki(ROCA_MODULUS)))


