"""JSON from strangers, read strictly: each member of an object is taken by name and type, and none may be left over."""

import json
from collections.abc import Callable
from typing import TypeVar

from mtc.errors import Error, FormatError, Reason
from mtc.wire import decode_base64

MAX_PARTS = 4096
"""Most objects, arrays and items in a document; what a small file can become in memory is bounded by it."""

_Item = TypeVar("_Item")


class Members:
    """The members of one JSON object. `place` names it in errors, empty for the document itself."""

    def __init__(self, value: object, place: str) -> None:
        """Take a value that must be an object. Raises FormatError (BAD_DOCUMENT)."""
        if not isinstance(value, dict):
            raise _bad(place, "must be an object")
        self._members: dict[str, object] = dict(value)
        self._place = place

    def has(self, name: str) -> bool:
        """Tell whether a member is there and was not taken yet."""
        return name in self._members

    def path(self, name: str) -> str:
        """Return the place of a member."""
        return f"{self._place}.{name}" if self._place else name

    def take(self, name: str) -> object:
        """Return a member of any type."""
        if name not in self._members:
            raise _bad(self.path(name), "is missing")
        return self._members.pop(name)

    def inner(self, name: str) -> "Members":
        """Return a member that is an object."""
        return Members(self.take(name), self.path(name))

    def text(self, name: str, *, default: str | None = None) -> str:
        """Return a member that is a string of Unicode characters."""
        if default is not None and name not in self._members:
            return default
        return _text(self.take(name), self.path(name))

    def number(self, name: str, most: int) -> int:
        """Return a member that is an integer from 0 to `most`."""
        value = self.take(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
            raise _bad(self.path(name), f"must be an integer from 0 to {most}")
        return value

    def binary(self, name: str) -> bytes:
        """Return a member that is base64."""
        return self.parsed(name, lambda text: decode_base64(text, "the text"))

    def parsed(self, name: str, parse: Callable[[str], _Item]) -> _Item:
        """Return what the text of a member stands for; errors of `parse` name the place."""
        return _at(self.path(name), parse, self.text(name))

    def items(self, name: str, most: int, read: Callable[[object, str], _Item]) -> tuple[_Item, ...]:
        """Return a member that is an array of at most `most`, each read by `read(value, place)`."""
        value, place = self.take(name), self.path(name)
        if not isinstance(value, list) or len(value) > most:
            raise _bad(place, f"must be an array of at most {most}")
        return tuple(read(item, f"{place}[{number}]") for number, item in enumerate(value))

    def finish(self) -> None:
        """Refuse members that nobody took."""
        for name in self._members:
            raise _bad(self.path(ascii(name[:80])), "is not known")


def parse_members(data: bytes, most_bytes: int, what: str) -> Members:
    """Read a JSON document that is an object. what: names it in errors. Raises FormatError."""
    if len(data) > most_bytes:
        raise FormatError(Reason.TOO_LARGE, f"{what} has at most {most_bytes} bytes, this one {len(data)}")
    if not _is_small(data):
        raise FormatError(Reason.TOO_LARGE, f"{what} has more than {MAX_PARTS} parts")
    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=_unique, parse_constant=_no_constant)
    except json.JSONDecodeError as error:
        raise FormatError(
            Reason.BAD_DOCUMENT,
            f"{what} is not JSON: {error.msg} in line {error.lineno}, column {error.colno}",
            line=error.lineno,
        ) from None
    except RecursionError:
        raise FormatError(Reason.TOO_DEEP, f"{what} is nested too deeply") from None
    except ValueError as error:
        raise FormatError(Reason.BAD_DOCUMENT, f"{what} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise FormatError(Reason.BAD_DOCUMENT, f"{what} must be an object")
    return Members(value, "")


def _is_small(data: bytes) -> bool:
    """Tell, before anything is read, whether a document has no more than `MAX_PARTS` parts.

    What stands in texts does not count: a log chooses the text that it signs, and must not be able to choose one
    about which no evidence can be kept.
    """
    bare = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    if bare.count(b'"') > 4 * MAX_PARTS:
        return False
    outside = b"".join(bare.split(b'"')[::2])
    return sum(map(outside.count, (b"{", b"[", b","))) <= MAX_PARTS


def read_hash(value: object, place: str) -> bytes:
    """Return an item of an array that is base64."""
    return _at(place, lambda text: decode_base64(text, "the text"), _text(value, place))


def _text(value: object, place: str) -> str:
    """Return a string that can be written as UTF-8; JSON can escape halves of surrogate pairs."""
    if not isinstance(value, str):
        raise _bad(place, "must be a string")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise _bad(place, "holds half of a surrogate pair") from None
    return value


def _at(place: str, parse: Callable[[str], _Item], text: str) -> _Item:
    """Return what `parse` makes of a text, with the place in front of its errors."""
    try:
        return parse(text)
    except Error as error:
        # Below, an unknown name is a caller's mistake; here it is the document's.
        reason = Reason.BAD_DOCUMENT if error.reason is Reason.USAGE else error.reason
        raise FormatError(reason, f"{place}: {error.message}", **{"place": place, **error.facts}) from None


def _bad(place: str, fault: str) -> FormatError:
    """Return the error for a member."""
    return FormatError(Reason.BAD_DOCUMENT, f"{place or 'the document'} {fault}", place=place)


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Make a dict of an object's members. Raises ValueError when a name stands twice."""
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member stands twice")
    return members


def _no_constant(name: str) -> object:
    """Refuse NaN and the infinities, which are no JSON."""
    raise ValueError(f"{name} is no JSON number")
