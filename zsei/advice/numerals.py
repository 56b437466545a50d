"""Finds every number in a text, in digits or in words, with the precision it is stated at.

Nothing numeric is passed over: a digit that is part of no known name counts as a number. Texts are
expected in NFKC form, where full-width digits, fractions and superscripts are plain characters.
"""

import re
from dataclasses import dataclass

_SCALE = {
    "k": 1e3, "thousand": 1e3, "kb": 1e3, "kib": 1024.0, "kflop": 1e3, "kflops": 1e3,
    "m": 1e6, "million": 1e6, "millions": 1e6, "mb": 1e6, "mib": 1024.0**2, "mflop": 1e6,
    "mflops": 1e6, "b": 1e9, "g": 1e9, "billion": 1e9, "gb": 1e9, "gib": 1024.0**3, "gflop": 1e9,
    "gflops": 1e9, "t": 1e12, "trillion": 1e12, "tflop": 1e12, "tflops": 1e12, "hundred": 100.0,
    "dozen": 12.0,
}  # fmt: skip
_UNITS = {word: value for value, word in enumerate((
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
    "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen",
    "nineteen",
))}  # fmt: skip
_TENS = {
    "twenty": 20, "thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80,
    "ninety": 90,
}  # fmt: skip
_LARGE = {"hundred": 100, "thousand": 1_000, "million": 1_000_000, "billion": 1_000_000_000}
_PARTS = {
    "half": 1 / 2, "halves": 1 / 2, "third": 1 / 3, "thirds": 1 / 3, "quarter": 1 / 4,
    "quarters": 1 / 4, "fifths": 1 / 5, "tenth": 1 / 10, "tenths": 1 / 10, "hundredth": 1 / 100,
}  # fmt: skip
_DIGITS = re.compile(
    r"(?P<sign>(?<![\w)])[-\u2212+])?"
    r"(?P<number>(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?|\.\d+)"
    r"(?P<power>[eE][-+\u2212]?\d+|\s?[x×*]\s?10\^?[-\u2212]?\d+)?"
    r"(?:\s?(?P<percent>%|percent\b|per cent\b)"
    r"|(?P<times>\s?[x×](?![\w])|-?fold\b|\s?times\b)"
    rf"|\s?(?P<scale>(?i:{'|'.join(sorted(_SCALE, key=len, reverse=True))})\b))?"
)  # fmt: skip
_WORD = "|".join([*_UNITS, *_TENS, *_LARGE, "dozen"])
_WORDS = re.compile(
    rf"\b(?P<words>(?:a\s+)?(?:{_WORD})(?:(?:[-\s]|\s+and\s+)(?:{_WORD}))*)(?:\b|(?=fold\b))"
    rf"(?:[-\s](?P<part>{'|'.join(_PARTS)})\b)?"
    r"(?P<after>\s?%|\s+per\s?cent\b|-?fold\b|\s+times\b)?"
    rf"|\b(?P<article>an?\s+)?(?P<bare>{'|'.join(_PARTS)})\b",
    re.IGNORECASE,
)
_LARGEST = 1e300
"""A number that is longer than this is stated as this: finite, and equal to nothing measured."""
_ALONE = ("one", "third", "quarter", "tenth", "hundredth")
"""Words that are numbers only in company: "one of them" and "the third layer" hold none."""


@dataclass(frozen=True, kw_only=True)
class Numeral:
    """One number in a text."""

    start: int
    end: int
    value: float
    """As stated: 93 for "93 %", 22.7e6 for "22.7 M"."""
    half_step: float
    """Half of the last stated digit: what rounding may have moved it by."""
    percent: bool = False
    times: bool = False
    """"3 times", "3x", "threefold": it may compare two measurements."""
    whole: bool = False
    """A count in form: no decimals, no scale, no percent sign."""


def find_numerals(text: str) -> tuple[Numeral, ...]:
    """All numbers of a text, in order.

    "one" alone, ordinals and articles are no numbers; "half", "a third", "two dozen", "ninety-three
    percent" and "threefold" are.
    """
    found = [_from_digits(match) for match in _DIGITS.finditer(text)]
    covered = [(numeral.start, numeral.end) for numeral in found]
    for match in _WORDS.finditer(text):
        inside = any(start < match.end() and match.start() < end for start, end in covered)
        numeral = None if inside else _from_words(match)
        if numeral is not None:
            found.append(numeral)
    return tuple(sorted(found, key=lambda numeral: numeral.start))


def _from_digits(match: re.Match[str]) -> Numeral:
    number, power, scale = match["number"].replace(",", ""), match["power"], match["scale"]
    factor = _SCALE[scale.lower()] if scale else 1.0
    if power:
        exponent = re.sub(r"^(?:[eE]|\s?[x×*]\s?10\^?)", "", power).replace("\u2212", "-")
        factor *= 10.0 ** max(-300, min(300, int(exponent[:5])))
    decimals = len(number.partition(".")[2])
    sign = -1.0 if match["sign"] in ("-", "\u2212") else 1.0
    value = min(float(number[:300]) * factor, _LARGEST)
    return Numeral(
        start=match.start(),
        end=match.end(),
        value=sign * value,
        half_step=0.5 * 10.0 ** -min(decimals, 300) * factor,
        percent=bool(match["percent"]),
        times=bool(match["times"]),
        whole=not (decimals or power or scale or match["percent"]),
    )


def _from_words(match: re.Match[str]) -> Numeral | None:
    start, end = match.span()
    bare = match["bare"]
    if bare is not None:
        if bare.lower() in _ALONE and not match["article"]:
            return None
        part = _PARTS[bare.lower()]
        return Numeral(start=start, end=end, value=part, half_step=0.05)
    words = re.findall(r"[a-z]+", match["words"].lower())
    after, part = match["after"] or "", match["part"]
    if words == ["one"] and not after and not part:
        return None
    value = _spelled(words)
    if part:
        return Numeral(start=start, end=end, value=value * _PARTS[part.lower()], half_step=0.05)
    percent = "%" in after or "cent" in after
    times = "fold" in after or "times" in after
    return Numeral(
        start=start, end=end, value=value, half_step=0.5, percent=percent, times=times,
        whole=not percent,
    )  # fmt: skip


def _spelled(words: list[str]) -> float:
    """Value of number words in English order: "two hundred and five thousand" is 205000."""
    total, current = 0, 0
    for word in words:
        if word in _UNITS or word in _TENS:
            current += _UNITS.get(word, _TENS.get(word, 0))
        elif word in ("hundred", "dozen"):
            current = max(current, 1) * (100 if word == "hundred" else 12)
        elif word in _LARGE:
            total, current = total + max(current, 1) * _LARGE[word], 0
    return float(total + current)
