"""A small ACME server that does what a test tells it: Merkle Tree certificates, late landmarks, refusals, lost answers.

It believes every challenge and every signature, so it is no test of ACME; Pebble and the real server are. What it has
and they do not is that a test can say when what goes wrong.
"""

import json
from base64 import urlsafe_b64decode
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.makers import NOW, Leaf, SmallCA, leaf_extensions

from mtc.acme.client import WITH_PROPERTIES
from mtc.acme.machine.problems import ERROR_NAMESPACE
from mtc.ca.certificates import properties_for
from mtc.cert import CertificateChain, encode_authority_key_identifier
from mtc.ids import DEFAULT_REVISION, DraftRevision
from mtc.merkle import Subtree
from mtc.testing.clock import FakeClock

LIFETIME = timedelta(days=7)


@dataclass(slots=True)
class _Order:
    """One order. index: of its entry, None before it is finalized."""

    number: int
    identifiers: list[dict[str, str]]
    account: int
    status: str = "pending"
    is_validated: bool = False
    index: int | None = None
    replaces: str | None = None


@dataclass(frozen=True, slots=True)
class Refusal:
    """What a resource answers in the place of what it would. status 0: the connection breaks, after all was done."""

    status: int
    kind: str = ""
    detail: str = "as the test wants it"
    retry_after: str | None = None


@dataclass
class ScriptedACME:
    """One server with its CA. calls: by resource. refusals: by resource, used up from the front.

    landmark_wait: Retry-After of the landmark-relative certificate, None when it is ready. window: of renewal
    information, None for no such resource. bad: what is wrong with certificates.
    """

    clock: FakeClock
    revision: DraftRevision = DEFAULT_REVISION
    calls: Counter[str] = field(default_factory=Counter)
    refusals: dict[str, list[Refusal]] = field(default_factory=dict)
    landmark_wait: int | None = 60
    has_landmarks: bool = True
    is_plain: bool = False
    window: tuple[datetime, datetime] | None = None
    terms: str | None = None
    bad_landmark: str = ""
    bad_certificate: str = ""
    base: str = ""
    leaves: list[Leaf] = field(default_factory=list)
    orders: list[_Order] = field(default_factory=list)
    accounts: dict[str, int] = field(default_factory=dict)
    revoked: list[int] = field(default_factory=list)
    _nonce: int = 0

    @property
    def directory(self) -> str:
        """The URL of the directory."""
        return f"{self.base}/directory"

    @property
    def ca(self) -> SmallCA:
        """The CA with everything that was issued."""
        return SmallCA(tuple(self.leaves), revision=self.revision)

    def issued(self) -> int:
        """Return how many certificates there are."""
        return len(self.leaves)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer any request."""
        name, _, rest = request.path.strip("/").partition("/")
        name = "landmark" if rest.endswith("/landmark") else name
        self.calls[name] += 1
        planned = self.refusals.get(name)
        refusal = planned.pop(0) if planned else None
        if refusal is not None and refusal.status:
            response: web.StreamResponse = self._refuse(refusal)
        else:
            header, payload = _read(await request.read())
            response = getattr(self, "_" + name.replace("-", "_"))(request, header, payload, rest)
        if refusal is not None and not refusal.status and request.transport is not None:
            request.transport.close()
        self._nonce += 1
        response.headers["Replay-Nonce"] = f"nonce-{self._nonce}"
        return response

    def _refuse(self, refusal: Refusal) -> web.Response:
        document = {"type": ERROR_NAMESPACE + refusal.kind, "detail": refusal.detail, "status": refusal.status}
        headers = {} if refusal.retry_after is None else {"Retry-After": refusal.retry_after}
        return web.json_response(
            document, status=refusal.status, headers=headers, content_type="application/problem+json"
        )

    def _directory(self, *_: object) -> web.Response:
        names = ("new-nonce", "new-account", "new-order", "revoke-cert", "key-change")
        document: dict[str, object] = {
            name.split("-")[0] + name.split("-")[1].title(): f"{self.base}/{name}" for name in names
        }
        if self.window is not None:
            document["renewalInfo"] = f"{self.base}/renewal-info"
        if self.terms is not None:
            document["meta"] = {"termsOfService": self.terms}
        return web.json_response(document)

    def _new_nonce(self, *_: object) -> web.Response:
        return web.Response()

    def _new_account(self, _: web.Request, header: Mapping[str, object], *__: object) -> web.Response:
        key = json.dumps(header["jwk"], sort_keys=True)
        is_new = key not in self.accounts
        number = self.accounts.setdefault(key, len(self.accounts))
        return web.json_response(
            {"status": "valid"}, status=201 if is_new else 200, headers={"Location": f"{self.base}/account/{number}"}
        )

    def _account(self, _: web.Request, __: object, payload: Mapping[str, object], ___: object) -> web.Response:
        return web.json_response({"status": "valid", "contact": payload.get("contact", [])})

    def _new_order(
        self, _: web.Request, header: Mapping[str, object], payload: Mapping[str, object], __: object
    ) -> web.Response:
        account = int(str(header["kid"]).rpartition("/")[2])
        if account >= len(self.accounts):
            return self._refuse(Refusal(400, "accountDoesNotExist"))
        identifiers, replaces = payload["identifiers"], payload.get("replaces")
        assert isinstance(identifiers, list)
        order = _Order(len(self.orders), identifiers, account, replaces=str(replaces) if replaces else None)
        self.orders.append(order)
        return self._show(order, 201)

    def _order(self, _: web.Request, __: object, ___: object, rest: str) -> web.Response:
        number = int(rest)
        if number >= len(self.orders):
            return self._refuse(Refusal(404, "malformed"))
        return self._show(self.orders[number], 200)

    def _show(self, order: _Order, status: int) -> web.Response:
        url = f"{self.base}/order/{order.number}"
        document: dict[str, object] = {
            "status": order.status,
            "identifiers": order.identifiers,
            "authorizations": [f"{self.base}/authz/{order.number}"],
            "finalize": f"{self.base}/finalize/{order.number}",
        }
        if order.status == "valid":
            document["certificate"] = f"{self.base}/cert/{order.index}"
        return web.json_response(document, status=status, headers={"Location": url})

    def _authz(self, _: web.Request, __: object, ___: object, rest: str) -> web.Response:
        order = self.orders[int(rest)]
        status = "valid" if order.is_validated else "pending"
        identifier = order.identifiers[0]
        wildcard = identifier["value"].startswith("*.")
        document = {
            "status": status,
            "identifier": {**identifier, "value": identifier["value"].removeprefix("*.")},
            "challenges": [
                {"type": "http-01", "url": f"{self.base}/challenge/{rest}", "status": status, "token": "t" * 22}
            ],
            **({"wildcard": True} if wildcard else {}),
        }
        return web.json_response(document)

    def _challenge(self, _: web.Request, __: object, ___: object, rest: str) -> web.Response:
        order = self.orders[int(rest)]
        order.is_validated, order.status = True, "ready"
        return web.json_response({"type": "http-01", "url": f"{self.base}/challenge/{rest}", "status": "valid"})

    def _finalize(self, _: web.Request, __: object, payload: Mapping[str, object], rest: str) -> web.Response:
        order = self.orders[int(rest)]
        if order.status != "ready":
            return self._refuse(Refusal(403, "orderNotReady"))
        csr = x509.load_der_x509_csr(_decode(str(payload["csr"])))
        spki = csr.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        names = [item["value"] for item in order.identifiers if item["type"] == "dns"]
        if self.bad_certificate == "names":
            names = ["other.example.com"]
        addresses = [item["value"] for item in order.identifiers if item["type"] == "ip"]
        now = self.clock.now().replace(microsecond=0)
        extensions = (encode_authority_key_identifier(b"\x01\x02\x03\x04"), *leaf_extensions(names, addresses))
        self.leaves.append(Leaf(spki=spki, extensions=extensions, not_before=now, not_after=now + LIFETIME))
        order.index, order.status = len(self.leaves) - 1, "valid"
        return self._show(order, 200)

    def _cert(self, request: web.Request, _: object, __: object, rest: str) -> web.Response:
        index = int(rest)
        ca = self.ca
        der = ca.certificate(index, Subtree(index, index + 1), () if self.bad_certificate == "proof" else (ca.ca_id,))
        properties = properties_for(ca.anchor, ca.log_number, revision=self.revision)
        response = self._chain(request, CertificateChain(properties, (der,)))
        if self.has_landmarks:
            relation = "acme-optional-alternate" if self.revision.has_optional_alternate else "alternate"
            response.headers.add("Link", f'<{self.base}/directory>;rel="index"')
            response.headers.add("Link", f'<{self.base}/cert/{index}/landmark>; rel="{relation}"')
        return response

    def _landmark(self, request: web.Request, _: object, __: object, rest: str) -> web.Response:
        if self.landmark_wait is not None:
            status = 202 if self.revision.has_optional_alternate else 503
            return web.Response(status=status, headers={"Retry-After": str(self.landmark_wait)})
        ca, index = self.ca, int(rest.partition("/")[0])
        properties = properties_for(ca.anchor, ca.log_number, 1, revision=self.revision)
        if self.bad_landmark == "entry":
            index = (index + 1) % len(self.leaves)
        if self.bad_landmark == "properties":
            properties = properties_for(ca.anchor, ca.log_number, revision=self.revision)
        return self._chain(request, CertificateChain(properties, (ca.certificate(index),)))

    def _chain(self, request: web.Request, chain: CertificateChain) -> web.Response:
        if self.is_plain or WITH_PROPERTIES not in request.headers.get("Accept", ""):
            plain = CertificateChain(None, chain.certificates)
            return web.Response(body=plain.encode(), content_type="application/pem-certificate-chain")
        return web.Response(body=chain.encode(), content_type=WITH_PROPERTIES)

    def _renewal_info(self, *_: object) -> web.Response:
        assert self.window is not None
        start, end = (moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") for moment in self.window)
        document = {"suggestedWindow": {"start": start, "end": end}, "explanationURL": "https://ca.example/why"}
        return web.json_response(document, headers={"Retry-After": "3600"})

    def _revoke_cert(self, _: web.Request, __: object, payload: Mapping[str, object], ___: object) -> web.Response:
        der = _decode(str(payload["certificate"]))
        self.revoked.append(x509.load_der_x509_certificate(der).serial_number)
        return web.Response()


@asynccontextmanager
async def scripted(clock: FakeClock | None = None, **choices: object) -> AsyncIterator[ScriptedACME]:
    """Serve until the context ends, on a free port of this machine."""
    server = ScriptedACME(clock or FakeClock(NOW), **choices)  # type: ignore[arg-type]  # the fields of the class
    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    server.base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield server
    finally:
        await runner.cleanup()


def _read(body: bytes) -> tuple[dict[str, object], dict[str, object]]:
    """Return header and payload of a signed request, which is believed."""
    if not body:
        return {}, {}
    document = json.loads(body)
    payload = _decode(document["payload"])
    return json.loads(_decode(document["protected"])), json.loads(payload) if payload else {}


def _decode(text: str) -> bytes:
    """Read base64url."""
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))
