"""Accounts: made, found, changed, bound to an account elsewhere, given a new key, deactivated.

Spec: RFC 8555, "Account Management".
"""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from starlette.responses import Response

from mtc.acme.config import ACMEConfig
from mtc.acme.machine.jws import PublicKey, SignedRequest, parse_object, problem_of
from mtc.acme.machine.orders import Account, AccountStatus, Order
from mtc.acme.machine.problems import Problem, ProblemError, ProblemType, compound, refused
from mtc.acme.server.authentication import Call
from mtc.acme.server.context import ServerContext
from mtc.acme.server.replies import problem_reply, reply
from mtc.acme.store import Add, Change, ExternalAccount, Replace, Use
from mtc.errors import FormatError, SignatureError

MAX_CONTACTS = 10
MAX_CONTACT_CHARS = 320
ORDERS_PER_PAGE = 100

_EMAIL = re.compile(r"[A-Za-z0-9.!#$&'*+/=^_`{|}~-]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", re.ASCII)


class Accounts:
    """Answers for newAccount, accounts, their orders, and keyChange."""

    def __init__(self, context: ServerContext) -> None:
        """Take the server's parts."""
        self._context = context

    async def create(self, call: Call) -> Response:
        """Make an account, or find the one with this key."""
        if call.key is None:
            raise refused(ProblemType.MALFORMED, "newAccount is signed by the account's key: jwk in the header")
        document = call.document
        known = await self._context.store.find_account_by_key(call.key.thumbprint)
        if known is not None:
            if known.status is not AccountStatus.VALID:
                raise refused(ProblemType.UNAUTHORIZED, f"the account of this key is {known.status}", status=401)
            return self._show(known)
        if document.get("onlyReturnExisting") is True:
            raise refused(ProblemType.ACCOUNT_DOES_NOT_EXIST, "no account has this key")
        config = self._context.config
        is_agreed = document.get("termsOfServiceAgreed") is True
        if config.terms_of_service is not None and not is_agreed:
            raise _terms_not_agreed(config.terms_of_service)
        contacts = parse_contacts(document)
        await self._check_key(call.key)
        external = await self._external(call, document, call.key)
        await self._context.take(config.limits.new_accounts, call.client, "new accounts from your address")
        account = Account(
            id=self._context.new_id(),
            jwk=call.key.jwk,
            thumbprint=call.key.thumbprint,
            created=self._context.now(),
            contacts=contacts,
            is_terms_agreed=is_agreed,
            eab_kid=None if external is None else external.kid,
            allowed_names=() if external is None else external.allowed_names,
            address=call.client,
        )
        changes: list[Change] = [Add(account)]
        if external is not None:
            changes.append(Use(external.kid))
        await self._context.store.commit(*changes)
        self._context.count("mtc_acme_accounts_total")
        return self._show(account, 201, None if external is None else document["externalAccountBinding"])

    async def _check_key(self, key: PublicKey) -> None:
        """Refuse a key that an operator has blocked."""
        block = await self._context.store.find_block((), [key_hash(key.spki)])
        if block is not None:
            raise refused(ProblemType.BAD_PUBLIC_KEY, f"this key is blocked here: {block[2]}")

    async def _external(self, call: Call, document: Mapping[str, object], key: PublicKey) -> ExternalAccount | None:
        """Return the external account that the request proves to hold; None when it names none, and none is needed."""
        binding = document.get("externalAccountBinding")
        if binding is None:
            if self._context.config.external_account == "required":
                raise refused(
                    ProblemType.EXTERNAL_ACCOUNT_REQUIRED,
                    "this CA serves known accounts only; ask its operator for a key",
                )
            return None
        try:
            signed = SignedRequest.of_json(binding)
            kid = signed.kid
            external = None if kid is None else await self._context.store.find_external(kid)
            if external is None or external.is_revoked:
                raise refused(ProblemType.UNAUTHORIZED, "the external account's key is not known here, or was revoked")
            payload = parse_object(signed.verify_mac(external.secret), "the external account binding")
            bound = PublicKey.parse(payload)
        except (FormatError, SignatureError) as error:
            problem = problem_of(error)
            raise ProblemError(replace(problem, detail=f"externalAccountBinding: {problem.detail}")) from None
        if signed.url != call.url or signed.nonce is not None:
            raise refused(ProblemType.MALFORMED, "the external account binding has the same url, and no nonce")
        if bound.thumbprint != key.thumbprint:
            raise refused(ProblemType.UNAUTHORIZED, "the external account binding is for another account key")
        if external.is_used:
            raise refused(ProblemType.UNAUTHORIZED, "another account is bound to this external account already")
        return external

    async def update(self, call: Call, account_id: str) -> Response:
        """Show an account, or change its contacts, or deactivate it."""
        account = await self._current(_own(call, account_id))
        if call.is_get:
            return self._show(account)
        document = call.document
        is_over = document.get("status") == AccountStatus.DEACTIVATED
        # Any other status is ignored, as the RFC has it. Agreeing to new terms is not, or nobody could by itself.
        changed = replace(
            account,
            contacts=parse_contacts(document) if "contact" in document else account.contacts,
            is_terms_agreed=account.is_terms_agreed or document.get("termsOfServiceAgreed") is True,
            status=AccountStatus.DEACTIVATED if is_over else account.status,
        )
        if changed != account:
            await self._replace(changed)
        return self._show(changed)

    async def _current(self, account: Account) -> Account:
        """Return an account as it is now. Raises ProblemError when the key that signed is not its key any more."""
        self._context.forget_account(account.id)
        current = await self._context.find_account(account.id)
        if current is None or current.status is not AccountStatus.VALID or current.thumbprint != account.thumbprint:
            raise refused(ProblemType.UNAUTHORIZED, "the account was changed meanwhile", status=401)
        return current

    async def _replace(self, account: Account) -> None:
        """Commit a changed account."""
        try:
            await self._context.store.commit(Replace(account))
        finally:
            self._context.forget_account(account.id)

    async def orders(self, call: Call, account_id: str) -> Response:
        """List an account's orders, page by page."""
        account = _own(call, account_id)
        call.check_empty()
        after = call.request.query_params.get("after", "")
        found = await self._context.store.list_orders(account.id, after=after, most=ORDERS_PER_PAGE + 1)
        page, now = found[:ORDERS_PER_PAGE], self._context.now()
        links = {}
        if len(found) > ORDERS_PER_PAGE:
            links["next"] = f"{self._orders_url(account.id)}?after={page[-1].id}"
        return reply(
            {"orders": [self._context.order_url(order.id) for order in page if _is_shown(order, now)]}, links=links
        )

    async def change_key(self, call: Call) -> Response:
        """Give an account another key; both keys have signed."""
        account = await self._current(call.owner)
        try:
            inner = SignedRequest.of_json(call.document)
            if inner.jwk is None:
                raise refused(ProblemType.MALFORMED, "the inner request is signed by the new key: jwk in its header")
            key = PublicKey.parse(inner.jwk)
            inner.check_algorithm()
            payload = parse_object(inner.verify(key), "the inner payload")
            old = PublicKey.parse(payload.get("oldKey"))
        except (FormatError, SignatureError) as error:
            raise ProblemError(problem_of(error)) from None
        if inner.url != call.url or inner.nonce is not None:
            raise refused(ProblemType.MALFORMED, "the inner request has the same url as the outer one, and no nonce")
        if payload.get("account") != self._context.account_url(account.id):
            raise refused(ProblemType.MALFORMED, "the inner request names another account than the outer one")
        if old.thumbprint != account.thumbprint:
            raise refused(ProblemType.MALFORMED, "oldKey is not the account's key")
        await self._check_key(key)
        # Should another account get the key at this moment, the commit fails, and all this is decided anew.
        other = await self._context.store.find_account_by_key(key.thumbprint)
        if other is not None:
            response = problem_reply(Problem(type=ProblemType.CONFLICT, detail="an account has this key already"))
            response.headers["Location"] = self._context.account_url(other.id)
            return response
        changed = replace(account, jwk=key.jwk, thumbprint=key.thumbprint)
        await self._replace(changed)
        return self._show(changed)

    def _orders_url(self, account_id: str) -> str:
        """Return where an account's orders are listed."""
        return self._context.url("account", account_id, "orders")

    def _show(self, account: Account, status: int = 200, binding: object = None) -> Response:
        """Return an account object. binding: the external account binding that was verified for it just now."""
        document: dict[str, object] = {
            "status": str(account.status),
            "contact": list(account.contacts),
            "termsOfServiceAgreed": account.is_terms_agreed,
            "orders": self._orders_url(account.id),
            "key": parse_object(account.jwk.encode(), "the key"),
        }
        if binding is not None:
            document["externalAccountBinding"] = binding
        return reply(document, status, location=self._context.account_url(account.id))


def check_terms(config: ACMEConfig, account: Account) -> None:
    """Raise ProblemError when the terms of service came after the account, and it has not agreed to them."""
    if config.terms_of_service is not None and not account.is_terms_agreed:
        raise _terms_not_agreed(config.terms_of_service)


def _terms_not_agreed(url: str) -> ProblemError:
    """Make the error for an account that has not agreed to the terms of service, with where to read them."""
    return ProblemError(
        Problem(
            type=ProblemType.USER_ACTION_REQUIRED,
            detail=f"agree to the terms of service: {url}",
            members={"instance": url},
        )
    )


def key_hash(spki: bytes) -> str:
    """Return how a key is named where it is blocked: SHA-256 of its SubjectPublicKeyInfo, hex."""
    return hashlib.sha256(spki).hexdigest()


def _own(call: Call, account_id: str) -> Account:
    """Return the account that sent the request. Raises ProblemError when it asks about another one."""
    account = call.owner
    if account.id != account_id:
        raise refused(ProblemType.UNAUTHORIZED, "the request was signed by another account")
    return account


def _is_shown(order: Order, now: datetime) -> bool:
    """Tell whether an order belongs into a list: not one that is known to be invalid (RFC 8555, "Orders List")."""
    return order.error is None and (order.finalized is not None or now < order.expires)


def parse_contacts(document: Mapping[str, object]) -> tuple[str, ...]:
    """Return the contacts of an account: mail addresses. Raises ProblemError that says which is wrong, all of them."""
    values = document.get("contact", [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise refused(ProblemType.MALFORMED, "contact is a list of URLs")
    if len(values) > MAX_CONTACTS:
        raise refused(ProblemType.INVALID_CONTACT, f"an account has at most {MAX_CONTACTS} contacts")
    problems = []
    for value in values:
        scheme, _, address = value.partition(":")
        if scheme.lower() != "mailto":
            detail = f"{value[:80]!r} is no mailto: address, and others are not used here"
            problems.append(Problem(type=ProblemType.UNSUPPORTED_CONTACT, detail=detail))
        elif len(value) > MAX_CONTACT_CHARS or not _EMAIL.fullmatch(address):
            detail = f"{value[:80]!r} is not exactly one mail address without header fields"
            problems.append(Problem(type=ProblemType.INVALID_CONTACT, detail=detail))
    if problems:
        raise ProblemError(compound(ProblemType.INVALID_CONTACT, "some contacts cannot be used", problems))
    return tuple(values)
