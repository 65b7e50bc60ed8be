"""The fuzz target for evidence: documents that anybody may send to convict anybody."""

from contextlib import suppress
from functools import cache

from fuzz import corpora
from fuzz.registry import target

from mtc.cosign.evidence import (
    BadEntries,
    BadSignature,
    EmptyRoot,
    Evidence,
    Exhibit,
    ForeignSubtree,
    Inconsistent,
    RolledBack,
    SignedSubtree,
    SplitSubtree,
    SplitView,
    WentBack,
    encode_evidence,
    parse_evidence,
    verify_evidence,
)
from mtc.crypto import LocalSigner
from mtc.errors import FormatError, ProofError, Rejected, SignatureError
from mtc.kernel import python_kernel
from mtc.merkle import RowReader, Subtree, prove_consistency, subtree_hash
from mtc.note import Checkpoint, CosignedMessage, Note, VerifierKey, checkpoint_message, note_signature
from mtc.tiles import EntriesTile, EntryBundle, Tile

_ORIGIN = "log.example/7"
_ENTRIES = {view: [b"%d %s" % (at, view if at > 4 else b"") for at in range(12)] for view in (b"A", b"B")}


def _checkpoint(view: bytes, size: int) -> Checkpoint:
    """Return a checkpoint of one of two histories."""
    return Checkpoint(_ORIGIN, size, subtree_hash(python_kernel().hasher("sha256"), _reader(view), Subtree(0, size)))


@cache
def _reader(view: bytes) -> RowReader:
    """Return the tree of a history."""
    hasher = python_kernel().hasher("sha256")
    return RowReader(hasher, hasher.leaves(_ENTRIES[view]))


def _note(checkpoint: Checkpoint, time: int, *signers: tuple[LocalSigner, VerifierKey]) -> Note:
    """Return a signed checkpoint."""
    lines = []
    for signer, key in signers:
        moment = 1_790_000_000 + time if key.is_cosigner else 0
        lines.append(note_signature(key, signer.sign_now(checkpoint_message(key, checkpoint, moment)), moment))
    return Note(checkpoint.encode(), tuple(lines))


def _subtree(view: bytes, signer: LocalSigner, key: VerifierKey) -> SignedSubtree:
    """Return a signed subtree of a history."""
    subtree = Subtree(4, 8)
    digest = subtree_hash(python_kernel().hasher("sha256"), _reader(view), subtree)
    message = CosignedMessage(key.name, _ORIGIN, subtree, digest)
    return SignedSubtree(subtree, digest, signer.sign_now(message.encode()))


def _proof(view: bytes, subtree: Subtree, size: int) -> tuple[bytes, tuple[bytes, ...]]:
    """Return what a history holds in a subtree, and the proof."""
    hasher, reader = python_kernel().hasher("sha256"), _reader(view)
    return subtree_hash(hasher, reader, subtree), tuple(prove_consistency(hasher, reader, subtree, size))


@cache
def all_evidence() -> tuple[Evidence, ...]:
    """Return evidence of every kind, against the keys that can be guilty of it.

    Times grow with sizes where they are not the fault, so that what stands in different seeds is no further guilt.
    """
    log, witness, mirror = corpora.note_signers()
    hasher = python_kernel().hasher("sha256")
    exhibits: list[tuple[VerifierKey, Exhibit]] = []
    for who in (log, witness, mirror):
        one, other = (_note(_checkpoint(view, 9), 9, who) for view in (b"A", b"B"))
        small = _note(_checkpoint(b"A", 7), 7, who)
        leaves = hasher.leaves(_ENTRIES[b"A"][:9])
        bundle = EntryBundle(tuple(_ENTRIES[b"B"][:9])).encode()
        exhibits += [
            (who[1], SplitView(one, other)),
            (who[1], Inconsistent(small, other, *_proof(b"B", Subtree(0, 7), 9))),
            (who[1], EmptyRoot(_note(Checkpoint(_ORIGIN, 0, bytes(32)), 0, who))),
            (who[1], BadEntries(one, ((Tile(0, 0, 9), leaves), (EntriesTile(0, 9), bundle)))),
            (who[1], BadSignature(Note(other.text, one.signatures))),
        ]
    exhibits += [
        (witness[1], WentBack(_note(_checkpoint(b"A", 9), 1, witness), _note(_checkpoint(b"A", 7), 2, witness))),
        (log[1], RolledBack(_note(_checkpoint(b"A", 9), 1, log, witness), witness[1], 3, bytes(32))),
        (mirror[1], SplitSubtree(_subtree(b"A", *mirror), _subtree(b"B", *mirror))),
        (mirror[1], BadSignature(SignedSubtree(Subtree(4, 8), bytes(32), _subtree(b"A", *mirror).signature))),
        (
            mirror[1],
            ForeignSubtree(
                _subtree(b"A", *mirror), _note(_checkpoint(b"B", 12), 12, mirror), *_proof(b"B", Subtree(4, 8), 12)
            ),
        ),
    ]
    return tuple(Evidence(key, _ORIGIN, exhibit, "sha256", "2026", "a fuzzer") for key, exhibit in exhibits)


def evidence_seeds() -> list[bytes]:
    """Return documents of every kind."""
    return [encode_evidence(evidence) for evidence in all_evidence()]


@cache
def _guilt() -> tuple[frozenset[str], frozenset[VerifierKey]]:
    """Return the names of what the keys did, and the keys."""
    return frozenset(item.name for item in all_evidence()), frozenset(key for _, key in corpora.note_signers())


@target(evidence_seeds)
def check_evidence(data: bytes) -> None:
    """A bundle that parses has one form that parses to the same; it convicts a key of nothing that it did not sign."""
    try:
        evidence = parse_evidence(data)
    except FormatError:
        return
    text = encode_evidence(evidence)
    assert parse_evidence(text) == evidence
    assert encode_evidence(parse_evidence(text)) == text
    with suppress(FormatError, ProofError, Rejected, SignatureError):
        finding = verify_evidence(evidence)
        claims, keys = _guilt()
        assert finding.proven
        assert not finding.is_proof or evidence.subject not in keys or evidence.name in claims, "an innocent key"
