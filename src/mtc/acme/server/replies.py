"""Answers of the ACME server: JSON with the links and headers that every one of them has."""

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime

from starlette.responses import Response

from mtc.acme.machine.problems import Problem, ProblemError, ProblemType
from mtc.errors import Error, FormatError, PeerError, Reason, StorageError, UsageError
from mtc.web.problems import RETRY_AFTER_S, status_of

_SECRETIVE: dict[type[Error], str] = {
    PeerError: "a part of this service does not answer; come again later",
    StorageError: "the storage of this service does not answer; come again later",
}
_SERVER_ERROR = 500
_RFC3339 = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2})",
    re.ASCII | re.IGNORECASE,
)


def reply(
    document: Mapping[str, object] | None,
    status: int = 200,
    *,
    location: str | None = None,
    links: Mapping[str, str] | None = None,
    retry_after_s: int | None = None,
) -> Response:
    """Return a JSON answer. links: URLs by relation."""
    body = b"" if document is None else json.dumps(document).encode()
    response = Response(body, status, media_type="application/json" if document is not None else None)
    if location is not None:
        response.headers["Location"] = location
    if retry_after_s is not None:
        response.headers["Retry-After"] = str(retry_after_s)
    add_links(response, links or {})
    return response


def add_links(response: Response, links: Mapping[str, str]) -> None:
    """Add Link headers."""
    for relation, url in links.items():
        response.headers.append("Link", f'<{url}>;rel="{relation}"')


def problem_reply(problem: Problem) -> Response:
    """Return a problem document."""
    response = Response(
        json.dumps(problem.to_json()).encode(),
        problem.http_status,
        {"Cache-Control": "no-store"},
        "application/problem+json",
    )
    if problem.retry_after_s is not None:
        response.headers["Retry-After"] = str(problem.retry_after_s)
    return response


def problem_of(error: Error) -> Problem:
    """Return the problem document for an error of ours: by whose fault it was."""
    if isinstance(error, ProblemError):
        return error.problem
    status = status_of(error)
    if error.reason in (Reason.BUSY, Reason.NO_QUORUM):
        return Problem(type=ProblemType.RATE_LIMITED, detail=error.message, status=503, retry_after_s=5)
    if isinstance(error, FormatError | UsageError):
        return Problem(type=ProblemType.MALFORMED, detail=error.message, status=status)
    hidden = next((text for family, text in _SECRETIVE.items() if type(error) is family), None)
    retry = RETRY_AFTER_S if status > _SERVER_ERROR else None
    return Problem(
        type=ProblemType.SERVER_INTERNAL,
        detail=hidden or error.message,
        status=max(_SERVER_ERROR, status),
        retry_after_s=retry,
    )


def format_time(moment: datetime) -> str:
    """Return a time as RFC 3339 writes it, whole seconds, UTC."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: object) -> datetime:
    """Read a time, RFC 3339, in whole seconds as certificates have them. Raises FormatError."""
    try:
        is_time = isinstance(text, str) and _RFC3339.fullmatch(text) is not None
        moment = datetime.fromisoformat(str(text).upper() if is_time else "").astimezone(UTC)
    except (ValueError, OverflowError):
        raise FormatError(
            Reason.BAD_TIME, f"{str(text)[:60]!r} is no time; write for example 2027-01-31T00:00:00Z"
        ) from None
    if moment.microsecond:
        raise FormatError(Reason.BAD_TIME, f"{str(text)[:60]!r} has a fraction of a second; certificates have none")
    return moment
