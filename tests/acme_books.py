"""What must be true of a CA and its ACME database, whoever was killed when.

The truth is taken from what a stranger can read, the published log, from the database, and from what clients were told.
"""

import asyncio
import contextlib
import json
import re
import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from tests.independent_reader import read_entries, read_log

from mtc.acme.config import FOLDER_NAME
from mtc.acme.load.orders import Ordered
from mtc.acme.machine.evidence import RecordKind
from mtc.acme.machine.orders import Order, Place, order_id_of
from mtc.acme.sqlite import DATABASE_NAME, EVIDENCE_NAME, SQLiteACMEStore
from mtc.ca.folder import CAFolder
from mtc.cert import Certificate
from mtc.cli.bench_acme_servers import CA_ID
from mtc.log.ledger.service import Ledger
from mtc.store import FileStore
from mtc.trust import TrustStore, trusted_ca_from_certificate, verify_certificate
from mtc.wire import find_pem_block

_NAME = re.compile(rb"[a-z0-9-]+\.crash\.test")


@dataclass(frozen=True, slots=True)
class Books:
    """What the database says. orders: all of them by ID. record_kinds: of the evidence that names an order, by ID."""

    orders: dict[str, Order]
    record_kinds: dict[str, Counter[RecordKind]]


async def read_books(folder: Path) -> Books:
    """Read the database of a CA that does not run."""
    store = SQLiteACMEStore.open(folder / FOLDER_NAME / DATABASE_NAME, None)
    try:
        orders: dict[str, Order] = {}
        while page := await store.list_orders(after=min(orders, default=""), most=500):
            orders |= {order.id: order for order in page}
        kinds = {key: Counter(item.kind for item in await store.list_records(key)) for key in orders}
        return Books(orders, kinds)
    finally:
        await store.close()


def published_names(folder: Path) -> list[str]:
    """Return the name in each published entry of log 1, as a stranger reads them; none before the first round."""
    public = folder / "public" / "1"
    if not (public / "checkpoint").exists():
        return []
    size = int((public / "checkpoint").read_text().split("\n")[1])
    return [
        name for entry in read_entries(lambda path: (public / path).read_bytes(), size) for name in _names_in(entry)
    ]


def _names_in(entry: bytes) -> list[str]:
    """Return the names of the zone that stand in an entry; the empty first entry of older drafts has none."""
    return [name.decode() for name in _NAME.findall(entry)]


def name_of(order: Order) -> str:
    """Return the only name that an order is for."""
    (identifier,) = order.identifiers
    return identifier.value


def check_at_rest(folder: Path) -> None:
    """Check what holds at every moment, whoever was killed: nothing is logged that was not decided and kept before."""
    published = Counter(published_names(folder))
    orders = asyncio.run(read_books(folder)).orders.values()
    assert not [name for name, count in published.items() if count > 1], "an order has two entries"
    decided = {name_of(order) for order in orders if order.finalized is not None and order.error is None}
    assert published.keys() <= decided, f"entries that no order asked for: {published.keys() - decided}"
    for order in orders:
        if order.is_issued:
            assert order.place is not None
            assert name_of(order) in published, f"order {order.id} has a certificate and no entry"


async def check_orders(folder: Path, *, may_wait: bool) -> Books:
    """Check every order against the log, and every entry against the orders. may_wait: some still wait for the quorum.

    Valid: exactly one entry, at its place. Processing: one entry. Neither finalized: none.
    """
    books = await read_books(folder)
    authority = CAFolder.read(folder).certificate
    public = folder / "public" / "1"
    key = authority.public_key.public_key[-1312:]
    log = read_log(lambda path: (public / path).read_bytes(), f"oid/1.3.6.1.4.1.{CA_ID}", key)
    indices = await _indices(folder, log.tree_size)
    # In drafts where the first entry of a log is empty, that one has no name and nobody's key.
    named = [index for index, entry in enumerate(log.entries) if _names_in(entry)]
    assert sorted(indices.values()) == named, "an entry has no order, or an order two entries"
    for order in books.orders.values():
        index, kinds = indices.pop(order.id, None), books.record_kinds[order.id]
        if order.finalized is None:
            assert index is None, f"order {order.id} was not finalized and has entry {index}"
            assert not kinds
            continue
        assert order.error is None, f"order {order.id}: {order.error}"
        assert index is not None, f"order {order.id} was finalized and has no entry"
        assert _names_in(log.entries[index]) == [name_of(order)], f"order {order.id} has an entry for another name"
        assert kinds[RecordKind.FINALIZATION] == 1, f"order {order.id} has no record of its finalization, or several"
        if order.is_issued:
            assert order.place == Place(log_number=1, index=index), f"order {order.id} is not at {order.place}"
            assert kinds[RecordKind.ISSUANCE] == 1, f"order {order.id} has no record of its issuance, or several"
        else:
            assert may_wait, f"order {order.id} is still in processing"
    assert not indices, "entries of orders that nobody knows"
    return books


async def _indices(folder: Path, tree_size: int) -> dict[str, int]:
    """Return the index of every entry by the order that asked for it, from the ledger."""
    with contextlib.closing(FileStore.open(folder, is_writer=False)) as store:
        ledger = await Ledger.open(store, 1, tree_size)
        rounds = [item async for item in ledger.rounds(0, tree_size, has_keys=True)]
        await ledger.close()
    found: dict[str, int] = {}
    for round_ in rounds:
        for request_key, index in round_.indices.items():
            order_id = order_id_of(request_key)
            assert order_id is not None
            assert order_id not in found, f"order {order_id} has entries {found[order_id]} and {index}"
            found[order_id] = index
    return found


def check_told(folder: Path, books: Books, told: Sequence[Ordered]) -> None:
    """Check what clients were told: certificates that verify, whose orders are valid, for the names that they asked."""
    authority = CAFolder.read(folder).certificate
    trust, now = TrustStore([trusted_ca_from_certificate(authority)]), datetime.now(UTC)
    for item in told:
        assert not item.problem, f"{item.name}: {item.problem}"
        order = books.orders[item.url.rpartition("/")[2]]
        assert name_of(order) == item.name
        assert order.is_issued
        assert order.place is not None
        der = find_pem_block(item.pem, "CERTIFICATE")
        verify_certificate(der, trust, now, name=item.name)
        assert Certificate.parse(der).index == order.place.index


def check_journal(folder: Path) -> None:
    """Check that the journal of evidence, line by line, says the same as the database."""
    connection = sqlite3.connect(folder / FOLDER_NAME / DATABASE_NAME)
    kept = {number for (number,) in connection.execute("SELECT id FROM records")}
    connection.close()
    lines = [
        json.loads(line)
        for file in sorted((folder / FOLDER_NAME / EVIDENCE_NAME).iterdir())
        for line in file.read_text().splitlines()
    ]
    assert kept <= {line["id"] for line in lines if "id" in line}
