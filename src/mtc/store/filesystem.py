"""The system calls that a file store makes, as a seam: the real ones here, a model of what a crash does in the tests.

Each call may raise OSError. None of them syncs anything unless it says so.
"""

import fcntl
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol


class FileSystem(Protocol):
    """What a file store needs. Promises are POSIX's: data is durable after `sync_file`, a name after `sync_folder`.

    workers: how many calls may run at once, in threads.
    """

    @property
    def workers(self) -> int:
        """Threads that may call at once."""

    def make_folder(self, path: Path, mode: int) -> bool:
        """Make a folder whose parent is there; return False when it is there already."""

    def is_folder(self, path: Path) -> bool:
        """Tell whether a folder is there."""

    def write(self, path: Path, data: bytes, mode: int) -> None:
        """Make a new file. Raises FileExistsError."""

    def sync_file(self, path: Path) -> None:
        """Make a file's data durable."""

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder durable."""

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name. Raises FileExistsError."""

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name, in the place of whatever had it; nobody ever sees neither."""

    def unlink(self, path: Path) -> None:
        """Take a name away. Raises FileNotFoundError."""

    def read(self, path: Path) -> bytes:
        """Return a file's data. Raises FileNotFoundError, NotADirectoryError, IsADirectoryError."""

    def scan(self, folder: Path) -> Iterable[tuple[str, bool]]:
        """Yield the names in a folder, and whether each is a folder. Raises FileNotFoundError, NotADirectoryError."""

    def lock(self, path: Path) -> Callable[[], None]:
        """Take the lock on a file, made if it is not there, and return what lets it go. Raises BlockingIOError."""


class LocalFiles:
    """`FileSystem` of this machine."""

    workers = 2
    """Syncs in flight: a journal commits several at once."""

    def make_folder(self, path: Path, mode: int) -> bool:
        """Make a folder."""
        try:
            os.mkdir(path, mode)  # noqa: PTH102 - one system call in a hot path
        except FileExistsError:
            return False
        return True

    def is_folder(self, path: Path) -> bool:
        """Tell whether a folder is there."""
        return os.path.isdir(path)  # noqa: PTH112 - one system call in a hot path

    def write(self, path: Path, data: bytes, mode: int) -> None:
        """Make a new file."""
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(handle, view) :]
        finally:
            os.close(handle)

    def sync_file(self, path: Path) -> None:
        """Make a file's data durable; it does not matter who wrote it, and through which handle."""
        self._sync(path, os.O_RDONLY)

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder durable."""
        self._sync(path, os.O_RDONLY | os.O_DIRECTORY)

    @staticmethod
    def _sync(path: Path, flags: int) -> None:
        handle = os.open(path, flags | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name."""
        os.link(source, target)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name."""
        os.replace(source, target)  # noqa: PTH105 - one system call in a hot path

    def unlink(self, path: Path) -> None:
        """Take a name away."""
        os.unlink(path)  # noqa: PTH108 - one system call in a hot path

    def read(self, path: Path) -> bytes:
        """Return a file's data."""
        return path.read_bytes()

    def scan(self, folder: Path) -> Iterable[tuple[str, bool]]:
        """Yield the names in a folder."""
        with os.scandir(folder) as entries:
            for entry in entries:
                yield entry.name, entry.is_dir(follow_symlinks=False)

    def lock(self, path: Path) -> Callable[[], None]:
        """Take the lock on a file; the kernel lets it go when the process dies."""
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException:
            os.close(handle)
            raise
        return lambda: os.close(handle)
