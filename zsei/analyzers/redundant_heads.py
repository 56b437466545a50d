"""Heads that write the same, and what measuring says about letting one go."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import networkx as nx
import numpy as np

from zsei.analyzers.context import Analysis
from zsei.analyzers.effects import bounds, effect_scores, measured_effects, measurement
from zsei.analyzers.words import listed, number
from zsei.records import Finding, Measurement
from zsei.subject.types import Site
from zsei.trace.ablation import Target


@final
@dataclass(frozen=True, kw_only=True)
class RedundantHeads:
    """Groups of heads of one attention that write nearly the same, told apart by joint ablation.

    Measures: how alike the outputs of heads are, and whether they back each other up.

    Formula: similarity = cosine of z_h W_O^h of two heads as vectors over rows and channels,
    centred; groups are connected components of |similarity| >= min_similarity. interaction = Δ(all)
    - Σ Δ(each), Δ the effect of exact ablation (squared for relative L2, so that effects of
    unrelated heads add). Severity: share of the attention's heads that could go.

    Reading it: interaction well above 0 means that the heads back each other up: one of them can
    go, at the cost of its own Δ, and one must stay. Δ(all) near nothing means that all can go.
    Interaction near 0 means that each is read for itself however alike they look; below 0 that they
    partly cancel.

    Misleads when: two heads are alike on this data only, or the ablation replaces by a mean that
    hardly differs from the value.

    References: Michel, Levy and Neubig, "Are sixteen heads really better than one?", NeurIPS 2019;
    McGrath et al., "The Hydra effect: emergent self-repair in language model computations", 2023.
    """

    code: ClassVar[str] = "redundant-heads"
    clock: ClassVar[bool] = False

    min_similarity: float = 0.8
    """|cosine| of two heads' outputs from which they count as alike, 0 to 1."""
    min_interaction: float = 0.25
    """Interaction, as a share of the summed single effects, from which it counts."""
    negligible: float = 0.01
    """Share of the summed effects of all heads below which a joint effect is nothing."""
    most_groups: int = 8
    """Groups that are measured, most alike first."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """One finding per group, most alike first."""
        groups: list[tuple[float, Site, tuple[int, ...]]] = []
        for component, similarity in analysis.trace.head_similarity.items():
            site = analysis.subject.anatomy.site(component, "head")
            if site is not None:
                groups += self._groups(site, similarity)
        total = _all_heads(analysis)
        for likeness, site, units in sorted(groups, key=lambda g: (-g[0], g[1].component))[
            : self.most_groups
        ]:
            yield self._judge(analysis, site, units, likeness, total)

    def _groups(
        self, site: Site, similarity: np.ndarray
    ) -> Iterator[tuple[float, Site, tuple[int, ...]]]:
        alike: nx.Graph[int] = nx.Graph()
        pairs = np.argwhere(np.triu(np.abs(similarity), 1) >= self.min_similarity)
        alike.add_edges_from((int(i), int(j)) for i, j in pairs)
        for group in nx.connected_components(alike):
            units = tuple(sorted(group))
            inside = np.abs(similarity)[np.ix_(units, units)]
            likeness = float(inside[np.triu_indices(len(units), 1)].mean())
            yield likeness, site, units

    def _judge(
        self, analysis: Analysis, site: Site, units: tuple[int, ...], likeness: float, total: float
    ) -> Finding:
        singles = [Target(site=site, units=(unit,)) for unit in units]
        *alone, together = measured_effects(analysis, [*singles, Target(site=site, units=units)])
        summed = sum(alone[1:], alone[0])
        interaction = together - summed
        low, high = bounds(interaction)
        enough = self.min_interaction * float(summed.mean())
        names = tuple(site.unit_ids[unit] for unit in units)
        joint = float(together.mean())
        if joint <= self.negligible * total:
            could_go, said = len(units), "none of them is needed"
        elif low > 0 and float(interaction.mean()) >= enough:
            could_go, said = len(units) - 1, "they back each other up, so one of them must stay"
        elif high < 0 and -float(interaction.mean()) >= enough:
            could_go, said = 0, "removing all costs less than the sum, so they partly cancel"
        else:
            could_go, said = 0, "each is read for itself, so none can go for the other's sake"
        return Finding.make(
            code=self.code,
            components=names,
            severity=could_go / site.units,
            evidence=(
                Measurement(name="head_similarity", value=likeness, unit="cosine"),
                *(
                    measurement(analysis, "ablation_effect", effect, note=name)
                    for name, effect in zip(names, alone, strict=True)
                ),
                measurement(analysis, "joint_effect", together),
                measurement(analysis, "interaction", interaction),
                Measurement(name="removable_units", value=could_go, unit="count"),
            ),
            message=f"{listed(names)} write nearly the same (similarity {number(likeness)}); "
            f"removing them together has an effect of {number(joint)} against "
            f"{number(float(summed.mean()))} for the sum of each alone: {said}.",
        )


def _all_heads(analysis: Analysis) -> float:
    """Summed effect of removing each head of the model."""
    sites = [site for site in analysis.subject.anatomy.sites if site.kind == "head"]
    known = [site for site in sites if (site.component, "head") in analysis.importance.scores]
    return sum(sum(effect_scores(analysis, site.component, "head")) for site in known)
