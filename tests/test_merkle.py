"""Subtrees, covers, proofs and the growing edge: the draft's vectors, laws, and every small tree, on both kernels."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.strategies import HASH_SIZE, intervals, rows, subtrees, subtrees_in_trees

from mtc.errors import Error, FormatError, ProofError, Reason, UsageError
from mtc.kernel import Kernel
from mtc.merkle import (
    MAX_PROOF_HASHES,
    MAX_TREE_SIZE,
    Frontier,
    Hasher,
    HashReader,
    Node,
    RowReader,
    Subtree,
    bit_ceil,
    cover,
    evaluate_inclusion,
    prove_consistency,
    prove_inclusion,
    root_hash,
    split_row,
    subtree_hash,
    verify_consistency,
    verify_inclusion,
)

# Merkle Tree Certificates, appendix C.1 (the same in the repository of 2026-08-20 and in the -07 preview of
# 2026-10-01): SHA-256 over one line for each output of each algorithm, for all trees up to 130 entries; entry i is the
# byte i.
SUBTREE_HASHES = "b82806ad4265bb151c1119c0f4db437bb4d1a1f887b3a7fba1cd4ebf552e3e81"
INCLUSION_PROOFS = "ac2a8f989e44d99e399db448050ff5f19757df53cfb716aa81015d3955d8163f"
CONSISTENCY_PROOFS = "10fa99b37bf9bf9ffa26b412fbd98bd75363256d0b75d61bc4538b9c9c5a0a74"
COVERING_SUBTREES = "7fd9c8b926e9d2b5cf831560e8ce295a5ef97ad5c5ede4ea0dea28a8c8fc8bb0"
# The same appendix of -05, which knew no empty subtrees and covered some intervals with a single subtree.
SUBTREE_HASHES_05 = "94a95384a8c69acea9b50d035a58285b3a777cb7a724005faa5e1f1e1190007f"
INCLUSION_PROOFS_05 = "ac2a8f989e44d99e399db448050ff5f19757df53cfb716aa81015d3955d8163f"
CONSISTENCY_PROOFS_05 = "c586ebbb73a5621baf2140095d87dde934e3b6503a562a1a5215b8209edd083d"
COVERING_SUBTREES_05 = "e0aecb912a10c57d753b6ecc64db73217f9bc4ed10fcb4e9062be3b6fbe1ebfd"

LARGEST = 130
ENTRIES = [bytes((number,)) for number in range(LARGEST)]
INTERVALS = [(start, end) for end in range(LARGEST + 1) for start in range(end + 1)]
SUBTREES = [Subtree(start, end) for start, end in INTERVALS if Subtree.is_valid(start, end)]

LoadVectors = Callable[[str], Any]


@pytest.fixture(scope="module")
def hasher(kernel: Kernel) -> Hasher:
    """Return the SHA-256 of each kernel."""
    return kernel.hasher("sha256")


@pytest.fixture(scope="module", params=["sha256", "sm3"])
def any_hasher(kernel: Kernel, request: pytest.FixtureRequest) -> Hasher:
    """Return each hash of each kernel."""
    if kernel.name == "python" and request.param not in hashlib.algorithms_available:
        pytest.skip(f"this Python's OpenSSL has no {request.param}")
    return kernel.hasher(request.param)


@pytest.fixture(scope="module")
def leaves(hasher: Hasher) -> bytes:
    """Return the row of leaf hashes of the draft's tree of 130 entries."""
    return hasher.leaves(ENTRIES)


@pytest.fixture(scope="module")
def reader(hasher: Hasher, leaves: bytes) -> RowReader:
    """Return a reader of the draft's tree of 130 entries."""
    return RowReader(hasher, leaves)


class OneReadReader:
    """A reader that is asked at most once, for something, and never for one node twice; stricter than `HashReader`."""

    def __init__(self, reader: HashReader) -> None:
        """Pass the one call on to `reader`."""
        self._reader = reader
        self._used = False

    def read(self, nodes: Sequence[Node]) -> list[bytes]:
        """Return the hashes, once."""
        assert not self._used, "a second read"
        assert nodes, "a read of nothing"
        assert len(set(nodes)) == len(nodes), "a node is read twice"
        self._used = True
        return self._reader.read(nodes)


class VastReader:
    """A reader of a tree too large to hold: a node above level 3 has a hash made from its name alone."""

    def __init__(self, hasher: Hasher) -> None:
        """Hash with `hasher`."""
        self._hasher = hasher

    def read(self, nodes: Sequence[Node]) -> list[bytes]:
        """Return the hashes of complete nodes at any place."""
        return [self._hasher.digest(f"node {node.level} {node.index}".encode()) for node in nodes]


def accumulate(lines: Iterator[str]) -> str:
    """Return SHA-256 over the lines, each with its newline, in hexadecimal."""
    digest = hashlib.sha256()
    for line in lines:
        digest.update(line.encode() + b"\n")
    return digest.hexdigest()


def line(head: str, hashes: Sequence[bytes]) -> str:
    """Return one line of the accumulated vectors."""
    return " ".join((head, *(value.hex() for value in hashes)))


def outcome(call: Callable[[], object]) -> object:
    """Return what a call returns, or the type and reason of its error."""
    try:
        return call()
    except Error as error:
        return type(error), error.reason


def flipped(value: bytes, bit: int = 0) -> bytes:
    """Return `value` with one bit changed."""
    return bytes((value[0] ^ 1 << bit,)) + value[1:]


def naive_root(hasher: Hasher, row: Sequence[bytes]) -> bytes:
    """Return the Merkle tree hash exactly as RFC 9162 defines it, by recursion."""
    if not row:
        return hasher.digest(b"")
    if len(row) == 1:
        return row[0]
    middle = bit_ceil(len(row)) // 2
    return hasher.node(naive_root(hasher, row[:middle]), naive_root(hasher, row[middle:]))


def naive_inclusion(hasher: Hasher, row: Sequence[bytes], index: int) -> list[bytes]:
    """Return the inclusion path exactly as RFC 9162 defines it, by recursion."""
    if len(row) == 1:
        return []
    middle = bit_ceil(len(row)) // 2
    if index < middle:
        return [*naive_inclusion(hasher, row[:middle], index), naive_root(hasher, row[middle:])]
    return [*naive_inclusion(hasher, row[middle:], index - middle), naive_root(hasher, row[:middle])]


def naive_consistency(hasher: Hasher, row: Sequence[bytes], start: int, end: int, *, known: bool = True) -> list[bytes]:
    """Return the subtree consistency proof exactly as the draft defines it, by recursion."""
    if start == end:
        return []
    if (start, end) == (0, len(row)):
        return [] if known else [naive_root(hasher, row)]
    middle = bit_ceil(len(row)) // 2
    if end <= middle:
        return [*naive_consistency(hasher, row[:middle], start, end, known=known), naive_root(hasher, row[middle:])]
    right = row[middle:]
    if start >= middle:
        inner = naive_consistency(hasher, right, start - middle, end - middle, known=known)
    else:
        inner = naive_consistency(hasher, right, 0, end - middle, known=False)
    return [*inner, naive_root(hasher, row[:middle])]


# Vectors of the specification.


def test_constants_are_those_of_the_vectors(load_vectors: LoadVectors) -> None:
    """The accumulated digests in this file are those of the shared vectors."""
    vectors = load_vectors("subtree_accumulated.json")
    found = {digest["name"]: digest["sha256"] for digest in vectors["digests"]}
    assert vectors["max_size"] == LARGEST
    assert found == {
        "subtree_hashes": SUBTREE_HASHES,
        "inclusion_proofs": INCLUSION_PROOFS,
        "consistency_proofs": CONSISTENCY_PROOFS,
        "covering_subtrees": COVERING_SUBTREES,
    }
    older = {name: value for name, value in vectors["older_digests_05"].items() if name != "note"}
    assert older == {
        "subtree_hashes": SUBTREE_HASHES_05,
        "inclusion_proofs": INCLUSION_PROOFS_05,
        "consistency_proofs": CONSISTENCY_PROOFS_05,
        "covering_subtrees": COVERING_SUBTREES_05,
    }


def test_subtree_hashes_accumulate(hasher: Hasher, reader: RowReader, leaves: bytes) -> None:
    """Subtree hashes of all trees up to 130 entries give the draft's digest, from nodes and from rows of leaves."""
    hashes = {subtree: subtree_hash(hasher, reader, subtree) for subtree in SUBTREES}
    assert hashes == {
        subtree: root_hash(hasher, leaves[subtree.start * HASH_SIZE : subtree.end * HASH_SIZE]) for subtree in SUBTREES
    }
    assert accumulate(line(str(subtree), [value]) for subtree, value in hashes.items()) == SUBTREE_HASHES
    filled = ((subtree, value) for subtree, value in hashes.items() if not subtree.is_empty)
    assert accumulate(line(str(subtree), [value]) for subtree, value in filled) == SUBTREE_HASHES_05


def test_inclusion_proofs_accumulate(hasher: Hasher, reader: RowReader) -> None:
    """Inclusion proofs of all entries of all subtrees give the draft's digest, which is the same in -05."""
    lines = (
        line(f"{index} {subtree}", prove_inclusion(hasher, reader, subtree, index))
        for subtree in SUBTREES
        for index in range(subtree.start, subtree.end)
    )
    assert accumulate(lines) == INCLUSION_PROOFS == INCLUSION_PROOFS_05


def test_consistency_proofs_accumulate(hasher: Hasher, reader: RowReader) -> None:
    """Consistency proofs of all subtrees with all trees up to 130 entries give the digests of the draft and of -05."""
    all_of_them = hashlib.sha256()
    older = hashlib.sha256()
    for size in range(LARGEST + 1):
        for subtree in SUBTREES:
            if subtree.end > size:
                break
            text = line(f"{subtree} {size}", prove_consistency(hasher, reader, subtree, size)).encode() + b"\n"
            all_of_them.update(text)
            if not subtree.is_empty:
                older.update(text)
    assert all_of_them.hexdigest() == CONSISTENCY_PROOFS
    assert older.hexdigest() == CONSISTENCY_PROOFS_05


def test_covers_accumulate() -> None:
    """Covers of all intervals up to 130 give the draft's digest, and with lone subtrees where there is one -05's."""
    covers = {interval: cover(*interval) for interval in INTERVALS}
    assert accumulate(f"{left} {right}" for left, right in covers.values()) == COVERING_SUBTREES

    def older() -> Iterator[str]:
        for (start, end), (left, right) in covers.items():
            if start < end:
                yield f"[{start}, {end})" if Subtree.is_valid(start, end) else f"{left} {right}"

    assert accumulate(older()) == COVERING_SUBTREES_05


def test_subtree_hash_vectors(load_vectors: LoadVectors, hasher: Hasher, reader: RowReader) -> None:
    """Each published subtree hash is reproduced."""
    for case in load_vectors("subtree_hashes.json")["cases"]:
        assert subtree_hash(hasher, reader, Subtree(case["start"], case["end"])).hex() == case["hash"], case


def test_subtree_validity_vectors(load_vectors: LoadVectors) -> None:
    """Intervals are subtrees exactly where the draft says so; empty ones are, as from -06 on."""
    vectors = load_vectors("subtree_validity.json")
    for case in vectors["valid"] + vectors["version_dependent"]:
        start, end = int(case["start"]), int(case["end"])
        assert Subtree.is_valid(start, end), case
        assert Subtree(start, end).size == end - start
    for case in vectors["invalid"]:
        assert not Subtree.is_valid(int(case["start"]), int(case["end"])), case
        with pytest.raises(FormatError) as caught:
            Subtree(int(case["start"]), int(case["end"]))
        assert caught.value.reason is Reason.BAD_SUBTREE


def test_covering_vectors(load_vectors: LoadVectors) -> None:
    """Each published interval, up to 64 bits, is covered by the published two subtrees."""
    vectors = load_vectors("covering_subtrees.json")
    for case in vectors["published"] + vectors["derived"]:
        left, right = cover(*map(int, case["interval"]))
        assert [str(left.start), str(left.end)] == case["left"], case
        assert [str(right.start), str(right.end)] == case["right"], case


@pytest.mark.parametrize("name", ["subtree_inclusion_proofs.json", "large_inclusion_proofs.json"])
def test_inclusion_vectors(load_vectors: LoadVectors, kernel: Kernel, hasher: Hasher, name: str) -> None:
    """Each published inclusion proof, up to trees near 2^64, leads to its hash; with a changed bit it does not."""
    for case in load_vectors(name)["cases"]:
        subtree, index = Subtree(int(case["start"]), int(case["end"])), int(case["index"])
        entry_hash, expected = bytes.fromhex(case["entry_hash"]), bytes.fromhex(case["subtree_hash"])
        proof = [bytes.fromhex(value) for value in case["proof"]]
        verify_inclusion(hasher, subtree, index, entry_hash, proof, expected)
        row = b"".join(proof)
        at = (subtree.start, subtree.end, index)
        assert kernel.evaluate_inclusion("sha256", *at, entry_hash, row) == expected, case
        assert kernel.evaluate_inclusion("sha256", *at, flipped(entry_hash), row) != expected
        if proof:
            assert kernel.evaluate_inclusion("sha256", *at, entry_hash, flipped(row)) != expected
            with pytest.raises(ProofError) as caught:
                kernel.evaluate_inclusion("sha256", *at, entry_hash, row[HASH_SIZE:])
            assert caught.value.reason is Reason.PROOF_TOO_SHORT
        too_long = Reason.PROOF_TOO_LONG if len(proof) < MAX_PROOF_HASHES else Reason.TOO_LARGE
        with pytest.raises(Error) as caught_error:
            kernel.evaluate_inclusion("sha256", *at, entry_hash, row + bytes(HASH_SIZE))
        assert caught_error.value.reason is too_long


@pytest.mark.parametrize(
    ("name", "size_key", "root_key"),
    [
        ("subtree_consistency_proofs.json", "n", "root_hash"),
        ("large_consistency_proofs.json", "tree_size", "tree_hash"),
    ],
)
def test_consistency_vectors(  # noqa: PLR0913 - three fixtures, three keys
    load_vectors: LoadVectors, kernel: Kernel, hasher: Hasher, name: str, size_key: str, root_key: str
) -> None:
    """Each published consistency proof, up to trees near 2^64, holds; no changed hash and no changed root does."""
    for case in load_vectors(name)["cases"]:
        start, end, size = int(case["start"]), int(case["end"]), int(case[size_key])
        node, root = bytes.fromhex(case["subtree_hash"]), bytes.fromhex(case[root_key])
        proof = [bytes.fromhex(value) for value in case["proof"]]
        row = b"".join(proof)
        verify_consistency(hasher, Subtree(start, end), size, node, root, proof)
        kernel.verify_consistency("sha256", start, end, size, node, root, row)
        wrong = [(flipped(node), root, row), (node, root, row + bytes(HASH_SIZE))]
        if start < end:
            wrong.append((node, flipped(root), row))
        if proof:
            wrong += [(node, root, flipped(row)), (node, root, row[HASH_SIZE:]), (node, root, row[:-HASH_SIZE])]
        for arguments in wrong:
            with pytest.raises(ProofError):
                kernel.verify_consistency("sha256", start, end, size, *arguments)


def test_inclusion_negative_vectors(load_vectors: LoadVectors, kernel: Kernel, hasher: Hasher) -> None:
    """BoringSSL's wrong proofs for entry 10 of [8, 13) fail, or lead to another hash, exactly as they do there."""
    vectors = load_vectors("inclusion_proof_negative.json")
    place = (vectors["start"], vectors["end"], vectors["index"])
    for case in vectors["cases"]:
        entry_hash, proof = bytes.fromhex(case["entry_hash"]), bytes.fromhex(case["proof"])
        value = outcome(lambda: kernel.evaluate_inclusion("sha256", *place, entry_hash, proof))  # noqa: B023 - at once
        if isinstance(value, bytes):
            assert case["evaluates"], case
            assert (value.hex() == vectors["subtree_hash"]) == case["matches"], case
        elif len(proof) % HASH_SIZE:
            assert value == (FormatError, Reason.BAD_PROOF_LENGTH), case
        else:
            assert value in {(ProofError, Reason.PROOF_TOO_SHORT), (ProofError, Reason.PROOF_TOO_LONG)}, case
        assert isinstance(value, bytes) == case["evaluates"], case
    for case in vectors["invalid_parameters"]:
        start, end, index = int(case["start"]), int(case["end"]), int(case["index"])
        reason = Reason.INDEX_NOT_IN_SUBTREE if Subtree.is_valid(start, end) else Reason.BAD_SUBTREE
        for count in range(MAX_PROOF_HASHES + 1):
            with pytest.raises(Error) as caught:
                kernel.evaluate_inclusion("sha256", start, end, index, bytes(HASH_SIZE), bytes(HASH_SIZE * count))
            assert caught.value.reason is reason, case
        if Subtree.is_valid(start, end):
            with pytest.raises(ProofError):
                prove_inclusion(hasher, VastReader(hasher), Subtree(start, end), index)


# Every small tree.


def test_every_inclusion_proof_binds(kernel: Kernel, hasher: Hasher, reader: RowReader, leaves: bytes) -> None:
    """In all subtrees up to 130: each proof holds, and none with a changed bit, a hash more or less, another index."""
    entry_hashes = split_row(leaves, HASH_SIZE)
    for subtree in SUBTREES:
        expected = subtree_hash(hasher, reader, subtree)
        place = (subtree.start, subtree.end)
        for index in range(subtree.start, subtree.end):
            proof = prove_inclusion(hasher, OneReadReader(reader), subtree, index)
            row, leaf = b"".join(proof), entry_hashes[index]
            assert kernel.evaluate_inclusion("sha256", *place, index, leaf, row) == expected
            assert evaluate_inclusion(hasher, subtree, index, leaf, proof) == expected
            assert outcome(lambda: evaluate_inclusion(hasher, subtree, index, leaf, [*proof, leaf])) == (  # noqa: B023
                ProofError,
                Reason.PROOF_TOO_LONG,
            )
            assert kernel.evaluate_inclusion("sha256", *place, index, flipped(leaf, index % 8), row) != expected
            other = index - 1 if index > subtree.start else subtree.end - 1
            if proof:
                at = index % len(proof)
                wrong = [*proof[:at], flipped(proof[at], index % 8), *proof[at + 1 :]]
                assert evaluate_inclusion(hasher, subtree, index, leaf, wrong) != expected
                short = (ProofError, Reason.PROOF_TOO_SHORT)
                less = proof[:at] + proof[at + 1 :]
                assert outcome(lambda: evaluate_inclusion(hasher, subtree, index, leaf, less)) == short  # noqa: B023
                moved = outcome(lambda: kernel.evaluate_inclusion("sha256", *place, other, leaf, row))  # noqa: B023
                assert moved != expected
            for outside in (subtree.start - 1, subtree.end):
                assert not subtree.contains(outside)


@pytest.mark.parametrize("largest", [66, pytest.param(LARGEST, marks=pytest.mark.slow)])
def test_every_consistency_proof_binds(kernel: Kernel, hasher: Hasher, reader: RowReader, largest: int) -> None:
    """In all these trees: each proof holds, and none with a changed bit, a hash more or less, or moved aside."""
    hashes = {subtree: subtree_hash(hasher, reader, subtree) for subtree in SUBTREES}
    too_long, too_short = {Reason.PROOF_TOO_LONG}, {Reason.PROOF_TOO_SHORT}
    for size in range(largest + 1):
        root = hashes[Subtree(0, size)]
        for subtree in SUBTREES:
            if subtree.end > size:
                break
            start, end, node = subtree.start, subtree.end, hashes[subtree]
            row = b"".join(prove_consistency(hasher, reader, subtree, size))
            kernel.verify_consistency("sha256", start, end, size, node, root, row)
            elsewhere = {Reason.HASH_MISMATCH, Reason.ROOT_MISMATCH}
            wrong = [(start, flipped(node), root, row, elsewhere), (start, node, root, row + node, too_long)]
            if not subtree.is_empty:
                aside = start ^ bit_ceil(subtree.size)
                wrong.append((start, node, flipped(root), row, elsewhere))
                wrong.append((aside, node, root, row, set(Reason)))
            if row:
                wrong.append((start, node, root, row[:-HASH_SIZE], too_short))
                wrong.append((start, node, root, flipped(row), elsewhere))
            for begin, other_node, other_root, other_row, reasons in wrong:
                with pytest.raises(ProofError) as caught:
                    kernel.verify_consistency(
                        "sha256", begin, begin + subtree.size, size, other_node, other_root, other_row
                    )
                assert caught.value.reason in reasons, (subtree, size)


def test_proofs_are_the_recursive_definition(any_hasher: Hasher) -> None:
    """For all trees up to 40 entries roots and proofs are those of the recursive definitions, with SM3 as well."""
    row = any_hasher.leaves([b"entry %d" % number for number in range(40)])
    leaves, reader = split_row(row, HASH_SIZE), RowReader(any_hasher, row)
    for subtree in SUBTREES:
        if subtree.end > len(leaves):
            break
        own = leaves[subtree.start : subtree.end]
        assert subtree_hash(any_hasher, reader, subtree) == naive_root(any_hasher, own)
        for index in range(subtree.size):
            proof = prove_inclusion(any_hasher, reader, subtree, subtree.start + index)
            assert proof == naive_inclusion(any_hasher, own, index)
        for size in {subtree.end, min(subtree.end + 1, 40), 33, 40}:
            if size >= subtree.end:
                proof = prove_consistency(any_hasher, OneReadReader(reader), subtree, size) if subtree.size else []
                assert proof == naive_consistency(any_hasher, leaves[:size], subtree.start, subtree.end)


def test_proofs_hold_with_every_hash(kernel: Kernel, any_hasher: Hasher) -> None:
    """The kernel's verifiers agree with the provers for SM3 as for SHA-256, and no proof holds under the other hash."""
    name = any_hasher.name
    other = "sm3" if name == "sha256" else "sha256"
    row = any_hasher.leaves(ENTRIES[:70])
    reader = RowReader(any_hasher, row)
    root = root_hash(any_hasher, row)
    for subtree in SUBTREES[::7]:
        if subtree.is_empty or subtree.end > 70:
            continue
        node = subtree_hash(any_hasher, reader, subtree)
        consistency = b"".join(prove_consistency(any_hasher, reader, subtree, 70))
        kernel.verify_consistency(name, subtree.start, subtree.end, 70, node, root, consistency)
        proof = b"".join(prove_inclusion(any_hasher, reader, subtree, subtree.start))
        place, leaf = (subtree.start, subtree.end, subtree.start), row[subtree.start * 32 : subtree.start * 32 + 32]
        assert kernel.evaluate_inclusion(name, *place, leaf, proof) == node
        if proof and kernel.name == "native":
            assert kernel.evaluate_inclusion(other, *place, leaf, proof) != node


# Laws.


@given(subtrees_in_trees(), st.data())
def test_proofs_verify(kernel: Kernel, place: tuple[Subtree, int], data: st.DataObject) -> None:
    """Whatever is proven verifies, and a verified subtree hash is the one computed from the leaves."""
    subtree, size = place
    hasher = kernel.hasher("sha256")
    row = hasher.leaves([number.to_bytes(2, "big") for number in range(size)])
    reader = RowReader(hasher, row)
    node = root_hash(hasher, row[subtree.start * HASH_SIZE : subtree.end * HASH_SIZE])
    consistency = prove_consistency(hasher, reader, subtree, size)
    verify_consistency(hasher, subtree, size, node, root_hash(hasher, row), consistency)
    if not subtree.is_empty:
        index = data.draw(st.integers(subtree.start, subtree.end - 1))
        proof = prove_inclusion(hasher, reader, subtree, index)
        leaf = row[index * HASH_SIZE : (index + 1) * HASH_SIZE]
        verify_inclusion(hasher, subtree, index, leaf, proof, node)
        fn, sn = index - subtree.start, subtree.size - 1
        bits = (fn ^ sn).bit_length()
        assert len(proof) == bits + (fn >> bits).bit_count()


@given(subtrees(2**64 - 1, least_size=1), st.data())
@example(Subtree(0, 2**64 - 1), None)
@example(Subtree(2**63, 2**64 - 1), None)
@example(Subtree(2**64 - 2, 2**64 - 1), None)
def test_proofs_verify_in_vast_trees(kernel: Kernel, subtree: Subtree, data: st.DataObject | None) -> None:
    """Proofs of subtrees of trees up to 2^64 - 1 entries hold on both kernels, and read their nodes in one call."""
    hasher = kernel.hasher("sha256")
    size = 2**64 - 1 if data is None else data.draw(st.integers(subtree.end, 2**64 - 1))
    index = subtree.end - 1 if data is None else data.draw(st.integers(subtree.start, subtree.end - 1))
    levels = {level: Node(level, index >> level) for level in range(65)}

    class AroundReader(VastReader):
        """Knows the entry at `index`, and so the hash of every complete node above it."""

        def read(self, nodes: Sequence[Node]) -> list[bytes]:
            """Return the hashes; nodes above the entry follow from it."""
            return [
                self.above(node) if node == levels[node.level] else hasher.digest(repr(node).encode()) for node in nodes
            ]

        def above(self, node: Node) -> bytes:
            """Return the hash of a node above the entry."""
            value = hasher.leaf(b"the entry")
            for level in range(node.level):
                sibling = self.read([Node(level, index >> level ^ 1)])[0]
                value = hasher.node(sibling, value) if index >> level & 1 else hasher.node(value, sibling)
            return value

    reader = AroundReader(hasher)
    node = subtree_hash(hasher, OneReadReader(reader), subtree)
    proof = prove_inclusion(hasher, OneReadReader(reader), subtree, index) if subtree.size > 1 else []
    value = kernel.evaluate_inclusion(
        "sha256", subtree.start, subtree.end, index, hasher.leaf(b"the entry"), b"".join(proof)
    )
    assert value == node
    # A consistency proof needs a tree whose nodes fit together: grow it around the one subtree when that is complete.
    if subtree == Subtree(levels[0].index, levels[0].index + 1):
        root = subtree_hash(hasher, reader, Subtree(0, size))
        row = b"".join(prove_consistency(hasher, OneReadReader(reader), subtree, size)) if size > 1 else b""
        kernel.verify_consistency("sha256", subtree.start, subtree.end, size, node, root, row)


@given(intervals(2**64))
def test_cover_laws(interval: tuple[int, int]) -> None:
    """A cover is two adjacent subtrees that end with the interval; less than half of the left one lies before it."""
    start, end = interval
    left, right = cover(start, end)
    assert left.end == right.start
    assert right.end == end
    assert left.start <= start
    assert start == end or left.contains(start)
    assert 2 * (start - left.start) < max(left.size, 1)
    if end - start >= 2:
        assert not left.is_empty
        assert not right.is_empty


@given(subtrees(2**64))
def test_subtree_laws(subtree: Subtree) -> None:
    """The children of a subtree are subtrees, the left one complete and not smaller; it contains just its entries."""
    assert str(subtree) == f"[{subtree.start}, {subtree.end})"
    assert subtree.is_empty == (subtree.size == 0) == (not subtree.contains(subtree.start))
    assert not subtree.contains(subtree.start - 1)
    assert not subtree.contains(subtree.end)
    if subtree.size < 2:
        with pytest.raises(UsageError):
            subtree.split()
        return
    middle = subtree.split()
    left, right = Subtree(subtree.start, middle), Subtree(middle, subtree.end)
    assert bit_ceil(left.size) == left.size >= right.size > 0
    assert subtree.contains(middle)


@given(st.integers(0, 2**70))
def test_bit_ceil_law(number: int) -> None:
    """bit_ceil is the smallest power of two that is not smaller."""
    power = bit_ceil(number)
    assert power.bit_count() == 1
    assert power >= number
    assert power == 1 or power // 2 < number


@given(rows(), st.lists(st.integers(0, 200), max_size=6), st.data())
def test_frontier_grows_in_any_batches(kernel: Kernel, row: bytes, cuts: list[int], data: st.DataObject) -> None:
    """However a row is cut into batches, the frontier's root is that of the row, its hashes are the tree's nodes."""
    hasher = kernel.hasher("sha256")
    size = len(row) // HASH_SIZE
    places = [0, *sorted(cut % (size + 1) for cut in cuts), size]
    frontier, reader = Frontier(), RowReader(hasher)
    assert frontier.root(hasher) == hasher.empty == hasher.digest(b"")
    for start, end in pairwise(places):
        batch = row[start * HASH_SIZE : end * HASH_SIZE]
        frontier = frontier.extended(hasher, batch)
        reader.extend(batch)
        assert frontier.tree_size == reader.tree_size == end
        assert frontier.root(hasher) == root_hash(hasher, row[: end * HASH_SIZE])
        assert frontier.root(hasher) == subtree_hash(hasher, reader, Subtree(0, end))
    assert frontier == Frontier().extended(hasher, row)
    nodes, at = [], 0
    for level in range(size.bit_length() - 1, -1, -1):
        if size >> level & 1:
            nodes.append(Node(level, at >> level))
            at += 1 << level
    assert list(frontier.hashes) == reader.read(nodes)
    again = Frontier(frontier.tree_size, frontier.hashes)
    more = data.draw(rows(9))
    assert again.extended(hasher, more).root(hasher) == root_hash(hasher, row + more)


def test_frontier_grows_one_by_one(any_hasher: Hasher) -> None:
    """After each single entry the frontier's root is that of the row so far, with every hash."""
    row = any_hasher.leaves(ENTRIES)
    frontier = Frontier()
    for size, leaf in enumerate(split_row(row, HASH_SIZE), 1):
        frontier = frontier.extended(any_hasher, leaf)
        assert frontier.root(any_hasher) == root_hash(any_hasher, row[: size * HASH_SIZE])
        assert len(frontier.hashes) == size.bit_count()


def test_reading_is_planned(hasher: Hasher, reader: RowReader) -> None:
    """A proof reads all its nodes in one call, and only complete nodes; an empty proof reads nothing."""
    for size in (1, 2, 7, 64, 100, 130):
        for subtree in SUBTREES:
            if subtree.end > size:
                break
            prove_consistency(hasher, OneReadReader(reader), subtree, size)
    assert prove_consistency(hasher, OneReadReader(reader), Subtree(64, 64), 130) == []
    assert prove_inclusion(hasher, OneReadReader(reader), Subtree(7, 8), 7) == []


# Examples of refusal.


def test_hashes_have_their_prefixes(any_hasher: Hasher) -> None:
    """Leaf and node hashes are those of RFC 9162, computed by hashlib directly."""
    name = any_hasher.name
    left, right = any_hasher.digest(b"left"), any_hasher.digest(b"right")

    def digest(data: bytes) -> bytes:
        return hashlib.new(name, data).digest()

    assert any_hasher.size == HASH_SIZE
    assert any_hasher.empty == digest(b"")
    assert left == digest(b"left")
    assert any_hasher.leaf(b"entry") == digest(b"\x00entry")
    assert any_hasher.node(left, right) == digest(b"\x01" + left + right)
    assert any_hasher.leaves([]) == any_hasher.fold(b"") == b""
    assert any_hasher.leaves(iter([b"", b"x" * 100_000])) == digest(b"\x00") + digest(b"\x00" + b"x" * 100_000)
    assert any_hasher.fold(left + right + right + left) == any_hasher.node(left, right) + any_hasher.node(right, left)
    vast = (left + right) * 3000
    assert any_hasher.fold(vast) == any_hasher.node(left, right) * 3000


def test_uneven_rows_are_refused(any_hasher: Hasher) -> None:
    """A row that holds no whole hashes, or an odd number where pairs are needed, is the caller's mistake."""
    for call in (
        lambda: any_hasher.fold(bytes(HASH_SIZE)),
        lambda: any_hasher.fold(bytes(2 * HASH_SIZE - 1)),
        lambda: root_hash(any_hasher, bytes(HASH_SIZE + 1)),
        lambda: split_row(bytes(HASH_SIZE - 1), HASH_SIZE),
        lambda: Frontier().extended(any_hasher, bytes(2 * HASH_SIZE + 3)),
        lambda: RowReader(any_hasher, bytes(5)),
        lambda: RowReader(any_hasher, bytes(HASH_SIZE)).extend(bytes(HASH_SIZE + 5)),
    ):
        assert outcome(call) == (UsageError, Reason.USAGE)


def test_frontier_counts_its_hashes() -> None:
    """A frontier holds one hash per set bit of its size, no more, no less, and no negative size."""
    for size, count in ((0, 1), (1, 0), (1, 2), (7, 2), (8, 2), (-1, 1), (-1, 0)):
        assert outcome(lambda: Frontier(size, (bytes(32),) * count)) == (  # noqa: B023 - called at once
            FormatError,
            Reason.BAD_PROOF_LENGTH,
        )


def test_missing_nodes_are_named(hasher: Hasher, reader: RowReader) -> None:
    """A reader refuses a node that is not complete yet, and the error says which."""
    for node in (Node(0, 130), Node(1, 65), Node(7, 1), Node(8, 0), Node(40, 0)):
        with pytest.raises(ProofError) as caught:
            reader.read([Node(0, 0), node])
        assert caught.value.reason is Reason.MISSING_HASH
        assert caught.value.facts["node"] == node
    with pytest.raises(ProofError) as caught:
        prove_inclusion(hasher, reader, Subtree(128, 132), 129)
    assert caught.value.reason is Reason.MISSING_HASH


def test_what_is_outside_is_refused(hasher: Hasher, reader: RowReader) -> None:
    """No proof is made or verified for an entry outside the subtree, nor for a subtree that ends after the tree."""
    zero = bytes(HASH_SIZE)
    outside = (ProofError, Reason.INDEX_NOT_IN_SUBTREE)
    after = (ProofError, Reason.SUBTREE_NOT_IN_TREE)
    subtree = Subtree(8, 13)
    for index in (-1, 0, 7, 13, 2**64):
        assert outcome(lambda: prove_inclusion(hasher, reader, subtree, index)) == outside  # noqa: B023 - called at once
        assert outcome(lambda: evaluate_inclusion(hasher, subtree, index, zero, [])) == outside  # noqa: B023 - ditto
    assert outcome(lambda: prove_inclusion(hasher, reader, Subtree(5, 5), 5)) == outside
    assert outcome(lambda: prove_consistency(hasher, reader, subtree, 12)) == after
    assert outcome(lambda: verify_consistency(hasher, subtree, 12, zero, zero, [])) == after
    assert outcome(lambda: verify_consistency(hasher, Subtree(4, 4), 3, hasher.empty, zero, [])) == after
    assert outcome(lambda: prove_consistency(hasher, reader, Subtree(0, 0), -1)) == (UsageError, Reason.USAGE)


def test_hash_sizes_and_counts_are_checked(hasher: Hasher) -> None:
    """A hash of another size and a proof beyond the limit are malformed, wherever they stand."""
    zero, subtree = bytes(HASH_SIZE), Subtree(0, 2)
    size = (FormatError, Reason.BAD_HASH_SIZE)
    large = (FormatError, Reason.TOO_LARGE)
    many = [zero] * (MAX_PROOF_HASHES + 1)
    for bad in (b"", bytes(31), bytes(33)):
        assert outcome(lambda: evaluate_inclusion(hasher, subtree, 0, bad, [zero])) == size  # noqa: B023 - called at once
        assert outcome(lambda: evaluate_inclusion(hasher, subtree, 0, zero, [bad])) == size  # noqa: B023 - called at once
        assert outcome(lambda: verify_consistency(hasher, subtree, 3, bad, zero, [zero])) == size  # noqa: B023 - ditto
        assert outcome(lambda: verify_consistency(hasher, subtree, 3, zero, bad, [zero])) == size  # noqa: B023 - ditto
        assert outcome(lambda: verify_consistency(hasher, subtree, 3, zero, zero, [bad])) == size  # noqa: B023 - ditto
    assert outcome(lambda: evaluate_inclusion(hasher, subtree, 0, zero, many)) == large
    assert outcome(lambda: verify_consistency(hasher, subtree, 3, zero, zero, many)) == large


def test_empty_subtree_is_consistent_with_every_tree(hasher: Hasher) -> None:
    """An empty subtree is in every tree with HASH("") and an empty proof, and with nothing else."""
    root = hasher.digest(b"any root")
    verify_consistency(hasher, Subtree(5, 5), 9, hasher.empty, root, [])
    mismatch = outcome(lambda: verify_consistency(hasher, Subtree(5, 5), 9, root, root, []))
    assert mismatch == (ProofError, Reason.HASH_MISMATCH)
    longer = outcome(lambda: verify_consistency(hasher, Subtree(5, 5), 9, hasher.empty, root, [root]))
    assert longer == (ProofError, Reason.PROOF_TOO_LONG)


def test_mismatch_names_both_hashes(hasher: Hasher, reader: RowReader, leaves: bytes) -> None:
    """When a proof leads elsewhere, the error holds the hash expected and the hash got."""
    proof = prove_inclusion(hasher, reader, Subtree(8, 13), 10)
    right = subtree_hash(hasher, reader, Subtree(8, 13))
    with pytest.raises(ProofError) as caught:
        verify_inclusion(hasher, Subtree(8, 13), 10, leaves[320:352], proof, flipped(right))
    assert caught.value.reason is Reason.HASH_MISMATCH
    assert caught.value.facts == {"expected": flipped(right).hex(), "got": right.hex()}


@pytest.mark.parametrize(("start", "end"), [(1, 0), (-1, 0), (-2, -1)])
def test_no_interval_has_no_cover(start: int, end: int) -> None:
    """What is no interval cannot be covered, and is no subtree."""
    assert outcome(lambda: cover(start, end)) == (UsageError, Reason.USAGE)
    assert not Subtree.is_valid(start, end)


def test_largest_tree_fits_48_bits() -> None:
    """The largest log has 2^48 - 1 entries, so that each interval end fits 48 bits, and a proof at most 48 hashes."""
    assert MAX_TREE_SIZE.bit_length() == 48
    assert Subtree(0, MAX_TREE_SIZE).size == MAX_TREE_SIZE
    assert MAX_PROOF_HASHES >= 48


def test_alignment_has_no_width() -> None:
    """Alignment is exact beyond 64 bits: more than 2^63 entries need a start that is a multiple of 2^64."""
    assert Subtree.is_valid(2**63, 2**64)
    assert not Subtree.is_valid(2**63, 2**64 + 1)
    assert not Subtree.is_valid(2**63, 2**65)
    assert Subtree.is_valid(2**64, 2**64 + 2**63 + 1)
