"""A CA with an ACME server whose processes are killed again and again under many clients."""

import asyncio
import contextlib
import os
import random
import signal
import sqlite3
import ssl
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from tests.acme_books import Books, check_at_rest, check_orders

from mtc.acme.config import FOLDER_NAME
from mtc.acme.load.answering import AnsweringServer
from mtc.acme.load.crowd import Crowd, run_crowd
from mtc.acme.load.orders import Ordered, Pace
from mtc.ca.config import CONFIG_NAME, CAConfig, format_config
from mtc.ca.cosigning.config import CosignerTable, CosigningConfig
from mtc.ca.folder import create_folder
from mtc.cli.bench_acme_servers import CA_ID, Surroundings, processes_below, running, write_acme_config
from mtc.cli.bench_acme_web import key_of
from mtc.cli.bench_processes import make_cosigner
from mtc.cosign.config import Role
from mtc.cosign.logs import KnownCA
from mtc.testing.fleet import free_port
from mtc.testing.names import NameServer
from mtc.web.tls import CERTIFICATE_NAME

ZONE = "crash.test"
KILLS = ("server", "server", "both", "signer")
"""What is killed, drawn at random: the server, the server with its signer, or the signer alone."""
_START_S = 60.0


@dataclass(slots=True)
class Story:
    """What happened. told: every order that clients began. kills: by what was killed."""

    told: list[Ordered] = field(default_factory=list)
    kills: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class Town:
    """A CA's folder and its process, which comes back at the same address."""

    folder: Path
    port: int
    process: asyncio.subprocess.Process | None = None

    @property
    def directory_url(self) -> str:
        """Where clients begin."""
        return f"https://localhost:{self.port}/acme/directory"

    async def start(self) -> None:
        """Start the CA and wait until ACME answers."""
        with (self.folder.parent / "ca.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "mtc", "ca", "serve", str(self.folder), "--listen", "none", "--json"),
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        deadline = time.monotonic() + _START_S
        while True:
            with contextlib.suppress(OSError):
                _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.close()
                return
            assert self.process.returncode is None, "the CA refuses to start after a crash"
            assert time.monotonic() < deadline, "the CA does not start"
            await asyncio.sleep(0.02)

    async def kill(self, what: str) -> None:
        """Kill a part. Afterwards the server is not there, or goes on without having noticed much."""
        assert self.process is not None
        signers = [pid for pid in processes_below(self.process.pid) if pid != self.process.pid]
        victims = {"server": [self.process.pid], "signer": signers, "both": [self.process.pid, *signers]}[what]
        for victim in victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        if what != "signer":
            await self.process.wait()
            self.process = None

    async def stop(self) -> None:
        """End the CA as an operator would."""
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.process.terminate()
            async with asyncio.timeout(30):
                await self.process.wait()
            self.process = None


@asynccontextmanager
async def town_in(folder: Path) -> AsyncIterator[tuple[Town, AnsweringServer]]:
    """Make a CA below a folder, with the name server and the web servers of its clients in this process."""
    town = Town(folder / "ca", free_port())
    create_folder(town.folder, CAConfig(ca_id=CA_ID, listen=None), None, datetime.now(UTC))
    async with AnsweringServer.listen() as answering, NameServer() as names:
        names.set(f"*.{ZONE}", "A", "127.0.0.1")
        write_acme_config(town.folder, town.port, Surroundings(answering.port, names.server))
        try:
            yield town, answering
        finally:
            if town.process is not None:
                await town.kill("both")


async def torture(folder: Path, *, clients: int, seconds: float, seed: int, least: Sequence[str] = ()) -> Story:
    """Let clients order for a time while the CA is killed at random moments and started again.

    least: what is killed first, and in any case, however long a start takes.
    """
    chance, story = random.Random(seed), Story()
    async with town_in(folder) as (town, answering):
        await town.start()
        crowd = _crowd(town, clients)
        work = asyncio.create_task(run_crowd(crowd, answering, warm_up_s=0.0, seconds=seconds))
        until, planned = time.monotonic() + seconds, list(least)
        while planned or (time.monotonic() < until and not work.done()):
            await asyncio.sleep(chance.uniform(0.1, 1.0 if planned else 2.0))
            what = planned.pop(0) if planned else chance.choice(KILLS)
            story.kills[what] += 1
            await town.kill(what)
            if what != "signer":
                await asyncio.to_thread(check_at_rest, town.folder)
                await town.start()
        story.told = (await work).orders
        await town.stop()
    return story


async def lose_quorum(folder: Path, *, clients: int) -> tuple[Books, Story]:
    """Kill the only mirror under load and then the CA, and start the CA without it; let the mirror come back at last.

    Returns the books as they are while the quorum is away.
    """
    story = Story()
    async with town_in(folder) as (town, answering):
        mirror = _add_mirror(town)
        async with mirror() as pid:
            await town.start()
            enough = asyncio.Event()

            def count(orders: int, _seconds: float) -> None:
                if orders >= clients:
                    enough.set()

            crowd = _crowd(town, clients)
            first = asyncio.create_task(run_crowd(crowd, answering, warm_up_s=0.0, seconds=2.0, tell=count))
            async with asyncio.timeout(_START_S):
                await enough.wait()
            os.kill(pid, signal.SIGKILL)
            # Each of these clients comes to an order that waits for the mirror, as those do that were under way.
            crowd = replace(crowd, series="late")
            second = asyncio.create_task(run_crowd(crowd, answering, warm_up_s=0.0, seconds=0.5))
            await _until_waiting(town, clients)
        await town.kill("server")
        await asyncio.to_thread(check_at_rest, town.folder)
        await town.start()
        # The CA takes up what it knows of, and finds that the quorum is still away.
        await asyncio.sleep(1.0)
        await town.kill("both")
        books = await check_orders(town.folder, may_wait=True)
        async with mirror():
            await town.start()
            story.told = [*(await first).orders, *(await second).orders]
            await town.stop()
    return books, story


async def _until_waiting(town: Town, count: int) -> None:
    """Wait until so many orders of a CA that runs are finalized and have no certificate."""
    statement = "SELECT count(*) FROM orders WHERE finalized IS NOT NULL AND is_issued = 0"
    with contextlib.closing(sqlite3.connect(town.folder / FOLDER_NAME / "acme.sqlite")) as connection:
        async with asyncio.timeout(_START_S):
            while connection.execute(statement).fetchone()[0] < count:  # noqa: ASYNC110 - another process counts
                await asyncio.sleep(0.05)


def _add_mirror(town: Town) -> Callable[[], AbstractAsyncContextManager[int]]:
    """Have a CA need a mirror; return what runs it, again and again at the same address."""
    folder, port = town.folder.parent / "mirror", free_port()
    keys = make_cosigner(folder, Role.MIRROR, 201, [KnownCA(key=key_of(town.folder))])
    table = CosignerTable(name="mirror", role=Role.MIRROR, key=keys[0], url=f"http://127.0.0.1:{port}")
    config = CAConfig(ca_id=CA_ID, listen=None, cosigning=CosigningConfig(tables=(table,)))
    (town.folder / CONFIG_NAME).write_text(format_config(config))
    arguments = [sys.executable, "-m", "mtc", "mirror", "serve", str(folder), "--json"]
    arguments += ["--listen", f"127.0.0.1:{port}"]
    return lambda: running(arguments, town.folder.parent / "mirror.log", port)


def _crowd(town: Town, clients: int) -> Crowd:
    """Return clients that do not give up while the CA is away."""
    return Crowd(
        directory_url=town.directory_url,
        zone=ZONE,
        tls=ssl.create_default_context(cafile=town.folder / FOLDER_NAME / CERTIFICATE_NAME),
        clients=clients,
        pace=Pace(deadline_s=120.0),
        patience_s=_START_S,
    )
