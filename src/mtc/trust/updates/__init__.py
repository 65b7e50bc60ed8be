"""Updates for relying parties: formats, and the rules by which an update is taken; no network, no disk.

`plan_update` decides; `trust_store_of` gives the snapshot to verify with; `make_update` is the publisher's side.

Spec: Merkle Tree Certificates, "Trusted Subtrees"; docs/updates.md for the formats, which are this project's own.
"""

from mtc.trust.updates.bulk import BulkProof, bulk_parts, prove_bulk, verify_bulk
from mtc.trust.updates.contradiction import Anchor, Contradiction, encode_anchors, parse_anchors
from mtc.trust.updates.envelope import POLICY_LABEL, UPDATE_LABEL, SignedDocument
from mtc.trust.updates.formats import CosignedTree, LogUpdate, TreeSignature, Update, landmark_subtrees
from mtc.trust.updates.making import ProvenLog, make_update, unsigned_policy, unsigned_update
from mtc.trust.updates.plan import (
    Finding,
    PlannedUpdate,
    UpdateTrust,
    landmarks_within,
    plan_rollback,
    plan_update,
    verify_cosigned,
)
from mtc.trust.updates.policy import LandmarkRules, PolicyDocument, verify_policy_successor
from mtc.trust.updates.state import Freshness, LogState, Staleness, UpdateState, freshness_of, trust_store_of

__all__ = [
    "POLICY_LABEL",
    "UPDATE_LABEL",
    "Anchor",
    "BulkProof",
    "Contradiction",
    "CosignedTree",
    "Finding",
    "Freshness",
    "LandmarkRules",
    "LogState",
    "LogUpdate",
    "PlannedUpdate",
    "PolicyDocument",
    "ProvenLog",
    "SignedDocument",
    "Staleness",
    "TreeSignature",
    "Update",
    "UpdateState",
    "UpdateTrust",
    "bulk_parts",
    "encode_anchors",
    "freshness_of",
    "landmark_subtrees",
    "landmarks_within",
    "make_update",
    "parse_anchors",
    "plan_rollback",
    "plan_update",
    "prove_bulk",
    "trust_store_of",
    "unsigned_policy",
    "unsigned_update",
    "verify_bulk",
    "verify_cosigned",
    "verify_policy_successor",
]
