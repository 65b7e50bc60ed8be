"""Accounts of the ACME server: made, found, changed, bound, given another key, deactivated."""

import asyncio
import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from tests.acme_server import (
    URL,
    Answer,
    Client,
    Key,
    ServerUnderTest,
    Shared,
    csr_for,
    default_config,
    jws,
    mac,
    run_with,
    shared_server,
)

from mtc.acme.machine.jws import PublicKey
from mtc.acme.server import accounts
from mtc.acme.server.accounts import key_hash
from mtc.acme.store import ExternalAccount, RateLimit

SECRET = bytes(range(32))
TERMS = "https://ca.example.test/terms"


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    """Run one server for all tests of this file that need no other."""
    with shared_server() as server:
        yield server


def test_account_object(shared: Shared) -> None:
    """A new account is 201 with its URL; it reflects what was understood, and no field that was not."""

    async def work(server: ServerUnderTest) -> None:
        client = Client(server, Key.make())
        contact = ["mailto:a@example.com", "mailto:b.c+d@sub.example.com"]
        more = {"contact": contact, "orders": "https://elsewhere.example", "onlyReturnExisting": False, "odd": 1}
        answer = await client.post("new-account", {"termsOfServiceAgreed": True, **more})
        assert answer.status == 201
        document = answer.json
        assert document == {
            "status": "valid",
            "contact": contact,
            "termsOfServiceAgreed": True,
            "orders": f"{answer.location}/orders",
            "key": client.key.jwk,
        }
        client.kid = answer.location
        assert (await client.post(answer.location)).json == document

    shared.run(work)


def test_account_is_found_by_its_key(shared: Shared) -> None:
    """The same key again is 200 with the account as it was, whatever the request says; without one nothing is made."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account(contact=["mailto:first@example.com"])
        for payload in ({}, {"contact": ["mailto:second@example.com"]}, {"onlyReturnExisting": True}):
            answer = await Client(server, client.key).post("new-account", payload)
            assert (answer.status, answer.location) == (200, client.kid)
            assert answer.json["contact"] == ["mailto:first@example.com"]
        stranger = Client(server, Key.make())
        answer = await stranger.post("new-account", {"onlyReturnExisting": True})
        assert (answer.status, answer.problem) == (400, "accountDoesNotExist")
        assert (await stranger.post("new-account", {})).status == 201

    shared.run(work)


def test_one_key_has_one_account(shared: Shared) -> None:
    """Many requests with one key at the same time make one account."""

    async def work(server: ServerUnderTest) -> None:
        key = Key.make()
        clients = [Client(server, key) for _ in range(12)]
        server.gate.hold(12)
        answers = await asyncio.gather(*(client.post("new-account", {}) for client in clients))
        assert sorted(answer.status for answer in answers) == [200] * 11 + [201]
        assert len({answer.location for answer in answers}) == 1

    shared.run(work)


@pytest.mark.parametrize(
    ("contact", "problem"),
    [
        (["mailto:a@example.com?subject=x"], "invalidContact"),
        (["mailto:a@example.com,b@example.com"], "invalidContact"),
        (["mailto:a"], "invalidContact"),
        (["mailto:"], "invalidContact"),
        (["mailto:a@b.example\nBcc: x@y.example"], "invalidContact"),
        (["mailto:" + "a" * 400 + "@example.com"], "invalidContact"),
        (["tel:+12025551212"], "unsupportedContact"),
        (["https://example.com", "tel:1"], "unsupportedContact"),
        (["tel:1", "mailto:x"], "invalidContact"),
        (["mailto:a@example.com"] * 11, "invalidContact"),
        ("mailto:a@example.com", "malformed"),
        ([7], "malformed"),
        ({"a": 1}, "malformed"),
        (None, "malformed"),
    ],
)
def test_contacts_are_checked(shared: Shared, contact: object, problem: str) -> None:
    """A contact of another scheme, with header fields or several addresses is refused, when made and when changed."""

    async def work(server: ServerUnderTest) -> None:
        assert (await Client(server, Key.make()).post("new-account", {"contact": contact})).problem == problem
        client = await server.account(contact=["mailto:kept@example.com"])
        assert (await client.post(str(client.kid), {"contact": contact})).problem == problem
        assert (await client.post(str(client.kid))).json["contact"] == ["mailto:kept@example.com"]

    shared.run(work)


def test_problems_of_several_contacts(shared: Shared) -> None:
    """Each contact that cannot be used has its subproblem."""

    async def work(server: ServerUnderTest) -> None:
        contact = ["tel:1", "mailto:right@example.com", "mailto:wrong"]
        answer = await Client(server, Key.make()).post("new-account", {"contact": contact})
        kinds = [item["type"].rpartition(":")[2] for item in answer.json["subproblems"]]
        assert kinds == ["unsupportedContact", "invalidContact"]

    shared.run(work)


def test_account_is_changed(shared: Shared) -> None:
    """Contacts change and vanish; orders, unknown members, and any status but deactivated are ignored."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account(contact=["mailto:a@example.com"])
        url = str(client.kid)
        assert (await client.post(url, {"contact": ["mailto:b@example.com"]})).json["contact"] == [
            "mailto:b@example.com"
        ]
        for status in ("revoked", "valid", "gone", 7, None, ["deactivated"]):
            answer = await client.post(url, {"status": status, "orders": "https://x.example", "key": {}})
            assert (answer.status, answer.json["status"]) == (200, "valid")
            assert answer.json["orders"] == f"{url}/orders"
            assert answer.json["key"] == client.key.jwk
        assert (await client.post(url, {"contact": []})).json["contact"] == []

    shared.run(work)


def test_many_changes_at_once(shared: Shared) -> None:
    """Changes of one account at the same time are made one after the other, or the client is told to come again."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        twins = [Client(server, client.key, client.kid) for _ in range(30)]
        server.gate.hold(30)
        answers = await asyncio.gather(
            *(twin.post(str(client.kid), {"contact": [f"mailto:n{n}@example.com"]}) for n, twin in enumerate(twins))
        )
        assert {answer.status for answer in answers} <= {200, 503}
        for answer in answers:
            if answer.status == 503:
                assert (answer.problem, answer.header("retry-after")) == ("rateLimited", "1")
        assert any(answer.status == 200 for answer in answers)

    shared.run(work)


def test_accounts_are_their_owners(shared: Shared) -> None:
    """Another account's URL, orders and changes are refused."""

    async def work(server: ServerUnderTest) -> None:
        alice, mallory = await server.account(), await server.account()
        for url, payload in (
            (str(alice.kid), None),
            (str(alice.kid), {"contact": []}),
            (str(alice.kid), {"status": "deactivated"}),
            (f"{alice.kid}/orders", None),
        ):
            answer = await mallory.post(url, payload)
            assert (answer.status, answer.problem) == (403, "unauthorized")
        assert (await mallory.post(str(alice.kid), {}, kid=alice.kid)).problem == "unauthorized"
        assert (await alice.post(str(alice.kid))).json["status"] == "valid"

    shared.run(work)


def test_deactivation_is_final(shared: Shared) -> None:
    """Nothing that a deactivated account sends is answered but with 401, and its key makes no other account."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        order = await client.order("deactivated.example.com")
        authorization = order.json["authorizations"][0]
        await client.authorize(order)
        answer = await client.post(str(client.kid), {"status": "deactivated"})
        assert (answer.status, answer.json["status"]) == (200, "deactivated")
        requests: list[tuple[str, object]] = [
            (str(client.kid), None),
            (str(client.kid), {"status": "valid"}),
            (order.location, None),
            (authorization, None),
            ("new-order", {"identifiers": [{"type": "dns", "value": "deactivated.example.com"}]}),
            (order.json["finalize"], {"csr": ""}),
            ("revoke-cert", {"certificate": ""}),
            ("key-change", {}),
        ]
        for url, payload in requests:
            answer = await client.post(url, payload)
            assert (answer.status, answer.problem) == (401, "unauthorized")
        answer = await Client(server, client.key).post("new-account", {})
        assert (answer.status, answer.problem) == (401, "unauthorized")

    shared.run(work)


# External account binding.


def binding(key: Key, kid: str, secret: bytes = SECRET, payload: object = None, **header: object) -> dict[str, str]:
    """Return an external account binding. header: changes to its protected header; None takes a member out."""
    members = {"alg": "HS256", "kid": kid, "url": f"{URL}/new-account"} | header
    members = {name: value for name, value in members.items() if value is not None}
    return jws(members, key.jwk if payload is None else payload, mac(secret))


async def add_external(server: ServerUnderTest, kid: str, **more: Any) -> None:  # noqa: ANN401 - of ExternalAccount
    """Keep a key for external accounts."""
    await server.store.add_external(ExternalAccount(kid=kid, secret=SECRET, created=server.clock.now(), **more))


async def bind(server: ServerUnderTest, key: Key, made: object) -> Answer:
    """Ask for an account with a binding."""
    return await Client(server, key).post("new-account", {"externalAccountBinding": made})


def test_external_account_is_bound(shared: Shared) -> None:
    """A right binding is taken once, shown in the answer, and gives the account its names; a second use is refused."""

    async def work(server: ServerUnderTest) -> None:
        await add_external(server, "bound", allowed_names=("ours.example.com",))
        key = Key.make()
        made = binding(key, "bound")
        answer = await bind(server, key, made)
        assert answer.status == 201
        assert answer.json["externalAccountBinding"] == made
        client = Client(server, key, answer.location)
        assert (await client.order("www.ours.example.com")).status == 201
        refused = await client.post("new-order", {"identifiers": [{"type": "dns", "value": "theirs.example.com"}]})
        assert refused.problem == "rejectedIdentifier"
        other = Key.make()
        answer = await bind(server, other, binding(other, "bound"))
        assert (answer.status, answer.problem) == (403, "unauthorized")
        # The owner of the key finds its account, whatever it sends with it.
        assert (await bind(server, key, made)).status == 200

    shared.run(work)


def test_external_account_is_raced_for(shared: Shared) -> None:
    """Of many accounts that are bound to one external account at the same time, one is made."""

    async def work(server: ServerUnderTest) -> None:
        await add_external(server, "raced")
        keys = [Key.make() for _ in range(8)]
        server.gate.hold(8)
        answers = await asyncio.gather(*(bind(server, key, binding(key, "raced")) for key in keys))
        assert sorted(answer.status for answer in answers) == [201] + [403] * 7

    shared.run(work)


@pytest.mark.parametrize(
    ("case", "problem"),
    [
        ("wrong MAC", "unauthorized"),
        ("unknown", "unauthorized"),
        ("revoked", "unauthorized"),
        ("other key", "unauthorized"),
        ("no key", "badPublicKey"),
        ("other url", "malformed"),
        ("no url", "malformed"),
        ("nonce", "malformed"),
        ("jwk", "malformed"),
        ("signature", "badSignatureAlgorithm"),
        ("none", "badSignatureAlgorithm"),
        ("no JWS", "malformed"),
        ("text", "malformed"),
    ],
)
def test_wrong_external_accounts(shared: Shared, case: str, problem: str) -> None:
    """Each fault of a binding is refused, and no account is made."""

    async def work(server: ServerUnderTest) -> None:
        kid = f"wrong-{case}"
        if case != "unknown":
            await add_external(server, kid)
        if case == "revoked":
            await server.store.revoke_external(kid)
        key = Key.make()
        made: dict[str, object] = {
            "wrong MAC": binding(key, kid, bytes(32)),
            "other key": binding(key, kid, payload=Key.make().jwk),
            "no key": binding(key, kid, payload={"kty": "EC"}),
            "other url": binding(key, kid, url=f"{URL}/new-order"),
            "no url": binding(key, kid, url=None),
            "nonce": binding(key, kid, nonce="AAAA"),
            "jwk": binding(key, kid, jwk=key.jwk),
            "signature": jws({"alg": "ES256", "kid": kid, "url": f"{URL}/new-account"}, key.jwk, key.sign),
            "none": jws({"alg": "none", "kid": kid, "url": f"{URL}/new-account"}, key.jwk, lambda _: b""),
            "no JWS": {"kid": kid},
            "text": kid,
        }
        answer = await bind(server, key, made.get(case, binding(key, kid)))
        assert answer.problem == problem
        found = await Client(server, key).post("new-account", {"onlyReturnExisting": True})
        assert found.problem == "accountDoesNotExist"

    shared.run(work)


def test_external_account_may_be_required() -> None:
    """Where it is required the directory says so, and an account without one is externalAccountRequired."""

    async def work(server: ServerUnderTest) -> None:
        assert (await server.ask("GET", "directory")).json["meta"]["externalAccountRequired"] is True
        key = Key.make()
        answer = await Client(server, key).post("new-account", {})
        assert (answer.status, answer.problem) == (403, "externalAccountRequired")
        await add_external(server, "known")
        assert (await bind(server, key, binding(key, "known"))).status == 201

    run_with(work, default_config(external_account="required"))


# Terms of service.


def test_terms_must_be_agreed_to() -> None:
    """Where there are terms the directory has them; without agreement there is no account, and a link says why."""

    async def work(server: ServerUnderTest) -> None:
        assert (await server.ask("GET", "directory")).json["meta"]["termsOfService"] == TERMS
        for agreed in (False, None, "true", 1):
            answer = await Client(server, Key.make()).post("new-account", {"termsOfServiceAgreed": agreed})
            assert (answer.status, answer.problem) == (403, "userActionRequired")
            assert answer.links["terms-of-service"] == TERMS
            assert answer.json["instance"] == TERMS
        assert (await server.account()).kid

    run_with(work, default_config(terms_of_service=TERMS))


def test_terms_that_came_later() -> None:
    """An account from before the terms is told to agree before it orders, and may agree by an update."""

    async def work(server: ServerUnderTest) -> None:
        client = Client(server, Key.make())
        client.kid = (await client.post("new-account", {})).location
        object.__setattr__(server.context, "config", default_config(terms_of_service=TERMS))
        payload = {"identifiers": [{"type": "dns", "value": "terms.example.com"}]}
        answer = await client.post("new-order", payload)
        assert (answer.status, answer.problem) == (403, "userActionRequired")
        assert answer.links["terms-of-service"] == TERMS
        await client.post(str(client.kid), {"termsOfServiceAgreed": True})
        assert (await client.post("new-order", payload)).status == 201

    run_with(work)


# Key change.


async def change_key(client: Client, new: Key, **wrong: Any) -> Answer:  # noqa: ANN401 - different faults
    """Ask for another key. wrong: what is wrong about the inner request, by name."""
    url = f"{URL}/key-change"
    header = {"alg": new.algorithm, "jwk": new.jwk, "url": url} | wrong.get("header", {})
    header = {name: value for name, value in header.items() if value is not None}
    payload = {"account": client.kid, "oldKey": client.key.jwk} | wrong.get("payload", {})
    return await client.post("key-change", jws(header, payload, wrong.get("sign", new.sign)))


def test_key_is_changed(shared: Shared) -> None:
    """After the change the new key signs, the old one does not, and open orders and authorizations are as before."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        order = await client.order("key-change.example.com")
        await client.authorize(order)
        old, new = client.key, Key.make("EdDSA")
        answer = await change_key(client, new)
        assert (answer.status, answer.json["key"]) == (200, new.jwk)
        assert (await client.post(order.location)).problem == "badPublicKey"
        assert (await client.post(order.location, alg="EdDSA")).problem == "unauthorized"
        client.key = new
        assert (await client.post(order.location)).json["status"] == "ready"
        assert (await client.finalize(order, csr_for(["key-change.example.com"]))).status == 200
        # The old key belongs to nobody now.
        found = await Client(server, old).post("new-account", {"onlyReturnExisting": True})
        assert found.problem == "accountDoesNotExist"

    shared.run(work)


def test_key_of_another_account(shared: Shared) -> None:
    """A key that an account has, one's own too, is 409 with that account's URL."""

    async def work(server: ServerUnderTest) -> None:
        client, other = await server.account(), await server.account()
        for owner in (other, client):
            answer = await change_key(client, owner.key)
            assert (answer.status, answer.problem) == (409, "conflict")
            assert answer.location == owner.kid
        assert (await client.post(str(client.kid))).json["key"] == client.key.jwk

    shared.run(work)


def test_key_is_raced_for(shared: Shared) -> None:
    """Of several accounts that want the same new key at the same time, one gets it."""

    async def work(server: ServerUnderTest) -> None:
        clients = [await server.account() for _ in range(6)]
        new = Key.make()
        server.gate.hold(6)
        answers = await asyncio.gather(*(change_key(client, new) for client in clients))
        assert sorted(answer.status for answer in answers) == [200] + [409] * 5

    shared.run(work)


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ({"header": {"url": f"{URL}/new-account"}}, "malformed"),
        ({"header": {"url": None}}, "malformed"),
        ({"header": {"nonce": "AAAA"}}, "malformed"),
        ({"header": {"jwk": None, "kid": f"{URL}/account/1"}}, "malformed"),
        ({"header": {"jwk": None}}, "malformed"),
        ({"header": {"alg": "HS256"}}, "badSignatureAlgorithm"),
        ({"header": {"alg": "none"}}, "badSignatureAlgorithm"),
        ({"header": {"alg": "RS256"}}, "badPublicKey"),
        ({"payload": {"account": f"{URL}/account/1"}}, "malformed"),
        ({"payload": {"account": None}}, "malformed"),
        ({"payload": {"oldKey": Key.make().jwk}}, "malformed"),
        ({"payload": {"oldKey": None}}, "badPublicKey"),
        ({"sign": Key.make().sign}, "unauthorized"),
        ({"sign": lambda _: b""}, "unauthorized"),
    ],
)
def test_wrong_key_changes(shared: Shared, wrong: dict[str, Any], problem: str) -> None:
    """Each fault of the inner request is refused, and the key stays."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        assert (await change_key(client, Key.make(), **wrong)).problem == problem
        assert (await client.post(str(client.kid))).json["key"] == client.key.jwk

    shared.run(work)


def test_blocked_keys_get_no_account(shared: Shared) -> None:
    """A key that an operator has blocked makes no account, and no account changes to it."""

    async def work(server: ServerUnderTest) -> None:
        client, blocked = await server.account(), Key.make()
        spki = PublicKey.parse(blocked.jwk).spki
        await server.store.block("key", key_hash(spki), "stolen", server.clock.now())
        assert (await Client(server, blocked).post("new-account", {})).problem == "badPublicKey"
        assert (await change_key(client, blocked)).problem == "badPublicKey"

    shared.run(work)


# Lists and limits.


def test_orders_are_listed_page_by_page(shared: Shared, monkeypatch: pytest.MonkeyPatch) -> None:
    """The list has every order of the account once, over pages that are linked, and nobody else's."""
    monkeypatch.setattr(accounts, "ORDERS_PER_PAGE", 3)

    async def work(server: ServerUnderTest) -> None:
        client, other = await server.account(), await server.account()
        await other.order("other.example.com")
        made = {(await client.order(f"page{number}.example.com")).location for number in range(8)}
        found: list[str] = []
        url: str | None = f"{client.kid}/orders"
        pages = 0
        while url is not None:
            answer = await client.post(url)
            found += answer.json["orders"]
            url, pages = answer.links.get("next"), pages + 1
        assert (pages, len(found), set(found)) == (3, 8, made)

    shared.run(work)


def test_lists_leave_out_what_is_over() -> None:
    """An order that ended, or whose request was refused by the log, is not listed; those that are done are."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        done = await client.obtain("done.example.com")
        await client.order("ends.example.com")
        server.clock.advance(timedelta(days=8).total_seconds())
        still = await client.order("open.example.com")
        answer = await client.post(f"{client.kid}/orders")
        assert set(answer.json["orders"]) == {done.order, still.location}

    run_with(work)


def test_limits_say_when_to_come_again() -> None:
    """Accounts of an address, orders of an account and of a set of names are limited, with Retry-After."""

    def limit(name: str, burst: int) -> RateLimit:
        return RateLimit(name=name, burst=burst, period_s=3600)

    config = default_config()
    limits = {
        "new_accounts": limit("newAccount", 2),
        "new_orders": limit("newOrder", 4),
        "certificates": limit("certificate", 2),
        "open_orders": 3,
    }
    config = default_config(limits=type(config.limits)(**limits))  # type: ignore[arg-type]

    async def work(server: ServerUnderTest) -> None:
        client, other = await server.account(), await server.account()
        answer = await Client(server, Key.make()).post("new-account", {})
        assert (answer.status, answer.problem) == (429, "rateLimited")
        assert answer.header("retry-after") == "1800"
        # Finding an account costs nothing.
        assert (await Client(server, client.key).post("new-account", {})).status == 200
        payload = {"identifiers": [{"type": "dns", "value": "same.example.com"}]}
        assert (await client.post("new-order", payload)).status == 201
        assert (await other.post("new-order", payload)).status == 201
        assert (await other.post("new-order", payload)).problem == "rateLimited"
        for number in range(2):
            await client.order(f"open{number}.example.com")
        answer = await client.post("new-order", {"identifiers": [{"type": "dns", "value": "more.example.com"}]})
        assert (answer.status, answer.problem) == (429, "rateLimited")
        assert "open orders" in answer.json["detail"]
        server.clock.advance(timedelta(hours=2).total_seconds())
        assert (await other.post("new-order", payload)).status == 201

    run_with(work, config)


def test_proxies_name_the_client() -> None:
    """Behind a proxy that is trusted the address is the one that the proxy saw; anybody else's word is nothing."""
    limits = type(default_config().limits)(new_accounts=RateLimit(name="newAccount", burst=1, period_s=3600))
    seen = []
    for proxies in ((), ("192.0.2.1",)):

        async def work(server: ServerUnderTest) -> None:
            for address in ("198.51.100.1", "10.0.0.1, 198.51.100.2"):
                client = Client(server, Key.make())
                header = await client.header(f"{URL}/new-account")
                body = json.dumps(jws(header, {}, client.key.sign)).encode()
                headers = {"content-type": "application/jose+json", "x-forwarded-for": address}
                seen.append((await server.ask("POST", "new-account", body, headers)).status)

        run_with(work, default_config(limits=limits, proxies=proxies))
    assert seen == [201, 429, 201, 201]
