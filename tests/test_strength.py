"""What makes a key too weak: definitions against brute force, and keys that others know to be weak."""

import math
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from hypothesis import given
from hypothesis import strategies as st
from tests.lint_cases import ROCA_MODULUS, SOUND_MODULUS, rough, rsa_spki, spki

from mtc.crypto import strength
from mtc.crypto.strength import (
    FERMAT_ROUNDS,
    MAX_SPKI_BYTES,
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
from mtc.errors import FormatError, Reason

PRIMORIAL = math.prod(number for number in range(2, 168) if all(number % divisor for divisor in range(2, number)))
# Passes the older detector, which looks at each small prime alone, and is no key of the flawed generator: from
# test_fake_mods of the tests of the ROCA detector (github.com/crocs-muni/roca, MIT licence).
FAKE_MODULUS = int(
    "7241412897396787268833273653501761420862036824201579710279608682788275400626020406179954700498373142677759644565"
    "8889886861027045033760014948048067467947960318205453778973975867532910489227970143091184725760290172935872752222"
    "320334100097730483600892686353719855397381316384244147860260153198611313067061116317"
)

_CURVES = {KeyType.P256: ec.SECP256R1(), KeyType.P384: ec.SECP384R1(), KeyType.P521: ec.SECP521R1()}
PUBLIC_KEYS: dict[KeyType, Any] = {
    KeyType.RSA: rsa.RSAPublicNumbers(65537, SOUND_MODULUS).public_key(),
    **{name: ec.derive_private_key(7, curve).public_key() for name, curve in _CURVES.items()},
    KeyType.ED25519: ed25519.Ed25519PrivateKey.from_private_bytes(bytes(32)).public_key(),
    KeyType.ML_DSA_44: mldsa.MLDSA44PrivateKey.from_seed_bytes(bytes(32)).public_key(),
    KeyType.ML_DSA_65: mldsa.MLDSA65PrivateKey.from_seed_bytes(bytes(32)).public_key(),
    KeyType.ML_DSA_87: mldsa.MLDSA87PrivateKey.from_seed_bytes(bytes(32)).public_key(),
}


@pytest.mark.parametrize("key_type", list(KeyType))
def test_keys_of_the_library_are_of_their_types(key_type: KeyType) -> None:
    """A key of each type, as pyca/cryptography writes it, is recognised, has its length, and is a valid point."""
    der = PUBLIC_KEYS[key_type].public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    algorithm, key = split_spki(der)
    assert spki(algorithm, key) == der
    assert key_type_of(algorithm) is key_type
    assert key_size(key_type) == (None if key_type is KeyType.RSA else len(key))
    assert is_valid_point(key_type, der, key)


def test_a_key_that_is_cut_off_or_too_long_is_no_key() -> None:
    """Every truncation, a trailing byte, unused bits and 8 KiB are refused."""
    der = rsa_spki(SOUND_MODULUS)
    for end in range(len(der)):
        with pytest.raises(FormatError):
            split_spki(der[:end])
    for bad in (der + b"\x00", der.replace(b"\x03\x82\x01\x0f\x00", b"\x03\x82\x01\x0f\x01")):
        with pytest.raises(FormatError):
            split_spki(bad)
    with pytest.raises(FormatError) as caught:
        split_spki(bytes(MAX_SPKI_BYTES + 1))
    assert caught.value.reason is Reason.TOO_LARGE


def test_rsa_numbers_are_read() -> None:
    """Modulus and exponent come back; a number that is not positive, or a third one, is refused."""
    assert read_rsa_key(split_spki(rsa_spki(SOUND_MODULUS)).key) == (SOUND_MODULUS, 65537)
    for bad in (rsa_spki(0), rsa_spki(-5), rsa_spki(5, 0), rsa_spki(5, -1)):
        with pytest.raises(FormatError):
            read_rsa_key(split_spki(bad).key)
    with pytest.raises(FormatError):
        read_rsa_key(bytes.fromhex("3009020105020103020101"))


def test_every_key_of_the_library_is_a_point_of_edwards25519() -> None:
    """Forty keys of Ed25519 are valid points; the library's own keys are never refused."""
    for seed in range(40):
        key = ed25519.Ed25519PrivateKey.from_private_bytes(seed.to_bytes(32, "big")).public_key().public_bytes_raw()
        assert is_valid_point(KeyType.ED25519, b"", key)


@pytest.mark.parametrize(
    "key",
    [
        # The points of small order in their canonical and other encodings, as libsodium lists them.
        *("00" * 32, f"01{'00' * 31}", f"ec{'ff' * 30}7f", f"ed{'ff' * 30}7f", f"ee{'ff' * 30}7f"),
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        *(f"{'00' * 31}80", f"01{'00' * 30}80", f"ec{'ff' * 31}", f"ed{'ff' * 31}", f"ee{'ff' * 31}"),
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc85",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac03fa",
        # y = 2 is on the curve for no x.
        f"02{'00' * 31}",
    ],
)
def test_points_of_small_order_are_no_keys(key: str) -> None:
    """Under a key of small order anybody can sign; these, and what is no point, are refused."""
    assert not is_valid_point(KeyType.ED25519, b"", bytes.fromhex(key))


def test_small_factors_are_found() -> None:
    """Each prime below 752 is found as a factor, and 757, the next one, is not."""
    for factor in strength._primes_below(752):
        assert has_small_factor(factor * 757 * 761)
    assert not has_small_factor(757 * 761)
    assert strength._primes_below(752)[-1] == 751
    assert not has_small_factor(SOUND_MODULUS)


PRIMES = [number for number in range(2**20, 2**20 + 20_000) if number % 2 and strength._is_prime(number)]


@given(st.sampled_from(PRIMES), st.integers(0, len(PRIMES) - 1))
def test_close_primes_are_what_fermat_finds_in_so_many_rounds(prime: int, at: int) -> None:
    """Two primes are too close exactly when their mean lies within that many steps of the root of their product."""
    other = PRIMES[at]
    product = prime * other
    steps = (prime + other) // 2 - (math.isqrt(product - 1) + 1) + 1
    for rounds in (1, 2, 10, FERMAT_ROUNDS):
        assert has_close_primes(product, rounds) == (steps <= rounds)


def test_primes_that_are_far_apart_pass() -> None:
    """A sound modulus is not factored, and one whose primes differ in their lower half is."""
    assert not has_close_primes(SOUND_MODULUS)
    near = rough(math.isqrt(SOUND_MODULUS))
    assert has_close_primes(near * rough(near + 2**500))
    assert not has_close_primes(near * rough(near + 2**520))


@given(st.integers(757, 2**80), st.integers(2, 60))
def test_powers_are_found(base: int, exponent: int) -> None:
    """Any power of a number without small factors is found, and its neighbours are none."""
    power = rough(base) ** exponent
    assert is_perfect_power(power)
    assert not is_perfect_power(power + 2)


def test_powers_up_to_the_largest_exponent_are_found() -> None:
    """The smallest base to the largest powers below 16,384 bits is found, whichever prime divides the exponent."""
    for exponent in (*(prime for prime in strength._primes_below(1714) if prime > 1500), 1001):
        assert is_perfect_power(757**exponent)
    assert not is_perfect_power(SOUND_MODULUS)
    assert not is_perfect_power(757)


def test_the_published_roca_key_is_found() -> None:
    """The detector's own samples: one key of the flawed generator, one sound key, one that only looks like it."""
    assert has_roca_fingerprint(ROCA_MODULUS)
    assert not has_roca_fingerprint(SOUND_MODULUS)
    assert not has_roca_fingerprint(FAKE_MODULUS)
    # What the older detector looks at: for each prime alone, the modulus is a power of 65537.
    assert all(FAKE_MODULUS % prime in logarithms for prime, logarithms in strength._ROCA_LOGARITHMS)


@given(st.integers(0, 2**60), st.integers(0, 2**60), st.integers(1, 2**200), st.integers(1, 2**200))
def test_keys_made_as_the_flawed_generator_does_are_found(a: int, b: int, k: int, m: int) -> None:
    """The product of two numbers k*M + 65537^a mod M has the fingerprint."""
    first = k * PRIMORIAL + pow(65537, a, PRIMORIAL)
    second = m * PRIMORIAL + pow(65537, b, PRIMORIAL)
    assert has_roca_fingerprint(first * second)


@given(st.integers(2**2047, 2**2048 - 1))
def test_other_numbers_have_no_fingerprint(number: int) -> None:
    """Numbers drawn at random have no ROCA fingerprint."""
    assert not has_roca_fingerprint(number | 1)
