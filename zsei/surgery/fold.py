"""Folds the mean of removed units into the bias behind them, so that a removal costs less.

Removing units alone puts zero in their place. Where the next weights have a bias, the units' mean
can live on in it: the smaller model then computes what the original computes with these units held
at their mean. That is the mean ablation by which units were ranked, made physical, and costs no
parameter. References: He, Zhang and Sun, "Channel pruning for accelerating very deep neural
networks", 2017, and the bias compensation of Nagel et al., 2019.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from zsei.errors import SurgeryRefused
from zsei.subject.blocks import is_linear
from zsei.subject.program import Program, strip_prefix
from zsei.subject.reading import LAYOUT, operation, shape
from zsei.subject.types import Site
from zsei.surgery.calls import arguments, tensor_of
from zsei.surgery.edits import Edit, RemoveUnits
from zsei.surgery.factorise import renamed
from zsei.surgery.program_form import plan_edits
from zsei.surgery.resize import keep

Means = Mapping[tuple[str, str], Tensor]
"""(component, site kind) -> mean value, broadcastable to the site's value."""
Shifts = Mapping[str, Tensor]
"""Name of a bias in the user's model -> what is added to it."""


def foldable(program: Program, site: Site) -> bool:
    """Whether the mean of a site's units can live on in a bias behind them."""
    way = _way_to_reader(program.node(site.node))
    return way is not None and _bias(way[-1]) is not None


def bias_shifts(program: Program, edits: Iterable[Edit], means: Means) -> dict[str, Tensor]:
    """What the means of the removed units add to the biases that read them.

    Units whose value reaches anything but one linear with a bias of its own through reshapes alone
    keep no trace: zero stands in for them, as in `edit_program`.

    Args:
        program: The unedited program; edits' sites name its values.
        edits: What is removed.
        means: Mean values over the calibration data; sites without one are left out.
    """
    edits = tuple(edits)
    nodes = {node.name: node for node in program.graph_module.graph.nodes}
    found: dict[str, Tensor] = {}
    for edit in edits:
        if not isinstance(edit, RemoveUnits) or edit.merged:
            continue
        site = edit.site
        mean = means.get((site.component, site.kind))
        way = _way_to_reader(nodes[site.node]) if site.node in nodes else None
        if mean is None or way is None or site.axis is None:
            continue
        bias = _bias(way[-1])
        if bias is None:
            continue
        standing = torch.zeros(shape(nodes[site.node]), dtype=mean.dtype)
        for unit in edit.units:
            start = unit * site.unit_size
            part = standing.narrow(site.axis, start, site.unit_size)
            part.copy_(mean.narrow(site.axis, start, site.unit_size).expand_as(part))
        with torch.no_grad():
            shift = _run(program, way, standing) - _run(program, way, torch.zeros_like(standing))
        rows = shift.reshape(-1, shift.shape[-1])
        name = strip_prefix(str(bias.target))
        found[name] = found.get(name, torch.zeros_like(rows[0])) + rows[0]
    if not found:
        return found
    try:
        # A bias behind removed units may itself lose entries, as in a chain of linears.
        gone = plan_edits(program, edits).group.parameters
        now = renamed(program, edits)
    except SurgeryRefused:
        # The edit will be refused where it is made, with its reason.
        return {}
    named = {now.get(name, name): shift for name, shift in found.items()}
    return {name: keep(shift, gone.get(name, {})) for name, shift in named.items()}


def shift_program(program: Program, shifts: Shifts) -> Program:
    """The program with its biases shifted; `program` is one of our own copies and is changed."""
    wanted = {f"model.{name}": value for name, value in shifts.items()}
    for node in program.graph_module.graph.nodes:
        shift = wanted.pop(str(node.target), None) if node.op == "get_attr" else None
        if shift is not None:
            _shift(program.graph_module, str(node.target), shift)
    return program


def shift_module(model: nn.Module, shifts: Shifts) -> nn.Module:
    """A model with its biases shifted; `model` is one of our own copies and is changed."""
    for name, shift in shifts.items():
        _shift(model, name, shift)
    return model


def _shift(module: nn.Module, name: str, shift: Tensor) -> None:
    path, _, leaf = name.rpartition(".")
    owner = module.get_submodule(path)
    old = getattr(owner, leaf)
    # A new parameter: the old one may share its storage with the user's model.
    setattr(owner, leaf, nn.Parameter(old.detach() + shift.to(old.dtype), old.requires_grad))


def _way_to_reader(node: fx.Node) -> list[fx.Node] | None:
    """The calls from a value (excluded) to the one linear that reads it, through reshapes only."""
    way: list[fx.Node] = []
    while True:
        users = list(node.users)
        if len(users) != 1:
            return None
        node = users[0]
        way.append(node)
        if is_linear(node):
            return way
        if operation(node) not in LAYOUT:
            return None


def _bias(reader: fx.Node) -> fx.Node | None:
    """The parameter a linear adds, if nothing else reads it."""
    given = arguments(reader)
    bias: Any = given.get("self") if operation(reader) == "addmm" else given.get("bias")
    own = isinstance(bias, fx.Node) and bias.op == "get_attr" and len(bias.users) == 1
    return bias if own else None


def _run(program: Program, way: list[fx.Node], value: Tensor) -> Tensor:
    """The last call of a way, when `value` stands where the way starts."""
    values: dict[fx.Node, Any] = {}
    start = next(a for a in way[0].all_input_nodes if a.op != "get_attr")
    values[start] = value
    for node in way:
        for argument in node.all_input_nodes:
            if argument.op == "get_attr":
                values[argument] = tensor_of(program.graph_module, argument)
            elif argument not in values:
                # A transposed or cast weight.
                source = argument.all_input_nodes[0]
                weight = tensor_of(program.graph_module, source)
                values[argument] = _call(argument, {source: weight})
        values[node] = _call(node, values)
    return values[way[-1]]


def _call(node: fx.Node, values: Mapping[fx.Node, Any]) -> Any:
    assert callable(node.target)
    args = fx.map_arg(node.args, lambda n: values[n])
    kwargs = fx.map_arg(node.kwargs, lambda n: values[n])
    return node.target(*args, **kwargs)
