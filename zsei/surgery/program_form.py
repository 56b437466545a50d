"""Edits done to the exported program: weights sliced, sizes mended, dead calls dropped.

The original program is never touched; the edited one shares the storage of every parameter that
was not cut. Before it is handed out, a shape-only run must give every value the shape the plan
says, and the calls that move entries must move the kept ones to where they were.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, fx, nn

from zsei.errors import SurgeryRefused
from zsei.subject.cost import flops
from zsei.subject.program import Program
from zsei.subject.reading import shape
from zsei.subject.types import UnitKind
from zsei.surgery.calls import describe, refuse, tensor_of
from zsei.surgery.dependency import Cut, DependencyGroup, dependency_group
from zsei.surgery.edits import BypassLayer, Edit, RemoveUnits
from zsei.surgery.resize import Removed, keep, prove_moves, resize
from zsei.surgery.shapes import run_shapes
from zsei.surgery.structure import Structural, restructure, structural
from zsei.surgery.symbolic import copy_graph, static_twin


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a set of edits does to one program, before anything is done."""

    structure: tuple[Structural, ...] = ()
    """What brings new parameters; done first, so that all else here names what it leaves."""
    bypasses: Mapping[str, str]
    """Name of the value a removed layer writes -> name of the value it is replaced by."""
    group: DependencyGroup
    parameters_removed: int
    """How many parameters (buffers not counted) the edited program has fewer."""
    flops_removed_share: float
    """Share of the program's operations (2 x multiply-adds) that go, 0 to 1."""


def plan_edits(program: Program, edits: Iterable[Edit]) -> Plan:
    """What the edits do to the program, without doing it.

    Args:
        program: The program, with plain or symbolic sizes.
        edits: Edits whose sites name values of this program.

    Raises:
        SurgeryRefused: Naming the call that stands in the way, or when nothing would be removed.
    """
    edits = tuple(edits)
    twin = static_twin(program)
    before = _cost(twin)
    output = shape(_output(twin.graph_module.graph))
    structure = structural(edits)
    if structure:
        twin = static_twin(restructure(program, structure))
    bypasses = _bypass(twin.graph_module.graph, edits)
    group = dependency_group(twin, _cuts(edits))
    nodes = {node.name: node for node in twin.graph_module.graph.nodes}
    for name, gone in group.values.items():
        sizes = _kept_shape(shape(nodes[name]), gone)
        nodes[name].meta["val"] = torch.empty(
            sizes, dtype=nodes[name].meta["val"].dtype, device="meta"
        )
    after = _cost(twin)
    if shape(_output(twin.graph_module.graph)) != output:
        raise SurgeryRefused(f"The edit would change the shape of the model's output, {output}.")
    removed = before[0] - after[0]
    if removed <= 0 and after[1] >= before[1]:
        raise SurgeryRefused(
            "The edit removes no parameter and no operation; a site without weights of its own, "
            "or no units, cannot make the model smaller."
        )
    return Plan(
        structure=structure,
        bypasses=bypasses,
        group=group,
        parameters_removed=removed,
        flops_removed_share=1 - after[1] / before[1] if before[1] else 0.0,
    )


def edit_program(program: Program, edits: Iterable[Edit]) -> Program:
    """The program with the edits done, physically smaller.

    Args:
        program: The program, with plain or symbolic sizes. It is left as it is.
        edits: Edits whose sites name values of this program (see `same_sites`).

    Returns:
        A program of the same inputs and output. Parameters that are not cut share their storage
        with the original's.

    Raises:
        SurgeryRefused: Naming the call that stands in the way; when nothing would be removed; when
            a shape-only run gives another shape than planned.
    """
    return apply_plan(program, plan_edits(program, edits))


def apply_plan(program: Program, plan: Plan) -> Program:
    """Do what a plan made for this program says."""
    program = restructure(program, plan.structure)
    module = copy_graph(program)
    graph = module.graph
    removed = plan.group.values
    nodes = {node.name: node for node in graph.nodes}
    for name, source in plan.bypasses.items():
        nodes[name].replace_all_uses_with(nodes[source])
    drop_dead(graph)
    for node in graph.nodes:
        if node.op == "call_function":
            resize(node, removed)
    for number, selection in enumerate(plan.group.selections):
        consumer, operand = nodes[selection.consumer], nodes[selection.operand]
        name = f"kept_{number}"
        module.register_buffer(name, torch.tensor(selection.kept))
        with graph.inserting_before(consumer):
            kept = graph.get_attr(name)
            kept.meta = {"nn_module_stack": consumer.meta.get("nn_module_stack", {})}
            chosen = graph.call_function(
                torch.ops.aten.index_select.default, (operand, selection.axis, kept)
            )
            chosen.meta = dict(kept.meta)
        consumer.replace_input_with(operand, chosen)
    # Built anew: of the parameters, only those that the graph still reads come along.
    edited = fx.GraphModule(module, graph)
    for node in graph.nodes:
        if node.op == "get_attr" and node.name in removed:
            _replace(edited, node, keep(tensor_of(edited, node), removed[node.name]))
    run_shapes(edited)
    result = Program(graph_module=edited, input_names=program.input_names)
    _prove(static_twin(program), static_twin(result), removed)
    return result


def _cuts(edits: Iterable[Edit]) -> list[Cut]:
    """What goes, one cut per site: several edits of one site are one."""
    units: dict[tuple[str, int], set[int]] = {}
    kinds: dict[tuple[str, int], UnitKind] = {}
    for edit in edits:
        if not isinstance(edit, RemoveUnits):
            continue
        site = edit.site
        if site.axis is None:
            raise SurgeryRefused(f"`{site.component}` has no axis of units to remove from.")
        wrong = [u for u in edit.units if not 0 <= u < site.units]
        if wrong:
            raise SurgeryRefused(
                f"`{site.component}` has units 0 to {site.units - 1}; {wrong} do not exist."
            )
        kinds[site.node, site.axis] = site.kind
        chosen = units.setdefault((site.node, site.axis), set())
        for unit in edit.units:
            chosen.update(range(unit * site.unit_size, (unit + 1) * site.unit_size))
    return [
        Cut(node=node, axis=axis, removed=tuple(sorted(gone)), kind=kinds[node, axis])
        for (node, axis), gone in units.items()
    ]


def _bypass(graph: fx.Graph, edits: Iterable[Edit]) -> dict[str, str]:
    """Lead around removed layers; returns which value stands in for which."""
    nodes = {node.name: node for node in graph.nodes}
    order = {name: i for i, name in enumerate(nodes)}
    sites = {edit.site.node: edit.site for edit in edits if isinstance(edit, BypassLayer)}
    found: dict[str, str] = {}
    for site in sorted(sites.values(), key=lambda site: order.get(site.node, -1)):
        if site.source is None or site.node not in nodes or site.source not in nodes:
            raise SurgeryRefused(f"`{site.component}` has no value that could stand in for it.")
        output, source = nodes[site.node], nodes[found.get(site.source, site.source)]
        if shape(output) != shape(source):
            raise refuse(
                output, f"leaves `{site.component}` as {shape(output)}, but "
                f"{shape(source)} enters it: the layer cannot be led around."
            )  # fmt: skip
        output.replace_all_uses_with(source)
        found[site.node] = source.name
    drop_dead(graph)
    return found


def drop_dead(graph: fx.Graph) -> None:
    """Drop calls nobody reads. Attention and dropout count as random for torch, which would keep
    them; in a program in eval mode they are not.
    """
    graph.eliminate_dead_code(lambda node: node.op in ("placeholder", "output"))


def _cost(program: Program) -> tuple[int, int]:
    """(parameters, operations) of a program with plain shapes."""
    module = program.graph_module
    sizes: dict[int, int] = {}
    operations = 0
    for node in module.graph.nodes:
        if node.op == "get_attr":
            tensor = tensor_of(module, node)
            if isinstance(tensor, nn.Parameter):
                sizes[id(tensor)] = prod(shape(node))
        elif node.op == "call_function":
            operations += flops(node)
    return sum(sizes.values()), operations


def _output(graph: fx.Graph) -> fx.Node:
    return graph.output_node().all_input_nodes[0]


def _kept_shape(sizes: tuple[int, ...], gone: Mapping[int, tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(size - len(gone.get(axis, ())) for axis, size in enumerate(sizes))


def _replace(module: nn.Module, node: fx.Node, tensor: Tensor) -> None:
    """Put a cut tensor where a `get_attr` node reads."""
    path, _, name = str(node.target).rpartition(".")
    owner = module.get_submodule(path)
    if isinstance(getattr(owner, name), nn.Parameter):
        tensor = nn.Parameter(tensor, requires_grad=False)
    setattr(owner, name, tensor)


def _prove(before: Program, after: Program, removed: Removed) -> None:
    """Compare every value's shape with the plan, and every move with the original's."""
    old = {node.name: node for node in before.graph_module.graph.nodes}
    for node in after.graph_module.graph.nodes:
        source = old.get(node.name)
        if source is None or node.op == "output":
            continue
        planned = _kept_shape(shape(source), removed.get(node.name, {}))
        if shape(node) != planned:
            raise SurgeryRefused(
                f"{describe(source)} would give {list(shape(node))} where the plan says "
                f"{list(planned)}; the edit is not made."
            )
        if node.op == "call_function":
            prove_moves(source, node, removed)
