"""A reader of a log that is not ours: the standard library, and a library's ML-DSA. It shares no code with `mtc`.

It reads a folder as a client reads URLs, checks the CA's signature under the checkpoint, hashes every entry, rebuilds
the tree, compares every tile that the tree needs, and reads the landmarks.

Spec: C2SP tlog-tiles, tlog-checkpoint, tlog-cosignature, mtc-tlog; RFC 9162; Merkle Tree Certificates, "Log Entries".
"""

import base64
import hashlib
import struct
from collections.abc import Callable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey

Fetch = Callable[[str], bytes]


def leaf(entry: bytes) -> bytes:
    """Hash an entry."""
    return hashlib.sha256(b"\0" + entry).digest()


def node(left: bytes, right: bytes) -> bytes:
    """Hash two hashes."""
    return hashlib.sha256(b"\1" + left + right).digest()


def tree_hash(hashes: list[bytes]) -> bytes:
    """Return the root over a row of hashes, by the recursive definition of RFC 9162."""
    if not hashes:
        return hashlib.sha256(b"").digest()
    if len(hashes) == 1:
        return hashes[0]
    split = 1
    while split * 2 < len(hashes):
        split *= 2
    return node(tree_hash(hashes[:split]), tree_hash(hashes[split:]))


def path_of(number: int) -> str:
    """Write a tile's number as tlog-tiles does."""
    text = f"{number % 1000:03d}"
    while number >= 1000:
        number //= 1000
        text = f"x{number % 1000:03d}/{text}"
    return text


@dataclass
class StrangeLog:
    """What the reader found. entries: all of them, raw."""

    origin: str
    tree_size: int
    root: bytes
    timestamp: int
    entries: list[bytes]


def read_checkpoint(note: bytes, key_name: str, public_key: bytes) -> tuple[str, int, bytes, int]:
    """Return origin, size, root and timestamp of a checkpoint that the CA signed with ML-DSA-44."""
    text, _, signatures = note.rpartition(b"\n\n")
    text += b"\n"
    origin, size, root = text.decode().split("\n")[:3]
    root_hash = base64.b64decode(root, validate=True)
    key_id = hashlib.sha256(key_name.encode() + b"\n\x06" + public_key).digest()[:4]
    for line in signatures.decode().splitlines():
        dash, name, encoded = line.split(" ")
        assert dash == "\N{EM DASH}"
        blob = base64.b64decode(encoded, validate=True)
        if name == key_name and blob[:4] == key_id:
            timestamp = struct.unpack(">Q", blob[4:12])[0]
            message = b"subtree/v1\n\0"
            message += bytes([len(key_name)]) + key_name.encode() + blob[4:12]
            message += bytes([len(origin)]) + origin.encode() + struct.pack(">QQ", 0, int(size)) + root_hash
            MLDSA44PublicKey.from_public_bytes(public_key).verify(blob[12:], message)
            return origin, int(size), root_hash, timestamp
    raise AssertionError("the checkpoint is not signed by the CA")


def read_entries(fetch: Fetch, tree_size: int) -> list[bytes]:
    """Return every entry, from the bundles that a tree of this size has."""
    entries: list[bytes] = []
    for number in range((tree_size + 255) // 256):
        width = min(256, tree_size - number * 256)
        data = fetch(f"tile/entries/{path_of(number)}" + (f".p/{width}" if width < 256 else ""))
        count = 0
        while data:
            length = struct.unpack(">H", data[:2])[0]
            assert len(data) >= 2 + length, "an entry is cut off"
            entries.append(data[2 : 2 + length])
            data, count = data[2 + length :], count + 1
        assert count == width, "a bundle holds another number of entries"
    return entries


def check_tiles(fetch: Fetch, hashes: list[bytes]) -> int:
    """Compare every tile of the tree with the hashes of its entries; return how many there are."""
    level, tiles = 0, 0
    while hashes:
        for number in range((len(hashes) + 255) // 256):
            row = hashes[number * 256 : number * 256 + 256]
            data = fetch(f"tile/{level}/{path_of(number)}" + (f".p/{len(row)}" if len(row) < 256 else ""))
            assert data == b"".join(row), f"tile {level}/{number} holds other hashes"
            tiles += 1
        hashes = [tree_hash(hashes[at : at + 256]) for at in range(0, len(hashes) - len(hashes) % 256, 256)]
        level += 1
    return tiles


def read_log(fetch: Fetch, key_name: str, public_key: bytes) -> StrangeLog:
    """Read and check a whole log."""
    origin, size, root, timestamp = read_checkpoint(fetch("checkpoint"), key_name, public_key)
    entries = read_entries(fetch, size)
    hashes = [leaf(entry) for entry in entries]
    assert tree_hash(hashes) == root, "the entries do not hash to the signed root"
    check_tiles(fetch, hashes)
    lines = fetch("landmarks").decode().splitlines()
    landmarks = [tuple(map(int, line.split(" "))) for line in lines[1:]]
    sizes = [item[0] for item in landmarks]
    assert sizes == sorted(set(sizes), reverse=True), "landmark sizes do not shrink towards the end of the file"
    assert sizes[0] <= size, "a landmark lies beyond the checkpoint"
    return StrangeLog(origin, size, root, timestamp, entries)


class TileProver:
    """Proves that an entry is in a tree, from tiles alone, of which only the root is believed."""

    def __init__(self, fetch: Fetch, tree_size: int) -> None:
        """Take the tiles of a tree of this size."""
        self.fetch = fetch
        self.tree_size = tree_size

    def hash_of(self, start: int, end: int) -> bytes:
        """Return the hash of entries [start, end), which a proof in this tree asks for."""
        count = end - start
        if count & (count - 1):
            split = 1 << (count.bit_length() - 1)
            return node(self.hash_of(start, start + split), self.hash_of(start + split, end))
        level = (count.bit_length() - 1) // 8
        first, last = start >> 8 * level, end >> 8 * level
        width = min(256, (self.tree_size >> 8 * level) - (first >> 8) * 256)
        data = self.fetch(f"tile/{level}/{path_of(first >> 8)}" + (f".p/{width}" if width < 256 else ""))
        row = [data[at : at + 32] for at in range(0, len(data), 32)]
        return tree_hash(row[first & 255 : (first & 255) + last - first])

    def path(self, index: int) -> list[tuple[bytes, bool]]:
        """Return the inclusion proof of RFC 9162, leaf upwards: sibling hashes, and whether each is on the left."""
        start, end, found = 0, self.tree_size, []
        while end - start > 1:
            split = start + (1 << ((end - start - 1).bit_length() - 1))
            if index < split:
                found.append((self.hash_of(split, end), False))
                end = split
            else:
                found.append((self.hash_of(start, split), True))
                start = split
        return found[::-1]


def check_inclusion(entry: bytes, path: list[tuple[bytes, bool]], root: bytes) -> None:
    """Check that the proof leads from the entry to the root."""
    value = leaf(entry)
    for sibling, is_left in path:
        value = node(sibling, value) if is_left else node(value, sibling)
    assert value == root, "the proof does not lead to the root"
