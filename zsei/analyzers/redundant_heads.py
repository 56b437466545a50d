"""Heads that write the same, and what measuring says about letting one go."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from typing import ClassVar, final

from zsei.analyzers.checks import with_checks
from zsei.analyzers.context import Analysis
from zsei.analyzers.pairs import components_of, matrix_named, mean_within, pairs_of
from zsei.analyzers.redundancy import Limits, judge, whole_effect
from zsei.analyzers.words import listed, number
from zsei.records import Finding, Measurement


@final
@dataclass(frozen=True, kw_only=True)
class RedundantHeads:
    """Groups of heads, of one layer or of several, that write nearly the same.

    Measures: how alike the outputs of heads are, whether they back each other up, and whether that
    makes the model steadier.

    Formula: similarity = cosine of z_h W_O^h of two heads as vectors over rows and channels,
    centred; -1 is as redundant as 1. Groups are connected components of |similarity| >=
    min_similarity. interaction = Δ(all) - Σ Δ(each), Δ the effect of exact ablation (squared for
    relative L2, so that effects of unrelated heads add), with a bootstrap interval over samples.
    noise_effect: how far Gaussian noise of a tenth of the input's RMS moves the output, with all
    heads and without the least of them. Severity: share of the heads of the attentions concerned
    that could go.

    Reading it: interaction well above 0 means that the heads back each other up: one of them can
    go, at the cost of its own Δ, and one must stay; where the output then moves more under noise,
    the redundancy is of use. Δ(all) near nothing means that all can go. Interaction near 0 means
    that each is read for itself however alike they look; below 0 that they partly cancel.

    Misleads when: two heads are alike on this data only; the ablation replaces by a mean that
    hardly differs from the value; or a group is a chain whose ends are no longer alike.

    References: Michel, Levy and Neubig, "Are sixteen heads really better than one?", NeurIPS 2019;
    McGrath et al., "The Hydra effect: emergent self-repair in language model computations", 2023.
    """

    code: ClassVar[str] = "redundant-heads"
    clock: ClassVar[bool] = False

    min_similarity: float = 0.8
    """|cosine| of two heads' outputs from which they count as alike, 0 to 1."""
    limits: Limits = field(default_factory=Limits)
    """From where on a measured interaction counts; see `zsei.analyzers.redundancy`."""
    most_groups: int = 8
    """Groups that are measured, most alike first."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """One finding per group, most alike first."""
        alike = likenesses(analysis)
        order = _order(analysis)
        groups: list[tuple[float, tuple[str, ...]]] = []
        for group in components_of(p for p, r in alike.items() if abs(r) >= self.min_similarity):
            names = tuple(sorted(group, key=order.__getitem__))
            groups.append((mean_within(alike, names), names))
        total = whole_effect(analysis, "head")
        for likeness, names in sorted(groups, key=lambda g: (-g[0], g[1]))[: self.most_groups]:
            finding = self._judge(analysis, names, likeness, total)
            if finding is not None:
                yield finding

    def _judge(
        self, analysis: Analysis, names: tuple[str, ...], likeness: float, total: float
    ) -> Finding | None:
        judged = judge(analysis, names, total=total, limits=self.limits, robustness=True)
        if judged is None:
            return None
        parents = {analysis.subject.anatomy.component(name).parent for name in names}
        beside = [
            c for c in analysis.subject.anatomy.components
            if c.kind == "head" and c.parent in parents
        ]  # fmt: skip
        finding = Finding.make(
            code=self.code,
            components=names,
            severity=judged.removable / len(beside),
            evidence=(
                Measurement(name="head_similarity", value=likeness, unit="cosine"),
                *judged.evidence,
            ),
            message=f"{listed(names)} write nearly the same (similarity {number(likeness)}); "
            f"removing them together has an effect of {number(float(judged.joint.mean()))} against "
            f"{number(float(judged.summed.mean()))} for the sum of each alone: {judged.said}.",
        )
        return with_checks(finding, *judged.checks)


def likenesses(analysis: Analysis) -> dict[tuple[str, str], float]:
    """(earlier head, later head) -> cosine of what they write, of one layer or of two."""
    order = _order(analysis)
    found: dict[tuple[str, str], float] = {}
    for component, similarity in analysis.trace.head_similarity.items():
        site = analysis.subject.anatomy.site(component, "head")
        if site is not None:
            for i, j in combinations(range(site.units), 2):
                found[site.unit_ids[i], site.unit_ids[j]] = float(similarity[i, j])
    for pair, value in pairs_of(matrix_named(analysis, "head_cosine")).items():
        first, second = sorted(pair, key=order.__getitem__)
        found.setdefault((first, second), value)
    return found


def _order(analysis: Analysis) -> dict[str, int]:
    return {c.id: i for i, c in enumerate(analysis.subject.anatomy.components)}
