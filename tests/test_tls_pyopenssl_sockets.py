"""Sockets of the pyOpenSSL back end behave as those of the stdlib do."""

import select
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from tests.makers import HOST
from tests.tls_pairs import CLOCK, landmark, standalone, tls_ca

from mtc.tls import ServerContext, client_context, client_report, server_context, server_report
from mtc.tls.adapters.pyopenssl.client import PyOpenSSLClientContext
from mtc.trust import TrustStore

MEGABYTE = bytes(range(256)) * 4096


@pytest.fixture(scope="module")
def ours() -> PyOpenSSLClientContext:
    """Return the client of all tests here."""
    context = client_context(tls_ca().store(), classical=False, clock=CLOCK, back_end="pyopenssl")
    assert isinstance(context, PyOpenSSLClientContext)
    return context


@pytest.fixture(scope="module")
def theirs() -> ServerContext:
    """Return the server of all tests here."""
    return server_context([landmark(tls_ca()), standalone(tls_ca())], clock=CLOCK, back_end="pyopenssl")


@contextmanager
def connected(
    ours: ssl.SSLContext, theirs: ssl.SSLContext, timeout: float = 30
) -> Iterator[tuple[ssl.SSLSocket, ssl.SSLSocket]]:
    """Give both ends of a connection over sockets, after the handshake."""
    one, other = socket.socketpair()
    one.settimeout(timeout)
    other.settimeout(timeout)
    accepted: list[ssl.SSLSocket] = []
    failed: list[OSError] = []

    def accept() -> None:
        try:
            accepted.append(theirs.wrap_socket(other, server_side=True))
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=accept)
    thread.start()
    with ExitStack() as stack:
        stack.enter_context(one)
        stack.enter_context(other)
        try:
            end = stack.enter_context(ours.wrap_socket(one, server_hostname=HOST))
        finally:
            # After a refusal the end of the stream ends the other side's waiting.
            one.close()
            thread.join()
            for server_end in accepted:
                stack.enter_context(server_end)
        if failed:
            raise failed[0]
        yield end, accepted[0]


def receive_all(end: ssl.SSLSocket, count: int) -> bytes:
    """Return exactly so many bytes."""
    received = bytearray()
    while len(received) < count:
        received += end.recv(65536)
    return bytes(received)


def test_bytes_arrive_in_both_directions_at_once(ours: ssl.SSLContext, theirs: ssl.SSLContext) -> None:
    """One thread may write more than a socket holds while another reads, at both ends, and nothing is lost or stuck."""
    with connected(ours, theirs) as (end, other):
        received: dict[str, bytes] = {}

        def receive(name: str, source: ssl.SSLSocket) -> None:
            received[name] = receive_all(source, len(MEGABYTE))

        threads = [
            threading.Thread(target=receive, args=("end", end)),
            threading.Thread(target=receive, args=("other", other)),
            threading.Thread(target=end.sendall, args=(MEGABYTE,)),
            threading.Thread(target=other.sendall, args=(MEGABYTE,)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert received == {"end": MEGABYTE, "other": MEGABYTE}


def test_what_is_not_read_can_be_seen(ours: ssl.SSLContext, theirs: ssl.SSLContext) -> None:
    """Whoever waits with select sees records that were not read, and `pending` tells of decrypted bytes."""
    with connected(ours, theirs) as (end, other):
        other.sendall(b"first")
        other.sendall(b"second")
        assert end.recv(2) == b"fi"
        assert end.pending() == 3
        assert end.recv(65536) == b"rst"
        assert end.pending() == 0
        assert select.select([end], [], [], 0)[0] == [end]
        buffer = bytearray(4)
        assert end.recv_into(buffer) == 4
        assert bytes(buffer) == b"seco"
        assert end.recv_into(memoryview(buffer), 1) == 1
        assert end.recv(10) == b"d"
        assert select.select([end], [], [], 0)[0] == []


def test_nothing_waits_on_sockets_that_do_not(ours: ssl.SSLContext, theirs: ssl.SSLContext) -> None:
    """A non-blocking socket says that it wants to read or write, and goes on where it was."""
    with connected(ours, theirs) as (end, other):
        end.setblocking(False)  # noqa: FBT003 - the stdlib's signature
        with pytest.raises(ssl.SSLWantReadError):
            end.recv(1)
        sent = 0
        reader = threading.Thread(target=lambda: received.append(receive_all(other, len(MEGABYTE))))
        received: list[bytes] = []
        wanted = 0
        while sent < len(MEGABYTE):
            try:
                sent += end.send(MEGABYTE[sent:])
            except ssl.SSLWantWriteError:
                if not wanted:
                    reader.start()
                wanted += 1
                select.select([], [end], [], 30)
        reader.join()
        assert wanted
        assert received == [MEGABYTE]


def test_timeouts_hold(ours: ssl.SSLContext, theirs: ssl.SSLContext) -> None:
    """A peer that says nothing is waited for as long as the timeout says, in the handshake and after it."""
    with connected(ours, theirs) as (end, _):
        end.settimeout(0.01)
        with pytest.raises(TimeoutError):
            end.recv(1)
    one, other = socket.socketpair()
    one.settimeout(0.01)
    with one, other, pytest.raises(TimeoutError):
        ours.wrap_socket(one, server_hostname=HOST)


def test_connections_end_as_they_should(ours: ssl.SSLContext, theirs: ssl.SSLContext) -> None:
    """A goodbye is the end of the stream for the reader, `unwrap` gives the socket back, and a cut is told apart."""
    with connected(ours, theirs) as (end, other):
        last = threading.Thread(target=lambda: plain.append(end.unwrap()))
        plain: list[socket.socket] = []
        last.start()
        assert other.recv(1) == b""
        rest = other.unwrap()
        last.join()
        rest.sendall(b"in the clear")
        assert plain[0].recv(100) == b"in the clear"
    with connected(ours, theirs) as (end, other):
        other.close()
        assert end.recv(1) == b""
    with connected(ours, theirs) as (end, other):
        setattr(end, "suppress_ragged_eofs", False)  # noqa: B010 - typeshed does not have it
        other.close()
        with pytest.raises(ssl.SSLEOFError):
            end.recv(1)


def test_files_and_facts(ours: PyOpenSSLClientContext, theirs: ssl.SSLContext) -> None:
    """`makefile` works, and a connection knows its version, cipher suite, binding, certificate and group."""
    with connected(ours, theirs) as (end, other):
        with other.makefile("wb") as file:
            file.write(b"one\ntwo\n")
        with end.makefile("rb") as file:
            assert file.readline() == b"one\n"
            assert file.readline() == b"two\n"
        assert end.version() == "TLSv1.3"
        assert end.cipher() == other.cipher()
        assert end.get_channel_binding() == other.get_channel_binding()
        assert end.getpeercert(binary_form=True) == standalone(tls_ca()).certificates[0]
        assert other.getpeercert() is None
        assert end.context is ours
        assert end.compression() is None
        assert end.session is None
        assert end.session_reused is False
        assert getattr(end, "group")() == "X25519MLKEM768"  # noqa: B009 - of this back end's sockets
        assert client_report(end) is not None
        assert server_report(other) is not None


def test_a_refusal_closes_the_socket(theirs: ssl.SSLContext) -> None:
    """Whoever is refused in the handshake gets the exception and no connection, and the server hears of it."""
    nobody = client_context(TrustStore(), classical=False, clock=CLOCK, back_end="pyopenssl")
    with pytest.raises(ssl.SSLCertVerificationError, match="no CA of the trust store"), connected(nobody, theirs):
        pass
