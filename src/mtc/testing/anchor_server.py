"""A small HTTPS server for demonstrations: one name, several certification paths, and what each visitor asked and got.

For loopback and few connections: a thread for each, one request.
"""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Self

from mtc.ids import TrustAnchorID
from mtc.tls import CertificationPath, Match, server_context, server_report
from mtc.web import Clock

_TIMEOUT_S = 60.0
_MAX_REQUEST_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Visit:
    """One connection. requested: the IDs in the client's extension, None without one. path: number of the path sent.

    match: why this path. path is -1 when the handshake did not come that far. error: why it failed, empty when it did
    not.
    """

    requested: tuple[TrustAnchorID, ...] | None
    path: int
    match: Match = Match.FALLBACK
    error: str = ""

    @property
    def is_matched(self) -> bool:
        """Whether the path was sent because the client asked for it; then that was acknowledged."""
        return self.match.is_acknowledged


class AnchorServer:
    """Serves on a free port of loopback. `with` starts and ends it.

    paths: most wanted first; see `mtc.tls.server_context`, which chooses; there fallback is the last. page: makes the
    body of the answer. resumption: give tickets; otherwise every visitor is sent a certificate. visits: finished
    handshakes in order, those that failed as well; read it when the client is done. Raises UsageError where this
    Python's OpenSSL cannot do it.
    """

    def __init__(
        self,
        paths: Sequence[CertificationPath],
        page: Callable[[Visit], str],
        *,
        fallback: CertificationPath | None = None,
        clock: Clock | None = None,
        resumption: bool = False,
    ) -> None:
        """Load the paths and listen."""
        self.visits: list[Visit] = []
        self._page = page
        self._context = server_context(paths, fallback=fallback, clock=clock, resumption=resumption)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._accept, daemon=True)

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(self._listener.getsockname()[1])

    def last_visit(self) -> Visit:
        """Return the newest connection to which a path was sent; browsers open others in advance, and drop them."""
        return next((visit for visit in reversed(self.visits) if visit.path >= 0), Visit(None, 0))

    def __enter__(self) -> Self:
        """Start."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End; connections that are up end by themselves."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _accept(self) -> None:
        """Take connections until the listener is closed."""
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        """Serve one connection. A client may go away at any moment, and one that refuses our certificate does."""
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.settimeout(_TIMEOUT_S)
        with (
            contextlib.suppress(OSError),
            self._context.wrap_socket(connection, server_side=True, do_handshake_on_connect=False) as secured,
        ):
            try:
                secured.do_handshake()
            except OSError as error:
                self.visits.append(_visit_of(secured, getattr(error, "reason", None) or type(error).__name__))
                raise
            visit = _visit_of(secured)
            self.visits.append(visit)
            self._answer(secured, visit)

    def _answer(self, connection: ssl.SSLSocket, visit: Visit) -> None:
        """Answer one request with the page."""
        request = b""
        while b"\r\n\r\n" not in request and len(request) < _MAX_REQUEST_BYTES:
            data = connection.recv(_MAX_REQUEST_BYTES)
            if not data:
                return
            request += data
        body = self._page(visit).encode()
        head = (
            "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\nCache-Control: no-store\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        connection.sendall(head.encode() + body)
        connection.unwrap()


def _visit_of(connection: ssl.SSLSocket, error: str = "") -> Visit:
    """Return what is known of a handshake."""
    report = server_report(connection)
    if report is None or report.selection is None:
        return Visit(None, -1, error=error)
    requested = None if report.requested is None else report.requested.anchors
    return Visit(requested, report.selection.index, report.selection.match, error)
