"""Cuts an optimizer's memory of its parameters as these are cut.

Letters: w old parameter, s a tensor of its state, g the entries of w that go, by axis.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from zsei.errors import SurgeryRefused
from zsei.surgery.resize import keep
from zsei.training.changes import Change, Contents, Entries
from zsei.training.cut import Cut, Gone, Left

_WITHOUT = {"exp_avg_sq_row": -1, "exp_avg_sq_col": -2}
"""Means over one axis, which is left out of their shape: the factors of transformers' Adafactor.
Its name decides, since the shape of the two is the same for a square weight."""


def plain(optimizer: Any) -> torch.optim.Optimizer:
    """The optimizer inside the wrappers of accelerate and Lightning."""
    while isinstance(inner := getattr(optimizer, "optimizer", None), torch.optim.Optimizer):
        optimizer = inner
    return optimizer


def cut_optimizer(optimizer: torch.optim.Optimizer, cut: Cut) -> Iterator[Change]:
    """What changes in an optimizer when its parameters are cut; it is only read.

    Parameters are replaced where they stand in their groups, so that groups, their order and their
    hyperparameters stay, and schedulers of the learning rate with them; those of removed layers
    leave, and a group may become empty. Of a parameter's state

    - a tensor of the parameter's shape is cut like it (`exp_avg`, `momentum_buffer`, ...);
    - one with as many axes, some of size 1, is cut along the others (factors of torch's Adafactor);
    - a mean over one axis, by name (factors of transformers' Adafactor), along those it has;
    - numbers and tensors of one entry stay (`step`).

    Raises:
        SurgeryRefused: The state of a parameter that is cut holds anything else; LBFGS, whose
            memory is of all parameters at once; or a parameter is held outside of the groups.
    """
    kind = type(optimizer).__name__
    held = {id(p): p for group in optimizer.param_groups for p in group["params"]}
    if not held.keys() & cut.tensors.keys():
        return
    if isinstance(optimizer, torch.optim.LBFGS):
        raise SurgeryRefused(
            "LBFGS remembers steps of all parameters as one vector, which cannot be cut; begin "
            "with a new optimizer after the cut, or use one that remembers by parameter."
        )
    for name, value in vars(optimizer).items():
        values = value if isinstance(value, list | tuple) else (value,)
        if any(id(each) in cut.tensors for each in values):
            raise SurgeryRefused(
                f"{kind} holds parameters outside of its groups (`{name}`), which would stay old."
            )
    for group in optimizer.param_groups:
        yield from _in_group(group, cut)
    new_state: dict[Any, Any] = {}
    for parameter, state in optimizer.state.items():
        left = cut.tensors.get(id(parameter))
        if left is None:
            new_state[parameter] = state
        elif left.new is not None:
            new_state[left.new] = _cut_state(state, left, kind)
    yield Contents(place=optimizer.state, content=new_state)


def _in_group(group: dict[str, Any], cut: Cut) -> Iterator[Change]:
    left = [cut.tensors.get(id(parameter)) for parameter in group["params"]]
    pairs = zip(group["params"], left, strict=True)
    new = [p if own is None else own.new for p, own in pairs]
    yield Entries(place=group, values={"params": [p for p in new if p is not None]})
    names = group.get("param_names")
    if names is not None:
        # As the caller gave them; those that are the model's own names follow its layers.
        known = [cut.names.get(name) or name for name in names]
        stay = [name for name, p in zip(known, new, strict=True) if p is not None]
        yield Entries(place=group, values={"param_names": stay})


def _cut_state(state: dict[str, Any], left: Left, kind: str) -> dict[str, Any]:
    return {key: _cut_value(key, value, left, kind) for key, value in state.items()}


def _cut_value(key: str, value: Any, left: Left, kind: str) -> Any:
    if not isinstance(value, Tensor):
        if value is None or isinstance(value, int | float | str | bool):
            return value
        raise SurgeryRefused(
            f"{kind} keeps `{key}` of `{left.name}` as {type(value).__name__}, and what of it "
            "belongs to the entries that go is not known. Nothing was cut."
        )
    gone = matching(key, value, left.old, left.gone)
    if gone is None:
        raise SurgeryRefused(
            f"{kind} keeps `{key}` of `{left.name}` with the shape {list(value.shape)}, the "
            f"parameter is {list(left.old.shape)}, and how the one follows from the other is not "
            "known. Nothing was cut; begin with a new optimizer, or observe only."
        )
    # Nothing is shared with the old state, which a rollback brings back as it was.
    return keep(value, gone) if gone else value.clone()


def matching(key: str, value: Tensor, parameter: Tensor, gone: Gone) -> Gone | None:
    """Which entries of a state tensor belong to those of its parameter; None where that is unknown.

    Args:
        key: Name in the state.
        value: s.
        parameter: w.
        gone: g.
    """
    if value.shape == parameter.shape:
        return dict(gone)
    missing = _WITHOUT.get(key)
    if missing is not None and parameter.ndim >= 2:
        without = missing % parameter.ndim
        sizes = [size for axis, size in enumerate(parameter.shape) if axis != without]
        if list(value.shape) == sizes:
            return {a - (a > without): own for a, own in gone.items() if a != without}
    if value.numel() == 1:
        return {}
    sizes = zip(value.shape, parameter.shape, strict=False)
    if value.ndim == parameter.ndim and all(a in (1, b) for a, b in sizes):
        return {axis: own for axis, own in gone.items() if value.shape[axis] != 1}
    return None


def check_complete(cut: Cut, optimizers: Iterable[torch.optim.Optimizer]) -> None:
    """Refuse a cut of parameters that train, but in none of the optimizers that are known.

    Raises:
        SurgeryRefused: Naming the first of them.
    """
    optimizers = tuple(optimizers)
    held = {id(p) for o in optimizers for group in o.param_groups for p in group["params"]}
    for left in cut.tensors.values():
        parameter = left.old
        trains = isinstance(parameter, nn.Parameter) and parameter.requires_grad
        if optimizers and trains and id(parameter) not in held:
            raise SurgeryRefused(
                f"`{left.name}` should be cut and is trained, but by none of the optimizers that "
                "were given; another one would go on with the old weights. Give all optimizers."
            )
