"""Does a finding, a ranking, the flow graph look the same on either half of the samples?"""

from collections.abc import Sequence

import numpy as np
from scipy.stats import spearmanr

from zsei.analyzers.checks import FEWEST, Outcome, inconclusive
from zsei.analyzers.context import Analysis, Analyzer
from zsei.analyzers.run import run_analyzers
from zsei.analyzers.words import number, percent
from zsei.graph.flow import FlowGraph
from zsei.graph.paths import dominators
from zsei.importance.agreement import FEWEST as FEWEST_UNITS
from zsei.importance.agreement import VALIDATED
from zsei.importance.candidates import RANKED
from zsei.records import Check, Finding, Measurement

NAME = "half-samples"
SAME = 0.5
"""Share of components, of all that either names, from which two findings are the same one."""
PATHS = "critical-path-"
WORST: tuple[Outcome, ...] = ("disagrees", "inconclusive", "agrees")
SWITCHED_OFF = "Not looked for again on two halves of the samples: the setting halves is off."
NO_TIME = "Not looked for again on two halves: half of the time budget was spent."


def finding_checks(
    halves: tuple[Analysis, Analysis], findings: Sequence[Finding], analyzers: Sequence[Analyzer]
) -> dict[str, Check]:
    """Finding id -> whether its analyzer finds it again on either half of the samples.

    Formula: half_overlap = |A ∩ B| / |A ∪ B| of the components the finding names on all samples and
    on a half, the best of the findings of its code that rest on the same measurements; found again
    from 0.5. Of paths only what not every path crosses is compared. It agrees when both halves find
    it. Findings that could not tell anything are passed over.
    """
    codes = {finding.code for finding in findings}
    shelf = [a for a in analyzers if a.code in codes and not a.clock]
    again = [run_analyzers(half, shelf)[0] for half in halves]
    samples = min(sum(b.size for b in half.subject.calibration) for half in halves)
    return {
        finding.id: _compare(finding, again, samples, dominators(halves[0].flow))
        for finding in findings
        if finding.code in {a.code for a in shelf} and _told(finding)
    }


def _told(finding: Finding) -> bool:
    return any(m.state == "measured" for m in finding.evidence[:1])


def _compare(
    finding: Finding, again: Sequence[Sequence[Finding]], samples: int, shared: Sequence[str]
) -> Check:
    overlaps = [
        max((_overlap(finding, o, shared) for o in others), default=0.0) for others in again
    ]
    seen = [overlap >= SAME for overlap in overlaps]
    where = {2: "on both", 1: "on one only", 0: "on neither"}[sum(seen)]
    return Check(
        name=NAME,
        outcome="agrees" if all(seen) else "disagrees",
        evidence=tuple(
            Measurement(name="half_overlap", value=overlap, unit="share of components", n=samples,
                        note=f"half {i}")
            for i, overlap in enumerate(overlaps, 1)
        ),
        message=f"Looked for again on two halves of the samples, {samples} at least in each, it is "
        f"found {where} (the same components to {percent(overlaps[0])} and "
        f"{percent(overlaps[1])}).",
    )  # fmt: skip


def _overlap(finding: Finding, other: Finding, shared: Sequence[str]) -> float:
    """How far two findings name the same components; 0 when they rest on other measurements."""
    if other.code != finding.code or not _told(other):
        return 0.0
    if [m.name for m in other.evidence[:1]] != [m.name for m in finding.evidence[:1]]:
        return 0.0
    left = set(shared) if finding.code.startswith(PATHS) else set()
    first, second = set(finding.components) - left, set(other.components) - left
    return len(first & second) / len(first | second) if first | second else 1.0


def ranking_checks(analysis: Analysis) -> tuple[Check, ...]:
    """For each kind of unit, whether exact ablation orders it alike on even and on odd samples.

    Formula: Spearman between the mean effects on either half; it agrees from 0.7, and is
    inconclusive where 0.7 cannot be excluded. The samples it
    would take follow Spearman and Brown: a half that is k times as large has the reliability
    k r / (1 + (k - 1) r).
    """
    found: list[Check] = []
    for kind in RANKED:
        effects = [
            effect.divergence.double().numpy()
            for effect in analysis.importance.effects.values()
            if effect.target.site.kind == kind
        ]
        if effects:
            found.append(_ranking_check(kind, effects))
    return tuple(found)


def _ranking_check(kind: str, effects: Sequence[np.ndarray]) -> Check:
    about = f"ranking of {kind}s" if not kind.endswith("ch") else f"ranking of {kind}es"
    fewest = min(len(values) for values in effects)
    if len(effects) < FEWEST_UNITS or fewest < 2 * FEWEST:
        why = (
            f"{len(effects)} units were ablated on {fewest} samples; it takes {FEWEST_UNITS} units "
            f"and {2 * FEWEST} samples to compare two halves."
        )
        return inconclusive(NAME, why, about=about)
    first, second = ([float(v[half::2].mean()) for v in effects] for half in (0, 1))
    told = _agreement("half_agreement", first, second, "units")
    if told.value is None:
        return inconclusive(NAME, "All units do the same, so there is no order.", about=about)
    outcome = _outcome(told)
    needed = "" if outcome == "agrees" else f" {_needed(told.value, fewest // 2)}"
    return Check(
        name=NAME,
        about=about,
        outcome=outcome,
        evidence=(told,),
        message=f"Exact ablation on even and on odd samples orders {len(effects)} {kind} units "
        f"alike to Spearman {number(told.value)}; {number(VALIDATED)} is asked.{needed}",
    )


def _outcome(told: Measurement) -> Outcome:
    """Whether a rank correlation is high enough; inconclusive when so few ranks cannot exclude it.

    Formula: Fisher's z with standard error 1.06 / √(n - 3), one-sided 95 %.
    References: Fieller, Hartley and Pearson, "Tests for rank correlation coefficients", Biometrika
    44, 1957.
    """
    assert told.value is not None
    if told.value >= VALIDATED:
        return "agrees"
    lowest = float(np.clip(told.value, -0.999, 0.999))
    highest = float(np.tanh(np.arctanh(lowest) + 1.645 * 1.06 / (told.n - 3) ** 0.5))
    return "disagrees" if highest < VALIDATED else "inconclusive"


def _needed(reliability: float, half: int) -> str:
    """How many samples would lift the agreement of two halves to what is asked."""
    if reliability <= 0.01:
        return "No number of samples can be foreseen at which it would be reached."
    times = VALIDATED * (1 - reliability) / (reliability * (1 - VALIDATED))
    return f"About {2 * int(np.ceil(half * times))} samples would reach it."


def flow_check(halves: tuple[Analysis, Analysis]) -> Check:
    """Whether the flow graph's shares and attributions order its edges alike on either half.

    Formula: Spearman over the edges whose share was measured, and over those whose attribution was
    (its size); it agrees when both are at least 0.7.
    """
    evidence: list[Measurement] = []
    for name in ("share", "attribution"):
        first, second = (_edge_numbers(half.flow, name) for half in halves)
        both = sorted(first.keys() & second.keys())
        told = _agreement(
            f"{name}_agreement", [first[e] for e in both], [second[e] for e in both], "edges"
        )
        evidence.append(told)
    if all(m.value is None for m in evidence):
        why = f"Fewer than {FEWEST_UNITS} edges of the flow graph have a measured share."
        return inconclusive(NAME, why, about="flow graph")
    outcomes = {_outcome(m) for m in evidence if m.value is not None}
    words = [
        f"{m.name.removesuffix('_agreement')}s of {m.n} edges to {number(m.value)}"
        for m in evidence
        if m.value is not None
    ]
    return Check(
        name=NAME,
        about="flow graph",
        outcome=next(outcome for outcome in WORST if outcome in outcomes),
        evidence=tuple(evidence),
        message=f"Two halves of the samples order {' and '.join(words)} alike (Spearman; "
        f"{number(VALIDATED)} is asked).",
    )


def _edge_numbers(flow: FlowGraph, name: str) -> dict[tuple[str, str], float]:
    """Edges with a measured number, which an even split or a single way in is not."""
    return {
        (source, target): abs(float(attributes[name]))
        for source, target, attributes in flow.graph.edges(data=True)
        if name in attributes and (name != "share" or attributes.get("share_basis") == "proximity")
    }


def _agreement(
    name: str, first: Sequence[float], second: Sequence[float], what: str
) -> Measurement:
    if len(first) < FEWEST_UNITS or np.ptp(first) == 0 or np.ptp(second) == 0:
        return Measurement(
            name=name, value=None, unit="Spearman", n=len(first), state="could not tell",
            note=f"too few {what}, or all alike",
        )  # fmt: skip
    value = float(np.asarray(spearmanr(first, second)[0]))
    return Measurement(
        name=name, value=value, unit="Spearman", n=len(first), note=f"n counts {what}"
    )
