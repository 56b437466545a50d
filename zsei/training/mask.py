"""Holds what should go at zero instead of taking it out: shapes stay, the outputs are the same.

Letters: w a parameter, i its entries that are held.
"""

from collections.abc import Iterable, Iterator, Mapping, MutableMapping, MutableSequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from zsei.checkpoint.contracts import TensorMask
from zsei.errors import SurgeryRefused
from zsei.training.averages import in_order
from zsei.training.cut import Gone, check_entries
from zsei.training.optimizer import matching

Masks = Mapping[str, Gone]
"""Parameter or buffer -> axis -> entries that are held at zero."""


@dataclass(eq=False, kw_only=True)
class Held:
    """Entries that are held at zero until they are released."""

    model: nn.Module
    masks: Masks
    failed: str = ""
    """Why they are not held any more, where they could not be."""
    _handles: list[Any] = field(default_factory=list)

    def release(self) -> None:
        """Let them be trained again; they begin at zero."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def after_step(self, optimizer: torch.optim.Optimizer, _args: Any, _kwargs: Any) -> None:
        """The optimizer's hook."""
        try:
            _zero_model(self.model, self.masks)
            _zero_state(self.model, optimizer, self.masks)
        except (AttributeError, KeyError, IndexError, RuntimeError) as error:
            # The model was changed under us. Training must not end because of it.
            self.failed = f"{type(error).__name__}: {error}"
            self.release()


def as_masks(model: nn.Module, masks: Iterable[TensorMask]) -> Masks:
    """Masks by tensor and axis.

    Raises:
        SurgeryRefused: The model has no such tensor, or not those entries.
    """
    tensors = _tensors(model)
    found: dict[str, dict[int, tuple[int, ...]]] = {}
    for mask in masks:
        if mask.name not in tensors:
            raise SurgeryRefused(
                f"The model has no parameter `{mask.name}`; is it the model the masks were made "
                "for?"
            )
        check_entries(mask.name, tensors[mask.name], {mask.axis: mask.removed}, some_left=False)
        axes = found.setdefault(mask.name, {})
        axes[mask.axis] = tuple(sorted({*axes.get(mask.axis, ()), *mask.removed}))
    return found


def hold_at_zero(
    model: nn.Module,
    optimizers: Iterable[torch.optim.Optimizer],
    masks: Masks,
    averages: Iterable[Any] = (),
) -> Held:
    """Set entries to zero, in the weights, their gradients, the optimizers' memory and averages,
    and hold the weights and the memory there after every step.

    Factored second moments (Adafactor) have no entry for a single weight and stay. The hooks are
    no part of an optimizer's state dict, nor of its pickle.

    Raises:
        SurgeryRefused: An average is of no form that is known; nothing is changed.
    """
    optimizers = tuple(optimizers)
    copies = [pair for average in averages for pair in _in_average(average, model, masks)]
    held = Held(model=model, masks=masks)
    _zero_model(model, masks)
    for tensor, gone in copies:
        _zero(tensor, gone)
    for optimizer in optimizers:
        _zero_state(model, optimizer, masks)
        held._handles.append(optimizer.register_step_post_hook(held.after_step))
    return held


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    found: dict[str, Tensor] = dict(model.named_parameters(remove_duplicate=False))
    return found | dict(model.named_buffers(remove_duplicate=False))


@torch.no_grad()
def _zero(tensor: Tensor, gone: Gone) -> None:
    for axis, entries in gone.items():
        tensor.index_fill_(axis, torch.tensor(entries, device=tensor.device), 0)


def _zero_model(model: nn.Module, masks: Masks) -> None:
    tensors = _tensors(model)
    for name, gone in masks.items():
        tensor = tensors[name]
        _zero(tensor, gone)
        if tensor.grad is not None:
            _zero(tensor.grad, gone)


def _zero_state(model: nn.Module, optimizer: torch.optim.Optimizer, masks: Masks) -> None:
    tensors = _tensors(model)
    for name, gone in masks.items():
        parameter = tensors[name]
        for key, value in optimizer.state.get(parameter, {}).items():
            whole = isinstance(value, Tensor) and value.shape == parameter.shape
            if whole and matching(key, value, parameter, gone) is not None:
                _zero(value, gone)


def _in_average(average: Any, model: nn.Module, masks: Masks) -> Iterator[tuple[Tensor, Gone]]:
    own = _tensors(model)
    known: Mapping[str, Tensor]
    if isinstance(average, nn.Module):
        known = _tensors(average.module if isinstance(average, AveragedModel) else average)
    elif isinstance(average, MutableMapping):
        known = average
    elif isinstance(average, MutableSequence):
        places = {id(p): held for held, p in zip(average, in_order(average, model), strict=True)}
        known = {name: places[id(p)] for name, p in own.items() if id(p) in places}
    else:
        raise SurgeryRefused(
            f"An average of the weights is a module, a dictionary by name or a list; this one is "
            f"{type(average).__name__}. Give what it holds (such as its `shadow_params`)."
        )
    for name, gone in masks.items():
        if name in known:
            check_entries(name, known[name], gone, some_left=False)
            yield known[name], gone
