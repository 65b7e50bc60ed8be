"""The ACME server's configuration: written and read back, strict, and bound to what a public CA must do."""

from dataclasses import replace
from datetime import timedelta

import pytest

from mtc.acme.config import (
    ACMEConfig,
    IssuanceProfile,
    ValidationChoices,
    default_limits,
    format_acme_config,
    parse_acme_config,
)
from mtc.acme.machine.validation import Method
from mtc.acme.perspective.config import PerspectivePeer
from mtc.acme.validation.settings import DNSSEC, ValidationSettings
from mtc.errors import UsageError
from mtc.profile import PRIVATE_SERVICE, WEB_PKI, Profile

URL = "https://ca.example.com/acme"
PEERS = tuple(
    PerspectivePeer(
        name=f"p{number}",
        region=("ripe", "arin")[number % 2],
        url=f"https://p{number}.example:8443",
        fingerprint=f"sha256:{number:064x}",
    )
    for number in range(5)
)


def config_for(profile: Profile, **changes: object) -> ACMEConfig:
    """Return a good configuration with some changes."""
    settings = ValidationSettings(
        dnssec=DNSSEC.RESOLVER if profile.is_public else DNSSEC.OFF, allows_private=not profile.is_public
    )
    base = ACMEConfig(
        url=URL,
        limits=default_limits(profile),
        profiles={"default": IssuanceProfile(name="default", description="usual")},
        validation=ValidationChoices(settings=settings),
        perspectives=PEERS if profile.is_public else (),
        caa_identities=("ca.example.com",) if profile.is_public else (),
    )
    return replace(base, **changes)  # type: ignore[arg-type]  # the names are the fields'


@pytest.mark.parametrize("profile", [PRIVATE_SERVICE, WEB_PKI], ids=lambda item: item.name)
def test_written_is_read_back(profile: Profile) -> None:
    """What `mtc acme init` writes is read as the same configuration, with and without everything that can be set."""
    plain = config_for(profile)
    full = config_for(
        profile,
        listen=("::1", 4000),
        tls="files",
        certificate="c.pem",
        key="k.pem",
        requested="/etc/mtc/ca.example.com",
        proxies=("10.0.0.1",),
        terms_of_service="https://ca.example.com/terms",
        website="https://ca.example.com",
        caa_identities=("ca.example.com", "ca.example.net"),
        external_account="required",
        allowed_names=("example.com",),
        order_lifetime=timedelta(days=2),
        profiles={
            "short": IssuanceProfile(name="short", description='of a "day"', lifetime=timedelta(days=1)),
            "usual": IssuanceProfile(name="usual", description="usual"),
        },
        validation=ValidationChoices(
            methods=(Method.DNS_01,),
            settings=ValidationSettings(
                servers=("127.0.0.1:5353",),
                dnssec=DNSSEC.RESOLVER,
                trusted_servers=("10.0.0.53",),
                dnssec_anchor="example.com",
                allows_private=False,
                http_port=8080,
                tls_port=8443,
            ),
            reuse=timedelta(days=3),
            caa_reuse=timedelta(hours=1),
        ),
        limits=replace(default_limits(profile), identifiers=7, open_orders=9),
        perspectives=PEERS,
    )
    for config in (plain, full):
        assert parse_acme_config(format_acme_config(config, profile).encode(), profile) == config


def test_minimal_file_has_the_profiles_defaults() -> None:
    """A file with nothing but the URL is a private CA's server: open, with private addresses and generous limits."""
    config = parse_acme_config(f'url = "{URL}/"'.encode(), PRIVATE_SERVICE)
    assert config.url == URL
    assert config.path == "/acme"
    assert config.validation.settings.allows_private
    assert config.default_profile.name == "default"
    assert config.listen == ("127.0.0.1", 14000)
    assert config.order_lifetime == timedelta(days=7)
    assert config.limits == default_limits(PRIVATE_SERVICE)
    assert config.limits.new_orders.burst == 100 * default_limits(WEB_PKI).new_orders.burst


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "url is missing"),
        ('url = "http://ca.example.com/acme"', "must begin with https"),
        (f'url = "{URL}"\ncolour = "red"', "colour"),
        (f'url = "{URL}"\n[tls]\nmode = "magic"', "tls.mode"),
        (f'url = "{URL}"\n[tls]\nmode = "files"', "needs tls.certificate"),
        (f'url = "{URL}"\n[tls]\nmode = "none"\nrequested = "kept"', "tls.requested needs"),
        (f'url = "{URL}"\n[validation]\nmethods = ["mail-01"]', "mail-01"),
        (f'url = "{URL}"\n[validation]\nreuse = "11d"', "at most 10d"),
        (f'url = "{URL}"\n[validation]\ncaa_reuse = "9h"', "8h"),
        (f'url = "{URL}"\n[validation]\nhttp_port = 70000', "http_port"),
        (f'url = "{URL}"\n[limits]\nnew_orders = "many"', "300/3h"),
        (f'url = "{URL}"\n[profiles."a b"]', "a b"),
        (f'url = "{URL}"\n[profiles.long]\nlifetime = "900d"', "max_lifetime"),
        (f'url = "{URL}"\nprofiles = 3', "profiles"),
        ("url = ", "TOML"),
    ],
)
def test_wrong_file_names_what_is_wrong(text: str, why: str) -> None:
    """Each mistake is refused with a text that names the key or the cure."""
    with pytest.raises(UsageError, match=why):
        parse_acme_config(text.encode(), PRIVATE_SERVICE)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"perspectives": PEERS[:4]}, "at least 5"),
        ({"perspectives": tuple(replace(peer, region="ripe") for peer in PEERS)}, "2 regions"),
        ({"caa_identities": ()}, "caa_identities"),
        ({"validation": ValidationChoices(settings=ValidationSettings(dnssec=DNSSEC.OFF))}, "DNSSEC"),
        (
            {"validation": ValidationChoices(settings=ValidationSettings(dnssec=DNSSEC.RESOLVER, allows_private=True))},
            "private addresses",
        ),
    ],
)
def test_public_ca_keeps_its_rules(changes: dict[str, object], why: str) -> None:
    """A public CA's file that looks from too few places, or without DNSSEC, is refused; for tests it may be so."""
    config = config_for(WEB_PKI, **changes)
    with pytest.raises(UsageError, match=why):
        parse_acme_config(format_acme_config(config, WEB_PKI).encode(), WEB_PKI)
    allowed = replace(config, is_for_tests=True)
    assert parse_acme_config(format_acme_config(allowed, WEB_PKI).encode(), WEB_PKI) == allowed
