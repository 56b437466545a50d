"""A second way to make a model in training smaller: all of it built anew, by explicit indexing.

Slow and obvious: the module tree is copied, every parameter is rewritten by `np.delete`, layers are
listed again, and a new optimizer of the same class gets a state made the same way.
"""

import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from zsei.surgery.module_edit import ModuleEdit

FACTORS = {"exp_avg_sq_row": -1, "exp_avg_sq_col": -2}


def without(value: Tensor, gone: dict[int, tuple[int, ...]]) -> Tensor:
    found = value.detach().numpy().copy()
    for axis, removed in gone.items():
        found = np.delete(found, list(removed), axis=axis)
    return torch.from_numpy(np.ascontiguousarray(found))


def built_again(
    model: nn.Module, optimizer: torch.optim.Optimizer, edit: ModuleEdit
) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The smaller model and its optimizer; what is given is left as it is."""
    gone: dict[str, dict[int, tuple[int, ...]]] = {}
    for cut in edit.cuts:
        gone.setdefault(cut.name, {})[cut.axis] = cut.removed
    names: dict[int, list[str]] = {}
    for name, tensor in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(tensor), []).append(name)
    smaller = copy.deepcopy(model)
    parameter_of: dict[int, nn.Parameter] = {}  # of the old model -> in the new one
    for own in names.values():
        old = model.get_parameter(own[0])
        axes = next((gone[name] for name in own if name in gone), {})
        new = nn.Parameter(without(old, axes), old.requires_grad)
        if old.grad is not None:
            new.grad = without(old.grad, axes)
        parameter_of[id(old)] = new
        for name in own:
            path, _, leaf = name.rpartition(".")
            setattr(smaller.get_submodule(path), leaf, new)
    for name, value in model.named_buffers():
        if name in gone:
            path, _, leaf = name.rpartition(".")
            smaller.get_submodule(path).register_buffer(leaf, without(value, gone[name]))
    _told(smaller, edit)
    return smaller, _optimizer(model, smaller, optimizer, parameter_of, gone, names)


def _told(smaller: nn.Module, edit: ModuleEdit) -> None:
    """The integers, lists of layers and config of the smaller model."""
    for attribute in edit.attributes:
        setattr(smaller.get_submodule(attribute.module), attribute.name, attribute.value)
    for path in edit.dropped:
        parent, _, number = path.rpartition(".")
        layers: Any = smaller.get_submodule(parent)
        left = [layer for place, layer in enumerate(layers) if place != int(number)]
        for place, layer in enumerate(left):
            for part in layer.modules():
                if "layer_idx" in vars(part):
                    part.layer_idx = place
        above, _, leaf = parent.rpartition(".")
        setattr(smaller.get_submodule(above), leaf, type(layers)(left)
                if isinstance(layers, nn.ModuleList) else nn.Sequential(*left))  # fmt: skip
    for value in edit.config:
        new_value = list(value.new) if isinstance(value.new, tuple) else value.new
        setattr(smaller.config, value.name, new_value)


def _optimizer(
    model: nn.Module, smaller: nn.Module, optimizer: torch.optim.Optimizer,
    parameter_of: dict[int, nn.Parameter], gone: Any, names: dict[int, list[str]],
) -> torch.optim.Optimizer:  # fmt: skip
    there = {id(p) for p in smaller.parameters()}
    groups = []
    for group in optimizer.param_groups:
        new = [parameter_of[id(p)] for p in group["params"]]
        hyper = {k: v for k, v in group.items() if k not in ("params", "param_names")}
        groups.append(hyper | {"params": [p for p in new if id(p) in there]})
    given = {
        k: v
        for k, v in optimizer.defaults.items()
        if k not in ("differentiable", "decoupled_weight_decay")
    }
    made: torch.optim.Optimizer = type(optimizer)(groups, **given)  # type: ignore[call-arg]
    for group, own in zip(made.param_groups, groups, strict=True):
        group.update({k: v for k, v in own.items() if k != "params"})
    for old, state in optimizer.state.items():
        axes = next((gone[name] for name in names[id(old)] if name in gone), {})
        if id(parameter_of[id(old)]) not in there:
            continue
        made.state[parameter_of[id(old)]] = {
            key: _state(key, value, old, axes) for key, value in state.items()
        }
    return made


def _state(key: str, value: Any, parameter: Tensor, axes: dict[int, tuple[int, ...]]) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.shape == parameter.shape:
        return without(value, axes)
    if value.ndim == 0:
        return value.clone()
    if key in FACTORS:
        lost = parameter.ndim + FACTORS[key]
        return without(value, {a - (a > lost): g for a, g in axes.items() if a != lost})
    if key in ("row_var", "col_var"):
        lost = parameter.ndim - (1 if key == "row_var" else 2)
        return without(value, {a: g for a, g in axes.items() if a != lost})
    raise AssertionError(f"{key}: {value.shape} of {parameter.shape}")
