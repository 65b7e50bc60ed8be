"""The signer's folder: configuration, key, record and journal, and the lock that lets one process in.

signer.toml      what the key is for
key.pem          the key (PKCS#8, mode 0600, perhaps encrypted)
register.sqlite  the last tree of each log and the last revocation lists that were signed
journal.jsonl    every message, written before it was signed
signer.sock      where the CA asks
"""

import asyncio
import contextlib
import fcntl
import hashlib
import os
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from mtc.crypto import LocalSigner, Signer, generate_key
from mtc.errors import Reason, StorageError, UsageError
from mtc.signer.config import CONFIG_NAME, MAX_CONFIG_BYTES, SignerConfig, format_signer_config, parse_signer_config
from mtc.signer.service.backends import open_key, read_key
from mtc.web.files import read_config_file

KEY_NAME = "key.pem"
REGISTER_NAME = "register.sqlite"
JOURNAL_NAME = "journal.jsonl"
SOCKET_NAME = "signer.sock"
PASSPHRASE_VARIABLE = "MTC_SIGNER_PASSPHRASE"  # noqa: S105 - the name of a variable
_LOCK_NAME = ".lock"
_MAX_PASSPHRASE_BYTES = 4096
_LOCK_POLL_S = 0.02


@dataclass(frozen=True, slots=True)
class LoadedSigner:
    """What a folder says: what the key is for, and the key."""

    config: SignerConfig
    key: Signer


def read_passphrase(environ: Mapping[str, str], file: str | None = None) -> bytes | None:
    """Return the passphrase from a file's first line or from `MTC_SIGNER_PASSPHRASE`; None without both.

    Never asks. Raises UsageError for a file that cannot be read, is empty, or that others may read.
    """
    if file is None:
        text = environ.get(PASSPHRASE_VARIABLE)
        return text.encode(errors="surrogateescape") if text else None
    try:
        with Path(file).open("rb") as opened:
            mode = os.fstat(opened.fileno()).st_mode
            data = opened.read(_MAX_PASSPHRASE_BYTES + 1)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is no file name"
        raise UsageError(Reason.UNREADABLE, f"the passphrase file {file} cannot be read: {why.lower()}") from None
    line = data.split(b"\n", 1)[0].removesuffix(b"\r")
    if not line or len(data) > _MAX_PASSPHRASE_BYTES:
        raise UsageError(Reason.UNREADABLE, f"the passphrase file {file} must hold the passphrase in its first line")
    if mode & 0o077:
        raise UsageError(Reason.BAD_KEY, f"others than its owner may read the passphrase file {file}; chmod 600 {file}")
    return line


def create_signer(folder: Path, config: SignerConfig, passphrase: bytes | None = None) -> bytes:
    """Make a signer's folder with a new key in a file, and return its public key (SPKI DER).

    Nothing is ever overwritten. A folder that a crash left with a key only is completed with that key; one that holds
    a signer of the same configuration is left as it is, and its public key returned. Raises UsageError for one with
    another configuration, or whose key cannot be opened; StorageError.
    """
    if config.key.kind != "file":
        raise UsageError(
            Reason.USAGE, f"a key of kind {config.key.kind!r} is made by its own tools; write signer.toml by hand"
        )
    path = folder / config.key.options.get("path", KEY_NAME)
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (folder / CONFIG_NAME).exists():
            return _compare(folder, config, passphrase)
        if not path.exists():
            write_once(path, generate_key(config.signature_algorithm).encode_pem(passphrase), 0o600)
        # The key that lies there now counts, whoever of two processes wrote it.
        key = read_key(path, passphrase)
        _check_algorithm(path, config, key)
        source = replace(config.key, fingerprint=_fingerprint(key))
        write_once(folder / CONFIG_NAME, format_signer_config(replace(config, key=source)).encode(), 0o644)
    except OSError as error:
        raise StorageError(Reason.STORAGE, f"{folder} cannot be written: {error.strerror}", path=str(folder)) from None
    return _compare(folder, config, passphrase)


def _compare(folder: Path, config: SignerConfig, passphrase: bytes | None) -> bytes:
    """Return the public key of a signer that is there already, if it is the one that was asked for."""
    loaded = load_signer(folder, passphrase)
    there = replace(loaded.config, key=replace(loaded.config.key, fingerprint=config.key.fingerprint))
    if there != config:
        raise UsageError(
            Reason.CONFLICT,
            f"{folder} holds a signer already, for CA {there.ca_id} with other settings; nothing was changed. Choose "
            "another folder, or edit its signer.toml",
            folder=str(folder),
        )
    return loaded.key.public_key


def read_signer_config(folder: Path) -> SignerConfig:
    """Read a folder's configuration. Raises UsageError when there is none or it is wrong."""
    path = folder / CONFIG_NAME
    data = read_config_file(path, MAX_CONFIG_BYTES)
    if data is None:
        raise UsageError(
            Reason.UNREADABLE,
            f"{folder} holds no signer, {CONFIG_NAME} is missing; mtc ca init makes one, in the folder signer of a CA",
            file=str(path),
        )
    return parse_signer_config(data, str(path))


def load_signer(folder: Path, passphrase: bytes | None = None) -> LoadedSigner:
    """Read a folder's configuration and open its key. Raises UsageError that names the file, the fault and the cure."""
    config = read_signer_config(folder)
    key = open_key(folder, config.key, passphrase)
    _check_algorithm(folder, config, key)
    if _fingerprint(key) != config.key.fingerprint:
        raise UsageError(
            Reason.BAD_KEY,
            f"the key of {folder} is not the one that signer.toml was written for (key.sha256 = "
            f'"{config.key.fingerprint}"); bring the right key back',
            expected=config.key.fingerprint,
            got=_fingerprint(key),
        )
    return LoadedSigner(config, key)


def _check_algorithm(where: Path, config: SignerConfig, key: Signer | LocalSigner) -> None:
    """Refuse a key of another algorithm than the configuration's."""
    if key.algorithm.name != config.algorithm:
        raise UsageError(
            Reason.ALGORITHM_MISMATCH,
            f"{where}: the key is of {key.algorithm.name}, but signer.toml says {config.algorithm}; "
            "bring the right key back",
            expected=config.algorithm,
            got=key.algorithm.name,
        )


def _fingerprint(key: Signer | LocalSigner) -> str:
    """Return the SHA-256 of a public key, hex."""
    return hashlib.sha256(key.public_key).hexdigest()


def write_once(path: Path, data: bytes, mode: int) -> None:
    """Make a file durable under its name, whole or not at all; one that is there stays as it is. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextlib.asynccontextmanager
async def locked(folder: Path, patience_s: float = 0.0) -> AsyncIterator[None]:
    """Hold a signer's folder for this process; the kernel lets go of it when the process dies.

    patience_s: how long to wait for another process that is about to end. Raises UsageError (BUSY), StorageError.
    """
    try:
        handle = os.open(folder / _LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StorageError(Reason.STORAGE, f"{folder} cannot be locked: {error.strerror}", path=str(folder)) from None
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(patience_s):
                while not _try_lock(handle):  # noqa: ASYNC110 - a lock of the kernel tells nobody that it is free
                    await asyncio.sleep(_LOCK_POLL_S)
        if not _try_lock(handle):
            raise UsageError(
                Reason.BUSY, f"another signer runs on {folder}; exactly one may, stop that one first", path=str(folder)
            )
        yield
    finally:
        os.close(handle)


def _try_lock(handle: int) -> bool:
    """Take the lock if it is free or held by this handle."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
