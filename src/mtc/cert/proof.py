"""The MTCProof: what stands in the place of a certificate's signature.

Spec: Merkle Tree Certificates, "Certificate Format".
"""

from dataclasses import dataclass

from mtc.cert.entry import EntryExtension, encode_entry_extensions, parse_entry_extensions
from mtc.errors import FormatError, Reason, UsageError
from mtc.ids import DEFAULT_REVISION, DraftRevision, TrustAnchorID
from mtc.kernel import parse_proof_layout
from mtc.merkle import MAX_TREE_SIZE, Subtree
from mtc.wire import Reader, Writer


@dataclass(frozen=True, slots=True)
class SubtreeSignature:
    """One cosignature over the subtree: who, and the raw signature.

    cosigner_id: binary trust anchor ID. It may be anybody's, known or not, and need not even be well formed: unknown
    cosigners are ignored, and anyone may add entries under unused IDs (GREASE).
    """

    cosigner_id: bytes
    signature: bytes

    @property
    def name(self) -> str:
        """The cosigner ID for people; hex with a `#` where it is not a trust anchor ID."""
        try:
            return str(TrustAnchorID(self.cosigner_id))
        except FormatError:
            return f"#{self.cosigner_id.hex()}"


@dataclass(frozen=True, slots=True)
class MTCProof:
    """The entry's extensions, a subtree, the inclusion proof of the entry in it, and cosignatures over it.

    signatures: strictly ascending by (length, bytes) of the cosigner ID; `with_signatures` sorts.
    """

    subtree: Subtree
    inclusion_proof: tuple[bytes, ...]
    signatures: tuple[SubtreeSignature, ...] = ()
    extensions: tuple[EntryExtension, ...] = ()

    @staticmethod
    def parse(data: bytes, revision: DraftRevision = DEFAULT_REVISION, hash_size: int = 32) -> "MTCProof":
        """Read a proof, which must fill `data`. Raises FormatError with reason and offset."""
        return MTCProof.parse_within(data, 0, len(data), revision, hash_size)

    @staticmethod
    def parse_within(data: bytes, start: int, end: int, revision: DraftRevision, hash_size: int) -> "MTCProof":
        """Read the proof at data[start:end], as `parse` does; offsets in errors count from the start of `data`."""
        layout = parse_proof_layout(data, start, end, hash_size, revision.signatures_width, revision.id_limit)
        subtree = Subtree(layout.start, layout.end)
        reader = Reader(data[layout.signatures_start : layout.signatures_end], "the subtree signatures")
        signatures = []
        while reader.remaining:
            signatures.append(SubtreeSignature(reader.read_vector(1), reader.read_vector(2)))
        return MTCProof(
            subtree,
            tuple(data[at : at + hash_size] for at in range(layout.inclusion_start, layout.inclusion_end, hash_size)),
            tuple(signatures),
            parse_entry_extensions(data[layout.extensions_start + 2 : layout.extensions_end]),
        )

    def encode(self, revision: DraftRevision = DEFAULT_REVISION) -> bytes:
        """Return the proof's bytes in a revision's form. Raises UsageError for what the form cannot hold."""
        if self.subtree.end > MAX_TREE_SIZE:
            raise UsageError(Reason.USAGE, f"{self.subtree} ends beyond 48 bits")
        order = [(len(signature.cosigner_id), signature.cosigner_id) for signature in self.signatures]
        if order != sorted(set(order)):
            raise UsageError(Reason.BAD_ORDER, "cosigners must strictly ascend by length and bytes of their IDs")
        signatures = Writer()
        for signature in self.signatures:
            if not 0 < len(signature.cosigner_id) <= revision.id_limit:
                raise UsageError(
                    Reason.BAD_TRUST_ANCHOR_ID, f"cosigner {signature.name} has more bytes than {revision} allows"
                )
            signatures.vector(signature.cosigner_id, 1).vector(signature.signature, 2)
        return (
            Writer()
            .bytes(encode_entry_extensions(self.extensions))
            .uint(self.subtree.start, 6)
            .uint(self.subtree.end, 6)
            .vector(b"".join(self.inclusion_proof), 2)
            .vector(signatures.encode(), revision.signatures_width)
            .encode()
        )

    def with_signatures(self, *signatures: SubtreeSignature) -> "MTCProof":
        """Return the proof with more signatures, in order. Raises UsageError when a cosigner stands twice."""
        merged = sorted((*self.signatures, *signatures), key=lambda item: (len(item.cosigner_id), item.cosigner_id))
        if len({item.cosigner_id for item in merged}) != len(merged):
            raise UsageError(Reason.DUPLICATE, "a cosigner stands twice")
        return MTCProof(self.subtree, self.inclusion_proof, tuple(merged), self.extensions)
