"""Attacks on the ACME server: races, evidence that grows old, a log that takes nothing, floods."""

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from tests.acme_server import (
    Answer,
    Client,
    ServerUnderTest,
    Shared,
    csr_for,
    default_config,
    identifier,
    run_with,
    shared_server,
)

from mtc.acme.machine.evidence import RecordKind
from mtc.acme.machine.orders import Account, AccountStatus
from mtc.acme.machine.problems import Problem, ProblemType
from mtc.acme.server import challenges, issuing
from mtc.acme.server.nonces import NoncePool
from mtc.acme.sqlite import SQLiteACMEStore
from mtc.acme.store import ACMEStore, Change, Replace
from mtc.errors import ConflictError, Reason, StorageError
from mtc.log.service import CosignerView, NoQuorumError, SignedTree, TreeToSign

HOUR_S, DAY_S = 3600, 86400
NAME = "victim.example.com"


@pytest.fixture(scope="module")
def shared() -> Iterator[Shared]:
    """Run one server for all tests of this file that need no other."""
    with shared_server() as server:
        yield server


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have answers wait for a moment only, because tests hold back what they wait for."""
    monkeypatch.setattr(challenges, "_PATIENCE_S", 0.05)
    monkeypatch.setattr(issuing, "_PATIENCE_S", 0.3)
    monkeypatch.setattr(issuing, "_FOLLOW_UP_S", 0.02)


async def ready_order(client: Client, *names: str) -> Answer:
    """Return an order that is ready to be finalized."""
    order = await client.order(*names)
    await client.authorize(order)
    for url in order.json["authorizations"]:
        await client.settled(url)
    order = await client.post(order.location)
    assert order.json["status"] == "ready"
    return order


async def until(condition: Callable[[], bool]) -> None:
    """Let others run until something is so."""
    async with asyncio.timeout(60):
        await asyncio.sleep(0.001)
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody
            await asyncio.sleep(0.001)


async def entries_of(server: ServerUnderTest) -> int:
    """Return how many entries the log has."""
    return server.ca.log.record.tree_size


# Races.


def test_two_requests_for_one_order(shared: Shared) -> None:
    """Of finalize requests at the same time with different keys one is taken; with one key all are, for one entry."""

    async def work(server: ServerUnderTest) -> None:
        for is_one_key in (False, True):
            client = await server.account()
            order = await ready_order(client, NAME)
            size = await entries_of(server)
            csrs = [csr_for([NAME])] * 6 if is_one_key else [csr_for([NAME]) for _ in range(6)]
            twins = [Client(server, client.key, client.kid) for _ in csrs]
            server.gate.hold(6)
            answers = await asyncio.gather(*(twin.finalize(order, csr) for twin, csr in zip(twins, csrs, strict=True)))
            statuses = sorted(answer.status for answer in answers)
            assert statuses == ([200] * 6 if is_one_key else [200] + [403] * 5)
            assert (await client.settled(order.location)).json["status"] == "valid"
            assert await entries_of(server) == size + 1

    shared.run(work)


def test_one_challenge_is_validated_once(shared: Shared) -> None:
    """Answers to one challenge at the same time begin one validation; of two challenges each begins its own."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        twins = [Client(server, client.key, client.kid) for _ in range(4)]
        order = await client.order("once.example.com")
        (url,) = order.json["authorizations"]
        offered = [item["url"] for item in (await client.post(url)).json["challenges"]]
        held = server.validator.hold("once.example.com")
        server.gate.hold(4)
        answers = await asyncio.gather(*(twin.post(offered[0], {}) for twin in twins))
        assert {answer.json["status"] for answer in answers} == {"processing"}
        assert server.validator.count("once.example.com") == 1
        await asyncio.gather(*(twin.post(target, {}) for twin, target in zip(twins, offered[1:], strict=False)))
        assert server.validator.count("once.example.com") == 3
        held.set()
        assert (await client.settled(url)).json["status"] == "valid"
        assert (await client.post(order.location)).json["status"] == "ready"

    shared.run(work)


def test_order_that_begins_later_hinders_nobody(shared: Shared) -> None:
    """A certificate that begins in half an hour is made at once, and so are those of others in its round."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        later = (server.clock.now() + timedelta(minutes=30)).strftime("%Y-%m-%dT%H:%M:%SZ")
        clients, orders = [Client(server, client.key, client.kid) for _ in range(4)], []
        for number, twin in enumerate(clients):
            members = {} if number else {"notBefore": later}
            order = await twin.order(f"begins{number}.example.com", **members)
            await twin.authorize(order)
            orders.append(order)
        # All of them get into one round.
        async with server.ca._turn:
            size = await entries_of(server)
            tasks = [
                asyncio.create_task(twin.finalize(order, csr_for([f"begins{number}.example.com"])))
                for number, (twin, order) in enumerate(zip(clients, orders, strict=True))
            ]
            await until(lambda: server.ca.log.waiting == len(tasks))
        answers = await asyncio.gather(*tasks)
        assert [answer.json["status"] for answer in answers] == ["valid"] * 4
        assert await entries_of(server) == size + 4

    shared.run(work)


def test_validation_after_deactivation(shared: Shared) -> None:
    """A validation that ends after its authorization was given up changes nothing, and is on record all the same."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        name = "given.up.example.com"
        order = await client.order(name)
        (url,) = order.json["authorizations"]
        held = server.validator.hold(name)
        await client.post((await client.post(url)).json["challenges"][0]["url"], {})
        assert (await client.post(url, {"status": "deactivated"})).json["status"] == "deactivated"
        held.set()
        await asyncio.sleep(0)
        while server.server.challenges._tasks:
            await asyncio.gather(*server.server.challenges._tasks)
        assert (await client.post(url)).json["status"] == "deactivated"
        assert (await client.post(order.location)).json["status"] == "invalid"
        assert (await client.order(name)).json["status"] == "pending"

    shared.run(work)


def test_authorization_given_up_during_finalize() -> None:
    """When an authorization is given up while finalize looks CAA up, nothing is issued."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        order = await ready_order(client, NAME)
        twin = Client(server, client.key, client.kid)
        server.clock.advance(8 * HOUR_S)
        held = server.validator.hold(NAME)
        finalizing = asyncio.create_task(client.finalize(order, csr_for([NAME])))
        await until(lambda: server.validator.count(NAME, control=False) == 1)
        await twin.post(order.json["authorizations"][0], {"status": "deactivated"})
        held.set()
        assert (await finalizing).problem == "orderNotReady"
        assert (await client.post(order.location)).json["status"] == "invalid"
        assert await entries_of(server) == 0

    run_with(work)


def test_account_revoked_by_an_operator() -> None:
    """Another process revokes an account; a moment later the server refuses it, whatever it remembers."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        assert (await client.post(str(client.kid))).status == 200
        folder = server.ca.parts.folder.path / "acme"
        admin = SQLiteACMEStore.open(folder / "acme.sqlite", None)
        account = await admin.find_account(str(client.kid).rpartition("/")[2])
        assert isinstance(account, Account)
        await admin.commit(Replace(replace(account, status=AccountStatus.REVOKED)))
        await admin.close()
        server.clock.advance(1.0)
        answer = await client.post("new-order", {"identifiers": [identifier(NAME)]})
        assert (answer.status, answer.problem) == (401, "unauthorized")

    run_with(work)


# Age.


def test_caa_is_looked_up_again() -> None:
    """CAA older than eight hours is looked up at finalize; what it forbids then is refused, and the order stays."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        names = [NAME, "second.example.com"]
        order = await ready_order(client, *names)
        server.clock.advance(7 * HOUR_S)
        early = await ready_order(client, NAME)
        assert (await client.finalize(early, csr_for([NAME]))).status == 200
        assert server.validator.count(NAME, control=False) == 0
        server.clock.advance(HOUR_S)
        server.validator.caa[NAME] = Problem(type=ProblemType.CAA, detail="CAA says no")
        answer = await client.finalize(order, csr_for(names))
        assert (answer.status, answer.problem) == (403, "caa")
        assert "identifier" not in answer.json
        assert answer.json["subproblems"][0]["identifier"]["value"] == NAME
        assert (await client.post(order.location)).json["status"] == "ready"
        size = await entries_of(server)
        server.validator.caa.clear()
        assert (await client.finalize(order, csr_for(names))).status == 200
        assert (await client.settled(order.location)).json["status"] == "valid"
        assert await entries_of(server) == size + 1
        # The first name was looked up twice, the second one once: its answer was kept.
        assert server.validator.count(NAME, control=False) == 2
        assert server.validator.count("second.example.com", control=False) == 1
        finalization = (await server.store.list_records(order.location.rpartition("/")[2]))[0]
        numbers = finalization.document["evidence"]
        assert isinstance(numbers, list)
        kinds = sorted(record.kind for record in await server.store.find_records(numbers))
        assert kinds == [RecordKind.CAA] * 2 + [RecordKind.VALIDATION] * 2

    run_with(work)


def test_storage_that_fails_during_caa() -> None:
    """A storage failure while CAA is looked up again is a problem that says to come again, and the order stays."""

    class Failing(Wrapped):
        is_failing = False

        async def commit(self, *changes: Change) -> tuple[int, ...]:
            if self.is_failing:
                raise StorageError(Reason.STORAGE, "the disk is full")
            return await self.inner.commit(*changes)

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        order = await ready_order(client, NAME, "second.example.com")
        server.clock.advance(9 * HOUR_S)
        assert isinstance(server.store, Failing)
        server.store.is_failing = True
        answer = await client.finalize(order, csr_for([NAME, "second.example.com"]))
        assert (answer.status, answer.problem) == (503, "serverInternal")
        assert answer.header("retry-after")
        assert "disk" not in answer.json["detail"]
        server.store.is_failing = False
        assert (await client.finalize(order, csr_for([NAME, "second.example.com"]))).status == 200

    run_with(work, store=Failing)


@dataclass
class Wrapped:
    """A store around another one."""

    inner: ACMEStore

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the store has
        """Pass on what is not changed."""
        return getattr(self.inner, name)


def test_evidence_too_old_when_the_round_is_signed() -> None:
    """A request that waited until its CAA answer was too old is not logged; the order is invalid and says why."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        order = await ready_order(client, NAME)
        assert (await client.finalize(order, csr_for([NAME]))).json["status"] == "processing"
        server.clock.advance(8 * HOUR_S + 1)
        await server.ca.log.run_round()
        final = await client.settled(order.location)
        assert final.json["status"] == "invalid"
        assert final.json["error"]["type"] == "urn:ietf:params:acme:error:unauthorized"
        assert await entries_of(server) == 0
        assert (await client.finalize(order, csr_for([NAME]))).problem == "orderNotReady"

    run_with(work, is_sequencing=False)


# The log.


def test_log_that_has_stopped(shared: Shared) -> None:
    """While the log is stopped finalize is 503 and changes nothing."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        order = await ready_order(client, NAME)
        server.ca.log._stopped = ConflictError(Reason.CONFLICT, "the storage is an older copy")
        try:
            answer = await client.finalize(order, csr_for([NAME]))
            assert (answer.status, answer.problem) == (503, "serverInternal")
        finally:
            server.ca.log._stopped = None
        assert (await client.post(order.location)).json["status"] == "ready"
        assert (await client.finalize(order, csr_for([NAME]))).status == 200

    shared.run(work)


def test_log_that_is_full_for_now(shared: Shared) -> None:
    """When the pool is full the client is told to come again, the order is ready as before, and then gets one entry."""

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        order = await ready_order(client, NAME)
        size, limits = await entries_of(server), server.ca.log._limits
        server.ca.log._limits = replace(limits, max_pool=0)
        try:
            answer = await client.finalize(order, csr_for([NAME]))
            assert (answer.status, answer.problem) == (503, "rateLimited")
            assert answer.header("retry-after")
        finally:
            server.ca.log._limits = limits
        assert (await client.post(order.location)).json["status"] == "ready"
        # Another key is as good: nobody holds on to the first one.
        assert (await client.finalize(order, csr_for([NAME]))).status == 200
        assert (await client.settled(order.location)).json["status"] == "valid"
        assert await entries_of(server) == size + 1

    shared.run(work)


class Cosigners:
    """Cosigners that may be away. They add nothing to a tree, which is enough for a private CA."""

    def __init__(self) -> None:
        self.are_away = False

    async def fetch_views(self, log_number: int) -> Sequence[CosignerView]:
        """Return nothing: they have no opinion."""
        del log_number
        return []

    async def cosign(self, tree: TreeToSign, signed: SignedTree) -> SignedTree:
        """Return the tree, or say that there is no quorum."""
        del tree
        if self.are_away:
            raise NoQuorumError(message="the cosigners are away")
        return signed


def test_quorum_that_does_not_come() -> None:
    """An order whose entry waits for its quorum is processing with one entry; others stay ready; then all are valid."""
    cosigners = Cosigners()

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        log = server.ca.log
        log._limits = log._writer._limits = replace(log._limits, may_run_ahead=False, quorum_wait_s=60.0)
        first, second = await ready_order(client, NAME), await ready_order(client, "second.example.com")
        cosigners.are_away = True
        csr = csr_for([NAME])
        answer = await client.finalize(first, csr)
        assert (answer.status, answer.json["status"]) == (200, "processing")
        assert answer.header("retry-after")
        server.clock.advance(61)
        number = first.location.rpartition("/")[2]
        while (order := await server.store.find_order(number)) is not None and order.place is None:
            await until(lambda: not server.server.issuing._running)
        shown = await client.post(first.location)
        assert shown.json["status"] == "processing"
        assert "certificate" not in shown.json
        assert (await client.post(first.location.replace("/order/", "/certificate/"))).status == 404
        # Nothing new is taken meanwhile.
        answer = await client.finalize(second, csr_for(["second.example.com"]))
        assert (answer.status, answer.problem) == (503, "rateLimited")
        assert (await client.post(second.location)).json["status"] == "ready"
        assert await entries_of(server) == 1
        cosigners.are_away = False
        assert (await client.settled(first.location)).json["status"] == "valid"
        assert (await client.finalize(second, csr_for(["second.example.com"]))).status == 200
        assert (await client.settled(second.location)).json["status"] == "valid"
        assert await entries_of(server) == 2

    run_with(work, cosigners=cosigners)


# Load.


def test_thousands_of_open_orders() -> None:
    """With hundreds of open orders the server answers as before, and refuses more; each can still be finished."""
    limits = replace(default_config().limits, open_orders=500)

    async def work(server: ServerUnderTest) -> None:
        client = await server.account()
        twins = [Client(server, client.key, client.kid) for _ in range(20)]

        async def fill(number: int) -> list[str]:
            return [(await twins[number].order(f"n{number}-{item}.example.com")).location for item in range(25)]

        made = [url for urls in await asyncio.gather(*map(fill, range(20))) for url in urls]
        answer = await client.post("new-order", {"identifiers": [identifier("more.example.com")]})
        assert (answer.status, answer.problem) == (429, "rateLimited")
        order = await client.post(made[0])
        await client.authorize(order)
        await client.finalize(order, csr_for(["n0-0.example.com"]))
        assert (await client.settled(made[0])).json["status"] == "valid"
        # One is finished, so there is room for one.
        assert (await client.order("more.example.com")).status == 201

    run_with(work, default_config(limits=limits))


def test_nonces_of_a_flood() -> None:
    """Whoever takes nonces without end takes no more memory than the limit; the newest ones stay good."""
    pool = NoncePool(most=100)
    nonces = [pool.issue() for _ in range(1000)]
    assert len(pool._waiting) == 100
    assert not any(pool.is_accepted(nonce) for nonce in nonces[:900])
    assert all(pool.is_accepted(nonce) for nonce in nonces[900:])
    assert not any(pool.is_accepted(nonce) for nonce in nonces)
