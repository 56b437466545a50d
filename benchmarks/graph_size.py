"""How long it takes to read, build, search and export graphs of growing size.

A program of many layers is written call by call, shapes only, so that no weight and no run of a
model stands behind it: layers of one attention with 64 heads and one MLP, until there are as many
components as asked for. `python -m benchmarks.graph_size [components ...]` prints CPU seconds per
step for each size, and the ratio of the last two sizes: 2 times the components should take about 2
times as long.
"""

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import networkx as nx
import torch
from torch import fx, nn

from zsei.graph.build import build_graph
from zsei.graph.export import to_networkx, write_graphml, write_json
from zsei.graph.flow import FlowGraph
from zsei.graph.liveness import peak
from zsei.graph.paths import dominators, longest_path, minimum_cut, strongest_paths
from zsei.graph.traffic import bytes_moved
from zsei.records import Measurement
from zsei.subject.anatomy import read_anatomy
from zsei.subject.objective import Objective
from zsei.subject.program import Program
from zsei.subject.types import Anatomy, Batch, ModelSource, Subject
from zsei.trace.summary import Trace

HEADS = 64
WIDTH = 256
TOKENS = 16
aten = torch.ops.aten


class Writer:
    """Writes a program call by call, with the shapes and module paths an export would have."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.root = nn.Module()

    def call(self, path: str, target: Any, *args: Any, like: tuple[int, ...]) -> fx.Node:
        """A call inside the module `path`, giving a float value of shape `like`."""
        node = self.graph.call_function(target, args)
        node.meta["val"] = torch.empty(like, device="meta")
        parts = path.split(".")
        prefixes = [".".join(parts[: i + 1]) for i in range(len(parts))]
        node.meta["nn_module_stack"] = {p: (f"model.{p}", "Module") for p in prefixes}
        return node

    def weight(self, name: str, *shape: int) -> fx.Node:
        """A parameter."""
        target = "model_" + name.replace(".", "_")
        self.root.register_parameter(target, nn.Parameter(torch.empty(shape, device="meta")))
        node = self.graph.get_attr(target)
        node.meta["val"] = torch.empty(shape, device="meta")
        return node

    def linear(self, path: str, source: fx.Node, out: int) -> fx.Node:
        """A matrix product with a parameter."""
        before = source.meta["val"].shape
        weight = self.weight(f"{path}.weight", out, before[-1])
        return self.call(path, aten.linear.default, source, weight, like=(*before[:-1], out))

    def norm(self, path: str, source: fx.Node) -> fx.Node:
        """A layer norm with a weight."""
        shape = tuple(source.meta["val"].shape)
        weight = self.weight(f"{path}.weight", shape[-1])
        return self.call(path, aten.layer_norm.default, source, [shape[-1]], weight, like=shape)


def program(layers: int, heads: int = HEADS) -> Program:
    """A pre-norm stack of attention and MLP layers."""
    writer = Writer()
    stream = writer.graph.placeholder("x")
    full = (1, TOKENS, WIDTH)
    split, turned = (1, TOKENS, heads, WIDTH // heads), (1, heads, TOKENS, WIDTH // heads)
    stream.meta["val"] = torch.empty(full, device="meta")
    for number in range(layers):
        path = f"layers.{number}"
        within = f"{path}.attention"
        normed = writer.norm(f"{path}.norm1", stream)
        inputs = []
        for name in ("q", "k", "v"):
            made = writer.linear(f"{within}.{name}", normed, WIDTH)
            made = writer.call(within, aten.reshape.default, made, list(split), like=split)
            inputs.append(writer.call(within, aten.transpose.int, made, 1, 2, like=turned))
        core = writer.call(within, aten.scaled_dot_product_attention.default, *inputs, like=turned)
        back = writer.call(within, aten.transpose.int, core, 1, 2, like=split)
        back = writer.call(within, aten.reshape.default, back, list(full), like=full)
        out = writer.linear(f"{within}.o", back, WIDTH)
        stream = writer.call(path, aten.add.Tensor, stream, out, like=full)
        normed = writer.norm(f"{path}.norm2", stream)
        up = writer.linear(f"{path}.mlp.up", normed, 2 * WIDTH)
        active = writer.call(f"{path}.mlp", aten.gelu.default, up, like=(1, TOKENS, 2 * WIDTH))
        down = writer.linear(f"{path}.mlp.down", active, WIDTH)
        stream = writer.call(path, aten.add.Tensor, stream, down, like=full)
    writer.graph.output(stream)
    return Program(graph_module=fx.GraphModule(writer.root, writer.graph), input_names=("x",))


def subject_of(made: Program, anatomy: Anatomy) -> Subject:
    """A subject around a program that is never run."""
    batch = Batch(inputs=(torch.zeros(1, TOKENS, WIDTH),), groups=("data",))
    return Subject(
        source=ModelSource(name="synthetic", kind="object"), model=nn.Identity(), model_hash="",
        program=made, input_names=("x",), calibration=(batch,), held_out=(batch,),
        objective=Objective(name="fidelity", output="values", reason="synthetic"), anatomy=anatomy,
    )  # fmt: skip


def trace_of(anatomy: Anatomy) -> Trace:
    """What a trace would say, made up: one rank for every component."""
    return Trace(
        measurements={
            component.id: {
                "effective_rank": Measurement(
                    name="effective_rank", value=10.0 + number % 7, unit="dimensions"
                )
            }
            for number, component in enumerate(anatomy.components)
        },
        units={},
        means={},
    )


def steps(components: int) -> dict[str, float]:
    """CPU seconds of each step for a graph of about this many components."""
    seconds: dict[str, float] = {}

    def timed(name: str, call: Callable[[], Any]) -> Any:
        begin = time.process_time()
        found = call()
        seconds[name] = time.process_time() - begin
        return found

    made = program(max(2, round(components / (HEADS + 9))))
    anatomy = timed("anatomy", lambda: read_anatomy(made))
    subject, trace = subject_of(made, anatomy), trace_of(anatomy)
    flow: FlowGraph = timed("build", lambda: build_graph(subject, trace))
    weights = {node: 1.0 for node in flow.graph}
    timed("strongest paths", lambda: strongest_paths(flow, 5))
    timed("longest path", lambda: longest_path(flow, weights))
    timed("dominators", lambda: dominators(flow))
    timed("minimum cut", lambda: minimum_cut(flow))
    timed("bytes moved", lambda: bytes_moved(subject))
    timed("peak memory", lambda: peak(subject))
    data = timed("as data", flow.data)
    with tempfile.TemporaryDirectory() as place:
        timed("json", lambda: write_json(data, Path(place) / "flow.json"))
        timed("graphml", lambda: write_graphml(data, Path(place) / "flow.graphml"))
    timed("networkx", lambda: nx.is_directed_acyclic_graph(to_networkx(data)))
    return {"components": len(anatomy.components), **seconds}


def main(sizes: list[int]) -> None:
    """Print CPU seconds per step and size, and how the last two sizes compare."""
    found = []
    for size in sizes:
        found.append(steps(size))
        told = ", ".join(f"{name} {value:.2f}" for name, value in list(found[-1].items())[1:])
        total = sum(list(found[-1].values())[1:])
        print(f"{found[-1]['components']:.0f} components: {total:.1f} s ({told})", flush=True)
    if len(found) > 1:
        first, second = found[-2:]
        factor = second["components"] / first["components"]
        ratios = ", ".join(
            f"{name} {second[name] / max(first[name], 1e-3):.1f}" for name in list(first)[1:]
        )
        print(f"{factor:.1f} times the components takes: {ratios} times as long")


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [12_500, 25_000, 50_000, 100_000])
