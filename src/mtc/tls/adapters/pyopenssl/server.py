"""The server's side on pyOpenSSL: reads the ClientHello first, then makes the connection with the path that it chose.

OpenSSL cannot be made to answer `trust_anchors` in TLS 1.3 by what `cryptography` shows of it. So this server selects
as every other, but lists nothing in EncryptedExtensions, acknowledges nothing in its Certificate message, and names no
trust anchors in CertificateRequest. Its reports say so.

Spec: TLS Trust Anchor Identifiers, "Certificate Selection"; RFC 8446, "Client Hello" and "Alert Protocol".
"""

import contextlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from OpenSSL import SSL

from mtc.errors import FormatError, Reason, Rejected
from mtc.tls.adapters.clients import Snapshots, snapshots_of
from mtc.tls.adapters.pyopenssl.binding import load_binding
from mtc.tls.adapters.pyopenssl.contexts import EngineContext, EngineObject, EngineSocket, check_stdlib
from mtc.tls.adapters.pyopenssl.describe import describe_classical
from mtc.tls.adapters.pyopenssl.engine import Engine
from mtc.tls.adapters.pyopenssl.messages import Kind, parse_certificate
from mtc.tls.adapters.pyopenssl.settings import Settings
from mtc.tls.adapters.servers import ServedPaths, ServerChoices, ServerHandshake, ServerReport
from mtc.tls.adapters.stdlib.failures import explain
from mtc.tls.adapters.stdlib.peer import describe_peer
from mtc.tls.adapters.stdlib.server import ServerContext
from mtc.tls.extension import check_acknowledgement
from mtc.tls.hello import TLS_13, find_client_hello, parse_client_hello
from mtc.tls.paths import CertificationPath
from mtc.web import Clock, SystemClock

MAX_RECORDS = 64
"""Most records that a ClientHello may span: one of 128 KiB needs eight. Each is looked at anew with the next."""
_HANDSHAKE_FAILURE = 40
_DECODE_ERROR = 50
_INTERNAL_ERROR = 80
_UNRECOGNIZED_NAME = 112


@dataclass(frozen=True, slots=True)
class _Prepared:
    """The paths of a moment and a context of pyOpenSSL for each, for one state of the settings."""

    served: ServedPaths
    settings: Settings
    contexts: tuple[SSL.Context, ...]


class PyOpenSSLServerContext(EngineContext, ServerContext):
    """An `ssl.SSLContext` for servers on pyOpenSSL; made by `server_context`. Whatever takes a context takes it.

    Sessions are not resumed. OpenSSL gives two short tickets all the same, which are worth nothing: what says how many
    there are is out of reach.
    """

    mtc_prepared: _Prepared

    def wrap_socket(self, *arguments: Any, **named: Any) -> ssl.SSLSocket:  # noqa: ANN401 - the stdlib's signature
        """Wrap a socket as every context does."""
        return ssl.SSLContext.wrap_socket(self, *arguments, **named)

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:  # noqa: ANN401 - the stdlib's signature
        """Wrap memory as every context does."""
        return ssl.SSLContext.wrap_bio(self, *arguments, **named)

    @property
    def paths(self) -> tuple[CertificationPath, ...]:
        """What is served now, the fallback last."""
        return self.mtc_prepared.served.paths

    def reload(self, paths: Sequence[CertificationPath], *, fallback: CertificationPath | None = None) -> None:
        """Serve other paths from the next handshake on; connections go on with what they began with.

        Raises UsageError and goes on with the old ones when OpenSSL does not load a path.
        """
        self.mtc_prepared = _prepare(self.mtc_settings(), ServedPaths.check(paths, fallback))

    def mtc_engine(self, owner: ssl.SSLSocket | ssl.SSLObject, server_hostname: str | None) -> Engine:
        """Return the inner object of a new connection."""
        return _ServerEngine(self, owner, server_hostname)

    def mtc_prepare(self) -> _Prepared:
        """Return the paths and contexts of pyOpenSSL with the present settings."""
        settings, prepared = self.mtc_settings(), self.mtc_prepared
        if prepared.settings != settings:
            prepared = _prepare(settings, prepared.served)
            self.mtc_prepared = prepared
        return prepared


def server_context(
    paths: Sequence[CertificationPath],
    *,
    fallback: CertificationPath | None = None,
    clients: Snapshots | None = None,
    clock: Clock | None = None,
) -> PyOpenSSLServerContext:
    """Return an `ssl.SSLContext` on pyOpenSSL that sends each client the best certification path that it can verify.

    The arguments mean what they mean to `mtc.tls.server_context`. Raises UsageError.
    """
    load_binding()
    check_stdlib()
    served = ServedPaths.check(paths, fallback)
    context = PyOpenSSLServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.sslsocket_class, context.sslobject_class = _Socket, _Object
    context.mtc_choices = ServerChoices(
        clock or SystemClock(), None if clients is None else snapshots_of(clients), resumption=False
    )
    if all(path.is_mtc for path in served.paths):
        context.minimum_version = ssl.TLSVersion.TLSv1_3
    if clients is not None:
        context.verify_mode = ssl.CERT_REQUIRED
    context.mtc_prepared = _prepare(context.mtc_settings(), served)
    return context


def server_report(connection: ssl.SSLSocket | ssl.SSLObject) -> ServerReport | None:
    """Return what happened in a handshake, or None when it was not made by a context of this back end."""
    engine = getattr(connection, "mtc_engine", None)
    return engine.report() if isinstance(engine, _ServerEngine) else None


def _prepare(settings: Settings, served: ServedPaths) -> _Prepared:
    """Load all paths. Raises UsageError."""
    contexts = []
    for path in served.paths:
        context = settings.make(is_server=True)
        if path.is_mtc:
            context.set_min_proto_version(TLS_13)
        load_binding().use_path(context, path.certificates, path.private_key)
        contexts.append(context)
    return _Prepared(served, settings, tuple(contexts))


class _ServerEngine(Engine):
    """The inner object of a server's connection."""

    _handshake: ServerHandshake | None = None
    _prepared: _Prepared
    _received = b""
    _records = 0

    def begin(self) -> None:
        """Read the ClientHello, choose the path, and make the connection that sends it."""
        context: PyOpenSSLServerContext = self.context
        try:
            if self._handshake is None:
                self._prepared = context.mtc_prepare()
                self._handshake = ServerHandshake(context.mtc_choices, self._prepared.served)
            index = self._choose(self._handshake, self._read_hello())
            connection = SSL.Connection(self._prepared.contexts[index], None)
            connection.set_accept_state()
        except OSError:
            raise
        except BaseException as error:  # noqa: BLE001 - it is raised as what ended the handshake
            self.keep(error)
            with contextlib.suppress(OSError):
                self.transport.send(_alert(error))
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, "handshake refused") from None
        self.connection = connection
        self.hand_over(connection, self._received)
        self._received = b""

    def _read_hello(self) -> bytes:
        """Return the body of the ClientHello. Raises FormatError, or `ssl.SSLWantReadError` while it is not whole."""
        while (body := find_client_hello(self._received)) is None:
            if self._records == MAX_RECORDS:
                raise FormatError(Reason.TOO_LARGE, f"the ClientHello spans more than {MAX_RECORDS} records")
            self._received += self.next_record()
            self._records += 1
        return body

    def _choose(self, handshake: ServerHandshake, body: bytes) -> int:
        """Choose the path. Raises FormatError, Rejected."""
        hello = parse_client_hello(body)
        handshake.requested = hello.trust_anchors
        return handshake.choose(
            hello.server_name,
            frozenset(hello.signature_algorithms) or None,
            is_tls13=hello.offers_tls13 and self._prepared.settings.allows_tls13,
        ).index

    def extension(self) -> bytes | None:
        """Send none: it is the client's."""
        return None

    def hear(self, message: bytes) -> None:
        """Look at an acknowledgement beside the client's certificate."""
        if self.is_done or message[0] != Kind.CERTIFICATE or self.connection is None:
            return
        if self.connection.get_protocol_version() == TLS_13:
            found = parse_certificate(message)
            if found is not None:
                check_acknowledgement(found)

    def judge(self, der: bytes) -> bool:
        """Judge the client's certificate."""
        self._known().judge(der)
        return True

    def choose(self) -> None:
        """Nothing is left to choose."""

    def check(self) -> None:
        """Refuse a client that must have a certificate and whose certificate nobody judged, whatever OpenSSL says."""
        if self.context.verify_mode is ssl.CERT_REQUIRED and self._known().client is None:
            raise ssl.SSLCertVerificationError(1, "[MTC] the client's certificate was not verified in this handshake")

    def certificate(self, der: bytes) -> dict[str, object]:
        """Describe the client's certificate."""
        client = self._known().client
        return describe_classical(der) if client is None else describe_peer(client)

    def explain(self, error: ssl.SSLError) -> None:
        """Give the exception of a failed handshake our reason in words."""
        if self._handshake is not None and self._handshake.failure is None:
            self._handshake.failure = self.failure
        explain(error, self.failure, "handshake refused")

    def first_finished(self, connection: SSL.Connection) -> bytes | None:
        """Return the client's Finished message."""
        return connection.get_peer_finished()

    def report(self) -> ServerReport | None:
        """Return what is known, None before the handshake began."""
        return None if self._handshake is None else self._handshake.report()

    def _known(self) -> ServerHandshake:
        """Return what is known of the handshake, which has begun."""
        assert self._handshake is not None
        return self._handshake


def _alert(error: BaseException) -> bytes:
    """Return the record that tells the client why there is no handshake."""
    code = _INTERNAL_ERROR
    if isinstance(error, FormatError):
        code = _DECODE_ERROR
    elif isinstance(error, Rejected):
        code = _UNRECOGNIZED_NAME if error.reason is Reason.NAME_MISMATCH else _HANDSHAKE_FAILURE
    return bytes([21, 3, 3, 0, 2, 2, code])


class _Socket(EngineSocket):
    """A server's socket."""


class _Object(EngineObject):
    """A server's connection in memory."""
