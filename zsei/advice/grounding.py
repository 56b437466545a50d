"""Checks every number and comparison in a text against the record, and strikes what fails.

A sentence survives when every number in it is one the record holds, rounded as it is stated and
measured at a component the sentence names, and when every comparison in it is so. Names are no
numbers. A sentence that fails is removed whole and counted; what it said stays among the claims.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal

from zsei.advice.comparisons import LESS, MORE, check_comparisons
from zsei.advice.facts import Fact, Facts
from zsei.advice.names import Mention, Names, Reader
from zsei.advice.numerals import Numeral, find_numerals
from zsei.records import Claim

_SENTENCE_END = re.compile(r"((?<=[.!?])\s+(?=\S)|\n+)")
_BOUND = re.compile(
    rf"\b(?P<negated>no )?(?:(?:{MORE}) than|above|exceed(?:s|ing)?|at least|beyond|(?P<loose>over)"
    rf"|(?P<below>(?:{LESS}) than|under|below|at most|up to))\s*$",
    re.IGNORECASE,
)
"""Words before a number that is a bound; "over 8 heads" may also mean exactly so many."""
_LONGEST_SENTENCE = 1000
"""Characters; nobody reads a longer one, and checking it takes time that grows with its square."""
_NEGATED = re.compile(r"(?:\bnot|n't|\bnever|\bwithout)\s+(?:\w+\s+){0,2}$", re.IGNORECASE)
_AFTER = re.compile(
    r"(?:\s+of(?:\s+the|\s+all)?\s+\d+)?(?P<words>(?:[\s-]+[a-z]+){1,3})", re.IGNORECASE
)
_NOUNS = {
    "block": "layer", "embedding": "embedding", "attention": "attention", "expert": "experts",
    "normalisation": "norm", "convolution": "conv",
} | {name: name for name in (
    "head", "layer", "mlp", "norm", "conv", "linear", "pool", "residual", "unit", "neuron",
    "channel", "component", "finding", "candidate", "proposal", "change",
)}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Cited:
    """A number that a text's author says it rests on."""

    component: str
    measurement: str
    value: float


@dataclass(frozen=True, kw_only=True)
class Grounded:
    """A text without the sentences that did not hold."""

    text: str
    claims: tuple[Claim, ...]
    """All numbers that were checked, those of struck sentences included (`holds` is False)."""
    struck: int
    """Sentences removed."""


def clean(text: str) -> str:
    """The text in NFKC form, without control or direction characters: so checked, so shown."""
    plain = unicodedata.normalize("NFKC", text).replace("\t", " ").replace("\u2044", "/")
    kept = (c for c in plain if c == "\n" or unicodedata.category(c)[0] != "C")
    return "".join(kept).strip()


def ground(
    text: str,
    facts: Facts,
    reader: Reader,
    *,
    cited: Sequence[Cited] = (),
    findings: Sequence[str] = (),
    subject: Iterable[Fact] = (),
) -> Grounded:
    """Check a text sentence by sentence.

    Args:
        text: What was written.
        facts: What is known.
        reader: Finds names in it.
        cited: Numbers the author cites; each is checked, and only those that hold may stand in a
            sentence that does not name its measurement.
        findings: Ids of the findings the text is about: their evidence may be stated.
        subject: Further facts the text is about, e.g. what a proposal is expected to bring.

    Returns:
        The sentences that hold, every number that was checked, and how many sentences went.
    """
    claims = [_check_citation(citation, facts) for citation in cited]
    pool = [fact for name in findings for fact in facts.evidence(name)] + list(subject)
    for claim in claims:
        if claim.holds and claim.component and claim.measurement:
            pool += [fact for fact in facts.at[claim.component] if fact.name == claim.measurement]
    kept: list[str] = []
    struck = 0
    for piece in _SENTENCE_END.split(clean(text)):
        if not piece.strip():
            kept.append(piece)
            continue
        checked = _check_sentence(piece, facts, reader, tuple(pool), tuple(findings))
        claims += checked
        if all(claim.holds for claim in checked):
            kept.append(piece)
        else:
            struck += 1
    joined = re.sub(r"\n{3,}", "\n\n", re.sub(r" {2,}", " ", "".join(kept))).strip()
    return Grounded(text=joined, claims=tuple(claims), struck=struck)


def _check_citation(citation: Cited, facts: Facts) -> Claim:
    known = [f for f in facts.at.get(citation.component, ()) if f.name == citation.measurement]
    last_digit = Decimal(repr(citation.value)).normalize().as_tuple().exponent
    half_step = 0.5 * 10.0 ** min(int(last_digit), 0)
    near = min(known, key=lambda fact: abs(fact.value - citation.value), default=None)
    return Claim(
        text=f"{citation.component} {citation.measurement}",
        component=citation.component,
        measurement=citation.measurement,
        stated=citation.value,
        measured=near.value if near else None,
        holds=near is not None and abs(near.value - citation.value) <= half_step * (1 + 1e-9),
    )


def _check_sentence(
    sentence: str, facts: Facts, reader: Reader, pool: tuple[Fact, ...], findings: tuple[str, ...]
) -> list[Claim]:
    """One claim per number, comparison and doubtful name; the sentence holds when all do."""
    if len(sentence) > _LONGEST_SENTENCE:
        return [Claim(text=sentence[:80], stated=0.0, holds=False)]
    names = reader.read(sentence)
    numerals = find_numerals(names.rest)
    pool += tuple(f for name in sorted(names.findings) for f in facts.evidence(name))
    pool += tuple(f for p in sorted(names.proposals) for f in facts.expected(facts.proposals[p]))
    comparisons = check_comparisons(names, numerals, facts)
    compared = {comparison.start for comparison in comparisons}
    claims = [
        Claim(
            text=sentence[max(0, c.start - 30) : c.start + 60],
            stated=c.stated or 0.0, measured=c.measured, holds=c.holds,
        )
        for c in comparisons
    ]  # fmt: skip
    claims += [Claim(text=sentence, stated=0.0, holds=False) for m in names.mentions if not m.ids]
    claims += [
        Claim(text=word, stated=0.0, holds=False)
        for at, word in names.unknown
        if not any(numeral.start <= at < numeral.end for numeral in numerals)
    ]
    matched = [
        (numeral, _candidates(numeral, names, facts, pool, findings))
        for numeral in numerals
        if numeral.start not in compared
    ]
    in_order = _orders_hold(matched, names, facts)
    for numeral, candidates in matched:
        best = candidates[0] if candidates else None
        where = best.components if best else frozenset()
        claims.append(
            Claim(
                text=sentence[max(0, numeral.start - 40) : numeral.end + 20].strip(),
                component=next(iter(where)) if len(where) == 1 else None,
                measurement=(best.name or None) if best else None,
                stated=numeral.value,
                measured=best.value if best else None,
                holds=best is not None and in_order,
            )
        )
    return claims


def _candidates(
    numeral: Numeral, names: Names, facts: Facts, pool: tuple[Fact, ...], findings: tuple[str, ...]
) -> list[Fact]:
    """Facts that a numeral may be stating, given what its sentence names."""
    before = names.rest[: numeral.start]
    if _NEGATED.search(before):
        return []
    named = frozenset(name for mention in names.mentions for name in mention.ids)
    wanted = {name for _, name in names.measurements}
    found = [
        fact for name in sorted(named) for fact in facts.at.get(name, ()) if fact.name in wanted
    ]
    for fact in pool:
        fits = not wanted or fact.name in wanted or not fact.name
        parts = (facts.ancestors(name) | {name} for name in fact.components)
        about = not named or any(named & part for part in parts)
        if fits and about:
            found.append(fact)
    sentence = names.sentence.lower()
    for fact in facts.general:
        if all(any(word in sentence for word in group) for group in fact.words):
            found.append(fact)
    bound = _BOUND.search(before)
    if bound:
        sign = 1 if bool(bound["below"]) == bool(bound["negated"]) else -1
        beyond = [fact for fact in found if _bounded(fact, numeral, sign)]
        if beyond or not bound["loose"]:
            return beyond
    stated = [fact for fact in found if fact.is_stated_by(numeral)]
    return stated or _counted(numeral, names, facts, named, findings)


def _counted(
    numeral: Numeral, names: Names, facts: Facts, named: frozenset[str], findings: tuple[str, ...]
) -> list[Fact]:
    """What there are so many of: "12 heads", "3 of the 12 heads"."""
    after = _AFTER.match(names.rest, numeral.end)
    if not numeral.whole or numeral.times or after is None:
        return []
    cited = (*findings, *sorted(names.findings))
    for word in re.findall("[a-z]+", after["words"].lower()):
        noun = _NOUNS.get(word) or _NOUNS.get(word.removesuffix("s"))
        if noun and numeral.value in facts.counts(noun, named, cited):
            return [Fact(value=numeral.value, name="", unit="count")]
    return []


def _bounded(fact: Fact, numeral: Numeral, sign: int) -> bool:
    """Whether a fact lies beyond a stated bound, above it (sign 1) or below (sign -1)."""
    scale = 0.01 if numeral.percent and fact.unit != "%" else 1.0
    return sign * fact.value >= sign * numeral.value * scale


def _orders_hold(matched: Sequence[tuple[Numeral, list[Fact]]], names: Names, facts: Facts) -> bool:
    """Whether the numbers of a sentence about several components belong to the right ones.

    There must be one way of reading that fits all of them: each number belongs to the component
    named before it, or to the one named after it, or they stand in the same order.
    """
    mentions = [mention for mention in names.mentions if mention.ids]
    if len({mention.ids for mention in mentions}) < 2:
        return True
    bound = [(n, c) for n, c in matched if c and not any(not fact.components for fact in c)]

    def belongs(candidates: list[Fact], mention: Mention | None) -> bool:
        return mention is not None and any(
            mention.ids & (facts.ancestors(name) | {name})
            for fact in candidates
            for name in fact.components
        )

    def before(numeral: Numeral) -> Mention | None:
        return next((m for m in reversed(mentions) if m.end <= numeral.start), None)

    def after(numeral: Numeral) -> Mention | None:
        return next((m for m in mentions if m.start >= numeral.end), None)

    readings = [
        all(belongs(candidates, before(numeral)) for numeral, candidates in bound),
        all(belongs(candidates, after(numeral)) for numeral, candidates in bound),
        len(bound) == len(mentions)
        and all(belongs(c, m) for (_, c), m in zip(bound, mentions, strict=True)),
    ]
    return any(readings)
