"""The values and gradients that edges are worked out from, whole, for a few samples.

The evidence pass keeps them for samples spread over its batches; `whole_run` makes a pass of
its own over a batch. Everything is turned into rows [N, c]: N = samples x positions, sample first,
so that rows of one stream fit each other whatever shape the program gives them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, fx

from zsei.subject.objective import Objective, loss, readout
from zsei.subject.objective import probes as draw
from zsei.subject.reading import shape
from zsei.subject.types import Batch
from zsei.trace.edge_readers import Reader
from zsei.trace.edge_stream import Stream, Writer
from zsei.trace.engine import Engine

WHOLE_SAMPLES = 8
"""Samples that the evidence pass keeps whole."""


@dataclass(frozen=True, kw_only=True)
class WholeTaps:
    """Nodes to keep: node -> axis of its value along which the samples lie; None: shared by all."""

    values: Mapping[str, int | None] = field(default_factory=dict)
    gradients: Mapping[str, int | None] = field(default_factory=dict)


@dataclass
class Whole:
    """What was kept of some samples."""

    samples: int = 0
    total: int = 0
    """Samples of the batch."""
    mask: Tensor | None = None
    """[n, t], as the batch's."""
    values: dict[str, Tensor] = field(default_factory=dict)
    gradients: list[dict[str, Tensor]] = field(default_factory=list)
    """One per scalar: of the loss, or of each probe without labels."""
    shared: frozenset[str] = frozenset()
    """Nodes whose values all samples share."""
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes of nodes whose values are not kept."""


def whole_taps(
    stream: Stream, readers: Sequence[Reader], attended: Iterable[fx.Node] = ()
) -> WholeTaps:
    """What the edges of a stream need, and what its attentions saw."""
    values: dict[str, int | None] = {node.name: 0 if shape(node)[0] > 1 else None
                                     for node in attended}  # fmt: skip
    values |= {reader.place: 0 for reader in readers}
    values |= {name: 0 for name, place in stream.places.items() if place.kind == "sum"}
    values |= {n.watched: 0 for n in stream.norms.values() if n.watched is not None}
    values |= {w.node: None if w.shared else 0 for w in stream.writers if w.node is not None}
    gradients = {e.node: int(e.time_first) for reader in readers for e in reader.entries}
    return WholeTaps(values=values, gradients=gradients)


def take(value: Tensor, samples: int, total: int, axis: int | None) -> Tensor:
    """Samples of a value, evenly spread over the batch, sample first.

    Args:
        value: The whole value; its first axis may fold positions into the samples.
        samples: Samples to keep.
        total: Samples of the batch.
        axis: Where the samples lie; None keeps all of a value that all samples share.
    """
    value = value.detach()
    if axis is None:
        return value
    if axis:
        value = value.transpose(0, axis)
    if samples == total:
        return value
    chosen = torch.linspace(0, total - 1, samples).round().long()
    return value.unflatten(0, (total, -1))[chosen].flatten(0, 1)


def share_of(number: int, batches: int, samples: int = WHOLE_SAMPLES) -> int:
    """How many of `samples` come from batch `number`, so that all batches have a like part."""
    return samples * (number + 1) // batches - samples * number // batches


def joined_whole(parts: Sequence[Whole]) -> Whole:
    """What was kept of several batches of one shape, as if of one."""
    parts = [part for part in parts if part.samples]
    if len(parts) < 2:
        return parts[0] if parts else Whole()
    first = parts[0]
    masks = [part.mask for part in parts if part.mask is not None]
    return Whole(
        samples=sum(part.samples for part in parts),
        total=first.total,
        mask=torch.cat(masks) if len(masks) == len(parts) else None,
        shared=first.shared,
        values={
            name: value if name in first.shared else torch.cat([p.values[name] for p in parts])
            for name, value in first.values.items()
        },
        gradients=[
            {name: torch.cat([p.gradients[i][name] for p in parts]) for name in found}
            for i, found in enumerate(first.gradients)
        ],
    )


def keep_values(
    whole: Whole, taps: WholeTaps, alive: Mapping[str, Tensor], batch: Batch, samples: int
) -> None:
    """Keep the values of some samples."""
    if not taps.values or not samples:
        return
    whole.samples, whole.total = min(samples, batch.size), batch.size
    whole.mask = None if batch.mask is None else take(batch.mask, whole.samples, batch.size, 0)
    whole.shared = frozenset(name for name, axis in taps.values.items() if axis is None)
    for name, axis in taps.values.items():
        if name in alive:
            whole.values[name] = take(alive[name], whole.samples, batch.size, axis)


def keep_gradients(
    whole: Whole, taps: WholeTaps, found: Mapping[str, Tensor], batch: Batch, number: int = 0
) -> None:
    """Keep the gradients of scalar `number` for the samples whose values were kept."""
    if not whole.samples:
        return
    kept = {
        name: take(found[name], whole.samples, batch.size, axis)
        for name, axis in taps.gradients.items()
        if name in found
    }
    whole.gradients += [{} for _ in range(number + 1 - len(whole.gradients))]
    whole.gradients[number].update(kept)


def whole_run(
    engine: Engine,
    taps: WholeTaps,
    objective: Objective,
    batch: Batch,
    *,
    probes: int = 1,
    seed: int = 0,
    samples: int | None = None,
) -> Whole:
    """A forward and a backward of one batch (with probes: a backward each), kept whole.

    Args:
        engine: Runs the model.
        taps: What to keep.
        objective: With labels its loss is differentiated, without them `probes` random directions.
        batch: Data.
        probes: Output directions; none are drawn with labels.
        seed: Seeds them.
        samples: Samples to keep; None keeps all.
    """
    alive: dict[str, Tensor] = {}

    def tape(name: str):
        def see(value: Tensor) -> Tensor | None:
            if not value.requires_grad and value.is_floating_point():
                value = value.detach().requires_grad_()
            alive[name] = value
            return value

        return see

    generator = torch.Generator().manual_seed(seed)
    whole = Whole()
    with torch.enable_grad():
        output = engine.run(batch, {name: tape(name) for name in {*taps.values, *taps.gradients}})
        seen = readout(objective, output, batch)
        if objective.supervised:
            scalars = [loss(objective, seen, batch).sum()]
        else:
            scalars = [s.sum() for s in draw(objective, seen, batch, probes, generator)]
        keep_values(whole, taps, alive, batch, samples or batch.size)
        names = [name for name in taps.gradients if name in alive]
        for number, scalar in enumerate(scalars):
            found = torch.autograd.grad(
                scalar, [alive[name] for name in names], allow_unused=True,
                retain_graph=number < len(scalars) - 1,
            )  # fmt: skip
            known = {n: g for n, g in zip(names, found, strict=True) if g is not None}
            keep_gradients(whole, taps, known, batch, number)
    return whole


def rows(value: Tensor) -> Tensor:
    """A value [n, ..., c] as rows [N, c]."""
    return value.reshape(-1, value.shape[-1])


def written(writer: Writer, whole: Whole) -> Tensor:
    """What a writer's node holds: heads side by side [N, h · w], or what is added, [N, d].

    A value shared by samples or positions is repeated for each of them.
    """
    value = writer.constant if writer.node is None else whole.values[writer.node]
    assert value is not None
    if writer.weight is not None:
        return value.transpose(1, 2).reshape(-1, value.shape[1] * value.shape[3])
    if writer.shared:
        first = writer.lead[0] // whole.total * whole.samples
        value = value.expand(first, *writer.lead[1:], value.shape[-1])
    return rows(value)
