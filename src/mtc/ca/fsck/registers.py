"""Reading a register without touching it.

Opening a SQLite database for writing tidies up its files, so a check never does: it copies the pages as they are, also
while another process writes, and opens the copy.
"""

import asyncio
import sqlite3
import tempfile
from collections.abc import Collection, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from mtc.errors import Error, Reason, StorageError
from mtc.log.fsck import Findings, Severity
from mtc.store import SQLiteRegister

_BUSY_S = 5.0


@dataclass(frozen=True, slots=True)
class RegisterCopy:
    """All values of a register at one moment. name: of the file. damaged: names of values that cannot be read."""

    name: str
    values: Mapping[str, bytes] = field(default_factory=dict)
    damaged: frozenset[str] = frozenset()

    def where(self, value: str) -> str:
        """Name a value in findings."""
        return f"{self.name} {value}"

    def read(self, value: str, findings: Findings) -> bytes | None:
        """Return a value that must be there; when it is not, that is a finding, once."""
        data = self.values.get(value)
        if data is None and value not in self.damaged:
            findings.add(self.where(value), "is missing")
        return data

    def check_names(self, known: Collection[str], findings: Findings) -> None:
        """Find values that nobody knows."""
        for value in sorted((self.values.keys() | self.damaged) - set(known)):
            findings.add(self.where(value), "is no value of this register", severity=Severity.WARNING)


async def copy_register(path: Path, name: str, findings: Findings) -> RegisterCopy:
    """Return what a register holds, each value compared with its checksum. name: of the file in findings."""
    with tempfile.TemporaryDirectory(prefix="mtc-fsck-") as folder:
        copy = Path(folder) / "register.sqlite"
        try:
            names = await asyncio.to_thread(_copy, path, copy)
            with closing(SQLiteRegister.open(copy)) as register:
                for fault in await register.find_faults():
                    findings.add(name, fault.replace(str(copy), name))
                return await _read_all(register, name, names, findings)
        except FileNotFoundError:
            findings.add(name, "is missing; bring it back from the newest copy")
        except (sqlite3.Error, OSError) as error:
            findings.add(name, f"cannot be read: {error}")
        except Error as error:
            findings.add(name, error.message.replace(str(copy), name))
    return RegisterCopy(name)


async def _read_all(register: SQLiteRegister, name: str, names: list[str], findings: Findings) -> RegisterCopy:
    """Read all values by name."""
    values: dict[str, bytes] = {}
    damaged: set[str] = set()
    for value in names:
        try:
            data = await register.read(value)
            if data is None:
                # The table has it, but the index does not: what asks by name will not find it.
                raise StorageError(Reason.DAMAGED, "cannot be found by its name")
            values[value] = data
        except Error as error:
            damaged.add(value)
            what = "is damaged" if error.reason is Reason.DAMAGED else error.message
            findings.add(f"{name} {value}", what)
    return RegisterCopy(name, values, frozenset(damaged))


def _copy(path: Path, copy: Path) -> list[str]:
    """Copy a database page by page, and return the names of its values."""
    # Opening a database that is not there would say something less clear.
    path.stat()
    # With a write-ahead log the database is read as a process that uses it does; without one nobody has it open, and
    # then no file beside it may be made.
    is_in_use = path.with_name(f"{path.name}-wal").exists()
    url = f"file:{quote(str(path.absolute()))}?{'mode=ro' if is_in_use else 'immutable=1'}"
    with (
        closing(sqlite3.connect(url, uri=True, timeout=_BUSY_S)) as source,
        closing(sqlite3.connect(copy)) as target,
    ):
        source.backup(target)
        return [str(row[0]) for row in target.execute("SELECT name FROM register NOT INDEXED ORDER BY rowid")]
