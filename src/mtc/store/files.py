"""Objects as files below one folder, under their keys as paths.

Crash meaning: a file appears under its name only after its bytes are on the medium (fsync of a temporary file, then
link or rename), and `put` returns only after the folders that name it are (fsync of each). A crash leaves temporary
files, named `.tmp-…`, which the next open removes.
"""

import asyncio
import fcntl
import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from mtc.errors import ConflictError, Reason, StorageError, UsageError
from mtc.store.contract import check_key

_TEMPORARY = ".tmp-"
_LOCK = ".lock"

_Result = TypeVar("_Result")


class FileStore:
    """`ObjectStore` on a file system with fsync, hard links and atomic rename (any of Linux's usual ones).

    Keys are paths below the folder, so that a plain HTTP server can serve it. One writing process at a time: opening
    for writing takes an exclusive lock, which the kernel drops when the process dies.
    """

    def __init__(self, folder: Path, lock: int | None) -> None:
        """Use `open`."""
        self._folder = folder
        self._lock = lock
        self._numbers = itertools.count()

    @staticmethod
    def open(folder: Path, *, is_writer: bool = True) -> "FileStore":
        """Open a folder, made if it is not there. Raises StorageError when another process writes to it."""
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if not is_writer:
                return FileStore(folder, None)
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise _storage_error(error, folder) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(lock)
            raise StorageError(
                Reason.CONFLICT, f"{folder} is in use by another process; stop that one first", folder=str(folder)
            ) from None
        store = FileStore(folder, lock)
        store._remove_temporary_files()
        return store

    def close(self) -> None:
        """Release the lock. Calls after this fail."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _remove_temporary_files(self) -> None:
        """Remove what a crash left behind."""
        for path in self._folder.rglob(f"{_TEMPORARY}*"):
            path.unlink(missing_ok=True)

    async def put(self, objects: Mapping[str, bytes]) -> None:
        """Store immutable objects; whoever has the same key with other bytes wins, and this raises ConflictError."""
        await self._write(objects, self._link)

    async def replace(self, objects: Mapping[str, bytes]) -> None:
        """Store objects over others."""
        await self._write(objects, os.replace)

    async def _write(self, objects: Mapping[str, bytes], publish: Callable[[Path, Path], None]) -> None:
        """Write every object and make its name durable, in a thread."""
        if self._lock is None:
            raise UsageError(Reason.USAGE, f"{self._folder} was opened for reading, or is closed")
        paths = {key: self._path(key) for key in objects}
        await _in_thread(self._folder, lambda: self._write_now(objects, paths, publish))

    def _write_now(
        self, objects: Mapping[str, bytes], paths: Mapping[str, Path], publish: Callable[[Path, Path], None]
    ) -> None:
        """Write temporary files, sync them, give them their names, and sync the folders that changed."""
        folders: dict[Path, None] = {}
        staged: list[tuple[Path, Path]] = []
        try:
            for key, data in objects.items():
                path = paths[key]
                self._make_folders(path.parent, folders)
                staged.append((self._write_temporary(path.parent, data), path))
            for temporary, path in staged:
                publish(temporary, path)
                folders[path.parent] = None
        finally:
            for temporary, _ in staged:
                temporary.unlink(missing_ok=True)
        # Also when a file was there before: the crash that left it may have come before its folder was synced.
        for folder in folders:
            _sync_folder(folder)

    def _make_folders(self, folder: Path, changed: dict[Path, None]) -> None:
        """Make the missing folders down to `folder`, and note the ones that name them."""
        missing = []
        while folder != self._folder and not folder.is_dir():
            missing.append(folder)
            folder = folder.parent
        for path in reversed(missing):
            path.mkdir(exist_ok=True)
            changed[path.parent] = None

    def _write_temporary(self, folder: Path, data: bytes) -> Path:
        """Write bytes to a new temporary file and sync it; remove it when that fails."""
        path = folder / f"{_TEMPORARY}{os.getpid()}-{next(self._numbers)}"
        try:
            with path.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return path

    @staticmethod
    def _link(temporary: Path, path: Path) -> None:
        """Give a file its name unless the name is taken by other bytes."""
        try:
            os.link(temporary, path)
        except FileExistsError:
            if path.read_bytes() != temporary.read_bytes():
                raise ConflictError(
                    Reason.CONFLICT, f"object {path} is there with other bytes", key=str(path)
                ) from None

    async def fetch(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the objects, None for one that is not there."""
        paths = [self._path(key) for key in keys]
        return await _in_thread(self._folder, lambda: [_read(path) for path in paths])

    async def discard(self, keys: Sequence[str]) -> None:
        """Remove objects."""
        paths = [self._path(key) for key in keys]
        await _in_thread(self._folder, lambda: _unlink(paths))

    async def list_keys(self, prefix: str = "") -> list[str]:
        """Return the keys below `prefix`, sorted."""
        start = self._folder if not prefix else self._path(prefix.removesuffix("/"))
        return await _in_thread(self._folder, lambda: sorted(self._walk(start)))

    def _walk(self, start: Path) -> Iterable[str]:
        """Yield the key of each object below a folder."""
        for path in start.rglob("*"):
            if not path.name.startswith(".") and path.is_file():
                yield path.relative_to(self._folder).as_posix()

    def _path(self, key: str) -> Path:
        """Return the path of a key."""
        check_key(key)
        return self._folder / key


async def _in_thread(folder: Path, call: Callable[[], _Result]) -> _Result:
    """Run blocking work in a thread; errors of the file system become StorageError."""
    try:
        return await asyncio.to_thread(call)
    except OSError as error:
        raise _storage_error(error, folder) from error


def _storage_error(error: OSError, folder: Path) -> StorageError:
    """Return the error for what the file system said."""
    where = error.filename or folder
    return StorageError(
        Reason.STORAGE, f"the file system failed at {where}: {(error.strerror or str(error)).lower()}", path=str(where)
    )


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _read(path: Path) -> bytes | None:
    """Return a file's bytes, None when it is not there."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None


def _unlink(paths: Sequence[Path]) -> None:
    """Remove files that are there."""
    for path in paths:
        try:
            path.unlink(missing_ok=True)
        except (NotADirectoryError, IsADirectoryError):
            continue
