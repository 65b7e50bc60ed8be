"""What all parts of a check share: where files are read, the folder, its registers, and where findings go."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, runtime_checkable

from mtc.ca.folder import CAFolder
from mtc.ca.fsck.registers import RegisterCopy, copy_register
from mtc.kernel import active_kernel
from mtc.log.fsck import Findings
from mtc.merkle import Hasher
from mtc.note import SignatureType, VerifierKey
from mtc.store import ObjectStore
from mtc.store.storage import REGISTER_NAME

Tell = Callable[[str, int, int], None]
"""Hears what is done, how much of it, and how much there is."""


class ObjectFiles(Protocol):
    """Where the files of a CA are read: a folder's `public`, or its prefix URL."""

    async def fetch(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return files by their paths below the prefix, None for one that is not there."""


@runtime_checkable
class ListedFiles(ObjectFiles, Protocol):
    """Files that can also be listed."""

    async def list_paths(self, prefix: str) -> list[str] | None:
        """Return the paths below `prefix`, which is empty or ends in a slash; None where nobody can tell."""


class ServedFiles:
    """`LogFiles` over whatever gives a CA's files. Findings name them by their paths below the prefix."""

    def __init__(self, source: ObjectFiles) -> None:
        """Take the source."""
        self._source = source

    async def fetch(self, paths: Sequence[str]) -> list[bytes | None]:
        """Return files."""
        return await self._source.fetch(paths)

    async def list_paths(self, prefix: str) -> list[str] | None:
        """Return paths, None where nobody can tell."""
        return await self._source.list_paths(prefix) if isinstance(self._source, ListedFiles) else None

    def name(self, path: str) -> str:
        """Return the path."""
        return path


@dataclass(frozen=True, slots=True)
class FolderTask:
    """A folder that is checked. files: of its `public`. store: all its objects. now: aware."""

    folder: CAFolder
    files: ServedFiles
    store: ObjectStore
    findings: Findings
    now: datetime
    tell: Tell

    @property
    def hasher(self) -> Hasher:
        """The hash of the CA's logs."""
        return active_kernel().hasher(self.folder.certificate.hash.name)

    @property
    def key(self) -> VerifierKey:
        """The CA cosigner's key under the name that it has in notes."""
        certificate = self.folder.certificate
        public_key = certificate.public_key.public_key
        return VerifierKey.from_spki(certificate.ca_id.oid_name, SignatureType.COSIGNATURE_MLDSA44, public_key)

    @property
    def keys(self) -> tuple[VerifierKey, ...]:
        """The CA cosigner's key, and those of the configured cosigners."""
        return (self.key, *self.folder.config.cosigning.keys)

    async def read_register(self, findings: Findings | None = None) -> RegisterCopy:
        """Return what the register holds now; what is wrong with it goes to `findings`."""
        path = self.folder.path / self.folder.config.storage.partition(":")[2] / REGISTER_NAME
        return await copy_register(path, REGISTER_NAME, Findings() if findings is None else findings)
