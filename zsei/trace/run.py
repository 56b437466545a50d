"""The trace stage: run the model on the calibration data and keep numbers, not values."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from zsei.settings import Settings
from zsei.subject.types import Subject
from zsei.trace.engine import Engine, engine_for
from zsei.trace.evidence import Evidence, Moments, collect, collect_means
from zsei.trace.measuring import run_measures
from zsei.trace.summary import Trace, head_shares, head_similarity, summarise
from zsei.trace.taps import Taps, find_taps
from zsei.trace.view import Measure, View

ROWS = 512
"""Rows kept of every value."""


def trace(
    subject: Subject,
    settings: Settings,
    *,
    engine: Engine | None = None,
    measures: Sequence[Measure] = (),
    progress: Callable[[float], None] | None = None,
) -> Trace:
    """Measure every component of a subject on its calibration data.

    Args:
        subject: Model, data, objective, anatomy.
        settings: `probes`, `seed`.
        engine: Reuse an engine; None makes one.
        measures: What else to work out from what the pass keeps.
        progress: Called with the share done.
    """
    engine = engine or engine_for(subject)
    taps = find_taps(subject, engine)
    means = collect_means(engine, taps.sites, subject.calibration)
    evidence = collect(
        engine,
        taps,
        subject.objective,
        subject.calibration,
        probes=settings.probes,
        seed=settings.seed,
        rows=ROWS,
        means=means,
        progress=progress,
    )
    measured = evidence_to_trace(subject, taps, evidence)
    view = View(
        subject=subject, engine=engine, taps=taps, evidence=evidence,
        measurements=measured.measurements, settings=settings,
    )  # fmt: skip
    measured = run_measures(measured, view, measures)
    seconds, overhead = _clock(subject, engine)
    return replace(
        measured,
        seconds=seconds,
        overhead=overhead,
        output_difference=output_difference(subject, engine),
    )


def evidence_to_trace(
    subject: Subject, taps: Taps, evidence: Evidence, *, structure: bool = True
) -> Trace:
    """Numbers from the evidence, without those of a clock; see `summarise` for `structure`."""
    measurements, units = summarise(subject, taps, evidence, structure=structure)
    rows = {name: torch.cat(kept.rows) for name, kept in evidence.values.items()}
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
    return Trace(
        measurements=measurements,
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
    """Largest |instrumented - plain| output on the first batch: 0.0 means bit-equal."""
    from zsei.subject.program import MainOutput

    batch = subject.calibration[0]
    with torch.no_grad():
        plain = MainOutput(subject.model, subject.input_names).eval()(*batch.inputs)
        return float((engine.run(batch) - plain).abs().max())


def _clock(subject: Subject, engine: Engine) -> tuple[dict[str, float], float]:
    """Seconds per component, and the interpreted forward over the plain one (median of three)."""
    from zsei.subject.program import MainOutput

    batch = subject.calibration[0]
    calls = engine.seconds(batch, repeats=3)
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
        for _ in range(3):
            begin = time.perf_counter()
            plain(*batch.inputs)
            middle = time.perf_counter()
            engine.run(batch)
            times.append((time.perf_counter() - middle) / (middle - begin))
    return seconds, sorted(times)[1]
