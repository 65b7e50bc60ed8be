"""A cosigner as a program: its folder opened, its servers up, its configuration followed."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from starlette.types import ASGIApp

from mtc import __version__
from mtc.cosign.config import CONFIG_NAME, CosignerConfig, Role, parse_address
from mtc.cosign.evidence.service import EvidenceKeeper
from mtc.cosign.machine import CosignerView
from mtc.cosign.mirroring import MirrorState
from mtc.cosign.service.core import INDEX_NAME, Core, origin_hash, signed_at, state_name
from mtc.cosign.service.folder import CosignerFolder, read_cosigner_config
from mtc.cosign.service.http import Endpoints
from mtc.cosign.service.metrics import CosignerMetrics
from mtc.cosign.service.mirror import Mirror
from mtc.cosign.service.pages import CosignerStatus, LogLine, StatusPages
from mtc.cosign.service.tending import EvidenceWatch, Tending
from mtc.cosign.service.witness import Witness
from mtc.errors import ConflictError, Error
from mtc.kernel import active_kernel
from mtc.note import VerifierKey
from mtc.store import open_storage
from mtc.web.clock import Clock, ClockGuard, SystemClock
from mtc.web.files import file_stamp
from mtc.web.frame import FrameChoices, create_app
from mtc.web.logs import open_logger
from mtc.web.server import Listening, serve
from mtc.web.stopping import stop_on_signals

_LOG = open_logger("cosigner")
_RELOAD_S = 1.0
_CLOCK_TOLERANCE_S = 30.0


@dataclass(slots=True)
class RunningCosigner:
    """A cosigner with everything open. config: as last read. troubles: what needs a look, by what it is about."""

    folder: CosignerFolder
    core: Core
    cosigner: Witness | Mirror
    metrics: CosignerMetrics
    clock: Clock
    config: CosignerConfig
    watch: EvidenceWatch
    troubles: dict[str, str] = field(default_factory=dict)

    @property
    def mirror(self) -> Mirror | None:
        """The cosigner when it is a mirror."""
        return self.cosigner if isinstance(self.cosigner, Mirror) else None

    def app(self) -> ASGIApp:
        """Return the application: protocol, monitoring, status page, health, metrics."""
        config = self.config
        endpoints = Endpoints(self.cosigner, self.mirror, self.metrics)
        pages = StatusPages(self.status, config.monitoring_path)
        routes = [
            *pages.routes(),
            *self.metrics.routes(lambda: self._measure(self._lines())),
            *endpoints.routes(config.submission_path, config.monitoring_path),
        ]
        limits = endpoints.limits(config.submission_path)
        return create_app(routes, FrameChoices(limits_by_prefix=limits, observe=self.metrics.count_exchange))

    def status(self) -> CosignerStatus:
        """Return how the cosigner is."""
        troubles = [f"{what}: {text}" for what, text in self.troubles.items()]
        try:
            self.core.clock.seconds()
        except ConflictError as error:
            troubles.append(error.message)
        return CosignerStatus(
            role=str(self.config.role),
            cosigner_id=str(self.config.cosigner_id),
            keys=tuple(item.key.encode() for item in self.folder.keys),
            logs=self._lines(),
            known=len(self.core.directory.logs) + len(self.core.directory.cas),
            evidence=self.watch.count,
            troubles=tuple(troubles),
            now=self.clock.now(),
        )

    def _lines(self) -> tuple[LogLine, ...]:
        """Return all logs."""
        return tuple(self._line(origin) for origin in self.core.origins)

    def _line(self, origin: str) -> LogLine:
        """Return one log."""
        if isinstance(self.cosigner, Mirror):
            return line_of(origin, self.cosigner.state(origin), self.core.own_keys)
        return line_of(origin, self.cosigner.view(origin), self.core.own_keys)

    def _measure(self, logs: tuple[LogLine, ...]) -> None:
        """Set the gauges."""
        metrics = self.metrics
        metrics.set("mtc_cosigner_logs", len(logs))
        for log in logs:
            metrics.set("mtc_cosigner_log_size", log.tree_size, origin=log.origin)
            if log.signed is not None:
                metrics.set("mtc_cosigner_log_timestamp_seconds", log.signed.timestamp(), origin=log.origin)
            if self.mirror is not None:
                metrics.set("mtc_mirror_pending_size", log.pending, origin=log.origin)
                metrics.set("mtc_mirror_next_entry", log.next_entry, origin=log.origin)
                metrics.set("mtc_mirror_minimum_index", log.minimum_index, origin=log.origin)

    def tending(self, mirror: Mirror) -> Tending:
        """Return what a mirror does by itself."""
        return Tending(mirror, lambda: self.config, self.watch, self.metrics, self.clock, self.troubles)

    async def watch_config(self) -> None:
        """Take over logs that are added to the configuration, until cancelled. A wrong one leaves all as it is."""
        # It may have changed since it was read, so the first look reads it in any case.
        last: tuple[int, int, int] | None = None
        while True:
            await asyncio.sleep(_RELOAD_S)
            stamp = file_stamp(self.folder.path / CONFIG_NAME)
            if stamp == last:
                continue
            last = stamp
            try:
                config = read_cosigner_config(self.folder.path)
                if config != self.config:
                    self.core.reload(self.folder.directory(config))
                    _LOG.info("configuration taken", logs=len(config.logs), cas=len(config.cas))
            except Error as error:
                self.troubles["configuration"] = error.message
                _LOG.warning("configuration not taken", error=error.message)
                continue
            self.config = config
            self.troubles.pop("configuration", None)


def line_of(origin: str, state: MirrorState | CosignerView | None, keys: tuple[VerifierKey, ...]) -> LogLine:
    """Return one log of a cosigner from its state."""
    view = state.committed if isinstance(state, MirrorState) else state
    name = origin_hash(origin)
    held = state if isinstance(state, MirrorState) else MirrorState()
    pending = held.latest.tree_size if held.latest is not None else 0
    line = LogLine(origin, name, 0, "", None, pending, held.next_entry, held.minimum_index)
    if view is None:
        return line
    seconds = signed_at(view, keys)
    signed = datetime.fromtimestamp(seconds, UTC) if seconds else None
    return LogLine(
        origin, name, view.tree_size, view.root_hash.hex(), signed, pending, held.next_entry, held.minimum_index
    )


@asynccontextmanager
async def open_cosigner(
    path: Path, *, clock: Clock | None = None, passphrase_file: str | None = None
) -> AsyncIterator[RunningCosigner]:
    """Open a cosigner's folder and read what it knows; close everything at the end.

    Raises UsageError for a folder that is wrong, StorageError when another process has it or objects are missing.
    """
    folder = CosignerFolder.read(path, passphrase_file)
    moment = clock or SystemClock()
    async with contextlib.AsyncExitStack() as stack:
        storage = open_storage(folder.config.storage, path)
        stack.callback(storage.close)
        core = Core(
            folder.directory(folder.config),
            folder.keys,
            storage.objects,
            storage.register,
            active_kernel().hasher("sha256"),
            ClockGuard(moment, _CLOCK_TOLERANCE_S),
        )
        cosigner = await (Mirror if folder.config.role is Role.MIRROR else Witness).open(core)
        metrics = CosignerMetrics()
        metrics.set(
            "mtc_build_info",
            1,
            version=__version__,
            kernel=active_kernel().name,
            role=folder.config.role,
            cosigner=folder.config.cosigner_id,
        )
        keeper = EvidenceKeeper(storage.objects)
        by = f"{folder.config.role} {folder.config.name}"
        mirror = cosigner if isinstance(cosigner, Mirror) else None
        watch = EvidenceWatch(core, keeper, metrics, moment, by, mirror)
        watch.count = await keeper.count()
        core.refused = watch.refused
        yield RunningCosigner(folder, core, cosigner, metrics, moment, folder.config, watch)


@asynccontextmanager
async def serving(running: RunningCosigner, address: tuple[str, int]) -> AsyncIterator[Listening]:
    """Answer over TCP and follow the configuration, until the context ends."""
    async with contextlib.AsyncExitStack() as stack:
        listening = await stack.enter_async_context(serve(running.app(), address))
        if running.mirror is not None:
            await stack.enter_async_context(running.tending(running.mirror).running())
        watching = asyncio.create_task(running.watch_config())
        try:
            yield listening
        finally:
            watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watching


async def run_cosigner(path: Path, *, listen: str | None = None, passphrase_file: str | None = None) -> None:
    """Run a cosigner until SIGTERM or SIGINT. listen: in place of what the configuration says."""
    stop = stop_on_signals()
    async with open_cosigner(path, passphrase_file=passphrase_file) as running:
        address = running.config.listen if listen is None else parse_address(listen)
        async with serving(running, address) as listening:
            _LOG.info(
                "serving",
                role=str(running.config.role),
                cosigner=str(running.config.cosigner_id),
                logs=len(running.core.origins),
                url=listening.url,
            )
            await stop.wait()
            _LOG.info("stopping")
    _LOG.info("stopped")


async def read_lines(path: Path) -> list[LogLine]:
    """Return the logs of a cosigner's folder, whether it runs or not. Raises UsageError, StorageError."""
    folder = CosignerFolder.read(path)
    storage = open_storage(folder.config.storage, path, is_writer=False)
    try:
        index = await storage.register.read(INDEX_NAME) or b""
        keys = tuple(item.key for item in folder.keys)
        lines = []
        for origin in index.decode().split("\n")[:-1]:
            data = await storage.register.read(state_name(origin))
            is_mirror = folder.config.role is Role.MIRROR
            state = None if data is None else (MirrorState if is_mirror else CosignerView).parse(data)
            lines.append(line_of(origin, state, keys))
        return lines
    finally:
        storage.close()
