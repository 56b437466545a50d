"""Importance that rises or falls over the checkpoints."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from zsei.checkpoint.history import Floats, History, Values
from zsei.checkpoint.series import Series, shares
from zsei.checkpoint.slope import Slopes, slopes
from zsei.checkpoint.trend_limits import TrendLimits
from zsei.records import Finding, Measurement


def moving(
    history: History, series: Series, limits: TrendLimits, names: Mapping[tuple[str, int], str]
) -> Iterator[Finding]:
    """Places, heads and layers whose share of importance rises or falls (`slopes`).

    Formula: share_c = x_c / Σ x, of the places (by activity), of the heads of a place and of the
    layers (by combined importance) that are still there. Said when noise alone would do the same
    with a probability below `false_alarms` / (series x looks), and when the slope makes
    at least `change` of the mean over the window. Severity: half of that change, at most 1.
    """
    places, table = shares(series)
    groups: list[tuple[tuple[int, ...], tuple[str, ...], Floats]] = []
    if places:
        last = series.totals
        table = np.stack(
            [_since_cut(table[:, i], last.values[p][:, 1]) for i, p in enumerate(places)], axis=1
        )
        ids = tuple(place.partition("|")[0] for place in places)
        groups.append((last.steps, ids, table))
    groups += [(history.steps, *_units(history, kind, names)) for kind in ("head", "layer")]
    count = sum(len(ids) for _, ids, _ in groups)
    for steps, ids, values in groups:
        if ids:
            rows = slice(-limits.window, None)
            found = slopes(steps[rows], values[rows])
            for at, component in enumerate(ids):
                yield from _direction(
                    component, found, at, values[rows, at], steps[rows], count, limits
                )


def _since_cut(row: Floats, units: Values) -> Floats:
    """The share of a place since it last lost units; what it did before is another place's."""
    changed = np.flatnonzero(np.diff(units) != 0)
    kept = row.copy()
    if len(changed):
        kept[: changed[-1] + 1] = np.nan
    return kept


def _units(
    history: History, kind: str, names: Mapping[tuple[str, int], str]
) -> tuple[tuple[str, ...], Floats]:
    """Heads or layers that are still there, each as share of those of its place (heads) or model.

    A removed unit leaves its share to the others at once; so the whole is that of the survivors.
    """
    ids: list[str] = []
    columns: list[Floats] = []
    keys = [key for key in history.values if key.endswith(f"|{kind}")]
    layers = [history.values[key][:, 0].astype(np.float64) for key in keys if kind == "layer"]
    alive = [row for row in layers if len(row) and not np.isnan(row[-1])]
    for key in keys:
        component = key.partition("|")[0]
        rows = history.values[key].astype(np.float64)
        here = np.flatnonzero(~np.isnan(rows[-1])) if len(rows) else []
        kept = rows[:, here]
        others = np.stack(alive, axis=1) if kind == "layer" and alive else kept
        whole = others.sum(axis=1)  # NaN where one was not measured: then there is no share
        for place, unit in enumerate(here):
            with np.errstate(invalid="ignore", divide="ignore"):
                share = kept[:, place] / whole
            if others.shape[1] > 1:
                head = names.get((component, int(unit)), f"{component}.{unit}")
                ids.append(component if kind == "layer" else head)
                columns.append(share)
    blank = np.full((len(history.steps), 0), np.nan)
    return tuple(ids), np.stack(columns, axis=1) if columns else blank


def _direction(
    component: str,
    found: Slopes,
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
    probability = float(min(found.rising[at], found.falling[at]))
    span = steps[-1] - steps[int(np.flatnonzero(told)[0])]
    change = float(found.slope[at]) * span / mean if mean > 0 else 0.0
    if probability > limits.chance(count) or abs(change) < limits.change:
        return
    up = bool(found.rising[at] < found.falling[at])
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
            Measurement(name="trend_correlation", value=float(found.correlation[at]), n=n),
        ),
        message=f"The share of importance of {component} has been "
        f"{'rising' if up else 'falling'} over the last checkpoints.",
    )  # fmt: skip
