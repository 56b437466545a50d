"""One pass over the calibration data: what every place is worth, and what its readers see.

Letters: n sample, r row (token or position), o output of a reader, i input of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from zsei.prune.places import Place
from zsei.subject.objective import Objective, probes, readout
from zsei.subject.program import Program
from zsei.subject.types import Batch
from zsei.surgery.rows import real_rows, rows_read, rows_written
from zsei.trace.interpreter import ProgramEngine
from zsei.trace.parallel import side_by_side
from zsei.trace.responses import removal_responses


@dataclass(kw_only=True)
class Moments:
    """Sums over the rows of one reader."""

    rows: int = 0
    products: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Σ_r x xᵀ, [i, i]."""
    total: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Σ_r x, [i]."""
    metric: Tensor = field(default_factory=lambda: torch.zeros(()))
    """Mean over samples and probes of Σ_r g gᵀ, [o, o], g the gradient of a probe of the output."""


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

    squares: list[Tensor]
    moments: list[tuple[int, Tensor, Tensor, Tensor]]


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
    engine = ProgramEngine(program)
    nodes = {node.name: node for node in program.graph_module.graph.nodes}
    readers = {reader.node: reader for place in places for reader in place.readers}

    def one(number: int) -> _Seen:
        batch = batches[number]
        alive: dict[str, Tensor] = {}
        taped = {place.left.site.node for place in places} | set(readers)

        def tape(name: str) -> Callable[[Tensor], Tensor]:
            def see(value: Tensor) -> Tensor:
                if name in taped and not value.requires_grad:
                    value = value.detach().requires_grad_()
                alive[name] = value
                return value

            return see

        names = taped | {reader.source for reader in readers.values()}
        generator = torch.Generator().manual_seed(seed + number)
        squares = [torch.zeros(batch.size, place.left.site.units) for place in places]
        metrics: dict[str, Tensor] = {}
        with torch.enable_grad():
            output = engine.run(batch, {name: tape(name) for name in sorted(names)})
            seen = readout(objective, output, batch)
            order = sorted(taped)
            for draw, scalar in enumerate(probes(objective, seen, batch, draws, generator)):
                found = torch.autograd.grad(
                    scalar.sum(), [alive[name] for name in order],
                    retain_graph=draw < draws - 1, allow_unused=True,
                )  # fmt: skip
                slopes = dict(zip(order, found, strict=True))
                for square, place in zip(squares, places, strict=True):
                    slope = slopes[place.left.site.node]
                    if slope is not None:
                        value = alive[place.left.site.node]
                        response = removal_responses(
                            slope, value, None, place.left.site, None, batch.size
                        )[1]
                        square += response.square() / draws
                for name in readers:
                    slope = slopes[name]
                    if slope is not None:
                        rows = rows_written(slope, nodes[name])
                        metrics[name] = metrics.get(name, 0) + rows.T @ rows / draws
        moments = []
        for name, reader in readers.items():
            x = real_rows(rows_read(nodes[name])(alive[reader.source].detach()), batch)
            metric = metrics.get(name)
            if metric is None:
                width = rows_written(alive[name].detach(), nodes[name]).shape[1]
                metric = torch.zeros(width, width)
            moments.append((len(x), x.T @ x, x.sum(0), metric))
        return _Seen(squares=[square.sum(0) for square in squares], moments=moments)

    sums = [torch.zeros(place.left.site.units, dtype=torch.float64) for place in places]
    found = {name: Moments() for name in readers}
    samples = sum(batch.size for batch in batches)
    # As many batches at a time as there are threads, added in order: sums do not depend on it.
    size = torch.get_num_threads()
    for first in range(0, len(batches), size):
        some = range(first, min(first + size, len(batches)))
        for part in side_by_side(one, some):
            for total, square in zip(sums, part.squares, strict=True):
                total += square
            for moment, (rows, products, total, metric) in zip(
                found.values(), part.moments, strict=True
            ):
                moment.rows += rows
                moment.products = moment.products + products.double()
                moment.total = moment.total + total.double()
                moment.metric = moment.metric + metric.double() / samples
        progress(some[-1] / len(batches))
    return [
        PlaceEvidence(
            sensitivity=total / samples / 2,
            moments=tuple(found[reader.node] for reader in place.readers),
        )
        for place, total in zip(places, sums, strict=True)
    ]
