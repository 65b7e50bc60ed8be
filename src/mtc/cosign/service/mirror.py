"""A running mirror: it takes checkpoints, then their entries, and signs what it holds and serves.

Order of a commit: entries and tiles are durable, then the register's swap names the tree and holds the signature, then
the answer leaves. What a crash leaves behind are objects that are in no checkpoint yet; they are right all the same.

Spec: C2SP tlog-mirror.
"""

import asyncio
import secrets
from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass, replace

from mtc.cosign.growth import Growth, ProvenPart, cut_bundle, start_growth
from mtc.cosign.logs import KnownLog
from mtc.cosign.machine import CosignerView, plan_checkpoint
from mtc.cosign.mirroring import (
    MirrorState,
    add_pending,
    advance,
    check_upload,
    commit,
    info_of,
    open_ticket,
    verify_package,
)
from mtc.cosign.requests import AddCheckpoint, SignSubtree
from mtc.cosign.service.core import Core, object_prefix, state_name, whole
from mtc.cosign.upload import MirrorInfo, Package, PackagePlace, UploadHead, UploadReader
from mtc.errors import ConflictError, Error, FormatError, ProofError, Reason, SignatureError, StorageError
from mtc.tiles import TILE_HEIGHT, TILE_WIDTH, EntriesTile, EntryBundle, Tile, TileEdge, partial_tiles, verify_edge

BATCH_BYTES = 8 << 20
"""Entries are made durable in batches of about so many bytes, and at the end of a request."""
BATCH_PACKAGES = 128
"""Or of so many packages: a package that is a lie is found out before much more is read."""
MAX_REQUEST_PACKAGES = 4096
"""How many packages one request may bring before it is answered with 202; a million entries."""


@dataclass(frozen=True, slots=True)
class UploadAnswer:
    """How an upload ended. lines: signature lines when everything was committed (200), else empty (202).

    info: where the mirror stands, for 202.
    """

    lines: bytes
    info: MirrorInfo


class UploadConflict(ConflictError):  # noqa: N818 - the protocol's word for the outcome
    """An upload does not fit where the mirror stands (409). info: where that is."""

    def __init__(self, error: ConflictError, info: MirrorInfo) -> None:
        """Take the conflict's words."""
        super().__init__(error.reason, error.message, **error.facts)
        self.info = info


@dataclass(slots=True)
class _Held:
    """One log here. Guarded by the log's lock, except that reads of whole values need none."""

    data: bytes | None
    state: MirrorState
    growth: Growth


class Mirror:
    """The mirror's requests. Uploads may overlap; what they store is put down one after the other for each log."""

    def __init__(self, core: Core) -> None:
        """Use `open`."""
        self.core = core
        self._held: dict[str, _Held] = {}
        # Tickets are a help across requests, not across restarts: what they say stands in the register too.
        self._secret = secrets.token_bytes(32)

    @staticmethod
    async def open(core: Core) -> "Mirror":
        """Read what is here. Raises StorageError when objects are missing that were signed for."""
        mirror = Mirror(core)
        await core.open()
        for origin in core.origins:
            data = await core.register.read(state_name(origin))
            if data is not None:
                state = MirrorState.parse(data)
                mirror._held[origin] = _Held(data, state, await mirror._recover(origin, state))
        return mirror

    async def _recover(self, origin: str, state: MirrorState) -> Growth:
        """Bring the growth back from stored objects: the committed tree's partial tiles, then what came after it."""
        core, prefix = self.core, object_prefix(origin)
        committed = state.committed
        if committed is not None:
            tiles = partial_tiles(committed.tree_size)
            contents = await core.objects.fetch([f"{prefix}{tile.path}" for tile in tiles])
            found = [_present(content, origin, tile) for content, tile in zip(contents, tiles, strict=True)]
            edge = verify_edge(core.hasher, committed.tree_size, found, committed.root_hash)
        else:
            edge = await self._read_start(origin, state)
        growth = start_growth(edge)
        while growth.next_entry < state.next_entry:
            start = growth.next_entry - growth.next_entry % TILE_WIDTH
            ends = range(start + TILE_WIDTH, state.next_entry + TILE_WIDTH, TILE_WIDTH)
            places = [PackagePlace(min(end, state.next_entry) - 1, min(end, state.next_entry)) for end in ends[:64]]
            parts = [await self._read_part(origin, place) for place in places]
            growth, _ = growth.extended(core.hasher, parts)
        return growth

    async def _read_start(self, origin: str, state: MirrorState) -> TileEdge:
        """Return the edge from which a mirror that began at a minimum index grows."""
        if not state.minimum_index:
            return TileEdge(self.core.hasher.size)
        (data,) = await self.core.objects.fetch([start_key(origin)])
        return parse_start(_present(data, origin, "start"), self.core.hasher.size)

    async def _read_part(self, origin: str, place: PackagePlace) -> ProvenPart:
        """Read a bundle that was proven once, up to the place's end."""
        data = await self._read_bundle(origin, place.bundle, place.end - place.subtree.start)
        entries = EntryBundle.parse(data).entries
        return ProvenPart(place, self.core.hasher.leaves(entries), data)

    async def _read_bundle(self, origin: str, index: int, width: int) -> bytes:
        """Read the first entries of a bundle, from the full one or from the partial one of that width."""
        prefix = object_prefix(origin)
        places = [EntriesTile(index), EntriesTile(index, width)]
        found = [data for data in await self.core.objects.fetch([f"{prefix}{item.path}" for item in places]) if data]
        return cut_bundle(_present(found[0] if found else None, origin, places[1]), width)

    # What the register says.

    def state(self, origin: str) -> MirrorState:
        """Return the state of a log; an empty one when nothing is known."""
        held = self._held.get(origin)
        return MirrorState() if held is None else held.state

    def checkpoint(self, origin: str) -> bytes | None:
        """Return the mirror checkpoint of a log with all signatures, None without one."""
        committed = self.state(origin).committed
        return None if committed is None else committed.cosigned

    def _take(self, log: KnownLog) -> _Held:
        """Return what is held of a log, made empty when nothing is."""
        if log.origin not in self._held:
            self._held[log.origin] = _Held(None, MirrorState(), Growth(TileEdge(self.core.hasher.size)))
        return self._held[log.origin]

    async def _save(self, log: KnownLog, held: _Held, state: MirrorState) -> None:
        """Make a new state durable. When the register holds another one than expected, it is taken over first."""
        if state == held.state and held.data is not None:
            return
        if held.data is None:
            await self.core.remember(log.origin)
        data = state.encode()
        try:
            await self.core.swap(state_name(log.origin), held.data, data)
        except ConflictError:
            await self._read_again(log.origin)
            raise
        held.data, held.state = data, state

    async def _read_again(self, origin: str) -> None:
        """Take over what the register says: a change of this process that nobody could confirm, or another one's."""
        data = await self.core.register.read(state_name(origin))
        if data is not None:
            state = MirrorState.parse(data)
            self._held[origin] = _Held(data, state, await self._recover(origin, state))

    # Requests.

    async def add_checkpoint(self, request: AddCheckpoint) -> bytes:
        """Take a newer pending checkpoint; nothing is signed here. Raises what `plan_checkpoint` raises."""
        await whole(self._add_pending(self.core.find(request.checkpoint.origin), request))
        return b""

    async def _add_pending(self, log: KnownLog, request: AddCheckpoint) -> None:
        """Wait for the log's turn, judge and swap; afterwards look at what a refused request proves."""
        async with self.core.lock(log.origin):
            held = self._take(log)
            view = held.state.latest
            try:
                after = await asyncio.to_thread(plan_checkpoint, self.core.hasher, log, view, request)
                await self._save(log, held, add_pending(held.state, after))
            except (ProofError, ConflictError, SignatureError) as error:
                refusal = error
            else:
                return
        await self.core.refused(log, view, request, refusal)
        raise refusal

    async def sign_subtree(self, request: SignSubtree) -> bytes:
        """Return signature lines over a subtree of a checkpoint that this mirror signed."""
        return await self.core.sign_subtree(request)

    async def add_entries(self, body: AsyncIterable[bytes]) -> UploadAnswer:
        """Take entries as they arrive, and commit the checkpoint when none is missing.

        A body that breaks off costs only what was incomplete. Raises FormatError (400), Rejected UNKNOWN_ORIGIN (404),
        UploadConflict (409), ProofError (422).
        """
        upload = _Upload(self, UploadReader())
        fault: FormatError | None = None
        try:
            async for chunk in body:
                await upload.receive(chunk)
                fault = upload.reader.fault
                if fault is not None or upload.count >= MAX_REQUEST_PACKAGES:
                    break
            else:
                upload.reader.finish()
        except FormatError as error:
            fault = error
        return await upload.finish(fault)

    def open_upload(self, head: UploadHead) -> tuple[KnownLog, CosignerView]:
        """Judge the head of an upload. Raises Rejected, ProofError, UploadConflict."""
        log = self.core.find(head.origin)
        state = self.state(log.origin)
        remembered = open_ticket(self._secret, log.origin, head.ticket) if head.ticket else None
        try:
            return log, check_upload(state, head, remembered)
        except ConflictError as error:
            raise UploadConflict(error, self.info(log, None)) from None

    def info(self, log: KnownLog, target: CosignerView | None) -> MirrorInfo:
        """Return where the mirror stands with a log."""
        return info_of(self.state(log.origin), target, self._secret, log.origin)

    async def prove(
        self, log: KnownLog, target: CosignerView, packages: Sequence[Package]
    ) -> tuple[list[ProvenPart], Error | None]:
        """Return the parts of packages that follow each other, proven against the target, up to the first that fails.

        The second value is what failed, None when nothing did.
        """
        first = packages[0].place
        lead = b""
        if first.start % TILE_WIDTH:
            lead = await self._read_lead(log.origin, first)
        return await asyncio.to_thread(_prove_all, self.core, target, packages, lead)

    async def _read_lead(self, origin: str, place: PackagePlace) -> bytes:
        """Return the entries of a bundle that stand before a package, as the bundle has them."""
        held = self._held[origin]
        count = place.start % TILE_WIDTH
        if place.bundle == held.growth.edge.tree_size >> TILE_HEIGHT:
            return cut_bundle(held.growth.data, count)
        return await self._read_bundle(origin, place.bundle, count)

    async def store(self, log: KnownLog, parts: Sequence[ProvenPart]) -> None:
        """Make proven entries durable, and then say so."""
        if parts:
            await whole(self._store(log, parts))

    async def _store(self, log: KnownLog, parts: Sequence[ProvenPart]) -> None:
        """Wait for the log's turn, and store."""
        async with self.core.lock(log.origin):
            held = self._take(log)
            growth, objects = await asyncio.to_thread(held.growth.extended, self.core.hasher, parts)
            await self._put(log, objects)
            await self._save(log, held, advance(held.state, growth.next_entry))
            held.growth = growth

    async def commit(self, log: KnownLog, target: CosignerView, parts: Sequence[ProvenPart] = ()) -> bytes:
        """Store the last entries, make the target the mirror checkpoint, and return signature lines over it.

        Raises UploadConflict when the mirror checkpoint has passed it meanwhile; the entries are kept.
        """
        return await whole(self._commit(log, target, parts))

    async def _commit(self, log: KnownLog, target: CosignerView, parts: Sequence[ProvenPart]) -> bytes:
        """Wait for the log's turn, and commit."""
        async with self.core.lock(log.origin):
            held = self._take(log)
            growth, objects = await asyncio.to_thread(held.growth.extended, self.core.hasher, parts)
            state, overtaken = advance(held.state, growth.next_entry), None
            try:
                state = commit(state, target)
            except ConflictError as error:
                overtaken = error
            if overtaken is None and held.state.committed_size != target.tree_size:
                objects |= await self._objects_of(log.origin, growth, target)
            await self._put(log, objects)
            lines = b""
            if overtaken is None:
                signed = await self.core.sign_view(log, replace(target, lines=b""), held.state.committed)
                state, lines = replace(state, committed=signed), signed.lines
            await self._save(log, held, state)
            held.growth = growth
        if overtaken is not None:
            raise UploadConflict(overtaken, self.info(log, None))
        return lines

    async def _put(self, log: KnownLog, objects: dict[str, bytes]) -> None:
        """Make objects of a log durable."""
        if objects:
            prefix = object_prefix(log.origin)
            await self.core.objects.put({f"{prefix}{path}": content for path, content in objects.items()})

    async def _objects_of(self, origin: str, growth: Growth, target: CosignerView) -> dict[str, bytes]:
        """Return the partial objects of the target's tree, proven against its root."""
        places = growth.needs(target.tree_size)
        prefix = object_prefix(origin)
        contents = await self.core.objects.fetch([f"{prefix}{place.path}" for place in places])
        held: dict[Tile | EntriesTile, bytes] = {
            place: content for place, content in zip(places, contents, strict=True) if content is not None
        }
        return await asyncio.to_thread(growth.objects_for, self.core.hasher, target, held)

    async def begin_at(self, log: KnownLog, edge: TileEdge, tiles: dict[str, bytes]) -> None:
        """Begin a log that is new here at the edge's size, a multiple of 256. tiles: proven, of what comes before it.

        Raises ConflictError when something is here already.
        """
        async with self.core.lock(log.origin):
            held = self._take(log)
            if held.state.next_entry or held.state.committed is not None:
                raise ConflictError(Reason.CONFLICT, f"the mirror holds entries of {log.origin} already")
            prefix = object_prefix(log.origin)
            await self.core.objects.put({f"{prefix}{path}": content for path, content in tiles.items()})
            await self.core.objects.replace({start_key(log.origin): encode_start(edge)})
            state = replace(held.state, minimum_index=edge.tree_size, next_entry=edge.tree_size)
            await self._save(log, held, state)
            held.growth = Growth(edge)

    async def set_minimum_index(self, origin: str, minimum_index: int) -> None:
        """Remember that entries below are no longer held. It never falls, nor passes the mirror checkpoint."""
        log = self.core.find(origin)
        async with self.core.lock(origin):
            held = self._take(log)
            most = held.state.committed_size
            if held.state.minimum_index < minimum_index <= most:
                await self._save(log, held, replace(held.state, minimum_index=minimum_index))


class _Upload:
    """One request to add entries, as it goes on: each package is proven when it is whole, and stored with others."""

    def __init__(self, mirror: Mirror, reader: UploadReader) -> None:
        self.mirror, self.reader = mirror, reader
        self.count = 0
        self._opened: tuple[KnownLog, CosignerView] | None = None
        self._parts: list[ProvenPart] = []
        self._bytes = 0

    async def receive(self, chunk: bytes) -> None:
        """Take a piece of the body; prove what it completes, and store what is enough for a batch.

        Raises the ProofError of the first package that fails, when those before it are stored.
        """
        packages = self.reader.receive(chunk)
        if self._opened is None and self.reader.head is not None:
            self._opened = self.mirror.open_upload(self.reader.head)
        if not packages:
            return
        assert self._opened is not None
        parts, error = await self.mirror.prove(*self._opened, packages)
        self._parts += parts
        self._bytes += sum(len(part.data) for part in parts)
        self.count += len(parts)
        is_batch = self._bytes >= BATCH_BYTES or len(self._parts) >= BATCH_PACKAGES
        if error is not None or (is_batch and not self.reader.is_complete):
            await self._flush()
        if error is not None:
            raise error

    async def _flush(self) -> None:
        """Store what was proven."""
        assert self._opened is not None
        parts, self._parts, self._bytes = self._parts, [], 0
        await self.mirror.store(self._opened[0], parts)

    async def finish(self, fault: FormatError | None) -> UploadAnswer:
        """End the request: commit, or say what is missing. fault: how the body ended, None for a good end."""
        if self._opened is None:
            raise fault or FormatError(Reason.TRUNCATED, "the upload ends in its head")
        log, target = self._opened
        if fault is not None and not self.count:
            raise fault
        if fault is None and self.reader.is_complete:
            return UploadAnswer(await self.mirror.commit(log, target, self._parts), self.mirror.info(log, target))
        if not self.count:
            raise FormatError(Reason.TRUNCATED, "the upload brings no package, although entries are missing")
        await self._flush()
        return UploadAnswer(b"", self.mirror.info(log, target))


def _prove_all(
    core: Core, target: CosignerView, packages: Sequence[Package], lead: bytes
) -> tuple[list[ProvenPart], Error | None]:
    """Prove packages one after the other, until one fails. lead: the entries in the bundle before the first one."""
    parts: list[ProvenPart] = []
    for package in packages:
        try:
            held = core.hasher.leaves(EntryBundle.parse(lead).entries) if lead else b""
            row = verify_package(core.hasher, target, package, held)
        except (ProofError, FormatError) as error:
            return parts, error
        parts.append(ProvenPart(package.place, row, lead + package.data))
        lead = b""
    return parts, None


def start_key(origin: str) -> str:
    """Return the key of the edge from which a mirror that began at a minimum index grows."""
    return f"private/start/{object_prefix(origin).removeprefix('public/').rstrip('/')}"


def encode_start(edge: TileEdge) -> bytes:
    """Return an edge's bytes: its size, and its rows behind their lengths."""
    rows = b"".join(len(row).to_bytes(2, "big") + row for row in edge.rows)
    return edge.tree_size.to_bytes(8, "big") + rows


def parse_start(data: bytes, hash_size: int) -> TileEdge:
    """Read what `encode_start` wrote. Raises FormatError."""
    rows = EntryBundle.parse(data[8:]).entries if len(data) > 8 else ()
    return TileEdge(hash_size, int.from_bytes(data[:8], "big"), tuple(rows))


def _present(content: bytes | None, origin: str, what: object) -> bytes:
    """Return a stored object. Raises StorageError when it is gone."""
    if content is None:
        raise StorageError(
            Reason.DAMAGED,
            f"{what} of {origin} is missing here, although the mirror signed for it; bring it back from a backup",
        )
    return content
