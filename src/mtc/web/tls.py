"""TLS of our own servers: certificates that they make for themselves, contexts that take over new ones, and pins.

A bootstrap certificate is a classical, self-signed one, so that a server speaks HTTPS before anybody gave it another.
A pin names a public key, and so a party, without anybody who vouches for it: `sha256:` and the SHA-256 of its SPKI.

Spec: RFC 5280, "Certificate and Certificate Extensions Profile"; RFC 7469, "The Pin Directive", for what is hashed.
"""

import asyncio
import hashlib
import os
import re
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from mtc.errors import Error, FormatError, Reason, StorageError, UsageError
from mtc.web.files import file_stamp, read_file
from mtc.web.logs import open_logger

CERTIFICATE_NAME = "tls.pem"
KEY_NAME = "tls-key.pem"
BOOTSTRAP_LIFETIME = timedelta(days=90)
"""Validity of a bootstrap certificate, as of those that public CAs issue to programs."""
BOOTSTRAP_MARGIN = timedelta(days=30)
"""What is left of it when it is renewed."""
MAX_FILE_BYTES = 1 << 20
"""Largest file of certificates or of a key."""
CIPHERS_OF_TLS12 = "ECDHE+AESGCM:ECDHE+CHACHA20"
"""The suites of TLS 1.2 with forward secrecy and an AEAD, as OpenSSL writes them."""
_BACKDATING = timedelta(minutes=5)
_FINGERPRINT = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)
_EXPLAINED = (
    "CERTIFICATE_VERIFY_FAILED",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE",
    "NO_SHARED_CIPHER",
    "UNSUPPORTED_PROTOCOL",
)
_LOG = open_logger("tls")


@dataclass(frozen=True, slots=True)
class TLSFiles:
    """Where the certificate of one party lies (PEM, the end entity first), and its private key (PEM, not encrypted)."""

    certificate: Path
    key: Path


class ServerTLS:
    """The server's side of TLS, which takes over new certificates while it serves.

    `context` is what a server listens with for as long as it runs. It hands every handshake to a context built from
    the files as they last were whole, so that a certificate without its new key is never served. Connections that are
    up stay as they are. clients: DER certificates; only who holds the key of one of them may connect, nobody when
    there are none. None: anybody may, and no certificate is asked for. Sessions are not resumed with clients, because
    a resumed one is not checked again.
    """

    def __init__(
        self,
        files: TLSFiles,
        *,
        clients: Sequence[bytes] | None = None,
        minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
    ) -> None:
        """Read the files. Raises UsageError when they cannot be used."""
        self._files, self._minimum = files, minimum
        self._clients = None if clients is None else tuple(clients)
        self._stamp = _stamp(files)
        self._current = self._build()
        self.certificate = read_certificate(files.certificate)
        self.context = self._build()
        self.context.sni_callback = self._choose

    @property
    def fingerprint(self) -> str:
        """The pin of the certificate that is served."""
        return fingerprint_of(self.certificate)

    @property
    def not_after(self) -> datetime:
        """When the certificate that is served ends."""
        return self.certificate.not_valid_after_utc

    def reload(self) -> bool:
        """Take over the files if they changed; tell whether they did. Raises UsageError, and all stays as it was."""
        stamp = _stamp(self._files)
        if stamp == self._stamp:
            return False
        certificate, context = read_certificate(self._files.certificate), self._build()
        self._stamp, self._current, self.certificate = stamp, context, certificate
        return True

    def allow(self, clients: Sequence[bytes]) -> None:
        """Let in these clients from now on, and no others. Raises UsageError, and all stays as it was."""
        before = self._clients
        self._clients = tuple(clients)
        try:
            self._current = self._build()
        except UsageError:
            self._clients = before
            raise

    def _build(self) -> ssl.SSLContext:
        """Return a context of what the files and the clients are now."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.sslobject_class = _ExplainingObject
        context.minimum_version = self._minimum
        # TLS 1.3 has no others; of TLS 1.2 the suites with forward secrecy and an AEAD.
        context.set_ciphers(CIPHERS_OF_TLS12)
        context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
        context.set_alpn_protocols(["http/1.1"])
        load_files(context, self._files)
        if self._clients is not None:
            require_clients(context, self._clients)
        return context

    def _choose(self, handshake: ssl.SSLObject | ssl.SSLSocket, _name: str | None, _first: ssl.SSLContext) -> None:
        """Go on with the newest context; called in every handshake, also when the client names no server."""
        handshake.context = self._current


class _ExplainingObject(ssl.SSLObject):
    """A server's side of a handshake that tells the client why it ends.

    asyncio cuts the connection when a handshake fails, and the alert stays behind. Here the failure is reported as a
    wait for more data first, upon which asyncio sends what there is to send. The client then leaves, or its time ends.
    """

    _failure: ssl.SSLError | None = None

    def do_handshake(self) -> None:
        """Go on with the handshake."""
        if self._failure is not None:
            raise self._failure
        try:
            super().do_handshake()
        except ssl.SSLError as error:
            if error.reason not in _EXPLAINED:
                raise
            self._failure = error
            raise ssl.SSLWantReadError(ssl.SSL_ERROR_WANT_READ, "the alert is to be sent") from error


def load_files(context: ssl.SSLContext, files: TLSFiles) -> None:
    """Load a certificate and its key into a context. Raises UsageError that names the file and the cure."""
    for path in (files.certificate, files.key):
        read_file(path, MAX_FILE_BYTES)
    try:
        # OpenSSL would ask for a passphrase on the terminal, where nobody may sit.
        context.load_cert_chain(files.certificate, files.key, password=lambda: "")
    except (ssl.SSLError, OSError, ValueError) as error:
        what = getattr(error, "reason", None) or str(error)
        raise UsageError(
            Reason.BAD_KEY,
            f"{files.certificate} with {files.key} is no certificate with its key, PEM and not encrypted "
            f"({str(what).lower().replace('_', ' ')})",
        ) from None


def require_clients(context: ssl.SSLContext, clients: Sequence[bytes]) -> None:
    """Have a server's context let in only these certificates. Raises UsageError for one that is none."""
    context.verify_mode = ssl.CERT_REQUIRED
    # What stands in the store is trusted as it is, and not for what others it might sign.
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.num_tickets = 0
    context.options |= ssl.OP_NO_TICKET
    try:
        for data in clients:
            context.load_verify_locations(cadata=data)
    except (ssl.SSLError, ValueError) as error:
        raise UsageError(Reason.BAD_PEM, f"a client's certificate is none: {error}") from None


async def keep_fresh(tls: ServerTLS, renew: Callable[[], object] = lambda: None, *, interval_s: float = 60.0) -> None:
    """Renew what is due and take over files that changed, until cancelled.

    renew: for example `ensure_bootstrap`; called every `interval_s` seconds. A failure is logged and leaves what is
    served as it is.
    """
    while True:
        await asyncio.sleep(interval_s)
        try:
            renew()
            if tls.reload():
                _LOG.info("certificate taken", fingerprint=tls.fingerprint, ends=tls.not_after.isoformat())
        except Error as error:
            _LOG.warning("certificate not taken", error=error.message)


def ensure_bootstrap(folder: Path, names: Sequence[str], now: datetime) -> TLSFiles:
    """Make or renew the bootstrap certificate in a folder, and return where it lies.

    names: DNS names and IP addresses that it is for. It is renewed when 30 days are left, when it is for other names
    and when it is not valid yet; the key stays, so that pins hold and a crash cannot part the two. Raises UsageError
    for names that cannot be, and StorageError.
    """
    files = TLSFiles(folder / CERTIFICATE_NAME, folder / KEY_NAME)
    wanted = [_general_name(name) for name in names]
    if not wanted:
        raise UsageError(Reason.USAGE, "a certificate for a server needs a DNS name or an IP address")
    try:
        folder.mkdir(mode=0o755, parents=True, exist_ok=True)
        key = _ensure_key(files.key)
        if not _is_good(files.certificate, key, wanted, now):
            certificate = make_certificate(key, wanted, now, BOOTSTRAP_LIFETIME)
            write_whole(files.certificate, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    except OSError as error:
        raise StorageError(Reason.STORAGE, f"{folder} cannot be written: {_why(error)}", path=str(folder)) from None
    return files


def ensure_identity(
    files: TLSFiles, name: str, now: datetime, lifetime: timedelta, *, margin: timedelta | None = None
) -> bytes:
    """Make the key and the certificate by which a party is known to those who pinned it, if they are not there.

    name: for people. margin: what is left when the certificate is renewed, with its key, which suits those who pinned
    the key; None never to. Returns the certificate, DER. Raises StorageError, and UsageError when what is there cannot
    be used.
    """
    try:
        files.key.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        key = _ensure_key(files.key)
        there = read_certificate(files.certificate) if files.certificate.exists() else None
        if there is None or (margin is not None and now >= there.not_valid_after_utc - margin):
            certificate = make_certificate(key, [x509.DNSName(_label(name))], now, lifetime)
            write_whole(files.certificate, certificate.public_bytes(serialization.Encoding.PEM), 0o644)
    except OSError as error:
        raise StorageError(Reason.STORAGE, f"{files.key.parent} cannot be written: {_why(error)}") from None
    found = read_certificate(files.certificate)
    if found.public_key() != key.public_key():
        raise UsageError(Reason.BAD_KEY, f"{files.certificate} belongs to another key than {files.key}; remove it")
    return found.public_bytes(serialization.Encoding.DER)


def make_certificate(
    key: ec.EllipticCurvePrivateKey, names: Sequence[x509.GeneralName], now: datetime, lifetime: timedelta
) -> x509.Certificate:
    """Return a self-signed certificate, for servers and clients, that is its own root and nobody else's."""
    public = key.public_key()
    title = str(names[0].value)[:64]
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, title)])
    usages = x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=False,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    purposes = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BACKDATING)
        .not_valid_after(now - _BACKDATING + lifetime)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usages, critical=True)
        .add_extension(purposes, critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, hashes.SHA256())
    )


def fingerprint_of(certificate: x509.Certificate) -> str:
    """Return the pin of a certificate's public key."""
    spki = certificate.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return f"sha256:{hashlib.sha256(spki).hexdigest()}"


def parse_fingerprint(text: str) -> str:
    """Return a pin in its one spelling. Raises FormatError (BAD_KEY)."""
    pin = text.strip().lower()
    if not _FINGERPRINT.fullmatch(pin):
        raise FormatError(Reason.BAD_KEY, f"{text[:80]!r} is no fingerprint; write sha256: and 64 hexadecimal digits")
    return pin


def read_certificate(path: Path) -> x509.Certificate:
    """Return the first certificate of a PEM file. Raises UsageError."""
    return parse_certificate(read_file(path, MAX_FILE_BYTES), str(path))


def parse_certificate(data: bytes, what: str) -> x509.Certificate:
    """Return the first certificate of a PEM text. Raises UsageError that names `what`."""
    try:
        return x509.load_pem_x509_certificates(data)[0]
    except ValueError:
        raise UsageError(Reason.BAD_PEM, f"{what} holds no certificate, PEM") from None


def _is_good(path: Path, key: ec.EllipticCurvePrivateKey, wanted: Sequence[x509.GeneralName], now: datetime) -> bool:
    """Tell whether a bootstrap certificate can stay; one that cannot be read is made again."""
    if not path.exists():
        return False
    try:
        found = read_certificate(path)
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (UsageError, x509.ExtensionNotFound, ValueError):
        return False
    return (
        list(names) == list(wanted)
        and found.public_key() == key.public_key()
        and found.not_valid_before_utc <= now < found.not_valid_after_utc - BOOTSTRAP_MARGIN
    )


def _general_name(text: str) -> x509.GeneralName:
    """Return a DNS name or an IP address. Raises UsageError."""
    try:
        return x509.IPAddress(ip_address(text.strip("[]")))
    except ValueError:
        pass
    if not re.fullmatch(r"(\*\.)?[A-Za-z0-9_.-]{1,253}", text, re.ASCII):
        raise UsageError(Reason.BAD_NAME, f"{text[:80]!r} is no DNS name (ASCII) and no IP address")
    return x509.DNSName(text.lower())


def _label(name: str) -> str:
    """Return a name for people in the characters of DNS names."""
    return re.sub(r"[^a-z0-9.-]+", "-", name.lower()).strip("-.")[:60] or "mtc"


def _ensure_key(path: Path) -> ec.EllipticCurvePrivateKey:
    """Return the P-256 key in a file, which is made first if there is none. Raises UsageError, OSError."""
    if not path.exists():
        key = ec.generate_private_key(ec.SECP256R1())
        encoded = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        write_whole(path, encoded, 0o600)
    try:
        found = serialization.load_pem_private_key(read_file(path, MAX_FILE_BYTES), None)
    except (ValueError, TypeError):
        found = None
    if not isinstance(found, ec.EllipticCurvePrivateKey):
        raise UsageError(Reason.BAD_KEY, f"{path} holds no P-256 key, PEM and not encrypted; remove it for a new one")
    return found


def write_whole(path: Path, data: bytes, mode: int) -> None:
    """Write a file whole or not at all, durably."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.unlink(missing_ok=True)
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _stamp(files: TLSFiles) -> tuple[tuple[int, int, int], ...]:
    """Return what changes when one of the files is written; zeros for one that is not there."""
    return file_stamp(files.certificate), file_stamp(files.key)


def _why(error: OSError) -> str:
    """Say what went wrong with a file."""
    return (error.strerror or str(error)).lower()
