"""What one examination finds while it runs: the lookups and connections of its report, and how it comes to a no."""

from dataclasses import dataclass, field, replace
from typing import Self

from mtc.acme.machine.problems import Problem, ProblemType
from mtc.acme.machine.validation import MAX_CONNECTIONS, MAX_LOOKUPS, Connection, Lookup
from mtc.errors import Reason, Rejected

_MAX_EVIDENCE_CHARS = 96 << 10
"""Most text of DNS answers in one report, well below its limit; JSON may double it."""
_MAX_ANSWERS = 50


class ValidationError(Rejected):
    """The applicant has not shown what it was asked for. problem: what it is told."""

    def __init__(self, problem: Problem) -> None:
        """Make the error of a problem."""
        super().__init__(Reason.VALIDATION_FAILED, problem.detail, type=str(problem.type))
        self.problem = problem

    def __reduce__(self) -> tuple[object, ...]:
        """Survive pickling."""
        return (type(self), (self.problem,))

    @classmethod
    def of(cls, kind: ProblemType, detail: str) -> Self:
        """Make the error of a problem that is a type and a sentence."""
        return cls(Problem(type=kind, detail=detail))


@dataclass(slots=True)
class Findings:
    """The notes of one examination, bounded in number and size; owned by the tasks of that examination."""

    lookups: list[Lookup] = field(default_factory=list)
    connections: list[Connection] = field(default_factory=list)
    caa_name: str = ""
    caa_records: tuple[str, ...] = ()
    _chars_left: int = _MAX_EVIDENCE_CHARS

    def add_lookup(self, lookup: Lookup) -> None:
        """Note a DNS question and its answer, long answers cut. Raises ValidationError when there are too many."""
        if len(self.lookups) >= MAX_LOOKUPS:
            raise ValidationError.of(ProblemType.DNS, f"more than {MAX_LOOKUPS} DNS questions for one name")
        answers = []
        for text in lookup.answers[:_MAX_ANSWERS]:
            shown = text[: self._chars_left]
            self._chars_left -= len(shown)
            answers.append(shown if shown == text else f"{shown}…")
        if len(lookup.answers) > _MAX_ANSWERS:
            answers.append(f"… and {len(lookup.answers) - _MAX_ANSWERS} more")
        self.lookups.append(replace(lookup, answers=tuple(answers)))

    def add_connection(self, connection: Connection) -> None:
        """Note a connection. Raises ValidationError when there are too many."""
        if len(self.connections) >= MAX_CONNECTIONS:
            raise ValidationError.of(ProblemType.CONNECTION, f"more than {MAX_CONNECTIONS} connections for one name")
        self.connections.append(connection)
