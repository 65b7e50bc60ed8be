"""Orders, authorizations, challenges and finalize: what is asked for, shown, reused, refused."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from tests.acme_server import (
    URL,
    Answer,
    Client,
    ServerUnderTest,
    Shared,
    csr_for,
    default_config,
    identifier,
    run_with,
    scratch,
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


def rfc3339(moment: datetime) -> str:
    """Return a time as ACME writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


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


# Times and profiles.


def test_times_are_as_requested(shared: Shared) -> None:
    """The times that are granted are reflected, and are those of the certificate, to the second."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        now = server.clock.now()
        for number, (before, after) in enumerate(
            [
                (None, now + timedelta(days=3)),
                (now - timedelta(minutes=1), None),
                (now + timedelta(minutes=30), now + timedelta(days=2, seconds=7)),
                (now, now + timedelta(days=7) - timedelta(minutes=6)),
            ]
        ):
            name = f"times{number}.example.com"
            wanted = {"notBefore": before, "notAfter": after}
            wanted_text = {key: rfc3339(value) for key, value in wanted.items() if value is not None}
            obtained = await client.obtain(name, **wanted_text)
            for key, text in wanted_text.items():
                assert obtained.final.json[key] == text
            certificate = x509.load_der_x509_certificate(obtained.der)
            if before is not None:
                assert certificate.not_valid_before_utc == before
            if after is not None:
                assert certificate.not_valid_after_utc == after

    shared.run(work)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("-1h", None),
        ("+2h", None),
        (None, "-1s"),
        (None, "+0s"),
        ("+10m", "+10m"),
        ("+10m", "+5m"),
        (None, "+90d"),
        (None, "+8000d"),
        (None, "text"),
        ("text", None),
        (None, 7),
        (None, "2026-11-25T00:00:00"),
        (None, "9999-12-31T23:59:59-23:59"),
        ("0001-01-01T00:00:00+23:59", None),
        (None, "2026-W48-1T00:00:00Z"),
        (None, ""),
    ],
)
def test_times_that_no_certificate_has(shared: Shared, before: object, after: object) -> None:
    """Times that cannot be had are refused at once; nothing else is issued in their place."""
    units = {"s": 1, "m": 60, "h": HOUR_S, "d": DAY_S}

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()

        def moment(value: object) -> object:
            if isinstance(value, str) and value[:1] in ("+", "-"):
                seconds = int(value[:-1]) * units[value[-1]]
                return rfc3339(server.clock.now() + timedelta(seconds=seconds))
            return value

        members = {"notBefore": moment(before), "notAfter": moment(after)}
        payload = {"identifiers": [identifier("times.example.com")]} | {
            k: v for k, v in members.items() if v is not None
        }
        answer = await client.post("new-order", payload)
        assert (answer.status, answer.problem) == (400, "malformed")

    shared.run(work)


def test_times_with_fractions_and_zones(shared: Shared) -> None:
    """A time of RFC 3339 with a zone is understood; a fraction of a second, which no certificate has, is refused."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        after = server.clock.now() + timedelta(days=2)
        zoned = after.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S") + "+00:00"
        obtained = await client.obtain("zoned.example.com", notAfter=zoned)
        assert x509.load_der_x509_certificate(obtained.der).not_valid_after_utc == after
        text = rfc3339(after)[:-1]
        payload = {"identifiers": [identifier("fraction.example.com")]}
        assert (await client.post("new-order", payload | {"notAfter": f"{text}.000Z"})).status == 201
        assert (await client.post("new-order", payload | {"notAfter": f"{text}.5Z"})).problem == "malformed"

    shared.run(work)


def test_profiles(shared: Shared) -> None:
    """A profile is reflected and gives its lifetime; without one it is the first; an unknown one is invalidProfile."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        for profile, lifetime in (("default", timedelta(days=7)), ("short", timedelta(hours=1))):
            obtained = await client.obtain(f"{profile}.profile.example.com", profile=profile)
            assert obtained.final.json["profile"] == profile
            certificate = x509.load_der_x509_certificate(obtained.der)
            length = certificate.not_valid_after_utc - certificate.not_valid_before_utc
            assert length == lifetime - timedelta(seconds=1)
        assert (await client.order("none.profile.example.com")).json["profile"] == "default"
        unknown: tuple[object, ...] = ("other", "", 7, [], "Default")
        for name in unknown:
            answer = await client.post("new-order", {"identifiers": [identifier("x.example.com")], "profile": name})
            assert (answer.status, answer.problem) == (400, "invalidProfile")

    shared.run(work)


def test_profile_bounds_the_requested_times(shared: Shared) -> None:
    """A time beyond the profile's lifetime is refused; the profile is not left for it."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        after = rfc3339(server.clock.now() + timedelta(days=3))
        payload = {"identifiers": [identifier("bound.example.com")], "notAfter": after, "profile": "short"}
        assert (await client.post("new-order", payload)).problem == "malformed"

    shared.run(work)


def test_profile_that_is_gone_at_finalize() -> None:
    """An order of a profile that is not served any more is invalidProfile at finalize, and gets no other."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        order = await client.order("gone.example.com", profile="short")
        await client.authorize(order)
        await client.settled(order.json["authorizations"][0])
        profiles = {"default": server.context.config.profiles["default"]}
        object.__setattr__(server.context, "config", replace(server.context.config, profiles=profiles))
        answer = await client.finalize(order, csr_for(["gone.example.com"]))
        assert (answer.status, answer.problem) == (400, "invalidProfile")
        assert server.ca.log.record.tree_size == 0

    run_with(work)


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


# Finalize.


def test_finalize_before_the_order_is_ready(shared: Shared) -> None:
    """An order with a pending authorization is orderNotReady, 403, and stays as it is."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        order = await client.order("early.example.com")
        answer = await client.finalize(order, csr_for(["early.example.com"]))
        assert (answer.status, answer.problem) == (403, "orderNotReady")
        assert (await client.post(order.location)).json["status"] == "pending"

    shared.run(work)


@pytest.mark.parametrize("common_name", [None, "a.names.example.com", "A.NAMES.example.com"])
def test_names_of_a_request(shared: Shared, common_name: str | None) -> None:
    """Names may stand in any order and case, and in the commonName as well; the certificate has those of the order."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        names = ["a.names.example.com", "*.names.example.com", "192.0.2.9", "2001:db8::9"]
        order = await client.order(*names)
        await client.authorize(order)
        for url in order.json["authorizations"]:
            await client.settled(url)
        asked = ["2001:db8::9", "*.NAMES.example.com", "192.0.2.9", "a.names.example.com"]
        final = await client.finalize(order, csr_for(asked, common_name=common_name))
        final = await client.settled(order.location) if final.status == 200 else final
        chain = await client.post(final.json["certificate"])
        leaf = x509.load_pem_x509_certificates(chain.body)[0]
        found = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert set(found.get_values_for_type(x509.DNSName)) == set(names[:2])
        assert {str(item) for item in found.get_values_for_type(x509.IPAddress)} == set(names[2:])

    shared.run(work)


def test_name_in_the_common_name_alone(shared: Shared) -> None:
    """A request whose only name stands in the commonName is taken, as the RFC has it."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        order = await client.order("old.example.com")
        await client.authorize(order)
        await client.settled(order.json["authorizations"][0])
        assert (await client.finalize(order, csr_for([], common_name="old.example.com"))).status == 200

    shared.run(work)


def test_finalizing_again_shows_the_order(shared: Shared) -> None:
    """The same request again gives the same order and no second entry; another key is orderNotReady."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        key = ec.generate_private_key(ec.SECP256R1())
        obtained = await client.obtain("twice.example.com", key=key)
        size = server.ca.log.record.tree_size
        csr = csr_for(["twice.example.com"], key)
        answer = await client.finalize(obtained.final, csr)
        assert (answer.status, answer.json) == (200, obtained.final.json)
        answer = await client.finalize(obtained.final, csr_for(["twice.example.com"]))
        assert (answer.status, answer.problem) == (403, "orderNotReady")
        assert server.ca.log.record.tree_size == size

    shared.run(work)


def test_equal_orders_are_not_made_one(shared: Shared) -> None:
    """Two orders of one key and the same names get an entry each: nothing is deduplicated by its bytes."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        key = ec.generate_private_key(ec.SECP256R1())
        size = server.ca.log.record.tree_size
        first, second = [await client.obtain("equal.example.com", key=key) for _ in range(2)]
        assert server.ca.log.record.tree_size == size + 2
        serials = {x509.load_der_x509_certificate(item.der).serial_number for item in (first, second)}
        assert len(serials) == 2

    shared.run(work)


def test_server_sheds_load() -> None:
    """More validations than may run and wait are refused with 503 and when to come again; the others end well."""
    limits = replace(default_config().limits, validations=2, waiting=3)

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        names = [f"load{number}.example.com" for number in range(8)]
        order = await client.order(*names)
        held = [server.validator.hold(name) for name in names]
        answers = []
        for url in order.json["authorizations"]:
            challenge = (await client.post(url)).json["challenges"][0]["url"]
            answers.append(await client.post(challenge, {}))
        assert [answer.status for answer in answers] == [200] * 5 + [503] * 3
        assert len(server.validator.tasks) == 2
        assert (answers[-1].problem, answers[-1].header("retry-after")) == ("rateLimited", "10")
        for event in held:
            event.set()
        for url in order.json["authorizations"][:5]:
            assert (await client.settled(url)).json["status"] == "valid"
        await client.authorize(order)
        for url in order.json["authorizations"][5:]:
            assert (await client.settled(url)).json["status"] == "valid"

    run_with(work, default_config(limits=limits))


def test_validation_goes_on_after_a_restart() -> None:
    """A validation that was under way when the server ended is done by the next one, without the client's doing."""
    seen: list[str] = []

    async def before(server: ServerUnderTest) -> None:
        client = await server.account()
        order = await client.order("restart.example.com")
        server.validator.hold("restart.example.com")
        (url,) = order.json["authorizations"]
        challenge = (await client.post(url)).json["challenges"][0]["url"]
        assert (await client.post(challenge, {})).json["status"] == "processing"
        clients.append(client)
        seen.append(url)

    async def after(server: ServerUnderTest) -> None:
        client = Client(server, clients[0].key, clients[0].kid)
        assert (await client.settled(seen[0])).json["status"] == "valid"
        assert server.validator.count("restart.example.com") == 1

    clients: list[Client] = []
    with scratch() as path:
        run_with(before, folder=path)
        run_with(after, folder=path)


def test_many_orders_at_once(shared: Shared) -> None:
    """Twenty orders at the same time get twenty entries and twenty certificates."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        size = server.ca.log.record.tree_size
        twins = [Client(server, client.key, client.kid) for _ in range(20)]
        made = await asyncio.gather(*(twin.obtain(f"many{n}.example.com") for n, twin in enumerate(twins)))
        assert len({x509.load_der_x509_certificate(item.der).serial_number for item in made}) == 20
        assert server.ca.log.record.tree_size == size + 20

    shared.run(work)
