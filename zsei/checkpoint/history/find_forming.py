"""Units that become alike in the course of the checkpoints."""

from collections.abc import Iterator, Mapping

import numpy as np

from zsei.checkpoint.config import CheckpointConfig
from zsei.checkpoint.history.history import Floats
from zsei.checkpoint.history.series import Series
from zsei.checkpoint.history.slope import slopes
from zsei.checkpoint.history.trend_limits import TrendLimits
from zsei.checkpoint.history.turning import Turn, turns
from zsei.records import Finding, Measurement

_LISTED = 12


def forming(
    series: Series,
    config: CheckpointConfig,
    limits: TrendLimits,
    names: Mapping[tuple[str, int], str],
) -> Iterator[Finding]:
    """Pairs that became alike for good, and places whose most alike pair is on its way there.

    Formula: a pair is alike from the threshold of the configuration on; it has become so when it
    was not before and is now, both for all but `rare` of the checkpoints (`turns`). On its way:
    the highest similarity of the place rises (`slopes`, tested as in `find_moving`) and is less
    than `close` under the threshold. Severity: share of the units in such pairs; 0.3 on the way.
    """
    formed: set[str] = set()
    pairs = _pairs(series)
    for site, table in pairs.items():
        threshold = _threshold(site, config)
        keys = list(table)
        looked = ~np.isnan(_aligned(series, f"{site}|alike_pairs"))
        alike = np.stack([np.nan_to_num(table[k]) >= threshold for k in keys], axis=1)
        values = np.where(looked[:, None], alike.astype(np.float64), np.nan)
        found = turns(values, limits.turn)
        came = [keys[i] for i in np.flatnonzero(found.rose)]
        if came:
            formed.add(site)
            yield _formed(series, site, came, found, np.flatnonzero(found.rose), threshold, names)
    ends = "|highest_similarity"
    sites = [name.removesuffix(ends) for name in series.numbers.values if name.endswith(ends)]
    for site in sites:
        if site not in formed:
            yield from _approaching(series, site, _threshold(site, config), len(sites), limits)


def _threshold(site: str, config: CheckpointConfig) -> float:
    pruning = config.elesh.structured_pruning
    if site.endswith("|head"):
        return pruning.attention_analysis.similarity_threshold
    return pruning.channel_analysis.redundancy_threshold


def _pairs(series: Series) -> dict[str, dict[tuple[int, int], Floats]]:
    """Place -> pair -> similarity over the checkpoints."""
    found: dict[str, dict[tuple[int, int], Floats]] = {}
    for name, rows in series.pairs.values.items():
        site, first, second = name.rsplit("|", 2)
        found.setdefault(site, {})[int(first), int(second)] = rows[:, 0].astype(np.float64)
    return found


def _aligned(series: Series, name: str) -> Floats:
    """A number at the checkpoints for which pairs are kept."""
    rows = series.numbers.values[name][:, 0].astype(np.float64)
    return rows[len(rows) - len(series.pairs.steps) :]


def _formed(
    series: Series,
    site: str,
    came: list[tuple[int, int]],
    found: Turn,
    at: np.ndarray,
    threshold: float,
    names: Mapping[tuple[str, int], str],
) -> Finding:
    component, _, kind = site.rpartition("|")
    units = sorted({unit for pair in came for unit in pair})
    ids = tuple(names.get((component, unit), "") for unit in units)
    listed = ", ".join(f"{a} and {b}" for a, b in came[:_LISTED])
    more = f" and {len(came) - _LISTED} more pairs" if len(came) > _LISTED else ""
    n = len(series.pairs.steps)
    first = came[0]
    rows = series.activity.values.get(site)
    width = rows.shape[1] if rows is not None else max(units) + 1
    similarity = series.pairs.values[f"{site}|{first[0]}|{first[1]}"][:, 0]
    return Finding.make(
        code="redundancy-forming",
        components=ids if kind == "head" and all(ids) else (component,),
        severity=min(1.0, len(units) / width),
        evidence=(
            Measurement(name="turned_pairs", value=len(came), unit="count", n=n,
                        note=f"{kind}s {listed}{more}"),
            Measurement(name="highest_similarity", value=float(similarity[-1]), n=n,
                        note=f"of {kind}s {first[0]} and {first[1]}; the threshold is "
                             f"{threshold:g}"),
            Measurement(name="turn_epoch", value=series.pairs.steps[int(found.at[at[0]])],
                        unit="epoch", n=n),
            Measurement(name="turn_confidence", value=float(found.confidence[at].min()),
                        unit="confidence", n=n),
        ),
        message=f"{kind.capitalize()}s {listed}{more} of {component} have become alike.",
    )  # fmt: skip


def _approaching(
    series: Series, site: str, threshold: float, count: int, limits: TrendLimits
) -> Iterator[Finding]:
    rows = slice(-limits.window, None)
    values = series.numbers.values[f"{site}|highest_similarity"][rows].astype(np.float64)
    steps = series.epochs[rows]
    told = ~np.isnan(values[:, 0])
    if not told.any() or not told[-1] or values[-1, 0] < threshold - limits.close:
        return
    found = slopes(steps, values)
    limit = limits.chance(count)
    # Alike already and still climbing is nothing new; the pairs themselves are told apart above.
    if values[-1, 0] >= threshold or not found.rising[0] < limit:
        return
    component, _, kind = site.rpartition("|")
    n = int(found.n[0])
    yield Finding.make(
        code="redundancy-forming",
        components=(component,),
        severity=0.3,
        evidence=(
            Measurement(name="highest_similarity", value=float(values[-1, 0]), n=n,
                        note=f"the threshold is {threshold:g}"),
            Measurement(name="trend_slope", value=float(found.slope[0]), unit="per epoch",
                        std=float(found.error[0]), n=n),
            Measurement(name="trend_chance", value=float(found.rising[0]), unit="probability", n=n,
                        note=f"one of {count} series; the limit is {limit:.1e}"),
        ),
        message=f"The two most alike {kind}s of {component} are on their way to being the same.",
    )  # fmt: skip
