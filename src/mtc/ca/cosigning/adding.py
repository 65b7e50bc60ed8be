"""Adding a cosigner to a CA's configuration: what is appended to `ca.toml` was read back and checked before."""

import contextlib
import os
from pathlib import Path

from mtc.ca.config import CONFIG_NAME, parse_config, read_config
from mtc.ca.cosigning.config import CosignerTable, format_cosigner
from mtc.ca.cosigning.pool import check_not_own
from mtc.ca.folder import CAFolder
from mtc.errors import Reason, StorageError, UsageError
from mtc.note import SignatureType, VerifierKey


def add_cosigner(folder: Path, table: CosignerTable) -> bool:
    """Append a cosigner to a CA's configuration; everything else in the file stays as it is, comments too.

    Returns False when it stands there already, just so. Raises UsageError when it cannot be, or its name stands for
    another one; StorageError.
    """
    ca = CAFolder.read(folder)
    key = VerifierKey.from_spki(
        ca.config.ca_id.oid_name, SignatureType.COSIGNATURE_MLDSA44, ca.certificate.public_key.public_key
    )
    before = ca.config.cosigning
    there = next((item for item in before.tables if item.name == table.name), None)
    if there == table:
        return False
    path = folder / CONFIG_NAME
    if there is not None:
        raise UsageError(
            Reason.CONFLICT, f"{path} has another cosigner called {table.name}; change it there, or choose another name"
        )
    old = path.read_text("utf-8")
    new = f"{old}{'' if old.endswith(chr(10)) else chr(10)}\n{format_cosigner(table)}"
    config = parse_config(new.encode(), str(path), folder)
    for peer in config.cosigning.peers:
        check_not_own(peer, key)
    replace_file(path, new.encode())
    assert read_config(folder) == config
    return True


def replace_file(path: Path, data: bytes) -> None:
    """Replace a file, whole or not at all, keeping who may read it. Raises StorageError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("xb") as file:
            os.fchmod(file.fileno(), path.stat().st_mode & 0o777)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        handle = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        text = (error.strerror or str(error)).lower()
        raise StorageError(Reason.STORAGE, f"{path} cannot be written: {text}") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
