"""What must stay inside a limit, as statistics that can be bounded.

Two columns of limits (`zsei.settings.LIMITS`). With labels they bound the drop of the score
(accuracy, or Spearman's rank correlation with gold scores) and the relative increase of the loss;
under fidelity 1 - agreement and the mean divergence. With labels, 95 % of the score must stay too.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from zsei.gate.quality import Quality
from zsei.gate.statistics import (
    MINIMUM_SAMPLES,
    Floats,
    Statistic,
    binomial_upper_bound,
    upper_bound,
)
from zsei.records import Measurement
from zsei.settings import Settings

KEPT_SCORE = 0.95
"""Share of the original's accuracy (or rank correlation) that must stay, whatever the limits."""
_LEAST_LOSS = 1e-6
"""A loss below this counts as this, so that a perfect model does not make any loss infinite."""
_UNITS = {"logits": "nats", "embedding": "1 - cos", "values": "relative L2"}


@dataclass(frozen=True, kw_only=True, eq=False)
class Criterion:
    """One number that must stay below a limit."""

    name: str
    label: str
    """How a sentence calls it."""
    unit: str
    limit: float
    statistic: Statistic
    n: int
    failures: int | None = None
    """For a rate of failures among n, how many there are."""


@dataclass(frozen=True, kw_only=True)
class Bounded:
    """A criterion with its measured value and its bound."""

    name: str
    label: str
    unit: str
    limit: float
    n: int
    point: float
    bound: float | None
    """None when there are fewer than `MINIMUM_SAMPLES`."""
    binomial: float | None = None
    """Exact bound of a failure rate, reported beside the bound and not compared."""

    @property
    def outside(self) -> bool:
        """The measured value itself lies outside the limit."""
        return not self.point <= self.limit

    @property
    def inside(self) -> bool:
        """The bound lies inside the limit: the only thing that counts as proven."""
        return self.bound is not None and self.bound <= self.limit and not self.outside

    def measurement(self) -> Measurement:
        """The bound as it stands in a verdict."""
        remark = f"limit {self.limit:g}; measured {self.point:.4g}"
        if self.binomial is not None:
            remark += f"; exact binomial bound {self.binomial:.4g}"
        state = "could not tell" if self.bound is None else "measured"
        return Measurement(
            name=self.name, value=self.bound, unit=self.unit, n=self.n, state=state, note=remark
        )

    def text(self) -> str:
        """The criterion in words, with its numbers."""
        bound = "no bound" if self.bound is None else f"bound {self.bound:.4g}"
        if self.inside:
            return f"{self.label} {self.point:.4g}, {bound} inside {self.limit:g}"
        return f"{self.label} {self.point:.4g}, {bound}, limit {self.limit:g}"


def _mean(values: Floats) -> Statistic:
    return lambda rows: values[rows].mean(axis=-1)


def _relative_increase(before: Floats, after: Floats) -> Statistic:
    def statistic(rows: np.ndarray) -> Floats:
        base = before[rows].mean(axis=-1)
        return (after[rows].mean(axis=-1) - base) / np.maximum(base, _LEAST_LOSS)

    return statistic


def spearman(first: Floats, second: Floats) -> Floats:
    """Spearman's rank correlation along the last axis, [b, n] x [b, n] -> [b].

    The correlation of the ranks, ties sharing their mean rank; 0 where one side is constant and
    there is no order to agree with.
    """
    ranks = [stats.rankdata(values, axis=-1) for values in (first, second)]
    a, b = (r - r.mean(axis=-1, keepdims=True) for r in ranks)
    scale = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    return np.divide((a * b).sum(axis=-1), scale, out=np.zeros_like(scale), where=scale > 0)


def _scores(quality: Quality) -> tuple[str, str, Statistic, Statistic] | None:
    """(name, label, before, after) of the score that says how good the answers are, if any."""
    if quality.correct is not None:
        before, after = quality.correct
        return "accuracy", "accuracy", _mean(before), _mean(after)
    if quality.similarity is not None:
        gold, before, after = (values[:: quality.stride] for values in quality.similarity)
        return (
            "spearman",
            "rank correlation with gold",
            lambda rows: spearman(before[rows], gold[rows]),
            lambda rows: spearman(after[rows], gold[rows]),
        )
    return None


def limit_criteria(quality: Quality, limits: tuple[float, float]) -> tuple[Criterion, ...]:
    """The criteria of both columns of limits that this kind of output has."""
    n = quality.n // quality.stride
    if quality.loss is not None:
        before, after = (values[:: quality.stride] for values in quality.loss)
        increase = Criterion(
            name="relative_loss_increase", label="relative loss increase", unit="", n=n,
            limit=limits[1], statistic=_relative_increase(before, after),
        )  # fmt: skip
        found = _scores(quality)
        if found is None:
            return (increase,)
        name, label, score_before, score_after = found
        drop = Criterion(
            name=f"{name}_drop", label=f"drop of {label}", unit="", n=n, limit=limits[0],
            statistic=lambda rows: score_before(rows) - score_after(rows),
        )  # fmt: skip
        return drop, increase
    unit = _UNITS[quality.output]
    moved = Criterion(
        name="divergence", label=f"mean divergence ({unit})", unit=unit, limit=limits[1],
        statistic=_mean(quality.divergence), n=n,
    )  # fmt: skip
    if quality.agreement is None:
        return (moved,)
    changed = 1 - quality.agreement
    countable = bool(np.isin(changed, (0.0, 1.0)).all())
    disagreement = Criterion(
        name="disagreement", label="1 - agreement", unit="", limit=limits[0], n=n,
        statistic=_mean(changed), failures=int(changed.sum()) if countable else None,
    )  # fmt: skip
    return disagreement, moved


def user_criterion(quality: Quality, allowed: float) -> Criterion:
    """The one criterion that stands where the user set a limit of their own (`max_drop`).

    With labels the drop of the score, or the relative loss increase where there is no score;
    without them the mean divergence. Agreement is then told and bounds nothing.
    """
    criteria = limit_criteria(quality, (allowed, allowed))
    return criteria[0] if quality.loss is not None else criteria[-1]


def kept_criterion(quality: Quality) -> Criterion | None:
    """Share of the score that is lost; None without a score or where the original has none."""
    found = _scores(quality) if quality.loss is not None else None
    n = quality.n // quality.stride
    if found is None or float(found[2](np.arange(n)[None])[0]) <= 0:
        return None
    name, label, before, after = found

    def lost(rows: np.ndarray) -> Floats:
        base = before(rows)
        kept = np.divide(after(rows), base, out=np.zeros_like(base), where=base > 0)
        return np.where(base > 0, 1 - kept, 0.0)

    return Criterion(
        name=f"{name}_lost_share", label=f"lost share of {label}", unit="", n=n,
        limit=1 - KEPT_SCORE, statistic=lost,
    )  # fmt: skip


def bound(criterion: Criterion, settings: Settings) -> Bounded:
    """Measure a criterion and bound it: `settings` gives resamples, confidence and seed."""
    enough = criterion.n >= MINIMUM_SAMPLES
    every = np.arange(criterion.n)[None]
    failures = criterion.failures
    return Bounded(
        name=criterion.name,
        label=criterion.label,
        unit=criterion.unit,
        limit=criterion.limit,
        n=criterion.n,
        point=float(criterion.statistic(every)[0]),
        bound=upper_bound(
            criterion.statistic, criterion.n, resamples=settings.bootstrap,
            confidence=settings.confidence, seed=settings.seed,
        ) if enough else None,
        binomial=None if failures is None
        else binomial_upper_bound(failures, criterion.n, settings.confidence),
    )  # fmt: skip


def bounds_of(
    quality: Quality | None, limits: tuple[float, float], settings: Settings, *, whole: bool = True
) -> tuple[Bounded, ...]:
    """The criteria of some samples, bounded; none when there is nothing to bound.

    Args:
        quality: Answers before and after.
        limits: Largest (accuracy drop, relative loss increase), under fidelity (1 - agreement,
            mean divergence); `settings.max_drop` stands in the place of both.
        settings: Resamples, confidence and seed.
        whole: Adds the share of the score to keep, which a part of the samples need not.
    """
    if quality is None or quality.n == 0:
        return ()
    allowed = settings.max_drop
    criteria = (
        limit_criteria(quality, limits) if allowed is None else (user_criterion(quality, allowed),)
    )
    kept = kept_criterion(quality) if whole else None
    return tuple(bound(one, settings) for one in ((*criteria, kept) if kept else criteria))
