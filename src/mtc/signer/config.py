"""`signer.toml`: what a key is for, written once with comments and read strictly.

Every key must be there and none may be added, because a typing mistake in what a key may sign must not be silent.
"""

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from mtc.crypto import SignatureAlgorithm, parse_hash_algorithm, parse_signature_algorithm
from mtc.errors import Error, Reason, UsageError
from mtc.ids import DEFAULT_REVISION, MAX_LOG_NUMBER, DraftRevision, TrustAnchorID, parse_revision
from mtc.signer.rules import KNOWN_ENTRY_TYPES, SignerRules

CONFIG_NAME = "signer.toml"
MAX_CONFIG_BYTES = 1 << 16
_BARE_KEY = re.compile("[A-Za-z0-9_-]+", re.ASCII)

_Value = TypeVar("_Value", str, bool, int)


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySource:
    """Where the key lies. kind: names the back end that opens it. options: what that one needs, without secrets.

    fingerprint: SHA-256 of the public key (SPKI DER), hex; a back end that gives another key is refused. Empty until
    the key is made.
    """

    kind: str = "file"
    options: Mapping[str, str] = field(default_factory=lambda: {"path": "key.pem"})
    fingerprint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerConfig:
    """What a key is for, and where it lies. The fields are those of `SignerRules`; hash_name: of the CA's logs."""

    ca_id: TrustAnchorID
    revision: DraftRevision = DEFAULT_REVISION
    hash_name: str = "sha256"
    algorithm: str = "ml-dsa-44"
    highest_log: int = MAX_LOG_NUMBER
    max_skew_s: int = 300
    max_crl_lifetime_s: int = 32 * 86400
    entry_types: frozenset[int] = KNOWN_ENTRY_TYPES
    extension_types: frozenset[int] = frozenset()
    has_counter: bool = False
    key: KeySource = KeySource()

    @property
    def rules(self) -> SignerRules:
        """What the signer's machine decides by."""
        return SignerRules(
            ca_id=self.ca_id,
            revision=self.revision,
            highest_log=self.highest_log,
            max_skew_s=self.max_skew_s,
            max_crl_lifetime_s=self.max_crl_lifetime_s,
            known_entry_types=self.entry_types,
            known_extension_types=self.extension_types,
            has_counter=self.has_counter,
        )

    @property
    def signature_algorithm(self) -> SignatureAlgorithm:
        """The key's algorithm. Raises UsageError when there is none of that name."""
        return parse_signature_algorithm(self.algorithm)


class _Table:
    """A table of the file, of which every key must be taken."""

    def __init__(self, values: Mapping[str, object], file: str, name: str = "") -> None:
        self._values, self._file, self._name = dict(values), file, name

    def fault(self, key: str, why: str) -> UsageError:
        """Make the error for a key."""
        return UsageError(Reason.USAGE, f"{self._file}: {self._name}{key} {why}", file=self._file, key=key)

    def take(self, key: str, kind: type[_Value], example: str) -> _Value:
        """Take a value of one type."""
        if key not in self._values:
            raise self.fault(key, f"is missing; write for example {example}")
        value = self._values.pop(key)
        if type(value) is not kind:
            raise self.fault(key, f"is of the wrong type; write for example {example}")
        return value

    def number(self, key: str, least: int, most: int) -> int:
        """Take a number within limits."""
        value = self.take(key, int, f"{key} = {most}")
        if not least <= value <= most:
            raise self.fault(key, f"is {value}; it must be {least} to {most}")
        return value

    def types(self, key: str) -> frozenset[int]:
        """Take a list of 16-bit numbers."""
        value = self._values.pop(key, None)
        if not isinstance(value, list) or not all(type(item) is int and 0 <= item <= 0xFFFF for item in value):
            raise self.fault(key, f"must be a list of numbers from 0 to 65535, for example {key} = [0, 1]")
        return frozenset(value)

    def finish(self) -> None:
        """Refuse what nobody took."""
        for key in self._values:
            raise self.fault(key, "is no key of a signer's configuration; is it misspelt?")

    def rest(self) -> dict[str, str]:
        """Take everything that is left, which must be texts."""
        for key, value in self._values.items():
            if not isinstance(value, str):
                raise self.fault(key, f'must be a text, for example {key} = "…"')
        return {key: str(value) for key, value in self._values.items()}


def parse_signer_config(data: bytes, file: str = CONFIG_NAME) -> SignerConfig:
    """Read a configuration, strictly. Raises UsageError that names the file, the key, why, and what to write."""
    if len(data) > MAX_CONFIG_BYTES:
        raise UsageError(Reason.TOO_LARGE, f"{file} is larger than {MAX_CONFIG_BYTES} bytes", file=file)
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(Reason.USAGE, f"{file} is no TOML: {error}", file=file) from None
    key = document.pop("key", None)
    if not isinstance(key, dict):
        raise UsageError(
            Reason.USAGE, f'{file}: the table [key] is missing; its first line is kind = "file"', file=file
        )
    table, source = _Table(document, file), _Table(key, file, "key.")
    try:
        config = SignerConfig(
            ca_id=TrustAnchorID.parse(table.take("ca_id", str, 'ca_id = "32473.1"')),
            revision=parse_revision(table.take("draft", str, f'draft = "{DEFAULT_REVISION}"')),
            hash_name=parse_hash_algorithm(table.take("hash", str, 'hash = "sha256"')).name,
            algorithm=parse_signature_algorithm(table.take("algorithm", str, 'algorithm = "ml-dsa-44"')).name,
            highest_log=table.number("highest_log", 1, MAX_LOG_NUMBER),
            max_skew_s=table.number("max_skew_s", 0, 86400),
            max_crl_lifetime_s=table.number("max_crl_lifetime_s", 1, 10 * 365 * 86400),
            entry_types=table.types("entry_types"),
            extension_types=table.types("extension_types"),
            has_counter=table.take("counter", bool, "counter = false"),
            key=_parse_source(source),
        )
    except Error as error:
        if error.facts.get("file") == file:
            raise
        raise UsageError(error.reason, f"{file}: {error.message}", file=file) from None
    table.finish()
    return config


def _parse_source(table: _Table) -> KeySource:
    """Read where the key lies; what the back end does not know, it refuses itself."""
    kind = table.take("kind", str, 'kind = "file"')
    fingerprint = table.take("sha256", str, 'sha256 = "<SHA-256 of the public key, in hex>"')
    if not re.fullmatch("([0-9a-f]{64})?", fingerprint):
        raise table.fault("sha256", "must be the SHA-256 of the public key (SPKI DER) in lower-case hex")
    return KeySource(kind=kind, fingerprint=fingerprint, options=table.rest())


def format_signer_config(config: SignerConfig) -> str:
    """Return the commented file for a configuration; `parse_signer_config` reads it back to the same value.

    Raises UsageError for an option of the key that the file cannot hold.
    """
    lines = [
        "# What this key is for. The signer refuses everything else, whatever it is asked for.",
        "# Change nothing here while the CA lives, except max_skew_s, max_crl_lifetime_s, and a new home of the key.",
        "",
        f'ca_id = "{config.ca_id}"  # signs for the logs of this CA only',
        f'draft = "{config.revision}"  # how the CA is named in its revocation lists',
        f'hash = "{config.hash_name}"  # of its logs',
        f'algorithm = "{config.algorithm}"  # of the key',
        f"highest_log = {config.highest_log}  # log numbers run from 1 to this one",
        f"max_skew_s = {config.max_skew_s}  # how far a timestamp may lie from this machine's clock, in seconds",
        f"max_crl_lifetime_s = {config.max_crl_lifetime_s}  # longest validity of a revocation list, in seconds",
        f"entry_types = {sorted(config.entry_types)}  # log entries of other types are never certified",
        f"extension_types = {sorted(config.extension_types)}  # nor are entries with other extensions",
        f"counter = {str(config.has_counter).lower()}  # entries carry the accumulated counter, and it must be right",
        "",
        "[key]",
        f'kind = {_quote(config.key.kind)}  # who opens it: "file", or a back end that is installed',
    ]
    for name, value in config.key.options.items():
        if not _BARE_KEY.fullmatch(name) or name in ("kind", "sha256"):
            raise UsageError(Reason.USAGE, f"{name!r} cannot be an option of a key", key=name)
        lines.append(f"{name} = {_quote(value)}")
    lines += [f'sha256 = "{config.key.fingerprint}"  # of the public key; another key is refused', ""]
    return "\n".join(lines)


def _quote(text: str) -> str:
    """Return a TOML string."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in plain) + '"'
