"""Exact effects of units: the sample they are measured on, and what they become in the record."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from zsei.importance.candidates import Unit
from zsei.records import Measurement
from zsei.settings import Settings
from zsei.subject.types import Batch, Subject
from zsei.trace.ablation import Effect, Target, ablate
from zsei.trace.engine import Engine
from zsei.trace.groups import group_members
from zsei.trace.summary import Trace

TRUTH_SAMPLES: int = Settings.model_fields["truth_samples"].default
"""Calibration samples on which exact ablation is run unless the settings say otherwise."""
FEWEST_OF_GROUP = 4
"""Samples of a data group below which no effect on it is given."""


def few(batches: Sequence[Batch], wanted: int) -> tuple[Batch, ...]:
    """The first batches that hold `wanted` samples."""
    taken: list[Batch] = []
    samples = 0
    for batch in batches:
        taken.append(batch)
        samples += batch.size
        if samples >= wanted:
            break
    return tuple(taken)


def exact_effects(
    subject: Subject, engine: Engine, trace: Trace, settings: Settings,
    batches: Sequence[Batch], units: Sequence[Unit],
    progress: Callable[[float], None] | None = None,
) -> dict[str, Effect]:  # fmt: skip
    """Unit id -> what ablating it does, per sample."""
    units = list(units)
    targets = [Target(site=unit.site, units=(unit.index,)) for unit in units]
    found = ablate(
        engine, subject.objective, batches, targets, means=trace.means,
        replacement=settings.replacement, seed=settings.seed, progress=progress,
    )  # fmt: skip
    return {unit.id: effect for unit, effect in zip(units, found, strict=True)}


def mean_effect(effect: Effect) -> float:
    """Mean divergence over samples."""
    return float(effect.divergence.mean())


def per_sample(effects: Mapping[str, Effect], units: Sequence[Unit]) -> np.ndarray:
    """Divergences [U, n] of units that were all ablated on the same samples."""
    return torch.stack([effects[unit.id].divergence for unit in units]).double().numpy()


def how(effect: Effect, replacement: str) -> str:
    """What stood in for a unit: layers are bypassed whatever the setting."""
    return "identity" if effect.target.site.kind == "layer" else replacement


def effect_measurements(
    effects: Mapping[str, Effect], metric: str, replacement: str
) -> dict[str, tuple[Measurement, ...]]:
    """Component -> its effect on the output, and with labels on the loss."""
    found = {}
    for unit, effect in _parts(effects):
        note = how(effect, replacement)
        rows = [_measurement("ablation_effect", effect.divergence, metric, note)]
        if effect.undefined:
            said = f"{rows[0].note}; {effect.undefined} outputs are no numbers and count as worst"
            rows = [rows[0].model_copy(update={"note": said})]
        if effect.loss_increase is not None:
            rows.append(_measurement("ablation_loss", effect.loss_increase, "Δ loss", note))
        found[unit] = tuple(rows)
    return found


def sample_groups(batches: Sequence[Batch]) -> dict[str, torch.Tensor]:
    """Data group -> numbers of its samples over all batches; empty with one group only."""
    found: dict[str, list[torch.Tensor]] = {}
    first = 0
    for batch in batches:
        for group, members in group_members(batch).items():
            found.setdefault(group, []).append(first + members)
        first += batch.size
    return {g: torch.cat(m) for g, m in sorted(found.items())} if len(found) > 1 else {}


def group_measurements(
    effects: Mapping[str, Effect], batches: Sequence[Batch], metric: str, replacement: str
) -> dict[str, dict[str, tuple[Measurement, ...]]]:
    """Data group -> component -> its effect on that group alone."""
    found: dict[str, dict[str, tuple[Measurement, ...]]] = {}
    for group, members in sample_groups(batches).items():
        if len(members) < FEWEST_OF_GROUP:
            continue
        for unit, effect in _parts(effects):
            note = how(effect, replacement)
            row = _measurement("ablation_effect", effect.divergence[members], metric, note)
            found.setdefault(group, {})[unit] = (row,)
    return found


def _parts(effects: Mapping[str, Effect]) -> list[tuple[str, Effect]]:
    """Those of components: a single neuron or channel has no entry of its own in a record."""
    return [
        (unit, effect)
        for unit, effect in effects.items()
        if effect.target.site.kind not in ("neuron", "channel")
    ]


def _measurement(name: str, values: torch.Tensor, unit: str, note: str) -> Measurement:
    values = values.double()
    return Measurement(
        name=name,
        value=float(values.mean()),
        unit=unit,
        std=float(values.std()) if len(values) > 1 else None,
        n=len(values),
        note=f"{note} ablation",
    )
