"""The ledger's objects in their store: protected when they are written, checked and parsed when they are read."""

import asyncio
from collections.abc import Mapping, Sequence

from mtc.errors import ConflictError, FormatError, Reason
from mtc.kernel import RECORD_BYTES
from mtc.log.ledger.formats import SignedRound, open_object, protect
from mtc.log.ledger.memory import ObjectCache
from mtc.log.ledger.pages import KeyTable, Page, Run, page_key, table_key
from mtc.store import ObjectStore

_LARGE_BYTES = 1 << 18
"""Objects that are larger together are protected in a thread, so that the event loop goes on."""


class MissingError(Exception):
    """A bucket is not there: its run was merged or pruned meanwhile, or it is lost."""


class LedgerObjects:
    """The objects of one log's ledger. Pages, tables and buckets that were read lately are kept."""

    def __init__(self, store: ObjectStore, log_number: int, cached_bytes: int) -> None:
        """Keep at most `cached_bytes` in memory."""
        self.store = store
        self.log_number = log_number
        self._cache = ObjectCache(cached_bytes)
        # Counts the pages that were written again, so that no reader keeps one that it fetched before.
        self._rewritten = 0

    async def write(self, objects: Mapping[str, bytes]) -> None:
        """Store bodies by key, over others. Their bytes are the same whenever a step is repeated after a crash."""
        if sum(map(len, objects.values())) < _LARGE_BYTES:
            whole = _protect_all(objects)
        else:
            whole = await asyncio.to_thread(_protect_all, objects)
        await self.store.replace(whole)

    async def write_rounds(self, rounds: Sequence[SignedRound]) -> None:
        """Store single rounds."""
        key_of, number = SignedRound.key_of, self.log_number
        await self.write({key_of(number, round_.new_size): round_.encode() for round_ in rounds})

    async def write_page(self, span: tuple[int, int], rounds: Sequence[SignedRound]) -> None:
        """Write a page again, with rounds that were renewed."""
        key = page_key(self.log_number, *span)
        await self.write({key: await asyncio.to_thread(Page.encode, rounds)})
        self._rewritten += 1
        self._cache.drop(key)

    async def read(self, key: str) -> bytes:
        """Return the body of an object that must be there. Raises ConflictError when it is not, FormatError."""
        (data,) = await self.store.fetch([key])
        if data is None:
            raise lost(key)
        return open_object(key, data)

    async def page(self, span: tuple[int, int]) -> Page:
        """Return the page of entries [start, end)."""
        key = page_key(self.log_number, *span)
        found = self._cache.find(key)
        if not isinstance(found, Page):
            rewritten = self._rewritten
            body = await self.read(key)
            found = Page.parse(body)
            if rewritten == self._rewritten:
                self._cache.keep(key, found, len(body))
        return found

    async def table(self, span: tuple[int, int]) -> KeyTable | None:
        """Return the request keys of a page, None when they are not there."""
        key = table_key(self.log_number, *span)
        found = self._cache.find(key)
        if not isinstance(found, KeyTable):
            (data,) = await self.store.fetch([key])
            if data is None:
                return None
            found = KeyTable.parse(open_object(key, data))
            self._cache.keep(key, found, len(data))
        return found

    async def bucket(self, run: Run, bucket: int) -> bytes:
        """Return the records of a bucket. Raises MissingError when it is not there."""
        key = run.bucket_key(self.log_number, bucket)
        found = self._cache.find(key)
        if not isinstance(found, bytes):
            (data,) = await self.store.fetch([key])
            if data is None:
                raise MissingError(key)
            found = open_object(key, data)
            if len(found) % RECORD_BYTES:
                raise FormatError(Reason.BAD_LENGTH, f"{key} does not hold whole records", key=key)
            self._cache.keep(key, found, len(found))
        return found


def lost(key: str) -> ConflictError:
    """Make the error for an object that the ledger needs."""
    return ConflictError(
        Reason.CONFLICT,
        f"{key} is missing; without it requests would be certified twice. Bring the ledger of this moment back, or "
        "follow this log with the next one",
        key=key,
    )


def _protect_all(objects: Mapping[str, bytes]) -> dict[str, bytes]:
    """Return the objects to be stored for bodies by key."""
    return {key: protect(key, body) for key, body in objects.items()}
