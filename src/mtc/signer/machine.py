"""The rules of the key, in the order they are applied.

1. The request is for a log of this CA, with a number that may be used, and for the current log: once a later log holds
   entries, an earlier one takes none.
2. The tree is not smaller than the last one signed, and its timestamp is not earlier, nor far from the signer's own
   clock.
3. The same size again is the same tree again: the same messages come out, so that a crash costs nothing.
4. The entries are all those since the last tree, each of a type and with extensions that are known here, because
   signing a subtree certifies every entry in it. The counter of accumulated entries follows its rule.
5. The root is computed here, from the last tree's edge and the entries, and must be the one that was asked for. So
   every tree is consistent with all before it by construction. The covering subtrees and their hashes are computed here
   too.

The view that results must be durable, and the messages in the journal, before the first signature leaves.

Spec: Merkle Tree Certificates, "Certification Authority Cosigners": a CA cosigner signs its own logs only, only
consistent subtrees, and none that holds entries which it does not recognise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mtc.cert import MAX_ENTRY_BYTES, EntryType
from mtc.errors import ConflictError, FormatError, Reason, Rejected
from mtc.ids import MAX_LOG_NUMBER, TrustAnchorID, log_id
from mtc.log.machine import ACCUMULATED_COUNT, ACCUMULATED_ENTRY
from mtc.merkle import MAX_TREE_SIZE, Frontier, Hasher, Subtree, split_row
from mtc.note import CosignedMessage
from mtc.wire import Reader, Writer

KNOWN_ENTRY_TYPES = frozenset({int(EntryType.NULL), int(EntryType.TBS_CERT)})
"""The entry types of the draft."""
_VIEW_VERSION = 1

_PLAIN_HEADS = {b"\0\0\0\0": 0, b"\0\0\0\1": 1}
"""The first bytes of entries without extensions, by type."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerRules:
    """What the key is for.

    highest_log: last log number that may be used. max_skew_s: how far a timestamp may lie from now. known_entry_types,
    known_extension_types: anything else is not signed. has_counter: every entry carries the counter of accumulated
    entries, and it is right.
    """

    ca_id: TrustAnchorID
    highest_log: int = MAX_LOG_NUMBER
    max_skew_s: int = 300
    known_entry_types: frozenset[int] = KNOWN_ENTRY_TYPES
    known_extension_types: frozenset[int] = frozenset()
    has_counter: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerView:
    """The last tree of one log that the key signed. subtrees: what was signed with it, and may be signed again."""

    log_number: int
    frontier: Frontier
    timestamp: int
    accumulated_count: int = 0
    subtrees: tuple[tuple[Subtree, bytes], ...] = ()

    def encode(self) -> bytes:
        """Return the view's bytes."""
        writer = (
            Writer()
            .uint(_VIEW_VERSION, 1)
            .uint(self.log_number, 2)
            .uint(self.frontier.tree_size, 6)
            .uint(len(self.frontier.hashes[0]) if self.frontier.hashes else 0, 1)
            .vector(b"".join(self.frontier.hashes), 2)
            .uint(self.timestamp, 8)
            .uint(self.accumulated_count, 6)
            .uint(len(self.subtrees), 1)
        )
        for subtree, value in self.subtrees:
            writer.uint(subtree.start, 6).uint(subtree.end, 6).vector(value, 1)
        return writer.encode()

    @staticmethod
    def parse(data: bytes) -> "SignerView":
        """Read a view, which must fill `data`. Raises FormatError."""
        reader = Reader(data, "the signer's view")
        version = reader.read_uint(1)
        if version != _VIEW_VERSION:
            raise FormatError(Reason.BAD_VERSION, f"the signer's view has version {version}, known is {_VIEW_VERSION}")
        log_number, tree_size, size = reader.read_uint(2), reader.read_uint(6), reader.read_uint(1)
        row = reader.read_vector(2)
        if len(row) != size * tree_size.bit_count() or (row and not size):
            raise FormatError(Reason.BAD_LENGTH, "the signer's view does not hold the hashes of its edge")
        frontier = Frontier(tree_size, tuple(split_row(row, size)) if row else ())
        timestamp, count = reader.read_uint(8), reader.read_uint(6)
        subtrees = tuple(
            (Subtree(reader.read_uint(6), reader.read_uint(6)), reader.read_vector(1, least=1))
            for _ in range(reader.read_uint(1))
        )
        reader.finish()
        return SignerView(
            log_number=log_number, frontier=frontier, timestamp=timestamp, accumulated_count=count, subtrees=subtrees
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeRequest:
    """What the log asks for: exactly one tree, and the entries [start, tree_size) that lead to it."""

    log_number: int
    tree_size: int
    root_hash: bytes
    timestamp: int
    start: int
    entries: Sequence[bytes]


@dataclass(frozen=True, slots=True)
class SigningPlan:
    """What to make durable, then what to sign. checkpoint: with its timestamp. subtrees: with timestamp 0."""

    view: SignerView
    checkpoint: CosignedMessage
    subtrees: tuple[CosignedMessage, ...]


def plan_signing(
    hasher: Hasher, rules: SignerRules, views: Mapping[int, SignerView], request: TreeRequest, now: int
) -> SigningPlan:
    """Decide about a request. views: of all logs of the CA that the key ever signed, by number. now: POSIX seconds.

    Raises Rejected (UNKNOWN_ORIGIN, BAD_ENTRY_TYPE, NOT_YET_VALID) for what is never signed, ConflictError for a tree
    that contradicts the view; its facts hold the size that is known, `tree_size`, so that the log can send what is
    missing. FormatError for entries that are none.
    """
    _check_log(rules, views, request)
    view = views.get(request.log_number) or SignerView(log_number=request.log_number, frontier=Frontier(), timestamp=0)
    size = view.frontier.tree_size
    if request.tree_size < size:
        raise _contradiction(view, f"{request.tree_size} entries are fewer than were signed")
    if request.timestamp < view.timestamp:
        raise _contradiction(view, f"timestamp {request.timestamp} lies before {view.timestamp}, which was signed")
    if abs(request.timestamp - now) > rules.max_skew_s:
        raise Rejected(
            Reason.NOT_YET_VALID,
            f"timestamp {request.timestamp} lies {abs(request.timestamp - now)} s from the signer's clock, allowed are "
            f"{rules.max_skew_s}",
            got=request.timestamp,
        )
    grown = view if request.tree_size == size else _grow(hasher, rules, view, request)
    if grown.frontier.root(hasher) != request.root_hash:
        raise _contradiction(view, "the entries lead to another root hash than the one that was asked for")
    return _messages(
        hasher,
        rules,
        SignerView(
            log_number=grown.log_number,
            frontier=grown.frontier,
            timestamp=request.timestamp,
            accumulated_count=grown.accumulated_count,
            subtrees=grown.subtrees,
        ),
    )


def _check_log(rules: SignerRules, views: Mapping[int, SignerView], request: TreeRequest) -> None:
    """Refuse a log that this CA does not have, or has left behind, and a size that no log reaches."""
    number = request.log_number
    if not 1 <= number <= rules.highest_log or not 0 <= request.tree_size <= MAX_TREE_SIZE:
        raise Rejected(
            Reason.UNKNOWN_ORIGIN,
            f"log {number} with {request.tree_size} entries is none of CA {rules.ca_id}; logs run from 1 to "
            f"{rules.highest_log}",
            log=number,
        )
    later = [other for other, view in views.items() if other > number and view.frontier.tree_size]
    grows = number not in views or request.tree_size > views[number].frontier.tree_size
    if later and grows:
        raise Rejected(
            Reason.UNKNOWN_ORIGIN,
            f"log {min(later)} has entries, so log {number} takes no more; a CA appends to its current log only",
            log=number,
        )


def _grow(hasher: Hasher, rules: SignerRules, view: SignerView, request: TreeRequest) -> SignerView:
    """Return the view after the new entries, each of which was looked at."""
    size = view.frontier.tree_size
    if request.start > size or request.start + len(request.entries) != request.tree_size:
        raise _contradiction(
            view,
            f"entries [{request.start}, {request.start + len(request.entries)}) do not lead from {size} to "
            f"{request.tree_size}",
        )
    entries = request.entries[size - request.start :]
    count = view.accumulated_count
    for index, entry in enumerate(entries, size):
        count = _check_entry(rules, index, entry, count)
    row = hasher.leaves(entries)
    return SignerView(
        log_number=view.log_number,
        frontier=view.frontier.extended(hasher, row),
        timestamp=view.timestamp,
        accumulated_count=count,
        subtrees=view.frontier.cover_growth(hasher, row),
    )


def _check_entry(rules: SignerRules, index: int, entry: bytes, count: int) -> int:
    """Refuse an entry of an unknown type, with unknown extensions, or with a wrong counter; return the new count."""
    kind = _PLAIN_HEADS.get(entry[:4])
    if len(entry) > MAX_ENTRY_BYTES or (kind == EntryType.NULL and len(entry) > 4):
        raise FormatError(
            Reason.TOO_LARGE, f"entry {index} has {len(entry)} bytes, more than its type allows", index=index
        )
    if kind in rules.known_entry_types and not rules.has_counter:
        return count
    reader = Reader(entry, f"entry {index}")
    extensions = Reader(reader.read_vector(2), f"the extensions of entry {index}")
    kind = reader.read_uint(2)
    found: int | None = None
    while extensions.remaining:
        extension, data = extensions.read_uint(2), extensions.read_vector(2)
        is_counter = rules.has_counter and extension == ACCUMULATED_COUNT and len(data) == 6
        if is_counter:
            found = int.from_bytes(data, "big")
        elif extension not in rules.known_extension_types:
            raise _unknown(index, f"extension type 0x{extension:04x}")
    is_accumulated = rules.has_counter and kind == ACCUMULATED_ENTRY
    if kind not in rules.known_entry_types and not is_accumulated:
        raise _unknown(index, f"entry type 0x{kind:04x}")
    count += is_accumulated
    if rules.has_counter and found != count:
        raise Rejected(
            Reason.BAD_NUMBER, f"entry {index} carries counter {found} where {count} should be", index=index, got=found
        )
    return count


def _messages(hasher: Hasher, rules: SignerRules, view: SignerView) -> SigningPlan:
    """Return the messages for the view's tree and its subtrees."""
    log = log_id(rules.ca_id, view.log_number)
    tree = Subtree(0, view.frontier.tree_size)
    checkpoint = CosignedMessage.for_subtree(rules.ca_id, log, tree, view.frontier.root(hasher), view.timestamp)
    subtrees = tuple(CosignedMessage.for_subtree(rules.ca_id, log, subtree, value) for subtree, value in view.subtrees)
    return SigningPlan(view, checkpoint, subtrees)


def _unknown(index: int, what: str) -> Rejected:
    """Make the error for an entry that must not be certified."""
    return Rejected(
        Reason.BAD_ENTRY_TYPE,
        f"entry {index} has {what}, which this signer does not know; signing would certify what nobody understood",
        index=index,
    )


def _contradiction(view: SignerView, what: str) -> ConflictError:
    """Make the error for a request that does not continue what was signed."""
    size = view.frontier.tree_size
    return ConflictError(
        Reason.CONFLICT,
        f"log {view.log_number} was signed at {size} entries: {what}; nothing is signed",
        log=view.log_number,
        tree_size=size,
    )
