"""The client's side on pyOpenSSL: asks by `trust_anchors`, verifies Merkle Tree certificates, fails closed.

A connection begins with a context that sends the extension. Up to the ServerHello it is given the peer's bytes record
by record; then, if the server speaks TLS 1.3, it goes on with a context that has never heard of the extension, and what
the server says of it is read from the messages (`hear`). A HelloRetryRequest comes before that, so the extension stands
in the second ClientHello as well.

Spec: TLS Trust Anchor Identifiers, "The trust_anchors Extension"; Merkle Tree Certificates, "Relying Parties".
"""

import ipaddress
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from OpenSSL import SSL

from mtc.errors import Error, FormatError, Reason
from mtc.tls.adapters.clients import ClientChoices, ClientHandshake, ClientReport, Snapshots, snapshots_of
from mtc.tls.adapters.hints import RetryHints
from mtc.tls.adapters.pyopenssl.binding import load_binding
from mtc.tls.adapters.pyopenssl.contexts import EngineContext, EngineObject, EngineSocket, check_stdlib
from mtc.tls.adapters.pyopenssl.describe import describe_classical
from mtc.tls.adapters.pyopenssl.engine import Engine
from mtc.tls.adapters.pyopenssl.messages import (
    Kind,
    is_final_server_hello,
    parse_certificate,
    parse_certificate_request,
    parse_encrypted_extensions,
)
from mtc.tls.adapters.pyopenssl.settings import Roots, Settings
from mtc.tls.adapters.stdlib.client import ClientContext
from mtc.tls.adapters.stdlib.failures import explain, without_way
from mtc.tls.adapters.stdlib.peer import describe_peer
from mtc.tls.hello import TLS_13
from mtc.tls.paths import CertificationPath
from mtc.web import Clock, SystemClock

_NEVER_CHECK_SUBJECT = 0x20
_NO_PARTIAL_WILDCARDS = 0x4


@dataclass(frozen=True, slots=True)
class _Prepared:
    """Contexts of pyOpenSSL for one state of the settings. asks: the one that sends the extension."""

    settings: Settings
    asks: SSL.Context
    quiet: SSL.Context
    paths: tuple[SSL.Context, ...]


class PyOpenSSLClientContext(EngineContext, ClientContext):
    """An `ssl.SSLContext` for clients on pyOpenSSL; made by `client_context`. Whatever takes a context takes it.

    Sessions are not resumed. Classical certificates are trusted as loaded by the usual methods.
    """

    mtc_roots: Roots
    _prepared: _Prepared | None = None

    def wrap_socket(self, *arguments: Any, **named: Any) -> ssl.SSLSocket:  # noqa: ANN401 - the stdlib's signature
        """Wrap a socket as every context does."""
        return ssl.SSLContext.wrap_socket(self, *arguments, **named)

    def wrap_bio(self, *arguments: Any, **named: Any) -> ssl.SSLObject:  # noqa: ANN401 - the stdlib's signature
        """Wrap memory as every context does."""
        return ssl.SSLContext.wrap_bio(self, *arguments, **named)

    def load_verify_locations(self, cafile: Any = None, capath: Any = None, cadata: Any = None) -> None:  # noqa: ANN401 - the stdlib's types
        """Trust classical certificates from a file, a folder or memory."""
        if cafile is None and capath is None and cadata is None:
            raise TypeError("cafile, capath and cadata cannot be all omitted")
        if cafile is not None or capath is not None:
            self.mtc_roots.load_files(cafile, capath)
        if cadata is not None:
            self.mtc_roots.load_data(cadata)

    def load_default_certs(self, purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH) -> None:  # noqa: ARG002 - of clients
        """Trust the classical certificates that the system trusts."""
        self.mtc_roots.load_default()

    def set_default_verify_paths(self) -> None:
        """Trust the classical certificates that the system trusts."""
        self.mtc_roots.load_default()

    def mtc_engine(self, owner: ssl.SSLSocket | ssl.SSLObject, server_hostname: str | None) -> Engine:
        """Return the inner object of a new connection."""
        # OpenSSL would take a leading dot for every name below.
        if server_hostname is not None and (not server_hostname or server_hostname.startswith(".")):
            raise ValueError("server_hostname cannot be an empty string or start with a leading dot")
        return _ClientEngine(self, owner, server_hostname)

    def mtc_prepare(self) -> _Prepared:
        """Return contexts of pyOpenSSL with the present settings."""
        settings, prepared = self.mtc_settings(), self._prepared
        if prepared is None or prepared.settings != settings:
            prepared = _prepare(settings, self.mtc_roots, self.mtc_choices)
            self._prepared = prepared
        return prepared


def client_context(  # noqa: PLR0913 - keywords, each of its own
    trust_store: Snapshots,
    *,
    paths: Sequence[CertificationPath] = (),
    classical: bool = True,
    sends_extension: bool = True,
    remembers_retries: bool = True,
    clock: Clock | None = None,
) -> PyOpenSSLClientContext:
    """Return an `ssl.SSLContext` on pyOpenSSL that verifies Merkle Tree certificates.

    The arguments mean what they mean to `mtc.tls.client_context`. Raises UsageError (UNSUPPORTED).
    """
    load_binding()
    check_stdlib()
    context = PyOpenSSLClientContext(ssl.PROTOCOL_TLS_CLIENT)
    context.sslsocket_class, context.sslobject_class = _Socket, _Object
    context.mtc_choices = ClientChoices(
        snapshots_of(trust_store),
        classical,
        sends_extension,
        clock or SystemClock(),
        tuple(paths),
        resumption=False,
        hints=RetryHints() if remembers_retries else None,
    )
    context.mtc_roots = Roots()
    if classical:
        context.load_default_certs()
    # Paths that cannot be loaded are refused here, not in the first handshake.
    context.mtc_prepare()
    return context


def client_report(connection: ssl.SSLSocket | ssl.SSLObject) -> ClientReport | None:
    """Return what happened in a handshake, or None when it was not made by a context of this back end."""
    engine = getattr(connection, "mtc_engine", None)
    return engine.report() if isinstance(engine, _ClientEngine) else None


def _prepare(settings: Settings, roots: Roots, choices: ClientChoices) -> _Prepared:
    """Make the contexts. Raises UsageError."""
    binding = load_binding()

    def make() -> SSL.Context:
        context = settings.make(is_server=False)
        binding.share_store(context, roots.store)
        if choices.paths:
            binding.set_chooser(context)
        return context

    quiet = make()
    asks = make() if choices.sends_extension else quiet
    if choices.sends_extension:
        binding.register_extension(asks)
    own = tuple(make() for _ in choices.paths)
    for context, path in zip(own, choices.paths, strict=True):
        binding.use_path(context, path.certificates, path.private_key)
    return _Prepared(settings, asks, quiet, own)


class _ClientEngine(Engine):
    """The inner object of a client's connection."""

    _handshake: ClientHandshake | None = None
    _prepared: _Prepared
    _has_heard_hello = False
    _has_switched = False
    _is_tls13 = False
    _is_classical = False
    _schemes: frozenset[int] | None = None

    def begin(self) -> None:
        """Take the snapshot that holds for this connection, and make it."""
        context: PyOpenSSLClientContext = self.context
        try:
            self._handshake = ClientHandshake(
                context.mtc_choices, self.server_hostname, checks_name=context.check_hostname
            )
            self._prepared = context.mtc_prepare()
            self.connection = self._connect(context)
        except BaseException as error:  # noqa: BLE001 - it is raised as what ended the handshake
            self.keep(error)
            raise ssl.SSLError(ssl.SSL_ERROR_SSL, "handshake refused") from None

    def _connect(self, context: ssl.SSLContext) -> SSL.Connection:
        """Make the connection, with the name that it is for."""
        connection = SSL.Connection(self._prepared.asks, None)
        connection.set_connect_state()
        name: str | bytes | None = self.server_hostname
        if name:
            try:
                name = ipaddress.ip_address(name).packed
            except ValueError:
                connection.set_tlsext_host_name(str(name).encode("ascii"))
        host_flags = _NO_PARTIAL_WILDCARDS
        if not context.hostname_checks_common_name:
            host_flags |= _NEVER_CHECK_SUBJECT
        load_binding().expect_peer(
            connection, int(context.verify_flags), host_flags, name if name and context.check_hostname else None
        )
        return connection

    def advance(self, connection: SSL.Connection) -> None:
        """Hand bytes of the peer to OpenSSL: record by record, so that nothing is read behind the ServerHello yet."""
        if self._has_heard_hello and not self._has_switched:
            self._has_switched = True
            if connection.get_protocol_version() == TLS_13:
                # What the server says of the extension is in the records behind this one.
                connection.set_context(self._prepared.quiet)
        super().advance(connection)

    def extension(self) -> bytes | None:
        """Return the extension of the ClientHello."""
        return self._known().extension() if self._prepared.settings.allows_tls13 else None

    def hear(self, message: bytes) -> None:
        """Take a message of the server."""
        if self.is_done:
            return
        handshake = self._known()
        if message[0] == Kind.SERVER_HELLO:
            self._has_heard_hello = is_final_server_hello(message)
        elif message[0] == Kind.ENCRYPTED_EXTENSIONS:
            self._is_tls13 = True
            listed = self._solicited(parse_encrypted_extensions(message))
            if listed is not None:
                handshake.list_available(listed)
        elif message[0] == Kind.CERTIFICATE and self._is_tls13:
            acknowledgement = self._solicited(parse_certificate(message))
            if acknowledgement is not None:
                handshake.acknowledge(acknowledgement)
        elif message[0] == Kind.CERTIFICATE_REQUEST and self._is_tls13:
            wanted, self._schemes = parse_certificate_request(message)
            if wanted is not None:
                handshake.ask(wanted)

    def _solicited(self, found: bytes | None) -> bytes | None:
        """Return an answer of the server's. Raises FormatError where nothing was asked."""
        if found is not None and self._known().requested is None:
            raise FormatError(Reason.UNKNOWN_CRITICAL_EXTENSION, "the server answers trust_anchors, which was not sent")
        return found

    def judge(self, der: bytes) -> bool:
        """Judge the server's certificate."""
        handshake = self._known()
        try:
            is_ours = handshake.judge(der)
        except Error as error:
            if self.context.verify_mode is not ssl.CERT_NONE:
                raise
            # Nothing hangs on it; the report says what would have been refused.
            handshake.failure = without_way(error)
            return False
        self._is_classical = not is_ours
        return is_ours

    def choose(self) -> None:
        """Choose our own path for a server that asks; without one it goes on with none."""
        index = self._known().choose(self._schemes, is_tls13=self._is_tls13)
        if index is not None and self.connection is not None:
            self.connection.set_context(self._prepared.paths[index])

    def check(self) -> None:
        """Refuse a connection whose certificate nobody judged in this very handshake, whatever OpenSSL says."""
        handshake, connection = self._known(), self.connection
        if self._is_classical and connection is not None:
            handshake.is_judged = load_binding().verify_result(connection) == 0
        if self.context.verify_mode is not ssl.CERT_NONE and not handshake.is_judged:
            raise ssl.SSLCertVerificationError(1, "[MTC] the server's certificate was not verified in this handshake")
        handshake.succeed()

    def certificate(self, der: bytes) -> dict[str, object]:
        """Describe the server's certificate."""
        verified = self._known().verified
        return describe_classical(der) if verified is None else describe_peer(verified)

    def explain(self, error: ssl.SSLError) -> None:
        """Give the exception of a failed handshake what is known: our reason in words, and the report."""
        handshake = self._handshake
        if handshake is not None:
            if handshake.failure is None and self.failure is not None:
                handshake.failure = self.failure
            handshake.fail()
            error.mtc_report = handshake.report()  # type: ignore[attr-defined]  # read by find_report
        is_about_certificate = isinstance(error, ssl.SSLCertVerificationError)
        explain(error, self.failure, "certificate verify failed" if is_about_certificate else "handshake refused")

    def first_finished(self, connection: SSL.Connection) -> bytes | None:
        """Return our Finished message."""
        return connection.get_finished()

    def report(self) -> ClientReport | None:
        """Return what is known, None before the handshake began."""
        return None if self._handshake is None else self._handshake.report()

    def _known(self) -> ClientHandshake:
        """Return what is known of the handshake, which has begun."""
        assert self._handshake is not None
        return self._handshake


class _Socket(EngineSocket):
    """A client's socket."""


class _Object(EngineObject):
    """A client's connection in memory."""
