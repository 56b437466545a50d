"""What a language model may answer with. Every name in it comes from a closed list.

No field takes a number: texts hold slots, which the program fills, and sizes are chosen among those
it enumerates. No dict, no default, nothing nested deeper than a list of objects: providers treat
those differently. The lists arrive as validation context under the names of `Vocabulary`.
"""

from collections.abc import Mapping
from typing import Literal, TypedDict

from pydantic import BaseModel, ValidationInfo, field_validator, model_validator

from zsei.records import Record

LONGEST_TEXT = 6000
LONGEST_RATIONALE = 1200
Size = Literal["a sixteenth", "an eighth", "a quarter", "half", "three quarters"]
"""How much of a component may be asked to go; the gate's own limits are elsewhere."""
SIZES: Mapping[Size, float] = {
    "a sixteenth": 1 / 16, "an eighth": 1 / 8, "a quarter": 1 / 4, "half": 1 / 2,
    "three quarters": 3 / 4,
}  # fmt: skip
ObjectionKind = Literal[
    "not supported", "contradicted by a check", "too few samples", "tried before", "risk"
]


class Vocabulary(TypedDict):
    """The closed lists an answer is checked against."""

    components: frozenset[str]
    findings: frozenset[str]
    candidates: frozenset[str]
    said: frozenset[str]
    """Ids of what can be objected to: interpretations, findings, proposals."""
    strategies: Mapping[str, frozenset[str]]
    """Strategy -> ids of the components it can be asked for at."""


class Reading(Record):
    """What the numbers mean, in words."""

    text: str
    finding_ids: tuple[str, ...]

    @field_validator("text")
    @classmethod
    def _length(cls, text: str) -> str:
        return _within(text, LONGEST_TEXT)

    @field_validator("finding_ids")
    @classmethod
    def _known(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not _vocabulary(info)["findings"].issuperset(names):
            raise ValueError("there is an id that no finding in the data has")
        return tuple(dict.fromkeys(names))


class Choice(Record):
    """A candidate that shall be tried."""

    candidate: str
    rationale: str

    @field_validator("candidate")
    @classmethod
    def _known(cls, name: str, info: ValidationInfo) -> str:
        if name not in _vocabulary(info)["candidates"]:
            raise ValueError("there is no such candidate in the data")
        return name

    @field_validator("rationale")
    @classmethod
    def _length(cls, text: str) -> str:
        return _within(text, LONGEST_RATIONALE)


class Variant(Record):
    """An edit of the model's own: a known strategy at known components, in a size it chooses."""

    strategy: str
    components: tuple[str, ...]
    size: Size
    rationale: str

    @field_validator("strategy")
    @classmethod
    def _known_strategy(cls, name: str, info: ValidationInfo) -> str:
        if name not in _vocabulary(info)["strategies"]:
            raise ValueError("there is no such strategy in the data")
        return name

    @field_validator("components")
    @classmethod
    def _known_components(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if not names:
            raise ValueError("there must be at least one component")
        if not _vocabulary(info)["components"].issuperset(names):
            raise ValueError("there is no such component in the data")
        return tuple(dict.fromkeys(names))

    @model_validator(mode="after")
    def _fits(self, info: ValidationInfo) -> "Variant":
        if not _vocabulary(info)["strategies"][self.strategy].issuperset(self.components):
            raise ValueError("this strategy does not take components of that kind")
        return self

    @field_validator("rationale")
    @classmethod
    def _length(cls, text: str) -> str:
        return _within(text, LONGEST_RATIONALE)


class StrategyPlan(Record):
    """What shall be tried, in this order: the choices first, then the variants."""

    text: str
    choices: tuple[Choice, ...]
    variants: tuple[Variant, ...]

    @field_validator("text")
    @classmethod
    def _length(cls, text: str) -> str:
        return _within(text, LONGEST_TEXT)


class Doubt(Record):
    """What a critic holds against one thing that was said, found or proposed."""

    about: str
    kind: ObjectionKind
    text: str

    @field_validator("about")
    @classmethod
    def _known(cls, name: str, info: ValidationInfo) -> str:
        if name not in _vocabulary(info)["said"]:
            raise ValueError("no interpretation, finding or proposal in the data has this id")
        return name

    @field_validator("text")
    @classmethod
    def _length(cls, text: str) -> str:
        return _within(text, LONGEST_RATIONALE)


class Critique(Record):
    """What does not stand, and why; no objections where all of it does."""

    text: str
    objections: tuple[Doubt, ...]

    @field_validator("text")
    @classmethod
    def _length(cls, text: str) -> str:
        return _within(text, LONGEST_TEXT)


class SpeedOrder(Record):
    """Names of speed-ups, the one to combine first in front; unknown ones are passed over."""

    names: tuple[str, ...]


OUTPUTS: Mapping[str, type[BaseModel]] = {
    "Reading": Reading,
    "StrategyPlan": StrategyPlan,
    "Critique": Critique,
}
"""The types an agent card may name under `output` for the stages of advice."""


def _vocabulary(info: ValidationInfo) -> Vocabulary:
    assert info.context is not None, "answers are validated with their vocabulary"
    return info.context  # type: ignore[return-value]


def _within(text: str, longest: int) -> str:
    if not text.strip() or len(text) > longest:
        raise ValueError(f"must not be empty, nor longer than {longest} characters")
    return text
