"""One pass over the calibration data: what every place is worth, and what its readers see.

Letters: n sample, r row (token or position), o output of a reader, i input of it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from zsei.pruning.places import Place
from zsei.subject.objective import Objective, probes, readout
from zsei.subject.program import Program
from zsei.subject.types import Batch
from zsei.surgery.readers import Reader
from zsei.surgery.rows import rows_read, rows_written
from zsei.trace.interpreter import ProgramEngine
from zsei.trace.parallel import few_at_a_time
from zsei.trace.responses import attribution
from zsei.trace.rows import real_rows


@dataclass(kw_only=True)
class Moments:
    """Sums over the rows of one reader, in single precision: they order units, no more."""

    rows: int
    products: Tensor
    """Σ_r x xᵀ, [i, i]."""
    metric: Tensor
    """Mean over probes of Σ_r g gᵀ, [o, o], g the gradient of a probe of the output."""
    samples: int

    def add(self, x: Tensor, metric: Tensor, samples: int) -> None:
        """Take in the rows x [r, i] of further samples, without a second matrix beside the sum."""
        self.rows += len(x)
        self.samples += samples
        self.products.addmm_(x.T, x)
        self.metric += metric


@dataclass(frozen=True, kw_only=True)
class PlaceEvidence:
    """What a pass says of one place."""

    sensitivity: Tensor
    """Half the mean squared response to zero in place of each unit, [units left]: the divergence it
    is predicted to cause (for relative L2 half the square of it, which adds up where the distance
    itself does not)."""
    moments: tuple[Moments, ...]
    """One per reader of the place."""


@dataclass(frozen=True, kw_only=True)
class _Seen:
    """What one batch adds."""

    samples: int
    squares: list[Tensor]
    rows: dict[str, tuple[Tensor, Tensor]]
    """Reader -> (rows [r, i], metric of these samples [o, o])."""


def gather(
    program: Program,
    objective: Objective,
    places: Sequence[Place],
    batches: Sequence[Batch],
    *,
    draws: int,
    seed: int,
    progress: Callable[[float], None] = lambda share: None,
) -> list[PlaceEvidence]:
    """Run the data through a program once, with one way back per probe.

    Args:
        program: The program, edited or not.
        objective: Gives the probes of its output.
        places: Where it could be cut.
        batches: Calibration data.
        draws: Probes per batch.
        seed: Draws the probes.
        progress: Called with the share done.
    """
    look = _Pass(
        engine=ProgramEngine(program),
        nodes={node.name: node for node in program.graph_module.graph.nodes},
        objective=objective,
        places=tuple(places),
        readers={reader.node: reader for place in places for reader in place.readers},
        draws=draws,
    )
    sums = [torch.zeros(place.left.site.units, dtype=torch.float64) for place in places]
    found: dict[str, Moments] = {}
    samples = sum(batch.size for batch in batches)
    parts = few_at_a_time(lambda i: look.of(batches[i], seed + i), range(len(batches)))
    for number, part in parts:
        for total, square in zip(sums, part.squares, strict=True):
            total += square
        for name, (x, metric) in part.rows.items():
            if name not in found:
                found[name] = Moments(
                    rows=0, samples=0, products=x.new_zeros(x.shape[1], x.shape[1]),
                    metric=torch.zeros_like(metric),
                )  # fmt: skip
            found[name].add(x, metric, part.samples)
        progress(number / len(batches))
    return [
        PlaceEvidence(
            sensitivity=total / samples / 2,
            moments=tuple(found[reader.node] for reader in place.readers),
        )
        for place, total in zip(places, sums, strict=True)
    ]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Pass:
    """How one batch is looked at."""

    engine: ProgramEngine
    nodes: Mapping[str, fx.Node]
    objective: Objective
    places: tuple[Place, ...]
    readers: Mapping[str, Reader]
    draws: int

    def of(self, batch: Batch, seed: int) -> _Seen:
        """What one batch adds."""
        alive, scalars = self._forward(batch, torch.Generator().manual_seed(seed))
        taped = sorted(self._taped())
        squares = [torch.zeros(batch.size, place.left.site.units) for place in self.places]
        metrics: dict[str, Tensor] = {}
        for draw, scalar in enumerate(scalars):
            slopes = dict(zip(taped, torch.autograd.grad(
                scalar, [alive[name] for name in taped],
                retain_graph=draw < self.draws - 1, allow_unused=True,
            ), strict=True))  # fmt: skip
            for square, place in zip(squares, self.places, strict=True):
                site = place.left.site
                slope = slopes[site.node]
                if slope is not None:
                    zeroed = attribution(slope, alive[site.node], site, batch.size)
                    square += zeroed.square() / self.draws
            for name in self.readers:
                slope = slopes[name]
                if slope is not None:
                    rows = rows_written(slope, self.nodes[name])
                    metrics[name] = metrics.get(name, 0) + rows.T @ rows / self.draws
        seen: dict[str, tuple[Tensor, Tensor]] = {}
        for name, reader in self.readers.items():
            x = real_rows(rows_read(self.nodes[name])(alive[reader.source].detach()), batch.mask)
            width = rows_written(alive[name].detach(), self.nodes[name]).shape[1]
            seen[name] = x, metrics.get(name, torch.zeros(width, width))
        return _Seen(samples=batch.size, squares=[square.sum(0) for square in squares], rows=seen)

    def _taped(self) -> set[str]:
        return {place.left.site.node for place in self.places} | set(self.readers)

    def _forward(
        self, batch: Batch, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], list[Tensor]]:
        """The values of one batch with their graph, and one number per probe."""
        alive: dict[str, Tensor] = {}
        taped = self._taped()

        def tape(name: str) -> Callable[[Tensor], Tensor]:
            def see(value: Tensor) -> Tensor:
                if name in taped and not value.requires_grad:
                    value = value.detach().requires_grad_()
                alive[name] = value
                return value

            return see

        names = taped | {reader.source for reader in self.readers.values()}
        with torch.enable_grad():
            output = self.engine.run(batch, {name: tape(name) for name in sorted(names)})
            seen = readout(self.objective, output, batch)
            scalars = probes(self.objective, seen, batch, self.draws, generator)
            return alive, [scalar.sum() for scalar in scalars]
