"""One tree of our own log as its cosigners are shown it: consistency proofs, and packages of entries.

Everything is read from the published objects and proven against the tree's root before it is shown. What several
cosigners need is computed once; the entries of the newest round are in memory and not read again.

Spec: C2SP tlog-tiles, "Merkle Tree"; tlog-mirror, "add-entries".
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from mtc.ca.proofs import LogReader, TreeHead
from mtc.cosign.upload import PackagePlace, encode_package
from mtc.errors import Error, PeerError, Reason, StorageError
from mtc.log.formats import public_prefix
from mtc.log.seams import TreeToSign
from mtc.merkle import Hasher, HashReader, Subtree, prove_consistency, subtree_hash
from mtc.store import ObjectStore
from mtc.tiles import TILE_WIDTH, EntriesTile

_Result = TypeVar("_Result")


class PublishedTree:
    """A tree that the register decided and whose objects are published. `EntrySource` for uploads to mirrors.

    Raises StorageError when our own objects do not lead to the root, PeerError (PRUNED) for entries that are gone.
    """

    def __init__(self, hasher: Hasher, store: ObjectStore, reader: LogReader, tree: TreeToSign) -> None:
        """Take the tree, and the log's reader, which keeps proven tiles from one tree to the next."""
        self._hasher = hasher
        self._store = store
        self.reader = reader
        # Without its entries, the newest round is read like any other.
        self._tree = tree if tree.entries else replace(tree, start=tree.tree_size)
        self.head = TreeHead(tree.tree_size, tree.root_hash)
        # What was asked for, by what it is: everybody after the first waits for the same task.
        self._tasks: dict[object, asyncio.Task[Any]] = {}

    def close(self) -> None:
        """End what is under way."""
        for task in self._tasks.values():
            task.cancel()

    async def prove_growth(self, old_size: int) -> tuple[bytes, ...]:
        """Return the consistency proof from `old_size` to the tree; empty from nothing."""
        if not old_size:
            return ()
        (proof,) = await self.prove_subtrees([Subtree(0, old_size)])
        return proof

    async def prove_subtrees(self, subtrees: Sequence[Subtree]) -> list[tuple[bytes, ...]]:
        """Return the subtree consistency proofs to the tree, in the order asked."""
        wanted, size = tuple(subtrees), self._tree.tree_size

        def prover(hashes: HashReader) -> list[tuple[bytes, ...]]:
            return [tuple(prove_consistency(self._hasher, hashes, subtree, size)) for subtree in wanted]

        return await self._once(("proofs", wanted), lambda: self._ask(prover))

    async def root_at(self, tree_size: int) -> bytes:
        """Return the root hash that the log had at a size that is not larger than the tree."""
        if not tree_size:
            return self._hasher.empty
        return await self._once(
            ("root", tree_size),
            lambda: self._ask(lambda hashes: subtree_hash(self._hasher, hashes, Subtree(0, tree_size))),
        )

    async def read_packages(self, places: Sequence[PackagePlace], tree_size: int) -> list[bytes]:
        """Return encoded packages with their proofs to the tree, whose size must be `tree_size`."""
        assert tree_size == self._tree.tree_size
        if places and places[0].start >= self._tree.start:
            # Of the newest round, which every mirror wants; older ones are wanted by few, and too many to keep.
            wanted = tuple(places)
            return await self._once(("packages", wanted), lambda: self._packages(wanted))
        return await self._packages(places)

    async def _packages(self, places: Sequence[PackagePlace]) -> list[bytes]:
        """Put packages together."""
        proofs = await self.prove_subtrees([place.subtree for place in places])
        rows = await self._rows(places)
        return [encode_package(row, proof) for row, proof in zip(rows, proofs, strict=True)]

    async def _rows(self, places: Sequence[PackagePlace]) -> list[bytes]:
        """Return the entries of places, each behind its length."""
        tree = self._tree
        known = {
            place: b"".join(
                len(entry).to_bytes(2, "big") + entry
                for entry in tree.entries[place.start - tree.start : place.end - tree.start]
            )
            for place in places
            if place.start >= tree.start
        }
        others = [place for place in places if place not in known]
        return [*map(_cut, others, await self._bundles(others)), *(known[place] for place in places if place in known)]

    async def _bundles(self, places: Sequence[PackagePlace]) -> list[bytes]:
        """Return the entry bundles that places lie in, of the tree or larger."""
        if not places:
            return []
        prefix, size = public_prefix(self._tree.log_number), self._tree.tree_size
        tiles = [EntriesTile(place.bundle, min(TILE_WIDTH, size - place.bundle * TILE_WIDTH)) for place in places]
        found = await self._store.fetch([f"{prefix}{tile.path}" for tile in tiles])
        gone = [at for at, content in enumerate(found) if content is None]
        if gone:
            again = await self._store.fetch([f"{prefix}{tiles[at].full.path}" for at in gone])
            for at, content in zip(gone, again, strict=True):
                found[at] = content
        contents = [content for content in found if content is not None]
        if len(contents) < len(tiles):
            missing = next(tile for tile, content in zip(tiles, found, strict=True) if content is None)
            raise PeerError(
                Reason.PRUNED,
                f"this log does not serve {missing} any more, so a mirror that lacks it cannot be brought up to date; "
                "it may begin at a later minimum index",
                tile=missing.path,
            )
        return contents

    async def _ask(self, prover: Callable[[HashReader], _Result]) -> _Result:
        """Ask the log's own hashes; what is wrong with them is our storage's fault, nobody else's."""
        try:
            return await self.reader.ask(self.head, prover)
        except StorageError:
            raise
        except Error as error:
            raise StorageError(
                Reason.STORAGE,
                f"log {self._tree.log_number}: the published tiles do not give a proof: {error.message}; check it with "
                "mtc fsck",
            ) from None

    async def _once(self, key: object, work: Callable[[], Coroutine[Any, Any, _Result]]) -> _Result:
        """Do something for the first who asks; the others get the same. What failed is tried again."""
        task = self._tasks.get(key)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._tasks[key] = asyncio.create_task(work())
            # When everybody has given up, nobody asks for its error any more.
            task.add_done_callback(lambda done: done.cancelled() or done.exception())
        # Whoever gives up does not take it from the others.
        result: _Result = await asyncio.shield(task)
        return result


def _cut(place: PackagePlace, bundle: bytes) -> bytes:
    """Return the entries of a place out of its bundle. Raises StorageError when it is too short."""
    first = place.start % TILE_WIDTH
    at, begin, end = 0, 0, len(bundle)
    for number in range(first + place.end - place.start):
        if number == first:
            begin = at
        at += 2 + int.from_bytes(bundle[at : at + 2], "big")
        if at > end:
            where = EntriesTile(place.bundle)
            raise StorageError(Reason.STORAGE, f"{where} holds too few entries; check it with mtc fsck")
    return bundle[begin:at]
