"""`ACMEStore` in SQLite: one thread writes what many ask for, point reads run where they are asked.

The database is in write-ahead mode, so that readers and the writer do not wait for each other, and another process (an
admin's command) may read and write beside the server. Every read asks the database; only rate limits are kept here.
"""

import asyncio
import os
import sqlite3
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from pathlib import Path

from mtc.acme.journal import EvidenceJournal, make_folder
from mtc.acme.machine.evidence import EvidenceRecord
from mtc.acme.machine.identifiers import Identifier
from mtc.acme.machine.orders import Account, Authorization, Order, OrderStatus
from mtc.acme.machine.renewal import Hastened, RenewalWindow
from mtc.acme.sqlite import blocks, queries
from mtc.acme.sqlite.changes import Batch, plan_change
from mtc.acme.sqlite.limits import MAX_KEYS, RateLimits
from mtc.acme.sqlite.rows import (
    Row,
    external_row,
    micros_of,
    moment_of,
    read_account,
    read_authorization,
    read_external,
    read_order,
    read_record,
)
from mtc.acme.sqlite.schema import apply_migrations
from mtc.acme.sqlite.writer import Writer, storage_error
from mtc.acme.store import Change, ExternalAccount, RateLimit
from mtc.errors import ConflictError, Reason, StorageError, UsageError

DATABASE_NAME = "acme.sqlite"
"""How the file is called in a CA's folder for ACME."""
EVIDENCE_NAME = "evidence"
"""How the folder of the journal is called beside it."""
_BUSY_MS = 5000
"""How long a statement waits for another process's."""
_PRUNED_AT_ONCE = 500
_MEMORY = Path(":memory:")
_TOLD_APART = frozenset({OrderStatus.INVALID, OrderStatus.VALID, OrderStatus.PROCESSING, OrderStatus.PENDING})


class SQLiteACMEStore:
    """`ACMEStore` in one database file, with a journal of evidence in a folder. For one event loop at a time."""

    def __init__(self, path: Path, reader: "_Reader", writer: Writer, limits: RateLimits) -> None:
        """Use `open`."""
        self._path = path
        self._reader = reader
        self._writer = writer
        self._limits = limits

    @staticmethod
    def open(path: Path, journal: Path | None) -> "SQLiteACMEStore":
        """Open a database, made or brought to the newest schema where needed. Raises StorageError.

        path: the file; `:memory:` for one that ends with this process. journal: the folder of the evidence, None where
        no evidence is put; one process at a time.
        """
        opened: list[sqlite3.Connection] = []
        kept = None
        try:
            if path != _MEMORY:
                _make_file(path)
            connection = _connect(path, opened)
            apply_migrations(connection, path)
            reader = _Reader.open(path, opened)
            limits = RateLimits((row[0], row[1], row[2]) for row in reader.all(queries.LIST_RATES, (MAX_KEYS,)))
            kept = None if journal is None else EvidenceJournal.open(journal)
            writer = Writer(path, connection, kept, reader.guard)
            writer.start()
        except BaseException as error:
            for item in opened:
                item.close()
            if kept is not None:
                kept.close()
            if isinstance(error, sqlite3.Error | OSError):
                raise storage_error(path, error) from error
            raise
        return SQLiteACMEStore(path, reader, writer, limits)

    async def close(self) -> None:
        """Write what is left and close. Calls after this fail."""
        if not self._writer.is_closed:
            self._writer.commit_later([self._limits.plan_write(None)])
            await asyncio.to_thread(self._writer.close)
            self._reader.close()

    # Changes.

    async def commit(self, *changes: Change) -> tuple[int, ...]:
        """Apply changes, all or none, durable on return."""
        return await self._writer.commit([plan_change(change) for change in changes])

    async def _count(self, statement: str, parameters: tuple[object, ...]) -> int:
        """Run one statement as a commit; return how many rows it changed."""
        counts: list[int] = []

        def run(connection: sqlite3.Connection, _batch: Batch) -> None:
            counts.append(connection.execute(statement, parameters).rowcount)

        await self._writer.commit([run])
        return counts[0]

    async def prune(self, before: datetime) -> tuple[int, int]:
        """Forget orders and authorizations whose end was before a time; return how many of each.

        An order ends with its certificate, or by itself when it was not finalized; one in processing stays. An
        authorization ends with the last order that names it. Evidence stays.
        """
        pruned = []
        for statement in (queries.PRUNE_ORDERS, queries.PRUNE_AUTHORIZATIONS):
            # In small bites, so that other commits come in between.
            total = 0
            while count := await self._count(statement, (micros_of(before), _PRUNED_AT_ONCE)):
                total += count
            pruned.append(total)
        return pruned[0], pruned[1]

    # Accounts.

    async def find_account(self, account_id: str) -> Account | None:
        """Return an account."""
        row = self._reader.one(queries.FIND_ACCOUNT, (account_id,))
        return None if row is None else read_account(row)

    async def find_account_by_key(self, thumbprint: str) -> Account | None:
        """Return the account with a key, whatever its status."""
        row = self._reader.one(queries.FIND_ACCOUNT_BY_KEY, (thumbprint,))
        return None if row is None else read_account(row)

    async def list_accounts(self, *, after: str = "", most: int = 100) -> list[Account]:
        """Return accounts, newest first, after the one with the ID `after`."""
        query = queries.list_accounts(has_after=bool(after))
        rows = await self._reader.all_later(query, (*([after] if after else []), most))
        return [read_account(row) for row in rows]

    # Authorizations.

    async def find_authorizations(self, ids: Sequence[str]) -> list[Authorization]:
        """Return authorizations in the order of their IDs. Raises StorageError when one is missing."""
        found = []
        for authorization_id in ids:
            row = self._reader.one(queries.FIND_AUTHORIZATION, (authorization_id,))
            if row is None:
                raise StorageError(
                    Reason.DAMAGED,
                    f"authorization {authorization_id} is not in {self._path}, though an order names it",
                    id=authorization_id,
                )
            found.append(read_authorization(row))
        return found

    async def find_authorization(self, authorization_id: str) -> Authorization | None:
        """Return an authorization."""
        row = self._reader.one(queries.FIND_AUTHORIZATION, (authorization_id,))
        return None if row is None else read_authorization(row)

    async def find_valid(
        self, account_id: str, identifiers: Sequence[Identifier], until: datetime
    ) -> dict[Identifier, Authorization]:
        """Return, by identifier, the account's valid authorization that expires last, if that is after `until`."""
        found = {}
        for item in identifiers:
            row = self._reader.one(queries.FIND_VALID, (account_id, str(item.type), item.value, micros_of(until)))
            if row is not None:
                found[item] = read_authorization(row)
        return found

    async def list_running(self) -> list[Authorization]:
        """Return all pending authorizations with a challenge in processing; for the start after a crash."""
        return [read_authorization(row) for row in await self._reader.all_later(queries.LIST_RUNNING)]

    # Orders.

    async def find_order(self, order_id: str) -> Order | None:
        """Return an order."""
        row = self._reader.one(queries.FIND_ORDER, (order_id,))
        return None if row is None else read_order(row)

    async def find_order_at(self, log_number: int, index: int) -> Order | None:
        """Return the order whose entry stands there, as far as its place was noted."""
        row = self._reader.one(queries.FIND_ORDER_AT, (log_number, index))
        return None if row is None else read_order(row)

    async def find_replacement(self, certificate_id: str) -> Order | None:
        """Return the order, not invalid, that says it replaces a certificate; of several the newest.

        One that has expired without being finalized may be returned; it does not keep another one from being added.
        """
        row = self._reader.one(queries.FIND_REPLACEMENT, (certificate_id,))
        return None if row is None else read_order(row)

    async def list_orders(
        self, account_id: str | None = None, *, after: str = "", most: int = 100, status: OrderStatus | None = None
    ) -> list[Order]:
        """Return orders of an account, or of all, newest first, after the one with the ID `after`."""
        if status is not None and status not in _TOLD_APART:
            raise UsageError(
                Reason.USAGE, f"{status} orders are not told apart here; there are {', '.join(sorted(_TOLD_APART))}"
            )
        query = queries.list_orders(
            has_account=account_id is not None, has_status=status is not None, has_after=bool(after)
        )
        given = (account_id, None if status is None else str(status), after or None, most)
        rows = await self._reader.all_later(query, tuple(item for item in given if item is not None))
        return [read_order(row) for row in rows]

    async def list_unfinished(self) -> list[Order]:
        """Return all orders that are finalized, not issued and have no error; for the start after a crash."""
        return [read_order(row) for row in await self._reader.all_later(queries.LIST_UNFINISHED)]

    async def count_open_orders(self, account_id: str, now: datetime) -> int:
        """Return how many orders of an account are neither finalized nor invalid nor expired."""
        row = self._reader.one(queries.COUNT_OPEN_ORDERS, (account_id, micros_of(now)))
        return 0 if row is None else int(row[0])

    # Evidence.

    async def find_records(self, ids: Sequence[int]) -> list[EvidenceRecord]:
        """Return records of evidence in the order of their IDs; those that are missing are left out."""
        rows = [self._reader.one(queries.FIND_RECORD, (record_id,)) for record_id in ids]
        return [read_record(row) for row in rows if row is not None]

    async def list_records(self, order_id: str) -> list[EvidenceRecord]:
        """Return the records that name an order, oldest first."""
        return [read_record(row) for row in await self._reader.all_later(queries.LIST_RECORDS_OF_ORDER, (order_id,))]

    # Rate limits.

    async def take(self, limit: RateLimit, key: str, now: datetime, cost: int = 1) -> float:
        """Take from a rate limit. A cost above `burst` is never granted."""
        wait = self._limits.take(limit, key, now, cost)
        if self._limits.is_due(now):
            self._writer.commit_later([self._limits.plan_write(now)])
        return wait

    # External accounts.

    async def add_external(self, account: ExternalAccount) -> None:
        """Keep a key for external account binding. Raises ConflictError when its name is taken."""
        row = external_row(account)

        def add(connection: sqlite3.Connection, _batch: Batch) -> None:
            try:
                connection.execute(queries.ADD_EXTERNAL, row)
            except sqlite3.IntegrityError:
                raise ConflictError(
                    Reason.CONFLICT, f"external account {account.kid} is there already", kid=account.kid
                ) from None

        await self._writer.commit([add])

    async def find_external(self, kid: str) -> ExternalAccount | None:
        """Return a key for external account binding."""
        row = self._reader.one(queries.FIND_EXTERNAL, (kid,))
        return None if row is None else read_external(row)

    async def list_external(self) -> list[ExternalAccount]:
        """Return all of them, newest first; also those that are used or revoked."""
        return [read_external(row) for row in await self._reader.all_later(queries.LIST_EXTERNAL)]

    async def revoke_external(self, kid: str) -> None:
        """Revoke a key. Raises ConflictError when there is none."""
        if not await self._count(queries.REVOKE_EXTERNAL, (kid,)):
            raise ConflictError(Reason.CONFLICT, f"there is no external account {kid}", kid=kid)

    # Renewal.

    async def hasten(self, hastened: Hastened, now: datetime) -> None:
        """Have certificates renewed at another time; what was said last about an entry counts."""
        window = hastened.window
        row = (hastened.log_number, hastened.start, hastened.end, micros_of(window.start), micros_of(window.end))
        await self._count(queries.ADD_HASTENED, (*row, hastened.explanation_url, micros_of(now)))

    async def find_hastened(self, log_number: int, index: int) -> Hastened | None:
        """Return what was said last about the renewal of an entry's certificate, None when nothing was."""
        row = self._reader.one(queries.FIND_HASTENED, (log_number, index, index))
        if row is None:
            return None
        return Hastened(
            log_number=row[0],
            start=row[1],
            end=row[2],
            window=RenewalWindow(moment_of(row[3]), moment_of(row[4])),
            explanation_url=row[5],
        )

    # Blocks.

    async def block(self, kind: str, value: str, reason: str, now: datetime) -> None:
        """Block a name (kind "name": it and what is below it) or a key (kind "key": hash of the public key, hex)."""
        plain, parent = blocks.normalize(kind, value)
        await self._count(queries.ADD_BLOCK, (kind, plain, parent, reason, micros_of(now)))

    async def unblock(self, kind: str, value: str) -> bool:
        """Take a block back. Returns whether there was one."""
        return bool(await self._count(queries.REMOVE_BLOCK, (kind, blocks.normalize(kind, value)[0])))

    async def find_block(self, names: Sequence[str], key_hashes: Sequence[str]) -> tuple[str, str, str] | None:
        """Return kind, value and reason of a block that one of these falls under, None without one.

        A wildcard falls under a block of any name that it covers.
        """
        for query, parameters in blocks.plan_search(names, key_hashes):
            row = self._reader.one(query, parameters)
            if row is not None:
                return str(row[0]), str(row[1]), str(row[2])
        return None

    async def list_blocks(self) -> list[tuple[str, str, str, datetime]]:
        """Return kind, value, reason and time of all blocks, newest first."""
        rows = await self._reader.all_later(queries.LIST_BLOCKS)
        return [(row[0], row[1], row[2], moment_of(row[3])) for row in rows]


class _Reader:
    """The connections that read: one for the caller's thread, one for long lists in a thread of its own.

    guard: held by each read of a database in memory, which has one connection for everything; nothing otherwise.
    """

    def __init__(
        self, path: Path, near: sqlite3.Connection, far: sqlite3.Connection, guard: AbstractContextManager[object]
    ) -> None:
        """Use `open`."""
        self._path = path
        self._near = near
        self._far = far
        self.guard = guard
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="acme-reader")

    @staticmethod
    def open(path: Path, opened: list[sqlite3.Connection]) -> "_Reader":
        """Open the connections. opened: has the one that writes, and gets the others."""
        if path == _MEMORY:
            return _Reader(path, opened[0], opened[0], threading.Lock())
        near, far = _connect(path, opened), _connect(path, opened)
        for connection in (near, far):
            connection.execute("PRAGMA query_only = ON")
        return _Reader(path, near, far, nullcontext())

    def one(self, query: str, parameters: tuple[object, ...] = ()) -> Row | None:
        """Return the first row, None without one; some 20 µs."""
        with self.guard:
            try:
                row: Row | None = self._near.execute(query, parameters).fetchone()
            except sqlite3.Error as error:
                raise storage_error(self._path, error) from error
        return row

    def all(self, query: str, parameters: tuple[object, ...] = ()) -> list[Row]:
        """Return all rows."""
        return self._all(self._near, query, parameters)

    async def all_later(self, query: str, parameters: tuple[object, ...] = ()) -> list[Row]:
        """Return all rows, read in a thread."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._all, self._far, query, parameters)

    def _all(self, connection: sqlite3.Connection, query: str, parameters: tuple[object, ...]) -> list[Row]:
        with self.guard:
            try:
                return connection.execute(query, parameters).fetchall()
            except sqlite3.Error as error:
                raise storage_error(self._path, error) from error

    def close(self) -> None:
        """Close the connections."""
        self._worker.shutdown()
        self._near.close()
        self._far.close()


def _make_file(path: Path) -> None:
    """Make the file if it is not there, for its owner alone; SQLite gives its other files the same mode."""
    make_folder(path.parent)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _connect(path: Path, opened: list[sqlite3.Connection]) -> sqlite3.Connection:
    """Open the database with every commit synced; the connection goes from thread to thread, one at a time."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    opened.append(connection)
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection
