"""Files of a program's folder: read with a limit on their size, and followed when they change."""

from pathlib import Path

from mtc.errors import Reason, UsageError


def read_config_file(path: Path, most: int) -> bytes | None:
    """Return a configuration file, None when there is none.

    Raises UsageError that names it: UNREADABLE, and TOO_LARGE when it has more than `most` bytes.
    """
    try:
        with path.open("rb") as file:
            data = file.read(most + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(Reason.UNREADABLE, f"{path} cannot be read: {(error.strerror or '').lower()}") from None
    if len(data) > most:
        raise UsageError(Reason.TOO_LARGE, f"{path} is larger than {most} bytes")
    return data


def read_file(path: Path, most: int) -> bytes:
    """Return a file that must be there. Raises UsageError as `read_config_file`, also when it is missing."""
    data = read_config_file(path, most)
    if data is None:
        raise UsageError(Reason.UNREADABLE, f"{path} cannot be read: no such file or directory")
    return data


def file_stamp(path: Path) -> tuple[int, int, int]:
    """Return what changes when a file is written or replaced; zeros for one that is not there."""
    try:
        found = path.stat()
    except OSError:
        return 0, 0, 0
    return found.st_mtime_ns, found.st_size, found.st_ino
