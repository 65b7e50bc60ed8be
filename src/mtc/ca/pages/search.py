"""What people type into the search field: an index, or a serial number in one of the ways that programs print it.

Spec: Merkle Tree Certificates, "Certificate Format" (serial numbers).
"""

import re
from dataclasses import dataclass

from mtc.errors import FormatError, Reason
from mtc.ids import MAX_INDEX, split_serial

_DECIMAL = re.compile(r"[0-9][0-9,_\s]*")
_PLACE = re.compile(r"([0-9]{1,5})\s*/\s*([0-9]{1,15})", re.ASCII)
_HEX = re.compile(r"(?:0x)?([0-9a-f]{1,40})", re.ASCII)
_COLONS = re.compile(r"[0-9a-f]{1,2}(?::[0-9a-f]{1,2})+", re.ASCII)
MAX_QUERY_CHARACTERS = 200
"""Longest text that is read."""


@dataclass(frozen=True, slots=True)
class Place:
    """An entry. log_number: None for the current log."""

    log_number: int | None
    index: int


def parse_query(text: str) -> Place:
    """Read an index (`5`), a log and an index (`1/5`), or a serial number (decimal, hex, hex with colons or spaces).

    A decimal below 2^48 is an index, because the serial numbers of log 1 begin there. Digits that begin with a zero
    and are as long as a serial number are hex, as OpenSSL prints them. Raises FormatError that says what to type.
    """
    query = text.strip().lower()
    if not query:
        raise FormatError(Reason.BAD_NUMBER, "type a serial number or the index of an entry")
    if len(query) > MAX_QUERY_CHARACTERS:
        raise FormatError(Reason.TOO_LARGE, "that is too long for a serial number")
    query = re.sub(r"^(serial(number)?|sn)\s*[:=]\s*", "", query)
    if match := _PLACE.fullmatch(query):
        return Place(int(match[1]), int(match[2]))
    spaced = re.sub(r"\s+", ":", query) if re.fullmatch(r"[0-9a-f]{2}(\s+[0-9a-f]{2})+", query) else query
    if _COLONS.fullmatch(spaced):
        return _of_serial(int("".join(part.zfill(2) for part in spaced.split(":"))[:80], 16))
    is_padded = query.startswith("0") and len(query) >= 13
    if _DECIMAL.fullmatch(query) and not is_padded:
        number = int(re.sub(r"[,_\s]", "", query)[:80])
        return Place(None, number) if number <= MAX_INDEX else _of_serial(number)
    if match := _HEX.fullmatch(query):
        return _of_serial(int(match[1], 16))
    raise FormatError(
        Reason.BAD_NUMBER,
        "that is neither a serial number (decimal, or hex with or without colons) nor the index of an entry",
    )


def _of_serial(serial: int) -> Place:
    """Take a serial number apart."""
    try:
        log_number, index = split_serial(serial)
    except FormatError:
        raise FormatError(
            Reason.SERIAL_OUT_OF_RANGE,
            f"{serial} is no serial number of a Merkle Tree certificate: the log number, 1 to 65535, stands above the "
            "lowest 48 bits, which are the index",
        ) from None
    return Place(log_number, index)
