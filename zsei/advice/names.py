"""Finds the names and slots in a text: components, findings, proposals, measurements.

What stands in a known name is no number: the 3 of `encoder.layer.3/head.7` is not a claim. What
looks like a name and is none of the record's is found too, because a statement about a component
that does not exist does not hold.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from zsei.advice.facts import ANALYSIS, MODEL, Fact, Facts, plain
from zsei.advice.numerals import NOUNS, numbers_in
from zsei.cards import Cards

SLOT = re.compile(r"\{([^{}\n]+):([^{}:\n]+)\}")
"""`{owner:name}`, split at the last colon."""
SLOT_MARK, NAME_MARK, OTHER_MARK, MEASURE_MARK = "\x01", "\x02", "\x03", "\x04"
"""What stands in `Names.rest` for a slot, a component, another name, a measurement: characters that
no cleaned text holds."""
_TECHNICAL = (
    "L1", "L2", "bf16", "fp16", "fp32", "float16", "float32", "float64", "int4", "int8", "top-1",
)  # fmt: skip
_REFERENCE = re.compile(
    r"\b(?P<noun>layer|block|head)s?\s+"
    r"(?P<numbers>[0-9]+(?P<more>(?:(?:\s*,\s*|\s*,?\s+(?:and|or)\s+)[0-9]+)+)?)"
    r"(?![\w.,]*\d|\w|\s*[%\u2030x×*/^+=<>-]|\s*(?:percent|per\s|times|fold)\b)"
    rf"(?(more)(?!\s*(?:{NOUNS})\b))"
    r"(?:\s+(?:of|in)\s+(?:the\s+)?(?:layer|block)\s+(?P<layer>[0-9]+)(?![\w.,]*\d|\w))?",
    re.IGNORECASE,
)
_NAME_LIKE = re.compile(r"\w*[^\W_]_[^\W_]\w*|\b[firp]-[0-9a-f]{6,}\b|`[^`]*`?")
"""What is written like a measurement or an id, or stands in backticks."""
_PATH = re.compile(r"[\w#-]+(?:[./][\w#-]+)+")
_PLAIN = re.compile(r"[A-Za-z_][\w./#-]*")
_MIXED = re.compile(r"\b(?=\w*[A-Za-z])(?=\w*[\u0370-\u1dff\u2c00-\ud7ff])\w+")
"""Words of letters of several scripts: look-alikes of other words."""


@dataclass(frozen=True, kw_only=True)
class Mention:
    """A place in a text that names components; empty `ids`: it names some that do not exist."""

    start: int
    end: int
    ids: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Slot:
    """A place in a text that the program fills; no fact: there is nothing of that name."""

    start: int
    end: int
    fact: Fact | None


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A place in a text that names a measurement, or one of several that are called so."""

    start: int
    end: int
    names: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Names:
    """What a sentence names."""

    sentence: str
    slots: tuple[Slot, ...]
    mentions: tuple[Mention, ...]
    """Components, in order."""
    measurements: tuple[Measured, ...]
    rest: str
    """The sentence with marks in place of all of these: a number in it is one that was written."""
    unknown: tuple[str, ...]
    """What looks like a name but is none."""


class Reader:
    """Reads the names of one record out of texts."""

    def __init__(self, facts: Facts, cards: Cards) -> None:
        """Compile the record's names.

        Args:
            facts: The record and the candidates.
            cards: Their metrics give the words by which measurements are known.
        """
        self._facts = facts
        self._phrases = measurement_phrases(facts, cards)
        written = {quoted(name): name for name in facts.components}
        written |= {f"`{name}`": name for name in facts.components if is_plain(name)}
        self._written = written
        self._ids = _alternatives(written)
        others = [*facts.findings, *facts.proposals]
        self._others = _alternatives([*others, *(f"`{name}`" for name in others)])
        self._words = _alternatives(
            [*self._phrases, *(f"`{name}`" for name in self._phrases)],
            ignore_case=True,
            ending="s?",
        )
        self._excused = _alternatives(_excused(facts, cards))
        self._segments = {part for name in facts.components for part in re.split("[./]", name)}

    def read(self, sentence: str) -> Names:
        """All names of a sentence."""
        slots = tuple(
            Slot(start=m.start(), end=m.end(), fact=self._facts.find(plain(m[1]), m[2].strip()))
            for m in SLOT.finditer(sentence)
        )
        rest = _mark(sentence, SLOT, SLOT_MARK)
        mentions, words = [], []
        for match in self._ids.finditer(rest):
            mention = Mention(
                start=match.start(), end=match.end(), ids=frozenset((self._written[match[0]],))
            )
            (words if match[0].isalpha() else mentions).append(mention)
        rest = _mark(rest, self._ids, NAME_MARK, but_words=True)
        rest = _mark(rest, self._others, OTHER_MARK)
        measurements = tuple(
            Measured(start=m.start(), end=m.end(), names=self._phrases[_known(m[0], self._phrases)])
            for m in self._words.finditer(rest)
        )
        rest = _mark(rest, self._words, MEASURE_MARK)
        for word in words:
            if self._is_meant(word, measurements, slots):
                mentions.append(word)
                size = word.end - word.start
                rest = rest[: word.start] + NAME_MARK * size + rest[word.end :]
        rest = _mark(rest, self._excused, OTHER_MARK)
        for match in _REFERENCE.finditer(rest):
            mentions += self._referred(match)
        rest = _mark(rest, _REFERENCE, NAME_MARK)
        return Names(
            sentence=sentence,
            slots=slots,
            mentions=tuple(sorted(mentions, key=lambda mention: mention.start)),
            measurements=measurements,
            rest=rest,
            unknown=(*_NAME_LIKE.findall(rest), *_MIXED.findall(rest), *self._paths(rest)),
        )

    def _is_meant(
        self, mention: Mention, measurements: Iterable[Measured], slots: Iterable[Slot]
    ) -> bool:
        """Whether a plain word such as "output" is the component of that name here.

        It is where the sentence names something that was measured at it, or has a slot of it.
        """
        known = {name for part in mention.ids for name in self._facts.named(part)}
        named = {name for measured in measurements for name in measured.names}
        owned = (slot.fact.components for slot in slots if slot.fact is not None)
        return bool(known & named) or any(mention.ids & components for components in owned)

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

    def _paths(self, rest: str) -> list[str]:
        """What is written like the path of a component, in parts that components' paths have."""
        return [
            path for path in _PATH.findall(rest)
            if any(part in self._segments for part in re.split("[./]", path))
        ]  # fmt: skip


def is_plain(name: str) -> bool:
    """Whether a name can stand in a sentence as it is: it is not taken for prose or a number."""
    return _PLAIN.fullmatch(name) is not None and not numbers_in(re.sub(r"\d", "", name))


def quoted(name: str) -> str:
    """A name as it is written in a text: in backticks where it could be taken for prose."""
    return name if is_plain(name) else f"`{plain(name).replace('`', chr(39))}`"


def measurement_phrases(facts: Facts, cards: Cards) -> dict[str, tuple[str, ...]]:
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


def _excused(facts: Facts, cards: Cards) -> set[str]:
    """Names with digits or number words in them that are no components.

    Those that the program made stand as they are; what strangers named only where it is plain, or
    in backticks.
    """
    record = facts.record
    ours = {*_TECHNICAL, MODEL, ANALYSIS, *cards.strategies, *cards.knowledge}
    ours |= {record.conditions.metric, *(check.criterion for check in record.validation.criteria)}
    ours |= {finding.code for finding in facts.findings.values()}
    provenance = record.provenance
    theirs = {provenance.model, provenance.model_class, provenance.family}
    theirs |= set(record.conditions.groups)
    quotable = {f"`{name}`" for name in ours} | {f"`{quoted(name).strip('`')}`" for name in theirs}
    standing = {name for name in ours if re.search("[A-Za-z]", name)} | set(
        filter(is_plain, theirs)
    )
    return quotable | {name for name in standing if numbers_in(name) or "_" in name or "/" in name}


def _alternatives(
    names: Iterable[str], *, ignore_case: bool = False, ending: str = ""
) -> re.Pattern[str]:
    """A pattern of whole names, longest first; one that never matches when there are none."""
    listed = sorted({name for name in names if name}, key=lambda name: (-len(name), name))
    if not listed:
        return re.compile(r"(?!)")
    choice = "|".join(re.escape(name) for name in listed)
    pattern = rf"(?<![\w./#-])(?:{choice}){ending}(?![\w/#]|[.-]\w)"
    return re.compile(pattern, re.IGNORECASE if ignore_case else 0)


def _known(words: str, phrases: Mapping[str, tuple[str, ...]]) -> str:
    lowered = words.lower().strip("`")
    return lowered if lowered in phrases else lowered.removesuffix("s").strip("`")


def _mark(text: str, pattern: re.Pattern[str], mark: str, *, but_words: bool = False) -> str:
    """The text with a mark for every character of a match."""
    return pattern.sub(
        lambda m: m[0] if but_words and m[0].isalpha() else mark * len(m[0]), text
    )  # fmt: skip
