"""Asking every perspective at the same time, and the quorum over what they saw: the `Validator` of a CA."""

import asyncio
from collections.abc import Callable, Sequence
from time import perf_counter

from mtc.acme.machine.problems import Problem, ProblemType
from mtc.acme.machine.quorum import CorroborationRule, RemoteOutcome, judge
from mtc.acme.machine.validation import Report, ValidationTask
from mtc.acme.seams import Outcome, Perspective
from mtc.errors import Error, PeerError, Reason
from mtc.web.logs import open_logger

GRACE_S = 10.0
"""How long after the primary the others may take. Evidence wants every report, so all of them are waited for."""
PRIMARY_S = 30.0
"""How long the primary may take."""
_LOG = open_logger("acme")


def ignore(_perspective: str, _result: str, _seconds: float) -> None:
    """Count nothing."""


class Corroborator:
    """`Validator` of one primary and any number of remote perspectives. May be used by many tasks at once.

    observe: called once for each perspective and task with its name, "agrees", "disagrees" or "silent", and the
    seconds it took; must not raise.
    """

    def __init__(  # noqa: PLR0913 - who looks, by which rule, for how long
        self,
        primary: Perspective,
        remotes: Sequence[Perspective] = (),
        rule: CorroborationRule | None = None,
        *,
        grace_s: float = GRACE_S,
        primary_s: float = PRIMARY_S,
        observe: Callable[[str, str, float], None] = ignore,
    ) -> None:
        """Take who looks. Raises UsageError when they can never meet the rule."""
        self._primary, self._remotes = primary, tuple(remotes)
        self._rule = rule or CorroborationRule()
        self._grace_s, self._primary_s, self._observe = grace_s, primary_s, observe
        self._rule.check([remote.region for remote in self._remotes])

    async def examine(self, task: ValidationTask) -> Outcome:
        """Have every perspective look at the same time, and apply the quorum.

        Remote perspectives that have not reported `grace_s` seconds after the primary are counted as absent.
        """
        running = [asyncio.create_task(self._look(remote, task)) for remote in self._remotes]
        try:
            primary = await self._look_first(task)
            if running:
                await asyncio.wait(running, timeout=self._grace_s)
            outcomes = [
                work.result() if work.done() else self._late(remote)
                for remote, work in zip(self._remotes, running, strict=True)
            ]
        finally:
            for work in running:
                work.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        problem = _no_primary() if primary.report is None else judge(primary.report, outcomes, self._rule)
        all_outcomes = (primary, *outcomes)
        return Outcome(
            problem,
            tuple(outcome.report for outcome in all_outcomes if outcome.report is not None),
            tuple(f"{outcome.name}: {outcome.why}" for outcome in all_outcomes if outcome.report is None),
        )

    async def _look_first(self, task: ValidationTask) -> RemoteOutcome:
        """Have the primary look."""
        try:
            async with asyncio.timeout(self._primary_s):
                return await self._look(self._primary, task)
        except TimeoutError:
            return self._late(self._primary)

    async def _look(self, perspective: Perspective, task: ValidationTask) -> RemoteOutcome:
        """Have one perspective look; whatever goes wrong there is its absence."""
        began = perf_counter()
        try:
            report = await perspective.examine(task)
            _check_identity(perspective, report)
        except Error as error:
            return self._absent(perspective, error.message, perf_counter() - began)
        except Exception as error:  # noqa: BLE001 - a defect in one must not end the validation, and is logged
            _LOG.error("failed", perspective=perspective.name, error=repr(error), exc_info=error)
            return self._absent(perspective, f"a defect: {type(error).__name__}", perf_counter() - began)
        result = "agrees" if report.problem is None else "disagrees"
        self._observe(perspective.name, result, perf_counter() - began)
        return RemoteOutcome(perspective.name, perspective.region, report)

    def _late(self, perspective: Perspective) -> RemoteOutcome:
        """Return the outcome of a perspective that took too long."""
        return self._absent(perspective, "it did not answer in time", self._grace_s)

    def _absent(self, perspective: Perspective, why: str, seconds: float) -> RemoteOutcome:
        """Return the outcome of a perspective without a report."""
        _LOG.warning("perspective absent", perspective=perspective.name, error=why)
        self._observe(perspective.name, "silent", seconds)
        return RemoteOutcome(perspective.name, perspective.region, None, why)


def _check_identity(perspective: Perspective, report: Report) -> None:
    """Refuse a report in another's name. Raises PeerError."""
    if (report.perspective, report.region) != (perspective.name, perspective.region):
        raise PeerError(
            Reason.NAME_MISMATCH,
            f"perspective {perspective.name} in {perspective.region} calls itself {report.perspective[:80]!r} in "
            f"{report.region[:80]!r}; make its perspective.toml and acme.toml agree",
        )


def _no_primary() -> Problem:
    """Return the problem when the CA itself saw nothing."""
    return Problem(type=ProblemType.SERVER_INTERNAL, detail="this CA could not look for itself; try again later")
