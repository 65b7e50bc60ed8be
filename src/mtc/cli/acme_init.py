"""`mtc acme init`: the ACME server of a CA gets its configuration."""

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

from mtc.acme.config import (
    CONFIG_NAME,
    FOLDER_NAME,
    ACMEConfig,
    IssuanceProfile,
    ValidationChoices,
    default_limits,
    parse_profile_name,
    read_acme_config,
)
from mtc.acme.perspective.client import CERTIFICATE_NAME as CERTIFICATE_NAME_OF_CA
from mtc.acme.serve import make_acme
from mtc.acme.validation.settings import DNSSEC, ValidationSettings
from mtc.ca.config import check_prefix_url, parse_address, parse_duration, read_config
from mtc.cli.output import console, shown, table
from mtc.errors import Reason, UsageError
from mtc.web.clock import SystemClock
from mtc.web.tls import CERTIFICATE_NAME

_PORT = 14000
_HTTP_PORT = 80


@dataclass(frozen=True, slots=True)
class ACMEInitOptions:
    """What `mtc acme init` is asked for."""

    folder: str
    url: str
    listen: str | None
    resolvers: tuple[str, ...]
    http_port: int
    tls_port: int
    is_behind_proxy: bool
    needs_external_account: bool
    caa_identities: tuple[str, ...]
    profiles: Mapping[str, str]
    is_for_tests: bool
    as_json: bool


def run_acme_init(options: ACMEInitOptions) -> None:
    """Write `acme.toml` for a CA, or see that it is there."""
    path = Path(options.folder)
    ca = read_config(path)
    profile = ca.profile
    url = check_prefix_url(options.url)
    listen = parse_address(options.listen or f"127.0.0.1:{urlsplit(url).port or _PORT}")
    if listen is None:
        raise UsageError(Reason.USAGE, "--listen: the ACME server needs an address; write 127.0.0.1:14000 for example")
    is_strict = profile.is_public and not options.is_for_tests
    config = ACMEConfig(
        url=url,
        listen=listen,
        tls="none" if options.is_behind_proxy else "bootstrap",
        proxies=("127.0.0.1", "::1") if options.is_behind_proxy else (),
        external_account="required" if options.needs_external_account else "open",
        caa_identities=tuple(name.lower() for name in options.caa_identities),
        is_for_tests=options.is_for_tests,
        limits=default_limits(profile),
        profiles=_profiles(options.profiles, profile.max_lifetime),
        validation=ValidationChoices(
            settings=ValidationSettings(
                servers=options.resolvers,
                dnssec=DNSSEC.RESOLVER if is_strict else DNSSEC.OFF,
                allows_private=not is_strict,
                http_port=options.http_port,
                tls_port=options.tls_port,
            )
        ),
    )
    is_new = make_acme(path, ca, config, SystemClock().now())
    current = read_acme_config(path, profile)
    assert current is not None, "it was written just now, or was there before"
    _print(options, current, is_new=is_new)


def _profiles(texts: Mapping[str, str], longest: timedelta) -> dict[str, IssuanceProfile]:
    """Return the profiles that were asked for: name and lifetime."""
    found = {}
    for name, text in texts.items():
        lifetime = parse_duration(text, f"--profile {name}")
        if lifetime > longest:
            raise UsageError(Reason.USAGE, f"--profile {name}: this CA's max_lifetime is shorter than {text}")
        found[name] = IssuanceProfile(
            name=parse_profile_name(name, "--profile"), description=f"Certificates of {text}.", lifetime=lifetime
        )
    return found or {"default": IssuanceProfile(name="default", description="Certificates of the CA's usual lifetime.")}


def _print(options: ACMEInitOptions, config: ACMEConfig, *, is_new: bool) -> None:
    """Say what there is now, and what to do next."""
    folder = Path(options.folder)
    directory = f"{config.url}/directory"
    trusted = str(folder / FOLDER_NAME / CERTIFICATE_NAME) if config.tls == "bootstrap" else None
    if options.as_json:
        facts = {"folder": str(folder), "directory": directory, "new": is_new, "trust": trusted}
        sys.stdout.write(json.dumps(facts) + "\n")
        return
    out, name = console(), shown(options.folder)
    if not is_new:
        out.print(f"{name}/{CONFIG_NAME} is there already; nothing was changed.")
        return
    rows = table("file", "what it is")
    rows.add_row(CONFIG_NAME, "configuration of the ACME server, commented")
    if trusted is not None:
        rows.add_row(f"{FOLDER_NAME}/{CERTIFICATE_NAME}", "its bootstrap certificate; clients trust this file")
    rows.add_row(f"{FOLDER_NAME}/{CERTIFICATE_NAME_OF_CA}", "by which remote perspectives know the CA")
    out.print(rows)
    out.print("\nNext:\n")
    out.print(f"  mtc ca serve {name}", style="cyan")
    trust = "" if trusted is None else f" --ca-file {shown(trusted)}"
    port = "" if options.http_port == _HTTP_PORT else f" --http-port {options.http_port}"
    out.print(f"  mtc request --server {shown(directory)}{trust} --dns www.example.com{port} --out DIR", style="cyan")
