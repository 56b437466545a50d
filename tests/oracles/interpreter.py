"""Plain second ways to run a program: everything at once, everything kept."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from zsei.subject.program import Program


class Recorder(fx.Interpreter):
    """Torch's own interpreter, keeping the value of every call."""

    def __init__(
        self, program: Program, edits: dict[str, Callable[[Tensor], Tensor]] | None = None
    ):
        super().__init__(program.graph_module)
        self.edits = edits or {}
        self.values: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self.edits:
            value = self.edits[n.name](value)
        self.values[n.name] = value
        return value


def all_values(program: Program, inputs: tuple[Tensor, ...]) -> dict[str, Any]:
    """Every value of one forward pass, by node."""
    recorder = Recorder(program)
    with torch.no_grad():
        recorder.run(*inputs)
    return recorder.values


def run_with_edits(
    program: Program, inputs: tuple[Tensor, ...], edits: dict[str, Callable[[Tensor], Tensor]]
) -> Tensor:
    """The output of a whole run in which some values are exchanged on the way."""
    with torch.no_grad():
        return Recorder(program, edits).run(*inputs)


def measured_peak(program: Program, inputs: tuple[Tensor, ...]) -> int:
    """Most bytes alive at once: real storages of whatever torch's interpreter still holds.

    A storage counts once, however many values look at it. Inputs and parameters do not count.
    """
    weights = program.graph_module.state_dict(keep_vars=True).values()
    others = [getattr_path(program.graph_module, str(n.target)) for n in constants(program)]
    given = {t.untyped_storage().data_ptr() for t in [*inputs, *weights, *others]}
    sizes: list[int] = []

    class Watcher(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n.op == "call_function":
                held: dict[int, int] = {}
                for kept in [*self.env.values(), value]:
                    for tensor in kept if isinstance(kept, tuple | list) else [kept]:
                        if isinstance(tensor, Tensor):
                            storage = tensor.untyped_storage()
                            held[storage.data_ptr()] = storage.nbytes()
                sizes.append(sum(b for address, b in held.items() if address not in given))
            return value

    with torch.no_grad():
        Watcher(program.graph_module).run(*inputs)
    return max(sizes)


def constants(program: Program) -> list[fx.Node]:
    """The nodes that read parameters and buffers."""
    return [node for node in program.graph_module.graph.nodes if node.op == "get_attr"]


def getattr_path(module: Any, path: str) -> Any:
    """A dotted attribute."""
    for part in path.split("."):
        module = getattr(module, part)
    return module
