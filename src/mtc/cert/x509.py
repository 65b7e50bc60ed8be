"""The parts of X.509 that MTC certificates share with all others: names and extensions.

Spec: RFC 5280, "Certificate Extensions"; RFC 4514 for the text form of names.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address

from mtc.errors import FormatError, Reason, UsageError
from mtc.ids import REVISIONS, TrustAnchorID
from mtc.kernel import frame_extension
from mtc.wire import (
    DERReader,
    Tag,
    decode_oid,
    encode_bit_string,
    encode_integer,
    encode_octet_string,
    encode_oid,
    encode_sequence,
    encode_set,
    encode_tlv,
    encode_utf8_string,
)

KEY_USAGE_OID = "2.5.29.15"
SUBJECT_ALT_NAME_OID = "2.5.29.17"
BASIC_CONSTRAINTS_OID = "2.5.29.19"
EXTENDED_KEY_USAGE_OID = "2.5.29.37"
SUBJECT_KEY_ID_OID = "2.5.29.14"
CERTIFICATE_POLICIES_OID = "2.5.29.32"
AUTHORITY_KEY_ID_OID = "2.5.29.35"
CRL_DISTRIBUTION_POINTS_OID = "2.5.29.31"
SERVER_AUTH_OID = "1.3.6.1.5.5.7.3.1"
CLIENT_AUTH_OID = "1.3.6.1.5.5.7.3.2"
UNSIGNED_ALGORITHM_OID = "1.3.6.1.5.5.7.6.36"
"""id-alg-unsigned of RFC 9925."""
UNSIGNED_NAME_OID = "1.3.6.1.5.5.7.25.1"
"""id-rdna-unsigned of RFC 9925."""

KEY_USAGES = (
    "digitalSignature",
    "nonRepudiation",
    "keyEncipherment",
    "dataEncipherment",
    "keyAgreement",
    "keyCertSign",
    "cRLSign",
    "encipherOnly",
    "decipherOnly",
)
"""Names of the KeyUsage bits, bit 0 first."""

_ATTRIBUTES = {
    "2.5.4.3": "CN",
    "2.5.4.5": "serialNumber",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "STREET",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "0.9.2342.19200300.100.1.25": "DC",
    UNSIGNED_NAME_OID: "unsigned",
}
_ATTRIBUTE_OIDS = {short: oid for oid, short in _ATTRIBUTES.items()}


@dataclass(frozen=True, slots=True)
class Extension:
    """One extension: dotted OID, criticality, and the DER inside its OCTET STRING."""

    oid: str
    value: bytes
    is_critical: bool = False

    def encode(self) -> bytes:
        """Return the Extension SEQUENCE."""
        critical = encode_tlv(Tag.BOOLEAN, b"\xff") if self.is_critical else b""
        return encode_sequence(encode_oid(self.oid), critical, encode_octet_string(self.value))


def parse_extensions(der: bytes, start: int, end: int) -> tuple[Extension, ...]:
    """Return the extensions in the contents der[start:end] of an Extensions SEQUENCE."""
    extensions = []
    while start < end:
        oid_start, oid_end, critical, value, start = frame_extension(der, start, end)
        extensions.append(Extension(decode_oid(der[oid_start:oid_end]), der[value:start], critical))
    return tuple(extensions)


def encode_extensions(extensions: Sequence[Extension]) -> bytes:
    """Return the contents of `[3]`, an Extensions SEQUENCE. Raises UsageError when an extension stands twice."""
    if len({extension.oid for extension in extensions}) != len(extensions):
        raise UsageError(Reason.DUPLICATE_EXTENSION, "the same extension stands twice")
    return encode_sequence(*(extension.encode() for extension in extensions))


def encode_key_usage(*names: str, is_critical: bool = True) -> Extension:
    """Return a keyUsage extension with the bits of `names` (`digitalSignature`, …). Raises UsageError without any."""
    if not names:
        raise UsageError(Reason.USAGE, "a keyUsage has at least one bit set")
    bits = 0
    for name in names:
        if name not in KEY_USAGES:
            raise UsageError(Reason.USAGE, f"{name!r} is no key usage; there are {', '.join(KEY_USAGES)}")
        bits |= 0x8000 >> KEY_USAGES.index(name)
    contents = bits.to_bytes(2, "big").rstrip(b"\x00")
    unused = (contents[-1] & -contents[-1]).bit_length() - 1
    return Extension(KEY_USAGE_OID, encode_tlv(Tag.BIT_STRING, bytes((unused,)) + contents), is_critical)


def encode_extended_key_usage(*oids: str, is_critical: bool = False) -> Extension:
    """Return an extKeyUsage extension with the purposes `oids`. Raises UsageError without any."""
    if not oids:
        raise UsageError(Reason.USAGE, "an extKeyUsage names at least one purpose")
    return Extension(EXTENDED_KEY_USAGE_OID, encode_sequence(*map(encode_oid, oids)), is_critical)


def encode_basic_constraints(*, is_ca: bool, path_length: int | None = None, is_critical: bool = True) -> Extension:
    """Return a basicConstraints extension."""
    parts = []
    if is_ca:
        parts.append(encode_tlv(Tag.BOOLEAN, b"\xff"))
        if path_length is not None:
            parts.append(encode_integer(path_length))
    return Extension(BASIC_CONSTRAINTS_OID, encode_sequence(*parts), is_critical)


def encode_authority_key_identifier(key_id: bytes) -> Extension:
    """Return an authorityKeyIdentifier extension with a key identifier, which for an MTC CA is its binary CA ID."""
    return Extension(AUTHORITY_KEY_ID_OID, encode_sequence(encode_tlv(0x80, key_id)))


def encode_crl_distribution_points(*urls: str) -> Extension:
    """Return a cRLDistributionPoints extension with one point per URL (ASCII). Raises UsageError without any."""
    if not urls or not all(url.isascii() and url.isprintable() for url in urls):
        raise UsageError(Reason.USAGE, "a cRLDistributionPoints names at least one URL in ASCII")
    points = [encode_sequence(encode_tlv(0xA0, encode_tlv(0xA0, encode_tlv(0x86, url.encode())))) for url in urls]
    return Extension(CRL_DISTRIBUTION_POINTS_OID, encode_sequence(*points))


def encode_certificate_policies(*oids: str) -> Extension:
    """Return a certificatePolicies extension that asserts `oids`, without qualifiers. Raises UsageError without any."""
    if not oids:
        raise UsageError(Reason.USAGE, "a certificatePolicies asserts at least one policy")
    return Extension(CERTIFICATE_POLICIES_OID, encode_sequence(*(encode_sequence(encode_oid(oid)) for oid in oids)))


def encode_subject_alt_name(
    dns_names: Iterable[str], ip_addresses: Iterable[str] = (), *, is_critical: bool = False
) -> Extension:
    """Return a subjectAltName extension with DNS names (ASCII) and IP addresses (text). Raises UsageError on others."""
    names = []
    for name in dns_names:
        if not name or not name.isascii():
            raise UsageError(Reason.USAGE, f"{name!r} is no ASCII DNS name; write international names as A-labels")
        names.append(encode_tlv(0x82, name.encode()))
    for text in ip_addresses:
        try:
            names.append(encode_tlv(0x87, ip_address(text).packed))
        except ValueError:
            raise UsageError(Reason.USAGE, f"{text!r} is no IP address") from None
    if not names:
        raise UsageError(Reason.USAGE, "a subjectAltName needs at least one name")
    return Extension(SUBJECT_ALT_NAME_OID, encode_sequence(*names), is_critical)


def encode_name(**attributes: str) -> bytes:
    """Return a distinguished name with one UTF8String RDN per keyword (`CN`, `O`, …); empty without any."""
    rdns = []
    for short, value in attributes.items():
        if short not in _ATTRIBUTE_OIDS:
            raise UsageError(Reason.USAGE, f"{short!r} is no name attribute; there are {', '.join(_ATTRIBUTE_OIDS)}")
        oid = encode_oid(_ATTRIBUTE_OIDS[short])
        rdns.append(encode_set(encode_sequence(oid, encode_utf8_string(value))))
    return encode_sequence(*rdns)


def _format_value(reader: DERReader) -> str:
    """Return an attribute value for people: text where it is text, the trust anchor ID of a CA, hex otherwise."""
    tag, start, end = reader.read_header()
    contents = reader.data[start:end]
    if tag == Tag.RELATIVE_OID:
        try:
            return str(TrustAnchorID(contents))
        except FormatError:
            return f"#{contents.hex()}"
    if tag in (Tag.UTF8_STRING, Tag.PRINTABLE_STRING, Tag.IA5_STRING):
        text = contents.decode("utf-8", errors="replace")
        if text.isprintable():
            return "".join(f"\\{char}" if char in '\\,+"<>;=' else char for char in text)
    return f"#{contents.hex()}"


def format_name(name: bytes) -> str:
    """Return a distinguished name (DER) as text, first RDN first: `O=Example, CN=a.example`; empty for an empty one.

    Raises FormatError when it is not a Name. The text is for people and never compared.
    """
    labels = _ATTRIBUTES | {revision.name_oid: "trustAnchorID" for revision in REVISIONS.values()}
    reader = DERReader(name, "the name")
    rdns = reader.enter(Tag.SEQUENCE)
    reader.finish()
    parts = []
    while not rdns.is_empty:
        rdn = rdns.enter(Tag.SET)
        values = []
        while not rdn.is_empty:
            attribute = rdn.enter(Tag.SEQUENCE)
            oid = attribute.read_oid()
            values.append(f"{labels.get(oid, oid)}={_format_value(attribute)}")
            attribute.finish()
        parts.append("+".join(values))
    return ", ".join(parts)


def assemble_certificate(tbs: bytes, algorithm: bytes, signature: bytes) -> bytes:
    """Return a Certificate SEQUENCE from an encoded TBSCertificate, AlgorithmIdentifier and signature value."""
    return encode_sequence(tbs, algorithm, encode_bit_string(signature))
