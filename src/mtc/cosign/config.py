"""`cosigner.toml`: who a cosigner is, what it does, and for which logs, read strictly.

A key that is not there has its default; a key that is not known is an error. Logs are added by hand, or with
`mtc witness add-log` and `mtc mirror add-log`; a running cosigner reads the file again by itself.
"""

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import TypeVar
from urllib.parse import urlsplit

from mtc.cosign.logs import LOGS_AHEAD, KnownCA, KnownLog
from mtc.errors import Error, Reason, UsageError
from mtc.ids import MAX_LOG_NUMBER, TrustAnchorID
from mtc.note import VerifierKey

CONFIG_NAME = "cosigner.toml"
MAX_CONFIG_BYTES = 4 << 20
MAX_LOGS = 10_000
"""Most logs and CAs of one cosigner; a public one has some hundred."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_Value = TypeVar("_Value", str, bool, int)
_Parsed = TypeVar("_Parsed")


class Role(StrEnum):
    """What a cosigner's signature says."""

    WITNESS = "witness"
    """Consistent with everything it has seen."""
    MIRROR = "mirror"
    """The same, and stored durably and served."""


class Pruning(StrEnum):
    """What a mirror does with entries that nobody needs any more."""

    KEEP = "keep"
    REFUSE = "refuse"
    DELETE = "delete"


@dataclass(frozen=True, slots=True, kw_only=True)
class CosignerConfig:
    """A cosigner's configuration, checked.

    cosigner_id: its trust anchor ID; its name in signatures is `oid/1.3.6.1.4.1.<ID>`. has_ed25519: it also has an
    Ed25519 key, for logs that ask for that. listen: host and port. submission_path, monitoring_path: in front of the
    endpoints, without a slash at the end. follow_interval: between two looks at a followed log. pruning: see `Pruning`;
    retention: how long after its end of validity an entry stays that the log pruned; retention_alone: the same, for
    one that the log still serves.
    """

    role: Role
    cosigner_id: TrustAnchorID
    has_ed25519: bool = False
    listen: tuple[str, int] = ("127.0.0.1", 8081)
    submission_path: str = ""
    monitoring_path: str = ""
    storage: str = "file:."
    passphrase_file: str | None = None
    follow_interval: timedelta = timedelta(seconds=10)
    pruning: Pruning = Pruning.KEEP
    retention: timedelta = timedelta(days=35)
    retention_alone: timedelta = timedelta(days=90)
    logs: tuple[KnownLog, ...] = ()
    cas: tuple[KnownCA, ...] = ()

    @property
    def name(self) -> str:
        """The name in signatures."""
        return self.cosigner_id.oid_name


class _Table:
    """A table of the file, of which every key must be taken."""

    def __init__(self, values: object, file: str, name: str) -> None:
        self._file, self._name = file, name
        if not isinstance(values, dict):
            raise UsageError(Reason.USAGE, f"{file}: {name.rstrip('.')} is no table")
        self._values = dict(values)

    def fault(self, key: str, why: str, reason: Reason = Reason.USAGE) -> UsageError:
        """Make the error for a key."""
        return UsageError(reason, f"{self._file}: {self._name}{key} {why}", file=self._file, key=key)

    def take(self, key: str, kind: type[_Value], default: _Value) -> _Value:
        """Take a value of one type."""
        value = self._values.pop(key, default)
        if type(value) is not kind:
            raise self.fault(key, f"must be of the type that {default!r} is")
        return value

    def text(self, key: str) -> str | None:
        """Take a text that need not be there."""
        value = self._values.pop(key, None)
        if value is not None and not isinstance(value, str):
            raise self.fault(key, "must be a text")
        return value

    def needed(self, key: str, example: str) -> str:
        """Take a text that must be there."""
        value = self.text(key)
        if value is None:
            raise self.fault(key, f"is missing; write for example {key} = {example!r}")
        return value

    def parsed(self, key: str, text: str, parse: Callable[[str], _Parsed]) -> _Parsed:
        """Parse a value; the parser's error gets the key's name in front."""
        try:
            return parse(text)
        except Error as error:
            raise self.fault(key, f"is wrong: {error.message}", error.reason) from None

    def number(self, key: str, default: int, most: int) -> int:
        """Take a number from 0."""
        value = self.take(key, int, default)
        if not 0 <= value <= most:
            raise self.fault(key, f"is {value}; it must be 0 to {most}")
        return value

    def duration(self, key: str, default: timedelta) -> timedelta:
        """Take a duration such as `10s`, `5m`, `1h` or `7d`."""
        text = self.text(key)
        if text is None:
            return default
        if not text[:-1].isascii() or not text[:-1].isdecimal() or len(text) > 9 or text[-1] not in _UNITS:
            raise self.fault(key, f"is {text!r}, no duration; write for example 10s, 5m, 1h or 7d")
        return timedelta(seconds=int(text[:-1]) * _UNITS[text[-1]])

    def url(self, key: str) -> str | None:
        """Take a URL without a slash at its end."""
        text = self.text(key)
        return None if text is None else check_url(text, f"{self._file}: {self._name}{key}")

    def path(self, key: str) -> str:
        """Take the path in front of an endpoint."""
        text = (self.text(key) or "").rstrip("/")
        if text and (not text.startswith("/") or not text.isascii() or any(char in text for char in "{}?#% ")):
            raise self.fault(key, f"is {text!r}; write for example /witness")
        return text

    def finish(self) -> None:
        """Refuse what nobody took."""
        for key in self._values:
            raise self.fault(key, "is no key of a cosigner's configuration; is it misspelt?")


def check_url(text: str, what: str) -> str:
    """Return a prefix URL without a slash at its end. Raises UsageError that names `what`."""
    parts = urlsplit(text)
    is_good = parts.scheme in ("http", "https") and parts.netloc and not parts.query and not parts.fragment
    if not is_good or not text.isascii() or not text.isprintable() or " " in text:
        raise UsageError(Reason.USAGE, f"{what}: {text!r} is no URL prefix; write for example https://log.example/1")
    return text.rstrip("/")


def parse_cosigner_config(data: bytes, file: str = CONFIG_NAME) -> CosignerConfig:
    """Read a configuration, strictly. Raises UsageError that names the file, the key, why, and what to write."""
    if len(data) > MAX_CONFIG_BYTES:
        raise UsageError(Reason.TOO_LARGE, f"{file} is larger than {MAX_CONFIG_BYTES} bytes", file=file)
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(Reason.USAGE, f"{file} is no TOML: {error}", file=file) from None
    lists = {name: document.pop(name, []) for name in ("log", "ca")}
    for name, value in lists.items():
        if not isinstance(value, list) or len(value) > MAX_LOGS:
            raise UsageError(Reason.USAGE, f"{file}: write each {name} under a line [[{name}]], at most {MAX_LOGS}")
    server, mirror = (
        _Table(document.pop("server", {}), file, "server."),
        _Table(document.pop("mirror", {}), file, "mirror."),
    )
    top = _Table(document, file, "")
    try:
        config = CosignerConfig(
            role=Role(_one_of(top.needed("role", "witness"), Role, top, "role")),
            cosigner_id=top.parsed("id", top.needed("id", "32473.7"), TrustAnchorID.parse),
            has_ed25519=top.take("ed25519", bool, False),  # noqa: FBT003 - the default of a key
            storage=top.take("storage", str, "file:."),
            passphrase_file=top.text("passphrase_file"),
            listen=server.parsed("listen", server.take("listen", str, "127.0.0.1:8081"), parse_address),
            submission_path=server.path("submission_path"),
            monitoring_path=server.path("monitoring_path"),
            follow_interval=mirror.duration("follow_interval", timedelta(seconds=10)),
            pruning=Pruning(_one_of(mirror.take("pruning", str, "keep"), Pruning, mirror, "pruning")),
            retention=mirror.duration("retention", timedelta(days=35)),
            retention_alone=mirror.duration("retention_alone", timedelta(days=90)),
            logs=tuple(_parse_log(_Table(item, file, f"log {n}: ")) for n, item in enumerate(lists["log"], 1)),
            cas=tuple(_parse_ca(_Table(item, file, f"ca {n}: ")) for n, item in enumerate(lists["ca"], 1)),
        )
    except Error as error:
        if error.facts.get("file") == file or error.message.startswith(file):
            raise
        raise UsageError(error.reason, f"{file}: {error.message}", file=file) from None
    for table in (top, server, mirror):
        table.finish()
    if not config.follow_interval:
        raise UsageError(Reason.USAGE, f"{file}: mirror.follow_interval must be longer than nothing", file=file)
    return config


def _one_of(text: str, choices: type[StrEnum], table: _Table, key: str) -> str:
    """Return a word that is one of the choices."""
    if text not in list(choices):
        raise table.fault(key, f"is {text!r}; it must be one of {', '.join(choices)}")
    return text


def _parse_log(table: _Table) -> KnownLog:
    """Read one log."""
    key = table.parsed("vkey", table.needed("vkey", "<name>+<key ID>+<key>"), VerifierKey.parse)
    url = table.url("url")
    log = KnownLog(
        origin=table.text("origin") or key.name,
        keys=(key,),
        url=url,
        minimum_index=table.number("minimum_index", 0, 2**48),
        is_followed=table.take("follow", bool, False),  # noqa: FBT003 - the default of a key
        with_ed25519=table.take("ed25519", bool, False),  # noqa: FBT003 - the default of a key
    )
    if log.is_followed and url is None:
        raise table.fault("follow", "needs a url to follow")
    table.finish()
    return log


def _parse_ca(table: _Table) -> KnownCA:
    """Read one CA."""
    text = table.needed("vkey", "oid/1.3.6.1.4.1.<CA ID>+<key ID>+<key>")
    key = table.parsed("vkey", text, VerifierKey.parse)
    url = table.url("prefix_url")
    ca = KnownCA(
        key=key,
        prefix_url=url,
        logs_ahead=table.number("logs_ahead", LOGS_AHEAD, 100),
        highest_log=table.number("highest_log", MAX_LOG_NUMBER, MAX_LOG_NUMBER),
        is_followed=table.take("follow", bool, False),  # noqa: FBT003 - the default of a key
        with_ed25519=table.take("ed25519", bool, False),  # noqa: FBT003 - the default of a key
    )
    if ca.is_followed and url is None:
        raise table.fault("follow", "needs a prefix_url to follow")
    table.finish()
    return ca


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of `127.0.0.1:8081`, `[::1]:8081` or `:8081`. Raises UsageError."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise UsageError(Reason.USAGE, f"{text!r} is no address to listen on; write 127.0.0.1:8081 for example")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - who writes `:8081` means every interface


def format_cosigner_config(config: CosignerConfig) -> str:
    """Return the commented file for a new cosigner without logs; `parse_cosigner_config` reads it."""
    host, port = config.listen
    listen = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    prefix = "# " if config.passphrase_file is None else ""
    lines = [
        f"# A {config.role} of transparency logs. Who it is (role, id) stands in its signatures and must never change;",
        "# another role has another id and another key.",
        "",
        f'role = "{config.role}"',
        f'id = "{config.cosigner_id}"  # its name in signatures is {config.name}',
        f"ed25519 = {str(config.has_ed25519).lower()}  # it has an Ed25519 key too, for logs that ask for it",
        f'storage = "{config.storage}"  # objects and register; relative to this file',
        f'{prefix}passphrase_file = "{config.passphrase_file or "/etc/mtc/passphrase"}"  # of the keys, one line',
        "",
        "[server]",
        f'listen = "{listen}"',
        f'submission_path = "{config.submission_path}"  # in front of add-checkpoint and the others',
        f'monitoring_path = "{config.monitoring_path}"  # in front of <hash of the origin>/checkpoint',
        "",
    ]
    if config.role is Role.MIRROR:
        lines += [
            "[mirror]",
            f'follow_interval = "{int(config.follow_interval.total_seconds())}s"  # between two looks at a log',
            f'pruning = "{config.pruning}"  # of entries that nobody needs any more: keep, refuse, or delete',
            f'retention = "{config.retention.days}d"  # after its end, an entry stays so long that the log pruned',
            f'retention_alone = "{config.retention_alone.days}d"  # and one so long that the log still serves',
            "",
        ]
    lines += [
        "# A CA, with all its logs as they come:",
        "# [[ca]]",
        '# vkey = "oid/1.3.6.1.4.1.32473.1+…"  # from its ca.pem: mtc … add-log --ca',
        '# prefix_url = "https://ca.example.com/mtc"',
        "# follow = true  # a mirror fetches what it lacks from there",
        "# logs_ahead = 3  # unused log numbers that are accepted",
        "# ed25519 = false",
        "",
        "# Any other log:",
        "# [[log]]",
        '# vkey = "log.example+…"',
        '# origin = "log.example"  # where it is not the name of the key',
        '# url = "https://log.example/1"',
        "",
    ]
    return "\n".join(lines)


def format_log(log: KnownLog | KnownCA) -> str:
    """Return the lines that add a log or a CA to a configuration."""

    def flag(name: str, value: bool) -> list[str]:  # noqa: FBT001 - the key's value
        return [f"{name} = true"] if value else []

    if isinstance(log, KnownCA):
        lines = ["[[ca]]", f'vkey = "{log.key.encode()}"']
        lines += [] if log.prefix_url is None else [f'prefix_url = "{log.prefix_url}"']
        lines += [] if log.logs_ahead == LOGS_AHEAD else [f"logs_ahead = {log.logs_ahead}"]
        lines += [] if log.highest_log == MAX_LOG_NUMBER else [f"highest_log = {log.highest_log}"]
    else:
        lines = ["[[log]]", f'vkey = "{log.keys[0].encode()}"']
        lines += [] if log.origin == log.keys[0].name else [f"origin = {_quote(log.origin)}"]
        lines += [] if log.url is None else [f'url = "{log.url}"']
        lines += [f"minimum_index = {log.minimum_index}"] if log.minimum_index else []
    lines += flag("follow", log.is_followed) + flag("ed25519", log.with_ed25519)
    return "\n".join(["", *lines, ""])


def _quote(text: str) -> str:
    """Return a TOML string."""
    plain = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in plain) + '"'


def describe_config(config: CosignerConfig) -> Mapping[str, object]:
    """Return the configuration for scripts."""
    return {
        "role": str(config.role),
        "id": str(config.cosigner_id),
        "name": config.name,
        "listen": list(config.listen),
        "logs": [log.origin for log in config.logs],
        "cas": [str(ca.ca_id) for ca in config.cas],
    }
