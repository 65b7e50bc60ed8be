"""Everything that is known about one entry of a CA's log: who asked for it, and by what it was validated.

The way from an entry to its order is the log's own: the request key that its ledger keeps, or the staged round that is
not signed yet. What the database of the ACME server says about its place is only compared with it. Everything is read
and nothing changed, also while the CA runs.
"""

import contextlib
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path

from mtc.acme.config import FOLDER_NAME
from mtc.acme.journal import find_lines
from mtc.acme.machine.evidence import EvidenceRecord, RecordKind
from mtc.acme.machine.identifiers import Identifier, IdentifierType
from mtc.acme.machine.orders import Account, Order, order_id_of
from mtc.acme.sqlite import DATABASE_NAME, EVIDENCE_NAME, SQLiteACMEStore
from mtc.acme.store import ACMEStore
from mtc.ca.folder import CAFolder
from mtc.ca.state import STATE_NAME, CAState
from mtc.ca.status import PublishedLogs
from mtc.cert import LogEntry, TBSCertificateLogEntry
from mtc.cert.x509 import SUBJECT_ALT_NAME_OID
from mtc.errors import ConflictError, Error, FormatError, Reason, UsageError
from mtc.kernel import active_kernel
from mtc.log import LogRecord
from mtc.log.formats import StagedRound, digest_of
from mtc.log.ledger.service import Ledger
from mtc.store import Storage, open_storage
from mtc.wire import DERReader, Tag

_DNS_TAG, _IP_TAG = 0x82, 0x87
_TRIES = 5
"""A running CA packs its ledger, and signs its rounds, while they are read."""


@dataclass(frozen=True, slots=True)
class Trace:
    """What is known about an entry.

    request_key: empty when nobody gave one, or when it is pruned. is_signed: its round is in the ledger. entry: None
    for one that is not published, or pruned. records: the validations and CAA checks that the order was finalized with,
    then those that name the order. findings: what does not fit together; empty when everything does.
    """

    log_number: int
    index: int
    request_key: bytes
    is_signed: bool
    entry: TBSCertificateLogEntry | None
    order: Order | None = None
    account: Account | None = None
    records: tuple[EvidenceRecord, ...] = ()
    findings: tuple[str, ...] = ()

    @property
    def order_id(self) -> str | None:
        """The order that asked for it; None for an entry that did not come by ACME."""
        return order_id_of(self.request_key)


async def trace_entry(path: Path, index: int, log_number: int | None = None) -> Trace:
    """Return what is known about an entry. log_number: None for the current log.

    Raises UsageError when there is no such log or entry, StorageError, FormatError for what is damaged.
    """
    folder = CAFolder.read(path)
    async with _storage(folder) as storage:
        number = log_number or await _current_log(storage)
        trace = await _find(folder, storage, number, index)
    database = path / FOLDER_NAME / DATABASE_NAME
    if trace.order_id is None or not database.exists():
        missing = () if trace.order_id is None else ("there is no database of the ACME server",)
        return replace(trace, findings=missing)
    store = SQLiteACMEStore.open(database, None)
    try:
        return await _explain(trace, store, path / FOLDER_NAME / EVIDENCE_NAME)
    finally:
        await store.close()


@contextlib.asynccontextmanager
async def _storage(folder: CAFolder) -> AsyncIterator[Storage]:
    """Open a CA's storage for reading."""
    storage = open_storage(folder.config.storage, folder.path, is_writer=False)
    try:
        yield storage
    finally:
        storage.close()


async def _current_log(storage: Storage) -> int:
    """Return the number of the current log."""
    data = await storage.register.read(STATE_NAME)
    return CAState().current_log if data is None else CAState.parse(data).current_log


async def _find(folder: CAFolder, storage: Storage, number: int, index: int) -> Trace:
    """Find an entry and its request key."""
    error: Error | None = None
    for _ in range(_TRIES):
        data = await storage.register.read(f"log-{number}")
        record = None if data is None else LogRecord.parse(data)
        if record is None or not 0 <= index < record.tree_size:
            size = "no entries" if record is None else f"{record.tree_size} entries"
            raise UsageError(Reason.USAGE, f"log {number} has {size}, and none at index {index}", log=number)
        try:
            key, is_signed = await _request_key(storage, record, index)
        except (ConflictError, FormatError) as caught:
            error = caught
            continue
        return Trace(number, index, key, is_signed, await _entry(folder, storage, number, index))
    assert error is not None
    raise error


async def _request_key(storage: Storage, record: LogRecord, index: int) -> tuple[bytes, bool]:
    """Return the request key of an entry, and whether its round is signed."""
    ledger = await Ledger.open(storage.objects, record.log_number, record.tree_size)
    try:
        round_ = await ledger.round_of(index, has_keys=True)
    finally:
        await ledger.close()
    if round_ is not None:
        return _key_at(round_.indices, index), True
    place = StagedRound.key_of(record.log_number, record.tree_size, record.staged_digest)
    (data,) = await storage.objects.fetch([place])
    if data is None or digest_of(data) != record.staged_digest:
        # The round may have been signed since the ledger was read.
        raise ConflictError(Reason.CONFLICT, f"entry {index} is in no round of the ledger, and no round is staged")
    return _key_at(StagedRound.parse(data).indices, index), False


def _key_at(indices: Mapping[bytes, int], index: int) -> bytes:
    return next((key for key, at in indices.items() if at == index), b"")


async def _entry(folder: CAFolder, storage: Storage, number: int, index: int) -> TBSCertificateLogEntry | None:
    """Return what an entry certifies, proven to be in the published tree; None when it is not there."""
    config = folder.config
    hasher = active_kernel().hasher(config.profile.hash_name)
    logs = PublishedLogs(storage.objects, storage.register, hasher, config.revision, config.ca_id)
    data = await logs.entry(number, index)
    return None if data is None else LogEntry.parse(data).tbs_certificate


async def _explain(trace: Trace, store: ACMEStore, journal: Path) -> Trace:
    """Add what the ACME server knows, and compare it with the log."""
    assert trace.order_id is not None
    order = await store.find_order(trace.order_id)
    records: list[EvidenceRecord] = []
    if order is not None and order.finalized is not None:
        records += await store.find_records(order.finalized.evidence_ids)
    own = await store.list_records(trace.order_id)
    if order is None:
        # The order may be forgotten; its evidence never is.
        records += await store.find_records(_cited(own))
    records += own
    account_id = order.account_id if order is not None else next((item.account_id for item in own), None)
    account = None if account_id is None else await store.find_account(account_id)
    findings = [*_compare_order(trace, order), *_compare_records(trace, records), *_compare_lines(journal, records)]
    return replace(trace, order=order, account=account, records=tuple(records), findings=tuple(findings))


def _finalization(records: Sequence[EvidenceRecord]) -> EvidenceRecord | None:
    """Return the last finalization among records."""
    return next((item for item in reversed(records) if item.kind is RecordKind.FINALIZATION), None)


def _cited(records: Sequence[EvidenceRecord]) -> list[int]:
    """Return the IDs of the evidence that a finalization names."""
    finalization = _finalization(records)
    ids = [] if finalization is None else finalization.document.get("evidence", [])
    return [item for item in ids if isinstance(item, int)] if isinstance(ids, list) else []


def _compare_order(trace: Trace, order: Order | None) -> list[str]:
    """Return what of an order does not fit its entry."""
    if order is None:
        return []
    findings = []
    place = order.place
    if place is not None and (place.log_number, place.index) != (trace.log_number, trace.index):
        findings.append(f"the database says that the order's entry is {place.log_number}/{place.index}")
    if order.finalized is None:
        findings.append("the order was never finalized")
    elif trace.entry is not None:
        spki_hash = active_kernel().hasher("sha256").digest(order.finalized.spki)
        if trace.entry.spki_hash != spki_hash:
            findings.append("the entry is for another key than the order")
        if names_of(trace.entry) != set(order.identifiers):
            findings.append("the entry has other names than the order")
    return findings


def _compare_records(trace: Trace, records: Sequence[EvidenceRecord]) -> list[str]:
    """Return what of the evidence does not carry the entry."""
    finalization = _finalization(records)
    if finalization is None:
        return ["there is no evidence that the order was finalized"]
    findings = []
    cited = set(_cited(records))
    missing = sorted(cited - {item.id for item in records})
    if missing:
        findings.append(f"evidence that the finalization names is missing: {', '.join(map(str, missing))}")
    proven = {
        item.identifier
        for item in records
        if item.id in cited and item.kind is RecordKind.VALIDATION and item.is_positive
    }
    names = set() if trace.entry is None else names_of(trace.entry)
    findings += [f"no validation of {name} is among the evidence" for name in sorted(names) if name not in proven]
    return findings


def _compare_lines(journal: Path, records: Sequence[EvidenceRecord]) -> list[str]:
    """Return which records the journal does not have as the database has them."""
    if not records:
        return []
    first = min(item.moment for item in records)
    lines = find_lines(journal, {item.id for item in records}, first.date())
    findings = []
    for item in records:
        line = lines.get(item.id)
        if line is None:
            findings.append(f"the journal has no record {item.id}")
        elif line != item.to_json():
            findings.append(f"the journal has another record {item.id} than the database")
    return findings


def names_of(entry: TBSCertificateLogEntry) -> set[Identifier]:
    """Return the DNS names and IP addresses that an entry certifies."""
    found = set()
    for extension in entry.extensions:
        if extension.oid != SUBJECT_ALT_NAME_OID:
            continue
        reader = DERReader(extension.value, "the subjectAltName").enter(Tag.SEQUENCE)
        while not reader.is_empty:
            tag, start, end = reader.read_header()
            value = bytes(reader.data[start:end])
            if tag == _DNS_TAG:
                found.add(Identifier(IdentifierType.DNS, value.decode("ascii", "replace")))
            elif tag == _IP_TAG:
                found.add(Identifier(IdentifierType.IP, str(ip_address(value))))
    return found
