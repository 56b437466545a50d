"""How much of the image a unit in the middle of each stage sees, and how much of that it uses."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, final

import torch
from torch import Tensor

from zsei.measures.images import Stage, stages
from zsei.measures.modality import image_input
from zsei.records import Measurement
from zsei.trace.view import Measured, View


@final
@dataclass(frozen=True, kw_only=True)
class ReceptiveField:
    """The hierarchy of a vision model: the view that grows from stage to stage.

    Measures: the receptive field (any influence) and the effective one (where influence is) of the
    central unit of each stage.

    Formula: e_yx = E_n Σ_c (∂ s / ∂ x_nc,yx)², s the central place's channels under random signs;
    receptive_field = the larger side of the box around e > 0, in pixels; effective_receptive_field
    = √((Σ e)² / Σ e²), the side of a square over which e would be even. One batch, one backward
    pass per stage.

    Reading it: it should grow steadily and reach the size of what is to be told apart before the
    last stage. An effective field that stops growing says that later stages only recombine.

    Misleads when: the field is cut by the border (it cannot exceed the image), or saturated
    activations hide influence on this batch.

    References: Luo, Li, Urtasun and Zemel, "Understanding the effective receptive field in deep
    convolutional neural networks", NeurIPS 2016.
    """

    name: ClassVar[str] = "receptive-field"

    nothing: float = 1e-12
    """Influence below this share of the largest counts as none."""

    def measure(self, view: View) -> Measured:
        """Two numbers per stage."""
        index = image_input(view.subject)
        known = stages(view) if index is not None else ()
        if index is None or not known:
            return Measured()
        found: dict[str, tuple[Measurement, ...]] = {}
        for stage, influence in influences(view, index, known):
            peak = float(influence.max())
            if peak <= 0:
                continue
            seen = influence > self.nothing * peak
            box = max(_extent(seen.any(1)), _extent(seen.any(0)))
            area = float(influence.sum().square() / influence.square().sum())
            n = view.subject.calibration[0].size
            height, width = influence.shape
            note = f"of {height} x {width} pixels"
            found[stage.component] = (
                Measurement(name="receptive_field", value=box, unit="pixels", n=n, note=note),
                Measurement(name="effective_receptive_field", value=area**0.5, unit="pixels", n=n,
                            note=note),
            )  # fmt: skip
        return Measured(measurements=found)


def influences(view: View, index: int, known: tuple[Stage, ...]) -> list[tuple[Stage, Tensor]]:
    """(stage, squared influence [y, x] of each pixel on its central unit) for each stage."""
    batch = view.subject.calibration[0]
    images = batch.inputs[index].detach().clone().requires_grad_()
    inputs = tuple(images if i == index else x for i, x in enumerate(batch.inputs))
    alive: dict[str, Tensor] = {}

    def keeping(node: str) -> Callable[[Tensor], None]:
        def see(value: Tensor) -> None:
            alive[node] = value

        return see

    generator = torch.Generator().manual_seed(view.settings.seed)
    found = []
    with torch.enable_grad():
        watch = {stage.node: keeping(stage.node) for stage in known}
        view.engine.run(replace(batch, inputs=inputs), watch)
        for stage in known:
            value = alive.get(stage.node)
            if value is None or not value.requires_grad:
                continue
            middle = stage.unit(value, stage.height // 2, stage.width // 2)
            signs = torch.randint(0, 2, middle.shape, generator=generator) * 2 - 1
            [gradient] = torch.autograd.grad((middle * signs).sum(), [images], retain_graph=True)
            found.append((stage, gradient.double().square().sum(1).mean(0)))
    return found


def _extent(seen: Tensor) -> int:
    """How far apart the first and the last True stand, both included."""
    where = seen.nonzero().flatten()
    return int(where[-1] - where[0]) + 1
