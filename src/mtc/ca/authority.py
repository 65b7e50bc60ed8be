"""A certification authority on top of a log: a request becomes an entry, and the entry a certificate.

Nothing is cached that tiles cannot give again: a certificate is made from its log entry, the signed round, and tiles
that are proven against the root. It certifies by logging and signs nothing itself.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from mtc.ca.certificates import (
    LogContext,
    Wanted,
    landmark_relative,
    properties_for,
    standalone_certificates,
)
from mtc.ca.proofs import LogReader, TreeHead
from mtc.ca.requests import EntryRules, IssuanceRequest, check_same_request
from mtc.cert import Certificate, CertificateChain, EntryType, LogEntry, TBSCertificateLogEntry
from mtc.errors import ConflictError, Error, Reason, Rejected
from mtc.ids import serial_number, split_serial
from mtc.landmark import LandmarkSequence
from mtc.lint import LintFinding, LintRules, check_lint, lint_entry, lint_names
from mtc.log import PendingEntry
from mtc.log.formats import public_prefix
from mtc.log.ledger import SignedRound
from mtc.log.service import Appended, IssuanceLog, PublishedRound
from mtc.store import ObjectStore
from mtc.trust import TrustStore, verify_certificate
from mtc.web.clock import Clock
from mtc.wire import PEMBlock, encode_pem, posix_seconds

_AT_ONCE = 10
"""So few requests are prepared in the event loop: handing them to a thread takes longer than they do."""


@dataclass(frozen=True, slots=True)
class Issued:
    """A standalone certificate, DER, and where its entry stands. pem: with its properties. warnings: of the lint."""

    log_number: int
    index: int
    standalone: bytes
    pem: str
    not_after: datetime
    warnings: tuple[str, ...] = ()

    @property
    def serial(self) -> int:
        """The serial number."""
        return serial_number(self.log_number, self.index)


@dataclass(frozen=True, slots=True)
class Upgraded:
    """A landmark-relative certificate, PEM with its properties, and the number of its landmark."""

    pem: str
    landmark: int


@dataclass(frozen=True, slots=True)
class LandmarkView:
    """The landmarks of a log, and a published tree that is not smaller than any of them.

    next_due: POSIX seconds when the next landmark is expected; None when there will be none.
    """

    sequence: LandmarkSequence
    head: TreeHead
    next_due: int | None


class LandmarkSource(Protocol):
    """What a CA knows of its landmarks."""

    async def landmarks_of(self, log_number: int) -> LandmarkView:
        """Return the landmarks of a log. Raises Rejected (NO_LANDMARK) when it has none."""


@dataclass(slots=True)
class _Prepared:
    """A request that passed the lint."""

    place: int
    request: IssuanceRequest
    entry: TBSCertificateLogEntry
    not_after: datetime
    warnings: tuple[str, ...]


class _RoundBatch:
    """Certificates of one round that are asked for at the same time, and made together."""

    def __init__(self) -> None:
        self.wanted: list[Wanted] = []
        self.done: asyncio.Future[list[bytes]] = asyncio.get_running_loop().create_future()


class CertificationAuthority:
    """One CA with its current log. `log` may be exchanged for the next one after an incident."""

    def __init__(  # noqa: PLR0913 - the parts of a CA
        self,
        rules: EntryRules,
        lint: LintRules,
        log: IssuanceLog,
        store: ObjectStore,
        clock: Clock,
        trust: TrustStore,
        *,
        allowed_names: Sequence[str] = (),
        landmarks: LandmarkSource | None = None,
        max_active_landmarks: int | None = None,
    ) -> None:
        """Take the parts.

        trust: in which the CA's own certificates verify; each batch is checked so. max_active_landmarks: for revisions
        whose landmarks do not expire.
        """
        self.log = log
        self._rules = rules
        self._lint = lint
        self._store = store
        self._clock = clock
        self._trust = trust
        self._allowed = tuple(name.lower().removeprefix(".") for name in allowed_names)
        self._landmarks = landmarks
        self._max_active = max_active_landmarks
        self._readers: dict[int, LogReader] = {}
        self._batches: dict[int, _RoundBatch] = {}
        # The properties of standalone certificates by log, PEM; they are the same for all of a log.
        self._heads: dict[int, str] = {}

    async def issue(self, requests: Sequence[IssuanceRequest]) -> list[Issued | Error]:
        """Certify requests and wait for their rounds; an error stands in the place of its request.

        Errors: what the lint or the configuration refuses, ConflictError when a request key stands for something
        else. Raises what `IssuanceLog.submit` raises.
        """
        results: list[Issued | Error | None] = [None] * len(requests)
        now = self._clock.now()
        if len(requests) <= _AT_ONCE:
            prepared = self._prepare_all(requests, now, results)
        else:
            prepared = await asyncio.to_thread(self._prepare_all, requests, now, results)
        pending = [
            PendingEntry(
                EntryType.TBS_CERT,
                item.entry.encode(),
                posix_seconds(item.not_after),
                item.request.request_key,
                item.request.evidence_until,
            )
            for item in prepared
        ]
        places = await self.log.submit(pending)
        fresh: dict[int, tuple[PublishedRound, list[tuple[_Prepared, Appended]]]] = {}
        for item, place in zip(prepared, places, strict=True):
            if isinstance(place, Error):
                results[item.place] = place
            elif place.round_ is None:
                results[item.place] = await self._find_again(item, place)
            else:
                fresh.setdefault(id(place.round_), (place.round_, []))[1].append((item, place))
        for round_, items in fresh.values():
            wanted = [Wanted(place.index, item.request.spki) for item, place in items]
            made = await self._make(round_, wanted)
            for (item, place), certificate in zip(items, made, strict=True):
                results[item.place] = self._issued(place, certificate, item.not_after, item.warnings)
        return [result for result in results if result is not None]

    def _prepare_all(
        self, requests: Sequence[IssuanceRequest], now: datetime, results: list[Issued | Error | None]
    ) -> list[_Prepared]:
        """Build and lint the entries; those that are refused get their error at once."""
        prepared = []
        for place, request in enumerate(requests):
            try:
                not_before, not_after = self._rules.validity(request, now)
                entry, findings = self.prepare(request, not_before, not_after, now)
            except Error as error:
                results[place] = error
                continue
            warnings = (*request.warnings, *(f"{finding.code}: {finding.message}" for finding in findings))
            prepared.append(_Prepared(place, request, entry, not_after, warnings))
        return prepared

    def prepare(
        self, request: IssuanceRequest, not_before: datetime, not_after: datetime, now: datetime
    ) -> tuple[TBSCertificateLogEntry, tuple[LintFinding, ...]]:
        """Return the log entry of a request, and the warnings about it. Raises Rejected when it must not be logged."""
        self._check_allowed(request.dns_names)
        entry = self._rules.build(request, not_before, not_after)
        return entry, check_lint(lint_entry(entry, request.spki, self._lint, now))

    def _check_allowed(self, dns_names: Sequence[str]) -> None:
        """Raise Rejected (FORBIDDEN) for a DNS name that the configuration does not allow."""
        for name in dns_names:
            base = name.removeprefix("*.")
            if self._allowed and not any(base == item or base.endswith(f".{item}") for item in self._allowed):
                raise Rejected(Reason.FORBIDDEN, f"{name!r} is not below the allowed_names of this CA")

    def check(self, request: IssuanceRequest, now: datetime) -> tuple[datetime, datetime]:
        """Return notBefore and notAfter of a request that may be logged. Raises Rejected or UsageError for another."""
        not_before, not_after = self._rules.validity(request, now)
        self.prepare(request, not_before, not_after, now)
        return not_before, not_after

    def check_names(self, dns_names: Sequence[str], ip_addresses: Sequence[str]) -> None:
        """Raise Rejected when this CA certifies none of these names, whoever asks and with whatever key."""
        self._check_allowed(dns_names)
        check_lint(lint_names(dns_names, ip_addresses, self._lint))

    async def _make(self, round_: PublishedRound, wanted: Sequence[Wanted]) -> list[bytes]:
        """Return standalone certificates of a round that was just published.

        Everybody who waited for the round wakes up in the same turn of the event loop, and asks here: their
        certificates are made together in the next turn.
        """
        batch = self._batches.get(id(round_))
        if batch is None:
            batch = self._batches[id(round_)] = _RoundBatch()
            asyncio.get_running_loop().call_soon(self._start_batch, round_, batch)
        start = len(batch.wanted)
        batch.wanted.extend(wanted)
        made = await asyncio.shield(batch.done)
        return made[start : start + len(wanted)]

    def _start_batch(self, round_: PublishedRound, batch: _RoundBatch) -> None:
        """Begin to make the certificates of a batch; whoever asks from now on begins another."""
        del self._batches[id(round_)]
        task = asyncio.ensure_future(self._standalone(round_.log_number, round_.signed, batch.wanted, round_))

        def finish(task: "asyncio.Task[list[bytes]]") -> None:
            if task.cancelled():
                batch.done.cancel()
            elif (error := task.exception()) is not None:
                batch.done.set_exception(error)
                batch.done.exception()
            else:
                batch.done.set_result(task.result())

        task.add_done_callback(finish)

    async def _standalone(
        self,
        log_number: int,
        signed: SignedRound,
        wanted: Sequence[Wanted],
        round_: PublishedRound | None = None,
        moment: datetime | None = None,
    ) -> list[bytes]:
        """Make standalone certificates of entries of one round; one of each batch is verified as of `moment`."""
        entries = {}
        if round_ is not None:
            entries = {item.index: round_.entries[item.index - signed.old_size] for item in wanted}
        context = self._context(log_number, TreeHead(signed.new_size, signed.root_hash))
        now = moment or self._clock.now()

        def check(certificate: bytes) -> None:
            # What begins a little later than it is made is as good.
            begins = Certificate.parse(certificate, self._rules.hasher.size).not_before
            verify_certificate(certificate, self._trust, max(now, begins))

        return await standalone_certificates(context, signed.signatures, wanted, entries=entries, check=check)

    async def _find_again(self, item: _Prepared, place: Appended) -> Issued | Error:
        """Return the certificate of a request that had its entry before."""
        try:
            signed, logged = await self._logged(place.log_number, place.index)
            check_same_request(logged, item.entry, place.index)
        except ConflictError as error:
            return error
        wanted = [Wanted(place.index, item.request.spki)]
        (made,) = await self._standalone(place.log_number, signed, wanted, moment=logged.not_before)
        return self._issued(place, made, logged.not_after, item.warnings)

    async def _logged(self, log_number: int, index: int) -> tuple[SignedRound, TBSCertificateLogEntry]:
        """Return the signed round of an entry, and what it certifies. Raises ConflictError when there is neither."""
        signed = await self.log.ledger_of(log_number).round_of(index)
        if signed is None:
            raise ConflictError(Reason.CONFLICT, f"the signed round of entry {index} is not kept any more", index=index)
        bundles = await self._reader(log_number).fetch_bundles(signed.new_size, [index >> 8])
        logged = LogEntry.parse(bundles[index >> 8][index & 255]).tbs_certificate
        if logged is None:
            raise ConflictError(Reason.CONFLICT, f"entry {index} certifies nothing", index=index)
        return signed, logged

    async def find_issued(self, request_key: bytes, spki: bytes) -> Issued | Error | None:
        """Return what a request key stands for already, None when the log does not know it.

        Errors: PeerError (NO_QUORUM; facts `log`, `index`) while the entry's round lacks its quorum, Rejected
        (ABANDONED), ConflictError when the signed round is not kept any more. Nothing is judged anew.
        """
        place = (await self.log.find([request_key])).get(request_key)
        if place is None or isinstance(place, Error):
            return place
        try:
            return await self.standalone_of(place.log_number, place.index, spki)
        except ConflictError as error:
            return error

    async def logged_entry(self, log_number: int, index: int) -> TBSCertificateLogEntry:
        """Return what an entry certifies, as it was logged. Raises ConflictError when there is no such entry."""
        _, logged = await self._logged(log_number, index)
        return logged

    async def standalone_of(self, log_number: int, index: int, spki: bytes) -> Issued:
        """Make the standalone certificate of an entry once more.

        Raises ConflictError when there is no such entry, PeerError or Rejected when its round lacks its quorum.
        """
        place = self.log.outcome_of(log_number, index)
        if isinstance(place, Error):
            raise place
        signed, logged = await self._logged(log_number, index)
        (made,) = await self._standalone(log_number, signed, [Wanted(index, spki)], moment=logged.not_before)
        return self._issued(place, made, logged.not_after)

    async def upgrade(self, certificate: Certificate, spki: bytes) -> Upgraded:
        """Return the landmark-relative form of a certificate of this CA.

        Raises Rejected: NO_LANDMARK (fact `next_due`) when no landmark covers it yet, EXPIRED, UNKNOWN_CA.
        """
        if certificate.ca_id != self._rules.ca_id:
            raise Rejected(Reason.UNKNOWN_CA, f"the certificate is of CA {certificate.ca_id}, not {self._rules.ca_id}")
        return await self.landmark_relative_of(*split_serial(certificate.serial), spki)

    async def landmark_relative_of(self, log_number: int, index: int, spki: bytes) -> Upgraded:
        """Return the landmark-relative certificate of an entry. Raises Rejected as `upgrade` does."""
        if self._landmarks is None:
            raise Rejected(Reason.NO_LANDMARK, "this CA allocates no landmarks")
        view = await self._landmarks.landmarks_of(log_number)
        context = self._context(log_number, view.head)
        relative = await landmark_relative(
            context, view.sequence, Wanted(index, spki), self._clock.now(), next_due=view.next_due
        )
        number = relative.landmark.number
        properties = properties_for(
            self._rules.ca_id,
            log_number,
            number,
            revision=self._rules.revision,
            max_active_landmarks=self._max_active,
        )
        return Upgraded(CertificateChain(properties, (relative.certificate,)).encode().decode("ascii"), number)

    def _issued(
        self, place: Appended, certificate: bytes, not_after: datetime, warnings: tuple[str, ...] = ()
    ) -> Issued:
        """Put the answer to a request together."""
        head = self._heads.get(place.log_number)
        if head is None:
            properties = properties_for(self._rules.ca_id, place.log_number, revision=self._rules.revision)
            head = encode_pem([PEMBlock("CERTIFICATE PROPERTIES", properties.encode())]).decode("ascii")
            self._heads[place.log_number] = head
        pem = head + encode_pem([PEMBlock("CERTIFICATE", certificate)]).decode("ascii")
        return Issued(place.log_number, place.index, certificate, pem, not_after, warnings)

    def _reader(self, log_number: int) -> LogReader:
        """Return the reader of a log, with what it has proven so far."""
        reader = self._readers.get(log_number)
        if reader is None:
            reader = self._readers[log_number] = LogReader(self._rules.hasher, self._store, public_prefix(log_number))
        return reader

    def _context(self, log_number: int, head: TreeHead) -> LogContext:
        """Return a log as certificates are made from it."""
        return LogContext(log_number, head, self._reader(log_number), self._rules.revision)
