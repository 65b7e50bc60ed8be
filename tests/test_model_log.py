"""The log explored: every interleaving of failure, crash, retry and second writer up to a bound, for tiny logs.

The real sequencer runs here, with the real rules of the signer. Each effect (a write, a swap, a step of the signer)
is a gate at which the explorer decides what happens; it goes through all decisions, from the start each time. The
properties are those of docs/safety.md, and their numbers stand beside the checks.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from types import SimpleNamespace
from typing import Any

import pytest

from mtc.ca.service import Rollover, begin_next_log
from mtc.ca.state import STATE_NAME, CAState
from mtc.errors import ConflictError, Error, PeerError, Reason, Rejected, StorageError
from mtc.ids import TrustAnchorID
from mtc.kernel import python_kernel
from mtc.log import LogRecord, PendingEntry
from mtc.log.ledger.service import Ledger
from mtc.log.service import IssuanceLog, SignedTree, TreeToSign, sequencer
from mtc.merkle import root_hash
from mtc.note import Checkpoint, Note, NoteSignature, parse_note
from mtc.profile import PRIVATE_SERVICE
from mtc.signer import SignerRules, SignerView, SigningPlan, TreeRequest, plan_refusal, plan_signing
from mtc.store import MemoryRegister, MemoryStore
from mtc.testing import FakeClock
from mtc.tiles import EntryBundle, bundles_for_growth
from mtc.web import ClockGuard

HASHER = python_kernel().hasher("sha256")
CA_ID = TrustAnchorID.parse("32473.1")
RULES = SignerRules(ca_id=CA_ID, known_entry_types=frozenset({0, 1, 0xF000}))
TURNS = 60
"""Turns of the event loop after which everybody who can go on has done so."""


class Choice(Enum):
    """What happens at a gate."""

    GO = "go"
    LOST = "lost"
    KEPT = "kept"
    DEAD_BEFORE = "dead before"
    DEAD_AFTER = "dead after"


class Killed(BaseException):
    """The process is gone."""


@dataclass
class Gate:
    """A process that waits for a decision."""

    process: int
    name: str
    decided: "asyncio.Future[Choice]"


@dataclass
class World:
    """What survives a process: storage, register, the signer's memory, and what was ever said."""

    store: MemoryStore = field(default_factory=MemoryStore)
    register: MemoryRegister = field(default_factory=MemoryRegister)
    clock: FakeClock = field(default_factory=FakeClock)
    views: dict[int, SignerView] = field(default_factory=dict)
    journal: list[tuple[int, int, bytes, int]] = field(default_factory=list)
    signed: list[tuple[int, int, bytes, int]] = field(default_factory=list)
    told: dict[bytes, tuple[int, int]] = field(default_factory=dict)
    gates: list[Gate] = field(default_factory=list)
    signer_turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    # The largest tree that was ever published, by log. A sequencer that stood still between its last look at the
    # register and its write can put an older checkpoint back for a moment; the entries stay where they are.
    largest: dict[int, int] = field(default_factory=dict)
    # Planted mistakes, by name; see `test_explorer_finds_mistakes`.
    mistakes: frozenset[str] = frozenset()
    # Seconds that the validation behind an entry may be used for; 0: without end.
    evidence_s: int = 0
    # Trees whose evidence had ended when they were signed for the first time (S11).
    stale: list[tuple[int, int, bytes, int]] = field(default_factory=list)

    async def pass_gate(self, process: int, name: str, effect: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ANN401
        """Wait for the decision, and do what it says."""
        gate = Gate(process, name, asyncio.get_running_loop().create_future())
        self.gates.append(gate)
        choice = await gate.decided
        if choice is Choice.DEAD_BEFORE:
            raise Killed
        if choice is Choice.LOST:
            raise _failure(name)
        result = await effect()
        check_always(self)
        if choice is Choice.DEAD_AFTER:
            raise Killed
        if choice is Choice.KEPT:
            raise _failure(name)
        return result


def _failure(name: str) -> Error:
    """Return the error of a storage or a signer that failed."""
    family = PeerError if name.startswith("signer") else StorageError
    return family(Reason.STORAGE, f"{name} failed")


class GatedStore(MemoryStore):
    """The world's store as one process sees it."""

    def __init__(self, world: World, process: int) -> None:
        super().__init__()
        self.objects = world.store.objects
        self._world, self._process = world, process

    async def put(self, objects: Mapping[str, bytes]) -> None:
        """Pass a gate."""
        await self._world.pass_gate(self._process, "put", lambda: self._world.store.put(objects))

    async def replace(self, objects: Mapping[str, bytes]) -> None:
        """Pass a gate."""
        await self._world.pass_gate(self._process, "replace", lambda: self._world.store.replace(objects))


class GatedRegister(MemoryRegister):
    """The world's register as one process sees it."""

    def __init__(self, world: World, process: int) -> None:
        super().__init__()
        self.values = world.register.values
        self._world, self._process = world, process

    async def create(self, name: str, value: bytes) -> None:
        """Pass a gate."""
        await self._world.pass_gate(self._process, "create", lambda: self._world.register.create(name, value))

    async def swap(self, name: str, old: bytes, new: bytes) -> None:
        """Pass a gate."""
        register, is_blind = self._world.register, "swap without comparing" in self._world.mistakes
        await self._world.pass_gate(
            self._process,
            "swap",
            lambda: register.swap(name, register.values[name] if is_blind else old, new),
        )


class GatedSigner:
    """The real rules of the signer; each of its steps is a gate. It is one process for all sequencers."""

    def __init__(self, world: World, process: int) -> None:
        self._world, self._process = world, process

    async def sign_tree(self, tree: TreeToSign) -> SignedTree:
        """Decide, journal, remember, sign; one request after the other, as the signer's process does."""
        async with self._world.signer_turn:
            return await self._sign(tree)

    async def _sign(self, tree: TreeToSign) -> SignedTree:
        """Answer one request."""
        world, now = self._world, int(self._world.clock.now().timestamp())
        request = TreeRequest(
            log_number=tree.log_number,
            tree_size=tree.tree_size,
            root_hash=tree.root_hash,
            timestamp=tree.timestamp,
            start=tree.start,
            entries=tree.entries,
            evidence_until=0 if "signer ignores evidence" in world.mistakes else tree.evidence_until,
        )
        plan = await self._plan(request, now)
        said = (tree.log_number, tree.tree_size, tree.root_hash, tree.timestamp)
        is_first = not any(item[:3] == said[:3] for item in world.journal)
        if is_first and 0 < tree.evidence_until < now:
            world.stale.append(said)

        async def journal() -> None:
            world.journal.append(said)

        async def remember() -> None:
            world.views[tree.log_number] = plan.view

        async def sign() -> None:
            world.signed.append(said)

        for name, step in (("signer journal", journal), ("signer view", remember), ("signer sign", sign)):
            if "signer skips the journal" in world.mistakes and step is journal:
                continue
            await world.pass_gate(self._process, name, step)
        text = Checkpoint(f"log {tree.log_number}", tree.tree_size, tree.root_hash).encode()
        return SignedTree(Note(text, (NoteSignature("key", bytes(4), b"none"),)).encode(), {})

    async def _plan(self, request: TreeRequest, now: int) -> SigningPlan:
        """Decide as the key holder does: a refusal is remembered before it is told, an announced tree is signed."""
        world = self._world
        views = {} if "signer forgets" in world.mistakes else world.views
        try:
            return plan_signing(HASHER, RULES, views, request, now)
        except Rejected as refusal:
            if refusal.reason is not Reason.STALE_EVIDENCE:
                raise
            last = next((item for item in reversed(world.journal) if item[0] == request.log_number), None)
            if last is not None and last[1:3] == (request.tree_size, request.root_hash):
                return plan_signing(HASHER, RULES, views, replace(request, evidence_until=0), now)
            refused = plan_refusal(views, request, now)

            async def remember() -> None:
                world.views[request.log_number] = refused

            await world.pass_gate(self._process, "signer refusal", remember)
            raise


def record_of(world: World, number: int) -> LogRecord | None:
    """Return what the register says of a log."""
    data = world.register.values.get(f"log-{number}")
    return None if data is None else LogRecord.parse(data)


def published(world: World, number: int) -> list[bytes]:
    """Return the entries of the published tree, after checking that they hash to its root (S5)."""
    data = world.store.objects.get(f"public/{number}/checkpoint")
    if data is None:
        return []
    checkpoint = Checkpoint.parse(parse_note(data).text)
    size = world.largest[number] = max(world.largest.get(number, 0), checkpoint.tree_size)
    entries: list[bytes] = []
    for place in bundles_for_growth(0, size):
        entries += EntryBundle.parse(world.store.objects[f"public/{number}/{place.path}"], place.width).entries
    leaves = HASHER.leaves(entries[: checkpoint.tree_size])
    assert root_hash(HASHER, leaves) == checkpoint.root_hash, "S5: what is published hashes to its root"
    record = record_of(world, number)
    assert record is not None
    assert checkpoint.tree_size <= record.tree_size, "S4: nothing is published ahead of the register"
    assert any(item[:2] == (number, checkpoint.tree_size) for item in world.signed), "S4: published but not signed"
    return entries


def check_always(world: World) -> None:
    """Check what must hold after every single effect."""
    roots: dict[tuple[int, int], bytes] = {}
    last: dict[int, tuple[int, int]] = {}
    for number, size, root, timestamp in world.signed:
        assert roots.setdefault((number, size), root) == root, "S1: two different trees of one size are signed"
        assert last.get(number, (0, 0)) <= (size, timestamp), "S3: a signed tree or its time goes back"
        last[number] = (size, timestamp)
        assert (number, size, root, timestamp) in world.journal, "S6: a signature is not in the journal"
    assert not world.stale, "S11: entries are issued on stale evidence"
    if world.signed:
        number, size, root, timestamp = world.signed[-1]
        record = record_of(world, number)
        assert record is not None
        assert size <= record.tree_size, "S2: a tree is signed that the register has not decided"
        if size == record.tree_size:
            assert root == record.root_hash, "S2: another tree is signed than the register decided"
    for number in (1, 2):
        entries = published(world, number)
        assert len(set(entries)) == len(entries), "S8: a request has two entries in one log"
        for key, (log_number, index) in world.told.items():
            if log_number == number:
                assert entries[index].endswith(key), "S7: an acknowledged entry is not where it was said to be"


def entry(world: World, key: bytes, patience: int = 1) -> PendingEntry:
    """Return an entry that ends with its request key, validated just now. patience: times its evidence's usual age."""
    until = int(world.clock.now().timestamp()) + world.evidence_s * patience if world.evidence_s else 0
    return PendingEntry(0xF000, b"entry " + key, 0, key, until)


async def open_log(world: World, process: int, number: int) -> IssuanceLog:
    """Open a log as a process."""
    guard = ClockGuard(world.clock)
    store, register = GatedStore(world, process), GatedRegister(world, process)
    earlier = {}
    if number == 2 and (record := record_of(world, 1)) is not None:
        earlier[1] = await Ledger.open(store, 1, record.tree_size)
    signer = GatedSigner(world, process)
    return await IssuanceLog.open(HASHER, number, store, register, signer, guard, earlier=earlier)


async def ask(world: World, log: IssuanceLog, keys: Sequence[bytes]) -> None:
    """Have entries appended, round after round, and note what one was told."""
    tasks = {key: asyncio.ensure_future(log.append(entry(world, key))) for key in keys}
    await asyncio.sleep(0)
    try:
        for _ in range(8):
            try:
                world.clock.advance(1)
                await log.run_round()
            except (StorageError, PeerError):
                continue
            for _ in range(5):
                await asyncio.sleep(0)
            for key, task in list(tasks.items()):
                if task.done() and isinstance(task.exception(), Rejected):
                    # Validated again, and so that it lasts.
                    assert world.evidence_s
                    assert key not in world.told, "S8: refused after it was told"
                    tasks[key] = asyncio.ensure_future(log.append(entry(world, key, 100)))
                    await asyncio.sleep(0)
                elif task.done():
                    place = task.result()
                    world.told.setdefault(key, (place.log_number, place.index))
                    assert world.told[key] == (place.log_number, place.index), "S8: one request, two answers"
            if all(task.done() for task in tasks.values()):
                return
    finally:
        for task in tasks.values():
            task.cancel()


async def run_process(world: World, process: int, keys: Sequence[bytes]) -> None:
    """One life of a process: open, append, end. A conflict ends it as well."""
    for _ in range(4):
        try:
            log = await open_log(world, process, 1)
        except (StorageError, PeerError):
            continue
        except ConflictError:
            return
        try:
            await ask(world, log, keys)
        except ConflictError:
            return
        return


async def roll_over(world: World, process: int, keys: Sequence[bytes]) -> None:
    """An operator has log 2 follow log 1, and the requests go there; repeated until it is done."""
    register, store = GatedRegister(world, process), GatedStore(world, process)
    parts: Any = SimpleNamespace(
        folder=SimpleNamespace(config=SimpleNamespace(profile=PRIVATE_SERVICE)),
        storage=SimpleNamespace(register=register, objects=store),
        clock=world.clock,
        open_log=lambda number: open_log(world, process, number),
    )
    for _ in range(4):
        try:
            data = world.register.values.get(STATE_NAME)
            if data is None:
                await register.create(STATE_NAME, CAState().encode())
                continue
            state = CAState.parse(data)
            if state.current_log == 1:
                await begin_next_log(parts, state, Rollover("exercise", "me"), await open_log(world, process, 1))
            await ask(world, await open_log(world, process, 2), keys)
        except (StorageError, PeerError):
            continue
        except ConflictError:
            return
        return


Script = Callable[[World, int, Sequence[bytes]], Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class Story:
    """Who runs, and how much may go wrong. faults: failures and crashes in all. switches: changes of the process."""

    scripts: tuple[tuple[Script, tuple[bytes, ...]], ...]
    faults: int
    switches: int
    mistakes: frozenset[str] = frozenset()
    evidence_s: int = 0


async def _settle() -> None:
    """Let everybody go on until all wait at gates: nothing here waits for time, threads or sockets."""
    ready = asyncio.get_running_loop()._ready  # type: ignore[attr-defined]  # whether others are about to run
    for _ in range(TURNS):
        await asyncio.sleep(0)
        if not ready:
            return


async def play(story: Story, decisions: Sequence[int]) -> list[int]:
    """Play a story by decisions; beyond them the first option is taken. Returns how many options each step had."""
    world = World(mistakes=story.mistakes, evidence_s=story.evidence_s)
    options_seen: list[int] = []
    lives = [asyncio.create_task(script(world, number, keys)) for number, (script, keys) in enumerate(story.scripts)]
    faults, switches, running = story.faults, story.switches, 0
    while True:
        await _settle()
        waiting = [gate for gate in world.gates if not lives[gate.process].done()]
        if not waiting:
            break
        own = [gate for gate in waiting if gate.process == running]
        others = [gate for gate in waiting if gate.process != running]
        # What one process does at the same time goes on in its order, unless a switch is spent on it.
        options = [(gate, Choice.GO) for gate in (own or others)[:1]]
        if switches:
            options += [(gate, Choice.GO) for gate in ((own or others)[1:] + (others if own else []))]
        if faults:
            options += [(gate, choice) for gate in (own or others)[:1] for choice in list(Choice)[1:]]
        step = len(options_seen)
        gate, choice = options[decisions[step] if step < len(decisions) else 0]
        options_seen.append(len(options))
        switches -= gate is not (own or others)[0]
        running = gate.process
        world.gates.remove(gate)
        gate.decided.set_result(choice)
        if choice is not Choice.GO:
            faults -= 1
        if choice in (Choice.DEAD_BEFORE, Choice.DEAD_AFTER):
            await _restart(world, story, lives, gate.process)
    for life in lives:
        life.result()
    await _finish(world, story)
    return options_seen


async def _restart(world: World, story: Story, lives: "list[asyncio.Task[None]]", process: int) -> None:
    """Bury a process and start it again."""
    await asyncio.sleep(0)
    lives[process].cancel()
    await asyncio.gather(lives[process], return_exceptions=True)
    world.gates = [gate for gate in world.gates if gate.process != process]
    script, keys = story.scripts[process]
    lives[process] = asyncio.create_task(script(world, process, keys))


async def _finish(world: World, story: Story) -> None:
    """Let a last undisturbed process answer every request, and check what must hold at the end."""
    keys = sorted({key for _, keys in story.scripts for key in keys})
    is_rolled = any(script is roll_over for script, _ in story.scripts)
    life = asyncio.ensure_future((roll_over if is_rolled else run_process)(world, 9, keys))
    while not life.done():
        for gate in world.gates:
            gate.decided.set_result(Choice.GO)
        world.gates.clear()
        await asyncio.sleep(0)
    life.result()
    check_always(world)
    assert set(world.told) == set(keys), "S9: in the end every request has its entry"
    number = 2 if is_rolled else 1
    assert not [key for key in world.store.objects if key.startswith(f"private/staging/{number}/")], (
        "S9: nothing is left"
    )
    if is_rolled:
        record = record_of(world, 1)
        assert record is not None
        assert record.is_closed, "S10: the old log is closed"


def explore(story: Story, most: int) -> int:
    """Play every decision of a story, depth first. Returns how many plays there were."""
    decisions: list[int] = []
    plays = 0
    while True:
        options = asyncio.run(play(story, decisions))
        plays += 1
        assert plays <= most, f"more than {most} plays"
        path = [*decisions, *([0] * (len(options) - len(decisions)))]
        while path and path[-1] + 1 >= options[len(path) - 1]:
            path.pop()
        if not path:
            return plays
        path[-1] += 1
        decisions = path


@pytest.fixture(autouse=True)
def _inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads would decide on their own when they go on; here they run in place."""

    async def in_place(call: Callable[..., object], /, *arguments: object) -> object:
        return call(*arguments)

    monkeypatch.setattr(asyncio, "to_thread", in_place)
    monkeypatch.setattr(sequencer, "_PASSING", frozenset({Reason.CLOCK, Reason.LOG_FULL}))


A, B, C = b"a", b"b", b"c"


def test_one_process_and_a_fault() -> None:
    """One sequencer, two requests, any one failure or crash at any step: all properties hold."""
    assert explore(Story(((run_process, (A, B)),), faults=1, switches=0), 2000) > 40


def test_two_writers() -> None:
    """Two sequencers on one log with a common request, switched up to twice: all properties hold."""
    assert explore(Story(((run_process, (A, B)), (run_process, (B, C))), faults=0, switches=2), 8000) > 50


def test_two_writers_and_a_fault() -> None:
    """Two sequencers, switched once, and any one failure or crash of either."""
    assert explore(Story(((run_process, (A,)), (run_process, (B,))), faults=1, switches=1), 40_000) > 300


def test_stale_evidence_with_a_fault() -> None:
    """One sequencer; validation that ends while any one step fails or the process dies is never signed on."""
    assert explore(Story(((run_process, (A, B)),), faults=1, switches=0, evidence_s=1), 2000) > 50


def test_two_writers_and_stale_evidence() -> None:
    """Two sequencers, each of which may undo the other's round, with any one failure or crash of either."""
    assert explore(Story(((run_process, (A,)), (run_process, (B,))), faults=1, switches=1, evidence_s=1), 40_000) > 300


def test_rollover_with_a_fault() -> None:
    """The log is changed while any one step of it fails or the process dies."""
    assert explore(Story(((roll_over, (A,)),), faults=1, switches=0), 3000) > 60


def test_rollover_against_a_writer() -> None:
    """The log is changed while another sequencer still appends to the old one."""
    assert explore(Story(((run_process, (A,)), (roll_over, (B,))), faults=0, switches=2), 8000) > 100


@pytest.mark.slow
@pytest.mark.parametrize(
    "story",
    [
        Story(((run_process, (A, B)),), faults=2, switches=0),
        Story(((run_process, (A, B)), (run_process, (B, C))), faults=0, switches=3),
        Story(((run_process, (A,)), (run_process, (B,))), faults=1, switches=2),
        Story(((roll_over, (A,)),), faults=2, switches=0),
        Story(((run_process, (A,)), (roll_over, (B,))), faults=1, switches=1),
        Story(((run_process, (A, B)),), faults=2, switches=0, evidence_s=1),
        Story(((run_process, (A,)), (run_process, (B,))), faults=1, switches=2, evidence_s=1),
    ],
    ids=[
        "two faults",
        "three switches",
        "fault and switches",
        "rollover, two faults",
        "rollover, writer and fault",
        "stale evidence, two faults",
        "stale evidence, fault and switches",
    ],
)
def test_deeper(story: Story) -> None:
    """The same, one step deeper."""
    assert explore(story, 300_000) > 500


@pytest.mark.parametrize("mistake", ["signer forgets", "signer skips the journal"])
def test_explorer_finds_mistakes(mistake: str) -> None:
    """A signer that forgets, over a register that does not compare, and one that does not journal, are found."""
    story = Story(((run_process, (A,)), (run_process, (B,))), faults=0, switches=3, mistakes=frozenset({mistake}))
    if mistake == "signer forgets":
        story = replace(story, mistakes=frozenset({mistake, "swap without comparing"}))
    with pytest.raises(AssertionError, match=r"S\d"):
        explore(story, 60_000)


def test_explorer_finds_stale_evidence() -> None:
    """A signer that does not look at the age of the evidence is found."""
    story = Story(((run_process, (A,)),), 1, 0, frozenset({"signer ignores evidence"}), evidence_s=1)
    with pytest.raises(AssertionError, match="S11"):
        explore(story, 2000)
