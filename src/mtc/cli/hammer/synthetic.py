"""A log made up for a run: its tree grows in memory, its entries follow from its key, its checkpoints are signed.

The same key, origin and entry size always give the same entries, so that a later run goes on where an earlier one
stopped, and a target that remembers the earlier tree sees a log that only grew.
"""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from mtc.crypto import LocalSigner
from mtc.errors import ProofError, Reason, UsageError
from mtc.kernel import active_kernel
from mtc.merkle import Node, RowReader, Subtree, prove_consistency, root_hash, subtree_hash
from mtc.note import Checkpoint, Note, SignatureType, VerifierKey, checkpoint_message, note_signature
from mtc.tiles import MAX_ENTRY_BYTES, TILE_HEIGHT, TILE_WIDTH, EntriesTile, Tile

MAX_TREE = 1_000_000_000
"""Largest tree that is grown; it takes a quarter of a byte an entry, and a microsecond to hash."""
LEAST_ENTRY_BYTES = 16
_NOISE_BYTES = 32
_GROW_BUNDLES = 64
_HELD_ROWS = 128

_MTC_ORIGIN = re.compile(r"(oid/1\.3\.6\.1\.4\.1\.[0-9.]+)\.0\.[0-9]+", re.ASCII)


def key_of_log(signer: LocalSigner, origin: str) -> VerifierKey:
    """Return the key under which a log of this origin signs.

    Its name is the CA's for the log of a CA, and the origin for any other; Ed25519 signs notes as they are.
    """
    match = _MTC_ORIGIN.fullmatch(origin)
    if signer.algorithm.name == "ml-dsa-44":
        return VerifierKey.from_spki(
            match[1] if match else origin, SignatureType.COSIGNATURE_MLDSA44, signer.public_key
        )
    if signer.algorithm.name == "ed25519":
        return VerifierKey.from_spki(origin, SignatureType.ED25519, signer.public_key)
    raise UsageError(
        Reason.UNSUPPORTED, f"a log signs with ml-dsa-44 or ed25519, the key is of {signer.algorithm.name}"
    )


@dataclass(frozen=True, slots=True)
class TreeHead:
    """A tree of a synthetic log."""

    tree_size: int
    root_hash: bytes


class SyntheticLog:
    """One log. Raises UsageError for an entry size that no log has."""

    def __init__(self, origin: str, signer: LocalSigner, entry_bytes: int) -> None:
        """Take origin, key, and the size of every entry in bytes."""
        if not LEAST_ENTRY_BYTES <= entry_bytes <= MAX_ENTRY_BYTES:
            raise UsageError(
                Reason.USAGE, f"an entry has {LEAST_ENTRY_BYTES} to {MAX_ENTRY_BYTES} bytes, not {entry_bytes}"
            )
        self.origin = origin
        self.origin_hash = hashlib.sha256(origin.encode()).hexdigest()
        self.key = key_of_log(signer, origin)
        self.hasher = active_kernel().hasher("sha256")
        self._signer = signer
        self._entry_bytes = entry_bytes
        self._seed = hashlib.sha256(b"mtc hammer\0" + signer.public_key + origin.encode()).digest()
        self.tree_size = 0
        # Roots of full bundles, from which everything above follows. What is below is made again when it is needed.
        self._roots = RowReader(self.hasher)
        self._rows: dict[int, bytes] = {}

    def grow(self, tree_size: int) -> None:
        """Hash entries until there are at least so many. Raises UsageError above `MAX_TREE`."""
        if tree_size > MAX_TREE:
            raise UsageError(
                Reason.TOO_LARGE,
                f"{self.origin} would have {tree_size:,} entries, more than fit; make new logs with --make-log",
            )
        while self._roots.tree_size < tree_size // TILE_WIDTH:
            first = self._roots.tree_size
            last = min(tree_size // TILE_WIDTH, first + _GROW_BUNDLES)
            row = self.hasher.leaves(self.entries(first * TILE_WIDTH, last * TILE_WIDTH))
            for _ in range(TILE_HEIGHT):
                row = self.hasher.fold(row)
            self._roots.extend(row)
        self.tree_size = max(self.tree_size, tree_size)

    def head(self, tree_size: int) -> TreeHead:
        """Return the tree of so many entries, which must be hashed."""
        return TreeHead(tree_size, subtree_hash(self.hasher, self, Subtree(0, tree_size)))

    def hash_of(self, subtree: Subtree) -> bytes:
        """Return the hash of a subtree."""
        return subtree_hash(self.hasher, self, subtree)

    def prove(self, subtree: Subtree, tree_size: int) -> list[bytes]:
        """Return the proof that a tree contains a subtree; empty for [0, 0), from which nothing is proven."""
        return prove_consistency(self.hasher, self, subtree, tree_size)

    def entries(self, start: int, end: int) -> list[bytes]:
        """Return the entries [start, end)."""
        return [item[2:] for item in self._encoded(start, end)]

    def bundle(self, start: int, end: int) -> bytes:
        """Return the entries [start, end) as a bundle holds them."""
        return b"".join(self._encoded(start, end))

    def tile(self, tile: Tile) -> bytes:
        """Return the content of a tile, whose hashes must be there."""
        first = tile.index * TILE_WIDTH
        if not tile.level:
            return self._row(tile.index)[: tile.width * self.hasher.size]
        return b"".join(self.read([Node(TILE_HEIGHT * tile.level, first + at) for at in range(tile.width)]))

    def content(self, place: Tile | EntriesTile) -> bytes:
        """Return what a tile or a bundle holds."""
        return self.tile(place) if isinstance(place, Tile) else self.bundle(place.start, place.start + place.width)

    def sign(self, head: TreeHead, timestamp: int, origin: str | None = None) -> Note:
        """Return a signed checkpoint. origin: another one than the log's, for a request that is wrong."""
        checkpoint = Checkpoint(origin or self.origin, head.tree_size, head.root_hash)
        time = timestamp if self.key.is_cosigner else 0
        raw = self._signer.sign_now(checkpoint_message(self.key, checkpoint, time))
        return Note(checkpoint.encode(), (note_signature(self.key, raw, time),))

    def read(self, nodes: Sequence[Node]) -> list[bytes]:
        """Return the hashes of nodes, as a `merkle.HashReader` does."""
        return [self._node(node) for node in nodes]

    def _node(self, node: Node) -> bytes:
        """Return one hash."""
        if node.index + 1 << node.level > self.tree_size:
            raise ProofError(Reason.MISSING_HASH, f"the tree has no complete node {node}", node=node)
        if node.level >= TILE_HEIGHT:
            return self._roots.read([Node(node.level - TILE_HEIGHT, node.index)])[0]
        start = node.index << node.level
        at, size = start % TILE_WIDTH, self.hasher.size
        row = self._row(start // TILE_WIDTH)
        return root_hash(self.hasher, row[at * size : (at + (1 << node.level)) * size])

    def _row(self, bundle: int) -> bytes:
        """Return the leaf hashes of a full bundle, also of one that the tree holds only in part."""
        if bundle not in self._rows:
            while len(self._rows) >= _HELD_ROWS:
                del self._rows[next(iter(self._rows))]
            self._rows[bundle] = self.hasher.leaves(self.entries(bundle * TILE_WIDTH, (bundle + 1) * TILE_WIDTH))
        return self._rows[bundle]

    def _encoded(self, start: int, end: int) -> list[bytes]:
        """Return entries behind their lengths."""
        size = min(self._entry_bytes, _NOISE_BYTES)
        head, pad = self._entry_bytes.to_bytes(2, "big"), bytes(self._entry_bytes - size)
        result: list[bytes] = []
        for bundle in range(start // TILE_WIDTH, (end + TILE_WIDTH - 1) // TILE_WIDTH):
            noise = hashlib.shake_128(self._seed + bundle.to_bytes(8, "big")).digest(TILE_WIDTH * size)
            first = max(start - bundle * TILE_WIDTH, 0)
            last = min(end - bundle * TILE_WIDTH, TILE_WIDTH)
            result += [head + noise[at * size : (at + 1) * size] + pad for at in range(first, last)]
        return result


def flipped(data: bytes) -> bytes:
    """Return the bytes with one bit turned."""
    return data[:-1] + bytes((data[-1] ^ 1,))


def with_flipped(proof: Sequence[bytes]) -> list[bytes]:
    """Return a proof that is wrong: with a bit turned in its last hash, or with a hash where none belongs."""
    return [*proof[:-1], flipped(proof[-1])] if proof else [bytes(32)]
