"""The journal as a file: append-only, each line synced before the signature that it announces.

Crash meaning: a line that was cut off was never followed by a signature. The next start ends it with a mark.
"""

import os
import threading
from collections.abc import Iterator
from pathlib import Path

from mtc.errors import FormatError, Reason, StorageError
from mtc.signer.journal import MAX_LINE_BYTES, TORN, JournalLine, TreeLine, parse_journal_line

TAIL_BYTES = 1 << 18
"""How much of the journal's end a start looks at."""


class Journal:
    """An append-only file of every decision to sign, one line each, durable line by line. One writer at a time."""

    def __init__(self, path: Path) -> None:
        """Open the file, made with mode 0600 if it is not there; end what a crash cut off. Raises StorageError."""
        self._path = path
        # Callers wait in threads, and one that was cancelled may still be writing when the next one comes.
        self._lock = threading.Lock()
        try:
            is_new = not path.exists()
            self._handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if is_new:
                _sync_folder(path.parent)
            size = os.fstat(self._handle).st_size
            self._is_torn = size > 0 and os.pread(self._handle, 1, size - 1) != b"\n"
        except OSError as error:
            raise StorageError(Reason.STORAGE, f"the journal {path} cannot be opened: {error.strerror}") from None

    def append(self, line: bytes) -> None:
        """Write a line with its end, durable on return. Raises StorageError; then the line does not count."""
        with self._lock:
            data = TORN + line if self._is_torn else line
            # Until the whole line is on the medium, the file may end anywhere in it.
            self._is_torn = True
            try:
                while data:
                    data = data[os.write(self._handle, data) :]
                os.fsync(self._handle)
            except OSError as error:
                raise StorageError(
                    Reason.STORAGE, f"the journal {self._path} failed: {error.strerror}; nothing is signed"
                ) from None
            self._is_torn = False

    def find_tree(self, log_number: int) -> TreeLine | None:
        """Return the last tree of a log that was announced, None without one. Reads backwards, so usually little.

        Raises FormatError for a line that is none, StorageError.
        """
        tail, end = b"", os.fstat(self._handle).st_size
        while end:
            start = max(end - TAIL_BYTES, 0)
            try:
                tail, end = os.pread(self._handle, end - start, start) + tail, start
            except OSError as error:
                raise StorageError(Reason.STORAGE, f"the journal {self._path} failed: {error.strerror}") from None
            first, *lines = tail.splitlines(keepends=True)
            # The first line may begin further in front.
            for data in reversed(lines if end else [first, *lines]):
                if data.endswith(b"\n") and not data.endswith(TORN):
                    line = parse_journal_line(data[:-1])
                    if isinstance(line, TreeLine) and line.log_number == log_number:
                        return line
            tail = first
        return None

    def close(self) -> None:
        """Close the file."""
        os.close(self._handle)


def read_journal(path: Path) -> Iterator[JournalLine]:
    """Yield the lines of a journal in order; those that a crash cut off are passed over, and nothing else is.

    The file may grow meanwhile. Raises FormatError with the number of the line that is none, StorageError.
    """
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > MAX_LINE_BYTES:
                    raise FormatError(Reason.TOO_LARGE, f"line {number} of {path} is too long", line=number)
                if not line.endswith(b"\n"):
                    return
                if line.endswith(TORN):
                    continue
                try:
                    parsed = parse_journal_line(line[:-1])
                except FormatError as error:
                    raise FormatError(error.reason, f"line {number} of {path}: {error.message}", line=number) from None
                yield parsed
    except OSError as error:
        raise StorageError(Reason.STORAGE, f"the journal {path} cannot be read: {error.strerror}") from None


def read_last_lines(path: Path, tail_bytes: int = TAIL_BYTES) -> list[JournalLine]:
    """Return the last whole lines of a journal, at most `tail_bytes` of them; none when there is no file.

    Raises FormatError for a line that is none, StorageError.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - tail_bytes))
            data = file.read()
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(Reason.STORAGE, f"the journal {path} cannot be read: {error.strerror}") from None
    lines = data.split(b"\n")[:-1]
    # The first line may have been cut by where reading began.
    whole = lines if size <= tail_bytes else lines[1:]
    return [parse_journal_line(line) for line in whole if not line.endswith(TORN[:-1])]


def _sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
