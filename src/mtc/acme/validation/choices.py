"""`[validation]` in `acme.toml` and `perspective.toml`: the words in which both say how applicants are looked at."""

from dataclasses import replace

from mtc.acme.validation.settings import DNSSEC, ValidationSettings
from mtc.ca.sections import Section
from mtc.errors import Reason, UsageError


def read_settings(section: Section, default: ValidationSettings) -> ValidationSettings:
    """Take the settings of a perspective out of a section; the caller finishes it.

    default: what holds where the section says nothing. Raises UsageError that names the file and the key.
    """
    mode = section.text("dnssec") or default.dnssec
    if mode not in set(DNSSEC):
        raise UsageError(Reason.USAGE, f"{section.where('dnssec')}: {mode!r} is none of {', '.join(DNSSEC)}")
    private = section.choice("allow_private")
    ports = {key: section.number(key) for key in ("http_port", "tls_port")}
    try:
        return replace(
            default,
            servers=section.texts("resolvers") or default.servers,
            dnssec=DNSSEC(mode),
            trusted_servers=section.texts("trusted_resolvers") or default.trusted_servers,
            dnssec_anchor=section.text("dnssec_zone") or default.dnssec_anchor,
            allows_private=default.allows_private if private is None else private,
            **{key: port for key, port in ports.items() if port is not None},
        )
    except UsageError as error:
        raise UsageError(error.reason, f"{section.file}: {error.message}") from None


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
