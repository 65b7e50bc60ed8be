"""Multi-Perspective Issuance Corroboration: the rule against another statement of it, and what applicants read."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import combinations, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mtc.acme.machine.problems import Problem, ProblemType
from mtc.acme.machine.quorum import PRIVATE_RULE, PUBLIC_RULE, CorroborationRule, RemoteOutcome, judge
from mtc.acme.machine.validation import Report
from mtc.errors import Reason, UsageError

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
NO_CONTROL = Problem(type=ProblemType.UNAUTHORIZED, detail="got another key authorization")
NO_CAA = Problem(type=ProblemType.CAA, detail="the CAA record of example.com names another CA")

TABLE = {0: 0, 1: 0, 2: 1, 3: 1, 4: 1, 5: 1, 6: 2, 7: 2, 8: 2, 20: 2}
"""Baseline Requirements, "Quorum Requirements": 2 to 5 remote perspectives 1, 6 and more 2; alone none."""

RULES = [
    CorroborationRule(least_remotes=least, least_regions=regions, allowed_failures=allowed)
    for least, regions, allowed in product((0, 2, 5), (0, 1, 2, 3), (None, 0, 1, 5))
]


def report(name: str = "local", region: str = "", problem: Problem | None = None) -> Report:
    """Return a report."""
    return Report(perspective=name, region=region, started=NOW, finished=NOW, problem=problem)


def remote(number: int, region: str, state: str) -> RemoteOutcome:
    """Return what came of asking one: "yes", "no", "caa" or "silent"."""
    name = f"p{number}"
    if state == "silent":
        return RemoteOutcome(name, region, None, "connection refused")
    problem = {"yes": None, "no": NO_CONTROL, "caa": NO_CAA}[state]
    return RemoteOutcome(name, region, report(name, region, problem))


def is_corroborated(remotes: Sequence[tuple[str, str]], rule: CorroborationRule) -> bool:
    """State the rule in another way: some set of remotes that all agree is large and spread enough."""
    if len(remotes) < rule.least_remotes:
        return False
    allowed = TABLE[len(remotes)]
    if rule.allowed_failures is not None and rule.allowed_failures < allowed:
        allowed = rule.allowed_failures
    if not remotes:
        return True
    for size in range(max(len(remotes) - allowed, 0), len(remotes) + 1):
        for chosen in combinations(remotes, size):
            if all(state == "yes" for _, state in chosen) and len({region for region, _ in chosen}) >= (
                rule.least_regions
            ):
                return True
    return False


@pytest.mark.parametrize("count", range(6))
def test_every_small_case_follows_the_rule(count: int) -> None:
    """For up to five remotes in two regions, each agreeing or not, and every rule, the verdict is that of the rule."""
    for remotes in product(product(("ripe", "arin"), ("yes", "no")), repeat=count):
        outcomes = [remote(number, region, state) for number, (region, state) in enumerate(remotes)]
        for rule in RULES:
            assert (judge(report(), outcomes, rule) is None) == is_corroborated(remotes, rule)


@given(
    st.lists(
        st.tuples(st.sampled_from(["ripe", "arin", "apnic"]), st.sampled_from(["yes", "yes", "no", "caa", "silent"])),
        max_size=8,
    ),
    st.sampled_from(RULES),
    st.randoms(use_true_random=False),
)
def test_larger_cases_follow_the_rule(remotes: list[tuple[str, str]], rule: CorroborationRule, chance: object) -> None:
    """With up to eight remotes in three regions the verdict is that of the rule, in whatever order they stand."""
    outcomes = [remote(number, region, state) for number, (region, state) in enumerate(remotes)]
    expected = is_corroborated(remotes, rule)
    assert (judge(report(), outcomes, rule) is None) == expected
    chance.shuffle(outcomes)  # type: ignore[attr-defined]  # a random.Random; Hypothesis' strategy is untyped
    assert (judge(report(), outcomes, rule) is None) == expected


@given(st.lists(st.sampled_from(["yes", "no", "caa", "silent"]), max_size=8), st.sampled_from(RULES))
def test_nothing_outweighs_the_primary(states: list[str], rule: CorroborationRule) -> None:
    """When the primary says no, that is the answer, with its own problem, whatever the others say."""
    outcomes = [remote(number, "ripe", state) for number, state in enumerate(states)]
    for problem in (NO_CONTROL, NO_CAA):
        assert judge(report(problem=problem), outcomes, rule) is problem


@given(st.lists(st.sampled_from(["yes", "no", "silent"]), max_size=8), st.integers(0, 7), st.sampled_from(RULES))
def test_one_more_who_agrees_never_hurts(states: list[str], index: int, rule: CorroborationRule) -> None:
    """A remote that turns from no or silence to yes never turns a verdict from yes to no."""
    before = [remote(number, "ripe" if number % 2 else "arin", state) for number, state in enumerate(states)]
    after = [remote(number, item.region, "yes") if number == index else item for number, item in enumerate(before)]
    if judge(report(), before, rule) is None:
        assert judge(report(), after, rule) is None


@pytest.mark.parametrize(("remotes", "allowed"), TABLE.items())
def test_failures_allowed_are_those_of_the_table(remotes: int, allowed: int) -> None:
    """A configuration may allow fewer failures than the Baseline Requirements, and never more."""
    assert CorroborationRule().failures_allowed(remotes) == allowed
    assert CorroborationRule(allowed_failures=0).failures_allowed(remotes) == 0
    assert CorroborationRule(allowed_failures=9).failures_allowed(remotes) == allowed


def test_public_rule() -> None:
    """A public CA asks five or more; one may fail of five, two of six, and the rest must stand in two regions."""
    five = [("ripe", "yes"), ("ripe", "yes"), ("ripe", "yes"), ("ripe", "yes"), ("arin", "yes")]

    def verdict(remotes: list[tuple[str, str]]) -> Problem | None:
        outcomes = [remote(number, *item) for number, item in enumerate(remotes)]
        return judge(report(), outcomes, PUBLIC_RULE)

    assert verdict(five) is None
    assert verdict([*five[1:], ("ripe", "silent")]) is None
    assert verdict([*five[:4], ("arin", "silent")]) is not None
    assert verdict([*five[2:], ("ripe", "no"), ("ripe", "caa")]) is not None
    assert verdict([*five[1:], ("ripe", "no"), ("ripe", "silent")]) is None
    assert verdict(five[1:]) is not None
    assert judge(report(), [], PUBLIC_RULE) is not None
    assert judge(report(), [], PRIVATE_RULE) is None


def test_problem_names_who_disagrees_and_why() -> None:
    """An applicant reads which perspectives disagree and what each saw; of silent ones only that they are."""
    outcomes = [
        remote(1, "ripe", "silent"),
        remote(2, "ripe", "no"),
        remote(3, "arin", "caa"),
        remote(4, "arin", "yes"),
        remote(5, "arin", "yes"),
    ]
    problem = judge(report(), outcomes, PUBLIC_RULE)
    assert problem is not None
    assert problem.type is ProblemType.UNAUTHORIZED
    for text in ("3 of 5", "1 may", "p1 (ripe): no answer", "p2 (ripe): got another", "p3 (arin): the CAA record"):
        assert text in problem.detail
    for text in ("p4", "p5", "connection refused"):
        assert text not in problem.detail


def test_silence_is_the_servers_fault() -> None:
    """When nobody said no, the problem is the server's own, so that the applicant tries again."""
    silent = [remote(number, "ripe", "silent") for number in range(5)]
    for outcomes, rule in (
        (silent, PUBLIC_RULE),
        (silent[:2], PUBLIC_RULE),
        ([remote(number, "ripe", "yes") for number in range(5)], PUBLIC_RULE),
    ):
        problem = judge(report(), outcomes, rule)
        assert problem is not None
        assert problem.type is ProblemType.SERVER_INTERNAL
    assert (
        "stand in ripe" in (judge(report(), [remote(n, "ripe", "yes") for n in range(5)], PUBLIC_RULE) or NO_CAA).detail
    )


def test_long_reports_leave_room_for_all_names() -> None:
    """However long what one perspective says, the others are named in the document that is sent."""
    long = Problem(type=ProblemType.DNS, detail="x" * 5000)
    outcomes = [RemoteOutcome(f"p{n}", "ripe", report(f"p{n}", "ripe", long)) for n in range(5)]
    problem = judge(report(), outcomes, PUBLIC_RULE)
    assert problem is not None
    assert all(f"p{n} (ripe)" in str(problem.to_json()["detail"]) for n in range(5))


def test_rule_that_cannot_be_met_is_found_at_start() -> None:
    """Too few perspectives, and too few regions, are an error before the first order."""
    PUBLIC_RULE.check(["ripe", "ripe", "ripe", "ripe", "arin"])
    PRIVATE_RULE.check([])
    for regions in ([], ["ripe", "arin"] * 2, ["ripe"] * 5):
        with pytest.raises(UsageError) as caught:
            PUBLIC_RULE.check(regions)
        assert caught.value.reason is Reason.BAD_POLICY
