"""The X.509 form of a certification authority.

Spec: Merkle Tree Certificates, "Representing Certification Authorities"; RFC 9925, "Unsigned X.509 Certificates"; C2SP
mtc-tlog for the prefix URL.
"""

from dataclasses import dataclass
from datetime import UTC, datetime

from mtc.cert.ranges import SerialRanges
from mtc.cert.x509 import (
    BASIC_CONSTRAINTS_OID,
    KEY_USAGE_OID,
    SUBJECT_KEY_ID_OID,
    UNSIGNED_ALGORITHM_OID,
    UNSIGNED_NAME_OID,
    Extension,
    assemble_certificate,
    encode_basic_constraints,
    encode_extensions,
    encode_key_usage,
    parse_extensions,
)
from mtc.crypto import (
    HASH_ALGORITHMS,
    HashAlgorithm,
    SignatureAlgorithm,
    Verifier,
    parse_hash_algorithm,
    parse_public_key,
    signature_algorithm_of,
)
from mtc.errors import FormatError, Reason, Rejected, UsageError
from mtc.ids import (
    DEFAULT_REVISION,
    REVISIONS,
    SERIAL_LIMIT,
    DraftRevision,
    TrustAnchorID,
    encode_ca_name,
    parse_ca_name,
)
from mtc.kernel import active_kernel, parse_layout
from mtc.wire import (
    DERReader,
    Tag,
    encode_explicit,
    encode_integer,
    encode_octet_string,
    encode_oid,
    encode_sequence,
    encode_set,
    encode_time,
    encode_tlv,
    encode_utf8_string,
)

PREFIX_URL_OID = "1.3.6.1.4.1.64829.2.1"
"""The extension of the mtc-tlog profile that names where a CA's logs are served."""

_KEY_CERT_SIGN = 1 << 5


@dataclass(frozen=True, slots=True)
class CACertificate:
    """A certification authority as its certificate describes it. Nothing here says that the CA is to be trusted.

    min_serial, max_serial: both inclusive; serial numbers outside count as revoked. is_unsigned: the certificate
    carries no signature (RFC 9925). prefix_url: where its logs are served, if it says so.
    """

    der: bytes
    ca_id: TrustAnchorID
    revision: DraftRevision
    hash: HashAlgorithm
    public_key: Verifier
    min_serial: int
    max_serial: int
    not_before: datetime
    not_after: datetime
    prefix_url: str | None
    is_unsigned: bool
    is_self_signed: bool

    @property
    def algorithm(self) -> SignatureAlgorithm:
        """The CA cosigner's signature algorithm."""
        return self.public_key.algorithm

    @property
    def revoked(self) -> SerialRanges:
        """The serial numbers that the certificate itself excludes."""
        return SerialRanges([(0, self.min_serial), (min(self.max_serial + 1, SERIAL_LIMIT), SERIAL_LIMIT)])

    @staticmethod
    def parse(der: bytes) -> "CACertificate":
        """Read a CA certificate, signed or not; its own signature is not checked.

        Raises FormatError, or Rejected (NOT_MTC, DRAFT_MISMATCH, WRONG_KEY_USAGE) when it is no MTC CA of one revision.
        Spec: Merkle Tree Certificates, "Representing Certification Authorities".
        """
        layout = parse_layout(der)
        extensions = parse_extensions(der, layout.extensions_start, layout.extensions_end)
        by_oid = {extension.oid: extension for extension in extensions}
        candidates = [revision for revision in REVISIONS.values() if revision.ca_extension_oid in by_oid]
        if not candidates:
            raise Rejected(Reason.NOT_MTC, "the certificate has no MTC CA extension, so it describes no MTC CA")
        extension = by_oid[candidates[0].ca_extension_oid]
        subject = der[layout.subject_start : layout.spki_start]
        ca_id, name_oid = parse_ca_name(subject)
        mixed = len({revision.ca_extension_oid for revision in candidates}) > 1
        if mixed or name_oid != candidates[0].name_oid:
            raise Rejected(
                Reason.DRAFT_MISMATCH,
                f"the CA certificate mixes draft revisions: name {name_oid}, extension {extension.oid}",
            )
        _check_ca_profile(der, layout.extensions_start, layout.extensions_end, by_oid, extension)
        revision, log_hash, algorithm, min_serial, max_serial = _parse_ca_extension(extension, candidates)
        outer = der[layout.outer_signature_start : layout.outer_signature_end]
        if outer != der[layout.signature_start : layout.signature_end]:
            raise FormatError(Reason.ALGORITHM_MISMATCH, "the CA certificate's two signature algorithms differ")
        is_unsigned = outer == encode_sequence(encode_oid(UNSIGNED_ALGORITHM_OID))
        if is_unsigned and der[layout.value_start : layout.value_end] != b"\x00":
            raise FormatError(Reason.BAD_BIT_STRING, "an unsigned certificate has an empty signature")
        prefix = by_oid.get(PREFIX_URL_OID)
        return CACertificate(
            der=der,
            ca_id=ca_id,
            revision=revision,
            hash=log_hash,
            public_key=parse_public_key(der[layout.spki_start : layout.spki_end], algorithm),
            min_serial=min_serial,
            max_serial=max_serial,
            not_before=datetime.fromtimestamp(layout.not_before, UTC),
            not_after=datetime.fromtimestamp(layout.not_after, UTC),
            prefix_url=None if prefix is None else _parse_url(prefix.value),
            is_unsigned=is_unsigned,
            is_self_signed=not is_unsigned and der[layout.issuer_start : layout.issuer_end] == subject,
        )


def _check_ca_profile(der: bytes, start: int, end: int, by_oid: dict[str, Extension], extension: Extension) -> None:
    """Refuse a certificate that has the MTC CA extension but may not act as a CA."""
    is_ca, key_usage, *_ = active_kernel().scan_extensions(der, start, end)
    if not extension.is_critical:
        raise FormatError(Reason.BAD_EXTENSION, "the MTC CA extension must be critical")
    if KEY_USAGE_OID not in by_oid or not isinstance(key_usage, int) or not key_usage & _KEY_CERT_SIGN:
        raise Rejected(Reason.WRONG_KEY_USAGE, "an MTC CA certificate has a keyUsage with keyCertSign")
    if BASIC_CONSTRAINTS_OID not in by_oid or not is_ca:
        raise Rejected(Reason.WRONG_KEY_USAGE, "an MTC CA certificate has basicConstraints with cA TRUE")


def _parse_ca_extension(
    extension: Extension, candidates: list[DraftRevision]
) -> tuple[DraftRevision, HashAlgorithm, SignatureAlgorithm, int, int]:
    """Return revision, hash, algorithm, minSerial and maxSerial of an MTC CA extension."""
    outer = DERReader(extension.value, "the MTC CA extension")
    reader = outer.enter(Tag.SEQUENCE)
    outer.finish()
    log_hash = HASH_ALGORITHMS["sha256"]
    if candidates[0].ca_extension_has_hash:
        identifier = reader.read_tlv(Tag.SEQUENCE)
        known = [item for item in HASH_ALGORITHMS.values() if item.identifier == identifier]
        if not known:
            raise FormatError(Reason.UNKNOWN_ALGORITHM, f"the CA's log hash {identifier.hex()} is not known here")
        log_hash = known[0]
    algorithm = signature_algorithm_of(reader.read_tlv(Tag.SEQUENCE))
    min_serial, max_serial = reader.read_integer(), SERIAL_LIMIT - 1
    # -04 and -05 share the extension's OID; only -05 has a maxSerial.
    has_max = not reader.is_empty
    if has_max:
        max_serial = reader.read_integer()
    reader.finish()
    fitting = [revision for revision in candidates if revision.ca_extension_has_max_serial == has_max]
    if not fitting:
        raise FormatError(Reason.TRUNCATED, "the MTC CA extension has no maxSerial")
    revision = fitting[0]
    for serial in (min_serial, max_serial):
        if not revision.least_ca_serial <= serial < SERIAL_LIMIT:
            # The number itself stays out of the text: it may have any size, and Python prints none above 4,300 digits.
            raise FormatError(
                Reason.SERIAL_OUT_OF_RANGE,
                f"minSerial and maxSerial lie from {revision.least_ca_serial} to 2^64 - 1 in {revision}, "
                f"a number of {serial.bit_length()} bits here does not",
                bits=serial.bit_length(),
            )
    return revision, log_hash, algorithm, min_serial, max_serial


def _parse_url(value: bytes) -> str:
    """Return the text of the prefix URL extension."""
    reader = DERReader(value, "the CA prefix URL extension")
    text = reader.read(Tag.IA5_STRING)
    reader.finish()
    if not text.isascii() or not text.decode().isprintable():
        raise FormatError(Reason.BAD_STRING, "the CA prefix URL holds characters that no URL has")
    return text.decode()


def encode_ca_certificate(  # noqa: PLR0913 - the fields of a CA certificate
    *,
    ca_id: TrustAnchorID,
    public_key: Verifier,
    not_before: datetime,
    not_after: datetime,
    min_serial: int = 1 << 48,
    max_serial: int = SERIAL_LIMIT - 1,
    prefix_url: str | None = None,
    can_sign_crls: bool = False,
    hash_name: str = "sha256",
    revision: DraftRevision = DEFAULT_REVISION,
) -> bytes:
    """Return the DER of an unsigned CA certificate (RFC 9925), ready to be a trust anchor; it is never self-signed.

    public_key: the CA cosigner's. Raises UsageError where the revision cannot express what is asked.
    Spec: Merkle Tree Certificates, "Representing Certification Authorities".
    """
    log_hash = parse_hash_algorithm(hash_name)
    if not revision.ca_extension_has_hash and log_hash.name != "sha256":
        raise UsageError(Reason.USAGE, f"the CA extension of {revision} means SHA-256 and cannot name {log_hash.name}")
    if not revision.ca_extension_has_max_serial and max_serial != SERIAL_LIMIT - 1:
        raise UsageError(Reason.USAGE, f"the CA extension of {revision} has no maxSerial")
    for serial in (min_serial, max_serial):
        if not revision.least_ca_serial <= serial < SERIAL_LIMIT:
            raise UsageError(
                Reason.SERIAL_OUT_OF_RANGE,
                f"a number of {serial.bit_length()} bits is no bound for serial numbers in {revision}",
            )
    authority = encode_sequence(
        log_hash.identifier if revision.ca_extension_has_hash else b"",
        public_key.algorithm.identifier,
        encode_integer(min_serial),
        encode_integer(max_serial) if revision.ca_extension_has_max_serial else b"",
    )
    usages = ("keyCertSign", "cRLSign") if can_sign_crls else ("keyCertSign",)
    extensions = [
        encode_key_usage(*usages),
        encode_basic_constraints(is_ca=True),
        Extension(SUBJECT_KEY_ID_OID, encode_octet_string(ca_id.binary)),
        Extension(revision.ca_extension_oid, authority, is_critical=True),
    ]
    if prefix_url is not None:
        if not prefix_url.isascii() or not prefix_url.isprintable():
            raise UsageError(Reason.USAGE, f"{prefix_url!r} is no URL in ASCII")
        extensions.append(Extension(PREFIX_URL_OID, encode_tlv(Tag.IA5_STRING, prefix_url.encode())))
    algorithm = encode_sequence(encode_oid(UNSIGNED_ALGORITHM_OID))
    nobody = encode_sequence(encode_set(encode_sequence(encode_oid(UNSIGNED_NAME_OID), encode_utf8_string(""))))
    tbs = encode_sequence(
        encode_explicit(0, encode_integer(2)),
        encode_integer(1),
        algorithm,
        nobody,
        encode_sequence(encode_time(not_before), encode_time(not_after)),
        encode_ca_name(ca_id, revision),
        public_key.public_key,
        encode_explicit(3, encode_extensions(extensions)),
    )
    return assemble_certificate(tbs, algorithm, b"")
