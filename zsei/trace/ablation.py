"""Exact ablation: what the output does when units are really replaced.

A clean run is restarted from the middle for every replacement (`ProgramEngine.sweep`), which equals
a full run to the bit and costs about half. Source: prefix caching; see also Michel et al., "Are
sixteen heads really better than one?", 2019.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Literal

import torch
from torch import Tensor

from zsei.subject.objective import Objective, divergence, loss, readout
from zsei.subject.types import Batch, Replacement, Site
from zsei.trace.engine import Engine
from zsei.trace.parallel import each

ReplacementName = Literal["mean", "zero", "resample"]


@dataclass(frozen=True, kw_only=True)
class Target:
    """Units to ablate together."""

    site: Site
    units: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Effect:
    """What ablating a target did, per sample."""

    target: Target
    divergence: Tensor
    """[n], in the objective's metric."""
    loss_increase: Tensor | None
    """[n], with labels only."""
    undefined: int = 0
    """Samples on which the ablated output is NaN or infinite: they count as the worst finite ones
    of all targets, since left out they would make what breaks the model look harmless."""


def ablate(
    engine: Engine,
    objective: Objective,
    batches: Iterable[Batch],
    targets: Sequence[Target],
    *,
    means: Mapping[tuple[str, str], Tensor],
    replacement: ReplacementName = "mean",
    seed: int = 0,
    progress: Callable[[float], None] | None = None,
) -> list[Effect]:
    """Ablate each target by itself on all batches; layers are bypassed (identity).

    Args:
        engine: Runs the model.
        objective: Gives the divergence.
        batches: Data; the effect of every sample is kept, so pass as few as the question needs.
        targets: What to ablate.
        means: Mean value per (component, kind), used by "mean".
        replacement: What stands in: the mean, zero, or the value of another sample of the batch.
        seed: Orders the other samples for "resample".
        progress: Called with the share done.
    """
    batches = list(batches)
    done, counting = 0, Lock()

    def one_batch(batch: Batch) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        nonlocal done
        moved: dict[int, Tensor] = {}
        dearer: dict[int, Tensor] = {}
        clean = readout(objective, engine.run(batch), batch)
        base = loss(objective, clean, batch) if objective.supervised else None
        replacements = replacements_of(
            engine, batch, targets, means=means, replacement=replacement, seed=seed
        )
        for index, output in engine.sweep(batch, replacements):
            seen = readout(objective, output, batch)
            moved[index] = divergence(objective, seen, clean, batch)
            if base is not None:
                dearer[index] = loss(objective, seen, batch) - base
            with counting:
                done += 1
                if progress is not None:
                    progress(done / (len(batches) * len(targets)))
        return moved, dearer

    parts = each(one_batch, batches, engine.concurrent)
    moved = [torch.cat([part[i] for part, _ in parts]) for i in range(len(targets))]
    dearer = (
        [torch.cat([part[i] for _, part in parts]) for i in range(len(targets))]
        if objective.supervised
        else []
    )
    return [
        Effect(
            target=target,
            divergence=_settled(moved[i], moved),
            loss_increase=_settled(dearer[i], dearer) if dearer else None,
            undefined=int((~moved[i].isfinite()).sum()),
        )
        for i, target in enumerate(targets)
    ]


def _settled(values: Tensor, everything: Sequence[Tensor]) -> Tensor:
    """`values` with the largest finite number of everything (1 without one) for what is none."""
    if bool(values.isfinite().all()):
        return values
    finite = torch.cat([part[part.isfinite()] for part in everything])
    worst = finite.max() if len(finite) else torch.tensor(1.0)
    return torch.where(values.isfinite(), values, worst.to(values.dtype))


def ablate_together(
    engine: Engine,
    objective: Objective,
    batches: Iterable[Batch],
    targets: Sequence[Target],
    *,
    means: Mapping[tuple[str, str], Tensor],
    replacement: ReplacementName = "mean",
    seed: int = 0,
) -> Tensor:
    """Divergence per sample [n] when all targets are ablated at once.

    Two whole runs a batch. Layers are bypassed: each hands on what then enters it, so bypassing all
    layers of a model is the model without them. Arguments are those of `ablate`.
    """

    def one_batch(batch: Batch) -> Tensor:
        clean = readout(objective, engine.run(batch), batch)
        replacements = replacements_of(
            engine, batch, targets, means=means, replacement=replacement, seed=seed
        )
        edited = readout(objective, engine.together(batch, replacements), batch)
        return divergence(objective, edited, clean, batch)

    moved = torch.cat(each(one_batch, batches, engine.concurrent))
    return _settled(moved, [moved])


def replacements_of(
    engine: Engine,
    batch: Batch,
    targets: Sequence[Target],
    *,
    means: Mapping[tuple[str, str], Tensor],
    replacement: ReplacementName = "mean",
    seed: int = 0,
) -> list[Replacement]:
    """What `Engine.sweep` and `Engine.together` put in for the targets on one batch."""
    values = _resampled(engine, batch, targets, seed) if replacement == "resample" else {}
    return [
        Replacement(
            site=target.site,
            units=target.units,
            value=_substitute(target.site, replacement, means, values),
        )
        for target in targets
    ]


def _substitute(
    site: Site,
    replacement: ReplacementName,
    means: Mapping[tuple[str, str], Tensor],
    values: Mapping[str, Tensor],
) -> Tensor | None:
    """What stands in for the site's value; None bypasses a layer."""
    if site.kind == "layer":
        return None
    if replacement == "resample":
        return values[site.node]
    mean = means[site.component, site.kind]
    return mean if replacement == "mean" else torch.zeros_like(mean)


def _resampled(
    engine: Engine, batch: Batch, targets: Sequence[Target], seed: int
) -> dict[str, Tensor]:
    """The targets' values with the samples of the batch in another order."""
    kept: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(seed)
    # A cyclic shift leaves no sample in its place.
    shift = int(torch.randint(1, max(batch.size, 2), (1,), generator=generator))

    def keep(name: str) -> Callable[[Tensor], None]:
        def see(value: Tensor) -> None:
            kept[name] = value.roll(shift, 0)

        return see

    engine.run(batch, {t.site.node: keep(t.site.node) for t in targets if t.site.kind != "layer"})
    return kept
