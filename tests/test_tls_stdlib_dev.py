"""Handshakes of every kind in Python's development mode, which says what is left open, freed twice or ignored."""

import asyncio
import contextlib
import gc
import os
import socket
import ssl
import subprocess
import sys
import threading
from datetime import timedelta
from pathlib import Path

from tests.makers import HOST, NOW
from tests.test_tls_mutual import clients_ca
from tests.tls_pairs import (
    CLOCK,
    LANDMARK,
    LOCAL,
    LyingServer,
    StoppedClock,
    classical,
    connect,
    landmark,
    standalone,
    tls_ca,
    trust_classical,
)

from mtc import tls
from mtc.trust import TrustStore

DONE = "every kind of handshake was made"


def up_to_date() -> TrustStore:
    """Return a store that knows the landmark."""
    ca = tls_ca()
    return ca.store(subtrees=[ca.trusted_subtree(0, 8, landmark=LANDMARK)])


def broken() -> TrustStore:
    """Be a store that cannot be read."""
    raise LookupError("no snapshot")


def in_memory() -> None:
    """Handshakes in memory: full, resumed, mutual, old, refused for reasons of all kinds."""
    server = tls.server_context([landmark(tls_ca()), standalone(tls_ca())], fallback=classical(), clock=CLOCK)
    client = tls.client_context(up_to_date(), clock=CLOCK)
    trust_classical(client)
    ours, _ = connect(client, server)
    session = ours.session
    assert connect(client, server, HOST, session)[0].session_reused
    old = tls.client_context(up_to_date(), clock=CLOCK)
    trust_classical(old)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    connect(old, server)
    mutual = tls.server_context([standalone(tls_ca())], clients=clients_ca().store(), clock=CLOCK)
    connect(tls.client_context(up_to_date(), paths=[standalone(clients_ca())], clock=CLOCK), mutual)
    late = StoppedClock(NOW + timedelta(days=9))
    for refused, peer in (
        (client, mutual),
        (client, tls.server_context([classical()], clients=broken)),
        (client, LyingServer(standalone(tls_ca()), b"rubbish").context),
        (client, LyingServer(standalone(tls_ca(ca_id="32473.77"))).context),
        (tls.client_context(broken, clock=CLOCK), server),
        (tls.client_context(up_to_date(), classical=False, clock=late), server),
    ):
        with contextlib.suppress(ssl.SSLError):
            connect(refused, peer)
            raise AssertionError("this handshake should have been refused")
    server.reload([standalone(tls_ca())])
    assert not connect(client, server, HOST, session)[0].session_reused


def over_sockets() -> None:
    """Handshakes over sockets: one that succeeds, one that the client refuses."""
    server = tls.server_context([standalone(tls_ca())], clock=CLOCK)

    def serve(listener: socket.socket) -> None:
        for _ in range(2):
            plain, _ = listener.accept()
            plain.settimeout(30)
            with plain, contextlib.suppress(OSError), server.wrap_socket(plain, server_side=True) as connection:
                connection.sendall(connection.recv(4))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        port = listener.getsockname()[1]
        client = tls.client_context(up_to_date(), clock=CLOCK)
        with tls.connect("127.0.0.1", port, context=client, server_hostname=LOCAL) as connection:
            connection.sendall(b"echo")
            assert connection.recv(4) == b"echo"
        with contextlib.suppress(ssl.SSLCertVerificationError):
            tls.connect("127.0.0.1", port, context=tls.client_context(TrustStore()), server_hostname=LOCAL)
            raise AssertionError("this handshake should have been refused")
        thread.join()


async def with_asyncio() -> None:
    """Handshakes in asyncio: one that succeeds, one that the client refuses."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(4))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    def tell(_loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
        # In development mode asyncio tells of each client that it could not serve.
        if context["message"] != "Error on transport creation for incoming connection":
            sys.stderr.write(f"{context}\n")

    asyncio.get_running_loop().set_exception_handler(tell)
    context = tls.server_context([standalone(tls_ca())], clock=CLOCK)
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    port = server.sockets[0].getsockname()[1]
    async with asyncio.timeout(60), server:
        client = tls.client_context(up_to_date(), clock=CLOCK)
        reader, writer = await tls.open_connection("127.0.0.1", port, context=client, server_hostname=LOCAL)
        writer.write(b"echo")
        assert await reader.readexactly(4) == b"echo"
        writer.close()
        await writer.wait_closed()
        with contextlib.suppress(ssl.SSLCertVerificationError):
            stranger = tls.client_context(TrustStore())
            await tls.open_connection("127.0.0.1", port, context=stranger, server_hostname=LOCAL)
            raise AssertionError("this handshake should have been refused")


def make_all() -> None:
    """Make handshakes of every kind, and say so."""
    in_memory()
    over_sockets()
    asyncio.run(with_asyncio())
    gc.collect()
    sys.stdout.write(DONE)


def test_development_mode_finds_nothing() -> None:
    """With `python -X dev -W error` handshakes of every kind say nothing on standard error."""
    root = Path(__file__).parent.parent
    # Without the roots of the system, for to read them takes most of the time.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), *sys.path]), "SSL_CERT_FILE": os.devnull}
    done = subprocess.run(
        [
            sys.executable,
            "-X",
            "dev",
            "-W",
            "error",
            "-c",
            "from tests.test_tls_stdlib_dev import make_all; make_all()",
        ],
        cwd=root,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, DONE, "")
