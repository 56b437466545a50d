"""Activation functions in a program, and their slope at the values that really enter them.

A function may be one call (`relu`) or be written out (x · sigmoid(x), the tanh form of GELU): then
the calls between the one value they all come from and the product they end in are one function.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from zsei.subject.program import Program
from zsei.subject.reading import ELEMENTWISE, channel_axis, is_float, operation, shape
from zsei.subject.types import Anatomy

SATURATING = {
    "relu", "gelu", "silu", "tanh", "sigmoid", "elu", "leaky_relu", "hardtanh", "hardswish",
    "softplus", "mish", "hardsigmoid", "relu6", "celu", "selu", "erf",
}  # fmt: skip
FLAT = 0.01
"""|slope| below which an activation function is saturated."""
INSIDE = ELEMENTWISE - {"where", "native_dropout", "prelu"}


@dataclass(frozen=True, kw_only=True, eq=False)
class ActivationTap:
    """One activation function: what enters it and how to work out its slope there."""

    component: str
    """The component whose call it is, or whose value it is applied to."""
    name: str
    """The call that bends: "relu", "tanh" ..."""
    source: str
    """Node of the value that enters."""
    node: str
    """Node of the value that leaves."""
    axis: int
    """Axis of the channels."""
    steps: tuple[fx.Node, ...]
    """Calls from `source` (excluded) to `node`, in program order."""

    def slope(self, entered: Tensor) -> Tensor:
        """Derivative at every entry of what entered; any shape."""
        with torch.enable_grad():
            x = entered.detach().float().requires_grad_()
            values = {self.source: x}
            for step in self.steps:
                assert callable(step.target)
                args = map_arg(step.args, lambda node: values[node.name])
                kwargs = map_arg(step.kwargs, lambda node: values[node.name])
                values[step.name] = step.target(*args, **kwargs)
            return torch.autograd.grad(values[self.node].sum(), x)[0]


def find_activations(program: Program, anatomy: Anatomy) -> tuple[ActivationTap, ...]:
    """Every activation function of a program, in program order."""
    nodes = list(program.graph_module.graph.nodes)
    owners = smallest_owners(anatomy)
    found = []
    taken: set[fx.Node] = set()
    for node in nodes:
        if operation(node) not in SATURATING or not is_float(node) or node in taken:
            continue
        source, end, steps = _extent(node, nodes)
        component = _owner(node, owners)
        if component is None or source.op == "get_attr":
            continue
        taken.update(steps)
        found.append(
            ActivationTap(component=component, name=operation(node), source=source.name,
                          node=end.name, axis=channel_axis(source), steps=steps)
        )  # fmt: skip
    return tuple(found)


def smallest_owners(anatomy: Anatomy) -> dict[str, str]:
    """Node -> the smallest component that owns it."""
    found: dict[str, str] = {}
    for component, nodes in sorted(anatomy.nodes.items(), key=lambda item: -len(item[1])):
        found |= dict.fromkeys(nodes, component)
    return found


def _owner(node: fx.Node, owners: dict[str, str]) -> str | None:
    """Owner of a call, or of the nearest value before it that has one."""
    while node.name not in owners:
        before = [a for a in node.all_input_nodes if a.op == "call_function"]
        if not before:
            return None
        node = before[0]
    return owners[node.name]


def _extent(
    node: fx.Node, nodes: list[fx.Node]
) -> tuple[fx.Node, fx.Node, tuple[fx.Node, ...]]:  # fmt: skip
    """(value that enters, value that leaves, calls between) of the function a call belongs to."""
    entered = node.all_input_nodes[0]
    alone = entered, node, (node,)
    source = _single_source(node)
    if source is None:
        return alone
    # Everything worked out element by element from the source alone, and what of it rests on node.
    inside, behind = {source}, {node}
    for other in nodes[nodes.index(source) + 1 :]:
        if not _elementwise(other, source) or not set(other.all_input_nodes) <= inside:
            continue
        inside.add(other)
        if behind & set(other.all_input_nodes):
            behind.add(other)
            if operation(other) == "mul" and set(other.all_input_nodes) - behind:
                return source, other, _between(other, source)
    return alone


def _single_source(node: fx.Node) -> fx.Node | None:
    """The one value that all element-wise calls before a call come from."""
    sources: set[fx.Node] = set()
    stack, seen = list(node.all_input_nodes), set()
    while stack:
        value = stack.pop()
        if value in seen:
            continue
        seen.add(value)
        if _elementwise(value, node) and operation(value) not in SATURATING:
            stack.extend(value.all_input_nodes)
        else:
            sources.add(value)
    return sources.pop() if len(sources) == 1 else None


def _elementwise(node: fx.Node, like: fx.Node) -> bool:
    return operation(node) in INSIDE and shape(node) == shape(like) and bool(node.all_input_nodes)


def _between(end: fx.Node, source: fx.Node) -> tuple[fx.Node, ...]:
    """Calls that `end` needs of what comes after `source`, in order."""
    needed: dict[fx.Node, None] = {}

    def visit(values: Iterable[fx.Node]) -> None:
        for value in values:
            if value is not source and value not in needed:
                visit(value.all_input_nodes)
                needed[value] = None

    visit([end])
    return tuple(needed)
