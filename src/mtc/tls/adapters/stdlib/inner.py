"""Inner contexts: one for each certification path of ours; a connection is switched to the one whose path is chosen."""

import ssl
from typing import Any

from mtc.tls.adapters.stdlib.libssl import LibSSL
from mtc.tls.paths import CertificationPath


def load_path(library: LibSSL, path: CertificationPath, sender: Any, receiver: Any) -> ssl.SSLContext:  # noqa: ANN401 - ctypes callbacks
    """Return a context that holds one path. sender, receiver: for `LibSSL.register_extension`.

    The side that a context was made for plays no part in the certificates that it holds. Raises UsageError.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    if path.is_mtc:
        # OpenSSL before 4.0.3 knows no strength of id-alg-mtcProof, takes it for none, and refuses to load or send the
        # certificate at any other level. It concerns our certificate only: such a path goes out in TLS 1.3, whose
        # version, cipher suite, key share and the peer's signature schemes were settled before it is chosen.
        library.set_security_level(context, 0)
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    library.disable_sessions(context)
    library.register_extension(context, sender, receiver)
    library.use_path(context, path.certificates, path.private_key)
    return context
