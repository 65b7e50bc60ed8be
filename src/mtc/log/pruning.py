"""How far a log may be pruned, and what goes when it is.

Pruning forgets entries that nobody relies on any more. What bounds it is listed, so that an operator sees why a log
keeps what it keeps.

Spec: C2SP tlog-tiles, "Pruning"; Merkle Tree Certificates, "Pruning".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from mtc.ids import MAX_INDEX
from mtc.log.formats import public_prefix
from mtc.merkle import MAX_TREE_SIZE
from mtc.tiles import prunable_tiles
from mtc.wire import posix_seconds


@dataclass(frozen=True, slots=True)
class ExpiryMark:
    """What was known at one moment: of the first `tree_size` entries none is valid after `latest_not_after`.

    tree_size: entries. latest_not_after: POSIX seconds, inclusive.
    """

    tree_size: int
    latest_not_after: int


@dataclass(frozen=True, slots=True)
class PruningLimit:
    """One bound on the minimum index. why: for the operator, in words."""

    index: int
    why: str


@dataclass(frozen=True, slots=True)
class PruningPlan:
    """What pruning would do. minimum_index: afterwards; equal to `before` when nothing may go.

    limits: every bound, the lowest one first. objects: how many tiles and bundles end at or below the new minimum.
    """

    log_number: int
    before: int
    minimum_index: int
    limits: tuple[PruningLimit, ...]
    objects: int


def expired_below(marks: Sequence[ExpiryMark], now: datetime, grace: timedelta) -> int:
    """Return the index below which every entry has been expired for longer than `grace`, as far as the marks tell.

    notAfter is inclusive: at its second the entry is still valid.
    """
    seconds = posix_seconds(now - grace)
    return max((mark.tree_size for mark in marks if mark.latest_not_after < seconds), default=0)


def plan_pruning(  # noqa: PLR0913 - each is a bound
    log_number: int,
    before: int,
    tree_size: int,
    marks: Sequence[ExpiryMark],
    min_serial: int,
    cosigned: Sequence[tuple[str, int]],
    now: datetime,
    retention: timedelta,
) -> PruningPlan:
    """Decide how far log `log_number` may be pruned.

    before: its minimum index so far. min_serial: the smallest serial number that the published revocation list and the
    CA certificate do not exclude. cosigned: by name, the size that each cosigner has stored. retention: how long
    entries stay after they expired.
    """
    if min_serial >> 48 == log_number:
        excluded = min_serial & MAX_INDEX
    else:
        excluded = MAX_TREE_SIZE if min_serial >> 48 > log_number else 0
    limits = [
        PruningLimit(expired_below(marks, now, retention), f"entries stay {retention.days} days after they expire"),
        PruningLimit(excluded, f"the published minimum serial number is {min_serial}"),
        *(PruningLimit(size, f"cosigner {name} has stored {size} entries") for name, size in cosigned),
        PruningLimit(tree_size, f"the log has {tree_size} entries"),
    ]
    limits.sort(key=lambda limit: limit.index)
    minimum_index = max(before, limits[0].index)
    objects = sum(1 for _ in prunable_keys(log_number, before, minimum_index))
    return PruningPlan(log_number, before, minimum_index, tuple(limits), objects)


def prunable_keys(log_number: int, before: int, minimum_index: int) -> Iterator[str]:
    """Yield the keys of what goes from a log when its minimum index rises from `before`; see `prunable_tiles`."""
    prefix = public_prefix(log_number)
    for tile in prunable_tiles(before, minimum_index):
        yield f"{prefix}{tile.path}"
