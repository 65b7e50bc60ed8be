"""The relying party: whom it trusts, and how it verifies a certificate.

Unverified is bytes, verified is a type: `verify_signature` and `verify_certificate` take the DER of a certificate and
return a `VerifiedSignature` or a `Verified`, or raise. Nothing returns a boolean. A `TrustStore` is an immutable
snapshot; `now` is always an argument.

Spec: Merkle Tree Certificates, "Relying Parties"; RFC 5280, "Certification Path Validation"; RFC 9525 for names.
"""

from mtc.trust.document import format_trust_store, parse_trust_store
from mtc.trust.names import ServerName
from mtc.trust.schema import TRUST_STORE_SCHEMA
from mtc.trust.store import (
    Cosigner,
    CosignerPolicy,
    CosignerState,
    FreezePoint,
    TrustedCA,
    TrustedSubtree,
    TrustStore,
    trusted_ca_from_certificate,
)
from mtc.trust.verify import (
    Form,
    Purpose,
    Verified,
    VerifiedSignature,
    verify_certificate,
    verify_certificate_at,
    verify_signature,
    verify_signatures,
)

__all__ = [
    "TRUST_STORE_SCHEMA",
    "Cosigner",
    "CosignerPolicy",
    "CosignerState",
    "Form",
    "FreezePoint",
    "Purpose",
    "ServerName",
    "TrustStore",
    "TrustedCA",
    "TrustedSubtree",
    "Verified",
    "VerifiedSignature",
    "format_trust_store",
    "parse_trust_store",
    "trusted_ca_from_certificate",
    "verify_certificate",
    "verify_certificate_at",
    "verify_signature",
    "verify_signatures",
]
