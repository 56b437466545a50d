"""Parts that write different things and mean the same."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from typing import ClassVar, final

from zsei.analyzers.answers import Moved, moved, same_way
from zsei.analyzers.checks import targets_of, with_checks
from zsei.analyzers.context import Analysis
from zsei.analyzers.pairs import (
    Pairs,
    cliques_of,
    matrix_named,
    mean_within,
    pairs_of,
    profiles,
)
from zsei.analyzers.redundancy import Judged, Limits, judge, whole_effect
from zsei.analyzers.words import listed, number
from zsei.records import Finding, Measurement

MEANING = {
    "concept": "tell the groups of the data apart alike",
    "decision": "move the output the same way",
    "features": "carry the same features",
    "route": "serve the same readers alike",
}
EVIDENCE = {
    "concept": ("concept_similarity", "correlation"),
    "features": ("head_cka", "CKA"),
    "route": ("route_similarity", "correlation"),
}


@dataclass(frozen=True, kw_only=True)
class _Group:
    """Parts of which every two are alike in some ways."""

    names: tuple[str, ...]
    kinds: dict[str, float]
    """Way in which they are alike -> mean likeness."""


@final
@dataclass(frozen=True, kw_only=True)
class SemanticRedundancy:
    """Groups of heads or branches that are redundant in what they mean, not in what they write.

    Measures: four ways to be the same under different outputs, and for each group what removing one
    and all of it does: keep, one can go, all can go.

    Formula: concept: concept_similarity (scores along the line between the data groups, on unseen
    samples) >= min_concept; decision: decision_similarity, the cosine over samples of the output
    changes under exact ablation, >= min_decision; features: head_cka >= min_features, the same up
    to rotation; route: correlation of who reads them by how much (attributed edges, or composition
    with later heads) >= min_route. Pairs whose outputs have |cosine| >= max_cosine are
    left to redundant-heads and redundant-paths. Groups are maximal cliques: every two of a group
    are alike. Then interaction = Δ(all) - Σ Δ(each) with its bootstrap interval decides, and input
    noise says whether the redundancy makes the output steadier. Severity: share of the group that
    could go.

    Reading it: one can go where the group backs itself up; all can go where nobody needs it; keep
    where each is read for itself, which likeness alone never rules out.

    Misleads when: the data has no groups, or trivial ones (concept); removal is by a mean that
    hardly differs from the value (decision); or profiles rest on a handful of readers (route).

    References: Kornblith, Norouzi, Lee and Hinton, "Similarity of neural network representations
    revisited", ICML 2019; McGrath et al., "The Hydra effect: emergent self-repair in language model
    computations", 2023; Elhage et al., "A mathematical framework for transformer circuits", 2021.
    """

    code: ClassVar[str] = "semantic-redundancy"
    clock: ClassVar[bool] = False

    min_concept: float = 0.9
    """Correlation of scores from which two parts tell the groups apart alike."""
    min_decision: float = 0.8
    """Cosine of output changes from which two parts decide alike."""
    min_features: float = 0.9
    """CKA from which two heads carry the same features."""
    min_route: float = 0.95
    """Correlation of reader profiles from which two parts take the same route."""
    max_cosine: float = 0.8
    """|cosine| of outputs from which redundancy is functional rather than semantic."""
    most_groups: int = 2
    """Groups that are measured, those alike in most ways first."""
    most_members: int = 3
    """Members of a group that are measured, in program order."""
    limits: Limits = field(default_factory=Limits)
    """From where on a measured interaction counts; see `zsei.analyzers.redundancy`."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """Groups of which something can go, or that are alike in several ways; best first."""
        groups = self._groups(analysis)[: self.most_groups]
        parts = sorted({name for group in groups for name in group.names})
        sets = [targets_of(analysis, [part]) for part in parts]
        sets += [targets_of(analysis, group.names) for group in groups]
        ablated = moved(analysis, sets) if groups else []
        alone = dict(zip(parts, ablated, strict=False))
        found: list[Finding] = []
        for group, joint in zip(groups, ablated[len(parts) :], strict=True):
            kinds, decision = self._measured(group, alone)
            if not kinds:
                continue
            kind = "head" if _is_head(analysis, group.names[0]) else "branch"
            judged = judge(
                analysis, group.names, total=whole_effect(analysis, kind), limits=self.limits,
                robustness=True,
                known=([alone[name].effect for name in group.names], joint.effect),
            )  # fmt: skip
            # Parts in series decide alike and need each other: that is synergy, not redundancy.
            kept = {"separate": len(kinds) > 1, "cancelling": False}
            if judged is not None and kept.get(judged.state, True):
                found.append(self._report(group, kinds, decision, judged))
        yield from sorted(found, key=lambda f: (-f.severity, f.components))

    def _groups(self, analysis: Analysis) -> list[_Group]:
        same = {
            frozenset(pair)
            for name in ("head_cosine", "branch_cosine")
            for pair, value in pairs_of(matrix_named(analysis, name)).items()
            if abs(value) >= self.max_cosine
        }
        order = {c.id: i for i, c in enumerate(analysis.subject.anatomy.components)}
        found: dict[tuple[str, ...], dict[str, float]] = {}
        for kind, (pairs, least) in self._ways(analysis).items():
            alike = {
                pair: value
                for pair, value in pairs.items()
                if value >= least and frozenset(pair) not in same and _beside(analysis, *pair)
            }
            for clique in cliques_of(alike):
                names = tuple(sorted(clique, key=order.__getitem__))[: self.most_members]
                if all(targets_of(analysis, [name]) for name in names):
                    found.setdefault(names, {})[kind] = mean_within(alike, names)
        # Alike in more ways first, then those that decide alike, then by how much.
        ranked = sorted(
            found.items(),
            key=lambda g: (-len(g[1]), "decision" not in g[1], -max(g[1].values()), g[0]),
        )
        return [_Group(names=names, kinds=kinds) for names, kinds in ranked]

    def _ways(self, analysis: Analysis) -> dict[str, tuple[Pairs, float]]:
        """Way -> (likeness of pairs, from where on they are alike)."""
        named = {
            kind: pairs_of(matrix_named(analysis, name))
            for kind, name in (
                ("concept", "concept_similarity"),
                # To first order; what ablation says replaces it once the group is chosen.
                ("decision", "contribution_alignment"),
                ("features", "head_cka"),
            )
        }
        return {
            "decision": (named["decision"], self.min_decision),
            "concept": (named["concept"], self.min_concept),
            "features": (named["features"], self.min_features),
            "route": (profiles(analysis), self.min_route),
        }

    def _measured(
        self, group: _Group, alone: Mapping[str, Moved]
    ) -> tuple[dict[str, float], float | None]:
        """The ways that hold up, and the least decision similarity of any two, as ablated."""
        cosines = [same_way(alone[a], alone[b]) for a, b in combinations(group.names, 2)]
        known = [c for c in cosines if c is not None]
        decision = min(known) if len(known) == len(cosines) else None
        kinds = {kind: value for kind, value in group.kinds.items() if kind != "decision"}
        if decision is not None and decision >= self.min_decision:
            kinds["decision"] = decision
        return kinds, decision

    def _report(
        self, group: _Group, kinds: Mapping[str, float], decision: float | None, judged: Judged
    ) -> Finding:
        evidence = [
            Measurement(name=EVIDENCE[kind][0], value=min(value, 1.0), unit=EVIDENCE[kind][1])
            for kind, value in sorted(kinds.items())
            if kind in EVIDENCE
        ]
        if decision is not None:
            n = len(judged.joint)
            evidence.append(
                Measurement(name="decision_similarity", value=decision, unit="cosine", n=n)
            )
        advice = {0: "keep all"}.get(judged.removable, "one can go")
        if judged.removable == len(group.names):
            advice = "all can go"
        if judged.state == "could not tell":
            advice = "could not tell"
        ways = " and ".join(f"{MEANING[kind]} ({kind})" for kind in sorted(kinds))
        finding = Finding.make(
            code=self.code,
            components=group.names,
            severity=judged.removable / len(group.names),
            evidence=(*evidence, *judged.evidence),
            message=f"{listed(group.names)} write different things but {ways}; removing them "
            f"together has an effect of {number(float(judged.joint.mean()))} against "
            f"{number(float(judged.summed.mean()))} for the sum of each alone: {judged.said} "
            f"({advice}).",
        )
        return with_checks(finding, *judged.checks)


def _is_head(analysis: Analysis, name: str) -> bool:
    return analysis.subject.anatomy.component(name).kind == "head"


def _beside(analysis: Analysis, first: str, second: str) -> bool:
    """Whether two parts are of one kind and none holds the other or makes the output."""
    one, two = (analysis.subject.anatomy.component(name) for name in (first, second))
    if (one.kind == "head") != (two.kind == "head"):
        return False
    return (
        one.parent != two.id
        and two.parent != one.id
        and not ({first, second} & analysis.flow.endings())
    )
