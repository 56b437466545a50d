"""The units that bring least: the waste that can be tried first."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np

from zsei.analyzers.context import Analysis
from zsei.analyzers.effects import effect_scores, joint_effect, measurement
from zsei.analyzers.words import listed, number, percent
from zsei.records import Finding, Measurement
from zsei.subject.types import Site, UnitKind
from zsei.trace.ablation import Target


@dataclass(frozen=True, kw_only=True)
class Little:
    """Units of one site that bring little."""

    site: Site
    units: tuple[int, ...]
    effect: float
    """Their summed effect, additive."""
    share: float
    """The same as a share of the total they are taken from."""


@final
@dataclass(frozen=True, kw_only=True)
class LowEffect:
    """The largest sets of heads, neurons or channels whose effects together stay small.

    Measures: how many units could be tried for removal first, and what removing all of them at once
    really does.

    Formula: units are sorted by the effect of removing each, exact where it was ablated and
    predicted by output sensitivity elsewhere; the longest run from the small end whose sum is at
    most max_share of the total is taken (heads: of all heads of the model; neurons and channels: of
    their own layer). joint_effect is the exact effect of removing all of them at once, in all
    layers; interaction = joint_effect - the sum of the single ones. Nothing is said where output
    sensitivity is not validated on this model and the effects are not all exact. Severity: share
    of the units that is in the sets.

    Reading it: an interaction near 0 says that the units are waste indeed; one far above it says
    that they back each other up, and that part of the set must stay.

    Misleads when: the data leaves out what a unit is for, or the single effects are so small that
    the quadratic they were predicted by says little about removing hundreds at once.

    References: Michel, Levy and Neubig, "Are sixteen heads really better than one?", NeurIPS 2019;
    Molchanov et al., "Importance estimation for neural network pruning", CVPR 2019.
    """

    code: ClassVar[str] = "low-effect"
    clock: ClassVar[bool] = False

    max_share: float = 0.05
    """Share of the total effect that a set may add up to."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """Heads, neurons, channels: at most one finding each."""
        yield from self._report(analysis, "head", self.sets(analysis, "head"), "all heads")
        for kind in ("neuron", "channel"):
            yield from self._report(analysis, kind, self.sets(analysis, kind), "their layer")

    def sets(self, analysis: Analysis, kind: UnitKind) -> list[Little]:
        """The units of a kind that bring little, site by site; none where effects are in doubt."""
        if not _trusted(analysis, kind):
            return []
        return self._heads(analysis) if kind == "head" else self._by_site(analysis, kind)

    def _heads(self, analysis: Analysis) -> list[Little]:
        """One run over the heads of all attentions."""
        sites = _sites(analysis, "head")
        scores = [np.array(effect_scores(analysis, site.component, "head")) for site in sites]
        if not scores:
            return []
        taken = _smallest(np.concatenate(scores), self.max_share)
        total = sum(float(score.sum()) for score in scores)
        found, start = [], 0
        for site, score in zip(sites, scores, strict=True):
            units = tuple(int(i) - start for i in taken if start <= i < start + len(score))
            start += len(score)
            if units:
                effect = float(score[list(units)].sum())
                found.append(Little(site=site, units=units, effect=effect, share=effect / total))
        return found

    def _by_site(self, analysis: Analysis, kind: UnitKind) -> list[Little]:
        found = []
        for site in _sites(analysis, kind):
            scores = np.array(effect_scores(analysis, site.component, kind))
            units = tuple(int(i) for i in _smallest(scores, self.max_share))
            if units:
                effect = float(scores[list(units)].sum())
                share = effect / float(scores.sum())
                found.append(Little(site=site, units=units, effect=effect, share=share))
        return found

    def _report(
        self, analysis: Analysis, kind: UnitKind, sets: list[Little], whose: str
    ) -> Iterator[Finding]:
        if not sets:
            return
        count = sum(len(s.units) for s in sets)
        total = sum(site.units for site in _sites(analysis, kind))
        share = sum(s.share for s in sets) if kind == "head" else max(s.share for s in sets)
        sets = sorted(sets, key=lambda s: -len(s.units) / s.site.units)
        together = joint_effect(analysis, [Target(site=s.site, units=s.units) for s in sets])
        joint = measurement(analysis, "joint_effect", together)
        summed = sum(s.effect for s in sets)
        interaction = measurement(analysis, "interaction", together - summed)
        where = listed([s.site.component for s in sets])
        names = [
            name
            for s in sets
            for name in (
                [s.site.unit_ids[u] for u in s.units] if kind == "head" else [s.site.component]
            )
        ]
        yield Finding.make(
            code=self.code,
            components=tuple(names),
            severity=count / total,
            evidence=(
                Measurement(name="low_effect_units", value=count, unit="count", note=f"{kind}s"),
                Measurement(name="units", value=total, unit="count", note=f"{kind}s"),
                Measurement(name="low_effect_share", value=share, unit="share",
                            note=f"of the summed effect of {whose}"),
                joint,
                interaction,
            ),
            message=f"{count} of {total} {kind}s {'brings' if count == 1 else 'bring'} at most "
            f"{percent(share)} of the effect of {whose}, in {where}; removing "
            f"{'it' if count == 1 else 'all of them at once'} moves the output by "
            f"{number(float(together.mean()))} in {joint.unit}.",
        )  # fmt: skip


def _sites(analysis: Analysis, kind: UnitKind) -> list[Site]:
    return [
        site
        for site in analysis.subject.anatomy.sites
        if site.kind == kind and (site.component, kind) in analysis.importance.scores
    ]


def _smallest(scores: np.ndarray, share: float) -> np.ndarray:
    """Indices of the longest run from the small end whose sum is at most a share of the total."""
    order = np.argsort(scores, kind="stable")
    total = scores.sum()
    if total <= 0:
        return order[:0]
    return np.sort(order[np.cumsum(scores[order]) <= share * total])


def _trusted(analysis: Analysis, kind: UnitKind) -> bool:
    """Whether the effects of a kind are all exact, or their prediction is validated here."""
    if any(
        r.kind == kind and r.criterion == "exact ablation" for r in analysis.importance.rankings
    ):
        return True
    return any(
        c.kind == kind and c.criterion == "output sensitivity" and c.status == "validated"
        for c in analysis.importance.checks
    )
