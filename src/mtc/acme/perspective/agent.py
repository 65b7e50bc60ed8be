"""The HTTP of a remote perspective: tasks of known CAs in, reports out.

Who may ask is decided twice: by TLS, which completes no handshake with others, and for each request, so that a CA that
was taken off the list is refused on connections that it still has.
"""

import asyncio
import json
import re
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from time import perf_counter

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from mtc.acme.machine.validation import MAX_REPORT_BYTES, Report, ValidationTask
from mtc.acme.perspective.client import EXAMINE_PATH
from mtc.acme.perspective.metrics import PerspectiveMetrics
from mtc.acme.seams import Perspective
from mtc.errors import FormatError, PeerError, Reason, UsageError
from mtc.web.frame import Limits, name_endpoint
from mtc.web.problems import problem

MAX_TASK_BYTES = 16 << 10
"""Largest task, encoded."""
TASK_TIME_S = 29.0
"""How long an examination may take; the CA waits a little longer."""
_MAX_DOMAINS = 20
_MAX_URL = 1000
_TOKEN = re.compile(r"[A-Za-z0-9_-]{0,128}", re.ASCII)
_KEY_AUTHORIZATION = re.compile(r"[A-Za-z0-9_-]{0,128}(\.[A-Za-z0-9_-]{0,128})?", re.ASCII)


@dataclass(slots=True)
class Allowed:
    """The certificates, DER, of the CAs that may ask now. Whoever follows the configuration replaces them."""

    clients: frozenset[bytes]


class Agent:
    """The endpoints of one perspective. troubles: what needs a look, in words; empty when all is well."""

    def __init__(
        self,
        perspective: Perspective,
        allowed: Allowed,
        examinations: int,
        metrics: PerspectiveMetrics,
        troubles: Callable[[], list[str]],
    ) -> None:
        """Take who looks. examinations: at once."""
        self._perspective, self._allowed, self._most = perspective, allowed, examinations
        self._metrics, self._troubles = metrics, troubles
        self._running = 0

    def routes(self) -> list[Route]:
        """Return the routes for CAs."""
        return [Route(EXAMINE_PATH, self._examine, methods=["POST"], name="examine"), *self.monitoring()]

    def monitoring(self) -> list[Route]:
        """Return the routes for operators."""
        return [
            Route("/health", self._health, methods=["GET", "HEAD"], name="health"),
            *self._metrics.routes(lambda: self._metrics.set("mtc_perspective_running", self._running)),
        ]

    def limits(self) -> dict[str, Limits]:
        """Return the limits below each path."""
        return {EXAMINE_PATH: Limits(body_bytes=MAX_TASK_BYTES, time_s=TASK_TIME_S)}

    async def _examine(self, request: Request) -> Response:
        """Look at an applicant, and answer with the report, or with why there is none."""
        name_endpoint(request, "examine")
        if getattr(request.state, "client_certificate", None) not in self._allowed.clients:
            return problem(403, "this perspective does not know you; mtc perspective allow")
        if self._running >= self._most:
            self._metrics.count("mtc_perspective_examinations_total", method="", result="busy")
            raise PeerError(Reason.BUSY, "this perspective has enough to do; come again later")
        self._running += 1
        try:
            return await self._answer(request, parse_task(await request.body()))
        finally:
            self._running -= 1

    async def _answer(self, request: Request, task: ValidationTask) -> Response:
        """Return the answer to a task."""
        began, result = perf_counter(), "failed"
        try:
            report = await _while_wanted(request, self._perspective.examine(task))
            result = "agrees" if report.problem is None else "disagrees"
        finally:
            self._metrics.count("mtc_perspective_examinations_total", method=task.method, result=result)
            self._metrics.observe("mtc_perspective_examination_seconds", perf_counter() - began, method=task.method)
        return Response(_encode(report), media_type="application/json", headers={"Cache-Control": "no-store"})

    async def _health(self, request: Request) -> Response:
        """Tell whether all is well."""
        name_endpoint(request, "health")
        troubles = self._troubles()
        document = {
            "status": "trouble" if troubles else "ok",
            "troubles": troubles,
            "name": self._perspective.name,
            "region": self._perspective.region,
            "running": self._running,
            "clients": len(self._allowed.clients),
        }
        return Response(
            json.dumps(document) + "\n",
            503 if troubles else 200,
            {"Cache-Control": "no-store"},
            "application/json",
        )


async def _while_wanted(request: Request, work: Coroutine[object, object, Report]) -> Report:
    """Return what work comes to, unless who asked leaves first; then nobody is looked at any longer.

    Raises ClientDisconnect.
    """
    looking, leaving = asyncio.create_task(work), asyncio.create_task(_left(request))
    try:
        await asyncio.wait((looking, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not looking.done():
            raise ClientDisconnect
        return looking.result()
    finally:
        for task in (looking, leaving):
            task.cancel()
        await asyncio.gather(looking, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    """Wait until the client has left; its body has been read."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def parse_task(body: bytes) -> ValidationTask:
    """Read a task. Raises FormatError for one that no CA sends, whatever it would have a perspective do."""
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise FormatError(Reason.BAD_DOCUMENT, "a task is JSON") from None
    task = ValidationTask.of_json(document)
    is_good = (
        _TOKEN.fullmatch(task.token)
        and _KEY_AUTHORIZATION.fullmatch(task.key_authorization)
        and len(task.account_url) <= _MAX_URL
        and len(task.caa_domains) <= _MAX_DOMAINS
        and (task.token or not task.proves_control)
    )
    if not is_good:
        raise FormatError(Reason.BAD_DOCUMENT, "token, key authorization, account or CAA domains are none")
    return task


def _encode(report: Report) -> bytes:
    """Return a report's JSON. Raises UsageError when it is larger than what a CA reads."""
    data = json.dumps(report.to_json()).encode()
    if len(data) > MAX_REPORT_BYTES:
        raise UsageError(Reason.TOO_LARGE, f"the report is larger than {MAX_REPORT_BYTES} bytes")
    return data
