# ruff: noqa: SLF001 - what pyOpenSSL wraps is in private attributes, and this file is there to reach it.
"""The OpenSSL that `cryptography` brings along, as far as pyOpenSSL does not show it: called through its cffi binding.

`SSL_CTX_add_client_custom_ext` is made for TLS 1.2: OpenSSL sends what it says in every ClientHello, but ends the
handshake when a TLS 1.3 server answers it. So the extension is registered in the context that a connection begins with,
and after the ServerHello the connection goes on with a context that does not know it: what OpenSSL does not know it
steps over. What the server says is read from the messages, which OpenSSL shows as it reads them.

Callbacks are made once for the process. They find the connection that is running in this thread; nothing is keyed by
address, so nothing has to be freed.

Spec: OpenSSL, SSL_CTX_add_client_custom_ext(3), SSL_CTX_set_msg_callback(3), SSL_CTX_set_verify(3),
SSL_CTX_set_cert_cb(3).
"""

import contextlib
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from functools import lru_cache
from importlib import import_module
from typing import Any

from mtc.errors import Reason, UsageError
from mtc.tls.adapters.stdlib.callbacks import keep_forever
from mtc.tls.adapters.stdlib.failures import without_way
from mtc.tls.adapters.stdlib.libssl import NOT_JUDGED, verify_code
from mtc.tls.extension import CODE_POINT

OLDEST = (26, 4)
"""Oldest pyOpenSSL that this was tried with."""
OLDEST_OPENSSL = 0x40000030
"""4.0.3: the first that loads certificates with a signature algorithm that it does not know at its usual level."""

_HANDSHAKE = 22
_UNSUPPORTED_EXTENSION = 110
_INTERNAL_ERROR = 80
_NEEDED = (
    "SSL_CTX_add_client_custom_ext",
    "SSL_CTX_set1_curves_list",
    "SSL_CTX_set1_sigalgs_list",
    "SSL_CTX_set_cert_cb",
    "SSL_CTX_set_cert_store",
    "SSL_CTX_set_msg_callback",
    "SSL_CTX_set_verify",
    "BIO_get_mem_data",
    "SSL_get0_param",
    "SSL_get_verify_result",
    "SSL_set_SSL_CTX",
    "X509_STORE_CTX_get0_cert",
    "X509_STORE_up_ref",
    "X509_VERIFY_PARAM_set1_host",
    "X509_VERIFY_PARAM_set1_ip",
    "d2i_PrivateKey_bio",
    "d2i_X509_bio",
    "i2d_X509_bio",
    "sk_X509_value",
)


class Watcher(ABC):
    """What a connection says when C asks it. Each method may raise: the handshake then fails."""

    failure: BaseException | None = None
    """What was raised, kept for the caller of the handshake. Owned by the connection."""

    @abstractmethod
    def extension(self) -> bytes | None:
        """Return the body of `trust_anchors` in the ClientHello, None when it is not sent."""

    @abstractmethod
    def hear(self, message: bytes) -> None:
        """Take a handshake message of the peer, header included, before OpenSSL acts upon it."""

    @abstractmethod
    def judge(self, der: bytes) -> bool:
        """Judge the peer's end-entity certificate: True when it is verified, False when OpenSSL is to judge."""

    @abstractmethod
    def choose(self) -> None:
        """Choose a path for a server that asks for one."""

    def keep(self, error: BaseException) -> None:
        """Keep the first failure."""
        if self.failure is None:
            self.failure = without_way(error)


class _Running(threading.local):
    """The connection that runs in this thread, and what it said of the peer's certificate."""

    watcher: Watcher | None = None
    verdict: bool | None = None


_running = _Running()


@contextlib.contextmanager
def running(watcher: Watcher) -> Iterator[None]:
    """Let callbacks inside the `with` ask this connection."""
    before = _running.watcher, _running.verdict
    _running.watcher, _running.verdict = watcher, None
    try:
        yield
    finally:
        _running.watcher, _running.verdict = before


def _watcher() -> Watcher:
    """Return the connection that runs in this thread."""
    if _running.watcher is None:
        raise RuntimeError("OpenSSL calls back outside of a connection")
    return _running.watcher


def _keep(error: BaseException) -> None:
    """Keep what a callback met."""
    if _running.watcher is not None:
        _running.watcher.keep(error)


class LowLevel:
    """Typed calls. Contexts are `OpenSSL.SSL.Context`, connections `OpenSSL.SSL.Connection`."""

    def __init__(self, lib: Any, ffi: Any) -> None:  # noqa: ANN401 - cffi
        """Make the callbacks; `load_binding` makes the one object of this class."""
        self._lib, self._ffi = lib, ffi
        self.version: str = ffi.string(lib.OpenSSL_version(0)).decode("ascii")
        made = {
            self._on_add: ("int(SSL *, unsigned int, const unsigned char **, size_t *, int *, void *)", -1),
            self._on_answer: ("int(SSL *, unsigned int, const unsigned char *, size_t, int *, void *)", 0),
            self._on_message: ("void(int, int, int, const void *, size_t, SSL *, void *)", None),
            self._on_verify: ("int(int, X509_STORE_CTX *)", 0),
            self._on_choose: ("int(SSL *, void *)", 0),
        }
        # C takes the second value as the answer when Python could not run a callback to its end.
        self._add, self._parse, self._message, self._verify, self._choose = (
            keep_forever(ffi.callback(kind, function, error=failed)) for function, (kind, failed) in made.items()
        )
        # What C reads after the callback has returned, per thread: it copies it at once.
        self._sent = threading.local()

    def register_extension(self, context: Any) -> None:  # noqa: ANN401 - pyOpenSSL's
        """Let clients of this context send `trust_anchors`; they must go on with another one when they are answered."""
        null = self._ffi.NULL
        done = self._lib.SSL_CTX_add_client_custom_ext(
            context._context, CODE_POINT, self._add, null, null, self._parse, null
        )
        if done != 1:
            raise UsageError(Reason.UNSUPPORTED, f"OpenSSL refuses the extension: {self._last_error()}")

    def watch(self, context: Any, mode: int) -> None:  # noqa: ANN401 - pyOpenSSL's
        """Show the connections of a context their messages and certificates. mode: of SSL_CTX_set_verify."""
        self._lib.SSL_CTX_set_msg_callback(context._context, self._message)
        self._lib.SSL_CTX_set_verify(context._context, mode, self._verify)

    def set_chooser(self, context: Any) -> None:  # noqa: ANN401 - pyOpenSSL's
        """Let the connections of a context choose their own path when a server asks for one."""
        self._lib.SSL_CTX_set_cert_cb(context._context, self._choose, self._ffi.NULL)

    def use_path(self, context: Any, certificates: tuple[bytes, ...], key: bytes) -> None:  # noqa: ANN401 - pyOpenSSL's
        """Load certificates (DER, end entity first) and private key (DER). Raises UsageError with OpenSSL's reason."""
        lib, at = self._lib, context._context
        for place, der in enumerate(certificates):
            x509 = self._decode(lib.d2i_X509_bio, der)
            if x509 == self._ffi.NULL:
                raise self._refused("a certificate")
            if place:
                # The context takes the object over.
                if lib.SSL_CTX_add_extra_chain_cert(at, x509) == 1:
                    continue
                lib.X509_free(x509)
                raise self._refused("a certificate of the chain")
            done = lib.SSL_CTX_use_certificate(at, x509)
            lib.X509_free(x509)
            if done != 1:
                raise self._refused("the certificate")
        pkey = self._decode(lib.d2i_PrivateKey_bio, key)
        if pkey == self._ffi.NULL:
            raise self._refused("the private key")
        is_used = lib.SSL_CTX_use_PrivateKey(at, pkey) == 1 and lib.SSL_CTX_check_private_key(at) == 1
        lib.EVP_PKEY_free(pkey)
        if not is_used:
            raise self._refused("the private key")

    def is_key(self, key: bytes) -> bool:
        """Tell whether OpenSSL can read a private key (DER) of this kind."""
        pkey = self._decode(self._lib.d2i_PrivateKey_bio, key)
        if pkey != self._ffi.NULL:
            self._lib.EVP_PKEY_free(pkey)
        self._lib.ERR_clear_error()
        return bool(pkey != self._ffi.NULL)

    def share_store(self, context: Any, store: Any) -> None:  # noqa: ANN401 - pyOpenSSL's
        """Let a context verify against a store (`OpenSSL.crypto.X509Store`) that others use as well."""
        self._lib.X509_STORE_up_ref(store._store)
        self._lib.SSL_CTX_set_cert_store(context._context, store._store)

    def add_trusted(self, store: Any, der: bytes) -> None:  # noqa: ANN401 - pyOpenSSL's
        """Add a certificate (DER) to a store. Raises UsageError."""
        x509 = self._decode(self._lib.d2i_X509_bio, der)
        if x509 == self._ffi.NULL:
            raise self._refused("a trusted certificate")
        done = self._lib.X509_STORE_add_cert(store._store, x509)
        self._lib.X509_free(x509)
        if done != 1:
            raise self._refused("a trusted certificate")

    def set_lists(self, context: Any, groups: str | None, schemes: str | None) -> None:  # noqa: ANN401 - pyOpenSSL's
        """Set groups of key exchange and signature schemes, in OpenSSL's notation. Raises UsageError."""
        lib, at = self._lib, context._context
        if groups is not None and lib.SSL_CTX_set1_curves_list(at, groups.encode("ascii")) != 1:
            raise UsageError(Reason.UNSUPPORTED, f"{self.version} does not know the groups {groups}")
        if schemes is not None and lib.SSL_CTX_set1_sigalgs_list(at, schemes.encode("ascii")) != 1:
            raise UsageError(Reason.UNSUPPORTED, f"{self.version} does not know the signature schemes {schemes}")

    def expect_peer(self, connection: Any, flags: int, host_flags: int, name: str | bytes | None) -> None:  # noqa: ANN401 - pyOpenSSL's
        """Say how OpenSSL is to verify classical chains. name: host name, or packed address, None to check none."""
        lib = self._lib
        param = lib.SSL_get0_param(connection._ssl)
        lib.X509_VERIFY_PARAM_set_flags(param, flags)
        lib.X509_VERIFY_PARAM_set_hostflags(param, host_flags)
        if name is None:
            return
        if isinstance(name, bytes):
            done = lib.X509_VERIFY_PARAM_set1_ip(param, name, len(name))
        else:
            text = name.encode("ascii")
            done = lib.X509_VERIFY_PARAM_set1_host(param, text, len(text))
        if done != 1:
            raise UsageError(Reason.UNSUPPORTED, f"OpenSSL cannot check the name {name!r}")

    def verify_result(self, connection: Any) -> int:  # noqa: ANN401 - pyOpenSSL's
        """Return the X509_V_ERR code of a connection, 0 for none."""
        return int(self._lib.SSL_get_verify_result(connection._ssl))

    def describe_result(self, code: int) -> str:
        """Return OpenSSL's words for an X509_V_ERR code."""
        text: str = self._ffi.string(self._lib.X509_verify_cert_error_string(code)).decode("ascii", "replace")
        return text

    def take_output(self, connection: Any) -> bytes:  # noqa: ANN401 - pyOpenSSL's
        """Return what a connection has written and nobody has sent yet."""
        lib, ffi = self._lib, self._ffi
        bio, found = connection._from_ssl, ffi.new("char **")
        size = lib.BIO_get_mem_data(bio, found)
        if size <= 0:
            return b""
        buffer = ffi.new("unsigned char[]", size)
        got = lib.BIO_read(bio, buffer, size)
        return bytes(ffi.buffer(buffer, max(0, got)))

    def peer_chain(self, connection: Any) -> tuple[bytes, ...]:  # noqa: ANN401 - pyOpenSSL's
        """Return the certificates that the peer sent, DER, end entity first; empty when it sent none."""
        lib = self._lib
        leaf = lib.SSL_get_peer_certificate(connection._ssl)
        if leaf == self._ffi.NULL:
            return ()
        found = [self._encode(leaf)]
        lib.X509_free(leaf)
        chain = lib.SSL_get_peer_cert_chain(connection._ssl)
        count = 0 if chain == self._ffi.NULL else lib.sk_X509_num(chain)
        others = [self._encode(lib.sk_X509_value(chain, place)) for place in range(count)]
        # OpenSSL's list has the end entity on clients only.
        return tuple(found + (others[1:] if others[:1] == found else others))

    def _on_add(self, _ssl: Any, _kind: int, out: Any, out_size: Any, alert: Any, _argument: Any) -> int:  # noqa: ANN401 - C's signature
        """Hand over the extension of the ClientHello."""
        try:
            body = _watcher().extension()
            if body is None:
                return 0
            self._sent.body = self._ffi.new("unsigned char[]", body or b"\x00")
            out[0], out_size[0] = self._sent.body, len(body)
        except BaseException as error:  # noqa: BLE001 - nothing may be raised through C
            _keep(error)
            alert[0] = _INTERNAL_ERROR
            return -1
        return 1

    def _on_answer(self, _ssl: Any, _kind: int, _data: Any, _size: int, alert: Any, _argument: Any) -> int:  # noqa: ANN401 - C's signature
        """Refuse an answer where TLS 1.3 has none: in the ServerHello of an older version."""
        alert[0] = _UNSUPPORTED_EXTENSION
        return 0

    def _on_message(
        self,
        is_sent: int,
        _version: int,
        kind: int,
        data: Any,  # noqa: ANN401 - cffi
        size: int,
        _ssl: Any,  # noqa: ANN401 - cffi
        _argument: Any,  # noqa: ANN401 - cffi
    ) -> None:
        """Show a message of the peer. What it raises ends the handshake in `_on_verify` or after the call."""
        if is_sent or kind != _HANDSHAKE:
            return
        try:
            _watcher().hear(bytes(self._ffi.buffer(data, size)))
        except BaseException as error:  # noqa: BLE001 - nothing may be raised through C
            _keep(error)

    def _on_verify(self, is_fine: int, store: Any) -> int:  # noqa: ANN401 - C's signature
        """Judge the peer's certificates: once by us, and what is not ours by what OpenSSL says step by step."""
        lib = self._lib
        try:
            watcher = _watcher()
            if watcher.failure is None and _running.verdict is None:
                _running.verdict = watcher.judge(self._encode(lib.X509_STORE_CTX_get0_cert(store)))
        except BaseException as error:  # noqa: BLE001 - nothing may be raised through C
            _keep(error)
        failure = None if _running.watcher is None else _running.watcher.failure
        if failure is not None or _running.verdict is None:
            lib.X509_STORE_CTX_set_error(store, NOT_JUDGED if failure is None else verify_code(failure))
            return 0
        if _running.verdict:
            lib.X509_STORE_CTX_set_error(store, 0)
            return 1
        return is_fine

    def _on_choose(self, _ssl: Any, _argument: Any) -> int:  # noqa: ANN401 - C's signature
        """Choose our own path when a server asks for one."""
        try:
            _watcher().choose()
        except BaseException as error:  # noqa: BLE001 - nothing may be raised through C
            _keep(error)
            return 0
        return 1

    def _encode(self, x509: Any) -> bytes:  # noqa: ANN401 - cffi
        """Return the DER of a certificate; empty when there is none."""
        lib, ffi = self._lib, self._ffi
        if x509 == ffi.NULL:
            return b""
        bio = lib.BIO_new(lib.BIO_s_mem())
        try:
            if lib.i2d_X509_bio(bio, x509) != 1:
                return b""
            found = ffi.new("char **")
            size = lib.BIO_get_mem_data(bio, found)
            return bytes(ffi.buffer(found[0], size))
        finally:
            lib.BIO_free(bio)

    def _decode(self, function: Any, der: bytes) -> Any:  # noqa: ANN401 - cffi
        """Call one of the d2i functions; the object is ours, or NULL."""
        bio = self._lib.BIO_new_mem_buf(der, len(der))
        try:
            return function(bio, self._ffi.NULL)
        finally:
            self._lib.BIO_free(bio)

    def _refused(self, what: str) -> UsageError:
        """Make the error for something that OpenSSL does not load."""
        return UsageError(Reason.UNSUPPORTED, f"{self.version} does not load {what}: {self._last_error()}")

    def _last_error(self) -> str:
        """Return OpenSSL's words about the newest failure, and forget it, or the next call would be blamed for it."""
        lib = self._lib
        code, last = lib.ERR_get_error(), 0
        while code:
            code, last = lib.ERR_get_error(), code
        text = lib.ERR_reason_error_string(last)
        if not last or text == self._ffi.NULL:
            return "no reason given"
        said: str = self._ffi.string(text).decode("ascii", "replace")
        return said


@lru_cache(maxsize=1)
def load_binding() -> LowLevel:
    """Return the OpenSSL of pyOpenSSL. Raises UsageError (UNSUPPORTED) where it is missing or too old."""
    try:
        found: Any = import_module("OpenSSL")
        binding: Any = import_module("cryptography.hazmat.bindings.openssl.binding").Binding()
        lib, ffi = binding.lib, binding.ffi
    except (ImportError, AttributeError) as error:
        raise _unsupported(f"pyOpenSSL cannot be used ({error})") from None
    version = str(getattr(found, "__version__", "0"))
    if tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) < OLDEST:
        raise _unsupported(f"pyOpenSSL {version} is older than {OLDEST[0]}.{OLDEST[1]}")
    missing = [name for name in _NEEDED if not hasattr(lib, name)]
    if missing or lib.OpenSSL_version_num() < OLDEST_OPENSSL:
        what = f"lacks {missing[0]}" if missing else "is older than 4.0.3"
        raise _unsupported(f"the OpenSSL of cryptography {what}")
    return LowLevel(lib, ffi)


def _unsupported(why: str) -> UsageError:
    """Make the error for a Python without it."""
    return UsageError(
        Reason.UNSUPPORTED,
        f"the pyopenssl back end is not usable: {why}; install pyOpenSSL 26.4 and cryptography 50.0.2",
    )
