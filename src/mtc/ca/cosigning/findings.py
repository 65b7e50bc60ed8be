"""What a cosigner shows against us, or against itself, as evidence that others can verify.

Only what our own key signed can prove that we were rolled back: a cosigner that shows something else discredits itself.
"""

from collections.abc import Awaitable, Callable

from mtc.ca.cosigning.published import PublishedTree
from mtc.ca.proofs import TreeHead
from mtc.cosign.evidence import (
    BadSignature,
    Evidence,
    Inconsistent,
    RolledBack,
    SignedSubtree,
    SplitView,
    verify_evidence,
)
from mtc.cosign.evidence.kinds import only_lines_of
from mtc.cosign.service.client import CosignerPeer, SeenCheckpoint
from mtc.errors import ConflictError, Error, PeerError, Reason, SignatureError
from mtc.merkle import Hasher, HashReader, Subtree, prove_consistency, subtree_hash
from mtc.note import Note, VerifierKey, certificate_signature, parse_note, parse_signature_lines, verify_note

KeepEvidence = Callable[[Evidence], Awaitable[str | None]]
"""Keeps evidence and returns its name; None when there is no room."""


def check_own_signature(key: VerifierKey, peer: CosignerPeer, seen: SeenCheckpoint) -> None:
    """Raise PeerError unless our own key signed what a cosigner shows of our log. key: of the CA."""
    try:
        verify_note(seen.note, [key])
    except Error as error:
        raise PeerError(
            Reason.UNKNOWN_SIGNER,
            f"{peer.role} {peer.name} shows a checkpoint of {seen.checkpoint.tree_size} entries without this CA's "
            f"signature ({error.message}); it discredits itself alone",
            tree_size=seen.checkpoint.tree_size,
        ) from None


def rolled_back(key: VerifierKey, peer: CosignerPeer, seen: SeenCheckpoint, head: TreeHead, hash_name: str) -> Evidence:
    """Return the evidence that a tree beyond `head`, all that the register knows, was signed with our key."""
    note = only_lines_of(seen.note, key, peer.key)
    exhibit = RolledBack(note, peer.key, head.tree_size, head.root_hash)
    return Evidence(key, seen.checkpoint.origin, exhibit, hash_name)


async def other_history(
    hasher: Hasher, key: VerifierKey, seen: SeenCheckpoint, own: Note, published: PublishedTree
) -> Evidence:
    """Return the evidence that our key signed another tree than ours at a size that ours has.

    own: our checkpoint of the published tree, signed. Raises ProofError or PeerError when our tiles give no proof.
    """
    head = published.head
    origin, size = seen.checkpoint.origin, seen.checkpoint.tree_size
    theirs, ours = only_lines_of(seen.note, key), only_lines_of(own, key)
    if size == head.tree_size:
        return Evidence(key, origin, SplitView(theirs, ours), hasher.name)
    tree = Subtree(0, size)

    def prover(hashes: HashReader) -> tuple[bytes, tuple[bytes, ...]]:
        proof = prove_consistency(hasher, hashes, tree, head.tree_size)
        return subtree_hash(hasher, hashes, tree), tuple(proof)

    held, proof = await published.reader.ask(head, prover)
    return Evidence(key, origin, Inconsistent(theirs, ours, held, proof), hasher.name)


def bad_signature(
    peer: CosignerPeer, origin: str, error: SignatureError, asked: tuple[Subtree, bytes] | None, hash_name: str
) -> Evidence | None:
    """Return what a cosigner answered with a signature that fails, as far as that can be shown; None otherwise.

    asked: the subtree that it was asked to sign; None for a checkpoint.
    """
    try:
        note, lines = error.facts.get("note"), error.facts.get("lines")
        statement: Note | SignedSubtree
        if isinstance(note, str):
            statement = only_lines_of(parse_note(note.encode()), peer.key)
        elif isinstance(lines, str) and asked is not None:
            own = [
                line
                for line in parse_signature_lines(lines.encode())
                if (line.name, line.key_id) == (peer.key.name, peer.key.key_id)
            ]
            statement = SignedSubtree(*asked, certificate_signature(own[0]))
        else:
            return None
        evidence = Evidence(peer.key, origin, BadSignature(statement), hash_name)
        verify_evidence(evidence)
    except (Error, IndexError):
        return None
    return evidence


def contradiction(peer: CosignerPeer, log_number: int, what: str, evidence: str | None) -> ConflictError:
    """Make the error that stops the log. evidence: where it is kept."""
    kept = "there is no room to keep the evidence" if evidence is None else f"the evidence is kept as {evidence}"
    return ConflictError(
        Reason.CONFLICT,
        f"log {log_number}: {peer.role} {peer.name} {what}, with this CA's signature. An old copy of the storage runs, "
        f"or another sequencer moved the log on. Nothing is signed any more; {kept}. Bring the newest storage back, or "
        "follow this log with the next one",
        log=log_number,
        cosigner=peer.name,
        evidence=evidence,
    )
