"""What a part costs beside what it brings: the two shares hot spots are judged by."""

from collections.abc import Iterator, Mapping

from torch import Tensor

from zsei.analyzers.context import Analysis
from zsei.analyzers.words import listed, percent
from zsei.graph.traffic import CONTAINERS
from zsei.records import Component, Finding, Measurement
from zsei.subject.objective import Objective

WORKING = ("attention", "mlp", "experts", "conv", "linear", "recurrent")
"""Kinds of component that do the model's arithmetic."""


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


def criticality_shares(analysis: Analysis) -> dict[str, float]:
    """Working part -> its share of the summed effects of removing each; empty where none is known.

    Formula: e_c / Σ e, e the exact effect of mean ablation where it was measured and the predicted
    one elsewhere, on the scale on which effects add. A part that alone makes the output is left
    out: without it nothing is left, which says nothing about the others.
    """
    scores, endings = analysis.importance.scores, analysis.flow.endings()
    found = {
        part.id: float(additive(analysis.subject.objective, scores[part.id, "branch"][0]))
        for part in working_parts(analysis)
        if (part.id, "branch") in scores and part.id not in endings
    }
    total = sum(found.values())
    return {part: value / total for part, value in found.items()} if total > 0 else {}


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
            yield _hot_spot(code, measure, noun, parts, cost, criticality, extra)
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
