"""What is followed over the checkpoints of a run, beside the importance of units.

Letters: c checkpoint, u unit of a place.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from zsei.checkpoint.history.history import KEPT, Floats, History, observe
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
    """Three histories of one run. What was not measured is NaN and never 0."""

    numbers: History = field(default_factory=lambda: History(kept=KEPT))
    """"component|metric" -> [c, 1]; component "" is the model."""
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
        sites: What was measured of the units of each place, under the name it had when the run
            began.
        measurements: Component -> numbers; of those in `FOLLOWED` the value is kept.
        model: Of the whole model: "loss", "accuracy", "sparsity", "sparsity_wanted",
            "analysis_confidence"; None where it was not measured.
        numbers: "component|kind" -> the number each unit had when the run began, -1 for one that is
            held at zero. A place that is missing has lost no unit.

    Raises:
        DataError: When the epoch is not later, a value is infinite, or the numbers do not fit.
    """
    numbers = numbers or {}
    scalars = {f"|{name}": value for name, value in model.items()}
    for component, measured in measurements.items():
        for measurement in measured:
            if measurement.name in FOLLOWED:
                scalars.setdefault(f"{component}|{measurement.name}", measurement.value)
    activity: dict[str, Floats] = {}
    pairs: dict[str, list[float]] = {}
    for site in sites:
        key = site.key
        does = _activity(site)
        place = numbers.get(key) or range(len(next(iter(site.parts.values()), ())))
        if does is not None:
            activity[key] = _spread(series, key, does, place)
        if (
            site.kind == "layer"
            and (cosine := site.parts.get("similarity", (None,))[0]) is not None
        ):
            scalars.setdefault(f"{site.component}|block_influence", 1 - cosine)
        # What points the other way is as redundant as what points the same way.
        alike = sorted(((a, b, abs(s)) for a, b, s in site.pairs), key=lambda p: -p[2])[:PAIRS]
        # A place whose likeness was not looked at has no number of pairs, rather than none.
        if site.pairs or does is not None:
            scalars[f"{key}|alike_pairs"] = float(len(site.pairs))
        if alike:
            scalars[f"{key}|highest_similarity"] = alike[0][2]
        for first, second, similarity in alike:
            low, high = sorted((place[first], place[second]))
            if low >= 0:
                pairs[f"{key}|{low}|{high}"] = [similarity]
    told = {name: [np.nan if value is None else value] for name, value in scalars.items()}
    return replace(
        series,
        numbers=observe(series.numbers, epoch, told),
        activity=observe(series.activity, epoch, activity),
        pairs=_without_blanks(observe(series.pairs, epoch, pairs)),
    )


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
    if len(place) != len(row) or max(place, default=-1) >= width:
        raise DataError(
            f"`{key}` has {len(row)} units at this checkpoint and {len(place)} numbers for them, "
            f"of {width} at first; give the number each unit had when the run began."
        )
    spread = np.full(width, np.nan)
    for number, value in zip(place, row, strict=True):
        if number >= 0:
            spread[number] = value
    return spread


def _without_blanks(pairs: History) -> History:
    """Pairs that were alike at none of the checkpoints kept are forgotten."""
    values = {name: rows for name, rows in pairs.values.items() if not np.isnan(rows).all()}
    return replace(pairs, values=values)
