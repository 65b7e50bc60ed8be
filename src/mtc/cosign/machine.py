"""What a witness and a mirror may sign, as rules over what they have seen: a state comes in, the new one goes out.

For each log there is one `CosignerView`, the largest tree that was accepted; a checkpoint is accepted only if

1. its origin is known and a trusted key of it signed (404, 403), before anything else is looked at;
2. the request starts from the size of the view (409), so that of two requests one loses and asks again;
3. the proof shows that the new tree continues the view's (422); a tree of size zero has the empty root.

The view must be durable before the first cosignature leaves, and replaced by compare-and-swap: two requests that
started from the same view must not both be answered.

A subtree is cosigned when a checkpoint that carries this cosigner's own signature contains it; that needs no state.

Spec: C2SP tlog-witness; Merkle Tree Certificates, "Cosigners".
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mtc.cosign.logs import KnownLog
from mtc.cosign.requests import AddCheckpoint, SignSubtree
from mtc.errors import ConflictError, FormatError, ProofError, Reason, Rejected
from mtc.merkle import Hasher, Subtree, verify_consistency
from mtc.note import (
    Checkpoint,
    CosignedMessage,
    Note,
    SignatureType,
    VerifiedSignature,
    VerifierKey,
    parse_note,
    verify_note,
)
from mtc.wire import Reader, Writer

_VIEW_VERSION = 1


@dataclass(frozen=True, slots=True)
class CosignerView:
    """A tree that a cosigner accepted. note: the checkpoint with the log's signatures that were verified, no others.

    lines: this cosigner's own signature lines, as they stand under the note; empty before it signed.
    """

    tree_size: int
    root_hash: bytes
    note: bytes
    lines: bytes = b""

    def encode(self) -> bytes:
        """Return the view's bytes."""
        writer = Writer().uint(_VIEW_VERSION, 1).uint(self.tree_size, 8).vector(self.root_hash, 1)
        return writer.vector(self.note, 4).vector(self.lines, 4).encode()

    @property
    def cosigned(self) -> bytes:
        """The checkpoint with the log's signatures and this cosigner's."""
        return self.note + self.lines

    @staticmethod
    def parse(data: bytes) -> "CosignerView":
        """Read a view, which must fill `data`. Raises FormatError."""
        reader = Reader(data, "the cosigner's view")
        view = CosignerView.read(reader)
        reader.finish()
        return view

    @staticmethod
    def read(reader: Reader) -> "CosignerView":
        """Read a view from the front of what is left."""
        version = reader.read_uint(1)
        if version != _VIEW_VERSION:
            raise FormatError(
                Reason.BAD_VERSION, f"the cosigner's view has version {version}, known is {_VIEW_VERSION}"
            )
        return CosignerView(reader.read_uint(8), reader.read_vector(1), reader.read_vector(4), reader.read_vector(4))


def plan_checkpoint(hasher: Hasher, log: KnownLog, view: CosignerView | None, request: AddCheckpoint) -> CosignerView:
    """Return the view after a request that is right. view: of this log, None when nothing was accepted yet.

    Raises Rejected (UNKNOWN_SIGNER) or SignatureError when the log did not sign, FormatError for an old size above the
    new one, ConflictError (STALE_SIZE, with the fact `tree_size`) when the request starts elsewhere, ProofError.
    """
    note = verify_log_signature(log, request.note)
    checkpoint = request.checkpoint
    size, old_size = checkpoint.tree_size, request.old_size
    if old_size > size:
        raise FormatError(Reason.BAD_NUMBER, f"the old size {old_size} is larger than the checkpoint's, {size}")
    known_size = 0 if view is None else view.tree_size
    if old_size != known_size:
        raise ConflictError(
            Reason.STALE_SIZE,
            f"this cosigner's last checkpoint has {known_size} entries, not {old_size}; send the proof from there",
            tree_size=known_size,
        )
    if not size and checkpoint.root_hash != hasher.empty:
        raise ProofError(Reason.ROOT_MISMATCH, "a tree without entries has the hash of the empty string as its root")
    if not old_size:
        if request.proof:
            raise ProofError(Reason.PROOF_TOO_LONG, "from a tree without entries there is nothing to prove")
    else:
        assert view is not None
        if size == old_size and checkpoint.root_hash != view.root_hash:
            raise ProofError(
                Reason.EQUIVOCATION, f"the log signed another root hash at {size} entries before", tree_size=size
            )
        verify_consistency(hasher, Subtree(0, old_size), size, view.root_hash, checkpoint.root_hash, request.proof)
    return CosignerView(size, checkpoint.root_hash, note.encode())


def verify_log_signature(log: KnownLog, note: Note) -> Note:
    """Return the note with the verified signatures of the log and no others, the newest of each of its keys.

    What others wrote under it, perhaps in this cosigner's name, is not carried on; nor are extension lines that no
    signature of the log covers, because an ML-DSA-44 signature covers origin, size and root alone, and anybody could
    have added them. Raises Rejected (UNKNOWN_SIGNER) or SignatureError.
    """
    opened = verify_note(note, log.keys)
    newest: dict[VerifierKey, VerifiedSignature] = {}
    for item in opened.verified:
        known = newest.get(item.key)
        if known is None or (item.timestamp or 0) > (known.timestamp or 0):
            newest[item.key] = item
    covers_all = any(key.type != SignatureType.COSIGNATURE_MLDSA44 for key in newest)
    if not covers_all and Checkpoint.parse(note.text).extensions:
        raise Rejected(
            Reason.UNKNOWN_SIGNER, "the checkpoint has extension lines, which no signature of the log covers"
        )
    return Note(note.text, tuple(item.signature for item in newest.values()))


def plan_subtree(
    hasher: Hasher, own_keys: Sequence[VerifierKey], request: SignSubtree
) -> tuple[tuple[VerifierKey, CosignedMessage], ...]:
    """Return what to sign for a subtree, and with which keys: those that signed the checkpoint of the request.

    own_keys: of this one cosigner: a mirror's never include a witness's, so a checkpoint that a witness signed is not
    exchanged for a mirror's signature. Raises Rejected (UNKNOWN_SIGNER) or SignatureError without a valid own
    cosignature, FormatError for an empty subtree, ProofError when the proof fails.
    """
    able = [key for key in own_keys if key.type == SignatureType.COSIGNATURE_MLDSA44]
    opened = verify_note(request.note, own_keys)
    signers = tuple(key for key in able if opened.is_signed_by(key))
    if not signers:
        raise Rejected(
            Reason.UNKNOWN_SIGNER, "the checkpoint carries no signature of an ML-DSA-44 key of this cosigner"
        )
    if request.subtree.is_empty:
        raise FormatError(Reason.BAD_SUBTREE, f"{request.subtree} holds no entry")
    checkpoint = request.checkpoint
    verify_consistency(
        hasher, request.subtree, checkpoint.tree_size, request.subtree_hash, checkpoint.root_hash, request.proof
    )
    return tuple(
        (key, CosignedMessage(key.name, checkpoint.origin, request.subtree, request.subtree_hash)) for key in signers
    )


def signing_keys(own_keys: Sequence[VerifierKey], log: KnownLog) -> tuple[VerifierKey, ...]:
    """Return the keys with which a cosigner signs this log's checkpoints: ML-DSA-44, and Ed25519 where asked for."""
    return tuple(key for key in own_keys if key.type == SignatureType.COSIGNATURE_MLDSA44 or log.with_ed25519)


def checkpoint_of(view: CosignerView) -> Checkpoint:
    """Return the checkpoint that a view accepted."""
    return Checkpoint.parse(parse_note(view.note).text)
