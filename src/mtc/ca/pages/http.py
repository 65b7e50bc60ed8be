"""Status page, tree, entries and search over HTTP: HTML that needs no script, and `/health` for machines."""

import functools
import re
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from mtc.ca.pages import drawing
from mtc.ca.pages.describe import describe_entry
from mtc.ca.pages.search import parse_query
from mtc.ca.status import CAStatus, CAView, Health, LogStatus, describe_health, judge_health
from mtc.errors import Error, FormatError
from mtc.ids import log_id, serial_number
from mtc.merkle import Hasher, Node, Subtree, subtree_hash
from mtc.tiles import TILE_HEIGHT, TILE_WIDTH, EntriesTile, NodeRecorder, width_in_tree
from mtc.web.frame import name_endpoint
from mtc.web.page_files import PageFiles
from mtc.web.problems import status_of

_HTML = "text/html; charset=utf-8"
_RAW_BYTES = 2048
_Answer = Callable[["Pages", Request], Awaitable[Response]]


def _page(endpoint: str) -> Callable[[_Answer], _Answer]:
    """Count a handler under a name, and show what goes wrong as a page instead of as JSON."""

    def wrap(answer: _Answer) -> _Answer:
        @functools.wraps(answer)
        async def wrapped(self: "Pages", request: Request) -> Response:
            name_endpoint(request, endpoint)
            try:
                return await answer(self, request)
            except HTTPException as error:
                return await self.message(error.status_code, error.detail)
            except Error as error:
                status = status_of(error)
                text = error.message if status < 500 else "The storage does not answer. Come again in a moment."
                return await self.message(status, text)

        return wrapped

    return wrap


class Pages:
    """The pages of one CA over a view of it."""

    def __init__(self, view: CAView, hasher: Hasher) -> None:
        """Take the view and the log's hash."""
        self._view = view
        self._hasher = hasher
        self._files = PageFiles()
        self._templates = Environment(
            loader=PackageLoader("mtc.ca.pages", "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "number": drawing.group_digits,
            "compact": format_compact,
            "moment": format_moment,
            "duration": format_duration,
            "short": lambda value: value.hex()[:8],
            "rate": format_rate,
        }
        self._templates.globals["style"] = self._files.style
        self._templates.globals["level_of"] = drawing.level_of

    def routes(self) -> list[Route]:
        """Return the routes of all pages; none begins with a number, as logs do."""
        methods = ["GET", "HEAD"]
        log = "/log/{log}"
        return [
            Route("/", self._status, methods=methods, name="status"),
            Route(log, self._log_page, methods=methods, name="log page"),
            Route(log + "/tree/{level}/{index}", self._tree, methods=methods, name="tree"),
            Route(log + "/entry/{index}", self._entry, methods=methods, name="entry"),
            Route(log + "/entry/{index}/raw", self._raw, methods=methods, name="raw entry"),
            Route("/search", self._search, methods=methods, name="search"),
            Route("/static/{name}", self._files.answer, methods=methods, name="static"),
            Route("/health", self._health, methods=methods, name="health"),
        ]

    async def message(self, status: int, text: str, query: str = "") -> Response:
        """Answer with a page that only says something."""
        return self._render("message.html", status, text=text, query=query, number=status)

    @_page("status")
    async def _status(self, _request: Request) -> Response:
        status = await self._view.status()
        return await self._show(status, status.current)

    @_page("log")
    async def _log_page(self, request: Request) -> Response:
        status = await self._view.status()
        return await self._show(status, self._find(status, request))

    async def _show(self, status: CAStatus, log: LogStatus | None) -> Response:
        """Show the CA with one of its logs."""
        health, reasons = judge_health(status)
        picture, hashes = None, {}
        if log is not None and log.tree_size:
            picture = drawing.draw_tree(Subtree(0, log.tree_size), log)
            hashes = await self._hashes(log, [node.subtree for node in picture.nodes])
        return self._render(
            "status.html",
            status=status,
            log=log,
            health=health,
            reasons=reasons,
            picture=picture,
            hashes=hashes,
            strip=drawing.draw_strip(log) if log else (),
            timeline=drawing.draw_landmarks(log.landmarks, status.now, status.max_lifetime) if log else None,
            spark=drawing.draw_rate(log.rates) if log else None,
            log_name=None if log is None else log_id(status.ca_id, log.number).oid_name,
        )

    @_page("tree")
    async def _tree(self, request: Request) -> Response:
        status = await self._view.status()
        log = self._find(status, request)
        level, index = _number(request, "level"), _number(request, "index")
        top = drawing.node_at(level, index, log.tree_size)
        if top is None:
            raise HTTPException(
                404, f"Log {log.number} with its {drawing.group_digits(log.tree_size)} entries has no such node."
            )
        if drawing.level_of(top) != level:
            # At the edge of the tree a node stands lower than its place in a complete tree would be.
            level = drawing.level_of(top)
            return RedirectResponse(f"/log/{log.number}/tree/{level}/{top.start >> level}", 302)
        if top.size == 1:
            return RedirectResponse(f"/log/{log.number}/entry/{top.start}", 302)
        picture = drawing.draw_tree(top, log)
        rows = drawing.draw_path(log.tree_size, top)
        wanted = [node.subtree for node in picture.nodes] + _nodes_of(rows)
        return self._render(
            "tree.html",
            status=status,
            log=log,
            top=top,
            level=level,
            pair=drawing.children(top),
            picture=picture,
            rows=rows,
            hashes=await self._hashes(log, wanted),
            strip=drawing.draw_strip(log, top),
        )

    @_page("entry")
    async def _entry(self, request: Request) -> Response:
        status = await self._view.status()
        log = self._find(status, request)
        index = _number(request, "index")
        data = await self._read(log, index)
        rows = drawing.draw_path(log.tree_size, Subtree(index, index + 1))
        place = EntriesTile(index >> TILE_HEIGHT)
        serial = serial_number(log.number, index)
        octets = serial.to_bytes((serial.bit_length() + 8) // 8, "big")
        landmark = next((item for item in log.landmarks if item.tree_size > index), None)
        return self._render(
            "entry.html",
            status=status,
            log=log,
            index=index,
            text=describe_entry(data),
            serial=serial,
            serial_hex=octets.hex(":"),
            leaf_hash=self._hasher.leaf(data).hex(),
            hash_name=self._hasher.name.upper().replace("SHA256", "SHA-256"),
            rows=rows,
            hashes=await self._hashes(log, _nodes_of(rows)),
            bundle=EntriesTile(place.index, width_in_tree(place, log.tree_size)).path,
            position=index % TILE_WIDTH,
            landmark=landmark,
            raw=data[:_RAW_BYTES].hex(" "),
            is_cut=len(data) > _RAW_BYTES,
        )

    @_page("entry")
    async def _raw(self, request: Request) -> Response:
        log = self._find(await self._view.status(), request)
        index = _number(request, "index")
        data = await self._read(log, index)
        name = f"log-{log.number}-entry-{index}.bin"
        return Response(
            data,
            media_type="application/octet-stream",
            headers={"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-cache"},
        )

    @_page("search")
    async def _search(self, request: Request) -> Response:
        query = request.query_params.get("q", "")
        status = await self._view.status()
        try:
            place = parse_query(query)
        except FormatError as error:
            return await self.message(400, error.message[:1].upper() + error.message[1:] + ".", query)
        log = status.current if place.log_number is None else status.log(place.log_number)
        if log is None:
            return await self.message(404, f"This CA has no log {place.log_number}.", query)
        if place.index >= log.tree_size:
            return await self.message(404, _beyond(log, place.index), query)
        return RedirectResponse(f"/log/{log.number}/entry/{place.index}", 303)

    async def _health(self, request: Request) -> Response:
        name_endpoint(request, "health")
        try:
            found = describe_health(await self._view.status())
        except Error as error:
            found = {"status": str(Health.STOPPED), "reasons": [f"the status cannot be read: {error.reason}"]}
        code = 503 if found["status"] == Health.STOPPED else 200
        return JSONResponse(found, code, {"Cache-Control": "no-store"})

    def _find(self, status: CAStatus, request: Request) -> LogStatus:
        """Return the log that a path names."""
        log = status.log(_number(request, "log"))
        if log is None:
            raise HTTPException(404, "This CA has no such log.")
        return log

    async def _read(self, log: LogStatus, index: int) -> bytes:
        """Return an entry, or say why it is not there."""
        if index >= log.tree_size:
            raise HTTPException(404, _beyond(log, index))
        data = await self._view.entry(log.number, index)
        if data is None and index < log.minimum_index:
            text = f"Entry {drawing.group_digits(index)} of log {log.number} is pruned, as are all entries below"
            raise HTTPException(410, f"{text} {drawing.group_digits(log.minimum_index)}.")
        if data is None:
            raise HTTPException(404, f"Entry {drawing.group_digits(index)} of log {log.number} is not stored here.")
        return data

    async def _hashes(self, log: LogStatus, subtrees: Sequence[Subtree]) -> dict[Subtree, bytes]:
        """Return the hashes of subtrees, all read in one call."""
        recorder = NodeRecorder(self._hasher)
        for subtree in subtrees:
            subtree_hash(self._hasher, recorder, subtree)
        wanted = list(dict.fromkeys(recorder.nodes))
        known = _Known(dict(zip(wanted, await self._view.hashes(log.number, wanted), strict=True)))
        return {subtree: subtree_hash(self._hasher, known, subtree) for subtree in subtrees}

    def _render(self, template: str, code: int = 200, **values: Any) -> Response:  # noqa: ANN401 - for templates
        """Fill a template."""
        text = self._templates.get_template(template).render(**values)
        return Response(text, code, {"Cache-Control": "no-cache", "Content-Type": _HTML})


class _Known:
    """A `merkle.HashReader` over hashes that were read before."""

    def __init__(self, hashes: dict[Node, bytes]) -> None:
        self._hashes = hashes

    def read(self, nodes: Sequence[Node]) -> list[bytes]:
        """Return the hashes."""
        return [self._hashes[node] for node in nodes]


def _number(request: Request, name: str) -> int:
    """Return a number in a path, or say 404."""
    text = str(request.path_params[name])
    if not re.fullmatch("0|[1-9][0-9]{0,14}", text, re.ASCII):
        raise HTTPException(404, "There is no such page.")
    return int(text)


def _nodes_of(rows: Sequence[drawing.PathRow]) -> list[Subtree]:
    """Name every subtree of a path."""
    return [row.node for row in rows] + [row.sibling for row in rows if row.sibling is not None]


def _beyond(log: LogStatus, index: int) -> str:
    """Say that an index lies behind the end of a log."""
    if not log.tree_size:
        return f"Log {log.number} has no entries yet."
    last = drawing.group_digits(log.tree_size - 1)
    return f"Log {log.number} has no entry {drawing.group_digits(index)}; its last one is {last}."


def format_compact(count: int) -> str:
    """Write a count in at most four characters or so: 950, 8.2k, 131k, 2.1M."""
    value = float(count)
    for unit in ("", "k", "M", "G", "T"):
        if value < 999.5 or unit == "T":
            break
        value /= 1000
    return f"{value:.0f}{unit}" if value >= 99.5 or not unit else f"{value:.1f}".removesuffix(".0") + unit


def format_rate(rate: float) -> str:
    """Write a rate with about three digits."""
    if rate >= 100:
        return drawing.group_digits(round(rate))
    return f"{rate:.1f}" if rate >= 0.95 else f"{rate:.2g}"


def format_moment(moment: datetime) -> str:
    """Write a moment in UTC."""
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def format_duration(span: timedelta) -> str:
    """Write how long something lasts, in its two largest units."""
    seconds = int(abs(span).total_seconds())
    units = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))
    for position, (name, size) in enumerate(units):
        if seconds >= size or name == "s":
            rest = seconds % size
            text = f"{seconds // size} {name}"
            if position + 1 < len(units) and seconds < 10 * size and rest >= units[position + 1][1]:
                text += f" {rest // units[position + 1][1]} {units[position + 1][0]}"
            return text
    raise AssertionError
