"""A graph run on shapes alone: what it would give, without computing it."""

from typing import Any

import torch
from torch import fx
from torch._guards import detect_fake_mode
from torch._subclasses import FakeTensorMode

from zsei.errors import SurgeryRefused


class _ShapeRun(fx.Interpreter):
    """Runs a graph on shapes alone and notes each value's shape on its node."""

    def __init__(self, module: fx.GraphModule, mode: FakeTensorMode):
        super().__init__(module)
        self.mode = mode

    def get_attr(self, target: Any, args: Any, kwargs: Any) -> Any:
        tensor = super().get_attr(target, args, kwargs)
        return self.mode.from_tensor(tensor, static_shapes=True)

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.op != "output":
            n.meta["val"] = value
            n.meta.pop("tensor_meta", None)
        return value


def run_shapes(module: fx.GraphModule) -> None:
    """Note on every node of an edited graph, one of our own, what shape its value has.

    Raises:
        SurgeryRefused: With torch's reason, when the graph does not run.
    """
    inputs = [node.meta["val"] for node in module.graph.nodes if node.op == "placeholder"]
    mode = detect_fake_mode(inputs)
    if mode is None:
        mode = FakeTensorMode()
        inputs = [mode.from_tensor(value, static_shapes=True) for value in inputs]
    runner = _ShapeRun(module, mode)
    try:
        with mode, torch.no_grad():
            runner.run(*inputs, enable_io_processing=False)
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SurgeryRefused(
            f"The edited program does not run, so the edit is not made: {reason[:300]}"
        ) from error
