"""Numbers and bytes inside lines of text: canonical base64 and plain decimal, one form per value.

Spec: RFC 4648, "Base 64 Encoding", standard alphabet with padding; the decimals of C2SP documents, without leading
zeros.
"""

import base64
import binascii
import re

from mtc.errors import FormatError, Reason

_DECIMAL = re.compile(r"0|[1-9][0-9]*", re.ASCII)


def decode_base64(text: str, what: str) -> bytes:
    """Return the bytes that `text` encodes; `what` names it in error messages. Raises FormatError (BAD_BASE64).

    Only the form that `encode_base64` writes is read: no white space, right padding, no bits behind the last byte.
    """
    try:
        data = base64.b64decode(text.encode("ascii"), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise FormatError(Reason.BAD_BASE64, f"{what} is not base64") from None
    if encode_base64(data) != text:
        raise FormatError(Reason.BAD_BASE64, f"{what} is not base64 in its one canonical form")
    return data


def encode_base64(data: bytes) -> str:
    """Return base64 in the standard alphabet with padding, on one line."""
    return base64.b64encode(data).decode("ascii")


def decode_decimal(text: str, most: int, what: str) -> int:
    """Return a number from 0 to `most` in decimal without leading zeros. Raises FormatError (BAD_NUMBER)."""
    # The length is looked at first: Python's conversion is quadratic, and refuses from 4,300 digits on in its own way.
    if len(text) > len(str(most)) or not _DECIMAL.fullmatch(text) or int(text) > most:
        raise FormatError(
            Reason.BAD_NUMBER, f"{what} is {text[:40]!r}, not a decimal from 0 to {most} without leading zeros"
        )
    return int(text)
