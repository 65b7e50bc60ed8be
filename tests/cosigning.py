"""Witnesses and mirrors in memory, asked over HTTP without a network."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from starlette.types import ASGIApp
from tests.asgi import Reply, ask
from tests.note_keys import CA, MIRROR, TestSigner
from tests.synthetic_logs import HASHER, NOW

from mtc.cosign.logs import KnownCA, KnownLog, LogDirectory
from mtc.cosign.service.core import Core, origin_hash
from mtc.cosign.service.folder import OwnKey
from mtc.cosign.service.http import Endpoints
from mtc.cosign.service.metrics import CosignerMetrics
from mtc.cosign.service.mirror import Mirror
from mtc.cosign.service.witness import Witness
from mtc.note import SignatureType
from mtc.store import MemoryRegister, MemoryStore, ObjectStore, Register
from mtc.testing import FakeClock
from mtc.web.clock import ClockGuard
from mtc.web.frame import FrameChoices, create_app

WITNESS = TestSigner("oid/1.3.6.1.4.1.32473.8", SignatureType.COSIGNATURE_MLDSA44, 8)
WITNESS_ED25519 = TestSigner("oid/1.3.6.1.4.1.32473.8", SignatureType.COSIGNATURE_ED25519, 9)


@dataclass
class World:
    """What outlives a crash, and the means to start a cosigner on it."""

    is_mirror: bool = False
    logs: tuple[KnownLog, ...] = ()
    cas: tuple[KnownCA, ...] = (KnownCA(key=CA.key),)
    signers: tuple[TestSigner, ...] | None = None
    objects: ObjectStore = field(default_factory=MemoryStore)
    register: Register = field(default_factory=MemoryRegister)
    clock: FakeClock = field(default_factory=lambda: FakeClock(datetime.fromtimestamp(NOW, UTC)))

    async def open(self) -> "Running":
        """Start a cosigner on what there is."""
        signers = self.signers or ((MIRROR,) if self.is_mirror else (WITNESS,))
        keys = tuple(OwnKey(item.key, item.signer) for item in signers)
        core = Core(
            LogDirectory(self.logs, self.cas, tuple(item.key for item in keys)),
            keys,
            self.objects,
            self.register,
            HASHER,
            ClockGuard(self.clock, 30.0),
        )
        cosigner = await (Mirror if self.is_mirror else Witness).open(core)
        return Running(self, core, cosigner)


@dataclass
class Running:
    """A cosigner that runs."""

    world: World
    core: Core
    cosigner: Witness | Mirror

    @property
    def mirror(self) -> Mirror:
        """The cosigner as a mirror."""
        assert isinstance(self.cosigner, Mirror)
        return self.cosigner

    def app(self) -> ASGIApp:
        """Return its application."""
        mirror = self.cosigner if isinstance(self.cosigner, Mirror) else None
        endpoints = Endpoints(self.cosigner, mirror, CosignerMetrics())
        return create_app(endpoints.routes("", ""), FrameChoices(limits_by_prefix=endpoints.limits("")))

    def asker(self) -> "Asker":
        """Return who asks it over HTTP."""
        return Asker(self.app())


@dataclass
class Asker:
    """Sends requests."""

    app: ASGIApp

    async def post(self, endpoint: str, body: bytes | Iterable[bytes], headers: dict[str, str] | None = None) -> Reply:
        """Send a POST, its body whole or in pieces."""
        pieces = [body] if isinstance(body, bytes) else body
        return await ask(self.app, f"/{endpoint}", method="POST", headers=headers, pieces=pieces)

    async def checkpoint(self, origin: str) -> Reply:
        """Fetch the checkpoint of a log."""
        return await self.fetch(origin, "checkpoint")

    async def fetch(self, origin: str, path: str) -> Reply:
        """Fetch a file of a log."""
        return await ask(self.app, f"/{origin_hash(origin)}/{path}")
