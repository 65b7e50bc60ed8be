"""The signer's folder: configuration, key, record, and its journal, computed again from the final logs."""

import hashlib
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mtc.ca.folder import signer_config
from mtc.ca.fsck.context import FolderTask
from mtc.ca.fsck.records import Settled
from mtc.ca.fsck.registers import RegisterCopy, copy_register
from mtc.ca.fsck.rounds import hashes_of
from mtc.cert import SerialRanges
from mtc.cert.crl import parse_tbs_crl
from mtc.errors import Error, FormatError, UsageError
from mtc.log import LogRecord
from mtc.log.fsck import Findings
from mtc.log.fsck.service import CheckedLog
from mtc.merkle import Subtree
from mtc.signer.crl import CRLKind, CRLView
from mtc.signer.journal import MAX_LINE_BYTES, TORN, CRLLine, JournalLine, TreeLine, parse_journal_line
from mtc.signer.machine import SignerView
from mtc.signer.service import (
    CRL_NAME,
    JOURNAL_NAME,
    KEY_NAME,
    LOG_NAME,
    REGISTER_NAME,
    load_signer,
    read_signer_config,
)
from mtc.wire import posix_seconds

REGISTER = f"signer/{REGISTER_NAME}"
JOURNAL = f"signer/{JOURNAL_NAME}"
_AT_ONCE = 256


@dataclass(frozen=True, slots=True)
class LogView:
    """A log for the signer's checks. settled: None where register and checkpoint could not be compared."""

    checked: CheckedLog
    settled: Settled | None


@dataclass(slots=True)
class _History:
    """What the journal said so far. trees, lists: the last line of each log and of each kind of list."""

    trees: dict[int, TreeLine] = field(default_factory=dict)
    lists: dict[CRLKind, CRLLine] = field(default_factory=dict)


def check_signer_files(task: FolderTask) -> None:
    """Check the signer's configuration, and that its key is the CA's and for its owner alone."""
    folder, findings = task.folder, task.findings
    try:
        config = read_signer_config(folder.signer)
    except Error as error:
        findings.add("signer/signer.toml", error.message)
        return
    expected = signer_config(folder.config)
    same = ("ca_id", "revision", "hash_name", "algorithm", "has_counter", "entry_types", "extension_types")
    for name in same:
        if getattr(config, name) != getattr(expected, name):
            findings.add("signer/signer.toml", f"and ca.toml do not agree about {name}")
    spki = folder.certificate.public_key.public_key
    if config.key.fingerprint != hashlib.sha256(spki).hexdigest():
        findings.add("signer/signer.toml", "is for another key than the CA certificate's")
    if config.key.kind == "file":
        _check_key(task, folder.signer / config.key.options.get("path", KEY_NAME))


def _check_key(task: FolderTask, path: Path) -> None:
    """Check the file with the key; an encrypted one stays closed."""
    name, findings = f"signer/{path.name}", task.findings
    try:
        data, mode = path.read_bytes(), stat.S_IMODE(path.stat().st_mode)
    except OSError as error:
        findings.add(name, f"cannot be read: {(error.strerror or '').lower()}")
        return
    if mode & 0o077:
        findings.add(name, "may be read by others than its owner; chmod 600")
        return
    if b"ENCRYPTED" in data:
        findings.note(f"{name} is encrypted and was not opened")
        return
    try:
        loaded = load_signer(task.folder.signer)
    except UsageError as error:
        findings.add(name, error.message)
        return
    if loaded.key.public_key != task.folder.certificate.public_key.public_key:
        findings.add(name, "is not the key of the CA certificate")


async def check_signer(task: FolderTask, logs: Mapping[int, LogView]) -> None:
    """Compare the signer's record with the logs, and compute every journalled message again."""
    path = task.folder.signer / REGISTER_NAME
    # The record is read first: whatever it says is in the journal already.
    register = await copy_register(path, REGISTER, task.findings)
    history = await _check_journal(task, logs)
    await _check_ends(task, history)
    names = [f"{LOG_NAME}-{number}" for number in logs]
    for number, log in logs.items():
        await _check_view(task, register, number, log, history.trees.get(number))
    for kind in CRLKind:
        _check_list_view(task, register, kind, history.lists.get(kind))
    register.check_names([*names, *(f"{CRL_NAME}-{kind}" for kind in CRLKind)], task.findings)


async def _check_view(
    task: FolderTask, register: RegisterCopy, number: int, log: LogView, line: TreeLine | None
) -> None:
    """Compare what the signer remembers of a log with the log, and with what it announced last."""
    name, findings = f"{LOG_NAME}-{number}", task.findings
    data, where = register.read(name, findings), register.where(name)
    if data is None:
        return
    try:
        view = SignerView.parse(data)
    except Error as error:
        findings.add_error(where, error)
        return
    size = view.frontier.tree_size
    if view.log_number != number:
        findings.add(where, f"is that of log {view.log_number}")
    if line is None or (line.tree_size, line.timestamp) < (size, view.timestamp):
        findings.add(where, f"remembers {size} entries at {view.timestamp}, which the journal does not announce")
    if log.settled is not None and not log.settled.has_moved and size < log.checked.tree_size:
        findings.add(where, f"remembers {size} entries, fewer than the {log.checked.tree_size} that are published")
    if line is not None and (line.tree_size, line.timestamp) == (size, view.timestamp):
        if line.root_hash != view.frontier.root(task.hasher):
            findings.add(where, f"remembers another tree of {size} entries than the journal announces")
        if line.subtrees and line.subtrees != view.subtrees:
            findings.add(where, "remembers other subtrees than the journal announces")
    await _compare_view(task, log.checked, view, where)


async def _compare_view(task: FolderTask, checked: CheckedLog, view: SignerView, where: str) -> None:
    """Compare the edge and the subtrees that the signer remembers with the log."""
    size, tree = view.frontier.tree_size, checked.tree
    if tree is None or size > checked.tree_size:
        return
    nodes = _edge_of(size)
    hashes = await hashes_of(tree, [*nodes, *(subtree for subtree, _ in view.subtrees)])
    # A node that was pruned away cannot be compared.
    if any(hashes.get(node, value) != value for node, value in zip(nodes, view.frontier.hashes, strict=True)):
        task.findings.add(where, f"remembers another tree of {size} entries than the log had")
    if any(hashes.get(subtree, value) != value for subtree, value in view.subtrees):
        task.findings.add(where, "remembers other subtrees than the log has")
    facts = checked.facts.get(size) if size < checked.tree_size else checked.end
    if facts is not None and not checked.first_index and view.accumulated_count != facts.accumulated_count:
        task.findings.add(where, f"counts {view.accumulated_count} accumulated entries, not {facts.accumulated_count}")


def _edge_of(tree_size: int) -> list[Subtree]:
    """Return the complete subtrees along the right edge of a tree, largest first."""
    nodes, start = [], 0
    for bit in range(tree_size.bit_length() - 1, -1, -1):
        if tree_size >> bit & 1:
            nodes.append(Subtree(start, start + (1 << bit)))
            start += 1 << bit
    return nodes


def _check_list_view(task: FolderTask, register: RegisterCopy, kind: CRLKind, line: CRLLine | None) -> None:
    """Compare what the signer remembers of a kind of list with what it announced last."""
    name, findings = f"{CRL_NAME}-{kind}", task.findings
    data, where = register.values.get(name), register.where(name)
    if data is None:
        if line is not None and name not in register.damaged:
            findings.add(where, "is missing, but the journal announces a list")
        return
    try:
        view = CRLView.parse(data)
        expected = None if line is None else _view_of(line)
    except Error as error:
        findings.add_error(where, error)
        return
    if expected is None or expected.number < view.number:
        findings.add(where, f"remembers list {view.number}, which the journal does not announce")
    elif expected.number == view.number and expected != view:
        findings.add(where, f"remembers another list {view.number} than the journal announces")


def _view_of(line: CRLLine) -> CRLView:
    """Return what the signer remembers of a list. Raises FormatError."""
    tbs = parse_tbs_crl(line.tbs)
    return CRLView(
        kind=line.kind,
        number=tbs.number,
        digest=hashlib.sha256(line.tbs).digest(),
        this_update=posix_seconds(tbs.this_update),
        min_serial=tbs.min_serial or 0,
        ranges=SerialRanges() if tbs.ranges is None else tbs.ranges,
    )


async def _check_journal(task: FolderTask, logs: Mapping[int, LogView]) -> _History:
    """Check every line; return the last ones. Lines are read a few at a time."""
    history, findings = _History(), task.findings
    lines: list[tuple[int, TreeLine]] = []
    for number, line in _read_journal(task.folder.signer / JOURNAL_NAME, findings):
        if isinstance(line, CRLLine):
            _check_list_line(task, number, line, history)
            continue
        _check_order(task, number, line, history, logs)
        lines.append((number, line))
        if len(lines) == _AT_ONCE:
            await _check_trees(findings, lines, logs)
            lines = []
    await _check_trees(findings, lines, logs)
    return history


def _read_journal(path: Path, findings: Findings) -> Iterator[tuple[int, JournalLine]]:
    """Yield the lines of the journal with their numbers, from 1; a line that is none is a finding.

    Lines that a crash cut off were never followed by a signature, and are passed over.
    """
    try:
        with path.open("rb") as file:
            number = at = 0
            while line := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                try:
                    if line.endswith(b"\n") and not line.endswith(TORN):
                        yield number, parse_journal_line(line[:-1])
                    elif len(line) > MAX_LINE_BYTES:
                        findings.add(JOURNAL, f"line {number}: is too long", offset=at)
                except FormatError as error:
                    findings.add(JOURNAL, f"line {number}: {error.message}", offset=at)
                at += len(line)
    except OSError as error:
        findings.add(JOURNAL, f"cannot be read: {(error.strerror or '').lower()}")


def _check_list_line(task: FolderTask, number: int, line: CRLLine, history: _History) -> None:
    """Check an announced revocation list."""
    findings, last = task.findings, history.lists.get(line.kind)
    findings.count("journalled messages")
    try:
        tbs = parse_tbs_crl(line.tbs)
    except Error as error:
        findings.add(JOURNAL, f"line {number}: {error.message}")
        return
    if tbs.number != line.number or (tbs.ranges is None) != (line.kind is CRLKind.PLAIN):
        findings.add(JOURNAL, f"line {number}: announces another list than it holds")
    if last is not None and (line.number < last.number or (line.number == last.number and line.tbs != last.tbs)):
        findings.add(JOURNAL, f"line {number}: list {line.number} cannot follow list {last.number}")
    history.lists[line.kind] = line


def _check_order(task: FolderTask, number: int, line: TreeLine, history: _History, logs: Mapping[int, LogView]) -> None:
    """Check that a tree follows the one before it."""
    findings, last = task.findings, history.trees.get(line.log_number)
    what = f"line {number}: "
    if line.cosigner_id != task.folder.certificate.ca_id:
        findings.add(JOURNAL, f"{what}announces signatures of {line.cosigner_id}")
    if line.log_number not in logs:
        findings.add(JOURNAL, f"{what}announces a tree of log {line.log_number}, which is not known")
    if last is not None and (line.tree_size < last.tree_size or line.timestamp < last.timestamp):
        findings.add(JOURNAL, f"{what}goes back, from {last.tree_size} entries at {last.timestamp}")
    history.trees[line.log_number] = line


async def _check_ends(task: FolderTask, history: _History) -> None:
    """Check that no tree was announced that the register has not decided.

    The register is read behind the journal, so that a log that grows meanwhile is not ahead of it.
    """
    register = await task.read_register()
    for log_number, line in history.trees.items():
        data = register.values.get(f"log-{log_number}")
        try:
            record = None if data is None else LogRecord.parse(data)
        except Error:
            record = None
        if record is not None and line.tree_size > record.tree_size:
            text = f"announces {line.tree_size} entries of log {log_number}, which has {record.tree_size}"
            task.findings.add(JOURNAL, text)


async def _check_trees(findings: Findings, lines: list[tuple[int, TreeLine]], logs: Mapping[int, LogView]) -> None:
    """Compute the messages of some lines again."""
    for log_number, log in logs.items():
        own = [(number, line) for number, line in lines if line.log_number == log_number]
        if not own or log.checked.tree is None:
            continue
        said = [{Subtree(0, line.tree_size): line.root_hash} | dict(line.subtrees) for _, line in own]
        hashes = await hashes_of(log.checked.tree, [subtree for items in said for subtree in items])
        for (number, line), items in zip(own, said, strict=True):
            findings.count("journalled messages", 1 + len(line.subtrees))
            wrong = [str(subtree) for subtree, value in items.items() if hashes.get(subtree, value) != value]
            if len(items) < 1 + len(line.subtrees) - (Subtree(0, line.tree_size) in dict(line.subtrees)):
                wrong.append("a subtree twice")
            if dict(line.subtrees).get(Subtree(0, line.tree_size), line.root_hash) != line.root_hash:
                wrong.append("two roots")
            if wrong:
                findings.add(
                    JOURNAL, f"line {number}: announces other hashes than log {log_number} has of {', '.join(wrong)}"
                )
