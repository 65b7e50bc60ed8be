"""A server's handshake as decisions, the same for each TLS library: which path is sent, and what is said about it.

The library calls in this order: `take` for the client's list, `choose`, then `encrypted_extensions`,
`certificate_request` and `sends_acknowledgement` for what is sent, and `judge` for the client's certificate.

Spec: TLS Trust Anchor Identifiers, "Certificate Selection"; RFC 8446, "Certificate".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime

from mtc.errors import Reason, Rejected, UsageError
from mtc.tls.extension import TrustAnchorsExtension
from mtc.tls.paths import CertificationPath
from mtc.tls.selection import (
    Match,
    Offer,
    Selection,
    available_anchors,
    parse_server_name,
    requested_anchors,
    select_path,
)
from mtc.trust import Purpose, TrustStore, Verified, verify_certificate
from mtc.web import Clock


@dataclass(frozen=True, slots=True)
class ServerReport:
    """What a client asked for in one handshake, and what it got.

    server_name: as the client sent it. requested: None when it sent no `trust_anchors`. selection: None before a path
    was chosen, or when none was. available: what we listed in EncryptedExtensions, None when we sent none.
    client: the client's certificate, None when it sent none. failure: why the handshake was refused by us.
    """

    server_name: str | None
    requested: TrustAnchorsExtension | None
    selection: Selection | None
    available: TrustAnchorsExtension | None
    client: Verified | None
    failure: BaseException | None


@dataclass(frozen=True, slots=True)
class ServedPaths:
    """The paths of a moment; replaced as a whole. The fallback, if any, is the last."""

    paths: tuple[CertificationPath, ...]
    has_fallback: bool

    @classmethod
    def check(cls, paths: Sequence[CertificationPath], fallback: CertificationPath | None) -> "ServedPaths":
        """Return the paths. Raises UsageError when there are none, or when most clients would get none."""
        everything = (*paths, fallback) if fallback is not None else tuple(paths)
        if not everything:
            raise UsageError(Reason.USAGE, "a TLS server needs at least one certification path")
        if fallback is not None and fallback.needs_negotiation:
            raise UsageError(
                Reason.USAGE, "a path that needs negotiation, such as a landmark-relative one, is no fallback"
            )
        if all(path.needs_negotiation for path in everything):
            raise UsageError(
                Reason.USAGE,
                "every path needs negotiation, most clients would get none; add the standalone certificate",
            )
        return cls(everything, fallback is not None)

    def select(self, offer: Offer, now: datetime) -> Selection:
        """Select a path. Raises Rejected when none suits and there is no fallback."""
        try:
            return select_path(self.paths, offer, now)
        except Rejected:
            if not self.has_fallback:
                raise
            return Selection(self.paths[-1], len(self.paths) - 1, Match.FALLBACK)


@dataclass(frozen=True, slots=True)
class ServerChoices:
    """What a server context was made with. clients: gives the trust store for clients' certificates; None: no such."""

    clock: Clock
    clients: Callable[[], TrustStore] | None


class ServerHandshake:
    """What is known of one connection of a server. Owned by the connection, and by nobody else."""

    def __init__(self, choices: ServerChoices, served: ServedPaths) -> None:
        """Take the paths that hold for this connection."""
        self.choices = choices
        self.served = served
        self.now: datetime = choices.clock.now()
        self.server_name: str | None = None
        self.requested: TrustAnchorsExtension | None = None
        self.selection: Selection | None = None
        self.available: TrustAnchorsExtension | None = None
        self.clients = None if choices.clients is None else choices.clients()
        self.client: Verified | None = None
        self.failure: BaseException | None = None

    def take(self, data: bytes) -> None:
        """Take the client's list. Raises FormatError."""
        self.requested = TrustAnchorsExtension.parse_request(data)

    def choose(self, server_name: str | None, schemes: frozenset[int] | None, *, is_tls13: bool) -> Selection:
        """Select the path. Raises Rejected when none suits."""
        self.server_name = server_name
        offer = Offer(parse_server_name(server_name), self.requested, schemes, is_tls13)
        self.selection = self.served.select(offer, self.now)
        return self.selection

    def encrypted_extensions(self) -> bytes | None:
        """Return the body of the extension in EncryptedExtensions, None when it is not sent."""
        if self.requested is None or self.selection is None:
            return None
        listed = available_anchors(self.served.paths, parse_server_name(self.server_name), self.now)
        if not listed.anchors:
            return None
        self.available = listed
        return listed.encode()

    def certificate_request(self) -> bytes | None:
        """Return the body of the extension in CertificateRequest, None when it is not sent."""
        return None if self.clients is None else requested_anchors(self.clients, self.now).encode()

    @property
    def sends_acknowledgement(self) -> bool:
        """True when the client's list selected the path."""
        return self.requested is not None and self.selection is not None and self.selection.match.is_acknowledged

    def judge(self, der: bytes) -> None:
        """Judge the client's certificate. Raises Error."""
        if self.clients is None:
            raise UsageError(Reason.USAGE, "no clients are trusted; make the context with server_context(…, clients=…)")
        # The time is read anew: whoever wants to be judged by an earlier one might only take its time.
        self.client = verify_certificate(der, self.clients, self.choices.clock.now(), purpose=Purpose.CLIENT_AUTH)

    def report(self) -> ServerReport:
        """Return what is known."""
        return ServerReport(self.server_name, self.requested, self.selection, self.available, self.client, self.failure)
