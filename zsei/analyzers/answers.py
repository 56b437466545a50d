"""What the output does under ablation, sample by sample: how far it moves, and which way."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from zsei.analyzers.context import Analysis
from zsei.analyzers.shares import additive
from zsei.subject.objective import divergence, readout
from zsei.subject.types import Batch, Replacement, Site
from zsei.trace.ablation import Target, replacements_of

MOST_ENTRIES = 4096
"""Entries of an output value that are looked at, evenly spread."""
NOISE = 0.1
"""Standard deviation of input noise, in RMS of what it is added to."""


@dataclass(frozen=True, kw_only=True)
class Moved:
    """What ablating some targets at once did to the output."""

    effect: Tensor
    """[n], on the scale on which independent effects add up."""
    shift: Tensor
    """[n, k]: change of what decides. Logits: log probability of the original's choice at every
    position; embeddings and values: the readout itself."""


def moved(analysis: Analysis, sets: Sequence[Sequence[Target]]) -> list[Moved]:
    """Ablate every set of targets at once, each at a site of its own; one clean run for all."""
    effects: list[list[Tensor]] = [[] for _ in sets]
    shifts: list[list[Tensor]] = [[] for _ in sets]
    objective = analysis.subject.objective
    with torch.no_grad():
        for batch in analysis.importance.batches:
            clean = readout(objective, analysis.engine.run(batch), batch)
            before = _answer(analysis, clean, clean, batch)
            for index, targets in enumerate(sets):
                output = analysis.engine.together(batch, _replacements(analysis, batch, targets))
                seen = readout(objective, output, batch)
                effects[index].append(divergence(objective, seen, clean, batch))
                shifts[index].append(_answer(analysis, seen, clean, batch) - before)
    found = []
    for effect, shift in zip(effects, shifts, strict=True):
        whole = torch.as_tensor(additive(objective, torch.cat(effect).double()))
        found.append(Moved(effect=whole, shift=torch.cat(shift).double()))
    return found


def same_way(first: Moved, second: Moved) -> float | None:
    """decision_similarity: cosine of two shifts over samples, -1 to 1; None where one is zero.

    Formula: Σ_n ⟨s_a[n], s_b[n]⟩ / √(Σ_n ‖s_a[n]‖² Σ_n ‖s_b[n]‖²).
    """
    bottom = float(first.shift.norm() * second.shift.norm())
    return float((first.shift * second.shift).sum()) / bottom if bottom > 1e-20 else None


def noise_effects(analysis: Analysis, sets: Sequence[Sequence[Target]]) -> list[Tensor] | None:
    """How far Gaussian noise on the input moves the output with each set ablated, [n], additive.

    The noise is added to real-valued inputs, or else to what the largest embedding writes, with a
    tenth of its RMS; it is the same for every set. None where there is neither.
    """
    found: list[list[Tensor]] = [[] for _ in sets]
    objective = analysis.subject.objective
    generator = torch.Generator().manual_seed(analysis.settings.seed)
    with torch.no_grad():
        for batch in analysis.importance.batches:
            noisy = _noisy(analysis, batch, generator)
            if noisy is None:
                return None
            shaken, extra = noisy
            for index, targets in enumerate(sets):
                ablated = _replacements(analysis, batch, targets)
                clean = readout(objective, analysis.engine.together(batch, ablated), batch)
                output = analysis.engine.together(shaken, [*ablated, *extra])
                seen = readout(objective, output, batch)
                found[index].append(divergence(objective, seen, clean, batch))
    return [torch.as_tensor(additive(objective, torch.cat(f).double())) for f in found]


def merged(analysis: Analysis, site: Site, groups: Sequence[Sequence[int]]) -> Tensor:
    """Effect per sample [n], additive, when the first unit of each group stands in for the others.

    Every other unit becomes the linear function of the first that fits it best on these samples:
    what merging makes of it.
    """
    axis = site.axis or 0
    first = [group[0] for group in groups for _ in group[1:]]
    other = [unit for group in groups for unit in group[1:]]
    values: list[Tensor] = []
    clean: list[Tensor] = []
    objective, batches = analysis.subject.objective, analysis.importance.batches
    with torch.no_grad():
        for batch in batches:
            seen = analysis.engine.run(
                batch, {site.node: lambda value: values.append(value.movedim(axis, -1))}
            )
            clean.append(readout(objective, seen, batch))
        x, y = (
            torch.cat([v[..., units].reshape(-1, len(units)) for v in values]).double()
            for units in (first, other)
        )
        slope = ((x - x.mean(0)) * y).mean(0) / (x - x.mean(0)).square().mean(0).clamp_min(1e-30)
        offset = y.mean(0) - slope * x.mean(0)

        def exchange(value: Tensor) -> Tensor:
            moved = value.movedim(axis, -1).clone()
            moved[..., other] = moved[..., first] * slope.to(value) + offset.to(value)
            return moved.movedim(-1, axis)

        found = []
        for batch, before in zip(batches, clean, strict=True):
            seen = readout(objective, analysis.engine.run(batch, {site.node: exchange}), batch)
            found.append(divergence(objective, seen, before, batch))
    return torch.as_tensor(additive(objective, torch.cat(found).double()))


def _replacements(analysis: Analysis, batch: Batch, targets: Sequence[Target]) -> list[Replacement]:
    return replacements_of(
        analysis.engine, batch, targets, means=analysis.trace.means,
        replacement=analysis.settings.replacement, seed=analysis.settings.seed,
    )  # fmt: skip


def _answer(analysis: Analysis, seen: Tensor, clean: Tensor, batch: Batch) -> Tensor:
    """What decides, per sample [n, k]."""
    if analysis.subject.objective.output != "logits":
        flat = seen.flatten(1)
        return flat[:, :: max(1, flat.shape[1] // MOST_ENTRIES)]
    chosen = clean.argmax(-1, keepdim=True)
    answer = seen.log_softmax(-1).gather(-1, chosen)[..., 0]
    if batch.mask is not None and batch.mask.shape == answer.shape:
        answer = answer * batch.mask
    return answer.reshape(len(seen), -1)


def _noisy(
    analysis: Analysis, batch: Batch, generator: torch.Generator
) -> tuple[Batch, list[Replacement]] | None:
    """(batch with noise on its real-valued inputs, or what to put in for an embedding)."""
    real = [x.is_floating_point() and bool(x.any()) for x in batch.inputs]
    if any(real):
        inputs = tuple(
            _shaken(x, generator) if noise else x
            for x, noise in zip(batch.inputs, real, strict=True)
        )
        return replace(batch, inputs=inputs), []
    embeddings = [c for c in analysis.subject.anatomy.components if c.kind == "embedding"]
    if not embeddings:
        return None
    largest = max(embeddings, key=lambda c: c.bytes)
    kept: list[Tensor] = []
    node = analysis.subject.anatomy.outputs[largest.id]
    analysis.engine.run(batch, {node: lambda value: kept.append(value.detach())})
    if not kept:
        return None
    site = Site(component=largest.id, kind="branch", node=node, axis=None, units=1)
    noisy = _shaken(kept[0], generator)
    return batch, [Replacement(site=site, units=(0,), value=noisy)]


def _shaken(value: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(value.shape, generator=generator, dtype=torch.float32).to(value.dtype)
    return value + NOISE * value.square().mean().sqrt() * noise
