"""What a call ends with, as a value that can be compared: its result, or what programs see of its error."""

from collections.abc import Callable

from mtc.errors import Error
from mtc.kernel import Kernel


def outcome(result: object) -> object:
    """Return a value as it is, and an error as what programs see of it: type, reason, text and facts."""
    if isinstance(result, Error):
        return type(result), result.reason, result.message, result.facts
    return result


def outcome_of(call: Callable[[], object]) -> object:
    """Return the outcome of a call."""
    try:
        return outcome(call())
    except Error as error:
        return outcome(error)


def alike(twins: tuple[Kernel, Kernel], call: Callable[[Kernel], object]) -> object:
    """Return the outcome of a call, which must be the same on both kernels."""
    python, native = (outcome_of(lambda: call(kernel)) for kernel in twins)  # noqa: B023 - called at once
    assert python == native
    return python
