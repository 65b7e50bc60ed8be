"""Multi-Perspective Issuance Corroboration: when what the CA saw itself counts, given what others saw elsewhere.

The primary perspective is the CA's own; the others are remote. An attacker who deceives one network, by a false route
or a false DNS answer, deceives few of them. A report says no when control was not shown there or CAA forbids there, and
both count against corroboration in the same way.

Spec: Baseline Requirements for TLS server certificates, "Multi-Perspective Issuance Corroboration", with its table
"Quorum Requirements"; "Phased Implementation Timeline" for the number of perspectives and regions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mtc.acme.machine.problems import Problem, ProblemType
from mtc.acme.machine.validation import Report
from mtc.errors import Reason, UsageError

_FIRST_WITH_ONE, _FIRST_WITH_TWO = 2, 6
_MAX_DETAIL = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class CorroborationRule:
    """How many must corroborate, and from where.

    least_remotes: remote perspectives that are asked, at least. least_regions: in which those that corroborate stand,
    at least, where there are remote perspectives. allowed_failures: of remote perspectives, None for what the table of
    the Baseline Requirements says; a larger number than that has no effect.
    """

    least_remotes: int = 0
    least_regions: int = 0
    allowed_failures: int | None = None

    def failures_allowed(self, remotes: int) -> int:
        """Return how many of so many remote perspectives need not corroborate."""
        allowed = 0 if remotes < _FIRST_WITH_ONE else 1 if remotes < _FIRST_WITH_TWO else 2
        return allowed if self.allowed_failures is None else min(allowed, self.allowed_failures)

    def check(self, regions: Sequence[str]) -> None:
        """Raise UsageError when perspectives in these regions, one region for each, can never meet the rule."""
        if len(regions) < self.least_remotes:
            raise UsageError(
                Reason.BAD_POLICY,
                f"at least {self.least_remotes} remote perspectives are needed, there are {len(regions)}; start more "
                "with mtc perspective init, and name them under [[perspective]]",
            )
        if regions and len(set(regions)) < self.least_regions:
            raise UsageError(
                Reason.BAD_POLICY,
                f"remote perspectives must stand in at least {self.least_regions} regions, these stand in "
                f"{', '.join(sorted(set(regions)))} only",
            )


PUBLIC_RULE = CorroborationRule(least_remotes=5, least_regions=2)
"""For a public CA: five remote perspectives in two regions, the number of 2026-12-15 on."""
PRIVATE_RULE = CorroborationRule()
"""For a private CA: it asks whom it has, and nobody is enough."""


@dataclass(frozen=True, slots=True)
class RemoteOutcome:
    """What came of asking one perspective. report: None when there is none; why: then why not, for operators."""

    name: str
    region: str
    report: Report | None
    why: str = ""

    @property
    def corroborates(self) -> bool:
        """True when it reported, and saw what the primary must have seen."""
        return self.report is not None and self.report.problem is None


def judge(primary: Report, remotes: Sequence[RemoteOutcome], rule: CorroborationRule) -> Problem | None:
    """Return why a validation does not count, None when it does.

    remotes: one outcome for each perspective that was asked, under distinct names; one without a report counts as one
    that disagrees. The primary must agree whatever the others say.
    """
    if primary.problem is not None:
        return primary.problem
    if len(remotes) < rule.least_remotes:
        return Problem(
            type=ProblemType.SERVER_INTERNAL,
            detail=f"this CA asked {len(remotes)} remote perspectives and must ask {rule.least_remotes}",
        )
    against = [outcome for outcome in remotes if not outcome.corroborates]
    allowed = rule.failures_allowed(len(remotes))
    if len(against) > allowed:
        return _disagreement(
            against, f"{len(against)} of {len(remotes)} remote perspectives do not agree, {allowed} may"
        )
    regions = {outcome.region for outcome in remotes if outcome.corroborates}
    if remotes and len(regions) < rule.least_regions:
        where = f"in {', '.join(sorted(regions))}" if regions else "nowhere"
        return _disagreement(
            against, f"the remote perspectives that agree stand {where}, and {rule.least_regions} regions must"
        )
    return None


def _disagreement(against: Sequence[RemoteOutcome], what: str) -> Problem:
    """Return the problem that names who did not agree, and why, in the words that applicants can act on.

    Its type is that of the first report that says no. When nobody said no but some did not answer, it is the server's
    fault. Why one did not answer is for the operator, not for applicants.
    """
    problems = [(outcome, outcome.report.problem if outcome.report else None) for outcome in against]
    kinds = [problem.type for _, problem in problems if problem is not None]
    lines = [
        f"{outcome.name} ({outcome.region}): {'no answer' if problem is None else problem.detail[:_MAX_DETAIL]}"
        for outcome, problem in problems
    ]
    detail = f"the validation was not corroborated: {what}" + (f" - {'; '.join(lines)}" if lines else "")
    return Problem(type=kinds[0] if kinds else ProblemType.SERVER_INTERNAL, detail=detail)
