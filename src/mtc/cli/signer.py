"""`mtc signer`: run the process that holds a CA's key, and look at what it remembers."""

import asyncio
import json
import logging
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from mtc.cli.output import ExitCode, console, shown, table
from mtc.errors import Error
from mtc.kernel import active_kernel
from mtc.signer import CRLLine, SignerConfig
from mtc.signer.service import (
    JOURNAL_NAME,
    Report,
    SignerStatus,
    read_journal,
    read_passphrase,
    read_signer_config,
    read_status,
    running_signer,
)
from mtc.web.logs import configure_logs, open_logger
from mtc.web.stopping import stop_on_signals

_PATIENCE_S = 10.0
"""How long a child waits for the folder: its predecessor may still be answering a parent that died."""


def serve_folder(
    folder: str, *, socket: str | None, passphrase_file: str | None, exit_with_parent: bool, as_json: bool
) -> None:
    """Serve the signer of a folder until SIGTERM or SIGINT, or until standard input ends if asked for.

    Prints one line when it is ready; with `as_json` an object, also when it cannot start.
    """
    try:
        passphrase = read_passphrase(os.environ, passphrase_file)
        asyncio.run(
            _serve(
                Path(folder),
                passphrase,
                None if socket is None else Path(socket),
                exit_with_parent=exit_with_parent,
                as_json=as_json,
            )
        )
    except Error as error:
        if not as_json:
            raise
        _print_line(event="failed", family=type(error).__name__, reason=str(error.reason), message=error.message)
        raise SystemExit(ExitCode.USAGE) from None


async def _serve(
    folder: Path, passphrase: bytes | None, socket: Path | None, *, exit_with_parent: bool, as_json: bool
) -> None:
    """Run the signer until told to stop."""
    stop = stop_on_signals()
    if exit_with_parent:
        asyncio.get_running_loop().add_reader(sys.stdin.fileno(), _hear_parent, stop)
    # A child keeps to itself what its parent knows anyway.
    report = _reporter(logging.WARNING if exit_with_parent else logging.INFO)
    patience_s = _PATIENCE_S if exit_with_parent else 0.0
    async with running_signer(folder, passphrase, report, socket=socket, patience_s=patience_s) as running:
        config = running.loaded.config
        facts = {"ca": str(config.ca_id), "socket": str(running.socket), "pid": os.getpid()}
        report("ready", facts)
        if as_json:
            _print_line(event="ready", **facts)
        else:
            print(f"the signer of CA {config.ca_id} is ready on {running.socket}", flush=True)  # noqa: T201 - the answer
        await stop.wait()
        report("stopping", {})


def _hear_parent(stop: asyncio.Event) -> None:
    """Stop when the parent's end of the pipe is closed; it says nothing else, and what it says is not heard."""
    if not os.read(sys.stdin.fileno(), 4096):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        stop.set()


def _reporter(level: int) -> Report:
    """Return what writes events of a level and above as JSON lines to standard error."""
    configure_logs(sys.stderr, is_json=True, level=level)
    logger = open_logger("signer")

    def report(event: str, facts: dict[str, object]) -> None:
        is_quiet = event in ("ready", "stopping", "connection-lost")
        logger.log(logging.INFO if is_quiet else logging.WARNING, event, **facts)

    return report


def _print_line(**fields: object) -> None:
    """Print one JSON object on a line of its own, at once."""
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


def show_folder(folder: str, *, as_json: bool) -> None:
    """Print what the signer of a folder remembers, whether it runs or not. Raises UsageError when there is none."""
    path = Path(folder)
    config = read_signer_config(path)
    status = asyncio.run(read_status(path))
    trees, lists = _count_journal(path / JOURNAL_NAME)
    if as_json:
        _print_line(**_describe(config, status), journal={"trees": trees, "crls": lists})
    else:
        _print_tables(config, status, trees, lists)


def _count_journal(path: Path) -> tuple[int, int]:
    """Return how many trees and how many lists the journal holds. Raises FormatError for a damaged one."""
    if not path.exists():
        return 0, 0
    trees = lists = 0
    for line in read_journal(path):
        if isinstance(line, CRLLine):
            lists += 1
        else:
            trees += 1
    return trees, lists


def _describe(config: SignerConfig, status: SignerStatus) -> dict[str, object]:
    """Return what the signer remembers as JSON would have it."""
    hasher = active_kernel().hasher(config.hash_name)
    return {
        "ca": str(config.ca_id),
        "draft": str(config.revision),
        "algorithm": config.algorithm,
        "key_sha256": config.key.fingerprint,
        "logs": [
            {
                "log": view.log_number,
                "size": view.frontier.tree_size,
                "root": view.frontier.root(hasher).hex(),
                "timestamp": view.timestamp,
            }
            for view in status.logs
        ],
        "crls": [
            {"kind": str(view.kind), "number": view.number, "this_update": view.this_update} for view in status.crls
        ],
    }


def _print_tables(config: SignerConfig, status: SignerStatus, trees: int, lists: int) -> None:
    """Print what the signer remembers for people."""
    out = console()
    hasher = active_kernel().hasher(config.hash_name)
    out.print(f"CA {config.ca_id} · {config.revision} · {config.algorithm} · journal: {trees} trees, {lists} lists")
    logs = table("log", "entries", "root", "signed at", numeric=(0, 1))
    for view in status.logs:
        root = view.frontier.root(hasher).hex()
        logs.add_row(str(view.log_number), f"{view.frontier.tree_size:,}", root, _moment(view.timestamp))
    out.print(logs if status.logs else "no tree was signed yet")
    if status.crls:
        crls = table("list", "number", "issued at", numeric=(1,))
        for item in status.crls:
            crls.add_row(shown(str(item.kind)), str(item.number), _moment(item.this_update))
        out.print(crls)


def _moment(seconds: int) -> str:
    """Return POSIX seconds as people read them."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
