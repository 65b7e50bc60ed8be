"""What a failure looks like over HTTP: one table from the families of errors to status codes.

Spec: RFC 9457 (problem details), RFC 9110, "Status Codes".
"""

import json
from collections.abc import Mapping
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.responses import Response

from mtc.errors import (
    ConflictError,
    Error,
    FormatError,
    PeerError,
    ProofError,
    Reason,
    Rejected,
    SignatureError,
    StorageError,
    UsageError,
)

STATUS_OF_FAMILY: dict[type[Error], int] = {
    FormatError: 400,
    UsageError: 400,
    ProofError: 422,
    SignatureError: 403,
    Rejected: 403,
    ConflictError: 409,
    PeerError: 503,
    StorageError: 503,
}
"""Status by whose fault it was."""
RETRY_AFTER_S = 1
"""When to come again after a 503, in seconds; a round is over by then."""

# Whose text may name sockets, folders and hosts of the operator: the log has it, the answer does not.
_SECRETIVE: dict[type[Error], str] = {
    PeerError: "a part of this service does not answer; come again later",
    StorageError: "the storage of this service does not answer; come again later",
}
# What RFC 9110 asks to say beside these statuses.
_HEADERS_OF_STATUS = {401: {"WWW-Authenticate": "Bearer"}, 503: {"Retry-After": str(RETRY_AFTER_S)}}
_TEMPORARY = frozenset({Reason.BUSY, Reason.CLOCK, Reason.NO_QUORUM})
_CLIENTS = (FormatError, UsageError, Rejected)


def status_of(error: Error) -> int:
    """Return the HTTP status of an error: by its family, and for a few reasons by its reason."""
    if error.reason in _TEMPORARY:
        return 503
    if error.reason is Reason.UNAUTHORIZED:
        return 401
    if error.reason is Reason.TOO_LARGE and isinstance(error, _CLIENTS):
        return 413
    return next((STATUS_OF_FAMILY[family] for family in type(error).__mro__ if family in STATUS_OF_FAMILY), 500)


def problem(status: int, detail: str, headers: Mapping[str, str] | None = None, **members: object) -> Response:
    """Return an `application/problem+json` answer; it is not for caches."""
    body = {"type": "about:blank", "title": HTTPStatus(status).phrase, "status": status, "detail": detail} | members
    return Response(
        json.dumps(body, default=str) + "\n",
        status,
        {"Cache-Control": "no-store", **(headers or {})},
        "application/problem+json",
    )


def problem_of(error: Exception) -> Response:
    """Return the answer to a failed request: never a traceback, never what only the operator may know."""
    if isinstance(error, Error):
        status = status_of(error)
        hidden = [text for family, text in _SECRETIVE.items() if isinstance(error, family)]
        # Without its quorum, an entry is in the log all the same, and who asked for it must hear where.
        detail = hidden[0] if hidden and error.reason is not Reason.NO_QUORUM else error.message
        return problem(status, detail, _HEADERS_OF_STATUS.get(status), reason=str(error.reason))
    if isinstance(error, HTTPException):
        return problem(error.status_code, error.detail, error.headers)
    if isinstance(error, TimeoutError):
        return problem(503, "the answer took too long", _HEADERS_OF_STATUS[503])
    return problem(500, "an internal error; the log of this service says more")
