"""Sending requests at a rate, by several workers, for a time or a number; each answer is checked and counted.

A worker sends one request after the other. With a rate, requests are due at fixed moments, and latency counts from the
moment when one was due, so that a server that stalls is not flattered by a client that waits for it.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

from mtc.cli.hammer.figures import Figures, Outcome
from mtc.errors import Error, PeerError, Reason
from mtc.web.client import Answer, HTTPClient

T = TypeVar("T")

_BUSY = frozenset({429, 503})
_REST_S = 0.05
"""How long a worker rests after a request without an answer, so that a dead server is not asked a thousand times."""
_END_S = 5.0
"""How long requests under way may take after the end."""
_OK = (200,)


class End(StrEnum):
    """Why a run ended."""

    TIME = "time"
    REQUESTS = "requests"
    ERRORS = "errors"
    INTERRUPTED = "interrupted"


@dataclass(frozen=True, slots=True)
class Bounds:
    """When a run ends, whichever comes first; None: not by this. rate: requests a second, all workers together."""

    seconds: float | None = 10.0
    requests: int | None = None
    max_errors: int | None = None
    rate: float | None = None


class Scenario(Protocol):
    """One way to load one kind of server."""

    async def prepare(self) -> None:
        """Learn where the server stands. Raises an Error when the run cannot begin."""

    async def step(self, worker: int) -> None:
        """Do one thing, of one or a few calls. Workers, numbered from 0, call it side by side."""

    def facts(self) -> Mapping[str, object]:
        """Return what the report says about the target, for example its tree size."""


class Load:
    """The requests of a run. `call` sends one, checks the answer, and counts it."""

    def __init__(self, client: HTTPClient, bounds: Bounds, now: Callable[[], float] = time.perf_counter) -> None:
        """Take a client that tries once, and the bounds."""
        self.figures = Figures()
        self.end: End | None = None
        self._client = client
        self._bounds = bounds
        self._now = now
        self._began = now()
        self._planned = 0
        self._sent = 0
        # What comes before the run prepares it, and knows neither bounds nor rate.
        self._is_running = False
        self._over = asyncio.Event()

    @property
    def seconds(self) -> float:
        """Seconds since the run began."""
        return self._now() - self._began

    @property
    def progress(self) -> float | None:
        """The share of the run that is done, None without bounds."""
        shares = [
            done / bound
            for done, bound in ((self.seconds, self._bounds.seconds), (self._sent, self._bounds.requests))
            if bound
        ]
        return min(max(shares), 1.0) if shares else None

    @property
    def is_over(self) -> bool:
        """True when no request may begin any more."""
        if self.end is None and self._is_running:
            bounds = self._bounds
            if bounds.max_errors is not None and self.figures.errors >= bounds.max_errors:
                self.stop(End.ERRORS)
            elif bounds.requests is not None and self._sent >= bounds.requests:
                self.stop(End.REQUESTS)
            elif bounds.seconds is not None and self.seconds >= bounds.seconds:
                self.stop(End.TIME)
        return self.end is not None

    def begin(self) -> None:
        """Start to measure: what was counted while a scenario prepared itself is dropped, unless it was wrong."""
        if self.figures.errors == 0:
            self.figures = Figures()
        self._began, self._planned, self._sent, self._is_running = self._now(), 0, 0, True

    def stop(self, end: End) -> None:
        """End the run; the first reason counts."""
        self.end = self.end or end
        self._over.set()

    async def wait(self, seconds: float) -> None:
        """Wait, not longer than the run."""
        try:
            async with asyncio.timeout(seconds):
                await self._over.wait()
        except TimeoutError:
            pass

    async def call(  # noqa: PLR0913 - the parts of a request, and of what must come back
        self,
        kind: str,
        url: str,
        check: Callable[[Answer], T],
        *,
        method: str = "GET",
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        statuses: Sequence[int] = _OK,
        most: int | None = None,
    ) -> T | None:
        """Send a request and return what `check` makes of the answer; None when it went wrong or the run is over.

        statuses: those that may come; any other is wrong. check: raises an Error that says what is wrong with it.
        """
        if self.is_over:
            return None
        due = await self._await_turn()
        if due is None:
            return None
        figures = self.figures.kind(kind)
        try:
            answer = await self._client.request(method, url, body=body, headers=headers, most=most)
        except Error as error:
            # An answer that is too large or broken is an answer; silence and closed doors are none.
            outcome = Outcome.UNANSWERED if error.reason in {Reason.PEER, Reason.BUSY} else Outcome.WRONG
            self._end(kind, outcome, due, error)
            await self.wait(_REST_S)
            return None
        figures.bytes_sent += len(body)
        figures.bytes_received += len(answer.body)
        passed = self._now() - due
        try:
            if answer.status not in statuses:
                if answer.status in _BUSY:
                    self.figures.count(kind, Outcome.BUSY, passed)
                    await self.wait(_REST_S)
                    return None
                raise PeerError(Reason.PEER, _status_text(answer, statuses, url), status=answer.status)
            result = check(answer)
        except Error as error:
            self.figures.count(kind, Outcome.WRONG, passed)
            self.figures.blame(kind, Outcome.WRONG, error, self.seconds)
            return None
        self.figures.count(kind, Outcome.RIGHT, passed)
        return result

    def blame(self, kind: str, error: Error) -> None:
        """Count a wrong answer that was found after its call, by comparison with others."""
        outcomes = self.figures.kind(kind).outcomes
        # The call itself was counted as right.
        outcomes[Outcome.RIGHT] -= 1 if outcomes[Outcome.RIGHT] else 0
        outcomes[Outcome.WRONG] += 1
        self.figures.blame(kind, Outcome.WRONG, error, self.seconds)

    def _end(self, kind: str, outcome: Outcome, due: float, error: Error) -> None:
        """Count a request that failed."""
        self.figures.count(kind, outcome, self._now() - due)
        self.figures.blame(kind, outcome, error, self.seconds)

    async def _await_turn(self) -> float | None:
        """Wait until the next request is due; return when that is, None when there will be none."""
        bounds, number = self._bounds, self._planned
        if bounds.requests is not None and self._is_running and number >= bounds.requests:
            # The last ones wait for their turn elsewhere.
            await self.wait(_REST_S)
            return None
        self._planned += 1
        due = self._now()
        if bounds.rate and self._is_running:
            due = self._began + number / bounds.rate
            while (left := due - self._now()) > 0:
                if self.is_over:
                    return None
                await self.wait(left)
        self._sent += 1
        return due


async def run_load(load: Load, scenario: Scenario, workers: int) -> None:
    """Run a scenario until the load is over; what is under way then is waited for, but not for long."""

    async def work(number: int) -> None:
        while not load.is_over:
            before = load.figures.requests
            await scenario.step(number)
            if load.figures.requests == before:
                # Nothing could be asked right now; others must get their turn.
                await asyncio.sleep(0)

    tasks = [asyncio.create_task(work(number)) for number in range(workers)]
    try:
        waiter = asyncio.create_task(_until_over(load))
        await asyncio.wait([waiter, *tasks], return_when=asyncio.FIRST_COMPLETED)
        waiter.cancel()
        _, late = await asyncio.wait(tasks, timeout=_END_S)
        for task in late:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        for task in tasks:
            task.cancel()
    for result in results:
        if isinstance(result, Exception):
            raise result


async def _until_over(load: Load) -> None:
    """Return when the run is over."""
    while not load.is_over:
        await load.wait(0.05)


def _status_text(answer: Answer, statuses: Sequence[int], url: str) -> str:
    """Say which status came in place of which, with the first words of the body."""
    wanted = " or ".join(map(str, statuses))
    words = " ".join(answer.body[:200].decode("utf-8", "replace").split())
    return f"{url} answered {answer.status}, not {wanted}" + (f": {words}" if words else "")
