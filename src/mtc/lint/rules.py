"""The numbers and switches of one CA's lint.

Spec: CA/Browser Forum Baseline Requirements 2.2.6, 6.3.2 and 7.1.2.7; Chrome's draft Quantum-resistant Root Program
policy 0.3.0, "Subscriber certificates".
"""

from dataclasses import dataclass, field
from datetime import timedelta

from mtc.cert.x509 import (
    AUTHORITY_KEY_ID_OID,
    BASIC_CONSTRAINTS_OID,
    CERTIFICATE_POLICIES_OID,
    CLIENT_AUTH_OID,
    CRL_DISTRIBUTION_POINTS_OID,
    EXTENDED_KEY_USAGE_OID,
    KEY_USAGE_OID,
    SERVER_AUTH_OID,
    SUBJECT_ALT_NAME_OID,
    SUBJECT_KEY_ID_OID,
)
from mtc.crypto import parse_hash_algorithm
from mtc.crypto.strength import KeyType
from mtc.errors import Reason, UsageError
from mtc.ids import DEFAULT_REVISION, DraftRevision, TrustAnchorID, encode_ca_name
from mtc.kernel import active_kernel
from mtc.merkle import Hasher
from mtc.wire import encode_sequence, encode_tlv

ISSUER_ALT_NAME_OID = "2.5.29.18"
SCT_LIST_OID = "1.3.6.1.4.1.11129.2.4.2"
DOMAIN_VALIDATED_OID = "2.23.140.1.2.1"
"""The policy of domain-validated certificates of the Web, as the CA/Browser Forum assigned it."""

MAX_RSA_BITS = 16384
"""Largest RSA modulus that rules may allow: OpenSSL verifies nothing above, and the work here stays in milliseconds."""
_DAY = timedelta(days=1)
_EXTENSIONS = frozenset(
    {
        KEY_USAGE_OID,
        EXTENDED_KEY_USAGE_OID,
        SUBJECT_ALT_NAME_OID,
        BASIC_CONSTRAINTS_OID,
        CERTIFICATE_POLICIES_OID,
        AUTHORITY_KEY_ID_OID,
        CRL_DISTRIBUTION_POINTS_OID,
        ISSUER_ALT_NAME_OID,
    }
)
_WEB_KEYS = frozenset(KeyType) - {KeyType.ED25519}


@dataclass(frozen=True, slots=True, kw_only=True)
class LintRules:
    """What one CA may log. Durations are timedeltas; a lifetime counts both ends.

    is_public: the column of the table of rules that holds. hash_name: of the log. crl_pointer_above: certificates that
    live longer must name a CRL; None for never. key_types, min_rsa_bits, max_rsa_bits: keys that may be certified.
    blocked_keys: SHA-256 of the SubjectPublicKeyInfo of keys that may not, for example those of Debian's flaw or of the
    CA itself. allowed_extensions, allowed_purposes: dotted OIDs. policies: exactly what certificatePolicies asserts
    where there must be one. max_names: in one entry. room: bytes kept free for extensions that the log adds to entries.
    top_level_domains: the root zone, lower case, and public_suffixes: names that no wildcard may stand before; empty
    means that nobody has the list, and that this is not checked.
    """

    ca_id: TrustAnchorID
    revision: DraftRevision = DEFAULT_REVISION
    is_public: bool
    hash_name: str = "sha256"
    max_lifetime: timedelta
    max_backdating: timedelta = 2 * _DAY
    max_future: timedelta = 2 * _DAY
    crl_pointer_above: timedelta | None = None
    key_types: frozenset[KeyType] = frozenset(KeyType)
    min_rsa_bits: int = 2048
    max_rsa_bits: int = 8192
    blocked_keys: frozenset[bytes] = frozenset()
    allowed_extensions: frozenset[str] = _EXTENSIONS
    allowed_purposes: frozenset[str] = frozenset({SERVER_AUTH_OID})
    policies: frozenset[str] = frozenset({DOMAIN_VALIDATED_OID})
    max_names: int = 100
    room: int = 16
    top_level_domains: frozenset[str] = frozenset()
    public_suffixes: frozenset[str] = frozenset()
    issuer: bytes = field(init=False, repr=False)
    authority_key_id: bytes = field(init=False, repr=False)
    hasher: Hasher = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Refuse what no CA can want, and encode once what all entries of the CA share."""
        if self.max_rsa_bits > MAX_RSA_BITS:
            raise UsageError(Reason.USAGE, f"max_rsa_bits is at most {MAX_RSA_BITS}", got=self.max_rsa_bits)
        name = parse_hash_algorithm(self.hash_name).name
        object.__setattr__(self, "issuer", encode_ca_name(self.ca_id, self.revision))
        object.__setattr__(self, "authority_key_id", encode_sequence(encode_tlv(0x80, self.ca_id.binary)))
        object.__setattr__(self, "hasher", active_kernel().hasher(name))

    @staticmethod
    def web_pki(ca_id: TrustAnchorID, revision: DraftRevision = DEFAULT_REVISION) -> "LintRules":
        """Return the rules for certificates of the Web: domain-validated, at most seven days, servers only.

        Spec: Chrome's draft Quantum-resistant Root Program policy 0.3.0, "Subscriber certificates".
        """
        return LintRules(
            ca_id=ca_id,
            revision=revision,
            is_public=True,
            max_lifetime=7 * _DAY,
            crl_pointer_above=7 * _DAY,
            key_types=_WEB_KEYS,
        )

    @staticmethod
    def private(ca_id: TrustAnchorID, revision: DraftRevision = DEFAULT_REVISION) -> "LintRules":
        """Return the rules for one organisation: internal names, clients and servers, Ed25519, at most 90 days."""
        return LintRules(
            ca_id=ca_id,
            revision=revision,
            is_public=False,
            max_lifetime=90 * _DAY,
            allowed_extensions=_EXTENSIONS | {SUBJECT_KEY_ID_OID},
            allowed_purposes=frozenset({SERVER_AUTH_OID, CLIENT_AUTH_OID}),
            max_names=1000,
        )
