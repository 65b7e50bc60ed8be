"""What goes over the socket between a log and the process that holds its key.

A frame is a 4-byte length and that many bytes. A request is a `TreeRequest`; the answer is a `SignedMessages`, or the
refusal that `plan_signing` raised. Both ends are this project's, of one version: there is nothing to negotiate.
"""

from dataclasses import dataclass

from mtc.errors import ConflictError, Error, FormatError, Reason, Rejected, StorageError
from mtc.merkle import Subtree
from mtc.signer.machine import TreeRequest
from mtc.wire import Reader, Writer

MAX_FRAME_BYTES = 256 * 1024 * 1024
"""Largest frame read: a round of about half a million entries of usual size."""
_VERSION = 1
_SIGNED, _REFUSED = 0, 1
_NO_SIZE = 2**48 - 1
_FAMILIES: dict[str, type[Error]] = {
    family.__name__: family for family in (ConflictError, FormatError, Rejected, StorageError)
}


@dataclass(frozen=True, slots=True)
class SignedMessages:
    """Raw signatures: over the checkpoint with its timestamp, and over each covering subtree with timestamp 0."""

    checkpoint: bytes
    subtrees: tuple[tuple[Subtree, bytes, bytes], ...]
    """Subtree, its hash as the signer computed it, signature."""


def encode_request(request: TreeRequest) -> bytes:
    """Return the request's frame contents."""
    writer = (
        Writer()
        .uint(_VERSION, 1)
        .uint(request.log_number, 2)
        .uint(request.tree_size, 6)
        .vector(request.root_hash, 1)
        .uint(request.timestamp, 8)
        .uint(request.start, 6)
        .uint(len(request.entries), 4)
    )
    for entry in request.entries:
        writer.vector(entry, 2)
    return writer.encode()


def parse_request(data: bytes) -> TreeRequest:
    """Read a request, which must fill `data`. Raises FormatError."""
    reader = Reader(data, "the signing request")
    version = reader.read_uint(1)
    if version != _VERSION:
        raise FormatError(Reason.BAD_VERSION, f"the signing request has version {version}, known is {_VERSION}")
    log_number, tree_size, root = reader.read_uint(2), reader.read_uint(6), reader.read_vector(1)
    timestamp, start, count = reader.read_uint(8), reader.read_uint(6), reader.read_uint(4)
    if count > reader.remaining // 2:
        raise FormatError(Reason.TRUNCATED, f"the signing request cannot hold {count} entries")
    entries = [reader.read_vector(2) for _ in range(count)]
    reader.finish()
    return TreeRequest(
        log_number=log_number, tree_size=tree_size, root_hash=root, timestamp=timestamp, start=start, entries=entries
    )


def encode_answer(answer: SignedMessages | Error) -> bytes:
    """Return the answer's frame contents. Of an error, family, reason, text and the known tree size go over."""
    writer = Writer()
    if isinstance(answer, SignedMessages):
        writer.uint(_SIGNED, 1).vector(answer.checkpoint, 2).uint(len(answer.subtrees), 1)
        for subtree, value, signature in answer.subtrees:
            writer.uint(subtree.start, 6).uint(subtree.end, 6).vector(value, 1).vector(signature, 2)
        return writer.encode()
    size = answer.facts.get("tree_size")
    family = type(answer).__name__ if type(answer).__name__ in _FAMILIES else StorageError.__name__
    return (
        writer.uint(_REFUSED, 1)
        .vector(family.encode(), 1)
        .vector(str(answer.reason).encode(), 1)
        .vector(answer.message.encode()[:4096], 2)
        .uint(size if isinstance(size, int) else _NO_SIZE, 6)
        .encode()
    )


def parse_answer(data: bytes) -> SignedMessages:
    """Read an answer; a refusal is raised as the error that it was. Raises FormatError for what is no answer."""
    reader = Reader(data, "the signer's answer")
    kind = reader.read_uint(1)
    if kind == _SIGNED:
        checkpoint = reader.read_vector(2)
        subtrees = tuple(
            (Subtree(reader.read_uint(6), reader.read_uint(6)), reader.read_vector(1), reader.read_vector(2))
            for _ in range(reader.read_uint(1))
        )
        reader.finish()
        return SignedMessages(checkpoint, subtrees)
    family, reason = reader.read_vector(1), reader.read_vector(1)
    message, size = reader.read_vector(2).decode(errors="replace"), reader.read_uint(6)
    reader.finish()
    name, value = family.decode("ascii", "replace"), reason.decode("ascii", "replace")
    if kind != _REFUSED or name not in _FAMILIES or value not in list(Reason):
        raise FormatError(Reason.BAD_ENTRY_TYPE, "the signer's answer is of no known kind")
    facts = {} if size == _NO_SIZE else {"tree_size": size}
    raise _FAMILIES[name](Reason(value), f"the signer refused: {message}", **facts)
