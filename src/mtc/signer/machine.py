"""The rules of the key, in the order they are applied.

1. The request is for a log of this CA, with a number that may be used, and for the current log: once a later log holds
   entries, an earlier one takes none.
2. The tree is not smaller than the last one signed, and its timestamp is not earlier, nor far ahead of the signer's own
   clock.
3. The same size again is the same tree again: the same messages come out, so that a crash costs nothing.
4. The entries are all those since the last tree, each of a type and with extensions that are known here, because
   signing a subtree certifies every entry in it. The counter of accumulated entries follows its rule.
5. The root is computed here, from the last tree's edge and the entries, and must be the one that was asked for. So
   every tree is consistent with all before it by construction. The covering subtrees and their hashes are computed here
   too.
6. Entries whose validation is out of date are not issued: a tree that grows is refused after the moment that its
   request names, by the signer's own clock, and from then on for good, whatever the clock says later. A tree that was
   signed before, or announced in the journal, was issued then, and is signed again whatever its age.

The view that results must be durable, and the messages in the journal, before the first signature leaves.

Spec: Merkle Tree Certificates, "Certification Authority Cosigners": a CA cosigner signs its own logs only, only
consistent subtrees, and none that holds entries which it does not recognise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from mtc.errors import ConflictError, FormatError, Reason, Rejected
from mtc.ids import log_id
from mtc.merkle import MAX_TREE_SIZE, Frontier, Hasher, Subtree, split_row
from mtc.note import CosignedMessage
from mtc.signer.entries import check_entries
from mtc.signer.rules import SignerRules
from mtc.wire import Reader, Writer

_VIEW_VERSION, _STALE_VERSION = 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class SignerView:
    """The last tree of one log that the key signed. subtrees: what was signed with it, and may be signed again.

    stale_before: POSIX seconds; a tree was refused because its evidence had ended by then, so that evidence which ended
    earlier is never accepted again.
    """

    log_number: int
    frontier: Frontier
    timestamp: int
    accumulated_count: int = 0
    subtrees: tuple[tuple[Subtree, bytes], ...] = ()
    stale_before: int = 0

    def encode(self) -> bytes:
        """Return the view's bytes; those of a log without stale evidence are as they were before there was any."""
        writer = (
            Writer()
            .uint(_STALE_VERSION if self.stale_before else _VIEW_VERSION, 1)
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
        if self.stale_before:
            writer.uint(self.stale_before, 8)
        return writer.encode()

    @staticmethod
    def parse(data: bytes) -> "SignerView":
        """Read a view, which must fill `data`. Raises FormatError."""
        reader = Reader(data, "the signer's view")
        version = reader.read_uint(1)
        if version not in (_VIEW_VERSION, _STALE_VERSION):
            raise FormatError(Reason.BAD_VERSION, f"the signer's view has version {version}, known is {_STALE_VERSION}")
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
        stale_before = reader.read_uint(8) if version == _STALE_VERSION else 0
        reader.finish()
        return SignerView(
            log_number=log_number,
            frontier=frontier,
            timestamp=timestamp,
            accumulated_count=count,
            subtrees=subtrees,
            stale_before=stale_before,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeRequest:
    """What the log asks for: exactly one tree, and the entries [start, tree_size) that lead to it.

    root_hash: of the tree. timestamp: POSIX seconds of its checkpoint. start: at most the size of the tree that was
    signed last; entries that are known already are skipped. with_subtrees: sign the covering subtrees of the newest
    entries too; without, as when only the time moves, the checkpoint alone. evidence_until: POSIX seconds up to and
    including which the new entries may be issued, 0 for no end.
    """

    log_number: int
    tree_size: int
    root_hash: bytes
    timestamp: int
    start: int
    entries: Sequence[bytes]
    with_subtrees: bool = True
    evidence_until: int = 0


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

    Raises Rejected (UNKNOWN_ORIGIN, BAD_ENTRY_TYPE, BAD_NUMBER, NOT_YET_VALID, STALE_EVIDENCE) for what is never
    signed, ConflictError for a tree that contradicts the view; its facts hold the size that is known, `tree_size`.
    FormatError for entries that are none. Only a tree that would be signed otherwise is refused as stale.
    """
    _check_log(rules, views, request)
    view = _view_of(views, request.log_number)
    size = view.frontier.tree_size
    if request.tree_size < size:
        raise _contradiction(
            view,
            f"{request.tree_size} entries are fewer than were signed. The log runs on an older copy of its storage; "
            "bring the newest one back, or follow this log with the next one",
        )
    if request.timestamp < view.timestamp:
        raise _contradiction(view, f"timestamp {request.timestamp} lies before {view.timestamp}, which was signed")
    # A tree that was decided before a crash keeps its timestamp, however long the crash lasted. Only one that lies in
    # the future would bind the log until then.
    if request.timestamp - now > rules.max_skew_s:
        raise Rejected(
            Reason.NOT_YET_VALID,
            f"timestamp {request.timestamp} lies {request.timestamp - now} s ahead of the signer's clock, allowed are "
            f"{rules.max_skew_s}; set the clocks",
            got=request.timestamp,
        )
    grown = view if request.tree_size == size else _grow(hasher, rules, view, request)
    if grown.frontier.root(hasher) != request.root_hash:
        raise _contradiction(view, "the entries lead to another root hash than the one that was asked for")
    if request.tree_size > size and 0 < request.evidence_until < max(now, view.stale_before):
        raise Rejected(
            Reason.STALE_EVIDENCE,
            f"the validation behind the entries from {size} to {request.tree_size} ended at {request.evidence_until}, "
            f"it is {max(now, view.stale_before)} now; validate again",
            log=view.log_number,
        )
    grown = replace(grown, timestamp=request.timestamp)
    return _messages(hasher, rules, grown, with_subtrees=request.with_subtrees)


def plan_refusal(views: Mapping[int, SignerView], request: TreeRequest, now: int) -> SignerView:
    """Return the view that remembers a refusal as stale, to be durable before it is told. now: POSIX seconds.

    Whoever hears of the refusal gives the tree up, so that it must stay refused even if the clock goes back.
    """
    view = _view_of(views, request.log_number)
    return view if request.evidence_until < view.stale_before else replace(view, stale_before=now)


def _view_of(views: Mapping[int, SignerView], log_number: int) -> SignerView:
    """Return what was signed of a log, at least nothing."""
    return views.get(log_number) or SignerView(log_number=log_number, frontier=Frontier(), timestamp=0)


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
    if request.start > size:
        raise _contradiction(
            view,
            f"the entries sent begin at {request.start}. The signer runs on an older copy of its record; bring the "
            "newest one back, or follow this log with the next one",
        )
    if request.start + len(request.entries) != request.tree_size:
        raise _contradiction(
            view,
            f"entries [{request.start}, {request.start + len(request.entries)}) do not lead from {size} to "
            f"{request.tree_size}",
        )
    entries = request.entries if request.start == size else request.entries[size - request.start :]
    count = check_entries(rules, size, entries, view.accumulated_count)
    row = hasher.leaves(entries)
    return replace(
        view,
        frontier=view.frontier.extended(hasher, row),
        accumulated_count=count,
        subtrees=view.frontier.cover_growth(hasher, row),
    )


def _messages(hasher: Hasher, rules: SignerRules, view: SignerView, *, with_subtrees: bool) -> SigningPlan:
    """Return the messages for the view's tree and its subtrees."""
    log = log_id(rules.ca_id, view.log_number)
    tree = Subtree(0, view.frontier.tree_size)
    checkpoint = CosignedMessage.for_subtree(rules.ca_id, log, tree, view.frontier.root(hasher), view.timestamp)
    subtrees = view.subtrees if with_subtrees else ()
    return SigningPlan(
        view,
        checkpoint,
        tuple(CosignedMessage.for_subtree(rules.ca_id, log, subtree, value) for subtree, value in subtrees),
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
