"""Tiles: paths, bundles, growth, pruning. What proves them is in test_tile_reader.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtc.errors import FormatError, ProofError, Reason, UsageError
from mtc.kernel import Kernel
from mtc.merkle import Frontier, Node, RowReader, root_hash
from mtc.tiles import (
    MAX_BUNDLE_BYTES,
    MAX_ENTRY_BYTES,
    MAX_TILE_INDEX,
    TILE_WIDTH,
    EntriesTile,
    EntryBundle,
    Tile,
    TileEdge,
    build_bundles,
    build_tiles,
    bundles_for_growth,
    is_in_tree,
    is_prunable,
    is_superseded,
    parse_tile_path,
    partial_tiles,
    tile_of,
    tile_path,
    tiles_for_growth,
    verify_edge,
    width_in_tree,
)

INDICES = st.one_of(st.integers(0, 1100), st.integers(0, MAX_TILE_INDEX))
WIDTHS = st.integers(1, TILE_WIDTH)
TILES = st.builds(Tile, st.integers(0, 63), INDICES, WIDTHS) | st.builds(EntriesTile, INDICES, WIDTHS)


@pytest.mark.parametrize(
    ("tile", "path"),
    [
        # Provenance: the two indices of C2SP tlog-tiles, "Merkle Tree"; the rest follows from its grammar.
        (Tile(0, 1234067), "tile/0/x001/x234/067"),
        (Tile(2, 5), "tile/2/005"),
        (Tile(63, 0, 1), "tile/63/000.p/1"),
        (Tile(0, 999, 255), "tile/0/999.p/255"),
        (Tile(0, 1000), "tile/0/x001/000"),
        (Tile(9, MAX_TILE_INDEX), "tile/9/x072/x057/x594/x037/x927/935"),
        (EntriesTile(0), "tile/entries/000"),
        (EntriesTile(1234067, 112), "tile/entries/x001/x234/067.p/112"),
    ],
)
def test_path_of_tile(tile: Tile | EntriesTile, path: str) -> None:
    """A tile or bundle has one path, and the path names it."""
    assert tile_path(tile) == str(tile) == tile.path == path
    assert parse_tile_path(path) == tile


@given(TILES)
def test_path_round_trips(tile: Tile | EntriesTile) -> None:
    """Every tile is read back from its path."""
    assert parse_tile_path(tile.path) == tile


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile",
        "tile/0",
        "tile/0/",
        "/tile/0/000",
        "tile/0/000/",
        "tile/0/000\n",
        "tile/00/000",
        "tile/01/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/+1/000",
        "tile/data/000",
        "tile/Entries/000",
        "tile/0/0",
        "tile/0/00",
        "tile/0/0000",
        "tile/0/x000/001",
        "tile/0/x001",
        "tile/0/001/002",
        "tile/0/x001/x002",
        "tile/0/x01/002",
        "tile/0/X001/002",
        "tile/0/x072/x057/x594/x037/x927/936",
        "tile/0/x001/x000/x000/x000/x000/x000/000",
        "tile/0/000.p/0",
        "tile/0/000.p/00",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p/999",
        "tile/0/000.p/",
        "tile/0/000.p",
        "tile/0/000.p/1/",
        "tile/0/000.p/1.p/1",
        "tile/0/٠٠٠",  # noqa: RUF001 - digits that are not ASCII
        "tile/0/000.p/١",  # noqa: RUF001 - the same
        "tile/entries/000.p/256",
        "tile/entries/x000/000",
        "tile/0//000",
        "tile//000",
        "tile/8/../000",
    ],
)
def test_other_paths_are_refused(path: str) -> None:
    """A path that is not the one of a tile is refused: leading zeros, wrong groups, widths 0 and 256, a tail."""
    with pytest.raises(FormatError) as caught:
        parse_tile_path(path)
    assert caught.value.reason == Reason.BAD_TILE


@given(TILES, st.data())
def test_mutated_paths_are_refused_or_name_another_tile(tile: Tile | EntriesTile, data: st.DataObject) -> None:
    """A path with a character changed or cut off never names the same tile, and what it names writes it."""
    path = tile.path
    at = data.draw(st.integers(0, len(path) - 1))
    changed = data.draw(st.sampled_from([path[:at], path[:at] + data.draw(st.characters()) + path[at + 1 :]]))
    if changed == path:
        return
    try:
        other = parse_tile_path(changed)
    except FormatError:
        return
    assert other.path == changed
    assert other != tile


@pytest.mark.parametrize(
    ("level", "index", "width"),
    [(-1, 0, 1), (64, 0, 1), (0, -1, 1), (0, MAX_TILE_INDEX + 1, 1), (0, 0, 0), (0, 0, 257), (0, 0, -1)],
)
def test_tile_is_valid_once_built(level: int, index: int, width: int) -> None:
    """No tile has a level above 63, a negative index, or a width of 0 or more than 256."""
    with pytest.raises(FormatError) as caught:
        Tile(level, index, width)
    assert caught.value.reason == Reason.BAD_TILE
    if level == 0:
        with pytest.raises(FormatError):
            EntriesTile(index, width)


def test_tile_spans_entries() -> None:
    """A tile spans 256^(level + 1) entries, and so does its index range when it is partial."""
    assert (Tile(0, 3).start, Tile(0, 3).end) == (768, 1024)
    assert (Tile(1, 1, 5).start, Tile(1, 1, 5).end) == (65536, 131072)
    assert (EntriesTile(3, 1).start, EntriesTile(3, 1).end) == (768, 1024)
    assert Tile(1, 1, 5).full == Tile(1, 1)
    assert EntriesTile(3, 1).full == EntriesTile(3)
    assert Tile(0, 259).parent == (Tile(1, 1), 3)


@pytest.mark.parametrize(
    ("node", "expected"),
    [
        (Node(0, 0), (Tile(0, 0), 0, 1)),
        (Node(0, 257), (Tile(0, 1), 1, 2)),
        (Node(7, 3), (Tile(0, 1), 128, 256)),
        (Node(8, 3), (Tile(1, 0), 3, 4)),
        (Node(9, 128), (Tile(1, 1), 0, 2)),
    ],
)
def test_node_stands_in_one_tile(node: Node, expected: tuple[Tile, int, int]) -> None:
    """A node on a multiple of 8 levels is a hash of a tile, any other joins up to 128 hashes of one tile."""
    assert tile_of(node) == expected


class TestBundles:
    """Entry bundles."""

    @given(st.lists(st.binary(max_size=40), min_size=1, max_size=TILE_WIDTH))
    def test_round_trip(self, entries: list[bytes]) -> None:
        """A bundle is read back from its bytes, empty entries included."""
        bundle = EntryBundle(tuple(entries))
        assert EntryBundle.parse(bundle.encode()) == bundle
        assert EntryBundle.parse(bundle.encode(), len(entries)) == bundle

    def test_layout(self) -> None:
        """Each entry stands behind its length in two big-endian bytes."""
        assert EntryBundle((b"abc", b"", b"\x00" * 300)).encode() == b"\0\3abc\0\0\x01\x2c" + b"\0" * 300

    @pytest.mark.parametrize("width", [1, 3, 4, 256])
    def test_width_is_part_of_the_question(self, width: int) -> None:
        """A bundle with another number of entries than its place has is refused."""
        with pytest.raises(FormatError) as caught:
            EntryBundle.parse(EntryBundle((b"a", b"b")).encode(), width)
        assert caught.value.reason == Reason.BAD_TILE

    def test_every_truncation(self) -> None:
        """A bundle cut off anywhere is refused, or at the end of an entry holds fewer entries."""
        entries = (b"one", b"", b"three", bytes(260))
        data = EntryBundle(entries).encode()
        ends = {len(EntryBundle(entries[:count]).encode()): count for count in (1, 2, 3)}
        for cut in range(len(data)):
            if cut in ends:
                assert EntryBundle.parse(data[:cut]).entries == entries[: ends[cut]]
            with pytest.raises(FormatError) as caught:
                EntryBundle.parse(data[:cut], 4)
            assert caught.value.reason == (Reason.BAD_TILE if cut in ends or cut == 0 else Reason.TRUNCATED)

    def test_trailing_data(self) -> None:
        """Bytes behind entry 256 are refused, and so is half a length."""
        data = EntryBundle((b"x",) * TILE_WIDTH).encode()
        for tail in (b"\0", b"\0\0", b"\0\1x"):
            with pytest.raises(FormatError) as caught:
                EntryBundle.parse(data + tail)
            assert caught.value.reason == Reason.TRAILING_DATA

    def test_limits(self) -> None:
        """A bundle holds 1 to 256 entries of at most 65,535 bytes: little more than 16 MiB."""
        largest = EntryBundle((bytes(MAX_ENTRY_BYTES),) * TILE_WIDTH)
        data = largest.encode()
        assert len(data) == MAX_BUNDLE_BYTES == (1 << 24) + 256
        assert EntryBundle.parse(data) == largest
        for entries, reason in [
            ((), Reason.BAD_TILE),
            ((b"",) * 257, Reason.BAD_TILE),
            ((bytes(MAX_ENTRY_BYTES + 1),), Reason.TOO_LARGE),
        ]:
            with pytest.raises(FormatError) as caught:
                EntryBundle(entries)
            assert caught.value.reason == reason
        with pytest.raises(FormatError) as caught:
            EntryBundle.parse(data + b"\0")
        assert caught.value.reason == Reason.TOO_LARGE

    @pytest.mark.parametrize("old", [0, 1, 255, 256, 257, 511, 512])
    @pytest.mark.parametrize("added", [0, 1, 255, 256, 257, 700])
    def test_growth(self, old: int, added: int) -> None:
        """Appending writes each bundle that got entries; together with the old ones they hold every entry in order."""
        entries = [b"%d" % number for number in range(old + added)]
        held = old % TILE_WIDTH
        partial = EntryBundle(tuple(entries[old - held : old])).encode() if held else b""
        bundles = build_bundles(old, partial, entries[old:])
        assert list(bundles) == bundles_for_growth(old, old + added)
        for place, data in bundles.items():
            assert EntryBundle.parse(data, place.width).entries == tuple(
                entries[place.start : place.start + place.width]
            )

    def test_partial_must_fit(self) -> None:
        """The old last bundle must hold exactly the entries behind the last full one."""
        for size, partial in [(1, b""), (256, b"\0\0"), (2, b"\0\0"), (1, b"\0\0\0\0")]:
            with pytest.raises(UsageError):
                build_bundles(size, partial, [b"x"])


def _model(size: int) -> dict[Tile, tuple[tuple[int, int], ...]]:
    """Return all tiles of a tree with the entry interval of each hash, straight from the definition."""
    tiles = {}
    level = 0
    while 256**level <= size:
        step = 256**level
        hashes = [(at, at + step) for at in range(0, size - step + 1, step)]
        for index in range(0, len(hashes), 256):
            chunk = tuple(hashes[index : index + 256])
            tiles[Tile(level, index // 256, len(chunk))] = chunk
        level += 1
    return tiles


class TestGrowth:
    """Which tiles a tree has and a growth writes."""

    @pytest.mark.parametrize(
        ("size", "expected"),
        [
            # Provenance: the sizes that C2SP tlog-tiles, "Partial Tiles", spells out.
            (70000, {0: (273, 112), 1: (1, 17), 2: (0, 1)}),
            (256, {0: (1, 0), 1: (0, 1)}),
        ],
    )
    def test_published_sizes(self, size: int, expected: dict[int, tuple[int, int]]) -> None:
        """A tree has the full and partial tiles that the specification counts."""
        found: dict[int, tuple[int, int]] = {}
        for tile in tiles_for_growth(0, size):
            full, width = found.get(tile.level, (0, 0))
            found[tile.level] = (full + 1, width) if tile.is_full else (full, tile.width)
        assert found == expected

    def test_against_the_definition(self) -> None:
        """For all sizes up to 520 a growth writes exactly the tiles that the new tree has and the old one had not."""
        models = [_model(size) for size in range(521)]
        for old in range(521):
            for new in range(old, 521, 1 if old % 128 in (0, 1, 127) else 23):
                written = tiles_for_growth(old, new)
                assert set(written) == models[new].keys() - models[old].keys()
                assert written == sorted(set(written))
                assert [(tile.index, tile.width) for tile in written if tile.level == 0] == [
                    (tile.index, tile.width) for tile in bundles_for_growth(old, new)
                ]

    @pytest.mark.parametrize("size", [65535, 65536, 65537, 65536 * 2 + 300])
    def test_against_the_definition_on_two_levels(self, size: int) -> None:
        """The same holds where level 1 becomes full."""
        new = _model(size)
        assert tiles_for_growth(0, size) == list(new)
        for added in (1, 2, 256, 300):
            assert set(tiles_for_growth(size - added, size)) == new.keys() - _model(size - added).keys()

    def test_partial_tiles_are_those_of_the_tree(self) -> None:
        """The partial tiles of a size are the partial ones among all its tiles, and answer for its width."""
        for size in [*range(600), 65535, 65536, 65537, 70000]:
            tiles = tiles_for_growth(0, size)
            assert partial_tiles(size) == [tile for tile in tiles if not tile.is_full]
            assert all(is_in_tree(tile, size) for tile in tiles)

    def test_width_in_tree(self) -> None:
        """A place holds what the tree has there: nothing, some hashes, or 256."""
        assert [width_in_tree(Tile(0, index), 70000) for index in (272, 273, 274)] == [256, 112, 0]
        assert [width_in_tree(EntriesTile(index), 70000) for index in (272, 273, 274)] == [256, 112, 0]
        assert [width_in_tree(Tile(level, 0), 70000) for level in (1, 2, 3)] == [256, 1, 0]
        assert not is_in_tree(Tile(0, 273, 111), 70000)
        assert not is_in_tree(Tile(0, 273), 70000)

    def test_growth_runs_forward(self) -> None:
        """A tree cannot shrink."""
        for plan in (tiles_for_growth, bundles_for_growth):
            for old, new in [(2, 1), (-1, 1)]:
                with pytest.raises(UsageError):
                    plan(old, new)


class TestPruning:
    """What a log may refuse."""

    def test_predicate_is_the_rule(self) -> None:
        """A full tile or bundle may be refused when its end is at or below the minimum index; a partial one never."""
        for minimum in (0, 1, 255, 256, 257, 512, 65535, 65536, 70000):
            for tile in tiles_for_growth(0, 70000):
                assert is_prunable(tile, minimum) == (tile.is_full and tile.end <= minimum)
            for bundle in bundles_for_growth(0, 70000):
                assert is_prunable(bundle, minimum) == (bundle.is_full and bundle.end <= minimum)

    def test_nothing_of_an_unpruned_log(self) -> None:
        """With minimum index 0 nothing may be refused."""
        assert not any(is_prunable(tile, 0) for tile in tiles_for_growth(0, 70000))

    def test_superseded(self) -> None:
        """A partial tile may go as soon as the full one is there."""
        assert is_superseded(Tile(0, 0, 5), 256)
        assert is_superseded(EntriesTile(0, 5), 256)
        assert not is_superseded(Tile(0, 0, 5), 255)
        assert not is_superseded(Tile(0, 0), 256)


@pytest.fixture(params=["sha256", "sm3"])
def hash_name(request: pytest.FixtureRequest) -> str:
    """Return each tree hash in turn."""
    return str(request.param)


def _row(kernel: Kernel, hash_name: str, size: int) -> bytes:
    """Return the leaf hashes of `size` different entries."""
    return kernel.hasher(hash_name).leaves([b"entry %d" % number for number in range(size)])


class TestContents:
    """What stands in the tiles."""

    def test_tiles_hold_the_hashes_of_their_entries(self, kernel: Kernel, hash_name: str) -> None:
        """Whatever the steps of growth, each tile holds the hashes of the intervals that the definition names."""
        hasher = kernel.hasher(hash_name)
        row = _row(kernel, hash_name, 66500)
        reader = RowReader(hasher, row)
        for steps in ([66500], [1, 254, 1, 1, 255, 256, 64768, 5, 959], [300, 300, 65000, 900]):
            edge, tiles, size = TileEdge(hasher.size), {}, 0
            for step in steps:
                edge, written = build_tiles(hasher, edge, row[size * hasher.size : (size + step) * hasher.size])
                assert list(written) == tiles_for_growth(size, size + step)
                tiles.update(written)
                size += step
                assert edge == verify_edge(
                    hasher, size, [tiles[tile] for tile in partial_tiles(size)], edge.root(hasher)
                )
            assert edge.root(hasher) == root_hash(hasher, row)
            for tile, content in tiles.items():
                nodes = [Node(tile.level * 8, tile.index * 256 + position) for position in range(tile.width)]
                assert content == b"".join(reader.read(nodes))

    def test_edge_is_the_frontier(self, kernel: Kernel, hash_name: str) -> None:
        """For all sizes up to 600 the edge names the same frontier and root as appending leaf by leaf."""
        hasher = kernel.hasher(hash_name)
        row = _row(kernel, hash_name, 600)
        edge, frontier = TileEdge(hasher.size), Frontier()
        assert edge.root(hasher) == hasher.empty
        for size in range(600):
            leaf = row[size * hasher.size : (size + 1) * hasher.size]
            edge, _ = build_tiles(hasher, edge, leaf)
            frontier = frontier.extended(hasher, leaf)
            assert edge.frontier(hasher) == frontier
        assert build_tiles(hasher, edge, b"") == (edge, {})

    def test_lying_partial_tiles_are_found(self, kernel: Kernel) -> None:
        """An edge is made only of partial tiles that lead to the root; any changed byte is found."""
        hasher = kernel.hasher("sha256")
        row = _row(kernel, "sha256", 700)
        edge, tiles = build_tiles(hasher, TileEdge(hasher.size), row)
        root = edge.root(hasher)
        contents = [tiles[tile] for tile in partial_tiles(700)]
        assert verify_edge(hasher, 700, contents, root) == edge
        for position, content in enumerate(contents):
            for at in range(0, len(content), 31):
                bad = bytearray(content)
                bad[at] ^= 1
                with pytest.raises(ProofError) as caught:
                    verify_edge(hasher, 700, [*contents[:position], bytes(bad), *contents[position + 1 :]], root)
                assert caught.value.reason == Reason.ROOT_MISMATCH
            with pytest.raises(FormatError) as wrong:
                verify_edge(hasher, 700, [*contents[:position], content[:-1], *contents[position + 1 :]], root)
            assert wrong.value.reason == Reason.BAD_TILE
        with pytest.raises(UsageError):
            verify_edge(hasher, 700, contents[:-1], root)

    def test_edge_is_valid_once_built(self) -> None:
        """An edge holds exactly the hashes that its size leaves in partial tiles."""
        for size, rows in [(-1, ()), (0, (b"",)), (1, ()), (1, (bytes(31),)), (256, (b"",)), (256, (bytes(32), b""))]:
            with pytest.raises(FormatError) as caught:
                TileEdge(32, size, rows)
            assert caught.value.reason == Reason.BAD_TILE
        assert TileEdge(32, 256, (b"", bytes(32))).tree_size == 256

    def test_row_holds_whole_hashes(self, kernel: Kernel) -> None:
        """A row with half a hash, or an edge of another hash size, is our caller's fault."""
        hasher = kernel.hasher("sha256")
        for edge, row in [(TileEdge(32), bytes(33)), (TileEdge(48), bytes(96))]:
            with pytest.raises(UsageError):
                build_tiles(hasher, edge, row)
