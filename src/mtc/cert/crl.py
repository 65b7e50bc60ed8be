"""The two revocation lists of a CA, both X.509 CRLs that the CA cosigner signs.

The plain CRL names single serial numbers, for existing software. The MTC revocation list names the minimum serial
number and ranges, for relying parties and monitors of Merkle Tree Certificates; they stand in a critical extension, so
that software that does not know it refuses the list instead of taking it for an empty CRL. Each value has exactly one
encoding, and a parser here takes no other one. `docs/revocation.md` describes the format for others.

    RevocationRanges ::= SEQUENCE { version INTEGER (1), minSerial INTEGER, ranges SEQUENCE OF SerialRange }
    SerialRange      ::= SEQUENCE { first INTEGER, last INTEGER }      -- both inclusive

Spec: RFC 5280, "CRL and CRL Extensions Profile"; Merkle Tree Certificates, "Revoked Ranges".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum
from functools import lru_cache

from mtc.cert.ranges import SerialRanges
from mtc.cert.x509 import (
    AUTHORITY_KEY_ID_OID,
    Extension,
    assemble_certificate,
    encode_authority_key_identifier,
    encode_extensions,
    parse_extensions,
)
from mtc.errors import FormatError, Reason
from mtc.ids import SERIAL_LIMIT, TrustAnchorID, parse_ca_name
from mtc.wire import DERReader, Tag, encode_explicit, encode_integer, encode_sequence, encode_time, encode_tlv

REVOCATION_RANGES_OID = "2.25.243731509220170141290461138573918180624"
"""The critical extension of the MTC revocation list. A UUID drawn once: the project has no arc of its own."""
CRL_NUMBER_OID = "2.5.29.20"
REASON_CODE_OID = "2.5.29.21"

MAX_CRL_BYTES = 16 << 20
"""Largest list that is read."""
MAX_RANGES = 100_000
"""Most ranges of an MTC revocation list."""
MAX_SERIALS = 100_000
"""Most serial numbers of a plain CRL."""
MAX_CRL_NUMBER = (1 << 159) - 1
"""RFC 5280 allows 20 octets, the first bit being the sign."""

_CRL_VERSION = 1
_RANGES_VERSION = 1
_ENUMERATED = 0x0A


class RevocationReason(IntEnum):
    """Why a certificate was revoked, as a CRL says it. One that gives no reason carries none, as RFC 5280 advises.

    There is no certificateHold and no removeFromCRL: nothing is ever un-revoked.
    """

    KEY_COMPROMISE = 1
    CA_COMPROMISE = 2
    AFFILIATION_CHANGED = 3
    SUPERSEDED = 4
    CESSATION_OF_OPERATION = 5
    PRIVILEGE_WITHDRAWN = 9

    @property
    def label(self) -> str:
        """The name in RFC 5280, `keyCompromise` for example."""
        return _LABELS[self]


_LABELS = {
    RevocationReason.KEY_COMPROMISE: "keyCompromise",
    RevocationReason.CA_COMPROMISE: "cACompromise",
    RevocationReason.AFFILIATION_CHANGED: "affiliationChanged",
    RevocationReason.SUPERSEDED: "superseded",
    RevocationReason.CESSATION_OF_OPERATION: "cessationOfOperation",
    RevocationReason.PRIVILEGE_WITHDRAWN: "privilegeWithdrawn",
}


@dataclass(frozen=True, slots=True)
class RevokedSerial:
    """One line of a plain CRL. serial: 1 to 2^64 - 1. time: when it was revoked, whole seconds."""

    serial: int
    time: datetime
    reason: RevocationReason | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TBSCRL:
    """What is signed of a list. Raises FormatError for one that cannot be.

    issuer: the CA's name, DER. algorithm: AlgorithmIdentifier, DER. this_update, next_update: aware, whole seconds; the
    list is valid from the one to the other, both included. number: the cRLNumber; a later list has a greater one.
    serials: of a plain CRL, ascending. ranges, min_serial: of an MTC revocation list, None in a plain CRL; every serial
    number below min_serial is revoked as well, and no range begins there.
    """

    issuer: bytes
    algorithm: bytes
    this_update: datetime
    next_update: datetime
    number: int
    serials: tuple[RevokedSerial, ...] = ()
    ranges: SerialRanges | None = None
    min_serial: int | None = None

    def __post_init__(self) -> None:
        """Refuse a list that neither software would understand."""
        if not self.this_update < self.next_update:
            raise FormatError(Reason.BAD_TIME, "the revocation list ends before it begins")
        if not 0 <= self.number <= MAX_CRL_NUMBER:
            raise FormatError(Reason.BAD_NUMBER, "the number of a revocation list has at most 20 octets")
        if (self.ranges is None) != (self.min_serial is None):
            raise FormatError(Reason.BAD_EXTENSION, "ranges and a minimum serial number come together")
        if self.ranges is not None and self.serials:
            raise FormatError(Reason.BAD_EXTENSION, "a list of ranges has no single serial numbers")
        _check_serials(self.serials)
        if self.ranges is not None and self.min_serial is not None:
            _check_ranges(self.min_serial, self.ranges)

    @property
    def ca_id(self) -> TrustAnchorID:
        """The CA that issues the list. Raises FormatError when its name is no CA's."""
        return parse_ca_name(self.issuer)[0]


def encode_tbs_crl(crl: TBSCRL) -> bytes:
    """Return the TBSCertList, DER: the message that the CA signs. Raises FormatError when it is too large."""
    extensions = [
        encode_authority_key_identifier(crl.ca_id.binary),
        Extension(CRL_NUMBER_OID, encode_integer(crl.number)),
    ]
    if crl.ranges is not None and crl.min_serial is not None:
        value = _encode_ranges(crl.min_serial, crl.ranges)
        extensions.append(Extension(REVOCATION_RANGES_OID, value, is_critical=True))
    # RFC 5280: without revoked certificates the list of them is absent, not empty.
    revoked = encode_sequence(*map(_encode_serial, crl.serials)) if crl.serials else b""
    tbs = encode_sequence(
        encode_integer(_CRL_VERSION),
        crl.algorithm,
        crl.issuer,
        encode_time(crl.this_update),
        encode_time(crl.next_update),
        revoked,
        encode_explicit(0, encode_extensions(extensions)),
    )
    if len(tbs) > MAX_CRL_BYTES:
        raise FormatError(Reason.TOO_LARGE, f"the revocation list would have {len(tbs)} bytes, at most {MAX_CRL_BYTES}")
    return tbs


def parse_tbs_crl(tbs: bytes) -> TBSCRL:
    """Read a TBSCertList of either kind, whole. Raises FormatError for one that `encode_tbs_crl` would not write."""
    if len(tbs) > MAX_CRL_BYTES:
        raise FormatError(Reason.TOO_LARGE, f"a revocation list has at most {MAX_CRL_BYTES} bytes, not {len(tbs)}")
    outer = DERReader(tbs, "the TBSCertList")
    reader = outer.enter(Tag.SEQUENCE)
    outer.finish()
    version = reader.read_integer()
    if version != _CRL_VERSION:
        raise FormatError(Reason.BAD_VERSION, "a revocation list is a CRL of version 2, whose number is 1")
    algorithm, issuer = reader.read_tlv(Tag.SEQUENCE), reader.read_tlv(Tag.SEQUENCE)
    this_update, next_update = reader.read_time(), reader.read_time()
    serials = _read_serials(reader.enter(Tag.SEQUENCE)) if reader.peek_tag() == Tag.SEQUENCE else ()
    wrapper = reader.enter(0xA0)
    reader.finish()
    body = wrapper.enter(Tag.SEQUENCE)
    wrapper.finish()
    extensions = parse_extensions(tbs, body.offset, body.end)
    oids = [extension.oid for extension in extensions]
    if oids[:2] != [AUTHORITY_KEY_ID_OID, CRL_NUMBER_OID] or oids[2:] not in ([], [REVOCATION_RANGES_OID]):
        raise FormatError(
            Reason.BAD_EXTENSION,
            "a revocation list has an authorityKeyIdentifier, a cRLNumber and perhaps the MTC ranges, in this order",
        )
    min_serial, ranges = _read_ranges(extensions[2].value) if len(extensions) > 2 else (None, None)
    crl = TBSCRL(
        issuer=issuer,
        algorithm=algorithm,
        this_update=this_update,
        next_update=next_update,
        number=_read_number(extensions[1].value),
        serials=serials,
        ranges=ranges,
        min_serial=min_serial,
    )
    # One value has one encoding. This catches what is left: a time in its longer form, an empty list that should be
    # absent, criticality, and an authorityKeyIdentifier that is not the CA's ID.
    if encode_tbs_crl(crl) != tbs:
        raise FormatError(Reason.BAD_EXTENSION, "the revocation list is not written as its format asks")
    return crl


def assemble_crl(tbs: bytes, algorithm: bytes, signature: bytes) -> bytes:
    """Return a CertificateList, DER, from an encoded TBSCertList, AlgorithmIdentifier and signature."""
    # A CertificateList and a Certificate are put together alike.
    return assemble_certificate(tbs, algorithm, signature)


def _check_serials(serials: Sequence[RevokedSerial]) -> None:
    """Refuse serial numbers that a plain CRL cannot hold."""
    if len(serials) > MAX_SERIALS:
        raise FormatError(Reason.TOO_LARGE, f"a CRL has at most {MAX_SERIALS} serial numbers here, not {len(serials)}")
    last = 0
    for item in serials:
        if not last < item.serial < SERIAL_LIMIT:
            raise FormatError(Reason.BAD_ORDER, "the serial numbers of a CRL ascend from 1 to 2^64 - 1")
        last = item.serial


def _check_ranges(min_serial: int, ranges: SerialRanges) -> None:
    """Refuse ranges that an MTC revocation list cannot hold."""
    if not 0 <= min_serial < SERIAL_LIMIT:
        raise FormatError(Reason.SERIAL_OUT_OF_RANGE, "the minimum serial number lies from 0 to 2^64 - 1")
    if len(ranges) > MAX_RANGES:
        raise FormatError(Reason.TOO_LARGE, f"a revocation list has at most {MAX_RANGES} ranges, not {len(ranges)}")
    if ranges.bounds and ranges.bounds[0] < min_serial:
        raise FormatError(Reason.BAD_ORDER, "a range begins below the minimum serial number")


@lru_cache(maxsize=64)
def _encode_line(time: datetime, reason: RevocationReason | None) -> bytes:
    """Return what stands behind the serial number; the lines of one revocation share it."""
    if reason is None:
        return encode_time(time)
    code = Extension(REASON_CODE_OID, encode_tlv(_ENUMERATED, bytes((reason,))))
    return encode_time(time) + encode_sequence(code.encode())


def _encode_serial(item: RevokedSerial) -> bytes:
    """Return one line of revokedCertificates."""
    return encode_sequence(encode_integer(item.serial), _encode_line(item.time, item.reason))


def _read_serials(reader: DERReader) -> tuple[RevokedSerial, ...]:
    """Read the lines of revokedCertificates."""
    serials: list[RevokedSerial] = []
    while not reader.is_empty:
        if len(serials) == MAX_SERIALS:
            raise FormatError(Reason.TOO_LARGE, f"a CRL has at most {MAX_SERIALS} serial numbers here")
        line = reader.enter(Tag.SEQUENCE)
        serial, time = line.read_integer(), line.read_time()
        reason = None
        if not line.is_empty:
            body = line.enter(Tag.SEQUENCE)
            reason = _read_reason(parse_extensions(body.data, body.offset, body.end))
            line.finish()
        serials.append(RevokedSerial(serial, time, reason))
    return tuple(serials)


def _read_reason(extensions: Sequence[Extension]) -> RevocationReason:
    """Return the reason in the extensions of a line, of which there is no other one."""
    if [extension.oid for extension in extensions] != [REASON_CODE_OID]:
        raise FormatError(Reason.BAD_EXTENSION, "a line of a CRL has no extension but its reason code")
    reader = DERReader(extensions[0].value, "the reason code")
    code = reader.read(_ENUMERATED)
    reader.finish()
    if len(code) != 1 or code[0] not in list(RevocationReason):
        raise FormatError(Reason.BAD_NUMBER, f"0x{code[:8].hex()} is no reason to revoke an MTC certificate")
    return RevocationReason(code[0])


def _read_number(value: bytes) -> int:
    """Return the INTEGER of the cRLNumber."""
    reader = DERReader(value, "the cRLNumber")
    number = reader.read_integer()
    reader.finish()
    return number


def _encode_ranges(min_serial: int, ranges: SerialRanges) -> bytes:
    """Return the value of the MTC ranges extension."""
    pairs = [encode_sequence(encode_integer(start), encode_integer(end - 1)) for start, end in ranges]
    return encode_sequence(encode_integer(_RANGES_VERSION), encode_integer(min_serial), encode_sequence(*pairs))


def _read_ranges(value: bytes) -> tuple[int, SerialRanges]:
    """Return minSerial and the ranges of the MTC ranges extension."""
    outer = DERReader(value, "the MTC revocation ranges")
    reader = outer.enter(Tag.SEQUENCE)
    outer.finish()
    if reader.read_integer() != _RANGES_VERSION:
        raise FormatError(Reason.BAD_VERSION, f"the MTC revocation ranges known here have version {_RANGES_VERSION}")
    min_serial = reader.read_integer()
    items = reader.enter(Tag.SEQUENCE)
    reader.finish()
    pairs: list[tuple[int, int]] = []
    # Two ranges that touch would be one.
    least = 0
    while not items.is_empty:
        if len(pairs) == MAX_RANGES:
            raise FormatError(Reason.TOO_LARGE, f"a revocation list has at most {MAX_RANGES} ranges")
        item = items.enter(Tag.SEQUENCE)
        first, last = item.read_integer(), item.read_integer()
        item.finish()
        if not least <= first <= last < SERIAL_LIMIT:
            raise FormatError(Reason.BAD_ORDER, "the ranges of a revocation list ascend and do not touch")
        pairs.append((first, last + 1))
        least = last + 2
    return min_serial, SerialRanges(pairs)
