"""Remove a layer."""

from dataclasses import dataclass
from typing import ClassVar, final

from pydantic import BaseModel

from zsei.errors import UsageError
from zsei.records import Proposal
from zsei.settings import EditKind, Settings
from zsei.strategies.strategy import NoParams, Scores, parameters
from zsei.subject.types import Anatomy
from zsei.surgery.edits import BypassLayer, Edit


@final
@dataclass(frozen=True, kw_only=True)
class RemoveLayer:
    """Takes a block out: what enters it goes on unchanged.

    Exact when: the block is the identity on every input.
    Costs: everything the block did. Blocks that each change little can change much together.
    Misleads when: block influence is small but what little the block changes is what the output
    reads; the measured bypass effect says more.
    References: Men et al., "ShortGPT", 2024; Gromov et al., "The unreasonable ineffectiveness of
    the deeper layers", 2024.
    """

    name: ClassVar[str] = "remove-layer"
    edit_kind: ClassVar[EditKind] = "layers"
    params: ClassVar[type[BaseModel]] = NoParams

    def edits(
        self, anatomy: Anatomy, scores: Scores, proposal: Proposal, settings: Settings
    ) -> tuple[Edit, ...]:
        """One bypass per layer, at most `settings.max_layer_share` of them."""
        del scores
        parameters(self, proposal)
        layers = [site for site in anatomy.sites if site.kind == "layer"]
        total = sum(component.kind == "layer" for component in anatomy.components)
        chosen = []
        for name in dict.fromkeys(proposal.components):
            site = next((site for site in layers if site.component == name), None)
            if site is None:
                raise UsageError(
                    f"{self.name} takes layers whose input has the shape of their output; {name!r} "
                    f"is none of this model's."
                )
            chosen.append(site)
        if not chosen:
            raise UsageError(f"{self.name} takes at least one layer; the proposal names none.")
        most = int(settings.max_layer_share * total)
        if len(chosen) > most:
            raise UsageError(
                f"At most {most} of {total} layers may go (max_layer_share "
                f"{settings.max_layer_share}); the proposal names {len(chosen)}."
            )
        return tuple(BypassLayer(site=site) for site in chosen)
