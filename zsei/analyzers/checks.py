"""Small tests that the analysis makes of what it says itself; each gives one `Check`.

Every test has one of three outcomes: the data agrees with the claim, disagrees with it, or could
not tell, and then the message says how many samples it would take. All of it is seeded.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from zsei.analyzers.context import Analysis
from zsei.analyzers.effects import joint_effect, measured_effects, measurement
from zsei.analyzers.words import listed, number
from zsei.records import Check, Finding, Measurement
from zsei.subject.types import Site
from zsei.trace.ablation import Target

CONFIDENCE = 0.95
"""Of the two-sided bootstrap intervals."""
RESAMPLES = 1000
FEWEST = 8
"""Samples below which the spread of a mean says next to nothing."""
KINDS = ("branch", "layer")
"""Kinds of site that a component which is no head can be ablated at, in order of preference."""

Outcome = Literal["agrees", "disagrees", "inconclusive"]


def with_checks(finding: Finding, *checks: Check) -> Finding:
    """The finding with these checks after those it has; its id stays."""
    return finding.model_copy(update={"checks": (*finding.checks, *checks)})


def inconclusive(name: str, why: str, *, about: str = "") -> Check:
    """A check that could not tell; `why` is one sentence that says what it would take."""
    return Check(name=name, outcome="inconclusive", message=why, about=about)


def target_of(analysis: Analysis, component: str) -> Target | None:
    """Where a component is ablated: a head at its attention, others as a branch or a layer.

    None for what cannot be ablated: residual joins, inputs, norms, and parts without a known mean.
    """
    anatomy, means = analysis.subject.anatomy, analysis.trace.means
    for site in anatomy.sites:
        if site.kind == "head" and component in site.unit_ids:
            known = (site.component, "head") in means
            return Target(site=site, units=(site.unit_ids.index(component),)) if known else None
    for kind in KINDS:
        found = [s for s in anatomy.sites if s.component == component and s.kind == kind]
        for site in found:
            if kind == "layer" or (component, kind) in means:
                return Target(site=site, units=tuple(range(site.units)))
    return None


def targets_of(analysis: Analysis, components: Sequence[str]) -> tuple[Target, ...]:
    """What to ablate for a set of components at once: heads of one attention as one target, heads
    whose whole attention is in the set left out, and what cannot be ablated passed over.
    """
    inside = set(components)
    heads: dict[str, tuple[Site, list[int]]] = {}
    found: list[Target] = []
    for component in dict.fromkeys(components):
        target = target_of(analysis, component)
        if target is None:
            continue
        site = target.site
        if site.kind != "head":
            found.append(target)
        elif site.component not in inside or target_of(analysis, site.component) is None:
            heads.setdefault(site.component, (site, []))[1].extend(target.units)
    merged = [Target(site=site, units=tuple(sorted(units))) for site, units in heads.values()]
    return (*found, *merged)


def effect_of(analysis: Analysis, targets: Sequence[Target]) -> Tensor:
    """Effect per sample [n], additive, of ablating the targets at once; known ones cost no run."""
    if len(targets) == 1:
        return measured_effects(analysis, targets)[0]
    return joint_effect(analysis, targets)


def interval(
    values: Tensor, *, seed: int, resamples: int = RESAMPLES, confidence: float = CONFIDENCE
) -> tuple[float, float]:
    """Two-sided percentile bootstrap interval of the mean of values [n] over samples.

    Misleads when: samples are few or not independent, or none of them shows a rare case.
    References: Efron and Tibshirani, "An introduction to the bootstrap", 1993.
    """
    known = values.double().numpy()
    drawn = np.random.default_rng(seed).integers(0, len(known), (resamples, len(known)))
    tail = (1 - confidence) / 2
    low, high = np.quantile(known[drawn].mean(1), [tail, 1 - tail])
    return float(low), float(high)


def judged(
    bounds: tuple[float, float], *, at_least: float | None = None, at_most: float | None = None
) -> Outcome:
    """Whether an interval lies on the claimed side of a limit: wholly, not at all, or astride."""
    low, high = bounds
    above = at_least is None or low >= at_least
    below = at_most is None or high <= at_most
    if above and below:
        return "agrees"
    if (at_least is not None and high < at_least) or (at_most is not None and low > at_most):
        return "disagrees"
    return "inconclusive"


def samples_needed(values: Tensor, limit: float, *, seed: int) -> int:
    """Samples at which an interval as wide as this one's would no longer reach the limit.

    Formula: n (half the interval / |mean - limit|)², since an interval shrinks with √n.
    """
    low, high = interval(values, seed=seed)
    away = abs(float(values.double().mean()) - limit)
    if away <= 1e-12 * max(abs(low), abs(high), 1e-300):
        return 1000 * len(values)
    return min(1000 * len(values), int(np.ceil(len(values) * ((high - low) / 2 / away) ** 2)) + 1)


def ablation_check(
    analysis: Analysis,
    components: Sequence[str],
    *,
    at_least: float | None = None,
    at_most: float | None = None,
    claim: str,
    targets: Sequence[Target] | None = None,
) -> Check:
    """Ablate a finding's components together, exactly, and compare the mean effect with limits.

    Args:
        analysis: Gives the samples (those of the exact ablations), the replacement and the seed.
        components: What the finding names.
        at_least: The claim is that the additive effect is no smaller than this.
        at_most: The claim is that it is no larger than this.
        claim: What the finding says, as in "the layer can go".
        targets: What to ablate; None works it out from the components.
    """
    name = "exact-ablation"
    targets = targets_of(analysis, components) if targets is None else targets
    if not targets:
        return inconclusive(name, f"Nothing of {listed(components)} can be ablated by itself.")
    values = effect_of(analysis, targets)
    return sampled_check(
        name, measurement(analysis, "joint_effect", values), values, claim=claim,
        at_least=at_least, at_most=at_most, seed=analysis.settings.seed,
        done=f"Removing {listed(components)}{'' if len(components) == 1 else ' together'}",
    )  # fmt: skip


def sampled_check(
    name: str,
    told: Measurement,
    values: Tensor,
    *,
    claim: str,
    done: str,
    seed: int,
    at_least: float | None = None,
    at_most: float | None = None,
    about: str = "",
) -> Check:
    """Compare the mean of a number per sample [n] with the limits that a claim sets it.

    Args:
        name: The check's name.
        told: The number as a measurement, which becomes evidence with its interval.
        values: The number per sample [n].
        claim: What is tested, as in "the layer can go".
        done: What was done, as in "Removing head.3".
        seed: Of the bootstrap.
        at_least: Lower limit of the claim.
        at_most: Upper limit of the claim.
        about: What is tested, where it is no finding.
    """
    if len(values) < FEWEST:
        why = f"{done} was measured on {len(values)} samples; it takes at least {FEWEST} to tell."
        return inconclusive(name, why, about=about)
    low, high = interval(values, seed=seed)
    outcome = judged((low, high), at_least=at_least, at_most=at_most)
    limit = at_least if at_least is not None else at_most
    side = "at least" if at_least is not None else "at most"
    said = {
        "agrees": f"which agrees with it that {claim}",
        "disagrees": f"which disagrees: it is not so that {claim}",
        "inconclusive": "which lies astride",
    }[outcome]
    if outcome == "inconclusive" and limit is not None:
        said += f"; about {samples_needed(values, limit, seed=seed)} samples would tell"
    limits = f" (claimed: {side} {number(limit)})" if limit is not None else ""
    return Check(
        name=name,
        outcome=outcome,
        about=about,
        evidence=(
            told,
            Measurement(name="interval_low", value=low, unit=told.unit, n=len(values),
                        note="95 % bootstrap interval"),
            Measurement(name="interval_high", value=high, unit=told.unit, n=len(values),
                        note="95 % bootstrap interval"),
        ),
        message=f"{done} has an effect of {number(float(values.double().mean()))}, between "
        f"{number(low)} and {number(high)}{limits}, {said}.",
    )  # fmt: skip


def halves_of(samples: Tensor) -> tuple[Tensor, Tensor]:
    """Bool masks [r] of the rows of even and of odd samples: two halves that share no sample."""
    return samples % 2 == 0, samples % 2 == 1


def halves_check(
    name: str,
    values: tuple[float, float],
    holds: tuple[bool, bool],
    *,
    samples: int,
    what: str,
    unit: str = "",
    claim: str = "the finding",
    fewest: int = FEWEST,
    about: str = "",
) -> Check:
    """Whether a claim holds on either of two halves of the samples.

    Args:
        name: The measurement's name.
        values: The number on each half.
        holds: Whether the claim holds on each half.
        samples: Samples in the smaller half.
        what: The number in words, as in "similarity".
        unit: Of the number.
        claim: What is tested, in words that can start "... holds on both halves".
        fewest: Samples that a half must have to tell.
        about: What is tested, where it is no finding.
    """
    if samples < fewest:
        why = (
            f"A half of the samples is {samples}, too few to tell whether {claim} holds on both; "
            f"it takes {2 * fewest} samples in all."
        )
        return inconclusive("half-samples", why, about=about)
    first, second = values
    numbers = f"{what} {number(first)} on one half of the samples and {number(second)} on the other"
    said = {2: "on both", 1: "on one only", 0: "on neither"}[sum(holds)]
    return Check(
        name="half-samples",
        outcome="agrees" if all(holds) else "disagrees",
        about=about,
        evidence=tuple(
            Measurement(name=name, value=value, unit=unit, n=samples, note=f"half {i}")
            for i, value in enumerate(values, 1)
        ),
        message=f"{numbers[0].upper()}{numbers[1:]}: {claim} holds {said}.",
    )


def sample_halves_check(
    name: str,
    values: Tensor,
    *,
    what: str,
    unit: str = "",
    claim: str = "the finding",
    at_least: float | None = None,
    at_most: float | None = None,
    about: str = "",
) -> Check:
    """`halves_check` of the mean of a number known per sample [n]: even against odd samples."""
    first, second = (values[mask].double() for mask in halves_of(torch.arange(len(values))))
    if not len(second):
        return inconclusive("half-samples", f"One sample has no halves; it takes {2 * FEWEST}.")
    means = float(first.mean()), float(second.mean())
    holds = tuple(
        (at_least is None or mean >= at_least) and (at_most is None or mean <= at_most)
        for mean in means
    )
    return halves_check(
        name, means, (holds[0], holds[1]), samples=len(second), what=what, unit=unit, claim=claim,
        about=about,
    )  # fmt: skip
