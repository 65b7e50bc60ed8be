"""`ca.toml`: who a CA is and how it runs, written with comments by `mtc ca init` and read strictly.

A key that is not there takes the profile's number; a key that is not known is an error, because a typing mistake in a
CA's configuration must not be silent.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from mtc.ca.cosigning.config import CosigningConfig, format_cosigning, read_cosigning
from mtc.ca.sections import Section, format_duration, parse_duration
from mtc.errors import Reason, UsageError
from mtc.ids import DEFAULT_REVISION, DraftRevision, TrustAnchorID, parse_revision
from mtc.profile import PRIVATE_SERVICE, Profile, parse_profile
from mtc.web.files import read_config_file

__all__ = [
    "CONFIG_NAME",
    "MAX_CONFIG_BYTES",
    "PRUNING_POLICIES",
    "CAConfig",
    "check_prefix_url",
    "format_config",
    "format_duration",
    "parse_address",
    "parse_config",
    "parse_duration",
    "read_config",
]

CONFIG_NAME = "ca.toml"
MAX_CONFIG_BYTES = 1 << 20

PRUNING_POLICIES = ("keep", "refuse", "delete")
"""What happens below the minimum index: still served, refused though kept, or deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CAConfig:
    """A CA's configuration, checked.

    profile: with the overrides of the file. has_counter: entries carry the accumulated counter; chosen at creation.
    listen: host and port of the HTTP server, None for none. socket: path of the Unix socket, relative to the folder.
    has_remote_api: the API answers other machines too; over TCP it always needs a token. signer_socket: of a signer
    that somebody else runs; None: the CA starts its own. pruning: one of `PRUNING_POLICIES`. storage: where state lies.
    cosigning: the cosigners and the quorum, empty without any.
    """

    ca_id: TrustAnchorID
    profile: Profile = PRIVATE_SERVICE
    revision: DraftRevision = DEFAULT_REVISION
    prefix_url: str | None = None
    has_counter: bool = False
    storage: str = "file:."
    listen: tuple[str, int] | None = ("127.0.0.1", 8080)
    socket: str = "ca.sock"
    has_remote_api: bool = False
    signer_socket: str | None = None
    passphrase_file: str | None = None
    pruning: str = "refuse"
    allowed_names: tuple[str, ...] = ()
    cosigning: CosigningConfig = field(default_factory=CosigningConfig)
    overrides: Mapping[str, timedelta | int] = field(default_factory=dict)

    @property
    def quorum_wait(self) -> timedelta:
        """How long after its signing a round may lack its quorum before nothing new is taken."""
        return self.profile.max_quorum_wait if self.cosigning.rule.wait is None else self.cosigning.rule.wait

    @property
    def may_run_ahead(self) -> bool:
        """True when the next tree may be signed before this one has its quorum."""
        chosen = self.cosigning.rule.run_ahead
        return self.profile.may_run_ahead if chosen is None else chosen

    @property
    def needs_view(self) -> bool:
        """True when nothing is signed before a cosigner has said what it knows; needs cosigners."""
        chosen = self.cosigning.rule.needs_view
        return bool(self.cosigning.peers) and (self.profile.needs_view if chosen is None else chosen)

    @property
    def url_path(self) -> str:
        """The path under which logs are served: that of the prefix URL, without a slash at its end."""
        return urlsplit(self.prefix_url).path.rstrip("/") if self.prefix_url else ""


_DURATION_KEYS = {
    "log": ("round_interval", "refresh_interval", "max_skew", "partial_grace"),
    "certificates": ("max_lifetime", "default_lifetime", "backdating"),
    "landmarks": ("landmark_interval", "landmark_window"),
    "revocation": ("crl_lifetime", "crl_interval"),
    "pruning": ("retention",),
}
_COUNT_KEYS = {"landmarks": ("max_active_landmarks",)}


def parse_config(data: bytes, file: str = CONFIG_NAME, folder: Path | None = None) -> CAConfig:
    """Read a configuration, strictly. Raises UsageError that names the file, the key and the cure.

    folder: where the file stands, for the policy file that it may name.
    """
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(Reason.USAGE, f"{file} is no TOML: {error}") from None
    names = ("storage", "server", "signer", "log", "certificates", "landmarks", "revocation", "pruning")
    sections = {name: Section(name, document.pop(name, {}), file) for name in names}
    cosigning = read_cosigning(document, file, folder)
    top = Section("", document, file)
    ca_id = top.parsed("id", TrustAnchorID.parse, None)
    if ca_id is None:
        raise UsageError(Reason.USAGE, f"{file}: id is missing; it is the CA's trust anchor ID, for example 32473.1")
    profile: Profile = top.parsed("profile", parse_profile, PRIVATE_SERVICE)
    overrides = _read_overrides(sections)
    server, signer = sections["server"], sections["signer"]
    config = CAConfig(
        ca_id=ca_id,
        profile=replace(profile, **overrides),  # type: ignore[arg-type]  # the keys are fields of the right type
        revision=top.parsed("draft", parse_revision, DEFAULT_REVISION),
        prefix_url=top.parsed("prefix_url", check_prefix_url, None),
        has_counter=sections["log"].flag("counter"),
        storage=sections["storage"].text("url") or "file:.",
        listen=server.parsed("listen", parse_address, ("127.0.0.1", 8080)),
        socket=server.text("socket") or "ca.sock",
        has_remote_api=server.flag("remote_api"),
        signer_socket=signer.text("socket"),
        passphrase_file=signer.text("passphrase_file"),
        pruning=sections["pruning"].parsed("policy", _parse_pruning, "refuse"),
        allowed_names=sections["certificates"].texts("allowed_names"),
        cosigning=cosigning,
        overrides=overrides,
    )
    for section in (top, *sections.values()):
        section.finish()
    _check_numbers(config, file)
    try:
        cosigning.check(ca_id, config.profile)
    except UsageError as error:
        raise UsageError(error.reason, f"{file}: {error.message}") from None
    return config


def _read_overrides(sections: Mapping[str, Section]) -> dict[str, timedelta | int]:
    """Take the numbers that stand in the place of the profile's."""
    overrides: dict[str, timedelta | int] = {}
    for name, keys in _DURATION_KEYS.items():
        section = sections[name]
        for key in keys:
            if key in section.values:
                overrides[key] = parse_duration(section.values.pop(key), section.where(key))
    for name, keys in _COUNT_KEYS.items():
        section = sections[name]
        for key in keys:
            value = section.values.pop(key, None)
            if value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UsageError(Reason.USAGE, f"{section.where(key)} must be a positive number")
            overrides[key] = value
    return overrides


def _check_numbers(config: CAConfig, file: str) -> None:
    """Refuse numbers that cannot go together."""
    profile = config.profile
    for key in ("round_interval", "refresh_interval", "max_lifetime", "default_lifetime", "landmark_interval"):
        if getattr(profile, key) <= timedelta(0):
            raise UsageError(Reason.USAGE, f"{file}: {key} must be longer than nothing")
    if profile.default_lifetime > profile.max_lifetime:
        raise UsageError(
            Reason.USAGE,
            f"{file}: default_lifetime {format_duration(profile.default_lifetime)} is longer than max_lifetime "
            f"{format_duration(profile.max_lifetime)}",
        )
    if profile.crl_interval > profile.crl_lifetime:
        raise UsageError(Reason.USAGE, f"{file}: crl_interval is longer than crl_lifetime, so lists would expire")


def check_prefix_url(url: str) -> str:
    """Return a CA prefix URL without a slash at its end. Raises UsageError for what is none."""
    parts = urlsplit(url)
    is_good = parts.scheme in ("http", "https") and parts.netloc and not parts.query and not parts.fragment
    if not is_good or not url.isascii() or not url.isprintable() or " " in url:
        raise UsageError(Reason.USAGE, f"{url!r} is no prefix URL; write for example https://ca.example.com/mtc")
    return url.rstrip("/")


def parse_address(text: str) -> tuple[str, int] | None:
    """Return host and port of `127.0.0.1:8080`, `[::1]:8080` or `:8080`; None for `none`."""
    if text == "none":
        return None
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdecimal() or int(port) > 65535:
        raise UsageError(
            Reason.USAGE, f"{text!r} is no address to listen on; write 127.0.0.1:8080 for example, or none"
        )
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - who writes `:8080` means every interface


def _parse_pruning(text: str) -> str:
    """Return a pruning policy."""
    if text not in PRUNING_POLICIES:
        raise UsageError(
            Reason.USAGE, f"{text!r} is no policy for pruned entries; there are {', '.join(PRUNING_POLICIES)}"
        )
    return text


def read_config(folder: Path) -> CAConfig:
    """Read the configuration of a CA's folder. Raises UsageError when there is none."""
    path = folder / CONFIG_NAME
    data = read_config_file(path, MAX_CONFIG_BYTES)
    if data is None:
        raise UsageError(
            Reason.UNREADABLE,
            f"{folder} holds no CA, {CONFIG_NAME} is missing; make one with: mtc ca init {folder} --id 32473.1",
        )
    return parse_config(data, str(path), folder)


def format_config(config: CAConfig) -> str:
    """Return the commented file for a configuration; `parse_config` reads it back to the same value."""
    profile = config.profile

    def number(key: str, comment: str) -> str:
        value = getattr(profile, key)
        shown = f'"{format_duration(value)}"' if isinstance(value, timedelta) else str(value)
        return f"{'' if key in config.overrides else '# '}{key} = {shown}  # {comment}"

    def optional(key: str, value: str | None, example: str, comment: str) -> str:
        return f'{"# " if value is None else ""}{key} = "{value or example}"  # {comment}'

    listen = "none" if config.listen is None else _format_address(config.listen)
    names = ", ".join(f'"{item}"' for item in config.allowed_names)
    lines = [
        "# A Merkle Tree Certificates CA. Lines that begin with # show the profile's numbers; remove the # to change",
        "# one. Who the CA is (id, draft, counter) stands in its certificate and log and must never change.",
        "",
        f'id = "{config.ca_id}"',
        f'draft = "{config.revision.name}"',
        f'profile = "{profile.name}"',
        optional("prefix_url", config.prefix_url, "https://ca.example.com/mtc", "where its logs are served"),
        "",
        "[storage]",
        f'url = "{config.storage}"  # objects and register; relative to this file',
        "",
        "[server]",
        f'listen = "{listen}"  # read path, status page and API; "none" for no TCP',
        f'socket = "{config.socket}"  # Unix socket: who may open it may issue',
        f"remote_api = {str(config.has_remote_api).lower()}  # the API for other machines; it needs a token",
        "",
        "[signer]",
        optional("socket", config.signer_socket, "/run/mtc/signer.sock", "of a signer that runs by itself"),
        optional("passphrase_file", config.passphrase_file, "/etc/mtc/passphrase", "of the key, one line"),
        "",
        "[log]",
        f"counter = {str(config.has_counter).lower()}  # entries carry the accumulated counter",
        number("round_interval", "time between two rounds"),
        number("refresh_interval", "an idle log signs its checkpoint anew after this time"),
        number("max_skew", "how far clocks may disagree before nothing is signed"),
        number("partial_grace", "how long a superseded partial tile stays"),
        "",
        "[certificates]",
        number("max_lifetime", "longest certificate; also how long a landmark lasts"),
        number("default_lifetime", "where a request names none"),
        number("backdating", "how far notBefore lies back, for slow clocks"),
        f'allowed_names = [{names}]  # DNS suffixes such as "example.com"; empty allows all',
        "",
        "[landmarks]",
        number("landmark_interval", "at most one per interval"),
        number("max_active_landmarks", "at most so many within landmark_window"),
        number("landmark_window", "see max_active_landmarks"),
        "",
        "[revocation]",
        number("crl_lifetime", "how long a published list is valid"),
        number("crl_interval", "how often it is signed anew"),
        "",
        "[pruning]",
        f'policy = "{config.pruning}"  # below the minimum index: keep serving, refuse, or delete the data',
        number("retention", "how long entries are served after they expire"),
        "",
        *format_cosigning(config.cosigning, profile),
    ]
    return "\n".join(lines)


def _format_address(address: tuple[str, int]) -> str:
    """Return an address as `parse_address` reads it."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
