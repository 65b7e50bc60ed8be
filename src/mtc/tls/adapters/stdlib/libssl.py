"""The libssl that Python's `ssl` runs on, as far as `ssl` does not show it: called through ctypes.

The address of an `SSL_CTX` and the Python object behind an `SSL` are CPython's inner layout, not an interface. They are
checked once, with a context and a connection that never leave memory; where the check fails, nothing here is offered.

Callbacks are made once for the process and never freed, so none can be called after its end; what belongs to a
connection hangs on the Python object of the connection. Nothing is keyed by address, so nothing has to be freed.
"""

import contextlib
import ctypes
import importlib
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mtc.errors import Error, Reason, UsageError
from mtc.tls.adapters.stdlib.callbacks import make_receiver, make_sender
from mtc.tls.adapters.stdlib.functions import bytes_at, load_functions, object_at
from mtc.tls.extension import CODE_POINT

OLDEST = (3, 0)
"""Oldest OpenSSL that this was tried with."""
IN_CLIENT_HELLO = 0x80
IN_ENCRYPTED_EXTENSIONS = 0x400
IN_CERTIFICATE = 0x1000
IN_CERTIFICATE_REQUEST = 0x4000

_TLS13_ONLY = 0x20
_CONTEXTS = _TLS13_ONLY | IN_CLIENT_HELLO | IN_ENCRYPTED_EXTENSIONS | IN_CERTIFICATE | IN_CERTIFICATE_REQUEST
_SET_SESSION_CACHE_MODE = 44
_ADD_CHAIN_CERTIFICATE = 14
_HOST_NAME = 0
_PYTHON_OBJECT = 0
"""Index of the extra data in which CPython keeps its object for a connection."""

TICKET_OPENED = frozenset({5, 6})
"""Status of a ticket that was decrypted."""
FAIL_TICKET, REFUSE_TICKET, USE_TICKET = 0, 1, 4
"""What comes of a ticket: the handshake fails, is a full one, or is resumed and ends with a new ticket."""

NOT_JUDGED = 50
"""X509_V_ERR_APPLICATION_VERIFICATION: refused, for a reason that OpenSSL has no number for."""
# X509_V_ERR codes by reason: OpenSSL makes the alert from them, and programs look at `verify_code`.
_CODES: dict[Reason, int] = {
    Reason.NOT_YET_VALID: 9,
    Reason.EXPIRED: 10,
    Reason.BAD_SIGNATURE: 7,
    Reason.TRUSTED_SUBTREE_MISMATCH: 7,
    Reason.UNKNOWN_CA: 20,
    Reason.REVOKED: 23,
    Reason.WRONG_KEY_USAGE: 26,
    Reason.WRONG_EXTENDED_KEY_USAGE: 26,
    Reason.UNKNOWN_CRITICAL_EXTENSION: 34,
    Reason.NAME_MISMATCH: 62,
    Reason.NO_SUBJECT_ALT_NAME: 62,
}


@dataclass(frozen=True, slots=True)
class SessionFacts:
    """What `ssl.SSLSession` shows of a session."""

    id: bytes
    time: int
    timeout: int
    ticket_lifetime_hint: int
    has_ticket: bool


class LibSSL:
    """Typed calls into libssl and libcrypto. Contexts are Python's; `connection` and `store` are addresses from C."""

    def __init__(self, call: dict[str, Callable[..., Any]]) -> None:
        """Take the functions by name; `load_libssl` makes one."""
        self._call = call
        self.finds_connections = False
        """Whether `_connection` works here; without it clients have no sessions."""
        self._connection_index: int = call["SSL_get_ex_data_X509_STORE_CTX_idx"]()
        # What verification calls is looked up once, and called without more ado: it is the hot path, and yet cold in
        # every handshake, so that each function of Python's on the way costs a microsecond.
        self.end_entity: Callable[[int], int | None] = call["X509_STORE_CTX_get0_cert"]
        """Return the address of the peer's end-entity certificate for an X509_STORE_CTX, None when there is none."""
        self._encode = call["i2d_X509"]
        self._free, self._set_error = call["CRYPTO_free"], call["X509_STORE_CTX_set_error"]
        self._extra_data, self._store_data = call["SSL_get_ex_data"], call["X509_STORE_CTX_get_ex_data"]

    def register_extension(self, context: ssl.SSLContext, add: Any, parse: Any) -> None:  # noqa: ANN401 - ctypes callbacks
        """Let OpenSSL send and read `trust_anchors`. add, parse: of `make_sender` and `make_receiver`, kept by you."""
        done = self._call["SSL_CTX_add_custom_ext"](
            _address(context), CODE_POINT, _CONTEXTS, add, None, None, parse, None
        )
        if done != 1:
            raise UsageError(Reason.UNSUPPORTED, f"OpenSSL refuses the extension: {self._last_error()}")

    def set_verifier(self, context: ssl.SSLContext, verify: Any) -> None:  # noqa: ANN401 - a ctypes callback
        """Let `verify` (`VERIFY`) judge the peer's certificates in place of OpenSSL."""
        self._call["SSL_CTX_set_cert_verify_callback"](_address(context), verify, None)

    def set_chooser(self, context: ssl.SSLContext, choose: Any) -> None:  # noqa: ANN401 - a ctypes callback
        """Let `choose` (`CHOOSE`) choose the certificate when the ClientHello is read."""
        self._call["SSL_CTX_set_cert_cb"](_address(context), choose, None)

    def disable_sessions(self, context: ssl.SSLContext) -> None:
        """Keep no sessions for resumption."""
        self._call["SSL_CTX_ctrl"](_address(context), _SET_SESSION_CACHE_MODE, 0, None)

    def set_ticket_callbacks(self, context: ssl.SSLContext, give: Any, take: Any) -> None:  # noqa: ANN401 - ctypes callbacks
        """Let `give` (`GIVE_TICKET`) say what tickets stand for, and `take` (`TAKE_TICKET`) judge those that return."""
        self._call["SSL_CTX_set_session_ticket_cb"](_address(context), give, take, None)

    def bind_ticket(self, connection: int, data: bytes, lifetime_s: int) -> None:
        """Give the ticket that is being made its data and its lifetime."""
        session = self._call["SSL_get_session"](connection)
        if session and self._call["SSL_SESSION_set1_ticket_appdata"](session, data, len(data)) == 1:
            self._call["SSL_SESSION_set_timeout"](session, lifetime_s)

    def ticket_data(self, session: int) -> bytes:
        """Return the data of a ticket that was decrypted; empty when it has none."""
        data, size = ctypes.c_void_p(), ctypes.c_size_t()
        is_there = self._call["SSL_SESSION_get0_ticket_appdata"](session, ctypes.byref(data), ctypes.byref(size)) == 1
        return bytes_at(data, size.value) if is_there and data.value else b""

    def session_peer(self, session: int) -> bytes:
        """Return the DER of the peer's certificate in the handshake that a ticket is of; empty when it sent none."""
        return self.encode_certificate(self._call["SSL_SESSION_get0_peer"](session))

    def hello_extension(self, connection: int, kind: int) -> bytes | None:
        """Return the body of an extension of the ClientHello that is being read, None when it is not there."""
        data, size = ctypes.c_void_p(), ctypes.c_size_t()
        ask = self._call["SSL_client_hello_get0_ext"]
        is_there = ask(connection, kind, ctypes.byref(data), ctypes.byref(size)) == 1
        return bytes_at(data, size.value) if is_there else None

    def keep_session(self, inner: object) -> int:
        """Return the session of a connection, to be given back by `release_session`; 0 when there is none.

        inner: CPython's object of the connection.
        """
        connection = _connection(inner) if self.finds_connections else 0
        session = self._call["SSL_get1_session"](connection) if connection else None
        if not session:
            return 0
        try:
            # A copy, for OpenSSL spoils the session of a connection that ends without being shut down.
            return self._call["SSL_SESSION_dup"](session) or 0
        finally:
            self.release_session(session)

    def release_session(self, session: int) -> None:
        """Give a session back."""
        self._call["SSL_SESSION_free"](session)

    def offer_session(self, inner: object, session: int) -> bool:
        """Let a connection whose handshake has not begun offer a session; tell whether it will."""
        connection = _connection(inner) if self.finds_connections and inner is not None else 0
        # A copy, for OpenSSL may write into the session of a connection.
        copy = self._call["SSL_SESSION_dup"](session) if connection else None
        if not copy:
            return False
        try:
            return bool(self._call["SSL_set_session"](connection, copy) == 1)
        finally:
            self.release_session(copy)

    def describe_session(self, session: int) -> SessionFacts:
        """Return what there is to know of a session."""
        call, size = self._call, ctypes.c_uint()
        at = call["SSL_SESSION_get_id"](session, ctypes.byref(size))
        return SessionFacts(
            bytes_at(at, size.value) if at else b"",
            call["SSL_SESSION_get_time"](session),
            call["SSL_SESSION_get_timeout"](session),
            call["SSL_SESSION_get_ticket_lifetime_hint"](session),
            call["SSL_SESSION_has_ticket"](session) == 1,
        )

    def withhold_tickets(self, connection: int) -> None:
        """Give no TLS 1.2 ticket on a connection."""
        self._call["SSL_set_options"](connection, ssl.OP_NO_TICKET)

    def use_path(self, context: ssl.SSLContext, certificates: tuple[bytes, ...], key: bytes) -> None:
        """Load certificates (DER, end entity first) and private key (DER). Raises UsageError with OpenSSL's reason."""
        at, call = _address(context), self._call
        if call["SSL_CTX_use_certificate_ASN1"](at, len(certificates[0]), certificates[0]) != 1:
            raise self._refused("the certificate")
        for der in certificates[1:]:
            x509 = self._decode("d2i_X509", der)
            if not x509:
                raise self._refused("a certificate of the chain")
            if call["SSL_CTX_ctrl"](at, _ADD_CHAIN_CERTIFICATE, 0, x509) != 1:
                call["X509_free"](x509)
                raise self._refused("a certificate of the chain")
        pkey = self._decode("d2i_AutoPrivateKey", key)
        if not pkey:
            raise self._refused("the private key")
        try:
            is_used = call["SSL_CTX_use_PrivateKey"](at, pkey) == 1 and call["SSL_CTX_check_private_key"](at) == 1
        finally:
            call["EVP_PKEY_free"](pkey)
        if not is_used:
            raise self._refused("the private key")

    def is_key(self, key: bytes) -> bool:
        """Tell whether OpenSSL can read a private key (DER) of this kind."""
        pkey = self._decode("d2i_AutoPrivateKey", key)
        if pkey:
            self._call["EVP_PKEY_free"](pkey)
        self._call["ERR_clear_error"]()
        return bool(pkey)

    def set_security_level(self, context: ssl.SSLContext, level: int) -> None:
        """Set OpenSSL's security level, 0 to 5."""
        self._call["SSL_CTX_set_security_level"](_address(context), level)

    def switch_context(self, connection: int, context: ssl.SSLContext) -> None:
        """Let a connection go on with the certificates of another context."""
        if not self._call["SSL_set_SSL_CTX"](connection, _address(context)):
            raise UsageError(Reason.UNSUPPORTED, f"OpenSSL does not switch contexts: {self._last_error()}")

    def owner_of(self, connection: int) -> object:
        """Return the `SSLSocket` or `SSLObject` of a connection, None while there is none."""
        found = self._extra_data(connection, _PYTHON_OBJECT)
        return None if not found else getattr(object_at(found), "owner", None)

    def connection_of(self, store: int) -> int:
        """Return the connection of an X509_STORE_CTX, 0 when it has none."""
        return self._store_data(store, self._connection_index) or 0

    def server_name(self, connection: int) -> str | None:
        """Return the host name that the client sent."""
        name = self._call["SSL_get_servername"](connection, _HOST_NAME)
        return None if name is None else name.decode("ascii", "replace")

    def protocol(self, connection: int) -> int:
        """Return the version in use as on the wire."""
        return int(self._call["SSL_version"](connection))

    def signature_schemes(self, connection: int) -> frozenset[int]:
        """Return the code points of the peer's signature_algorithms."""
        low, high = ctypes.c_ubyte(), ctypes.c_ubyte()
        ask = self._call["SSL_get_sigalgs"]
        found = set()
        for index in range(max(0, ask(connection, -1, None, None, None, None, None))):
            ask(connection, index, None, None, None, ctypes.byref(low), ctypes.byref(high))
            found.add(high.value << 8 | low.value)
        return frozenset(found)

    def encode_certificate(self, x509: int | None) -> bytes:
        """Return the DER of the X509 at an address, empty for none."""
        if not x509:
            return b""
        found = ctypes.c_void_p()
        size = self._encode(x509, ctypes.byref(found))
        if size <= 0:
            return b""
        try:
            return bytes_at(found, size)
        finally:
            self._free(found, None, 0)

    def verify_classically(self, store: int) -> bool:
        """Let OpenSSL judge, as it would without us. The error, if any, is set."""
        # It begins with what stands there, and leaves it there when all is well.
        self.accept(store)
        return bool(self._call["X509_verify_cert"](store) == 1)

    def accept(self, store: int) -> None:
        """Set the verdict that all is well."""
        self._set_error(store, 0)

    def refuse(self, store: int, error: BaseException) -> None:
        """Set what `SSL_get_verify_result` will say of a failure, from which OpenSSL makes the alert."""
        self._set_error(store, verify_code(error))

    def _decode(self, function: str, der: bytes) -> int | None:
        """Call one of the d2i functions; the object is ours."""
        buffer = ctypes.create_string_buffer(der, len(der))
        at = ctypes.c_void_p(ctypes.addressof(buffer))
        found: int | None = self._call[function](None, ctypes.byref(at), len(der))
        return found

    def _refused(self, what: str) -> UsageError:
        """Make the error for something that OpenSSL does not load."""
        return UsageError(
            Reason.UNSUPPORTED,
            f"{ssl.OPENSSL_VERSION} does not load {what}: {self._last_error()}; it has ML-DSA keys from 3.5 on, and "
            "back_end='pyopenssl' has them",
        )

    def _last_error(self) -> str:
        """Return OpenSSL's words about the newest failure, and forget it, or the next call would be blamed for it."""
        code, last = self._call["ERR_get_error"](), 0
        while code:
            code, last = self._call["ERR_get_error"](), code
        if not last:
            return "no reason given"
        buffer = ctypes.create_string_buffer(256)
        self._call["ERR_error_string_n"](last, buffer, 256)
        return buffer.value.decode("ascii", "replace")


@lru_cache(maxsize=1)
def load_libssl() -> LibSSL:
    """Return the libssl of the `ssl` module. Raises UsageError (UNSUPPORTED) where it cannot be used."""
    if sys.implementation.name != "cpython":
        raise _unsupported(f"{sys.implementation.name} is not CPython")
    if ssl.OPENSSL_VERSION_INFO[:2] < OLDEST or "OpenSSL" not in ssl.OPENSSL_VERSION:
        raise _unsupported(f"it runs on {ssl.OPENSSL_VERSION}, which is not OpenSSL 3.0 or newer")
    path = getattr(importlib.import_module("_ssl"), "__file__", None)
    if path is None:
        raise _unsupported("its OpenSSL is linked into the interpreter")
    try:
        call = load_functions(path)
    except (OSError, AttributeError) as error:
        raise _unsupported(f"its OpenSSL cannot be called: {error}") from None
    found = LibSSL(call)
    _check_context(call)
    _check_connection(found, call)
    return found


def verify_code(error: BaseException) -> int:
    """Return the X509_V_ERR code for what a certificate was refused for."""
    return _CODES.get(error.reason, NOT_JUDGED) if isinstance(error, Error) else NOT_JUDGED


def _address(context: ssl.SSLContext) -> int:
    """Return the address of the SSL_CTX: in CPython's object it is the first field behind the header."""
    return ctypes.c_void_p.from_address(id(context) + object.__basicsize__).value or 0


def _connection(inner: object) -> int:
    """Return the address of the SSL behind CPython's object of a connection: it is the second field."""
    return ctypes.c_void_p.from_address(id(inner) + object.__basicsize__ + ctypes.sizeof(ctypes.c_void_p)).value or 0


def _check_context(call: dict[str, Callable[..., Any]]) -> None:
    """Check that `_address` finds contexts: an option that Python sets is there, and of that one only."""
    first, second = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    addresses = (_address(first), _address(second))
    # What is no plausible address is not followed: that would end the process.
    if not all(address > 0xFFFF and address % 8 == 0 for address in addresses) or addresses[0] == addresses[1]:
        raise _unsupported("its contexts lie in memory in another way than expected")
    options = call["SSL_CTX_get_options"]
    first.options |= ssl.OP_NO_TICKET
    second.options &= ~ssl.OP_NO_TICKET
    for context, address in zip((first, second), addresses, strict=True):
        if options(address) != context.options & 0xFFFF_FFFF_FFFF_FFFF:
            raise _unsupported("its contexts lie in memory in another way than expected")


def _check_connection(library: LibSSL, call: dict[str, Callable[..., Any]]) -> None:
    """Check, on a ClientHello that goes nowhere, that callbacks are called and connections lead to Python's objects."""
    seen: list[tuple[int, int]] = []
    connections: list[int] = []

    def look(connection: int, _place: int, _index: int) -> None:
        seen.append((call["SSL_get_SSL_CTX"](connection), call["SSL_get_ex_data"](connection, _PYTHON_OBJECT)))
        connections.append(connection)

    # They live until the connection is gone, which is at the end of this function.
    add = make_sender(look, lambda _connection, _error: None)
    parse = make_receiver(lambda _connection, _place, _index, _data: None, lambda _connection, _error: None)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    library.register_extension(context, add, parse)
    connection = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="example.com")
    with contextlib.suppress(ssl.SSLWantReadError):
        connection.do_handshake()
    inner = getattr(connection, "_sslobj", None)
    if seen != [(_address(context), id(inner))] or getattr(inner, "owner", None) is not connection:
        raise _unsupported("its connections lie in memory in another way than expected")
    library.finds_connections = connections == [_connection(inner)]


def _unsupported(why: str) -> UsageError:
    """Make the error for a Python whose `ssl` cannot be extended."""
    return UsageError(
        Reason.UNSUPPORTED,
        f"this Python's ssl module cannot speak trust_anchors: {why}. Use CPython with a dynamically linked OpenSSL",
    )
