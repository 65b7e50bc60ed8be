"""Orders and authorizations: asked for, shown, given up.

Spec: RFC 8555, "Applying for Certificate Issuance", "Identifier Authorization"; RFC 8738; RFC 9773, "Extensions to the
Order Object"; the ACME profiles draft.
"""

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from starlette.responses import Response

from mtc.acme.machine.identifiers import Identifier, IdentifierType
from mtc.acme.machine.orders import (
    Account,
    Authorization,
    AuthorizationStatus,
    Challenge,
    ChallengeStatus,
    Order,
    OrderStatus,
    explain_failure,
)
from mtc.acme.machine.problems import Problem, ProblemError, ProblemType, compound, refused
from mtc.acme.machine.validation import Method
from mtc.acme.server.accounts import check_terms
from mtc.acme.server.authentication import Call
from mtc.acme.server.context import ServerContext
from mtc.acme.server.renewals import Renewals
from mtc.acme.server.replies import format_time, parse_time, reply
from mtc.acme.store import Add, Replace
from mtc.errors import Error, FormatError, Reason

POLL_S = 1
"""Retry-After of what is under way: a round and a validation take less."""
_TOKEN_BYTES = 32
_REUSE_MARGIN = timedelta(hours=1)
"""A validation that ends sooner is not given to a new order, so that the order can be finished."""


class Orders:
    """Answers for newOrder, orders and authorizations."""

    def __init__(self, context: ServerContext, renewals: Renewals) -> None:
        """Take the server's parts."""
        self._context = context
        self._renewals = renewals

    async def create(self, call: Call) -> Response:
        """Make an order with its authorizations; valid ones of the account are used again."""
        account, document, config = call.owner, call.document, self._context.config
        check_terms(config, account)
        identifiers = self._identifiers(document)
        now = self._context.now()
        profile = self._profile(document)
        not_before, not_after = self._validity(document, profile, now)
        await self._check_names(account, identifiers)
        replaces = await self._renewals.check_replaces(account, identifiers, document.get("replaces"))
        await self._check_limits(account, identifiers, now, is_renewal=replaces is not None)
        expires = now + config.order_lifetime
        authorizations, added = await self._authorizations(account, identifiers, now, expires)
        order = Order(
            id=self._context.new_id(),
            account_id=account.id,
            identifiers=identifiers,
            authorization_ids=tuple(item.id for item in authorizations),
            created=now,
            expires=min([expires, *(item.expires for item in authorizations)]),
            profile=profile,
            not_before=not_before,
            not_after=not_after,
            replaces=replaces,
        )
        await self._context.store.commit(*(Add(item) for item in added), Add(order))
        self._context.count("mtc_acme_orders_total")
        return self.show(order, authorizations, now, 201)

    def _identifiers(self, document: Mapping[str, object]) -> tuple[Identifier, ...]:
        """Return the identifiers of a new order, without repetitions. Raises ProblemError about all that are wrong."""
        values, most = document.get("identifiers"), self._context.config.limits.identifiers
        if not isinstance(values, list) or not values:
            raise refused(ProblemType.MALFORMED, "identifiers is a list of at least one")
        if len(values) > most:
            raise refused(ProblemType.REJECTED_IDENTIFIER, f"an order has at most {most} identifiers here")
        found: dict[Identifier, None] = {}
        problems = []
        for value in values:
            if not isinstance(value, dict):
                raise refused(ProblemType.MALFORMED, "an identifier is an object with type and value")
            try:
                found[Identifier.parse(value.get("type"), value.get("value"))] = None
            except FormatError as error:
                is_unknown = error.reason is Reason.UNSUPPORTED
                kind = ProblemType.UNSUPPORTED_IDENTIFIER if is_unknown else ProblemType.REJECTED_IDENTIFIER
                problems.append(Problem(type=kind, detail=error.message))
        if problems:
            raise ProblemError(compound(ProblemType.REJECTED_IDENTIFIER, "some identifiers cannot be used", problems))
        return tuple(found)

    def _validity(
        self, document: Mapping[str, object], profile: str, now: datetime
    ) -> tuple[datetime | None, datetime | None]:
        """Return notBefore and notAfter as requested. Raises ProblemError for what no certificate here can have."""
        try:
            before, after = (
                None if document.get(name) is None else parse_time(document[name]) for name in ("notBefore", "notAfter")
            )
        except FormatError as error:
            raise refused(ProblemType.MALFORMED, error.message) from None
        backdating = self._context.ca.parts.folder.config.profile.backdating
        # Whoever asks for no notBefore gets one that lies a little back, for slow clocks.
        begin = before or now - backdating
        if not now - backdating <= begin <= now + timedelta(hours=1):
            raise refused(ProblemType.MALFORMED, "notBefore must be about now")
        longest = self._context.lifetime_of(profile)
        if after is not None and not max(now, begin) < after < begin + longest:
            raise refused(
                ProblemType.MALFORMED, f"notAfter must lie ahead, and less than {longest} after {format_time(begin)}"
            )
        return before, after

    def _profile(self, document: Mapping[str, object]) -> str:
        """Return the name of the profile. Raises ProblemError for one that is not served."""
        config = self._context.config
        name = document.get("profile")
        if name is None:
            return config.default_profile.name
        if not isinstance(name, str) or name not in config.profiles:
            raise refused(
                ProblemType.INVALID_PROFILE, f"{str(name)[:80]!r} is no profile; there are {', '.join(config.profiles)}"
            )
        return name

    async def _check_names(self, account: Account, identifiers: Sequence[Identifier]) -> None:
        """Raise ProblemError about all names that the account, the CA or an operator does not allow."""
        names = [item.base.value for item in identifiers]
        block = await self._context.store.find_block(names, [])
        if block is not None:
            raise refused(ProblemType.REJECTED_IDENTIFIER, f"{block[1]} is blocked here: {block[2]}")
        allowed = account.allowed_names or self._context.config.allowed_names
        problems = []
        for item in identifiers:
            detail = self._find_fault(item, allowed)
            if detail is not None:
                problems.append(Problem(type=ProblemType.REJECTED_IDENTIFIER, detail=detail, identifier=item))
        if problems:
            raise ProblemError(compound(ProblemType.REJECTED_IDENTIFIER, "some identifiers are refused", problems))

    def _find_fault(self, identifier: Identifier, allowed: Sequence[str]) -> str | None:
        """Say why an identifier is refused, None when it is not."""
        name = identifier.base.value
        if allowed and not any(name == item or name.endswith(f".{item}") for item in allowed):
            return f"{identifier} is not among the names that this account may ask for"
        if not self._methods_for(identifier):
            return f"{identifier} cannot be validated here: its challenge types are switched off"
        try:
            self._context.ca.authority.check_names(
                *(((identifier.value,), ()) if identifier.type is IdentifierType.DNS else ((), (identifier.value,)))
            )
        except Error as error:
            return error.message
        return None

    async def _check_limits(
        self, account: Account, identifiers: Sequence[Identifier], now: datetime, *, is_renewal: bool
    ) -> None:
        """Raise ProblemError when an account or a set of names has had enough for now.

        is_renewal: a certificate is replaced as the server itself suggested, which must not fail for having too many.
        """
        context, limits = self._context, self._context.config.limits
        if await context.store.count_open_orders(account.id, now) >= limits.open_orders:
            raise ProblemError(
                Problem(
                    type=ProblemType.RATE_LIMITED,
                    detail=f"the account has {limits.open_orders} open orders; finish some, or let them expire",
                    retry_after_s=3600,
                )
            )
        await context.take(limits.new_orders, account.id, "new orders of this account")
        if is_renewal:
            return
        names = ",".join(sorted(item.value for item in identifiers))
        await context.take(limits.certificates, names, "orders for exactly these names")

    async def _authorizations(
        self, account: Account, identifiers: Sequence[Identifier], now: datetime, expires: datetime
    ) -> tuple[list[Authorization], list[Authorization]]:
        """Return the authorizations of an order, in its order, and those of them that are new."""
        margin = min(_REUSE_MARGIN, self._context.config.validation.reuse / 2)
        known = await self._context.store.find_valid(account.id, identifiers, now + margin)
        found, added = [], []
        for identifier in identifiers:
            authorization = known.get(identifier)
            if authorization is None:
                authorization = self._new_authorization(account, identifier, now, expires)
                added.append(authorization)
            found.append(authorization)
        return found, added

    def _new_authorization(
        self, account: Account, identifier: Identifier, now: datetime, expires: datetime
    ) -> Authorization:
        """Make an authorization; each of its challenges has a token of its own."""
        return Authorization(
            id=self._context.new_id(),
            account_id=account.id,
            identifier=identifier,
            created=now,
            expires=expires,
            challenges=tuple(
                Challenge(method=method, token=secrets.token_urlsafe(_TOKEN_BYTES))
                for method in self._methods_for(identifier)
            ),
        )

    def _methods_for(self, identifier: Identifier) -> tuple[Method, ...]:
        """Return the challenge types that can validate an identifier (RFC 8555, 8737, 8738)."""
        methods = self._context.config.validation.methods
        if identifier.is_wildcard:
            return tuple(item for item in methods if item is Method.DNS_01)
        if identifier.type is IdentifierType.IP:
            return tuple(item for item in methods if item is not Method.DNS_01)
        return methods

    async def find(self, call: Call, order_id: str) -> tuple[Order, list[Authorization]]:
        """Return an order of the account that asks, with its authorizations. Raises ProblemError for any other."""
        account = call.owner
        order = await self._context.store.find_order(order_id)
        if order is None or order.account_id != account.id:
            raise refused(ProblemType.MALFORMED, "the account has no such order", status=404)
        return order, await self._context.store.find_authorizations(order.authorization_ids)

    async def read(self, call: Call, order_id: str) -> Response:
        """Show an order."""
        call.check_empty()
        order, authorizations = await self.find(call, order_id)
        return self.show(order, authorizations, self._context.now())

    def show(self, order: Order, authorizations: Sequence[Authorization], now: datetime, status: int = 200) -> Response:
        """Return an order object."""
        context = self._context
        state = order.status_at(now, [item.status_at(now) for item in authorizations])
        document: dict[str, object] = {
            "status": str(state),
            "expires": format_time(order.expires),
            "identifiers": [item.to_json() for item in order.identifiers],
            "authorizations": [context.authorization_url(item) for item in order.authorization_ids],
            "finalize": context.url("order", order.id, "finalize"),
            "profile": order.profile,
        }
        times = {"notBefore": order.not_before, "notAfter": order.not_after}
        document |= {name: format_time(moment) for name, moment in times.items() if moment is not None}
        if order.replaces is not None:
            document["replaces"] = order.replaces
        error = order.error or (explain_failure(authorizations) if state is OrderStatus.INVALID else None)
        if error is not None:
            document["error"] = error.to_json()
        if state is OrderStatus.VALID:
            document["certificate"] = context.certificate_url(order.id)
        retry = POLL_S if state is OrderStatus.PROCESSING else None
        return reply(document, status, location=context.order_url(order.id), retry_after_s=retry)

    async def authorization(self, call: Call, authorization_id: str) -> Response:
        """Show an authorization, or deactivate it."""
        authorization = await self.find_authorization(call, authorization_id)
        now = self._context.now()
        if not call.is_get:
            if call.document.get("status") != AuthorizationStatus.DEACTIVATED:
                raise refused(ProblemType.MALFORMED, 'an authorization is only changed by status "deactivated"')
            if authorization.status_at(now) in (AuthorizationStatus.PENDING, AuthorizationStatus.VALID):
                authorization = replace(authorization, status=AuthorizationStatus.DEACTIVATED)
                await self._context.store.commit(Replace(authorization))
        return self.show_authorization(authorization, now)

    async def find_authorization(self, call: Call, authorization_id: str) -> Authorization:
        """Return an authorization of the account that asks. Raises ProblemError for any other."""
        account = call.owner
        authorization = await self._context.store.find_authorization(authorization_id)
        if authorization is None or authorization.account_id != account.id:
            raise refused(ProblemType.MALFORMED, "the account has no such authorization", status=404)
        return authorization

    def show_authorization(self, authorization: Authorization, now: datetime) -> Response:
        """Return an authorization object: of one that is decided, only the challenge that decided it."""
        status = authorization.status_at(now)
        shown = authorization.challenges
        if authorization.status is AuthorizationStatus.VALID:
            shown = tuple(item for item in shown if item.status is ChallengeStatus.VALID)
        elif authorization.status is AuthorizationStatus.INVALID:
            shown = tuple(item for item in shown if item.status is ChallengeStatus.INVALID)
        document: dict[str, object] = {
            "status": str(status),
            "identifier": authorization.identifier.base.to_json(),
            "expires": format_time(authorization.expires),
            "challenges": [self.describe_challenge(authorization, item) for item in shown],
        }
        if authorization.identifier.is_wildcard:
            document["wildcard"] = True
        is_running = any(item.status is ChallengeStatus.PROCESSING for item in authorization.challenges)
        retry = POLL_S if status is AuthorizationStatus.PENDING and is_running else None
        return reply(document, retry_after_s=retry)

    def describe_challenge(self, authorization: Authorization, challenge: Challenge) -> dict[str, object]:
        """Return a challenge object."""
        document: dict[str, object] = {
            "type": str(challenge.method),
            "url": self._context.challenge_url(authorization.id, challenge.method),
            "status": str(challenge.status),
            "token": challenge.token,
        }
        if challenge.validated is not None:
            document["validated"] = format_time(challenge.validated)
        if challenge.error is not None:
            document["error"] = challenge.error.to_json()
        return document
