"""Which kinds of public key there are in certificates, and what makes one too weak to be certified.

Nothing here decides: each function answers one question about one key, and says what it costs. All work is bounded, as
long as the caller looks at the size of an RSA modulus before it asks about its factors.

Spec: CA/Browser Forum Baseline Requirements 2.2.6, 6.1.1.3, 6.1.5, 6.1.6 and 7.1.3.1; NIST SP 800-89, 5.3.3; RFC 8410
for Ed25519, RFC 9881 for ML-DSA.
"""

import math
from enum import StrEnum
from functools import cache
from typing import NamedTuple

from cryptography.hazmat.primitives import serialization

from mtc.errors import FormatError, Reason
from mtc.wire import DERReader, Tag

MAX_SPKI_BYTES = 8192
"""Largest SubjectPublicKeyInfo looked at; RSA with 16,384 bits needs about 2,100 bytes, ML-DSA-87 about 2,650."""
FERMAT_ROUNDS = 100
"""Rounds of Fermat's factorisation that a key must withstand, as the Baseline Requirements ask."""


class KeyType(StrEnum):
    """A kind of public key with its parameters; RSA has its size beside it. The value is a name for people."""

    RSA = "rsa"
    P256 = "ecdsa-p256"
    P384 = "ecdsa-p384"
    P521 = "ecdsa-p521"
    ED25519 = "ed25519"
    ML_DSA_44 = "ml-dsa-44"
    ML_DSA_65 = "ml-dsa-65"
    ML_DSA_87 = "ml-dsa-87"


_IDENTIFIERS: dict[bytes, KeyType] = {
    bytes.fromhex("300d06092a864886f70d0101010500"): KeyType.RSA,
    bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107"): KeyType.P256,
    bytes.fromhex("301006072a8648ce3d020106052b81040022"): KeyType.P384,
    bytes.fromhex("301006072a8648ce3d020106052b81040023"): KeyType.P521,
    bytes.fromhex("300506032b6570"): KeyType.ED25519,
    bytes.fromhex("300b0609608648016503040311"): KeyType.ML_DSA_44,
    bytes.fromhex("300b0609608648016503040312"): KeyType.ML_DSA_65,
    bytes.fromhex("300b0609608648016503040313"): KeyType.ML_DSA_87,
}
"""AlgorithmIdentifiers, byte for byte: only RSA has parameters that are NULL, only ECDSA a named curve."""
_KEY_BYTES: dict[KeyType, int] = {
    KeyType.P256: 65,
    KeyType.P384: 97,
    KeyType.P521: 133,
    KeyType.ED25519: 32,
    KeyType.ML_DSA_44: 1312,
    KeyType.ML_DSA_65: 1952,
    KeyType.ML_DSA_87: 2592,
}
_CURVES = frozenset({KeyType.P256, KeyType.P384, KeyType.P521})


class SPKIParts(NamedTuple):
    """A SubjectPublicKeyInfo taken apart: the AlgorithmIdentifier, DER, and the contents of the BIT STRING."""

    algorithm: bytes
    key: bytes


def split_spki(spki: bytes) -> SPKIParts:
    """Take a SubjectPublicKeyInfo (DER) apart. Raises FormatError; what is inside the key is not looked at."""
    if len(spki) > MAX_SPKI_BYTES:
        raise FormatError(
            Reason.TOO_LARGE, f"a public key of {len(spki)} bytes is larger than {MAX_SPKI_BYTES}", got=len(spki)
        )
    reader = DERReader(spki, "the public key")
    fields = reader.enter(Tag.SEQUENCE)
    reader.finish()
    parts = SPKIParts(fields.read_tlv(Tag.SEQUENCE), fields.read_bit_string())
    fields.finish()
    return parts


def key_type_of(algorithm: bytes) -> KeyType | None:
    """Return the kind of key that an AlgorithmIdentifier (DER) announces; None for others and other encodings."""
    return _IDENTIFIERS.get(algorithm)


def key_size(key_type: KeyType) -> int | None:
    """Return how many bytes a key of this type has inside its BIT STRING; None for RSA, where that varies.

    Points of elliptic curves are uncompressed: RFC 5480 makes that the form that everybody reads.
    """
    return _KEY_BYTES.get(key_type)


def is_valid_point(key_type: KeyType, spki: bytes, key: bytes) -> bool:
    """Tell whether the key is a point of its curve that may be a public key; True for types that are no points.

    key: the contents of the BIT STRING of `spki`, of the length that `key_size` says. The curves of NIST have a prime
    order, so a point on one is a full validation (NIST SP 800-56A, 5.6.2.3.3). About 6 us.
    """
    if key_type is KeyType.ED25519:
        return _is_valid_edwards_point(key)
    if key_type not in _CURVES:
        return True
    if key[0] != 4:
        return False
    try:
        serialization.load_der_public_key(spki)
    except ValueError:
        return False
    return True


_FIELD = 2**255 - 19
_EDWARDS_D = -121665 * pow(121666, -1, _FIELD) % _FIELD


def _is_valid_edwards_point(key: bytes) -> bool:
    """Tell whether 32 bytes are a point of edwards25519 with a canonical encoding that is not of small order.

    Spec: RFC 8032, 5.1.3. The library reads any 32 bytes; a key that is no point verifies nothing, and under one of
    small order anybody can sign.
    """
    number = int.from_bytes(key, "little")
    # The highest bit is the sign of x; where x is 0, y is 1 or -1 and refused below.
    y = number & (1 << 255) - 1
    if y >= _FIELD:
        return False
    squared = y * y % _FIELD
    # Points of order 1 and 2 have y = 1 and -1, of order 4 y = 0. Those of order 8 double to order 4, that is to y = 0,
    # which the doubling formula turns into d*y^4 + 2*y^2 = 1.
    if squared in (0, 1) or (_EDWARDS_D * squared * squared + 2 * squared - 1) % _FIELD == 0:
        return False
    # x^2 = (y^2 - 1) / (d*y^2 + 1) must be a square: u/v is one exactly when u*v is.
    product = (squared - 1) * (_EDWARDS_D * squared + 1) % _FIELD
    symbol: int = pow(product, (_FIELD - 1) // 2, _FIELD)
    return symbol == 1


class RSANumbers(NamedTuple):
    """Modulus and public exponent."""

    modulus: int
    exponent: int


def read_rsa_key(key: bytes) -> RSANumbers:
    """Read an RSAPublicKey (DER), the contents of the BIT STRING. Raises FormatError; both numbers are positive."""
    reader = DERReader(key, "the RSA key")
    fields = reader.enter(Tag.SEQUENCE)
    reader.finish()
    numbers = RSANumbers(fields.read_integer(), fields.read_integer())
    fields.finish()
    if numbers.modulus <= 0 or numbers.exponent <= 0:
        raise FormatError(Reason.BAD_KEY, "the RSA key has a number that is not positive")
    return numbers


def _primes_below(limit: int) -> tuple[int, ...]:
    """Return the primes below a small limit."""
    return tuple(number for number in range(2, limit) if _is_prime(number))


def _is_prime(number: int) -> bool:
    """Tell whether a small number, 2 or more, is prime."""
    return all(number % divisor for divisor in range(2, math.isqrt(number) + 1))


_SMALL_PRIMES = _primes_below(752)
_SMALL_PRODUCT = math.prod(_SMALL_PRIMES)
_EXPONENTS = _primes_below(1824)
"""Up to 16,384 bits divided by the 9 bits and a half of the smallest possible factor, and a little more."""


def has_small_factor(modulus: int) -> bool:
    """Tell whether a prime below 752 divides the modulus, 2 included."""
    return math.gcd(modulus % _SMALL_PRODUCT, _SMALL_PRODUCT) != 1


_SQUARES = frozenset(number * number % 64 for number in range(64))


def has_close_primes(modulus: int, rounds: int = FERMAT_ROUNDS) -> bool:
    """Tell whether Fermat's method factors the odd modulus within `rounds`: whether its primes are too close together.

    A square counts as well. One square root, then additions; most candidates fall out by their last six bits. 0.1 ms
    for 2,048 bits, 1 ms for 8,192.
    """
    middle = math.isqrt(modulus)
    if middle * middle == modulus:
        return True
    middle += 1
    rest = middle * middle - modulus
    for _ in range(rounds):
        if rest & 63 in _SQUARES:
            root = math.isqrt(rest)
            if root * root == rest:
                return True
        rest += 2 * middle + 1
        middle += 1
    return False


def is_perfect_power(modulus: int) -> bool:
    """Tell whether the modulus is a number to a power above 1; it must have no factor below 752.

    So no power of a prime passes, except a prime itself: to find that costs 20 ms and more and is not done here. A
    k-th power is one modulo every prime q; with q = 1 mod k only one number in k is, so most exponents fall out before
    a root is taken.
    """
    # A base without small factors has at least 9.5 bits.
    for exponent in _EXPONENTS:
        if exponent * 9 > modulus.bit_length():
            break
        if all(
            pow(modulus % prime, (prime - 1) // exponent, prime) in (0, 1) for prime in _residue_primes(exponent)
        ) and _has_root(modulus, exponent):
            return True
    return False


@cache
def _residue_primes(exponent: int) -> tuple[int, ...]:
    """Return four primes that leave 1 when divided by `exponent`, a prime."""
    found: list[int] = []
    number = 1
    while len(found) < 4:
        number += exponent
        if number > 2 and _is_prime(number):
            found.append(number)
    return tuple(found)


def _has_root(number: int, exponent: int) -> bool:
    """Tell whether `number` is a whole number to the power `exponent`. Newton's iteration from above."""
    root = 1 << -(-number.bit_length() // exponent)
    while True:
        following = ((exponent - 1) * root + number // root ** (exponent - 1)) // exponent
        if following >= root:
            power: int = root**exponent
            return power == number
        root = following


def _logarithms(prime: int) -> dict[int, int]:
    """Return the exponent of each power of 65537 modulo a small prime, the smallest one."""
    powers: dict[int, int] = {}
    value = 1
    while value not in powers:
        powers[value] = len(powers)
        value = value * 65537 % prime
    return powers


_ROCA_LOGARITHMS = tuple((prime, _logarithms(prime)) for prime in _primes_below(168))


def has_roca_fingerprint(modulus: int) -> bool:
    """Tell whether the modulus comes, by all signs, from the key generator with the ROCA flaw (CVE-2017-15361).

    That generator makes primes k*M + 65537^a mod M, where M is the product of the primes up to 167 or more. So the
    modulus is a power of 65537 modulo each of these primes, and one exponent fits them all. A random modulus passes
    with a probability below 2^-150. A few us for others: the first prime that contradicts ends the search.
    Spec: Nemec et al., "The Return of Coppersmith's Attack", ACM CCS 2017, section 4, "Fingerprinting".
    """
    exponents = []
    for prime, logarithms in _ROCA_LOGARITHMS:
        exponent = logarithms.get(modulus % prime)
        if exponent is None:
            return False
        exponents.append((exponent, len(logarithms)))
    # By the Chinese remainder theorem an exponent for all exists exactly when each two agree on what they share.
    return all(
        (first - second) % math.gcd(order, other_order) == 0
        for at, (first, order) in enumerate(exponents)
        for second, other_order in exponents[at + 1 :]
    )
