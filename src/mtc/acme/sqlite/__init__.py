"""The ACME server's state in SQLite: one database file, which several processes may open, and a journal beside it."""

from mtc.acme.sqlite.store import DATABASE_NAME, EVIDENCE_NAME, SQLiteACMEStore

__all__ = ["DATABASE_NAME", "EVIDENCE_NAME", "SQLiteACMEStore"]
