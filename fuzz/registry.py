"""The registry of fuzz targets: what a target is, and the one table of all of them."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

from mtc.ids import REVISIONS, DraftRevision

MAX_BYTES = 1 << 16
"""Longest input that a target looks at; limits above it have tests of their own."""


class Target(NamedTuple):
    """A function to fuzz and where it starts. is_certificate: structure-aware mutations suit it."""

    check: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    is_certificate: bool = False

    @property
    def invariant(self) -> str:
        """The first line of the function's docstring."""
        return (self.check.__doc__ or "").partition("\n")[0]


TARGETS: dict[str, Target] = {}


def target(
    seeds: Callable[[], Iterable[bytes]], *, is_certificate: bool = False
) -> Callable[[Callable[[bytes], None]], Callable[[bytes], None]]:
    """Register a function `check_<name>` as target `<name>`."""

    def register(check: Callable[[bytes], None]) -> Callable[[bytes], None]:
        TARGETS[check.__name__.removeprefix("check_")] = Target(check, seeds, is_certificate)
        return check

    return register


def chosen_revision(data: bytes) -> DraftRevision:
    """Choose the revision that the first byte names."""
    return list(REVISIONS.values())[data[0] % len(REVISIONS)] if data else REVISIONS["plants-07"]
