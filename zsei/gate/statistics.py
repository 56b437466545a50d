"""Bounds: how bad a mean may really be, given the samples at hand.

The gate compares the one-sided upper bound of a drop with its limit, never the drop itself. All of
it is seeded: the same samples give the same bound.
"""

from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Floats = NDArray[np.float64]
Statistic = Callable[[NDArray[np.int64]], Floats]
"""From sample numbers [b, m] to the statistic of those samples [b]. Before and after of a sample
are looked up by the same number, which is what makes a bound of their difference paired."""

MINIMUM_SAMPLES = 8
"""With fewer samples a resampled spread says next to nothing: the answer is "inconclusive"."""

_CHUNK = 1 << 21
"""Numbers of one chunk of resamples: memory stays at some ten megabytes whatever n is."""


def upper_bound(
    statistic: Statistic, n: int, *, resamples: int, confidence: float, seed: int
) -> float:
    """One-sided upper bound of a statistic of n paired samples, by the bootstrap.

    The bias-corrected and accelerated (BCa) quantile of the resampled statistics θ*: with Φ the
    normal distribution, z₀ = Φ⁻¹(share of θ* below θ), a the jackknife's acceleration and
    z = z₀ + Φ⁻¹(confidence), the quantile taken is Φ(z₀ + z / (1 - a z)). Chosen over the plain
    percentile because divergences lean to the right, where the percentile's bound is too low:
    its 95 % covers 92 % of the time for 64 exponential samples, BCa's 94 %.

    Args:
        statistic: What is bounded; it gets sample numbers, so that pairs stay together.
        n: Number of samples.
        resamples: How many times n samples are drawn with replacement.
        confidence: Probability that the bound is not below the truth, 0.5 to 1.
        seed: Seed of the draws.

    Misleads when: samples are few (under about 30 of a heavy tail the bound is too low), when they
    are not independent, or when none of them shows a rare failure: if all are equal, so is the
    bound. `binomial_upper_bound` says what n samples without a failure exclude.
    References: Efron, "Better bootstrap confidence intervals", JASA 82, 1987.
    """
    point = float(statistic(np.arange(n)[None])[0])
    drawn = np.concatenate([statistic(rows) for rows in _draws(n, resamples, seed)])
    # Half of the ties count as below, so that a constant statistic has no bias. Sums of the same
    # numbers in another order differ in their last digits and are still ties.
    gap = drawn - point
    slack = 1e-12 * np.abs(drawn).max()
    below = ((gap < -slack).mean() + (gap <= slack).mean()) / 2
    edge = 1 / (2 * resamples)
    bias = stats.norm.ppf(np.clip(below, edge, 1 - edge))
    without = np.concatenate([statistic(rows) for rows in _leave_one_out(n)])
    pull = without.mean() - without
    scale = (pull**2).sum() ** 1.5
    acceleration = (pull**3).sum() / (6 * scale) if scale > 0 else 0.0
    shifted = bias + stats.norm.ppf(confidence)
    room = 1 - acceleration * shifted
    quantile = stats.norm.cdf(bias + shifted / room) if room > 0 else 1.0
    return float(np.quantile(drawn, quantile))


def _draws(n: int, resamples: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """Sample numbers drawn with replacement, [b, n] at a time, `resamples` rows in all."""
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // n)
    for start in range(0, resamples, rows):
        yield generator.integers(0, n, size=(min(rows, resamples - start), n))


def _leave_one_out(n: int) -> Iterator[NDArray[np.int64]]:
    """All sample numbers but one, [b, n - 1] at a time, n rows in all."""
    others = np.arange(n - 1)
    rows = max(1, _CHUNK // n)
    for start in range(0, n, rows):
        left_out = np.arange(start, min(start + rows, n))
        yield others + (others >= left_out[:, None])


def binomial_upper_bound(failures: int, n: int, confidence: float) -> float:
    """Exact one-sided upper bound of a failure rate after `failures` in n (Clopper and Pearson).

    The rate at which so few failures would be seen with probability 1 - confidence. It sees what a
    bootstrap cannot: 64 samples without a failure still allow a rate of 0.046 at 95 %.
    References: Clopper and Pearson, Biometrika 26, 1934.
    """
    return 1.0 if failures >= n else float(stats.beta.ppf(confidence, failures + 1, n - failures))
