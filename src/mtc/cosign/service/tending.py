"""What a cosigner does by itself: follow logs, collect superseded partial objects, prune, keep evidence.

Each is a loop that a failure of one log never stops, nor delays for the others.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

from mtc import __version__
from mtc.cosign.config import CosignerConfig, Pruning
from mtc.cosign.evidence import Evidence
from mtc.cosign.evidence.service import EvidenceKeeper, HeldTree, find_in_refusal
from mtc.cosign.logs import KnownLog
from mtc.cosign.machine import CosignerView
from mtc.cosign.pruning import may_forget
from mtc.cosign.requests import AddCheckpoint
from mtc.cosign.service.core import Core, object_prefix
from mtc.cosign.service.following import Follower
from mtc.cosign.service.metrics import CosignerMetrics
from mtc.cosign.service.mirror import Mirror
from mtc.errors import Error, FormatError, PeerError, StorageError
from mtc.tiles import TILE_WIDTH, EntriesTile, EntryBundle, is_superseded, parse_tile_path, prunable_tiles
from mtc.web.client import ClientLimits, HTTPClient
from mtc.web.clock import Clock
from mtc.web.logs import open_logger

PARTIAL_GRACE = timedelta(hours=1)
"""How long a partial object is served after the full one is there, for clients with an older checkpoint."""
_LOG = open_logger("cosigner")
_TEND_S = 600.0
_PRUNE = timedelta(days=1)
_PRUNE_BUNDLES = 4096
_FAILURES = 3


class EvidenceWatch:
    """Keeps what refused requests prove. by: who this cosigner is, for the remark in each bundle."""

    def __init__(  # noqa: PLR0913 - the parts of a running cosigner
        self,
        core: Core,
        keeper: EvidenceKeeper,
        metrics: CosignerMetrics,
        clock: Clock,
        by: str,
        mirror: Mirror | None = None,
    ) -> None:
        """Take the parts. mirror: who holds a log's tree can prove more about it."""
        self._core, self._keeper, self._metrics, self._clock, self._by = core, keeper, metrics, clock, by
        self._mirror = mirror
        self.count = 0

    async def refused(self, log: KnownLog, view: CosignerView | None, request: object, _error: Error) -> None:
        """Look at a refused request; for `Core.refused`."""
        if not isinstance(request, AddCheckpoint):
            return
        committed = None if self._mirror is None else self._mirror.state(log.origin).committed
        held = None if committed is None else (self._core.objects, HeldTree(committed, object_prefix(log.origin)))
        try:
            found = await find_in_refusal(self._core.hasher, log, view, request, held)
        except Error as error:
            _LOG.error("evidence not looked for", origin=log.origin, error=error.message)
            return
        await self.keep(found)

    async def keep(self, evidence: Evidence | None) -> None:
        """Keep evidence if there is any and there is room. Never fails: a refusal must be answered all the same."""
        if evidence is None:
            return
        before = self._keeper.kept[evidence.kind]
        try:
            name = await self._keeper.keep(evidence, self._clock.now(), self._by)
        except Error as error:
            _LOG.error("evidence not kept", kind=evidence.kind, origin=evidence.origin, error=error.message)
            return
        self.count = await self._keeper.count()
        if self._keeper.kept[evidence.kind] > before:
            self._metrics.count("mtc_cosigner_evidence_total", kind=evidence.kind)
            _LOG.warning("evidence", kind=evidence.kind, origin=evidence.origin, name=name)


class Tending:
    """The loops of one mirror. config: asked anew each time, because it may change."""

    def __init__(  # noqa: PLR0913 - the parts of a running mirror
        self,
        mirror: Mirror,
        config: Callable[[], CosignerConfig],
        watch: EvidenceWatch,
        metrics: CosignerMetrics,
        clock: Clock,
        troubles: dict[str, str],
    ) -> None:
        """Take the parts. troubles: shared with the status page."""
        self._mirror, self._config, self._watch = mirror, config, watch
        self._metrics, self._clock, self._troubles = metrics, clock, troubles
        self._following: dict[str, asyncio.Task[None]] = {}
        self._failures: dict[str, int] = {}
        # By origin and key, when a partial object was first found superseded.
        self._superseded: dict[str, dict[str, datetime]] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Do all of it until the context ends."""
        limits = ClientLimits(connections=64)
        async with HTTPClient(limits, user_agent=f"mtc-mirror/{__version__}") as http:
            tasks = [asyncio.create_task(self._follow_all(http)), asyncio.create_task(self._tend(http))]
            try:
                yield
            finally:
                for task in [*tasks, *self._following.values()]:
                    task.cancel()
                for task in [*tasks, *self._following.values()]:
                    with contextlib.suppress(asyncio.CancelledError, Error):
                        await task

    def followed(self) -> list[KnownLog]:
        """Return the logs to follow: single ones, and of each CA those that came and the next number."""
        core = self._mirror.core
        logs = [log for log in core.directory.logs.values() if log.is_followed]
        for ca in core.directory.cas.values():
            if ca.is_followed:
                newest = core.highest_seen.get(ca.key.name, 0)
                logs += [ca.log(number) for number in range(1, min(newest + 1, ca.highest_log) + 1)]
        return logs

    async def _follow_all(self, http: HTTPClient) -> None:
        """Have a task for each followed log that goes on at its own pace."""
        while True:
            for log in self.followed():
                task = self._following.get(log.origin)
                if task is None or task.done():
                    self._following[log.origin] = asyncio.create_task(self._follow(log, http))
            await asyncio.sleep(self._config().follow_interval.total_seconds())

    async def _follow(self, log: KnownLog, http: HTTPClient) -> None:
        """Look at one log once."""
        follower = Follower(self._mirror, log, http)
        try:
            is_there = await follower.step()
        except Error as error:
            await self._watch.keep(follower.evidence)
            count = self._failures[log.origin] = self._failures.get(log.origin, 0) + 1
            # One lost look is nothing; a log that lies, or is away for long, is.
            if count >= _FAILURES or not isinstance(error, PeerError | StorageError):
                self._troubles[f"following {log.origin}"] = error.message
            self._metrics.count("mtc_mirror_follow_total", origin=log.origin, result="failed")
            _LOG.warning("not followed", origin=log.origin, reason=str(error.reason), error=error.message)
            return
        self._failures.pop(log.origin, None)
        self._troubles.pop(f"following {log.origin}", None)
        if is_there:
            self._metrics.count("mtc_mirror_follow_total", origin=log.origin, result="ok")

    async def _tend(self, http: HTTPClient) -> None:
        """Collect partial objects, and prune once a day."""
        pruned_at = None
        while True:
            for origin in list(self._mirror.core.origins):
                try:
                    await self.collect(origin)
                except Error as error:
                    _LOG.warning("not collected", origin=origin, error=error.message)
            now = self._clock.now()
            if self._config().pruning is not Pruning.KEEP and (pruned_at is None or now - pruned_at >= _PRUNE):
                pruned_at = now
                for origin in list(self._mirror.core.origins):
                    await self._prune(origin, http)
            await asyncio.sleep(_TEND_S)

    async def collect(self, origin: str) -> int:
        """Discard partial objects that were found superseded `PARTIAL_GRACE` ago. Returns how many."""
        now = self._clock.now()
        before = self._superseded.get(origin, {})
        found = {key: before.get(key, now) for key in await superseded_keys(self._mirror, origin)}
        dead = [key for key, since in found.items() if now - since >= PARTIAL_GRACE]
        if dead:
            await self._mirror.core.objects.discard(dead)
        self._superseded[origin] = {key: since for key, since in found.items() if now - since < PARTIAL_GRACE}
        return len(dead)

    async def _prune(self, origin: str, http: HTTPClient) -> None:
        """Prune one log by the rule; a failure is told and tried again the next day."""
        try:
            log = self._mirror.core.find(origin)
            config = self._config()
            minimum = await plan_minimum(self._mirror, log, config, self._clock, http)
            if minimum > self._mirror.state(origin).minimum_index:
                await prune(self._mirror, origin, minimum, is_deleted=config.pruning is Pruning.DELETE)
                _LOG.info("pruned", origin=origin, minimum_index=minimum)
        except Error as error:
            _LOG.warning("not pruned", origin=origin, error=error.message)


async def superseded_keys(mirror: Mirror, origin: str) -> list[str]:
    """Return the keys of partial objects whose full one the mirror checkpoint has.

    tlog-tiles lets a log drop a partial tile once the full one is there; clients fall back to that.
    """
    size = mirror.state(origin).committed_size
    prefix = object_prefix(origin)
    dead = []
    for key in await mirror.core.objects.list_keys(prefix):
        try:
            tile = parse_tile_path(key.removeprefix(prefix))
        except FormatError:
            continue
        if is_superseded(tile, size):
            dead.append(key)
    return dead


async def plan_minimum(
    mirror: Mirror, log: KnownLog, config: CosignerConfig, clock: Clock, http: HTTPClient | None
) -> int:
    """Return the index below which the mirror need not hold entries any more; see `mtc.cosign.pruning`.

    http: asks the log whether it has pruned a bundle; None asks nobody, and takes it as not pruned.
    """
    state, prefix = mirror.state(log.origin), object_prefix(log.origin)
    start = state.minimum_index
    for index in range(
        start // TILE_WIDTH, min(state.committed_size // TILE_WIDTH, start // TILE_WIDTH + _PRUNE_BUNDLES)
    ):
        (data,) = await mirror.core.objects.fetch([f"{prefix}{EntriesTile(index).path}"])
        if data is None:
            break
        entries = EntryBundle.parse(data).entries
        is_pruned = http is not None and log.url is not None and await _is_pruned(http, log.url, index)
        if not may_forget(entries, clock.now(), config.retention, config.retention_alone, is_pruned_by_log=is_pruned):
            break
        start = (index + 1) * TILE_WIDTH
    return start


async def _is_pruned(http: HTTPClient, url: str, index: int) -> bool:
    """Tell whether a log refuses a bundle that it had. What is not certain counts as not pruned."""
    try:
        answer = await http.request("HEAD", f"{url}/{EntriesTile(index).path}")
    except PeerError:
        return False
    return answer.status in (404, 410)


async def prune(mirror: Mirror, origin: str, minimum: int, *, is_deleted: bool) -> None:
    """Raise the minimum index, and then delete what is below if that is wanted."""
    before = mirror.state(origin).minimum_index
    await mirror.set_minimum_index(origin, minimum)
    if not is_deleted:
        return
    prefix = object_prefix(origin)
    await mirror.core.objects.discard([f"{prefix}{tile.path}" for tile in prunable_tiles(before, minimum)])
