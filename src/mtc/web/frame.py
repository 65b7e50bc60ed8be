"""The frame around every HTTP application: limits, security headers, errors as problems, one access-log line each."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from time import perf_counter

from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.routing import BaseRoute, Router
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from structlog.typing import FilteringBoundLogger

from mtc.errors import Error, Reason, UsageError
from mtc.web.logs import open_logger
from mtc.web.problems import problem, problem_of

CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Pages need no script, and whatever slips into one cannot run."""
SECURITY_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
"""Headers of every answer that does not set them itself."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request may cost. body_bytes: of its body. time_s: from its head to the end of the answer."""

    body_bytes: int = 64 << 10
    time_s: float = 30.0


@dataclass(slots=True)
class Exchange:
    """One request and its answer, for the access log and for metrics. Filled while the answer is sent.

    endpoint: set by whoever answers, see `name_endpoint`; a small set of words. status: 0 when nothing was sent.
    """

    method: str
    path: str
    endpoint: str = "unknown"
    status: int = 0
    bytes: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class FrameChoices:
    """How a frame treats its application.

    limits: of every request. limits_by_prefix: other limits below a path; the longest prefix wins. observe: called
    once after each exchange, must not raise. logs_success: answers below 400 are logged as well; otherwise only when
    debugging, where there are many and better records of them.
    """

    limits: Limits = Limits()
    limits_by_prefix: Mapping[str, Limits] = field(default_factory=dict)
    observe: Callable[[Exchange], None] = lambda _: None
    logs_success: bool = True

    def limits_of(self, path: str) -> Limits:
        """Return the limits that hold for a path."""
        found = [prefix for prefix in self.limits_by_prefix if path.startswith(prefix)]
        return self.limits_by_prefix[max(found, key=len)] if found else self.limits


def create_app(routes: Sequence[BaseRoute], choices: FrameChoices | None = None) -> ASGIApp:
    """Return an ASGI application of these routes in the frame.

    Every error that a handler raises becomes a problem (`mtc.web.problems`), every path without a route a 404, every
    other method a 405 with `Allow`. The application keeps no state and needs no start.
    """
    return Frame(Router(routes, redirect_slashes=False), choices or FrameChoices())


def name_endpoint(request: Request, endpoint: str) -> None:
    """Say in which word the access log and the metrics count this request."""
    request.scope["mtc.exchange"].endpoint = endpoint


class Frame:
    """ASGI middleware; see `create_app`."""

    def __init__(self, app: ASGIApp, choices: FrameChoices, logger: FilteringBoundLogger | None = None) -> None:
        """Put `app` into the frame."""
        self._app = app
        self._choices = choices
        self._logger = logger or open_logger("web")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        exchange = Exchange(scope["method"], scope["path"])
        scope["mtc.exchange"] = exchange
        # Where it finds an application, Starlette's router raises what it refuses instead of answering it as text.
        scope["app"] = self
        limits = self._choices.limits_of(scope["path"])
        began = perf_counter()
        reply = _Reply(send, exchange)
        try:
            async with asyncio.timeout(limits.time_s):
                await self._app(scope, _Body(scope, receive, limits.body_bytes).receive, reply.send)
        except asyncio.CancelledError:
            # Only a server that stops cancels a request, and this is the end of the request's own task.
            if not exchange.status:
                await problem(503, "this server is stopping", {"Retry-After": "5"})(scope, receive, reply.send)
        except Exception as error:  # noqa: BLE001 - whatever a handler raises ends here, and is logged below
            self._report(exchange, error)
            # When the answer has begun, the server cuts the connection, which says that the rest is missing.
            if not exchange.status:
                await problem_of(error)(scope, receive, reply.send)
        finally:
            exchange.seconds = perf_counter() - began
            self._finish(scope, exchange)

    def _report(self, exchange: Exchange, error: Exception) -> None:
        """Log a failure that is not the client's own."""
        if isinstance(error, HTTPException | ClientDisconnect):
            return
        if isinstance(error, Error):
            self._logger.info("refused", path=exchange.path, reason=str(error.reason), error=error.message)
        else:
            self._logger.error("failed", path=exchange.path, error=repr(error), exc_info=error)

    def _finish(self, scope: Scope, exchange: Exchange) -> None:
        """Write the access log and count."""
        client = scope.get("client")
        is_quiet = not self._choices.logs_success and 0 < exchange.status < HTTPStatus.BAD_REQUEST
        log = self._logger.debug if is_quiet else self._logger.info
        log(
            "request",
            method=exchange.method,
            path=exchange.path,
            endpoint=exchange.endpoint,
            status=exchange.status,
            bytes=exchange.bytes,
            ms=round(exchange.seconds * 1000, 2),
            client=client[0] if client else "unix",
        )
        self._choices.observe(exchange)


class _Body:
    """The receiving side of a request, which ends at its limit."""

    def __init__(self, scope: Scope, receive: Receive, most: int) -> None:
        self._receive = receive
        self._most = most
        self._got = 0
        lengths = [value for name, value in scope["headers"] if name == b"content-length"]
        self._declared = int(lengths[0]) if lengths and lengths[0].isdigit() else 0

    async def receive(self) -> Message:
        """Receive the next message. Raises UsageError (TOO_LARGE) at once when a larger body is announced."""
        if self._declared > self._most:
            raise self._too_large()
        message = await self._receive()
        self._got += len(message.get("body", b""))
        if self._got > self._most:
            raise self._too_large()
        return message

    def _too_large(self) -> UsageError:
        return UsageError(
            Reason.TOO_LARGE, f"the body of a request here has at most {self._most} bytes", expected=self._most
        )


class _Reply:
    """The sending side of an answer, which adds headers and counts."""

    def __init__(self, send: Send, exchange: Exchange) -> None:
        self._send = send
        self._exchange = exchange

    async def send(self, message: Message) -> None:
        """Send the next message."""
        if message["type"] == "http.response.start":
            self._exchange.status = message["status"]
            headers = MutableHeaders(scope=message)
            for name, value in SECURITY_HEADERS.items():
                headers.setdefault(name, value)
        elif message["type"] == "http.response.body":
            self._exchange.bytes += len(message.get("body", b""))
        await self._send(message)
