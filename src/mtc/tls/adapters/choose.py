"""Which back end makes a context: the stdlib's `ssl` where it can do the job, else pyOpenSSL.

The stdlib's has the whole of `trust_anchors`. pyOpenSSL's has what its OpenSSL has, ML-DSA keys above all, and its
server says nothing of trust anchors; so it is chosen when it is asked for, or when there is no other way.
"""

import ssl
from collections.abc import Sequence
from typing import Literal

from mtc.errors import Reason, UsageError
from mtc.tls.adapters.clients import ClientReport, Snapshots
from mtc.tls.adapters.pyopenssl import load_binding
from mtc.tls.adapters.servers import ServerReport
from mtc.tls.adapters.stdlib import client as stdlib_client
from mtc.tls.adapters.stdlib import server as stdlib_server
from mtc.tls.adapters.stdlib.client import ClientContext
from mtc.tls.adapters.stdlib.failures import find_report
from mtc.tls.adapters.stdlib.libssl import load_libssl
from mtc.tls.adapters.stdlib.server import ServerContext
from mtc.tls.paths import CertificationPath
from mtc.web import Clock

__all__ = [
    "BackEndName",
    "ClientContext",
    "ServerContext",
    "client_context",
    "client_report",
    "negotiated_group",
    "server_context",
    "server_report",
]

BackEndName = Literal["stdlib", "pyopenssl"]
"""Names of the back ends."""


def client_context(  # noqa: PLR0913 - keyword arguments with defaults
    trust_store: Snapshots,
    *,
    paths: Sequence[CertificationPath] = (),
    classical: bool = True,
    sends_extension: bool = True,
    resumption: bool | None = None,
    remembers_retries: bool = True,
    clock: Clock | None = None,
    back_end: BackEndName | None = None,
) -> ClientContext:
    """Return an `ssl.SSLContext` that verifies Merkle Tree certificates, for urllib, aiohttp, asyncio and the others.

    trust_store: a snapshot, or a call that returns the present one, called once for each handshake; if it raises, the
    handshake fails. paths: what the client proves who it is with, if a server asks; the best one for the server's list
    is sent, or no certificate when none suits. classical: whether other chains are verified as by
    `ssl.create_default_context`, against the system's roots and what is loaded into the context; otherwise they are
    refused. sends_extension: whether servers are told what we trust; without it they send landmark-relative
    certificates to nobody. resumption: whether connections have a `session` that can be handed in to another one;
    without a word, where there are no `paths` and the back end can. remembers_retries: after a handshake whose report
    names a `retry`, the next connection to that host asks for it. clock: for tests. back_end: without a word the
    stdlib's `ssl` where it can do the job, else pyOpenSSL, which does not resume.

    The context checks host name and validity of every certificate unless `check_hostname` and `verify_mode` are
    changed, which mean what they always mean. Raises UsageError (UNSUPPORTED) where this Python cannot do it.
    """
    if _choose(back_end, paths) == "stdlib":
        return stdlib_client.client_context(
            trust_store,
            paths=paths,
            classical=classical,
            sends_extension=sends_extension,
            resumption=resumption,
            remembers_retries=remembers_retries,
            clock=clock,
        )
    _refuse_resumption(resumption)
    from mtc.tls.adapters.pyopenssl import client  # noqa: PLC0415 - pyOpenSSL may be missing

    return client.client_context(
        trust_store,
        paths=paths,
        classical=classical,
        sends_extension=sends_extension,
        remembers_retries=remembers_retries,
        clock=clock,
    )


def server_context(  # noqa: PLR0913 - keyword arguments with defaults
    paths: Sequence[CertificationPath],
    *,
    fallback: CertificationPath | None = None,
    clients: Snapshots | None = None,
    resumption: bool | None = None,
    clock: Clock | None = None,
    back_end: BackEndName | None = None,
) -> ServerContext:
    """Return an `ssl.SSLContext` that sends each client the best certification path that it can verify.

    paths: for any number of names, in order of preference; see `mtc.tls.selection` for the rules. fallback: a path that
    is sent, unacknowledged, to clients for whom there is no other, whatever name they ask for; best a classical one.
    Without it such a handshake fails. Where no classical path is given only TLS 1.3 is spoken. clients: a trust store,
    or a call that returns the present one: only clients with a Merkle Tree certificate that it verifies are let in, and
    those without any as well when `verify_mode` is set to `ssl.CERT_OPTIONAL`. Who the client is and what it may do is
    for the caller to decide, from `server_report`. resumption: whether tickets are given, in TLS 1.3 only; without a
    word, where no certificates of clients are asked for and the back end can. A ticket is good in this context alone,
    for the same name, as long as its certificate is served and valid; that of a client is judged again. clock: for
    tests. back_end: without a word the stdlib's `ssl` where it can load the paths, else pyOpenSSL, whose server does
    not resume, nor say anything of trust anchors itself.

    Raises UsageError when there is no path, a key does not fit, or this Python cannot do it (UNSUPPORTED).
    """
    everything = (*paths, fallback) if fallback is not None else tuple(paths)
    if _choose(back_end, everything) == "stdlib":
        return stdlib_server.server_context(
            paths, fallback=fallback, clients=clients, resumption=resumption, clock=clock
        )
    _refuse_resumption(resumption)
    from mtc.tls.adapters.pyopenssl import server  # noqa: PLC0415 - pyOpenSSL may be missing

    return server.server_context(paths, fallback=fallback, clients=clients, clock=clock)


def client_report(source: ssl.SSLSocket | ssl.SSLObject | BaseException) -> ClientReport | None:
    """Return what happened in a handshake, or None when it was not made by a client context of ours.

    source: the connection (in asyncio `get_extra_info("ssl_object")`), or the exception with which connecting failed,
    also when a library has wrapped it.
    """
    if isinstance(source, BaseException):
        return find_report(source, ClientReport)
    engine = getattr(source, "mtc_engine", None)
    found = stdlib_client.client_report(source) if engine is None else engine.report()
    return found if isinstance(found, ClientReport) else None


def server_report(connection: ssl.SSLSocket | ssl.SSLObject) -> ServerReport | None:
    """Return what happened in a handshake, or None when it was not made by a server context of ours.

    In asyncio the connection is `get_extra_info("ssl_object")`.
    """
    engine = getattr(connection, "mtc_engine", None)
    found = stdlib_server.server_report(connection) if engine is None else engine.report()
    return found if isinstance(found, ServerReport) else None


def negotiated_group(connection: ssl.SSLSocket | ssl.SSLObject) -> str | None:
    """Return the group of the key exchange, such as "X25519MLKEM768", None where the back end cannot tell."""
    engine = getattr(connection, "mtc_engine", None)
    return None if engine is None else engine.group()


def _choose(back_end: BackEndName | None, paths: Sequence[CertificationPath]) -> BackEndName:
    """Return the back end that can do it, or the one asked for. Raises UsageError for a name that is none."""
    if back_end in {"stdlib", "pyopenssl"}:
        return back_end
    if back_end is not None:
        raise UsageError(Reason.USAGE, f"there is no TLS back end {back_end!r}; choose stdlib or pyopenssl")
    try:
        library = load_libssl()
    except UsageError:
        return "pyopenssl" if _is_pyopenssl_usable() else "stdlib"
    unknown = [path for path in paths if not library.is_key(path.private_key)]
    if unknown and _is_pyopenssl_usable() and all(load_binding().is_key(path.private_key) for path in unknown):
        return "pyopenssl"
    return "stdlib"


def _refuse_resumption(resumption: bool | None) -> None:  # noqa: FBT001 - an argument of the caller's
    """Refuse sessions where they are asked for in words. Raises UsageError."""
    if resumption:
        raise UsageError(
            Reason.UNSUPPORTED, "the pyopenssl back end does not resume sessions; use the stdlib's, or resumption=None"
        )


def _is_pyopenssl_usable() -> bool:
    """Tell whether the other back end is there. Where it is not, the stdlib's says why it cannot do the job."""
    try:
        load_binding()
    except UsageError:
        return False
    return True
