"""Perspectives for tests: fakes that see what they are told, and agents in folders on loopback."""

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from mtc.acme.machine.identifiers import Identifier
from mtc.acme.machine.problems import Problem, ProblemType
from mtc.acme.machine.validation import Connection, Lookup, Method, Report, ValidationTask
from mtc.acme.perspective.client import open_identity
from mtc.acme.perspective.config import PerspectivePeer
from mtc.acme.perspective.folder import (
    PerspectiveConfig,
    allow_client,
    create_perspective,
    own_fingerprint,
)
from mtc.acme.perspective.running import RunningPerspective, serving
from mtc.web.tls import TLSFiles

TASK = ValidationTask(
    identifier=Identifier.dns("www.example.com"),
    is_wildcard=False,
    method=Method.HTTP_01,
    account_url="https://ca.example.com/acme/account/1",
    caa_domains=("ca.example.com",),
    token="evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA",  # noqa: S106 - the example of RFC 8555
    key_authorization="evaGxfADs6pSRb2LAv9IZf17Dt3juxGJ-PCt92wr-oA.9jg46WB3rR_AHD-EBXdN7cBkH1WOu0tA3M9fm21mqTI",
)
NO_CONTROL = Problem(type=ProblemType.UNAUTHORIZED, detail="got another key authorization")
Look = Callable[[ValidationTask], Awaitable[Report]]


def in_loop(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """Run a test on an event loop, for at most half a minute."""

    @functools.wraps(test)
    def run(*arguments: object, **named: object) -> None:
        async def bounded() -> None:
            async with asyncio.timeout(30):
                await test(*arguments, **named)

        asyncio.run(bounded())

    return run


async def until(is_so: Callable[[], bool]) -> None:
    """Let others run until something is so; the test's own time ends it."""
    while not is_so():  # noqa: ASYNC110 - what is waited for knows no events
        await asyncio.sleep(0.001)


def now() -> datetime:
    """Return the time; certificates and reports on real connections are compared with it."""
    return datetime.now(UTC)


def report(name: str, region: str, problem: Problem | None = None) -> Report:
    """Return a report of now, with all that a report may hold."""
    return Report(
        perspective=name,
        region=region,
        started=now(),
        finished=now(),
        problem=problem,
        lookups=(Lookup(name="www.example.com", type="A", status="NOERROR", answers=("192.0.2.1",), server="::1"),),
        connections=(Connection(target="http://www.example.com/", address="192.0.2.1", port=80, outcome="200"),),
        caa_name="example.com",
        caa_records=('0 issue "ca.example.com"',),
    )


@dataclass(slots=True)
class FakePerspective:
    """`Perspective` that says what it is told. problem: of its reports. seen: its tasks. look: in place of all that."""

    name: str = "local"
    region: str = ""
    problem: Problem | None = None
    look: Look | None = None
    seen: list[ValidationTask] = field(default_factory=list)
    ended: int = 0

    async def examine(self, task: ValidationTask) -> Report:
        """Report."""
        self.seen.append(task)
        try:
            return report(self.name, self.region, self.problem) if self.look is None else await self.look(task)
        finally:
            self.ended += 1


async def never(_task: ValidationTask) -> Report:
    """Look for ever."""
    return await asyncio.get_running_loop().create_future()  # type: ignore[no-any-return]  # it has no result


def make_folder(folder: Path, name: str = "eu-1", region: str = "ripe", examinations: int = 20) -> Path:
    """Make the folder of an agent that listens on any free port of loopback."""
    config = PerspectiveConfig(
        name=name,
        region=region,
        listen=("127.0.0.1", 0),
        monitoring=("127.0.0.1", 0),
        examinations=examinations,
    )
    create_perspective(folder, config, now())
    return folder


def make_identity(folder: Path, *agents: Path) -> TLSFiles:
    """Make a CA's identity, and let it in at some agents."""
    identity = open_identity(folder, "ca", now())
    for agent in agents:
        allow_client(agent, identity.certificate.read_bytes(), "the CA's certificate")
    return identity


@asynccontextmanager
async def running_agent(
    folder: Path, perspective: FakePerspective
) -> AsyncIterator[tuple[RunningPerspective, PerspectivePeer]]:
    """Run the agent of a folder, and give how a CA knows it."""
    async with serving(folder, perspective) as running:
        yield running, peer_of(folder, perspective, running.address.url)


def peer_of(folder: Path, perspective: FakePerspective, url: str) -> PerspectivePeer:
    """Return how a CA knows an agent."""
    return PerspectivePeer(
        name=perspective.name, region=perspective.region, url=url, fingerprint=own_fingerprint(folder)
    )
