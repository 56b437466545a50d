"""Measures one checkpoint: layers in groups through an engine, with what stands in for failures."""

import math
from dataclasses import dataclass, replace

from safetensors.torch import save

from zsei.checkpoint.config import CheckpointConfig
from zsei.checkpoint.contracts import Depth, Level
from zsei.checkpoint.ledger import Ledger
from zsei.checkpoint.measure.combine import Combined, combine
from zsei.checkpoint.measure.fallbacks import LOST, Outcome, outcome_of
from zsei.checkpoint.measure.window import Window
from zsei.checkpoint.tasks import (
    GroupMeasure,
    MeasureTask,
    Outline,
    OutlineTask,
    Snapshot,
    Unreadable,
)
from zsei.checkpoint.weights.snapshot import read_weights
from zsei.errors import ZseiError
from zsei.records import digest

FIRST, SECOND = 0.6, 0.8
"""Shares of the window in which groups are measured as asked, and by what stands in for that; the
rest is the gate's."""
LEAST = 20.0
"""Seconds that magnitudes of the weights get, even after the window."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """What is known of a checkpoint."""

    combined: Combined | None
    """None when nothing could be measured; then `why` says so."""
    groups: tuple[GroupMeasure, ...] = ()
    depth: Depth
    confidence: float
    notes: tuple[str, ...] = ()
    """What went wrong and what stood in."""
    why: str = ""
    ledger: Ledger
    """Knows the layers of this architecture."""


def measure_checkpoint(
    window: Window,
    snapshot: Snapshot,
    ledger: Ledger,
    levels: tuple[Level, ...],
    config: CheckpointConfig,
) -> Measured:
    """Measure all layers as far as time, memory and luck allow. Raises nothing."""
    ledger, why = _outlined(window, snapshot, ledger)
    if why:
        return not_measured(ledger, why)
    every = config.run.ablate_every
    ablate = config.run.ablate_units if every and snapshot.epoch % every == 0 else 0
    waiting = tasks_of(snapshot, ledger.layers, levels, config.elesh.layers_per_worker, ablate)
    groups: list[GroupMeasure] = []
    notes: list[str] = []
    lost, until, least = 0, FIRST, 0.0
    while waiting:
        found: Outcome = outcome_of(window.run(waiting, until=until, least=least))
        if found.unreadable:
            return not_measured(ledger, found.unreadable)
        groups += found.groups
        notes += found.notes
        lost += found.lost
        waiting, until, least = found.again, SECOND, LEAST
    if not groups:
        return not_measured(ledger, f"nothing could be measured: {'; '.join(notes)}")
    groups.sort(key=lambda group: [-1 if n is None else n for n in group.layers])
    try:
        combined = combine(groups, config)
    except ZseiError as error:
        return not_measured(ledger, str(error))
    return Measured(
        combined=combined,
        groups=tuple(groups),
        depth="basic" if lost else combined.depth,
        confidence=min(combined.confidence, LOST) if lost else combined.confidence,
        notes=(*notes, *combined.notes),
        ledger=ledger,
    )


def not_measured(ledger: Ledger, why: str) -> Measured:
    """Nothing, for a reason; the analysis before stands where there is one."""
    depth: Depth = "previous" if ledger.record_id else "none"
    confidence = LOST if ledger.record_id else 0.0
    stands = " The analysis before it stands." if ledger.record_id else ""
    notes = (f"this checkpoint was not measured: {why}{stands}",)
    return Measured(
        combined=None, depth=depth, confidence=confidence, notes=notes, why=why, ledger=ledger
    )


def tasks_of(
    snapshot: Snapshot,
    layers: tuple[int, ...],
    levels: tuple[Level, ...],
    per_task: int,
    ablate: int = 0,
) -> tuple[MeasureTask, ...]:
    """Layers in as few groups as fit, of sizes as equal as can be; the last holds the rest of the
    model. They do not depend on the number of workers, and so neither does what is measured.
    """
    count = max(1, math.ceil(len(layers) / per_task))
    bounds = [round(number * len(layers) / count) for number in range(count + 1)]
    tasks = []
    for number in range(count):
        own: tuple[int | None, ...] = layers[bounds[number] : bounds[number + 1]]
        tasks.append(
            MeasureTask(
                id=f"{snapshot.epoch}/{number}",
                snapshot=snapshot,
                layers=(*own, None) if number == count - 1 else own,
                levels=levels,
                ablate=math.ceil(ablate / count),
            )
        )
    return tuple(tasks)


def carried(snapshot: Snapshot, *, shares_disk: bool) -> Snapshot:
    """The snapshot as workers can read it: its bytes go along where they share no disk.

    Raises:
        ZseiError: The weights cannot be read.
    """
    if shares_disk or snapshot.data is not None:
        return snapshot
    data = save(dict(read_weights(snapshot)))
    return replace(snapshot, data=data, path=None, sha256="", prefix="")


def _outlined(window: Window, snapshot: Snapshot, ledger: Ledger) -> tuple[Ledger, str]:
    """The layers of this architecture, asked for once; and why there is nothing to go on with."""
    name = digest([edit.model_dump(mode="json") for edit in snapshot.edits])
    if ledger.outlined == name:
        return ledger, ""
    task = OutlineTask(id=f"{snapshot.epoch}/outline", snapshot=snapshot)
    (done,) = window.run([task], until=FIRST)
    if isinstance(done.value, Outline):
        changes = {"outlined": name, "layers": done.value.layers}
        return ledger.model_copy(update=changes), ""
    if isinstance(done.value, Unreadable):
        return ledger, done.value.why
    if ledger.outlined:
        return ledger, ""  # of an earlier architecture: layers that are gone measure nothing
    return ledger, f"the model could not be looked at ({done.status}: {done.why})"
