"""Loads a mirror with the entries of throw-away logs, by several uploaders at once, and reads everything back.

A log grows, its checkpoint is handed in, and its entries are uploaded in requests of at most 32 packages until the
mirror signs. What the mirror serves afterwards is compared with the log, byte by byte. In between come requests that it
must refuse.

Spec: C2SP tlog-mirror.
"""

import asyncio
import gzip
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from mtc.cli.hammer.chains import (
    MAX_ANSWER_BYTES,
    Chain,
    find_all,
    find_size,
    posix_now,
    send_wrong,
    send_wrong_subtree,
    sign_subtree,
    subtree_key,
)
from mtc.cli.hammer.fetching import MAX_CHECKPOINT_BYTES, check_note, fetch_place, open_checkpoint
from mtc.cli.hammer.load import Load
from mtc.cli.hammer.synthetic import SyntheticLog
from mtc.cli.hammer.uploads import WRONG_UPLOADS, parse_info, upload_body
from mtc.cli.hammer.witness import CosignerOptions, check_root
from mtc.cosign.upload import PACKAGES_PER_REQUEST, MirrorInfo
from mtc.errors import PeerError, ProofError, Reason, Rejected, UsageError
from mtc.note import Checkpoint, Note, OpenedNote, VerifierKey, parse_signature_lines
from mtc.tiles import TILE_HEIGHT, TILE_WIDTH, EntriesTile, Tile, width_in_tree
from mtc.web.client import Answer

T = TypeVar("T")

_INFO_BYTES = 256 << 10
_RIVALS = 0.1
_SUBTREES = 0.1
_GZIPPED = 0.1
_CHECKPOINTS = 0.2


@dataclass(frozen=True, slots=True)
class MirrorOptions:
    """How a mirror is loaded. cosigner: which one. batch: entries by which a log grows between two checkpoints."""

    cosigner: CosignerOptions
    batch: int = 2 * PACKAGES_PER_REQUEST * TILE_WIDTH


@dataclass(slots=True)
class MirroredLog(Chain):
    """A log at a mirror. size is that of the pending checkpoint, committed that of the mirror checkpoint.

    note: the pending checkpoint, None when it is not of this run. next_entry: the first one that the mirror lacks, as
    it said last. uploaders: how many requests with entries are under way.
    """

    committed: int = 0
    next_entry: int = 0
    ticket: bytes = b""
    note: Note | None = None
    uploaders: int = 0


class MirrorLoad:
    """The scenario; see the module."""

    def __init__(self, load: Load, options: MirrorOptions, logs: Sequence[SyntheticLog], chance: random.Random) -> None:
        """Take the mirror and the logs that it knows."""
        self._load = load
        self._keys: tuple[VerifierKey, ...] = options.cosigner.keys
        self._options = options.cosigner
        self._batch = options.batch
        self._base = options.cosigner.base.rstrip("/")
        self._monitoring = (options.cosigner.monitoring or self._base).rstrip("/")
        self._chance = chance
        self._logs = [MirroredLog(log) for log in logs]
        self._subtree_key = subtree_key(self._keys) if self._options.with_subtrees else None
        if self._options.with_subtrees and self._subtree_key is None:
            raise UsageError(Reason.USAGE, "subtrees are signed with ML-DSA-44; give such a --vkey, or --no-subtrees")

    def facts(self) -> Mapping[str, object]:
        """Return the sizes of the logs."""
        return {"logs": len(self._logs), "tree_size": max(held.committed for held in self._logs)}

    async def prepare(self) -> None:
        """Ask where the mirror stands with every log."""
        await find_all(self._load, self._base, self._logs)
        for held in self._logs:
            await self._read_checkpoint(held)
            held.next_entry = held.committed

    async def step(self, worker: int) -> None:
        """Do one thing with the worker's log."""
        held = self._logs[worker % len(self._logs)]
        is_wrong = self._chance.random() < self._options.wrong
        key = self._subtree_key
        if key is not None and held.signed is not None and self._chance.random() < _SUBTREES:
            ask = send_wrong_subtree if is_wrong else sign_subtree
            await ask(self._load, self._base, held, key, self._chance)
        elif held.lock.locked() or (held.uploaders and self._chance.random() > _RIVALS):
            # One moves the log on; the others read what is there, or upload the same entries once more.
            await self._read_back(held)
        elif is_wrong:
            await self._send_wrong(held)
        elif not held.is_known or (held.committed >= held.size and held.note is not None):
            async with held.lock:
                await self._grow(held)
        else:
            await self._upload(held)

    async def _grow(self, held: MirroredLog) -> None:
        """Hand in a checkpoint with more entries; after a lost answer, ask first which one the mirror has."""
        if not held.is_known:
            held.note = None
            await find_size(self._load, self._base, held)
            return
        log, old = held.log, held.size
        await asyncio.to_thread(log.grow, old + self._batch)
        note = log.sign(log.head(old + self._batch), posix_now())
        await self._add(held, note, old)

    async def _add(self, held: MirroredLog, note: Note, old: int) -> None:
        """Hand in a checkpoint. The mirror's own key must not sign it: the entries are not there."""

        def check(answer: Answer) -> bool:
            lines = parse_signature_lines(answer.body) if answer.body else ()
            own = {(key.name, key.key_id) for key in self._keys}
            if any((line.name, line.key_id) in own for line in lines):
                raise Rejected(
                    Reason.UNKNOWN_SIGNER, "the mirror signed a checkpoint whose entries it does not have yet"
                )
            return True

        body = held.body(old, note)
        url = f"{self._base}/add-checkpoint"
        if await self._load.call("add-checkpoint", url, check, method="POST", body=body, most=MAX_ANSWER_BYTES):
            held.size, held.note = Checkpoint.parse(note.text).tree_size, note
        else:
            held.is_known = False

    async def _upload(self, held: MirroredLog) -> None:
        """Send entries that the mirror lacks, and follow its answer."""
        log, end = held.log, held.size
        if held.note is None:
            # The pending checkpoint is of an earlier run; the same tree, signed again, is the same for the mirror.
            async with held.lock:
                await self._add(held, log.sign(log.head(end), posix_now()), end)
            if held.note is None:
                return
        note = held.note
        start = min(held.next_entry, end)
        body = upload_body(log, start, end, held.ticket)
        held.uploaders += 1
        try:
            result = await self._send(
                body, lambda answer: self._check_upload(held, note, start, answer), (200, 202, 409), "add-entries"
            )
        finally:
            held.uploaders -= 1
        if isinstance(result, MirrorInfo):
            self._load.figures.amounts["entries uploaded"] += max(min(result.next_entry, end) - held.next_entry, 0)
            held.next_entry, held.ticket = result.next_entry, result.ticket
            if result.tree_size != end:
                held.is_known = False
        elif result is not None:
            self._load.figures.amounts["entries uploaded"] += max(end - held.next_entry, 0)
            self._load.figures.amounts["cosignatures"] += len(result.verified)
            held.next_entry = max(held.next_entry, end)
            if end >= held.committed:
                held.committed = end
                held.signed = note.with_signatures(*(item.signature for item in result.verified))
            await self._read_back(held)

    def _check_upload(self, held: MirroredLog, note: Note, start: int, answer: Answer) -> OpenedNote | MirrorInfo:
        """Return the mirror's signatures or its state, from an answer to an upload for the checkpoint of `note`."""
        log, floor = held.log, held.committed
        if answer.status == 200:
            _, opened = check_note(Note(note.text, parse_signature_lines(answer.body)), self._keys, log.origin)
            return opened
        info = parse_info(answer)
        if answer.status == 202 and info.next_entry <= start:
            raise PeerError(Reason.PEER, f"the mirror stored some entries and still lacks entry {info.next_entry}")
        if info.next_entry < floor:
            # Pending entries may be lost in a crash, what the mirror signed may not.
            raise Rejected(
                Reason.STALE_SIZE,
                f"the mirror forgot: it signed {floor} entries, and lacks entry {info.next_entry} now",
                expected=floor,
                got=info.next_entry,
            )
        if info.tree_size > log.tree_size:
            raise ProofError(Reason.EQUIVOCATION, f"a tree of {info.tree_size} entries is pending, the log has none")
        return info

    async def _send(self, body: bytes, check: Callable[[Answer], T], statuses: Sequence[int], kind: str) -> T | None:
        """Send an upload, sometimes compressed."""
        headers = {"Content-Type": "application/octet-stream"}
        if self._chance.random() < _GZIPPED:
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body, 1)
        return await self._load.call(
            kind,
            f"{self._base}/add-entries",
            check,
            method="POST",
            body=body,
            headers=headers,
            statuses=statuses,
            most=_INFO_BYTES,
        )

    async def _send_wrong(self, held: MirroredLog) -> None:
        """Send what the mirror must refuse: a checkpoint, or an upload."""
        if self._chance.random() < 0.5 or held.committed >= held.size:
            async with held.lock:
                if held.is_known:
                    await send_wrong(self._load, self._base, held, self._chance)
            return
        start, end = held.next_entry, held.size
        if start >= end:
            return
        wrong = self._chance.choice(WRONG_UPLOADS)(held.log, start, end, self._chance)

        def check(answer: Answer) -> bool:
            if answer.status == 409 and wrong.status != 409:
                # Only where the mirror has moved on meanwhile, by another upload, is this an answer too.
                info = parse_info(answer)
                if (info.tree_size, info.next_entry) == (end, start):
                    raise PeerError(Reason.PEER, f"the answer is 409, not {wrong.status}, though nothing has moved")
            elif answer.status == 409:
                parse_info(answer)
            return True

        statuses = (wrong.status,) if wrong.status == 404 else (wrong.status, 409)
        await self._send(wrong.body, check, statuses, wrong.kind)

    async def _read_back(self, held: MirroredLog) -> None:
        """Read a checkpoint, a tile or a bundle of what the mirror signed, and compare it with the log."""
        log, size = held.log, held.committed
        if not size or self._chance.random() < _CHECKPOINTS:
            await self._read_checkpoint(held)
            return
        level = 0
        # Half of the time where the tree grows, because that is where partial tiles come and go.
        index = size - 1 if self._chance.random() < 0.5 else self._chance.randrange(size)
        place: Tile | EntriesTile
        if self._chance.random() < 0.5:
            place = EntriesTile(index // TILE_WIDTH)
            place = EntriesTile(place.index, width_in_tree(place, size))
        else:
            level = self._chance.randrange((size.bit_length() + TILE_HEIGHT - 1) // TILE_HEIGHT)
            at = min(index >> TILE_HEIGHT * level, (size >> TILE_HEIGHT * level) - 1)
            tile = Tile(level, at // TILE_WIDTH)
            place = Tile(level, tile.index, width_in_tree(tile, size))
        content = await fetch_place(self._load, f"{self._monitoring}/{log.origin_hash}", place)
        if content and content != log.content(place):
            kind = "bundle" if isinstance(place, EntriesTile) else "tile"
            error = ProofError(Reason.HASH_MISMATCH, f"{place} of {log.origin} is not what was uploaded")
            self._load.blame(kind, error)

    async def _read_checkpoint(self, held: MirroredLog) -> None:
        """Read the mirror checkpoint; it never goes back, and the mirror and the log have signed it."""
        log, floor = held.log, held.committed

        def check(answer: Answer) -> int:
            if answer.status == 404:
                if floor:
                    raise Rejected(Reason.STALE_SIZE, f"no checkpoint is served, there was one of {floor} entries")
                return 0
            checkpoint, opened = open_checkpoint(answer.body, (*self._keys, log.key), log.origin)
            if checkpoint.tree_size < floor:
                raise Rejected(
                    Reason.STALE_SIZE,
                    f"a checkpoint of {checkpoint.tree_size} entries is served, there was one of {floor}",
                    expected=floor,
                    got=checkpoint.tree_size,
                )
            check_root(log, checkpoint)
            if checkpoint.tree_size > held.committed:
                held.committed = checkpoint.tree_size
                held.signed = Note(opened.text, tuple(item.signature for item in opened.verified))
            return checkpoint.tree_size

        url = f"{self._monitoring}/{log.origin_hash}/checkpoint"
        await self._load.call("read checkpoint", url, check, statuses=(200, 404), most=MAX_CHECKPOINT_BYTES)
