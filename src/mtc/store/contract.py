"""The promises of both contracts, in words and types."""

import re
from collections.abc import Mapping, Sequence
from typing import Protocol

from mtc.errors import Reason, UsageError

MAX_KEY_BYTES = 512
"""Longest key of an object and longest name of a register's value."""
MAX_REGISTER_BYTES = 1 << 20
"""Largest value of a register."""

_KEY = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*", re.ASCII)


def check_key(key: str) -> None:
    """Raise UsageError unless `key` is a relative path of plain names: letters, digits, `_`, `-`, and `.` inside.

    No name begins with a dot, so that backends have names of their own, and no key can climb out of its store.
    """
    if len(key) > MAX_KEY_BYTES or not _KEY.fullmatch(key):
        raise UsageError(Reason.USAGE, f"{key[:80]!r} is no key of an object or a register", key=key[:80])


class ObjectStore(Protocol):
    """Many objects by key.

    Durability: when `put` or `replace` returns, its objects survive a crash of process and machine. When it raises,
    each object is there whole or not at all, and any subset of them may be. Order: none between calls of which one has
    not returned. Staleness: `fetch` and `list_keys` may miss what another process has just put, never what this one
    did. Concurrency: calls may overlap. Retries: the caller's; every call may be repeated. Raises StorageError where
    the medium fails, UsageError for a bad key.
    """

    async def put(self, objects: Mapping[str, bytes]) -> None:
        """Store immutable objects: the same bytes again succeed, other bytes raise ConflictError and change nothing."""

    async def replace(self, objects: Mapping[str, bytes]) -> None:
        """Store objects that may be there with other bytes; readers see the old or the new ones, never a mixture."""

    async def fetch(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the objects in the order asked, None for one that is not there."""

    async def discard(self, keys: Sequence[str]) -> None:
        """Remove objects; one that is not there is no error, and one may come back after a crash."""

    async def list_keys(self, prefix: str = "") -> list[str]:
        """Return the keys below `prefix`, which is empty or ends in a slash, sorted."""


class Register(Protocol):
    """A few small values by name, each changed by compare-and-swap. It decides what is true.

    Linearizable: a `read` that begins after a `swap` returned sees it, in every process. Durable on return. When
    `create` or `swap` raises StorageError, the change may have happened or not; read to find out. Raises UsageError for
    a bad name or a value above `MAX_REGISTER_BYTES`.
    """

    async def read(self, name: str) -> bytes | None:
        """Return the value, None when it was never created."""

    async def create(self, name: str, value: bytes) -> None:
        """Set a value that is not there yet. Raises ConflictError when it is, whatever it is."""

    async def swap(self, name: str, old: bytes, new: bytes) -> None:
        """Set the value to `new` if it is `old`. Raises ConflictError when it is not, or was never created."""


def check_value(name: str, value: bytes) -> None:
    """Raise UsageError for a name or value that no register takes."""
    check_key(name)
    if len(value) > MAX_REGISTER_BYTES:
        raise UsageError(
            Reason.TOO_LARGE, f"a register holds at most {MAX_REGISTER_BYTES} bytes, {name} would have {len(value)}"
        )
