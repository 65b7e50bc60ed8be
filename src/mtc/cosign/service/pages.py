"""The status page of a cosigner, and `/health` for machines."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from mtc import __version__
from mtc.kernel import active_kernel
from mtc.web.frame import name_endpoint
from mtc.web.page_files import PageFiles


@dataclass(frozen=True, slots=True)
class LogLine:
    """One log as a cosigner sees it. signed: when, None before the first signature. hash: its name in URLs.

    pending, next_entry, minimum_index: of a mirror; see `MirrorState`.
    """

    origin: str
    hash: str
    tree_size: int
    root: str
    signed: datetime | None
    pending: int = 0
    next_entry: int = 0
    minimum_index: int = 0

    def describe(self) -> dict[str, object]:
        """Return the log for scripts."""
        return {
            "origin": self.origin,
            "hash": self.hash,
            "tree_size": self.tree_size,
            "root_hash": self.root,
            "signed": None if self.signed is None else self.signed.isoformat(),
            "pending": self.pending,
            "next_entry": self.next_entry,
            "minimum_index": self.minimum_index,
        }


@dataclass(frozen=True, slots=True)
class CosignerStatus:
    """How a cosigner is. known: logs and CAs in its configuration. troubles: sentences for people, empty when well."""

    role: str
    cosigner_id: str
    keys: tuple[str, ...]
    logs: tuple[LogLine, ...]
    known: int
    evidence: int
    troubles: tuple[str, ...]
    now: datetime

    @property
    def health(self) -> str:
        """One word: ok, or degraded when something needs a look."""
        return "degraded" if self.troubles else "ok"

    def describe(self) -> dict[str, object]:
        """Return the status for scripts."""
        return {
            "status": self.health,
            "reasons": list(self.troubles),
            "role": self.role,
            "id": self.cosigner_id,
            "keys": list(self.keys),
            "known": self.known,
            "evidence": self.evidence,
            "logs": [log.describe() for log in self.logs],
            "version": __version__,
            "time": self.now.isoformat(timespec="seconds"),
        }


class StatusPages:
    """Status page and health of one cosigner. read: asked for each page."""

    def __init__(self, read: Callable[[], CosignerStatus], monitoring: str) -> None:
        """Take what is shown. monitoring: path in front of the logs."""
        self._read, self._monitoring = read, monitoring
        self._files = PageFiles()
        self._templates = Environment(
            loader=PackageLoader("mtc.cosign.service", "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self._templates.filters |= {
            "number": lambda value: f"{value:,}".replace(",", "\u202f"),
            "moment": lambda value: f"{value:%Y-%m-%d %H:%M:%S}",
            "duration": _duration,
        }

    def routes(self) -> list[Route]:
        """Return the routes."""
        methods = ["GET", "HEAD"]
        return [
            Route("/", self._page, methods=methods, name="status"),
            Route("/health", self._health, methods=methods, name="health"),
            Route("/static/{name}", self._files.answer, methods=methods, name="static"),
        ]

    async def _page(self, request: Request) -> Response:
        """Show the status."""
        name_endpoint(request, "status")
        status = self._read()
        signed = [log.signed for log in status.logs if log.signed is not None]
        text = self._templates.get_template("status.html").render(
            role=status.role,
            id=status.cosigner_id,
            health=status.health,
            reasons=status.troubles,
            logs=_sorted(status.logs),
            known=status.known,
            keys=status.keys,
            evidence=status.evidence,
            entries=sum(log.tree_size for log in status.logs),
            newest=status.now - max(signed) if signed else None,
            prefix="",
            monitoring=self._monitoring,
            style=self._files.style,
            version=__version__,
            kernel=active_kernel().name,
        )
        return Response(text, 200, {"Cache-Control": "no-store"}, "text/html; charset=utf-8")

    async def _health(self, request: Request) -> Response:
        """Say how the cosigner is: 200 when well, 503 when something needs a look."""
        name_endpoint(request, "health")
        status = self._read()
        return JSONResponse(status.describe(), 503 if status.troubles else 200, {"Cache-Control": "no-store"})


def _sorted(logs: Sequence[LogLine]) -> list[LogLine]:
    """Return the logs, those signed last first."""
    never = datetime.fromtimestamp(0, UTC)
    return sorted(logs, key=lambda log: (log.signed or never, log.origin), reverse=True)[:500]


def _duration(span: timedelta) -> str:
    """Write how long something lasts, in its largest unit."""
    seconds = max(int(span.total_seconds()), 0)
    for name, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds // size} {name}"
    return f"{seconds} s"
