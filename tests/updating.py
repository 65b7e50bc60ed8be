"""A CA with mirrors whose landmarks are published in updates: honest by default, and every part can be replaced."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from tests.makers import make_key

from mtc.cert import SerialRanges
from mtc.crypto import HASH_ALGORITHMS, LocalSigner, Verifier, parse_public_key
from mtc.errors import Error, Reason, Rejected
from mtc.ids import DEFAULT_REVISION, DraftRevision, TrustAnchorID, log_id
from mtc.kernel import active_kernel
from mtc.landmark import Landmark
from mtc.merkle import RowReader, Subtree, prove_consistency, subtree_hash
from mtc.note import CosignedMessage
from mtc.trust import Cosigner, CosignerPolicy, TrustedCA, TrustStore
from mtc.trust.updates import (
    CosignedTree,
    LandmarkRules,
    PlannedUpdate,
    PolicyDocument,
    ProvenLog,
    SignedDocument,
    TreeSignature,
    UpdateState,
    UpdateTrust,
    landmark_subtrees,
    make_update,
    plan_update,
    prove_bulk,
    unsigned_policy,
    unsigned_update,
)
from mtc.trust.updates.making import Base

HASHER = active_kernel().hasher("sha256")
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
WEEK = timedelta(days=7)
POLICY_KEY = make_key("ml-dsa-44", 40)
SERVICE_KEY = make_key("ml-dsa-44", 41)
MIRRORS = (TrustAnchorID.parse("32473.8"), TrustAnchorID.parse("32473.9"))


def sign(document: SignedDocument, signer: LocalSigner) -> SignedDocument:
    """Return a document with one more signature."""
    return document.with_signature(signer.public_key, signer.sign_now(document.message))


def verifier(signer: LocalSigner) -> Verifier:
    """Return the public half of a key."""
    return parse_public_key(signer.public_key, signer.algorithm)


@dataclass
class LandmarkLog:
    """One log of a CA with landmarks. label: makes histories differ. keys: of everybody who cosigns."""

    ca_id: TrustAnchorID = field(default_factory=lambda: TrustAnchorID.parse("32473.1"))
    number: int = 1
    label: str = "entry"
    revision: DraftRevision = DEFAULT_REVISION
    cosigners: tuple[TrustAnchorID, ...] = MIRRORS
    landmarks: list[Landmark] = field(default_factory=list)

    def __post_init__(self) -> None:
        """Start with landmark 0."""
        self.reader = RowReader(HASHER)
        self.landmarks.append(Landmark(0, 0, 0 if self.revision.landmarks_have_expiry else None))

    @property
    def size(self) -> int:
        """How many entries there are."""
        return self.reader.tree_size

    def grow(self, count: int) -> None:
        """Append entries."""
        self.reader.extend(HASHER.leaves([f"{self.label} {self.size + at}".encode() for at in range(count)]))

    def mark(self, count: int, expiry: datetime = NOW + WEEK) -> None:
        """Append entries and make a landmark there."""
        self.grow(count)
        seconds = int(expiry.timestamp()) if self.revision.landmarks_have_expiry else None
        self.landmarks.append(Landmark(len(self.landmarks), self.size, seconds))

    def key(self, cosigner_id: TrustAnchorID) -> LocalSigner:
        """Return the key of the CA or of a mirror."""
        return make_key("ml-dsa-44", 50 + cosigner_id.components[-1])

    def tree(
        self,
        size: int | None = None,
        by: Sequence[TrustAnchorID] | None = None,
        *,
        after: int | None = None,
        timestamp: int = SECONDS,
    ) -> CosignedTree:
        """Return a cosigned tree. after: size of the first tree of the list, when this one is a later one."""
        count = self.size if size is None else size
        root = subtree_hash(HASHER, self.reader, Subtree(0, count))
        origin = log_id(self.ca_id, self.number).oid_name
        signatures = []
        for who in (self.ca_id, *self.cosigners) if by is None else by:
            message = CosignedMessage(who.oid_name, origin, Subtree(0, count), root, timestamp).encode()
            signatures.append(TreeSignature(who, timestamp, self.key(who).sign_now(message)))
        proof = () if after is None else tuple(prove_consistency(HASHER, self.reader, Subtree(0, after), count))
        return CosignedTree(count, root, tuple(signatures), proof)

    def proven(self, *trees: CosignedTree, first: int = 0, last: int | None = None) -> ProvenLog:
        """Return landmarks `first` to `last` with what proves them."""
        chosen = trees or (self.tree(),)
        end = len(self.landmarks) if last is None else last + 1
        landmarks = tuple(self.landmarks[first:end])
        parts = [subtree for _, subtree in landmark_subtrees(landmarks)]
        nodes = prove_bulk(HASHER, self.reader, chosen[0].tree_size, parts)
        return ProvenLog(self.ca_id, self.number, landmarks, chosen, tuple(nodes))

    def trusted(self, *, at_least: int = 1, revoked: Sequence[tuple[int, int]] = ()) -> TrustedCA:
        """Return the CA as relying parties know it: its own cosignature, and `at_least` of the mirrors'."""
        cosigners = tuple(Cosigner(who, verifier(self.key(who))) for who in (self.ca_id, *self.cosigners))
        policy = CosignerPolicy((self.ca_id,), self.cosigners if at_least else (), at_least)
        ranges = SerialRanges(revoked)
        return TrustedCA(self.ca_id, self.revision, HASH_ALGORITHMS["sha256"], cosigners, policy, revoked=ranges)


def policy_of(  # noqa: PLR0913 - the members of a policy document
    *cas: TrustedCA,
    version: int = 1,
    issued: int = SECONDS - 60,
    lifetime: timedelta = WEEK,
    floor: int = 0,
    removed: Sequence[TrustAnchorID] = (),
    rules: Sequence[LandmarkRules] = (),
) -> SignedDocument:
    """Return a signed policy document."""
    document = PolicyDocument(
        version=version,
        issued=issued,
        expires=issued + int(lifetime.total_seconds()),
        floor=floor,
        store=TrustStore(cas),
        removed=tuple(removed),
        rules=tuple(rules),
    )
    return sign(unsigned_policy(document), POLICY_KEY)


def update_of(
    policy: SignedDocument,
    *logs: ProvenLog,
    version: int = SECONDS,
    base: Base | None = None,
    is_proven: bool = True,
    signer: LocalSigner | None = SERVICE_KEY,
) -> bytes:
    """Return an update as it is published."""
    proven = [(log, log.folded(HASHER)) for log in logs]
    document = unsigned_update(make_update(version, policy, proven, base, is_proven=is_proven))
    return (document if signer is None else sign(document, signer)).encode()


def base_of(version: int, policy: SignedDocument, *logs: ProvenLog) -> Base:
    """Return what readers of a version know."""
    return Base(version, policy.digest, {log.key: log.landmarks[-1] for log in logs})


UNTRUSTED = UpdateTrust((verifier(POLICY_KEY),))
"""A relying party that asks for proofs."""
TRUSTING = UpdateTrust((verifier(POLICY_KEY),), (verifier(SERVICE_KEY),))
"""A relying party that believes the service."""


def take(
    data: bytes, state: UpdateState | None = None, *, trust: UpdateTrust = UNTRUSTED, now: datetime = NOW
) -> PlannedUpdate:
    """Plan an update, from nothing without a state."""
    return plan_update(state or UpdateState(), data, trust, now)


def hourly(count: int = 3, **options: object) -> LandmarkLog:
    """Return a log with landmarks that grew by different numbers of entries."""
    log = LandmarkLog(**options)  # type: ignore[arg-type]  # the fields of the log
    for number in range(count):
        log.mark(5 + 3 * number)
    return log


def reasons(planned: PlannedUpdate) -> list[Reason]:
    """Return why what was not taken was not taken."""
    return [item.error.reason for item in planned.findings]


def refused(call: Callable[[], object], reason: Reason, family: type[Error] = Rejected) -> None:
    """Expect an update to be refused as a whole."""
    with pytest.raises(family) as caught:
        call()
    assert caught.value.reason is reason


def numbers(state: UpdateState, log: LandmarkLog) -> list[int]:
    """Return the numbers of the landmarks that are trusted."""
    held = state.find_log(log.ca_id, log.number)
    return [] if held is None else [mark.number for mark in held.landmarks[1:]]
