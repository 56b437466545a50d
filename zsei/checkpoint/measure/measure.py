"""What a worker does for the analysis: measures the units of some layers at one checkpoint.

What is measured in a layer depends on nothing but the model and the data, so layers may be put
together into tasks in any way, and what is known of a layer already is not measured again.
"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import TypeVar

from zsei.assembly import conditions_of, provenance_of
from zsei.checkpoint.job import Job
from zsei.checkpoint.measure.ablate import Ablated, exact_rows
from zsei.checkpoint.measure.cache import Kept, open_cache
from zsei.checkpoint.measure.group import Group, group_of, kind_of
from zsei.checkpoint.measure.magnitude import magnitudes
from zsei.checkpoint.measure.one_pass import Looked, look
from zsei.checkpoint.measure.parts import told
from zsei.checkpoint.measure.ready import Ready, ready_for
from zsei.checkpoint.tasks import GroupMeasure, MeasureTask, SiteMeasure
from zsei.records import Checkpoint
from zsei.settings import Settings
from zsei.subject.seeded import seeded
from zsei.subject.types import Subject
from zsei.trace.precision import check_precision

T = TypeVar("T")
WITHOUT_GRADIENTS = 0.5
"""Confidence of what rests on the size of weights alone."""


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

    Raises:
        ModelError: The weights are in half precision.
    """
    check_precision(subject.model)
    ready = ready or ready_for(subject)
    job = replace(job, settings=sparing(job.settings, subject))
    with seeded(job.settings.model_copy(update={"threads": job.threads})):
        group = group_of(subject, ready.taps, task.layers, task.levels)
        if task.basic:
            return _joined(group, task, job, [_basic(group, task, ready)])
        with open_cache(job) as cache:
            parts = _layers(subject, task, job, ready, cache)
            joined = _joined(group, task, job, parts)
            return joined.model_copy(
                update={"exact": _exact(group, joined, task, job, ready, cache)}
            )


def sparing(settings: Settings, subject: Subject) -> Settings:
    """Settings with one probe where there are labels, unless the user set another number.

    Each probe costs a way back through the model, and with labels the loss gives "taylor" anyway.
    Importance is averaged over the checkpoints, which makes up for its spread.
    """
    if "probes" in settings.model_fields_set or not subject.objective.supervised:
        return settings
    return settings.model_copy(update={"probes": 1})


def _basic(group: Group, task: MeasureTask, ready: Ready) -> GroupMeasure:
    return GroupMeasure(
        layers=task.layers, depth="basic", sites=_sites(group, ready, None), measurements={},
        confidence=WITHOUT_GRADIENTS,
    )  # fmt: skip


def _layers(
    subject: Subject, task: MeasureTask, job: Job, ready: Ready, cache: Kept
) -> list[GroupMeasure]:
    """Each layer's measures: those that are known, and one pass for all others."""
    content = ready.content(subject, job)
    names = {n: content.of_layer(subject, n, task, job) for n in task.layers} if content else {}
    known = {layer: cache.read(key, GroupMeasure) for layer, key in names.items()}
    found = {n: _all_read(part) for n, part in known.items() if part is not None}
    fresh = [layer for layer in task.layers if layer not in found]
    if fresh:
        group = group_of(subject, ready.taps, fresh, task.levels)
        looked = look(group, job, ready, cache)
        for layer in fresh:
            found[layer] = _one_layer(group, layer, task, ready, looked)
            if layer in names:
                cache.write(names[layer], found[layer])
    return [found[layer] for layer in task.layers]


def _all_read(part: GroupMeasure) -> GroupMeasure:
    return part.model_copy(update={"cached": len(part.sites)})


def _one_layer(
    whole: Group, layer: int | None, task: MeasureTask, ready: Ready, looked: Looked
) -> GroupMeasure:
    """What of a pass belongs to one layer."""
    group = group_of(whole.subject, whole.taps, (layer,), task.levels)
    notes = looked.notes(group)
    return GroupMeasure(
        layers=(layer,),
        depth="channels" if task.levels == ("channels",) else "full",
        sites=_sites(group, ready, looked),
        measurements=looked.measured(group),
        confidence=WITHOUT_GRADIENTS if notes else 1.0,
        notes=notes,
        cached=sum(site in looked.read for site in group.sites),
        followed=looked.followed_in(group),
    )


def _sites(group: Group, ready: Ready, looked: Looked | None) -> tuple[SiteMeasure, ...]:
    subject, found = group.subject, []
    for site in group.sites:
        component = subject.anatomy.component(site.component)
        sizes = magnitudes(subject, site, ready.slices(subject, site))
        parts = {} if sizes is None else {"magnitude": told(sizes)}
        found.append(
            SiteMeasure(
                component=site.component, kind=kind_of(site), layer=component.layer,
                parts=parts | (looked.parts[site] if looked else {}),
                pairs=looked.pairs[site] if looked else (), parameters=component.parameters,
            )
        )  # fmt: skip
    return tuple(found)


def _exact(
    group: Group, joined: GroupMeasure, task: MeasureTask, job: Job, ready: Ready, cache: Kept
) -> tuple[tuple[str, int, float, float], ...]:
    """Effects of the units that are ablated."""
    if not task.ablate:
        return ()
    content = ready.content(group.subject, job)
    key = content.of_ablation(group.subject, task, job) if content else None
    known = cache.read(key, Ablated) if key else None
    if known is None:
        scores = {site.key: site.parts.get("output sensitivity", ()) for site in joined.sites}
        known = exact_rows(group, ready.engine, scores, task.ablate, job.settings)
        if key:
            cache.write(key, known)
    return known.rows


def _joined(group: Group, task: MeasureTask, job: Job, parts: list[GroupMeasure]) -> GroupMeasure:
    """One group out of its layers, with what is told of the model once."""
    subject, snapshot = group.subject, task.snapshot
    checkpoint = Checkpoint(run=job.run, epoch=snapshot.epoch, step=snapshot.step)
    return GroupMeasure(
        layers=task.layers,
        depth=parts[0].depth if parts else "full",
        sites=tuple(site for part in parts for site in part.sites),
        measurements=_together(part.measurements for part in parts),
        confidence=min((part.confidence for part in parts), default=1.0),
        notes=tuple(note for part in parts for note in part.notes),
        cached=sum(part.cached for part in parts),
        followed=_together(part.followed for part in parts),
        components=group.components,
        provenance=provenance_of(subject, job.settings, {}, checkpoint),
        conditions=conditions_of(subject, job.settings),
    )


def _together(parts: Iterable[Mapping[str, T]]) -> dict[str, T]:
    return {name: value for part in parts for name, value in part.items()}
