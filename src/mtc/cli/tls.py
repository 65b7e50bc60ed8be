"""`mtc get` and `mtc doctor`: a page over TLS with our certificates, and what this Python can do."""

import http.client
import json
import socket
import ssl
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from mtc.ca.sections import parse_duration
from mtc.cli.output import ExitCode, console, error_console, shown, table, write_new_file
from mtc.cli.tls_target import Target, connect_to, open_context, parse_target, remaining, with_retry
from mtc.errors import PeerError, Reason
from mtc.kernel import active_kernel
from mtc.tls import ClientContext, ClientReport, client_report, describe_back_ends
from mtc.trust import Verified

MAX_BODY_BYTES = 64 << 20
"""Largest page that `mtc get` reads."""
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class GetOptions:
    """What `mtc get` is asked for. connect: HOST:PORT in the place of the URL's. classical: of other chains.

    timeout: how long it may take from the connection to the last byte, as text.
    """

    url: str
    trust: str | None
    ca_file: str | None
    connect: str | None
    is_mtc_only: bool
    out: str | None
    timeout: str
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
    target = parse_target(options.url, options.connect)
    limit_s = parse_duration(options.timeout, "--timeout").total_seconds()
    context, _ = open_context(options.trust, options.ca_file, classical=not options.is_mtc_only)
    deadline = time.monotonic() + limit_s
    page = with_retry(target, context, lambda number: _attempt(target, context, deadline, number))
    facts = describe_client(page.report) | {"tls": page.version, "attempts": page.attempts, "status": page.status}
    if options.out is not None:
        write_new_file(Path(options.out), page.body)
    elif not options.as_json:
        sys.stdout.buffer.write(page.body)
        sys.stdout.flush()
    if options.as_json:
        sys.stdout.write(json.dumps(facts | {"bytes": len(page.body)}) + "\n")
    else:
        error_console().print(f"[dim]{shown(summarize(facts))}[/]")
    return ExitCode.NO if page.status >= http.HTTPStatus.BAD_REQUEST else ExitCode.DONE


def _attempt(target: Target, context: ClientContext, deadline: float, number: int) -> _Page:
    """Connect and ask once."""
    plain = connect_to(target, deadline)
    try:
        sock = context.wrap_socket(plain, server_hostname=target.host, do_handshake_on_connect=False)
    except BaseException:
        plain.close()
        raise
    is_late = threading.Event()

    def cut() -> None:
        # Whoever sends a byte now and then holds no read up for long, but the whole without end.
        is_late.set()
        socket.socket.shutdown(sock, socket.SHUT_RDWR)

    timer = threading.Timer(remaining(deadline), cut)
    timer.daemon = True
    timer.start()
    try:
        page = _ask(target, sock, number)
    except (OSError, http.client.HTTPException, PeerError):
        if not is_late.is_set():
            raise
    finally:
        timer.cancel()
        sock.close()
    if is_late.is_set():
        # What was cut off may look like an end.
        raise TimeoutError("timed out")
    return page


def _ask(target: Target, sock: ssl.SSLSocket, number: int) -> _Page:
    """Shake hands and fetch the page."""
    sock.do_handshake()
    report, version = client_report(sock), sock.version() or ""
    connection = http.client.HTTPSConnection(target.host, target.port)
    connection.sock = sock
    connection.request("GET", target.path, headers={"User-Agent": "mtc", "Connection": "close"})
    answer = connection.getresponse()
    body = bytearray()
    while chunk := answer.read(_CHUNK_BYTES):
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise PeerError(Reason.TOO_LARGE, f"the page is larger than {MAX_BODY_BYTES} bytes")
    if answer.length:
        raise PeerError(Reason.PEER, f"{target.url}: the page ends {answer.length} bytes early")
    return _Page(answer.status, bytes(body), version, report, number)


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
        parts = [str(facts["tls"]), "classical certificate"]
    else:
        cosigners = facts["cosigners"]
        is_signed = isinstance(cosigners, list) and cosigners
        parts = [
            str(facts["tls"]),
            f"{facts['certificate']} certificate of CA {facts['ca']}, log {facts['log']}, entry {facts['index']}",
            f"{facts['certificate_bytes']} bytes",
            f"signed by {', '.join(map(str, cosigners))}" if is_signed else "no signature",  # type: ignore[call-overload]
        ]
    if facts.get("attempts") == 2:
        parts.append("second attempt, with an ID of the server's list")
    return " · ".join(parts)


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
        out.print(*(f"{item.name}: {lack}" for item in found for lack in item.lacks), sep="\n")
    return ExitCode.DONE if any(item.is_usable for item in found) else ExitCode.NO
