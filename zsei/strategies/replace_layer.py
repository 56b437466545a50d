"""Replace a layer by a fitted linear map."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

from pydantic import BaseModel, ConfigDict, Field

from zsei.errors import SurgeryRefused, UsageError
from zsei.records import Proposal
from zsei.settings import EditKind, Settings
from zsei.strategies.remove_layer import chosen_layers
from zsei.strategies.strategy import Scores, named_again, parameters
from zsei.subject.types import Anatomy, Subject
from zsei.surgery.calibration import layer_halves
from zsei.surgery.edits import Edit, layer_site
from zsei.surgery.edits import ReplaceLayer as Replace
from zsei.surgery.replace_layer import find_ends, fit_map, map_values
from zsei.surgery.weights import Weights

Form = Literal["linear", "convolution"]


class ReplaceParams(BaseModel):
    """What stands in for the layers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    form: Form | None = Field(default=None, alias="with")
    """linear: one map for every token; convolution: a 1 x 1 convolution for images, with a stride
    where the layer makes them smaller; none: whichever fits the layer."""


@final
@dataclass(frozen=True, kw_only=True)
class ReplaceLayer:
    """Computes what a block gives from what enters it by one linear map, fitted by least squares.

    Exact when: the block is a linear map of each token (or pixel) on the data.
    Costs: c_in * c_out + c_out parameters a layer, and what of the block is not linear or looks at
    other tokens. Each layer is fitted to the original; several at once see other inputs.
    Misleads when: the calibration data has fewer rows than channels: the fit is then held near the
    identity, and near zero where the block changes the number of channels.
    References: Gromov et al., "The unreasonable ineffectiveness of the deeper layers", 2024.
    """

    name: ClassVar[str] = "replace-layer"
    edit_kind: ClassVar[EditKind] = "layers"
    params: ClassVar[type[BaseModel]] = ReplaceParams

    def settled(self, subject: Subject, scores: Scores, proposal: Proposal) -> Proposal:
        """The proposal with the form that fits all its layers, where it names none."""
        del scores
        params = parameters(self, proposal)
        assert isinstance(params, ReplaceParams)
        if params.form is not None or subject.program is None:
            return proposal
        forms: tuple[Form, ...] = ("linear", "convolution")
        for form in forms:
            named = named_again(proposal, {"with": form})
            try:
                for edit in chosen_edits(self.name, subject.anatomy, named, None, form):
                    find_ends(subject.program, edit)
            except SurgeryRefused:
                continue
            return named
        return proposal

    def edits(
        self, anatomy: Anatomy, scores: Scores, proposal: Proposal, settings: Settings
    ) -> tuple[Edit, ...]:
        """One replacement per layer, at most `settings.max_layer_share` of them."""
        del scores
        params = parameters(self, proposal)
        assert isinstance(params, ReplaceParams)
        form = params.form or "linear"
        return chosen_edits(self.name, anatomy, proposal, settings, form)

    def weights(self, subject: Subject, edits: Sequence[Edit], proposal: Proposal) -> Weights:
        """The fitted maps."""
        del proposal
        chosen = [edit for edit in edits if isinstance(edit, Replace)]
        found: Weights = {}
        for edit, halves in zip(chosen, layer_halves(subject, chosen), strict=True):
            weight, bias, _ = fit_map(halves)
            dtype = next(subject.model.parameters()).dtype
            found = {**found, **map_values(edit, weight, bias, dtype)}
        return found


def errors_left(subject: Subject, edits: Sequence[Replace]) -> list[float | None]:
    """For each layer the squared error of its map over that of leaving the layer out; None where
    no map can be fitted.
    """
    found: list[float | None] = []
    for halves in layer_halves(subject, edits) if edits else ():
        try:
            found.append(fit_map(halves)[2])
        except (SurgeryRefused, RuntimeError):  # torch: sums that cannot be solved
            found.append(None)
    return found


def chosen_edits(
    name: str, anatomy: Anatomy, proposal: Proposal, settings: Settings | None, form: Form
) -> tuple[Replace, ...]:
    """The replacements of the layers a proposal names."""
    found = []
    for component in chosen_layers(name, anatomy, proposal, settings):
        site = layer_site(anatomy, component)
        if site is None or "#" in component:
            raise UsageError(
                f"{name} takes layers that are called once; {component!r} is none of this model's."
            )
        found.append(Replace(site=site, form=form))
    return tuple(found)
