"""From an order that is ready to its entry in the log, and to its certificate: validate and log as one act.

Order and crash meaning. (1) What is asked for is checked, CAA is looked up again where it is too old. (2) The order is
committed as finalized, with a record of which evidence allows it: from here on the order is in processing. (3) The
request is handed to the log with the order's request key. The log's staged round holds the key beside the entry and
decides both with one swap of the register, so that an order has one entry or none, never two. (4) When the round is
signed, published and has its quorum, the order is committed with its place.

A crash before (2) leaves the order ready. A crash after it is followed by the same request with the same key: the log
answers with the entry that it has, or takes it now. The age of the evidence is judged where the round is signed, so
that what waited for too long is refused there, and the order becomes invalid.

Spec: RFC 8555, "Applying for Certificate Issuance"; Merkle Tree Certificates, "ACME Extensions"; Chrome's draft
Quantum-resistant Root Program policy 0.3.0, "Issuance and certificates".
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from starlette.responses import Response

from mtc.acme.machine.evidence import EvidenceRecord, RecordKind
from mtc.acme.machine.identifiers import IdentifierType
from mtc.acme.machine.jws import PublicKey, decode_base64url
from mtc.acme.machine.orders import Account, Authorization, AuthorizationStatus, Finalized, Order, OrderStatus, Place
from mtc.acme.machine.problems import Problem, ProblemError, ProblemType, compound, refused
from mtc.acme.server.accounts import key_hash
from mtc.acme.server.authentication import Call
from mtc.acme.server.challenges import control_task, evidence_of
from mtc.acme.server.context import ServerContext
from mtc.acme.server.csr import check_csr
from mtc.acme.server.orders import Orders
from mtc.acme.store import Put, Replace
from mtc.ca.authority import Issued
from mtc.ca.csr import CSR, parse_csr
from mtc.ca.requests import IssuanceRequest
from mtc.errors import ConflictError, Error, FormatError, PeerError, Reason, Rejected, SignatureError
from mtc.web.logs import open_logger

_LOG = open_logger("acme")
_SECOND = timedelta(seconds=1)
_PATIENCE_S = 2.0
"""How long an answer to finalize waits for the round, so that most clients need not ask again."""
_FOLLOW_UP_S = 2.0
_CAA_MARGIN = timedelta(minutes=10)
"""CAA answers that end sooner are looked up again, because a round may wait for its quorum."""
_MAX_FRESH = 10_000
"""Certificates that are kept in memory, about 50 MB."""
_UNDONE = frozenset({Reason.BUSY, Reason.NO_QUORUM})


class Issuing:
    """Answers for finalize, and brings finalized orders to their certificates."""

    def __init__(self, context: ServerContext, orders: Orders) -> None:
        """Take the server's parts."""
        self._context = context
        self._orders = orders
        # Orders in processing whose request is under way, by ID.
        self._running: dict[str, asyncio.Task[None]] = {}
        # Fresh certificates by order, PEM: most are fetched at once, and the log can always give them again.
        self.fresh: dict[str, Issued] = {}

    async def finalize(self, call: Call, order_id: str) -> Response:
        """Take the certificate request of an order that is ready, and wait a little for its certificate."""
        order, authorizations = await self._orders.find(call, order_id)
        csr = _csr_of(call)
        now = self._context.now()
        state = order.status_at(now, [item.status_at(now) for item in authorizations])
        if state is OrderStatus.READY:
            if (stopped := self._context.ca.log.stopped) is not None:
                raise refused(ProblemType.SERVER_INTERNAL, f"the log has stopped: {stopped.message}", status=503)
            order = await self._finalize(call.owner, order, authorizations, csr)
        elif state is OrderStatus.PENDING or order.finalized is None or order.finalized.spki != csr.spki:
            raise refused(ProblemType.ORDER_NOT_READY, f"the order is {state}, not ready")
        task = self._running.get(order.id)
        if task is not None:
            await asyncio.wait({task}, timeout=_PATIENCE_S)
        current = await self._context.store.find_order(order.id) or order
        if current.finalized is None:
            raise ProblemError(
                Problem(
                    type=ProblemType.RATE_LIMITED,
                    detail="the log takes nothing new at present; the order stays ready, finalize it again",
                    status=503,
                    retry_after_s=10,
                )
            )
        return self._orders.show(current, authorizations, self._context.now())

    async def _finalize(
        self, account: Account, order: Order, authorizations: Sequence[Authorization], csr: CSR
    ) -> Order:
        """Check and commit what an order asks for, and hand it to the log. Returns the order in processing."""
        context = self._context
        check_csr(csr, order.identifiers)
        block = await context.store.find_block([item.base.value for item in order.identifiers], [key_hash(csr.spki)])
        if block is not None:
            raise refused(ProblemType.BAD_CSR, f"the {block[0]} is blocked here: {block[2]}")
        now = context.now()
        if order.profile not in context.config.profiles:
            raise refused(ProblemType.INVALID_PROFILE, f"the profile {order.profile} is not served any more")
        request = self._plan(order, csr.spki, now)
        try:
            not_before, not_after = context.ca.authority.check(request, now)
        except Error as error:
            raise refused(ProblemType.BAD_CSR, error.message) from None
        thumbprint = PublicKey.thumbprint_of(csr.spki)
        if thumbprint is not None and await context.store.find_account_by_key(thumbprint) is not None:
            raise refused(ProblemType.BAD_CSR, "the request has the key of an account; certificates need their own")
        authorizations = await self._refresh_caa(account, authorizations, now)
        finalized = Finalized(
            spki=csr.spki,
            not_before=not_before,
            not_after=not_after,
            moment=now,
            evidence_until=self._evidence_until(authorizations),
            evidence_ids=tuple(
                sorted({number for item in authorizations for number in (item.validation_id, item.caa_id) if number})
            ),
        )
        changed = replace(order, finalized=finalized)
        await context.store.commit(Put(_finalization(account, changed)), Replace(changed))
        changed = replace(changed, version=order.version + 1)
        self._start(changed, is_first=True)
        return changed

    def _plan(self, order: Order, spki: bytes, now: datetime) -> IssuanceRequest:
        """Return what the CA is asked for. Times are fixed now, so that the request can be made again."""
        context = self._context
        profile = context.ca.parts.folder.config.profile
        not_before = order.not_before or now.replace(microsecond=0) - profile.backdating
        lifetime = context.lifetime_of(order.profile)
        if order.not_after is not None:
            lifetime = order.not_after - not_before + _SECOND
        kinds = {kind: [item.value for item in order.identifiers if item.type is kind] for kind in IdentifierType}
        return IssuanceRequest(
            spki=spki,
            dns_names=tuple(kinds[IdentifierType.DNS]),
            ip_addresses=tuple(kinds[IdentifierType.IP]),
            lifetime=lifetime,
            not_before=not_before.astimezone(UTC),
            request_key=order.request_key,
        )

    async def _refresh_caa(
        self, account: Account, authorizations: Sequence[Authorization], now: datetime
    ) -> list[Authorization]:
        """Look CAA up again where the answer is too old. Raises ProblemError when a CAA record forbids it now."""
        limit = now + _CAA_MARGIN - self._context.config.validation.caa_reuse
        stale = [item for item in authorizations if item.caa_checked is None or item.caa_checked < limit]
        if not stale:
            return list(authorizations)
        results = await asyncio.gather(*(self._check_caa(account, item, now) for item in stale))
        problems = [found for found in results if isinstance(found, Problem)]
        if problems:
            raise ProblemError(compound(ProblemType.CAA, "CAA does not allow this certificate", problems))
        # Looking took a while; what was given up meanwhile counts no more.
        current = await self._context.store.find_authorizations([item.id for item in authorizations])
        if any(item.status_at(self._context.now()) is not AuthorizationStatus.VALID for item in current):
            raise refused(ProblemType.ORDER_NOT_READY, "an authorization of the order is not valid any more")
        renewed = {found.id: found for found in results if isinstance(found, Authorization)}
        return [renewed.get(item.id, item) for item in authorizations]

    async def _check_caa(
        self, account: Account, authorization: Authorization, now: datetime
    ) -> Authorization | Problem:
        """Look CAA up for one identifier, and keep the evidence. Returns the authorization after it, or the problem."""
        method = authorization.method
        challenge = None if method is None else authorization.challenge(method)
        assert method is not None, "a valid authorization has a valid challenge"
        assert challenge is not None
        asked = control_task(self._context, account, authorization, challenge)
        task = replace(asked, proves_control=False, token="", key_authorization="")
        outcome = await self._context.validator.examine(task)
        record = evidence_of(RecordKind.CAA, account, authorization, method, outcome, now)
        (record_id,) = await self._context.store.commit(Put(record))
        if outcome.problem is not None:
            return replace(outcome.problem, identifier=authorization.identifier)
        changed = replace(authorization, caa_checked=now, caa_id=record_id)
        # Another order may have looked at the same time; either answer is as good.
        with contextlib.suppress(ConflictError):
            await self._context.store.commit(Replace(changed))
        return changed

    def _evidence_until(self, authorizations: Sequence[Authorization]) -> int:
        """Return POSIX seconds until which all evidence behind an order may be used."""
        choices = self._context.config.validation
        ends = [item.validated + choices.reuse for item in authorizations if item.validated is not None]
        ends += [item.caa_checked + choices.caa_reuse for item in authorizations if item.caa_checked is not None]
        return int(min(ends).timestamp())

    # From finalized to issued.

    def _start(self, order: Order, *, is_first: bool) -> None:
        """Ask the CA for a finalized order, in the background. is_first: nobody has asked for it before."""
        task = asyncio.create_task(self._issue(order, is_first=is_first))
        self._running[order.id] = task
        task.add_done_callback(lambda _: self._running.pop(order.id, None))

    async def _issue(self, order: Order, *, is_first: bool) -> None:
        """Bring a finalized order as far as it goes now; what fails here is tried again by `follow_up`."""
        assert order.finalized is not None
        finalized = order.finalized
        request = replace(
            self._plan(order, finalized.spki, finalized.not_before),
            not_before=finalized.not_before,
            lifetime=finalized.not_after - finalized.not_before + _SECOND,
            evidence_until=finalized.evidence_until,
        )
        result: Issued | Error | None = None
        try:
            if not is_first:
                # What is in the log already is not judged again.
                result = await self._context.ca.authority.find_issued(order.request_key, finalized.spki)
            if result is None:
                (result,) = await self._context.ca.issue([request])
            await self._settle(order, result)
        except Rejected as error:
            if error.reason is Reason.BUSY and is_first:
                # The log did not take it, and there was no attempt before.
                await self._settle(order, error)
            else:
                _LOG.warning("order not finished", order=order.id, reason=str(error.reason), error=error.message)
        except Error as error:
            _LOG.warning("order not finished", order=order.id, reason=str(error.reason), error=error.message)

    async def _settle(self, order: Order, result: Issued | Error) -> None:
        """Commit what became of a request."""
        store = self._context.store
        if isinstance(result, Issued):
            place = Place(log_number=result.log_number, index=result.index)
            self._remember(order.id, result)
            await store.commit(
                Put(_issuance(order, place, self._context.now())), Replace(replace(order, place=place, is_issued=True))
            )
            self._context.count("mtc_acme_finalized_total", result="issued")
            return
        number, index = result.facts.get("log"), result.facts.get("index")
        if isinstance(result, PeerError) and isinstance(number, int) and isinstance(index, int):
            # The entry is in the log, and its quorum has not come: the order stays in processing.
            if order.place is None:
                await store.commit(Replace(replace(order, place=Place(log_number=number, index=index))))
            return
        if isinstance(result, Rejected) and result.reason in _UNDONE:
            # The log did not take it, and nobody will: the order is as it was before.
            await store.commit(Replace(replace(order, finalized=None)))
            self._context.count("mtc_acme_finalized_total", result="undone")
            return
        if isinstance(result, Rejected | FormatError | ConflictError) and result.reason is not Reason.CLOCK:
            problem = Problem(type=ProblemType.SERVER_INTERNAL, detail=result.message)
            if result.reason is Reason.STALE_EVIDENCE:
                problem = Problem(type=ProblemType.UNAUTHORIZED, detail=result.message)
            await store.commit(Replace(replace(order, error=problem)))
            self._context.count("mtc_acme_finalized_total", result="refused")
            return
        raise result

    def _remember(self, order_id: str, issued: Issued) -> None:
        """Keep a fresh certificate for a while."""
        self.fresh[order_id] = issued
        while len(self.fresh) > _MAX_FRESH:
            del self.fresh[next(iter(self.fresh))]

    async def follow_up(self) -> None:
        """Bring finalized orders to their end, for as long as the server runs; also those of before the start."""
        while True:
            try:
                for listed in await self._context.store.list_unfinished():
                    # Much may have happened since the list was made.
                    order = await self._context.store.find_order(listed.id)
                    is_open = order is not None and order.error is None and not order.is_issued
                    if order is not None and is_open and order.finalized and order.id not in self._running:
                        self._start(order, is_first=False)
            except Error as error:
                _LOG.error("follow-up failed", reason=str(error.reason), error=error.message)
            await asyncio.sleep(_FOLLOW_UP_S)

    async def close(self) -> None:
        """Wait a moment for what runs, and no longer: the log knows the requests, and the next start goes on."""
        tasks = list(self._running.values())
        if tasks:
            await asyncio.wait(tasks, timeout=_PATIENCE_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _csr_of(call: Call) -> CSR:
    """Return the certificate request in a finalize request. Raises ProblemError (badCSR, malformed)."""
    text = call.document.get("csr")
    if not isinstance(text, str):
        raise refused(ProblemType.MALFORMED, "csr is missing; it is the certificate request, DER, base64url")
    try:
        der = decode_base64url(text, "csr")
    except FormatError as error:
        raise refused(ProblemType.MALFORMED, error.message) from None
    try:
        return parse_csr(der)
    except (FormatError, SignatureError, Rejected) as error:
        raise refused(ProblemType.BAD_CSR, error.message) from None


def _finalization(account: Account, order: Order) -> EvidenceRecord:
    """Return the record of what an order asked for."""
    finalized = order.finalized
    assert finalized is not None
    return EvidenceRecord(
        kind=RecordKind.FINALIZATION,
        moment=finalized.moment,
        account_id=account.id,
        is_positive=True,
        order_id=order.id,
        document={
            "identifiers": [item.to_json() for item in order.identifiers],
            "public_key_sha256": key_hash(finalized.spki),
            "not_before": finalized.not_before.isoformat(),
            "not_after": finalized.not_after.isoformat(),
            "evidence": list(finalized.evidence_ids),
            "evidence_until": finalized.evidence_until,
            "profile": order.profile,
            "replaces": order.replaces,
            "account_thumbprint": account.thumbprint,
            "contacts": list(account.contacts),
            "client": account.address,
        },
    )


def _issuance(order: Order, place: Place, now: datetime) -> EvidenceRecord:
    """Return the record of where an order's entry stands."""
    return EvidenceRecord(
        kind=RecordKind.ISSUANCE,
        moment=now,
        account_id=order.account_id,
        is_positive=True,
        order_id=order.id,
        document={"log": place.log_number, "index": place.index},
    )
