"""Finalizing orders at the ACME server: what is asked for, twice, at once, and across restarts and load."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from tests.acme_server import (
    Client,
    ServerUnderTest,
    Shared,
    csr_for,
    default_config,
    run_with,
    scratch,
    shared_server,
)

from mtc.acme.server import challenges


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    """Run one server for all tests of this file that need no other."""
    with shared_server() as server:
        yield server


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have answers to challenges wait for a moment only, because tests hold validations back."""
    monkeypatch.setattr(challenges, "_PATIENCE_S", 0.05)


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
