"""Finds the names in a text: components, findings, proposals, measurements.

What stands in a known name is no number: the 3 of `encoder.layer.3/head.7` is not a claim. What
looks like a name and is none of the record's is found too, because a statement about a component
that does not exist does not hold.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from zsei.advice.facts import Facts
from zsei.advice.numerals import find_numerals
from zsei.cards import Cards

_TECHNICAL = (
    "L1", "L2", "bf16", "fp16", "fp32", "float16", "float32", "float64", "int4", "int8", "top-1",
)  # fmt: skip
_REFERENCE = re.compile(
    r"\b(?P<noun>layer|block|head)s?\s+(?P<numbers>\d+(?:(?:\s*,\s*|\s*,?\s+(?:and|or)\s+)\d+)*)"
    r"(?![\d.,]*\d|\s*%)(?:\s+(?:of|in)\s+(?:the\s+)?(?:layer|block)\s+(?P<layer>\d+)(?!\.\d))?",
    re.IGNORECASE,
)
_NAME_LIKE = re.compile(r"(?<![\w.])[A-Za-z_][\w./#-]*\d[\w./#]*")


@dataclass(frozen=True, kw_only=True)
class Mention:
    """A place in a text that names components; empty `ids`: it names some that do not exist."""

    start: int
    end: int
    ids: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Names:
    """What a sentence names."""

    sentence: str
    mentions: tuple[Mention, ...]
    """Components, in order."""
    findings: frozenset[str]
    proposals: frozenset[str]
    measurements: tuple[tuple[int, str], ...]
    """Position and name of every measurement, in order."""
    rest: str
    """The sentence with all names blanked out, positions kept: the numbers in it are claims."""
    unknown: tuple[tuple[int, str], ...]
    """Position and wording of what looks like a name but is none."""


class Reader:
    """Reads the names of one record out of texts."""

    def __init__(self, facts: Facts, cards: Cards) -> None:
        """Compile the record's names.

        Args:
            facts: The record and the candidates.
            cards: Their metrics give the words by which measurements are known.
        """
        self._facts = facts
        self._phrases = _measurement_phrases(facts, cards)
        self._ids = _alternatives(
            name if re.search(r"[A-Za-z]", name) else f"`{name}`" for name in facts.components
        )
        self._others = _alternatives([*facts.findings, *facts.proposals])
        self._words = _alternatives(self._phrases, ignore_case=True, plural=True)
        self._excused = _alternatives(_excused(facts))

    def read(self, sentence: str) -> Names:
        """All names of a sentence."""
        rest, mentions, words = sentence, [], []
        for match in self._ids.finditer(rest):
            ids = frozenset((match[0].strip("`"),))
            mention = Mention(start=match.start(), end=match.end(), ids=ids)
            quoted = rest[match.start() - 1 : match.start()] == "`"
            (words if match[0].isalpha() and not quoted else mentions).append(mention)
        rest = _blank(rest, self._ids)
        others = [match[0] for match in self._others.finditer(rest)]
        rest = _blank(rest, self._others)
        measurements = [
            (match.start(), name)
            for match in self._words.finditer(rest)
            for name in self._phrases[_plain(match[0], self._phrases)]
        ]
        mentions += [m for m in words if self._is_meant(m, measurements)]
        rest = _blank(rest, self._excused)
        for match in _REFERENCE.finditer(rest):
            mentions += self._referred(match)
        rest = _blank(rest, _REFERENCE)
        return Names(
            sentence=sentence,
            mentions=tuple(sorted(mentions, key=lambda mention: mention.start)),
            findings=frozenset(name for name in others if name in self._facts.findings),
            proposals=frozenset(name for name in others if name in self._facts.proposals),
            measurements=tuple(measurements),
            rest=rest,
            unknown=tuple((match.start(), match[0]) for match in _NAME_LIKE.finditer(rest)),
        )

    def _is_meant(self, mention: Mention, measurements: list[tuple[int, str]]) -> bool:
        """Whether a plain word such as "output" is the component of that name here.

        It is where the sentence names something that was measured at it.
        """
        known = {fact.name for name in mention.ids for fact in self._facts.at[name]}
        return any(name in known for _, name in measurements)

    def _referred(self, match: re.Match[str]) -> list[Mention]:
        """Mentions for "layers 3 and 4" or "head 7 of layer 3"."""
        noun = match["noun"].lower()
        within = int(match["layer"][:9]) if match["layer"] else None
        found = []
        for number in re.finditer(r"\d+", match["numbers"]):
            index = int(number[0][:9])
            ids = self._heads(index, within) if noun == "head" else self._layers(index)
            start = match.start("numbers") + number.start()
            found.append(Mention(start=start, end=start + len(number[0]), ids=ids))
        return found

    def _layers(self, index: int) -> frozenset[str]:
        inside = [c for c in self._facts.components.values() if c.layer == index]
        whole = frozenset(c.id for c in inside if c.kind == "layer")
        return whole or frozenset(c.id for c in inside)

    def _heads(self, index: int, layer: int | None) -> frozenset[str]:
        return frozenset(
            c.id
            for c in self._facts.components.values()
            if c.kind == "head" and c.index == index and layer in (None, c.layer)
        )


def _measurement_phrases(facts: Facts, cards: Cards) -> dict[str, tuple[str, ...]]:
    """Wording, in lower case -> names of the measurements it may mean."""
    names = set(cards.metrics)
    for taken in facts.record.measurements.values():
        names |= {measurement.name for measurement in taken}
    for finding in facts.findings.values():
        names |= {measurement.name for measurement in finding.evidence}
    for proposal in facts.proposals.values():
        names |= {measurement.name for measurement in proposal.expected}
    phrases: dict[str, tuple[str, ...]] = {}
    for name in sorted(names):
        metric = cards.metrics.get(name)
        further = (metric.title, *metric.also) if metric else ()
        for words in {name, name.replace("_", " "), *further}:
            phrases[words.lower()] = (*phrases.get(words.lower(), ()), name)
    return phrases


def _excused(facts: Facts) -> Iterable[str]:
    """Names with digits in them that are no components."""
    record = facts.record
    named = {record.provenance.model, record.provenance.model_class, record.provenance.family}
    named |= {*record.conditions.groups, record.conditions.metric, *_TECHNICAL}
    named |= {p.strategy for p in facts.proposals.values()}
    named |= {finding.code for finding in facts.findings.values()}
    named |= {check.criterion for check in record.validation.criteria}
    return {name for name in named if re.search(r"[A-Za-z]", name) and find_numerals(name)}


def _alternatives(
    names: Iterable[str], *, ignore_case: bool = False, plural: bool = False
) -> re.Pattern[str]:
    """A pattern of whole names, longest first; one that never matches when there are none."""
    listed = sorted({name for name in names if name}, key=lambda name: (-len(name), name))
    if not listed:
        return re.compile(r"(?!)")
    choice = "|".join(re.escape(name) for name in listed)
    ending = "s?" if plural else ""
    pattern = rf"(?<![\w./#-])(?:{choice}){ending}(?![\w/#]|[.-]\w)"
    return re.compile(pattern, re.IGNORECASE if ignore_case else 0)


def _plain(words: str, phrases: dict[str, tuple[str, ...]]) -> str:
    lowered = words.lower()
    return lowered if lowered in phrases else lowered.removesuffix("s")


def _blank(text: str, pattern: re.Pattern[str]) -> str:
    """The text with all matches as spaces; plain words stay, for there is no number in them."""
    return pattern.sub(lambda m: m[0] if m[0].isalpha() else " " * len(m[0]), text)
