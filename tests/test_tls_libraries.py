"""Both back ends over sockets, under the libraries that people use, unchanged."""

import asyncio
import contextlib
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import requests
import requests.adapters
import urllib3
import uvloop
from tests.tls_pairs import CLOCK, LANDMARK, LOCAL, classical, landmark, leaf_key, standalone, tls_ca, trust_classical

from mtc.cert import CertificateChain
from mtc.errors import FormatError, Reason, Rejected, UsageError
from mtc.tls import (
    BackEndName,
    ClientContext,
    Match,
    ServerContext,
    ServerReport,
    client_context,
    client_report,
    load_request_folder,
    server_context,
    server_report,
)
from mtc.trust import Form, TrustStore
from mtc.wire import PEMBlock, encode_pem

ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"


def up_to_date() -> TrustStore:
    """Return a store that knows the landmark."""
    ca = tls_ca()
    return ca.store(subtrees=[ca.trusted_subtree(0, 8, landmark=LANDMARK)])


@pytest.fixture(params=["stdlib", "pyopenssl"])
def back_end(request: pytest.FixtureRequest) -> BackEndName:
    """Run a test on each back end."""
    return "stdlib" if request.param == "stdlib" else "pyopenssl"


def our_client(store: TrustStore | None = None, back_end: BackEndName | None = None) -> ClientContext:
    """Return a client."""
    context = client_context(store or up_to_date(), clock=CLOCK, back_end=back_end)
    trust_classical(context)
    return context


def our_server(back_end: BackEndName | None = None) -> ServerContext:
    """Return a server with both forms and a fallback."""
    paths = [landmark(tls_ca()), standalone(tls_ca())]
    return server_context(paths, fallback=classical(), clock=CLOCK, back_end=back_end)


def stranger(back_end: BackEndName) -> ClientContext:
    """Return a client that trusts nobody."""
    return client_context(TrustStore(), classical=False, clock=CLOCK, back_end=back_end)


@contextlib.contextmanager
def serving(context: ssl.SSLContext, seen: list[ServerReport | None] | None = None) -> Iterator[str]:
    """Answer HTTP requests on a port of this machine, one after the other; gives the URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(30)

    def serve() -> None:
        while True:
            connection, _ = listener.accept()
            with contextlib.suppress(OSError), connection:
                connection.settimeout(10)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if connection.recv(1, socket.MSG_PEEK) == b"":
                    return
                with context.wrap_socket(connection, server_side=True) as tls:
                    if seen is not None:
                        seen.append(server_report(tls))
                    while b"\r\n\r\n" not in tls.recv(65536):
                        pass
                    tls.sendall(ANSWER)

    thread = threading.Thread(target=serve)
    thread.start()
    port = listener.getsockname()[1]
    try:
        yield f"https://{LOCAL}:{port}/"
    finally:
        # A connection without a byte ends the server.
        socket.create_connection(("127.0.0.1", port)).close()
        thread.join()
        listener.close()


def fetch(url: str, context: ssl.SSLContext) -> bytes:
    """Fetch a page with urllib."""
    with urllib.request.urlopen(url, context=context, timeout=10) as answer:  # noqa: S310 - the URL is ours
        return bytes(answer.read())


def is_unknown_ca(error: BaseException) -> bool:
    """Tell whether a library's exception has our report in it, and our reason."""
    report = client_report(error)
    return report is not None and isinstance(report.failure, Rejected) and report.failure.reason is Reason.UNKNOWN_CA


def test_urllib(back_end: BackEndName) -> None:
    """`urllib.request` takes the context; a refusal is its URLError, and the report is found in it."""
    seen: list[ServerReport | None] = []
    nobody = stranger(back_end)
    with serving(our_server(back_end), seen) as url:
        assert fetch(url, our_client(back_end=back_end)) == b"hello"
        with pytest.raises(urllib.error.URLError, match="classical certificate"):
            fetch(url, nobody)
    assert seen[0] is not None
    assert seen[0].selection is not None
    assert seen[0].selection.match is Match.LANDMARK_GROUP
    with serving(server_context([standalone(tls_ca())], clock=CLOCK, back_end=back_end)) as url:
        with pytest.raises(urllib.error.URLError, match="no CA of the trust store") as caught:
            fetch(url, nobody)
        assert is_unknown_ca(caught.value)


def test_urllib3(back_end: BackEndName) -> None:
    """A urllib3 pool takes the context; a refusal is its MaxRetryError, and the report is found in it."""
    with serving(our_server(back_end)) as url, urllib3.PoolManager(ssl_context=our_client(back_end=back_end)) as pool:
        assert pool.request("GET", url, timeout=10).data == b"hello"
    lonely = server_context([standalone(tls_ca())], clock=CLOCK, back_end=back_end)
    with serving(lonely) as url, urllib3.PoolManager(ssl_context=stranger(back_end)) as pool:
        with pytest.raises(urllib3.exceptions.MaxRetryError, match="no CA of the trust store") as caught:
            pool.request("GET", url, timeout=10, retries=0)
        assert is_unknown_ca(caught.value)


class Adapter(requests.adapters.HTTPAdapter):
    """An adapter of requests with a context, as documented there."""

    def __init__(self, context: ssl.SSLContext) -> None:
        """Take the context."""
        self.context = context
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401 - of requests
        """Hand it over."""
        super().init_poolmanager(*arguments, ssl_context=self.context, **named)


def test_requests(back_end: BackEndName) -> None:
    """An adapter of requests takes the context; a refusal is its SSLError, and the report is found in it."""
    with serving(our_server(back_end)) as url, requests.Session() as session:
        session.trust_env = False
        session.mount("https://", Adapter(our_client(back_end=back_end)))
        assert session.get(url, timeout=10).content == b"hello"
    lonely = server_context([standalone(tls_ca())], clock=CLOCK, back_end=back_end)
    with serving(lonely) as url, requests.Session() as session:
        session.trust_env = False
        session.mount("https://", Adapter(stranger(back_end)))
        with pytest.raises(requests.exceptions.SSLError, match="no CA of the trust store") as caught:
            session.get(url, timeout=10)
        assert is_unknown_ca(caught.value)


async def httpx_get(url: str, context: ssl.SSLContext) -> bytes:
    """Fetch a page with the asynchronous client of httpx."""
    async with httpx.AsyncClient(verify=context, trust_env=False) as session:
        return (await session.get(url)).content


def test_httpx(back_end: BackEndName) -> None:
    """Both clients of httpx take the context; a refusal is a ConnectError, and the report is found in it."""
    with serving(our_server(back_end)) as url:
        ours = our_client(back_end=back_end)
        with httpx.Client(verify=ours, trust_env=False) as session:
            answer = session.get(url)
            assert answer.content == b"hello"
        assert asyncio.run(httpx_get(url, ours)) == b"hello"
    with serving(server_context([standalone(tls_ca())], clock=CLOCK, back_end=back_end)) as url:
        nobody = stranger(back_end)
        with (
            httpx.Client(verify=nobody, trust_env=False) as session,
            pytest.raises(httpx.ConnectError, match="no CA of the trust store") as caught,
        ):
            session.get(url)
        assert is_unknown_ca(caught.value)
        with pytest.raises(httpx.ConnectError) as caught:
            asyncio.run(httpx_get(url, nobody))
        assert is_unknown_ca(caught.value)


def test_retry_with_what_the_server_has() -> None:
    """A client that was refused asks again for the one ID that the report names, and is served."""
    ca = tls_ca()
    # This one believes to be newer than it is: it names a landmark group, but holds another subtree than the server's.
    store = ca.store(subtrees=[ca.trusted_subtree(8, 13, landmark=LANDMARK)])
    context = our_client(store)
    with serving(our_server()) as url:
        with pytest.raises(urllib.error.URLError) as caught:
            fetch(url, context)
        report = client_report(caught.value)
        assert report is not None
        assert str(report.retry) == "32473.1"
        with pytest.raises(urllib.error.URLError) as caught, context.asking(ca.anchor.child(1, 1, LANDMARK)):
            fetch(url, context)
        report = client_report(caught.value)
        assert report is not None
        assert report.retry is None
        with context.asking(ca.anchor):
            assert fetch(url, context) == b"hello"


async def aiohttp_get(url: str, context: ssl.SSLContext) -> bytes:
    """Fetch a page with aiohttp."""
    async with aiohttp.ClientSession() as session, session.get(url, ssl=context) as answer:
        return await answer.read()


def test_aiohttp(back_end: BackEndName) -> None:
    """Aiohttp takes the context; a refusal is its certificate error, and the report is found in it."""
    with serving(our_server(back_end)) as url:
        assert asyncio.run(aiohttp_get(url, our_client(back_end=back_end))) == b"hello"
    with serving(server_context([standalone(tls_ca())], clock=CLOCK, back_end=back_end)) as url:
        with pytest.raises(aiohttp.ClientConnectorCertificateError) as caught:
            asyncio.run(aiohttp_get(url, stranger(back_end)))
        assert is_unknown_ca(caught.value)


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_asyncio_on_both_sides(back_end: BackEndName, loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """Streams of asyncio work with both contexts, with many connections at once, and give the reports."""

    async def run() -> list[tuple[bytes, Form | None]]:
        selected: list[Match] = []

        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            report = server_report(writer.get_extra_info("ssl_object"))
            assert report is not None
            assert report.selection is not None
            selected.append(report.selection.match)
            writer.write(await reader.readexactly(4))
            await writer.drain()
            writer.close()

        async def ask(port: int, context: ssl.SSLContext) -> tuple[bytes, Form | None]:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=LOCAL)
            report = client_report(writer.get_extra_info("ssl_object"))
            assert report is not None
            writer.write(b"echo")
            text = await reader.readexactly(4)
            writer.close()
            await writer.wait_closed()
            return text, None if report.verified is None else report.verified.form

        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=our_server(back_end))
        port = server.sockets[0].getsockname()[1]
        contexts = [our_client(store, back_end) for store in (up_to_date(), tls_ca().store(), TrustStore())]
        async with asyncio.timeout(30), server:
            results = await asyncio.gather(*(ask(port, contexts[number % 3]) for number in range(60)))
        assert sorted(set(selected)) == [Match.LANDMARK_GROUP, Match.ID, Match.FALLBACK]
        return results

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        results = runner.run(run())
    expected = [Form.LANDMARK_RELATIVE, Form.STANDALONE, None]
    assert results == [(b"echo", expected[number % 3]) for number in range(60)]


def deploy(folder: Path, *, has_landmark: bool = True, has_classical: bool = True) -> Path:
    """Write a folder as `mtc request` keeps it."""
    version = folder / "versions" / "20261120T120000Z-1000000000003"
    version.mkdir(parents=True)
    (version / "key.pem").write_bytes(encode_pem([PEMBlock("PRIVATE KEY", leaf_key())]))
    for name, path in (("standalone.pem", standalone(tls_ca())), ("landmark.pem", landmark(tls_ca()))):
        if name == "standalone.pem" or has_landmark:
            (version / name).write_bytes(CertificateChain(path.properties, path.certificates).encode())
    (folder / "current").symlink_to(version.relative_to(folder))
    if has_classical:
        other = folder / "classical" / "versions" / "one"
        other.mkdir(parents=True)
        (other / "key.pem").write_bytes(encode_pem([PEMBlock("PRIVATE KEY", classical().private_key)]))
        (other / "fullchain.pem").write_bytes(CertificateChain(None, classical().certificates).encode())
        (folder / "classical" / "current").symlink_to(other.relative_to(folder / "classical"))
        (version / "classical").symlink_to(Path("..", "..", "classical", "current"))
    return version


@pytest.mark.parametrize("has_landmark", [True, False])
@pytest.mark.parametrize("has_classical", [True, False])
def test_folders_of_mtc_request_are_served(tmp_path: Path, *, has_landmark: bool, has_classical: bool) -> None:
    """What `mtc request` keeps is loaded as it lies: both forms, the key, and the classical fallback."""
    version = deploy(tmp_path, has_landmark=has_landmark, has_classical=has_classical)
    found = load_request_folder(tmp_path)
    assert found.version == version
    assert [path.is_landmark_relative for path in found.paths] == [True, False][not has_landmark :]
    assert (found.fallback is not None) is has_classical
    with serving(server_context(found.paths, fallback=found.fallback, clock=CLOCK)) as url:
        assert fetch(url, our_client()) == b"hello"


def test_folders_that_cannot_be_served_are_refused(tmp_path: Path) -> None:
    """A missing link or file, and a damaged one, are named in the error."""
    with pytest.raises(UsageError, match="current"):
        load_request_folder(tmp_path)
    version = deploy(tmp_path)
    (version / "landmark.pem").write_bytes(b"-----BEGIN CERTIFICATE-----\nrubbish\n")
    with pytest.raises(FormatError, match=r"landmark\.pem"):
        load_request_folder(tmp_path)
    (version / "landmark.pem").unlink()
    (version / "key.pem").unlink()
    with pytest.raises(UsageError, match=r"key\.pem"):
        load_request_folder(tmp_path)
    (version / "key.pem").write_bytes(bytes(2 << 20))
    with pytest.raises(UsageError, match="larger"):
        load_request_folder(tmp_path)
