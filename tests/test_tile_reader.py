"""Reading hashes out of tiles of strangers: what is returned is proven, what is not proven is not kept."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtc.errors import Error, FormatError, ProofError, Reason, UsageError
from mtc.kernel import Kernel, active_kernel
from mtc.merkle import (
    Node,
    RowReader,
    Subtree,
    prove_consistency,
    prove_inclusion,
    root_hash,
    subtree_hash,
    verify_consistency,
    verify_inclusion,
)
from mtc.tiles import (
    NodeRecorder,
    Tile,
    TileEdge,
    TileHashReader,
    build_tiles,
    is_prunable,
    partial_tiles,
    tiles_for_growth,
    tiles_for_nodes,
    verify_tiles,
)

HASHER = active_kernel().hasher("sha256")
SIZES = (1, 2, 255, 256, 257, 700, 65536, 66500)
ROW = HASHER.leaves([b"entry %d" % number for number in range(max(SIZES))])


class StrictSource:
    """A `TileSource` over tiles in memory that holds its reader to the contract."""

    def __init__(self, tiles: Mapping[Tile, bytes], lie: Callable[[Tile, bytes], bytes] | None = None) -> None:
        """Take the tiles, and how to lie about one."""
        self.tiles = tiles
        self.lie = lie
        self.reads: list[list[Tile]] = []
        self.saved: list[Mapping[Tile, bytes]] = []

    def read_tiles(self, tiles: Sequence[Tile]) -> list[bytes]:
        """Answer once per question; a question with the same tile twice, or without any, breaks the contract."""
        assert tiles
        assert len(set(tiles)) == len(tiles)
        self.reads.append(list(tiles))
        return [self.lie(tile, self.tiles[tile]) if self.lie else self.tiles[tile] for tile in tiles]

    def save(self, tiles: Mapping[Tile, bytes]) -> None:
        """Accept only what is true."""
        assert all(self.tiles[tile] == content for tile, content in tiles.items())
        self.saved.append(tiles)


class Tree:
    """A tree of `size` entries, all its tiles, and its root."""

    def __init__(self, size: int) -> None:
        """Build everything from the leaf hashes."""
        self.size = size
        self.row = ROW[: size * HASHER.size]
        edge, self.tiles = build_tiles(HASHER, TileEdge(HASHER.size), self.row)
        self.root = edge.root(HASHER)
        self.rows = RowReader(HASHER, self.row)

    def reader(self, source: StrictSource) -> TileHashReader:
        """Return a reader of this tree from a source."""
        return TileHashReader(HASHER, self.size, self.root, source)


TREES = {size: Tree(size) for size in SIZES}


@pytest.mark.parametrize("size", SIZES)
def test_every_node_reads_as_from_memory(size: int) -> None:
    """Every complete node of a tree is read from its tiles with the hash that the leaves give, in one call."""
    tree = TREES[size]
    nodes = [
        Node(level, index)
        for level in range(size.bit_length())
        for index in range(0, size >> level, max(1, (size >> level) // 40))
    ]
    source = StrictSource(tree.tiles)
    assert tree.reader(source).read(nodes) == tree.rows.read(nodes)
    assert len(source.reads) == len(source.saved) == 1
    assert set(source.saved[0]) == set(source.reads[0])


def test_one_node_costs_its_path() -> None:
    """One leaf of 66,500 costs the partial tiles of the tree and one tile per level above the leaf, not more."""
    source = StrictSource(TREES[66500].tiles)
    TREES[66500].reader(source).read([Node(0, 5)])
    assert set(source.reads[0]) == {Tile(0, 0), Tile(1, 0), Tile(2, 0, 1), Tile(1, 1, 3), Tile(0, 259, 196)}
    source = StrictSource(TREES[66500].tiles)
    TREES[66500].reader(source).read([Node(0, 66499)])
    assert source.reads[0] == partial_tiles(66500)


@pytest.mark.parametrize("hash_name", ["sha256", "sm3"])
def test_every_hash_of_the_kernel(kernel: Kernel, hash_name: str) -> None:
    """Reader and tiles are neutral about the hash: proofs from tiles verify for SHA-256 and SM3, on both kernels."""
    hasher = kernel.hasher(hash_name)
    row = hasher.leaves([b"%d" % number for number in range(600)])
    edge, tiles = build_tiles(hasher, TileEdge(hasher.size), row)
    root = edge.root(hasher)
    reader = TileHashReader(hasher, 600, root, StrictSource(tiles))
    for index in (0, 255, 256, 599):
        proof = prove_inclusion(hasher, reader, Subtree(0, 600), index)
        verify_inclusion(hasher, Subtree(0, 600), index, row[index * 32 : index * 32 + 32], proof, root)


@given(st.sampled_from(SIZES), st.data())
def test_proofs_from_tiles(size: int, data: st.DataObject) -> None:
    """Inclusion and consistency proofs made from proven tiles verify, each from one batch of tiles."""
    tree = TREES[size]
    end = data.draw(st.integers(1, size))
    bits = data.draw(st.integers(0, end.bit_length()))
    subtree = Subtree((end - 1) >> bits << bits, end)
    index = data.draw(st.integers(subtree.start, end - 1))
    source = StrictSource(tree.tiles)
    reader = tree.reader(source)
    inclusion = prove_inclusion(HASHER, reader, subtree, index)
    consistency = prove_consistency(HASHER, reader, subtree, size)
    expected = root_hash(HASHER, ROW[subtree.start * 32 : subtree.end * 32])
    verify_inclusion(HASHER, subtree, index, ROW[index * 32 : index * 32 + 32], inclusion, expected)
    verify_consistency(HASHER, subtree, size, expected, tree.root, consistency)
    assert subtree_hash(HASHER, reader, subtree) == expected
    assert len(source.reads) <= 3


@given(st.sampled_from(SIZES), st.data())
def test_lies_are_found_before_anything_is_kept(size: int, data: st.DataObject) -> None:
    """Whichever byte of whichever tile is wrong, nothing is returned and nothing is saved."""
    tree = TREES[size]
    level = data.draw(st.integers(0, size.bit_length() - 1))
    node = Node(level, data.draw(st.integers(0, (size >> level) - 1)))
    victim = data.draw(st.sampled_from(tiles_for_nodes(size, [node])))
    at = data.draw(st.integers(0, len(tree.tiles[victim]) - 1))
    bit = 1 << data.draw(st.integers(0, 7))

    def lie(tile: Tile, content: bytes) -> bytes:
        return content[:at] + bytes((content[at] ^ bit,)) + content[at + 1 :] if tile == victim else content

    source = StrictSource(tree.tiles, lie)
    with pytest.raises(ProofError) as caught:
        tree.reader(source).read([node])
    assert caught.value.reason in {Reason.ROOT_MISMATCH, Reason.HASH_MISMATCH}
    assert source.saved == []


def _answer(victim: Tile, answer: bytes, tile: Tile, content: bytes) -> bytes:
    """Answer `answer` for the victim, the truth for all other tiles."""
    return answer if tile == victim else content


@pytest.mark.parametrize("size", [1, 257, 700, 66500])
def test_wrong_lengths_are_found(size: int) -> None:
    """A tile that is too short or too long for its width is refused, and nothing is saved."""
    tree = TREES[size]
    for victim in tiles_for_nodes(size, [Node(0, 0)]):
        content = tree.tiles[victim]
        for wrong in (content[:-1], content + b"\0", content[:-32], b""):
            source = StrictSource(tree.tiles, partial(_answer, victim, wrong))
            with pytest.raises(FormatError) as caught:
                tree.reader(source).read([Node(0, 0)])
            assert caught.value.reason == Reason.BAD_TILE
            assert source.saved == []


def test_lies_that_agree_with_each_other_are_found() -> None:
    """A whole other tree of the same size, consistent in itself, does not lead to the root."""
    other = HASHER.leaves([b"other %d" % number for number in range(66500)])
    _, tiles = build_tiles(HASHER, TileEdge(HASHER.size), other)
    tree = TREES[66500]
    with pytest.raises(ProofError) as caught:
        tree.reader(StrictSource(tiles)).read([Node(0, 0)])
    assert caught.value.reason == Reason.ROOT_MISMATCH
    # With the true partial tiles in front of it, the lie is found one level below.
    mixed = {tile: tree.tiles[tile] if not tile.is_full else content for tile, content in tiles.items()}
    with pytest.raises(ProofError) as caught:
        tree.reader(StrictSource(mixed)).read([Node(0, 0)])
    assert caught.value.reason == Reason.HASH_MISMATCH


def test_full_tile_may_answer_for_a_partial_one() -> None:
    """A source may answer a partial tile with the full tile that the log has by now; the rest is cut off, not kept."""
    padded = TREES[700].tiles[Tile(0, 1)]
    source = StrictSource(TREES[257].tiles, lambda tile, content: padded if tile == Tile(0, 1, 1) else content)
    assert TREES[257].reader(source).read([Node(0, 256)]) == TREES[257].rows.read([Node(0, 256)])
    assert source.saved[0][Tile(0, 1, 1)] == padded[:32]


@pytest.mark.parametrize("node", [Node(0, 700), Node(1, 350), Node(10, 0), Node(0, -1), Node(-1, 0), Node(500, 0)])
def test_incomplete_nodes_are_refused_before_fetching(node: Node) -> None:
    """A node that the tree does not have complete is refused without asking the source."""
    source = StrictSource(TREES[700].tiles)
    with pytest.raises(ProofError) as caught:
        TREES[700].reader(source).read([Node(0, 0), node])
    assert caught.value.reason == Reason.MISSING_HASH
    assert source.reads == []


def test_nothing_asked_costs_nothing() -> None:
    """A read without nodes does not touch the source; an empty tree has nothing to read."""
    source = StrictSource({})
    assert TileHashReader(HASHER, 0, HASHER.empty, source).read([]) == []
    with pytest.raises(ProofError):
        TileHashReader(HASHER, 0, HASHER.empty, source).read([Node(0, 0)])
    assert source.reads == []


def test_source_must_answer_every_question() -> None:
    """A source with too few or too many answers breaks its contract: a fault of ours, not a lie."""

    class Silent(StrictSource):
        """Forgets its last answer."""

        def read_tiles(self, tiles: Sequence[Tile]) -> list[bytes]:
            return super().read_tiles(tiles)[:-1]

    with pytest.raises(UsageError):
        TREES[700].reader(Silent(TREES[700].tiles)).read([Node(0, 0)])


def test_source_errors_pass() -> None:
    """What a source raises reaches the caller as it is."""

    class Broken(StrictSource):
        """Cannot answer."""

        def read_tiles(self, tiles: Sequence[Tile]) -> list[bytes]:
            raise Error(Reason.PEER, f"no {tiles[0]} today")

    with pytest.raises(Error, match="today"):
        TREES[700].reader(Broken({})).read([Node(0, 0)])


def test_verify_tiles_takes_whole_paths_only() -> None:
    """Tiles without the ones above them, or beside the tree, cannot be proven; what was not asked for is not there."""
    tree = TREES[66500]
    wanted = tiles_for_nodes(tree.size, [Node(0, 5)])
    tiles = {tile: tree.tiles[tile] for tile in wanted}
    for missing in wanted:
        if missing == Tile(0, 0):
            continue
        with pytest.raises(UsageError):
            verify_tiles(HASHER, tree.size, tree.root, {t: c for t, c in tiles.items() if t != missing})
    for stranger in (Tile(0, 5, 7), Tile(0, 260), Tile(3, 0, 1), Tile(1, 1, 4)):
        with pytest.raises(UsageError):
            verify_tiles(HASHER, tree.size, tree.root, {**tiles, stranger: bytes(stranger.width * 32)})
    proven = verify_tiles(HASHER, tree.size, tree.root, tiles)
    assert proven.read([Node(0, 5), Node(3, 0)]) == tree.rows.read([Node(0, 5), Node(3, 0)])
    for node in (Node(0, 300), Node(0, 66500), Node(0, 70000), Node(20, 0)):
        with pytest.raises(ProofError) as caught:
            proven.read([node])
        assert caught.value.reason == Reason.MISSING_HASH


def test_recorder_names_what_the_prover_needs() -> None:
    """A prover that ran on the recorder runs on the tiles of the nodes it noted, and gives a proof that verifies."""
    tree = TREES[66500]
    recorder = NodeRecorder(HASHER)
    prove_inclusion(HASHER, recorder, Subtree(0, tree.size), 12345)
    tiles = {tile: tree.tiles[tile] for tile in tiles_for_nodes(tree.size, recorder.nodes)}
    proven = verify_tiles(HASHER, tree.size, tree.root, tiles)
    proof = prove_inclusion(HASHER, proven, Subtree(0, tree.size), 12345)
    leaf = ROW[12345 * 32 : 12346 * 32]
    verify_inclusion(HASHER, Subtree(0, tree.size), 12345, leaf, proof, tree.root)


@pytest.mark.parametrize("minimum", [0, 1, 256, 300, 65536, 66000])
def test_pruned_log_still_proves_what_it_must(minimum: int) -> None:
    """From a pruned log come the entries from its minimum index on, their inclusion, and consistency of later trees."""
    size = 66500
    tree = TREES[size]
    kept = {tile: tree.tiles[tile] for tile in tiles_for_growth(0, size) if not is_prunable(tile, minimum)}
    reader = tree.reader(StrictSource(kept))
    for index in {minimum, min(minimum + 1, size - 1), (minimum + size) // 2, size - 1}:
        proof = prove_inclusion(HASHER, reader, Subtree(0, size), index)
        verify_inclusion(HASHER, Subtree(0, size), index, ROW[index * 32 : index * 32 + 32], proof, tree.root)
    for old in {max(minimum, 1), minimum + 1, (minimum + size) // 2, size}:
        old_root = subtree_hash(HASHER, reader, Subtree(0, old))
        assert old_root == root_hash(HASHER, ROW[: old * 32])
        proof = prove_consistency(HASHER, reader, Subtree(0, old), size)
        verify_consistency(HASHER, Subtree(0, old), size, old_root, tree.root, proof)
