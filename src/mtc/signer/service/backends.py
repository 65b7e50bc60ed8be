"""Who opens the key: a file here, a token or a remote signer where somebody wrote a back end.

A back end is a function of `KeyOpener`'s shape. It is found by the `kind` of `signer.toml`: among those registered in
this process, then among the installed packages' entry points of the group `mtc.key_backends`.
"""

import contextlib
import os
import stat
from collections.abc import Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Protocol

from mtc.crypto import LocalSigner, Signer, parse_private_key
from mtc.errors import Error, Reason, UsageError
from mtc.signer.config import KeySource
from mtc.signer.service.keyholder import ThreadSigner

ENTRY_POINT_GROUP = "mtc.key_backends"
_MAX_KEY_BYTES = 1 << 16


class KeyOpener(Protocol):
    """Opens the key that a `signer.toml` names."""

    def __call__(self, folder: Path, options: Mapping[str, str], passphrase: bytes | None) -> Signer:
        """Return the key. folder: of the signer. options: of the table `[key]`, beside kind and sha256.

        passphrase: of the file, or the PIN of the token; None when none was given. Nothing may be asked for at a
        terminal. `Signer.sign` is called several times at once; it ends by itself, and raises an `mtc.errors.Error`
        when it cannot sign. Raises UsageError that names the option, the fault and the cure.
        """


def open_file_key(folder: Path, options: Mapping[str, str], passphrase: bytes | None) -> Signer:
    """Open a key in a PKCS#8 file that only its owner may read. options: `path`, relative to the folder."""
    if options.keys() != {"path"}:
        raise UsageError(
            Reason.USAGE,
            f"a key of kind file has exactly one option, path; signer.toml has {', '.join(options) or 'none'}",
        )
    return ThreadSigner(read_key(folder / options["path"], passphrase))


def read_key(path: Path, passphrase: bytes | None) -> LocalSigner:
    """Read a private key from a file of mode 0600 or stricter. Raises UsageError."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            data = file.read(_MAX_KEY_BYTES)
    except FileNotFoundError:
        raise UsageError(
            Reason.UNREADABLE, f"the key {path} is missing; bring it back from your backup", file=str(path)
        ) from None
    except OSError as error:
        raise UsageError(
            Reason.UNREADABLE, f"the key {path} cannot be read: {(error.strerror or '').lower()}", file=str(path)
        ) from None
    if mode & 0o077:
        raise UsageError(
            Reason.BAD_KEY, f"others than its owner may use the key {path} (mode {mode:04o}); chmod 600 {path}"
        )
    try:
        return parse_private_key(data, passphrase)
    except Error as error:
        cure = "" if passphrase else "; give the passphrase with --passphrase-file or MTC_SIGNER_PASSPHRASE"
        is_about_passphrase = isinstance(error, UsageError)
        raise UsageError(
            error.reason, f"{path}: {error.message}{cure if is_about_passphrase else ''}", file=str(path)
        ) from None


_OPENERS: dict[str, KeyOpener] = {"file": open_file_key}


def register_key_backend(kind: str, opener: KeyOpener) -> None:
    """Add a back end to this process. Raises UsageError when the kind is taken by another."""
    if _OPENERS.setdefault(kind, opener) is not opener:
        raise UsageError(Reason.USAGE, f"the kind of key {kind!r} is taken")


def open_key(folder: Path, source: KeySource, passphrase: bytes | None) -> Signer:
    """Open the key that a configuration names. Raises UsageError that says which kinds there are, or what is wrong."""
    opener = _OPENERS.get(source.kind)
    if opener is None:
        opener = _load_opener(source.kind)
    return opener(folder, source.options, passphrase)


def _load_opener(kind: str) -> KeyOpener:
    """Return the back end of an installed package."""
    installed = {point.name: point for point in entry_points(group=ENTRY_POINT_GROUP)}
    if kind not in installed:
        names = ", ".join(sorted({*_OPENERS, *installed}))
        raise UsageError(
            Reason.USAGE, f"{kind!r} is no kind of key here; there are {names}. Is its package installed?", key=kind
        )
    with contextlib.suppress(ImportError, AttributeError):
        opener: KeyOpener = installed[kind].load()
        return opener
    raise UsageError(Reason.USAGE, f"the back end for keys of kind {kind!r} cannot be loaded; is its package whole?")
