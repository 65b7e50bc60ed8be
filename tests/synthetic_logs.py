"""A log made for tests: any entries, any histories, honest or not, with the requests that its uploader would send."""

from collections.abc import Iterable, Sequence

from tests.note_keys import CA, TestSigner

from mtc.cosign.requests import AddCheckpoint, SignSubtree
from mtc.cosign.upload import UploadHead, encode_package, package_places
from mtc.kernel import active_kernel
from mtc.merkle import RowReader, Subtree, prove_consistency, subtree_hash
from mtc.note import Checkpoint, Note
from mtc.tiles import EntryBundle

HASHER = active_kernel().hasher("sha256")
ORIGIN = "oid/1.3.6.1.4.1.32473.1.0.1"
NOW = 1_795_000_000


def make_entries(count: int, label: str = "entry", *, start: int = 0) -> list[bytes]:
    """Return entries that differ by label and index."""
    return [f"{label} {index}".encode() for index in range(start, start + count)]


class SyntheticLog:
    """One history of a log. Two of them with the same key and origin are a split view."""

    def __init__(self, entries: Sequence[bytes] = (), *, signer: TestSigner = CA, origin: str = ORIGIN) -> None:
        """Start with some entries."""
        self.signer, self.origin = signer, origin
        self.entries: list[bytes] = []
        self.reader = RowReader(HASHER)
        self.append(entries)

    @property
    def size(self) -> int:
        """How many entries there are."""
        return len(self.entries)

    def append(self, entries: Iterable[bytes]) -> None:
        """Grow."""
        new = list(entries)
        self.entries += new
        self.reader.extend(HASHER.leaves(new))

    def root(self, size: int) -> bytes:
        """Return the root hash at a size."""
        return subtree_hash(HASHER, self.reader, Subtree(0, size))

    def hash_of(self, subtree: Subtree) -> bytes:
        """Return the hash of a subtree."""
        return subtree_hash(HASHER, self.reader, subtree)

    def checkpoint(self, size: int | None = None, *, root: bytes | None = None) -> Checkpoint:
        """Return the checkpoint of a size, the newest without one."""
        count = self.size if size is None else size
        return Checkpoint(self.origin, count, self.root(count) if root is None else root)

    def note(self, size: int | None = None, *, root: bytes | None = None, timestamp: int = NOW) -> Note:
        """Return a signed checkpoint."""
        checkpoint = self.checkpoint(size, root=root)
        time = timestamp if self.signer.key.is_cosigner else 0
        return Note(checkpoint.encode(), (self.signer.cosign(checkpoint, time),))

    def proof(self, old_size: int, size: int) -> list[bytes]:
        """Return the consistency proof between two sizes."""
        return prove_consistency(HASHER, self.reader, Subtree(0, old_size), size) if old_size else []

    def add_checkpoint(self, old_size: int, size: int | None = None, *, timestamp: int = NOW) -> bytes:
        """Return the body of add-checkpoint."""
        count = self.size if size is None else size
        return AddCheckpoint.encode(
            old_size, self.proof(old_size, count), self.note(count, timestamp=timestamp).encode()
        )

    def sign_subtree(self, subtree: Subtree, note: bytes, size: int) -> bytes:
        """Return the body of sign-subtree. note: a checkpoint of `size` with the cosigner's own signature."""
        proof = prove_consistency(HASHER, self.reader, subtree, size)
        return SignSubtree.encode(subtree, self.hash_of(subtree), proof, note)

    def packages(self, start: int, end: int, count: int | None = None) -> list[bytes]:
        """Return the first `count` packages of an upload of [start, end)."""
        packages = []
        for place in list(package_places(start, end))[:count]:
            proof = prove_consistency(HASHER, self.reader, place.subtree, end)
            entries = EntryBundle(tuple(self.entries[place.start : place.end])).encode()
            packages.append(encode_package(entries, proof))
        return packages

    def upload(self, start: int, end: int, *, ticket: bytes = b"", count: int | None = None) -> bytes:
        """Return the body of add-entries."""
        return UploadHead(self.origin, start, end, ticket).encode() + b"".join(self.packages(start, end, count))
