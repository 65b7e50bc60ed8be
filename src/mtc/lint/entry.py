"""The whole entry: its frame, validity and subject; then its key and extensions.

Spec: Merkle Tree Certificates, "Log Entries"; RFC 5280, "Certificate"; CA/Browser Forum Baseline Requirements 2.2.6,
7.1.2.7.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from functools import lru_cache
from ipaddress import ip_address
from typing import NamedTuple

from mtc.cert import MAX_ENTRY_BYTES, TBSCertificateLogEntry
from mtc.crypto.strength import key_type_of
from mtc.errors import FormatError, Reason, UsageError
from mtc.lint.extensions import ExtensionContext, extension_faults
from mtc.lint.findings import Fault, LintFinding, make_findings, show
from mtc.lint.keys import key_faults
from mtc.lint.names import Names, dns_faults, ip_faults
from mtc.lint.rules import LintRules
from mtc.lint.table import LintCode
from mtc.wire import DERReader, Tag, encode_sequence, encode_time

_FRAME_BYTES = 4
"""Bytes of a log entry around its fields when it has no extensions: their length, and the type."""
_SECOND = timedelta(seconds=1)
_EMPTY_NAME = b"\x30\x00"
_COMMON_NAME_OID = "2.5.4.3"
_MAX_COMMON_NAME = 64


def lint_entry(entry: TBSCertificateLogEntry, spki: bytes, rules: LintRules, now: datetime) -> tuple[LintFinding, ...]:
    """Judge an entry before it is logged; return what is wrong with it, grave or not, and nothing when it is good.

    spki: the SubjectPublicKeyInfo, DER, that the certificate will hold. now: an aware datetime. Never raises for what
    stands in the entry or the key, however it came about; UsageError when `now` has no time zone. The work is bounded
    by the size of an entry: a larger one is refused without a further look. Give the result to `check_lint`.
    """
    if now.tzinfo is None:
        raise UsageError(Reason.USAGE, f"{now!r} has no time zone")
    return make_findings(_all_faults(entry, spki, rules, now), is_public=rules.is_public)


def lint_names(dns_names: Iterable[str], ip_addresses: Iterable[str], rules: LintRules) -> tuple[LintFinding, ...]:
    """Judge names by themselves, before there is a key: what `lint_entry` would say of each.

    ip_addresses: text that `ipaddress` reads.
    """
    faults: list[Fault] = []
    for name in dns_names:
        faults.extend(dns_faults(name.encode("utf-8", "replace"), rules))
    for text in ip_addresses:
        faults.extend(ip_faults(ip_address(text).packed))
    return make_findings(faults, is_public=rules.is_public)


def _all_faults(entry: TBSCertificateLogEntry, spki: bytes, rules: LintRules, now: datetime) -> Iterator[Fault]:
    """Yield everything that is wrong, in the order of the fields of an entry; the public key last but names."""
    size = len(entry.encode()) + _FRAME_BYTES + rules.room
    if size > MAX_ENTRY_BYTES:
        yield Fault(
            LintCode.ENTRY_TOO_LARGE,
            f"the entry would have {size} bytes in the log; there can be {MAX_ENTRY_BYTES}, so spread the names",
            (("got", size), ("limit", MAX_ENTRY_BYTES)),
        )
        return
    if entry.version != 2:
        yield Fault(LintCode.NOT_V3, f"the version is v{entry.version + 1}; it must be v3", (("got", entry.version),))
    if entry.issuer != rules.issuer:
        yield Fault(LintCode.ISSUER, f"the issuer is not CA {rules.ca_id} as {rules.revision} writes it")
    lifetime = None
    try:
        validity = _read_validity(entry.validity)
    except FormatError as error:
        yield Fault(LintCode.VALIDITY_MALFORMED, error.message)
    else:
        lifetime = validity.not_after - validity.not_before + _SECOND
        yield from _validity_faults(validity, rules, now)
    yield from key_faults(entry, spki, rules)
    if entry.tail[:1] in (b"\x81", b"\x82"):
        yield Fault(LintCode.UNIQUE_ID, "the entry has a unique identifier; nobody uses them")
    names = Names()
    try:
        extensions = entry.extensions
    except FormatError as error:
        yield Fault(LintCode.EXTENSIONS_MALFORMED, error.message)
        return
    context = ExtensionContext(
        rules,
        key_type_of(entry.spki_algorithm),
        entry.subject != _EMPTY_NAME,
        lifetime is not None and rules.crl_pointer_above is not None and lifetime > rules.crl_pointer_above,
        names,
    )
    yield from extension_faults(extensions, context)
    if entry.subject != _EMPTY_NAME:
        yield Fault(LintCode.SUBJECT_NOT_EMPTY, "the subject must be empty; names stand in the subjectAltName")
        yield from _subject_faults(entry.subject, names)


class _Validity(NamedTuple):
    """Both times, and whether they are encoded as RFC 5280 asks."""

    not_before: datetime
    not_after: datetime
    is_canonical: bool


@lru_cache(maxsize=256)
def _read_validity(validity: bytes) -> _Validity:
    """Read a Validity; entries of the same second share it. Raises FormatError."""
    outer = DERReader(validity, "the validity")
    reader = outer.enter(Tag.SEQUENCE)
    outer.finish()
    not_before, not_after = reader.read_time(), reader.read_time()
    reader.finish()
    again = encode_sequence(encode_time(not_before), encode_time(not_after))
    return _Validity(not_before, not_after, again == validity)


def _validity_faults(validity: _Validity, rules: LintRules, now: datetime) -> Iterator[Fault]:
    """Yield what is wrong with the times of an entry."""
    not_before, not_after, is_canonical = validity
    if not is_canonical:
        yield Fault(LintCode.VALIDITY_MALFORMED, "the times are not UTCTime through 2049 and GeneralizedTime from 2050")
    if not_before > not_after:
        yield Fault(LintCode.VALIDITY_INVERTED, f"notBefore {not_before} is after notAfter {not_after}")
        return
    lifetime = not_after - not_before + _SECOND
    if lifetime > rules.max_lifetime:
        yield Fault(
            LintCode.VALIDITY_TOO_LONG,
            f"the certificate would live {_seconds(lifetime)} s, both ends included; "
            f"there can be {_seconds(rules.max_lifetime)}",
            (("got", _seconds(lifetime)), ("limit", _seconds(rules.max_lifetime))),
        )
    if not_before < now - rules.max_backdating:
        yield Fault(
            LintCode.VALIDITY_BACKDATED,
            f"notBefore {not_before} lies more than {_seconds(rules.max_backdating)} s back",
            (("got", _seconds(now - not_before)), ("limit", _seconds(rules.max_backdating))),
        )
    if not_before > now + rules.max_future:
        yield Fault(
            LintCode.VALIDITY_FUTURE,
            f"notBefore {not_before} lies more than {_seconds(rules.max_future)} s ahead",
            (("got", _seconds(not_before - now)), ("limit", _seconds(rules.max_future))),
        )
    if not_after < now.replace(microsecond=0):
        yield Fault(LintCode.VALIDITY_OVER, f"notAfter {not_after} has passed")


def _seconds(duration: timedelta) -> int:
    """Return whole seconds."""
    return duration // _SECOND


def _subject_faults(subject: bytes, names: Names) -> Iterator[Fault]:
    """Yield what is wrong with a subject that is not empty; a commonName must be one of the names."""
    try:
        common = _read_common_names(subject)
    except FormatError as error:
        yield Fault(LintCode.SUBJECT_MALFORMED, error.message)
        return
    if len(common) > 1:
        yield Fault(LintCode.CN_MALFORMED, f"the subject has {len(common)} commonNames; there can be one")
    for tag, value in common[:1]:
        try:
            text = value.decode("utf-8")
        except UnicodeDecodeError:
            text = ""
        if tag not in (Tag.UTF8_STRING, Tag.PRINTABLE_STRING) or not 0 < len(text) <= _MAX_COMMON_NAME:
            yield Fault(
                LintCode.CN_MALFORMED, "the commonName is no UTF8String or PrintableString of 1 to 64 characters"
            )
        elif not _is_among(text, names):
            yield Fault(
                LintCode.CN_NOT_IN_SAN,
                f"the commonName {show(text)} is not among the names in the subjectAltName; add it, or leave it out",
            )


def _read_common_names(subject: bytes) -> list[tuple[int, bytes]]:
    """Return tag and contents of the commonNames in a Name. Raises FormatError."""
    outer = DERReader(subject, "the subject")
    rdns = outer.enter(Tag.SEQUENCE)
    outer.finish()
    common = []
    while not rdns.is_empty:
        rdn = rdns.enter(Tag.SET)
        if rdn.is_empty:
            raise FormatError(Reason.BAD_NAME, "the subject has an RDN without an attribute")
        while not rdn.is_empty:
            attribute = rdn.enter(Tag.SEQUENCE)
            oid = attribute.read_oid()
            tag, start, end = attribute.read_header()
            attribute.finish()
            if oid == _COMMON_NAME_OID:
                common.append((tag, subject[start:end]))
    return common


def _is_among(text: str, names: Names) -> bool:
    """Tell whether a commonName is one of the DNS names, or the usual text of one of the addresses."""
    if text.lower().encode() in names.dns:
        return True
    try:
        return ip_address(text).packed in names.ip
    except ValueError:
        return False
