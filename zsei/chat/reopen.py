"""The model and the data of a stored analysis, open once more under the conditions it names.

What an action measures must stand beside what the analysis measured, so the same model, samples,
objective and seed are asked for, and checked: by the model's hash, by the conditions, and by
comparing what is measured again with what is stored.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from zsei.analyzers.context import Analysis
from zsei.chat.records import Action, Estimate
from zsei.errors import DataError, ModelError, UsageError
from zsei.gate.rounds import Bench
from zsei.graph.build import build_graph
from zsei.importance.effects import few
from zsei.importance.ranking import Importance
from zsei.records import AnalysisRecord
from zsei.settings import Settings
from zsei.strategies.scores import removal_scores
from zsei.subject.prepare import prepare
from zsei.subject.seeded import seeded
from zsei.subject.streamed import fitted, too_large_to_copy
from zsei.subject.types import Subject
from zsei.trace.engine import engine_for
from zsei.trace.run import trace, without_undefined
from zsei.trace.summary import Trace

TOLERANCE = 1e-3
"""Relative difference between a stored and a repeated statistic that rounding may explain."""
_COMPARED = ("mean_abs", "rms")
_BACKWARD = 2
"""Forward passes that a backward pass costs."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Reopened:
    """A stored analysis with its model open."""

    record: AnalysisRecord
    analysis: Analysis
    bench: Bench
    """Where proposals are tried, as in an analysis."""


def reopen(
    record: AnalysisRecord,
    settings: Settings,
    *,
    model: str | nn.Module | None = None,
    data: Any = None,
    progress: Callable[[float], None] | None = None,
) -> Reopened:
    """Load the model of an analysis with its data and measure what actions need.

    Args:
        record: The analysis.
        settings: In force now; those that the record's conditions name give way to them.
        model: The model, where the record does not name one that can be loaded.
        data: As for `analyze`; None takes the default text, or what a factory returns.
        progress: Called with the share done.

    Raises:
        ModelError: It cannot be loaded, or is not the model that was analysed.
        DataError: The data is not that of the analysis.
    """
    provenance = record.provenance
    if model is None and provenance.model == provenance.model_class:
        raise ModelError(
            f"An action needs the model itself, but that of {record.id} was a Python object "
            f"({provenance.model_class}); analyse it by folder or package.module:factory."
        )
    subject, chosen = _prepared(
        record, settings, provenance.model if model is None else model, data
    )
    with seeded(chosen):
        engine = engine_for(subject)
        measured = trace(subject, chosen, engine=engine, clock=False, progress=progress)
        _same_numbers(record, measured)
        subject = without_undefined(subject, measured)
        analysis = Analysis(
            subject=subject,
            engine=engine,
            trace=measured,
            flow=build_graph(subject, measured),
            importance=_importance(record, subject, measured, chosen),
            settings=chosen,
        )
        bench = Bench(
            subject=subject,
            scores=removal_scores(subject, measured, analysis.importance),
            means=measured.means,
            settings=chosen,
            closed=too_large_to_copy(subject.model),
        )
    return Reopened(record=record, analysis=analysis, bench=bench)


def estimate(
    record: AnalysisRecord, action: Action, settings: Settings, *, open_now: bool
) -> Estimate:
    """About how many forward passes an action takes.

    Formula, B calibration and H held-out batches, T batches of exact ablation, k components, p
    probes: opening B (2 + 2 p); ablating T (1 + k), and 2 T more for several at once; comparing
    as ablating, and T more; the gate 2 H + 6 for the original and as many for the copy.
    """
    conditions = record.conditions
    size = max((shape[0] for shape in conditions.input_shape.values() if shape), default=1)
    calibration = -(-conditions.calibration_samples // size)
    truth = min(calibration, -(-_truth_samples(record, settings) // size))
    opening = 0 if open_now else calibration * (2 + _BACKWARD * conditions.probes)
    count = len(action.components)
    if action.kind == "gate":
        own = 2 * (2 * -(-conditions.held_out_samples // size) + 6)
    else:
        own = truth * (1 + count) + (2 * truth if count > 1 else 0)
        own += truth if action.kind == "compare" else 0
    return Estimate(forwards=own + opening, opening=opening, batch=size)


def _prepared(
    record: AnalysisRecord, settings: Settings, model: str | nn.Module, data: Any
) -> tuple[Subject, Settings]:
    """The subject under the record's conditions.

    How many samples were asked for is not in the record, only how many there were in the end: both
    that number and the one in force are tried.
    """
    conditions = record.conditions
    total = max(4, conditions.calibration_samples + conditions.held_out_samples)
    differences: list[str] = []
    for samples in dict.fromkeys((total, settings.samples)):
        chosen = _settings(record, settings, samples)
        with seeded(chosen):
            try:
                subject = prepare(model, data, objective=conditions.objective, settings=chosen)
            except (UsageError, OSError) as error:
                raise ModelError(
                    f"The model and data of {record.id} must load as they did, but {error}"
                ) from error
        if subject.model_hash != record.provenance.model_hash:
            raise ModelError(
                f"An action holds for the very model that was analysed; {record.id} saw "
                f"{record.provenance.model_hash[:12]} and {record.provenance.model} is now "
                f"{subject.model_hash[:12]}. Analyse it anew."
            )
        differences = _differences(record, subject)
        if not differences:
            return subject, fitted(chosen, subject.model)[0]
    raise DataError(
        f"An action repeats the data of its analysis, but against {record.id} {differences[0]}; "
        "give that data with --data and the settings it was made with."
    )


def _settings(record: AnalysisRecord, settings: Settings, samples: int) -> Settings:
    conditions = record.conditions
    changes: dict[str, Any] = {
        "seed": record.provenance.seed,
        "safety": conditions.safety,
        "replacement": conditions.replacement,
        "probes": conditions.probes or settings.probes,
        "samples": samples,
        "truth_samples": _truth_samples(record, settings),
    }
    shapes = list(conditions.input_shape.items())
    if shapes and shapes[0][1]:
        changes["batch_size"] = shapes[0][1][0]
    tokens = [
        shape[1]
        for name, shape in shapes
        if len(shape) == 2 and "int" in conditions.input_dtype.get(name, "")
    ]
    if tokens and tokens[0] >= 4:
        changes["length"] = tokens[0]
    return settings.model_copy(update=changes)


def _truth_samples(record: AnalysisRecord, settings: Settings) -> int:
    """Samples that the record's exact ablations rest on."""
    found = (record.measured(component.id, "ablation_effect") for component in record.components)
    return next((m.n for m in found if m is not None and m.n), settings.truth_samples)


def _differences(record: AnalysisRecord, subject: Subject) -> list[str]:
    """What of the conditions is not as it was."""
    conditions = record.conditions
    batches = (*subject.calibration, *subject.held_out)
    groups = Counter(group for batch in batches for group in batch.groups)
    first = subject.calibration[0].inputs if subject.calibration else ()
    shapes = {n: tuple(t.shape) for n, t in zip(subject.input_names, first, strict=False)}
    pairs: tuple[tuple[str, object, object], ...] = (
        ("the metric", conditions.metric, subject.objective.metric),
        ("the data groups", dict(conditions.groups), dict(groups)),
        ("the input shapes", conditions.input_shape, shapes),
        ("the calibration samples", conditions.calibration_samples,
         sum(batch.size for batch in subject.calibration)),
    )  # fmt: skip
    return [f"{what} would be {now} instead of {was}" for what, was, now in pairs if was != now]


def _same_numbers(record: AnalysisRecord, measured: Trace) -> None:
    """Refuse data on which the same statistics come out differently."""
    for component, named in measured.measurements.items():
        for name in _COMPARED:
            was, now = record.measured(component, name), named.get(name)
            if was is None or now is None or was.value is None or now.value is None:
                continue
            if abs(was.value - now.value) > TOLERANCE * max(abs(was.value), abs(now.value), 1e-9):
                raise DataError(
                    f"An action repeats the data of its analysis, but {name} of {component} is "
                    f"{now.value:.6g} and {record.id} holds {was.value:.6g}; give that very data "
                    "with --data."
                )


def _importance(
    record: AnalysisRecord, subject: Subject, measured: Trace, settings: Settings
) -> Importance:
    """Scores as the analysis had them: sensitivity, and the stored exact effects in its place."""
    scores = {}
    for (component, kind), units in measured.units.items():
        values = units.sensitivity.tolist()
        if kind in ("head", "branch", "layer"):
            for index, name in enumerate(units.site.unit_ids):
                known = record.measured(name, "ablation_effect")
                if known is not None and known.value is not None:
                    values[index] = known.value
        scores[component, kind] = tuple(values)
    return Importance(
        checks=(), rankings=(), measurements={}, scores=scores,
        batches=few(subject.calibration, settings.truth_samples),
    )  # fmt: skip
