"""Pebble, the ACME server for tests of Let's Encrypt, with its DNS server, as Debian's package `pebble` has them."""

import json
import os
import shutil
import socket
import ssl
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

EAB_KID = "kid-1"
EAB_KEY = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"


@dataclass(frozen=True, slots=True)
class Pebble:
    """A running Pebble. directory: its URL. ca_file: trusts its HTTPS. dns: management URL of the DNS server."""

    directory: str
    ca_file: Path
    http_port: int
    tls_port: int
    dns: str


def free_port() -> int:
    """Return a TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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


@contextmanager
def running_pebble(
    folder: Path, *, wants_external_account: bool = False, environment: Mapping[str, str] | None = None
) -> Iterator[Pebble]:
    """Run Pebble until the context ends; skips the test where the package is missing."""
    if shutil.which("pebble") is None or shutil.which("pebble-challtestsrv") is None:
        pytest.skip("the package pebble is not installed")
    certificate, key = make_server_certificate(folder)
    port, management, http_port, tls_port, dns_port, dns_management = (free_port() for _ in range(6))
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
    config_file = folder / "pebble.json"
    config_file.write_text(json.dumps({"pebble": config}))
    variables = {"PEBBLE_VA_NOSLEEP": "1", "PEBBLE_WFE_NONCEREJECT": "20", "PEBBLE_AUTHZREUSE": "0"}
    dns = ["-dns01", f"127.0.0.1:{dns_port}", "-management", f"127.0.0.1:{dns_management}", "-defaultIPv6", ""]
    none = ["-http01", "", "-https01", "", "-tlsalpn01", ""]
    with ExitStack() as stack:
        _run(stack, ["pebble-challtestsrv", *dns, *none], {})
        server = ["pebble", "-config", str(config_file), "-dnsserver", f"127.0.0.1:{dns_port}"]
        _run(stack, server, {**variables, **(environment or {})})
        _wait_for(port)
        _wait_for(dns_management)
        yield Pebble(
            f"https://127.0.0.1:{port}/dir", certificate, http_port, tls_port, f"http://127.0.0.1:{dns_management}"
        )


def fetch_json(url: str, pebble: Pebble) -> object:
    """Return what a GET answers."""
    context = ssl.create_default_context(cafile=str(pebble.ca_file))
    with urllib.request.urlopen(url, context=context, timeout=10) as answer:  # noqa: S310 - our own server
        return json.load(answer)


def _run(stack: ExitStack, command: list[str], variables: Mapping[str, str]) -> None:
    """Start a program that ends with the stack."""
    process = stack.enter_context(
        subprocess.Popen(  # noqa: S603 - programs of the test
            command,
            env={**os.environ, **variables},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
    )
    stack.callback(process.kill)


def _wait_for(port: int) -> None:
    """Wait until somebody listens."""
    deadline = time.monotonic() + 20
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        assert time.monotonic() < deadline, "Pebble does not start"
        time.sleep(0.05)
