"""A CA that shows two histories of one log, and examples of every kind of evidence."""

from functools import cache

from tests.note_keys import CA, LOG, MIRROR, WITNESS, TestSigner

from mtc.cosign.evidence import (
    BadEntries,
    BadSignature,
    EmptyRoot,
    Evidence,
    Exhibit,
    HeldSubtree,
    Inconsistent,
    RolledBack,
    SignedSubtree,
    SplitSubtree,
    SplitTrees,
    SplitView,
    WentBack,
    compare_subtree,
)
from mtc.cosign.requests import AddCheckpoint
from mtc.kernel import active_kernel
from mtc.merkle import Hasher, RowReader, Subtree, prove_consistency, subtree_hash
from mtc.note import Checkpoint, CosignedMessage, Note, SignatureType
from mtc.tiles import EntriesTile, EntryBundle, Tile, partial_tiles

ORIGIN = f"{CA.key.name}.0.1"
"""Log 1 of the CA."""
START = 1_795_000_000
"""POSIX seconds at which the CA signs its first checkpoint; a tree of n entries is signed n seconds later."""


class SplitViewCA:
    """One key and two histories of one log: views "A" and "B" have the first `fork` entries in common, and no more.

    length: entries of each view. signer: the CA's key.
    """

    def __init__(
        self, fork: int, length: int = 24, signer: TestSigner = CA, origin: str = ORIGIN, hash_name: str = "sha256"
    ) -> None:
        """Make both histories."""
        self.fork = fork
        self.signer = signer
        self.origin = origin
        self.hasher: Hasher = active_kernel().hasher(hash_name)
        self.entries = {
            view: [f"entry {at}{view if at >= fork else ''}".encode() for at in range(length)] for view in "AB"
        }
        self.readers = {view: RowReader(self.hasher, self.hasher.leaves(self.entries[view])) for view in "AB"}

    def checkpoint(self, view: str, size: int) -> Checkpoint:
        """Return the checkpoint of a view at a size."""
        return Checkpoint(self.origin, size, subtree_hash(self.hasher, self.readers[view], Subtree(0, size)))

    def note(self, view: str, size: int, *, at: int | None = None) -> Note:
        """Return the signed checkpoint of a view. at: seconds after `START`, otherwise the size."""
        return signed(self.checkpoint(view, size), self.signer, at=size if at is None else at)

    def request(self, view: str, old_size: int, size: int, *, at: int | None = None) -> AddCheckpoint:
        """Return the request by which this CA, or a client that it deceives, shows a view to a cosigner."""
        proof = prove_consistency(self.hasher, self.readers[view], Subtree(0, min(old_size, size)), size)
        return AddCheckpoint.parse(AddCheckpoint.encode(old_size, proof, self.note(view, size, at=at).encode()))

    def subtree(self, view: str, start: int, end: int, signer: TestSigner | None = None) -> SignedSubtree:
        """Return a signed subtree of a view."""
        subtree = Subtree(start, end)
        return signed_subtree(subtree, subtree_hash(self.hasher, self.readers[view], subtree), signer or self.signer)

    def tiles(self, view: str, size: int) -> dict[Tile | EntriesTile, bytes]:
        """Return the files of a view of at most 256 entries."""
        (tile,) = partial_tiles(size)
        entries = self.entries[view][:size]
        bundle = EntryBundle(tuple(entries)).encode()
        return {tile: self.hasher.leaves(entries), EntriesTile(0, size): bundle}


def signed(checkpoint: Checkpoint, *signers: TestSigner, at: int = 0) -> Note:
    """Return a checkpoint with signatures. at: seconds after `START`."""
    lines = [
        signer.cosign(checkpoint, 0 if signer.key.type is SignatureType.ED25519 else START + at) for signer in signers
    ]
    return Note(checkpoint.encode(), tuple(lines))


def signed_subtree(subtree: Subtree, digest: bytes, signer: TestSigner, origin: str = ORIGIN) -> SignedSubtree:
    """Return a subtree with a signature as in certificates."""
    message = CosignedMessage(signer.key.name, origin, subtree, digest).encode()
    return SignedSubtree(subtree, digest, signer.signer.sign_now(message))


@cache
def every_kind(signer: TestSigner = CA) -> tuple[Evidence, ...]:
    """Return sound evidence of every kind against a key; kinds that need ML-DSA-44 only for such a key."""
    ca = SplitViewCA(5, signer=signer)
    hasher = ca.hasher

    def of(exhibit: Exhibit, key: TestSigner = signer) -> Evidence:
        return Evidence(key.key, ORIGIN, exhibit, "sha256", "2026-11-21T12:00:00Z", "a test")

    held = subtree_hash(hasher, ca.readers["B"], Subtree(0, 7))
    proof = tuple(prove_consistency(hasher, ca.readers["B"], Subtree(0, 7), 12))
    beyond = signed(ca.checkpoint("A", 9), signer, MIRROR, at=9)
    broken = Note(ca.checkpoint("B", 9).encode(), ca.note("A", 9).signatures)
    files = ca.tiles("B", 9) | {tile: data for tile, data in ca.tiles("A", 9).items() if isinstance(tile, Tile)}
    made = [
        of(SplitView(ca.note("A", 9), ca.note("B", 9))),
        of(Inconsistent(ca.note("A", 7), ca.note("B", 12), held, proof)),
        of(
            SplitTrees(
                Subtree(0, 7),
                HeldSubtree(
                    ca.note("A", 9),
                    subtree_hash(hasher, ca.readers["A"], Subtree(0, 7)),
                    tuple(prove_consistency(hasher, ca.readers["A"], Subtree(0, 7), 9)),
                ),
                HeldSubtree(ca.note("B", 12), held, proof),
            )
        ),
        of(EmptyRoot(signed(Checkpoint(ORIGIN, 0, bytes(32)), signer, at=1))),
        of(RolledBack(beyond, MIRROR.key, 3, ca.checkpoint("A", 3).root_hash)),
        of(BadEntries(ca.note("A", 9), tuple(files.items()))),
        of(BadSignature(broken)),
    ]
    if signer.key.type is not SignatureType.ED25519:
        made.append(of(WentBack(ca.note("A", 9, at=10), ca.note("A", 4, at=20))))
    if signer.key.type is SignatureType.COSIGNATURE_MLDSA44:
        one, other = ca.subtree("A", 4, 8), ca.subtree("B", 4, 8)
        found = compare_subtree(hasher, ca.readers["B"], signer.key, one, ca.note("B", 13))
        assert found is not None
        made += [
            of(SplitSubtree(one, other)),
            of(found.exhibit),
            of(BadSignature(SignedSubtree(one.subtree, other.subtree_hash, one.signature))),
        ]
    return tuple(made)


SIGNERS = (CA, WITNESS, LOG)
"""A key of each type."""
