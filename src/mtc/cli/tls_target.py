"""Where `mtc get` and `mtc handshake` connect, with what trust, and what they say when that fails."""

import http.client
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar
from urllib.parse import quote, urlsplit

from mtc.ca.config import parse_address
from mtc.cli.output import read_input
from mtc.errors import Error, PeerError, Reason, UsageError
from mtc.tls import ClientContext, client_context, client_report
from mtc.trust import TrustStore, parse_trust_store

_T = TypeVar("_T")
_HTTPS = 443
# What stands for itself in a path and a query, RFC 3986; all else is sent percent-encoded, as browsers do.
_SAFE = "/:@!$&'()*+,;=~%-._?"
_NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "HTTPS_PROXY_REQUEST", "PACKET_LENGTH_TOO_LONG"})


@dataclass(frozen=True, slots=True)
class Target:
    """A server. host: the name that its certificate must have. address: where it is. path: with the query."""

    url: str
    host: str
    port: int
    address: tuple[str, int]
    path: str


def parse_target(url: str, connect: str | None, *, needs_scheme: bool = True) -> Target:
    """Read an https URL. connect: HOST:PORT in the place of the URL's. Raises UsageError.

    needs_scheme: otherwise a host, with a port perhaps, is enough.
    """
    whole = url if needs_scheme or "://" in url else f"https://{url}"
    wrong = UsageError(Reason.USAGE, f"{url!r} is no https URL; write for example https://www.example.com/")
    try:
        parts = urlsplit(whole)
        port = _HTTPS if parts.port is None else parts.port
        host = parts.hostname or ""
        host = host if ":" in host else host.encode("idna").decode("ascii")
    except ValueError:
        raise wrong from None
    if parts.scheme != "https" or not host or host.startswith(".") or not port:
        raise wrong
    address = (host, port) if connect is None else parse_address(connect)
    if address is None:
        raise UsageError(Reason.USAGE, f"--connect: {connect!r} is no address; write 127.0.0.1:8443")
    path = quote(parts.path or "/", safe=_SAFE) + (f"?{quote(parts.query, safe=_SAFE)}" if parts.query else "")
    return Target(whole, host, port, address, path)


def open_context(trust: str | None, ca_file: str | None, *, classical: bool = True) -> tuple[ClientContext, TrustStore]:
    """Return a client's context and its trust store. trust, ca_file: names of files. Raises UsageError, FormatError."""
    store = TrustStore([]) if trust is None else parse_trust_store(read_input(trust))
    # The retry is made here, and told; nothing need be remembered for a next connection.
    context = client_context(store, classical=classical, remembers_retries=False)
    if ca_file is not None:
        try:
            context.load_verify_locations(cadata=read_input(ca_file).decode("ascii"))
        except (ssl.SSLError, ValueError):
            raise UsageError(Reason.BAD_PEM, f"{ca_file} holds no certificate, PEM", file=ca_file) from None
    return context, store


def connect_to(target: Target, deadline: float) -> socket.socket:
    """Connect. deadline: by `time.monotonic`. Raises OSError."""
    sock = socket.create_connection(target.address, remaining(deadline))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return sock


def remaining(deadline: float) -> float:
    """Return the seconds until the deadline. Raises TimeoutError when it has passed."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise TimeoutError("timed out")
    return seconds


def with_retry(target: Target, context: ClientContext, attempt: Callable[[int], _T]) -> _T:
    """Make an attempt; once more, asking for the one ID that the server's list suggests, when the handshake failed.

    attempt: is given its number, 1 or 2. Raises the error that `explain` makes of the last failure.
    Spec: TLS Trust Anchor Identifiers, "Retry".
    """
    try:
        return attempt(1)
    except (OSError, http.client.HTTPException) as error:
        report = client_report(error)
        if report is None or report.retry is None:
            raise explain(target.url, error) from error
        retry = report.retry
    with context.asking(retry):
        try:
            return attempt(2)
        except (OSError, http.client.HTTPException) as error:
            raise explain(target.url, error) from error


def is_refusal(error: BaseException | None) -> bool:
    """Tell whether a connection failed because its certificate was refused, by us or by OpenSSL."""
    report = None if error is None else client_report(error)
    refused = report is not None and isinstance(report.failure, Error)
    return refused or isinstance(error, ssl.SSLCertVerificationError)


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
    if isinstance(error, TimeoutError):
        return PeerError(Reason.PEER, f"{url}: no answer in time; --timeout gives it more")
    if isinstance(error, ssl.SSLError) and error.reason in _NOT_TLS:
        return PeerError(Reason.PEER, f"{url}: the server does not speak TLS at this port")
    text = str(getattr(error, "strerror", None) or error) or type(error).__name__
    return PeerError(Reason.PEER, f"{url}: {text.lower()}")
