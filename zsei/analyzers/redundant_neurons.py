"""Neurons and channels that repeat others."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import networkx as nx

from zsei.analyzers.context import Analysis
from zsei.analyzers.words import number
from zsei.records import Finding, Measurement
from zsei.subject.types import Site


@final
@dataclass(frozen=True, kw_only=True)
class RedundantNeurons:
    """Neurons or channels of one layer whose values move together.

    Measures: how many units of a layer could be merged into another one of it.

    Formula: r = correlation of two units over the kept rows (sample and position); r = -1 is as
    redundant as +1. Groups are connected components of |r| >= min_correlation; of a group of g
    units g - 1 could be merged into the one that is left, by adding their outgoing weights times
    the slope between them. Severity: share of the layer's units that could be merged away.

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

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """One finding per layer that has duplicates, in program order."""
        for scores in analysis.trace.units.values():
            # A unit that never moves correlates with nothing: dead-units tells of it.
            pairs = [p for p in scores.duplicates if abs(p[2]) >= self.min_correlation]
            alike: nx.Graph[int] = nx.Graph()
            alike.add_edges_from((i, j) for i, j, _ in pairs)
            groups = sorted(tuple(sorted(group)) for group in nx.connected_components(alike))
            removable = sum(len(group) - 1 for group in groups)
            if removable and removable >= self.min_share * scores.site.units:
                yield self._report(scores.site, groups, max(abs(r) for *_, r in pairs))

    def _report(self, site: Site, groups: list[tuple[int, ...]], strongest: float) -> Finding:
        removable = sum(len(group) - 1 for group in groups)
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
