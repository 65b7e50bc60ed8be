"""Which tiles a tree has, which a growth must write, what they hold, and which may go.

Spec: C2SP tlog-tiles, "Merkle Tree", "Partial Tiles" and "Pruning".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mtc.errors import FormatError, ProofError, Reason, UsageError
from mtc.merkle import Frontier, Hasher, root_hash
from mtc.tiles.tile import TILE_HEIGHT, TILE_WIDTH, EntriesTile, Tile


def tiles_for_growth(old_size: int, new_size: int) -> list[Tile]:
    """Return the tiles, full and partial, that must be written when a tree grows: by level, then from left to right.

    old_size, new_size: entries before and after, 0 <= old_size <= new_size; from 0 it is all tiles of a tree. A tile is
    there when hashes were added to it. The bundles of `bundles_for_growth` are those of level 0.
    """
    if not 0 <= old_size <= new_size:
        raise UsageError(Reason.USAGE, f"a tree does not grow from {old_size} to {new_size} entries")
    tiles: list[Tile] = []
    level = 0
    while old_size < new_size:
        full = new_size >> TILE_HEIGHT
        tiles.extend(Tile(level, index) for index in range(old_size >> TILE_HEIGHT, full))
        if width := new_size % TILE_WIDTH:
            tiles.append(Tile(level, full, width))
        old_size >>= TILE_HEIGHT
        new_size >>= TILE_HEIGHT
        level += 1
    return tiles


def bundles_for_growth(old_size: int, new_size: int) -> list[EntriesTile]:
    """Return the entry bundles, full and partial, that must be written when a log grows, from left to right."""
    if not 0 <= old_size <= new_size:
        raise UsageError(Reason.USAGE, f"a log does not grow from {old_size} to {new_size} entries")
    return [
        EntriesTile(index, min(TILE_WIDTH, new_size - (index << TILE_HEIGHT)))
        for index in range(old_size >> TILE_HEIGHT, new_size + TILE_WIDTH - 1 >> TILE_HEIGHT)
        if old_size < new_size
    ]


def partial_tiles(tree_size: int) -> list[Tile]:
    """Return the partial tiles of a tree, lowest level first: at most one per level. Together they hold its root."""
    tiles = []
    level, count = 0, tree_size
    while count > 0:
        if width := count % TILE_WIDTH:
            tiles.append(Tile(level, count >> TILE_HEIGHT, width))
        level, count = level + 1, count >> TILE_HEIGHT
    return tiles


def width_in_tree(tile: Tile | EntriesTile, tree_size: int) -> int:
    """Return how many hashes or entries of a tree stand in the place of `tile`: 0 to 256."""
    count = tree_size >> TILE_HEIGHT * tile.level if isinstance(tile, Tile) else tree_size
    return min(max(count - (tile.index << TILE_HEIGHT), 0), TILE_WIDTH)


def is_in_tree(tile: Tile | EntriesTile, tree_size: int) -> bool:
    """Tell whether a tree of exactly `tree_size` entries has this tile or bundle, with this width.

    Clients may ask for a partial tile only when it is in the tree of a checkpoint that they verified.
    """
    return width_in_tree(tile, tree_size) == tile.width


def is_superseded(tile: Tile | EntriesTile, tree_size: int) -> bool:
    """Tell whether a partial tile or bundle may be deleted, because the tree already has the full one."""
    return not tile.is_full and is_in_tree(tile.full, tree_size)


def is_prunable(tile: Tile | EntriesTile, minimum_index: int) -> bool:
    """Tell whether a log with this minimum index may refuse the tile or bundle: full, and it ends at or below it.

    minimum_index: lower bound of the entries that the log publishes; 0 in an unpruned log.
    """
    return tile.is_full and tile.end <= minimum_index


def prunable_tiles(before: int, minimum_index: int) -> Iterator[Tile | EntriesTile]:
    """Yield the full tiles and bundles that end above `before` and at or below `minimum_index`.

    Those that end at or below `before`, the minimum index until now, went earlier.
    """
    level = 0
    while minimum_index >> TILE_HEIGHT * (level + 1):
        shift = TILE_HEIGHT * (level + 1)
        for index in range(before >> shift, minimum_index >> shift):
            if not level:
                yield EntriesTile(index)
            yield Tile(level, index)
        level += 1


@dataclass(frozen=True, slots=True)
class TileEdge:
    """What a log must remember to append: its partial tiles.

    rows: per tile level from 0 upwards the hashes of the partial tile, empty where the level ends with a full one; as
    many levels as the tree has hashes on. Raises FormatError (BAD_TILE) when they do not fit the size.
    """

    hash_size: int
    tree_size: int = 0
    rows: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        """Refuse rows that a tree of this size cannot have."""
        levels = max(self.tree_size.bit_length() + TILE_HEIGHT - 1, 0) // TILE_HEIGHT
        widths = [(self.tree_size >> TILE_HEIGHT * level) % TILE_WIDTH for level in range(levels)]
        if self.tree_size < 0 or [len(row) for row in self.rows] != [width * self.hash_size for width in widths]:
            raise FormatError(
                Reason.BAD_TILE,
                f"the partial tiles of {self.tree_size} entries hold {widths} hashes of {self.hash_size} bytes, "
                f"not {[len(row) for row in self.rows]} bytes",
                tree_size=self.tree_size,
            )

    def frontier(self, hasher: Hasher) -> Frontier:
        """Return the growing edge that `merkle` works with."""
        hashes: list[bytes] = []
        for row in reversed(self.rows):
            at, left = 0, len(row) // hasher.size
            while left:
                chunk = (1 << left.bit_length() - 1) * hasher.size
                hashes.append(root_hash(hasher, row[at : at + chunk]))
                at, left = at + chunk, left - chunk // hasher.size
        return Frontier(self.tree_size, tuple(hashes))

    def root(self, hasher: Hasher) -> bytes:
        """Return the root hash of the tree."""
        return self.frontier(hasher).root(hasher)


def verify_edge(hasher: Hasher, tree_size: int, contents: Sequence[bytes], root: bytes) -> TileEdge:
    """Return the edge that the contents of `partial_tiles(tree_size)`, in this order, make, proven against `root`.

    Raises FormatError (BAD_TILE) when a content has another length, ProofError (ROOT_MISMATCH).
    """
    tiles = partial_tiles(tree_size)
    if len(tiles) != len(contents):
        raise UsageError(Reason.USAGE, f"a tree of {tree_size} entries has {len(tiles)} partial tiles")
    rows = dict(zip((tile.level for tile in tiles), contents, strict=True))
    edge = TileEdge(hasher.size, tree_size, tuple(rows.get(level, b"") for level in range(max(rows, default=-1) + 1)))
    got = edge.root(hasher)
    if got != root:
        raise ProofError(
            Reason.ROOT_MISMATCH,
            f"the partial tiles of {tree_size} entries lead to another root hash",
            expected=root.hex(),
            got=got.hex(),
        )
    return edge


def build_tiles(hasher: Hasher, edge: TileEdge, row: bytes) -> tuple[TileEdge, dict[Tile, bytes]]:
    """Append a row of leaf hashes; return the new edge and the content of each tile of `tiles_for_growth`, in order.

    Costs one call of `fold` per tree level, whatever the number of tiles. Raises UsageError when the row does not hold
    whole hashes, or the edge is of another hash size.
    """
    size = hasher.size
    if len(row) % size or edge.hash_size != size:
        raise UsageError(Reason.USAGE, f"a row of {len(row)} bytes and an edge do not hold hashes of {size} bytes")
    new_size = edge.tree_size + len(row) // size
    tiles: dict[Tile, bytes] = {}
    rows: list[bytes] = []
    level = 0
    full_bytes = TILE_WIDTH * size
    while row or level < len(edge.rows):
        old = edge.rows[level] if level < len(edge.rows) else b""
        index = edge.tree_size >> TILE_HEIGHT * (level + 1)
        held = old + row
        cut = len(held) - len(held) % full_bytes
        for at in range(0, cut, full_bytes):
            tiles[Tile(level, index)] = held[at : at + full_bytes]
            index += 1
        rest = held[cut:]
        if rest and row:
            tiles[Tile(level, index, len(rest) // size)] = rest
        rows.append(rest)
        row = held[:cut]
        for _ in range(TILE_HEIGHT):
            row = hasher.fold(row)
        level += 1
    return TileEdge(size, new_size, tuple(rows)), tiles
