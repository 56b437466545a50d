"""What is followed over the checkpoints of a run, beside the importance of units.

Letters: c checkpoint, u unit of a place.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from zsei.checkpoint.history import KEPT, Floats, History, observe
from zsei.checkpoint.tasks import SiteMeasure
from zsei.errors import DataError
from zsei.records import Measurement

RECENT = 64
"""Checkpoints for which single units and pairs are kept: enough to call one dead or alike with a
confidence of 0.95, and bounded for a model of any length of training."""
PAIRS = 32
"""Pairs kept of one place and checkpoint, the most alike."""
FOLLOWED = (
    "gradient_rms", "learning_efficiency", "block_influence", "ablation_effect", "sensitivity",
    "effective_rank", "attention_entropy", "update_to_weight",
)  # fmt: skip
"""Measurements of components that are kept over the checkpoints."""
ACTIVITY = ("taylor", "output sensitivity", "activation frequency")
"""Criteria that are 0 for a unit that does nothing, the first that a place has. The combined
importance is not: a unit that never fires still has weights, and so a magnitude."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Series:
    """Four histories of one run. What was not measured is NaN and never 0."""

    numbers: History = field(default_factory=lambda: History(kept=KEPT))
    """"component|metric" -> [c, 1]; component "" is the model."""
    totals: History = field(default_factory=lambda: History(kept=KEPT))
    """"component|kind" -> [c, 2]: activity of all its units together, and how many there are."""
    activity: History = field(default_factory=lambda: History(kept=RECENT))
    """"component|kind" -> what each unit does, [c, u], by the number it had at the beginning."""
    pairs: History = field(default_factory=lambda: History(kept=RECENT))
    """"component|kind|unit|unit" -> similarity [c, 1]; NaN where it was not among those alike."""

    @property
    def epochs(self) -> tuple[int, ...]:
        """Epochs of the checkpoints kept, rising."""
        return self.numbers.steps

    def of(self, component: str, metric: str) -> Floats:
        """A number over the checkpoints, [c]; NaN where it was not measured."""
        found = self.numbers.values.get(f"{component}|{metric}")
        blank = np.full(len(self.epochs), np.nan)
        return blank if found is None else found[:, 0].astype(np.float64)


def follow(
    series: Series,
    epoch: int,
    *,
    sites: Iterable[SiteMeasure],
    measurements: Mapping[str, Sequence[Measurement]],
    model: Mapping[str, float | None],
    numbers: Mapping[str, Sequence[int]] | None = None,
) -> Series:
    """The series with one more checkpoint.

    Args:
        series: What was followed before.
        epoch: Later than all before it.
        sites: What was measured of the units of each place.
        measurements: Component -> numbers; of those in `FOLLOWED` the value is kept.
        model: Of the whole model: "loss", "accuracy", "sparsity", "sparsity_wanted",
            "analysis_confidence"; None where it was not measured.
        numbers: "component|kind" -> the number each unit had when the run began. A place that is
            missing has lost no unit.

    Raises:
        DataError: When the epoch is not later, or a value is infinite.
    """
    numbers = numbers or {}
    scalars = {f"|{name}": value for name, value in model.items()}
    for component, measured in measurements.items():
        for measurement in measured:
            if measurement.name in FOLLOWED:
                scalars.setdefault(f"{component}|{measurement.name}", measurement.value)
    totals: dict[str, list[float]] = {}
    activity: dict[str, Floats] = {}
    pairs: dict[str, list[float]] = {}
    for site in sites:
        units = len(next(iter(site.parts.values()), ()))
        place = numbers.get(site.key) or range(units)
        does = _activity(site)
        totals[site.key] = [np.nan if does is None else float(np.nansum(does)), units]
        if does is not None:
            activity[site.key] = _spread(series, site.key, does, place)
        alike = sorted(site.pairs, key=lambda pair: -pair[2])[:PAIRS]
        # A place whose likeness was not looked at has no number of pairs, rather than none.
        if site.pairs or does is not None:
            scalars[f"{site.key}|alike_pairs"] = float(len(site.pairs))
        if alike:
            scalars[f"{site.key}|highest_similarity"] = alike[0][2]
        for first, second, similarity in alike:
            low, high = sorted((place[first], place[second]))
            pairs[f"{site.key}|{low}|{high}"] = [similarity]
    told = {name: [np.nan if value is None else value] for name, value in scalars.items()}
    return replace(
        series,
        numbers=observe(series.numbers, epoch, told),
        totals=observe(series.totals, epoch, totals),
        activity=observe(series.activity, epoch, activity),
        pairs=_without_blanks(observe(series.pairs, epoch, pairs)),
    )


def shares(series: Series) -> tuple[tuple[str, ...], Floats]:
    """Places that are still there, and the share of each in what all of them do, [c, place].

    Shares instead of sums, because the learning rate and the loss move the gradients of all places
    alike. A checkpoint at which one of them was not measured has NaN for all: shares of different
    wholes cannot be compared.
    """
    known = {
        key: rows[:, 0].astype(np.float64)
        for key, rows in series.totals.values.items()
        if len(rows) and not np.isnan(rows[-1, 1]) and not key.endswith("|layer")
    }
    if not known:
        return (), np.full((len(series.totals.steps), 0), np.nan)
    table = np.stack(list(known.values()), axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        found = table / table.sum(axis=1, keepdims=True)
    return tuple(known), found


def importance_shares(
    sites: Iterable[SiteMeasure],
) -> dict[str, float | None]:
    """Component -> its share of what all units of the model do, at one checkpoint.

    Heads are listed by the attention they are part of. None when one of the places could not be
    measured: then no share can be told.
    """
    totals: dict[str, float | None] = {}
    for site in sites:
        if site.kind == "layer":
            continue
        does = _activity(site)
        before = totals.get(site.component, 0.0)
        one = None if does is None else float(np.nansum(does))
        totals[site.component] = None if one is None or before is None else before + one
    whole = [value for value in totals.values() if value is not None]
    if len(whole) < len(totals) or sum(whole) <= 0:
        return dict.fromkeys(totals)
    return {name: (value or 0.0) / sum(whole) for name, value in totals.items()}


def _activity(site: SiteMeasure) -> Floats | None:
    for name in ACTIVITY:
        part = site.parts.get(name)
        if part is not None and any(value is not None for value in part):
            told = np.array([np.nan if v is None else v for v in part], dtype=np.float64)
            return np.abs(told)
    return None


def _spread(series: Series, key: str, row: Floats, place: Sequence[int]) -> Floats:
    """A row by the numbers units had at first; NaN for those that are gone."""
    known = series.activity.values.get(key)
    width = known.shape[1] if known is not None else max(place, default=-1) + 1
    if len(place) != len(row) or (len(row) and max(place) >= width):
        raise DataError(
            f"`{key}` has {len(row)} units at this checkpoint and {len(place)} numbers for them, "
            f"of {width} at first; give the number each unit had when the run began."
        )
    spread = np.full(width, np.nan)
    spread[list(place)] = row
    return spread


def _without_blanks(pairs: History) -> History:
    """Pairs that were alike at none of the checkpoints kept are forgotten."""
    values = {name: rows for name, rows in pairs.values.items() if not np.isnan(rows).all()}
    return replace(pairs, values=values)
