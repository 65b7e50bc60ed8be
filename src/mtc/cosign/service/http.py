"""The HTTP of witness and mirror: which request leads where, and which failure is which status.

Errors are told as soon as they are certain, also while a body is still being sent.

Spec: C2SP tlog-witness, tlog-mirror, tlog-tiles.
"""

import asyncio
import re
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from time import perf_counter
from typing import Protocol

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from mtc.cosign.requests import MAX_TEXT_BYTES, AddCheckpoint, SignSubtree
from mtc.cosign.service.core import Core, origin_hash
from mtc.cosign.service.metrics import CosignerMetrics
from mtc.cosign.service.mirror import Mirror, UploadConflict
from mtc.errors import ConflictError, Error, FormatError, PeerError, Reason, Rejected
from mtc.tiles import EntriesTile, is_prunable, parse_tile_path
from mtc.web.frame import Limits, name_endpoint
from mtc.web.objects import BYTES, IMMUTABLE, TEXT, ObjectCache, Served, answer_object, not_found
from mtc.web.problems import problem, problem_of

SIZE_TYPE = "text/x.tlog.size"
"""Media type of the answer that tells the size of the last checkpoint."""
INFO_TYPE = "text/x.tlog.mirror-info"
"""Media type of the answer that tells where a mirror stands."""
MAX_UPLOADS = 32
"""Uploads at once; each may hold a package of 16 MiB and a batch of 8 MiB. More get 503."""
UPLOAD_IDLE_S = 30.0
"""How long an upload may pause between two pieces of its body."""
_UPLOAD_TIME_S = 900.0
_UPLOAD_BYTES = 1 << 40
_CHECKPOINT_MAX_AGE_S = 2
_INFLATE_BYTES = 1 << 18
_HEX = re.compile("[0-9a-f]{64}", re.ASCII)


class Signing(Protocol):
    """What witness and mirror both do."""

    core: Core

    async def add_checkpoint(self, request: AddCheckpoint) -> bytes:
        """Take a checkpoint; return signature lines, or nothing."""

    async def sign_subtree(self, request: SignSubtree) -> bytes:
        """Return signature lines over a subtree."""

    def checkpoint(self, origin: str) -> bytes | None:
        """Return the latest checkpoint signed, None without one."""


class Endpoints:
    """The protocol's endpoints of one cosigner. mirror: the same object when it is a mirror, else None."""

    def __init__(self, cosigner: Signing, mirror: Mirror | None, metrics: CosignerMetrics) -> None:
        """Take the cosigner."""
        self._cosigner, self._mirror, self._metrics = cosigner, mirror, metrics
        self._uploads = 0
        self._cache = ObjectCache(self._read)

    def routes(self, submission: str, monitoring: str) -> list[Route]:
        """Return the routes below the two prefixes, which have no slash at their ends."""
        routes = [
            Route(f"{submission}/add-checkpoint", self._add_checkpoint, methods=["POST"], name="add-checkpoint"),
            Route(f"{submission}/sign-subtree", self._sign_subtree, methods=["POST"], name="sign-subtree"),
        ]
        if self._mirror is not None:
            routes.append(Route(f"{submission}/add-entries", self._add_entries, methods=["POST"], name="add-entries"))
        path = f"{monitoring}/{{log}}/{{path:path}}"
        return [*routes, Route(path, self._monitor, methods=["GET", "HEAD"], name="monitoring")]

    def limits(self, submission: str) -> dict[str, Limits]:
        """Return the limits below each path."""
        text = Limits(body_bytes=MAX_TEXT_BYTES)
        return {
            f"{submission}/add-checkpoint": text,
            f"{submission}/sign-subtree": text,
            f"{submission}/add-entries": Limits(body_bytes=_UPLOAD_BYTES, time_s=_UPLOAD_TIME_S),
        }

    async def _add_checkpoint(self, request: Request) -> Response:
        """Answer add-checkpoint."""

        async def act() -> Response:
            body = await _read_text(request)
            return _lines(await self._cosigner.add_checkpoint(AddCheckpoint.parse(body)))

        return await self._answer(request, "add-checkpoint", act)

    async def _sign_subtree(self, request: Request) -> Response:
        """Answer sign-subtree."""

        async def act() -> Response:
            body = await _read_text(request)
            return _lines(await self._cosigner.sign_subtree(SignSubtree.parse(body)))

        return await self._answer(request, "sign-subtree", act)

    async def _add_entries(self, request: Request) -> Response:
        """Answer add-entries, which streams."""
        mirror = self._mirror
        assert mirror is not None

        async def act() -> Response:
            if self._uploads >= MAX_UPLOADS:
                raise Rejected(Reason.BUSY, f"{MAX_UPLOADS} uploads are under way; come again")
            self._uploads += 1
            try:
                answer = await mirror.add_entries(_read_stream(request))
            finally:
                self._uploads -= 1
            if answer.lines:
                return _lines(answer.lines)
            return _text(202, INFO_TYPE, answer.info.encode())

        answer = await self._answer(request, "add-entries", act)
        answer.headers["Accept-Encoding"] = "gzip"
        return answer

    async def _answer(self, request: Request, kind: str, act: Callable[[], Awaitable[Response]]) -> Response:
        """Act, count, and turn a failure into the protocol's status."""
        name_endpoint(request, kind)
        began = perf_counter()
        try:
            answer, result = await act(), "ok"
        except Error as error:
            answer, result = answer_error(error), str(error.reason)
        self._metrics.count("mtc_cosigner_requests_total", request=kind, result=result)
        self._metrics.observe("mtc_cosigner_seconds", perf_counter() - began, request=kind)
        return answer

    async def _monitor(self, request: Request) -> Response:
        """Answer with a checkpoint or a tile of one log."""
        name, path = request.path_params["log"], request.path_params["path"]
        raw = request.scope.get("raw_path")
        # Percent-encoding could give one object many names, and caches many copies.
        if not _HEX.fullmatch(name) or (raw is not None and b"%" in raw):
            raise not_found()
        origin = self._cosigner.core.by_hash.get(name)
        if path == "checkpoint":
            name_endpoint(request, "checkpoint")
            checkpoint = None if origin is None else self._cosigner.checkpoint(origin)
            if checkpoint is None:
                raise not_found()
            age = f"public, max-age={_CHECKPOINT_MAX_AGE_S}"
            return answer_object(request, Served.of(checkpoint), TEXT, age)
        if self._mirror is None or origin is None:
            raise not_found()
        return await self._tile(request, self._mirror, origin, path)

    async def _tile(self, request: Request, mirror: Mirror, origin: str, path: str) -> Response:
        """Answer with a tile or an entry bundle."""
        try:
            tile = parse_tile_path(path)
        except FormatError:
            raise not_found() from None
        is_bundle = isinstance(tile, EntriesTile)
        name_endpoint(request, "entries" if is_bundle else "tile")
        state = mirror.state(origin)
        if is_prunable(tile.full, state.minimum_index):
            return problem(410, "the mirror does not hold these entries, or no longer")
        served = await self._cache.read_immutable(f"public/{origin_hash(origin)}/{tile.path}", is_packable=is_bundle)
        return answer_object(request, served, BYTES, IMMUTABLE, is_packable=is_bundle)

    async def _read(self, key: str) -> bytes | None:
        """Read an object."""
        (body,) = await self._cosigner.core.objects.fetch([key])
        return body


def answer_error(error: Error) -> Response:
    """Return the protocol's answer to a failure: status by whose fault it was, and what helps to go on."""
    if isinstance(error, UploadConflict):
        return _text(409, INFO_TYPE, error.info.encode())
    if isinstance(error, ConflictError):
        size = error.facts.get("tree_size")
        if error.reason is Reason.STALE_SIZE and isinstance(size, int):
            return _text(409, SIZE_TYPE, f"{size}\n".encode())
        # A conflict of ours is not the client's: it may come again.
        return problem(503, error.message, {"Retry-After": "1"}, reason=str(error.reason))
    if error.reason is Reason.UNKNOWN_ORIGIN:
        return problem(404, error.message, reason=str(error.reason))
    return problem_of(error)


def _lines(lines: bytes) -> Response:
    """Answer with signature lines."""
    return _text(200, TEXT, lines)


def _text(status: int, media_type: str, body: bytes) -> Response:
    """Answer with text that is for this client alone."""
    response = Response(body, status, {"Cache-Control": "no-store"})
    # Set here, because Starlette would add a character set to text of its own accord.
    response.headers["Content-Type"] = media_type
    return response


async def _read_text(request: Request) -> bytes:
    """Read a short body, which may be gzip'd. Raises FormatError when it is too large."""
    parts, size = [], 0
    async for chunk in _read_stream(request):
        size += len(chunk)
        if size > MAX_TEXT_BYTES:
            raise FormatError(Reason.TOO_LARGE, f"the body of this request has at most {MAX_TEXT_BYTES} bytes")
        parts.append(chunk)
    return b"".join(parts)


async def _read_stream(request: Request) -> AsyncIterator[bytes]:
    """Yield the body as it arrives, decompressed in small steps, so that a small body cannot fill the memory.

    A client that goes away ends the body; what came before it counts. Raises FormatError for another encoding or what
    is no gzip, PeerError when nothing comes for too long.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"identity", "gzip", "x-gzip"}:
        raise FormatError(Reason.UNKNOWN_FORMAT, f"a body encoded with {encoding[:40]!r} is not read here; gzip is")
    # 31 bits: a gzip header and trailer, checked by the library.
    unpack = zlib.decompressobj(31) if encoding != "identity" else None
    stream = aiter(request.stream())
    while True:
        try:
            async with asyncio.timeout(UPLOAD_IDLE_S):
                data = await anext(stream)
        except (StopAsyncIteration, ClientDisconnect):
            break
        except TimeoutError:
            raise PeerError(Reason.PEER, f"nothing came for {UPLOAD_IDLE_S:.0f} s") from None
        if unpack is None:
            yield data
            continue
        try:
            while data and not unpack.eof:
                yield unpack.decompress(data, _INFLATE_BYTES)
                data = unpack.unconsumed_tail
        except zlib.error as error:
            raise FormatError(Reason.BAD_TEXT, f"the body is no gzip: {error}") from None
        if unpack.eof and (unpack.unused_data or data):
            raise FormatError(Reason.TRAILING_DATA, "the body goes on behind the end of its gzip")
    if unpack is not None and not unpack.eof:
        raise FormatError(Reason.TRUNCATED, "the body's gzip ends too early")
