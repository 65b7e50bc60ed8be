"""Where tiles and entry bundles stand, which entries they span, and what their paths are.

Spec: C2SP tlog-tiles, "Merkle Tree", "Partial Tiles" and "Log entries".
"""

import re
from dataclasses import dataclass

from mtc.errors import FormatError, Reason
from mtc.merkle import Node

TILE_HEIGHT = 8
"""Levels of the tree that one tile spans."""
TILE_WIDTH = 1 << TILE_HEIGHT
"""Hashes in a full tile, and entries in a full bundle."""
MAX_TILE_LEVEL = 63
"""Highest tile level that a path may name."""
MAX_TILE_INDEX = 2**56 - 1
"""Last tile of a tree of 2^64 entries, more than any integer of the formats around can count."""

_PATH = re.compile(r"tile/(entries|0|[1-9][0-9]?)/((?:x[0-9]{3}/){0,5}[0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?", re.ASCII)


@dataclass(frozen=True, slots=True, order=True)
class Tile:
    """Consecutive hashes of one level: hash i is the root over 256^level entries from (index * 256 + i) * 256^level.

    level: 0 to 63, counted in tiles (8 tree levels each). index: zero-based within the level, 0 to `MAX_TILE_INDEX`.
    width: number of hashes, 1 to 256; below 256 the tile is partial. Raises FormatError (BAD_TILE).
    """

    level: int
    index: int
    width: int = TILE_WIDTH

    def __post_init__(self) -> None:
        """Refuse a tile that no tree can have."""
        if not 0 <= self.level <= MAX_TILE_LEVEL:
            raise FormatError(
                Reason.BAD_TILE, f"{self.level} is no tile level; they run from 0 to {MAX_TILE_LEVEL}", got=self.level
            )
        _check_place(self.index, self.width)

    @property
    def is_full(self) -> bool:
        """True when the tile holds 256 hashes."""
        return self.width == TILE_WIDTH

    @property
    def full(self) -> "Tile":
        """The full tile in the same place; clients may ask for it beside a partial one that may be gone."""
        return Tile(self.level, self.index)

    @property
    def start(self) -> int:
        """Index of the first entry that the full tile spans."""
        return self.index << TILE_HEIGHT * (self.level + 1)

    @property
    def end(self) -> int:
        """Index behind the last entry that the full tile spans."""
        return self.index + 1 << TILE_HEIGHT * (self.level + 1)

    @property
    def parent(self) -> tuple["Tile", int]:
        """The full tile one level up, and the position in it of this tile's hash."""
        return Tile(self.level + 1, self.index >> TILE_HEIGHT), self.index & TILE_WIDTH - 1

    @property
    def path(self) -> str:
        """The path below the log's prefix, for example `tile/0/x001/x234/067.p/8`."""
        return f"tile/{self.level}/{_place_text(self.index, self.width)}"

    def __str__(self) -> str:
        """Return the path."""
        return self.path


@dataclass(frozen=True, slots=True, order=True)
class EntriesTile:
    """Where an entry bundle stands: index and width are those of the level-0 tile with the hashes of its entries.

    index: 0 to `MAX_TILE_INDEX`. width: number of entries, 1 to 256. Raises FormatError (BAD_TILE).
    """

    index: int
    width: int = TILE_WIDTH

    def __post_init__(self) -> None:
        """Refuse a bundle that no log can have."""
        _check_place(self.index, self.width)

    @property
    def is_full(self) -> bool:
        """True when the bundle holds 256 entries."""
        return self.width == TILE_WIDTH

    @property
    def full(self) -> "EntriesTile":
        """The full bundle in the same place."""
        return EntriesTile(self.index)

    @property
    def start(self) -> int:
        """Index of the first entry."""
        return self.index << TILE_HEIGHT

    @property
    def end(self) -> int:
        """Index behind the last entry of the full bundle."""
        return self.index + 1 << TILE_HEIGHT

    @property
    def path(self) -> str:
        """The path below the log's prefix, for example `tile/entries/005`."""
        return f"tile/entries/{_place_text(self.index, self.width)}"

    def __str__(self) -> str:
        """Return the path."""
        return self.path


def tile_path(tile: Tile | EntriesTile) -> str:
    """Return the path of a tile or an entry bundle below the log's prefix; `parse_tile_path` reads it."""
    return tile.path


def parse_tile_path(path: str) -> Tile | EntriesTile:
    """Read the path of a tile or an entry bundle, exactly as `tile_path` writes it.

    Raises FormatError (BAD_TILE): each tile has one path, so that caches and stores hold it once.
    """
    match = _PATH.fullmatch(path)
    if match is None:
        raise FormatError(Reason.BAD_TILE, f"{path[:80]!r} is no path of a tile or an entry bundle")
    level, place, width_text = match.groups()
    index = int(re.sub("[x/]", "", place))
    width = int(width_text or TILE_WIDTH)
    if place != _index_text(index) or (width_text and width >= TILE_WIDTH):
        raise FormatError(
            Reason.BAD_TILE, f"{path[:80]!r} has leading zeros in its tile index, or a partial width above 255"
        )
    return EntriesTile(index, width) if level == "entries" else Tile(int(level), index, width)


def tile_of(node: Node) -> tuple[Tile, int, int]:
    """Return where a complete subtree stands: a full tile, and which of its hashes [start, end) the subtree joins.

    Levels that are no multiple of 8 are not stored; their hashes follow from those of the tile.
    """
    level, height = divmod(node.level, TILE_HEIGHT)
    first = node.index << height
    start = first & TILE_WIDTH - 1
    return Tile(level, first >> TILE_HEIGHT), start, start + (1 << height)


def _check_place(index: int, width: int) -> None:
    """Refuse an index or a width that neither a tile nor a bundle can have."""
    if not 0 <= index <= MAX_TILE_INDEX:
        raise FormatError(Reason.BAD_TILE, f"{index} is no tile index; they run from 0 to 2^56 - 1", got=index)
    if not 1 <= width <= TILE_WIDTH:
        raise FormatError(Reason.BAD_TILE, f"{width} is no tile width; they run from 1 to {TILE_WIDTH}", got=width)


def _index_text(index: int) -> str:
    """Return an index in groups of three digits, all but the last behind an `x`."""
    text = f"{index % 1000:03d}"
    while index := index // 1000:
        text = f"x{index % 1000:03d}/{text}"
    return text


def _place_text(index: int, width: int) -> str:
    """Return the part of a path that index and width make."""
    return _index_text(index) if width == TILE_WIDTH else f"{_index_text(index)}.p/{width}"
