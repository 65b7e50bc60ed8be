"""The register in SQLite: write-ahead log, every commit synced, one statement per change."""

import asyncio
import hashlib
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from mtc.errors import ConflictError, Reason, StorageError
from mtc.store.contract import check_key, check_value

_BUSY_MS = 5000
"""How long a statement waits for another process's."""

_Result = TypeVar("_Result")


class SQLiteRegister:
    """`Register` in one database file that several processes may open; each change is one statement, synced."""

    def __init__(self, path: Path, connection: sqlite3.Connection, worker: ThreadPoolExecutor) -> None:
        """Use `open`."""
        self._path = path
        self._connection = connection
        self._worker = worker

    @staticmethod
    def open(path: Path) -> "SQLiteRegister":
        """Open a database, made if it is not there. Raises StorageError."""
        worker = ThreadPoolExecutor(1, thread_name_prefix="register")
        try:
            connection = worker.submit(_connect, path).result()
        except (sqlite3.Error, OSError) as error:
            worker.shutdown()
            raise StorageError(
                Reason.STORAGE, f"the register {path} cannot be opened: {error}", path=str(path)
            ) from None
        return SQLiteRegister(path, connection, worker)

    def close(self) -> None:
        """Close the database. Calls after this fail."""
        self._worker.submit(self._connection.close).result()
        self._worker.shutdown()

    async def read(self, name: str) -> bytes | None:
        """Return the value, None when it was never created."""
        check_key(name)
        query = "SELECT value, sum FROM register WHERE name = ?"
        row = await self._run(lambda: self._connection.execute(query, (name,)).fetchone())
        if row is None:
            return None
        value = bytes(row[0])
        if bytes(row[1]) != _sum(name, value):
            raise StorageError(
                Reason.DAMAGED,
                f"the value of {name} in {self._path} is damaged; bring its newest copy back: an older one "
                "forgets what was signed",
                path=str(self._path),
                name=name,
            )
        return value

    async def create(self, name: str, value: bytes) -> None:
        """Set a value that is not there yet."""
        check_value(name, value)
        statement = "INSERT INTO register (name, value, sum) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
        parameters = (name, value, _sum(name, value))
        if not await self._run(lambda: self._connection.execute(statement, parameters).rowcount):
            raise ConflictError(Reason.CONFLICT, f"register {name} exists already", name=name)

    async def swap(self, name: str, old: bytes, new: bytes) -> None:
        """Set the value to `new` if it is `old`."""
        check_value(name, new)
        statement = "UPDATE register SET value = ?, sum = ? WHERE name = ? AND value = ?"
        parameters = (new, _sum(name, new), name, old)
        if not await self._run(lambda: self._connection.execute(statement, parameters).rowcount):
            raise ConflictError(Reason.CONFLICT, f"register {name} holds another value than expected", name=name)

    async def find_faults(self) -> list[str]:
        """Return what the database finds wrong in its own pages; empty when all is well."""
        try:
            rows = await self._run(lambda: self._connection.execute("PRAGMA integrity_check").fetchall())
        except StorageError as error:
            return [error.message]
        return [str(row[0]) for row in rows if row[0] != "ok"]

    async def _run(self, call: Callable[[], _Result]) -> _Result:
        """Run a statement in the connection's thread."""
        try:
            return await asyncio.get_running_loop().run_in_executor(self._worker, call)
        except sqlite3.Error as error:
            raise StorageError(
                Reason.STORAGE, f"the register {self._path} failed: {error}", path=str(self._path)
            ) from error


def _connect(path: Path) -> sqlite3.Connection:
    """Open the database with every commit synced, and make its table."""
    # Made here, because SQLite would let everybody read it; its other files get the same mode.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS register (name TEXT PRIMARY KEY, value BLOB NOT NULL, sum BLOB NOT NULL) STRICT"
    )
    return connection


def _sum(name: str, value: bytes) -> bytes:
    """Return what guards a value against a medium that changes bits."""
    return hashlib.sha256(name.encode() + b"\0" + value).digest()
