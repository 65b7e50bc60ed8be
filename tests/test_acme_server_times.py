"""Times and profiles of the ACME server's certificates: as requested, or refused."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from tests.acme_server import (
    ServerUnderTest,
    Shared,
    csr_for,
    identifier,
    run_with,
    shared_server,
)

DAY_S, HOUR_S = 86400, 3600


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    """Run one server for all tests of this file that need no other."""
    with shared_server() as server:
        yield server


def rfc3339(moment: datetime) -> str:
    """Return a time as ACME writes it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


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
