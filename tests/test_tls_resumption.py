"""Resumed handshakes: what a ticket is bound to, on both sides, and what leads to a full handshake."""

import contextlib
import gc
import socket
import ssl
import threading
import weakref
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.makers import HOST, NOW
from tests.test_tls_mutual import clients_ca
from tests.tls_pairs import (  # noqa: F401 - a fixture for the whole module
    CLOCK,
    LANDMARK,
    LOCAL,
    LyingServer,
    StoppedClock,
    classical,
    connect,
    landmark,
    no_system_roots,
    standalone,
    tls_ca,
    trust_classical,
)

from mtc.cert import SerialRanges
from mtc.errors import FormatError, Rejected
from mtc.ids import serial_number
from mtc.tls import (
    CertificationPath,
    ClientContext,
    ClientReport,
    ServerContext,
    ServerReport,
    client_context,
    client_report,
    server_context,
    server_report,
)
from mtc.tls.adapters.clients import Snapshots
from mtc.tls.adapters.resumption import MAX_TICKET_S, Ticket
from mtc.tls.adapters.stdlib.libssl import load_libssl
from mtc.tls.adapters.stdlib.sessions import Session
from mtc.trust import Form, TrustStore, format_trust_store, parse_trust_store

BOTH = (HOST, "entry-3.example")


def up_to_date(revoked: SerialRanges | None = None) -> TrustStore:
    """Return a store that knows the landmark; a new one each time."""
    ca = tls_ca()
    return ca.store(subtrees=[ca.trusted_subtree(0, 8, landmark=LANDMARK)], revoked=revoked or SerialRanges())


def our_client(
    store: Snapshots | None = None,
    *,
    paths: Sequence[CertificationPath] = (),
    resumption: bool | None = None,
    clock: StoppedClock = CLOCK,
) -> ClientContext:
    """Return a client at NOW that trusts the classical path as well."""
    context = client_context(store or up_to_date(), paths=paths, resumption=resumption, clock=clock)
    trust_classical(context)
    return context


def our_server(
    *,
    fallback: CertificationPath | None = None,
    clients: Snapshots | None = None,
    resumption: bool | None = None,
    clock: StoppedClock = CLOCK,
) -> ServerContext:
    """Return a server with both forms."""
    paths = [landmark(tls_ca()), standalone(tls_ca())]
    return server_context(paths, fallback=fallback, clients=clients, resumption=resumption, clock=clock)


def reports(
    client: ClientContext, server: ServerContext, session: Session | None = None, host: str = HOST
) -> tuple[ClientReport, ServerReport, Session]:
    """Connect and return what both ends know, and the session."""
    ours, theirs = connect(client, server, host, session)
    asked, sent = client_report(ours), server_report(theirs)
    assert asked is not None
    assert asked.is_resumed is ours.session_reused
    assert sent is not None
    assert (sent.resumed is not None) is theirs.session_reused
    kept: object = ours.session
    assert isinstance(kept, Session)
    return asked, sent, kept


def first(client: ClientContext, server: ssl.SSLContext, host: str = HOST) -> Session:
    """Connect and return a session that can be resumed: with the same context, at once, it is."""
    session: object = connect(client, server, host)[0].session
    assert isinstance(session, Session)
    assert session.has_ticket
    assert was_resumed(client, server, session, host)
    return session


def has_ticket(ours: ssl.SSLObject) -> bool:
    """Tell whether a ticket has come."""
    assert ours.session is not None
    return ours.session.has_ticket


def was_resumed(client: ssl.SSLContext, server: ssl.SSLContext, session: object, host: str = HOST) -> bool:
    """Connect, and tell whether it was a resumption; a full handshake is sound as well."""
    ours, _ = connect(client, server, host, session)
    return bool(ours.session_reused)


def test_a_resumed_handshake_says_what_it_stands_for() -> None:
    """Both reports tell it: the certificate of the full handshake, verified again, and the path that is known."""
    client, server = our_client(), our_server()
    session = first(client, server)
    asked, sent, renewed = reports(client, server, session)
    assert asked.is_resumed
    assert asked.verified is not None
    assert asked.verified.form is Form.LANDMARK_RELATIVE
    assert asked.verified.name is not None
    assert not asked.is_acknowledged
    assert asked.requested is not None
    assert sent.selection is None
    assert sent.resumed == landmark(tls_ca())
    assert sent.server_name == HOST
    assert sent.requested == asked.requested
    assert 0 < session.ticket_lifetime_hint <= MAX_TICKET_S
    assert session.id != renewed.id
    assert session.time + session.timeout > datetime.now(UTC).timestamp()
    # The next ticket is one of the same full handshake.
    assert renewed.bond is session.bond
    assert was_resumed(client, server, renewed)


def test_the_peer_is_described_in_a_resumed_handshake() -> None:
    """`getpeercert()` says the same in both handshakes."""
    client, server = our_client(), our_server()
    full, _ = connect(client, server)
    resumed, _ = connect(client, server, HOST, full.session)
    assert resumed.session_reused
    assert resumed.getpeercert() == full.getpeercert()
    assert resumed.getpeercert(binary_form=True) == full.getpeercert(binary_form=True)


def test_sessions_are_bound_to_the_host() -> None:
    """A session for one name is not offered to another, though the certificate is for both."""
    client, server = our_client(), our_server()
    session = first(client, server)
    assert not was_resumed(client, server, session, BOTH[1])
    assert was_resumed(client, server, session, HOST)


def test_servers_bind_tickets_to_the_name() -> None:
    """A client that offers a ticket under another name, or under none, gets a full handshake."""
    server = our_server(fallback=classical())
    plain = ssl.create_default_context()
    trust_classical(plain)
    plain.check_hostname = False
    ours, _ = connect(plain, server, HOST)
    session = ours.session
    assert was_resumed(plain, server, session, HOST)
    assert not was_resumed(plain, server, session, LOCAL)
    assert not was_resumed(plain, server, session, "127.0.0.1")


def test_sessions_are_bound_to_the_context() -> None:
    """Another context with the same trust takes neither session nor ticket; nor does one take anything foreign."""
    client, server = our_client(), our_server()
    session = first(client, server)
    assert not was_resumed(our_client(), server, session)
    assert not was_resumed(client, our_server(), session)
    plain = ssl.create_default_context()
    trust_classical(plain)
    foreign, _ = connect(plain, server_context([classical()]))
    for rubbish in (foreign.session, "session", object()):
        assert not was_resumed(client, server, rubbish)


def test_sessions_are_bound_to_the_role() -> None:
    """What a server's connection calls its session is none for a client."""
    client, server = our_client(), our_server()
    _, theirs = connect(client, server)
    assert not was_resumed(client, server, theirs.session)


def test_sessions_are_bound_to_the_trust_store() -> None:
    """With another state of the trust store the handshake is a full one; another copy of the same state is the same."""
    stores = [up_to_date()]
    client, server = our_client(lambda: stores[-1]), our_server()
    session = first(client, server)
    stores.append(parse_trust_store(format_trust_store(stores[0])))
    assert was_resumed(client, server, session)
    stores.append(tls_ca().store())
    asked, _, later = reports(client, server, session)
    assert not asked.is_resumed
    assert asked.verified is not None
    assert asked.verified.form is Form.STANDALONE
    assert was_resumed(client, server, later)


def test_revocation_is_judged_again() -> None:
    """A certificate that was revoked after the full handshake is refused, for the session is not offered any more."""
    serial = serial_number(1, 3)
    stores = [up_to_date()]
    client, server = our_client(lambda: stores[-1]), our_server()
    session = first(client, server)
    stores.append(up_to_date(SerialRanges([(serial, serial + 1)])))
    with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
        connect(client, server, HOST, session)


def begin(client: ClientContext, server: ServerContext, session: Session | None) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Return both ends of a connection in memory that has not begun."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=HOST)
    ours.session = session  # type: ignore[assignment]
    return ours, server.wrap_bio(to_server, to_client, server_side=True)


def test_sessions_are_judged_when_the_handshake_begins() -> None:
    """What was revoked between wrapping and the handshake is not offered."""
    serial = serial_number(1, 3)
    stores = [up_to_date()]
    client, server = our_client(lambda: stores[-1]), our_server()
    ours, theirs = begin(client, server, first(client, server))
    stores.append(up_to_date(SerialRanges([(serial, serial + 1)])))
    for end in (ours, theirs):
        with pytest.raises(ssl.SSLWantReadError):
            end.do_handshake()
    with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
        ours.do_handshake()


def test_sessions_are_judged_when_the_handshake_ends() -> None:
    """A session that was good when it was offered, and is not when the server has taken it, makes no connection."""
    clock = StoppedClock()
    client, server = our_client(clock=clock), our_server()
    ours, theirs = begin(client, server, first(client, server))
    for end in (ours, theirs):
        with pytest.raises(ssl.SSLWantReadError):
            end.do_handshake()
    clock.moment += timedelta(days=2)
    with pytest.raises(ssl.SSLCertVerificationError, match="cannot go on") as caught:
        ours.do_handshake()
    assert isinstance(caught.value.__cause__, Rejected)
    report = client_report(ours)
    assert report is not None
    assert report.verified is None
    assert report.failure is caught.value.__cause__
    assert client_report(caught.value) == report


def test_sessions_survive_a_hello_retry_request() -> None:
    """A server that wants another key share judges the ticket of both ClientHellos, and resumes."""
    client, server = our_client(), our_server()
    server.set_ecdh_curve("secp521r1")
    assert was_resumed(client, server, first(client, server))


@pytest.mark.parametrize(
    ("server_moves", "client_moves"), [(True, False), (False, True)], ids=["server's clock", "client's clock"]
)
@pytest.mark.parametrize("after", [timedelta(hours=25), timedelta(days=-1)], ids=["too old", "from the future"])
def test_sessions_age(*, server_moves: bool, client_moves: bool, after: timedelta) -> None:
    """A day after the full handshake each side wants another one, however often it was resumed."""
    ours, theirs = StoppedClock(), StoppedClock()
    client = our_client(clock=ours)
    server = our_server(clock=theirs)
    session = first(client, server)
    renewed = reports(client, server, session)[2]
    if server_moves:
        theirs.moment += after
    if client_moves:
        ours.moment += after
    assert not was_resumed(client, server, renewed)


@pytest.mark.parametrize("who", ["server", "client"])
def test_sessions_end_with_the_leaf(who: str) -> None:
    """An hour before the leaf's end tickets live an hour; then they are worth nothing, to the server and the client."""
    ours, theirs = StoppedClock(NOW + timedelta(days=5, hours=23)), StoppedClock(NOW + timedelta(days=5, hours=23))
    client = our_client(clock=ours)
    server = our_server(clock=theirs, fallback=classical())
    session = first(client, server)
    assert 3500 < session.ticket_lifetime_hint <= 3601
    (ours if who == "client" else theirs).moment += timedelta(hours=1, seconds=2)
    if who == "client":
        with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
            connect(client, server, HOST, session)
    else:
        asked, sent, _ = reports(client, server, session)
        assert not asked.is_resumed
        assert sent.selection is not None


def test_reloads_end_tickets_of_paths_that_are_gone() -> None:
    """A ticket is good as long as its very certificate is served: a reload that keeps it does no harm."""
    ca = tls_ca()
    client, server = our_client(), our_server()
    session = first(client, server)
    server.reload([standalone(ca, 5), landmark(ca), classical()])
    assert was_resumed(client, server, session)
    server.reload([standalone(ca)])
    asked, sent, _ = reports(client, server, session)
    assert not asked.is_resumed
    assert sent.selection is not None
    assert sent.selection.path == standalone(ca)
    server.reload([landmark(ca), standalone(ca)])
    assert was_resumed(client, server, session)


def test_classical_sessions_are_resumed_until_the_leaf_ends() -> None:
    """A classical chain is resumed under the same conditions, and not where the name has not been looked at."""
    server = server_context([classical()])
    clock = StoppedClock(datetime.now(UTC))
    client = our_client(clock=clock)
    session = first(client, server, LOCAL)
    asked = reports(client, server, session, LOCAL)[0]
    assert asked.verified is None
    assert asked.failure is None
    assert not was_resumed(client, server, session, HOST)
    liar = LyingServer(classical()).context
    client.check_hostname = False
    unchecked = connect(client, liar, "elsewhere.example")[0].session
    assert was_resumed(client, liar, unchecked, "elsewhere.example")
    client.check_hostname = True
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        connect(client, liar, "elsewhere.example", unchecked)
    client.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    with pytest.raises(ssl.SSLCertVerificationError, match="CRL"):
        connect(client, server, LOCAL, session)
    client.verify_flags &= ~ssl.VERIFY_CRL_CHECK_LEAF
    clock.moment += timedelta(days=9)
    assert not was_resumed(client, server, session, LOCAL)


def test_names_are_checked_in_resumed_handshakes() -> None:
    """A session of a connection that did not check names is not offered by one that does."""
    client, server = our_client(), LyingServer(standalone(tls_ca())).context
    client.check_hostname = False
    session = connect(client, server, "www.example.org")[0].session
    assert was_resumed(client, server, session, "www.example.org")
    client.check_hostname = True
    with pytest.raises(ssl.SSLCertVerificationError, match=r"not for www\.example\.org"):
        connect(client, server, "www.example.org", session)


def test_what_nobody_verified_is_not_kept() -> None:
    """A connection without verification has no session; one that was is not offered without verification."""
    client, server = our_client(), our_server()
    session = first(client, server)
    careless = our_client(TrustStore())
    careless.check_hostname = False
    careless.verify_mode = ssl.CERT_NONE
    ours, _ = connect(careless, server)
    assert ours.session is None
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    assert not was_resumed(client, server, session)


def test_a_resumption_that_we_did_not_offer_is_refused() -> None:
    """If OpenSSL resumes what did not come from us, the client refuses a server that nobody judged."""
    client, server = our_client(), our_server()
    session = first(client, server)
    ours, theirs = begin(client, server, None)
    assert load_libssl().offer_session(ours._sslobj, session.address)  # type: ignore[attr-defined]
    for end in (ours, theirs):
        with pytest.raises(ssl.SSLWantReadError):
            end.do_handshake()
    with pytest.raises(ssl.SSLCertVerificationError, match="not verified in this handshake"):
        ours.do_handshake()


def test_resumption_can_be_turned_off() -> None:
    """Without it a server gives no tickets, and a client has no sessions."""
    plain = ssl.create_default_context()
    trust_classical(plain)
    ours, _ = connect(plain, our_server(fallback=classical(), resumption=False))
    assert not has_ticket(ours)
    ours, _ = connect(our_client(resumption=False), our_server())
    assert ours.session is None


def test_tls12_gives_no_tickets() -> None:
    """Tickets are for TLS 1.3: in TLS 1.2 none is given."""
    plain = ssl.create_default_context()
    trust_classical(plain)
    plain.maximum_version = ssl.TLSVersion.TLSv1_2
    server = server_context([classical()])
    ours, _ = connect(plain, server)
    assert ours.version() == "TLSv1.2"
    assert not has_ticket(ours)
    assert not was_resumed(plain, server, ours.session)


def test_client_certificates_turn_resumption_off() -> None:
    """Where clients prove who they are there are neither tickets nor sessions, unless both sides ask for them."""
    ca = clients_ca()
    server, client = our_server(clients=ca.store()), our_client(paths=[standalone(ca)])
    assert connect(client, server)[0].session is None
    assert not has_ticket(connect(our_client(paths=[standalone(ca)], resumption=True), server)[0])
    later = our_server()
    session = first(our := our_client(), later)
    later.verify_mode = ssl.CERT_OPTIONAL
    assert not was_resumed(our, later, session)


def test_client_certificates_are_judged_again() -> None:
    """Where resumption is asked for all the same, the client is judged by the present store."""
    ca = clients_ca()
    serial = serial_number(1, 3)
    stores = [ca.store()]
    server = our_server(clients=lambda: stores[-1], resumption=True)
    client = our_client(paths=[standalone(ca)], resumption=True)
    session = first(client, server)
    _, sent, _ = reports(client, server, session)
    assert sent.client is not None
    assert sent.client.index == 3
    stores.append(ca.store(revoked=SerialRanges([(serial, serial + 1)])))
    with pytest.raises(ssl.SSLError, match="revoked"):
        connect(client, server, HOST, session)
    stores.append(ca.store())
    assert was_resumed(client, server, first(client, server))
    # An anonymous session does not become one of a known client, nor the other way round.
    server.verify_mode = ssl.CERT_OPTIONAL
    nobody = our_client()
    session = first(nobody, server)
    assert reports(nobody, server, session)[1].client is None
    server.verify_mode = ssl.CERT_REQUIRED
    with pytest.raises(ssl.SSLError, match=r"did not return a certificate|verify failed"):
        connect(nobody, server, HOST, session)
    known = first(client, server)
    server.verify_mode = ssl.CERT_NONE
    assert not was_resumed(client, server, known)


def test_our_own_path_must_be_valid() -> None:
    """A client does not resume what it entered with a certificate that has ended since."""
    clock = StoppedClock()
    ca = clients_ca()
    path = replace(standalone(ca), not_after=NOW + timedelta(hours=1))
    client = our_client(paths=[path], resumption=True, clock=clock)
    server = our_server(clients=ca.store(), resumption=True)
    session = first(client, server)
    clock.moment += timedelta(hours=2)
    assert not was_resumed(client, server, session)


def test_tickets_of_other_servers_are_judged_by_the_client() -> None:
    """A server that is not ours, and resumes anything, is held to the same: what has ended is not offered."""
    clock = StoppedClock()
    client = our_client(clock=clock)
    liar = LyingServer(standalone(tls_ca())).context
    session = first(client, liar)
    clock.moment = NOW + timedelta(days=8)
    with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
        connect(client, liar, HOST, session)


@pytest.mark.parametrize("broken", [OSError("no snapshot"), KeyboardInterrupt()], ids=["exception", "interrupt"])
def test_stores_that_raise_lead_to_no_resumption(broken: BaseException) -> None:
    """A trust store that raises while a session is judged is met again by the full handshake, which fails."""
    stores = [up_to_date()]

    def snapshot() -> TrustStore:
        if not stores:
            raise broken
        return stores[0]

    client, server = our_client(snapshot), our_server()
    session = first(client, server)
    stores.clear()
    with pytest.raises((ssl.SSLError, KeyboardInterrupt)):
        connect(client, server, HOST, session)


def test_a_server_whose_clock_fails_survives_the_ticket(monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception while a ticket is judged leads to a full handshake; Ctrl-C reaches the caller. C sees none."""
    unraisable: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", unraisable.append)
    client, server = our_client(), our_server()
    session = first(client, server)
    real = Ticket.parse
    monkeypatch.setattr(Ticket, "parse", lambda _data: 1 // 0)
    assert not was_resumed(client, server, session)

    def interrupted(_data: bytes) -> Ticket:
        raise KeyboardInterrupt

    monkeypatch.setattr(Ticket, "parse", interrupted)
    with pytest.raises(KeyboardInterrupt):
        connect(client, server, HOST, session)
    monkeypatch.setattr(Ticket, "parse", real)
    monkeypatch.setattr(Ticket, "encode", lambda _self: 1 // 0)
    ours, _ = connect(client, server)
    assert not was_resumed(client, server, ours.session)
    assert unraisable == []


def test_sessions_over_sockets() -> None:
    """`wrap_socket(session=…)` resumes, on a connected socket and on one that connects later, and so does assigning."""
    client, server = our_client(), our_server()
    session = first(client, server, LOCAL)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(30)

        def serve() -> None:
            for _ in range(3):
                plain, _ = listener.accept()
                with plain, contextlib.suppress(OSError):
                    plain.settimeout(30)
                    with server.wrap_socket(plain, server_side=True) as tls:
                        tls.sendall(b"word")
                        tls.recv(1)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        address = listener.getsockname()

        def check(tls: ssl.SSLSocket) -> None:
            # What was not read would end the server's side in a reset.
            assert tls.recv(4) == b"word"
            assert tls.session_reused

        plain = socket.create_connection(address, 30)
        with client.wrap_socket(plain, server_hostname=LOCAL, session=session) as tls:
            check(tls)
        with client.wrap_socket(socket.socket(), server_hostname=LOCAL, session=session) as tls:
            tls.settimeout(30)
            tls.connect(address)
            check(tls)
        plain = socket.create_connection(address, 30)
        with client.wrap_socket(plain, server_hostname=LOCAL, do_handshake_on_connect=False) as tls:
            tls.session = session  # type: ignore[assignment]
            tls.do_handshake()
            check(tls)
        thread.join(30)


def test_where_connections_are_not_found_there_are_no_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a Python whose connections lie elsewhere in memory, handshakes are full ones and nothing else changes."""
    client, server = our_client(), our_server()
    session = first(client, server)
    monkeypatch.setattr(load_libssl(), "finds_connections", False)
    assert not was_resumed(client, server, session)
    assert connect(client, server)[0].session is None


def test_sessions_keep_no_connection_alive() -> None:
    """A session outlives its connection without holding it."""
    client, server = our_client(), our_server()
    ours, theirs = connect(client, server)
    session, gone = ours.session, weakref.ref(ours)
    del ours, theirs
    gc.collect()
    assert gone() is None
    assert was_resumed(client, server, session)


@settings(max_examples=25)
@given(
    st.integers(0, 2),
    st.integers(0, 2**64 - 1),
    st.integers(0, 2**64 - 1),
    st.binary(min_size=32, max_size=32),
    st.none() | st.text("abc.-0", min_size=1, max_size=80),
    st.integers(0, 200),
)
def test_tickets_are_read_as_written(  # noqa: PLR0913 - one for each field
    asked: int, trust: int, since: int, leaf: bytes, name: str | None, cut: int
) -> None:
    """What is written is read; anything shorter, longer or of another kind is refused."""
    ticket = Ticket(asked, trust, since, leaf, name)
    data = ticket.encode()
    assert Ticket.parse(data) == ticket
    for damaged in (data[: cut % len(data)], data + b"\x00"):
        with pytest.raises(FormatError):
            Ticket.parse(damaged)
    with pytest.raises(Rejected):
        Ticket.parse(b"\x02" + data[1:])
