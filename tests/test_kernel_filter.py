"""The filter of request keys and their sorted records, in both kernels."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.outcomes import alike

from mtc.errors import FormatError, Reason, UsageError
from mtc.kernel import FINGERPRINT_BYTES, RECORD_BYTES, Kernel

Twins = tuple[Kernel, Kernel]
KEYS = st.lists(st.binary(max_size=24), max_size=60)


def test_a_fingerprint_is_the_beginning_of_sha256(kernel: Kernel) -> None:
    """The fingerprint of a key is the first eight bytes of its SHA-256, as hashlib computes it."""
    keys = [b"", b"a", b"request 7", bytes(range(255))]
    expected = b"".join(hashlib.sha256(key).digest()[:8] for key in keys)
    assert kernel.fingerprints(keys) == expected
    assert kernel.fingerprints([]) == b""


@given(KEYS, st.integers(0, 2**48 - 60))
def test_records_are_sorted_fingerprints_with_indices(kernel: Kernel, keys: list[bytes], first: int) -> None:
    """Every key that is not empty has one record with its own index, and the records are sorted."""
    row = kernel.key_records(keys, first)
    records = [row[at : at + RECORD_BYTES] for at in range(0, len(row), RECORD_BYTES)]
    expected = [
        hashlib.sha256(key).digest()[:8] + index.to_bytes(6, "big") for index, key in enumerate(keys, first) if key
    ]
    assert records == sorted(expected)
    assert kernel.sort_key_records(b"".join(expected)) == row


@given(KEYS, KEYS, st.integers(0, 100))
def test_twins_have_the_same_filter(twins: Twins, keys: list[bytes], others: list[bytes], capacity: int) -> None:
    """Both kernels set the same bits and give the same answers, also in a filter that is too small."""
    python, native = (kernel.key_filter(capacity) for kernel in twins)
    row = twins[0].key_records(keys, 0)
    python.add_many(row)
    native.add_many(row)
    bits = python.encode()
    assert bits == native.encode()
    asked = twins[0].fingerprints([*others, *keys])
    places = python.contains_many(asked)
    assert native.contains_many(asked) == places
    assert twins[1].parse_key_filter(bits).contains_many(asked) == places
    assert twins[0].parse_key_filter(bits).contains_many(asked) == places


@given(KEYS)
def test_a_known_key_is_always_found(kernel: Kernel, keys: list[bytes]) -> None:
    """A filter has no false negatives, and an empty filter knows nothing."""
    keys = [key for key in keys if key]
    row = kernel.fingerprints(keys)
    key_filter = kernel.key_filter(len(keys))
    assert key_filter.contains_many(row) == []
    key_filter.add_many(kernel.key_records(keys, 0))
    assert key_filter.contains_many(row) == list(range(len(keys)))


def test_few_new_keys_look_known(kernel: Kernel) -> None:
    """In a full filter at most one in ten thousand new keys may be known, and a key takes less than three bytes."""
    count, asked = (100_000, 400_000) if kernel.name == "native" else (3000, 10_000)
    key_filter = kernel.key_filter(count)
    key_filter.add_many(kernel.key_records([b"request %d" % number for number in range(count)], 0))
    others = kernel.fingerprints([b"other %d" % number for number in range(asked)])
    assert len(key_filter.contains_many(others)) <= asked // 10_000
    assert len(key_filter.encode()) < 3 * count
    assert len(kernel.key_filter(0).encode()) == 8


@pytest.mark.parametrize("length", [1, 7, 9, 13, 15])
def test_odd_rows_are_refused_alike(twins: Twins, length: int) -> None:
    """A row that does not hold whole items, and bits that are no filter, are refused by both kernels in one way."""
    row = bytes(length)
    alike(twins, lambda kernel: kernel.key_filter(1).contains_many(row))
    alike(twins, lambda kernel: kernel.sort_key_records(row))
    for kernel in twins:
        with pytest.raises(FormatError) as caught:
            kernel.parse_key_filter(row)
        assert caught.value.reason is Reason.BAD_LENGTH
        with pytest.raises(UsageError):
            kernel.key_filter(1).add_many(row)


def test_indices_have_48_bits(kernel: Kernel) -> None:
    """The last index of 2^48 - 1 fits into a record, the next one is refused; so is a filter that no memory holds."""
    assert kernel.key_records([b"k"], 2**48 - 1)[FINGERPRINT_BYTES:] == b"\xff" * 6
    for first in (-1, 2**48, 2**64):
        with pytest.raises(UsageError):
            kernel.key_records([b"k"], first)
    for capacity in (-1, 2**41):
        with pytest.raises(UsageError):
            kernel.key_filter(capacity)
    with pytest.raises(FormatError):
        kernel.parse_key_filter(b"")
