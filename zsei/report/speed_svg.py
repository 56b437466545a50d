"""Speed-ups with their intervals, one row each, as SVG without style attributes."""

from markupsafe import Markup, escape

from zsei.report.speed_rows import Row, row, rows
from zsei.report.text import short
from zsei.speed.record import SpeedRecord

_NAME, _WIDE, _ROW, _TOP = 330, 560, 26, 26
MOST = 40
"""Rows drawn."""


def speed_svg(record: SpeedRecord) -> Markup:
    """Median and interval of every speed-up, the whole last with the product beside it."""
    found = [r for r in rows(record) if r.speed is not None][:MOST]
    together = record.together
    product = None
    if together is not None and together.trial.speed_up is not None:
        found.append(row(together.trial))
        product = together.product if len(together.order) > 1 else None
    if not found:
        return Markup("")
    most = max(product or 0.0, *(r.speed.high for r in found if r.speed)) * 1.08
    scale = _WIDE / most
    height = _TOP + _ROW * len(found) + 6
    lines = [
        f'<svg class="curve speed" viewBox="0 0 {_NAME + _WIDE + 10} {height}" '
        f'width="{_NAME + _WIDE + 10}" height="{height}" role="img" '
        f'aria-label="Speed-ups with their intervals">'
    ]
    for tick in _ticks(most):
        x = _NAME + tick * scale
        kind = "one" if tick == 1 else "grid"
        lines.append(f'<line class="{kind}" x1="{x:.1f}" x2="{x:.1f}" y1="18" y2="{height}"/>')
        lines.append(f'<text x="{x:.1f}" y="12" text-anchor="middle">{tick:g}x</text>')
    for number, one in enumerate(found):
        whole = together is not None and number == len(found) - 1
        lines.append(_line(one, _TOP + _ROW * number + _ROW / 2, scale, whole))
        if whole and product is not None:
            x, y = _NAME + product * scale, _TOP + _ROW * number + _ROW / 2
            lines.append(
                f'<circle class="product" cx="{x:.1f}" cy="{y:.1f}" r="5">'
                f"<title>product of the single speed-ups, not measured: {product:.2f}</title>"
                f"</circle>"
            )
    return Markup("".join([*lines, "</svg>"]))


def _line(one: Row, y: float, scale: float, whole: bool) -> str:
    speed = one.speed
    assert speed is not None
    name = escape(short("together, measured" if whole else one.name, 46))
    low, high, at = (_NAME + v * scale for v in (speed.low, speed.high, speed.median))
    kind = one.outcome if one.outcome in ("accepted", "inconclusive") else "rejected"
    return (
        f'<g class="{kind}{" whole" if whole else ""}"><title>{escape(one.name)}: '
        f"{speed.median:.2f} ({speed.low:.2f} to {speed.high:.2f}), {one.outcome}</title>"
        f'<text x="{_NAME - 12}" y="{y + 4:.1f}" text-anchor="end">{name}</text>'
        f'<line class="spread" x1="{low:.1f}" x2="{high:.1f}" y1="{y:.1f}" y2="{y:.1f}"/>'
        f'<circle class="median" cx="{at:.1f}" cy="{y:.1f}" r="4"/></g>'
    )


def _ticks(most: float) -> list[float]:
    step = next(s for s in (0.5, 1, 2, 5, 10, 20, 50, 100, 1e9) if most / s <= 8)
    found = [step * i for i in range(int(most / step) + 1)]
    return found if 1 in found else sorted([*found, 1])
