"""What findings say about removing something, tried again on samples they were not made from."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from zsei.analyzers.checks import ablation_check, inconclusive, targets_of
from zsei.analyzers.context import Analysis
from zsei.analyzers.effects import joint_effect
from zsei.analyzers.low_effect import LowEffect
from zsei.analyzers.shares import additive
from zsei.records import Check, Finding
from zsei.subject.types import Batch, UnitKind
from zsei.trace.ablation import Target

SAMPLES = 16
"""Samples on which a claim is tried: enough to tell a tenth from a half."""
NOTHING = 1e-6
"""Share of the effect of removing everything of its kind below which an effect is none."""
LITTLE = 0.1
"""The same share up to which an effect is little."""
UNIT_KINDS: tuple[UnitKind, ...] = ("neuron", "channel")
LITTLE_KINDS: tuple[UnitKind, ...] = ("head", "neuron", "channel")

Claim = Callable[[Analysis, Finding], Check]


def claim_checks(analysis: Analysis, findings: tuple[Finding, ...]) -> dict[str, Check]:
    """Finding id -> exact ablation of what it names, for the codes that claim what it would do.

    Samples: calibration batches that no exact ablation has seen; where there are none, those it
    has, and the check says so. Held-out samples are never touched, they belong to the gate.
    """
    return {f.id: CLAIMS[f.code](analysis, f) for f in findings if f.code in CLAIMS}


def fresh_samples(analysis: Analysis) -> Analysis:
    """The analysis with other samples to ablate on, and without known effects."""
    seen = len(analysis.importance.batches)
    others: tuple[Batch, ...] = few_samples(analysis.subject.calibration[seen:])
    if not others:
        return analysis
    return replace(analysis, importance=replace(analysis.importance, batches=others, effects={}))


def few_samples(batches: tuple[Batch, ...]) -> tuple[Batch, ...]:
    """The first batches that hold `SAMPLES` samples."""
    taken: list[Batch] = []
    for batch in batches:
        if sum(b.size for b in taken) >= SAMPLES:
            break
        taken.append(batch)
    return tuple(taken)


def _dead(analysis: Analysis, finding: Finding) -> Check:
    """Units that do nothing: removing them all must do nothing."""
    targets = _units(analysis, finding)
    if not targets:
        return inconclusive("exact-ablation", "The finding does not say which units it means.")
    fresh = fresh_samples(analysis)
    whole = [Target(site=t.site, units=tuple(range(t.site.units))) for t in targets]
    limit = NOTHING * float(joint_effect(fresh, whole).mean())
    return ablation_check(
        fresh, finding.components, targets=targets, at_most=limit,
        claim="these units do nothing",
    )  # fmt: skip


def _units(analysis: Analysis, finding: Finding) -> tuple[Target, ...]:
    """The units that a finding of dead units lists in its first note, as in `neurons 3 7`."""
    noun, *listed = finding.evidence[0].note.split()
    if noun == "heads":
        return targets_of(analysis, finding.components)
    for kind in UNIT_KINDS:
        site = analysis.subject.anatomy.site(finding.components[0], kind)
        if noun == f"{kind}s" and site is not None:
            return (Target(site=site, units=tuple(int(unit) for unit in listed)),)
    return ()


def _little(analysis: Analysis, finding: Finding) -> Check:
    """Units of little effect: removing them must do little beside removing all of their kind."""
    kinds: list[UnitKind] = [
        kind for kind in LITTLE_KINDS if finding.evidence[0].note == f"{kind}s"
    ]
    named = LowEffect().sets(analysis, kinds[0]) if kinds else []
    if not named:
        return inconclusive("exact-ablation", "The finding does not say which units it means.")
    fresh, kind = fresh_samples(analysis), kinds[0]
    every = [
        Target(site=site, units=tuple(range(site.units)))
        for site in analysis.subject.anatomy.sites
        if site.kind == kind and (site.component, kind) in analysis.trace.means
    ]
    limit = LITTLE * float(joint_effect(fresh, every).mean())
    return ablation_check(
        fresh, finding.components, at_most=limit,
        targets=[Target(site=little.site, units=little.units) for little in named],
        claim=f"they bring a tenth at most of all {kind}s",
    )  # fmt: skip


def _bypassed(analysis: Analysis, finding: Finding) -> Check:
    """A layer that can be bypassed within its limit."""
    limits = [m.value for m in finding.evidence if m.name == "effect_limit"]
    if not limits or limits[0] is None:
        return inconclusive("exact-ablation", "The finding states no limit to compare with.")
    site = analysis.subject.anatomy.site(finding.components[0], "layer")
    if site is None:
        return inconclusive("exact-ablation", "The layer cannot be bypassed by itself.")
    return ablation_check(
        fresh_samples(analysis), finding.components, targets=(Target(site=site, units=(0,)),),
        at_most=float(additive(analysis.subject.objective, limits[0])),
        claim="the layer can be bypassed",
    )  # fmt: skip


CLAIMS: Mapping[str, Claim] = {
    "dead-units": _dead,
    "low-effect": _little,
    "redundant-layers": _bypassed,
}
"""Code -> how its claim is tried. Other codes are looked for again on two halves of the samples."""
