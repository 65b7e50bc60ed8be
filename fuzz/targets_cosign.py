"""Fuzz targets for what a witness or mirror reads from strangers and from its own disk."""

from dataclasses import replace
from functools import cache

from fuzz import corpora
from fuzz.registry import target

from mtc.cosign.config import format_cosigner_config, parse_cosigner_config
from mtc.cosign.machine import CosignerView
from mtc.cosign.mirroring import MirrorState
from mtc.cosign.requests import AddCheckpoint, SignSubtree
from mtc.cosign.upload import MirrorInfo, Package, UploadHead, UploadReader, encode_package
from mtc.errors import FormatError, UsageError
from mtc.kernel import python_kernel
from mtc.log.formats import LogRecord
from mtc.log.owed import KeptRound
from mtc.merkle import RowReader, Subtree, prove_consistency, subtree_hash
from mtc.note import Checkpoint, Note, checkpoint_message, note_signature
from mtc.tiles import EntryBundle

_ORIGIN = "log.example/7"
_ENTRIES = [b"entry %d" % at for at in range(300)]


@cache
def _note(size: int) -> bytes:
    """Return a signed checkpoint."""
    checkpoint = Checkpoint(_ORIGIN, size, _hash(Subtree(0, size)))
    signer, key = corpora.note_signers()[0]
    moment = 1_790_000_000 if key.is_cosigner else 0
    line = note_signature(key, signer.sign_now(checkpoint_message(key, checkpoint, moment)), moment)
    return Note(checkpoint.encode(), (line,)).encode()


@cache
def _reader() -> RowReader:
    """Return the tree."""
    hasher = python_kernel().hasher("sha256")
    return RowReader(hasher, hasher.leaves(_ENTRIES))


def _hash(subtree: Subtree) -> bytes:
    """Return the hash of a subtree."""
    return subtree_hash(python_kernel().hasher("sha256"), _reader(), subtree)


def _proof(subtree: Subtree, size: int) -> list[bytes]:
    """Return a consistency proof."""
    return prove_consistency(python_kernel().hasher("sha256"), _reader(), subtree, size)


def add_checkpoint_seeds() -> list[bytes]:
    """Return requests with short and long proofs."""
    return [
        AddCheckpoint.encode(0, [], _note(5)),
        AddCheckpoint.encode(5, _proof(Subtree(0, 5), 300), _note(300)),
        AddCheckpoint.encode(300, [], _note(300)),
    ]


@target(add_checkpoint_seeds)
def check_add_checkpoint(data: bytes) -> None:
    """A request that parses has one form, and says of its checkpoint what the note says."""
    try:
        request = AddCheckpoint.parse(data)
    except FormatError:
        return
    assert AddCheckpoint.encode(request.old_size, request.proof, request.note.encode()) == data
    assert Checkpoint.parse(request.note.text) == request.checkpoint


def sign_subtree_seeds() -> list[bytes]:
    """Return requests for subtrees of several shapes."""
    shapes = (Subtree(0, 300), Subtree(256, 300), Subtree(4, 5))
    return [SignSubtree.encode(shape, _hash(shape), _proof(shape, 300), _note(300)) for shape in shapes]


@target(sign_subtree_seeds)
def check_sign_subtree(data: bytes) -> None:
    """A request that parses has one form, and its subtree ends within its checkpoint."""
    try:
        request = SignSubtree.parse(data)
    except FormatError:
        return
    assert SignSubtree.encode(request.subtree, request.subtree_hash, request.proof, request.note.encode()) == data
    assert request.subtree.end <= request.checkpoint.tree_size


def upload_seeds() -> list[bytes]:
    """Return uploads of nothing, of one bundle, of parts of two."""
    seeds = []
    for start, end in ((7, 7), (0, 5), (200, 300)):
        places = [(start, min(end, 256)), (256, end)] if end > 256 else [(start, end)] if start < end else []
        body = UploadHead(_ORIGIN, start, end, b"ticket").encode()
        for first, after in places:
            subtree = Subtree(first - first % 256, after)
            body += encode_package(EntryBundle(tuple(_ENTRIES[first:after])).encode(), _proof(subtree, end))
        seeds.append(body)
    return seeds


@target(upload_seeds)
def check_upload(data: bytes) -> None:
    """The packages of an upload do not depend on the pieces in which it arrives, nor does its fault."""
    assert _read_upload(data, len(data) + 1) == _read_upload(data, 1 + len(data) // 3)


def _read_upload(data: bytes, step: int) -> tuple[list[Package], UploadHead | None, str]:
    """Return what an upload gives when it comes in pieces."""
    reader, packages, fault = UploadReader(), list[Package](), ""
    try:
        for at in range(0, len(data), step):
            packages += reader.receive(data[at : at + step])
        reader.finish()
    except FormatError as error:
        fault = str(error.reason)
    for package in packages:
        assert b"".join(len(item).to_bytes(2, "big") + item for item in package.entries) == package.data
    return packages, reader.head, fault


@target(lambda: [MirrorInfo(300, 256, b"ticket").encode(), b"0\n0\n\n"])
def check_mirror_info(data: bytes) -> None:
    """A mirror's answer that parses has one form."""
    try:
        info = MirrorInfo.parse(data)
    except FormatError:
        return
    assert info.encode() == data


def state_seeds() -> list[bytes]:
    """Return states of a mirror: new, pending, committed."""
    five, all_ = (CosignerView(size, _hash(Subtree(0, size)), _note(size), b"lines\n") for size in (5, 300))
    states = (MirrorState(), MirrorState((five,)), MirrorState((five, all_), five, 256, 256))
    return [state.encode() for state in states]


@target(state_seeds)
def check_mirror_state(data: bytes) -> None:
    """A mirror's state that parses has one form, but for the flag of a committed checkpoint."""
    try:
        state = MirrorState.parse(data)
    except FormatError:
        return
    assert MirrorState.parse(state.encode()) == state


@target(lambda: [CosignerView(5, _hash(Subtree(0, 5)), _note(5), b"lines\n").encode()])
def check_cosigner_view(data: bytes) -> None:
    """A witness's view that parses has one form."""
    try:
        view = CosignerView.parse(data)
    except FormatError:
        return
    assert view.encode() == data


def config_seeds() -> list[bytes]:
    """Return configurations, as written and with a log."""
    text = b'role = "mirror"\nid = "32473.7"\n'
    config = parse_cosigner_config(text)
    key = corpora.note_signers()[0][1].encode()
    return [text, format_cosigner_config(config).encode(), text + f'[[log]]\nvkey = "{key}"\n'.encode()]


@target(config_seeds)
def check_cosigner_config(data: bytes) -> None:
    """A configuration is read, or refused with an error for people."""
    try:
        config = parse_cosigner_config(data)
    except UsageError:
        return
    assert config.name.endswith(str(config.cosigner_id))


def record_seeds() -> list[bytes]:
    """Return records of a log, one with evidence that ends."""
    old = LogRecord(log_number=1, tree_size=5, root_hash=bytes(32), timestamp=1_790_000_000)
    new = replace(old, tree_size=9, staged_digest=bytes(32), evidence_until=1_790_000_600, before=old.encode())
    return [old.encode(), new.encode()]


@target(record_seeds)
def check_log_record(data: bytes) -> None:
    """A log's record that parses reads back to the same."""
    try:
        record = LogRecord.parse(data)
    except FormatError:
        return
    assert LogRecord.parse(record.encode()) == record


@target(lambda: [bytes((1,)) + bytes(40)])
def check_kept_round(data: bytes) -> None:
    """An owed round that parses reads back to the same."""
    try:
        kept = KeptRound.parse(data)
    except FormatError:
        return
    assert KeptRound.parse(kept.encode()) == kept
