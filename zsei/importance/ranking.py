"""Ranks units, and says how far the ranking can be trusted on this very model.

Cheap criteria score every unit; exact ablation scores a sample. A criterion that orders the sample
as exact ablation does (Spearman at least 0.7) may rank the rest; otherwise the ranking is marked
"not validated" and rests on exact ablation alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch

from zsei.importance.agreement import check
from zsei.importance.candidates import RANKED, Unit, units_of_kind
from zsei.importance.criteria import CRITERIA
from zsei.records import CriterionCheck, Measurement, Ranking
from zsei.settings import Settings
from zsei.subject.streamed import mapped_weights
from zsei.subject.types import Batch, Subject, UnitKind
from zsei.trace.ablation import Effect, Target, ablate
from zsei.trace.engine import Engine
from zsei.trace.summary import Trace

TRUTH_SAMPLES = Settings.model_fields["truth_samples"].default
"""Calibration samples on which exact ablation is run, unless set."""
EXACT_ALL = 96
"""Up to this many units of a kind all are ablated when no cheap criterion is validated."""


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Scores, rankings and what they were checked against."""

    checks: tuple[CriterionCheck, ...]
    rankings: tuple[Ranking, ...]
    measurements: Mapping[str, tuple[Measurement, ...]]
    """Component id -> measured ablation effects."""
    scores: Mapping[tuple[str, str], tuple[float, ...]]
    """(component, site kind) -> estimated mean divergence per removed unit; exact where known."""
    effects: Mapping[str, Effect] = field(default_factory=dict)
    """Unit id -> exact effect, for the sampled units."""
    batches: tuple[Batch, ...] = ()
    """The batches exact ablation was run on."""
    notes: tuple[str, ...] = ()


def rank(
    subject: Subject,
    engine: Engine,
    trace: Trace,
    settings: Settings,
    *,
    progress: Callable[[float], None] | None = None,
) -> Importance:
    """Score, sample, ablate, compare, rank: every kind of unit the model has.

    Args:
        subject: Model, data, objective.
        engine: Runs the model.
        trace: The cheap evidence.
        settings: `ablation_sample`, `truth_samples`, `replacement`, `seed`.
        progress: Called with the share done.
    """
    batches = _few(subject.calibration, settings.truth_samples)
    streamed = mapped_weights(subject.model) is not None
    kinds: list[UnitKind] = [kind for kind in RANKED if units_of_kind(trace, kind)]
    sampled = {
        kind: _sample(trace, kind, settings.ablation_sample, settings.seed) for kind in kinds
    }
    targets = [unit for kind in kinds for unit in sampled[kind]]
    effects = _ablate(subject, engine, trace, settings, batches, targets, progress)
    checks: list[CriterionCheck] = []
    rankings: list[Ranking] = []
    notes: list[str] = []
    for kind in kinds:
        units = units_of_kind(trace, kind)
        found = _checks(trace, kind, sampled[kind], effects, settings.seed)
        checks += found
        best = _best(found)
        if best is None and len(units) <= EXACT_ALL and not streamed:
            missing = [unit for unit in units if unit.id not in effects]
            effects |= _ablate(subject, engine, trace, settings, batches, missing, None)
        if best is None:
            notes.append(f"{kind}: no cheap score is validated; exact ablation decides")
            if streamed and len(sampled[kind]) < len(units):
                notes.append(
                    f"{kind}: {len(sampled[kind])} of {len(units)} were ablated exactly, since "
                    f"every further one runs the streamed model again; the others are not ranked"
                )
        rankings.append(_ranking(trace, kind, units, effects, best))
    return Importance(
        checks=tuple(checks),
        rankings=tuple(rankings),
        measurements=_measurements(effects, subject.objective.metric, settings.replacement),
        scores=_scores(trace, effects),
        effects=effects,
        batches=batches,
        notes=tuple(notes),
    )


def _few(batches: tuple[Batch, ...], wanted: int) -> tuple[Batch, ...]:
    """The first batches that hold the wanted number of samples."""
    taken, samples = [], 0
    for batch in batches:
        taken.append(batch)
        samples += batch.size
        if samples >= wanted:
            break
    return tuple(taken)


def _sample(trace: Trace, kind: UnitKind, size: int, seed: int) -> list[Unit]:
    """All units when there are few, else `size` at random and the ten most sensitive parts."""
    units = units_of_kind(trace, kind)
    if len(units) <= size:
        return units
    generator = np.random.default_rng([seed, RANKED.index(kind)])
    chosen = set(generator.choice(len(units), size, replace=False).tolist())
    scores = CRITERIA["output sensitivity"](trace, units)
    # Single neurons and channels are never reported one by one: a plain sample tells enough.
    if scores is not None and kind not in ("neuron", "channel"):
        chosen |= set(np.argsort(-scores, kind="stable")[:10].tolist())
    return [units[i] for i in sorted(chosen)]


def _ablate(
    subject: Subject, engine: Engine, trace: Trace, settings: Settings,
    batches: tuple[Batch, ...], units: list[Unit], progress: Callable[[float], None] | None,
) -> dict[str, Effect]:  # fmt: skip
    targets = [Target(site=unit.site, units=(unit.index,)) for unit in units]
    found = ablate(
        engine, subject.objective, batches, targets, means=trace.means,
        replacement=settings.replacement, seed=settings.seed, progress=progress,
    )  # fmt: skip
    return {unit.id: effect for unit, effect in zip(units, found, strict=True)}


def _checks(
    trace: Trace, kind: UnitKind, units: list[Unit], effects: Mapping[str, Effect], seed: int
) -> list[CriterionCheck]:
    per_sample = torch.stack([effects[unit.id].divergence for unit in units]).double().numpy()
    truth = per_sample.mean(1)
    found = []
    for name, criterion in CRITERIA.items():
        scores = criterion(trace, units)
        if scores is not None:
            found.append(check(kind, name, scores, truth))
    random = np.random.default_rng([seed, 7]).random(len(units))
    found.append(check(kind, "random (baseline)", random, truth))
    if per_sample.shape[1] >= 4:
        halves = per_sample[:, 0::2].mean(1), per_sample[:, 1::2].mean(1)
        noise = check(kind, "half of the samples (noise of the truth)", *halves)
        found.append(noise)
    return found


def _best(checks: list[CriterionCheck]) -> str | None:
    """The validated criterion that agrees best, if any."""
    usable = [c for c in checks if c.criterion in CRITERIA and c.status == "validated"]
    if not usable:
        return None
    return max(usable, key=lambda c: c.spearman or 0.0).criterion


def _ranking(
    trace: Trace, kind: UnitKind, units: list[Unit], effects: Mapping[str, Effect],
    best: str | None,
) -> Ranking:  # fmt: skip
    """Exact effects when all units have one, else the best validated criterion, else the sample."""
    exact = {u.id: float(effects[u.id].divergence.mean()) for u in units if u.id in effects}
    if len(exact) == len(units) or best is None:
        order = sorted(exact.items(), key=lambda item: (-item[1], item[0]))
        name = "exact ablation" if len(exact) == len(units) else "exact ablation (sample only)"
    else:
        scores = CRITERIA[best](trace, units)
        assert scores is not None
        named = {unit.id: float(score) for unit, score in zip(units, scores, strict=True)}
        order = sorted(named.items(), key=lambda item: (-item[1], item[0]))
        name = best
    kept = order if len(order) <= 512 else order[:256] + order[-256:]
    return Ranking(
        kind=kind,
        criterion=name,
        components=tuple(unit for unit, _ in kept),
        scores=tuple(score for _, score in kept),
    )


def _measurements(
    effects: Mapping[str, Effect], metric: str, replacement: str
) -> dict[str, tuple[Measurement, ...]]:
    found = {}
    for unit, effect in effects.items():
        if effect.target.site.kind in ("neuron", "channel"):
            continue
        kind = effect.target.site.kind
        how = "identity" if kind == "layer" else replacement
        rows = [_effect("ablation_effect", effect.divergence, metric, how)]
        if effect.loss_increase is not None:
            rows.append(_effect("ablation_loss", effect.loss_increase, "Δ loss", how))
        found[unit] = tuple(rows)
    return found


def _effect(name: str, values: torch.Tensor, unit: str, how: str) -> Measurement:
    values = values.double()
    return Measurement(
        name=name,
        value=float(values.mean()),
        unit=unit,
        std=float(values.std()) if len(values) > 1 else None,
        n=len(values),
        note=f"{how} ablation",
    )


def _scores(
    trace: Trace, effects: Mapping[str, Effect]
) -> dict[tuple[str, str], tuple[float, ...]]:
    found: dict[tuple[str, str], tuple[float, ...]] = {}
    for (component, kind), scores in trace.units.items():
        values = [float(v) for v in scores.sensitivity]
        if kind == "layer" or kind == "head" or kind == "branch":
            for index, unit in enumerate(scores.site.unit_ids):
                if unit in effects:
                    values[index] = float(effects[unit].divergence.mean())
        found[component, kind] = tuple(values)
    return found
