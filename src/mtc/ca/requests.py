"""What is asked of a CA, and the log entry that answers it. Pure: the time is an argument.

Spec: Merkle Tree Certificates, "Log Entries"; Chrome's draft Quantum-resistant Root Program policy 0.3.0, "Subscriber
certificates".
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from mtc.cert import (
    Extension,
    TBSCertificateLogEntry,
    encode_extended_key_usage,
    encode_key_usage,
    encode_name,
    encode_subject_alt_name,
)
from mtc.cert.x509 import (
    SERVER_AUTH_OID,
    SUBJECT_ALT_NAME_OID,
    encode_authority_key_identifier,
    encode_certificate_policies,
    encode_crl_distribution_points,
)
from mtc.errors import ConflictError, Reason, UsageError
from mtc.ids import DraftRevision, TrustAnchorID, encode_ca_name
from mtc.merkle import Hasher
from mtc.profile import Profile

DOMAIN_VALIDATED_OID = "2.23.140.1.2.1"
"""The certificate policy of domain-validated certificates of the Web, as the CA/Browser Forum assigned it."""
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuanceRequest:
    """What is to be certified.

    spki: the public key, DER. dns_names: ASCII. ip_addresses: text. lifetime: None for the profile's. not_before: None
    for now, less the profile's backdating. request_key: idempotency key, at most 255 bytes, empty for none; the same
    key gives the same entry, however often it comes, and must then ask for the same key and names. evidence_until:
    POSIX seconds after which the validation behind the request is too old to be signed, 0 for never. warnings: what
    was left out of a request on the way, for the answer.
    """

    spki: bytes
    dns_names: tuple[str, ...] = ()
    ip_addresses: tuple[str, ...] = ()
    lifetime: timedelta | None = None
    not_before: datetime | None = None
    request_key: bytes = b""
    evidence_until: int = 0
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class EntryRules:
    """How one CA makes log entries. crl_url: where its CRL is, None when that is nowhere."""

    ca_id: TrustAnchorID
    revision: DraftRevision
    profile: Profile
    hasher: Hasher
    crl_url: str | None = None
    _issuer: bytes = field(init=False, repr=False)
    _before: tuple[Extension, ...] = field(init=False, repr=False)
    _after: tuple[Extension, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        """Encode once what all entries of the CA have in common."""
        after = [encode_authority_key_identifier(self.ca_id.binary)]
        if self.profile.is_public:
            after.append(encode_certificate_policies(DOMAIN_VALIDATED_OID))
        object.__setattr__(self, "_issuer", encode_ca_name(self.ca_id, self.revision))
        object.__setattr__(
            self, "_before", (encode_key_usage("digitalSignature"), encode_extended_key_usage(SERVER_AUTH_OID))
        )
        object.__setattr__(self, "_after", tuple(after))

    def validity(self, request: IssuanceRequest, now: datetime) -> tuple[datetime, datetime]:
        """Return notBefore and notAfter of a request. Both are inclusive: seven days end a second earlier.

        Raises UsageError for a lifetime that is none.
        """
        lifetime = self.profile.default_lifetime if request.lifetime is None else request.lifetime
        if lifetime < _SECOND:
            raise UsageError(Reason.USAGE, "a certificate lives at least one second")
        not_before = request.not_before
        if not_before is None:
            not_before = now.replace(microsecond=0) - self.profile.backdating
        return not_before, not_before + lifetime - _SECOND

    def build(self, request: IssuanceRequest, not_before: datetime, not_after: datetime) -> TBSCertificateLogEntry:
        """Return what the log entry of a request certifies. Raises UsageError for names that cannot be encoded."""
        extensions = (
            *self._before,
            encode_subject_alt_name(request.dns_names, request.ip_addresses, is_critical=True),
            *self._after,
        )
        lifetime = not_after - not_before + _SECOND
        if lifetime > self.profile.crl_pointer_above and self.crl_url is not None:
            extensions = (*extensions, encode_crl_distribution_points(self.crl_url))
        return TBSCertificateLogEntry.build(
            hasher=self.hasher,
            issuer=self._issuer,
            subject=encode_name(),
            spki=request.spki,
            not_before=not_before,
            not_after=not_after,
            extensions=extensions,
        )


def check_same_request(logged: TBSCertificateLogEntry, asked: TBSCertificateLogEntry, index: int) -> None:
    """Raise ConflictError unless an entry that a request key stands for certifies what is asked for now.

    The public key, the names and the length of the validity must be the same; the time at which it begins is that of
    the first request.
    """
    if (
        logged.spki_hash != asked.spki_hash
        or _names(logged.extensions) != _names(asked.extensions)
        or logged.not_after - logged.not_before != asked.not_after - asked.not_before
    ):
        raise ConflictError(
            Reason.CONFLICT,
            f"the request key stands for entry {index}, which certifies something else; use a new key",
            index=index,
        )


def _names(extensions: Sequence[Extension]) -> bytes:
    """Return the subjectAltName's value."""
    return next((extension.value for extension in extensions if extension.oid == SUBJECT_ALT_NAME_OID), b"")
