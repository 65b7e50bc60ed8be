"""A TLS handshake as a picture: the steps in words, and each flight as a flame, from the whole down to its parts.

All rows have one scale, so that flights compare. Below a flight stand its messages, below the Certificate message the
certificate's parts, each beneath what it is part of.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from mtc.cli.output import console, shown, table

_WIDTH, _LABEL = 72, 8
_BLOCKS = "█▓▒░"
_RECORDS = "records and encryption"
_STYLES = {
    _RECORDS: "bright_black",
    "Certificate": "magenta",
    "Alert": "red",
    "trust_anchors": "magenta",
    "padding": "bright_black",
    "names, validity, extensions": "cyan",
    "key": "green",
    "inclusion proof": "yellow",
}
_MESSAGE_STYLES = ("blue", "cyan", "bright_blue", "bright_cyan")
_PART_STYLES = ("green", "yellow", "red", "bright_red")


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of a row: its name, its first byte within the flight, its size, and how it is drawn."""

    name: str
    start: int
    count: int
    style: str
    block: str


def print_course(host: str, facts: Mapping[str, Any], attempt: int, *, retry: str | None) -> None:
    """Show an attempt to people. retry: the ID that the next one asks for."""
    out = console()
    out.print(f"[bold]{shown(host)}[/] · {_summary(facts)}{' · second attempt' if attempt > 1 else ''}\n")
    rows = table("step", "who", "what")
    for row in _steps(facts, retry):
        rows.add_row(*(shown(cell) for cell in row))
    out.print(rows)
    flights = facts["flights"]
    if flights:
        scale = max(max(flight["bytes"] for flight in flights) / _WIDTH, 1.0)
        for flight in flights:
            out.print("")
            for line in _draw_flight(flight, scale):
                out.print(line)
    out.print("")


def _summary(facts: Mapping[str, Any]) -> str:
    """Return what was agreed upon."""
    agreed = [facts["tls"], facts["cipher"], facts["group"]]
    times = f"connected in {facts['connect_ms']:.1f} ms, shaken hands in {facts['ms']:.1f} ms"
    return " · ".join([shown(str(item)) for item in agreed if item] + ([times] if facts["ms"] else ["broken off"]))


def _steps(facts: Mapping[str, Any], retry: str | None) -> Iterable[tuple[str, str, str]]:
    """Return the steps in words."""
    yield "offered", "client", _anchors(facts.get("asked"), "no trust anchors")
    yield "available", "server", _anchors(facts.get("available"), "says nothing")
    if facts["certificate_bytes"]:
        yield "sent", "server", _describe_sent(facts)
    refused = facts.get("refused")
    if retry is not None:
        yield "refused", "client", f"and it asks again, for {retry} of the server's list"
    elif refused is not None:
        yield "refused", "client", str(refused["reason"])
    else:
        yield "verified", "client", _verdict(facts)


def _describe_sent(facts: Mapping[str, Any]) -> str:
    """Say which certificate was sent, and whether on the client's word."""
    kind = f"{facts['certificate']} certificate" if facts["certificate"] else "certificate"
    more = facts["chain_bytes"] - facts["certificate_bytes"]
    rest = f" and {more:,} bytes of other certificates" if more else ""
    is_ours = facts.get("asked") and facts["certificate"] != "classical"
    said = ", acknowledged" if facts.get("acknowledged") else ", not acknowledged" if is_ours else ""
    return f"{kind}, {facts['certificate_bytes']:,} bytes{rest}{said}"


def _anchors(value: object, nothing: str) -> str:
    """Return a list of trust anchor IDs for people."""
    if not isinstance(value, Sequence):
        return nothing
    return ", ".join(map(str, value)) or "an empty list"


def _verdict(facts: Mapping[str, Any]) -> str:
    """Say why the certificate was believed."""
    if "ca" not in facts:
        return "a classical chain, by OpenSSL"
    by = ", ".join(facts["cosigners"])
    why = f"cosignatures of {by}" if by else "a trusted landmark, no signature"
    return f"CA {facts['ca']}, log {facts['log']}, entry {facts['index']}: {why}, {facts['verify_us']} µs"


def _draw_flight(flight: Mapping[str, Any], scale: float) -> Iterable[Text]:
    """Draw a flight: the whole, its messages below, their parts below these, and what they are with their sizes."""
    total = flight["bytes"]
    messages = _messages_of(flight)
    known = [item.get("parts", ()) for item in flight["messages"]]
    inner = [_split(*pair) for pair in zip(messages, known, strict=False)]
    bar = ("█" * max(round(total / scale), 1), "white")
    yield Text.assemble((f"{flight['from']:<{_LABEL}}", "bold"), bar, f"  {total:,} bytes")
    for row in (messages, [part for parts in inner for part in parts]):
        if row:
            yield Text.assemble(f"{'':{_LABEL}}", *_draw_row(row, scale))
    for number, message in enumerate(messages):
        yield _caption(message, total, "")
        for part in inner[number] if number < len(inner) else ():
            yield _caption(part, total, "  ")


def _caption(part: _Part, total: int, indent: str) -> Text:
    """Say what a piece is, and how large."""
    size = f" {part.count:>7,} {part.count / total:6.1%}  {indent}"
    return Text.assemble(f"{'':{_LABEL}}", (part.block * 2, part.style), size, part.name)


def _messages_of(flight: Mapping[str, Any]) -> list[_Part]:
    """Return the messages of a flight, and what is none of them."""
    sizes = [(message["name"], message["bytes"]) for message in flight["messages"]]
    rest = flight["bytes"] - sum(count for _, count in sizes)
    if sizes and rest > 0:
        sizes.append((_RECORDS, rest))
    return _lay_out(sizes, 0, _MESSAGE_STYLES)


def _split(message: _Part, known: Sequence[Mapping[str, Any]]) -> list[_Part]:
    """Return the parts of a message, beneath it."""
    sizes = [(item["name"], item["bytes"]) for item in known]
    return _lay_out(sizes, message.start, _PART_STYLES)


def _lay_out(sizes: Sequence[tuple[str, int]], start: int, styles: Sequence[str]) -> list[_Part]:
    """Return pieces one behind the other."""
    parts = []
    for number, (name, count) in enumerate(sizes):
        style, block = _STYLES.get(name) or styles[number % len(styles)], _BLOCKS[number % len(_BLOCKS)]
        parts.append(_Part(name, start, count, style, block))
        start += count
    return parts


def _draw_row(parts: Sequence[_Part], scale: float) -> list[tuple[str, str]]:
    """Draw pieces where they lie; each has its columns, and a small one may have none."""
    drawn: list[tuple[str, str]] = []
    at = 0
    for part in parts:
        first, last = round(part.start / scale), round((part.start + part.count) / scale)
        if first > at:
            drawn.append((" " * (first - at), ""))
            at = first
        drawn.append((part.block * max(last - at, 0), part.style))
        at = max(last, at)
    return drawn
