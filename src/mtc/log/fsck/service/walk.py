"""Walking through a log from left to right: bundles, tiles, and every partial one that lies about.

One pass, a few bundles in memory: entries give leaf hashes, these the level-0 tiles, full tiles the hashes above. What
is served is compared byte by byte with what was built; `mtc.log.fsck.machine` says which of two is damaged.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from mtc.errors import FormatError
from mtc.log.fsck.entries import EntryWatch
from mtc.log.fsck.findings import Findings
from mtc.log.fsck.machine import TreeGrower, first_difference, fold_tiles, judge, judge_edge
from mtc.log.fsck.service.sources import LogFiles
from mtc.merkle import Hasher
from mtc.tiles import TILE_HEIGHT, TILE_WIDTH, EntriesTile, EntryBundle, Tile, TileEdge, width_in_tree

BUNDLES_AT_ONCE = 16
"""Bundles in memory; of the largest size they are 268 MB, of the usual one 2 MB."""

Progress = Callable[[int, int], None]
"""Told how many entries were checked, and of how many."""


@dataclass(slots=True)
class _Bundle:
    """A bundle and the tile of its hashes as they are served. width: entries that the tree has here.

    row: the hashes of its entries, None when it cannot be read; fault: why. served: the tile, None when unusable.
    is_sound: its entries are those of the tree.
    """

    index: int
    width: int
    data: bytes | None
    served: bytes | None
    entries: tuple[bytes, ...] = ()
    row: bytes | None = None
    fault: FormatError | None = None
    is_sound: bool = True

    @property
    def place(self) -> EntriesTile:
        """Where the bundle stands."""
        return EntriesTile(self.index, self.width)

    @property
    def tile(self) -> Tile:
        """Where the tile of its hashes stands."""
        return Tile(0, self.index, self.width)


@dataclass(slots=True)
class Walk:
    """One walk. begin: first bundle that is read; what lies before is pruned.

    partials: widths of the partial tiles and bundles that are there, by the path of the full one; empty when nobody can
    tell. corrections: what damaged full tiles should hold, None where nobody knows.
    """

    files: LogFiles
    prefix: str
    hasher: Hasher
    tree_size: int
    root: bytes
    watch: EntryWatch
    findings: Findings
    begin: int = 0
    partials: Mapping[str, Sequence[int]] = field(default_factory=dict)
    progress: Progress | None = None
    corrections: dict[Tile, bytes | None] = field(default_factory=dict)
    # Tiles that fit neither a bundle nor the tile of its hashes: damaged if the tree does not lead to the root.
    suspects: list[str] = field(default_factory=list)

    async def run(self) -> TileEdge | None:
        """Check everything; return the right edge as it leads to the root, None when nothing leads there."""
        grower = await self._start()
        if grower is None:
            return None
        full = self.tree_size >> TILE_HEIGHT
        for start in range(self.begin, full, BUNDLES_AT_ONCE):
            indices = range(start, min(start + BUNDLES_AT_ONCE, full))
            bundles = await self._read_bundles(indices, TILE_WIDTH)
            await asyncio.to_thread(self._hash_bundles, bundles)
            hashes = await self._tile_hashes(bundles)
            await asyncio.to_thread(self._watch, bundles)
            for bundle in bundles:
                await self._check_partials(bundle)
            for value in hashes:
                await self._grow(grower, value)
            if self.progress is not None:
                self.progress(indices.stop * TILE_WIDTH, self.tree_size)
        edge = await self._finish(grower)
        if self.progress is not None:
            self.progress(self.tree_size, self.tree_size)
        return edge

    # Reading.

    async def fetch(self, places: Iterable[Tile | EntriesTile]) -> list[bytes | None]:
        """Return served files."""
        paths = [f"{self.prefix}{place.path}" for place in places]
        if not paths:
            return []
        found = await self.files.fetch(paths)
        self.findings.count("bytes", sum(len(data) for data in found if data is not None))
        return found

    def name(self, place: Tile | EntriesTile) -> str:
        """Return what people call a tile or bundle."""
        return self.files.name(f"{self.prefix}{place.path}")

    async def _start(self) -> TreeGrower | None:
        """Return the tree before the first bundle, of whose hashes only the upper tiles remain when it is pruned."""
        rows: list[bytes] = []
        level, count = 1, self.begin
        while count:
            width = count % TILE_WIDTH
            tile = Tile(level, count >> TILE_HEIGHT)
            place = Tile(level, tile.index, width_in_tree(tile, self.tree_size)) if width else None
            row = b""
            if place is not None:
                (data,) = await self.fetch([place])
                if data is None or len(data) != place.width * self.hasher.size:
                    self.findings.add(self.name(place), "is missing or damaged, and what lies below it is pruned away")
                    return None
                row = data[: width * self.hasher.size]
            rows.append(row)
            level, count = level + 1, count >> TILE_HEIGHT
        return TreeGrower(self.hasher, self.begin, rows)

    async def _read_bundles(self, indices: Iterable[int], width: int) -> list[_Bundle]:
        """Return bundles and the tiles of their hashes."""
        places = [EntriesTile(index, width) for index in indices]
        tiles = [Tile(0, place.index, width) for place in places]
        data = await self.fetch([*places, *tiles])
        self.findings.count("bundles", len(places))
        self.findings.count("tiles", len(places))
        return [
            _Bundle(place.index, width, bundle, self._usable(tile, served))
            for place, tile, bundle, served in zip(places, tiles, data, data[len(places) :], strict=False)
        ]

    def _usable(self, tile: Tile, data: bytes | None) -> bytes | None:
        """Return a served tile if it has the right length; a finding says so when not."""
        expected = tile.width * self.hasher.size
        if data is None:
            self.findings.add(self.name(tile), "is missing")
            return None
        if len(data) != expected:
            self.findings.add(self.name(tile), f"has {len(data)} bytes, not {expected}")
            return None
        return data

    def _hash_bundles(self, bundles: Sequence[_Bundle]) -> None:
        """Parse bundles and hash their entries; in a thread."""
        for bundle in bundles:
            if bundle.data is not None:
                try:
                    bundle.entries = EntryBundle.parse(bundle.data, bundle.width).entries
                    bundle.row = self.hasher.leaves(bundle.entries)
                except FormatError as error:
                    bundle.fault = error

    def _watch(self, bundles: Sequence[_Bundle]) -> None:
        """Look at the entries of bundles; in a thread. Damaged ones say nothing."""
        for bundle in bundles:
            if bundle.is_sound and bundle.row is not None:
                self.watch.look(self.name(bundle.place), bundle.entries)
                self.findings.count("entries", bundle.width)
            else:
                self.watch.pass_over(bundle.width)

    # Deciding.

    async def _tile_hashes(self, bundles: Sequence[_Bundle]) -> list[bytes]:
        """Return the hash of each full level-0 tile; where bundle and tile differ, the tile above decides."""
        size = self.hasher.size
        contents: list[bytes | None] = []
        holes: dict[int, bytes] = {}
        for place, bundle in enumerate(bundles):
            content = bundle.row
            if bundle.row is None or bundle.row != bundle.served:
                above = await self._above(bundle.tile)
                content = self._decide(bundle, above)
                if content is not None and above is not None and fold_tiles(self.hasher, content) != above:
                    # Nothing fits. Go on with what the tree says, which is found out at the root if it is wrong too.
                    content = None
                    self.suspects.append(self.name(self._parent(bundle.tile)))
                self.corrections[bundle.tile] = content
                if content is None:
                    holes[place] = above or bytes(size)
            contents.append(content)
        blank = bytes(TILE_WIDTH * size)
        row = await asyncio.to_thread(fold_tiles, self.hasher, b"".join([content or blank for content in contents]))
        return [holes.get(place, row[place * size : (place + 1) * size]) for place in range(len(bundles))]

    async def _above(self, tile: Tile) -> bytes | None:
        """Return a full tile's hash as the served tile above it says, None when that one is unusable."""
        place, slot = self._parent(tile), tile.parent[1]
        (data,) = await self.fetch([place])
        size = self.hasher.size
        return data[slot * size : (slot + 1) * size] if data is not None and len(data) == place.width * size else None

    def _parent(self, tile: Tile) -> Tile:
        """Return the tile above, in its width in the tree."""
        parent, _ = tile.parent
        return Tile(parent.level, parent.index, width_in_tree(parent, self.tree_size))

    def _decide(self, bundle: _Bundle, above: bytes | None) -> bytes | None:
        """Say which of bundle and full tile is damaged; return what the tile should hold."""
        verdict = judge(self.hasher, bundle.row, bundle.served, above)
        self._report(bundle, is_bundle_wrong=verdict.is_built_wrong, is_tile_wrong=verdict.is_served_wrong)
        return verdict.content

    def _report(self, bundle: _Bundle, *, is_bundle_wrong: bool, is_tile_wrong: bool) -> None:
        """Make the findings about a bundle and its tile that do not fit together."""
        size, name = self.hasher.size, self.name(bundle.place)
        row, served = bundle.row, bundle.served
        if bundle.data is None:
            self.findings.add(name, "is missing")
        elif bundle.fault is not None:
            self.findings.add_error(name, bundle.fault)
        elif is_bundle_wrong and row is not None:
            if served is None:
                self.findings.add(name, "does not hash to what the tile above says")
            else:
                position = first_difference(row, served) // size
                at = sum(2 + len(entry) for entry in bundle.entries[:position])
                index = (bundle.index << TILE_HEIGHT) + position
                self.findings.add(
                    name, "holds an entry that does not have the hash in its tile", offset=at + 2, index=index
                )
        if is_tile_wrong and served is not None and row is not None:
            at = first_difference(row, served)
            self.findings.add(self.name(bundle.tile), "holds another hash than its entry has", offset=at)
        bundle.is_sound = not is_bundle_wrong

    async def _grow(self, grower: TreeGrower, value: bytes) -> None:
        """Add the hash of a level-0 tile, and check each tile above that it completes."""
        level = 0
        while (made := grower.append(level, value)) is not None:
            tile, built = made
            content = await self._check_tile(tile, built)
            value = fold_tiles(self.hasher, content)
            level += 1

    async def _check_tile(self, tile: Tile, built: bytes) -> bytes:
        """Compare a full tile above level 0 with what was built; return what it should hold."""
        self.findings.count("tiles")
        (data,) = await self.fetch([tile])
        served = self._usable(tile, data)
        content = built
        if served != built:
            verdict = judge(self.hasher, built, served, await self._above(tile))
            content = verdict.content if verdict.content is not None else built
            self.corrections[tile] = content
            if served is not None:
                self._report_tile(
                    tile, built, served, is_below=verdict.is_built_wrong, is_tile_wrong=verdict.is_served_wrong
                )
        await self._check_partial_tiles(tile, content)
        return content

    def _report_tile(self, tile: Tile, built: bytes, served: bytes, *, is_below: bool, is_tile_wrong: bool) -> None:
        """Make the findings about a tile above level 0 that does not fit what lies below."""
        at = first_difference(built, served)
        if is_tile_wrong:
            self.findings.add(self.name(tile), "holds another hash than the tile below it has", offset=at)
        if is_below:
            below = Tile(tile.level - 1, tile.index * TILE_WIDTH + at // self.hasher.size)
            self.findings.add(self.name(below), "does not lead to its hash in the tile above it")

    # The right edge.

    async def _finish(self, grower: TreeGrower) -> TileEdge | None:
        """Check the partial tiles of the tree and its root."""
        size = self.hasher.size
        levels = (self.tree_size.bit_length() + TILE_HEIGHT - 1) // TILE_HEIGHT
        last = await self._last_bundle()
        built: list[bytes | None] = [last.row if last is not None else b"", *grower.edge_rows(levels)][:levels]
        served: list[bytes | None] = [last.served if last is not None else b""][:levels]
        for level in range(1, levels):
            width = (self.tree_size >> TILE_HEIGHT * level) % TILE_WIDTH
            row: bytes | None = b""
            if width:
                tile = Tile(level, self.tree_size >> TILE_HEIGHT * (level + 1), width)
                self.findings.count("tiles")
                row = self._usable(tile, (await self.fetch([tile]))[0])
            served.append(row)
        edge, is_proven = judge_edge(self.hasher, self.tree_size, built, served, self.root)
        for level, row in enumerate(edge.rows):
            tile = Tile(level, self.tree_size >> TILE_HEIGHT * (level + 1), max(len(row) // size, 1))
            if level == 0 and last is not None:
                self._finish_bundle(last, row, is_proven=is_proven)
                await asyncio.to_thread(self._watch, [last])
                await self._check_partials(last, row)
            elif row:
                self._report_edge(tile, built[level], served[level], row, is_proven=is_proven)
                await self._check_partial_tiles(tile, row)
        if is_proven:
            return edge
        for name in dict.fromkeys(self.suspects):
            self.findings.add(name, "holds a hash that neither the entries nor the tile below it lead to")
        pruned = " (of the pruned ones, the upper tiles)" if self.begin else ""
        text = f"is not of the {self.tree_size} entries there are{pruned}: they lead to another root hash"
        self.findings.add(self.files.name(f"{self.prefix}checkpoint"), text)
        return None

    async def _last_bundle(self) -> _Bundle | None:
        """Return the partial bundle at the end with its tile, None when the last one is full."""
        width = self.tree_size % TILE_WIDTH
        if not width:
            return None
        (last,) = await self._read_bundles([self.tree_size >> TILE_HEIGHT], width)
        await asyncio.to_thread(self._hash_bundles, [last])
        return last

    def _finish_bundle(self, last: _Bundle, row: bytes, *, is_proven: bool) -> None:
        """Make the findings about the last bundle and its tile."""
        if last.row == last.served == row:
            return
        self._report(
            last,
            is_bundle_wrong=last.row != row or not is_proven,
            is_tile_wrong=last.served != row or not is_proven,
        )

    def _report_edge(
        self, tile: Tile, built: bytes | None, served: bytes | None, row: bytes, *, is_proven: bool
    ) -> None:
        """Make the findings about a partial tile above level 0."""
        if built is None or served is None or built == served:
            return
        self._report_tile(
            tile, built, served, is_below=built != row or not is_proven, is_tile_wrong=served != row or not is_proven
        )

    # Partial tiles and bundles of earlier trees.

    def _widths(self, place: Tile | EntriesTile) -> list[int]:
        """Return the widths of partial ones that are there in the same place, narrower than it."""
        return [width for width in self.partials.get(place.full.path, ()) if width < place.width]

    async def _check_partials(self, bundle: _Bundle, row: bytes | None = None) -> None:
        """Check the superseded partial bundles and tiles in the place of a bundle."""
        content = row if row is not None else self.corrections.get(bundle.tile, bundle.row)
        if content is None:
            return
        await self._check_partial_tiles(bundle.tile, content)
        size = self.hasher.size
        places = [EntriesTile(bundle.index, width) for width in self._widths(bundle.place)]
        for place, data in zip(places, await self.fetch(places), strict=True):
            self.findings.count("superseded")
            if data is None:
                continue
            if bundle.row == content and bundle.data is not None:
                end = sum(2 + len(entry) for entry in bundle.entries[: place.width])
                if data != bundle.data[:end]:
                    at = first_difference(data, bundle.data[:end])
                    self.findings.add(self.name(place), f"is not the beginning of {bundle.place.path}", offset=at)
                continue
            try:
                entries = EntryBundle.parse(data, place.width).entries
            except FormatError as error:
                self.findings.add_error(self.name(place), error)
                continue
            if self.hasher.leaves(entries) != content[: place.width * size]:
                self.findings.add(self.name(place), "holds other entries than its tile has hashes of")

    async def _check_partial_tiles(self, tile: Tile, content: bytes) -> None:
        """Check the superseded partial tiles in the place of a tile."""
        places = [Tile(tile.level, tile.index, width) for width in self._widths(tile)]
        for place, data in zip(places, await self.fetch(places), strict=True):
            self.findings.count("superseded")
            expected = content[: place.width * self.hasher.size]
            if data is not None and data != expected:
                at = first_difference(data, expected)
                self.findings.add(self.name(place), f"is not the beginning of {tile.path}", offset=at)


def partial_widths(places: Iterable[Tile | EntriesTile]) -> dict[str, list[int]]:
    """Return the widths of partial tiles and bundles by the path of the full one."""
    widths: defaultdict[str, list[int]] = defaultdict(list)
    for place in places:
        if not place.is_full:
            widths[place.full.path].append(place.width)
    return widths
