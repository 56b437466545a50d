"""Finds the names and slots in a text: components, findings, proposals, measurements.

What stands in a known name is no number: the 3 of `encoder.layer.3/head.7` is not a claim. What
looks like a name and is none of the record's is found too, because a statement about a component
that does not exist does not hold.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from zsei.advice.facts import ANALYSIS, MODEL, Fact, Facts, plain
from zsei.advice.numerals import NOUNS, numbers_in
from zsei.advice.whole import lower, marked, whole_names
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
    r"\b(?P<noun>layer|block|head)(?P<plural>s)?\s+"
    r"(?P<numbers>[0-9]+(?P<more>(?:(?:\s*,\s*|\s*,?\s+(?:and|or)\s+)[0-9]+)+)?)"
    r"(?![\w.,]*\d|\w|\s*(?:per\s?cent|times|fold|[x×])\b)"
    rf"(?(plural)(?(more)|(?!)))(?(more)(?!\s*(?:{NOUNS})\b))"
    r"(?:\s+(?:of|in)\s+(?:the\s+)?(?:layer|block)\s+(?P<layer>[0-9]+)(?![\w.,]*\d|\w))?",
    re.IGNORECASE,
)
_NAME_LIKE = re.compile(r"\w*[^\W_]_[^\W_]\w*|\b[firp]-[0-9a-f]{6,}\b|`[^`]*`?")
"""What is written like a measurement or an id, or stands in backticks."""
_SUBJECT = re.compile(
    r"\s*:|\s+(?:alone\s+)?(?:has|have|takes?|costs?|holds?|needs?|computes?|gives?|shows?|uses?|with)\b"
)
"""What stands behind a plain word that a number is said of."""
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
    owner: str
    """Id of a component, finding or proposal; `model` or `analysis`."""
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
        self._ids = whole_names(frozenset(written))
        others = [*facts.findings, *facts.proposals]
        self._others = whole_names(frozenset((*others, *(f"`{name}`" for name in others))))
        words = frozenset((*self._phrases, *(f"`{name}`" for name in self._phrases)))
        self._words = whole_names(words, plural=True)
        self._excused = whole_names(frozenset(_excused(facts, cards)))
        self._segments = {part for name in facts.components for part in re.split("[./]", name)}

    def read(self, sentence: str) -> Names:
        """All names of a sentence."""
        slots = tuple(map(self._slot, SLOT.finditer(sentence)))
        rest = SLOT.sub(lambda slot: SLOT_MARK * len(slot[0]), sentence)
        found = self._ids.find(rest)
        mentions, words = [], []
        for start, end, name in found:
            mention = Mention(start=start, end=end, ids=frozenset((self._written[name],)))
            (words if name.isalpha() else mentions).append(mention)
        rest = marked(rest, [one for one in found if not one[2].isalpha()], NAME_MARK)
        rest = marked(rest, self._others.find(rest), OTHER_MARK)
        phrases = self._words.find(lower(rest))
        measurements = tuple(
            Measured(start=start, end=end, names=self._phrases[name.strip("`")])
            for start, end, name in phrases
        )
        rest = marked(rest, phrases, MEASURE_MARK)
        for word in words:
            subject = slots and _SUBJECT.match(rest, word.end)
            if subject or self._is_meant(word, measurements, slots):
                mentions.append(word)
                size = word.end - word.start
                rest = rest[: word.start] + NAME_MARK * size + rest[word.end :]
        rest = marked(rest, self._excused.find(rest), OTHER_MARK)
        for match in _REFERENCE.finditer(rest):
            mentions += self._referred(match)
        rest = _REFERENCE.sub(_all_but_joints, rest)
        return Names(
            sentence=sentence,
            slots=slots,
            mentions=tuple(sorted(mentions, key=lambda mention: mention.start)),
            measurements=measurements,
            rest=rest,
            unknown=(*_NAME_LIKE.findall(rest), *_MIXED.findall(rest), *self._paths(rest)),
        )

    def _slot(self, match: re.Match[str]) -> Slot:
        owner = self._facts.owners.get(plain(match[1]), match[1])
        fact = self._facts.find(owner, match[2].strip())
        return Slot(start=match.start(), end=match.end(), owner=owner, fact=fact)

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
        start = match.start()
        numbers = [*re.finditer(r"\d+", match["numbers"])]
        for place, number in enumerate(numbers):
            index = int(number[0][:9])
            ids = self._heads(index, within) if noun == "head" else self._layers(index)
            if within is not None and noun != "head":
                ids = ids if ids == self._layers(within) else frozenset()
            last = place == len(numbers) - 1
            end = match.end() if last else match.start("numbers") + number.end()
            found.append(Mention(start=start, end=end, ids=ids))
            start = 0 if last else match.start("numbers") + numbers[place + 1].start()
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


@lru_cache(maxsize=16_384)
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
    return quotable | {
        name for name in standing if _says_number(name) or "_" in name or "/" in name
    }


@lru_cache(maxsize=1024)
def _says_number(name: str) -> bool:
    return bool(numbers_in(name))


def _all_but_joints(match: re.Match[str]) -> str:
    """Marks for a reference, but not for what joins its numbers."""
    before, numbers = match.start("numbers") - match.start(), match["numbers"]
    behind = match.end() - match.end("numbers")
    return NAME_MARK * before + re.sub(r"\d", NAME_MARK, numbers) + NAME_MARK * behind
