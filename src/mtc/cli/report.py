"""What `mtc inspect` found, as one value that prints as a table or as JSON."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from rich.console import Console, RenderableType

from mtc.cli.output import shown, table

Value = str | int | bool | None
"""What a field holds; numbers above 2^53 are written as text in JSON."""


class Field(NamedTuple):
    """One named field: its value, and the bytes it takes in the encoding where that is known."""

    name: str
    value: Value
    size: int | None = None


@dataclass(slots=True)
class Report:
    """One artefact. kind: stable name for scripts. notes: sentences for people. pictures: drawn under the fields."""

    kind: str
    title: str
    size: int
    fields: list[Field] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    pictures: list[tuple[str, RenderableType]] = field(default_factory=list)
    path: list[dict[str, object]] = field(default_factory=list)
    children: list["Report"] = field(default_factory=list)

    def add(self, name: str, value: Value, size: int | None = None) -> None:
        """Append a field."""
        self.fields.append(Field(name, value, size))

    def to_json(self) -> dict[str, object]:
        """Return the report as JSON values; fields of one name become a list."""
        fields: dict[str, object] = {}
        sizes: dict[str, int] = {}
        for name, value, size in self.fields:
            plain = str(value) if isinstance(value, int) and abs(value) > 2**53 else value
            if name in fields:
                known = fields[name]
                fields[name] = [*known, plain] if isinstance(known, list) else [known, plain]
            else:
                fields[name] = plain
            if size is not None:
                sizes[name] = sizes.get(name, 0) + size
        result: dict[str, object] = {"kind": self.kind, "bytes": self.size, "fields": fields, "part_bytes": sizes}
        if self.notes:
            result["notes"] = self.notes
        if self.path:
            result["path"] = self.path
        if self.children:
            result["parts"] = [child.to_json() for child in self.children]
        return result

    def print(self, out: Console) -> None:
        """Print the report and its parts."""
        out.print(f"[bold]{shown(self.title)}[/]  [dim]{self.size:,} bytes[/]")
        rows = table("field", "value", "bytes", numeric=(2,))
        for name, value, size in self.fields:
            text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) and name in _COUNTS else value
            rows.add_row(shown(name), shown("" if text is None else str(text)), "" if size is None else f"{size:,}")
        if self.fields:
            out.print(rows)
        for title, picture in self.pictures:
            out.print(f"\n[bold]{shown(title)}[/]")
            out.print(picture)
        for note in self.notes:
            out.print(f"[yellow]note:[/] {shown(note)}")
        for child in self.children:
            out.print()
            child.print(out)


_COUNTS = frozenset({"tree size", "entries", "hashes"})


def short(data: bytes, most: int = 32) -> str:
    """Return bytes as hex, cut after `most`."""
    return data.hex() if len(data) <= most else f"{data[:most].hex()}… ({len(data)} bytes)"


def joined(items: Iterable[object]) -> str:
    """Return items as text with commas; `none` without any."""
    return ", ".join(map(str, items)) or "none"
