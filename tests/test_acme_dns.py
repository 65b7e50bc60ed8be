"""The name server for tests, and the stub resolver that asks it."""

import asyncio
import pickle

import dns.asyncquery
import dns.flags
import dns.message
import dns.rcode
import pytest
from tests.acme_validating import QUICK, run

from mtc.acme.machine.problems import ProblemType
from mtc.acme.machine.validation import Lookup
from mtc.acme.validation import DNSSEC, ValidationSettings, check_resolver
from mtc.acme.validation.findings import Findings, ValidationError
from mtc.acme.validation.resolver import Answer, Resolver
from mtc.acme.validation.settings import Server
from mtc.errors import FormatError, PeerError, Reason, Rejected, UsageError
from mtc.testing.names import Failure, NameServer, Question, serve_names


async def ask(names: NameServer, name: str, type_: str, *, tcp: bool = False, edns: bool = True) -> dns.message.Message:
    """Ask the server as dnspython does, which checks the form of the answer."""
    query = dns.message.make_query(name, type_, use_edns=0 if edns else -1, payload=1232)
    host, port = names.address
    if tcp:
        return await dns.asyncquery.tcp(query, host, 2, port)
    return await dns.asyncquery.udp(query, host, 2, port)


def answers(message: dns.message.Message) -> list[str]:
    """Return the answer section as lines."""
    return [line for rrset in message.answer for line in rrset.to_text().splitlines()]


def resolver(names: NameServer, **changes: object) -> Resolver:
    """Return a stub resolver for a server, with little patience."""
    values = {name: getattr(QUICK, name) for name in QUICK.__dataclass_fields__}
    return Resolver(ValidationSettings(**{**values, "servers": (names.server,), **changes}))


def texts(answer: Answer) -> list[str]:
    """Return the records of an answer as text."""
    return [record.to_text() for record in answer.records]


# The name server


def test_names_answers_what_was_set() -> None:
    """Records come back over both transports; a name without the type has none; other names do not exist."""

    async def work(names: NameServer) -> None:
        names.set("Example.test", "A", "192.0.2.1", "192.0.2.2")
        names.set("example.test.", "CAA", '0 issue "ca.test"')
        for tcp in (False, True):
            message = await ask(names, "example.TEST", "A", tcp=tcp)
            assert answers(message) == ["example.TEST. 60 IN A 192.0.2.1", "example.TEST. 60 IN A 192.0.2.2"]
            nothing = await ask(names, "example.test", "AAAA", tcp=tcp)
            assert (nothing.rcode(), nothing.answer) == (dns.rcode.NOERROR, [])
            assert nothing.authority[0].to_text().startswith("test. 60 IN SOA")
            missing = await ask(names, "other.test", "A", tcp=tcp)
            assert (missing.rcode(), missing.answer) == (dns.rcode.NXDOMAIN, [])
        assert names.asked("example.test", "A") == 2
        assert names.questions[0] == Question("example.test", "A", "udp")

    run(work)


def test_names_are_edited_while_it_runs() -> None:
    """A change holds from the next question on, also for what was asked before and is kept encoded."""

    async def work(names: NameServer) -> None:
        names.set("a.b.test", "TXT", '"one"')
        assert answers(await ask(names, "a.b.test", "TXT")) == ['a.b.test. 60 IN TXT "one"']
        names.set("a.b.test", "TXT", '"two" "parts"', ttl_s=5)
        assert answers(await ask(names, "a.b.test", "TXT")) == ['a.b.test. 5 IN TXT "two" "parts"']
        assert (await ask(names, "b.test", "TXT")).rcode() == dns.rcode.NOERROR  # Something is below it.
        names.remove("a.b.test", "TXT")
        assert (await ask(names, "a.b.test", "TXT")).rcode() == dns.rcode.NXDOMAIN
        assert (await ask(names, "b.test", "TXT")).rcode() == dns.rcode.NXDOMAIN

    run(work)


def test_names_follow_aliases_and_wildcards() -> None:
    """A chain comes in one answer; a wildcard answers for what is below it, unless a name in between exists."""

    async def work(names: NameServer) -> None:
        names.set("www.test", "CNAME", "a.hosting.test.")
        names.set("*.hosting.test", "A", "192.0.2.1")
        names.set("b.hosting.test", "TXT", '"x"')
        assert answers(await ask(names, "www.test", "A")) == [
            "www.test. 60 IN CNAME a.hosting.test.",
            "a.hosting.test. 60 IN A 192.0.2.1",
        ]
        assert answers(await ask(names, "deep.down.hosting.test", "A")) == ["deep.down.hosting.test. 60 IN A 192.0.2.1"]
        assert (await ask(names, "x.b.hosting.test", "A")).rcode() == dns.rcode.NXDOMAIN
        assert (await ask(names, "b.hosting.test", "A")).answer == []
        names.set("round.test", "CNAME", "round.test.")
        assert (await ask(names, "round.test", "A")).rcode() == dns.rcode.SERVFAIL

    run(work)


def test_names_truncate_what_does_not_fit() -> None:
    """An answer longer than the client takes comes with the TC flag and empty over UDP, whole over TCP."""

    async def work(names: NameServer) -> None:
        names.set("many.test", "A", *(f"192.0.2.{number}" for number in range(70)))
        small = await ask(names, "many.test", "A", edns=False)
        assert small.flags & dns.flags.TC
        assert not small.answer
        assert len(answers(await ask(names, "many.test", "A"))) == 70
        assert len(answers(await ask(names, "many.test", "A", tcp=True))) == 70

    run(work)


def test_names_fail_on_command() -> None:
    """Each failure is what its name says, for one type or all, until it is removed."""

    async def work(names: NameServer) -> None:
        for failure in (Failure.FORMERR, Failure.SERVFAIL, Failure.NXDOMAIN, Failure.REFUSED):
            names.set("a.test", "A", "192.0.2.1")
            names.fail("a.test", failure, "A")
            assert dns.rcode.to_text((await ask(names, "a.test", "A")).rcode()) == failure.value
            assert (await ask(names, "a.test", "AAAA")).rcode() == dns.rcode.NOERROR
            names.fail("a.test", failure)
            assert dns.rcode.to_text((await ask(names, "a.test", "AAAA")).rcode()) == failure.value
            names.remove("a.test")
        names.fail("a.test", Failure.TRUNCATED)
        assert (await ask(names, "a.test", "A")).flags & dns.flags.TC
        names.play("a.test", "A", ["192.0.2.1"], ["192.0.2.2"], [])
        names.remove("a.test", "TXT")
        got = [answers(await ask(names, "a.test", "A", tcp=True)) for _ in range(4)]
        assert got == [["a.test. 60 IN A 192.0.2.1"], ["a.test. 60 IN A 192.0.2.2"], [], []]

    run(work)


def test_names_wrong_use_is_refused() -> None:
    """What is no name, type or value is told to the caller."""
    names = NameServer()
    for wrong in (("a..test", "A", "192.0.2.1"), ("a.test", "NONSENSE", "x"), ("a.test", "A", "300.1.1.1")):
        with pytest.raises(UsageError):
            names.set(*wrong)
    with pytest.raises(UsageError):
        names.play("a.test", "A")


def test_names_survive_garbage() -> None:
    """Every truncation of a query and every flip of one of its bytes is answered or ignored."""
    names = NameServer()
    names.set("www.example.test", "A", "192.0.2.1")
    wire = dns.message.make_query("www.example.test", "A", use_edns=0).to_wire()
    for end in range(len(wire)):
        names.answer(wire[:end])
    for index in range(len(wire)):
        for value in (0, 1, 0x3F, 0x40, 0x80, 0xC0, 0xFF):
            names.answer(wire[:index] + bytes([value]) + wire[index + 1 :])


def test_names_serve_from_a_thread() -> None:
    """Code without an event loop runs the server in a thread."""
    with serve_names(NameServer()) as names:
        names.set("a.test", "A", "192.0.2.1")
        assert answers(asyncio.run(ask(names, "a.test", "A"))) == ["a.test. 60 IN A 192.0.2.1"]


# The stub resolver


def test_lookup_is_noted() -> None:
    """Every question and answer is in the findings: records as text, the code, who answered."""

    async def work(names: NameServer) -> None:
        names.set("a.test", "CNAME", "b.test.")
        names.set("b.test", "A", "192.0.2.1")
        findings = Findings()
        answer = await resolver(names).look_up("a.test", "A", findings)
        assert texts(answer) == ["192.0.2.1"]
        missing = await resolver(names).look_up("none.test", "A", findings)
        assert (missing.records, missing.name_exists) == ((), False)
        assert findings.lookups == [
            Lookup(
                name="a.test",
                type="A",
                status="NOERROR",
                answers=("CNAME b.test.", "192.0.2.1"),
                server=names.server,
            ),
            Lookup(name="none.test", type="A", status="NXDOMAIN", server=names.server),
        ]

    run(work)


def test_truncated_answers_are_asked_for_over_tcp() -> None:
    """What does not fit into 1232 bytes comes over TCP."""

    async def work(names: NameServer) -> None:
        names.set("big.test", "TXT", *(f'"{number:0200}"' for number in range(20)))
        answer = await resolver(names).look_up("big.test", "TXT", Findings())
        assert len(answer.records) == 20
        assert [question.transport for question in names.questions] == ["udp", "tcp"]
        names.set("forced.test", "A", "192.0.2.1")
        names.fail("forced.test", Failure.TRUNCATED)
        assert texts(await resolver(names).look_up("forced.test", "A", Findings())) == ["192.0.2.1"]

    run(work)


@pytest.mark.parametrize(
    ("failure", "questions"),
    [
        (Failure.SERVFAIL, 1),
        (Failure.REFUSED, 1),
        (Failure.FORMERR, 1),
        (Failure.TIMEOUT, 2),
        (Failure.WRONG_QUESTION, 2),
        (Failure.TRUNCATED_TIMEOUT, 4),
    ],
)
def test_failures_are_problems(failure: Failure, questions: int) -> None:
    """A server that fails, is silent or answers something else is a problem of DNS; only silence is asked again."""

    async def work(names: NameServer) -> None:
        names.fail("a.test", failure)
        findings = Findings()
        with pytest.raises(ValidationError, match=r"looking up CAA of a\.test failed") as caught:
            await resolver(names).look_up("a.test", "CAA", findings)
        assert caught.value.problem.type is ProblemType.DNS
        assert caught.value.reason is Reason.VALIDATION_FAILED
        assert names.server in caught.value.problem.detail
        assert sum(names.count.values()) == questions
        assert all(not lookup.answers and lookup.status != "NOERROR" for lookup in findings.lookups)

    run(work)


def test_next_server_is_asked() -> None:
    """With several servers, one that fails or is silent is followed by the next, and both are noted."""

    async def work(names: NameServer) -> None:
        async with NameServer() as second:
            second.set("a.test", "A", "192.0.2.1")
            for failure in (Failure.SERVFAIL, Failure.TIMEOUT):
                names.fail("a.test", failure)
                findings = Findings()
                both = resolver(names, servers=(names.server, second.server))
                assert texts(await both.look_up("a.test", "A", findings)) == ["192.0.2.1"]
                assert [lookup.server for lookup in findings.lookups] == [names.server, second.server]
                assert findings.lookups[0].status == failure.value

    run(work)


def test_aliases_are_followed_one_by_one() -> None:
    """A server that gives only the first alias is asked for the next, at most eight times."""

    async def work(names: NameServer) -> None:
        names.answer_with("test", _one_alias)
        answer = await resolver(names).look_up("6.test", "A", Findings())
        assert texts(answer) == ["192.0.2.1"]
        with pytest.raises(ValidationError, match="more than 8 aliases"):
            await resolver(names).look_up("9.test", "A", Findings())

    run(work)


def _one_alias(query: dns.message.Message) -> dns.message.Message:
    """Answer `N.test` with an alias to `N-1.test`, and `0.test` with an address."""
    message = dns.message.make_response(query)
    name = query.question[0].name
    number = int(name.labels[0])
    kind, value = ("A", "192.0.2.1") if number == 0 else ("CNAME", f"{number - 1}.test.")
    message.answer.append(dns.rrset.from_text(name, 60, "IN", kind, value))
    return message


def test_referrals_are_no_answers() -> None:
    """A server that is no resolver and points to others has not said that there are no records."""

    def refer(query: dns.message.Message) -> dns.message.Message:
        message = dns.message.make_response(query)
        message.authority.append(dns.rrset.from_text("test.", 60, "IN", "NS", "ns.test."))
        return message

    async def work(names: NameServer) -> None:
        names.answer_with("test", refer)
        findings = Findings()
        with pytest.raises(ValidationError, match="REFERRAL"):
            await resolver(names).look_up("www.test", "CAA", findings)
        assert findings.lookups[0].status == "REFERRAL"

    run(work)


def test_one_insecure_alias_makes_all_insecure() -> None:
    """A chain of answers is secure when each of them is; a server's word counts only where it is to validate."""

    def sign(query: dns.message.Message) -> dns.message.Message:
        message = _one_alias(query)
        if query.question[0].name.to_text() != "2.test.":
            message.flags |= dns.flags.AD
        return message

    async def work(names: NameServer) -> None:
        names.answer_with("test", sign)
        validating = resolver(names, dnssec=DNSSEC.RESOLVER)
        assert (await validating.look_up("1.test", "A", Findings())).is_secure
        assert not (await validating.look_up("3.test", "A", Findings())).is_secure
        assert not (await resolver(names).look_up("1.test", "A", Findings())).is_secure

    run(work)


def test_alias_to_nothing_is_asked_once() -> None:
    """A chain that was followed to its end and led to nothing is an answer."""

    async def work(names: NameServer) -> None:
        names.set("a.test", "CNAME", "b.test.")
        names.set("b.test", "TXT", '"x"')
        answer = await resolver(names).look_up("a.test", "CAA", Findings())
        assert (answer.records, answer.name_exists, len(names.questions)) == ((), True, 1)

    run(work)


@pytest.mark.parametrize("dnssec", list(DNSSEC))
def test_signatures_are_asked_for_where_they_count(dnssec: DNSSEC) -> None:
    """Queries ask for recursion, fit 1232 bytes, and set DO and AD, but never CD, when the resolver validates."""
    queries = []

    def keep(query: dns.message.Message) -> dns.message.Message:
        queries.append(query)
        return dns.message.make_response(query)

    async def work(names: NameServer) -> None:
        names.answer_with("test", keep)
        await resolver(names, dnssec=dnssec).look_up("a.test", "CAA", Findings())
        is_validating = dnssec is DNSSEC.RESOLVER
        (query,) = queries
        assert query.flags == dns.flags.RD | (dns.flags.AD if is_validating else 0)
        assert (bool(query.ednsflags & dns.flags.DO), query.payload) == (is_validating, 1232)

    run(work)


def test_questions_of_one_examination_are_counted() -> None:
    """After a hundred questions an examination is over."""

    async def work(names: NameServer) -> None:
        findings = Findings()
        for _ in range(100):
            await resolver(names).look_up("a.test", "A", findings)
        with pytest.raises(ValidationError, match="more than 100 DNS questions"):
            await resolver(names).look_up("a.test", "A", findings)

    run(work)


def test_evidence_is_cut() -> None:
    """However large the answers are, the notes about them stay small."""

    async def work(names: NameServer) -> None:
        names.set("big.test", "TXT", *('"' + f"{number:0255}" + '"' for number in range(200)))
        findings = Findings()
        for _ in range(10):
            await resolver(names).look_up("big.test", "TXT", findings)
        assert sum(len(text) for lookup in findings.lookups for text in lookup.answers) < 110_000
        assert findings.lookups[0].answers[-1] == "… and 150 more"

    run(work)


def test_names_that_dns_cannot_hold_are_problems() -> None:
    """A name that is too long with `_acme-challenge.` before it is told to the applicant."""

    async def work(names: NameServer) -> None:
        with pytest.raises(ValidationError, match="cannot be looked up"):
            await resolver(names).look_up(".".join(["a" * 60] * 5), "TXT", Findings())

    run(work)


# DNSSEC by the resolver's word, and the settings


def test_answers_are_secure_only_where_the_resolver_validates() -> None:
    """The AD flag counts only when DNSSEC is left to the resolver; with DNSSEC off nothing is secure."""

    async def work(names: NameServer) -> None:
        names.claims_secure = True
        names.set("a.test", "A", "192.0.2.1")
        findings = Findings()
        assert not (await resolver(names).look_up("a.test", "A", findings)).is_secure
        assert (await resolver(names, dnssec=DNSSEC.RESOLVER).look_up("a.test", "A", findings)).is_secure
        names.claims_secure = False
        names.set("a.test", "A", "192.0.2.1")
        assert not (await resolver(names, dnssec=DNSSEC.RESOLVER).look_up("a.test", "A", findings)).is_secure
        assert [lookup.is_secure for lookup in findings.lookups] == [False, True, False]

    run(work)


def test_check_finds_resolvers_that_do_not_validate() -> None:
    """The check passes with a resolver that says a signed zone is secure, and tells what to install without."""

    async def work(names: NameServer) -> None:
        names.set("closed.test", "SOA", "ns.closed.test. root.closed.test. 1 1 1 1 1")
        settings = ValidationSettings(
            servers=(names.server,), dnssec=DNSSEC.RESOLVER, dnssec_anchor="closed.test", dns_timeout_s=0.2
        )
        with pytest.raises(PeerError, match="apt-get install unbound"):
            await check_resolver(settings)
        names.claims_secure = True
        names.set("closed.test", "SOA", "ns.closed.test. root.closed.test. 1 1 1 1 1")
        await check_resolver(settings)
        names.fail("closed.test", Failure.TIMEOUT)
        with pytest.raises(PeerError, match="does not answer"):
            await check_resolver(settings)
        await check_resolver(ValidationSettings(servers=(names.server,)))

    run(work)


def test_validating_resolvers_are_near_or_named() -> None:
    """A server that is not on this machine may validate only when the settings name it as trusted."""
    with pytest.raises(UsageError, match="trusted_servers"):
        Resolver(ValidationSettings(servers=("192.0.2.53",), dnssec=DNSSEC.RESOLVER))
    Resolver(ValidationSettings(servers=("192.0.2.53",), dnssec=DNSSEC.RESOLVER, trusted_servers=("192.0.2.53",)))
    Resolver(ValidationSettings(servers=("[::1]:5353", "127.0.0.53"), dnssec=DNSSEC.RESOLVER))
    Resolver(ValidationSettings(servers=("192.0.2.53",)))


@pytest.mark.parametrize(
    ("text", "server"),
    [
        ("127.0.0.1", Server("127.0.0.1", 53)),
        ("127.0.0.1:5353", Server("127.0.0.1", 5353)),
        ("::1", Server("::1", 53)),
        ("[::1]", Server("::1", 53)),
        ("[::1]:5353", Server("::1", 5353)),
        ("dns.example", None),
        ("127.0.0.1:0x", None),
        ("127.0.0.1:99999", None),
        ("user@127.0.0.1", None),
        ("127.0.0.1/x", None),
        ("", None),
    ],
)
def test_servers_are_addresses(text: str, server: Server | None) -> None:
    """A server is an address with a port or without; names would have to be looked up first."""
    if server is None:
        with pytest.raises(FormatError):
            Server.parse(text)
        with pytest.raises(UsageError):
            ValidationSettings(servers=(text,))
    else:
        assert Server.parse(text) == server
        assert Server.parse(str(server)) == server


def test_settings_that_cannot_be_are_refused() -> None:
    """Ports, times and counts have their ranges."""
    for wrong in (
        {"http_port": 0},
        {"tls_port": 70000},
        {"dns_timeout_s": 0.0},
        {"dns_attempts": 0},
        {"dnssec_anchor": "a..b"},
    ):
        with pytest.raises(UsageError):
            ValidationSettings(**wrong)


def test_errors_of_validation_are_errors_of_the_house() -> None:
    """A failed validation is policy's no, carries its problem, and survives pickling."""
    error = ValidationError.of(ProblemType.DNS, "no")
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - of our own making
    assert isinstance(again, ValidationError)
    assert isinstance(again, Rejected)
    assert (again.problem, again.message) == (error.problem, "no")
