"""Edges of programs without a residual stream: one value on its way from component to component.

The first-order effect of putting a value's mean in, at one of its readers only,

    score = Σ (mean - a) · (gradient at a, by way of this reader alone)

is exact in two cases: the reader is the only one (then the gradient at the value is its own), or
the reading call is affine (an add, a convolution, a linear, a batch norm): then it is
Σ (f(mean) - f(a)) · (gradient behind the call). Other shared readings are left out, not
guessed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from zsei.subject.blocks import is_linear
from zsei.subject.reading import (
    BATCH_NORM,
    CONV,
    Ancestry,
    channel_axis,
    is_float,
    operation,
    shape,
)
from zsei.subject.types import Anatomy
from zsei.trace.edge_values import Whole, WholeTaps
from zsei.trace.writers import owners

AFFINE = CONV | {"add", "sub", "avg_pool2d", "adaptive_avg_pool2d", "_adaptive_avg_pool2d"}


@dataclass(frozen=True, kw_only=True)
class ProgramEdge:
    """A value that one component wrote (perhaps reshaped or activated since) and one reads."""

    source: str
    target: str
    node: fx.Node
    """The value that is read."""
    axis: int
    """Axis of its channels."""
    call: fx.Node | None = None
    """The affine call that reads it; None where the target is its only reader."""


def find_program_edges(
    anatomy: Anatomy, ancestry: Ancestry, output: str
) -> tuple[ProgramEdge, ...]:
    """All edges whose source is a single component and whose gradient can be told, in order."""
    owner = owners(anatomy)
    source_of: dict[fx.Node, str | None] = {}
    for component in anatomy.components:
        if component.kind == "input":
            owner[anatomy.outputs[component.id]] = component.id
    found: dict[tuple[str, str], ProgramEdge] = {}
    for node in ancestry.nodes:
        reached = {
            source_of[a] for a in node.all_input_nodes
            if a.op != "get_attr" and is_float(a) and a in source_of
        }  # fmt: skip
        here = owner.get(node.name)
        if here is None:
            source_of[node] = next(iter(reached)) if len(reached) == 1 else None
            continue
        source_of[node] = here
        for argument in node.all_input_nodes:
            source = source_of.get(argument)
            if source in (None, here) or not is_float(argument) or not shape(argument):
                continue
            edge = _edge(str(source), here, argument, node, owner)
            if edge is not None:
                found.setdefault((edge.source, edge.target), edge)
    last = next(node for node in ancestry.nodes if node.name == output)
    source = source_of.get(last)
    if source is not None and all(user.op == "output" for user in last.users):
        edge = ProgramEdge(source=source, target="output", node=last, axis=channel_axis(last))
        found.setdefault((source, "output"), edge)
    return tuple(found.values())


def _edge(
    source: str, target: str, value: fx.Node, call: fx.Node, owner: Mapping[str, str]
) -> ProgramEdge | None:
    axis = channel_axis(value)
    if all(owner.get(user.name) == target for user in value.users):
        return ProgramEdge(source=source, target=target, node=value, axis=axis)
    here = [user for user in value.users if owner.get(user.name) == target]
    affine = operation(call) in AFFINE | BATCH_NORM or is_linear(call)
    if len(here) > 1 or not affine or not shape(call):
        return None
    return ProgramEdge(source=source, target=target, node=value, axis=axis, call=call)


def program_taps(edges: Sequence[ProgramEdge]) -> WholeTaps:
    """What the scores of these edges need."""
    values: dict[str, int | None] = {edge.node.name: 0 for edge in edges}
    gradients: dict[str, int | None] = {(edge.call or edge.node).name: 0 for edge in edges}
    for edge in edges:
        if edge.call is not None:
            values |= {a.name: 0 for a in edge.call.all_input_nodes if a.op != "get_attr"}
    return WholeTaps(values=values, gradients=gradients)


def score_program_edge(
    edge: ProgramEdge, whole: Whole, constants: Mapping[str, Any]
) -> Tensor | None:
    """[s, n] by scalar (loss or probe) and sample; None where the objective does not depend on it.

    Args:
        edge: Which.
        whole: Values and gradients of some samples; the mean is theirs.
        constants: Weights and buffers by node.
    """
    at = (edge.call or edge.node).name
    if edge.node.name not in whole.values or any(at not in g for g in whole.gradients):
        return None
    _, away = program_edge_change(edge, whole, constants)
    scores = [(away * found[at]).reshape(whole.samples, -1).sum(1) for found in whole.gradients]
    return torch.stack(scores)


def program_edge_change(
    edge: ProgramEdge, whole: Whole, constants: Mapping[str, Any]
) -> tuple[str, Tensor]:
    """(node, what is added to its value) when the mean stands in for the value at this reader."""
    value = whole.values[edge.node.name]
    others = tuple(a for a in range(value.ndim) if a != edge.axis % value.ndim)
    mean = value.mean(others, keepdim=True).expand_as(value)
    if edge.call is None:
        return edge.node.name, mean - value
    away = _called(edge, mean, whole, constants) - _called(edge, value, whole, constants)
    return edge.call.name, away


def _called(edge: ProgramEdge, value: Tensor, whole: Whole, constants: Mapping[str, Any]) -> Tensor:
    assert edge.call is not None
    call = edge.call

    def known(node: fx.Node) -> Any:
        if node is edge.node:
            return value
        return constants[node.name] if node.name in constants else whole.values[node.name]

    args, kwargs = map_arg((call.args, dict(call.kwargs)), known)
    assert callable(call.target)
    return call.target(*args, **kwargs)
