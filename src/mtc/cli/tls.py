"""`mtc get`, `mtc serve-tls` and `mtc doctor`: a client and a small server that speak TLS with our certificates."""

import asyncio
import http.client
import json
import ssl
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from urllib.parse import urlsplit

from starlette.applications import Starlette
from starlette.staticfiles import StaticFiles

from mtc.ca.config import parse_address
from mtc.cli.output import ExitCode, console, error_console, read_input, shown, table
from mtc.errors import Error, PeerError, Reason, UsageError
from mtc.kernel import active_kernel
from mtc.tls import (
    CertificationPath,
    ClientContext,
    ClientReport,
    ServerContext,
    ServerReport,
    client_context,
    client_report,
    describe_back_ends,
    load_request_folder,
    server_context,
    server_report,
)
from mtc.trust import TrustStore, Verified, parse_trust_store
from mtc.web.frame import Frame, FrameChoices
from mtc.web.logs import configure_logs, open_logger
from mtc.web.server import loop_factory, serve
from mtc.web.stopping import stop_on_signals

MAX_BODY_BYTES = 64 << 20
"""Largest page that `mtc get` reads."""
_TIMEOUT_S = 30.0
_RELOAD_S = 5.0
_LOG = open_logger("tls")


@dataclass(frozen=True, slots=True, kw_only=True)
class GetOptions:
    """What `mtc get` is asked for. connect: HOST:PORT in the place of the URL's. classical: of other chains."""

    url: str
    trust: str | None
    ca_file: str | None
    connect: str | None
    is_mtc_only: bool
    out: str | None
    as_json: bool


@dataclass(frozen=True, slots=True)
class _Page:
    """An answer and how it came."""

    status: int
    body: bytes
    version: str
    report: ClientReport | None
    attempts: int


def run_get(options: GetOptions) -> int:
    """Fetch a page, and say which certificate came and why it was believed. Returns 1 for a status from 400 on."""
    parts = urlsplit(options.url)
    if parts.scheme != "https" or not parts.hostname:
        raise UsageError(Reason.USAGE, f"{options.url!r} is no https URL; write for example https://www.example.com/")
    store = TrustStore([]) if options.trust is None else parse_trust_store(read_input(options.trust))
    context = client_context(store, classical=not options.is_mtc_only)
    if options.ca_file is not None:
        context.load_verify_locations(cafile=options.ca_file)
    page = _fetch(options, context)
    facts = describe_client(page.report) | {"tls": page.version, "attempts": page.attempts, "status": page.status}
    if options.out is not None:
        Path(options.out).write_bytes(page.body)
    elif not options.as_json:
        sys.stdout.buffer.write(page.body)
        sys.stdout.flush()
    if options.as_json:
        sys.stdout.write(json.dumps(facts | {"bytes": len(page.body)}) + "\n")
    else:
        error_console().print(f"[dim]{shown(summarize(facts))}[/]")
    return ExitCode.NO if page.status >= http.HTTPStatus.BAD_REQUEST else ExitCode.DONE


def _fetch(options: GetOptions, context: ClientContext) -> _Page:
    """Fetch the page; once more, with the one ID that the server's list suggests, when the first handshake failed."""
    try:
        return _attempt(options, context, 1)
    except (OSError, http.client.HTTPException) as error:
        report = client_report(error)
        if report is None or report.retry is None:
            raise explain(options.url, error) from None
        retry = report.retry
    with context.asking(retry):
        try:
            return _attempt(options, context, 2)
        except (OSError, http.client.HTTPException) as error:
            raise explain(options.url, error) from None


def _attempt(options: GetOptions, context: ClientContext, number: int) -> _Page:
    """Connect and ask once."""
    parts = urlsplit(options.url)
    host, port = str(parts.hostname), parts.port or 443
    connection = http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_S, context=context)
    if options.connect is not None:
        address = parse_address(options.connect)
        if address is None:
            raise UsageError(Reason.USAGE, f"--connect: {options.connect!r} is no address; write 127.0.0.1:8443")
        create = connection._create_connection  # type: ignore[attr-defined]  # noqa: SLF001 - the one way to another address
        connection._create_connection = lambda _, *rest: create(address, *rest)  # type: ignore[attr-defined]  # noqa: SLF001
    path = parts.path or "/"
    try:
        connection.request("GET", f"{path}?{parts.query}" if parts.query else path, headers={"User-Agent": "mtc"})
        sock = connection.sock
        assert isinstance(sock, ssl.SSLSocket)
        report, version = client_report(sock), sock.version() or ""
        answer = connection.getresponse()
        body = answer.read(MAX_BODY_BYTES + 1)
    finally:
        connection.close()
    if len(body) > MAX_BODY_BYTES:
        raise PeerError(Reason.TOO_LARGE, f"the page is larger than {MAX_BODY_BYTES} bytes")
    return _Page(answer.status, body, version, report, number)


def explain(url: str, error: Exception) -> Error:
    """Return the error of a connection that failed: ours, when a certificate was refused."""
    report = client_report(error)
    if report is not None and isinstance(report.failure, Error):
        failure = report.failure
        return type(failure)(failure.reason, f"{url}: the certificate is refused: {failure.message}")
    if isinstance(error, ssl.SSLCertVerificationError):
        return PeerError(Reason.PEER, f"{url}: {error.verify_message}; --ca-file names other roots")
    if isinstance(error, ssl.SSLEOFError | ConnectionResetError):
        host = urlsplit(url).hostname
        return PeerError(Reason.PEER, f"{url}: the server ended the handshake; it may have no certificate for {host}")
    text = str(getattr(error, "strerror", None) or error) or type(error).__name__
    return PeerError(Reason.PEER, f"{url}: {text.lower()}")


def describe_client(report: ClientReport | None) -> dict[str, object]:
    """Return what a client asked, got and verified, for scripts."""
    if report is None:
        return {"certificate": "classical"}
    verified = report.verified
    facts: dict[str, object] = {
        "asked": None if report.requested is None else [str(item) for item in report.requested.anchors],
        "available": None if report.available is None else [str(item) for item in report.available.anchors],
        "acknowledged": report.is_acknowledged,
        "certificate": "classical",
    }
    if isinstance(verified, Verified):
        facts |= {
            "certificate": str(verified.form),
            "ca": str(verified.ca.ca_id),
            "log": verified.log_number,
            "index": verified.index,
            "certificate_bytes": len(verified.der),
            "cosigners": [cosigner.name for cosigner in verified.cosigners],
        }
    return facts


def summarize(facts: Mapping[str, object]) -> str:
    """Return one line for people."""
    if "ca" not in facts:
        return f"{facts['tls']} · classical certificate"
    cosigners = facts["cosigners"]
    signed = (
        f"signed by {', '.join(map(str, cosigners))}" if isinstance(cosigners, list) and cosigners else "no signature"
    )
    place = f"CA {facts['ca']}, log {facts['log']}, entry {facts['index']}"
    size = f"{facts['certificate_bytes']} bytes"
    return " · ".join((str(facts["tls"]), f"{facts['certificate']} certificate of {place}", size, signed))


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
    paths, fallback = load_folders(options.folders)
    context = server_context(paths, fallback=fallback)
    configure_logs(sys.stderr, is_json=True if options.as_json else None)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        runner.run(_serve(options, context, address))


def load_folders(folders: Sequence[str]) -> tuple[list[CertificationPath], CertificationPath | None]:
    """Return the paths of all folders, and the first classical fallback. Raises UsageError, FormatError."""
    found = [load_request_folder(Path(folder)) for folder in folders]
    fallback = next((item.fallback for item in found if item.fallback is not None), None)
    return [path for item in found for path in item.paths], fallback


async def _serve(options: ServeTLSOptions, context: ServerContext, address: tuple[str, int]) -> None:
    """Serve, and take over certificates that were renewed."""
    stop = stop_on_signals()
    app = Starlette()
    app.mount("/", StaticFiles(directory=options.root, html=True))
    frame = Frame(app, FrameChoices(logs_success=False))
    async with serve(frame, address, tls=context, observe_tls=_observer()) as listening:
        _LOG.info("serving", url=listening.url, folder=options.root, certificates=len(options.folders))
        following = asyncio.create_task(_follow(options.folders, context))
        try:
            await stop.wait()
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)


async def _follow(folders: Sequence[str], context: ServerContext) -> None:
    """Load the folders again and again; what cannot be loaded is told, and what is served stays."""
    while True:
        await asyncio.sleep(_RELOAD_S)
        try:
            paths, fallback = await asyncio.to_thread(load_folders, folders)
            context.reload(paths, fallback=fallback)
        except Error as error:
            _LOG.warning("not reloaded", error=error.message)


def _observer() -> Callable[[ssl.SSLObject], None]:
    """Return what tells of each connection."""

    def observe(connection: ssl.SSLObject) -> None:
        report = server_report(connection)
        if report is not None:
            _LOG.info("client", **describe_server(report))

    return observe


def describe_server(report: ServerReport) -> dict[str, object]:
    """Return what a client asked for and got, for the log."""
    facts: dict[str, object] = {
        "name": report.server_name,
        "asked": None if report.requested is None else [str(item) for item in report.requested.anchors],
    }
    selection = report.selection
    if selection is not None:
        path = selection.path
        kind = "landmark-relative" if path.is_landmark_relative else "standalone" if path.is_mtc else "classical"
        facts |= {"sent": kind, "why": selection.match.name.lower().replace("_", " ")}
        facts["acknowledged"] = selection.match.is_acknowledged
    return facts


def run_doctor(*, as_json: bool) -> int:
    """Say what each TLS back end can do here. Returns 1 when none is usable."""
    found = describe_back_ends()
    if as_json:
        facts = {"python": sys.version.split()[0], "kernel": active_kernel().name}
        sys.stdout.write(json.dumps(facts | {"back_ends": [asdict(item) for item in found]}) + "\n")
    else:
        rows = table("back end", "library", "usable", "ML-DSA leaf keys", "loads our certificates")
        for item in found:
            usable = "[green]yes[/]" if item.is_usable else f"[red]no[/]: {shown(item.why)}"
            level = "as they are" if item.is_lenient else "at security level 0"
            rows.add_row(item.name, shown(item.library), usable, "yes" if item.has_ml_dsa else "no", level)
        out = console()
        out.print(f"Python {sys.version.split()[0]} · kernel {active_kernel().name}\n")
        out.print(rows)
    return ExitCode.DONE if any(item.is_usable for item in found) else ExitCode.NO
