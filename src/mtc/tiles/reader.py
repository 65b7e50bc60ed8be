"""Reading node hashes out of tiles that somebody else serves, believing nothing that is not proven.

Tiles that come from a network or a cache are only bytes. They are proven against the root hash of a checkpoint: the
partial tiles of the tree lead to its root, and every full tile leads to a hash in the tile above it.

Spec: C2SP tlog-tiles, "Merkle Tree"; RFC 9162, "Merkle Trees".
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from mtc.errors import FormatError, ProofError, Reason, UsageError
from mtc.merkle import Hasher, Node, root_hash
from mtc.tiles.growth import TileEdge, is_in_tree, partial_tiles, verify_edge, width_in_tree
from mtc.tiles.tile import TILE_HEIGHT, Tile, tile_of


class TileSource(Protocol):
    """Where tiles come from: a network, a directory, a cache in front of one. Nothing it returns is believed.

    Retries and deadlines are the source's own. One reader calls it from one thread.
    """

    def read_tiles(self, tiles: Sequence[Tile]) -> list[bytes]:
        """Return the content of each tile, in the order asked. Called once per read, with no tile twice.

        A source may answer a partial tile with the first bytes of the full one. Raises its own errors when it cannot.
        """

    def save(self, tiles: Mapping[Tile, bytes]) -> None:
        """Keep tiles that are now proven; called once per read, after the proof, never with an unproven byte."""


def tiles_for_nodes(tree_size: int, nodes: Sequence[Node]) -> list[Tile]:
    """Return all tiles needed to prove the hashes of complete subtrees of a tree of `tree_size` entries.

    These are the tree's partial tiles and, for each node, its tile and those above it. In order, without repetition.
    Raises ProofError (MISSING_HASH) for a node that is not complete in the tree.
    """
    if not nodes:
        return []
    tiles = dict.fromkeys(partial_tiles(tree_size))
    for node in nodes:
        if node.level < 0 or node.index < 0 or node.index + 1 << node.level > tree_size:
            raise ProofError(
                Reason.MISSING_HASH, f"a tree of {tree_size} entries has no complete {node}", tree_size=tree_size
            )
        tile = _in_tree(tile_of(node)[0], tree_size)
        while tile not in tiles:
            tiles[tile] = None
            tile = _in_tree(tile.parent[0], tree_size)
    return list(tiles)


def verify_tiles(hasher: Hasher, tree_size: int, root: bytes, tiles: Mapping[Tile, bytes]) -> "ProvenTiles":
    """Prove the contents of tiles against the root of a tree of `tree_size` entries; what comes back may be believed.

    tiles: as `tiles_for_nodes` names them; each full tile with the one above it, and all partial tiles of the tree.
    Raises FormatError (BAD_TILE) for a content of the wrong length, ProofError (ROOT_MISMATCH, HASH_MISMATCH) when the
    tiles are not of this tree, UsageError when one is missing, or not in a tree of this size.
    """
    size = hasher.size
    for tile, content in tiles.items():
        if not is_in_tree(tile, tree_size):
            raise UsageError(Reason.USAGE, f"a tree of {tree_size} entries has no {tile}", tile=tile.path)
        if len(content) != tile.width * size:
            raise FormatError(
                Reason.BAD_TILE,
                f"{tile} has {len(content)} bytes where {tile.width * size} should be",
                tile=tile.path,
                expected=tile.width * size,
                got=len(content),
            )
    edge = verify_edge(hasher, tree_size, [_content(tiles, tile) for tile in partial_tiles(tree_size)], root)
    full = [tile for tile in tiles if tile.is_full]
    hashes = b"".join([tiles[tile] for tile in full])
    for _ in range(TILE_HEIGHT):
        hashes = hasher.fold(hashes)
    for position, tile in enumerate(full):
        above, slot = tile.parent
        expected = _content(tiles, _in_tree(above, tree_size))[slot * size : (slot + 1) * size]
        got = hashes[position * size : (position + 1) * size]
        if got != expected:
            raise ProofError(
                Reason.HASH_MISMATCH,
                f"{tile} does not lead to the hash in the tile above it",
                tile=tile.path,
                expected=expected.hex(),
                got=got.hex(),
            )
    return ProvenTiles(hasher, edge, dict(tiles))


class ProvenTiles:
    """A `merkle.HashReader` over tiles that `verify_tiles` has proven; made by nothing else."""

    __slots__ = ("_hasher", "edge", "tiles")

    def __init__(self, hasher: Hasher, edge: TileEdge, tiles: Mapping[Tile, bytes]) -> None:
        """Take proven tiles, and the edge that their partial ones make."""
        self._hasher = hasher
        self.edge = edge
        self.tiles = tiles

    def read(self, nodes: Sequence[Node]) -> list[bytes]:
        """Return the hashes of the nodes. Raises ProofError (MISSING_HASH) for one whose tile was not proven."""
        size = self._hasher.size
        hashes = []
        for node in nodes:
            full, start, end = tile_of(node)
            width = width_in_tree(full, self.edge.tree_size)
            content = self.tiles.get(Tile(full.level, full.index, width)) if width else None
            if content is None or end > width:
                raise ProofError(Reason.MISSING_HASH, f"no proven tile holds {node}", node=node)
            hashes.append(root_hash(self._hasher, content[start * size : end * size]))
        return hashes


class TileHashReader:
    """A `merkle.HashReader` over the tiles of a tree with a known root: one call to the source per read.

    No hash is returned, and nothing is saved, before every tile of the read is proven against the root. It holds no
    tiles itself; a source that caches is asked again.
    """

    def __init__(self, hasher: Hasher, tree_size: int, root: bytes, source: TileSource) -> None:
        """Take the tree of a verified checkpoint, and where its tiles come from."""
        self._hasher = hasher
        self._tree_size = tree_size
        self._root = root
        self._source = source

    def read(self, nodes: Sequence[Node]) -> list[bytes]:
        """Return the proven hashes of the nodes.

        Raises ProofError (MISSING_HASH) before anything is fetched when a node is not complete in the tree, ProofError
        or FormatError when the source lies, UsageError when it does not answer every question.
        """
        wanted = tiles_for_nodes(self._tree_size, nodes)
        if not wanted:
            return []
        contents = self._source.read_tiles(wanted)
        if len(contents) != len(wanted):
            raise UsageError(Reason.USAGE, f"the tile source gave {len(contents)} answers to {len(wanted)} questions")
        size = self._hasher.size
        tiles = {
            tile: content[: tile.width * size] if _is_full_length(content, size) else content
            for tile, content in zip(wanted, contents, strict=True)
        }
        proven = verify_tiles(self._hasher, self._tree_size, self._root, tiles)
        hashes = proven.read(nodes)
        self._source.save(proven.tiles)
        return hashes


class NodeRecorder:
    """A `merkle.HashReader` that notes what a prover asks for and answers with zeros.

    A shell that fetches tiles asynchronously runs the prover twice: with this reader, to learn the nodes, and with
    `ProvenTiles`, to get the proof.
    """

    def __init__(self, hasher: Hasher) -> None:
        """Start with nothing asked."""
        self._zero = bytes(hasher.size)
        self.nodes: list[Node] = []

    def read(self, nodes: Sequence[Node]) -> list[bytes]:
        """Note the nodes; return as many hashes that mean nothing."""
        self.nodes.extend(nodes)
        return [self._zero] * len(nodes)


def _in_tree(tile: Tile, tree_size: int) -> Tile:
    """Return the tile in the place of `tile` with the width that it has in the tree."""
    return Tile(tile.level, tile.index, width_in_tree(tile, tree_size))


def _content(tiles: Mapping[Tile, bytes], tile: Tile) -> bytes:
    """Return the content of a tile that the proof needs."""
    if tile not in tiles:
        raise UsageError(Reason.MISSING_HASH, f"{tile} is missing among the tiles to prove", tile=tile.path)
    return tiles[tile]


def _is_full_length(content: bytes, hash_size: int) -> bool:
    """Tell whether a content has the length of a full tile."""
    return len(content) == hash_size << TILE_HEIGHT
