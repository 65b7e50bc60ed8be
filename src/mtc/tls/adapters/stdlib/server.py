"""The server's side on the stdlib's `ssl`: one inner context for each certification path, chosen per ClientHello.

In OpenSSL's order: a ticket is judged (`_take_ticket`), the client's list is read (`_receive`), the path is chosen
(`_choose`) and the connection goes on with the inner context that holds it, then our list and the acknowledgement are
sent (`_send`), and in the end a ticket (`_give_ticket`). In a resumed handshake nothing is chosen.

Spec: TLS Trust Anchor Identifiers, "Certificate Selection"; RFC 8446, "Certificate".
"""

import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mtc.tls.adapters.clients import Snapshots, snapshots_of
from mtc.tls.adapters.servers import ServedPaths, ServerChoices, ServerHandshake, ServerReport
from mtc.tls.adapters.stdlib.callbacks import (
    CHOOSE,
    GIVE_TICKET,
    TAKE_TICKET,
    VERIFY,
    Body,
    keep_forever,
    make_receiver,
    make_sender,
)
from mtc.tls.adapters.stdlib.connections import Connection, State, guard, keep
from mtc.tls.adapters.stdlib.inner import load_path
from mtc.tls.adapters.stdlib.libssl import (
    FAIL_TICKET,
    IN_CERTIFICATE,
    IN_CERTIFICATE_REQUEST,
    IN_CLIENT_HELLO,
    IN_ENCRYPTED_EXTENSIONS,
    REFUSE_TICKET,
    TICKET_OPENED,
    USE_TICKET,
    load_libssl,
)
from mtc.tls.extension import check_acknowledgement
from mtc.tls.hello import TLS_13
from mtc.tls.paths import CertificationPath
from mtc.trust import Verified
from mtc.web import Clock, SystemClock

_SERVER_NAME = 0
_REQUIRED = 2


@dataclass(frozen=True, slots=True)
class _Loaded:
    """The paths of a moment with their inner contexts; replaced as a whole."""

    served: ServedPaths
    contexts: tuple[ssl.SSLContext, ...]


class ServerContext(ssl.SSLContext):
    """An `ssl.SSLContext` for servers; made by `server_context`. Used like any other by whatever takes one.

    Set options, protocols and ciphers on it before it is used.
    """

    mtc_loaded: _Loaded
    mtc_choices: ServerChoices
    _protocols: tuple[str, ...] = ()
    _ciphers: str | None = None

    @property
    def paths(self) -> tuple[CertificationPath, ...]:
        """What is served now, the fallback last."""
        return self.mtc_loaded.served.paths

    def reload(self, paths: Sequence[CertificationPath], *, fallback: CertificationPath | None = None) -> None:
        """Serve other paths from the next handshake on; connections go on with what they began with.

        Raises UsageError and goes on with the old ones when OpenSSL does not load a path.
        """
        loaded = _load(paths, fallback)
        for context in loaded.contexts:
            if self._protocols:
                context.set_alpn_protocols(self._protocols)
            if self._ciphers is not None:
                context.set_ciphers(self._ciphers)
        self.mtc_loaded = loaded

    def set_ciphers(self, cipherlist: str, /) -> None:
        """Set the cipher suites, also of the inner contexts: in TLS 1.2 theirs are chosen from."""
        super().set_ciphers(cipherlist)
        self._ciphers = cipherlist
        for context in self.mtc_loaded.contexts:
            context.set_ciphers(cipherlist)

    def set_alpn_protocols(self, alpn_protocols: Any) -> None:  # noqa: ANN401 - the stdlib's type
        """Set the application protocols, also of the inner contexts: in TLS 1.2 they answer."""
        self._protocols = tuple(alpn_protocols)
        super().set_alpn_protocols(self._protocols)
        for context in self.mtc_loaded.contexts:
            context.set_alpn_protocols(self._protocols)


def server_context(
    paths: Sequence[CertificationPath],
    *,
    fallback: CertificationPath | None = None,
    clients: Snapshots | None = None,
    resumption: bool | None = None,
    clock: Clock | None = None,
) -> ServerContext:
    """Return an `ssl.SSLContext` on the stdlib's OpenSSL that sends each client the best path that it can verify.

    The arguments mean what they mean to `mtc.tls.server_context`. Raises UsageError when there is no path, a key does
    not fit, or this Python's OpenSSL cannot do it (UNSUPPORTED).
    """
    library = load_libssl()
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class, context.sslobject_class = _Socket, _Object
    context.mtc_loaded = _load(paths, fallback)
    context.mtc_choices = ServerChoices(
        clock or SystemClock(), None if clients is None else snapshots_of(clients), resumption
    )
    if all(path.is_mtc for path in context.paths):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    # One is enough for a client that opens one connection after the other, and costs half of OpenSSL's two.
    context.num_tickets = 1 if context.mtc_choices.allows_resumption(0 if clients is None else _REQUIRED) else 0
    library.disable_sessions(context)
    library.register_extension(context, _SENDER, _RECEIVER)
    library.set_chooser(context, _CHOOSER)
    library.set_verifier(context, _VERIFIER)
    library.set_ticket_callbacks(context, _TICKET_GIVER, _TICKET_TAKER)
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def server_report(connection: ssl.SSLSocket | ssl.SSLObject) -> ServerReport | None:
    """Return what happened in a handshake, or None when it was not made by a `ServerContext`.

    In asyncio the connection is `get_extra_info("ssl_object")`.
    """
    if not isinstance(connection, _ServerConnection) or connection.mtc_state is None:
        return None
    return connection.mtc_state.handshake.report()


def _load(paths: Sequence[CertificationPath], fallback: CertificationPath | None) -> _Loaded:
    """Load all paths. Raises UsageError."""
    served = ServedPaths.check(paths, fallback)
    library = load_libssl()
    contexts = tuple(load_path(library, path, _SENDER, _RECEIVER) for path in served.paths)
    for context in contexts:
        library.set_verifier(context, _VERIFIER)
    return _Loaded(served, contexts)


def _state_of(owner: Any) -> State[ServerHandshake]:  # noqa: ANN401 - whatever C points to
    """Return the state of a connection, made when its ClientHello arrives. Raises when it is no connection of ours."""
    if not isinstance(owner, _KINDS):
        raise TypeError("a connection without its Python object")
    if owner.mtc_state is None:
        context = owner.context
        if not isinstance(context, ServerContext):
            raise TypeError("a connection with another context")
        owner.mtc_loaded = context.mtc_loaded
        owner.mtc_state = State(ServerHandshake(context.mtc_choices, owner.mtc_loaded.served))
    return owner.mtc_state


def _receive(connection: int, place: int, index: int, data: bytes) -> None:
    """Read the client's list, or the acknowledgement beside its certificate."""
    handshake = _state_of(load_libssl().owner_of(connection)).handshake
    if place & IN_CLIENT_HELLO:
        handshake.take(data)
    elif index == 0:
        check_acknowledgement(data)


def _verify(store: int, _argument: int | None) -> int:
    """Judge the client's certificate: 1 only when it has been verified."""
    connection = 0
    try:
        library = load_libssl()
        connection = library.connection_of(store)
        _state_of(library.owner_of(connection)).handshake.judge(library.encode_certificate(library.end_entity(store)))
        library.accept(store)
    except BaseException as error:  # noqa: BLE001 - nothing may be raised through C
        keep(connection, error)
        load_libssl().refuse(store, error)
        return 0
    return 1


def _choose(connection: int, _argument: int | None) -> int:
    """Choose the path."""
    return guard(_switch, connection)


def _switch(connection: int) -> bool:
    """Let the connection go on with the inner context that holds the chosen path."""
    library = load_libssl()
    owner: Any = library.owner_of(connection)
    handshake = _state_of(owner).handshake
    name, schemes = library.server_name(connection), library.signature_schemes(connection)
    is_tls13 = library.protocol(connection) == TLS_13
    if not is_tls13:
        # It would be refused when it comes back.
        library.withhold_tickets(connection)
    selection = handshake.choose(name, schemes, is_tls13=is_tls13)
    library.switch_context(connection, owner.mtc_loaded.contexts[selection.index])
    return True


def _send(connection: int, place: int, index: int) -> Body | None:
    """Make the extension of CertificateRequest, EncryptedExtensions or the first certificate."""
    state = _state_of(load_libssl().owner_of(connection))
    handshake = state.handshake
    if place & IN_CERTIFICATE_REQUEST:
        return state.hold(handshake.certificate_request())
    if place & IN_ENCRYPTED_EXTENSIONS:
        return state.hold(handshake.encrypted_extensions())
    is_acknowledged = place & IN_CERTIFICATE and index == 0 and handshake.sends_acknowledgement
    return state.hold(b"" if is_acknowledged else None)


def _give_ticket(connection: int, _argument: int | None) -> int:
    """Say in a ticket what it stands for. One that says nothing is worth nothing, but the connection is sound."""
    try:
        library = load_libssl()
        owner: Any = library.owner_of(connection)
        made = _state_of(owner).handshake.make_ticket(int(owner.context.verify_mode))
        library.bind_ticket(connection, *(made or (b"", 0)))
    except Exception:  # noqa: BLE001 - nothing may be raised through C
        return 1
    except BaseException as error:  # noqa: BLE001 - Ctrl-C belongs to whoever waits for the connection
        keep(connection, error)
        return 0
    return 1


def _take_ticket(
    connection: int, session: int, _key_name: int, _key_size: int, status: int, _argument: int | None
) -> int:
    """Judge a ticket: whatever is wrong with it, a full handshake follows."""
    try:
        library = load_libssl()
        if status not in TICKET_OPENED or library.protocol(connection) != TLS_13:
            return REFUSE_TICKET
        owner: Any = library.owner_of(connection)
        name, client = library.hello_extension(connection, _SERVER_NAME), library.session_peer(session)
        asked = int(owner.context.verify_mode)
        _state_of(owner).handshake.resume(library.ticket_data(session), name, client, asked)
    except Exception:  # noqa: BLE001 - nothing may be raised through C
        return REFUSE_TICKET
    except BaseException as error:  # noqa: BLE001 - Ctrl-C belongs to whoever waits for the connection
        keep(connection, error)
        return FAIL_TICKET
    return USE_TICKET


# Made once: C may call them as long as a connection lives.
_SENDER = keep_forever(make_sender(_send, keep))
_RECEIVER = keep_forever(make_receiver(_receive, keep))
_CHOOSER = keep_forever(CHOOSE(_choose))
_VERIFIER = keep_forever(VERIFY(_verify))
_TICKET_GIVER = keep_forever(GIVE_TICKET(_give_ticket))
_TICKET_TAKER = keep_forever(TAKE_TICKET(_take_ticket))


class _ServerConnection(Connection):
    """A server's connection with what is known of it."""

    mtc_state: State[ServerHandshake] | None = None
    mtc_loaded: _Loaded

    def mtc_check(self) -> None:
        """Refuse a client that must have a certificate and whose certificate nobody judged, whatever OpenSSL says."""
        if self.context.verify_mode is ssl.CERT_REQUIRED and self.mtc_peer() is None:
            raise ssl.SSLCertVerificationError(1, "[MTC] the client's certificate was not verified in this handshake")
        if self.session_reused and (self.mtc_state is None or self.mtc_state.handshake.resumed is None):
            raise ssl.SSLError(1, "[MTC] the client resumed a session that nobody judged")

    def mtc_peer(self) -> Verified | None:
        """Return the client's certificate."""
        return None if self.mtc_state is None else self.mtc_state.handshake.client


class _Socket(_ServerConnection, ssl.SSLSocket):
    """The stdlib's socket, with what is known of the connection."""


class _Object(_ServerConnection, ssl.SSLObject):
    """The stdlib's connection in memory, with what is known of it."""


_KINDS = (_Socket, _Object)
