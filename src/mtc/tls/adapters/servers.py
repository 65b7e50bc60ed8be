"""A server's handshake as decisions, the same for each TLS library: which path is sent, and what is said about it.

The library calls in this order: `resume` for the client's ticket, `take` for its list, `choose` where nothing was
resumed, then `encrypted_extensions`, `certificate_request` and `sends_acknowledgement` for what is sent, `judge` for
the client's certificate, and `make_ticket`.

Spec: TLS Trust Anchor Identifiers, "Certificate Selection"; RFC 8446, "Certificate".
"""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from mtc.errors import Reason, Rejected, UsageError
from mtc.tls.adapters.resumption import (
    MAX_TICKET_S,
    Ticket,
    encode_server_name,
    is_same_trust,
    is_young,
    leaf_digest,
)
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

_REQUIRED = 2


@dataclass(frozen=True, slots=True)
class ServerReport:
    """What a client asked for in one handshake, and what it got.

    server_name: as the client sent it. requested: None when it sent no `trust_anchors`. selection: None before a path
    was chosen, or when none was. available: what we listed in EncryptedExtensions, None when we sent none.
    client: the client's certificate, None when it sent none. failure: why the handshake was refused by us. resumed:
    the path that the client knows from an earlier handshake, in a resumed one, where none is selected and sent.
    """

    server_name: str | None
    requested: TrustAnchorsExtension | None
    selection: Selection | None
    available: TrustAnchorsExtension | None
    client: Verified | None
    failure: BaseException | None
    resumed: CertificationPath | None = None


@dataclass(frozen=True, slots=True)
class ServedPaths:
    """The paths of a moment; replaced as a whole. The fallback, if any, is the last."""

    paths: tuple[CertificationPath, ...]
    has_fallback: bool
    by_leaf: dict[bytes, CertificationPath] = field(init=False, repr=False)
    """The paths as tickets name them."""

    def __post_init__(self) -> None:
        """Digest the certificates."""
        by_leaf = {leaf_digest(path.certificates[0]): path for path in self.paths}
        object.__setattr__(self, "by_leaf", by_leaf)

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


class _States:
    """Numbers for the states of a trust store: another state, another number. Threads may share it."""

    def __init__(self) -> None:
        """Begin before the first."""
        self._lock = threading.Lock()
        self._number = 0
        self._newest: TrustStore | None = None

    def number_of(self, store: TrustStore) -> int:
        """Return the number of the present state."""
        with self._lock:
            if self._newest is None or not is_same_trust(self._newest, store):
                self._newest = store
                self._number += 1
            return self._number


@dataclass(frozen=True, slots=True)
class ServerChoices:
    """What a server context was made with. clients: gives the trust store for clients' certificates; None: no such.

    resumption: None for where no certificates of clients are in play.
    """

    clock: Clock
    clients: Callable[[], TrustStore] | None
    resumption: bool | None = None
    states: _States = field(default_factory=_States, repr=False)

    def allows_resumption(self, asked: int) -> bool:
        """Whether tickets are given and taken. asked: how certificates of clients are asked for, 0 for not."""
        return not asked if self.resumption is None else self.resumption


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
        self.ticket: Ticket | None = None
        self.resumed: CertificationPath | None = None

    def resume(self, data: bytes, server_name: bytes | None, client: bytes, asked: int) -> None:
        """Take the client's ticket, or raise Error: then a full handshake follows.

        data: what `make_ticket` had put into the ticket. server_name: the body of the ClientHello's extension, None
        without one. client: DER of the client's certificate in the full handshake, empty when it sent none. asked: how
        certificates of clients are asked for: 0 not, 1 optional, 2 required.
        """
        ticket, now = Ticket.parse(data), self.choices.clock.now()
        path = self.served.by_leaf.get(ticket.leaf)
        if (
            not self.choices.allows_resumption(asked)
            or ticket.asked != asked
            or (asked == _REQUIRED and not client)
            or ticket.trust != self._trust_number()
            or encode_server_name(ticket.server_name) != server_name
            or not is_young(datetime.fromtimestamp(ticket.since, UTC), now)
            or path is None
            or not path.is_valid_at(now)
        ):
            raise Rejected(Reason.SESSION_UNFIT, "the ticket does not fit this handshake")
        if client and asked:
            self.judge(client)
        self.ticket, self.resumed, self.server_name = ticket, path, ticket.server_name

    def make_ticket(self, asked: int) -> tuple[bytes, int] | None:
        """Return what a ticket of this connection stands for and how many seconds it lives, None for nothing."""
        if not self.choices.allows_resumption(asked):
            return None
        path, ticket, now = self.resumed, self.ticket, self.choices.clock.now()
        if path is None or ticket is None:
            if self.selection is None or (self.server_name is not None and not self.server_name.isascii()):
                return None
            path = self.selection.path
            leaf = leaf_digest(path.certificates[0])
            ticket = Ticket(asked, self._trust_number(), int(self.now.timestamp()), leaf, self.server_name)
        return ticket.encode(), max(0, min(MAX_TICKET_S, int(path.not_after.timestamp() + 1 - now.timestamp())))

    def _trust_number(self) -> int:
        """Return the number of the state of the trust store for clients, 0 without one."""
        return 0 if self.clients is None else self.choices.states.number_of(self.clients)

    def take(self, data: bytes) -> None:
        """Take the client's list. Raises FormatError."""
        self.requested = TrustAnchorsExtension.parse_request(data)

    def choose(self, server_name: str | None, schemes: frozenset[int] | None, *, is_tls13: bool) -> Selection:
        """Select the path. Raises Rejected when none suits."""
        self.server_name = server_name
        # OpenSSL may put aside a ticket that was good to us.
        self.ticket = self.resumed = self.client = None
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
        return ServerReport(
            self.server_name,
            self.requested,
            self.selection,
            self.available,
            self.client,
            self.failure,
            self.resumed,
        )
