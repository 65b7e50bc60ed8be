"""An update service as a program: a task per CA that pulls, one that publishes, and HTTP with what caches need.

A CA that is down, slow or lying ends in its own trouble: each has a deadline and a task of its own, and publishing
takes what is proven by then.
"""

import asyncio
import contextlib
import os
import random
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from mtc import __version__
from mtc.cosign.config import parse_address
from mtc.cosign.evidence import Evidence
from mtc.cosign.evidence.service import EVIDENCE_PREFIX, EvidenceKeeper
from mtc.errors import Error
from mtc.ids import TrustAnchorID
from mtc.signer.service.folder import read_passphrase
from mtc.store import FileStore
from mtc.updates.config import CONFIG_NAME, MAX_CAS, CASource, UpdatesConfig
from mtc.updates.folder import read_keys, read_updates_config
from mtc.updates.publishing import KINDS, PUBLIC, Publisher
from mtc.updates.pulling import Pulled, Puller
from mtc.web.client import ClientLimits, HTTPClient
from mtc.web.clock import Clock, SystemClock
from mtc.web.files import file_stamp
from mtc.web.frame import FrameChoices, create_app, name_endpoint
from mtc.web.logs import open_logger
from mtc.web.metrics import HTTP_METRICS, SLOW, Metric, MetricKind, Metrics
from mtc.web.objects import BYTES, IMMUTABLE, ObjectCache, answer_object, not_found
from mtc.web.server import Listening, serve
from mtc.web.stopping import stop_on_signals

_LOG = open_logger("updates")
_NAME = re.compile(r"[0-9]{1,20}(-[0-9]{1,20})?", re.ASCII)
_JSON = "application/json"
_COLLECTOR = "an update service"
_QUIET_S = 3.0
"""When no CA has answered for so long, the first version is made without those that have not."""
_PACE_S = 0.02
_LATE_S = 0.3
"""Between the beginnings of two looks, at least, and at most in addition when there is much to do."""
_CONNECTIONS = 8 * MAX_CAS
"""More than all CAs can hold at once, so that those that hang take nothing from the others."""

UPDATES_METRICS = (
    *HTTP_METRICS,
    Metric("mtc_updates_version", MetricKind.GAUGE, "Latest version, POSIX seconds."),
    Metric("mtc_updates_policy_expires_seconds", MetricKind.GAUGE, "When the policy document expires, POSIX seconds."),
    Metric("mtc_updates_landmark", MetricKind.GAUGE, "Latest landmark proven, by CA and log.", ("ca", "log")),
    Metric("mtc_updates_active", MetricKind.GAUGE, "Landmarks proven, over all logs of a CA.", ("ca",)),
    Metric("mtc_updates_max_active", MetricKind.GAUGE, "Landmarks allowed, over all logs of a CA.", ("ca",)),
    Metric("mtc_updates_troubles", MetricKind.GAUGE, "Troubles of the last look at a CA.", ("ca",)),
    Metric("mtc_updates_evidence_kept", MetricKind.GAUGE, "Bundles of evidence kept; see docs/evidence.md."),
    Metric("mtc_updates_evidence_total", MetricKind.COUNTER, "Bundles of evidence found, by kind.", ("kind",)),
    Metric("mtc_updates_pulls_total", MetricKind.COUNTER, "Looks at CAs.", ("ca",)),
    Metric("mtc_updates_pull_seconds", MetricKind.HISTOGRAM, "How long a look at a CA takes.", (), SLOW),
    Metric("mtc_updates_publish_seconds", MetricKind.GAUGE, "How long the last version took to make."),
)


@dataclass(slots=True)
class UpdateService:
    """A service with everything open.

    stamp: of the configuration's file, from before `config` was read. troubles: of the service itself; those of CAs
    stand in `pulled`. news: set whenever a version was published. evidence: bundles that are kept.
    """

    path: Path
    stamp: tuple[int, int, int]
    config: UpdatesConfig
    publisher: Publisher
    http: HTTPClient
    clock: Clock
    keeper: EvidenceKeeper
    metrics: Metrics = field(default_factory=lambda: Metrics(UPDATES_METRICS))
    pulled: dict[TrustAnchorID, Pulled] = field(default_factory=dict)
    troubles: dict[str, str] = field(default_factory=dict)
    news: asyncio.Event = field(default_factory=asyncio.Event)
    evidence: int = 0
    _pace: asyncio.Lock = field(default_factory=asyncio.Lock)
    _came: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: dict[TrustAnchorID, tuple[CASource, "asyncio.Task[None]"]] = field(default_factory=dict)

    def app(self) -> ASGIApp:
        """Return the application."""
        methods = ["GET", "HEAD"]
        cache = ObjectCache(self._fetch)

        async def read_latest(request: Request) -> Response:
            name_endpoint(request, "latest")
            age = max(int(self.config.interval.total_seconds()), 1)
            return answer_object(request, await cache.read("latest"), _JSON, f"public, max-age={age}")

        async def read_update(request: Request) -> Response:
            name_endpoint(request, "update")
            kind, name = request.path_params["kind"], request.path_params["name"]
            if kind not in KINDS or not _NAME.fullmatch(name):
                raise not_found()
            # A version that was once published never changes; one that is not there yet must not be remembered.
            served = await cache.read_immutable(f"{kind}/{name}", is_packable=False)
            return answer_object(request, served, BYTES, IMMUTABLE)

        async def read_plain(request: Request) -> Response:
            name_endpoint(request, "plain")
            return answer_object(request, await cache.read(request.url.path[1:]), _JSON, "public, max-age=60")

        async def read_health(request: Request) -> Response:
            name_endpoint(request, "health")
            found = self.describe()
            return JSONResponse(found, 200 if self.publisher.version else 503, {"Cache-Control": "no-store"})

        routes = [
            Route("/latest", read_latest, methods=methods),
            Route("/{kind}/{name}", read_update, methods=methods),
            Route("/trust.json", read_plain, methods=methods),
            Route("/policy.json", read_plain, methods=methods),
            Route("/health", read_health, methods=methods),
            *self.metrics.routes(self._measure),
        ]
        return create_app(routes, FrameChoices(observe=self.metrics.count_exchange, logs_success=False))

    def describe(self) -> dict[str, object]:
        """Return how the service is, for scripts. Degraded: something needs a look; everything proven is published."""
        policy = self.publisher.policy
        cas = []
        for source in self.config.cas:
            found = self.pulled.get(source.certificate.ca_id, Pulled())
            logs = [
                {
                    "log": log.log_number,
                    "landmark": log.landmarks[-1].number,
                    "active": len(log.landmarks) - 1,
                    "tree_size": log.trees[0].tree_size,
                }
                for log in found.logs
            ]
            cas.append({"ca": str(source.certificate.ca_id), "logs": logs, "troubles": list(found.troubles)})
        reasons = list(self.troubles.values())
        if self.evidence:
            reasons.append(
                f"{self.evidence} bundles of evidence lie in {EVIDENCE_PREFIX}; "
                "mtc evidence verify tells what they prove"
            )
        is_well = not reasons and not any(item["troubles"] for item in cas)
        return {
            "status": "ok" if is_well else "degraded",
            "reasons": reasons,
            "evidence": self.evidence,
            "version": self.publisher.version,
            "policy_version": 0 if policy is None else policy.version,
            "policy_expires": 0 if policy is None else policy.expires,
            "cas": cas,
            "software": __version__,
        }

    async def _fetch(self, key: str) -> bytes | None:
        """Read a published object."""
        (data,) = await self.publisher.store.fetch([f"{PUBLIC}{key}"])
        return data

    def _measure(self) -> None:
        """Set the gauges."""
        self.metrics.set("mtc_updates_version", self.publisher.version)
        if self.publisher.policy is not None:
            self.metrics.set("mtc_updates_policy_expires_seconds", self.publisher.policy.expires)
        self.metrics.set("mtc_updates_evidence_kept", self.evidence)
        for source in self.config.cas:
            self.metrics.set("mtc_updates_max_active", source.max_active, ca=source.certificate.ca_id)
        for ca_id, found in self.pulled.items():
            active = sum(len(log.landmarks) - 1 for log in found.logs)
            self.metrics.set("mtc_updates_active", active, ca=ca_id)
            self.metrics.set("mtc_updates_troubles", len(found.troubles), ca=ca_id)
            for log in found.logs:
                self.metrics.set("mtc_updates_landmark", log.landmarks[-1].number, ca=ca_id, log=log.log_number)

    async def publish(self) -> bool:
        """Publish what is new by now; tell whether anything was. Troubles are kept and not raised."""
        start = asyncio.get_running_loop().time()
        try:
            is_new = await self.publisher.publish(self.config, self.pulled, self.clock.now())
        except Error as error:
            self.troubles["publishing"] = error.message
            _LOG.warning("not published", error=error.message, reason=str(error.reason))
            return False
        self.troubles.pop("publishing", None)
        if is_new:
            self.metrics.set("mtc_updates_publish_seconds", asyncio.get_running_loop().time() - start)
            self.news.set()
            _LOG.info("published", version=self.publisher.version, cas=len(self.pulled))
        return is_new

    async def run(self) -> None:
        """Pull and publish until cancelled."""
        self.evidence = await self.keeper.count()
        self._follow_config()
        # After a restart everything that was published is known, and nobody is waited for. Otherwise the first version
        # should hold every CA that answers; those that do not come with a later one.
        with contextlib.suppress(TimeoutError):
            while len(self.pulled) < len(self.config.cas):
                self._came.clear()
                async with asyncio.timeout(_QUIET_S):
                    await self._came.wait()
        try:
            while True:
                await self.publish()
                await asyncio.sleep(self.config.interval.total_seconds())
                now = file_stamp(self.path / CONFIG_NAME)
                if now != self.stamp:
                    self.stamp = now
                    self._reload()
        finally:
            for _, task in self._tasks.values():
                task.cancel()
            await asyncio.gather(*(task for _, task in self._tasks.values()), return_exceptions=True)

    def _reload(self) -> None:
        """Take over a changed configuration; a wrong one leaves all as it is."""
        before = self.config
        try:
            self.config = read_updates_config(self.path)
        except Error as error:
            self.troubles["configuration"] = error.message
            _LOG.warning("configuration not taken", error=error.message)
            return
        self.troubles.pop("configuration", None)
        if self.config != before:
            self._follow_config()
            _LOG.info("configuration taken", cas=len(self.config.cas))

    def _follow_config(self) -> None:
        """Have one task for each CA as it is configured now."""
        wanted = {source.certificate.ca_id: source for source in self.config.cas}
        for ca_id, (source, task) in list(self._tasks.items()):
            now = wanted.get(ca_id)
            if now is None or now.identity != source.identity:
                task.cancel()
                del self._tasks[ca_id]
        for ca_id in self.pulled.keys() - wanted.keys():
            del self.pulled[ca_id]
        for ca_id, source in wanted.items():
            if ca_id not in self._tasks:
                before = self.pulled.pop(ca_id, None)
                known = self.publisher.published if before is None else before.logs
                puller = Puller(source, self.http, self.clock, known)
                # What was proven stays published until the CA answers, however long that takes.
                if (held := puller.known()).logs:
                    self.pulled[ca_id] = held
                self._tasks[ca_id] = source, asyncio.create_task(self._pull(source, puller))

    async def _pull(self, source: CASource, puller: Puller) -> None:
        """Look at one CA again and again, until cancelled."""
        ca_id, loop = source.certificate.ca_id, asyncio.get_running_loop()
        while True:
            await self._take_turn()
            start = loop.time()
            try:
                async with asyncio.timeout(self.config.deadline.total_seconds()):
                    found = await puller.pull()
            except TimeoutError:
                found = puller.known(f"the CA did not answer within {self.config.deadline.total_seconds():.0f} s")
            except Exception as error:  # noqa: BLE001 - a defect met by one CA's data must not end the others' service
                found = puller.known(f"a defect: {error!r}")
                _LOG.error("pulling failed", ca=str(ca_id), exc_info=error)
            before = self.pulled.get(ca_id)
            self.pulled[ca_id] = found
            self._came.set()
            self.metrics.count("mtc_updates_pulls_total", ca=ca_id)
            self.metrics.observe("mtc_updates_pull_seconds", loop.time() - start)
            await self._keep(found.evidence)
            if found.troubles and (before is None or before.troubles != found.troubles):
                _LOG.warning("trouble", ca=str(ca_id), troubles=list(found.troubles))
            # Spread, so that hundreds of CAs are not looked at in one moment for ever.
            await asyncio.sleep(self.config.pull_interval.total_seconds() * random.uniform(0.9, 1.1))  # noqa: S311 - no secret

    async def _take_turn(self) -> None:
        """Wait until another look may begin: a moment after the one before, and longer while the event loop is late.

        So hundreds of first looks, which read the most, do not make each other miss their deadlines. Who has begun and
        hangs takes no part in it.
        """
        loop = asyncio.get_running_loop()
        async with self._pace:
            start = loop.time()
            await asyncio.sleep(_PACE_S)
            late = loop.time() - start - _PACE_S
            await asyncio.sleep(min(max(late, 0.0) * 4, _LATE_S))

    async def _keep(self, evidence: Sequence[Evidence]) -> None:
        """Keep what convicts cosigners; a failure of the disk is a trouble of the service."""
        for item in evidence:
            before = self.keeper.kept[item.kind]
            try:
                name = await self.keeper.keep(item, self.clock.now(), _COLLECTOR)
            except Error as error:
                self.troubles["evidence"] = f"evidence was not kept: {error.message}"
                _LOG.error("evidence not kept", kind=item.kind, origin=item.origin, error=error.message)
                continue
            self.troubles.pop("evidence", None)
            self.evidence = await self.keeper.count()
            if self.keeper.kept[item.kind] > before:
                self.metrics.count("mtc_updates_evidence_total", kind=item.kind)
                _LOG.error("two histories", kind=item.kind, origin=item.origin, evidence=name)


@asynccontextmanager
async def open_service(
    path: Path, *, clock: Clock | None = None, passphrase_file: str | None = None
) -> AsyncIterator[UpdateService]:
    """Open a service's folder; close everything at the end. Raises UsageError, StorageError."""
    stamp = file_stamp(path / CONFIG_NAME)
    config = read_updates_config(path)
    keys = read_keys(path, read_passphrase(os.environ, passphrase_file))
    store = FileStore.open(path)
    try:
        publisher = await Publisher.open(store, keys.policy, keys.service)
        limits = ClientLimits(attempts=2, connections=_CONNECTIONS, attempt_s=config.deadline.total_seconds())
        async with HTTPClient(limits, user_agent=f"mtc-updates/{__version__}") as http:
            yield UpdateService(path, stamp, config, publisher, http, clock or SystemClock(), EvidenceKeeper(store))
    finally:
        store.close()


@asynccontextmanager
async def serving(service: UpdateService, address: tuple[str, int]) -> AsyncIterator[Listening]:
    """Answer over TCP, pull and publish, until the context ends."""
    async with serve(service.app(), address) as listening:
        running = asyncio.create_task(service.run())
        try:
            yield listening
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running


async def run_service(path: Path, *, listen: str | None = None, passphrase_file: str | None = None) -> None:
    """Run a service until SIGTERM or SIGINT. listen: in place of what the configuration says."""
    stop = stop_on_signals()
    async with open_service(path, passphrase_file=passphrase_file) as service:
        address = service.config.listen if listen is None else parse_address(listen)
        async with serving(service, address) as listening:
            _LOG.info("serving", url=listening.url, cas=len(service.config.cas))
            await stop.wait()
            _LOG.info("stopping")
    _LOG.info("stopped")
