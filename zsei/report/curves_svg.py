"""Curves over the epochs of a training run as a drawing: lines, phases as bands, and marks."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from markupsafe import Markup, escape

from zsei.report.text import number, short

WIDTH, HEIGHT = 760, 300
LEFT, RIGHT, TOP, BOTTOM = 84, 20, 26, 46
COLOURS, DASHES = 8, 3
"""Told apart by colour first, and by the pattern of the line after that."""
DOTS = 400
"""Points of a drawing up to which each has a dot with its number."""
Event = Literal["cut", "rollback", "refused", "fallback"]
Point = tuple[float, float | None]


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line; None is a gap, as what was not measured is no zero."""

    name: str
    points: tuple[Point, ...]
    """(epoch, value), epochs rising."""
    like: int | None = None
    """Number of the colour; None is the curve's own place. Seeds of one kind share one."""


@dataclass(frozen=True, kw_only=True)
class Band:
    """A phase of the run, first and last epoch included."""

    first: float
    last: float
    name: str


@dataclass(frozen=True, kw_only=True)
class Mark:
    """Something that happened at an epoch."""

    epoch: float
    kind: Event
    text: str


@dataclass(frozen=True, kw_only=True)
class Chart:
    """A drawing with its words."""

    title: str
    curves: tuple[Curve, ...]
    unit: str = ""
    """Title of the upward axis."""
    note: str = ""
    bands: tuple[Band, ...] = ()
    marks: tuple[Mark, ...] = ()
    logarithmic: bool = False
    """The upward axis shows powers of ten; values of 0 and below are gaps."""
    across: str = "epoch"

    @property
    def legend(self) -> tuple[tuple[str, str], ...]:
        """(class of the line, name) of each, a colour that several share once."""
        found: dict[str, str] = {}
        for at, curve in enumerate(self.curves):
            found.setdefault(style_of(at, curve), curve.name)
        return tuple(found.items())


def style_of(at: int, curve: Curve) -> str:
    """Classes of a line."""
    place = at if curve.like is None else curve.like
    return f"c{place % COLOURS} d{place // COLOURS % DASHES}"


def curves_svg(chart: Chart) -> Markup:
    """The drawing of a chart; one line of words where there is nothing to draw."""
    curves = [(style_of(i, c), c.name, _drawn(c, chart)) for i, c in enumerate(chart.curves)]
    told = [p for _, _, points in curves for p in points if p[1] is not None]
    if not told:
        return Markup('<p class="muted">Not measured.</p>')
    xs = [x for x, _ in told]
    ys = [y for _, y in told if y is not None]
    left, right = min(xs), max(xs)
    low, high = min(ys), max(ys)
    room = 0.06 * (high - low) or 0.5 * abs(high) or 1.0
    floor = low >= 0 and not chart.logarithmic
    scale = _Scale(
        left=left, right=right if right > left else left + 1,
        low=max(0.0, low - room) if floor else low - room, high=high + room,
    )  # fmt: skip
    parts = [_band(band, scale) for band in chart.bands]
    parts.append(_axes(chart, scale))
    dots = len(told) <= DOTS
    parts += [_line(style, name, points, scale, chart, dots) for style, name, points in curves]
    parts += [_mark(mark, scale) for mark in chart.marks if left <= mark.epoch <= right]
    names = ", ".join(short(curve.name, 40) for curve in chart.curves[:6])
    words = escape(f"{short(chart.title, 120)} over {short(chart.across, 40)}: {names}")
    return Markup(
        f'<svg class="curve run" width="{WIDTH}" height="{HEIGHT}" '
        f'viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{words}">{"".join(parts)}</svg>'
    )


@dataclass(frozen=True, kw_only=True)
class _Scale:
    left: float
    right: float
    low: float
    high: float

    def x(self, epoch: float) -> float:
        """Place across, held inside the axes."""
        share = (epoch - self.left) / (self.right - self.left)
        return LEFT + min(1.0, max(0.0, share)) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Place downwards; the largest stands at the top."""
        return TOP + (self.high - value) / (self.high - self.low) * (HEIGHT - TOP - BOTTOM)


def _drawn(curve: Curve, chart: Chart) -> list[Point]:
    """The points on the scale that is drawn; gaps stay."""
    points: list[Point] = []
    for x, y in curve.points:
        if y is None or not math.isfinite(y) or (chart.logarithmic and y <= 0):
            points.append((x, None))
        else:
            points.append((x, math.log10(y) if chart.logarithmic else y))
    return points


def _line(
    style: str, name: str, points: Sequence[Point], scale: _Scale, chart: Chart, dots: bool
) -> str:
    """One curve, broken where nothing was measured; a point between two gaps is a dot."""
    title = escape(short(name, 80))
    parts: list[str] = []
    piece: list[str] = []
    for x, y in [*points, (0.0, None)]:
        if y is not None:
            piece.append(f"{scale.x(x):.1f},{scale.y(y):.1f}")
            continue
        if len(piece) > 1:
            parts.append(f'<polyline points="{" ".join(piece)}"/>')
        elif piece:
            a, b = piece[0].split(",")
            parts.append(f'<circle cx="{a}" cy="{b}" r="2.5"/>')
        piece = []
    if dots:
        for x, y in points:
            if y is not None:
                value = 10**y if chart.logarithmic else y
                said = escape(f"{short(name, 80)}, {chart.across} {number(x)}: {number(value)}")
                parts.append(
                    f'<circle class="dot" cx="{scale.x(x):.1f}" cy="{scale.y(y):.1f}" r="3">'
                    f"<title>{said}</title></circle>"
                )
    return f'<g class="{style}"><title>{title}</title>{"".join(parts)}</g>'


def _band(band: Band, scale: _Scale) -> str:
    if band.last < scale.left or band.first > scale.right:
        return ""
    a, b = scale.x(band.first - 0.5), scale.x(band.last + 0.5)
    name = escape(short(band.name, 24))
    label = f'<text x="{(a + b) / 2:.1f}" y="{TOP - 10}" text-anchor="middle">{name}</text>'
    return (
        f'<rect class="band" x="{a:.1f}" y="{TOP}" width="{max(0.0, b - a):.1f}" '
        f'height="{HEIGHT - TOP - BOTTOM}"><title>{name}</title></rect>'
        + (label if b - a > 60 else "")
    )


_SHAPES = {
    "cut": "M0 -7L6 4H-6Z",
    "rollback": "M0 7L6 -4H-6Z",
    "refused": "M-5 -5L5 5M5 -5L-5 5",
    "fallback": "M-5 0H5M0 -5V5",
}
"""Marks differ in shape, not in colour alone."""


def _mark(mark: Mark, scale: _Scale) -> str:
    x = scale.x(mark.epoch)
    said = escape(f"{mark.kind} at epoch {number(mark.epoch)}: {short(mark.text, 160)}")
    return (
        f'<g class="mark {mark.kind}" transform="translate({x:.1f} {HEIGHT - BOTTOM})">'
        f'<path class="stem" d="M0 0V-{HEIGHT - TOP - BOTTOM}"/>'
        f'<path d="{_SHAPES[mark.kind]}"/><title>{said}</title></g>'
    )


def _axes(chart: Chart, scale: _Scale) -> str:
    parts = [f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>']
    for x in ticks(scale.left, scale.right):
        parts.append(
            f'<text x="{scale.x(x):.1f}" y="{HEIGHT - BOTTOM + 20}" text-anchor="middle">'
            f"{escape(number(x))}</text>"
        )
    for y in ticks(scale.low, scale.high):
        value = f"{10**y:.2g}" if chart.logarithmic else number(y)
        parts.append(
            f'<text x="{LEFT - 8}" y="{scale.y(y) + 4:.1f}" text-anchor="end">{escape(value)}'
            f'</text><path class="grid" d="M{LEFT} {scale.y(y):.1f}H{WIDTH - RIGHT}"/>'
        )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 6}" text-anchor="middle">'
        f"{escape(short(chart.across, 40))}</text>"
        f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">'
        f"{escape(short(chart.unit, 48))}</text>"
    )
    return "".join(parts)


def ticks(least: float, most: float) -> list[float]:
    """Up to seven round numbers in a range."""
    rough = (most - least) / 6
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= rough * (1 - 1e-9))
    first = math.ceil(least / step - 1e-9)
    count = math.floor(most / step + 1e-9) - first + 1
    return [round((first + i) * step, 12) for i in range(count)]
