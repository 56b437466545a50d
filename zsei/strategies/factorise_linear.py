"""Factorise linears into two thin ones."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from pydantic import BaseModel, ConfigDict, Field

from zsei.errors import SurgeryRefused, UsageError
from zsei.records import Proposal
from zsei.settings import EditKind, Settings
from zsei.strategies.strategy import Scores, named_again, parameters
from zsei.subject.types import Anatomy, Subject
from zsei.surgery.calibration import inputs_of
from zsei.surgery.edits import Edit, linear_site
from zsei.surgery.edits import FactoriseLinear as Factorise
from zsei.surgery.factorise import fit_factors, linear_at, spectrum
from zsei.surgery.weights import Weights

KEPT = 0.99
"""Share of the outputs' energy kept where a proposal says nothing."""
WIDEST = 2048
"""Above this size nobody looks whether a weight happens to be of low rank; it takes long."""
WORTH = 0.9
"""Share of its parameters that a linear may keep for a factorisation to be worth proposing."""


class FactoriseParams(BaseModel):
    """How thin the factors are: one rank for all, one for each, or what they must keep."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int | None = Field(default=None, ge=1)
    """Rank of every component."""
    ranks: tuple[int, ...] | None = None
    """Rank of each component, in the order of the proposal's components."""
    kept: float | None = Field(default=None, gt=0, le=1)
    """Share of the outputs' energy on the calibration data that must be kept; linears that it does
    not make smaller stay as they are."""


@final
@dataclass(frozen=True, kw_only=True)
class FactoriseLinear:
    """Puts two thin linears in a linear's place, fitted to the inputs it sees.

    Exact when: the weight has that rank on the span of the data.
    Costs: r (o + i) parameters in the place of o i, one more call, and the output's weaker
    directions.
    Misleads when: the energy of an output direction is not its importance: a weak direction may be
    what later calls read. Time gained is less than parameters saved, for thin products run slower.
    References: Wang et al., "SVD-LLM", 2024; Yuan et al., "ASVD", 2023.
    """

    name: ClassVar[str] = "factorise-linear"
    edit_kind: ClassVar[EditKind] = "channels"
    params: ClassVar[type[BaseModel]] = FactoriseParams

    def settled(self, subject: Subject, scores: Scores, proposal: Proposal) -> Proposal:
        """The proposal with the rank of each linear that a share to keep comes to on the data."""
        del scores
        params = _checked(self, proposal)
        if params.rank is not None or params.ranks is not None or subject.program is None:
            return proposal
        module = subject.program.graph_module
        edits = []
        for name in proposal.components:
            site = linear_site(subject.anatomy, name)
            try:
                edit = None if site is None else Factorise(site=site, rank=1)
                if edit is not None:
                    linear_at(module, edit)
                    edits.append(edit)
            except SurgeryRefused:
                continue
        data = inputs_of(subject, edits)
        ranks: dict[str, int] = {}
        for edit in edits:
            _, linear = linear_at(module, edit)
            weight = linear.matrix(module)
            centred = linear.bias_name() is not None
            found = spectrum(weight, data[linear.source.name], centred=centred)
            rank = found.rank_for(params.kept or KEPT)
            if rank * sum(weight.shape) < weight.numel():
                ranks[edit.site.component] = rank
        if not ranks:
            raise UsageError(
                f"{self.name} must make a linear smaller: none of {', '.join(proposal.components)} "
                f"keeps {params.kept or KEPT} of its outputs' energy at such a rank. Keep less, or "
                f"name a rank."
            )
        return named_again(proposal, {"ranks": list(ranks.values())}, tuple(ranks))

    def edits(
        self, anatomy: Anatomy, scores: Scores, proposal: Proposal, settings: Settings
    ) -> tuple[Edit, ...]:
        """One factorisation per linear."""
        del scores, settings
        params = _checked(self, proposal)
        ranks = params.ranks or (params.rank,) * len(proposal.components)
        found = []
        for name, rank in zip(proposal.components, ranks, strict=True):
            site = linear_site(anatomy, name)
            if site is None:
                raise UsageError(f"{self.name} takes linears; {name!r} is none of this model's.")
            if rank is None:
                raise UsageError(
                    f"{self.name} needs ranks here. A share to keep is settled on the calibration "
                    f"data before, which finds no ranks where no linear would get smaller."
                )
            found.append(Factorise(site=site, rank=rank))
        return tuple(found)

    def weights(self, subject: Subject, edits: Sequence[Edit], proposal: Proposal) -> Weights:
        """The factors, and the biases that take up what they lose of the mean."""
        del proposal
        chosen = [edit for edit in edits if isinstance(edit, Factorise)]
        assert subject.program is not None
        return fit_factors(subject.program, chosen, inputs_of(subject, chosen))


def thin_linears(subject: Subject, kept: float) -> tuple[str, ...]:
    """Linears whose weights alone hold this share of their energy at a rank worth having."""
    assert subject.program is not None
    module = subject.program.graph_module
    found = []
    for component in subject.anatomy.components:
        site = linear_site(subject.anatomy, component.id)
        if site is None or "#" in component.id:
            continue
        try:
            _, linear = linear_at(module, Factorise(site=site, rank=1))
        except SurgeryRefused:
            continue
        weight = linear.matrix(module).double()
        if max(weight.shape) > WIDEST:
            continue
        tall = weight if weight.shape[0] >= weight.shape[1] else weight.T
        energy = torch.linalg.eigvalsh(tall.T @ tall).clamp_min(0).flip(0)
        most = int(WORTH * weight.numel() / sum(weight.shape))
        if most and float(energy[:most].sum()) >= kept * float(energy.sum()):
            found.append(component.id)
    return tuple(found)


def _checked(strategy: FactoriseLinear, proposal: Proposal) -> FactoriseParams:
    params = parameters(strategy, proposal)
    assert isinstance(params, FactoriseParams)
    given = [name for name in ("rank", "ranks", "kept") if getattr(params, name) is not None]
    if len(given) > 1:
        raise UsageError(f"{strategy.name} takes a rank, ranks or a share kept; it got {given}.")
    if not proposal.components or len(set(proposal.components)) < len(proposal.components):
        raise UsageError(f"{strategy.name} takes one or more linears, each named once.")
    if params.ranks is not None and len(params.ranks) != len(proposal.components):
        raise UsageError(
            f"{strategy.name} takes one rank per component; it got {len(params.ranks)} for "
            f"{len(proposal.components)}."
        )
    return params
