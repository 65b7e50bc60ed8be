"""The seams of the ACME server: who looks at an applicant, and who judges from what was seen."""

from dataclasses import dataclass
from typing import Protocol

from mtc.acme.machine.problems import Problem
from mtc.acme.machine.validation import Report, ValidationTask


class Perspective(Protocol):
    """One place in the network from which an applicant is looked at."""

    @property
    def name(self) -> str:
        """Its name in evidence; "local" for the CA's own."""

    @property
    def region(self) -> str:
        """Where it stands, as configured; empty for the CA's own."""

    async def examine(self, task: ValidationTask) -> Report:
        """Look, and say what was seen. Takes a bounded time, at most half a minute.

        A negative result is a report with its problem. Raises PeerError when there is no report: the perspective itself
        does not answer, or not rightly.
        """


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a task: what every perspective reported, and the problem, None when the quorum agrees.

    absences: a line for each perspective that was asked and gave no report: its name, and why. For evidence and
    operators, not for applicants.
    """

    problem: Problem | None
    reports: tuple[Report, ...]
    absences: tuple[str, ...] = ()


class Validator(Protocol):
    """Judges a task from one or several perspectives."""

    async def examine(self, task: ValidationTask) -> Outcome:
        """Have every perspective look, and apply the quorum. Never raises for what an applicant or a peer does."""
