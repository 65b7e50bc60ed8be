"""A TLS connection of pyOpenSSL in the place that `ssl.SSLSocket` and `ssl.SSLObject` keep the one of their own.

Both classes of the stdlib are Python around an inner object; everything that libraries rely on (timeouts, files,
half-closed sockets, buffers) is theirs. So the engine has that object's methods, and the stdlib's classes stay as they
are. It speaks to memory; a `Transport` carries the bytes.

Nothing is sent after a callback has failed: not even what OpenSSL, which knows nothing of it, has written since.
"""

import contextlib
import ssl
import threading
import weakref
from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

from OpenSSL import SSL

from mtc.tls.adapters.pyopenssl.binding import Watcher, load_binding, running
from mtc.tls.adapters.pyopenssl.transport import Transport

_CHUNK = 1 << 16
_MAX_RECORD_BYTES = 1 << 14
_RECORD_TYPES = range(20, 24)
_MISMATCHES = {62: "Hostname", 64: "IP address"}
_VERIFY_FAILED = "certificate verify failed"
_Result = TypeVar("_Result")


class Encoded:
    """A certificate as the stdlib's classes expect it from their inner object."""

    def __init__(self, der: bytes) -> None:
        """Take the DER."""
        self._der = der

    def public_bytes(self, _format: int = 0) -> bytes:
        """Return the DER."""
        return self._der


class Engine(Watcher):
    """The inner object of a connection; the sides say what they add.

    connection: None until a server has read the ClientHello. is_done: the handshake has ended well.
    """

    session_reused = False
    transport: Transport
    connection: SSL.Connection | None = None
    is_done = False

    def __init__(
        self, context: ssl.SSLContext, owner: ssl.SSLSocket | ssl.SSLObject, server_hostname: str | None
    ) -> None:
        """Begin; nothing is sent."""
        self.context: Any = context
        self.server_hostname = server_hostname
        self._owner: weakref.ref[ssl.SSLSocket | ssl.SSLObject] = weakref.ref(owner)
        self._has_said_goodbye = False
        self._is_broken = False
        self._half_written: int | None = None
        self._held = b""
        # One thread may read while another writes. OpenSSL is called under the first lock, which is never held while
        # a socket waits; bytes are sent under the second one, so that they are sent in their order.
        self._calling, self._sending = threading.Lock(), threading.Lock()

    @property
    def session(self) -> None:
        """Sessions are not resumed, so there is none to be kept."""

    @session.setter
    def session(self, value: object) -> None:
        """Do not resume it."""

    @property
    def owner(self) -> ssl.SSLSocket | ssl.SSLObject | None:
        """The object that people hold."""
        return self._owner()

    @abstractmethod
    def begin(self) -> None:
        """Make the connection, as soon as its context can be known."""

    def advance(self, connection: SSL.Connection) -> None:
        """Hand bytes of the peer to OpenSSL."""
        self.hand_over(connection, self.next_record())

    @abstractmethod
    def check(self) -> None:
        """Refuse a connection whose peer nobody judged. Raises `ssl.SSLError`."""

    @abstractmethod
    def certificate(self, der: bytes) -> dict[str, object]:
        """Return the peer's certificate, which was verified, as `getpeercert()` does."""

    @abstractmethod
    def explain(self, error: ssl.SSLError) -> None:
        """Give an exception what is known."""

    def do_handshake(self) -> None:
        """Perform the handshake, as far as bytes are there."""
        if self.is_done:
            return
        self._refuse_after_failure()
        try:
            if self.connection is None:
                self.begin()
            assert self.connection is not None
            self._drive(self.connection.do_handshake)
            self.check()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self._is_broken = True
            self.explain(error)
            raise
        self.is_done = True
        self.flush()

    def read(self, size: int = 1024, buffer: Any = None) -> Any:  # noqa: ANN401 - the stdlib's signature
        """Return up to `size` bytes, or put them into `buffer` and return how many."""
        if buffer is not None and (size <= 0 or size > len(buffer)):
            size = len(buffer)
        if size == 0:
            return 0 if buffer is not None else b""
        connection = self._ready()
        # OpenSSL returns one record at most.
        size = min(size, _MAX_RECORD_BYTES)
        try:
            data = self._drive(lambda: connection.recv(size))
        except ssl.SSLZeroReturnError:
            data = b""
        if buffer is None:
            return data
        buffer[: len(data)] = data
        return len(data)

    def write(self, data: Any) -> int:  # noqa: ANN401 - the stdlib's signature
        """Send bytes; returns how many were taken, of a long text not all."""
        connection = self._ready()
        count = self._half_written
        if count is None:
            view = memoryview(data).cast("B")
            if not view:
                return 0
            count = self._drive(lambda: connection.send(view))
        # After `SSLWantWriteError` the same bytes come again: they are encrypted already, and go on being sent.
        self._half_written = count
        self.flush()
        self._half_written = None
        return count

    def pending(self) -> int:
        """Return how many decrypted bytes wait."""
        return 0 if self.connection is None else self.connection.pending()

    def shutdown(self) -> Any:  # noqa: ANN401 - the stdlib's signature
        """Say goodbye and wait for the peer's; returns the socket."""
        connection = self._ready()
        is_over = False
        if not self._has_said_goodbye:
            self._has_said_goodbye = True
            is_over = self._drive(connection.shutdown)
        self.flush()
        if not is_over:
            self._drive(connection.shutdown)
        return self.owner

    def getpeercert(self, binary_form: bool = False) -> Any:  # noqa: ANN401, FBT001, FBT002 - the stdlib's signature
        """Return the peer's certificate: DER, or what stands in it where it was verified."""
        if not self.is_done or self.connection is None:
            raise ValueError("handshake not done yet")
        der = self.peer_der()
        if binary_form or der is None:
            return der
        return {} if self.context.verify_mode is ssl.CERT_NONE else self.certificate(der)

    def peer_der(self) -> bytes | None:
        """Return the peer's end-entity certificate, DER."""
        chain = () if self.connection is None else load_binding().peer_chain(self.connection)
        return chain[0] if chain else None

    def get_unverified_chain(self) -> list[Encoded] | None:
        """Return what the peer sent."""
        chain = [] if self.connection is None else load_binding().peer_chain(self.connection)
        return [Encoded(der) for der in chain] or None

    def get_verified_chain(self) -> list[Encoded] | None:
        """Return the same: a Merkle Tree certificate has no chain, and what OpenSSL has built is not ours to show."""
        return self.get_unverified_chain()

    def version(self) -> str | None:
        """Return the protocol version."""
        return None if self.connection is None or not self.is_done else self.connection.get_protocol_version_name()

    def cipher(self) -> tuple[str, str, int] | None:
        """Return the cipher suite, its protocol and the bits of its key."""
        connection = self.connection
        name = None if connection is None else connection.get_cipher_name()
        if connection is None or name is None:
            return None
        return name, connection.get_cipher_version() or "", connection.get_cipher_bits() or 0

    def group(self) -> str | None:
        """Return the group of the key exchange."""
        return None if self.connection is None or not self.is_done else self.connection.get_group_name()

    def shared_ciphers(self) -> None:
        """Return nothing: pyOpenSSL does not say."""

    def compression(self) -> None:
        """Return nothing: there is no compression."""

    def selected_alpn_protocol(self) -> str | None:
        """Return the application protocol."""
        name = b"" if self.connection is None else self.connection.get_alpn_proto_negotiated()
        return name.decode("ascii") or None

    def get_channel_binding(self, cb_type: str = "tls-unique") -> bytes | None:
        """Return the Finished message of the client."""
        if cb_type != "tls-unique":
            raise ValueError(f"{cb_type} channel binding type not implemented")
        return None if self.connection is None else self.first_finished(self.connection)

    @abstractmethod
    def first_finished(self, connection: SSL.Connection) -> bytes | None:
        """Return the Finished message of the client."""

    def verify_client_post_handshake(self) -> None:
        """Refuse: certificates are asked for in the handshake."""
        raise NotImplementedError("certificates of clients are asked for in the handshake only")

    def next_record(self) -> bytes:
        """Return one record of the peer, and take no byte behind it; what is no record as far as that is clear.

        What is not asked for stays where it is: programs look there whether there is more to read. Raises
        `ssl.SSLEOFError` where the bytes end unasked.
        """
        while missing := _count_missing(self._held):
            data = self.transport.receive(missing)
            if not data:
                raise ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "EOF occurred in violation of protocol")
            self._held += data
        record, self._held = self._held, b""
        return record

    def hand_over(self, connection: SSL.Connection, data: bytes) -> None:
        """Put bytes where OpenSSL reads."""
        with self._calling:
            connection.bio_write(data)

    def flush(self, *, waits: bool = True) -> None:
        """Send what OpenSSL has written. waits: for another thread that is sending; otherwise that one sends it."""
        if not self._sending.acquire(blocking=waits):
            return
        try:
            self.transport.flush()
            while self.connection is not None:
                with self._calling:
                    data = load_binding().take_output(self.connection)
                if not data:
                    return
                self.transport.send(data)
        finally:
            self._sending.release()

    def _ready(self) -> SSL.Connection:
        """Return the connection, after its handshake."""
        self._refuse_after_failure()
        if not self.is_done:
            self.do_handshake()
        assert self.connection is not None
        return self.connection

    def _drive(self, act: Callable[[], _Result]) -> _Result:
        """Call OpenSSL until it is content, and carry bytes between it and the peer. Raises `ssl.SSLError`."""
        assert self.connection is not None
        while True:
            try:
                with self._calling, running(self):
                    result = act()
            except SSL.WantReadError:
                self._raise_failure("")
                # Who reads does not wait for who writes: the peer may be waiting for the reader.
                self.flush(waits=not self.is_done)
                self.advance(self.connection)
            except SSL.ZeroReturnError:
                raise ssl.SSLZeroReturnError(
                    ssl.SSL_ERROR_ZERO_RETURN, "TLS/SSL connection has been closed (EOF)"
                ) from None
            except SSL.Error as error:
                # What is there to be sent is the alert.
                with contextlib.suppress(OSError):
                    self.flush(waits=not self.is_done)
                self._raise_failure(_words(error))
                raise self._convert(error) from None
            else:
                self._raise_failure("")
                return result

    def _refuse_after_failure(self) -> None:
        """Refuse to go on after a handshake that has failed."""
        if self._is_broken:
            error = ssl.SSLError(ssl.SSL_ERROR_SSL, "the handshake has failed before")
            self.explain(error)
            raise error

    def _raise_failure(self, words: str) -> None:
        """Raise what a callback has kept, in the form that OpenSSL's own refusal would have. words: of OpenSSL."""
        if self.failure is None:
            return
        self._is_broken = True
        if words == _VERIFY_FAILED:
            raise self._verification_error()
        raise ssl.SSLError(ssl.SSL_ERROR_SSL, words or "handshake refused")

    def _verification_error(self) -> ssl.SSLCertVerificationError:
        """Make the exception for a certificate that was refused, by OpenSSL or by us."""
        binding = load_binding()
        code = 0 if self.connection is None else binding.verify_result(self.connection)
        message = binding.describe_result(code)
        if code in _MISMATCHES:
            # As the stdlib says it.
            message = f"{_MISMATCHES[code]} mismatch, certificate is not valid for '{self.server_hostname}'."
        refused = ssl.SSLCertVerificationError(
            ssl.SSL_ERROR_SSL, f"[SSL: CERTIFICATE_VERIFY_FAILED] {_VERIFY_FAILED}: {message}"
        )
        refused.verify_code, refused.verify_message = code, message
        refused.library, refused.reason = "SSL", "CERTIFICATE_VERIFY_FAILED"
        return refused

    def _convert(self, error: SSL.Error) -> OSError:
        """Return the stdlib's exception for one of pyOpenSSL."""
        if isinstance(error, SSL.SysCallError):
            return ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "EOF occurred in violation of protocol")
        words = _words(error)
        if words == _VERIFY_FAILED:
            return self._verification_error()
        converted = ssl.SSLError(ssl.SSL_ERROR_SSL, f"[SSL: {words.upper().replace(' ', '_')}] {words}")
        converted.library, converted.reason = "SSL", words.upper().replace(" ", "_")
        return converted


def _count_missing(data: bytes) -> int:
    """Return how many bytes are missing from the header of a record, or from the record; 0 where it cannot be one."""
    if data and (data[0] not in _RECORD_TYPES or data[1:2] not in {b"", b"\x03"}):
        return 0
    if len(data) < 5:
        return 5 - len(data)
    return 5 + int.from_bytes(data[3:5], "big") - len(data)


def _words(error: SSL.Error) -> str:
    """Return OpenSSL's reason, the newest of several."""
    stack = error.args[0] if error.args and isinstance(error.args[0], list) else []
    return str(stack[-1][2]) if stack else "unknown error"
