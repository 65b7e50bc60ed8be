"""Both kernels give the same values and the same errors on thousands of damaged certificates."""

import os
import random
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.certificates import (
    ALGORITHM,
    FORMATS,
    MADE,
    TRUE,
    Parts,
    extension,
    extensions_of_a_leaf,
    foreign_certificates,
    made_certificates,
)
from tests.mutation import grown_mutants, mutants
from tests.outcomes import alike, outcome

from mtc.errors import Error, Reason
from mtc.kernel import (
    IssuerFormat,
    Kernel,
    parse_layout,
)
from mtc.wire import (
    encode_integer,
    encode_sequence,
)

LoadVectors = Callable[[str], Any]
Twins = tuple[Kernel, Kernel]


def compare(twins: Twins, ders: Iterable[bytes], issuers: dict[bytes, IssuerFormat]) -> dict[object, int]:
    """Scan everything with both kernels, assert equal outcomes, and return how often each kind of outcome came."""
    batch = list(ders)
    python, native = (kernel.scanner(issuers) for kernel in twins)
    kinds: dict[object, int] = {}
    for der, left, right in zip(batch, python.scan_many(batch), native.scan_many(batch), strict=True):
        assert outcome(left) == outcome(right), der.hex()
        kind = left.reason if isinstance(left, Error) else "scanned"
        kinds[kind] = kinds.get(kind, 0) + 1
        if isinstance(left, tuple):
            compare_extensions(twins, [(der, left[8], left[9])])
    return kinds


def compare_extensions(twins: Twins, regions: Iterable[tuple[bytes, Any, Any]]) -> dict[object, int]:
    """Read extensions with both kernels, assert equal outcomes, and return how often each kind of outcome came."""
    kinds: dict[object, int] = {}
    for der, start, end in regions:
        found = alike(twins, lambda kernel: kernel.scan_extensions(der, start, end))  # noqa: B023 - called at once
        kind = found[1] if isinstance(found, tuple) and isinstance(found[0], type) else "read"
        kinds[kind] = kinds.get(kind, 0) + 1
    return kinds


def test_mutated_certificates_scan_alike(load_vectors: LoadVectors, twins: Twins) -> None:
    """Thousands of damaged foreign certificates give the same tuple or the same error on both kernels."""
    chance = random.Random(20261007)
    kinds: dict[object, int] = {}
    for _, der in foreign_certificates(load_vectors):
        for variants in (mutants(der, chance, 2000), grown_mutants(der, chance, 3000)):
            for kind, count in compare(twins, variants, FORMATS).items():
                kinds[kind] = kinds.get(kind, 0) + count
    assert sum(kinds.values()) == 16 * 5000
    assert len(kinds) > 15, kinds


def test_mutated_made_certificates_scan_alike(twins: Twins) -> None:
    """Thousands of damaged purpose-made certificates give the same tuple or the same error on both kernels."""
    chance = random.Random(7)
    kinds: dict[object, int] = {}
    for der in made_certificates():
        for variants in (mutants(der, chance, 5000), grown_mutants(der, chance, 10_000)):
            for kind, count in compare(twins, variants, MADE).items():
                kinds[kind] = kinds.get(kind, 0) + count
    assert sum(kinds.values()) == 4 * 15_000
    assert len(kinds) > 20, kinds


def test_every_truncation_scans_alike(twins: Twins) -> None:
    """A certificate cut off at any byte, or with one bit flipped anywhere, gives the same outcome on both kernels."""
    for der in made_certificates():
        cuts = compare(twins, (der[:size] for size in range(len(der))), MADE)
        assert set(cuts) == {Reason.TRUNCATED}
        flips = (der[:at] + bytes((der[at] ^ 1 << bit,)) + der[at + 1 :] for at in range(len(der)) for bit in range(8))
        kinds = compare(twins, flips, MADE)
        assert kinds["scanned"] > 0


@pytest.mark.slow
def test_many_mutated_certificates_scan_alike(load_vectors: LoadVectors, twins: Twins) -> None:
    """Half a million damaged certificates give the same tuple or the same error on both kernels."""
    chance = random.Random(f"{random.random()}" if os.environ.get("MTC_HYPOTHESIS") == "explore" else "slow")
    bases = [(der, FORMATS) for _, der in foreign_certificates(load_vectors)]
    bases += [(der, MADE) for der in made_certificates()]
    for _ in range(25):
        for der, issuers in bases:
            compare(twins, mutants(der, chance, 500), issuers)
            compare(twins, grown_mutants(der, chance, 500), issuers)


def test_mutated_extensions_read_alike(load_vectors: LoadVectors, twins: Twins) -> None:
    """Damaged extensions give the same values or error on both kernels, also where a scan would have stopped before."""
    chance = random.Random(5280)
    regions = [b"".join(extensions_of_a_leaf())]
    regions += [b"".join((extension("2.5.29.19", encode_sequence(TRUE, encode_integer(3))), regions[0][:17]))]
    for _, der in foreign_certificates(load_vectors):
        layout = parse_layout(der)
        regions.append(der[layout.extensions_start : layout.extensions_end])
    kinds: dict[object, int] = {}
    for region in filter(None, regions):
        variants = [*mutants(region, chance, 1000), *grown_mutants(region, chance, 2000)]
        found = compare_extensions(twins, ((variant, 0, len(variant)) for variant in variants))
        for kind, count in found.items():
            kinds[kind] = kinds.get(kind, 0) + count
    assert kinds["read"] > 1000
    assert len(kinds) > 9, kinds


@given(st.binary(max_size=200))
def test_any_bytes_scan_alike(twins: Twins, data: bytes) -> None:
    """Any bytes give the same outcome on both kernels, as certificate, as its fields and as its extensions."""
    framed = [data, encode_sequence(data), encode_sequence(encode_sequence(data), ALGORITHM, b"\x03\x01\x00")]
    framed += [Parts(proof=data).encode(), Parts(extensions=(data,)).encode(), Parts(tail=data).encode()]
    framed += [Parts(unused_bits=b"", proof=data).encode(), Parts(not_before=data).encode()]
    compare(twins, framed, MADE)
    compare_extensions(twins, [(data, 0, len(data))])
