"""Both ends of a TLS connection in memory, and what they are made of: paths, trust stores, peers that lie."""

import os
import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from tests.makers import CLIENT_AUTH, HOST, NOW, SERVER_AUTH, Leaf, SmallCA, leaf_extensions

from mtc.ca.certificates import properties_for
from mtc.cert import CertificateChain
from mtc.errors import Error, Reason
from mtc.ids import DEFAULT_REVISION, DraftRevision
from mtc.merkle import Subtree
from mtc.tls import CertificationPath, ClientReport, ServerReport, client_report, server_report
from mtc.tls.adapters.stdlib.callbacks import Body, make_receiver, make_sender
from mtc.tls.adapters.stdlib.libssl import load_libssl
from mtc.trust import TrustStore

LOCAL = "localhost"
FIRST_8 = Subtree(0, 8)
LANDMARK = 5
"""Number of the landmark that FIRST_8 belongs to."""
USAGES = (SERVER_AUTH, CLIENT_AUTH)


@dataclass
class StoppedClock:
    """A clock that stands still."""

    moment: datetime = NOW

    def now(self) -> datetime:
        """Return the moment."""
        return self.moment

    def monotonic(self) -> float:
        """Return the same."""
        return self.moment.timestamp()


CLOCK = StoppedClock()


@cache
def leaf_key() -> bytes:
    """Return the private key of every leaf of `tests.makers`, PKCS #8."""
    return ec.derive_private_key(8, ec.SECP256R1()).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


@cache
def tls_ca(revision: DraftRevision = DEFAULT_REVISION, ca_id: str = "32473.1") -> SmallCA:
    """Return a CA whose leaves are for this machine as well."""
    leaves = tuple(
        Leaf(extensions=leaf_extensions((HOST, LOCAL, f"entry-{number}.example"), ("127.0.0.1",)))
        for number in range(13)
    )
    return SmallCA(leaves, revision=revision, ca_id=ca_id)


def standalone(ca: SmallCA, index: int = 3) -> CertificationPath:
    """Return the path of a standalone certificate that the CA alone cosigned."""
    chain = CertificateChain(
        properties_for(ca.anchor, 1, revision=ca.revision), (ca.certificate(index, FIRST_8, [ca.ca_id]),)
    )
    return CertificationPath.build(chain, leaf_key())


def landmark(ca: SmallCA, index: int = 3) -> CertificationPath:
    """Return the path of the same certificate relative to `LANDMARK`."""
    chain = CertificateChain(
        properties_for(ca.anchor, 1, LANDMARK, revision=ca.revision, max_active_landmarks=10),
        (ca.certificate(index, FIRST_8),),
    )
    return CertificationPath.build(chain, leaf_key())


@cache
def classical() -> CertificationPath:
    """Return the path of a self-signed certificate, valid today by the machine's clock, which OpenSSL reads."""
    key = ec.derive_private_key(77, ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "classical")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), 7)
        .not_valid_before(min(now, NOW) - timedelta(days=1))
        .not_valid_after(max(now, NOW) + timedelta(days=7))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(HOST), x509.DNSName(LOCAL)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain = CertificateChain(None, (certificate.public_bytes(serialization.Encoding.DER),))
    return CertificationPath.build(chain, private)


def trust_classical(context: ssl.SSLContext) -> None:
    """Let a client trust the classical path."""
    context.load_verify_locations(cadata=classical().certificates[0])


@pytest.fixture(autouse=True, scope="module")
def no_system_roots() -> Iterator[None]:
    """Let contexts of the modules that import this find no roots of the system: to read them takes most of a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", os.devnull)
        patch.setenv("SSL_CERT_DIR", os.devnull)
        yield


def connect(
    client: ssl.SSLContext,
    server: ssl.SSLContext,
    host: str = HOST,
    session: object = None,
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Perform a handshake in memory, exchange a word, and return both ends. Raises the first failure."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = client.wrap_bio(to_client, to_server, server_hostname=host, session=session)  # type: ignore[arg-type]
    theirs = server.wrap_bio(to_server, to_client, server_side=True)
    finished: set[ssl.SSLObject] = set()
    failure: ssl.SSLError | None = None
    for _ in range(6):
        for end in (ours, theirs):
            if end in finished:
                continue
            try:
                end.do_handshake()
                finished.add(end)
            except ssl.SSLWantReadError:
                continue
            except ssl.SSLError as error:
                # The first failure is the cause; the other end only reads the alert.
                failure = failure or error
                finished.add(end)
    if failure is not None:
        raise failure
    assert len(finished) == 2, "the handshake does not end"
    theirs.write(b"word")
    assert ours.read() == b"word"
    return ours, theirs


class _LyingContext(ssl.SSLContext):
    """A context that keeps what C calls, as long as a connection has the context."""

    callbacks: tuple[object, ...]


class LyingServer:
    """A server that sends one certificate, whatever it is, and any bytes as its extensions.

    available, acknowledgement: bodies of the extension in EncryptedExtensions and Certificate, None for none.
    """

    def __init__(
        self, path: CertificationPath, available: bytes | None = None, acknowledgement: bytes | None = None
    ) -> None:
        """Load the path, needed or not."""
        bodies = {0x400: available, 0x1000: acknowledgement}
        sent: list[Body] = []

        def send(_connection: int, place: int, _index: int) -> Body | None:
            body = next((found for bit, found in bodies.items() if place & bit), None)
            if body is None:
                return None
            sent.append(Body(body))
            return sent[-1]

        sender = make_sender(send, lambda _connection, _error: None)
        receiver = make_receiver(lambda _connection, _place, _index, _data: None, lambda _connection, _error: None)
        library = load_libssl()
        self.context = _LyingContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.callbacks = (sender, receiver)
        library.set_security_level(self.context, 0)
        library.use_path(self.context, path.certificates, path.private_key)
        library.register_extension(self.context, sender, receiver)


def knows(ca: SmallCA, newest: int | None = LANDMARK, expiry: int | None = None) -> TrustStore:
    """Return a store with the landmarks up to `newest`; it holds FIRST_8 when the certificate's is among them."""
    if newest is None:
        return ca.store()
    subtrees = [ca.trusted_subtree(8, 13, landmark=newest, expiry=expiry)]
    if newest >= LANDMARK:
        subtrees.append(ca.trusted_subtree(0, 8, landmark=LANDMARK, expiry=expiry))
    return ca.store(subtrees=subtrees)


def reports(ours: ssl.SSLObject, theirs: ssl.SSLObject) -> tuple[ClientReport, ServerReport]:
    """Return what both ends know."""
    asked, sent = client_report(ours), server_report(theirs)
    assert asked is not None
    assert sent is not None
    return asked, sent


def refused(
    context: ssl.SSLContext, server: ssl.SSLContext, reason: Reason, host: str = HOST, *, code: int | None = None
) -> ClientReport:
    """Assert that the client refuses the server with a reason, and return what it knows."""
    with pytest.raises(ssl.SSLCertVerificationError) as caught:
        connect(context, server, host)
    report = client_report(caught.value)
    assert report is not None
    assert isinstance(report.failure, Error)
    assert report.failure.reason is reason
    assert report.failure is caught.value.__cause__
    assert report.failure.message in str(caught.value)
    assert report.verified is None
    assert code is None or caught.value.verify_code == code
    return report
