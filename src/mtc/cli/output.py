"""How the command line speaks: colours and tables for people, plain text in pipes, errors that say what to do."""

import sys
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from typing import NoReturn

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mtc.errors import Error, Reason, UsageError

MAX_INPUT_BYTES = 64 * 1024 * 1024
"""Largest input file read."""


_PIPE_COLUMNS = 240
"""Width of tables in a pipe, where lines are for grep and not for a screen."""


class ExitCode(IntEnum):
    """What the shell learns."""

    DONE = 0
    NO = 1
    USAGE = 2


def console() -> Console:
    """Return the console for answers; plain and with whole lines when the output is no terminal."""
    is_terminal = sys.stdout.isatty()
    return Console(highlight=False, soft_wrap=not is_terminal, width=None if is_terminal else _PIPE_COLUMNS)


def error_console() -> Console:
    """Return the console for errors and progress."""
    return Console(stderr=True, highlight=False, soft_wrap=True)


def shown(text: str) -> str:
    """Return foreign text as it may be printed: markup and characters that steer a terminal are escaped."""
    return escape("".join(char if char.isprintable() or char == "\n" else f"\\u{ord(char):04x}" for char in text))


def print_error(error: Error) -> None:
    """Print one error for people."""
    error_console().print(f"[bold red]mtc:[/] {shown(error.message)} [dim]({error.reason})[/]")


def fail(error: Error, code: ExitCode = ExitCode.USAGE) -> NoReturn:
    """Print an error and leave with its exit code."""
    print_error(error)
    raise SystemExit(code)


def read_input(path: str) -> bytes:
    """Return the bytes of a file, or of standard input for `-`. Raises UsageError (UNREADABLE, TOO_LARGE)."""
    name = "standard input" if path == "-" else path
    try:
        if path == "-":
            data = sys.stdin.buffer.read(MAX_INPUT_BYTES + 1)
        else:
            with Path(path).open("rb") as file:
                data = file.read(MAX_INPUT_BYTES + 1)
    except OSError as error:
        raise UsageError(
            Reason.UNREADABLE, f"{name} cannot be read: {(error.strerror or str(error)).lower()}", file=path
        ) from None
    except ValueError:
        raise UsageError(Reason.UNREADABLE, f"{path!r} is not a file name") from None
    if len(data) > MAX_INPUT_BYTES:
        raise UsageError(Reason.TOO_LARGE, f"{name} is larger than {MAX_INPUT_BYTES} bytes", file=path)
    return data


def write_new_file(path: Path, data: bytes, *, is_private: bool = False) -> None:
    """Write a file, replacing one that is there; private ones are created with mode 0600. Raises UsageError."""
    try:
        if is_private:
            path.unlink(missing_ok=True)
            path.touch(mode=0o600, exist_ok=False)
        path.write_bytes(data)
    except OSError as error:
        raise UsageError(
            Reason.UNREADABLE, f"{path} cannot be written: {(error.strerror or str(error)).lower()}", file=str(path)
        ) from None


def named(error: Error, file: str) -> Error:
    """Return the error with the file's name in front of its text."""
    return type(error)(error.reason, f"{file}: {error.message}", **{"file": file, **error.facts})


def table(*columns: str, title: str | None = None, numeric: Sequence[int] = ()) -> Table:
    """Return an empty table in the house style; `numeric` columns align right."""
    result = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False, header_style="dim")
    for number, column in enumerate(columns):
        result.add_column(column, justify="right" if number in numeric else "left", overflow="fold")
    return result
