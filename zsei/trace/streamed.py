"""Runs a streamed model's program layer by layer, and hands each layer's weights back behind it.

A program is cut into spans at the borders of the repeated blocks. What is alive at a border (the
residual stream, positions, masks) is all that a later span needs, so each span can be run again by
itself: forward for many ablations at once, backward with a gradient tape over one layer only.
Values are those of an ordinary run, call by call; only the order of the calls of different
ablations changes.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, fx

from zsei.subject.program import Program
from zsei.subject.streamed import MappedWeights
from zsei.subject.types import Anatomy, Batch, Replacement, Watch
from zsei.trace.engine import Engine
from zsei.trace.interpreter import ProgramEngine, Values, branch_at, call, drop
from zsei.trace.taps import Taps

FEWEST_ROWS = 32
"""Rows below which ranks and similarities would say nothing."""


@dataclass(frozen=True, kw_only=True)
class Span:
    """Consecutive steps of a program that are run together."""

    start: int
    end: int
    """Steps [start, end)."""
    constants: tuple[str, ...]
    """Names of the weights its steps read."""
    entering: tuple[str, ...]
    """Names of values made before that are read in it or after it; inputs and weights left out."""


class StreamedEngine(ProgramEngine):
    """The interpreter of one program whose weights are mapped from a file."""

    concurrent: bool = False
    """Weights in a mapped file are read once for all that needs them; two runs would fight."""

    def __init__(self, program: Program, anatomy: Anatomy, mapped: MappedWeights):
        super().__init__(program)
        self.mapped = mapped
        nodes = {node.name: node for node in program.graph_module.graph.nodes}
        self.nodes: Mapping[str, fx.Node] = nodes
        self.spans = _spans(self, anatomy)

    def run(self, batch: Batch, watch: Watch | None = None) -> Tensor:
        """The main output for a batch; `watch` sees (and may replace) the values it names."""
        values = self.start(batch, watch)
        for span in self.spans:
            self.run_span(span, values, watch or {})
        return values[self.output]

    def run_span(self, span: Span, values: Values, watch: Watch) -> None:
        """Run one span in place and give back the weights it read."""
        self.proceed(values, span.start, watch, span.end)
        self.give_back(span)

    def give_back(self, span: Span) -> None:
        """Give back the memory of a span's weights."""
        self.mapped.release(self.constants[name] for name in span.constants)

    def sweep(
        self, batch: Batch, replacements: Sequence[Replacement]
    ) -> Iterator[tuple[int, Tensor]]:
        """One clean run, and every replacement beside it from its site on: a span's weights are
        read once for all of them. Outputs come after the last span, in the order of the sites.
        """
        waiting, kept = self._plan(replacements)
        running: list[tuple[int, Values]] = []
        with torch.no_grad():
            values = self.start(batch, None)
            for span in self.spans:
                last = span is self.spans[-1]
                while running and last:
                    index, branch = running.pop(0)
                    self.proceed(branch, span.start, {}, span.end)
                    yield index, branch[self.output]
                for _, branch in running:
                    self.proceed(branch, span.start, {}, span.end)
                for position in range(span.start, span.end):
                    step = self.steps[position]
                    values[step.name] = call(step, values)
                    for index in waiting.get(step.name, ()):
                        branch = branch_at(step, values, replacements[index])
                        self.proceed(branch, position + 1, {}, span.end)
                        if last:
                            yield index, branch[self.output]
                        else:
                            # What only the clean run keeps must not stay alive in every branch.
                            alive = set(self.spans[self.spans.index(span) + 1].entering)
                            branch = {n: v for n, v in branch.items() if n in alive}
                            running.append((index, self._with_constants(batch, branch)))
                    drop(values, [d for d in step.drops if kept.get(d, -1) <= position])
                self.give_back(span)

    def _with_constants(self, batch: Batch, values: Values) -> Values:
        return {**self.constants, **dict(zip(self.inputs, batch.inputs, strict=True)), **values}

    def seconds(self, batch: Batch, repeats: int) -> Mapping[str, float]:
        """Seconds per call in one run: a large model's calls are long, and a run is dear.

        Reading the weights from the file counts with the call that reads them.
        """
        found: dict[str, float] = {}
        with torch.no_grad():
            values = self.start(batch, None)
            for span in self.spans:
                for step in self.steps[span.start : span.end]:
                    begin = time.perf_counter()
                    values[step.name] = call(step, values)
                    found[step.name] = time.perf_counter() - begin
                    drop(values, step.drops)
                self.give_back(span)
        return found


def clock_repeats(engine: Engine) -> int:
    """How often a run is timed."""
    return 1 if isinstance(engine, StreamedEngine) else 3


def rows_within(taps: Taps, engine: Engine, wanted: int) -> tuple[int, tuple[str, ...]]:
    """How many rows of every value a streamed analysis can keep, and what a reader should know.

    Rows and their gradients may take half of what is left of the memory beside two copies of the
    largest weight. Halved until they fit, so that a little less memory does not change a record.
    """
    if not isinstance(engine, StreamedEngine):
        return wanted, ()
    largest = max(_size(weight) for weight in engine.constants.values()) / 1e9
    room = max(engine.mapped.memory - 2 * largest, 0.1) / 2
    channels = sum(_channels(engine.nodes[name], axis) for name, axis in taps.values.items())
    rows = wanted
    while rows > FEWEST_ROWS and 2 * 4 * channels * rows / 1e9 > room:
        rows //= 2
    if rows == wanted:
        return rows, ()
    note = f"{rows} rows of every value were kept instead of {wanted}: more do not fit into memory."
    return rows, (note,)


def _size(value: object) -> int:
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


def _channels(node: fx.Node, axis: int) -> int:
    shape = node.meta["val"].shape
    if len(shape) == 4 and axis == -1:
        return shape[1] * shape[3]
    return shape[axis] if shape else 1


def _spans(engine: StreamedEngine, anatomy: Anatomy) -> tuple[Span, ...]:
    """The steps cut before and behind every layer; one span where there are no layers."""
    position = engine.position
    ranges = []
    for component in anatomy.components:
        if component.kind == "layer":
            inside = [position[n] for n in anatomy.nodes[component.id] if n in position]
            if inside:
                ranges.append((min(inside), max(inside) + 1))
    edges = sorted({edge for pair in ranges for edge in pair})
    last_read = _last_reads(engine)
    made = {name: -1 for name in engine.inputs} | position
    cuts = [0]
    for edge in edges:
        torn = any(low < edge < high for low, high in ranges)
        whole = all(
            isinstance(engine.nodes[name].meta.get("val"), Tensor)
            for name in _alive(edge, made, last_read)
        )
        if 0 < edge < len(engine.steps) and not torn and whole:
            cuts.append(edge)
    cuts.append(len(engine.steps))
    spans = []
    for start, end in pairwise(cuts):
        read = {
            argument.name
            for step in engine.steps[start:end]
            for argument in engine.nodes[step.name].all_input_nodes
            if argument.name in engine.constants
        }
        entering = tuple(n for n in _alive(start, made, last_read) if n not in engine.inputs)
        spans.append(Span(start=start, end=end, constants=tuple(sorted(read)), entering=entering))
    return tuple(spans)


def _last_reads(engine: StreamedEngine) -> dict[str, int]:
    last = {engine.output: len(engine.steps)}
    for i, step in enumerate(engine.steps):
        for argument in engine.nodes[step.name].all_input_nodes:
            last[argument.name] = max(last.get(argument.name, -1), i)
    return last


def _alive(edge: int, made: Mapping[str, int], last: Mapping[str, int]) -> list[str]:
    """Values made before step `edge` and read at or after it."""
    return [name for name, i in made.items() if i < edge <= last.get(name, -1)]
