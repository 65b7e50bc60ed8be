"""What C calls: callbacks of libssl that never raise, and the bytes that they hand over.

Spec: OpenSSL, SSL_CTX_add_custom_ext(3), SSL_CTX_set_cert_verify_callback(3), SSL_CTX_set_cert_cb(3),
SSL_CTX_set_session_ticket_cb(3).
"""

import ctypes
from collections.abc import Callable
from typing import Any

from mtc.errors import Error

INTERNAL_ERROR = 80
"""TLS alert: it is our fault."""
DECODE_ERROR = 50
"""TLS alert: the peer's extension is malformed."""

_P = ctypes.c_void_p
_INT = ctypes.c_int
ADD = ctypes.CFUNCTYPE(
    _INT,
    _P,
    ctypes.c_uint,
    ctypes.c_uint,
    ctypes.POINTER(_P),
    ctypes.POINTER(ctypes.c_size_t),
    _P,
    ctypes.c_size_t,
    ctypes.POINTER(_INT),
    _P,
)
"""custom_ext_add_cb_ex: what we send."""
PARSE = ctypes.CFUNCTYPE(
    _INT, _P, ctypes.c_uint, ctypes.c_uint, _P, ctypes.c_size_t, _P, ctypes.c_size_t, ctypes.POINTER(_INT), _P
)
"""custom_ext_parse_cb_ex: what the peer sent."""
VERIFY = ctypes.CFUNCTYPE(_INT, _P, _P)
"""SSL_CTX_set_cert_verify_callback: X509_STORE_CTX, argument."""
CHOOSE = ctypes.CFUNCTYPE(_INT, _P, _P)
"""SSL_CTX_set_cert_cb: SSL, argument."""

GIVE_TICKET = ctypes.CFUNCTYPE(_INT, _P, _P)
"""SSL_CTX_generate_session_ticket_fn: SSL, argument."""
TAKE_TICKET = ctypes.CFUNCTYPE(_INT, _P, _P, _P, ctypes.c_size_t, _INT, _P)
"""SSL_CTX_decrypt_session_ticket_fn: SSL, SSL_SESSION, key name and its size, status, argument."""


class Body:
    """Bytes that C reads after a callback has returned; whoever makes one keeps it as long as the connection."""

    __slots__ = ("buffer", "size")

    def __init__(self, data: bytes) -> None:
        """Copy the bytes to where they stay."""
        self.size = len(data)
        self.buffer = ctypes.create_string_buffer(data, max(1, len(data)))


def make_sender(answer: Callable[[int, int, int], Body | None], keep: Callable[[int, BaseException], None]) -> Any:  # noqa: ANN401 - a ctypes callback
    """Return the callback that sends the extension. answer: (connection, place, index of the certificate) to the body.

    keep: (connection, exception) for what `answer` raised; the handshake fails with an alert. It never raises itself.
    """

    def send(  # noqa: PLR0913 - C's signature
        connection: int,
        _kind: int,
        place: int,
        out: Any,  # noqa: ANN401 - a ctypes pointer
        out_size: Any,  # noqa: ANN401 - a ctypes pointer
        _x509: int | None,
        index: int,
        alert: Any,  # noqa: ANN401 - a ctypes pointer
        _argument: int | None,
    ) -> int:
        try:
            body = answer(connection, place, index)
            if body is None:
                return 0
            out[0], out_size[0] = ctypes.addressof(body.buffer), body.size
        except BaseException as error:  # noqa: BLE001 - nothing may be raised through C
            keep(connection, error)
            alert[0] = INTERNAL_ERROR
            return -1
        return 1

    return ADD(send)


def make_receiver(take: Callable[[int, int, int, bytes], None], keep: Callable[[int, BaseException], None]) -> Any:  # noqa: ANN401 - a ctypes callback
    """Return the callback that reads the peer's extension. take: (connection, place, index, data). keep: as above."""

    def receive(  # noqa: PLR0913 - C's signature
        connection: int,
        _kind: int,
        place: int,
        data: int | None,
        size: int,
        _x509: int | None,
        index: int,
        alert: Any,  # noqa: ANN401 - a ctypes pointer
        _argument: int | None,
    ) -> int:
        try:
            take(connection, place, index, ctypes.string_at(data, size) if data and size else b"")
        except BaseException as error:  # noqa: BLE001 - nothing may be raised through C
            keep(connection, error)
            alert[0] = DECODE_ERROR if isinstance(error, Error) else INTERNAL_ERROR
            return 0
        return 1

    return PARSE(receive)


def keep_forever(callback: Any) -> Any:  # noqa: ANN401 - a ctypes callback
    """Return the callback, never to be freed: at the end of the process other threads may still be in a handshake."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(callback))
    return callback
