"""A complete ranking at the least cost: probes for all, exact ablation only where order is open.

1. Probes predict the effect of every unit on some samples (`screen`).
2. Batch after batch, exact ablation of the units whose order with a neighbour is still open.
   It stops once the whole order is expected to agree with the truth (`expected_kendall`).
3. A pair is settled when an interval of the paired difference of its exact effects leaves 0 out, at
   any time one looks (an asymptotic confidence sequence), or when predictions alone are further
   apart than their noise and their error allow. What is settled is ablated no further.
4. The final estimate of a unit weighs its exact mean and its calibrated prediction by their inverse
   variances: an empirical Bayes shrinkage, which all data pulls to the exact mean.

References: Maron and Moore, "Hoeffding races", 1993, for racing; Waudby-Smith et al., "Time-uniform
central limit theory and asymptotic confidence sequences", 2024; Efron and Morris, 1975.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import NormalDist

import numpy as np
import torch
from scipy.special import erf
from torch import Tensor

from zsei.importance.candidates import Units
from zsei.importance.screen import plan, predicted_effects, restart_costs, screen_cost
from zsei.subject.types import Batch, Subject
from zsei.trace.ablation import ReplacementName, Target, ablate
from zsei.trace.engine import Engine

SPREAD = 0.5
"""Relative variance of an effect over samples that a budget is planned with."""
BIAS = 0.01
"""Relative variance of a prediction's error before any was measured: a tenth of the effect."""
DRAWS = 4
"""Probes where no budget says how many."""
FEWEST_SAMPLES = 8
"""Paired samples below which exact effects settle nothing."""


@dataclass(frozen=True, kw_only=True)
class ExactRanking:
    """All units in order, how sure that order is, and what it cost."""

    order: tuple[str, ...]
    """Unit ids, most important first."""
    effects: tuple[float, ...]
    """Estimated mean divergence of removing each."""
    errors: tuple[float, ...]
    """Relative standard error of each estimate."""
    exact_samples: tuple[int, ...]
    """Samples on which each was ablated; 0 where probes were enough, or the budget was spent."""
    undecided: tuple[tuple[str, str], ...]
    """Neighbours whose order stays open."""
    expected_kendall: float
    """Kendall τ that this order is expected to have with the true one, from the errors."""
    forwards: float
    """Cost in bare forwards of one batch, by operations."""
    screened: int
    """Samples the probes saw."""
    draws: int


@dataclass
class _State:
    """What is known while the race runs; U units."""

    predicted: np.ndarray
    """[U, n] predicted effects."""
    exact: list[list[np.ndarray]]
    """Per unit the exact effects, batch by batch."""
    pairs: int
    alpha: float

    def samples(self) -> np.ndarray:
        """Samples on which each unit was ablated, [U]."""
        return np.array([sum(len(part) for part in parts) for parts in self.exact])


def exact_ranking(
    subject: Subject, engine: Engine, units: Units, means: Mapping[tuple[str, str], Tensor], *,
    batches: Sequence[Batch] | None = None, budget: float | None = None,
    confidence: float = 0.95, reach: float = 0.95, replacement: ReplacementName = "mean",
    seed: int = 0,
) -> ExactRanking:  # fmt: skip
    """Rank all units by the mean effect of removing each.

    Args:
        subject: Gives program, objective and data.
        engine: Runs the model.
        units: What to rank.
        means: Mean value per (component, kind).
        batches: Data; None takes the calibration data.
        budget: Bare forwards of one batch that may be spent; None goes on until all is decided or
            the data is used up.
        confidence: Of all decisions together.
        reach: Expected Kendall τ at which it stops.
        replacement: What stands in. Probes predict "resample" as they do "mean".
        seed: Draws the probes.
    """
    given = list(subject.calibration if batches is None else batches)
    costs = np.array(restart_costs(subject.program, units))
    screened, draws = min(2, len(given)), DRAWS
    if budget is not None:
        sweep = 1 + float(costs.sum())
        screened, draws = plan(budget, len(given), given[0].size, sweep, spread=SPREAD, bias=BIAS)
    generator = torch.Generator().manual_seed(seed)
    predicted = [
        predicted_effects(
            engine, subject.objective, batch, units, means, draws=draws,
            zero=replacement == "zero", generator=generator,
        )
        for batch in given[:screened]
    ]  # fmt: skip
    state = _State(
        predicted=torch.cat(predicted, 1).numpy(),
        exact=[[] for _ in range(len(units))],
        pairs=max(len(units) - 1, 1),
        alpha=1 - confidence,
    )
    spent = screen_cost(screened, draws)
    for batch in given:
        left = None if budget is None else budget - spent
        chosen = _affordable(_open_units(state, reach), costs, left)
        if not len(chosen):
            break
        targets = [Target(site=u.site, units=(u.index,)) for u in units.take(chosen)]
        found = ablate(
            engine, subject.objective, [batch], targets, means=means, replacement=replacement,
            seed=seed,
        )  # fmt: skip
        for unit, effect in zip(chosen, found, strict=True):
            state.exact[unit].append(effect.divergence.double().numpy())
        spent += 1 + float(costs[chosen].sum())
    return _result(state, units, spent, draws)


def _result(state: _State, units: Units, spent: float, draws: int) -> ExactRanking:
    level, variance = estimates(state.predicted, state.exact)
    order = np.argsort(-level, kind="stable")
    ids = [units[int(i)].id for i in order]
    samples = state.samples()
    settled = _settled(state, order, level, variance)
    return ExactRanking(
        order=tuple(ids),
        effects=tuple(np.exp(level[order]).tolist()),
        errors=tuple(np.sqrt(variance[order]).tolist()),
        exact_samples=tuple(samples[order].tolist()),
        undecided=tuple(
            (ids[i], ids[i + 1]) for i in range(len(ids) - 1) if not settled[i]
        ),
        expected_kendall=expected_kendall(level, variance),
        forwards=spent,
        screened=state.predicted.shape[1],
        draws=draws,
    )  # fmt: skip


def estimates(
    predicted: np.ndarray, exact: Sequence[Sequence[np.ndarray]]
) -> tuple[np.ndarray, np.ndarray]:
    """Logarithm of each unit's mean effect, and its variance, [U] each.

    Prior: log of the mean prediction, plus one offset for all, fitted where exact effects exist;
    its variance is the sampling variance plus the prediction's own error, measured as what is left
    between the two once the noise of both is taken away (method of moments). Posterior: prior and
    exact mean weighed by their inverse variances.

    Args:
        predicted: [U, n].
        exact: Per unit the exact effects, batch by batch.
    """
    level, variance = _log_mean(predicted)
    known = np.array([i for i, parts in enumerate(exact) if parts], dtype=int)
    if not len(known):
        return level, variance + BIAS
    means, errors = _log_mean([np.concatenate(exact[i]) for i in known])
    gap = means - level[known]
    noise = errors + variance[known]
    offset = float(np.average(gap, weights=1 / (noise + BIAS)))
    own = BIAS
    if len(known) >= 8:
        own = float(max(np.mean((gap - offset) ** 2 - noise), BIAS / 10))
    level, variance = level + offset, variance + own
    weight = (1 / errors) / (1 / errors + 1 / variance[known])
    level[known] = weight * means + (1 - weight) * level[known]
    variance[known] = 1 / (1 / errors + 1 / variance[known])
    return level, variance


def _log_mean(rows: Sequence[np.ndarray] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Log of the mean of each row, and its variance by the delta method."""
    means = np.array([max(float(row.mean()), 1e-30) for row in rows])
    variances = np.array(
        [float(row.var(ddof=1)) / len(row) if len(row) > 1 else mean**2
         for row, mean in zip(rows, means, strict=True)]
    )  # fmt: skip
    return np.log(means), np.maximum(variances / means**2, 1e-12)


def expected_kendall(level: np.ndarray, variance: np.ndarray) -> float:
    """Mean over pairs of 2 Φ(|difference| / its error) - 1; 1 where no order is in doubt.

    Misleads when: errors of different units go together, which makes the order surer than this.
    """
    if len(level) < 2:
        return 1.0
    apart = np.abs(level[:, None] - level[None, :])
    error = np.sqrt(variance[:, None] + variance[None, :])
    sure = erf(apart / error / math.sqrt(2))
    return float(sure[np.triu_indices(len(level), 1)].mean())


def _open_units(state: _State, reach: float) -> np.ndarray:
    """Units with an unsettled neighbour, widest estimates first; none when the order will do."""
    level, variance = estimates(state.predicted, state.exact)
    if expected_kendall(level, variance) >= reach:
        return np.zeros(0, dtype=int)
    order = np.argsort(-level, kind="stable")
    settled = _settled(state, order, level, variance)
    found = {
        int(unit)
        for i, done in enumerate(settled) if not done
        for unit in (order[i], order[i + 1])
    }  # fmt: skip
    return np.array(sorted(found, key=lambda unit: (-variance[unit], unit)), dtype=int)


def _affordable(units: np.ndarray, costs: np.ndarray, left: float | None) -> np.ndarray:
    """As many of the units as the rest of the budget pays for, one clean run included."""
    if left is None:
        return units
    return units[np.cumsum(costs[units]) + 1 <= left]


def _settled(
    state: _State, order: np.ndarray, level: np.ndarray, variance: np.ndarray
) -> list[bool]:
    """Whether the order of each neighbouring pair is settled, [U - 1]."""
    z = NormalDist().inv_cdf(1 - state.alpha / (2 * state.pairs))
    found = []
    for first, second in pairwise(order.tolist()):
        apart = level[first] - level[second]
        if apart > z * math.sqrt(variance[first] + variance[second]):
            found.append(True)
            continue
        shared = min(len(state.exact[first]), len(state.exact[second]))
        if not shared:
            found.append(False)
            continue
        pair = (np.concatenate(state.exact[unit][:shared]) for unit in (first, second))
        difference = np.subtract(*pair)
        half = half_width(difference, state.alpha / state.pairs)
        found.append(len(difference) >= FEWEST_SAMPLES and float(difference.mean()) > half)
    return found


def half_width(values: np.ndarray, alpha: float, sooner: int = 64) -> float:
    """Half the width of a confidence sequence for a mean: it may be looked at after every sample.

    Formula: σ √(2 (n ρ² + 1) / (n² ρ²) · log(√(n ρ² + 1) / α)), σ the standard deviation so far, ρ
    chosen so that it is narrowest at n = `sooner`. Misleads when: n is so small that σ is a guess.
    """
    n = len(values)
    spread = float(values.std(ddof=1)) if n > 1 else math.inf
    log = math.log(1 / alpha)
    rho = math.sqrt((2 * log + math.log(2 * log + 1)) / sooner)
    grown = n * rho**2 + 1
    return spread * math.sqrt(2 * grown / (n * rho) ** 2 * math.log(math.sqrt(grown) / alpha))
