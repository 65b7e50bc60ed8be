"""What a check finds: values that name a file, a place in it, and what is wrong."""

from dataclasses import asdict, dataclass, field
from enum import StrEnum

from mtc.errors import Error

MAX_FINDINGS = 1000
"""Findings that are kept. A damaged disk gives millions, and nobody reads them."""


class Severity(StrEnum):
    """How bad a finding is."""

    ERROR = "error"
    """Something is damaged, missing, or contradicts what was signed or decided."""
    WARNING = "warning"
    """Something does not belong there, or is out of date, and harms nobody who relies on the log."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. path: the file, or the register's value. what: for people, goes on after the path.

    offset: byte in the file. index: entry of the log.
    """

    path: str
    what: str
    severity: Severity = Severity.ERROR
    offset: int | None = None
    index: int | None = None

    def to_json(self) -> dict[str, object]:
        """Return the finding as JSON values, without what is not known."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @property
    def place(self) -> str:
        """The path, and the byte and entry where they are known."""
        entry = "" if self.index is None else f", entry {self.index}"
        byte = "" if self.offset is None else f", byte {self.offset}"
        return f"{self.path}{entry}{byte}"

    def __str__(self) -> str:
        """Return one line."""
        return f"{self.place}: {self.what}"


@dataclass(slots=True)
class Findings:
    """Collects what is wrong, at most `MAX_FINDINGS` of it, how much was checked, and remarks about what is right.

    counts: by what was counted, in the order it came. is_cut: there were more findings than are kept.
    """

    items: list[Finding] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    is_cut: bool = False

    def add(
        self,
        path: str,
        what: str,
        *,
        severity: Severity = Severity.ERROR,
        offset: int | None = None,
        index: int | None = None,
    ) -> None:
        """Keep a finding, unless there are too many."""
        if len(self.items) >= MAX_FINDINGS:
            self.is_cut = True
            return
        self.items.append(Finding(path, what, severity, offset, index))

    def add_error(self, path: str, error: Error) -> None:
        """Keep what an error says, with the offset that it knows."""
        offset = error.facts.get("offset")
        self.add(path, error.message, offset=offset if isinstance(offset, int) else None)

    def count(self, name: str, number: int = 1) -> None:
        """Note that so many more were checked."""
        self.counts[name] = self.counts.get(name, 0) + number

    def note(self, text: str) -> None:
        """Keep a remark, once."""
        if text not in self.notes:
            self.notes.append(text)

    def take(self, other: "Findings") -> None:
        """Take over what another collection holds."""
        for item in other.items:
            self.add(item.path, item.what, severity=item.severity, offset=item.offset, index=item.index)
        for name, number in other.counts.items():
            self.count(name, number)
        for text in other.notes:
            self.note(text)
        self.is_cut |= other.is_cut
