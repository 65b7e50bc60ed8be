"""The ACME server beside its CA, in the process of `mtc ca serve`.

DIR/acme.toml                       configuration; without it the CA serves no ACME
DIR/acme/acme.sqlite                accounts, orders, authorizations, evidence
DIR/acme/evidence/2027-01-31.jsonl  every validation, CAA check, finalization and issuance, append-only
DIR/acme/tls.pem, tls-key.pem       the bootstrap certificate and its key
DIR/acme/perspective-client*.pem    by which remote perspectives know the CA
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

from mtc.acme.config import (
    CONFIG_NAME,
    FOLDER_NAME,
    ACMEConfig,
    check_config,
    format_acme_config,
    read_acme_config,
)
from mtc.acme.https import open_https
from mtc.acme.machine.jws import MAX_JWS_BYTES
from mtc.acme.machine.quorum import PRIVATE_RULE, PUBLIC_RULE
from mtc.acme.perspective.client import PerspectiveClient, open_identity, open_perspectives
from mtc.acme.perspective.corroboration import Corroborator
from mtc.acme.seams import Validator
from mtc.acme.server.context import ServerContext
from mtc.acme.server.http import ACMEServer
from mtc.acme.sqlite import DATABASE_NAME, EVIDENCE_NAME, SQLiteACMEStore
from mtc.acme.validation.local import LocalPerspective
from mtc.acme.validation.settings import DNSSEC
from mtc.ca.config import CAConfig
from mtc.ca.service import RunningCA
from mtc.errors import Error, Reason, StorageError
from mtc.web.frame import FrameChoices, Limits, create_app
from mtc.web.logs import open_logger
from mtc.web.server import Listening, serve
from mtc.web.tls import TLSFiles, ensure_bootstrap, write_whole

_LOG = open_logger("acme")
_REQUEST_TIME_S = 60.0
KEPT = timedelta(days=90)
"""How long orders and authorizations are kept after their end; evidence is kept for good."""
_TIDY_S = 6 * 3600.0


@asynccontextmanager
async def acme_beside(ca: RunningCA) -> AsyncIterator[list[Listening]]:
    """Serve ACME for a running CA until the context ends; serve nothing where the CA's folder has no `acme.toml`.

    Raises UsageError for a configuration that cannot be, or a resolver that does not validate where one must.
    """
    folder = ca.parts.folder
    config = read_acme_config(folder.path, folder.config.profile)
    if config is None:
        yield []
        return
    async with open_validator(ca, config) as validator, serving_acme(ca, config, validator) as listening:
        _LOG.info("serving ACME", directory=f"{config.url}/directory", perspectives=len(config.perspectives))
        yield [listening]


@asynccontextmanager
async def open_validator(ca: RunningCA, config: ACMEConfig) -> AsyncIterator[Validator]:
    """Open the perspectives of a CA, the local one and those elsewhere."""
    folder, clock = ca.parts.folder, ca.parts.clock
    settings = config.validation.settings
    is_strict = folder.config.profile.is_public and not config.is_for_tests
    rule = PUBLIC_RULE if is_strict else PRIVATE_RULE

    def observe(perspective: str, result: str, seconds: float) -> None:
        ca.parts.metrics.count("mtc_acme_perspectives_total", perspective=perspective, result=result)
        ca.parts.metrics.observe("mtc_acme_perspective_seconds", seconds, perspective=perspective)

    async with contextlib.AsyncExitStack() as stack:
        primary = LocalPerspective(settings, clock=clock)
        if settings.dnssec is DNSSEC.RESOLVER:
            await primary.check()
        remotes: tuple[PerspectiveClient, ...] = ()
        if config.perspectives:
            identity = _open_identity(folder.path, str(folder.config.ca_id), clock.now())
            remotes = await stack.enter_async_context(open_perspectives(config.perspectives, identity, clock=clock))
        yield Corroborator(primary, remotes, rule, observe=observe)


@asynccontextmanager
async def serving_acme(ca: RunningCA, config: ACMEConfig, validator: Validator) -> AsyncIterator[Listening]:
    """Serve ACME with a validator, and finish what a crash left unfinished."""
    home = ca.parts.folder.path / FOLDER_NAME
    home.mkdir(mode=0o700, exist_ok=True)
    store = SQLiteACMEStore.open(home / DATABASE_NAME, home / EVIDENCE_NAME)
    try:
        context = ServerContext(config, store, ca, validator)
        server = ACMEServer(context)
        app = create_app(server.routes(), _choices(ca))
        async with contextlib.AsyncExitStack() as stack:
            tls = await stack.enter_async_context(open_https(ca.parts.folder.path, config, ca.parts.clock))
            listening = await stack.enter_async_context(serve(app, config.listen, tls=tls))
            loops = [asyncio.create_task(work) for work in (server.issuing.follow_up(), _tidy(store, ca))]
            resumed = await server.challenges.resume()
            if resumed:
                _LOG.info("validations resumed", count=resumed)
            try:
                yield listening
            finally:
                for task in loops:
                    task.cancel()
                await asyncio.gather(*loops, return_exceptions=True)
        await server.challenges.close()
        await server.issuing.close()
    finally:
        await store.close()


async def _tidy(store: SQLiteACMEStore, ca: RunningCA) -> None:
    """Forget what ended long ago, now and then."""
    while True:
        try:
            orders, authorizations = await store.prune(ca.parts.clock.now() - KEPT)
            if orders or authorizations:
                _LOG.info("forgotten", orders=orders, authorizations=authorizations)
        except Error as error:
            _LOG.warning("nothing forgotten", error=error.message)
        await asyncio.sleep(_TIDY_S)


def _choices(ca: RunningCA) -> FrameChoices:
    """Return the limits of requests. One waits for a round at most for a moment, and for CAA lookups."""
    limits = Limits(body_bytes=2 * MAX_JWS_BYTES, time_s=_REQUEST_TIME_S)
    return FrameChoices(limits=limits, observe=ca.parts.metrics.count_exchange, logs_success=False)


def _open_identity(folder: Path, ca_id: str, now: datetime) -> TLSFiles:
    """Return by which certificate remote perspectives know a CA; made the first time."""
    return open_identity(folder / FOLDER_NAME, f"ca-{ca_id}", now)


def make_acme(folder: Path, ca: CAConfig, config: ACMEConfig, now: datetime) -> bool:
    """Write the configuration of an ACME server into a CA's folder, and make its certificates.

    Returns False when there is one already; then nothing is changed. Raises UsageError, StorageError.
    """
    path = folder / CONFIG_NAME
    check_config(config, ca.profile, CONFIG_NAME)
    if path.exists():
        return False
    home = folder / FOLDER_NAME
    try:
        home.mkdir(mode=0o700, exist_ok=True)
        if config.tls == "bootstrap":
            ensure_bootstrap(home, [config.hostname], now)
        _open_identity(folder, str(ca.ca_id), now)
        write_whole(path, format_acme_config(config, ca.profile).encode(), 0o644)
    except OSError as error:
        raise StorageError(Reason.STORAGE, f"{path} cannot be written: {(error.strerror or '').lower()}") from None
    return True
