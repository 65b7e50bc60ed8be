"""Tables of a CA's TOML files, read strictly: an unknown key is an error, and so is a value of another type."""

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from mtc.errors import Error, Reason, UsageError

_UNITS = {
    "ms": timedelta(milliseconds=1),
    "s": timedelta(seconds=1),
    "m": timedelta(minutes=1),
    "h": timedelta(hours=1),
    "d": timedelta(days=1),
}
_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)", re.ASCII)
_LONGEST = timedelta(days=36500)


def parse_duration(text: object, what: str) -> timedelta:
    """Return a duration such as `100ms`, `30s`, `5m`, `1h` or `7d`. Raises UsageError that names `what`."""
    match = _DURATION.fullmatch(text) if isinstance(text, str) else None
    value = int(match[1]) * _UNITS[match[2]] if match else None
    if value is None or value > _LONGEST:
        raise UsageError(Reason.USAGE, f"{what}: {text!r} is no duration; write for example 100ms, 30s, 5m, 1h or 7d")
    return value


def format_duration(value: timedelta) -> str:
    """Return a duration in its largest whole unit; the inverse of `parse_duration`."""
    for name in ("d", "h", "m", "s", "ms"):
        if value >= _UNITS[name] and not value % _UNITS[name]:
            return f"{value // _UNITS[name]}{name}"
    return f"{value // _UNITS['ms']}ms"


class Section:
    """A table of the file, of which every key must be taken. name: as it stands in brackets, empty for the top."""

    def __init__(self, name: str, values: object, file: str) -> None:
        """Take the table as the TOML reader gives it."""
        self.name, self.file = name, file
        if not isinstance(values, dict):
            raise UsageError(Reason.USAGE, f"{file}: [{name}] is no table")
        self.values: dict[str, Any] = dict(values)

    def where(self, key: str) -> str:
        """Name a key for people."""
        return f"{self.file}: {self.name + '.' if self.name else ''}{key}"

    def text(self, key: str) -> str | None:
        """Take a string."""
        value = self.values.pop(key, None)
        if value is not None and not isinstance(value, str):
            raise UsageError(Reason.USAGE, f"{self.where(key)} must be a string")
        return value

    def flag(self, key: str) -> bool:
        """Take a boolean, false when it is not there."""
        return bool(self.choice(key))

    def choice(self, key: str) -> bool | None:
        """Take a boolean, None when it is not there."""
        value = self.values.pop(key, None)
        if value is not None and not isinstance(value, bool):
            raise UsageError(Reason.USAGE, f"{self.where(key)} must be true or false")
        return value

    def number(self, key: str) -> int | None:
        """Take a number from 0, None when it is not there."""
        value = self.values.pop(key, None)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
            raise UsageError(Reason.USAGE, f"{self.where(key)} must be a number from 0 on")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """Take a list of strings."""
        value = self.values.pop(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise UsageError(Reason.USAGE, f"{self.where(key)} must be a list of strings")
        return tuple(value)

    def duration(self, key: str) -> timedelta | None:
        """Take a duration, None when it is not there."""
        return parse_duration(self.values.pop(key), self.where(key)) if key in self.values else None

    def parsed(self, key: str, parse: Callable[[str], Any], default: Any) -> Any:  # noqa: ANN401 - the parser's type
        """Take a string and parse it; the parser's error gets the key's name in front."""
        value = self.text(key)
        if value is None:
            return default
        try:
            return parse(value)
        except Error as error:
            raise UsageError(error.reason, f"{self.where(key)}: {error.message}") from None

    def finish(self) -> None:
        """Refuse what nobody took."""
        if self.values:
            raise UsageError(
                Reason.USAGE, f"{self.where(min(self.values))} is no key of a CA's configuration; is it misspelt?"
            )


def read_tables(document: dict[str, Any], name: str, file: str) -> list[Section]:
    """Take a list of tables, `[[name]]`, out of a document."""
    values = document.pop(name, [])
    if not isinstance(values, list):
        raise UsageError(Reason.USAGE, f"{file}: write each {name} under a line [[{name}]]")
    return [Section(f"{name} {position}", value, file) for position, value in enumerate(values, 1)]
