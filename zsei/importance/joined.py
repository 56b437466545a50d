"""One ranking of all components, joined from five views of what matters.

Views, each a number per component, turned into percentiles among the components that have it:

- gradient: output sensitivity, what a probe of the output says removal would do;
- pathway: throughput in the flow graph, the share of what the output is made of that passes here;
- task: the largest share of the sensitivity on any one class, or data group where there are no
  classes;
- dynamic: sensitivity on demanding inputs, its mean plus one standard deviation over samples;
- ablation: the exact effect, for the components that were ablated.

The first four are averaged with weights max(0, Kendall τ) against exact ablation on the ablated
components: a view that orders them badly does not count. A non-decreasing fit (isotonic, on the
logarithm of the effect) turns that average into an expected effect. Where the exact effect is known
the two are averaged on the logarithm, the exact one with the reliability R of the truth as weight:
exact ablation on a few samples is noisy too. What is claimed of the average is cross-fitted: the
weights that order one half of the components come from the other half.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression
from scipy.stats import rankdata

from zsei.graph.flow import FlowGraph
from zsei.importance.agreement import FEWEST, check, kendall, reliability, spearman
from zsei.importance.candidates import PARTS, Units, units_of_kind
from zsei.importance.criteria import output_sensitivity, shares
from zsei.importance.pathways import throughput
from zsei.records import CriterionCheck, Ranking
from zsei.trace.ablation import Effect
from zsei.trace.summary import Trace

KIND = "component"
NOISE = "half of the samples (noise of the truth)"
FLOOR = 1e-12
"""Least effect whose logarithm is taken."""


@dataclass(frozen=True, kw_only=True)
class Joined:
    """The ranking of all components, and how far each view agrees with exact ablation."""

    ranking: Ranking
    checks: tuple[CriterionCheck, ...]


def join(
    trace: Trace, flow: FlowGraph, effects: Mapping[str, Effect], *, seed: int, conditions: str
) -> Joined | None:
    """Rank heads, branches and layers together; None where there are none or none was ablated.

    Args:
        trace: The cheap evidence.
        flow: Gives the throughput.
        effects: Unit id -> exact effect, of some of the components at least.
        seed: Draws the random baseline and the halves of the cross-fit.
        conditions: What the numbers rest on, for the notes.
    """
    units = units_of_kind(trace, *PARTS)
    ids = [unit.id for unit in units]
    known = np.array([i for i, unit in enumerate(ids) if unit in effects], dtype=int)
    if not len(known):
        return None
    exact_samples = [effects[ids[i]].divergence.double().numpy() for i in known]
    truth = np.array([values.mean() for values in exact_samples])
    split = _halves(exact_samples)
    halves = spearman(*split) if split is not None else None
    views = component_views(trace, flow, units)
    given = {"halves": halves, "samples": len(exact_samples[0]), "conditions": conditions}
    scored = {name: values[known] for name, values in views.items()}
    scored["norm (baseline)"] = _norms(trace, units)[known]
    scored["random (baseline)"] = np.random.default_rng([seed, 7]).random(len(known))
    checks = []
    for name, values in scored.items():
        here = np.isfinite(values)
        checks.append(check(KIND, name, values[here], truth[here], **given))
    if split is not None:
        checks.append(check(KIND, NOISE, *split, conditions=conditions))
    checks.append(check(KIND, "joined", _cross_fitted(views, known, truth, seed), truth, **given))
    exact = np.full(len(ids), np.nan)
    exact[known] = truth
    average = _average(views, _weights(views, known, truth))
    expected = _expected(average, known, truth)
    trusted = reliability(halves) if halves is not None else 1.0
    logarithm = np.where(
        np.isnan(exact), expected,
        trusted * np.log(np.maximum(exact, FLOOR)) + (1 - trusted) * expected,
    )  # fmt: skip
    scores, name = np.exp(logarithm), "joined"
    chosen = np.arange(len(ids))
    if len(known) == len(ids):
        scores, name = exact, "exact ablation"
    elif checks[-1].status != "validated":
        scores, name, chosen = exact, "exact ablation (sample only)", known
    # Where expected effects are equal, the average of the views decides.
    order = chosen[np.lexsort((chosen, -average[chosen], -scores[chosen]))]
    ranking = Ranking(
        kind=KIND,
        criterion=name,
        components=tuple(ids[i] for i in order),
        scores=tuple(float(scores[i]) for i in order),
        note=conditions,
    )
    return Joined(ranking=ranking, checks=tuple(checks))


def component_views(trace: Trace, flow: FlowGraph, units: Units) -> dict[str, np.ndarray]:
    """The views but for ablation, each [U]; NaN where one cannot be told."""
    sensitivity = output_sensitivity(trace, units)
    ids = [unit.id for unit in units]
    passing = throughput(flow)
    found = {} if sensitivity is None else {"gradient": sensitivity}
    found["pathway"] = np.array([passing.get(unit, np.nan) for unit in ids])
    found["task"] = _task(trace, ids)
    found["dynamic"] = np.array([_demanding(trace, unit) for unit in ids])
    return {name: values for name, values in found.items() if np.isfinite(values).any()}


def _task(trace: Trace, ids: list[str]) -> np.ndarray:
    """Largest share of the sensitivity on one class or data group."""
    columns: list[np.ndarray] = []
    for matrix in trace.matrices:
        if matrix.name == "class_sensitivity":
            rows = dict(zip(matrix.rows, matrix.values, strict=True))
            table = [rows.get(unit, (None,) * len(matrix.columns)) for unit in ids]
            columns = list(np.array(table, dtype=float).T)
    for named in trace.groups.values() if not columns else ():
        found = {
            unit: m.value for unit, rows in named.items() for m in rows if m.name == "sensitivity"
        }
        columns.append(np.array([found.get(unit) for unit in ids], dtype=float))
    if not columns:
        return np.full(len(ids), np.nan)
    return np.max([shares(column) for column in columns], axis=0)


def _demanding(trace: Trace, unit: str) -> float:
    found = trace.measurements.get(unit, {}).get("sensitivity")
    if found is None or found.value is None or found.std is None:
        return np.nan
    return found.value + found.std


def _norms(trace: Trace, units: Units) -> np.ndarray:
    """RMS of what each component writes, [U]: the norm baseline."""
    found = np.full(len(units), np.nan)
    for i, unit in enumerate(units):
        scores = trace.units[unit.site.component, unit.site.kind]
        written = trace.measurements.get(unit.id, {}).get("rms")
        if unit.site.kind == "head" and scores.rms is not None:
            found[i] = scores.rms[unit.index]
        elif written is not None and written.value is not None:
            found[i] = written.value
    return found


def _halves(exact: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray] | None:
    """Mean effects on even and on odd samples; None where there are too few."""
    if len(exact) < FEWEST or min(len(values) for values in exact) < 4:
        return None
    even, odd = (np.array([values[start::2].mean() for values in exact]) for start in (0, 1))
    return even, odd


def _weights(
    views: Mapping[str, np.ndarray], known: np.ndarray, truth: np.ndarray
) -> dict[str, float]:
    """max(0, τ) of each view on the ablated components; equal where none is above 0."""
    found = {}
    for name, values in views.items():
        here = np.isfinite(values[known])
        tau = kendall(values[known][here], truth[here]) if here.sum() > 2 else None
        found[name] = max(0.0, tau or 0.0)
    return found if any(found.values()) else dict.fromkeys(views, 1.0)


def _average(views: Mapping[str, np.ndarray], weights: Mapping[str, float]) -> np.ndarray:
    """Weighted mean percentile over the views that each component has, [U]."""
    size = len(next(iter(views.values()))) if views else 0
    total, weight = np.zeros(size), np.zeros(size)
    for name, values in views.items():
        here = np.isfinite(values)
        total[here] += weights[name] * rankdata(values[here]) / here.sum()
        weight[here] += weights[name]
    return np.where(weight > 0, total / np.maximum(weight, 1e-12), 0.5)


def _expected(average: np.ndarray, known: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Logarithm of the effect expected at each average, by a non-decreasing fit."""
    order = np.argsort(average[known], kind="stable")
    fitted = isotonic_regression(np.log(np.maximum(truth[order], FLOOR))).x
    return np.interp(average, average[known][order], fitted)


def _cross_fitted(
    views: Mapping[str, np.ndarray], known: np.ndarray, truth: np.ndarray, seed: int
) -> np.ndarray:
    """Average of the views for the ablated components, with weights from the other half of them."""
    shuffled = np.random.default_rng([seed, 11]).permutation(len(known))
    found = np.zeros(len(known))
    for mine, others in ((shuffled[0::2], shuffled[1::2]), (shuffled[1::2], shuffled[0::2])):
        found[mine] = _average(views, _weights(views, known[others], truth[others]))[known[mine]]
    return found
