"""Whom a relying party trusts: CAs, their cosigners and policy, landmark subtrees, and what is revoked.

Spec: Merkle Tree Certificates, "Relying Party Configuration", "Cosigner Policies", "Trusted Subtrees", "Revoked
Ranges".
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from math import inf

from mtc.cert import CACertificate, SerialRanges, issuer_format
from mtc.crypto import HASH_ALGORITHMS, HashAlgorithm, Verifier
from mtc.errors import Error, FormatError, Reason
from mtc.ids import MAX_LOG_NUMBER, DraftRevision, TrustAnchorID, encode_ca_name
from mtc.kernel import Kernel, ScanFields, active_kernel
from mtc.merkle import MAX_TREE_SIZE, Subtree
from mtc.note import Quorum
from mtc.note.cosigned_message import MAX_NAME_BYTES


class CosignerState(StrEnum):
    """How much a cosigner's signatures count."""

    USABLE = "usable"
    FROZEN = "frozen"
    """Only signatures over what lies before the freeze point count."""
    REMOVED = "removed"
    """No signature counts, not even an old one."""


@dataclass(frozen=True, slots=True, order=True)
class FreezePoint:
    """The last state of a CA's logs for which a frozen cosigner's signatures count.

    They count for subtrees of earlier logs, and for subtrees of log `log_number` that end at or before `tree_size`.
    """

    log_number: int
    tree_size: int


@dataclass(frozen=True, slots=True)
class Cosigner:
    """One cosigner: an ID that fixes key and algorithm. frozen_at: given exactly when the state is FROZEN."""

    cosigner_id: TrustAnchorID
    key: Verifier
    state: CosignerState = CosignerState.USABLE
    frozen_at: FreezePoint | None = None
    name: str = field(init=False)
    """The ID's text, as policies name it."""

    def __post_init__(self) -> None:
        """Refuse a freeze point without freezing, the other way round, and a name that no signed message can hold."""
        object.__setattr__(self, "name", str(self.cosigner_id))
        if len(self.cosigner_id.oid_name) > MAX_NAME_BYTES:
            raise FormatError(
                Reason.BAD_TRUST_ANCHOR_ID,
                f"cosigner {self.name[:80]}… cannot sign: its name has more than {MAX_NAME_BYTES} characters",
            )
        if (self.state is CosignerState.FROZEN) != (self.frozen_at is not None):
            raise FormatError(
                Reason.BAD_POLICY, f"cosigner {self.name} is frozen exactly when it has a tree size to be frozen at"
            )

    def counts_for(self, log_number: int, end: int) -> bool:
        """Tell whether its signature over a subtree of that log with that end counts."""
        if self.frozen_at is not None:
            return (log_number, end) <= (self.frozen_at.log_number, self.frozen_at.tree_size)
        return self.state is CosignerState.USABLE


@dataclass(frozen=True, slots=True)
class CosignerPolicy:
    """Whose cosignatures a standalone certificate needs: all of `require`, and `at_least` of `of`.

    A policy that requires nobody is refused with FormatError (BAD_POLICY), as is one that nobody can meet. Requiring
    the CA cosigner alone is legal where transparency is not enforced.
    Spec: Merkle Tree Certificates, "Cosigner Policies".
    """

    require: tuple[TrustAnchorID, ...] = ()
    of: tuple[TrustAnchorID, ...] = ()
    at_least: int = 0
    quorum: Quorum = field(init=False, compare=False)
    """The same as a tree for the one evaluator of quorums; members are ID texts."""

    def __post_init__(self) -> None:
        """Check the numbers and build the tree."""
        if not 0 <= self.at_least <= len(self.of):
            raise FormatError(
                Reason.BAD_POLICY, f"a quorum of at least {self.at_least} cannot be met by {len(self.of)} cosigners"
            )
        for group in (self.require, self.of):
            if len(set(group)) != len(group):
                raise FormatError(Reason.BAD_POLICY, "a cosigner policy names the same cosigner twice")
        if not self.require and not self.at_least:
            raise FormatError(
                Reason.BAD_POLICY, "a cosigner policy that requires nobody would accept anything; name who must cosign"
            )
        others = Quorum(self.at_least, tuple(map(str, self.of))) if self.at_least else Quorum.none()
        tree = Quorum.require_all(map(str, self.require), others)
        object.__setattr__(self, "quorum", tree)


@dataclass(frozen=True, slots=True)
class TrustedSubtree:
    """A subtree whose hash the relying party trusts, usually of a landmark.

    It must have been shown consistent with a checkpoint that enough cosigners saw before it gets here. log_number: 1 to
    65535. subtree_hash: of the CA's hash size. landmark: its number if there is one. expiry: POSIX seconds; as with
    notAfter that second belongs to it, and afterwards the subtree is as if it were not here.
    Spec: Merkle Tree Certificates, "Trusted Subtrees".
    """

    log_number: int
    subtree: Subtree
    subtree_hash: bytes
    landmark: int | None = None
    expiry: int | None = None
    expires_at: float = field(init=False, compare=False)
    """POSIX time from which on it is not trusted: one second after `expiry`, or infinity without one."""

    def __post_init__(self) -> None:
        """Check the numbers."""
        object.__setattr__(self, "expires_at", inf if self.expiry is None else self.expiry + 1)
        if not 1 <= self.log_number <= MAX_LOG_NUMBER:
            raise FormatError(Reason.BAD_NUMBER, f"{self.log_number} is not a log number from 1 to {MAX_LOG_NUMBER}")
        if self.subtree.end > MAX_TREE_SIZE:
            raise FormatError(Reason.BAD_SUBTREE, f"{self.subtree} ends beyond 48 bits")


@dataclass(frozen=True, slots=True, eq=False)
class TrustedCA:
    """One CA and everything about it that verification needs. One CA speaks one draft revision.

    cosigners: keys that the policy may name and more. revoked: serial numbers that are refused.
    """

    ca_id: TrustAnchorID
    revision: DraftRevision
    hash: HashAlgorithm
    cosigners: tuple[Cosigner, ...]
    policy: CosignerPolicy
    trusted_subtrees: tuple[TrustedSubtree, ...] = ()
    revoked: SerialRanges = field(default_factory=SerialRanges)
    subtree_index: dict[tuple[int, int, int], TrustedSubtree] = field(init=False, repr=False)
    """Trusted subtrees by (log number, start, end)."""
    cosigner_index: dict[bytes, Cosigner] = field(init=False, repr=False)
    """Cosigners by binary ID."""
    revoked_bounds: tuple[int, ...] = field(init=False, repr=False)
    """`revoked.bounds`, one step closer to the hot path."""
    name: bytes = field(init=False, repr=False)
    """The distinguished name that its certificates carry as issuer, DER."""

    def __post_init__(self) -> None:
        """Build the indices and refuse what contradicts itself."""
        object.__setattr__(self, "cosigner_index", self._index_cosigners())
        object.__setattr__(self, "subtree_index", self._index_subtrees())
        object.__setattr__(self, "revoked_bounds", self.revoked.bounds)
        try:
            name = encode_ca_name(self.ca_id, self.revision)
        except Error as error:
            raise FormatError(error.reason, error.message) from None
        object.__setattr__(self, "name", name)

    def _index_cosigners(self) -> dict[bytes, Cosigner]:
        """Return the cosigners by binary ID; every one that the policy names must be there."""
        index: dict[bytes, Cosigner] = {}
        for cosigner in self.cosigners:
            if cosigner.cosigner_id.binary in index:
                raise FormatError(Reason.DUPLICATE, f"cosigner {cosigner.name} of CA {self.ca_id} stands twice")
            index[cosigner.cosigner_id.binary] = cosigner
        for named in (*self.policy.require, *self.policy.of):
            if named.binary not in index:
                raise FormatError(
                    Reason.BAD_POLICY, f"the policy of CA {self.ca_id} names cosigner {named}, whose key is not given"
                )
        return index

    def _index_subtrees(self) -> dict[tuple[int, int, int], TrustedSubtree]:
        """Return the trusted subtrees by (log, start, end). Two hashes for the same one are refused."""
        index: dict[tuple[int, int, int], TrustedSubtree] = {}
        for trusted in self.trusted_subtrees:
            subtree = trusted.subtree
            if len(trusted.subtree_hash) != self.hash.size:
                raise FormatError(
                    Reason.BAD_HASH_SIZE,
                    f"the hash of trusted subtree {subtree} has {len(trusted.subtree_hash)} bytes, {self.hash.name} "
                    f"has {self.hash.size}",
                )
            if subtree.is_empty and not self.revision.allows_empty_subtree:
                raise FormatError(Reason.BAD_SUBTREE, f"{self.revision} has no empty subtrees such as {subtree}")
            key = (trusted.log_number, subtree.start, subtree.end)
            known = index.get(key)
            if known is not None and known.subtree_hash != trusted.subtree_hash:
                raise FormatError(
                    Reason.DUPLICATE, f"trusted subtree {subtree} of log {trusted.log_number} has two hashes"
                )
            # The same subtree may belong to two landmarks' lists; it is trusted as long as either says.
            if known is None or known.expires_at < trusted.expires_at:
                index[key] = trusted
        return index


class TrustStore:
    """An immutable snapshot of all trusted CAs, ready to verify; replace it as a whole to update it.

    Safe to share between threads. Raises FormatError when a CA stands twice, whatever its draft revisions.
    """

    __slots__ = ("_cas", "kernel", "scan", "scan_many")

    def __init__(self, cas: Iterable[TrustedCA] = (), kernel: Kernel | None = None) -> None:
        """Take the CAs; `kernel` is for tests, the active one is the default."""
        self.kernel = kernel or active_kernel()
        self._cas: dict[bytes, TrustedCA] = {}
        for ca in cas:
            if ca.ca_id.binary in self._cas:
                raise FormatError(
                    Reason.DUPLICATE, f"CA {ca.ca_id} stands twice; one CA speaks one draft revision", ca=str(ca.ca_id)
                )
            self._cas[ca.ca_id.binary] = ca
        scanner = self.kernel.scanner(
            {ca.name: issuer_format(ca.revision, ca.hash.name, ca) for ca in self._cas.values()}
        )
        self.scan: Callable[[bytes], ScanFields] = scanner.scan
        """The kernel's scan for these CAs; `Scan.owner` is the `TrustedCA`."""
        self.scan_many: Callable[[Sequence[bytes]], list[ScanFields | Error]] = scanner.scan_many

    @property
    def cas(self) -> tuple[TrustedCA, ...]:
        """The CAs in the order given."""
        return tuple(self._cas.values())

    def find_ca(self, ca_id: TrustAnchorID) -> TrustedCA | None:
        """Return the CA with that ID, if it is trusted."""
        return self._cas.get(ca_id.binary)


def trusted_ca_from_certificate(certificate: CACertificate) -> TrustedCA:
    """Make the plainest trust in a CA: its own cosignature suffices, what its certificate excludes is revoked.

    Spec: Merkle Tree Certificates, "Relying Party Configuration".
    """
    return TrustedCA(
        ca_id=certificate.ca_id,
        revision=certificate.revision,
        hash=HASH_ALGORITHMS[certificate.hash.name],
        cosigners=(Cosigner(certificate.ca_id, certificate.public_key),),
        policy=CosignerPolicy(require=(certificate.ca_id,)),
        revoked=certificate.revoked,
    )
