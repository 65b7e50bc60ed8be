"""Which addresses an applicant may send us to.

Whoever asks for a certificate chooses where the CA connects to. Without a border, it becomes a way into the CA's own
network: to databases, to the administration of routers, to the services by which clouds hand out credentials.

Spec: IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890); RFC 6052 for addresses within addresses.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address

_NAT64 = IPv6Network("64:ff9b::/96")

_NEVER: tuple[tuple[IPv4Network | IPv6Network, str], ...] = tuple(
    (ip_network(text), why)
    for text, why in (
        ("0.0.0.0/8", "means this host"),
        ("::/128", "means this host"),
        ("169.254.0.0/16", "is link-local, where clouds keep their metadata"),
        ("fe80::/10", "is link-local"),
        ("fec0::/10", "is site-local"),
        ("224.0.0.0/4", "is multicast"),
        ("ff00::/8", "is multicast"),
        ("240.0.0.0/4", "is reserved"),
        ("100.100.100.200/32", "is a cloud's metadata service"),
        ("168.63.129.16/32", "is a cloud's metadata service"),
        ("192.0.0.192/32", "is a cloud's metadata service"),
        ("fd00:ec2::/32", "is a cloud's metadata service"),
        ("fd20:ce::254/128", "is a cloud's metadata service"),
    )
)
"""Refused always: no server that wants a certificate can be reached there."""

_NOT_PUBLIC: tuple[tuple[IPv4Network | IPv6Network, str], ...] = tuple(
    (ip_network(text), why)
    for text, why in (
        ("10.0.0.0/8", "is private"),
        ("172.16.0.0/12", "is private"),
        ("192.168.0.0/16", "is private"),
        ("fc00::/7", "is private"),
        ("127.0.0.0/8", "is loopback"),
        ("::1/128", "is loopback"),
        ("100.64.0.0/10", "is shared by carriers"),
        ("192.0.0.0/24", "is for protocols"),
        ("192.0.2.0/24", "is for documentation"),
        ("192.88.99.0/24", "is a 6to4 relay"),
        ("198.18.0.0/15", "is for benchmarks"),
        ("198.51.100.0/24", "is for documentation"),
        ("203.0.113.0/24", "is for documentation"),
        ("::/96", "is a deprecated form of an IPv4 address"),
        ("::ffff:0:0/96", "is an IPv4 address in disguise"),
        ("::ffff:0:0:0/96", "is an IPv4 address in disguise"),
        ("64:ff9b:1::/48", "is private NAT64"),
        ("100::/64", "is discarded"),
        ("2001::/32", "is Teredo, which hides an IPv4 address"),
        ("2001:2::/48", "is for benchmarks"),
        ("2001:10::/28", "is an identifier, no address"),
        ("2001:20::/28", "is an identifier, no address"),
        ("2001:db8::/32", "is for documentation"),
        ("2002::/16", "is 6to4, which hides an IPv4 address"),
        ("3fff::/20", "is for documentation"),
        ("5f00::/16", "is for segment routing"),
    )
)
"""Refused where only public addresses are allowed."""


def explain_refusal(address: Address, *, allows_private: bool) -> str | None:
    """Return why an address may not be connected to ("is loopback"), None when it may."""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        # The system would connect to the IPv4 address, so that one is judged; on the public network there is no such.
        inner = explain_refusal(address.ipv4_mapped, allows_private=allows_private)
        return inner or (None if allows_private else "is an IPv4 address in disguise")
    if address in _NAT64:
        return explain_refusal(IPv4Address(int(address) & 0xFFFFFFFF), allows_private=allows_private)
    for network, why in (*_NEVER, *(() if allows_private else _NOT_PUBLIC)):
        if address.version == network.version and address in network:
            return why
    # The table above gives the reasons; what Python's own tables know beyond it is refused as well.
    return None if allows_private or address.is_global else "is not public"


def parse_address(text: str) -> Address | None:
    """Return an IP address without a zone, None for any other text."""
    try:
        return None if "%" in text else ip_address(text)
    except ValueError:
        return None
