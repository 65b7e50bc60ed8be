"""The part of `mtc demo` in which relying parties connect over TLS: one handshake of each kind, and one refusal."""

import contextlib
import socket
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from rich.table import Table

from mtc.cert import Certificate
from mtc.cli.demo_classical import Classical, time_call
from mtc.cli.output import shown, table
from mtc.errors import Error, PeerError, Reason
from mtc.ids import TrustAnchorID, landmark_id
from mtc.tls import ClientContext, ClientReport, client_context, client_report
from mtc.trust import TrustedSubtree, TrustStore, verify_certificate

TIMEOUT_S = 30.0
_CHUNK_BYTES = 64 << 10
_BAR = 8


@dataclass(frozen=True, slots=True)
class Handshake:
    """One handshake, as the client saw it.

    asked: IDs in the ClientHello, None without the extension. served: "landmark-relative", "standalone", "classical",
    or "" when nothing was believed. server_bytes: of all TLS records from the server until the client had finished.
    verify_us: of the certificate alone, outside the handshake, the median of many runs; 0 when it was refused.
    signers: who signed what the client verified, by name. refusal: reason and text.
    """

    client: str
    asked: tuple[str, ...] | None
    served: str
    is_acknowledged: bool
    certificate_bytes: int
    server_bytes: int
    verify_us: float
    signers: tuple[str, ...]
    refusal: tuple[str, str] | None = None

    def to_json(self) -> dict[str, object]:
        """Return it for scripts."""
        refusal = None if self.refusal is None else dict(zip(("reason", "message"), self.refusal, strict=True))
        return {
            "client": self.client,
            "asked": None if self.asked is None else list(self.asked),
            "served": self.served or None,
            "acknowledged": self.is_acknowledged,
            "certificate_bytes": self.certificate_bytes,
            "server_bytes": self.server_bytes,
            "verify_us": round(self.verify_us, 1),
            "signed_by": list(self.signers),
            "refused": refusal,
        }


@dataclass(frozen=True, slots=True)
class Site:
    """Where handshakes go. names: of cosigners, by their IDs as certificates carry them."""

    host: str
    address: tuple[str, int]
    classical: Classical
    names: Mapping[bytes, str]

    def connect(self, client: str, context: ClientContext, store: TrustStore, *asking: TrustAnchorID) -> Handshake:
        """Shake hands once. store: what the context verifies with. asking: IDs in place of what it would ask for."""
        context.load_verify_locations(cadata=self.classical.root.decode())
        with context.asking(*asking) if asking else contextlib.nullcontext():
            report, der, server_bytes, error = shake(self.address, context, self.host)
        requested = None if report is None else report.requested
        asked = None if requested is None else tuple(map(str, requested.anchors))
        is_acknowledged = report is not None and report.is_acknowledged
        if error is not None:
            return Handshake(client, asked, "", is_acknowledged, len(der), server_bytes, 0.0, (), reason_of(error))
        if report is None or report.verified is None:
            took, by = self.classical.time(self.host), ("intermediate", "root")
            return Handshake(client, asked, "classical", is_acknowledged, len(der), server_bytes, took, by)
        now = datetime.now(UTC)
        took = time_call(lambda: verify_certificate(der, store, now, name=self.host))
        signers = tuple(self.names.get(item.cosigner_id, item.name) for item in Certificate.parse(der).proof.signatures)
        served = str(report.verified.form)
        return Handshake(client, asked, served, is_acknowledged, len(der), server_bytes, took, signers)


def handshakes_of_each_kind(site: Site, store: TrustStore, landmark: TrustedSubtree) -> list[Handshake]:
    """Connect as four clients: one names the landmark, one its group, one the CA, and one sends no extension."""
    (ca,) = store.cas
    assert landmark.landmark is not None
    exact = landmark_id(ca.ca_id, landmark.log_number, landmark.landmark)
    bare = TrustStore([replace(ca, trusted_subtrees=())])
    return [
        site.connect("names the landmark", client_context(store), store, exact),
        site.connect("has landmarks", client_context(store), store),
        site.connect("knows the CA", client_context(bare), bare),
        site.connect("is of yesterday", client_context(TrustStore([]), sends_extension=False), TrustStore([])),
    ]


def shake(
    address: tuple[str, int], context: ClientContext, host: str
) -> tuple[ClientReport | None, bytes, int, Exception | None]:
    """Shake hands over TCP; return the report, the server's certificate, the bytes it sent, and why it failed."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_hostname=host)
    count = 0
    with socket.create_connection(address, TIMEOUT_S) as sock:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while True:
            error: Exception | None = None
            try:
                connection.do_handshake()
                is_done = True
            except ssl.SSLWantReadError:
                is_done = False
            except ssl.SSLError as failure:
                is_done, error = True, failure
            if outgoing.pending:
                sock.sendall(outgoing.read())
            if is_done:
                break
            data = sock.recv(_CHUNK_BYTES)
            if not data:
                raise PeerError(Reason.PEER, "the server ended the connection in the handshake")
            count += len(data)
            incoming.write(data)
    report = client_report(connection if error is None else error)
    der = (connection.getpeercert(binary_form=True) or b"") if error is None else b""
    return report, der, count, error


def reason_of(error: Exception) -> tuple[str, str]:
    """Return reason and text of a handshake that we refused, before the certificate came or because of it."""
    report = client_report(error)
    for failure in (None if report is None else report.failure, error.__cause__):
        if isinstance(failure, Error):
            return str(failure.reason), failure.message
    return "tls", str(error)


def handshake_table(handshakes: Sequence[Handshake]) -> Table:
    """Return the handshakes as people like to see them; the bar compares what the server sent."""
    most = max((item.server_bytes for item in handshakes), default=1)
    rows = table("a client that …", "asks for", "is sent", "bytes", "", "µs", "signed by", numeric=(3, 5))
    for column in rows.columns:
        column.no_wrap = True
    colours = {"landmark-relative": "green", "standalone": "yellow", "classical": "magenta"}
    for item in handshakes:
        colour = colours.get(item.served, "red")
        bar = "█" * max(round(item.server_bytes / most * _BAR), 1)
        took = f"{item.verify_us:,.1f}" if item.verify_us else ""
        by = "[bold]nobody[/]" if item.served == "landmark-relative" else shown(", ".join(item.signers))
        asked = "nothing" if item.asked is None else shown(", ".join(item.asked))
        sent = f"[{colour}]{item.served}[/]" if item.refusal is None else "[bold red]refused[/]"
        if item.refusal is not None:
            by = f"[red]{shown(item.refusal[0])}[/]"
        rows.add_row(item.client, asked, sent, f"{item.server_bytes:,}", f"[{colour}]{bar}[/]", took, by)
    return rows
