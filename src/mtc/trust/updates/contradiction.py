"""What convicts a log of two histories, as far as a relying party can know it: from landmarks, without tiles.

Of each log that was proven an *anchor* is kept: a tree that was cosigned, and the proof of what it holds in front of a
landmark. When the same entries later have another hash in another cosigned tree, each cosigner that signed both has
contradicted itself, and anybody can see it.

Spec: Merkle Tree Certificates, "Trusted Subtrees", "Cosigners"; the format of anchors is the project's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mtc.errors import FormatError, ProofError, Reason
from mtc.ids import TrustAnchorID, log_id
from mtc.landmark import Landmark
from mtc.merkle import Hasher, Subtree, verify_consistency
from mtc.note import Checkpoint, Note, SignatureType, VerifierKey, note_signature
from mtc.trust.store import Cosigner, TrustedCA
from mtc.trust.updates.bulk import BulkProof
from mtc.trust.updates.envelope import MAX_DOCUMENT_BYTES
from mtc.trust.updates.formats import (
    CosignedTree,
    TreeSignature,
    read_hashes,
    read_log_key,
    read_tree,
    write_hashes,
    write_tree,
)
from mtc.wire import Reader, Writer

_LABEL = b"mtc-trust-anchors/v1\n\0"


@dataclass(frozen=True, slots=True)
class Anchor:
    """A tree of a log that was cosigned enough, and what it holds in front of a landmark.

    end: the tree size of the landmark, at least 1. held: the hash of [0, end) in the tree. proof: that it is.
    """

    ca_id: TrustAnchorID
    log_number: int
    tree: CosignedTree
    end: int
    held: bytes
    proof: tuple[bytes, ...]

    @property
    def key(self) -> tuple[bytes, int]:
        """Binary CA ID and log number."""
        return self.ca_id.binary, self.log_number

    @property
    def subtree(self) -> Subtree:
        """The entries in front of the landmark."""
        return Subtree(0, self.end)


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Two trees of one log that one cosigner signed and that cannot both be. first, second: over the same entries.

    key: of the cosigner. When both trees have one size their roots differ; otherwise what they hold differs.
    """

    key: VerifierKey
    hash_name: str
    first: Anchor
    second: Anchor

    @property
    def origin(self) -> str:
        """The log's name in checkpoints."""
        return log_id(self.first.ca_id, self.first.log_number).oid_name

    @property
    def notes(self) -> tuple[Note, Note]:
        """Both trees as checkpoints, with the signatures of the cosigner alone."""
        first, second = (
            note_of(self.origin, anchor.tree, self.key, signature)
            for anchor in (self.first, self.second)
            for signature in anchor.tree.signatures
            if signature.cosigner_id.oid_name == self.key.name
        )
        return first, second


def note_of(origin: str, tree: CosignedTree, key: VerifierKey, signature: TreeSignature) -> Note:
    """Return a cosigned tree as the signed checkpoint that it came from; no signature covers more than it has."""
    line = note_signature(key, signature.signature, signature.timestamp)
    return Note(Checkpoint(origin, tree.tree_size, tree.root_hash).encode(), (line,))


def cosigner_key(cosigner: Cosigner) -> VerifierKey | None:
    """Return the key of a cosigner as notes name it; None for one whose signatures have no place in notes."""
    try:
        name, spki = cosigner.cosigner_id.oid_name, cosigner.key.public_key
        return VerifierKey.from_spki(name, SignatureType.COSIGNATURE_MLDSA44, spki)
    except FormatError:
        return None


def anchor_of(  # noqa: PLR0913 - what an anchor is made of
    ca_id: TrustAnchorID, log_number: int, landmark: Landmark, tree: CosignedTree, proof: BulkProof, ca: TrustedCA
) -> Anchor | None:
    """Return the anchor of a log whose landmarks `proof` proves in `tree`; None when it does not reach the landmark.

    Signatures of cosigners that are not known are left out: they would say nothing later.
    """
    if not landmark.tree_size:
        return None
    subtree = Subtree(0, landmark.tree_size)
    try:
        held, hashes = proof.hash_of(subtree), tuple(proof.consistency_of(subtree))
    except ProofError:
        return None
    known = tuple(item for item in tree.signatures if item.cosigner_id.binary in ca.cosigner_index)
    lone = CosignedTree(tree.tree_size, tree.root_hash, known)
    return Anchor(ca_id, log_number, lone, landmark.tree_size, held, hashes)


def find_contradictions(
    hasher: Hasher, ca: TrustedCA, held: Anchor, tree: CosignedTree, proof: BulkProof
) -> tuple[Contradiction, ...]:
    """Return what a tree and an anchor prove against cosigners of both; signatures are not verified here.

    proof: of landmarks in the tree. Empty when they do not contradict each other, or not so that it can be shown.
    """
    found = _seen_from(held, tree, proof)
    is_split = held.tree.tree_size == tree.tree_size and held.tree.root_hash != tree.root_hash
    if found is None or (not is_split and found.held == held.held):
        return ()
    names = {item.cosigner_id.binary for item in held.tree.signatures}
    contradictions = []
    for item in tree.signatures:
        cosigner = ca.cosigner_index.get(item.cosigner_id.binary)
        if cosigner is None or item.cosigner_id.binary not in names:
            continue
        key = cosigner_key(cosigner)
        if key is not None:
            contradictions.append(Contradiction(key, hasher.name, held, found))
    return tuple(contradictions)


def _seen_from(held: Anchor, tree: CosignedTree, proof: BulkProof) -> Anchor | None:
    """Return what another tree holds in the place of an anchor; None when its proof does not tell."""
    try:
        value, hashes = proof.hash_of(held.subtree), tuple(proof.consistency_of(held.subtree))
    except ProofError:
        if held.tree.tree_size != tree.tree_size:
            return None
        # Two roots of one size need nothing below them.
        value, hashes = b"", ()
    return Anchor(held.ca_id, held.log_number, tree, held.end, value, hashes)


def verify_anchor(hasher: Hasher, anchor: Anchor) -> None:
    """Raise ProofError unless an anchor's tree holds what it says."""
    tree = anchor.tree
    verify_consistency(hasher, anchor.subtree, tree.tree_size, anchor.held, tree.root_hash, anchor.proof)


def encode_anchors(anchors: Sequence[Anchor]) -> bytes:
    """Return anchors as they are kept."""
    writer = Writer().bytes(_LABEL).uint(len(anchors), 4)
    for anchor in anchors:
        writer.vector(anchor.ca_id.binary, 1).uint(anchor.log_number, 2).uint(anchor.end, 6)
        write_tree(writer, anchor.tree)
        write_hashes(writer, (anchor.held, *anchor.proof))
    return writer.encode()


def parse_anchors(data: bytes) -> tuple[Anchor, ...]:
    """Read what `encode_anchors` wrote. Raises FormatError."""
    if len(data) > MAX_DOCUMENT_BYTES:
        raise FormatError(Reason.TOO_LARGE, f"anchors of {len(data)} bytes are larger than any", got=len(data))
    reader = Reader(data, "the anchors")
    if data[: len(_LABEL)] != _LABEL:
        raise FormatError(Reason.UNKNOWN_FORMAT, "these are no anchors of mtc trust", offset=0)
    reader.read_bytes(len(_LABEL))
    anchors = []
    for _ in range(reader.read_uint(4)):
        ca_id, log_number = read_log_key(reader)
        end, tree = reader.read_uint(6), read_tree(reader)
        held, *proof = read_hashes(reader) or (b"",)
        anchors.append(Anchor(ca_id, log_number, tree, end, held, tuple(proof)))
    reader.finish()
    return tuple(anchors)
