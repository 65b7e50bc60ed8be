"""Entries that wait for their round, and who waits for them. All of it is owned by the sequencer's event loop."""

import asyncio
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from mtc.errors import Error, Reason, Rejected
from mtc.log.ledger import SignedRound
from mtc.log.machine import PendingEntry


@dataclass(frozen=True, slots=True)
class PublishedRound:
    """A round that was just published, with its entries: enough to make certificates without reading them again.

    entries: encoded, the first with index `signed.old_size`.
    """

    log_number: int
    entries: tuple[bytes, ...]
    signed: SignedRound


@dataclass(frozen=True, slots=True)
class Appended:
    """An entry's place, acknowledged: its tree is signed and published, and has its quorum.

    round_: the round that published it just now; None when the request key had its entry before.
    """

    log_number: int
    index: int
    round_: PublishedRound | None = None


class Group:
    """Entries that were handed in together, and who waits for all of them."""

    __slots__ = ("_left", "_outcomes", "done")

    def __init__(self, count: int) -> None:
        """Wait for so many entries."""
        self._outcomes: list[Appended | Error | None] = [None] * count
        self._left = count
        self.done: asyncio.Future[list[Appended | Error]] = asyncio.get_running_loop().create_future()

    def settle(self, position: int, outcome: Appended | Error) -> None:
        """Note what became of one entry; wake the waiter after the last one."""
        self._outcomes[position] = outcome
        self._left -= 1
        if not self._left and not self.done.done():
            self.done.set_result([item for item in self._outcomes if item is not None])

    def fail(self, error: Error) -> None:
        """Tell the waiter that there will be no answer."""
        if not self.done.done():
            self.done.set_exception(error)
            # Whoever cancelled its wait does not ask any more.
            self.done.exception()


class Waiting:
    """An entry in the pool, in flight or owed, and everybody who asked for it and was not told yet."""

    __slots__ = ("askers", "entry")

    def __init__(self, entry: PendingEntry, group: Group, position: int) -> None:
        """Begin with one who asks."""
        self.entry = entry
        self.askers = [(group, position)]

    def tell(self, outcome: Appended | Error) -> None:
        """Tell everybody who asked; whoever asks later is told later."""
        askers, self.askers = self.askers, []
        for group, position in askers:
            group.settle(position, outcome)


class Pool:
    """Entries without an index, in the order in which they came.

    It also knows everybody with a request key who was taken from it and is not settled, so that a request that comes
    twice waits once.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._queue: deque[Waiting] = deque()
        self._by_key: dict[bytes, Waiting] = {}

    def __len__(self) -> int:
        """Return how many entries wait for a round."""
        return len(self._queue)

    @property
    def keys(self) -> list[bytes]:
        """The request keys of those who wait for a round."""
        return [item.entry.request_key for item in self._queue if item.entry.request_key]

    def add(self, entries: Sequence[PendingEntry]) -> Group:
        """Take entries in; one whose request key is known waits together with the one that came first."""
        group = Group(len(entries))
        queue, by_key = self._queue, self._by_key
        for position, entry in enumerate(entries):
            key = entry.request_key
            known = by_key.get(key) if key else None
            if known is not None:
                known.askers.append((group, position))
                continue
            item = Waiting(entry, group, position)
            queue.append(item)
            if key:
                by_key[key] = item
        return group

    def pull(self, keys: Collection[bytes] | Mapping[bytes, object]) -> list[Waiting]:
        """Take those out whose request key is one of `keys`."""
        pulled = [item for item in self._queue if item.entry.request_key in keys]
        if pulled:
            self._queue = deque(item for item in self._queue if item.entry.request_key not in keys)
        return pulled

    def take(self, most: int, max_bytes: int, now: int) -> list[Waiting]:
        """Take out what fits into one round at `now`, POSIX seconds; those with stale evidence are told and dropped."""
        taken: list[Waiting] = []
        size, queue = 0, self._queue
        while queue and len(taken) < most and size < max_bytes:
            item = queue.popleft()
            if item.entry.is_stale(now):
                self.settle(item, stale_evidence(item.entry))
                continue
            size += len(item.entry.body)
            taken.append(item)
        return taken

    def put_back(self, items: Sequence[Waiting]) -> None:
        """Put entries back to where they were taken from."""
        self._queue.extendleft(reversed(items))

    def settle(self, item: Waiting, outcome: Appended | Error) -> None:
        """Tell everybody who asked for an entry that was taken out, and forget it."""
        if item.entry.request_key:
            self._by_key.pop(item.entry.request_key, None)
        item.tell(outcome)

    def acknowledge(self, items: Iterable[tuple[int, Waiting]], round_: PublishedRound) -> None:
        """Tell everybody where their entries are."""
        number, by_key = round_.log_number, self._by_key
        # Without a call for each: a round may hold fifty thousand.
        for index, item in items:
            if item.entry.request_key:
                by_key.pop(item.entry.request_key, None)
            place = Appended(number, index, round_)
            for group, position in item.askers:
                group.settle(position, place)

    def refuse(self, error: Error) -> None:
        """Tell everybody who waits for a round that there will be none, and forget them."""
        for item in self.drain():
            self.settle(item, error)

    def fail(self, items: Iterable[Waiting], error: Error) -> None:
        """Tell everybody, and those of `items`, what stopped the log; forget them all."""
        for item in (*items, *self.drain()):
            for group, _ in item.askers:
                group.fail(error)
        self._by_key = {}

    def drain(self) -> list[Waiting]:
        """Take everybody out."""
        items = list(self._queue)
        self._queue.clear()
        return items

    def adopt(self, items: Sequence[Waiting]) -> None:
        """Take over entries that waited for another log."""
        self._queue.extend(items)
        self._by_key |= {item.entry.request_key: item for item in items if item.entry.request_key}


def stale_evidence(entry: PendingEntry) -> Rejected:
    """Make the error for an entry that came too late to be signed."""
    return Rejected(
        Reason.STALE_EVIDENCE,
        f"the validation behind this request could be used until {entry.evidence_until} and was not signed by then; "
        "validate again and send the request again",
        until=entry.evidence_until,
    )
