"""What a strategy is: a name, typed parameters, and the edits it makes of a proposal."""

from collections.abc import Mapping
from typing import ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from zsei.errors import UsageError
from zsei.records import Proposal
from zsei.settings import EditKind, Settings
from zsei.subject.types import Anatomy
from zsei.surgery.edits import Edit

Scores = Mapping[tuple[str, str], tuple[float, ...]]
"""(component, site kind) -> estimated mean divergence caused by removing each unit."""


class NoParams(BaseModel):
    """Parameters of a strategy that needs none."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class UnitParams(BaseModel):
    """Which units of the named components go: a share of each, or the units themselves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fraction: float | None = Field(default=None, gt=0, lt=1)
    """Share of each component's units; the least important go."""
    units: tuple[tuple[int, ...], ...] | None = None
    """Unit numbers per component, in the order of the proposal's components."""


class Strategy(Protocol):
    """An executable edit of a model. It only says what to do; surgery does it, the gate judges."""

    name: ClassVar[str]
    edit_kind: ClassVar[EditKind]
    """Row of the gate's limits."""
    params: ClassVar[type[BaseModel]]
    """Its JSON schema is what a language model sees."""

    def edits(
        self, anatomy: Anatomy, scores: Scores, proposal: Proposal, settings: Settings
    ) -> tuple[Edit, ...]:
        """The edits of a proposal.

        Raises:
            UsageError: The proposal names what does not exist or breaks a minimum.
        """
        ...


def parameters(strategy: Strategy, proposal: Proposal) -> BaseModel:
    """The proposal's parameters, checked against the strategy's."""
    try:
        return strategy.params.model_validate(proposal.params)
    except ValidationError as error:
        where = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'params'}: {e['msg']}" for e in error.errors()
        )
        raise UsageError(
            f"The parameters of {strategy.name} must fit its schema; {where}. Give a fraction "
            f"between 0 and 1 or a list of units."
        ) from error
