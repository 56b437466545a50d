"""Importance that rises or falls over the checkpoints."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from zsei.checkpoint.history.history import Floats, History
from zsei.checkpoint.history.slope import Slopes, slopes
from zsei.checkpoint.history.trend_limits import TrendLimits
from zsei.records import Finding, Measurement

_EDGE = 1e-6
"""Shares nearer to 0 and 1 have no logarithm worth telling apart."""
POOLS: tuple[tuple[str, ...], ...] = (("channel", "neuron"), ("head",), ("layer",))
"""Kinds whose units share one whole, as in `zsei.checkpoint.measure.combine`."""


def moving(
    history: History, limits: TrendLimits, names: Mapping[tuple[str, int], str]
) -> Iterator[Finding]:
    """Places, heads and layers whose share of importance rises or falls (`slopes`).

    Formula: share = Σ x over the units of a place / Σ x over all units of the pool (all channels
    and neurons, all heads, all layers), both of those that are still there. Said when noise alone
    would do the same with a probability below `false_alarms` / (series x looks), tested on
    log(share / (1 - share)), in which what multiplies importance is a straight line; and when the
    slope makes at least `change` of the mean over the window. Severity: half of it, at most 1.
    """
    groups = [found for kinds in POOLS for found in _shares(history, kinds, names)]
    count = sum(len(ids) for ids, _ in groups)
    rows = slice(-limits.window, None)
    steps = history.steps[rows]
    for ids, values in groups:
        found = slopes(steps, values[rows])
        inside = np.clip(values[rows], _EDGE, 1 - _EDGE)
        tested = slopes(steps, np.log(inside / (1 - inside)))
        for at, component in enumerate(ids):
            row = values[rows, at]
            yield from _direction(component, found, tested, at, row, steps, count, limits)


def _shares(
    history: History, kinds: tuple[str, ...], names: Mapping[tuple[str, int], str]
) -> Iterator[tuple[tuple[str, ...], Floats]]:
    """Names and shares [c, s] of the places of a pool, and of its heads one by one.

    A removed unit leaves its share to the others at once; so the whole is that of the survivors. A
    checkpoint at which one of them was not measured tells no share.
    """
    tables: dict[str, Floats] = {}
    for key in history.values:
        rows = history.values[key].astype(np.float64)
        if key.rpartition("|")[2] in kinds and len(rows) and not np.isnan(rows[-1]).all():
            tables[key] = rows[:, ~np.isnan(rows[-1])]
    if not tables:
        return
    places = np.stack([table.sum(axis=1) for table in tables.values()], axis=1)
    whole = places.sum(axis=1, keepdims=True)
    whole = np.where(whole > 0, whole, np.nan)
    if len(tables) > 1:
        yield tuple(key.rpartition("|")[0] for key in tables), places / whole
    if kinds == ("head",):
        ids: list[str] = []
        for key in tables:
            component = key.rpartition("|")[0]
            here = np.flatnonzero(~np.isnan(history.values[key][-1]))
            ids += [names.get((component, int(u)), f"{component}.{u}") for u in here]
        yield tuple(ids), np.concatenate(list(tables.values()), axis=1) / whole


def _direction(
    component: str,
    found: Slopes,
    tested: Slopes,
    at: int,
    values: Floats,
    steps: Sequence[int],
    count: int,
    limits: TrendLimits,
) -> Iterator[Finding]:
    told = ~np.isnan(values)
    n = int(told.sum())
    if n < 5 or not told[-1]:
        return
    mean = float(values[told].mean())
    probability = float(min(tested.rising[at], tested.falling[at]))
    span = steps[-1] - steps[int(np.flatnonzero(told)[0])]
    change = float(found.slope[at]) * span / mean if mean > 0 else 0.0
    if probability > limits.chance(count) or abs(change) < limits.change:
        return
    up = bool(tested.rising[at] < tested.falling[at])
    if up != (change > 0):
        return
    yield Finding.make(
        code="importance-rising" if up else "importance-falling",
        components=(component,),
        severity=min(1.0, abs(change) / 2),
        evidence=(
            Measurement(name="trend_slope", value=float(found.slope[at]), unit="share/epoch",
                        std=float(found.error[at]), n=n,
                        note=f"epochs {steps[int(np.flatnonzero(told)[0])]} to {steps[-1]}"),
            Measurement(name="trend_change", value=change, unit="share of the mean", n=n),
            Measurement(name="trend_chance", value=probability, unit="probability", n=n,
                        note=f"one of {count} series; the limit is "
                             f"{limits.chance(count):.1e}"),
            Measurement(name="trend_correlation", value=float(tested.correlation[at]), n=n),
        ),
        message=f"The share of importance of {component} has been "
        f"{'rising' if up else 'falling'} over the last checkpoints.",
    )  # fmt: skip
