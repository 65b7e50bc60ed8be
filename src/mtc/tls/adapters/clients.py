"""A client's handshake as decisions, the same for each TLS library: what is asked, what is believed, what is reported.

The library calls in this order: `extension` when the ClientHello is made, `list_available` and `acknowledge` for what
the server sends, `ask` and `choose` when it wants a certificate of ours, `judge` for its own, or `resume` where none
was sent; in the end `succeed` or `fail`.

Spec: TLS Trust Anchor Identifiers, "The trust_anchors Extension"; Merkle Tree Certificates, "Relying Parties".
"""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime

from mtc.errors import Error, Reason, Rejected, UsageError
from mtc.ids import TrustAnchorID
from mtc.tls.adapters.hints import Hint, RetryHints
from mtc.tls.adapters.resumption import Bond
from mtc.tls.extension import TrustAnchorsExtension, check_acknowledgement
from mtc.tls.paths import CertificationPath, is_merkle_tree_certificate
from mtc.tls.selection import Offer, Selection, plan_retry, requested_anchors, select_path
from mtc.trust import ServerName, TrustStore, Verified, verify_certificate_at
from mtc.web.clock import Clock, seconds_of

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
    handshake was refused by us. retry: what to ask for in the one further attempt, None when none is due. is_resumed:
    no certificate was sent; `verified` is the one of the full handshake, judged again. is_retry: it was that
    further attempt.
    """

    requested: TrustAnchorsExtension | None
    available: TrustAnchorsExtension | None
    is_acknowledged: bool
    verified: Verified | None
    sent: Selection | None
    failure: BaseException | None
    retry: TrustAnchorID | None
    is_resumed: bool = False
    is_retry: bool = False


@dataclass(frozen=True, slots=True)
class ClientChoices:
    """What a client context was made with; the arguments of `client_context`.

    resumption: None for where no certificate of ours is in play. hints: of this context alone; None to remember
    nothing of handshakes that failed.
    """

    snapshot: Callable[[], TrustStore]
    allows_classical: bool
    sends_extension: bool
    clock: Clock
    paths: tuple[CertificationPath, ...]
    resumption: bool | None = None
    hints: RetryHints | None = field(default_factory=RetryHints)

    @property
    def allows_resumption(self) -> bool:
        """Whether sessions may be kept and offered."""
        return not self.paths if self.resumption is None else self.resumption


class ClientHandshake:
    """What is known of one connection of a client. Owned by the connection, and by nobody else."""

    def __init__(self, choices: ClientChoices, host: str | None = None, *, checks_name: bool = True) -> None:
        """Take the snapshot that holds for this connection.

        host: whom the caller wants to reach. checks_name: the server's certificate must be for it.
        """
        self.choices = choices
        self.host = host
        self.checks_name = checks_name
        self._reference = _reference_of(host)
        self._seconds = seconds_of(choices.clock)
        self.now: datetime = choices.clock.now()
        self.store = choices.snapshot()
        self.asked = _asked.get()
        self.hint = self._take_hint()
        self.requested: TrustAnchorsExtension | None = None
        self.available: TrustAnchorsExtension | None = None
        self.is_acknowledged = False
        self.verified: Verified | None = None
        self.is_judged = False
        self.wanted: TrustAnchorsExtension | None = None
        self.sent: Selection | None = None
        self.failure: BaseException | None = None
        self.bond: Bond | None = None

    def _take_hint(self) -> Hint | None:
        """Ask for what an earlier handshake with this host said, unless the caller asks for something else."""
        hints = self.choices.hints
        if not hints or self.host is None or not self.choices.sends_extension:
            return None
        hint = hints.take(self.host, self.store)
        if hint is not None and self.asked is None:
            self.asked = (hint.anchor,)
        return hint if hint is not None and self.asked == (hint.anchor,) else None

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

    def judge(self, der: bytes) -> bool:
        """Judge the server's end-entity certificate: True when it is verified, False when the TLS library is to judge.

        In the second case the chain is classical, and whoever judges it sets `is_judged`. Raises Error for a
        certificate that is refused, and where there is no name to compare it with.
        """
        name = self._reference if self.checks_name else None
        if name is None and self.checks_name:
            raise Rejected(Reason.NAME_MISMATCH, "there is no host name to check the certificate against")
        try:
            # The time is read anew: a server that wants to be judged by an earlier one might only take its time.
            self.verified = verify_certificate_at(
                der, self.store, self._seconds(), ServerName.parse(name) if isinstance(name, str) else name
            )
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

    def make_bond(self, leaf: bytes) -> Bond | None:
        """Return what a session of this connection is bound to, None when it may not be kept.

        leaf: the server's end-entity certificate, DER.
        """
        if not self.choices.allows_resumption or not self.is_judged or self.failure is not None:
            return None
        # A session that came from another one goes on being what the full handshake was.
        return self.bond or Bond(
            self.host,
            self.checks_name,
            leaf,
            self.verified is not None,
            self.store,
            self.now,
            None if self.sent is None else self.sent.index,
        )

    def check(self, bond: Bond) -> Verified | None:
        """Judge the server of a session, by the present time; None for a classical one. Raises Error for any misfit."""
        choices, now = self.choices, self.choices.clock.now()
        if not choices.allows_resumption or (bond.own is not None and not choices.paths[bond.own].is_valid_at(now)):
            raise Rejected(Reason.SESSION_UNFIT, "the session is not resumed: our own certificate is in play")
        if not bond.is_mtc and not choices.allows_classical:
            raise Rejected(Reason.NOT_MTC, "the session has a classical certificate, and this client accepts none")
        return bond.judge(self.store, now, self.host, checks_name=self.checks_name)

    def resume(self, bond: Bond) -> None:
        """Judge the server of a resumed handshake, which sent no certificate. Raises Error."""
        self.verified = self.check(bond)
        self.bond = bond
        self.is_judged = True

    def succeed(self) -> None:
        """Note that the handshake has ended well."""
        if self.hint is not None and self.host is not None and self.choices.hints is not None:
            self.choices.hints.remember(self.host, self.hint.anchor, self.store, has_worked=True)

    def fail(self) -> None:
        """Note that the handshake has failed: the next one with this host asks for what the report names, once."""
        hints = self.choices.hints
        if hints is None or self.host is None:
            return
        retry = self.report().retry
        if retry is not None:
            hints.remember(self.host, retry, self.store)
        elif self.hint is not None:
            hints.forget(self.host)

    def report(self) -> ClientReport:
        """Return what is known."""
        retry = None
        # What has worked before is no attempt of last resort: when it fails there is one more.
        is_retry = self.asked is not None and not (self.hint is not None and self.hint.has_worked)
        if self.failure is not None or not self.is_judged:
            retry = plan_retry(self.store, self.now, self.available, is_retry=is_retry)
        return ClientReport(
            self.requested,
            self.available,
            self.is_acknowledged,
            self.verified,
            self.sent,
            self.failure,
            retry,
            self.bond is not None,
            is_retry,
        )


def _reference_of(host: str | None) -> ServerName | str | None:
    """Return the name that a certificate must be for. One that cannot be one stays text, which the verifier refuses."""
    if not host:
        return None
    try:
        return ServerName.parse(host)
    except UsageError:
        return host
