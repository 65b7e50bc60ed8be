"""An outcome as an SVG picture: kinds of handshakes, staleness and the traffic of the service over time.

Three panels one above the other, with a shared axis of days. It is written as text: the same outcome gives the same
bytes, and three curves need no library for plots.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from mtc.simulate.outcome import Outcome

WIDTH, PANEL_HEIGHT, GAP = 860, 180, 50
LEFT, RIGHT, TOP = 70, 20, 60
_GREEN, _AMBER, _RED, _BLUE, _GREY = "#3a8f5c", "#e0a030", "#c0392b", "#2f6db5", "#666666"


@dataclass(frozen=True, slots=True)
class Curve:
    """One curve of a panel. is_area: filled down to the axis; later curves of a panel lie over earlier ones."""

    label: str
    colour: str
    values: Sequence[float]
    is_area: bool = False


@dataclass(frozen=True, slots=True)
class Panel:
    """Curves on one scale from `low` to `high`; values outside stand at the edge."""

    title: str
    curves: tuple[Curve, ...]
    low: float
    high: float


def draw_outcome(outcome: Outcome) -> str:
    """Return the picture, an SVG document."""
    panels = panels_of(outcome)
    height = TOP + len(panels) * (PANEL_HEIGHT + GAP)
    title = f"{outcome.clients:,} clients, {outcome.cas:,} CAs, {outcome.days:g} days"
    style = 'font-family="sans-serif" font-size="12"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" {style}>',
        f'<rect width="{WIDTH}" height="{height}" fill="white"/>',
        f'<text x="{LEFT}" y="24" font-size="16">Landmarks on their way to relying parties: {escape(title)}</text>',
    ]
    for number, panel in enumerate(panels):
        parts += _draw_panel(panel, TOP + number * (PANEL_HEIGHT + GAP), outcome.days)
    return "\n".join([*parts, "</svg>", ""])


def panels_of(outcome: Outcome) -> tuple[Panel, ...]:
    """Return what is drawn."""
    series = outcome.series
    landmark = [one.shares.landmark_relative * 100 for one in series]
    both = [100 - one.shares.fallback * 100 for one in series]
    # The interesting part is usually the last few per cent, so that the scale begins at the ten below the curve.
    low = max(0.0, 10 * ((min(landmark, default=0.0) - 1e-9) // 10))
    hours = [
        [(one.staleness_p50_s or 0.0) / 3600 for one in series],
        [(one.staleness_p99_s or 0.0) / 3600 for one in series],
    ]
    gigabits = [one.egress_bits_per_s / 1e9 for one in series]
    return (
        Panel(
            "handshakes, %",
            (
                Curve("fall back to a classical chain", _RED, [100.0] * len(series), is_area=True),
                Curve("standalone", _AMBER, both, is_area=True),
                Curve("landmark-relative", _GREEN, landmark, is_area=True),
            ),
            low,
            100.0,
        ),
        Panel(
            "staleness at handshakes, hours",
            (Curve("99 %", _AMBER, hours[1]), Curve("median", _BLUE, hours[0])),
            0.0,
            round_up(max(hours[1], default=1.0)),
        ),
        Panel(
            "egress of the update service, Gbit/s",
            (Curve("mean of each interval", _BLUE, gigabits, is_area=True),),
            0.0,
            round_up(max(gigabits, default=1.0)),
        ),
    )


def round_up(value: float) -> float:
    """Return the smallest of 1, 2, 5, 10, … (or their tenths, and so on) that is not below a positive value."""
    if value <= 0:
        return 1.0
    unit = 1.0
    while unit > value:
        unit /= 10
    while unit * 10 < value:
        unit *= 10
    return next(unit * factor for factor in (1, 2, 5, 10) if unit * factor >= value)


def _draw_panel(panel: Panel, top: int, days: float) -> list[str]:
    """Return the elements of one panel."""
    right, bottom = WIDTH - RIGHT, top + PANEL_HEIGHT
    parts = [f'<text x="{LEFT}" y="{top - 8}" font-weight="bold">{escape(panel.title)}</text>']
    for curve in panel.curves:
        points = " ".join(_points(curve.values, panel, top))
        if curve.is_area:
            corners = f"{LEFT},{bottom} {points} {right},{bottom}"
            parts.append(f'<polygon points="{corners}" fill="{curve.colour}"/>')
        else:
            parts.append(f'<polyline points="{points}" fill="none" stroke="{curve.colour}" stroke-width="1.5"/>')
    for tick in range(5):
        value = panel.low + (panel.high - panel.low) * tick / 4
        y = bottom - PANEL_HEIGHT * tick / 4
        parts.append(f'<line x1="{LEFT}" y1="{y:g}" x2="{right}" y2="{y:g}" stroke="{_GREY}" stroke-opacity="0.3"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:g}" text-anchor="end">{value:g}</text>')
    for tick in range(7):
        x = LEFT + (right - LEFT) * tick / 6
        label = f"{days * tick / 6:.3g}" + (" days" if tick == 6 else "")
        parts.append(f'<text x="{x:g}" y="{bottom + 16}" text-anchor="{_anchor(tick)}">{label}</text>')
    x = right
    for curve in panel.curves:
        # From the right, an estimate of the width of its letters.
        parts.append(
            f'<text x="{x}" y="{top - 8}" text-anchor="end" fill="{curve.colour}">■ {escape(curve.label)}</text>'
        )
        x -= 8 * len(curve.label) + 24
    return parts


def _anchor(tick: int) -> str:
    """Return on which side of its mark a label of the axis stands, so that none leaves the picture."""
    return "end" if tick == 6 else "middle"


def _points(values: Sequence[float], panel: Panel, top: int) -> list[str]:
    """Return the corners of a curve; one value is a level line."""
    if len(values) == 1:
        values = [values[0], values[0]]
    places = []
    for number, value in enumerate(values):
        x = LEFT + (WIDTH - LEFT - RIGHT) * number / (len(values) - 1)
        part = (min(max(value, panel.low), panel.high) - panel.low) / (panel.high - panel.low)
        places.append(f"{x:.1f},{top + PANEL_HEIGHT * (1 - part):.1f}")
    return places
