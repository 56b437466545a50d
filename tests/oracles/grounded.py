"""Which sentences may survive, word by word: slow, without a pattern, for texts built from words.

A sentence is a list of words (names, slots and phrases are one word each) joined by single spaces,
with a full stop behind the last.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from zsei.advice.wording import filled
from zsei.records import AnalysisRecord

NUMBERS = {"12", "half", "three", "%", "²", "٣"}
PHRASES = {
    "effective rank": "effective_rank", "flops share": "flops_share",
    "ablation effect": "ablation_effect",
}  # fmt: skip
LAYERS = {"layer 1": "encoder.layer.1"}
MISSING = {"layer 9", "f-0123456789ab", "conv_9", "encoder.layer.9/mlp"}
LINKS = {"of", "is", "has", "the"}
AFTER_THAN = {"of", "is", "has", "the", "it"}
NEGATED = "not"
WHOLE = "{model:heads}"
"""The only slot of the model."""


@dataclass(frozen=True)
class Number:
    """What a slot stands for."""

    measurement: str
    value: float | None
    unit: str
    at: frozenset[str]


class Oracle:
    """Reads sentences made of a fixed list of words."""

    def __init__(self, record: AnalysisRecord) -> None:
        """Take the record that the sentences are about."""
        self.record = record
        self.kinds = {part.id: part.kind for part in record.components}
        self.parents = {part.id: part.parent for part in record.components}

    def survives(self, words: Sequence[str]) -> bool:
        """Whether nothing in the sentence is wrong."""
        return not self.reasons(words)

    def filled(self, words: Sequence[str]) -> str:
        """The sentence with its numbers."""
        told = []
        for word in words:
            number = self.number(word)
            told.append(word if number is None else filled(number.value, number.unit))
        return " ".join(told) + "."

    def reasons(self, words: Sequence[str]) -> list[str]:
        """All that is wrong."""
        return [
            *(word for word in words if word in NUMBERS or word in MISSING),
            *(word for word in words if word.startswith("{") and self.number(word) is None),
            *self.wrong_comparisons(words),
            *self.wrong_neighbours(words),
            *self.wrong_places(words),
        ]

    def number(self, word: str) -> Number | None:
        """What a slot stands for, by looking through the whole record."""
        if not word.startswith("{"):
            return None
        owner, name = word.strip("{}").rsplit(":", 1)
        if name == "heads":
            heads = [part for part, kind in self.kinds.items() if kind == "head"]
            inside = [part for part in heads if owner == "model" or self.within(part, owner)]
            at = frozenset() if owner == "model" else frozenset((owner,))
            return Number("heads", len(inside), "count", at) if inside else None
        for component, taken in self.record.measurements.items():
            for one in taken:
                if (component, one.name) == (owner, name):
                    return Number(one.name, one.value, one.unit, frozenset((owner,)))
        for finding in self.record.findings:
            for one in finding.evidence:
                if (finding.id, one.name) == (owner, name):
                    return Number(one.name, one.value, one.unit, frozenset(finding.components))
        return None

    def component(self, word: str) -> str | None:
        """The component that a word names."""
        name = LAYERS.get(word, word)
        return name if name in self.kinds else None

    def is_item(self, word: str) -> bool:
        """Whether a word can be a side of a comparison."""
        return self.component(word) is not None or word.startswith("{")

    def start(self, words: Sequence[str], place: int) -> int:
        """Characters before a word."""
        return sum(len(word) + 1 for word in words[:place])

    def negated(self, words: Sequence[str], place: int) -> bool:
        """Whether one of the three plain words before a place is "not"."""
        before: list[str] = []
        for word in words[:place]:
            if self.is_item(word) or word in PHRASES or not word.replace(" ", "").isalpha():
                before = [""] * 3
            else:
                before += word.split()
        return NEGATED in before[-3:]

    def wrong_comparisons(self, words: Sequence[str]) -> Iterator[str]:
        """Comparisons that do not hold, cannot be checked, or compare nothing."""
        explained: set[int] = set()
        for place, word in enumerate(words):
            if place in explained:
                continue
            if word == "exceeds":
                if not self.holds(words, place, place, "more", len("")):
                    yield word
            elif word == "is larger than":
                explained.add(place)
                if not self.holds(words, place, place, "more", len("is ")):
                    yield word
            elif word == "has a lower":
                end = self.than(words, place)
                if end is None:
                    if len(self.spoken_of(words)) > 1:
                        yield word
                else:
                    explained |= set(range(place, end + 1))
                    if not self.holds(words, place, end, "less", len("has a ")):
                        yield word
            elif word == "than" or (word == "the largest" and not self.largest(words, place)):
                yield word

    def than(self, words: Sequence[str], place: int) -> int | None:
        """The word with the "than" that belongs to a comparative, no item in between."""
        for end in range(place + 1, len(words)):
            if self.is_item(words[end]):
                return None
            if words[end] in ("than", "is larger than"):
                return end
        return None

    def spoken_of(self, words: Sequence[str]) -> set[frozenset[str]]:
        """The different sets of components that names and slots are about."""
        found = set()
        for word in words:
            number, component = self.number(word), self.component(word)
            if number is not None:
                found.add(number.at)
            if component is not None:
                found.add(frozenset((component,)))
        return found

    def holds(self, words: Sequence[str], first: int, last: int, how: str, lead: int) -> bool:
        """Whether all on the left are more (or less) than all on the right."""
        left = self.side(words, first - 1, -1)
        right = self.side(words, last + 1, +1)
        if not left or not right:
            return False
        lead_words = [*words[:first], *words[first].split()[: len(words[first][:lead].split())]]
        if self.negated(lead_words, len(lead_words)):
            return False
        at = self.start(words, first) + lead
        for one in left:
            for other in right:
                pair = self.pair(words, one, other, at)
                if pair is None or not (pair[0] > pair[1] if how == "more" else pair[0] < pair[1]):
                    return False
        return True

    def side(self, words: Sequence[str], place: int, step: int) -> list[int]:
        """Places of the nearest item and of those joined to it."""
        while 0 <= place < len(words) and not self.is_item(words[place]):
            word = words[place]
            if step < 0 and word in (",", "not"):
                return []
            if step > 0 and word not in AFTER_THAN and word not in PHRASES:
                return []
            place += step
        if not 0 <= place < len(words):
            return []
        found = [place]
        while True:
            joint, place = [], place + step
            while 0 <= place < len(words) and not self.is_item(words[place]):
                joint.append(words[place])
                place += step
            joint = joint[::step]
            if not 0 <= place < len(words) or joint not in (
                [","], ["and"], [",", "and"], ["and", "of"], [",", "and", "of"],
            ):  # fmt: skip
                return found
            found.append(place)

    def pair(
        self, words: Sequence[str], one: int, other: int, at: int
    ) -> tuple[float, float] | None:
        """The two values that are compared."""
        numbers = [self.number(words[one]), self.number(words[other])]
        named = next((number.measurement for number in numbers if number), None)
        named = named or self.nearest(words, at)
        for side, place in enumerate((one, other)):
            if numbers[side] is None and named is not None:
                numbers[side] = self.number(f"{{{self.component(words[place])}:{named}}}")
        first, second = numbers
        if first is None or second is None or first.value is None or second.value is None:
            return None
        alike = first.measurement == second.measurement or first.unit == second.unit != ""
        return (first.value, second.value) if alike else None

    def nearest(self, words: Sequence[str], at: int) -> str | None:
        """The measurement named nearest to a character, or else that of the nearest slot."""
        for told in (
            [(place, PHRASES[word]) for place, word in enumerate(words) if word in PHRASES],
            [
                (place, n.measurement)
                for place, word in enumerate(words)
                if (n := self.number(word))
            ],
        ):
            if told:
                return min(told, key=lambda one: abs(self.start(words, one[0]) - at))[1]
        return None

    def largest(self, words: Sequence[str], place: int) -> bool:
        """Whether what the sentence names comes first among its kind."""
        components = {c for word in words if (c := self.component(word))}
        slots = [number for word in words if (number := self.number(word))]
        components = components or {name for number in slots for name in number.at}
        if not components:
            return not any(word.startswith("{") for word in words)
        kinds = {self.kinds[name] for name in components}
        at = self.start(words, place) + len("the ")
        measurement = self.nearest(words, at)
        lead = [*words[:place], "the"]
        if measurement is None or len(kinds) != 1 or self.negated(lead, len(lead)):
            return False
        values = {}
        for name, kind in self.kinds.items():
            number = self.number(f"{{{name}:{measurement}}}")
            if kind in kinds and number is not None and number.value is not None:
                values[name] = number.value
        if not components <= set(values):
            return False
        lowest = min(values[name] for name in components)
        return sum(value > lowest for value in values.values()) < len(components)

    def wrong_neighbours(self, words: Sequence[str]) -> Iterator[str]:
        """Slots that what stands around them changes, or calls by another name."""
        for place, word in enumerate(words):
            number = self.number(word)
            if number is not None and not self.fits(words, place, number):
                yield word

    def fits(self, words: Sequence[str], place: int, number: Number) -> bool:
        """Whether what stands around a slot leaves its number what it is, under its own name."""
        before, after = words[:place], list(words[place + 1 :])
        if before[-1:] == ["-"] or after[:1] == ["-"] or self.negated(words, place):
            return False
        back = place - 1
        while back >= 0 and (words[back] in LINKS or self.component(words[back])):
            back -= 1
        if back >= 0 and PHRASES.get(words[back], number.measurement) != number.measurement:
            return False
        for skipped in ("of", "the"):
            if after[:1] == [skipped]:
                after.pop(0)
        if after and PHRASES.get(after[0], number.measurement) != number.measurement:
            return False
        if after[:1] == ["the largest"]:
            after.pop(0)
        return after[:1] != ["heads"] or number.measurement == "heads"

    def wrong_places(self, words: Sequence[str]) -> Iterator[str]:
        """Numbers at something else than what is named for them."""
        components = [name for word in words if (name := self.component(word))]
        numbers = [word for word in words if self.number(word)]
        if not components:
            owners = {word[1:].rsplit(":", 1)[0] for word in numbers}
            if "the model" in words and owners & set(self.kinds):
                yield "said of the model"
            return
        readings = []
        for order in (words, words[::-1]):
            fits, last, part = True, None, None
            for word in order:
                part = self.component(word) or part
                last = word if word == "the model" or self.component(word) else last
                if word == WHOLE:
                    fits = fits and last == "the model"
                elif word in numbers:
                    fits = fits and self.belongs(self.number(word), part)
            readings.append(fits)
        readings.append(
            len(numbers) == len(components)
            and WHOLE not in numbers
            and all(
                self.belongs(self.number(n), c) for n, c in zip(numbers, components, strict=True)
            )
        )
        if not any(readings):
            yield "in the wrong place"

    def belongs(self, number: Number | None, component: str | None) -> bool:
        """Whether a number was measured at a component or at a part of it."""
        assert number is not None
        return any(name == component or self.within(name, component) for name in number.at)

    def within(self, part: str, component: str | None) -> bool:
        """Whether a part stands somewhere inside a component."""
        above = self.parents[part]
        while above is not None and above != component:
            above = self.parents[above]
        return above is not None
