"""Can repeated units be merged? Each is computed from the one it repeats, and the model runs on."""

import torch
from torch import Tensor

from zsei.analyzers.checks import inconclusive, sampled_check
from zsei.analyzers.context import Analysis
from zsei.analyzers.effects import joint_effect, measurement
from zsei.analyzers.shares import additive
from zsei.records import Check, Finding
from zsei.subject.objective import divergence, readout
from zsei.subject.types import Site
from zsei.trace.ablation import Target

NAME = "merging"
NEARLY = 0.25
"""Share of what removing the repeated units does that merging them may do."""

Pair = tuple[int, int]
"""(unit that repeats, unit that is repeated)."""


def merging_check(analysis: Analysis, fresh: Analysis, finding: Finding) -> Check:
    """Compute every repeated unit as slope times another plus a constant, and run the rest.

    Formula: slope and constant by least squares over the samples of the exact ablations; then the
    additive effect of a_j := slope a_i + constant for all pairs at once on `fresh` samples, which
    must stay below a quarter of that of removing the same units.

    Args:
        analysis: Its samples are what the lines are fitted on.
        fresh: Its samples are what the effect is measured on.
        finding: Of redundant neurons or channels; its first note lists the groups.
    """
    site, pairs = _pairs(analysis, finding)
    if site is None or site.axis is None or site.unit_size != 1 or not pairs:
        return inconclusive(NAME, "The finding does not say which units repeat which.")
    lines = _fitted(analysis, site, pairs)
    effects = []
    objective = fresh.subject.objective

    def merging(value: Tensor) -> Tensor:
        assert site.axis is not None
        merged = value.movedim(site.axis, -1).clone()
        for (unit, other), (slope, constant) in zip(pairs, lines, strict=True):
            merged[..., unit] = slope * merged[..., other] + constant
        return merged.movedim(-1, site.axis)

    for batch in fresh.importance.batches:
        with torch.no_grad():
            clean = readout(objective, fresh.engine.run(batch), batch)
            merged = readout(objective, fresh.engine.run(batch, {site.node: merging}), batch)
            effects.append(divergence(objective, merged, clean, batch))
    values = torch.as_tensor(additive(objective, torch.cat(effects).double()))
    removed = joint_effect(fresh, [Target(site=site, units=tuple(sorted(p[0] for p in pairs)))])
    return sampled_check(
        NAME,
        measurement(fresh, "joint_effect", values, note="merged rather than removed"),
        values,
        claim="they can be merged at a quarter of the cost of removing them",
        done=f"Computing {len(pairs)} units from those they repeat",
        seed=analysis.settings.seed,
        at_most=NEARLY * float(removed.mean()),
    )


def _pairs(analysis: Analysis, finding: Finding) -> tuple[Site | None, list[Pair]]:
    """The site, and every unit with the first of its group, from `neurons alike: 3=10=11 5=6`."""
    noun, _, listed = finding.evidence[0].note.partition(" alike: ")
    for site in analysis.subject.anatomy.sites:
        if site.component == finding.components[0] and noun == f"{site.kind}s":
            groups = [[int(unit) for unit in group.split("=")] for group in listed.split()]
            return site, [(unit, group[0]) for group in groups for unit in group[1:]]
    return None, []


def _fitted(analysis: Analysis, site: Site, pairs: list[Pair]) -> list[tuple[float, float]]:
    """Slope and constant of each pair by least squares over all samples and positions."""
    seen: list[Tensor] = []
    units = sorted({unit for pair in pairs for unit in pair})
    place = {unit: i for i, unit in enumerate(units)}

    def keep(value: Tensor) -> None:
        assert site.axis is not None
        seen.append(value.movedim(site.axis, -1)[..., units].flatten(0, -2).double())

    for batch in analysis.importance.batches:
        with torch.no_grad():
            analysis.engine.run(batch, {site.node: keep})
    rows = torch.cat(seen)
    mean = rows.mean(0)
    centred = rows - mean
    lines = []
    for unit, other in pairs:
        x, y = centred[:, place[other]], centred[:, place[unit]]
        spread = float(x.square().sum())
        slope = float((x * y).sum()) / spread if spread > 0 else 0.0
        lines.append((slope, float(mean[place[unit]] - slope * mean[place[other]])))
    return lines
