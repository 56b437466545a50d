"""What a strategy is: a name, typed parameters, and the edits it makes of a proposal."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol, runtime_checkable

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError

from zsei.errors import UsageError
from zsei.records import Proposal
from zsei.settings import EditKind, Settings
from zsei.subject.types import Anatomy, Subject
from zsei.surgery.edits import Edit
from zsei.surgery.weights import Weights

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


@runtime_checkable
class Fitting(Protocol):
    """A strategy whose edits come with new values of parameters, fitted to calibration data."""

    def settled(self, subject: Subject, scores: Scores, proposal: Proposal) -> Proposal:
        """The proposal as the data settles it: exact sizes in the place of a share or a likeness.

        Raises:
            UsageError: It names what does not exist, or nothing is left to do.
        """
        ...

    def weights(self, subject: Subject, edits: Sequence[Edit], proposal: Proposal) -> Weights:
        """New values by parameter name, sized as before any unit is cut.

        Args:
            subject: The model and its calibration data.
            edits: What this strategy made of the proposal.
            proposal: The proposal.

        Raises:
            UsageError: The model's structure does not allow it.
            SurgeryRefused: Likewise, naming the call.
        """
        ...


def named_again(
    proposal: Proposal, params: dict[str, JsonValue], components: tuple[str, ...] | None = None
) -> Proposal:
    """The proposal with other parameters (and components), and the id they come to."""
    kept = proposal.components if components is None else components
    named = Proposal.make(strategy=proposal.strategy, components=kept, params=params)
    changed = {"id": named.id, "params": named.params, "components": kept}
    return proposal.model_copy(update=changed)


def parameters(strategy: Strategy, proposal: Proposal) -> BaseModel:
    """The proposal's parameters, checked against the strategy's."""
    try:
        return strategy.params.model_validate(proposal.params)
    except ValidationError as error:
        where = "; ".join(
            f"{'.'.join(map(str, e['loc'])) or 'params'}: {e['msg']}" for e in error.errors()
        )
        raise UsageError(
            f"The parameters of {strategy.name} must fit its schema; {where}. It takes "
            f"{', '.join(_takes(strategy)) or 'none'}."
        ) from error


def _takes(strategy: Strategy) -> list[str]:
    """Names of a strategy's parameters, as a proposal gives them."""
    return [field.alias or name for name, field in strategy.params.model_fields.items()]
