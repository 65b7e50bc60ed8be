"""Publishing: from what was pulled to a signed policy, a version, its deltas, and the same as plain files.

Objects, below `public/`: `latest` (which versions there are), `proven/<version>` and `proven/<base>-<version>` for
those who ask for proofs, `signed/…` for those who trust the service, `trust.json` and `policy.json` for people.
`private/history.json` and `private/policy` say what was published, so that a restart goes on.

`latest` is written last, so that whoever reads it finds what it names. What is published was taken by `plan_update`
before, as by a relying party that starts from nothing.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from mtc.crypto import Signer, Verifier, parse_public_key
from mtc.errors import Error, FormatError, Reason
from mtc.ids import TrustAnchorID
from mtc.kernel import active_kernel
from mtc.landmark import Landmark
from mtc.store import ObjectStore
from mtc.trust import TrustedCA, TrustStore, format_trust_store
from mtc.trust.updates import (
    POLICY_LABEL,
    UPDATE_LABEL,
    LandmarkRules,
    LogUpdate,
    PolicyDocument,
    ProvenLog,
    SignedDocument,
    Update,
    UpdateState,
    UpdateTrust,
    make_update,
    plan_update,
    trust_store_of,
    unsigned_policy,
    unsigned_update,
    verify_policy_successor,
)
from mtc.trust.updates.making import Base
from mtc.updates.config import CASource, UpdatesConfig
from mtc.updates.pulling import Pulled
from mtc.wire import posix_seconds

PUBLIC = "public/"
HISTORY_KEY = "private/history.json"
POLICY_KEY = "private/policy"
KINDS = {"proven": True, "signed": False}
"""Families of updates, and whether they carry proofs."""


@dataclass(slots=True)
class Publisher:
    """Publishes versions. keys: sign policies and updates. Made by `open`; one at a time for a store."""

    store: ObjectStore
    policy_signer: Signer
    service_signer: Signer
    policy: PolicyDocument | None = None
    signed_policy: SignedDocument | None = None
    history: list[Base] = field(default_factory=list)
    published: tuple[ProvenLog, ...] = ()
    """What the last version of the run before held."""
    announced: int = 0
    """The version that `latest` names for sure; a crash may have come before it was written."""

    @staticmethod
    async def open(store: ObjectStore, policy_signer: Signer, service_signer: Signer) -> "Publisher":
        """Go on where the last one stopped. Raises FormatError when the records are damaged."""
        history, envelope = await store.fetch([HISTORY_KEY, POLICY_KEY])
        publisher = Publisher(store, policy_signer, service_signer)
        if envelope is not None:
            publisher.signed_policy = SignedDocument.parse(envelope, POLICY_LABEL)
            publisher.policy = PolicyDocument.parse(publisher.signed_policy.payload)
        if history is not None:
            publisher.history = _parse_history(history)
            (update,) = await store.fetch([f"{PUBLIC}proven/{publisher.version}"])
            if update is not None:
                publisher.published = _parse_published(update)
        return publisher

    @property
    def version(self) -> int:
        """The latest version, 0 before the first."""
        return self.history[-1].version if self.history else 0

    @property
    def trust(self) -> UpdateTrust:
        """Whom relying parties of this service believe that do not trust it."""
        return UpdateTrust((_verifier(self.policy_signer),))

    async def publish(self, config: UpdatesConfig, pulled: Mapping[TrustAnchorID, Pulled], now: datetime) -> bool:
        """Publish a version if anything changed since the last one; tell whether there was one.

        Raises Rejected when the configuration takes a refusal back, StorageError.
        """
        await self._renew_policy(config, pulled, now)
        assert self.policy is not None
        assert self.signed_policy is not None
        known = {source.certificate.ca_id for source in config.cas}
        logs = [
            log for ca_id in sorted(pulled) if ca_id in known for log in pulled[ca_id].logs if len(log.landmarks) > 1
        ]
        latest = {log.key: log.landmarks[-1] for log in logs}
        last = self.history[-1] if self.history else None
        if last is not None and (last.policy_digest, last.latest) == (self.signed_policy.digest, latest):
            if self.announced != self.version:
                await self._announce(now)
            return False
        version = max(posix_seconds(now), self.version + 1)
        base = Base(version, self.signed_policy.digest, latest)
        bases = self.history[-config.deltas :] if config.deltas else []
        # In threads, because with hundreds of CAs this takes seconds, and requests are answered meanwhile.
        documents = await asyncio.to_thread(self._build, version, self.signed_policy, logs, bases)
        objects = {key: (await self._finish(key, document)).encode() for key, document in documents.items()}
        whole = objects[f"{PUBLIC}proven/{version}"]
        state = (await asyncio.to_thread(plan_update, UpdateState(), whole, self.trust, now)).state
        objects[f"{PUBLIC}trust.json"] = format_trust_store(trust_store_of(state, now))
        objects[f"{PUBLIC}policy.json"] = self.policy.payload + b"\n"
        history = [*bases, base]
        await self.store.replace(objects)
        await self.store.replace({HISTORY_KEY: _format_history(history)})
        self.history = history
        await self._announce(now)
        await self._discard()
        return True

    async def _announce(self, now: datetime) -> None:
        """Tell which versions there are."""
        await self.store.replace({f"{PUBLIC}latest": _format_latest(self.history, now)})
        self.announced = self.version

    def _build(
        self, version: int, policy: SignedDocument, logs: Sequence[ProvenLog], bases: Sequence[Base]
    ) -> dict[str, SignedDocument]:
        """Return the updates of a version by key, not yet signed."""
        assert self.policy is not None
        hashers = {ca.ca_id.binary: active_kernel().hasher(ca.hash.name) for ca in self.policy.store.cas}
        proven = [(log, log.folded(hashers[log.ca_id.binary])) for log in logs]
        documents = {}
        made: dict[tuple[object, ...], LogUpdate | None] = {}
        for kind, is_proven in KINDS.items():
            for base in (None, *bases):
                name = f"{version}" if base is None else f"{base.version}-{version}"
                update = make_update(version, policy, proven, base, is_proven=is_proven, made=made)
                documents[f"{PUBLIC}{kind}/{name}"] = unsigned_update(update)
        return documents

    async def _finish(self, key: str, document: SignedDocument) -> SignedDocument:
        """Sign an update for those who trust the service; proofs speak for themselves."""
        return await _sign(document, self.service_signer) if key.startswith(f"{PUBLIC}signed/") else document

    async def _discard(self) -> None:
        """Remove updates to versions that are no longer the latest, or the one before.

        That one stays, because whoever has just read `latest` asks for what it named.
        """
        kept = {str(item.version) for item in self.history[-2:]}
        keys = [key for kind in KINDS for key in await self.store.list_keys(f"{PUBLIC}{kind}/")]
        await self.store.discard([key for key in keys if key.rpartition("/")[2].rpartition("-")[2] not in kept])

    async def _renew_policy(self, config: UpdatesConfig, pulled: Mapping[TrustAnchorID, Pulled], now: datetime) -> None:
        """Sign a new policy document if one is due."""
        seconds, old = posix_seconds(now), self.policy
        cas = tuple(self._trusted(source, pulled) for source in config.cas)
        version, issued = (1, seconds) if old is None else (old.version + 1, max(seconds, old.issued))
        new = PolicyDocument(
            version=version,
            issued=issued,
            expires=issued + int(config.policy_lifetime.total_seconds()),
            store=TrustStore(cas),
            floor=config.floor,
            removed=config.removed,
            rules=tuple(_rules(source, pulled) for source in config.cas),
        )
        if old is not None:
            is_due = now >= _moment(old.issued, now) + config.policy_renewal
            if not is_due and _content(old) == _content(new):
                return
            verify_policy_successor(old, new)
        signed = await _sign(unsigned_policy(new), self.policy_signer)
        await self.store.replace({POLICY_KEY: signed.encode()})
        self.policy, self.signed_policy = new, signed

    def _trusted(self, source: CASource, pulled: Mapping[TrustAnchorID, Pulled]) -> TrustedCA:
        """Return a CA with everything that is revoked: by its own list, and by any policy before."""
        ca_id = source.certificate.ca_id
        ca = source.trusted(pulled.get(ca_id, Pulled()).revoked)
        before = None if self.policy is None else self.policy.store.find_ca(ca_id)
        return ca if before is None else source.trusted(ca.revoked | before.revoked)


def _rules(source: CASource, pulled: Mapping[TrustAnchorID, Pulled]) -> LandmarkRules:
    """Return the rules for a CA's landmarks; the floors are what is published beside them."""
    ca_id = source.certificate.ca_id
    found = pulled.get(ca_id, Pulled())
    floors = tuple((log.log_number, log.landmarks[-1].number) for log in found.logs if len(log.landmarks) > 1)
    return LandmarkRules(ca_id, source.max_active, floors)


def _content(policy: PolicyDocument) -> tuple[object, ...]:
    """Return what a new document is made for; new landmarks alone are no reason."""
    bounds = sorted((str(item.ca_id), item.max_active) for item in policy.rules)
    return format_trust_store(policy.store), policy.floor, policy.removed, bounds


def _moment(seconds: int, now: datetime) -> datetime:
    """Return POSIX seconds as a moment."""
    return now + timedelta(seconds=seconds - posix_seconds(now))


async def _sign(document: SignedDocument, signer: Signer) -> SignedDocument:
    """Return a document, signed."""
    return document.with_signature(signer.public_key, await signer.sign(document.message))


def _verifier(signer: Signer) -> Verifier:
    """Return the public half of a key."""
    return parse_public_key(signer.public_key, signer.algorithm)


def _parse_published(data: bytes) -> tuple[ProvenLog, ...]:
    """Return the logs of a whole update with proofs, as it was published."""
    update = Update.parse(SignedDocument.parse(data, UPDATE_LABEL).payload)
    return tuple(ProvenLog(log.ca_id, log.log_number, log.landmarks, log.trees, log.hashes) for log in update.logs)


def _format_latest(history: Sequence[Base], now: datetime) -> bytes:
    """Return the pointer that relying parties ask for first."""
    bases = [base.version for base in history[:-1]]
    document = {"format": 1, "version": history[-1].version, "bases": bases, "written": posix_seconds(now)}
    return json.dumps(document, separators=(",", ":")).encode() + b"\n"


def _format_history(history: Sequence[Base]) -> bytes:
    """Return what readers of each version know, as JSON."""
    items = [
        {
            "version": base.version,
            "policy": base.policy_digest.hex(),
            "latest": [
                [ca.hex(), log, mark.number, mark.tree_size, mark.expiry] for (ca, log), mark in base.latest.items()
            ],
        }
        for base in history
    ]
    return json.dumps(items).encode()


def _parse_history(data: bytes) -> list[Base]:
    """Read what `_format_history` wrote. Raises FormatError (DAMAGED)."""
    try:
        return [
            Base(
                int(item["version"]),
                bytes.fromhex(item["policy"]),
                {
                    (bytes.fromhex(ca), int(log)): Landmark(number, size, expiry)
                    for ca, log, number, size, expiry in item["latest"]
                },
            )
            for item in json.loads(data)
        ]
    except (ValueError, KeyError, TypeError, Error) as error:
        raise FormatError(
            Reason.DAMAGED, f"{HISTORY_KEY} cannot be read: {error}; remove it, and readers fetch whole updates once"
        ) from None
