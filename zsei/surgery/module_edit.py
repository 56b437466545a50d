"""Edits of a model of the user's own class, as data that can be saved and replayed."""

import copy
from collections.abc import Iterable
from typing import Any

from torch import nn

from zsei.errors import SurgeryRefused
from zsei.records import Record
from zsei.surgery.new_modules import Factorised, Projection, Replaced, with_new_modules
from zsei.surgery.resize import keep

NUMBERS = ("layer_idx", "layer_id", "layer_number")
"""Attributes in which a layer keeps its own place in the list."""


class TensorCut(Record):
    """What goes of one parameter or buffer."""

    name: str
    """Of the parameter or buffer."""
    axis: int
    """Along which entries go."""
    removed: tuple[int, ...]
    """Numbers of the entries along that axis, before anything of it went."""


class Attribute(Record):
    """A plain integer a module reads."""

    module: str
    """Path of the module."""
    name: str
    """Of the attribute, such as `out_features`."""
    value: int
    """Its new value."""


class ConfigValue(Record):
    """A value of the model's config."""

    name: str
    """Of the value, such as `intermediate_size`."""
    old: int | tuple[int, ...] | tuple[str, ...] | None
    """What it is where it is to be changed; left alone elsewhere."""
    new: int | tuple[int, ...] | tuple[str, ...]
    """What it becomes."""


class ModuleEdit(Record):
    """Edits of a model of the user's own class, as data that can be saved and replayed."""

    cuts: tuple[TensorCut, ...] = ()
    """Entries of parameters and buffers that go."""
    dropped: tuple[str, ...] = ()
    """Paths of removed layers, e.g. `encoder.layer.3`."""
    attributes: tuple[Attribute, ...] = ()
    """Integers that follow from them."""
    config: tuple[ConfigValue, ...] = ()
    """Values of the model's config that follow from them."""
    factorised: tuple[Factorised, ...] = ()
    replaced: tuple[Replaced, ...] = ()
    """These two come first: what is cut may be a part of what they bring."""


def apply_module_edit(model: nn.Module, edit: ModuleEdit) -> nn.Module:
    """A copy of the model with the edit done; the model itself is not touched.

    Raises:
        SurgeryRefused: When the model has no such parameter, module or layer.
    """
    model = with_new_modules(model, edit.factorised, edit.replaced)
    memo: dict[int, Any] = {}
    by_name = dict(model.named_parameters(remove_duplicate=False))
    by_name |= dict(model.named_buffers(remove_duplicate=False))
    gone: dict[str, dict[int, tuple[int, ...]]] = {}
    for cut in edit.cuts:
        gone.setdefault(cut.name, {})[cut.axis] = cut.removed
    for name, entries in gone.items():
        if name not in by_name:
            raise SurgeryRefused(
                f"The model has no parameter `{name}`; is it the model the edit was made for?"
            )
        tensor = by_name[name]
        left = keep(tensor.detach(), entries).clone()
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(left, tensor.requires_grad) if is_parameter else left
    edited = copy.deepcopy(model, memo)
    for attribute in edit.attributes:
        setattr(edited.get_submodule(attribute.module), attribute.name, attribute.value)
    _drop_layers(edited, edit.dropped)
    _number_again(edited, {layer.module.rpartition(".")[0] for layer in edit.replaced})
    for config in configs_of(edited):
        change_config(config, edit.config)
    return edited


def layer_number(path: str) -> int:
    """The place of a layer in its list: 3 for `encoder.layer.3`."""
    return int(path.rpartition(".")[2])


def _drop_layers(model: nn.Module, paths: Iterable[str]) -> None:
    lists: dict[str, list[int]] = {}
    for path in paths:
        lists.setdefault(path.rpartition(".")[0], []).append(layer_number(path))
    for path, numbers in lists.items():
        layers = model.get_submodule(path)
        assert isinstance(layers, nn.ModuleList | nn.Sequential)
        for number in sorted(numbers, reverse=True):
            del layers[number]
        for place, layer in enumerate(layers):
            for module in layer.modules():
                for name in NUMBERS:
                    if isinstance(module.__dict__.get(name), int):
                        setattr(module, name, place)


def _number_again(model: nn.Module, paths: Iterable[str]) -> None:
    """Number the layers of lists in which some became maps, so that their caches leave no gap."""
    for path in sorted(paths):
        layers = [m for m in model.get_submodule(path).children() if not isinstance(m, Projection)]
        for place, layer in enumerate(layers):
            for module in layer.modules():
                for name in NUMBERS:
                    if isinstance(module.__dict__.get(name), int):
                        setattr(module, name, place)


def configs_of(model: nn.Module) -> list[Any]:
    """Every config that a module of the model holds, each once."""
    return list({id(m.config): m.config for m in model.modules() if hasattr(m, "config")}.values())


def change_config(config: Any, values: Iterable[ConfigValue]) -> None:
    """Set those values of a config that are still the old ones."""
    for value in values:
        known = getattr(config, value.name, None)
        if (tuple(known) if isinstance(known, list) else known) == value.old:
            new = list(value.new) if isinstance(value.new, tuple) else value.new
            setattr(config, value.name, new)
