"""The seam between orders and what answers their challenges."""

from dataclasses import dataclass
from typing import Protocol

from mtc.acme.machine.identifiers import Identifier
from mtc.acme.machine.validation import Method


@dataclass(frozen=True, slots=True)
class Answer:
    """What one challenge must be answered with. identifier: without `*.`. token: base64url, safe in a file name."""

    identifier: Identifier
    token: str
    key_authorization: str


class Solver(Protocol):
    """Answers challenges of one method. Several may be answered at the same time, also of one identifier."""

    @property
    def method(self) -> Method:
        """Which challenges it answers."""

    async def present(self, answer: Answer) -> None:
        """Have the answer ready when this returns. Raises UsageError when this machine cannot, with the cure."""

    async def withdraw(self, answer: Answer) -> None:
        """Take the answer away again; called once for each that was presented or began to be. Never raises Error."""

    async def close(self) -> None:
        """Let go of ports and files."""
