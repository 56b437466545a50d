"""What a language model may answer with. Every name in it comes from a closed list.

No field takes a number that the program knows: the model cites, and what it cites is checked. No
dict, no default, nothing nested deeper than a list of objects: providers treat those differently.
The lists arrive as validation context under the names of `Vocabulary`.
"""

from collections.abc import Mapping
from typing import TypedDict

from pydantic import BaseModel, ValidationInfo, field_validator, model_validator

from zsei.records import Record

LONGEST_TEXT = 6000
LONGEST_RATIONALE = 1200
LARGEST_FRACTION = 0.9
"""Nobody may ask for more of a component than this to go; the gate's own limits are elsewhere."""


class Vocabulary(TypedDict):
    """The closed lists an answer is checked against."""

    measured: Mapping[str, frozenset[str]]
    """Component id -> names of what was measured at it."""
    findings: frozenset[str]
    candidates: frozenset[str]
    strategies: Mapping[str, frozenset[str]]
    """Strategy -> ids of the components it can be asked for at."""


class CitedNumber(Record):
    """A number that the text states, and where it was measured."""

    component: str
    measurement: str
    value: float

    @model_validator(mode="after")
    def _was_measured(self, info: ValidationInfo) -> "CitedNumber":
        measured = _vocabulary(info)["measured"]
        if self.component not in measured:
            raise ValueError("there is no such component in the data")
        if self.measurement not in measured[self.component]:
            raise ValueError("the data holds no such measurement at this component")
        return self


class Reading(Record):
    """What the numbers mean, in words."""

    text: str
    finding_ids: tuple[str, ...]
    claims: tuple[CitedNumber, ...]

    @field_validator("text")
    @classmethod
    def _length(cls, text: str) -> str:
        return _within(text, LONGEST_TEXT)

    @field_validator("finding_ids")
    @classmethod
    def _known(cls, names: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        known = _vocabulary(info)["findings"]
        if not known.issuperset(names):
            raise ValueError("there is an id that no finding in the data has")
        return names


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
    """An edit of the model's own: a known strategy at known components, in a size it asks for."""

    strategy: str
    components: tuple[str, ...]
    fraction: float
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
        if not _vocabulary(info)["measured"].keys() >= set(names):
            raise ValueError("there is no such component in the data")
        return tuple(dict.fromkeys(names))

    @model_validator(mode="after")
    def _fits(self, info: ValidationInfo) -> "Variant":
        if not _vocabulary(info)["strategies"][self.strategy].issuperset(self.components):
            raise ValueError("this strategy does not take components of that kind")
        return self

    @field_validator("fraction")
    @classmethod
    def _possible(cls, fraction: float) -> float:
        if not 0 < fraction <= LARGEST_FRACTION:
            raise ValueError(f"must lie above 0 and not above {LARGEST_FRACTION}")
        return fraction

    @field_validator("rationale")
    @classmethod
    def _length(cls, text: str) -> str:
        return _within(text, LONGEST_RATIONALE)


class StrategyPlan(Record):
    """What shall be tried, in this order: the choices first, then the variants."""

    text: str
    choices: tuple[Choice, ...]
    variants: tuple[Variant, ...]
    claims: tuple[CitedNumber, ...]

    @field_validator("text")
    @classmethod
    def _length(cls, text: str) -> str:
        return _within(text, LONGEST_TEXT)

    @model_validator(mode="after")
    def _something(self, info: ValidationInfo) -> "StrategyPlan":
        if _vocabulary(info)["candidates"] and not self.choices and not self.variants:
            raise ValueError("at least one candidate must be chosen; the gate decides, not you")
        return self


OUTPUTS: Mapping[str, type[BaseModel]] = {"Reading": Reading, "StrategyPlan": StrategyPlan}
"""The types an agent card may name under `output`."""


def _vocabulary(info: ValidationInfo) -> Vocabulary:
    assert info.context is not None, "answers are validated with their vocabulary"
    return info.context  # type: ignore[return-value]


def _within(text: str, longest: int) -> str:
    if not text.strip() or len(text) > longest:
        raise ValueError(f"must not be empty, nor longer than {longest} characters")
    return text
