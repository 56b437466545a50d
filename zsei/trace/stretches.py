"""Runs a batch with a gradient tape: whole, or, for a streamed model, one layer at a time.

A stretch is a part of the run with its values on the tape. An ordinary engine gives one stretch,
the whole run. A streamed one first runs forward without a tape and keeps what is alive at the
borders of the layers; then it goes back from the last layer to the first, runs each again on a tape
that starts at its border, and carries the gradients across. The tape never holds more than one
layer, for one forward more. Gradients are the same up to the order in which sums are added.

References: Chen, Xu, Zhang and Guestrin, "Training deep nets with sublinear memory cost", 2016.
"""

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from zsei.subject.types import Batch
from zsei.trace.engine import Engine
from zsei.trace.interpreter import Values
from zsei.trace.streamed import StreamedEngine

Gradients = dict[str, Tensor]
Scalars = Callable[[Tensor], list[Tensor]]
"""The main output -> the numbers whose gradients are wanted."""


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """A part of a run."""

    made: dict[str, Tensor]
    """Wanted values made in it."""
    alive: dict[str, Tensor]
    """Those, and wanted values that entered it."""
    calls: dict[str, Tensor]
    """Values only looked at: made in it or entering it."""
    gradients: Iterator[Gradients]
    """For each scalar in turn, the gradients of the values made here that have one."""


def stretches(
    engine: Engine,
    batch: Batch,
    wanted: Collection[str],
    looked_at: Collection[str],
    scalars: Scalars,
) -> Iterator[Stretch]:
    """The run of one batch, in stretches that together hold every wanted value once.

    Args:
        engine: Runs the model.
        batch: The batch.
        wanted: Values whose gradients are wanted.
        looked_at: Further values to show, without gradients.
        scalars: Called once with the output, on a tape.
    """
    if isinstance(engine, StreamedEngine) and len(engine.spans) > 1:
        yield from _backwards(engine, batch, wanted, looked_at, scalars)
        return
    seen = _Seen(wanted, looked_at)
    with torch.enable_grad():
        sums = scalars(engine.run(batch, seen.watch()))
    names = [name for name, value in seen.made.items() if value.requires_grad]
    tensors = [seen.made[name] for name in names]
    yield Stretch(
        made=seen.made, alive=seen.made, calls=seen.calls, gradients=_each(sums, names, tensors)
    )


class _Seen:
    """Collects the values a run passes, and starts the tape at the first one wanted."""

    def __init__(self, wanted: Collection[str], looked_at: Collection[str]):
        self.wanted, self.looked_at = set(wanted), set(looked_at)
        self.made: dict[str, Tensor] = {}
        self.calls: dict[str, Tensor] = {}

    def watch(self) -> dict[str, Callable[[Tensor], Tensor | None]]:
        """What to give an engine's run."""
        names = sorted(self.wanted | self.looked_at)
        return {name: lambda value, name=name: self.see(name, value) for name in names}

    def see(self, name: str, value: Tensor) -> Tensor | None:
        """Take note of a value; one that is wanted goes on the tape."""
        if name in self.looked_at:
            self.calls[name] = value.detach()
        if name not in self.wanted or not isinstance(value, Tensor):
            return None
        if not value.requires_grad and value.is_floating_point():
            value = value.detach().requires_grad_()
        self.made[name] = value
        return value


def _each(sums: list[Tensor], names: list[str], tensors: list[Tensor]) -> Iterator[Gradients]:
    for number, scalar in enumerate(sums):
        if not scalar.requires_grad:  # nothing that is wanted leads to it
            yield {}
            continue
        last = number == len(sums) - 1
        found = torch.autograd.grad(scalar, tensors, retain_graph=not last, allow_unused=True)
        yield {n: g for n, g in zip(names, found, strict=True) if g is not None}


def _backwards(
    engine: StreamedEngine, batch: Batch, wanted: Collection[str], looked_at: Collection[str],
    scalars: Scalars,
) -> Iterator[Stretch]:  # fmt: skip
    tracked = _tracked(engine, set(wanted))
    borders, output = _forward(engine, batch)
    carried = _of_output(engine.output, output, scalars)
    del output
    for span, border in zip(reversed(engine.spans), reversed(borders), strict=True):
        entering = {
            name: value.requires_grad_() if name in tracked else value
            for name, value in border.items()
        }
        seen = _Seen(wanted, looked_at)
        values = {**engine.constants, **_inputs(engine, batch), **entering}
        with torch.enable_grad():
            watch = seen.watch()
            if span.start == 0:
                values |= {n: _seen_input(watch, n, values[n]) for n in engine.inputs}
            engine.run_span(span, values, watch)
        before: list[Gradients] = []
        yield Stretch(
            made=seen.made,
            alive={n: v for n, v in entering.items() if n in wanted} | seen.made,
            calls={n: v.detach() for n, v in border.items() if n in seen.looked_at} | seen.calls,
            gradients=_span_gradients(values, entering, seen.made, tracked, carried, before),
        )
        engine.give_back(span)
        carried = before


def _seen_input(
    watch: dict[str, Callable[[Tensor], Tensor | None]], name: str, value: Tensor
) -> Tensor:
    substitute = watch[name](value) if name in watch else None
    return value if substitute is None else substitute


def _inputs(engine: StreamedEngine, batch: Batch) -> Values:
    return dict(zip(engine.inputs, batch.inputs, strict=True))


def _forward(engine: StreamedEngine, batch: Batch) -> tuple[list[dict[str, Tensor]], Tensor]:
    """What enters each span, and the output; no tape."""
    borders = []
    with torch.no_grad():
        values: Values = {**engine.constants, **_inputs(engine, batch)}
        for span in engine.spans:
            borders.append({name: values[name].detach() for name in span.entering})
            engine.run_span(span, values, {})
    return borders, values[engine.output]


def _of_output(name: str, output: Tensor, scalars: Scalars) -> list[Gradients]:
    """Gradient of each scalar with respect to the output."""
    with torch.enable_grad():
        leaf = output.detach().requires_grad_()
        sums = scalars(leaf)
        return [dict(found) for found in _each(sums, [name], [leaf])]


def _span_gradients(
    values: Values, entering: dict[str, Tensor], made: dict[str, Tensor], tracked: set[str],
    carried: list[Gradients], before: list[Gradients],
) -> Iterator[Gradients]:  # fmt: skip
    """Gradients of a span's values for each scalar; `before` takes those that go on in front."""
    inner = [name for name, value in made.items() if value.requires_grad]
    front = [name for name in entering if name in tracked]
    tensors = [made[name] for name in inner] + [entering[name] for name in front]
    for number, behind in enumerate(carried):
        # What only passes through keeps the gradient it has behind the span.
        passing = {name: behind[name] for name in front if name in behind}
        ends = [n for n in behind if n not in passing and values[n].requires_grad]
        found: tuple[Tensor | None, ...] = (None,) * len(tensors)
        if ends and tensors:
            found = torch.autograd.grad(
                [values[name] for name in ends], tensors, [behind[name] for name in ends],
                retain_graph=number < len(carried) - 1, allow_unused=True,
            )  # fmt: skip
        for name, gradient in zip(front, found[len(inner) :], strict=True):
            known = passing.get(name)
            if gradient is not None:
                passing[name] = gradient if known is None else known + gradient
        before.append(passing)
        yield {n: g for n, g in zip(inner, found[: len(inner)], strict=True) if g is not None}


def _tracked(engine: StreamedEngine, wanted: set[str]) -> set[str]:
    """Values on the tape: wanted ones, and what is computed from them."""
    found: set[str] = set()
    for name, node in engine.nodes.items():
        value = node.meta.get("val")
        if isinstance(value, Tensor) and not value.is_floating_point():
            continue
        if (name in wanted and node.op != "get_attr") or any(
            a.name in found for a in node.all_input_nodes
        ):
            found.add(name)
    return found
