"""The tree that a mirror grows from proven entries: which objects to write as they come, and which for a checkpoint.

Full bundles and full tiles are written at once, because they are the same in every tree that contains them. Partial
ones belong to one tree, and are written when its checkpoint is committed.

Objects are named by their paths below the log's prefix. Pure: what must be read is named first and handed in.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mtc.cosign.machine import CosignerView
from mtc.cosign.upload import PackagePlace
from mtc.errors import Reason, StorageError
from mtc.merkle import Hasher
from mtc.tiles import (
    TILE_HEIGHT,
    TILE_WIDTH,
    EntriesTile,
    Tile,
    TileEdge,
    build_tiles,
    partial_tiles,
    verify_edge,
    width_in_tree,
)


@dataclass(frozen=True, slots=True)
class ProvenPart:
    """Proven entries from the start of a bundle on. row: their leaf hashes. data: the entries as a bundle has them."""

    place: PackagePlace
    row: bytes
    data: bytes


@dataclass(frozen=True, slots=True)
class Growth:
    """How far the entries are here. edge: of all full bundles. tail: leaf hashes behind it; data: their entries."""

    edge: TileEdge
    tail: bytes = b""
    data: bytes = b""

    @property
    def next_entry(self) -> int:
        """The first entry that is missing."""
        return self.edge.tree_size + len(self.tail) // self.edge.hash_size

    def extended(self, hasher: Hasher, parts: Sequence[ProvenPart]) -> tuple["Growth", dict[str, bytes]]:
        """Return the growth after more entries, and the objects to write first.

        parts: in order, each beginning with the bundle that is not full yet; what is here already is skipped.
        """
        objects: dict[str, bytes] = {}
        rows: list[bytes] = []
        size, tail, data = self.edge.tree_size, self.tail, self.data
        for part in parts:
            start, end = part.place.subtree.start, part.place.end
            if end <= size + len(tail) // hasher.size:
                continue
            assert start == size
            bundle = EntriesTile(part.place.bundle, end - start)
            objects[bundle.path] = part.data
            if bundle.is_full:
                rows.append(part.row)
                size, tail, data = end, b"", b""
            else:
                tail, data = part.row, part.data
        edge, tiles = build_tiles(hasher, self.edge, b"".join(rows))
        objects |= {tile.path: content for tile, content in tiles.items() if tile.is_full}
        return Growth(edge, tail, data), objects

    def needs(self, tree_size: int) -> list[Tile | EntriesTile]:
        """Return what must be read before `objects_for` can be asked about a tree that is smaller than what is here."""
        wanted: list[Tile | EntriesTile] = [
            tile.full
            for tile in partial_tiles(tree_size)
            if width_in_tree(tile.full, self.edge.tree_size) == TILE_WIDTH
        ]
        if tree_size % TILE_WIDTH and tree_size < self.edge.tree_size:
            wanted.append(EntriesTile(tree_size >> TILE_HEIGHT))
        return wanted

    def objects_for(
        self, hasher: Hasher, target: CosignerView, held: Mapping[Tile | EntriesTile, bytes]
    ) -> dict[str, bytes]:
        """Return the partial objects of the target's tree, proven against its root.

        target: of at most `next_entry` entries. held: what `needs` names. Raises ProofError (ROOT_MISMATCH) when what
        is stored is not what was proven once, StorageError when it is gone.
        """
        size, width = target.tree_size, hasher.size
        contents = []
        objects: dict[str, bytes] = {}
        for tile in partial_tiles(size):
            row = self._row(tile, held)[: tile.width * width]
            if len(row) != tile.width * width:
                raise _gone(tile)
            contents.append(row)
            objects[tile.path] = row
        verify_edge(hasher, size, contents, target.root_hash)
        if count := size % TILE_WIDTH:
            place = EntriesTile(size >> TILE_HEIGHT, count)
            source = self.data if size > self.edge.tree_size else held.get(place.full, b"")
            objects[place.path] = cut_bundle(source, count)
        return objects

    def _row(self, tile: Tile, held: Mapping[Tile | EntriesTile, bytes]) -> bytes:
        """Return the hashes in the place of a partial tile, as many as are here."""
        if tile.full in held:
            return held[tile.full]
        if tile.level == 0:
            return self.tail
        return self.edge.rows[tile.level] if tile.level < len(self.edge.rows) else b""


def start_growth(edge: TileEdge) -> Growth:
    """Return the growth from the edge of a committed tree, of which the last bundle is still to be read.

    What comes back ends before that bundle; `extended` with its entries brings it to the edge's size and beyond.
    """
    size = edge.tree_size - edge.tree_size % TILE_WIDTH
    if size == edge.tree_size:
        return Growth(edge)
    levels = max(size.bit_length() + TILE_HEIGHT - 1, 0) // TILE_HEIGHT
    return Growth(replace(edge, tree_size=size, rows=(b"", *edge.rows[1:])[:levels] if size else ()))


def cut_bundle(data: bytes, count: int) -> bytes:
    """Return the first `count` entries of a bundle. Raises StorageError when it has fewer."""
    at = 0
    for _ in range(count):
        if at + 2 > len(data):
            raise StorageError(Reason.DAMAGED, f"a stored bundle has fewer than {count} entries")
        at += 2 + int.from_bytes(data[at : at + 2], "big")
    if at > len(data):
        raise StorageError(Reason.DAMAGED, "a stored bundle ends in the middle of an entry")
    return data[:at]


def _gone(tile: Tile) -> StorageError:
    """Make the error for a tile that is not here although it was."""
    return StorageError(
        Reason.DAMAGED, f"the stored {tile} is missing or damaged; bring it back from a backup or the log"
    )
