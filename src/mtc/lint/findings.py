"""What the lint says, and what follows from it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from mtc.errors import Reason, Rejected
from mtc.lint.table import LINT_RULES, LintCode, Severity

MAX_LISTED = 16
"""Most errors that are written out in one refusal; the rest is counted."""
MAX_SHOWN = 80
"""Most characters of a name or value that a message repeats."""


class Fault(NamedTuple):
    """A rule that does not hold, before it is known how grave that is for the CA at hand."""

    code: LintCode
    message: str
    facts: tuple[tuple[str, str | int], ...] = ()


@dataclass(frozen=True, slots=True)
class LintFinding:
    """One rule that does not hold. message: for people, with the cure. facts: numbers and texts by name."""

    code: LintCode
    severity: Severity
    message: str
    facts: Mapping[str, str | int] = field(default_factory=dict)


def make_findings(faults: Iterable[Fault], *, is_public: bool) -> tuple[LintFinding, ...]:
    """Return faults as findings, with the severity that they have for one kind of CA; without those that are off."""
    findings = []
    for fault in faults:
        severity = LINT_RULES[fault.code].severity(is_public=is_public)
        if severity is not Severity.OFF:
            findings.append(LintFinding(fault.code, severity, fault.message, dict(fault.facts)))
    return tuple(findings)


def show(value: bytes | str) -> str:
    """Return a name or value as it can stand in a message: printable, quoted, cut off."""
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    return repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…")


def check_lint(findings: Iterable[LintFinding]) -> tuple[LintFinding, ...]:
    """Return the warnings among the findings of one entry.

    Raises Rejected (LINT) when there is an error, with all of them in its text and their codes in the fact `codes`.
    """
    every = tuple(findings)
    errors = [finding for finding in every if finding.severity is Severity.ERROR]
    if not errors:
        return every
    listed = "; ".join(f"{finding.code}: {finding.message}" for finding in errors[:MAX_LISTED])
    more = f"; and {len(errors) - MAX_LISTED} more" if len(errors) > MAX_LISTED else ""
    raise Rejected(
        Reason.LINT,
        f"the entry must not be logged: {listed}{more}",
        codes=",".join(dict.fromkeys(finding.code for finding in errors)),
        count=len(errors),
    )
