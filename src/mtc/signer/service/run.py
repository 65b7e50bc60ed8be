"""The whole of a signer process: folder, key, record, journal and socket, until it is told to stop."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from mtc.errors import Reason, StorageError
from mtc.kernel import active_kernel
from mtc.signer.crl import CRLKind, CRLView
from mtc.signer.journal import TreeLine
from mtc.signer.machine import SignerView
from mtc.signer.service.folder import (
    JOURNAL_NAME,
    REGISTER_NAME,
    SOCKET_NAME,
    LoadedSigner,
    load_signer,
    locked,
    read_signer_config,
)
from mtc.signer.service.journal import Journal, read_last_lines
from mtc.signer.service.keyholder import CRL_NAME, LOG_NAME, KeyHolder
from mtc.signer.service.server import Report, serve_signer
from mtc.store import Register, SQLiteRegister
from mtc.web.clock import Clock, SystemClock


@dataclass(frozen=True, slots=True)
class RunningSigner:
    """A signer that answers. socket: where."""

    loaded: LoadedSigner
    holder: KeyHolder
    socket: Path


@contextlib.asynccontextmanager
async def running_signer(  # noqa: PLR0913 - the settings of a process
    folder: Path,
    passphrase: bytes | None,
    report: Report,
    *,
    socket: Path | None = None,
    patience_s: float = 0.0,
    clock: Clock | None = None,
) -> AsyncIterator[RunningSigner]:
    """Run the signer of a folder until the context ends; the request in hand is then answered.

    socket: where to listen, `signer.sock` in the folder without. patience_s: how long to wait for another process that
    is about to leave the folder. Raises UsageError for a folder, key or passphrase that is wrong, or that another
    process holds; StorageError when its record is older than its journal, or the medium fails.
    """
    # Before the lock, so that a wrong name is not answered by making files in it.
    read_signer_config(folder)
    async with locked(folder, patience_s):
        loaded = load_signer(folder, passphrase)
        register = SQLiteRegister.open(folder / REGISTER_NAME)
        with contextlib.closing(register):
            await _check_record(folder, register, report)
            journal = Journal(folder / JOURNAL_NAME)
            with contextlib.closing(journal):
                hasher = active_kernel().hasher(loaded.config.hash_name)
                holder = KeyHolder(hasher, loaded.config.rules, loaded.key, register, journal, clock or SystemClock())
                path = folder / SOCKET_NAME if socket is None else socket
                async with serve_signer(holder, path, report):
                    yield RunningSigner(loaded, holder, path)


async def _check_record(folder: Path, register: Register, report: Report) -> None:
    """Refuse a record that is older than its journal, which means that it was restored from a copy.

    A crash between journal and record leaves one decision that only the journal knows, and no signature over it. Its
    end is looked at, not all of it: a record goes back by a restore, and then all of it does.
    """
    path = folder / JOURNAL_NAME
    lines = read_last_lines(path)
    if not lines and await register.read(f"{LOG_NAME}-1") is not None:
        report("journal-missing", {"path": str(path), "cure": "bring the journal back; fsck needs all of it"})
    for number in {line.log_number for line in lines if isinstance(line, TreeLine)}:
        data = await register.read(f"{LOG_NAME}-{number}")
        known = SignerView.parse(data).frontier.tree_size if data is not None else 0
        ahead = {
            (line.tree_size, line.root_hash)
            for line in lines
            if isinstance(line, TreeLine) and line.log_number == number and line.tree_size > known
        }
        if len(ahead) > 1:
            raise StorageError(
                Reason.CONFLICT,
                f"the record {folder / REGISTER_NAME} knows {known} entries of log {number}, its journal "
                f"{max(size for size, _ in ahead)}: the record is an older copy, and nothing is signed with it. Bring "
                "record and journal of the same moment back, or follow this log with the next one",
                log=number,
                tree_size=known,
            )


@dataclass(frozen=True, slots=True)
class SignerStatus:
    """What a signer remembers. logs: the last tree of each, by number; crls: the last list of each kind."""

    logs: tuple[SignerView, ...]
    crls: tuple[CRLView, ...]


async def read_status(folder: Path) -> SignerStatus:
    """Read what a signer remembers, also while it runs. Raises UsageError when there is none, StorageError."""
    config = read_signer_config(folder)
    path = folder / REGISTER_NAME
    if not path.exists():
        return SignerStatus((), ())
    with contextlib.closing(SQLiteRegister.open(path)) as register:
        logs: list[SignerView] = []
        # The first logs may have been left unused, the ones in between never are.
        for number in range(1, config.highest_log + 1):
            data = await register.read(f"{LOG_NAME}-{number}")
            if data is None and (logs or number > 16):
                break
            if data is not None:
                logs.append(SignerView.parse(data))
        lists = [await register.read(f"{CRL_NAME}-{kind}") for kind in CRLKind]
    return SignerStatus(tuple(logs), tuple(CRLView.parse(data) for data in lists if data is not None))
