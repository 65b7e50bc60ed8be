"""Pebble, Let's Encrypt's ACME server for tests, as Debian's package has it: strict, and unusual on purpose."""

import contextlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tests.acme_programs import ACMEServerUnderTest, find_program, is_listening, names_in, running, wait_for

from mtc.testing.fleet import free_port

EAB_KID = "kid-1"
EAB_KEY = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"


def make_server_certificate(folder: Path) -> tuple[Path, Path]:
    """Write a certificate for this machine that signs itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test server")])
    now = datetime.now(UTC)
    names = [x509.DNSName("localhost"), x509.IPAddress(ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .sign(key, hashes.SHA256())
    )
    certificate_file, key_file = folder / "server.pem", folder / "server.key"
    certificate_file.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate_file, key_file


@contextlib.contextmanager
def running_pebble(
    folder: Path, *, wants_external_account: bool = False, variables: Mapping[str, str] | None = None
) -> Iterator[ACMEServerUnderTest]:
    """Run Pebble with a DNS server until the context ends; skips the test where the package is missing.

    It calls every fifth good nonce bad, unless variables of its environment say otherwise.
    """
    program = find_program("pebble")
    certificate, key = make_server_certificate(folder)
    port, management, http_port, tls_port = (free_port() for _ in range(4))
    config = {
        "listenAddress": f"127.0.0.1:{port}",
        "managementListenAddress": f"127.0.0.1:{management}",
        "certificate": str(certificate),
        "privateKey": str(key),
        "httpPort": http_port,
        "tlsPort": tls_port,
        "ocspResponderURL": "",
        "externalAccountBindingRequired": wants_external_account,
        "externalAccountMACKeys": {EAB_KID: EAB_KEY},
    }
    file, log = folder / "pebble.json", folder / "pebble.log"
    file.write_text(json.dumps({"pebble": config}))
    usual = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "20", "PEBBLE_AUTHZREUSE": "0"}
    with names_in(folder) as names:
        command = [program, "-config", str(file), "-dnsserver", names.server]
        with running(folder, log, command, {**usual, **(variables or {})}) as process:
            wait_for(lambda: is_listening(port), "Pebble answers", process, log)
            yield ACMEServerUnderTest(f"https://127.0.0.1:{port}/dir", certificate, http_port, tls_port, names)
