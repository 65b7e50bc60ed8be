"""DNSSEC at the primary: a real unbound validates signed zones in front of the perspective."""

import asyncio
import bisect
import contextlib
import os
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path

import dns.asyncquery
import dns.dnssec
import dns.dnssectypes
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.node
import dns.rcode
import dns.rdataset
import dns.rdatatype
import dns.rrset
import dns.zone
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from tests.acme_validating import CA_DOMAIN, KEY_AUTHORIZATION, problem_of, task

from mtc.acme.machine.validation import Method, Report
from mtc.acme.validation import DNSSEC, LocalPerspective, ValidationSettings, check_resolver, digest_text
from mtc.errors import PeerError
from mtc.testing.fleet import free_port
from mtc.testing.names import NameServer

DIGEST = digest_text(KEY_AUTHORIZATION)
START_S = 60.0
DAY_S = 86400


class SignedZone:
    """A zone signed with a new key, and how its server answers: with signatures, and proofs of what is not there."""

    def __init__(self, origin: str, records: str, *, lifetime_s: int = DAY_S) -> None:
        """Sign the records of a zone file with signatures that began two days ago. lifetime_s: from now on."""
        head = "@ 60 IN SOA ns hostmaster 1 3600 600 86400 60\n@ 60 IN NS ns\nns 60 IN A 127.0.0.1\n"
        self.zone = dns.zone.from_text(head + records, origin=origin, relativize=False)
        self.origin = dns.name.from_text(origin)
        private = ec.generate_private_key(ec.SECP256R1())
        self.key = dns.dnssec.make_dnskey(private.public_key(), dns.dnssectypes.Algorithm.ECDSAP256SHA256, flags=257)
        now = int(time.time())
        dns.dnssec.sign_zone(
            self.zone, keys=[(private, self.key)], inception=now - 2 * DAY_S, expiration=now + lifetime_s
        )

    @property
    def trust_anchor(self) -> str:
        """The key as a resolver trusts it."""
        return f"{self.origin} 60 IN DNSKEY {self.key.to_text()}"

    def spoil(self, name: str, type_: str, *values: str) -> None:
        """Change records after they were signed, as a forger would."""
        self.zone.find_node(name).replace_rdataset(dns.rdataset.from_text("IN", type_, 60, *values))

    def answer(self, query: dns.message.Message) -> dns.message.Message:
        """Answer a query for a name in the zone."""
        message = dns.message.make_response(query)
        message.flags |= dns.flags.AA
        question = query.question[0]
        node = self.zone.get_node(question.name)
        if node is not None and _add(message.answer, question.name, node, question.rdtype):
            return message
        if node is not None and _add(message.answer, question.name, node, dns.rdatatype.CNAME):
            return message
        exists_below = any(name.is_subdomain(question.name) for name in self.zone.nodes)
        if node is None and not exists_below:
            message.set_rcode(dns.rcode.NXDOMAIN)
        _add(message.authority, self.origin, self.zone.find_node(self.origin), dns.rdatatype.SOA)
        wildcard = dns.name.Name((b"*", *question.name.parent().labels))
        names = sorted(name for name in self.zone.nodes if self.zone.get_rdataset(name, "NSEC"))
        covering = {names[bisect.bisect_right(names, name) - 1] for name in (question.name, wildcard, self.origin)}
        for name in sorted(covering):
            _add(message.authority, name, self.zone.find_node(name), dns.rdatatype.NSEC)
        return message


def _add(
    section: list[dns.rrset.RRset], name: dns.name.Name, node: dns.node.Node, type_: dns.rdatatype.RdataType
) -> bool:
    """Add the records of a type and their signatures to a section; return whether there were any."""
    records = node.get_rdataset(dns.rdataclass.IN, type_)
    if records is None:
        return False
    section.append(dns.rrset.from_rdata_list(name, records.ttl, list(records)))
    signatures = node.get_rdataset(dns.rdataclass.IN, dns.rdatatype.RRSIG, type_)
    if signatures is not None:
        section.append(dns.rrset.from_rdata_list(name, signatures.ttl, list(signatures)))
    return True


def _configuration(folder: Path, port: int, names: NameServer, zones: list[SignedZone]) -> str:
    """Return a configuration of unbound that knows one server, for everything, and the keys of some zones."""
    anchors = "\n".join(f'  trust-anchor: "{zone.trust_anchor}"' for zone in zones)
    host, upstream = names.address
    stubs = "\n".join(
        f'stub-zone:\n  name: "{zone}"\n  stub-addr: {host}@{upstream}'
        for zone in ("test.", *(zone.origin.to_text() for zone in zones))
    )
    return f"""
server:
  interface: 127.0.0.1@{port}
  do-ip6: no
  do-daemonize: no
  num-threads: 1
  username: ""
  chroot: ""
  directory: "{folder}"
  pidfile: "{folder}/unbound.pid"
  use-syslog: no
  logfile: "{folder}/unbound.log"
  do-not-query-localhost: no
  module-config: "validator iterator"
  local-zone: "test." nodefault
  ede: yes
  cache-max-ttl: 0
{anchors}
remote-control:
  control-enable: no
{stubs}
"""


@contextlib.asynccontextmanager
async def unbound(folder: Path, names: NameServer, zones: list[SignedZone]) -> AsyncIterator[str]:
    """Run unbound in front of a name server; yields where it answers."""
    program = shutil.which("unbound", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("the package unbound is not installed (apt-get install unbound)")
    port = free_port()
    file = folder / "unbound.conf"
    file.write_text(_configuration(folder, port, names, zones))
    process = await asyncio.create_subprocess_exec(
        program, "-d", "-c", str(file), stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(START_S):
            await _until_ready(port)
        yield f"127.0.0.1:{port}"
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _until_ready(port: int) -> None:
    """Ask until there is an answer."""
    while True:
        with contextlib.suppress(dns.exception.DNSException, OSError):
            await dns.asyncquery.udp(dns.message.make_query("test", "SOA"), "127.0.0.1", 0.3, port)
            return


CAA = f'@ 60 IN CAA 0 issue "{CA_DOMAIN}"'


@pytest.fixture
def zones() -> dict[str, SignedZone]:
    """Zones that are signed well, with a spoiled record, and with signatures that ended yesterday."""
    proof = f'_acme-challenge.www 60 IN TXT "{DIGEST}"'
    alias = "_acme-challenge.alias 60 IN CNAME _acme-challenge.www.insecure.test."
    made = {
        "secure": SignedZone("secure.test.", f"{CAA}\nwww 60 IN A 127.0.0.1\n{proof}\n{alias}\n"),
        "bogus": SignedZone("bogus.test.", f"{CAA}\nwww 60 IN A 127.0.0.1\n{proof}\n"),
        "bogus-caa": SignedZone("bogus-caa.test.", f"{CAA}\n{proof}\n"),
        "expired": SignedZone("expired.test.", f"{CAA}\n{proof}\n", lifetime_s=-DAY_S),
    }
    made["bogus"].spoil("_acme-challenge.www.bogus.test.", "TXT", '"forged"', f'"{DIGEST}"')
    made["bogus-caa"].spoil("bogus-caa.test.", "CAA", f'0 issue "{CA_DOMAIN}; policy=ev"')
    return made


def test_dnssec_is_validated(tmp_path: Path, zones: dict[str, SignedZone]) -> None:
    """Secure answers are marked, insecure ones pass, and what was forged or has expired fails the validation."""

    async def main() -> None:
        async with NameServer() as names:
            for zone in zones.values():
                names.answer_with(zone.origin.to_text(), zone.answer)
            names.set("_acme-challenge.www.insecure.test", "TXT", f'"{DIGEST}"')
            async with unbound(tmp_path, names, list(zones.values())) as server:
                await check(server)

    async def check(server: str) -> None:
        settings = ValidationSettings(servers=(server,), dnssec=DNSSEC.RESOLVER, dnssec_anchor="secure.test")
        await check_resolver(settings)
        with pytest.raises(PeerError, match="does not validate DNSSEC"):
            await check_resolver(
                ValidationSettings(servers=(server,), dnssec=DNSSEC.RESOLVER, dnssec_anchor="insecure.test")
            )
        looker = LocalPerspective(settings)

        async def examine(zone: str, host: str = "www") -> Report:
            return await looker.examine(task(f"{host}.{zone}.test", Method.DNS_01))

        secure = await examine("secure")
        assert secure.problem is None
        assert secure.caa_name == "secure.test"
        assert {lookup.name: lookup.is_secure for lookup in secure.lookups} == {
            "_acme-challenge.www.secure.test": True,
            "www.secure.test": True,  # That there is no CAA record is proven.
            "secure.test": True,
        }
        alias = await examine("secure", "alias")
        assert alias.problem is None
        assert not next(lookup for lookup in alias.lookups if lookup.type == "TXT").is_secure
        insecure = await examine("insecure")
        assert insecure.problem is None
        assert not any(lookup.is_secure for lookup in insecure.lookups)
        for zone, broken in (("bogus", "TXT"), ("bogus-caa", "CAA"), ("expired", "TXT")):
            report = await examine(zone)
            kind, detail = problem_of(report)
            assert (kind, f"looking up {broken}" in detail) == ("dns", True), detail
            assert "DNSSEC validation failed" in detail
            failed = next(lookup for lookup in report.lookups if lookup.type == broken and lookup.status != "NOERROR")
            assert failed.status == "SERVFAIL"
            assert any(text.startswith("EDE ") for text in failed.answers), failed

    asyncio.run(main())
