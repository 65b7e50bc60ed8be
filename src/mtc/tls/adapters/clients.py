"""A client's handshake as decisions, the same for each TLS library: what is asked, what is believed, what is reported.

The library calls in this order: `extension` when the ClientHello is made, `list_available` and `acknowledge` for what
the server sends, `ask` and `choose` when it wants a certificate of ours, `judge` for its own.

Spec: TLS Trust Anchor Identifiers, "The trust_anchors Extension"; Merkle Tree Certificates, "Relying Parties".
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime

from mtc.errors import Error, Reason, Rejected
from mtc.ids import TrustAnchorID
from mtc.tls.extension import TrustAnchorsExtension, check_acknowledgement
from mtc.tls.paths import CertificationPath, is_merkle_tree_certificate
from mtc.tls.selection import Offer, Selection, plan_retry, requested_anchors, select_path
from mtc.trust import TrustStore, Verified, verify_certificate
from mtc.web import Clock

_asked: ContextVar[tuple[TrustAnchorID, ...] | None] = ContextVar("mtc_tls_asked", default=None)

Snapshots = TrustStore | Callable[[], TrustStore]
"""A trust store, or a call that returns the present one."""


def snapshots_of(trust_store: Snapshots) -> Callable[[], TrustStore]:
    """Return the call that gives the present snapshot."""
    if isinstance(trust_store, TrustStore):
        fixed = trust_store
        return lambda: fixed
    return trust_store


@contextlib.contextmanager
def asking(*anchors: TrustAnchorID) -> Iterator[None]:
    """Ask for these IDs alone in connections that begin inside the `with`, in this thread or task: the retry."""
    token = _asked.set(anchors)
    try:
        yield
    finally:
        _asked.reset(token)


@dataclass(frozen=True, slots=True)
class ClientReport:
    """What a client asked, got and verified in one handshake.

    requested: None when the extension was not sent. available: what the server listed, None when it did not (any TLS
    1.2 server). is_acknowledged: the server says that our list selected its path. verified: for a Merkle Tree
    certificate; None for a classical chain. sent: our own path, when the server asked for one. failure: why the
    handshake was refused by us. retry: what to ask for in the one further attempt, None when none is due.
    """

    requested: TrustAnchorsExtension | None
    available: TrustAnchorsExtension | None
    is_acknowledged: bool
    verified: Verified | None
    sent: Selection | None
    failure: BaseException | None
    retry: TrustAnchorID | None


@dataclass(frozen=True, slots=True)
class ClientChoices:
    """What a client context was made with; the arguments of `client_context`."""

    snapshot: Callable[[], TrustStore]
    allows_classical: bool
    sends_extension: bool
    clock: Clock
    paths: tuple[CertificationPath, ...]


class ClientHandshake:
    """What is known of one connection of a client. Owned by the connection, and by nobody else."""

    def __init__(self, choices: ClientChoices) -> None:
        """Take the snapshot that holds for this connection."""
        self.choices = choices
        self.now: datetime = choices.clock.now()
        self.store = choices.snapshot()
        self.asked = _asked.get()
        self.requested: TrustAnchorsExtension | None = None
        self.available: TrustAnchorsExtension | None = None
        self.is_acknowledged = False
        self.verified: Verified | None = None
        self.is_judged = False
        self.wanted: TrustAnchorsExtension | None = None
        self.sent: Selection | None = None
        self.failure: BaseException | None = None

    def extension(self) -> bytes | None:
        """Return the body of the extension in ClientHello, None when it is not sent."""
        if not self.choices.sends_extension:
            return None
        if self.asked is None:
            self.requested = requested_anchors(self.store, self.now)
        else:
            self.requested = TrustAnchorsExtension(self.asked)
        return self.requested.encode()

    def list_available(self, data: bytes) -> None:
        """Take the server's list in EncryptedExtensions. Raises FormatError."""
        self.available = TrustAnchorsExtension.parse_available(data)

    def acknowledge(self, data: bytes) -> None:
        """Take the acknowledgement beside the server's certificate. Raises FormatError."""
        check_acknowledgement(data)
        self.is_acknowledged = True

    def ask(self, data: bytes) -> None:
        """Take the list of a server that wants a certificate of ours. Raises FormatError."""
        self.wanted = TrustAnchorsExtension.parse_request(data)

    def choose(self, schemes: frozenset[int] | None, *, is_tls13: bool) -> int | None:
        """Select our own path for a server that asks; return its index among the paths, None for no certificate."""
        with contextlib.suppress(Rejected):
            self.sent = select_path(self.choices.paths, Offer(None, self.wanted, schemes, is_tls13), self.now)
            return self.sent.index
        return None

    @property
    def sends_acknowledgement(self) -> bool:
        """True when the server's list selected the path that we send."""
        return self.sent is not None and self.sent.match.is_acknowledged

    def judge(self, der: bytes, name: str | None) -> bool:
        """Judge the server's end-entity certificate: True when it is verified, False when the TLS library is to judge.

        name: what the caller wants to reach, None when names are not checked. In the second case the chain is
        classical, and whoever judges it sets `is_judged`. Raises Error for a certificate that is refused.
        """
        try:
            self.verified = verify_certificate(der, self.store, self.choices.clock.now(), name=name)
        except Error:
            # What kind it is, is asked only of what did not verify: our own kind goes the short way.
            if is_merkle_tree_certificate(der):
                raise
        else:
            self.is_judged = True
            return True
        if not self.choices.allows_classical:
            raise Rejected(
                Reason.NOT_MTC,
                "the server sent a classical certificate, and this client accepts none (classical=False)",
            )
        return False

    def report(self) -> ClientReport:
        """Return what is known."""
        retry = None
        if self.failure is not None or not self.is_judged:
            retry = plan_retry(self.store, self.now, self.available, is_retry=self.asked is not None)
        return ClientReport(
            self.requested, self.available, self.is_acknowledged, self.verified, self.sent, self.failure, retry
        )
