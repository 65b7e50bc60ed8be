"""Where state lies: immutable objects, and a tiny register that decides the truth. Two contracts, several backends.

A log stages its objects, swaps the register, and publishes. Objects may be many, large and stale; the register is one
small value at a time, and linearizable. Nothing above knows which backend it has, and backends share no code.

Contracts are checked by `mtc.testing.check_object_store` and `mtc.testing.check_register`; a backend is done when it
passes.
"""

from mtc.store.contract import MAX_KEY_BYTES, MAX_REGISTER_BYTES, ObjectStore, Register, check_key
from mtc.store.files import FileStore
from mtc.store.memory import MemoryRegister, MemoryStore
from mtc.store.sqlite import SQLiteRegister
from mtc.store.storage import Storage, open_storage

__all__ = [
    "MAX_KEY_BYTES",
    "MAX_REGISTER_BYTES",
    "FileStore",
    "MemoryRegister",
    "MemoryStore",
    "ObjectStore",
    "Register",
    "SQLiteRegister",
    "Storage",
    "check_key",
    "open_storage",
]
