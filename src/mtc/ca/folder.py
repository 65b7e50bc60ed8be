"""A CA's folder: making one, and reading what is in it.

    ca.toml            configuration
    ca.pem             the CA certificate, unsigned (RFC 9925)
    public/            what is served, log N under public/N/
    private/           staged rounds, the ledger, incidents
    register.sqlite    what decides
    signer/            the key and what belongs to it; see `mtc.signer.service.folder`
    tokens             hashes of the tokens that may issue over HTTP
    ca.sock            where a running CA is asked

Making a CA in a folder that holds one changes nothing; one that a crash left half made is completed.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mtc.ca.config import CONFIG_NAME, CAConfig, format_config, read_config
from mtc.ca.landmarks import LandmarkRules
from mtc.ca.revocation import RevocationRules
from mtc.ca.state import STATE_NAME, CAState
from mtc.cert import CACertificate, encode_ca_certificate
from mtc.crypto import parse_public_key, parse_signature_algorithm
from mtc.errors import ConflictError, Error, Reason, StorageError, UsageError
from mtc.ids import encode_ca_name
from mtc.log.machine import ACCUMULATED_COUNT
from mtc.signer.config import SignerConfig
from mtc.signer.rules import KNOWN_ENTRY_TYPES
from mtc.signer.service.folder import create_signer, write_once
from mtc.store import Storage, open_storage
from mtc.wire import PEMBlock, encode_pem, parse_pem

CERTIFICATE_NAME = "ca.pem"
SIGNER_NAME = "signer"
TOKENS_NAME = "tokens"
_MAX_FILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class CAFolder:
    """What a folder says. certificate: agrees with the configuration."""

    path: Path
    config: CAConfig
    certificate: CACertificate

    @staticmethod
    def read(path: Path) -> "CAFolder":
        """Read a CA's folder. Raises UsageError when it holds none, or its files contradict each other."""
        config = read_config(path)
        certificate = _read_certificate(path / CERTIFICATE_NAME)
        for name, expected, got in (
            ("id", config.ca_id, certificate.ca_id),
            ("draft", config.revision.name, certificate.revision.name),
        ):
            if expected != got:
                raise UsageError(
                    Reason.CONFLICT,
                    f"{path / CONFIG_NAME} says {name} {expected}, but {path / CERTIFICATE_NAME} says {got}; who a CA "
                    "is never changes, so bring the right file back",
                )
        return CAFolder(path, config, certificate)

    @property
    def signer(self) -> Path:
        """The signer's folder."""
        return self.path / SIGNER_NAME

    @property
    def socket(self) -> Path:
        """Where the running CA is asked."""
        return self.path / self.config.socket

    @property
    def certificate_pem(self) -> bytes:
        """The CA certificate as it is served."""
        return encode_pem([PEMBlock("CERTIFICATE", self.certificate.der)])

    def open_storage(self) -> Storage:
        """Open objects and register, for this process alone. Raises StorageError when another one holds them."""
        return open_storage(self.config.storage, self.path)

    def read_tokens(self) -> list[str]:
        """Return the SHA-256 hashes, hex, of the tokens that may issue; none when there is no such file."""
        try:
            lines = (self.path / TOKENS_NAME).read_text("utf-8").splitlines()
        except OSError:
            return []
        return [line.split()[0] for line in lines if line.strip() and not line.startswith("#")]

    def add_token(self, name: str, now: datetime) -> str:
        """Make a token, keep its hash, and return it; nobody can show it again. Raises StorageError."""
        token = f"mtc_{secrets.token_urlsafe(32)}"
        label = "".join(char if char.isalnum() or char in "-_.@" else "_" for char in name)[:64]
        line = f"{hashlib.sha256(token.encode()).hexdigest()} {now.isoformat(timespec='seconds')} {label}\n"
        path = self.path / TOKENS_NAME
        try:
            path.touch(mode=0o600)
            with path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            text = (error.strerror or str(error)).lower()
            raise StorageError(Reason.STORAGE, f"{path} cannot be written: {text}") from None
        return token


def create_folder(path: Path, config: CAConfig, passphrase: bytes | None, now: datetime) -> tuple[CAFolder, bool]:
    """Make a CA's folder: key, CA certificate, state. Returns it, and whether it is new.

    The configuration is written last: a folder with one is whole. Raises UsageError when the folder holds another CA,
    StorageError. The log is made by opening the CA for the first time.
    """
    # What no CA could run with is refused before anything is written.
    LandmarkRules.of_profile(config.profile, config.revision)
    RevocationRules.of_profile(config.profile)
    encode_ca_name(config.ca_id, config.revision)
    is_new = not (path / CONFIG_NAME).exists()
    if not is_new:
        there = CAFolder.read(path)
        if there.config.ca_id != config.ca_id or there.config.revision != config.revision:
            raise UsageError(
                Reason.CONFLICT,
                f"{path} holds CA {there.config.ca_id} ({there.config.revision}) already; nothing was changed. Choose "
                "another folder",
            )
        return there, False
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        text = (error.strerror or str(error)).lower()
        raise StorageError(Reason.STORAGE, f"{path} cannot be made: {text}") from None
    public_key = create_signer(path / SIGNER_NAME, signer_config(config), passphrase)
    if not (path / CERTIFICATE_NAME).exists():
        der = make_certificate(config, public_key, now)
        _write(path / CERTIFICATE_NAME, encode_pem([PEMBlock("CERTIFICATE", der)]))
    certificate = _read_certificate(path / CERTIFICATE_NAME)
    if certificate.public_key.public_key != public_key or certificate.ca_id != config.ca_id:
        raise UsageError(
            Reason.CONFLICT,
            f"{path / CERTIFICATE_NAME} is of CA {certificate.ca_id} and another key than {path / SIGNER_NAME} holds; "
            "choose an empty folder",
        )
    _write(path / CONFIG_NAME, format_config(config).encode())
    return CAFolder.read(path), True


async def prepare_storage(folder: CAFolder, storage: Storage) -> CAState:
    """Return the CA's state, made when it is not there, and see to it that the certificate is served."""
    await storage.objects.put({f"public/{CERTIFICATE_NAME}": folder.certificate_pem})
    data = await storage.register.read(STATE_NAME)
    if data is None:
        if await storage.register.read("log-1") is not None:
            raise ConflictError(
                Reason.CONFLICT, f"{folder.path}: the register knows log 1, but not which log is current; it is damaged"
            )
        data = CAState().encode()
        await storage.register.create(STATE_NAME, data)
    return CAState.parse(data)


def signer_config(config: CAConfig) -> SignerConfig:
    """Return what the key of a CA is for."""
    return SignerConfig(
        ca_id=config.ca_id,
        revision=config.revision,
        hash_name=config.profile.hash_name,
        algorithm=config.profile.signatures[0],
        highest_log=config.profile.max_log,
        entry_types=KNOWN_ENTRY_TYPES,
        extension_types=frozenset({ACCUMULATED_COUNT}) if config.has_counter else frozenset(),
        has_counter=config.has_counter,
    )


def make_certificate(config: CAConfig, public_key: bytes, now: datetime) -> bytes:
    """Return the CA certificate, DER: unsigned, with the prefix URL if there is one."""
    start = now.replace(microsecond=0)
    algorithm = parse_signature_algorithm(config.profile.signatures[0])
    return encode_ca_certificate(
        ca_id=config.ca_id,
        public_key=parse_public_key(public_key, algorithm),
        not_before=start,
        not_after=start + config.profile.ca_lifetime,
        prefix_url=config.prefix_url,
        can_sign_crls=True,
        hash_name=config.profile.hash_name,
        revision=config.revision,
    )


def _read_certificate(path: Path) -> CACertificate:
    """Read the CA certificate. Raises UsageError that names the file."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_FILE_BYTES)
        blocks = [block.data for block in parse_pem(data) if block.label == "CERTIFICATE"]
        return CACertificate.parse(blocks[0] if len(blocks) == 1 else b"")
    except FileNotFoundError:
        raise UsageError(
            Reason.UNREADABLE, f"{path} is missing; the served copy is public/{CERTIFICATE_NAME}, bring it back"
        ) from None
    except OSError as error:
        raise UsageError(Reason.UNREADABLE, f"{path} cannot be read: {(error.strerror or '').lower()}") from None
    except Error as error:
        raise UsageError(error.reason, f"{path} must hold exactly one CA certificate: {error.message}") from None


def _write(path: Path, data: bytes) -> None:
    """Make a file durable under its name. Raises StorageError."""
    try:
        write_once(path, data, 0o644)
    except OSError as error:
        text = (error.strerror or str(error)).lower()
        raise StorageError(Reason.STORAGE, f"{path} cannot be written: {text}") from None
