"""What the contexts of both sides have in common: they look like `ssl.SSLContext`, and pyOpenSSL does the work.

`SSLSocket` and `SSLObject` of the stdlib ask their context for the inner object of a connection; these contexts give
them an `Engine`. That they ask in this way is no public interface, so it is tried once, before anything relies on it.
What cannot be done is refused when it is asked for, not forgotten.
"""

import contextlib
import socket
import ssl
from abc import abstractmethod
from functools import lru_cache
from typing import Any, NoReturn

from OpenSSL import SSL

from mtc.errors import Reason, UsageError
from mtc.tls.adapters.pyopenssl.engine import Engine
from mtc.tls.adapters.pyopenssl.settings import Settings, options_of, version_bound
from mtc.tls.adapters.pyopenssl.transport import MemoryTransport, SocketTransport

_MODES = {
    ssl.CERT_NONE: SSL.VERIFY_NONE,
    ssl.CERT_OPTIONAL: SSL.VERIFY_PEER,
    ssl.CERT_REQUIRED: SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT,
}


class EngineContext(ssl.SSLContext):
    """An `ssl.SSLContext` whose connections run on pyOpenSSL."""

    _groups: str | None = None
    _schemes: str | None = None
    _protocols: tuple[str, ...] = ()
    _ciphers: str | None = None

    @abstractmethod
    def mtc_engine(self, owner: ssl.SSLSocket | ssl.SSLObject, server_hostname: str | None) -> Engine:
        """Return the inner object of a new connection."""

    def mtc_settings(self) -> Settings:
        """Return what is set on this context now."""
        if self._ciphers is None:
            self._ciphers = _names_of(self)
        return Settings(
            oldest=version_bound(self.minimum_version),
            newest=version_bound(self.maximum_version),
            options=options_of(self.options),
            mode=_MODES[self.verify_mode],
            ciphers=self._ciphers,
            protocols=self._protocols,
            groups=self._groups,
            schemes=self._schemes,
        )

    def set_ciphers(self, cipherlist: str, /) -> None:
        """Set the cipher suites of TLS 1.2."""
        ssl.SSLContext.set_ciphers(self, cipherlist)
        self._ciphers = _names_of(self)

    def set_alpn_protocols(self, alpn_protocols: Any) -> None:  # noqa: ANN401 - the stdlib's type
        """Set the application protocols."""
        ssl.SSLContext.set_alpn_protocols(self, alpn_protocols)
        self._protocols = tuple(alpn_protocols)

    def set_groups(self, groups: str, /) -> None:
        """Set the groups of key exchange in OpenSSL's notation, such as "X25519MLKEM768:X25519"."""
        self._groups = groups

    def set_signature_schemes(self, schemes: str, /) -> None:
        """Set the signature schemes in OpenSSL's notation, such as "mldsa44:ecdsa_secp256r1_sha256"."""
        self._schemes = schemes

    def set_ecdh_curve(self, name: str, /) -> None:
        """Use one group of key exchange alone."""
        self._groups = name

    def load_cert_chain(self, *_arguments: Any, **_named: Any) -> NoReturn:  # noqa: ANN401 - the stdlib's
        """Refuse: certificates are given as paths."""
        raise _refused("load_cert_chain", "give certificates as paths")

    def load_dh_params(self, *_arguments: Any) -> NoReturn:  # noqa: ANN401 - the stdlib's
        """Refuse: it is of TLS 1.2."""
        raise _refused("load_dh_params", "elliptic curves need no parameters")

    def get_ca_certs(self, *_arguments: Any, **_named: Any) -> NoReturn:  # noqa: ANN401 - the stdlib's
        """Refuse: pyOpenSSL does not list what a store trusts."""
        raise _refused("get_ca_certs", "what is trusted is what was loaded")

    def cert_store_stats(self) -> NoReturn:
        """Refuse, for the same reason."""
        raise _refused("cert_store_stats", "what is trusted is what was loaded")

    @property
    def keylog_filename(self) -> Any:  # noqa: ANN401 - the stdlib's type
        """No secrets are written."""
        return None

    @keylog_filename.setter
    def keylog_filename(self, value: Any) -> None:  # noqa: ANN401 - the stdlib's type
        """Refuse to write them."""
        if value is not None:
            raise _refused("keylog_filename", "use the stdlib back end")

    @property
    def sni_callback(self) -> Any:  # noqa: ANN401 - the stdlib's type
        """No callback: the names of the paths decide."""
        return None

    @sni_callback.setter
    def sni_callback(self, value: Any) -> None:  # noqa: ANN401 - the stdlib's type
        """Refuse one."""
        if value is not None:
            raise _refused("sni_callback", "paths are chosen by their names")

    @property
    def post_handshake_auth(self) -> bool:
        """Certificates are asked for in the handshake."""
        return False

    @post_handshake_auth.setter
    def post_handshake_auth(self, value: bool) -> None:
        """Refuse anything else."""
        if value:
            raise _refused("post_handshake_auth", "certificates are asked for in the handshake")

    def _wrap_bio(  # noqa: PLR0913 - the stdlib's signature
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,  # noqa: FBT001, FBT002 - the stdlib's signature
        server_hostname: str | None = None,
        *,
        owner: Any = None,  # noqa: ANN401 - the stdlib's type
        session: Any = None,  # noqa: ANN401, ARG002 - sessions are not resumed
    ) -> Engine:
        """Return the inner object of a connection in memory."""
        engine = self._engine(owner, server_hostname, is_server=server_side)
        engine.transport = MemoryTransport(incoming, outgoing)
        return engine

    def _wrap_socket(
        self,
        sock: Any,  # noqa: ANN401 - the stdlib's type
        server_side: bool,  # noqa: FBT001 - the stdlib's signature
        server_hostname: str | None = None,
        *,
        owner: Any = None,  # noqa: ANN401 - the stdlib's type
        session: Any = None,  # noqa: ANN401, ARG002 - sessions are not resumed
    ) -> Engine:
        """Return the inner object of a connection over a socket."""
        engine = self._engine(owner, server_hostname, is_server=server_side)
        engine.transport = SocketTransport(sock)
        return engine

    def _engine(self, owner: Any, server_hostname: str | None, *, is_server: bool) -> Engine:  # noqa: ANN401 - the stdlib's type
        """Return the inner object of a connection, and let its owner know it beyond the connection's end."""
        if is_server is not (self.protocol is ssl.PROTOCOL_TLS_SERVER):
            raise ssl.SSLError(f"this context is not for {'servers' if is_server else 'clients'}")
        engine = self.mtc_engine(owner, server_hostname)
        owner.mtc_engine = engine
        return engine


class EngineSocket(ssl.SSLSocket):
    """The stdlib's socket around an `Engine`."""

    mtc_engine: Engine | None = None

    def group(self) -> str | None:
        """Return the group of the key exchange, such as X25519MLKEM768; None before the end of the handshake."""
        return None if self.mtc_engine is None else self.mtc_engine.group()


class EngineObject(ssl.SSLObject):
    """The stdlib's connection in memory around an `Engine`."""

    mtc_engine: Engine | None = None

    def group(self) -> str | None:
        """Return the group of the key exchange, such as X25519MLKEM768; None before the end of the handshake."""
        return None if self.mtc_engine is None else self.mtc_engine.group()


def _names_of(context: ssl.SSLContext) -> str:
    """Return the cipher suites of TLS 1.2 that a context has, in OpenSSL's notation."""
    return ":".join(cipher["name"] for cipher in context.get_ciphers() if cipher["protocol"] != "TLSv1.3")


def _refused(what: str, cure: str) -> UsageError:
    """Make the error for what this back end does not do."""
    return UsageError(Reason.UNSUPPORTED, f"the pyopenssl back end has no {what}: {cure}")


class _Probe(EngineContext):
    """A context that only looks whether it is asked."""

    asked = 0

    def mtc_engine(self, owner: ssl.SSLSocket | ssl.SSLObject, server_hostname: str | None) -> Engine:  # noqa: ARG002 - only asked
        """Count."""
        self.asked += 1
        # The one error for which the stdlib closes the socket.
        raise ValueError


@lru_cache(maxsize=1)
def check_stdlib() -> None:
    """Check that the stdlib's classes ask their context as they did. Raises UsageError (UNSUPPORTED)."""
    probe = _Probe(ssl.PROTOCOL_TLS_CLIENT)
    one, other = socket.socketpair()
    with one, other:
        for ask in (
            lambda: probe.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="example.com"),
            lambda: probe.wrap_socket(one, server_hostname="example.com"),
        ):
            with contextlib.suppress(ValueError, AttributeError, TypeError):
                ask()
    if probe.asked != 2:
        raise UsageError(
            Reason.UNSUPPORTED,
            "the pyopenssl back end is not usable: this Python's ssl module makes its connections in another way than "
            "expected",
        )
