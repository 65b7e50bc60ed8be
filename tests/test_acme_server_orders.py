"""Orders, authorizations and challenges of the ACME server: what is asked for, shown, reused, given up."""

import asyncio
from collections.abc import Iterator
from datetime import datetime, timedelta

import pytest
from tests.acme_server import (
    URL,
    Answer,
    ServerUnderTest,
    Shared,
    csr_for,
    default_config,
    identifier,
    run_with,
    shared_server,
)

from mtc.acme.config import ValidationChoices
from mtc.acme.machine.problems import ProblemType
from mtc.acme.machine.validation import Method
from mtc.acme.server import challenges

DAY_S, HOUR_S = 86400, 3600


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    """Run one server for all tests of this file that need no other."""
    with shared_server() as server:
        yield server


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have answers to challenges wait for a moment only, because tests hold validations back."""
    monkeypatch.setattr(challenges, "_PATIENCE_S", 0.05)


def kinds_of(answer: Answer) -> list[tuple[str, str]]:
    """Return type and identifier of each subproblem."""
    return [
        (item["type"].rpartition(":")[2], item.get("identifier", {}).get("value", ""))
        for item in answer.json["subproblems"]
    ]


def test_order_object(shared: Shared) -> None:
    """A new order is 201 at its URL, with what was asked for, in its order and once, and an authorization for each."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        names = ["B.example.com", "a.example.com", "192.0.2.7", "2001:DB8::0:1", "b.example.com"]
        answer = await client.order(*names)
        document = answer.json
        assert document["identifiers"] == [
            {"type": "dns", "value": "b.example.com"},
            {"type": "dns", "value": "a.example.com"},
            {"type": "ip", "value": "192.0.2.7"},
            {"type": "ip", "value": "2001:db8::1"},
        ]
        assert document["status"] == "pending"
        assert document["profile"] == "default"
        assert len(set(document["authorizations"])) == 4
        assert document["finalize"].startswith(URL)
        assert datetime.fromisoformat(document["expires"]) > server.clock.now()
        assert "certificate" not in document
        assert "error" not in document
        again = await client.post(answer.location)
        assert (again.status, again.json) == (200, document)

    shared.run(work)


@pytest.mark.parametrize(
    ("name", "methods"),
    [
        ("dns.example.com", {"http-01", "dns-01", "tls-alpn-01"}),
        ("*.wild.example.com", {"dns-01"}),
        ("192.0.2.8", {"http-01", "tls-alpn-01"}),
        ("2001:db8::8", {"http-01", "tls-alpn-01"}),
    ],
)
def test_authorization_object(shared: Shared, name: str, methods: set[str]) -> None:
    """Each kind of identifier has its challenges; a wildcard is shown without its star, and only it has the flag."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        order = await client.order(name)
        url = order.json["authorizations"][0]
        document = (await client.post(url)).json
        assert document["status"] == "pending"
        assert document["identifier"]["value"] == name.removeprefix("*.")
        assert document.get("wildcard") is (True if name.startswith("*.") else None)
        assert document["expires"]
        offered = document["challenges"]
        assert {item["type"] for item in offered} == methods
        tokens = {item["token"] for item in offered}
        assert len(tokens) == len(methods)
        # 128 bits at least, base64url without padding.
        assert all(len(token) >= 22 and token.replace("-", "").replace("_", "").isalnum() for token in tokens)
        for item in offered:
            assert item["status"] == "pending"
            answer = await client.post(item["url"])
            assert answer.json == item
            assert answer.links["up"] == url
        assert (await client.post(f"{url.replace('authorization', 'challenge')}/other-01")).status == 404

    shared.run(work)


@pytest.mark.parametrize("method", ["http-01", "dns-01", "tls-alpn-01"])
def test_life_of_an_order(shared: Shared, method: str) -> None:
    """Challenge, authorization and order go from pending to valid, and the perspectives got the right task."""
    name = f"{method}.example.com"

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        order = await client.order(name)
        (url,) = order.json["authorizations"]
        challenge = next(item for item in (await client.post(url)).json["challenges"] if item["type"] == method)
        held = server.validator.hold(name)
        answer = await client.post(challenge["url"], {"ignored": 1})
        assert (answer.status, answer.json["status"]) == (200, "processing")
        assert answer.header("retry-after")
        pending = await client.post(url)
        assert (pending.status, pending.json["status"]) == (200, "pending")
        assert pending.header("retry-after")
        # Asking again starts nothing new.
        assert (await client.post(challenge["url"], {})).json["status"] == "processing"
        held.set()
        valid = await client.settled(url)
        assert valid.json["status"] == "valid"
        (shown,) = valid.json["challenges"]
        assert (shown["status"], shown["type"]) == ("valid", method)
        assert datetime.fromisoformat(shown["validated"]) == server.clock.now()
        assert server.validator.count(name) == 1
        task = next(task for task in server.validator.tasks if task.identifier.value == name)
        assert str(task.method) == method
        assert task.account_url == client.kid
        assert task.key_authorization == f"{challenge['token']}.{client.key.thumbprint}"
        assert task.caa_domains == ("ca.example.test",)
        ready = await client.post(order.location)
        assert ready.json["status"] == "ready"
        final = await client.finalize(order, csr_for([name]))
        assert (final.status, final.location) == (200, order.location)
        final = await client.settled(order.location)
        assert final.json["status"] == "valid"
        assert final.json["certificate"]
        assert final.json["identifiers"] == order.json["identifiers"]
        assert final.json["authorizations"] == order.json["authorizations"]

    shared.run(work)


def test_failed_validation(shared: Shared) -> None:
    """A challenge that fails says why; its authorization and order are invalid, and it is not tried again."""

    async def work(server: ServerUnderTest) -> None:
        server.validator.refuse("failed.example.com", ProblemType.CONNECTION)
        client = await server.account()
        order = await client.order("failed.example.com", "fine.example.com")
        await client.authorize(order)
        invalid = await client.settled(order.json["authorizations"][0])
        assert invalid.json["status"] == "invalid"
        (challenge,) = invalid.json["challenges"]
        assert challenge["status"] == "invalid"
        assert challenge["error"]["type"] == "urn:ietf:params:acme:error:connection"
        answer = await client.post(order.location)
        assert answer.json["status"] == "invalid"
        error = answer.json["error"]
        assert error["type"] == "urn:ietf:params:acme:error:connection"
        assert "identifier" not in error
        assert error["subproblems"][0]["identifier"] == identifier("failed.example.com")
        assert (await client.post(challenge["url"], {})).json["status"] == "invalid"
        assert server.validator.count("failed.example.com") == 1
        refused = await client.finalize(order, csr_for(["failed.example.com", "fine.example.com"]))
        assert (refused.status, refused.problem) == (403, "orderNotReady")

    shared.run(work)


def test_several_failures_are_told_apart(shared: Shared) -> None:
    """The error of an order names each identifier that failed, with its type."""

    async def work(server: ServerUnderTest) -> None:
        server.validator.refuse("one.example.org", ProblemType.DNS)
        server.validator.refuse("two.example.org", ProblemType.CAA)
        client = await server.account()
        order = await client.order("one.example.org", "two.example.org", "three.example.org")
        await client.authorize(order)
        for url in order.json["authorizations"]:
            await client.settled(url)
        error = (await client.post(order.location)).json["error"]
        found = {(item["type"].rpartition(":")[2], item["identifier"]["value"]) for item in error["subproblems"]}
        assert found == {("dns", "one.example.org"), ("caa", "two.example.org")}

    shared.run(work)


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        ({}, "malformed"),
        ({"identifiers": []}, "malformed"),
        ({"identifiers": "a.example.com"}, "malformed"),
        ({"identifiers": ["a.example.com"]}, "malformed"),
        ({"identifiers": [{}]}, "rejectedIdentifier"),
        ({"identifiers": [{"type": "dns", "value": 7}]}, "rejectedIdentifier"),
        ({"identifiers": [{"type": "email", "value": "a@example.com"}]}, "unsupportedIdentifier"),
        ({"identifiers": [{"type": "DNS", "value": "a.example.com"}]}, "unsupportedIdentifier"),
        ({"identifiers": [{"type": "ip", "value": "a.example.com"}]}, "rejectedIdentifier"),
        ({"identifiers": [{"type": "ip", "value": "192.0.2.1/32"}]}, "rejectedIdentifier"),
        ({"identifiers": [{"type": "ip", "value": "fe80::1%eth0"}]}, "rejectedIdentifier"),
        ({"identifiers": [{"type": "dns", "value": "192.0.2.1"}]}, "rejectedIdentifier"),
        ({"identifiers": [{"type": "dns", "value": "a.*.example.com"}]}, "rejectedIdentifier"),
        ({"identifiers": [{"type": "dns", "value": "*.*.example.com"}]}, "rejectedIdentifier"),
        ({"identifiers": [{"type": "dns", "value": "*a.example.com"}]}, "rejectedIdentifier"),
        ({"identifiers": [{"type": "dns", "value": "*"}]}, "rejectedIdentifier"),
        ({"identifiers": [{"type": "dns", "value": "*.com"}]}, "rejectedIdentifier"),
        ({"identifiers": [{"type": "dns", "value": "a.example.com."}]}, "rejectedIdentifier"),
        ({"identifiers": [{"type": "dns", "value": ""}]}, "rejectedIdentifier"),
        ({"identifiers": [{"type": "dns", "value": "a" * 64 + ".example.com"}]}, "rejectedIdentifier"),
        ({"identifiers": [{"type": "dns", "value": "a." * 130 + "com"}]}, "rejectedIdentifier"),
        ({"identifiers": [{"type": "dns", "value": "ä.example.com"}]}, "rejectedIdentifier"),
        ({"identifiers": [{"type": "dns", "value": "a b.example.com"}]}, "rejectedIdentifier"),
        ({"identifiers": [{"type": "dns", "value": "a\u0000.example.com"}]}, "rejectedIdentifier"),
        ({"identifiers": [{"type": "dns", "value": "a.example.com\n"}]}, "rejectedIdentifier"),
        ({"identifiers": [identifier(f"n{number}.example.com") for number in range(101)]}, "rejectedIdentifier"),
    ],
    ids=lambda item: item if isinstance(item, str) else "",
)
def test_wrong_identifiers(shared: Shared, payload: dict[str, object], problem: str) -> None:
    """Identifiers that no certificate can have are refused, with the type that says why."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        assert (await client.post("new-order", payload)).problem == problem

    shared.run(work)


def test_each_refused_identifier_is_named(shared: Shared) -> None:
    """One answer names all identifiers that are refused; a single one stands in a subproblem too, never at the top."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        for name in ("blocked.example.net", "blocked.example.org"):
            await server.store.block("name", name, "phishing", server.clock.now())
        names = [{"type": "email", "value": "a@b"}, identifier("bad..name"), identifier("good.example.com")]
        answer = await client.post("new-order", {"identifiers": names})
        assert (answer.status, answer.problem) == (403, "rejectedIdentifier")
        assert [kind for kind, _ in kinds_of(answer)] == ["unsupportedIdentifier", "rejectedIdentifier"]
        below = [identifier("x.blocked.example.net"), identifier("good.example.com")]
        answer = await client.post("new-order", {"identifiers": below})
        assert (answer.status, answer.problem) == (403, "rejectedIdentifier")
        assert "identifier" not in answer.json
        assert "blocked.example.net" in answer.json["detail"]

    shared.run(work)


def test_names_outside_what_an_account_may_have() -> None:
    """Where names are limited, each one outside is named with its identifier."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        assert (await client.order("example.com", "a.b.example.com", "*.example.com")).status == 201
        names = [identifier(name) for name in ("example.org", "notexample.com", "a.example.com", "192.0.2.1")]
        answer = await client.post("new-order", {"identifiers": names})
        refused = ["example.org", "notexample.com", "192.0.2.1"]
        assert kinds_of(answer) == [("rejectedIdentifier", name) for name in refused]
        answer = await client.post("new-order", {"identifiers": names[2:]})
        assert kinds_of(answer) == [("rejectedIdentifier", "192.0.2.1")]
        assert "identifier" not in answer.json

    run_with(work, default_config(allowed_names=("example.com",)))


def test_methods_that_are_switched_off() -> None:
    """Only methods that are configured are offered; an identifier without one is refused."""
    config = default_config(validation=ValidationChoices(methods=(Method.HTTP_01,)))

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        order = await client.order("a.example.com")
        document = (await client.post(order.json["authorizations"][0])).json
        assert [item["type"] for item in document["challenges"]] == ["http-01"]
        answer = await client.post("new-order", {"identifiers": [identifier("*.a.example.com")]})
        assert answer.problem == "rejectedIdentifier"

    run_with(work, config)


# Reuse and ends.


def test_valid_authorizations_are_reused() -> None:
    """A valid authorization serves the account's next order at once; another account, and a wildcard, need their own.

    It is not reused beyond its bound, nor when it was deactivated.
    """
    config = default_config(validation=ValidationChoices(reuse=timedelta(days=2)))

    async def work(server: ServerUnderTest) -> None:
        client, other = await server.account(), await server.account()
        await client.obtain("reused.example.com")
        again = await client.order("reused.example.com")
        assert again.json["status"] == "ready"
        assert (await other.order("reused.example.com")).json["status"] == "pending"
        assert (await client.order("*.reused.example.com")).json["status"] == "pending"
        mixed = await client.order("reused.example.com", "new.example.com")
        assert mixed.json["status"] == "pending"
        assert mixed.json["authorizations"][0] == again.json["authorizations"][0]
        url = again.json["authorizations"][0]
        expires = datetime.fromisoformat((await client.post(url)).json["expires"])
        assert expires == server.clock.now() + timedelta(days=2)
        server.clock.advance(2 * DAY_S - HOUR_S)
        assert (await client.order("reused.example.com")).json["status"] == "pending"
        # What was ready is not, when its validation is too old.
        server.clock.advance(HOUR_S)
        assert (await client.post(url)).json["status"] == "expired"
        assert (await client.post(again.location)).json["status"] == "invalid"
        answer = await client.finalize(again, csr_for(["reused.example.com"]))
        assert answer.problem == "orderNotReady"
        assert server.validator.count("reused.example.com") == 1

    run_with(work, config)


def test_authorization_is_given_up(shared: Shared) -> None:
    """A deactivated authorization is not reused, its orders are invalid, and it cannot be validated any more."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        order = await client.order("given-up.example.com")
        await client.authorize(order)
        (url,) = order.json["authorizations"]
        await client.settled(url)
        assert (await client.post(order.location)).json["status"] == "ready"
        for payload in ({}, {"status": "valid"}, {"status": ["deactivated"]}):
            assert (await client.post(url, payload)).problem == "malformed"
        answer = await client.post(url, {"status": "deactivated"})
        assert (answer.status, answer.json["status"]) == (200, "deactivated")
        assert (await client.post(order.location)).json["status"] == "invalid"
        assert (await client.finalize(order, csr_for(["given-up.example.com"]))).problem == "orderNotReady"
        assert (await client.order("given-up.example.com")).json["status"] == "pending"
        # A pending one as well.
        pending = await client.order("pending.given-up.example.com")
        (url,) = pending.json["authorizations"]
        challenge = (await client.post(url)).json["challenges"][0]["url"]
        await client.post(url, {"status": "deactivated"})
        assert (await client.post(challenge, {})).json["status"] == "pending"
        assert server.validator.count("pending.given-up.example.com") == 0
        assert (await client.post(url, {"status": "deactivated"})).json["status"] == "deactivated"

    shared.run(work)


def test_orders_end() -> None:
    """An order that nobody finalized is invalid after its end, and its authorizations expire."""
    config = default_config(order_lifetime=timedelta(days=1))

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        order = await client.order("ends.example.com")
        (url,) = order.json["authorizations"]
        challenge = (await client.post(url)).json["challenges"][0]["url"]
        server.clock.advance(DAY_S)
        assert (await client.post(order.location)).json["status"] == "invalid"
        assert (await client.post(url)).json["status"] in ("expired", "invalid")
        await client.post(challenge, {})
        assert server.validator.count("ends.example.com") == 0
        assert (await client.finalize(order, csr_for(["ends.example.com"]))).problem == "orderNotReady"

    run_with(work, config)


def test_validation_that_ends_too_late() -> None:
    """A validation that ends after its authorization has ended brings neither it nor its order back to life."""
    config = default_config(order_lifetime=timedelta(days=1))

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        order = await client.order("late.example.com")
        (url,) = order.json["authorizations"]
        held = server.validator.hold("late.example.com")
        await client.post((await client.post(url)).json["challenges"][0]["url"], {})
        server.clock.advance(DAY_S)
        tasks = set(server.server.challenges._tasks)
        held.set()
        await asyncio.wait(tasks)
        assert (await client.post(url)).json["status"] == "expired"
        assert (await client.post(order.location)).json["status"] == "invalid"
        assert (await client.order("late.example.com")).json["status"] == "pending"

    run_with(work, config)


def test_others_orders_and_authorizations(shared: Shared) -> None:
    """Orders, authorizations, challenges and certificates of another account are not found, whatever is asked."""

    async def work(server: ServerUnderTest) -> None:
        alice, mallory = await server.account(), await server.account()
        obtained = await alice.obtain("alice.example.com")
        order = await alice.order("second.alice.example.com")
        (url,) = order.json["authorizations"]
        challenge = (await alice.post(url)).json["challenges"][0]["url"]
        requests: list[tuple[str, object]] = [
            (order.location, None),
            (url, None),
            (url, {"status": "deactivated"}),
            (challenge, None),
            (challenge, {}),
            (order.json["finalize"], {"csr": ""}),
            (obtained.final.json["certificate"], None),
            (f"{obtained.final.json['certificate']}/landmark", None),
        ]
        for target, payload in requests:
            answer = await mallory.post(target, payload)
            assert (answer.status, answer.problem) == (404, "malformed")
            nothing = await mallory.post(target.replace(target.split("/")[5], "f" * 29), payload)
            assert (nothing.status, nothing.json["detail"]) == (404, answer.json["detail"])
        assert (await alice.post(url)).json["status"] == "pending"

    shared.run(work)


def test_reading_wants_an_empty_payload(shared: Shared) -> None:
    """Resources that cannot be changed refuse a payload, `{}` too; finalize refuses to be read."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        obtained = await client.obtain("reading.example.com")
        for url in (obtained.order, obtained.final.json["certificate"], f"{client.kid}/orders"):
            assert (await client.post(url, {})).problem == "malformed"
        assert (await client.post(obtained.final.json["finalize"])).problem == "malformed"

    shared.run(work)
