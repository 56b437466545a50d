"""Gradients that jump from checkpoint to checkpoint, and components that have stopped to learn."""

import math
from collections.abc import Iterator

import numpy as np
from scipy import stats

from zsei.checkpoint.history.history import Floats
from zsei.checkpoint.history.series import Series
from zsei.checkpoint.history.trend_limits import TrendLimits
from zsei.checkpoint.history.turning import TurnLimits, turns
from zsei.records import Finding, Measurement

_FEWEST = 10


def instability(values: Floats) -> tuple[float, float, int]:
    """How much the log of a positive series jumps from one checkpoint to the next.

    Formula: v = √(Σ d² / 2 / m) with d the m differences of neighbouring logs less their median;
    it is the standard deviation of independent noise around any slow course, and about its
    coefficient of variation where small. What a learning rate's schedule does moves neighbours
    alike and hardly counts. Its lower bound of 99.9 % is v √(k / χ²(0.999; k)) with k = ⅔ (m - 1),
    because differences overlap (von Neumann).

    Returns:
        v, its lower bound, and the number of checkpoints measured; NaN below 10.

    Misleads when: the noise of neighbours is correlated; then v is smaller than its spread.
    References: von Neumann, Annals of Mathematical Statistics 12, 1941.
    """
    told = values[~np.isnan(values) & (values > 0)]
    if len(told) < _FEWEST:
        return math.nan, math.nan, len(told)
    steps = np.diff(np.log(told))
    spread = float(np.sqrt(np.mean((steps - np.median(steps)) ** 2) / 2))
    free = (len(steps) - 1) * 2 / 3
    return spread, spread * math.sqrt(free / float(stats.chi2.ppf(0.999, free))), len(told)


def unstable(series: Series, limits: TrendLimits) -> Iterator[Finding]:
    """Components whose gradient jumps (`instability`) by more than the limit, surely."""
    for component, values in _of(series, "gradient_rms", limits.window):
        spread, least, n = instability(values)
        if not least > limits.instability:
            continue
        told = values[~np.isnan(values)]
        yield Finding.make(
            code="gradient-unstable",
            components=(component,),
            severity=min(1.0, spread / 2),
            evidence=(
                Measurement(name="gradient_instability", value=spread, unit="log", n=n,
                            note=f"the limit is {limits.instability:g}"),
                Measurement(name="gradient_instability_low", value=least, unit="log", n=n),
                Measurement(name="gradient_spread", value=float(told.std(ddof=1) / told.mean()),
                            unit="share of the mean", n=n),
            ),
            message=f"The gradient of {component} jumps from checkpoint to checkpoint.",
        )  # fmt: skip


def stalled(series: Series, limits: TrendLimits) -> Iterator[Finding]:
    """Components that learn next to nothing of what they did (`turns` of learning efficiency).

    Where nearly all of them do, it is said once, of the model: it has converged, or the learning
    rate does not matter any more, which no single place is to blame for.
    """
    rows = _of(series, "learning_efficiency", len(series.epochs))
    if not rows:
        return
    table = np.stack([values for _, values in rows], axis=1)
    sides = TurnLimits(low=limits.stalled, rare=limits.turn.rare, confidence=limits.turn.confidence)
    found = turns(table, sides)
    fell = np.flatnonzero(found.fell)
    measured = int((~np.isnan(table[-1])).sum())
    if len(rows) > 1 and len(fell) >= limits.whole * measured > 0:
        fell_as = [(fell, tuple(rows[i][0] for i in fell), "Nearly all components")]
    else:
        fell_as = [(np.array([i]), (rows[i][0],), rows[i][0]) for i in fell]
    for which, components, said in fell_as:
        at = int(which[np.argmin(found.confidence[which])])
        n = int((~np.isnan(table[:, at])).sum())
        yield Finding.make(
            code="learning-stalled",
            components=components,
            severity=1 - float(np.median(found.after[which] / found.before[which])),
            evidence=(
                Measurement(name="learning_before", value=float(found.before[at]), n=n,
                            note=f"of {rows[at][0]}"),
                Measurement(name="learning_after", value=float(found.after[at]), n=n,
                            note=f"of {rows[at][0]}"),
                Measurement(name="turn_epoch", value=series.epochs[int(found.at[at])],
                            unit="epoch", n=n),
                Measurement(name="turn_confidence", value=float(found.confidence[at]),
                            unit="confidence", n=n),
            ),
            message=f"{said} {'learn' if len(which) > 1 else 'learns'} next to nothing of what "
            f"{'they' if len(which) > 1 else 'it'} did.",
        )  # fmt: skip


def _of(series: Series, metric: str, window: int) -> list[tuple[str, Floats]]:
    """Component -> a number over the last checkpoints, where the last one has it."""
    found: list[tuple[str, Floats]] = []
    for name, rows in series.numbers.values.items():
        component, _, known = name.rpartition("|")
        if known == metric and component and len(rows) and not np.isnan(rows[-1, 0]):
            found.append((component, rows[-window:, 0].astype(np.float64)))
    return found
