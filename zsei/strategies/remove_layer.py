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
        found = []
        for name in chosen_layers(self.name, anatomy, proposal, settings):
            site = anatomy.site(name, "layer")
            if site is None:
                raise UsageError(
                    f"{self.name} takes layers whose input has the shape of their output; {name!r} "
                    f"is none of this model's. replace-layer can fit a map to other layers."
                )
            found.append(BypassLayer(site=site))
        return tuple(found)


def chosen_layers(
    strategy: str, anatomy: Anatomy, proposal: Proposal, settings: Settings | None
) -> tuple[str, ...]:
    """The layers a proposal names, each once.

    Args:
        strategy: Its name, for what is said.
        anatomy: The model's.
        proposal: Names components.
        settings: `max_layer_share` bounds how many; None: any number.

    Raises:
        UsageError: It names none, something else, or too many.
    """
    layers = {component.id for component in anatomy.components if component.kind == "layer"}
    names = tuple(dict.fromkeys(proposal.components))
    if not names:
        raise UsageError(f"{strategy} takes at least one layer; the proposal names none.")
    for name in names:
        if name not in layers:
            raise UsageError(f"{strategy} takes layers; {name!r} is none of this model's.")
    most = len(layers) if settings is None else int(settings.max_layer_share * len(layers))
    if settings is not None and len(names) > most:
        raise UsageError(
            f"At most {most} of {len(layers)} layers may go (max_layer_share "
            f"{settings.max_layer_share}); the proposal names {len(names)}."
        )
    return names
