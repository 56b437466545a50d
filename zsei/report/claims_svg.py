"""The measured value as a bar against what was claimed, as SVG without style attributes."""

from markupsafe import Markup

from zsei.claims.record import Outcome

WIDTH = 300
HEIGHT = 22
_KINDS = {"held": "good", "not held": "bad"}


def claim_bar(outcome: Outcome) -> Markup:
    """Measured value as a bar, its interval as a whisker, the claimed range as a band behind it.

    The scale is linear from 0 to a little beyond the largest of them; "" where nothing was
    measured. A claim without an upper end is a band that goes on to the right; one without a lower
    end begins at 0.
    """
    if outcome.value is None:
        return Markup("")
    low, high = outcome.at_least, outcome.at_most
    interval = outcome.interval
    ends = [abs(outcome.value), low or 0.0, high or 0.0, interval.high if interval else 0.0]
    scale = WIDTH / (max(ends) * 1.12 or 1.0)

    def place(value: float) -> float:
        return min(max(0.0, value) * scale, float(WIDTH))

    parts = [f'<rect class="track" y="6" width="{WIDTH}" height="10"/>']
    if low is not None or high is not None:
        begin, end = place(low or 0.0), WIDTH if high is None else place(high)
        parts.append(
            f'<rect class="band" x="{begin:.1f}" width="{max(end - begin, 1.5):.1f}" '
            f'height="{HEIGHT}"/>'
        )
    kind = _KINDS.get(outcome.verdict, "open")
    parts.append(
        f'<rect class="{kind}" y="6" width="{place(outcome.value):.1f}" height="10"/>'
    )  # fmt: skip
    if interval is not None:
        begin, end = place(interval.low), place(interval.high)
        parts.append(
            f'<path class="whisker" d="M{begin:.1f} 11H{end:.1f}M{begin:.1f} 7v8M{end:.1f} 7v8"/>'
        )
    for limit in (low, high):
        if limit is not None:
            parts.append(
                f'<rect class="limit" x="{max(place(limit) - 1, 0):.1f}" width="2" '
                f'height="{HEIGHT}"/>'
            )
    return Markup(
        f'<svg class="bar claim" width="{WIDTH}" height="{HEIGHT}" aria-hidden="true">'
        f"{''.join(parts)}</svg>"
    )
