"""The client's side on the stdlib's `ssl`: asks by `trust_anchors`, verifies Merkle Tree certificates, fails closed.

What happens in a handshake, in OpenSSL's order: the extension is made from a snapshot of the trust store (`_send`), the
server's list and its acknowledgement are read (`_receive`), the certificates are judged with the same snapshot
(`_verify`). A callback never raises through C: whatever it meets is kept, the handshake fails, and the exception that
the caller sees carries it. Even if Python could not run a callback to its end, `do_handshake` refuses a connection
that nobody judged. Sessions are in `sessions`.

Spec: TLS Trust Anchor Identifiers, "The trust_anchors Extension"; Merkle Tree Certificates, "Relying Parties".
"""

import socket
import ssl
from collections.abc import Sequence
from typing import Any

from mtc.tls.adapters.clients import ClientChoices, ClientHandshake, ClientReport, Snapshots, asking, snapshots_of
from mtc.tls.adapters.hints import RetryHints
from mtc.tls.adapters.stdlib.callbacks import CHOOSE, VERIFY, Body, keep_forever, make_receiver, make_sender
from mtc.tls.adapters.stdlib.connections import Connection, State, guard, keep, running
from mtc.tls.adapters.stdlib.failures import explain, find_report
from mtc.tls.adapters.stdlib.inner import load_path
from mtc.tls.adapters.stdlib.libssl import (
    IN_CERTIFICATE,
    IN_CLIENT_HELLO,
    IN_ENCRYPTED_EXTENSIONS,
    load_libssl,
)
from mtc.tls.adapters.stdlib.sessions import Resumable, unverified, wanting
from mtc.tls.hello import TLS_13
from mtc.tls.paths import CertificationPath
from mtc.trust import Verified
from mtc.web import Clock, SystemClock


class ClientContext(ssl.SSLContext):
    """An `ssl.SSLContext` for clients; made by `client_context`. Used like any other by whatever takes one.

    A `session` is what `session` of a connection with this context returned; it is offered where it fits, and anything
    else is not used: then the handshake is a full one.
    """

    mtc_choices: ClientChoices
    mtc_contexts: tuple[ssl.SSLContext, ...]
    asking = staticmethod(asking)

    def wrap_socket(  # noqa: PLR0913 - the stdlib's signature
        self,
        sock: socket.socket,
        server_side: bool = False,  # noqa: FBT001, FBT002 - the stdlib's signature
        do_handshake_on_connect: bool = True,  # noqa: FBT001, FBT002 - the stdlib's signature
        suppress_ragged_eofs: bool = True,  # noqa: FBT001, FBT002 - the stdlib's signature
        server_hostname: str | bytes | None = None,
        session: Any = None,  # noqa: ANN401 - `Session`, but anything may be handed in
    ) -> ssl.SSLSocket:
        """Wrap a socket as every context does."""
        with wanting(self, session):
            return super().wrap_socket(
                sock, server_side, do_handshake_on_connect, suppress_ragged_eofs, server_hostname
            )

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002 - the stdlib's signature
        server_hostname: str | bytes | None = None,
        session: Any = None,  # noqa: ANN401 - `Session`, but anything may be handed in
    ) -> ssl.SSLObject:
        """Wrap memory as every context does."""
        with wanting(self, session):
            return super().wrap_bio(incoming, outgoing, server_side, server_hostname)


def client_context(  # noqa: PLR0913 - keywords, each of its own
    trust_store: Snapshots,
    *,
    paths: Sequence[CertificationPath] = (),
    classical: bool = True,
    sends_extension: bool = True,
    resumption: bool | None = None,
    remembers_retries: bool = True,
    clock: Clock | None = None,
) -> ClientContext:
    """Return an `ssl.SSLContext` on the stdlib's OpenSSL that verifies Merkle Tree certificates.

    The arguments mean what they mean to `mtc.tls.client_context`. Raises UsageError (UNSUPPORTED) where this Python's
    OpenSSL cannot do it.
    """
    library = load_libssl()
    context = ClientContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class, context.sslobject_class = _Socket, _Object
    context.mtc_choices = ClientChoices(
        snapshots_of(trust_store),
        classical,
        sends_extension,
        clock or SystemClock(),
        tuple(paths),
        resumption,
        RetryHints() if remembers_retries else None,
    )
    context.mtc_contexts = tuple(load_path(library, path, _SENDER, _RECEIVER) for path in paths)
    if classical:
        context.load_default_certs()
    library.disable_sessions(context)
    library.register_extension(context, _SENDER, _RECEIVER)
    library.set_verifier(context, _VERIFIER)
    if context.mtc_contexts:
        library.set_chooser(context, _CHOOSER)
    return context


def client_report(source: ssl.SSLSocket | ssl.SSLObject | BaseException) -> ClientReport | None:
    """Return what happened in a handshake, or None when it was not made by a `ClientContext`.

    source: the connection (in asyncio `get_extra_info("ssl_object")`), or the exception with which connecting failed,
    also when a library has wrapped it.
    """
    if not isinstance(source, BaseException):
        return _report(source) if isinstance(source, _ClientConnection) else None
    return find_report(source, ClientReport)


def _state_of(owner: Any) -> State[ClientHandshake]:  # noqa: ANN401 - whatever C points to
    """Return the state of a connection, made when the handshake begins. Raises when it is no connection of ours."""
    if not isinstance(owner, _KINDS):
        raise TypeError("a connection without its Python object")
    if owner.mtc_state is None:
        context = owner.context
        if not isinstance(context, ClientContext):
            raise TypeError("a connection with another context")
        checks_name = context.check_hostname
        owner.mtc_state = State(ClientHandshake(context.mtc_choices, owner.server_hostname, checks_name=checks_name))
    return owner.mtc_state


def _report(owner: "_ClientConnection") -> ClientReport | None:
    """Return what is known of a connection, None before its handshake began."""
    return None if owner.mtc_state is None else owner.mtc_state.handshake.report()


def _send(connection: int, place: int, index: int) -> Body | None:
    """Make the extension of the ClientHello, or the acknowledgement beside our own certificate."""
    state = _state_of(load_libssl().owner_of(connection))
    state.address = connection
    if place & IN_CLIENT_HELLO:
        return state.hold(state.handshake.extension())
    return state.hold(b"" if index == 0 and state.handshake.sends_acknowledgement else None)


def _receive(connection: int, place: int, index: int, data: bytes) -> None:
    """Read the server's extension. Behind the first certificate it means nothing, and is not looked at."""
    if index:
        return
    handshake = _state_of(load_libssl().owner_of(connection)).handshake
    if place & IN_ENCRYPTED_EXTENSIONS:
        handshake.list_available(data)
    elif place & IN_CERTIFICATE:
        handshake.acknowledge(data)
    else:
        handshake.ask(data)


def _verify(store: int, _argument: int | None) -> int:
    """Judge the server's certificates: 1 only when it has been verified, here or by OpenSSL."""
    connection = 0
    try:
        library = load_libssl()
        connection = library.connection_of(store)
        # As a rule it is the one whose `do_handshake` runs in this thread, and nothing need be looked up.
        state = running.connection.mtc_state if running.connection is not None else None
        if state is None or not connection or state.address != connection:
            state = _state_of(library.owner_of(connection))
        handshake = state.handshake
        # When it is verified, the verdict that OpenSSL begins with stands: that all is well.
        if not handshake.judge(library.encode_certificate(library.end_entity(store))):
            handshake.is_judged = library.verify_classically(store)
    except BaseException as error:  # noqa: BLE001 - nothing may be raised through C
        keep(connection, error)
        load_libssl().refuse(store, error)
        return 0
    return 1 if handshake.is_judged else 0


def _choose(connection: int, _argument: int | None) -> int:
    """Choose our own path when a server asks for one."""
    return guard(_switch, connection)


def _switch(connection: int) -> bool:
    """Let the connection go on with the inner context that holds the chosen path; without one it sends none."""
    library = load_libssl()
    owner: Any = library.owner_of(connection)
    is_tls13 = library.protocol(connection) == TLS_13
    index = _state_of(owner).handshake.choose(library.signature_schemes(connection), is_tls13=is_tls13)
    if index is not None:
        library.switch_context(connection, owner.context.mtc_contexts[index])
    return True


# Made once: C may call them as long as a connection lives.
_SENDER = keep_forever(make_sender(_send, keep))
_RECEIVER = keep_forever(make_receiver(_receive, keep))
_VERIFIER = keep_forever(VERIFY(_verify))
_CHOOSER = keep_forever(CHOOSE(_choose))


class _ClientConnection(Resumable, Connection):
    """A client's connection with what is known of it."""

    mtc_state: State[ClientHandshake] | None = None

    def mtc_begin(self) -> ClientHandshake:
        """Return the handshake, which begins now at the latest."""
        return _state_of(self).handshake

    def mtc_check(self) -> None:
        """Refuse a connection whose server nobody judged for this very handshake, whatever OpenSSL says."""
        if self.context.verify_mode is not ssl.CERT_NONE:
            if self.session_reused:
                self.mtc_resume()
            elif self.mtc_state is None or not self.mtc_state.handshake.is_judged:
                raise unverified()
        if self.mtc_state is not None:
            self.mtc_state.handshake.succeed()

    def mtc_peer(self) -> Verified | None:
        """Return the server's Merkle Tree certificate."""
        return None if self.mtc_state is None else self.mtc_state.handshake.verified

    def mtc_explain(self, error: ssl.SSLError) -> None:
        """Give the exception of a failed handshake what is known: our reason in words, and the report."""
        if self.mtc_state is not None:
            self.mtc_state.handshake.fail()
        error.mtc_report = _report(self)  # type: ignore[attr-defined]  # read by find_report
        is_about_certificate = isinstance(error, ssl.SSLCertVerificationError)
        explain(error, self.mtc_failure, "certificate verify failed" if is_about_certificate else "handshake refused")


class _Socket(_ClientConnection, ssl.SSLSocket):
    """The stdlib's socket, with what is known of the connection."""


class _Object(_ClientConnection, ssl.SSLObject):
    """The stdlib's connection in memory, with what is known of it."""


_KINDS = (_Socket, _Object)
