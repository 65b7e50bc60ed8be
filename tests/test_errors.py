"""Errors carry reason and facts, cross process borders whole, and form families by the party at fault."""

import pickle
import re

import pytest

from mtc import errors
from mtc.errors import Error, FormatError, Reason

FAMILIES = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Error)]


@pytest.mark.parametrize("family", FAMILIES)
def test_errors_survive_pickling(family: type[Error]) -> None:
    """An error keeps its type, reason, text and facts when it crosses a process border."""
    error = family(Reason.BAD_ORDER, "out of order at byte 7", offset=7, got="x")
    copy = pickle.loads(pickle.dumps(error))  # noqa: S301 - our own bytes
    assert type(copy) is family
    assert (copy.reason, copy.message, copy.facts) == (
        Reason.BAD_ORDER,
        "out of order at byte 7",
        {"offset": 7, "got": "x"},
    )
    assert str(copy) == str(error) == error.message


def test_families_are_apart() -> None:
    """Each family stands directly below Error, so that none is caught by the name of another."""
    assert len(FAMILIES) == 9
    assert all(family.__bases__ == (Error,) for family in FAMILIES if family is not Error)
    assert not issubclass(Error, ValueError)


def test_reasons_are_fit_for_scripts() -> None:
    """A reason is its own text: lower case with hyphens, the member's name, each only once."""
    assert len({str(reason) for reason in Reason}) == len(Reason.__members__)
    for reason in Reason:
        assert re.fullmatch(r"[a-z]+[0-9]*(-[a-z]+[0-9]*)*", reason)
        assert reason.name == reason.upper().replace("-", "_")
        assert str(reason) == reason.value
    assert FormatError(Reason.TRUNCATED, "text").facts == {}
