"""How far a log may be pruned: every bound holds, and what goes is exactly what clients may be refused."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from mtc.log.pruning import ExpiryMark, expired_below, plan_pruning, prunable_keys
from mtc.tiles import EntriesTile, Tile, bundles_for_growth, is_prunable, tiles_for_growth

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SECONDS = int(NOW.timestamp())
DAY = timedelta(days=1)


def test_not_after_is_inclusive() -> None:
    """At the second of its notAfter an entry is valid, one second later it has expired."""
    marks = [ExpiryMark(7, SECONDS), ExpiryMark(5, SECONDS - 1)]
    assert expired_below(marks, NOW, timedelta(0)) == 5
    assert expired_below(marks, NOW + timedelta(seconds=1), timedelta(0)) == 7
    assert expired_below(marks, NOW + timedelta(seconds=1), DAY) == 0


def test_the_lowest_bound_counts_and_is_named_first() -> None:
    """Retention, minimum serial, cosigners and size each hold the minimum index back."""
    marks = [ExpiryMark(5000, SECONDS - 40 * 86400)]
    plan = plan_pruning(1, 0, 9000, marks, 1 << 48 | 4000, [("m1", 8000), ("m2", 3000)], NOW, 35 * DAY)
    assert plan.minimum_index == 3000
    assert "m2" in plan.limits[0].why
    assert [limit.index for limit in plan.limits] == [3000, 4000, 5000, 8000, 9000]
    assert plan_pruning(1, 0, 9000, marks, 1 << 48, [], NOW, 35 * DAY).minimum_index == 0
    assert plan_pruning(1, 0, 9000, marks, 2 << 48, [], NOW, 35 * DAY).minimum_index == 5000
    assert plan_pruning(2, 0, 9000, marks, 1 << 48 | 4000, [], NOW, 35 * DAY).minimum_index == 0


def test_the_minimum_index_never_falls() -> None:
    """A bound below what was pruned already changes nothing."""
    plan = plan_pruning(1, 600, 9000, [], 1 << 48, [], NOW, DAY)
    assert (plan.minimum_index, plan.objects) == (600, 0)


@given(st.integers(0, 70_000), st.integers(0, 70_000))
def test_what_goes_is_what_may_be_refused(first: int, second: int) -> None:
    """The keys of two prunings together are the full tiles and bundles that end at or below the minimum index."""
    low, high = sorted((first, second))
    gone = [*prunable_keys(3, 0, low), *prunable_keys(3, low, high)]
    assert len(set(gone)) == len(gone)
    tree_size = 70_000
    everything: list[Tile | EntriesTile] = [*tiles_for_growth(0, tree_size), *bundles_for_growth(0, tree_size)]
    assert set(gone) == {f"public/3/{place.path}" for place in everything if is_prunable(place, high)}
    assert f"public/3/{EntriesTile(high // 256).path}" not in gone
