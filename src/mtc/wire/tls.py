"""The TLS presentation language: big-endian integers and length-prefixed vectors.

Spec: RFC 8446, "Presentation Language".
"""

import builtins

from mtc.errors import FormatError, Reason, UsageError


class Reader:
    """Reads one byte string from front to back. `what` names the structure in error messages."""

    __slots__ = ("_data", "_offset", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        """Start at the first byte."""
        self._data = data
        self._offset = 0
        self._what = what

    @property
    def offset(self) -> int:
        """Bytes read so far."""
        return self._offset

    @property
    def remaining(self) -> int:
        """Bytes not yet read."""
        return len(self._data) - self._offset

    def read_bytes(self, count: int) -> bytes:
        """Return the next `count` bytes. Raises FormatError (TRUNCATED)."""
        end = self._offset + count
        if end > len(self._data):
            raise FormatError(
                Reason.TRUNCATED,
                f"{self._what} ends at byte {len(self._data)}, where {count} more bytes should start at "
                f"byte {self._offset}",
                offset=self._offset,
                expected=count,
                got=self.remaining,
            )
        value = self._data[self._offset : end]
        self._offset = end
        return value

    def read_uint(self, width: int) -> int:
        """Return the next big-endian integer of `width` bytes."""
        return int.from_bytes(self.read_bytes(width), "big")

    def read_vector(self, width: int, *, least: int = 0, most: int | None = None) -> bytes:
        """Return the contents of a vector whose length takes `width` bytes and lies in [least, most]."""
        at = self._offset
        length = self.read_uint(width)
        if length < least or (most is not None and length > most):
            raise FormatError(
                Reason.BAD_LENGTH,
                f"{self._what} has a vector of {length} bytes at byte {at}, allowed are {least} to "
                f"{(1 << 8 * width) - 1 if most is None else most}",
                offset=at,
                got=length,
            )
        return self.read_bytes(length)

    def read_rest(self) -> bytes:
        """Return all bytes that are left."""
        return self.read_bytes(self.remaining)

    def finish(self) -> None:
        """Raise FormatError (TRAILING_DATA) when bytes are left."""
        if self.remaining:
            raise FormatError(
                Reason.TRAILING_DATA,
                f"{self._what} has {self.remaining} bytes after its end at byte {self._offset}",
                offset=self._offset,
                got=self.remaining,
            )


class Writer:
    """Collects the bytes of one structure; each call returns the writer, so that calls chain."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        """Start empty."""
        self._parts: list[bytes] = []

    def bytes(self, value: bytes) -> "Writer":
        """Append bytes as they stand."""
        self._parts.append(value)
        return self

    def uint(self, value: int, width: int) -> "Writer":
        """Append a big-endian integer of `width` bytes. Raises UsageError when it does not fit."""
        if not 0 <= value < 1 << 8 * width:
            raise UsageError(Reason.USAGE, f"{value} does not fit an unsigned integer of {width} bytes", got=value)
        self._parts.append(value.to_bytes(width, "big"))
        return self

    def vector(self, value: builtins.bytes, width: int) -> "Writer":
        """Append a vector with a length of `width` bytes. Raises UsageError when it is too long for that."""
        if len(value) >= 1 << 8 * width:
            raise UsageError(Reason.TOO_LARGE, f"{len(value)} bytes do not fit a vector with a length of {width} bytes")
        return self.uint(len(value), width).bytes(value)

    def encode(self) -> builtins.bytes:
        """Return everything appended, in order."""
        return b"".join(self._parts)
