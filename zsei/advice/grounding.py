"""Fills the slots of a text from the record, and strikes every sentence that does not hold.

Numbers stand in texts as slots alone, `{owner:name}`. A sentence survives when every slot in it
resolves and stands where it belongs, when nothing else in it says a number, when every comparison
in it was checked and holds, and when every component, finding and measurement it names exists. A
sentence that fails is removed whole and counted. What was filled in is never read again.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from zsei.advice.attribution import misattributed
from zsei.advice.comparisons import check_comparisons
from zsei.advice.facts import Fact, Facts, clean
from zsei.advice.names import SLOT, Names, Reader, Slot
from zsei.advice.numerals import numbers_in
from zsei.advice.wording import filled
from zsei.records import Claim

_SENTENCE_END = re.compile(r"((?<=[.!?])\s+(?=\S)|\n+)")
_LONGEST_SENTENCE = 1000
"""Characters; nobody reads a longer one, and checking it takes time that grows with its square."""
_EXCERPT = 80
"""Characters of a struck sentence that are kept."""


@dataclass(frozen=True, kw_only=True)
class Grounded:
    """A text with its slots filled, without the sentences that did not hold."""

    text: str
    claims: tuple[Claim, ...]
    """Every filled slot that has a value; and why each struck sentence went (`holds` is False)."""
    struck: int
    """Sentences removed."""


def ground(
    text: str, facts: Facts, reader: Reader, *, subject: frozenset[str] = frozenset()
) -> Grounded:
    """Check a text sentence by sentence and fill its slots.

    Args:
        text: What was written.
        facts: What is known.
        reader: Finds names in it.
        subject: Components the text is about: what "it" means before one is named.

    Returns:
        The sentences that hold, every slot that was filled, and how many sentences went.
    """
    claims: list[Claim] = []
    kept: list[str] = []
    struck = 0
    for piece in _SENTENCE_END.split(clean(text)):
        if not piece.strip():
            kept.append(piece)
            continue
        if len(piece) > _LONGEST_SENTENCE:
            struck += 1
            claims.append(Claim(text=f"too long: {piece[:_EXCERPT]}", holds=False))
            continue
        names = reader.read(piece)
        wrong = list(dict.fromkeys(_wrong(names, facts, subject)))
        if wrong:
            struck += 1
            claims += [Claim(text=f"{why}: {piece[:_EXCERPT]}", holds=False) for why in wrong[:3]]
            continue
        claims += [_claim(piece, slot, slot.fact) for slot in names.slots if slot.fact is not None]
        kept.append(fill(piece, names))
        named = frozenset(name for mention in names.mentions for name in mention.ids)
        subject = named or subject
    joined = re.sub(r"\n{3,}", "\n\n", re.sub(r" {2,}", " ", "".join(kept))).strip()
    return Grounded(text=joined, claims=tuple(claims), struck=struck)


def fill(sentence: str, names: Names) -> str:
    """A sentence with every slot's value in its place, in one pass."""
    values: Sequence[Slot] = names.slots
    found = iter(values)

    def value_of(match: re.Match[str]) -> str:
        fact = next(found).fact
        assert fact is not None, "only sentences whose slots resolve are filled"
        return filled(fact.value, fact.unit)

    return SLOT.sub(value_of, sentence)


def _wrong(names: Names, facts: Facts, subject: frozenset[str]) -> Iterator[str]:
    """What does not hold in a sentence; nothing when it does."""
    if any(slot.fact is None for slot in names.slots):
        yield "no such number"
    if "{" in names.rest or "}" in names.rest:
        yield "a brace that belongs to no slot"
    if any(not mention.ids for mention in names.mentions):
        yield "no such component"
    if names.unknown:
        yield "no such name"
    if numbers_in(names.rest):
        yield "a number outside of a slot"
    if any(not comparison.holds for comparison in check_comparisons(names, facts)):
        yield "a comparison that does not hold"
    if misattributed(names, facts, subject):
        yield "a number that belongs elsewhere"


def _claim(sentence: str, slot: Slot, fact: Fact) -> Claim:
    where = fact.components
    return Claim(
        text=sentence[max(0, slot.start - 40) : slot.end + 20].strip(),
        component=next(iter(where)) if len(where) == 1 else None,
        measurement=fact.measurement,
        stated=fact.value,
        measured=fact.value,
        holds=True,
    )
