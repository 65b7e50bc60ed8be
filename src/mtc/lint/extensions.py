"""The extensions of an entry, one by one, and which must be there.

Spec: RFC 5280, "Certificate Extensions"; CA/Browser Forum Baseline Requirements 2.2.6, 7.1.2.7.6 to 7.1.2.7.12 and
7.1.2.11; Merkle Tree Certificates, "Log Entries" for issuerAltName.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

from mtc.cert import Extension
from mtc.cert.x509 import (
    AUTHORITY_KEY_ID_OID,
    BASIC_CONSTRAINTS_OID,
    CERTIFICATE_POLICIES_OID,
    CRL_DISTRIBUTION_POINTS_OID,
    EXTENDED_KEY_USAGE_OID,
    KEY_USAGE_OID,
    KEY_USAGES,
    SUBJECT_ALT_NAME_OID,
    SUBJECT_KEY_ID_OID,
)
from mtc.crypto.strength import KeyType
from mtc.errors import FormatError, Reason
from mtc.ids import REVISIONS
from mtc.kernel import check_bit_string
from mtc.lint.findings import Fault, show
from mtc.lint.names import Names, san_faults
from mtc.lint.rules import ISSUER_ALT_NAME_OID, SCT_LIST_OID, LintRules
from mtc.lint.table import LintCode
from mtc.wire import DERReader, Tag

MAX_NAMED = 8
"""Most unknown policies or purposes that are named one by one."""
MAX_URL_BYTES = 2048
"""Longest URL of a CRL."""

_CA_EXTENSIONS = frozenset(revision.ca_extension_oid for revision in REVISIONS.values())
_CRITICAL = frozenset({KEY_USAGE_OID, BASIC_CONSTRAINTS_OID})
"""Extensions that must be critical; subjectAltName has a rule of its own, and all others must not be."""

_CA_USAGES = frozenset({"keyCertSign", "cRLSign"})
_NO_USAGES: frozenset[str] = frozenset()
_ENCIPHERMENT = frozenset({"keyEncipherment", "dataEncipherment"})
_USAGES: dict[KeyType, tuple[frozenset[str], frozenset[str]]] = {
    KeyType.RSA: (_ENCIPHERMENT, frozenset({"dataEncipherment"})),
    KeyType.P256: (frozenset({"keyAgreement"}), frozenset({"keyAgreement"})),
    KeyType.P384: (frozenset({"keyAgreement"}), frozenset({"keyAgreement"})),
    KeyType.P521: (frozenset({"keyAgreement"}), frozenset({"keyAgreement"})),
}
"""Usages beside digitalSignature that a key may have, and those of them that are discouraged; other types sign only."""


@dataclass(frozen=True, slots=True)
class ExtensionContext:
    """What the rules for extensions ask beside the extension: the CA's rules, the key's type, and the subject.

    names: of the entry; filled while subjectAltName is judged.
    """

    rules: LintRules
    key_type: KeyType | None
    has_subject: bool
    lifetime_needs_crl: bool
    names: Names


def extension_faults(extensions: Sequence[Extension], context: ExtensionContext) -> Iterator[Fault]:
    """Yield what is wrong with the extensions of an entry, in their order, and then what is missing."""
    present = set()
    for extension in extensions:
        present.add(extension.oid)
        yield from _one_extension(extension, context)
    if SUBJECT_ALT_NAME_OID not in present:
        yield Fault(LintCode.SAN_MISSING, "there is no subjectAltName; a certificate needs at least one name")
    if KEY_USAGE_OID not in present:
        yield Fault(LintCode.KEY_USAGE_MISSING, "there is no keyUsage")
    if EXTENDED_KEY_USAGE_OID not in present:
        yield Fault(LintCode.EKU_MISSING, "there is no extKeyUsage, so the certificate would be good for anything")
    if CERTIFICATE_POLICIES_OID not in present:
        yield Fault(LintCode.POLICIES_MISSING, "there is no certificatePolicies")
    if AUTHORITY_KEY_ID_OID not in present:
        yield Fault(LintCode.AKI_MISSING, "there is no authorityKeyIdentifier")
    if context.lifetime_needs_crl and CRL_DISTRIBUTION_POINTS_OID not in present:
        yield Fault(
            LintCode.CRL_POINTER_MISSING,
            "a certificate that lives so long needs a cRLDistributionPoints; shorten it, or give the CA a prefix URL",
        )


def _one_extension(extension: Extension, context: ExtensionContext) -> Iterator[Fault]:
    """Yield what is wrong with one extension."""
    oid = extension.oid
    if oid == SCT_LIST_OID:
        yield Fault(LintCode.SCT_LIST, "the entry has an SCT list; its own log is what makes it transparent")
        return
    if oid in _CA_EXTENSIONS:
        yield Fault(LintCode.IS_A_CA, "the MTC CA extension would make the holder a CA")
        return
    if oid not in context.rules.allowed_extensions:
        yield Fault(
            LintCode.EXTENSION_NOT_ALLOWED,
            f"the extension {oid[:100]} is not one that this CA issues; leave it out",
            (("oid", oid[:100]),),
        )
        return
    known = _CHECKS.get(oid)
    if known is None:
        if extension.is_critical:
            yield Fault(
                LintCode.EXTENSION_UNKNOWN_CRITICAL,
                f"the extension {oid[:100]} is critical, and this lint does not know what it means",
                (("oid", oid[:100]),),
            )
        return
    if oid != SUBJECT_ALT_NAME_OID and extension.is_critical != (oid in _CRITICAL):
        what = "must not be" if extension.is_critical else "must be"
        yield Fault(LintCode.EXTENSION_CRITICALITY, f"the extension {oid} {what} critical", (("oid", oid),))
    malformed, check = known
    try:
        yield from check(extension, context)
    except FormatError as error:
        yield Fault(malformed, error.message)


def _check_san(extension: Extension, context: ExtensionContext) -> Iterator[Fault]:
    """Judge subjectAltName: criticality and names."""
    if extension.is_critical == context.has_subject:
        what = "must not be critical beside a subject" if context.has_subject else "must be critical without a subject"
        yield Fault(LintCode.SAN_CRITICALITY, f"the subjectAltName {what}")
    yield from san_faults(extension.value, context.rules, context.names)


def _check_key_usage(extension: Extension, context: ExtensionContext) -> Iterator[Fault]:
    """Judge keyUsage against the type of the key."""
    usages = frozenset(_read_key_usage(extension.value))
    if usages & _CA_USAGES:
        yield Fault(LintCode.IS_A_CA, f"keyUsage has {', '.join(sorted(usages & _CA_USAGES))}, which only a CA has")
    if "digitalSignature" not in usages:
        yield Fault(LintCode.KEY_USAGE_SIGNATURE, "keyUsage has no digitalSignature, without which no TLS 1.3 works")
    if context.key_type is None:
        return
    allowed, discouraged = _USAGES.get(context.key_type, (_NO_USAGES, _NO_USAGES))
    if others := usages - allowed - _CA_USAGES - {"digitalSignature"}:
        yield Fault(
            LintCode.KEY_USAGE_BITS,
            f"keyUsage has {', '.join(sorted(others))}, which is nothing for a key of type {context.key_type}",
        )
    if bad := usages & discouraged:
        yield Fault(LintCode.KEY_USAGE_DISCOURAGED, f"keyUsage has {', '.join(sorted(bad))}, which is discouraged")


@lru_cache(maxsize=64)
def _read_key_usage(value: bytes) -> tuple[str, ...]:
    """Return the names of the bits of a keyUsage. Raises FormatError."""
    outer = DERReader(value, "the keyUsage")
    contents = outer.read(Tag.BIT_STRING)
    outer.finish()
    check_bit_string(contents, 0, len(contents), 0)
    bits = int.from_bytes(contents[1:3].ljust(2, b"\x00"), "big")
    # DER leaves zero bits at the end away, so the last bit that stands there is set; nine bits have a name.
    if len(contents) not in (2, 3) or not contents[-1] >> contents[0] & 1 or bits & 0x7F:
        raise FormatError(
            Reason.BAD_BIT_STRING, "the keyUsage has no bit, a bit without a name, or zero bits at its end"
        )
    return tuple(name for at, name in enumerate(KEY_USAGES) if bits & 0x8000 >> at)


def _check_extended_key_usage(extension: Extension, context: ExtensionContext) -> Iterator[Fault]:
    """Judge extKeyUsage."""
    purposes = _read_purposes(extension.value)
    if not purposes or len(set(purposes)) != len(purposes):
        yield Fault(LintCode.EKU_MALFORMED, "the extKeyUsage has no purpose, or the same one twice")
    for oid in sorted(frozenset(purposes) - context.rules.allowed_purposes)[:MAX_NAMED]:
        yield Fault(
            LintCode.EKU_PURPOSE,
            f"the extKeyUsage names {oid[:100]}; here are allowed {', '.join(sorted(context.rules.allowed_purposes))}",
            (("oid", oid[:100]),),
        )


@lru_cache(maxsize=64)
def _read_purposes(value: bytes) -> tuple[str, ...]:
    """Return the purposes of an extKeyUsage, dotted. Raises FormatError."""
    outer = DERReader(value, "the extKeyUsage")
    reader = outer.enter(Tag.SEQUENCE)
    outer.finish()
    purposes = []
    while not reader.is_empty:
        purposes.append(reader.read_oid())
    return tuple(purposes)


def _check_policies(extension: Extension, context: ExtensionContext) -> Iterator[Fault]:
    """Judge certificatePolicies: exactly the policies of the rules, without qualifiers."""
    policies, has_qualifiers = _read_policies(extension.value)
    if not policies or len(set(policies)) != len(policies):
        yield Fault(LintCode.POLICIES_MALFORMED, "the certificatePolicies has no policy, or the same one twice")
    elif has_qualifiers or set(policies) != context.rules.policies:
        yield Fault(
            LintCode.POLICIES_OTHER,
            f"the certificatePolicies asserts {', '.join(policies[:MAX_NAMED])[:200]}"
            f"{' with qualifiers' if has_qualifiers else ''}; it must be {', '.join(sorted(context.rules.policies))}",
        )


@lru_cache(maxsize=64)
def _read_policies(value: bytes) -> tuple[tuple[str, ...], bool]:
    """Return the policies of a certificatePolicies, dotted, and whether one has qualifiers. Raises FormatError."""
    outer = DERReader(value, "the certificatePolicies")
    reader = outer.enter(Tag.SEQUENCE)
    outer.finish()
    policies, has_qualifiers = [], False
    while not reader.is_empty:
        information = reader.enter(Tag.SEQUENCE)
        policies.append(information.read_oid())
        if not information.is_empty:
            information.read(Tag.SEQUENCE)
            information.finish()
            has_qualifiers = True
    return tuple(policies), has_qualifiers


def _check_authority_key_id(extension: Extension, context: ExtensionContext) -> Iterator[Fault]:
    """Judge authorityKeyIdentifier: the CA's subjectKeyIdentifier, which is its ID, and nothing else."""
    if extension.value != context.rules.authority_key_id:
        yield Fault(LintCode.AKI_OTHER, "the authorityKeyIdentifier is not the CA ID alone")


def _check_crl_pointer(extension: Extension, context: ExtensionContext) -> Iterator[Fault]:  # noqa: ARG001 - one form
    """Judge cRLDistributionPoints: full names that are URLs."""
    outer = DERReader(extension.value, "the cRLDistributionPoints")
    reader = outer.enter(Tag.SEQUENCE)
    outer.finish()
    urls = []
    while not reader.is_empty:
        point = reader.enter(Tag.SEQUENCE)
        full = point.enter(0xA0)
        names = full.enter(0xA0)
        full.finish()
        point.finish()
        while not names.is_empty:
            urls.append(names.read(0x86))
    if not urls or not all(_is_url(url) for url in urls):
        yield Fault(LintCode.CRL_POINTER_MALFORMED, "the cRLDistributionPoints has no URL, or one that is none")
    elif any(not url.startswith(b"http://") for url in urls):
        yield Fault(
            LintCode.CRL_POINTER_SCHEME,
            f"the CRL is at {show(next(url for url in urls if not url.startswith(b'http://')))}; it must be http, "
            "because who checks a certificate cannot need another certificate for it",
        )


def _is_url(url: bytes) -> bool:
    """Tell whether bytes are a URL with a host that can stand in a certificate."""
    if len(url) > MAX_URL_BYTES or not all(0x21 <= byte <= 0x7E for byte in url):
        return False
    try:
        parts = urlsplit(url.decode("ascii"))
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and bool(parts.hostname)


def _check_basic_constraints(extension: Extension, context: ExtensionContext) -> Iterator[Fault]:  # noqa: ARG001
    """Judge basicConstraints: cA is FALSE, and DER does not write what is the default."""
    outer = DERReader(extension.value, "the basicConstraints")
    reader = outer.enter(Tag.SEQUENCE)
    outer.finish()
    if reader.is_empty:
        return
    if reader.peek_tag() == Tag.BOOLEAN and reader.read_boolean():
        yield Fault(LintCode.IS_A_CA, "the basicConstraints says that the holder is a CA")
    else:
        yield Fault(LintCode.BASIC_CONSTRAINTS_MALFORMED, "the basicConstraints of who is no CA is empty")


def _check_issuer_alt_name(extension: Extension, context: ExtensionContext) -> Iterator[Fault]:  # noqa: ARG001
    """Judge issuerAltName: a label for people, one directoryName with one attribute in each RDN."""
    outer = DERReader(extension.value, "the issuerAltName")
    names = outer.enter(Tag.SEQUENCE)
    outer.finish()
    directory = names.enter(0xA4)
    names.finish()
    rdns = directory.enter(Tag.SEQUENCE)
    directory.finish()
    if rdns.is_empty:
        yield Fault(LintCode.ISSUER_ALT_NAME, "the issuerAltName holds an empty name")
    while not rdns.is_empty:
        rdn = rdns.enter(Tag.SET)
        attribute = rdn.enter(Tag.SEQUENCE)
        rdn.finish()
        attribute.read_oid()
        attribute.read_header()
        attribute.finish()


def _check_subject_key_id(extension: Extension, context: ExtensionContext) -> Iterator[Fault]:  # noqa: ARG001
    """Judge subjectKeyIdentifier: an OCTET STRING of any value."""
    reader = DERReader(extension.value, "the subjectKeyIdentifier")
    if not reader.read(Tag.OCTET_STRING):
        yield Fault(LintCode.EXTENSIONS_MALFORMED, "the subjectKeyIdentifier is empty")
    reader.finish()


_CHECKS: dict[str, tuple[LintCode, Callable[[Extension, ExtensionContext], Iterator[Fault]]]] = {
    SUBJECT_ALT_NAME_OID: (LintCode.SAN_MALFORMED, _check_san),
    KEY_USAGE_OID: (LintCode.KEY_USAGE_MALFORMED, _check_key_usage),
    EXTENDED_KEY_USAGE_OID: (LintCode.EKU_MALFORMED, _check_extended_key_usage),
    CERTIFICATE_POLICIES_OID: (LintCode.POLICIES_MALFORMED, _check_policies),
    AUTHORITY_KEY_ID_OID: (LintCode.AKI_OTHER, _check_authority_key_id),
    CRL_DISTRIBUTION_POINTS_OID: (LintCode.CRL_POINTER_MALFORMED, _check_crl_pointer),
    BASIC_CONSTRAINTS_OID: (LintCode.BASIC_CONSTRAINTS_MALFORMED, _check_basic_constraints),
    ISSUER_ALT_NAME_OID: (LintCode.ISSUER_ALT_NAME, _check_issuer_alt_name),
    SUBJECT_KEY_ID_OID: (LintCode.EXTENSIONS_MALFORMED, _check_subject_key_id),
}
"""What judges an extension, and the code for one that cannot be read."""
