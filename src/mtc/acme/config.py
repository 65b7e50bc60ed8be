"""`acme.toml`: how the ACME server of a CA behaves, written with comments by `mtc acme init` and read strictly.

It lies beside `ca.toml`. A key that is not there takes the default of the CA's profile; a key that is not known is an
error. What a public CA must do stands in the code, not in the file: numbers beyond its bounds are refused.

Spec: Chrome's draft Quantum-resistant Root Program policy 0.3.0, "Issuance and certificates"; Baseline Requirements for
TLS server certificates, "Multi-Perspective Issuance Corroboration"; RFC 8555; the ACME profiles draft.
"""

import json
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from mtc.acme.machine.quorum import PUBLIC_RULE
from mtc.acme.machine.validation import Method
from mtc.acme.perspective.config import PerspectivePeer, check_peers, format_perspective, read_perspective
from mtc.acme.store import RateLimit
from mtc.acme.validation.choices import format_settings, read_settings
from mtc.acme.validation.settings import DNSSEC, ValidationSettings
from mtc.ca.config import MAX_CONFIG_BYTES, check_prefix_url, parse_address
from mtc.ca.sections import Section, format_duration, parse_duration, read_tables
from mtc.errors import Reason, UsageError
from mtc.profile import Profile
from mtc.web.files import read_config_file

CONFIG_NAME = "acme.toml"
FOLDER_NAME = "acme"

DEFAULT_LISTEN = ("127.0.0.1", 14000)
DEFAULT_ORDER_LIFETIME = timedelta(days=7)
MAX_REUSE = timedelta(days=10)
"""Longest reuse of a validation (Chrome's draft policy); how a private CA's numbers may be smaller, none is larger."""
MAX_CAA_REUSE = timedelta(hours=8)
"""Longest reuse of a CAA answer (Baseline Requirements, "CAA record processing")."""

TLS_MODES = ("bootstrap", "files", "none")
"""`bootstrap`: a self-signed certificate that the server makes and renews itself; `none`: behind a proxy."""
EXTERNAL_MODES = ("open", "required")

_PROFILE_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_HOUR_S, _DAY_S = 3600, 86400


_NEW_ACCOUNTS = RateLimit(name="newAccount", burst=50, period_s=3 * _HOUR_S)
_NEW_ORDERS = RateLimit(name="newOrder", burst=300, period_s=3 * _HOUR_S)
_CERTIFICATES = RateLimit(name="certificate", burst=20, period_s=7 * _DAY_S)
_ATTEMPTS = RateLimit(name="attempt", burst=10, period_s=_HOUR_S)


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuanceProfile:
    """A kind of certificate that clients may choose by name. lifetime: None for the CA's default."""

    name: str
    description: str
    lifetime: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What one account, name or address may use, and what the server takes on before it sheds load.

    new_accounts: by address. new_orders, open_orders: by account. certificates: by the set of names. attempts: to
    validate, by account and name. identifiers: of one order. validations: that run at once, waiting: and that wait.
    """

    new_accounts: RateLimit = _NEW_ACCOUNTS
    new_orders: RateLimit = _NEW_ORDERS
    certificates: RateLimit = _CERTIFICATES
    attempts: RateLimit = _ATTEMPTS
    open_orders: int = 1000
    identifiers: int = 100
    validations: int = 100
    waiting: int = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationChoices:
    """What is looked for, how, and for how long the answer counts. reuse, caa_reuse: of validations, of CAA answers."""

    methods: tuple[Method, ...] = tuple(Method)
    settings: ValidationSettings = field(default_factory=ValidationSettings)
    reuse: timedelta = MAX_REUSE
    caa_reuse: timedelta = MAX_CAA_REUSE


@dataclass(frozen=True, slots=True, kw_only=True)
class ACMEConfig:
    """The configuration, checked.

    url: what clients see; the directory is below it. listen: host and port. tls: one of `TLS_MODES`. certificate, key:
    PEM files, with `files`. requested: a folder of `mtc request`, whose certificates are served as well. proxies:
    addresses whose X-Forwarded-For is believed. caa_identities: issuer domain names of this CA in CAA records.
    external_account: one of `EXTERNAL_MODES`. allowed_names: DNS suffixes for accounts that have none of their own,
    empty for all. is_for_tests: the rules for public CAs are not enforced.
    """

    url: str
    listen: tuple[str, int] = DEFAULT_LISTEN
    tls: str = "bootstrap"
    certificate: str | None = None
    key: str | None = None
    requested: str | None = None
    proxies: tuple[str, ...] = ()
    terms_of_service: str | None = None
    website: str | None = None
    caa_identities: tuple[str, ...] = ()
    external_account: str = "open"
    allowed_names: tuple[str, ...] = ()
    order_lifetime: timedelta = DEFAULT_ORDER_LIFETIME
    is_for_tests: bool = False
    profiles: Mapping[str, IssuanceProfile] = field(default_factory=dict)
    validation: ValidationChoices = field(default_factory=ValidationChoices)
    limits: Limits = field(default_factory=Limits)
    perspectives: tuple[PerspectivePeer, ...] = ()

    @property
    def path(self) -> str:
        """The path of the URL, without a slash at its end."""
        return urlsplit(self.url).path.rstrip("/")

    @property
    def hostname(self) -> str:
        """The host name in the URL."""
        return urlsplit(self.url).hostname or "localhost"

    @property
    def default_profile(self) -> IssuanceProfile:
        """The profile of orders that name none: the first of the file."""
        return next(iter(self.profiles.values()))


def parse_acme_config(data: bytes, profile: Profile, file: str = CONFIG_NAME) -> ACMEConfig:
    """Read a configuration, strictly. profile: of the CA. Raises UsageError that names file, key and cure."""
    try:
        document = tomllib.loads(data.decode("utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(Reason.USAGE, f"{file} is no TOML: {error}") from None
    peers = tuple(read_perspective(section) for section in read_tables(document, "perspective", file))
    profiles = _read_profiles(document.pop("profiles", {}), profile, file)
    tables = {name: Section(name, document.pop(name, {}), file) for name in ("tls", "accounts", "validation", "limits")}
    top, tls, accounts = Section("", document, file), tables["tls"], tables["accounts"]
    url = top.parsed("url", check_prefix_url, None)
    if url is None:
        raise UsageError(Reason.USAGE, f"{file}: url is missing; it is where clients find the server, https://…/acme")
    is_for_tests = top.flag("unsafe_for_tests")
    config = ACMEConfig(
        url=url,
        listen=top.parsed("listen", parse_address, None) or DEFAULT_LISTEN,
        tls=tls.parsed("mode", _one_of(TLS_MODES), "bootstrap"),
        certificate=tls.text("certificate"),
        key=tls.text("key"),
        requested=tls.text("requested"),
        proxies=tls.texts("trusted_proxies"),
        terms_of_service=accounts.text("terms_of_service"),
        website=top.text("website"),
        caa_identities=tuple(name.lower() for name in top.texts("caa_identities")),
        external_account=accounts.parsed("external_account", _one_of(EXTERNAL_MODES), "open"),
        allowed_names=tuple(name.lower().removeprefix(".") for name in accounts.texts("allowed_names")),
        order_lifetime=top.duration("order_lifetime") or DEFAULT_ORDER_LIFETIME,
        is_for_tests=is_for_tests,
        profiles=profiles,
        validation=_read_validation(tables["validation"], profile),
        limits=_read_limits(tables["limits"], profile),
        perspectives=peers,
    )
    for section in (top, *tables.values()):
        section.finish()
    check_config(config, profile, file)
    return config


def _one_of(words: tuple[str, ...]) -> Callable[[str], str]:
    """Return a parser of one of several words."""

    def parse(text: str) -> str:
        if text not in words:
            raise UsageError(Reason.USAGE, f"{text!r} is none of {', '.join(words)}")
        return text

    return parse


def _read_profiles(tables: object, profile: Profile, file: str) -> dict[str, IssuanceProfile]:
    """Read `[profiles.NAME]`; without any, there is one called "default"."""
    if not isinstance(tables, dict):
        raise UsageError(Reason.USAGE, f"{file}: write each profile under a line [profiles.NAME]")
    found = {}
    for name, values in tables.items():
        section = Section(f"profiles.{name}", values, file)
        parse_profile_name(name, file)
        lifetime = section.duration("lifetime")
        if lifetime is not None and not timedelta(seconds=1) <= lifetime <= profile.max_lifetime:
            raise UsageError(
                Reason.USAGE,
                f"{section.where('lifetime')} must be at most {format_duration(profile.max_lifetime)}, the CA's "
                "max_lifetime",
            )
        found[name] = IssuanceProfile(name=name, description=section.text("description") or name, lifetime=lifetime)
        section.finish()
    shown = format_duration(profile.default_lifetime)
    return found or {"default": IssuanceProfile(name="default", description=f"Certificates of {shown}.")}


def default_settings(profile: Profile) -> ValidationSettings:
    """Return how a CA of this profile looks at applicants where its file says nothing."""
    dnssec = DNSSEC.RESOLVER if profile.is_public else DNSSEC.OFF
    return ValidationSettings(dnssec=dnssec, allows_private=not profile.is_public)


def parse_profile_name(text: str, where: str) -> str:
    """Return the name of a profile. Raises UsageError that begins with `where`."""
    if not _PROFILE_NAME.fullmatch(text):
        raise UsageError(Reason.USAGE, f"{where}: {text[:80]!r} is no name of a profile; use letters, digits, - and _")
    return text


def _read_validation(section: Section, profile: Profile) -> ValidationChoices:
    """Read how applicants are looked at."""
    methods = section.texts("methods")
    unknown = [name for name in methods if name not in set(Method)]
    if unknown:
        raise UsageError(
            Reason.USAGE, f"{section.where('methods')}: {unknown[0]!r} is no method; there are {', '.join(Method)}"
        )
    default = ValidationChoices()
    return ValidationChoices(
        methods=tuple(Method(name) for name in methods) or default.methods,
        settings=read_settings(section, default_settings(profile)),
        reuse=section.duration("reuse") or default.reuse,
        caa_reuse=section.duration("caa_reuse") or default.caa_reuse,
    )


_RATE = re.compile(r"([0-9]{1,9})/([0-9]{1,9}(?:ms|s|m|h|d))", re.ASCII)


def _read_limits(section: Section, profile: Profile) -> Limits:
    """Read the limits. Of a private CA they are only there against accidents, a hundred times higher."""
    factor = 1 if profile.is_public else 100
    default = Limits()

    def rate(key: str, limit: RateLimit) -> RateLimit:
        text = section.text(key)
        if text is None:
            return RateLimit(name=limit.name, burst=limit.burst * factor, period_s=limit.period_s)
        match = _RATE.fullmatch(text)
        if match is None or int(match[1]) < 1:
            raise UsageError(Reason.USAGE, f"{section.where(key)}: write a number and a time, for example 300/3h")
        period = parse_duration(match[2], section.where(key))
        return RateLimit(name=limit.name, burst=int(match[1]), period_s=period.total_seconds())

    def count(key: str, value: int) -> int:
        return section.number(key) or value

    return Limits(
        new_accounts=rate("new_accounts", default.new_accounts),
        new_orders=rate("new_orders", default.new_orders),
        certificates=rate("certificates", default.certificates),
        attempts=rate("attempts", default.attempts),
        open_orders=count("open_orders", default.open_orders * factor),
        identifiers=count("identifiers", default.identifiers),
        validations=count("validations", default.validations),
        waiting=count("waiting", default.waiting),
    )


def default_limits(profile: Profile) -> Limits:
    """Return the limits of a CA of this profile where its file names none."""
    return _read_limits(Section("limits", {}, CONFIG_NAME), profile)


def check_config(config: ACMEConfig, profile: Profile, file: str) -> None:
    """Refuse what contradicts itself, and what a public CA may not do. Raises UsageError."""
    validation = config.validation
    if config.tls == "files" and not (config.certificate and config.key):
        raise UsageError(Reason.USAGE, f"{file}: tls.mode files needs tls.certificate and tls.key")
    if config.tls == "none" and config.requested is not None:
        raise UsageError(Reason.USAGE, f"{file}: tls.requested needs tls.mode bootstrap or files; a proxy has its own")
    if config.tls != "none" and not config.url.startswith("https://"):
        raise UsageError(
            Reason.USAGE, f"{file}: url must begin with https://; ACME needs it (RFC 8555, HTTPS Requests)"
        )
    if validation.reuse > MAX_REUSE or validation.caa_reuse > MAX_CAA_REUSE:
        raise UsageError(Reason.USAGE, f"{file}: a validation is reused for at most 10d, a CAA answer for at most 8h")
    check_peers(config.perspectives)
    if not profile.is_public or config.is_for_tests:
        return
    try:
        PUBLIC_RULE.check([peer.region for peer in config.perspectives])
    except UsageError as error:
        raise UsageError(error.reason, f"{file}: a public CA looks from elsewhere, too: {error.message}") from None
    if validation.settings.dnssec is DNSSEC.OFF:
        raise UsageError(Reason.USAGE, f'{file}: a public CA validates DNSSEC; set validation.dnssec = "resolver"')
    if validation.settings.allows_private:
        raise UsageError(Reason.USAGE, f"{file}: a public CA does not connect to private addresses; see allow_private")
    if not config.caa_identities:
        raise UsageError(Reason.USAGE, f"{file}: a public CA names its issuer domain names, see caa_identities")


def read_acme_config(folder: Path, profile: Profile) -> ACMEConfig | None:
    """Read the configuration in a CA's folder; None when the CA serves no ACME. Raises UsageError."""
    path = folder / CONFIG_NAME
    data = read_config_file(path, MAX_CONFIG_BYTES)
    if data is None:
        return None
    return parse_acme_config(data, profile, str(path))


def format_acme_config(config: ACMEConfig, profile: Profile) -> str:
    """Return the commented file for a configuration; `parse_acme_config` reads it back to the same value."""

    def optional(key: str, value: str | None, example: str, comment: str) -> str:
        return f'{"# " if value is None else ""}{key} = "{value or example}"  # {comment}'

    def texts(key: str, values: tuple[str, ...], comment: str) -> str:
        return f"{key} = [{', '.join(f'{chr(34)}{value}{chr(34)}' for value in values)}]  # {comment}"

    host, port = config.listen
    validation = config.validation
    lines = [
        "# The ACME server of the CA in this folder. Lines that begin with # show defaults.",
        "",
        f'url = "{config.url}"  # what clients see; the directory is url/directory. It must never change',
        f'listen = "{f"[{host}]" if ":" in host else host}:{port}"',
        optional("website", config.website, "https://ca.example.com", "for people"),
        texts("caa_identities", config.caa_identities, "issuer domain names in CAA records; empty: the host of url"),
        f'order_lifetime = "{format_duration(config.order_lifetime)}"',
        *(["unsafe_for_tests = true  # what a public CA must do is not enforced"] if config.is_for_tests else []),
        "",
        "[tls]",
        f'mode = "{config.tls}"  # "bootstrap": a self-signed certificate; "files"; "none": behind a proxy',
        optional("certificate", config.certificate, "/etc/mtc/acme.pem", "with mode files"),
        optional("key", config.key, "/etc/mtc/acme-key.pem", "with mode files"),
        optional("requested", config.requested, "/etc/mtc/ca.example.com", "of mtc request: for who trusts this CA"),
        texts("trusted_proxies", config.proxies, "addresses whose X-Forwarded-For is believed"),
        "",
        "[accounts]",
        f'external_account = "{config.external_account}"  # "required": only with a key of mtc acme eab add',
        optional("terms_of_service", config.terms_of_service, "https://ca.example.com/terms", "to be agreed to"),
        texts(
            "allowed_names", config.allowed_names, "DNS suffixes for accounts without names of their own; empty: all"
        ),
        "",
        "[validation]",
        texts("methods", tuple(map(str, validation.methods)), "challenge types that are offered"),
        *format_settings(validation.settings),
        f'reuse = "{format_duration(validation.reuse)}"  # of a validation, at most 10d',
        f'caa_reuse = "{format_duration(validation.caa_reuse)}"  # of a CAA answer, at most 8h',
        "",
        "[limits]  # a number and a time, as 300/3h",
        *_format_limits(config.limits, profile),
        "",
        *(line for item in config.profiles.values() for line in _format_profile(item)),
        *(format_perspective(peer) for peer in config.perspectives),
    ]
    return "\n".join(lines)


def _format_limits(limits: Limits, profile: Profile) -> list[str]:
    """Return the lines of the limits; those that are the default as comments."""
    default = default_limits(profile)
    lines = []
    for item in fields(Limits):
        value = getattr(limits, item.name)
        shown = str(value)
        if isinstance(value, RateLimit):
            shown = f'"{value.burst}/{format_duration(timedelta(seconds=value.period_s))}"'
        lines.append(f"{'# ' if value == getattr(default, item.name) else ''}{item.name} = {shown}")
    return lines


def _format_profile(profile: IssuanceProfile) -> list[str]:
    """Return the lines of one profile."""
    lifetime = "" if profile.lifetime is None else format_duration(profile.lifetime)
    return [
        f"[profiles.{profile.name}]",
        f"description = {json.dumps(profile.description)}",
        f'{"# " if not lifetime else ""}lifetime = "{lifetime or "7d"}"',
        "",
    ]
