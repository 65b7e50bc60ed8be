"""A remote perspective as a program: its folder opened, its servers up, its list of CAs followed."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mtc import __version__
from mtc.acme.perspective.agent import Agent, Allowed
from mtc.acme.perspective.folder import CONFIG_NAME, PerspectiveConfig, open_own_identity, read_perspective_config
from mtc.acme.perspective.metrics import PerspectiveMetrics
from mtc.acme.seams import Perspective
from mtc.acme.validation.local import LocalPerspective
from mtc.ca.config import parse_address
from mtc.errors import Error
from mtc.web.clock import Clock, SystemClock
from mtc.web.files import file_stamp
from mtc.web.frame import FrameChoices, create_app
from mtc.web.logs import open_logger
from mtc.web.server import Listening, serve
from mtc.web.stopping import stop_on_signals
from mtc.web.tls import ServerTLS, keep_fresh

RELOAD_S = 1.0
"""How often the configuration is looked at."""
_RENEW_S = 3600.0
_LOG = open_logger("perspective")


@dataclass(slots=True)
class RunningPerspective:
    """A perspective that answers. address: where CAs ask. monitoring: for operators, None for nowhere.

    troubles: what needs a look, by what it is about. Its configuration is followed: who may ask changes at once, the
    rest with the next start.
    """

    folder: Path
    config: PerspectiveConfig
    address: Listening
    monitoring: Listening | None
    tls: ServerTLS
    allowed: Allowed
    troubles: dict[str, str] = field(default_factory=dict)

    def take(self, config: PerspectiveConfig) -> None:
        """Take over who may ask. Raises UsageError, and all stays as it was."""
        encoded = [client.encoded for client in config.clients]
        self.tls.allow(encoded)
        self.allowed.clients = frozenset(encoded)

    async def watch(self) -> None:
        """Follow the configuration until cancelled. A wrong one changes nothing, and is told in /health."""
        # It may have changed since it was read, so the first look reads it in any case.
        last: tuple[int, int, int] | None = None
        while True:
            await asyncio.sleep(RELOAD_S)
            stamp = file_stamp(self.folder / CONFIG_NAME)
            if stamp == last:
                continue
            last = stamp
            try:
                before = self.allowed.clients
                self.take(read_perspective_config(self.folder))
            except Error as error:
                self.troubles["configuration"] = error.message
                _LOG.warning("configuration not taken", error=error.message)
                continue
            self.troubles.pop("configuration", None)
            if self.allowed.clients != before:
                _LOG.info("configuration taken", clients=len(self.allowed.clients))


async def open_perspective(config: PerspectiveConfig) -> LocalPerspective:
    """Return what a configuration describes, after a look whether its resolvers do what they must.

    Raises UsageError and PeerError that say how to make them do it.
    """
    perspective = LocalPerspective(config.looking, name=config.name, region=config.region)
    await perspective.check()
    return perspective


@asynccontextmanager
async def serving(
    folder: Path,
    perspective: Perspective,
    *,
    listen: tuple[str, int] | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[RunningPerspective]:
    """Answer for a perspective until the context ends.

    listen: in place of what the configuration says. Raises UsageError, StorageError.
    """
    config, now = read_perspective_config(folder), (clock or SystemClock()).now
    encoded = [client.encoded for client in config.clients]
    tls = ServerTLS(open_own_identity(folder, config.name, now()), clients=encoded, minimum=ssl.TLSVersion.TLSv1_3)
    allowed, metrics, troubles = Allowed(frozenset(encoded)), PerspectiveMetrics(), dict[str, str]()
    metrics.set("mtc_perspective_info", 1, version=__version__, perspective=config.name, region=config.region)

    def look() -> list[str]:
        metrics.set("mtc_perspective_clients", len(allowed.clients))
        metrics.set("mtc_perspective_certificate_end_seconds", tls.not_after.timestamp())
        nobody = [] if allowed.clients else ["nobody may ask yet; mtc perspective allow lets a CA in"]
        return [*nobody, *(f"{what}: {text}" for what, text in troubles.items())]

    agent = Agent(perspective, allowed, config.examinations, metrics, look)
    choices = FrameChoices(limits_by_prefix=agent.limits(), observe=metrics.count_exchange)
    async with contextlib.AsyncExitStack() as stack:
        app = create_app(agent.routes(), choices)
        address = await stack.enter_async_context(serve(app, listen or config.listen, tls=tls.context))
        monitoring = None
        if config.monitoring is not None:
            pages = create_app(agent.monitoring(), choices)
            monitoring = await stack.enter_async_context(serve(pages, config.monitoring))
        running = RunningPerspective(folder, config, address, monitoring, tls, allowed, troubles)
        for work in (
            running.watch(),
            keep_fresh(tls, lambda: open_own_identity(folder, config.name, now()), interval_s=_RENEW_S),
        ):
            stack.push_async_callback(_end, asyncio.create_task(work))
        yield running


async def _end(task: "asyncio.Task[None]") -> None:
    """End what runs beside."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def run_perspective(folder: Path, *, listen: str | None = None) -> None:
    """Run a perspective until SIGTERM or SIGINT. listen: in place of what the configuration says, as text."""
    stop = stop_on_signals()
    config = read_perspective_config(folder)
    address = None if listen is None else parse_address(listen)
    async with serving(folder, await open_perspective(config), listen=address) as running:
        _LOG.info(
            "serving",
            perspective=config.name,
            region=config.region,
            url=running.address.url,
            fingerprint=running.tls.fingerprint,
            clients=len(running.allowed.clients),
        )
        await stop.wait()
        _LOG.info("stopping")
    _LOG.info("stopped")
