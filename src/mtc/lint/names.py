"""The names in a subjectAltName: which kinds, how they are written, and which no public CA may certify.

Spec: CA/Browser Forum Baseline Requirements 2.2.6, 7.1.2.7.12; RFC 5280, 4.2.1.6; RFC 5890, 2.3.1.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from ipaddress import ip_address, ip_network

from mtc.lint.findings import Fault, show
from mtc.lint.idna import PREFIX, a_label_faults
from mtc.lint.rules import LintRules
from mtc.lint.table import LintCode
from mtc.wire import DERReader, Tag

MAX_NAME_BYTES = 253
"""Longest DNS name: 255 bytes on the wire, less the first length and the root."""
MAX_LABEL_BYTES = 63
"""Longest label."""

_DNS_TAG, _IP_TAG = 0x82, 0x87
_KINDS = {
    0xA0: "otherName",
    0x81: "rfc822Name",
    0xA3: "x400Address",
    0xA4: "directoryName",
    0xA5: "ediPartyName",
    0x86: "uniformResourceIdentifier",
    0x88: "registeredID",
}
_USUAL = re.compile(rb"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
"""Nearly every host name, when it has no `--`: such a name needs no look at its labels."""
_LABEL = re.compile(r"[a-z0-9_-]*")
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")

RESERVED_DOMAINS = frozenset(
    {
        # RFC 6761, 6762, 7686, 9476; and `internal`, which ICANN keeps out of the root zone for private use.
        *("test", "example", "invalid", "localhost", "local", "onion", "alt", "internal"),
        # RFC 6762, appendix G, and the names that ICANN will not delegate because private networks use them.
        *("intranet", "private", "corp", "home", "lan", "mail"),
        # Special-use names below arpa: RFC 8375, 9462, 9665, 8880, 9965, 9140, 9031.
        *("home.arpa", "resolver.arpa", "service.arpa", "ipv4only.arpa", "eap.arpa", "eap-noob.arpa", "6tisch.arpa"),
    }
)
"""Domains in which no name is unique on the public Internet, or in which a public CA without the methods for it (Tor's
onion services) cannot validate one."""
_REVERSE_ZONES = ("in-addr.arpa", "ip6.arpa")


def _blocks(*texts: str) -> tuple[tuple[int, int], ...]:
    """Return networks as (bits behind the prefix, prefix)."""
    blocks = []
    for text in texts:
        network = ip_network(text)
        shift = network.max_prefixlen - network.prefixlen
        blocks.append((shift, int(network.network_address) >> shift))
    return tuple(blocks)


_RESERVED_IPV4 = _blocks(
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
    *("192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16", "192.175.48.0/24"),
    *("198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
)
"""IANA's IPv4 Special-Purpose Address Registry, and multicast."""
_RESERVED_IPV6 = _blocks("2001::/23", "2001:db8::/32", "2002::/16", "2620:4f:8000::/48", "3fff::/20")
"""Those blocks of IANA's IPv6 Special-Purpose Address Registry that lie inside 2000::/3, the global unicast space."""
_GLOBAL_UNICAST = _blocks("2000::/3")[0]


def san_faults(value: bytes, rules: LintRules, names: "Names") -> Iterator[Fault]:
    """Yield what is wrong with the names in a subjectAltName; collect them in `names`. Raises FormatError."""
    outer = DERReader(value, "the subjectAltName")
    reader = outer.enter(Tag.SEQUENCE)
    outer.finish()
    count = 0
    while not reader.is_empty:
        tag, start, end = reader.read_header()
        count += 1
        if count > rules.max_names:
            yield Fault(
                LintCode.SAN_TOO_MANY,
                f"the entry has more than {rules.max_names} names; spread them over several certificates",
                (("limit", rules.max_names),),
            )
            return
        name = value[start:end]
        if tag == _DNS_TAG:
            lowered = name.lower()
            if lowered in names.dns:
                yield Fault(LintCode.SAN_DUPLICATE, f"the name {show(name)} stands twice; leave one out")
                continue
            names.dns.add(lowered)
            yield from dns_faults(name, rules)
        elif tag == _IP_TAG:
            if name in names.ip:
                yield Fault(LintCode.SAN_DUPLICATE, f"the address {name[:16].hex()} stands twice; leave one out")
                continue
            names.ip.add(name)
            yield from ip_faults(name)
        else:
            kind = _KINDS.get(tag, f"with tag 0x{tag:02x}")
            yield Fault(
                LintCode.SAN_KIND, f"a name {kind} cannot be certified; use DNS names and IP addresses", (("tag", tag),)
            )
    if not count:
        yield Fault(LintCode.SAN_MISSING, "the subjectAltName has no name")


class Names:
    """The names of one entry while it is judged: DNS names in lower case, and addresses, as bytes."""

    __slots__ = ("dns", "ip")

    def __init__(self) -> None:
        """Begin with none."""
        self.dns: set[bytes] = set()
        self.ip: set[bytes] = set()


def dns_faults(name: bytes, rules: LintRules) -> Iterator[Fault]:
    """Yield what is wrong with one dNSName."""
    faults = _syntax_faults(name)
    yield from faults
    if any(fault.code not in _MINOR for fault in faults):
        return
    host = name.decode("ascii").lower()
    is_wildcard = host.startswith("*.")
    if is_wildcard:
        host = host[2:]
        if host in rules.public_suffixes:
            yield Fault(
                LintCode.DNS_WILDCARD_SUFFIX,
                f"{show(name)} would cover everybody's names below {host!r}; ask for names inside one domain",
            )
    labels = host.split(".")
    tail = labels[-1]
    parent = ".".join(labels[-2:])
    if tail in RESERVED_DOMAINS or parent in RESERVED_DOMAINS:
        yield Fault(
            LintCode.DNS_RESERVED,
            f"{show(name)} lies in a domain that is reserved or not unique on the Internet; ask a private CA",
        )
    elif parent in _REVERSE_ZONES:
        yield Fault(LintCode.DNS_REVERSE_ZONE, f"{show(name)} is a name of the reverse DNS")
    elif rules.top_level_domains and tail not in rules.top_level_domains and len(labels) > 1:
        yield Fault(LintCode.DNS_UNKNOWN_TLD, f"{show(name)} ends in {tail!r}, which is no top-level domain")


_MINOR = frozenset(
    {
        LintCode.DNS_UPPER_CASE,
        LintCode.DNS_UNDERSCORE,
        LintCode.DNS_SINGLE_LABEL,
        LintCode.DNS_IDNA,
        LintCode.DNS_IDNA_UNASSIGNED,
        LintCode.DNS_WILDCARD_TOO_WIDE,
    }
)
"""Faults that leave the domain of a name in no doubt."""


@lru_cache(maxsize=4096)
def _syntax_faults(name: bytes) -> tuple[Fault, ...]:
    """Return what is wrong with how a dNSName is written; whatever its size, the work is bounded."""
    if not name:
        return (Fault(LintCode.DNS_EMPTY, "a DNS name is empty"),)
    if len(name) > MAX_NAME_BYTES:
        return (
            Fault(
                LintCode.DNS_TOO_LONG,
                f"the DNS name {show(name)} has {len(name)} characters; there can be {MAX_NAME_BYTES}",
                (("got", len(name)),),
            ),
        )
    if _USUAL.fullmatch(name) and b"--" not in name:
        return ()
    if not name.isascii():
        return (Fault(LintCode.DNS_CHARACTER, f"{show(name)} is not ASCII; write international names with A-labels"),)
    return tuple(_host_faults(name.decode("ascii")))


def _host_faults(name: str) -> Iterator[Fault]:
    """Yield what is wrong with how a dNSName of ASCII characters is written."""
    host = name.lower()
    if host != name:
        yield Fault(LintCode.DNS_UPPER_CASE, f"{show(name)} has capitals; write {show(host)}")
    if host.endswith("."):
        yield Fault(LintCode.DNS_TRAILING_DOT, f"{show(name)} ends with a dot; leave it out")
        host = host[:-1]
    is_wildcard = host.startswith("*.")
    if is_wildcard:
        host = host[2:]
    if "*" in host:
        yield Fault(LintCode.DNS_WILDCARD, f"{show(name)} has a * that is not the whole leftmost label")
        return
    labels = host.split(".")
    if is_wildcard and len(labels) < 2:
        yield Fault(LintCode.DNS_WILDCARD_TOO_WIDE, f"{show(name)} needs at least two labels behind the *")
    for label in labels:
        yield from _label_faults(label)
    if _NUMBER.fullmatch(labels[-1]):
        yield Fault(LintCode.DNS_IS_ADDRESS, f"{show(name)} ends like an IP address; ask for it as an IP address")
    elif len(labels) == 1 and labels[0]:
        yield Fault(LintCode.DNS_SINGLE_LABEL, f"{show(name)} has one label; a public CA needs a full domain name")


@lru_cache(maxsize=4096)
def _label_faults(label: str) -> tuple[Fault, ...]:
    """Return what is wrong with one label: lower case, ASCII, at most as long as a name."""
    return tuple(_find_label_faults(label))


def _find_label_faults(label: str) -> Iterator[Fault]:
    """Yield what is wrong with one label."""
    if not label:
        yield Fault(LintCode.DNS_EMPTY_LABEL, "a DNS name has an empty label: two dots side by side, or one in front")
        return
    if not _LABEL.fullmatch(label):
        yield Fault(LintCode.DNS_CHARACTER, f"the label {show(label)} has a character other than a-z, 0-9 and hyphen")
        return
    if len(label) > MAX_LABEL_BYTES:
        yield Fault(
            LintCode.DNS_LABEL_TOO_LONG,
            f"the label {show(label)} has {len(label)} characters; there can be {MAX_LABEL_BYTES}",
            (("got", len(label)),),
        )
        return
    if "_" in label:
        yield Fault(LintCode.DNS_UNDERSCORE, f"the label {show(label)} has an underscore, which no host name has")
    if label.startswith("-") or label.endswith("-"):
        yield Fault(LintCode.DNS_HYPHEN, f"the label {show(label)} begins or ends with a hyphen")
    if label[2:4] == "--":
        if label.startswith(PREFIX):
            yield from a_label_faults(label)
        else:
            yield Fault(
                LintCode.DNS_RESERVED_LDH,
                f"the label {show(label)} has -- where only A-labels (xn--) may have it",
            )


def ip_faults(address: bytes) -> Iterator[Fault]:
    """Yield what is wrong with one iPAddress."""
    if len(address) not in (4, 16):
        yield Fault(
            LintCode.IP_LENGTH,
            f"an IP address has {len(address)} bytes; there can be 4 or 16",
            (("got", len(address)),),
        )
    elif _is_reserved(address):
        yield Fault(
            LintCode.IP_RESERVED,
            f"the address {ip_address(address)} is private, reserved or no unicast address; ask a private CA",
        )


def _is_reserved(address: bytes) -> bool:
    """Tell whether an address is in a block that nobody has on the public Internet."""
    number = int.from_bytes(address, "big")
    if len(address) == 4:
        return any(number >> shift == prefix for shift, prefix in _RESERVED_IPV4)
    shift, prefix = _GLOBAL_UNICAST
    return number >> shift != prefix or any(number >> shift == prefix for shift, prefix in _RESERVED_IPV6)
