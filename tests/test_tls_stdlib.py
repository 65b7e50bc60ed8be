"""Handshakes on the stdlib back end: who gets which certificate, and what is refused."""

import ctypes
import gc
import ssl
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from tests.makers import HOST, NOW, SmallCA, policy
from tests.tls_pairs import (  # noqa: F401 - a fixture for the whole module
    CLOCK,
    FIRST_8,
    LANDMARK,
    LyingServer,
    StoppedClock,
    classical,
    connect,
    knows,
    landmark,
    leaf_key,
    no_system_roots,
    refused,
    reports,
    standalone,
    tls_ca,
    trust_classical,
)

from mtc.cert import CertificateChain, SerialRanges
from mtc.errors import FormatError, Reason, Rejected, UsageError
from mtc.ids import REVISIONS, landmark_id, serial_number
from mtc.tls import (
    CertificationPath,
    ClientContext,
    Match,
    client_context,
    client_report,
    server_context,
    server_report,
)
from mtc.tls.adapters.stdlib.callbacks import VERIFY
from mtc.tls.adapters.stdlib.libssl import load_libssl
from mtc.trust import Form, TrustStore

LISTED = [Form.LANDMARK_RELATIVE, Form.STANDALONE]


def client(
    store: TrustStore | Callable[[], TrustStore], *, classical: bool = True, sends_extension: bool = True
) -> ClientContext:
    """Return a client at NOW that trusts the classical path as well."""
    context = client_context(store, clock=CLOCK, classical=classical, sends_extension=sends_extension)
    trust_classical(context)
    return context


@pytest.mark.parametrize("revision", REVISIONS.values(), ids=str)
@pytest.mark.parametrize("has_classical", [True, False], ids=["classical", "mtc-only"])
@pytest.mark.parametrize(
    ("asks", "match", "form"),
    [
        ("exact", Match.LANDMARK, Form.LANDMARK_RELATIVE),
        ("group", Match.LANDMARK_GROUP, Form.LANDMARK_RELATIVE),
        ("newer group", Match.LANDMARK_GROUP, Form.LANDMARK_RELATIVE),
        ("older group", Match.GROUP, Form.STANDALONE),
        ("CA ID", Match.ID, Form.STANDALONE),
        ("expired", Match.ID, Form.STANDALONE),
        ("none", Match.FALLBACK, None),
        ("other CA", Match.FALLBACK, None),
    ],
)
def test_each_client_gets_the_best_path(
    revision: str,
    asks: str,
    match: Match,
    form: Form | None,
    has_classical: bool,  # noqa: FBT001 - a row
) -> None:
    """What a client knows decides what is sent, in every draft; the server says so, and the client verifies it."""
    ca = tls_ca(REVISIONS[str(revision)])
    stores = {
        "newer group": knows(ca, LANDMARK + 2),
        "older group": knows(ca, LANDMARK - 2),
        "CA ID": knows(ca, None),
        "expired": knows(ca, LANDMARK, int(NOW.timestamp()) - 1),
        "other CA": TrustStore([*knows(tls_ca(ca_id="32473.77")).cas]),
    }
    store = stores.get(asks, knows(ca))
    context = client(store, sends_extension=asks != "none")
    server = server_context(
        [landmark(ca), standalone(ca)], fallback=classical() if has_classical else None, clock=CLOCK
    )
    if asks == "other CA" and not has_classical:
        refused(context, server, Reason.UNKNOWN_CA, code=20)
        return
    if asks == "exact":
        with context.asking(landmark_id(ca.anchor, 1, LANDMARK)):
            asked, sent = reports(*connect(context, server))
    else:
        asked, sent = reports(*connect(context, server))
    assert sent.selection is not None
    assert sent.selection.match is match
    assert sent.requested == asked.requested
    assert sent.available == asked.available
    assert asked.is_acknowledged is match.is_acknowledged
    if form is None:
        assert sent.selection.path.is_mtc is not has_classical
        # Without the extension the server says nothing of what else it has.
        assert (asked.available is None) is (asks == "none")
        assert (asked.verified is None) is has_classical
    else:
        assert asked.verified is not None
        assert sent.selection.path.is_landmark_relative is (form is Form.LANDMARK_RELATIVE)
        if asks not in {"CA ID", "expired", "older group"}:
            assert asked.verified.form is form


def test_the_server_lists_what_it_has_for_the_name() -> None:
    """EncryptedExtensions holds the IDs of the paths for the name asked for, and of no other."""
    ca, other = tls_ca(), tls_ca(ca_id="32473.77")
    elsewhere = SmallCA(ca_id="32473.78")
    paths = [standalone(ca), landmark(ca), standalone(other), standalone(elsewhere, 4)]
    server = server_context(paths, fallback=classical(), clock=CLOCK)
    asked, _ = reports(*connect(client(knows(ca)), server, "entry-3.example"))
    assert asked.available is not None
    assert [str(anchor) for anchor in asked.available.anchors] == ["32473.1.1.1.5", "32473.1", "32473.77"]


def test_names_choose_paths() -> None:
    """One server with several names sends each the certificate for it; an unknown one gets the fallback, or nothing."""
    ca = tls_ca()
    paths = [standalone(ca, 3), standalone(ca, 4)]
    server = server_context(paths, clock=CLOCK)
    for number in (3, 4):
        asked, _ = reports(*connect(client(knows(ca, None)), server, f"entry-{number}.example"))
        assert asked.verified is not None
        assert asked.verified.index == number
    with pytest.raises(ssl.SSLError, match=r"no certification path for unknown\.example"):
        connect(client(knows(ca, None)), server, "unknown.example")
    server.reload(paths, fallback=classical())
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        connect(client(knows(ca, None)), server, "unknown.example")


def test_a_reload_leaves_connections_alone() -> None:
    """After a reload new connections get the new path, and the old ones go on, also when the old paths are gone."""
    ca = tls_ca()
    server = server_context([standalone(ca, 3)], clock=CLOCK)
    context = client(knows(ca, None))
    ours, theirs = connect(context, server)
    server.reload([standalone(ca, 4)])
    asked, _ = reports(*connect(context, server))
    assert asked.verified is not None
    assert asked.verified.index == 4
    theirs.write(b"still here")
    assert ours.read() == b"still here"
    with pytest.raises(UsageError):
        server.reload([])
    with pytest.raises(UsageError, match="private key"):
        server.reload([replace(standalone(ca, 5), private_key=classical().private_key)])
    assert reports(*connect(context, server))[1].selection is not None
    assert server.paths[0].certificates == standalone(ca, 4).certificates


def test_wrong_host_is_refused() -> None:
    """A sound certificate for another name is refused, by name and by address; the right address is accepted."""
    ca = tls_ca()
    liar = LyingServer(standalone(ca))
    refused(client(knows(ca)), liar.context, Reason.NAME_MISMATCH, "www.example.org", code=62)
    refused(client(knows(ca)), liar.context, Reason.NAME_MISMATCH, "127.0.0.2", code=62)
    ours, _ = connect(client(knows(ca)), liar.context, "127.0.0.1")
    assert client_report(ours) is not None
    unchecked = client(knows(ca))
    unchecked.check_hostname = False
    connect(unchecked, liar.context, "www.example.org")


@pytest.mark.parametrize(("days", "reason", "code"), [(7, Reason.EXPIRED, 10), (-7, Reason.NOT_YET_VALID, 9)])
def test_validity_is_judged_at_the_moment_of_the_handshake(days: int, reason: Reason, code: int) -> None:
    """A certificate is refused after its end and before its beginning, by the client's clock."""
    ca = tls_ca()
    clock = StoppedClock(NOW)
    context = client_context(knows(ca), clock=clock)
    liar = LyingServer(landmark(ca))
    connect(context, liar.context)
    clock.moment = NOW + timedelta(days=days)
    expired = client_context(knows(ca), clock=clock)
    for candidate in (context, expired):
        refused(candidate, LyingServer(standalone(ca)).context, reason, code=code)


def test_revoked_is_refused() -> None:
    """A serial number in a revoked range is refused in either form, from the next snapshot of the store on."""
    ca = tls_ca()
    serial = serial_number(1, 3)
    stores = [knows(ca)]
    context = client(lambda: stores[-1])
    server = server_context([landmark(ca), standalone(ca)], clock=CLOCK)
    connect(context, server)
    revoked = SerialRanges([(serial, serial + 1)])
    stores.append(ca.store(subtrees=[ca.trusted_subtree(0, 8, landmark=LANDMARK)], revoked=revoked))
    refused(context, server, Reason.REVOKED, code=23)
    refused(context, LyingServer(standalone(ca)).context, Reason.REVOKED)


@pytest.mark.parametrize("acknowledgement", [None, b""], ids=["silent", "acknowledged"])
def test_unsolicited_landmark_certificate_is_refused(acknowledgement: bytes | None) -> None:
    """A landmark-relative certificate of a landmark that is not trusted is refused, whatever the server claims."""
    ca = tls_ca()
    liar = LyingServer(landmark(ca), b"\x00\x05\x04" + ca.anchor.binary, acknowledgement)
    for store in (knows(ca, None), knows(ca, LANDMARK - 2), knows(ca, LANDMARK, int(NOW.timestamp()) - 1)):
        report = refused(client(store), liar.context, Reason.POLICY_NOT_MET)
        assert report.is_acknowledged is (acknowledgement is not None)
        # The server has what we trust: one more attempt, for that ID alone.
        assert report.retry == ca.anchor
    context = client(knows(ca, None))
    with context.asking(ca.anchor):
        report = refused(context, liar.context, Reason.POLICY_NOT_MET)
    assert report.retry is None


def test_proof_of_another_log_is_refused() -> None:
    """A certificate whose proof leads to another tree does not match the trusted subtree of the same place."""
    ca = tls_ca()
    other = replace(ca, leaves=ca.leaves[1:] + ca.leaves[:1])
    foreign = replace(ca.proof(3, FIRST_8), inclusion_proof=other.proof(3, FIRST_8).inclusion_proof)
    path = replace(landmark(ca), certificates=(ca.certificate(3, proof=foreign),))
    refused(client(knows(ca)), LyingServer(path).context, Reason.TRUSTED_SUBTREE_MISMATCH, code=7)
    # The same proof under a serial number of log 2: no trusted subtree there, and no signature over one.
    second = replace(ca, log_number=2)
    for cosigners in ([], [ca.ca_id]):
        path = replace(path, certificates=(second.certificate(3, proof=ca.proof(3, FIRST_8, cosigners)),))
        refused(client(knows(ca)), LyingServer(path).context, Reason.POLICY_NOT_MET)


def test_short_quorum_is_refused() -> None:
    """A standalone certificate with fewer cosignatures than the policy asks for is refused."""
    ca = tls_ca()
    store = ca.store(policy=policy(ca.ca_id, of=["32473.9.1", "32473.9.2"], at_least=1))
    refused(client(store), LyingServer(standalone(ca)).context, Reason.POLICY_NOT_MET)
    der = ca.certificate(3, FIRST_8, [ca.ca_id, "32473.9.2"])
    connect(client(store), LyingServer(replace(standalone(ca), certificates=(der,))).context)


def test_classical_chains_are_verified_as_ever() -> None:
    """A classical certificate is for OpenSSL: trusted root and right name, or the handshake fails."""
    store, server = knows(tls_ca()), server_context([classical()])
    ours, _ = connect(client(store), server)
    report = client_report(ours)
    assert report is not None
    assert report.verified is None
    assert report.failure is None
    with pytest.raises(ssl.SSLCertVerificationError, match="self-signed"):
        connect(client_context(store), server)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        connect(client(store), LyingServer(classical()).context, "www.example.org")
    refused(client(store, classical=False), server, Reason.NOT_MTC)


def test_tls12_gets_the_classical_path() -> None:
    """Merkle Tree certificates go out in TLS 1.3 only; a server without another path does not speak TLS 1.2."""
    ca = tls_ca()
    old = client(knows(ca))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    ours, theirs = connect(old, server_context([landmark(ca), standalone(ca)], fallback=classical(), clock=CLOCK))
    assert ours.version() == "TLSv1.2"
    asked, sent = reports(ours, theirs)
    assert sent.selection is not None
    assert not sent.selection.path.is_mtc
    assert asked.available is None
    with pytest.raises(ssl.SSLError):
        connect(old, server_context([standalone(ca)], clock=CLOCK))
    # The classical path is not for this name, and the other one not for this version.
    with pytest.raises(ssl.SSLError, match="suits the client"):
        connect(old, server_context([standalone(ca), classical()], clock=CLOCK), "entry-3.example")


def test_hello_retry_request_is_survived() -> None:
    """A server that wants another key share hears the extension twice and answers it once."""
    ca = tls_ca()
    server = server_context([landmark(ca), standalone(ca)], clock=CLOCK)
    server.set_ecdh_curve("secp521r1")
    asked, _ = reports(*connect(client(knows(ca)), server))
    assert asked.is_acknowledged
    assert asked.verified is not None


def hello_of(context: ssl.SSLContext) -> bytes:
    """Return the first flight of a client."""
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=HOST).do_handshake()
    return outgoing.read()


@pytest.mark.parametrize(
    "body", [b"\x00\x05\x05\x81\xfdY\x01", b"\x00\x04\x04\x81\xfdY\x01", b"\x00\x05\x00\x03\x81\xfdY"]
)
def test_malformed_extension_of_a_client_ends_the_handshake(body: bytes) -> None:
    """A list of trust anchors that does not parse is answered by the alert decode_error."""
    ca = tls_ca()
    sound = b"\x00\x05\x04" + ca.anchor.binary
    hello = hello_of(client(knows(ca, None)))
    assert hello.count(b"\xca\x34\x00\x07" + sound) == 1
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = server_context([standalone(ca)], clock=CLOCK)
    connection = server.wrap_bio(incoming, outgoing, server_side=True)
    incoming.write(hello.replace(sound, body.ljust(len(sound), b"\x01")))
    with pytest.raises(ssl.SSLError) as caught:
        connection.do_handshake()
    assert isinstance(caught.value.__cause__, FormatError)
    assert outgoing.read()[-2:] == b"\x02\x32"
    report = server_report(connection)
    assert report is not None
    assert report.failure is caught.value.__cause__


@pytest.mark.parametrize(
    ("available", "acknowledgement"),
    [(b"", None), (b"\x00\x00", None), (b"\x00\x01\x00", None), (b"\x00\x02\x01", None), (None, b"\x00\x00")],
)
def test_malformed_extension_of_a_server_ends_the_handshake(
    available: bytes | None, acknowledgement: bytes | None
) -> None:
    """An empty or damaged list, and an acknowledgement with a body, are refused by the client."""
    ca = tls_ca()
    liar = LyingServer(standalone(ca), available, acknowledgement)
    with pytest.raises(ssl.SSLError) as caught:
        connect(client(knows(ca)), liar.context)
    report = client_report(caught.value)
    assert report is not None
    assert isinstance(report.failure, FormatError)


def test_extension_that_was_not_asked_for_ends_the_handshake() -> None:
    """A client that sent no list hears of none: OpenSSL itself keeps servers from answering."""
    ca = tls_ca()
    liar = LyingServer(standalone(ca), b"\x00\x05\x04" + ca.anchor.binary, b"")
    ours, _ = connect(client(knows(ca), sends_extension=False), liar.context)
    report = client_report(ours)
    assert report is not None
    assert report.requested is None
    assert report.available is None
    assert not report.is_acknowledged


def test_grease_is_tolerated() -> None:
    """IDs that nobody knows, or that are none, are stepped over on both sides."""
    ca = tls_ca()
    liar = LyingServer(standalone(ca), b"\x00\x09\x02\x80\x80\x05\x81\xfdY\x7f\x01", b"")
    connect(client(knows(ca)), liar.context)
    context = client(knows(ca))
    sound = b"\x00\x05\x04" + ca.anchor.binary
    hello = hello_of(client(knows(ca, None)))
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = server_context([standalone(ca)], clock=CLOCK).wrap_bio(incoming, outgoing, server_side=True)
    incoming.write(hello.replace(sound, b"\x00\x05\x01\x80\x02\x80\x01"))
    with pytest.raises(ssl.SSLWantReadError):
        connection.do_handshake()
    report = server_report(connection)
    assert report is not None
    assert report.requested is not None
    assert report.requested.anchors == ()
    assert context.verify_mode is ssl.CERT_REQUIRED


def test_exceptions_in_callbacks_fail_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trust store or a clock that raises ends the handshake, with that exception as its cause; C sees none."""
    unraisable: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", unraisable.append)
    ca = tls_ca()

    def broken() -> TrustStore:
        raise LookupError("no snapshot")

    class BrokenClock(StoppedClock):
        def now(self) -> datetime:
            raise LookupError("no time")

    server = server_context([standalone(ca)], clock=CLOCK)
    with pytest.raises(ssl.SSLError, match="no snapshot") as caught:
        connect(client(broken), server)
    assert isinstance(caught.value.__cause__, LookupError)
    with pytest.raises(ssl.SSLError, match="no time"):
        connect(client_context(knows(ca), clock=BrokenClock()), server)
    with pytest.raises(ssl.SSLError):
        connect(client(knows(ca)), server_context([standalone(ca)], clock=BrokenClock()))
    assert unraisable == []


def test_interrupt_in_a_callback_reaches_the_caller() -> None:
    """Ctrl-C during verification is raised by the handshake as what it is."""

    def interrupted() -> TrustStore:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        connect(client(interrupted), server_context([standalone(tls_ca())], clock=CLOCK))


def test_a_connection_that_nobody_judged_is_refused() -> None:
    """If the verifier was not run to its end but C took a yes from it, the handshake fails all the same."""
    ca = tls_ca()
    yes = VERIFY(lambda _store, _argument: 1)
    context = client(knows(ca))
    load_libssl().set_verifier(context, yes)
    with pytest.raises(ssl.SSLCertVerificationError, match="was not verified in this handshake"):
        connect(context, server_context([standalone(ca)], clock=CLOCK))


def test_verification_can_be_turned_off_as_everywhere() -> None:
    """CERT_NONE accepts anything and verifies nothing; the report says so."""
    ca = tls_ca()
    context = client(ca.store())
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    ours, _ = connect(context, LyingServer(landmark(ca)).context)
    report = client_report(ours)
    assert report is not None
    assert report.verified is None
    assert isinstance(report.failure, Rejected)


def test_contexts_share_no_state() -> None:
    """Two clients with different trust, and two servers, in four threads: each has its own verdict."""
    one, other = tls_ca(), tls_ca(ca_id="32473.77")
    clients = {"32473.1": client(knows(one)), "32473.77": client(knows(other, None))}
    servers = {ca.ca_id: server_context([landmark(ca), standalone(ca)], clock=CLOCK) for ca in (one, other)}
    wrong: list[str] = []

    def run(mine: str, theirs: str) -> None:
        for _ in range(50):
            try:
                asked, _ = reports(*connect(clients[mine], servers[theirs]))
            except ssl.SSLCertVerificationError as error:
                report = client_report(error)
                if mine == theirs or report is None or report.failure is not error.__cause__:
                    wrong.append(f"{mine} refused {theirs}: {error}")
            else:
                if mine != theirs or asked.verified is None or str(asked.verified.ca.ca_id) != theirs:
                    wrong.append(f"{mine} accepted {theirs}")

    threads = [threading.Thread(target=run, args=(mine, theirs)) for mine in clients for theirs in servers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def resident_bytes() -> int:
    """Return the memory of this process, 0 where it is not told."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * 4096
    except FileNotFoundError:
        return 0


class Heap(ctypes.Structure):
    """What glibc's mallinfo2 returns."""

    _fields_ = tuple((f"field{number}", ctypes.c_size_t) for number in range(10))


def heap_bytes() -> int:
    """Return the bytes that C has allocated, 0 where glibc is not there or too old to tell."""
    ask = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if ask is None:
        return 0
    ask.restype = Heap
    return int(ask().field7)


def growth(warm_up: int, count: int) -> tuple[int, int, int]:
    """Return by how much `count` rounds make grow: Python's objects, bytes of C, bytes of the process.

    A round is a full handshake, a resumed one, a refused one, one that C ends by itself, and now and then a reload.
    """
    ca = tls_ca()
    paths = [landmark(ca), standalone(ca)]
    server = server_context(paths, fallback=classical(), clock=CLOCK)
    mutual = server_context(paths, clients=ca.store(), clock=CLOCK)
    clients = [client(knows(ca)), client(knows(ca, None)), client(knows(ca), sends_extension=False)]
    stranger = client_context(TrustStore(), classical=False, clock=CLOCK)

    def run(rounds: int) -> None:
        for number in range(rounds):
            context = clients[number % 3]
            ours, _ = connect(context, server)
            connect(context, server, HOST, ours.session)
            with pytest.raises(ssl.SSLCertVerificationError):
                connect(stranger, server)
            with pytest.raises(ssl.SSLError):
                connect(context, mutual)
            if number % 20 == 0:
                server.reload(paths, fallback=classical())

    def measure() -> tuple[int, int, int]:
        gc.collect()
        return len(gc.get_objects()), heap_bytes(), resident_bytes()

    run(warm_up)
    before = measure()
    run(count)
    after = measure()
    return after[0] - before[0], after[1] - before[1], after[2] - before[2]


def test_connections_leak_nothing() -> None:
    """No object of Python and no certificate, session or list of C's stays behind, whatever comes of a handshake."""
    objects, heap, _ = growth(70, 60)
    assert objects < 60
    # A certificate of 400 bytes forgotten in each handshake would be 96000, a session ten times as much.
    assert heap < 40_000


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="memory is measured on Linux")
def test_thousands_of_connections_leak_nothing() -> None:
    """Memory does not grow with the number of connections."""
    objects, heap, resident = growth(500, 4000)
    assert objects < 60
    assert heap < 64 << 10
    assert resident < 1 << 20


def test_peer_certificate_is_described() -> None:
    """`getpeercert()` works although OpenSSL cannot print the issuer, and agrees with the bytes."""
    ca = tls_ca()
    ours, theirs = connect(client(knows(ca)), server_context([standalone(ca)], clock=CLOCK))
    described = ours.getpeercert()
    assert described is not None
    assert described["subjectAltName"] == (
        ("DNS", HOST),
        ("DNS", "localhost"),
        ("DNS", "entry-3.example"),
        ("IP Address", "127.0.0.1"),
    )
    assert described["serialNumber"] == "01000000000003"
    assert described["notAfter"] == "Nov 27 12:00:00 2026 GMT"
    assert ours.getpeercert(binary_form=True) == standalone(ca).certificates[0]
    assert theirs.getpeercert() is None


def test_what_could_never_be_served_is_refused_early() -> None:
    """No path, only paths that need negotiation, a landmark-relative fallback, another key: said when loading."""
    ca = tls_ca()
    for wrong in ([], [landmark(ca)]):
        with pytest.raises(UsageError):
            server_context(wrong)
    with pytest.raises(UsageError, match="no fallback"):
        server_context([standalone(ca)], fallback=landmark(ca))
    with pytest.raises(UsageError, match="does not load the private key"):
        server_context([replace(standalone(ca), private_key=classical().private_key)])
    with pytest.raises(UsageError, match="does not load the private key"):
        server_context([replace(standalone(ca), private_key=b"rubbish")])
    with pytest.raises(UsageError, match="can never be selected"):
        CertificationPath.build(CertificateChain(None, landmark(ca).certificates), leaf_key())
