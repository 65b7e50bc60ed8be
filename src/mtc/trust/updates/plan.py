"""The rules by which a relying party takes an update, one by one. Pure: a state and bytes in, a state and findings out.

What concerns everything is refused as a whole, and the state stays as it was:

- The service's signature, where the service is trusted; the policy's signature, always.
- A version ahead of the clock, older than the one held, or below the policy's floor.
- A policy document that has expired, is older, or takes a refusal back (`verify_policy_successor`).
- A delta whose base is not held, or that leaves a CA without landmarks whose cosigning changed.

What concerns one log is a finding, and that log keeps what was proven before; the others and the policy go on:

- Landmarks are believed when a tree that is cosigned to the CA's policy proves their subtrees; of those that lie beyond
  that tree, the newest are dropped.
- A log never goes back, and what was proven of it never changes.
- Of more active landmarks than allowed the newest are dropped.

Landmarks and revocations of one version are in one state, so both apply or neither.

Spec: Merkle Tree Certificates, "Trusted Subtrees".
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby

from mtc.crypto import Verifier
from mtc.errors import Error, FormatError, Reason, Rejected, SignatureError, UsageError
from mtc.ids import TrustAnchorID, log_id
from mtc.kernel import active_kernel
from mtc.landmark import Landmark
from mtc.landmark.sequence import check_run
from mtc.merkle import Hasher, Subtree, verify_consistency
from mtc.note import CosignedMessage
from mtc.trust.store import TrustedCA
from mtc.trust.updates.bulk import BulkProof, verify_bulk
from mtc.trust.updates.contradiction import Anchor, Contradiction, anchor_of, find_contradictions
from mtc.trust.updates.envelope import POLICY_LABEL, UPDATE_LABEL, SignedDocument
from mtc.trust.updates.formats import HASH_BYTES, CosignedTree, LogUpdate, Update, landmark_subtrees
from mtc.trust.updates.policy import PolicyDocument, same_cosigning, verify_policy_successor
from mtc.trust.updates.state import LogState, UpdateState, logs_behind
from mtc.wire import posix_seconds

MAX_AHEAD_S = 300
"""How far the clock of a publisher may be ahead of ours, in seconds; CAs backdate by about as much for slow clocks."""


@dataclass(frozen=True, slots=True)
class UpdateTrust:
    """Whom a relying party believes.

    policy_keys: one of them signs the policy. service_keys: empty where the update service is not trusted and proofs
    decide; otherwise one of them signs each update, and proofs are not asked for. Raises UsageError without a policy
    key.
    """

    policy_keys: tuple[Verifier, ...]
    service_keys: tuple[Verifier, ...] = ()

    def __post_init__(self) -> None:
        """Refuse to believe anybody."""
        if not self.policy_keys:
            raise UsageError(Reason.USAGE, "pin at least one policy key; revocations have no other proof")


@dataclass(frozen=True, slots=True)
class Finding:
    """What was not taken of one log, and why. log_number: 0 when it is about all logs of the CA.

    contradictions: what cosigners signed of two histories, to be kept as evidence.
    """

    ca_id: TrustAnchorID
    log_number: int
    error: Error
    contradictions: tuple[Contradiction, ...] = ()


@dataclass(frozen=True, slots=True)
class PlannedUpdate:
    """A new state to keep and use. needs_whole: something in a delta did not fit; a whole update may mend it."""

    state: UpdateState
    findings: tuple[Finding, ...]

    @property
    def needs_whole(self) -> bool:
        """Tell whether a log could not be continued from what is held."""
        return any(item.error.reason is Reason.WRONG_BASE for item in self.findings)


def plan_update(state: UpdateState, data: bytes, trust: UpdateTrust, now: datetime) -> PlannedUpdate:
    """Return the state after an update, and what of it was not taken.

    data: the signed document, whole or delta. Raises FormatError, SignatureError, and Rejected: UNKNOWN_SIGNER,
    NOT_YET_VALID, SUPERSEDED, EXPIRED, EQUIVOCATION, REVOCATION_SHRUNK, WRONG_BASE (ask for a whole one).
    """
    document = SignedDocument.parse(data, UPDATE_LABEL)
    if trust.service_keys:
        document.verify(trust.service_keys)
    update = Update.parse(document.payload)
    _check_version(state, update, posix_seconds(now))
    if update.base and update.base != state.version:
        raise _wrong_base(f"the delta is to version {update.base}, version {state.version} is held")
    signed, policy = _take_policy(state, update, trust)
    _check_policy(policy, update, posix_seconds(now))
    logs = _carry_over(state, policy, is_delta=bool(update.base))
    anchors = {anchor.key: anchor for anchor in state.anchors if anchor.key in logs}
    findings: list[Finding] = []
    if update.version > state.skipped:
        for item in update.logs:
            _take_log(logs, anchors, item, policy, trust, findings)
    version = update.version if update.version > state.skipped else state.version
    if version < policy.floor:
        # What was rolled back to lies below a floor that came later.
        logs.clear()
    bounded = _bound(logs, policy, now, findings)
    kept = tuple(anchors[key] for key in sorted(anchors))
    new = UpdateState(version, state.skipped, signed, policy, tuple(bounded), kept)
    for ca_id, log_number, floor in logs_behind(new):
        error = Rejected(
            Reason.STALE_LANDMARKS,
            f"log {log_number} of CA {ca_id} had landmark {floor} when the policy was made, and it is not here; "
            "the update service holds it back",
            expected=floor,
        )
        findings.append(Finding(ca_id, log_number, error))
    return PlannedUpdate(new, tuple(findings))


def plan_rollback(state: UpdateState, previous: UpdateState) -> UpdateState:
    """Return the state with the landmarks of an earlier one, and with everything that is refused today.

    The policy of `state` stays, so that no revocation is taken back; updates up to the version of `state` will bring no
    landmarks again. Raises Rejected: SUPERSEDED when `previous` lies below the policy's floor or is not older.
    """
    if state.policy is None or not 0 < previous.version < state.version:
        raise Rejected(Reason.SUPERSEDED, f"version {previous.version} is no older one than {state.version}")
    if previous.version < state.policy.floor:
        raise Rejected(
            Reason.SUPERSEDED,
            f"version {previous.version} lies below the floor {state.policy.floor} of the policy",
            expected=state.policy.floor,
            got=previous.version,
        )
    logs = _carry_over(previous, state.policy, is_delta=False)
    skipped = max(state.version, state.skipped)
    return replace(state, version=previous.version, skipped=skipped, logs=tuple(logs[key] for key in sorted(logs)))


def _check_version(state: UpdateState, update: Update, seconds: int) -> None:
    """Refuse a version from the future or the past."""
    if update.version > seconds + MAX_AHEAD_S:
        raise Rejected(
            Reason.NOT_YET_VALID, f"the update was made at {update.version}, which the clock here has not reached"
        )
    if update.version < state.version:
        raise Rejected(
            Reason.SUPERSEDED,
            f"version {state.version} is held, version {update.version} is older",
            expected=state.version,
            got=update.version,
        )


def _take_policy(
    state: UpdateState, update: Update, trust: UpdateTrust
) -> tuple[SignedDocument | None, PolicyDocument]:
    """Return the policy that the update belongs to, verified: the one it brings, or the one held."""
    if not update.policy:
        if state.policy is None or state.policy.digest != update.policy_digest:
            raise _wrong_base("the delta belongs to another policy document than the one held")
        return state.signed_policy, state.policy
    signed = SignedDocument.parse(update.policy, POLICY_LABEL)
    signed.verify(trust.policy_keys)
    if signed.digest != update.policy_digest:
        raise FormatError(Reason.BAD_DOCUMENT, "the update belongs to another policy document than the one it brings")
    policy = PolicyDocument.parse(signed.payload)
    return signed, policy if state.policy is None else verify_policy_successor(state.policy, policy)


def _check_policy(policy: PolicyDocument, update: Update, seconds: int) -> None:
    """Refuse a policy that is not valid now, and an update below its floor."""
    if policy.issued > seconds + MAX_AHEAD_S:
        raise Rejected(
            Reason.NOT_YET_VALID, f"policy version {policy.version} was issued at {policy.issued}, after this moment"
        )
    if policy.is_expired(seconds):
        raise Rejected(
            Reason.EXPIRED,
            f"policy version {policy.version} expired at {policy.expires}; its publisher, or who passes it on, is late",
            expires=policy.expires,
        )
    if update.version < policy.floor:
        raise Rejected(
            Reason.SUPERSEDED,
            f"version {update.version} lies below the floor {policy.floor} of the policy",
            expected=policy.floor,
            got=update.version,
        )


def _carry_over(state: UpdateState, policy: PolicyDocument, *, is_delta: bool) -> dict[tuple[bytes, int], LogState]:
    """Return the logs that still count under a policy: of trusted CAs whose checkpoints are judged as before."""
    logs: dict[tuple[bytes, int], LogState] = {}
    for log in state.logs:
        ca = policy.store.find_ca(log.ca_id)
        before = None if state.policy is None else state.policy.store.find_ca(log.ca_id)
        if ca is None or before is None:
            continue
        if same_cosigning(before, ca):
            logs[log.key] = log
        elif is_delta:
            raise _wrong_base(f"the cosigners of CA {log.ca_id} changed, its landmarks are proven anew")
    return logs


def _take_log(  # noqa: PLR0913 - what is known, what comes, and who says so
    logs: dict[tuple[bytes, int], LogState],
    anchors: dict[tuple[bytes, int], Anchor],
    item: LogUpdate,
    policy: PolicyDocument,
    trust: UpdateTrust,
    findings: list[Finding],
) -> None:
    """Put what one log's update proves into `logs`, or a finding into `findings`."""
    ca = policy.store.find_ca(item.ca_id)
    if ca is None:
        # The service may serve other relying parties as well, which trust more CAs.
        return
    contradictions: tuple[Contradiction, ...] = ()
    try:
        held = logs.get(item.key)
        if held is None and item.oldest != item.landmarks[0].number:
            raise _wrong_base("nothing is held of a log that the update continues")
        new, proof = _prove(item, ca, is_trusted=bool(trust.service_keys))
        anchor = anchors.get(item.key)
        if proof is not None and anchor is not None:
            contradictions = find_contradictions(proof.hasher, ca, anchor, item.trees[0], proof)
            if contradictions:
                raise _two_views(item)
        logs[item.key] = new if held is None else _continue(held, item, new)
        if proof is not None:
            seen = anchor_of(item.ca_id, item.log_number, new.latest, item.trees[0], proof, ca)
            anchors |= {} if seen is None else {item.key: seen}
        if new.latest != item.landmarks[-1]:
            raise Rejected(
                Reason.SUPERSEDED,
                f"landmarks {new.latest.number + 1} to {item.landmarks[-1].number} lie beyond the cosigned tree of "
                f"{new.tree_size} entries and were dropped",
            )
    except Error as error:
        findings.append(Finding(item.ca_id, item.log_number, error, contradictions))


def _prove(item: LogUpdate, ca: TrustedCA, *, is_trusted: bool) -> tuple[LogState, BulkProof | None]:
    """Return the landmarks of an update that are proven, or vouched for by a service that is trusted.

    Second, the proof in a cosigned tree; None where there is none.
    """
    check_run(item.landmarks, ca.revision)
    if ca.hash.size != HASH_BYTES:
        raise FormatError(Reason.BAD_HASH_SIZE, f"updates carry no hashes of {ca.hash.size} bytes")
    if not item.trees:
        if not is_trusted:
            raise Rejected(
                Reason.NO_CHECKPOINT, "the update proves nothing about this log, and its service is not trusted"
            )
        return LogState(item.ca_id, item.log_number, item.landmarks, item.hashes), None
    hasher = active_kernel().hasher(ca.hash.name)
    reference = item.trees[0]
    cosigned_at = 0 if is_trusted else verify_cosigned(item.trees, ca, item.log_number, hasher)
    landmarks = landmarks_within(item.landmarks, reference.tree_size)
    parts = [subtree for _, subtree in landmark_subtrees(landmarks)]
    proof = verify_bulk(hasher, reference.tree_size, reference.root_hash, parts, item.hashes)
    hashes = tuple(map(proof.hash_of, parts))
    state = LogState(item.ca_id, item.log_number, landmarks, hashes, reference.tree_size, cosigned_at)
    return state, None if is_trusted else proof


def landmarks_within(landmarks: tuple[Landmark, ...], tree_size: int) -> tuple[Landmark, ...]:
    """Return the landmarks that a tree reaches, at least the first, which is not proven itself."""
    return landmarks[:1] + tuple(mark for mark in landmarks[1:] if mark.tree_size <= tree_size)


def verify_cosigned(trees: Sequence[CosignedTree], ca: TrustedCA, log_number: int, hasher: Hasher) -> int:
    """Return since when the first tree is cosigned to the CA's policy, POSIX seconds.

    A signature counts when it is over the first tree or a later one that is proven to contain it. Unknown cosigners and
    failing signatures do not count. Raises Rejected (POLICY_NOT_MET), ProofError for a later tree that is not proven.
    """
    reference = trees[0]
    origin = log_id(ca.ca_id, log_number).oid_name
    whole = Subtree(0, reference.tree_size)
    times: dict[str, int] = {}
    for tree in trees:
        verify_consistency(hasher, whole, tree.tree_size, reference.root_hash, tree.root_hash, tree.proof)
        for item in tree.signatures:
            cosigner = ca.cosigner_index.get(item.cosigner_id.binary)
            if cosigner is None or not cosigner.counts_for(log_number, tree.tree_size):
                continue
            try:
                message = CosignedMessage(
                    item.cosigner_id.oid_name, origin, Subtree(0, tree.tree_size), tree.root_hash, item.timestamp
                )
                cosigner.key.verify(message.encode(), item.signature)
            except (SignatureError, FormatError):
                continue
            times[cosigner.name] = max(item.timestamp, times.get(cosigner.name, 0))
    quorum = ca.policy.quorum
    if not quorum.is_satisfied(times):
        raise Rejected(
            Reason.POLICY_NOT_MET,
            f"the tree of {reference.tree_size} entries is not cosigned enough, there is no cosignature of "
            f"{quorum.missing(times)}",
            tree_size=reference.tree_size,
        )
    present: set[str] = set()
    for name in sorted(times, key=lambda found: -times[found]):
        present.add(name)
        if quorum.is_satisfied(present):
            return times[name]
    raise AssertionError("a quorum that everybody satisfies is satisfied by all of them")


def _continue(held: LogState, item: LogUpdate, new: LogState) -> LogState:
    """Return what is held of a log with what is new; nothing that was proven may change."""
    tree_size, cosigned_at = max(held.tree_size, new.tree_size), max(held.cosigned_at, new.cosigned_at)
    if item.oldest == item.landmarks[0].number:
        _check_overlap(held, new)
        return replace(new, tree_size=tree_size, cosigned_at=cosigned_at)
    if item.landmarks[0] != held.latest:
        raise _wrong_base(
            f"the update continues from landmark {item.landmarks[0].number}, landmark {held.latest.number} is held"
        )
    both = LogState(
        held.ca_id,
        held.log_number,
        held.landmarks + new.landmarks[1:],
        held.hashes + new.hashes,
        tree_size,
        cosigned_at,
    )
    return both.between(item.oldest, both.latest.number)


def _check_overlap(held: LogState, new: LogState) -> None:
    """Raise Rejected when a whole run goes back, or tells other landmarks or hashes than were proven before."""
    if new.latest.number < held.latest.number:
        raise Rejected(
            Reason.SUPERSEDED,
            f"landmark {held.latest.number} of log {held.log_number} is held, the update ends with {new.latest.number}",
            expected=held.latest.number,
            got=new.latest.number,
        )
    known = {mark.number: mark for mark in held.landmarks}
    proven = {(trusted.subtree, trusted.landmark): trusted.subtree_hash for trusted in held.subtrees()}
    is_same = all(known.get(mark.number, mark) == mark for mark in new.landmarks) and all(
        proven.get((item.subtree, item.landmark), item.subtree_hash) == item.subtree_hash for item in new.subtrees()
    )
    if not is_same:
        raise Rejected(
            Reason.EQUIVOCATION,
            f"log {held.log_number} of CA {held.ca_id} shows other landmarks than were proven before; "
            "what is held stays",
        )


def _two_views(item: LogUpdate) -> Rejected:
    """Make the error for two cosigned trees of which not both can be."""
    return Rejected(
        Reason.EQUIVOCATION,
        f"log {item.log_number} of CA {item.ca_id} has two histories, both cosigned; what is held stays. Report the "
        "evidence",
        tree_size=item.trees[0].tree_size,
    )


def _bound(
    logs: dict[tuple[bytes, int], LogState], policy: PolicyDocument, now: datetime, findings: list[Finding]
) -> list[LogState]:
    """Return the logs without expired landmarks, and without the newest of a CA that has too many active ones."""
    kept: list[LogState] = []
    for _, group in groupby(sorted(logs), key=lambda key: key[0]):
        ours = [logs[key].without_expired(now) for key in group]
        ca_id = ours[0].ca_id
        most = policy.rules_of(ca_id).max_active
        active = sum(len(log.landmarks) - 1 for log in ours)
        excess = active - most
        # The newest are those of the latest log; an older log gets no new landmarks once there is a later one.
        for position in range(len(ours) - 1, -1, -1):
            if excess <= 0:
                break
            log = ours[position]
            gone = min(excess, len(log.landmarks) - 1)
            ours[position] = log.between(log.landmarks[0].number, log.latest.number - gone)
            excess -= gone
        if active > most:
            error = Rejected(
                Reason.TOO_LARGE,
                f"CA {ca_id} has {active} active landmarks, {most} are allowed; the newest are dropped",
                expected=most,
                got=active,
            )
            findings.append(Finding(ca_id, 0, error))
        kept += ours
    return kept


def _wrong_base(text: str) -> Rejected:
    """Make the error for a delta that does not fit."""
    return Rejected(Reason.WRONG_BASE, f"{text}; ask for the whole update")
