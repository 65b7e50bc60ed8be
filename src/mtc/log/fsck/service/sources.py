"""Where a check reads what a CA serves: a seam, so that a folder and a URL are checked by the same code."""

from collections.abc import Sequence
from typing import Protocol

from mtc.store import ObjectStore


class LogFiles(Protocol):
    """The files below a CA's prefix. Nothing that it gives is believed.

    It limits size and time, and retries where that helps.
    """

    async def fetch(self, paths: Sequence[str]) -> list[bytes | None]:
        """Return the files in the order asked, None for one that is not there. Raises StorageError or PeerError."""

    async def list_paths(self, prefix: str) -> list[str] | None:
        """Return the paths below `prefix`, which ends in a slash; None where nobody can tell, as over HTTP."""

    def name(self, path: str) -> str:
        """Return what people call the file."""


class StoreFiles:
    """`LogFiles` in an object store, below a prefix."""

    def __init__(self, store: ObjectStore, prefix: str = "public/") -> None:
        """Take the store. prefix: empty or with its slash."""
        self._store = store
        self._prefix = prefix

    async def fetch(self, paths: Sequence[str]) -> list[bytes | None]:
        """Return the objects."""
        return await self._store.fetch([f"{self._prefix}{path}" for path in paths])

    async def list_paths(self, prefix: str) -> list[str] | None:
        """Return the paths of the objects below `prefix`."""
        keys = await self._store.list_keys(f"{self._prefix}{prefix}")
        return [key.removeprefix(self._prefix) for key in keys]

    def name(self, path: str) -> str:
        """Return the object's key."""
        return f"{self._prefix}{path}"
