"""Checks what a sentence compares: "larger than", "exceeds", "as large as", "the highest".

A comparison holds when both of its sides are components or slots, the record measured both, and the
values say so. One that cannot be checked does not hold.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from zsei.advice.facts import Fact, Facts
from zsei.advice.names import Mention, Names, Slot
from zsei.advice.wording import value

_MORE = "more|greater|larger|higher|bigger|stronger|wider|deeper|costlier|heavier|longer|slower"
_LESS = "less|fewer|smaller|lower|weaker|narrower|shallower|cheaper|lighter|shorter|faster"
_MOST = "largest|highest|greatest|biggest|strongest|widest|costliest|heaviest|most"
_LEAST = "smallest|lowest|weakest|narrowest|cheapest|lightest|fewest|least"
_EXCEEDS = r"exceed\w*|outweigh\w*|surpass\w*|outstrip\w*|outnumber\w*|outrank\w*|dwarf\w*"
_BEATS = r"outperform\w*|outdo\w*|outscore\w*|outclass\w*|overtak\w+|beats?"
_SIZES = "large|high|big|great|small|low|much|many|few|little|strong|weak|wide|important|costly"
_TWO_SIDED = re.compile(
    rf"\b(?:(?:(?P<more>{_MORE})|(?P<less>{_LESS}))\b(?P<between>[^.;\x01\x02]{{0,60}}?)\bthan\b"
    rf"|(?P<exceeds>{_EXCEEDS}|{_BEATS})\b"
    rf"|(?P<same>equals?(?: to)?|as (?:{_SIZES}) as|as (?:{_SIZES}) an? [\w\x04 ]{{1,30}} as)\b)",
    re.IGNORECASE,
)
_THAN = re.compile(r"(?<!\brather )(?<!\bother )\bthan\b", re.IGNORECASE)
_BOUND = re.compile(
    r"\b(?:above|below|beyond|under|at least|at most|up to|dominat\w+|no (?:more|less))\b"
    r"(?=\s*(?:about\s+|the\s+|an?\s+)?\x01)|\bdominat\w+\b|<(?!-)|(?<![-=])>|[≤≥≪≫]",
    re.IGNORECASE,
)
_BARE = re.compile(rf"\b(?<!no )(?<!any )(?:{_MORE}|{_LESS})\b", re.IGNORECASE)
_SUPERLATIVE = re.compile(
    rf"(?<!\bat )\b(?P<weak>one of the |among the )?(?:(?P<most>{_MOST})|(?P<least>{_LEAST}))\b",
    re.IGNORECASE,
)
_NEGATED = re.compile(r"(?:\b(?:no|not|never|neither|nor|hardly)|n't)\s+(?:\w+\s+){0,2}$", re.I)
_LEFT = re.compile(r"(?:[^,;:()\x01\x02]|,? (?:which|and) (?:is|are|has|have)\b)*")
_OTHERS = re.compile(
    r"\b(?:rest|others?|average|mean|sum|total|remaining|unlike|while|whereas|but|not|never|nor|"
    r"neither|without|except)\b",
    re.IGNORECASE,
)
_RIGHT = re.compile(
    r"(?:\s|\x04|\b(?:that|those|the|one|of|in|at|for|by|it|is|does|has|its|own|both|value|values|"
    r"component|layer|head|block)\b)*",
    re.IGNORECASE,
)
_JOINED = re.compile(r"\s*(?:,|,?\s+(?:and|or|nor)(?:\s+(?:of|at|in|for|that of))?)\s*", re.I)
_NEAR = 60
"""Characters before a comparison that may negate it."""

Item = Mention | Slot


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One comparison in a sentence, judged."""

    text: str
    holds: bool


def check_comparisons(names: Names, facts: Facts) -> tuple[Comparison, ...]:
    """All comparisons of a sentence, judged."""
    found: list[Comparison] = []
    explained: set[int] = set()
    for match in _TWO_SIDED.finditer(names.rest):
        found.append(Comparison(text=match[0], holds=_holds(match, names, facts)))
        explained |= set(range(match.start(), match.end()))
    for match in _THAN.finditer(names.rest):
        if match.start() not in explained:
            found.append(Comparison(text=match[0], holds=False))
    found += [Comparison(text=match[0], holds=False) for match in _BOUND.finditer(names.rest)]
    if len({frozenset(part) for part in _compared(names)}) > 1:
        found += [
            Comparison(text=match[0], holds=False)
            for match in _BARE.finditer(names.rest)
            if match.start() not in explained
        ]
    for match in _SUPERLATIVE.finditer(names.rest):
        holds = _is_first(match, names, facts)
        if holds is not None:
            found.append(Comparison(text=match[0], holds=holds))
    return tuple(found)


def _compared(names: Names) -> Iterator[Iterable[str]]:
    """The components of every mention and slot."""
    yield from (mention.ids for mention in names.mentions)
    yield from (slot.fact.components for slot in names.slots if slot.fact is not None)


def _holds(match: re.Match[str], names: Names, facts: Facts) -> bool:
    """Whether everything on the left is more, less, or the same, as everything on the right."""
    left, right = _sides(match, names)
    if not left or not right or _negated(match, names):
        return False
    for first in left:
        for second in right:
            values = _values(first, second, match, names, facts)
            if values is None:
                return False
            (one, other), unit = values
            if match["same"]:
                holds = value(one, unit) == value(other, unit)
            else:
                holds = one < other if match["less"] else one > other
            if not holds:
                return False
    return True


def _negated(match: re.Match[str], names: Names) -> bool:
    before = names.rest[max(0, match.start() - _NEAR) : match.start()]
    return _NEGATED.search(before) is not None


def _items(names: Names) -> list[Item]:
    return sorted((*names.mentions, *names.slots), key=lambda item: item.start)


def _sides(match: re.Match[str], names: Names) -> tuple[list[Item], list[Item]]:
    """What stands directly before a comparison and directly after it, lists included."""
    items = _items(names)
    before = [item for item in items if item.end <= match.start()]
    after = [item for item in items if item.start >= match.end()]
    left, right = _group(before[::-1], names.rest), _group(after, names.rest)
    if left:
        gap = names.rest[left[0].end : match.start()]
        left = left if _LEFT.fullmatch(gap) and not _OTHERS.search(gap) else []
    if right and not _RIGHT.fullmatch(names.rest[match.end() : right[0].start]):
        right = []
    return left, right


def _group(items: Sequence[Item], rest: str) -> list[Item]:
    """The nearest item and those that "and", "or" or a comma join to it."""
    group = list(items[:1])
    for item in items[1:]:
        first, second = sorted((group[-1], item), key=lambda one: one.start)
        if not _JOINED.fullmatch(rest[first.end : second.start]):
            break
        group.append(item)
    return group


def _values(
    left: Item, right: Item, match: re.Match[str], names: Names, facts: Facts
) -> tuple[tuple[float, float], str] | None:
    """The two measured values and their unit, or None where there are not exactly two."""
    told = [item.fact for item in (left, right) if isinstance(item, Slot)]
    if any(fact is None for fact in told):
        return None
    named = [fact.measurement for fact in told if fact is not None]
    measurement = named[0] if named else _measurement_near(match, names)
    first, second = (_fact(item, measurement, facts) for item in (left, right))
    if first is None or second is None or first.value is None or second.value is None:
        return None
    alike = first.measurement == second.measurement or (first.unit == second.unit != "")
    return ((first.value, second.value), first.unit) if alike else None


def _fact(item: Item, measurement: str | None, facts: Facts) -> Fact | None:
    """What a slot stands for, or what was measured at the one component that is named."""
    if isinstance(item, Slot):
        return item.fact
    if measurement is None or len(item.ids) != 1:
        return None
    return facts.named(next(iter(item.ids))).get(measurement)


def _measurement_near(match: re.Match[str], names: Names) -> str | None:
    """The measurement a comparison speaks of: the one nearest to it, in words or in a slot."""
    told = [(measured.start, measured.names[0]) for measured in names.measurements
            if len(measured.names) == 1]  # fmt: skip
    told = told or [
        (slot.start, slot.fact.measurement) for slot in names.slots if slot.fact is not None
    ]
    return min(told, key=lambda found: abs(found[0] - match.start()), default=(0, None))[1]


def _is_first(match: re.Match[str], names: Names, facts: Facts) -> bool | None:
    """Whether the components that "the largest share" speaks of are the first of their kind.

    None where nothing of the record is spoken of.
    """
    ids = sorted({name for mention in names.mentions for name in mention.ids})
    ids = ids or sorted({n for s in names.slots if s.fact is not None for n in s.fact.components})
    if not ids:
        return None if not names.slots else False
    kinds = {facts.components[name].kind for name in ids if name in facts.components}
    measurement = _measurement_near(match, names)
    negated = _negated(match, names)
    counts = re.match(r"\s+of\b", names.sentence[match.end() :])  # "most of" says more than half
    if measurement is None or len(kinds) != 1 or negated or counts:
        return False
    everyone = [c.id for c in facts.components.values() if c.kind in kinds]
    values = {name: facts.value(name, measurement) for name in everyone}
    known = {name: number for name, number in values.items() if number is not None}
    if any(name not in known for name in ids):
        return False
    sign = 1 if match["most"] else -1
    room = len(ids) if not match["weak"] else max(len(ids), len(known) // 3)
    ahead = [sum(sign * number > sign * known[name] for number in known.values()) for name in ids]
    return max(ahead) < room
