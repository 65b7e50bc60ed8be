"""Where the command line reads a CA's logs: a folder, or the prefix URL over HTTP with limits on size and time.

Nothing that comes from here is believed before it is proven.

Spec: C2SP mtc-tlog and tlog-tiles for the URLs.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from mtc import __version__
from mtc.ca.proofs import ObjectSource
from mtc.errors import PeerError, Reason, UsageError
from mtc.landmark import MAX_LANDMARKS_BYTES
from mtc.note import MAX_NOTE_BYTES
from mtc.store import FileStore
from mtc.tiles import MAX_BUNDLE_BYTES, TILE_WIDTH
from mtc.web.client import ClientLimits, HTTPClient

MAX_CA_BYTES = 1 << 16
"""Largest CA certificate fetched."""
_CONNECTIONS = 6
_MAX_AGE = re.compile(r"(?:^|[,\s])max-age=([0-9]{1,9})\b", re.ASCII)


class LogSource(ObjectSource):
    """Where a CA's logs are read. max_age_s: how long the server lets caches keep the landmarks file, None unsaid."""

    max_age_s: int | None = None


class FolderSource(LogSource):
    """The folder of a CA, or a copy of what it serves."""

    def __init__(self, store: FileStore) -> None:
        """Use `open`."""
        self._store = store

    @staticmethod
    def open(folder: Path) -> "FolderSource":
        """Open a folder; a CA keeps what it serves in `public`. Raises UsageError when it is none."""
        if not folder.is_dir():
            raise UsageError(
                Reason.UNREADABLE, f"{folder} is neither a folder nor a URL that begins with http", log=str(folder)
            )
        public = folder / "public"
        return FolderSource(FileStore.open(public if public.is_dir() else folder, is_writer=False))

    async def fetch(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the files, None for one that is not there."""
        return await self._store.fetch(keys)


class HTTPSource(LogSource):
    """A CA's prefix URL. 404 and 410 mean that there is no such object."""

    def __init__(self, client: HTTPClient, base: str) -> None:
        """Take the client, which limits time and retries, and the URL without a slash at its end."""
        self._client = client
        self._base = base

    async def fetch(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the objects, a few at a time. Raises PeerError."""
        answers = await asyncio.gather(*(self._read(key) for key in keys), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return [answer for answer in answers if not isinstance(answer, BaseException)]

    async def _read(self, key: str) -> bytes | None:
        """Return one object, None when it is not there."""
        url = f"{self._base}/{key}"
        answer = await self._client.fetch(url, most=_limit_of(key))
        if answer.status in (404, 410):
            return None
        if answer.status != 200:
            raise PeerError(Reason.PEER, f"{url} answered with status {answer.status}", url=url, status=answer.status)
        if key.endswith("/landmarks") and (match := _MAX_AGE.search(answer.headers.get("cache-control", ""))):
            self.max_age_s = int(match[1])
        return answer.body


@asynccontextmanager
async def open_log(log: str) -> AsyncIterator[LogSource]:
    """Open a CA's prefix URL or folder. Raises UsageError for what is neither."""
    if not log.startswith(("http://", "https://")):
        yield FolderSource.open(Path(log))
        return
    async with HTTPClient(ClientLimits(connections=_CONNECTIONS), user_agent=f"mtc/{__version__}") as client:
        yield HTTPSource(client, log.rstrip("/"))


def _limit_of(key: str) -> int:
    """Return how large an object may be."""
    if "/tile/entries/" in key:
        return MAX_BUNDLE_BYTES
    if "/tile/" in key:
        return TILE_WIDTH * 32
    return {"landmarks": MAX_LANDMARKS_BYTES, "checkpoint": MAX_NOTE_BYTES}.get(key.rpartition("/")[2], MAX_CA_BYTES)
