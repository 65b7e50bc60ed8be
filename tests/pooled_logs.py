"""A CA's own log and cosigners over HTTP, honest or meddled with, for tests of those who ask them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from starlette.types import Receive, Scope, Send
from tests.asgi import Reply, ask
from tests.cosigning import Running, World
from tests.note_keys import CA, TestSigner
from tests.synthetic_logs import HASHER, NOW, ORIGIN, SyntheticLog

from mtc.ca.cosigning.config import CosignerTable, CosigningConfig, GroupTable, QuorumTable
from mtc.ca.cosigning.pool import CosignerPool
from mtc.ca.metrics import CAMetrics
from mtc.ca.proofs import TreeHead
from mtc.cert import SubtreeSignature
from mtc.cosign.config import Role
from mtc.cosign.evidence import Evidence, verify_evidence
from mtc.cosign.service.client import CosignerClient, CosignerPeer
from mtc.ids import TrustAnchorID
from mtc.log.seams import SignedTree, TreeToSign
from mtc.merkle import Subtree, cover
from mtc.note import CosignedMessage, SignatureType
from mtc.store import MemoryStore
from mtc.testing import FakeClock
from mtc.tiles import TileEdge, build_bundles, build_tiles
from mtc.web.client import ClientLimits, HTTPClient
from mtc.web.server import serve

CA_ID = TrustAnchorID.parse("32473.1")
Honest = Callable[[], Awaitable[Reply]]
Rule = Callable[[Honest], Awaitable[Reply]]


def signer(number: int) -> TestSigner:
    """Return the ML-DSA-44 key of cosigner 32473.<number>."""
    return TestSigner(f"oid/1.3.6.1.4.1.32473.{number}", SignatureType.COSIGNATURE_MLDSA44, number)


@dataclass
class Cosigner:
    """A cosigner that is served, and what is done to its answers: by endpoint, the last part of the path."""

    name: str
    role: Role
    signer: TestSigner
    world: World
    running: Running | None = None
    rules: dict[str, Rule] = field(default_factory=dict)
    url: str = ""
    asked: list[str] = field(default_factory=list)
    upload_bytes: list[int] = field(default_factory=list)
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    deadline_s: float = 5.0

    @staticmethod
    def of(name: str, number: int, role: Role = Role.WITNESS, **choices: float) -> "Cosigner":
        """Return a cosigner with the key of a number."""
        key = signer(number)
        world = World(is_mirror=role is Role.MIRROR, signers=(key,))
        return Cosigner(name, role, key, world, **choices)  # type: ignore[arg-type]  # the deadline

    @property
    def peer(self) -> CosignerPeer:
        """How it is asked."""
        return CosignerPeer(
            name=self.name,
            role=self.role,
            key=self.signer.key,
            url=self.url,
            monitoring_url=self.url,
            deadline_s=self.deadline_s,
        )

    @property
    def table(self) -> CosignerTable:
        """How a configuration names it."""
        deadline = timedelta(seconds=self.deadline_s)
        return CosignerTable(
            name=self.name, role=self.role, key=self.signer.key, url=self.url, monitoring_url=None, deadline=deadline
        )

    def fall_silent(self) -> None:
        """Answer nothing any more, before the end."""

        async def rule(_honest: Honest) -> Reply:
            await self.closing.wait()
            return Reply(503, {}, b"")

        self.rules["*"] = rule

    async def restart(self) -> None:
        """Start it on what it has stored."""
        self.running = await self.world.open()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the rules say, honestly without one."""
        endpoint = scope["path"].rpartition("/")[2]
        self.asked.append(endpoint)
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        if endpoint == "add-entries":
            self.upload_bytes.append(len(body))
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}

        async def honest() -> Reply:
            assert self.running is not None
            return await ask(self.running.app(), scope["path"], method=scope["method"], headers=headers, pieces=[body])

        rule = self.rules.get(endpoint) or self.rules.get("*")
        reply = await (honest() if rule is None else rule(honest))
        raw = [(name.encode(), value.encode()) for name, value in reply.headers.items() if name != "content-length"]
        await send({"type": "http.response.start", "status": reply.status, "headers": raw})
        await send({"type": "http.response.body", "body": reply.body})


def always(status: int, body: bytes = b"", **headers: str) -> Rule:
    """Return a rule that always answers the same."""

    async def rule(_honest: Honest) -> Reply:
        return Reply(status, {name.replace("_", "-"): value for name, value in headers.items()}, body)

    return rule


def changed(change: Callable[[bytes], bytes]) -> Rule:
    """Return a rule that changes the body of the honest answer, if it says yes to anything."""

    async def rule(honest: Honest) -> Reply:
        reply = await honest()
        if reply.status != 200 or not reply.body:
            return reply
        return Reply(reply.status, reply.headers, change(reply.body))

    return rule


@asynccontextmanager
async def served(*cosigners: Cosigner) -> AsyncIterator[None]:
    """Serve cosigners, each on a port of its own."""
    async with AsyncExitStack() as stack:
        for cosigner in cosigners:
            await cosigner.restart()
            listening = await stack.enter_async_context(serve(cosigner, ("127.0.0.1", 0)))
            cosigner.url = listening.url
        try:
            yield
        finally:
            for cosigner in cosigners:
                cosigner.closing.set()


@asynccontextmanager
async def client_of(cosigner: Cosigner) -> AsyncIterator[CosignerClient]:
    """Ask one cosigner."""
    async with served(cosigner), HTTPClient(ClientLimits(attempts=2, pause_s=0.01)) as http:
        yield CosignerClient(cosigner.peer, http, lambda: float(NOW))


class OwnLog:
    """A CA's log as its sequencer would publish it, in memory. store: its objects. history: all entries so far."""

    def __init__(self) -> None:
        """Start empty."""
        self.store = MemoryStore()
        self.history = SyntheticLog()
        self.edge = TileEdge(HASHER.size)
        self.bundle = b""
        self.timestamp = NOW

    @property
    def head(self) -> TreeHead:
        """What the register says."""
        return TreeHead(self.history.size, self.history.root(self.history.size))

    async def grow(self, entries: Sequence[bytes]) -> tuple[TreeToSign, SignedTree]:
        """Publish a round; return it, signed by the CA."""
        start = self.history.size
        self.history.append(entries)
        end = self.history.size
        bundles = build_bundles(start, self.bundle, entries)
        self.edge, tiles = build_tiles(HASHER, self.edge, HASHER.leaves(entries))
        await self.store.put(
            {f"public/1/{place.path}": data for place, data in tiles.items()}
            | {f"public/1/{place.path}": data for place, data in bundles.items()}
        )
        if entries:
            self.bundle = next((data for place, data in bundles.items() if not place.is_full), b"")
        subtrees = tuple((part, self.history.hash_of(part)) for part in cover(start, end) if not part.is_empty)
        return self.tree(subtrees if entries else (), start, tuple(entries))

    def tree(
        self,
        subtrees: tuple[tuple[Subtree, bytes], ...] = (),
        start: int | None = None,
        entries: tuple[bytes, ...] = (),
        owed: tuple[tuple[Subtree, bytes], ...] = (),
    ) -> tuple[TreeToSign, SignedTree]:
        """Return the newest tree, signed."""
        size, head = self.history.size, self.head
        tree = TreeToSign(
            1, size, head.root_hash, self.timestamp, subtrees, size if start is None else start, entries, owed=owed
        )
        signatures = {
            part: (SubtreeSignature(CA_ID.binary, CA.signer.sign_now(message(CA, part, value))),)
            for part, value in subtrees
        }
        return tree, SignedTree(self.history.note(size, timestamp=self.timestamp).encode(), signatures)


def message(by: TestSigner, subtree: Subtree, value: bytes) -> bytes:
    """Return what a signature in a certificate covers."""
    return CosignedMessage(by.key.name, ORIGIN, subtree, value).encode()


@dataclass
class Pooled:
    """A pool over an own log. kept: the evidence, each of which verifies."""

    log: OwnLog
    pool: CosignerPool
    kept: list[Evidence]
    clock: FakeClock
    metrics: CAMetrics


@asynccontextmanager
async def pooled(
    *cosigners: Cosigner,
    log: OwnLog | None = None,
    rule: QuorumTable | None = None,
    groups: tuple[GroupTable, ...] = (),
) -> AsyncIterator[Pooled]:
    """Open a pool of cosigners that are served."""
    own = log or OwnLog()
    kept: list[Evidence] = []
    clock = FakeClock(datetime.fromtimestamp(NOW, UTC))
    metrics = CAMetrics()

    async def keep(evidence: Evidence) -> str:
        verify_evidence(evidence)
        kept.append(evidence)
        return evidence.name

    async def find_head(_number: int) -> TreeHead:
        return own.head

    config = CosigningConfig(tables=tuple(item.table for item in cosigners), rule=rule or QuorumTable(), groups=groups)
    pool = CosignerPool(config, CA_ID, CA.key, HASHER, own.store, find_head, clock, keep, metrics)
    async with pool:
        yield Pooled(own, pool, kept, clock, metrics)
