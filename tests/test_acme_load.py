"""The clients of benchmarks and crash tests: what they believe of a connection, and that others serve them too."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.x509 import DNSName, SubjectAlternativeName, load_der_x509_csr

from mtc.acme.load.account import read_object
from mtc.acme.load.answering import AnsweringServer
from mtc.acme.load.connection import MAX_BODY_BYTES, KeptConnection
from mtc.acme.load.crowd import Crowd, run_crowd
from mtc.acme.load.orders import make_csr
from mtc.cli.bench_acme import ZONE, check_names
from mtc.cli.bench_acme_servers import Surroundings, has_pebble, running_pebble
from mtc.errors import FormatError, PeerError, UsageError
from mtc.testing.names import NameServer

PLAIN = b"HTTP/1.1 200 OK\r\nReplay-Nonce: abc\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"HTTP/1.1 200 OK\r\nreplay-nonce: abc\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\n\r\n"
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def _server(talk: Talk) -> AsyncIterator[str]:
    """Serve connections with a coroutine each, which must end with the clients; yield the origin."""
    tasks: set[asyncio.Task[None] | None] = set()

    async def run(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.current_task())
        with contextlib.suppress(EOFError, OSError):
            await talk(reader, writer)
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(run, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.gather(*filter(None, tasks))


@pytest.mark.parametrize("answer", [PLAIN, CHUNKED])
@pytest.mark.parametrize("piece", [1, 7, 1000])
def test_answers_may_come_in_any_pieces(answer: bytes, piece: int) -> None:
    """Two answers on one connection are read whole, however they were cut."""
    connections: list[int] = []

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(1)
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"POST /path HTTP/1.1\r\nHost: 127.0.0.1:")
            assert await reader.readexactly(4) == b"body"
            for at in range(0, len(answer), piece):
                writer.write(answer[at : at + piece])
                await writer.drain()
                await asyncio.sleep(0)

    async def work() -> None:
        async with _server(talk) as origin:
            connection = KeptConnection(origin, None)
            for _ in range(2):
                got = await connection.request("POST", "/path", b"body", {"Content-Type": "application/jose+json"})
                assert (got.status, got.body, got.headers["replay-nonce"]) == (200, b"hello", "abc")
            connection.close()

    asyncio.run(work())
    assert len(connections) == 1


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(PLAIN[:-1], id="cut"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="another protocol"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 30) + bytes(MAX_BODY_BYTES + 1), id="huge"
        ),
    ],
)
def test_broken_answer_is_the_peers_fault(answer: bytes) -> None:
    """What is no whole answer is PeerError, and the next request has a connection of its own."""
    answers = [answer, PLAIN]

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(answers.pop(0))
        await writer.drain()

    async def work() -> None:
        async with _server(talk) as origin:
            connection = KeptConnection(origin, None)
            with pytest.raises(PeerError):
                await connection.request("GET", "/")
            assert (await connection.request("GET", "/")).body == b"hello"
            connection.close()

    asyncio.run(work())


def test_server_that_says_nothing_is_left() -> None:
    """A request ends with its deadline, and one to a closed port at once."""

    async def talk(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.read()

    async def work() -> None:
        async with _server(talk) as origin:
            with pytest.raises(PeerError, match="time is up"):
                await KeptConnection(origin, None, timeout_s=0.05).request("GET", "/")
        with pytest.raises(PeerError):
            await KeptConnection(origin, None).request("GET", "/")

    asyncio.run(work())


@pytest.mark.parametrize("origin", ["", "ftp://example.test", "localhost:80"])
def test_origin_is_an_http_url(origin: str) -> None:
    """Something else is refused before anything is sent."""
    with pytest.raises(UsageError):
        KeptConnection(origin, None)


@pytest.mark.parametrize("data", [b"", b"[]", b"no", b"\xff"])
def test_answer_that_is_no_object_is_refused(data: bytes) -> None:
    """ACME's resources are JSON objects."""
    with pytest.raises(FormatError):
        read_object(data)


def test_answering_server_knows_its_tokens() -> None:
    """A token is answered with its key authorization, in any pieces; unknown and discarded ones are not found."""

    async def ask(port: int, path: bytes, cut: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head = b"GET %b HTTP/1.1\r\nHost: h.example.test\r\n\r\n" % path
        writer.write(head[:cut])
        await writer.drain()
        await asyncio.sleep(0)
        writer.write(head[cut:])
        data = await reader.read()
        writer.close()
        return data

    async def work() -> None:
        async with AnsweringServer.listen() as answering:
            answering.put("tok", "tok.thumb")
            for cut in (0, 1, 30, 60):
                data = await ask(answering.port, b"/.well-known/acme-challenge/tok", cut)
                assert data.startswith(b"HTTP/1.1 200 OK\r\n")
                assert data.endswith(b"\r\n\r\ntok.thumb")
            answering.discard("tok")
            for path in (b"/.well-known/acme-challenge/tok", b"/.well-known/acme-challenge/", b"/tok", b"/"):
                assert (await ask(answering.port, path, 5)).startswith(b"HTTP/1.1 404 ")
            assert answering.answered == 4

    asyncio.run(work())


def test_csr_asks_for_the_name() -> None:
    """A request is for one DNS name, signed by its key."""
    csr = load_der_x509_csr(make_csr(generate_private_key(SECP256R1()), "a.example.test"))
    assert csr.is_signature_valid
    assert csr.extensions.get_extension_for_class(SubjectAlternativeName).value.get_values_for_type(DNSName) == [
        "a.example.test"
    ]


def test_crowd_gets_certificates_from_pebble(tmp_path: Path) -> None:
    """Clients that know nothing of our server complete their orders at somebody else's, each for a name of its own."""
    if not has_pebble():
        pytest.skip("pebble is missing: apt-get install pebble")

    async def work() -> None:
        async with AnsweringServer.listen() as answering, NameServer() as names:
            names.set(f"*.{ZONE}", "A", "127.0.0.1")
            async with running_pebble(tmp_path / "pebble", Surroundings(answering.port, names.server)) as target:
                crowd = Crowd(directory_url=target.directory_url, zone=ZONE, tls=target.tls, clients=4, new_orders=1)
                load = await run_crowd(crowd, answering, warm_up_s=0.1, seconds=0.6)
                assert target.cpu_s() > 0
        assert not load.problems
        assert len({item.name for item in load.orders}) == len(load.orders) >= 4
        assert load.orders_per_s > 0
        assert load.requests_per_order >= 7
        assert 0 < load.finalize_s(50) <= load.finalize_s(99) <= load.order_s(99)
        for item in load.orders:
            check_names(item)
        load.orders[0].name = "another.example"
        with pytest.raises(PeerError, match=r"another\.example"):
            check_names(load.orders[0])

    asyncio.run(work())
