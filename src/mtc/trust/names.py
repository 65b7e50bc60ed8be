"""The name a client asked for, and whether a certificate has it.

Spec: RFC 9525, "Verifying Service Identity"; RFC 6066 for host names.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

from mtc.errors import Reason, UsageError

MAX_HOST_BYTES = 253
"""Longest host name: RFC 1035 allows 255 bytes on the wire, two of which are the first length and the root."""

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
_HOST = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_LOOKS_NUMERIC = re.compile(r"(.*\.)?(0x[0-9a-f]*|[0-9]+)")


class ServerName(NamedTuple):
    """A reference identity: a host name in lower case, or an IP address in network bytes; the other one is None."""

    host: bytes | None
    address: bytes | None

    @staticmethod
    @lru_cache(maxsize=1024)
    def parse(text: str) -> "ServerName":
        """Read a host name (letters, digits, hyphens; A-labels; a last dot is dropped) or an IP address.

        Raises UsageError. Brackets around an IPv6 address are accepted, as in URLs; zone identifiers are not.
        """
        bracketed = text.startswith("[") and text.endswith("]") and ":" in text
        try:
            address = ip_address(text[1:-1] if bracketed else text)
        except ValueError:
            pass
        else:
            # A zone identifier holds on one machine only and is in no certificate.
            if "%" not in text:
                return ServerName(None, address.packed)
        # Asked of the text as given: some letters beyond ASCII have lower-case forms inside it.
        if not text.isascii():
            raise UsageError(
                Reason.USAGE,
                f"{text!r} is an international name; write it with A-labels, for example xn--bcher-kva.example",
            )
        host = text.lower().removesuffix(".")
        if len(host) > MAX_HOST_BYTES or not _HOST.fullmatch(host) or _LOOKS_NUMERIC.fullmatch(host):
            raise UsageError(Reason.USAGE, f"{text[:80]!r} is neither a host name nor an IP address")
        return ServerName(host.encode(), None)

    def is_in(self, dns_names: Sequence[bytes], ip_addresses: Sequence[bytes]) -> bool:
        """Tell whether one of a certificate's names is this one.

        A wildcard stands alone as the leftmost label, matches exactly one label, and has at least two labels behind it.
        Host names compare without case, addresses byte for byte; an address never matches a DNS name.
        """
        host = self.host
        if host is None:
            return self.address in ip_addresses
        _, _, parent = host.partition(b".")
        for name in dns_names:
            lowered = name.lower()
            if lowered == host:
                return True
            if lowered[:2] == b"*." and lowered[2:] == parent and b"." in parent:
                return True
        return False

    def __str__(self) -> str:
        """Return the name for people."""
        if self.host is not None:
            return self.host.decode()
        return str(ip_address(self.address or b""))
