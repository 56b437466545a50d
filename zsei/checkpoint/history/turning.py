"""Units that stopped, or began, to matter in the course of the checkpoints.

Letters: c checkpoint, u unit, x value, s where a series is parted into before and after.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zsei.checkpoint.history.masks import dead_confidence
from zsei.errors import UsageError

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class TurnLimits:
    """From when on something has stopped."""

    low: float = 0.05
    """Share of the level it had, below which it does next to nothing."""
    rare: float = 0.3
    """Share of checkpoints that may be on the wrong side, r."""
    confidence: float = 0.95
    """How sure both sides must be. Without an exception it takes 9 checkpoints on each side."""

    def __post_init__(self) -> None:
        if not all(0 < x < 1 for x in (self.low, self.rare, self.confidence)):
            raise UsageError(
                "Low, rare and confidence lie between 0 and 1; they are "
                f"{self.low:g}, {self.rare:g} and {self.confidence:g}."
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class Turn:
    """What became of each unit, each [u]."""

    fell: NDArray[np.bool_]
    """It was active and is not any more."""
    rose: NDArray[np.bool_]
    """It was not active and now is."""
    at: NDArray[np.int64]
    """Row of the first checkpoint after the turn; -1 where there is none."""
    before: Floats
    """Median before the turn; NaN where there is none."""
    after: Floats
    confidence: Floats
    """Of the less sure of both sides; 0 where there is no turn."""


def turns(values: ArrayLike, limits: TurnLimits | None = None) -> Turn:
    """Which units fell to next to nothing and stayed there, and which rose from it.

    What it measures: a change that lasts, whether it came at once or slowly.

    Formula: a series is parted at s into two sides. With m the median of the side that was (or is)
    active, a checkpoint is low when x < low · m. It fell when the share of low checkpoints before s
    is below r, and the share of those that are not low from s on is below r too, each with the
    confidence asked for (`dead_confidence` in `history.masks`, Clopper and Pearson). s is where the
    less sure side is surest; of equal ones the earliest. Rising is the same, read backwards.
    It must be so now: more than half of the last nine checkpoints (as many as one side takes) are
    low beside the highest.

    Args:
        values: At least 0, NaN where not measured, [c, u]. Units that were not measured at the last
            checkpoint (cut, or left out) have no turn.
        limits: What counts as low, and how sure it must be.

    Misleads when: checkpoints are of different data, or of a phase of training in which nothing
    reaches a place for a while; it may wake again, and then that is found.
    References: Clopper and Pearson, Biometrika 26, 1934.
    """
    limits = limits or TurnLimits()
    x = np.asarray(values, dtype=np.float64)
    down, up = _fell(x, limits), _fell(x[::-1], limits)
    rose = up.fell & ~down.fell
    at = np.where(rose, len(x) - up.at, down.at)
    here = ~np.isnan(x[-1]) if len(x) else np.zeros(x.shape[1], dtype=bool)
    return Turn(
        fell=down.fell & here,
        rose=rose & here,
        at=np.where((down.fell | rose) & here, at, -1),
        before=np.where(rose, up.after, down.before),
        after=np.where(rose, up.before, down.after),
        confidence=np.where(here, np.where(rose, up.confidence, down.confidence), 0.0),
    )


def _fell(x: Floats, limits: TurnLimits) -> Turn:
    units = x.shape[1]
    at = np.full(units, -1)
    before, after = np.full(units, np.nan), np.full(units, np.nan)
    confidence = np.zeros(units)
    some = _candidates(x, limits)
    sure = _sureness(len(x), limits.rare)
    for split in range(1, len(x)) if len(some) else ():
        first, second = x[:split, some], x[split:, some]
        level = _median(first)
        low = limits.low * np.where(level > 0, level, np.nan)
        with np.errstate(invalid="ignore"):
            idle, busy = (first < low).sum(axis=0), (second >= low).sum(axis=0)
        seen = (~np.isnan(first)).sum(axis=0), (~np.isnan(second)).sum(axis=0)
        found = np.minimum(sure[idle, seen[0]], sure[busy, seen[1]])
        # Only where a checkpoint was measured does another place to part begin.
        new = ~np.isnan(second[0]) & ~np.isnan(low) & (found >= limits.confidence)
        better = np.flatnonzero(new & (found > confidence[some] + 1e-12))
        chosen = some[better]
        at[chosen], confidence[chosen] = split, found[better]
        before[chosen], after[chosen] = level[better], _median(second)[better]
    return Turn(
        fell=at >= 0, rose=np.zeros(units, dtype=bool), at=at, before=before, after=after,
        confidence=confidence,
    )  # fmt: skip


def _sureness(most: int, rare: float) -> Floats:
    """[k, n] -> how sure k exceptions among n checkpoints make it that they are rare."""
    k, n = np.mgrid[0 : most + 1, 0 : most + 1]
    return np.where(k <= n, dead_confidence(k, n, rare), 0.0)


def _median(rows: Floats) -> Floats:
    """Median of each column without its NaN, which `sort` puts last; NaN where all are."""
    ordered = np.sort(rows, axis=0)
    n = (~np.isnan(rows)).sum(axis=0)
    columns = np.arange(rows.shape[1])
    lower, upper = np.maximum(n - 1, 0) // 2, np.minimum(n // 2, len(rows) - 1)
    return np.where(n > 0, (ordered[lower, columns] + ordered[upper, columns]) / 2, np.nan)


def _candidates(x: Floats, limits: TurnLimits) -> NDArray[np.int64]:
    """Units most of whose last checkpoints are low; the exact look at all would take seconds."""
    least = int(np.ceil(np.log(1 - limits.confidence) / np.log(1 - limits.rare)))
    if len(x) < 2 * least:
        return np.zeros(0, dtype=np.int64)
    highest = np.nan_to_num(x, nan=-np.inf).max(axis=0)
    rows = x[-least:]
    with np.errstate(invalid="ignore"):
        low = (rows < limits.low * highest).sum(axis=0)
    return np.flatnonzero((highest > 0) & (2 * low > (~np.isnan(rows)).sum(axis=0)))
