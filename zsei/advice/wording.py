"""How numbers and names are put into words, so that a reader of words can find them again."""

import re
from collections.abc import Iterable, Sequence

from zsei.records import Measurement

_NAMED = 3


def stated(measurement: Measurement) -> str:
    """A measurement's name and value: `flops share 12 %`, `ablation effect 0.0123`."""
    name = measurement.name.replace("_", " ")
    if measurement.value is None:
        return f"{name} that could not be told"
    return f"{name} {value(measurement.value, measurement.unit)}"


def value(number: float, unit: str) -> str:
    """A share in percent, a count whole, anything else with three significant digits."""
    if unit.startswith("share"):
        percent = 100 * number
        return f"{percent:.3g} %" if abs(percent) < 99.5 else f"{percent:.0f} %"
    if number == int(number) and abs(number) < 1e15:
        return f"{int(number):,}"
    return f"{number:.3g}"


def component(name: str) -> str:
    """A component's id; in backticks where it could be taken for a number or a plain word."""
    return f"`{name}`" if re.fullmatch(r"[A-Za-z]+|[^A-Za-z]+", name) else name


def components(names: Sequence[str]) -> str:
    """The first few ids: `a, b, c and others`."""
    shown = [component(name) for name in names[:_NAMED]]
    if len(names) > _NAMED:
        return f"{', '.join(shown)} and others"
    return listed(shown)


def listed(parts: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]])) if parts else "nothing"


def numbers(measurements: Iterable[Measurement]) -> str:
    """Several measurements in a row."""
    return listed([stated(measurement) for measurement in measurements])
