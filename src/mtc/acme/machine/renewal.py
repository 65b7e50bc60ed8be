"""Renewal information: which certificate is meant, and when it should be renewed.

Spec: RFC 9773, "The RenewalInfo Resource"; Merkle Tree Certificates, "Renewal" (about 75 % of the lifetime).
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from mtc.acme.machine.jws import decode_base64url, encode_base64url
from mtc.errors import FormatError, Reason
from mtc.ids import SERIAL_LIMIT

_MAX_CHARS = 200
_CENTRE, _HALF = 0.75, 0.03
"""The window lies around 75 % of the lifetime, and is 6 % of it wide, so that not all come at the same moment."""


@dataclass(frozen=True, slots=True)
class CertificateID:
    """Which certificate is meant: the key identifier of its AKI, and its serial number."""

    key_identifier: bytes
    serial: int

    @staticmethod
    def parse(text: str) -> "CertificateID":
        """Read `base64url(AKI).base64url(serial)`. Raises FormatError."""
        left, dot, right = text.partition(".")
        if len(text) > _MAX_CHARS or not dot or not left or not right:
            raise FormatError(Reason.BAD_TEXT, f"{text[:80]!r} is no certificate identifier; it has one dot")
        serial = decode_base64url(right, "the serial number")
        value = int.from_bytes(serial, "big", signed=True)
        # The content of a DER INTEGER: no needless zero in front, and not negative.
        if value < 0 or value >= SERIAL_LIMIT or (len(serial) > 1 and serial[0] == 0 and serial[1] < 0x80):
            raise FormatError(Reason.BAD_TEXT, "the serial number is not as DER encodes it, or too large for this CA")
        identifier = CertificateID(decode_base64url(left, "the key identifier"), value)
        if str(identifier) != text:
            raise FormatError(Reason.BAD_BASE64, f"{text[:80]!r} has bits behind the end of its base64url")
        return identifier

    def __str__(self) -> str:
        """Return the text."""
        serial = self.serial.to_bytes(self.serial.bit_length() // 8 + 1, "big")
        return f"{encode_base64url(self.key_identifier)}.{encode_base64url(serial)}"


@dataclass(frozen=True, slots=True)
class RenewalWindow:
    """When to renew: at a moment between start and end; clients choose one at random."""

    start: datetime
    end: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Hastened:
    """What an operator wants renewed at another time than usual: entries [start, end) of a log, within a window.

    explanation_url: where people read why, None for nowhere.
    """

    log_number: int
    start: int
    end: int
    window: RenewalWindow
    explanation_url: str | None = None


def suggest_window(not_before: datetime, not_after: datetime, now: datetime, *, is_revoked: bool) -> RenewalWindow:
    """Return the window of a certificate; of a revoked one it is over, so that it is renewed at once."""
    if is_revoked:
        return RenewalWindow(now - timedelta(hours=2), now - timedelta(hours=1))
    lifetime = not_after - not_before
    return RenewalWindow(not_before + (_CENTRE - _HALF) * lifetime, not_before + (_CENTRE + _HALF) * lifetime)
