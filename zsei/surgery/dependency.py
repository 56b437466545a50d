"""Dependency groups: everything that must be cut together with a set of units.

A cut (value, axis, removed entries) is followed through the functional ATen graph both ways, to
producers and consumers, until every branch of it ends in a parameter whose rows or columns can go.
What it may pass is known call by call (`axes`, `layout`); anything else that it reaches refuses
the edit by name, and so does a cut that reaches an input or the output of the model.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import fx

from zsei.errors import SurgeryRefused
from zsei.subject.program import Program, strip_prefix
from zsei.subject.reading import shape
from zsei.subject.types import UnitKind
from zsei.surgery.calls import refuse, tensor_of
from zsei.surgery.expert_cut import check_enough, passes, routing_at
from zsei.surgery.search import Search, Selection, active_values, entries
from zsei.surgery.width import norm_passes, written_at
from zsei.surgery.zero import prove_zero

Entries = Mapping[int, tuple[int, ...]]
"""Axis -> removed entries along it, ascending."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Entries of one value that shall go."""

    node: str
    axis: int
    removed: tuple[int, ...]
    kind: UnitKind = "neuron"
    """What the entries are: experts go because no token chooses them, all others because they are
    held at zero here."""


@dataclass(frozen=True, kw_only=True)
class DependencyGroup:
    """All that goes together."""

    parameters: Mapping[str, Entries]
    """Name of a parameter or buffer in the user's model -> what goes of it."""
    values: Mapping[str, Entries]
    """Name of a program node -> what goes of its value; parameters' nodes included."""
    selections: tuple[Selection, ...]


def dependency_group(program: Program, cuts: Iterable[Cut]) -> DependencyGroup:
    """Everything that must be cut together with `cuts`.

    Args:
        program: A functional program with plain-number shapes.
        cuts: What shall go, each on its own value.

    Raises:
        SurgeryRefused: Naming the call, its module and its shape, where the cut cannot be proven,
            or where it would change more than the entries held at zero.
    """
    nodes = list(program.graph_module.graph.nodes)
    by_name = {node.name: node for node in nodes}
    search = Search(twins=_twins(program), active=active_values(nodes))
    cuts = tuple(cuts)
    held = [cut for cut in cuts if cut.kind not in ("expert", "width")]
    _spread(search, by_name, held)
    seeds = [(by_name[cut.node], cut.axis) for cut in held]
    prove_zero(nodes, search.removed, seeds)
    streams = [cut for cut in cuts if cut.kind == "width"]
    if streams:
        before = {node: set(axes) for node, axes in search.removed.items()}
        search.passes |= norm_passes(nodes)
        _spread(search, by_name, streams)
        written = [
            (node, axis)
            for node, axis in written_at(program, search.removed)
            if axis not in before.get(node, ())
        ]
        prove_zero(nodes, search.removed, [*seeds, *written])
    for cut in cuts:
        if cut.kind == "expert":
            routing = routing_at(by_name, cut.node)
            check_enough(routing, len(cut.removed))
            search.passes |= passes(routing)
            counts = Cut(node=routing.counts.name, axis=0, removed=cut.removed)
            _spread(search, by_name, (cut, counts))
    for (call, operand), selection in search.selections.items():
        if selection.axis in search.removed.get(operand, {}):
            raise refuse(call, f"selects from `{operand.name}`, which another cut makes smaller.")
    order = {node: i for i, node in enumerate(nodes)}
    values = {
        node.name: {axis: entries(mask) for axis, mask in sorted(masks.items())}
        for node, masks in sorted(search.removed.items(), key=lambda item: order[item[0]])
    }
    parameters = {
        strip_prefix(str(node.target)): values[node.name]
        for node in search.removed
        if node.op == "get_attr"
    }
    return DependencyGroup(
        parameters=dict(sorted(parameters.items())),
        values=values,
        selections=tuple(search.selections.values()),
    )


def _spread(search: Search, by_name: Mapping[str, fx.Node], cuts: Iterable[Cut]) -> None:
    """Add cuts to a search and follow them."""
    for cut in cuts:
        node = by_name.get(cut.node)
        if node is None:
            raise SurgeryRefused(
                f"There is no value `{cut.node}` to cut (any more); an edit that bypasses the "
                f"layer it stands in may have removed it."
            )
        mask = torch.zeros(shape(node)[cut.axis], dtype=torch.bool)
        mask[list(cut.removed)] = True
        search.cut(node, cut.axis, mask)
    search.run()


def _twins(program: Program) -> dict[fx.Node, list[fx.Node]]:
    """Nodes that read the same parameter, through the same or through tied names."""
    found: dict[object, list[fx.Node]] = {}
    for node in program.graph_module.graph.nodes:
        if node.op == "get_attr":
            tensor = tensor_of(program.graph_module, node)
            key = (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
            found.setdefault(key if tensor.numel() else node, []).append(node)
    return {node: group for group in found.values() for node in group}
