"""Sums over the calibration data that fits are made of: one pass, no activation kept."""

from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from zsei.subject.types import Batch, Subject
from zsei.surgery.calls import tensor_of
from zsei.surgery.edits import FactoriseLinear, ReplaceLayer
from zsei.surgery.factorise import linear_at, linear_of
from zsei.surgery.least_squares import LeastSquares
from zsei.surgery.replace_layer import find_ends, rows_of
from zsei.trace.engine import Engine, engine_for
from zsei.trace.rows import real_rows

See = Callable[[Mapping[str, Tensor], Batch], None]


def passed_over(engine: Engine, batches: Iterable[Batch], names: Iterable[str], see: See) -> None:
    """Run batches once; `see` gets the named values of each."""
    wanted = tuple(dict.fromkeys(names))
    for batch in batches:
        values: dict[str, Tensor] = {}

        def keep(name: str, values: dict[str, Tensor] = values) -> Callable[[Tensor], None]:
            return lambda value: values.__setitem__(name, value.detach())

        with torch.no_grad():
            engine.run(batch, {name: keep(name) for name in wanted})
        see(values, batch)


def exact_rows(value: Tensor, batch: Batch) -> Tensor:
    """A value [..., c] as rows [r, c] in double precision, without those of padding."""
    return real_rows(value.flatten(0, -2), batch.mask).double()


def inputs_of(subject: Subject, edits: Sequence[FactoriseLinear]) -> dict[str, LeastSquares]:
    """Sums over what each linear reads, in all its calls, by the name of its first input."""
    assert subject.program is not None
    module = subject.program.graph_module
    sources: dict[str, tuple[str, ...]] = {}
    sizes: dict[str, int] = {}
    for edit in edits:
        _, linear = linear_at(module, edit)
        tensor = tensor_of(module, linear.weight)
        calls = [linear_of(node) for node in module.graph.nodes if node.op == "call_function"]
        same = [c for c in calls if c is not None and tensor_of(module, c.weight) is tensor]
        sources[linear.source.name] = tuple(call.source.name for call in same)
        sizes[linear.source.name] = linear.matrix(module).shape[1]
    sums = {name: LeastSquares(size, 0) for name, size in sizes.items()}

    def see(values: Mapping[str, Tensor], batch: Batch) -> None:
        for name, own in sources.items():
            for source in own:
                rows = exact_rows(values[source], batch)
                sums[name].add(rows, rows[:, :0])

    names = (name for own in sources.values() for name in own)
    passed_over(engine_for(subject), subject.calibration, names, see)
    return sums


def layer_halves(
    subject: Subject, edits: Sequence[ReplaceLayer]
) -> list[tuple[LeastSquares, LeastSquares]]:
    """For each layer sums over what enters and leaves it, of every other sample and of the rest."""
    assert subject.program is not None
    all_ends = [find_ends(subject.program, edit) for edit in edits]
    found = [
        (LeastSquares(ends.inputs, ends.outputs), LeastSquares(ends.inputs, ends.outputs))
        for ends in all_ends
    ]

    def see(values: Mapping[str, Tensor], batch: Batch) -> None:
        for ends, halves in zip(all_ends, found, strict=True):
            x, y = rows_of(values[ends.source], values[ends.output], ends)
            for half, sums in enumerate(halves):
                part = _every_other(batch, half)
                sums.add(exact_rows(x[half::2], part), exact_rows(y[half::2], part))

    names = (name for ends in all_ends for name in (ends.source, ends.output))
    passed_over(engine_for(subject), subject.calibration, names, see)
    return found


def _every_other(batch: Batch, start: int) -> Batch:
    mask = None if batch.mask is None else batch.mask[start::2]
    return Batch(inputs=tuple(tensor[start::2] for tensor in batch.inputs), mask=mask)
