"""SIGKILL at random moments under load: a CA and its signer are killed again and again, and nothing is lost.

Killing keeps the page cache, so this shows the logic of recovery and not a missing fsync; that is `test_store_disk.py`.
"""

import asyncio
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.independent_reader import read_log
from tests.test_ca_service import make

from mtc.ca.client import CAClient, is_served
from mtc.errors import Error
from mtc.trust import TrustStore, trusted_ca_from_certificate, verify_certificate
from mtc.wire import find_pem_block

KEY = ec.generate_private_key(ec.SECP256R1()).public_key()
PEM = KEY.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
CLIENTS = 4
BATCH = 20


@dataclass
class Load:
    """What clients asked for, and what they were told. told: certificate by name."""

    told: dict[str, str] = field(default_factory=dict)
    asked: int = 0
    is_over: bool = False


def _children(pid: int) -> list[int]:
    """Return the children of a process."""
    found: list[int] = []
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


@asynccontextmanager
async def _served(folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Start `mtc ca serve`, and wait until its socket answers."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mtc", "ca", "serve", str(folder), "--listen", "none", "--json",
        stderr=asyncio.subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        deadline = time.monotonic() + 60
        while not is_served(folder / "ca.sock"):
            assert process.returncode is None, "the CA refuses to start after a crash"
            assert time.monotonic() < deadline, "the CA does not start"
            await asyncio.sleep(0.02)
        yield process
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            await process.wait()


async def _client(folder: Path, number: int, load: Load) -> None:
    """Ask for batches of certificates; ask again with the same keys until there is an answer."""
    turn = 0
    while not load.is_over:
        names = [f"c{number}-{turn}-{item}.example.com" for item in range(BATCH)]
        lines = [json.dumps({"public_key": PEM, "dns": [name], "request_key": name}).encode() for name in names]
        load.asked += BATCH
        turn += 1
        while True:
            try:
                async with CAClient.connect(str(folder / "ca.sock")) as client:
                    answers = await client.issue_lines(lines)
            except Error:
                await asyncio.sleep(0.02)
                continue
            if all("certificate" in answer for answer in answers):
                break
            await asyncio.sleep(0.02)
        load.told |= {name: str(answer["certificate"]) for name, answer in zip(names, answers, strict=True)}


async def _torture(folder: Path, kills: int, seed: int) -> Load:
    """Kill the CA or its signer at random moments while clients ask."""
    chance = random.Random(seed)
    load = Load()
    clients = [asyncio.create_task(_client(folder, number, load)) for number in range(CLIENTS)]
    for number in range(kills):
        async with _served(folder) as process:
            await asyncio.sleep(chance.uniform(0.0, 0.4))
            victims = _children(process.pid) if number % 3 == 2 else [process.pid]
            for victim in victims:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)
            if number % 3 == 2:
                # The CA starts its signer again, and goes on where it was.
                await asyncio.sleep(chance.uniform(0.3, 0.6))
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            await process.wait()
    async with _served(folder):
        load.is_over = True
        await asyncio.gather(*clients)
    return load


def _check(folder: Path, load: Load) -> None:
    """Every answer verifies, every request has exactly one entry, and a stranger can read the whole log."""
    from mtc.ca.folder import CAFolder  # noqa: PLC0415 - after the torture

    authority = CAFolder.read(folder).certificate
    trust = TrustStore([trusted_ca_from_certificate(authority)])
    now = datetime.now(UTC)
    for name, pem in load.told.items():
        verify_certificate(find_pem_block(pem.encode(), "CERTIFICATE"), trust, now, name=name)
    key = authority.public_key.public_key[-1312:]
    log = read_log(lambda path: (folder / "public" / "1" / path).read_bytes(), "oid/1.3.6.1.4.1.32473.1", key)
    entries = [entry for entry in log.entries if b"example.com" in entry]
    found: dict[str, int] = {}
    for entry in entries:
        start = entry.index(b"c", entry.index(b"\x55\x1d\x11"))
        name = entry[start : entry.index(b".example.com", start)].decode() + ".example.com"
        found[name] = found.get(name, 0) + 1
    assert max(found.values()) == 1, "a request has two entries"
    assert set(load.told) == set(found), "an answered request has no entry, or an entry nobody asked for is there"
    assert load.asked == len(load.told)


@pytest.mark.parametrize("kills", [pytest.param(3, id="3"), pytest.param(300, id="300", marks=pytest.mark.slow)])
def test_killed_at_random_moments(tmp_path: Path, kills: int) -> None:
    """However often CA and signer are killed: what clients were told is true, and asked twice is logged once."""
    make(tmp_path)
    seed = random.SystemRandom().randrange(2**32) if kills > 3 else 1
    load = asyncio.run(_torture(tmp_path, kills, seed))
    assert load.told, f"no client got an answer (seed {seed})"
    _check(tmp_path, load)
