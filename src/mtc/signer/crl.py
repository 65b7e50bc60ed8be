"""Which revocation lists the key signs, and in which order.

1. The list is this CA's: its name, its algorithm.
2. The same bytes again are signed again, so that a crash costs nothing.
3. Its number is greater than that of the last list of its kind; it begins now, not before the last one, and ends within
   the longest validity.
4. Of the list of ranges, nothing shrinks: its minimum serial never falls, and what was revoked stays revoked.

A list cannot be taken for a subtree or the other way round: a TBSCertList is a DER SEQUENCE, whose first byte is 0x30,
and a subtree message begins with the letters `subtree/v1`. Nor can it be taken for a TBSCertificate, signed by the same
key: where that has its validity, a SEQUENCE, a TBSCertList has a time.

Spec: RFC 5280, "CRL and CRL Extensions Profile"; Merkle Tree Certificates, "Revoked Ranges".
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from mtc.cert import SerialRanges
from mtc.cert.crl import TBSCRL, parse_tbs_crl
from mtc.errors import ConflictError, FormatError, Reason, Rejected
from mtc.ids import encode_ca_name
from mtc.signer.rules import SignerRules
from mtc.wire import Reader, Writer

MAX_TBS_BYTES = 16 * 1024 * 1024
"""Largest list that is signed."""
_VIEW_VERSION = 1
_MAX_RANGES = 100_000
_DIGEST_BYTES = 32
_NOTHING = SerialRanges()


class CRLKind(StrEnum):
    """The two lists of a CA, each with numbers of its own."""

    PLAIN = "plain"
    """Single serials, for existing software."""
    RANGES = "ranges"
    """The MTC revocation list: minimum serial and ranges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CRLView:
    """The last list of one kind that the key signed.

    number: its cRLNumber. digest: SHA-256 of its TBSCertList. this_update: POSIX seconds. min_serial, ranges: what it
    revokes, 0 and nothing for the plain one, which drops serials as they expire.
    """

    kind: CRLKind
    number: int
    digest: bytes
    this_update: int
    min_serial: int = 0
    ranges: SerialRanges = _NOTHING

    @property
    def revoked(self) -> SerialRanges:
        """Every serial that the list revokes."""
        return self.ranges | SerialRanges([(0, self.min_serial)])

    def encode(self) -> bytes:
        """Return the view's bytes; a bound of a range takes one to ten, fewer the closer it is to the one before."""
        number = self.number.to_bytes((self.number.bit_length() + 7) // 8, "big")
        writer = Writer().uint(_VIEW_VERSION, 1).vector(self.kind.encode(), 1).vector(number, 1).bytes(self.digest)
        writer.uint(self.this_update, 8).bytes(_encode_number(self.min_serial))
        writer.uint(len(self.ranges.bounds), 4)
        last = 0
        for bound in self.ranges.bounds:
            writer.bytes(_encode_number(bound - last))
            last = bound
        return writer.encode()

    @staticmethod
    def parse(data: bytes) -> "CRLView":
        """Read a view, which must fill `data`. Raises FormatError."""
        reader = Reader(data, "the signer's view of a revocation list")
        version = reader.read_uint(1)
        if version != _VIEW_VERSION:
            raise FormatError(Reason.BAD_VERSION, f"the view of a list has version {version}, known is {_VIEW_VERSION}")
        kind = reader.read_vector(1).decode("ascii", "replace")
        if kind not in list(CRLKind):
            raise FormatError(Reason.UNKNOWN_FORMAT, f"{kind!r} is no kind of revocation list")
        number = int.from_bytes(reader.read_vector(1), "big")
        digest, this_update = reader.read_bytes(_DIGEST_BYTES), reader.read_uint(8)
        min_serial, count = _read_number(reader), reader.read_uint(4)
        if count % 2 or count > 2 * _MAX_RANGES:
            raise FormatError(Reason.BAD_LENGTH, f"{count} is no number of bounds of ranges")
        bounds, last = [], 0
        for _ in range(count):
            last += _read_number(reader)
            bounds.append(last)
        reader.finish()
        ranges = SerialRanges(zip(bounds[::2], bounds[1::2], strict=True))
        view = CRLView(
            kind=CRLKind(kind),
            number=number,
            digest=digest,
            this_update=this_update,
            min_serial=min_serial,
            ranges=ranges,
        )
        if view.encode() != data:
            raise FormatError(Reason.BAD_ORDER, "the view of a list is not as a signer writes it")
        return view


@dataclass(frozen=True, slots=True)
class CRLPlan:
    """What to make durable, then what to sign: the list's TBSCertList as it came."""

    view: CRLView
    message: bytes


def plan_crl(rules: SignerRules, algorithm: bytes, views: Mapping[CRLKind, CRLView], tbs: bytes, now: int) -> CRLPlan:
    """Decide about a revocation list. algorithm: the key's AlgorithmIdentifier, DER. now: POSIX seconds.

    views: the last lists that were signed, by kind. Raises FormatError for bytes that are no list; Rejected
    (UNKNOWN_CA, ALGORITHM_MISMATCH, NOT_YET_VALID, EXPIRED) for a list that is never signed; ConflictError for one that
    contradicts the last one.
    """
    if len(tbs) > MAX_TBS_BYTES:
        raise FormatError(Reason.TOO_LARGE, f"a revocation list has at most {MAX_TBS_BYTES} bytes, this one {len(tbs)}")
    crl = parse_tbs_crl(tbs)
    if crl.issuer != encode_ca_name(rules.ca_id, rules.revision):
        raise Rejected(Reason.UNKNOWN_CA, f"the revocation list is not issued by CA {rules.ca_id} of {rules.revision}")
    if crl.algorithm != algorithm:
        raise Rejected(
            Reason.ALGORITHM_MISMATCH, "the revocation list names another signature algorithm than the key's"
        )
    kind = CRLKind.PLAIN if crl.ranges is None else CRLKind.RANGES
    view = CRLView(
        kind=kind,
        number=crl.number,
        digest=hashlib.sha256(tbs).digest(),
        this_update=_seconds(crl.this_update),
        min_serial=crl.min_serial or 0,
        ranges=_NOTHING if crl.ranges is None else crl.ranges,
    )
    last = views.get(kind)
    if last is not None and view.digest == last.digest:
        return CRLPlan(last, tbs)
    _check_times(rules, crl, now)
    if last is not None:
        _check_successor(last, view)
    return CRLPlan(view, tbs)


def _check_times(rules: SignerRules, crl: TBSCRL, now: int) -> None:
    """Refuse a list that does not begin now, or that would be valid for too long."""
    begin, end = _seconds(crl.this_update), _seconds(crl.next_update)
    if abs(begin - now) > rules.max_skew_s:
        raise Rejected(
            Reason.NOT_YET_VALID,
            f"the revocation list begins {abs(begin - now)} s from the signer's clock, allowed are {rules.max_skew_s}; "
            "set the clocks",
            got=begin,
        )
    if not begin < end <= begin + rules.max_crl_lifetime_s:
        raise Rejected(
            Reason.EXPIRED,
            f"the revocation list would be valid for {end - begin} s, allowed are 1 to {rules.max_crl_lifetime_s}",
            got=end - begin,
        )


def _check_successor(last: CRLView, view: CRLView) -> None:
    """Refuse a list that is not newer than the last one, or that revokes less where nothing may shrink."""
    what = f"the {view.kind} revocation list number {last.number} was signed"
    if view.number <= last.number:
        raise ConflictError(Reason.CONFLICT, f"{what}; number {view.number} is not greater, nothing is signed")
    if view.this_update < last.this_update:
        raise ConflictError(Reason.CONFLICT, f"{what} with a later beginning than this one's; nothing is signed")
    if view.min_serial < last.min_serial:
        raise ConflictError(
            Reason.CONFLICT,
            f"{what} with minimum serial {last.min_serial}; {view.min_serial} is smaller, nothing is signed",
        )
    if view.kind is CRLKind.RANGES and view.revoked | last.revoked != view.revoked:
        raise ConflictError(Reason.CONFLICT, f"{what}; this one revokes less, nothing is signed. Revoking is for ever")


def _seconds(moment: datetime) -> int:
    """Return POSIX seconds."""
    return int(moment.timestamp())


def _encode_number(value: int) -> bytes:
    """Return a number in groups of seven bits, lowest first; the top bit says that another one follows."""
    groups = bytearray()
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    groups.append(value)
    return bytes(groups)


def _read_number(reader: Reader) -> int:
    """Read a number of at most ten groups of seven bits."""
    value = 0
    for shift in range(0, 70, 7):
        group = reader.read_uint(1)
        value |= (group & 0x7F) << shift
        if group < 0x80:
            return value
    raise FormatError(Reason.TOO_LARGE, "a number has more than ten groups of seven bits", offset=reader.offset)
