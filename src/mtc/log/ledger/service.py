"""The ledger of one log over an object store."""

from bisect import bisect_right
from collections.abc import AsyncIterator, Sequence

from mtc.log.ledger.formats import SignedRound, ledger_prefix
from mtc.store import ObjectStore


class Ledger:
    """Which request became which entry, and how each round was signed. Use `open`."""

    def __init__(self, store: ObjectStore, log_number: int) -> None:
        """Start empty."""
        self._store = store
        self._log_number = log_number
        self._known: dict[bytes, int] = {}
        self._rounds: dict[int, SignedRound] = {}

    @staticmethod
    async def open(store: ObjectStore, log_number: int, tree_size: int) -> "Ledger":
        """Read the ledger of a log of `tree_size` entries. Raises FormatError, StorageError."""
        ledger = Ledger(store, log_number)
        keys = await store.list_keys(f"{ledger_prefix(log_number)}round/")
        for data in await store.fetch(keys):
            if data is not None:
                round_ = SignedRound.parse(data)
                if round_.new_size <= tree_size:
                    ledger._add(round_)
        return ledger

    def _add(self, round_: SignedRound) -> None:
        self._known.update(round_.indices)
        self._rounds[round_.new_size] = round_

    async def find(self, keys: Sequence[bytes]) -> dict[bytes, int]:
        """Return the entry indices of those request keys that have one."""
        return {key: self._known[key] for key in keys if key in self._known}

    async def record(self, round_: SignedRound) -> None:
        """Keep a round, durable on return; again with more cosignatures is allowed."""
        await self._store.replace({SignedRound.key_of(self._log_number, round_.new_size): round_.encode()})
        self._add(round_)

    async def round_of(self, index: int) -> SignedRound | None:
        """Return the signed round that holds entry `index`, None when it is not known (any more, or yet)."""
        sizes = sorted(self._rounds)
        place = bisect_right(sizes, index)
        if place == len(sizes) or self._rounds[sizes[place]].old_size > index:
            return None
        return self._rounds[sizes[place]]

    async def rounds(self, start: int, end: int) -> AsyncIterator[SignedRound]:
        """Yield the rounds that lead to sizes above `start` and up to `end`, in order."""
        for size in sorted(self._rounds):
            if start < size <= end:
                yield self._rounds[size]

    async def settle(self) -> None:
        """Wait for work in the background."""

    async def close(self) -> None:
        """Let work in the background end."""
