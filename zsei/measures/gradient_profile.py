"""How the gradient changes along depth, from batch to batch and from head to head."""

import math
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, final

import numpy as np
import torch
from torch import Tensor

from zsei.measures.samples import could_not_tell, working_parts
from zsei.records import Component, Measurement
from zsei.trace.view import Measured, View

SMALLEST = 1e-45
"""What a gradient of exactly zero counts as, so that it has a logarithm."""


@final
@dataclass(frozen=True, kw_only=True)
class GradientProfile:
    """Gradient RMS of heads, its variation over batches, ratios of neighbours, slope over depth.

    Measures: how evenly the gradient of the objective reaches the depth of a model, and how steady
    it is.

    Formula: gradient_variation = standard deviation over mean of the gradient RMS per batch. Along
    a stack of blocks, with s_d = gradient RMS x √(entries per sample) at depth d: gradient_step =
    s_d / s_{d+1}; gradient_slope = slope of the least squares line of log10 s over d, in decades
    per block. gradient_rms of a head is that of its part of the heads' value.

    Reading it: steps near 1 and a slope near 0 are even; the slope is called vanishing above
    `steep` and exploding below its negative (the gradient then grows towards the input). A
    variation above 1 says that single batches decide.

    Misleads when: the norm of the stream changes along the way, which the gradient mirrors; under
    fidelity the gradient is that of one random probe of the output per sample, so sizes are right
    on average only.

    References: Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
    networks", AISTATS 2010; Hanin, "Which neural net architectures give rise to exploding and
    vanishing gradients?", NeurIPS 2018.
    """

    name: ClassVar[str] = "gradient-profile"

    steep: float = 0.5
    """Decades per block from which a slope is called vanishing or exploding."""
    fewest_batches: int = 2
    """Batches that a variation needs."""
    fewest_blocks: int = 3
    """Depths that a slope needs."""

    def measure(self, view: View) -> Measured:
        """Variation per component, RMS per head, steps and one slope per stack."""
        found: dict[str, list[Measurement]] = {}
        sizes = [batch.size for batch in view.subject.calibration]
        for component, node in view.taps.writers.items():
            rows = view.gradient_rows.get(node)
            if rows is not None:
                batches = _batch_rms(rows, view.row_samples[node], sizes)
                found.setdefault(component, []).append(self._variation(batches))
        for tap in view.taps.attentions:
            rows = view.gradient_rows.get(tap.core)
            if rows is not None and rows.shape[1] % len(tap.heads) == 0:
                for head, m in zip(tap.heads, _heads(view, tap.core, rows, len(tap.heads)),
                                   strict=True):  # fmt: skip
                    found.setdefault(head, []).append(m)
        for series in depth_series(view):
            for component, measured in self._along(view, series):
                found.setdefault(component, []).append(measured)
        return Measured(measurements={c: tuple(ms) for c, ms in found.items()})

    def _variation(self, batches: Tensor) -> Measurement:
        name, unit = "gradient_variation", "std / mean"
        if len(batches) < self.fewest_batches:
            why = f"{self.fewest_batches} batches are needed; there is {len(batches)}"
            return could_not_tell(name, unit, why, len(batches))
        mean = float(batches.mean())
        if mean <= 0:
            return could_not_tell(name, unit, "the gradient is zero everywhere", len(batches))
        value = float(batches.std()) / mean
        return Measurement(name=name, value=value, unit=unit, n=len(batches),
                           note="n counts batches")  # fmt: skip

    def _along(self, view: View, series: list[Component]) -> list[tuple[str, Measurement]]:
        sizes = [gradient_size(view, component) for component in series]
        found = []
        for (shallow, first), (deep, second) in pairwise(zip(series, sizes, strict=True)):
            if second > 0:
                m = Measurement(name="gradient_step", value=first / second, unit="ratio",
                                note=f"over {deep.id}")  # fmt: skip
            else:
                m = could_not_tell("gradient_step", "ratio", f"no gradient reaches {deep.id}")
            found.append((shallow.id, m))
        name, unit = "gradient_slope", "decades per block"
        if len(series) < self.fewest_blocks:
            why = f"{self.fewest_blocks} blocks are needed; there are {len(series)}"
            return [*found, (series[0].id, could_not_tell(name, unit, why, len(series)))]
        logs = np.log10([max(size, SMALLEST) for size in sizes])
        slope = float(np.polyfit(np.arange(len(logs)), logs, 1)[0])
        word = "vanishing" if slope > self.steep else "even"
        word = "exploding" if slope < -self.steep else word
        note = f"{word} over {len(series)} blocks (limits ±{self.steep})"
        return [*found, (series[0].id, Measurement(name=name, value=slope, unit=unit, note=note))]


def gradient_size(view: View, component: Component) -> float:
    """Gradient RMS times the root of the entries per sample, so that unlike widths compare."""
    found = view.measurements[component.id]["gradient_rms"].value
    return (found or 0.0) * math.sqrt(max(component.bytes, 1))


def depth_series(view: View) -> list[list[Component]]:
    """Components in depth: the joins of each stack of blocks, else the working parts in a row."""
    known = {
        c.id: c
        for c in view.subject.anatomy.components
        if "gradient_rms" in view.measurements.get(c.id, {})
    }
    stacks: dict[str, list[Component]] = {}
    for component in known.values():
        if component.kind == "residual" and component.parent is not None:
            stacks.setdefault(re.sub(r"\d+", "*", component.parent), []).append(component)
    if not stacks:
        parts = [known[part] for part in working_parts(view) if part in known]
        return [parts] if len(parts) > 1 else []
    return [series for series in stacks.values() if len(series) > 1]


def _batch_rms(rows: Tensor, samples: Tensor, sizes: list[int]) -> Tensor:
    """RMS of the gradient rows of each batch, [b]."""
    ends = torch.tensor(sizes).cumsum(0)
    batch = torch.bucketize(samples, ends, right=True)
    squares = rows.double().square().mean(1)
    count = torch.bincount(batch, minlength=len(sizes))
    total = torch.zeros(len(sizes), dtype=torch.float64).index_add_(0, batch, squares)
    return (total / count.clamp_min(1)).sqrt()[count > 0]


def _heads(view: View, node: str, rows: Tensor, heads: int) -> list[Measurement]:
    n = len(view.row_samples[node].unique())
    rms = rows.double().view(len(rows), heads, -1).square().mean((0, 2)).sqrt()
    note = f"from {len(rows)} rows"
    return [
        Measurement(name="gradient_rms", value=float(value), unit="objective per activation", n=n,
                    note=note)
        for value in rms
    ]  # fmt: skip
