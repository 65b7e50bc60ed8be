"""A CA with three mirrors and two witnesses as real processes, under load, while faults come and go.

What is true at every moment is checked as it happens: each certificate when a client gets it, each checkpoint of a
cosigner when it is seen. `tests.cosigner_soak_checks` looks at the whole afterwards.
"""

import asyncio
import contextlib
import json
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise

import aiohttp
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.soak_town import COSIGNERS, MIRRORS, ORIGIN, WITNESSES, Town

from mtc.ca.client import CAClient
from mtc.cosign.service.core import origin_hash
from mtc.errors import Error
from mtc.note import Checkpoint, open_note
from mtc.trust import verify_certificate
from mtc.wire import find_pem_block

CLIENTS, BATCH = 3, 10
RESUME_S = 60.0
"""How long after everything is well again each client may wait for its next certificates."""
CATCH_UP_S = 90.0
"""How long a cosigner may stay behind under load; one that failed often rests for up to a minute."""
_POLL_S = 0.25
_RESTART_S = 0.3
_KEY = ec.generate_private_key(ec.SECP256R1()).public_key()
_PEM = _KEY.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@dataclass(frozen=True, slots=True)
class Received:
    """A certificate as its client verified it: where its entry is, and the subtree that was signed."""

    log_number: int
    index: int
    start: int
    end: int
    subtree_hash: bytes
    entry_hash: bytes


@dataclass(frozen=True, slots=True)
class View:
    """A checkpoint as somebody showed it, with that party's own signature verified. timestamp: POSIX seconds."""

    tree_size: int
    root_hash: bytes
    timestamp: int


@dataclass(frozen=True, slots=True)
class Outage:
    """One fault and what it did. Durations in seconds.

    longest_gap_s: longest time without a certificate from its beginning until things went on. resumed_s: from the end
    of the fault until every client had new certificates.
    """

    what: str
    held_s: float
    received: int
    longest_gap_s: float
    resumed_s: float

    def __str__(self) -> str:
        """Return it for people."""
        return (
            f"{self.what}: {self.held_s:.1f} s, {self.received} certificates meanwhile, longest gap "
            f"{self.longest_gap_s:.1f} s, all again after {self.resumed_s:.1f} s"
        )


@dataclass(slots=True)
class Story:
    """Everything that was seen. received: by name. views: by party, in order, repetitions left out.

    receipts: steady seconds, and how many certificates came. rounds_done: by client. exits: of processes that nobody
    ended, with their last words. refusals: what clients were told in the place of certificates.
    """

    received: dict[str, Received] = field(default_factory=dict)
    asked: int = 0
    receipts: list[tuple[float, int]] = field(default_factory=list)
    turns: Counter[int] = field(default_factory=Counter)
    views: dict[str, list[View]] = field(default_factory=dict)
    outages: list[tuple[str, Outage]] = field(default_factory=list)
    restarts: Counter[str] = field(default_factory=Counter)
    exits: list[str] = field(default_factory=list)
    refusals: Counter[str] = field(default_factory=Counter)
    is_over: bool = False


def _judge(town: Town, name: str, pem: str) -> Received:
    """Verify a certificate with its quorum. Raises when it left without."""
    der = find_pem_block(pem.encode(), "CERTIFICATE")
    now = datetime.now(UTC)
    for store in town.stores:
        found = verify_certificate(der, store, now, name=name)
    return Received(
        found.log_number, found.index, found.subtree.start, found.subtree.end, found.subtree_hash, found.entry_hash
    )


def _judge_all(town: Town, got: Mapping[str, str]) -> dict[str, Received]:
    """Verify certificates, PEM by name."""
    return {name: _judge(town, name, pem) for name, pem in got.items()}


async def _client(town: Town, story: Story, number: int) -> None:
    """Ask for certificates; ask again with the same keys until each is there; verify each at once."""
    turn = 0
    while not story.is_over:
        names = [f"c{number}-{turn}-{item}.example.com" for item in range(BATCH)]
        turn += 1
        story.asked += len(names)
        while names:
            lines = [json.dumps({"public_key": _PEM, "dns": [name], "request_key": name}).encode() for name in names]
            try:
                async with CAClient.connect(str(town.socket)) as client:
                    answers = await client.issue_lines(lines)
            except Error as error:
                story.refusals[str(error.reason)] += 1
                await asyncio.sleep(0.1)
                continue
            got = {
                name: str(answer["certificate"])
                for name, answer in zip(names, answers, strict=True)
                if "certificate" in answer
            }
            story.refusals.update(str(answer.get("reason")) for answer in answers if "certificate" not in answer)
            found = await asyncio.to_thread(_judge_all, town, got)
            story.received |= found
            if found:
                story.receipts.append((time.monotonic(), len(found)))
            names = [name for name in names if name not in found]
            if names:
                await asyncio.sleep(0.1)
        story.turns[number] += 1


async def _watch(town: Town, story: Story, name: str, session: aiohttp.ClientSession) -> None:
    """Look at what one party shows, again and again; keep what is new, in order."""
    member, key = town.member(name), town.keys[name]
    path = "1" if name == "ca" else origin_hash(ORIGIN)
    seen = story.views.setdefault(name, [])
    while True:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with session.get(f"{member.url}/{path}/checkpoint") as answer:
                note = await answer.read()
            if answer.status == 200:
                opened = open_note(note, [key])
                checkpoint = Checkpoint.parse(opened.text)
                assert checkpoint.origin == ORIGIN
                stamp = max(item.timestamp or 0 for item in opened.verified)
                view = View(checkpoint.tree_size, checkpoint.root_hash, stamp)
                if view not in seen[-1:]:
                    seen.append(view)
        await asyncio.sleep(_POLL_S)


async def _supervise(town: Town, story: Story) -> None:
    """Start who is wanted and does not run."""
    started: set[str] = set()
    while True:
        for name in sorted(town.wanted):
            member = town.member(name)
            if member.is_running:
                continue
            if member.process is not None:
                story.exits.append(f"{name}: {member.last_words()[-300:]}")
                member.process = None
            if name in started:
                story.restarts[name] += 1
            started.add(name)
            member.start(wait=False)
        await asyncio.sleep(_RESTART_S)


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to one party. how: kill, stop, delay, cut or silence."""

    how: str
    victim: str
    delay_s: float = 0.0

    def __str__(self) -> str:
        """Return it for people."""
        return f"{self.how} {self.victim}" + (f" by {self.delay_s * 1e3:.0f} ms" if self.how == "delay" else "")

    def begin(self, town: Town) -> None:
        """Let it happen."""
        member = town.member(self.victim)
        if self.how == "kill":
            town.wanted.discard(self.victim)
            member.kill()
            if self.victim == "ca":
                town.flip_run_ahead()
        elif self.how == "stop":
            member.signal(signal.SIGSTOP)
        else:
            assert town.network is not None
            port = town.network.ports[self.victim]
            port.delay_s = self.delay_s
            port.is_cut, port.is_silent = self.how == "cut", self.how == "silence"


def plan_faults(kind: str, chance: random.Random) -> list[Fault]:
    """Return faults of a kind, on random victims."""
    one = chance.choice(COSIGNERS)
    how, _, who = kind.partition(" ")
    if who == "cosigner":
        return [Fault(how, one, chance.uniform(0.05, 0.5) if how == "delay" else 0.0)]
    if who == "ca":
        return [Fault(how, "ca", chance.uniform(0.02, 0.25) if how == "delay" else 0.0)]
    ways = ("kill", "stop") if who == "processes" else ("kill", "stop", "cut", "silence")
    if how == "below-quorum":
        victims: Sequence[str] = chance.choice([chance.sample(MIRRORS, 2), WITNESSES])
        return [Fault(chance.choice(ways), victim) for victim in victims]
    assert how == "mixed"
    victims = chance.sample(["ca", *COSIGNERS], chance.randint(3, 6))
    return [
        Fault(way, victim, chance.uniform(0.05, 0.4) if way == "delay" else 0.0)
        for victim in victims
        for way in [chance.choice(ways if who == "processes" else (*ways, "delay"))]
    ]


LOCAL_KINDS = (
    "kill cosigner", "stop cosigner", "kill ca", "stop ca", "below-quorum processes", "mixed processes",
)  # fmt: skip
"""Faults that need no network of our own."""
KINDS = (
    "kill cosigner", "stop cosigner", "delay cosigner", "cut cosigner", "silence cosigner",
    "kill ca", "stop ca", "delay ca", "cut ca", "silence ca", "below-quorum", "mixed",
)  # fmt: skip


async def _heal(town: Town) -> None:
    """End every fault at once."""
    if town.network is not None:
        town.network.heal()
    for member in town.fleet.members.values():
        member.signal(signal.SIGCONT)
    town.wanted.update(town.fleet.members)
    await asyncio.sleep(0)


async def _resumed(story: Story, running: Callable[[], None]) -> float:
    """Wait until every client has new certificates; return how long that took."""
    began = time.monotonic()
    before = Counter(story.turns)
    # The first turn that ends may have been answered before; the second was asked afterwards.
    while any(story.turns[number] < before[number] + 2 for number in range(CLIENTS)):
        running()
        waited = time.monotonic() - began
        behind = {number: story.turns[number] - before[number] for number in range(CLIENTS)}
        words = f"{behind}, {dict(story.refusals)}, ended by themselves: {story.exits[-3:]}"
        assert waited < RESUME_S, f"issuance does not go on after {waited:.0f} s: {words}"
        await asyncio.sleep(0.02)
    return time.monotonic() - began


def _longest_gap(story: Story, since: float) -> float:
    """Return the longest time without a certificate since a moment, up to now."""
    times = [at for at, _ in story.receipts]
    before = max((at for at in times if at <= since), default=since)
    marks = [before, *(at for at in times if at > since), time.monotonic()]
    return max(after - earlier for earlier, after in pairwise(marks))


async def _outage(
    town: Town, story: Story, faults: Sequence[Fault], hold_s: float, check: Callable[[], None]
) -> Outage:
    """Let faults happen, end them, and wait until things go on."""
    began, count = time.monotonic(), len(story.received)
    for fault in faults:
        fault.begin(town)
    await asyncio.sleep(hold_s)
    held, received = time.monotonic() - began, len(story.received) - count
    await _heal(town)
    resumed = await _resumed(story, check)
    return Outage(", ".join(map(str, faults)), held, received, _longest_gap(story, began), resumed)


@contextlib.asynccontextmanager
async def _tasks(town: Town, story: Story) -> AsyncIterator[tuple[list[asyncio.Task[None]], Callable[[], None]]]:
    """Run supervisor, watchers and clients; give the clients and what raises when any of them failed."""
    timeout = aiohttp.ClientTimeout(total=4)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        others = [asyncio.create_task(_supervise(town, story))]
        others += [asyncio.create_task(_watch(town, story, name, session)) for name in town.fleet.members]
        clients = [asyncio.create_task(_client(town, story, number)) for number in range(CLIENTS)]

        def check() -> None:
            for task in (*others, *clients):
                if task.done():
                    task.result()

        try:
            yield clients, check
        finally:
            for task in (*others, *clients):
                task.cancel()
            await asyncio.gather(*others, *clients, return_exceptions=True)


async def run_story(
    town: Town, kinds: Iterable[str], chance: random.Random, hold: tuple[float, float], tell: Callable[[str], None]
) -> Story:
    """Run the load through a row of faults; see that everybody has everything at the end."""
    story = Story()
    town.wanted.update(town.fleet.members)
    async with _tasks(town, story) as (clients, check):
        await _resumed(story, check)
        tell(f"running; {len(story.received)} certificates")
        for kind in kinds:
            outage = await _outage(town, story, plan_faults(kind, chance), chance.uniform(*hold), check)
            story.outages.append((kind, outage))
            tell(f"{kind} ({outage}); {len(story.received)} so far")
            # The next one hits a whole town, so that what it does is its own doing.
            await _all_up(town)
            await asyncio.sleep(chance.uniform(0.1, hold[0]))
        # Cosigners are asked in rounds, so the load goes on until everybody has come back to it.
        await _caught_up(story, check)
        story.is_over = True
        async with asyncio.timeout(RESUME_S):
            await asyncio.gather(*clients)
    return story


async def _all_up(town: Town) -> None:
    """Wait until every party takes connections."""
    for member in town.fleet.members.values():
        async with asyncio.timeout(RESUME_S):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection(member.host, member.port)
                    writer.close()
                    break
                await asyncio.sleep(0.1)


async def _caught_up(story: Story, check: Callable[[], None]) -> None:
    """Wait until every cosigner has signed what the log is now, or more."""
    began, target = time.monotonic(), story.views["ca"][-1].tree_size
    while True:
        check()
        behind = [name for name in COSIGNERS if all(view.tree_size < target for view in story.views[name][-1:])]
        if not behind:
            return
        assert time.monotonic() - began < CATCH_UP_S, f"{behind} do not come up to {target} entries"
        await asyncio.sleep(0.1)
