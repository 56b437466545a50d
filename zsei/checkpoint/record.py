"""The record of one checkpoint: the same type as any other analysis, so memory, report, `compare`
and `ask` treat it as one.

Letters: u unit of a place.
"""

import re
from collections.abc import Mapping, Sequence

import numpy as np

from zsei.assembly import sealed
from zsei.checkpoint.contracts import StructuralAnalysisRequest, StructuralPruningDecision
from zsei.checkpoint.measure.combine import Combined
from zsei.checkpoint.record_proposals import proposals_of, verdicts_of
from zsei.records import (
    AnalysisRecord,
    Checkpoint,
    Component,
    Failure,
    Finding,
    Measurement,
    Timings,
    Validation,
)

RUN = "training run"
"""What measurements of the run as a whole stand under; no component can be called so."""


def checkpoint_record(
    combined: Combined | None,
    findings: Sequence[Finding],
    request: StructuralAnalysisRequest,
    decision: StructuralPruningDecision | None,
    *,
    wanted: float | None = None,
    phase: str = "",
    ranking_accuracy: Measurement | None = None,
    original: Mapping[str, str] | None = None,
    before: AnalysisRecord | None = None,
    created: str = "",
    seconds: Mapping[str, float] | None = None,
) -> AnalysisRecord | None:
    """One analysis of a run, whole: what was measured, found, decided, and what stood in for what.

    Its id is a hash of all but clocks, so the same checkpoint gives the same record again.

    Args:
        combined: What the workers found; None when nothing could be measured.
        findings: Of this checkpoint and over time.
        request: Which checkpoint, and what the model looks like there.
        decision: What was decided; None when nothing was asked for.
        wanted: Share of the parameters that the schedule wants gone at this epoch.
        phase: Phase of the run; that of the decision when there is one.
        ranking_accuracy: Agreement of the ranking with exact ablation, where it was checked.
        original: Id of a component now -> the id it had when the run began, where a cut renamed
            it. All that the record says goes by the latter, so that one name means one thing over
            the whole run.
        before: The record of the checkpoint before: says what was analysed where nothing could be
            measured here.
        created: When the analysis started, ISO 8601, UTC.
        seconds: Stage -> seconds it took.

    Returns:
        The record; None when there is nothing that says what model it is of.
    """
    provenance = combined.provenance if combined and combined.provenance else None
    conditions = combined.conditions if combined and combined.conditions else None
    if before is not None:
        provenance, conditions = provenance or before.provenance, conditions or before.conditions
    if provenance is None or conditions is None:
        return None
    original = original or {}
    stands = Checkpoint(
        run=request.checkpoint.run, epoch=request.checkpoint.epoch, step=request.checkpoint.step
    )
    components = combined.components if combined and combined.components else ()
    components = _renamed(components, original) or (before.components if before else ())
    whole = _of_run(request, decision, combined, wanted, phase, ranking_accuracy)
    measured = _merged(_measurements(combined, original), {RUN: whole})
    now = combined.components if combined else ()
    proposals = proposals_of(decision, now, original) if decision else ()
    verdicts, together = verdicts_of(decision, proposals) if decision else ((), None)
    record = AnalysisRecord(
        id="draft",
        provenance=provenance.model_copy(update={"checkpoint": stands}),
        conditions=conditions,
        components=components,
        measurements=measured,
        findings=tuple(findings),
        proposals=proposals,
        verdicts=verdicts,
        combined=together,
        validation=Validation(notes=_notes(decision)),
        failures=_failures(combined, decision),
    )
    return sealed(record, Timings(created=created, stages=dict(seconds or {})))


def _renamed(components: Sequence[Component], original: Mapping[str, str]) -> tuple[Component, ...]:
    """Components by the names and numbers that they had when the run began."""
    if not any(original.get(c.id, c.id) != c.id for c in components):
        return tuple(components)
    layers: dict[int, int] = {}
    for c in components:
        if c.kind == "layer" and c.layer is not None:
            layers[c.layer] = c.layer + _last(original.get(c.id, c.id)) - _last(c.id)
    return tuple(
        c.model_copy(
            update={
                "id": original.get(c.id, c.id),
                "parent": original.get(c.parent, c.parent) if c.parent else None,
                "layer": None if c.layer is None else layers.get(c.layer, c.layer),
                "index": _last(original[c.id]) if c.id in original and c.index is not None
                else c.index,
            }
        )
        for c in components
    )  # fmt: skip


def _last(name: str) -> int:
    """The last number in a name; 0 without one."""
    found = re.findall(r"\d+", name)
    return int(found[-1]) if found else 0


def _measurements(
    combined: Combined | None, original: Mapping[str, str]
) -> dict[str, tuple[Measurement, ...]]:
    """What was measured of components, and the share of importance of each."""
    if combined is None:
        return {}
    found = {
        original.get(name, name): tuple(values) for name, values in combined.measurements.items()
    }
    heads = {(c.parent, c.index): c.id for c in combined.components if c.kind == "head"}
    shares: dict[str, tuple[Measurement, ...]] = {}
    for key, values in combined.importance.items():
        component, _, kind = key.rpartition("|")
        told = np.array([np.nan if v is None else v for v in values], dtype=np.float64)
        pool = "channels and neurons" if kind in ("channel", "neuron") else f"{kind}s"
        shares[original.get(component, component)] = (_share(told, pool),)
        if kind == "head":
            for unit, value in enumerate(told):
                name = heads.get((component, unit))
                if name is not None:
                    shares[original.get(name, name)] = (_share(np.array([value]), pool),)
    return _merged(found, shares)


def _share(values: np.ndarray, pool: str) -> Measurement:
    unit, n = f"share of all {pool}", len(values)
    if np.isnan(values).any() or not n:
        return Measurement(
            name="importance_share", value=None, unit=unit, n=n, state="could not tell",
            note=f"{int(np.isnan(values).sum())} of {n} units could not be measured",
        )  # fmt: skip
    return Measurement(name="importance_share", value=float(values.sum()), unit=unit)


def _merged(
    first: Mapping[str, Sequence[Measurement]], second: Mapping[str, Sequence[Measurement]]
) -> dict[str, tuple[Measurement, ...]]:
    names = sorted({*first, *second})
    return {name: (*first.get(name, ()), *second.get(name, ())) for name in names}


def _of_run(
    request: StructuralAnalysisRequest,
    decision: StructuralPruningDecision | None,
    combined: Combined | None,
    wanted: float | None,
    phase: str,
    ranking_accuracy: Measurement | None,
) -> tuple[Measurement, ...]:
    """The run at this checkpoint; what was not measured is left out."""
    checkpoint, architecture = request.checkpoint, request.architecture
    statistics = decision.statistics if decision else None
    wanted = statistics.sparsity_wanted if wanted is None and statistics else wanted
    phase = decision.safety.phase if decision else phase
    real = 1 - architecture.parameters / architecture.original_parameters
    confidence = decision.confidence if decision else combined.confidence if combined else 0.0
    depth = decision.depth if decision else combined.depth if combined else "none"
    told: list[Measurement | None] = [
        _number("training_loss", checkpoint.loss),
        _number("training_accuracy", checkpoint.accuracy, "share"),
        Measurement(name="parameters_left", value=architecture.parameters, unit="count"),
        Measurement(name="sparsity_real", value=real, unit="share"),
        _number("sparsity_wanted", wanted, "share", phase),
        Measurement(name="analysis_confidence", value=confidence, unit="confidence", note=depth),
        Measurement(name="cuts_standing", value=len(architecture.applied), unit="count"),
        ranking_accuracy,
    ]
    return tuple(measurement for measurement in told if measurement is not None)


def _number(name: str, value: float | None, unit: str = "", note: str = "") -> Measurement | None:
    return None if value is None else Measurement(name=name, value=value, unit=unit, note=note)


def _notes(decision: StructuralPruningDecision | None) -> tuple[str, ...]:
    if decision is None or decision.approved_for_application or not decision.rejection_reason:
        return ()
    return (f"Nothing was approved: {decision.rejection_reason}",)


def _failures(
    combined: Combined | None, decision: StructuralPruningDecision | None
) -> tuple[Failure, ...]:
    """Every fallback: what went wrong, and what stood in."""
    told = (*(combined.notes if combined else ()), *(decision.fallbacks if decision else ()))
    found: list[Failure] = []
    for text in dict.fromkeys(told):
        why, _, instead = text.partition(": ")
        fix = f"Instead: {instead}" if instead else ""
        found.append(Failure(stage="fallback", what="the analysis fell back", why=why, fix=fix))
    return tuple(found)
