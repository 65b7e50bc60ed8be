"""The journal of evidence: append-only lines of JSON, one file for each UTC day, beside the database.

    {"id":17,"kind":"validation","time":"2026-11-21T15:20:01+00:00","account":"…","ok":true,…}
    {"void":[18,19],"time":"2026-11-21T15:20:02+00:00"}

IDs rise by one from line to line, over all files. The lines of a commit are durable before the database commits, so
that what is in the database is in the journal. The other way round, a crash or an error may leave lines of a commit
that nobody was told of; a line `void` follows them and names their IDs, first and last, and these are not given again.
Of several lines about one ID the last one counts.

A day's file takes what is written until a record of a later day comes: a record of just before midnight may stand in
the next file, and no file grows again once there is a later one.

What a crash leaves is put right by `recover` at the next start: a torn end is cut off (it was never synced, so the
database does not know it), whole lines that the database does not know are voided, and records of the database that
have no line (a journal that was moved away, or a medium that lost what it had synced) are written again.
"""

import contextlib
import fcntl
import json
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from pathlib import Path

from mtc.errors import Reason, StorageError

MAX_UNKNOWN = 1024
"""Most records that the journal may be ahead of its database: what one transaction puts, which a crash cut off.

More of them tell of a database that was put back from an old copy.
"""
_CHUNK = 64 << 10
_SUFFIX = ".jsonl"
_ID_START = b'{"id":'


@dataclass(frozen=True, slots=True)
class _Line:
    """What a line says about IDs: the record `last`, or that those from `first` to `last` are void."""

    first: int
    last: int
    is_void: bool


class EvidenceJournal:
    """The journal, open for appending; one process at a time. Raises OSError where it says nothing else."""

    def __init__(self, folder: Path, lock: int) -> None:
        """Use `open`."""
        self._folder = folder
        self._lock = lock
        self._handle: int | None = None
        self._day = ""
        # Bytes of the current file that are whole lines; what is behind them was not written to its end.
        self._size = 0
        # IDs of lines whose commit failed and that could not be voided yet.
        self._unsettled: tuple[int, int] | None = None
        self.last_id = 0
        """Highest ID that was ever written; the next record gets a higher one."""

    @staticmethod
    def open(folder: Path) -> "EvidenceJournal":
        """Open a folder, made if it is not there. Raises StorageError when another process writes to it."""
        make_folder(folder)
        lock = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            journal = EvidenceJournal(folder, lock)
            days = journal.days()
            if days:
                journal._open_day(days[-1])
        except BlockingIOError:
            os.close(lock)
            raise StorageError(
                Reason.CONFLICT, f"{folder} is in use by another process; stop that one first", folder=str(folder)
            ) from None
        except BaseException:
            os.close(lock)
            raise
        return journal

    def close(self) -> None:
        """Close the files and let the lock go."""
        if self._handle is not None:
            os.close(self._handle)
            self._handle = None
        os.close(self._lock)

    def days(self) -> list[str]:
        """Return the days that have a file, oldest first."""
        return sorted(path.name.removesuffix(_SUFFIX) for path in self._folder.glob(f"????-??-??{_SUFFIX}"))

    def append(self, lines: Sequence[bytes], day: date, last_id: int) -> None:
        """Append lines, durable on return; raises OSError and leaves none of them.

        day: of the newest record. last_id: of the last line.
        """
        self._settle()
        self._write(b"".join(lines), max(day.isoformat(), self._day))
        self.last_id = last_id

    def void(self, first: int, last: int) -> None:
        """Say that lines tell of nothing that was kept. It never fails: what cannot be written now is written later.

        A crash before it is written leaves lines that the database does not know, and `recover` voids them.
        """
        self._unsettled = (first, last)
        try:
            self._settle()
        except OSError:
            # Tried again before the next lines.
            return

    def _settle(self) -> None:
        """Write what is left to void."""
        if self._unsettled is not None:
            self._write(_void_line(*self._unsettled), self._day)
            self._unsettled = None

    def _write(self, data: bytes, day: str) -> None:
        """Append bytes to the file of a day and sync them, or cut off what was written of them."""
        self._trim()
        if self._handle is None or day != self._day:
            self._open_day(day)
        assert self._handle is not None
        try:
            view = memoryview(data)
            while view:
                view = view[os.write(self._handle, view) :]
            os.fsync(self._handle)
        except OSError:
            # What cannot be cut off now is cut off before the next lines, or at the next start.
            with contextlib.suppress(OSError):
                os.ftruncate(self._handle, self._size)
            raise
        self._size += len(data)

    def _open_day(self, day: str) -> None:
        """Go on in the file of a day."""
        path = self._path(day)
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            sync_folder(self._folder)
        except OSError:
            os.close(handle)
            raise
        if self._handle is not None:
            os.close(self._handle)
        self._handle, self._day, self._size = handle, day, os.fstat(handle).st_size

    def _path(self, day: str) -> Path:
        return self._folder / f"{day}{_SUFFIX}"

    def recover(self, known: int) -> int:
        """Put right what a crash left. known: the highest ID in the database, 0 for none.

        Returns up to which ID every record of the database has a line; those above need theirs again. Raises
        StorageError when the journal is far ahead of the database.
        """
        end = self._read_end(known)
        if end.cut is not None:
            self._size = end.cut
            self._trim()
        self.last_id = max(known, end.highest)
        if end.unknown:
            self._write(_void_line(end.unknown[-1], end.unknown[0]), self._day)
        return end.standing

    def _read_end(self, known: int) -> "_End":
        """Read backwards to a line that counts and that the database knows."""
        end = _End()
        void: list[_Line] = []
        for day in reversed(self.days()):
            for offset, text in _lines_backwards(self._path(day)):
                line = _parse(text)
                if line is None and day != self._day:
                    raise self._damaged(day, offset)
                if line is None:
                    # It was not synced, nor was anything behind it; and so the database knows none of it.
                    end, void = _End(cut=offset), []
                    continue
                end.highest = max(end.highest, line.last)
                if line.is_void:
                    void.append(line)
                elif any(other.first <= line.last <= other.last for other in void):
                    continue
                elif line.last <= known:
                    end.standing = line.last
                    return end
                else:
                    end.unknown.append(line.last)
                    if len(end.unknown) > MAX_UNKNOWN:
                        raise self._ahead(known, end.highest)
        return end

    def _trim(self) -> None:
        """Cut the current file off where its whole lines end."""
        if self._handle is not None and os.fstat(self._handle).st_size != self._size:
            os.ftruncate(self._handle, self._size)
            os.fsync(self._handle)

    def _damaged(self, day: str, offset: int) -> StorageError:
        """Return the error for a file that was whole when the next one was begun, and is not any more."""
        path = self._path(day)
        return StorageError(
            Reason.DAMAGED,
            f"{path} is damaged at byte {offset}; bring its copy back, or move the journal aside",
            path=str(path),
            offset=offset,
        )

    def _ahead(self, known: int, highest: int) -> StorageError:
        """Return the error for a database that is older than its journal."""
        return StorageError(
            Reason.CONFLICT,
            f"the journal in {self._folder} goes to record {highest} and the database beside it to {known}: it is an "
            "old copy; bring the newest one back, or move the journal aside to go on without what is missing",
            folder=str(self._folder),
            expected=highest,
            got=known,
        )


@dataclass(slots=True)
class _End:
    """What the end of the journal says.

    highest: ID in any whole line. standing: ID of the last line that counts and that the database knows. unknown: IDs
    of lines that count and that it does not know, highest first. cut: where the newest file is no more whole, None when
    it is.
    """

    highest: int = 0
    standing: int = 0
    unknown: list[int] = field(default_factory=list)
    cut: int | None = None


def find_lines(folder: Path, ids: Collection[int], first_day: date) -> dict[int, dict[str, object]]:
    """Return the lines that count, by ID, from the files of a day and all later ones; the journal may grow meanwhile.

    Reads whole files, some seconds for each gigabyte; stops at the file behind the one that has the last of the IDs.
    """
    found: dict[int, dict[str, object]] = {}
    for path in sorted(folder.glob(f"????-??-??{_SUFFIX}")):
        if path.name.removesuffix(_SUFFIX) < first_day.isoformat():
            continue
        is_complete = found.keys() >= set(ids)
        with path.open("rb") as file:
            for text in file:
                _read_line(text, ids, found)
        if is_complete:
            # A line that voids others stands in their file or in the next one.
            break
    return found


def _read_line(text: bytes, ids: Collection[int], found: dict[int, dict[str, object]]) -> None:
    """Take what a line says about some IDs."""
    if text.startswith(_ID_START):
        # Most lines are about others, and are not read further.
        number = text[len(_ID_START) : text.find(b",")]
        if not number.isdigit() or int(number) not in ids:
            return
    line = _parse(text)
    if line is None:
        return
    if line.is_void:
        for number_ in [item for item in found if line.first <= item <= line.last]:
            del found[number_]
    elif line.last in ids:
        found[line.last] = json.loads(text)


def _void_line(first: int, last: int) -> bytes:
    """Return the line that voids IDs."""
    document = {"void": [first, last], "time": datetime.now(UTC).isoformat(timespec="seconds")}
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def _parse(text: bytes) -> _Line | None:
    """Return what a line says about IDs, None when it is not whole."""
    if not text.endswith(b"\n"):
        return None
    try:
        document = json.loads(text)
        if "void" in document:
            first, last = document["void"]
            return _Line(int(first), int(last), is_void=True)
        return _Line(int(document["id"]), int(document["id"]), is_void=False)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None


def _lines_backwards(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file with their offsets, the last one first; that one may lack its end."""
    with path.open("rb") as file:
        start = file.seek(0, os.SEEK_END)
        # What was read and does not begin a line, as far as is known.
        rest = b""
        while start > 0:
            size = min(max(_CHUNK, len(rest)), start)
            start -= size
            file.seek(start)
            lines = (file.read(size) + rest).splitlines(keepends=True)
            offset = start + sum(map(len, lines))
            for line in reversed(lines[1:]):
                offset -= len(line)
                yield offset, line
            rest = lines[0]
        if rest:
            yield 0, rest


def make_folder(folder: Path) -> None:
    """Make a folder that only its owner may read, durable."""
    if not folder.parent.is_dir():
        make_folder(folder.parent)
    folder.mkdir(mode=0o700, exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(path: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
