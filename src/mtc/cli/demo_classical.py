"""An authority of today's kind for demonstrations: P-256 throughout, a root, an intermediate, and one certificate."""

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, generate_private_key
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from cryptography.x509.verification import PolicyBuilder, Store

_RUNS = 100
_DAYS = 90


@dataclass(frozen=True, slots=True)
class Classical:
    """A certificate of today's kind for a host, from an authority that was made for it.

    root: PEM, what old clients trust. fullchain: leaf and intermediate, PEM. key: of the leaf, PEM.
    """

    root: bytes
    fullchain: bytes
    key: bytes

    @property
    def size(self) -> int:
        """Return the bytes of the two certificates that a server sends."""
        return sum(len(item.public_bytes(Encoding.DER)) for item in x509.load_pem_x509_certificates(self.fullchain))

    def time(self, host: str) -> float:
        """Return the median microseconds that it takes to verify."""
        leaf, intermediate = x509.load_pem_x509_certificates(self.fullchain)
        builder = PolicyBuilder().store(Store(x509.load_pem_x509_certificates(self.root)))
        verifier = builder.build_server_verifier(x509.DNSName(host))
        return time_call(lambda: verifier.verify(leaf, [intermediate]))


def time_call(call: Callable[[], object]) -> float:
    """Return the median microseconds of a call."""
    times = []
    for _ in range(_RUNS):
        began = time.perf_counter()
        call()
        times.append((time.perf_counter() - began) * 1e6)
    return statistics.median(times)


def make_classical(host: str) -> Classical:
    """Make an authority of today's kind, P-256 throughout, and its certificate for a host."""
    now = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
    keys = [generate_private_key(SECP256R1()) for _ in range(3)]
    names = [_name("The Old Root"), _name("The Old Intermediate"), _name(host)]
    root = _certify(names[0], keys[0], names[0], keys[0], now, [(x509.BasicConstraints(ca=True, path_length=1), True)])
    authority: list[tuple[x509.ExtensionType, bool]] = [(x509.BasicConstraints(ca=True, path_length=0), True)]
    intermediate = _certify(names[1], keys[1], names[0], keys[0], now, authority)
    about: list[tuple[x509.ExtensionType, bool]] = [
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (x509.SubjectAlternativeName([x509.DNSName(host)]), False),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
    ]
    leaf = _certify(names[2], keys[2], names[1], keys[1], now, about)
    key = keys[2].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    pem = [item.public_bytes(Encoding.PEM) for item in (root, leaf, intermediate)]
    return Classical(pem[0], pem[1] + pem[2], key)


def keep_classical(folder: Path, classical: Classical) -> None:
    """Put the classical certificate where `mtc request` keeps it: beside ours in DIR/NAME, see docs/request.md."""
    version = folder / "classical" / "versions" / "1"
    if not version.exists():
        version.mkdir(parents=True)
        (version / "fullchain.pem").write_bytes(classical.fullchain)
        with open(os.open(version / "key.pem", os.O_WRONLY | os.O_CREAT, 0o600), "wb") as key:  # noqa: PTH123 - its mode
            key.write(classical.key)
        (folder / "classical" / "current").symlink_to("versions/1")
    link = (folder / "current").resolve() / "classical"
    if not link.is_symlink():
        link.symlink_to("../../classical/current")


def _name(text: str) -> x509.Name:
    """Return a distinguished name."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _certify(  # noqa: PLR0913 - what a certificate consists of
    name: x509.Name,
    key: EllipticCurvePrivateKey,
    issuer: x509.Name,
    issuer_key: EllipticCurvePrivateKey,
    start: datetime,
    extensions: Sequence[tuple[x509.ExtensionType, bool]],
) -> x509.Certificate:
    """Sign a certificate."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=_DAYS))
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    is_authority = any(isinstance(item, x509.BasicConstraints) and item.ca for item, _ in extensions)
    usage = x509.KeyUsage(
        digital_signature=not is_authority,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=is_authority,
        crl_sign=is_authority,
        encipher_only=False,
        decipher_only=False,
    )
    for item, is_critical in [*extensions, (usage, True)]:
        builder = builder.add_extension(item, critical=is_critical)
    return builder.sign(issuer_key, SHA256())
