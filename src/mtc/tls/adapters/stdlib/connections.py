"""What the connections of both sides have in common: a state that belongs to them, and failures that say why."""

import ssl
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from mtc.tls.adapters.stdlib.callbacks import Body
from mtc.tls.adapters.stdlib.failures import explain, without_way
from mtc.tls.adapters.stdlib.libssl import load_libssl
from mtc.tls.adapters.stdlib.peer import describe_peer
from mtc.trust import Verified

_Handshake = TypeVar("_Handshake")


class State(Generic[_Handshake]):
    """The handshake of one connection, and the bytes that C reads. Owned by the connection, and by nobody else.

    address: of the connection in C, 0 before C called back.
    """

    def __init__(self, handshake: _Handshake) -> None:
        """Begin."""
        self.handshake = handshake
        self.address = 0
        self.bodies: list[Body] = []

    def hold(self, data: bytes | None) -> Body | None:
        """Keep what C is to read as long as the connection lives."""
        if data is None:
            return None
        self.bodies.append(Body(data))
        return self.bodies[-1]


class _Running(threading.local):
    """The connection whose `do_handshake` runs in this thread."""

    connection: "Connection | None" = None


running = _Running()


class Connection:
    """A connection of the stdlib with what is known of it; before `ssl.SSLSocket` or `ssl.SSLObject` in the bases.

    The side says in `mtc_check` what must hold after a handshake, in `mtc_peer` whom it has verified, and in
    `mtc_explain` what an exception carries. It is no `ABC`, for those are slow to recognise, and each callback does.
    """

    context: Any
    session_reused: Any
    mtc_state: Any = None
    mtc_failure: BaseException | None = None

    def do_handshake(self, *arguments: Any) -> None:  # noqa: ANN401 - the stdlib's
        """Perform the handshake, as far as bytes are there; a failure says why."""
        before, running.connection = running.connection, self
        try:
            super().do_handshake(*arguments)  # type: ignore[misc]  # of the class beside it
            self._check()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            self.mtc_explain(error)
            raise
        finally:
            running.connection = before

    def _check(self) -> None:
        """Check what must hold; where it does not, a socket is closed, for OpenSSL would go on with it."""
        try:
            self.mtc_check()
        except ssl.SSLError:
            if isinstance(self, ssl.SSLSocket):
                self.close()
            raise

    def getpeercert(self, binary_form: bool = False) -> Any:  # noqa: ANN401, FBT001, FBT002 - the stdlib's signature
        """Return the peer's certificate; one of ours is described without OpenSSL, which may not be able to."""
        verified = None if binary_form else self.mtc_peer()
        return super().getpeercert(binary_form) if verified is None else describe_peer(verified)  # type: ignore[misc]

    def mtc_check(self) -> None:
        """Refuse a connection whose peer nobody judged in this very handshake, whatever OpenSSL says."""
        raise NotImplementedError

    def mtc_peer(self) -> Verified | None:
        """Return the peer's Merkle Tree certificate."""
        raise NotImplementedError

    def mtc_explain(self, error: ssl.SSLError) -> None:
        """Give the exception of a failed handshake what is known."""
        explain(error, self.mtc_failure, "handshake refused")


def keep(connection: int, error: BaseException) -> None:
    """Keep what a callback met: in the report, and for the caller of `do_handshake`."""
    owner = load_libssl().owner_of(connection) if connection else None
    if isinstance(owner, Connection):
        owner.mtc_failure = without_way(error)
        if owner.mtc_state is not None:
            owner.mtc_state.handshake.failure = owner.mtc_failure


def guard(act: Callable[[int], bool], connection: int) -> int:
    """Run the body of a callback: 1 when it says so, 0 when not, or when it raised; nothing is raised through C."""
    try:
        return 1 if act(connection) else 0
    except BaseException as error:  # noqa: BLE001 - nothing may be raised through C
        keep(connection, error)
        return 0
