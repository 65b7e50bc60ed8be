"""The ACME server's state in SQLite: one database file, which several processes may open, and a journal beside it."""

from mtc.acme.sqlite.store import SQLiteACMEStore

__all__ = ["SQLiteACMEStore"]
