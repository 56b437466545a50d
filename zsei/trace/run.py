"""The trace stage: run the model on the calibration data and keep numbers, not values."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from zsei.settings import Settings
from zsei.subject.screen import without
from zsei.subject.types import Subject
from zsei.trace.by_group import class_sensitivity, group_sensitivity
from zsei.trace.engine import Engine, engine_for
from zsei.trace.evidence import collect, collect_means, joined
from zsei.trace.kept import Evidence, Moments
from zsei.trace.measuring import run_measures
from zsei.trace.precision import check_precision
from zsei.trace.streamed import clock_repeats, rows_within
from zsei.trace.summary import Trace, head_shares, head_similarity, summarise
from zsei.trace.taps import Taps, find_taps
from zsei.trace.undefined import clean_pass, note_of
from zsei.trace.view import Measure, View


def trace(
    subject: Subject,
    settings: Settings,
    *,
    engine: Engine | None = None,
    measures: Sequence[Measure] = (),
    clock: bool = True,
    progress: Callable[[float], None] | None = None,
) -> Trace:
    """Measure every component of a subject on its calibration data.

    Args:
        subject: Model, data, objective, anatomy.
        settings: `probes`, `seed`, `rows`.
        engine: Reuse an engine; None makes one.
        measures: What else to work out from what the pass keeps.
        clock: Also time the components and compare outputs with the plain model's.
        progress: Called with the share done.
    """
    check_precision(subject.model)
    engine = engine or engine_for(subject)
    taps = find_taps(subject, engine)
    rows, fewer = rows_within(taps, engine, settings.rows)
    samples = sum(batch.size for batch in subject.calibration)

    def one_pass(subject: Subject, taps: Taps) -> Evidence:
        return collect(
            engine,
            taps,
            subject.objective,
            subject.calibration,
            probes=settings.probes,
            seed=settings.seed,
            rows=rows,
            means=collect_means(engine, taps.sites, subject.calibration),
            progress=progress,
        )

    cleaned = clean_pass(subject, taps, engine, one_pass)
    subject, taps, evidence = cleaned.subject, cleaned.taps, cleaned.evidence
    measured = evidence_to_trace(subject, taps, evidence)
    view = View(
        subject=subject, engine=engine, taps=taps, evidence=evidence,
        measurements=measured.measurements, settings=settings,
    )  # fmt: skip
    measured = run_measures(measured, view, measures)
    if clock:
        seconds, overhead = _clock(subject, engine)
        difference = output_difference(subject, engine)
        measured = replace(
            measured, seconds=seconds, overhead=overhead, output_difference=difference
        )
    return replace(
        measured,
        notes=(*fewer, *note_of(cleaned, samples), *measured.notes),
        undefined=tuple(cleaned.undefined),
        left_out=tuple(sorted(cleaned.left_out)),
    )


def without_undefined(subject: Subject, traced: Trace) -> Subject:
    """The subject with the calibration samples that the trace rests on."""
    if not traced.left_out:
        return subject
    step = 2 if subject.objective.name == "similarity" else 1
    return replace(subject, calibration=without(subject.calibration, traced.left_out, step))


def evidence_to_trace(
    subject: Subject, taps: Taps, evidence: Evidence, *, structure: bool = True
) -> Trace:
    """Numbers from the evidence, without those of a clock; see `summarise` for `structure`."""
    measurements, units = summarise(subject, taps, evidence, structure=structure)
    rows = {name: joined(kept.rows) for name, kept in evidence.values.items()}
    shares: dict[tuple[str, str], float] = {}
    for join in taps.joins:
        branch = measurements[join.component].get("branch_share")
        if branch is not None and branch.value is not None:
            shares[join.branch, join.node] = branch.value
            shares[join.skip, join.node] = 1 - branch.value
    similarity = {}
    for tap in taps.attentions:
        shares |= head_shares(tap, rows)
        if structure and tap.core in rows and len(tap.heads) > 1:
            similarity[tap.component] = head_similarity(tap, rows)
    sites = subject.anatomy.sites
    classes = class_sensitivity(subject.objective, sites, evidence)
    return Trace(
        measurements=measurements,
        groups=group_sensitivity(subject.objective, sites, evidence),
        matrices=() if classes is None else (classes,),
        units=units,
        means=evidence.means,
        shares=shares,
        attributions=_edge_attributions(evidence, supervised=subject.objective.supervised),
        head_similarity=similarity,
    )


def _edge_attributions(evidence: Evidence, *, supervised: bool) -> dict[tuple[str, str], float]:
    found = {}
    for name, moments in evidence.join_gradients.items():
        source, target = name.split("->")
        found[source, target] = _edge_value(moments, supervised=supervised)
    return found


def _edge_value(moments: Moments, *, supervised: bool) -> float:
    mean = float(moments.mean())
    return mean if supervised else max(mean, 0.0) ** 0.5


def output_difference(subject: Subject, engine: Engine) -> float:
    """Largest |instrumented - plain| output on the first batch: 0.0 means bit-equal.

    The plain model runs without torch's fast path for encoders, as it was exported: another kernel
    would differ in the last digit, now and then.
    """
    from zsei.subject.program import MainOutput

    batch = subject.calibration[0]
    fastpath = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with torch.no_grad():
            plain = MainOutput(subject.model, subject.input_names).eval()(*batch.inputs)
            return float((engine.run(batch) - plain).abs().max())
    finally:
        torch.backends.mha.set_fastpath_enabled(fastpath)


def _clock(subject: Subject, engine: Engine) -> tuple[dict[str, float], float]:
    """Seconds per component, and the interpreted forward over the plain one (median of three;
    one run of a streamed model).
    """
    from zsei.subject.program import MainOutput

    batch = subject.calibration[0]
    repeats = clock_repeats(engine)
    calls = engine.seconds(batch, repeats=repeats)
    # Heads share the calls of their attention, the output is a call of another component: neither
    # has a time of its own.
    seconds = {
        component.id: sum(calls.get(node, 0.0) for node in subject.anatomy.nodes[component.id])
        for component in subject.anatomy.components
        if component.kind not in ("head", "output")
    }
    plain = MainOutput(subject.model, subject.input_names).eval()
    times: list[float] = []
    with torch.no_grad():
        for _ in range(repeats):
            begin = time.perf_counter()
            plain(*batch.inputs)
            middle = time.perf_counter()
            engine.run(batch)
            times.append((time.perf_counter() - middle) / (middle - begin))
    return seconds, sorted(times)[repeats // 2]
