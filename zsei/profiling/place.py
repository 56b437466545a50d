"""Puts what is profiled on its device: the batch, the model, the exported program."""

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from zsei.errors import DeviceError
from zsei.subject.program import Program, frozen_twin
from zsei.subject.types import Batch, Subject
from zsei.timing.device import Device


def on_device(subject: Subject, device: Device) -> tuple[Subject, Batch]:
    """The subject with model and program on the device, and its first calibration batch there.

    On the CPU the subject is given back as it is. Anatomy and data of the subject do not move.

    Raises:
        DeviceError: The model does not fit on the device.
    """
    batch = subject.calibration[0]
    if device.torch.type == "cpu":
        return subject, batch
    try:
        program = None if subject.program is None else program_on(subject.program, device.torch)
        model = frozen_twin(subject.model).to(device.torch)
        inputs = tuple(tensor.to(device.torch) for tensor in batch.inputs)
    except torch.OutOfMemoryError as error:
        raise DeviceError(
            f"The model must fit on the device; {device.name} has too little memory for it. Use "
            f"--device cpu."
        ) from error
    return replace(subject, model=model, program=program), replace(batch, inputs=inputs)


def program_on(program: Program, place: torch.device) -> Program:
    """A copy of the program whose constants lie, and whose calls make their values, there.

    Export wrote the device it saw into calls that make tensors (`arange(..., device=cpu)`).
    """
    before = program.graph_module
    root = nn.Module()
    for node in before.graph.nodes:
        if node.op == "get_attr":
            _put(root, str(node.target), _moved(_read(before, str(node.target)), place))
    graph = fx.Graph()
    output = graph.graph_copy(before.graph, {})
    # A program gives one tensor; export wraps it in a tuple that its own code unwraps again.
    graph.output(output[0] if isinstance(output, list | tuple) else output)
    for node in graph.nodes:
        node.args = tuple(_there(argument, place) for argument in node.args)
        node.kwargs = {key: _there(value, place) for key, value in node.kwargs.items()}
    return replace(program, graph_module=fx.GraphModule(root, graph))


def _there(argument: Any, place: torch.device) -> Any:
    return place if isinstance(argument, torch.device) else argument


def _read(module: nn.Module, path: str) -> Any:
    found: Any = module
    for part in path.split("."):
        found = getattr(found, part)
    return found


def _moved(value: Any, place: torch.device) -> Any:
    return value.detach().to(place) if isinstance(value, Tensor) else copy.deepcopy(value)


def _put(root: nn.Module, path: str, value: Any) -> None:
    """Set an attribute under a dotted path, making the modules on the way."""
    *way, last = path.split(".")
    module: Any = root
    for part in way:
        if not hasattr(module, part):
            module.add_module(part, nn.Module())
        module = getattr(module, part)
    if isinstance(value, Tensor):
        module.register_buffer(last, value)
    else:
        setattr(module, last, value)
