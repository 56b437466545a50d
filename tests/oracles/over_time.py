"""Slow, obvious second implementations of what is said of a run over its checkpoints."""

import itertools
import math
from collections.abc import Sequence
from statistics import median

import numpy as np
from scipy import stats


def theil_sen(epochs: Sequence[float], values: Sequence[float]) -> float:
    """The median of all slopes between two checkpoints that were measured."""
    told = [(t, x) for t, x in zip(epochs, values, strict=True) if not math.isnan(x)]
    return median((b[1] - a[1]) / (b[0] - a[0]) for a, b in itertools.combinations(told, 2))


def chance_of_rising(
    epochs: Sequence[float], values: Sequence[float], correlations: Sequence[float]
) -> tuple[float, float]:
    """Probability and error of the slope, with whole covariance matrices and their inverses."""
    told = [(t, x) for t, x in zip(epochs, values, strict=True) if not math.isnan(x)]
    t, x = np.array([a for a, _ in told]), np.array([b for _, b in told])
    n = len(t)
    x = x / abs(x).max()
    design = np.stack([np.ones(n), t - t.mean()], axis=1)
    logs, chances, slopes, errors = [], [], [], []
    for correlation in correlations:
        gaps = abs(t[:, None] - t[None, :])
        covariance = np.where(gaps == 0, 1.0, correlation**gaps)
        inverse = np.linalg.inv(covariance)
        information = design.T @ inverse @ design
        beta = np.linalg.solve(information, design.T @ inverse @ x)
        rest = x - design @ beta
        squares = float(rest @ inverse @ rest)
        error = math.sqrt(squares / (n - 2) * np.linalg.inv(information)[1, 1])
        logs.append(
            -0.5 * math.log(np.linalg.det(covariance))
            - 0.5 * math.log(np.linalg.det(information))
            - (n - 2) / 2 * math.log(squares)
        )
        chances.append(1 - stats.t.cdf(beta[1] / error, n - 2))
        slopes.append(beta[1])
        errors.append(error)
    weights = np.exp(np.array(logs) - max(logs))
    weights /= weights.sum()
    mean = float(weights @ slopes)
    spread = sum(
        w * (e * e * (n - 2) / (n - 4) + (b - mean) ** 2)
        for w, e, b in zip(weights, errors, slopes, strict=True)
    )
    top = max(abs(b) for _, b in told)
    return float(weights @ chances), math.sqrt(spread) * top


def sure_below(k: int, n: int, rate: float) -> float:
    """How sure k of n makes it that the share is below a rate, term by term."""
    return 1 - sum(math.comb(n, i) * rate**i * (1 - rate) ** (n - i) for i in range(k + 1))


def fell_at(
    values: Sequence[float], low: float, rare: float, confidence: float
) -> tuple[int, float] | None:
    """Where a whole series stopped, trying every place: (first row after, how sure)."""
    best = None
    for split in range(2, len(values) - 1):
        before, after = values[:split], values[split:]
        level = median(before)
        if level <= 0:
            continue
        sure = min(
            sure_below(sum(x < low * level for x in before), len(before), rare),
            sure_below(sum(x >= low * level for x in after), len(after), rare),
        )
        if sure >= confidence and (best is None or sure > best[1] + 1e-12):
            best = split, sure
    return best


def jumps(values: Sequence[float]) -> float:
    """√(Σ (difference of logs - their median)² / 2 / m)."""
    steps = [math.log(b / a) for a, b in itertools.pairwise(values)]
    middle = median(steps)
    return math.sqrt(sum((step - middle) ** 2 for step in steps) / 2 / len(steps))
