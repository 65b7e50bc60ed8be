"""What a CA appends to its log.

Spec: Merkle Tree Certificates, "Log Entries".
"""

from dataclasses import dataclass
from datetime import datetime
from enum import IntEnum

from mtc.cert.x509 import Extension, encode_extensions, parse_extensions
from mtc.errors import FormatError, Reason, UsageError
from mtc.ids import DEFAULT_REVISION, DraftRevision, TrustAnchorID, parse_ca_name
from mtc.kernel import MAX_CERTIFICATE_BYTES, check_bit_string, check_entry_extensions
from mtc.merkle import Hasher
from mtc.wire import (
    DERReader,
    Reader,
    Tag,
    Writer,
    encode_explicit,
    encode_integer,
    encode_octet_string,
    encode_sequence,
    encode_time,
)

MAX_ENTRY_BYTES = 65535
"""Largest log entry, as an entry bundle carries it; a MUST from -06 on."""


def entry_limit(revision: DraftRevision) -> int:
    """Return the largest log entry in bytes that a relying party of this revision accepts a certificate for.

    Where the limit is a MUST, a larger entry is in no log that anybody could read. Before, only certificates have one.
    """
    return MAX_ENTRY_BYTES if revision.entry_limit_is_must else MAX_CERTIFICATE_BYTES


class EntryType(IntEnum):
    """Known types of log entry; others may come and are carried as they are."""

    NULL = 0
    TBS_CERT = 1


@dataclass(frozen=True, slots=True)
class EntryExtension:
    """One extension of a log entry: type 0x0000 to 0xFFFF, up to 65,535 bytes. No type is defined by the draft."""

    type: int
    data: bytes


def encode_entry_extensions(extensions: tuple[EntryExtension, ...]) -> bytes:
    """Return the extensions vector with its 2-byte length. Raises UsageError unless the types strictly ascend."""
    types = [extension.type for extension in extensions]
    if types != sorted(set(types)):
        raise UsageError(Reason.BAD_ORDER, "the types of entry extensions must strictly ascend")
    writer = Writer()
    for extension in extensions:
        writer.uint(extension.type, 2).vector(extension.data, 2)
    return Writer().vector(writer.encode(), 2).encode()


def parse_entry_extensions(vector: bytes) -> tuple[EntryExtension, ...]:
    """Return the extensions in the contents of an extensions vector. Raises FormatError."""
    check_entry_extensions(vector, 0, len(vector))
    reader = Reader(vector, "the entry extensions")
    extensions = []
    while reader.remaining:
        extensions.append(EntryExtension(reader.read_uint(2), reader.read_vector(2)))
    return tuple(extensions)


@dataclass(frozen=True, slots=True)
class TBSCertificateLogEntry:
    """What a CA certifies: a TBSCertificate without serial number and signature, and with the key's hash for the key.

    version: 0 for v1, 1 for v2, 2 for v3. issuer, subject: Name DER. validity: its SEQUENCE, DER.
    spki_algorithm: the AlgorithmIdentifier inside the SubjectPublicKeyInfo, DER, byte for byte. spki_hash: HASH of the
    whole SubjectPublicKeyInfo. tail: everything behind, that is the unique IDs and `[3]` extensions as they stand.
    Spec: Merkle Tree Certificates, "Log Entries".
    """

    version: int
    issuer: bytes
    validity: bytes
    subject: bytes
    spki_algorithm: bytes
    spki_hash: bytes
    tail: bytes

    @staticmethod
    def build(  # noqa: PLR0913 - the fields of a certificate
        *,
        hasher: Hasher,
        issuer: bytes,
        subject: bytes,
        spki: bytes,
        not_before: datetime,
        not_after: datetime,
        extensions: tuple[Extension, ...] = (),
    ) -> "TBSCertificateLogEntry":
        """Make a v3 entry for a public key (SPKI DER); issuer and subject are Name DER."""
        reader = DERReader(spki, "the public key")
        key = reader.enter(Tag.SEQUENCE)
        reader.finish()
        at = key.offset
        key.read_header(Tag.SEQUENCE)
        return TBSCertificateLogEntry(
            version=2,
            issuer=issuer,
            validity=encode_sequence(encode_time(not_before), encode_time(not_after)),
            subject=subject,
            spki_algorithm=spki[at : key.offset],
            spki_hash=hasher.digest(spki),
            tail=encode_explicit(3, encode_extensions(extensions)) if extensions else b"",
        )

    @staticmethod
    def parse(data: bytes) -> "TBSCertificateLogEntry":
        """Read the fields, which must fill `data`. Raises FormatError with reason and offset."""
        reader = DERReader(data, "the TBSCertificateLogEntry")
        version = 0
        if reader.peek_tag() == 0xA0:
            field = reader.enter(0xA0)
            version = field.read_integer()
            field.finish()
            if version not in (1, 2):
                raise FormatError(Reason.BAD_VERSION, "the log entry has a version other than 1 (v2) and 2 (v3)")
        issuer = reader.read_tlv(Tag.SEQUENCE)
        validity = reader.read_tlv(Tag.SEQUENCE)
        subject = reader.read_tlv(Tag.SEQUENCE)
        algorithm = reader.read_tlv(Tag.SEQUENCE)
        spki_hash = reader.read(Tag.OCTET_STRING)
        at = reader.offset
        _parse_validity(validity)
        entry = TBSCertificateLogEntry(version, issuer, validity, subject, algorithm, spki_hash, data[at:])
        _split_tail(entry.tail, version)
        return entry

    def encode_version(self) -> bytes:
        """Return the version field; nothing for v1, which is the default."""
        return encode_explicit(0, encode_integer(self.version)) if self.version else b""

    def encode(self) -> bytes:
        """Return the fields as they stand in a log entry: TLVs without a SEQUENCE around them."""
        return b"".join(
            (
                self.encode_version(),
                self.issuer,
                self.validity,
                self.subject,
                self.spki_algorithm,
                encode_octet_string(self.spki_hash),
                self.tail,
            )
        )

    @property
    def ca_id(self) -> TrustAnchorID:
        """The issuing CA. Raises FormatError when the issuer is no CA's name."""
        return parse_ca_name(self.issuer)[0]

    @property
    def not_before(self) -> datetime:
        """Start of validity, inclusive."""
        return _parse_validity(self.validity)[0]

    @property
    def not_after(self) -> datetime:
        """End of validity, inclusive."""
        return _parse_validity(self.validity)[1]

    @property
    def unique_ids(self) -> tuple[bytes | None, bytes | None]:
        """IssuerUniqueID and subjectUniqueID, contents of their TLVs."""
        return _split_tail(self.tail, self.version)[:2]

    @property
    def extensions(self) -> tuple[Extension, ...]:
        """The X.509 extensions."""
        return _split_tail(self.tail, self.version)[2]


def _parse_validity(validity: bytes) -> tuple[datetime, datetime]:
    """Return both times of a Validity SEQUENCE."""
    outer = DERReader(validity, "the validity")
    reader = outer.enter(Tag.SEQUENCE)
    outer.finish()
    times = reader.read_time(), reader.read_time()
    reader.finish()
    return times


def _split_tail(tail: bytes, version: int) -> tuple[bytes | None, bytes | None, tuple[Extension, ...]]:
    """Return both unique IDs and the extensions behind the public key's fields."""
    reader = DERReader(tail, "the end of the TBSCertificateLogEntry")
    unique = [reader.read(tag) if reader.peek_tag() == tag else None for tag in (0x81, 0x82)]
    for value in unique:
        if value is not None:
            check_bit_string(value, 0, len(value), 0)
    extensions: tuple[Extension, ...] = ()
    if reader.peek_tag() == 0xA3:
        field = reader.enter(0xA3)
        _, start, end = field.read_header(Tag.SEQUENCE)
        field.finish()
        extensions = parse_extensions(tail, start, end)
        if not extensions:
            raise FormatError(Reason.BAD_EXTENSION, "an extensions field holds at least one extension")
        if len({extension.oid for extension in extensions}) != len(extensions):
            raise FormatError(Reason.DUPLICATE_EXTENSION, "the log entry has the same extension twice")
    reader.finish()
    if (extensions and version != 2) or (version == 0 and unique != [None, None]):
        raise FormatError(Reason.BAD_VERSION, f"a v{version + 1} certificate cannot have these fields")
    return unique[0], unique[1], extensions


@dataclass(frozen=True, slots=True)
class LogEntry:
    """An MTCLogEntry: extensions, a type, and the type's body. Unknown types and extensions are carried as they are.

    Spec: Merkle Tree Certificates, "Log Entries".
    """

    type: int = EntryType.NULL
    body: bytes = b""
    extensions: tuple[EntryExtension, ...] = ()

    @staticmethod
    def of_certificate(entry: TBSCertificateLogEntry, extensions: tuple[EntryExtension, ...] = ()) -> "LogEntry":
        """Make the entry that certifies `entry`."""
        return LogEntry(EntryType.TBS_CERT, entry.encode(), extensions)

    @staticmethod
    def parse(data: bytes) -> "LogEntry":
        """Read an entry, body included. Raises FormatError with reason."""
        if len(data) > MAX_ENTRY_BYTES:
            raise FormatError(
                Reason.TOO_LARGE,
                f"a log entry has at most {MAX_ENTRY_BYTES} bytes, this one {len(data)}",
                got=len(data),
            )
        reader = Reader(data, "the log entry")
        extensions = parse_entry_extensions(reader.read_vector(2))
        kind = reader.read_uint(2)
        body = reader.read_rest()
        if kind == EntryType.NULL and body:
            raise FormatError(Reason.TRAILING_DATA, f"a null entry has no body, this one {len(body)} bytes")
        if kind == EntryType.TBS_CERT:
            TBSCertificateLogEntry.parse(body)
        return LogEntry(kind, body, extensions)

    def encode(self, revision: DraftRevision = DEFAULT_REVISION) -> bytes:
        """Return the entry's bytes. Raises UsageError above 65,535 bytes where the revision forbids that."""
        data = Writer().bytes(encode_entry_extensions(self.extensions)).uint(self.type, 2).bytes(self.body).encode()
        if len(data) > MAX_ENTRY_BYTES and revision.entry_limit_is_must:
            raise UsageError(
                Reason.TOO_LARGE,
                f"a log entry has at most {MAX_ENTRY_BYTES} bytes, this one {len(data)}",
                got=len(data),
            )
        return data

    @property
    def tbs_certificate(self) -> TBSCertificateLogEntry | None:
        """What is certified, or None for an entry of another type."""
        return TBSCertificateLogEntry.parse(self.body) if self.type == EntryType.TBS_CERT else None


def entry_hash(hasher: Hasher, entry: LogEntry, revision: DraftRevision = DEFAULT_REVISION) -> bytes:
    """Return the leaf hash of an entry: HASH(0x00 || entry)."""
    return hasher.leaf(entry.encode(revision))
