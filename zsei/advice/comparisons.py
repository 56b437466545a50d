"""Checks what a sentence compares: "larger than", "twice", "the highest".

A comparison of two components holds when the record measured both and the values say so; one that
names components or measurements and cannot be resolved does not hold.
"""

import re
from dataclasses import dataclass

from zsei.advice.facts import Facts
from zsei.advice.names import Mention, Names
from zsei.advice.numerals import Numeral

MORE = "more|greater|larger|higher|bigger|stronger|wider|deeper|costlier|heavier|longer|slower"
LESS = "less|fewer|smaller|lower|weaker|narrower|shallower|cheaper|lighter|shorter|faster"
_MOST = "largest|highest|greatest|biggest|strongest|widest|costliest|heaviest"
_LEAST = "smallest|lowest|weakest|narrowest|cheapest|lightest|fewest"
_COMPARATIVE = re.compile(
    rf"\b(?P<negated>(?:no|not|never)\s+|n't\s+)?(?:(?P<more>{MORE})|(?P<less>{LESS}))\b"
    r"(?P<between>[^.;]{0,60}?)\bthan\b"
    r"|\b(?P<exceeds>exceeds?|outweighs?|surpass(?:es)?)\b",
    re.IGNORECASE,
)
_SUPERLATIVE = re.compile(
    rf"\b(?P<weak>one of the |among the )?(?:(?P<most>{_MOST}|most)|(?P<least>{_LEAST}|least))\b",
    re.IGNORECASE,
)
_RATIO = re.compile(r"\b(?P<word>twice|thrice|doubles?|triples?|half)\b", re.IGNORECASE)
_TIMES = {"twice": 2.0, "double": 2.0, "doubles": 2.0, "thrice": 3.0, "triple": 3.0, "triples": 3.0,
          "half": 0.5}  # fmt: skip
_NEAR = 40
"""Characters between a superlative and the measurement it speaks of."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One comparison in a sentence, judged."""

    text: str
    holds: bool
    start: int
    stated: float | None = None
    """The stated ratio of two measurements, where one is stated."""
    measured: float | None = None


def check_comparisons(
    names: Names, numerals: tuple[Numeral, ...], facts: Facts
) -> tuple[Comparison, ...]:
    """All comparisons of a sentence between components.

    Bounds on a number ("more than 12 %") are no comparisons of two measurements; see
    `zsei.advice.grounding`.
    """
    found = [*_ratios(names, numerals, facts)]
    taken = [comparison.start for comparison in found]
    for match in _COMPARATIVE.finditer(names.rest):
        is_bound = any(0 <= n.start - match.end() <= 3 for n in numerals)
        has_ratio = any(0 <= match.start() - start <= 20 for start in taken)
        if not is_bound and not has_ratio:
            found += _comparative(match, names, facts)
    for match in _SUPERLATIVE.finditer(names.rest):
        found += _superlative(match, names, facts)
    return tuple(found)


def _comparative(match: re.Match[str], names: Names, facts: Facts) -> list[Comparison]:
    left, right = _sides(match, names)
    if left is None or right is None:
        vague = not names.mentions and not names.measurements
        return [] if vague else [_unresolved(match)]
    pair = _values(left, right, _measurement_near(match, names), facts)
    if pair is None or match["negated"]:
        return [_unresolved(match)]
    holds = pair[0] < pair[1] if match["less"] else pair[0] > pair[1]
    return [Comparison(text=match[0], holds=holds, start=match.start())]


def _ratios(names: Names, numerals: tuple[Numeral, ...], facts: Facts) -> list[Comparison]:
    """Stated ratios of two components: "twice", "half", "3 times"."""
    stated = [(m, _TIMES[m["word"].lower()], 0.25 * _TIMES[m["word"].lower()])
              for m in _RATIO.finditer(names.rest)]  # fmt: skip
    for numeral in numerals:
        match = re.compile(r".").match(names.rest, numeral.start)
        if numeral.times and match is not None:
            stated.append((match, numeral.value, numeral.half_step))
    found = []
    for match, ratio, slack in stated:
        left, right = _sides(match, names)
        if left is None or right is None:
            if match.re is _RATIO and match["word"].lower() != "half":
                found.append(_unresolved(match))
            continue  # a numeral that compares nothing is checked as a number
        pair = _values(left, right, _measurement_near(match, names), facts)
        inverse = re.search(rf"\b(?:{LESS})\b", names.rest[match.end() : match.end() + 20])
        if pair is None or 0 in pair:
            found.append(_unresolved(match))
            continue
        measured = pair[1] / pair[0] if inverse else pair[0] / pair[1]
        holds = abs(measured - ratio) <= slack
        found.append(
            Comparison(
                text=match[0], holds=holds, start=match.start(), stated=ratio, measured=measured
            )
        )
    return found


def _superlative(match: re.Match[str], names: Names, facts: Facts) -> list[Comparison]:
    """Whether the components that "the largest share" speaks of are the first of their kind."""
    after = [(at, name) for at, name in names.measurements if 0 <= at - match.end() <= _NEAR]
    ids = sorted({name for mention in names.mentions for name in mention.ids})
    kinds = {facts.components[name].kind for name in ids}
    if not after or not ids or len(kinds) != 1:
        return []
    measurement = after[0][1]
    everyone = [c.id for c in facts.components.values() if c.kind in kinds]
    values = {name: facts.value(name, measurement) for name in everyone}
    known = {name: value for name, value in values.items() if value is not None}
    if any(name not in known for name in ids):
        return [_unresolved(match)]
    sign = 1 if match["most"] else -1
    room = len(ids) if not match["weak"] else max(len(ids), len(known) // 3)
    ahead = [sum(sign * value > sign * known[name] for value in known.values()) for name in ids]
    holds = max(ahead) < room
    return [Comparison(text=match[0], holds=holds, start=match.start())]


def _sides(match: re.Match[str], names: Names) -> tuple[Mention | None, Mention | None]:
    """The component before a comparison and the one after it."""
    before = [mention for mention in names.mentions if mention.end <= match.start()]
    after = [mention for mention in names.mentions if mention.start >= match.end()]
    return (before[-1] if before else None, after[0] if after else None)


def _measurement_near(match: re.Match[str], names: Names) -> str | None:
    """The measurement a comparison speaks of: the only one, or the one within or nearest."""
    if not names.measurements:
        return None
    return min(names.measurements, key=lambda found: abs(found[0] - match.start()))[1]


def _values(
    left: Mention, right: Mention, measurement: str | None, facts: Facts
) -> tuple[float, float] | None:
    """The two measured values, or None where there are not exactly two."""
    if measurement is None or len(left.ids) != 1 or len(right.ids) != 1:
        return None
    first = facts.value(next(iter(left.ids)), measurement)
    second = facts.value(next(iter(right.ids)), measurement)
    return None if first is None or second is None else (first, second)


def _unresolved(match: re.Match[str]) -> Comparison:
    return Comparison(text=match[0], holds=False, start=match.start())
