"""What a certificate is asked for: a DNS name, perhaps a wildcard, or an IP address, in one spelling each.

Spec: RFC 8555, "Order Objects" and "Pre-authorization"; RFC 8738, "IP Identifier".
"""

import re
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import ip_address

from mtc.errors import FormatError, Reason

MAX_NAME_BYTES = 253
"""Longest DNS name in text, without the dot of the root (RFC 1035)."""

_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.ASCII)


class IdentifierType(StrEnum):
    """The types of the registry "ACME Identifier Types" that are served here."""

    DNS = "dns"
    IP = "ip"


@dataclass(frozen=True, slots=True, order=True)
class Identifier:
    """A DNS name in lower case, ASCII, without a dot at its end, or an IP address in its canonical text (RFC 5952)."""

    type: IdentifierType
    value: str

    @staticmethod
    def parse(type_: object, value: object) -> "Identifier":
        """Return an identifier in its one spelling. Raises FormatError (BAD_NAME) that says what is wrong."""
        if not isinstance(type_, str) or not isinstance(value, str):
            raise FormatError(Reason.BAD_NAME, "an identifier has a type and a value, both strings")
        if type_ == IdentifierType.DNS:
            return Identifier.dns(value)
        if type_ == IdentifierType.IP:
            return Identifier.ip(value)
        raise FormatError(Reason.UNSUPPORTED, f"{type_[:40]!r} is no identifier type here; there are dns and ip")

    @staticmethod
    def dns(value: str) -> "Identifier":
        """Return a DNS name, which may begin with `*.`. Raises FormatError."""
        name = value.lower()
        labels = name.removeprefix("*.").split(".")
        if len(name) > MAX_NAME_BYTES or not name.isascii():
            raise FormatError(Reason.BAD_NAME, f"{value[:80]!r} is too long, or not ASCII; write IDNA A-labels")
        if not all(_LABEL.fullmatch(label) for label in labels):
            raise FormatError(Reason.BAD_NAME, f"{value[:80]!r} is no DNS name")
        if labels[-1].isdigit() or (name.startswith("*.") and len(labels) < 2):
            raise FormatError(Reason.BAD_NAME, f"{value[:80]!r} cannot be certified as a DNS name")
        return Identifier(IdentifierType.DNS, name)

    @staticmethod
    def ip(value: str) -> "Identifier":
        """Return an IP address. Raises FormatError."""
        try:
            address = ip_address(value)
        except ValueError:
            raise FormatError(Reason.BAD_NAME, f"{value[:80]!r} is no IP address") from None
        if "%" in value:
            raise FormatError(Reason.BAD_NAME, f"{value[:80]!r} has a zone, which means nothing to others")
        return Identifier(IdentifierType.IP, str(address))

    @property
    def is_wildcard(self) -> bool:
        """True for `*.example.com`."""
        return self.value.startswith("*.")

    @property
    def base(self) -> "Identifier":
        """The identifier that is validated: without `*.`."""
        return Identifier(self.type, self.value.removeprefix("*."))

    def to_json(self) -> dict[str, str]:
        """Return the JSON form."""
        return {"type": str(self.type), "value": self.value}

    def __str__(self) -> str:
        """Return the value for people."""
        return self.value
