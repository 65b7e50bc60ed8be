"""`mtc fsck`: re-verify a whole CA from its folder or from what it serves."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from mtc.ca.config import CONFIG_NAME
from mtc.ca.fsck import ObjectFiles, Tell, check_folder, check_public
from mtc.cert import CACertificate
from mtc.cli.log_source import open_log
from mtc.cli.output import ExitCode, console, error_console, named, read_input, shown, table
from mtc.cli.verify import find_certificate
from mtc.errors import Error
from mtc.log.fsck import Findings, Severity
from mtc.log.fsck.service import StoreFiles
from mtc.store import FileStore


def run_fsck(target: str, *, ca: str | None, as_json: bool) -> int:
    """Check a CA and print what was found. Returns 0 when all is well, 1 with findings."""
    began = time.monotonic()
    with _progress() as tell:
        findings = asyncio.run(check_target(target, ca, tell))
    seconds = time.monotonic() - began
    if as_json:
        _print_json(target, findings, seconds)
    else:
        _print_tables(findings, seconds)
    return ExitCode.NO if findings.items else ExitCode.DONE


async def check_target(target: str, ca: str | None, tell: Tell) -> Findings:
    """Check a CA's folder, a copy of what it serves, or its prefix URL. Raises what makes the check impossible."""
    findings, now = Findings(), datetime.now(UTC)
    folder = Path(target)
    if "://" not in target and (folder / CONFIG_NAME).exists():
        await check_folder(folder, findings, now, tell)
        return findings
    authority = None
    if ca is not None:
        try:
            authority = CACertificate.parse(find_certificate(read_input(ca)))
        except Error as error:
            raise named(error, ca) from None
    async with _open_public(target) as source:
        await check_public(source, authority, findings, now, tell)
    return findings


@asynccontextmanager
async def _open_public(target: str) -> AsyncIterator[ObjectFiles]:
    """Open what a CA serves; files of a folder can be listed. Raises UsageError for what is neither."""
    folder = Path(target)
    if not folder.is_dir():  # noqa: ASYNC240 - nothing else happens yet
        async with open_log(target) as source:
            yield source
        return
    public = folder / "public"
    with closing(FileStore.open(public if public.is_dir() else folder, is_writer=False)) as store:
        yield StoreFiles(store, "")


def _print_json(target: str, findings: Findings, seconds: float) -> None:
    """Print one object."""
    document = {
        "target": target,
        "ok": not findings.items,
        "findings": [item.to_json() for item in findings.items],
        "is_cut": findings.is_cut,
        "notes": findings.notes,
        "checked": findings.counts,
        "seconds": round(seconds, 3),
    }
    sys.stdout.write(json.dumps(document) + "\n")


def _print_tables(findings: Findings, seconds: float) -> None:
    """Print what was looked at, and what was found."""
    out = console()
    checked = " · ".join(f"{count:,} {name}" for name, count in findings.counts.items())
    out.print(f"checked {checked} · {seconds:.1f} s")
    for note in findings.notes:
        out.print(f"[dim]note[/] {shown(note)}")
    if not findings.items:
        out.print("[bold green]clean[/] nothing is wrong")
        return
    rows = table("", "where", "what is wrong")
    for item in findings.items:
        colour = "red" if item.severity is Severity.ERROR else "yellow"
        rows.add_row(f"[{colour}]{item.severity}[/]", shown(item.place), shown(item.what))
    out.print(rows)
    more = ", and more that is not shown" if findings.is_cut else ""
    out.print(f"[bold red]{len(findings.items)} findings[/]{more}; nothing was repaired")


@contextmanager
def _progress() -> Iterator[Tell]:
    """Show a bar on a terminal."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        console=error_console(),
        transient=True,
    )
    progress.disable = not error_console().is_terminal
    tasks: dict[str, object] = {}

    def tell(name: str, done: int, total: int) -> None:
        if name not in tasks:
            tasks[name] = progress.add_task(name, total=total)
        progress.update(tasks[name], completed=done, total=total)  # type: ignore[arg-type]  # a TaskID

    with progress:
        yield tell
