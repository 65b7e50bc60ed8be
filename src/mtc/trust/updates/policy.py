"""The policy document: what proofs of logs cannot say. Signed, versioned, expiring.

It holds the CAs, their cosigners with states, cosigner policies and revoked ranges (as a trust store document without
trusted subtrees), the CAs that were removed for good, bounds on landmarks, and floors that show who is kept behind.

A CA leaves a policy only by being named as removed, and a removed one never comes back; what was revoked stays revoked.
So no later document, whoever is made to sign it, takes back a refusal.

Spec: Merkle Tree Certificates, "Relying Party Configuration", "Trusted Subtrees", "Revoked Ranges".
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from mtc.cert import covers
from mtc.errors import Error, FormatError, Reason, Rejected
from mtc.ids import MAX_LOG_NUMBER, TrustAnchorID
from mtc.landmark import MAX_LANDMARK_NUMBER
from mtc.trust.document import format_trust_store, parse_trust_store
from mtc.trust.store import TrustedCA, TrustStore

MAX_VERSION = 2**53 - 1
"""Largest version and time in a policy document: what every JSON reader holds exactly."""
DEFAULT_MAX_ACTIVE = 370
"""Active landmarks per CA where the document does not say: the cap for certificates of 47 days in Chrome's draft."""

_MEMBERS = frozenset({"format", "version", "issued", "expires", "floor", "trust", "landmarks", "removed"})


@dataclass(frozen=True, slots=True)
class LandmarkRules:
    """What holds for one CA's landmarks.

    max_active: most active landmarks over all its logs; the newest beyond are not trusted. floors: pairs (log number,
    landmark number): when the document was issued, that log had this landmark, so who is shown less is kept behind.
    """

    ca_id: TrustAnchorID
    max_active: int = DEFAULT_MAX_ACTIVE
    floors: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class PolicyDocument:
    """One version of the policy.

    version: grows with each document. issued, expires: POSIX seconds; it is valid up to `expires`, that second
    included. floor: the lowest version of an update that may be used, rollback included. store: CAs without trusted
    subtrees. removed: CAs that are distrusted for ever. rules: of the CAs for which the defaults do not hold.
    payload: the bytes that were signed. Raises FormatError (BAD_DOCUMENT, DUPLICATE).
    """

    version: int
    issued: int
    expires: int
    store: TrustStore
    floor: int = 0
    removed: tuple[TrustAnchorID, ...] = ()
    rules: tuple[LandmarkRules, ...] = ()
    payload: bytes = field(default=b"", repr=False)
    rules_index: dict[bytes, LandmarkRules] = field(init=False, repr=False)
    """Rules by binary CA ID."""

    def __post_init__(self) -> None:
        """Refuse what contradicts itself; without a payload, write it."""
        if not self.issued < self.expires:
            raise FormatError(Reason.BAD_DOCUMENT, "expires must be later than issued", place="expires")
        for ca in self.store.cas:
            if ca.ca_id in self.removed:
                raise FormatError(Reason.BAD_DOCUMENT, f"CA {ca.ca_id} is both trusted and removed", place="removed")
            if ca.trusted_subtrees:
                raise FormatError(
                    Reason.BAD_DOCUMENT,
                    f"the policy holds trusted subtrees of CA {ca.ca_id}; they come with updates, and are proven",
                    place="trust",
                )
        index = {item.ca_id.binary: item for item in self.rules}
        if len(index) != len(self.rules) or len(set(self.removed)) != len(self.removed):
            raise FormatError(Reason.DUPLICATE, "a CA stands twice among landmarks or removed", place="landmarks")
        object.__setattr__(self, "rules_index", index)
        if not self.payload:
            object.__setattr__(self, "payload", _encode(self))

    @property
    def digest(self) -> bytes:
        """SHA-256 of the payload."""
        return hashlib.sha256(self.payload).digest()

    def rules_of(self, ca_id: TrustAnchorID) -> LandmarkRules:
        """Return the rules for a CA's landmarks."""
        return self.rules_index.get(ca_id.binary) or LandmarkRules(ca_id)

    def is_expired(self, seconds: int) -> bool:
        """Tell whether the document has expired at a POSIX time."""
        return seconds > self.expires

    @staticmethod
    def parse(payload: bytes) -> "PolicyDocument":
        """Read a document, strictly: a member that is not known here is refused. Raises FormatError with the place."""
        top = _members(_read_json(payload), "the policy document", _MEMBERS, optional=_OPTIONAL)
        if top["format"] != 1 or isinstance(top["format"], bool):
            raise FormatError(Reason.BAD_DOCUMENT, "format must be 1; no other is known here", place="format")
        try:
            store = parse_trust_store(json.dumps(top["trust"]).encode())
        except FormatError as error:
            raise FormatError(error.reason, f"trust: {error.message}", **error.facts) from None
        return PolicyDocument(
            version=_number(top["version"], "version", 1, MAX_VERSION),
            issued=_number(top["issued"], "issued", 0, MAX_VERSION),
            expires=_number(top["expires"], "expires", 0, MAX_VERSION),
            floor=_number(top.get("floor", 0), "floor", 0, MAX_VERSION),
            store=store,
            removed=tuple(_id(item, "removed") for item in _items(top.get("removed", []), "removed")),
            rules=tuple(_rules(item) for item in _items(top.get("landmarks", []), "landmarks")),
            payload=payload,
        )


_OPTIONAL = frozenset({"floor", "landmarks", "removed"})


def verify_policy_successor(old: PolicyDocument, new: PolicyDocument) -> PolicyDocument:
    """Return the document that counts from now on, when `old` is held; the same one may come again.

    Raises Rejected: SUPERSEDED for a lower version or an earlier issue, EQUIVOCATION for another document with the same
    version, REVOCATION_SHRUNK when a revoked range, a removed CA or the floor is taken back, or a CA vanished
    without being removed. Keep `old` then.
    """
    if new.version < old.version or (new.version > old.version and new.issued < old.issued):
        raise Rejected(
            Reason.SUPERSEDED,
            f"policy version {old.version} of {old.issued} is held, version {new.version} of {new.issued} is older",
            expected=old.version,
            got=new.version,
        )
    if new.version == old.version:
        if new.payload != old.payload:
            raise Rejected(
                Reason.EQUIVOCATION, f"two policy documents have version {new.version}; their publisher signed both"
            )
        return old
    if new.floor < old.floor:
        raise Rejected(Reason.REVOCATION_SHRUNK, f"policy version {new.version} lowers the floor {old.floor}")
    for ca_id in old.removed:
        if ca_id not in new.removed:
            raise Rejected(
                Reason.REVOCATION_SHRUNK, f"policy version {new.version} forgets that CA {ca_id} was removed"
            )
    for ca in old.store.cas:
        _check_ca(ca, new)
    return new


def _check_ca(old: TrustedCA, new: PolicyDocument) -> None:
    """Raise Rejected unless everything that was refused of a CA still is."""
    if old.ca_id in new.removed:
        return
    found = new.store.find_ca(old.ca_id)
    if found is None:
        raise Rejected(
            Reason.REVOCATION_SHRUNK,
            f"CA {old.ca_id} vanished in policy version {new.version} without being removed; its revocations would too",
            ca=str(old.ca_id),
        )
    if not covers(found.revoked, old.revoked):
        raise Rejected(
            Reason.REVOCATION_SHRUNK,
            f"policy version {new.version} revokes less of CA {old.ca_id}: revoking is for ever",
            ca=str(old.ca_id),
        )


def same_cosigning(one: TrustedCA, other: TrustedCA) -> bool:
    """Tell whether what was cosigned enough under one description of a CA is so under the other."""
    return _cosigning(one) == _cosigning(other)


def _cosigning(ca: TrustedCA) -> tuple[object, ...]:
    """Return everything that decides whether a checkpoint is cosigned enough."""
    cosigners = sorted(
        (item.name, item.key.algorithm.name, item.key.public_key, item.state, item.frozen_at) for item in ca.cosigners
    )
    return ca.ca_id, ca.revision.name, ca.hash.name, cosigners, ca.policy


def _encode(document: PolicyDocument) -> bytes:
    """Return the JSON of a document."""
    members: dict[str, object] = {
        "format": 1,
        "version": document.version,
        "issued": document.issued,
        "expires": document.expires,
        "floor": document.floor,
        "removed": [str(item) for item in document.removed],
        "landmarks": [
            {
                "ca": str(item.ca_id),
                "max_active": item.max_active,
                "floors": [{"log": log, "landmark": landmark} for log, landmark in item.floors],
            }
            for item in document.rules
        ],
        "trust": json.loads(format_trust_store(document.store)),
    }
    return json.dumps(members, separators=(",", ":")).encode()


def _read_json(data: bytes) -> object:
    """Return the JSON value. Raises FormatError (BAD_DOCUMENT, TOO_DEEP)."""
    try:
        return json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except RecursionError:
        raise FormatError(Reason.TOO_DEEP, "the policy document is nested too deeply") from None
    except ValueError as error:
        raise FormatError(Reason.BAD_DOCUMENT, f"the policy document is not JSON: {error}") from None


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Make a dict of members. Raises ValueError when a name stands twice."""
    if len(found := dict(pairs)) != len(pairs):
        raise ValueError("a member stands twice in one object")
    return found


def _no_constant(name: str) -> object:
    """Refuse NaN and the infinities, which are no JSON."""
    raise ValueError(f"{name} is no JSON number")


def _members(
    value: object, place: str, names: frozenset[str], *, optional: frozenset[str] = frozenset()
) -> dict[str, object]:
    """Return an object that has these members and no others."""
    if not isinstance(value, dict):
        raise FormatError(Reason.BAD_DOCUMENT, f"{place} must be an object", place=place)
    for name in sorted(value.keys() - names):
        raise FormatError(Reason.BAD_DOCUMENT, f"{place} has an unknown member {name[:80]!r}", place=place)
    for name in sorted(names - optional - value.keys()):
        raise FormatError(Reason.BAD_DOCUMENT, f"{place} has no {name!r}", place=place)
    return value


def _items(value: object, place: str) -> Sequence[object]:
    """Return an array."""
    if not isinstance(value, list):
        raise FormatError(Reason.BAD_DOCUMENT, f"{place} must be an array", place=place)
    return value


def _number(value: object, place: str, least: int, most: int) -> int:
    """Return an integer in [least, most]; true and false are none."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise FormatError(Reason.BAD_DOCUMENT, f"{place} must be an integer from {least} to {most}", place=place)
    return value


def _id(value: object, place: str) -> TrustAnchorID:
    """Return a trust anchor ID."""
    if not isinstance(value, str):
        raise FormatError(Reason.BAD_DOCUMENT, f"{place} holds strings such as 32473.1", place=place)
    try:
        return TrustAnchorID.parse(value)
    except Error as error:
        raise FormatError(error.reason, f"{place}: {error.message}", place=place) from None


def _rules(value: object) -> LandmarkRules:
    """Return one CA's rules."""
    place = "landmarks"
    members = _members(
        value, place, frozenset({"ca", "max_active", "floors"}), optional=frozenset({"max_active", "floors"})
    )
    floors = []
    for item in _items(members.get("floors", []), f"{place}.floors"):
        pair = _members(item, f"{place}.floors", frozenset({"log", "landmark"}))
        log = _number(pair["log"], f"{place}.floors.log", 1, MAX_LOG_NUMBER)
        floors.append((log, _number(pair["landmark"], f"{place}.floors.landmark", 0, MAX_LANDMARK_NUMBER)))
    return LandmarkRules(
        _id(members["ca"], f"{place}.ca"),
        _number(members.get("max_active", DEFAULT_MAX_ACTIVE), f"{place}.max_active", 0, 1 << 20),
        tuple(floors),
    )
