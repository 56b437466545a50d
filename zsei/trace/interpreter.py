"""Runs an exported program call by call.

Values are dropped as soon as nothing reads them any more, so that memory stays that of a plain
forward. For an ablation in the middle the values alive at that point are kept and only the rest of
the program runs again: exactly what a full run would give, for about half the work on average.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal

import torch
from torch import Tensor, fx

from zsei.subject.program import Program
from zsei.subject.types import Batch, Replacement, Watch
from zsei.trace.engine import replaced

Values = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Step:
    """One call: what to run, on which values, and which of them are last read here."""

    name: str
    target: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    drops: tuple[str, ...]


class ProgramEngine:
    """The interpreter of one program."""

    fidelity: Literal["program", "modules"] = "program"
    concurrent: bool = True

    def __init__(self, program: Program):
        graph = program.graph_module.graph
        self.inputs = [node.name for node in graph.nodes if node.op == "placeholder"]
        self.constants: Values = {
            node.name: _attribute(program.graph_module, str(node.target))
            for node in graph.nodes
            if node.op == "get_attr"
        }
        last = next(node for node in reversed(graph.nodes) if node.op == "output")
        self.output = last.all_input_nodes[0].name
        self.steps = _steps(list(graph.nodes), self.output)
        self.position = {step.name: i for i, step in enumerate(self.steps)}

    def run(self, batch: Batch, watch: Watch | None = None) -> Tensor:
        """The main output for a batch; `watch` sees (and may replace) the values it names."""
        values = self.start(batch, watch)
        self.proceed(values, 0, watch or {})
        return values[self.output]

    def sweep(
        self, batch: Batch, replacements: Sequence[Replacement]
    ) -> Iterator[tuple[int, Tensor]]:
        """One clean run; each replacement restarts it at its site and runs only what follows."""
        waiting, kept = self._plan(replacements)
        with torch.no_grad():
            values = self.start(batch, None)
            for position, step in enumerate(self.steps):
                values[step.name] = call(step, values)
                for index in waiting.get(step.name, ()):
                    branch = branch_at(step, values, replacements[index])
                    self.proceed(branch, position + 1, {})
                    yield index, branch[self.output]
                drop(values, [d for d in step.drops if kept.get(d, -1) <= position])

    def _plan(
        self, replacements: Sequence[Replacement]
    ) -> tuple[dict[str, list[int]], dict[str, int]]:
        """Replacements by the node they wait for, and until which step a value is kept for them."""
        waiting: dict[str, list[int]] = {}
        for index, replacement in enumerate(replacements):
            waiting.setdefault(replacement.site.node, []).append(index)
        # An identity needs the layer's input at the layer's output: keep it alive until then.
        kept = {
            r.site.source: self.position[r.site.node]
            for r in sorted(replacements, key=lambda r: self.position.get(r.site.node, -1))
            if r.value is None and r.site.source is not None
        }
        return waiting, kept

    def together(self, batch: Batch, replacements: Sequence[Replacement]) -> Tensor:
        """One run with all replacements; a bypassed layer hands on what now enters it."""
        waiting: dict[str, list[Replacement]] = {}
        # Where several meet at one value, the bypass of the layer it ends has the last word.
        for replacement in sorted(replacements, key=lambda r: r.value is None):
            waiting.setdefault(replacement.site.node, []).append(replacement)
            if replacement.value is None and replacement.site.source is not None:
                waiting.setdefault(replacement.site.source, [])
        entered: Values = {}

        def editing(name: str) -> Callable[[Tensor], Tensor]:
            def edit(value: Tensor) -> Tensor:
                for replacement in waiting[name]:
                    source = replacement.site.source or ""
                    value = replaced(value, replacement, entered.get(source))
                entered[name] = value
                return value

            return edit

        with torch.no_grad():
            return self.run(batch, {name: editing(name) for name in waiting})

    def seconds(self, batch: Batch, repeats: int) -> Mapping[str, float]:
        """Median seconds per call over repeated runs."""
        found: dict[str, list[float]] = {step.name: [] for step in self.steps}
        with torch.no_grad():
            for _ in range(repeats):
                values = self.start(batch, None)
                for step in self.steps:
                    begin = time.perf_counter()
                    values[step.name] = call(step, values)
                    found[step.name].append(time.perf_counter() - begin)
                    drop(values, step.drops)
        return {name: median(times) for name, times in found.items()}

    def start(self, batch: Batch, watch: Watch | None = None) -> Values:
        """The values there are before the first call: constants and inputs."""
        values = dict(self.constants)
        for name, tensor in zip(self.inputs, batch.inputs, strict=True):
            values[name] = tensor
            if watch and name in watch:
                substitute = watch[name](tensor)
                values[name] = tensor if substitute is None else substitute
        return values

    def proceed(
        self, values: Values, start: int, watch: Watch, end: int | None = None
    ) -> None:  # fmt: skip
        """Run the steps from `start` on, up to `end` where it is given, in place."""
        for step in self.steps[start:end]:
            value = call(step, values)
            seen = watch.get(step.name)
            if seen is not None:
                substitute = seen(value)
                value = value if substitute is None else substitute
            values[step.name] = value
            drop(values, step.drops)


def branch_at(step: Step, values: Values, replacement: Replacement) -> Values:
    """The values after `step`, with a replacement made in what it gave."""
    branch = dict(values)
    entered = values.get(replacement.site.source or "")
    branch[step.name] = replaced(values[step.name], replacement, entered)
    drop(branch, step.drops)
    return branch


def call(step: Step, values: Values) -> Any:
    """What a call gives on these values."""
    args = tuple(_resolve(a, values) for a in step.args)
    kwargs = {key: _resolve(a, values) for key, a in step.kwargs.items()} if step.kwargs else {}
    return step.target(*args, **kwargs)


def _resolve(argument: Any, values: Values) -> Any:
    if isinstance(argument, fx.Node):
        return values[argument.name]
    if isinstance(argument, list | tuple):
        return type(argument)(_resolve(a, values) for a in argument)
    return argument


def drop(values: Values, names: Sequence[str]) -> None:
    """Forget values that nothing reads any more."""
    for name in names:
        values.pop(name, None)


def _steps(nodes: list[fx.Node], output: str) -> list[Step]:
    last_reader: dict[str, str] = {}
    for node in nodes:
        for argument in node.all_input_nodes:
            last_reader[argument.name] = node.name
    drops: dict[str, list[str]] = {}
    for name, reader in last_reader.items():
        if name != output:
            drops.setdefault(reader, []).append(name)
    steps = []
    for node in nodes:
        if node.op != "call_function":
            continue
        assert callable(node.target)
        steps.append(
            Step(
                name=node.name,
                target=node.target,
                args=tuple(_plain(a) for a in node.args),
                kwargs={key: _plain(a) for key, a in node.kwargs.items()},
                drops=tuple(drops.get(node.name, ())),
            )
        )
    return steps


def _plain(argument: Any) -> Any:
    """Fx's immutable lists as plain ones, which `type(argument)(...)` can build again."""
    if isinstance(argument, list):
        return [_plain(a) for a in argument]
    if isinstance(argument, tuple):
        return tuple(_plain(a) for a in argument)
    return argument


def _attribute(module: torch.nn.Module, path: str) -> Any:
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part)
    return found
