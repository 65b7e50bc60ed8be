"""Signed notes, checkpoints, cosignatures, log proofs, and quorums of those who sign.

Bytes from strangers become a `Note`, which proves nothing; `open_note` tells which known keys signed it. Functions here
give the bytes to sign and take raw signatures back; signing itself is done by shells.

Spec: C2SP signed-note, tlog-checkpoint, tlog-cosignature, tlog-proof, tlog-policy; Merkle Tree Certificates,
"Cosigners".
"""

from mtc.note.checkpoint import MAX_CHECKPOINT_SIZE, Checkpoint
from mtc.note.cosignature import (
    Cosignature,
    certificate_signature,
    checkpoint_message,
    note_signature,
    verify_note_signature,
    verify_subtree_answer,
)
from mtc.note.cosigned_message import MAX_TIMESTAMP, CosignedMessage, encode_subtree_message
from mtc.note.keys import SignatureType, VerifierKey, compute_key_id
from mtc.note.note import (
    MAX_NOTE_BYTES,
    MAX_SIGNATURES,
    Note,
    NoteSignature,
    parse_note,
    parse_signature_lines,
)
from mtc.note.opening import OpenedNote, VerifiedSignature, open_note, verify_note
from mtc.note.policy import AcceptedCheckpoint, PolicyGroup, PolicyLog, PolicyWitness, QuorumPolicy
from mtc.note.quorum import Member, Quorum
from mtc.note.tlog_proof import TLogProof, verify_tlog_proof

__all__ = [
    "MAX_CHECKPOINT_SIZE",
    "MAX_NOTE_BYTES",
    "MAX_SIGNATURES",
    "MAX_TIMESTAMP",
    "AcceptedCheckpoint",
    "Checkpoint",
    "Cosignature",
    "CosignedMessage",
    "Member",
    "Note",
    "NoteSignature",
    "OpenedNote",
    "PolicyGroup",
    "PolicyLog",
    "PolicyWitness",
    "Quorum",
    "QuorumPolicy",
    "SignatureType",
    "TLogProof",
    "VerifiedSignature",
    "VerifierKey",
    "certificate_signature",
    "checkpoint_message",
    "compute_key_id",
    "encode_subtree_message",
    "note_signature",
    "open_note",
    "parse_note",
    "parse_signature_lines",
    "verify_note",
    "verify_note_signature",
    "verify_subtree_answer",
    "verify_tlog_proof",
]
