"""Renewal information and `replaces`: the server's half of renewing at the right time.

Spec: RFC 9773.
"""

from collections.abc import Sequence
from dataclasses import replace

from starlette.requests import Request
from starlette.responses import Response

from mtc.acme.machine.identifiers import Identifier
from mtc.acme.machine.orders import Account, Order, OrderStatus, explain_failure
from mtc.acme.machine.problems import Problem, ProblemError, ProblemType, refused
from mtc.acme.machine.renewal import CertificateID, suggest_window
from mtc.acme.server.context import ServerContext
from mtc.acme.server.replies import format_time, reply
from mtc.acme.store import Replace
from mtc.errors import ConflictError, FormatError
from mtc.ids import split_serial

RETRY_AFTER_S = 6 * 3600
"""How often clients look, as the RFC's own example has it."""


class Renewals:
    """Answers for renewalInfo, and judges `replaces`."""

    def __init__(self, context: ServerContext) -> None:
        """Take the server's parts."""
        self._context = context

    async def read(self, request: Request) -> Response:
        """Say when a certificate should be renewed; not authenticated, as the RFC has it."""
        ca = self._context.ca
        serial = self._serial(request.path_params["certificate"], status=404)
        try:
            entry = await ca.authority.logged_entry(*split_serial(serial))
        except (ConflictError, FormatError):
            raise refused(ProblemType.MALFORMED, "this CA has no such certificate", status=404) from None
        now = self._context.now()
        window = suggest_window(entry.not_before, entry.not_after, now, is_revoked=ca.revocations.is_revoked(serial))
        document: dict[str, object] = {}
        hastened = await self._context.store.find_hastened(*split_serial(serial))
        if hastened is not None and hastened.window.start < window.start:
            # An operator may ask for an earlier renewal; the usual one is never put off.
            window = hastened.window
            if hastened.explanation_url is not None:
                document["explanationURL"] = hastened.explanation_url
        document["suggestedWindow"] = {"start": format_time(window.start), "end": format_time(window.end)}
        # Short-lived certificates must be looked at more often.
        soon = int((entry.not_after - entry.not_before).total_seconds() / 40)
        response = reply(document, retry_after_s=max(min(RETRY_AFTER_S, soon), 1))
        response.headers["Cache-Control"] = "no-cache"
        return response

    def _serial(self, text: str, status: int | None = None) -> int:
        """Return the serial number that a certificate identifier names. Raises ProblemError for one of another CA."""
        try:
            identifier = CertificateID.parse(text)
        except FormatError as error:
            raise refused(ProblemType.MALFORMED, error.message) from None
        if identifier.key_identifier != self._context.ca.parts.folder.config.ca_id.binary:
            raise refused(ProblemType.MALFORMED, "the certificate is of another CA", status=status)
        return identifier.serial

    async def _is_over(self, order: Order) -> bool:
        """Tell whether an order is invalid. One whose validation failed is then noted as such, for the store."""
        store, now = self._context.store, self._context.now()
        authorizations = await store.find_authorizations(order.authorization_ids)
        if order.status_at(now, [item.status_at(now) for item in authorizations]) is not OrderStatus.INVALID:
            return False
        if order.error is None and now < order.expires:
            unknown = Problem(
                type=ProblemType.UNAUTHORIZED, detail="an authorization of the order is not valid any more"
            )
            await store.commit(Replace(replace(order, error=explain_failure(authorizations) or unknown)))
        return True

    async def check_replaces(self, account: Account, identifiers: Sequence[Identifier], replaces: object) -> str | None:
        """Return what a new order may say that it replaces. Raises ProblemError (alreadyReplaced, malformed)."""
        if replaces is None:
            return None
        if not isinstance(replaces, str):
            raise refused(ProblemType.MALFORMED, "replaces is the identifier of a certificate, a string")
        serial = self._serial(replaces)
        predecessor = await self._context.store.find_order_at(*split_serial(serial))
        if predecessor is None or predecessor.account_id != account.id:
            raise refused(ProblemType.MALFORMED, "the account has no such certificate that could be replaced")
        if not set(predecessor.identifiers) & set(identifiers):
            raise refused(ProblemType.MALFORMED, "the certificate to be replaced shares no identifier with this order")
        other = await self._context.store.find_replacement(replaces)
        if other is not None and not await self._is_over(other):
            raise ProblemError(
                Problem(type=ProblemType.ALREADY_REPLACED, detail="another order replaces this certificate already")
            )
        return replaces
