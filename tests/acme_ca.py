"""A CA with an ACME server as real processes on loopback, and what can be said of the certificates that it gave."""

import contextlib
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from tests.acme_programs import ACMEServerUnderTest, Names, is_listening, late_port, names_in, running, wait_for
from tests.commands import mtc

from mtc.cert import CACertificate, Certificate, CertificateRevocationList, RevocationReason, VerifiedCRL
from mtc.testing.fleet import free_port
from mtc.trust import TrustStore, trusted_ca_from_certificate, verify_certificate
from mtc.wire import find_pem_block, parse_pem

PUBLISH_S = 60.0
"""How long a revocation may take until the list names it."""
CAA_IDENTITY = "ca.example.test"
"""The issuer domain name of the CA in CAA records."""


@dataclass(frozen=True, slots=True)
class RunningCA:
    """A CA that is served, with its folder. Everything is read from what it publishes."""

    folder: Path
    server: ACMEServerUnderTest

    @property
    def certificate(self) -> CACertificate:
        """The CA certificate."""
        return CACertificate.parse(find_pem_block((self.folder / "ca.pem").read_bytes(), "CERTIFICATE"))

    @property
    def tree_size(self) -> int:
        """How many entries its log has."""
        return int((self.folder / "public" / "1" / "checkpoint").read_text().split("\n")[1])

    def add_external_account(self, allowed_name: str) -> tuple[str, str]:
        """Make a key that binds a new account, which may ask for names below one; return its ID and the HMAC key."""
        words = ["acme", "eab", "add", str(self.folder), "--allow-names", allowed_name, "--json"]
        document = json.loads(mtc(*words))
        return document["kid"], document["hmac_key"]

    def verify(self, chain: bytes, *names: str) -> Certificate:
        """Verify what a client got, PEM: a leaf for exactly these names, and the CA certificate; return the leaf."""
        leaf, *rest = [block.data for block in parse_pem(chain)]
        assert rest == [self.certificate.der], "a client that is not asked gets two certificates"
        trust = TrustStore([trusted_ca_from_certificate(self.certificate)])
        for name in names:
            verify_certificate(leaf, trust, datetime.now(UTC), name=name.replace("*", "any"))
        extensions = x509.load_der_x509_certificate(leaf).extensions
        found = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert sorted(found.get_values_for_type(x509.DNSName)) == sorted(names)
        return Certificate.parse(leaf)

    def methods_of(self, certificate: Certificate) -> set[tuple[str, str]]:
        """Return by what each name of a certificate was validated, as the CA's evidence for its entry tells."""
        words = ["ca", "evidence", str(self.folder), str(certificate.serial), "--json"]
        records = json.loads(mtc(*words))["evidence"]
        return {(item["identifier"]["value"], item["method"]) for item in records if item["kind"] == "validation"}

    def verify_revoked(self, certificate: Certificate, reason: RevocationReason | None) -> None:
        """Wait until the CA's signed list names a certificate; verify that list, and the reason."""
        until = time.monotonic() + PUBLISH_S
        ca = self.certificate
        while time.monotonic() < until:
            crl = CertificateRevocationList.parse((self.folder / "public" / "ca.crl").read_bytes())
            proven = crl.verify(ca.public_key, certificate.issuer, datetime.now(UTC))
            assert isinstance(proven, VerifiedCRL)
            line = proven.find(certificate.serial)
            if line is not None:
                assert line.reason is reason
                return
            time.sleep(0.02)
        raise AssertionError(f"serial {certificate.serial} is not in the list after {PUBLISH_S:.0f} s")


@contextlib.contextmanager
def ca_in(folder: Path, draft: str) -> Iterator[RunningCA]:
    """Make a CA of a draft revision and serve it, with a DNS server beside it, until the context ends."""
    with names_in(folder) as names:
        path = folder / "ca"
        server = _make(path, draft, names)
        log = folder / "ca.log"
        command = [sys.executable, "-m", "mtc", "ca", "serve", str(path), "--json"]
        with running(folder, log, command) as process:
            port = int(server.directory_url.split(":")[2].split("/")[0])
            wait_for(lambda: is_listening(port), "the ACME server answers", process, log)
            yield RunningCA(path, server)


def _make(path: Path, draft: str, names: Names) -> ACMEServerUnderTest:
    """Make the folder of a CA, and its ACME server's."""
    port, http_port, tls_port = free_port(), late_port(), late_port()
    fast = ["--round-interval", "50ms", "--listen", "none"]
    mtc("ca", "init", path, "--id", "32473.1", "--draft", draft, *fast)
    url = f"https://localhost:{port}/acme"
    options = ["--listen", f"127.0.0.1:{port}", "--resolver", names.server, "--caa", CAA_IDENTITY]
    options += [
        "--http-port",
        str(http_port),
        "--tls-port",
        str(tls_port),
        "--profile",
        "usual=7d",
        "--profile",
        "short=1h",
    ]
    mtc("acme", "init", path, "--url", url, *options)
    return ACMEServerUnderTest(f"{url}/directory", path / "acme" / "tls.pem", http_port, tls_port, names)
