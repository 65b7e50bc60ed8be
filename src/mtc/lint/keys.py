"""The public key of an entry: whether it is the one that the entry names, allowed, well formed, and strong enough.

Spec: CA/Browser Forum Baseline Requirements 2.2.6, 6.1.1.3, 6.1.5, 6.1.6 and 7.1.3.1.
"""

import hashlib
from collections.abc import Iterator

from mtc.cert import TBSCertificateLogEntry
from mtc.crypto.strength import (
    FERMAT_ROUNDS,
    KeyType,
    has_close_primes,
    has_roca_fingerprint,
    has_small_factor,
    is_perfect_power,
    is_valid_point,
    key_size,
    key_type_of,
    read_rsa_key,
    split_spki,
)
from mtc.errors import FormatError
from mtc.lint.findings import Fault
from mtc.lint.rules import LintRules
from mtc.lint.table import LintCode
from mtc.wire import DERReader, Tag

_SMALLEST_EXPONENT, _EXPONENT_LIMIT = 1 << 16, 1 << 256


def key_faults(entry: TBSCertificateLogEntry, spki: bytes, rules: LintRules) -> Iterator[Fault]:
    """Yield what is wrong with the public key of an entry. spki: SubjectPublicKeyInfo, DER."""
    spki_hash = rules.hasher.digest(spki)
    if spki_hash != entry.spki_hash:
        yield Fault(LintCode.KEY_HASH, "the entry's key hash is not the hash of this public key")
    try:
        algorithm, key = split_spki(spki)
    except FormatError as error:
        yield Fault(LintCode.KEY_MALFORMED, f"{error.message}; ask for a certificate with a key in DER")
        return
    if algorithm != entry.spki_algorithm:
        yield Fault(LintCode.KEY_ALGORITHM, "the entry's key algorithm is not the one of this public key")
    if rules.blocked_keys:
        digest = spki_hash if rules.hash_name == "sha256" else hashlib.sha256(spki).digest()
        if digest in rules.blocked_keys:
            yield Fault(
                LintCode.KEY_BLOCKED,
                f"the public key with SHA-256 {digest.hex()} is known to be unfit; make a new key pair",
            )
    key_type = key_type_of(algorithm)
    if key_type is None or key_type not in rules.key_types:
        yield _refuse_type(algorithm, key_type, rules)
    elif key_type is KeyType.RSA:
        yield from _rsa_faults(key, rules)
    elif len(key) != key_size(key_type):
        yield Fault(
            LintCode.KEY_LENGTH,
            f"a key of type {key_type} has {key_size(key_type)} bytes, this one {len(key)}; points are not compressed",
            (("expected", key_size(key_type) or 0), ("got", len(key))),
        )
    elif not is_valid_point(key_type, spki, key):
        yield Fault(LintCode.KEY_POINT, f"the key of type {key_type} is no usable point of its curve; make a new key")


def _refuse_type(algorithm: bytes, key_type: KeyType | None, rules: LintRules) -> Fault:
    """Make the fault for a key of a type that is not allowed, or with an AlgorithmIdentifier that is not the right."""
    allowed = ", ".join(sorted(rules.key_types))
    if key_type is not None:
        return Fault(LintCode.KEY_TYPE, f"keys of type {key_type} are not certified here; there are {allowed}")
    try:
        oid = DERReader(algorithm, "the key algorithm").enter(Tag.SEQUENCE).read_oid()
    except FormatError as error:
        return Fault(LintCode.KEY_TYPE, f"{error.message}; allowed are {allowed}")
    return Fault(
        LintCode.KEY_TYPE,
        f"the key algorithm {oid}, with its parameters, is not certified here; there are {allowed}",
        (("oid", oid[:100]),),
    )


def _rsa_faults(key: bytes, rules: LintRules) -> Iterator[Fault]:
    """Yield what is wrong with an RSA key. No arithmetic is done on a modulus that is too large or even."""
    try:
        modulus, exponent = read_rsa_key(key)
    except FormatError as error:
        yield Fault(LintCode.KEY_MALFORMED, error.message)
        return
    bits = modulus.bit_length()
    if not rules.min_rsa_bits <= bits <= rules.max_rsa_bits or bits % 8:
        yield Fault(
            LintCode.RSA_SIZE,
            f"the RSA modulus has {bits} bits; there can be {rules.min_rsa_bits} to {rules.max_rsa_bits}, whole bytes",
            (("got", bits),),
        )
    if not _SMALLEST_EXPONENT < exponent < _EXPONENT_LIMIT or not exponent & 1:
        yield Fault(LintCode.RSA_EXPONENT, "the RSA exponent is even or outside 2^16 to 2^256; use 65537")
    if bits > rules.max_rsa_bits:
        return
    if has_small_factor(modulus):
        yield Fault(LintCode.RSA_SMALL_FACTOR, "the RSA modulus has a factor below 752, so it is no product of primes")
        return
    if is_perfect_power(modulus):
        yield Fault(LintCode.RSA_POWER, "the RSA modulus is a power of another number; make a new key pair")
    elif has_close_primes(modulus):
        yield Fault(
            LintCode.RSA_CLOSE_PRIMES,
            f"{FERMAT_ROUNDS} rounds of Fermat's method factor the RSA modulus: anybody can; make a new key pair",
        )
    if has_roca_fingerprint(modulus):
        yield Fault(
            LintCode.RSA_ROCA,
            "the RSA modulus has the fingerprint of the ROCA flaw; make a new key pair with other hardware or software",
        )
