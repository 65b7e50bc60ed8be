"""The one further attempt: by `connect` and `open_connection` at once, by libraries when they connect again."""

import asyncio
import http.client
import ssl
import threading
import urllib.error
from dataclasses import replace
from datetime import timedelta
from urllib.parse import urlsplit

import aiohttp
import pytest
from tests.makers import HOST, NOW
from tests.test_tls_libraries import ANSWER, aiohttp_get, fetch, serving
from tests.tls_pairs import (  # noqa: F401 - a fixture for the whole module
    CLOCK,
    LANDMARK,
    LOCAL,
    LyingServer,
    classical,
    connect,
    landmark,
    no_system_roots,
    standalone,
    tls_ca,
    trust_classical,
)

from mtc import tls
from mtc.cert import PropertyList, SerialRanges
from mtc.ids import TrustAnchorID
from mtc.tls import (
    CertificationPath,
    ClientContext,
    ClientReport,
    ServerContext,
    ServerReport,
    TrustAnchorsExtension,
    client_context,
    client_report,
)
from mtc.tls.adapters.hints import MAX_HOSTS, RetryHints
from mtc.trust import TrustStore


def lonely() -> CertificationPath:
    """Return a standalone path that belongs to no group: who asks for landmarks does not get it."""
    path = standalone(tls_ca())
    return replace(path, properties=PropertyList(trust_anchor_id=path.properties.trust_anchor_id))


def up_to_date(revoked: SerialRanges | None = None) -> TrustStore:
    """Return a store that knows a landmark, so that its client asks for a group and not for the CA."""
    ca = tls_ca()
    return ca.store(subtrees=[ca.trusted_subtree(0, 8, landmark=LANDMARK)], revoked=revoked or SerialRanges())


def our_client(*, remembers_retries: bool = True) -> ClientContext:
    """Return a client that does not trust the fallback."""
    return client_context(up_to_date(), clock=CLOCK, remembers_retries=remembers_retries)


def our_server() -> ServerContext:
    """Return a server that has what the client trusts, and sends it to who asks for the CA."""
    return tls.server_context([lonely()], fallback=classical(), clock=CLOCK)


def refused(client: ClientContext, server: ssl.SSLContext, host: str = HOST) -> ClientReport:
    """Connect in vain, and return what the client knows."""
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        connect(client, server, host)
    report = client_report(caught.value)
    assert report is not None
    return report


def accepted(client: ClientContext, server: ssl.SSLContext, host: str = HOST) -> ClientReport:
    """Connect, and return what the client knows."""
    report = client_report(connect(client, server, host)[0])
    assert report is not None
    return report


def test_sockets_are_tried_again() -> None:
    """`connect` makes the second attempt by itself, remembers that it worked, and needs no second one next time."""
    client = our_client()
    seen: list[ServerReport | None] = []
    with serving(our_server(), seen) as url:
        port = urlsplit(url).port
        assert port is not None
        for _ in range(2):
            with tls.connect("127.0.0.1", port, context=client, server_hostname=LOCAL, timeout=10) as connection:
                report = client_report(connection)
                connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
                assert connection.recv(1000) == ANSWER
            assert report is not None
            assert report.verified is not None
            assert report.requested is not None
            assert report.requested.anchors == (tls_ca().anchor,)
            assert report.retry is None
        stranger = client_context(TrustStore(), clock=CLOCK)
        with pytest.raises(ssl.SSLCertVerificationError, match="self-signed"):
            tls.connect(LOCAL, port, context=stranger, timeout=10)
    # Handshakes that the client ended are not among them.
    assert len(seen) == 2


def test_asyncio_is_tried_again() -> None:
    """`open_connection` makes the second attempt by itself; what cannot be mended is raised."""

    async def run() -> None:
        async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(await reader.readexactly(4))
            writer.close()

        server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=our_server())
        port = server.sockets[0].getsockname()[1]
        async with asyncio.timeout(30), server:
            for remembers in (True, False):
                reader, writer = await tls.open_connection(
                    "127.0.0.1", port, context=our_client(remembers_retries=remembers), server_hostname=LOCAL
                )
                report = client_report(writer.get_extra_info("ssl_object"))
                assert report is not None
                assert report.is_retry
                assert report.verified is not None
                writer.write(b"echo")
                assert await reader.readexactly(4) == b"echo"
                writer.close()
                await writer.wait_closed()
            stranger = client_context(TrustStore(), clock=CLOCK)
            with pytest.raises(ssl.SSLCertVerificationError, match="self-signed"):
                await tls.open_connection("127.0.0.1", port, context=stranger, server_hostname=LOCAL)

    asyncio.run(run())


def test_libraries_succeed_when_they_connect_again() -> None:
    """Of urllib, http.client and aiohttp the first request with a context fails, and all others succeed."""
    with serving(our_server()) as url:
        client = our_client()
        with pytest.raises(urllib.error.URLError):
            fetch(url, client)
        assert [fetch(url, client) for _ in range(3)] == [b"hello"] * 3
        client = our_client()
        with pytest.raises(aiohttp.ClientConnectorCertificateError):
            asyncio.run(aiohttp_get(url, client))
        assert [asyncio.run(aiohttp_get(url, client)) for _ in range(2)] == [b"hello"] * 2
        plain = http.client.HTTPSConnection(LOCAL, urlsplit(url).port, context=our_client(), timeout=10)
        with pytest.raises(ssl.SSLCertVerificationError):
            plain.request("GET", "/")
        plain.close()
        plain.request("GET", "/")
        assert plain.getresponse().read() == b"hello"
        plain.close()


def test_hints_are_of_one_context_and_one_host() -> None:
    """What one context learned of a host is asked of no other host, and by no other context."""
    server, client, other = our_server(), our_client(), our_client()
    retry = refused(client, server).retry
    assert retry == tls_ca().anchor
    assert refused(client, server, LOCAL).requested == refused(other, server).requested
    report = accepted(client, server)
    assert report.is_retry
    assert report.requested is not None
    assert report.requested.anchors == (retry,)
    # From now on it is what this host is asked for, no last resort.
    assert not accepted(client, server).is_retry


def test_a_hint_that_does_not_help_is_used_once() -> None:
    """The further attempt is one: if it fails too, the next handshake asks for everything again."""
    client = our_client()
    liar = LyingServer(classical(), available=TrustAnchorsExtension((tls_ca().anchor,)).encode())
    first = refused(client, liar.context)
    assert not first.is_retry
    assert first.retry is not None
    second = refused(client, liar.context)
    assert second.is_retry
    assert second.retry is None
    third = refused(client, liar.context)
    assert third.requested == first.requested
    assert not third.is_retry


def test_a_hint_that_worked_is_dropped_when_it_fails() -> None:
    """When the server has changed, the next attempt asks for what it has now, and everything goes on from there."""
    client, ca = our_client(), tls_ca()
    refused(client, our_server())
    accepted(client, our_server())
    accepted(client, our_server())
    changed = tls.server_context([landmark(ca), lonely()], clock=CLOCK)
    newest = ca.anchor.child(1, 1, LANDMARK)
    lying = LyingServer(classical(), available=TrustAnchorsExtension((newest,)).encode())
    report = refused(client, lying.context)
    assert not report.is_retry
    assert report.retry == newest
    report = accepted(client, changed)
    assert report.requested is not None
    assert report.requested.anchors == (newest,)
    assert report.is_acknowledged


def test_hints_end_with_the_state_of_the_trust_store() -> None:
    """A trust store that has changed may need no hint: its client asks for everything again."""
    stores = [up_to_date()]
    client = client_context(lambda: stores[-1], clock=CLOCK)
    refused(client, our_server())
    accepted(client, our_server())
    ca = tls_ca()
    stores.append(ca.store(subtrees=[ca.trusted_subtree(0, 8, landmark=LANDMARK + 1)]))
    report = refused(client, our_server())
    assert not report.is_retry
    assert report.requested is not None
    assert len(report.requested.anchors[0].components) > len(ca.anchor.components)


def test_hints_weaken_nothing() -> None:
    """With a hint, and with one that has worked, what is wrong is refused as without."""
    client = our_client()
    for _ in range(2):
        refused(client, our_server())
        accepted(client, our_server())
        refused(client, LyingServer(standalone(tls_ca())).context, "www.example.org")
        refused(client, LyingServer(standalone(tls_ca(ca_id="32473.77"))).context)
        late = client_context(up_to_date(), clock=replace(CLOCK, moment=NOW + timedelta(days=9)))
        refused(late, our_server())
        refused(late, our_server())


def test_hints_can_be_turned_off() -> None:
    """Without them every handshake asks the same."""
    client, server = our_client(remembers_retries=False), our_server()
    assert refused(client, server).requested == refused(client, server).requested
    with client.asking(tls_ca().anchor):
        assert accepted(client, server).is_retry
    assert refused(client, server).retry is not None


def test_asking_for_something_else_goes_before_a_hint() -> None:
    """Who asks for an ID of its own gets that, hint or not."""
    client, server = our_client(), our_server()
    refused(client, server)
    other = TrustAnchorID.parse("32473.99")
    with client.asking(other):
        report = refused(client, server)
    assert report.requested is not None
    assert report.requested.anchors == (other,)


def test_hints_are_few_and_threads_may_share_them() -> None:
    """The number of hosts is bounded, whatever the number of threads, and the newest are kept."""
    hints, store, anchor = RetryHints(), up_to_date(), tls_ca().anchor
    found: list[bool] = []

    def run(thread: int) -> None:
        for number in range(MAX_HOSTS):
            hints.remember(f"{thread}-{number}", anchor, store)
        taken = [hints.take("once", store) for _ in range(3)]
        found.extend(hint is not None for hint in taken)

    hints.remember("once", anchor, store, has_worked=True)
    threads = [threading.Thread(target=run, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(hints) <= MAX_HOSTS
    hints.remember("newest", anchor, store)
    assert len(hints) <= MAX_HOSTS
    hint = hints.take("newest", store)
    assert hint is not None
    assert hint.anchor == anchor
    assert hints.take("newest", store) is None
    hints.remember("other", anchor, store)
    hints.forget("other")
    assert hints.take("other", store) is None


def test_classical_trust_needs_no_retry() -> None:
    """A client that trusts the fallback is content with it, whatever else the server has."""
    client = our_client()
    trust_classical(client)
    report = accepted(client, our_server())
    assert report.verified is None
    assert report.retry is None
