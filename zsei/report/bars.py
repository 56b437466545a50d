"""Small bars inside tables, as SVG without style attributes."""

from markupsafe import Markup

WIDTH = 90
HEIGHT = 9


def bar(value: float | None, largest: float, kind: str = "fill") -> Markup:
    """A bar whose full width is `largest`; empty for what could not be told."""
    share = 0.0 if value is None or largest <= 0 else min(1.0, max(0.0, value / largest))
    drawn = f'<rect class="{kind}" width="{share * WIDTH:.1f}" height="{HEIGHT}"/>'
    return Markup(
        f'<svg class="bar" width="{WIDTH}" height="{HEIGHT}" aria-hidden="true">'
        f'<rect class="track" width="{WIDTH}" height="{HEIGHT}"/>{drawn}</svg>'
    )


def bullet(value: float | None, limit: float | None, holds: bool | None) -> Markup:
    """A bound as a bar and its limit as a line across it; "" when either is not a number."""
    if value is None or limit is None:
        return Markup("")
    wide = 150
    largest = max(abs(value), abs(limit)) * 1.25
    scale = wide / largest if largest else 0.0
    kind = "good" if holds else "bad"
    return Markup(
        f'<svg class="bar" width="{wide}" height="15" aria-hidden="true">'
        f'<rect class="track" y="3" width="{wide}" height="{HEIGHT}"/>'
        f'<rect class="{kind}" y="3" width="{max(0.0, value) * scale:.1f}" height="{HEIGHT}"/>'
        f'<rect class="limit" x="{max(0.0, limit) * scale - 1:.1f}" width="2" height="15"/></svg>'
    )
