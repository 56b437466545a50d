"""How the gradient changes on its way from the output back to the input."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar, final

import numpy as np

from zsei.analyzers.context import Analysis
from zsei.analyzers.shares import WORKING
from zsei.analyzers.words import number
from zsei.graph.paths import dominators
from zsei.records import Component, Finding, Measurement

SMALLEST = 1e-45
"""What a gradient of exactly zero counts as, so that it has a logarithm."""


@final
@dataclass(frozen=True, kw_only=True)
class GradientFlow:
    """Gradients that vanish, explode or jump between input and output.

    Measures: the size of the objective's gradient with respect to what every block writes, over
    depth.

    Formula: s_d = gradient RMS x √(entries per sample) at depth d, so that layers of different size
    compare (for equal sizes the ratios are those of the RMS). gradient_ratio = s_first / s_last;
    gradient_slope = slope of the least squares line of log10 s over d; neighbour ratios s_d /
    s_{d+1}. Vanishing below `vanishing`, exploding above `exploding`, a break where neighbours
    differ by more than `jump`. Depth runs along the residual joins of a stack, or along the chain
    of working parts where there are none. Severity: |log10 of the ratio| / 6, at most 1.

    Reading it: below 0.01 the first blocks learn a hundred times slower per unit of activation than
    the last; above 100 they are the ones that make training unstable. For a model that is only used
    it says where changes of an early value get lost or blown up.

    Misleads when: activations change scale along the way (the gradient with respect to them then
    changes inversely), as around a norm; or with very few samples.

    References: Hochreiter, Bengio, Frasconi and Schmidhuber, "Gradient flow in recurrent nets",
    2001; Glorot and Bengio, "Understanding the difficulty of training deep feedforward neural
    networks", AISTATS 2010.
    """

    code: ClassVar[str] = "gradient-flow"
    clock: ClassVar[bool] = False

    vanishing: float = 0.01
    """Ratio of the first block's gradient to the last one's below which it vanishes."""
    exploding: float = 100.0
    """The same ratio above which it explodes."""
    jump: float = 30.0
    """Ratio between neighbours (or its inverse) from which it is a break."""
    min_depth: int = 3
    """Fewest blocks that make a depth."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """One finding per stack of blocks, at most."""
        for series in _stacks(analysis):
            sizes = [_size(analysis, component) for component in series]
            if len(series) >= self.min_depth:
                yield from self._judge(analysis, series, sizes)

    def _judge(
        self, analysis: Analysis, series: list[Component], sizes: list[float]
    ) -> Iterator[Finding]:
        logs = np.log10([max(size, SMALLEST) for size in sizes])
        slope = float(np.polyfit(np.arange(len(logs)), logs, 1)[0])
        ratio = 10.0 ** float(logs[0] - logs[-1])
        steps = [float(first - second) for first, second in pairwise(logs)]
        steepest = int(np.argmax(np.abs(steps)))
        step = 10.0 ** steps[steepest]
        first, last = series[0].id, series[-1].id
        if ratio < self.vanishing or ratio > self.exploding:
            word = "vanishes" if ratio < self.vanishing else "explodes"
            components = tuple(component.id for component in series)
            message = (
                f"The gradient {word} on its way back: at {first} it is {number(ratio)} times that "
                f"at {last}, over {len(series)} blocks (slope {number(slope)} decades a block)."
            )
            severity = abs(math.log10(ratio)) / 6
        elif max(step, 1 / step) >= self.jump:
            above, below = series[steepest], series[steepest + 1]
            components = (above.id, below.id)
            message = (
                f"The gradient jumps between {below.id} and {above.id}: it is {number(step)} times "
                f"as large at the latter."
            )
            severity = abs(math.log10(step)) / 6
        else:
            return
        ends = [
            analysis.trace.measurements[c.id]["gradient_rms"].model_copy(update={"note": c.id})
            for c in (series[0], series[-1])
        ]
        yield Finding.make(
            code=self.code,
            components=components,
            severity=severity,
            evidence=(
                Measurement(name="gradient_ratio", value=ratio, unit="ratio"),
                Measurement(name="gradient_slope", value=slope, unit="decades per block"),
                Measurement(name="gradient_jump", value=step, unit="ratio",
                            note=f"{series[steepest].id} to {series[steepest + 1].id}"),
                Measurement(name="depth", value=len(series), unit="count"),
                *ends,
            ),
            message=message,
        )  # fmt: skip


def _size(analysis: Analysis, component: Component) -> float:
    """Gradient RMS times the root of the number of entries per sample."""
    found = analysis.trace.measurements[component.id]["gradient_rms"].value
    return (found or 0.0) * math.sqrt(max(component.bytes, 1))


def _stacks(analysis: Analysis) -> list[list[Component]]:
    """Series of components in depth: the joins of each stack of blocks, else the chain of parts."""
    known = [
        c
        for c in analysis.subject.anatomy.components
        if "gradient_rms" in analysis.trace.measurements[c.id]
    ]
    stacks: dict[str, list[Component]] = {}
    for component in known:
        if component.kind == "residual" and component.parent is not None:
            stacks.setdefault(re.sub(r"\d+", "*", component.parent), []).append(component)
    if stacks:
        return list(stacks.values())
    crossed = set(dominators(analysis.flow))
    return [[c for c in known if c.kind in WORKING and c.id in crossed]]
