"""The local perspective: dns-01, CAA as it is found, and both halves of an examination together."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from tests.acme_validating import (
    ACCOUNT,
    KEY_AUTHORIZATION,
    QUICK,
    Site,
    listening,
    perspective,
    problem_of,
    response,
    run,
    task,
)
from tests.test_acme_validation_tlsalpn01 import challenge_certificate, server_context

from mtc.acme.machine.validation import Method, Report
from mtc.acme.seams import Perspective
from mtc.acme.validation import DNSSEC, LocalPerspective, ValidationSettings, digest_text
from mtc.errors import UsageError
from mtc.testing import FakeClock
from mtc.testing.names import Failure, NameServer
from mtc.testing.names_wire import key_of_name
from mtc.web.server import loop_factory

DIGEST = digest_text(KEY_AUTHORIZATION)


# dns-01


def test_digest_is_that_of_others() -> None:
    """The TXT record has the unpadded base64url of the SHA-256 of the key authorization, as in Boulder's own tests."""
    key_authorization = "LoqXcYV8q5ONbJQxbmR7SCTNo3tiAXDfowyjxAjEuX0.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI"
    assert digest_text(key_authorization) == "LPsIwTo7o8BoG0-vjCyGQGBWSVIPxI-i_X336eUOQZo"


@pytest.mark.parametrize(
    "values",
    [
        [f'"{DIGEST}"'],
        ['"old"', f'"{DIGEST}"', '"v=spf1 -all"'],
        [f'"{DIGEST[:20]}" "{DIGEST[20:]}"'],
        [*(f'"forgotten {number}"' for number in range(60)), f'"{DIGEST}"'],
    ],
    ids=["alone", "among others", "in two strings", "among many, over TCP"],
)
def test_record_is_found(values: list[str]) -> None:
    """One right record among others shows control; strings of a record are joined."""

    async def work(names: NameServer) -> None:
        names.set("_acme-challenge.www.test", "TXT", *values)
        assert (await perspective(names).examine(task("www.test", Method.DNS_01))).problem is None

    run(work)


@pytest.mark.parametrize("wildcard", [False, True])
def test_record_is_found_through_an_alias(wildcard: bool) -> None:  # noqa: FBT001
    """The validation name may be an alias into another zone; a wildcard is validated at the same name."""

    async def work(names: NameServer) -> None:
        names.set("_acme-challenge.www.test", "CNAME", "x.validations.test.")
        names.set("x.validations.test", "TXT", f'"{DIGEST}"')
        report = await perspective(names).examine(task("www.test", Method.DNS_01, wildcard=wildcard))
        assert report.problem is None
        lookup = next(item for item in report.lookups if item.type == "TXT")
        assert (lookup.name, lookup.answers) == (
            "_acme-challenge.www.test",
            ("CNAME x.validations.test.", f'"{DIGEST}"'),
        )

    run(work)


@pytest.mark.parametrize(
    ("values", "kind", "text"),
    [
        ([], "unauthorized", "no TXT record at _acme-challenge.www.test from 127.0.0.1"),
        (['"wrong"'], "incorrectResponse", f"expected '{DIGEST}', got 'wrong'"),
        ([f'"{DIGEST}="'], "incorrectResponse", "expected"),
        ([f'"{DIGEST.lower()}"'], "incorrectResponse", "expected"),
        ([f'"{KEY_AUTHORIZATION}"'], "incorrectResponse", "expected"),
        ([f'"{number}"' for number in range(9)], "incorrectResponse", "and 6 more"),
        (['"\\255\\000"'], "incorrectResponse", "got"),
        (
            [*(f'"{number}"' for number in range(100)), f'"{DIGEST}"'],
            "incorrectResponse",
            "and 98 more",
        ),
    ],
)
def test_other_records_are_problems(values: list[str], kind: str, text: str) -> None:
    """A missing or different record is a problem that says what was expected and found; a hundred are looked at."""

    async def work(names: NameServer) -> None:
        names.set("_acme-challenge.www.test", "TXT", *values)
        found, detail = problem_of(await perspective(names).examine(task("www.test", Method.DNS_01)))
        assert (found, text in detail) == (kind, True), detail
        names.remove("_acme-challenge.www.test")
        found, detail = problem_of(await perspective(names).examine(task("www.test", Method.DNS_01)))
        assert (found, "(NXDOMAIN)" in detail) == ("unauthorized", True)
        names.fail("_acme-challenge.www.test", Failure.SERVFAIL)
        assert problem_of(await perspective(names).examine(task("www.test", Method.DNS_01)))[0] == "dns"

    run(work)


# CAA


async def examine_caa(names: NameServer, name: str, *, wildcard: bool = False) -> Report:
    """Look up CAA alone."""
    return await perspective(names).examine(task(name, Method.DNS_01, wildcard=wildcard, control=False))


def test_caa_of_the_closest_name_counts() -> None:
    """From the name upwards the first that has CAA records decides; the report says which and what they are."""

    async def work(names: NameServer) -> None:
        names.set("test", "CAA", '0 issue "nobody.invalid"')
        names.set("example.test", "CAA", '0 issue "ca.test"', '0 iodef "mailto:a@b.test"')
        report = await examine_caa(names, "a.b.example.test")
        assert (report.problem, report.caa_name) == (None, "example.test")
        assert set(report.caa_records) == {'0 issue "ca.test"', '0 iodef "mailto:a@b.test"'}
        assert [item.name for item in report.lookups] == ["a.b.example.test", "b.example.test", "example.test"]
        kind, detail = problem_of(await examine_caa(names, "other.test"))
        assert kind == "caa"
        assert 'CAA at test does not let this CA (ca.test) issue for other.test: 0 issue "nobody.invalid"' in detail

    run(work)


def test_neighbours_get_the_same_answer() -> None:
    """Who climbs through a name that another examination has just seen empty climbs on all the same."""

    async def work(names: NameServer) -> None:
        names.set("test", "CAA", '0 issue "nobody.invalid"')
        looker = perspective(names)
        for host in ("a", "b", "c"):
            asked = task(f"{host}.deep.example.test", Method.DNS_01, control=False)
            report = await looker.examine(asked)
            assert problem_of(report)[0] == "caa"
            assert report.caa_name == "test"
            assert [lookup.name for lookup in report.lookups] == [
                f"{host}.deep.example.test",
                "deep.example.test",
                "example.test",
                "test",
            ]

    run(work)


def test_without_caa_everybody_may_issue() -> None:
    """The search ends below the root."""

    async def work(names: NameServer) -> None:
        report = await examine_caa(names, "www.example.test")
        assert (report.problem, report.caa_name, report.caa_records) == (None, "", ())
        assert [item.name for item in report.lookups] == ["www.example.test", "example.test", "test"]

    run(work)


def test_aliases_of_a_name_count_not_the_names_above_the_target() -> None:
    """CAA at the target of an alias is that of the name; above the target nobody looks (RFC 8659, not RFC 6844)."""

    async def work(names: NameServer) -> None:
        names.set("www.example.test", "CNAME", "host.cloud.test.")
        names.set("cloud.test", "CAA", '0 issue "nobody.invalid"')
        names.set("host.cloud.test", "A", "192.0.2.1")
        assert (await examine_caa(names, "www.example.test")).problem is None
        names.set("host.cloud.test", "CAA", '0 issue "other.test"')
        report = await examine_caa(names, "www.example.test")
        assert problem_of(report)[0] == "caa"
        assert report.caa_name == "www.example.test"

    run(work)


def test_caa_binds_wildcards_accounts_and_methods() -> None:
    """issuewild, accounturi and validationmethods are heard as they are in the DNS."""

    async def work(names: NameServer) -> None:
        names.set("example.test", "CAA", '0 issue "ca.test"', '0 issuewild ";"')
        assert (await examine_caa(names, "example.test")).problem is None
        assert problem_of(await examine_caa(names, "example.test", wildcard=True))[0] == "caa"
        names.set("example.test", "CAA", f'0 issue "ca.test; accounturi={ACCOUNT}; validationmethods=dns-01"')
        assert (await examine_caa(names, "example.test")).problem is None
        names.set("example.test", "CAA", f'0 issue "ca.test; accounturi={ACCOUNT}2; validationmethods=dns-01"')
        assert "is for another account" in problem_of(await examine_caa(names, "example.test"))[1]
        names.set("example.test", "CAA", '0 issue "ca.test; validationmethods=http-01"')
        assert "does not allow dns-01" in problem_of(await examine_caa(names, "example.test"))[1]
        names.set("example.test", "CAA", '0 issue "ca.test"', '128 future "x"')
        assert "is critical" in problem_of(await examine_caa(names, "example.test"))[1]

    run(work)


@pytest.mark.parametrize("failure", [Failure.SERVFAIL, Failure.TIMEOUT, Failure.REFUSED, Failure.WRONG_QUESTION])
@pytest.mark.parametrize("name", ["www.example.test", "example.test", "test"])
def test_caa_that_cannot_be_found_out_forbids(failure: Failure, name: str) -> None:
    """Whoever breaks or blocks a lookup of CAA gets no certificate, at whatever level it is."""

    async def work(names: NameServer) -> None:
        names.fail(name, failure, "CAA")
        kind, detail = problem_of(await examine_caa(names, "www.example.test"))
        assert (kind, f"CAA of {name} failed" in detail) == ("dns", True)

    run(work)


def test_caa_without_end_forbids() -> None:
    """Nobody has hundreds of CAA records that mean well."""

    async def work(names: NameServer) -> None:
        names.set("www.test", "CAA", *(f'0 issue "ca{number}.test"' for number in range(101)))
        assert "101 CAA records" in problem_of(await examine_caa(names, "www.test"))[1]
        deep = ".".join(["a"] * 120)
        assert "more than 100 DNS questions" in problem_of(await examine_caa(names, f"{deep}.other"))[1]

    run(work)


# Both together


def test_both_halves_are_needed() -> None:
    """Control without CAA's permission is not enough, nor the other way round; a problem tells both."""

    async def work(names: NameServer) -> None:
        async with listening(Site(lambda _: response())) as port:
            looker = perspective(names, http_port=port)
            names.set("www.test", "A", "127.0.0.1")
            assert (await looker.examine(task("www.test"))).problem is None
            names.set("www.test", "CAA", '0 issue ";"')
            assert problem_of(await looker.examine(task("www.test")))[0] == "caa"
            names.set("_acme-challenge.www.test", "TXT", '"wrong"')
            kind, detail = problem_of(await looker.examine(task("www.test", Method.DNS_01)))
            assert kind == "incorrectResponse"
            assert "Besides: CAA at www.test" in detail

    run(work)


def test_caa_alone_connects_nowhere() -> None:
    """When only CAA is looked up again, nobody is connected to and no other record is asked for."""

    async def work(names: NameServer) -> None:
        names.set("www.test", "A", "127.0.0.1")
        report = await examine_caa(names, "www.test")
        assert report.connections == ()
        assert {lookup.type for lookup in report.lookups} == {"CAA"}
        address = await examine_caa(names, "127.0.0.1")
        assert (address.problem, address.lookups) == (None, ())

    run(work)


@pytest.mark.parametrize(
    ("name", "method", "wildcard", "text"),
    [
        ("www.test", Method.HTTP_01, True, "validated by dns-01"),
        ("www.test", Method.TLS_ALPN_01, True, "validated by dns-01"),
        ("127.0.0.1", Method.DNS_01, False, "cannot be validated by dns-01"),
    ],
)
def test_methods_fit_identifiers(name: str, method: Method, wildcard: bool, text: str) -> None:  # noqa: FBT001
    """What a method cannot show is not shown by it, whatever the server of the CA asked."""

    async def work(names: NameServer) -> None:
        report = await perspective(names).examine(task(name, method, wildcard=wildcard))
        kind, detail = problem_of(report)
        assert (kind, text in detail, report.connections) == ("unauthorized", True, ())

    run(work)


@pytest.mark.parametrize(
    ("token", "key_authorization"),
    [("", ""), ("a", "b.c"), ("a", "a"), ("a/../b", "a/../b.c"), ("a\r\nX: y", "a\r\nX: y.c"), ("ä", "ä.c")],
)
def test_tokens_of_tasks_are_checked(token: str, key_authorization: str) -> None:
    """A perspective puts nothing into a request that is not a token with its key authorization."""

    async def work(names: NameServer) -> None:
        asked = replace(task("www.test"), token=token, key_authorization=key_authorization)
        report = await perspective(names).examine(asked)
        assert (problem_of(report)[0], report.connections) == ("malformed", ())

    run(work)


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00\x09issue", b"\x00\x00ca.test", b"\x00\x05i sueca.test"])
def test_broken_caa_forbids(data: bytes) -> None:
    """CAA records whose form is broken are as bad as no answer."""

    async def work(names: NameServer) -> None:
        names.set("www.test", "CAA", '0 issue "ca.test"')
        assert (await examine_caa(names, "www.test")).problem is None
        names.set("www.test", "CAA", '0 issue "ca.test"')
        (records,) = names._records[key_of_name("www.test")].items()
        names._records[key_of_name("www.test")] = {records[0]: (60, (data,))}
        assert problem_of(await examine_caa(names, "www.test"))[0] == "dns"

    run(work)


def test_report_crosses_a_wire() -> None:
    """A report says who looked and when, and survives its JSON form."""

    async def work(names: NameServer) -> None:
        clock = FakeClock()
        settings = ValidationSettings(servers=(names.server,), allows_private=True, http_port=1)
        looker: Perspective = LocalPerspective(settings, name="south", region="za", clock=clock)
        names.set("www.test", "A", "127.0.0.1")
        report = await looker.examine(task("www.test"))
        assert (report.perspective, report.region, report.started) == ("south", "za", clock.now())
        assert report.problem is not None
        assert Report.of_json(report.to_json()).to_json() == report.to_json()

    run(work)


def test_examination_ends_in_time() -> None:
    """However slow the servers are, there is a report after the time for the whole."""

    async def work(names: NameServer) -> None:
        names.fail("www.test", Failure.TIMEOUT)
        looker = perspective(names, dns_timeout_s=600.0, total_timeout_s=0.2)
        async with asyncio.timeout(60):
            report = await looker.examine(task("www.test"))
        assert "took longer than 0.2 s" in problem_of(report)[1]
        # Long before the name server was given up.
        assert report.finished - report.started < timedelta(seconds=60)

    run(work)


def test_many_are_examined_at_once() -> None:
    """Examinations do not mix: each of a hundred finds its own answers."""

    async def work(names: NameServer) -> None:
        for number in range(100):
            names.set(f"_acme-challenge.n{number}.test", "TXT", f'"{DIGEST if number % 2 else "wrong"}"')
        looker = perspective(names, dns_timeout_s=5.0)
        tasks = [task(f"n{number}.test", Method.DNS_01) for number in range(100)]
        reports = await asyncio.gather(*(looker.examine(item) for item in tasks))
        assert [report.problem is None for report in reports] == [bool(number % 2) for number in range(100)]
        for number, report in enumerate(reports):
            assert {lookup.name for lookup in report.lookups} == {
                f"n{number}.test",
                f"_acme-challenge.n{number}.test",
                "test",
            }

    run(work)


def test_server_loops_do_as_well() -> None:
    """On the event loop that servers run on, sockets, TLS and deadlines behave the same."""

    async def silence(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async def work(names: NameServer) -> None:
        names.set("www.test", "A", "127.0.0.1")
        tls = server_context(challenge_certificate("www.test"))
        web, secure, dead = listening(Site(lambda _: response())), listening(silence, tls), listening(silence)
        async with web as http_port, secure as tls_port, dead as dead_port:
            looker = perspective(names, http_port=http_port, tls_port=tls_port)
            for method in (Method.HTTP_01, Method.TLS_ALPN_01):
                assert (await looker.examine(task("www.test", method))).problem is None
            looker = perspective(names, http_port=dead_port, tls_port=dead_port, control_timeout_s=0.2)
            for method in (Method.HTTP_01, Method.TLS_ALPN_01):
                assert "took longer" in problem_of(await looker.examine(task("www.test", method)))[1]
        looker = perspective(names, http_port=1, tls_port=1)
        for method in (Method.HTTP_01, Method.TLS_ALPN_01):
            assert "Connection refused" in problem_of(await looker.examine(task("www.test", method)))[1]

    run(work, loop_factory())
    run(work)


def test_perspective_checks_its_resolver() -> None:
    """The check before the start is that of the resolver, and a far one may not validate."""

    async def work(names: NameServer) -> None:
        await perspective(names).check()
        with pytest.raises(UsageError):
            LocalPerspective(ValidationSettings(servers=("192.0.2.1",), dnssec=DNSSEC.RESOLVER))
        assert QUICK.dnssec is DNSSEC.OFF

    run(work)
