"""How the local perspective looks: its resolvers, its ports, its patience, and where it may not go.

Spec: Baseline Requirements for TLS server certificates, "DNSSEC Validation of CAA and domain control lookups" and
"Agreed-Upon Change to Website - ACME".
"""

from collections.abc import Iterable
from dataclasses import dataclass, fields
from enum import StrEnum
from ipaddress import ip_address
from urllib.parse import urlsplit

import dns.exception
import dns.name
import dns.resolver

from mtc.errors import FormatError, PeerError, Reason, UsageError

DNS_PORT = 53


class DNSSEC(StrEnum):
    """Who validates DNSSEC."""

    OFF = "off"
    """Nobody."""
    RESOLVER = "resolver"
    """The resolver, which is reached over loopback or is trusted by name; broken data never comes out of it."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where a DNS server answers. host: an IP address."""

    host: str
    port: int = DNS_PORT

    @staticmethod
    def parse(text: str) -> "Server":
        """Return the server of `127.0.0.1`, `127.0.0.1:5353`, `::1` or `[::1]:5353`. Raises FormatError."""
        try:
            return Server(str(ip_address(text)))
        except ValueError:
            pass
        try:
            parts = urlsplit(f"//{text}")
            # The host is empty, and so no address, when there is more in the text than host and port.
            host = parts.hostname or "" if parts.netloc == text and "@" not in text else ""
            return Server(str(ip_address(host)), parts.port or DNS_PORT)
        except ValueError:
            raise FormatError(
                Reason.BAD_TEXT, f"{text[:80]!r} is no DNS server; write 127.0.0.1, 127.0.0.1:5353 or [::1]:5353"
            ) from None

    @property
    def is_loopback(self) -> bool:
        """Nobody stands between us and it."""
        return ip_address(self.host).is_loopback

    def __str__(self) -> str:
        """Return the text that `parse` reads."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidationSettings:
    """The settings of a perspective. The defaults are those of a public CA but for DNSSEC, which needs a resolver.

    servers: as `Server.parse` reads them, asked in turn; empty for those of /etc/resolv.conf. dnssec: who validates.
    trusted_servers: addresses of validating resolvers whose path to us nobody else is on, beside loopback.
    dnssec_anchor: a signed zone that a validating resolver must be able to show as secure, the root but in closed
    networks. allows_private: connect to private addresses, too. http_port, tls_port: what is reached in the place of
    80 and 443, for tests and for networks that map ports. dns_timeout_s: for one question to one server, which is sent
    dns_attempts times in all. connect_timeout_s: for one address. control_timeout_s: for a whole http-01 or
    tls-alpn-01. total_timeout_s: for a whole examination.
    """

    servers: tuple[str, ...] = ()
    dnssec: DNSSEC = DNSSEC.OFF
    trusted_servers: tuple[str, ...] = ()
    dnssec_anchor: str = "."
    allows_private: bool = False
    http_port: int = 80
    tls_port: int = 443
    dns_timeout_s: float = 3.0
    dns_attempts: int = 3
    connect_timeout_s: float = 4.0
    control_timeout_s: float = 10.0
    total_timeout_s: float = 20.0

    def __post_init__(self) -> None:
        """Raise UsageError when a value cannot be."""
        try:
            for text in (*self.servers, *self.trusted_servers):
                Server.parse(text)
            dns.name.from_text(self.dnssec_anchor)
        except FormatError as error:
            raise UsageError(Reason.USAGE, f"validation: {error.message}") from error
        except dns.exception.DNSException as error:
            raise UsageError(Reason.USAGE, f"validation: dnssec_anchor is no name: {error}") from error
        for item in fields(self):
            value = getattr(self, item.name)
            is_port = item.name.endswith("_port")
            if is_port and not 0 < value < 65536:
                raise UsageError(Reason.USAGE, f"validation: {item.name} is a port from 1 to 65535, not {value}")
            if (item.name.endswith("_s") or item.name == "dns_attempts") and value <= 0:
                raise UsageError(Reason.USAGE, f"validation: {item.name} must be more than 0")

    def choose_servers(self) -> tuple[Server, ...]:
        """Return the servers to ask, in order; reads /etc/resolv.conf when none are set.

        Raises UsageError when a server may not be trusted to validate, PeerError when the system names no server.
        """
        servers = tuple(Server.parse(text) for text in self.servers) or _system_servers()
        if self.dnssec is DNSSEC.RESOLVER:
            self._check_trust(servers)
        return servers

    def _check_trust(self, servers: Iterable[Server]) -> None:
        trusted = {Server.parse(text).host for text in self.trusted_servers}
        for server in servers:
            if not server.is_loopback and server.host not in trusted:
                raise UsageError(
                    Reason.USAGE,
                    f"the DNS server {server} is not on this machine, so what it says of DNSSEC could be forged; "
                    "install a validating resolver here (unbound) and set servers to 127.0.0.1, or name the server in "
                    "trusted_servers when nobody else is on the path to it",
                    server=str(server),
                )


def _system_servers() -> tuple[Server, ...]:
    """Return the servers of the system. Raises PeerError."""
    try:
        system = dns.resolver.Resolver()
    except dns.exception.DNSException as error:
        raise PeerError(Reason.PEER, f"the system names no DNS server ({error}); set servers") from error
    return tuple(Server.parse(str(host)) for host in system.nameservers)
