"""How numbers and names are put into words."""

from collections.abc import Sequence

UNTOLD = "(could not be told)"
"""What a slot says where nothing could be measured."""


def value(number: float, unit: str) -> str:
    """A share in percent, a count whole, anything else with three significant digits."""
    if unit.startswith("share"):
        percent = 100 * number
        return f"{percent:.3g} %" if abs(percent) < 99.5 else f"{percent:.0f} %"
    if number == int(number) and abs(number) < 1e15:
        return f"{int(number):,}"
    return f"{number:.3g}"


def filled(number: float | None, unit: str) -> str:
    """What a slot says: the value, or that it could not be told."""
    return UNTOLD if number is None else value(number, unit)


def listed(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]])) if parts else "nothing"
