"""Ranks units, and says how far the ranking can be trusted on this very model.

Cheap criteria score every unit; exact ablation scores a sample. A criterion that orders the sample
as exact ablation does (Spearman at least 0.7) may rank the rest; otherwise the ranking is marked
"not validated" and rests on exact ablation alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from zsei.graph.build import build_graph
from zsei.graph.flow import FlowGraph
from zsei.importance.agreement import check
from zsei.importance.candidates import PARTS, RANKED, Units, unit_id, units_of_kind
from zsei.importance.criteria import CRITERIA, WEIGHTED, weighted
from zsei.importance.effects import (
    TRUTH_SAMPLES,
    effect_measurements,
    exact_effects,
    few,
    group_measurements,
    mean_effect,
    per_sample,
)
from zsei.importance.joined import NOISE, join
from zsei.records import CriterionCheck, Measurement, Ranking
from zsei.settings import Settings
from zsei.subject.types import Batch, Subject, UnitKind
from zsei.trace.ablation import Effect
from zsei.trace.engine import Engine
from zsei.trace.summary import Trace

__all__ = ["EXACT_ALL", "TRUTH_SAMPLES", "Importance", "rank", "ranking_of"]

EXACT_ALL = 96
"""Up to this many units of a kind all are ablated when no cheap criterion is validated."""
KEPT = 512
"""Longest ranking that a record keeps whole; of longer ones the first and last halves of this."""


@dataclass(frozen=True, kw_only=True)
class Importance:
    """Scores, rankings and what they were checked against."""

    checks: tuple[CriterionCheck, ...]
    rankings: tuple[Ranking, ...]
    """One per kind of unit, then one of all components together."""
    measurements: Mapping[str, tuple[Measurement, ...]]
    """Component id -> measured ablation effects."""
    scores: Mapping[tuple[str, str], tuple[float, ...]]
    """(component, site kind) -> estimated mean divergence per removed unit; exact where known."""
    effects: Mapping[str, Effect] = field(default_factory=dict)
    """Unit id -> exact effect, for the sampled units."""
    batches: tuple[Batch, ...] = ()
    """The batches exact ablation was run on."""
    groups: Mapping[str, Mapping[str, tuple[Measurement, ...]]] = field(default_factory=dict)
    """Data group -> component id -> measured ablation effects on that group alone."""
    notes: tuple[str, ...] = ()


def rank(
    subject: Subject,
    engine: Engine,
    trace: Trace,
    settings: Settings,
    *,
    flow: FlowGraph | None = None,
    progress: Callable[[float], None] | None = None,
) -> Importance:
    """Score, sample, ablate, compare, rank: every kind of unit the model has, then all together.

    Args:
        subject: Model, data, objective.
        engine: Runs the model.
        trace: The cheap evidence.
        settings: `ablation_sample`, `truth_samples`, `replacement`, `seed`.
        flow: The flow graph; None builds it.
        progress: Called with the share done.
    """
    batches = few(subject.calibration, settings.truth_samples)
    known = {kind: units_of_kind(trace, kind) for kind in RANKED}
    kinds: list[UnitKind] = [kind for kind in RANKED if len(known[kind])]
    sampled = {
        kind: _sample(trace, kind, known[kind], settings.ablation_sample, settings.seed)
        for kind in kinds
    }
    chosen = [unit for kind in kinds for unit in sampled[kind]]
    effects = exact_effects(subject, engine, trace, settings, batches, chosen, progress)
    conditions = _conditions(subject, settings, batches)
    checks: list[CriterionCheck] = []
    rankings: list[Ranking] = []
    notes: list[str] = []
    for kind in kinds:
        units = known[kind]
        found = _checks(trace, kind, sampled[kind], effects, settings.seed, conditions)
        checks += found
        best = _best(found)
        if best is None and len(units) <= EXACT_ALL:
            missing = [unit for unit in units if unit.id not in effects]
            effects |= exact_effects(subject, engine, trace, settings, batches, missing)
        if best is None:
            notes.append(f"{kind}: no cheap score is validated; exact ablation decides")
        rankings.append(_ranking(trace, kind, units, effects, best, conditions))
    graph = build_graph(subject, trace) if flow is None else flow
    joined = join(trace, graph, effects, seed=settings.seed, conditions=conditions)
    if joined is not None:
        checks += joined.checks
        rankings.append(joined.ranking)
    metric = subject.objective.metric
    return Importance(
        checks=tuple(checks),
        rankings=tuple(rankings),
        measurements=effect_measurements(effects, metric, settings.replacement),
        scores=_scores(trace, effects),
        effects=effects,
        batches=batches,
        groups=group_measurements(effects, batches, metric, settings.replacement),
        notes=tuple(notes),
    )


def _conditions(subject: Subject, settings: Settings, batches: tuple[Batch, ...]) -> str:
    """The choices that alone can move a ranking."""
    first = next(iter(subject.model.parameters()), None)
    dtype = "float32" if first is None else str(first.dtype).removeprefix("torch.")
    samples = sum(batch.size for batch in batches)
    return (
        f"{subject.objective.metric}, {settings.replacement} ablation, {dtype}, "
        f"seed {settings.seed}, {samples} samples"
    )


def _sample(trace: Trace, kind: UnitKind, units: Units, size: int, seed: int) -> Units:
    """All units when there are few, else `size` at random and the ten most sensitive parts."""
    if len(units) <= size:
        return units
    generator = np.random.default_rng([seed, RANKED.index(kind)])
    chosen = set(generator.choice(len(units), size, replace=False).tolist())
    scores = CRITERIA["output sensitivity"](trace, units)
    # Single neurons and channels are never reported one by one: a plain sample tells enough.
    if scores is not None and kind in PARTS:
        chosen |= set(np.argsort(-scores, kind="stable")[:10].tolist())
    return units.take(sorted(chosen))


def _checks(
    trace: Trace, kind: UnitKind, units: Units, effects: Mapping[str, Effect], seed: int,
    conditions: str,
) -> list[CriterionCheck]:  # fmt: skip
    """Every criterion against exact ablation, beside a random score and the noise of the truth."""
    exact = per_sample(effects, units)
    truth = exact.mean(1)
    noise = None
    if exact.shape[1] >= 4:
        halves = exact[:, 0::2].mean(1), exact[:, 1::2].mean(1)
        noise = check(kind, NOISE, *halves, conditions=conditions)
    given = {
        "halves": noise.spearman if noise is not None else None,
        "samples": exact.shape[1],
        "conditions": conditions,
    }
    scored = {name: criterion(trace, units) for name, criterion in CRITERIA.items()}
    if kind in WEIGHTED:
        scored["fixed weights"] = weighted(trace, units, WEIGHTED[kind])
    found = [
        check(kind, name, scores, truth, **given)
        for name, scores in scored.items()
        if scores is not None
    ]
    random = np.random.default_rng([seed, 7]).random(len(units))
    found.append(check(kind, "random (baseline)", random, truth, **given))
    return found if noise is None else [*found, noise]


def _best(checks: list[CriterionCheck]) -> str | None:
    """The validated criterion that agrees best, if any."""
    usable = [c for c in checks if c.criterion in CRITERIA and c.status == "validated"]
    if not usable:
        return None
    return max(usable, key=lambda c: c.spearman or 0.0).criterion


def _ranking(
    trace: Trace, kind: UnitKind, units: Units, effects: Mapping[str, Effect], best: str | None,
    conditions: str,
) -> Ranking:  # fmt: skip
    """Exact effects when all units have one, else the best validated criterion, else the sample."""
    places = _places(units, effects)
    whole = len(places) == len(units)
    if whole or best is None:
        scores = np.array([mean_effect(effects[units[i].id]) for i in places])
        name = "exact ablation" if whole else "exact ablation (sample only)"
        return ranking_of(kind, name, units.take(places), scores, conditions)
    scored = CRITERIA[best](trace, units)
    assert scored is not None
    return ranking_of(kind, best, units, scored, conditions)


def ranking_of(
    kind: str, criterion: str, units: Units, scores: np.ndarray, note: str = ""
) -> Ranking:
    """Units in order of their score, equal ones in program order; see `KEPT`."""
    order = np.argsort(-scores, kind="stable")
    if len(order) > KEPT:
        order = np.concatenate([order[: KEPT // 2], order[-KEPT // 2 :]])
    return Ranking(
        kind=kind,
        criterion=criterion,
        components=tuple(unit.id for unit in units.take(order)),
        scores=tuple(scores[order].tolist()),
        note=note,
    )


def _places(units: Units, effects: Mapping[str, Effect]) -> np.ndarray:
    """Numbers of the units that were ablated, [k]."""
    starts = np.cumsum([0, *(site.units for site in units.sites)])
    first = {(s.component, s.kind): int(n) for s, n in zip(units.sites, starts[:-1], strict=True)}
    found = []
    for effect in effects.values():
        start = first.get((effect.target.site.component, effect.target.site.kind))
        if start is not None:
            found.append(start + effect.target.units[0])
    return np.array(sorted(found), dtype=int)


def _scores(
    trace: Trace, effects: Mapping[str, Effect]
) -> dict[tuple[str, str], tuple[float, ...]]:
    """Sensitivity of every unit, and for components the exact effect where it is known."""
    found: dict[tuple[str, str], tuple[float, ...]] = {}
    for (component, kind), scores in trace.units.items():
        values = scores.sensitivity.tolist()
        if kind in PARTS:
            for index in range(scores.site.units):
                known = effects.get(unit_id(scores.site, index))
                if known is not None:
                    values[index] = mean_effect(known)
        found[component, kind] = tuple(values)
    return found
