"""The revocation lists of a CA: kept in the register, signed, published.

Order and crash meaning: swap the register, have both lists signed, publish both. What the register accepted is revoked,
whatever happens next: the lists follow from its value alone, and `tick` makes and publishes them when a crash or a
signer that was away left them out. A number that was never published is skipped, which harms nobody.

Spec: Merkle Tree Certificates, "Revoked Ranges"; RFC 5280, "CRL and CRL Extensions Profile".
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from mtc.ca.landmarks import LandmarkState
from mtc.ca.metrics import CAMetrics
from mtc.ca.revocation import (
    RevocationRequest,
    RevocationRules,
    fresh_serials,
    is_due,
    lists_of,
    minimum_serial,
    plan_publication,
    plan_revocation,
)
from mtc.ca.revocation_state import STATE_NAME, RevocationState, count_serials
from mtc.cert import (
    TBSCRL,
    CACertificate,
    CertificateRevocationList,
    RevocationList,
    RevocationReason,
    SerialRanges,
    assemble_crl,
    covers,
    encode_tbs_crl,
)
from mtc.errors import ConflictError, Error, FormatError, Reason, StorageError
from mtc.ids import SERIAL_LIMIT, encode_ca_name
from mtc.log import LogRecord
from mtc.log.pruning import ExpiryMark
from mtc.store import ObjectStore, Register
from mtc.web.clock import ClockGuard
from mtc.web.logs import open_logger

if TYPE_CHECKING:
    from mtc.ca.service import CAParts

CRL_KEY = "public/ca.crl"
LIST_KEY = "public/revocations.crl"

MAX_PENDING_S = 120
"""Lists that were decided longer ago are decided again: the signer wants them to begin now, within 300 s by default."""
_MAX_SWAPS = 10
_MEMBERS = ("serials", "ranges", "reason", "future")
_LOG = open_logger("ca")

Logs = Sequence[tuple[LogRecord, Sequence[ExpiryMark]]]


class CRLSigner(Protocol):
    """Who signs lists: the client of a signer's socket, or the key holder itself."""

    async def sign_crl(self, tbs: bytes) -> bytes:
        """Return the signature over a TBSCertList, DER, or refuse. The same bytes may come again."""


class RevocationPublisher:
    """Revokes, and publishes the lists. Use `open`, and call `tick` about every second. One per CA and process."""

    def __init__(  # noqa: PLR0913 - what a shell stands on
        self,
        authority: CACertificate,
        rules: RevocationRules,
        store: ObjectStore,
        register: Register,
        signer: CRLSigner,
        clock: ClockGuard,
        metrics: CAMetrics | None = None,
    ) -> None:
        """Take what there is; `load` comes next."""
        self._authority = authority
        self._issuer = encode_ca_name(authority.ca_id, authority.revision)
        self._rules = rules
        self._store = store
        self._register = register
        self._signer = signer
        self._clock = clock
        self._metrics = metrics or CAMetrics()
        # What the register holds, as value and as bytes; changed only after it was.
        self._state = RevocationState()
        self._data = b""
        # The number of the two published lists, 0 unless both are there and have the same one.
        self._published = 0
        self._published_minimum = 0
        self._turn = asyncio.Lock()

    @staticmethod
    async def open(parts: "CAParts") -> "RevocationPublisher":
        """Open the revocations of a CA; nothing is signed before the first tick. Raises as `load` does."""
        publisher = RevocationPublisher(
            parts.folder.certificate,
            RevocationRules.of_profile(parts.folder.config.profile),
            parts.storage.objects,
            parts.storage.register,
            parts.signer,
            parts.guard,
            parts.metrics,
        )
        await publisher.load()
        return publisher

    async def load(self) -> None:
        """Read the register and what is published.

        Raises ConflictError when the published lists say more than the register, which is then an older copy;
        StorageError; FormatError for a broken register value.
        """
        async with self._turn:
            data = await self._register.read(STATE_NAME)
            if data is None:
                data = RevocationState(min_serial=self._authority.min_serial).encode()
                try:
                    await self._register.create(STATE_NAME, data)
                except StorageError:
                    if await self._register.read(STATE_NAME) != data:
                        raise
            self._state, self._data = RevocationState.parse(data), data
            await self._read_published()

    def is_revoked(self, serial: int) -> bool:
        """Tell whether a serial number is revoked."""
        return serial in self._state.revoked

    @property
    def state(self) -> RevocationState:
        """What the register holds."""
        return self._state

    @property
    def is_pending(self) -> bool:
        """Tell whether the register holds more than the published lists say."""
        return self._published != self._state.number or not self._state.number

    @property
    def published_minimum(self) -> int:
        """The smallest serial number that neither the published list nor the CA certificate excludes as too small."""
        return max(self._published_minimum, self._authority.min_serial)

    async def tick(self) -> None:
        """Make the lists anew when it is time, and publish them when they are not.

        Raises ConflictError (CLOCK) while the time is in doubt, or another one when the register was moved again and
        again; what the signer refuses with; StorageError. Tick again in each case: nothing is lost.
        """
        async with self._turn:
            now = self._clock.seconds()
            if is_due(self._state, now, self._rules):
                logs = await self._read_logs()
                await self._change(lambda state: self._plan_lists(state, now, logs))
            if self.is_pending:
                await self._publish(now)

    async def revoke(self, document: Mapping[str, object]) -> dict[str, object]:
        """Revoke what a JSON document asks for; see `parse_revocation`. Published on return.

        The answer counts what was revoked now and what had been before. Raises FormatError, UsageError for what cannot
        be revoked, otherwise as `tick` does; the message says when the revocation itself stands already.
        """
        request = parse_revocation(document)
        async with self._turn:
            now = self._clock.seconds()
            logs = await self._read_logs()
            sizes = {record.log_number: record.tree_size for record, _ in logs}
            fresh = SerialRanges()

            def plan(state: RevocationState) -> RevocationState:
                nonlocal fresh
                revoked = plan_revocation(state, request, now, sizes)
                fresh = fresh_serials(state, request)
                return state if revoked is state else self._plan_lists(revoked, now, logs)

            await self._change(plan)
            try:
                if self.is_pending:
                    await self._publish(now)
            except Error as error:
                text = f"{error.message}; the revocation stands, and its lists are published as soon as this is over"
                raise type(error)(error.reason, text, **error.facts) from error
            count = count_serials(fresh)
            _LOG.info("revoked", serials=count, number=self._state.number)
            return {
                "revoked": count,
                "already_revoked": count_serials(request.serials | request.ranges) - count,
                "number": self._state.number,
                "min_serial": str(self._state.min_serial),
                "ranges": len(self._state.ranges),
                "next_update": datetime.fromtimestamp(self._state.next_update, UTC).isoformat(),
            }

    def _plan_lists(self, state: RevocationState, now: int, logs: Logs) -> RevocationState:
        """Return the state of the next lists."""
        sizes = {record.log_number: record.tree_size for record, _ in logs}
        minimum = minimum_serial(logs, datetime.fromtimestamp(now, UTC), self._rules.grace)
        return plan_publication(state, now, sizes, minimum, self._rules)

    async def _change(self, plan: Callable[[RevocationState], RevocationState]) -> None:
        """Swap the register; when somebody else moved it, plan again on what is there now."""
        for _ in range(_MAX_SWAPS):
            # A state may hold 100,000 runs; the loop goes on with other things meanwhile.
            after = await asyncio.to_thread(plan, self._state)
            if after is self._state:
                return
            data = await asyncio.to_thread(after.encode)
            try:
                await self._register.swap(STATE_NAME, self._data, data)
                current: bytes | None = data
            except ConflictError:
                current = await self._register.read(STATE_NAME)
            except StorageError:
                current = await self._register.read(STATE_NAME)
                if current == self._data:
                    raise
            if current == data:
                self._state, self._data = after, data
                return
            await self._adopt(current)
        raise ConflictError(Reason.CONFLICT, "another process moves the revocations again and again; try again")

    async def _adopt(self, data: bytes | None) -> None:
        """Take over what somebody else made of the register."""
        if data is None:
            raise ConflictError(Reason.CONFLICT, "the register lost the revocations; bring its newest copy back")
        self._state, self._data = await asyncio.to_thread(RevocationState.parse, data), data

    async def _publish(self, now: int) -> None:
        """Have the lists of the state signed, and publish them."""
        if now - self._state.this_update > MAX_PENDING_S:
            logs = await self._read_logs()
            await self._change(lambda state: self._plan_lists(state, now, logs))
        state = self._state
        algorithm = self._authority.algorithm.identifier
        lists = await asyncio.to_thread(lists_of, state, self._issuer, algorithm, self._rules)
        plain, ranges = [await self._sign(crl) for crl in lists]
        # Whoever moved the register since publishes newer lists, and these would replace them.
        if (current := await self._register.read(STATE_NAME)) != self._data:
            await self._adopt(current)
            raise ConflictError(Reason.CONFLICT, "another process moved the revocations meanwhile; try again")
        await self._store.replace({CRL_KEY: plain, LIST_KEY: ranges})
        self._note_published(state.number, lists[1])
        _LOG.info("revocation lists", number=state.number, serials=len(lists[0].serials), ranges=len(state.ranges))

    async def _sign(self, crl: TBSCRL) -> bytes:
        """Return a signed list, its signature verified. Raises SignatureError when the signer lies."""
        tbs = await asyncio.to_thread(encode_tbs_crl, crl)
        signature = await self._signer.sign_crl(tbs)
        # A signature that nobody can verify would take the lists away from those who need them.
        self._authority.public_key.verify(tbs, signature)
        return assemble_crl(tbs, crl.algorithm, signature)

    async def _read_logs(self) -> Logs:
        """Return the record and the landmarks' marks of every log, the first one first; they have no gaps."""
        logs: list[tuple[LogRecord, Sequence[ExpiryMark]]] = []
        while True:
            number = len(logs) + 1
            record = await self._register.read(f"log-{number}")
            if record is None:
                return logs
            marks = await self._register.read(LandmarkState.name_of(number))
            known = () if marks is None else LandmarkState.parse(marks, self._authority.revision).marks
            logs.append((LogRecord.parse(record), known))

    async def _read_published(self) -> None:
        """Find out what is published. Lists that do not verify are as if they were not there: they are made again."""
        numbers = []
        for key, data in zip((CRL_KEY, LIST_KEY), await self._store.fetch([CRL_KEY, LIST_KEY]), strict=True):
            if data is None:
                continue
            try:
                crl = await asyncio.to_thread(CertificateRevocationList.parse, data)
                proven = crl.verify_signature(self._authority.public_key, self._issuer)
            except Error as error:
                _LOG.warning("published list does not verify", key=key, reason=str(error.reason))
                continue
            shrinks = isinstance(proven, RevocationList) and not covers(self._state.revoked, proven.revoked)
            if crl.tbs.number > self._state.number or shrinks:
                raise ConflictError(
                    Reason.CONFLICT,
                    f"{key} has number {crl.tbs.number} and revokes what the register, at number {self._state.number}, "
                    "does not know: the register is an older copy; bring the newest one back",
                )
            if isinstance(proven, RevocationList) == (key == LIST_KEY):
                numbers.append(crl.tbs.number)
                self._note_published(0, crl.tbs)
        if len(numbers) == 2 and numbers[0] == numbers[1]:
            self._published = numbers[0]

    def _note_published(self, number: int, crl: TBSCRL) -> None:
        """Remember what is published. number: of both lists, 0 when they are not known to have one."""
        self._published = number
        if crl.min_serial is not None:
            self._published_minimum = crl.min_serial
            self._metrics.set("mtc_revocation_list_version", crl.number)
            expiry = crl.next_update.timestamp()
            self._metrics.set("mtc_revocation_list_expiry_timestamp_seconds", expiry)


def parse_revocation(document: Mapping[str, object]) -> RevocationRequest:
    """Read what is to be revoked from JSON.

    serials: numbers, as strings because they have 64 bits. ranges: pairs [first, last], both included. reason: its name
    in RFC 5280, `unspecified` for none. future: also what is not logged yet. Raises FormatError (BAD_DOCUMENT).
    """
    unknown = [name for name in document if name not in _MEMBERS]
    if unknown:
        raise FormatError(Reason.BAD_DOCUMENT, f"{unknown[0][:80]!r} is no field of a revocation; is it misspelt?")
    is_future = document.get("future", False)
    if not isinstance(is_future, bool):
        raise FormatError(Reason.BAD_DOCUMENT, "future must be true or false")
    return RevocationRequest(
        serials=SerialRanges([(serial, serial + 1) for serial in map(_parse_serial, _items(document, "serials"))]),
        ranges=SerialRanges([_parse_range(item) for item in _items(document, "ranges")]),
        reason=_parse_reason(document.get("reason", "unspecified")),
        is_future=is_future,
    )


def _items(document: Mapping[str, object], name: str) -> list[object]:
    """Return a list in a document, empty when it is absent."""
    items = document.get(name, [])
    if not isinstance(items, list):
        raise FormatError(Reason.BAD_DOCUMENT, f"{name} must be a list")
    return items


def _parse_serial(value: object) -> int:
    """Return a serial number."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < SERIAL_LIMIT:
        raise FormatError(Reason.BAD_DOCUMENT, "a serial number is a decimal string, from 0 to 2^64 - 1")
    return value


def _parse_range(value: object) -> tuple[int, int]:
    """Return a half-open range."""
    if not isinstance(value, list) or len(value) != 2:
        raise FormatError(Reason.BAD_DOCUMENT, "a range is a pair of serial numbers, both included")
    first, last = map(_parse_serial, value)
    if first > last:
        raise FormatError(Reason.BAD_DOCUMENT, f"the range from {first} to {last} runs backwards")
    return first, last + 1


def _parse_reason(value: object) -> RevocationReason | None:
    """Return a reason by its name."""
    names = {reason.label: reason for reason in RevocationReason}
    if value == "unspecified":
        return None
    if not isinstance(value, str) or value not in names:
        raise FormatError(Reason.BAD_DOCUMENT, f"reason must be one of unspecified, {', '.join(names)}")
    return names[value]
