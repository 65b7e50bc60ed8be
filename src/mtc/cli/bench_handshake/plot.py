"""The figures as an SVG picture: bytes on the left, the time to handshake at each round trip on the right.

Written as text: the same figures give the same bytes, and bars need no library for plots.
"""

from collections.abc import Sequence
from xml.sax.saxutils import escape

from mtc.cli.bench_handshake.figures import RowFigures
from mtc.cli.bench_handshake.kinds import Kind, LeafKey
from mtc.cli.bench_handshake.link import INITIAL_WINDOW, MTU, Weather
from mtc.cli.bench_handshake.report import Run
from mtc.simulate.picture import round_up

_LABELS, _BYTES, _TIMES, _GAP, _RIGHT = 350, 330, 170, 34, 30
_TOP, _ROW, _BAR = 92, 30, 12
_SEGMENT_BYTES = MTU - 52
"""TCP's bytes in a packet, with the option for time stamps."""
_BLUE, _LIGHT, _AMBER, _GREEN, _RED, _GREY = "#2f6db5", "#9cc0e7", "#e0a030", "#3a8f5c", "#c0392b", "#666666"
_STYLE = 'font-family="sans-serif" font-size="12"'


def draw_run(run: Run) -> str:
    """Return the picture, an SVG document."""
    trips = sorted({weather.rtt_s for weather in run.weathers})
    width = _LABELS + _BYTES + len(trips) * (_TIMES + _GAP) + _RIGHT
    height = _TOP + len(run.rows) * _ROW + 34
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {_STYLE}>',
        f'<rect width="{width}" height="{height}" fill="white"/>',
        '<text x="12" y="24" font-size="16">TLS 1.3 handshakes by kind of certificate</text>',
        _text(_LABELS + _BYTES + _GAP, 24, "time to handshake: bars to the median, lines on to the 90th percentile"),
    ]
    for number, one in enumerate(run.rows):
        parts.append(_text(_LABELS - 10, _middle(number) + 4, _label(one), anchor="end"))
    parts += _draw_bytes(run)
    for place, rtt_s in enumerate(trips):
        left = _LABELS + _BYTES + _GAP + place * (_TIMES + _GAP)
        parts += _draw_times(run, [at for at in run.weathers if at.rtt_s == rtt_s], left)
    return "\n".join([*parts, "</svg>", ""])


def _label(one: RowFigures) -> str:
    """Name a row."""
    key = "P-256" if one.row.leaf_key is LeafKey.P256 else "ML-DSA-44"
    return f"{one.row.kind.label} · {key} · {one.row.back_end}"


def _middle(number: int) -> float:
    """Return the height of a row's middle."""
    return _TOP + number * _ROW + _ROW / 2


def _draw_bytes(run: Run) -> list[str]:
    """Draw what the server sends, and the updates with it."""
    updates = 0.0 if run.updates is None else run.updates.signed
    window = INITIAL_WINDOW * _SEGMENT_BYTES
    most = max(*(one.server_bytes for one in run.rows), window) * 1.1
    scale = _BYTES / most
    parts = [_text(_LABELS, 48, "server sends, bytes", weight="bold")]
    parts += _legend(_LABELS, 64, (("certificates", _BLUE), ("the rest", _LIGHT), ("landmark updates", _AMBER)))
    parts += _axis(_LABELS, _BYTES, most, len(run.rows))
    for number, one in enumerate(run.rows):
        x, y = float(_LABELS), _middle(number) - _BAR / 2
        is_relative = one.row.kind is Kind.LANDMARK_RELATIVE
        rest = one.server_bytes - one.certificate_bytes
        for size, colour in ((one.certificate_bytes, _BLUE), (rest, _LIGHT), (updates if is_relative else 0.0, _AMBER)):
            parts.append(_bar(x, y, size * scale, _BAR, colour))
            x += size * scale
    x = _LABELS + window * scale
    bottom = _TOP + len(run.rows) * _ROW
    parts.append(f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}" stroke="{_RED}" stroke-dasharray="4 3"/>')
    parts.append(_text(x, _TOP - 6, f"initial window, {INITIAL_WINDOW} segments", anchor="end", colour=_RED))
    return parts


def _draw_times(run: Run, weathers: Sequence[Weather], left: int) -> list[str]:
    """Draw the times at one round trip: a bar for each weather from zero to the median, a line on to p90."""
    most = max(one.network[at].p90_ms for one in run.rows for at in weathers) * 1.05
    scale = _TIMES / most
    colours = (_GREEN, _AMBER, _RED, _GREY)
    parts = [_text(left, 48, f"time, ms, at {weathers[0].rtt_s * 1000:g} ms", weight="bold")]
    names = [(f"{at.loss * 100:g} % lost", colours[place % 4]) for place, at in enumerate(weathers)]
    parts += _legend(left, 64, names) + _axis(left, _TIMES, most, len(run.rows))
    thick = _BAR / len(weathers)
    for number, one in enumerate(run.rows):
        for place, at in enumerate(weathers):
            y = _middle(number) - _BAR / 2 + place * thick
            median, p90 = one.network[at].median_ms * scale, one.network[at].p90_ms * scale
            colour = colours[place % 4]
            parts.append(_bar(left, y, median, thick - 1, colour))
            middle = y + (thick - 1) / 2
            parts.append(
                f'<line x1="{left + median:.1f}" y1="{middle:.1f}" x2="{left + p90:.1f}" y2="{middle:.1f}" '
                f'stroke="{colour}" stroke-width="1.5"/>'
            )
    return parts


def _axis(left: int, width: int, most: float, rows: int) -> list[str]:
    """Draw the scale of a panel: lines at round values."""
    step = round_up(most / 5)
    bottom = _TOP + rows * _ROW
    parts = []
    for tick in range(int(most / step) + 1):
        x = left + tick * step / most * width
        parts.append(
            f'<line x1="{x:.1f}" y1="{_TOP}" x2="{x:.1f}" y2="{bottom}" stroke="{_GREY}" stroke-opacity="0.3"/>'
        )
        parts.append(_text(x, bottom + 16, f"{tick * step:,.0f}", anchor="middle"))
    return parts


def _legend(left: float, y: float, names: Sequence[tuple[str, str]]) -> list[str]:
    """Draw what colours mean, side by side."""
    parts = []
    for name, colour in names:
        parts.append(_text(left, y, f"■ {name}", colour=colour))
        # An estimate of the width of the letters.
        left += 7 * len(name) + 22
    return parts


def _bar(x: float, y: float, width: float, height: float, colour: str) -> str:
    """Draw a bar."""
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" fill="{colour}"/>'


def _text(  # noqa: PLR0913 - a place, words and how they look
    x: float, y: float, text: str, *, anchor: str = "start", weight: str = "normal", colour: str = "black"
) -> str:
    """Write words."""
    look = f'text-anchor="{anchor}" font-weight="{weight}" fill="{colour}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {look}>{escape(text)}</text>'
