"""tls-alpn-01: a TLS server that shows the answer in a certificate.

Spec: RFC 8737; RFC 8738, "tls-alpn-01" (the server name of an address is its name in the reverse tree).
"""

import asyncio
import contextlib
import hashlib
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mtc.acme.client.keys import encode_key
from mtc.acme.client.solvers.contract import Answer
from mtc.acme.client.solvers.ports import listen
from mtc.acme.machine.identifiers import Identifier, IdentifierType
from mtc.acme.machine.validation import Method

ALPN = "acme-tls/1"
ACME_IDENTIFIER_OID = "1.3.6.1.5.5.7.1.31"
_CONNECTION_S = 10.0


class TLSALPNSolver:
    """Serves answers on a port, as long as there are any. host: None for all addresses of this machine."""

    method = Method.TLS_ALPN_01

    def __init__(self, port: int = 443, host: str | None = None) -> None:
        """Take where to listen."""
        self._port = port
        self._host = host
        # One context per server name; presented and withdrawn by the event loop only.
        self._contexts: dict[str, tuple[str, ssl.SSLContext]] = {}
        self._changed = asyncio.Condition()
        self._server: asyncio.Server | None = None
        self._opening = asyncio.Lock()

    async def present(self, answer: Answer) -> None:
        """Serve one more answer. A name has one at a time, so that a second CA waits until the first has looked."""
        name = server_name(answer.identifier)
        async with self._changed:
            await self._changed.wait_for(lambda: name not in self._contexts)
            self._contexts[name] = answer.token, _context_for(answer)
        async with self._opening:
            if self._server is None:
                front = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                front.set_alpn_protocols([ALPN])
                front.sni_callback = self._choose
                self._server = await listen(_serve, self._host, self._port, "--tls-port", front)

    async def withdraw(self, answer: Answer) -> None:
        """Serve it no longer; the last one closes the port."""
        name = server_name(answer.identifier)
        async with self._changed:
            if self._contexts.get(name, ("",))[0] == answer.token:
                del self._contexts[name]
                self._changed.notify_all()
        if not self._contexts:
            await self.close()

    async def close(self) -> None:
        """Close the port."""
        async with self._opening:
            server, self._server = self._server, None
            if server is not None:
                # Connections that are open end by themselves; nobody waits for them.
                server.close()

    def _choose(
        self, connection: ssl.SSLSocket | ssl.SSLObject, name: str | None, _front: ssl.SSLContext
    ) -> int | None:
        """Give a connection the context of the server name that it asks for."""
        found = self._contexts.get((name or "").lower())
        if found is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        connection.context = found[1]
        return None


def server_name(identifier: Identifier) -> str:
    """Return the server name that a validation server asks for."""
    if identifier.type is IdentifierType.IP:
        return ip_address(identifier.value).reverse_pointer
    return identifier.value


def make_challenge_certificate(answer: Answer) -> tuple[bytes, bytes]:
    """Return certificate and key, PEM, that answer a challenge."""
    key = ec.generate_private_key(ec.SECP256R1())
    digest = hashlib.sha256(answer.key_authorization.encode()).digest()
    name: x509.GeneralName = (
        x509.DNSName(answer.identifier.value)
        if answer.identifier.type is IdentifierType.DNS
        else x509.IPAddress(ip_address(answer.identifier.value))
    )
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ACME challenge")]))
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ACME challenge")]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=7))
        .add_extension(x509.SubjectAlternativeName([name]), critical=False)
        # The extension holds an OCTET STRING of 32 bytes.
        .add_extension(
            x509.UnrecognizedExtension(x509.ObjectIdentifier(ACME_IDENTIFIER_OID), b"\x04\x20" + digest), critical=True
        )
    )
    certificate = builder.sign(key, hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM), encode_key(key)


def _context_for(answer: Answer) -> ssl.SSLContext:
    """Return the context that shows an answer. The ssl module reads keys from files, so there is one for a moment."""
    certificate, key = make_challenge_certificate(answer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols([ALPN])
    with tempfile.TemporaryDirectory(prefix="mtc-request-") as folder:
        path = Path(folder) / "challenge.pem"
        path.write_bytes(key + certificate)
        context.load_cert_chain(path)
    return context


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Wait until a validation server has seen enough: the handshake was all."""
    with contextlib.suppress(TimeoutError, OSError):
        async with asyncio.timeout(_CONNECTION_S):
            await reader.read(1)
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
