"""How finely a vision model needs to see, and what each stage has room for."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor
from torch.nn import functional as F

from zsei.measures.images import stages
from zsei.measures.modality import could_not_tell, few_samples, image_input, run_twin, spread
from zsei.measures.reach import reach
from zsei.records import Matrix, Measurement
from zsei.subject.objective import divergence, loss, readout
from zsei.subject.types import Subject
from zsei.trace.rows import effective_rank
from zsei.trace.view import Measured, View

HALVINGS = 3
"""How often the sides are halved at most."""


@final
@dataclass(frozen=True, kw_only=True)
class Resolution:
    """Places times channels in use, stage by stage, and the effect of a coarser image.

    Measures: the room for information after each stage, and the detail that the output depends on.

    Formula: stage_rank = effective rank of the stage's channels over samples and places, every
    channel at unit variance; channel_use = stage_rank / channels; spatial_capacity = places ·
    stage_rank (also of the input). resolution_effect(s) = E_n D when the image is averaged down to
    s pixels along its longer side and blown up again; "1" is one colour per image.
    resolution_needed = the smallest side from which on the effect stays within `enough` of the
    largest; downsampling_share = effect of halving the sides over the largest effect.

    Reading it: a stage at which capacity falls steeply while the effect of a coarser image is high
    is where detail that matters is dropped. A resolution needed below the one given says that
    smaller images would do. channel_use near 1: all channels carry something of their own.

    Misleads when: neighbouring places are alike, as in all natural images: places then count more
    than they hold. A blown-up image is not what the model would see at that size.

    References: Roy and Vetterli, "The effective rank: a measure of effective dimensionality",
    EUSIPCO 2007; Tan and Le, "EfficientNet: rethinking model scaling for convolutional neural
    networks", ICML 2019 (resolution, width and depth together).
    """

    name: ClassVar[str] = "resolution"

    samples: int = 8
    """Samples shown at lower resolutions."""
    enough: float = 0.05
    """Share of the largest effect that counts as nothing."""
    near_cap: float = 0.8
    """Share of its cap (rows) from which a rank is taken to be hidden by it."""

    def measure(self, view: View) -> Measured:
        """Numbers per stage, one matrix, and the resolution needed on the input."""
        index = image_input(view.subject)
        if index is None:
            return Measured()
        found = {
            stage.component: self._room(view, stage.node, stage.height * stage.width)
            for stage in stages(view)
            if stage.node in view.rows
        }
        name = f"input.{view.subject.input_names[index]}"
        known = {c.id for c in view.subject.anatomy.components}
        first = name if name in known else view.subject.anatomy.components[0].id
        images = view.subject.calibration[0].inputs[index]
        node = view.taps.writers.get(name)
        own: tuple[Measurement, ...] = ()
        if node is not None and node in view.rows:
            own = self._room(view, node, images.shape[2] * images.shape[3])
        sides, effects, losses = coarser(view.subject, index, self.samples)
        metric = view.subject.objective.metric
        rows = [("divergence", effects)]
        if losses is not None:
            rows.append(("loss increase", losses))
        matrix = Matrix(
            name="resolution_effect",
            title="Effect of an image of fewer pixels along its longer side",
            rows=tuple(label for label, _ in rows),
            columns=tuple(str(side) for side in sides),
            values=tuple(tuple(values.double().mean(0).tolist()) for _, values in rows),
            unit=metric,
            n=len(effects),
        )
        needed = reach(effects, sides, enough=self.enough, seed=view.settings.seed)
        note = f"of {sides[-1]}; 90 % interval {needed.low} to {needed.high}"
        own = (
            *own,
            Measurement(name="resolution_needed", value=needed.length, unit="pixels",
                        n=len(effects), note=note),
            spread("downsampling_effect", effects[:, -2], metric, "sides halved"),
        )  # fmt: skip
        largest = float(effects.double().mean(0).max())
        if largest > 0:
            share = float(effects[:, -2].double().mean()) / largest
            own = (*own, Measurement(name="downsampling_share", value=share, unit="share",
                                     n=len(effects)))  # fmt: skip
        found[first] = (*found.get(first, ()), *own)
        return Measured(measurements=found, matrices=(matrix,))

    def _room(self, view: View, node: str, places: int) -> tuple[Measurement, ...]:
        rows = view.rows[node]
        n = len(view.row_samples[node].unique())
        rank, cap = effective_rank(rows, standardise=True)
        found = [Measurement(name="places", value=places, unit="count")]
        if cap < rows.shape[1] and rank >= self.near_cap * cap:
            why = f"{len(rows)} rows cap the rank at {cap}"
            return (*found, could_not_tell("stage_rank", "dimensions", why, n))
        return (
            *found,
            Measurement(name="stage_rank", value=rank, unit="dimensions", n=n,
                        note=f"from {len(rows)} rows; it cannot exceed {cap}"),
            Measurement(name="channel_use", value=rank / rows.shape[1], unit="share of width", n=n),
            Measurement(name="spatial_capacity", value=places * rank, unit="places x dimensions",
                        n=n),
        )  # fmt: skip


def coarser(subject: Subject, index: int, samples: int) -> tuple[list[int], Tensor, Tensor | None]:
    """(sides kept, divergence [n, k], loss increase [n, k]); the last side is the whole."""
    few = few_samples(subject, samples)
    images = few.inputs[index]
    height, width = images.shape[2:]
    whole = max(height, width)
    sides = [1, *(whole >> i for i in range(HALVINGS, 0, -1) if (whole >> i) > 1), whole]
    clean = readout(subject.objective, run_twin(subject, few.inputs), few)
    labelled = subject.objective.supervised and subject.objective.name != "similarity"
    base = loss(subject.objective, clean, few) if labelled else None
    effects = torch.zeros(len(images), len(sides))
    losses = torch.zeros(len(images), len(sides))
    for k, side in enumerate(sides[:-1]):
        size = (max(1, height * side // whole), max(1, width * side // whole))
        small = F.interpolate(
            F.adaptive_avg_pool2d(images, size), size=(height, width), mode="nearest"
        )
        inputs = tuple(small if i == index else x for i, x in enumerate(few.inputs))
        seen = readout(subject.objective, run_twin(subject, inputs), few)
        effects[:, k] = divergence(subject.objective, seen, clean, few)
        if base is not None:
            losses[:, k] = loss(subject.objective, seen, few) - base
    return sides, effects, losses if base is not None else None
