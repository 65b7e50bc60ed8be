"""An update service's folder: making one, reading it, and adding CAs.

updates.toml      which CAs, by which rules
policy.pem        signs policy documents (ML-DSA-44, PKCS#8, mode 0600, perhaps encrypted)
service.pem       signs updates for relying parties that trust the service
policy.pub.pem, service.pub.pem   what relying parties pin
public/, private/ what is published, and the record of it
"""

from dataclasses import dataclass
from pathlib import Path

from mtc.cert import CACertificate
from mtc.crypto import LocalSigner, Signer, generate_key, parse_signature_algorithm
from mtc.errors import Reason, StorageError, UsageError
from mtc.signer.service.backends import read_key
from mtc.signer.service.folder import write_once
from mtc.signer.service.keyholder import ThreadSigner
from mtc.updates.config import (
    CONFIG_NAME,
    MAX_CONFIG_BYTES,
    CASource,
    UpdatesConfig,
    format_ca,
    format_updates_config,
    parse_updates_config,
)
from mtc.web.files import read_config_file
from mtc.wire import PEMBlock, encode_pem, find_pem_block

KEY_NAMES = ("policy", "service")


@dataclass(frozen=True, slots=True)
class UpdatesKeys:
    """The keys of a service. policy: of policy documents. service: of updates."""

    policy: Signer
    service: Signer


def create_service(path: Path, config: UpdatesConfig, passphrase: bytes | None) -> bool:
    """Make a service's folder with new keys; tell whether it is new. The configuration is written last.

    Raises StorageError when it cannot be written.
    """
    if (path / CONFIG_NAME).exists():
        return False
    try:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        for name in KEY_NAMES:
            key = generate_key(parse_signature_algorithm("ml-dsa-44"))
            write_once(path / f"{name}.pem", key.encode_pem(passphrase), 0o600)
            # A key that a run before left there is the one that counts.
            stored = read_key(path / f"{name}.pem", passphrase)
            write_once(path / f"{name}.pub.pem", encode_pem([PEMBlock("PUBLIC KEY", stored.public_key)]), 0o644)
        write_once(path / CONFIG_NAME, format_updates_config(config).encode(), 0o644)
    except OSError as error:
        text = (error.strerror or str(error)).lower()
        raise StorageError(Reason.STORAGE, f"{path} cannot be written: {text}", path=str(path)) from None
    return True


def read_updates_config(path: Path) -> UpdatesConfig:
    """Read the configuration of a service's folder. Raises UsageError when there is none."""
    file = path / CONFIG_NAME
    data = read_config_file(file, MAX_CONFIG_BYTES)
    if data is None:
        raise UsageError(
            Reason.UNREADABLE,
            f"{path} holds no update service, {CONFIG_NAME} is missing; make one with: mtc updates init {path}",
        )
    return parse_updates_config(data, str(file))


def read_keys(path: Path, passphrase: bytes | None) -> UpdatesKeys:
    """Open the keys. Raises UsageError when one is missing or cannot be opened."""
    policy, service = (_signer(read_key(path / f"{name}.pem", passphrase)) for name in KEY_NAMES)
    return UpdatesKeys(policy, service)


def _signer(key: LocalSigner) -> Signer:
    """Return a signer that keeps the event loop free."""
    return ThreadSigner(key)


def add_ca(  # noqa: PLR0913 - what there is to say about a CA
    path: Path,
    pem: bytes,
    prefix_url: str | None,
    mirrors: list[tuple[str, str | None]],
    at_least: int,
    max_active: int | None,
) -> bool:
    """Add a CA to a service's configuration; tell whether it is new. A running service sees it by itself.

    pem: its certificate. prefix_url: in place of the certificate's. mirrors: vkeys, each with a monitoring URL or None.
    max_active: None where the default of the file holds.
    Raises UsageError for what the configuration cannot be, StorageError.
    """
    config = read_updates_config(path)
    text = pem.decode("ascii", "replace")
    start, end = text.find("-----BEGIN CERTIFICATE-----"), text.find("-----END CERTIFICATE-----")
    if start < 0 or end < 0 or text.find("-----BEGIN CERTIFICATE-----", end) >= 0:
        raise UsageError(Reason.BAD_PEM, "a CA is added by exactly one CA certificate, PEM")
    block = text[start : end + len("-----END CERTIFICATE-----")]
    certificate = CACertificate.parse(find_pem_block(block.encode(), "CERTIFICATE"))
    if any(item.certificate.ca_id == certificate.ca_id for item in config.cas):
        return False
    url = prefix_url or certificate.prefix_url
    if url is None:
        raise UsageError(Reason.USAGE, "the CA certificate does not say where its logs are served; add --url")
    file = path / CONFIG_NAME
    lines = format_ca(block, CASource(certificate, url, at_least=at_least), mirrors, max_active)
    data = (read_config_file(file, MAX_CONFIG_BYTES) or b"") + lines.encode()
    parse_updates_config(data, str(file))
    temporary = path / f".{CONFIG_NAME}.new"
    try:
        temporary.unlink(missing_ok=True)
        write_once(temporary, data, 0o644)
        temporary.replace(file)
    except OSError as error:
        text = (error.strerror or str(error)).lower()
        raise StorageError(Reason.STORAGE, f"{file} cannot be written: {text}", path=str(file)) from None
    return True
