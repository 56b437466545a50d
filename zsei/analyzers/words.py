"""How analyzers put numbers and names into a sentence."""

from collections.abc import Sequence


def percent(share: float) -> str:
    """A share as a percentage: `52 %`, `4.1 %`, `0.03 %`."""
    value = 100 * share
    if abs(value) >= 9.95:
        return f"{value:.0f} %"
    return f"{value:.1f} %" if abs(value) >= 0.1 or value == 0 else f"{value:.1g} %"


def number(value: float) -> str:
    """Three significant digits, without an exponent where it can be helped: `0.0123`, `1536`."""
    if value == int(value) and abs(value) < 1e6:
        return str(int(value))
    return f"{value:.3g}"


def listed(names: Sequence[str], most: int = 3) -> str:
    """`a, b, c and 4 more`."""
    if len(names) > most + 1:
        return f"{', '.join(names[:most])} and {len(names) - most} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]])) if names else "none"
