"""The folder of a certificate as `mtc request` keeps it, read for a server: both forms and the classical fallback.

The layout is written down in docs/request.md, "What lies where".
"""

from dataclasses import dataclass
from pathlib import Path

from mtc.errors import FormatError, Reason, UsageError
from mtc.tls.paths import CertificationPath, parse_paths
from mtc.web.files import read_file

MAX_FILE_BYTES = 1 << 20
"""Largest file of certificates or of a key."""


@dataclass(frozen=True, slots=True)
class RequestFolder:
    """What lay in a folder at one moment. paths: landmark-relative first. version: where they were read from."""

    paths: tuple[CertificationPath, ...]
    fallback: CertificationPath | None
    version: Path


def load_request_folder(folder: Path) -> RequestFolder:
    """Read the certificates under `folder` (`DIR/NAME`) that are deployed now.

    The link `current` is followed once, so that all files are of one version. Without `landmark.pem` there is the
    standalone certificate alone, without `classical` no fallback. Raises UsageError when a file is missing or cannot be
    read, FormatError when it is damaged.
    """
    version = _resolve(folder / "current")
    key = read_file(version / "key.pem", MAX_FILE_BYTES)
    paths: list[CertificationPath] = []
    if (version / "landmark.pem").exists():
        paths.extend(_parse(version / "landmark.pem", read_file(version / "landmark.pem", MAX_FILE_BYTES), key))
    paths.extend(_parse(version / "standalone.pem", read_file(version / "standalone.pem", MAX_FILE_BYTES), key))
    fallback = None
    if (version / "classical").exists():
        classical = _resolve(version / "classical")
        text = read_file(classical / "fullchain.pem", MAX_FILE_BYTES)
        (fallback,) = _parse(classical / "fullchain.pem", text, read_file(classical / "key.pem", MAX_FILE_BYTES))
    return RequestFolder(tuple(paths), fallback, version)


def _parse(path: Path, text: bytes, key: bytes) -> tuple[CertificationPath, ...]:
    """Return the paths of a file; errors name it."""
    try:
        return parse_paths(text, key)
    except (FormatError, UsageError) as error:
        raise type(error)(error.reason, f"{path}: {error.message}", **error.facts) from None


def _resolve(path: Path) -> Path:
    """Follow a link to a folder that exists."""
    try:
        return path.resolve(strict=True)
    except OSError as error:
        raise UsageError(
            Reason.UNREADABLE, f"{path} cannot be followed: {error.strerror}; run mtc request first"
        ) from None
