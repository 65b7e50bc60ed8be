"""Pulling one CA: its landmarks, proven in a tree that is cosigned enough, and its revocation list.

Nothing that is fetched is believed. Checkpoints come from the CA and, where a mirror shows its own, from the mirror;
the tree that decides is the largest one with enough cosignatures on it or on later ones. Tiles are proven against the
largest tree, and everything else follows from their hashes. What comes out passes `verify_cosigned` and `verify_bulk`.

Spec: C2SP mtc-tlog and tlog-tiles for the URLs; Merkle Tree Certificates, "Trusted Subtrees".
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from mtc.ca.proofs import LogReader, ObjectSource, TreeHead
from mtc.cert import CertificateRevocationList, RevocationList, SerialRanges, verify_successor
from mtc.cosign.evidence import Evidence
from mtc.errors import Error, FormatError, PeerError, ProofError, Reason, Rejected
from mtc.kernel import active_kernel
from mtc.landmark import MAX_LANDMARKS_BYTES, ActiveLandmarks, Landmark
from mtc.merkle import Hasher, HashReader, Node, Subtree, prove_consistency, subtree_hash, verify_consistency
from mtc.note import MAX_NOTE_BYTES
from mtc.tiles import TILE_WIDTH, NodeRecorder, verify_tiles
from mtc.trust import TrustedCA
from mtc.trust.updates import (
    BulkProof,
    CosignedTree,
    ProvenLog,
    landmark_subtrees,
    landmarks_within,
    prove_bulk,
    verify_bulk,
    verify_cosigned,
)
from mtc.updates.config import CASource
from mtc.updates.trees import LogView, ShownTree, TwoViews
from mtc.web.client import HTTPClient
from mtc.web.clock import Clock

MAX_CRL_BYTES = 16 << 20
"""Largest revocation list fetched, the limit of the format."""
MAX_LOGS = 256
"""Logs of one CA that are looked at; a CA begins another one when a key is replaced, not every day."""
_FETCHES = 8
_CACHED_TILES = 64
"""Tiles that one look keeps, 8 KiB each; what they prove is kept as a proof."""


@dataclass(frozen=True, slots=True)
class Pulled:
    """What is known of a CA. logs: proven. revoked: by its own list. troubles: what the last look found, for people.

    evidence: what the last look proves against cosigners of two histories.
    """

    logs: tuple[ProvenLog, ...] = ()
    revoked: SerialRanges = field(default_factory=SerialRanges)
    troubles: tuple[str, ...] = ()
    evidence: tuple[Evidence, ...] = ()


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


class _Layered:
    """A `HashReader` that takes what an earlier proof tells from there, and the rest from proven tiles."""

    def __init__(self, bulk: BulkProof, tiles: HashReader | None) -> None:
        """Take both; without tiles everything must be known."""
        self._bulk, self._tiles = bulk, tiles

    def read(self, nodes: Sequence[Node]) -> list[bytes]:
        """Return the hash of each node."""
        known = {node: self._bulk.find(node) for node in nodes}
        missing = [node for node in nodes if known[node] is None]
        if missing and self._tiles is None:
            raise ProofError(Reason.MISSING_HASH, f"{missing[0]} is not known")
        found = dict(zip(missing, self._tiles.read(missing), strict=True)) if self._tiles is not None else {}
        return [known[node] or found[node] for node in nodes]


@dataclass(frozen=True, slots=True)
class _Task:
    """What is to be proven of one log. earlier: trees that the largest one must continue, none larger than it."""

    view: LogView
    landmarks: tuple[Landmark, ...]
    trees: dict[int, ShownTree]
    reference: int
    earlier: tuple[CosignedTree, ...]

    @property
    def parts(self) -> list[Subtree]:
        """The subtrees of the landmarks."""
        return [subtree for _, subtree in landmark_subtrees(self.landmarks)]

    @property
    def head(self) -> TreeHead:
        """The largest tree, whose tiles are served for sure; the others are read out of it."""
        largest = max(self.trees)
        return TreeHead(largest, self.trees[largest].root_hash)

    @property
    def later(self) -> list[int]:
        """The sizes beyond the reference."""
        return sorted(size for size in self.trees if size > self.reference)

    def prove(self, hasher: Hasher, hashes: HashReader) -> "_Proofs":
        """Return everything that the hashes of the largest tree tell."""
        before = [Subtree(0, tree.tree_size) for tree in self.earlier]
        size = self.head.tree_size
        whole = Subtree(0, self.reference)
        return _Proofs(
            tuple(prove_bulk(hasher, hashes, self.reference, self.parts)),
            [tuple(prove_consistency(hasher, hashes, whole, later)) for later in self.later],
            [subtree_hash(hasher, hashes, subtree) for subtree in before],
            [tuple(prove_consistency(hasher, hashes, subtree, size)) for subtree in before],
        )


class _Proofs(NamedTuple):
    """What was read out of a tree. held, continued: of each earlier tree, what stands in its place, and the proof."""

    nodes: tuple[bytes, ...]
    consistency: list[tuple[bytes, ...]]
    held: list[bytes]
    continued: list[tuple[bytes, ...]]


class Puller:
    """Pulls one CA again and again; keeps what was proven, so that a look that fails changes nothing."""

    def __init__(self, source: CASource, http: HTTPClient, clock: Clock, logs: Sequence[ProvenLog] = ()) -> None:
        """Take the CA, an open client, the time, and what was proven before; that of other CAs does not matter."""
        self._source, self._http, self._clock = source, http, clock
        self._objects = HTTPObjects(http, source.prefix_url)
        self._ca: TrustedCA = source.trusted(SerialRanges())
        self._hasher = active_kernel().hasher(self._ca.hash.name)
        # The trees of the last look, by log.
        self._seen: dict[int, tuple[CosignedTree, ...]] = {}
        self._logs = {log.log_number: log for log in logs if self._is_proven(log)}
        self._revocations: RevocationList | None = None
        self._crl_digest = b""
        self._troubles: list[str] = []
        self._evidence: list[Evidence] = []

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
        self._troubles, self._evidence = [], []
        await self._take_revocations()
        number, left = 1, self._source.max_active
        while number <= MAX_LOGS:
            try:
                is_there = await self._take_log(number, max(left, 0))
            except (Error, TwoViews) as error:
                self._note_trouble(number, error)
                is_there = number in self._logs
            if not is_there:
                break
            if number in self._logs:
                left -= len(self._logs[number].landmarks) - 1
            number += 1
        return self.known(*self._troubles)

    def known(self, *troubles: str) -> Pulled:
        """Return what was proven so far, also by a look that did not end. troubles: what to say of the last one."""
        logs = tuple(self._logs[key] for key in sorted(self._logs))
        revoked = SerialRanges() if self._revocations is None else self._revocations.revoked
        return Pulled(logs, revoked, troubles, tuple(self._evidence))

    def _note_trouble(self, number: int, error: Error | TwoViews) -> None:
        """Keep what went wrong with a log."""
        if isinstance(error, TwoViews):
            self._evidence += error.evidence
            error = error.rejected
        self._troubles.append(f"log {number}: {error.message}")

    async def _take_revocations(self) -> None:
        """Take the CA's revocation list, which may only grow."""
        try:
            (data,) = await self._objects.fetch(["revocations.crl"])
            if data is None or (digest := hashlib.sha256(data).digest()) == self._crl_digest:
                return
            # In a thread, because a large list takes long, and others are looked at meanwhile.
            self._revocations = await asyncio.to_thread(self._judge_revocations, data)
            self._crl_digest = digest
        except Error as error:
            self._troubles.append(f"revocations: {error.message}")

    def _judge_revocations(self, data: bytes) -> RevocationList:
        """Return the list that counts from now on. Raises FormatError, SignatureError or Rejected."""
        crl = CertificateRevocationList.parse(data)
        found = crl.verify(self._source.certificate.public_key, self._ca.name, self._clock.now())
        if not isinstance(found, RevocationList):
            raise FormatError(Reason.UNKNOWN_FORMAT, "revocations.crl is a plain CRL, not the MTC revocation list")
        return found if self._revocations is None else verify_successor(self._revocations, found)

    async def _take_log(self, number: int, left: int) -> bool:
        """Take what is new in one log; tell whether there is such a log. left: landmarks that may be active."""
        # The checkpoints are read after the landmarks, so that they are not smaller than the latest of them.
        (data,) = await self._objects.fetch([f"{number}/landmarks"])
        if data is None:
            return False
        revision = self._ca.revision
        active = ActiveLandmarks.parse(data, self._clock.now(), revision, prefix=revision.landmarks_have_expiry)
        view = LogView(self._ca, number)
        known, seen = self._logs.get(number), self._seen.get(number, ())
        earlier = [*seen, *(known.trees if known is not None else ())]
        trees = await self._read_trees(view, earlier)
        reference = view.choose(trees)
        landmarks = self._select(number, active, reference, left)
        if landmarks is not None and (known is None or known.landmarks != landmarks):
            task = _Task(view, landmarks, trees, reference, _comparable(earlier, trees))
            self._logs[number] = await self._prove(task, known)
        self._seen[number] = tuple(tree.cosigned(size) for size, tree in trees.items())
        return True

    def _select(self, number: int, active: ActiveLandmarks, reference: int, left: int) -> tuple[Landmark, ...] | None:
        """Return the landmarks to prove, without the newest beyond the bound; None to stay with what is known.

        Raises Rejected (SUPERSEDED) when fewer are shown than are known.
        """
        allowed = active.landmarks[: left + 1]
        landmarks = landmarks_within(allowed, reference)
        if len(allowed) < len(active.landmarks):
            self._troubles.append(
                f"log {number}: {len(active.landmarks) - 1} landmarks are active where {left} are allowed; "
                "the newest are dropped. See max_active"
            )
        elif landmarks[-1].number < active.latest.number:
            self._troubles.append(
                f"log {number}: landmark {active.latest.number} waits for cosignatures beyond {reference} entries"
            )
        latest = self._logs[number].landmarks[-1].number if number in self._logs else 0
        if landmarks[-1].number >= latest:
            return landmarks
        if active.latest.number < latest:
            raise Rejected(Reason.SUPERSEDED, f"landmark {latest} is known, only {active.latest.number} is shown")
        return None

    async def _read_trees(self, view: LogView, earlier: Sequence[CosignedTree]) -> dict[int, ShownTree]:
        """Return the trees that the CA and its mirrors show, by size, with the cosignatures that verify.

        earlier: trees that were shown before. Raises TwoViews for two roots of one size.
        """
        name = hashlib.sha256(view.origin.encode()).hexdigest()
        urls = {item.monitoring_url for item in self._source.mirrors if item.monitoring_url is not None}
        answers = await asyncio.gather(
            self._objects.fetch([f"{view.number}/checkpoint"]),
            *(HTTPObjects(self._http, url).fetch([f"{name}/checkpoint"]) for url in sorted(urls)),
            return_exceptions=True,
        )
        trees: dict[int, ShownTree] = {}
        for place, answer in zip([self._source.prefix_url, *sorted(urls)], answers, strict=True):
            if isinstance(answer, Error):
                self._troubles.append(f"log {view.number}: {answer.message}")
            elif isinstance(answer, BaseException):
                raise answer
            elif answer[0] is not None:
                checkpoint, signatures = view.read_note(answer[0], place)
                if not signatures:
                    continue
                shown = ShownTree(checkpoint.root_hash, signatures)
                same = (
                    [trees[checkpoint.tree_size].cosigned(checkpoint.tree_size)]
                    if checkpoint.tree_size in trees
                    else []
                )
                view.compare(shown.cosigned(checkpoint.tree_size), [*same, *earlier])
                trees.setdefault(checkpoint.tree_size, shown).signatures.update(signatures)
        return trees

    async def _prove(self, task: _Task, known: ProvenLog | None) -> ProvenLog:
        """Return the landmarks with their proof, checked as relying parties will.

        What was proven before is not fetched again; where that does not lead to the new tree, everything is, and shows
        whether the tree continues the earlier ones. Raises TwoViews when it does not.
        """
        if known is not None:
            with contextlib.suppress(ProofError):
                bulk = known.folded(self._hasher)
                recorder = NodeRecorder(self._hasher)
                task.prove(self._hasher, recorder)
                missing = [node for node in recorder.nodes if bulk.find(node) is None]
                reader = self._reader(task)
                tiles = await reader.prove(task.head, missing) if missing else {}
                proven = verify_tiles(self._hasher, task.head.tree_size, task.head.root_hash, tiles) if tiles else None
                return self._check(task, task.prove(self._hasher, _Layered(bulk, proven)))
        proofs = await self._reader(task).ask(task.head, lambda hashes: task.prove(self._hasher, hashes))
        for tree, held, proof in zip(task.earlier, proofs.held, proofs.continued, strict=True):
            if held != tree.root_hash:
                raise task.view.inconsistent(tree, task.trees[max(task.trees)].cosigned(max(task.trees)), held, proof)
        return self._check(task, proofs)

    def _reader(self, task: _Task) -> LogReader:
        """Return a reader of the log's tiles that forgets them: what they prove is kept in less room."""
        return LogReader(self._hasher, self._objects, f"{task.view.number}/", max_cached_tiles=_CACHED_TILES)

    def _check(self, task: _Task, proofs: _Proofs) -> ProvenLog:
        """Return the landmarks with their proof. Raises ProofError or Rejected when relying parties would."""
        hasher, view, reference = self._hasher, task.view, task.reference
        for tree, proof in zip(task.earlier, proofs.continued, strict=True):
            whole = Subtree(0, tree.tree_size)
            verify_consistency(hasher, whole, task.head.tree_size, tree.root_hash, task.head.root_hash, proof)
        cosigned = [
            task.trees[size].cosigned(size, proof)
            for size, proof in zip([reference, *task.later], [(), *proofs.consistency], strict=True)
        ]
        verify_bulk(hasher, reference, cosigned[0].root_hash, task.parts, proofs.nodes)
        verify_cosigned(cosigned, self._ca, view.number, hasher)
        return ProvenLog(self._ca.ca_id, view.number, task.landmarks, view.needed(cosigned), proofs.nodes)


def _comparable(earlier: Sequence[CosignedTree], trees: dict[int, ShownTree]) -> tuple[CosignedTree, ...]:
    """Return the trees, shown earlier or now, that the largest one must continue, each once."""
    largest = max(trees)
    both = {tree.tree_size: tree for tree in earlier} | {size: tree.cosigned(size) for size, tree in trees.items()}
    return tuple(both[size] for size in sorted(both) if 0 < size < largest)
