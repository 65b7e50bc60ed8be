"""Crashes of the ACME server's store: an order has one entry or none, and its state tells the truth."""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from tests.acme_server import (
    Client,
    Key,
    ServerUnderTest,
    csr_for,
    identifier,
    run_with,
    scratch,
)

from mtc.acme.machine.orders import Order, OrderStatus
from mtc.acme.server import challenges, issuing
from mtc.acme.store import ACMEStore, Change
from mtc.errors import Reason, StorageError
from mtc.testing.clock import FakeClock

HOUR_S, DAY_S = 3600, 86400
NAME = "victim.example.com"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have answers wait for a moment only, because tests hold back what they wait for."""
    monkeypatch.setattr(challenges, "_PATIENCE_S", 0.05)
    monkeypatch.setattr(issuing, "_PATIENCE_S", 0.3)
    monkeypatch.setattr(issuing, "_FOLLOW_UP_S", 0.02)


async def entries_of(server: ServerUnderTest) -> int:
    """Return how many entries the log has."""
    return server.ca.log.record.tree_size


@dataclass
class Wrapped:
    """A store around another one."""

    inner: ACMEStore

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the store has
        """Pass on what is not changed."""
        return getattr(self.inner, name)


class Crash:
    """Lets a server die at a chosen commit: everything after it fails as well.

    at: which commit, counted from 0, None for none. is_kept: it was stored, and nobody was told. count: of commits.
    """

    def __init__(self, at: int | None, *, is_kept: bool) -> None:
        self.at = at
        self.is_kept = is_kept
        self.count = 0
        self.is_dead = False

    def wrap(self, store: ACMEStore) -> "CrashingStore":
        """Return a store that dies at this commit."""
        return CrashingStore(store, self)


class CrashingStore(Wrapped):
    """A store whose process dies at one commit."""

    def __init__(self, inner: ACMEStore, crash: Crash) -> None:
        super().__init__(inner)
        self._crash = crash

    async def commit(self, *changes: Change) -> tuple[int, ...]:
        """Commit, or die."""
        crash = self._crash
        number, crash.count = crash.count, crash.count + 1
        if number == crash.at and crash.is_kept:
            await self.inner.commit(*changes)
        crash.is_dead = crash.is_dead or number == crash.at
        if crash.is_dead:
            raise StorageError(Reason.STORAGE, "the process died here")
        return await self.inner.commit(*changes)


@dataclass
class Attempt:
    """What a client knows, across crashes of the server. order: the URL of its order, None before it has one."""

    key: Key
    csr: bytes
    order: str | None = None

    async def go_on(self, server: ServerUnderTest) -> None:
        """Do what is left to be done, from whatever state there is; give up at the first failure."""
        client = Client(server, self.key)
        answer = await client.post("new-account", {})
        if answer.status not in (200, 201):
            return
        client.kid = answer.location
        if self.order is None:
            answer = await client.post("new-order", {"identifiers": [identifier(NAME)]})
            if answer.status != 201:
                return
            self.order = answer.location
        order = await client.post(self.order)
        for url in order.json["authorizations"]:
            for item in (await client.post(url)).json["challenges"][:1]:
                await client.post(item["url"], {})
            async with asyncio.timeout(0.3 if server.store.is_dead else 10):  # type: ignore[attr-defined]
                await client.settled(url)
        order = await client.post(self.order)
        if order.json["status"] == "ready":
            await client.finalize(order, self.csr)
        async with asyncio.timeout(0.3 if server.store.is_dead else 10):  # type: ignore[attr-defined]
            await client.settled(self.order)


async def check_truth(server: ServerUnderTest) -> list[Order]:
    """Check that each order has one entry or none, as its state says. Returns the orders."""
    orders = await server.store.list_orders()
    keys = [order.request_key for order in orders]
    places = await server.ca.log.find(keys)
    assert await entries_of(server) == len(places)
    for order in orders:
        authorizations = await server.store.find_authorizations(order.authorization_ids)
        now = server.clock.now()
        state = order.status_at(now, [item.status_at(now) for item in authorizations])
        has_entry = order.request_key in places
        assert not (has_entry and order.finalized is None), "an entry without a finalized order"
        assert not (state is OrderStatus.VALID and not has_entry), "valid without an entry"
        if order.place is not None:
            assert has_entry
    return orders


COMMITS = 7


@pytest.mark.parametrize("is_kept", [False, True], ids=["lost", "kept"])
@pytest.mark.parametrize("at", range(COMMITS))
def test_crash_at_each_commit(at: int, is_kept: bool) -> None:  # noqa: FBT001 - a parameter
    """Whichever commit of an order's life is lost, or kept and not reported: the order gets one entry, never two.

    After the restart its state is true at once, and the client, which asks the server alone, gets its certificate.
    """
    attempt = Attempt(Key.make(), csr_for([NAME]))
    crash = Crash(at, is_kept=is_kept)

    async def before(server: ServerUnderTest) -> None:
        server.store.is_dead = False  # type: ignore[attr-defined]
        try:
            await attempt.go_on(CrashView(server, crash))  # type: ignore[arg-type]
        except (TimeoutError, KeyError, AssertionError, StopIteration):
            assert crash.is_dead
        assert crash.is_dead, f"there are only {crash.count} commits"

    async def after(server: ServerUnderTest) -> None:
        await check_truth(server)
        await attempt.go_on(CrashView(server, Crash(None, is_kept=False)))  # type: ignore[arg-type]
        # An order that the client was not told of stays as it is, without an entry.
        orders = await check_truth(server)
        assert [order.is_issued for order in orders].count(True) == 1
        assert await entries_of(server) == 1

    with scratch() as path:
        run_with(before, folder=path, store=crash.wrap)
        run_with(after, folder=path)


class CrashView:
    """A server under test whose store tells whether its process died."""

    def __init__(self, server: ServerUnderTest, crash: Crash) -> None:
        self._server = server
        self.store = crash

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the server has
        """Pass on everything else."""
        return getattr(self._server, name)


@pytest.mark.parametrize("downtime_s", [10, 3 * DAY_S, 30 * DAY_S])
def test_restart_after_long(downtime_s: int) -> None:
    """An order whose entry was logged before a crash becomes valid after it, however long the server was down."""
    attempt = Attempt(Key.make(), csr_for([NAME]))
    crash = Crash(COMMITS - 1, is_kept=False)

    async def before(server: ServerUnderTest) -> None:
        with pytest.raises(TimeoutError):
            await attempt.go_on(CrashView(server, crash))  # type: ignore[arg-type]
        assert crash.is_dead
        assert await entries_of(server) == 1

    async def after(server: ServerUnderTest) -> None:
        server.clock.advance(downtime_s)
        client = Client(server, attempt.key, None)
        client.kid = (await client.post("new-account", {})).location
        assert (await client.settled(str(attempt.order))).json["status"] == "valid"
        assert await entries_of(server) == 1
        await check_truth(server)

    with scratch() as path:
        run_with(before, folder=path, store=crash.wrap)
        run_with(after, folder=path)


def test_restart_before_the_log_was_asked() -> None:
    """An order that was finalized when the server died, and handed to no log, gets its entry after the restart.

    When it took so long that the evidence is too old it becomes invalid instead, and has no entry.
    """
    for downtime_s, status, entries in ((10, "valid", 1), (9 * HOUR_S, "invalid", 0)):
        attempt = Attempt(Key.make(), csr_for([NAME]))
        crash = Crash(COMMITS - 2, is_kept=True)

        async def before(server: ServerUnderTest, attempt: Attempt = attempt, crash: Crash = crash) -> None:
            with pytest.raises((TimeoutError, KeyError)):
                await attempt.go_on(CrashView(server, crash))  # type: ignore[arg-type]
            assert await entries_of(server) == 0

        async def after(
            server: ServerUnderTest, attempt: Attempt = attempt, status: str = status, entries: int = entries
        ) -> None:
            client = Client(server, attempt.key)
            client.kid = (await client.post("new-account", {})).location
            assert (await client.settled(str(attempt.order))).json["status"] == status
            assert await entries_of(server) == entries

        with scratch() as path:
            run_with(before, folder=path, store=crash.wrap, is_sequencing=False)
            run_with(after, folder=path, clock=FakeClock(FakeClock().now() + timedelta(seconds=downtime_s)))
