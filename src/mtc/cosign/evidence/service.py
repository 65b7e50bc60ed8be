"""Keeping evidence: each claim once, verified first, and never more than a bounded part of the disk.

Requests come from anybody, so that what a stranger can make without a key (testimony) must not take the room of what
only a misbehaving key holder can make (proofs), and one key holder must not take the room of all others. What does not
fit is counted and forgotten.

`find_in_refusal` looks at a request that a witness or a mirror refused.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime

from mtc.cosign.evidence.collect import compare_trees, find_evidence
from mtc.cosign.evidence.document import encode_evidence, parse_evidence
from mtc.cosign.evidence.kinds import Evidence
from mtc.cosign.evidence.verify import verify_evidence
from mtc.cosign.logs import KnownLog
from mtc.cosign.machine import CosignerView
from mtc.cosign.requests import AddCheckpoint
from mtc.errors import ConflictError, Error, FormatError, ProofError, Reason, Rejected, SignatureError, UsageError
from mtc.merkle import Hasher, Subtree, prove_consistency, subtree_hash
from mtc.note import Checkpoint, Note, VerifierKey, parse_note
from mtc.store import ObjectStore
from mtc.tiles import NodeRecorder, tiles_for_nodes, verify_tiles

EVIDENCE_PREFIX = "private/evidence"
"""Where bundles stand when nothing else is said."""
_READ_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class EvidenceLimits:
    """How much is kept: bundles and bytes, of everything, of testimony, and of proofs against one key."""

    bundles: int = 1000
    total_bytes: int = 64 << 20
    testimony_bundles: int = 200
    testimony_bytes: int = 32 << 20
    subject_bundles: int = 100
    subject_bytes: int = 16 << 20


@dataclass(frozen=True, slots=True)
class KeptEvidence:
    """One bundle that is kept. name: see `Evidence.name`. data: the document."""

    name: str
    evidence: Evidence
    data: bytes


class EvidenceKeeper:
    """Keeps bundles as `<prefix>/<name>.json` in an object store; one keeper per prefix. Calls may overlap.

    kept, dropped: bundles by kind since the start, for metrics; a claim that is there already counts in neither.
    """

    def __init__(
        self, objects: ObjectStore, prefix: str = EVIDENCE_PREFIX, limits: EvidenceLimits | None = None
    ) -> None:
        """Take the store and the place in it; nothing is read yet."""
        self._objects = objects
        self._prefix = prefix
        self._limits = limits or EvidenceLimits()
        # One at a time: what is there is counted before the next bundle is let in.
        self._lock = asyncio.Lock()
        # By name: whose room it takes, and how many bytes. None until the store was looked at.
        self._sizes: dict[str, tuple[str, int]] | None = None
        self.kept: Counter[str] = Counter()
        self.dropped: Counter[str] = Counter()

    async def keep(self, evidence: Evidence, now: datetime, by: str) -> str | None:
        """Verify and keep a bundle. Returns its name, also when it was there already; None when there is no room.

        now, by: who keeps it and when, said in the bundle. Raises what `verify_evidence` raises for what proves
        nothing, and StorageError.
        """
        name, owner = evidence.name, _owner(evidence)
        at = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        async with self._lock:
            sizes = await self._look()
            if name in sizes:
                return name
            # Judging costs more than looking, and whoever sends evidence can send it again and again.
            if not self._fits(owner, 0, sizes):
                self.dropped[evidence.kind] += 1
                return None
            data = await asyncio.to_thread(_seal, evidence.collected(at, by))
            if not self._fits(owner, len(data), sizes):
                self.dropped[evidence.kind] += 1
                return None
            try:
                await self._objects.put({self._key(name): data})
            except ConflictError:
                # Somebody kept the same claim, with another remark, since this keeper looked.
                (there,) = await self._objects.fetch([self._key(name)])
                data = there or data
            sizes[name] = (owner, len(data))
            self.kept[evidence.kind] += 1
        return name

    async def names(self) -> list[str]:
        """Return the names of what is kept, sorted."""
        keys = await self._objects.list_keys(self._prefix + "/")
        names = [key.removeprefix(self._prefix + "/") for key in keys]
        return [name.removesuffix(".json") for name in names if name.endswith(".json")]

    async def fetch(self, name: str) -> KeptEvidence:
        """Return a bundle. Raises UsageError (UNREADABLE) for a name that is not kept, FormatError for damage."""
        (data,) = await self._objects.fetch([self._key(name)])
        if data is None:
            raise UsageError(Reason.UNREADABLE, f"no evidence is called {name[:80]!r}")
        return KeptEvidence(name, parse_evidence(data), data)

    async def count(self) -> int:
        """Return how many bundles are kept."""
        async with self._lock:
            return len(await self._look())

    def _fits(self, owner: str, size: int, sizes: dict[str, tuple[str, int]]) -> bool:
        """Tell whether there is room for a bundle."""
        limits = self._limits
        own = [length for found, length in sizes.values() if found == owner]
        most, most_bytes = (
            (limits.testimony_bundles, limits.testimony_bytes)
            if owner == _STRANGERS
            else (limits.subject_bundles, limits.subject_bytes)
        )
        total = sum(length for _, length in sizes.values())
        return (
            len(own) < most
            and sum(own) + size <= most_bytes
            and len(sizes) < limits.bundles
            and total + size <= limits.total_bytes
        )

    async def _look(self) -> dict[str, tuple[str, int]]:
        """Return what is kept, from the store the first time. What cannot be read takes room all the same."""
        if self._sizes is None:
            sizes, names = {}, await self.names()
            for at in range(0, len(names), _READ_AT_ONCE):
                some = names[at : at + _READ_AT_ONCE]
                for name, data in zip(some, await self._objects.fetch(list(map(self._key, some))), strict=True):
                    sizes[name] = (await asyncio.to_thread(_owner_of, data or b""), len(data or b""))
            self._sizes = sizes
        return self._sizes

    def _key(self, name: str) -> str:
        """Return the key of a bundle's object."""
        return f"{self._prefix}/{name}.json"


_STRANGERS = ""
"""Owner of the room for testimony: anybody can make it about anybody."""


def _owner(evidence: Evidence) -> str:
    """Return whose room a bundle takes."""
    return _STRANGERS if evidence.is_testimony else evidence.subject.encode()


def _owner_of(data: bytes) -> str:
    """Return whose room a document takes."""
    try:
        return _owner(parse_evidence(data))
    except Error:
        return _STRANGERS


def _seal(evidence: Evidence) -> bytes:
    """Return the document of evidence that verifies when it is read again, which is what a reader will do."""
    data = encode_evidence(evidence)
    verify_evidence(parse_evidence(data))
    return data


@dataclass(frozen=True, slots=True)
class HeldTree:
    """A tree that a mirror holds whole. prefix: of its tiles' keys in the object store."""

    view: CosignerView
    prefix: str


async def find_in_refusal(
    hasher: Hasher,
    log: KnownLog,
    view: CosignerView | None,
    request: AddCheckpoint,
    held: tuple[ObjectStore, HeldTree] | None = None,
) -> Evidence | None:
    """Return what a cosigner can prove by a request that it refused, None when that is nothing.

    view: what the request was judged by. held: the tree that a mirror holds, and where; it may be behind the view, and
    smaller checkpoints of other views are found by it. Raises StorageError.
    """
    found = await asyncio.to_thread(find_evidence, hasher, log, view, request)
    if found is not None or held is None or request.checkpoint.origin != log.origin:
        return found
    (objects, tree), size = held, request.checkpoint.tree_size
    if size >= tree.view.tree_size:
        return await asyncio.to_thread(find_evidence, hasher, log, tree.view, request)
    names = {(line.name, line.key_id) for line in request.note.signatures}
    key = next((key for key in log.keys if (key.name, key.key_id) in names), None)
    if key is None or not size:
        return None
    try:
        return await find_in_tree(hasher, objects, tree, key, request.note)
    except (FormatError, ProofError, Rejected, SignatureError, UsageError):
        # The key did not sign both, or tiles are pruned: then nothing can be proven.
        return None


async def find_in_tree(
    hasher: Hasher, objects: ObjectStore, held: HeldTree, key: VerifierKey, smaller: Note
) -> Evidence | None:
    """Return the proof that a smaller checkpoint is not of the tree whose tiles are held; None when it is.

    Raises what `compare_trees` raises, and UsageError (MISSING_HASH) or ProofError when the tiles are not all there.
    """
    tree = Subtree(0, Checkpoint.parse(smaller.text).tree_size)
    size, recorder = held.view.tree_size, NodeRecorder(hasher)
    prove_consistency(hasher, recorder, tree, size)
    subtree_hash(hasher, recorder, tree)
    places = tiles_for_nodes(size, recorder.nodes)
    contents = await objects.fetch([f"{held.prefix}{place.path}" for place in places])
    tiles = {place: data for place, data in zip(places, contents, strict=True) if data is not None}

    def compare() -> Evidence | None:
        proven = verify_tiles(hasher, size, held.view.root_hash, tiles)
        return compare_trees(hasher, proven, key, smaller, parse_note(held.view.note))

    return await asyncio.to_thread(compare)
