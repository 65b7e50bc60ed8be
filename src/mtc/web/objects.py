"""Answering with stored objects: caching headers, conditional requests, gzip, and a bounded cache in memory.

Spec: RFC 9110, "Conditional Requests"; C2SP tlog-tiles, "Merkle Tree", on caching.
"""

import asyncio
import gzip
import hashlib
import re
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

IMMUTABLE = "public, max-age=31536000, immutable"
"""`Cache-Control` of what never changes."""
TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"
_GZIP_LEVEL = 6


@dataclass(frozen=True, slots=True)
class Served:
    """An object as it is answered. packed: the same gzip'd, where that is offered and smaller."""

    body: bytes
    etag: str
    packed: bytes | None = None

    @staticmethod
    def of(body: bytes, packed: bytes | None = None) -> "Served":
        """Name the bytes by their hash."""
        return Served(body, hashlib.sha256(body).hexdigest()[:32], packed)

    @property
    def cost(self) -> int:
        """Bytes in memory, about."""
        return len(self.body) + len(self.packed or b"") + 500


class ObjectCache:
    """Immutable objects in memory; the least recently asked for goes first. fetch: reads one, None when it is not."""

    def __init__(self, fetch: Callable[[str], Awaitable[bytes | None]], most_bytes: int = 64 << 20) -> None:
        """Start empty."""
        self._fetch = fetch
        self._most_bytes = most_bytes
        self._held: OrderedDict[str, Served] = OrderedDict()
        self._bytes = 0

    async def read(self, key: str) -> Served:
        """Return an object as it is now. Raises HTTPException (404)."""
        body = await self._fetch(key)
        if body is None:
            raise not_found()
        return Served.of(body)

    async def read_immutable(self, key: str, *, is_packable: bool) -> Served:
        """Return an object that never changes, from memory if it is there. is_packable: worth to be gzip'd."""
        served = self._held.get(key)
        if served is not None:
            self._held.move_to_end(key)
            return served
        served = await self.read(key)
        if is_packable:
            # Long enough to hold up other answers.
            packed = await asyncio.to_thread(gzip.compress, served.body, _GZIP_LEVEL, mtime=0)
            served = Served(served.body, served.etag, packed if len(packed) < len(served.body) else None)
        self._keep(key, served)
        return served

    def _keep(self, key: str, served: Served) -> None:
        """Put an object into the cache, unless it would fill an eighth of it."""
        if served.cost > self._most_bytes // 8 or key in self._held:
            return
        self._held[key] = served
        self._bytes += served.cost
        while self._bytes > self._most_bytes:
            _, gone = self._held.popitem(last=False)
            self._bytes -= gone.cost


def accepts_gzip(header: str) -> bool:
    """Tell whether an `Accept-Encoding` accepts gzip; without a word about it, no."""
    accepted = {}
    for item in header.lower().split(","):
        coding, _, parameter = item.partition(";")
        weight = parameter.replace(" ", "").removeprefix("q=") or "1"
        accepted[coding.strip()] = not re.fullmatch(r"0(\.0*)?", weight)
    return accepted.get("gzip", accepted.get("x-gzip", accepted.get("*", False)))


def answer_object(  # noqa: PLR0913 - the parts of an answer
    request: Request,
    served: Served,
    media_type: str,
    cache_control: str,
    *,
    modified: datetime | None = None,
    is_packable: bool = False,
) -> Response:
    """Answer with bytes, or with 304 when the client has them. HEAD gets the same headers."""
    is_packed = served.packed is not None and accepts_gzip(request.headers.get("accept-encoding", ""))
    body = served.packed if is_packed and served.packed is not None else served.body
    # Two encodings are two representations, and strong validators must tell them apart.
    etag = f'"{served.etag}-gzip"' if is_packed else f'"{served.etag}"'
    headers = {"Cache-Control": cache_control, "ETag": etag, "Access-Control-Allow-Origin": "*"}
    headers["Cross-Origin-Resource-Policy"] = "cross-origin"
    if is_packable:
        headers["Vary"] = "Accept-Encoding"
    if modified is not None:
        headers["Last-Modified"] = format_datetime(modified, usegmt=True)
    if _has_it(request, etag, modified):
        return Response(status_code=304, headers=headers)
    if is_packed:
        headers["Content-Encoding"] = "gzip"
    response = Response(body, headers=headers)
    # Set here, because Starlette would add a character set to text of its own accord.
    response.headers["Content-Type"] = media_type
    if request.method == "HEAD":
        response.body = b""
    return response


def _has_it(request: Request, etag: str, modified: datetime | None) -> bool:
    """Tell whether the request says that the client has this representation. `If-None-Match` alone decides if given."""
    match = request.headers.get("if-none-match")
    if match is not None:
        return match.strip() == "*" or etag in {item.strip().removeprefix("W/") for item in match.split(",")}
    since = request.headers.get("if-modified-since")
    if since is None or modified is None:
        return False
    try:
        return parsedate_to_datetime(since).astimezone(UTC) >= modified
    except ValueError:
        return False


def not_found() -> HTTPException:
    """Make the answer for what is not there."""
    return HTTPException(404, "there is no such file")
