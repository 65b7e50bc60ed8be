"""Pulling one CA: its landmarks, proven in a tree that is cosigned enough, and its revocation list.

Nothing that is fetched is believed. Checkpoints come from the CA and, where a mirror shows its own, from the mirror;
the tree that decides is the largest one with enough cosignatures on it or on later ones. Tiles are proven against the
largest tree, and everything else follows from their hashes. What comes out passes `verify_cosigned` and `verify_bulk`.

Spec: C2SP mtc-tlog and tlog-tiles for the URLs; Merkle Tree Certificates, "Trusted Subtrees".
"""

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from mtc.ca.proofs import LogReader, ObjectSource, TreeHead
from mtc.cert import CertificateRevocationList, RevocationList, SerialRanges, verify_successor
from mtc.errors import Error, FormatError, PeerError, Reason, Rejected, SignatureError
from mtc.ids import MAX_LOG_NUMBER, TrustAnchorID, log_id
from mtc.kernel import active_kernel
from mtc.landmark import MAX_LANDMARKS_BYTES, ActiveLandmarks, Landmark
from mtc.merkle import HashReader, Subtree, prove_consistency, subtree_hash
from mtc.note import MAX_NOTE_BYTES, Checkpoint, Cosignature, CosignedMessage, parse_note
from mtc.tiles import TILE_WIDTH
from mtc.trust import TrustedCA
from mtc.trust.updates import (
    CosignedTree,
    ProvenLog,
    TreeSignature,
    landmark_subtrees,
    landmarks_within,
    prove_bulk,
    verify_bulk,
    verify_cosigned,
)
from mtc.updates.config import CASource
from mtc.web.client import HTTPClient
from mtc.web.clock import Clock

MAX_CRL_BYTES = 16 << 20
"""Largest revocation list fetched, the limit of the format."""
_FETCHES = 8


@dataclass(frozen=True, slots=True)
class Pulled:
    """What is known of a CA. logs: proven. revoked: by its own list. troubles: what the last look found, for people."""

    logs: tuple[ProvenLog, ...] = ()
    revoked: SerialRanges = field(default_factory=SerialRanges)
    troubles: tuple[str, ...] = ()


class HTTPObjects(ObjectSource):
    """The served objects of a CA below its prefix URL. 404 and 410 mean that there is no such object."""

    def __init__(self, http: HTTPClient, base: str) -> None:
        """Take an open client, and the URL without a slash at its end."""
        self._http, self._base = http, base
        self._slots = asyncio.Semaphore(_FETCHES)

    async def fetch(self, keys: Sequence[str]) -> list[bytes | None]:
        """Return the objects in the order asked. Raises PeerError."""
        return list(await asyncio.gather(*(self._read(key) for key in keys)))

    async def _read(self, key: str) -> bytes | None:
        """Return one object, None when it is not there."""
        name = key.rpartition("/")[2]
        limits = {"landmarks": MAX_LANDMARKS_BYTES, "checkpoint": MAX_NOTE_BYTES, "revocations.crl": MAX_CRL_BYTES}
        async with self._slots:
            answer = await self._http.fetch(f"{self._base}/{key}", most=limits.get(name, TILE_WIDTH * 32))
        if answer.status in (404, 410):
            return None
        if answer.status != 200:
            raise PeerError(Reason.PEER, f"{self._base}/{key} answers {answer.status}", status=answer.status)
        return answer.body


@dataclass(slots=True)
class _Tree:
    """A tree and whoever signed it, verified."""

    root_hash: bytes
    signatures: dict[TrustAnchorID, TreeSignature] = field(default_factory=dict)


class Puller:
    """Pulls one CA again and again; keeps what was proven, so that a look that fails changes nothing."""

    def __init__(self, source: CASource, http: HTTPClient, clock: Clock, logs: Sequence[ProvenLog] = ()) -> None:
        """Take the CA, an open client, the time, and what was proven before; that of other CAs does not matter."""
        self._source, self._http, self._clock = source, http, clock
        self._objects = HTTPObjects(http, source.prefix_url)
        self._ca: TrustedCA = source.trusted(SerialRanges())
        self._hasher = active_kernel().hasher(self._ca.hash.name)
        self._readers: dict[int, LogReader] = {}
        self._logs = {log.log_number: log for log in logs if self._is_proven(log)}
        self._revocations: RevocationList | None = None
        self._troubles: list[str] = []

    def _is_proven(self, log: ProvenLog) -> bool:
        """Tell whether a log of this CA is cosigned enough also by the policy of today."""
        if log.ca_id != self._ca.ca_id:
            return False
        try:
            verify_cosigned(log.trees, self._ca, log.log_number, self._hasher)
        except Error:
            return False
        return True

    async def pull(self) -> Pulled:
        """Look once. Failures end in `troubles`; nothing is raised but cancellation."""
        self._troubles = []
        await self._take_revocations()
        number, left = 1, self._source.max_active
        while number <= MAX_LOG_NUMBER:
            try:
                is_there = await self._take_log(number, left)
            except Error as error:
                self._troubles.append(f"log {number}: {error.message}")
                is_there = number in self._logs
            if not is_there:
                break
            if number in self._logs:
                left -= len(self._logs[number].landmarks) - 1
            number += 1
        logs = tuple(self._logs[key] for key in sorted(self._logs))
        revoked = SerialRanges() if self._revocations is None else self._revocations.revoked
        return Pulled(logs, revoked, tuple(self._troubles))

    def known(self, trouble: str) -> Pulled:
        """Return what was proven so far, for a look that did not end."""
        logs = tuple(self._logs[key] for key in sorted(self._logs))
        return Pulled(logs, SerialRanges() if self._revocations is None else self._revocations.revoked, (trouble,))

    async def _take_revocations(self) -> None:
        """Take the CA's revocation list, which may only grow."""
        try:
            (data,) = await self._objects.fetch(["revocations.crl"])
            if data is None:
                return
            crl = CertificateRevocationList.parse(data)
            found = crl.verify(self._source.certificate.public_key, self._ca.name, self._clock.now())
            if not isinstance(found, RevocationList):
                raise FormatError(Reason.UNKNOWN_FORMAT, "revocations.crl is a plain CRL, not the MTC revocation list")
            self._revocations = found if self._revocations is None else verify_successor(self._revocations, found)
        except Error as error:
            self._troubles.append(f"revocations: {error.message}")

    async def _take_log(self, number: int, left: int) -> bool:
        """Take what is new in one log; tell whether there is such a log. left: landmarks that may be active."""
        now = self._clock.now()
        # The checkpoints are read after the landmarks, so that they are not smaller than the latest of them.
        (data,) = await self._objects.fetch([f"{number}/landmarks"])
        if data is None:
            return False
        revision = self._ca.revision
        active = ActiveLandmarks.parse(data, now, revision, prefix=revision.landmarks_have_expiry)
        trees = await self._read_trees(number)
        reference = self._choose(number, trees)
        landmarks = landmarks_within(active.landmarks, reference)[: left + 1]
        known = self._logs.get(number)
        if known is not None and known.landmarks == landmarks:
            return True
        if known is not None and landmarks[-1].number < known.landmarks[-1].number:
            raise Rejected(
                Reason.SUPERSEDED,
                f"landmark {known.landmarks[-1].number} is known, only {landmarks[-1].number} is shown",
            )
        if landmarks[-1].tree_size < active.latest.tree_size and len(landmarks) <= left:
            self._troubles.append(
                f"log {number}: landmark {active.latest.number} waits for cosignatures beyond {reference} entries"
            )
        self._logs[number] = await self._prove(number, landmarks, trees, reference)
        return True

    async def _read_trees(self, number: int) -> dict[int, _Tree]:
        """Return the trees that the CA and its mirrors show, by size, with the cosignatures that verify."""
        origin = log_id(self._ca.ca_id, number).oid_name
        name = hashlib.sha256(origin.encode()).hexdigest()
        urls = {item.monitoring_url for item in self._source.mirrors if item.monitoring_url is not None}
        answers = await asyncio.gather(
            self._objects.fetch([f"{number}/checkpoint"]),
            *(HTTPObjects(self._http, url).fetch([f"{name}/checkpoint"]) for url in sorted(urls)),
            return_exceptions=True,
        )
        trees: dict[int, _Tree] = {}
        for place, answer in zip([self._source.prefix_url, *sorted(urls)], answers, strict=True):
            if isinstance(answer, Error):
                self._troubles.append(f"log {number}: {answer.message}")
            elif isinstance(answer, BaseException):
                raise answer
            elif answer[0] is not None:
                self._add_note(trees, number, answer[0], place)
        return trees

    def _add_note(self, trees: dict[int, _Tree], number: int, data: bytes, place: str) -> None:
        """Put a note's verified cosignatures to its tree. Raises Rejected (EQUIVOCATION) for two roots of one size."""
        note = parse_note(data)
        checkpoint = Checkpoint.parse(note.text, self._hasher.size)
        if checkpoint.origin != log_id(self._ca.ca_id, number).oid_name:
            raise FormatError(Reason.BAD_NAME, f"{place} shows a checkpoint of {checkpoint.origin[:120]!r}")
        signatures: dict[TrustAnchorID, TreeSignature] = {}
        for line in note.signatures:
            try:
                who = TrustAnchorID.parse_oid_name(line.name)
                cosignature = Cosignature.parse(line.signature)
                cosigner = self._ca.cosigner_index.get(who.binary)
                if cosigner is None or not cosigner.counts_for(number, checkpoint.tree_size):
                    continue
                message = CosignedMessage.for_checkpoint(line.name, checkpoint, cosignature.timestamp)
                cosigner.key.verify(message.encode(), cosignature.signature)
            except (FormatError, SignatureError):
                # A line of another key, or of another kind of key with the same name.
                continue
            signatures[who] = TreeSignature(who, cosignature.timestamp, cosignature.signature)
        if not signatures:
            return
        tree = trees.setdefault(checkpoint.tree_size, _Tree(checkpoint.root_hash))
        if tree.root_hash != checkpoint.root_hash:
            raise Rejected(
                Reason.EQUIVOCATION,
                f"two root hashes of {checkpoint.tree_size} entries are signed; keep both checkpoints",
                tree_size=checkpoint.tree_size,
            )
        tree.signatures |= signatures

    def _choose(self, number: int, trees: dict[int, _Tree]) -> int:
        """Return the largest size that is cosigned to the policy, by signatures on it and on larger trees."""
        present: set[str] = set()
        for size in sorted(trees, reverse=True):
            present |= {str(who) for who in trees[size].signatures}
            if self._ca.policy.quorum.is_satisfied(present):
                return size
        missing = self._ca.policy.quorum.missing(present)
        raise Rejected(Reason.POLICY_NOT_MET, f"no tree of log {number} is cosigned enough; missing is {missing}")

    async def _prove(
        self, number: int, landmarks: tuple[Landmark, ...], trees: dict[int, _Tree], reference: int
    ) -> ProvenLog:
        """Return the landmarks with their proof, checked as relying parties will."""
        hasher, largest = self._hasher, max(trees)
        reader = self._readers.setdefault(number, LogReader(hasher, self._objects, f"{number}/"))
        parts = [subtree for _, subtree in landmark_subtrees(landmarks)]
        later = sorted(size for size in trees if size > reference)

        def prover(hashes: HashReader) -> tuple[list[bytes], list[tuple[bytes, ...]]]:
            # Each tree is read out of the largest one, whose tiles are served for sure.
            nodes = prove_bulk(hasher, hashes, reference, parts)
            return nodes, [_consistency(hashes, size) for size in later]

        def _consistency(hashes: HashReader, size: int) -> tuple[bytes, ...]:
            return tuple(prove_consistency(hasher, hashes, Subtree(0, reference), size))

        head = TreeHead(largest, trees[largest].root_hash)
        nodes, proofs = await reader.ask(head, prover)
        cosigned = [
            CosignedTree(size, trees[size].root_hash, tuple(trees[size].signatures.values()), proof)
            for size, proof in zip([reference, *later], [(), *proofs], strict=True)
        ]
        root = await reader.ask(head, lambda hashes: subtree_hash(hasher, hashes, Subtree(0, reference)))
        if root != trees[reference].root_hash:
            raise Rejected(
                Reason.EQUIVOCATION, f"the cosigned tree of {reference} entries is not the one that the log shows"
            )
        verify_bulk(hasher, reference, cosigned[0].root_hash, parts, nodes)
        verify_cosigned(cosigned, self._ca, number, hasher)
        return ProvenLog(self._ca.ca_id, number, landmarks, _needed(cosigned, self._ca), tuple(nodes))


def _needed(trees: list[CosignedTree], ca: TrustedCA) -> tuple[CosignedTree, ...]:
    """Return the trees with just enough signatures, so that updates stay small; earlier trees come first."""
    quorum = ca.policy.quorum
    needed = {str(item.cosigner_id) for tree in trees for item in tree.signatures}
    for name in sorted(needed):
        if quorum.is_satisfied(needed - {name}):
            needed.discard(name)
    kept: list[CosignedTree] = []
    for tree in trees:
        signatures = tuple(item for item in tree.signatures if str(item.cosigner_id) in needed)
        needed -= {str(item.cosigner_id) for item in signatures}
        if signatures or not kept:
            kept.append(replace(tree, signatures=signatures))
    return tuple(kept)
