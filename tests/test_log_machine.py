"""The issuance log's machine: batches, counters, subtrees to sign, and recovery from what a crash leaves."""

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtc.cert import EntryType, LogEntry
from mtc.errors import ConflictError, FormatError, Reason, UsageError
from mtc.kernel import Kernel, active_kernel
from mtc.log import (
    LogRecord,
    LogState,
    PendingEntry,
    StagedRound,
    accumulated_count,
    plan_batch,
    plan_recovery,
    start_log,
)
from mtc.log.machine import ACCUMULATED_ENTRY, recovery_keys
from mtc.merkle import MAX_TREE_SIZE, Hasher, RowReader, cover, root_hash, subtree_hash
from mtc.tiles import EntriesTile, EntryBundle, TileEdge, partial_tiles, tiles_for_growth

NOW = 1_795_262_400


def pending(count: int, first: int = 0) -> list[PendingEntry]:
    """Return entries that differ, each with its own request key."""
    return [
        PendingEntry(0xF000, b"entry %d" % number, NOW + number, b"request %d" % number)
        for number in range(first, first + count)
    ]


def grow(hasher: Hasher, sizes: Sequence[int], *, has_counter: bool = False) -> tuple[LogState, dict[str, bytes]]:
    """Append batches up to each size in turn; return the state and everything published."""
    state = start_log(hasher, 1, NOW, has_counter=has_counter)
    published: dict[str, bytes] = {}
    for number, (start, end) in enumerate(pairwise([0, *sizes])):
        batch = plan_batch(hasher, state, pending(end - start, start), NOW + number)
        published |= batch.round_.objects
        state = batch.state
    return state, published


def leaves(hasher: Hasher, count: int) -> bytes:
    """Return the row of leaf hashes of the first entries of `pending`."""
    return hasher.leaves([LogEntry(item.type, item.body).encode() for item in pending(count)])


@pytest.mark.parametrize("sizes", [(1,), (3, 5), (255, 256, 257), (300, 300, 700), (1, 2, 3, 4, 5, 6, 7, 8, 9)])
def test_batches_make_the_tree_of_all_entries(kernel: Kernel, sizes: tuple[int, ...]) -> None:
    """However entries are cut into batches, root, tiles and bundles are those of all entries together."""
    hasher = kernel.hasher("sha256")
    state, published = grow(hasher, sizes)
    row = leaves(hasher, sizes[-1])
    assert state.record.root_hash == root_hash(hasher, row)
    whole = plan_batch(hasher, start_log(hasher, 1, NOW), pending(sizes[-1]), NOW)
    assert {key: published[key] for key in whole.round_.objects} == dict(whole.round_.objects)
    for tile in tiles_for_growth(0, sizes[-1]):
        assert f"public/1/{tile.path}" in published


def test_subtrees_to_sign_cover_each_batch_with_the_right_hashes(kernel: Kernel) -> None:
    """For every old and new size up to 70, the subtrees are the draft's cover, with the hashes of the whole log."""
    hasher = kernel.hasher("sha256")
    reader = RowReader(hasher, leaves(hasher, 70))
    for start in range(0, 70, 1 if kernel.name == "native" else 7):
        state, _ = grow(hasher, [start] if start else [])
        for end in range(start + 1, 71):
            batch = plan_batch(hasher, state, pending(end - start, start), NOW + 1)
            expected = [(item, subtree_hash(hasher, reader, item)) for item in cover(start, end) if not item.is_empty]
            assert list(batch.round_.subtrees) == expected


def test_indices_follow_the_order_and_requests_find_theirs() -> None:
    """Entries get consecutive indices in the order given, and the staged round maps each request key to its index."""
    hasher = active_kernel().hasher("sha256")
    state, _ = grow(hasher, [5])
    batch = plan_batch(hasher, state, pending(3, 5), NOW + 9)
    assert len(batch.entries) == 3
    staged = StagedRound.parse(batch.staged)
    assert staged.indices == {b"request 5": 5, b"request 6": 6, b"request 7": 7}
    assert (staged.old_size, staged.new_size, staged.objects) == (5, 8, dict(batch.round_.objects))
    assert batch.state.record.latest_not_after == NOW + 7


def test_empty_batch_moves_only_the_time() -> None:
    """A round without entries publishes nothing and keeps the tree."""
    hasher = active_kernel().hasher("sha256")
    state, _ = grow(hasher, [300])
    batch = plan_batch(hasher, state, [], NOW + 50)
    assert (batch.round_.objects, batch.entries, batch.round_.subtrees) == ({}, (), ())
    assert batch.state.record == replace(
        state.record, timestamp=NOW + 50, staged_digest=batch.state.record.staged_digest
    )


@given(st.lists(st.lists(st.booleans(), max_size=6), max_size=6))
def test_counter_counts_accumulated_entries_inclusively(rounds: list[list[bool]]) -> None:
    """Every entry carries the number of accumulated entries so far, itself included, across rounds."""
    hasher = active_kernel().hasher("sha256")
    state, published = start_log(hasher, 1, NOW, has_counter=True), dict[str, bytes]()
    kinds: list[bool] = []
    for round_ in rounds:
        items = [PendingEntry(ACCUMULATED_ENTRY if kind else EntryType.NULL, b"x" if kind else b"") for kind in round_]
        batch = plan_batch(hasher, state, items, NOW)
        state, kinds = batch.state, kinds + round_
        published |= batch.round_.objects
    if kinds:
        bundle = published[f"public/1/{EntriesTile(0, len(kinds)).path}"]
        counts = [accumulated_count(LogEntry.parse(entry)) for entry in EntryBundle.parse(bundle).entries]
        assert counts == [sum(kinds[: position + 1]) for position in range(len(kinds))]
    assert state.record.accumulated_count == sum(kinds)


def test_log_without_counter_has_no_extensions() -> None:
    """Entries of a log created without the counter carry no extension."""
    hasher = active_kernel().hasher("sha256")
    _, published = grow(hasher, [2])
    entries = EntryBundle.parse(published["public/1/tile/entries/000.p/2"]).entries
    assert [accumulated_count(LogEntry.parse(entry)) for entry in entries] == [None, None]


def test_clock_that_went_back_appends_nothing() -> None:
    """A time before the last checkpoint is a conflict that names both times."""
    hasher = active_kernel().hasher("sha256")
    state, _ = grow(hasher, [1])
    with pytest.raises(ConflictError) as caught:
        plan_batch(hasher, state, pending(1, 1), NOW - 1)
    assert caught.value.facts == {"expected": NOW, "got": NOW - 1}


def test_two_requests_of_one_key_are_refused() -> None:
    """A round in which two requests have the same idempotency key is refused whole."""
    hasher = active_kernel().hasher("sha256")
    with pytest.raises(UsageError) as caught:
        plan_batch(hasher, start_log(hasher, 1, NOW), [pending(1)[0], pending(1)[0]], NOW)
    assert caught.value.reason is Reason.DUPLICATE


def nearly_full(hasher: Hasher, room: int) -> LogState:
    """Return a made-up log with room for that many entries."""
    size = MAX_TREE_SIZE - room
    rows = tuple(
        b"".join(hasher.digest(b"%d %d" % (tile.level, number)) for number in range(tile.width))
        for tile in partial_tiles(size)
    )
    edge = TileEdge(hasher.size, size, rows)
    entry = LogEntry().encode()
    bundle = EntryBundle((entry,) * (size % 256)).encode()
    edge = replace(edge, rows=(hasher.leaf(entry) * (size % 256), *rows[1:]))
    record = LogRecord(log_number=1, tree_size=size, root_hash=edge.root(hasher), timestamp=NOW)
    return LogState(record, edge, bundle)


def test_log_ends_cleanly_at_its_bound() -> None:
    """A log takes entries up to 2^48 - 1, and then says that the next log must follow."""
    hasher = active_kernel().hasher("sha256")
    state = nearly_full(hasher, 2)
    with pytest.raises(UsageError) as caught:
        plan_batch(hasher, state, pending(3), NOW)
    assert caught.value.facts["room"] == 2
    batch = plan_batch(hasher, state, pending(2), NOW)
    assert batch.state.tree_size == MAX_TREE_SIZE
    assert batch.round_.subtrees[-1][0].end == MAX_TREE_SIZE
    with pytest.raises(UsageError, match="next log"):
        plan_batch(hasher, batch.state, pending(1), NOW)


@pytest.mark.parametrize("sizes", [(), (1,), (4, 256), (255, 257), (300, 300), (600, 700, 701)])
def test_recovery_gives_the_state_back(kernel: Kernel, sizes: tuple[int, ...]) -> None:
    """The state follows from the record and either the staged round or what is published; a next batch is the same."""
    hasher = kernel.hasher("sha256")
    state, published = grow(hasher, sizes)
    batch = plan_batch(hasher, state, pending(5, 10_000), NOW + 99)
    record = LogRecord.parse(batch.state.record.encode())
    before = {key: published[key] for key in recovery_keys(record) if key in published}
    recovered, round_ = plan_recovery(hasher, record, batch.staged, before)
    assert recovered == batch.state
    assert round_ is not None
    assert round_.objects == dict(batch.round_.objects)
    after = published | dict(batch.round_.objects)
    only_needed = {key: after[key] for key in recovery_keys(record)}
    assert plan_recovery(hasher, record, None, only_needed) == (batch.state, None)


def test_recovery_refuses_storage_that_contradicts_the_register() -> None:
    """Each object that recovery needs, missing or changed in any byte's place, is a conflict that says what to do."""
    hasher = active_kernel().hasher("sha256")
    state, published = grow(hasher, [300, 600])
    for key in recovery_keys(state.record):
        needed = {name: published[name] for name in recovery_keys(state.record)}
        data = needed.pop(key)
        with pytest.raises(ConflictError, match=r"Do not sign"):
            plan_recovery(hasher, state.record, None, needed)
        for at in range(0, len(data), max(1, len(data) // 40)):
            changed = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
            with pytest.raises(ConflictError, match=r"Do not sign"):
                plan_recovery(hasher, state.record, None, {**needed, key: changed})


def test_recovery_refuses_another_staged_round() -> None:
    """A staged round that is not the one the record names is refused, even if it would lead to the same size."""
    hasher = active_kernel().hasher("sha256")
    state, published = grow(hasher, [10])
    ours = plan_batch(hasher, state, pending(2, 10), NOW + 5)
    theirs = plan_batch(hasher, state, pending(2, 50), NOW + 5)
    with pytest.raises(ConflictError, match="not the one that the register names"):
        plan_recovery(hasher, ours.state.record, theirs.staged, published)
    assert ours.staged_key != theirs.staged_key


def test_record_knows_the_end_of_evidence_and_the_way_back() -> None:
    """A round's record names the first moment when evidence of it ends, and the record before it without its own."""
    hasher = active_kernel().hasher("sha256")
    first = start_log(hasher, 1, NOW)
    items = [replace(item, evidence_until=until) for item, until in zip(pending(4), (0, 9, 5, 0), strict=True)]
    batch = plan_batch(hasher, first, items, NOW)
    record = batch.state.record
    assert record.evidence_until == 5
    assert LogRecord.parse(record.before) == first.record
    assert LogRecord.parse(record.encode()) == record
    assert record.encode()[:1] == b"\2"
    after = plan_batch(hasher, batch.state, [replace(pending(1, 4)[0], evidence_until=7)], NOW).state.record
    assert LogRecord.parse(after.before) == record.settled
    plain = plan_batch(hasher, batch.state, pending(1, 4), NOW)
    assert (plain.state.record.evidence_until, plain.state.record.before) == (0, b"")
    assert plain.state.record.encode()[:1] == b"\1", "a round without evidence is written as before"
    timeless = [replace(item, evidence_until=0) for item in items]
    assert plan_batch(hasher, first, timeless, NOW).staged == batch.staged, "what is staged says nothing of evidence"
    for wrong in ({"evidence_until": 5}, {"before": b"x"}, {"evidence_until": -1, "before": b"x"}):
        with pytest.raises(FormatError):
            replace(first.record, **wrong)


@pytest.mark.parametrize(("until", "is_stale"), [(0, False), (NOW - 1, True), (NOW, False), (NOW + 1, False)])
def test_last_second_of_evidence_counts(until: int, *, is_stale: bool) -> None:
    """Evidence may be used up to and including its last second; zero is without end."""
    assert replace(pending(1)[0], evidence_until=until).is_stale(NOW) is is_stale


@given(st.binary(max_size=80))
def test_hostile_records_raise_only_format_errors(data: bytes) -> None:
    """Any bytes are a record that encodes to themselves, or a FormatError."""
    try:
        record = LogRecord.parse(data)
    except FormatError:
        return
    assert record.encode() == data


def test_formats_refuse_truncation_and_trailing_bytes() -> None:
    """A record and a staged round are refused when cut off anywhere, or followed by a byte."""
    hasher = active_kernel().hasher("sha256")
    batch = plan_batch(hasher, start_log(hasher, 1, NOW), pending(3), NOW)
    record = batch.state.record.encode()
    item = replace(pending(1, 3)[0], evidence_until=NOW + 5)
    aging = plan_batch(hasher, batch.state, [item], NOW).state.record.encode()
    for parse, data in ((LogRecord.parse, record), (LogRecord.parse, aging), (StagedRound.parse, batch.staged)):
        parse(data)
        for changed in (*(data[:at] for at in range(len(data))), data + b"\0"):
            with pytest.raises(FormatError):
                parse(changed)
