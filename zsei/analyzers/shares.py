"""What a part costs beside what it brings: the two shares hot spots are judged by."""

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor

from zsei.analyzers.context import Analysis
from zsei.analyzers.words import listed, percent
from zsei.graph.traffic import CONTAINERS
from zsei.records import Check, Component, Finding, Measurement
from zsei.subject.objective import Objective

WORKING = ("attention", "mlp", "experts", "conv", "linear", "recurrent")
"""Kinds of component that do the model's arithmetic."""
BANDS = (0.20, 0.10, 0.05)
"""Lower ends of the bands of cost, as shares: now, next, later; below the last not worth it."""
URGENCY = ("now", "next", "later", "not worth it")


def band(share: float) -> int:
    """Which band a share of the cost falls in: 0 over 20 %, 1 over 10 %, 2 over 5 %, 3 below."""
    return next((i for i, lower in enumerate(BANDS) if share >= lower), len(BANDS))


def first_half(samples: int, groups: int) -> Tensor:
    """Which samples form the first of two halves, bool [n]; either holds every data group.

    Groups alternate in the data, so that odd and even samples would part the groups, not the data.
    """
    return torch.arange(samples) // max(groups, 1) % 2 == 0


def additive(objective: Objective, effect: float | Tensor) -> float | Tensor:
    """An effect on the scale on which independent effects add up.

    KL and 1 - cos are quadratic in a small change, so that effects of unrelated changes add.
    Relative L2 is a length; its square adds.
    """
    return effect**2 if objective.output == "values" else effect


def working_parts(analysis: Analysis) -> list[Component]:
    """Components that do arithmetic, whole attentions and MLPs rather than their linears."""
    kinds = {c.id: c.kind for c in analysis.subject.anatomy.components}
    return [
        c
        for c in analysis.subject.anatomy.components
        if c.kind in WORKING and kinds.get(c.parent or "") not in CONTAINERS
    ]


def _effects(analysis: Analysis) -> dict[str, float]:
    scores, endings = analysis.importance.scores, analysis.flow.endings()
    return {
        part.id: float(additive(analysis.subject.objective, scores[part.id, "branch"][0]))
        for part in working_parts(analysis)
        if (part.id, "branch") in scores and part.id not in endings
    }


def summed_effect(analysis: Analysis) -> float:
    """Summed additive effect of removing each working part: what criticality shares are of."""
    return sum(_effects(analysis).values())


def criticality_shares(analysis: Analysis) -> dict[str, float]:
    """Working part -> its share of the summed effects of removing each; empty where none is known.

    Formula: e_c / Σ e, e the exact effect of mean ablation where it was measured and the predicted
    one elsewhere, on the scale on which effects add. A part that alone makes the output is left
    out: without it nothing is left, which says nothing about the others.
    """
    found = _effects(analysis)
    total = sum(found.values())
    return {part: value / total for part, value in found.items()} if total > 0 else {}


def sampled_shares(analysis: Analysis) -> dict[str, Tensor]:
    """Working part -> its additive effect per sample [n] over the mean summed effect of all.

    Only parts that were ablated exactly, and only when all were. For relative L2 these are means of
    squares where criticality shares take squares of means, so they weigh rare large effects more.
    """
    effects, wanted = analysis.importance.effects, criticality_shares(analysis)
    if not wanted or any(part not in effects for part in wanted):
        return {}
    objective = analysis.subject.objective
    per_sample = {
        part: torch.as_tensor(additive(objective, effects[part].divergence.double()))
        for part in wanted
    }
    total = sum(float(values.mean()) for values in per_sample.values())
    return {part: values / total for part, values in per_sample.items()} if total > 0 else {}


def hot_spots(
    *,
    code: str,
    measure: str,
    noun: str,
    cost: Mapping[str, float],
    criticality: Mapping[str, float],
    bands: tuple[float, ...],
    pressure: float,
    extra: Mapping[str, tuple[Measurement, ...]],
    tests: Callable[[tuple[str, ...]], tuple[Check, ...]] | None = None,
) -> Iterator[Finding]:
    """One finding per band of cost: parts that cost far more than they bring.

    Args:
        code: The analyzer's.
        measure: Name of the cost's measurement, a share.
        noun: What is spent, as in "of the operations".
        cost: Part -> share of the cost.
        criticality: Part -> share of the effect.
        bands: Lower ends of the bands, highest first.
        pressure: Least ratio of cost share to criticality share.
        extra: Part -> further evidence.
        tests: Test what is said of parts; None leaves it untested.
    """
    upper = 1.0 + 1e-9
    for lower in bands:
        parts = [
            part
            for part, share in cost.items()
            if lower <= share < upper and part in criticality
            and share >= pressure * criticality[part]
        ]  # fmt: skip
        parts.sort(key=lambda part: (criticality[part] - cost[part], part))
        if parts:
            found = _hot_spot(code, measure, noun, parts, cost, criticality, extra)
            checks = tests(tuple(parts)) if tests is not None else ()
            yield found.model_copy(update={"checks": checks})
        upper = lower


def _hot_spot(
    code: str, measure: str, noun: str, parts: list[str], cost: Mapping[str, float],
    criticality: Mapping[str, float], extra: Mapping[str, tuple[Measurement, ...]],
) -> Finding:  # fmt: skip
    evidence: list[Measurement] = []
    for part in parts:
        evidence.append(Measurement(name=measure, value=cost[part], unit="share", note=part))
        brought = criticality[part]
        evidence.append(
            Measurement(name="criticality_share", value=brought, unit="share", note=part)
        )
        evidence += extra.get(part, ())
    named = [
        f"{part} ({percent(cost[part])} of the {noun}, {percent(criticality[part])} of the effect)"
        for part in parts
    ]
    verb = "takes" if len(parts) == 1 else "take"
    return Finding.make(
        code=code,
        components=tuple(parts),
        severity=sum(cost[part] - criticality[part] for part in parts),
        evidence=tuple(evidence),
        message=f"{listed(named)} {verb} a far larger share of the {noun} than of the effect.",
    )
