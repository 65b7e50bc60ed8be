"""The publisher's side: updates from logs that were proven, whole or as the difference to a version before.

Pure; what is returned is signed and published by a shell. What a publisher makes here passes `plan_update`.

Spec: Merkle Tree Certificates, "Trusted Subtrees"; docs/updates.md for the format.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mtc.ids import TrustAnchorID
from mtc.landmark import Landmark
from mtc.merkle import Hasher
from mtc.trust.updates.bulk import BulkProof
from mtc.trust.updates.envelope import POLICY_LABEL, UPDATE_LABEL, SignedDocument
from mtc.trust.updates.formats import NO_POLICY, CosignedTree, LogUpdate, Update, landmark_subtrees
from mtc.trust.updates.policy import PolicyDocument


@dataclass(frozen=True, slots=True)
class ProvenLog:
    """A log as a publisher proved it.

    landmarks: consecutive, all within the first tree; the first only says where the second begins. trees: cosigned to
    the CA's policy. nodes: the bulk proof of all their subtrees in the first tree.
    """

    ca_id: TrustAnchorID
    log_number: int
    landmarks: tuple[Landmark, ...]
    trees: tuple[CosignedTree, ...]
    nodes: tuple[bytes, ...]

    @property
    def key(self) -> tuple[bytes, int]:
        """Binary CA ID and log number."""
        return self.ca_id.binary, self.log_number

    def folded(self, hasher: Hasher) -> BulkProof:
        """Return the proof, folded."""
        parts = [subtree for _, subtree in landmark_subtrees(self.landmarks)]
        return BulkProof(hasher, self.trees[0].tree_size, parts, self.nodes)

    def update(self, proof: BulkProof, known: Landmark | None, *, is_proven: bool) -> LogUpdate | None:
        """Return what to tell those who know the landmarks up to `known`, all without; None when nothing is new.

        proof: `folded`, which costs more than all the rest, so that it is shared. is_proven: with proofs for everybody,
        otherwise with hashes for those who trust the publisher.
        """
        landmarks = self.landmarks
        if known is not None and known in landmarks:
            landmarks = landmarks[landmarks.index(known) :]
            if len(landmarks) == 1:
                return None
        parts = [subtree for _, subtree in landmark_subtrees(landmarks)]
        if not is_proven:
            hashes = [proof.hash_of(part) for part in parts]
        else:
            # Of all landmarks the proof is the one that is there.
            hashes = list(self.nodes) if landmarks is self.landmarks else proof.proof_for(parts)
        trees = self.trees if is_proven else ()
        return LogUpdate(self.ca_id, self.log_number, self.landmarks[0].number, landmarks, tuple(hashes), trees)


@dataclass(frozen=True, slots=True)
class Base:
    """What readers of an earlier version know. latest: the last landmark of each log, by its key."""

    version: int
    policy_digest: bytes
    latest: Mapping[tuple[bytes, int], Landmark]


def make_update(  # noqa: PLR0913 - what a version is made of
    version: int,
    policy: SignedDocument,
    logs: Sequence[tuple[ProvenLog, BulkProof]],
    base: Base | None = None,
    *,
    is_proven: bool = True,
    made: dict[tuple[object, ...], LogUpdate | None] | None = None,
) -> Update:
    """Return version `version` of everything; with a base, only what changed since.

    version: POSIX seconds. logs: each with its proof, `ProvenLog.folded`. made: remembers parts from call to call for
    the same logs, because a log that stood still looks the same from many bases.
    """
    made = {} if made is None else made
    items = []
    for log, proof in logs:
        known = None if base is None else base.latest.get(log.key)
        key = (log.key, known, is_proven)
        if key not in made:
            made[key] = log.update(proof, known, is_proven=is_proven)
        item = made[key]
        if item is not None:
            items.append(item)
    is_known = base is not None and base.policy_digest == policy.digest
    envelope = NO_POLICY if is_known else policy.encode()
    return Update(version, 0 if base is None else base.version, policy.digest, envelope, tuple(items))


def unsigned_policy(policy: PolicyDocument) -> SignedDocument:
    """Return a policy document to be signed."""
    return SignedDocument(POLICY_LABEL, policy.payload)


def unsigned_update(update: Update) -> SignedDocument:
    """Return an update to be signed, or to be published as it is."""
    return SignedDocument(UPDATE_LABEL, update.encode())
