"""Handshakes on the pyOpenSSL back end, with itself and with the stdlib's."""

import gc
import ssl
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import product

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.x509.oid import NameOID
from tests.makers import CLIENT_AUTH, HOST, NOW, SERVER_AUTH, Leaf, SmallCA, leaf_extensions
from tests.tls_pairs import (
    CLOCK,
    LANDMARK,
    LyingServer,
    StoppedClock,
    classical,
    connect,
    knows,
    landmark,
    refused,
    reports,
    standalone,
    tls_ca,
    trust_classical,
)

from mtc.cert import CertificateChain, SerialRanges, encode_extended_key_usage
from mtc.errors import Error, FormatError, Reason, Rejected, UsageError
from mtc.ids import landmark_id, serial_number
from mtc.tls import (
    BackEndName,
    CertificationPath,
    ClientContext,
    Match,
    ServerContext,
    ServerReport,
    client_context,
    client_report,
    find_client_hello,
    negotiated_group,
    parse_client_hello,
    server_context,
    server_report,
)
from mtc.tls.adapters.pyopenssl.binding import load_binding
from mtc.tls.adapters.pyopenssl.client import PyOpenSSLClientContext
from mtc.tls.adapters.pyopenssl.contexts import EngineObject
from mtc.tls.adapters.pyopenssl.server import PyOpenSSLServerContext
from mtc.trust import Form, TrustStore

BACK_ENDS: tuple[BackEndName, ...] = ("stdlib", "pyopenssl")
PAIRS = list(product(BACK_ENDS, BACK_ENDS))
OURS = [pair for pair in PAIRS if "pyopenssl" in pair]
PrivateKey = mldsa.MLDSA44PrivateKey | mldsa.MLDSA65PrivateKey


def client(
    store: TrustStore | Callable[[], TrustStore],
    *,
    has_roots: bool = False,
    sends_extension: bool = True,
    back_end: BackEndName = "pyopenssl",
) -> ClientContext:
    """Return a client at NOW. has_roots: it trusts the classical path as well, which takes time."""
    context = client_context(
        store, clock=CLOCK, classical=has_roots, sends_extension=sends_extension, back_end=back_end
    )
    if has_roots:
        trust_classical(context)
    return context


def server(
    *paths: CertificationPath, fallback: CertificationPath | None = None, back_end: BackEndName = "pyopenssl"
) -> ServerContext:
    """Return a server at NOW."""
    return server_context(paths, fallback=fallback, clock=CLOCK, back_end=back_end)


@cache
def ml_dsa_key(bits: int, seed: int = 1) -> PrivateKey:
    """Return a key of ML-DSA-44 or -65."""
    kind = mldsa.MLDSA44PrivateKey if bits == 44 else mldsa.MLDSA65PrivateKey
    return kind.from_seed_bytes(bytes([seed]) * 32)


def encode_key(key: PrivateKey) -> bytes:
    """Return a private key, PKCS #8."""
    return key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@cache
def ml_dsa_ca(bits: int) -> SmallCA:
    """Return a CA whose leaves have such a key, and serve as clients too."""
    spki = (
        ml_dsa_key(bits)
        .public_key()
        .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    )
    usage = encode_extended_key_usage(SERVER_AUTH, CLIENT_AUTH)
    leaves = tuple(
        Leaf(spki=spki, extensions=(plain[0], usage, plain[2]))
        for plain in (leaf_extensions((HOST, f"entry-{number}.example")) for number in range(13))
    )
    return SmallCA(leaves)


def ml_dsa_paths(bits: int) -> tuple[CertificationPath, CertificationPath]:
    """Return both forms."""
    ca, key = ml_dsa_ca(bits), encode_key(ml_dsa_key(bits))
    return replace(landmark(ca), private_key=key), replace(standalone(ca), private_key=key)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS)
@pytest.mark.parametrize(
    ("asks", "match", "form"),
    [
        ("exact", Match.LANDMARK, Form.LANDMARK_RELATIVE),
        ("group", Match.LANDMARK_GROUP, Form.LANDMARK_RELATIVE),
        ("stale", Match.GROUP, Form.STANDALONE),
        ("CA ID", Match.ID, Form.STANDALONE),
        ("none", Match.FALLBACK, None),
    ],
)
def test_back_ends_understand_each_other(
    ours: BackEndName, theirs: BackEndName, asks: str, match: Match, form: Form | None
) -> None:
    """Each client gets from each server the best path; only the stdlib's server says why, and what else it has."""
    ca = tls_ca()
    store = knows(ca, {"stale": LANDMARK - 2, "CA ID": None}.get(asks, LANDMARK))
    context = client(store, has_roots=asks == "none", sends_extension=asks != "none", back_end=ours)
    other = server(landmark(ca), standalone(ca), fallback=classical(), back_end=theirs)
    if asks == "exact":
        with context.asking(landmark_id(ca.anchor, 1, LANDMARK)):
            asked, sent = reports(*connect(context, other))
    else:
        asked, sent = reports(*connect(context, other))
    assert sent.selection is not None
    assert sent.selection.match is match
    assert sent.requested == asked.requested
    assert (sent.requested is None) is (asks == "none")
    assert sent.available == asked.available
    assert (asked.available is not None) is (theirs == "stdlib" and asks != "none")
    assert asked.is_acknowledged is (theirs == "stdlib" and match.is_acknowledged)
    assert (None if asked.verified is None else asked.verified.form) is form
    assert asked.failure is None
    assert asked.retry is None


@pytest.mark.parametrize("bits", [44, 65])
@pytest.mark.parametrize("form", [Form.LANDMARK_RELATIVE, Form.STANDALONE])
def test_leaf_keys_may_be_ml_dsa(bits: int, form: Form) -> None:
    """Both forms work with an ML-DSA leaf key and a post-quantum key exchange; without a word pyOpenSSL is chosen."""
    ca = ml_dsa_ca(bits)
    context = client(knows(ca) if form is Form.LANDMARK_RELATIVE else knows(ca, None))
    other = server_context(ml_dsa_paths(bits), clock=CLOCK)
    if not isinstance(other, PyOpenSSLServerContext):
        # A Python on OpenSSL 3.5 or newer.
        other = server(*ml_dsa_paths(bits))
    ours, theirs = connect(context, other)
    asked, sent = reports(ours, theirs)
    assert asked.verified is not None
    assert asked.verified.form is form
    assert sent.selection is not None
    assert sent.selection.match.is_acknowledged
    assert negotiated_group(ours) == negotiated_group(theirs) == "X25519MLKEM768"
    assert ours.getpeercert(binary_form=True) == sent.selection.path.certificates[0]


def test_a_client_without_ml_dsa_gets_another_path() -> None:
    """A client that cannot verify ML-DSA signatures gets the path whose key it knows."""
    ca = tls_ca()
    context = client(knows(ca))
    assert isinstance(context, PyOpenSSLClientContext)
    context.set_signature_schemes("ecdsa_secp256r1_sha256")
    _, sent = reports(*connect(context, server(*ml_dsa_paths(44), standalone(ca))))
    assert sent.selection is not None
    assert sent.selection.index == 2


@cache
def post_quantum_chain() -> tuple[CertificationPath, bytes]:
    """Return a classical path of ML-DSA-44 throughout, with an intermediate, and its root, DER."""
    keys = [ml_dsa_key(44, seed) for seed in (2, 3, 4)]
    names = ["post-quantum root", "intermediate", HOST]
    made = []
    for place, (key, name) in enumerate(zip(keys, names, strict=True)):
        above = max(0, place - 1)
        now = datetime.now(UTC)
        builder = x509.CertificateBuilder(
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[above])]),
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
            key.public_key(),
            place + 1,
            min(now, NOW) - timedelta(days=1),
            max(now, NOW) + timedelta(days=7),
        ).add_extension(x509.BasicConstraints(ca=place < 2, path_length=None), critical=True)
        if place == 2:
            builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST)]), critical=False)
        made.append(builder.sign(keys[above], None).public_bytes(serialization.Encoding.DER))
    root, intermediate, leaf = made
    return CertificationPath.build(CertificateChain(None, (leaf, intermediate)), encode_key(keys[2])), root


def test_post_quantum_chains_are_sent_whole_and_verified() -> None:
    """A classical chain of ML-DSA is loaded with its intermediate, and verified against its root, names included."""
    path, root = post_quantum_chain()
    theirs = server(path)
    context = client_context(TrustStore(), back_end="pyopenssl")
    with pytest.raises(ssl.SSLCertVerificationError, match="issuer certificate") as caught:
        connect(context, theirs)
    assert caught.value.verify_code == 20
    # In both forms that the stdlib takes.
    context.load_verify_locations(cadata=root + root)
    context.load_verify_locations(cadata=ssl.DER_cert_to_PEM_cert(root))
    ours, _ = connect(context, theirs)
    report = client_report(ours)
    assert report is not None
    assert report.verified is None
    described = ours.getpeercert()
    assert described is not None
    assert described["subject"] == ((("commonName", HOST),),)
    assert described["issuer"] == ((("commonName", "intermediate"),),)
    assert described["subjectAltName"] == (("DNS", HOST),)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch") as caught:
        connect(context, server(fallback=path), "www.example.org")
    assert caught.value.verify_code == 62
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        connect(context, theirs, "127.0.0.1")
    refused(client_context(TrustStore(), classical=False, back_end="pyopenssl"), theirs, Reason.NOT_MTC)


def test_back_ends_are_chosen() -> None:
    """Without a word it is the stdlib's; an unknown name, and sessions where there are none, are refused."""
    ca = tls_ca()
    assert not isinstance(client_context(ca.store(), classical=False), PyOpenSSLClientContext)
    assert not isinstance(server_context([standalone(ca)]), PyOpenSSLServerContext)
    with pytest.raises(UsageError, match="choose stdlib or pyopenssl"):
        client_context(ca.store(), back_end="gnutls")  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="does not resume"):
        client_context(ca.store(), back_end="pyopenssl", resumption=True)
    with pytest.raises(UsageError, match="does not resume"):
        server_context([standalone(ca)], back_end="pyopenssl", resumption=True)


def test_bad_certificates_are_refused() -> None:
    """Wrong name, another time, revoked, unknown CA, landmark not trusted: reason and code say why."""
    ca = tls_ca()
    one, other = LyingServer(standalone(ca)).context, LyingServer(landmark(ca), b"\x00\x05\x04" + ca.anchor.binary)
    refused(client(knows(ca)), one, Reason.NAME_MISMATCH, "www.example.org", code=62)
    refused(client(knows(ca)), one, Reason.NAME_MISMATCH, "127.0.0.2", code=62)
    connect(client(knows(ca)), one, "127.0.0.1")
    late = client_context(knows(ca), classical=False, clock=StoppedClock(NOW + timedelta(days=7)), back_end="pyopenssl")
    refused(late, one, Reason.EXPIRED, code=10)
    serial = serial_number(1, 3)
    refused(client(ca.store(revoked=SerialRanges([(serial, serial + 1)]))), one, Reason.REVOKED, code=23)
    refused(client(TrustStore()), one, Reason.UNKNOWN_CA, code=20)
    report = refused(client(knows(ca, None)), other.context, Reason.POLICY_NOT_MET, code=50)
    assert report.retry == ca.anchor


def test_classical_certificates_are_verified_as_ever() -> None:
    """A classical certificate is for OpenSSL: trusted root and right name, or the handshake fails."""
    theirs = server(classical())
    ours, _ = connect(client(knows(tls_ca()), has_roots=True), theirs)
    report = client_report(ours)
    assert report is not None
    assert report.verified is None
    assert report.failure is None
    with pytest.raises(ssl.SSLCertVerificationError, match="self-signed") as caught:
        connect(client_context(TrustStore(), back_end="pyopenssl"), theirs)
    assert caught.value.verify_code == 18
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        connect(client(TrustStore(), has_roots=True), LyingServer(classical()).context, "www.example.org")


@pytest.mark.parametrize(("ours", "theirs"), OURS)
def test_tls12_gets_the_classical_path(ours: BackEndName, theirs: BackEndName) -> None:
    """Merkle Tree certificates go out in TLS 1.3 only."""
    ca = tls_ca()
    old = client(knows(ca), has_roots=True, back_end=ours)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    end, other = connect(old, server(standalone(ca), fallback=classical(), back_end=theirs))
    assert end.version() == other.version() == "TLSv1.2"
    asked, sent = reports(end, other)
    assert asked.requested is None
    assert sent.selection is not None
    assert not sent.selection.path.is_mtc
    with pytest.raises(ssl.SSLError):
        connect(old, server(standalone(ca), back_end=theirs))


@pytest.mark.filterwarnings("ignore:ssl.OP_NO:DeprecationWarning")
@pytest.mark.parametrize("ours", BACK_ENDS)
def test_options_forbid_tls13(ours: BackEndName) -> None:
    """A server whose options forbid TLS 1.3 sends the classical path, and a client that forbids it asks for nothing."""
    ca = tls_ca()
    theirs = server(standalone(ca), fallback=classical())
    theirs.options |= ssl.OP_NO_TLSv1_3
    context = client(knows(ca), has_roots=True, back_end=ours)
    assert connect(context, theirs)[0].version() == "TLSv1.2"
    context.options |= ssl.OP_NO_TLSv1_3
    asked, _ = reports(*connect(context, server(standalone(ca), fallback=classical())))
    assert asked.requested is None


def test_a_client_must_know_whom_it_wants() -> None:
    """Without a name no certificate is accepted, a classical one neither; a name with a leading dot is refused."""
    context = client(knows(tls_ca()), has_roots=True)
    for path in (classical(), standalone(tls_ca())):
        to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
        ours = context.wrap_bio(to_client, to_server)
        theirs = server(path).wrap_bio(to_server, to_client, server_side=True)
        for end in (ours, theirs):
            with pytest.raises(ssl.SSLWantReadError):
                end.do_handshake()
        with pytest.raises(ssl.SSLCertVerificationError, match="no host name"):
            ours.do_handshake()
    for name in ("", b".example.com"):
        with pytest.raises(ValueError, match="leading dot"):
            context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=name)


@pytest.mark.parametrize("theirs", BACK_ENDS)
def test_a_server_of_tls12_is_understood(theirs: BackEndName) -> None:
    """A client that asked for trust anchors goes on with a server that speaks TLS 1.2 only."""
    other = server(classical(), back_end=theirs)
    other.maximum_version = ssl.TLSVersion.TLSv1_2
    ours, _ = connect(client(knows(tls_ca()), has_roots=True), other)
    assert ours.version() == "TLSv1.2"


@pytest.mark.parametrize(("ours", "theirs"), OURS)
def test_hello_retry_request_is_survived(ours: BackEndName, theirs: BackEndName) -> None:
    """A server that wants another key share hears the extension twice and answers it once."""
    ca = tls_ca()
    other = server(landmark(ca), standalone(ca), back_end=theirs)
    other.set_ecdh_curve("secp521r1")
    end, their_end = connect(client(knows(ca), back_end=ours), other)
    asked, sent = reports(end, their_end)
    assert asked.verified is not None
    assert asked.verified.form is Form.LANDMARK_RELATIVE
    assert asked.is_acknowledged is (theirs == "stdlib")
    assert sent.requested == asked.requested
    assert "secp521r1" in {negotiated_group(end), negotiated_group(their_end)}


def test_the_second_client_hello_has_the_extension() -> None:
    """After a HelloRetryRequest the list of trust anchors stands in the ClientHello again."""
    ca = tls_ca()
    theirs = server(landmark(ca), standalone(ca), back_end="stdlib")
    theirs.set_ecdh_curve("secp521r1")
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client(knows(ca)).wrap_bio(to_client, to_server, server_hostname=HOST)
    other_in, other_out = ssl.MemoryBIO(), ssl.MemoryBIO()
    other = theirs.wrap_bio(other_in, other_out, server_side=True)
    flights = []
    for _ in range(2):
        with pytest.raises(ssl.SSLWantReadError):
            ours.do_handshake()
        flights.append(to_server.read())
        other_in.write(flights[-1])
        with pytest.raises(ssl.SSLWantReadError):
            other.do_handshake()
        to_client.write(other_out.read())
    assert [flight.count(b"\xca\x34\x00\x0a\x00\x08") for flight in flights] == [1, 1]
    ours.do_handshake()


@pytest.mark.parametrize(
    ("available", "acknowledgement"),
    [(b"", None), (b"\x00\x00", None), (b"\x00\x01\x00", None), (b"\x00\x02\x01", None), (None, b"\x00\x00")],
)
def test_malformed_extension_of_a_server_ends_the_handshake(
    available: bytes | None, acknowledgement: bytes | None
) -> None:
    """An empty or damaged list, and an acknowledgement with a body, are refused, verified or not."""
    ca = tls_ca()
    liar = LyingServer(standalone(ca), available, acknowledgement)
    careless = client(knows(ca))
    careless.check_hostname = False
    careless.verify_mode = ssl.CERT_NONE
    for context in (client(knows(ca)), careless):
        with pytest.raises(ssl.SSLError) as caught:
            connect(context, liar.context)
        report = client_report(caught.value)
        assert report is not None
        assert isinstance(report.failure, FormatError)
        assert caught.value.__cause__ is report.failure


def test_answers_that_were_not_asked_for_are_refused() -> None:
    """A server that answers an extension that was not sent is refused, although OpenSSL steps over the answer."""
    outgoing = ssl.MemoryBIO()
    context = client(TrustStore(), sends_extension=False)
    ours = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=HOST)
    with pytest.raises(ssl.SSLWantReadError):
        ours.do_handshake()
    hello = find_client_hello(outgoing.read())
    assert hello is not None
    assert parse_client_hello(hello).trust_anchors is None
    assert isinstance(ours, EngineObject)
    assert ours.mtc_engine is not None
    ours.mtc_engine.hear(bytes.fromhex("080000020000"))
    with pytest.raises(FormatError, match="was not sent"):
        ours.mtc_engine.hear(bytes.fromhex("080000080006ca3400020000"))


def hello_of(context: ssl.SSLContext, host: str = HOST) -> bytes:
    """Return the first flight of a client."""
    outgoing = ssl.MemoryBIO()
    with pytest.raises(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=host).do_handshake()
    return outgoing.read()


def answer(context: ssl.SSLContext, *parts: bytes) -> tuple[BaseException | None, bytes, ServerReport | None]:
    """Give a server bytes, part by part; return what it raised other than that it wants more, sent, and reports."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    connection = context.wrap_bio(incoming, outgoing, server_side=True)
    for part in parts:
        incoming.write(part)
        try:
            connection.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLError as error:
            return error, outgoing.read(), server_report(connection)
    return None, outgoing.read(), server_report(connection)


def split(hello: bytes, size: int) -> bytes:
    """Return a flight of one record cut into records of `size` bytes each."""
    body = hello[5:]
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(hello[:3] + len(part).to_bytes(2, "big") + part for part in parts)


def test_client_hello_may_come_in_pieces() -> None:
    """A ClientHello is found byte by byte and across records, and is not waited for without end."""
    ca = tls_ca()
    hello = hello_of(client(knows(ca)))
    theirs = server(landmark(ca), standalone(ca))
    for parts in ([hello], [bytes([byte]) for byte in hello], [split(hello, 400)], [split(hello, 100)]):
        error, sent, report = answer(theirs, *parts)
        assert error is None
        assert len(sent) > 1000
        assert report is not None
        assert report.selection is not None
        assert report.selection.match is Match.LANDMARK_GROUP
    tiny = split(hello, 4)
    error, sent, _ = answer(theirs, *(tiny[at : at + 9] for at in range(0, len(tiny), 9)))
    assert "more than 64 records" in str(error)
    assert sent == b"\x15\x03\x03\x00\x02\x02\x32"


def test_hopeless_clients_get_an_alert() -> None:
    """No TLS at all, a damaged list of trust anchors, an unknown name, no path: each has its alert, and the report."""
    ca = tls_ca()
    theirs = server(standalone(ca))
    sound = b"\x00\x05\x04" + ca.anchor.binary
    damaged = hello_of(client(knows(ca, None))).replace(sound, b"\x00\x05\x05" + ca.anchor.binary)
    only_schemes = client(knows(ca))
    assert isinstance(only_schemes, PyOpenSSLClientContext)
    only_schemes.set_signature_schemes("ed25519")
    for flight, alert, reason in [
        (b"GET / HTTP/1.1\r\n\r\n", 50, Reason.BAD_TAG),
        (damaged, 50, None),
        (hello_of(client(knows(ca)), "unknown.example"), 112, Reason.NAME_MISMATCH),
        (hello_of(only_schemes), 40, Reason.NO_PATH),
    ]:
        error, sent, report = answer(theirs, flight)
        assert sent == bytes([21, 3, 3, 0, 2, 2, alert])
        assert isinstance(error, ssl.SSLError)
        assert isinstance(error.__cause__, FormatError if alert == 50 else Rejected)
        assert reason is None or error.__cause__.reason is reason
        assert report is not None
        assert report.failure is error.__cause__


def test_exceptions_fail_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A trust store or a clock that raises ends the handshake, with that exception as its cause; C sees none."""
    unraisable: list[object] = []
    monkeypatch.setattr("sys.unraisablehook", unraisable.append)
    ca = tls_ca()

    def broken() -> TrustStore:
        raise LookupError("no snapshot")

    class BrokenClock(StoppedClock):
        """A clock that stops after some readings."""

        def __init__(self, readings: int) -> None:
            super().__init__()
            self.readings = readings

        def now(self) -> datetime:
            self.readings -= 1
            if self.readings < 0:
                raise LookupError("no time")
            return super().now()

    theirs = server(standalone(ca))
    with pytest.raises(ssl.SSLError, match="no snapshot") as caught:
        connect(client(broken), theirs)
    assert isinstance(caught.value.__cause__, LookupError)
    # The second time is asked for while OpenSSL verifies.
    with pytest.raises(ssl.SSLError, match="no time"):
        connect(client_context(knows(ca), classical=False, clock=BrokenClock(1), back_end="pyopenssl"), theirs)
    with pytest.raises(ssl.SSLError, match="no time"):
        connect(client(knows(ca)), server_context([standalone(ca)], clock=BrokenClock(0), back_end="pyopenssl"))

    def interrupted() -> TrustStore:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        connect(client(interrupted), theirs)
    assert unraisable == []


def test_a_connection_that_nobody_judged_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """If C takes a yes that the verifier has not said, the handshake fails all the same, and nothing is sent."""
    ca = tls_ca()
    binding = load_binding()
    yes = binding._ffi.callback("int(int, X509_STORE_CTX *)", lambda _is_fine, _store: 1)
    monkeypatch.setattr(binding, "_verify", yes)
    context = client(TrustStore())
    with pytest.raises(ssl.SSLCertVerificationError, match="was not verified in this handshake"):
        connect(context, server(standalone(ca)))


def test_a_failed_connection_stays_refused() -> None:
    """After a refusal neither handshake nor reading nor writing goes on."""
    ca = tls_ca()
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client(TrustStore()).wrap_bio(to_client, to_server, server_hostname=HOST)
    theirs = server(standalone(ca)).wrap_bio(to_server, to_client, server_side=True)
    for end in (ours, theirs):
        with pytest.raises(ssl.SSLWantReadError):
            end.do_handshake()
    for go_on in (ours.do_handshake, ours.read, lambda: ours.write(b"secret"), ours.do_handshake):
        with pytest.raises(ssl.SSLError, match="no CA of the trust store"):
            go_on()
    with pytest.raises(ssl.SSLError, match="unknown ca"):
        theirs.do_handshake()


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
    assert ours.getpeercert() == {}


@pytest.mark.parametrize(("ours", "theirs"), OURS)
def test_clients_have_certificates(ours: BackEndName, theirs: BackEndName) -> None:
    """Clients prove who they are with both forms; only the stdlib's server says which one it wants."""
    ca = tls_ca()
    people = SmallCA(
        tuple(
            Leaf(extensions=(*leaf_extensions((f"client-{n}.example",))[::2], encode_extended_key_usage(CLIENT_AUTH)))
            for n in range(13)
        ),
        ca_id="32473.200",
    )
    context = client_context(
        ca.store(), paths=[landmark(people), standalone(people)], classical=False, clock=CLOCK, back_end=ours
    )
    doors = server_context([standalone(ca)], clients=knows(people), clock=CLOCK, back_end=theirs)
    end, other = connect(context, doors)
    asked, sent = reports(end, other)
    assert asked.sent is not None
    assert asked.sent.match is (Match.LANDMARK_GROUP if theirs == "stdlib" else Match.FALLBACK)
    assert sent.client is not None
    assert asked.sent.path.is_landmark_relative is (theirs == "stdlib")
    described = other.getpeercert()
    assert described is not None
    assert described["subjectAltName"] == (("DNS", "client-3.example"),)
    strangers = server_context([standalone(ca)], clients=ca.store(), clock=CLOCK, back_end=theirs)
    nobody = client(ca.store(), back_end=ours)
    for who in (context, nobody):
        with pytest.raises(ssl.SSLError) as caught:
            connect(who, strangers)
        assert isinstance(caught.value.__cause__, Error) is (who is context)
    strangers.verify_mode = ssl.CERT_OPTIONAL
    connect(nobody, strangers)
    careless = server(standalone(ca), back_end=theirs)
    careless.verify_mode = ssl.CERT_REQUIRED
    with pytest.raises(ssl.SSLError, match="no clients are trusted"):
        connect(context, careless)


def test_clients_may_have_ml_dsa_keys() -> None:
    """A client with an ML-DSA key sends its certificate, and is let in."""
    ca = ml_dsa_ca(44)
    context = client_context(ca.store(), paths=ml_dsa_paths(44), classical=False, clock=CLOCK, back_end="pyopenssl")
    doors = server_context(ml_dsa_paths(44), clients=ca.store(), clock=CLOCK, back_end="pyopenssl")
    _, sent = reports(*connect(context, doors))
    assert sent.client is not None


def test_sessions_are_not_resumed() -> None:
    """The tickets that OpenSSL gives are worth nothing: whoever offers one gets a full handshake."""
    plain = ssl.create_default_context()
    trust_classical(plain)
    theirs = server(classical())
    first, _ = connect(plain, theirs)
    second, _ = connect(plain, theirs, HOST, first.session)
    assert second.session_reused is False
    # Our client keeps no session, and uses none that it is given, here or there.
    again, _ = connect(
        client(knows(tls_ca()), has_roots=True), server(classical(), back_end="stdlib"), HOST, first.session
    )
    again.session = first.session
    assert again.session is None
    assert not again.session_reused


def test_a_reload_leaves_connections_alone() -> None:
    """After a reload new connections get the new path, old ones go on; what cannot be loaded changes nothing."""
    ca = tls_ca()
    theirs = server(standalone(ca, 3))
    context = client(knows(ca, None))
    ours, other = connect(context, theirs)
    theirs.reload([standalone(ca, 4)])
    asked, _ = reports(*connect(context, theirs))
    assert asked.verified is not None
    assert asked.verified.index == 4
    other.write(b"still here")
    assert ours.read() == b"still here"
    with pytest.raises(UsageError, match="private key"):
        theirs.reload([replace(standalone(ca, 5), private_key=classical().private_key)])
    with pytest.raises(UsageError, match="private key"):
        theirs.reload([replace(standalone(ca, 5), private_key=b"rubbish")])
    assert [path.certificates for path in theirs.paths] == [standalone(ca, 4).certificates]


def test_settings_hold_from_the_next_connection_on() -> None:
    """Protocols, groups and ciphers set on a context are those of its connections; what cannot be done is refused."""
    ca = tls_ca()
    context, theirs = client(knows(ca), has_roots=True), server(standalone(ca), fallback=classical())
    assert isinstance(context, PyOpenSSLClientContext)
    connect(context, theirs)
    theirs.set_alpn_protocols(["h2", "http/1.1"])
    context.set_alpn_protocols(["http/1.1", "h2"])
    context.set_groups("secp256r1")
    ours, other = connect(context, theirs)
    assert ours.selected_alpn_protocol() == other.selected_alpn_protocol() == "h2"
    assert negotiated_group(ours) == "secp256r1"
    context.set_alpn_protocols(["other"])
    assert connect(context, theirs)[0].selected_alpn_protocol() is None
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-CHACHA20-POLY1305")
    cipher = connect(context, theirs)[0].cipher()
    assert cipher is not None
    assert cipher[0] == "ECDHE-ECDSA-CHACHA20-POLY1305"
    context.set_groups("no such group")
    with pytest.raises(ssl.SSLError, match="does not know the groups"):
        connect(context, theirs)
    impossible: list[Callable[[], object]] = [
        lambda: context.load_cert_chain("file"),
        lambda: setattr(context, "keylog_filename", "file"),
        lambda: setattr(context, "sni_callback", print),
        lambda: setattr(context, "post_handshake_auth", True),
    ]
    for wrong in impossible:
        with pytest.raises(UsageError, match="the pyopenssl back end has no"):
            wrong()


def test_connections_leak_nothing() -> None:
    """No object of Python stays behind, whatever comes of a handshake, nor do callbacks keep anything."""
    ca = tls_ca()
    theirs = server(landmark(ca), standalone(ca), fallback=classical())
    contexts = [client(knows(ca)), client(knows(ca, None)), client(knows(ca), has_roots=True, sends_extension=False)]
    stranger = client_context(TrustStore(), classical=False, clock=CLOCK, back_end="pyopenssl")

    def run(rounds: int) -> int:
        for number in range(rounds):
            connect(contexts[number % 3], theirs)
            with pytest.raises(ssl.SSLCertVerificationError):
                connect(stranger, theirs)
            hello_of(contexts[number % 3])
        gc.collect()
        return len(gc.get_objects())

    before = run(20)
    assert run(60) - before < 40
