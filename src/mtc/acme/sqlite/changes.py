"""Changes as statements: made where the commit is asked for, run by the thread that writes."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date
from typing import assert_never

from mtc.acme.machine.evidence import EvidenceRecord
from mtc.acme.machine.orders import Account, Authorization, Order
from mtc.acme.sqlite import queries
from mtc.acme.sqlite.rows import (
    account_row,
    authorization_row,
    end_of,
    journal_line,
    micros_of,
    order_row,
    record_row,
)
from mtc.acme.store import Add, Change, Put, Replace, Use
from mtc.errors import ConflictError, Reason, UsageError

_RESERVED = frozenset({"id", "kind", "time", "account", "ok", "identifier", "authorization", "order", "void"})
"""Members of a journal's line that a record's document may not overwrite."""


@dataclass(slots=True)
class Batch:
    """What one transaction adds to the journal. next_id: of the next record. day: of the newest one."""

    next_id: int
    lines: list[bytes] = field(default_factory=list)
    day: date = date.min

    def mark(self) -> tuple[int, int, date]:
        """Return where it is, to come back to."""
        return self.next_id, len(self.lines), self.day

    def reset(self, mark: tuple[int, int, date]) -> None:
        """Forget what came after a mark."""
        self.next_id, count, self.day = mark
        del self.lines[count:]


Operation = Callable[[sqlite3.Connection, Batch], None]
"""One change, run inside a transaction. Raises ConflictError, or what SQLite raises."""


def plan_change(change: Change) -> Operation:
    """Return what makes a change; everything that can be computed before is computed here."""
    match change:
        case Add(value):
            return _plan_add(value)
        case Replace(value):
            return _plan_replace(value)
        case Put(record):
            return _plan_put(record)
        case Use(kid):
            return _plan_use(kid)
        case _:
            assert_never(change)


def _plan_add(value: Account | Authorization | Order) -> Operation:
    """Return what adds a value."""
    match value:
        case Account():
            return _plan_insert(queries.ADD_ACCOUNT, account_row(value), f"account {value.id} or its key")
        case Authorization():
            return _plan_insert(queries.ADD_AUTHORIZATION, authorization_row(value), f"authorization {value.id}")
        case Order():
            insert = _plan_insert(queries.ADD_ORDER, order_row(value), f"order {value.id}")
            keep = _plan_keep(value)
            other = (value.replaces, value.id, micros_of(value.created))

            def add(connection: sqlite3.Connection, batch: Batch) -> None:
                # Writers come one after the other, so nobody adds another one between the look and the insertion.
                if value.replaces is not None and connection.execute(queries.OTHER_REPLACEMENT, other).fetchone():
                    raise ConflictError(
                        Reason.CONFLICT, f"another order replaces {value.replaces} already", replaces=value.replaces
                    )
                insert(connection, batch)
                keep(connection, batch)

            return add
        case _:
            assert_never(value)


def _plan_insert(statement: str, row: tuple[object, ...], what: str) -> Operation:
    """Return what inserts a row that must be new."""

    def insert(connection: sqlite3.Connection, _batch: Batch) -> None:
        try:
            connection.execute(statement, row)
        except sqlite3.IntegrityError as error:
            raise _conflict(f"{what} is there already", error) from None

    return insert


def _plan_replace(value: Account | Authorization | Order) -> Operation:
    """Return what replaces a value of a version by the next one."""
    match value:
        case Account():
            row = account_row(value)
            return _plan_update(queries.REPLACE_ACCOUNT, (*row[:-1], value.version + 1), value)
        case Authorization():
            *columns, _, is_running, ends = authorization_row(value)
            return _plan_update(
                queries.REPLACE_AUTHORIZATION, (*columns, value.version + 1, is_running, ends, ends), value
            )
        case Order():
            *columns, _, status, ends = order_row(value)
            update = _plan_update(queries.REPLACE_ORDER, (*columns, value.version + 1, status, ends), value)
            keep = _plan_keep(value)

            def replace(connection: sqlite3.Connection, batch: Batch) -> None:
                update(connection, batch)
                keep(connection, batch)

            return replace
        case _:
            assert_never(value)


def _plan_update(statement: str, row: tuple[object, ...], value: Account | Authorization | Order) -> Operation:
    """Return what updates the row of a value, if its version is still the one that was read."""
    what = f"{type(value).__name__.lower()} {value.id}"
    parameters = (*row, value.id, value.version)

    def update(connection: sqlite3.Connection, _batch: Batch) -> None:
        try:
            changed = connection.execute(statement, parameters).rowcount
        except sqlite3.IntegrityError as error:
            raise _conflict(f"what {what} shall have belongs to another one", error) from None
        if changed != 1:
            raise ConflictError(
                Reason.CONFLICT, f"{what} was changed by somebody else, or is gone", id=value.id, expected=value.version
            )

    return update


def _plan_keep(order: Order) -> Operation:
    """Return what keeps the authorizations of an order as long as the order."""
    ends = end_of(order)
    parameters = [(ends, authorization_id, ends) for authorization_id in order.authorization_ids]

    def keep(connection: sqlite3.Connection, _batch: Batch) -> None:
        for item in parameters:
            connection.execute(queries.KEEP_AUTHORIZATION, item)

    return keep


def _plan_put(record: EvidenceRecord) -> Operation:
    """Return what appends a record. Raises UsageError for a document that would overwrite what the record says."""
    taken = _RESERVED & record.document.keys()
    if taken:
        raise UsageError(Reason.USAGE, f"the document of a record may not have {', '.join(sorted(taken))}")
    row, day = record_row(record), record.moment.astimezone(UTC).date()

    def put(connection: sqlite3.Connection, batch: Batch) -> None:
        connection.execute(queries.ADD_RECORD, (batch.next_id, *row))
        batch.lines.append(journal_line(record, batch.next_id))
        batch.day = max(batch.day, day)
        batch.next_id += 1

    return put


def _plan_use(kid: str) -> Operation:
    """Return what marks an external account as used."""

    def use(connection: sqlite3.Connection, _batch: Batch) -> None:
        if connection.execute(queries.USE_EXTERNAL, (kid,)).rowcount != 1:
            raise ConflictError(
                Reason.CONFLICT, f"external account {kid} is unknown, used already, or revoked", kid=kid
            )

    return use


def _conflict(message: str, error: sqlite3.IntegrityError) -> ConflictError:
    """Return the error for a constraint that does not hold."""
    return ConflictError(Reason.CONFLICT, message, constraint=str(error))
