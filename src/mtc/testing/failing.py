"""Stores that fail on command: each write in turn, once lost and once kept but reported lost."""

from collections.abc import Mapping, Sequence
from enum import Enum

from mtc.errors import Reason, StorageError
from mtc.store import MemoryRegister, MemoryStore


class InjectedError(StorageError):
    """The failure that was asked for."""


class Failure(Enum):
    """How a write fails; both raise InjectedError."""

    LOST = "lost"
    """Nothing was stored."""
    KEPT = "kept"
    """Everything was stored, and the answer was lost."""


class _Countdown:
    """Counts writes and fails the chosen one. writes: how many there were."""

    def __init__(self) -> None:
        self.writes = 0
        self._chosen: int | None = None
        self._failure = Failure.LOST

    def fail_write(self, number: int, failure: Failure) -> None:
        """Fail the write with that number, counted from 0 over the store's life."""
        self._chosen, self._failure = number, failure

    def next(self) -> Failure | None:
        """Count a write; return how it fails, if it does."""
        number = self.writes
        self.writes += 1
        return self._failure if number == self._chosen else None


class FailingStore(MemoryStore):
    """`MemoryStore` that fails one write on command. plan: chooses which."""

    def __init__(self) -> None:
        """Start empty, failing nothing."""
        super().__init__()
        self.plan = _Countdown()

    async def put(self, objects: Mapping[str, bytes]) -> None:
        """Store immutable objects, or fail."""
        failure = self.plan.next()
        if failure is not Failure.LOST:
            await super().put(objects)
        _raise(failure)

    async def replace(self, objects: Mapping[str, bytes]) -> None:
        """Store objects over others, or fail."""
        failure = self.plan.next()
        if failure is not Failure.LOST:
            await super().replace(objects)
        _raise(failure)

    async def discard(self, keys: Sequence[str]) -> None:
        """Remove objects, or fail."""
        failure = self.plan.next()
        if failure is not Failure.LOST:
            await super().discard(keys)
        _raise(failure)


class FailingRegister(MemoryRegister):
    """`MemoryRegister` that fails one change on command. plan: chooses which."""

    def __init__(self) -> None:
        """Start empty, failing nothing."""
        super().__init__()
        self.plan = _Countdown()

    async def create(self, name: str, value: bytes) -> None:
        """Set a value that is not there yet, or fail."""
        failure = self.plan.next()
        if failure is not Failure.LOST:
            await super().create(name, value)
        _raise(failure)

    async def swap(self, name: str, old: bytes, new: bytes) -> None:
        """Set the value to `new` if it is `old`, or fail."""
        failure = self.plan.next()
        if failure is not Failure.LOST:
            await super().swap(name, old, new)
        _raise(failure)


def _raise(failure: Failure | None) -> None:
    """Report a failure."""
    if failure is not None:
        raise InjectedError(Reason.STORAGE, f"a failure was asked for: {failure.value}")
