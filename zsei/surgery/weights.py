"""New values for parameters of an edited model: what repairs, merges and fits have computed."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from zsei.errors import SurgeryRefused
from zsei.subject.program import Program, strip_prefix
from zsei.surgery.calls import tensor_of

Weights = Mapping[str, Tensor]
"""Name of a parameter in the user's model -> its new value, shaped as the edit leaves it."""


def under_read_names(weights: Weights, model: nn.Module, program: Program) -> dict[str, Tensor]:
    """The values under the names that a program reads, where several names are one parameter.

    Args:
        weights: New values, under any of the tied names.
        model: The user's model, which says what is tied.
        program: Its program, which reads a tied parameter under one of its names.

    Raises:
        SurgeryRefused: When two names of one parameter are given different values.
    """
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    tied = {name: own for own in names.values() for name in own if len(own) > 1}
    nodes = program.graph_module.graph.nodes
    read = {strip_prefix(str(node.target)) for node in nodes if node.op == "get_attr"}
    found: dict[str, Tensor] = {}
    given: dict[str, str] = {}
    for name, value in weights.items():
        target = next((other for other in tied.get(name, ()) if other in read), name)
        if target in found and not torch.equal(found[target], value):
            raise SurgeryRefused(
                f"`{given[target]}` and `{name}` are one parameter (tied weights), and their new "
                f"values differ. Give it one value, or untie the two in the model first."
            )
        found[target] = value
        given.setdefault(target, name)
    return found


def put_in_program(program: Program, weights: Weights) -> Program:
    """The program with new values; `program` is one of our own copies and is changed.

    Tied names change together, as they do in the model.

    Raises:
        SurgeryRefused: When the program reads no such parameter, or one of another shape.
    """
    module = program.graph_module
    reads = [node for node in module.graph.nodes if node.op == "get_attr"]
    by_target = {str(node.target): node for node in reads}
    for name, value in weights.items():
        target = f"model.{name}"
        if target not in by_target:
            raise SurgeryRefused(f"The edited program reads no parameter `{name}`.")
        old = tensor_of(module, by_target[target])
        new = _fitting(name, old, value)
        for other in {str(node.target) for node in reads if tensor_of(module, node) is old}:
            path, _, leaf = other.rpartition(".")
            setattr(module.get_submodule(path), leaf, new)
    return program


def put_in_module(model: nn.Module, weights: Weights) -> nn.Module:
    """The model with new values; `model` is one of our own copies and is changed.

    Raises:
        SurgeryRefused: When the model has no such parameter, or one of another shape.
    """
    known = dict(model.named_parameters(remove_duplicate=False))
    for name, value in weights.items():
        if name not in known:
            raise SurgeryRefused(f"{type(model).__name__} has no parameter `{name}`.")
        new = _fitting(name, known[name], value)
        for other in [key for key, old in known.items() if old is known[name]]:
            path, _, leaf = other.rpartition(".")
            setattr(model.get_submodule(path), leaf, new)
            known[other] = new
    return model


def _fitting(name: str, old: Tensor, value: Tensor) -> nn.Parameter:
    if old.shape != value.shape:
        raise SurgeryRefused(
            f"`{name}` is {list(old.shape)} after the edit; its new value is {list(value.shape)}."
        )
    # A new parameter: the old one may share its storage with the user's model.
    return nn.Parameter(value.detach().to(old.dtype).clone(), old.requires_grad)
