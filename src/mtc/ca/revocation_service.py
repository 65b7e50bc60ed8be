"""The revocation lists of a running CA: decided in the register, signed by the signer, published beside the logs.

Order and crash meaning: the register is swapped first, and says everything that the next version of the lists says.
Then both are signed, verified and published. A crash in between is finished by the next tick: the same state gives the
same bytes, which the signer signs again.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from mtc.ca.revocation import (
    MAX_EXPANDED,
    STATE_NAME,
    RevocationRequest,
    RevocationState,
    check_request,
    count_logged,
    describe_state,
    is_due,
    logged_serials,
    minimum_serial,
    plan_lists,
    plan_refresh,
    plan_revocation,
)
from mtc.cert import LogEntry
from mtc.cert.crl import RevocationReason, assemble_crl, encode_tbs_crl
from mtc.cert.revocation import CertificateRevocationList
from mtc.crypto import Verifier
from mtc.errors import ConflictError, FormatError, Reason, StorageError, UsageError
from mtc.ids import TrustAnchorID
from mtc.log.formats import public_prefix
from mtc.log.pruning import ExpiryMark
from mtc.store import ObjectStore, Register
from mtc.tiles import EntriesTile, EntryBundle
from mtc.web.clock import ClockGuard
from mtc.wire import posix_seconds

PLAIN_KEY = "public/ca.crl"
RANGES_KEY = "public/revocations.crl"
_ATTEMPTS = 5


class CRLSigner(Protocol):
    """The process that holds the CA's key."""

    async def sign_crl(self, tbs: bytes) -> bytes:
        """Return the signature over a TBSCertList. Raises the signer's refusal, PeerError when it does not answer."""


@dataclass(frozen=True, slots=True)
class RevokableLog:
    """What the lists must know of a log. marks: how far it has expired."""

    number: int
    tree_size: int
    is_closed: bool
    marks: Sequence[ExpiryMark]


@dataclass(frozen=True, slots=True, kw_only=True)
class ListRules:
    """Who signs the lists, and how long they last. issuer: the CA's name, DER."""

    ca_id: TrustAnchorID
    issuer: bytes
    key: Verifier
    lifetime: timedelta
    interval: timedelta


class RevocationPublisher:
    """Revokes, and keeps both lists published and fresh. Use `open`; call `tick` about every second."""

    def __init__(  # noqa: PLR0913 - what a shell stands on
        self,
        rules: ListRules,
        store: ObjectStore,
        register: Register,
        signer: CRLSigner,
        clock: ClockGuard,
        logs: Callable[[], Sequence[RevokableLog]],
        state: RevocationState,
        published: int,
    ) -> None:
        """Use `open`."""
        self._rules = rules
        self._store = store
        self._register = register
        self._signer = signer
        self._clock = clock
        self._logs = logs
        self._state = state
        # Version of the lists that are published; 0 before the first.
        self._published = published
        self._turn = asyncio.Lock()

    @staticmethod
    async def open(  # noqa: PLR0913 - what a shell stands on
        rules: ListRules,
        store: ObjectStore,
        register: Register,
        signer: CRLSigner,
        clock: ClockGuard,
        logs: Callable[[], Sequence[RevokableLog]],
    ) -> "RevocationPublisher":
        """Read what is revoked and what is published. Raises FormatError, StorageError."""
        data = await register.read(STATE_NAME)
        if data is None:
            data = RevocationState().encode()
            await register.create(STATE_NAME, data)
        published = 0
        lists = await store.fetch([PLAIN_KEY, RANGES_KEY])
        if None not in lists:
            published = min(CertificateRevocationList.parse(item).tbs.number for item in lists if item is not None)
        state = RevocationState.parse(data)
        return RevocationPublisher(rules, store, register, signer, clock, logs, state, published)

    @property
    def state(self) -> RevocationState:
        """What the register holds."""
        return self._state

    @property
    def published_minimum(self) -> int:
        """The minimum serial number that the published list names; what is not published excludes nothing."""
        return self._state.min_serial if self._published == self._state.version else 1 << 48

    async def tick(self) -> bool:
        """Publish what is not published, and refresh lists that grow old. Returns whether anything was published.

        Raises PeerError or StorageError: tick again; ConflictError when the clock is in doubt, or another process moves
        the register.
        """
        async with self._turn:
            now = self._clock.moment()
            if is_due(self._state, now, self._rules.interval) or self._is_stale(now):
                logs = [(log.number, log.tree_size, log.is_closed, log.marks) for log in self._logs()]
                minimum = minimum_serial(logs, now)
                await self._swap(lambda state: plan_refresh(state, minimum, posix_seconds(now)))
            if self._published == self._state.version:
                return False
            await self._publish()
            return True

    def _is_stale(self, now: datetime) -> bool:
        """Tell whether a version was decided so long ago, and never published, that no signer takes it any more."""
        age = posix_seconds(now) - self._state.issued_at
        return self._published != self._state.version and age > _STALE_S

    async def revoke(self, document: Mapping[str, object]) -> dict[str, object]:
        """Revoke what a request names: `serials`, `ranges`, `reason`, `future`. Published on return.

        Raises UsageError for a request that is wrong; PeerError when the signer does not answer: what was asked for is
        revoked then, and the next tick publishes it.
        """
        request = parse_revocation(document)
        sizes = {log.number: log.tree_size for log in self._logs()}
        check_request(request, sizes)
        ends = await self._read_ends(request, sizes)
        async with self._turn:
            now = posix_seconds(self._clock.moment())
            before = self._state.version
            await self._swap(lambda state: plan_revocation(state, request, ends, max(now, state.issued_at)))
            if self._published != self._state.version:
                await self._publish()
        return {"changed": self._state.version != before, **describe_state(self._state)}

    async def _read_ends(self, request: RevocationRequest, sizes: Mapping[int, int]) -> dict[int, int]:
        """Return the notAfter of those certificates that the plain CRL shall name, by serial number."""
        ends: dict[int, int] = {}
        for first, last in request.ranges:
            if count_logged(first, last, sizes) > MAX_EXPANDED:
                continue
            for serial in logged_serials(first, last, sizes):
                log_number, index = serial >> 48, serial & ((1 << 48) - 1)
                entry = await self._read_entry(log_number, index, sizes[log_number])
                certified = None if entry is None else entry.tbs_certificate
                if certified is not None:
                    ends[serial] = posix_seconds(certified.not_after)
        return ends

    async def _read_entry(self, log_number: int, index: int, tree_size: int) -> LogEntry | None:
        """Return an entry, None when it is pruned."""
        place = EntriesTile(index >> 8, min(256, tree_size - (index >> 8 << 8)))
        prefix = public_prefix(log_number)
        found = await self._store.fetch([f"{prefix}{place.path}", f"{prefix}{place.full.path}"])
        data = next((item for item in found if item is not None), None)
        return None if data is None else LogEntry.parse(EntryBundle.parse(data).entries[index & 255])

    async def _swap(self, plan: Callable[[RevocationState], RevocationState]) -> None:
        """Change the register; when somebody else was faster, plan again from what it holds."""
        for _ in range(_ATTEMPTS):
            after = plan(self._state)
            if after == self._state:
                return
            try:
                await self._register.swap(STATE_NAME, self._state.encode(), after.encode())
            except (ConflictError, StorageError) as error:
                data = await self._register.read(STATE_NAME)
                if data is None:
                    raise
                current = RevocationState.parse(data)
                if current != after and isinstance(error, StorageError):
                    raise
                is_done = current == after
                self._state = current
                if is_done:
                    return
            else:
                self._state = after
                return
        raise ConflictError(Reason.CONFLICT, "another process changes the revocations too; exactly one may run")

    async def _publish(self) -> None:
        """Sign both lists of the state and publish them."""
        rules, state = self._rules, self._state
        lists = plan_lists(state, rules.issuer, rules.key.algorithm.identifier, rules.lifetime)
        objects = {}
        for key, crl in zip((PLAIN_KEY, RANGES_KEY), lists, strict=True):
            tbs = encode_tbs_crl(crl)
            signature = await self._signer.sign_crl(tbs)
            # What the signer returns is not believed.
            rules.key.verify(tbs, signature)
            objects[key] = assemble_crl(tbs, crl.algorithm, signature)
        await self._store.replace(objects)
        self._published = state.version


_STALE_S = 120
"""A signer takes only lists that begin about now."""


def parse_revocation(document: Mapping[str, object]) -> RevocationRequest:
    """Return the request in a JSON object. Raises FormatError or UsageError that names the field."""
    if unknown := sorted(document.keys() - {"serials", "ranges", "reason", "future"}):
        raise FormatError(Reason.BAD_DOCUMENT, f"{unknown[0]!r} is no field of a revocation; is it misspelt?")
    ranges: list[tuple[int, int]] = []
    serials, pairs = document.get("serials", []), document.get("ranges", [])
    if not isinstance(serials, list) or not isinstance(pairs, list):
        raise FormatError(Reason.BAD_DOCUMENT, "serials and ranges must be lists")
    for item in serials:
        serial = _parse_number(item)
        ranges.append((serial, serial))
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise FormatError(Reason.BAD_DOCUMENT, "each range is a list of its first and its last serial number")
        ranges.append((_parse_number(pair[0]), _parse_number(pair[1])))
    return RevocationRequest(
        tuple(ranges), parse_reason(document.get("reason", "unspecified")), document.get("future") is True
    )


def parse_reason(name: object) -> RevocationReason | None:
    """Return a reason by its name in RFC 5280, None for `unspecified`. Raises UsageError with the names there are."""
    names = {reason.label: reason for reason in RevocationReason}
    if name != "unspecified" and name not in names:
        raise UsageError(Reason.USAGE, f"{name!r} is no reason; there are unspecified, {', '.join(names)}")
    return names.get(str(name))


def _parse_number(item: object) -> int:
    """Return a serial number, decimal text or number."""
    if isinstance(item, int) and not isinstance(item, bool):
        return item
    if isinstance(item, str) and item.isascii() and item.isdecimal() and len(item) <= 20:
        return int(item)
    raise FormatError(Reason.BAD_DOCUMENT, f"{str(item)[:40]!r} is no serial number in decimal")
