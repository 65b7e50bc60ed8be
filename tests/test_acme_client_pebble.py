"""The ACME client against Pebble, which makes legal but unusual choices so that clients stay honest."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from tests.acme_programs import ACMEServerUnderTest, write_hook
from tests.pebble import EAB_KEY, EAB_KID, running_pebble

from mtc.acme.client import (
    AccountKey,
    ACMEClient,
    ACMERefusal,
    ExternalAccount,
    Issued,
    build_csr,
    generate_key,
    open_client,
)
from mtc.acme.client.keys import encode_spki, parse_mac_key
from mtc.acme.client.ordering import authorize, complete, download
from mtc.acme.client.solvers import HookSolver, HTTPSolver, Solver, TLSALPNSolver, WebrootSolver
from mtc.acme.client.transport import TransportLimits
from mtc.acme.machine.identifiers import Identifier
from mtc.acme.machine.orders import OrderStatus
from mtc.errors import PeerError, Reason, UsageError

LIMITS = TransportLimits(deadline_s=30, attempt_s=10)


@pytest.fixture(scope="module")
def pebble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ACMEServerUnderTest]:
    """Return a Pebble that calls every fifth good nonce bad."""
    with running_pebble(tmp_path_factory.mktemp("pebble")) as running:
        yield running


async def issue(
    client: ACMEClient, solver: Solver, names: list[Identifier], key_type: str = "ecdsa-p256"
) -> tuple[Issued, bytes]:
    """Order, validate, finalize, download; return the certificate and the SPKI of the key."""
    key = generate_key(key_type)
    order = await client.new_order(names)
    order = await complete(client, order, [solver], lambda: build_csr(key, names), deadline_s=30)
    return await download(client, order), encode_spki(key)


def names_of(issued: Issued) -> set[str]:
    """Return the names of a certificate as text."""
    leaf = x509.load_der_x509_certificate(issued.chains[0].certificates[0])
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in names}


@pytest.mark.parametrize("account_type", ["ecdsa-p256", "ecdsa-p384", "rsa-2048"])
def test_http_01_gives_a_certificate(pebble: ACMEServerUnderTest, account_type: str) -> None:
    """The built-in web server answers for several names at once, whatever signs the account's requests."""
    names = [Identifier.dns("one.example.com"), Identifier.dns("two.example.com")]

    async def run() -> tuple[Issued, bytes, int]:
        async with open_client(
            pebble.directory_url, AccountKey.generate(account_type), ca_file=pebble.ca_file, limits=LIMITS
        ) as client:
            account = await client.register(contacts=["mailto:admin@example.com"], agrees_to_terms=True)
            assert account.is_new
            again = await client.register(only_existing=True)
            assert (again.url, again.is_new) == (account.url, False)
            issued, spki = await issue(client, HTTPSolver(pebble.http_port), names)
            return issued, spki, client.transport.counts.bad_nonces

    issued, spki, _ = asyncio.run(run())
    leaf = x509.load_der_x509_certificate(issued.chains[0].certificates[0])
    assert spki in issued.chains[0].certificates[0]
    assert leaf.not_valid_after_utc > leaf.not_valid_before_utc
    assert names_of(issued) == {"one.example.com", "two.example.com"}


def test_bad_nonces_are_told_to_nobody(tmp_path: Path) -> None:
    """Where half of all good nonces are called bad, a whole order succeeds all the same."""

    async def run(pebble: ACMEServerUnderTest) -> int:
        key = AccountKey.generate()
        async with open_client(pebble.directory_url, key, ca_file=pebble.ca_file, limits=LIMITS) as client:
            await client.register(agrees_to_terms=True)
            await issue(client, HTTPSolver(pebble.http_port), [Identifier.dns("nonce.example.com")])
            return client.transport.counts.bad_nonces

    with running_pebble(tmp_path, variables={"PEBBLE_WFE_NONCEREJECT": "50"}) as pebble:
        assert asyncio.run(run(pebble)) > 0


def test_addresses_are_certified_too(pebble: ACMEServerUnderTest) -> None:
    """http-01 and tls-alpn-01 answer for an IP address."""
    names = [Identifier.ip("127.0.0.1")]

    async def run(solver: Solver) -> Issued:
        key = AccountKey.generate()
        async with open_client(pebble.directory_url, key, ca_file=pebble.ca_file, limits=LIMITS) as client:
            await client.register(agrees_to_terms=True)
            return (await issue(client, solver, names))[0]

    assert names_of(asyncio.run(run(HTTPSolver(pebble.http_port)))) == {"127.0.0.1"}
    assert names_of(asyncio.run(run(TLSALPNSolver(pebble.tls_port)))) == {"127.0.0.1"}


def test_tls_alpn_01_gives_a_certificate(pebble: ACMEServerUnderTest) -> None:
    """The built-in TLS server answers for several names at once."""
    names = [Identifier.dns("a.tls.example.com"), Identifier.dns("b.tls.example.com")]

    async def run() -> Issued:
        key = AccountKey.generate()
        async with open_client(pebble.directory_url, key, ca_file=pebble.ca_file, limits=LIMITS) as client:
            await client.register(agrees_to_terms=True)
            return (await issue(client, TLSALPNSolver(pebble.tls_port), names))[0]

    assert names_of(asyncio.run(run())) == {"a.tls.example.com", "b.tls.example.com"}


def test_dns_01_gives_a_wildcard(pebble: ACMEServerUnderTest, tmp_path: Path) -> None:
    """A hook program adds the record of a wildcard, and removes it."""
    hook = write_hook(tmp_path / "hook.py", pebble.names, words="arguments")
    names = [Identifier.dns("*.wild.example.com")]

    async def run() -> Issued:
        key = AccountKey.generate()
        async with open_client(pebble.directory_url, key, ca_file=pebble.ca_file, limits=LIMITS) as client:
            await client.register(agrees_to_terms=True)
            return (await issue(client, HookSolver(str(hook)), names))[0]

    assert names_of(asyncio.run(run())) == {"*.wild.example.com"}


def test_wildcard_needs_dns(pebble: ACMEServerUnderTest) -> None:
    """With http-01 alone a wildcard is refused here, with the option that helps."""

    async def run() -> None:
        key = AccountKey.generate()
        async with open_client(pebble.directory_url, key, ca_file=pebble.ca_file, limits=LIMITS) as client:
            await client.register(agrees_to_terms=True)
            await issue(client, HTTPSolver(pebble.http_port), [Identifier.dns("*.example.com")])

    with pytest.raises(UsageError, match="a wildcard needs dns-01"):
        asyncio.run(run())


def test_answer_that_nobody_serves_is_a_refusal(pebble: ACMEServerUnderTest, tmp_path: Path) -> None:
    """Without a web server behind the folder the error names what the server saw and what helps; the file is gone."""

    async def run() -> None:
        key = AccountKey.generate()
        async with open_client(pebble.directory_url, key, ca_file=pebble.ca_file, limits=LIMITS) as client:
            await client.register(agrees_to_terms=True)
            names = [Identifier.dns("nobody.example.com"), Identifier.dns("noone.example.com")]
            await issue(client, WebrootSolver(tmp_path), names)

    with pytest.raises(ACMERefusal, match="must reach this machine at the port of the challenge") as caught:
        asyncio.run(run())
    assert "nobody.example.com was not validated" in caught.value.message
    assert "noone.example.com was not validated" in caught.value.message
    assert caught.value.problem.kind in ("connection", "unauthorized")
    assert list((tmp_path / ".well-known" / "acme-challenge").iterdir()) == []


def test_account_lives_and_ends(pebble: ACMEServerUnderTest) -> None:
    """Contacts change, the key changes, the old key is nobody's any more, and a deactivated account is refused."""

    async def run() -> None:
        old, new = AccountKey.generate(), AccountKey.generate("ecdsa-p384")
        async with open_client(pebble.directory_url, old, ca_file=pebble.ca_file, limits=LIMITS) as client:
            await client.register(agrees_to_terms=True)
            url = client.account_url
            assert (await client.update_account(["mailto:b@example.com"])).contacts == ("mailto:b@example.com",)
            await client.change_key(new)
            assert (await client.fetch_account()).status == "valid"
            client.key = old
            with pytest.raises(ACMERefusal) as caught:
                await client.register(only_existing=True)
            assert caught.value.problem.kind == "accountDoesNotExist"
            client.key, client.account_url = new, url
            assert (await client.deactivate_account()).status == "deactivated"
            with pytest.raises(ACMERefusal) as caught:
                await client.new_order([Identifier.dns("late.example.com")])
            assert caught.value.reason is Reason.UNAUTHORIZED

    asyncio.run(run())


def test_orders_are_listed_and_taken_up(pebble: ACMEServerUnderTest) -> None:
    """An order that stopped after validation is found by its URL and goes on from where it stood."""
    names = [Identifier.dns("resumed.example.com")]

    async def run() -> None:
        key = AccountKey.generate()
        async with open_client(pebble.directory_url, key, ca_file=pebble.ca_file, limits=LIMITS) as client:
            await client.register(agrees_to_terms=True)
            order = await client.new_order(names)
            solver = HTTPSolver(pebble.http_port)
            await authorize(client, order, [solver], deadline_s=30)
            url, account = order.url, client.account_url
            assert url in await client.fetch_orders()
        certificate_key = generate_key("ecdsa-p256")
        async with open_client(pebble.directory_url, key, ca_file=pebble.ca_file, limits=LIMITS) as client:
            client.account_url = account
            order = await client.fetch_order(url)
            assert order.status is OrderStatus.READY
            order = await complete(client, order, [], lambda: build_csr(certificate_key, names), deadline_s=30)
            # A request that was sent twice, because its answer was lost, changes nothing.
            again = await client.finalize(order, build_csr(certificate_key, names))
            assert again.status is OrderStatus.VALID
            assert names_of(await download(client, order)) == {"resumed.example.com"}

    asyncio.run(run())


@pytest.mark.parametrize("by", ["account", "key"])
def test_certificates_are_revoked(pebble: ACMEServerUnderTest, by: str) -> None:
    """The account revokes, and so does the certificate's own key; a second time is refused with its own type."""
    names = [Identifier.dns("revoked.example.com")]

    async def run() -> None:
        key = AccountKey.generate()
        async with open_client(pebble.directory_url, key, ca_file=pebble.ca_file, limits=LIMITS) as client:
            await client.register(agrees_to_terms=True)
            certificate_key = generate_key("ecdsa-p256")
            order = await client.new_order(names)
            solver = HTTPSolver(pebble.http_port)
            order = await complete(client, order, [solver], lambda: build_csr(certificate_key, names), deadline_s=30)
            leaf = (await download(client, order)).chains[0].certificates[0]
            signer = AccountKey(certificate_key) if by == "key" else None
            await client.revoke(leaf, reason=1, key=signer)
            with pytest.raises(ACMERefusal) as caught:
                await client.revoke(leaf, reason=1, key=signer)
            assert caught.value.problem.kind == "alreadyRevoked"

    asyncio.run(run())


def test_external_accounts_bind(tmp_path: Path) -> None:
    """A server that wants an external account refuses without one, names the options, and takes a right one."""

    async def run(pebble: ACMEServerUnderTest) -> None:
        key = AccountKey.generate()
        async with open_client(pebble.directory_url, key, ca_file=pebble.ca_file, limits=LIMITS) as client:
            assert client.directory.external_account_required
            with pytest.raises(ACMERefusal, match="--eab-kid"):
                await client.register(agrees_to_terms=True)
            wrong = ExternalAccount(EAB_KID, b"w" * 32)
            with pytest.raises(ACMERefusal):
                await client.register(agrees_to_terms=True, external_account=wrong)
            right = ExternalAccount(EAB_KID, parse_mac_key(EAB_KEY.encode()))
            assert (await client.register(agrees_to_terms=True, external_account=right)).is_new

    with running_pebble(tmp_path, wants_external_account=True) as pebble:
        asyncio.run(run(pebble))


def test_server_without_trust_is_not_spoken_to(pebble: ACMEServerUnderTest) -> None:
    """A server whose certificate the system does not know is refused, with the option that helps."""

    async def run() -> None:
        async with open_client(pebble.directory_url, AccountKey.generate(), limits=TransportLimits(attempts=1)):
            raise AssertionError

    with pytest.raises(PeerError, match="--ca-file") as caught:
        asyncio.run(run())
    assert caught.value.reason is Reason.UNAUTHORIZED


def test_other_urls_of_a_server_are_no_directory(pebble: ACMEServerUnderTest) -> None:
    """A URL that is none of ACME's is called so."""

    async def run(url: str) -> None:
        async with open_client(url, AccountKey.generate(), ca_file=pebble.ca_file, limits=TransportLimits(attempts=1)):
            raise AssertionError

    with pytest.raises((PeerError, ACMERefusal)):
        asyncio.run(run(pebble.directory_url.replace("/dir", "/nothing")))
