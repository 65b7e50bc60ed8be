"""What of a ledger is held in memory: rounds that are not sealed yet, filters, and a few objects read lately."""

from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass, replace

from mtc.errors import ConflictError, Reason
from mtc.kernel import KeyFilter
from mtc.log.ledger.formats import SignedRound
from mtc.log.ledger.machine import LedgerLimits, Step
from mtc.log.ledger.pages import Manifest, Run


@dataclass(frozen=True, slots=True)
class View:
    """What is sealed, at one moment. filters: of all runs, the newest first."""

    manifest: Manifest
    filters: tuple[tuple[Run, KeyFilter], ...] = ()

    def after(self, step: Step) -> "View":
        """Return the view once the step is done."""
        known = dict(self.filters) | dict(step.filters)
        return View(step.manifest, tuple((run, known[run]) for run in reversed(step.manifest.runs)))


class Segment:
    """Rounds that follow each other and will be one page. Owned by the ledger.

    rounds: in order, at least one. indices: entry index by request key, of all of them.
    """

    __slots__ = ("_sizes", "indices", "rounds")

    def __init__(self, round_: SignedRound) -> None:
        """Begin with a round."""
        self.rounds = [round_]
        self.indices = dict(round_.indices)
        self._sizes = [round_.new_size]

    @property
    def start(self) -> int:
        """First entry."""
        return self.rounds[0].old_size

    @property
    def end(self) -> int:
        """Entry behind the last one."""
        return self._sizes[-1]

    def is_full(self, limits: LedgerLimits) -> bool:
        """Tell whether the segment takes no more rounds. It is cut alike whenever the same rounds are read again."""
        return self.end - self.start >= limits.page_entries or len(self.rounds) >= limits.page_rounds

    def append(self, round_: SignedRound) -> None:
        """Add the next round."""
        self.rounds.append(round_)
        self._sizes.append(round_.new_size)
        self.indices.update(round_.indices)

    def round_of(self, index: int) -> SignedRound:
        """Return the round that holds entry `index`, which is in the segment."""
        return self.rounds[bisect_right(self._sizes, index)]

    def renew(self, round_: SignedRound) -> SignedRound:
        """Return a round of the segment with what `round_` says newly. Raises ConflictError for another tree."""
        known = self.round_of(round_.new_size - 1)
        if round_.indices and round_.indices != known.indices:
            raise ConflictError(Reason.CONFLICT, f"the round to {round_.new_size} entries had other request keys")
        return renewed(known, round_)

    def substitute(self, round_: SignedRound) -> None:
        """Put a renewed round into its place."""
        self.rounds[bisect_right(self._sizes, round_.new_size - 1)] = round_


def renewed(known: SignedRound, round_: SignedRound) -> SignedRound:
    """Return `round_` with the request keys of the round that it renews. Raises ConflictError for another tree."""
    if (round_.old_size, round_.new_size, round_.root_hash) != (known.old_size, known.new_size, known.root_hash):
        raise ConflictError(
            Reason.CONFLICT, f"the round from {round_.old_size} to {round_.new_size} entries is known with another tree"
        )
    return replace(round_, indices=known.indices)


class ObjectCache:
    """Parsed objects by key; the one that was not asked for longest goes first. Sizes are those of the bytes."""

    __slots__ = ("_limit", "_objects", "_used")

    def __init__(self, limit: int) -> None:
        """Keep at most `limit` bytes."""
        self._limit = limit
        self._used = 0
        self._objects: OrderedDict[str, tuple[object, int]] = OrderedDict()

    def find(self, key: str) -> object | None:
        """Return an object, None when it is not kept."""
        found = self._objects.get(key)
        if found is None:
            return None
        self._objects.move_to_end(key)
        return found[0]

    def keep(self, key: str, value: object, size: int) -> None:
        """Keep an object of `size` bytes, unless it is too large to be kept."""
        self.drop(key)
        if size > self._limit:
            return
        self._objects[key] = value, size
        self._used += size
        while self._used > self._limit:
            _, (_, gone) = self._objects.popitem(last=False)
            self._used -= gone

    def drop(self, key: str) -> None:
        """Forget an object."""
        if key in self._objects:
            self._used -= self._objects.pop(key)[1]
