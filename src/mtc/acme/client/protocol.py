"""The ACME protocol from the client's side: each call is one request, or one request until something has happened.

Spec: RFC 8555; RFC 9773 (renewal information); the ACME profiles draft; Merkle Tree Certificates, "ACME Extensions".
"""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar
from urllib.parse import urljoin

from mtc.acme.client.documents import (
    AccountState,
    ACMERefusal,
    AuthorizationState,
    ChallengeState,
    Directory,
    Fields,
    OrderState,
    RenewalWindow,
    ServerProblem,
)
from mtc.acme.client.keys import AccountKey, bind_external_account
from mtc.acme.client.transport import Reply, Signature, Transport, TransportLimits, open_transport
from mtc.acme.machine.identifiers import Identifier
from mtc.acme.machine.jws import encode_base64url
from mtc.acme.machine.orders import AuthorizationStatus, OrderStatus
from mtc.cert import CertificateChain, parse_certificate_chains
from mtc.errors import FormatError, PeerError, Reason, UsageError
from mtc.wire import parse_pem

WITH_PROPERTIES = "application/pem-certificate-chain-with-properties"
PLAIN = "application/pem-certificate-chain"
ACCEPT = f"{WITH_PROPERTIES}, {PLAIN};q=0.5"
"""What is asked for: properties where the server has them."""
OPTIONAL_ALTERNATE = "acme-optional-alternate"
PREFIX_URL = "c2sp.org/mtc-tlog/prefix-url"

Found = TypeVar("Found")

_MIN_POLL_S, _MAX_POLL_S = 0.1, 60.0
_NOT_READY = frozenset({202, 503})


@dataclass(frozen=True, slots=True)
class ExternalAccount:
    """An account elsewhere that a new account is bound to. secret: the HMAC key."""

    kid: str
    secret: bytes

    def __repr__(self) -> str:
        """Name it without its key."""
        return f"ExternalAccount({self.kid!r})"


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate as it was downloaded. chains: usually one. alternates: optional ones. prefix_url: of the CA."""

    chains: tuple[CertificateChain, ...]
    pem: bytes
    has_properties: bool
    alternates: tuple[str, ...] = ()
    other_alternates: tuple[str, ...] = ()
    prefix_url: str | None = None


@dataclass(frozen=True, slots=True)
class NotYet:
    """A certificate that does not exist yet. retry_after_s: when to ask again, None when the server did not say."""

    retry_after_s: float | None


class ACMEClient:
    """One account at one server. Any number of tasks may use it at once.

    transport: for requests that are none of ACME's, and wrong ones in tests. directory: of the server. key: of the
    account, changed by `change_key`. account_url: None before `register`, or as it is known from earlier.
    """

    def __init__(self, transport: Transport, directory: Directory, key: AccountKey) -> None:
        """Take the parts; see `open_client`."""
        self.transport = transport
        self.directory = directory
        self.key = key
        self.account_url: str | None = None

    async def register(
        self,
        *,
        contacts: Sequence[str] = (),
        agrees_to_terms: bool = False,
        external_account: ExternalAccount | None = None,
        only_existing: bool = False,
    ) -> AccountState:
        """Make the account of the key, or find it. contacts: URLs, `mailto:…`. Raises ACMERefusal."""
        payload: dict[str, object] = {}
        if contacts:
            payload["contact"] = list(contacts)
        if agrees_to_terms:
            payload["termsOfServiceAgreed"] = True
        if only_existing:
            payload["onlyReturnExisting"] = True
        url = self.directory.new_account
        if external_account is not None:
            payload["externalAccountBinding"] = bind_external_account(
                external_account.kid, external_account.secret, self.key, url
            )
        reply = await self.transport.post(url, payload, Signature(self.key, None))
        location = _location(reply, "the account")
        self.account_url = location
        return _account(location, reply)

    async def fetch_account(self) -> AccountState:
        """Return the account as the server has it."""
        return _account(self._kid(), await self.post(self._kid(), None))

    async def update_account(self, contacts: Sequence[str]) -> AccountState:
        """Replace the contacts."""
        return _account(self._kid(), await self.post(self._kid(), {"contact": list(contacts)}))

    async def deactivate_account(self) -> AccountState:
        """Give the account up, for good."""
        return _account(self._kid(), await self.post(self._kid(), {"status": "deactivated"}))

    async def change_key(self, new: AccountKey) -> None:
        """Replace the account's key. Whoever keeps keys writes the new one down before.

        Spec: RFC 8555, "Account Key Rollover".
        """
        url = self.directory.key_change
        inner = new.sign(
            {"jwk": new.jwk, "url": url}, json.dumps({"account": self._kid(), "oldKey": dict(self.key.jwk)}).encode()
        )
        await self.post(url, json.loads(inner))
        self.key = new

    async def new_order(
        self,
        identifiers: Sequence[Identifier],
        *,
        profile: str | None = None,
        replaces: str | None = None,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> OrderState:
        """Ask for a certificate. replaces: the certificate ID of RFC 9773 of the one that it follows."""
        payload: dict[str, object] = {"identifiers": [item.to_json() for item in identifiers]}
        given = {
            "profile": profile,
            "replaces": replaces,
            "notBefore": None if not_before is None else not_before.isoformat(),
            "notAfter": None if not_after is None else not_after.isoformat(),
        }
        payload |= {name: value for name, value in given.items() if value is not None}
        reply = await self.post(self.directory.new_order, payload)
        return OrderState.of_json(_location(reply, "the order"), reply.json("an order"), reply.retry_after_s)

    async def fetch_order(self, url: str) -> OrderState:
        """Return an order as it stands."""
        reply = await self.post(url, None)
        return OrderState.of_json(url, reply.json("an order"), reply.retry_after_s)

    async def fetch_orders(self) -> list[str]:
        """Return the URLs of the account's orders, over all pages."""
        account = await self.fetch_account()
        urls: list[str] = []
        url = account.orders
        while url is not None:
            reply = await self.post(url, None)
            urls.extend(Fields(reply.json("the orders"), "the orders").texts("orders"))
            following = reply.links.get("next", [])
            url = following[0] if following and following[0] != url else None
        return urls

    async def fetch_authorization(self, url: str) -> AuthorizationState:
        """Return an authorization as it stands."""
        reply = await self.post(url, None)
        return AuthorizationState.of_json(url, reply.json("an authorization"), reply.retry_after_s)

    async def preauthorize(self, identifier: Identifier) -> AuthorizationState:
        """Ask for an authorization without an order. Raises UsageError where the server has no such thing."""
        if self.directory.new_authz is None:
            raise UsageError(Reason.UNSUPPORTED, "this server has no pre-authorization")
        reply = await self.post(self.directory.new_authz, {"identifier": identifier.to_json()})
        url = _location(reply, "the authorization")
        return AuthorizationState.of_json(url, reply.json("an authorization"), reply.retry_after_s)

    async def deactivate_authorization(self, url: str) -> AuthorizationState:
        """Give an authorization up."""
        reply = await self.post(url, {"status": "deactivated"})
        return AuthorizationState.of_json(url, reply.json("an authorization"))

    async def respond(self, challenge: ChallengeState) -> ChallengeState:
        """Tell the server that a challenge can be looked at."""
        return ChallengeState.of_json((await self.post(challenge.url, {})).json("a challenge"))

    def key_authorization(self, challenge: ChallengeState) -> str:
        """Return what a challenge is answered with. Spec: RFC 8555, "Key Authorizations"."""
        return f"{challenge.token}.{self.key.thumbprint}"

    async def finalize(self, order: OrderState, csr: bytes) -> OrderState:
        """Send the certificate request, DER. An order that has gone on already is returned as it stands."""
        try:
            reply = await self.post(order.finalize, {"csr": encode_base64url(csr)})
        except ACMERefusal as error:
            # An earlier attempt may have arrived although its answer was lost.
            if error.problem.kind != "orderNotReady":
                raise
            current = await self.fetch_order(order.url)
            if current.status in (OrderStatus.PROCESSING, OrderStatus.VALID):
                return current
            raise
        return OrderState.of_json(order.url, reply.json("an order"), reply.retry_after_s)

    async def wait_for_authorization(self, url: str, deadline_s: float) -> AuthorizationState:
        """Poll an authorization until it is valid. Raises ACMERefusal when it cannot, PeerError at the end."""

        async def ask() -> tuple[AuthorizationState | None, float | None]:
            state = await self.fetch_authorization(url)
            if state.status is AuthorizationStatus.PENDING:
                return None, state.retry_after_s
            return state, None

        state = await self._poll(ask, deadline_s, "the server has not validated it")
        if state.status is not AuthorizationStatus.VALID:
            problem = state.problem or ServerProblem(kind="", detail=f"it is {state.status}", status=0)
            raise ACMERefusal.of(f"{state.identifier} was not validated", problem)
        return state

    async def wait_for_order(
        self, order: OrderState, deadline_s: float, *, until: frozenset[OrderStatus] = frozenset({OrderStatus.VALID})
    ) -> OrderState:
        """Poll an order until it is in one of some states. Raises ACMERefusal when invalid, PeerError at the end."""
        known: list[OrderState] = [order]

        async def ask() -> tuple[OrderState | None, float | None]:
            # What was just answered is looked at before anything is asked again.
            state = known.pop() if known else await self.fetch_order(order.url)
            if state.status is OrderStatus.INVALID or state.status in until:
                return state, None
            return None, state.retry_after_s

        state = await self._poll(ask, deadline_s, f"the order is not {' or '.join(sorted(until))} yet")
        if state.status is OrderStatus.INVALID and OrderStatus.INVALID not in until:
            problem = state.problem or ServerProblem(kind="", detail="the order is invalid", status=0)
            raise ACMERefusal.of("the order failed", problem)
        return state

    async def fetch_certificate(self, url: str, *, accept: str = ACCEPT) -> Issued | NotYet:
        """Download a certificate. NotYet: it does not exist yet (202, or 503 as draft -04 has it)."""
        reply = await self.post(url, None, headers={"Accept": accept}, waits=False, statuses=_NOT_READY)
        if reply.status in _NOT_READY:
            return NotYet(reply.retry_after_s)
        return _issued(reply)

    async def revoke(self, certificate: bytes, *, reason: int | None = None, key: AccountKey | None = None) -> None:
        """Revoke a certificate, DER. key: the certificate's own, in place of the account's."""
        payload: dict[str, object] = {"certificate": encode_base64url(certificate)}
        if reason is not None:
            payload["reason"] = reason
        signature = Signature(self.key, self._kid()) if key is None else Signature(key, None)
        await self.transport.post(self.directory.revoke_cert, payload, signature)

    async def fetch_renewal_info(self, certificate_id: str) -> RenewalWindow | None:
        """Return when the server suggests to renew, None where it has no such thing. Spec: RFC 9773."""
        if self.directory.renewal_info is None:
            return None
        reply = await self.transport.fetch(f"{self.directory.renewal_info.rstrip('/')}/{certificate_id}")
        return RenewalWindow.of_json(reply.json("renewal information"), reply.retry_after_s)

    async def post(
        self,
        url: str,
        payload: object,
        *,
        headers: Mapping[str, str] | None = None,
        waits: bool = True,
        statuses: frozenset[int] = frozenset(),
    ) -> Reply:
        """Send any request of the account; see `Transport.post`."""
        signature = Signature(self.key, self._kid())
        return await self.transport.post(url, payload, signature, headers=headers, waits=waits, statuses=statuses)

    def _kid(self) -> str:
        """Return the account's URL. Raises UsageError before `register`."""
        if self.account_url is None:
            raise UsageError(Reason.USAGE, "the account is not registered yet")
        return self.account_url

    async def _poll(
        self, ask: Callable[[], Awaitable[tuple[Found | None, float | None]]], deadline_s: float, what: str
    ) -> Found:
        """Ask until there is an answer, as often as the server wants it."""
        pause = _MIN_POLL_S
        try:
            async with asyncio.timeout(deadline_s):
                while True:
                    found, asked = await ask()
                    if found is not None:
                        return found
                    await self.transport.pause(min(max(pause if asked is None else asked, _MIN_POLL_S), _MAX_POLL_S))
                    pause = min(pause * 1.5, 5.0)
        except TimeoutError:
            raise PeerError(
                Reason.PEER, f"{what} after {deadline_s:g} s; the order is kept, the next run goes on with it"
            ) from None


@asynccontextmanager
async def open_client(
    directory_url: str, key: AccountKey, *, ca_file: Path | None = None, limits: TransportLimits | None = None
) -> AsyncIterator[ACMEClient]:
    """Connect to a server. ca_file: see `open_transport`. Raises PeerError, FormatError."""
    async with open_transport(ca_file=ca_file, limits=limits) as transport:
        yield await connect(transport, directory_url, key)


async def connect(transport: Transport, directory_url: str, key: AccountKey) -> ACMEClient:
    """Read the directory, and return the client of an account. Many accounts may share a transport."""
    transport.allows_http = directory_url.startswith("http://")
    reply = await transport.fetch(directory_url)
    try:
        directory = Directory.of_json(reply.json("the directory"))
    except FormatError as error:
        raise PeerError(Reason.BAD_DOCUMENT, f"{directory_url[:200]} is no ACME directory: {error.message}") from None
    transport.new_nonce = directory.new_nonce
    return ACMEClient(transport, directory, key)


def _location(reply: Reply, what: str) -> str:
    """Return where the new object is. Raises PeerError."""
    location = reply.headers.get("location")
    if location is None:
        raise PeerError(Reason.BAD_DOCUMENT, f"the server did not say where {what} is")
    return urljoin(reply.url, location)


def _account(url: str, reply: Reply) -> AccountState:
    """Read an account."""
    fields = Fields(reply.json("the account"), "the account")
    return AccountState(
        url=url,
        status=fields.text("status"),
        contacts=fields.texts("contact") if isinstance(fields.values.get("contact"), list) else (),
        orders=fields.text("orders", is_optional=True) or None,
        is_new=reply.status == 201,
    )


def _issued(reply: Reply) -> Issued:
    """Read a certificate's answer. Raises FormatError."""
    has_properties = reply.headers.get("content-type", "").partition(";")[0].strip().lower() == WITH_PROPERTIES
    if has_properties:
        chains = tuple(parse_certificate_chains(reply.body, None))
    else:
        blocks = [block.data for block in parse_pem(reply.body) if block.label == "CERTIFICATE"]
        chains = (CertificateChain(None, tuple(blocks)),) if blocks else ()
    if not chains:
        raise FormatError(Reason.BAD_PEM, "the answer holds no certificate")
    prefixes = reply.links.get(PREFIX_URL, [])
    return Issued(
        chains,
        reply.body,
        has_properties,
        tuple(reply.links.get(OPTIONAL_ALTERNATE, [])),
        tuple(reply.links.get("alternate", [])),
        prefixes[0] if prefixes else None,
    )
