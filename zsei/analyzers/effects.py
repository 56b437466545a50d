"""The few extra ablations analyzers make, on the scale on which effects add up."""

from collections.abc import Sequence

import torch
from torch import Tensor

from zsei.analyzers.context import Analysis
from zsei.analyzers.shares import additive
from zsei.importance.candidates import unit_id
from zsei.records import Measurement
from zsei.subject.types import UnitKind
from zsei.trace.ablation import Target, ablate, ablate_together


def measured_effects(analysis: Analysis, targets: Sequence[Target]) -> list[Tensor]:
    """Effect per sample [n] of ablating each target, additive; what is known is not run again."""
    found: dict[int, Tensor] = {}
    missing: list[int] = []
    for index, target in enumerate(targets):
        known = None
        if len(target.units) == 1:
            known = analysis.importance.effects.get(unit_id(target.site, target.units[0]))
        if known is None:
            missing.append(index)
        else:
            found[index] = known.divergence
    if missing:
        fresh = ablate(
            analysis.engine,
            analysis.subject.objective,
            analysis.importance.batches,
            [targets[i] for i in missing],
            means=analysis.trace.means,
            replacement=analysis.settings.replacement,
            seed=analysis.settings.seed,
        )
        found |= {i: effect.divergence for i, effect in zip(missing, fresh, strict=True)}
    objective = analysis.subject.objective
    return [torch.as_tensor(additive(objective, found[i].double())) for i in range(len(targets))]


def joint_effect(analysis: Analysis, targets: Sequence[Target]) -> Tensor:
    """Effect per sample [n] of ablating all targets at once, additive."""
    found = ablate_together(
        analysis.engine,
        analysis.subject.objective,
        analysis.importance.batches,
        targets,
        means=analysis.trace.means,
        replacement=analysis.settings.replacement,
        seed=analysis.settings.seed,
    )
    return torch.as_tensor(additive(analysis.subject.objective, found.double()))


def effect_scores(analysis: Analysis, component: str, kind: UnitKind) -> list[float]:
    """Mean effect of each unit of a site, additive: exact where ablated, predicted elsewhere."""
    site = analysis.trace.units[component, kind].site
    found = []
    for index, score in enumerate(analysis.importance.scores[component, kind]):
        known = analysis.importance.effects.get(unit_id(site, index))
        effect = score if known is None else float(known.divergence.double().mean())
        found.append(float(additive(analysis.subject.objective, effect)))
    return found


def measurement(analysis: Analysis, name: str, values: Tensor, note: str = "") -> Measurement:
    """Mean and spread over samples of an additive effect."""
    metric = analysis.subject.objective.metric
    return Measurement(
        name=name,
        value=float(values.mean()),
        unit=f"({metric})²" if analysis.subject.objective.output == "values" else metric,
        std=float(values.std()) if len(values) > 1 else None,
        n=len(values),
        note=note,
    )


def bounds(values: Tensor) -> tuple[float, float]:
    """One-sided 95 % bounds of the mean over samples, by the normal approximation."""
    mean = float(values.mean())
    if len(values) < 2:
        return mean, mean
    error = 1.645 * float(values.std()) / len(values) ** 0.5
    return mean - error, mean + error
