"""How much of what a component writes is decided by the data group of its input."""

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from zsei.measures.samples import could_not_tell, sample_means
from zsei.records import Measurement
from zsei.trace.view import Measured, View

NAME, UNIT = "group_variance_share", "share"


@final
@dataclass(frozen=True, kw_only=True)
class DataGroups:
    """Share of a component's variance over samples that the data group explains.

    Measures: how far apart the groups lie in what a component writes, against how far apart the
    samples of one group do.

    Formula: with m_s the mean row of sample s [c], m_g the mean of group g and m of all:
    η² = Σ_g n_g ‖m_g - m‖² / Σ_s ‖m_s - m‖². Chance alone gives (G - 1) / (N - 1), so what is
    reported is ε² = (SS_between - (G - 1) SS_within / (N - G)) / SS_total, at least 0, which
    chance leaves at 0; the note holds the plain η².

    Reading it: 0 for a component that treats all groups alike, 1 for one whose output is the group.
    Where it rises along depth the model begins to treat the groups differently.

    Misleads when: groups differ in something trivial, such as their length; with few samples of a
    group (two at least; below ten the value is coarse).

    References: Kelley, "An unbiased correlation ratio measure", PNAS 1935.
    """

    name: ClassVar[str] = "data-groups"

    fewest: int = 2
    """Samples each group needs."""

    def measure(self, view: View) -> Measured:
        """One share per component; nothing for data of one group."""
        groups = view.sample_groups
        names = sorted(set(groups))
        if len(names) < 2:
            return Measured()
        numbers = torch.tensor([names.index(group) for group in groups])
        found = {}
        for component, node in view.taps.writers.items():
            if node in view.rows:
                means, samples = sample_means(view.rows[node], view.row_samples[node])
                found[component] = (self._share(means, numbers[samples], len(names)),)
        return Measured(measurements=found)

    def _share(self, means: Tensor, group: Tensor, groups: int) -> Measurement:
        counts = torch.bincount(group, minlength=groups)
        n = len(means)
        if int(counts.min()) < self.fewest:
            return could_not_tell(
                NAME, UNIT, f"{self.fewest} samples of every group are needed; the smallest has "
                f"{int(counts.min())}", n,
            )  # fmt: skip
        means = means.double()
        sums = torch.zeros(groups, means.shape[1], dtype=torch.float64).index_add_(0, group, means)
        centres = sums / counts[:, None]
        total = float((means - means.mean(0)).square().sum())
        within = float((means - centres[group]).square().sum())
        if total <= 1e-24 * max(1.0, float(means.square().sum())) or n <= groups:
            return could_not_tell(NAME, UNIT, "the component writes the same for all samples", n)
        plain = 1 - within / total
        corrected = (total - within - (groups - 1) * within / (n - groups)) / total
        return Measurement(
            name=NAME, value=min(1.0, max(0.0, corrected)), unit=UNIT, n=n,
            note=f"corrected for chance; plain η² {plain:.3f} over {groups} groups",
        )  # fmt: skip
