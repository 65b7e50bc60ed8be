"""Reads one HTTP answer from an applicant's server, which may be broken, slow or hostile.

The grammar is llhttp's; here are the bounds. The body of a redirect or of an error is not read at all.

Spec: RFC 9112; RFC 8555, "HTTP Challenge".
"""

import asyncio
from dataclasses import dataclass

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser

from mtc.errors import FormatError, Reason

MAX_BODY_BYTES = 64 << 10
"""Longest body. A key authorization has about 90 bytes; Boulder reads 128, others a page."""
MAX_HEAD_BYTES = 16 << 10
"""Longest status line and header, those of interim answers included."""
_CHUNK_BYTES = 8 << 10


@dataclass(frozen=True, slots=True)
class HTTPAnswer:
    """status: the code. location: of a redirect, ASCII, None without that header. body: empty but with status 200."""

    status: int
    location: str | None
    body: bytes


class _Reading:
    """The state of reading one answer; llhttp calls its methods by their names."""

    def __init__(self) -> None:
        self.parser = HttpResponseParser(self)
        self.status = 0
        self.location: str | None = None
        self.body = bytearray()
        self.has_head = False
        self.is_done = False  # What follows is another answer, or garbage, and changes nothing.
        self.ends_with_connection = True

    def on_message_begin(self) -> None:
        if not self.is_done:
            self.location, self.ends_with_connection = None, True

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.is_done:
            return
        lowered = name.lower()
        if lowered == b"location" and self.location is None:
            self.location = "".join(chr(byte) if byte < 0x80 else f"%{byte:02X}" for byte in value)
        elif lowered in {b"content-length", b"transfer-encoding"}:
            self.ends_with_connection = False

    def on_headers_complete(self) -> None:
        if self.is_done:
            return
        self.status = self.parser.get_status_code()
        self.has_head = self.status >= 200
        self.is_done = self.has_head and self.status != 200

    def on_body(self, data: bytes) -> None:
        if self.is_done:
            return
        self.body += data
        if len(self.body) > MAX_BODY_BYTES:
            raise FormatError(Reason.TOO_LARGE, f"the body has more than {MAX_BODY_BYTES} bytes")

    def on_message_complete(self) -> None:
        self.is_done = self.is_done or self.has_head


async def read_answer(reader: asyncio.StreamReader) -> HTTPAnswer:
    """Read one answer. Raises FormatError when it is none or too large, OSError. The caller sets the deadline."""
    reading = _Reading()
    total = 0
    while not reading.is_done:
        data = await reader.read(_CHUNK_BYTES)
        total += len(data)
        if not data:
            if reading.has_head and reading.ends_with_connection:
                break
            raise FormatError(Reason.TRUNCATED, f"the connection ended within the answer, after {total} bytes")
        _feed(reading, data)
        if not reading.has_head and total > MAX_HEAD_BYTES:
            raise FormatError(Reason.TOO_LARGE, f"the header has more than {MAX_HEAD_BYTES} bytes")
        if total > 2 * (MAX_HEAD_BYTES + MAX_BODY_BYTES):
            # Chunks of one byte each, or trailers without end.
            raise FormatError(
                Reason.TOO_LARGE, f"the answer has more than {total} bytes for {len(reading.body)} of body"
            )
    return HTTPAnswer(reading.status, reading.location, bytes(reading.body))


def _feed(reading: _Reading, data: bytes) -> None:
    """Read some bytes of an answer. Raises FormatError."""
    try:
        reading.parser.feed_data(data)
    except (HttpParserUpgrade, HttpParserError) as error:
        if reading.is_done:
            return
        # An error that one of our methods raised is its context.
        if isinstance(error.__context__, FormatError):
            raise error.__context__ from None
        what = "switched protocols" if isinstance(error, HttpParserUpgrade) else f"speaks no HTTP: {error}"
        raise FormatError(Reason.BAD_DOCUMENT, f"the server {what}") from error
