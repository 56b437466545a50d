"""Bytes each component moves: what its calls read and write, from shapes alone."""

from collections.abc import Mapping

import torch
from torch import fx

from zsei.subject.cost import value_bytes
from zsei.subject.reading import operation, shape, value
from zsei.subject.types import Subject

CONTAINERS = ("attention", "mlp", "experts")
LOOKS = {
    "view", "transpose", "permute", "t", "expand", "select", "slice", "unsqueeze", "squeeze",
    "split", "split_with_sizes", "chunk", "unbind", "alias", "detach", "getitem", "unfold",
    "diagonal", "movedim",
}  # fmt: skip
"""Calls that give another look at a value and move nothing."""
RESHAPES = {"reshape", "flatten", "unflatten"}
"""Calls that move nothing when the strides allow a look, and copy otherwise."""


def views(node: fx.Node) -> fx.Node | None:
    """The value whose memory a call's result lies in; None when the call makes its own."""
    if node.op != "call_function" or not node.all_input_nodes:
        return None
    first, name = node.all_input_nodes[0], operation(node)
    if name in LOOKS or (name in RESHAPES and _strides_allow(first, node)):
        return first
    return None


def _strides_allow(before: fx.Node, after: fx.Node) -> bool:
    source = value(before)
    if source is None:
        return False
    laid_out = torch.empty_strided(source.shape, source.stride(), device="meta")
    try:
        laid_out.view(shape(after))
    except RuntimeError:
        return False
    return True


def owners(subject: Subject) -> dict[str, str]:
    """Node -> the component that owns it: the whole attention or MLP rather than its linears."""
    anatomy = subject.anatomy
    kinds = {component.id: component.kind for component in anatomy.components}
    found: dict[str, str] = {}
    for component in anatomy.components:
        inside = component.parent is not None and kinds.get(component.parent) in CONTAINERS
        if component.kind in ("head", "layer", "output") or inside:
            continue
        for node in anatomy.nodes[component.id]:
            found[node] = component.id
    return found


def bytes_moved(subject: Subject) -> Mapping[str, int]:
    """Component -> bytes its calls read and write for one batch, parameters once.

    Formula: Σ over its calls of bytes(arguments) + bytes(result), looks left out. It is the traffic
    of calls run one by one; a compiler that fuses them moves less, a cache that holds them hides
    some. Without a program: parameters plus twice the value the component writes.
    """
    samples = subject.calibration[0].size
    if subject.program is None:
        return {
            c.id: 4 * c.parameters + 2 * c.bytes * samples for c in subject.anatomy.components
        }  # fmt: skip
    owner = owners(subject)
    moved: dict[str, int] = {}
    for node in subject.program.graph_module.graph.nodes:
        component = owner.get(node.name)
        if component is not None:
            moved[component] = moved.get(component, 0) + call_bytes(node)
    return moved


def call_bytes(node: fx.Node) -> int:
    """Bytes one call reads and writes; 0 for a look at a value and for what is no call."""
    if node.op != "call_function" or views(node) is not None:
        return 0
    # A look-up reads as many rows as it writes, not the whole table.
    looked_up = operation(node) == "embedding"
    read = node.all_input_nodes[1:] if looked_up else node.all_input_nodes
    touched = sum(value_bytes(argument) for argument in read)
    touched += value_bytes(node) if looked_up else 0
    return touched + value_bytes(node)
