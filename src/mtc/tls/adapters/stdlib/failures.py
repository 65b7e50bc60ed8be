"""From what a callback met to the exception that a caller sees."""

import ssl
from typing import TypeVar

from mtc.errors import Error

_Report = TypeVar("_Report")


def explain(error: ssl.SSLError, failure: BaseException | None, what: str) -> None:
    """Give the exception of a failed handshake our reason in words and as its cause. what: what was refused.

    failure: what a callback kept, None when it was none of ours. What is no Exception, such as Ctrl-C, is raised as it
    is.
    """
    if failure is None:
        return
    if not isinstance(failure, Exception):
        raise failure
    message = failure.message if isinstance(failure, Error) else f"{type(failure).__name__}: {failure}"
    error.strerror = f"[MTC] {what}: {message}"
    # Some libraries, urllib3 among them, show the arguments.
    error.args = (error.errno, error.strerror)
    if isinstance(error, ssl.SSLCertVerificationError):
        error.verify_message = message
    error.__cause__ = failure


def without_way(error: BaseException) -> BaseException:
    """Return an error of ours without its traceback, which says nothing more and would keep the connection alive."""
    return error.with_traceback(None) if isinstance(error, Error) else error


def find_report(source: BaseException, kind: type[_Report]) -> _Report | None:
    """Return the report in an exception or in what libraries have wrapped into it."""
    seen: set[int] = set()
    waiting: list[object] = [source]
    while waiting:
        error = waiting.pop()
        if not isinstance(error, BaseException) or id(error) in seen:
            continue
        seen.add(id(error))
        report = getattr(error, "mtc_report", None)
        if isinstance(report, kind):
            return report
        # Libraries keep the cause in one of these places.
        waiting += [error.__cause__, error.__context__, getattr(error, "reason", None), *error.args]
    return None
