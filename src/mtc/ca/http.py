"""The read path: every log of a CA as static files, with the caching headers that the specifications name.

What is served lies under the same names in the object store, so that any static file server can do the same. A tile has
exactly one path; everything else is a 404. Old logs stay served as long as their objects are there.

Spec: C2SP tlog-tiles, "Merkle Tree", "Log entries", "Pruning"; C2SP mtc-tlog; RFC 9110, "Conditional Requests".
"""

import asyncio
import gzip
import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mtc.errors import FormatError
from mtc.log.formats import public_prefix
from mtc.store import ObjectStore
from mtc.tiles import EntriesTile, Tile, is_prunable, parse_tile_path
from mtc.web.frame import name_endpoint

IMMUTABLE = "public, max-age=31536000, immutable"
"""`Cache-Control` of what never changes."""
FILES = {
    "ca.pem": "application/x-pem-file",
    "ca.crl": "application/pkix-crl",
    "revocations.crl": "application/pkix-crl",
}
"""Files beside the logs, below the prefix, by their media types."""

_NUMBER = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)
_TEXT = "text/plain; charset=utf-8"
_BYTES = "application/octet-stream"
_GZIP_LEVEL = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingRules:
    """What only the running CA knows about what it serves. Each is asked per request and answers at once.

    minimum_index: of a log; full tiles and bundles below it are refused (410). 0 where pruned data stays served.
    checkpoint_max_age_s: what caches may do with a checkpoint. landmarks_max_age_s: of a log, until about its next
    landmark with a buffer. lists_max_age_s: until the revocation lists are signed anew. cache_bytes: of memory for
    tiles and bundles.
    """

    minimum_index: Callable[[int], int] = lambda _: 0
    checkpoint_max_age_s: int = 2
    landmarks_max_age_s: Callable[[int], int] = lambda _: 60
    lists_max_age_s: Callable[[], int] = lambda: 3600
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    cache_bytes: int = 64 << 20


@dataclass(frozen=True, slots=True)
class _Served:
    """An object as it is answered. packed: the same gzip'd, where that is offered and smaller."""

    body: bytes
    etag: str
    packed: bytes | None = None

    @staticmethod
    def of(body: bytes, packed: bytes | None = None) -> "_Served":
        """Name the bytes by their hash."""
        return _Served(body, hashlib.sha256(body).hexdigest()[:32], packed)

    @property
    def cost(self) -> int:
        """Bytes in memory, about."""
        return len(self.body) + len(self.packed or b"") + 500


class ReadPath:
    """Answers GET and HEAD for the public files of all logs of one CA."""

    def __init__(self, store: ObjectStore, rules: ServingRules | None = None) -> None:
        """Take the store that holds `public/…`."""
        self._store = store
        self._rules = rules or ServingRules()
        # Only immutable objects; the least recently asked for goes first.
        self._cache: OrderedDict[str, _Served] = OrderedDict()
        self._cache_bytes = 0
        # When this process first saw the checkpoint that it serves, by key: the bytes' ETag and the moment.
        self._seen: dict[str, tuple[str, datetime]] = {}

    def routes(self, prefix: str = "") -> list[Route]:
        """Return the routes below a path prefix, which has no slash at its end."""
        methods = ["GET", "HEAD"]
        files = [Route(f"{prefix}/{name}", self._file, methods=methods, name=name) for name in FILES]
        return [*files, Route(f"{prefix}/{{number}}/{{path:path}}", self._log_object, methods=methods, name="log")]

    async def _log_object(self, request: Request) -> Response:
        """Answer for one object of a log."""
        number, path = request.path_params["number"], request.path_params["path"]
        raw = request.scope.get("raw_path")
        # Percent-encoding could give one object many names, and caches many copies.
        if not _NUMBER.fullmatch(number) or (raw is not None and b"%" in raw):
            raise _not_found()
        log_number = int(number)
        if path == "checkpoint":
            return await self._checkpoint(request, log_number)
        if path == "landmarks":
            name_endpoint(request, "landmarks")
            served = await self._fetch(f"{public_prefix(log_number)}landmarks")
            age = max(self._rules.landmarks_max_age_s(log_number), 0)
            return _answer(request, served, _TEXT, f"public, max-age={age}")
        try:
            tile = parse_tile_path(path)
        except FormatError:
            raise _not_found() from None
        return await self._tile(request, log_number, tile)

    async def _checkpoint(self, request: Request, log_number: int) -> Response:
        """Answer with the newest checkpoint."""
        name_endpoint(request, "checkpoint")
        key = f"{public_prefix(log_number)}checkpoint"
        served = await self._fetch(key)
        now = self._rules.now().replace(microsecond=0)
        etag, since = self._seen.get(key, ("", now))
        if etag != served.etag:
            since = now
            self._seen[key] = served.etag, since
        age = f"public, max-age={self._rules.checkpoint_max_age_s}" if self._rules.checkpoint_max_age_s else "no-cache"
        # In the second in which it was first seen another one may follow, and a date could not tell them apart.
        return _answer(request, served, _TEXT, age, modified=since if since < now else None)

    async def _tile(self, request: Request, log_number: int, tile: Tile | EntriesTile) -> Response:
        """Answer with a tile or an entry bundle."""
        is_bundle = isinstance(tile, EntriesTile)
        name_endpoint(request, "entries" if is_bundle else "tile")
        # A partial tile down there has long been superseded, and holds what is pruned.
        if is_prunable(tile.full, self._rules.minimum_index(log_number)):
            raise HTTPException(410, "the log is pruned; these entries are no longer published")
        key = f"{public_prefix(log_number)}{tile.path}"
        served = self._cache.get(key)
        if served is None:
            served = await self._fetch(key)
            if is_bundle:
                # Long enough to hold up other answers.
                packed = await asyncio.to_thread(gzip.compress, served.body, _GZIP_LEVEL, mtime=0)
                served = _Served(served.body, served.etag, packed if len(packed) < len(served.body) else None)
            self._keep(key, served)
        else:
            self._cache.move_to_end(key)
        return _answer(request, served, _BYTES, IMMUTABLE, is_packable=is_bundle)

    async def _file(self, request: Request) -> Response:
        """Answer with a file of the CA."""
        name = request.url.path.rpartition("/")[2]
        name_endpoint(request, name)
        served = await self._fetch(f"public/{name}")
        return _answer(request, served, FILES[name], f"public, max-age={max(self._rules.lists_max_age_s(), 0)}")

    async def _fetch(self, key: str) -> _Served:
        """Read an object, or say 404."""
        (body,) = await self._store.fetch([key])
        if body is None:
            raise _not_found()
        return _Served.of(body)

    def _keep(self, key: str, served: _Served) -> None:
        """Put an object into the cache, unless it would fill an eighth of it."""
        if served.cost > self._rules.cache_bytes // 8 or key in self._cache:
            return
        self._cache[key] = served
        self._cache_bytes += served.cost
        while self._cache_bytes > self._rules.cache_bytes:
            _, gone = self._cache.popitem(last=False)
            self._cache_bytes -= gone.cost


def accepts_gzip(header: str) -> bool:
    """Tell whether an `Accept-Encoding` accepts gzip; without a word about it, no."""
    accepted = {}
    for item in header.lower().split(","):
        coding, _, parameter = item.partition(";")
        weight = parameter.replace(" ", "").removeprefix("q=") or "1"
        accepted[coding.strip()] = not re.fullmatch(r"0(\.0*)?", weight)
    return accepted.get("gzip", accepted.get("x-gzip", accepted.get("*", False)))


def _answer(  # noqa: PLR0913 - the parts of an answer
    request: Request,
    served: _Served,
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


def _not_found() -> HTTPException:
    """Make the answer for what is not there."""
    return HTTPException(404, "there is no such file")
