"""Merge neurons that repeat each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from zsei.errors import UsageError
from zsei.records import Proposal
from zsei.settings import EditKind, Settings
from zsei.strategies.strategy import Scores, named_again, parameters
from zsei.subject.types import Anatomy, Site, Subject
from zsei.surgery.edits import Edit, RemoveUnits
from zsei.surgery.merge import Groups, correlations, duplicate_groups, merged_weights, unit_sums
from zsei.surgery.weights import Weights

LEAST = 0.95
"""|correlation| from which two units count as duplicates where a proposal says nothing."""


class MergeParams(BaseModel):
    """Which units go into which: the groups themselves, or how alike they must be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_correlation: float | None = Field(default=None, ge=0.5, le=1)
    """|correlation| on the calibration data from which two units are duplicates."""
    groups: tuple[Groups, ...] | None = None
    """For each component its groups of units, of which the first stays."""


@final
@dataclass(frozen=True, kw_only=True)
class MergeNeurons:
    """Cuts neurons that repeat another one, whose outgoing weights take over their work.

    Exact when: the neurons are multiples of the one that stays (of either sign), plus a constant
    where the reader has a bias.
    Costs: what of a neuron is not a line in the one that stays. Groups are connected components of
    the duplicates, so that the ends of a chain may differ by more than one step.
    Misleads when: units move together on this data only.
    References: Srinivas and Babu, "Data-free parameter pruning for deep neural networks", 2015.
    """

    name: ClassVar[str] = "merge-neurons"
    edit_kind: ClassVar[EditKind] = "channels"
    params: ClassVar[type[BaseModel]] = MergeParams

    def settled(self, subject: Subject, scores: Scores, proposal: Proposal) -> Proposal:
        """The proposal with the groups that the calibration data shows at its components."""
        del scores
        params = _checked(self, proposal)
        if params.groups is not None or subject.program is None:
            return proposal
        sites = [_site(self, subject.anatomy, name) for name in proposal.components]
        least = params.min_correlation or LEAST
        groups: dict[str, JsonValue] = {}
        for site, sums in zip(sites, unit_sums(subject, sites), strict=True):
            found = duplicate_groups(correlations(sums), least)
            if found:
                groups[site.component] = [[*map(int, group)] for group in found]
        if not groups:
            raise UsageError(
                f"{self.name} merges units whose |correlation| is {least} or more; there are none "
                f"in {', '.join(proposal.components)}. Ask for less likeness, or prune instead."
            )
        return named_again(proposal, {"groups": list(groups.values())}, tuple(groups))

    def edits(
        self, anatomy: Anatomy, scores: Scores, proposal: Proposal, settings: Settings
    ) -> tuple[Edit, ...]:
        """One removal per MLP, linear or convolution, keeping `settings.min_channels` units."""
        del scores
        params = _checked(self, proposal)
        sites = [_site(self, anatomy, name) for name in proposal.components]
        if params.groups is None:
            raise UsageError(
                f"{self.name} needs groups of units here. A likeness is settled on the calibration "
                f"data before, which finds no groups where no two units are as alike."
            )
        found = []
        for site, groups in zip(sites, params.groups, strict=True):
            name = site.component
            members = [unit for group in groups for unit in group]
            whole = all(len(group) > 1 for group in groups)
            if not groups or not whole or len(set(members)) < len(members):
                raise UsageError(
                    f"{self.name} takes groups of two or more units of {name}, each unit in one; "
                    f"it got {[list(group) for group in groups]}."
                )
            if wrong := [unit for unit in members if not 0 <= unit < site.units]:
                raise UsageError(
                    f"{self.name} takes units 0 to {site.units - 1} of {name}; it got {wrong[:5]}."
                )
            gone = tuple(sorted(unit for group in groups for unit in group[1:]))
            if site.units - len(gone) < settings.min_channels:
                raise UsageError(
                    f"At least {settings.min_channels} {site.kind}s stay; {name} would keep "
                    f"{site.units - len(gone)} of {site.units}. Merge fewer, or set min_channels."
                )
            found.append(RemoveUnits(site=site, units=gone, merged=True))
        return tuple(found)

    def weights(self, subject: Subject, edits: Sequence[Edit], proposal: Proposal) -> Weights:
        """What the readers of the units that stay must weigh them with."""
        params = _checked(self, proposal)
        assert subject.program is not None
        assert params.groups is not None
        sites = [edit.site for edit in edits]
        found: Weights = {}
        parts = zip(sites, params.groups, unit_sums(subject, sites), strict=True)
        for site, groups, sums in parts:
            found = {**found, **merged_weights(subject.program, site, groups, sums)}
        return found


def _checked(strategy: MergeNeurons, proposal: Proposal) -> MergeParams:
    params = parameters(strategy, proposal)
    assert isinstance(params, MergeParams)
    if not proposal.components or len(set(proposal.components)) < len(proposal.components):
        raise UsageError(f"{strategy.name} takes one or more components, each named once.")
    if params.groups is not None and len(params.groups) != len(proposal.components):
        raise UsageError(
            f"{strategy.name} takes one list of groups per component; it got "
            f"{len(params.groups)} for {len(proposal.components)}."
        )
    return params


def _site(strategy: MergeNeurons, anatomy: Anatomy, component: str) -> Site:
    site = anatomy.site(component, "neuron") or anatomy.site(component, "channel")
    if site is None:
        raise UsageError(f"{strategy.name} finds no neurons or channels at {component!r}.")
    return site
