"""Checking a CA: in the order in which its parts depend on each other."""

from collections.abc import Collection
from contextlib import closing
from datetime import datetime
from pathlib import Path

from mtc.ca.folder import CERTIFICATE_NAME, CAFolder
from mtc.ca.fsck.beside import check_evidence, check_owed
from mtc.ca.fsck.context import FolderTask, ObjectFiles, ServedFiles, Tell
from mtc.ca.fsck.lists import RANGES, check_lists, check_revocations
from mtc.ca.fsck.records import (
    check_ahead,
    check_beside,
    check_incidents,
    check_landmark_state,
    check_record,
    read_landmark_state,
    settle,
)
from mtc.ca.fsck.registers import RegisterCopy
from mtc.ca.fsck.rounds import check_ledger
from mtc.ca.fsck.signer import LogView, check_signer, check_signer_files
from mtc.ca.landmarks import LandmarkState
from mtc.ca.revocation_state import STATE_NAME as REVOCATIONS
from mtc.ca.state import STATE_NAME, CAState
from mtc.cert import CACertificate
from mtc.errors import Error, PeerError, Reason
from mtc.ids import MAX_INDEX, MAX_LOG_NUMBER
from mtc.log import LogRecord
from mtc.log.fsck import Findings, Severity
from mtc.log.fsck.service import LogTask, StoreFiles, check_log
from mtc.log.fsck.service.walk import Progress
from mtc.signer.service import JOURNAL_NAME
from mtc.store import FileStore
from mtc.wire import find_pem_block, posix_seconds


async def check_public(
    source: ObjectFiles, authority: CACertificate | None, findings: Findings, now: datetime, tell: Tell
) -> None:
    """Check a CA from what it serves. authority: its certificate, if the caller has it; else the served one counts.

    Raises PeerError when there is no CA certificate, or nothing is served; what `source` raises.
    """
    files = ServedFiles(source)
    certificate = await _open_certificate(files, authority, findings)
    lists = await check_lists(files, certificate, findings, posix_seconds(now))
    minimum = certificate.min_serial
    if RANGES in lists:
        minimum = max(minimum, lists[RANGES].tbs.min_serial or 0)
    number = 1
    while number <= MAX_LOG_NUMBER:
        (checkpoint,) = await files.fetch([f"{number}/checkpoint"])
        if checkpoint is None:
            break
        task = LogTask(
            log_number=number,
            ca=certificate,
            now=now,
            # What the minimum serial number excludes may be pruned; nobody says whether it is.
            minimum_index=_excluded(minimum, number),
            progress=_told(tell, number),
        )
        await check_log(files, task, findings)
        number += 1
    if number == 1:
        raise PeerError(Reason.PEER, "no log 1 is served there; give the CA's folder or its prefix URL")
    await _check_strays(files, range(1, number), findings)


async def _open_certificate(files: ServedFiles, authority: CACertificate | None, findings: Findings) -> CACertificate:
    """Return the CA certificate to check with, and compare the served one with it."""
    (data,) = await files.fetch([CERTIFICATE_NAME])
    served = None
    if data is not None:
        try:
            served = CACertificate.parse(find_pem_block(data, "CERTIFICATE"))
        except Error as error:
            findings.add_error(CERTIFICATE_NAME, error)
    certificate = authority or served
    if certificate is None:
        raise PeerError(Reason.PEER, "no CA certificate is served there; give one with --ca")
    if data is None:
        findings.add(CERTIFICATE_NAME, "is missing")
    elif served is not None and served.der != certificate.der:
        findings.add(CERTIFICATE_NAME, "is another certificate than the one that is trusted")
    return certificate


def _excluded(minimum_serial: int, number: int) -> int:
    """Return how many entries of a log a minimum serial number excludes."""
    if minimum_serial >> 48 == number:
        return minimum_serial & MAX_INDEX
    return MAX_INDEX if minimum_serial >> 48 > number else 0


async def check_folder(path: Path, findings: Findings, now: datetime, tell: Tell) -> None:
    """Check a CA's folder: what it serves, and everything that decides. Nothing in it is changed.

    Raises UsageError for a folder that is none, or whose configuration or CA certificate cannot be read.
    """
    folder = CAFolder.read(path)
    with closing(FileStore.open(path / folder.config.storage.partition(":")[2], is_writer=False)) as store:
        files = ServedFiles(StoreFiles(store))
        task = FolderTask(folder, files, store, findings, now, tell)
        register = await task.read_register(findings)
        await _check_certificate(task)
        lists = await check_lists(files, folder.certificate, findings, posix_seconds(now))
        check_revocations(task, register, lists)
        state = _read_state(task, register)
        abandoned = await check_incidents(task, state, register)
        logs: dict[int, LogView] = {}
        for number in range(1, state.current_log + 1):
            view = await _check_log(task, register, number, state, abandoned)
            if view is not None:
                logs[number] = view
        await _check_strays(files, range(1, state.current_log + 1), findings)
        known = [STATE_NAME, REVOCATIONS]
        known += [name for number in range(1, state.current_log + 1) for name in _names_of(number)]
        register.check_names(known, findings)
        await check_evidence(task)
        if folder.config.signer_socket is None or (folder.signer / JOURNAL_NAME).exists():
            check_signer_files(task)
            await check_signer(task, logs)
        else:
            findings.note("the signer is elsewhere; its record and journal were not checked")


async def _check_certificate(task: FolderTask) -> None:
    """Compare both copies of the CA certificate."""
    (served,) = await task.files.fetch([CERTIFICATE_NAME])
    kept = (task.folder.path / CERTIFICATE_NAME).read_bytes()
    if served is None:
        task.findings.add(CERTIFICATE_NAME, "is missing in public")
    elif served != task.folder.certificate_pem:
        task.findings.add(CERTIFICATE_NAME, "in public is not the certificate of ca.pem")
    if kept != task.folder.certificate_pem:
        task.findings.add(CERTIFICATE_NAME, "is not written as a CA writes it", severity=Severity.WARNING)


def _read_state(task: FolderTask, register: RegisterCopy) -> CAState:
    """Return which log is current; without a state that can be read, the last one that the register knows."""
    data = register.read(STATE_NAME, task.findings)
    if data is not None:
        try:
            return CAState.parse(data)
        except Error as error:
            task.findings.add_error(register.where(STATE_NAME), error)
    number = 1
    while f"log-{number + 1}" in register.values:
        number += 1
    return CAState(number, number - 1)


def _names_of(number: int) -> tuple[str, str]:
    """Return the names of the register's values for a log."""
    return f"log-{number}", LandmarkState.name_of(number)


async def _check_log(
    task: FolderTask, register: RegisterCopy, number: int, state: CAState, abandoned: Collection[int]
) -> LogView | None:
    """Check one log and everything that decides about it."""
    record = _read_record(task, register, number)
    landmarks = read_landmark_state(task, register, number)
    log_task = LogTask(
        log_number=number,
        ca=task.folder.certificate,
        now=task.now,
        record=record,
        cosigners=task.keys[1:],
        # Where nothing is deleted, everything must be there, served or not.
        minimum_index=record.minimum_index if record and task.folder.config.pruning == "delete" else 0,
        sizes=[] if landmarks is None else [mark.tree_size for mark in landmarks.marks],
        progress=_told(task.tell, number),
    )
    checked = await check_log(task.files, log_task, task.findings)
    if checked is None:
        return None
    if checked.tree is None:
        task.findings.note(f"log {number}: its past was not checked, because its tree does not lead to the root")
    settled = await settle(task, checked, is_abandoned=number in abandoned)
    if settled is None:
        return LogView(checked, None)
    await check_record(task, settled, checked, is_current=number == state.current_log)
    await check_ahead(task, settled, checked)
    await check_beside(task, settled.record)
    # As it is now: a landmark that came meanwhile is in both.
    later = read_landmark_state(task, settled.register, number)
    if later is not None:
        check_landmark_state(task, later, checked, settled.record)
    await check_ledger(task, settled, checked)
    await check_owed(task, settled, checked)
    return LogView(checked, settled)


def _read_record(task: FolderTask, register: RegisterCopy, number: int) -> LogRecord | None:
    """Return what the register says of a log."""
    name = f"log-{number}"
    data = register.read(name, task.findings)
    if data is None:
        return None
    try:
        return LogRecord.parse(data)
    except Error as error:
        task.findings.add_error(register.where(name), error)
        return None


async def _check_strays(files: ServedFiles, numbers: range, findings: Findings) -> None:
    """Find files outside of the logs that nobody knows, where files can be listed."""
    paths = await files.list_paths("")
    known = {CERTIFICATE_NAME, "ca.crl", RANGES}
    prefixes = tuple(f"{number}/" for number in numbers)
    for path in paths or ():
        if path not in known and not path.startswith(prefixes):
            findings.add(path, "does not belong here", severity=Severity.WARNING)


def _told(tell: Tell, number: int) -> Progress:
    """Return what hears of the entries of one log."""
    return lambda done, total: tell(f"log {number}", done, total)
