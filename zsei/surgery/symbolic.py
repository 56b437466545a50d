"""Programs exported with symbolic sizes, seen at the example's plain numbers.

Surgery reasons about plain numbers. A program with symbolic sizes gets a twin of the same node
names whose shapes are those of the inputs it was exported with; what is found on the twin is then
done to the program itself, where only plain-number sizes along a cut change.
"""

from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from zsei.errors import SurgeryRefused
from zsei.subject.anatomy import read_anatomy
from zsei.subject.program import Program
from zsei.subject.types import Anatomy


def copy_graph(program: Program) -> fx.GraphModule:
    """A program's module with a graph of its own; parameters are shared, not copied."""
    graph = fx.Graph()
    output = graph.graph_copy(program.graph_module.graph, {}, return_output_node=True)
    assert isinstance(output, tuple)
    returned, old = output
    assert isinstance(old, fx.Node)
    graph.output(returned).meta = dict(old.meta)
    # How inputs and outputs are packed; stateless, and it cannot be deep-copied without a warning.
    graph.set_codegen(program.graph_module.graph._codegen)
    return fx.GraphModule(program.graph_module, graph)


def static_twin(program: Program) -> Program:
    """The same graph with every symbolic size replaced by its value at export.

    The twin serves for reading, not for running other shapes; node names are the program's own.
    """
    module = copy_graph(program)
    for node in module.graph.nodes:
        node.meta["val"] = _plain(node.meta.get("val"))
    for node in list(module.graph.nodes):
        node.args = map_aggregate(node.args, _plain_argument)
        node.kwargs = map_aggregate(node.kwargs, _plain_argument)
    return Program(graph_module=module, input_names=program.input_names)


def static_anatomy(program: Program, family: str = "") -> Anatomy:
    """The anatomy of a program that may have symbolic sizes."""
    return read_anatomy(static_twin(program), family)


def _plain_argument(argument: Any) -> Any:
    if isinstance(argument, fx.Node) and isinstance(argument.meta.get("val"), int | float):
        return argument.meta["val"]
    return argument


def _plain(value: Any) -> Any:
    """A value's shape and dtype with plain numbers; containers keep their form."""
    if isinstance(value, Tensor):
        sizes = tuple(_number(size) for size in value.shape)
        return torch.empty(sizes, dtype=value.dtype, device="meta")
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
        return _number(value)
    if isinstance(value, tuple | list):
        return type(value)(_plain(part) for part in value)
    return value


def _number(value: Any) -> Any:
    if isinstance(value, int | float):
        return value
    hint = value.node.hint
    if hint is None:
        raise SurgeryRefused(
            f"The program has a size that depends on data ({value}); surgery needs sizes that "
            f"follow from the shapes of the inputs."
        )
    return hint
