"""The trade-off curve as a drawing: what is left against what is lost, with the limit."""

from dataclasses import dataclass

from markupsafe import Markup, escape

from zsei.pruning.records import Point, PruneRecord
from zsei.report.pruning import labelled, limit_of, mark
from zsei.report.text import number, percent

WIDTH, HEIGHT = 760, 380
LEFT, RIGHT, TOP, BOTTOM = 84, 20, 16, 46
BEYOND = 4.0
"""A limit that lies over so many times the largest loss is not drawn, but said."""


@dataclass(frozen=True, kw_only=True)
class _Scale:
    """Where shares and losses lie on the drawing."""

    across: tuple[float, float]
    """Least and most share."""
    up: tuple[float, float]
    """Least and most loss."""

    def x(self, share: float) -> float:
        """The largest model stands at the left."""
        least, most = self.across
        return LEFT + (most - share) / (most - least) * (WIDTH - LEFT - RIGHT)

    def y(self, loss: float) -> float:
        """The largest loss stands at the top."""
        bottom, top = self.up
        return TOP + (top - loss) / (top - bottom) * (HEIGHT - TOP - BOTTOM)


def curve_svg(record: PruneRecord) -> Markup:
    """Loss over the share of parameters, operations and time that is left; largest model left."""
    limit = limit_of(record)
    losses = [point.drop for point in record.points]
    highest = max([0.0, *losses])
    drawn = limit <= BEYOND * highest or highest <= 0
    top = 1.1 * (max(highest, limit) if drawn else highest) or 1.0
    bottom = min([0.0, *losses])
    shares = [share for point in record.points for share in (point.parameters, point.flops)]
    # A time whose interval holds 1 says nothing, and would only stretch the axis.
    clear = {k: r for k, (r, low, high) in record.latency.items() if not low < 1 < high}
    shares += clear.values()
    most, least = max([1.0, *shares]), min([0.98, *shares])
    least = max(0.0, least - 0.04 * (most - least))
    scale = _Scale(across=(least, most), up=(bottom, top))
    x, y = scale.x, scale.y
    parts = [_axes(record, scale)]
    if drawn:
        parts.append(
            f'<line class="limit" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(limit):.1f}" '
            f'y2="{y(limit):.1f}"/><text class="limit" x="{WIDTH - RIGHT}" '
            f'y="{y(limit) - 5:.1f}" text-anchor="end">limit {escape(number(limit))}</text>'
        )
    ordered = sorted(record.points, key=lambda point: point.number)
    for name in ("flops", "parameters"):
        places = [(x(getattr(p, name)), y(p.drop), p) for p in ordered]
        line = " ".join(f"{a:.1f},{b:.1f}" for a, b, _ in places)
        parts.append(f'<polyline class="{name}" points="{line}"/>')
        parts += [_dot(record, name, a, b, p) for a, b, p in places]
    timed = {str(p.number): p for p in ordered}
    for key, ratio in sorted(clear.items()):
        if key in timed:
            a, b = x(ratio), y(timed[key].drop)
            parts.append(
                f'<rect class="time" x="{a - 4:.1f}" y="{b - 4:.1f}" width="8" height="8">'
                f"<title>step {escape(key)}: {ratio:.2f} of the time</title></rect>"
            )
    words = f"Loss against what is left, for {len(record.points)} sizes of the model."
    return Markup(
        f'<svg class="curve" width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'role="img" aria-label="{words}">{"".join(parts)}</svg>'
    )


def _dot(record: PruneRecord, series: str, x: float, y: float, point: Point) -> str:
    """One point; the accepted one is ringed."""
    outcome = mark(record, point)
    share = percent(getattr(point, series))
    name = "parameters" if series == "parameters" else "operations"
    said = escape(
        f"step {point.number}: {share} of the {name}, loss {number(point.drop)}"
        + (f"; {outcome}" if outcome else "")
    )
    ring = ""
    if outcome and series == "parameters":
        kind = "accepted" if point.number == record.accepted else "tried"
        ring = f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="9"/>'
    return (
        f'{ring}<circle class="{series}" cx="{x:.1f}" cy="{y:.1f}" r="4"><title>{said}</title>'
        f"</circle>"
    )


def _axes(record: PruneRecord, scale: _Scale) -> str:
    """Both axes with ticks and titles."""
    x, y = scale.x, scale.y
    parts = [f'<path class="axis" d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>']
    for share in _ticks(*scale.across):
        parts.append(
            f'<text x="{x(share):.1f}" y="{HEIGHT - BOTTOM + 18}" text-anchor="middle">'
            f'{share:.0%}</text><path class="grid" d="M{x(share):.1f} {TOP}V{HEIGHT - BOTTOM}"/>'
        )
    for loss in _ticks(*scale.up):
        parts.append(
            f'<text x="{LEFT - 8}" y="{y(loss) + 4:.1f}" text-anchor="end">'
            f"{escape(number(loss))}</text>"
            f'<path class="grid" d="M{LEFT} {y(loss):.1f}H{WIDTH - RIGHT}"/>'
        )
    what = "drop of the score" if labelled(record) else f"mean divergence ({record.metric})"
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2}" y="{HEIGHT - 8}" text-anchor="middle">'
        f"share that is left</text>"
        f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">'
        f"{escape(what)}</text>"
    )
    return "".join(parts)


def _ticks(least: float, most: float) -> list[float]:
    """Four to eight round numbers in a range."""
    for exponent in range(-12, 4):
        for factor in (1, 2, 5):
            step = factor * 10.0**exponent
            if (most - least) / step <= 7:
                first = -(-least // step)
                count = int((most - first * step) / step + 1e-9) + 1
                return [round((first + i) * step, 12) for i in range(count)]
    return [least, most]
