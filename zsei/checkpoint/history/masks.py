"""Which units or parameters are dead, with the confidence that the observations allow.

Letters: x importance at one checkpoint, n checkpoints observed, k those with x at or above the
threshold, r the share of checkpoints that may be.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from zsei.checkpoint.history.history import History, tendency
from zsei.checkpoint.history.sketch import Keys, Sketch, estimate
from zsei.errors import UsageError

DEAD = 1e-8
CONFIDENCE = 0.95
RARE = 0.05


@dataclass(frozen=True, kw_only=True)
class DeadLimits:
    """What counts as dead."""

    threshold: float = DEAD
    """Importance below which a unit did nothing at a checkpoint."""
    confidence: float = CONFIDENCE
    """How sure one must be before it is said."""
    rare: float = RARE
    """Share of checkpoints, r, at which a dead unit may still do something."""

    def __post_init__(self) -> None:
        if not (self.threshold > 0 and 0 < self.confidence < 1 and 0 < self.rare < 1):
            raise UsageError(
                "A threshold is above 0, confidence and rare lie between 0 and 1; they are "
                f"{self.threshold:g}, {self.confidence:g} and {self.rare:g}."
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Mask:
    """What is dead among the units of a component or the elements of a parameter, each [u]."""

    dead: NDArray[np.bool_]
    """True where the unit is dead with the confidence asked for. False means "not shown"."""
    confidence: NDArray[np.float64]
    """How sure the observations make it; 0 where there are none."""
    observations: NDArray[np.int64]
    """Checkpoints each rests on, n."""


def dead_confidence(
    above: NDArray[np.int64], observations: NDArray[np.int64], rare: float = RARE
) -> NDArray[np.float64]:
    """How sure it is that a unit is above the threshold at fewer than r of the checkpoints.

    1 - P(Binomial(n, r) ≤ k): one minus the probability of seeing so few were the share r. It is
    the confidence at which Clopper and Pearson's upper bound of the share is r. Without a single
    checkpoint above (k = 0) it is 1 - (1 - r)^n: 0.95 takes 59 of them at r = 0.05, and 0.78 is
    all that 30 epochs can give. No observation, no confidence.

    Args:
        above: Checkpoints at or above the threshold, k, [u].
        observations: Checkpoints observed, n, [u].
        rare: r.

    Misleads when: importance changes in training; the statement is about the checkpoints observed
    and others like them, not about a phase that has not begun.
    References: Clopper and Pearson, Biometrika 26, 1934.
    """
    found = 1 - stats.binom.cdf(above, observations, rare)
    return np.where(observations > 0, found, 0.0)


def mask_from_history(history: History, component: str, limits: DeadLimits | None = None) -> Mask:
    """The dead units of a component: exact counts of the checkpoints that were kept.

    A unit is dead when its confidence (`dead_confidence`) reaches the limit and its moving average
    lies below the threshold too, both by absolute value. Checkpoints at which it was not measured
    do not count.

    Raises:
        UsageError: When the component was never observed.
    """
    limits = limits or DeadLimits()
    found = tendency(history, component)
    above = (np.abs(history.values[component]) >= limits.threshold).sum(axis=0)  # NaN is not
    confidence = dead_confidence(above, found.n, limits.rare)
    low = np.abs(np.nan_to_num(found.mean, nan=np.inf)) < limits.threshold
    return Mask(
        dead=(confidence >= limits.confidence) & low, confidence=confidence, observations=found.n
    )


def mask_from_sketch(
    sketch: Sketch, keys: Keys, observations: int, limits: DeadLimits | None = None
) -> Mask:
    """The dead elements of a parameter, from a sketch that keeps sums only.

    Importance is not negative, so a sum S allows at most ⌊S / threshold⌋ checkpoints at or above
    the threshold. The sketch's estimate is never below S: the count is at least the true one, the
    confidence at most what exact counts would give, and nothing alive is ever called dead by a
    collision. A parameter is dead when the confidence reaches the limit and the mean S / n lies
    below the threshold.

    Args:
        sketch: Sums of the importance over the checkpoints.
        keys: Keys of the elements (`parameter_keys`), [u].
        observations: Checkpoints the sketch has seen, each with every one of these keys.
        limits: What counts as dead.

    Raises:
        UsageError: When the number of observations is negative.

    Misleads when: live parameters are many beside the sketch's width: then collisions hide what is
    dead (`zsei.checkpoint.history.sketch.clean_share`) and little or nothing is marked.
    """
    limits = limits or DeadLimits()
    if observations < 0:
        raise UsageError(f"Observations are counted from 0, and got {observations}.")
    sums = estimate(sketch, keys)
    n = np.full(len(sums), observations, dtype=np.int64)
    above = np.minimum(np.floor(sums / limits.threshold), observations).astype(np.int64)
    confidence = dead_confidence(above, n, limits.rare)
    low = sums < limits.threshold * observations
    return Mask(dead=(confidence >= limits.confidence) & low, confidence=confidence, observations=n)
