"""http-01: what a web server must show, and all that it may not lure us into."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from tests.acme_validating import (
    KEY_AUTHORIZATION,
    PATH,
    Internet,
    Site,
    listening,
    perspective,
    problem_of,
    redirect,
    response,
    run,
    task,
)

from mtc.acme.machine.validation import Report
from mtc.acme.validation.http_answer import MAX_BODY_BYTES, MAX_HEAD_BYTES
from mtc.testing.names import Failure, NameServer

PUBLIC = "93.184.215.14"
PUBLIC_6 = "2606:2800:21f:cb07:6820:80da:af6b:8b2c"


@contextlib.asynccontextmanager
async def town(names: NameServer, site: Site, *, name: str = "www.test") -> AsyncIterator[Internet]:
    """Put a site on the public network, at a name, on port 80."""
    names.set(name, "A", PUBLIC)
    async with listening(site) as port:
        yield Internet({(PUBLIC, 80): port})


def examine(site: Site, *, location: str = "", internet: bool = True) -> Report:
    """Examine www.test with a site, which first redirects to a location if there is one."""
    reports = []

    async def work(names: NameServer) -> None:
        async with town(names, site if not location else Site(lambda _: redirect(location))) as public:
            if internet:
                reports.append(await perspective(names, public).examine(task("www.test")))
            else:
                names.set("www.test", "A", "127.0.0.1")
                port = public.routes[PUBLIC, 80]
                reports.append(await perspective(names, http_port=port).examine(task("www.test")))

    run(work)
    return reports[0]


def test_key_authorization_is_found() -> None:
    """A server that shows the key authorization has shown control; the report says where it was looked for."""
    site = Site(lambda _: response())
    report = examine(site)
    assert report.problem is None
    assert [(item.target, item.address, item.port, item.outcome) for item in report.connections] == [
        (f"http://www.test{PATH}", PUBLIC, 80, "connected")
    ]
    assert site.requests[0].startswith(f"GET {PATH} HTTP/1.1\r\nHost: www.test\r\n")


def test_port_is_mapped_and_the_request_stays() -> None:
    """With another port in the place of 80, URL and Host header are those of port 80."""
    site = Site(lambda _: response())
    report = examine(site, internet=False)
    assert report.problem is None
    assert report.connections[0].port != 80
    assert report.connections[0].target == f"http://www.test{PATH}"
    assert "\r\nHost: www.test\r\n" in site.requests[0]


@pytest.mark.parametrize(
    "answer",
    [
        response(KEY_AUTHORIZATION.encode() + b" \r\n\t"),
        f"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{KEY_AUTHORIZATION}".encode(),
        f"HTTP/1.0 200 OK\r\n\r\n{KEY_AUTHORIZATION}\n".encode(),
        f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{len(KEY_AUTHORIZATION):x}\r\n"
        f"{KEY_AUTHORIZATION}\r\n0\r\n\r\n".encode(),
        b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" + response(),
        response(KEY_AUTHORIZATION.encode(), "200 OK", "X: " + "y" * 5000, "Content-Type: text/html"),
    ],
    ids=["trailing whitespace", "until the end", "HTTP/1.0", "chunked", "interim answer", "long header"],
)
def test_all_forms_of_an_answer_are_read(answer: bytes) -> None:
    """HTTP has several ways to say where a body ends; whitespace after the key authorization is ignored."""
    assert examine(Site(lambda _: answer)).problem is None


@pytest.mark.parametrize(
    ("answer", "kind", "text"),
    [
        (response(b"wrong"), "incorrectResponse", "got 'wrong'"),
        (response(b" " + KEY_AUTHORIZATION.encode()), "incorrectResponse", "expected the key authorization"),
        (response(b""), "incorrectResponse", "got ''"),
        (response(b"\xff\x00<script>" * 50), "incorrectResponse", "\\x00<script>"),
        (response(status="404 Not Found"), "unauthorized", "status 404, expected 200"),
        (response(status="500 Oops"), "unauthorized", "status 500"),
        (response(status="204 No Content"), "unauthorized", "status 204"),
        (redirect("/elsewhere", "303 See Other"), "unauthorized", "status 303"),
        (redirect("/elsewhere", "300 Multiple Choices"), "unauthorized", "status 300"),
        (response(b"x" * (MAX_BODY_BYTES + 1)), "incorrectResponse", "more than 65536 bytes"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * (MAX_BODY_BYTES + 1), "incorrectResponse", "more than 65536 bytes"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * MAX_HEAD_BYTES, "incorrectResponse", "header has more than"),
        (b"HTTP/1.1 100 Go on\r\n\r\n" * 2000, "incorrectResponse", "header has more than"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * MAX_BODY_BYTES,
            "incorrectResponse",
            "for ",
        ),
        (response()[:-1], "incorrectResponse", "ended within the answer"),
        (b"", "incorrectResponse", "ended within the answer, after 0 bytes"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "incorrectResponse", "no HTTP"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\nabcd", "incorrectResponse", "no HTTP"),
        (
            b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n",
            "incorrectResponse",
            "switched protocols",
        ),
    ],
)
def test_other_answers_are_problems(answer: bytes, kind: str, text: str) -> None:
    """Everything but status 200 with the key authorization, in bounds, is a problem that says what was got."""
    report = examine(Site(lambda _: answer))
    found, detail = problem_of(report)
    assert found == kind
    assert text in detail
    assert PUBLIC in detail
    assert len(detail) < 600


def test_answers_from_a_private_network_are_not_quoted() -> None:
    """Where private addresses are allowed, a problem never shows what a server there said."""
    _, detail = problem_of(examine(Site(lambda _: response(b"secret")), internet=False))
    assert "secret" not in detail
    assert "got 6 bytes" in detail


def test_redirects_are_followed() -> None:
    """A redirect leads on: another path, another name, another port of the two, with the right Host header."""
    target = Site(lambda path: response() if path == "/a%20b?x=%C3%A4" else response(status="404 No"))
    hops = {
        PATH: redirect("/next", "301 Moved"),
        "/next": redirect("//other.test:443/a b?x=ä#part", "307 Temporary"),
    }

    async def work(names: NameServer) -> None:
        first = Site(lambda path: hops[path])
        async with town(names, first) as internet, listening(target) as port:
            names.set("other.test", "A", "8.8.8.8")
            internet.routes["8.8.8.8", 443] = port
            report = await perspective(names, internet).examine(task("www.test"))
            assert report.problem is None, report.problem
            assert internet.dialed == [(PUBLIC, 80), (PUBLIC, 80), ("8.8.8.8", 443)]
            assert "\r\nHost: other.test:443\r\n" in target.requests[0]

    run(work)


@pytest.mark.parametrize("status", ["302 Found", "404 Not Found"])
def test_bodies_of_other_answers_are_not_read(status: str) -> None:
    """Only the body of status 200 is read: a redirect or an error counts when its header is there."""
    hops = {
        PATH: f"HTTP/1.1 {status}\r\nLocation: /x\r\nContent-Length: 999999999\r\n\r\nx".encode(),
        "/x": response(),
    }
    report = examine(Site(lambda path: hops[path]))
    if status.startswith("302"):
        assert report.problem is None
    else:
        assert "status 404" in problem_of(report)[1]


def test_bytes_after_the_answer_are_ignored() -> None:
    """What follows an answer, another answer or garbage, changes nothing about it."""
    for more in (response(b"other"), b"garbage", b"HTTP/1.1 500 No\r\n\r\n"):
        right, wrong = response() + more, response(b"wrong") + more
        assert examine(Site({PATH: right}.__getitem__)).problem is None
        assert problem_of(examine(Site({PATH: wrong}.__getitem__)))[0] == "incorrectResponse"
    report = examine(Site(lambda path: redirect("/x") + redirect("/y") if path == PATH else response(status="410 No")))
    assert f"http://www.test/x from {PUBLIC}" in problem_of(report)[1]


def test_redirect_loops_end() -> None:
    """After ten redirects it is enough."""
    site = Site(lambda path: redirect(path, "308 Permanent"))
    kind, detail = problem_of(examine(site))
    assert kind == "connection"
    assert "more than 10 redirects" in detail
    assert len(site.requests) == 11


@pytest.mark.parametrize(
    ("location", "kind", "text"),
    [
        ("http://169.254.169.254/latest/meta-data/", "connection", "169.254.169.254 is link-local"),
        ("http://[::ffff:169.254.169.254]/", "connection", "is link-local"),
        ("http://[64:ff9b::a9fe:a9fe]/", "connection", "is link-local"),
        ("http://127.0.0.1/", "connection", "127.0.0.1 is loopback"),
        ("http://[::1]/", "connection", "::1 is loopback"),
        ("http://10.1.2.3/", "connection", "10.1.2.3 is private"),
        ("http://inside.test/", "connection", "192.168.1.1 is private"),
        ("http://2130706433/", "connection", "no usable host"),
        ("http://0x7f.1/", "connection", "no usable host"),
        ("http://127.1/", "connection", "no usable host"),
        ("http://www.test:22/", "connection", "only the ports 80 and 443"),
        ("http://www.test:0/", "connection", "only the ports 80 and 443"),
        ("http://www.test:99999/", "connection", "no URL"),
        ("ftp://www.test/", "connection", "only http and https"),
        ("file:///etc/passwd", "connection", "only http and https"),
        ("gopher://www.test/", "connection", "only http and https"),
        ("http://www.test/\x1b[2J", "incorrectResponse", "no HTTP"),
        ("http://user:pass@www.test/", "connection", "no user names"),
        ("https:///nowhere", "connection", "no usable host"),
        ("http://exa mple.test/", "connection", "no usable host"),
        ("http://[::1/", "connection", "no URL"),
        ("http://[fe80::1%25eth0]/", "connection", "no usable host"),
        ("http://ä.test/", "connection", "no usable host"),
        ("http://www.test/" + "x" * 2000, "connection", "no URL"),
        ("http://missing.test/", "dns", "missing.test has no A or AAAA record (NXDOMAIN"),
    ],
)
def test_redirects_lead_only_to_public_web_servers(location: str, kind: str, text: str) -> None:
    """Whatever a redirect says, only http and https to public addresses on ports 80 and 443 are connected to."""

    async def work(names: NameServer) -> None:
        names.set("inside.test", "A", "192.168.1.1")
        async with town(names, Site(lambda _: redirect(location))) as internet:
            report = await perspective(names, internet).examine(task("www.test"))
            found, detail = problem_of(report)
            assert found == kind
            assert text in detail
            assert internet.dialed == [(PUBLIC, 80)]

    run(work)


def test_redirect_without_location_is_a_problem() -> None:
    """A redirect that leads nowhere is no answer."""
    assert "no URL" in problem_of(examine(Site(lambda _: response(b"", "302 Found"))))[1]


def test_private_names_redirect_to_their_own_addresses_only() -> None:
    """Where private addresses are allowed, a redirect to an address must be to an own or public one."""

    async def work(names: NameServer) -> None:
        names.set("www.test", "A", "127.0.0.1")
        locations = {PATH: "http://127.0.0.1/x", "/x": "http://127.0.0.2/secret"}
        site = Site(lambda path: redirect(locations[path]))
        async with listening(site) as port:
            report = await perspective(names, http_port=port).examine(task("www.test"))
            assert "http://127.0.0.2/secret is not followed: it is loopback" in problem_of(report)[1]
            assert len(report.connections) == 2
        metadata = Site(lambda _: redirect("http://169.254.169.254/"))
        async with listening(metadata) as port:
            report = await perspective(names, http_port=port).examine(task("www.test"))
            assert "169.254.169.254 is link-local" in problem_of(report)[1]

    run(work)


def test_https_after_a_redirect_is_not_verified() -> None:
    """A redirect to https is followed whatever certificate the server has: it is only asking for a good one."""
    from tests.test_acme_validation_tlsalpn01 import challenge_certificate, server_context  # noqa: PLC0415 - one use

    async def work(names: NameServer) -> None:
        target = Site(lambda _: response())
        tls = server_context(challenge_certificate("elsewhere.test"), protocols=["http/1.1"])
        async with (
            town(names, Site(lambda _: redirect("https://www.test/x"))) as internet,
            listening(target, tls) as port,
        ):
            internet.routes[PUBLIC, 443] = port
            report = await perspective(names, internet).examine(task("www.test"))
            assert report.problem is None, report.problem
            assert report.connections[-1].target == "https://www.test/x"
            internet.routes[PUBLIC, 443] = internet.routes[PUBLIC, 80]
            looker = perspective(names, internet, connect_timeout_s=0.5)
            assert problem_of(await looker.examine(task("www.test")))[0] == "tls"

    run(work)


# Addresses


def test_rebinding_finds_no_second_lookup() -> None:
    """A name is looked up once for a connection; an answer that changes afterwards is never seen."""

    async def work(names: NameServer) -> None:
        async with town(names, Site(lambda _: response())) as internet:
            names.play("www.test", "A", [PUBLIC], ["127.0.0.1"])
            report = await perspective(names, internet).examine(task("www.test"))
            assert report.problem is None
            assert names.asked("www.test", "A") == 1
            assert internet.dialed == [(PUBLIC, 80)]
            kind, detail = problem_of(await perspective(names, internet).examine(task("www.test")))
            assert (kind, internet.dialed) == ("connection", [(PUBLIC, 80)])
            assert "127.0.0.1 is loopback" in detail

    run(work)


def test_rebinding_between_redirects_is_checked_again() -> None:
    """A redirect back to the same name is looked up and checked again."""

    async def work(names: NameServer) -> None:
        async with town(names, Site(lambda _: redirect("/again"))) as internet:
            names.play("www.test", "A", [PUBLIC], ["169.254.169.254"])
            _, detail = problem_of(await perspective(names, internet).examine(task("www.test")))
            assert "169.254.169.254 is link-local" in detail
            assert internet.dialed == [(PUBLIC, 80)]

    run(work)


def test_private_addresses_beside_public_ones_are_left_out() -> None:
    """Of several addresses only public ones are connected to."""

    async def work(names: NameServer) -> None:
        async with town(names, Site(lambda _: response())) as internet:
            names.set("www.test", "A", "10.0.0.1", PUBLIC)
            names.set("www.test", "AAAA", "fd00::1")
            assert (await perspective(names, internet).examine(task("www.test"))).problem is None
            assert internet.dialed == [(PUBLIC, 80)]

    run(work)


def test_addresses_that_cannot_be_looked_up_are_a_problem_of_dns() -> None:
    """One type of address that fails does not matter when there is the other; else its failure is the problem."""

    async def work(names: NameServer) -> None:
        async with town(names, Site(lambda _: response())) as internet:
            names.fail("www.test", Failure.SERVFAIL, "AAAA")
            assert (await perspective(names, internet).examine(task("www.test"))).problem is None
            names.set("www.test", "A")
            kind, detail = problem_of(await perspective(names, internet).examine(task("www.test")))
            assert (kind, "looking up AAAA of www.test failed" in detail) == ("dns", True)
            names.remove("www.test")
            kind, detail = problem_of(await perspective(names, internet).examine(task("www.test")))
            assert (kind, "www.test has no A or AAAA record (NXDOMAIN from" in detail) == ("dns", True)

    run(work)


def test_ipv6_comes_first_with_one_fallback() -> None:
    """An IPv6 address is tried first and, when nobody answers there, one of IPv4; each attempt is noted."""

    async def work(names: NameServer) -> None:
        async with town(names, Site(lambda _: response())) as internet:
            names.set("www.test", "A", PUBLIC, "8.8.8.8")
            names.set("www.test", "AAAA", PUBLIC_6, "2606:4700::1")
            report = await perspective(names, internet).examine(task("www.test"))
            assert report.problem is None
            assert [(item.address, item.outcome) for item in report.connections] == [
                (PUBLIC_6, "Connection refused"),
                (PUBLIC, "connected"),
            ]
            internet.routes = {}
            kind, detail = problem_of(await perspective(names, internet).examine(task("www.test")))
            assert kind == "connection"
            assert f"{PUBLIC_6}: Connection refused; {PUBLIC}: Connection refused" in detail
            assert len(internet.dialed) == 4

    run(work)


def test_no_fallback_after_a_wrong_answer() -> None:
    """A server that answers over IPv6, but wrongly, is not asked over IPv4."""

    async def work(names: NameServer) -> None:
        async with town(names, Site(lambda _: response())) as internet, listening(Site(lambda _: b"no")) as port:
            names.set("www.test", "AAAA", PUBLIC_6)
            internet.routes[PUBLIC_6, 80] = port
            assert problem_of(await perspective(names, internet).examine(task("www.test")))[0] == "incorrectResponse"
            assert internet.dialed == [(PUBLIC_6, 80)]

    run(work)


def test_addresses_are_identifiers() -> None:
    """An IP address is connected to without any lookup; IPv6 stands in brackets in the Host header."""

    async def work(names: NameServer) -> None:
        site = Site(lambda _: response())
        async with listening(site) as port:
            internet = Internet({(PUBLIC, 80): port, (PUBLIC_6, 80): port})
            for address in (PUBLIC, PUBLIC_6):
                report = await perspective(names, internet).examine(task(address))
                assert (report.problem, report.lookups, report.caa_name) == (None, (), "")
            assert "\r\nHost: 93.184.215.14\r\n" in site.requests[0]
            assert f"\r\nHost: [{PUBLIC_6}]\r\n" in site.requests[1]
            kind, detail = problem_of(await perspective(names, internet).examine(task("::1")))
            assert (kind, "::1 is loopback" in detail) == ("connection", True)

    run(work)


# Time


def test_slow_servers_are_left() -> None:
    """Silence, drips and answers without end are cut off after the time for the whole challenge."""

    async def silence(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        while not reader.at_eof():
            writer.write(b"x")
            await writer.drain()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(reader.read(10_000), 0.02)

    async def work(names: NameServer) -> None:
        names.set("www.test", "A", PUBLIC)
        for handler in (silence, drip):
            async with listening(handler) as port:
                internet = Internet({(PUBLIC, 80): port})
                looker = perspective(names, internet, control_timeout_s=0.3)
                async with asyncio.timeout(60):
                    kind, detail = problem_of(await looker.examine(task("www.test")))
                assert (kind, "took longer than 0.3 s" in detail) == ("connection", True)

    run(work)
