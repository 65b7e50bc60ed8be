"""The functions of libssl and libcrypto that are called through ctypes, with their types.

Spec: OpenSSL 3.0, the manual pages of section 3 with these names.
"""

import ctypes
from collections.abc import Callable
from typing import Any

from mtc.tls.adapters.stdlib.callbacks import ADD, CHOOSE, GIVE_TICKET, PARSE, TAKE_TICKET, VERIFY

_P = ctypes.c_void_p
_INT = ctypes.c_int
_SIZE, _LONG, _TEXT = ctypes.c_size_t, ctypes.c_long, ctypes.c_char_p
# name: (result, arguments); pointers of all kinds are c_void_p.
_FUNCTIONS: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "SSL_CTX_add_custom_ext": (_INT, (_P, ctypes.c_uint, ctypes.c_uint, ADD, _P, _P, PARSE, _P)),
    "SSL_CTX_set_cert_verify_callback": (None, (_P, VERIFY, _P)),
    "SSL_CTX_set_cert_cb": (None, (_P, CHOOSE, _P)),
    "SSL_CTX_set_security_level": (None, (_P, _INT)),
    "SSL_CTX_get_options": (ctypes.c_uint64, (_P,)),
    "SSL_CTX_ctrl": (_LONG, (_P, _INT, _LONG, _P)),
    "SSL_CTX_use_certificate_ASN1": (_INT, (_P, _INT, _TEXT)),
    "SSL_CTX_use_PrivateKey": (_INT, (_P, _P)),
    "SSL_CTX_check_private_key": (_INT, (_P,)),
    "SSL_CTX_set_session_ticket_cb": (_INT, (_P, GIVE_TICKET, TAKE_TICKET, _P)),
    "SSL_SESSION_set1_ticket_appdata": (_INT, (_P, _TEXT, _SIZE)),
    "SSL_SESSION_get0_ticket_appdata": (_INT, (_P, ctypes.POINTER(_P), ctypes.POINTER(_SIZE))),
    "SSL_SESSION_set_timeout": (_LONG, (_P, _LONG)),
    "SSL_SESSION_get0_peer": (_P, (_P,)),
    "SSL_SESSION_get_id": (_P, (_P, ctypes.POINTER(ctypes.c_uint))),
    "SSL_SESSION_get_time": (_LONG, (_P,)),
    "SSL_SESSION_get_timeout": (_LONG, (_P,)),
    "SSL_SESSION_get_ticket_lifetime_hint": (ctypes.c_ulong, (_P,)),
    "SSL_SESSION_has_ticket": (_INT, (_P,)),
    "SSL_SESSION_dup": (_P, (_P,)),
    "SSL_SESSION_free": (None, (_P,)),
    "SSL_get_session": (_P, (_P,)),
    "SSL_get1_session": (_P, (_P,)),
    "SSL_set_session": (_INT, (_P, _P)),
    "SSL_set_options": (ctypes.c_uint64, (_P, ctypes.c_uint64)),
    "SSL_client_hello_get0_ext": (_INT, (_P, ctypes.c_uint, ctypes.POINTER(_P), ctypes.POINTER(_SIZE))),
    "SSL_set_SSL_CTX": (_P, (_P, _P)),
    "SSL_get_SSL_CTX": (_P, (_P,)),
    "SSL_get_ex_data": (_P, (_P, _INT)),
    "SSL_get_ex_data_X509_STORE_CTX_idx": (_INT, ()),
    "SSL_get_servername": (_TEXT, (_P, _INT)),
    "SSL_get_sigalgs": (_INT, (_P, _INT, _P, _P, _P, _P, _P)),
    "SSL_version": (_INT, (_P,)),
    "X509_STORE_CTX_get_ex_data": (_P, (_P, _INT)),
    "X509_STORE_CTX_get0_cert": (_P, (_P,)),
    "X509_STORE_CTX_set_error": (None, (_P, _INT)),
    "X509_verify_cert": (_INT, (_P,)),
    "i2d_X509": (_INT, (_P, _P)),
    "CRYPTO_free": (None, (_P, _TEXT, _INT)),
    "d2i_X509": (_P, (_P, ctypes.POINTER(_P), _LONG)),
    "X509_free": (None, (_P,)),
    "d2i_AutoPrivateKey": (_P, (_P, ctypes.POINTER(_P), _LONG)),
    "EVP_PKEY_free": (None, (_P,)),
    "ERR_get_error": (ctypes.c_ulong, ()),
    "ERR_error_string_n": (None, (ctypes.c_ulong, _TEXT, _SIZE)),
    "ERR_clear_error": (None, ()),
}
# They do next to nothing, so that letting other threads run meanwhile would cost more than they do themselves. Nothing
# that calls back, waits or computes is among them.
_SHORT = frozenset(
    {
        "SSL_get_ex_data",
        "SSL_get_servername",
        "SSL_get_sigalgs",
        "SSL_version",
        "X509_STORE_CTX_get_ex_data",
        "X509_STORE_CTX_get0_cert",
        "X509_STORE_CTX_set_error",
        "i2d_X509",
        "CRYPTO_free",
        "SSL_client_hello_get0_ext",
        "SSL_get_session",
        "SSL_SESSION_get0_peer",
        "SSL_SESSION_get0_ticket_appdata",
        "SSL_SESSION_set1_ticket_appdata",
        "SSL_SESSION_set_timeout",
    }
)
bytes_at: Callable[[Any, int], bytes] = ctypes.pythonapi["PyBytes_FromStringAndSize"]
"""Copy memory, as `ctypes.string_at` does with more ado."""
object_at: Callable[[int], object] = ctypes.pythonapi["Py_NewRef"]
"""Return the Python object at an address, as `ctypes.cast` does with more ado."""


def load_functions(path: str) -> dict[str, Callable[..., Any]]:
    """Return the functions by name, from what the library at `path` was linked with.

    Raises OSError and AttributeError when they are not there.
    """
    library, keeping_gil = ctypes.CDLL(path), ctypes.PyDLL(path)
    found: dict[str, Callable[..., Any]] = {}
    for name, (result, arguments) in _FUNCTIONS.items():
        function = getattr(keeping_gil if name in _SHORT else library, name)
        function.restype, function.argtypes = result, arguments
        found[name] = function
    return found


# Looked up by subscript these are our own copies, so the types hold for nobody else.
bytes_at.restype, bytes_at.argtypes = ctypes.py_object, (_P, ctypes.c_ssize_t)  # type: ignore[attr-defined]
object_at.restype, object_at.argtypes = ctypes.py_object, (_P,)  # type: ignore[attr-defined]
