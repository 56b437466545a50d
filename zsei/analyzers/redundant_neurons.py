"""Neurons and channels that repeat others."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import networkx as nx

from zsei.analyzers.answers import merged
from zsei.analyzers.checks import inconclusive, sampled_check, with_checks
from zsei.analyzers.context import Analysis
from zsei.analyzers.effects import effect_scores, measurement
from zsei.analyzers.words import number
from zsei.records import Check, Finding, Measurement
from zsei.subject.types import Site


@final
@dataclass(frozen=True, kw_only=True)
class RedundantNeurons:
    """Neurons or channels of one layer whose values move together.

    Measures: how many units of a layer could be merged into another one of it.

    Formula: r = correlation of two units over the kept rows (sample and position); r = -1 is as
    redundant as +1. Groups are connected components of |r| >= min_correlation; of a group of g
    units g - 1 could be merged into the one that is left, by adding their outgoing weights times
    the slope between them. The strongest few are merged for a trial: every unit becomes the best
    linear function of its group's first, and the output's movement is compared with the summed
    effect of the layer's units. Severity: share of the layer's units that could be merged away.

    Reading it: merging duplicates costs almost nothing where |r| is near 1, which is rarer than
    units of little effect: see low-effect.

    Misleads when: units agree on this data only; a connected component is a chain whose ends no
    longer agree (strongest_correlation is that of its best pair); or the layer is wider than 4096,
    where correlations are not computed.

    References: Srinivas and Babu, "Data-free parameter pruning for deep neural networks", BMVC
    2015.
    """

    code: ClassVar[str] = "redundant-neurons"
    clock: ClassVar[bool] = False

    min_correlation: float = 0.95
    """|correlation| from which two units are near duplicates, 0.95 to 1."""
    min_share: float = 0.005
    """Share of a layer's units that must be mergeable for it to be worth telling."""
    most_trials: int = 3
    """Layers that are merged for a trial, those with most duplicates first."""
    max_moved: float = 0.01
    """Effect of merging, as a share of the layer's summed unit effects, up to which it is none."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """One finding per layer that has duplicates, in program order."""
        found: list[tuple[Site, list[tuple[int, ...]], float]] = []
        for scores in analysis.trace.units.values():
            # A unit that never moves correlates with nothing: dead-units tells of it.
            pairs = [p for p in scores.duplicates if abs(p[2]) >= self.min_correlation]
            alike: nx.Graph[int] = nx.Graph()
            alike.add_edges_from((i, j) for i, j, _ in pairs)
            groups = sorted(tuple(sorted(group)) for group in nx.connected_components(alike))
            if groups and _removable(groups) >= self.min_share * scores.site.units:
                found.append((scores.site, groups, max(abs(r) for *_, r in pairs)))
        most = sorted(found, key=lambda f: (-_removable(f[1]), f[0].component))
        tried = {site.component for site, *_ in most[: self.most_trials]}
        for site, groups, strongest in found:
            finding = self._report(site, groups, strongest)
            yield with_checks(finding, self._trial(analysis, site, groups, site.component in tried))

    def _trial(
        self, analysis: Analysis, site: Site, groups: list[tuple[int, ...]], tried: bool
    ) -> Check:
        if not tried:
            return inconclusive("merging", "Not merged for a trial: others have more duplicates.")
        moved = merged(analysis, site, groups)
        total = sum(effect_scores(analysis, site.component, site.kind))
        return sampled_check(
            "merging", measurement(analysis, "joint_effect", moved), moved,
            claim="they repeat each other", done="Merging them", at_most=self.max_moved * total,
            seed=analysis.settings.seed,
        )  # fmt: skip

    def _report(self, site: Site, groups: list[tuple[int, ...]], strongest: float) -> Finding:
        removable = _removable(groups)
        noun = f"{site.kind}s"
        written = ["=".join(str(unit) for unit in group) for group in groups]
        return Finding.make(
            code=self.code,
            components=(site.component,),
            severity=removable / site.units,
            evidence=(
                Measurement(name="removable_units", value=removable, unit="count",
                            note=f"{noun} alike: {' '.join(written)}"),
                Measurement(name="units", value=site.units, unit="count"),
                Measurement(name="duplicate_groups", value=len(groups), unit="count"),
                Measurement(name="strongest_correlation", value=strongest, unit="|r|"),
            ),
            message=f"{removable} of the {site.units} {noun} of {site.component} "
            f"{'repeats' if removable == 1 else 'repeat'} another one (groups: {len(groups)}, "
            f"strongest |r| {number(strongest)}).",
        )  # fmt: skip


def _removable(groups: list[tuple[int, ...]]) -> int:
    return sum(len(group) - 1 for group in groups)
