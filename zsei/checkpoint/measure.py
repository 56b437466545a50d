"""What a worker does for the analysis: measures the units of some layers at one checkpoint.

One pass of the trace stage, with taps on these layers alone. What is measured of a place depends on
nothing but the model and the data, so layers may be put together into tasks in any way.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from zsei.assembly import conditions_of, provenance_of
from zsei.checkpoint.ablate import Exact, exact_rows
from zsei.checkpoint.follow_parameters import followed_entries
from zsei.checkpoint.group import Group, group_of, kind_of
from zsei.checkpoint.job import Job
from zsei.checkpoint.magnitude import magnitudes
from zsei.checkpoint.parts import Pairs, Parts, backward_parts, forward_parts, told
from zsei.checkpoint.ready import Ready, ready_for
from zsei.checkpoint.tasks import GroupMeasure, MeasureTask, SiteMeasure
from zsei.measures.gradient_noise import GradientNoise
from zsei.measures.learning_efficiency import step_size, weight_gradients, weights_of
from zsei.records import Checkpoint, Measurement
from zsei.subject.seeded import seeded
from zsei.subject.types import Site, Subject
from zsei.trace.evidence import collect
from zsei.trace.kept import Evidence
from zsei.trace.precision import check_precision
from zsei.trace.run import evidence_to_trace
from zsei.trace.summary import Trace
from zsei.trace.view import View

SERIES = (
    "rms", "gradient_rms", "gradient_signal_to_noise", "attention_entropy", "first_token_mass",
    "dead_units", "unit_sensitivity", "sensitivity",
)  # fmt: skip
"""Measurements of components that are followed over the checkpoints."""
WEIGHT_SAMPLES = 4
"""Samples that gradients of weights are taken over."""
WITHOUT_GRADIENTS = 0.5
"""Confidence of what rests on the size of weights alone."""

Depth = Literal["full", "channels", "basic"]
Found = Mapping[str, tuple[Measurement, ...]]


def measure(
    subject: Subject, task: MeasureTask, job: Job, ready: Ready | None = None
) -> GroupMeasure:
    """The criteria of every unit of a task's layers, and what goes with them.

    Where gradients do not come or are no numbers, the criteria that need them are missing at that
    place, a note says so, and the confidence is 0.5.

    Args:
        subject: The model with the weights of the task's checkpoint.
        task: Which layers, which levels, and how much.
        job: The run.
        ready: What is known of the architecture already.
    """
    check_precision(subject.model)
    ready = ready or ready_for(subject)
    with seeded(job.settings.model_copy(update={"threads": job.threads})):
        group = group_of(subject, ready.taps, task.layers, task.levels)
        sizes = {site: _magnitude(subject, site, ready) for site in group.sites}
        if task.basic:
            return _made(group, task, job, sizes, depth="basic", confidence=WITHOUT_GRADIENTS)
        return _full(group, task, job, ready, sizes)


def _magnitude(subject: Subject, site: Site, ready: Ready) -> Parts:
    found = magnitudes(subject, site, ready.slices(subject, site))
    return {} if found is None else {"magnitude": told(found)}


def _full(
    group: Group, task: MeasureTask, job: Job, ready: Ready, sizes: Mapping[Site, Parts]
) -> GroupMeasure:
    subject, settings = group.subject, job.settings
    evidence = collect(
        ready.engine, group.taps, subject.objective, subject.calibration,
        probes=settings.probes, seed=settings.seed, rows=settings.rows,
    )  # fmt: skip
    trace = evidence_to_trace(subject, group.taps, evidence, structure=False)
    pairs: dict[Site, Pairs] = {}
    parts: dict[Site, Parts] = {}
    blind = []
    for site in group.sites:
        forward, pairs[site] = forward_parts(site, group.taps, evidence, trace, job.config)
        backward = backward_parts(site, evidence, trace)
        parts[site] = sizes[site] | forward | backward
        if not backward:
            blind.append(site.component)
    measurements = _measurements(group, ready, evidence, trace, job)
    steps, followed, silent = _weights(group, job)
    exact = exact_rows(group, ready.engine, trace, task.ablate, settings)
    notes = _notes(blind, silent)
    return _made(
        group, task, job, parts, pairs=pairs, exact=exact, followed=followed, notes=notes,
        measurements=_merged(measurements, steps),
        depth="channels" if task.levels == ("channels",) else "full",
        confidence=WITHOUT_GRADIENTS if notes else 1.0,
    )  # fmt: skip


def _measurements(
    group: Group, ready: Ready, evidence: Evidence, trace: Trace, job: Job
) -> dict[str, tuple[Measurement, ...]]:
    """Component -> what is followed over the checkpoints."""
    view = View(
        subject=group.subject, engine=ready.engine, taps=group.taps, evidence=evidence,
        measurements=trace.measurements, settings=job.settings,
    )  # fmt: skip
    known = {c: tuple(named.values()) for c, named in trace.measurements.items()}
    known = _merged(known, GradientNoise().measure(view).measurements)
    return {c: kept for c, named in known.items() if (kept := _kept(named))}


def _kept(named: Sequence[Measurement]) -> tuple[Measurement, ...]:
    return tuple(m for m in named if m.name in SERIES)


def _weights(group: Group, job: Job) -> tuple[Found, dict[str, bytes], tuple[str, ...]]:
    """Steps per component, importance of single parameters, and the parameters whose gradient is
    no number.
    """
    subject, settings = group.subject, job.settings
    owned = weights_of(subject)
    names = sorted({name for mine in owned.values() for name in mine})
    if not names:
        return {}, {}, ()
    n, gradients = weight_gradients(subject, names, WEIGHT_SAMPLES, settings.seed)
    weights = dict(subject.model.named_parameters())
    how = "mean loss" if subject.objective.supervised else "one random probe"
    steps = {}
    for component, mine in owned.items():
        known = [(weights[name], gradients[name]) for name in mine if name in gradients]
        if known:
            steps[component] = step_size(known, n, f"of {how} over {n} samples")
    silent = tuple(name for name, g in gradients.items() if not bool(g.isfinite().all()))
    return steps, followed_entries(weights, gradients, len(weights), job.config), silent


def _merged(first: Found, second: Found) -> dict[str, tuple[Measurement, ...]]:
    return {
        name: (*first.get(name, ()), *second.get(name, ()))
        for name in dict.fromkeys([*first, *second])
    }


def _notes(blind: Sequence[str], silent: Sequence[str]) -> tuple[str, ...]:
    """What went wrong, and what stood in."""
    found = []
    if blind:
        names = ", ".join(dict.fromkeys(blind))
        found.append(
            f"No gradient, or none that is a number, reaches {names}: its units are ranked by the "
            "size of their weights and by their activity."
        )
    if silent:
        found.append(f"The gradients of {', '.join(silent)} are no numbers and were left out.")
    return tuple(found)


def _made(
    group: Group, task: MeasureTask, job: Job, parts: Mapping[Site, Parts], *, depth: Depth,
    confidence: float, pairs: Mapping[Site, Pairs] | None = None, measurements: Found | None = None,
    exact: Exact = (), followed: Mapping[str, bytes] | None = None, notes: tuple[str, ...] = (),
) -> GroupMeasure:  # fmt: skip
    subject, snapshot = group.subject, task.snapshot
    layers = {component.id: component.layer for component in group.components}
    checkpoint = Checkpoint(run=job.run, epoch=snapshot.epoch, step=snapshot.step)
    return GroupMeasure(
        layers=task.layers,
        depth=depth,
        sites=tuple(
            SiteMeasure(
                component=site.component, kind=kind_of(site), layer=layers[site.component],
                parts=parts[site], pairs=(pairs or {}).get(site, ()),
                parameters=subject.anatomy.component(site.component).parameters,
            )
            for site in group.sites
        ),
        measurements=dict(measurements or {}),
        exact=exact,
        confidence=confidence,
        notes=notes,
        followed=dict(followed or {}),
        components=group.components,
        provenance=provenance_of(subject, job.settings, {}, checkpoint),
        conditions=conditions_of(subject, job.settings),
    )  # fmt: skip
