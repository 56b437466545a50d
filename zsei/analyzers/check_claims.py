"""What findings say about removing something, tried again on samples they were not made from."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from zsei.analyzers.checks import ablation_check, inconclusive, target_of, targets_of
from zsei.analyzers.context import Analysis
from zsei.analyzers.effects import joint_effect
from zsei.analyzers.shares import additive
from zsei.records import Check, Finding
from zsei.subject.types import Batch, UnitKind
from zsei.trace.ablation import Target

NOTHING = 1e-6
"""Share of the effect of removing everything of its kind below which an effect is none."""
LITTLE = 0.1
"""The same share up to which an effect is little."""
UNIT_KINDS: tuple[UnitKind, ...] = ("neuron", "channel")

Claim = Callable[[Analysis, Finding], Check]


def claim_checks(analysis: Analysis, findings: tuple[Finding, ...]) -> dict[str, Check]:
    """Finding id -> exact ablation of what it names, for the codes that claim what it would do.

    Samples: calibration batches that no exact ablation has seen; where there are none, those it
    has, and the check says so. Held-out samples are never touched, they belong to the gate.
    """
    fresh = _fresh(analysis)
    return {f.id: CLAIMS[f.code](fresh, f) for f in findings if f.code in CLAIMS}


def _fresh(analysis: Analysis) -> Analysis:
    """The analysis with other samples to ablate on, and without known effects."""
    seen = len(analysis.importance.batches)
    others: tuple[Batch, ...] = analysis.subject.calibration[seen : 2 * seen]
    if not others:
        return analysis
    return replace(analysis, importance=replace(analysis.importance, batches=others, effects={}))


def _dead(analysis: Analysis, finding: Finding) -> Check:
    """Units that do nothing: removing them all must do nothing."""
    targets = _units(analysis, finding)
    if not targets:
        return inconclusive("exact-ablation", "The finding does not say which units it means.")
    whole = [Target(site=t.site, units=tuple(range(t.site.units))) for t in targets]
    limit = NOTHING * float(joint_effect(analysis, whole).mean())
    return ablation_check(
        analysis, finding.components, targets=targets, at_most=limit,
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
    """Heads of little effect: removing them all must do little beside removing all heads."""
    first = target_of(analysis, finding.components[0])
    if first is None or first.site.kind != "head":
        return inconclusive(
            "exact-ablation", "The finding names layers, not which of their units it means."
        )
    every = [
        Target(site=site, units=tuple(range(site.units)))
        for site in analysis.subject.anatomy.sites
        if site.kind == "head" and (site.component, "head") in analysis.trace.means
    ]
    limit = LITTLE * float(joint_effect(analysis, every).mean())
    return ablation_check(
        analysis, finding.components, at_most=limit, claim="they bring a tenth at most of all heads"
    )


def _bypassed(analysis: Analysis, finding: Finding) -> Check:
    """A layer that can be bypassed within its limit."""
    limits = [m.value for m in finding.evidence if m.name == "effect_limit"]
    if not limits or limits[0] is None:
        return inconclusive("exact-ablation", "The finding states no limit to compare with.")
    site = analysis.subject.anatomy.site(finding.components[0], "layer")
    if site is None:
        return inconclusive("exact-ablation", "The layer cannot be bypassed by itself.")
    return ablation_check(
        analysis, finding.components, targets=(Target(site=site, units=(0,)),),
        at_most=float(additive(analysis.subject.objective, limits[0])),
        claim="the layer can be bypassed",
    )  # fmt: skip


CLAIMS: Mapping[str, Claim] = {
    "dead-units": _dead,
    "low-effect": _little,
    "redundant-layers": _bypassed,
}
"""Code -> how its claim is tried. Other codes are looked for again on two halves of the samples."""
