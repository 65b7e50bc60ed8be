"""Following a log: a mirror fetches checkpoints, tiles and entries from where the log serves them.

Nothing that is fetched is believed: the checkpoint by the log's signature and a consistency proof from what is known,
each bundle by a proof to the checkpoint's tree. What comes in goes the same way as what is uploaded.

A log that serves entries which are not of its tree leaves evidence, on the word of who fetched them.

Spec: C2SP tlog-tiles; tlog-mirror, "Updating a Mirror".
"""

import asyncio
from collections.abc import Sequence

from mtc.cosign.evidence import BadEntries, Evidence
from mtc.cosign.logs import KnownLog
from mtc.cosign.machine import CosignerView, checkpoint_of, verify_log_signature
from mtc.cosign.requests import AddCheckpoint
from mtc.cosign.service.mirror import Mirror
from mtc.cosign.upload import PACKAGES_PER_REQUEST, Package, PackagePlace, package_places
from mtc.errors import ConflictError, Error, FormatError, PeerError, ProofError, Reason
from mtc.merkle import HashReader, Node, Subtree, prove_consistency
from mtc.note import MAX_NOTE_BYTES, Checkpoint, Note, parse_note
from mtc.tiles import (
    MAX_BUNDLE_BYTES,
    TILE_HEIGHT,
    TILE_WIDTH,
    EntriesTile,
    EntryBundle,
    NodeRecorder,
    ProvenTiles,
    Tile,
    TileEdge,
    tiles_for_nodes,
    verify_tiles,
    width_in_tree,
)
from mtc.web.client import HTTPClient

_TILE_BYTES = TILE_WIDTH * 32
_FETCHES = 16
"""Files that are fetched at once from one log."""


class Follower:
    """Brings one log up to date when `step` is called. evidence: what the last failing step can show, or None."""

    def __init__(self, mirror: Mirror, log: KnownLog, http: HTTPClient) -> None:
        """Take the mirror, the log, which has a URL, and an open client."""
        assert log.url is not None
        self._mirror, self._log, self._http, self._url = mirror, log, http, log.url
        self._hasher = mirror.core.hasher
        self._slots = asyncio.Semaphore(_FETCHES)
        self.evidence: Evidence | None = None

    async def step(self) -> bool:
        """Look once, and take over everything that is new; tell whether there was a checkpoint at all.

        Raises PeerError when the log does not answer, what `plan_checkpoint` raises for a checkpoint that is none or
        contradicts what is known, ProofError or FormatError for tiles and entries that are not of its tree.
        """
        self.evidence = None
        data = await self._fetch("checkpoint", MAX_NOTE_BYTES)
        if data is None:
            return False
        note = verify_log_signature(self._log, parse_note(data))
        checkpoint = Checkpoint.parse(note.text)
        if checkpoint.origin != self._log.origin:
            raise FormatError(
                Reason.BAD_NAME, f"{self._url}/checkpoint is of {checkpoint.origin[:120]!r}, not of {self._log.origin}"
            )
        await self._take_checkpoint(note, checkpoint)
        state = self._mirror.state(self._log.origin)
        target = state.latest
        if target is None or (state.committed is not None and state.committed_size == target.tree_size):
            return True
        if self._log.minimum_index > state.next_entry and not state.committed_size and not state.next_entry:
            await self._begin(target)
        await self._take_entries(target)
        await self._mirror.commit(self._log, target)
        return True

    async def _take_checkpoint(self, note: Note, checkpoint: Checkpoint) -> None:
        """Make a newer checkpoint the pending one. An older one than what is known is a cache's, and says nothing."""
        for _ in range(3):
            known = self._mirror.state(self._log.origin).latest
            old_size = 0 if known is None else known.tree_size
            if checkpoint.tree_size < old_size or (known is not None and checkpoint == checkpoint_of(known)):
                return
            proof: Sequence[bytes] = ()
            if 0 < old_size < checkpoint.tree_size:
                view = CosignerView(checkpoint.tree_size, checkpoint.root_hash, note.encode())
                (proof,) = await self._prove(view, [Subtree(0, old_size)])
            try:
                await self._mirror.add_checkpoint(AddCheckpoint(old_size, tuple(proof), note, checkpoint))
            except ConflictError as error:
                if error.reason is not Reason.STALE_SIZE:
                    raise
            else:
                return

    async def _take_entries(self, target: CosignerView) -> None:
        """Fetch, prove and store what is missing, a request's worth at a time."""
        while (start := self._mirror.state(self._log.origin).next_entry) < target.tree_size:
            end = min(start - start % TILE_WIDTH + PACKAGES_PER_REQUEST * TILE_WIDTH, target.tree_size)
            places = list(package_places(start, end))
            proofs, bundles = await asyncio.gather(
                self._prove(target, [place.subtree for place in places]),
                asyncio.gather(*(self._fetch_bundle(place, target) for place in places)),
            )
            packages = [
                _package(place, data, proof) for place, data, proof in zip(places, bundles, proofs, strict=True)
            ]
            parts, error = await self._mirror.prove(self._log, target, packages)
            await self._mirror.store(self._log, parts)
            if error is not None:
                await self._convict(target, places[len(parts)], bundles[len(parts)])
                raise error

    async def _prove(self, target: CosignerView, subtrees: Sequence[Subtree]) -> list[list[bytes]]:
        """Return the consistency proofs of subtrees to the target, from tiles proven against its root."""
        recorder = NodeRecorder(self._hasher)
        proofs = self._run(recorder, subtrees, target.tree_size)
        if not recorder.nodes:
            return proofs
        proven = await self._read_tiles(target, recorder.nodes)
        return self._run(proven, subtrees, target.tree_size)

    def _run(self, reader: HashReader, subtrees: Sequence[Subtree], size: int) -> list[list[bytes]]:
        """Return proofs with what a reader knows."""
        return [prove_consistency(self._hasher, reader, subtree, size) for subtree in subtrees]

    async def _read_tiles(self, target: CosignerView, nodes: Sequence[Node]) -> ProvenTiles:
        """Fetch the tiles of nodes and prove them against the target's root."""
        tiles = tiles_for_nodes(target.tree_size, nodes)
        contents = await asyncio.gather(*(self._fetch_tile(tile) for tile in tiles))
        held = dict(zip(tiles, contents, strict=True))
        return await asyncio.to_thread(verify_tiles, self._hasher, target.tree_size, target.root_hash, held)

    async def _begin(self, target: CosignerView) -> None:
        """Begin at the configured minimum index, rounded down to a bundle: take over the hashes of what is before."""
        start = min(self._log.minimum_index, target.tree_size)
        start -= start % TILE_WIDTH
        if not start:
            return
        levels = (start.bit_length() + TILE_HEIGHT - 1) // TILE_HEIGHT
        nodes = [
            Node(TILE_HEIGHT * level, (start >> TILE_HEIGHT * level) - 1)
            for level in range(1, levels)
            if (start >> TILE_HEIGHT * level) % TILE_WIDTH
        ]
        proven = await self._read_tiles(target, nodes)
        rows = [b""]
        for level in range(1, levels):
            count = (start >> TILE_HEIGHT * level) % TILE_WIDTH
            tile = Tile(level, start >> TILE_HEIGHT * (level + 1))
            content = b""
            if count:
                width = width_in_tree(tile, target.tree_size)
                content = proven.tiles[Tile(tile.level, tile.index, width)][: count * self._hasher.size]
            rows.append(content)
        kept = {tile.path: content for tile, content in proven.tiles.items() if tile.is_full and tile.end <= start}
        await self._mirror.begin_at(self._log, TileEdge(self._hasher.size, start, tuple(rows)), kept)

    async def _fetch_tile(self, tile: Tile) -> bytes:
        """Fetch a tile; where a partial one is gone, the full one's beginning. Raises PeerError."""
        content = await self._fetch(tile.path, _TILE_BYTES)
        if content is None and not tile.is_full:
            content = await self._fetch(tile.full.path, _TILE_BYTES)
        if content is None:
            raise PeerError(Reason.PRUNED, f"{self._url} does not serve {tile}", tile=tile.path)
        return content[: tile.width * self._hasher.size]

    async def _fetch_bundle(self, place: PackagePlace, target: CosignerView) -> bytes:
        """Fetch the bundle of a place, as far as the place's end. Raises PeerError."""
        first = place.bundle * TILE_WIDTH
        bundle = EntriesTile(place.bundle, min(TILE_WIDTH, target.tree_size - first))
        content = await self._fetch(bundle.path, MAX_BUNDLE_BYTES)
        if content is None and not bundle.is_full:
            content = await self._fetch(bundle.full.path, MAX_BUNDLE_BYTES)
        if content is None:
            raise PeerError(
                Reason.PRUNED,
                f"{self._url} does not serve {bundle}; begin at a later minimum_index if the log is pruned",
                tile=bundle.path,
            )
        return content

    async def _fetch(self, path: str, most: int) -> bytes | None:
        """Fetch a file of the log, None when it is not there."""
        async with self._slots:
            answer = await self._http.fetch(f"{self._url}/{path}", most=most)
        if answer.status in (404, 410):
            return None
        if answer.status != 200:
            raise PeerError(Reason.PEER, f"{self._url}/{path} answers {answer.status}", status=answer.status)
        return answer.body

    async def _convict(self, target: CosignerView, place: PackagePlace, data: bytes) -> None:
        """Keep what shows that a served bundle is not of the log's tree, as far as it can be shown."""
        leaf = Node(0, place.start)
        try:
            proven = await self._read_tiles(target, [leaf])
            width = min(TILE_WIDTH, target.tree_size - place.bundle * TILE_WIDTH)
            served: list[tuple[Tile | EntriesTile, bytes]] = [*proven.tiles.items()]
            served.append((EntriesTile(place.bundle, width), data))
            note = parse_note(target.note)
            lines = {(line.name, line.key_id) for line in note.signatures}
            subject = next(key for key in self._log.keys if (key.name, key.key_id) in lines)
            self.evidence = Evidence(subject, self._log.origin, BadEntries(note, tuple(served)), self._hasher.name)
        except Error:
            # Then the tiles themselves are wrong or gone, and there is nothing that others could check.
            self.evidence = None


def _package(place: PackagePlace, data: bytes, proof: Sequence[bytes]) -> Package:
    """Return the package of a place from its bundle. Raises FormatError or ProofError for another bundle."""
    entries = EntryBundle.parse(data).entries
    skip, count = place.start % TILE_WIDTH, place.end - place.start
    if len(entries) < skip + count:
        raise ProofError(Reason.MISSING_HASH, f"the served bundle {place.bundle} has {len(entries)} entries, too few")
    bounds, at = [], 0
    for entry in entries[: skip + count]:
        bounds.append(at)
        at += 2 + len(entry)
    bounds.append(at)
    first = bounds[skip]
    return Package(place, data[first:at], tuple(item - first for item in bounds[skip:]), tuple(proof))
