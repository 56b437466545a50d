"""Parts that one group of the data needs and the others do not."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from zsei.analyzers.checks import halves_check, inconclusive, with_checks
from zsei.analyzers.context import Analysis
from zsei.analyzers.effects import bounds
from zsei.analyzers.shares import additive, first_half
from zsei.analyzers.words import listed, percent
from zsei.records import Check, Finding, Measurement


@final
@dataclass(frozen=True, kw_only=True)
class DynamicBottleneck:
    """Parts whose effect rests on one data group: a bottleneck for it, idle for all others.

    Measures: how the effect of removing a part is spread over the data groups.

    Formula: e_c(n) = effect of the exact ablation of part c on sample n, additive. group_share of c
    in group G = mean of e_c over G / Σ over the parts of the same means: c's share of what counts
    for that group. Found when group_share >= min_share in one group and the upper 95 % bound of
    every other group's share stays within max_elsewhere x the lower bound there. A group needs
    min_samples ablated samples. Severity: group_share - the largest share elsewhere.

    Reading it: the part is a specialist. On the other groups its time is wasted, and data that
    leaves its group out calls it dead: prune it only if that group never comes. Where a program has
    no control flow that depends on data, time is the same for every group by construction; where
    it has, see time-bottleneck.

    Misleads when: groups differ in what they make easy (every effect shrinks where outputs hardly
    move: shares are therefore taken within a group); when a group has few samples; or when two
    parts back each other up on one group only.

    References: Michel, Levy and Neubig, "Are sixteen heads really better than one?", NeurIPS 2019
    (importance of heads differs by test set); Gururangan et al., "Don't stop pretraining", ACL 2020
    (domains); Bengio, Léonard and Courville, "Estimating or propagating gradients through
    stochastic neurons for conditional computation", 2013.
    """

    code: ClassVar[str] = "dynamic-bottleneck"
    clock: ClassVar[bool] = False

    min_share: float = 0.05
    """Share of a group's effect from which a part counts for it."""
    max_elsewhere: float = 0.2
    """Largest share in other groups, relative to that in the group that needs the part."""
    min_samples: int = 6
    """Ablated samples a group must have."""
    most: int = 5
    """Findings at most, most one-sided first."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """One finding per part, most one-sided first."""
        groups = _groups(analysis)
        large = {g: chosen for g, chosen in groups.items() if int(chosen.sum()) >= self.min_samples}
        if len(large) < 2:
            return
        found: list[Finding] = []
        for effects in _kinds(analysis):
            for part, values in effects.items():
                shares = _shares(effects, values, large)
                needing = max(sorted(shares), key=lambda g: shares[g][1])
                others = {g: s for g, s in shares.items() if g != needing}
                mean, low = shares[needing][1], shares[needing][0]
                most = max(high for _, _, high in others.values())
                if mean >= self.min_share and most <= self.max_elsewhere * low:
                    finding = self._report(part, needing, shares, large)
                    check = self._check(part, needing, effects, large)
                    found.append(with_checks(finding, check))
        found.sort(key=lambda f: (-f.severity, f.components))
        yield from found[: self.most]

    def _report(
        self,
        part: str,
        needing: str,
        shares: Mapping[str, tuple[float, float, float]],
        groups: Mapping[str, Tensor],
    ) -> Finding:
        elsewhere = max(mean for g, (_, mean, _) in shares.items() if g != needing)
        others = listed([g for g in sorted(shares) if g != needing])
        return Finding.make(
            code=self.code,
            components=(part,),
            severity=shares[needing][1] - elsewhere,
            evidence=tuple(
                Measurement(name="group_share", value=mean, unit="share",
                            n=int(groups[group].sum()), note=group)
                for group, (_, mean, _) in sorted(shares.items())
            ),
            message=f"{part} is needed by the group {needing}: removing it makes "
            f"{percent(shares[needing][1])} of the summed effect there, and at most "
            f"{percent(elsewhere)} on {others}.",
        )  # fmt: skip

    def _check(
        self, part: str, needing: str, effects: Mapping[str, Tensor], groups: Mapping[str, Tensor]
    ) -> Check:
        """The same on either half of every group's samples."""
        ratios, sizes = [], []
        for first in (True, False):
            half = {}
            for name, chosen in groups.items():
                order = torch.cumsum(chosen, 0) - 1
                inside = first_half(int(chosen.sum()), 1)
                taken = chosen & (inside[order.clamp_min(0)] == first)
                half[name] = taken
                sizes.append(int(taken.sum()))
            shares = _shares(effects, effects[part], half)
            elsewhere = max(mean for g, (_, mean, _) in shares.items() if g != needing)
            own = shares[needing][1]
            ratios.append(elsewhere / own if own > 0 else float("inf"))
        if any(ratio == float("inf") for ratio in ratios):
            return inconclusive(
                "half-samples", f"One half of the samples of {needing} shows no effect at all; "
                f"it takes more samples of that group.",
            )  # fmt: skip
        return halves_check(
            "group_share",
            (ratios[0], ratios[1]),
            (ratios[0] <= self.max_elsewhere, ratios[1] <= self.max_elsewhere),
            samples=min(sizes),
            fewest=max(2, self.min_samples // 2),
            what="the share elsewhere over that in the group is",
            unit="ratio",
            claim=f"that {needing} alone needs it",
        )


def _groups(analysis: Analysis) -> dict[str, Tensor]:
    """Data group -> which ablated samples belong to it, bool [n]."""
    names = [g for batch in analysis.importance.batches for g in batch.groups]
    return {g: torch.tensor([name == g for name in names]) for g in dict.fromkeys(names)}


def _kinds(analysis: Analysis) -> Iterator[dict[str, Tensor]]:
    """Per kind of unit: unit -> additive effect per sample [n], exact ones only."""
    objective = analysis.subject.objective
    samples = sum(batch.size for batch in analysis.importance.batches)
    for kind in ("branch", "head"):
        found = {
            unit: torch.as_tensor(additive(objective, effect.divergence.double()))
            for unit, effect in analysis.importance.effects.items()
            if effect.target.site.kind == kind and len(effect.divergence) == samples
        }
        # What alone makes the output is needed by all, and hides the others.
        ends = analysis.flow.endings()
        found = {unit: values for unit, values in found.items() if unit not in ends}
        if len(found) > 1:
            yield found


def _shares(
    effects: Mapping[str, Tensor], values: Tensor, groups: Mapping[str, Tensor]
) -> dict[str, tuple[float, float, float]]:
    """Group -> (lower bound, share, upper bound) of a part in the group's summed effect."""
    found = {}
    for name, chosen in groups.items():
        total = sum(float(v[chosen].mean()) for v in effects.values())
        low, high = bounds(values[chosen])
        scale = 1 / total if total > 0 else 0.0
        found[name] = (low * scale, float(values[chosen].mean()) * scale, high * scale)
    return found
