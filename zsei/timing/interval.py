"""A measured number with its interval, and what may be said of it against a limit."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from zsei.records import Record

Decision = Literal["held", "not held", "not decided"]


class Interval(Record):
    """A median with a two-sided interval that holds it with the stated confidence."""

    median: float
    low: float
    high: float
    n: int
    """Values it is made of."""
    confidence: float = 0.9

    def inverse(self) -> "Interval":
        """The interval of one over the number: time ratios become speed-ups."""
        return Interval(
            median=1 / self.median, low=1 / self.high, high=1 / self.low, n=self.n,
            confidence=self.confidence,
        )  # fmt: skip


def median_interval(
    values: NDArray[np.float64], confidence: float
) -> tuple[float, float, float]:  # fmt: skip
    """Median with a two-sided interval from order statistics: (median, low, high).

    Distribution-free: the k-th smallest and k-th largest value, k the largest rank at which the
    binomial(n, 1/2) tails outside hold at most 1 - confidence. With so few values that no rank
    does (under 5 at 90 %), it is the whole range and covers less than asked.
    """
    ordered = np.sort(values)
    n = len(ordered)
    tails = 2 * stats.binom.cdf(np.arange(n), n, 0.5)
    rank = max(1, int((tails <= 1 - confidence).sum()))
    return float(np.median(ordered)), float(ordered[rank - 1]), float(ordered[n - rank])


def interval_of(values: Sequence[float] | NDArray[np.float64], confidence: float = 0.9) -> Interval:
    """The median of some values with its interval (`median_interval`)."""
    median, low, high = median_interval(np.asarray(values, dtype=np.float64), confidence)
    return Interval(median=median, low=low, high=high, n=len(values), confidence=confidence)


def decide(interval: Interval, least: float | None, most: float | None = None) -> Decision:
    """Hold an interval against limits: *held* when all of it lies inside, *not held* when all of it
    lies outside, *not decided* when it straddles a limit.

    Args:
        interval: What was measured.
        least: Smallest value that is claimed; None claims none.
        most: Largest value that is claimed; None claims none.
    """
    inside = (least is None or interval.low >= least) and (most is None or interval.high <= most)
    if inside:
        return "held"
    below = least is not None and interval.high < least
    above = most is not None and interval.low > most
    return "not held" if below or above else "not decided"
