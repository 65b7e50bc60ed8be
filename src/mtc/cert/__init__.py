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
from mtc.cert.x509 import (
    Extension,
    encode_basic_constraints,
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
    "CACertificate",
    "Certificate",
    "CertificateAssembler",
    "CertificateChain",
    "CertificateFacts",
    "EntryExtension",
    "EntryType",
    "Extension",
    "LogEntry",
    "MTCProof",
    "PropertyList",
    "SerialRanges",
    "SubtreeSignature",
    "TBSCertificateLogEntry",
    "encode_basic_constraints",
    "encode_ca_certificate",
    "encode_extended_key_usage",
    "encode_extensions",
    "encode_key_usage",
    "encode_name",
    "encode_subject_alt_name",
    "entry_hash",
    "format_name",
    "identify_certificate",
    "issuer_format",
    "parse_certificate_chains",
    "parse_extensions",
]
