"""What measuring says about a group of parts that look alike: which may go, and which must stay."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from zsei.analyzers.answers import noise_effects
from zsei.analyzers.checks import (
    FEWEST,
    halves_of,
    inconclusive,
    interval,
    sampled_check,
    samples_needed,
    targets_of,
)
from zsei.analyzers.context import Analysis
from zsei.analyzers.effects import effect_scores, joint_effect, measured_effects, measurement
from zsei.analyzers.words import number
from zsei.records import Check, Measurement

State = Literal["none needed", "backup", "cancelling", "separate", "could not tell"]

SAID: dict[State, str] = {
    "none needed": "none of them is needed",
    "backup": "they back each other up, so one of them must stay",
    "cancelling": "removing all costs less than the sum, so they partly cancel",
    "separate": "each is read for itself, so none can go for the other's sake",
    "could not tell": "whether one can go could not be told",
}


@dataclass(frozen=True, kw_only=True)
class Limits:
    """From where on a measured interaction counts."""

    interaction: float = 0.25
    """Share of the summed single effects."""
    negligible: float = 0.01
    """Share of the effects of all parts of the kind below which a joint effect is nothing."""
    steadier: float = 0.1
    """Rise of the effect of input noise, as a share of it, from which a backup is beneficial."""


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What joint ablation measured about a group."""

    state: State
    removable: int
    said: str
    joint: Tensor
    """Effect per sample [n] of ablating all."""
    summed: Tensor
    """Sum of the effects of ablating each, [n]."""
    evidence: tuple[Measurement, ...]
    checks: tuple[Check, ...]


def judge(
    analysis: Analysis, names: Sequence[str], *, total: float, limits: Limits, robustness: bool,
    known: tuple[Sequence[Tensor], Tensor] | None = None,
) -> Judged | None:  # fmt: skip
    """Ablate each part of a group and all of them together; None where one cannot be ablated.

    Formula: interaction = Δ(all) - Σ Δ(each), additive effects per sample, with its 95 % bootstrap
    interval. Δ(all) negligible: all can go. Interaction above its limit: backup, all but one can
    go. Below: they cancel. Between: each is read for itself.

    Args:
        analysis: Runs the ablations.
        names: Heads or branches.
        total: Summed effect of all parts of the kind.
        limits: From where on an interaction counts.
        robustness: Whether to measure what removing one does under input noise.
        known: Effects of ablating each and of ablating all, where they were measured already.
    """
    singles = [targets_of(analysis, [name]) for name in names]
    if len(names) < 2 or not all(len(targets) == 1 for targets in singles):
        return None
    if known is None:
        alone = measured_effects(analysis, [targets[0] for targets in singles])
        joint = joint_effect(analysis, targets_of(analysis, names))
    else:
        alone, joint = known
    summed = torch.stack(list(alone)).sum(0)
    interaction = joint - summed
    low, high = interval(interaction, seed=analysis.settings.seed)
    state = _state(joint, summed, (low, high), total, limits)
    removable = {"none needed": len(names), "backup": len(names) - 1}.get(state, 0)
    said, noise = SAID[state], ()
    checks = [*_checks(analysis, joint, summed, state, total, limits)]
    if robustness and state == "backup":
        least = min(range(len(names)), key=lambda i: (float(alone[i].mean()), names[i]))
        noise, check = _robustness(analysis, names[least], limits)
        checks.append(check)
        if check.outcome == "disagrees":
            said += ", but without one the output grows less steady under input noise"
    unsure = state == "could not tell"
    if unsure:
        said += f"; about {_needed(joint, summed, analysis.settings.seed)} samples would tell"
    between = f"95 % of resamples between {number(low)} and {number(high)}"
    evidence = (
        *(
            measurement(analysis, "ablation_effect", effect, note=name)
            for name, effect in zip(names, alone, strict=True)
        ),
        measurement(analysis, "joint_effect", joint),
        measurement(analysis, "interaction", interaction, note=between),
        Measurement(
            name="removable_units",
            value=None if unsure else removable,
            unit="count",
            state="could not tell" if unsure else "measured",
            note=said if unsure else "",
        ),
        *noise,
    )
    return Judged(
        state=state, removable=removable, said=said, joint=joint, summed=summed,
        evidence=evidence, checks=tuple(checks),
    )  # fmt: skip


def whole_effect(analysis: Analysis, kind: Literal["head", "branch"]) -> float:
    """Summed additive effect of removing each head, or each branch, of the model."""
    endings = analysis.flow.endings()
    sites = [s for s in analysis.subject.anatomy.sites if s.kind == kind]
    known = [s for s in sites if (s.component, kind) in analysis.importance.scores]
    # What alone makes the output is no measure of the others.
    known = [s for s in known if s.component not in endings] or known
    return sum(sum(effect_scores(analysis, site.component, kind)) for site in known)


def _state(
    joint: Tensor, summed: Tensor, bounds: tuple[float, float], total: float, limits: Limits
) -> State:
    if len(joint) < FEWEST:
        return "could not tell"
    found = _point(joint, summed, total, limits)
    low, high = bounds
    certain = {"backup": low > 0, "cancelling": high < 0}.get(found, True)
    return found if certain else "could not tell"


def _point(joint: Tensor, summed: Tensor, total: float, limits: Limits) -> State:
    """The state that the means alone give: what a half of the samples is asked for."""
    enough = limits.interaction * float(summed.mean())
    mean = float((joint - summed).mean())
    if float(joint.mean()) <= limits.negligible * total:
        return "none needed"
    return "backup" if mean >= enough else "cancelling" if -mean >= enough else "separate"


def _checks(
    analysis: Analysis, joint: Tensor, summed: Tensor, state: State, total: float, limits: Limits
) -> tuple[Check, Check]:
    """Exact joint ablation, and the two halves of the samples."""
    interaction, seed = joint - summed, analysis.settings.seed
    if state == "none needed":
        exact = sampled_check(
            "exact-ablation", measurement(analysis, "joint_effect", joint), joint, seed=seed,
            claim="all of them can go", done="Removing all of them together",
            at_most=2 * limits.negligible * total,
        )  # fmt: skip
    else:
        exact = sampled_check(
            "exact-ablation", measurement(analysis, "interaction", interaction), interaction,
            claim="they back each other up", at_least=0.0, seed=seed,
            done="Removing all of them together, beyond removing each,",
        )  # fmt: skip
    if len(joint) < 2 * FEWEST:
        why = f"{len(joint)} samples have no two halves that tell; it takes {2 * FEWEST}."
        return exact, inconclusive("half-samples", why)
    halves = halves_of(torch.arange(len(joint)))
    told = [_point(joint[half], summed[half], total, limits) for half in halves]
    means = [float(interaction[half].mean()) for half in halves]
    same = told[0] == told[1]
    return exact, Check(
        name="half-samples",
        outcome="agrees" if same else "disagrees",
        evidence=tuple(
            measurement(analysis, "interaction", interaction[half], note=f"half {i}")
            for i, half in enumerate(halves, 1)
        ),
        message=f"The interaction is {number(means[0])} on one half of the samples and "
        f"{number(means[1])} on the other; the halves {'agree' if same else 'disagree'} on what "
        f"it means.",
    )


def _needed(joint: Tensor, summed: Tensor, seed: int) -> int:
    """Samples at which the interval of the interaction would no longer reach 0."""
    return FEWEST if len(joint) < FEWEST else samples_needed(joint - summed, 0.0, seed=seed)


def _robustness(
    analysis: Analysis, name: str, limits: Limits
) -> tuple[tuple[Measurement, ...], Check]:
    """What input noise does with all parts and without one of them: is the backup of use?"""
    found = noise_effects(analysis, [[], list(targets_of(analysis, [name]))])
    if found is None:
        return (), inconclusive("input-noise", "There is no input that noise could be added to.")
    whole, without = found
    rise = without - whole
    check = sampled_check(
        "input-noise", measurement(analysis, "noise_effect_without", rise, note="rise"), rise,
        claim="one can go without the output growing less steady under noise",
        done=f"Input noise without {name}, beyond what it does with it,",
        at_most=limits.steadier * float(whole.mean()), seed=analysis.settings.seed,
    )  # fmt: skip
    return (
        measurement(analysis, "noise_effect", whole),
        measurement(analysis, "noise_effect_without", without, note=f"without {name}"),
    ), check
