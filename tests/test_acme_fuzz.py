"""Mutated requests for every endpoint of the ACME server: no failure of ours, and nothing changed by strangers.

A request is taken from those that a client makes, and changed somewhere: in the JSON of its payload, in its protected
header, in the form of the signature, in its URL. Then it is signed again with a key that is known, so that the code
behind the signature sees the change, or it is not, so that nothing may happen at all.
"""

import asyncio
import json
import random
import sqlite3
import time
from collections.abc import MutableMapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec
from tests.acme_server import (
    JSON_TYPE,
    URL,
    Answer,
    Client,
    Key,
    ServerUnderTest,
    b64,
    csr_for,
    default_config,
    id_of,
    identifier,
    jws,
    mac,
    run_with,
)

from mtc.acme.machine.problems import ERROR_NAMESPACE, ProblemType
from mtc.acme.store import ExternalAccount

SEED = 20261121
JSON = Any
TYPES = {ERROR_NAMESPACE + kind for kind in ProblemType}
SECRET = bytes(range(32))
WEIRD_TEXTS = (
    "",
    " ",
    "\x00",
    "a" * 300,
    "a" * 9000,
    "\u00e4.example.com",
    "\ud800",
    "\U0001f600",
    "*.",
    "..",
    "../../etc/passwd",
    "' OR 1=1 --",
    "%s%n{0}",
    "192.0.2.1",
    "xn--a.example.com",
    "9999-12-31T23:59:59Z",
    "0001-01-01T00:00:00+23:59",
    "AAAA",
    "=",
    "MAo=",
    "deactivated",
    "http://[",
    "mailto:a@example.com",
)
WEIRD_NUMBERS = (0, -1, 1, 2, 1 << 31, 1 << 63, 1 << 70, 1.5, -0.0, 1e308, True, False)


@dataclass(slots=True)
class Request:
    """A request that may be changed. payload: None for POST-as-GET. key: signs it, and stands in it without kid."""

    url: str
    payload: JSON
    key: Key
    kid: str | None = None
    header: dict[str, JSON] = field(default_factory=dict)


class Mutator:
    """Changes JSON, headers, forms and URLs, by chance from a seed."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def value(self) -> JSON:
        """Return something that is probably not expected."""
        rng = self._rng
        kind = rng.randrange(8)
        if kind == 0:
            return [self.value() for _ in range(rng.randrange(3))]
        if kind == 1:
            return {rng.choice(WEIRD_TEXTS): self.value()}
        return rng.choice((None, [], {}, rng.choice(WEIRD_NUMBERS)) if kind < 5 else WEIRD_TEXTS)

    def change(self, value: JSON) -> JSON:
        """Return JSON that was changed somewhere."""
        rng = self._rng
        if rng.random() < 0.15:
            return self.value()
        if isinstance(value, dict) and value:
            return self._change_object(value)
        if isinstance(value, list) and value:
            changed = list(value)
            place = rng.randrange(len(changed))
            match rng.randrange(4):
                case 0:
                    del changed[place]
                case 1:
                    changed.insert(place, changed[place])
                case 2:
                    changed.extend(changed * rng.choice((1, 150)))
                case _:
                    changed[place] = self.change(changed[place])
            return changed
        if isinstance(value, str) and value and rng.random() < 0.7:
            return self._change_text(value)
        return self.value()

    def _change_object(self, value: dict[str, JSON]) -> dict[str, JSON]:
        """Drop, add, rename or change a member."""
        rng = self._rng
        changed, name = dict(value), rng.choice(list(value))
        match rng.randrange(6):
            case 0:
                del changed[name]
            case 1:
                changed[rng.choice(WEIRD_TEXTS)] = self.value()
            case 2:
                changed[name.upper()] = changed.pop(name)
            case _:
                changed[name] = self.change(changed[name])
        return changed

    def _change_text(self, text: str) -> str:
        """Change a text a little, or to the extreme."""
        rng = self._rng
        if not text:
            return rng.choice(WEIRD_TEXTS)
        place = rng.randrange(len(text))
        strange = chr(rng.choice((0, 32, 34, 61, 92, 127, 0xE4, 0xDC00, 0x1F600)))
        flipped = chr(ord(text[place]) ^ (1 << rng.randrange(7)))
        return rng.choice(
            (
                text[:place],
                text[:place] + strange + text[place:],
                text[:place] + flipped + text[place + 1 :],
                text * rng.choice((2, 50)),
                text.swapcase(),
                text[place:] + text[:place],
            )
        )

    def deep(self) -> bytes:
        """Return JSON that is nested, with a name twice, or not UTF-8."""
        rng = self._rng
        depth = rng.choice((10, 200, 900, 990, 3000))
        return rng.choice(
            (
                b"[" * depth + b"]" * depth,
                b'{"a":' * depth + b"1" + b"}" * depth,
                b'{"identifiers":[],"identifiers":[]}',
                '{"identifiers":"ä"}'.encode("utf-16"),
                b'{"csr":"\xff\xfe"}',
                b'{"reason":1e999}',
                b'{"reason":NaN}',
                b'{"reason":' + b"9" * 5000 + b"}",
                b'\xef\xbb\xbf{"status":"deactivated"}',
                b'{"status":"deactivated"}\x00',
            )
        )


class Fuzzer:
    """Sends changed requests and judges the answers."""

    def __init__(self, server: ServerUnderTest, seed: int) -> None:
        self._server = server
        self._rng = random.Random(seed)
        self._mutator = Mutator(self._rng)
        self._external = 0
        # How often each kind of answer came: status and problem.
        self.seen: dict[tuple[int, str], int] = {}

    async def requests(self) -> list[Request]:
        """Return requests that a client would make, for every endpoint, in states that differ."""
        server = self._server
        client = await server.account(contact=["mailto:a@example.com"])
        certificate_key = ec.generate_private_key(ec.SECP256R1())
        obtained = await client.obtain("done.example.com", key=certificate_key)
        pending = await client.order("pending.example.com", "*.pending.example.com", "192.0.2.1")
        (ready_url,) = [(await self._ready(client)).location]
        authorization = pending.json["authorizations"][0]
        challenge = (await client.post(authorization)).json["challenges"][0]["url"]
        left, right = id_of(obtained.der).split(".")
        new = Key.make()
        inner = {"alg": "ES256", "jwk": new.jwk, "url": f"{URL}/key-change"}
        change = jws(inner, {"account": client.kid, "oldKey": client.key.jwk}, new.sign)
        self._external += 1
        kid = f"external-{self._external}"
        await server.store.add_external(ExternalAccount(kid=kid, secret=SECRET, created=server.clock.now()))
        fresh = Key.make()
        binding = jws({"alg": "HS256", "kid": kid, "url": f"{URL}/new-account"}, fresh.jwk, mac(SECRET))
        agreed = {"contact": ["mailto:a@example.com"], "termsOfServiceAgreed": True}
        names = [identifier("a.example.com"), identifier("192.0.2.1")]
        times = {
            "notBefore": server.clock.now().isoformat(),
            "notAfter": (server.clock.now() + timedelta(days=2)).isoformat(),
        }
        order = {"identifiers": names, "profile": "default", **times}

        def own(url: str, payload: JSON = None) -> Request:
            return Request(url if url.startswith("https:") else f"{URL}/{url}", payload, client.key, client.kid)

        return [
            Request(f"{URL}/new-account", {"onlyReturnExisting": False, **agreed}, fresh),
            Request(f"{URL}/new-account", {"externalAccountBinding": binding}, fresh),
            own(str(client.kid)),
            own(str(client.kid), {"contact": ["mailto:b@example.com"]}),
            own(f"{client.kid}/orders"),
            own("key-change", change),
            own("new-order", order),
            own("new-order", {"identifiers": [identifier("done.example.com")], "replaces": f"{left}.{right}"}),
            own(pending.location),
            own(ready_url),
            own(f"{ready_url}/finalize", {"csr": b64(csr_for(["ready.example.com"]))}),
            own(f"{pending.location}/finalize", {"csr": b64(csr_for(["pending.example.com"]))}),
            own(authorization),
            own(authorization, {"status": "deactivated"}),
            own(challenge),
            own(challenge, {}),
            own(obtained.final.json["certificate"]),
            own(f"{obtained.final.json['certificate']}/landmark"),
            own("revoke-cert", {"certificate": b64(obtained.der), "reason": 4}),
            Request(f"{URL}/revoke-cert", {"certificate": b64(obtained.der)}, Key(certificate_key, "ES256")),
            own("directory"),
            own("new-nonce"),
            own(f"renewal-info/{left}.{right}"),
        ]

    async def _ready(self, client: Client) -> Answer:
        """Return an order that is ready."""
        order = await client.order("ready.example.com")
        await client.authorize(order)
        return order

    async def signed(self, request: Request) -> tuple[str, Answer]:
        """Send a request that was changed before it was signed; what comes back is looked at by `judge`."""
        rng, mutator = self._rng, self._mutator
        url, payload = request.url, request.payload
        who: dict[str, JSON] = {"jwk": request.key.jwk} if request.kid is None else {"kid": request.kid}
        header = {"alg": request.key.algorithm, "nonce": await self._server.nonce(), "url": url, **who}
        kind = rng.randrange(10)
        if kind < 6:
            payload = mutator.change({} if payload is None else payload)
        elif kind == 6:
            payload = mutator.deep()
        elif kind == 7:
            header = mutator._change_object(header)
        elif kind == 8:
            url = url + rng.choice(("?", "?after=%00", "/", "/x", "%2f", "?after=\u00e4", "//", ";a", "%ff"))
            header["url"] = url
        else:
            payload = mutator.value()
        # Half a surrogate pair can only be written with an escape, as `json.dumps` does.
        body = json.dumps(jws(header, payload, request.key.sign)).encode()
        return f"{url} {header} {payload!r}"[:2000], await self._send(url, body)

    async def unsigned(self, request: Request) -> tuple[str, Answer]:
        """Send a request whose signature is not right any more, or that is no request at all."""
        rng, mutator = self._rng, self._mutator
        who: dict[str, JSON] = {"jwk": request.key.jwk} if request.kid is None else {"kid": request.kid}
        header = {"alg": request.key.algorithm, "nonce": await self._server.nonce(), "url": request.url, **who}
        whole: dict[str, JSON] = dict(jws(header, request.payload, request.key.sign))
        match rng.randrange(7):
            case 0:
                whole = dict(jws(header, request.payload, Key.make().sign))
            case 1:
                other = {} if request.payload is None else request.payload
                whole["payload"] = b64(json.dumps(mutator.change(other)) + " ")
            case 2:
                name = rng.choice(list(whole))
                # What is only written in another way would be the same signature.
                whole[name] = f"{self._other_text(whole[name])}A!"
            case 3:
                whole = mutator._change_object(whole) | {"signature": b64(bytes(64))}
            case 4:
                whole["signature"] = rng.choice(("", "AA", b64(bytes(64)), whole["protected"]))
            case 5:
                header["jwk"] = Key.make().jwk
                header.pop("kid", None)
                whole = dict(jws(header, request.payload, request.key.sign))
            case _:
                header["alg"] = rng.choice(("none", "HS256", "ES512", ""))
                whole = dict(jws(header, request.payload, mac(json.dumps(request.key.jwk).encode())))
        body = json.dumps(whole).encode()
        if rng.random() < 0.1:
            body = rng.choice((b"", mutator.deep(), body[: rng.randrange(len(body))], body[:-1] + b"x"))
        return f"{request.url} {body!r}"[:2000], await self._send(request.url, body)

    def _other_text(self, text: str) -> str:
        """Return another text."""
        return self._mutator._change_text(text)

    async def plain(self, request: Request) -> tuple[str, Answer]:
        """Send a request without a body, or of another media type, with any method."""
        rng = self._rng
        method = rng.choice(("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW"))
        media_type = rng.choice(("", "application/json", JSON_TYPE, "\u00e4".encode().decode("latin-1")))
        url = request.url + rng.choice(("", "", "x", "%00", "?a=b", "/../../x"))
        headers = {"content-type": media_type, "accept": rng.choice(("*/*", ";;;", "a/b;q=x", "")), "host": "[x"}
        return f"{method} {url} {headers}", await self._server.ask(method, url, b"{}", headers)

    async def _send(self, url: str, body: bytes) -> Answer:
        """Send a body."""
        return await self._server.ask("POST", url.encode().decode("latin-1"), body, {"content-type": JSON_TYPE})

    def judge(self, what: str, answer: Answer) -> None:
        """Fail for an answer that no request may get."""
        kind = ""
        assert answer.status < 500 or answer.status == 503, (what, answer)
        if answer.status >= 400 and answer.body:
            assert answer.header("content-type") == "application/problem+json", (what, answer)
            document = answer.json
            assert document["type"] in TYPES, (what, answer)
            assert document["status"] == answer.status, (what, answer)
            assert "identifier" not in document, (what, answer)
            assert "Traceback" not in document["detail"], (what, answer)
            kind = document["type"].removeprefix(ERROR_NAMESPACE)
        if answer.status == 503:
            assert answer.header("retry-after"), (what, answer)
        self.seen[answer.status, kind] = self.seen.get((answer.status, kind), 0) + 1


def dump(server: ServerUnderTest) -> list[str]:
    """Return all that the database holds, as statements, but for what rate limits remember."""
    connection = sqlite3.connect(server.ca.parts.folder.path / "acme" / "acme.sqlite")
    try:
        return [line for line in connection.iterdump() if "rate" not in line.split("(")[0].lower()]
    finally:
        connection.close()


async def fuzz(server: ServerUnderTest, seed: int, seconds: float, least: int) -> Fuzzer:
    """Send changed requests for some seconds, and as many as asked for at least."""
    fuzzer = Fuzzer(server, seed)
    until, count = time.monotonic() + seconds, 0
    while count < least or time.monotonic() < until:
        requests = await fuzzer.requests()
        for _ in range(3):
            for request in requests:
                fuzzer.judge(*await fuzzer.signed(request))
        # What these requests began is over before anything is compared.
        while tasks := [*server.server.issuing._running.values(), *server.server.challenges._tasks]:
            await asyncio.wait(tasks)
            await asyncio.sleep(0)
        before, size = dump(server), server.ca.log.record.tree_size
        for _ in range(3):
            for request in requests:
                what, answer = await fuzzer.unsigned(request)
                fuzzer.judge(what, answer)
                assert answer.status >= 400, (what, answer)
                fuzzer.judge(*await fuzzer.plain(request))
        assert dump(server) == before, "a request that nobody signed changed something"
        assert server.ca.log.record.tree_size == size
        count += 9 * len(requests)
    return fuzzer


def check_logs(events: list[MutableMapping[str, Any]]) -> None:
    """Fail when something failed that nobody should hear of."""
    bad = [event for event in events if event["log_level"] in ("error", "critical") or "exc_info" in event]
    assert not bad, bad[:3]


def run_fuzz(seed: int, seconds: float, least: int) -> Fuzzer:
    """Fuzz a server of its own."""
    found: list[Fuzzer] = []

    async def work(server: ServerUnderTest) -> None:
        found.append(await fuzz(server, seed, seconds, least))

    with structlog.testing.capture_logs() as events:
        run_with(work, default_config(), timeout_s=seconds + 120)
    check_logs(events)
    return found[0]


def test_changed_requests() -> None:
    """Requests with a change, signed anew or not, get a problem that has a known type, and change nothing unsigned.

    No answer is a failure of ours, no failure is in the log, and the changes reach many different checks.
    """
    fuzzer = run_fuzz(SEED, 0.0, 3000)
    problems = {kind for _, kind in fuzzer.seen}
    assert problems >= {
        "malformed",
        "unauthorized",
        "badCSR",
        "badNonce",
        "badPublicKey",
        "badSignatureAlgorithm",
        "badRevocationReason",
        "rejectedIdentifier",
        "accountDoesNotExist",
    }
    assert any(status == 200 for status, _ in fuzzer.seen)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_changed_requests_for_long(seed: int) -> None:
    """The same for minutes, with other seeds."""
    run_fuzz(SEED + 1 + seed, 60.0, 1200)
