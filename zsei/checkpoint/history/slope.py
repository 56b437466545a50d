"""Slopes over checkpoints, with errors that count what neighbouring checkpoints share.

Letters: c checkpoint, s series, t epoch, x value, n checkpoints measured, ρ autocorrelation of two
checkpoints one epoch apart.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from zsei.errors import DataError

Floats = NDArray[np.float64]

CORRELATIONS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
"""Values of ρ that are weighed. Nearer to 1 a series wanders: then its level really moves, and to
call that noise would hide every slope there is."""
FEWEST = 5
"""Checkpoints below which nothing is said."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Slopes:
    """What the checkpoints say about the direction of each series, each [s]."""

    slope: Floats
    """Median of the slopes between all pairs of checkpoints, per epoch (Theil and Sen)."""
    error: Floats
    """Standard error of the slope, in the same unit."""
    rising: Floats
    """Probability of a slope this far up or farther if there were none; NaN below 5 checkpoints."""
    falling: Floats
    """The same for down."""
    correlation: Floats
    """Mean of ρ under its weights."""
    n: NDArray[np.int64]
    """Checkpoints at which each was measured."""


def slopes(epochs: ArrayLike, values: ArrayLike) -> Slopes:
    """Direction of each series, its error and how likely noise alone would do the same.

    What it measures: whether a series moves one way, when two checkpoints in a row share most of
    what moves them and so are not two observations.

    Formula: the slope is Theil and Sen's, median of (x_j - x_i) / (t_j - t_i). Its error and its
    probability come from generalised least squares of x = a + b t + e with e a stationary first-
    order autoregression, cov(e_i, e_j) = σ² ρ^|t_i - t_j|. ρ is not estimated, which is what makes
    such errors too small on short series: each ρ of a list gets the weight of its marginal
    likelihood, |V|^-1/2 |XᵀV⁻¹X|^-1/2 RSS^-(n-2)/2 (a, b and log σ integrated out, every ρ of the
    list alike before), and probabilities, Student's t with n - 2 degrees, are averaged with these
    weights. A series whose neighbours are nearly the same therefore has a wide error, and one that
    climbs steadily a narrow one.

    Args:
        epochs: Rising, [c].
        values: NaN where not measured, [c, s].

    Raises:
        DataError: When epochs do not rise or a value is infinite.

    Misleads when: noise remembers longer than ρ = 0.8 (a slow wave looks like a slope), or a
    series jumps once: then the slope says little of when, and the probability is high.
    References: Theil, 1950; Sen, JASA 63, 1968; Zellner and Tiao, JASA 59, 1964.
    """
    t = np.asarray(epochs, dtype=np.float64)
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 2 or len(t) != len(x) or bool((np.diff(t) <= 0).any()) or bool(np.isinf(x).any()):
        raise DataError(
            "Slopes are taken over rising epochs [c] of finite values [c, s], NaN where nothing "
            f"was measured; got {t.shape} and {x.shape}."
        )
    count = x.shape[1]
    seen = ~np.isnan(x)
    found = {name: np.full(count, np.nan) for name in ("slope", "error", "rising", "falling", "ρ")}
    # Series that were measured at the same checkpoints share all but their values.
    patterns, of = np.unique(seen, axis=1, return_inverse=True)
    for number in range(patterns.shape[1]):
        rows, columns = patterns[:, number], np.flatnonzero(of.ravel() == number)
        if rows.sum() < FEWEST:
            continue
        own = x[np.ix_(rows, columns)]
        found["slope"][columns] = _theil_sen(t[rows], own)
        for name, told in _weighed(t[rows], own).items():
            found[name][columns] = told
    return Slopes(
        slope=found["slope"],
        error=found["error"],
        rising=found["rising"],
        falling=found["falling"],
        correlation=found["ρ"],
        n=seen.sum(axis=0),
    )


def _theil_sen(t: Floats, x: Floats) -> Floats:
    first, second = np.triu_indices(len(t), 1)
    step = (t[second] - t[first])[:, None]
    # A block of series at a time: all pairs of 60 checkpoints of 10 000 series are 140 MB.
    blocks = [
        np.median((x[second, at : at + 256] - x[first, at : at + 256]) / step, axis=0)
        for at in range(0, x.shape[1], 256)
    ]
    return np.concatenate(blocks)


def _weighed(t: Floats, x: Floats) -> dict[str, Floats]:
    """Error, probabilities and mean ρ, averaged over the list of ρ."""
    n = len(t)
    level = np.abs(x).max(axis=0)
    scale = np.where(level > 0, level, 1.0)
    y = x / scale
    design = np.stack([np.ones(n), t - t.mean()], axis=1)
    weight, slope, error = [], [], []
    for correlation in CORRELATIONS:
        one = _fitted(t, design, y, correlation)
        weight.append(one[0])
        slope.append(one[1])
        error.append(one[2])
    w = np.exp(np.stack(weight) - np.max(weight, axis=0))
    w /= w.sum(axis=0)
    b, e = np.stack(slope), np.stack(error)
    score = b / e
    mean = (w * b).sum(axis=0)
    wide = (n - 2) / (n - 4)  # variance of Student's t
    spread = np.sqrt((w * (wide * e**2 + (b - mean) ** 2)).sum(axis=0))
    return {
        "error": spread * scale,
        "rising": (w * stats.t.sf(score, n - 2)).sum(axis=0),
        "falling": (w * stats.t.cdf(score, n - 2)).sum(axis=0),
        "ρ": (w * np.array(CORRELATIONS)[:, None]).sum(axis=0),
    }


def _fitted(
    t: Floats, design: Floats, y: Floats, correlation: float
) -> tuple[Floats, Floats, Floats]:
    """Log of the marginal likelihood, slope and its error under one ρ, each [s]."""
    share = correlation ** np.diff(t)
    left = 1 - share**2

    def whitened(rows: Floats) -> Floats:
        later = (rows[1:] - share[:, None] * rows[:-1]) / np.sqrt(left)[:, None]
        return np.concatenate([rows[:1], later])

    a, z = whitened(design), whitened(y)
    square = a.T @ a
    inverse = np.linalg.inv(square)
    fitted = inverse @ (a.T @ z)
    rest = ((z - a @ fitted) ** 2).sum(axis=0)
    n = len(t)
    rest = np.maximum(rest, n * 1e-14)  # float32 values carry no more; nothing is ever certain
    likelihood = -0.5 * (np.log(left).sum() + np.linalg.slogdet(square)[1] + (n - 2) * np.log(rest))
    return likelihood, fitted[1], np.sqrt(rest / (n - 2) * inverse[1, 1])
