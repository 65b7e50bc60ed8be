"""Merkle Tree certificates, read and written.

Spec: Merkle Tree Certificates, "Certificate Format".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property

from mtc.cert.entry import EntryType, LogEntry, TBSCertificateLogEntry, encode_entry_extensions, entry_limit
from mtc.cert.proof import MTCProof, SubtreeSignature
from mtc.cert.x509 import Extension, assemble_certificate, parse_extensions
from mtc.errors import Error, FormatError, Reason, Rejected, UsageError
from mtc.ids import DEFAULT_REVISION, REVISIONS, DraftRevision, TrustAnchorID, parse_ca_name, revision_of, split_serial
from mtc.kernel import CertificateLayout, IssuerFormat, entry_size, parse_layout
from mtc.merkle import Hasher, Subtree
from mtc.wire import DERReader, Tag, encode_integer, encode_sequence


@dataclass(frozen=True, slots=True)
class CertificateFacts:
    """What can be said of a certificate without believing it; None where it cannot be read."""

    ca_id: TrustAnchorID | None = None
    log_number: int | None = None
    index: int | None = None


def issuer_format(revision: DraftRevision, hash_name: str, owner: object) -> IssuerFormat:
    """Describe the certificates of a CA of that revision to a kernel's scanner; `owner` comes back in `Scan.owner`."""
    return IssuerFormat(
        revision.proof_algorithm,
        revision.signatures_width,
        revision.id_limit,
        entry_limit(revision),
        hash_name,
        owner,
    )


def identify_certificate(der: bytes) -> CertificateFacts:
    """Return what issuer and serial number claim. Never raises: what cannot be read is None."""
    try:
        layout = parse_layout(der)
    except FormatError:
        return CertificateFacts()
    ca_id: TrustAnchorID | None = None
    try:
        ca_id = parse_ca_name(der[layout.issuer_start : layout.issuer_end])[0]
        serial = int.from_bytes(der[layout.serial_start : layout.serial_end], "big", signed=True)
        log_number, index = split_serial(serial)
    except FormatError:
        return CertificateFacts(ca_id)
    return CertificateFacts(ca_id, log_number, index)


@dataclass(frozen=True)
class Certificate:
    """A well-formed Merkle Tree certificate. Nothing here is verified; `mtc.trust` does that.

    der: the whole certificate. layout: where its parts lie. revisions: the draft revisions whose certificates have this
    form, oldest first (-04 and -05 look alike). proof: the MTCProof. Certificates are identified by `tbs`, never by
    `der`: anyone may change the proof's signatures.
    """

    der: bytes
    layout: CertificateLayout
    revisions: tuple[DraftRevision, ...]
    proof: MTCProof
    ca_id: TrustAnchorID

    @staticmethod
    def parse(der: bytes, hash_size: int = 32) -> "Certificate":
        """Read a certificate. Raises FormatError, or Rejected (NOT_MTC, DRAFT_MISMATCH) when it is none of ours."""
        layout = parse_layout(der)
        algorithm = der[layout.signature_start : layout.signature_end]
        proof_oid = _algorithm_oid(algorithm)
        ca_id, name_oid = _issuer(der[layout.issuer_start : layout.issuer_end], proof_oid)
        revisions = revision_of(proof_oid, name_oid)
        if all(revision.proof_oid != proof_oid for revision in REVISIONS.values()):
            raise Rejected(Reason.NOT_MTC, f"the signature algorithm {proof_oid} is not id-alg-mtcProof", oid=proof_oid)
        if not revisions:
            raise Rejected(
                Reason.DRAFT_MISMATCH,
                f"the certificate mixes draft revisions: signature algorithm {proof_oid}, CA name {name_oid}",
                oid=proof_oid,
            )
        revision = revisions[-1]
        if algorithm != revision.proof_algorithm:
            raise Rejected(Reason.NOT_MTC, "the signature algorithm id-alg-mtcProof must have no parameters")
        if der[layout.outer_signature_start : layout.outer_signature_end] != algorithm:
            raise FormatError(
                Reason.ALGORITHM_MISMATCH,
                "the certificate's two signature algorithms differ",
                offset=layout.outer_signature_start,
            )
        if layout.value_start == layout.value_end or der[layout.value_start]:
            raise FormatError(
                Reason.BAD_BIT_STRING, "the MTCProof's bit string has unused bits", offset=layout.value_start
            )
        proof = MTCProof.parse_within(der, layout.value_start + 1, layout.value_end, revision, hash_size)
        certificate = Certificate(der, layout, revisions, proof, ca_id)
        split_serial(certificate.serial)
        size = entry_size(layout, len(encode_entry_extensions(proof.extensions)), hash_size)
        if size > entry_limit(revision):
            raise FormatError(
                Reason.TOO_LARGE, f"the certificate's log entry has {size} bytes, no log holds it", got=size
            )
        return certificate

    @staticmethod
    def build(
        entry: TBSCertificateLogEntry,
        spki: bytes,
        serial: int,
        proof: MTCProof,
        revision: DraftRevision = DEFAULT_REVISION,
    ) -> bytes:
        """Return the DER of the certificate for a log entry: its fields, the key itself, the serial, and the proof."""
        algorithm = revision.proof_algorithm
        tbs = encode_sequence(
            entry.encode_version(),
            encode_integer(serial),
            algorithm,
            entry.issuer,
            entry.validity,
            entry.subject,
            spki,
            entry.tail,
        )
        return assemble_certificate(tbs, algorithm, proof.encode(revision))

    @property
    def revision(self) -> DraftRevision:
        """The newest revision whose certificates have this form."""
        return self.revisions[-1]

    @property
    def tbs(self) -> bytes:
        """The TBSCertificate, DER: what identifies the certificate."""
        return self.der[self.layout.tbs_start : self.layout.tbs_end]

    @cached_property
    def serial(self) -> int:
        """The serial number."""
        return int.from_bytes(self.der[self.layout.serial_start : self.layout.serial_end], "big", signed=True)

    @property
    def log_number(self) -> int:
        """Number of the issuance log."""
        return split_serial(self.serial)[0]

    @property
    def index(self) -> int:
        """Index of the entry in its log."""
        return split_serial(self.serial)[1]

    @property
    def issuer(self) -> bytes:
        """The issuer's Name, DER."""
        return self.der[self.layout.issuer_start : self.layout.issuer_end]

    @property
    def subject(self) -> bytes:
        """The subject's Name, DER."""
        return self.der[self.layout.subject_start : self.layout.spki_start]

    @property
    def spki(self) -> bytes:
        """SubjectPublicKeyInfo, DER."""
        return self.der[self.layout.spki_start : self.layout.spki_end]

    @property
    def not_before(self) -> datetime:
        """Start of validity, inclusive."""
        return datetime.fromtimestamp(self.layout.not_before, UTC)

    @property
    def not_after(self) -> datetime:
        """End of validity, inclusive."""
        return datetime.fromtimestamp(self.layout.not_after, UTC)

    @cached_property
    def extensions(self) -> tuple[Extension, ...]:
        """The X.509 extensions."""
        return parse_extensions(self.der, self.layout.extensions_start, self.layout.extensions_end)

    def log_entry(self, hasher: Hasher) -> LogEntry:
        """Return the log entry that this certificate claims, rebuilt from its fields and the proof's extensions."""
        der, layout = self.der, self.layout
        entry = TBSCertificateLogEntry(
            version=layout.version,
            issuer=self.issuer,
            validity=der[layout.issuer_end : layout.subject_start],
            subject=self.subject,
            spki_algorithm=der[layout.spki_algorithm_start : layout.spki_algorithm_end],
            spki_hash=hasher.digest(self.spki),
            tail=der[layout.spki_end : layout.tbs_end],
        )
        return LogEntry.of_certificate(entry, self.proof.extensions)

    def with_proof(self, proof: MTCProof) -> bytes:
        """Return the DER of the same certificate with another proof, for example another subtree or more cosigners."""
        return assemble_certificate(self.tbs, self.revision.proof_algorithm, proof.encode(self.revision))


class CertificateAssembler:
    """Makes the certificates of many entries of one subtree straight from the bytes of the entries.

    What `Certificate.build` makes field by field, byte for byte, at a fraction of its cost: an entry is cut in four
    places and not parsed. So it must be a certificate entry that the CA made, as a tree that is believed holds it.
    """

    __slots__ = ("_algorithm", "_hasher", "_head", "_signatures")

    def __init__(
        self,
        hasher: Hasher,
        subtree: Subtree,
        signatures: Sequence[SubtreeSignature] = (),
        revision: DraftRevision = DEFAULT_REVISION,
    ) -> None:
        """Encode once what all proofs have in common: the subtree, and the cosignatures over it, in any order."""
        # An MTCProof without extensions and hashes is: 2 bytes, the subtree in 12, 2 bytes, the signatures.
        common = MTCProof(subtree, ()).with_signatures(*signatures).encode(revision)
        self._head, self._signatures = common[2:14], common[16:]
        self._algorithm = revision.proof_algorithm
        self._hasher = hasher

    def assemble(self, entry: bytes, spki: bytes, serial: int, inclusion_proof: bytes) -> bytes:
        """Return the DER of the certificate of an encoded entry. inclusion_proof: its hashes as one row.

        Raises UsageError when the public key (SPKI DER) is not the one that the entry certifies, or the entry certifies
        nothing; FormatError when it is cut off.
        """
        extensions_end = 2 + int.from_bytes(entry[:2], "big")
        fields = extensions_end + 2
        if entry[extensions_end:fields] != _CERTIFICATE_TYPE:
            raise UsageError(Reason.BAD_ENTRY_TYPE, "the log entry is no certificate's, so it has no certificate")
        version_end = _skip(entry, fields) if entry[fields : fields + 1] == b"\xa0" else fields
        algorithm_start = _skip(entry, _skip(entry, _skip(entry, version_end)))
        hash_start = _skip(entry, algorithm_start)
        tail = _skip(entry, hash_start)
        # The hash stands behind a header of two bytes; no hash here is longer than 127.
        if entry[hash_start + 2 : tail] != self._hasher.digest(spki) or not spki.startswith(
            entry[algorithm_start:hash_start], 2 + (spki[1] & 0x7F if spki[1] & 0x80 else 0)
        ):
            raise UsageError(Reason.BAD_KEY, "the public key is not the one that the log entry certifies")
        algorithm = self._algorithm
        tbs = encode_sequence(
            entry[fields:version_end],
            encode_integer(serial),
            algorithm,
            entry[version_end:algorithm_start],
            spki,
            entry[tail:],
        )
        proof = b"".join(
            (
                entry[:extensions_end],
                self._head,
                len(inclusion_proof).to_bytes(2, "big"),
                inclusion_proof,
                self._signatures,
            )
        )
        return assemble_certificate(tbs, algorithm, proof)


_CERTIFICATE_TYPE = EntryType.TBS_CERT.to_bytes(2, "big")


def _skip(data: bytes, at: int) -> int:
    """Return where the TLV at `at` ends. Raises FormatError (TRUNCATED) when that is behind the data."""
    try:
        end = at + 2 + data[at + 1]
        if data[at + 1] & 0x80:
            start = end - 0x80
            end = start + int.from_bytes(data[at + 2 : start], "big")
    except IndexError:
        end = len(data) + 1
    if end > len(data):
        raise FormatError(Reason.TRUNCATED, f"the log entry ends inside the value at byte {at}", offset=at)
    return end


def _algorithm_oid(algorithm: bytes) -> str:
    """Return the OID of an AlgorithmIdentifier."""
    return DERReader(algorithm, "the signature algorithm").enter(Tag.SEQUENCE).read_oid()


def _issuer(name: bytes, proof_oid: str) -> tuple[TrustAnchorID, str]:
    """Return the CA ID and attribute OID of an issuer; an issuer that is no CA means an ordinary certificate."""
    try:
        return parse_ca_name(name)
    except Error as error:
        raise Rejected(Reason.NOT_MTC, f"this is no Merkle Tree certificate: {error.message}", oid=proof_oid) from None
