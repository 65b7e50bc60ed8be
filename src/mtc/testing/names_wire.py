"""DNS messages in wire form, as far as the name server for tests needs them: quick, and no more than that.

Names are keys: their wire form in lower case, uncompressed, so that no name is decoded to be looked up.

Spec: RFC 1035, "Messages"; RFC 6891, "The OPT Pseudo-RR".
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

import dns.exception
import dns.name
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from mtc.errors import Reason, UsageError

HEADER_BYTES, OPT_BYTES, MIN_UDP_BYTES, EDNS_BYTES = 12, 11, 512, 1232
FLAG_RESPONSE, FLAG_AA, FLAG_TC, FLAG_RD, FLAG_RA, FLAG_AD = 0x8000, 0x0400, 0x0200, 0x0100, 0x0080, 0x0020
EDNS_DO = 0x8000
TYPE_CNAME, TYPE_SOA, TYPE_OPT = 5, 6, 41

RRset = tuple[int, tuple[bytes, ...]]
"""Seconds to live, and the records' data in wire form."""
Record = tuple[bytes, int, int, bytes]
"""Name, type, seconds to live and data."""


@dataclass(frozen=True, slots=True)
class Query:
    """The parts of a query that matter. raw_question: name, type and class as they came, for the echo."""

    key: bytes
    type: int
    raw_question: bytes
    flags: int
    udp_bytes: int
    has_edns: bool
    edns_flags: int
    wants_secure: bool


def parse_query(wire: bytes) -> Query | None:
    """Return the parts of a query, None when it is none that is served."""
    if len(wire) < HEADER_BYTES:
        return None
    _, flags, questions, answers, authorities, additionals = struct.unpack_from("!6H", wire)
    if flags & 0xF800 or (questions, answers, authorities) != (1, 0, 0):
        return None
    end = HEADER_BYTES
    while end < len(wire) and wire[end]:
        if wire[end] > 63:
            return None
        end += 1 + wire[end]
    name, end = wire[HEADER_BYTES : end + 1], end + 5
    if end > len(wire):
        return None
    udp_bytes, edns_flags, has_edns = MIN_UDP_BYTES, 0, False
    if additionals and wire[end : end + 3] == b"\x00\x00\x29" and len(wire) >= end + 11:
        udp_bytes, edns_flags = struct.unpack_from("!HI", wire, end + 3)
        udp_bytes, has_edns = max(udp_bytes, MIN_UDP_BYTES), True
    return Query(
        key=name.lower(),
        type=int.from_bytes(wire[end - 4 : end - 2], "big"),
        raw_question=wire[HEADER_BYTES:end],
        flags=flags,
        udp_bytes=udp_bytes,
        has_edns=has_edns,
        edns_flags=edns_flags & EDNS_DO,
        wants_secure=bool(edns_flags & EDNS_DO or flags & FLAG_AD),
    )


def encode_record(record: Record, question: bytes) -> bytes:
    """Return a record in wire form; one of the name that was asked for points to the question."""
    owner, number, ttl_s, value = record
    return (b"\xc0\x0c" if owner == question else owner) + struct.pack("!HHIH", number, 1, ttl_s, len(value)) + value


@lru_cache(maxsize=4096)
def wire_of_text(number: int, text: str) -> bytes:
    """Return the data of a record in wire form. Raises UsageError."""
    try:
        data = dns.rdata.from_text(dns.rdataclass.IN, dns.rdatatype.RdataType.make(number), text, relativize=False)
    except dns.exception.DNSException as error:
        name = type_to_text(number)
        raise UsageError(Reason.USAGE, f"{text!r} is no value of a {name} record: {error}") from error
    wire = data.to_wire()
    assert wire is not None
    return wire


def type_of_text(mnemonic: str) -> int:
    """Return the number of a record type. Raises UsageError."""
    try:
        return int(dns.rdatatype.from_text(mnemonic))
    except dns.exception.DNSException as error:
        raise UsageError(Reason.USAGE, f"{mnemonic!r} is no DNS record type") from error


@lru_cache(maxsize=256)
def type_to_text(number: int) -> str:
    """Return the mnemonic of a record type."""
    return dns.rdatatype.to_text(dns.rdatatype.RdataType.make(number))


@lru_cache(maxsize=4096)
def key_of_name(name: str) -> bytes:
    """Return a name in wire form and lower case. Raises UsageError."""
    try:
        return dns.name.from_text(name.lower()).to_wire() or b""
    except dns.exception.DNSException as error:
        raise UsageError(Reason.USAGE, f"{name!r} is no DNS name: {error}") from error


def name_of_key(key: bytes) -> str:
    """Return a name in wire form as text without the dot at its end."""
    labels = [above[1 : 1 + above[0]] for above in upwards(key)][:-1]
    return b".".join(labels).decode("ascii", "backslashreplace") or "."


def upwards(key: bytes) -> Iterator[bytes]:
    """Yield a name in wire form and every name above it, the root last."""
    while key[0]:
        yield key
        key = key[1 + key[0] :]
    yield key
