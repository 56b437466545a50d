"""Cuts a model in place, while it is being trained.

`prepare_cut` works out what every tensor, integer, list of layers and config becomes, and touches
nothing; carrying out its changes makes the model smaller. The module objects stay the same, so all
that holds them goes on; a parameter that is cut becomes a new one (a graph of the step before may
still know the old one by its shape), so a list of parameters that was made by hand is made again.

Letters: t old tensor, g the entries of it that go, by axis.
"""

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from zsei.errors import SurgeryRefused
from zsei.surgery.module_edit import (
    NUMBERS,
    ModuleEdit,
    change_config,
    configs_of,
    layer_number,
)
from zsei.surgery.resize import keep
from zsei.training.changes import Change, Contents, Entries

Gone = Mapping[int, tuple[int, ...]]
"""Axis -> entries that go, rising."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Left:
    """What a cut leaves of one tensor."""

    name: str
    """Its first one in the model before the cut."""
    old: Tensor
    new: Tensor | None
    """None: it goes with its layer."""
    gone: Gone


@dataclass(frozen=True, kw_only=True, eq=False)
class Cut:
    """A cut of a model that is prepared and not carried out yet."""

    changes: tuple[Change, ...]
    """Of the model alone."""
    tensors: dict[int, Left]
    """id of each parameter and buffer that does not stay as it is -> what is left."""
    names: dict[str, str | None]
    """Parameter or buffer, tied names too -> its name after the cut; None: gone with its layer."""


def prepare_cut(model: nn.Module, edit: ModuleEdit) -> Cut:
    """Work out the smaller model; neither the model nor its gradients are touched.

    Every tensor is cut under all of its (tied) names; a gradient is cut with its parameter.

    Raises:
        SurgeryRefused: The model has no such parameter, entry, integer or layer, nothing would be
            left of a parameter, or a parameter is of a kind that cannot be replaced.
    """
    if edit.factorised or edit.replaced:
        raise SurgeryRefused(
            "A model in training loses units and layers only; this edit brings new modules, whose "
            "weights do not come with it. Apply it to a copy (`zsei apply`)."
        )
    by_name = dict(model.named_parameters(remove_duplicate=False))
    by_name |= dict(model.named_buffers(remove_duplicate=False))
    lists = _shortened(model, edit.dropped)
    names = {name: _renamed(name, lists) for name in by_name}
    staying = {id(by_name[name]) for name, new in names.items() if new is not None}
    tensors: dict[int, Left] = {}
    for name, tensor in by_name.items():
        if id(tensor) not in staying:
            tensors.setdefault(id(tensor), Left(name=name, old=tensor, new=None, gone={}))
    for name, gone in _entries(edit).items():
        tensor = _tensor(by_name, name)
        known = tensors.get(id(tensor))
        if known is not None and known.new is not None and known.gone != gone:
            raise SurgeryRefused(
                f"`{known.name}` and `{name}` are one parameter (tied weights), and different "
                "entries of the two should go."
            )
        if known is None:
            new = _smaller(name, tensor, gone)
            tensors[id(tensor)] = Left(name=name, old=tensor, new=new, gone=gone)
    changes = (*_in_modules(model, edit, lists, tensors), *_in_configs(model, edit))
    return Cut(changes=changes, tensors=tensors, names=names)


def _entries(edit: ModuleEdit) -> dict[str, dict[int, tuple[int, ...]]]:
    found: dict[str, dict[int, tuple[int, ...]]] = {}
    for cut in edit.cuts:
        axes = found.setdefault(cut.name, {})
        axes[cut.axis] = tuple(sorted({*axes.get(cut.axis, ()), *cut.removed}))
    return found


def _tensor(by_name: dict[str, Tensor], name: str) -> Tensor:
    if name not in by_name:
        raise SurgeryRefused(
            f"The model has no parameter `{name}`; is it the model the edit was made for?"
        )
    return by_name[name]


def check_entries(name: str, tensor: Tensor, gone: Gone, *, some_left: bool = True) -> None:
    """Refuse entries that a tensor does not have.

    Raises:
        SurgeryRefused: Naming the tensor, its shape, and the entries.
    """
    for axis, removed in gone.items():
        fits = 0 <= axis < tensor.ndim and all(0 <= i < tensor.shape[axis] for i in removed)
        if not fits or (some_left and len(removed) >= tensor.shape[axis]):
            what = "all entries" if fits else "entries that are not there"
            raise SurgeryRefused(
                f"`{name}` is {list(tensor.shape)}, and {what} along its axis {axis} should go "
                f"({len(removed)}, from {min(removed, default=0)} to {max(removed, default=0)}); "
                "is it the model the edit was made for?"
            )


def _smaller(name: str, old: Tensor, gone: Gone) -> Tensor:
    check_entries(name, old, gone)
    if not isinstance(old, nn.Parameter):
        return keep(old.detach(), gone)
    hooked = old._backward_hooks or getattr(old, "_post_accumulate_grad_hooks", None)
    if type(old) is not nn.Parameter or hooked:
        what = "has hooks that would be lost" if hooked else f"is a {type(old).__name__}"
        raise SurgeryRefused(f"`{name}` cannot be replaced by a smaller parameter: it {what}.")
    with torch.no_grad():
        new = nn.Parameter(keep(old.detach(), gone), old.requires_grad)
        if old.grad is not None:
            new.grad = keep(old.grad.detach(), gone)
    vars(new).update(vars(old))  # marks that frameworks put on parameters
    return new


Lists = dict[str, tuple[nn.ModuleList | nn.Sequential, tuple[int, ...]]]
"""Path of a list of layers -> the list and the numbers that go."""


def _shortened(model: nn.Module, dropped: Iterable[str]) -> Lists:
    numbers: dict[str, list[int]] = {}
    for path in dropped:
        if not path.rpartition(".")[2].isdigit():
            raise SurgeryRefused(f"`{path}` is no entry of a list of layers.")
        numbers.setdefault(path.rpartition(".")[0], []).append(layer_number(path))
    found: Lists = {}
    for path, gone in numbers.items():
        try:
            layers = model.get_submodule(path)
        except AttributeError:
            layers = None
        if not isinstance(layers, nn.ModuleList | nn.Sequential) or max(gone) >= len(layers):
            raise SurgeryRefused(
                f"The model has no list of layers `{path}` with an entry {max(gone)}; is it the "
                "model the edit was made for?"
            )
        found[path] = layers, tuple(sorted(set(gone)))
    return found


def _renamed(name: str, lists: Lists) -> str | None:
    """The name of a tensor once layers have gone and the others have moved up."""
    path, new = "", []
    for part in name.split("."):
        own = part
        if path in lists and part.isdigit():
            gone = lists[path][1]
            if int(part) in gone:
                return None
            own = str(int(part) - sum(number < int(part) for number in gone))
        new.append(own)
        path = f"{path}.{part}" if path else part
    return ".".join(new)


def _in_modules(
    model: nn.Module, edit: ModuleEdit, lists: Lists, tensors: dict[int, Left]
) -> Iterator[Change]:
    plain: dict[int, dict[str, Any]] = {}
    for attribute in edit.attributes:
        module = _module(model, attribute.module)
        if attribute.name not in vars(module):
            raise SurgeryRefused(f"`{attribute.module}` has no number `{attribute.name}`.")
        plain.setdefault(id(module), {})[attribute.name] = attribute.value
    for layers, gone in lists.values():
        left = [layer for place, layer in enumerate(layers) if place not in gone]
        numbered = {str(place): layer for place, layer in enumerate(left)}
        yield Contents(place=layers._modules, content=numbered)
        for place, layer in enumerate(left):
            for module in layer.modules():
                own = {n: place for n in NUMBERS if isinstance(vars(module).get(n), int)}
                plain.setdefault(id(module), {}).update(own)
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            new = {n: _left(v, tensors) for n, v in held.items() if id(v) in tensors}
            if new:
                yield Entries(place=held, values=new)
        own = plain.get(id(module), {})
        for name, value in vars(module).items():
            # Some modules keep their parameters in a list beside (`nn.LSTM`).
            if isinstance(value, list) and any(id(each) in tensors for each in value):
                own[name] = [_left(each, tensors) for each in value]
        if own:
            yield Entries(place=vars(module), values=own)


def _left(value: Any, tensors: dict[int, Left]) -> Any:
    known = tensors.get(id(value))
    return value if known is None or known.new is None else known.new


def _module(model: nn.Module, path: str) -> nn.Module:
    try:
        return model.get_submodule(path)
    except AttributeError as error:
        raise SurgeryRefused(
            f"The model has no module `{path}`; is it the model the edit was made for?"
        ) from error


def _in_configs(model: nn.Module, edit: ModuleEdit) -> Iterator[Change]:
    if not edit.config:
        return
    for config in configs_of(model):
        changed = copy.copy(config)
        change_config(changed, edit.config)
        old = vars(config)
        new = {n: v for n, v in vars(changed).items() if n not in old or old[n] is not v}
        if new:
            yield Entries(place=old, values=new)
