"""Objects as files below one folder, under their keys as paths.

Crash meaning: a file appears under its name only after its bytes are on the medium (a temporary file, synced, then link
or rename), and `put` returns only after the folders that name it are. A crash leaves temporary files in `.tmp`, which
the next open removes.
"""

import asyncio
import contextlib
import errno
import itertools
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from mtc.errors import ConflictError, Error, Reason, StorageError, UsageError
from mtc.store.contract import check_key
from mtc.store.filesystem import FileSystem, LocalFiles

_TEMPORARY = ".tmp"
_LOCK = ".lock"
_FEW = 4
"""Files that are written without threads: starting those costs more."""

_Result = TypeVar("_Result")

PRIVATE_PREFIX = "private/"
"""Objects below are for the owner of the folder alone; all others may be read by everybody."""


class FileStore:
    """`ObjectStore` on a file system with fsync, hard links and atomic rename (any of Linux's usual ones).

    Keys are paths below the folder, so that a plain HTTP server can serve it. One writing process at a time: opening
    for writing takes an exclusive lock, which the kernel drops when the process dies.
    """

    def __init__(self, folder: Path, files: FileSystem, unlock: Callable[[], None] | None) -> None:
        """Use `open`."""
        self._folder = folder
        self._files = files
        self._unlock = unlock
        # Temporary names of two stores of one process never meet, not even those of a thread that outlived its store.
        self._token = f"{os.getpid()}-{secrets.token_hex(4)}"
        self._numbers = itertools.count()
        self._workers = ThreadPoolExecutor(files.workers, "mtc-files") if files.workers > 1 else None
        # Folders that are known to be there, and were synced; they never go away while this process has the lock.
        self._known: set[Path] = set()

    @staticmethod
    def open(folder: Path, *, is_writer: bool = True, files: FileSystem | None = None) -> "FileStore":
        """Open a folder, made if it is not there. files: the system calls, of this machine by default.

        Raises StorageError when another process writes to it.
        """
        files = files or LocalFiles()
        if not is_writer:
            if not files.is_folder(folder):
                raise StorageError(Reason.STORAGE, f"{folder} is no folder; there is nothing to read", path=str(folder))
            return FileStore(folder, files, None)
        try:
            _make_root(files, folder)
            unlock = files.lock(folder / _LOCK)
        except BlockingIOError:
            raise StorageError(
                Reason.CONFLICT, f"{folder} is in use by another process; stop that one first", folder=str(folder)
            ) from None
        except OSError as error:
            raise _storage_error(error, folder) from None
        store = FileStore(folder, files, unlock)
        try:
            store._prepare_temporary()
        except OSError as error:
            store.close()
            raise _storage_error(error, folder) from None
        return store

    def close(self) -> None:
        """Release the lock. Writing calls after this fail."""
        if self._unlock is not None:
            self._unlock()
            self._unlock = None
        if self._workers is not None:
            self._workers.shutdown()
            self._workers = None

    def _prepare_temporary(self) -> None:
        """Make the folder for temporary files, or remove what a crash left in it."""
        folder = self._folder / _TEMPORARY
        if not self._files.make_folder(folder, 0o700):
            for name, _ in list(self._files.scan(folder)):
                self._files.unlink(folder / name)

    async def put(self, objects: Mapping[str, bytes]) -> None:
        """Store immutable objects; whoever has the same key with other bytes wins, and this raises ConflictError."""
        await self._write(objects, self._link)

    async def replace(self, objects: Mapping[str, bytes]) -> None:
        """Store objects over others."""
        await self._write(objects, self._files.rename)

    def _check_writer(self) -> None:
        """Raise UsageError unless the store may be changed."""
        if self._unlock is None:
            raise UsageError(Reason.USAGE, f"{self._folder} was opened for reading, or is closed")

    async def _write(self, objects: Mapping[str, bytes], publish: Callable[[Path, Path], None]) -> None:
        """Write every object and make its name durable, in a thread."""
        self._check_writer()
        paths = {key: self._path(key) for key in objects}
        await _in_thread(self._folder, lambda: self._write_now(objects, paths, publish))

    def _write_now(
        self, objects: Mapping[str, bytes], paths: Mapping[str, Path], publish: Callable[[Path, Path], None]
    ) -> None:
        """Write temporary files, sync them, give them their names, and sync the folders that changed."""
        changed: dict[Path, None] = {}
        for key in objects:
            self._make_folders(paths[key].parent, changed, 0o700 if key.startswith(PRIVATE_PREFIX) else 0o755)
        staged = [self._folder / _TEMPORARY / f"{self._token}-{next(self._numbers)}" for _ in objects]
        try:
            self._map(self._write_temporary, list(zip(staged, objects.items(), strict=True)))
            for temporary, path in zip(staged, paths.values(), strict=True):
                publish(temporary, path)
                changed[path.parent] = None
        finally:
            self._unlink_all(staged)
        # Also when a file was there before: the crash that left it may have come before its folder was synced.
        self._map(self._files.sync_folder, list(changed))
        self._known |= changed.keys()

    def _map(self, call: Callable[..., None], items: Sequence[object]) -> None:
        """Call for each item, several at once when there are many. Raises the first error after all have ended."""
        if self._workers is None or len(items) <= _FEW:
            _call_all(call, items)
            return
        # A slice for each thread, because handing over single files costs more than writing them.
        count = self._files.workers
        futures = [self._workers.submit(_call_all, call, items[number::count]) for number in range(count)]
        errors = [error for future in futures if (error := future.exception()) is not None]
        if errors:
            raise errors[0]

    def _write_temporary(self, item: tuple[Path, tuple[str, bytes]]) -> None:
        """Write bytes to a new temporary file and sync it."""
        path, (key, data) = item
        self._files.write(path, data, 0o600 if key.startswith(PRIVATE_PREFIX) else 0o644)
        self._files.sync_file(path)

    def _make_folders(self, folder: Path, changed: dict[Path, None], mode: int) -> None:
        """Make the missing folders down to `folder`, and note those whose names must become durable."""
        missing = []
        while folder != self._folder and folder not in self._known:
            missing.append(folder)
            folder = folder.parent
        for path in reversed(missing):
            self._files.make_folder(path, mode)
            # Also when it was there: a crash may have come before its own name was synced.
            changed[path.parent] = None

    def _link(self, temporary: Path, path: Path) -> None:
        """Give a file its name unless the name is taken by other bytes."""
        try:
            self._files.link(temporary, path)
        except FileExistsError:
            if self._files.read(path) != self._files.read(temporary):
                raise ConflictError(
                    Reason.CONFLICT, f"object {path} is there with other bytes", key=str(path)
                ) from None
            # Its bytes may be those of a crash that came before they were synced.
            self._files.sync_file(path)

    async def fetch(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the objects, None for one that is not there."""
        paths = [self._path(key) for key in keys]
        return await _in_thread(self._folder, lambda: [self._read(path) for path in paths])

    async def discard(self, keys: Sequence[str]) -> None:
        """Remove objects."""
        self._check_writer()
        paths = [self._path(key) for key in keys]
        await _in_thread(self._folder, lambda: self._unlink_all(paths))

    async def list_keys(self, prefix: str = "") -> list[str]:
        """Return the keys below `prefix`, sorted."""
        start = prefix.removesuffix("/")
        folder = self._path(start) if start else self._folder
        return await _in_thread(self._folder, lambda: sorted(self._walk(folder, prefix)))

    def _walk(self, folder: Path, prefix: str) -> Iterator[str]:
        """Yield the key of each object below a folder."""
        try:
            names: Iterable[tuple[str, bool]] = list(self._files.scan(folder))
        except (FileNotFoundError, NotADirectoryError):
            return
        for name, is_folder in names:
            if name.startswith("."):
                continue
            if is_folder:
                yield from self._walk(folder / name, f"{prefix}{name}/")
            else:
                yield f"{prefix}{name}"

    def _path(self, key: str) -> Path:
        """Return the path of a key."""
        check_key(key)
        return self._folder / key

    def _read(self, path: Path) -> bytes | None:
        """Return a file's bytes, None when it is not there."""
        try:
            return self._files.read(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    def _unlink_all(self, paths: Iterable[Path]) -> None:
        """Remove files that are there."""
        for path in paths:
            self._unlink(path)

    def _unlink(self, path: Path) -> None:
        """Remove a file if it is there."""
        try:
            self._files.unlink(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError):
            # Linux calls it a lack of permission to unlink a folder; nothing is lost by leaving a name.
            if self._files.is_folder(path) or self._read(path) is None:
                return
            raise


def _call_all(call: Callable[..., None], items: Iterable[object]) -> None:
    """Call for each item."""
    for item in items:
        call(item)


def _make_root(files: FileSystem, folder: Path) -> None:
    """Make the store's folder and its parents, durable."""
    if not files.is_folder(folder):
        _make_root(files, folder.parent)
        files.make_folder(folder, 0o755)
    # Also when it was there: whoever made it may not have come to this.
    if folder.parent != folder:
        files.sync_folder(folder.parent)


async def _in_thread(folder: Path, call: Callable[[], _Result]) -> _Result:
    """Run blocking work in a thread; errors of the file system become StorageError.

    A cancelled caller waits for its thread all the same: what a thread still writes must not come after what the next
    call writes, nor after the lock was let go.
    """
    work = asyncio.ensure_future(asyncio.to_thread(call))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        while not work.done():
            with contextlib.suppress(asyncio.CancelledError, OSError, Error):
                await asyncio.shield(work)
        raise
    except OSError as error:
        raise _storage_error(error, folder) from error


_CURES = {
    errno.ENOSPC: "; free some space on it, nothing is lost meanwhile",
    errno.EDQUOT: "; raise the quota, nothing is lost meanwhile",
    errno.EROFS: "; mount it for writing",
    errno.EPERM: "; it must know hard links, as Linux's own file systems do",
}


def _storage_error(error: OSError, folder: Path) -> StorageError:
    """Return the error for what the file system said, with what to do."""
    where = error.filename or folder
    cure = _CURES.get(error.errno or 0, "")
    return StorageError(
        Reason.STORAGE,
        f"the file system failed at {where}: {(error.strerror or str(error)).lower()}{cure}",
        path=str(where),
    )
