"""Evidence as one JSON document: read strictly, with the place of every fault; written in one form.

The document holds the bytes that were signed and nothing that follows from them, so that a reader need not trust the
writer's arithmetic. Notes are texts, other bytes base64. The format's name carries its version; a reader refuses
members that it does not know, because one of them might say that the rest means something else.
"""

import json
from collections.abc import Callable
from typing import assert_never

from mtc.cosign.evidence.kinds import (
    KINDS,
    MAX_SERVED,
    BadEntries,
    BadSignature,
    EmptyRoot,
    Evidence,
    Exhibit,
    ForeignSubtree,
    HeldSubtree,
    Inconsistent,
    RolledBack,
    SignedSubtree,
    SplitSubtree,
    SplitTrees,
    SplitView,
    WentBack,
)
from mtc.cosign.evidence.members import Members, parse_members, read_hash
from mtc.crypto import parse_hash_algorithm
from mtc.errors import FormatError, Reason
from mtc.merkle import MAX_PROOF_HASHES, Subtree
from mtc.note import MAX_CHECKPOINT_SIZE, Note, VerifierKey, parse_note
from mtc.tiles import EntriesTile, Tile, parse_tile_path
from mtc.wire import encode_base64

FORMAT = "mtc-evidence/v1"
"""Name and version of the format, the value of the document's first member."""
MAX_EVIDENCE_BYTES = 32 * 1024 * 1024
"""Largest document read: the largest entry bundle in base64 is 22 MiB, and stands beside one checkpoint."""

_MAX_END = 2**64 - 1


def parse_evidence(data: bytes) -> Evidence:
    """Read a document. Nothing is verified. Raises FormatError that names the place, for example `exhibit.first`."""
    members = parse_members(data, MAX_EVIDENCE_BYTES, "the evidence")
    if (found := members.text("format", default="")) != FORMAT:
        raise FormatError(Reason.UNKNOWN_FORMAT, f"evidence begins with the format {FORMAT!r}, not {found[:40]!r}")
    kind = members.text("kind")
    if kind not in _READERS:
        raise FormatError(Reason.BAD_DOCUMENT, f"kind must be one of {', '.join(KINDS)}", place="kind")
    subject = members.parsed("subject", VerifierKey.parse)
    origin = members.text("origin")
    hash_name = members.parsed("hash", lambda text: parse_hash_algorithm(text).name)
    remark = members.inner("collected")
    at, by = remark.text("at", default=""), remark.text("by", default="")
    remark.finish()
    parts = members.inner("exhibit")
    try:
        exhibit = _READERS[kind](parts)
    except FormatError as error:
        if "place" in error.facts:
            raise
        raise FormatError(error.reason, f"exhibit: {error.message}", **error.facts) from None
    parts.finish()
    members.finish()
    return Evidence(subject, origin, exhibit, hash_name, at, by)


def encode_evidence(evidence: Evidence) -> bytes:
    """Return the document; `parse_evidence` reads it back to the same. Raises FormatError (TOO_LARGE)."""
    remark = {"at": evidence.collected_at, "by": evidence.collected_by}
    document = {
        "format": FORMAT,
        "kind": evidence.kind,
        "subject": evidence.subject.encode(),
        "origin": evidence.origin,
        "hash": evidence.hash_name,
        "collected": {name: text for name, text in remark.items() if text},
        "exhibit": _format_exhibit(evidence.exhibit),
    }
    data = json.dumps(document, indent=1, ensure_ascii=False).encode() + b"\n"
    if len(data) > MAX_EVIDENCE_BYTES:
        raise FormatError(Reason.TOO_LARGE, f"evidence has at most {MAX_EVIDENCE_BYTES} bytes, this one {len(data)}")
    return data


def _note(members: Members, name: str) -> Note:
    """Return a signed note."""
    return members.parsed(name, lambda text: parse_note(text.encode()))


def _proof(members: Members) -> tuple[bytes, ...]:
    """Return the hashes of a proof."""
    return members.items("proof", MAX_PROOF_HASHES, read_hash)


def _subtree(members: Members, name: str) -> SignedSubtree:
    """Return a signed subtree."""
    inner = members.inner(name)
    start, end = inner.number("start", _MAX_END), inner.number("end", _MAX_END)
    subtree_hash, signature = inner.binary("hash"), inner.binary("signature")
    inner.finish()
    try:
        return SignedSubtree(Subtree(start, end), subtree_hash, signature)
    except FormatError as error:
        place = members.path(name)
        raise FormatError(error.reason, f"{place}: {error.message}", **{"place": place, **error.facts}) from None


def _held(members: Members, name: str) -> HeldSubtree:
    """Return a checkpoint and what its tree holds."""
    inner = members.inner(name)
    result = HeldSubtree(_note(inner, "checkpoint"), inner.binary("held"), _proof(inner))
    inner.finish()
    return result


def _split_trees(members: Members) -> SplitTrees:
    """Return an exhibit of two trees that differ in a subtree."""
    start, end = members.number("start", _MAX_END), members.number("end", _MAX_END)
    return SplitTrees(Subtree(start, end), _held(members, "first"), _held(members, "second"))


def _rolled_back(members: Members) -> RolledBack:
    """Return an exhibit of a register that is behind."""
    checkpoint, cosigner = _note(members, "checkpoint"), members.parsed("cosigner", VerifierKey.parse)
    register = members.inner("register")
    size, root = register.number("tree_size", MAX_CHECKPOINT_SIZE), register.binary("root_hash")
    register.finish()
    return RolledBack(checkpoint, cosigner, size, root)


def _served(value: object, place: str) -> tuple[Tile | EntriesTile, bytes]:
    """Return one served file."""
    members = Members(value, place)
    result = members.parsed("path", parse_tile_path), members.binary("content")
    members.finish()
    return result


def _bad_signature(members: Members) -> BadSignature:
    """Return an exhibit of a failing signature, over a checkpoint or a subtree."""
    return BadSignature(
        _subtree(members, "subtree") if members.has("subtree") else _note(members, "checkpoint"),
    )


_READERS: dict[str, Callable[[Members], Exhibit]] = {
    "split-view": lambda parts: SplitView(_note(parts, "first"), _note(parts, "second")),
    "inconsistent": lambda parts: Inconsistent(
        _note(parts, "older"), _note(parts, "newer"), parts.binary("held"), _proof(parts)
    ),
    "empty-root": lambda parts: EmptyRoot(_note(parts, "checkpoint")),
    "split-subtree": lambda parts: SplitSubtree(_subtree(parts, "first"), _subtree(parts, "second")),
    "subtree": lambda parts: ForeignSubtree(
        _subtree(parts, "signed"), _note(parts, "checkpoint"), parts.binary("held"), _proof(parts)
    ),
    "split-trees": _split_trees,
    "bad-timestamp": lambda parts: WentBack(_note(parts, "larger"), _note(parts, "later")),
    "rolled-back": _rolled_back,
    "bad-entries": lambda parts: BadEntries(_note(parts, "checkpoint"), parts.items("served", MAX_SERVED, _served)),
    "bad-signature": _bad_signature,
}


def _format_exhibit(exhibit: Exhibit) -> dict[str, object]:  # noqa: C901, PLR0911 - one case per kind
    """Return an exhibit as JSON values."""
    match exhibit:
        case SplitView(first, second):
            return {"first": _note_text(first), "second": _note_text(second)}
        case Inconsistent(older, newer, held, proof):
            return {"older": _note_text(older), "newer": _note_text(newer), **_format_proof(held, proof)}
        case EmptyRoot(checkpoint):
            return {"checkpoint": _note_text(checkpoint)}
        case SplitSubtree(one, other):
            return {"first": _format_subtree(one), "second": _format_subtree(other)}
        case ForeignSubtree(signed, checkpoint, held, proof):
            tree = {"signed": _format_subtree(signed), "checkpoint": _note_text(checkpoint)}
            return {**tree, **_format_proof(held, proof)}
        case SplitTrees(subtree, one, other):
            return {
                "start": subtree.start,
                "end": subtree.end,
                "first": _format_held(one),
                "second": _format_held(other),
            }
        case WentBack(larger, later):
            return {"larger": _note_text(larger), "later": _note_text(later)}
        case RolledBack(checkpoint, cosigner, size, root):
            register = {"tree_size": size, "root_hash": encode_base64(root)}
            return {"checkpoint": _note_text(checkpoint), "cosigner": cosigner.encode(), "register": register}
        case BadEntries(checkpoint, served):
            files = [{"path": place.path, "content": encode_base64(content)} for place, content in served]
            return {"checkpoint": _note_text(checkpoint), "served": files}
        case BadSignature(statement):
            if isinstance(statement, SignedSubtree):
                return {"subtree": _format_subtree(statement)}
            return {"checkpoint": _note_text(statement)}
        case _:
            assert_never(exhibit)


def _note_text(note: Note) -> str:
    """Return a note as text."""
    return note.encode().decode()


def _format_subtree(signed: SignedSubtree) -> dict[str, object]:
    """Return a signed subtree as JSON values."""
    return {
        "start": signed.subtree.start,
        "end": signed.subtree.end,
        "hash": encode_base64(signed.subtree_hash),
        "signature": encode_base64(signed.signature),
    }


def _format_held(side: HeldSubtree) -> dict[str, object]:
    """Return a checkpoint and what its tree holds as JSON values."""
    return {"checkpoint": _note_text(side.checkpoint), **_format_proof(side.held, side.proof)}


def _format_proof(held: bytes, proof: tuple[bytes, ...]) -> dict[str, object]:
    """Return a proven hash and its proof as JSON values."""
    return {"held": encode_base64(held), "proof": list(map(encode_base64, proof))}
