"""What the register says of a log, compared with what is published of it, and what lies beside it."""

import json
from dataclasses import dataclass

from mtc.ca.fsck.context import FolderTask
from mtc.ca.fsck.registers import RegisterCopy
from mtc.ca.landmarks import LandmarkState
from mtc.ca.state import CAState, Incident
from mtc.errors import Error
from mtc.landmark import ActiveLandmarks
from mtc.log import LogRecord
from mtc.log.formats import StagedRound, public_prefix
from mtc.log.fsck import Findings, Severity
from mtc.log.fsck.service import CheckedLog
from mtc.log.machine import plan_recovery, recovery_keys
from mtc.note import Checkpoint, open_note
from mtc.tiles import parse_tile_path
from mtc.wire import Reader, posix_seconds

_READS = 20


@dataclass(frozen=True, slots=True)
class Settled:
    """The record and the checkpoint of a log at one moment, when neither moved.

    unfinished: the round that is decided and not yet published, None without one. has_moved: the log went on since it
    was checked.
    """

    register: RegisterCopy
    record: LogRecord
    tree_size: int
    root_hash: bytes
    timestamp: int
    unfinished: StagedRound | None
    has_moved: bool


async def settle(task: FolderTask, checked: CheckedLog, *, is_abandoned: bool = False) -> Settled | None:
    """Compare a log's record with its checkpoint. Returns None when that is not possible, which is a finding.

    A running CA moves both, first the one and then the other; they are read until they stand still. is_abandoned: the
    log was given up, perhaps with a round that cannot be finished.
    """
    number = checked.log_number
    name, path = f"log-{number}", f"{number}/checkpoint"
    register, (note,) = await task.read_register(), await task.files.fetch([path])
    for _ in range(_READS):
        again, (later,) = await task.read_register(), await task.files.fetch([path])
        if again.values.get(name) == register.values.get(name) and later == note:
            break
        register, note = again, later
    data = register.values.get(name)
    if data is None or note is None or checked.checkpoint is None:
        return None
    where = register.where(name)
    try:
        record = LogRecord.parse(data)
        opened = open_note(note, [task.key])
        checkpoint = Checkpoint.parse(opened.text, task.hasher.size)
    except Error as error:
        task.findings.add_error(where, error)
        return None
    timestamp = next(item.timestamp or 0 for item in opened.verified)
    if is_abandoned and record.is_closed and record.tree_size > checkpoint.tree_size:
        task.findings.note(
            f"log {number} was given up with a round to {record.tree_size} entries decided and never published; it is "
            f"checked up to {checkpoint.tree_size}"
        )
        return None
    unfinished = await _check_unfinished(task, record, checkpoint, timestamp, where)
    return Settled(
        register, record, checkpoint.tree_size, checkpoint.root_hash, timestamp, unfinished, note != checked.note
    )


async def _check_unfinished(
    task: FolderTask, record: LogRecord, checkpoint: Checkpoint, timestamp: int, where: str
) -> StagedRound | None:
    """Check that record and checkpoint are one tree, or a decided round leads from the one to the other."""
    findings = task.findings
    what = ""
    if record.log_number != int(where.rpartition("-")[2]):
        what = f"is the record of log {record.log_number}"
    elif record.tree_size < checkpoint.tree_size or record.timestamp < timestamp:
        what = "is older than the checkpoint that is published; bring the newest register back"
    elif record.tree_size == checkpoint.tree_size and record.root_hash != checkpoint.root_hash:
        what = "has another root hash than the checkpoint"
    elif (record.tree_size, record.timestamp) != (checkpoint.tree_size, timestamp) and not record.staged_digest:
        what = "has another time than the checkpoint"
    if what:
        findings.add(where, what)
    if what or (record.tree_size, record.timestamp) == (checkpoint.tree_size, timestamp):
        return None
    key = StagedRound.key_of(record.log_number, record.tree_size, record.staged_digest)
    (staged,) = await task.store.fetch([key])
    if staged is None:
        findings.add(where, f"is ahead of the checkpoint ({checkpoint.tree_size} entries), and {key} is missing")
        return None
    keys = recovery_keys(record)
    found = zip(keys, await task.store.fetch(keys), strict=True)
    try:
        _, round_ = plan_recovery(
            task.hasher, record, staged, {name: content for name, content in found if content is not None}
        )
    except Error as error:
        findings.add_error(key, error)
        return None
    findings.count("unfinished rounds")
    findings.note(
        f"log {record.log_number}: a round to {record.tree_size} entries is decided and not yet published; the next "
        "start finishes it"
    )
    return round_


async def check_record(task: FolderTask, settled: Settled, checked: CheckedLog, *, is_current: bool) -> None:
    """Compare everything else that a record says with the entries."""
    record, findings = settled.record, task.findings
    where = settled.register.where(f"log-{record.log_number}")
    if record.is_closed and is_current:
        findings.add(where, "is closed, and no other log follows; go on with: mtc ca rollover")
    elif not record.is_closed and not is_current:
        findings.add(where, "is open although another log follows")
    if record.has_counter != task.folder.config.has_counter:
        findings.add(where, "and ca.toml do not agree whether entries carry the counter")
    if settled.has_moved:
        findings.count("logs that moved on")
    if settled.has_moved or settled.unfinished is not None or record.tree_size != checked.tree_size:
        return
    end, is_whole = checked.end, not checked.first_index
    if record.latest_not_after != end.latest_not_after and (is_whole or record.latest_not_after < end.latest_not_after):
        findings.add(where, f"has {record.latest_not_after} as the latest notAfter, not {end.latest_not_after}")
    if record.accumulated_count != end.accumulated_count and (is_whole or record.has_counter):
        findings.add(where, f"counts {record.accumulated_count} accumulated entries, not {end.accumulated_count}")


async def check_ahead(task: FolderTask, settled: Settled, checked: CheckedLog) -> None:
    """Look at files of a larger tree than the one that was checked: a round is published before its checkpoint is."""
    findings, record = task.findings, settled.record
    staged = {} if settled.unfinished is None else settled.unfinished.objects
    prefix = public_prefix(record.log_number)
    paths = [path for path in checked.ahead if settled.has_moved or f"public/{path}" not in staged]
    for path in paths:
        place = parse_tile_path(path.removeprefix(f"{record.log_number}/"))
        if not settled.has_moved or place.start >= record.tree_size:
            findings.add(path, "lies beyond the checkpoint", severity=Severity.WARNING)
    expected = {key: data for key, data in staged.items() if key.startswith(prefix)}
    for key, data in zip(expected, await task.store.fetch(list(expected)), strict=True):
        if data is not None and data != expected[key]:
            findings.add(key.removeprefix("public/"), "is not what the staged round publishes there")


def read_landmark_state(task: FolderTask, register: RegisterCopy, number: int) -> LandmarkState | None:
    """Return what the register holds of a log's landmarks."""
    name = LandmarkState.name_of(number)
    data = register.read(name, task.findings)
    if data is None:
        return None
    try:
        return LandmarkState.parse(data, task.folder.config.revision)
    except Error as error:
        task.findings.add_error(register.where(name), error)
        return None


def check_landmark_state(task: FolderTask, state: LandmarkState, checked: CheckedLog, record: LogRecord) -> None:
    """Compare the register's landmarks with the file that was made from them, and with the entries."""
    findings, number = task.findings, checked.log_number
    where, path = f"register.sqlite {LandmarkState.name_of(number)}", f"{number}/landmarks"
    if state.log_number != number:
        findings.add(where, f"is that of log {state.log_number}")
    if state.sequence.latest.tree_size > record.tree_size:
        findings.add(where, f"has a landmark at {state.sequence.latest.tree_size} entries, behind the log")
    for mark in state.marks:
        facts = checked.facts.get(mark.tree_size)
        if mark.tree_size > record.tree_size or mark.latest_not_after > record.latest_not_after:
            findings.add(where, f"has a mark at {mark.tree_size} entries that the log does not bear out")
        elif facts is not None and mark.latest_not_after < facts.latest_not_after:
            findings.add(where, f"says that the first {mark.tree_size} entries expire earlier than they do")
    if any(moment > posix_seconds(task.now) + 300 for moment in state.allocations):
        findings.add(where, "has a landmark that was allocated in the future")
    if checked.landmarks is not None:
        _compare_landmarks(findings, state, checked.landmarks, where, path)


def _compare_landmarks(
    findings: Findings, state: LandmarkState, published: ActiveLandmarks, where: str, path: str
) -> None:
    """Compare two runs of landmarks of one sequence."""
    known = {mark.number: mark for mark in state.sequence.landmarks}
    if any(known.get(mark.number, mark) != mark for mark in published.landmarks):
        findings.add(path, "holds other landmarks than the register")
        return
    latest = state.sequence.latest
    if published.latest.number > latest.number:
        findings.add(where, f"ends at landmark {latest.number}, but {published.latest.number} is published")
    elif published.latest.number < latest.number:
        findings.note(f"{path} lacks landmark {latest.number} of the register; the CA publishes it when it starts")
    if published.latest.number < state.sequence.landmarks[0].number:
        findings.add(path, f"ends at landmark {published.latest.number}, which is long out of date")


async def check_beside(task: FolderTask, record: LogRecord) -> None:
    """Check the small objects of a log that are neither served nor signed."""
    key = f"private/collected/{record.log_number}"
    (data,) = await task.store.fetch([key])
    if data is None:
        return
    try:
        reader = Reader(data, "the collector's mark")
        mark = reader.read_uint(6)
        reader.finish()
    except Error as error:
        task.findings.add_error(key, error)
        return
    if mark % 256 or mark > record.tree_size:
        task.findings.add(key, f"says that partial tiles were collected up to {mark}, which cannot be")


async def check_incidents(task: FolderTask, state: CAState, register: RegisterCopy) -> set[int]:
    """Check that every change of the log has its record; return the numbers of the logs that were given up."""
    findings = task.findings
    abandoned: set[int] = set()
    if state.current_log != state.incidents + 1:
        text = f"counts {state.incidents} incidents, but log {state.current_log} is current"
        findings.add(register.where("ca"), text)
    keys = [Incident.key_of(number) for number in range(1, min(state.incidents, state.current_log - 1) + 1)]
    for number, (key, data) in enumerate(zip(keys, await task.store.fetch(keys), strict=True), 1):
        if data is None:
            findings.add(key, "is missing")
            continue
        try:
            incident = Incident(**json.loads(data))
        except (ValueError, TypeError, AttributeError):
            findings.add(key, "is no record of an incident")
            continue
        record = register.values.get(f"log-{incident.old_log}")
        same = (incident.number, incident.old_log, incident.new_log) == (number, number, number + 1)
        if not same or incident.encode() != data:
            findings.add(key, "is not the record of this incident as a CA writes it")
        elif record is not None and not _is_of_incident(record, incident):
            findings.add(key, f"says something else of log {incident.old_log} than the register")
        elif incident.is_abandoned:
            abandoned.add(incident.old_log)
    return abandoned


def _is_of_incident(data: bytes, incident: Incident) -> bool:
    """Tell whether an incident's record says of the old log what the register says."""
    try:
        record = LogRecord.parse(data)
    except Error:
        return True
    said = incident.tree_size, incident.root_hash, incident.timestamp
    return said == (record.tree_size, record.root_hash.hex(), record.timestamp)
