"""`mtc ca serve`: everything that a CA shows and answers, in one process.

The read path, the status page, health and metrics are for everybody; the API is for those who may issue. Over the Unix
socket in the folder the same application answers.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from starlette.routing import BaseRoute
from starlette.types import ASGIApp

from mtc import __version__
from mtc.ca.api import MAX_BULK_BYTES, CAControl, api_routes
from mtc.ca.config import parse_address, read_config
from mtc.ca.http import ReadPath, ServingRules
from mtc.ca.pages.http import Pages
from mtc.ca.service import RunningCA, open_ca
from mtc.ca.state import Incident
from mtc.ca.status import (
    CAStatus,
    IncidentStatus,
    LandmarkStatus,
    LogStatus,
    PublishedLogs,
    QuorumStatus,
    StoreView,
    describe_health,
)
from mtc.errors import PeerError
from mtc.kernel import active_kernel
from mtc.web.frame import FrameChoices, Limits, create_app
from mtc.web.logs import open_logger
from mtc.web.memory import rare_collections
from mtc.web.server import Listening, serve
from mtc.web.stopping import stop_on_signals

_LOG = open_logger("ca")
_API_TIME_S = 400.0
"""An issuance waits for its round and, where there are cosigners, for their quorum: five minutes at most."""
_MAX_INCIDENTS = 5
_LANDMARK_BUFFER_S = 5
_OLD_LANDMARKS_S = 3600
_LISTS_S = 3600
_PATIENCE_S = 2.0


class CAApplication:
    """What a running CA answers over HTTP."""

    def __init__(self, ca: RunningCA) -> None:
        """Take the CA."""
        self._ca = ca
        parts = ca.parts
        config = parts.folder.config
        logs = PublishedLogs(parts.storage.objects, parts.storage.register, parts.hasher, config.revision, config.ca_id)
        self.view = StoreView(logs, self.describe, lambda: range(1, ca.state.current_log + 1))

    def app(self, control: CAControl) -> ASGIApp:
        """Return the application. control: what the API does."""
        parts = self._ca.parts
        config, metrics = parts.folder.config, parts.metrics
        read_path = ReadPath(parts.storage.objects, self._serving_rules())
        routes: Sequence[BaseRoute] = [
            *api_routes(control, is_remote_allowed=config.has_remote_api),
            *metrics.routes(),
            *Pages(self.view, parts.hasher).routes(),
            *read_path.routes(config.url_path),
        ]
        limits = {"/api/": Limits(body_bytes=MAX_BULK_BYTES, time_s=_API_TIME_S)}
        return create_app(routes, FrameChoices(limits_by_prefix=limits, observe=metrics.count_exchange))

    def _serving_rules(self) -> ServingRules:
        """Return what only the running CA knows about what it serves."""
        ca = self._ca
        config = ca.parts.folder.config

        def landmarks_age(log_number: int) -> int:
            if log_number != ca.landmarks.state.log_number:
                return _OLD_LANDMARKS_S
            due = ca.landmarks.next_due() - ca.parts.clock.now().timestamp()
            return max(int(due), 0) + _LANDMARK_BUFFER_S

        def lists_age() -> int:
            return int(min(config.profile.crl_interval.total_seconds() / 4, _LISTS_S))

        return ServingRules(
            minimum_index=ca.minimum_index,
            checkpoint_max_age_s=int(config.profile.checkpoint_max_age.total_seconds()),
            landmarks_max_age_s=landmarks_age,
            lists_max_age_s=lists_age,
            now=ca.parts.clock.now,
        )

    async def describe(self, logs: tuple[LogStatus, ...]) -> CAStatus:
        """Put the status together."""
        ca = self._ca
        parts = ca.parts
        config, now = parts.folder.config, parts.clock.now()
        stopped = ca.log.stopped
        trouble = dict(ca.trouble)
        signer_note = trouble.pop("signer", "")
        return CAStatus(
            ca_id=config.ca_id,
            profile=config.profile.name,
            revision=config.revision,
            kernel=active_kernel().name,
            version=__version__,
            started=ca.started,
            now=now,
            prefix=config.url_path,
            prefix_url=config.prefix_url,
            logs=tuple(self._with_live(log) for log in logs),
            pool=ca.log.waiting,
            cosigners=() if parts.pool is None else parts.pool.describe(ca.state.current_log),
            quorum=self._quorum(),
            incidents=await self._incidents(),
            signer_is_up=not signer_note,
            signer_note=signer_note,
            stopped_by=None if stopped is None else stopped.message,
            warnings=tuple(f"{part}: {text}" for part, text in trouble.items()),
            max_lifetime=config.profile.max_lifetime,
            checkpoint_due=2 * config.profile.refresh_interval + timedelta(minutes=1),
        )

    def _quorum(self) -> QuorumStatus | None:
        """Say how the quorum is; None without cosigners."""
        parts, log = self._ca.parts, self._ca.log
        if parts.pool is None:
            return None
        config = parts.folder.config
        trouble = None
        if log.quorum_trouble is not None:
            seconds, text = log.quorum_trouble
            trouble = datetime.fromtimestamp(seconds, UTC), text
        is_late = trouble is not None and parts.clock.now() - trouble[0] > config.quorum_wait
        return QuorumStatus(
            rule=parts.pool.quorum,
            trouble=trouble,
            is_blocked=is_late and not config.may_run_ahead,
            owed=tuple((item.log_number, item.start, item.end) for item in log.owed),
        )

    def _with_live(self, log: LogStatus) -> LogStatus:
        """Add what only the running process knows of the current log."""
        ca = self._ca
        if log.number != ca.log.record.log_number:
            return log
        steady = ca.parts.clock.monotonic()
        published = ca.last_round
        return LogStatus(
            number=log.number,
            tree_size=log.tree_size,
            root_hash=log.root_hash,
            checkpoint=log.checkpoint,
            is_closed=log.is_closed,
            minimum_index=ca.minimum_index(log.number),
            last_round=published if published is not None and published[1] <= log.tree_size else None,
            landmarks=tuple(self._with_allocation(item) for item in log.landmarks),
            rates=ca.rates.history(steady),
            rate_1min=ca.rates.rate(60, steady),
            rate_1h=ca.rates.rate(3600, steady),
        )

    def _with_allocation(self, landmark: LandmarkStatus) -> LandmarkStatus:
        """Add when a landmark was allocated, as far as that is remembered."""
        state = self._ca.landmarks.state
        back = state.sequence.latest.number - landmark.number
        allocated = None
        if 0 <= back < len(state.allocations):
            allocated = datetime.fromtimestamp(state.allocations[-1 - back], UTC)
        return LandmarkStatus(
            number=landmark.number,
            tree_size=landmark.tree_size,
            allocated=allocated,
            expires=landmark.expires,
            is_active=landmark.is_active,
        )

    async def _incidents(self) -> tuple[IncidentStatus, ...]:
        """Read the last incidents."""
        count = self._ca.state.incidents
        keys = [Incident.key_of(number) for number in range(max(count - _MAX_INCIDENTS, 0) + 1, count + 1)]
        found = await self._ca.parts.storage.objects.fetch(keys)
        records = [json.loads(data) for data in reversed(found) if data is not None]
        return tuple(
            IncidentStatus(
                moment=datetime.fromisoformat(record["time"]),
                title=f"Log {record['new_log']} followed log {record['old_log']}",
                detail=record["reason"],
            )
            for record in records
        )


class _Control:
    """`CAControl` of a running CA, with its status."""

    def __init__(self, ca: RunningCA, application: CAApplication) -> None:
        self.issue = ca.issue
        self.upgrade = ca.upgrade
        self.revoke = ca.revoke
        self.prune = ca.prune
        self.roll_over = ca.roll_over
        self.read_tokens = ca.read_tokens
        self._application = application

    async def describe(self) -> dict[str, object]:
        """Return the state of the CA for scripts."""
        return describe_health(await self._application.view.status())


@asynccontextmanager
async def serving(ca: RunningCA, address: tuple[str, int] | None) -> AsyncIterator[list[Listening]]:
    """Answer over the Unix socket and, where there is an address, over TCP, until the context ends."""
    application = CAApplication(ca)
    app = application.app(_Control(ca, application))
    async with contextlib.AsyncExitStack() as stack:
        listening = [await stack.enter_async_context(serve(app, ca.parts.folder.socket))]
        if address is not None:
            listening.append(await stack.enter_async_context(serve(app, address)))
        yield listening


async def describe_ca(ca: RunningCA) -> dict[str, object]:
    """Return how a CA is, as `/health` says it."""
    return describe_health(await CAApplication(ca).view.status())


Beside = Callable[[RunningCA], AbstractAsyncContextManager[Sequence[Listening]]]
"""Another front of a running CA, in the same process; it ends before the CA does."""


async def run_ca(
    path: Path, *, listen: str | None = None, passphrase_file: str | None = None, beside: Sequence[Beside] = ()
) -> None:
    """Run a CA until SIGTERM or SIGINT; then no request is taken any more, and those that wait get their answer.

    listen: in place of what the configuration says, as text. beside: what else is served.
    """
    stop = stop_on_signals()
    with rare_collections():
        async with contextlib.AsyncExitStack() as stack:
            ca = await _open_patiently(stack, path, passphrase_file, stop)
            if ca is None:
                return
            await stack.enter_async_context(ca.sequencing())
            address = ca.parts.folder.config.listen if listen is None else parse_address(listen)
            listening = await stack.enter_async_context(serving(ca, address))
            for front in beside:
                listening += await stack.enter_async_context(front(ca))
            config = ca.parts.folder.config
            record = ca.log.record
            _LOG.info(
                "serving",
                ca=str(config.ca_id),
                profile=config.profile.name,
                draft=str(config.revision),
                log=record.log_number,
                tree_size=record.tree_size,
                urls=[item.url for item in listening if not isinstance(item.address, Path)],
                socket=str(ca.parts.folder.socket),
            )
            await stop.wait()
            _LOG.info("stopping", waiting=ca.log.waiting)
    _LOG.info("stopped")


async def _open_patiently(
    stack: contextlib.AsyncExitStack, path: Path, passphrase_file: str | None, stop: asyncio.Event
) -> RunningCA | None:
    """Open a CA; one that must hear a cosigner first waits until one is there. None when told to stop meanwhile.

    Raises what `open_ca` raises, PeerError only of a CA without cosigners.
    """
    while True:
        try:
            return await stack.enter_async_context(open_ca(path, passphrase_file=passphrase_file))
        except PeerError as error:
            if not read_config(path).cosigning.peers:
                raise
            _LOG.warning("waiting", error=error.message)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PATIENCE_S):
                await stop.wait()
                return None
