"""The ACME server's repository in SQLite: its contract, its schema, its limits, and several processes at once."""

import asyncio
import sqlite3
import stat
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtc.acme.sqlite import SQLiteACMEStore, queries
from mtc.acme.sqlite.limits import RateLimits
from mtc.acme.sqlite.schema import list_migrations
from mtc.acme.store import Add, Put, RateLimit, Replace
from mtc.errors import ConflictError, Reason, StorageError
from mtc.testing.acme_store import check_acme_store
from mtc.testing.acme_values import (
    HOUR,
    START,
    make_account,
    make_authorization,
    make_finalized,
    make_order,
    make_record,
)

MEMORY = Path(":memory:")


def run(path: Path, work: Callable[[SQLiteACMEStore], Awaitable[None]], journal: Path | None = None) -> None:
    """Open a store, work with it, close it."""

    async def whole() -> None:
        store = SQLiteACMEStore.open(path, journal)
        try:
            await work(store)
        finally:
            await store.close()

    asyncio.run(whole())


@pytest.mark.parametrize("kind", ["memory", "file", "journal"])
def test_store_keeps_the_contract(kind: str, tmp_path: Path) -> None:
    """The repository passes the shipped contract test, in memory, in a file, and with a journal."""
    path = MEMORY if kind == "memory" else tmp_path / "acme" / "acme.sqlite"
    run(path, check_acme_store, tmp_path / "evidence" if kind == "journal" else None)


def test_contract_test_notices_a_forgetful_store() -> None:
    """A store that answers before it looks at versions fails the contract test."""

    class Forgetful(SQLiteACMEStore):
        async def commit(self, *changes: object) -> tuple[int, ...]:
            try:
                return await super().commit(*changes)  # type: ignore[arg-type]  # as given
            except ConflictError:
                return ()

    opened = SQLiteACMEStore.open(MEMORY, None)
    opened.__class__ = Forgetful

    async def work() -> None:
        try:
            await check_acme_store(opened)
        finally:
            await opened.close()

    with pytest.raises(AssertionError, match="an ID is taken once"):
        asyncio.run(work())


def test_what_is_kept_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Database, journal and their folders cannot be read by other users."""

    async def work(store: SQLiteACMEStore) -> None:
        await store.commit(Put(make_record()))
        assert {item.suffix for item in modes()} >= {".sqlite", ".sqlite-wal", ".jsonl"}
        assert all(mode & 0o077 == 0 for mode in modes().values()), modes()

    def modes() -> dict[Path, int]:
        items = [tmp_path / "acme", *tmp_path.rglob("acme/**/*")]
        return {item: stat.S_IMODE(item.stat().st_mode) for item in items}

    run(tmp_path / "acme" / "acme.sqlite", work, tmp_path / "acme" / "evidence")


def test_everything_is_there_after_opening_again(tmp_path: Path) -> None:
    """What was committed is read by the next process, records, rate limits and blocks included."""
    limit = RateLimit(name="orders", burst=2, period_s=3600)

    async def before(store: SQLiteACMEStore) -> None:
        await store.commit(Add(make_account()), Put(make_record("order-0")))
        await store.block("name", "bad.example", "why", START)
        assert [await store.take(limit, "a", START) for _ in range(2)] == [0.0, 0.0]

    async def after(store: SQLiteACMEStore) -> None:
        assert await store.find_account("account-0") == make_account()
        assert await store.list_records("order-0") == [replace(make_record("order-0"), id=1)]
        assert await store.commit(Put(make_record())) == (2,)
        assert await store.list_blocks() == [("name", "bad.example", "why", START)]
        assert await store.take(limit, "a", START) == 1800.0

    run(tmp_path / "acme.sqlite", before)
    run(tmp_path / "acme.sqlite", after)


def test_another_process_sees_and_changes(tmp_path: Path) -> None:
    """Two stores on one file see each other's commits at once, and a lost race is a conflict."""
    path = tmp_path / "acme.sqlite"

    async def work(server: SQLiteACMEStore) -> None:
        admin = SQLiteACMEStore.open(path, None)
        try:
            await server.commit(Add(make_account()))
            account = await admin.find_account("account-0")
            assert account is not None
            await admin.commit(Replace(replace(account, address="admin")))
            await admin.block("name", "bad.example", "", START)
            assert await server.find_account("account-0") == replace(account, address="admin", version=1)
            assert await server.find_block(["bad.example"], []) is not None
            with pytest.raises(ConflictError):
                await server.commit(Replace(replace(account, address="server")))
            assert await server.commit(Put(make_record())) == (1,)
            assert await admin.commit(Put(make_record())) == (2,)
            assert await server.commit(Put(make_record())) == (3,)
        finally:
            await admin.close()

    run(path, work)


def test_closed_store_says_so(tmp_path: Path) -> None:
    """A commit after closing is an error, and closing twice is none."""

    async def work(store: SQLiteACMEStore) -> None:
        await store.close()
        with pytest.raises(StorageError, match="closed"):
            await store.commit(Add(make_account()))

    run(tmp_path / "acme.sqlite", work)


def test_abandoned_caller_leaves_a_whole_commit() -> None:
    """A commit whose caller was cancelled is made whole or not at all, and others are not held up."""

    async def work(store: SQLiteACMEStore) -> None:
        task = asyncio.create_task(store.commit(Add(make_account()), Put(make_record("order-0"))))
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await store.commit(Add(make_account(1)))
        assert (await store.find_account("account-0") is None) == (await store.list_records("order-0") == [])

    run(MEMORY, work)


# The schema.


def test_migrations_are_numbered_from_one() -> None:
    """The files of the schema are numbered without a gap."""
    assert [number for number, _ in list_migrations()] == list(range(1, len(list_migrations()) + 1))


def test_newer_schema_is_refused(tmp_path: Path) -> None:
    """A database that a newer program made is not touched, and the error says what to do."""
    path = tmp_path / "acme.sqlite"
    SQLiteACMEStore.open(path, None)
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO schema_version (version) VALUES (99)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StorageError, match="newer mtc") as caught:
        SQLiteACMEStore.open(path, None)
    assert (caught.value.reason, caught.value.facts["got"]) == (Reason.UNSUPPORTED, 99)
    assert path.read_bytes() == before


def test_broken_migration_leaves_the_old_schema(tmp_path: Path) -> None:
    """When a statement of a migration fails, nothing of any migration stays; opening again does it all."""
    path = tmp_path / "acme.sqlite"
    connection = sqlite3.connect(path)
    # In the way of the schema's last table.
    connection.execute("CREATE TABLE rates (other TEXT)")
    connection.commit()
    with pytest.raises(StorageError, match="already exists"):
        SQLiteACMEStore.open(path, None)
    tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
    assert tables == [("rates",)]
    connection.execute("DROP TABLE rates")
    connection.commit()
    connection.close()
    run(path, check_acme_store)


def test_no_statement_reads_a_table_that_grows(tmp_path: Path) -> None:
    """Every statement finds its rows by an index, already in order; only lists that admins keep are read whole."""
    path = tmp_path / "acme.sqlite"
    SQLiteACMEStore.open(path, None)
    connection = sqlite3.connect(path)
    choices = [(account, status, after) for account in (0, 1) for status in (0, 1) for after in (0, 1)]
    statements = {
        **{name: value for name, value in vars(queries).items() if name.isupper() and not name.startswith("_")},
        **{f"accounts {after}": queries.list_accounts(has_after=bool(after)) for after in (0, 1)},
        **{
            f"orders {account, status, after}": queries.list_orders(
                has_account=bool(account), has_status=bool(status), has_after=bool(after)
            )
            for account, status, after in choices
        },
    }
    assert len(statements) > 40
    small = {"LIST_EXTERNAL", "LIST_BLOCKS"}
    for name, statement in statements.items():
        plan = connection.execute(f"EXPLAIN QUERY PLAN {statement}", (None,) * statement.count("?")).fetchall()
        for step in (str(row[3]) for row in plan):
            # A scan along an index stops at the statement's limit; one index has only what runs just now.
            is_indexed = "USING" in step and "INDEX" in step
            is_bounded = is_indexed and ("LIMIT" in statement or step.endswith("authorizations_running"))
            assert not step.startswith("SCAN") or is_bounded or name in small, (name, step)
            assert "TEMP B-TREE" not in step or name in small, (name, step)
    connection.close()


def test_damaged_row_is_named(tmp_path: Path) -> None:
    """A row that nobody can have written is a StorageError with its ID, not an exception of the decoder."""
    path = tmp_path / "acme.sqlite"

    async def work(store: SQLiteACMEStore) -> None:
        await store.commit(Add(make_order()), Add(make_account()))
        connection = sqlite3.connect(path)
        connection.execute("UPDATE orders SET identifiers = '[[' ")
        connection.execute("UPDATE accounts SET status = 'odd' ")
        connection.commit()
        connection.close()
        for call in (store.find_order("order-0"), store.find_account("account-0")):
            with pytest.raises(StorageError) as caught:
                await call
            assert caught.value.reason == Reason.DAMAGED
            assert str(caught.value.facts["id"]).endswith("-0")

    run(path, work)


# Forgetting.


def test_pruning_forgets_what_has_ended() -> None:
    """Orders go with their certificates, authorizations with the last order that names them, evidence never."""

    async def work(store: SQLiteACMEStore) -> None:
        for number in range(4):
            await store.commit(Add(make_authorization(number)))
        ends = START + 48 * HOUR
        expired = make_order(0, authorizations=("authorization-0", "authorization-1"))
        issued = make_order(1, authorizations=("authorization-1", "authorization-2"))
        working = make_order(2, authorizations=("authorization-2",))
        await store.commit(Add(expired), Add(issued), Add(working), Put(make_record("order-0")))
        await store.commit(Replace(replace(issued, finalized=make_finalized(), is_issued=True)))
        await store.commit(Replace(replace(working, finalized=make_finalized())))
        # A change of an authorization does not shorten how long it is kept.
        await store.commit(Replace(make_authorization(1)))

        assert await store.prune(START) == (0, 0)
        assert await store.prune(START + 3 * HOUR) == (1, 2)
        assert await store.find_order("order-0") is None
        assert await store.find_authorization("authorization-0") is None
        assert await store.find_authorization("authorization-3") is None
        assert len(await store.find_authorizations(issued.authorization_ids)) == 2
        assert await store.prune(ends + HOUR) == (1, 2)
        assert [order.id for order in await store.list_orders()] == ["order-2"], "what is in the making stays"
        assert len(await store.list_records("order-0")) == 1

    run(MEMORY, work)


def test_pruning_takes_many() -> None:
    """More than one bite is taken."""

    async def work(store: SQLiteACMEStore) -> None:
        await asyncio.gather(*(store.commit(Add(make_order(number))) for number in range(1234)))
        assert await store.prune(START + 100 * HOUR) == (1234, 0)
        assert await store.list_orders() == []

    run(MEMORY, work)


# Rate limits.


@given(
    burst=st.integers(1, 20),
    period_s=st.floats(0.1, 1000.0),
    takes=st.lists(st.tuples(st.floats(0.0, 500.0), st.integers(1, 5)), max_size=60),
)
def test_rate_limit_law(burst: int, period_s: float, takes: list[tuple[float, int]]) -> None:
    """Never more than the burst plus what was refilled; and who waits as long as told, is granted."""
    limits, limit = RateLimits([]), RateLimit(name="n", burst=burst, period_s=period_s)
    now, granted = START, 0
    for pause_s, cost in takes:
        now += timedelta(seconds=pause_s)
        wait = limits.take(limit, "k", now, cost)
        if wait == 0.0:
            granted += cost
        elif cost <= burst:
            now += timedelta(seconds=wait)
            assert limits.take(limit, "k", now, cost) == 0.0
            granted += cost
        # One share for rounding to microseconds.
        assert granted <= burst + (now - START).total_seconds() * burst / period_s + 1


def test_number_of_buckets_is_bounded() -> None:
    """Many keys push out those that are full again soonest, so that who took most stays limited."""
    limits, limit = RateLimits([], most=100), RateLimit(name="n", burst=10, period_s=1000)
    assert limits.take(limit, "greedy", START, 10) == 0.0
    for number in range(1000):
        limits.take(limit, str(number), START, 1)
        assert len(limits) <= 100
    assert limits.take(limit, "greedy", START, 1) > 0.0


def test_full_buckets_are_forgotten(tmp_path: Path) -> None:
    """A bucket that is full again is not kept, in memory or on disk."""
    path, limit = tmp_path / "acme.sqlite", RateLimit(name="n", burst=10, period_s=10)

    async def work(store: SQLiteACMEStore) -> None:
        for number in range(3000):
            assert await store.take(limit, str(number), START) == 0.0
        assert await store.take(limit, "last", START + HOUR) == 0.0

    run(path, work)
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT key FROM rates").fetchall() == [("last",)]
    connection.close()
