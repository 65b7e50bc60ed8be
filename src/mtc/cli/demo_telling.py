"""How demonstrations tell their story: headings, and on a terminal a word about what takes its time."""

import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.rule import Rule

from mtc.cli.output import console

_COLUMNS = 100


def open_console(*, is_quiet: bool = False) -> Console:
    """Return the console of a demonstration. is_quiet: it prints nothing, because a script reads something else."""
    out = console()
    out.quiet = is_quiet
    # What commands print inside this process is caught, and the story must not be caught with it.
    out.file = sys.stdout
    return out


def heading(out: Console, text: str) -> None:
    """Print a heading, no wider than the tables below it."""
    out.print(Rule(f"[bold]{text}[/]", align="left", style="dim"), width=min(out.width, _COLUMNS))


@contextlib.contextmanager
def pausing(out: Console, text: str) -> Iterator[None]:
    """Show on a terminal that something takes its time; nothing in a pipe."""
    with out.status(f"[dim]{text} …[/]") if out.is_terminal and not out.quiet else contextlib.nullcontext():
        yield
