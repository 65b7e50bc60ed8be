"""Both kernels: hash rows and proofs alike, and which of them is used."""

import hashlib
import importlib.util
import os
import random
import subprocess
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.certificates import (
    CA_NAME,
    issuer_format,
)
from tests.outcomes import alike
from tests.strategies import HASH_SIZE, hash_names, hashes, rows, subtrees_in_trees

import mtc.kernel
from mtc.errors import FormatError, Reason, UsageError
from mtc.kernel import (
    HASH_SIZES,
    Kernel,
    active_kernel,
    hash_size,
    is_native_built,
    native_kernel,
    python_kernel,
)
from mtc.merkle import RowReader, Subtree, prove_consistency, prove_inclusion, root_hash, split_row, subtree_hash

LoadVectors = Callable[[str], Any]
Twins = tuple[Kernel, Kernel]


# Hash rows and proofs.


def test_small_rows_fold_alike(twins: Twins) -> None:
    """For every hash, all rows up to 200 leaves have the same leaves, the same fold and the same root."""
    for name in HASH_SIZES:
        if name not in hashlib.algorithms_available:
            continue
        python, native = (kernel.hasher(name) for kernel in twins)
        items = [bytes((number,)) * number for number in range(200)]
        row = python.leaves(items)
        assert native.leaves(items) == row
        assert (native.name, native.size, native.empty) == (python.name, python.size, python.empty)
        for count in range(0, 201, 2):
            part = row[: count * HASH_SIZE]
            assert native.fold(part) == python.fold(part)
            assert root_hash(native, part) == root_hash(python, part)


def test_large_rows_fold_alike(twins: Twins) -> None:
    """A row so large that the native kernel releases the interpreter is folded the same."""
    row = random.Random(1).randbytes(1 << 18)
    python, native = (kernel.hasher("sha256") for kernel in twins)
    assert native.fold(row) == python.fold(row)


@pytest.mark.parametrize("hash_name", ["sha256", "sm3"])
def test_inclusion_proofs_of_all_sizes(twins: Twins, hash_name: str) -> None:
    """For all sizes up to 200 both kernels prove each leaf alike, as the prover does node by node."""
    if hash_name not in hashlib.algorithms_available:
        pytest.skip(f"this Python's OpenSSL has no {hash_name}")
    python, native = twins
    hasher = native.hasher(hash_name)
    row = hasher.leaves([number.to_bytes(2, "big") for number in range(200)])
    for size in range(201):
        part = row[: size * HASH_SIZE]
        proofs = python.inclusion_proofs(hash_name, part)
        assert native.inclusion_proofs(hash_name, part) == proofs
        assert len(proofs) == size
        reader = RowReader(hasher, part)
        for index in range(0, size, 1 + size // 20):
            assert proofs[index] == b"".join(prove_inclusion(hasher, reader, Subtree(0, size), index))


@given(rows(70), st.integers(-2, 75), st.integers(-2, 75) | st.none())
def test_inclusion_proofs_of_ranges(twins: Twins, row: bytes, first: int, last: int | None) -> None:
    """Proofs of a range are those of the whole, cut; a range outside the row is refused alike."""
    found = alike(twins, lambda kernel: kernel.inclusion_proofs("sha256", row, first, last))
    count = len(row) // HASH_SIZE
    stop = count if last is None else last
    if 0 <= first <= stop <= count:
        assert found == twins[0].inclusion_proofs("sha256", row)[first:stop]
    else:
        assert isinstance(found, tuple)
        assert found[:2] == (UsageError, Reason.USAGE)


@given(hash_names, subtrees_in_trees(200), st.data())
def test_proofs_evaluate_alike(twins: Twins, name: str, place: tuple[Subtree, int], data: st.DataObject) -> None:
    """Whole, damaged and misplaced proofs give the same value or the same error on both kernels."""
    if name not in hashlib.algorithms_available:
        return
    subtree, size = place
    hasher = twins[1].hasher(name)
    row = hasher.leaves([number.to_bytes(2, "big") for number in range(size)])
    reader = RowReader(hasher, row)
    index = data.draw(st.integers(subtree.start, max(subtree.start, subtree.end - 1)))
    inclusion = b"".join(prove_inclusion(hasher, reader, subtree, index)) if subtree.contains(index) else b""
    consistency = b"".join(prove_consistency(hasher, reader, subtree, size))
    leaf = row[index * HASH_SIZE : (index + 1) * HASH_SIZE] or bytes(HASH_SIZE)
    node, root = subtree_hash(hasher, reader, subtree), root_hash(hasher, row)
    damage = data.draw(st.sampled_from(("none", "cut", "more", "hash", "flip", "place", "size")))
    start, end, tree_size = subtree.start, subtree.end, size
    if damage == "cut":
        inclusion, consistency = inclusion[:-1], consistency[: data.draw(st.integers(0, len(consistency)))]
    elif damage == "more":
        more = data.draw(st.lists(hashes, max_size=66).map(b"".join))
        inclusion, consistency = inclusion + more, consistency + more
    elif damage == "hash":
        leaf, node = data.draw(st.binary(max_size=40)), data.draw(hashes | st.binary(max_size=40))
    elif damage == "flip" and inclusion and consistency:
        inclusion, consistency = bytes((inclusion[0] ^ 1,)) + inclusion[1:], consistency[:-1] + b"\x00"
    elif damage == "place":
        start, end, index = (data.draw(st.integers(-3, 2**66) | st.integers(0, 200)) for _ in range(3))
    elif damage == "size":
        tree_size = data.draw(st.integers(-3, 2**66) | st.integers(0, 200))
    evaluated = alike(twins, lambda kernel: kernel.evaluate_inclusion(name, start, end, index, leaf, inclusion))
    verified = alike(
        twins, lambda kernel: kernel.verify_consistency(name, start, end, tree_size, node, root, consistency)
    )
    if damage == "none":
        assert verified is None
        assert subtree.is_empty or evaluated == node


@given(
    st.integers(0, 2**64 + 2),
    st.integers(0, 2**64 + 2),
    st.integers(0, 2**64 + 2),
    st.lists(hashes, max_size=66),
    hashes,
)
def test_random_proofs_evaluate_alike(  # noqa: PLR0913 - fixture and input
    twins: Twins, start: int, end: int, third: int, proof: list[bytes], node: bytes
) -> None:
    """Random proofs in trees up to and beyond 2^64 give the same value or the same error on both kernels."""
    row = b"".join(proof)

    def compare(low: int) -> None:
        alike(twins, lambda kernel: kernel.evaluate_inclusion("sha256", low, end, third, node, row))
        alike(twins, lambda kernel: kernel.verify_consistency("sha256", low, end, third, node, node, row))

    for low in (0, start, 1 << start.bit_length()):
        compare(low)


@pytest.mark.parametrize("name", ["", "sha-256", "SHA256", "sha512", "md5"])
def test_unknown_hashes_are_refused(kernel: Kernel, name: str) -> None:
    """A hash that is no tree hash here is our caller's mistake in every function; the text names those we have."""
    calls: list[Callable[[], object]] = [
        lambda: hash_size(name),
        lambda: kernel.hasher(name),
        lambda: kernel.evaluate_inclusion(name, 0, 1, 0, bytes(32), b""),
        lambda: kernel.verify_consistency(name, 0, 1, 1, bytes(32), bytes(32), b""),
        lambda: kernel.inclusion_proofs(name, b""),
        lambda: kernel.scanner({CA_NAME: issuer_format(name)}),
    ]
    for call in calls:
        with pytest.raises(UsageError, match="sha256, sm3") as caught:
            call()
        assert caught.value.reason is Reason.UNKNOWN_ALGORITHM


def test_uneven_proofs_are_refused(kernel: Kernel) -> None:
    """A proof row or a row of leaves that holds no whole hashes is refused by both kernels."""
    zero = bytes(HASH_SIZE)
    for call in (
        lambda: kernel.evaluate_inclusion("sha256", 0, 2, 0, zero, bytes(31)),
        lambda: kernel.verify_consistency("sha256", 0, 2, 3, zero, zero, bytes(33)),
    ):
        with pytest.raises(FormatError) as caught:
            call()
        assert caught.value.reason is Reason.BAD_PROOF_LENGTH
    with pytest.raises(UsageError):
        kernel.inclusion_proofs("sha256", bytes(33))
    assert kernel.inclusion_proofs("sha256", b"") == []
    assert kernel.inclusion_proofs("sha256", zero) == [b""]
    assert split_row(kernel.inclusion_proofs("sha256", zero * 3)[0], HASH_SIZE)[0] == zero


# Which kernel.


def run_python(code: str, forced: str | None) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter with MTC_KERNEL set or absent."""
    environment = {name: value for name, value in os.environ.items() if name != "MTC_KERNEL"}
    if forced is not None:
        environment["MTC_KERNEL"] = forced
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603 - own code


PRINT_KERNEL = "from mtc.kernel import active_kernel; print(active_kernel().name)"
WITHOUT_NATIVE = "import sys; sys.modules['mtc.kernel._native'] = None; "
BEST = "native" if is_native_built() else "python"


@pytest.mark.parametrize(("forced", "name"), [("python", "python"), (None, BEST), ("", BEST), (BEST, BEST)])
def test_environment_selects_the_kernel(forced: str | None, name: str) -> None:
    """MTC_KERNEL selects the kernel; without it the native one is used where it was built."""
    run = run_python(PRINT_KERNEL, forced)
    assert (run.stdout, run.returncode) == (f"{name}\n", 0), run.stderr


def test_unknown_kernel_is_named() -> None:
    """Another value of MTC_KERNEL is refused when the kernel is asked for; the text names the value and the cure."""
    run = run_python(PRINT_KERNEL, "rust")
    assert run.returncode != 0
    assert "UsageError: MTC_KERNEL is 'rust'; it can be python or native" in run.stderr


def test_missing_native_kernel_is_explained() -> None:
    """Without the native module the Python kernel is used; who insists on the native one is told what to do."""
    assert run_python(WITHOUT_NATIVE + PRINT_KERNEL, None).stdout == "python\n"
    run = run_python(WITHOUT_NATIVE + PRINT_KERNEL, "native")
    assert run.returncode != 0
    assert "install Rust and reinstall, or unset MTC_KERNEL to use the Python kernel" in run.stderr


def test_kernels_have_names() -> None:
    """The kernels call themselves python and native, and the active one is one of them."""
    assert python_kernel().name == "python"
    if is_native_built():
        assert native_kernel().name == "native"
    assert active_kernel().name in {"python", "native"}


def test_kernel_is_parametrised(kernel: Kernel) -> None:
    """The fixture of these tests hands out the very kernels that programs use."""
    assert kernel is (python_kernel() if kernel.name == "python" else native_kernel())


@pytest.mark.parametrize(("forced", "names"), [("python", {"python"}), ("native", {"native"}), ("", {BEST})])
def test_choice_is_made_at_import(monkeypatch: pytest.MonkeyPatch, forced: str, names: set[str]) -> None:
    """The environment is read when the package is imported, here once more under another name."""
    monkeypatch.setenv("MTC_KERNEL", forced)
    again = import_again()
    if forced == "native" and not is_native_built():
        with pytest.raises(UsageError) as caught:
            again.active_kernel()
        assert caught.value.reason is Reason.UNSUPPORTED
    else:
        assert again.active_kernel().name in names
    monkeypatch.setenv("MTC_KERNEL", "rust")
    with pytest.raises(UsageError) as caught:
        import_again().active_kernel()
    assert caught.value.reason is Reason.USAGE


def import_again() -> ModuleType:
    """Run the package's own file once more, without touching the one that is loaded."""
    spec = importlib.util.spec_from_file_location("kernel_again", mtc.kernel.__file__)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
