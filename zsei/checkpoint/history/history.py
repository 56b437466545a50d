"""Importance over the checkpoints of one training run: mean, trend and spread per unit.

Letters: c checkpoint, u unit of a component, x importance, μ momentum.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from zsei.errors import DataError, UsageError

Values = NDArray[np.float32]
Floats = NDArray[np.float64]

KEPT = 500
MOMENTUM = 0.99


@dataclass(frozen=True, kw_only=True, eq=False)
class History:
    """What was measured at the last checkpoints, as it was measured.

    Means are made from these rows when they are asked for, so two histories of one run merge
    without loss and nothing depends on the order in which checkpoints came in.
    """

    steps: tuple[int, ...] = ()
    """Step (or epoch) of each checkpoint [c], rising."""
    values: Mapping[str, Values] = field(default_factory=dict)
    """Component -> importance [c, u]; a row of NaN where it was not measured."""
    momentum: float = MOMENTUM
    kept: int = KEPT
    """Checkpoints kept at most; the oldest go first."""

    def __post_init__(self) -> None:
        if not 0 <= self.momentum < 1:
            raise UsageError(
                f"A momentum is at least 0 and below 1, and this one is {self.momentum:g}; 0.99 "
                "looks back about 100 checkpoints."
            )
        if self.kept < 1:
            raise UsageError(f"At least one checkpoint must be kept, and got {self.kept}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Tendency:
    """What a history says about the units of one component, each [u]."""

    mean: Floats
    """Exponential moving average with bias correction."""
    error: Floats
    """Standard error of the mean; NaN below two observations."""
    trend: Floats
    """Slope of importance per step, by least squares; NaN below three observations."""
    trend_error: Floats
    """Standard error of the slope."""
    n: NDArray[np.int64]
    """Checkpoints at which each unit was measured."""


def observe(history: History, step: int, importance: Mapping[str, ArrayLike]) -> History:
    """The history with one more checkpoint.

    Args:
        history: What was measured before.
        step: Step of the checkpoint, later than all before it.
        importance: Component -> importance of its units [u]. A component that is missing was not
            measured here, and a NaN is a unit that was not; neither is taken for 0.

    Raises:
        DataError: When the step is not later, when a component has another number of units than
            before, or when an importance is infinite.
    """
    if history.steps and step <= history.steps[-1]:
        raise DataError(
            f"Checkpoints are observed in order; step {step} comes after step "
            f"{history.steps[-1]}. Merge histories that were made side by side."
        )
    rows = {name: np.asarray(x, dtype=np.float32) for name, x in importance.items()}
    for name, row in rows.items():
        _check(history, name, row)
    start = max(0, len(history.steps) + 1 - history.kept)
    values: dict[str, Values] = {}
    for name in sorted({*history.values, *rows}):
        units = len(rows[name]) if name in rows else history.values[name].shape[1]
        blank = np.full((1, units), np.nan, dtype=np.float32)
        before = history.values.get(name, np.repeat(blank, len(history.steps), axis=0))
        last = rows[name][None] if name in rows else blank
        values[name] = np.concatenate([before[start:], last])
    return replace(history, steps=(*history.steps, step)[start:], values=values)


def _check(history: History, name: str, row: Values) -> None:
    if row.ndim != 1:
        raise DataError(
            f"The importance of `{name}` must have one axis, its units, and has {row.ndim}."
        )
    if bool(np.isinf(row).any()):
        raise DataError(
            f"An importance is a number, or NaN where it was not measured; {np.isinf(row).sum()} "
            f"of {len(row)} units of `{name}` are infinite. Look at its loss scale."
        )
    known = history.values.get(name)
    if known is not None and known.shape[1] != len(row):
        raise DataError(
            f"`{name}` had {known.shape[1]} units at earlier checkpoints and has {len(row)} now; "
            "call `without` for the units that were cut, or begin a new history."
        )


def without(history: History, component: str, units: ArrayLike) -> History:
    """The history after a component's units were cut; the others keep theirs and move up.

    Raises:
        UsageError: When there is no such component or unit.
    """
    known = history.values.get(component)
    gone = np.unique(np.asarray(units, dtype=np.int64))
    if known is None:
        raise UsageError(f"The history knows no component `{component}`; it was never observed.")
    if len(gone) and not 0 <= gone[0] <= gone[-1] < known.shape[1]:
        raise UsageError(
            f"`{component}` has units 0 to {known.shape[1] - 1}; {gone[0]} or {gone[-1]} is none "
            "of them."
        )
    values = {**history.values, component: np.delete(known, gone, axis=1)}
    return replace(history, values=values)


def merge(first: History, second: History) -> History:
    """The history of both, as if one process had seen every checkpoint.

    Where both measured a unit at the same step, the first one's number stands if it has one.

    Raises:
        UsageError: When momentum or length differ.
        DataError: When a component has another number of units in the second.
    """
    if (first.momentum, first.kept) != (second.momentum, second.kept):
        raise UsageError(
            "Histories merge when they have one momentum and length; these are "
            f"{first.momentum:g} over {first.kept} and {second.momentum:g} over {second.kept}."
        )
    steps = tuple(sorted({*first.steps, *second.steps}))[-first.kept :]
    place = {step: row for row, step in enumerate(steps)}
    values: dict[str, Values] = {}
    for side in (second, first):
        rows = [row for row, step in enumerate(side.steps) if step in place]
        there = [place[side.steps[row]] for row in rows]
        for name, known in side.values.items():
            shape = (len(steps), known.shape[1])
            target = values.setdefault(name, np.full(shape, np.nan, dtype=np.float32))
            if target.shape != shape:
                raise DataError(
                    f"`{name}` has {shape[1]} units in one history and {target.shape[1]} in the "
                    "other; only histories of one architecture merge."
                )
            target[there] = np.where(np.isnan(known[rows]), target[there], known[rows])
    return replace(first, steps=steps, values=dict(sorted(values.items())))


def tendency(history: History, component: str) -> Tendency:
    """Mean, trend and their errors, per unit of a component.

    - mean: m = Σ w x / Σ w with w = μ^age, age 0 for the newest observation of the unit. That is
      the moving average m ← μ m + (1 - μ) x divided by 1 - μ^n, the correction for its start at
      0 (Kingma and Ba, 2015). What lies more than 500 checkpoints back has 0.7 % of the weight at
      μ = 0.99 and is left out.
    - error: √(Σ w (x - m)² / Σ w / (k - 1)) with k = (Σ w)² / Σ w², as many observations as
      equal weights would need for the same spread of the mean.
    - trend: Σ (t - t̄)(x - x̄) / Σ (t - t̄)² over the steps t, all kept observations alike, and
      trend_error = √(Σ r² / (n - 2) / Σ (t - t̄)²) with r the residuals.

    Checkpoints at which a unit was not measured are left out, for that unit alone.

    Raises:
        UsageError: When the component was never observed.

    Misleads when: the importance of neighbouring checkpoints is correlated, as it is in training:
    then both errors are too small.
    """
    known = history.values.get(component)
    if known is None:
        raise UsageError(f"The history knows no component `{component}`; it was never observed.")
    x = known.astype(np.float64)
    seen = ~np.isnan(x)
    x = np.where(seen, x, 0.0)
    n = seen.sum(axis=0)
    age = np.flip(np.cumsum(np.flip(seen, 0), axis=0), 0) - 1
    weight = np.where(seen, history.momentum ** np.maximum(age, 0), 0.0)
    total = weight.sum(axis=0)
    steps = np.array(history.steps, dtype=np.float64)[:, None]
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = (weight * x).sum(axis=0) / total
        like = total**2 / (weight**2).sum(axis=0)
        spread = (weight * (x - mean) ** 2 * seen).sum(axis=0) / total
        error = np.where(n >= 2, np.sqrt(spread / (like - 1)), np.nan)
        t = np.where(seen, steps - np.where(seen, steps, 0).sum(axis=0) / n, 0.0)
        level = x.sum(axis=0) / n
        square = (t**2).sum(axis=0)
        slope = (t * (x - level)).sum(axis=0) / square
        rest = np.where(seen, x - level - slope * t, 0.0)
        off = np.sqrt((rest**2).sum(axis=0) / (n - 2) / square)
    few = n < 3
    return Tendency(
        mean=mean,
        error=error,
        trend=np.where(few, np.nan, slope),
        trend_error=np.where(few, np.nan, off),
        n=n,
    )
