"""Days and ages in a question, as spans of time that the moment of an analysis lies in or not.

What day it is comes in as an argument: the same question on the same day is the same plan.
"""

import re
from datetime import date, timedelta

from zsei.memory.remaining import Remaining
from zsei.memory.words import NUMBERS

Span = tuple[str, str]
"""First moment and the first moment after, as the beginning of ISO 8601 text; "" is open."""

_MONTHS = (
    "january", "february", "march", "april", "may", "june", "july", "august", "september",
    "october", "november", "december",
)  # fmt: skip
_MONTH = r"(?P<month>" + "|".join(f"{m[:3]}(?:{m[3:]})?" for m in _MONTHS) + r"|sept)\.?"
_DAY = r"(?P<day>\d{1,2})(?:st|nd|rd|th)?"
_YEAR = r"(?P<year>(?:19|20)\d\d)"
_COUNT = rf"(?P<count>\d+|{'|'.join(NUMBERS)})"
_FORMS = (
    r"(?P<iso>(?:19|20)\d\d-\d\d(?:-\d\d)?)",
    rf"(?:the\s+)?(?P<nth>first|second|third|fourth)\s+week\s+(?:of|in)\s+{_MONTH}"
    rf"(?:,?\s+{_YEAR})?",
    rf"(?:the\s+)?{_DAY}\s+(?:of\s+)?{_MONTH}(?:,?\s+(?:of\s+)?{_YEAR})?",
    rf"{_MONTH}\s+(?:the\s+)?{_DAY}(?!\d)(?:,?\s+{_YEAR})?",
    rf"(?P<when>last|this|early|late)?\s*{_MONTH}(?:,?\s+(?:of\s+)?{_YEAR})?",
    r"(?P<told>today|yesterday)",
    r"(?P<this>this|last|previous|past)\s+(?P<unit>week|month|year)",
    rf"(?:the\s+)?(?:last|past)\s+{_COUNT}\s+(?P<back>days?|weeks?|months?)",
    rf"{_COUNT}\s+(?P<ago>days?|weeks?|months?)\s+ago",
)
_BEFORE = r"before|until|till|up to|prior to|earlier than|older than"
_AFTER = r"after|since|later than|newer than|starting"
_LEAD = rf"(?:(?P<lead>{_BEFORE}|{_AFTER}|in|on|from|during|of|at|within|for)\s+)"
_BARE_YEAR = re.compile(rf"\b(?P<lead>in|from|during|{_BEFORE}|{_AFTER})\s+{_YEAR}\b(?!-)")
_DATE = tuple(re.compile(rf"\b{_LEAD}?{form}\b") for form in _FORMS)
_AMBIGUOUS = ("may", "mar", "dec", "sep", "jan", "jun", "jul", "apr", "aug", "oct", "nov", "feb")
"""Words that are months only beside a preposition, a day or a year."""


def spans(text: Remaining, today: date) -> tuple[Span, ...]:
    """Spans of time named in a question, in the order in which they stand; they are taken out."""
    found: list[tuple[int, Span, int]] = []
    for pattern in (*_DATE, _BARE_YEAR):
        for match in list(pattern.finditer(text.rest)):
            span = _span(match, today)
            if span is None:
                continue
            text.blank(match)
            found.append((match.start(), _led(match, span), match.end()))
    return tuple(dict.fromkeys(_joined(sorted(found), text)))


def _joined(found: list[tuple[int, Span, int]], text: Remaining) -> list[Span]:
    """One span of "between ... and ..." and "from ... to ..."; all others stand alone."""
    if len(found) == 2:
        (start, first, end), (after, last, _) = found
        leading, between = text.rest[:start], text.rest[end:after]
        if re.search(r"\bbetween\s*$", leading) or re.search(r"^\s*(?:to|through)\s*$", between):
            text.rest = re.sub(r"\bbetween\s*$", " ", leading) + " " + text.rest[start:]
            return [(first[0], last[1])]
    return [span for _, span, _ in found]


def contains(span: Span, moment: str) -> bool:
    """Whether a moment in ISO 8601 lies inside; nobody knows when "" was, so it lies in none."""
    first, after = span
    return bool(moment) and moment >= first and (not after or moment < after)


def told(span: Span) -> str:
    """A span in words, for an answer that says what was not found."""
    first, after = span
    if first == after:
        return first
    if first and after:
        last = date.fromisoformat(after) - timedelta(days=1) if len(after) == 10 else after
        return f"{first} to {last}" if str(last) != first else first
    return f"since {first}" if first else f"before {after}"


def _led(match: re.Match[str], span: Span) -> Span:
    """What "before" and "since" make of a span."""
    lead = _given(match, "lead")
    first, after = span
    if re.fullmatch(r"until|till|up to", lead):
        return ("", after)
    if re.fullmatch(_BEFORE, lead):
        return ("", first)
    if re.fullmatch(r"after|later than|newer than", lead):
        return (after, "")
    return (first, "") if re.fullmatch(_AFTER, lead) else span


def _given(match: re.Match[str], name: str) -> str:
    return match.groupdict().get(name) or ""


def _span(match: re.Match[str], today: date) -> Span | None:
    """The days that one form names; None where they are no days."""
    try:
        if iso := _given(match, "iso"):
            year, month, *day = (int(part) for part in iso.split("-"))
            return _days(date(year, month, day[0])) if day else _month(year, month)
        if _given(match, "month"):
            return _in_month(match, today)
        if year := _given(match, "year"):
            return (f"{year}-01-01", f"{int(year) + 1}-01-01")
    except ValueError:  # the 31st of February
        return None
    return _relative(match, today)


def _in_month(match: re.Match[str], today: date) -> Span | None:
    written = _given(match, "month")
    day, year = _given(match, "day"), _given(match, "year")
    bare = not (day or year or any(_given(match, part) for part in ("nth", "lead", "when")))
    if bare and written in _AMBIGUOUS:
        return None
    month = 1 + next(place for place, name in enumerate(_MONTHS) if name.startswith(written[:3]))
    if not year:  # the latest one that has begun
        begun = (month, int(day) if day else 1) <= (today.month, today.day)
        year = str(today.year if begun else today.year - 1)
    if nth := _given(match, "nth"):
        first = date(int(year), month, 1 + 7 * ("first", "second", "third", "fourth").index(nth))
        return (first.isoformat(), (first + timedelta(days=7)).isoformat())
    if not day:
        return _month(int(year), month)
    try:
        return _days(date(int(year), month, int(day)))
    except ValueError:  # the 31st of February: named, and nothing lies in it
        never = f"{year}-{month:02d}-{day}"
        return (never, never)


def _relative(match: re.Match[str], today: date) -> Span | None:
    if named := _given(match, "told"):
        return _days(today - timedelta(days=named == "yesterday"))
    if unit := _given(match, "unit"):
        return _unit(unit, back=_given(match, "this") != "this", today=today)
    count = _given(match, "count")
    number = NUMBERS[count] if count in NUMBERS else int(count)
    if back := _given(match, "back"):
        first = today - timedelta(days=number * _length(back))
        return (first.isoformat(), _days(today)[1])
    return _days(today - timedelta(days=number * _length(_given(match, "ago"))))


def _length(unit: str) -> int:
    lengths: dict[str, int] = {"day": 1, "week": 7, "month": 30}
    return lengths[unit.removesuffix("s")]


def _unit(unit: str, *, back: bool, today: date) -> Span:
    """This or the last calendar week (from Monday), month or year."""
    if unit == "year":
        year = today.year - back
        return (f"{year}-01-01", f"{year + 1}-01-01")
    if unit == "month":
        first = today.replace(day=1)
        first = (first - timedelta(days=1)).replace(day=1) if back else first
        return _month(first.year, first.month)
    monday = today - timedelta(days=today.weekday() + 7 * back)
    return (monday.isoformat(), (monday + timedelta(days=7)).isoformat())


def _month(year: int, month: int) -> Span:
    following = date(year + month // 12, month % 12 + 1, 1)
    return (date(year, month, 1).isoformat(), following.isoformat())


def _days(day: date) -> Span:
    return (day.isoformat(), (day + timedelta(days=1)).isoformat())
