"""Hashes of subtrees of a log that was checked: of any round, landmark or signed message of its past."""

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from mtc.errors import ProofError, Reason
from mtc.log.fsck.service.sources import LogFiles
from mtc.merkle import Hasher, Node, Subtree, root_hash, subtree_hash
from mtc.tiles import NodeRecorder, Tile, TileEdge, tile_of, width_in_tree

_MAX_TILES = 1024
_MAX_NODES = 1 << 16
_FETCHED_AT_ONCE = 64


class TreeHashes:
    """Computes subtree hashes from the full tiles of a checked log and its right edge.

    corrections: what damaged tiles should hold, None where nobody knows. Tiles are read again, and kept while in use.
    """

    def __init__(
        self, files: LogFiles, hasher: Hasher, prefix: str, edge: TileEdge, corrections: Mapping[Tile, bytes | None]
    ) -> None:
        """Take a log that was checked. prefix: of its paths, with its slash."""
        self._files = files
        self._hasher = hasher
        self._prefix = prefix
        self._edge = edge
        self._corrections = corrections
        self._tiles: OrderedDict[Tile, bytes | None] = OrderedDict()
        self._nodes: OrderedDict[Node, bytes] = OrderedDict()

    @property
    def tree_size(self) -> int:
        """Entries of the checked tree."""
        return self._edge.tree_size

    @property
    def edge(self) -> TileEdge:
        """The right edge of the checked tree."""
        return self._edge

    async def hash_all(self, subtrees: Sequence[Subtree]) -> list[bytes | None]:
        """Return the hash of each subtree, None for one that lies in what was pruned. All end in the tree."""
        recorder = NodeRecorder(self._hasher)
        for subtree in subtrees:
            subtree_hash(self._hasher, recorder, subtree)
        missing = [node for node in dict.fromkeys(recorder.nodes) if node not in self._nodes]
        await self._load([self._place(node)[0] for node in missing])
        found = [self._hash(subtree) for subtree in subtrees]
        # Only now, so that nothing goes that this call still needs.
        while len(self._nodes) > _MAX_NODES:
            self._nodes.popitem(last=False)
        return found

    async def roots(self, sizes: Sequence[int]) -> list[bytes | None]:
        """Return the root hash that the log had at each size."""
        return await self.hash_all([Subtree(0, size) for size in sizes])

    def read(self, nodes: Sequence[Node]) -> list[bytes]:
        """Return the hashes of nodes whose tiles are loaded. Raises ProofError (MISSING_HASH)."""
        return [self._read(node) for node in nodes]

    def _hash(self, subtree: Subtree) -> bytes | None:
        """Return a subtree's hash when all of its tiles are there."""
        try:
            return subtree_hash(self._hasher, self, subtree)
        except ProofError:
            return None

    def _read(self, node: Node) -> bytes:
        """Return one node's hash."""
        known = self._nodes.get(node)
        if known is not None:
            return known
        tile, start, end = self._place(node)
        content = self._content(tile)
        if content is None:
            raise ProofError(Reason.MISSING_HASH, f"{tile} is not there", node=node)
        size = self._hasher.size
        value = root_hash(self._hasher, content[start * size : end * size])
        self._nodes[node] = value
        return value

    def _place(self, node: Node) -> tuple[Tile, int, int]:
        """Return the tile, in its width, that holds a node, and which of its hashes."""
        tile, start, end = tile_of(node)
        return Tile(tile.level, tile.index, width_in_tree(tile, self.tree_size)), start, end

    def _content(self, tile: Tile) -> bytes | None:
        """Return what a tile holds, if it was loaded."""
        if not tile.is_full:
            return self._edge.rows[tile.level]
        return self._corrections[tile] if tile in self._corrections else self._tiles.get(tile)

    async def _load(self, tiles: Sequence[Tile]) -> None:
        """Read full tiles that are not there yet."""
        used = [tile for tile in dict.fromkeys(tiles) if tile.is_full and tile not in self._corrections]
        wanted = []
        for tile in used:
            if tile in self._tiles:
                self._tiles.move_to_end(tile)
            else:
                wanted.append(tile)
        for at in range(0, len(wanted), _FETCHED_AT_ONCE):
            chosen = wanted[at : at + _FETCHED_AT_ONCE]
            found = await self._files.fetch([f"{self._prefix}{tile.path}" for tile in chosen])
            self._tiles.update(zip(chosen, found, strict=True))
        limit = max(_MAX_TILES, len(used))
        while len(self._tiles) > limit:
            self._tiles.popitem(last=False)
