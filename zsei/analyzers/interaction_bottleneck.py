"""Pairs of parts whose effects are not their own: one undoes the other, or needs it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, final

from torch import Tensor

from zsei.analyzers.answers import moved, same_way
from zsei.analyzers.checks import (
    FEWEST,
    interval,
    sample_halves_check,
    sampled_check,
    samples_needed,
    targets_of,
    with_checks,
)
from zsei.analyzers.context import Analysis
from zsei.analyzers.effects import effect_scores, measurement
from zsei.analyzers.pairs import matrix_named, pairs_of
from zsei.analyzers.words import number, percent
from zsei.records import Finding, Measurement

Pair = tuple[str, str]
COMPOSITIONS = ("q_composition", "k_composition", "v_composition")


@final
@dataclass(frozen=True, kw_only=True)
class InteractionBottleneck:
    """Pairs of heads or branches that undo each other, or are worth little without each other.

    Measures: whether the effect of removing two parts is far less than the sum of removing each,
    and whether that is conflict (they move the output opposite ways) or synergy (they move it the
    same way, for one works on what the other writes).

    Formula: interaction = Δ(A ∪ B) - Δ(A) - Δ(B), additive effects of exact ablation, with a 95 %
    bootstrap interval over samples; lost = -interaction / (Δ(A) + Δ(B)). decision_similarity =
    cosine over samples of the output changes that removing A and removing B makes. Found when lost
    >= min_lost with an interval below 0; conflict where decision_similarity <= -min_similarity,
    synergy where it is >= min_similarity. Candidates: the pairs whose contributions are most
    opposed, and the pairs that compose most by their weights, both weighted by √(Δ(A) Δ(B)).
    Severity: lost.

    Reading it: conflict is work spent twice, once to write and once to undo it; it may be a
    correction (a head that suppresses copies), which is why only the gate may decide on removal.
    Synergy says that the two have to be kept or removed together.

    Misleads when: the pair that matters is none of the few that are tried; or the mean that stands
    in for a part is itself unlike anything the rest has seen.

    References: Elhage et al., "A mathematical framework for transformer circuits", 2021
    (composition); McDougall, Conmy, Rushing, McGrath and Nanda, "Copy suppression: comprehensively
    understanding an attention head", 2023.
    """

    code: ClassVar[str] = "interaction-bottleneck"
    clock: ClassVar[bool] = False

    min_lost: float = 0.25
    """Share of the summed single effects that must be lost together, 0 to 1."""
    min_similarity: float = 0.25
    """|decision similarity| from which the two are said to move the output alike or opposite."""
    negligible: float = 0.02
    """Share of the effects of all parts of a kind that each of a pair must have by itself."""
    most_pairs: int = 3
    """Pairs that are tried for each reason: opposed contributions, and composition."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """Conflicts and synergies, the most lost first; at most one that could not be told."""
        effects = _effects(analysis)
        candidates = self._candidates(analysis, effects)
        if not candidates:
            return
        parts = sorted({part for pair in candidates for part in pair})
        sets = [list(targets_of(analysis, [part])) for part in parts]
        sets += [list(targets_of(analysis, pair)) for pair in candidates]
        ablated = moved(analysis, sets)
        alone = dict(zip(parts, ablated, strict=False))
        found: list[Finding] = []
        for pair, both in zip(candidates, ablated[len(parts) :], strict=True):
            first, second = (alone[part] for part in pair)
            similarity = same_way(first, second)
            if similarity is not None:
                summed = first.effect + second.effect
                found += self._judge(analysis, pair, both.effect, summed, similarity)
        found.sort(key=lambda f: (-f.severity, f.components))
        unsure = [f for f in found if f.severity == 0]
        yield from [f for f in found if f.severity > 0] + unsure[:1]

    def _candidates(self, analysis: Analysis, effects: Mapping[str, float]) -> list[Pair]:
        """The most suspicious pairs, each once, in a fixed order."""
        opposed = pairs_of(matrix_named(analysis, "contribution_alignment"))
        scores = {pair: -value for pair, value in opposed.items()}
        composed: dict[Pair, float] = {}
        for name in COMPOSITIONS:
            for pair, value in pairs_of(matrix_named(analysis, name)).items():
                composed[pair] = max(value, composed.get(pair, value))
        chosen: dict[Pair, None] = {}
        for known in (scores, composed):
            weighed = sorted(
                (-value * (effects[a] * effects[b]) ** 0.5, a, b)
                for (a, b), value in known.items()
                if value > 0 and a in effects and b in effects and not _nested(analysis, a, b)
            )
            fresh = [(a, b) for _, a, b in weighed if (a, b) not in chosen and (b, a) not in chosen]
            chosen |= dict.fromkeys(fresh[: self.most_pairs])
        share: dict[str, float] = {}
        for kind in ("head", "branch"):
            members = [p for p in effects if (analysis.subject.anatomy.component(p).kind == "head")
                       == (kind == "head")]  # fmt: skip
            total = sum(effects[p] for p in members)
            share |= {p: effects[p] / total if total > 0 else 0.0 for p in members}
        return [pair for pair in chosen if min(share[p] for p in pair) >= self.negligible]

    def _judge(
        self, analysis: Analysis, pair: Pair, joint: Tensor, summed: Tensor, similarity: float
    ) -> Iterator[Finding]:
        interaction, seed = joint - summed, analysis.settings.seed
        base = float(summed.mean())
        lost = -float(interaction.mean()) / base if base > 0 else 0.0
        if lost < self.min_lost or abs(similarity) < self.min_similarity:
            return
        high = interval(interaction, seed=seed)[1]
        kind: Literal["conflict", "synergy"] = "conflict" if similarity < 0 else "synergy"
        certain = len(joint) >= FEWEST and high < 0
        told = measurement(analysis, "interaction", interaction, note=kind)
        said = {
            "conflict": "they move the output opposite ways, so that one undoes the other",
            "synergy": "they move it the same way, so that one is worth little without the other",
        }[kind]
        n = len(joint)
        if not certain:
            needed = FEWEST if n < FEWEST else samples_needed(interaction, 0.0, seed=seed)
            said = f"{n} samples cannot tell whether that is chance; about {needed} would"
            told = told.model_copy(update={"value": None, "std": None, "state": "could not tell"})
        first, second = pair
        finding = Finding.make(
            code=self.code,
            components=pair,
            severity=lost if certain else 0.0,
            evidence=(
                told,
                measurement(analysis, "joint_effect", joint),
                measurement(analysis, "ablation_effect", summed, note="sum of both alone"),
                Measurement(name="decision_similarity", value=similarity, unit="cosine", n=n),
            ),
            message=f"Removing {first} and {second} together moves the output by "
            f"{number(float(joint.mean()))}, {percent(lost)} less than removing each "
            f"({number(base)} in all): {said}.",
        )
        # Half of what was found must hold up: the claim is that a loss is there, not its size.
        limit = -self.min_lost * base / 2
        yield with_checks(
            finding,
            sampled_check(
                "exact-ablation", measurement(analysis, "interaction", interaction), interaction,
                claim="their effects are not independent", at_most=limit, seed=seed,
                done=f"Removing {first} and {second} together, beyond removing each,",
            ),
            sample_halves_check(
                "interaction", interaction, what="interaction", unit=told.unit, at_most=limit,
                claim=kind,
            ),
        )  # fmt: skip


def _effects(analysis: Analysis) -> dict[str, float]:
    """Head or branch -> additive effect of removing it; what alone makes the output left out."""
    endings = analysis.flow.endings()
    found: dict[str, float] = {}
    for site in analysis.subject.anatomy.sites:
        key = (site.component, site.kind)
        if site.kind not in ("head", "branch") or key not in analysis.importance.scores:
            continue
        if site.kind == "branch" and site.component in endings:
            continue
        scores = effect_scores(analysis, site.component, site.kind)
        found |= dict(zip(site.unit_ids, scores, strict=True))
    return found


def _nested(analysis: Analysis, first: str, second: str) -> bool:
    """Whether one is a part of the other, which then has its effect by itself."""
    parents = [analysis.subject.anatomy.component(part).parent for part in (first, second)]
    return parents[0] == second or parents[1] == first
