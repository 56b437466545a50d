"""Exact mean ablation of all heads, against a bare forward; equal to the naive loop.

The naive loop runs the whole model once per head and edits the attention's value on the way.
"""

from dataclasses import dataclass

import torch

from benchmarks.minilm import bare_forward, subject
from benchmarks.paired import Ratio, ratio
from zsei.subject.objective import divergence, readout
from zsei.subject.types import Replacement, Subject
from zsei.trace.ablation import Target, ablate
from zsei.trace.engine import Engine, engine_for, replaced
from zsei.trace.evidence import collect_means


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was measured."""

    heads: int
    fast: Ratio
    naive: Ratio
    difference: float
    """Largest difference of a head's mean effect between the two."""


def head_targets(model: Subject) -> list[Target]:
    """Every head, by itself."""
    return [
        Target(site=site, units=(head,))
        for site in model.anatomy.sites
        if site.kind == "head"
        for head in range(site.units)
    ]


def naive(engine: Engine, model: Subject, targets: list[Target], means: dict) -> list[float]:
    """One full run per head."""
    batch = model.calibration[0]
    effects = []
    with torch.no_grad():
        clean = readout(model.objective, engine.run(batch), batch)
        for target in targets:
            value = means[target.site.component, "head"]
            change = Replacement(site=target.site, units=target.units, value=value)
            watch = {target.site.node: lambda seen, change=change: replaced(seen, change, None)}
            edited = readout(model.objective, engine.run(batch, watch), batch)
            effects.append(float(divergence(model.objective, edited, clean, batch).mean()))
    return effects


def measure(pairs: int = 3) -> Result:
    """Ratios of both ways to a bare forward, and their largest difference."""
    model = subject()
    engine = engine_for(model)
    targets = head_targets(model)
    means = collect_means(engine, [t.site for t in targets], model.calibration[:1])
    found: dict[str, list[float]] = {}

    def fast() -> None:
        effects = ablate(engine, model.objective, model.calibration[:1], targets, means=means)
        found["fast"] = [float(effect.divergence.mean()) for effect in effects]

    def slow() -> None:
        found["naive"] = naive(engine, model, targets, means)

    forward = bare_forward(model)
    quick, plain = ratio(fast, forward, pairs), ratio(slow, forward, 1)
    gap = max(abs(a - b) for a, b in zip(found["fast"], found["naive"], strict=True))
    return Result(heads=len(targets), fast=quick, naive=plain, difference=gap)


if __name__ == "__main__":
    print(measure())
