"""The same analysis on either half of the samples: what rests on which samples were looked at."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from zsei.analyzers.checks import FEWEST
from zsei.analyzers.context import Analysis
from zsei.graph.build import build_graph
from zsei.importance.candidates import unit_id
from zsei.trace.ablation import Effect
from zsei.trace.run import trace
from zsei.trace.summary import Trace
from zsei.trace.view import Measure


def too_few(analysis: Analysis) -> str:
    """Why there are no two halves to compare, with the size it takes; "" when there are."""
    for batches in (analysis.subject.calibration, analysis.importance.batches):
        samples = min(sum(b.size for b in batches[parity::2]) for parity in (0, 1))
        if samples < FEWEST:
            return (
                f"A half of the samples, in whole batches, is {samples}; it takes {FEWEST} in each "
                f"to tell whether both say the same."
            )
    return ""


def half_analyses(analysis: Analysis, measures: Sequence[Measure]) -> tuple[Analysis, Analysis]:
    """Two analyses of the same model on batches that share no sample; see `too_few` before.

    Even and odd batches, with half of the rows and of the probes each, so that both together cost
    less than the whole did.
    Exact ablations are not run again: their effects are known per sample and split likewise.
    """
    first, second = (_half(analysis, measures, parity) for parity in (0, 1))
    return first, second


def _half(analysis: Analysis, measures: Sequence[Measure], parity: int) -> Analysis:
    subject = replace(analysis.subject, calibration=analysis.subject.calibration[parity::2])
    settings = analysis.settings.model_copy(
        update={
            "rows": max(16, analysis.settings.rows // 2),
            "probes": max(1, analysis.settings.probes // 2),
        }
    )
    traced = trace(subject, settings, engine=analysis.engine, measures=measures, clock=False)
    traced = replace(traced, seconds=analysis.trace.seconds)
    batches = analysis.importance.batches
    mask = torch.cat([torch.full((b.size,), i % 2 == parity) for i, b in enumerate(batches)])
    effects = {unit: _part(effect, mask) for unit, effect in analysis.importance.effects.items()}
    importance = replace(
        analysis.importance,
        effects=effects,
        batches=batches[parity::2],
        scores=_scores(analysis, traced, effects),
    )
    return Analysis(
        subject=subject,
        engine=analysis.engine,
        trace=traced,
        flow=build_graph(subject, traced),
        importance=importance,
        settings=settings,
    )


def _part(effect: Effect, mask: Tensor) -> Effect:
    """The effect on some of the samples."""
    chosen = mask[: len(effect.divergence)]
    increase = effect.loss_increase
    return replace(
        effect,
        divergence=effect.divergence[chosen],
        loss_increase=None if increase is None else increase[chosen],
    )


def _scores(
    analysis: Analysis, traced: Trace, effects: Mapping[str, Effect]
) -> dict[tuple[str, str], tuple[float, ...]]:
    """Scores of units on the half: of the same origin as those on the whole.

    What was an exact effect is the mean over the half's samples, what was a predicted one is
    predicted from the half; what came from elsewhere stays.
    """
    found: dict[tuple[str, str], tuple[float, ...]] = {}
    for key, scores in analysis.importance.scores.items():
        whole, half = analysis.trace.units.get(key), traced.units.get(key)
        values = list(scores)
        for index in range(len(values) if whole is not None and half is not None else 0):
            assert whole is not None
            assert half is not None
            name = unit_id(whole.site, index)
            known = analysis.importance.effects.get(name)
            exact = None if known is None else float(known.divergence.double().mean())
            if exact is not None and abs(values[index] - exact) <= 1e-6 * abs(exact):
                values[index] = float(effects[name].divergence.double().mean())
            elif values[index] == float(whole.sensitivity[index]):
                values[index] = float(half.sensitivity[index])
        found[key] = tuple(values)
    return found
