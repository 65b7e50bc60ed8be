"""Verification of a Merkle Tree certificate, step by step.

The rules of trust, in the order they are applied; numbers are the steps of "Verifying Certificate Signatures":

- 1-3, 5-10  One pass of the kernel: the certificate is well formed, its issuer is a trusted CA of the right draft
  revision, its two signature algorithms are id-alg-mtcProof, the MTCProof parses, the serial number names an entry of a
  log, the entry rebuilt from the certificate hashes to a subtree hash by the inclusion proof. (1, 2 and 3 come in the
  order layout, issuer, algorithm, proof, serial number.)
- 4   The serial number is in no revoked range.
- 11  If the subtree is a trusted one that has not expired, its hash decides. A mismatch never falls back to signatures.
- 12  Otherwise the cosignatures must meet the CA's policy. Unknown and removed cosigners are ignored, and so are frozen
  ones behind their freeze point; a signature that fails counts as not there. Verification stops as soon as the policy
  is met.
- Then validity; and for a path: critical extensions, basicConstraints, keyUsage, extKeyUsage, and the name.

Spec: Merkle Tree Certificates, "Verifying Certificate Signatures"; RFC 5280, "Basic Path Validation".
"""

from bisect import bisect_right
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import IntEnum, StrEnum
from typing import TypeVar, cast

from mtc.cert import Certificate
from mtc.errors import Error, Reason, Rejected, SignatureError, UsageError
from mtc.ids import log_id
from mtc.kernel import ScanFields
from mtc.merkle import Subtree
from mtc.note import encode_subtree_message
from mtc.trust.names import ServerName
from mtc.trust.store import Cosigner, TrustedCA, TrustedSubtree, TrustStore
from mtc.wire import decode_oid


class Form(StrEnum):
    """How a certificate's verification succeeded; whether it carries signatures says nothing about it."""

    STANDALONE = "standalone"
    LANDMARK_RELATIVE = "landmark-relative"


class Purpose(IntEnum):
    """What the certificate's key is used for; the value is the kernel's flag of the extended key usage."""

    SERVER_AUTH = 1
    CLIENT_AUTH = 2


_ANY_PURPOSE = 4
_DIGITAL_SIGNATURE = 1


class VerifiedSignature:
    """A certificate whose "signature" and validity hold. Names and usages were not looked at; see `Verified`.

    der: the certificate. trusted_subtree: what decided in the landmark-relative form, None in the other. cosigners: in
    the standalone form, those whose signatures were verified, just enough for the policy. All else is read on demand.
    """

    __slots__ = ("_scan", "cosigners", "der", "trusted_subtree")

    def __init__(
        self,
        der: bytes,
        scan: ScanFields,
        trusted_subtree: TrustedSubtree | None,
        cosigners: tuple[Cosigner, ...],
    ) -> None:
        """Only the verifier makes one."""
        self.der = der
        self._scan = scan
        self.trusted_subtree = trusted_subtree
        self.cosigners = cosigners

    @property
    def form(self) -> Form:
        """How the verification succeeded."""
        return Form.STANDALONE if self.trusted_subtree is None else Form.LANDMARK_RELATIVE

    @property
    def ca(self) -> TrustedCA:
        """The CA that certified it."""
        return cast("TrustedCA", self._scan[0])

    @property
    def serial(self) -> int:
        """The serial number."""
        return self._scan[1]

    @property
    def log_number(self) -> int:
        """Number of the issuance log."""
        return self.serial >> 48

    @property
    def index(self) -> int:
        """Index of the entry in its log."""
        return self.serial & 0xFFFF_FFFF_FFFF

    @property
    def not_before(self) -> datetime:
        """Start of validity, inclusive."""
        return datetime.fromtimestamp(self._scan[2], UTC)

    @property
    def not_after(self) -> datetime:
        """End of validity, inclusive."""
        return datetime.fromtimestamp(self._scan[3], UTC)

    @property
    def subtree(self) -> Subtree:
        """The subtree that the proof leads to."""
        return Subtree(self._scan[4], self._scan[5])

    @property
    def subtree_hash(self) -> bytes:
        """Its hash, now trusted."""
        return self._scan[6]

    @property
    def entry_hash(self) -> bytes:
        """The leaf hash of the log entry."""
        return self._scan[7]

    @property
    def certificate(self) -> Certificate:
        """The certificate's fields; parsed anew on each access."""
        return Certificate.parse(self.der, self.ca.hash.size)

    def __repr__(self) -> str:
        """Name what was verified."""
        return f"{type(self).__name__}(ca={self.ca.ca_id}, log={self.log_number}, index={self.index}, form={self.form})"


_Kind = TypeVar("_Kind", bound=VerifiedSignature)


class Verified(VerifiedSignature):
    """A certificate that holds as an end-entity certificate for its purpose, and for a name if one was asked for."""

    __slots__ = ("name", "purpose")

    name: ServerName | None
    purpose: Purpose


def verify_signature(der: bytes, store: TrustStore, now: datetime) -> VerifiedSignature:
    """Verify the "signature" of a certificate and its validity at `now` (aware).

    This is not enough to let a server in: names, usages and critical extensions are `verify_certificate`'s business.
    Raises FormatError (bytes), ProofError, Rejected (policy); facts hold ca, log and index where they are known.
    Spec: Merkle Tree Certificates, "Verifying Certificate Signatures".
    """
    if now.tzinfo is None:
        raise _naive_time()
    return _judge(VerifiedSignature, der, store.scan(der), now.timestamp())


def verify_signatures(ders: Sequence[bytes], store: TrustStore, now: datetime) -> list[VerifiedSignature | Error]:
    """Verify many certificates as `verify_signature` does; an error stands in the place of its certificate."""
    if now.tzinfo is None:
        raise _naive_time()
    seconds = now.timestamp()
    results: list[VerifiedSignature | Error] = []
    for der, scan in zip(ders, store.scan_many(ders), strict=True):
        if isinstance(scan, Error):
            results.append(scan)
            continue
        try:
            results.append(_judge(VerifiedSignature, der, scan, seconds))
        except Error as error:
            results.append(error)
    return results


def verify_certificate(
    der: bytes,
    store: TrustStore,
    now: datetime,
    *,
    name: str | ServerName | None = None,
    purpose: Purpose = Purpose.SERVER_AUTH,
) -> Verified:
    """Verify an end-entity certificate: signature, validity at `now` (aware), usages, and `name` if one is given.

    name: the host name or IP address that the client asked for; without one any name is accepted, which only a caller
    that checks names itself wants. Raises as `verify_signature`, and Rejected for the rest; UsageError for a bad name.
    Absent extensions restrict nothing, except that a name needs a subjectAltName; the common name never counts.
    Spec: RFC 5280, "Basic Path Validation"; RFC 9525.
    """
    if now.tzinfo is None:
        raise _naive_time()
    wanted = ServerName.parse(name) if isinstance(name, str) else name
    return verify_certificate_at(der, store, now.timestamp(), wanted, purpose)


def verify_certificate_at(
    der: bytes, store: TrustStore, seconds: float, wanted: ServerName | None, purpose: Purpose = Purpose.SERVER_AUTH
) -> Verified:
    """Verify as `verify_certificate` does, in the midst of a handshake: without a detour over dates and text.

    seconds: POSIX time. wanted: the name; None accepts any.
    """
    scan = store.scan(der)
    verified = _judge(Verified, der, scan, seconds)
    _check_path(verified, scan, store, wanted, purpose)
    verified.name = wanted
    verified.purpose = purpose
    return verified


def _judge(kind: type[_Kind], der: bytes, scan: ScanFields, seconds: float) -> _Kind:
    """Apply steps 4, 11 and 12 and the validity to what the kernel found. seconds: POSIX time."""
    # Types are not told here by `cast`, which is a call as any other: this is the hot path.
    ca: TrustedCA
    ca, serial, not_before, not_after, start, end, root, _, _, _, _ = scan  # type: ignore[assignment]  # the owner is
    if bisect_right(ca.revoked_bounds, serial) & 1:
        raise _rejected(scan, Reason.REVOKED, f"serial number {serial} is in a revoked range")
    trusted = ca.subtree_index.get((serial >> 48, start, end))
    if trusted is not None and seconds < trusted.expires_at:
        if root != trusted.subtree_hash:
            raise _mismatch(scan, trusted)
        result = kind(der, scan, trusted, ())
    else:
        result = kind(der, scan, None, _verify_cosignatures(der, scan))
    # Times in certificates are whole seconds and inclusive: notAfter ends when its second does.
    if not_before <= seconds < not_after + 1:
        return result
    if seconds < not_before:
        raise _rejected(scan, Reason.NOT_YET_VALID, f"the certificate is valid from {_show(not_before)}")
    raise _rejected(scan, Reason.EXPIRED, f"the certificate expired after {_show(not_after)}")


def _verify_cosignatures(der: bytes, scan: ScanFields) -> tuple[Cosigner, ...]:
    """Return cosigners whose signatures over the subtree hold and meet the policy. Raises Rejected (POLICY_NOT_MET)."""
    ca = cast("TrustedCA", scan[0])
    serial, start, end = scan[1], scan[4], scan[5]
    log_number = serial >> 48
    present: list[tuple[Cosigner, bytes]] = []
    at = scan[10]
    while at < len(der):
        id_end = at + 1 + der[at]
        signature_start = id_end + 2
        stop = signature_start + int.from_bytes(der[id_end:signature_start], "big")
        cosigner = ca.cosigner_index.get(der[at + 1 : id_end])
        if cosigner is not None and cosigner.counts_for(log_number, end):
            present.append((cosigner, der[signature_start:stop]))
        at = stop
    quorum = ca.policy.quorum
    claimed = {cosigner.name for cosigner, _ in present}
    if not quorum.is_satisfied(claimed):
        raise _rejected(
            scan,
            Reason.POLICY_NOT_MET,
            f"the cosigner policy is not met, there is no cosignature of {quorum.missing(claimed)}",
        )
    subtree, subtree_hash, log = Subtree(start, end), scan[6], log_id(ca.ca_id, log_number)
    valid: list[Cosigner] = []
    names: set[str] = set()
    failed: list[str] = []
    for cosigner, signature in present:
        message = encode_subtree_message(cosigner.cosigner_id, log, subtree, subtree_hash)
        try:
            cosigner.key.verify(message, signature)
        except SignatureError:
            failed.append(cosigner.name)
            continue
        valid.append(cosigner)
        names.add(cosigner.name)
        if quorum.is_satisfied(names):
            return tuple(valid)
    raise _rejected(
        scan,
        Reason.POLICY_NOT_MET,
        f"the cosigner policy is not met: the signature of {', '.join(failed)} over {subtree} does not verify",
        failed=tuple(failed),
    )


def _check_path(
    verified: VerifiedSignature,
    scan: ScanFields,
    store: TrustStore,
    wanted: ServerName | None,
    purpose: Purpose,
) -> None:
    """Check what RFC 5280 and RFC 9525 ask of an end-entity certificate beyond signature and validity."""
    start, end = scan[8], scan[9]
    dns_names: list[bytes] | None = None
    if end:
        is_ca, key_usage, purposes, dns_names, ip_addresses, unknown = store.kernel.scan_extensions(
            verified.der, start, end
        )
        if unknown is not None:
            oid = decode_oid(unknown)
            raise _rejected(
                scan, Reason.UNKNOWN_CRITICAL_EXTENSION, f"critical extension {oid} is not known here", oid=oid
            )
        if is_ca:
            raise _rejected(scan, Reason.IS_A_CA, "a certificate with cA TRUE is no end-entity certificate")
        if key_usage is not None and not key_usage & _DIGITAL_SIGNATURE:
            raise _rejected(scan, Reason.WRONG_KEY_USAGE, "the key usage does not allow digital signatures")
        if purposes is not None and not purposes & (purpose | _ANY_PURPOSE):
            wants = "server" if purpose is Purpose.SERVER_AUTH else "client"
            raise _rejected(
                scan, Reason.WRONG_EXTENDED_KEY_USAGE, f"the extended key usage does not allow {wants} authentication"
            )
    if wanted is None:
        return
    if dns_names is None:
        raise _rejected(
            scan, Reason.NO_SUBJECT_ALT_NAME, "the certificate has no subjectAltName; the common name does not count"
        )
    if not wanted.is_in(dns_names, ip_addresses or ()):
        raise _rejected(scan, Reason.NAME_MISMATCH, f"the certificate is not for {wanted}", name=str(wanted))


def _rejected(scan: ScanFields, reason: Reason, message: str, **facts: object) -> Rejected:
    """Make the error for a certificate that was understood and refused."""
    ca, serial = cast("TrustedCA", scan[0]), scan[1]
    return Rejected(
        reason, message, **{"ca": str(ca.ca_id), "log": serial >> 48, "index": serial & 0xFFFF_FFFF_FFFF, **facts}
    )


def _mismatch(scan: ScanFields, trusted: TrustedSubtree) -> Rejected:
    """Make the error for a proof that leads to another hash of a trusted subtree."""
    return _rejected(
        scan,
        Reason.TRUSTED_SUBTREE_MISMATCH,
        f"the proof leads to another hash of trusted subtree {trusted.subtree}; signatures cannot mend that",
        expected=trusted.subtree_hash.hex(),
        got=scan[6].hex(),
    )


def _naive_time() -> UsageError:
    """Make the error for a time without a time zone."""
    return UsageError(Reason.USAGE, "`now` must be an aware datetime, for example datetime.now(UTC)")


def _show(seconds: int) -> str:
    """Write POSIX seconds for people."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"
