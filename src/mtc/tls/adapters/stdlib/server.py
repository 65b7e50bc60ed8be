"""The server's side on the stdlib's `ssl`: one inner context for each certification path, chosen per ClientHello.

In OpenSSL's order: the client's list is read (`_receive`), the path is chosen (`_choose`) and the connection goes on
with the inner context that holds it, then our list and the acknowledgement are sent (`_send`).

Spec: TLS Trust Anchor Identifiers, "Certificate Selection"; RFC 8446, "Certificate".
"""

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from mtc.errors import Reason, Rejected, UsageError
from mtc.tls.adapters.stdlib.callbacks import CHOOSE, VERIFY, Body, keep_forever, make_receiver, make_sender
from mtc.tls.adapters.stdlib.failures import explain, without_way
from mtc.tls.adapters.stdlib.inner import Snapshots, load_path, snapshots_of
from mtc.tls.adapters.stdlib.libssl import (
    IN_CERTIFICATE,
    IN_CERTIFICATE_REQUEST,
    IN_CLIENT_HELLO,
    IN_ENCRYPTED_EXTENSIONS,
    LibSSL,
    load_libssl,
)
from mtc.tls.adapters.stdlib.peer import describe_peer
from mtc.tls.extension import TrustAnchorsExtension, check_acknowledgement
from mtc.tls.hello import TLS_13
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
from mtc.web import Clock, SystemClock


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
class _Served:
    """The paths of a moment with their inner contexts; replaced as a whole. The fallback, if any, is the last."""

    paths: tuple[CertificationPath, ...]
    contexts: tuple[ssl.SSLContext, ...]
    has_fallback: bool

    def select(self, offer: Offer, now: datetime) -> Selection:
        """Select a path. Raises Rejected when none suits and there is no fallback."""
        try:
            return select_path(self.paths, offer, now)
        except Rejected:
            if not self.has_fallback:
                raise
            return Selection(self.paths[-1], len(self.paths) - 1, Match.FALLBACK)


class ServerContext(ssl.SSLContext):
    """An `ssl.SSLContext` for servers; made by `server_context`. Used like any other by whatever takes one.

    Sessions are not resumed: no tickets are given. Set options, protocols and ciphers on it before it is used.
    """

    _served: _Served
    _clock: Clock
    _clients: Callable[[], TrustStore] | None = None
    _protocols: tuple[str, ...] = ()
    _ciphers: str | None = None

    @property
    def paths(self) -> tuple[CertificationPath, ...]:
        """What is served now, the fallback last."""
        return self._served.paths

    def reload(self, paths: Sequence[CertificationPath], *, fallback: CertificationPath | None = None) -> None:
        """Serve other paths from the next handshake on; connections go on with what they began with.

        Raises UsageError and goes on with the old ones when OpenSSL does not load a path.
        """
        served = _serve(paths, fallback)
        for context in served.contexts:
            if self._protocols:
                context.set_alpn_protocols(self._protocols)
            if self._ciphers is not None:
                context.set_ciphers(self._ciphers)
        self._served = served

    def set_ciphers(self, cipherlist: str, /) -> None:
        """Set the cipher suites, also of the inner contexts: in TLS 1.2 theirs are chosen from."""
        super().set_ciphers(cipherlist)
        self._ciphers = cipherlist
        for context in self._served.contexts:
            context.set_ciphers(cipherlist)

    def set_alpn_protocols(self, alpn_protocols: Any) -> None:  # noqa: ANN401 - the stdlib's type
        """Set the application protocols, also of the inner contexts: in TLS 1.2 they answer."""
        self._protocols = tuple(alpn_protocols)
        super().set_alpn_protocols(self._protocols)
        for context in self._served.contexts:
            context.set_alpn_protocols(self._protocols)


def server_context(
    paths: Sequence[CertificationPath],
    *,
    fallback: CertificationPath | None = None,
    clients: Snapshots | None = None,
    clock: Clock | None = None,
) -> ServerContext:
    """Return an `ssl.SSLContext` that sends each client the best certification path that it can verify.

    paths: for any number of names, in order of preference; see `mtc.tls.selection` for the rules. fallback: a path that
    is sent, unacknowledged, to clients for whom there is no other, whatever name they ask for; best a classical one.
    Without it such a handshake fails. Where no classical path is given only TLS 1.3 is spoken. clients: a trust store,
    or a call that returns the present one: only clients with a Merkle Tree certificate that it verifies are let in, and
    those without any as well when `verify_mode` is set to `ssl.CERT_OPTIONAL`. Who the client is and what it may do is
    for the caller to decide, from `server_report`. clock: for tests.

    Raises UsageError when there is no path, a key does not fit, or this Python's OpenSSL cannot do it (UNSUPPORTED).
    """
    library = load_libssl()
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class, context.sslobject_class = _Socket, _Object
    context._served = _serve(paths, fallback)  # noqa: SLF001 - we make it
    context._clock = clock or SystemClock()  # noqa: SLF001 - we make it
    if all(path.is_mtc for path in context.paths):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    context.num_tickets = 0
    library.disable_sessions(context)
    library.register_extension(context, _SENDER, _RECEIVER)
    library.set_chooser(context, _CHOOSER)
    library.set_verifier(context, _VERIFIER)
    if clients is not None:
        context._clients = snapshots_of(clients)  # noqa: SLF001 - we make it
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def server_report(connection: ssl.SSLSocket | ssl.SSLObject) -> ServerReport | None:
    """Return what happened in a handshake, or None when it was not made by a `ServerContext`.

    In asyncio the connection is `get_extra_info("ssl_object")`.
    """
    state = getattr(connection, "mtc_state", None)
    return state.report() if isinstance(state, _State) else None


def _serve(paths: Sequence[CertificationPath], fallback: CertificationPath | None) -> _Served:
    """Load all paths."""
    everything = (*paths, fallback) if fallback is not None else tuple(paths)
    if not everything:
        raise UsageError(Reason.USAGE, "a TLS server needs at least one certification path")
    if fallback is not None and fallback.needs_negotiation:
        raise UsageError(Reason.USAGE, "a path that needs negotiation, such as a landmark-relative one, is no fallback")
    if all(path.needs_negotiation for path in everything):
        raise UsageError(
            Reason.USAGE, "every path needs negotiation, most clients would get none; add the standalone certificate"
        )
    library = load_libssl()
    contexts = tuple(load_path(library, path, _SENDER, _RECEIVER) for path in everything)
    for context in contexts:
        library.set_verifier(context, _VERIFIER)
    return _Served(everything, contexts, fallback is not None)


class _State:
    """What is known of one connection. Owned by the `_Socket` or `_Object`, and by nobody else."""

    def __init__(self, context: ServerContext) -> None:
        """Take the paths that hold for this connection."""
        self.context = context
        self.served = context._served  # noqa: SLF001 - the same file's class
        self.now: datetime = context._clock.now()  # noqa: SLF001 - the same file's class
        self.server_name: str | None = None
        self.requested: TrustAnchorsExtension | None = None
        self.selection: Selection | None = None
        self.available: TrustAnchorsExtension | None = None
        self.clients = None if context._clients is None else context._clients()  # noqa: SLF001 - the same file's class
        self.client: Verified | None = None
        self.failure: BaseException | None = None
        self.bodies: list[Body] = []

    def extension(self, place: int, index: int) -> bytes | None:
        """Return the body of the extension in one of our messages, None when it is not sent there."""
        if place & IN_CERTIFICATE_REQUEST:
            return None if self.clients is None else requested_anchors(self.clients, self.now).encode()
        if self.requested is None or self.selection is None:
            return None
        if place & IN_ENCRYPTED_EXTENSIONS:
            listed = available_anchors(self.served.paths, parse_server_name(self.server_name), self.now)
            if listed.anchors:
                self.available = listed
                return listed.encode()
        elif place & IN_CERTIFICATE and index == 0 and self.selection.match.is_acknowledged:
            return b""
        return None

    def choose(self, library: LibSSL, connection: int) -> ssl.SSLContext:
        """Select the path, and return the inner context that holds it. Raises Rejected."""
        self.server_name = library.server_name(connection)
        offer = Offer(
            parse_server_name(self.server_name),
            self.requested,
            library.signature_schemes(connection),
            is_tls13=library.protocol(connection) == TLS_13,
        )
        self.selection = self.served.select(offer, self.now)
        return self.served.contexts[self.selection.index]

    def judge(self, library: LibSSL, store: int) -> None:
        """Judge the client's certificate. Raises Error."""
        if self.clients is None:
            raise UsageError(Reason.USAGE, "no clients are trusted; make the context with server_context(…, clients=…)")
        der = library.end_entity(store)
        # The time is read anew: whoever wants to be judged by an earlier one might only take its time.
        now = self.context._clock.now()  # noqa: SLF001 - the same file's class
        self.client = verify_certificate(der, self.clients, now, purpose=Purpose.CLIENT_AUTH)
        library.accept(store)

    def report(self) -> ServerReport:
        """Return what is known."""
        return ServerReport(self.server_name, self.requested, self.selection, self.available, self.client, self.failure)


def _state_of(owner: object) -> _State:
    """Return the state of a connection, made when its ClientHello arrives. Raises when it is no connection of ours."""
    if not isinstance(owner, _Socket | _Object):
        raise TypeError("a connection without its Python object")
    if owner.mtc_state is None:
        context = owner.context
        if not isinstance(context, ServerContext):
            raise TypeError("a connection with another context")
        owner.mtc_state = _State(context)
    return owner.mtc_state


def _receive(connection: int, place: int, index: int, data: bytes) -> None:
    """Read the client's list, or the acknowledgement beside its certificate."""
    state = _state_of(load_libssl().owner_of(connection))
    if place & IN_CLIENT_HELLO:
        state.requested = TrustAnchorsExtension.parse_request(data)
    elif index == 0:
        check_acknowledgement(data)


def _verify(store: int, _argument: int | None) -> int:
    """Judge the client's certificate: 1 only when it has been verified."""
    connection = 0
    try:
        library = load_libssl()
        connection = library.connection_of(store)
        _state_of(library.owner_of(connection)).judge(library, store)
    except BaseException as error:  # noqa: BLE001 - nothing may be raised through C
        _keep(connection, error)
        load_libssl().refuse(store, error)
        return 0
    return 1


def _choose(connection: int, _argument: int | None) -> int:
    """Choose the path, and let the connection go on with its inner context."""
    try:
        library = load_libssl()
        state = _state_of(library.owner_of(connection))
        library.switch_context(connection, state.choose(library, connection))
    except BaseException as error:  # noqa: BLE001 - nothing may be raised through C
        _keep(connection, error)
        return 0
    return 1


def _send(connection: int, place: int, index: int) -> Body | None:
    """Make the extension of EncryptedExtensions or of the first certificate."""
    state = _state_of(load_libssl().owner_of(connection))
    body = state.extension(place, index)
    if body is None:
        return None
    state.bodies.append(Body(body))
    return state.bodies[-1]


def _keep(connection: int, error: BaseException) -> None:
    """Keep what a callback met: in the report, and for the caller of `do_handshake`."""
    owner = load_libssl().owner_of(connection) if connection else None
    if isinstance(owner, _Socket | _Object):
        owner.mtc_failure = without_way(error)
        if owner.mtc_state is not None:
            owner.mtc_state.failure = owner.mtc_failure


# Made once: C may call them as long as a connection lives.
_SENDER = keep_forever(make_sender(_send, _keep))
_RECEIVER = keep_forever(make_receiver(_receive, _keep))
_CHOOSER = keep_forever(CHOOSE(_choose))
_VERIFIER = keep_forever(VERIFY(_verify))


def _insist(owner: "_Socket | _Object") -> None:
    """Refuse a client that must have a certificate and whose certificate nobody judged, whatever OpenSSL says."""
    is_known = owner.mtc_state is not None and owner.mtc_state.client is not None
    if owner.context.verify_mode is ssl.CERT_REQUIRED and not is_known:
        raise ssl.SSLCertVerificationError(1, "[MTC] the client's certificate was not verified in this handshake")


class _Socket(ssl.SSLSocket):
    """The stdlib's socket, with what is known of the connection."""

    mtc_state: _State | None = None
    mtc_failure: BaseException | None = None

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - the stdlib's signature
        """Perform the handshake; a failure says why."""
        try:
            super().do_handshake(block)
        except ssl.SSLError as error:
            explain(error, self.mtc_failure, "handshake refused")
            raise
        _insist(self)

    def getpeercert(self, binary_form: bool = False) -> Any:  # noqa: ANN401, FBT001, FBT002 - the stdlib's signature
        """Return the client's certificate, described without OpenSSL, which may not be able to."""
        verified = None if self.mtc_state is None or binary_form else self.mtc_state.client
        return super().getpeercert(binary_form) if verified is None else describe_peer(verified)


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
            explain(error, self.mtc_failure, "handshake refused")
            raise
        _insist(self)

    def getpeercert(self, binary_form: bool = False) -> Any:  # noqa: ANN401, FBT001, FBT002 - the stdlib's signature
        """Return the client's certificate, described without OpenSSL, which may not be able to."""
        verified = None if self.mtc_state is None or binary_form else self.mtc_state.client
        return super().getpeercert(binary_form) if verified is None else describe_peer(verified)
