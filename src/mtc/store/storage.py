"""The one place where programs name a backend: by a URL, so that another one is another text in a configuration."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mtc.errors import Reason, UsageError
from mtc.store.contract import ObjectStore, Register
from mtc.store.files import FileStore
from mtc.store.sqlite import SQLiteRegister

REGISTER_NAME = "register.sqlite"
"""The register beside the objects of the backend `file`."""


@dataclass(frozen=True, slots=True)
class Storage:
    """Objects and register of one program. close: lets go of both."""

    objects: ObjectStore
    register: Register
    close: Callable[[], None]


def open_storage(url: str, base: Path, *, is_writer: bool = True) -> Storage:
    """Open the storage that a configuration names, `file:FOLDER` relative to `base`.

    is_writer: for one process at a time. Raises UsageError for another scheme, StorageError when the storage cannot be
    opened or another process writes to it.
    """
    scheme, colon, place = url.partition(":")
    if scheme != "file" or not colon or not place or place.startswith("//"):
        raise UsageError(Reason.USAGE, f"{url!r} names no storage here; write file:FOLDER")
    folder = base / place
    objects = FileStore.open(folder, is_writer=is_writer)
    try:
        register = SQLiteRegister.open(folder / REGISTER_NAME)
    except BaseException:
        objects.close()
        raise

    def close() -> None:
        try:
            register.close()
        finally:
            objects.close()

    return Storage(objects, register, close)
