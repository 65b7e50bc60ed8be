"""Tiles: how a log serves its tree and its entries as static files, 256 hashes or entries at a time.

Hash-size neutral: the hasher decides (tlog-tiles itself knows only SHA-256). Paths, contents, which files a growth must
write and which may be refused after pruning; and a reader that proves every tile before it believes it.

Spec: C2SP tlog-tiles.
"""

from mtc.tiles.bundle import MAX_BUNDLE_BYTES, MAX_ENTRY_BYTES, EntryBundle, build_bundles
from mtc.tiles.growth import (
    TileEdge,
    build_tiles,
    bundles_for_growth,
    is_in_tree,
    is_prunable,
    is_superseded,
    partial_tiles,
    prunable_tiles,
    tiles_for_growth,
    verify_edge,
    width_in_tree,
)
from mtc.tiles.reader import NodeRecorder, ProvenTiles, TileHashReader, TileSource, tiles_for_nodes, verify_tiles
from mtc.tiles.tile import (
    MAX_TILE_INDEX,
    MAX_TILE_LEVEL,
    TILE_HEIGHT,
    TILE_WIDTH,
    EntriesTile,
    Tile,
    parse_tile_path,
    tile_of,
    tile_path,
)

__all__ = [
    "MAX_BUNDLE_BYTES",
    "MAX_ENTRY_BYTES",
    "MAX_TILE_INDEX",
    "MAX_TILE_LEVEL",
    "TILE_HEIGHT",
    "TILE_WIDTH",
    "EntriesTile",
    "EntryBundle",
    "NodeRecorder",
    "ProvenTiles",
    "Tile",
    "TileEdge",
    "TileHashReader",
    "TileSource",
    "build_bundles",
    "build_tiles",
    "bundles_for_growth",
    "is_in_tree",
    "is_prunable",
    "is_superseded",
    "parse_tile_path",
    "partial_tiles",
    "prunable_tiles",
    "tile_of",
    "tile_path",
    "tiles_for_growth",
    "tiles_for_nodes",
    "verify_edge",
    "verify_tiles",
    "width_in_tree",
]
