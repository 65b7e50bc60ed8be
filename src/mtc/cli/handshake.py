"""`mtc handshake`: one TLS handshake, step by step and in bytes: what was offered, chosen, sent and verified."""

import json
import socket
import ssl
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from mtc.ca.config import parse_address
from mtc.cli.output import console, read_input, shown, table
from mtc.cli.tls import describe_client, explain
from mtc.errors import PeerError, Reason, UsageError
from mtc.tls import ClientContext, ClientReport, client_context, client_report
from mtc.trust import TrustStore, parse_trust_store, verify_certificate
from mtc.web.clock import SystemClock

_TIMEOUT_S = 20.0
_CHUNK_BYTES = 64 << 10
_MAX_FLIGHTS = 20
_BAR = 60
_RUNS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class HandshakeOptions:
    """What `mtc handshake` is asked for."""

    url: str
    trust: str | None
    ca_file: str | None
    connect: str | None
    as_json: bool


@dataclass(slots=True)
class _Course:
    """How a handshake went. flights: sender and bytes of each, in order; ms: from the first byte to the end."""

    flights: list[tuple[str, int]] = field(default_factory=list)
    ms: float = 0.0
    version: str = ""
    cipher: str = ""
    certificate_bytes: int = 0

    def add(self, sender: str, count: int) -> None:
        """Count bytes; those of one sender without an answer between are one flight."""
        if self.flights and self.flights[-1][0] == sender:
            self.flights[-1] = (sender, self.flights[-1][1] + count)
        else:
            self.flights.append((sender, count))


def run_handshake(options: HandshakeOptions) -> None:
    """Shake hands once, and show how it went. Raises the error of the certificate or of the connection."""
    parts = urlsplit(options.url if "://" in options.url else f"https://{options.url}")
    if parts.scheme != "https" or not parts.hostname:
        raise UsageError(Reason.USAGE, f"{options.url!r} is no https URL; write for example https://www.example.com/")
    host, port = parts.hostname, parts.port or 443
    address = (host, port) if options.connect is None else parse_address(options.connect)
    if address is None:
        raise UsageError(Reason.USAGE, f"--connect: {options.connect!r} is no address; write 127.0.0.1:8443")
    store = TrustStore([]) if options.trust is None else parse_trust_store(read_input(options.trust))
    context = client_context(store)
    if options.ca_file is not None:
        context.load_verify_locations(cafile=options.ca_file)
    try:
        with socket.create_connection(address, _TIMEOUT_S) as sock:
            course, report = _shake(sock, context, host)
    except OSError as error:
        raise explain(options.url, error) from None
    facts = describe_client(report) | {"tls": course.version, "cipher": course.cipher, "ms": round(course.ms, 2)}
    facts |= {"flights": [{"from": sender, "bytes": count} for sender, count in course.flights]}
    facts.setdefault("certificate_bytes", course.certificate_bytes)
    if report is not None and report.verified is not None:
        facts["verify_us"] = round(_measure(report.verified.der, store), 1)
    if options.as_json:
        sys.stdout.write(json.dumps(facts) + "\n")
    else:
        _print(host, course, facts)


def _shake(sock: socket.socket, context: ClientContext, host: str) -> tuple[_Course, ClientReport | None]:
    """Do the handshake over a socket, counting what goes each way."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_hostname=host)
    course, began = _Course(), time.perf_counter()
    while len(course.flights) < _MAX_FLIGHTS:
        try:
            connection.do_handshake()
            is_done = True
        except ssl.SSLWantReadError:
            is_done = False
        if outgoing.pending:
            data = outgoing.read()
            course.add("client", len(data))
            sock.sendall(data)
        if is_done:
            break
        data = sock.recv(_CHUNK_BYTES)
        if not data:
            raise ssl.SSLEOFError("the server ended the connection")
        course.add("server", len(data))
        incoming.write(data)
    else:
        raise PeerError(Reason.PEER, f"{host}: the handshake does not end")
    course.ms = (time.perf_counter() - began) * 1000
    course.version, course.cipher = connection.version() or "", (connection.cipher() or ("",))[0]
    course.certificate_bytes = len(connection.getpeercert(binary_form=True) or b"")
    return course, client_report(connection)


def _measure(der: bytes, store: TrustStore) -> float:
    """Return how long the verification takes, µs: the best of some runs."""
    now, best = SystemClock().now(), float("inf")
    for _ in range(_RUNS):
        began = time.perf_counter()
        verify_certificate(der, store, now)
        best = min(best, time.perf_counter() - began)
    return best * 1e6


def _print(host: str, course: _Course, facts: Mapping[str, object]) -> None:
    """Show a handshake to people."""
    out = console()
    out.print(f"[bold]{shown(host)}[/] · {course.version} · {course.cipher} · {course.ms:.1f} ms\n")
    rows = table("step", "who", "what")
    rows.add_row("offered", "client", _anchors(facts.get("asked"), "no trust anchors"))
    rows.add_row("available", "server", _anchors(facts.get("available"), "says nothing"))
    chosen = f"{facts['certificate']}, {facts['certificate_bytes']} bytes"
    rows.add_row("chosen", "server", chosen + (", acknowledged" if facts.get("acknowledged") else ""))
    rows.add_row("verified", "client", _verdict(facts))
    out.print(rows)
    out.print("")
    most = max((count for _, count in course.flights), default=1)
    for sender, count in course.flights:
        full = max(round(count / most * _BAR), 1)
        part = min(round(int(str(facts["certificate_bytes"])) / most * _BAR), full) if sender == "server" else 0
        bar = f"[magenta]{'█' * part}[/][blue]{'▓' * (full - part)}[/]"
        out.print(f"{sender}  {count:>6,} bytes  {bar}")
        if part:
            # Only the first flight of the server carries its certificate.
            facts = {**facts, "certificate_bytes": 0}
    out.print("\n[magenta]█[/] the end-entity certificate  [blue]▓[/] everything else")


def _anchors(value: object, nothing: str) -> str:
    """Return a list of trust anchor IDs for people."""
    return ", ".join(map(str, value)) if isinstance(value, Sequence) and value else nothing


def _verdict(facts: Mapping[str, object]) -> str:
    """Say why the certificate was believed."""
    if "ca" not in facts:
        return "a classical chain, by OpenSSL"
    cosigners = facts.get("cosigners")
    by = _anchors(cosigners, "")
    why = f"cosignatures of {by}" if by else "a trusted landmark, no signature"
    return f"CA {facts['ca']}, log {facts['log']}, entry {facts['index']}: {why}, {facts['verify_us']} µs"
