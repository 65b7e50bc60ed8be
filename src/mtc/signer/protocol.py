"""What goes over the socket between a CA and the process that holds its key.

A frame is a 4-byte length and that many bytes. A request is a `TreeRequest`, a `CRLRequest` or a `KeyQuery`; the answer
is a `SignedMessages`, a `SignedCRL` or a `KeyAnswer`, or the refusal that the signer's rules raised. Both ends are this
project's, of one version: there is nothing to negotiate.

The entries of a tree travel as one row of their lengths and one of their bytes, so that tens of thousands are packed
and unpacked by a few calls and not one by one.
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from mtc.errors import ConflictError, Error, FormatError, Reason, Rejected, StorageError, UsageError
from mtc.merkle import Subtree
from mtc.signer.machine import TreeRequest
from mtc.wire import Reader, Writer

MAX_FRAME_BYTES = 256 * 1024 * 1024
"""Largest frame read: a round of about half a million entries of usual size."""
_VERSION = 3
_TREE, _CRL, _KEY = 1, 2, 3
_REFUSED = 0
_NO_SIZE = 2**48 - 1
_FAMILIES: dict[str, type[Error]] = {
    family.__name__: family for family in (ConflictError, FormatError, Rejected, StorageError)
}


@dataclass(frozen=True, slots=True)
class CRLRequest:
    """A revocation list to be signed. tbs: its TBSCertList, DER."""

    tbs: bytes


@dataclass(frozen=True, slots=True)
class KeyQuery:
    """Asks which key the signer holds; also tells whether it lives."""


Request = TreeRequest | CRLRequest | KeyQuery


@dataclass(frozen=True, slots=True)
class SignedMessages:
    """Raw signatures: over the checkpoint with its timestamp, and over each covering subtree with timestamp 0."""

    checkpoint: bytes
    subtrees: tuple[tuple[Subtree, bytes, bytes], ...]
    """Subtree, its hash as the signer computed it, signature."""


@dataclass(frozen=True, slots=True)
class SignedCRL:
    """The raw signature over a TBSCertList."""

    signature: bytes


@dataclass(frozen=True, slots=True)
class KeyAnswer:
    """The key that the signer holds: SubjectPublicKeyInfo, DER."""

    public_key: bytes


Answer = SignedMessages | SignedCRL | KeyAnswer


def encode_request(request: Request) -> bytes:
    """Return the request's frame contents. Raises UsageError for an entry above 65,535 bytes."""
    writer = Writer().uint(_VERSION, 1)
    match request:
        case CRLRequest(tbs):
            return writer.uint(_CRL, 1).vector(tbs, 4).encode()
        case KeyQuery():
            return writer.uint(_KEY, 1).encode()
        case TreeRequest():
            writer.uint(_TREE, 1).uint(request.log_number, 2).uint(request.tree_size, 6)
            writer.vector(request.root_hash, 1).uint(request.timestamp, 8).uint(request.with_subtrees, 1)
            writer.uint(request.evidence_until, 8)
            return writer.uint(request.start, 6).bytes(_pack(request.entries)).encode()


def _pack(entries: Sequence[bytes]) -> bytes:
    """Return the entries' count, lengths, and bytes."""
    try:
        lengths = struct.pack(f">I{len(entries)}H", len(entries), *map(len, entries))
    except struct.error:
        raise UsageError(Reason.TOO_LARGE, "a log entry has at most 65535 bytes") from None
    return b"".join((lengths, *entries))


def parse_request(data: bytes) -> Request:
    """Read a request, which must fill `data`. Raises FormatError."""
    reader = Reader(data, "the signing request")
    version = reader.read_uint(1)
    if version != _VERSION:
        raise FormatError(
            Reason.BAD_VERSION,
            f"the signing request has version {version}, known is {_VERSION}; run CA and signer of one release",
        )
    kind = reader.read_uint(1)
    request: Request
    if kind == _TREE:
        return _parse_tree(reader)
    if kind == _CRL:
        request = CRLRequest(reader.read_vector(4))
    elif kind == _KEY:
        request = KeyQuery()
    else:
        raise FormatError(Reason.UNKNOWN_FORMAT, f"the signing request is of kind {kind}, which is not known")
    reader.finish()
    return request


def _parse_tree(reader: Reader) -> TreeRequest:
    """Read the rest of a request for a tree."""
    log_number, tree_size, root = reader.read_uint(2), reader.read_uint(6), reader.read_vector(1)
    timestamp, with_subtrees = reader.read_uint(8), reader.read_uint(1)
    evidence_until, start = reader.read_uint(8), reader.read_uint(6)
    if with_subtrees > 1:
        raise FormatError(Reason.BAD_BOOLEAN, "the signing request has a flag that is neither 0 nor 1")
    count = reader.read_uint(4)
    if count > reader.remaining // 2:
        raise FormatError(Reason.TRUNCATED, f"the signing request cannot hold {count} entries")
    bounds = list(accumulate(struct.unpack(f">{count}H", reader.read_bytes(2 * count)), initial=0))
    row = reader.read_bytes(bounds[-1])
    reader.finish()
    return TreeRequest(
        log_number=log_number,
        tree_size=tree_size,
        root_hash=root,
        timestamp=timestamp,
        start=start,
        entries=[row[at:end] for at, end in pairwise(bounds)],
        with_subtrees=bool(with_subtrees),
        evidence_until=evidence_until,
    )


def encode_answer(answer: Answer | Error) -> bytes:
    """Return the answer's frame contents. Of an error, family, reason, text and the known tree size go over."""
    writer = Writer()
    match answer:
        case SignedMessages(checkpoint, subtrees):
            writer.uint(_TREE, 1).vector(checkpoint, 2).uint(len(subtrees), 1)
            for subtree, value, signature in subtrees:
                writer.uint(subtree.start, 6).uint(subtree.end, 6).vector(value, 1).vector(signature, 2)
            return writer.encode()
        case SignedCRL(signature):
            return writer.uint(_CRL, 1).vector(signature, 2).encode()
        case KeyAnswer(public_key):
            return writer.uint(_KEY, 1).vector(public_key, 2).encode()
        case Error():
            return _encode_refusal(answer)


def _encode_refusal(error: Error) -> bytes:
    """Return the frame of an error; one of a family that does not travel becomes a StorageError."""
    size = error.facts.get("tree_size")
    family = type(error).__name__ if type(error).__name__ in _FAMILIES else StorageError.__name__
    return (
        Writer()
        .uint(_REFUSED, 1)
        .vector(family.encode(), 1)
        .vector(str(error.reason).encode(), 1)
        .vector(error.message.encode(errors="backslashreplace")[:4096], 2)
        .uint(size if isinstance(size, int) else _NO_SIZE, 6)
        .encode()
    )


def parse_answer(data: bytes) -> Answer:
    """Read an answer; a refusal is raised as the error that it was. Raises FormatError for what is no answer."""
    reader = Reader(data, "the signer's answer")
    kind = reader.read_uint(1)
    answer: Answer
    if kind == _TREE:
        checkpoint = reader.read_vector(2)
        subtrees = tuple(
            (Subtree(reader.read_uint(6), reader.read_uint(6)), reader.read_vector(1), reader.read_vector(2))
            for _ in range(reader.read_uint(1))
        )
        answer = SignedMessages(checkpoint, subtrees)
    elif kind == _CRL:
        answer = SignedCRL(reader.read_vector(2))
    elif kind == _KEY:
        answer = KeyAnswer(reader.read_vector(2))
    elif kind == _REFUSED:
        raise _parse_refusal(reader)
    else:
        raise FormatError(Reason.UNKNOWN_FORMAT, f"the signer's answer is of kind {kind}, which is not known")
    reader.finish()
    return answer


def _parse_refusal(reader: Reader) -> Error:
    """Read the rest of a refusal and return it as the error that it was."""
    family, reason = reader.read_vector(1), reader.read_vector(1)
    message, size = reader.read_vector(2).decode(errors="replace"), reader.read_uint(6)
    reader.finish()
    name, value = family.decode("ascii", "replace"), reason.decode("ascii", "replace")
    if name not in _FAMILIES or value not in list(Reason):
        raise FormatError(Reason.UNKNOWN_FORMAT, "the signer's answer is a refusal of no known kind")
    facts = {} if size == _NO_SIZE else {"tree_size": size}
    return _FAMILIES[name](Reason(value), f"the signer refused: {message}", **facts)
