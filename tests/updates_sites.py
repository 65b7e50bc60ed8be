"""CAs and mirrors as they serve their files over HTTP, for the update service: honest, slow or lying, as asked for."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

from starlette.responses import Response
from starlette.types import Receive, Scope, Send
from tests.updating import HASHER, MIRRORS, NOW, SECONDS, LandmarkLog, verifier

from mtc.cert import TBSCRL, CACertificate, SerialRanges, assemble_crl, encode_ca_certificate, encode_tbs_crl
from mtc.ids import DEFAULT_REVISION, DraftRevision, TrustAnchorID, encode_ca_name
from mtc.landmark import ActiveLandmarks
from mtc.merkle import Subtree, subtree_hash
from mtc.note import Checkpoint, Note, NoteSignature, SignatureType, VerifierKey, checkpoint_message, note_signature
from mtc.testing import FakeClock
from mtc.tiles import TileEdge, build_tiles
from mtc.trust import Cosigner
from mtc.trust.updater import http_client
from mtc.updates.config import CASource, MirrorSource, UpdatesConfig
from mtc.updates.folder import create_service
from mtc.updates.serve import UpdateService, open_service
from mtc.web.client import HTTPClient
from mtc.web.server import ServerLimits, serve

WEEK = timedelta(days=7)


def cosign(log: LandmarkLog, who: TrustAnchorID, checkpoint: Checkpoint) -> NoteSignature:
    """Return the line of a cosigner."""
    signer = log.key(who)
    key = VerifierKey.from_spki(who.oid_name, SignatureType.COSIGNATURE_MLDSA44, signer.public_key)
    return note_signature(key, signer.sign_now(checkpoint_message(key, checkpoint, SECONDS)), SECONDS)


@dataclass
class Site:
    """What one party serves. files: by path. rule: called before each answer. answer: in place of all files."""

    files: dict[str, bytes] = field(default_factory=dict)
    rule: Callable[[], Awaitable[None]] | None = None
    answer: Callable[[], Response] | None = None
    requests: list[str] = field(default_factory=list)
    url: str = ""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer."""
        path = scope["path"][1:]
        self.requests.append(path)
        if self.rule is not None:
            await self.rule()
        body = self.files.get(path)
        if self.answer is not None:
            await self.answer()(scope, receive, send)
            return
        await (Response(status_code=404) if body is None else Response(body))(scope, receive, send)


@dataclass
class Street:
    """All sites behind one server, because stopping a server takes longer than a test; paths begin with a number."""

    sites: list[Site]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let the site answer."""
        number, _, path = scope["path"][1:].partition("/")
        await self.sites[int(number)]({**scope, "path": f"/{path}"}, receive, send)


@dataclass
class TownCA:
    """A CA with a log, and a mirror that shows its own checkpoints. site, mirror: where they serve."""

    log: LandmarkLog
    site: Site = field(default_factory=Site)
    mirror: Site = field(default_factory=Site)
    edge: TileEdge = field(default_factory=lambda: TileEdge(HASHER.size))

    def mark(self, count: int) -> None:
        """Grow up to a new landmark, and publish everything."""
        self.log.mark(count)
        self.publish()

    def checkpoint(self, size: int | None = None, *, root: bytes | None = None) -> Checkpoint:
        """Return a checkpoint of the log."""
        count = self.log.size if size is None else size
        found = subtree_hash(HASHER, self.log.reader, Subtree(0, count)) if root is None else root
        return Checkpoint(f"{self.log.ca_id.oid_name}.0.{self.log.number}", count, found)

    def publish(self, *, mirror_size: int | None = None) -> None:
        """Publish tiles, landmarks and checkpoints; the mirror's perhaps of a smaller size."""
        log, number = self.log, self.log.number
        start = self.edge.tree_size
        row = HASHER.leaves([f"{log.label} {at}".encode() for at in range(start, log.size)])
        self.edge, tiles = build_tiles(HASHER, self.edge, row)
        self.site.files |= {f"{number}/{tile.path}": content for tile, content in tiles.items()}
        self.site.files[f"{number}/landmarks"] = ActiveLandmarks(tuple(log.landmarks), log.revision).encode()
        whole = self.checkpoint()
        self.site.files[f"{number}/checkpoint"] = Note(whole.encode(), (cosign(log, log.ca_id, whole),)).encode()
        seen = self.checkpoint(mirror_size)
        name = sha256(seen.origin.encode()).hexdigest()
        lines = (cosign(log, log.ca_id, seen), cosign(log, MIRRORS[0], seen))
        self.mirror.files[f"{name}/checkpoint"] = Note(seen.encode(), lines).encode()

    def revoke(self, number: int, *ranges: tuple[int, int], min_serial: int = 0) -> None:
        """Publish the MTC revocation list."""
        signer = self.log.key(self.log.ca_id)
        crl = TBSCRL(
            issuer=encode_ca_name(self.log.ca_id, self.log.revision),
            algorithm=signer.algorithm.identifier,
            this_update=NOW - timedelta(hours=1),
            next_update=NOW + WEEK,
            number=number,
            ranges=SerialRanges(ranges),
            min_serial=min_serial,
        )
        tbs = encode_tbs_crl(crl)
        self.site.files["revocations.crl"] = assemble_crl(tbs, crl.algorithm, signer.sign_now(tbs))

    def source(self) -> CASource:
        """Return the CA as an update service is configured for it."""
        signer = self.log.key(self.log.ca_id)
        der = encode_ca_certificate(
            ca_id=self.log.ca_id,
            public_key=verifier(signer),
            not_before=NOW - WEEK,
            not_after=NOW + 52 * WEEK,
            revision=self.log.revision,
        )
        mirror = MirrorSource(Cosigner(MIRRORS[0], verifier(self.log.key(MIRRORS[0]))), self.mirror.url)
        return CASource(CACertificate.parse(der), self.site.url, (mirror,), 1)


def town_ca(ca_id: str = "32473.1", revision: DraftRevision = DEFAULT_REVISION) -> TownCA:
    """Return a CA with two landmarks."""
    ca = TownCA(LandmarkLog(TrustAnchorID.parse(ca_id), cosigners=MIRRORS[:1], revision=revision))
    ca.mark(300)
    ca.mark(41)
    return ca


@asynccontextmanager
async def serviced(folder: Path, *cas: TownCA, clock: FakeClock | None = None) -> AsyncIterator[UpdateService]:
    """Serve CAs and open an update service for them; it pulls and publishes when it is told to."""
    create_service(folder, UpdatesConfig(), None)
    async with AsyncExitStack() as stack:
        street = Street([site for ca in cas for site in (ca.site, ca.mirror)])
        listening = await stack.enter_async_context(serve(street, ("127.0.0.1", 0), ServerLimits(stop_s=0)))
        for number, site in enumerate(street.sites):
            site.url = f"{listening.url}/{number}"
        service = await stack.enter_async_context(open_service(folder, clock=clock or FakeClock(NOW)))
        sources = tuple(ca.source() for ca in cas)
        service.config = UpdatesConfig(cas=sources, pull_interval=timedelta(milliseconds=20))
        yield service


@asynccontextmanager
async def online(
    folder: Path, *cas: TownCA, clock: FakeClock | None = None
) -> AsyncIterator[tuple[UpdateService, str, HTTPClient]]:
    """Serve CAs and an update service for them; give the service, its URL, and an open client."""
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(serviced(folder, *cas, clock=clock))
        listening = await stack.enter_async_context(serve(service.app(), ("127.0.0.1", 0)))
        yield service, listening.url, await stack.enter_async_context(http_client())
