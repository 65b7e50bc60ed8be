"""Loads the read path of a log or of a mirror: random tiles, bundles and checkpoints, each proven.

A tile is proven with those above it against the root of the checkpoint, a bundle against its level-0 tile, and each new
checkpoint against the one before it. Tiles above level 0 are remembered once they are proven, and asked for all the
same now and then.

Spec: C2SP tlog-tiles; RFC 9162, "Consistency".
"""

import asyncio
import hashlib
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from mtc.cli.hammer.fetching import MAX_CHECKPOINT_BYTES, fetch_place, open_checkpoint
from mtc.cli.hammer.load import Load
from mtc.cli.hammer.synthetic import TreeHead
from mtc.errors import Error, PeerError, ProofError, Reason, Rejected, UsageError
from mtc.kernel import active_kernel
from mtc.merkle import Node, Subtree, subtree_hash
from mtc.note import Checkpoint, VerifierKey
from mtc.tiles import (
    TILE_HEIGHT,
    TILE_WIDTH,
    EntriesTile,
    EntryBundle,
    NodeRecorder,
    ProvenTiles,
    Tile,
    tile_of,
    tiles_for_nodes,
    verify_tiles,
    width_in_tree,
)
from mtc.web.client import Answer

_KNOWN_TILES = 4096
"""Proven tiles above level 0 that are remembered: 32 MiB, enough for logs of 268 million entries."""
_CHECKPOINTS = 0.1
_TILES = 0.5
_UPPER = 0.1


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """What is read. prefix: of the log, or of a mirror's copy. keys: all of them must have signed the checkpoint.

    origin: of the log, None for what its first checkpoint says. minimum_index: entries below it may be refused.
    is_stale_ok: a checkpoint may be older than one that came before, as it is behind caches.
    """

    prefix: str
    keys: tuple[VerifierKey, ...]
    origin: str | None = None
    minimum_index: int = 0
    is_stale_ok: bool = False


class LogReading:
    """The scenario; see the module."""

    def __init__(self, load: Load, options: ReadOptions, chance: random.Random) -> None:
        """Take what to read, and the chance that chooses."""
        self._load = load
        self._options = options
        self._chance = chance
        self._prefix = options.prefix.rstrip("/")
        self._origin = options.origin
        self._hasher = active_kernel().hasher("sha256")
        self._head = TreeHead(0, self._hasher.empty)
        self._known: dict[Tile, bytes] = {}
        self._growing = asyncio.Lock()

    def facts(self) -> Mapping[str, object]:
        """Return origin and size of the largest tree seen."""
        return {"origin": self._origin, "tree_size": self._head.tree_size}

    async def prepare(self) -> None:
        """Fetch the first checkpoint, where it is: under the prefix, or under the hash of the origin below it."""
        statuses = (200, 404) if self._origin is not None else (200,)
        if await self._fetch_checkpoint(statuses) is False and self._origin is not None:
            self._prefix = f"{self._prefix}/{hashlib.sha256(self._origin.encode()).hexdigest()}"
            await self._fetch_checkpoint((200,))
        if faults := self._load.figures.faults:
            first = next(iter(faults.values()))
            raise PeerError(Reason(first.reason), f"no checkpoint to begin with: {first.messages[0]}")
        if self._options.minimum_index > self._head.tree_size:
            raise UsageError(Reason.USAGE, f"the log has {self._head.tree_size} entries, below the minimum index")

    async def step(self, worker: int) -> None:  # noqa: ARG002 - workers are alike
        """Read one thing, chosen by chance."""
        draw = self._chance.random()
        if draw < _CHECKPOINTS or self._head.tree_size <= self._options.minimum_index:
            await self._fetch_checkpoint((200,))
        elif draw < _TILES:
            await self._read_tile()
        else:
            await self._read_bundle()

    async def _fetch_checkpoint(self, statuses: Sequence[int]) -> bool:
        """Fetch a checkpoint and check that it continues the tree. False when there is none."""
        floor = self._head.tree_size

        def check(answer: Answer) -> Checkpoint | bool:
            if answer.status == 404:
                return False
            checkpoint, _ = open_checkpoint(answer.body, self._options.keys, self._origin)
            if checkpoint.tree_size < floor and not self._options.is_stale_ok:
                raise Rejected(
                    Reason.STALE_SIZE,
                    f"the checkpoint has {checkpoint.tree_size} entries, an earlier one had {floor}; behind a cache "
                    "this is no fault (--stale-ok)",
                )
            if not checkpoint.tree_size and checkpoint.root_hash != self._hasher.empty:
                raise ProofError(Reason.ROOT_MISMATCH, "the tree without entries has another root")
            return checkpoint

        url = f"{self._prefix}/checkpoint"
        result = await self._load.call("checkpoint", url, check, statuses=statuses, most=MAX_CHECKPOINT_BYTES)
        if not isinstance(result, Checkpoint):
            return result is not False
        self._origin = result.origin
        async with self._growing:
            await self._prove_growth(TreeHead(result.tree_size, result.root_hash))
        return True

    async def _prove_growth(self, head: TreeHead) -> None:
        """Take a checkpoint's tree, if it is consistent with the largest one that was proven."""
        small, large = sorted((self._head, head), key=lambda item: item.tree_size)
        try:
            if small.tree_size == large.tree_size:
                root: bytes | None = large.root_hash
            elif not small.tree_size:
                root = small.root_hash
            else:
                root = await self._root_within(small.tree_size, large)
            if root is None:
                return
            if root != small.root_hash:
                raise ProofError(
                    Reason.EQUIVOCATION,
                    f"the log signed a tree of {small.tree_size} entries and one of {large.tree_size} that does not "
                    "continue it: it shows different trees",
                )
        except Error as error:
            self._load.blame("checkpoint", error)
            return
        self._load.figures.amounts["checkpoints"] += 1
        if head.tree_size > self._head.tree_size:
            self._head = head
            # Partial tiles of the old tree are of no use any more.
            self._known = {tile: content for tile, content in self._known.items() if tile.is_full}

    async def _root_within(self, size: int, head: TreeHead) -> bytes | None:
        """Return the hash of the first `size` entries of a tree, from its tiles."""
        recorder = NodeRecorder(self._hasher)
        subtree_hash(self._hasher, recorder, Subtree(0, size))
        proven = await self._prove(head, recorder.nodes, ())
        return None if proven is None else subtree_hash(self._hasher, proven, Subtree(0, size))

    async def _read_tile(self) -> None:
        """Fetch a tile and prove it."""
        head = self._head
        level = 0
        if self._chance.random() < _UPPER:
            level = self._chance.randrange((head.tree_size.bit_length() + TILE_HEIGHT - 1) // TILE_HEIGHT)
        if self._options.minimum_index >> TILE_HEIGHT * level >= head.tree_size >> TILE_HEIGHT * level:
            # All hashes of the level may be refused.
            level = 0
        shift = TILE_HEIGHT * level
        position = self._chance.randrange(self._options.minimum_index >> shift, head.tree_size >> shift)
        node = Node(shift, position)
        tile = tile_of(node)[0]
        width = width_in_tree(tile, head.tree_size)
        await self._prove(head, [node], [Tile(tile.level, tile.index, width)])

    async def _read_bundle(self) -> None:
        """Fetch a bundle and its level-0 tile, and compare the hashes of its entries with it."""
        head = self._head
        index = self._chance.randrange(self._options.minimum_index, head.tree_size)
        place = EntriesTile(index // TILE_WIDTH)
        place = EntriesTile(place.index, width_in_tree(place, head.tree_size))
        proven, content = await asyncio.gather(
            self._prove(head, [Node(0, index)], ()), fetch_place(self._load, self._prefix, place)
        )
        if proven is None or not content:
            return
        hashes = self._hasher.leaves(EntryBundle.parse(content).entries)
        expected = proven.tiles[Tile(0, place.index, place.width)]
        if hashes != expected:
            size = self._hasher.size
            wrong = next(at for at in range(0, len(hashes), size) if hashes[at : at + size] != expected[at : at + size])
            entry = place.start + wrong // size
            self._load.blame(
                "bundle",
                ProofError(
                    Reason.HASH_MISMATCH, f"entry {entry} in {place} has another hash than the tree", index=entry
                ),
            )

    async def _prove(self, head: TreeHead, nodes: Sequence[Node], fresh: Iterable[Tile]) -> ProvenTiles | None:
        """Fetch what the nodes need and prove it; None when that went wrong, or a tile did not come.

        fresh: fetched also when they are known.
        """
        wanted = tiles_for_nodes(head.tree_size, nodes)
        again = set(fresh)
        known = self._known
        # Taken now: while tiles are fetched, others may push these out.
        held = {tile: known[tile] for tile in wanted if tile in known and tile not in again}
        missing = [tile for tile in wanted if tile not in held]
        contents = await asyncio.gather(*(fetch_place(self._load, self._prefix, tile) for tile in missing))
        fetched = {tile: content for tile, content in zip(missing, contents, strict=True) if content}
        if len(fetched) < len(missing):
            return None
        try:
            proven = verify_tiles(self._hasher, head.tree_size, head.root_hash, held | fetched)
        except Error as error:
            self._load.blame("tile", error)
            return None
        for tile, content in fetched.items():
            if tile.level or not tile.is_full:
                known[tile] = content
        while len(known) > _KNOWN_TILES:
            del known[next(iter(known))]
        return proven
