"""Between the log and the key: trees become requests, verified signatures become checkpoints and cosignatures."""

from typing import Protocol

from mtc.cert import SubtreeSignature
from mtc.errors import ConflictError, Reason
from mtc.ids import TrustAnchorID, log_id
from mtc.log.seams import SignedTree, TreeToSign
from mtc.note import (
    Checkpoint,
    Note,
    SignatureType,
    VerifierKey,
    checkpoint_message,
    encode_subtree_message,
    note_signature,
)
from mtc.signer import TreeRequest
from mtc.signer.protocol import SignedMessages


class Key(Protocol):
    """Who signs trees: the client of a signer's socket, or the key holder itself."""

    async def sign(self, request: TreeRequest) -> SignedMessages:
        """Return raw signatures over exactly this tree, or refuse."""


class CATreeSigner:
    """`TreeSigner` of one CA: its own cosignature, ML-DSA-44, as the mtc-tlog profile asks.

    What the key returns is not believed: each signature is verified before anything is published.
    """

    def __init__(self, ca_id: TrustAnchorID, public_key: bytes, key: Key) -> None:
        """Take the CA's ID, its public key (SPKI DER, ML-DSA-44), and who signs."""
        self._ca_id = ca_id
        self._name = VerifierKey.from_spki(ca_id.oid_name, SignatureType.COSIGNATURE_MLDSA44, public_key)
        self._key = key

    async def sign_tree(self, tree: TreeToSign) -> SignedTree:
        """Have the tree signed; of one that only moves the time, which has no subtrees, the checkpoint alone.

        Raises the key's refusal, PeerError when it does not answer, SignatureError or ConflictError when it answers
        with something else than was asked for.
        """
        messages = await self._key.sign(
            TreeRequest(
                log_number=tree.log_number,
                tree_size=tree.tree_size,
                root_hash=tree.root_hash,
                timestamp=tree.timestamp,
                start=tree.start,
                entries=tree.entries,
                with_subtrees=bool(tree.subtrees),
                evidence_until=tree.evidence_until,
            )
        )
        log = log_id(self._ca_id, tree.log_number)
        if tuple((subtree, value) for subtree, value, _ in messages.subtrees) != tree.subtrees:
            raise ConflictError(Reason.CONFLICT, "the signer signed other subtrees than those that were asked for")
        checkpoint = Checkpoint(log.oid_name, tree.tree_size, tree.root_hash)
        verifier = self._name.verifier
        verifier.verify(checkpoint_message(self._name, checkpoint, tree.timestamp), messages.checkpoint)
        for subtree, value, signature in messages.subtrees:
            verifier.verify(encode_subtree_message(self._ca_id, log, subtree, value), signature)
        line = note_signature(self._name, messages.checkpoint, tree.timestamp)
        return SignedTree(
            Note(checkpoint.encode(), (line,)).encode(),
            {
                subtree: (SubtreeSignature(self._ca_id.binary, signature),)
                for subtree, _, signature in messages.subtrees
            },
        )
