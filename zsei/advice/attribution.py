"""Whether the numbers of a sentence stand where they belong: at their component, after their name.

A slot always gives a true number; a sentence can still put it to the wrong component ("b has
{a:rms}"), call it by another measurement's name, or turn it into another number by what stands
around it ("-{a:rms}", "{a:rms} million").
"""

import re
from collections.abc import Callable, Sequence

from zsei.advice.facts import MODEL, Facts
from zsei.advice.names import Mention, Names, Slot
from zsei.advice.numerals import NOUNS

_NEAR = 60
"""Characters before a slot that may change what it says."""
_PRONOUN = re.compile(r"\b(?:it|its|they|their|them|both|these|this|that|those)\b", re.IGNORECASE)
_WHOLE = re.compile(r"\b(?:model|network)\b", re.IGNORECASE)
_OPENS = re.compile(r"(?:^|[\s(\[\"'`“‘/=:~≈])$")
_SIGNED = re.compile(
    r"(?:[-\u2212+±]\s*|\b(?:minus|plus|point|times|over|divided by|"
    r"by a factor of|factor|power|all but|except|save)\s+(?:of\s+)?|[/×*^]\s*)$",
    re.IGNORECASE,
)
_NEGATED = re.compile(r"(?:\b(?:no|not|never|without|neither|nor)|n't)\s+(?:\w+\s+){0,2}$", re.I)
_CLOSES = re.compile(r"(?:$|\s|[)\]\"'`”’]|[.,;:!?…](?:$|[\s)\]\"'`”’]))")
_SCALED = re.compile(
    r"\s*(?:[×*/^+−-]|x\b|(?:times|fold|percent|per\s?cent|points?|hundreds?|thousands?|[mbtz]illions?|"
    r"[kKMGT]i?B?|kilo\w*|mega\w*|giga\w*|[mµun]?s|seconds?|minutes?)\b|[eE][-+\x01])",
)
_LINK = (
    r"(?:\s|[:=(\u2248~]|\x02"
    r"|\b(?:of|is|was|are|were|has|have|the|a|an|at|about|only|just|as|equals?)\b)*"
)
_BEFORE = re.compile(rf"{_LINK}$", re.IGNORECASE)
_AFTER = re.compile(r"\s+(?:of\s+)?(?:the\s+|its\s+|their\s+)?$", re.IGNORECASE)
_NOUN = re.compile(
    r"\s+(?:of\s+)?(?:\x01+\s+)?(?:(?:the|all|its|their|these|those)\s+)?"
    r"(?:(?!(?:in|at|of|for|the|and|or|is|are|has|have|by|on|with|from|to|as|than|while|when|which|"
    r"that|its|an?|both|all|not|it|but|behind|before|after|into)\b)[a-z-]+\s+)?"
    rf"(?P<noun>{NOUNS})\b",
    re.IGNORECASE,
)
_ALIKE = {"block": "layer", "expert": "experts", "convolution": "conv", "path": "path_rank"}
_UNITS = ("head", "neuron", "channel", "unit", "experts")
_EVERYTHING = ("dimension", "direction", "operation", "byte", "edge")
"""Nouns that only say the unit of a measurement, whatever its name."""


def misattributed(names: Names, facts: Facts, subject: frozenset[str]) -> bool:
    """Whether a number of a sentence is said of a component or under a name that is not its own.

    Args:
        names: What the sentence names, and its slots.
        facts: Which component is a part of which.
        subject: What "it" means in a sentence that names no component.
    """
    slots = [slot for slot in names.slots if slot.fact is not None]
    return (
        not all(_stands_free(slot, names.rest) for slot in slots)
        or not all(_called_so(slot, names) for slot in slots)
        or not _placed(slots, names, facts, subject)
    )


def _stands_free(slot: Slot, rest: str) -> bool:
    """Whether nothing around a slot changes the number it gives."""
    before, after = rest[max(0, slot.start - _NEAR) : slot.start], rest[slot.end :]
    return (
        _OPENS.search(before) is not None
        and _CLOSES.match(after) is not None
        and not _SIGNED.search(before)
        and not _SCALED.match(after)
        and not _NEGATED.search(before)
    )


def _called_so(slot: Slot, names: Names) -> bool:
    """Whether the measurement that adjoins a slot, or what it counts, is its own."""
    assert slot.fact is not None
    own = slot.fact.measurement
    for measured in names.measurements:
        before = measured.end <= slot.start and _BEFORE.fullmatch(
            names.rest[measured.end : slot.start]
        )
        after = measured.start >= slot.end and _AFTER.fullmatch(
            names.rest[slot.end : measured.start]
        )
        if before and own not in measured.names:
            return False
        if after and not any(name in own for name in measured.names):
            return False
    counted = _NOUN.match(names.rest, slot.end)
    return counted is None or _counts(own, counted["noun"].lower())


def _counts(measurement: str, noun: str) -> bool:
    """Whether a measurement counts what a noun names."""
    noun = "matrix" if noun == "matrices" else noun.removesuffix("s")
    noun = _ALIKE.get(noun, noun)
    words = measurement.replace("_", " ")
    counts_units = noun in _UNITS and "unit" in words
    return noun in words or counts_units or noun in _EVERYTHING


def _placed(slots: Sequence[Slot], names: Names, facts: Facts, subject: frozenset[str]) -> bool:
    """Whether there is one way of reading in which every number belongs to what it is said of.

    Each number belongs to what is named before it, or each to what is named after it, or they stand
    in the same order. What is named is a component or, in words, the model; a number of the model
    belongs to the model alone, that of a component or finding to components, where any is named.
    """
    bound = [slot for slot in slots if _owner(slot)]
    parts = [mention for mention in names.mentions if mention.ids]
    whole = [
        Mention(start=m.start(), end=m.end(), ids=frozenset((MODEL,)))
        for m in _WHOLE.finditer(names.rest)
    ]
    if not parts:
        pronoun = bound and _PRONOUN.search(names.rest[: bound[0].start])
        said_of_whole = bool(whole) and any(slot.owner in facts.components for slot in bound)
        of_subject = not (pronoun and subject) or all(_belongs(s, subject, facts) for s in bound)
        return of_subject and not said_of_whole
    everything = sorted((*parts, *whole), key=lambda mention: mention.start)

    def choice(slot: Slot) -> list[Mention]:
        return everything if slot.owner == MODEL else parts

    def before(slot: Slot) -> Mention | None:
        return next((m for m in reversed(choice(slot)) if m.end <= slot.start), None)

    def after(slot: Slot) -> Mention | None:
        return next((m for m in choice(slot) if m.start >= slot.end), None)

    def each(pick: Callable[[Slot], Mention | None]) -> bool:
        picked = [(slot, pick(slot)) for slot in bound]
        return all(m is not None and _belongs(slot, m.ids, facts) for slot, m in picked)

    in_order = len(bound) == len(parts) and all(
        _belongs(slot, mention.ids, facts) for slot, mention in zip(bound, parts, strict=True)
    )
    return each(before) or each(after) or in_order


def _owner(slot: Slot) -> frozenset[str]:
    """What a slot's number is said of: components, or the model; nothing, for the analysis."""
    assert slot.fact is not None
    return frozenset((MODEL,)) if slot.owner == MODEL else slot.fact.components


def _belongs(slot: Slot, ids: frozenset[str], facts: Facts) -> bool:
    """Whether a slot's number is measured at one of these components, or at a part of one."""
    return any(name in ids or not ids.isdisjoint(facts.above(name)) for name in _owner(slot))
