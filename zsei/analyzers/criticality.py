"""The few components the output rests on, and those it rests on for one kind of data only."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, final

import numpy as np
import torch

from zsei.analyzers.checks import FEWEST, inconclusive, with_checks
from zsei.analyzers.context import Analysis
from zsei.analyzers.shares import additive
from zsei.analyzers.words import listed, number
from zsei.importance.effects import sample_groups
from zsei.records import Check, Finding, Measurement
from zsei.subject.types import UnitKind
from zsei.trace.ablation import Target, ablate

KINDS: tuple[UnitKind, ...] = ("head", "branch", "layer")


@final
@dataclass(frozen=True, kw_only=True)
class Criticality:
    """Components whose removal moves the output far more than that of others of their kind.

    Measures: how much of what removing parts does to the output is due to single ones, on all data
    and on each data group alone.

    Formula: effect_ratio = e_c / mean of e over the ablated components of its kind (heads, parts,
    layers), e the exact effect of ablation on the scale on which effects add up. Critical: at least
    min_ratio. Critical for one group only: at least min_ratio on that group and below 1 on every
    other, where bootstrap intervals of the two ratios do not meet. What alone hands its value to
    the output is left out. Severity: 0, for a critical part is no defect.

    Reading it: leave these alone, keep their precision and watch them after an edit. A part that is
    critical for one group only is what input-dependent computation could skip on the others.

    Misleads when: parts back each other up, so that each looks dispensable alone; the groups are
    small; or what stands in for a part is itself unusual for the model.

    References: Michel, Levy and Neubig, "Are sixteen heads really better than one?", NeurIPS 2019;
    Voita et al., "Analyzing multi-head self-attention", ACL 2019.
    """

    code: ClassVar[str] = "criticality"
    clock: ClassVar[bool] = False

    min_ratio: float = 4.0
    """Effect over the mean effect of its kind from which a component is critical."""
    most: int = 5
    """Components that a finding names, most critical first."""
    fewest: int = 6
    """Components of a kind below which none is compared with the others."""
    resamples: int = 500
    """Bootstrap resamples of the samples of a group."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """The critical components, then those of each data group alone."""
        effects = self._effects(analysis)
        ratios = _ratios({kind: _means(found) for kind, found in effects.items()})
        critical = [name for name in _sorted(ratios) if ratios[name] >= self.min_ratio]
        if critical:
            yield self._overall(analysis, effects, ratios, critical[: self.most])
        yield from self._by_group(analysis, effects)

    def _effects(self, analysis: Analysis) -> dict[str, dict[str, np.ndarray]]:
        """Kind -> component -> additive effect per sample."""
        found: dict[str, dict[str, np.ndarray]] = {kind: {} for kind in KINDS}
        endings = analysis.flow.endings()
        for unit, effect in analysis.importance.effects.items():
            kind = effect.target.site.kind
            if kind in found and unit not in endings:
                values = additive(analysis.subject.objective, effect.divergence.double())
                found[kind][unit] = torch.as_tensor(values).numpy()
        return {kind: units for kind, units in found.items() if len(units) >= self.fewest}

    def _overall(
        self, analysis: Analysis, effects: Mapping[str, Mapping[str, np.ndarray]],
        ratios: Mapping[str, float], critical: list[str],
    ) -> Finding:  # fmt: skip
        per_sample = {name: v for units in effects.values() for name, v in units.items()}
        finding = Finding.make(
            code=self.code,
            components=tuple(critical),
            severity=0.0,
            evidence=tuple(
                row
                for name in critical
                for row in (
                    _effect(analysis, per_sample[name], name),
                    Measurement(name="effect_ratio", value=ratios[name], unit="ratio", note=name),
                )
            ),
            message=f"The output rests on {listed(critical)}: removing "
            f"{'it' if len(critical) == 1 else 'one of them'} does "
            f"{number(ratios[critical[-1]])} times or more what removing an average part of its "
            f"kind does.",
        )
        return with_checks(
            finding, self._halves(effects, critical), self._fresh(analysis, effects, critical)
        )

    def _halves(
        self, effects: Mapping[str, Mapping[str, np.ndarray]], critical: list[str]
    ) -> Check:
        """Whether each stays critical, at half the ratio, on either half of the samples."""
        samples = len(next(iter(next(iter(effects.values())).values())))
        if samples < 2 * FEWEST:
            why = f"Halves of {samples} samples say too little; it takes {2 * FEWEST}."
            return inconclusive("half-samples", why)
        lowest = dict.fromkeys(critical, np.inf)
        for start in (0, 1):
            means = {k: {n: v[start::2].mean() for n, v in e.items()} for k, e in effects.items()}
            for name, ratio in _ratios(means).items():
                if name in lowest:
                    lowest[name] = min(lowest[name], ratio)
        return self._judged("half-samples", lowest, f"the worse half of {samples} samples")

    def _fresh(
        self, analysis: Analysis, effects: Mapping[str, Mapping[str, np.ndarray]],
        critical: list[str],
    ) -> Check:  # fmt: skip
        """The same on calibration samples that exact ablation has not seen."""
        used = len(analysis.importance.batches)
        fresh = analysis.subject.calibration[used : used + 1]
        known = analysis.importance.effects
        if not fresh or fresh[0].size < FEWEST:
            seen = sum(batch.size for batch in analysis.importance.batches)
            why = f"All calibration samples were used; it takes {seen + FEWEST} or more."
            return inconclusive("fresh-samples", why)
        targets: list[Target] = [known[name].target for name in critical]
        found = ablate(
            analysis.engine, analysis.subject.objective, fresh, targets, means=analysis.trace.means,
            replacement=analysis.settings.replacement, seed=analysis.settings.seed,
        )  # fmt: skip
        ratios = {}
        for name, effect in zip(critical, found, strict=True):
            others = effects[effect.target.site.kind]
            mean = float(np.mean([values.mean() for values in others.values()]))
            moved = torch.as_tensor(additive(analysis.subject.objective, effect.divergence))
            ratios[name] = float(moved.mean()) / mean
        return self._judged("fresh-samples", ratios, f"{fresh[0].size} samples not used before")

    def _judged(self, name: str, ratios: Mapping[str, float], where: str) -> Check:
        lowest = min(ratios, key=lambda unit: (ratios[unit], unit))
        agrees = ratios[lowest] >= self.min_ratio / 2
        return Check(
            name=name,
            outcome="agrees" if agrees else "disagrees",
            evidence=tuple(
                Measurement(name="effect_ratio", value=float(ratio), unit="ratio", note=unit)
                for unit, ratio in ratios.items()
            ),
            message=f"On {where} the least of them, {lowest}, has {number(ratios[lowest])} times "
            f"the mean effect of its kind.",
        )

    def _by_group(
        self, analysis: Analysis, effects: Mapping[str, Mapping[str, np.ndarray]]
    ) -> Iterator[Finding]:
        groups = {
            group: members.numpy()
            for group, members in sample_groups(analysis.importance.batches).items()
            if len(members) >= FEWEST
        }
        if len(groups) < 2:
            return
        generator = np.random.default_rng([analysis.settings.seed, 17])
        ratios: dict[str, dict[str, np.ndarray]] = {}
        for group, members in groups.items():
            drawn = generator.choice(members, (self.resamples, len(members)))
            ratios[group] = {}
            for units in effects.values():
                table = np.stack(list(units.values()))
                resampled = table[:, drawn].mean(2)
                means = np.concatenate([table[:, members].mean(1)[:, None], resampled], 1)
                for name, row in zip(units, means / means.mean(0), strict=True):
                    ratios[group][name] = row
        for group in groups:
            only = [name for name in ratios[group] if self._only(name, group, ratios)]
            if only:
                yield self._group_finding(analysis, group, only, ratios, groups)

    def _only(self, name: str, group: str, ratios: Mapping[str, Mapping[str, np.ndarray]]) -> bool:
        """Whether a component is critical on one group and ordinary on every other."""
        here = ratios[group][name]
        others = [found[name] for other, found in ratios.items() if other != group]
        apart = all(np.quantile(here[1:], 0.05) > np.quantile(o[1:], 0.95) for o in others)
        return here[0] >= self.min_ratio and all(o[0] < 1 for o in others) and bool(apart)

    def _group_finding(
        self, analysis: Analysis, group: str, only: list[str],
        ratios: Mapping[str, Mapping[str, np.ndarray]], groups: Mapping[str, np.ndarray],
    ) -> Finding:  # fmt: skip
        only = sorted(only, key=lambda name: (-ratios[group][name][0], name))[: self.most]
        evidence, intervals = [], []
        for name in only:
            for other, members in groups.items():
                found = ratios[other][name]
                row = Measurement(
                    name="effect_ratio", value=float(found[0]), unit="ratio",
                    std=float(found[1:].std()), n=len(members), note=f"{name} on {other}",
                )  # fmt: skip
                evidence.append(row)
            low = float(np.quantile(ratios[group][name][1:], 0.05))
            high = max(
                float(np.quantile(ratios[other][name][1:], 0.95))
                for other in groups if other != group
            )  # fmt: skip
            intervals.append(f"{name} {number(low)} against {number(high)}")
        finding = Finding.make(
            code=self.code,
            components=tuple(only),
            severity=0.0,
            evidence=tuple(evidence),
            message=f"On {group} the output rests on {listed(only)}, which on the other data "
            f"{'does' if len(only) == 1 else 'do'} less than the average part.",
        )
        return with_checks(
            finding,
            Check(
                name="bootstrap",
                outcome="agrees",
                evidence=tuple(evidence),
                message="Lower 5 % bound of the ratio there against the highest upper one "
                f"elsewhere: {listed(intervals)}.",
            ),
        )


def _means(units: Mapping[str, np.ndarray]) -> dict[str, float]:
    return {name: float(values.mean()) for name, values in units.items()}


def _ratios(means: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Component -> its effect over the mean of its kind."""
    found = {}
    for units in means.values():
        average = sum(units.values()) / len(units)
        if average > 0:
            found |= {name: value / average for name, value in units.items()}
    return found


def _sorted(ratios: Mapping[str, float]) -> list[str]:
    return sorted(ratios, key=lambda name: (-ratios[name], name))


def _effect(analysis: Analysis, values: np.ndarray, name: str) -> Measurement:
    metric = analysis.subject.objective.metric
    return Measurement(
        name="ablation_effect",
        value=float(values.mean()),
        unit=f"({metric})²" if analysis.subject.objective.output == "values" else metric,
        std=float(values.std(ddof=1)) if len(values) > 1 else None,
        n=len(values),
        note=name,
    )
