"""`mtc serve-tls`: a small static HTTPS server with the best certificate for each client, and a view of them."""

import asyncio
import contextlib
import io
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.live import Live
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles

from mtc.ca.config import parse_address
from mtc.cli.output import error_console
from mtc.cli.serve_page import VisitPages
from mtc.cli.serve_visits import Site, Visits, draw, observe_visit
from mtc.errors import Error, Reason, UsageError
from mtc.tls import CertificationPath, ServerContext, load_request_folder, server_context
from mtc.web.clock import SystemClock
from mtc.web.frame import Frame, FrameChoices
from mtc.web.logs import configure_logs, open_logger
from mtc.web.server import loop_factory, serve
from mtc.web.stopping import stop_on_signals

_RELOAD_S = 5.0
_REDRAW_S = 1.0
_LOG = open_logger("tls")

Found = tuple[list[CertificationPath], CertificationPath | None]
"""The paths that lay in the folders, and the classical fallback."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServeTLSOptions:
    """What `mtc serve-tls` is asked for. folders: of `mtc request`, one for each certificate."""

    root: str
    folders: Sequence[str]
    listen: str
    as_json: bool


def run_serve_tls(options: ServeTLSOptions) -> None:
    """Serve a folder until SIGTERM or ctrl-C, and say what each client asked for and got."""
    if not Path(options.root).is_dir():
        raise UsageError(Reason.UNREADABLE, f"{options.root} is no folder; name one with files to serve")
    address = parse_address(options.listen)
    if address is None:
        raise UsageError(Reason.USAGE, "--listen: there is nothing to do without an address")
    found = load_folders(options.folders)
    context = server_context(found[0], fallback=found[1])
    visits = Visits(SystemClock())
    is_live = sys.stderr.isatty() and not options.as_json
    configure_logs(_Notes(visits) if is_live else sys.stderr, is_json=True if options.as_json else None)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        serving = _serve(options, context, address, visits, is_live=is_live)
        runner.run(_follow_while(serving, options.folders, context, found))


def load_folders(folders: Sequence[str]) -> Found:
    """Return the paths of all folders, and the first classical fallback. Raises UsageError, FormatError."""
    found = [load_request_folder(Path(folder)) for folder in folders]
    fallback = next((item.fallback for item in found if item.fallback is not None), None)
    return [path for item in found for path in item.paths], fallback


class _Notes(io.StringIO):
    """Where the log goes while the view fills the terminal: its warnings stand below the view."""

    def __init__(self, visits: Visits) -> None:
        """Take the view."""
        super().__init__()
        self._visits = visits

    def write(self, text: str) -> int:
        """Keep a line."""
        if "warning" in text or "error" in text:
            self._visits.warn(text)
        return len(text)

    def isatty(self) -> bool:
        """Without colours."""
        return False


async def _serve(
    options: ServeTLSOptions, context: ServerContext, address: tuple[str, int], visits: Visits, *, is_live: bool
) -> None:
    """Serve, and show the view on a terminal."""
    stop = stop_on_signals()
    note = _noter(visits, logs=not is_live)
    _watch_failures(context, note)
    pages = VisitPages(visits)
    files = StaticFiles(directory=options.root, html=True)
    app = Starlette(routes=[*pages.routes(), Mount("/", files)])
    frame = Frame(app, FrameChoices(logs_success=False))
    async with serve(frame, address, tls=context, observe_tls=lambda done: note(done, None)) as listening:
        site = Site(listening.url, options.root, context)
        pages.site = site
        _LOG.info("serving", url=listening.url, folder=options.root, certificates=len(options.folders))
        async with _beside(_show(site, visits) if is_live else None):
            await stop.wait()


async def _follow_while(
    serving: Coroutine[None, None, None], folders: Sequence[str], context: ServerContext, found: Found
) -> None:
    """Serve, and take over certificates that were renewed."""
    async with _beside(_follow(folders, context, found)):
        await serving


@contextlib.asynccontextmanager
async def _beside(work: Coroutine[None, None, None] | None) -> AsyncIterator[None]:
    """Let work go on until the context ends."""
    if work is None:
        yield
        return
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _follow(folders: Sequence[str], context: ServerContext, before: Found) -> None:
    """Load the folders again and again; what cannot be loaded is told once, and what is served stays."""
    told = ""
    while True:
        await asyncio.sleep(_RELOAD_S)
        try:
            found = await asyncio.to_thread(load_folders, folders)
            if found != before:
                context.reload(found[0], fallback=found[1])
                before = found
                _LOG.info("reloaded", certificates=len(context.paths))
            told = ""
        except Error as error:
            if error.message != told:
                _LOG.warning("not reloaded", error=error.message)
            told = error.message


async def _show(site: Site, visits: Visits) -> None:
    """Show the view on the terminal until cancelled: at each visit, and once a second."""
    with Live(console=error_console(), auto_refresh=False) as live:
        while True:
            live.update(draw(site, visits, live.console.size.height), refresh=True)
            visits.changed.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(visits.changed.wait(), _REDRAW_S)


def _noter(visits: Visits, *, logs: bool) -> Callable[[ssl.SSLObject, ssl.SSLError | None], None]:
    """Return what notes a handshake that has ended, well or with an error."""

    def note(connection: ssl.SSLObject, error: ssl.SSLError | None) -> None:
        visit = observe_visit(connection, error, visits.clock.now())
        if visit is None:
            return
        visits.add(visit)
        if logs:
            _LOG.info("client" if error is None else "failed", **visit.describe())

    return note


def _watch_failures(context: ServerContext, note: Callable[[ssl.SSLObject, ssl.SSLError | None], None]) -> None:
    """Have handshakes noted that fail, of which asyncio tells nobody."""
    plain = context.sslobject_class

    class Watched(plain):  # type: ignore[misc, valid-type]  # whichever class the context has
        """A connection that tells when its handshake fails."""

        def do_handshake(self) -> None:
            """Go on with the handshake."""
            try:
                super().do_handshake()
            except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
                raise
            except ssl.SSLError as error:
                note(self, error)
                raise

    context.sslobject_class = Watched
