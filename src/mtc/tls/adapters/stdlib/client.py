"""The client's side on the stdlib's `ssl`: asks by `trust_anchors`, verifies Merkle Tree certificates, fails closed.

What happens in a handshake, in OpenSSL's order: the extension is made from a snapshot of the trust store (`_send`), the
server's list and its acknowledgement are read (`_receive`), the certificates are judged with the same snapshot
(`_verify`). A callback never raises through C: whatever it meets is kept, the handshake fails, and the exception that
the caller sees carries it. Even if Python could not run a callback to its end, `do_handshake` refuses a connection
that nobody judged.

Spec: TLS Trust Anchor Identifiers, "The trust_anchors Extension"; Merkle Tree Certificates, "Relying Parties".
"""

import contextlib
import socket
import ssl
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mtc.errors import Error, Reason, Rejected
from mtc.ids import TrustAnchorID
from mtc.tls.adapters.stdlib.callbacks import CHOOSE, VERIFY, Body, keep_forever, make_receiver, make_sender
from mtc.tls.adapters.stdlib.failures import explain, find_report, without_way
from mtc.tls.adapters.stdlib.inner import Snapshots, load_path, snapshots_of
from mtc.tls.adapters.stdlib.libssl import (
    IN_CERTIFICATE,
    IN_CLIENT_HELLO,
    IN_ENCRYPTED_EXTENSIONS,
    LibSSL,
    load_libssl,
)
from mtc.tls.adapters.stdlib.peer import describe_peer
from mtc.tls.extension import TrustAnchorsExtension, check_acknowledgement
from mtc.tls.hello import TLS_13
from mtc.tls.paths import CertificationPath, is_merkle_tree_certificate
from mtc.tls.selection import Offer, Selection, plan_retry, requested_anchors, select_path
from mtc.trust import TrustStore, Verified, verify_certificate
from mtc.web import Clock, SystemClock

_asked: ContextVar[tuple[TrustAnchorID, ...] | None] = ContextVar("mtc_tls_asked", default=None)


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


class ClientContext(ssl.SSLContext):
    """An `ssl.SSLContext` for clients; made by `client_context`. Used like any other by whatever takes one.

    Sessions are not resumed: in a resumed one nobody would look at the certificate again, at its revocation, or at a
    trust store that has changed. A `session` that is handed in is not used.
    """

    _snapshot: Callable[[], TrustStore]
    _allows_classical: bool
    _sends_extension: bool
    _clock: Clock
    _paths: tuple[CertificationPath, ...]
    _contexts: tuple[ssl.SSLContext, ...]

    @contextlib.contextmanager
    def asking(self, *anchors: TrustAnchorID) -> Iterator[None]:
        """Ask for these IDs alone in connections that begin inside the `with`, in this thread or task: the retry."""
        token = _asked.set(anchors)
        try:
            yield
        finally:
            _asked.reset(token)

    def wrap_socket(  # noqa: PLR0913 - the stdlib's signature
        self,
        sock: socket.socket,
        server_side: bool = False,  # noqa: FBT001, FBT002 - the stdlib's signature
        do_handshake_on_connect: bool = True,  # noqa: FBT001, FBT002 - the stdlib's signature
        suppress_ragged_eofs: bool = True,  # noqa: FBT001, FBT002 - the stdlib's signature
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,  # noqa: ARG002 - never used, see the class
    ) -> ssl.SSLSocket:
        """Wrap a socket as every context does."""
        return super().wrap_socket(
            sock, server_side, do_handshake_on_connect, suppress_ragged_eofs, server_hostname, None
        )

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002 - the stdlib's signature
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,  # noqa: ARG002 - never used, see the class
    ) -> ssl.SSLObject:
        """Wrap memory as every context does."""
        return super().wrap_bio(incoming, outgoing, server_side, server_hostname, None)


def client_context(
    trust_store: Snapshots,
    *,
    paths: Sequence[CertificationPath] = (),
    classical: bool = True,
    sends_extension: bool = True,
    clock: Clock | None = None,
) -> ClientContext:
    """Return an `ssl.SSLContext` that verifies Merkle Tree certificates, for urllib, aiohttp, asyncio and the others.

    trust_store: a snapshot, or a call that returns the present one, called once for each handshake; if it raises, the
    handshake fails. paths: what the client proves who it is with, if a server asks; the best one for the server's list
    is sent, or no certificate when none suits. classical: whether other chains are verified as by
    `ssl.create_default_context`, against the system's roots and what is loaded into the context; otherwise they are
    refused. sends_extension: whether servers are told what we trust; without it they send landmark-relative
    certificates to nobody. clock: for tests.

    The context checks host name and validity of every certificate unless `check_hostname` and `verify_mode` are
    changed, which mean what they always mean. Raises UsageError (UNSUPPORTED) where this Python's OpenSSL cannot do it.
    """
    library = load_libssl()
    context = ClientContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class, context.sslobject_class = _Socket, _Object
    context._snapshot = snapshots_of(trust_store)  # noqa: SLF001 - we make it
    context._paths = tuple(paths)  # noqa: SLF001 - we make it
    context._contexts = tuple(load_path(library, path, _SENDER, _RECEIVER) for path in paths)  # noqa: SLF001 - we make it
    context._allows_classical = classical  # noqa: SLF001 - we make it
    context._sends_extension = sends_extension  # noqa: SLF001 - we make it
    context._clock = clock or SystemClock()  # noqa: SLF001 - we make it
    if classical:
        context.load_default_certs()
    library.disable_sessions(context)
    library.register_extension(context, _SENDER, _RECEIVER)
    library.set_verifier(context, _VERIFIER)
    if context._contexts:  # noqa: SLF001 - we made it
        library.set_chooser(context, _CHOOSER)
    return context


def client_report(source: ssl.SSLSocket | ssl.SSLObject | BaseException) -> ClientReport | None:
    """Return what happened in a handshake, or None when it was not made by a `ClientContext`.

    source: the connection (in asyncio `get_extra_info("ssl_object")`), or the exception with which connecting failed,
    also when a library has wrapped it.
    """
    if not isinstance(source, BaseException):
        state = getattr(source, "mtc_state", None)
        return state.report() if isinstance(state, _State) else None
    return find_report(source, ClientReport)


class _State:
    """What is known of one connection. Owned by the `_Socket` or `_Object`, and by nobody else."""

    def __init__(self, context: ClientContext) -> None:
        """Take the snapshot that holds for this connection."""
        self.context = context
        self.now: datetime = context._clock.now()  # noqa: SLF001 - the same file's class
        self.store = context._snapshot()  # noqa: SLF001 - the same file's class
        self.asked = _asked.get()
        self.requested: TrustAnchorsExtension | None = None
        self.available: TrustAnchorsExtension | None = None
        self.is_acknowledged = False
        self.verified: Verified | None = None
        self.is_judged = False
        self.wanted: TrustAnchorsExtension | None = None
        self.sent: Selection | None = None
        self.failure: BaseException | None = None
        self.bodies: list[Body] = []

    def extension(self) -> bytes | None:
        """Return the body of the extension in ClientHello, None when it is not sent."""
        if not self.context._sends_extension:  # noqa: SLF001 - the same file's class
            return None
        if self.asked is None:
            self.requested = requested_anchors(self.store, self.now)
        else:
            self.requested = TrustAnchorsExtension(self.asked)
        return self.requested.encode()

    def take(self, place: int, data: bytes) -> None:
        """Take the server's extension. Raises FormatError."""
        if place & IN_ENCRYPTED_EXTENSIONS:
            self.available = TrustAnchorsExtension.parse_available(data)
        elif place & IN_CERTIFICATE:
            check_acknowledgement(data)
            self.is_acknowledged = True
        else:
            self.wanted = TrustAnchorsExtension.parse_request(data)

    def choose(self, library: LibSSL, connection: int) -> ssl.SSLContext | None:
        """Select our own path for a server that asks, and return the context that holds it, None for no certificate."""
        schemes, is_tls13 = library.signature_schemes(connection), library.protocol(connection) == TLS_13
        with contextlib.suppress(Rejected):
            offer = Offer(None, self.wanted, schemes, is_tls13)
            self.sent = select_path(self.context._paths, offer, self.now)  # noqa: SLF001 - the same file's class
            return self.context._contexts[self.sent.index]  # noqa: SLF001 - the same file's class
        return None

    def judge(self, library: LibSSL, store: int, name: str | None) -> bool:
        """Judge the server's certificates; OpenSSL's verdict is set, and ours is kept."""
        der = library.end_entity(store)
        try:
            self.verified = verify_certificate(der, self.store, self.context._clock.now(), name=name)  # noqa: SLF001 - the same file's class
        except Error:
            # What kind it is, is asked only of what did not verify: our own kind goes the short way.
            if is_merkle_tree_certificate(der):
                raise
        else:
            library.accept(store)
            self.is_judged = True
            return True
        if not self.context._allows_classical:  # noqa: SLF001 - the same file's class
            raise Rejected(
                Reason.NOT_MTC,
                "the server sent a classical certificate, and this client accepts none (classical=False)",
            )
        self.is_judged = library.verify_classically(store)
        return self.is_judged

    def report(self) -> ClientReport:
        """Return what is known."""
        retry = None
        if self.failure is not None or not self.is_judged:
            retry = plan_retry(self.store, self.now, self.available, is_retry=self.asked is not None)
        return ClientReport(
            self.requested, self.available, self.is_acknowledged, self.verified, self.sent, self.failure, retry
        )


def _state_of(owner: object) -> _State:
    """Return the state of a connection, made when the handshake begins. Raises when it is no connection of ours."""
    if not isinstance(owner, _Socket | _Object):
        raise TypeError("a connection without its Python object")
    if owner.mtc_state is None:
        context = owner.context
        if not isinstance(context, ClientContext):
            raise TypeError("a connection with another context")
        owner.mtc_state = _State(context)
    return owner.mtc_state


def _send(connection: int, place: int, index: int) -> Body | None:
    """Make the extension of the ClientHello, or the acknowledgement beside our own certificate."""
    state = _state_of(load_libssl().owner_of(connection))
    body = None
    if place & IN_CLIENT_HELLO:
        body = state.extension()
    elif index == 0 and state.sent is not None and state.sent.match.is_acknowledged:
        body = b""
    if body is None:
        return None
    state.bodies.append(Body(body))
    return state.bodies[-1]


def _receive(connection: int, place: int, index: int, data: bytes) -> None:
    """Read the server's extension. Behind the first certificate it means nothing, and is not looked at."""
    if index == 0:
        _state_of(load_libssl().owner_of(connection)).take(place, data)


def _verify(store: int, _argument: int | None) -> int:
    """Judge the server's certificates: 1 only when it has been verified, here or by OpenSSL."""
    connection = 0
    try:
        library = load_libssl()
        connection = library.connection_of(store)
        owner = library.owner_of(connection)
        state = _state_of(owner)
        name = _reference_name(owner) if state.context.check_hostname else None
        return 1 if state.judge(library, store, name) else 0
    except BaseException as error:  # noqa: BLE001 - nothing may be raised through C
        _keep(connection, error)
        load_libssl().refuse(store, error)
        return 0


def _choose(connection: int, _argument: int | None) -> int:
    """Choose our own path when a server asks for one."""
    try:
        library = load_libssl()
        context = _state_of(library.owner_of(connection)).choose(library, connection)
        if context is not None:
            library.switch_context(connection, context)
    except BaseException as error:  # noqa: BLE001 - nothing may be raised through C
        _keep(connection, error)
        return 0
    return 1


def _reference_name(owner: object) -> str:
    """Return the name that the caller asked for. Without one, a context that checks names makes no connection."""
    name = getattr(owner, "server_hostname", None)
    if not name:
        raise Rejected(Reason.NAME_MISMATCH, "there is no host name to check the certificate against")
    return str(name)


def _keep(connection: int, error: BaseException) -> None:
    """Keep what a callback met for the caller of `do_handshake`."""
    owner = load_libssl().owner_of(connection) if connection else None
    if isinstance(owner, _Socket | _Object):
        owner.mtc_failure = without_way(error)
        if owner.mtc_state is not None:
            owner.mtc_state.failure = owner.mtc_failure


# Made once: C may call them as long as a connection lives.
_SENDER = keep_forever(make_sender(_send, _keep))
_RECEIVER = keep_forever(make_receiver(_receive, _keep))
_VERIFIER = keep_forever(VERIFY(_verify))
_CHOOSER = keep_forever(CHOOSE(_choose))


def _explain(owner: "_Socket | _Object", error: ssl.SSLError) -> None:
    """Give the exception of a failed handshake what is known: our reason in words, and the report."""
    if owner.mtc_state is not None:
        error.mtc_report = owner.mtc_state.report()  # type: ignore[attr-defined]  # read by find_report
    explain(error, owner.mtc_failure, "certificate verify failed")


def _insist(owner: "_Socket | _Object") -> None:
    """Refuse a connection whose certificate nobody judged in this very handshake, whatever OpenSSL says."""
    if owner.context.verify_mode is ssl.CERT_NONE:
        return
    state = owner.mtc_state
    if state is None or not state.is_judged or owner.session_reused:
        raise ssl.SSLCertVerificationError(1, "[MTC] the server's certificate was not verified in this handshake")


class _Socket(ssl.SSLSocket):
    """The stdlib's socket, with what is known of the connection."""

    mtc_state: _State | None = None
    mtc_failure: BaseException | None = None

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - the stdlib's signature
        """Perform the handshake; a failure says why."""
        try:
            super().do_handshake(block)
        except ssl.SSLError as error:
            _explain(self, error)
            raise
        _insist(self)

    def getpeercert(self, binary_form: bool = False) -> Any:  # noqa: ANN401, FBT001, FBT002 - the stdlib's signature
        """Return the server's certificate; one of ours is described without OpenSSL, which may not be able to."""
        verified = None if self.mtc_state is None or binary_form else self.mtc_state.verified
        return super().getpeercert(binary_form) if verified is None else describe_peer(verified)

    @property
    def session(self) -> Any:  # noqa: ANN401 - the stdlib's type
        """Sessions are not resumed, so there is none to be kept."""
        return None

    @session.setter
    def session(self, value: Any) -> None:  # noqa: ANN401 - the stdlib's type
        """Do not resume it."""


class _Object(ssl.SSLObject):
    """The stdlib's connection in memory, with what is known of it."""

    mtc_state: _State | None = None
    mtc_failure: BaseException | None = None

    def do_handshake(self) -> None:
        """Perform the handshake as far as bytes are there; a failure says why."""
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            _explain(self, error)
            raise
        _insist(self)

    def getpeercert(self, binary_form: bool = False) -> Any:  # noqa: ANN401, FBT001, FBT002 - the stdlib's signature
        """Return the server's certificate; one of ours is described without OpenSSL, which may not be able to."""
        verified = None if self.mtc_state is None or binary_form else self.mtc_state.verified
        return super().getpeercert(binary_form) if verified is None else describe_peer(verified)

    @property
    def session(self) -> Any:  # noqa: ANN401 - the stdlib's type
        """Sessions are not resumed, so there is none to be kept."""
        return None

    @session.setter
    def session(self, value: Any) -> None:  # noqa: ANN401 - the stdlib's type
        """Do not resume it."""
