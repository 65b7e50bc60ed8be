"""What a check finds: values that name a file and say what is wrong with it."""

from dataclasses import dataclass, field

MAX_FINDINGS = 1000
"""Findings that are kept. A damaged disk gives millions, and nobody reads them."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. path: the file, or the register's value. what: for people, goes on after the path."""

    path: str
    what: str


@dataclass(slots=True)
class Findings:
    """Collects what is wrong, at most `MAX_FINDINGS` of it, and how much was checked.

    counts: by what was counted, in the order it came. is_cut: there were more findings than are kept.
    """

    items: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    is_cut: bool = False

    def add(self, path: str, what: str) -> None:
        """Keep a finding, unless there are too many."""
        if len(self.items) >= MAX_FINDINGS:
            self.is_cut = True
            return
        self.items.append(Finding(path, what))

    def count(self, name: str, number: int = 1) -> None:
        """Note that so many more were checked."""
        self.counts[name] = self.counts.get(name, 0) + number
