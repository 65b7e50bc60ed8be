"""Orders of one client, each for a fresh name, from the first request to the certificate.

An order is driven by the state that the server tells, as RFC 8555 has it ("Applying for Certificate Issuance"). So an
answer that was lost, or a server that died, costs a request more and not the order.
"""

import asyncio
import base64
import time
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import CertificateSigningRequestBuilder, DNSName, Name, SubjectAlternativeName

from mtc.acme.load.account import Account, Document, location_of, objects_of, text_of
from mtc.acme.load.answering import AnsweringServer
from mtc.acme.machine.orders import AuthorizationStatus, ChallengeStatus, OrderStatus
from mtc.acme.machine.problems import ProblemType
from mtc.acme.machine.validation import Method
from mtc.errors import FormatError, Reason, Rejected


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """How clients poll. first_s: the first wait; each further one is `growth` times longer, at most `longest_s`.

    deadline_s: of a whole order.
    """

    first_s: float = 0.05
    growth: float = 1.5
    longest_s: float = 1.0
    deadline_s: float = 60.0


@dataclass(slots=True)
class Ordered:
    """What came of one order. Times are steady seconds. pem: the chain as downloaded, empty without one.

    url: of the order, empty when it is not known whether there is one. problem: why there is no certificate.
    """

    name: str
    began: float
    url: str = ""
    finalized: float = 0.0
    ended: float = 0.0
    pem: bytes = b""
    problem: str = ""
    states: list[str] = field(default_factory=list)


class Orderer:
    """Makes the orders of one account, one after the other."""

    def __init__(
        self, account: Account, answering: AnsweringServer, pace: Pace, gate: AbstractAsyncContextManager[object]
    ) -> None:
        """Take the account and who answers its challenges. gate: entered for each request for a new order."""
        self._account = account
        self._answering = answering
        self._pace = pace
        self._gate = gate
        # One key for all certificates of a client: making keys is not what is measured.
        self._key: EllipticCurvePrivateKey = generate_private_key(SECP256R1())

    async def order(self, name: str) -> Ordered:
        """Order a certificate for a name and return what came of it; only the transport's errors are raised."""
        result = Ordered(name, time.perf_counter())
        try:
            async with asyncio.timeout(self._pace.deadline_s):
                wanted = {"identifiers": [{"type": "dns", "value": name}]}
                async with self._gate:
                    answer, document = await self._account.post(self._account.resource("newOrder"), wanted)
                result.url = location_of(answer)
                await self._drive(result, document)
        except TimeoutError:
            result.problem = f"no certificate after {self._pace.deadline_s:.0f} s; states: {' '.join(result.states)}"
        except (Rejected, FormatError) as error:
            result.problem = error.message
        result.ended = time.perf_counter()
        return result

    async def _drive(self, result: Ordered, document: Document) -> None:
        """Do what the order's state asks for until there is a certificate."""
        wait_s = self._pace.first_s
        while True:
            state = text_of(document, "status")
            result.states.append(state)
            if state == OrderStatus.VALID:
                result.pem = (await self._account.fetch(text_of(document, "certificate"))).body
                return
            if state == OrderStatus.INVALID:
                raise Rejected(Reason.PEER, f"the order is invalid: {document.get('error')}")
            if state == OrderStatus.PENDING:
                await self._authorize(document)
            if state in (OrderStatus.PENDING, OrderStatus.READY):
                result.finalized = result.finalized or time.perf_counter()
                document = await self._finalize(result, document)
                continue
            await asyncio.sleep(wait_s)
            wait_s = self._longer(wait_s)
            _, document = await self._account.post(result.url)

    async def _authorize(self, order: Document) -> None:
        """Make every authorization of an order valid."""
        urls = order.get("authorizations")
        if not isinstance(urls, list):
            raise FormatError(Reason.BAD_DOCUMENT, "the order has no authorizations")
        for url in map(str, urls):
            _, authorization = await self._account.post(url)
            if text_of(authorization, "status") == AuthorizationStatus.PENDING:
                await self._answer(url, authorization)

    async def _answer(self, url: str, authorization: Document) -> None:
        """Answer the http-01 challenge of an authorization, and wait until it is valid."""
        challenge = next(
            (item for item in objects_of(authorization, "challenges") if item.get("type") == Method.HTTP_01), None
        )
        if challenge is None:
            raise FormatError(Reason.BAD_DOCUMENT, "the server offers no http-01")
        token = text_of(challenge, "token")
        self._answering.put(token, f"{token}.{self._account.thumbprint}")
        try:
            if challenge.get("status") == ChallengeStatus.PENDING:
                await self._account.post(text_of(challenge, "url"), {})
            wait_s = self._pace.first_s
            state: str = AuthorizationStatus.PENDING
            while state == AuthorizationStatus.PENDING:
                await asyncio.sleep(wait_s)
                wait_s = self._longer(wait_s)
                _, authorization = await self._account.post(url)
                state = text_of(authorization, "status")
        finally:
            self._answering.discard(token)
        if state != AuthorizationStatus.VALID:
            errors = [item["error"] for item in objects_of(authorization, "challenges") if "error" in item]
            raise Rejected(Reason.PEER, f"the authorization is {state}: {errors}")

    async def _finalize(self, result: Ordered, order: Document) -> Document:
        """Ask for the certificate; return the order as it is then."""
        csr = base64.urlsafe_b64encode(make_csr(self._key, result.name)).rstrip(b"=").decode()
        try:
            _, document = await self._account.post(text_of(order, "finalize"), {"csr": csr})
        except Rejected as error:
            # The request was sent before, and its answer was lost with the server; or an authorization was.
            if error.facts.get("type") != ProblemType.ORDER_NOT_READY:
                raise
            await asyncio.sleep(self._pace.first_s)
            _, document = await self._account.post(result.url)
        return document

    def _longer(self, wait_s: float) -> float:
        return min(wait_s * self._pace.growth, self._pace.longest_s)


def make_csr(key: EllipticCurvePrivateKey, name: str) -> bytes:
    """Return a request for one DNS name, DER."""
    builder = CertificateSigningRequestBuilder().subject_name(Name([]))
    names = SubjectAlternativeName([DNSName(name)])
    return builder.add_extension(names, critical=False).sign(key, SHA256()).public_bytes(Encoding.DER)
