"""Prune neurons of MLPs and channels of convolutions."""

from dataclasses import dataclass
from typing import ClassVar, Literal, final

from pydantic import BaseModel

from zsei.errors import UsageError
from zsei.records import Proposal
from zsei.settings import EditKind, Settings
from zsei.strategies.strategy import Scores, Strategy, UnitParams, parameters
from zsei.subject.types import Anatomy, Site
from zsei.surgery.edits import Edit, RemoveUnits


@final
@dataclass(frozen=True, kw_only=True)
class PruneNeurons:
    """Removes hidden neurons: rows of the linears that write them, columns of the one that reads.

    Exact when: the neurons are 0 on every input (dead). A neuron that is a constant elsewhere costs
    that constant times its outgoing weights.
    Costs: many small contributions add up; the last neurons to go cost far more than the first.
    Misleads when: scores come from inputs unlike those the model will see.
    References: Molchanov et al., "Importance estimation for neural network pruning", 2019.
    """

    name: ClassVar[str] = "prune-neurons"
    edit_kind: ClassVar[EditKind] = "channels"
    params: ClassVar[type[BaseModel]] = UnitParams

    def edits(
        self, anatomy: Anatomy, scores: Scores, proposal: Proposal, settings: Settings
    ) -> tuple[Edit, ...]:
        """One removal per MLP or linear, keeping at least `settings.min_channels` neurons."""
        return _edits(self, "neuron", anatomy, scores, proposal, settings)


@final
@dataclass(frozen=True, kw_only=True)
class PruneChannels:
    """Removes output channels of convolutions with all that is coupled to them.

    Exact when: a channel is 0 behind its norm and activation on every input.
    Costs: as for neurons; early convolutions cost more per channel.
    Misleads when: scores come from inputs unlike those the model will see.
    References: Molchanov et al., "Pruning convolutional neural networks for resource efficient
    inference", 2017.
    """

    name: ClassVar[str] = "prune-channels"
    edit_kind: ClassVar[EditKind] = "channels"
    params: ClassVar[type[BaseModel]] = UnitParams

    def edits(
        self, anatomy: Anatomy, scores: Scores, proposal: Proposal, settings: Settings
    ) -> tuple[Edit, ...]:
        """One removal per convolution, keeping at least `settings.min_channels` channels."""
        return _edits(self, "channel", anatomy, scores, proposal, settings)


def _edits(
    strategy: Strategy, kind: Literal["neuron", "channel"], anatomy: Anatomy, scores: Scores,
    proposal: Proposal, settings: Settings,
) -> tuple[Edit, ...]:  # fmt: skip
    params = parameters(strategy, proposal)
    assert isinstance(params, UnitParams)
    if (params.fraction is None) == (params.units is None):
        raise UsageError(
            f"{strategy.name} takes either a fraction or units; it got "
            f"{'both' if params.units is not None else 'neither'}."
        )
    if not proposal.components or len(set(proposal.components)) < len(proposal.components):
        raise UsageError(f"{strategy.name} takes one or more components, each named once.")
    if params.units is not None and len(params.units) != len(proposal.components):
        raise UsageError(
            f"{strategy.name} takes one list of units per component; it got {len(params.units)} "
            f"for {len(proposal.components)}."
        )
    edits = []
    for position, component in enumerate(proposal.components):
        site = anatomy.site(component, kind)
        if site is None:
            raise UsageError(f"{strategy.name} finds no removable {kind}s at {component!r}.")
        if params.units is not None:
            units = _checked(strategy, site, params.units[position])
        else:
            assert params.fraction is not None
            units = _least(strategy, site, scores, params.fraction)
        left = site.units - len(units)
        if left < settings.min_channels:
            raise UsageError(
                f"At least {settings.min_channels} {kind}s stay; {component} would keep {left} of "
                f"{site.units}. Propose fewer, or set min_channels."
            )
        edits.append(RemoveUnits(site=site, units=units))
    return tuple(edits)


def _checked(strategy: Strategy, site: Site, units: tuple[int, ...]) -> tuple[int, ...]:
    wrong = [unit for unit in units if not 0 <= unit < site.units]
    if wrong or not units:
        raise UsageError(
            f"{strategy.name} takes units 0 to {site.units - 1} of {site.component}; it got "
            f"{wrong[:5] or 'none'}."
        )
    return tuple(sorted(set(units)))


def _least(strategy: Strategy, site: Site, scores: Scores, fraction: float) -> tuple[int, ...]:
    """The least important share of a site's units, at least one."""
    known = scores.get((site.component, site.kind))
    if known is None:
        raise UsageError(
            f"{strategy.name} with a fraction needs importance scores and there are none for "
            f"{site.component}. Name the units instead."
        )
    count = max(1, int(fraction * site.units))
    order = sorted(range(site.units), key=lambda unit: (known[unit], unit))
    return tuple(sorted(order[:count]))
