"""Re-verifies a whole CA: every log from what it serves, and with the folder also everything that decides.

With the folder: the register's values, the ledger with every checkpoint and cosignature that was ever published, the
signer's record, and its journal, each message of which is computed again from the final log. What nothing signs is
compared with the register. It reads and never repairs.
"""

import hashlib
import stat
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import Protocol

from mtc.ca.folder import CAFolder
from mtc.ca.landmarks import LandmarkState
from mtc.ca.revocation_state import STATE_NAME as REVOCATIONS
from mtc.ca.revocation_state import RevocationState
from mtc.ca.state import STATE_NAME, CAState, Incident
from mtc.cert import CACertificate, CertificateRevocationList, RevocationList
from mtc.errors import Error, PeerError, Reason, StorageError
from mtc.ids import MAX_LOG_NUMBER, encode_ca_name, log_id
from mtc.kernel import active_kernel
from mtc.log import LogRecord, SignedRound
from mtc.log.formats import StagedRound, digest_of, public_prefix
from mtc.log.fsck import Findings
from mtc.log.fsck.service import CheckedLog, LogChecker, LogRules
from mtc.log.ledger.service import Ledger
from mtc.merkle import Hasher, Subtree
from mtc.note import (
    Checkpoint,
    SignatureType,
    VerifierKey,
    encode_subtree_message,
    open_note,
)
from mtc.signer.crl import CRLKind, CRLView
from mtc.signer.journal import TreeLine
from mtc.signer.machine import SignerView
from mtc.signer.service import (
    CRL_NAME,
    JOURNAL_NAME,
    KEY_NAME,
    LOG_NAME,
    REGISTER_NAME,
    load_signer,
    read_journal,
    read_signer_config,
)
from mtc.store import FileStore, ObjectStore, Register, SQLiteRegister
from mtc.store.storage import REGISTER_NAME as CA_REGISTER
from mtc.wire import find_pem_block, posix_seconds

_MAX_SKEW = timedelta(minutes=5)

Tell = Callable[[str, int, int], None]
"""Hears what is done, how much of it, and how much there is."""


class ObjectFiles(Protocol):
    """Where the files of a CA are read: a folder's `public`, or its prefix URL."""

    async def fetch(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return files by their paths below the prefix, None for one that is not there."""


class _LogFiles:
    """The files of one log. store: of the folder, where files can be listed."""

    def __init__(self, source: ObjectFiles, log_number: int, store: ObjectStore | None) -> None:
        self._source = source
        self._log_number = log_number
        self._store = store

    async def fetch(self, paths: Sequence[str]) -> list[bytes | None]:
        """Return files."""
        return await self._source.fetch([f"{self._log_number}/{path}" for path in paths])

    async def list_paths(self) -> list[str] | None:
        """Return the paths of all files."""
        if self._store is None:
            return None
        prefix = public_prefix(self._log_number)
        return [key.removeprefix(prefix) for key in await self._store.list_keys(prefix)]


async def check_public(
    source: ObjectFiles, authority: CACertificate | None, findings: Findings, now: datetime, tell: Tell
) -> None:
    """Check a CA from what it serves. authority: its certificate, if the caller has it.

    Raises PeerError when there is no CA certificate, or nothing is served.
    """
    (data,) = await source.fetch(["ca.pem"])
    served = None
    if data is not None:
        try:
            served = CACertificate.parse(find_pem_block(data, "CERTIFICATE"))
        except Error as error:
            findings.add("ca.pem", error.message)
    certificate = authority or served
    if certificate is None:
        raise PeerError(Reason.PEER, "no CA certificate is served there; give one with --ca")
    if served is None or served.der != certificate.der:
        findings.add("ca.pem", "is missing" if data is None else "is another certificate than the one that is trusted")
    await check_lists(source, certificate, findings, now)
    number = 1
    while number <= MAX_LOG_NUMBER:
        (checkpoint,) = await source.fetch([f"{number}/checkpoint"])
        if checkpoint is None:
            break
        rules = _rules(certificate, number, allows_strangers=True)
        files = _LogFiles(source, number, None)
        await LogChecker(files, rules, findings, now, _told(tell, number)).check()
        number += 1
    if number == 1:
        raise PeerError(Reason.PEER, "no log 1 is served there; give the CA's folder or its prefix URL")


async def check_lists(source: ObjectFiles, authority: CACertificate, findings: Findings, now: datetime) -> int | None:
    """Check both revocation lists. Returns their number, None when they have none in common."""
    issuer = encode_ca_name(authority.ca_id, authority.revision)
    numbers = []
    for name, data in zip(
        ("ca.crl", "revocations.crl"), await source.fetch(["ca.crl", "revocations.crl"]), strict=True
    ):
        if data is None:
            findings.add(name, "is missing")
            continue
        try:
            crl = CertificateRevocationList.parse(data)
            # The clock that signed may be a little ahead of this one.
            moment = max(now, min(crl.tbs.this_update, now + _MAX_SKEW))
            proven = crl.verify(authority.public_key, issuer, moment)
        except Error as error:
            findings.add(name, error.message)
            continue
        if isinstance(proven, RevocationList) != (name == "revocations.crl"):
            findings.add(name, "is the other kind of list")
        numbers.append(crl.tbs.number)
        findings.count("signatures")
    return numbers[0] if len(set(numbers)) == 1 and len(numbers) == 2 else None


async def check_folder(path: Path, findings: Findings, now: datetime, tell: Tell) -> None:
    """Check a CA's folder: what it serves, and everything that decides. Raises UsageError for what is none."""
    folder = CAFolder.read(path)
    with closing(FileStore.open(path, is_writer=False)) as store, closing(_register(path / CA_REGISTER)) as register:
        source = _Below(store, "public/")
        await _check_database(register, CA_REGISTER, findings)
        (served,) = await source.fetch(["ca.pem"])
        if served != folder.certificate_pem or served != (path / "ca.pem").read_bytes():
            findings.add("public/ca.pem", "is not the certificate of ca.pem")
        state = await _read_state(register, findings)
        await _FolderCheck(folder, store, register, findings, now, tell).check(state)
    await _check_signer_files(folder, findings)


def _register(path: Path) -> SQLiteRegister:
    """Open a register to read it."""
    if not path.exists():
        raise StorageError(Reason.STORAGE, f"{path} is missing; bring it back from the newest copy")
    return SQLiteRegister.open(path)


async def _check_database(register: SQLiteRegister, name: str, findings: Findings) -> None:
    """Have the database look through its own pages."""
    for fault in await register.find_faults():
        findings.add(name, fault)


async def _read_state(register: Register, findings: Findings) -> CAState:
    """Return which log is current."""
    try:
        data = await register.read(STATE_NAME)
        if data is None:
            raise StorageError(Reason.STORAGE, "the register does not know which log is current")
        return CAState.parse(data)
    except Error as error:
        findings.add(f"register {STATE_NAME}", error.message)
        return CAState()


class _Below:
    """The objects of a store below a prefix."""

    def __init__(self, store: ObjectStore, prefix: str) -> None:
        self._store = store
        self._prefix = prefix

    async def fetch(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return objects."""
        return await self._store.fetch([self._prefix + key for key in keys])


class _FolderCheck:
    """The parts of a folder that decide."""

    def __init__(  # noqa: PLR0913 - what a check stands on
        self,
        folder: CAFolder,
        store: ObjectStore,
        register: Register,
        findings: Findings,
        now: datetime,
        tell: Tell,
    ) -> None:
        self._folder = folder
        self._store = store
        self._register = register
        self._findings = findings
        self._now = now
        self._tell = tell
        self._source = _Below(store, "public/")
        # Numbers of all logs, and when each round was signed, by log and tree size.
        self._logs: frozenset[int] = frozenset()
        self._round_ends: dict[int, dict[int, int]] = {}
        self._hasher: Hasher = active_kernel().hasher(folder.config.profile.hash_name)

    async def check(self, state: CAState) -> None:
        """Check lists, logs, signer and journal."""
        certificate = self._folder.certificate
        number = await check_lists(self._source, certificate, self._findings, self._now)
        await self._check_revocations(number)
        # The folder knows its own logs; one behind the current one must not be served.
        served = await self._source.fetch([f"{state.current_log + 1}/checkpoint"])
        if served != [None] and await self._register.read(f"log-{state.current_log + 1}") is None:
            self._findings.add(f"{state.current_log + 1}/checkpoint", "is of a log that the register does not know")
        await self._check_incidents(state)
        self._logs = frozenset(range(1, state.current_log + 1))
        checked: dict[int, tuple[LogChecker, CheckedLog]] = {}
        for log_number in range(1, state.current_log + 1):
            found = await self._check_log(log_number, is_current=log_number == state.current_log)
            if found is not None:
                checked[log_number] = found
        await self._check_signer(checked)

    async def _check_incidents(self, state: CAState) -> None:
        """Check that every change of the log has its record."""
        if state.current_log != state.incidents + 1:
            text = f"counts {state.incidents} incidents, but log {state.current_log} is current"
            self._findings.add(f"register {STATE_NAME}", text)
        keys = [Incident.key_of(number) for number in range(1, min(state.incidents, MAX_LOG_NUMBER) + 1)]
        for key, data in zip(keys, await self._store.fetch(keys), strict=True):
            if data is None:
                self._findings.add(key, "is missing")

    async def _check_revocations(self, number: int | None) -> None:
        """Compare the published lists with the register."""
        (published,) = await self._source.fetch(["revocations.crl"])
        try:
            data = await self._register.read(REVOCATIONS)
            state = None if data is None else RevocationState.parse(data)
            crl = None if published is None else CertificateRevocationList.parse(published)
        except Error as error:
            self._findings.add(f"register {REVOCATIONS}", error.message)
            return
        if state is None or crl is None or number is None:
            return
        if number > state.number or (number == state.number and crl.tbs.ranges != state.ranges):
            self._findings.add(f"register {REVOCATIONS}", "is not what the published lists say")

    async def _check_log(self, number: int, *, is_current: bool) -> tuple[LogChecker, CheckedLog] | None:
        """Check one log and what decides about it."""
        name = f"register log-{number}"
        try:
            data = await self._register.read(f"log-{number}")
            if data is None:
                raise StorageError(Reason.STORAGE, "is missing")
            record = LogRecord.parse(data)
        except Error as error:
            self._findings.add(name, error.message)
            return None
        minimum = record.minimum_index if self._folder.config.pruning == "delete" else 0
        rules = _rules(self._folder.certificate, number, minimum_index=minimum)
        files = _LogFiles(self._source, number, self._store)
        checker = LogChecker(files, rules, self._findings, self._now, _told(self._tell, number))
        log = await checker.check()
        if log is None:
            return None
        if await files.fetch(["checkpoint"]) != [log.checkpoint]:
            # A running CA has gone on meanwhile; what decides is compared when it stands still.
            self._findings.count("logs that moved on")
            return None
        await self._check_record(record, log, is_current=is_current)
        await self._check_landmarks(number, log)
        await self._check_ledger(checker, record, log)
        return checker, log

    async def _check_record(self, record: LogRecord, log: CheckedLog, *, is_current: bool) -> None:
        """Compare the register with what is published."""
        name = f"register log-{record.log_number}"
        if record.is_closed == is_current:
            self._findings.add(name, "is open although another log follows" if not is_current else "is closed")
        if record.staged_digest:
            key = StagedRound.key_of(record.log_number, record.tree_size, record.staged_digest)
            (staged,) = await self._store.fetch([key])
            if staged is not None and digest_of(staged) != record.staged_digest:
                self._findings.add(key, "is not the staged round that the register names")
        else:
            staged = None
        if record.tree_size > log.tree_size:
            text = "is ahead of the checkpoint, and the round is not staged"
            if staged is None:
                self._findings.add(name, text)
            else:
                self._findings.count("unfinished rounds")
            return
        expected = (log.tree_size, log.root_hash, log.timestamp, log.accumulated)
        if (record.tree_size, record.root_hash, record.timestamp, record.accumulated_count) != expected:
            self._findings.add(name, "does not say what the checkpoint and the entries say")
        if not record.minimum_index and record.latest_not_after != log.latest_not_after:
            self._findings.add(name, "has another latest notAfter than the entries")
        if record.has_counter != (log.has_counter if log.tree_size else self._folder.config.has_counter):
            self._findings.add(name, "does not say whether entries carry the counter")

    async def _check_landmarks(self, number: int, log: CheckedLog) -> None:
        """Compare the landmarks file with the register."""
        name = LandmarkState.name_of(number)
        try:
            data = await self._register.read(name)
            if data is None:
                raise StorageError(Reason.STORAGE, "is missing")
            state = LandmarkState.parse(data, self._folder.config.revision)
        except Error as error:
            self._findings.add(f"register {name}", error.message)
            return
        known = {mark.number: mark for mark in state.sequence.landmarks}
        published = () if log.landmarks is None else log.landmarks.landmarks
        if any(known.get(mark.number, mark) != mark for mark in published):
            self._findings.add(f"{number}/landmarks", "holds other landmarks than the register")
        if (
            published
            and published[-1] != state.sequence.latest
            and published[-1].number >= state.sequence.latest.number
        ):
            self._findings.add(f"{number}/landmarks", "has a later landmark than the register")

    async def _check_ledger(self, checker: LogChecker, record: LogRecord, log: CheckedLog) -> None:
        """Check every round that was ever published: sizes, roots, signatures, request keys."""
        number = record.log_number
        try:
            ledger = await Ledger.open(self._store, number, record.tree_size)
            rounds = [round_ async for round_ in ledger.rounds(0, record.tree_size)]
            async for fault in ledger.find_faults():
                self._findings.add(f"private/ledger/{number}", fault.message)
            await ledger.close()
        except Error as error:
            self._findings.add(f"private/ledger/{number}", error.message)
            return
        wanted = [Subtree(0, round_.new_size) for round_ in rounds]
        wanted += [subtree for round_ in rounds for subtree in round_.signatures]
        hashes = await checker.subtree_hashes(wanted)
        before = 0
        for round_ in rounds:
            if round_.old_size != before:
                self._findings.add(f"private/ledger/{number}", f"has no round from {before} to {round_.old_size}")
            before = round_.new_size
            self._check_round(number, round_, hashes)
        if before < log.tree_size:
            self._findings.add(f"private/ledger/{number}", f"ends at {before} of {log.tree_size} entries")
        self._findings.count("rounds", len(rounds))
        self._round_ends[number] = {round_.new_size: round_.timestamp for round_ in rounds}

    def _check_round(self, number: int, round_: SignedRound, hashes: dict[Subtree, bytes]) -> None:
        """Check one round against the final log."""
        certificate = self._folder.certificate
        where = f"private/ledger/{number}, round to {round_.new_size}"
        key = _key(certificate)
        try:
            note = open_note(round_.checkpoint, [key])
            checkpoint = Checkpoint.parse(note.text, self._hasher.size)
            expected = (round_.new_size, hashes.get(Subtree(0, round_.new_size)))
            if (checkpoint.tree_size, checkpoint.root_hash) != expected or round_.root_hash != checkpoint.root_hash:
                self._findings.add(where, "has a checkpoint of another tree than the final log had at that size")
            if note.verified[0].timestamp != round_.timestamp:
                self._findings.add(where, "was signed at another time than it says")
            for subtree, signatures in round_.signatures.items():
                for signature in signatures:
                    if signature.cosigner_id == certificate.ca_id.binary and subtree in hashes:
                        log = log_id(certificate.ca_id, number)
                        message = encode_subtree_message(certificate.ca_id, log, subtree, hashes[subtree])
                        certificate.public_key.verify(message, signature.signature)
                        self._findings.count("signatures")
        except Error as error:
            self._findings.add(where, error.message)
        self._findings.count("signatures")

    async def _check_signer(self, checked: dict[int, tuple[LogChecker, CheckedLog]]) -> None:
        """Compare the signer's record with the logs, and compute every journalled message again."""
        folder = self._folder.signer
        path = folder / REGISTER_NAME
        if not path.exists():
            return
        with closing(SQLiteRegister.open(path)) as register:
            await _check_database(register, f"signer/{REGISTER_NAME}", self._findings)
            for number, (checker, log) in checked.items():
                try:
                    data = await register.read(f"{LOG_NAME}-{number}")
                    if data is None:
                        raise StorageError(Reason.STORAGE, "is missing")
                    view = SignerView.parse(data)
                except Error as error:
                    self._findings.add(f"signer's register {LOG_NAME}-{number}", error.message)
                    continue
                await self._check_view(view, checker, log)
            await self._check_list_views(register)
        await self._check_journal(folder / JOURNAL_NAME, checked)

    async def _check_view(self, view: SignerView, checker: LogChecker, log: CheckedLog) -> None:
        """Compare what the signer remembers of a log with the log."""
        name = f"signer's register {LOG_NAME}-{view.log_number}"
        size = view.frontier.tree_size
        wanted = [Subtree(0, size), *(subtree for subtree, _ in view.subtrees)]
        hashes = await checker.subtree_hashes(wanted)
        root = view.frontier.root(self._hasher)
        if size > log.tree_size:
            self._findings.count("unfinished rounds")
        elif size and hashes.get(Subtree(0, size)) != root:
            self._findings.add(name, f"remembers another tree of {size} entries")
        if size <= log.tree_size and any(hashes.get(subtree) != value for subtree, value in view.subtrees):
            self._findings.add(name, "remembers other subtrees")
        if size == log.tree_size and (view.timestamp != log.timestamp or view.accumulated_count != log.accumulated):
            self._findings.add(name, "remembers another time or another count")

    async def _check_list_views(self, register: Register) -> None:
        """Compare what the signer remembers of the revocation lists with the published ones."""
        for kind, name in ((CRLKind.PLAIN, "ca.crl"), (CRLKind.RANGES, "revocations.crl")):
            where = f"signer's register {CRL_NAME}-{kind}"
            (published,) = await self._source.fetch([name])
            try:
                data = await register.read(f"{CRL_NAME}-{kind}")
                view = None if data is None else CRLView.parse(data)
                crl = None if published is None else CertificateRevocationList.parse(published)
            except Error as error:
                self._findings.add(where, error.message)
                continue
            if view is None or crl is None:
                continue
            tbs = crl.tbs
            expected = CRLView(
                kind=kind,
                number=tbs.number,
                digest=hashlib.sha256(crl.message).digest(),
                this_update=posix_seconds(tbs.this_update),
                min_serial=tbs.min_serial or 0,
                ranges=tbs.ranges if tbs.ranges is not None else view.ranges,
            )
            # A list may have been signed and not published yet; an older one was never published after a newer one.
            if view.kind != kind or view.number < tbs.number or (view.number == tbs.number and view != expected):
                self._findings.add(where, "remembers another list than the published one")

    async def _check_journal(self, path: Path, checked: dict[int, tuple[LogChecker, CheckedLog]]) -> None:
        """Compute every message that was ever about to be signed again from the final logs."""
        name = f"signer/{JOURNAL_NAME}"
        try:
            lines = [line for line in read_journal(path) if isinstance(line, TreeLine)]
        except Error as error:
            self._findings.add(name, error.message)
            return
        if any(line.cosigner_id != self._folder.certificate.ca_id for line in lines):
            self._findings.add(name, "announces signatures of another CA")
        if any(line.log_number not in self._logs for line in lines):
            self._findings.add(name, "announces trees of a log that the register does not know")
        for number, (checker, log) in checked.items():
            own = [line for line in lines if line.log_number == number]
            wanted = [Subtree(0, line.tree_size) for line in own]
            wanted += [subtree for line in own for subtree, _ in line.subtrees]
            hashes = await checker.subtree_hashes(wanted)
            hashes[Subtree(0, 0)] = self._hasher.empty
            last, ends = 0, self._round_ends.get(number, {})
            for line in own:
                if line.subtrees and ends.get(line.tree_size, line.timestamp) != line.timestamp:
                    self._findings.add(name, f"has another time for {line.tree_size} entries of log {number}")
                said = {Subtree(0, line.tree_size): line.root_hash} | dict(line.subtrees)
                if line.tree_size <= log.tree_size and any(hashes.get(tree) != value for tree, value in said.items()):
                    self._findings.add(name, f"announces another tree of {line.tree_size} entries of log {number}")
                if line.timestamp < last:
                    self._findings.add(name, f"goes back in time at {line.tree_size} entries of log {number}")
                last = max(last, line.timestamp)
                self._findings.count("journalled messages", 1 + len(line.subtrees))


async def _check_signer_files(folder: CAFolder, findings: Findings) -> None:
    """Check the signer's configuration, and that its key is for its owner alone."""
    try:
        config = read_signer_config(folder.signer)
    except Error as error:
        findings.add("signer/signer.toml", error.message)
        return
    if config.ca_id != folder.config.ca_id or config.revision != folder.config.revision:
        findings.add("signer/signer.toml", "is of another CA")
    key = folder.signer / KEY_NAME
    if config.key.kind != "file":
        return
    try:
        data = key.read_bytes()
    except OSError as error:
        findings.add(f"signer/{KEY_NAME}", f"cannot be read: {(error.strerror or '').lower()}")
        return
    if stat.S_IMODE(key.stat().st_mode) & 0o077:
        findings.add(f"signer/{KEY_NAME}", "may be read by others than its owner")
    if b"ENCRYPTED" in data:
        findings.count("keys that were not opened")
        return
    try:
        loaded = load_signer(folder.signer)
    except Error as error:
        findings.add(f"signer/{KEY_NAME}", error.message)
        return
    if loaded.key.public_key != folder.certificate.public_key.public_key:
        findings.add(f"signer/{KEY_NAME}", "is not the key of the CA certificate")


def _key(authority: CACertificate) -> VerifierKey:
    """Return the CA cosigner's key under the name that it has in notes."""
    public_key = authority.public_key.public_key
    return VerifierKey.from_spki(authority.ca_id.oid_name, SignatureType.COSIGNATURE_MLDSA44, public_key)


def _rules(
    authority: CACertificate, number: int, *, minimum_index: int = 0, allows_strangers: bool = False
) -> LogRules:
    """Return what a log of a CA must be."""
    return LogRules(
        ca_id=authority.ca_id,
        log_number=number,
        revision=authority.revision,
        hasher=active_kernel().hasher(authority.hash.name),
        keys=(_key(authority),),
        minimum_index=minimum_index,
        allows_strangers=allows_strangers,
    )


def _told(tell: Tell, number: int) -> Callable[[int, int], None]:
    """Return what hears of the entries of one log."""
    return lambda done, total: tell(f"log {number}", done, total)
