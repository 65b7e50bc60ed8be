"""Rate limits: one time per limit and key, in memory, written now and then.

The generic cell rate algorithm: a bucket is kept as the time at which it will be full again. Taking moves that time
away from now, by one share of the period each; it may not be further away than the whole period.
"""

import sqlite3
from collections.abc import Iterable
from datetime import datetime

from mtc.acme.sqlite import queries
from mtc.acme.sqlite.changes import Batch, Operation
from mtc.acme.sqlite.rows import micros_of
from mtc.acme.store import RateLimit

MAX_KEYS = 200_000
"""Most buckets that are kept, about 40 MB. Beyond, those go first that are full again soonest."""
_WRITE_AFTER_KEYS = 1000
_WRITE_AFTER_MICROS = 5_000_000
"""How much of the past a crash may give back: so many buckets, or so much time."""

Key = tuple[str, str]


class RateLimits:
    """The buckets that are not full. Not for several threads."""

    def __init__(self, known: Iterable[tuple[str, str, int]], most: int = MAX_KEYS) -> None:
        """Take what the database knows: name, key, and when full again, POSIX microseconds."""
        self._full_at: dict[Key, int] = {(name, key): full_at for name, key, full_at in known}
        self._most = most
        self._changed: set[Key] = set()
        self._written = 0

    def __len__(self) -> int:
        """Return how many buckets there are."""
        return len(self._full_at)

    def take(self, limit: RateLimit, key: str, now: datetime, cost: int) -> float:
        """Take from a bucket; return 0, or the seconds to wait and take nothing.

        More than `burst` at once is never granted.
        """
        place, moment = (limit.name, key), micros_of(now)
        period = round(limit.period_s * 1_000_000)
        # Never further away than the period: a shorter period, or a clock that was put back, locks nobody out.
        full_at = min(max(self._full_at.get(place, 0), moment), moment + period)
        after = full_at + period * cost // limit.burst
        wait = after - (moment + period)
        if wait > 0:
            return wait / 1_000_000
        if after > moment:
            self._full_at[place] = after
            self._changed.add(place)
            if len(self._full_at) > self._most:
                self._make_room(moment)
        return 0.0

    def _make_room(self, moment: int) -> None:
        """Forget buckets that are full, and a tenth of all when those were few."""
        kept = [(full_at, place) for place, full_at in self._full_at.items() if full_at > moment]
        if len(kept) > self._most - self._most // 10:
            kept.sort()
            kept = kept[self._most // 10 :]
        self._full_at = {place: full_at for full_at, place in kept}
        self._changed &= self._full_at.keys()

    def is_due(self, now: datetime) -> bool:
        """Tell whether enough has changed to be written, or long enough ago."""
        if not self._changed:
            return False
        return len(self._changed) >= _WRITE_AFTER_KEYS or micros_of(now) - self._written >= _WRITE_AFTER_MICROS

    def plan_write(self, now: datetime | None) -> Operation:
        """Return what writes the changes; with a time, it also forgets buckets that are full again."""
        moment = None if now is None else micros_of(now)
        rows = []
        for place in self._changed:
            full_at = self._full_at[place]
            if moment is not None and full_at <= moment:
                del self._full_at[place]
            else:
                rows.append((*place, full_at))
        self._changed.clear()
        if moment is not None:
            self._written = moment

        def write(connection: sqlite3.Connection, _batch: Batch) -> None:
            if moment is not None:
                connection.execute(queries.PRUNE_RATES, (moment,))
            connection.executemany(queries.KEEP_RATE, rows)

        return write
