"""Drawings of a profile: the roofline with one dot per component, and memory along the program."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from zsei.profiling.record import OUTSIDE, Part, ProfileRecord
from zsei.report.curves_svg import ticks
from zsei.report.text import count, number, percent, seconds, short, size

WIDTH, HEIGHT = 760, 380
LEFT, RIGHT, TOP, BOTTOM = 92, 20, 18, 46
DOT = 20.0
"""Radius of a component that would take all of the time; areas are shares of its area."""
KINDS = ("attention", "mlp", "conv", "linear", "recurrent", "embedding", "norm")
"""Kinds with a colour of their own, in the order of the colours of curves; others share one."""
POINTS = 1500
"""Calls drawn of a timeline; of more, the highest of each stretch."""


@dataclass(frozen=True, kw_only=True)
class _Axes:
    """Ranges of both axes; of logarithms where a chart is logarithmic."""

    across: tuple[float, float]
    up: tuple[float, float]

    def x(self, value: float) -> float:
        """Place across."""
        low, high = self.across
        return LEFT + (value - low) / (high - low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """Place downwards."""
        low, high = self.up
        return TOP + (high - value) / (high - low) * (HEIGHT - TOP - BOTTOM)


def colour_of(kind: str) -> str:
    """Class of the colour of a kind."""
    return f"c{KINDS.index(kind) if kind in KINDS else 7}"


def roofline_svg(record: ProfileRecord) -> Markup:
    """Operations per second over operations per byte, both logarithmic, under the two ceilings.

    One dot per component that multiplies anything; its area is its share of the time.
    """
    roof = record.roof
    dots = [p for p in record.parts if p.intensity and p.flops_per_second and p.name != OUTSIDE]
    if not dots or not roof.peak or not roof.ridge:
        return Markup('<p class="muted">Could not be drawn: nothing to hold against a peak.</p>')
    intensities = [p.intensity for p in dots if p.intensity] + [roof.ridge]
    rates = [p.flops_per_second for p in dots if p.flops_per_second] + [roof.peak]
    left, right = _decades(min(intensities) / 2, max(intensities) * 2)
    low, high = _decades(min(rates) / 1.5, max(rates) * 1.5)
    axes = _Axes(across=(left, right), up=(low, high))
    parts = [_grid_log(axes)]
    start, ridge, top = left, math.log10(roof.ridge), math.log10(roof.peak)
    floor = math.log10(roof.bandwidth) + start
    if floor < low:
        start, floor = low - math.log10(roof.bandwidth), low
    parts.append(
        f'<path class="roof" d="M{axes.x(start):.1f} {axes.y(floor):.1f}'
        f'L{axes.x(ridge):.1f} {axes.y(top):.1f}H{WIDTH - RIGHT}"/>'
        f'<path class="ridge" d="M{axes.x(ridge):.1f} {axes.y(top):.1f}V{HEIGHT - BOTTOM}"/>'
        f'<text x="{WIDTH - RIGHT}" y="{axes.y(top) - 6:.1f}" text-anchor="end">'
        f"peak {escape(count(roof.peak))}FLOP/s ({escape(short(roof.dtype, 12))})</text>"
        f'<text x="{axes.x(ridge) + 5:.1f}" y="{HEIGHT - BOTTOM - 8}">'
        f"ridge {escape(number(round(roof.ridge, 2)))}</text>"
    )
    # Large ones first, so that small ones lie on top and can be pointed at.
    parts += [_dot(part, axes) for part in sorted(dots, key=lambda part: -part.share)]
    titles = _titles("operations per byte moved", "operations per second")
    words = f"Roofline: {len(dots)} components under a ridge of {number(round(roof.ridge, 2))}."
    return _svg("curve run roofline", words, [*parts, titles])


def _dot(part: Part, axes: _Axes) -> str:
    assert part.intensity
    assert part.flops_per_second
    radius = max(2.5, DOT * math.sqrt(part.share))
    reached = "" if part.roofline_share is None else f", {percent(part.roofline_share)} of its roof"
    said = escape(
        f"{short(part.name, 64)}: {seconds(part.seconds.median)} ({percent(part.share)}), "
        f"{count(part.flops_per_second)}FLOP/s{reached}, {part.bound}-bound"
    )
    x, y = axes.x(math.log10(part.intensity)), axes.y(math.log10(part.flops_per_second))
    return (
        f'<g class="{colour_of(part.kind)}"><circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}">'
        f"<title>{said}</title></circle></g>"
    )


def memory_svg(record: ProfileRecord) -> Markup:
    """Bytes alive after each call and bytes the allocator held during it, in program order."""
    calls = record.calls
    if not any(call.alive is not None for call in calls):
        return Markup('<p class="muted">Memory along the way could not be told.</p>')
    alive = [call.alive or 0 for call in calls]
    held = [call.held for call in calls]
    highest = max([1, *alive, *(h for h in held if h is not None)])
    scale = 1024.0 ** int(math.log(highest, 1024))
    axes = _Axes(across=(0.0, float(max(1, len(calls) - 1))), up=(0.0, 1.08 * highest / scale))
    parts = [_grid(axes, size(scale).removeprefix("1 "))]
    parts.append(_steps([v / scale for v in alive], axes, "alive"))
    if all(h is not None for h in held):
        parts.append(_steps([(h or 0) / scale for h in held], axes, "held"))
    tops = [a if h is None else h for a, h in zip(alive, held, strict=True)]
    top = max(range(len(calls)), key=lambda i: tops[i])
    most = tops[top]
    x, y = axes.x(top), axes.y(most / scale)
    anchor, gap = ("end", -9) if x > WIDTH / 2 else ("start", 9)
    said = escape(f"{size(most)} at {short(calls[top].name, 30)}")
    parts.append(
        f'<circle class="peak" cx="{x:.1f}" cy="{y:.1f}" r="5"><title>{said} of '
        f"{escape(short(calls[top].component, 64))}</title></circle>"
        f'<text class="peak" x="{x + gap:.1f}" y="{y + 4:.1f}" text-anchor="{anchor}">{said}</text>'
    )
    words = f"Memory along {len(calls)} calls: at most {size(most)}."
    titles = _titles("calls, in program order", f"memory in {size(scale).removeprefix('1 ')}")
    return _svg("curve run timeline", words, [*parts, titles])


def _steps(values: Sequence[float], axes: _Axes, name: str) -> str:
    """A line through all values; of very many, the highest of each stretch."""
    stride = -(-len(values) // POINTS)
    kept = [
        max(range(i, min(i + stride, len(values))), key=lambda j: values[j])
        for i in range(0, len(values), stride)
    ]
    line = " ".join(f"{axes.x(i):.1f},{axes.y(values[i]):.1f}" for i in kept)
    return f'<polyline class="{name}" points="{line}"/>'


def _decades(low: float, high: float) -> tuple[float, float]:
    """Logarithms of a range, at least one power of ten wide."""
    bottom, top = math.log10(low), math.log10(high)
    room = max(0.0, 1.0 - (top - bottom)) / 2
    return bottom - room, top + room


def _grid_log(axes: _Axes) -> str:
    parts = [_frame()]
    for power in _powers(*axes.across):
        x = axes.x(power)
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
            f'{escape(f"{10**power:g}")}</text><path class="grid" d="M{x:.1f} {TOP}V'
            f'{HEIGHT - BOTTOM}"/>'
        )
    for power in _powers(*axes.up):
        y = axes.y(power)
        parts.append(
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">'
            f'{escape(count(10.0**power))}</text><path class="grid" d="M{LEFT} {y:.1f}H'
            f'{WIDTH - RIGHT}"/>'
        )
    return "".join(parts)


def _powers(low: float, high: float) -> list[float]:
    """Logarithms of the powers of ten in a range; of 1, 2 and 5 times them where it is short."""
    factors = (1,) if high - low > 2.5 else (1, 2, 5)
    found = [
        math.log10(factor) + power
        for power in range(math.floor(low), math.ceil(high) + 1)
        for factor in factors
    ]
    return [power for power in found if low <= power <= high]


def _grid(axes: _Axes, unit: str) -> str:
    parts = [_frame()]
    for value in ticks(*axes.across):
        if value == int(value):
            parts.append(
                f'<text x="{axes.x(value):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
                f"{escape(number(value))}</text>"
            )
    for value in ticks(*axes.up):
        y = axes.y(value)
        parts.append(
            f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{escape(number(value))} '
            f'{escape(unit)}</text><path class="grid" d="M{LEFT} {y:.1f}H{WIDTH - RIGHT}"/>'
        )
    return "".join(parts)


def _frame() -> str:
    return f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>'


def _titles(across: str, up: str) -> str:
    middle = (TOP + HEIGHT - BOTTOM) / 2
    return (
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
        f'{escape(across)}</text><text transform="translate(14 {middle}) rotate(-90)" '
        f'text-anchor="middle">{escape(up)}</text>'
    )


def _svg(kind: str, words: str, parts: Sequence[str]) -> Markup:
    return Markup(
        f'<svg class="{kind}" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{escape(words)}">{"".join(parts)}</svg>'
    )
