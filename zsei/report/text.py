"""Text and numbers as people read them: cleaned, clipped, with the unit and the spread.

Names of models and components and the words of a language model are foreign: they may hold
terminal codes, characters that turn the reading direction round, or ten thousand letters. Every
view of a record passes them through `clean`; escaping for its own markup is each view's own duty.
"""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from math import floor, log10

from pydantic import JsonValue

from zsei.records import Measurement

_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f"
    "\u2028-\u202e\u2060-\u206f\ud800-\udfff\ufe00-\ufe0f\ufeff\uffa0\ufff0-\uffff"
    "\U000e0000-\U000e0fff]"
)
"""Controls, invisible characters, direction marks and lone surrogates; not newline and tab."""

MAX_MARKS = 4
"""Combining marks kept on one letter; more than any script needs are only meant to deface."""


def _no_towers(text: str) -> str:
    """Drop the combining marks beyond `MAX_MARKS` on one letter."""
    kept: list[str] = []
    marks = 0
    for character in text:
        marks = marks + 1 if unicodedata.combining(character) else 0
        if marks <= MAX_MARKS:
            kept.append(character)
    return "".join(kept)


def clean(text: str, limit: int = 4000) -> str:
    r"""Foreign text made harmless to read: unsafe characters spelled out, the rest clipped.

    A direction override becomes the six letters `\u202e`, so that a reader sees what was there.
    Text over `limit` characters is cut, and says how many are missing.
    """
    cut = len(text) - limit
    if cut > 0:
        text = text[:limit]
    text = text.replace("\r\n", "\n")
    text = _UNSAFE.sub(lambda match: f"\\u{ord(match.group()):04x}", text)
    if not text.isascii():
        text = _no_towers(text)
    return f"{text} … ({cut:,} more characters)" if cut > 0 else text


def one_line(text: str, limit: int = 200) -> str:
    """`clean`, with line breaks and tabs as spaces."""
    return " ".join(clean(text, limit).split())


def settings(params: Mapping[str, JsonValue]) -> str:
    """The parameters of an edit, long lists as their lengths."""
    return one_line(", ".join(f"{k} {_told(v)}" for k, v in sorted(params.items())), 400)


def _told(value: JsonValue) -> str:
    if isinstance(value, list) and any(isinstance(item, list) for item in value):
        counts = [str(len(item)) if isinstance(item, list) else "1" for item in value]
        return " + ".join(counts[:12]) + (" + …" if len(counts) > 12 else "")
    if isinstance(value, list) and len(value) > 8:
        return f"{len(value)} of them"
    if isinstance(value, float):
        return number(value)
    return json.dumps(value, ensure_ascii=False)


def brief(text: str, limit: int) -> str:
    """`one_line`, cut at a word with an ellipsis where it is too long."""
    whole = one_line(text, 20_000)
    return whole if len(whole) <= limit else whole[:limit].rsplit(" ", 1)[0] + " …"


def plural(noun: str) -> str:
    """An English noun in the plural."""
    return f"{noun}es" if noun.endswith(("s", "x", "ch", "sh")) else f"{noun}s"


def short(text: str, limit: int = 60) -> str:
    """A name within `limit` characters: the middle goes, since both ends tell names apart."""
    text = " ".join(clean(text, 100_000 if len(text) <= 100_000 else limit).split())
    if len(text) <= limit:
        return text
    tail = limit * 2 // 3
    return f"{text[: limit - tail - 1]}…{text[-tail:]}"


def number(value: float | int | None) -> str:
    """A number with four significant digits, grouped thousands, and no noise.

    Whole numbers are exact; small ones are written `1.2e-5`; None is an en dash.
    """
    if value is None:
        return "–"
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    size = abs(value)
    if size >= 1e9 or size < 1e-4:
        return _scientific(value)
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def aligned(values: Sequence[float | None]) -> list[str]:
    """A column of numbers with one number of decimals, so that the digits stand in line.

    The largest has four significant digits. A value too small to show that way is written
    `1.2e-5` rather than as a zero; so is the whole column where all are that small.
    """
    sizes = [abs(v) for v in values if v]
    if not sizes or all(v is None or float(v).is_integer() for v in values):
        return [number(v) for v in values]
    largest = max(sizes)
    if largest < 1e-3 or largest >= 1e9:
        return ["–" if v is None else "0" if v == 0 else _scientific(v) for v in values]
    decimals = max(0, 3 - floor(log10(largest)))
    visible = 0.5 * 10.0**-decimals
    return [
        "–" if v is None
        else _scientific(v) if v and abs(v) < visible
        else f"{v:,.{decimals}f}"
        for v in values
    ]  # fmt: skip


def _scientific(value: float) -> str:
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa}e{int(exponent)}"


def _scaled(value: float, base: float, units: tuple[str, ...]) -> str:
    """The value in the largest unit that keeps it above one."""
    size, index = abs(value), 0
    while size >= base and index < len(units) - 1:
        size, index = size / base, index + 1
    scaled = value / base**index
    digits = f"{scaled:.0f}" if index == 0 or abs(scaled) >= 100 else f"{scaled:.3g}"
    return f"{digits} {units[index]}".rstrip()


def count(value: float) -> str:
    """A count in short: `22.7 M`."""
    return _scaled(value, 1000.0, ("", "k", "M", "G", "T", "P"))


def size(value: float) -> str:
    """Bytes in short: `1.5 MiB`."""
    return _scaled(value, 1024.0, ("B", "KiB", "MiB", "GiB", "TiB"))


def seconds(value: float) -> str:
    """A duration in short: `12.3 ms`, `4.56 s`, `3 min 5 s`."""
    if value >= 120:
        whole = round(value)
        return f"{whole // 60} min {whole % 60} s"
    for scale, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if abs(value) >= scale:
            return f"{value / scale:.3g} {unit}"
    return "0 s" if value == 0 else f"{value:.2g} s"


def percent(value: float) -> str:
    """A share as a percentage with one decimal; a share too small for it as it is."""
    if value and abs(value) < 0.0005:
        return f"{number(100 * value)} %"
    return f"{100 * value:.1f} %"


def correlation(value: float | None) -> str:
    """A correlation with two decimals: more would claim more than a sample of dozens can tell."""
    return "–" if value is None else f"{value:.2f}"


def amount(value: float | int | None, unit: str) -> str:
    """A number with its unit; bytes, seconds, operations and shares scaled to read well."""
    if value is None:
        return "could not tell"
    first, _, rest = unit.partition(" ")
    rest = f" {one_line(rest, 40)}" if rest else ""
    if first in ("bytes", "B"):
        return size(value) + rest
    if first in ("s", "seconds"):
        return seconds(value) + rest
    if first in ("operations", "FLOPs") and abs(value) >= 1000:
        return f"{count(value)}FLOP{rest}"
    if unit == "share":
        return percent(value)
    if unit == "count":
        return number(value)
    if not unit:
        return number(value)
    # A unit that is more than a word ("1 - cos") would run into the number.
    return (
        f"{number(value)} {unit}" if unit.isalpha() else f"{number(value)} ({one_line(unit, 40)})"
    )


def measured(measurement: Measurement) -> str:
    """The value of a measurement with its unit, or that it could not be told."""
    if measurement.state != "measured":
        return "could not tell"
    return amount(measurement.value, measurement.unit)


def spread(measurement: Measurement) -> str:
    """Spread and number of inputs: `± 0.003, n = 32`; counted numbers have neither."""
    parts: list[str] = []
    if measurement.std is not None:
        parts.append(f"± {number(measurement.std)}")
    parts.append(f"n = {measurement.n:,}" if measurement.n else "counted")
    return ", ".join(parts)


def describe(measurement: Measurement) -> str:
    """All a measurement says, in one line: what a tooltip shows."""
    text = f"{one_line(measurement.name, 80)} = {measured(measurement)} ({spread(measurement)})"
    return f"{text}; {one_line(measurement.note, 300)}" if measurement.note else text
