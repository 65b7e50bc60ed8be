"""Log entries, certificates and proofs, CA certificates, serial ranges and certificate properties.

Parsers give values that are well formed, not values that are trusted: trust is the business of `mtc.trust`.

Spec: Merkle Tree Certificates, "Log Entries", "Certificate Format", "Representing Certification Authorities"; TLS Trust
Anchor Identifiers, "Certificate Properties".
"""

from mtc.cert.ca import PREFIX_URL_OID, CACertificate, encode_ca_certificate
from mtc.cert.certificate import (
    Certificate,
    CertificateAssembler,
    CertificateFacts,
    identify_certificate,
    issuer_format,
)
from mtc.cert.crl import (
    REVOCATION_RANGES_OID,
    TBSCRL,
    RevocationReason,
    RevokedSerial,
    assemble_crl,
    encode_tbs_crl,
    parse_tbs_crl,
)
from mtc.cert.entry import (
    MAX_ENTRY_BYTES,
    EntryExtension,
    EntryType,
    LogEntry,
    TBSCertificateLogEntry,
    entry_hash,
)
from mtc.cert.proof import MTCProof, SubtreeSignature
from mtc.cert.properties import CertificateChain, PropertyList, parse_certificate_chains
from mtc.cert.ranges import SerialRanges
from mtc.cert.revocation import (
    CertificateRevocationList,
    RevocationList,
    VerifiedCRL,
    covers,
    verify_successor,
)
from mtc.cert.x509 import (
    Extension,
    encode_authority_key_identifier,
    encode_basic_constraints,
    encode_crl_distribution_points,
    encode_extended_key_usage,
    encode_extensions,
    encode_key_usage,
    encode_name,
    encode_subject_alt_name,
    format_name,
    parse_extensions,
)

__all__ = [
    "MAX_ENTRY_BYTES",
    "PREFIX_URL_OID",
    "REVOCATION_RANGES_OID",
    "TBSCRL",
    "CACertificate",
    "Certificate",
    "CertificateAssembler",
    "CertificateChain",
    "CertificateFacts",
    "CertificateRevocationList",
    "EntryExtension",
    "EntryType",
    "Extension",
    "LogEntry",
    "MTCProof",
    "PropertyList",
    "RevocationList",
    "RevocationReason",
    "RevokedSerial",
    "SerialRanges",
    "SubtreeSignature",
    "TBSCertificateLogEntry",
    "VerifiedCRL",
    "assemble_crl",
    "covers",
    "encode_authority_key_identifier",
    "encode_basic_constraints",
    "encode_ca_certificate",
    "encode_crl_distribution_points",
    "encode_extended_key_usage",
    "encode_extensions",
    "encode_key_usage",
    "encode_name",
    "encode_subject_alt_name",
    "encode_tbs_crl",
    "entry_hash",
    "format_name",
    "identify_certificate",
    "issuer_format",
    "parse_certificate_chains",
    "parse_extensions",
    "parse_tbs_crl",
    "verify_successor",
]
