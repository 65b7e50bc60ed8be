"""A stub resolver: asks, over UDP and then TCP, follows aliases, and notes every question and answer.

It keeps nothing: what was true at the last validation says nothing about this one. DNSSEC is validated by the resolver
that it asks, which has to stand where nobody can forge its answers.

Spec: RFC 1035; RFC 6891 (EDNS); RFC 4035, "The AD and CD Header Bits"; RFC 8914 (extended errors).
"""

from dataclasses import dataclass

import dns.asyncquery
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdatatype

from mtc.acme.machine.problems import ProblemType
from mtc.acme.machine.validation import Lookup
from mtc.acme.validation.findings import Findings, ValidationError
from mtc.acme.validation.settings import DNSSEC, Server, ValidationSettings
from mtc.errors import PeerError, Reason

_UDP_BYTES = 1232
"""What fits into every path (DNS Flag Day 2020)."""
_MAX_ALIASES = 8
_MAX_RECORDS = 1000


@dataclass(frozen=True, slots=True)
class Answer:
    """What there is of a type at a name. records: none when the name or the type is not there. name_exists: which.

    is_secure: every step to it was validated. server: who answered. status: the response code's name.
    """

    records: tuple[dns.rdata.Rdata, ...]
    name_exists: bool
    is_secure: bool
    server: str
    status: str


@dataclass(frozen=True, slots=True)
class _Step:
    """One answer: records, or else the name that it leads on to, or neither."""

    answer: Answer
    alias: dns.name.Name | None = None


class Resolver:
    """Asks the servers of some settings. Safe to use from many tasks of one event loop."""

    def __init__(self, settings: ValidationSettings) -> None:
        """Find out whom to ask. Raises UsageError and PeerError as `ValidationSettings.choose_servers` does."""
        self._settings = settings
        self._servers = settings.choose_servers()
        self._is_validating = settings.dnssec is DNSSEC.RESOLVER

    async def look_up(self, name: str, type_: str, findings: Findings) -> Answer:
        """Ask for the records of a name, through aliases. Notes every question.

        Raises ValidationError (dns) when there is no answer: servers that fail or are silent, DNSSEC that does not
        validate, aliases in a circle.
        """
        try:
            asked = dns.name.from_text(name)
        except dns.exception.DNSException as error:
            raise ValidationError.of(ProblemType.DNS, f"{name[:300]} cannot be looked up: {error}") from error
        is_secure = True
        for _ in range(_MAX_ALIASES):
            step = await self._ask(asked, dns.rdatatype.from_text(type_), findings)
            is_secure = is_secure and step.answer.is_secure
            if step.alias is None:
                answer = step.answer
                return Answer(answer.records, answer.name_exists, is_secure, answer.server, answer.status)
            asked = step.alias
        raise ValidationError.of(ProblemType.DNS, f"{type_} of {name}: more than {_MAX_ALIASES} aliases, one by one")

    async def _ask(self, name: dns.name.Name, type_: dns.rdatatype.RdataType, findings: Findings) -> _Step:
        """Return the first useful answer of any server. Raises ValidationError when there is none."""
        failures = []
        failed: set[Server] = set()
        for attempt in range(self._settings.dns_attempts):
            server = self._servers[attempt % len(self._servers)]
            if server in failed:
                continue  # It has said no; only one that was silent is asked again.
            outcome = await self._ask_server(server, name, type_, findings)
            if isinstance(outcome, _Step):
                return outcome
            if not outcome.startswith("TIMEOUT"):
                failed.add(server)
            failures.append(f"{server}: {outcome}")
        what = f"looking up {type_.name} of {name.to_text(omit_final_dot=True)} failed ({'; '.join(failures)})"
        if self._is_validating and any("SERVFAIL" in failure for failure in failures):
            what += "; DNSSEC validation failed, or the resolver did: check the signatures and DS records of the zone"
        raise ValidationError.of(ProblemType.DNS, what)

    async def _ask_server(
        self, server: Server, name: dns.name.Name, type_: dns.rdatatype.RdataType, findings: Findings
    ) -> _Step | str:
        """Ask one server once; return what it says, or how it failed."""
        shown = name.to_text(omit_final_dot=True)
        status, step, answers = "TIMEOUT", None, tuple[str, ...]()
        try:
            message = await _exchange(self._settings, server, name, type_)
            status = dns.rcode.to_text(message.rcode())
            if _is_referral(message):
                status = "REFERRAL"
            elif message.rcode() in {dns.rcode.NOERROR, dns.rcode.NXDOMAIN}:
                step, answers = self._read(message, server, type_)
            else:
                answers = tuple(f"EDE {item.to_text()}" for item in message.extended_errors())
        except dns.exception.Timeout:
            pass
        except (dns.exception.DNSException, OSError, EOFError) as error:
            # A broken answer, a refused connection: as bad as none, and said so.
            status = f"{type(error).__name__}: {error}"[:200]
        is_secure = step is not None and step.answer.is_secure
        findings.add_lookup(
            Lookup(name=shown, type=type_.name, status=status, answers=answers, is_secure=is_secure, server=str(server))
        )
        return step or ", ".join((status, *answers))[:400]

    def _read(
        self, message: dns.message.Message, server: Server, type_: dns.rdatatype.RdataType
    ) -> tuple[_Step, tuple[str, ...]]:
        """Return what an answer says, and its records as text. Raises dns.exception.DNSException."""
        is_secure = self._is_validating and bool(message.flags & dns.flags.AD)
        exists = message.rcode() == dns.rcode.NOERROR
        status = dns.rcode.to_text(message.rcode())
        if not message.answer:
            return _Step(Answer((), exists, is_secure, str(server), status)), ()
        assert isinstance(message, dns.message.QueryMessage)
        chain = message.resolve_chaining()
        records = tuple(chain.answer) if chain.answer is not None else ()
        if len(records) > _MAX_RECORDS:
            raise ValidationError.of(
                ProblemType.DNS, f"{server} answers with more than {_MAX_RECORDS} {type_.name} records"
            )
        aliases = [f"CNAME {record.target}" for rrset in chain.cnames for record in rrset]
        texts = (*aliases, *(record.to_text() for record in records))
        # A recursive resolver follows aliases to the end; a server that knows only the first part leaves it to us. The
        # end of a chain that was followed and led to nothing shows in the SOA record.
        is_open = not records and exists and bool(chain.cnames) and type_ != dns.rdatatype.CNAME
        has_end = any(rrset.rdtype == dns.rdatatype.SOA for rrset in message.authority)
        alias = chain.canonical_name if is_open and not has_end else None
        return _Step(Answer(records, exists, is_secure, str(server), status), alias), texts


def _is_referral(message: dns.message.Message) -> bool:
    """Tell whether a server only says who else might know: it is no resolver, and has not said that there is nothing.

    Taken for an empty answer, it would let everybody issue where CAA forbids it.
    """
    types = {rrset.rdtype for rrset in message.authority}
    is_empty = message.rcode() == dns.rcode.NOERROR and not message.answer and not message.flags & dns.flags.AA
    return is_empty and dns.rdatatype.NS in types and dns.rdatatype.SOA not in types


async def _exchange(
    settings: ValidationSettings, server: Server, name: dns.name.Name, type_: dns.rdatatype.RdataType
) -> dns.message.Message:
    """Ask one server once, over UDP and, when the answer was truncated, TCP; from a random port, with a random ID.

    Whatever does not answer the question is passed over. Raises dns.exception.DNSException, OSError, EOFError.
    """
    is_validating = settings.dnssec is DNSSEC.RESOLVER
    query = dns.message.make_query(
        name,
        type_,
        use_edns=0,
        payload=_UDP_BYTES,
        want_dnssec=is_validating,
        flags=int(dns.flags.RD | (dns.flags.AD if is_validating else 0)),
    )
    message, _ = await dns.asyncquery.udp_with_fallback(
        query, server.host, settings.dns_timeout_s, server.port, ignore_errors=True
    )
    return message


async def check_resolver(settings: ValidationSettings) -> None:
    """Find out whether the resolvers answer and, where they have to, validate DNSSEC.

    Raises UsageError when one may not be trusted to validate, PeerError with the cure when one does not.
    """
    anchor = dns.name.from_text(settings.dnssec_anchor)
    for server in settings.choose_servers():
        try:
            message = await _exchange(settings, server, anchor, dns.rdatatype.SOA)
        except (dns.exception.DNSException, OSError, EOFError) as error:
            raise PeerError(
                Reason.PEER,
                f"the DNS server {server} does not answer ({error}); start it, or set servers",
                server=str(server),
            ) from error
        is_secure = message.rcode() == dns.rcode.NOERROR and message.answer and message.flags & dns.flags.AD
        if settings.dnssec is DNSSEC.RESOLVER and not is_secure:
            raise PeerError(
                Reason.PEER,
                f"the DNS server {server} does not validate DNSSEC: it says {dns.rcode.to_text(message.rcode())}, and "
                f"not that {settings.dnssec_anchor} is secure; install a validating resolver (apt-get install unbound) "
                "and set servers to 127.0.0.1",
                server=str(server),
                zone=settings.dnssec_anchor,
            )
