"""What the key signs: every rule of `mtc.signer.machine`, and its messages against the log's own batches."""

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtc.cert import EntryExtension, LogEntry
from mtc.errors import ConflictError, Error, FormatError, Reason, Rejected
from mtc.ids import TrustAnchorID, log_id
from mtc.kernel import active_kernel
from mtc.log import PendingEntry, plan_batch, start_log
from mtc.log.machine import ACCUMULATED_ENTRY
from mtc.merkle import MAX_TREE_SIZE, Frontier, Subtree, cover, root_hash
from mtc.note import CosignedMessage
from mtc.signer import SignerRules, SignerView, TreeRequest, plan_refusal, plan_signing

NOW = 1_795_262_400
CA_ID = TrustAnchorID.parse("32473.1")
HASHER = active_kernel().hasher("sha256")
RULES = SignerRules(ca_id=CA_ID)


def null_entries(count: int) -> list[bytes]:
    """Return null entries."""
    return [LogEntry().encode()] * count


def request(entries: Sequence[bytes], start: int = 0, *, log: int = 1, timestamp: int = NOW) -> TreeRequest:
    """Return the request for the tree over all entries, of which it carries those from `start`."""
    return TreeRequest(
        log_number=log,
        tree_size=len(entries),
        root_hash=root_hash(HASHER, HASHER.leaves(entries)),
        timestamp=timestamp,
        start=start,
        entries=entries[start:],
    )


def signed(entries: Sequence[bytes], *, log: int = 1) -> dict[int, SignerView]:
    """Return the views after one tree was signed."""
    return {log: plan_signing(HASHER, RULES, {}, request(entries, log=log), NOW).view}


@pytest.mark.parametrize("sizes", [(1,), (3, 5), (255, 257), (4, 4, 9), (1, 2, 3, 4, 5, 6, 7)])
def test_messages_are_those_of_the_log(sizes: tuple[int, ...]) -> None:
    """For every round of a log, the checkpoint and the covering subtrees that the key signs are the log's own."""
    state, views, entries = start_log(HASHER, 1, NOW), dict[int, SignerView](), list[bytes]()
    for size in sizes:
        pending = [PendingEntry(1, b"body %d" % number) for number in range(len(entries), size)]
        batch = plan_batch(HASHER, state, pending, NOW)
        entries += [LogEntry(item.type, item.body).encode() for item in pending]
        plan = plan_signing(HASHER, RULES, views, request(entries, state.tree_size), NOW)
        origin = log_id(CA_ID, 1)
        record = batch.state.record
        assert plan.checkpoint == CosignedMessage.for_subtree(CA_ID, origin, Subtree(0, size), record.root_hash, NOW)
        if pending:
            expected = [CosignedMessage.for_subtree(CA_ID, origin, *item) for item in batch.round_.subtrees]
            assert list(plan.subtrees) == expected
        views = {1: SignerView.parse(plan.view.encode())}
        assert views[1] == plan.view
        state = batch.state


def test_same_tree_gives_the_same_messages_again() -> None:
    """After a crash the same request is answered with the same subtrees, also with a later timestamp."""
    entries = null_entries(5)
    first = plan_signing(HASHER, RULES, {}, request(entries), NOW)
    again = plan_signing(HASHER, RULES, {1: first.view}, request(entries, timestamp=NOW + 1), NOW + 1)
    assert again.subtrees == first.subtrees
    assert [message.subtree for message in first.subtrees] == [item for item in cover(0, 5) if not item.is_empty]
    assert again.checkpoint.timestamp == NOW + 1


def test_entries_that_are_known_already_may_come_again() -> None:
    """A request may begin before the signed size; what is known is skipped and cannot change anything."""
    entries = null_entries(9)
    views = signed(entries[:5])
    whole = plan_signing(HASHER, RULES, views, request(entries, 0), NOW)
    assert whole == plan_signing(HASHER, RULES, views, request(entries, 5), NOW)


def refusal(views: dict[int, SignerView], asked: TreeRequest, rules: SignerRules = RULES, now: int = NOW) -> Error:
    """Return the error that a request meets."""
    with pytest.raises(Error) as caught:
        plan_signing(HASHER, rules, views, asked, now)
    return caught.value


def test_rule_1_only_own_and_current_logs() -> None:
    """Log numbers beyond the allowed ones, and a log that a later one has followed, are refused."""
    entries = null_entries(3)
    limited = replace(RULES, highest_log=4)
    for number in (0, 5, 65536):
        assert refusal({}, replace(request(entries), log_number=number), limited).reason is Reason.UNKNOWN_ORIGIN
    assert refusal({}, replace(request(entries), tree_size=MAX_TREE_SIZE + 1)).reason is Reason.UNKNOWN_ORIGIN
    views = signed(entries) | signed(entries, log=2)
    assert "current log only" in refusal(views, request(null_entries(4), 3)).message
    plan_signing(HASHER, RULES, views, request(entries), NOW)
    plan_signing(HASHER, RULES, views, request(null_entries(4), 3, log=2), NOW)
    assert "current log only" in refusal(signed(entries, log=2), request(entries)).message


def test_rule_2_never_back() -> None:
    """A smaller tree and an earlier timestamp contradict the view; one far in the future is refused, an old one not."""
    views = signed(null_entries(5))
    smaller = refusal(views, request(null_entries(4)))
    assert isinstance(smaller, ConflictError)
    assert smaller.facts["tree_size"] == 5
    assert isinstance(refusal(views, request(null_entries(5), timestamp=NOW - 1)), ConflictError)
    assert refusal({}, request(null_entries(1), timestamp=NOW + 301)).reason is Reason.NOT_YET_VALID
    for timestamp in (NOW - 86400, NOW + 300):
        plan_signing(HASHER, RULES, {}, request(null_entries(1), timestamp=timestamp), NOW)


def test_rule_3_one_tree_per_size() -> None:
    """Another root for a size that was signed is a contradiction."""
    views = signed(null_entries(5))
    other = replace(request(null_entries(5)), root_hash=bytes(32))
    assert isinstance(refusal(views, other), ConflictError)


@pytest.mark.parametrize(
    ("entry", "family"),
    [
        (LogEntry(2, b"x").encode(), Rejected),
        (LogEntry(0xFF01, b"").encode(), Rejected),
        (LogEntry(extensions=(EntryExtension(7, b""),)).encode(), Rejected),
        (b"", FormatError),
        (b"\0\5abc", FormatError),
        (b"\0\0\0", FormatError),
        (b"\0\0\0\0body", FormatError),
        (b"\0\0\0\1" + bytes(65532), FormatError),
    ],
    ids=["type", "accumulated", "extension", "empty", "cut off", "no type", "null with body", "too large"],
)
def test_rule_4_unknown_entries_are_not_certified(entry: bytes, family: type[Error]) -> None:
    """An entry of a type or with an extension that is not known, or that is no entry, is refused with its index."""
    error = refusal({}, request([*null_entries(2), entry]))
    assert isinstance(error, family)
    if family is Rejected:
        assert (error.reason, error.facts["index"]) == (Reason.BAD_ENTRY_TYPE, 2)


def test_rule_4_extensions_are_looked_at_closely() -> None:
    """Known extensions are certified, in ascending order only; a null entry with a counter still has no body."""
    known = replace(RULES, known_extension_types=frozenset({5, 7}))
    plan_signing(HASHER, known, {}, request([b"\0\x08\0\5\0\0\0\7\0\0\0\0"]), NOW)
    assert isinstance(refusal({}, request([b"\0\x08\0\7\0\0\0\5\0\0\0\0"]), known), FormatError)
    assert isinstance(refusal({}, request([b"\0\x08\0\5\0\0\0\5\0\0\0\0"]), known), FormatError)
    counted = replace(RULES, has_counter=True)
    null = b"\0\x0a\xff\x01\0\6" + bytes(6) + b"\0\0"
    plan_signing(HASHER, counted, {}, request([null]), NOW)
    assert refusal({}, request([null + b"x"]), counted).reason is Reason.TRAILING_DATA
    nothing = replace(RULES, known_entry_types=frozenset())
    assert refusal({}, request([b"\0\0\0\1body"]), nothing).reason is Reason.BAD_ENTRY_TYPE


@given(st.lists(st.booleans(), min_size=1, max_size=8), st.data())
def test_rule_4_counter_of_accumulated_entries(kinds: list[bool], data: st.DataObject) -> None:
    """With the counter on, every entry must carry the count of accumulated entries up to itself."""
    rules = replace(RULES, has_counter=True)
    entries = []
    for position, kind in enumerate(kinds):
        counter = EntryExtension(0xFF01, sum(kinds[: position + 1]).to_bytes(6, "big"))
        entries.append(LogEntry(ACCUMULATED_ENTRY if kind else 0, b"", (counter,)).encode())
    view = plan_signing(HASHER, rules, {}, request(entries), NOW).view
    assert view.accumulated_count == sum(kinds)
    at = data.draw(st.integers(0, len(kinds) - 1))
    wrong = entries[at].replace(b"\xff\x01\0\6\0\0\0\0\0", b"\xff\x01\0\6\0\0\0\0\1", 1)
    for changed in (wrong, LogEntry().encode()):
        broken = [*entries[:at], changed, *entries[at + 1 :]]
        assert refusal({}, request(broken), rules).reason is Reason.BAD_NUMBER


def test_rule_5_root_and_entries_must_fit() -> None:
    """A root that the entries do not lead to, a gap before them, and a count that does not fit are contradictions."""
    views = signed(null_entries(5))
    good = request(null_entries(9), 5)
    for asked in (
        replace(good, root_hash=bytes(32)),
        replace(good, start=6, entries=good.entries[1:]),
        replace(good, entries=good.entries[1:]),
        replace(good, entries=[*good.entries, LogEntry().encode()]),
    ):
        error = refusal(views, asked)
        assert isinstance(error, ConflictError)
        assert error.facts["tree_size"] == 5


def test_rule_6_stale_evidence_is_refused_for_good() -> None:
    """A tree that grows is signed up to the last second of its evidence; once refused, also when the clock goes back.

    A tree of the size that was signed is signed again, however old it is.
    """
    for now in (NOW, NOW + 10):
        plan_signing(HASHER, RULES, {}, replace(request(null_entries(3)), evidence_until=NOW + 10), now)
    asked = replace(request(null_entries(3)), evidence_until=NOW + 10)
    assert refusal({}, asked, now=NOW + 11).reason is Reason.STALE_EVIDENCE
    views = signed(null_entries(2))
    remembered = SignerView.parse(plan_refusal(views, asked, NOW + 11).encode())
    assert remembered == replace(views[1], stale_before=NOW + 11)
    for until, is_stale in ((NOW + 10, True), (NOW + 11, False), (0, False)):
        again = replace(request(null_entries(3), 2), evidence_until=until)
        if is_stale:
            assert refusal({1: remembered}, again, now=NOW).reason is Reason.STALE_EVIDENCE
        else:
            plan = plan_signing(HASHER, RULES, {1: remembered}, again, NOW)
            assert plan.view.stale_before == NOW + 11
            plan_signing(HASHER, RULES, {1: plan.view}, replace(again, evidence_until=1), NOW + 999)
    assert plan_refusal({1: remembered}, asked, NOW + 99) == remembered


def test_rule_6_comes_last() -> None:
    """Only a tree that would be signed otherwise is refused as stale, because the log undoes it then."""
    stale = replace(request(null_entries(3)), evidence_until=1)
    assert isinstance(refusal({}, replace(stale, root_hash=bytes(32))), ConflictError)
    assert isinstance(refusal({}, replace(stale, start=1, entries=stale.entries[1:])), ConflictError)
    assert refusal({}, request([b"\0\0\0\2"])).reason is Reason.BAD_ENTRY_TYPE


def test_view_refuses_truncation_and_trailing_bytes() -> None:
    """A view is refused when cut off anywhere, followed by a byte, or of another version."""
    view = signed(null_entries(7))[1]
    data, stale = view.encode(), replace(view, stale_before=NOW).encode()
    assert SignerView.parse(data) == view
    assert SignerView.parse(stale) == replace(view, stale_before=NOW)
    for whole in (data, stale):
        for changed in (*(whole[:at] for at in range(len(whole))), whole + b"\0", b"\3" + whole[1:]):
            with pytest.raises(FormatError):
                SignerView.parse(changed)
    assert (data[:1], stale[:1]) == (b"\1", b"\2"), "a view without stale evidence is written as before"
    empty = SignerView(log_number=1, frontier=Frontier(), timestamp=0)
    assert SignerView.parse(empty.encode()) == empty


def test_older_copies_are_told_apart() -> None:
    """The text says whose storage is older than the other's: the log's, or the signer's."""
    views = signed(null_entries(5))
    assert "The log runs on an older copy" in refusal(views, request(null_entries(4))).message
    assert "The signer runs on an older copy" in refusal(views, request(null_entries(9), 6)).message


def test_checkpoint_alone() -> None:
    """Without subtrees only the checkpoint is to be signed, and the subtrees stay known for who wants them."""
    entries = null_entries(5)
    first = plan_signing(HASHER, RULES, {}, request(entries), NOW)
    moved = replace(request(entries, 5, timestamp=NOW + 1), with_subtrees=False)
    alone = plan_signing(HASHER, RULES, {1: first.view}, moved, NOW)
    assert (alone.subtrees, alone.checkpoint.timestamp) == ((), NOW + 1)
    again = plan_signing(HASHER, RULES, {1: alone.view}, replace(moved, with_subtrees=True), NOW)
    assert again.subtrees == first.subtrees
