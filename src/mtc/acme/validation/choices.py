"""`[validation]` in `acme.toml` and `perspective.toml`: the words in which both say how applicants are looked at."""

from mtc.acme.validation.settings import DNSSEC, ValidationSettings
from mtc.ca.sections import Section
from mtc.errors import Reason, UsageError


def read_settings(section: Section, *, is_public: bool = False) -> ValidationSettings:
    """Take the settings of a perspective out of a section; the caller finishes it.

    is_public: DNSSEC is validated and private addresses are refused where the file says nothing. Raises UsageError.
    """
    default = ValidationSettings()
    mode = section.text("dnssec") or (DNSSEC.RESOLVER if is_public else DNSSEC.OFF)
    if mode not in set(DNSSEC):
        raise UsageError(Reason.USAGE, f"{section.where('dnssec')}: {mode!r} is none of {', '.join(DNSSEC)}")
    private = section.choice("allow_private")
    return ValidationSettings(
        servers=section.texts("resolvers"),
        dnssec=DNSSEC(mode),
        trusted_servers=section.texts("trusted_resolvers"),
        dnssec_anchor=section.text("dnssec_zone") or default.dnssec_anchor,
        allows_private=not is_public if private is None else private,
        http_port=section.number("http_port") or default.http_port,
        tls_port=section.number("tls_port") or default.tls_port,
    )


def format_settings(settings: ValidationSettings) -> list[str]:
    """Return the lines for a new file; `read_settings` reads them."""
    resolvers = ", ".join(f'"{item}"' for item in settings.servers)
    trusted = ", ".join(f'"{item}"' for item in settings.trusted_servers)
    private = str(settings.allows_private).lower()
    return [
        f'resolvers = [{resolvers}]  # "127.0.0.1:53"; empty: those of /etc/resolv.conf',
        f'dnssec = "{settings.dnssec}"  # "resolver": the resolver on this machine validates; "off"',
        f"trusted_resolvers = [{trusted}]  # validating resolvers elsewhere, with nobody else on the path to them",
        f'dnssec_zone = "{settings.dnssec_anchor}"  # a signed zone that the resolver must vouch for at the start',
        f"allow_private = {private}  # connect to addresses that are not on the public Internet",
        f"http_port = {settings.http_port}  # 80 but in tests",
        f"tls_port = {settings.tls_port}  # 443 but in tests",
    ]
