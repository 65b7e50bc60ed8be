"""Quorums: one evaluator for everybody who counts signatures."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtc.errors import FormatError, Reason
from mtc.note import Quorum
from mtc.note.quorum import MAX_QUORUM_DEPTH

NAMES = "abcdef"


def _of(members: tuple[str | Quorum, ...]) -> st.SearchStrategy[Quorum]:
    """Return quorums of exactly these members."""
    return st.integers(1, len(members)).map(lambda count: Quorum(count, members))


QUORUMS: st.SearchStrategy[Quorum] = st.recursive(
    st.lists(st.sampled_from(NAMES), min_size=1, max_size=4, unique=True).map(tuple).flatmap(_of),
    lambda inner: (
        st.tuples(
            st.lists(st.sampled_from(NAMES), max_size=3, unique=True),
            st.lists(inner, min_size=1, max_size=2, unique=True),
        )
        .map(lambda parts: (*parts[0], *parts[1]))
        .flatmap(_of)
    ),
    max_leaves=4,
)
SETS = st.sets(st.sampled_from(NAMES))


def _model(quorum: Quorum, present: set[str]) -> bool:
    """Count, without any shortcut."""
    count = sum(
        1 for member in quorum.of if (member in present if isinstance(member, str) else _model(member, present))
    )
    return count >= quorum.at_least


class TestLaws:
    """What holds for every quorum."""

    @given(QUORUMS, SETS)
    def test_counts_members(self, quorum: Quorum, present: set[str]) -> None:
        """A quorum is satisfied exactly when enough members are, counted one by one."""
        assert quorum.is_satisfied(present) == _model(quorum, present)

    @given(QUORUMS, SETS, SETS)
    def test_more_is_never_worse(self, quorum: Quorum, present: set[str], more: set[str]) -> None:
        """Whoever comes in addition never breaks a quorum."""
        assert not quorum.is_satisfied(present) or quorum.is_satisfied(present | more)

    @given(QUORUMS)
    def test_all_and_nobody(self, quorum: Quorum) -> None:
        """Everybody who is named is enough, nobody is not, and strangers do not matter."""
        assert quorum.is_satisfied(quorum.names())
        assert not quorum.is_satisfied(frozenset())
        assert not quorum.is_satisfied({"x", "y"})
        assert not quorum.requires_nobody

    @given(QUORUMS, SETS)
    def test_explanation_is_empty_exactly_when_satisfied(self, quorum: Quorum, present: set[str]) -> None:
        """`missing` says something as long as somebody is missing, and names nobody who is present."""
        text = quorum.missing(present)
        assert (text == "") == quorum.is_satisfied(present)
        words = set(text.replace("(", " ").replace(")", " ").replace(",", " ").split())
        assert not words & (present - {"of", "all"})

    @given(QUORUMS)
    def test_quorums_are_values(self, quorum: Quorum) -> None:
        """Equal quorums are equal values, fit for sets."""
        assert len({quorum, Quorum(quorum.at_least, quorum.of)}) == 1


class TestThresholds:
    """k of n."""

    @pytest.mark.parametrize("count", range(1, 5))
    @pytest.mark.parametrize("least", range(1, 5))
    def test_k_of_n(self, count: int, least: int) -> None:
        """Exactly the sets with at least k of the n parties satisfy k of n."""
        if least > count:
            return
        members = tuple(NAMES[:count])
        quorum = Quorum(least, members)
        for size in range(count + 1):
            for present in combinations(members, size):
                assert quorum.is_satisfied(frozenset(present)) == (size >= least)

    def test_all_of_some_and_k_of_others(self) -> None:
        """All of R and at least k of S is one expression, and means that."""
        quorum = Quorum.require_all(["r1", "r2"], Quorum(2, ("s1", "s2", "s3")))
        for required in (set(), {"r1"}, {"r1", "r2"}):
            for others in (set(), {"s1"}, {"s1", "s3"}, {"s1", "s2", "s3"}):
                expected = len(required) == 2 and len(others) >= 2
                assert quorum.is_satisfied(required | others) == expected
        assert quorum.names() == {"r1", "r2", "s1", "s2", "s3"}

    def test_overlap_means_what_it_says(self) -> None:
        """A party that is required may also be among those that are counted."""
        quorum = Quorum.require_all(["ca"], Quorum(2, ("ca", "w1", "w2")))
        assert quorum.is_satisfied({"ca", "w1"})
        assert not quorum.is_satisfied({"w1", "w2"})
        assert not quorum.is_satisfied({"ca"})

    def test_require_all_adds_only_what_requires_somebody(self) -> None:
        """Nothing to add, nothing to nest: parts that require nobody disappear."""
        inner = Quorum(1, ("a", "b"))
        assert Quorum.require_all([], inner) == inner
        assert Quorum.require_all(["x"], Quorum.none()) == Quorum(1, ("x",))
        assert Quorum.require_all([]) == Quorum.none()
        assert Quorum.require_all([], Quorum.none(), Quorum.none()) == Quorum.none()

    def test_nobody_is_said_explicitly(self) -> None:
        """`none` is satisfied by everybody, also by nobody, and is the only such quorum."""
        nobody = Quorum.none()
        assert nobody.requires_nobody
        assert nobody.is_satisfied(frozenset())
        assert nobody.missing(frozenset()) == ""
        assert nobody.names() == frozenset()
        assert str(nobody) == "none"

    def test_present_may_be_any_container(self) -> None:
        """Presence is asked by `in` alone, so that a caller may answer lazily."""

        class Everybody:
            """Contains every name."""

            def __contains__(self, name: object) -> bool:
                return True

        assert Quorum(2, ("a", "b")).is_satisfied(Everybody())


class TestValidity:
    """What is no quorum."""

    @pytest.mark.parametrize(
        ("least", "of", "reason"),
        [
            (0, ("a",), Reason.BAD_POLICY),
            (-1, ("a",), Reason.BAD_POLICY),
            (2, ("a",), Reason.BAD_POLICY),
            (1, (), Reason.BAD_POLICY),
            (-1, (), Reason.BAD_POLICY),
            (1, ("a", "a"), Reason.DUPLICATE),
            (1, (Quorum(1, ("a",)), Quorum(1, ("a",))), Reason.DUPLICATE),
            (1, ("a", Quorum.none()), Reason.BAD_POLICY),
            (1, ("",), Reason.BAD_NAME),
        ],
    )
    def test_refused(self, least: int, of: tuple[str | Quorum, ...], reason: Reason) -> None:
        """A threshold lies between 1 and the number of members, which differ from each other and require somebody."""
        with pytest.raises(FormatError) as caught:
            Quorum(least, of)
        assert caught.value.reason == reason

    def test_depth(self) -> None:
        """Quorums nest 64 deep, and not deeper."""
        quorum = Quorum(1, ("a",))
        for _ in range(MAX_QUORUM_DEPTH - 1):
            quorum = Quorum(1, (quorum,))
        assert quorum.depth == MAX_QUORUM_DEPTH
        assert quorum.is_satisfied({"a"})
        with pytest.raises(FormatError) as caught:
            Quorum(1, (quorum,))
        assert caught.value.reason == Reason.TOO_DEEP


@pytest.mark.parametrize(
    ("quorum", "present", "text"),
    [
        (Quorum(1, ("a",)), "", "a"),
        (Quorum(1, ("a", "b")), "", "1 of a, b"),
        (Quorum(2, ("a", "b", "c")), "b", "1 of a, c"),
        (Quorum(3, ("a", "b", "c")), "b", "all of a, c"),
        (Quorum.require_all("a", Quorum(2, ("b", "c", "d"))), "", "all of a, (2 of b, c, d)"),
        (Quorum.require_all("a", Quorum(2, ("b", "c", "d"))), "ac", "1 of b, d"),
        (Quorum.require_all("a", Quorum(2, ("b", "c", "d"))), "bc", "a"),
    ],
)
def test_explanation_reads_well(quorum: Quorum, present: str, text: str) -> None:
    """The explanation says how many more are needed, and of whom."""
    assert quorum.missing(set(present)) == text


def test_rule_reads_well() -> None:
    """A quorum is written as its rule."""
    assert str(Quorum.require_all(["ca"], Quorum(2, ("a", "b", "c")))) == "all of ca, (2 of a, b, c)"
