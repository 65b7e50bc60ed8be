"""The ACME server's repository against a dictionary: whatever is committed, in any order, with restarts between."""

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.acme_evidence import read_evidence

from mtc.acme.machine.evidence import EvidenceRecord
from mtc.acme.machine.identifiers import Identifier
from mtc.acme.machine.orders import Account, Authorization, AuthorizationStatus, Order, OrderStatus, Place
from mtc.acme.machine.problems import Problem, ProblemType
from mtc.acme.sqlite import SQLiteACMEStore
from mtc.acme.sqlite.rows import stored_status
from mtc.acme.store import Add, Change, Put, Replace, Use
from mtc.errors import ConflictError
from mtc.testing.acme_values import (
    START,
    make_account,
    make_authorization,
    make_finalized,
    make_order,
    make_record,
)

_Result = TypeVar("_Result")
Value = Account | Authorization | Order
SMALL = st.integers(0, 3)
NAMES = ("a.example", "b.example")


@st.composite
def values(draw: st.DrawFn) -> Value:
    """Draw a value from few, so that they collide; its version may be right or wrong."""
    number, account, version = draw(SMALL), f"account-{draw(st.integers(0, 1))}", draw(st.integers(0, 2))
    match draw(st.integers(0, 2)):
        case 0:
            return replace(make_account(number), thumbprint=f"thumbprint-{draw(SMALL)}", version=version)
        case 1:
            return replace(
                make_authorization(number, draw(st.sampled_from(NAMES)), account),
                status=draw(st.sampled_from(AuthorizationStatus)),
                expires=START + timedelta(hours=draw(st.integers(1, 4))),
                version=version,
            )
        case _:
            finalized = draw(st.sampled_from([None, make_finalized()]))
            return replace(
                make_order(number, account),
                created=START + timedelta(seconds=draw(SMALL)),
                finalized=finalized,
                place=draw(st.sampled_from([None, Place(log_number=1, index=draw(SMALL))])),
                is_issued=finalized is not None and draw(st.booleans()),
                error=draw(st.sampled_from([None, Problem(type=ProblemType.CAA, detail="no")])),
                replaces=draw(st.sampled_from([None, "certificate"])),
                version=version,
            )


CHANGES = st.lists(
    st.one_of(values().map(Add), values().map(Replace), SMALL.map(lambda n: Put(make_record(f"order-{n}")))),
    max_size=4,
)


class Model:
    """What must be in the store."""

    def __init__(self) -> None:
        """Start empty."""
        self.values: dict[str, Value] = {}
        self.records: list[EvidenceRecord] = []

    def fits(self, change: Change) -> bool:
        """Make a change, or say that it must be refused."""
        match change:
            case Put(record):
                self.records.append(record)
                return True
            case Add(value):
                if value.id in self.values or not self._is_alone(value, is_new=True):
                    return False
                self.values[value.id] = value
                return True
            case Replace(value):
                old = self.values.get(value.id)
                if old is None or old.version != value.version or not self._is_alone(value, is_new=False):
                    return False
                self.values[value.id] = replace(value, version=value.version + 1)
                return True
            case Use():
                raise AssertionError(change)

    def _is_alone(self, value: Value, *, is_new: bool) -> bool:
        """Tell whether nobody else has what only one may have."""
        others = [other for other in self.values.values() if other.id != value.id]
        if isinstance(value, Account):
            return all(other.thumbprint != value.thumbprint for other in others if isinstance(other, Account))
        if not isinstance(value, Order):
            return True
        orders = [other for other in others if isinstance(other, Order)]
        if value.place is not None and any(other.place == value.place for other in orders):
            return False
        if not is_new or value.replaces is None:
            return True
        return all(other.error is not None for other in orders if other.replaces == value.replaces)

    def orders(self) -> list[Order]:
        """Return the orders, newest first."""
        found = [value for value in self.values.values() if isinstance(value, Order)]
        return sorted(found, key=lambda order: (order.created, order.id), reverse=True)


class StoreMachine(RuleBasedStateMachine):
    """Commits to a store and to a model."""

    @initialize(has_journal=st.booleans())
    def begin(self, has_journal: bool) -> None:  # noqa: FBT001 - drawn
        """Open a store in a new folder."""
        self.folder = Path(tempfile.mkdtemp(prefix="acme-model-"))
        self.journal = self.folder / "evidence" if has_journal else None
        self.runner = asyncio.Runner()
        self.model = Model()
        self.ids: list[int] = []
        self.store = SQLiteACMEStore.open(self.folder / "acme.sqlite", self.journal)

    def _run(self, call: Awaitable[_Result]) -> _Result:
        async def wait() -> _Result:
            return await call

        return self.runner.run(wait())

    @rule(commits=st.lists(CHANGES, min_size=1, max_size=3))
    def commit(self, commits: list[list[Change]]) -> None:
        """Commit at the same time; they are made in the order in which they were asked for."""

        async def all_() -> list[tuple[int, ...] | BaseException]:
            return await asyncio.gather(*(self.store.commit(*changes) for changes in commits), return_exceptions=True)

        for changes, outcome in zip(commits, self._run(all_()), strict=True):
            values, records = dict(self.model.values), list(self.model.records)
            if all(self.model.fits(change) for change in changes):
                assert isinstance(outcome, tuple), (changes, outcome)
                self.ids += outcome
            else:
                assert isinstance(outcome, ConflictError), (changes, outcome)
                self.model.values, self.model.records = values, records

    @precondition(lambda self: self.journal is not None)
    @rule()
    def restart(self) -> None:
        """Close and open again."""
        self._run(self.store.close())
        self.store = SQLiteACMEStore.open(self.folder / "acme.sqlite", self.journal)

    @rule(account=st.sampled_from([None, "account-0", "account-1"]), most=st.integers(1, 3), status=st.none())
    def list_pages(self, account: str | None, most: int, status: OrderStatus | None) -> None:
        """Page through the orders."""
        found: list[Order] = []
        while page := self._run(
            self.store.list_orders(account, after=found[-1].id if found else "", most=most, status=status)
        ):
            found += page
        assert found == [order for order in self.model.orders() if account in (None, order.account_id)]

    @invariant()
    def agree(self) -> None:
        """Everything that can be asked for is as in the model."""
        if not hasattr(self, "store"):
            return
        self._run(self._compare())
        records = [replace(record, id=number) for record, number in zip(self.model.records, self.ids, strict=True)]
        assert self._run(self.store.find_records(self.ids)) == records
        if self.journal is not None:
            assert read_evidence(self.journal) == {record.id: record.to_json() for record in records}

    async def _compare(self) -> None:
        store, model, orders = self.store, self.model, self.model.orders()
        for number in range(4):
            assert await store.find_account(f"account-{number}") == model.values.get(f"account-{number}")
            key = f"authorization-{number}"
            assert await store.find_authorization(key) == model.values.get(key)
            assert await store.find_order(f"order-{number}") == model.values.get(f"order-{number}")
            at = next((order for order in orders if order.place == Place(log_number=1, index=number)), None)
            assert await store.find_order_at(1, number) == at
        for status in (OrderStatus.PENDING, OrderStatus.PROCESSING, OrderStatus.VALID, OrderStatus.INVALID):
            expected = [order for order in orders if stored_status(order) is status]
            assert await store.list_orders(status=status) == expected
        unfinished = [order for order in orders if stored_status(order) is OrderStatus.PROCESSING]
        assert await store.list_unfinished() == unfinished[::-1]
        for account in ("account-0", "account-1"):
            pending = [order for order in orders if stored_status(order) is OrderStatus.PENDING]
            assert await store.count_open_orders(account, START) == sum(o.account_id == account for o in pending)
            found = await store.find_valid(account, [Identifier.dns(name) for name in NAMES], START)
            assert found == self._valid(account)

    def _valid(self, account: str) -> dict[Identifier, Authorization]:
        best: dict[Identifier, Authorization] = {}
        for value in self.model.values.values():
            if not isinstance(value, Authorization) or value.account_id != account:
                continue
            known = best.get(value.identifier)
            is_later = known is None or (value.expires, value.id) > (known.expires, known.id)
            if value.status is AuthorizationStatus.VALID and is_later:
                best[value.identifier] = value
        return best

    def teardown(self) -> None:
        """Close the store and remove its folder."""
        if hasattr(self, "store"):
            self._run(self.store.close())
            self.runner.close()
            shutil.rmtree(self.folder)


StoreMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)
test_store_agrees_with_a_dictionary = StoreMachine.TestCase
