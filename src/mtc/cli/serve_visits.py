"""What each client asked a server for and got: kept for a while, and drawn for a terminal."""

import asyncio
import ipaddress
import ssl
from collections import Counter, deque
from dataclasses import dataclass
from datetime import datetime

from rich.console import Group, RenderableType
from rich.text import Text

from mtc.cli.output import shown, table
from mtc.errors import Error
from mtc.tls import CertificationPath, ServerContext, server_report
from mtc.web.clock import Clock

PAGE = "/.mtc"
"""Where the page is; for this machine only, since it tells what others asked for."""
MAX_VISITS = 200
"""Visits kept, the newest."""
KINDS = ("landmark-relative", "standalone", "classical", "resumed", "failed")
"""What may become of a handshake, best first."""
_STYLES = {"landmark-relative": "green", "standalone": "cyan", "classical": "yellow", "resumed": "blue"}
_FRAME_LINES = 9
_SHOWN_ANCHORS = 2
_NOTHING = "\N{EN DASH}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """One handshake. name: as the client sent it. asked: None when the client listed no trust anchors at all.

    kind: one of `KINDS`. why: what selected the certificate, or why the handshake failed. byte_count: of the
    certificates that were sent.
    """

    moment: datetime
    name: str | None
    asked: tuple[str, ...] | None
    kind: str
    why: str
    is_acknowledged: bool = False
    byte_count: int = 0
    version: str = ""

    def describe(self) -> dict[str, object]:
        """Return the visit for the log and for scripts."""
        facts: dict[str, object] = {"name": self.name, "asked": None if self.asked is None else list(self.asked)}
        if self.kind == "failed":
            return facts | {"error": self.why}
        facts |= {"sent": self.kind, "why": self.why, "acknowledged": self.is_acknowledged}
        return facts | {"certificate_bytes": self.byte_count, "tls": self.version}

    @property
    def name_text(self) -> str:
        """The name, for people."""
        return self.name or _NOTHING

    @property
    def asked_text(self) -> str:
        """What the client listed, cut for people."""
        if self.asked is None:
            return _NOTHING
        if not self.asked:
            return "an empty list"
        rest = len(self.asked) - _SHOWN_ANCHORS
        return ", ".join(self.asked[:_SHOWN_ANCHORS]) + (f" and {rest} more" if rest > 0 else "")

    @property
    def why_text(self) -> str:
        """Why, with the acknowledgement."""
        return f"{self.why}, acknowledged" if self.is_acknowledged else self.why


def observe_visit(connection: ssl.SSLObject, error: ssl.SSLError | None, now: datetime) -> Visit | None:
    """Return what happened in a handshake that has ended; None for one that never reached our server's context."""
    report = server_report(connection)
    if report is None:
        return None
    asked = None if report.requested is None else tuple(map(str, report.requested.anchors))
    name, selection = report.server_name, report.selection
    if error is not None:
        failure = report.failure
        why = failure.message if isinstance(failure, Error) else (error.reason or str(error)).lower().replace("_", " ")
        return Visit(moment=now, name=name, asked=asked, kind="failed", why=why)
    version = connection.version() or ""
    if selection is None:
        return Visit(moment=now, name=name, asked=asked, kind="resumed", why="with a ticket", version=version)
    return Visit(
        moment=now,
        name=name,
        asked=asked,
        kind=kind_of(selection.path),
        why=selection.match.name.lower().replace("_", " "),
        is_acknowledged=selection.match.is_acknowledged,
        byte_count=sum(map(len, selection.path.certificates)),
        version=version,
    )


def kind_of(path: CertificationPath) -> str:
    """Name the kind of a path."""
    return "landmark-relative" if path.is_landmark_relative else "standalone" if path.is_mtc else "classical"


def names_of(path: CertificationPath) -> str:
    """Return what a path is for, for people."""
    names = [name.decode("ascii", "backslashreplace") for name in path.dns_names]
    return ", ".join([*names, *(str(ipaddress.ip_address(item)) for item in path.ip_addresses)])


class Visits:
    """The newest visits, and how many of each kind there were. Owned by one event loop."""

    def __init__(self, clock: Clock) -> None:
        """Start with none."""
        self.clock = clock
        self.started = clock.now()
        self.newest: deque[Visit] = deque(maxlen=MAX_VISITS)
        self.counts: Counter[str] = Counter()
        self.warning = ""
        self.changed = asyncio.Event()

    def add(self, visit: Visit) -> None:
        """Note a visit."""
        self.newest.appendleft(visit)
        self.counts[visit.kind] += 1
        self.changed.set()

    def warn(self, text: str) -> None:
        """Note a warning; the newest is shown."""
        self.warning = text.strip()
        self.changed.set()

    def describe(self) -> dict[str, object]:
        """Return everything for scripts."""
        return {
            "since": self.started.isoformat(timespec="seconds"),
            "counts": {kind: self.counts[kind] for kind in KINDS},
            "visits": [
                {"time": item.moment.isoformat(timespec="milliseconds"), **item.describe()} for item in self.newest
            ],
        }


@dataclass(frozen=True, slots=True)
class Site:
    """The server that is looked at."""

    url: str
    folder: str
    context: ServerContext

    @property
    def certificates(self) -> tuple[tuple[str, str, int, datetime], ...]:
        """What is served now: kind, names, size in bytes and end of each path."""
        return tuple(
            (
                kind_of(path),
                names_of(path),
                sum(map(len, path.certificates)),
                path.not_after,
            )
            for path in self.context.paths
        )


def draw(site: Site, visits: Visits, height: int) -> RenderableType:
    """Return the view for a terminal. height: lines of the terminal."""
    served = table("certificate", "for", "bytes", "until (UTC)", numeric=(2,))
    for kind, names, count, end in site.certificates:
        served.add_row(Text(kind, _STYLES[kind]), shown(names), f"{count:,}", f"{end:%Y-%m-%d %H:%M}")
    total = sum(visits.counts.values())
    counts = Text("  ").join(
        Text(f"{kind} {visits.counts[kind]:,}", _STYLES.get(kind, "red")) for kind in KINDS if visits.counts[kind]
    )
    rows = table("time", "name", "asked for", "got", "why", "bytes", numeric=(5,))
    for item in list(visits.newest)[: max(height - _FRAME_LINES - len(site.context.paths), 3)]:
        rows.add_row(
            f"{item.moment:%H:%M:%S}",
            shown(item.name_text),
            shown(item.asked_text),
            Text(item.kind, _STYLES.get(item.kind, "red")),
            shown(item.why_text),
            f"{item.byte_count:,}" if item.byte_count else "",
        )
    head = Text.assemble((site.url, "bold"), f"  {site.folder}  ", (f"view: {site.url}{PAGE}  ctrl-C ends", "dim"))
    parts: list[RenderableType] = [head, "", served, "", Text.assemble(f"{total:,} handshakes  ", counts), "", rows]
    if not visits.newest:
        parts[-1] = Text("nobody has come yet", "dim")
    if visits.warning:
        parts.append(Text(visits.warning[:300], "yellow"))
    return Group(*parts)
