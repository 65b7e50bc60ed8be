"""Unix sockets: binding one that only its owner may open, and paths that are longer than a socket's address."""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from mtc.errors import Reason, UsageError

MAX_PATH_BYTES = 107
"""Longest path in a socket's address on Linux, without its final zero."""


@contextlib.contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """Give an address for a Unix socket at `path`, however long the path is; good until the context ends.

    A long one goes through the folder's descriptor, which needs /proc. Raises UsageError when there is no folder, or
    the name alone is too long.
    """
    if len(os.fsencode(path)) <= MAX_PATH_BYTES:
        yield str(path)
        return
    try:
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise UsageError(Reason.UNREADABLE, f"{path.parent} cannot be opened: {error.strerror}") from None
    try:
        address = f"/proc/self/fd/{folder}/{path.name}"
        if len(os.fsencode(address)) > MAX_PATH_BYTES:
            raise UsageError(Reason.TOO_LARGE, f"{path.name[:40]}… is too long a name for a socket; choose another")
        yield address
    finally:
        os.close(folder)


def bind_unix(path: Path) -> socket.socket:
    """Return a bound socket that only the owner may open (0600).

    A socket that a dead process left is replaced. Raises UsageError (BUSY) when somebody listens there, and when
    `path` is something else than a socket.
    """
    with socket_address(path) as address:
        if path.is_socket():
            if _is_alive(address):
                raise UsageError(Reason.BUSY, f"somebody serves {path} already; stop it first")
            path.unlink()
        elif path.exists():
            raise UsageError(Reason.USAGE, f"{path} exists and is no socket; remove it or choose another path")
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        before = os.umask(0o177)
        try:
            bound.bind(address)
        except OSError as error:
            bound.close()
            raise UsageError(Reason.UNREADABLE, f"{path} cannot be made: {error.strerror}") from None
        finally:
            os.umask(before)
        return bound


def remove_socket(path: Path) -> None:
    """Remove the socket's name; one that is gone is no error."""
    path.unlink(missing_ok=True)


def _is_alive(address: str) -> bool:
    """Tell whether somebody listens at an address."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(address)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
        return True
