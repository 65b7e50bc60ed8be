"""Sessions of a client: kept with what they are bound to, and offered to a server only where all of it still fits.

A session is judged twice, both times with the snapshot of the new handshake: when that begins, so that a session that
does not fit costs nothing but a full handshake, and when the server has taken it.

Sessions are kept without the stdlib's `SSLSession`, because CPython 3.11 and the first releases of 3.12 and 3.13 lose
the memory of each session that they are asked for (python/cpython issue 116810).

Spec: RFC 8446, "Resumption and Pre-Shared Key (PSK)".
"""

import contextlib
import ssl
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, Self

from mtc.errors import Error
from mtc.tls.adapters.clients import ClientHandshake
from mtc.tls.adapters.resumption import Bond
from mtc.tls.adapters.stdlib.connections import State
from mtc.tls.adapters.stdlib.libssl import load_libssl

_CRL_FLAGS = ssl.VERIFY_CRL_CHECK_LEAF | ssl.VERIFY_CRL_CHECK_CHAIN


class Session:
    """What a client may resume; from `session` of a connection, for `wrap_socket` and `wrap_bio` of the same context.

    The ticket arrives after the handshake: read something from the connection first, and look at `has_ticket`. The
    attributes are those of `ssl.SSLSession`; times are POSIX seconds, spans are seconds.
    """

    __slots__ = (
        "__weakref__",
        "_release",
        "address",
        "bond",
        "context",
        "has_ticket",
        "id",
        "ticket_lifetime_hint",
        "time",
        "timeout",
    )

    def __init__(self, context: ssl.SSLContext, address: int, bond: Bond) -> None:
        """Own an SSL_SESSION."""
        library = load_libssl()
        self.context = context
        self.address = address
        self.bond = bond
        # Found now, for at the end of the process modules may be gone before the last session.
        self._release = library.release_session
        facts = library.describe_session(address)
        self.id, self.time, self.timeout = facts.id, facts.time, facts.timeout
        self.ticket_lifetime_hint, self.has_ticket = facts.ticket_lifetime_hint, facts.has_ticket

    def __del__(self) -> None:
        """Give the SSL_SESSION back; connections that use it have their own."""
        self._release(self.address)


_wanted: ContextVar[Session | None] = ContextVar("mtc_tls_wanted", default=None)


@contextlib.contextmanager
def wanting(context: ssl.SSLContext, session: object) -> Iterator[None]:
    """Let the connection that is made inside the `with` offer a session, if it fits when the handshake begins."""
    token = _wanted.set(_own(context, session))
    try:
        yield
    finally:
        _wanted.reset(token)


def unverified() -> ssl.SSLCertVerificationError:
    """Make the error for a server that nobody judged."""
    return ssl.SSLCertVerificationError(1, "[MTC] the server's certificate was not verified in this handshake")


def _own(context: ssl.SSLContext, session: object) -> Session | None:
    """Return a session of that very context; anything else is none."""
    return session if isinstance(session, Session) and session.context is context else None


class Resumable:
    """The part of a client's connection that is about sessions; before `ssl.SSLSocket` or `ssl.SSLObject`."""

    context: Any
    mtc_state: State[ClientHandshake] | None
    mtc_wanted: Session | None
    mtc_offered: Session | None = None

    def __new__(cls, *arguments: Any, **keywords: Any) -> Self:  # noqa: ANN401 - the stdlib's
        """Take the session that is wanted; the handshake may follow at once or much later."""
        self = super().__new__(cls, *arguments, **keywords)
        self.mtc_wanted = _wanted.get()
        return self

    def do_handshake(self, *arguments: Any) -> None:  # noqa: ANN401 - the stdlib's
        """Offer the session, if there is one, and perform the handshake."""
        wanted, self.mtc_wanted = self.mtc_wanted, None
        if wanted is not None:
            self._offer(wanted)
        super().do_handshake(*arguments)  # type: ignore[misc]  # of the class beside it

    def mtc_begin(self) -> ClientHandshake:
        """Return the handshake, which begins now at the latest."""
        raise NotImplementedError

    def mtc_resume(self) -> None:
        """Judge the server of a resumed handshake. Raises ssl.SSLCertVerificationError."""
        if self.mtc_offered is None or self.mtc_state is None:
            raise unverified()
        handshake = self.mtc_state.handshake
        try:
            handshake.resume(self.mtc_offered.bond)
        except Error as failure:
            handshake.failure = failure
            raise ssl.SSLCertVerificationError(1, f"[MTC] the session cannot go on: {failure.message}") from failure

    @property
    def session(self) -> Any:  # noqa: ANN401 - the stdlib's signature
        """What another connection of this context may resume; None where nobody judged the server, or before that."""
        # This reference keeps the SSL alive while its session is taken.
        inner = getattr(self, "_sslobj", None)
        if inner is None or self.mtc_state is None:
            return None
        leaf = super().getpeercert(binary_form=True)  # type: ignore[misc]  # of the class beside it
        bond = self.mtc_state.handshake.make_bond(leaf or b"")
        address = 0 if bond is None else load_libssl().keep_session(inner)
        return Session(self.context, address, bond) if bond is not None and address else None

    @session.setter
    def session(self, value: object) -> None:
        """Offer it, if it fits; to no avail after the handshake."""
        self.mtc_wanted = _own(self.context, value)

    def _offer(self, wanted: Session) -> None:
        """Offer a session if the server would be accepted with it; otherwise the handshake is a full one."""
        if self.context.verify_mode is ssl.CERT_NONE:
            # Nobody will judge it in the end.
            return
        if not wanted.bond.is_mtc and self.context.verify_flags & _CRL_FLAGS:
            # OpenSSL looks for classical revocations during verification only.
            return
        try:
            self.mtc_begin().check(wanted.bond)
        except Exception:  # noqa: BLE001 - whatever it is, the full handshake will meet it
            return
        if load_libssl().offer_session(getattr(self, "_sslobj", None), wanted.address):
            self.mtc_offered = wanted
