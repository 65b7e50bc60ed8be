"""A certification authority on top of a log: a request becomes an entry, and the entry a certificate.

Nothing is cached that tiles cannot give again: a certificate is made from its log entry, the signed round, and tiles
that are proven against the root.
"""

from dataclasses import dataclass
from datetime import datetime

from mtc.cert import (
    Certificate,
    EntryType,
    LogEntry,
    MTCProof,
    TBSCertificateLogEntry,
    encode_extended_key_usage,
    encode_key_usage,
    encode_name,
    encode_subject_alt_name,
)
from mtc.cert.x509 import SERVER_AUTH_OID
from mtc.errors import ConflictError, Reason
from mtc.ids import DEFAULT_REVISION, DraftRevision, TrustAnchorID, encode_ca_name, serial_number
from mtc.log import PendingEntry
from mtc.log.service import IssuanceLog
from mtc.merkle import Hasher, Subtree, prove_inclusion
from mtc.store import ObjectStore
from mtc.tiles import EntriesTile, EntryBundle, NodeRecorder, tiles_for_nodes, verify_tiles
from mtc.wire import posix_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuanceRequest:
    """What is to be certified. spki: the public key, DER. not_before, not_after: inclusive, whole seconds.

    request_key: idempotency key; the same key gives the same entry, however often it comes. It must then ask for the
    same.
    """

    spki: bytes
    dns_names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    ip_addresses: tuple[str, ...] = ()
    request_key: bytes = b""


@dataclass(frozen=True, slots=True)
class Issued:
    """A standalone certificate and where its entry stands."""

    log_number: int
    index: int
    standalone: bytes


class CertificationAuthority:
    """One CA with its current log. It certifies by logging and signs nothing itself."""

    def __init__(
        self,
        ca_id: TrustAnchorID,
        hasher: Hasher,
        log: IssuanceLog,
        store: ObjectStore,
        revision: DraftRevision = DEFAULT_REVISION,
    ) -> None:
        """Take the parts; the log is open and its rounds are run by somebody."""
        self._ca_id = ca_id
        self._hasher = hasher
        self._log = log
        self._store = store
        self._revision = revision

    def build_entry(self, request: IssuanceRequest) -> TBSCertificateLogEntry:
        """Return what the log entry of a request certifies. Raises UsageError for names that cannot be encoded."""
        return TBSCertificateLogEntry.build(
            hasher=self._hasher,
            issuer=encode_ca_name(self._ca_id, self._revision),
            subject=encode_name(),
            spki=request.spki,
            not_before=request.not_before,
            not_after=request.not_after,
            extensions=(
                encode_key_usage("digitalSignature"),
                encode_extended_key_usage(SERVER_AUTH_OID),
                encode_subject_alt_name(request.dns_names, request.ip_addresses, is_critical=True),
            ),
        )

    async def issue(self, request: IssuanceRequest) -> Issued:
        """Certify a request: wait for its round, and make the standalone certificate.

        Raises what `IssuanceLog.append` raises, ConflictError when the request key stands for another entry.
        """
        entry = self.build_entry(request)
        place = await self._log.append(
            PendingEntry(EntryType.TBS_CERT, entry.encode(), posix_seconds(request.not_after), request.request_key)
        )
        logged = await self._read_entry(place.log_number, place.index)
        if logged.body != entry.encode():
            raise ConflictError(
                Reason.CONFLICT,
                f"the request key stands for entry {place.index}, which certifies something else; use a new key",
                index=place.index,
            )
        return Issued(place.log_number, place.index, await self._standalone(logged, request.spki, place.index))

    async def _read_entry(self, log_number: int, index: int) -> LogEntry:
        """Return an entry as it is served. Raises ConflictError when it is not there."""
        first = index // 256
        width = min(256, self._log.record.tree_size - first * 256)
        (data,) = await self._store.fetch([f"{log_number}/{EntriesTile(first, width).path}"])
        if data is None:
            raise ConflictError(Reason.CONFLICT, f"entry {index} of log {log_number} is not stored", index=index)
        return LogEntry.parse(EntryBundle.parse(data, width).entries[index % 256])

    async def _standalone(self, entry: LogEntry, spki: bytes, index: int) -> bytes:
        """Make the standalone certificate of an entry from its signed round."""
        round_ = self._log.round_of(index)
        certified = entry.tbs_certificate
        if round_ is None or certified is None:
            raise ConflictError(Reason.CONFLICT, f"the signed round of entry {index} is not kept any more", index=index)
        subtree = next(item for item in round_.signatures if item.contains(index))
        path = await self._prove(subtree, index)
        proof = MTCProof(subtree, path, extensions=entry.extensions).with_signatures(*round_.signatures[subtree])
        serial = serial_number(self._log.record.log_number, index)
        return Certificate.build(certified, spki, serial, proof, self._revision)

    async def _prove(self, subtree: Subtree, index: int) -> tuple[bytes, ...]:
        """Return the inclusion proof of an entry, from tiles proven against the log's root."""
        record = self._log.record
        recorder = NodeRecorder(self._hasher)
        prove_inclusion(self._hasher, recorder, subtree, index)
        if not recorder.nodes:
            return ()
        tiles = tiles_for_nodes(record.tree_size, recorder.nodes)
        contents = await self._store.fetch([f"{record.log_number}/{tile.path}" for tile in tiles])
        found = {tile: content for tile, content in zip(tiles, contents, strict=True) if content is not None}
        if len(found) != len(tiles):
            raise ConflictError(
                Reason.CONFLICT, f"tiles of log {record.log_number} are missing; check the log", log=record.log_number
            )
        proven = verify_tiles(self._hasher, record.tree_size, record.root_hash, found)
        return tuple(prove_inclusion(self._hasher, proven, subtree, index))
