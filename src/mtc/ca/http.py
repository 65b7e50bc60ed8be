"""The read path: every log of a CA as static files, with the caching headers that the specifications name.

What is served lies under the same names in the object store, so that any static file server can do the same. A tile has
exactly one path; everything else is a 404. Old logs stay served as long as their objects are there.

Spec: C2SP tlog-tiles, "Merkle Tree", "Log entries", "Pruning"; C2SP mtc-tlog; RFC 9110, "Conditional Requests".
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from mtc.errors import FormatError
from mtc.log.formats import public_prefix
from mtc.store import ObjectStore
from mtc.tiles import EntriesTile, Tile, is_prunable, parse_tile_path
from mtc.web.frame import name_endpoint
from mtc.web.objects import BYTES, IMMUTABLE, TEXT, ObjectCache, answer_object, not_found

FILES = {
    "ca.pem": "application/x-pem-file",
    "ca.crl": "application/pkix-crl",
    "revocations.crl": "application/pkix-crl",
}
"""Files beside the logs, below the prefix, by their media types."""

_NUMBER = re.compile(r"[1-9][0-9]{0,4}", re.ASCII)


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


class ReadPath:
    """Answers GET and HEAD for the public files of all logs of one CA."""

    def __init__(self, store: ObjectStore, rules: ServingRules | None = None) -> None:
        """Take the store that holds `public/…`."""
        self._store = store
        self._rules = rules or ServingRules()
        self._cache = ObjectCache(self._read, self._rules.cache_bytes)
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
            raise not_found()
        log_number = int(number)
        if path == "checkpoint":
            return await self._checkpoint(request, log_number)
        if path == "landmarks":
            name_endpoint(request, "landmarks")
            served = await self._cache.read(f"{public_prefix(log_number)}landmarks")
            age = max(self._rules.landmarks_max_age_s(log_number), 0)
            return answer_object(request, served, TEXT, f"public, max-age={age}")
        try:
            tile = parse_tile_path(path)
        except FormatError:
            raise not_found() from None
        return await self._tile(request, log_number, tile)

    async def _checkpoint(self, request: Request, log_number: int) -> Response:
        """Answer with the newest checkpoint."""
        name_endpoint(request, "checkpoint")
        key = f"{public_prefix(log_number)}checkpoint"
        served = await self._cache.read(key)
        now = self._rules.now().replace(microsecond=0)
        etag, since = self._seen.get(key, ("", now))
        if etag != served.etag:
            since = now
            self._seen[key] = served.etag, since
        age = f"public, max-age={self._rules.checkpoint_max_age_s}" if self._rules.checkpoint_max_age_s else "no-cache"
        # In the second in which it was first seen another one may follow, and a date could not tell them apart.
        return answer_object(request, served, TEXT, age, modified=since if since < now else None)

    async def _tile(self, request: Request, log_number: int, tile: Tile | EntriesTile) -> Response:
        """Answer with a tile or an entry bundle."""
        is_bundle = isinstance(tile, EntriesTile)
        name_endpoint(request, "entries" if is_bundle else "tile")
        # A partial tile down there has long been superseded, and holds what is pruned.
        if is_prunable(tile.full, self._rules.minimum_index(log_number)):
            raise HTTPException(410, "the log is pruned; these entries are no longer published")
        key = f"{public_prefix(log_number)}{tile.path}"
        served = await self._cache.read_immutable(key, is_packable=is_bundle)
        return answer_object(request, served, BYTES, IMMUTABLE, is_packable=is_bundle)

    async def _file(self, request: Request) -> Response:
        """Answer with a file of the CA."""
        name = request.url.path.rpartition("/")[2]
        name_endpoint(request, name)
        served = await self._cache.read(f"public/{name}")
        return answer_object(request, served, FILES[name], f"public, max-age={max(self._rules.lists_max_age_s(), 0)}")

    async def _read(self, key: str) -> bytes | None:
        """Read an object."""
        (body,) = await self._store.fetch([key])
        return body
