"""Challenges: a client says that it is ready, perspectives look, and what they saw is kept before it counts.

At most so many validations run at once, and at most so many wait; beyond, the client is told to come again. What a
crash interrupted is done again at the start.

Spec: RFC 8555, "Responding to Challenges", "Identifier Validation Challenges", "Retrying Challenges".
"""

import asyncio
import contextlib
from dataclasses import replace
from datetime import datetime

from starlette.responses import Response

from mtc.acme.machine.evidence import EvidenceRecord, RecordKind
from mtc.acme.machine.jws import PublicKey
from mtc.acme.machine.orders import Account, Authorization, AuthorizationStatus, Challenge, ChallengeStatus
from mtc.acme.machine.problems import Problem, ProblemError, ProblemType, refused
from mtc.acme.machine.validation import Method, ValidationTask
from mtc.acme.seams import Outcome
from mtc.acme.server.authentication import Call
from mtc.acme.server.context import ServerContext
from mtc.acme.server.orders import POLL_S, Orders
from mtc.acme.server.replies import reply
from mtc.acme.store import Put, Replace
from mtc.errors import ConflictError, Error
from mtc.web.logs import open_logger

_LOG = open_logger("acme")
_BUSY_RETRY_S = 10
_PATIENCE_S = 1.0
"""How long an answer to a challenge waits for its validation."""
_MAX_TRIES = 3


class Challenges:
    """Answers for challenges, and runs validations."""

    def __init__(self, context: ServerContext, orders: Orders) -> None:
        """Take the server's parts."""
        self._context = context
        self._orders = orders
        limits = context.config.limits
        self._places = asyncio.Semaphore(limits.validations)
        self._most = limits.validations + limits.waiting
        # Running and waiting validations; kept so that they are not collected, and ended with the server.
        self._tasks: set[asyncio.Task[None]] = set()

    async def respond(self, call: Call, authorization_id: str, method: str) -> Response:
        """Show a challenge, or begin to validate it."""
        authorization = await self._orders.find_authorization(call, authorization_id)
        challenge = authorization.challenge(method)
        if challenge is None:
            raise refused(ProblemType.MALFORMED, "the authorization has no such challenge", status=404)
        if not call.is_get:
            _ = call.document
            is_open = authorization.status_at(self._context.now()) is AuthorizationStatus.PENDING
            if is_open and challenge.status is ChallengeStatus.PENDING:
                authorization = await self._begin(call.owner, authorization, challenge)
                challenge = authorization.challenge(challenge.method) or challenge
        retry = POLL_S if challenge.status is ChallengeStatus.PROCESSING else None
        links = {"up": self._context.authorization_url(authorization.id)}
        return reply(self._orders.describe_challenge(authorization, challenge), links=links, retry_after_s=retry)

    async def _begin(self, account: Account, authorization: Authorization, challenge: Challenge) -> Authorization:
        """Note that a challenge is being validated, and start it. Raises ProblemError when there is no room."""
        context = self._context
        if len(self._tasks) >= self._most:
            raise ProblemError(
                Problem(
                    type=ProblemType.RATE_LIMITED,
                    detail="the server has as many validations under way as it can; come again soon",
                    status=503,
                    retry_after_s=_BUSY_RETRY_S,
                )
            )
        key = f"{account.id} {authorization.identifier}"
        await context.take(context.config.limits.attempts, key, f"attempts to validate {authorization.identifier}")
        running = replace(challenge, status=ChallengeStatus.PROCESSING)
        changed = _with_challenge(authorization, running)
        await context.store.commit(Replace(changed))
        changed = replace(changed, version=authorization.version + 1)
        task = self._start(account, changed, running)
        # Most validations are quick, and the client need not ask again.
        await asyncio.wait({task}, timeout=_PATIENCE_S)
        return await context.store.find_authorization(authorization.id) or changed if task.done() else changed

    def _start(self, account: Account, authorization: Authorization, challenge: Challenge) -> "asyncio.Task[None]":
        """Run a validation in the background."""
        task = asyncio.create_task(self._run(account, authorization, challenge))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        self._context.ca.parts.metrics.set("mtc_acme_validations_running", len(self._tasks))
        return task

    async def resume(self) -> int:
        """Start again what was interrupted. Returns how many validations."""
        count = 0
        for authorization in await self._context.store.list_running():
            account = await self._context.store.find_account(authorization.account_id)
            running = [item for item in authorization.challenges if item.status is ChallengeStatus.PROCESSING]
            if account is None or authorization.status_at(self._context.now()) is not AuthorizationStatus.PENDING:
                continue
            for challenge in running:
                self._start(account, authorization, challenge)
                count += 1
        return count

    async def close(self) -> None:
        """End what runs; it is started again with the next start."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, account: Account, authorization: Authorization, challenge: Challenge) -> None:
        """Validate one challenge, and keep what came of it."""
        context = self._context
        try:
            async with self._places:
                began = context.ca.parts.clock.monotonic()
                moment = context.now()
                task = control_task(context, account, authorization, challenge)
                outcome = await self._examine(task)
                context.ca.parts.metrics.observe(
                    "mtc_acme_validation_seconds", context.ca.parts.clock.monotonic() - began
                )
            result = "ok" if outcome.problem is None else "failed"
            context.count("mtc_acme_validations_total", method=str(challenge.method), result=result)
            await self._keep(account, authorization, challenge.method, outcome, moment)
        except Error as error:
            # The challenge stays in processing: the next start of the server takes it up again.
            _LOG.error("validation not kept", authorization=authorization.id, error=error.message)
        finally:
            context.ca.parts.metrics.set("mtc_acme_validations_running", len(self._tasks) - 1)

    async def _examine(self, task: ValidationTask) -> Outcome:
        """Have a task examined. A defect of ours is an outcome as well, because a client waits for one."""
        try:
            return await self._context.validator.examine(task)
        except Exception as error:  # noqa: BLE001 - whatever it was, it is logged and told
            _LOG.error("validation failed by itself", identifier=str(task.identifier), exc_info=error)
            detail = "the validation failed for a reason of the server's own; order again"
            return Outcome(Problem(type=ProblemType.SERVER_INTERNAL, detail=detail), ())

    async def _keep(
        self, account: Account, authorization: Authorization, method: Method, outcome: Outcome, moment: datetime
    ) -> None:
        """Commit the evidence, and then the new state. An authorization that was given up meanwhile stays so."""
        store = self._context.store
        record = evidence_of(RecordKind.VALIDATION, account, authorization, method, outcome, moment)
        (record_id,) = await store.commit(Put(record))
        for _ in range(_MAX_TRIES):
            current = await store.find_authorization(authorization.id)
            challenge = None if current is None else current.challenge(method)
            if current is None or challenge is None:
                return
            # What was given up, decided or has ended meanwhile stays so.
            if current.status_at(self._context.now()) is not AuthorizationStatus.PENDING:
                return
            with contextlib.suppress(ConflictError):
                await store.commit(Replace(self._decided(current, challenge, outcome, moment, record_id)))
                return

    def _decided(
        self, authorization: Authorization, challenge: Challenge, outcome: Outcome, moment: datetime, record_id: int
    ) -> Authorization:
        """Return an authorization after its validation."""
        if outcome.problem is not None:
            failed = replace(challenge, status=ChallengeStatus.INVALID, error=outcome.problem)
            return replace(_with_challenge(authorization, failed), status=AuthorizationStatus.INVALID)
        passed = replace(challenge, status=ChallengeStatus.VALID, validated=moment)
        return replace(
            _with_challenge(authorization, passed),
            status=AuthorizationStatus.VALID,
            validated=moment,
            validation_id=record_id,
            caa_checked=moment,
            caa_id=record_id,
            expires=moment + self._context.config.validation.reuse,
        )


def control_task(
    context: ServerContext, account: Account, authorization: Authorization, challenge: Challenge
) -> ValidationTask:
    """Return what perspectives are asked for a challenge, CAA included."""
    thumbprint = PublicKey.of_text(account.jwk).thumbprint
    return ValidationTask(
        identifier=authorization.identifier.base,
        is_wildcard=authorization.identifier.is_wildcard,
        method=challenge.method,
        account_url=context.account_url(account.id),
        caa_domains=context.caa_domains,
        token=challenge.token,
        key_authorization=f"{challenge.token}.{thumbprint}",
    )


def evidence_of(  # noqa: PLR0913 - who, what, how, what came of it, and when
    kind: RecordKind,
    account: Account,
    authorization: Authorization,
    method: Method,
    outcome: Outcome,
    moment: datetime,
) -> EvidenceRecord:
    """Return the record of what perspectives reported."""
    challenge = authorization.challenge(method)
    return EvidenceRecord(
        kind=kind,
        moment=moment,
        account_id=account.id,
        is_positive=outcome.problem is None,
        identifier=authorization.identifier,
        authorization_id=authorization.id,
        document={
            "method": str(method),
            "token": "" if challenge is None else challenge.token,
            "account_thumbprint": account.thumbprint,
            "client": account.address,
            "problem": None if outcome.problem is None else outcome.problem.to_json(),
            "reports": [report.to_json() for report in outcome.reports],
            "absent": list(outcome.absences),
        },
    )


def _with_challenge(authorization: Authorization, challenge: Challenge) -> Authorization:
    """Return an authorization with a changed challenge."""
    return replace(
        authorization,
        challenges=tuple(challenge if item.method is challenge.method else item for item in authorization.challenges),
    )
