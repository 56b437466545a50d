"""How large, how sparse and how spread out what a component writes is, overall and by group."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from zsei.measures.samples import group_rows
from zsei.records import Measurement
from zsei.trace.rows import effective_rank
from zsei.trace.summary import NEAR_ZERO
from zsei.trace.view import Measured, View


@final
@dataclass(frozen=True, kw_only=True)
class ActivationProfile:
    """Size, zeros, outliers and rank of what every component writes, for each data group alone.

    Measures: mean |a|, RMS with its spread over samples, share of exact zeros, share near zero and
    outlier ratio per component and group; effective rank per group after each layer. Over all data
    the share of exact zeros is added to what the trace measures anyway.

    Formula: over rows [r, c] of a group: mean |a|; RMS of each sample's rows, then mean and
    standard deviation over samples; share of a = 0; share of |a| < 0.001 RMS; max |a| / RMS;
    effective rank exp(-Σ p log p) of the covariance's eigenvalues p, at most min(r - 1, c).

    Reading it: a component that is twice as large, or far sparser, on one group works for that
    group. A lower rank on one group says that its inputs are told apart less there.

    Misleads when: groups differ in length or scale of their inputs, which shows in every component;
    the rank of few rows is limited by their number (the note gives the cap). The outlier ratio of a
    group is that of the kept rows.

    References: Roy and Vetterli, "The effective rank: a measure of effective dimensionality",
    EUSIPCO 2007.
    """

    name: ClassVar[str] = "activation-profile"

    fewest_rows: int = 8
    """Rows below which nothing is said of a group."""
    most_ranks: int = 32
    """Layers up to which every one gets its rank per group; of more, evenly spread ones."""

    def measure(self, view: View) -> Measured:
        """Shares of zeros over all data, and everything by group."""
        found: dict[str, tuple[Measurement, ...]] = {}
        groups: dict[str, dict[str, tuple[Measurement, ...]]] = {}
        ranked = self._ranked(view)
        for component, node in view.taps.writers.items():
            rows = view.rows.get(node)
            if rows is None:
                continue
            n = len(view.row_samples[node].unique())
            found[component] = (_zeros(rows, n),)
            for group, chosen in group_rows(view, node):
                if int(chosen.sum()) >= self.fewest_rows:
                    here = rows[chosen]
                    profile = _profile(here, view.row_samples[node][chosen])
                    if component in ranked:
                        profile = (*profile, _rank(here, profile[0].n))
                    groups.setdefault(group, {})[component] = profile
        return Measured(measurements=found, groups=groups)

    def _ranked(self, view: View) -> set[str]:
        """Joins and, where there are none, all components: evenly spread ones of many."""
        joins = [join.component for join in view.taps.joins]
        names = joins or list(view.taps.writers)
        if len(names) <= self.most_ranks:
            return set(names)
        at = torch.linspace(0, len(names) - 1, self.most_ranks).round().long().tolist()
        return {names[i] for i in at}


def _zeros(rows: Tensor, n: int) -> Measurement:
    share = 1 - float(rows.count_nonzero()) / max(rows.numel(), 1)
    return Measurement(name="zero_share", value=share, unit="share", n=n,
                       note=f"from {rows.shape[0]} rows")  # fmt: skip


def _profile(rows: Tensor, samples: Tensor) -> tuple[Measurement, ...]:
    numbers, place = samples.unique(return_inverse=True)
    n = len(numbers)
    squares = torch.zeros(n).index_add_(0, place, rows.square().mean(1).float())
    per_sample = (squares / torch.bincount(place, minlength=n)).sqrt().double()
    rms = float(rows.square().mean().sqrt())
    sizes = rows.abs()
    note = f"from {rows.shape[0]} rows"
    near = float((sizes < NEAR_ZERO * rms).float().mean()) if rms > 0 else 1.0
    found = [
        Measurement(name="rms", value=float(per_sample.mean()), unit="activation",
                    std=float(per_sample.std()) if n > 1 else None, n=n, note=note),
        Measurement(name="mean_abs", value=float(sizes.mean()), unit="activation", n=n, note=note),
        _zeros(rows, n),
        Measurement(name="near_zero_share", value=near, unit="share", n=n, note=note),
    ]  # fmt: skip
    if rms > 0:
        ratio = float(sizes.max()) / rms
        found.append(
            Measurement(name="outlier_ratio", value=ratio, unit="x RMS", n=n, note=note)
        )  # fmt: skip
    return tuple(found)


def _rank(rows: Tensor, n: int) -> Measurement:
    rank, cap = effective_rank(rows)
    note = f"from {rows.shape[0]} rows; it cannot exceed {cap}"
    return Measurement(name="effective_rank", value=rank, unit="dimensions", n=n, note=note)
