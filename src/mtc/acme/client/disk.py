"""Files that a crash leaves old or new, never half: written aside, synced, renamed.

`Disk` makes the system calls and is the seam at which tests fail each of them; the functions below combine them.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mtc.errors import ConflictError, Reason, StorageError

PUBLIC, PRIVATE = 0o644, 0o600


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file that is to be. mode: as for chmod."""

    data: bytes
    mode: int = PUBLIC


@dataclass(frozen=True, slots=True)
class NewLink:
    """A symbolic link that is to be. target: relative to where it lies."""

    target: str


class Disk:
    """The system calls. Data is durable after `write`, a name after `sync_folder`. Each may raise OSError."""

    def make_folder(self, path: Path, mode: int) -> None:
        """Make a folder whose parent is there. Raises FileExistsError."""
        path.mkdir(mode)

    def write(self, path: Path, data: bytes, mode: int) -> None:
        """Make a new file and make its data durable. Raises FileExistsError."""
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        with os.fdopen(handle, "wb") as file:
            # The mask of the process must not decide who reads a certificate.
            os.fchmod(handle, mode)
            file.write(data)
            file.flush()
            os.fsync(handle)

    def link(self, path: Path, target: str) -> None:
        """Make a symbolic link. Raises FileExistsError."""
        path.symlink_to(target)

    def hard_link(self, source: Path, target: Path) -> None:
        """Give a file a second name. Raises FileExistsError."""
        target.hardlink_to(source)

    def rename(self, source: Path, target: Path) -> None:
        """Give a file or folder another name; a file that had it is replaced."""
        source.replace(target)

    def unlink(self, path: Path) -> None:
        """Take a file or link away."""
        path.unlink()

    def remove_folder(self, path: Path) -> None:
        """Take an empty folder away."""
        path.rmdir()

    def sync_folder(self, path: Path) -> None:
        """Make the names in a folder durable."""
        handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def replace_file(disk: Disk, path: Path, data: bytes, mode: int = PUBLIC) -> None:
    """Write a file in the place of whatever had its name."""
    _replace(disk, path, lambda aside: disk.write(aside, data, mode))


def replace_link(disk: Disk, path: Path, target: str) -> None:
    """Make a symbolic link in the place of whatever had its name."""
    _replace(disk, path, lambda aside: disk.link(aside, target))


def publish_folder(disk: Disk, folder: Path, content: Mapping[str, NewFile | NewLink], mode: int = 0o755) -> None:
    """Make a folder that is there whole or not at all. Raises StorageError (CONFLICT) when it is there already."""
    if folder.exists():
        raise StorageError(Reason.CONFLICT, f"{folder} is there already")
    aside = folder.with_name(f".{folder.name}.new")
    remove_tree(disk, aside)
    disk.make_folder(aside, mode)
    for name, item in content.items():
        if isinstance(item, NewFile):
            disk.write(aside / name, item.data, item.mode)
        else:
            disk.link(aside / name, item.target)
    disk.sync_folder(aside)
    disk.rename(aside, folder)
    disk.sync_folder(folder.parent)


def retire_folder(disk: Disk, folder: Path) -> None:
    """Take a folder away as one act: it is gone after the first step, what is left of it is only rubbish."""
    if not folder.is_dir():
        return
    aside = folder.with_name(f".{folder.name}.old")
    remove_tree(disk, aside)
    disk.rename(folder, aside)
    disk.sync_folder(folder.parent)
    remove_tree(disk, aside)


def remove_tree(disk: Disk, folder: Path) -> None:
    """Remove a folder that nobody needs, with all that is in it; links are not followed."""
    if not folder.is_dir() or folder.is_symlink():
        return
    for item in sorted(folder.iterdir()):
        if item.is_dir() and not item.is_symlink():
            remove_tree(disk, item)
        else:
            disk.unlink(item)
    disk.remove_folder(folder)


def make_folders(disk: Disk, folder: Path, mode: int = 0o755) -> None:
    """Make a folder, and those above it, unless they are there; their names are durable."""
    if folder.is_dir():
        return
    make_folders(disk, folder.parent, mode)
    with contextlib.suppress(FileExistsError):
        disk.make_folder(folder, mode)
    disk.sync_folder(folder.parent)


def remove_leftovers(disk: Disk, folder: Path) -> None:
    """Remove what a crash left aside in a folder."""
    if not folder.is_dir():
        return
    for item in sorted(folder.iterdir()):
        if not (item.name.startswith(".") and item.name.endswith((".new", ".old"))):
            continue
        if item.is_dir() and not item.is_symlink():
            remove_tree(disk, item)
        else:
            disk.unlink(item)


@contextlib.contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold the lock on a file, which the kernel lets go when the process ends. Raises ConflictError (BUSY)."""
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(handle, 20, 0).decode("ascii", "replace").strip()
            by = f" (pid {holder})" if holder.isdecimal() else ""
            raise ConflictError(
                Reason.BUSY, f"another mtc request{by} works on {what}; wait for it, or stop it"
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(handle)


def _replace(disk: Disk, path: Path, make: Callable[[Path], None]) -> None:
    """Make something aside and give it its name."""
    aside = path.with_name(f".{path.name}.new")
    with contextlib.suppress(FileNotFoundError):
        disk.unlink(aside)
    make(aside)
    disk.rename(aside, path)
    disk.sync_folder(path.parent)
