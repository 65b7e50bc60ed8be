"""What a relying party may take from a revocation list, and which list may follow another.

A list as it is fetched is a `CertificateRevocationList`. Verified, it is a `VerifiedCRL` or a `RevocationList`, by
kind; `verify_successor` guards the step from one revocation list to the next.

Spec: RFC 5280, "CRL Validation"; Merkle Tree Certificates, "Revoked Ranges".
"""

from bisect import bisect_left
from dataclasses import dataclass
from datetime import datetime

from mtc.cert.crl import MAX_CRL_BYTES, TBSCRL, RevokedSerial, parse_tbs_crl
from mtc.cert.ranges import SerialRanges
from mtc.crypto import Verifier
from mtc.errors import FormatError, Reason, Rejected
from mtc.wire import DERReader, Tag


@dataclass(frozen=True, slots=True)
class VerifiedCRL:
    """A plain CRL that its CA signed and that is valid at the moment it was verified for.

    It names single serial numbers and is no complete account of what is revoked: large ranges are not in it, or only in
    part. Who can read the MTC revocation list relies on that one.
    """

    tbs: TBSCRL

    def find(self, serial: int) -> RevokedSerial | None:
        """Return the line of a serial number, None when there is none."""
        at = bisect_left(self.tbs.serials, serial, key=lambda item: item.serial)
        if at < len(self.tbs.serials) and self.tbs.serials[at].serial == serial:
            return self.tbs.serials[at]
        return None


@dataclass(frozen=True, slots=True)
class RevocationList:
    """An MTC revocation list that its CA signed and that is valid at the moment it was verified for.

    number: its version. revoked: every serial number that it revokes, those below min_serial included.
    """

    tbs: TBSCRL
    number: int
    min_serial: int
    revoked: SerialRanges


@dataclass(frozen=True, slots=True)
class CertificateRevocationList:
    """A list as it is served: well formed, and not trusted before it is verified."""

    der: bytes
    message: bytes
    """The TBSCertList, DER, which is what the signature covers."""
    tbs: TBSCRL
    signature: bytes

    @staticmethod
    def parse(der: bytes) -> "CertificateRevocationList":
        """Read a list of either kind, whole. Raises FormatError."""
        if len(der) > MAX_CRL_BYTES:
            raise FormatError(Reason.TOO_LARGE, f"a revocation list has at most {MAX_CRL_BYTES} bytes, not {len(der)}")
        outer = DERReader(der, "the revocation list")
        reader = outer.enter(Tag.SEQUENCE)
        outer.finish()
        message = reader.read_tlv(Tag.SEQUENCE)
        algorithm = reader.read_tlv(Tag.SEQUENCE)
        signature = reader.read_bit_string()
        reader.finish()
        tbs = parse_tbs_crl(message)
        if algorithm != tbs.algorithm:
            raise FormatError(Reason.ALGORITHM_MISMATCH, "the revocation list's two signature algorithms differ")
        return CertificateRevocationList(der, message, tbs, signature)

    def verify(self, verifier: Verifier, issuer: bytes, now: datetime) -> VerifiedCRL | RevocationList:
        """Return what the list proves at `now`, a plain CRL or ranges.

        verifier: the CA cosigner's key. issuer: the CA's name, DER. Raises Rejected (UNKNOWN_CA, ALGORITHM_MISMATCH,
        NOT_YET_VALID, EXPIRED) or SignatureError.
        """
        proven = self.verify_signature(verifier, issuer)
        if now < self.tbs.this_update:
            raise Rejected(
                Reason.NOT_YET_VALID, f"the revocation list begins at {self.tbs.this_update:%Y-%m-%dT%H:%M:%SZ}"
            )
        if now > self.tbs.next_update:
            raise Rejected(
                Reason.EXPIRED,
                f"the revocation list ended at {self.tbs.next_update:%Y-%m-%dT%H:%M:%SZ}; fetch the next one",
            )
        return proven

    def verify_signature(self, verifier: Verifier, issuer: bytes) -> VerifiedCRL | RevocationList:
        """Return what the CA once signed, valid or long expired: evidence for audits, nothing to rely on now.

        Raises as `verify` does, except for the times.
        """
        tbs = self.tbs
        if tbs.issuer != issuer:
            raise Rejected(Reason.UNKNOWN_CA, f"the revocation list is of CA {tbs.ca_id}, or of another draft")
        if tbs.algorithm != verifier.algorithm.identifier:
            raise Rejected(Reason.ALGORITHM_MISMATCH, "the revocation list is signed with another algorithm")
        verifier.verify(self.message, self.signature)
        if tbs.ranges is None or tbs.min_serial is None:
            return VerifiedCRL(tbs)
        return RevocationList(tbs, tbs.number, tbs.min_serial, tbs.ranges | SerialRanges([(0, tbs.min_serial)]))


def covers(new: SerialRanges, old: SerialRanges) -> bool:
    """Tell whether `new` holds every serial number that `old` holds."""
    return new | old == new


def verify_successor(old: RevocationList, new: RevocationList) -> RevocationList:
    """Return the list that counts from now on, when `old` is held and `new` was fetched; the same one may come again.

    Relying parties and monitors call it: a CA that revokes less than it did is to be reported. Raises Rejected:
    UNKNOWN_CA for lists of two CAs, SUPERSEDED for one that is older than the one held, REVOCATION_SHRUNK for one that
    revokes less, EQUIVOCATION for another list with the same number. Keep `old` then, together with the evidence.
    """
    if new.tbs.issuer != old.tbs.issuer:
        raise Rejected(Reason.UNKNOWN_CA, f"the list held is of CA {old.tbs.ca_id}, the new one of {new.tbs.ca_id}")
    held = f"the list held of CA {old.tbs.ca_id} has number {old.number}"
    if new.number < old.number:
        raise Rejected(Reason.SUPERSEDED, f"{held}, this one is older with number {new.number}")
    if new.number == old.number and new.tbs != old.tbs:
        raise Rejected(Reason.EQUIVOCATION, f"{held}, and another list has the same one: the CA signed both")
    if new.tbs.this_update < old.tbs.this_update:
        raise Rejected(Reason.SUPERSEDED, f"{held}, number {new.number} begins earlier")
    if new.min_serial < old.min_serial or not covers(new.revoked, old.revoked):
        raise Rejected(Reason.REVOCATION_SHRUNK, f"{held}, number {new.number} revokes less: revoking is for ever")
    return new
