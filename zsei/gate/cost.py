"""What a program costs, from its shapes alone: no clock, so the same program costs the same.

Only calls that the output is computed from count; what an edit has cut off costs nothing.
"""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from zsei.subject.cost import flops, value_bytes
from zsei.subject.program import Program
from zsei.subject.reading import operation, shape

_VIEWS = {
    "view", "transpose", "permute", "t", "unsqueeze", "squeeze", "expand", "alias", "detach",
    "slice", "select", "split", "split_with_sizes", "chunk", "unbind", "getitem", "unflatten",
    "flatten", "reshape", "_unsafe_view", "narrow", "as_strided",
}  # fmt: skip
"""Calls that allocate nothing (`reshape` and `flatten` now and then do; counted as if not)."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one program costs."""

    parameters: int
    """Elements of all parameters, shared storage once."""
    flops: int
    """Operations per sample: 2 x multiply-adds of matrix products, convolutions, attention."""
    activation_bytes: int
    """Bytes of all values written in one forward pass, per sample; views write nothing."""
    peak_bytes: int
    """Bytes of the values alive together at the worst moment when calls run in program order and
    each value is dropped after its last use, per sample. Weights and scratch space not counted."""
    weight_bytes: int
    """Bytes of all parameters and buffers, shared storage once: the payload of a saved file."""


def live_nodes(program: Program) -> list[fx.Node]:
    """Nodes the output is computed from, and the inputs, in program order."""
    nodes = list(program.graph_module.graph.nodes)
    wanted: set[fx.Node] = set(nodes[-1:])
    for node in reversed(nodes):
        if node in wanted:
            wanted.update(node.all_input_nodes)
    return [node for node in nodes if node in wanted or node.op == "placeholder"]


def constant(program: Program, target: str) -> Any:
    """The parameter or buffer behind a `get_attr` node."""
    found: Any = program.graph_module
    for name in target.split("."):
        found = getattr(found, name)
    return found


def parameter_targets(program: Program) -> frozenset[str]:
    """Targets of the `get_attr` nodes that are parameters rather than buffers."""
    targets = {str(n.target) for n in program.graph_module.graph.nodes if n.op == "get_attr"}
    return frozenset(t for t in targets if isinstance(constant(program, t), nn.Parameter))


def measure_cost(program: Program, parameters: Collection[str] | None = None) -> Cost:
    """Parameters, operations and bytes of a program, from shapes and storage.

    Args:
        program: A program whose nodes know their shapes.
        parameters: Targets that count as parameters, by default those that are. An edited program
            is counted with the original's targets, so that a weight turned buffer is not a saving.
    """
    known = parameter_targets(program) | frozenset(parameters or ())
    nodes = live_nodes(program)
    batch = next((shape(n)[0] for n in nodes if n.op == "placeholder" and shape(n)), 1)
    stored: dict[tuple[int, int], tuple[Tensor, bool]] = {}
    for node in nodes:
        tensor = constant(program, str(node.target)) if node.op == "get_attr" else None
        if isinstance(tensor, Tensor):
            key = (tensor.data_ptr(), tensor.numel())
            counted = node.target in known or (key in stored and stored[key][1])
            stored[key] = (tensor, counted)
    written = [n for n in nodes if n.op == "call_function" and operation(n) not in _VIEWS]
    return Cost(
        parameters=sum(t.numel() for t, is_parameter in stored.values() if is_parameter),
        flops=sum(flops(node) for node in nodes) // batch,
        activation_bytes=sum(value_bytes(node) for node in written) // batch,
        peak_bytes=_peak(nodes) // batch,
        weight_bytes=sum(t.numel() * t.element_size() for t, _ in stored.values()),
    )


def _peak(nodes: list[fx.Node]) -> int:
    """Largest sum of the bytes alive at one call, for the whole batch."""
    owner: dict[fx.Node, fx.Node] = {}
    last_use: dict[fx.Node, int] = {}
    for position, node in enumerate(nodes):
        sources = [n for n in node.all_input_nodes if n.op != "get_attr"]
        is_view = operation(node) in _VIEWS and bool(sources)
        owner[node] = owner[sources[0]] if is_view else node
        for source in (*sources, node):
            last_use[owner[source]] = position
    freed: dict[int, int] = {}
    peak = alive = 0
    for position, node in enumerate(nodes):
        if owner[node] is node and node.op in ("placeholder", "call_function"):
            alive += value_bytes(node)
            freed[last_use[node]] = freed.get(last_use[node], 0) + value_bytes(node)
        peak = max(peak, alive)
        alive -= freed.pop(position, 0)
    return peak
