"""The CA's own HTTP interface: issuing, one by one and in bulk, and what operators do while it runs.

Over the Unix socket whoever may open it is trusted. Over TCP every request needs a token, and other machines are
refused unless the configuration lets them in. All bodies are JSON, bulk is a JSON object a line.
"""

import asyncio
import hashlib
import hmac
import ipaddress
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from datetime import timedelta
from typing import Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from mtc.ca.authority import Issued
from mtc.ca.config import parse_duration
from mtc.ca.csr import parse_csr, parse_public_key_file
from mtc.ca.requests import IssuanceRequest
from mtc.errors import Error, FormatError, Reason, Rejected, UsageError
from mtc.web.frame import name_endpoint

MAX_REQUEST_BYTES = 1 << 20
"""Largest body of a single request."""
MAX_BULK_BYTES = 64 << 20
"""Largest body of a bulk request."""
MAX_BULK_LINES = 20_000
"""Most requests in one bulk request; a client with more sends several."""
BULK_CHUNK = 1000
"""Requests that are handed to the CA together."""


class CAControl(Protocol):
    """What the interface asks of the CA that runs in this process."""

    async def issue(self, requests: Sequence[IssuanceRequest]) -> Sequence[Issued | Error]:
        """Certify requests; an error stands in the place of its request."""

    async def upgrade(self, standalone: bytes) -> Mapping[str, object]:
        """Return the landmark-relative certificate for a standalone one, or when it will be there."""

    async def revoke(self, document: Mapping[str, object]) -> Mapping[str, object]:
        """Revoke serial numbers or ranges; durable and published on return."""

    async def prune(self, *, is_dry_run: bool) -> Mapping[str, object]:
        """Prune the logs, or say what would go."""

    async def roll_over(self, reason: str, operator: str, *, is_abandoned: bool) -> Mapping[str, object]:
        """Close the current log and go on in the next."""

    async def describe(self) -> Mapping[str, object]:
        """Return the state of the CA for scripts."""

    def read_tokens(self) -> Sequence[str]:
        """Return the SHA-256 hashes, hex, of the tokens that may issue."""


def api_routes(control: CAControl, *, is_remote_allowed: bool) -> list[Route]:
    """Return the routes of the interface. is_remote_allowed: other machines may use it too, with a token."""
    api = _API(control)

    def route(path: str, method: str, answer: Callable[[Request], Awaitable[Response]]) -> Route:
        async def guarded(request: Request) -> Response:
            name_endpoint(request, "api")
            check_access(request, control.read_tokens(), is_remote_allowed=is_remote_allowed)
            return await answer(request)

        return Route(f"/api/v1/{path}", guarded, methods=[method])

    return [
        route("certificates", "POST", api.issue),
        route("certificates/bulk", "POST", api.issue_bulk),
        route("certificates/landmark", "POST", api.upgrade),
        route("revocations", "POST", api.revoke),
        route("prune", "POST", api.prune),
        route("rollover", "POST", api.roll_over),
        route("status", "GET", api.describe),
    ]


class _API:
    """The answers, one method a route."""

    def __init__(self, control: CAControl) -> None:
        self._control = control

    async def issue(self, request: Request) -> Response:
        asked = parse_request(await read_json(request))
        (result,) = await self._control.issue([asked])
        if isinstance(result, Error):
            raise result
        return JSONResponse(describe_issued(result))

    async def issue_bulk(self, request: Request) -> Response:
        data = await read_body(request, MAX_BULK_BYTES)
        lines = [line for line in data.split(b"\n") if line.strip()]
        if len(lines) > MAX_BULK_LINES:
            raise FormatError(Reason.TOO_LARGE, f"a bulk request has at most {MAX_BULK_LINES} lines, not {len(lines)}")
        return StreamingResponse(_answer_bulk(self._control, lines), media_type="application/x-ndjson")

    async def upgrade(self, request: Request) -> Response:
        document = await read_json(request)
        standalone = _text(document, "certificate")
        if standalone is None:
            raise FormatError(Reason.BAD_DOCUMENT, "certificate is missing; it is the standalone one, PEM")
        answer = await self._control.upgrade(standalone.encode())
        if "certificate" in answer:
            return JSONResponse(answer)
        wait = answer.get("retry_after_s", 60)
        return JSONResponse(answer, status_code=202, headers={"Retry-After": str(wait)})

    async def revoke(self, request: Request) -> Response:
        return JSONResponse(await self._control.revoke(await read_json(request)))

    async def prune(self, request: Request) -> Response:
        document = await read_json(request)
        return JSONResponse(await self._control.prune(is_dry_run=document.get("dry_run") is not False))

    async def roll_over(self, request: Request) -> Response:
        document = await read_json(request)
        reason, operator = _text(document, "reason") or "", _text(document, "operator") or ""
        is_abandoned = document.get("abandon") is True
        return JSONResponse(await self._control.roll_over(reason, operator, is_abandoned=is_abandoned))

    async def describe(self, _: Request) -> Response:
        return JSONResponse(await self._control.describe())


def check_access(request: Request, token_hashes: Sequence[str], *, is_remote_allowed: bool) -> None:
    """Raise Rejected unless the request may come in: over the Unix socket, or with a token."""
    if request.state.listener == "unix":
        return
    if not is_remote_allowed and not _is_local(request):
        raise Rejected(Reason.FORBIDDEN, "the API answers this machine only; remote_api in ca.toml opens it")
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    digest = hashlib.sha256(token.strip().encode()).hexdigest()
    # Every hash is compared, so that the time tells nothing about them.
    matches = [hmac.compare_digest(digest, known) for known in token_hashes]
    if scheme.lower() != "bearer" or not any(matches):
        raise Rejected(Reason.UNAUTHORIZED, "a token is needed: Authorization: Bearer …; mtc ca token makes one")


def _is_local(request: Request) -> bool:
    """Tell whether a request comes from this machine."""
    if request.client is None:
        return False
    try:
        return ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False


async def read_body(request: Request, most: int) -> bytes:
    """Return the body of a request. Raises FormatError when it is larger than `most` bytes."""
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > most:
            raise FormatError(Reason.TOO_LARGE, f"the request is larger than {most} bytes")
    return bytes(data)


async def read_json(request: Request) -> dict[str, object]:
    """Return the JSON object that a request carries. Raises FormatError."""
    return parse_json(await read_body(request, MAX_REQUEST_BYTES))


def parse_json(data: bytes) -> dict[str, object]:
    """Return a JSON object. Raises FormatError for anything else."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise FormatError(Reason.BAD_DOCUMENT, f"the request is no JSON: {str(error)[:200]}") from None
    if not isinstance(document, dict):
        raise FormatError(Reason.BAD_DOCUMENT, "the request is no JSON object")
    return document


_KEYS = frozenset({"csr", "public_key", "dns", "ip", "lifetime", "request_key"})


def parse_request(document: Mapping[str, object]) -> IssuanceRequest:
    """Return the request in a JSON object: `csr` or `public_key` (PEM), `dns`, `ip`, `lifetime`, `request_key`.

    Names of a CSR count when the object has none. Raises FormatError or UsageError that says which field is wrong.
    """
    if unknown := sorted(document.keys() - _KEYS):
        raise FormatError(Reason.BAD_DOCUMENT, f"{unknown[0]!r} is no field of a request; is it misspelt?")
    dns, ips = _texts(document, "dns"), _texts(document, "ip")
    warnings: tuple[str, ...] = ()
    csr, key = _text(document, "csr"), _text(document, "public_key")
    if (csr is None) == (key is None):
        raise UsageError(Reason.USAGE, "a request has either a csr or a public_key, PEM")
    if csr is not None:
        parsed = parse_csr(csr.encode())
        spki = parsed.spki
        warnings = tuple(f"{finding.code}: {finding.message}" for finding in parsed.findings)
        if not dns and not ips:
            dns, ips = tuple(parsed.dns_names), tuple(map(str, parsed.ip_addresses))
    else:
        assert key is not None
        spki = parse_public_key_file(key.encode())
    lifetime = document.get("lifetime")
    return IssuanceRequest(
        spki=spki,
        dns_names=tuple(name.lower() for name in dns),
        ip_addresses=ips,
        lifetime=None if lifetime is None else _lifetime(lifetime),
        request_key=(_text(document, "request_key") or "").encode(),
        warnings=warnings,
    )


def _lifetime(value: object) -> timedelta:
    """Return a lifetime, seconds or text."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 < value < 2**32:
        return timedelta(seconds=value)
    return parse_duration(value, "lifetime")


def _text(document: Mapping[str, object], name: str) -> str | None:
    """Return a text field, None when it is not there."""
    value = document.get(name)
    if value is not None and not isinstance(value, str):
        raise FormatError(Reason.BAD_DOCUMENT, f"{name} must be a string")
    return value


def _texts(document: Mapping[str, object], name: str) -> tuple[str, ...]:
    """Return a field that is a list of texts, empty when it is not there."""
    value = document.get(name, [])
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise FormatError(Reason.BAD_DOCUMENT, f"{name} must be a list of strings")
    return tuple(value)


async def _answer_bulk(control: CAControl, lines: Sequence[bytes]) -> AsyncIterator[bytes]:
    """Issue chunk by chunk, several at a time, and yield an answer per line, in order."""
    chunks = [lines[at : at + BULK_CHUNK] for at in range(0, len(lines), BULK_CHUNK)]
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(_issue_lines(control, chunk)) for chunk in chunks]
        for task in tasks:
            yield await task


async def _issue_lines(control: CAControl, lines: Sequence[bytes]) -> bytes:
    """Issue one chunk; a line that is wrong gets an error and hinders no other."""
    results: list[Issued | Error | None] = [None] * len(lines)
    asked: list[IssuanceRequest] = []
    places: list[int] = []
    for place, line in enumerate(lines):
        try:
            asked.append(parse_request(parse_json(line)))
            places.append(place)
        except Error as error:
            results[place] = error
    for place, result in zip(places, await control.issue(asked), strict=True):
        results[place] = result
    return b"".join(json.dumps(describe_result(result)).encode() + b"\n" for result in results if result is not None)


def describe_result(result: Issued | Error) -> dict[str, object]:
    """Return an issued certificate or an error for scripts."""
    if isinstance(result, Error):
        return {"error": result.message, "reason": str(result.reason)}
    return describe_issued(result)


def describe_issued(issued: Issued) -> dict[str, object]:
    """Return an issued certificate for scripts."""
    return {
        "log": issued.log_number,
        "index": issued.index,
        "serial": str(issued.serial),
        "not_after": issued.not_after.isoformat(),
        "certificate": issued.pem,
        "warnings": list(issued.warnings),
    }
