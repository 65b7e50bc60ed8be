"""tls-alpn-01: the one certificate that shows control, and all those that do not."""

import contextlib
import ssl
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from tests.acme_validating import KEY_AUTHORIZATION, QUICK, Internet, listening, perspective, problem_of, run, task

from mtc.acme.machine.identifiers import Identifier
from mtc.acme.machine.validation import Method, Report
from mtc.acme.validation.tlsalpn01 import ACME_IDENTIFIER, find_fault, server_name_of
from mtc.testing.names import NameServer

PUBLIC = "93.184.215.14"
PROOF = b"\x04\x20" + sha256(KEY_AUTHORIZATION.encode()).digest()
NAME = Identifier.dns("www.test")
Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey


def challenge_certificate(  # noqa: PLR0913 - one argument for each thing that can be wrong
    *names: str,
    proof: bytes | None = PROOF,
    critical: bool = True,
    key: Key | None = None,
    signer: Key | None = None,
    issuer: str = "challenge",
    extensions: Sequence[x509.ExtensionType] = (),
    days: int = 1,
) -> tuple[x509.Certificate, Key]:
    """Make a certificate for a challenge, right but for what the arguments say."""
    own: Key = key or ec.generate_private_key(ec.SECP256R1())
    start = datetime.now(UTC) - timedelta(days=10)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "challenge")]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(own.public_key())
        .serial_number(7)
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=days))
    )
    if names:
        values = [_general_name(name) for name in names]
        builder = builder.add_extension(x509.SubjectAlternativeName(values), critical=False)
    if proof is not None:
        builder = builder.add_extension(x509.UnrecognizedExtension(ACME_IDENTIFIER, proof), critical=critical)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    signing = signer or own
    algorithm = None if isinstance(signing, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(signing, algorithm), own


def _general_name(text: str) -> x509.GeneralName:
    if "@" in text:
        return x509.RFC822Name(text)
    with contextlib.suppress(ValueError):
        return x509.IPAddress(ip_address(text))
    return x509.DNSName(text)


def server_context(pair: tuple[x509.Certificate, Key], protocols: Sequence[str] = ("acme-tls/1",)) -> ssl.SSLContext:
    """Return how a server with a certificate speaks TLS."""
    certificate, key = pair
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        Path(file.name).write_bytes(pem + certificate.public_bytes(Encoding.PEM))
        context.load_cert_chain(file.name)
    if protocols:
        context.set_alpn_protocols(list(protocols))
    return context


async def examine(names: NameServer, tls: ssl.SSLContext | None, name: str = "www.test") -> Report:
    """Examine a name, at whose public address a server with some way to speak TLS answers."""
    names.set("www.test", "A", PUBLIC)

    async def wait(reader: object, _: object) -> None:
        await reader.read()  # type: ignore[attr-defined]  # A stream.

    async with listening(wait, tls) as port:
        internet = Internet({(PUBLIC, 443): port})
        # Who speaks no TLS waits for us, and need not be waited for.
        patience_s = 0.5 if tls is None else QUICK.connect_timeout_s
        looker = perspective(names, internet, connect_timeout_s=patience_s)
        return await looker.examine(task(name, Method.TLS_ALPN_01))


def test_challenge_is_recognized() -> None:
    """A server that negotiates the protocol and shows the certificate has shown control."""

    async def work(names: NameServer) -> None:
        asked = []
        tls = server_context(challenge_certificate("www.test"))
        tls.sni_callback = lambda _, name, __: asked.append(name)
        report = await examine(names, tls)
        assert report.problem is None
        assert asked == ["www.test"]
        assert [(item.target, item.address, item.port) for item in report.connections] == [("www.test", PUBLIC, 443)]

    run(work)


def test_address_is_asked_for_by_its_reverse_name() -> None:
    """For an IP address, SNI has its name in the reverse tree, and the certificate has the address itself."""

    async def work(names: NameServer) -> None:
        asked = []
        tls = server_context(challenge_certificate(PUBLIC))
        tls.sni_callback = lambda _, name, __: asked.append(name)
        assert (await examine(names, tls, PUBLIC)).problem is None
        assert asked == ["14.215.184.93.in-addr.arpa"]

    run(work)
    assert server_name_of(Identifier.ip("2001:db8::1")) == "1." + "0." * 23 + "8.b.d.0.1.0.0.2.ip6.arpa"


@pytest.mark.parametrize("protocols", [(), ("http/1.1",), ("acme-tls/2", "h2")])
def test_protocol_must_be_negotiated(protocols: tuple[str, ...]) -> None:
    """A server that ignores ALPN, as any web server does, has shown nothing, whatever its certificate says."""

    async def work(names: NameServer) -> None:
        report = await examine(names, server_context(challenge_certificate("www.test"), protocols))
        kind, detail = problem_of(report)
        assert kind == "tls"
        assert "expected the ALPN protocol 'acme-tls/1', got 'none'" in detail

    run(work)


def test_old_tls_and_no_tls_are_problems() -> None:
    """TLS 1.1 and servers without TLS are refused, and the problem is one of TLS."""

    async def work(names: NameServer) -> None:
        tls = server_context(challenge_certificate("www.test"))
        tls.maximum_version = ssl.TLSVersion.TLSv1_2
        assert (await examine(names, tls)).problem is None
        with pytest.warns(DeprecationWarning, match="TLSv1_1"):
            tls.minimum_version = tls.maximum_version = ssl.TLSVersion.TLSv1_1
        assert problem_of(await examine(names, tls))[0] == "tls"
        assert problem_of(await examine(names, None))[0] == "tls"

    run(work)


def test_nobody_listening_is_a_problem_of_the_connection() -> None:
    """A closed port is told apart from broken TLS."""

    async def work(names: NameServer) -> None:
        names.set("www.test", "A", PUBLIC)
        report = await perspective(names, Internet()).examine(task("www.test", Method.TLS_ALPN_01))
        kind, detail = problem_of(report)
        assert (kind, f"{PUBLIC}: Connection refused" in detail) == ("connection", True)

    run(work)


def test_wrong_certificate_is_told_over_tls() -> None:
    """The problem says which server showed what."""

    async def work(names: NameServer) -> None:
        kind, detail = problem_of(await examine(names, server_context(challenge_certificate("other.test"))))
        assert kind == "incorrectResponse"
        assert f"at {PUBLIC}, port 443: expected the one subjectAltName www.test, got other.test" in detail

    run(work)


@pytest.mark.parametrize(
    "pair",
    [
        challenge_certificate("www.test"),
        challenge_certificate("WWW.Test"),
        challenge_certificate("www.test", days=5000),
        challenge_certificate("www.test", key=rsa.generate_private_key(65537, 2048)),
        challenge_certificate("www.test", key=ed25519.Ed25519PrivateKey.generate()),
        challenge_certificate("www.test", extensions=[x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])]),
    ],
    ids=["expired", "upper case", "valid", "RSA", "Ed25519", "more extensions"],
)
def test_right_certificates(pair: tuple[x509.Certificate, Key]) -> None:
    """Dates, keys and further extensions do not matter."""
    assert find_fault(pair[0].public_bytes(Encoding.DER), NAME, KEY_AUTHORIZATION) is None


@pytest.mark.parametrize(
    ("pair", "fault"),
    [
        (challenge_certificate(), "got none"),
        (challenge_certificate("www.test", "other.test"), "got www.test, other.test"),
        (challenge_certificate("www.test", "www.test"), "got www.test, www.test"),
        (challenge_certificate("www.test", "me@www.test"), "got www.test, me@www.test"),
        (challenge_certificate("www.test", PUBLIC), f"got www.test, {PUBLIC}"),
        (challenge_certificate(PUBLIC), f"got {PUBLIC}"),
        (challenge_certificate("*.test"), "got *.test"),
        (challenge_certificate("sub.www.test"), "got sub.www.test"),
        (challenge_certificate("www.test", proof=None), "no critical acmeIdentifier"),
        (challenge_certificate("www.test", critical=False), "no critical acmeIdentifier"),
        (challenge_certificate("www.test", proof=PROOF[2:]), "expected the SHA-256"),
        (challenge_certificate("www.test", proof=b"\x04\x20" + bytes(32)), "got 0000"),
        (challenge_certificate("www.test", proof=PROOF + b"\x00"), "expected the SHA-256"),
        (challenge_certificate("www.test", proof=b""), "expected the SHA-256"),
        (challenge_certificate("www.test", signer=ec.generate_private_key(ec.SECP256R1())), "not self-signed"),
        (challenge_certificate("www.test", signer=rsa.generate_private_key(65537, 2048)), "not self-signed"),
        (challenge_certificate("www.test", issuer="a real CA"), "not self-signed"),
    ],
)
def test_wrong_certificates(pair: tuple[x509.Certificate, Key], fault: str) -> None:
    """Any other name, number of names, digest, criticality or signature shows nothing."""
    found = find_fault(pair[0].public_bytes(Encoding.DER), NAME, KEY_AUTHORIZATION)
    assert found is not None
    assert fault in found


@pytest.mark.filterwarnings("ignore:Parsed a serial number:cryptography.utils.CryptographyDeprecationWarning")
def test_broken_certificates_are_faults() -> None:
    """Every truncation and every flipped byte of a certificate is a fault, never an exception."""
    der = challenge_certificate("www.test", key=ed25519.Ed25519PrivateKey.generate())[0].public_bytes(Encoding.DER)
    for end in range(len(der)):
        assert find_fault(der[:end], NAME, KEY_AUTHORIZATION)
    # The 64 bytes of the signature are preceded by a count of unused bits, which may be read in more than one way.
    for index in set(range(len(der))) - {len(der) - 65}:
        for value in (1, 0x80, 0xFF):
            flipped = der[:index] + bytes([der[index] ^ value]) + der[index + 1 :]
            assert find_fault(flipped, NAME, KEY_AUTHORIZATION), index


def test_key_authorization_of_another_account_is_a_fault() -> None:
    """The digest binds to the account's key."""
    der = challenge_certificate("www.test")[0].public_bytes(Encoding.DER)
    fault = find_fault(der, NAME, KEY_AUTHORIZATION + "x")
    assert fault is not None
    assert sha256((KEY_AUTHORIZATION + "x").encode()).hexdigest() in fault
