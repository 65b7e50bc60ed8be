"""What a log leaves behind and what may go: superseded partial tiles, and entries below the minimum index.

Partial tiles stay for a grace period after the full one is there, so that whoever holds a slightly older checkpoint can
still prove from it. How far they were collected is kept in an object, so that a restart goes on where the last run was.

Spec: C2SP tlog-tiles, "Partial Tiles" and "Pruning".
"""

from collections.abc import Iterable
from datetime import timedelta

from mtc.log.formats import public_prefix
from mtc.log.pruning import prunable_keys
from mtc.log.service import IssuanceLog
from mtc.store import ObjectStore
from mtc.tiles import TILE_WIDTH, EntriesTile, Tile, is_superseded
from mtc.tiles.tile import TILE_HEIGHT
from mtc.wire import Reader, Writer

MAX_DISCARDED = 1000
"""Objects that are discarded in one call."""


def superseded_keys(log_number: int, sizes: Iterable[int], before: int, after: int) -> list[str]:
    """Return the keys of partial tiles and bundles that a tree of `after` entries has full.

    sizes: of the trees that had them, from `before` to `after`. On the lowest level only these had a partial tile. One
    on a higher level fills up so slowly that many sizes share it; once it is full, every width goes.
    """
    prefix = public_prefix(log_number)
    keys: dict[str, None] = {}
    for size in sizes:
        if width := size % TILE_WIDTH:
            for place in (Tile(0, size // TILE_WIDTH, width), EntriesTile(size // TILE_WIDTH, width)):
                if is_superseded(place, after):
                    keys[f"{prefix}{place.path}"] = None
    level = 1
    while after >> TILE_HEIGHT * (level + 1):
        shift = TILE_HEIGHT * (level + 1)
        for index in range(before >> shift, after >> shift):
            keys |= {f"{prefix}{Tile(level, index, width).path}": None for width in range(1, TILE_WIDTH)}
        level += 1
    return list(keys)


class PartialCollector:
    """Discards superseded partial tiles and bundles of one log after a grace period."""

    def __init__(self, store: ObjectStore, log: IssuanceLog, grace: timedelta) -> None:
        """Take the log; `run` is called now and then."""
        self._store = store
        self._log = log
        self._grace_s = int(grace.total_seconds())

    @property
    def _mark_key(self) -> str:
        return f"private/collected/{self._log.record.log_number}"

    async def run(self, now: int) -> int:
        """Discard what may go at `now`, POSIX seconds. Returns how many objects.

        Crash meaning: the mark moves after the objects are gone, so that they are discarded again.
        """
        record = self._log.record
        (data,) = await self._store.fetch([self._mark_key])
        done = Reader(data, "the collector's mark").read_uint(6) if data is not None else 0
        sizes: list[int] = []
        mark = done
        async for round_ in self._log.ledger.rounds(done, record.tree_size):
            if round_.timestamp + self._grace_s > now:
                break
            # Up to here every tree is old enough. What its last tile still grows into is looked at next time.
            mark = round_.new_size - round_.new_size % TILE_WIDTH
            sizes.append(round_.new_size)
        keys = superseded_keys(record.log_number, sizes, done, mark)
        for at in range(0, len(keys), MAX_DISCARDED):
            await self._store.discard(keys[at : at + MAX_DISCARDED])
        if mark > done:
            await self._store.replace({self._mark_key: Writer().uint(mark, 6).encode()})
        return len(keys)


async def delete_pruned(store: ObjectStore, log_number: int, before: int, minimum_index: int) -> int:
    """Discard the full tiles and bundles between two minimum indices; the first is the one before. Returns how many."""
    count = 0
    batch: list[str] = []
    for key in prunable_keys(log_number, before, minimum_index):
        batch.append(key)
        if len(batch) == MAX_DISCARDED:
            await store.discard(batch)
            count, batch = count + len(batch), []
    if batch:
        await store.discard(batch)
    return count + len(batch)
