"""A mirror's state for one log, and the rules by which it moves.

pending: checkpoints that were accepted by `plan_checkpoint`, the newest last; entries may be uploaded for any of them.
committed: the mirror checkpoint; its entries and tiles are durable here, and it is what the mirror signs and serves.
next_entry: the first entry that is missing. It only grows, as does the committed size; a request that was overtaken
changes nothing.

Crash meaning. Entries are durable before `next_entry` passes them; tiles before `committed` names their tree; the state
before the signature leaves. After a crash the state is at most behind what is stored, never ahead.

Spec: C2SP tlog-mirror.
"""

import hashlib
import hmac
from dataclasses import dataclass, replace

from mtc.cosign.machine import CosignerView
from mtc.cosign.upload import MirrorInfo, Package, UploadHead
from mtc.errors import ConflictError, FormatError, ProofError, Reason
from mtc.merkle import Hasher, root_hash, verify_consistency
from mtc.tiles import TILE_WIDTH
from mtc.wire import Reader, Writer

MAX_PENDING = 16
"""How many pending checkpoints are remembered, so that an upload in progress is not lost when a newer one comes."""
MAX_EXCESS = 32 * TILE_WIDTH
"""How many entries that the mirror has already an upload may repeat; one request of the recommended size."""

_VERSION = 1
_MAC_BYTES = 32


@dataclass(frozen=True, slots=True)
class MirrorState:
    """What a mirror knows of one log. minimum_index: entries below it are not held, or no longer."""

    pending: tuple[CosignerView, ...] = ()
    committed: CosignerView | None = None
    next_entry: int = 0
    minimum_index: int = 0

    @property
    def committed_size(self) -> int:
        """Entries of the mirror checkpoint; 0 without one."""
        return 0 if self.committed is None else self.committed.tree_size

    @property
    def latest(self) -> CosignerView | None:
        """The pending checkpoint, from which the next one must follow."""
        return self.pending[-1] if self.pending else self.committed

    def encode(self) -> bytes:
        """Return the state's bytes."""
        writer = Writer().uint(_VERSION, 1).uint(self.next_entry, 8).uint(self.minimum_index, 8)
        writer.uint(self.committed is not None, 1)
        if self.committed is not None:
            writer.bytes(self.committed.encode())
        writer.uint(len(self.pending), 1)
        for view in self.pending:
            writer.bytes(view.encode())
        return writer.encode()

    @staticmethod
    def parse(data: bytes) -> "MirrorState":
        """Read a state, which must fill `data`. Raises FormatError."""
        reader = Reader(data, "the mirror's state")
        version = reader.read_uint(1)
        if version != _VERSION:
            raise FormatError(Reason.BAD_VERSION, f"the mirror's state has version {version}, known is {_VERSION}")
        next_entry, minimum_index = reader.read_uint(8), reader.read_uint(8)
        committed = CosignerView.read(reader) if reader.read_uint(1) else None
        pending = tuple(CosignerView.read(reader) for _ in range(reader.read_uint(1)))
        reader.finish()
        return MirrorState(pending, committed, next_entry, minimum_index)


def add_pending(state: MirrorState, view: CosignerView) -> MirrorState:
    """Return the state with a newer pending checkpoint, which `plan_checkpoint` accepted after `state.latest`.

    The same size again replaces the note. At most `MAX_PENDING` are kept, none below the mirror checkpoint.
    """
    kept = [item for item in state.pending if state.committed_size <= item.tree_size != view.tree_size]
    return replace(state, pending=(*kept[-(MAX_PENDING - 1) :], view))


def check_upload(state: MirrorState, head: UploadHead, remembered: CosignerView | None) -> CosignerView:
    """Return the checkpoint for which an upload brings entries.

    remembered: from the ticket of the request, proven, or None. Raises ProofError (NO_CHECKPOINT) when there was never
    a pending checkpoint, ConflictError (STALE_SIZE) when the upload does not fit where the mirror stands.
    """
    if state.latest is None:
        raise ProofError(
            Reason.NO_CHECKPOINT, "this mirror has no checkpoint of the log yet; add-checkpoint comes first"
        )
    target = _find(state, head.end, remembered)
    if target is None:
        raise _stale(f"{head.end} is the size of no checkpoint that this mirror takes entries for")
    if head.start > state.next_entry:
        raise _stale(f"entries from {state.next_entry} on are missing, the upload begins at {head.start}")
    if min(head.end, state.next_entry) - head.start > MAX_EXCESS:
        raise _stale(f"the upload repeats more than {MAX_EXCESS} entries that are here already")
    return target


def _find(state: MirrorState, size: int, remembered: CosignerView | None) -> CosignerView | None:
    """Return the newest checkpoint of this size that is known; none below the mirror checkpoint."""
    if size < state.committed_size:
        return None
    for view in reversed(state.pending):
        if view.tree_size == size:
            return view
    if state.committed is not None and state.committed.tree_size == size:
        return state.committed
    # The mirror accepted it once, so it is consistent with all that came later.
    return remembered if remembered is not None and remembered.tree_size == size else None


def _stale(what: str) -> ConflictError:
    """Make the error for an upload that does not fit where the mirror stands."""
    return ConflictError(Reason.STALE_SIZE, what)


def verify_package(hasher: Hasher, target: CosignerView, package: Package, held: bytes) -> bytes:
    """Return the leaf hashes of the package's subtree, one row, proven against the target's tree.

    held: leaf hashes of the entries that stand in the bundle before the package. Raises ProofError.
    """
    subtree = package.place.subtree
    row = held + hasher.leaves(package.entries)
    if len(row) != subtree.size * hasher.size:
        raise ProofError(Reason.MISSING_HASH, f"the entries before {package.place.start} are not here")
    verify_consistency(hasher, subtree, target.tree_size, root_hash(hasher, row), target.root_hash, package.proof)
    return row


def advance(state: MirrorState, next_entry: int) -> MirrorState:
    """Return the state after entries up to `next_entry` became durable; it never falls."""
    return state if next_entry <= state.next_entry else replace(state, next_entry=next_entry)


def commit(state: MirrorState, target: CosignerView) -> MirrorState:
    """Return the state whose mirror checkpoint is `target`, of which all entries and tiles are durable.

    The same size again takes the newer note. Raises ConflictError (STALE_SIZE) when the mirror checkpoint passed it.
    """
    if target.tree_size < state.committed_size:
        raise _stale(f"the mirror checkpoint has {state.committed_size} entries by now")
    assert state.next_entry >= target.tree_size
    pending = tuple(view for view in state.pending if view.tree_size > target.tree_size)
    return replace(state, committed=target, pending=pending or state.pending[-1:])


def info_of(state: MirrorState, target: CosignerView | None, secret: bytes, origin: str) -> MirrorInfo:
    """Return where the mirror stands. target: the checkpoint that the upload named, if it is still good."""
    if target is not None and target.tree_size < state.committed_size:
        target = None
    view = target or state.latest
    if view is None:
        return MirrorInfo(0, state.next_entry, b"")
    return MirrorInfo(view.tree_size, state.next_entry, make_ticket(secret, origin, view))


def make_ticket(secret: bytes, origin: str, view: CosignerView) -> bytes:
    """Return a ticket that reminds the mirror of a checkpoint that it accepted. secret: known to the mirror alone."""
    data = view.encode()
    return _mac(secret, origin, data) + data


def open_ticket(secret: bytes, origin: str, ticket: bytes) -> CosignerView | None:
    """Return the checkpoint of a ticket that this mirror made for this log, None for any other bytes.

    A ticket is a help for the one who has it: a wrong one is as good as none.
    """
    mac, data = ticket[:_MAC_BYTES], ticket[_MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(secret, origin, data)):
        return None
    return CosignerView.parse(data)


def _mac(secret: bytes, origin: str, data: bytes) -> bytes:
    """Return the authenticator of a ticket's contents."""
    name = hashlib.sha256(origin.encode()).digest()
    return hmac.digest(secret, b"mtc mirror ticket\0" + name + data, "sha256")
