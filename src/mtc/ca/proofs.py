"""Inclusion proofs of many entries at once, from the tiles of a log of which only the tree head is believed.

Tiles and entry bundles are only bytes until they are proven against the head. What was proven once stays proven: a log
only appends, and the hashes in a tile never change.

Spec: C2SP tlog-tiles, "Merkle Tree"; Merkle Tree Certificates, "Subtree Inclusion Proofs".
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from mtc.errors import FormatError, PeerError, ProofError, Reason
from mtc.kernel import Kernel, active_kernel
from mtc.merkle import Hasher, HashReader, Node, Subtree, root_hash
from mtc.tiles import (
    MAX_BUNDLE_BYTES,
    TILE_HEIGHT,
    TILE_WIDTH,
    EntriesTile,
    NodeRecorder,
    Tile,
    tiles_for_nodes,
    verify_tiles,
    width_in_tree,
)

MAX_CACHED_TILES = 4096
"""Proven tiles that one reader keeps, 8 KiB each."""

_Place = TypeVar("_Place", Tile, EntriesTile)
_Answer = TypeVar("_Answer")


class ObjectSource(Protocol):
    """Where the served objects of a log come from: a store, a folder, or HTTP. Nothing that it gives is believed."""

    async def fetch(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the objects in the order asked, None for one that is not there. Raises StorageError or PeerError."""


@dataclass(frozen=True, slots=True)
class TreeHead:
    """A tree that the caller believes: from the register, or from a checkpoint that it verified."""

    tree_size: int
    root_hash: bytes


class LogReader:
    """Reads one log's tiles and bundles and proves them. prefix: what stands in front of the paths, with its slash.

    All heads that it is asked about must be of one log that only appends; one that a caller believes is.
    """

    def __init__(
        self, hasher: Hasher, source: ObjectSource, prefix: str, *, max_cached_tiles: int = MAX_CACHED_TILES
    ) -> None:
        """Start with nothing proven."""
        self._hasher = hasher
        self._source = source
        self._prefix = prefix
        self._limit = max_cached_tiles
        # Only proven tiles, the one that was asked for the longest ago first.
        self._tiles: OrderedDict[Tile, bytes] = OrderedDict()

    @property
    def hasher(self) -> Hasher:
        """The log's hash."""
        return self._hasher

    async def prove(self, head: TreeHead, nodes: Sequence[Node]) -> dict[Tile, bytes]:
        """Return the tiles that hold the nodes, and all above them, proven against the head.

        Raises PeerError (PRUNED) for a tile that is not served, ProofError or FormatError for one of another tree.
        """
        wanted = tiles_for_nodes(head.tree_size, nodes)
        found = {tile: self._tiles[tile] for tile in wanted if tile in self._tiles}
        missing = [tile for tile in wanted if tile not in found]
        if missing:
            found |= await self._fetch_tiles(missing)
            # What is new is proven together with all that stands above it.
            chain = tiles_for_nodes(head.tree_size, [_first_node(tile) for tile in missing])
            verify_tiles(self._hasher, head.tree_size, head.root_hash, {tile: found[tile] for tile in chain})
        for tile in wanted:
            self._tiles[tile] = found[tile]
            self._tiles.move_to_end(tile)
        while len(self._tiles) > self._limit:
            self._tiles.popitem(last=False)
        return found

    async def ask(self, head: TreeHead, prover: Callable[[HashReader], _Answer]) -> _Answer:
        """Return what a prover of `mtc.merkle` computes from the tree's hashes, every one of them proven.

        The prover is called twice, first only to learn what it reads. Raises what `prove` raises.
        """
        recorder = NodeRecorder(self._hasher)
        answer = prover(recorder)
        if not recorder.nodes:
            return answer
        tiles = await self.prove(head, recorder.nodes)
        return prover(verify_tiles(self._hasher, head.tree_size, head.root_hash, tiles))

    async def fetch_bundles(self, tree_size: int, places: Iterable[int]) -> dict[int, list[bytes]]:
        """Return the entries of bundles, by bundle index. Nothing is proven: compare them with proven tiles.

        Raises PeerError (PRUNED) for one that is not served, FormatError for one that is none.
        """
        tiles = [EntriesTile(place, min(TILE_WIDTH, tree_size - (place << TILE_HEIGHT))) for place in places]
        contents = await self._fetch(tiles)
        return {tile.index: _split_bundle(contents[tile], tile) for tile in tiles}

    async def _fetch_tiles(self, tiles: Sequence[Tile]) -> dict[Tile, bytes]:
        """Return tiles as they are served; of a full one that stands for a partial one, the beginning."""
        full, size = TILE_WIDTH * self._hasher.size, self._hasher.size
        contents = await self._fetch(tiles)
        return {tile: data[: tile.width * size] if len(data) == full else data for tile, data in contents.items()}

    async def _fetch(self, places: Sequence[_Place]) -> dict[_Place, bytes]:
        """Return objects; the full one in the place of a partial one that is not served any more."""
        contents = await self._source.fetch([f"{self._prefix}{place.path}" for place in places])
        found = {place: data for place, data in zip(places, contents, strict=True) if data is not None}
        gone = [place for place in places if place not in found]
        if gone:
            contents = await self._source.fetch([f"{self._prefix}{place.full.path}" for place in gone])
            for place, data in zip(gone, contents, strict=True):
                if data is None:
                    raise PeerError(
                        Reason.PRUNED,
                        f"the log does not serve {place}; it may be pruned, and nothing is proven without it",
                        tile=place.path,
                    )
                found[place] = data
        return found


class SubtreeProver:
    """Inclusion proofs of the entries of one subtree, a level-0 tile at a time; what proofs share is computed once.

    The proof of an entry is its path in its tile, then the path of that tile in the row of tiles above, and so on: a
    last node without a sibling rises unchanged, at whichever level. tiles: proven, at least those of `nodes_for`.
    """

    def __init__(
        self,
        hasher: Hasher,
        tiles: Mapping[Tile, bytes],
        tree_size: int,
        subtree: Subtree,
        kernel: Kernel | None = None,
    ) -> None:
        """Take the subtree, which must lie in the tree and not be empty."""
        self._hasher = hasher
        self._tiles = tiles
        self._tree_size = tree_size
        self._subtree = subtree
        self._kernel = kernel or active_kernel()
        self._above: dict[tuple[int, int], list[bytes]] = {}

    @staticmethod
    def nodes_for(subtree: Subtree, places: Collection[int]) -> list[Node]:
        """Return nodes whose tiles a prover needs for the entries in the level-0 tiles with these indices."""
        nodes = []
        level, wanted = 0, set(places)
        while True:
            shift = TILE_HEIGHT * level
            for place in sorted(wanted | {subtree.end >> shift + TILE_HEIGHT}):
                first, stop = _bounds(subtree, level, place)
                if first < stop:
                    nodes.append(Node(shift, first))
            if _is_one_tile(subtree, level):
                return nodes
            wanted = {place >> TILE_HEIGHT for place in wanted}
            level += 1

    def proofs(self, start: int, end: int) -> list[bytes]:
        """Return the proofs, each as one row, of the entries [start, end) of one level-0 tile."""
        place = start >> TILE_HEIGHT
        first = _bounds(self._subtree, 0, place)[0]
        inner = self._kernel.inclusion_proofs(self._hasher.name, self._row(0, place), start - first, end - first)
        above = self._path_of_tile(0, place)
        return [proof + above for proof in inner] if above else inner

    def leaf_hashes(self, start: int, end: int) -> bytes:
        """Return the row of the proven hashes of the entries [start, end) of one level-0 tile."""
        size, first = self._hasher.size, start & -TILE_WIDTH
        tile = Tile(0, start >> TILE_HEIGHT)
        content = self._tiles[Tile(0, tile.index, width_in_tree(tile, self._tree_size))]
        return content[(start - first) * size : (end - first) * size]

    def verify(self, index: int, entry_hash: bytes, proof: bytes) -> None:
        """Raise ProofError unless a proof leads from an entry to the subtree's hash: a check of our own arithmetic."""
        subtree = self._subtree
        level = 0
        while not _is_one_tile(subtree, level):
            level += 1
        expected = root_hash(self._hasher, self._row(level, subtree.start >> TILE_HEIGHT * (level + 1)))
        got = self._kernel.evaluate_inclusion(self._hasher.name, subtree.start, subtree.end, index, entry_hash, proof)
        if got != expected:
            raise ProofError(
                Reason.HASH_MISMATCH,
                f"the proof of entry {index} does not lead to the hash of {subtree}",
                index=index,
                expected=expected.hex(),
                got=got.hex(),
            )

    def _path_of_tile(self, level: int, place: int) -> bytes:
        """Return the proof of the node that a tile's row folds to, in the rows above."""
        if _is_one_tile(self._subtree, level):
            return b""
        parent = place >> TILE_HEIGHT
        paths = self._above.get((level, parent))
        if paths is None:
            above = self._path_of_tile(level + 1, parent)
            inner = self._kernel.inclusion_proofs(self._hasher.name, self._row(level + 1, parent))
            paths = self._above[level, parent] = [path + above for path in inner]
        return paths[place - _bounds(self._subtree, level + 1, parent)[0]]

    def _row(self, level: int, place: int) -> bytes:
        """Return the subtree's nodes in one tile, and behind the last one the node that is not complete."""
        size, subtree = self._hasher.size, self._subtree
        first, stop = _bounds(subtree, level, place)
        row = b""
        if first < stop:
            tile = Tile(level, place)
            content = self._tiles[Tile(level, place, width_in_tree(tile, self._tree_size))]
            base = place << TILE_HEIGHT
            row = content[(first - base) * size : (stop - base) * size]
        shift = TILE_HEIGHT * level
        if subtree.end & (1 << shift) - 1 and subtree.end >> shift + TILE_HEIGHT == place:
            row += root_hash(self._hasher, self._row(level - 1, subtree.end >> shift))
        return row


def _bounds(subtree: Subtree, level: int, place: int) -> tuple[int, int]:
    """Return which nodes [first, stop) of a tile level are complete in the subtree and stand in the tile `place`."""
    shift = TILE_HEIGHT * level
    first = max(place << TILE_HEIGHT, subtree.start >> shift)
    return first, min(place + 1 << TILE_HEIGHT, subtree.end >> shift)


def _is_one_tile(subtree: Subtree, level: int) -> bool:
    """Tell whether all nodes of the subtree on a tile level stand in one tile."""
    shift = TILE_HEIGHT * (level + 1)
    return subtree.start >> shift == subtree.end - 1 >> shift


def _first_node(tile: Tile) -> Node:
    """Return a node that stands in a tile."""
    return Node(TILE_HEIGHT * tile.level, tile.index << TILE_HEIGHT)


def _split_bundle(data: bytes, tile: EntriesTile) -> list[bytes]:
    """Return the first entries of a bundle, as many as the tile is wide: `EntryBundle.parse` in a tenth of its time.

    Raises FormatError when it does not hold them. What stands behind them is not looked at: a full bundle may stand for
    a partial one.
    """
    entries = []
    at, end = 0, len(data)
    if end <= MAX_BUNDLE_BYTES:
        for _ in range(tile.width):
            stop = at + 2 + int.from_bytes(data[at : at + 2], "big")
            if at + 2 > end or stop > end:
                break
            entries.append(data[at + 2 : stop])
            at = stop
    if len(entries) < tile.width:
        raise FormatError(Reason.BAD_TILE, f"{tile} is no bundle of {tile.width} entries", tile=tile.path)
    return entries
