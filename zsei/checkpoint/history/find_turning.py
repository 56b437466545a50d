"""Units that die or wake in the course of the checkpoints."""

from collections.abc import Iterator, Mapping

import numpy as np

from zsei.checkpoint.history.history import Floats
from zsei.checkpoint.history.series import Series
from zsei.checkpoint.history.trend_limits import TrendLimits
from zsei.checkpoint.history.turning import Turn, turns
from zsei.records import Finding, Measurement

_LISTED = 12


def turning(
    series: Series, limits: TrendLimits, names: Mapping[tuple[str, int], str], threshold: float
) -> Iterator[Finding]:
    """Units that died or woke (`turns`), one finding for each place and direction.

    Formula: activity (`zsei.checkpoint.history.series.ACTIVITY`) over the typical activity of the
    places of its kind at that checkpoint; 0 below the threshold of death. Severity: share of the
    units.
    """
    by_kind: dict[str, list[str]] = {}
    for key in series.activity.values:
        by_kind.setdefault(key.rpartition("|")[2], []).append(key)
    for keys in by_kind.values():
        tables = {key: series.activity.values[key].astype(np.float64) for key in keys}
        scale = _scale(list(tables.values()))
        for key, table in tables.items():
            # A place that sinks below the threshold of death does so whatever the others do.
            relative = np.where(table < threshold, 0.0, table) / scale[:, None]
            found = turns(relative, limits.turn)
            for code, which in (("component-dying", found.fell), ("component-waking", found.rose)):
                if which.any():
                    units = np.flatnonzero(which)
                    yield _turn(series, key, code, units, found, table.shape[1], names)


def _scale(tables: list[Floats]) -> Floats:
    """Median over the places of their mean activity, [c]: what moves all of them alike.

    A median, so that one place that dies as a whole does not make the others seem to wake.
    """
    means = np.stack([_mean(table) for table in tables], axis=1)
    blank = np.isnan(means).all(axis=1)
    means[blank] = 1.0
    typical = np.nanmedian(means, axis=1)
    return np.where(typical > 0, typical, 1.0)


def _mean(table: Floats) -> Floats:
    told = ~np.isnan(table)
    count = told.sum(axis=1)
    total = np.where(told, table, 0.0).sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def _turn(
    series: Series,
    key: str,
    code: str,
    units: np.ndarray,
    found: Turn,
    width: int,
    names: Mapping[tuple[str, int], str],
) -> Finding:
    component, _, kind = key.rpartition("|")
    ids = tuple(names.get((component, int(u)), "") for u in units)
    named = ids if kind == "head" and all(ids) else (component,)
    first = int(units[0])
    epoch = series.activity.steps[int(found.at[first])]
    listed = ", ".join(str(int(u)) for u in units[:_LISTED])
    more = f" and {len(units) - _LISTED} more" if len(units) > _LISTED else ""
    one = len(units) == 1
    said = f"did next to nothing and {'works' if one else 'work'} now"
    if code == "component-dying":
        said = f"{'does' if one else 'do'} next to nothing any more"
    n = len(series.activity.steps)
    worst = float(found.confidence[units].min())
    return Finding.make(
        code=code,
        components=named,
        severity=min(1.0, len(units) / max(1, width)) if kind != "layer" else 1.0,
        evidence=(
            Measurement(name="turned_units", value=len(units), unit="count", n=n,
                        note=f"{kind}s {listed}{more}"),
            Measurement(name="units", value=width, unit="count"),
            Measurement(name="turn_epoch", value=epoch, unit="epoch", n=n,
                        note=f"of {kind} {first}"),
            Measurement(name="activity_before", value=float(found.before[first]),
                        unit="x typical activity", n=n, note=f"of {kind} {first}"),
            Measurement(name="activity_after", value=float(found.after[first]),
                        unit="x typical activity", n=n, note=f"of {kind} {first}"),
            Measurement(name="turn_confidence", value=worst, unit="confidence", n=n),
        ),
        message=f"{kind.capitalize()}{'' if one else 's'} {listed}{more} of {component} {said}.",
    )  # fmt: skip
