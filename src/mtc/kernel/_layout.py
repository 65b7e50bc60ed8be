"""Where the parts of an X.509 certificate lie: the strict parser that every fast path must agree with.

One grammar, written for speed as plain functions over offsets: RFC 5280's Certificate in DER, times checked against the
calendar, extensions framed and unique. What is inside names, algorithms, keys and extension values stays bytes here.
The order of the checks is part of the contract, because both twins must find the same fault first: outer frame, then
the TBSCertificate front to back.

Spec: RFC 5280, "Certificate"; ITU-T X.690 (DER).
"""

from calendar import timegm
from typing import NamedTuple

from mtc.errors import Reason
from mtc.kernel._faults import fault
from mtc.wire.der import MAX_OID_BYTES

MAX_CERTIFICATE_BYTES = 1 << 24
"""Largest certificate read; the 3-byte signature vector of -06 and later bounds an MTCProof at about this size."""
MAX_EXTENSIONS = 256
"""Most extensions read in one certificate."""

_TIME_WIDTHS = {0x17: 13, 0x18: 15}
_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


class CertificateLayout(NamedTuple):
    """Offsets into the DER of a certificate; every pair is half-open. `*_start` of a TLV is its header."""

    tbs_start: int
    tbs_end: int
    version: int
    """0 for v1, 1 for v2, 2 for v3."""
    fields_start: int
    """First byte of the TBSCertificate's contents, that is of the version field if there is one."""
    version_end: int
    """End of the version field; equal to `fields_start` when it is absent."""
    serial_start: int
    """First byte of the serial number's contents."""
    serial_end: int
    signature_start: int
    signature_end: int
    issuer_start: int
    issuer_end: int
    not_before: int
    """POSIX seconds."""
    not_after: int
    """POSIX seconds."""
    subject_start: int
    subject_end: int
    spki_start: int
    spki_algorithm_start: int
    spki_algorithm_end: int
    spki_end: int
    extensions_start: int
    """First byte of the contents of the Extensions SEQUENCE; 0 when there are none."""
    extensions_end: int
    outer_signature_start: int
    outer_signature_end: int
    value_start: int
    """First byte of the signatureValue's contents, that is of the count of unused bits."""
    value_end: int


def tlv(data: bytes, at: int, end: int, tag: int) -> tuple[int, int]:
    """Return the contents [start, stop) of the TLV at `at`, which must have `tag` and end by `end`."""
    if at + 2 > end:
        raise fault(Reason.TRUNCATED, at)
    if data[at] != tag:
        raise fault(Reason.BAD_TAG, at)
    length = data[at + 1]
    start = at + 2
    if length >= 0x80:
        count = length & 0x7F
        if count == 0 or count > 4:
            raise fault(Reason.BAD_LENGTH, at)
        start += count
        if start > end:
            raise fault(Reason.TRUNCATED, at)
        length = int.from_bytes(data[at + 2 : start], "big")
        if length < 0x80 or not length >> 8 * (count - 1):
            raise fault(Reason.BAD_LENGTH, at)
    stop = start + length
    if stop > end:
        raise fault(Reason.TRUNCATED, at)
    return start, stop


def _posix_time(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return the POSIX seconds of the UTCTime or GeneralizedTime at `at`, and the end of its TLV."""
    if at + 2 > end:
        raise fault(Reason.TRUNCATED, at)
    width = _TIME_WIDTHS.get(data[at])
    if width is None:
        raise fault(Reason.BAD_TAG, at)
    start, stop = tlv(data, at, end, data[at])
    text = data[start : stop - 1]
    if stop - start != width or data[stop - 1] != 0x5A or not text.isdigit():
        raise fault(Reason.BAD_TIME, at)
    number = int(text)
    number, second = divmod(number, 100)
    number, minute = divmod(number, 100)
    number, hour = divmod(number, 100)
    number, day = divmod(number, 100)
    year, month = divmod(number, 100)
    if width == 13:
        year += 1900 if year >= 50 else 2000
    if second > 59 or minute > 59 or hour > 23 or not 1 <= month <= 12 or year == 0:
        raise fault(Reason.BAD_TIME, at)
    leap = month == 2 and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    if not 1 <= day <= _DAYS[month - 1] + leap:
        raise fault(Reason.BAD_TIME, at)
    return timegm((year, month, day, hour, minute, second)), stop


def check_bit_string(data: bytes, start: int, stop: int, at: int) -> None:
    """Refuse bit string contents [start, stop) without the count of unused bits, or with unused bits that are not zero.

    The error names `at`.
    """
    unused = data[start] if start < stop else 8
    if unused and (unused > 7 or stop - start == 1 or data[stop - 1] & (1 << unused) - 1):
        raise fault(Reason.BAD_BIT_STRING, at)


def check_oid(data: bytes, start: int, stop: int, at: int) -> None:
    """Refuse object identifier contents [start, stop) that are too long, empty, cut off or not minimal.

    The error names `at`.
    """
    if stop - start > MAX_OID_BYTES:
        raise fault(Reason.TOO_LARGE, at)
    if start == stop or data[stop - 1] & 0x80 or data[start] == 0x80:
        raise fault(Reason.BAD_OID, at)
    found = data.find(0x80, start + 1, stop)
    while found != -1:
        if not data[found - 1] & 0x80:
            raise fault(Reason.BAD_OID, at)
        found = data.find(0x80, found + 1, stop)


def frame_extension(data: bytes, at: int, end: int) -> tuple[int, int, bool, int, int]:
    """Return (OID start, OID end, critical, value start, value end) of the Extension at `at`; it ends with `value`."""
    at, stop = tlv(data, at, end, 0x30)
    oid_start, oid_end = tlv(data, at, stop, 0x06)
    check_oid(data, oid_start, oid_end, at)
    at = oid_end
    critical = at < stop and data[at] == 0x01
    if critical:
        start, at_next = tlv(data, at, stop, 0x01)
        # FALSE is the default, so DER leaves only TRUE to be written.
        if at_next - start != 1 or data[start] != 0xFF:
            raise fault(Reason.BAD_BOOLEAN, at)
        at = at_next
    start, value_end = tlv(data, at, stop, 0x04)
    if value_end != stop:
        raise fault(Reason.TRAILING_DATA, value_end)
    return oid_start, oid_end, critical, start, value_end


def _check_extensions(data: bytes, at: int, end: int) -> None:
    """Refuse an Extensions SEQUENCE whose contents [at, end) are empty, too many, malformed or not unique."""
    if at == end:
        raise fault(Reason.BAD_EXTENSION, at)
    seen = set()
    while at < end:
        oid_start, oid_end, _, _, stop = frame_extension(data, at, end)
        oid = data[oid_start:oid_end]
        if oid in seen:
            raise fault(Reason.DUPLICATE_EXTENSION, at)
        seen.add(oid)
        if len(seen) > MAX_EXTENSIONS:
            raise fault(Reason.TOO_LARGE, at)
        at = stop


def parse_layout(der: bytes) -> CertificateLayout:  # noqa: C901, PLR0912, PLR0915 - one walk, front to back, is clearest
    """Find the parts of a certificate. Raises FormatError with reason and offset."""
    size = len(der)
    if size > MAX_CERTIFICATE_BYTES:
        raise fault(Reason.TOO_LARGE, 0)
    tbs_start, end = tlv(der, 0, size, 0x30)
    if end != size:
        raise fault(Reason.TRAILING_DATA, end)
    at, tbs_end = tlv(der, tbs_start, end, 0x30)
    outer_signature_start = tbs_end
    _, outer_signature_end = tlv(der, tbs_end, end, 0x30)
    value_start, value_end = tlv(der, outer_signature_end, end, 0x03)
    if value_end != end:
        raise fault(Reason.TRAILING_DATA, value_end)

    fields_start, version = at, 0
    if at < tbs_end and der[at] == 0xA0:
        inner, stop = tlv(der, at, tbs_end, 0xA0)
        start, inner_end = tlv(der, inner, stop, 0x02)
        if inner_end - start != 1 or der[start] not in (1, 2):
            raise fault(Reason.BAD_VERSION, inner)
        if inner_end != stop:
            raise fault(Reason.TRAILING_DATA, inner_end)
        version, at = der[start], stop
    version_end = at

    serial_start, serial_end = tlv(der, at, tbs_end, 0x02)
    if serial_start == serial_end or (
        serial_end - serial_start > 1
        and (
            (der[serial_start] == 0x00 and der[serial_start + 1] < 0x80)
            or (der[serial_start] == 0xFF and der[serial_start + 1] >= 0x80)
        )
    ):
        raise fault(Reason.BAD_INTEGER, at)
    signature_start = serial_end
    _, issuer_start = tlv(der, signature_start, tbs_end, 0x30)
    _, issuer_end = tlv(der, issuer_start, tbs_end, 0x30)
    inner, subject_start = tlv(der, issuer_end, tbs_end, 0x30)
    not_before, inner = _posix_time(der, inner, subject_start)
    not_after, inner = _posix_time(der, inner, subject_start)
    if inner != subject_start:
        raise fault(Reason.TRAILING_DATA, inner)
    _, spki_start = tlv(der, subject_start, tbs_end, 0x30)
    spki_algorithm_start, spki_end = tlv(der, spki_start, tbs_end, 0x30)
    _, spki_algorithm_end = tlv(der, spki_algorithm_start, spki_end, 0x30)
    start, inner = tlv(der, spki_algorithm_end, spki_end, 0x03)
    check_bit_string(der, start, inner, spki_algorithm_end)
    if inner != spki_end:
        raise fault(Reason.TRAILING_DATA, inner)

    at = spki_end
    for tag in (0x81, 0x82):
        if at < tbs_end and der[at] == tag:
            if version == 0:
                raise fault(Reason.BAD_VERSION, at)
            start, stop = tlv(der, at, tbs_end, tag)
            check_bit_string(der, start, stop, at)
            at = stop
    extensions_start = extensions_end = 0
    if at < tbs_end and der[at] == 0xA3:
        if version != 2:
            raise fault(Reason.BAD_VERSION, at)
        inner, stop = tlv(der, at, tbs_end, 0xA3)
        extensions_start, extensions_end = tlv(der, inner, stop, 0x30)
        if extensions_end != stop:
            raise fault(Reason.TRAILING_DATA, extensions_end)
        _check_extensions(der, extensions_start, extensions_end)
        at = stop
    if at != tbs_end:
        raise fault(Reason.TRAILING_DATA, at)
    return CertificateLayout(
        tbs_start,
        tbs_end,
        version,
        fields_start,
        version_end,
        serial_start,
        serial_end,
        signature_start,
        issuer_start,
        issuer_start,
        issuer_end,
        not_before,
        not_after,
        subject_start,
        spki_start,
        spki_start,
        spki_algorithm_start,
        spki_algorithm_end,
        spki_end,
        extensions_start,
        extensions_end,
        outer_signature_start,
        outer_signature_end,
        value_start,
        value_end,
    )


class ProofLayout(NamedTuple):
    """Offsets of an MTCProof's parts in the bytes it was read from; every pair is half-open."""

    extensions_start: int
    """The extensions vector with its 2-byte length, as it is hashed."""
    extensions_end: int
    start: int
    end: int
    inclusion_start: int
    inclusion_end: int
    signatures_start: int
    """First SubtreeSignature; they run to the end."""
    signatures_end: int


def parse_proof_layout(  # noqa: PLR0913 - three numbers describe the draft revision, two the place
    data: bytes, at: int, end: int, hash_size: int, signatures_width: int, id_limit: int
) -> ProofLayout:
    """Find the parts of the MTCProof at data[at:end]; it must fill them.

    signatures_width: bytes of the length of the signatures vector (2 or 3). id_limit: longest cosigner ID in bytes.
    Raises FormatError. The subtree is not checked here. Spec: Merkle Tree Certificates, "Certificate Format".
    """
    extensions_start = at
    if at + 2 > end:
        raise fault(Reason.TRUNCATED, at)
    stop = at + 2 + int.from_bytes(data[at : at + 2], "big")
    if stop > end:
        raise fault(Reason.TRUNCATED, at)
    check_entry_extensions(data, at + 2, stop)
    at = stop
    if at + 14 > end:
        raise fault(Reason.TRUNCATED, at)
    subtree_start = int.from_bytes(data[at : at + 6], "big")
    subtree_end = int.from_bytes(data[at + 6 : at + 12], "big")
    inclusion_start = at + 14
    length = int.from_bytes(data[at + 12 : inclusion_start], "big")
    inclusion_end = inclusion_start + length
    if inclusion_end > end:
        raise fault(Reason.TRUNCATED, at + 12)
    if length % hash_size:
        raise fault(Reason.BAD_PROOF_LENGTH, at + 12)
    at = inclusion_end
    signatures_start = at + signatures_width
    if signatures_start > end:
        raise fault(Reason.TRUNCATED, at)
    signatures_end = signatures_start + int.from_bytes(data[at:signatures_start], "big")
    if signatures_end > end:
        raise fault(Reason.TRUNCATED, at)
    if signatures_end < end:
        raise fault(Reason.TRAILING_DATA, signatures_end)
    if signatures_start != signatures_end:
        _check_signatures(data, signatures_start, signatures_end, id_limit)
    return ProofLayout(
        extensions_start, stop, subtree_start, subtree_end, inclusion_start, inclusion_end, signatures_start, end
    )


def entry_size(layout: CertificateLayout, extensions_size: int, hash_size: int) -> int:
    """Return the bytes of the log entry that a certificate stands for.

    extensions_size: of the entry extensions with their 2-byte length. hash_size: of the public key's hash.
    """
    return (
        extensions_size
        + 2
        + (layout.version_end - layout.fields_start)
        + (layout.spki_start - layout.issuer_start)
        + (layout.spki_algorithm_end - layout.spki_algorithm_start)
        + 2
        + hash_size
        + (layout.tbs_end - layout.spki_end)
    )


def check_entry_extensions(data: bytes, at: int, end: int) -> None:
    """Refuse entry extensions that are cut off or whose types do not strictly ascend."""
    last = -1
    while at < end:
        if at + 4 > end:
            raise fault(Reason.TRUNCATED, at)
        kind = int.from_bytes(data[at : at + 2], "big")
        stop = at + 4 + int.from_bytes(data[at + 2 : at + 4], "big")
        if stop > end:
            raise fault(Reason.TRUNCATED, at)
        if kind <= last:
            raise fault(Reason.DUPLICATE if kind == last else Reason.BAD_ORDER, at)
        last, at = kind, stop


def _check_signatures(data: bytes, at: int, end: int, id_limit: int) -> None:
    """Refuse subtree signatures that are cut off or whose cosigner IDs do not strictly ascend by (length, bytes)."""
    last = b""
    while at < end:
        count = data[at]
        id_end = at + 1 + count
        if id_end + 2 > end:
            raise fault(Reason.TRUNCATED, at)
        if count == 0 or count > id_limit:
            raise fault(Reason.BAD_TRUST_ANCHOR_ID, at)
        stop = id_end + 2 + int.from_bytes(data[id_end : id_end + 2], "big")
        if stop > end:
            raise fault(Reason.TRUNCATED, at)
        cosigner = data[at + 1 : id_end]
        if count < len(last) or (count == len(last) and cosigner <= last):
            raise fault(Reason.DUPLICATE if cosigner == last else Reason.BAD_ORDER, at)
        last, at = cosigner, stop
