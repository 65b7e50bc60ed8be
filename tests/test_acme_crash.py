"""Fifty ACME clients order while the CA is killed: what was validated is logged, once, and every state is true."""

import asyncio
import contextlib
import os
import random
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
from tests.acme_books import check_journal, check_orders, check_told
from tests.acme_crashes import lose_quorum, torture

from mtc.cli.fsck import check_target

CLIENTS = 50
SECONDS = float(os.environ.get("CRASH_SECONDS", "300"))
"""How long the long test kills; `CRASH_SECONDS=60 pytest -m slow tests/test_acme_crash.py` is a shorter one."""


TAMPERED = (
    ("UPDATE orders SET finalized = NULL, is_issued = 0", "was not finalized and has entry"),
    ("UPDATE orders SET is_issued = 0", "is still in processing"),
    ("UPDATE orders SET log_index = log_index + 1000000", "is not at"),
    ("DELETE FROM orders", "entries of orders that nobody knows"),
    ("DELETE FROM records WHERE kind = 'finalization'", "no record of its finalization"),
)
"""What a wrong database may say, and what the checks then complain about."""


@pytest.mark.parametrize(
    "seconds", [pytest.param(4.0, id="short"), pytest.param(SECONDS, id="long", marks=pytest.mark.slow)]
)
def test_killed_while_clients_order(tmp_path: Path, seconds: float) -> None:
    """However often CA and signer are killed: every finalized order has one entry, every other none, and all end."""
    is_short = seconds < 60
    seed = 1 if is_short else int(os.environ.get("CRASH_SEED", "0")) or random.SystemRandom().randrange(1, 2**32)
    print(f"seed {seed}")  # noqa: T201 - a failure is repeated with it
    least = ("server", "signer", "both") if is_short else ()
    story = asyncio.run(torture(tmp_path, clients=CLIENTS, seconds=seconds, seed=seed, least=least))
    folder = tmp_path / "ca"
    books = asyncio.run(check_orders(folder, may_wait=False))
    check_told(folder, books, story.told)
    check_journal(folder)
    findings = asyncio.run(check_target(str(folder), None, lambda *_: None))
    assert not findings.items, findings.items
    assert story.kills["server"] + story.kills["both"] >= 2
    assert len(story.told) >= CLIENTS
    _check_tampering_is_found(folder)


def _check_tampering_is_found(folder: Path) -> None:
    """The checks above find a database that does not fit the log."""
    database = folder / "acme" / "acme.sqlite"
    whole = database.read_bytes()
    for statement, complaint in TAMPERED:
        with contextlib.closing(sqlite3.connect(database)) as connection:
            connection.execute(statement)
            connection.commit()
        with pytest.raises(AssertionError, match=complaint):
            asyncio.run(check_orders(folder, may_wait=False))
        database.write_bytes(whole)


def test_orders_wait_for_a_quorum_that_is_away(tmp_path: Path) -> None:
    """Orders whose round lacks its quorum are in processing with one entry, also after a crash, and then valid."""
    clients = 10
    waiting, story = asyncio.run(lose_quorum(tmp_path, clients=clients))
    states = Counter(order.is_issued for order in waiting.orders.values() if order.finalized is not None)
    assert states[False] >= clients
    assert states[True] >= clients
    folder = tmp_path / "ca"
    books = asyncio.run(check_orders(folder, may_wait=False))
    check_told(folder, books, story.told)
    assert books.orders.keys() >= waiting.orders.keys()
