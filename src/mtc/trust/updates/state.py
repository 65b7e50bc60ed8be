"""What a relying party holds between updates: the policy as it was signed, and per log the landmarks that are proven.

A state is a value; its bytes are what is kept on disk. Expiry is judged when it is used, never when it is read: bytes
that were good yesterday are read today, and whoever asks for a `TrustStore` is told what no longer holds.

Spec: Merkle Tree Certificates, "Trusted Subtrees".
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from mtc.errors import FormatError, Reason, Rejected
from mtc.ids import TrustAnchorID
from mtc.landmark import Landmark
from mtc.trust.store import TrustedCA, TrustedSubtree, TrustStore
from mtc.trust.updates.contradiction import Anchor
from mtc.trust.updates.envelope import MAX_DOCUMENT_BYTES, POLICY_LABEL, SignedDocument
from mtc.trust.updates.formats import (
    landmark_subtrees,
    read_hashes,
    read_landmarks,
    read_log_key,
    write_hashes,
    write_landmarks,
)
from mtc.trust.updates.policy import PolicyDocument
from mtc.wire import Reader, Writer, posix_seconds

_LABEL = b"mtc-trust-state/v1\n\0"


@dataclass(frozen=True, slots=True)
class LogState:
    """The proven landmarks of one log.

    landmarks: consecutive, oldest first; the first is only where the second begins. hashes: of `landmark_subtrees`, in
    that order. tree_size, cosigned_at: the tree they were proven in, and since when (POSIX seconds) it was cosigned
    enough; 0 where a trusted service vouched for them. Raises FormatError (BAD_LENGTH).
    """

    ca_id: TrustAnchorID
    log_number: int
    landmarks: tuple[Landmark, ...]
    hashes: tuple[bytes, ...]
    tree_size: int = 0
    cosigned_at: int = 0

    def __post_init__(self) -> None:
        """Refuse another number of hashes than of subtrees."""
        expected = len(landmark_subtrees(self.landmarks))
        if len(self.hashes) != expected:
            raise FormatError(
                Reason.BAD_LENGTH,
                f"the landmarks of log {self.log_number} of CA {self.ca_id} have {expected} subtrees, and "
                f"{len(self.hashes)} hashes are there",
                expected=expected,
                got=len(self.hashes),
            )

    @property
    def key(self) -> tuple[bytes, int]:
        """Binary CA ID and log number."""
        return self.ca_id.binary, self.log_number

    @property
    def latest(self) -> Landmark:
        """The landmark with the largest number."""
        return self.landmarks[-1]

    def subtrees(self, until: int | None = None) -> Iterable[TrustedSubtree]:
        """Yield the trusted subtrees, none beyond the POSIX second `until`."""
        for (landmark, subtree), value in zip(landmark_subtrees(self.landmarks), self.hashes, strict=True):
            ends = [end for end in (landmark.expiry, until) if end is not None]
            yield TrustedSubtree(self.log_number, subtree, value, landmark.number, min(ends, default=None))

    def between(self, first: int, last: int) -> "LogState":
        """Return the landmarks from number `first`, which only says where the next begins, up to `last`.

        Numbers outside are moved inside, and at least one landmark stays.
        """
        low = min(max(first - self.landmarks[0].number, 0), len(self.landmarks) - 1)
        high = min(max(last - self.landmarks[0].number, low), len(self.landmarks) - 1)
        skipped = len(landmark_subtrees(self.landmarks[: low + 1]))
        count = len(landmark_subtrees(self.landmarks[low : high + 1]))
        hashes = self.hashes[skipped : skipped + count]
        return replace(self, landmarks=self.landmarks[low : high + 1], hashes=hashes)

    def without_expired(self, now: datetime) -> "LogState":
        """Return the landmarks without those that have expired; the last of these stays as the first."""
        first = max((mark.number for mark in self.landmarks if not mark.is_active(now)), default=0)
        return self.between(first, self.latest.number)


@dataclass(frozen=True, slots=True)
class UpdateState:
    """Everything that a relying party has accepted. signed_policy, policy: None before the first update, else both.

    version: of the update it comes from, POSIX seconds. skipped: updates up to this version bring no landmarks any
    more, because the user rolled back from it. logs: ordered by `key`. anchors: what would convict logs of another
    history, ordered by `key`; they decide nothing, and `encode` leaves them out.
    """

    version: int = 0
    skipped: int = 0
    signed_policy: SignedDocument | None = None
    policy: PolicyDocument | None = None
    logs: tuple[LogState, ...] = ()
    anchors: tuple[Anchor, ...] = ()

    def find_log(self, ca_id: TrustAnchorID, log_number: int) -> LogState | None:
        """Return what is held of a log."""
        return next((log for log in self.logs if log.key == (ca_id.binary, log_number)), None)

    @staticmethod
    def parse(data: bytes) -> "UpdateState":
        """Read a state that `encode` wrote; its policy's signature is not verified again. Raises FormatError."""
        if len(data) > 2 * MAX_DOCUMENT_BYTES:
            raise FormatError(Reason.TOO_LARGE, f"a trust state of {len(data)} bytes is larger than any", got=len(data))
        reader = Reader(data, "the trust state")
        if data[: len(_LABEL)] != _LABEL:
            raise FormatError(Reason.UNKNOWN_FORMAT, "this is no trust state of mtc trust", offset=0)
        reader.read_bytes(len(_LABEL))
        version, skipped = reader.read_uint(8), reader.read_uint(8)
        envelope = reader.read_vector(4)
        signed = SignedDocument.parse(envelope, POLICY_LABEL) if envelope else None
        policy = PolicyDocument.parse(signed.payload) if signed is not None else None
        logs = []
        for _ in range(reader.read_uint(4)):
            ca_id, log_number = read_log_key(reader)
            tree_size, cosigned_at = reader.read_uint(6), reader.read_uint(8)
            landmarks, hashes = read_landmarks(reader), read_hashes(reader)
            logs.append(LogState(ca_id, log_number, landmarks, hashes, tree_size, cosigned_at))
        reader.finish()
        return UpdateState(version, skipped, signed, policy, tuple(logs))

    def encode(self) -> bytes:
        """Return the bytes to keep."""
        writer = Writer().bytes(_LABEL).uint(self.version, 8).uint(self.skipped, 8)
        writer.vector(b"" if self.signed_policy is None else self.signed_policy.encode(), 4)
        writer.uint(len(self.logs), 4)
        for log in self.logs:
            writer.vector(log.ca_id.binary, 1).uint(log.log_number, 2)
            writer.uint(log.tree_size, 6).uint(log.cosigned_at, 8)
            write_landmarks(writer, log.landmarks)
            write_hashes(writer, log.hashes)
        return writer.encode()


def trust_store_of(state: UpdateState, now: datetime) -> TrustStore:
    """Return the snapshot to verify with at `now` and for a while after: landmarks and revocations of one version.

    Each trusted subtree ends with its landmark or with the policy document, whichever is first, so that also a snapshot
    that nobody replaces stops trusting them. Raises Rejected: EXPIRED when the policy document has expired, NO_LANDMARK
    when there was no update yet.
    """
    if state.policy is None:
        raise Rejected(Reason.NO_LANDMARK, "no update was taken yet; run mtc trust update")
    if state.policy.is_expired(posix_seconds(now)):
        raise Rejected(
            Reason.EXPIRED,
            f"the policy document expired at {state.policy.expires}; nothing says what was revoked since. "
            "Run mtc trust update",
            expires=state.policy.expires,
        )
    return TrustStore(_with_subtrees(ca, state, state.policy.expires) for ca in state.policy.store.cas)


def _with_subtrees(ca: TrustedCA, state: UpdateState, until: int) -> TrustedCA:
    """Return a CA with the subtrees that the state holds of it."""
    subtrees = tuple(trusted for log in state.logs if log.ca_id == ca.ca_id for trusted in log.subtrees(until))
    return TrustedCA(ca.ca_id, ca.revision, ca.hash, ca.cosigners, ca.policy, subtrees, ca.revoked)


class Staleness(StrEnum):
    """How well a state is kept up to date."""

    FRESH = "fresh"
    STALE = "stale"
    """Updates stay away, or do not bring what the policy says is there; everything held still counts."""
    EXPIRED = "expired"
    """The policy document has expired, or there never was one: nothing is trusted by this state."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """How old a state is. age_s: since the update was made, by its own word where the service is not trusted.

    policy_left_s: until the policy document expires; negative afterwards. behind: logs, as texts `CA log N`, of which
    less is held than the policy says is there.
    """

    staleness: Staleness
    age_s: int
    policy_left_s: int
    behind: tuple[str, ...]


def freshness_of(state: UpdateState, now: datetime, stale_after_s: int) -> Freshness:
    """Judge a state at `now`. stale_after_s: age from which on an update that stayed away is worth a warning."""
    seconds = posix_seconds(now)
    if state.policy is None:
        return Freshness(Staleness.EXPIRED, 0, 0, ())
    age, left = seconds - state.version, state.policy.expires - seconds
    behind = tuple(f"{ca_id} log {number}" for ca_id, number, _ in logs_behind(state))
    if left < 0:
        staleness = Staleness.EXPIRED
    else:
        staleness = Staleness.STALE if age > stale_after_s or behind else Staleness.FRESH
    return Freshness(staleness, age, left, behind)


def logs_behind(state: UpdateState) -> list[tuple[TrustAnchorID, int, int]]:
    """Return CA, log number and landmark number of the floors in the policy that the state does not reach."""
    if state.policy is None:
        return []
    missing = []
    for rules in state.policy.rules:
        if state.policy.store.find_ca(rules.ca_id) is None:
            continue
        for log_number, floor in rules.floors:
            held = state.find_log(rules.ca_id, log_number)
            if floor > 0 and (held is None or held.latest.number < floor):
                missing.append((rules.ca_id, log_number, floor))
    return missing
