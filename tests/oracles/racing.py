"""A complete ranking by whole runs, and the sureness of an order, in plain loops."""

import math
from statistics import NormalDist

import torch
from torch import Tensor

from zsei.subject.objective import divergence, readout
from zsei.subject.types import Replacement, Subject
from zsei.trace.ablation import Target
from zsei.trace.engine import Engine, replaced


def effects_by_whole_runs(
    subject: Subject, engine: Engine, targets: list[Target], means: dict[tuple[str, str], Tensor]
) -> list[float]:
    """Mean effect of each target: the whole model once per target and batch."""
    found = []
    for target in targets:
        moved: list[float] = []
        for batch in subject.calibration:
            with torch.no_grad():
                clean = readout(subject.objective, engine.run(batch), batch)
                change = Replacement(
                    site=target.site, units=target.units,
                    value=means[target.site.component, target.site.kind],
                )  # fmt: skip
                watch = {target.site.node: lambda v, c=change: replaced(v, c, None)}
                edited = readout(subject.objective, engine.run(batch, watch), batch)
                moved += divergence(subject.objective, edited, clean, batch).tolist()
        found.append(sum(moved) / len(moved))
    return found


def expected_agreement(level: list[float], variance: list[float]) -> float:
    """Mean over pairs of P(right order) - P(wrong order)."""
    total = pairs = 0.0
    for i in range(len(level)):
        for j in range(i):
            z = abs(level[i] - level[j]) / math.sqrt(variance[i] + variance[j])
            right = NormalDist().cdf(z)
            total += right - (1 - right)
            pairs += 1
    return total / pairs
