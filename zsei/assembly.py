"""Puts the parts of an analysis together into one record."""

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

import torch

from zsei.analyzers.check_strategies import strategy_checks
from zsei.analyzers.context import Analysis
from zsei.gate.result import Outcome
from zsei.graph.costs import cost_measurements
from zsei.importance.ranking import Importance
from zsei.records import (
    AnalysisRecord,
    Check,
    Checkpoint,
    Conditions,
    Failure,
    Finding,
    Measurement,
    Provenance,
    Timings,
    Validation,
    digest,
)
from zsei.settings import Settings
from zsei.strategies.fitted import kept_values
from zsei.subject.types import Subject
from zsei.trace.summary import Trace

PACKAGES = ("zsei", "torch", "transformers", "networkx", "numpy", "scipy")


def draft_record(
    analysis: Analysis,
    findings: Sequence[Finding],
    failures: Sequence[Failure],
    *,
    cards: Mapping[str, str],
    checks: Sequence[Check] = (),
) -> AnalysisRecord:
    """The record before anybody has spoken or judged: what was asked and what was measured.

    Its id is not final: see `sealed`.
    """
    subject, settings = analysis.subject, analysis.settings
    return AnalysisRecord(
        id="draft",
        provenance=provenance_of(subject, settings, cards),
        conditions=conditions_of(subject, settings),
        components=subject.anatomy.components,
        measurements=_measurements(subject, analysis.trace, analysis.importance),
        groups=_groups(analysis.trace, analysis.importance),
        matrices=analysis.trace.matrices,
        edges=analysis.trace.edges,
        flow=analysis.flow.data(),
        findings=tuple(findings),
        validation=_validation(subject, analysis.trace, analysis.importance, checks),
        failures=(*analysis.trace.failures, *failures),
    )


def with_verdicts(record: AnalysisRecord, outcome: Outcome, analysis: Analysis) -> AnalysisRecord:
    """The record with what was tried, what became of it, and what applying it needs."""
    verdicts = tuple(outcome.trials[p.id].verdict for p in outcome.proposals)
    accepted = {v.proposal_id for v in verdicts if v.outcome == "accepted"}
    cut = {c for p in outcome.proposals if p.id in accepted for c in p.components}
    parents = {c.parent for c in record.components if c.id in cut}
    checks = (*record.validation.checks, *strategy_checks(outcome.proposals, verdicts))
    return record.model_copy(
        update={
            "validation": record.validation.model_copy(update={"checks": checks}),
            "proposals": tuple(outcome.proposals),
            "verdicts": verdicts,
            "combined": outcome.combined.verdict if outcome.combined else None,
            "fitted": kept_values(outcome.fitted),
            "means": {
                f"{component}|{kind}": tuple(mean.flatten().tolist())
                for (component, kind), mean in sorted(analysis.trace.means.items())
                if kind in ("head", "neuron") and component in cut | parents
            },
        }
    )


def sealed(record: AnalysisRecord, timings: Timings) -> AnalysisRecord:
    """The record with its id, the hash of everything but the id and the timings."""
    body = record.model_dump(mode="json", exclude={"timings", "id"})
    if record.provenance.checkpoint is None:  # as it was before there were runs, so ids stay
        del body["provenance"]["checkpoint"]
    return record.model_copy(update={"id": f"r-{digest(body)}", "timings": timings})


def provenance_of(
    subject: Subject,
    settings: Settings,
    cards: Mapping[str, str],
    checkpoint: Checkpoint | None = None,
) -> Provenance:
    """What ran, with what; `checkpoint` says where in a training run."""
    parameters = list(subject.model.parameters())
    first = parameters[0] if parameters else torch.zeros(())
    return Provenance(
        zsei=_version("zsei"),
        model=subject.source.name,
        model_class=type(subject.model).__name__,
        family=subject.anatomy.family or type(subject.model).__name__,
        model_hash=subject.model_hash,
        parameters=sum(p.numel() for p in parameters),
        fidelity=subject.fidelity,
        versions={"python": platform.python_version()} | {p: _version(p) for p in PACKAGES},
        seed=settings.seed,
        cards=dict(sorted(cards.items())),
        llm=None if settings.llm in (None, "none") else settings.llm,
        dtype=str(first.dtype).removeprefix("torch."),
        device=str(first.device),
        checkpoint=checkpoint,
    )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def conditions_of(subject: Subject, settings: Settings) -> Conditions:
    """Under which choices the numbers of an analysis hold."""
    first = subject.calibration[0]
    groups: dict[str, int] = {}
    for batch in (*subject.calibration, *subject.held_out):
        for group in batch.groups:
            groups[group] = groups.get(group, 0) + 1
    shapes = zip(subject.input_names, first.inputs, strict=True)
    return Conditions(
        objective=subject.objective.name,
        objective_reason=subject.objective.reason,
        metric=subject.objective.metric,
        replacement=settings.replacement,
        safety=settings.safety,
        groups=groups,
        calibration_samples=sum(batch.size for batch in subject.calibration),
        held_out_samples=sum(batch.size for batch in subject.held_out),
        input_shape={name: tuple(tensor.shape) for name, tensor in shapes},
        input_dtype={
            name: str(tensor.dtype).removeprefix("torch.")
            for name, tensor in zip(subject.input_names, first.inputs, strict=True)
        },
        probes=settings.probes,
        budget_seconds=settings.budget,
        threads=torch.get_num_threads(),
    )


def _measurements(
    subject: Subject, trace: Trace, importance: Importance
) -> dict[str, tuple[Measurement, ...]]:
    found = {component: tuple(named.values()) for component, named in trace.measurements.items()}
    for more in (cost_measurements(subject), importance.measurements):
        for component, extra in more.items():
            found[component] = (*found.get(component, ()), *extra)
    return found


def _groups(trace: Trace, importance: Importance) -> dict[str, dict[str, tuple[Measurement, ...]]]:
    """What was measured on each data group alone, by the pass and by exact ablation."""
    found = {group: dict(named) for group, named in trace.groups.items()}
    for group, named in importance.groups.items():
        here = found.setdefault(group, {})
        for component, extra in named.items():
            here[component] = (*here.get(component, ()), *extra)
    return found


def _validation(
    subject: Subject, trace: Trace, importance: Importance, checks: Sequence[Check]
) -> Validation:
    difference = Measurement(
        name="output_difference",
        value=trace.output_difference,
        unit="largest |instrumented - plain|",
        n=subject.calibration[0].size,
    )
    return Validation(
        instrumentation=(difference,),
        criteria=importance.checks,
        rankings=importance.rankings,
        checks=tuple(checks),
        notes=(*subject.notes, *trace.notes, *importance.notes),
    )
