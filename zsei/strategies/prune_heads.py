"""Prune attention heads."""

from dataclasses import dataclass
from typing import ClassVar, final

from pydantic import BaseModel

from zsei.errors import UsageError
from zsei.records import Proposal
from zsei.settings import EditKind, Settings
from zsei.strategies.strategy import NoParams, Scores, parameters
from zsei.subject.types import Anatomy, Site
from zsei.surgery.edits import Edit, RemoveUnits


@final
@dataclass(frozen=True, kw_only=True)
class PruneHeads:
    """Removes whole attention heads with their rows of q, k, v and columns of the projection.

    Exact when: the head writes zero, or is read by nothing.
    Costs: what the heads wrote; a head may back up another, so several at once can cost more than
    their sum.
    Misleads when: heads share keys and values (grouped query attention): then only whole groups
    can go, which the candidates respect.
    References: Michel, Levy and Neubig, "Are sixteen heads really better than one?", 2019.
    """

    name: ClassVar[str] = "prune-heads"
    edit_kind: ClassVar[EditKind] = "heads"
    params: ClassVar[type[BaseModel]] = NoParams

    def edits(
        self, anatomy: Anatomy, scores: Scores, proposal: Proposal, settings: Settings
    ) -> tuple[Edit, ...]:
        """One removal per attention, keeping at least `settings.min_heads` in each."""
        del scores
        parameters(self, proposal)
        chosen: dict[str, set[int]] = {}
        sites: dict[str, Site] = {}
        places = {
            head: (site, index)
            for site in anatomy.sites
            if site.kind == "head"
            for index, head in enumerate(site.unit_ids)
        }
        for head in proposal.components:
            if head not in places:
                raise UsageError(
                    f"{self.name} takes heads; {head!r} is none of this model's. Heads are named "
                    f"like {next(iter(places), 'encoder.layer.0/head.0')}."
                )
            site, index = places[head]
            sites[site.component] = site
            chosen.setdefault(site.component, set()).add(index)
        if not chosen:
            raise UsageError(f"{self.name} takes at least one head; the proposal names none.")
        for component, heads in chosen.items():
            left = sites[component].units - len(heads)
            if left < settings.min_heads:
                raise UsageError(
                    f"At least {settings.min_heads} heads stay in a layer; {component} would keep "
                    f"{left} of {sites[component].units}. Propose fewer, or set min_heads."
                )
        return tuple(
            RemoveUnits(site=sites[component], units=tuple(sorted(heads)))
            for component, heads in chosen.items()
        )
