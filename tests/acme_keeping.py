"""A bench for what keeps certificates fresh: a server that obeys, a clock that stands still, a disk that remembers."""

import asyncio
import json
import os
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from tests.acme_script import ScriptedACME, scripted
from tests.makers import NOW

from mtc.acme.client import TransportLimits
from mtc.acme.client.accounts import ServerChoice
from mtc.acme.client.connection import Seams
from mtc.acme.client.disk import Disk
from mtc.acme.client.leaf import Leaf
from mtc.acme.client.lineage import Kind, Wish
from mtc.acme.client.service import Requester, RequestPlan, RequestReport, open_requester
from mtc.acme.client.solvers import Answer
from mtc.acme.machine.identifiers import Identifier
from mtc.acme.machine.validation import Method
from mtc.testing.clock import FakeClock
from mtc.wire import find_pem_block

NAME = Identifier.dns("www.example.com")


class Silence:
    """Is told everything and keeps it."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def tell(self, kind: Kind, text: str) -> None:
        """Keep a line."""
        self.lines.append(f"{kind}: {text}")


@dataclass
class Recorder:
    """A solver that remembers what it was asked for."""

    method: Method = Method.HTTP_01
    open: list[Answer] = field(default_factory=list)
    seen: int = 0

    async def present(self, answer: Answer) -> None:
        """Remember."""
        self.open.append(answer)
        self.seen += 1

    async def withdraw(self, answer: Answer) -> None:
        """Forget."""
        self.open.remove(answer)

    async def close(self) -> None:
        """Hold nothing."""


class MemoryOfNames(Disk):
    """Syncs nothing, which is what costs, and remembers what would have to be: folders with names that are not durable.

    A folder that is renamed must be durable itself, or a crash of the machine leaves a whole name on half a set.
    """

    def __init__(self) -> None:
        self.unsynced: set[Path] = set()

    def make_folder(self, path: Path, mode: int) -> None:
        """Make a folder."""
        super().make_folder(path, mode)
        self.unsynced.add(path.parent)

    def write(self, path: Path, data: bytes, mode: int) -> None:
        """Write a file."""
        with open(path, "xb", opener=lambda name, flags: os.open(name, flags, mode)) as file:
            file.write(data)
        path.chmod(mode)
        self.unsynced.add(path.parent)

    def link(self, path: Path, target: str) -> None:
        """Make a link."""
        super().link(path, target)
        self.unsynced.add(path.parent)

    def rename(self, source: Path, target: Path) -> None:
        """Rename."""
        assert source not in self.unsynced
        super().rename(source, target)
        self.unsynced.add(target.parent)

    def sync_folder(self, path: Path) -> None:
        """Take note."""
        self.unsynced.discard(path)


@dataclass
class Bench:
    """A server, a clock and a folder. solver: answers challenges. told: what people would read."""

    server: ScriptedACME
    root: Path
    plan: RequestPlan
    solver: Recorder = field(default_factory=Recorder)
    observer: Silence = field(default_factory=Silence)
    disk: Disk = field(default_factory=MemoryOfNames)

    @property
    def clock(self) -> FakeClock:
        """The only clock there is."""
        return self.server.clock

    @property
    def folder(self) -> Path:
        """The certificate's folder."""
        return self.plan.folder

    @property
    def current(self) -> Path:
        """What servers load."""
        return self.folder / "current"

    async def pause(self, seconds: float) -> None:
        """Let time pass at once."""
        self.clock.advance(seconds)
        await asyncio.sleep(0)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Requester]:
        """Open the folder."""
        limits = TransportLimits(deadline_s=20, attempt_s=10, attempts=2, pause_s=0.01)
        seams = Seams(now=self.clock.now, pause=self.pause, chance=lambda: 0.5, limits=limits)
        async with open_requester(self.plan, [self.solver], self.observer, seams=seams, disk=self.disk) as requester:
            yield requester

    async def run(
        self, *, is_forced: bool = False, is_patient: bool = False, landmark_wait_s: float = 0.0
    ) -> RequestReport:
        """Run once."""
        async with self.opened() as requester:
            return await requester.run(is_forced=is_forced, is_patient=is_patient, landmark_wait_s=landmark_wait_s)


def wish(server: ScriptedACME, kind: Kind = Kind.MTC, *names: Identifier) -> Wish:
    """Return what is wanted of a server."""
    choice = ServerChoice(directory=server.directory)
    return Wish(kind=kind, server=choice, identifiers=names or (NAME,), key_type="ecdsa-p256", deadline_s=10)


def with_server(root: Path, test: Callable[[Bench], Awaitable[None]], **choices: object) -> None:
    """Run a test with a server and a plan for one certificate."""

    async def run() -> None:
        async with scripted(FakeClock(NOW), **choices) as server:
            await test(Bench(server, root, RequestPlan(root=root, name="www.example.com", mtc=wish(server))))

    asyncio.run(run())


def check_set(folder: Path) -> Leaf:
    """Check that what a server would load is whole: the key is the certificate's, and nobody else may read it."""
    der = find_pem_block((folder / "standalone.pem").read_bytes(), "CERTIFICATE")
    leaf = Leaf.parse(der)
    key = load_pem_private_key((folder / "key.pem").read_bytes(), None)
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert spki == leaf.spki
    assert stat.S_IMODE((folder / "key.pem").stat().st_mode) == 0o600
    assert find_pem_block((folder / "chain.pem").read_bytes(), "CERTIFICATE") == der
    assert int(json.loads((folder / "state.json").read_text())["serial"], 16) == leaf.serial
    return leaf
