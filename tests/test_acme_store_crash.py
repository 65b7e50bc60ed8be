"""SIGKILL while the ACME server's repository commits: what was answered is there, and the journal knows it.

Killing keeps the page cache, so this shows the order of writes and not a missing fsync.
"""

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.acme_evidence import read_evidence

from mtc.acme.sqlite import SQLiteACMEStore
from mtc.testing.acme_values import make_record

PROGRAM = """
import asyncio, os, sys
from pathlib import Path
from mtc.acme.sqlite import SQLiteACMEStore
from mtc.acme.store import Add, Put
from mtc.testing.acme_values import make_order, make_record

async def client(store, start):
    for number in range(start, start + 1_000_000):
        order = make_order(number)
        (record,) = await store.commit(Add(order), Put(make_record(order.id)))
        # One write is one whole line.
        os.write(1, f"{number} {record}\\n".encode())

async def main(folder, turn):
    store = SQLiteACMEStore.open(folder / "acme.sqlite", folder / "evidence")
    os.write(1, b"ready\\n")
    await asyncio.gather(*(client(store, (turn * 16 + task) * 1_000_000) for task in range(16)))

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
"""


def _run_and_kill(folder: Path, turn: int, pause_s: float) -> dict[str, int]:
    """Let clients commit, kill them, return which orders were acknowledged, with their records."""
    command = [sys.executable, "-c", PROGRAM, str(folder), str(turn)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:  # noqa: S603 - our own interpreter
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        # The first commit that was answered, or the moment itself: killing before anything was told proves little.
        first = process.stdout.readline() if turn == 0 else b""
        time.sleep(pause_s)
        os.kill(process.pid, signal.SIGKILL)
        lines = (first + process.stdout.read()).decode().splitlines()
    return {f"order-{number}": int(record) for number, record in (line.split() for line in lines)}


def _check(folder: Path, told: dict[str, int]) -> None:
    """What was told is there, each order with its record, and journal and database have the same records."""
    asyncio.run(SQLiteACMEStore.open(folder / "acme.sqlite", folder / "evidence").close())
    connection = sqlite3.connect(folder / "acme.sqlite")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    orders = {row[0] for row in connection.execute("SELECT id FROM orders")}
    records = {row[1]: row[0] for row in connection.execute("SELECT id, order_id FROM records")}
    connection.close()
    assert told.items() <= records.items()
    assert orders == records.keys()
    journal = read_evidence(folder / "evidence")
    assert journal.keys() == set(records.values())
    expected = make_record().to_json()
    for order_id, number in records.items():
        assert journal[number] == expected | {"id": number, "order": order_id}


@pytest.mark.parametrize("kills", [pytest.param(3, id="3"), pytest.param(100, id="100", marks=pytest.mark.slow)])
def test_killed_at_random_moments(tmp_path: Path, kills: int) -> None:
    """However often the process is killed: every commit that was answered is there, whole, with its evidence."""
    seed = random.SystemRandom().randrange(2**32) if kills > 3 else 1
    chance = random.Random(seed)
    told: dict[str, int] = {}
    for turn in range(kills):
        told |= _run_and_kill(tmp_path, turn, chance.uniform(0.0, 0.3))
        _check(tmp_path, told)
    assert told, f"nothing was ever answered (seed {seed})"
