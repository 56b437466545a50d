"""Skips whose removal changes nothing."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from zsei.analyzers.checks import FEWEST, sample_halves_check, sampled_check, with_checks
from zsei.analyzers.context import Analysis
from zsei.analyzers.effects import bounds, measurement
from zsei.analyzers.shares import additive
from zsei.analyzers.words import number
from zsei.records import Finding
from zsei.subject.objective import divergence, readout
from zsei.trace.taps import Join, find_taps


@final
@dataclass(frozen=True, kw_only=True)
class UselessSkip:
    """Residual joins whose skip operand could be zero.

    Measures: what the output does when the skip of one join is cut and only the branch goes on.

    Formula: skip_effect = mean divergence, additive, with s = 0 in y = s + f, all else exact. Found
    when its upper 95 % bound is at most max_share of the largest skip_effect that was measured.
    Tried are joins whose effect comes by the branch (branch_effect_share >= min_branch_share), and
    the one where it does least, to compare with. Severity: 1 - skip_effect / that limit.

    Reading it: such a block does not add to a stream, it starts a new one: everything earlier
    reaches the output through its branch alone. It may be run without the add and its memory.

    Misleads when: the skip is there for training, which it keeps stable whether or not the trained
    model needs it; or a later join carries the same stream around the block.

    References: Veit, Wilber and Belongie, "Residual networks behave like ensembles of relatively
    shallow networks", NeurIPS 2016; He, Zhang, Ren and Sun, "Identity mappings in deep residual
    networks", ECCV 2016.
    """

    code: ClassVar[str] = "useless-skip"
    clock: ClassVar[bool] = False

    max_share: float = 0.01
    """Share of the largest skip effect below which a skip is nothing."""
    min_branch_share: float = 0.9
    """Share of a join's effect that must come by its branch for the skip to be tried."""
    most_joins: int = 3
    """Joins that are tried, those whose effect comes most by the branch."""

    def find(self, analysis: Analysis) -> Iterator[Finding]:
        """One finding per skip, in program order."""
        joins = find_taps(analysis.subject, analysis.engine).joins
        shares: dict[str, float] = {}
        for join in joins:
            m = analysis.trace.measurements[join.component].get("branch_effect_share")
            if m is not None and m.value is not None:
                shares[join.component] = m.value
        known = [join for join in joins if join.component in shares]
        if len(known) < 2:
            return
        order = sorted(known, key=lambda join: (-shares[join.component], join.component))
        doubtful = [j for j in order if shares[j.component] >= self.min_branch_share]
        if not doubtful:
            return
        tried = [j for j in known if j in (*doubtful[: self.most_joins], order[-1])]
        effects = dict(zip((j.component for j in tried), _cut(analysis, tried), strict=True))
        largest = max(float(effect.mean()) for effect in effects.values())
        limit = self.max_share * largest
        for component, effect in effects.items():
            if limit > 0 and len(effect) >= FEWEST and bounds(effect)[1] <= limit:
                yield self._report(analysis, component, effect, limit)

    def _report(self, analysis: Analysis, component: str, effect: Tensor, limit: float) -> Finding:
        told = measurement(analysis, "skip_effect", effect)
        measured = analysis.trace.measurements.get(component, {})
        finding = Finding.make(
            code=self.code,
            components=(component,),
            severity=1 - float(effect.mean()) / limit,
            evidence=(
                told,
                told.model_copy(update={"name": "effect_limit", "value": limit, "std": None,
                                        "n": 0}),
                *(measured[m] for m in ("residual_effectiveness", "branch_to_stream")
                  if m in measured),
            ),
            message=f"Cutting the skip of {component} moves the output by "
            f"{number(float(effect.mean()))} in {told.unit}, next to nothing: only its branch is "
            f"read.",
        )  # fmt: skip
        return with_checks(
            finding,
            sampled_check(
                "exact-ablation", told, effect, claim="the skip is not needed", at_most=limit,
                done="Setting the skip to zero", seed=analysis.settings.seed,
            ),
            sample_halves_check(
                "skip_effect", effect, what="skip effect", unit=told.unit, at_most=limit
            ),
        )  # fmt: skip


def _cut(analysis: Analysis, joins: list[Join]) -> list[Tensor]:
    """Additive effect per sample [n] of zeroing each join's skip operand."""
    objective = analysis.subject.objective
    found: list[list[Tensor]] = [[] for _ in joins]
    with torch.no_grad():
        for batch in analysis.importance.batches:
            clean = readout(objective, analysis.engine.run(batch), batch)
            for index, join in enumerate(joins):
                kept: list[Tensor] = []
                watch = {join.branch: kept.append, join.node: lambda _, kept=kept: kept[0]}
                seen = readout(objective, analysis.engine.run(batch, watch), batch)
                found[index].append(divergence(objective, seen, clean, batch))
    return [torch.as_tensor(additive(objective, torch.cat(f).double())) for f in found]
