"""Which of two files is damaged, and how a tree grows from the hashes of its tiles. Pure.

Tiles hold hashes that follow from the entries, so most bytes of a log are there twice. Where they contradict each
other, the hash one level up decides; at the right edge, where nothing is above, the root does.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mtc.merkle import Hasher
from mtc.tiles import TILE_HEIGHT, TILE_WIDTH, Tile, TileEdge


@dataclass(frozen=True, slots=True)
class Verdict:
    """What stands in a place of the tree. content: what is believed, None when nothing is.

    is_built_wrong: what was built from below is not what the tree has. is_served_wrong: the file is not.
    """

    content: bytes | None
    is_built_wrong: bool = False
    is_served_wrong: bool = False


def fold_tiles(hasher: Hasher, contents: bytes) -> bytes:
    """Return the row of hashes that full tiles, one behind the other, lead to."""
    for _ in range(TILE_HEIGHT):
        contents = hasher.fold(contents)
    return contents


def judge(hasher: Hasher, built: bytes | None, served: bytes | None, above: bytes | None) -> Verdict:
    """Decide about a full tile that is not served as it was built. None: there is nothing, or nothing usable.

    built: from what lies below. above: its hash as the tile above says.
    """
    if built is not None and above is not None and fold_tiles(hasher, built) == above:
        return Verdict(built, is_served_wrong=True)
    if served is not None and above is not None and fold_tiles(hasher, served) == above:
        return Verdict(served, is_built_wrong=True)
    content = built if built is not None else served
    # Without a second opinion, what is there alone is not accused.
    is_alone = above is None and (built is None or served is None)
    return Verdict(content, is_built_wrong=not is_alone, is_served_wrong=not is_alone)


def judge_edge(
    hasher: Hasher, tree_size: int, built: Sequence[bytes | None], served: Sequence[bytes | None], root: bytes
) -> tuple[TileEdge, bool]:
    """Return the partial tiles that lead to the root, and whether any do.

    built, served: by level, None where there is nothing usable; empty rows where the tree has no partial tile.
    """
    choices = [
        [row for row in dict.fromkeys(pair) if row is not None]
        or [bytes((tree_size >> TILE_HEIGHT * level) % TILE_WIDTH * hasher.size)]
        for level, pair in enumerate(zip(built, served, strict=True))
    ]
    # At most two for each of six levels.
    for rows in itertools.product(*choices):
        edge = TileEdge(hasher.size, tree_size, rows)
        if edge.root(hasher) == root:
            return edge, True
    return TileEdge(hasher.size, tree_size, tuple(rows[0] for rows in choices)), False


def first_difference(one: bytes, other: bytes) -> int:
    """Return the first offset at which two strings differ; the length of the shorter one when it begins the other."""
    if one[: len(other)] == other[: len(one)]:
        return min(len(one), len(other))
    return next(at for at, (left, right) in enumerate(zip(one, other, strict=False)) if left != right)


class TreeGrower:
    """A tree that grows by the hashes of full level-0 tiles, from left to right.

    rows: by level from 1 upwards, the hashes that are not yet a full tile.
    """

    def __init__(self, hasher: Hasher, tiles: int, rows: Sequence[bytes]) -> None:
        """Begin behind `tiles` level-0 tiles; rows: what levels 1, 2, … then hold in their last tile."""
        self._size = hasher.size
        self.rows = [bytearray(row) for row in rows]
        self._counts = [tiles >> TILE_HEIGHT * level for level in range(len(rows) + 1)]

    def append(self, level: int, value: bytes) -> tuple[Tile, bytes] | None:
        """Add the hash of the next full tile on `level`; return the tile above when it is full now.

        Its hash, once it is decided what it holds, is for the caller to append on the level above.
        """
        if level == len(self.rows):
            self.rows.append(bytearray())
            self._counts.append(0)
        row = self.rows[level]
        row += value
        if len(row) < TILE_WIDTH * self._size:
            return None
        tile = Tile(level + 1, self._counts[level + 1])
        self._counts[level + 1] += 1
        self.rows[level] = bytearray()
        return tile, bytes(row)

    def edge_rows(self, levels: int) -> Iterator[bytes]:
        """Yield the rows of levels 1 to `levels` - 1."""
        for level in range(1, levels):
            yield bytes(self.rows[level - 1]) if level <= len(self.rows) else b""
