"""A remote perspective's folder and its `perspective.toml`, read strictly.

    perspective.toml  who it is, how it looks, and which CAs may ask it
    tls.pem           the certificate by which CAs know it; renewed with its key
    tls-key.pem       the P-256 key (PKCS#8, mode 0600)

Making a perspective in a folder that holds the same one changes nothing.
"""

import tomllib
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from mtc.acme.perspective.config import parse_name
from mtc.acme.validation.choices import format_settings, read_settings
from mtc.acme.validation.settings import ValidationSettings
from mtc.ca.config import parse_address
from mtc.ca.sections import Section, read_tables
from mtc.errors import Reason, StorageError, UsageError
from mtc.web.files import read_config_file
from mtc.web.tls import (
    CERTIFICATE_NAME,
    KEY_NAME,
    TLSFiles,
    ensure_identity,
    fingerprint_of,
    parse_certificate,
    read_certificate,
    write_whole,
)

CONFIG_NAME = "perspective.toml"
MAX_CONFIG_BYTES = 1 << 20
MAX_CLIENTS = 100
"""Most CAs that may ask one perspective."""
MAX_EXAMINATIONS = 200
"""Examinations at once, by default; more are answered 503."""
DEFAULT_LISTEN = ("0.0.0.0", 8443)  # noqa: S104 - CAs elsewhere must reach it; who they are is checked
_LIFETIME = timedelta(days=1827)
_MARGIN = timedelta(days=90)


@dataclass(frozen=True, slots=True)
class AllowedClient:
    """A CA that may ask, by its certificate. fingerprint: of its key."""

    certificate: x509.Certificate

    @property
    def fingerprint(self) -> str:
        """The pin of its key."""
        return fingerprint_of(self.certificate)

    @property
    def encoded(self) -> bytes:
        """The certificate, DER."""
        return self.certificate.public_bytes(serialization.Encoding.DER)


@dataclass(frozen=True, slots=True, kw_only=True)
class PerspectiveConfig:
    """A remote perspective's configuration, checked.

    listen: host and port, HTTPS with clients known by certificate. monitoring: host and port of plain HTTP with /health
    and /metrics only, None for none. examinations: at once. looking: how applicants are looked at.
    """

    name: str
    region: str
    listen: tuple[str, int] = DEFAULT_LISTEN
    monitoring: tuple[str, int] | None = None
    examinations: int = MAX_EXAMINATIONS
    looking: ValidationSettings = field(default_factory=ValidationSettings)
    clients: tuple[AllowedClient, ...] = ()


def parse_perspective_config(data: bytes, file: str = CONFIG_NAME) -> PerspectiveConfig:
    """Read a configuration, strictly. Raises UsageError that names the file, the key and the cure."""
    if len(data) > MAX_CONFIG_BYTES:
        raise UsageError(Reason.TOO_LARGE, f"{file} is larger than {MAX_CONFIG_BYTES} bytes")
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(Reason.USAGE, f"{file} is no TOML: {error}") from None
    clients = tuple(_read_client(section) for section in read_tables(document, "client", file))
    if len(clients) > MAX_CLIENTS:
        raise UsageError(Reason.TOO_LARGE, f"{file}: at most {MAX_CLIENTS} clients, not {len(clients)}")
    looking, top = Section("validation", document.pop("validation", {}), file), Section("", document, file)
    name, region = top.parsed("name", parse_name, None), top.parsed("region", parse_name, None)
    if name is None or region is None:
        raise UsageError(Reason.USAGE, f"{file}: {'name' if name is None else 'region'} is missing")
    examinations = top.number("examinations")
    config = PerspectiveConfig(
        name=name,
        region=region.lower(),
        listen=top.parsed("listen", parse_address, None) or DEFAULT_LISTEN,
        monitoring=top.parsed("monitoring", parse_address, None),
        examinations=MAX_EXAMINATIONS if examinations is None else examinations,
        looking=read_settings(looking, ValidationSettings()),
        clients=clients,
    )
    if not config.examinations:
        raise UsageError(Reason.USAGE, f"{file}: examinations must be at least 1")
    for section in (top, looking):
        section.finish()
    return config


def _read_client(section: Section) -> AllowedClient:
    """Read one [[client]]."""
    text = section.text("certificate")
    if text is None:
        raise UsageError(
            Reason.USAGE, f"{section.where('certificate')} is missing; mtc perspective allow writes such a table"
        )
    section.finish()
    return AllowedClient(parse_certificate(text.encode(), section.where("certificate")))


def format_perspective_config(config: PerspectiveConfig) -> str:
    """Return the commented file for a new perspective; `parse_perspective_config` reads it."""
    monitoring = "127.0.0.1:9180" if config.monitoring is None else _address(config.monitoring)
    lines = [
        "# A remote perspective: it looks at applicants where the CAs below ask it to, and says what it saw.",
        "",
        f'name = "{config.name}"  # in evidence; CAs name it in [[perspective]] of their acme.toml',
        f'region = "{config.region}"  # where it stands: afrinic, apnic, arin, lacnic or ripe; the same in acme.toml',
        f'listen = "{_address(config.listen)}"  # HTTPS; only the clients below come in',
        f'{"# " if config.monitoring is None else ""}monitoring = "{monitoring}"  # plain HTTP: /health and /metrics',
        f"examinations = {config.examinations}  # at once; more are answered 503",
        "",
        "[validation]  # how applicants are looked at",
        *format_settings(config.looking),
        "",
        "# CAs that may ask, each under a line [[client]] with its certificate; mtc perspective allow adds one.",
        "",
    ]
    return "\n".join(lines + [format_client(client) for client in config.clients])


def format_client(client: AllowedClient) -> str:
    """Return the lines that allow a CA."""
    pem = client.certificate.public_bytes(serialization.Encoding.PEM).decode()
    return f'[[client]]  # {client.fingerprint}\ncertificate = """\n{pem}"""\n'


def _address(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def read_perspective_config(folder: Path) -> PerspectiveConfig:
    """Read the configuration of a folder. Raises UsageError when there is none or it is wrong."""
    file = folder / CONFIG_NAME
    data = read_config_file(file, MAX_CONFIG_BYTES)
    if data is None:
        raise UsageError(
            Reason.UNREADABLE,
            f"{folder} holds no perspective, {CONFIG_NAME} is missing; make one with: "
            f"mtc perspective init {folder} --name eu-1 --region ripe",
        )
    return parse_perspective_config(data, str(file))


def create_perspective(folder: Path, config: PerspectiveConfig, now: datetime) -> bool:
    """Make a perspective's folder with a new key; tell whether it is new. The configuration is written last.

    Raises UsageError when the folder holds another one or something else, StorageError when it cannot be written.
    """
    if (folder / CONFIG_NAME).exists():
        there = read_perspective_config(folder)
        if (there.name, there.region) != (config.name, config.region):
            raise UsageError(
                Reason.CONFLICT,
                f"{folder} holds perspective {there.name} in {there.region} already; nothing was changed. Choose "
                "another folder",
            )
        return False
    for other in ("ca.toml", "cosigner.toml"):
        if (folder / other).exists():
            raise UsageError(
                Reason.CONFLICT, f"{folder} holds {other}; a perspective is a program of its own, on another machine"
            )
    open_own_identity(folder, config.name, now)
    _store(folder / CONFIG_NAME, format_perspective_config(config).encode())
    return True


def open_own_identity(folder: Path, name: str, now: datetime) -> TLSFiles:
    """Return a perspective's own key and certificate, made or renewed where they must be; the key stays for good.

    Raises StorageError, UsageError.
    """
    files = TLSFiles(folder / CERTIFICATE_NAME, folder / KEY_NAME)
    ensure_identity(files, name, now, _LIFETIME, margin=_MARGIN)
    return files


def own_fingerprint(folder: Path) -> str:
    """Return the pin by which CAs know the perspective in a folder. Raises UsageError."""
    return fingerprint_of(read_certificate(folder / CERTIFICATE_NAME))


def allow_client(folder: Path, data: bytes, what: str) -> tuple[AllowedClient, bool]:
    """Let a CA ask, by its certificate, PEM; return it, and whether it is new. A running perspective sees it by itself.

    Raises UsageError that names `what`, StorageError.
    """
    config = read_perspective_config(folder)
    client = AllowedClient(parse_certificate(data, what))
    _check_client(client.certificate, what)
    if any(known.certificate == client.certificate for known in config.clients):
        return client, False
    file = folder / CONFIG_NAME
    try:
        text = file.read_bytes().rstrip() + b"\n\n" + format_client(client).encode()
    except OSError as error:
        raise UsageError(Reason.UNREADABLE, f"{file} cannot be read: {(error.strerror or '').lower()}") from None
    # What was written by hand stays as it is; what the addition makes of it is read before it is written.
    parse_perspective_config(text, str(file))
    _store(file, text)
    return client, True


def _check_client(certificate: x509.Certificate, what: str) -> None:
    """Refuse a certificate that a CA cannot show, such as the one that it issues under. Raises UsageError."""
    try:
        constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        is_ca = constraints.ca
    except (x509.ExtensionNotFound, ValueError):
        is_ca = False
    if is_ca or not isinstance(certificate.public_key(), ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        raise UsageError(
            Reason.IS_A_CA,
            f"{what} is not how a CA shows who it is to perspectives; that is the file perspective-client.pem in the "
            "folder acme of the CA's",
        )


def _store(file: Path, data: bytes) -> None:
    """Write a configuration whole. Raises StorageError."""
    try:
        write_whole(file, data, 0o644)
    except OSError as error:
        text = (error.strerror or str(error)).lower()
        raise StorageError(Reason.STORAGE, f"{file} cannot be written: {text}", path=str(file)) from None


def describe_perspective(folder: Path, config: PerspectiveConfig) -> dict[str, Any]:
    """Return who a perspective is, for scripts."""
    return {
        "folder": str(folder),
        "name": config.name,
        "region": config.region,
        "listen": _address(config.listen),
        "fingerprint": own_fingerprint(folder),
        "clients": [client.fingerprint for client in config.clients],
    }
