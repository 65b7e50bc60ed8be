"""The thread that writes: it takes all commits that wait, and makes one transaction of them.

Each commit runs in a savepoint of its own, so that one which is refused is undone alone. The steps of a transaction,
and what a crash before the next one means:

1. every commit ran in the open transaction: nothing is kept;
2. the records' lines are in the journal, synced: nothing is kept; the next start voids the lines;
3. the transaction is committed, synced: everything is kept, the callers were not told;
4. the callers were told.

When step 2 or 3 fails, all commits of the transaction fail with StorageError, and lines that are in the journal are
voided. Only one thing cannot be known: whether a commit whose sync failed survives the death of the process. If it
does, the next start writes its lines again.
"""

import asyncio
import contextlib
import errno
import sqlite3
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue

from mtc.acme.journal import MAX_UNKNOWN, EvidenceJournal
from mtc.acme.sqlite import queries
from mtc.acme.sqlite.changes import Batch, Operation
from mtc.acme.sqlite.rows import journal_line, read_record
from mtc.errors import ConflictError, Error, Reason, StorageError, UsageError

MAX_CHANGES = 500
"""Most changes of one commit: an order of a hundred names changes as many authorizations and puts as many records."""
_GROUP_CHANGES = MAX_UNKNOWN - MAX_CHANGES
"""Changes after which no further commit joins a transaction, so that it never puts more records than `MAX_UNKNOWN`."""
_RESTORED_AT_ONCE = 1000


@dataclass(slots=True)
class _Job:
    """One commit. future: None when nobody waits. ids: what its records got. error: why it was refused."""

    operations: Sequence[Operation]
    loop: asyncio.AbstractEventLoop | None
    future: "asyncio.Future[tuple[int, ...]] | None"
    ids: tuple[int, ...] = ()
    error: Error | None = field(default=None)


class Writer:
    """Owns the connection that writes, and the journal. guard: held while a transaction is open."""

    def __init__(
        self,
        path: Path,
        connection: sqlite3.Connection,
        journal: EvidenceJournal | None,
        guard: AbstractContextManager[object],
    ) -> None:
        """Take what it writes to; `start` begins."""
        self._path = path
        self._connection = connection
        self._journal = journal
        self._guard = guard
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="acme-writer", daemon=True)
        self.is_closed = False

    def start(self) -> None:
        """Bring journal and database together, and begin to write. Raises StorageError."""
        try:
            if self._journal is not None:
                self._recover(self._journal)
        except (sqlite3.Error, OSError) as error:
            raise storage_error(self._path, error) from error
        self._thread.start()

    def _recover(self, journal: EvidenceJournal) -> None:
        """Void lines that the database does not know; write those again that the journal does not have."""
        known = self._connection.execute(queries.LAST_RECORD_ID).fetchone()[0] or 0
        standing = journal.recover(known)
        while standing < known:
            rows = self._connection.execute(queries.LIST_RECORDS_AFTER, (standing, _RESTORED_AT_ONCE)).fetchall()
            records = [read_record(row) for row in rows]
            lines = [journal_line(record, record.id) for record in records]
            journal.append(lines, max(record.moment for record in records).date(), records[-1].id)
            standing = records[-1].id

    async def commit(self, operations: Sequence[Operation]) -> tuple[int, ...]:
        """Run operations, all or none, durable on return. Returns the IDs of the records among them.

        Raises ConflictError, StorageError, and UsageError for more than `MAX_CHANGES`.
        """
        if len(operations) > MAX_CHANGES:
            raise UsageError(Reason.USAGE, f"a commit makes at most {MAX_CHANGES} changes, not {len(operations)}")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[tuple[int, ...]] = loop.create_future()
        self._submit(_Job(operations, loop, future))
        return await future

    def commit_later(self, operations: Sequence[Operation]) -> None:
        """Run operations that nobody waits for, with the next commits; an error is nobody's."""
        self._submit(_Job(operations, None, None))

    def _submit(self, job: _Job) -> None:
        if self.is_closed:
            raise StorageError(Reason.STORAGE, f"{self._path} is closed", path=str(self._path))
        self._jobs.put(job)

    def close(self) -> None:
        """Write what waits, then close."""
        if not self.is_closed:
            self.is_closed = True
            self._jobs.put(None)
            self._thread.join()
            self._connection.close()
            if self._journal is not None:
                self._journal.close()

    def _run(self) -> None:
        """Write until the end is asked for."""
        is_open = True
        while is_open:
            group: list[_Job] = []
            changes = 0
            job = self._jobs.get()
            with contextlib.suppress(Empty):
                while job is not None:
                    group.append(job)
                    changes += len(job.operations)
                    if changes > _GROUP_CHANGES:
                        break
                    job = self._jobs.get_nowait()
            is_open = job is not None
            if group:
                with self._guard:
                    self._write(group)
                _answer(group)

    def _write(self, group: Sequence[_Job]) -> None:
        """Make one transaction of a group; leave in each job its IDs or its error."""
        connection, journal = self._connection, self._journal
        written: tuple[int, int] | None = None
        try:
            connection.execute("BEGIN IMMEDIATE")
            first = self._next_id()
            batch = Batch(first)
            for job in group:
                self._apply(job, batch)
            if batch.lines and journal is not None:
                journal.append(batch.lines, batch.day, batch.next_id - 1)
                written = (first, batch.next_id - 1)
            connection.execute("COMMIT")
        except Exception as error:  # noqa: BLE001 - whatever it is, callers are told, and the next group is tried
            if connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
            if written is not None and journal is not None:
                journal.void(*written)
            for job in group:
                # Also those that were refused: what refused them may be what was not kept.
                job.error = storage_error(self._path, error)

    def _next_id(self) -> int:
        """Return the ID of the next record, higher than any in the database or in the journal, void ones included."""
        known = self._connection.execute(queries.LAST_RECORD_ID).fetchone()[0] or 0
        return 1 + max(known, 0 if self._journal is None else self._journal.last_id)

    def _apply(self, job: _Job, batch: Batch) -> None:
        """Run the operations of a commit, or none of them."""
        connection, mark = self._connection, batch.mark()
        connection.execute("SAVEPOINT one")
        try:
            for operation in job.operations:
                operation(connection, batch)
        except ConflictError as error:
            connection.execute("ROLLBACK TO one")
            batch.reset(mark)
            job.error = error
        connection.execute("RELEASE one")
        job.ids = tuple(range(mark[0], batch.next_id))


def _answer(group: Sequence[_Job]) -> None:
    """Tell those who wait; each loop is woken once."""
    waiting: dict[asyncio.AbstractEventLoop, list[_Job]] = {}
    for job in group:
        if job.loop is not None:
            waiting.setdefault(job.loop, []).append(job)
    for loop, jobs in waiting.items():
        # A loop that has ended has nobody who waits.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(_resolve, jobs)


def _resolve(jobs: Sequence[_Job]) -> None:
    """Settle futures, in their loop."""
    for job in jobs:
        if job.future is None or job.future.done():
            continue
        if job.error is not None:
            job.future.set_exception(job.error)
        else:
            job.future.set_result(job.ids)


def storage_error(path: Path, error: Exception) -> StorageError:
    """Return the error for what SQLite or the file system said, with what to do."""
    if isinstance(error, StorageError):
        return StorageError(error.reason, error.message, **error.facts)
    code = getattr(error, "sqlite_errorcode", None)
    is_full = code == sqlite3.SQLITE_FULL or (
        isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    )
    cure = "; free some space, nothing is lost meanwhile" if is_full else ""
    return StorageError(Reason.STORAGE, f"the ACME server's database {path} failed: {error}{cure}", path=str(path))
