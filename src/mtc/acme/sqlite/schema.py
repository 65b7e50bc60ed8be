"""The schema's versions: numbered files of SQL, each applied once, all of the missing ones in one transaction.

A crash in the middle leaves the database as it was, or as it shall be. A file is never changed once it was released: a
change of the schema is a new file.
"""

import sqlite3
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

from mtc.errors import Reason, StorageError

_VERSION = "SELECT version FROM schema_version ORDER BY version DESC LIMIT 1"
_HAS_VERSIONS = "SELECT name FROM sqlite_master WHERE type = 'table' AND name = 'schema_version'"


def list_migrations() -> list[tuple[int, str]]:
    """Return the numbers and texts of all migrations that this program knows, in order."""
    folder = files("mtc.acme.sqlite") / "migrations"
    found = [(int(item.name[:4]), item.read_text("utf-8")) for item in folder.iterdir() if item.name.endswith(".sql")]
    return sorted(found)


def apply_migrations(connection: sqlite3.Connection, path: Path) -> None:
    """Bring a database to the newest schema. Raises StorageError for one that a newer program made."""
    migrations = list_migrations()
    newest = migrations[-1][0]
    if _version_of(connection) != newest:
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Asked again: another process may have been here before the transaction began.
            _apply_missing(connection, migrations, _version_of(connection))
            connection.execute("COMMIT")
        except BaseException:
            connection.execute("ROLLBACK")
            raise
    version = _version_of(connection)
    if version > newest:
        raise StorageError(
            Reason.UNSUPPORTED,
            f"{path} has schema {version} and this program knows {newest}; run the newer mtc that made it",
            path=str(path),
            expected=newest,
            got=version,
        )


def _apply_missing(connection: sqlite3.Connection, migrations: list[tuple[int, str]], version: int) -> None:
    """Run the migrations above a version, within the caller's transaction."""
    if version == 0:
        connection.execute("CREATE TABLE IF NOT EXISTS schema_version (version INTEGER PRIMARY KEY)")
    for number, text in migrations:
        if number > version:
            for statement in _statements(text):
                connection.execute(statement)
            connection.execute("INSERT INTO schema_version (version) VALUES (?)", (number,))


def _version_of(connection: sqlite3.Connection) -> int:
    """Return the newest migration that was applied, 0 for none."""
    if connection.execute(_HAS_VERSIONS).fetchone() is None:
        return 0
    row = connection.execute(_VERSION).fetchone()
    return 0 if row is None else int(row[0])


def _statements(text: str) -> Iterator[str]:
    """Yield the statements of a file; `executescript` would end the transaction."""
    statement = ""
    for line in text.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement
