"""A cosigner's folder: making one, opening it, and adding logs.

    cosigner.toml     who it is, and the logs it knows
    key.pem           the ML-DSA-44 key (PKCS#8, mode 0600, perhaps encrypted)
    ed25519.pem       the Ed25519 key, where there is one
    register.sqlite   what was accepted and signed, per log
    public/           of a mirror: bundles and tiles, per log under the hash of its origin
    private/          evidence

Making a cosigner in a folder that holds the same one changes nothing.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from mtc.cosign.config import (
    CONFIG_NAME,
    MAX_CONFIG_BYTES,
    CosignerConfig,
    format_cosigner_config,
    format_log,
    parse_cosigner_config,
)
from mtc.cosign.logs import KnownCA, KnownLog, LogDirectory
from mtc.crypto import Signer, generate_key, parse_signature_algorithm
from mtc.errors import Reason, StorageError, UsageError
from mtc.note import SignatureType, VerifierKey
from mtc.signer.service.backends import read_key
from mtc.signer.service.folder import read_passphrase, write_once
from mtc.signer.service.keyholder import ThreadSigner
from mtc.web.files import read_config_file

KEY_NAME = "key.pem"
ED25519_NAME = "ed25519.pem"
_KEYS = (
    (KEY_NAME, "ml-dsa-44", SignatureType.COSIGNATURE_MLDSA44),
    (ED25519_NAME, "ed25519", SignatureType.COSIGNATURE_ED25519),
)


@dataclass(frozen=True, slots=True)
class OwnKey:
    """A key of a cosigner: how others know it, and what signs."""

    key: VerifierKey
    signer: Signer


@dataclass(frozen=True, slots=True)
class CosignerFolder:
    """What a folder says, with its keys opened."""

    path: Path
    config: CosignerConfig
    keys: tuple[OwnKey, ...]

    @staticmethod
    def read(path: Path, passphrase_file: str | None = None) -> "CosignerFolder":
        """Read a folder and open its keys. passphrase_file: before what the configuration says. Raises UsageError."""
        config = read_cosigner_config(path)
        secret = read_passphrase(os.environ, passphrase_file or config.passphrase_file)
        keys = tuple(
            _open_key(path / name, algorithm, kind, config.name, secret)
            for name, algorithm, kind in _KEYS
            if name == KEY_NAME or config.has_ed25519
        )
        folder = CosignerFolder(path, config, keys)
        # What contradicts itself is refused before anything is served.
        folder.directory(config)
        return folder

    def directory(self, config: CosignerConfig) -> LogDirectory:
        """Return the logs that a configuration names. Raises UsageError."""
        try:
            return LogDirectory(config.logs, config.cas, tuple(item.key for item in self.keys))
        except UsageError as error:
            raise UsageError(error.reason, f"{self.path / CONFIG_NAME}: {error.message}") from None


def read_cosigner_config(path: Path) -> CosignerConfig:
    """Read the configuration of a cosigner's folder. Raises UsageError when there is none."""
    file = path / CONFIG_NAME
    data = read_config_file(file, MAX_CONFIG_BYTES)
    if data is None:
        raise UsageError(
            Reason.UNREADABLE,
            f"{path} holds no cosigner, {CONFIG_NAME} is missing; make one with: mtc witness init {path} --id 32473.7, "
            "or mtc mirror init",
        )
    return parse_cosigner_config(data, str(file))


def _open_key(path: Path, algorithm: str, kind: SignatureType, name: str, passphrase: bytes | None) -> OwnKey:
    """Open one key. Raises UsageError when it is missing, of another algorithm, or cannot be opened."""
    key = read_key(path, passphrase)
    if key.algorithm.name != algorithm:
        raise UsageError(Reason.ALGORITHM_MISMATCH, f"{path} holds a key of {key.algorithm.name}, not {algorithm}")
    return OwnKey(VerifierKey.from_spki(name, kind, key.public_key), ThreadSigner(key))


def create_cosigner(path: Path, config: CosignerConfig, passphrase: bytes | None) -> bool:
    """Make a cosigner's folder with new keys; tell whether it is new. The configuration is written last.

    Raises UsageError when the folder holds another cosigner or a CA, StorageError when it cannot be written.
    """
    if (path / CONFIG_NAME).exists():
        there = read_cosigner_config(path)
        if (there.role, there.cosigner_id) != (config.role, config.cosigner_id):
            raise UsageError(
                Reason.CONFLICT,
                f"{path} holds {there.role} {there.cosigner_id} already; nothing was changed. Choose another folder",
            )
        return False
    if (path / "ca.toml").exists():
        raise UsageError(
            Reason.CONFLICT, f"{path} holds a CA; a cosigner is somebody else, with another folder and another key"
        )
    try:
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        for name, algorithm, _ in _KEYS:
            if (name == KEY_NAME or config.has_ed25519) and not (path / name).exists():
                write_once(
                    path / name, generate_key(parse_signature_algorithm(algorithm)).encode_pem(passphrase), 0o600
                )
        write_once(path / CONFIG_NAME, format_cosigner_config(config).encode(), 0o644)
    except OSError as error:
        text = (error.strerror or str(error)).lower()
        raise StorageError(Reason.STORAGE, f"{path} cannot be written: {text}", path=str(path)) from None
    return True


def add_log(path: Path, log: KnownLog | KnownCA, own_keys: tuple[VerifierKey, ...]) -> bool:
    """Add a log or a CA to a cosigner's configuration; tell whether it is new. A running cosigner sees it by itself.

    own_keys: of the cosigner. The same log again changes nothing. Raises UsageError for one that is there with other
    settings, or that cannot be told from the cosigner; StorageError.
    """
    config = read_cosigner_config(path)
    known = {item.key.encode(): item for item in config.cas} if isinstance(log, KnownCA) else None
    there = known.get(log.key.encode()) if known is not None and isinstance(log, KnownCA) else None
    if isinstance(log, KnownLog):
        found = [item for item in config.logs if item.origin == log.origin]
        if found and found[0] != log:
            raise UsageError(
                Reason.CONFLICT, f"{path / CONFIG_NAME} has {log.origin} with other settings; edit it by hand"
            )
        if found:
            return False
        after = replace(config, logs=(*config.logs, log))
    else:
        if there is not None and there != log:
            raise UsageError(
                Reason.CONFLICT, f"{path / CONFIG_NAME} has CA {log.ca_id} with other settings; edit it by hand"
            )
        if there is not None:
            return False
        after = replace(config, cas=(*config.cas, log))
    LogDirectory(after.logs, after.cas, own_keys)
    file = path / CONFIG_NAME
    try:
        data = file.read_bytes() + format_log(log).encode()
        temporary = path / f".{CONFIG_NAME}.new"
        temporary.unlink(missing_ok=True)
        write_once(temporary, data, 0o644)
        temporary.replace(file)
    except OSError as error:
        text = (error.strerror or str(error)).lower()
        raise StorageError(Reason.STORAGE, f"{file} cannot be written: {text}", path=str(file)) from None
    return True
